package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/blueprints"
	"github.com/mambahost/mamba/collections"
)

// refused checks what a customer reads: status, machine code, and a sentence without inner words.
func refused(t *testing.T, name string, rec *httptest.ResponseRecorder, status int, code string) {
	t.Helper()
	var out struct{ Code, Message string }
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
		t.Fatalf("%s: %d %s: %v", name, rec.Code, rec.Body, err)
	}
	if rec.Code != status || out.Code != code || len(out.Message) < 12 || !strings.HasSuffix(out.Message, ".") {
		t.Errorf("%s: %d %s, want %d %s and a sentence", name, rec.Code, rec.Body, status, code)
	}
	for _, inner := range []string{"sql:", "SELECT", "goroutine", "blueprint.yaml", "catalog:"} {
		if strings.Contains(out.Code+" "+out.Message, inner) { // the request's id may hold any three letters
			t.Errorf("%s: the customer reads %q: %s", name, inner, rec.Body)
		}
	}
}

// Names that are none are not found, whatever they are made of.
func TestNamesThatAreNoneAreNotFound(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, err := h.publish(t, bundle(t, "echo"))
	must(t, err)
	for _, name := range []string{"Tetris", "tetris ", "x' OR '1'='1", `"; DROP TABLE blueprints; --`, "%", "tetris\x00", strings.Repeat("x", 5000), "тетрис", "{{.}}"} {
		refused(t, name, h.get("blueprints/"+url.PathEscape(name), h.token), http.StatusNotFound, "blueprint_not_found")
		refused(t, "the picture of "+name, h.get("blueprints/"+url.PathEscape(name)+"/icon", ""), http.StatusNotFound, "blueprint_not_found")
		refused(t, "its version "+name, h.get("blueprints/tetris/icon?v="+url.QueryEscape(name), ""), http.StatusNotFound, "blueprint_not_found")
		if _, err := h.Version(h, must2(h.Find(h, "tetris"))(t), name); !errors.Is(err, ErrUnknown) {
			t.Errorf("version %q: %v", name, err)
		}
	}
	if h.count(t, collections.BlueprintRows) != 1 {
		t.Error("asking changed something")
	}
}

func must2[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T { t.Helper(); must(t, err); return v }
}

// Customers read the catalogue; nothing of it can be written from outside the room.
func TestNobodyWritesTheCatalogueFromOutside(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	v, err := h.publish(t, bundle(t, "echo"))
	must(t, err)
	row := must2(h.Find(h, "tetris"))(t).Row
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		for _, path := range []string{"blueprints", "blueprints/tetris", "blueprints/tetris/icon"} {
			req := httptest.NewRequest(method, "/api/v1/"+path, strings.NewReader(`{"enabled":false}`))
			req.Header.Set("Authorization", h.token)
			req.Header.Set("Content-Type", "application/json")
			rec := httptest.NewRecorder()
			h.mux.ServeHTTP(rec, req)
			if rec.Code != http.StatusNotFound && rec.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d %s", method, path, rec.Code, rec.Body)
			}
		}
	}
	v.SetSource("schema: 1\nid: evil")
	row.SetEnabled(false)
	for _, r := range []core.Model{v, row} { // no permit
		if err := h.Save(r); !errors.Is(err, collections.ErrNoPermit) {
			t.Errorf("a write past the room: %v", err)
		}
	}
	fresh := New(slog.New(slog.DiscardHandler))
	if spec, err := fresh.Compile(h, v.Id, input()); err != nil || spec.Install.Script != "echo" {
		t.Errorf("after all that it compiles to %+v: %v", spec.Install, err)
	}
}

// A publish that does not come to its end leaves nothing, not even in the cache.
func TestAPublishThatIsRolledBackLeavesNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	changed := errors.New("thought better of it")
	for _, b := range []*blueprints.Bundle{bundle(t, "echo"), bundle(t, "echo", "1.0.0", "2.0.0")} {
		var id string
		err := collections.Tx(h, nil, func(tx core.App) error {
			v, err := h.Publish(tx, b, "uploaded")
			must(t, err)
			id = v.Id
			if _, err := h.Find(tx, "tetris"); err != nil {
				t.Errorf("inside the transaction it is not there: %v", err)
			}
			return changed
		})
		if !errors.Is(err, changed) || h.count(t, collections.BlueprintRows)+h.count(t, collections.BlueprintVersions) != 0 {
			t.Fatalf("%v; %d games, %d versions", err, h.count(t, collections.BlueprintRows), h.count(t, collections.BlueprintVersions))
		}
		if _, err := h.Find(h, "tetris"); !errors.Is(err, ErrUnknown) {
			t.Errorf("it can be found: %v", err)
		}
		if _, err := New(slog.New(slog.DiscardHandler)).Blueprint(h, id); err == nil {
			t.Error("its version can be compiled")
		}
	}
}

// A version that cannot be read any more takes neither the list nor the other games with it.
func TestADamagedGameIsLeftOutOfTheList(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]dbx.Params{
		"a source that does not parse": {"source": "schema: 1\nid: ["},
		"files that are no object":     {"files": `[1]`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			broken, err := h.publish(t, bundle(t, "echo"))
			must(t, err)
			_, err = h.publish(t, bundle(t, "echo", "id: tetris", "id: snake", "Tetris", "Snake"))
			must(t, err)
			_, err = h.DB().Update(collections.BlueprintVersions, damage, dbx.HashExp{"id": broken.Id}).Execute()
			must(t, err)
			var log bytes.Buffer
			h.Catalog.log, h.parsed = slog.New(slog.NewTextHandler(&log, nil)), map[string]*blueprints.Blueprint{}
			rec := h.get("blueprints", h.token)
			if rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), `"snake"`) || strings.Contains(rec.Body.String(), `"tetris"`) {
				t.Errorf("the list: %d %s", rec.Code, rec.Body)
			}
			if !strings.Contains(log.String(), "blueprint=tetris") || !strings.Contains(log.String(), broken.Id) {
				t.Errorf("the operator reads %q", log.String())
			}
			if rec := h.get("blueprints/tetris", h.token); rec.Code < 500 || strings.Contains(rec.Body.String(), "yaml") || strings.Contains(rec.Body.String(), broken.Id) {
				t.Errorf("the game itself: %d %s", rec.Code, rec.Body)
			}
			if _, err := h.Compile(h, broken.Id, input()); err == nil || !strings.Contains(err.Error(), broken.Id) {
				t.Errorf("a server of it: %v", err)
			}
			if rec := h.get("blueprints/snake", h.token); rec.Code != http.StatusOK {
				t.Errorf("the other game: %d %s", rec.Code, rec.Body)
			}
		})
	}
}

// Each version keeps its picture; a game may have none.
func TestPicturesBelongToVersions(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, err := h.publish(t, bundle(t, "echo"))
	must(t, err)
	other := strings.Replace(icon, "0 0 1 1", "0 0 2 2", 1)
	newer, err := blueprints.Load(fstest.MapFS{blueprints.FileName: {Data: []byte(strings.Replace(source, "1.0.0", "1.1.0", 1))},
		"icon.svg": {Data: []byte(other)}, "install.sh": {Data: []byte("echo")}})
	must(t, err)
	_, err = h.publish(t, newer)
	must(t, err)
	for path, want := range map[string]string{"?v=1.0.0": icon, "?v=1.1.0": other, "": other} {
		if rec := h.get("blueprints/tetris/icon"+path, ""); rec.Code != http.StatusOK || rec.Body.String() != want {
			t.Errorf("%q: %d %s", path, rec.Code, rec.Body)
		}
	}
	bare, err := blueprints.Load(fstest.MapFS{blueprints.FileName: {Data: []byte(strings.NewReplacer("id: tetris", "id: plain", "icon: icon.svg\n", "").Replace(source))},
		"install.sh": {Data: []byte("echo")}})
	must(t, err)
	_, err = h.publish(t, bare)
	must(t, err)
	refused(t, "a game without a picture", h.get("blueprints/plain/icon?v=1.0.0", ""), http.StatusNotFound, "no_icon")
	_, err = h.DB().Update(collections.BlueprintVersions, dbx.Params{"files": `{"icon":"*not base64*","icon_type":"image/svg+xml"}`}, dbx.HashExp{"version": "1.1.0"}).Execute()
	must(t, err)
	refused(t, "a picture that is damaged", h.get("blueprints/tetris/icon", ""), http.StatusNotFound, "no_icon")
}

// Many servers are compiled at once out of one parsed version.
func TestAVersionIsParsedOnceForAll(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	v, err := h.publish(t, bundle(t, "echo"))
	must(t, err)
	fresh := New(slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[*blueprints.Blueprint]int{}
	for range 32 {
		wg.Go(func() {
			b, err := fresh.Blueprint(h, v.Id)
			spec, cerr := fresh.Compile(h, v.Id, input())
			mu.Lock()
			defer mu.Unlock()
			if seen[b]++; err != nil || cerr != nil || spec.Blueprint.ID != "tetris" {
				t.Errorf("%v, %v, %+v", err, cerr, spec.Blueprint)
			}
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Errorf("it was parsed %d times", len(seen))
	}
}
