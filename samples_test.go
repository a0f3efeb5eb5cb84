package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/metering"
	"github.com/mambahost/mamba/wings/agent"
	"github.com/mambahost/mamba/wings/engine/fake"
	"github.com/mambahost/mamba/wings/link/spool"
	"github.com/mambahost/mamba/wings/wire"
)

// A partition of a node: its agent and spool, the panel's intake and store are the real ones, the time
// is not, and the link between them is a function that can be cut.

const partitionNode, partitionTenant = "node00000000001", "tenant000000001"

// partitioned is the node's end of that link: what it records is kept as an uncut link would have
// delivered it, and goes through the spool.
type partitioned struct {
	spool *spool.Stream[wire.Sample]
	panel *metering.Metering

	mu     sync.Mutex
	uncut  map[string]wire.Sample
	closed int64
	cut    bool
	lose   int // answers that get lost
	sent   int
}

func keyOf(s wire.Sample) string {
	return fmt.Sprint(s.ServerID, " ", s.PlacementEpoch, " ", s.WindowUnixS)
}

// Record implements agent.Recorder.
func (p *partitioned) Record(samples []wire.Sample, closed int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range samples {
		if _, twice := p.uncut[keyOf(s)]; twice {
			return fmt.Errorf("window %s was recorded twice", keyOf(s))
		}
		p.uncut[keyOf(s)] = s
	}
	if _, err := p.spool.AppendAll(samples); err != nil {
		return err
	}
	p.closed = closed
	return nil
}

func (p *partitioned) set(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
}

// deliver sends what waits, unless the link is cut. Every seventh answer is lost, after the batch was
// taken.
func (p *partitioned) deliver(ctx context.Context) error {
	for {
		p.mu.Lock()
		cut, closed := p.cut, p.closed
		p.mu.Unlock()
		items, err := p.spool.Next(wire.MaxSamplesPerBatch, wire.MaxSampleBatchBytes)
		if cut || err != nil || len(items) == 0 {
			return err
		}
		acked, err := p.panel.Take(ctx, partitionNode, wire.SampleBatch{SpoolID: p.spool.ID(), Samples: items, DeliveredUnixS: closed})
		if err != nil {
			return err
		}
		if p.sent++; p.sent%7 == 0 {
			p.lose++
			continue
		}
		if err := p.spool.Ack(acked); err != nil {
			return err
		}
	}
}

// quickDir is a folder without a disk behind it, where there is one: a run of 72 hours syncs 30,000
// times.
func quickDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "samples-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestT18_APartitionLeavesTheUsageAsItWas(t *testing.T) {
	for _, length := range []time.Duration{time.Minute, time.Hour, 72 * time.Hour} {
		t.Run(length.String(), func(t *testing.T) {
			t.Parallel()
			dir := quickDir(t)
			synctest.Test(t, func(t *testing.T) { partition(t, dir, length) })
		})
	}
}

func partition(t *testing.T, dir string, length time.Duration) {
	const servers = 3
	app := collectionstest.Base(t)
	store, err := metering.OpenSQLite(filepath.Join(dir, "samples.db"))
	must(t, err)
	quiet := slog.New(slog.DiscardHandler)
	room, err := metering.New(metering.Config{App: app, Store: store, Incidents: incidents.New(nil), Log: quiet})
	must(t, err)
	sp, err := spool.OpenSamples(spool.Config{Dir: filepath.Join(dir, "spool")})
	must(t, err)
	link := &partitioned{spool: sp, panel: room, uncut: map[string]wire.Sample{}}
	machine := fake.New(fake.Config{})
	machine.SetImage("game", fake.Image{Present: true, Game: func(p *fake.Process) int { p.Println("ready"); <-p.Done(); return 0 },
		Load: fake.Load{CPUMillicores: 300, MemoryBytes: 100 << 20, NetInPerS: 500, NetOutPerS: 2500}})
	eng := machine.Engine(partitionNode)
	node, err := agent.New(agent.Config{Engine: eng, Dir: filepath.Join(dir, "servers"), Reporter: drop{}, Samples: link, Logger: quiet,
		UID: os.Getuid() + 1, GID: os.Getgid() + 1, Render: func(_ string, in []byte, _ []wire.Edit) ([]byte, error) { return in, nil }})
	must(t, err)
	must(t, node.Start(t.Context()))
	for n := range servers {
		spec := partitionSpec(n)
		_, err := app.DB().Insert(collections.Servers, dbx.Params{"id": spec.ServerID, "tenant": partitionTenant, "node": partitionNode, "placement_epoch": 1,
			"name": spec.Name, "status": "RUNNING", "desired_state": "running", "install_status": "DONE", "blueprint": "b", "blueprint_version": "v"}).Execute()
		must(t, err)
		_, err = node.Apply(t.Context(), spec)
		must(t, err)
	}
	pump := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); <-time.After(30 * time.Second) {
			must(t, link.deliver(t.Context()))
		}
	}
	pump(10 * time.Minute)
	link.set(true)
	<-time.After(length)
	link.set(false)
	pump(10 * time.Minute)
	node.Stop()
	must(t, link.deliver(t.Context()))

	arrived := map[string]wire.Sample{}
	must(t, store.Read(t.Context(), metering.Range{Tenant: partitionTenant, ToUnixS: 1 << 40}, func(r metering.Row) error {
		if _, twice := arrived[keyOf(r.Sample)]; twice {
			t.Errorf("%s arrived twice", keyOf(r.Sample))
		}
		arrived[keyOf(r.Sample)] = r.Sample
		return nil
	}))
	for key, s := range link.uncut {
		if s.Seq = 0; arrived[key] != s {
			t.Fatalf("%s is %+v, without a partition it would be %+v", key, arrived[key], s)
		}
	}
	if windows := int((length+20*time.Minute)/wire.SampleWindow) - 1; len(arrived) != len(link.uncut) || len(arrived) < servers*windows {
		t.Errorf("%d samples arrived, %d were recorded, at least %d must be", len(arrived), len(link.uncut), servers*windows)
	}
	ran := int64(0)
	for _, s := range slices.Collect(maps.Values(arrived)) {
		ran += s.RunningMS
	}
	t.Logf("T18: cut for %v: %d samples arrived once each, %d answers were lost, %v of running time", length, len(arrived), link.lose, time.Duration(ran)*time.Millisecond)
	_ = eng.Close()
	machine.Close()
	must(t, sp.Close())
	must(t, room.Close())
}

// drop takes reports of the agent that nobody reads here.
type drop struct{}

func (drop) Report(wire.Event) error { return nil }

func partitionSpec(n int) wire.Spec {
	return wire.Spec{
		ServerID: fmt.Sprintf("server%09d", n), TenantID: partitionTenant, Name: "test", PlacementEpoch: 1, Generation: 1, Desired: wire.DesiredRunning,
		Blueprint: wire.Blueprint{ID: "test", Version: "1.0.0"}, Image: wire.Image{Ref: "game"}, Command: []string{"/game"}, Env: map[string]string{}, WorkDir: "/data",
		Limits: wire.Limits{CPUMillicores: 1000, MemoryMiB: 512, DiskMiB: 1024, PIDs: 100},
		Ready:  wire.Ready{LogRegex: "^ready$", TimeoutS: 60}, Stop: wire.Stop{Kind: wire.StopSignal, Value: "SIGTERM", TimeoutS: 10},
		Crash: wire.CrashPolicy{MaxAttempts: 3, BackoffMinMS: 1000, BackoffMaxMS: 30_000, StableS: 600},
	}
}
