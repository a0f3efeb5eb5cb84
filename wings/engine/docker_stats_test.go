package engine_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/enginetest"
)

// readyGame starts a game of spec and waits for it to say that it is ready.
func (b *bench) readyGame(spec engine.ContainerSpec) string {
	b.t.Helper()
	id := b.create(spec)
	b.start(id)
	stream, err := b.Logs(b.ctx, "test.logs", id, time.Time{})
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range stream.C {
		if line.Text == "ready" {
			return id
		}
	}
	b.t.Fatalf("the game was never ready: %v", stream.Err())
	return ""
}

// A game that has written a large file does not use that memory: the kernel takes page cache back.
// What it holds itself counts.
func TestMemoryIsWithoutPageCache(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := b.spec(enginetest.NewID(), "shell", "head -c 40000000 /dev/zero >file; echo ready; exec sleep 600")
	spec.DataDir, spec.Limits.MemoryMiB = dataDir(t), 128
	id := b.readyGame(spec)
	got, err := b.Stats(b.ctx, "engine.stats", id)
	if err != nil {
		t.Fatal(err)
	}
	if got.MemoryBytes <= 0 || got.MemoryBytes > 30<<20 {
		t.Errorf("%d bytes of memory; the file has 40,000,000", got.MemoryBytes)
	}
	t.Logf("%d bytes of memory beside 40,000,000 of page cache", got.MemoryBytes)
}

func TestTrafficIsCountedInBothDirections(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tenant := enginetest.NewID()
	neighbour := b.spec(tenant, "echo")
	address := b.inspect(b.readyGame(neighbour)).NetworkSettings.Networks[neighbour.Network].IPAddress
	spec := b.spec(tenant)
	const calls = 20
	// Nobody listens on port 9 of its neighbour: each call is one packet there and one back.
	spec.Command = []string{"/game", "shell", fmt.Sprintf(
		"i=0; while [ $i -lt %d ]; do nc %s 9 </dev/null; i=$((i+1)); done; echo ready; exec sleep 600", calls, address)}
	id := b.readyGame(spec)
	got, err := b.Stats(b.ctx, "engine.stats", id)
	if err != nil {
		t.Fatal(err)
	}
	for direction, n := range map[string]int64{"in": got.NetInBytes, "out": got.NetOutBytes} {
		if n < calls*54 || n > calls*1000 { // Ethernet, IPv4 and TCP headers; some more for who the neighbour is
			t.Errorf("%d bytes %s for %d calls", n, direction, calls)
		}
	}
	t.Logf("%d bytes out, %d in", got.NetOutBytes, got.NetInBytes)
}

// Docker Engine 20.10 answers with its collector's next tick, which comes each second; without
// one-shot it waits for two of them. Many readings must therefore be under way at once, and they may.
func TestManyReadingsTakeOneTickOfTheEngine(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := b.readyGame(b.spec(enginetest.NewID(), "echo"))
	const n = 40
	begun := time.Now()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if _, err := b.Stats(b.ctx, "engine.stats", id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all := time.Since(begun)
	t.Logf("%d readings at once take %v", n, all)
	if all > n*time.Second/2 {
		t.Errorf("%d readings at once take %v: they wait for each other", n, all)
	}
}
