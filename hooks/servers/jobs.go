package servers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/wings/wire"
)

// command is the payload of every job of this room: which generation it waits for.
type command struct {
	Server     string `json:"server"`
	Epoch      int64  `json:"epoch"`
	Generation int64  `json:"generation"`
	Action     Action `json:"action"`
}

func (s *Servers) registerJobs() {
	s.Jobs.Handle(standingJob, jobs.Options{MaxAttempts: 20, BackoffMin: time.Second, BackoffMax: time.Minute, Timeout: 10 * time.Minute}, s.follow, nil)
	for _, kind := range kinds {
		s.Jobs.Handle(kind, jobs.Options{
			MaxAttempts: 8, BackoffMin: time.Second, BackoffMax: time.Minute, Timeout: 2 * pushTimeout,
			UndoLocks: func(j *collections.Job) []collections.Lock {
				return slices.Concat(locks(j.Tenant()), rare, []collections.Lock{lock(j.Subject())})
			},
		}, s.carryOut, s.undo)
	}
}

// carryOut brings a command's generation to the node and waits until the node has settled on it. It
// keeps nothing between runs: every run looks at the row, which Observe keeps, and pushes what is
// still wanted. It never writes what is wanted.
func (s *Servers) carryOut(ctx context.Context, r *jobs.Run) error {
	var c command
	if err := r.Payload(&c); err != nil {
		return jobs.Permanent(err)
	}
	row, err := collections.FindServer(s.App, c.Server)
	if err != nil {
		return jobs.Permanent(fmt.Errorf("server %s: %w", c.Server, err))
	}
	if row.PlacementEpoch() != c.Epoch || row.Generation() > c.Generation {
		return jobs.Supersede("a newer command came")
	}
	if done, err := outcome(row); done {
		return err
	}
	o := seen(row)
	if o == nil || o.PlacementEpoch != c.Epoch || o.Generation < c.Generation {
		if err := s.push(ctx, r, row); err != nil {
			return err
		}
		return jobs.Wait(nodeOfflinePatience)
	}
	s.tell(r, o)
	if online, err := s.nodeOnline(s.App, row.Node()); err != nil {
		return err
	} else if deadline := patience(row); online && time.Since(row.Updated()) > deadline && time.Since(r.Job().Created()) > deadline {
		// Counted from the last that was heard: a node that was away for longer has only begun.
		return jobs.Permanent(fmt.Errorf("%w after %s; it says %s", errSilent, deadline, o.State))
	}
	return jobs.Wait(nodeOfflinePatience)
}

// errSilent is a node that answers and comes to no end of a command.
var errSilent = errors.New("node has not settled")

// patience is how long a reachable node may say nothing new about a command.
func patience(row *collections.Server) time.Duration {
	if s := row.InstallStatus(); s == installPending || s == installRunning {
		return installDeadline
	}
	return commandDeadline
}

// outcome says whether the node has settled on the row's generation, and how.
func outcome(row *collections.Server) (done bool, err error) {
	o := seen(row)
	switch phase := Phase(row.Status()); {
	case phase == Deleted:
		return true, nil
	case withdrawn(row):
		return gone(row), nil
	case phase == Unreachable, o == nil, o.PlacementEpoch != row.PlacementEpoch(), o.Generation < row.Generation():
		return false, nil
	case phase == InstallFailed, phase == Failed:
		return true, jobs.Permanent(errors.New(problemText(o)))
	case !o.Settled:
		return false, nil
	}
	return true, nil
}

func problemText(o *wire.Observed) string {
	if o.Problem == nil {
		return "the node says " + string(o.State)
	}
	return o.Problem.Message + " (" + o.Problem.Detail + ")"
}

// push sends the Spec and takes in the node's answer. A silent node is waited for: its return syncs
// everything and wakes the job.
func (s *Servers) push(ctx context.Context, r *jobs.Run, row *collections.Server) error {
	spec, ok, err := s.spec(s.App, row)
	if err != nil {
		return jobs.Permanent(err)
	}
	if !ok {
		return jobs.Permanent(errors.New("the server has no ports reserved"))
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	o, err := s.Nodes.Push(ctx, row.Node(), spec)
	switch {
	case errors.Is(err, fleet.ErrNodeOffline):
		r.Progress("node", 0, "Waiting for the node to come back")
		return jobs.Wait(nodeOfflinePatience)
	case refusedSpec(err):
		return jobs.Permanent(fmt.Errorf("node refused the spec: %w", err))
	case err != nil:
		return fmt.Errorf("push server %s to node %s: %w", row.Id, row.Node(), err)
	}
	return collections.Sparing([]collections.Lock{lock(row.Id)}, append(locks(row.Tenant()), rare...), func(locks []collections.Lock) error {
		return collections.Tx(s.App, locks, func(tx core.App) error { return s.Observe(tx, row.Node(), o) })
	})
}

// refusedSpec reports whether a node answered that a Spec is invalid. Any other error leaves open
// whether the node took it.
func refusedSpec(err error) bool {
	var refused *wire.Error
	return errors.As(err, &refused) && refused.Status == http.StatusUnprocessableEntity
}

func (s *Servers) tell(r *jobs.Run, o *wire.Observed) {
	if o.Progress.Step != "" {
		r.Progress(o.Progress.Step, o.Progress.Percent, o.Progress.Message)
	}
}

// undo runs in the transaction that ends a job for good. A server that was never installed has nothing
// to lose, so its placement is withdrawn, whatever the job died of. One that was keeps its data and its
// ports. A job that was superseded leaves everything to the command that came after it.
func (s *Servers) undo(tx core.App, r *jobs.Run, cause error) error {
	var c command
	if err := r.Payload(&c); err != nil {
		return err
	}
	row, err := collections.FindServer(tx, c.Server)
	if err != nil {
		return err
	}
	switch {
	case row.PlacementEpoch() != c.Epoch, row.Generation() != c.Generation:
		return nil
	case wire.Desired(row.DesiredState()) == wire.DesiredAbsent, withdrawn(row), !row.InstalledAt().IsZero():
		return nil
	}
	return s.withdraw(tx, row, cause)
}
