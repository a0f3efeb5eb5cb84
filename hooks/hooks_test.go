package hooks

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/demo"
)

func TestWhereThePanelIs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config       Config
		listen       string
		public, node string
	}{
		"all by itself":                 {Config{NodeListen: ":8443"}, "127.0.0.1:8090", "http://127.0.0.1:8090", "127.0.0.1:8443"},
		"on every address":              {Config{NodeListen: ":8443"}, "0.0.0.0:80", "http://127.0.0.1:80", "127.0.0.1:8443"},
		"on every address of both":      {Config{NodeListen: ":8443"}, ":8090", "http://127.0.0.1:8090", "127.0.0.1:8443"},
		"on every address of IPv6":      {Config{NodeListen: ":8443"}, "[::]:8090", "http://127.0.0.1:8090", "127.0.0.1:8443"},
		"on one of IPv6":                {Config{NodeListen: ":8443"}, "[::1]:8090", "http://[::1]:8090", "[::1]:8443"},
		"behind a name":                 {Config{PublicURL: "https://panel.example", NodeListen: ":8443"}, ":80", "https://panel.example", "panel.example:8443"},
		"with a slash at the end":       {Config{PublicURL: "https://panel.example/", NodeListen: ":9"}, ":80", "https://panel.example", "panel.example:9"},
		"with a port of its own":        {Config{PublicURL: "https://panel.example:444", NodeListen: "0.0.0.0:9"}, ":80", "https://panel.example:444", "panel.example:9"},
		"nodes dial somewhere else":     {Config{PublicURL: "https://panel.example", NodePublic: "nodes.example:1", NodeListen: ":9"}, ":80", "https://panel.example", "nodes.example:1"},
		"nodes on any free port":        {Config{NodeListen: "127.0.0.1:0"}, ":80", "http://127.0.0.1:80", "127.0.0.1"},
		"a listen address without port": {Config{NodeListen: "somewhere"}, "socket", "http://socket", "somewhere"},
	} {
		public := c.config.publicURL(c.listen)
		if public != c.public || c.config.nodePublic(public) != c.node {
			t.Errorf("%s: %s and %s", name, public, c.config.nodePublic(public))
		}
	}
	if got := dataFile("/srv/panel/pb_data/", "master.key"); got != "/srv/panel/master.key" {
		t.Errorf("the key is at %s", got)
	}
}

// Hooks are bound in this package only, each with a constant id of its own.
func TestEachHookHasAnIdOfItsOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if s, ok := call.Fun.(*ast.SelectorExpr); ok {
				on, hook := s.X.(*ast.CallExpr)
				bound := hook && strings.HasPrefix(nameOf(on.Fun), "On") && strings.HasPrefix(s.Sel.Name, "Bind")
				if s.Sel.Name == "BindFunc" || bound && strings.Contains(file, "/") {
					t.Errorf("%s binds a hook outside of this package or without an id", file)
				}
			}
			if nameOf(call.Fun) != "handler" || strings.Contains(file, "/") {
				return true
			}
			id, ok := call.Args[0].(*ast.BasicLit)
			if !ok || !strings.HasPrefix(id.Value, `"mamba.`) {
				t.Errorf("%s: the id of a hook is no constant of ours", file)
				return true
			}
			if first, twice := seen[id.Value]; twice {
				t.Errorf("%s and %s: the id %s is used twice", first, file, id.Value)
			}
			seen[id.Value] = file
			return true
		})
		return nil
	})
	must(t, err)
	if len(seen) < 16 {
		t.Errorf("only %d hooks were found", len(seen))
	}
	t.Logf("%d hooks", len(seen))
}

func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// tables of ours, with something in each that a superuser could want to change.
func TestGuards(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	h := serve(t, app, nil).asSuperuser()
	status, raw := h.do("GET", "/api/collections/blueprints/records?sort=slug", "")
	games := decode[struct {
		Items []struct{ ID, Slug string }
	}](t, raw)
	if status != 200 || len(games.Items) < 5 {
		t.Fatalf("%d %s", status, raw)
	}
	game := "/api/collections/blueprints/records/" + games.Items[0].ID
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		says               string
	}{
		"SQL":                                  {"POST", "/api/sql", `{"query":"SELECT 1"}`, 404, "MAMBA_BREAK_GLASS"},
		"SQL with a slash":                     {"POST", "/api/sql/", `{}`, 404, ""},
		"SQL, written otherwise":               {"POST", "/api/%73ql", `{}`, 404, "MAMBA_BREAK_GLASS"},
		"a restore":                            {"POST", "/api/backups/x.zip/restore", ``, 404, "MAMBA_BREAK_GLASS"},
		"a restore, written otherwise":         {"POST", "/api/backups/a%2Fb/restore", ``, 404, "MAMBA_BREAK_GLASS"},
		"an import":                            {"PUT", "/api/collections/import", `{"collections":[]}`, 404, "MAMBA_BREAK_GLASS"},
		"the list of backups stays open":       {"GET", "/api/backups", ``, 200, ""},
		"a collection named import stays":      {"GET", "/api/collections/import", ``, 404, "The requested resource"},
		"a row made":                           {"POST", "/api/collections/blueprints/records", `{"slug":"x","name":"x","source":"uploaded"}`, 400, "product's own screens"},
		"a row removed":                        {"DELETE", game, ``, 400, "product's own screens"},
		"a field that is ours":                 {"PATCH", game, `{"name":"Mine"}`, 400, "product's own screens"},
		"a field of the operator's with ours":  {"PATCH", game, `{"enabled":false,"latest":"x"}`, 400, "product's own screens"},
		"a field of the operator's":            {"PATCH", game, `{"enabled":false}`, 200, games.Items[0].Slug},
		"a table emptied":                      {"DELETE", "/api/collections/blueprints/truncate", ``, 400, ""},
		"a table removed":                      {"DELETE", "/api/collections/servers", ``, 400, ""},
		"a rule opened":                        {"PATCH", "/api/collections/servers", `{"listRule":""}`, 400, ""},
		"many at once":                         {"POST", "/api/batch", `{"requests":[{"method":"DELETE","url":"` + game + `"}]}`, 0, ""},
		"an unknown path of the API":           {"GET", "/api/v1/nothing", ``, 404, `"code":"not_found"`},
		"any other path is the web app":        {"GET", "/servers/abc", ``, 200, "the web app"},
		"making the first superuser by a form": {"GET", "/_/", ``, 0, ""},
	} {
		status, raw := h.do(c.method, c.path, c.body)
		if c.status != 0 && status != c.status || !strings.Contains(raw, c.says) {
			t.Errorf("%s: %d %.300s", name, status, raw)
		}
	}
	if n := h.count(collections.BlueprintRows, dbx.HashExp{"enabled": true}); n != int64(len(games.Items)-1) || h.count(collections.BlueprintRows, dbx.HashExp{"name": "Mine"}) != 0 {
		t.Errorf("%d games are offered", n)
	}
	rows := h.count(collections.AuditLogs, dbx.HashExp{"action": "dashboard.update", "resource": games.Items[0].ID, "actor_type": "superuser"})
	if all := h.count(collections.AuditLogs, dbx.HashExp{"action": "dashboard.update"}); rows != 1 || all != 1 {
		t.Errorf("%d of %d audit rows tell of the edit", rows, all)
	}
	if err := app.Delete(firstOf(t, app, collections.BlueprintRows)); !errors.Is(err, collections.ErrNoPermit) {
		t.Errorf("past the API: %v", err)
	}
}

func firstOf(t *testing.T, app core.App, table string) *core.Record {
	t.Helper()
	r, err := app.FindFirstRecordByFilter(table, "id != ''")
	must(t, err)
	return r
}

func TestBreakGlassOpensTheDashboardsTools(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), func(c *Config) { c.BreakGlass = true }).asSuperuser()
	if status, raw := h.do("POST", "/api/backups/x.zip/restore", ""); strings.Contains(raw, "BREAK_GLASS") || status < 400 {
		t.Errorf("%d %s", status, raw)
	}
	if status, raw := h.do("PATCH", "/api/collections/servers", `{"viewRule":null}`); status != 200 {
		t.Errorf("%d %s", status, raw)
	}
	if status, _ := h.do("POST", "/api/collections/blueprints/records", `{"slug":"x","name":"x","source":"uploaded"}`); status != 400 {
		t.Errorf("even then rows are the rooms': %d", status)
	}
}

func TestAPanelStopsAtAnyTime(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	c := &Config{NodeListen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), PublicURL: "https://panel.example/", SMTP: "127.0.0.1:2525"}
	early, err := Open(app, c)
	must(t, err)
	early.Stop()
	must(t, early.Start()) // a signal came first: nothing runs
	early.Stop()

	app2 := newApp(t)
	p, err := Open(app2, c)
	must(t, err)
	must(t, p.Start())
	if s := app2.Settings(); s.Meta.AppURL != "https://panel.example" || s.SMTP.Host != "127.0.0.1" || s.SMTP.Port != 2525 || !s.SMTP.Enabled {
		t.Errorf("the settings say %s, %+v", s.Meta.AppURL, s.SMTP)
	}
	p.Stop()
	p.Stop()
	if info, err := os.Stat(dataFile(app2.DataDir(), "master.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the master key: %v %v", info, err)
	}
	bad, err := Open(newApp(t), &Config{NodeListen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), SMTP: "nowhere"})
	must(t, err)
	if err := bad.Start(); err == nil || !strings.Contains(err.Error(), "--smtp") {
		t.Errorf("a wrong --smtp: %v", err)
	}
	bad.Stop()
}

func (h *house) demo() *demo.Demo {
	return &demo.Demo{App: h.app, Tenancy: h.Tenancy, Alloc: h.Alloc, Fleet: h.Fleet, Servers: h.Servers,
		File: dataFile(h.app.DataDir(), "demo.json"), Node: "us-east-1", Log: h.log}
}

func TestTheDemoIsMadeOnce(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil)
	d := h.demo()
	first, err := d.Accounts()
	must(t, err)
	if first.Superuser == "" || len(first.Password) < 20 {
		t.Fatalf("%+v", first)
	}
	for _, login := range [][2]string{{"users", first.Owner}, {"users", first.Member}, {core.CollectionNameSuperusers, first.Superuser}} {
		body, _ := json.Marshal(map[string]string{"identity": login[1], "password": first.Password})
		if status, raw := h.do("POST", "/api/collections/"+login[0]+"/auth-with-password", string(body)); status != 200 {
			t.Errorf("%s cannot sign in: %d %s", login[1], status, raw)
		}
	}
	info, err := os.Stat(d.File)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the credentials: %v %v", info.Mode(), err)
	}
	again, err := h.demo().Accounts()
	if err != nil || again != first {
		t.Errorf("the second time: %+v %v", again, err)
	}
	must(t, os.Remove(d.File)) // the first start was cut short before it kept them
	healed, err := d.Accounts()
	if err != nil || healed.Password == first.Password || healed.Superuser != first.Superuser {
		t.Fatalf("after a start that was cut short: %+v %v", healed, err)
	}
	body, _ := json.Marshal(map[string]string{"identity": healed.Superuser, "password": healed.Password})
	if status, _ := h.do("POST", "/api/collections/_superusers/auth-with-password", string(body)); status != 200 {
		t.Errorf("what is printed does not open the dashboard: %d", status)
	}
	if n := h.count(collections.Tenants, dbx.NewExp("1=1")); n != 1 {
		t.Errorf("%d organisations", n)
	}
	left, err := filepath.Glob(filepath.Dir(d.File) + "/demo.json?*")
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	h.joinLocal()
	must(t, d.Fill(t.Context()))
	servers := h.count(collections.Servers, dbx.NewExp("1=1"))
	nodes := h.count(collections.Nodes, dbx.NewExp("1=1"))
	if servers != 3 || nodes != 2 {
		t.Errorf("%d servers, %d nodes", servers, nodes)
	}
	must(t, d.Fill(t.Context()))
	if h.count(collections.Servers, dbx.NewExp("1=1")) != servers || h.count(collections.Nodes, dbx.NewExp("1=1")) != nodes {
		t.Error("it was filled twice")
	}
}

func TestTheDemoSaysWhereToGo(t *testing.T) {
	t.Parallel()
	c := demo.Credentials{Superuser: "admin@demo.example", Owner: "owner@demo.example", Member: "member@demo.example", Password: "PASSWORD"}
	said := welcome(c, "http://127.0.0.1:8090", "http://127.0.0.1:8025")
	for _, part := range []string{"http://127.0.0.1:8090\n", c.Superuser + "  at http://127.0.0.1:8090/_/", c.Owner, c.Member, c.Password, "http://127.0.0.1:8025"} {
		if !strings.Contains(said, part) {
			t.Errorf("%q is missing in %s", part, said)
		}
	}
	c.Superuser = ""
	if said = welcome(c, "http://127.0.0.1:8090", ""); !strings.Contains(said, "your own account") || !strings.Contains(said, "Settings → Mail") {
		t.Errorf("without an account and a mail page of ours: %s", said)
	}
}

func TestTheDemoLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil).asSuperuser()
	status, raw := h.do("POST", "/api/v1/tenants", `{"name":"Acme"}`)
	if status != 201 && status != 403 {
		t.Fatalf("%d %s", status, raw)
	}
	if status == 403 { // organisations are people's: make one as a user
		users, err := h.app.FindCollectionByNameOrId("users")
		must(t, err)
		u := core.NewRecord(users)
		u.SetEmail("ada@example.org")
		u.SetPassword("a-long-password")
		u.SetVerified(true)
		must(t, h.app.Save(u))
		h.super, err = u.NewAuthToken()
		must(t, err)
		if status, raw := h.do("POST", "/api/v1/tenants", `{"name":"Acme"}`); status != 201 {
			t.Fatalf("%d %s", status, raw)
		}
	}
	users := h.count("users", dbx.NewExp("1=1"))
	if _, err := h.demo().Accounts(); !errors.Is(err, demo.ErrOccupied) {
		t.Errorf("the demo moved in: %v", err)
	}
	if h.count("users", dbx.NewExp("1=1")) != users || h.count(collections.Tenants, dbx.NewExp("1=1")) != 1 {
		t.Error("it left people behind")
	}
	if _, err := os.Stat(h.demo().File); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("credentials of nobody: %v", err)
	}
	must(t, h.demo().Fill(t.Context())) // no Demo Corp: nothing to do
}

func TestTheDemoKeepsAnOperatorsAccount(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil).asSuperuser()
	c, err := h.demo().Accounts()
	if err != nil || c.Superuser != "" || c.Owner == "" {
		t.Errorf("%+v %v", c, err)
	}
	if n := h.count(core.CollectionNameSuperusers, dbx.NewExp("1=1")); n != 1 {
		t.Errorf("%d superusers", n)
	}
}

// A node that had servers once can be removed; what remains of them is the bill's and the audit log's.
func TestANodeWithAPastCanBeRemoved(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil)
	_, err := h.demo().Accounts()
	must(t, err)
	h.joinLocal()
	must(t, h.demo().Fill(t.Context()))
	h.asSuperuser()
	node := firstOf(t, h.app, collections.Servers).GetString("node")
	if status, raw := h.do("DELETE", "/api/v1/admin/nodes/"+node, ""); status != 409 {
		t.Errorf("while servers live there: %d %s", status, raw)
	}
	if status, raw := h.do("DELETE", "/api/v1/admin/nodes/"+node+"?force=true", ""); status < 200 || status > 299 {
		t.Fatalf("by force: %d %s", status, raw)
	}
	all := dbx.NewExp("1=1")
	if left := h.count(collections.Servers, dbx.Not(dbx.HashExp{"status": "DELETED"})); left != 0 || h.count(collections.Servers, all) != 3 {
		t.Errorf("%d servers live nowhere", left)
	}
	if n := h.count(collections.Allocations, dbx.HashExp{"status": "ACTIVE"}); n != 0 {
		t.Errorf("%d allocations are held", n)
	}
	if n := h.count(collections.Jobs, dbx.In("state", "ready", "waiting")); n != 0 {
		t.Errorf("%d jobs wait for a node that is gone", n)
	}
	if n := h.count(collections.Nodes, dbx.HashExp{"id": node}); n != 0 {
		t.Error("the node is still there")
	}
	used := decode[struct{ Used struct{ Servers int } }](t, h.as("owner@demo.example").get("/api/v1/tenants/current"))
	if used.Used.Servers != 0 {
		t.Errorf("%d servers count against the quota", used.Used.Servers)
	}
}
