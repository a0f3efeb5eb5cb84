package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tests"

	"github.com/mambahost/mamba/blueprints"
	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/wings/wire"
)

const source = `
schema: 1
id: tetris
name: Tetris
version: 1.0.0
summary: Blocks.
icon: icon.svg
categories: [puzzle]
variants: [{id: usual, name: Usual, image: mamba.test/tetris}]
startup: [/tetris]
stop: {signal: SIGTERM}
install: {entrypoint: [/bin/sh], script_file: install.sh}
variables:
  - {key: SPEED, name: Speed, type: int, default: 1, rules: {min: 1, max: 9}}
  - {key: PASSWORD, name: Password, type: secret}
`

const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>`

// bundle loads the blueprint with pairs of texts replaced.
func bundle(t *testing.T, script string, pairs ...string) *blueprints.Bundle {
	t.Helper()
	b, err := blueprints.Load(fstest.MapFS{blueprints.FileName: {Data: []byte(strings.NewReplacer(pairs...).Replace(source))},
		"icon.svg": {Data: []byte(icon)}, "install.sh": {Data: []byte(script)}})
	must(t, err)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type house struct {
	*tests.TestApp
	*Catalog
	mux   http.Handler
	token string
}

func newHouse(t *testing.T) *house {
	t.Helper()
	app := collectionstest.New(t)
	guard := func(e *core.ModelEvent) error {
		if err := collections.Guard(e.Context, e.Model.TableName()); err != nil {
			return err
		}
		return e.Next()
	}
	app.OnModelCreate().BindFunc(guard)
	app.OnModelUpdate().BindFunc(guard)
	h := &house{TestApp: app, Catalog: New(slog.New(slog.DiscardHandler))}
	r, err := apis.NewRouter(app)
	must(t, err)
	g := r.Group("/api/v1")
	access.Door(g)
	h.Routes(g)
	h.mux, err = r.BuildMux()
	must(t, err)
	users, err := app.FindCollectionByNameOrId("users")
	must(t, err)
	u := core.NewRecord(users)
	u.SetEmail("ada@example.org")
	u.SetPassword("a-long-password")
	must(t, app.Save(u))
	h.token, err = u.NewAuthToken()
	must(t, err)
	return h
}

func (h *house) publish(t *testing.T, b *blueprints.Bundle) (v *collections.BlueprintVersion, err error) {
	t.Helper()
	err = collections.Tx(h, nil, func(tx core.App) error {
		v, err = h.Publish(tx, b, "uploaded")
		return err
	})
	return v, err
}

func (h *house) count(t *testing.T, table string) int64 {
	t.Helper()
	n, err := h.CountRecords(table)
	must(t, err)
	return n
}

func (h *house) get(path, token string) *httptest.ResponseRecorder {
	req := httptest.NewRequest("GET", "/api/v1/"+path, nil)
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	rec := httptest.NewRecorder()
	h.mux.ServeHTTP(rec, req)
	return rec
}

func input() blueprints.Input {
	return blueprints.Input{ServerID: "server000000001", TenantID: "tenant000000001", Name: "one", PlacementEpoch: 1, Generation: 1,
		Desired: wire.DesiredRunning, Limits: wire.Limits{CPUMillicores: 100, MemoryMiB: 64, DiskMiB: 64, PIDs: 10}}
}

func TestAPublishedVersionNeverChanges(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	first, err := h.publish(t, bundle(t, "echo one"))
	must(t, err)
	again, err := h.publish(t, bundle(t, "echo one"))
	if err != nil || again.Id != first.Id || h.count(t, collections.BlueprintVersions) != 1 {
		t.Fatalf("publishing the same again: %v, %d versions", err, h.count(t, collections.BlueprintVersions))
	}
	for name, b := range map[string]*blueprints.Bundle{
		"another text":   bundle(t, "echo one", "Blocks.", "Bricks."),
		"another script": bundle(t, "echo two"),
	} {
		if kept, err := h.publish(t, b); !errors.Is(err, ErrChanged) || kept.Id != first.Id {
			t.Errorf("%s: %v", name, err)
		}
	}
	second, err := h.publish(t, bundle(t, "echo two", "1.0.0", "1.1.0", "Tetris", "Tetris II", "max: 9", "max: 5"))
	must(t, err)
	o, err := h.Find(h, "tetris")
	if err != nil || o.Version.Id != second.Id || o.Row.Name() != "Tetris II" || o.Name != "Tetris II" {
		t.Fatalf("the newest is %+v: %v", o.Row, err)
	}
	for id, want := range map[string]string{first.Id: "echo one", second.Id: "echo two"} {
		fresh := New(slog.New(slog.DiscardHandler)) // nothing in its cache
		spec, err := fresh.Compile(h, id, input())
		if err != nil || spec.Install.Script != want {
			t.Errorf("version %s installs %+v: %v", id, spec.Install, err)
		}
	}
	old, err := h.Version(h, o, "1.0.0")
	if err != nil || old.Version.Id != first.Id || old.Name != "Tetris" {
		t.Errorf("an older version by name: %v", err)
	}
	if _, err := h.Version(h, o, "3.0.0"); !errors.Is(err, ErrUnknown) {
		t.Errorf("a version that is not: %v", err)
	}
	in := input()
	in.Variables = map[string]string{"SPEED": "7"}
	var faults blueprints.VariableErrors
	if _, err := h.Compile(h, second.Id, in); !errors.As(err, &faults) {
		t.Errorf("the newer rules: %v", err)
	}
	if _, err := h.Compile(h, first.Id, in); err != nil {
		t.Errorf("a server of the older version: %v", err)
	}
	if _, err := h.Compile(h, "nosuchversion00", in); err == nil {
		t.Error("a version that is not there compiles")
	}
}

func TestShippedGamesArePublishedOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	must(t, h.PublishShipped(h))
	games, versions := h.count(t, collections.BlueprintRows), h.count(t, collections.BlueprintVersions)
	must(t, h.PublishShipped(h))
	shipped, err := blueprints.Shipped()
	must(t, err)
	if games != int64(len(shipped)) || versions != games || h.count(t, collections.BlueprintVersions) != versions {
		t.Errorf("%d games, %d versions of %d shipped", games, versions, len(shipped))
	}
	if _, err := h.DB().Update(collections.BlueprintVersions, dbx.Params{"digest": "another"}, dbx.NewExp("1=1")).Execute(); err != nil {
		t.Fatal(err)
	}
	if err := h.PublishShipped(h); err != nil { // reported in the log; the published ones stay
		t.Errorf("a shipped game that changed stops the panel: %v", err)
	}
	all, err := h.List(h)
	if err != nil || len(all) != len(shipped) {
		t.Fatalf("%d are offered: %v", len(all), err)
	}
}

func TestWhichShippedGamesCountAsPublished(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	folders, err := blueprints.ShippedFolders()
	must(t, err)
	same := func(want bool, when string) {
		t.Helper()
		if got, err := published(h, folders); got != want || err != nil {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	same(false, "before the first start")
	must(t, h.PublishShipped(h))
	same(true, "after it")
	for name := range folders[1].Files { // luanti: blueprint, icon and script
		whole := folders[1].Files[name]
		folders[1].Files[name] = append([]byte("x"), whole...)
		same(false, name+" of the release is another")
		folders[1].Files[name] = whole
	}
	if len(folders[1].Files) != 3 {
		t.Errorf("luanti has %d files, want one with a script", len(folders[1].Files))
	}
	if _, err := h.DB().Update(collections.BlueprintRows, dbx.Params{"latest": "nosuchversion00"}, dbx.HashExp{"slug": "luanti"}).Execute(); err != nil {
		t.Fatal(err)
	}
	same(false, "new servers get another version")
}

func TestWhatIsSwitchedOffIsNotOfferedButStillRuns(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	v, err := h.publish(t, bundle(t, "echo"))
	must(t, err)
	row, err := collections.One[collections.BlueprintRow](h, collections.BlueprintRows, dbx.HashExp{"slug": "tetris"})
	must(t, err)
	row.SetEnabled(false)
	must(t, permit.Save(h, row))
	for _, name := range []string{"tetris", row.Id} {
		if _, err := h.Find(h, name); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all, err := h.List(h); err != nil || len(all) != 0 {
		t.Errorf("%d are listed: %v", len(all), err)
	}
	if _, err := h.Compile(h, v.Id, input()); err != nil {
		t.Errorf("its servers do not compile any more: %v", err)
	}
	if rec := h.get("blueprints/tetris", h.token); rec.Code != 404 {
		t.Errorf("the wizard still shows it: %d", rec.Code)
	}
	if rec := h.get("blueprints/tetris/icon?v=1.0.0", ""); rec.Code != 200 {
		t.Errorf("its servers have lost their picture: %d", rec.Code)
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, err := h.publish(t, bundle(t, "echo the-script"))
	must(t, err)
	o, err := h.Find(h, "tetris")
	must(t, err)
	for name, c := range map[string]struct {
		path, token string
		status      int
		has, absent string
	}{
		"the list":                  {"blueprints", h.token, 200, `"slug":"tetris"`, "form"},
		"the list for nobody":       {"blueprints", "", 401, "unauthenticated", "tetris"},
		"a game by its slug":        {"blueprints/tetris", h.token, 200, `"form"`, "the-script"},
		"a game by its id":          {"blueprints/" + o.Row.Id, h.token, 200, `"key":"PASSWORD"`, "mamba.test"},
		"a game for nobody":         {"blueprints/tetris", "", 401, "unauthenticated", "Speed"},
		"a game that is not":        {"blueprints/chess", h.token, 404, "blueprint_not_found", "sql:"},
		"a picture for anybody":     {"blueprints/tetris/icon?v=1.0.0", "", 200, "<svg", ""},
		"a picture of no version":   {"blueprints/tetris/icon", "", 200, "<svg", ""},
		"a picture that is not":     {"blueprints/chess/icon", "", 404, "blueprint_not_found", ""},
		"a picture of no such game": {"blueprints/tetris/icon?v=9.0.0", "", 404, "blueprint_not_found", ""},
	} {
		rec := h.get(c.path, c.token)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.has) || c.absent != "" && strings.Contains(rec.Body.String(), c.absent) {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	rec := h.get(strings.TrimPrefix(IconURL("tetris", "1.0.0"), "/api/v1/"), "")
	for header, want := range map[string]string{"Content-Type": "image/svg+xml", "Cache-Control": "public, max-age=31536000, immutable",
		"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"} {
		if got := rec.Header().Get(header); got != want {
			t.Errorf("%s is %q", header, got)
		}
	}
	if got := h.get("blueprints/tetris/icon", "").Header().Get("Cache-Control"); strings.Contains(got, "immutable") {
		t.Errorf("a picture without a version may be kept for ever: %s", got)
	}
	var list struct {
		Items []struct {
			Categories []string
			Version    string
			Resources  map[string]any
		}
	}
	must(t, json.Unmarshal(h.get("blueprints", h.token).Body.Bytes(), &list))
	if len(list.Items) != 1 || fmt.Sprint(list.Items[0].Categories) != "[puzzle]" || list.Items[0].Version != "1.0.0" || list.Items[0].Resources == nil {
		t.Errorf("the list: %+v", list)
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	v, err := h.publish(t, bundle(t, "echo"))
	must(t, err)
	for i := range maxParsed {
		h.parsed[fmt.Sprint(i)] = nil
	}
	if _, err := h.Blueprint(h, v.Id); err != nil || len(h.parsed) != 1 {
		t.Errorf("%d are kept: %v", len(h.parsed), err)
	}
}
