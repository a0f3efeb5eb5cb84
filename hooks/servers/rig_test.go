package servers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/blueprints"
	"github.com/mambahost/mamba/blueprints/render"
	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/catalog"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/agent"
	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/fake"
	"github.com/mambahost/mamba/wings/wire"
)

func TestMain(m *testing.M) {
	wholeCounts()
	os.Exit(collectionstest.Run(func() int {
		code := m.Run()
		if left := collectionstest.LeftBehind(10 * time.Second); left != "" && code == 0 {
			fmt.Fprintln(os.Stderr, "goroutines left behind:\n"+left)
			return 1
		}
		return code
	}))
}

func newApp(t testing.TB) core.App { return collectionstest.Base(t) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var quiet = slog.New(slog.DiscardHandler)

// blueprint is a game with every kind of variable and several ports.
const blueprint = `
schema: 1
id: testgame
name: Test game
version: 1.0.0
summary: A game for tests.
categories: [tests]
variants:
  - {id: usual, name: Usual, image: mamba.test/game}
  - {id: other, name: Other, image: mamba.test/game}
  - {id: inner, name: Inner, image: mamba.test/game, hidden: true}
startup: [/game, "{{var.PASSWORD}}"]
work_dir: /data
stop: {command: stop, timeout_s: 10}
ready: {log: '^ready to play$', timeout_s: 60}
env: {MOTD: "{{var.MOTD}}", PASSWORD: "{{var.PASSWORD}}", MODE: "{{var.MODE}}", SLOTS: "{{var.SLOTS}}"}
ports:
  - {name: game, protocol: both, container_port: 7777}
  - {name: voice, protocol: udp, container_port: 9000, count: 2}
variables:
  - {key: MOTD, name: Greeting, type: string, default: hi, rules: {max_length: 40}}
  - {key: SLOTS, name: Slots, type: int, default: 10, rules: {required: true, min: 1, max: 100}}
  - {key: PASSWORD, name: Password, type: secret, rules: {min_length: 3, max_length: 80}}
  - {key: MODE, name: Mode, type: enum, default: easy, rules: {in: [{value: easy}, {value: hard}]}}
  - {key: EXIT, name: Exit code, type: int, default: 0, user_view: false, user_edit: false}
  - {key: TAKES, name: Install time, type: string, default: 1s, user_view: false, user_edit: false}
install:
  image: mamba.test/setup
  entrypoint: [/bin/sh, -e]
  env: {EXIT: "{{var.EXIT}}", TAKES: "{{var.TAKES}}"}
  timeout_s: 36000
crash: {max_attempts: 2, backoff_min_ms: 1000, backoff_max_ms: 4000, stable_s: 600}
`

// world is a panel with the rooms below servers, all real, and the API on its real router.
type world struct {
	*Servers
	t     testing.TB
	app   core.App
	mux   http.Handler
	nodes *nodes

	owner, stranger, member, friend, unverified, super string // tokens
	tenant, other                                      string
	games                                              map[string]string // blueprint version by number
}

func newWorld(t testing.TB) *world {
	t.Helper()
	app := newApp(t)
	w := &world{t: t, app: app, nodes: &nodes{t: t, by: map[string]*node{}}, games: map[string]string{}}
	guard := func(e *core.ModelEvent) error {
		if err := collections.Guard(e.Context, e.Model.TableName()); err != nil {
			return err
		}
		return e.Next()
	}
	app.OnModelCreate().BindFunc(guard)
	app.OnModelUpdate().BindFunc(guard)
	app.OnModelDelete().BindFunc(guard)
	master, err := secrets.NewMaster(bytes.Repeat([]byte{7}, 32))
	must(t, err)
	keeper, err := secrets.New(app, master)
	must(t, err)
	chain, err := audit.New(keeper.Derive("audit"), nil, quiet)
	must(t, err)
	outbox := events.New(app, nil, quiet)
	book := incidents.New(nil)
	queue := jobs.New(app, jobs.Config{PollInterval: 30 * time.Second, Log: quiet, DiedLocks: []collections.Lock{incidents.Lock},
		Died: func(tx core.App, j *collections.Job) error {
			return book.Open(tx, incidents.Incident{Kind: "job.dead", Fingerprint: "job.dead:" + j.Id, Severity: "warning", Title: j.Kind(), Detail: j.LastError()})
		},
		Changed: func(tx core.App, j *collections.Job) {
			outbox.Broadcast(tx, j.Tenant(), events.Message{Type: "job", ID: j.Id, Rev: j.Rev(), Server: j.Subject(), Data: jobs.View(j)})
		}})
	door, err := access.New(access.Config{IntentKey: keeper.Derive("intent"), Auditor: chain, Log: quiet})
	must(t, err)
	people, err := tenancy.New(tenancy.Config{Auditor: chain, Events: outbox, Idempotency: door, Sessions: door, Keys: door, Jobs: queue, App: app,
		InviteKey: keeper.Derive("invite"), Confirm: door.Confirm})
	must(t, err)
	places, err := alloc.New(chain)
	must(t, err)
	w.Servers = New(Config{
		App: app, Access: door, Tenancy: people, Alloc: places, Catalog: catalog.New(quiet), Jobs: queue, Events: outbox, Audit: chain,
		Incidents: book, Secrets: keeper, Nodes: w.nodes, Log: quiet,
	})
	t.Cleanup(w.Servers.Stop)
	w.nodes.servers = w.Servers
	w.populate()
	r, err := apis.NewRouter(app)
	must(t, err)
	g := r.Group("/api/v1")
	access.Door(g)
	w.Routes(g)
	w.mux, err = r.BuildMux()
	must(t, err)
	return w
}

// populate makes people, two organisations, two versions of the game and nobody's node.
func (w *world) populate() {
	w.t.Helper()
	var owner, stranger access.Actor
	owner, w.owner = w.user("owner", true)
	stranger, w.stranger = w.user("stranger", true)
	member, token := w.user("member", true)
	w.member = token
	friend, token := w.user("friend", true)
	w.friend = token
	unverified, token := w.user("unverified", false)
	w.unverified = token
	root := core.NewRecord(must2(w.app.FindCollectionByNameOrId(core.CollectionNameSuperusers))(w.t))
	root.SetEmail("root@example.org")
	root.SetPassword("a-long-password")
	must(w.t, w.app.Save(root))
	w.super = must2(root.NewAuthToken())(w.t)
	must(w.t, w.tx(func(tx core.App) error {
		t, err := w.Tenancy.Create(tx, owner, "Acme", "acme")
		if err != nil {
			return err
		}
		w.tenant = t.Id
		for id, role := range map[string]string{member.ID: tenancy.RoleMember, unverified.ID: tenancy.RoleAdmin, friend.ID: tenancy.RoleMember} {
			if err := w.Tenancy.Join(tx, owner, t, id, role); err != nil {
				return err
			}
		}
		return nil
	}))
	must(w.t, w.tx(func(tx core.App) error {
		o, err := w.Tenancy.Create(tx, stranger, "Others", "others")
		if err != nil {
			return err
		}
		w.other = o.Id
		return nil
	}))
	must(w.t, w.tx(func(tx core.App) error {
		for _, version := range []string{"1.0.0", "1.1.0"} {
			v, err := w.Catalog.Publish(tx, bundle(w.t, strings.Replace(blueprint, "version: 1.0.0", "version: "+version, 1)), "shipped")
			if err != nil {
				return err
			}
			w.games[version] = v.Id
		}
		return nil
	}))
}

func must2[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T { t.Helper(); must(t, err); return v }
}

func bundle(t testing.TB, source string) *blueprints.Bundle {
	t.Helper()
	b, err := blueprints.Load(fstest.MapFS{blueprints.FileName: {Data: []byte(source)}})
	must(t, err)
	return b
}

func (w *world) user(name string, verified bool) (access.Actor, string) {
	w.t.Helper()
	r := core.NewRecord(must2(w.app.FindCollectionByNameOrId("users"))(w.t))
	r.SetEmail(name + "@example.org")
	r.SetPassword("a-long-password")
	r.SetVerified(verified)
	r.Set("name", name)
	must(w.t, w.app.Save(r))
	return access.Actor{Type: access.TypeUser, ID: r.Id, Email: r.Email(), Name: name, Verified: verified}, must2(r.NewAuthToken())(w.t)
}

// bindFriend narrows the friend of the tenant to one server.
func (w *world) bindFriend(server string) {
	w.t.Helper()
	_, err := w.app.NonconcurrentDB().NewQuery(`UPDATE role_bindings SET server = {:server} WHERE member IN
		(SELECT m.id FROM tenant_members m JOIN users u ON u.id = m.user WHERE u.name = 'friend')`).Bind(dbx.Params{"server": server}).Execute()
	must(w.t, err)
}

func (w *world) tx(fn func(tx core.App) error) error { return collections.Tx(w.app, nil, fn) }

func (w *world) set(table, id, column string, value any) {
	w.t.Helper()
	_, err := w.app.NonconcurrentDB().Update(table, dbx.Params{column: value}, dbx.HashExp{"id": id}).Execute()
	must(w.t, err)
}

// reply is what came back from the API.
type reply struct {
	status int
	raw    string
	header http.Header
	json   map[string]any
}

// do sends a request as the holder of a token in the tenant Acme, unless X-Tenant is given.
func (w *world) do(token, method, path, body string, headers ...string) reply {
	w.t.Helper()
	req := httptest.NewRequest(method, "/api/v1/"+path, strings.NewReader(body))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	req.Header.Set(access.TenantHeader, w.tenant)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	w.mux.ServeHTTP(rec, req)
	r := reply{status: rec.Code, raw: rec.Body.String(), header: rec.Header()}
	_ = json.Unmarshal(rec.Body.Bytes(), &r.json)
	return r
}

// at walks a decoded answer: "server.status", "data.limits.x" prefers whole keys.
func (r reply) at(path string) any {
	var v any = r.json
	for path != "" {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		if whole, ok := m[path]; ok {
			return whole
		}
		head, rest, _ := strings.Cut(path, ".")
		v, path = m[head], rest
	}
	return v
}

// want checks a refusal: status, code, and a field when one is to blame.
func (r reply) want(t testing.TB, status int, code, field string) {
	t.Helper()
	if r.status != status || r.at("code") != code {
		t.Fatalf("got %d %s, want %d %s", r.status, r.raw, status, code)
	}
	if field != "" {
		fields, _ := r.json["data"].(map[string]any)
		if _, ok := fields[field]; !ok || len(fields) != 1 {
			t.Fatalf("the fields to blame are %v, want %s alone", fields, field)
		}
	}
	if s, _ := r.at("message").(string); len(s) < 12 || strings.ContainsAny(s, "{}") || !strings.HasSuffix(s, ".") {
		t.Errorf("the customer reads %q", s)
	}
}

const small = `"limits":{"cpu_millicores":100,"memory_mib":64,"disk_gib":1}`

// create makes a server through the API.
func (w *world) create(body string, headers ...string) reply {
	w.t.Helper()
	if body == "" {
		body = `{"name":"one","blueprint":"testgame","start":true,` + small + `}`
	}
	return w.do(w.owner, "POST", "servers", body, headers...)
}

func (w *world) mustCreate(body string) string {
	w.t.Helper()
	r := w.create(body)
	if r.status != http.StatusAccepted {
		w.t.Fatalf("create: %d %s", r.status, r.raw)
	}
	return r.at("server.id").(string)
}

func (w *world) row(id string) *collections.Server {
	w.t.Helper()
	return must2(collections.FindServer(w.app, id))(w.t)
}

func (w *world) act(id string, a Action) reply {
	w.t.Helper()
	return w.do(w.owner, "POST", "servers/"+id+"/actions", fmt.Sprintf(`{"action":%q}`, a))
}

func (w *world) job(id string) *collections.Job {
	w.t.Helper()
	return must2(collections.FindJob(w.app, id))(w.t)
}

// latestJob of a server.
func (w *world) latestJob(server string) *collections.Job {
	w.t.Helper()
	all := must2(collections.Every[collections.Job](w.app, collections.Jobs, "rowid DESC", 1, dbx.HashExp{"subject": server}))(w.t)
	if len(all) == 0 {
		w.t.Fatalf("server %s has no job", server)
	}
	return all[0]
}

// jobOf returns the newest job of a kind that a server has.
func (w *world) jobOf(server, kind string) *collections.Job {
	w.t.Helper()
	all := must2(collections.Every[collections.Job](w.app, collections.Jobs, "rowid DESC", 1, dbx.HashExp{"subject": server, "kind": kind}))(w.t)
	if len(all) == 0 {
		w.t.Fatalf("server %s has no job %s", server, kind)
	}
	return all[0]
}

// bare waits until a server whose install failed holds nothing, on the panel and on its node.
func (w *world) bare(id string, n *node) {
	w.t.Helper()
	eventually(w.t, time.Minute, "the placement is withdrawn", func() bool { return gone(w.row(id)) })
	if held := w.portsHeld(id); held != 0 {
		w.t.Errorf("a failed install holds %d ports", held)
	}
	if o, err := n.agent.Get(id); err != nil || o.State != wire.StateAbsent {
		w.t.Errorf("its node says %s (%v)", o.State, err)
	}
	if specs := must2(w.Specs(w.app, n.id))(w.t); slices.ContainsFunc(specs, func(s wire.Spec) bool { return s.ServerID == id }) {
		w.t.Error("its node is still told of it")
	}
	eventually(w.t, time.Minute, "the withdrawal is done", func() bool { return w.jobOf(id, "WithdrawServer").State() == jobs.Done })
}

func (w *world) count(table string, where dbx.Expression) int {
	w.t.Helper()
	return int(must2(w.app.CountRecords(table, where))(w.t))
}

// portsHeld counts the ports that the pools think a server has; its allocation has to agree.
func (w *world) portsHeld(server string) int {
	w.t.Helper()
	n := w.count(collections.PortPools, dbx.HashExp{"allocated_to_server": server})
	active := w.count(collections.Allocations, dbx.HashExp{"server": server, "status": alloc.StatusActive})
	if (n > 0) != (active == 1) || active > 1 {
		w.t.Errorf("server %s has %d ports in the pools and %d active allocations", server, n, active)
	}
	return n
}

// addNode makes an ONLINE node with ports and no machine behind it.
func (w *world) addNode(name, ports string) string {
	w.t.Helper()
	n := must2(collections.NewNode(w.app))(w.t)
	for k, v := range map[string]any{"name": name, "mode": "ACTIVE", "status": "ONLINE", "location": "Berlin", "public_addresses": []string{"127.0.0.1"},
		"cpu_millicores": 64_000, "memory_mib": 64 << 10, "disk_mib": 1 << 20} {
		n.Set(k, v)
	}
	must(w.t, collections.PermitFor("fleet").Save(w.app, n))
	if ports != "" {
		must(w.t, w.tx(func(tx core.App) error {
			_, err := w.Alloc.AddPorts(tx, n.Id, "127.0.0.1", ports, []wire.Protocol{wire.TCP, wire.UDP})
			return err
		}))
	}
	return n.Id
}

// nodes is the fleet: agents of wings on fake engines, reached without a network.
type nodes struct {
	t       testing.TB
	servers *Servers

	mu sync.Mutex
	by map[string]*node // guarded by mu
}

// node is one machine with its wings.
type node struct {
	id    string
	fleet *nodes
	agent *agent.Agent
	m     *fake.Machine
	eng   engine.Engine
	http  *httptest.Server // its handler, for consoles; nil until asked for

	mu      sync.Mutex
	away    bool          // guarded by mu
	refuse  error         // what Push answers instead to a Spec that wants a server; guarded by mu
	hold    chan struct{} // Push waits for it when it is not nil; guarded by mu
	queue   []wire.Event  // reported, not delivered; guarded by mu
	ring    chan struct{} // capacity 1: something may be delivered
	stop    chan struct{}
	stopped chan struct{}
}

// machine adds a node with a running agent.
func (w *world) machine(name, ports string) *node {
	w.t.Helper()
	n := &node{id: w.addNode(name, ports), fleet: w.nodes, m: fake.New(fake.Config{}), ring: make(chan struct{}, 1),
		stop: make(chan struct{}), stopped: make(chan struct{})}
	n.m.SetImage("mamba.test/game", fake.Image{Present: true, Game: game})
	n.m.SetImage("mamba.test/setup", fake.Image{Present: true, Game: setup})
	n.eng = n.m.Engine(n.id)
	uid, gid := 0, 0
	if os.Geteuid() != 0 {
		uid, gid = os.Getuid(), os.Getgid()
	}
	n.agent = must2(agent.New(agent.Config{Engine: n.eng, Dir: w.t.TempDir(), Reporter: n, Render: render.Apply, Logger: quiet, UID: uid, GID: gid}))(w.t)
	must(w.t, n.agent.Start(context.Background()))
	go n.deliver()
	w.nodes.mu.Lock()
	w.nodes.by[n.id] = n
	w.nodes.mu.Unlock()
	w.t.Cleanup(n.close)
	return n
}

func (n *node) close() {
	n.agent.Stop()
	_ = n.eng.Close()
	n.m.Close()
	close(n.stop)
	<-n.stopped
}

// Report implements agent.Reporter: what is told is kept until the panel can be reached.
func (n *node) Report(e wire.Event) error {
	n.mu.Lock()
	n.queue = append(n.queue, e)
	n.mu.Unlock()
	n.nudge()
	return nil
}

func (n *node) nudge() {
	select {
	case n.ring <- struct{}{}:
	default:
	}
}

// deliver is the link's spool: events reach the panel in order, once, while the node is not away.
func (n *node) deliver() {
	defer close(n.stopped)
	for {
		select {
		case <-n.stop:
			return
		case <-n.ring:
		}
		for n.one() {
		}
	}
}

func (n *node) one() bool {
	n.mu.Lock()
	if n.away || len(n.queue) == 0 {
		n.mu.Unlock()
		return false
	}
	e := n.queue[0]
	n.queue = n.queue[1:]
	n.mu.Unlock()
	if err := n.fleet.servers.report(n.id, e); err != nil {
		n.fleet.t.Errorf("event %s: %v", e.Kind, err)
	}
	return true
}

// report hands an event to the room as fleet does, with the locks that Placements is promised.
func (s *Servers) report(node string, e wire.Event) error {
	held, perhaps := []collections.Lock{collections.Lock("node:" + node)}, rare
	if row, err := collections.FindServer(s.App, subjectOf(e)); err == nil {
		held, perhaps = append(held, lock(row.Id)), append(locks(row.Tenant()), rare...)
	}
	return collections.Sparing(held, perhaps, func(locks []collections.Lock) error {
		return collections.Tx(s.App, locks, func(tx core.App) error { return s.take(tx, node, e) })
	})
}

func (s *Servers) take(tx core.App, node string, e wire.Event) error {
	switch e.Kind {
	case wire.EventObserved:
		return s.Observe(tx, node, *e.Observed)
	case wire.EventCrash:
		return s.Crashed(tx, node, *e.Crash)
	case wire.EventInstalled:
		return s.Installed(tx, node, *e.Install)
	case wire.EventUnknown:
		return s.Unknown(tx, node, *e.Unknown)
	}
	return fmt.Errorf("event %s is not known", e.Kind)
}

// subjectOf is the server that an event is about.
func subjectOf(e wire.Event) string {
	switch {
	case e.Observed != nil:
		return e.Observed.ServerID
	case e.Crash != nil:
		return e.Crash.ServerID
	case e.Install != nil:
		return e.Install.ServerID
	}
	return ""
}

// setAway cuts the node off, or brings it back as fleet does: status, phases, then a full sync.
func (w *world) setAway(n *node, away bool) {
	w.t.Helper()
	n.mu.Lock()
	n.away = away
	n.mu.Unlock()
	w.status(n.id, !away)
	if away {
		return
	}
	w.sync(n)
	n.nudge()
}

// refusing makes a node answer each Spec with an error; nil: it takes them.
func (n *node) refusing(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refuse = err
}

// holding makes Push wait until the channel is closed; nil: it does not.
func (n *node) holding(until chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hold = until
}

// status marks a node as silent or as back.
func (w *world) status(node string, online bool) {
	w.t.Helper()
	status := map[bool]string{true: "ONLINE", false: "OFFLINE"}[online]
	must(w.t, w.tx(func(tx core.App) error {
		if _, err := tx.NonconcurrentDB().Update(collections.Nodes, dbx.Params{"status": status}, dbx.HashExp{"id": node}).Execute(); err != nil {
			return err
		}
		return w.NodeStatus(tx, node, online)
	}))
}

// sync tells the node everything and takes what it knows.
func (w *world) sync(n *node) {
	w.t.Helper()
	specs := must2(w.Specs(w.app, n.id))(w.t)
	known, err := n.agent.Sync(context.Background(), wire.Sync{Specs: specs})
	if err != nil {
		w.t.Logf("sync: %v", err)
	}
	for _, o := range must2(w.News(w.app, n.id, known.Observed))(w.t) {
		must(w.t, w.tx(func(tx core.App) error { return w.Observe(tx, n.id, o) }))
	}
}

func (f *nodes) find(id string) (*node, error) {
	f.mu.Lock()
	n := f.by[id]
	f.mu.Unlock()
	if n == nil {
		return nil, fleet.ErrNodeOffline
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.away {
		return nil, fleet.ErrNodeOffline
	}
	return n, nil
}

// Push implements Nodes.
func (f *nodes) Push(ctx context.Context, id string, s wire.Spec) (wire.Observed, error) {
	n, err := f.find(id)
	if err != nil {
		return wire.Observed{}, err
	}
	n.mu.Lock()
	refuse, hold := n.refuse, n.hold
	n.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return wire.Observed{}, ctx.Err()
		}
	}
	if refuse != nil && s.Desired != wire.DesiredAbsent {
		return wire.Observed{}, refuse
	}
	o, err := n.agent.Apply(ctx, s)
	switch {
	case errors.Is(err, agent.ErrInvalid):
		return o, &wire.Error{Status: http.StatusUnprocessableEntity, Code: "invalid_spec", Message: err.Error()}
	case errors.Is(err, agent.ErrSuperseded):
		return o, &wire.Error{Status: http.StatusConflict, Code: "superseded", Message: err.Error()}
	}
	return o, err
}

// Console implements Nodes.
func (f *nodes) Console(ctx context.Context, id, server string, after int64) (*websocket.Conn, error) {
	n, err := f.find(id)
	if err != nil {
		return nil, err
	}
	c, res, err := websocket.DefaultDialer.DialContext(ctx, fmt.Sprintf("ws%s/v1/servers/%s/console?after=%d", strings.TrimPrefix(n.http.URL, "http"), server, after), nil)
	if err != nil && res != nil {
		return nil, &wire.Error{Status: res.StatusCode, Code: "refused", Message: err.Error()}
	}
	return c, err
}

// Do implements Nodes, over the handler of a node that has one.
func (f *nodes) Do(ctx context.Context, id, method, path string, in, out any) error {
	n, err := f.find(id)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(in)
	if err != nil || out != nil {
		return fmt.Errorf("this room asks for no answers: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, n.http.URL+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	res, err := n.http.Client().Do(req)
	if err != nil {
		return fleet.ErrNodeOffline
	}
	defer res.Body.Close()
	if res.StatusCode < 300 {
		return nil
	}
	refused := &wire.Error{}
	if err := json.NewDecoder(res.Body).Decode(refused); err != nil {
		return err
	}
	return refused
}

// game says that it is ready and takes commands until it is told to stop.
func game(p *fake.Process) int {
	p.Println("ready to play")
	signals := p.Trap()
	for {
		select {
		case <-p.Done():
			return 137
		case s := <-signals:
			if s == "SIGTERM" {
				return 0
			}
		case line := <-p.Stdin():
			switch line {
			case "stop":
				return 0
			case "crash":
				return 3
			default:
				p.Println("you said " + line)
			}
		}
	}
}

// setup is an install script.
func setup(p *fake.Process) int {
	p.Println("installing")
	if d, err := time.ParseDuration(p.Spec.Env["TAKES"]); err == nil && !p.Sleep(d) {
		return 137
	}
	code := 0
	_, _ = fmt.Sscanf(p.Spec.Env["EXIT"], "%d", &code)
	return code
}

// bubble runs a test on a whole world under a fake clock.
func bubble(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { fn(t, newWorld(t)) })
}

// work starts the queue until the end of the test.
func (w *world) work() {
	w.Jobs.Start(context.Background())
	w.t.Cleanup(w.Jobs.Stop)
}

// eventually asks five hundred times by the clock that is, real or a bubble's.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(within / 500)
	defer tick.Stop()
	for end := time.Now().Add(within); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain: %s", within, what)
		}
	}
}

// until waits for a phase.
func (w *world) until(id string, within time.Duration, p Phase) *collections.Server {
	w.t.Helper()
	var row *collections.Server
	tick := time.NewTicker(within / 500)
	defer tick.Stop()
	for end := time.Now().Add(within); ; <-tick.C {
		if row = w.row(id); Phase(row.Status()) == p {
			return row
		}
		if time.Now().After(end) {
			w.t.Fatalf("after %s server %s is %s (%s), want %s", within, id, row.Status(), row.ProblemMessage(), p)
		}
	}
}
