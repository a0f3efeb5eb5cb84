package dockertest

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Registry is an image registry on 127.0.0.1 with one image, which the daemon trusts without TLS
// because of its address. The daemon must share the test's network namespace (Daemon does).
type Registry struct {
	server *httptest.Server
	blobs  map[string][]byte // by digest; the manifest is among them

	manifest string // digest

	mu    sync.Mutex // guards hits
	hits  map[string]int
	gate  chan struct{} // what is below half of a layer waits for it
	layer string        // digest of the layer
	once  sync.Once
}

// The media types of Docker's own image format, version 2.
const (
	typeManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeConfig   = "application/vnd.docker.container.image.v1+json"
	typeLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// NewRegistry serves the test image under a content of its own (so that no daemon has it) until t
// ends. The second half of its layer is held back until Open is called.
func NewRegistry(t testing.TB) *Registry {
	t.Helper()
	raw, err := rootfs()
	if err != nil {
		t.Fatalf("build the test image: %v", err)
	}
	var zipped bytes.Buffer
	w, err := gzip.NewWriterLevel(&zipped, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	// A tar ends with two empty blocks; what comes after is ignored by who unpacks it.
	for _, part := range [][]byte{raw, []byte(rand.Text())} {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	diff := sha256.New()
	if err := copyUnzipped(diff, zipped.Bytes()); err != nil {
		t.Fatal(err)
	}
	r := &Registry{blobs: map[string][]byte{}, hits: map[string]int{}, gate: make(chan struct{})}
	config := r.add(encode(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"User": "988:988"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(diff.Sum(nil))}},
	}))
	r.layer = r.add(zipped.Bytes())
	part := func(mediaType, digest string) map[string]any {
		return map[string]any{"mediaType": mediaType, "digest": digest, "size": len(r.blobs[digest])}
	}
	r.manifest = r.add(encode(t, map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest,
		"config": part(typeConfig, config), "layers": []any{part(typeLayer, r.layer)},
	}))
	r.server = httptest.NewServer(r)
	t.Cleanup(func() {
		r.Open()
		r.server.Close()
	})
	return r
}

// Image is the name of the one image, with this registry's address.
func (r *Registry) Image() string { return r.name("present:1") }

// Missing is the name of an image that the registry does not have.
func (r *Registry) Missing() string { return r.name("missing:1") }

func (r *Registry) name(image string) string {
	return net.JoinHostPort("127.0.0.1", r.server.URL[strings.LastIndex(r.server.URL, ":")+1:]) + "/mamba/" + image
}

// Open lets the second half of the layer go. It may be called again.
func (r *Registry) Open() { r.once.Do(func() { close(r.gate) }) }

// Pulls says how often the manifest was asked for, which dockerd does once for each pull that it is
// told to make. (The layer is no measure: dockerd itself shares its download.)
func (r *Registry) Pulls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hits[r.manifest]
}

func (r *Registry) add(blob []byte) string {
	sum := sha256.Sum256(blob)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	r.blobs[digest] = blob
	return digest
}

// ServeHTTP speaks as much of the registry protocol as a pull needs.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	switch {
	case path == "":
		return
	case strings.HasPrefix(path, "mamba/present/manifests/"):
		w.Header().Set("Content-Type", typeManifest)
		w.Header().Set("Docker-Content-Digest", r.manifest)
		r.serve(w, req, r.manifest)
	case strings.HasPrefix(path, "mamba/present/blobs/"):
		w.Header().Set("Content-Type", "application/octet-stream")
		r.serve(w, req, strings.TrimPrefix(path, "mamba/present/blobs/"))
	default:
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`, http.StatusNotFound)
	}
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request, digest string) {
	blob, ok := r.blobs[digest]
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
	if req.Method == http.MethodHead {
		return
	}
	r.mu.Lock()
	r.hits[digest]++
	r.mu.Unlock()
	if digest != r.layer {
		_, _ = w.Write(blob)
		return
	}
	_, _ = w.Write(blob[:len(blob)/2])
	_ = http.NewResponseController(w).Flush()
	select {
	case <-r.gate:
		_, _ = w.Write(blob[len(blob)/2:])
	case <-req.Context().Done():
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(fmt.Errorf("encode %T: %w", v, err))
	}
	return raw
}

func copyUnzipped(w io.Writer, zipped []byte) error {
	r, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return err
}
