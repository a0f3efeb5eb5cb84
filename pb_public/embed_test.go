package pbpublic

import (
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func built() fstest.MapFS {
	return fstest.MapFS{
		"index.html":                &fstest.MapFile{Data: []byte("<!doctype html>app")},
		"index.html.br":             &fstest.MapFile{Data: []byte("br-index")},
		"index.html.gz":             &fstest.MapFile{Data: []byte("gz-index")},
		"fallback.html":             &fstest.MapFile{Data: []byte("not built")},
		"worker.js":                 &fstest.MapFile{Data: []byte("worker()")},
		"worker.js.gz":              &fstest.MapFile{Data: []byte("gz-worker")},
		"theme.js":                  &fstest.MapFile{Data: []byte("theme()")},
		"assets/main-3f9a.js":       &fstest.MapFile{Data: []byte("main()")},
		"assets/main-3f9a.js.br":    &fstest.MapFile{Data: []byte("br-main")},
		"assets/inter-1b2c.woff2":   &fstest.MapFile{Data: []byte("font")},
		"assets/nested/part-0a.css": &fstest.MapFile{Data: []byte("a{}")},
	}
}

func ask(t *testing.T, files fstest.MapFS, method, target string, header map[string]string) *http.Response {
	t.Helper()
	s, err := load(files)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(method, target, nil)
	for k, v := range header {
		r.Header.Set(k, v)
		if k == "Host" {
			r.Host = v
		}
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestServe(t *testing.T) {
	t.Parallel()
	const immutable, ask4 = "public, max-age=31536000, immutable", "no-cache"
	for _, c := range []struct {
		name, method, target, accept string
		status                       int
		body, cache, kind, encoding  string
	}{
		{"the root is the app", "GET", "/", "", 200, "<!doctype html>app", ask4, "text/html; charset=utf-8", ""},
		{"a page of the app is the app", "GET", "/o/demo/servers/abc/console", "", 200, "<!doctype html>app", ask4, "text/html; charset=utf-8", ""},
		{"a hashed script is kept for ever", "GET", "/assets/main-3f9a.js", "", 200, "main()", immutable, "text/javascript; charset=utf-8", ""},
		{"a font has its type", "GET", "/assets/inter-1b2c.woff2", "", 200, "font", immutable, "font/woff2", ""},
		{"a nested asset is found", "GET", "/assets/nested/part-0a.css", "", 200, "a{}", immutable, "text/css; charset=utf-8", ""},
		{"an unhashed script is asked for again", "GET", "/theme.js", "", 200, "theme()", ask4, "text/javascript; charset=utf-8", ""},
		{"the service worker is asked for again at each use", "GET", "/worker.js", "", 200, "worker()", ask4, "text/javascript; charset=utf-8", ""},
		{"the service worker may be compressed", "GET", "/worker.js", "gzip", 200, "gz-worker", ask4, "text/javascript; charset=utf-8", "gzip"},
		{"no other folder has a service worker", "GET", "/o/demo/worker.js", "", 404, "There is no such file.\n", "no-store", "text/plain; charset=utf-8", ""},
		{"brotli goes to who takes it", "GET", "/assets/main-3f9a.js", "gzip, br", 200, "br-main", immutable, "text/javascript; charset=utf-8", "br"},
		{"gzip goes to who takes only that", "GET", "/", "gzip", 200, "gz-index", ask4, "text/html; charset=utf-8", "gzip"},
		{"a coding of weight 0 is not sent", "GET", "/", "br;q=0, gzip;q=0.5", 200, "gz-index", ask4, "text/html; charset=utf-8", "gzip"},
		{"no copy in the accepted coding sends the plain file", "GET", "/assets/main-3f9a.js", "gzip", 200, "main()", immutable, "text/javascript; charset=utf-8", ""},
		{"a missing asset is not the app", "GET", "/assets/main-old.js", "", 404, "There is no such file.\n", "no-store", "text/plain; charset=utf-8", ""},
		{"a missing file with a dot is not the app", "GET", "/wp-login.php", "", 404, "There is no such file.\n", "no-store", "text/plain; charset=utf-8", ""},
		{"a compressed copy has no address of its own", "GET", "/index.html.br", "", 404, "There is no such file.\n", "no-store", "text/plain; charset=utf-8", ""},
		{"dots do not leave the folder", "GET", "/assets/../../../etc/passwd", "", 200, "<!doctype html>app", ask4, "text/html; charset=utf-8", ""},
		{"a folder is not listed", "GET", "/assets/", "", 200, "<!doctype html>app", ask4, "text/html; charset=utf-8", ""},
		{"HEAD has no body", "HEAD", "/", "", 200, "", ask4, "text/html; charset=utf-8", ""},
		{"nothing can be written", "POST", "/", "", 405, "This page can only be read.\n", "", "text/plain; charset=utf-8", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			res := ask(t, built(), c.method, c.target, map[string]string{"Accept-Encoding": c.accept})
			got := []any{res.StatusCode, body(t, res), res.Header.Get("Cache-Control"), res.Header.Get("Content-Type"), res.Header.Get("Content-Encoding")}
			want := []any{c.status, c.body, c.cache, c.kind, c.encoding}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("got %v, want %v", got[i], want[i])
				}
			}
			if res.Header.Get("X-Content-Type-Options") != "nosniff" || res.Header.Get("Content-Security-Policy") == "" {
				t.Error("an answer without its protection")
			}
		})
	}
}

// spy counts reads, and lets no file seek when it is told so.
type spy struct {
	fstest.MapFS
	reads  *int
	unseek bool
}

type spied struct {
	fs.File
	reads *int
}

func (s spied) Read(p []byte) (int, error) { *s.reads++; return s.File.Read(p) }

type spiedSeeker struct {
	spied
	io.Seeker
}

func (s spy) Open(name string) (fs.File, error) {
	f, err := s.MapFS.Open(name)
	if seeker, ok := f.(io.Seeker); ok && !s.unseek {
		return spiedSeeker{spied{f, s.reads}, seeker}, err
	}
	return spied{f, s.reads}, err
}

func TestNothingIsReadBeforeItIsAskedFor(t *testing.T) {
	t.Parallel()
	reads := 0
	s, err := load(spy{built(), &reads, false})
	if err != nil || reads != 0 {
		t.Fatalf("%d reads before the first request, %v", reads, err)
	}
	for i, want := range []string{"main()", "main()"} {
		before := reads
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", "/assets/main-3f9a.js", nil))
		if w.Body.String() != want || reads == before {
			t.Errorf("request %d: %q after %d reads", i, w.Body, reads-before)
		}
	}
	if s, err = load(spy{built(), &reads, true}); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusInternalServerError || w.Header().Get("Content-Encoding") != "" {
		t.Errorf("a file that cannot seek answered %d", w.Code)
	}
}

func TestServeUnchanged(t *testing.T) {
	t.Parallel()
	first := ask(t, built(), "GET", "/", nil)
	tag := first.Header.Get("ETag")
	if tag == "" {
		t.Fatal("no ETag")
	}
	if res := ask(t, built(), "GET", "/", map[string]string{"If-None-Match": tag}); res.StatusCode != http.StatusNotModified {
		t.Errorf("an unchanged page answered %d", res.StatusCode)
	}
	packed := ask(t, built(), "GET", "/", map[string]string{"Accept-Encoding": "br"})
	if packed.Header.Get("ETag") == tag {
		t.Error("the compressed copy has the plain file's ETag")
	}
	if packed.Header.Get("Vary") != "Accept-Encoding" || first.Header.Get("Vary") != "Accept-Encoding" {
		t.Error("a cache may mix up the codings: Vary is missing")
	}
	ranged := ask(t, built(), "GET", "/", map[string]string{"Accept-Encoding": "br", "Range": "bytes=1-2"})
	if ranged.StatusCode != 200 || body(t, ranged) != "br-index" {
		t.Errorf("a range of a compressed copy answered %d", ranged.StatusCode)
	}
}

func TestPolicyNamesOnlyAPlainHost(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"panel.example:8443":         "connect-src 'self' ws://panel.example:8443 wss://panel.example:8443;",
		"[::1]:8090":                 "connect-src 'self' ws://[::1]:8090 wss://[::1]:8090;",
		"evil.example;script-src *":  "connect-src 'self';",
		"evil.example, *":            "connect-src 'self';",
		"":                           "connect-src 'self';",
		"a.example' 'unsafe-inline'": "connect-src 'self';",
	} {
		h := http.Header{}
		protect(h, host)
		policy := h.Get("Content-Security-Policy")
		if !strings.Contains(policy, want) {
			t.Errorf("host %q: policy %q lacks %q", host, policy, want)
		}
		if !strings.Contains(policy, "script-src 'self';") || !strings.Contains(policy, "frame-ancestors 'none'") || !strings.Contains(policy, "worker-src 'self';") {
			t.Errorf("host %q: policy %q lets too much in", host, policy)
		}
	}
}

func TestServeWithoutTheApp(t *testing.T) {
	t.Parallel()
	files := fstest.MapFS{"fallback.html": built()["fallback.html"]}
	if got := body(t, ask(t, files, "GET", "/o/demo", nil)); got != "not built" {
		t.Errorf("got %q, want the page that says how to build the app", got)
	}
	if res := ask(t, fstest.MapFS{}, "GET", "/", nil); res.StatusCode != http.StatusNotFound {
		t.Errorf("an empty folder answered %d", res.StatusCode)
	}
}

// The worker is at the root, so that it may stand for all pages; a header that widened its scope would be a mistake.
func TestTheServiceWorkerIsOursAlone(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("public/worker.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"fetch", "caches", "indexedDB", "importScripts", "eval", "Authorization"} {
		if strings.Contains(string(raw), word) {
			t.Errorf("the worker says %q: it shows messages and does nothing else", word)
		}
	}
	res := ask(t, built(), "GET", "/worker.js", nil)
	if res.Header.Get("Service-Worker-Allowed") != "" || res.Header.Get("ETag") == "" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v", res.Header)
	}
	if Built() {
		w := httptest.NewRecorder()
		Serve().ServeHTTP(w, httptest.NewRequest("GET", "/worker.js", nil))
		if w.Code != 200 || w.Body.String() != string(raw) {
			t.Errorf("the built app has another worker than its sources: %d", w.Code)
		}
	}
}

// The checked-in page must name the command that package.json has.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("dist/fallback.html")
	if err != nil || !strings.Contains(string(page), "npm run build") {
		t.Errorf("dist/fallback.html does not say how to build the app: %v", err)
	}
	w := httptest.NewRecorder()
	Serve().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 200 || !strings.Contains(w.Body.String(), "<!doctype html>") {
		t.Errorf("the embedded app answered %d", w.Code)
	}
	if _, err := os.Stat("dist/index.html"); (err == nil) != Built() {
		t.Errorf("Built() = %v, but index.html: %v", Built(), err)
	}
}
