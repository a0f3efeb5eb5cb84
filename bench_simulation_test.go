//go:build bench

package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
	"github.com/mambahost/mamba/wings/wire"
)

// The simulation of docs/scale.md: many nodes with the real link in this process, one real panel and one
// real PostgreSQL, all on this machine. deploy/dev/bench.sh --only simulation runs it.

// scale is how large the simulation is.
type scale struct {
	steps    []int // nodes
	servers  int   // on each node
	tenants  int
	hold     time.Duration // for which a step is measured
	offered  []int         // state changes a second, at the last step
	ramp     time.Duration // of each of them
	pace     time.Duration // between two requests to restart a server
	patience time.Duration // for all nodes
}

func scaleOf(small bool) scale {
	if small {
		return scale{steps: []int{3, 6}, servers: 5, tenants: 10, hold: 6 * time.Second, offered: []int{20, 40}, ramp: 3 * time.Second, pace: 300 * time.Millisecond, patience: time.Minute}
	}
	return scale{steps: []int{100, 300, 1000}, servers: 50, tenants: 250, hold: time.Minute, offered: []int{50, 100, 200, 400}, ramp: 15 * time.Second, pace: 500 * time.Millisecond, patience: 10 * time.Minute}
}

// Load beside the nodes' own.
const (
	restPerChange = 3000 // seconds between two state changes of one server
	recordSpread  = 2 * time.Second
	listPace      = 100 * time.Millisecond // between two lists, whether or not those before are answered
)

func TestSimulation(t *testing.T) {
	s := newSimulation(t, scaleOf(*benchSmall))
	for _, n := range s.steps {
		s.grow(n)
		s.measure(n)
	}
	s.reconnect()
	s.push()
}

// simulation owns the panel, the nodes and what is measured of them.
type simulation struct {
	scale
	t       *testing.T
	r       *report
	house   *panel
	root    *client
	lena    *caller
	url     string
	pg      *pgxpool.Pool // of a superuser, to look
	nodes   []*fakeNode
	linked  int          // nodes that are started
	changes atomic.Int64 // state changes that were reported
	failed  atomic.Int64 // calls of nodes that had an error
	refused atomic.Int64 // requests of people in a step that had another answer than 2xx, or none
	calls   map[string]*timesOf
	arrived sync.Map // server → chan time.Time: a Spec came to its node
	columns [][]string
}

func newSimulation(t *testing.T, size scale) *simulation {
	t.Helper()
	url, env := onPostgres(t)
	s := &simulation{scale: size, t: t, r: &report{t: t}, url: url, house: newPanelOn(t, env),
		calls: map[string]*timesOf{"heartbeat": {}, "events": {}, "metrics": {}}}
	var err error
	s.pg, err = pgxpool.New(t.Context(), postgrestest.Superuser(t, url))
	must(t, err)
	t.Cleanup(s.pg.Close)
	s.house.start()
	s.root = s.house.super()
	s.root.ok("PATCH", "/api/settings", map[string]any{"rateLimits": map[string]any{"excludedIPs": []string{"127.0.0.1"}}}, nil)
	s.house.customer("lena")
	s.join()
	s.seed()
	s.lena = newCaller(t, s.house.signIn("users", "lena@example.org", seededPassword))
	return s
}

// join makes all nodes known. Their folders are in memory: their disks are not the panel's.
func (s *simulation) join() {
	s.t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "mamba-simulation")
	must(s.t, err)
	s.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s.t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, n := range s.nodes {
			wg.Go(n.stop)
		}
		wg.Wait()
	})
	all := s.steps[len(s.steps)-1]
	s.nodes = make([]*fakeNode, all)
	took := timeOf(func() {
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for i := worker; i < all; i += 4 {
					s.nodes[i] = joinFake(s.t, s.root, fmt.Sprintf("bench-%04d", i), filepath.Join(dir, strconv.Itoa(i)))
					s.nodes[i].told = s.told
				}
			})
		}
		wg.Wait()
	})
	if s.t.Failed() {
		s.t.FailNow()
	}
	s.t.Logf("%d nodes were made and joined in %.1f s", all, took.Seconds())
}

func (s *simulation) seed() {
	s.t.Helper()
	var ids []string
	for _, n := range s.nodes {
		ids = append(ids, n.id)
	}
	db := openRows(s.t, s.url, "")
	took := timeOf(func() {
		crowd{tenants: s.tenants, servers: len(ids) * s.servers, nodes: ids, desired: wire.DesiredRunning, status: "RUNNING", known: true}.fill(s.t, db)
	})
	for _, n := range s.nodes {
		_, err := db.Update("nodes", dbx.Params{"spool_id": n.spool(s.t)}, dbx.HashExp{"id": n.id}).Execute()
		must(s.t, err)
	}
	must(s.t, db.close())
	s.t.Logf("%d servers were written in %.1f s", len(ids)*s.servers, took.Seconds())
}

// told notes when a Spec came to its node.
func (s *simulation) told(server string) {
	if c, waits := s.arrived.LoadAndDelete(server); waits {
		c.(chan time.Time) <- time.Now() // capacity 1
	}
}

func (s *simulation) called(what string, took time.Duration, err error) {
	if err != nil {
		s.failed.Add(1)
		return
	}
	if o := s.calls[what]; o != nil {
		o.add(took)
	}
}

// grow links nodes until there are n, and waits until all of them are online and were told what is wanted
// of their servers.
func (s *simulation) grow(n int) {
	s.t.Helper()
	first := s.linked
	u := s.use()
	began := time.Now()
	for i, node := range s.nodes[first:n] {
		i += first
		node.start(s.t, net.IPv4(127, 1, byte(i/250), byte(1+i%250)), s.called)
	}
	s.linked = n
	online := s.until("the nodes are online", "SELECT count(*) FROM mamba.nodes WHERE status = 'ONLINE'", n)
	eventually(s.t, s.patience, "all nodes are synced", func() error {
		for i, node := range s.nodes[:n] {
			if node.synced() == 0 {
				return fmt.Errorf("node %d is not", i)
			}
		}
		return nil
	})
	synced := time.Now()
	s.columns = append(s.columns, []string{strconv.Itoa(n), strconv.Itoa(n * s.servers),
		fmt.Sprintf("%d after %.1f s", n, online.Sub(began).Seconds()), fmt.Sprintf("after %.1f s", synced.Sub(began).Seconds()), s.use().since(u)})
	s.write()
}

// until asks twice a second until a count is reached, and returns when.
func (s *simulation) until(what, query string, want int) time.Time {
	s.t.Helper()
	limit := time.After(s.patience)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		have := s.count(query)
		if have >= want {
			return time.Now()
		}
		select {
		case <-limit:
			s.t.Fatalf("%s: %d of %d after %s", what, have, want, s.patience)
		case <-tick.C:
		}
	}
}

func (s *simulation) count(query string) (n int) {
	s.t.Helper()
	must(s.t, s.pg.QueryRow(s.t.Context(), query).Scan(&n))
	return n
}

// rowsOfStep are what a column holds.
var rowsOfStep = []string{"nodes", "servers", "nodes online", "nodes told of all their servers", "processor meanwhile: panel / PostgreSQL / nodes", "processor: panel / PostgreSQL / nodes", "memory of the panel (VmRSS)",
	"heartbeat p50 / p99", "state change → durable, p50 / p99", "batch of samples p50 / p99", "samples a second", "state changes a second", "calls of nodes that failed",
	"restart → answered, p50 / p99", "restart → at the node, p50 / p99", "list p50 / p99", "requests of people that were not answered with 2xx within a minute", "sessions in PostgreSQL, on average"}

func (s *simulation) write() {
	s.r.tables = nil
	table := s.r.table("Many nodes on one panel.", slices.Concat([]string{rowsOfStep[0]}, pick(s.columns, 0))...)
	for i := 1; i < len(rowsOfStep); i++ {
		table.rows = append(table.rows, slices.Concat([]string{rowsOfStep[i]}, pick(s.columns, i)))
	}
	s.r.write()
}

func pick(columns [][]string, i int) (out []string) {
	for _, c := range columns {
		if i < len(c) {
			out = append(out, c[i])
		} else {
			out = append(out, "")
		}
	}
	return out
}

// measure holds a step: the nodes report, measure and change, people list and restart.
func (s *simulation) measure(n int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), s.hold)
	defer cancel()
	for _, o := range s.calls {
		o.drain()
	}
	failed, samples, changes, u := s.failed.Load(), s.count(countSamples), s.changes.Load(), s.use()
	began := time.Now()
	var answered, there, lists timesOf
	s.refused.Store(0)
	var waits sessions
	var wg sync.WaitGroup
	for _, node := range s.nodes[:n] {
		wg.Go(func() { s.keepRecording(ctx, node) })
	}
	wg.Go(func() { s.keepChanging(ctx, max(1, n*s.servers/restPerChange)) })
	wg.Go(func() { s.keepRestarting(ctx, &answered, &there) })
	wg.Go(func() { waits = s.watch(ctx) })
	wg.Go(func() { s.keepListing(ctx, &lists) })
	wg.Wait()
	took := time.Since(began).Seconds()
	c := &s.columns[len(s.columns)-1]
	*c = append(*c, s.use().since(u), mib(float64(memoryOf(fmt.Sprintf("/proc/%d/status", s.house.cmd.Process.Pid), "VmRSS:"))/1024),
		percentiles(s.calls["heartbeat"].drain()), percentiles(s.calls["events"].drain()), percentiles(s.calls["metrics"].drain()),
		fmt.Sprintf("%.0f", float64(s.count(countSamples)-samples)/took), fmt.Sprintf("%.0f", float64(s.changes.Load()-changes)/took), strconv.FormatInt(s.failed.Load()-failed, 10),
		percentiles(answered.drain()), percentiles(there.drain()), percentiles(lists.drain()), strconv.FormatInt(s.refused.Load(), 10), waits.String())
	s.write()
	s.t.Logf("step of %d nodes: %s", n, strings.Join(*c, " | "))
}

const countSamples = "SELECT count(*) FROM mamba_samples.samples"

// keepRecording hands in each window soon after it ended.
func (s *simulation) keepRecording(ctx context.Context, node *fakeNode) {
	for {
		window := time.Now().Unix() / wire.SampleWindowS * wire.SampleWindowS
		if !sleep(ctx, time.Until(time.Unix(window+wire.SampleWindowS, 0))+rand.N(recordSpread)) {
			return
		}
		if _, err := node.record(window); err != nil {
			s.t.Errorf("node %s: %v", node.id, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// keepChanging has servers all over change their state by themselves, so many a second.
func (s *simulation) keepChanging(ctx context.Context, perSecond int) {
	began := time.Now()
	for i := 1; sleep(ctx, time.Until(began.Add(time.Duration(i)*time.Second/time.Duration(perSecond)))); i++ {
		if err := s.nodes[rand.N(s.linked)].flip(rand.N(s.servers)); err != nil {
			s.t.Errorf("report: %v", err)
			return
		}
		s.changes.Add(1)
	}
}

// keepRestarting asks for one restart after the other and notes when it was answered and when the node
// had it.
func (s *simulation) keepRestarting(ctx context.Context, answered, there *timesOf) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for sleep(ctx, s.pace) {
		i := rand.N(s.linked * s.servers)
		server, came := crowdServer(i), make(chan time.Time, 1)
		s.arrived.Store(server, came)
		wg.Go(func() {
			asked := time.Now()
			_, err := s.lena.send("POST", s.house.url+"/api/v1/servers/"+server+"/actions", crowdTenant(i%s.tenants), map[string]string{"action": "restart"})
			if err != nil {
				s.refuse(err)
				return
			}
			answered.add(time.Since(asked))
			select {
			case at := <-came:
				there.add(at.Sub(asked))
			case <-time.After(roundWait):
				s.refuse(fmt.Errorf("the restart of %s did not come to its node", server))
			}
		})
	}
}

// keepListing asks for a page of one organisation after the other when it is due, and counts from then.
func (s *simulation) keepListing(ctx context.Context, took *timesOf) {
	var wg sync.WaitGroup
	defer wg.Wait()
	began := time.Now()
	for i := 1; ; i++ {
		due := began.Add(time.Duration(i) * listPace)
		if !sleep(ctx, time.Until(due)) {
			return
		}
		wg.Go(func() {
			if _, err := s.lena.send("GET", s.house.url+"/api/v1/servers", crowdTenant(i%s.tenants), nil); err != nil {
				s.refuse(err)
				return
			}
			took.add(time.Since(due))
		})
	}
}

// refuse counts a request without a good answer: too much load is a result, not a fault of the run.
func (s *simulation) refuse(err error) {
	if s.refused.Add(1) <= 3 {
		s.t.Logf("not counted: %v", err)
	}
}

// reconnect starts the panel anew: every node comes back at once with what the panel knows already.
func (s *simulation) reconnect() {
	s.t.Helper()
	s.house.stop()
	before := make([]int, s.linked)
	for i, n := range s.nodes[:s.linked] {
		before[i] = n.synced()
	}
	s.house.start()
	u, began := s.use(), time.Now()
	var spent string
	eventually(s.t, s.patience, "all nodes are synced", func() error {
		for i, n := range s.nodes[:s.linked] {
			if n.synced() == before[i] {
				return fmt.Errorf("node %d is not", i)
			}
		}
		return nil
	})
	told := time.Since(began)
	s.until("the panel is idle", "SELECT 1 - least(1, count(*)) FROM pg_stat_activity WHERE application_name = 'mambahost' AND state <> 'idle'", 1)
	spent = s.use().since(u)
	s.r.note("Restart of the panel: all %d nodes were linked and told what is wanted of their %d servers after %.1f s (processor: panel / PostgreSQL / nodes %s).",
		s.linked, s.linked*s.servers, told.Seconds(), spent)
	s.t.Log(s.r.notes[len(s.r.notes)-1])
	s.lena = newCaller(s.t, s.lena.who)
}

// push offers more and more state changes until the panel does not keep up.
func (s *simulation) push() {
	s.t.Helper()
	table := s.r.table(fmt.Sprintf("State changes of %d nodes, for %.0f s each.", s.linked, s.ramp.Seconds()),
		"offered", "taken", "a call of a node p50 / p99", "owed at the end", "processor: panel / PostgreSQL / nodes", "sessions in PostgreSQL, on average")
	for _, perSecond := range s.offered {
		s.calls["events"].drain()
		acked, changes, u := s.count(countAcked), s.changes.Load(), s.use()
		ctx, cancel := context.WithTimeout(s.t.Context(), s.ramp)
		var waits sessions
		var wg sync.WaitGroup
		wg.Go(func() { waits = s.watch(ctx) })
		s.keepChanging(ctx, perSecond)
		cancel()
		wg.Wait()
		taken := s.count(countAcked) - acked
		offered := s.changes.Load() - changes
		s.r.add(table, fmt.Sprintf("%.0f/s", float64(offered)/s.ramp.Seconds()), fmt.Sprintf("%.0f/s", float64(taken)/s.ramp.Seconds()),
			percentiles(s.calls["events"].drain()), strconv.FormatInt(max(0, offered-int64(taken)), 10), s.use().since(u), waits.String())
		if int64(taken) < offered*9/10 {
			break
		}
	}
}

const countAcked = "SELECT coalesce(sum(acked_seq), 0)::bigint FROM mamba.nodes"

// use is the processor time that was spent so far, in seconds, and when that was.
type use struct {
	at                     time.Time
	panel, postgres, nodes float64
}

func (s *simulation) use() use {
	s.t.Helper()
	var backend int
	must(s.t, s.pg.QueryRow(s.t.Context(), "SELECT pg_backend_pid()").Scan(&backend))
	u := use{at: time.Now(), panel: spent(s.house.cmd.Process.Pid, false), nodes: spent(os.Getpid(), false)}
	parent := parentOf(backend)
	u.postgres = spent(parent, true)
	dirs, err := os.ReadDir("/proc")
	must(s.t, err)
	for _, d := range dirs {
		if pid, err := strconv.Atoi(d.Name()); err == nil && parentOf(pid) == parent {
			u.postgres += spent(pid, false)
		}
	}
	return u
}

// since says how many cores each took.
func (u use) since(from use) string {
	d := u.at.Sub(from.at).Seconds()
	return fmt.Sprintf("%.2f / %.2f / %.2f cores", (u.panel-from.panel)/d, (u.postgres-from.postgres)/d, (u.nodes-from.nodes)/d)
}

// statOf are the fields of /proc/PID/stat after the name, which may hold anything: state, parent, …
func statOf(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')'):]), " ")
	return strings.Fields(rest)
}

func parentOf(pid int) int {
	fields := statOf(pid)
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// ticksPerSecond is what Linux counts processor time in for programs, on every machine of ours.
const ticksPerSecond = 100

// spent is the processor time of a process in seconds, with that of its children that ended if wanted.
func spent(pid int, children bool) float64 {
	fields := statOf(pid)
	if len(fields) < 15 {
		return 0
	}
	last := 13 // utime, stime
	if children {
		last = 15 // cutime, cstime
	}
	var ticks float64
	for _, f := range fields[11:last] {
		v, _ := strconv.ParseFloat(f, 64)
		ticks += v
	}
	return ticks / ticksPerSecond
}

// sessions are the panel's sessions in PostgreSQL that were at work when they were looked at, by what
// they waited for.
type sessions struct {
	looks int
	seen  map[string]int
}

// lockNames are the locks that many transactions want, by their number.
var lockNames = func() map[int64]string {
	out := map[int64]string{}
	for _, name := range []string{"alloc", "incidents", "events", "events_numbering", "audit:", "authority"} {
		out[postgres.LockKey(name)] = name
	}
	return out
}()

// watch looks ten times a second until ctx ends.
func (s *simulation) watch(ctx context.Context) sessions {
	out := sessions{seen: map[string]int{}}
	for sleep(ctx, 100*time.Millisecond) {
		rows, err := s.pg.Query(context.WithoutCancel(ctx), `SELECT coalesce(a.wait_event_type, ''), coalesce(a.wait_event, ''), a.state,
			coalesce((SELECT l.classid::bigint << 32 | l.objid::bigint FROM pg_locks l WHERE l.pid = a.pid AND NOT l.granted AND l.locktype = 'advisory' LIMIT 1), 0)
			FROM pg_stat_activity a WHERE a.datname = current_database() AND a.application_name = 'mambahost' AND a.state <> 'idle'`)
		if err != nil {
			s.t.Error(err)
			return out
		}
		out.looks++
		for rows.Next() {
			var kind, event, state string
			var key int64
			if err := rows.Scan(&kind, &event, &state, &key); err != nil {
				s.t.Error(err)
			}
			out.seen[waitName(kind, event, state, key)]++
		}
		rows.Close()
	}
	return out
}

func waitName(kind, event, state string, key int64) string {
	switch {
	case key != 0 && lockNames[key] != "":
		return "lock " + lockNames[key]
	case key != 0:
		return "lock of one node or server"
	case state != "active":
		return "in a transaction, waiting for the panel"
	case kind == "":
		return "running"
	case kind == "IO", kind == "LWLock" && strings.HasPrefix(event, "WAL"):
		return "disk"
	}
	return kind + " " + event
}

// String implements fmt.Stringer: the most frequent first.
func (s sessions) String() string {
	names := slices.SortedFunc(maps.Keys(s.seen), func(a, b string) int { return s.seen[b] - s.seen[a] })
	var out []string
	for _, n := range names {
		if share := float64(s.seen[n]) / float64(s.looks); share >= 0.05 {
			out = append(out, fmt.Sprintf("%.1f %s", share, n))
		}
	}
	return strings.Join(out, ", ")
}
