package fleet

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
	"github.com/mambahost/mamba/hooks/cluster"
	"github.com/mambahost/mamba/wings/wire"
)

// process is one panel as it runs on PostgreSQL: its own PocketBase, its own connections, its own place
// in the cluster.
type process struct {
	*panel
	cluster *cluster.Cluster
}

// processes makes n of them over one migrated database. None has started.
func processes(t *testing.T, n int) []*process {
	t.Helper()
	url := postgrestest.URL(t)
	var out []*process
	for range n {
		d := collectionstest.Open(t, url)
		app := core.NewBaseApp(core.BaseAppConfig{DataDir: t.TempDir(), EncryptionEnv: "pb_test_env", DBConnect: d.Connect})
		app.OnBootstrap().Unbind("__pbNotifyWatcherSystemHook__")
		if err := app.Bootstrap(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := app.ClearBootstrap(); err != nil {
				t.Error(err)
			}
		})
		if err := app.RunAllMigrations(); err != nil {
			t.Fatal(err)
		}
		postgres.WritePool(app, 4)
		address := unreachable(t) // free a moment ago
		c, err := cluster.New(app, cluster.Config{Database: d, Address: address, Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		p := newPanelOn(t, app, func(cfg *Config) { cfg.Cluster, cfg.Listen = c, address })
		out = append(out, &process{p, c})
	}
	return out
}

func (p *process) run(t *testing.T) error {
	t.Cleanup(func() { p.Stop(); p.cluster.Stop() })
	if err := p.cluster.Start(t.Context()); err != nil {
		return err
	}
	return p.Start(t.Context())
}

// Three panels on PostgreSQL with the real bus and list of instances start together on an empty
// database, and do everything that only one may do at the same time.
func TestThreePanelsOnPostgreSQL(t *testing.T) {
	t.Parallel()
	list := processes(t, 3)
	together := func(what string, fn func(i int, p *process) error) {
		t.Helper()
		var wg sync.WaitGroup
		for i, p := range list {
			wg.Go(func() {
				if err := fn(i, p); err != nil {
					t.Errorf("%s at instance %d: %v", what, i, err)
				}
			})
		}
		wg.Wait()
	}
	together("start", func(_ int, p *process) error { return p.run(t) })
	roots := map[string]bool{}
	for _, p := range list {
		_, fingerprint, err := p.Authority()
		if err != nil {
			t.Fatal(err)
		}
		roots[fingerprint] = true
	}
	if active := count(t, list[0].app, collections.Authorities, dbx.HashExp{"active": true}); len(roots) != 1 || active != 2 {
		t.Fatalf("%d roots, %d active authorities", len(roots), active)
	}

	w := list[0].joinWings(t, "node-a", newGame(t))
	node := w.NodeID()
	mustStart(t.Context(), w)
	for i, p := range list {
		eventually(t, "the node links to every instance", func() bool { return p.linkedHere(node) && p.knows(t, node) })
		if err := p.Do(t.Context(), node, http.MethodGet, "/v1/ping", nil, nil); err != nil {
			t.Errorf("instance %d: %v", i, err)
		}
	}
	leaders := 0
	for _, p := range list {
		if p.leads(node) {
			leaders++
		}
	}
	if leaders != 1 {
		t.Errorf("%d instances lead the node", leaders)
	}

	// A request at an instance that lost its own link goes through another, before the node is back.
	list[1].links.cut(node)
	eventually(t, "requests at an instance without a link", func() bool {
		return list[1].Do(t.Context(), node, http.MethodGet, "/v1/ping", nil, nil) == nil
	})

	m := list[1].enrolNode(t, "node-b")
	seq := int64(0)
	for range 10 {
		b := wire.EventBatch{SpoolID: "spool"}
		for range 20 {
			seq++
			b.Events = append(b.Events, wire.Event{Seq: seq, Kind: wire.EventCrash, Crash: &wire.CrashReport{ServerID: serverID(int(seq))}})
		}
		together("intake", func(_ int, p *process) error {
			acked, err := p.intake(m.id, b)
			if err == nil && acked != seq {
				err = errors.New("not all was acknowledged")
			}
			return err
		})
	}
	var effects int
	for _, p := range list {
		effects += len(told(p.placed, func(p *placements) []wire.CrashReport { return p.crashes }))
	}
	if int64(effects) != seq {
		t.Errorf("%d events had %d effects", seq, effects)
	}

	if status := list[2].beat(t, &m.cert, m.id); status != http.StatusOK {
		t.Fatalf("heartbeat: %d", status)
	}
	later := time.Now().Add(2 * wire.OfflineAfter)
	together("sweep", func(_ int, p *process) error { return p.setAlive(m.id, false, later) })
	if got := list[0].book.count(t, "node.offline:"+m.id); got != 1 {
		t.Errorf("the silence was announced %d times", got)
	}

	id, joined := list[0].addNode(t, "node-c")
	token, err := wire.ParseJoinToken(joined)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	taken := 0
	together("join", func(_ int, p *process) error {
		_, request := csr(t)
		_, err := p.enrol(wire.EnrolRequest{Token: token.Token, CSR: request}, "203.0.113.9", time.Now().UTC())
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			taken++
		case !errors.Is(err, errJoinToken):
			return err
		}
		return nil
	})
	if taken != 1 {
		t.Errorf("the join token of %s was taken %d times", id, taken)
	}

	for _, p := range list {
		eventually(t, "linked everywhere again", func() bool { return p.linkedHere(node) })
	}
	var sessions []*session
	for _, p := range list {
		sessions = append(sessions, p.links.control(node))
	}
	began := time.Now()
	if err := list[0].DeleteNode(operator, node, false); err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		<-s.CloseChan()
	}
	t.Logf("the links at three panels were cut %s after the node was deleted at one", time.Since(began))
	if took := time.Since(began); took > time.Second+sweepEvery {
		t.Errorf("it took %s", took)
	}
}
