package fleet

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/wings/link"
	"github.com/mambahost/mamba/wings/wire"
)

// api serves fleet's routes behind the real door.
type api struct {
	*panel
	mux              http.Handler
	operator, person string // tokens
}

func newAPI(t *testing.T) *api {
	t.Helper()
	p := startPanel(t)
	r, err := apis.NewRouter(p.app)
	if err != nil {
		t.Fatal(err)
	}
	g := r.Group("/api/v1")
	access.Door(g)
	p.Routes(g)
	a := &api{panel: p}
	if a.mux, err = r.BuildMux(); err != nil {
		t.Fatal(err)
	}
	a.operator = token(t, p.app, core.CollectionNameSuperusers, "op@example.com")
	a.person = token(t, p.app, "users", "ann@example.com")
	return a
}

func token(t *testing.T, app core.App, collection, email string) string {
	t.Helper()
	c, err := app.FindCollectionByNameOrId(collection)
	if err != nil {
		t.Fatal(err)
	}
	r := core.NewRecord(c)
	r.SetEmail(email)
	r.SetPassword("correct horse battery")
	if err := app.Save(r); err != nil {
		t.Fatal(err)
	}
	tok, err := r.NewAuthToken()
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func (a *api) call(t *testing.T, method, path, tok, body string) (int, string) {
	t.Helper()
	req := httptest.NewRequest(method, "/api/v1/admin/nodes"+path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if tok != "" {
		req.Header.Set("Authorization", tok)
	}
	rec := httptest.NewRecorder()
	a.mux.ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

const goodNode = `{"name":"fra-1","fqdn":"fra-1.example.com","public_addresses":["203.0.113.7","2001:db8::1"],"location":"Frankfurt",
	"cpu_millicores":8000,"memory_mib":32768,"disk_mib":500000,"overcommit_cpu_percent":200,"labels":{"tier":"fast"}}`

func TestOnlyOperatorsManageNodes(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	id, _ := a.addNode(t, "node-a")
	for _, c := range []struct{ method, path, body string }{
		{"GET", "", ""}, {"POST", "", goodNode}, {"GET", "/" + id, ""}, {"PATCH", "/" + id, `{"location":"x"}`},
		{"DELETE", "/" + id, ""}, {"POST", "/" + id + "/join-token", "{}"}, {"POST", "/" + id + "/mode", `{"mode":"DRAINING"}`},
	} {
		if status, body := a.call(t, c.method, c.path, "", c.body); status != 401 || strings.Contains(body, "node-a") {
			t.Errorf("%s %s by nobody: %d %s", c.method, c.path, status, body)
		}
		if status, body := a.call(t, c.method, c.path, a.person, c.body); status != 403 || strings.Contains(body, "node-a") {
			t.Errorf("%s %s by a customer: %d %s", c.method, c.path, status, body)
		}
	}
	if n := a.node(t, id); n.Mode() != "ACTIVE" || n.Location() != "" {
		t.Error("a refused request changed the node")
	}
}

func TestNodeFromAddingToDeleting(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	status, body := a.call(t, "POST", "", a.operator, goodNode)
	if status != 201 {
		t.Fatalf("add: %d %s", status, body)
	}
	var made struct {
		ID        string   `json:"id"`
		Status    string   `json:"status"`
		Addresses []string `json:"public_addresses"`
		CPU       int64    `json:"overcommit_cpu_percent"`
		Memory    int64    `json:"overcommit_memory_percent"`
		Join      struct {
			Command   string `json:"command"`
			ExpiresAt string `json:"expires_at"`
		} `json:"join"`
	}
	if err := json.Unmarshal([]byte(body), &made); err != nil {
		t.Fatal(err)
	}
	if made.Status != "OFFLINE" || len(made.Addresses) != 2 || made.CPU != 200 || made.Memory != 100 || made.Join.ExpiresAt == "" {
		t.Errorf("made %+v", made)
	}
	fields := strings.Fields(made.Join.Command)
	if len(fields) != 5 || fields[0] != "wings" || fields[1] != "join" || fields[2] != "https://"+a.Addr() {
		t.Fatalf("join command %q", made.Join.Command)
	}
	dir := t.TempDir()
	if id, err := link.Join(t.Context(), fields[2], fields[4], dir, "test"); err != nil || id != made.ID {
		t.Fatalf("the printed command joins as %s, %v", id, err)
	}
	for _, secret := range []string{fields[4], strings.Split(fields[4], ".")[0], hashToken(strings.Split(fields[4], ".")[0])} {
		if _, body := a.call(t, "GET", "/"+made.ID, a.operator, ""); strings.Contains(body, secret) {
			t.Error("a token or its hash can be read")
		}
	}
	if status, body = a.call(t, "PATCH", "/"+made.ID, a.operator, `{"location":"Paris","labels":{}}`); status != 200 || !strings.Contains(body, `"Paris"`) {
		t.Errorf("edit: %d %s", status, body)
	}
	if status, body = a.call(t, "POST", "/"+made.ID+"/mode", a.operator, `{"mode":"DRAINING"}`); status != 200 || !strings.Contains(body, `"mode":"DRAINING"`) {
		t.Errorf("drain: %d %s", status, body)
	}
	if status, body = a.call(t, "GET", "", a.operator, ""); status != 200 || strings.Count(body, `"name":"fra-1"`) != 1 {
		t.Errorf("list: %d %s", status, body)
	}
	a.placed.servers = 2
	if status, body = a.call(t, "DELETE", "/"+made.ID, a.operator, ""); status != 409 || !strings.Contains(body, "node_has_servers") {
		t.Errorf("delete with servers: %d %s", status, body)
	}
	if status, _ = a.call(t, "DELETE", "/"+made.ID+"?force=perhaps", a.operator, ""); status != 400 {
		t.Errorf("a force that is none: %d", status)
	}
	if status, body = a.call(t, "DELETE", "/"+made.ID+"?force=true", a.operator, ""); status != 204 {
		t.Errorf("delete by force: %d %s", status, body)
	}
	if status, _ = a.call(t, "GET", "/"+made.ID, a.operator, ""); status != 404 {
		t.Errorf("after the deletion: %d", status)
	}
	if left := count(t, a.app, collections.NodeCertificates, dbx.HashExp{"node": made.ID}); left != 0 {
		t.Errorf("%d certificates are left", left)
	}
	for _, action := range []string{"node.created", "node.enrolled", "node.updated", "node.mode_changed", "node.deleted"} {
		if n := count(t, a.app, collections.AuditLogs, dbx.HashExp{"action": action, "resource": made.ID}); n != 1 {
			t.Errorf("%d audit rows of %s", n, action)
		}
		if n := count(t, a.app, collections.Events, dbx.HashExp{"kind": action, "subject": made.ID}); n != 1 {
			t.Errorf("%d events of %s", n, action)
		}
	}
}

func TestWrongInputNamesItsField(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	if status, body := a.call(t, "POST", "", a.operator, goodNode); status != 201 {
		t.Fatalf("the good one: %d %s", status, body)
	}
	for _, c := range []struct{ name, from, to, field string }{
		{"no name", `"name":"fra-1",`, ``, "name"},
		{"a taken name", `"x"`, `"x"`, "name"},
		{"capitals in the name", `"fra-1",`, `"FRA",`, "name"},
		{"markup in the name", `"fra-1",`, `"<img onerror=x>",`, "name"},
		{"a name that ends with a dash", `"fra-1",`, `"a-",`, "name"},
		{"a long name", `"fra-1",`, `"` + strings.Repeat("a", 65) + `",`, "name"},
		{"a domain with a blank", `fra-1.example.com`, `fra 1`, "fqdn"},
		{"no addresses", `["203.0.113.7","2001:db8::1"]`, `[]`, "public_addresses"},
		{"an address that is none", `203.0.113.7`, `203.0.113.7:80`, "public_addresses"},
		{"an address twice", `2001:db8::1`, `203.0.113.7`, "public_addresses"},
		{"no cores", `8000`, `0`, "cpu_millicores"},
		{"cores as text", `8000`, `"8000"`, "cpu_millicores"},
		{"half a core's thousandth", `8000`, `8000.5`, "cpu_millicores"},
		{"negative memory", `32768`, `-1`, "memory_mib"},
		{"too much disk", `500000`, `99999999999999`, "disk_mib"},
		{"overcommit below 100", `percent":200`, `percent":99`, "overcommit_cpu_percent"},
		{"overcommit above 1000", `percent":200`, `percent":1001`, "overcommit_cpu_percent"},
		{"a label with a blank", `"tier"`, `"ti er"`, "labels"},
		{"a long label", `"fast"`, `"` + strings.Repeat("x", 64) + `"`, "labels"},
		{"a long location", `Frankfurt`, strings.Repeat("ü", 81), "location"},
		{"a field that is not ours", `"location"`, `"mode":"ACTIVE","location"`, "mode"},
	} {
		status, body := a.call(t, "POST", "", a.operator, strings.Replace(goodNode, c.from, c.to, 1))
		var answer struct {
			Data map[string]access.FieldError `json:"data"`
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatal(err)
		}
		if status != 400 || len(answer.Data) != 1 || answer.Data[c.field].Message == "" {
			t.Errorf("%s: %d %s", c.name, status, body)
		}
	}
	if n := count(t, a.app, collections.Nodes, dbx.HashExp{"mode": "ACTIVE"}); n != 1 {
		t.Errorf("%d nodes", n)
	}
	for _, id := range []string{"nosuchnode00001", "..", "x"} {
		for _, c := range []struct{ method, path, body string }{
			{"GET", "", ""}, {"PATCH", "", `{}`}, {"DELETE", "", ""}, {"POST", "/join-token", "{}"}, {"POST", "/mode", `{"mode":"ACTIVE"}`},
		} {
			if status, body := a.call(t, c.method, "/"+id+c.path, a.operator, c.body); status != 404 && id != ".." {
				t.Errorf("%s of node %s: %d %s", c.method, id, status, body)
			}
		}
	}
	id, _ := a.addNode(t, "other")
	if status, body := a.call(t, "POST", "/"+id+"/mode", a.operator, `{"mode":"OFFLINE"}`); status != 400 || !strings.Contains(body, `"mode"`) {
		t.Errorf("a mode that is none: %d %s", status, body)
	}
	if status, body := a.call(t, "PATCH", "/"+id, a.operator, `{"name":"fra-1"}`); status != 400 || !strings.Contains(body, "taken") {
		t.Errorf("renaming to a taken name: %d %s", status, body)
	}
}

func TestDeletionIsOneWithWhatOtherRoomsForget(t *testing.T) {
	t.Parallel()
	var forgot []string
	p := startPanel(t, func(c *Config) {
		c.Forget = []func(core.App, string) error{
			func(_ core.App, node string) error { forgot = append(forgot, node); return nil },
			func(core.App, string) error {
				if len(forgot) == 1 {
					return errBroken
				}
				return nil
			},
		}
	})
	id, _ := p.addNode(t, "node-a")
	if err := p.DeleteNode(operator, id, false); !errors.Is(err, errBroken) {
		t.Fatalf("got %v", err)
	}
	p.node(t, id) // still there
	if n := count(t, p.app, collections.AuditLogs, dbx.HashExp{"action": "node.deleted"}); n != 0 {
		t.Error("a deletion that failed is in the audit log")
	}
	if err := p.DeleteNode(operator, id, false); err != nil || len(forgot) != 2 {
		t.Errorf("the second time: %v, %v", err, forgot)
	}
}

func TestLocalNodeIsMadeOnceAndJoinsOnce(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	in := LocalNode{Capacity: wire.Capacity{CPUMillicores: 2000, MemoryMiB: 4096, DiskMiB: 20_000}}
	id, token, need, err := p.EnsureLocalNode(in)
	if err != nil || !need || token == "" {
		t.Fatalf("the first time: %q, %t, %v", token, need, err)
	}
	again, second, need, err := p.EnsureLocalNode(in) // it was killed before it joined
	if err != nil || !need || again != id || second == token {
		t.Fatalf("before joining: %s, %t, %v", again, need, err)
	}
	dir := t.TempDir()
	if _, err := link.Join(t.Context(), "https://"+p.PublicAddress(), second, dir, "test"); err != nil {
		t.Fatal(err)
	}
	if in.Identity, err = link.Joined(dir); err != nil {
		t.Fatal(err)
	}
	if again, token, need, err = p.EnsureLocalNode(in); err != nil || need || token != "" || again != id {
		t.Errorf("after joining: %s, %q, %t, %v", again, token, need, err)
	}
	in.Identity = "" // its folder was lost
	if _, token, need, err = p.EnsureLocalNode(in); err != nil || !need || token == "" {
		t.Errorf("with its folder lost: %q, %t, %v", token, need, err)
	}
	if n := count(t, p.app, collections.Nodes, dbx.HashExp{"mode": "ACTIVE"}); n != 1 {
		t.Errorf("%d nodes", n)
	}
	if n := count(t, p.app, collections.AuditLogs, dbx.HashExp{"actor_type": audit.System.Type, "action": "node.created"}); n != 1 {
		t.Errorf("%d audit rows", n)
	}
}
