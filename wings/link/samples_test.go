package link

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/link/spool"
	"github.com/mambahost/mamba/wings/wire"
)

func samplesOf(window int64, servers int) []wire.Sample {
	out := make([]wire.Sample, servers)
	for i := range out {
		out[i] = wire.Sample{ServerID: fmt.Sprintf("server%09d", i), PlacementEpoch: 1, WindowUnixS: window * 30, RunningMS: 30_000}
	}
	return out
}

// record takes windows from..to in, each of so many servers.
func record(t *testing.T, l *Link, from, to int64, servers int) {
	t.Helper()
	for w := from; w <= to; w++ {
		if err := l.Record(samplesOf(w, servers), (w+1)*30); err != nil {
			t.Fatal(err)
		}
	}
}

// wantWindows checks that each server's windows from..to came once, in order.
func (p *fakePanel) wantWindows(t *testing.T, from, to int64, servers int) {
	t.Helper()
	p.with(func() {
		if len(p.samples) != int(to-from+1)*servers {
			t.Fatalf("%d samples came, want %d", len(p.samples), int(to-from+1)*servers)
		}
		for i, s := range p.samples {
			if want := (from + int64(i/servers)) * 30; s.WindowUnixS != want || s.ServerID != fmt.Sprintf("server%09d", i%servers) {
				t.Fatalf("sample %d is %+v", i, s)
			}
		}
	})
}

func TestT18_SamplesWaitForThePanelAndArriveOnce(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	p.refuse = &wire.Error{Status: 503, Code: "unavailable", Message: "Not now."}
	l := open(t, p.join(t))
	record(t, l, 1, 40, 30) // more than two batches
	l.Start(t.Context(), http.NotFoundHandler())
	eventually(t, "the panel refused", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.refused >= 2 })
	p.with(func() { p.refuse, p.lose = nil, 1 })
	eventually(t, "all samples are there", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.samples) == 1200 })
	p.wantWindows(t, 1, 40, 30)
	eventually(t, "the disk is empty", func() bool { left, err := l.samples.Next(1, 1); return err == nil && len(left) == 0 })
}

// What is told as delivered is never more than what the panel has.
func TestDeliveredIsOnlyWhatWasSent(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	l := open(t, p.join(t))
	record(t, l, 1, 4, 300) // batches end inside windows 2, 4 and at the end of 4
	l.Start(t.Context(), http.NotFoundHandler())
	eventually(t, "the newest window is told", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.told) > 0 && p.told[len(p.told)-1] == 5*30
	})
	p.with(func() {
		if want := []int64{2 * 30, 4 * 30, 5 * 30}; len(p.told) != 3 || p.told[0] != want[0] || p.told[1] != want[1] {
			t.Errorf("told %v, want %v", p.told, want)
		}
	})
	if err := l.Record(nil, 6*30); err != nil { // no server is left, and time goes on
		t.Fatal(err)
	}
	eventually(t, "time is told without samples", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.told[len(p.told)-1] == 6*30 })
	p.wantWindows(t, 1, 4, 300)
}

func TestWhatTheBoundDroppedIsSentAsAGap(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	l, err := New(Config{Dir: p.join(t), Log: slog.New(slog.DiscardHandler), Samples: spool.Config{MaxBytes: 1500, SegmentBytes: 500}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	record(t, l, 1, 60, 10)
	l.Start(t.Context(), http.NotFoundHandler())
	eventually(t, "the newest came", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.sampled == 600 })
	p.with(func() {
		if g := p.samples[0].Gap; g == nil || g.From != 1 || int(g.To)+len(p.samples)-1 != 600 {
			t.Errorf("first came %+v, then %d samples", p.samples[0], len(p.samples)-1)
		}
	})
}

func TestSamplesGoOnAfterARestart(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	dir := p.join(t)
	l := open(t, dir)
	record(t, l, 1, 3, 5)
	l.Stop()
	l = open(t, dir)
	record(t, l, 4, 5, 5)
	l.Start(t.Context(), http.NotFoundHandler())
	eventually(t, "all samples are there", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.samples) == 25 })
	p.wantWindows(t, 1, 5, 5)
}

// The panel's clock is what windows are named by, so that a node whose clock is wrong bills right.
func TestT19_ThePanelsClockIsKnownFromItsAnswers(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	p.clock = 26 * time.Hour
	l := open(t, p.join(t))
	if _, ok := l.PanelTime(); ok {
		t.Error("the panel's clock is known before it said anything")
	}
	if err := l.heartbeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	at, ok := l.PanelTime()
	if ahead := time.Until(at); !ok || ahead < 26*time.Hour-time.Minute || ahead > 26*time.Hour+time.Minute {
		t.Errorf("the panel's clock is %v ahead, known: %t", ahead, ok)
	}
	l.noteClock(time.Now().Add(time.Hour), time.Now().Add(-2*maxClockTrip))
	if again, _ := l.PanelTime(); again.Sub(at) > time.Minute {
		t.Error("an answer that took long was believed")
	}
}
