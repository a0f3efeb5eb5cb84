package notify

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/deploy/dev/mailcatch"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/outbound"
)

func TestMain(m *testing.M) { os.Exit(collectionstest.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// house is the room with the rooms above it on a database of its own, a real mail server, and a real HTTP
// server that plays Discord and a push service.
type house struct {
	*Notify
	t      testing.TB
	app    *core.BaseApp
	outbox *events.Outbox
	queue  *jobs.Queue
	mails  *mailcatch.Server
	web    *receiver
	send   *outbound.Client
	mux    http.Handler
	dead   chan string // ids of jobs that were given up
}

// receiver takes what is posted and answers as it is told.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []posted                           // guarded by mu
	answer func(n int, w http.ResponseWriter) // nth request to a path, from 0; nil: 204. Guarded by mu
}

type posted struct {
	path, query string
	header      http.Header
	body        string
	at          time.Time
}

func newReceiver(t testing.TB) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		raw, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		n := 0
		for _, p := range r.got {
			if p.path == req.URL.Path {
				n++
			}
		}
		r.got = append(r.got, posted{req.URL.Path, req.URL.RawQuery, req.Header.Clone(), string(raw), time.Now()})
		answer := r.answer
		r.mu.Unlock()
		if answer != nil {
			answer(n, w)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) says(answer func(n int, w http.ResponseWriter)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) at(path string) (out []posted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.got {
		if p.path == path {
			out = append(out, p)
		}
	}
	return out
}

var quiet = slog.New(slog.DiscardHandler)

func newHouse(t testing.TB, change func(*Config)) *house {
	t.Helper()
	app := collectionstest.Base(t)
	h := &house{t: t, app: app, web: newReceiver(t), dead: make(chan string, 100)}
	var err error
	h.mails, err = mailcatch.Start()
	must(t, err)
	t.Cleanup(func() { must(t, h.mails.Close()) })
	host, port, _ := strings.Cut(h.mails.Addr, ":")
	s := app.Settings()
	s.SMTP.Enabled, s.SMTP.Host = true, host
	s.SMTP.Port, err = strconv.Atoi(port)
	must(t, err)
	s.Meta.AppURL, s.Meta.AppName, s.Meta.SenderAddress = "https://panel.example", "Mamba Host", "panel@example.org"
	h.outbox = events.New(app, nil, quiet)
	h.queue = jobs.New(app, jobs.Config{Log: quiet, PollInterval: 20 * time.Millisecond, Died: func(_ core.App, j *collections.Job) error {
		h.dead <- j.Id
		return nil
	}})
	log, err := audit.New(bytes.Repeat([]byte{9}, 32), nil, quiet)
	must(t, err)
	door, err := access.New(access.Config{IntentKey: bytes.Repeat([]byte{7}, 32), Auditor: log, Alarm: func(tx core.App, a access.Actor, kind string, details map[string]any) error {
		return h.outbox.Emit(tx, events.Event{Kind: kind, SubjectType: "users", Subject: a.ID, Actor: a.ID, ActorType: a.Type, ActorName: a.Name, Payload: details})
	}})
	must(t, err)
	master, err := secrets.LoadMaster("", filepath.Join(t.TempDir(), "master.key"), func() (bool, error) { return true, nil })
	must(t, err)
	keeper, err := secrets.New(app, master)
	must(t, err)
	people, err := tenancy.New(tenancy.Config{Auditor: log, Events: h.outbox, Idempotency: door, Sessions: door, Keys: door, Jobs: h.queue, App: app, InviteKey: bytes.Repeat([]byte{5}, 32), Confirm: door.Confirm})
	must(t, err)
	h.send = outbound.New(outbound.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Redirects: -1})
	t.Cleanup(h.send.Close)
	u, err := url.Parse(h.web.URL)
	must(t, err)
	c := Config{App: app, Events: h.outbox, Jobs: h.queue, Tenancy: people, Audit: log, Secrets: keeper, Send: h.send, Hosts: []string{u.Host}, Burst: 1000, Retry: 20 * time.Millisecond, Log: quiet}
	if change != nil {
		change(&c)
	}
	h.Notify, err = New(c)
	must(t, err)
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
	must(t, err)
	g := r.Group("/api/v1")
	access.Door(g)
	h.Routes(g)
	people.Routes(g)
	h.mux, err = r.BuildMux()
	must(t, err)
	return h
}

// start lets events and jobs run.
func (h *house) start() *house {
	h.t.Helper()
	h.outbox.Start(h.t.Context())
	h.t.Cleanup(h.outbox.Stop)
	h.queue.Start(h.t.Context())
	h.t.Cleanup(h.queue.Stop)
	return h
}

type person struct {
	*core.Record
	token string
}

func (h *house) account(collection, name string, confirmed bool) person {
	h.t.Helper()
	c, err := h.app.FindCollectionByNameOrId(collection)
	must(h.t, err)
	u := core.NewRecord(c)
	u.SetEmail(name + "@example.org")
	u.SetRandomPassword()
	u.SetVerified(confirmed)
	u.Set("name", name)
	must(h.t, h.app.Save(u))
	token, err := u.NewAuthToken()
	must(h.t, err)
	return person{u, token}
}

func (h *house) person(name string) person { h.t.Helper(); return h.account("users", name, true) }

func (h *house) call(method, path, token, body string) (int, string) {
	h.t.Helper()
	req := httptest.NewRequest(method, "/api/v1"+path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	rec := httptest.NewRecorder()
	h.mux.ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

// want makes a request that has to end so, and decodes the answer.
func (h *house) want(status int, method, path, token, body string) map[string]any {
	h.t.Helper()
	got, raw := h.call(method, path, token, body)
	if got != status {
		h.t.Fatalf("%s %s: %d, wanted %d: %s", method, path, got, status, raw)
	}
	out := map[string]any{}
	if raw != "" {
		must(h.t, json.Unmarshal([]byte(raw), &out))
	}
	return out
}

func (h *house) tenant(owner person, name string) string {
	h.t.Helper()
	return h.want(201, "POST", "/tenants", owner.token, fmt.Sprintf(`{"name":%q}`, name))["id"].(string)
}

var tenancyPermit = collections.PermitFor("tenancy")

// join gives somebody a role, for one server or for all.
func (h *house) join(tenant string, p person, role, server string) {
	h.t.Helper()
	must(h.t, collections.Tx(h.app, nil, func(tx core.App) error {
		m, err := collections.NewTenantMember(tx)
		if err != nil {
			return err
		}
		m.SetTenant(tenant)
		m.SetUser(p.Id)
		m.SetJoinedAt(time.Now())
		if err := tenancyPermit.Save(tx, m); err != nil {
			return err
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
		return tenancyPermit.Save(tx, b)
	}))
}

func (h *house) leave(tenant string, p person) {
	h.t.Helper()
	m, err := h.app.FindFirstRecordByFilter(collections.TenantMembers, "tenant={:t} && user={:u}", map[string]any{"t": tenant, "u": p.Id})
	must(h.t, err)
	for _, table := range []string{collections.RoleBindings} {
		_, err = h.app.NonconcurrentDB().Delete(table, dbx.HashExp{"member": m.Id}).Execute()
		must(h.t, err)
	}
	must(h.t, tenancyPermit.Delete(h.app, m))
}

func (h *house) server(tenant, name string) string {
	h.t.Helper()
	id := core.GenerateDefaultRandomId()
	_, err := h.app.NonconcurrentDB().Insert("servers", map[string]any{
		"id": id, "tenant": tenant, "name": name, "status": "RUNNING", "desired_state": "running", "install_status": "DONE",
		"mem_limit_mb": 64, "cpu_limit_millicores": 100, "disk_gb": 1, "created": collections.Stamp(time.Now()),
	}).Execute()
	must(h.t, err)
	return id
}

func (h *house) emit(e events.Event) {
	h.t.Helper()
	must(h.t, collections.Tx(h.app, nil, func(tx core.App) error { return h.outbox.Emit(tx, e) }))
}

// crash is an event that everybody is told of who may see the server.
func crash(tenant, server string) events.Event {
	return events.Event{Kind: "server.crashed", Tenant: tenant, SubjectType: collections.Servers, Subject: server,
		Payload: map[string]any{"exit_code": 137, "out_of_memory": true, "attempt": 3, "given_up": false}}
}

func failure(tenant, server string) events.Event {
	e := crash(tenant, server)
	e.Payload = map[string]any{"exit_code": 1, "attempt": 5, "given_up": true}
	return e
}

func (h *house) rows(where dbx.HashExp) []*collections.Notification {
	h.t.Helper()
	if where == nil {
		where = dbx.HashExp{}
	}
	where["account"] = []any{"users", "_superusers", "tenants"} // all of them: an empty condition is none
	rows, err := collections.Every[collections.Notification](h.app, collections.Notifications, "created, id", 0, where)
	must(h.t, err)
	return rows
}

func (h *house) eventually(what string, ok func() bool) {
	h.t.Helper()
	collectionstest.Eventually(h.t, what, ok)
}

// settled waits until no event and no job is under way.
func (h *house) settled() {
	h.t.Helper()
	h.eventually("everything is delivered", func() bool {
		undelivered, err := h.app.CountRecords(collections.Events, dbx.HashExp{"delivered": false})
		must(h.t, err)
		open, err := h.app.CountRecords(collections.Jobs, dbx.In("state", "ready", "running", "waiting"))
		must(h.t, err)
		return undelivered == 0 && open == 0
	})
}

// hurry ends the window of a burst once that many events about servers have been told behind the bell.
func (h *house) hurry(events int) {
	h.t.Helper()
	h.eventually("the burst is over", func() bool {
		undelivered, err := h.app.CountRecords(collections.Events, dbx.HashExp{"delivered": false})
		must(h.t, err)
		return undelivered == 0 && len(h.rows(dbx.HashExp{"channel": App})) >= events
	})
	_, err := h.app.NonconcurrentDB().Update(collections.Jobs, dbx.Params{"run_at": collections.Stamp(time.Now())}, dbx.HashExp{"kind": digestJob}).Execute()
	must(h.t, err)
}

func (h *house) prefer(p person, kind, channel string, on bool) {
	h.t.Helper()
	h.want(200, "PUT", "/notifications/preferences", p.token, fmt.Sprintf(`{"kind":%q,"channel":%q,"enabled":%t}`, kind, channel, on))
}

// webhook adds one at the receiver and returns its id and path.
func (h *house) webhook(p person, base, name string) (id, path string) {
	h.t.Helper()
	path = "/hook/" + core.GenerateDefaultRandomId() + "-token"
	id = h.want(201, "POST", base, p.token, fmt.Sprintf(`{"name":%q,"url":%q}`, name, h.web.URL+path))["id"].(string)
	return id, path
}

// anotherBrowser is what a new browser at the receiver would send.
func anotherBrowser(h *house) string {
	h.t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	must(h.t, err)
	secret := make([]byte, 16)
	_, _ = rand.Read(secret)
	encode := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"endpoint":%q,"keys":{"p256dh":%q,"auth":%q}}`, h.web.URL+"/push/"+core.GenerateDefaultRandomId(), encode(key.PublicKey().Bytes()), encode(secret))
}

// browser subscribes as a browser would and returns the subscription's id and path.
func (h *house) browser(p person) (id, path string) {
	h.t.Helper()
	body := anotherBrowser(h)
	path = "/push/" + strings.Split(strings.Split(body, "/push/")[1], `"`)[0]
	return h.want(201, "POST", "/notifications/push", p.token, body)["id"].(string), path
}
