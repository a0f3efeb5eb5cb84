package metering

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/wings/wire"
)

// rig is the room over a real database and a real store.
type rig struct {
	*Metering
	t   *testing.T
	app core.App
	now int64
	seq int64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	app := collectionstest.New(t)
	store, err := OpenSQLite(filepath.Join(t.TempDir(), "samples.db"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{App: app, Store: store, Incidents: incidents.New(nil), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return &rig{Metering: m, t: t, app: app, now: time.Now().Unix()/30*30 - 60}
}

// place puts a row of a server into the database.
func (r *rig) place(server, tenant, node string, epoch int64, status string) {
	r.t.Helper()
	_, err := r.app.DB().Insert(collections.Servers, dbx.Params{
		"id": server, "tenant": tenant, "node": node, "placement_epoch": epoch, "name": server, "status": status,
		"desired_state": "running", "install_status": "DONE", "blueprint": "b", "blueprint_version": "v",
	}).Execute()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) sample(server string, epoch, window int64) wire.Sample {
	r.seq++
	return wire.Sample{Seq: r.seq, ServerID: server, PlacementEpoch: epoch, WindowUnixS: window, RunningMS: 30_000, MeasuredMS: 30_000, CPUUsedNS: 15e9}
}

func (r *rig) send(node string, want int64, samples ...wire.Sample) {
	r.t.Helper()
	acked, err := r.Take(context.Background(), node, wire.SampleBatch{SpoolID: "s-" + node, Samples: samples, DeliveredUnixS: r.now + 30})
	if err != nil || acked != want {
		r.t.Fatalf("acknowledged up to %d, %v; want %d", acked, err, want)
	}
}

func (r *rig) incidents() map[string]string {
	r.t.Helper()
	rows, err := collections.Every[collections.Incident](r.app, collections.Incidents, "", 0)
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]string{}
	for _, i := range rows {
		out[i.Kind()] = i.Detail()
	}
	return out
}

func TestOnlySamplesOfTheServerThatIsPlacedThereCount(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ours, theirs, gone := id("server", 1), id("server", 2), id("server", 3)
	r.place(ours, id("tenant", 1), id("node", 1), 3, "RUNNING")
	r.place(theirs, id("tenant", 2), id("node", 2), 1, "RUNNING")
	r.place(gone, id("tenant", 1), id("node", 1), 1, "DELETED")
	invalid := r.sample(ours, 3, r.now+30)
	invalid.CPUUsedNS = -5
	r.seq = 0
	batch := []wire.Sample{
		r.sample(ours, 3, r.now),
		r.sample(ours, 2, r.now-30),         // before it was placed anew
		r.sample(ours, 4, r.now-60),         // of an epoch that is not yet
		r.sample(theirs, 1, r.now),          // another node's
		r.sample(gone, 1, r.now),            // its last window comes after it is gone
		r.sample(id("server", 9), 1, r.now), // nobody's
		r.sample("' OR 1=1 --", 3, r.now),   // no server
		r.sample(ours, 3, r.now+3*24*3600),  // still to come
		r.sample(ours, 3, r.now-8*24*3600),  // longer ago than samples are kept
		r.sample(ours, 3, r.now-6*24*3600),  // late, and fine
		{Seq: 11, ServerID: ours, PlacementEpoch: 3, WindowUnixS: r.now + 30, CPUUsedNS: -5},
		r.sample(ours, 3, r.now-90),
	}
	batch[11].Seq = 12
	r.send(id("node", 1), 12, batch...)
	want := map[string]int{ours: 3, theirs: 0, gone: 1}
	for server, n := range want {
		if got := read(t, r.Store, Range{Server: server, ToUnixS: 1 << 40}); len(got) != n {
			t.Errorf("%s has %d samples, want %d: %+v", server, len(got), n, got)
		}
	}
	for _, row := range read(t, r.Store, Range{Tenant: id("tenant", 1), ToUnixS: 1 << 40}) {
		if row.Node != id("node", 1) || row.Tenant != id("tenant", 1) {
			t.Errorf("%+v", row)
		}
	}
	told := r.incidents()
	if !strings.HasPrefix(told["node.samples_refused"], "4 samples") || len(told) != 1 {
		t.Errorf("incidents %v", told)
	}
}

func TestGapsAreSettledAndTold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.place(id("server", 1), id("tenant", 1), id("node", 1), 1, "RUNNING")
	s := r.sample(id("server", 1), 1, r.now)
	s.Seq = 8
	r.send(id("node", 1), 8, wire.Sample{Seq: 7, Gap: &wire.Gap{From: 1, To: 7}}, s)
	if got := r.incidents()["node.samples_lost"]; !strings.HasPrefix(got, "7 samples") {
		t.Errorf("%q", got)
	}
	if got := read(t, r.Store, Range{Server: id("server", 1), ToUnixS: 1 << 40}); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

// A batch that does not hang together is taken up to its hole, and promises nothing.
func TestAHoleInsideABatchEndsIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	node := id("node", 1)
	r.place(id("server", 1), id("tenant", 1), node, 1, "RUNNING")
	a, b, c := r.sample(id("server", 1), 1, r.now-60), r.sample(id("server", 1), 1, r.now-30), r.sample(id("server", 1), 1, r.now)
	c.Seq = 4
	r.send(node, 2, a, b, c)
	if nodes, err := r.Store.Nodes(context.Background()); err != nil || nodes[0].DeliveredUnixS != 0 {
		t.Errorf("%+v, %v", nodes, err)
	}
	c.Seq = 3
	r.send(node, 3, c)
	if nodes, err := r.Store.Nodes(context.Background()); err != nil || nodes[0].DeliveredUnixS != r.now+30 {
		t.Errorf("%+v, %v", nodes, err)
	}
	for _, bad := range [][]wire.Sample{
		{{Seq: 0}}, {{Seq: 5, Gap: &wire.Gap{From: 0, To: 5}}}, {{Seq: 5, Gap: &wire.Gap{From: 9, To: 5}}}, {{Seq: 1<<63 - 1}},
	} {
		r.send(node, 3, bad...)
	}
}

// failing is a store whose Take fails before, or after it was done.
type failing struct {
	Store
	before, after error
}

func (f *failing) Take(ctx context.Context, d Delivery) (int64, error) {
	if f.before != nil {
		return 0, f.before
	}
	acked, err := f.Store.Take(ctx, d)
	if f.after != nil {
		return 0, f.after
	}
	return acked, err
}

// T4's five database rows for samples: the node hears an error and sends again; it counts once.
func TestT04_AnAnswerThatIsLostCountsOnce(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before", "after"} {
		r := newRig(t)
		f := &failing{Store: r.Store}
		r.Store = f
		node := id("node", 1)
		r.place(id("server", 1), id("tenant", 1), node, 1, "RUNNING")
		batch := wire.SampleBatch{SpoolID: "s", Samples: []wire.Sample{r.sample(id("server", 1), 1, r.now)}}
		lost := errors.New("disk I/O error")
		if when == "before" {
			f.before = lost
		} else {
			f.after = lost
		}
		for range 3 {
			if _, err := r.Take(context.Background(), node, batch); !errors.Is(err, lost) {
				t.Errorf("%s: %v", when, err)
			}
		}
		f.before, f.after = nil, nil
		for range 2 {
			if acked, err := r.Take(context.Background(), node, batch); err != nil || acked != 1 {
				t.Errorf("%s: %d, %v", when, acked, err)
			}
		}
		if got := read(t, f.Store, Range{Server: id("server", 1), ToUnixS: 1 << 40}); len(got) != 1 {
			t.Errorf("%s: %d samples", when, len(got))
		}
	}
}

func TestRetentionIsCheckedAndKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := New(Config{App: r.app, Store: r.Store, Incidents: incidents.New(nil), Retention: time.Hour}); err == nil {
		t.Error("an hour of retention was taken")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a room without a store was made")
	}
	node := id("node", 1)
	r.place(id("server", 1), id("tenant", 1), node, 1, "RUNNING")
	r.send(node, 2, r.sample(id("server", 1), 1, r.now-6*24*3600), r.sample(id("server", 1), 1, r.now))
	if err := r.Prune(context.Background(), time.Now().Add(3*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := read(t, r.Store, Range{Server: id("server", 1), ToUnixS: 1 << 40}); len(got) != 1 || got[0].Sample.WindowUnixS != r.now {
		t.Errorf("%+v", got)
	}
}
