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

// intake applies a batch and returns the highest contiguous sequence that is durable. The whole
// batch is one transaction with its effects; when one event fails, all are rolled back and taken one
// by one, so that those before it count and it alone is tried again or, in the end, skipped.
func (f *Fleet) intake(node string, batch wire.EventBatch) (acked int64, err error) {
	acked, err = f.apply(node, batch.SpoolID, batch.Events, superseded(batch.Events))
	var failed *eventError
	if err == nil || !errors.As(err, &failed) {
		return acked, err
	}
	for i := range batch.Events {
		e := batch.Events[i : i+1]
		if acked, err = f.apply(node, batch.SpoolID, e, nil); err == nil {
			continue
		}
		if !errors.As(err, &failed) {
			return 0, err
		}
		k := poisonKey{node, batch.SpoolID, e[0].Seq}
		if !errors.Is(err, ErrPermanent) && !f.poison.failed(k) {
			return 0, err
		}
		if acked, err = f.skip(node, batch.SpoolID, e[0], failed); err != nil {
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

// superseded returns the indexes of states that a later one of the same server in the batch replaces:
// only the last matters, and each would cost a write.
func superseded(list []wire.Event) map[int]bool {
	last, out := map[string]int{}, map[int]bool{}
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
func (f *Fleet) apply(node, spool string, list []wire.Event, skip map[int]bool) (acked int64, err error) {
	servers := make([]string, 0, len(list))
	for _, e := range list {
		servers = append(servers, serverOf(e))
	}
	locks, err := f.locks(node, servers...)
	if err != nil {
		return 0, err
	}
	err = collections.Tx(f.app, locks, func(tx core.App) error {
		n, err := collections.FindNode(tx, node)
		if err != nil {
			return err
		}
		acked = standing(n, spool)
		before := acked
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
		return advance(tx, n, spool, before, acked)
	})
	return acked, err
}

// standing is the newest event of a spool that is durable here; a spool that is new begins at 0.
func standing(n *collections.Node, spool string) int64 {
	if n.SpoolID() != spool {
		return 0
	}
	return n.AckedSeq()
}

// follows reports whether an event is the next after acked. A gap stands for all of its events.
func follows(e wire.Event, acked int64) bool {
	if e.Kind == wire.EventGap && e.Gap != nil {
		return e.Gap.From <= acked+1 && e.Gap.To == e.Seq
	}
	return e.Seq == acked+1
}

// advance stores how far the node's spool is durable.
func advance(tx core.App, n *collections.Node, spool string, before, acked int64) error {
	if n.SpoolID() == spool && before == acked {
		return nil
	}
	n.SetSpoolID(spool)
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
		acked = standing(n, spool)
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
		return advance(tx, n, spool, acked-1, acked)
	})
	return acked, err
}
