package spool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func open(t fataler, cfg Config) *Spool {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

func event(n int64) wire.Event {
	return wire.Event{Kind: wire.EventObserved, Observed: &wire.Observed{ServerID: "server000000001", Revision: n}}
}

func appendN(t fataler, s *Spool, from, to int64) {
	t.Helper()
	for n := from; n <= to; n++ {
		if seq, err := s.Append(event(n)); err != nil || seq != n {
			t.Fatalf("append %d: got sequence %d, %v", n, seq, err)
		}
	}
}

func next(t fataler, s *Spool) []wire.Event {
	t.Helper()
	out, err := s.Next(wire.MaxEventsPerBatch, wire.MaxEventBatchBytes)
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	return out
}

func seqs(events []wire.Event) string {
	var b strings.Builder
	for _, e := range events {
		if e.Kind == wire.EventGap {
			fmt.Fprintf(&b, "gap%d-%d ", e.Gap.From, e.Gap.To)
			continue
		}
		fmt.Fprintf(&b, "%d ", e.Seq)
	}
	return strings.TrimSpace(b.String())
}

func want(t fataler, s *Spool, list string) {
	t.Helper()
	if got := seqs(next(t, s)); got != list {
		t.Fatalf("next gives %q, want %q", got, list)
	}
}

func TestSpoolGivesEventsInOrderUntilTheyAreAcknowledged(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Dir: t.TempDir()})
	defer s.Close()
	select {
	case <-s.Ready():
		t.Fatal("an empty spool says that it is ready")
	default:
	}
	appendN(t, s, 1, 3)
	<-s.Ready()
	want(t, s, "1 2 3")
	want(t, s, "1 2 3")
	if err := s.Ack(2); err != nil {
		t.Fatal(err)
	}
	want(t, s, "3")
	if err := s.Ack(3); err != nil {
		t.Fatal(err)
	}
	want(t, s, "")
	if got := s.Last(); got != 3 {
		t.Fatalf("last is %d", got)
	}
}

func TestSpoolRespectsTheLimitsOfABatch(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Dir: t.TempDir(), SegmentBytes: 400})
	defer s.Close()
	appendN(t, s, 1, 20)
	got, err := s.Next(7, 1<<20)
	if err != nil || seqs(got) != "1 2 3 4 5 6 7" {
		t.Fatalf("limit of 7 gives %q, %v", seqs(got), err)
	}
	got, err = s.Next(100, 1)
	if err != nil || seqs(got) != "1" {
		t.Fatalf("a byte limit below one event gives %q, %v", seqs(got), err)
	}
}

func TestSpoolGoesOnAfterReopening(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, SegmentBytes: 300})
	id := s.ID()
	appendN(t, s, 1, 10)
	if err := s.Ack(10); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(event(11)); !errors.Is(err, ErrClosed) {
		t.Fatalf("append after close: %v", err)
	}
	s = open(t, Config{Dir: dir, SegmentBytes: 300})
	defer s.Close()
	if s.ID() != id {
		t.Fatal("reopening changed the identity")
	}
	appendN(t, s, 11, 11)
	if err := s.Ack(10); err != nil {
		t.Fatal(err)
	}
	want(t, s, "11")
}

func TestSpoolDropsTheOldestWhenFullAndSaysSo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := Config{Dir: dir, SegmentBytes: 1000, MaxBytes: 3000}
	s := open(t, cfg)
	appendN(t, s, 1, 100)
	got := next(t, s)
	if got[0].Kind != wire.EventGap || got[0].Gap.From != 1 || got[0].Seq != got[0].Gap.To || got[1].Seq != got[0].Seq+1 {
		t.Fatalf("the first events are %q", seqs(got[:2]))
	}
	if last := got[len(got)-1].Seq; last != 100 {
		t.Fatalf("the newest is %d, want 100", last)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > cfg.MaxBytes+cfg.SegmentBytes {
		t.Fatalf("the directory holds %d bytes", size)
	}
	before := seqs(got)
	s.Close()
	s = open(t, cfg)
	defer s.Close()
	if err := s.Ack(0); err != nil { // what a panel that has nothing answers
		t.Fatal(err)
	}
	want(t, s, before)
}

func TestAcknowledgementBelowWhatIsKeptBecomesAGap(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Dir: t.TempDir(), SegmentBytes: 100}) // one event per segment
	defer s.Close()
	appendN(t, s, 1, 5)
	if err := s.Ack(4); err != nil {
		t.Fatal(err)
	}
	if err := s.Ack(2); err != nil { // the panel came back from an older backup
		t.Fatal(err)
	}
	want(t, s, "gap3-4 5")
}

func TestAcknowledgementBeyondTheEndGivesANewIdentity(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Dir: t.TempDir()})
	defer s.Close()
	id := s.ID()
	appendN(t, s, 1, 2)
	if err := s.Ack(7); err != nil {
		t.Fatal(err)
	}
	if s.ID() == id {
		t.Fatal("a spool that forgot events kept its identity")
	}
	want(t, s, "1 2")
}

func TestRebuiltDirectoryHasANewIdentity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	first := s.ID()
	appendN(t, s, 1, 3)
	s.Close()
	segs, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(segs) != 1 {
		t.Fatal(segs, err)
	}
	if err := os.Remove(segs[0]); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{Dir: dir})
	second := s.ID()
	appendN(t, s, 1, 2)
	s.Close()
	if err := os.Remove(filepath.Join(dir, idFile)); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{Dir: dir})
	defer s.Close()
	if first == second || second == s.ID() {
		t.Fatalf("identities %s, %s, %s", first, second, s.ID())
	}
	want(t, s, "1 2")
}

// A kill at any instant of an append leaves a prefix of its bytes. Each prefix must open with
// exactly the events whose append had returned, and take the next one.
func TestSpoolSurvivesAKillAtEveryByteOfTheTail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	appendN(t, s, 1, 3)
	path := s.path(s.segments[0])
	whole := s.segments[0].size
	appendN(t, s, 4, 4)
	s.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := whole; cut <= int64(len(data)); cut++ {
		if err := os.WriteFile(path, data[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, Config{Dir: dir})
		list, n := "1 2 3", int64(4)
		if cut == int64(len(data)) {
			list, n = "1 2 3 4", 5
		}
		want(t, s, list)
		appendN(t, s, n, n)
		s.Close()
		s = open(t, Config{Dir: dir})
		want(t, s, fmt.Sprintf("%s %d", list, n))
		s.Close()
	}
	t.Logf("%d cuts, 0 events lost", int64(len(data))-whole+1)
}

func TestSpoolSurvivesAFlippedBitAnywhereInTheTail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	appendN(t, s, 1, 2)
	path, whole := s.path(s.segments[0]), s.segments[0].size
	appendN(t, s, 3, 3)
	s.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := whole; at < int64(len(data)); at++ {
		bad := bytes.Clone(data)
		bad[at] ^= 0x10
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, Config{Dir: dir})
		want(t, s, "1 2")
		s.Close()
	}
}

func TestTornSegmentInTheMiddleBecomesAGap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := Config{Dir: dir, SegmentBytes: 700}
	s := open(t, cfg)
	appendN(t, s, 1, 12)
	if len(s.segments) < 3 {
		t.Fatalf("%d segments", len(s.segments))
	}
	mid, after := s.segments[1], s.segments[2]
	s.Close()
	if err := os.Truncate(s.path(mid), mid.size-1); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	defer s.Close()
	lost := after.first - 1
	if got := seqs(next(t, s)); !strings.Contains(got, fmt.Sprintf("gap%d-%d %d", lost, lost, after.first)) {
		t.Fatalf("next gives %q, want a gap for %d", got, lost)
	}
}

func TestFailedWriteIsNotKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	appendN(t, s, 1, 1)
	good := s.file
	broken, err := os.Open(s.path(s.segments[0])) // read only: each write fails, as on a full disk
	if err != nil {
		t.Fatal(err)
	}
	s.file = broken
	if _, err := s.Append(event(2)); err == nil {
		t.Fatal("a failed write was reported as done")
	}
	broken.Close()
	if _, err := good.Write([]byte("half a rec")); err != nil { // what the failed write left
		t.Fatal(err)
	}
	s.file = good
	appendN(t, s, 2, 2)
	s.Close()
	s = open(t, Config{Dir: dir})
	defer s.Close()
	want(t, s, "1 2")
}

func TestOversizedEventIsRefused(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Dir: t.TempDir()})
	defer s.Close()
	huge := wire.Event{Kind: wire.EventInstalled, Install: &wire.InstallReport{Log: strings.Repeat("x", maxRecordBytes)}}
	if _, err := s.Append(huge); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("got %v", err)
	}
	appendN(t, s, 1, 1)
}

// The model is the list of events appended and not acknowledged. Whatever the order of appends,
// acknowledgements, crashes and reopenings: what Next gives, gaps expanded, is the contiguous run
// that follows the acknowledgement, and every event in it is the one appended under that sequence.
func TestSpoolAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "spool")
		if err != nil {
			rt.Fatalf("%v", err)
		}
		defer os.RemoveAll(dir)
		cfg := Config{Dir: dir, SegmentBytes: 500, MaxBytes: int64(rapid.SampledFrom([]int{1200, 1 << 20}).Draw(rt, "max"))}
		s := open(rt, cfg)
		defer func() { s.Close() }()
		var last, acked int64
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) { last++; appendN(rt, s, last, last) },
			"ack": func(rt *rapid.T) {
				acked = rapid.Int64Range(acked, last).Draw(rt, "seq")
				if err := s.Ack(acked); err != nil {
					rt.Fatalf("%v", err)
				}
			},
			"reopen": func(rt *rapid.T) {
				id := s.ID()
				s.Close() // nothing is buffered, so a crash leaves the same files
				s = open(rt, cfg)
				if s.ID() != id || s.Last() != last {
					rt.Fatalf("identity %s→%s, last %d, want %d", id, s.ID(), s.Last(), last)
				}
				if err := s.Ack(acked); err != nil { // the hello says it
					rt.Fatalf("%v", err)
				}
			},
			"": func(rt *rapid.T) {
				expect := acked + 1
				for _, e := range next(rt, s) {
					if e.Kind == wire.EventGap {
						if e.Gap.From != expect || e.Seq != e.Gap.To || cfg.MaxBytes == 1<<20 {
							rt.Fatalf("gap %+v of event %d where %d was expected", *e.Gap, e.Seq, expect)
						}
					} else if e.Seq != expect || e.Observed.Revision != expect {
						rt.Fatalf("event %d (%d) where %d was expected", e.Seq, e.Observed.Revision, expect)
					}
					expect = e.Seq + 1
				}
				if expect != last+1 {
					rt.Fatalf("the list ends before %d, want %d", expect, last)
				}
			},
		})
	})
}

func FuzzDecode(f *testing.F) {
	payload, err := events.encode([]wire.Event{event(1)})
	if err != nil {
		f.Fatal(err)
	}
	record := frame(nil, payload)
	f.Add(record)
	f.Add(append(bytes.Clone(record), record[:5]...))
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0, 1})
	if payload, err = samples.encode(window(1, 3)); err != nil {
		f.Fatal(err)
	}
	f.Add(frame(nil, payload))
	f.Fuzz(func(t *testing.T, data []byte) {
		payload, n, err := unframe(bytes.NewReader(data))
		if err != nil {
			payload, n = data, 0 // the kinds must stand what no checksum covers, too
		}
		if n > int64(len(data)) {
			t.Fatalf("read %d of %d bytes", n, len(data))
		}
		fuzzKind(t, events, payload)
		fuzzKind(t, samples, payload)
	})
}

func fuzzKind[T any](t *testing.T, k kind[T], payload []byte) {
	first, count, err := k.span(payload)
	if err != nil {
		return
	}
	items, err := k.decode(payload)
	if err != nil || int64(len(items)) != count {
		return
	}
	if *k.seq(&items[0]) != first {
		t.Fatalf("the head says %d, the first item is %d", first, *k.seq(&items[0]))
	}
	if _, err := json.Marshal(items); err != nil {
		t.Fatal(err)
	}
}
