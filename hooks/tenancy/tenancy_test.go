package tenancy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tests"
	"github.com/pocketbase/pocketbase/tools/hook"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/tenancy"
)

var permit = collections.PermitFor("tenancy")

// ledger is the real audit log and outbox, and keeps what was committed through them in words.
type ledger struct {
	chain  *audit.Log
	outbox *events.Outbox

	mu    sync.Mutex
	lines []string // guarded by mu
}

func (l *ledger) add(tx core.App, line string) {
	collections.AfterCommit(tx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, line)
	})
}

func (l *ledger) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := strings.Join(l.lines, "\n")
	l.lines = nil
	return out
}

func (l *ledger) Write(tx core.App, a audit.Actor, e audit.Entry) error {
	if err := l.chain.Write(tx, a, e); err != nil {
		return err
	}
	l.add(tx, fmt.Sprintf("audit %s %s %s tenant=%s %v", a.Type, a.ID, e.Action, e.Tenant, e.Metadata))
	return nil
}

func (l *ledger) Emit(tx core.App, e events.Event) error {
	if err := l.outbox.Emit(tx, e); err != nil {
		return err
	}
	l.add(tx, fmt.Sprintf("event %s tenant=%s subject=%s public=%t", e.Kind, e.Tenant, e.Subject, e.Public))
	return nil
}

func (l *ledger) Broadcast(tx core.App, tenant string, m events.Message) {
	l.outbox.Broadcast(tx, tenant, m)
	raw, err := json.Marshal(m.Data)
	if err != nil {
		raw = []byte(err.Error())
	}
	l.add(tx, fmt.Sprintf("realtime %s %s rev=%d %s", tenant, m.Type, m.Rev, raw))
}

// proving is the sessions of a world, whose people have all shown lately who they are, or nobody has.
type proving struct {
	*access.Access
	shown atomic.Bool
}

func (p *proving) RequireProof(app core.App, a access.Actor) error {
	if p.shown.Load() {
		return nil
	}
	return p.Access.RequireProof(app, a)
}

// world is a panel with the tenant routes on its real router.
type world struct {
	*tests.TestApp
	tenancy *tenancy.Tenancy
	door    *access.Access
	ledger  *ledger
	queue   *jobs.Queue
	proof   *proving
	config  tenancy.Config
	mux     http.Handler
}

func newWorld(t testing.TB, c tenancy.Config) *world {
	t.Helper()
	app := collectionstest.New(t)
	w := &world{TestApp: app, ledger: &ledger{outbox: events.New(app, nil, nil)}}
	var err error
	if w.ledger.chain, err = audit.New(bytes.Repeat([]byte{9}, 32), nil, nil); err != nil {
		t.Fatal(err)
	}
	door, err := access.New(access.Config{IntentKey: bytes.Repeat([]byte{7}, 32), Auditor: w.ledger})
	if err != nil {
		t.Fatal(err)
	}
	w.queue = jobs.New(app, jobs.Config{})
	c.Auditor, c.Events, c.Idempotency, c.Jobs = w.ledger, w.ledger, door, w.queue
	w.proof = &proving{Access: door}
	c.Sessions, c.Keys = w.proof, door
	c.App, c.InviteKey, c.Confirm = app, bytes.Repeat([]byte{5}, 32), door.Confirm
	w.config = c
	if w.tenancy, err = tenancy.New(c); err != nil {
		t.Fatal(err)
	}
	guard := func(e *core.RecordEvent) error {
		if err := collections.Guard(e.Context, e.Record.Collection().Name); err != nil {
			return err
		}
		return e.Next()
	}
	app.OnRecordCreate().BindFunc(guard)
	app.OnRecordUpdate().BindFunc(guard)
	app.OnRecordDelete().BindFunc(guard)
	r, err := apis.NewRouter(app)
	if err != nil {
		t.Fatal(err)
	}
	r.Bind(&hook.Handler[*core.RequestEvent]{Priority: apis.DefaultLoadAuthTokenMiddlewarePriority + 1, Func: door.LoadKey})
	g := r.Group("/api/v1")
	access.Door(g)
	w.tenancy.Routes(g)
	w.door = door
	if w.mux, err = r.BuildMux(); err != nil {
		t.Fatal(err)
	}
	return w
}

// person is a signed-in account.
type person struct {
	*core.Record
	token string
}

func (p person) actor() access.Actor {
	if p.IsSuperuser() {
		return access.Actor{Type: access.TypeSuperuser, ID: p.Id, Superuser: true, Verified: true}
	}
	return access.Actor{Type: access.TypeUser, ID: p.Id, Name: p.GetString("name"), Verified: p.Verified()}
}

func (w *world) person(t testing.TB, name string, verified bool) person {
	t.Helper()
	return w.account(t, "users", name, verified)
}

func (w *world) account(t testing.TB, collection, name string, verified bool) person {
	t.Helper()
	c, err := w.FindCollectionByNameOrId(collection)
	if err != nil {
		t.Fatal(err)
	}
	u := core.NewRecord(c)
	u.SetEmail(name + "@example.test")
	u.SetRandomPassword()
	u.SetVerified(verified)
	u.Set("name", name)
	if err := w.Save(u); err != nil {
		t.Fatal(err)
	}
	token, err := u.NewAuthToken()
	if err != nil {
		t.Fatal(err)
	}
	return person{u, token}
}

// tenant makes an organisation through the API.
func (w *world) tenant(t testing.TB, owner person, name string) string {
	t.Helper()
	rec := w.call("POST", "/api/v1/tenants", owner.token, fmt.Sprintf(`{"name":%q}`, name))
	var v tenancy.View
	if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil || rec.Code != 201 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	w.ledger.take()
	return v.ID
}

// bind gives a person a role in a tenant, for one server or ("") for all of it; role "" makes him a
// member without a role.
func (w *world) bind(t testing.TB, tenant string, p person, role, server string) {
	t.Helper()
	err := collections.Tx(w, nil, func(tx core.App) error {
		m, err := collections.NewTenantMember(tx)
		if err != nil {
			return err
		}
		m.SetTenant(tenant)
		m.SetUser(p.Id)
		m.SetJoinedAt(time.Now())
		if old, err := tx.FindFirstRecordByFilter("tenant_members", "tenant={:t} && user={:u}", map[string]any{"t": tenant, "u": p.Id}); err == nil {
			m.SetProxyRecord(old)
		} else if err := permit.Save(tx, m); err != nil {
			return err
		}
		if role == "" {
			return nil
		}
		r, err := tx.FindFirstRecordByFilter("roles", "key={:k}", map[string]any{"k": role})
		if err != nil {
			return err
		}
		b, err := collections.NewRoleBinding(tx)
		if err != nil {
			return err
		}
		b.SetTenant(tenant)
		b.SetMember(m.Id)
		b.SetRole(r.Id)
		b.SetServer(server)
		return permit.Save(tx, b)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) set(t testing.TB, tenant string, fields map[string]any) {
	t.Helper()
	row, err := collections.FindTenant(w, tenant)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range fields {
		row.Set(k, v)
	}
	if err := permit.Save(w, row); err != nil {
		t.Fatal(err)
	}
}

// server puts a row of a server into the database; which blueprint and node does not matter here.
func (w *world) server(t testing.TB, tenant, id, status string, memory, cpu, disk int64) {
	t.Helper()
	_, err := w.NonconcurrentDB().Insert("servers", map[string]any{
		"id": id, "tenant": tenant, "name": id, "status": status, "desired_state": "stopped", "install_status": "DONE",
		"mem_limit_mb": memory, "cpu_limit_millicores": cpu, "disk_gb": disk, "created": time.Now().UTC().Format(time.DateTime),
	}).Execute()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) call(method, path, token, body string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	w.mux.ServeHTTP(rec, req)
	return rec
}

// want checks an answer: its status, what must be in its body, and ("!…") what must not.
func want(t *testing.T, name string, rec *httptest.ResponseRecorder, status int, texts ...string) {
	t.Helper()
	var compact bytes.Buffer
	body := rec.Body.String()
	if json.Compact(&compact, rec.Body.Bytes()) == nil {
		body = compact.String()
	}
	if rec.Code != status {
		t.Errorf("%s: status %d, want %d: %s", name, rec.Code, status, body)
	}
	for _, text := range texts {
		if absent, ok := strings.CutPrefix(text, "!"); ok {
			if strings.Contains(body, absent) {
				t.Errorf("%s: %s is in %s", name, absent, body)
			}
		} else if !strings.Contains(body, text) {
			t.Errorf("%s: %s is not in %s", name, text, body)
		}
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	if _, err := tenancy.New(tenancy.Config{}); err == nil {
		t.Error("took no auditor")
	}
	w := newWorld(t, tenancy.Config{})
	good := w.config
	good.Jobs = jobs.New(w, jobs.Config{})
	if _, err := tenancy.New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(c *tenancy.Config){
		"a negative number of tenants": func(c *tenancy.Config) { c.MaxTenants = -1 },
		"a grace that is over":         func(c *tenancy.Config) { c.Grace = -time.Hour },
		"a short key":                  func(c *tenancy.Config) { c.InviteKey = c.InviteKey[:16] },
		"nobody who confirms":          func(c *tenancy.Config) { c.Confirm = nil },
	} {
		bad := good
		bad.Jobs = jobs.New(w, jobs.Config{})
		spoil(&bad)
		if _, err := tenancy.New(bad); err == nil {
			t.Errorf("took %s", name)
		}
	}
}
