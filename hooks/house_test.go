package hooks

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/blueprints/render"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/wings/agent"
	"github.com/mambahost/mamba/wings/engine/fake"
	"github.com/mambahost/mamba/wings/link"
	"github.com/mambahost/mamba/wings/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimDir) != "" {
		os.Exit(victim())
	}
	os.Exit(collectionstest.Run(func() int {
		code := m.Run()
		if left := collectionstest.LeftBehind(15 * time.Second); left != "" && code == 0 {
			fmt.Fprintln(os.Stderr, "goroutines left behind:\n"+left)
			return 1
		}
		return code
	}))
}

// house is a whole panel in this process: what Register wires, on the real router.
type house struct {
	*Panel
	t     *testing.T
	app   *core.BaseApp
	mux   http.Handler
	super string
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newApp(t *testing.T) *core.BaseApp { return collectionstest.Base(t) }

// serve runs a panel over an app until the end of the test.
func serve(t *testing.T, app *core.BaseApp, change func(*Config)) *house {
	t.Helper()
	h := &house{t: t, app: app}
	c := &Config{HTTPAddress: "127.0.0.1:8090", NodeListen: "127.0.0.1:0", NodeName: "us-east-1", NodeAddress: "127.0.0.1", NodePorts: "40000-40100", Log: slog.New(slog.DiscardHandler),
		Web: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the web app") })}
	if change != nil {
		change(c)
	}
	bindGuards(app, c.BreakGlass)
	p, err := Open(app, c)
	must(t, err)
	h.Panel = p
	t.Cleanup(p.Stop)
	r, err := apis.NewRouter(app)
	must(t, err)
	p.bindRoutes(&core.ServeEvent{App: app, Router: r, Server: &http.Server{Addr: "127.0.0.1:0"}})
	must(t, p.Start())
	h.mux, err = r.BuildMux()
	must(t, err)
	return h
}

// asSuperuser makes the operator's account and keeps its token.
func (h *house) asSuperuser() *house {
	h.t.Helper()
	c, err := h.app.FindCollectionByNameOrId(core.CollectionNameSuperusers)
	must(h.t, err)
	r := core.NewRecord(c)
	r.SetEmail("root@example.org")
	r.SetPassword("a-long-password")
	must(h.t, h.app.Save(r))
	h.super, err = r.NewAuthToken()
	must(h.t, err)
	return h
}

func (h *house) do(method, path, body string) (int, string) {
	h.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if h.super != "" {
		req.Header.Set("Authorization", h.super)
	}
	rec := httptest.NewRecorder()
	h.mux.ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

func (h *house) count(table string, where dbx.Expression) int64 {
	h.t.Helper()
	n, err := h.app.CountRecords(table, where)
	must(h.t, err)
	return n
}

func localNode() fleet.LocalNode {
	return fleet.LocalNode{Name: "us-east-1", Addresses: []string{"127.0.0.1"}, Capacity: wire.Capacity{CPUMillicores: 8000, MemoryMiB: 16 << 10, DiskMiB: 200 << 10}}
}

// joinLocal makes this process the local node, with wings on the fake engine that it returns.
func (h *house) joinLocal() *fake.Machine {
	h.t.Helper()
	_, token, _, err := h.Fleet.EnsureLocalNode(localNode())
	must(h.t, err)
	dir := h.t.TempDir()
	id, err := link.Join(h.t.Context(), "https://"+h.Fleet.Addr(), token, dir, "test")
	must(h.t, err)
	must(h.t, h.firstPorts(id))
	tie, err := link.New(link.Config{Dir: dir, Release: "test", Log: h.log})
	must(h.t, err)
	m := fake.New(fake.Config{})
	h.t.Cleanup(m.Close)
	uid, gid := 0, 0
	if os.Geteuid() != 0 {
		uid, gid = os.Getuid(), os.Getgid()
	}
	wings, err := agent.New(agent.Config{Engine: m.Engine(id), Dir: filepath.Join(dir, "servers"), Reporter: tie, Render: render.Apply, Logger: h.log, UID: uid, GID: gid})
	must(h.t, err)
	must(h.t, wings.Start(context.Background()))
	h.t.Cleanup(wings.Stop)
	tie.Start(context.Background(), wings.Handler())
	h.t.Cleanup(tie.Stop)
	return m
}

// as returns the panel as a person of the demo sees it.
func (h *house) as(email string) *house {
	h.t.Helper()
	r, err := h.app.FindAuthRecordByEmail("users", email)
	must(h.t, err)
	token, err := r.NewAuthToken()
	must(h.t, err)
	return &house{Panel: h.Panel, t: h.t, app: h.app, mux: h.mux, super: token}
}

func (h *house) get(path string) string {
	h.t.Helper()
	req := httptest.NewRequest("GET", path, nil)
	req.Header.Set("Authorization", h.super)
	req.Header.Set("X-Tenant", "demo-corp")
	rec := httptest.NewRecorder()
	h.mux.ServeHTTP(rec, req)
	if rec.Code != http.StatusOK {
		h.t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
	}
	return rec.Body.String()
}

func decode[T any](t *testing.T, raw string) (v T) {
	t.Helper()
	must(t, json.Unmarshal([]byte(raw), &v))
	return v
}

// Later releases change collections of ours: what guards them against the dashboard must let that be.
func TestAMigrationMayChangeOurCollections(t *testing.T) {
	t.Parallel()
	app := core.NewBaseApp(core.BaseAppConfig{DataDir: t.TempDir()})
	must(t, app.Bootstrap())
	t.Cleanup(func() { must(t, app.ClearBootstrap()) })
	bindGuards(app, false)
	must(t, app.RunAllMigrations())
	c, err := app.FindCollectionByNameOrId("servers")
	must(t, err)
	if c.Fields.GetByName("installed_at") == nil {
		t.Error("the first migration that changes a collection did not")
	}
}
