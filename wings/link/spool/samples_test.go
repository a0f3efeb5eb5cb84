package spool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

// window is n samples of the w-th window, each recognisable.
func window(w int64, n int) []wire.Sample {
	out := make([]wire.Sample, n)
	for i := range out {
		r := rand.New(rand.NewPCG(uint64(w), uint64(i))) // as little alike as real ones
		memory, disk := r.Int64N(2<<30), r.Int64N(8<<30)
		out[i] = wire.Sample{ServerID: fmt.Sprintf("%015x", uint64(i)*0x9E3779B97F4A7C15>>8), PlacementEpoch: 1, WindowUnixS: w * 30, RunningMS: 30_000,
			MeasuredMS: 30_000, CPUUsedNS: r.Int64N(60_000_000_000), CPUReservedMillicoreMS: 60_000_000, MemoryUsedMiBMS: memory >> 20 * 30_000,
			MemoryReservedMiBMS: 4096 * 30_000, DiskByteMS: disk * 30_000, NetInBytes: r.Int64N(1 << 24), NetOutBytes: r.Int64N(1 << 24),
			MemoryLastBytes: memory, DiskLastBytes: disk}
	}
	return out
}

func openSamples(t fataler, cfg Config) *Stream[wire.Sample] {
	t.Helper()
	s, err := OpenSamples(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

func nextSamples(t fataler, s *Stream[wire.Sample]) []wire.Sample {
	t.Helper()
	out, err := s.Next(wire.MaxSamplesPerBatch, wire.MaxSampleBatchBytes)
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	return out
}

func TestAWindowOfManyServersIsKeptWholeAndComesBackInBatches(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openSamples(t, Config{Dir: dir})
	const servers = 1234
	if last, err := s.AppendAll(window(1, servers)); err != nil || last != servers {
		t.Fatal(last, err)
	}
	if last, err := s.AppendAll(nil); err != nil || last != servers {
		t.Fatalf("nothing was appended as %d, %v", last, err)
	}
	s.Close()
	s = openSamples(t, Config{Dir: dir})
	defer s.Close()
	seen := int64(0)
	for {
		batch := nextSamples(t, s)
		if len(batch) == 0 {
			break
		}
		if len(batch) > wire.MaxSamplesPerBatch {
			t.Fatalf("a batch of %d", len(batch))
		}
		for _, got := range batch {
			want := window(1, servers)[seen]
			if want.Seq = seen + 1; got != want {
				t.Fatalf("%+v, want %+v", got, want)
			}
			seen++
		}
		if err := s.Ack(seen); err != nil {
			t.Fatal(err)
		}
	}
	if seen != servers {
		t.Fatalf("%d of %d came back", seen, servers)
	}
}

// The panel may have any part of a record: what it has is not sent again.
func TestAnAcknowledgementInsideARecordIsKept(t *testing.T) {
	t.Parallel()
	s := openSamples(t, Config{Dir: t.TempDir()})
	defer s.Close()
	if _, err := s.AppendAll(window(1, 10)); err != nil {
		t.Fatal(err)
	}
	for acked := int64(0); acked <= 10; acked++ {
		if err := s.Ack(acked); err != nil {
			t.Fatal(err)
		}
		got, err := s.Next(4, 1<<20)
		if err != nil || int64(len(got)) != min(4, 10-acked) || len(got) > 0 && got[0].Seq != acked+1 {
			t.Fatalf("after %d come %d from %+v, %v", acked, len(got), got, err)
		}
	}
}

// A kill at any byte of a window's write leaves the windows before it, and a prefix of records of
// this one: never half a record.
func TestSamplesSurviveAKillAtEveryByteOfTheTail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openSamples(t, Config{Dir: dir})
	if _, err := s.AppendAll(window(1, 3)); err != nil {
		t.Fatal(err)
	}
	path, whole := s.path(s.segments[0]), s.segments[0].size
	if _, err := s.AppendAll(window(2, 3)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := whole; cut <= int64(len(data)); cut++ {
		if err := os.WriteFile(path, data[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := openSamples(t, Config{Dir: dir})
		want := 3
		if cut == int64(len(data)) {
			want = 6
		}
		if got := nextSamples(t, s); len(got) != want {
			t.Fatalf("cut at %d: %d samples", cut, len(got))
		}
		if last, err := s.AppendAll(window(3, 1)); err != nil || last != int64(want)+1 {
			t.Fatal(last, err)
		}
		s.Close()
	}
}

func TestAFullSampleSpoolDropsTheOldestAndSaysSo(t *testing.T) {
	t.Parallel()
	s := openSamples(t, Config{Dir: t.TempDir(), SegmentBytes: 600, MaxBytes: 2000})
	defer s.Close()
	for w := int64(1); w <= 40; w++ {
		if _, err := s.AppendAll(window(w, 5)); err != nil {
			t.Fatal(err)
		}
	}
	got := nextSamples(t, s)
	if got[0].Gap == nil || got[0].Gap.From != 1 || got[0].Seq != got[0].Gap.To || got[1].Seq != got[0].Seq+1 || got[len(got)-1].Seq != 200 {
		t.Fatalf("it begins with %+v %+v and ends with %d", got[0], got[1], got[len(got)-1].Seq)
	}
	if err := got[0].Validate(); err != nil {
		t.Error(err)
	}
}

// A disk that is full keeps nothing of a window, and everything once there is space.
func TestSamplesThatCannotBeWrittenAreNotNumbered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openSamples(t, Config{Dir: dir})
	defer s.Close()
	good := s.file
	broken, err := os.Open(s.path(s.segments[0]))
	if err != nil {
		t.Fatal(err)
	}
	s.file = broken
	if _, err := s.AppendAll(window(1, 2)); err == nil {
		t.Fatal("a failed write was reported as done")
	}
	broken.Close()
	s.file = good
	if last, err := s.AppendAll(window(1, 2)); err != nil || last != 2 {
		t.Fatal(last, err)
	}
	if got := nextSamples(t, s); len(got) != 2 || got[0].Seq != 1 {
		t.Fatalf("%+v", got)
	}
}

func TestARecordThatLiesAboutItsItemsIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openSamples(t, Config{Dir: dir})
	payload, err := encodeSamples(window(0, 2)) // sequences 0 and 0
	if err != nil {
		t.Fatal(err)
	}
	payload[0] = 1
	s.mu.Lock()
	err = s.write(frame(nil, payload), 2)
	s.last += 2
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(10, 1<<20); !errors.Is(err, errTorn) {
		t.Fatalf("got %v", err)
	}
	s.Close()
}

// 72 hours of a node's samples fit into the default bound, and opening them again is quick.
func TestT18_SeventyTwoHoursFitOnTheDisk(t *testing.T) {
	t.Parallel()
	const servers = 500
	raw, err := encodeSamples(window(12345, servers))
	if err != nil {
		t.Fatal(err)
	}
	each := float64(len(raw)) / servers
	hours := DefaultSampleBytes / (each * 120 * 1000)
	t.Logf("T18: %.0f bytes a sample; the default bound holds %.0f hours of 1,000 servers", each, hours)
	if hours < 72 {
		t.Errorf("the default bound holds %.0f hours of 1,000 servers", hours)
	}
}

// The model is what was appended; whatever the order of windows, acknowledgements and reopenings,
// Next gives the contiguous run after the acknowledgement.
func TestSampleSpoolAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "spool")
		if err != nil {
			rt.Fatalf("%v", err)
		}
		defer os.RemoveAll(dir)
		cfg := Config{Dir: filepath.Join(dir, "s"), SegmentBytes: 700}
		s := openSamples(rt, cfg)
		defer func() { s.Close() }()
		var cpu []int64 // of each sample by sequence − 1
		var acked int64
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				items := window(int64(len(cpu)+1), rapid.IntRange(0, 7).Draw(rt, "servers"))
				for _, i := range items {
					cpu = append(cpu, i.CPUUsedNS)
				}
				if last, err := s.AppendAll(items); err != nil || last != int64(len(cpu)) {
					rt.Fatalf("%d, %v", last, err)
				}
			},
			"ack": func(rt *rapid.T) {
				acked = rapid.Int64Range(acked, int64(len(cpu))).Draw(rt, "seq")
				if err := s.Ack(acked); err != nil {
					rt.Fatalf("%v", err)
				}
			},
			"reopen": func(rt *rapid.T) {
				id := s.ID()
				s.Close()
				s = openSamples(rt, cfg)
				if s.ID() != id || s.Last() != int64(len(cpu)) {
					rt.Fatalf("identity %s→%s, last %d of %d", id, s.ID(), s.Last(), len(cpu))
				}
				if err := s.Ack(acked); err != nil {
					rt.Fatalf("%v", err)
				}
			},
			"": func(rt *rapid.T) {
				limit := rapid.IntRange(1, 9).Draw(rt, "limit")
				got, err := s.Next(limit, 1<<20)
				if err != nil || len(got) != min(limit, len(cpu)-int(acked)) {
					rt.Fatalf("%d items, %v; limit %d, %d of %d are acknowledged", len(got), err, limit, acked, len(cpu))
				}
				for i, g := range got {
					if g.Seq != acked+int64(i)+1 || g.CPUUsedNS != cpu[g.Seq-1] {
						rt.Fatalf("item %d is %+v", i, g)
					}
				}
			},
		})
	})
}
