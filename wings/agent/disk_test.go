package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// fillFile writes a file of so many bytes that takes them.
func fillFile(t *testing.T, path string, bytes int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, bytes)
	for i := range data {
		data[i] = byte(i)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // blocks are allocated by then
		t.Fatal(err)
	}
}

func use(t *testing.T, dir string) int64 {
	t.Helper()
	n, err := diskUse(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDiskUseIsWhatIsAllocatedBelowTheFolderAndNothingElse(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	outside, dir := t.TempDir(), t.TempDir()
	fillFile(t, filepath.Join(outside, "big"), 8*mib)
	empty := use(t, dir)
	grew := func(what string, least, most int64) {
		t.Helper()
		if n := use(t, dir) - empty; n < least || n > most {
			t.Errorf("%s: %d bytes, want %d to %d", what, n, least, most)
		}
	}
	fillFile(t, filepath.Join(dir, "world", "region", "r.0.0"), 2*mib)
	grew("a file", 2*mib, 2*mib+64<<10)
	for i := range 3 {
		if err := os.Link(filepath.Join(dir, "world", "region", "r.0.0"), filepath.Join(dir, fmt.Sprint("link", i))); err != nil {
			t.Fatal(err)
		}
	}
	grew("a file with four names", 2*mib-512*4, 2*mib+64<<10)
	for name, to := range map[string]string{"out": outside, "file": filepath.Join(outside, "big"), "loop": dir, "dangling": "/nowhere"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	grew("links that lead out", 2*mib-512*4, 2*mib+64<<10)
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	f.Close()
	grew("a sparse file of 1 TiB", 2*mib-512*4, 2*mib+64<<10)
	if n := use(t, filepath.Join(dir, "is not there")); n != 0 {
		t.Errorf("what is not there takes %d bytes", n)
	}
	if _, err := diskUse(t.Context(), filepath.Join(dir, "out")); err == nil {
		t.Error("a link in place of the folder was followed")
	}
}

func TestADeepTreeIsWalkedToItsBoundAndHoldsNoMoreDescriptors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	deep := dir
	for range diskMaxDepth + 60 {
		deep = filepath.Join(deep, "d")
	}
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if n := use(t, dir); n <= 0 {
		t.Errorf("%d bytes", n)
	}
}

// A game swaps a folder for a link while it is measured: nothing outside is ever counted.
func TestAFolderThatTurnsIntoALinkIsNotFollowed(t *testing.T) {
	t.Parallel()
	outside, dir := t.TempDir(), t.TempDir()
	fillFile(t, filepath.Join(outside, "big"), 16<<20)
	swap := filepath.Join(dir, "swap")
	if err := os.Mkdir(swap, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			_ = os.Rename(swap, filepath.Join(dir, "aside"))
			_ = os.Symlink(outside, swap)
			_ = os.Remove(swap)
			_ = os.Rename(filepath.Join(dir, "aside"), swap)
		}
		done <- n
	}()
	walks := 0
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); walks++ {
		if n := use(t, dir); n > 1<<20 {
			t.Fatalf("%d bytes: the link was followed", n)
		}
	}
	cancel()
	t.Logf("%d walks during %d swaps", walks, <-done)
}

// The pace bounds what measuring costs however many files there are.
func TestWalksKeepTheirPaceAndEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const files = 3 * diskBatch
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		use(t, dir)
		if took := time.Since(begun); took != 3*time.Second*diskBatch/diskEntriesPerS {
			t.Errorf("%d files took %v", files, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := diskUse(ctx, dir); err == nil {
			t.Error("a walk went on after its end")
		}
	})
}

// Each folder has its turn, the one that waited longest first, and none is walked again at once.
func TestDisksAreMeasuredInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		p := &sampler{meters: map[string]*meter{}, log: slog.New(slog.DiscardHandler), dataDir: func(id string) string { return filepath.Join(root, id) }}
		for n := range 5 {
			fillFile(t, filepath.Join(root, serverID(n), "f"), 100_000)
			p.meters[serverID(n)] = &meter{server: serverID(n), epoch: 1, cut: time.Now()}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.measureDisks(ctx) }()
		pass(5 * time.Minute)
		cancel()
		<-done
		for id, m := range p.meters {
			if n := len(m.disk); n < 4 || n > 6 {
				t.Errorf("%s was measured %d times in five minutes", id, n)
			}
			if got := m.disk[0].bytes; got < 100_000 || got > 200_000 {
				t.Errorf("%s takes %d bytes", id, got)
			}
		}
	})
}

// What a server grew by is paid from when it was measured: never before, never twice.
func TestGrowthCountsFromItsMeasure(t *testing.T) {
	measuring(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		pass(3 * time.Minute)
		before, _ := r.samples.sum(spec.ServerID)
		fillFile(t, filepath.Join(r.dir, "servers", spec.ServerID, "data", "world"), 5<<20)
		pass(10 * time.Minute)
		after, _ := r.samples.sum(spec.ServerID)
		grown := (after.DiskByteMS - before.DiskByteMS) / 1000
		if most := int64(10*60) * (6 << 20); grown > most || grown < int64(8*60)*(5<<20) {
			t.Errorf("%d byte-seconds for 5 MiB over ten minutes, measured each minute", grown)
		}
	})
}
