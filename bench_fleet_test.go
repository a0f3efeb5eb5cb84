//go:build bench

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
	"github.com/mambahost/mamba/wings/link"
	"github.com/mambahost/mamba/wings/wire"
)

// Nodes without an engine, and rows without number: what the measurements of databases and of many nodes
// share.

// fakeNode has the real link, and servers that are at once whatever they are asked to be.
type fakeNode struct {
	id   string
	dir  string // of its identity and spools
	link *link.Link
	told func(server string) // hears of each Spec that comes alone; set before start

	mu      sync.Mutex
	servers map[string]*wire.Observed
	order   []string // of servers, as they came
	syncs   int      // full syncs that were answered
}

// joinFake makes a node at a panel and joins it.
func joinFake(t testing.TB, root *client, name, dir string) *fakeNode {
	t.Helper()
	var node struct {
		ID   string
		Join struct{ Command string }
	}
	root.ok("POST", "/api/v1/admin/nodes", map[string]any{"name": name, "public_addresses": []string{"127.0.0.1"}, "location": "bench",
		"cpu_millicores": 4_000_000, "memory_mib": 16 << 20, "disk_mib": 1 << 30}, &node)
	words := strings.Fields(node.Join.Command) // wings join URL --token TOKEN
	_, err := link.Join(t.Context(), words[2], words[4], dir, "bench")
	must(t, err)
	return &fakeNode{id: node.ID, dir: dir, told: func(string) {}, servers: map[string]*wire.Observed{}}
}

// start links the node. from is the address of this machine that it dials from: the panel bounds the
// connections of each. called hears of its calls.
func (n *fakeNode) start(t testing.TB, from net.IP, called func(what string, took time.Duration, err error)) {
	t.Helper()
	var err error
	n.link, err = link.New(link.Config{Dir: n.dir, Facts: link.Machine(n.dir), Release: "bench", Log: slog.New(slog.DiscardHandler), Called: called,
		Dialer: &net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: from}}})
	must(t, err)
	n.link.Start(t.Context(), n.handler())
}

// spool is the identity of the node's spool, made before it is linked: a panel that knows it takes the
// node for one that was here before.
func (n *fakeNode) spool(t testing.TB) string {
	t.Helper()
	l, err := link.New(link.Config{Dir: n.dir, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	l.Stop()
	raw, err := os.ReadFile(filepath.Join(n.dir, "spool", "spool_id"))
	must(t, err)
	return strings.TrimSpace(string(raw))
}

// stop waits for what runs. A node that was not started has nothing to stop.
func (n *fakeNode) stop() {
	if n.link != nil {
		n.link.Stop()
	}
}

func (n *fakeNode) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+wire.APIPrefix+"/servers", func(w http.ResponseWriter, r *http.Request) {
		var in wire.Sync
		if json.NewDecoder(r.Body).Decode(&in) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		for i := range in.Specs {
			n.take(&in.Specs[i])
		}
		n.syncs++
		out := wire.SyncReply{Observed: []wire.Observed{}}
		for _, id := range n.order {
			out.Observed = append(out.Observed, *n.servers[id])
		}
		_ = json.NewEncoder(w).Encode(out) // the panel asks again
	})
	mux.HandleFunc("PUT "+wire.APIPrefix+"/servers/{id}", func(w http.ResponseWriter, r *http.Request) {
		var in wire.Spec
		if json.NewDecoder(r.Body).Decode(&in) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		n.told(in.ServerID)
		n.mu.Lock()
		defer n.mu.Unlock()
		_ = json.NewEncoder(w).Encode(n.take(&in))
	})
	return mux
}

// take makes a server what is wanted of it. What is known already changes nothing. Caller holds mu.
func (n *fakeNode) take(s *wire.Spec) wire.Observed {
	o := n.servers[s.ServerID]
	if o == nil {
		o = &wire.Observed{}
		n.servers[s.ServerID] = o
		n.order = append(n.order, s.ServerID)
	}
	if o.PlacementEpoch == s.PlacementEpoch && o.Generation == s.Generation {
		return *o
	}
	was := o.Revision
	*o = wire.Observed{
		ServerID: s.ServerID, PlacementEpoch: s.PlacementEpoch, Generation: s.Generation, Settled: true, Installed: s.Desired != wire.DesiredAbsent,
		RestartCount: s.RestartCount, KillCount: s.KillCount, ReinstallCount: s.ReinstallCount, DeleteID: s.DeleteID,
		State: wire.State(s.Desired), Revision: was + 1, At: time.Now().UTC(),
	}
	return *o
}

// flip changes what the i-th server is by itself, crashed or running again, and owes the panel the news.
func (n *fakeNode) flip(i int) error {
	n.mu.Lock()
	if len(n.order) == 0 {
		n.mu.Unlock()
		return nil
	}
	o := n.servers[n.order[i%len(n.order)]]
	o.Revision++
	o.At = time.Now().UTC()
	if o.State == wire.StateRunning {
		o.State, o.Settled = wire.StateStarting, false
	} else {
		o.State, o.Settled = wire.StateRunning, true
	}
	said := *o
	n.mu.Unlock()
	return n.link.Report(wire.Event{Kind: wire.EventObserved, Observed: &said})
}

// record owes the panel what each server used in a window.
func (n *fakeNode) record(window int64) (samples int, err error) {
	n.mu.Lock()
	list := make([]wire.Sample, 0, len(n.order))
	for i, id := range n.order {
		list = append(list, ingestSample(id, window, i))
	}
	n.mu.Unlock()
	return len(list), n.link.Record(list, window+wire.SampleWindowS)
}

func (n *fakeNode) synced() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.syncs
}

// onPostgres are the variables of panels on one new database of the server that bench.sh started.
func onPostgres(t testing.TB) (url string, env []string) {
	t.Helper()
	if os.Getenv(postgrestest.Variable) == "" {
		t.Fatalf("%s is not set: begin with deploy/dev/bench.sh, which starts a PostgreSQL that waits for its disk", postgrestest.Variable)
	}
	url = postgrestest.URL(t)
	return url, []string{"MAMBA_DB=" + url, "MAMBA_MASTER_KEY=" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))}
}

// openRows opens the database of an installation to write rows past the panel: PostgreSQL at url, or for
// an empty one SQLite in dir, whose panel should stand still.
func openRows(t testing.TB, url, dir string) *rows {
	t.Helper()
	if url == "" {
		db, err := core.DefaultDBConnect(filepath.Join(dir, "pb_data", "data.db"))
		must(t, err)
		return &rows{DB: db, analyze: func() error { _, err := db.NewQuery("ANALYZE").Execute(); return err }, close: db.Close}
	}
	pg, err := postgres.Open(t.Context(), postgres.Config{URL: url, MaxConns: 4})
	must(t, err)
	db, err := pg.Connect("data.db")
	must(t, err)
	return &rows{
		DB:      db,
		analyze: func() error { _, err := pg.Pool().Exec(context.WithoutCancel(t.Context()), "ANALYZE"); return err },
		close:   func() error { defer pg.Close(); return db.Close() },
	}
}

// rows is an open database. analyze does now what PocketBase and autovacuum do sooner or later.
type rows struct {
	*dbx.DB
	analyze, close func() error
}

// rowsPerInsert keeps the parameters of a statement below SQLite's 32,766.
const rowsPerInsert = 250

// insertRows writes n rows, many with each statement.
func insertRows(db dbx.Builder, table string, columns []string, n int, row func(i int) []any) error {
	for from := 0; from < n; from += rowsPerInsert {
		var q strings.Builder
		fmt.Fprintf(&q, "INSERT INTO {{%s}} ([[%s]]) VALUES ", table, strings.Join(columns, "]], [["))
		params := dbx.Params{}
		for i := from; i < min(from+rowsPerInsert, n); i++ {
			if i > from {
				q.WriteString(", ")
			}
			for j, v := range row(i) {
				name := fmt.Sprintf("p%d_%d", i-from, j)
				params[name] = v
				q.WriteString(map[bool]string{true: "({:", false: ", {:"}[j == 0] + name + "}")
			}
			q.WriteString(")")
		}
		if _, err := db.NewQuery(q.String()).Bind(params).Execute(); err != nil {
			return fmt.Errorf("fill %s: %w", table, err)
		}
	}
	return nil
}

// crowd is the load that an installation is filled with: one person owns all organisations.
type crowd struct {
	tenants, servers int
	nodes            []string // that the servers are on, each the same number of them
	desired          wire.Desired
	status           string // of the servers
	known            bool   // their nodes have said what they are: what a fakeNode says first is no news
}

const crowdAt = "2026-01-01 00:00:00.000Z"

func crowdTenant(i int) string { return fmt.Sprintf("tenant%09d", i) }

func crowdServer(i int) string { return fmt.Sprintf("server%09d", i) }

// tenantOf is whose the i-th server is.
func (c crowd) tenantOf(i int) string { return crowdTenant(i % c.tenants) }

func (c crowd) nodeOf(i int) string { return c.nodes[i*len(c.nodes)/c.servers] }

// fill writes the rows. The one user is the owner of every organisation.
func (c crowd) fill(t testing.TB, db *rows) {
	t.Helper()
	var user, role string
	var game struct {
		ID     string `db:"id"`
		Latest string `db:"latest"`
	}
	must(t, db.NewQuery("SELECT id FROM users").Row(&user))
	must(t, db.NewQuery("SELECT id FROM roles WHERE key = 'OWNER'").Row(&role))
	must(t, db.NewQuery("SELECT id, latest FROM blueprints WHERE slug = 'demo'").One(&game))
	numbered := func(prefix string, i int) string { return fmt.Sprintf("%s%09d", prefix, i) }
	must(t, db.Transactional(func(tx *dbx.Tx) error {
		fill := func(table string, n int, columns string, row func(i int) []any) error {
			return insertRows(tx, table, strings.Fields(columns), n, row)
		}
		for _, err := range []error{
			fill("tenants", c.tenants, "id name slug status quota_servers quota_memory_mib quota_cpu_millicores quota_disk_mib rev created updated", func(i int) []any {
				return []any{crowdTenant(i), fmt.Sprint("Tenant ", i), fmt.Sprint("bench-", i), "ACTIVE", 1_000_000, 1 << 40, 1 << 40, 1 << 40, 1, crowdAt, crowdAt}
			}),
			fill("tenant_members", c.tenants, "id tenant user joined_at rev created updated", func(i int) []any {
				return []any{numbered("member", i), crowdTenant(i), user, crowdAt, 1, crowdAt, crowdAt}
			}),
			fill("role_bindings", c.tenants, "id tenant member role created updated", func(i int) []any {
				return []any{numbered("rolebi", i), crowdTenant(i), numbered("member", i), role, crowdAt, crowdAt}
			}),
			fill("servers", c.servers, `id tenant name node blueprint blueprint_version variant cpu_limit_millicores mem_limit_mb disk_gb environment
				status desired_state placement_epoch generation install_status installed_at observed observed_epoch observed_generation observed_revision
				rev created updated`, func(i int) []any {
				created := time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC).Format("2006-01-02 15:04:05.000Z")
				known, seen := 0, "null"
				if c.known {
					known, seen = 1, fmt.Sprintf(`{"server_id":%q,"placement_epoch":1,"generation":1,"revision":1,"settled":true,"installed":true,"state":%q}`, crowdServer(i), c.desired)
				}
				return []any{crowdServer(i), c.tenantOf(i), fmt.Sprint("Server ", i), c.nodeOf(i), game.ID, game.Latest, "builtin", 250, 64, 1, "{}",
					c.status, string(c.desired), 1, 1, "DONE", crowdAt,
					seen, known, known, known, 1, created, crowdAt}
			}),
			fill("allocations", c.servers, "id tenant server node ip_address ports cpu_millicores memory_mib disk_mib status allocated_at created updated", func(i int) []any {
				ports := fmt.Sprintf(`[{"name":"game","host_ip":"127.0.0.1","host_port":%d,"container_port":7777,"protocol":"tcp"}]`, 1024+i%60_000)
				return []any{numbered("alloc0", i), c.tenantOf(i), crowdServer(i), c.nodeOf(i), "127.0.0.1", ports, 250, 64, 1024, "ACTIVE", crowdAt, crowdAt, crowdAt}
			}),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, db.analyze())
}

// caller sends many requests at a time over connections that stay open.
type caller struct {
	http *http.Client
	who  *client
}

func newCaller(t testing.TB, who *client) *caller {
	c := &caller{who: who, http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

// send returns the body of a 2xx answer, an error for any other.
func (c *caller) send(method, url, tenant string, body any) ([]byte, error) {
	var in io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, url, in)
	if err != nil {
		return nil, err
	}
	token, err := c.who.in.bearer(c.who.url)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", token)
	req.Header.Set("Content-Type", "application/json")
	if tenant != "" {
		req.Header.Set("X-Tenant", tenant)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode < 200 || resp.StatusCode > 299) {
		err = fmt.Errorf("%s %s: %d %.300s", method, url, resp.StatusCode, raw)
	}
	return raw, err
}

// timesOf gathers durations from many goroutines.
type timesOf struct {
	mu   sync.Mutex
	took []float64 // ms
}

func (o *timesOf) add(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.took = append(o.took, milliseconds(d))
}

// drain returns what was gathered since the last call.
func (o *timesOf) drain() []float64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := slices.Clone(o.took)
	o.took = o.took[:0]
	return out
}
