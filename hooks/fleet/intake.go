package fleet

import (
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/wings/wire"
)

const (
	eventsPerTx    = 50     // effects in one transaction: others wait for it, a batch of 500 took over a second
	poisonAttempts = 5      // of one event whose effect fails, before it is skipped
	maxPoison      = 10_000 // events remembered as failing, over all nodes; beyond it all start anew
)

// poison counts how often an event failed, so that one which always fails does not block those
// behind it for ever. In memory only: a restart gives it more tries.
type poison struct {
	mu    sync.Mutex
	tries map[poisonKey]int
}

type poisonKey struct {
	node, spool string
	seq         int64
}

// failed counts one more failure and reports whether it was the last that is allowed.
func (p *poison) failed(k poisonKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tries == nil || len(p.tries) >= maxPoison {
		p.tries = map[poisonKey]int{}
	}
	p.tries[k]++
	if p.tries[k] < poisonAttempts {
		return false
	}
	delete(p.tries, k)
	return true
}

func (f *Fleet) handleEvents(w http.ResponseWriter, r *http.Request) {
	var in wire.EventBatch
	if err := decodeBody(w, r, wire.MaxEventBatchBytes, &in); err != nil {
		f.fail(w, r, err)
		return
	}
	if in.SpoolID == "" || len(in.SpoolID) > 64 || len(in.Events) > wire.MaxEventsPerBatch {
		answerError(w, &wire.Error{Status: http.StatusBadRequest, Code: "batch_invalid", Message: fmt.Sprintf("A batch has a spool id and at most %d events.", wire.MaxEventsPerBatch)})
		return
	}
	acked, err := f.intake(callerOf(r).node, in)
	if err != nil {
		f.fail(w, r, err)
		return
	}
	answer(w, wire.EventAck{AckedSeq: acked})
}

// intake applies a batch, a part of it at a time, and returns the highest contiguous sequence that is
// durable.
func (f *Fleet) intake(node string, batch wire.EventBatch) (acked int64, err error) {
	skip := superseded(batch.Events)
	for from := 0; from == 0 || from < len(batch.Events); from += eventsPerTx {
		to := min(from+eventsPerTx, len(batch.Events))
		if acked, err = f.intakePart(node, batch.SpoolID, batch.Events[from:to], skip[from:to]); err != nil {
			return 0, err
		}
	}
	return acked, nil
}

// intakePart applies events with their effects in one transaction. When one fails, all are rolled back
// and taken one by one, so that those before it count and it alone is tried again or, in the end,
// skipped.
func (f *Fleet) intakePart(node, spool string, list []wire.Event, skip []bool) (acked int64, err error) {
	acked, err = f.apply(node, spool, list, skip)
	var failed *eventError
	if err == nil || !errors.As(err, &failed) {
		return acked, err
	}
	for i := range list {
		e := list[i : i+1]
		if acked, err = f.apply(node, spool, e, []bool{false}); err == nil {
			continue
		}
		if !errors.As(err, &failed) {
			return 0, err
		}
		k := poisonKey{node, spool, e[0].Seq}
		if !errors.Is(err, ErrPermanent) && !f.poison.failed(k) {
			return 0, err
		}
		if acked, err = f.skip(node, spool, e[0], failed); err != nil {
			return 0, err
		}
	}
	return acked, nil
}

// eventError is a failed effect of one event.
type eventError struct {
	seq  int64
	kind wire.EventKind
	err  error
}

// Error implements error.
func (e *eventError) Error() string {
	return fmt.Sprintf("event %d (%s): %v", e.seq, clip(string(e.kind), 32), e.err)
}

// Unwrap returns what the handler said.
func (e *eventError) Unwrap() error { return e.err }

// superseded marks the states that a later one of the same server in the batch replaces: only the last
// matters, and each would cost a write.
func superseded(list []wire.Event) []bool {
	last, out := map[string]int{}, make([]bool, len(list))
	for i, e := range list {
		if e.Kind != wire.EventObserved || e.Observed == nil {
			continue
		}
		if before, ok := last[e.Observed.ServerID]; ok {
			out[before] = true
		}
		last[e.Observed.ServerID] = i
	}
	return out
}

// apply takes events in one transaction with their effects. What was had already is passed over;
// a hole ends the list: the node sends again from there.
func (f *Fleet) apply(node, spool string, list []wire.Event, skip []bool) (acked int64, err error) {
	servers := make([]string, 0, len(list))
	for _, e := range list {
		servers = append(servers, serverOf(e))
	}
	locks, rare, err := f.locks(node, servers...)
	if err != nil {
		return 0, err
	}
	err = f.tx(locks, rare, func(tx core.App) error {
		n, err := collections.FindNode(tx, node)
		if err != nil {
			return err
		}
		if err := f.begin(tx, n, spool); err != nil {
			return err
		}
		acked = n.AckedSeq()
		for i, e := range list {
			if e.Seq <= acked {
				continue
			}
			if !follows(e, acked) {
				break
			}
			if !skip[i] {
				if err := f.effect(tx, n, e); err != nil {
					return &eventError{seq: e.Seq, kind: e.Kind, err: err}
				}
			}
			acked = e.Seq
		}
		return advance(tx, n, acked)
	})
	return acked, err
}

// begin makes spool the one that a node's events count in. A new one is a rebuilt node, which numbers
// everything from the beginning.
func (f *Fleet) begin(tx core.App, n *collections.Node, spool string) error {
	if n.SpoolID() == spool {
		return nil
	}
	n.SetSpoolID(spool)
	n.SetAckedSeq(0)
	if err := permit.Save(tx, n); err != nil {
		return fmt.Errorf("begin spool of node %s: %w", n.Id, err)
	}
	return f.placements.Rebuilt(tx, n.Id)
}

// follows reports whether an event is the next after acked. A gap stands for all of its events.
func follows(e wire.Event, acked int64) bool {
	if e.Kind == wire.EventGap && e.Gap != nil {
		return e.Gap.From <= acked+1 && e.Gap.To == e.Seq
	}
	return e.Seq == acked+1
}

// advance stores how far the node's spool is durable.
func advance(tx core.App, n *collections.Node, acked int64) error {
	if n.AckedSeq() == acked {
		return nil
	}
	n.SetAckedSeq(acked)
	if err := permit.Save(tx, n); err != nil {
		return fmt.Errorf("acknowledge event %d of node %s: %w", acked, n.Id, err)
	}
	return nil
}

func serverOf(e wire.Event) string {
	switch {
	case e.Observed != nil:
		return e.Observed.ServerID
	case e.Crash != nil:
		return e.Crash.ServerID
	case e.Install != nil:
		return e.Install.ServerID
	case e.Unknown != nil:
		return e.Unknown.ServerID
	}
	return ""
}

// effect does what an event is for. A kind that this version does not know is a permanent error: a
// newer node was joined to an older panel.
func (f *Fleet) effect(tx core.App, n *collections.Node, e wire.Event) error {
	switch {
	case e.Kind == wire.EventObserved && e.Observed != nil:
		return f.placements.Observe(tx, n.Id, *e.Observed)
	case e.Kind == wire.EventCrash && e.Crash != nil:
		return f.placements.Crashed(tx, n.Id, *e.Crash)
	case e.Kind == wire.EventInstalled && e.Install != nil:
		return f.placements.Installed(tx, n.Id, *e.Install)
	case e.Kind == wire.EventUnknown && e.Unknown != nil:
		return f.placements.Unknown(tx, n.Id, *e.Unknown)
	case e.Kind == wire.EventGap && e.Gap != nil:
		collections.AfterCommit(tx, func() { f.Kick(n.Id) }) // states that were lost come with a sync
		return f.cfg.Incidents.Open(tx, incidents.Incident{
			Kind: "node.events_lost", Fingerprint: "node.events_lost:" + n.Id, Severity: "warning", Node: n.Id,
			Title:  "Node " + n.Name() + " lost events",
			Detail: fmt.Sprintf("Events %d to %d are gone: the node's spool was full, its disk was damaged, or the panel was restored from a backup. The state of its servers is read anew; crash and install reports in between are missing.", e.Gap.From, e.Gap.To),
		})
	}
	return fmt.Errorf("event of kind %q without what it needs: %w", clip(string(e.Kind), 32), ErrPermanent)
}

// skip passes over an event that cannot be applied, and says so.
func (f *Fleet) skip(node, spool string, e wire.Event, cause *eventError) (acked int64, err error) {
	f.log.Error("an event of a node is skipped: it cannot be applied", "node", node, "seq", e.Seq, "kind", clip(string(e.Kind), 32), "server", clip(serverOf(e), 15), "error", cause.err)
	err = collections.Tx(f.app, []collections.Lock{incidents.Lock, nodeLock(node)}, func(tx core.App) error {
		n, err := collections.FindNode(tx, node)
		if err != nil {
			return err
		}
		if err := f.begin(tx, n, spool); err != nil {
			return err
		}
		acked = n.AckedSeq()
		if !follows(e, acked) {
			return nil
		}
		err = f.cfg.Incidents.Open(tx, incidents.Incident{
			Kind: "node.event_skipped", Fingerprint: "node.event_skipped:" + n.Id, Severity: "critical", Node: n.Id,
			Title:  "An event of node " + n.Name() + " could not be applied and was skipped",
			Detail: clip(cause.Error(), 2000),
		})
		if err != nil {
			return err
		}
		acked = e.Seq
		return advance(tx, n, acked)
	})
	return acked, err
}
