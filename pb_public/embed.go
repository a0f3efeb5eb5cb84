// Package pbpublic owns the customer's web app as the panel serves it: the built files, embedded,
// and the headers they go out with. The sources beside it are built by `npm run build` into dist/.
//
// It refuses to know of the API, of sessions and of who is asking: every visitor gets the same bytes.
// It serves no directory listing and nothing from outside dist/.
//
// Its one invariant: a file under /assets/ never changes under its name (its name holds its hash), so
// it is cached for ever; everything else is asked for again each time, so a new release is seen at the
// next load.
package pbpublic

import (
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"
)

//go:embed all:dist
var dist embed.FS

// FS holds the built app at its root: index.html and assets/, or fallback.html alone when the app
// was not built before the binary.
var FS = mustSub(dist, "dist")

func mustSub(f fs.FS, dir string) fs.FS {
	sub, err := fs.Sub(f, dir)
	if err != nil {
		panic(err) // dir is a constant that go:embed has checked
	}
	return sub
}

// Built reports whether the app itself is in this binary.
func Built() bool {
	_, err := fs.Stat(FS, "index.html")
	return err == nil
}

// Serve answers GET and HEAD with the embedded app. Paths without a file, and without a dot in their
// last part, are pages of the app and get index.html; a missing file is 404. Compressed copies made
// at build time are sent to who accepts them.
func Serve() http.Handler {
	s, err := load(FS)
	if err != nil {
		panic(err) // embedded files can be read, or the binary is broken
	}
	return s
}

// site is the app as it lies in the binary: nothing of it is copied into memory. Immutable after load.
type site struct {
	from  fs.FS
	tags  map[string]func() (string, error) // by file: its ETag, computed when it is first asked for
	pages []string                          // what answers a page's path, the first that exists
}

// load lists the files. The errors are the file system's.
func load(from fs.FS) (*site, error) {
	s := &site{from: from, tags: map[string]func() (string, error){}, pages: []string{"index.html", "fallback.html"}}
	err := fs.WalkDir(from, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		s.tags[name] = sync.OnceValues(func() (string, error) { return s.tag(name) })
		return nil
	})
	return s, err
}

// seekable is what embedded files are.
type seekable interface {
	fs.File
	io.Seeker
}

// open returns a file to read and to seek in. The caller closes it.
func (s *site) open(name string) (seekable, error) {
	f, err := s.from.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open web app file %s: %w", name, err)
	}
	seeker, ok := f.(seekable)
	if !ok {
		return nil, errors.Join(fmt.Errorf("web app file %s: %T cannot seek", name, f), f.Close())
	}
	return seeker, nil
}

// tag is a strong ETag: of exactly these bytes.
func (s *site) tag(name string) (string, error) {
	f, err := s.open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read web app file %s: %w", name, err)
	}
	return fmt.Sprintf(`"%x"`, h.Sum(nil)), nil
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protect(w.Header(), r.Host)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "This page can only be read.", http.StatusMethodNotAllowed)
		return
	}
	name, ok := s.resolve(r.URL.Path)
	if !ok {
		w.Header().Set("Cache-Control", "no-store")
		http.Error(w, "There is no such file.", http.StatusNotFound)
		return
	}
	s.send(w, r, name)
}

// resolve finds the file that answers a path.
func (s *site) resolve(urlPath string) (name string, ok bool) {
	name = strings.TrimPrefix(path.Clean("/"+urlPath), "/")
	if _, ok = s.tags[name]; ok && !compressed(name) {
		return name, true
	}
	if strings.HasPrefix(name, "assets/") || strings.Contains(path.Base("/"+name), ".") {
		return "", false
	}
	for _, page := range s.pages {
		if _, ok = s.tags[page]; ok {
			return page, true
		}
	}
	return "", false
}

func compressed(name string) bool {
	return strings.HasSuffix(name, ".br") || strings.HasSuffix(name, ".gz")
}

// encodings are the compressed copies in the order of our liking.
var encodings = []struct{ name, suffix string }{{"br", ".br"}, {"gzip", ".gz"}}

func (s *site) send(w http.ResponseWriter, r *http.Request, name string) {
	h := w.Header()
	h.Set("Content-Type", contentType(name))
	if strings.HasPrefix(name, "assets/") {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	chosen := name
	for _, e := range encodings {
		packed := name + e.suffix
		if _, ok := s.tags[packed]; !ok {
			continue
		}
		h.Set("Vary", "Accept-Encoding")
		if h.Get("Content-Encoding") == "" && accepts(r.Header.Get("Accept-Encoding"), e.name) {
			chosen = packed
			h.Set("Content-Encoding", e.name)
			// A compressed copy is whole or not at all: ranges are for the plain bytes.
			r = r.Clone(r.Context())
			r.Header.Del("Range")
		}
	}
	body, err := s.open(chosen)
	if err != nil {
		http.Error(w, "This file cannot be read.", http.StatusInternalServerError)
		return
	}
	defer body.Close()
	tag, err := s.tags[chosen]()
	if err != nil {
		http.Error(w, "This file cannot be read.", http.StatusInternalServerError)
		return
	}
	h.Set("ETag", tag)
	http.ServeContent(w, r, name, time.Time{}, body)
}

// contentType of a name, with what systems without a mime table do not know.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".woff2":
		return "font/woff2"
	case ".svg":
		return "image/svg+xml"
	case ".txt":
		return "text/plain; charset=utf-8"
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

// refused is a weight of zero: the visitor does not want the coding.
var refused = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^q=0(\.0{0,3})?$`)
})

// accepts reports whether an Accept-Encoding header (RFC 9110, 12.5.3) allows a coding by name.
func accepts(header, coding string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if !strings.EqualFold(strings.TrimSpace(name), coding) {
			continue
		}
		q := strings.ReplaceAll(strings.ToLower(params), " ", "")
		return !refused().MatchString(q)
	}
	return false
}

// plainHost is what may be named in the policy: the Host header is the visitor's word.
var plainHost = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$`)
})

// protect sets what the browser may do with the page. Styles may be inline because Mantine and xterm
// set them on elements; scripts may not. Sockets to the page's own host are named because older
// browsers do not count them as 'self'.
func protect(h http.Header, host string) {
	connect := "'self'"
	if plainHost().MatchString(host) {
		connect = fmt.Sprintf("'self' ws://%[1]s wss://%[1]s", host)
	}
	h.Set("Content-Security-Policy", "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "+
		"img-src 'self' data: blob:; font-src 'self'; connect-src "+connect+"; object-src 'none'; "+
		"worker-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=()")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}
