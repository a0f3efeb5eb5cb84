package jobs

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
)

// progressEvery is how often progress is written at most, unless the step changes.
const progressEvery = 500 * time.Millisecond

var errSuperseded = errors.New("the job was superseded")

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

type retryError struct {
	d   time.Duration
	err error
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

type waitError struct{ d time.Duration }

func (e *waitError) Error() string { return "wait " + e.d.String() }

type supersedeError struct{ reason string }

func (e *supersedeError) Error() string { return "superseded: " + e.reason }
func (e *supersedeError) Unwrap() error { return errSuperseded }

// Permanent says that another attempt would end the same way: the job is dead at once.
func Permanent(err error) error { return &permanentError{err} }

// RetryAfter says when to try again, in place of the backoff. The attempt counts.
func RetryAfter(d time.Duration, err error) error { return &retryError{max(d, 0), err} }

// Wait puts the job aside until Wake of its subject, or until d has passed. It does not count as an
// attempt. A Wake that came while the handler ran is not lost.
func Wait(d time.Duration) error { return &waitError{max(d, 0)} }

// Supersede ends the job because a newer command took its place; its undo runs.
func Supersede(reason string) error { return &supersedeError{reason} }

// Run is one attempt at a job. In an undo only ID, Attempt, Job and Payload may be used.
type Run struct {
	ID      string
	Attempt int // from 1

	q     *Queue
	job   *collections.Job // as it was claimed; immutable
	token string           // fence; immutable

	ctx       context.Context         // of the attempt; set by begin
	cancel    context.CancelCauseFunc // interrupts it
	stopTimer context.CancelFunc      // of its timeout

	leaseUntil time.Time // by our clock; owned by keep

	mu        sync.Mutex
	progress  []byte    // not written yet; guarded by mu
	step      string    // last written; guarded by mu
	writtenAt time.Time // of progress; guarded by mu
	result    any       // guarded by mu
}

func (q *Queue) newRun(j *collections.Job, token string) *Run {
	return &Run{ID: j.Id, Attempt: int(j.Attempt()), q: q, job: j, token: token,
		ctx: context.Background(), cancel: func(error) {}, stopTimer: func() {}}
}

// begin registers the run so that it can be interrupted. An attempt of the same job that still runs here has lost its
// lease, or this one could not have been claimed: it is interrupted now, not when it asks next.
func (q *Queue) begin(base context.Context, r *Run) {
	base, r.cancel = context.WithCancelCause(base)
	r.ctx, r.stopTimer = context.WithTimeoutCause(base, q.kinds[r.job.Kind()].Timeout, ErrTimeout)
	q.mu.Lock()
	defer q.mu.Unlock()
	if lost := q.running[r.ID]; lost != nil {
		lost.cancel(ErrLeaseLost)
	}
	q.running[r.ID] = r
}

// work is one attempt from claim to settled.
func (q *Queue) work(r *Run) {
	k := q.kinds[r.job.Kind()]
	began := time.Now()
	kept := make(chan struct{})
	ended := make(chan struct{})
	go func() { // ends with the handler, waited for below
		defer close(kept)
		r.keep(ended)
	}()
	err := r.call(k.handler)
	close(ended)
	<-kept
	cause := context.Cause(r.ctx)
	r.stopTimer()
	if err != nil && errors.Is(cause, ErrTimeout) {
		err = fmt.Errorf("%w (%s): %w", ErrTimeout, k.Timeout, err)
	}
	q.finish(r, err, errors.Is(cause, ErrStopping))
	q.count(k.name, err, time.Since(began))
	r.cancel(nil)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running[r.ID] == r { // not a later attempt, after a lost lease
		delete(q.running, r.ID)
	}
}

// finish stores the end; a database that is busy is asked again, a lost lease is somebody else's job.
func (q *Queue) finish(r *Run, handlerErr error, stopping bool) {
	wait := 50 * time.Millisecond
	for try := 1; ; try++ {
		err := q.settle(r, handlerErr, stopping)
		if err == nil {
			return
		}
		var u *undoError
		if errors.Is(err, ErrLeaseLost) || errors.As(err, &u) || try == settleTries {
			q.log.Error("the end of a job is not stored", "job", r.ID, "kind", r.job.Kind(), "error", err, "handler_error", handlerErr)
			q.postpone(r.ID, err)
			return
		}
		<-time.After(wait) // Stop waits for this: settleTries bounds it
		wait *= 2
	}
}

// call turns a panic of the handler into an error that carries its stack: a job must not be able to
// stop the panel again at every start.
func (r *Run) call(h Handler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the handler panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return h(r.ctx, r)
}

// keep extends the lease and writes held-back progress until the handler has ended. When the lease
// cannot be extended in time it interrupts the handler: somebody else may begin.
func (r *Run) keep(ended <-chan struct{}) {
	beat := time.NewTicker(r.q.cfg.LeaseFor / 3)
	defer beat.Stop()
	flush := time.NewTicker(progressEvery)
	defer flush.Stop()
	for {
		select {
		case <-ended:
			return
		case <-flush.C:
			if err := r.flushProgress(); err != nil {
				r.q.log.Warn("progress is not stored", "job", r.ID, "error", err)
			}
			continue
		case <-beat.C:
		}
		now := time.Now()
		ask, err := r.q.extend(r, now)
		switch {
		case err == nil && ask != nil:
			r.leaseUntil = now.Add(r.q.cfg.LeaseFor)
			r.cancel(stopCause(ask.State))
		case err == nil:
			r.leaseUntil = now.Add(r.q.cfg.LeaseFor)
		case errors.Is(err, ErrLeaseLost) || !now.Before(r.leaseUntil):
			r.cancel(ErrLeaseLost)
			return
		default:
			r.q.log.Warn("a lease is not extended", "job", r.ID, "error", err)
		}
	}
}

// extend renews the lease and returns a wish that the job should end.
func (q *Queue) extend(r *Run, now time.Time) (*stopAsk, error) {
	var result sql.NullString
	err := collections.Tx(q.app, nil, func(tx core.App) error {
		return tx.DB().NewQuery("UPDATE {{jobs}} SET [[lease_until]] = {:until} WHERE [[id]] = {:id} AND [[lease_token]] = {:token} AND [[state]] = 'running' RETURNING [[result]]").
			Bind(dbx.Params{"until": collections.Stamp(now.Add(q.cfg.LeaseFor)), "id": r.ID, "token": r.token}).Row(&result)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrLeaseLost
	}
	if err != nil {
		return nil, err
	}
	return parseAsk(result.String), nil
}

// Job is the row as it was when this attempt began.
func (r *Run) Job() *collections.Job { return r.job }

// Payload decodes what Enqueue was given.
func (r *Run) Payload(v any) error {
	if err := r.job.Payload(v); err != nil {
		return Permanent(fmt.Errorf("decode the payload of job %s: %w", r.ID, err))
	}
	return nil
}

// Step runs fn once in the life of the job and stores what it returned; a later attempt gets that
// again without running it. out, a pointer or nil, receives it both times. Since a crash may come
// between fn and the store, fn asks the world before it acts. ErrLeaseLost when the job is not ours.
func (r *Run) Step(name string, fn func(ctx context.Context) (any, error), out any) error {
	stored, err := r.stored(r.q.app, name, out)
	if stored || err != nil {
		return err
	}
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	v, err := fn(r.ctx)
	if err != nil {
		return err
	}
	return r.Tx(nil, func(tx core.App) error { return r.store(tx, name, v, out) })
}

// StepTx is a Step whose fn works in the transaction that stores it: both happen, once, or neither.
func (r *Run) StepTx(name string, locks []collections.Lock, fn func(tx core.App) (any, error), out any) error {
	return r.Tx(locks, func(tx core.App) error {
		stored, err := r.stored(tx, name, out)
		if stored || err != nil {
			return err
		}
		v, err := fn(tx)
		if err != nil {
			return err
		}
		return r.store(tx, name, v, out)
	})
}

// Tx is a write transaction that fails with ErrLeaseLost when the job is not ours any more.
func (r *Run) Tx(locks []collections.Lock, fn func(tx core.App) error) error {
	return collections.Tx(r.q.app, locks, func(tx core.App) error {
		if err := fence(tx, r.ID, r.token, false); err != nil {
			return err
		}
		return fn(tx)
	})
}

func (r *Run) stored(app core.App, name string, out any) (bool, error) {
	s, err := collections.One[collections.JobStep](app, collections.JobSteps, dbx.HashExp{"job": r.ID, "name": name})
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read step %s: %w", name, err)
	}
	if out == nil {
		return true, nil
	}
	if err := s.Output(out); err != nil {
		return true, Permanent(fmt.Errorf("decode the output of step %s: %w", name, err))
	}
	return true, nil
}

func (r *Run) store(tx core.App, name string, v, out any) error {
	raw, err := encode(v)
	if err != nil {
		return Permanent(fmt.Errorf("output of step %s: %w", name, err))
	}
	s, err := collections.NewJobStep(tx)
	if err != nil {
		return err
	}
	s.SetJob(r.ID)
	s.SetName(name)
	s.SetOutput(types.JSONRaw(raw))
	if err := permit.Save(tx, s); err != nil {
		return fmt.Errorf("store step %s: %w", name, err)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(raw, out) // the same bytes a replay would see
}

// SetResult is what the job's row holds once it is done; JSON.
func (r *Run) SetResult(v any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result = v
}

func (r *Run) resultJSON() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := encode(r.result)
	if err != nil {
		r.q.log.Error("the result of a job is not stored", "job", r.ID, "error", err)
		return []byte("null")
	}
	return b
}

// Progress tells whoever watches: a step's name, how much of the whole is done (0 to 100), and a
// sentence for the customer. It is written at most every half second, and when the step changes; what
// comes between is written a little later or replaced.
func (r *Run) Progress(step string, percent int, message string) {
	raw, err := json.Marshal(map[string]any{"step": clip(step, 64), "percent": min(max(percent, 0), 100), "message": clip(message, 500)})
	if err != nil {
		return // strings and a number always encode
	}
	r.mu.Lock()
	r.progress = raw
	due := step != r.step || time.Since(r.writtenAt) >= progressEvery
	r.step = step
	r.mu.Unlock()
	if !due {
		return
	}
	if err := r.flushProgress(); err != nil {
		r.q.log.Warn("progress is not stored", "job", r.ID, "error", err)
	}
}

func (r *Run) pendingProgress() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

func (r *Run) flushProgress() error {
	r.mu.Lock()
	raw := r.progress
	r.progress, r.writtenAt = nil, time.Now()
	r.mu.Unlock()
	if raw == nil {
		return nil
	}
	return collections.Tx(r.q.app, nil, func(tx core.App) error {
		if err := fence(tx, r.ID, r.token, true); err != nil {
			return err
		}
		_, err := tx.DB().Update(collections.Jobs, dbx.Params{"progress": string(raw), "updated": collections.Stamp(time.Now())}, dbx.HashExp{"id": r.ID}).Execute()
		if err != nil {
			return err
		}
		j, err := collections.FindJob(tx, r.ID)
		if err != nil {
			return err
		}
		r.q.changed(tx, j)
		return nil
	})
}
