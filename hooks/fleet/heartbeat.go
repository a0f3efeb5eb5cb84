package fleet

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/wings/wire"
)

// maxSkew is how wrong a node's clock may be before an operator hears of it.
const maxSkew = 2 * time.Minute

// Statuses of a node; what an operator wants (mode) has the same words but OFFLINE and ONLINE/ACTIVE.
const (
	statusOnline      = "ONLINE"
	statusOffline     = "OFFLINE"
	statusDraining    = "DRAINING"
	statusMaintenance = "MAINTENANCE"
	modeActive        = "ACTIVE"
)

// statusOf is what is shown of a node: OFFLINE when it is silent, else what its mode says.
func statusOf(mode string, alive bool) string {
	switch {
	case !alive:
		return statusOffline
	case mode == statusDraining, mode == statusMaintenance:
		return mode
	}
	return statusOnline
}

func (f *Fleet) handleHeartbeat(w http.ResponseWriter, r *http.Request) {
	var in wire.Heartbeat
	if err := decodeBody(w, r, maxSmallBody, &in); err != nil {
		f.fail(w, r, err)
		return
	}
	reply, err := f.heartbeat(callerOf(r).node, in, time.Now().UTC())
	if err != nil {
		f.fail(w, r, err)
		return
	}
	answer(w, reply)
}

// heartbeat notes that a node is alive. It is one plain UPDATE without hooks, revision or audit row,
// because it comes every few seconds from every node; only a change of status or of the clock's
// rightness is a change that others hear of. It holds the node's lock, because others save the whole row.
func (f *Fleet) heartbeat(node string, h wire.Heartbeat, now time.Time) (wire.HeartbeatReply, error) {
	h.Release, h.Engine, h.SpoolID = clip(h.Release, 64), clip(h.Engine, 128), clip(h.SpoolID, 64)
	h.Roots = h.Roots[:min(len(h.Roots), maxRoots)]
	h.EngineError = clip(h.EngineError, wire.MaxMessageBytes)
	raw, err := types.ParseJSONRaw(h)
	if err != nil {
		return wire.HeartbeatReply{}, err
	}
	trusts, err := trustsOf(h.Roots)
	if err != nil {
		return wire.HeartbeatReply{}, err
	}
	skew := h.NodeClock.Sub(now)
	if h.NodeClock.IsZero() {
		skew = 0
	}
	at, err := types.ParseDateTime(now)
	if err != nil {
		return wire.HeartbeatReply{}, err
	}
	var n *collections.Node
	err = collections.Tx(f.app, []collections.Lock{nodeLock(node)}, func(tx core.App) error {
		if n, err = collections.FindNode(tx, node); err != nil {
			return err
		}
		_, err := tx.NonconcurrentDB().Update(collections.Nodes,
			dbx.Params{"last_heartbeat": at.String(), "heartbeat": raw.String(), "clock_skew_ms": skew.Milliseconds(), "trusts": trusts},
			dbx.HashExp{"id": node}).Execute()
		return err
	})
	if err != nil {
		return wire.HeartbeatReply{}, fmt.Errorf("note heartbeat of node %s: %w", node, err)
	}
	was := time.Duration(n.ClockSkewMs()) * time.Millisecond
	if (skew.Abs() > maxSkew) != (was.Abs() > maxSkew) {
		if err := f.reportSkew(n, skew); err != nil {
			return wire.HeartbeatReply{}, err
		}
	}
	status := statusOf(n.Mode(), true)
	if n.Status() != status {
		if err := f.setAlive(node, true, now); err != nil {
			return wire.HeartbeatReply{}, err
		}
	}
	if len(f.trust.Load().roots) > 1 && n.GetString("trusts") != trusts { // perhaps the last that a new root waited for
		nudge(f.recheck)
	}
	reply := wire.HeartbeatReply{PanelClock: now, Status: status, Instances: f.addresses()}
	reply.Roots, reply.Renew = f.trust.Load().news(h.Roots, n.CertExpiresAt().Add(-nodeLife))
	return reply, nil
}

func (f *Fleet) reportSkew(n *collections.Node, skew time.Duration) error {
	fingerprint := "node.clock:" + n.Id
	return collections.Tx(f.app, []collections.Lock{incidents.Lock, nodeLock(n.Id)}, func(tx core.App) error {
		if skew.Abs() <= maxSkew {
			return f.cfg.Incidents.Resolve(tx, fingerprint, "The node's clock is right again.")
		}
		return f.cfg.Incidents.Open(tx, incidents.Incident{
			Kind: "node.clock", Fingerprint: fingerprint, Severity: "warning", Node: n.Id,
			Title:  "The clock of node " + n.Name() + " is wrong",
			Detail: fmt.Sprintf("It differs from the panel's by %s. Usage is counted with the panel's knowledge of it, but certificates and logs need a right clock: set up time synchronisation on the node.", skew.Round(time.Second)),
		})
	})
}

// sweep marks nodes that were silent for wire.OfflineAfter, whichever instance they report to. Right
// after this instance started nobody is silent for it yet: if it is the only one, they could not reach
// us. Of several instances that see the same silence, the first to have the node's lock announces it.
func (f *Fleet) sweep(now time.Time) error {
	limit := now.Add(-wire.OfflineAfter)
	if f.started.After(limit) {
		return nil
	}
	at, err := types.ParseDateTime(limit)
	if err != nil {
		return err
	}
	var silent []string
	err = f.app.DB().Select("id").From(collections.Nodes).
		Where(dbx.And(dbx.Not(dbx.HashExp{"status": statusOffline}), dbx.NewExp("[[last_heartbeat]] < {:limit}", dbx.Params{"limit": at.String()}))).
		Column(&silent)
	if err != nil {
		return fmt.Errorf("find silent nodes: %w", err)
	}
	var errs []error
	for _, id := range silent {
		errs = append(errs, f.setAlive(id, false, now))
	}
	return errors.Join(errs...)
}

// setAlive changes the status of a node that went silent or came back, with the incident, the event
// and the servers' phases in the same transaction. It asks the row again: a heartbeat may have come
// in between, or another instance been faster.
func (f *Fleet) setAlive(node string, alive bool, now time.Time) error {
	err := f.withServers(node, true, func(tx core.App, _ []string) error {
		n, err := collections.FindNode(tx, node)
		if err != nil {
			return err
		}
		if !alive && now.Sub(n.LastHeartbeat()) <= wire.OfflineAfter {
			return nil
		}
		was, status := n.Status(), statusOf(n.Mode(), alive)
		if was == status {
			return nil
		}
		n.SetStatus(status)
		n.SetRev(n.Rev() + 1)
		if err := permit.Save(tx, n); err != nil {
			return err
		}
		if (was == statusOffline) == (status == statusOffline) {
			return nil // DRAINING and the like: the operator did it and it is recorded there
		}
		return f.announceAlive(tx, n, alive)
	})
	if err != nil {
		return fmt.Errorf("set status of node %s: %w", node, err)
	}
	return nil
}

func (f *Fleet) announceAlive(tx core.App, n *collections.Node, alive bool) error {
	kind := "node.online"
	var err error
	switch {
	case alive:
		err = f.cfg.Incidents.Resolve(tx, "node.offline:"+n.Id, "The node reports again.")
	case n.Mode() == statusMaintenance:
		kind = "node.offline" // expected: somebody works on it
	default:
		kind = "node.offline"
		err = f.openSilence(tx, n)
	}
	if err != nil {
		return err
	}
	if err := f.placements.NodeStatus(tx, n.Id, alive); err != nil {
		return fmt.Errorf("tell servers: %w", err)
	}
	return f.cfg.Events.Emit(tx, events.Event{
		Kind: kind, SubjectType: collections.Nodes, Subject: n.Id, ActorType: "system",
		Payload: map[string]any{"name": n.Name()},
	})
}

func (f *Fleet) openSilence(tx core.App, n *collections.Node) error {
	return f.cfg.Incidents.Open(tx, incidents.Incident{
		Kind: "node.offline", Fingerprint: "node.offline:" + n.Id, Severity: "critical", Node: n.Id,
		Title:  "Node " + n.Name() + " is silent",
		Detail: fmt.Sprintf("Its last sign of life was at %s UTC. Its game servers go on running as long as the machine does; they cannot be managed until it is back.", n.LastHeartbeat().UTC().Format("2006-01-02 15:04:05")),
	})
}
