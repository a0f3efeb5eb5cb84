package fleet

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/pocketbase/core"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

func crash(seq int64, server int) wire.Event {
	return wire.Event{Seq: seq, Kind: wire.EventCrash, Crash: &wire.CrashReport{ServerID: serverID(server), Attempt: seq}}
}

func observed(seq int64, server int, revision int64) wire.Event {
	return wire.Event{Seq: seq, Kind: wire.EventObserved, Observed: &wire.Observed{ServerID: serverID(server), Revision: revision}}
}

func gapEvent(from, to int64) wire.Event {
	return wire.Event{Seq: to, Kind: wire.EventGap, Gap: &wire.Gap{From: from, To: to}}
}

func crashes(p *panel) []wire.CrashReport {
	return told(p.placed, func(p *placements) []wire.CrashReport { return p.crashes })
}

func mustIntake(t testing.TB, p *panel, node, spool string, want int64, list ...wire.Event) {
	t.Helper()
	acked, err := p.intake(node, wire.EventBatch{SpoolID: spool, Events: list})
	if err != nil || acked != want {
		t.Fatalf("acknowledged %d, %v; want %d", acked, err, want)
	}
}

func TestIntakeCountsEachEventOnce(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	mustIntake(t, p, id, "A", 2, crash(1, 1), crash(2, 1))
	mustIntake(t, p, id, "A", 2, crash(1, 1), crash(2, 1))              // the answer was lost
	mustIntake(t, p, id, "A", 3, crash(2, 1), crash(3, 1))              // overlapping
	mustIntake(t, p, id, "A", 3, crash(5, 1), crash(6, 1))              // a hole
	mustIntake(t, p, id, "A", 4, crash(4, 1), crash(6, 1))              // a hole inside
	mustIntake(t, p, id, "A", 6, crash(5, 1), crash(6, 1))              // closed
	mustIntake(t, p, id, "A", 6)                                        // nothing
	mustIntake(t, p, id, "A", 6, crash(6, 1), crash(5, 1), crash(1, 1)) // out of order, all had
	mustIntake(t, p, id, "A", 7, crash(7, 1), crash(7, 1))              // doubled in one batch
	mustIntake(t, p, id, "B", 1, crash(1, 2))                           // a rebuilt node
	if got := crashes(p); len(got) != 8 {
		t.Fatalf("%d effects, want 8", len(got))
	}
	for i, c := range crashes(p)[:7] {
		if c.Attempt != int64(i+1) {
			t.Errorf("effect %d is of event %d", i, c.Attempt)
		}
	}
	if n := p.node(t, id); n.SpoolID() != "B" || n.AckedSeq() != 1 {
		t.Errorf("the row says spool %s, %d", n.SpoolID(), n.AckedSeq())
	}
}

func TestIntakeTakesAGapForItsEventsAndSaysSo(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	mustIntake(t, p, id, "A", 1, crash(1, 1))
	mustIntake(t, p, id, "A", 1, gapEvent(3, 5), crash(6, 1)) // 2 is missing still
	mustIntake(t, p, id, "A", 6, gapEvent(2, 5), crash(6, 1))
	mustIntake(t, p, id, "A", 6, gapEvent(1, 6))                                                          // had already
	mustIntake(t, p, id, "A", 6, wire.Event{Seq: 7, Kind: wire.EventGap, Gap: &wire.Gap{From: 7, To: 9}}) // lies about its place
	mustIntake(t, p, id, "A", 9, gapEvent(4, 9))                                                          // overlaps what was had
	if got := p.book.count(t, "node.events_lost:"+id); got != 2 {
		t.Errorf("the incident was counted %d times, want 2", got)
	}
	if len(crashes(p)) != 2 {
		t.Errorf("%d effects", len(crashes(p)))
	}
}

func TestOnlyTheLastStateOfAServerInABatchMatters(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	mustIntake(t, p, id, "A", 6, observed(1, 1, 1), observed(2, 2, 1), observed(3, 1, 2), crash(4, 1), observed(5, 1, 3), observed(6, 2, 2))
	got := told(p.placed, func(p *placements) []wire.Observed { return p.observed })
	if len(got) != 2 || got[0].Revision != 3 || got[1].Revision != 2 {
		t.Errorf("observed %+v", got)
	}
}

func TestFailingEventIsTriedAgainAndThenSkipped(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	p.placed.fail = func(server string) error {
		if server == serverID(13) {
			return errBroken
		}
		return nil
	}
	batch := wire.EventBatch{SpoolID: "A", Events: []wire.Event{crash(1, 1), crash(2, 13), crash(3, 1)}}
	for try := 1; try < poisonAttempts; try++ {
		if _, err := p.intake(id, batch); !errors.Is(err, errBroken) {
			t.Fatalf("try %d: %v", try, err)
		}
		if n := p.node(t, id); n.AckedSeq() != 1 {
			t.Fatalf("after try %d event %d is acknowledged", try, n.AckedSeq())
		}
	}
	if p.book.count(t, "node.event_skipped:"+id) != 0 {
		t.Error("an incident before the last try")
	}
	mustIntake(t, p, id, "A", 3, batch.Events...)
	if got := crashes(p); len(got) != 2 || got[0].Attempt != 1 || got[1].Attempt != 3 {
		t.Errorf("effects %+v", got)
	}
	if p.book.count(t, "node.event_skipped:"+id) != 1 {
		t.Error("no incident for the skipped event")
	}
}

func TestEventThatCanNeverBeAppliedIsSkippedAtOnce(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	p.placed.fail = func(server string) error {
		if server == serverID(13) {
			return fmt.Errorf("no such server: %w", ErrPermanent)
		}
		return nil
	}
	mustIntake(t, p, id, "A", 6,
		crash(1, 13), crash(2, 1),
		wire.Event{Seq: 3, Kind: "from_the_future"},
		wire.Event{Seq: 4, Kind: wire.EventCrash}, // without its content
		crash(5, 1),
		wire.Event{Seq: 6, Kind: wire.EventInstalled, Install: &wire.InstallReport{ServerID: serverID(1)}})
	if got := crashes(p); len(got) != 2 {
		t.Errorf("%d effects", len(got))
	}
	if got := told(p.placed, func(p *placements) []wire.InstallReport { return p.installs }); len(got) != 1 {
		t.Errorf("%d install reports", len(got))
	}
	if got := p.book.count(t, "node.event_skipped:"+id); got != 3 {
		t.Errorf("%d skipped events are counted", got)
	}
}

func TestFailureRollsItsWholeTransactionBack(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	p.placed.fail = func(string) error { return errBroken } // after the effect was written
	if _, err := p.intake(id, wire.EventBatch{SpoolID: "A", Events: []wire.Event{crash(1, 1)}}); err == nil {
		t.Fatal("no error")
	}
	if len(crashes(p)) != 0 || p.node(t, id).AckedSeq() != 0 {
		t.Error("an effect stayed without its acknowledgement")
	}
}

func TestPoisonForgetsInsteadOfGrowing(t *testing.T) {
	t.Parallel()
	var p poison
	for i := range int64(3 * maxPoison) {
		p.failed(poisonKey{"n", "s", i})
	}
	if len(p.tries) > maxPoison {
		t.Errorf("%d failures are remembered", len(p.tries))
	}
}

func TestBatchesThatAreNotOnesAreRefused(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	path := "/v1/nodes/" + m.id + "/events"
	many := make([]wire.Event, wire.MaxEventsPerBatch+1)
	for name, batch := range map[string]wire.EventBatch{
		"no spool id": {}, "too many": {SpoolID: "A", Events: many}, "a long spool id": {SpoolID: string(make([]byte, 65))},
	} {
		if status := p.post(t, p.client(&m.cert), path, batch, nil); status != 400 {
			t.Errorf("%s: %d", name, status)
		}
	}
	var ack wire.EventAck
	if status := p.post(t, p.client(&m.cert), path, wire.EventBatch{SpoolID: "A", Events: []wire.Event{crash(1, 1)}}, &ack); status != 200 || ack.AckedSeq != 1 {
		t.Errorf("a good one: %d, acknowledged %d", status, ack.AckedSeq)
	}
}

// Whatever arrives, in whatever order and however often: each event has its effect once, in order,
// and nothing is acknowledged that has not come.
func TestIntakeAgainstModel(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		name := fmt.Sprintf("node-%d", round)
		n, _, err := p.CreateNode(operator, input(name))
		if err != nil {
			rt.Fatalf("%v", err)
		}
		before := len(crashes(p))
		var acked int64
		for range rapid.IntRange(1, 6).Draw(rt, "batches") {
			first := rapid.Int64Range(1, acked+3).Draw(rt, "first")
			size := rapid.Int64Range(0, 4).Draw(rt, "size")
			var list []wire.Event
			for s := first; s < first+size; s++ {
				list = append(list, crash(s, round))
			}
			got, err := p.intake(n.Id, wire.EventBatch{SpoolID: "A", Events: list})
			if err != nil {
				rt.Fatalf("%v", err)
			}
			if first <= acked+1 {
				acked = max(acked, first+size-1)
			}
			if got != acked {
				rt.Fatalf("acknowledged %d, want %d", got, acked)
			}
		}
		effects := crashes(p)[before:]
		if int64(len(effects)) != acked {
			rt.Fatalf("%d effects for %d events", len(effects), acked)
		}
		for i, c := range effects {
			if c.Attempt != int64(i+1) {
				rt.Fatalf("effect %d is of event %d", i, c.Attempt)
			}
		}
	})
}

// T18 in small: events reported while the panel is away arrive once and in order when it is back,
// also through a wings that was killed and started again meanwhile.
func TestT18_PartitionLosesAndDoublesNoEvent(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	p.config.Listen = p.Addr()
	w := p.joinWings(t, "node-a", syncing())
	dir := w.dir
	w.Start(t.Context(), syncing())
	const perRun = 40
	report := func(w *wings, from int64) {
		for i := from; i < from+perRun; i++ {
			if err := w.Report(crash(0, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	report(w, 0)
	p.Stop() // in the middle of it, most likely
	report(w, perRun)
	w.Stop()
	w = openWings(t, dir, syncing())
	w.Start(t.Context(), syncing())
	report(w, 2*perRun)
	p.renew(t)
	p.start(t)
	eventually(t, "all events are there", func() bool { return len(crashes(p)) >= 3*perRun })
	if n := p.node(t, w.NodeID()); n.AckedSeq() != 3*perRun || len(crashes(p)) != 3*perRun {
		t.Errorf("%d effects, acknowledged %d, want %d", len(crashes(p)), n.AckedSeq(), 3*perRun)
	}
	t.Logf("T18: %d events over a partition, a panel restart and a wings restart: %d effects", 3*perRun, len(crashes(p)))
}

func TestHeartbeatsSetStatusAndIncidents(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	now := time.Now().UTC().Add(time.Hour) // well after the panel's own start
	beat := func(at time.Time, skew time.Duration) {
		t.Helper()
		if _, err := p.heartbeat(id, wire.Heartbeat{NodeClock: at.Add(skew)}, at); err != nil {
			t.Fatal(err)
		}
	}
	statuses := func() []bool { return told(p.placed, func(p *placements) []bool { return p.statuses }) }
	look := func(status string, offline int, heard ...bool) {
		t.Helper()
		if got := p.node(t, id).Status(); got != status {
			t.Errorf("status %s, want %s", got, status)
		}
		if got := p.book.count(t, "node.offline:"+id); got != offline {
			t.Errorf("%d open incidents, want %d", got, offline)
		}
		if fmt.Sprint(statuses()) != fmt.Sprint(heard) {
			t.Errorf("servers heard %v, want %v", statuses(), heard)
		}
	}
	sweep := func(at time.Time) {
		t.Helper()
		if err := p.sweep(at); err != nil {
			t.Fatal(err)
		}
	}
	sweep(now) // never seen: nothing to say about it
	look("OFFLINE", 0)
	beat(now, 0)
	look("ONLINE", 0, true)
	rev := p.node(t, id).Rev()
	beat(now.Add(15*time.Second), 0)
	if got := p.node(t, id).Rev(); got != rev {
		t.Error("a heartbeat that changes nothing made a revision")
	}
	sweep(now.Add(75 * time.Second)) // silent for exactly a minute
	look("ONLINE", 0, true)
	sweep(now.Add(76 * time.Second))
	look("OFFLINE", 1, true, false)
	sweep(now.Add(90 * time.Second))
	look("OFFLINE", 1, true, false)
	beat(now.Add(2*time.Minute), 0)
	look("ONLINE", 0, true, false, true)
	if got := p.node(t, id).Rev(); got != rev+2 {
		t.Errorf("revision %d after going and coming, want %d", got, rev+2)
	}
}

func TestPanelThatJustStartedCallsNobodySilent(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	past := time.Now().UTC().Add(-time.Hour)
	if _, err := p.heartbeat(id, wire.Heartbeat{}, past); err != nil {
		t.Fatal(err)
	}
	if err := p.sweep(p.started.Add(wire.OfflineAfter - time.Second)); err != nil || p.node(t, id).Status() != "ONLINE" {
		t.Errorf("the node is %s, %v", p.node(t, id).Status(), err)
	}
	if err := p.sweep(p.started.Add(wire.OfflineAfter + time.Second)); err != nil || p.node(t, id).Status() != "OFFLINE" {
		t.Errorf("a minute later the node is %s, %v", p.node(t, id).Status(), err)
	}
}

func TestModesShowInTheStatus(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	if _, err := collectionsTx(p, id); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Add(time.Hour)
	for mode, status := range map[string]string{"DRAINING": "DRAINING", "MAINTENANCE": "MAINTENANCE", "ACTIVE": "ONLINE"} {
		if _, err := p.heartbeat(id, wire.Heartbeat{NodeClock: now}, now); err != nil {
			t.Fatal(err)
		}
		n, err := p.SetMode(operator, id, mode)
		if err != nil || n.Status() != status {
			t.Errorf("mode %s shows as %s, %v", mode, n.Status(), err)
		}
	}
	if _, err := p.SetMode(operator, id, "MAINTENANCE"); err != nil {
		t.Fatal(err)
	}
	if err := p.sweep(now.Add(5 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n := p.node(t, id); n.Status() != "OFFLINE" || p.book.count(t, "node.offline:"+id) != 0 {
		t.Errorf("a silent node in maintenance is %s with %d incidents", n.Status(), p.book.count(t, "node.offline:"+id))
	}
	if _, err := p.SetMode(operator, id, "ACTIVE"); err != nil || p.book.count(t, "node.offline:"+id) != 1 {
		t.Errorf("silent after the maintenance: %d incidents, %v", p.book.count(t, "node.offline:"+id), err)
	}
	if _, err := p.SetMode(operator, id, "MAINTENANCE"); err != nil || p.book.count(t, "node.offline:"+id) != 0 {
		t.Errorf("back in maintenance: %d incidents, %v", p.book.count(t, "node.offline:"+id), err)
	}
}

// collectionsTx marks a node as enrolled without a certificate.
func collectionsTx(p *panel, id string) (string, error) {
	_, err := p.change(operator, id, "node.updated", nil, func(_ core.App, n *nodeRow) error {
		n.SetEnrolledAt(time.Now().UTC())
		return nil
	})
	return id, err
}

func TestT19_WrongClocksAreReportedAndLockNobodyOut(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	now := time.Now().UTC().Truncate(time.Millisecond)
	for _, c := range []struct {
		skew time.Duration
		open int
	}{
		{0, 0}, {2 * time.Minute, 0}, {2*time.Minute + time.Second, 1}, {5 * time.Minute, 1}, {-time.Minute, 0},
		{-5 * time.Minute, 1}, {-24 * time.Hour, 1}, {48 * time.Hour, 1}, {time.Second, 0},
	} {
		if _, err := p.heartbeat(id, wire.Heartbeat{NodeClock: now.Add(c.skew)}, now); err != nil {
			t.Fatal(err)
		}
		n := p.node(t, id)
		if got := p.book.count(t, "node.clock:"+id); got != c.open {
			t.Errorf("skew %s: %d incidents, want %d", c.skew, got, c.open)
		}
		if n.ClockSkewMs() != c.skew.Milliseconds() || n.Status() != "ONLINE" {
			t.Errorf("skew %s: the row says %d ms, %s", c.skew, n.ClockSkewMs(), n.Status())
		}
	}
	// A certificate made now must verify for a clock two days slow, as must our own chain.
	m := p.enrolNode(t, "node-b")
	for _, skew := range []time.Duration{-48 * time.Hour, 0, 48 * time.Hour} {
		if err := verifyAt(p, time.Now().Add(skew)); err != nil {
			t.Errorf("a node whose clock is %s off refuses the panel: %v", skew, err)
		}
		if at := time.Now().Add(skew); at.Before(m.cert.Leaf.NotBefore) || at.After(m.cert.Leaf.NotAfter) {
			t.Errorf("the node's certificate is not valid for a clock %s off", skew)
		}
	}
	t.Logf("T19: skew beyond 2 min reported in 5 of 5 cases, 0 of 4 others; ±48 h locks nobody out")
}

func TestConcurrentBatchesOfOneNodeCountOnce(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	var list []wire.Event
	for s := range int64(20) {
		list = append(list, crash(s+1, 1))
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if acked, err := p.intake(id, wire.EventBatch{SpoolID: "A", Events: list}); err != nil || acked != 20 {
				t.Errorf("acknowledged %d, %v", acked, err)
			}
		})
	}
	wg.Wait()
	if len(crashes(p)) != 20 {
		t.Errorf("%d effects of 20 events sent six times at once", len(crashes(p)))
	}
}
