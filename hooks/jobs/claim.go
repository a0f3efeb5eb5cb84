package jobs

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
)

// Bounds.
const (
	reapBatch    = 100         // expired leases returned per poll
	maxHistory   = 20          // errors kept of a job, the newest
	maxErrorText = 4000        // characters of last_error
	undoAgain    = time.Minute // until an undo that failed is tried again
	settleTries  = 5           // to store how a job ended, before its lease has to run out
)

// claimLock keeps claims of several instances from choosing the same jobs, and two jobs of a group. It
// is held for as long as a claim takes, and only when something is due.
const claimLock collections.Lock = "jobs"

// due is what a claim may take; it repeats what the indexes keep.
const due = `j.[[state]] IN ('ready','waiting') AND j.[[run_at]] <= {:now}
	AND (j.[[group_key]] = '' OR NOT EXISTS (
		SELECT 1 FROM {{jobs}} g WHERE g.[[group_key]] = j.[[group_key]] AND g.[[group_key]] != '' AND g.[[state]] = 'running'))`

// claim takes up to limit due jobs of the kinds that this process handles, the most urgent first.
func (q *Queue) claim(now time.Time, limit int) ([]*Run, error) {
	busy := map[string]int{}
	for _, r := range q.snapshot() {
		busy[r.job.Kind()]++
	}
	in, params := q.claimable(busy, now)
	if in == "" {
		return nil, nil
	}
	if some, err := q.anyDue(in, params); !some || err != nil {
		return nil, err
	}
	var runs []*Run
	err := collections.Tx(q.app, []collections.Lock{claimLock}, func(tx core.App) error {
		runs = nil
		busy := maps.Clone(busy)
		in, params := in, params
		for range limit {
			if in == "" {
				break
			}
			r, err := q.claimOne(tx, in, params, now)
			if err != nil {
				return err
			}
			if r == nil {
				break
			}
			runs = append(runs, r)
			busy[r.job.Kind()]++
			in, params = q.claimable(busy, now)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("claim jobs: %w", err)
	}
	return runs, nil
}

// anyDue looks without a lock: instances that were woken for nothing do not wait for each other.
func (q *Queue) anyDue(in string, params dbx.Params) (bool, error) {
	var id string
	err := q.app.DB().NewQuery("SELECT j.[[id]] FROM {{jobs}} j WHERE " + due + " AND j.[[kind]] IN (" + in + ") LIMIT 1").Bind(params).Row(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for due jobs: %w", err)
	}
	return true, nil
}

// claimOne takes the next job, nil when there is none. The outer WHERE repeats the state: a bare
// subselect claimed twice on PostgreSQL.
func (q *Queue) claimOne(tx core.App, in string, params dbx.Params, now time.Time) (*Run, error) {
	token := newToken(q.cluster.ID())
	params["token"] = token
	var id string
	err := tx.DB().NewQuery(`UPDATE {{jobs}} SET [[state]] = 'running', [[attempt]] = [[attempt]] + 1, [[rev]] = [[rev]] + 1,
		[[lease_until]] = {:lease}, [[lease_token]] = {:token}, [[updated]] = {:now}
		WHERE [[id]] = (
			SELECT j.[[id]] FROM {{jobs}} j WHERE ` + due + ` AND j.[[kind]] IN (` + in + `)
			ORDER BY j.[[priority]] DESC, j.[[run_at]], j.[[id]] LIMIT 1)
		AND [[state]] IN ('ready','waiting') AND [[run_at]] <= {:now}
		RETURNING [[id]]`).Bind(params).Row(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	j, err := collections.FindJob(tx, id)
	if err != nil {
		return nil, err
	}
	q.changed(tx, j)
	r := q.newRun(j, token)
	r.leaseUntil = now.Add(q.cfg.LeaseFor)
	return r, nil
}

// claimable is kindList without the kinds of which as many run as may, with what a claim needs beside it.
func (q *Queue) claimable(busy map[string]int, now time.Time) (string, dbx.Params) {
	in, params := q.kindList(func(k *kind) bool { return k.AtOnce == 0 || busy[k.name] < k.AtOnce })
	params["now"], params["lease"] = collections.Stamp(now), collections.Stamp(now.Add(q.cfg.LeaseFor))
	return in, params
}

// kindList returns the placeholders of those of the registered kinds that are wanted; nil: all.
func (q *Queue) kindList(wanted func(*kind) bool) (string, dbx.Params) {
	params := dbx.Params{}
	var names []string
	for name, k := range q.kinds {
		if wanted == nil || wanted(k) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for i, name := range names {
		key := fmt.Sprintf("kind%d", i)
		params[key] = name
		names[i] = "{:" + key + "}"
	}
	return strings.Join(names, ", "), params
}

// fence makes the transaction one of the worker that holds the lease, or refuses with ErrLeaseLost.
// With several writers it also locks the row. visible lets rev grow.
func fence(tx core.App, id, token string, visible bool) error {
	grow := 0
	if visible {
		grow = 1
	}
	res, err := tx.DB().NewQuery("UPDATE {{jobs}} SET [[rev]] = [[rev]] + {:grow} WHERE [[id]] = {:id} AND [[lease_token]] = {:token} AND [[state]] = 'running'").
		Bind(dbx.Params{"grow": grow, "id": id, "token": token}).Execute()
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, ErrLeaseLost)
	}
	return nil
}

// verdict is what becomes of a job after an attempt.
type verdict struct {
	state     string
	runAt     time.Time // of ready and waiting
	uncounted bool      // the attempt does not count against max_attempts
	cause     error     // nil for done and waiting
	keep      bool      // cause goes to last_error and history
}

// attemptEnd is what judge looks at.
type attemptEnd struct {
	err      error
	stopping bool      // the queue interrupted the handler to stop
	asked    *stopAsk  // somebody wants the running job to end
	woken    bool      // Wake came while it ran
	attempt  int64     // this one, from 1
	limit    int64     // max_attempts
	now      time.Time // UTC
	backoff  time.Duration
}

// judge decides, without looking at anything else. A job that finished is done, whatever was wished
// meanwhile; otherwise a wish comes first, then what the handler said, then why it was interrupted.
func judge(e attemptEnd) verdict {
	var wait *waitError
	var superseded *supersedeError
	var permanent *permanentError
	var retry *retryError
	switch {
	case e.err == nil:
		return verdict{state: Done}
	case e.asked != nil:
		return verdict{state: e.asked.State, cause: fmt.Errorf("%w: %s", stopCause(e.asked.State), e.asked.Reason), keep: true}
	case errors.As(e.err, &superseded):
		return verdict{state: Superseded, cause: e.err, keep: true}
	case errors.As(e.err, &permanent):
		return verdict{state: Dead, cause: e.err, keep: true}
	case errors.As(e.err, &wait):
		if e.woken {
			return verdict{state: Ready, runAt: e.now, uncounted: true}
		}
		return verdict{state: Waiting, runAt: e.now.Add(wait.d), uncounted: true}
	case e.stopping:
		return verdict{state: Ready, runAt: e.now, uncounted: true}
	case e.attempt >= e.limit:
		return verdict{state: Dead, cause: e.err, keep: true}
	case errors.As(e.err, &retry):
		return verdict{state: Ready, runAt: e.now.Add(retry.d), cause: e.err, keep: true}
	}
	return verdict{state: Ready, runAt: e.now.Add(e.backoff), cause: e.err, keep: true}
}

// backoff before the attempt after this one: doubled each time, half of it random, so that jobs that
// failed together do not come back together.
func (k *kind) backoff(attempt int64) time.Duration {
	d := k.BackoffMin
	for i := int64(1); i < attempt && d < k.BackoffMax; i++ {
		d *= 2
	}
	d = min(d, k.BackoffMax)
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}

// settle stores how an attempt ended. ErrLeaseLost when it is not ours to say any more.
func (q *Queue) settle(r *Run, handlerErr error, stopping bool) error {
	err := q.trySettle(r, handlerErr, stopping, false)
	if errors.Is(err, errFinal) {
		err = q.trySettle(r, handlerErr, stopping, true)
	}
	return err
}

// errFinal is a job that ends for good while the locks for that are not held. Most attempts end well, or
// wait, and need none of them.
var errFinal = errors.New("what belongs to the end of a job needs its locks")

// trySettle is settle with the locks of the end of a job, or without: then it is errFinal if it needs them.
func (q *Queue) trySettle(r *Run, handlerErr error, stopping, final bool) error {
	k := q.kinds[r.job.Kind()]
	var locks []collections.Lock
	if final {
		locks = q.finalLocks(k, r.job)
	}
	return collections.Tx(q.app, locks, func(tx core.App) error {
		if err := fence(tx, r.ID, r.token, true); err != nil {
			return err
		}
		j, err := collections.FindJob(tx, r.ID)
		if err != nil {
			return err
		}
		v := judge(attemptEnd{err: handlerErr, stopping: stopping, asked: askedOf(j), woken: !j.RunAt().Equal(r.job.RunAt()),
			attempt: j.Attempt(), limit: j.MaxAttempts(), now: time.Now().UTC(), backoff: k.backoff(j.Attempt())})
		if v.state != Ready && v.state != Waiting && v.state != Done && !final {
			return errFinal
		}
		if p := r.pendingProgress(); p != nil {
			j.SetProgress(types.JSONRaw(p))
		}
		if v.state == Done {
			j.SetResult(types.JSONRaw(r.resultJSON()))
		}
		return q.apply(tx, j, v)
	})
}

func (q *Queue) finalLocks(k *kind, j *collections.Job) []collections.Lock {
	locks := slices.Clone(q.cfg.DiedLocks)
	if k.UndoLocks != nil {
		locks = append(locks, k.UndoLocks(j)...)
	}
	return locks
}

// apply moves a job whose row the transaction owns and whose rev has grown to where v says, with all
// that belongs to it. Nothing else changes the state of a job, but claim and Wake.
func (q *Queue) apply(tx core.App, j *collections.Job, v verdict) error {
	now := time.Now().UTC()
	j.SetState(v.state)
	j.SetLeaseToken("")
	j.SetLeaseUntil(time.Time{})
	if v.uncounted {
		j.SetAttempt(max(0, j.Attempt()-1))
	}
	if v.keep && v.cause != nil {
		remember(j, v.cause, now)
	}
	switch v.state {
	case Ready, Waiting:
		j.SetRunAt(v.runAt)
		j.SetResult(nil)
	case Done:
		j.SetFinishedAt(now)
	default:
		j.SetFinishedAt(now)
		j.SetResult(types.JSONRaw(safeResult(v.cause)))
		if err := q.undo(tx, j, v.cause); err != nil {
			return err
		}
	}
	if err := permit.Save(tx, j); err != nil {
		return fmt.Errorf("store job %s as %s: %w", j.Id, v.state, err)
	}
	if v.state == Dead && q.cfg.Died != nil {
		if err := q.cfg.Died(tx, j); err != nil {
			return fmt.Errorf("report the dead job %s: %w", j.Id, err)
		}
	}
	q.changed(tx, j)
	q.nudgeAfter(tx) // a group is free, or the job is ready
	return nil
}

// undoError marks that it was the undo that failed.
type undoError struct{ err error }

func (e *undoError) Error() string { return "undo: " + e.err.Error() }
func (e *undoError) Unwrap() error { return e.err }

// undo runs the kind's undo and forgets the steps: a retry by an operator begins anew, because what the
// steps did is taken back.
func (q *Queue) undo(tx core.App, j *collections.Job, cause error) error {
	k := q.kinds[j.Kind()]
	if k == nil || k.undo == nil {
		return nil
	}
	if err := k.undo(tx, q.newRun(j, ""), cause); err != nil {
		return &undoError{fmt.Errorf("of job %s (%s): %w", j.Id, j.Kind(), err)}
	}
	return dropSteps(tx, j.Id)
}

func dropSteps(tx core.App, job string) error {
	_, err := tx.DB().Delete(collections.JobSteps, dbx.HashExp{"job": job}).Execute()
	return err
}

// safeResult is what a customer is told about a job that did not end well.
func safeResult(cause error) []byte {
	text := "The work could not be finished. Our team has been told."
	var s interface{ Safe() string }
	if errors.As(cause, &s) {
		text = s.Safe()
	} else if errors.Is(cause, ErrCancelled) {
		text = "It was cancelled."
	} else if errors.Is(cause, errSuperseded) {
		text = "A newer command took its place."
	}
	b, _ := json.Marshal(map[string]string{"error": text}) // a map of strings always encodes
	return b
}

type historyEntry struct {
	At      string `json:"at"`
	Attempt int64  `json:"attempt"`
	Error   string `json:"error"`
}

func remember(j *collections.Job, cause error, now time.Time) {
	text := clip(cause.Error(), maxErrorText)
	j.SetLastError(text)
	var history []historyEntry
	_ = j.History(&history) // a history that does not decode is begun anew
	history = append(history, historyEntry{At: collections.Stamp(now), Attempt: j.Attempt(), Error: clip(text, 1000)})
	j.SetHistory(history[max(0, len(history)-maxHistory):])
}

func clip(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "")
	if len(s) <= n {
		return s
	}
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// orphanAll ends all leases: no other process works this queue, so nobody holds them.
func (q *Queue) orphanAll() {
	err := collections.Tx(q.app, nil, func(tx core.App) error {
		_, err := tx.DB().NewQuery("UPDATE {{jobs}} SET [[lease_until]] = {:past} WHERE [[state]] = 'running'").
			Bind(dbx.Params{"past": collections.Stamp(time.Now().Add(-time.Second))}).Execute()
		return err
	})
	if err != nil {
		q.log.Error("jobs of the last run wait for their leases to end", "error", err)
	}
}

var errWorkerLost = errors.New("the worker was lost: its process died or could not reach the database")

// reap returns jobs whose lease ran out. The lost attempt counts, so that a job which kills its process
// ends as dead.
func (q *Queue) reap() {
	in, params := q.kindList(nil)
	if in == "" {
		return
	}
	params["now"], params["limit"] = collections.Stamp(time.Now()), reapBatch
	var ids []string
	err := q.app.DB().NewQuery("SELECT [[id]] FROM {{jobs}} WHERE [[state]] = 'running' AND [[lease_until]] < {:now} AND [[kind]] IN (" + in + ") ORDER BY [[lease_until]] LIMIT {:limit}").
		Bind(params).Column(&ids)
	if err != nil {
		q.log.Error("expired jobs are not returned", "error", err)
		return
	}
	for _, id := range ids {
		if err := q.reapOne(id); err != nil {
			q.log.Error("an expired job is not returned", "job", id, "error", err)
			q.postpone(id, err)
		}
	}
}

func (q *Queue) reapOne(id string) error {
	found, err := collections.FindJob(q.app, id)
	if err != nil {
		return err
	}
	k := q.kinds[found.Kind()]
	return collections.Tx(q.app, q.finalLocks(k, found), func(tx core.App) error {
		now := time.Now().UTC()
		res, err := tx.DB().NewQuery("UPDATE {{jobs}} SET [[rev]] = [[rev]] + 1 WHERE [[id]] = {:id} AND [[state]] = 'running' AND [[lease_until]] < {:now}").
			Bind(dbx.Params{"id": id, "now": collections.Stamp(now)}).Execute()
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err // its worker came back
		}
		j, err := collections.FindJob(tx, id)
		if err != nil {
			return err
		}
		return q.apply(tx, j, judge(attemptEnd{err: errWorkerLost, asked: askedOf(j), attempt: j.Attempt(), limit: j.MaxAttempts(), now: now}))
	})
}

// postpone keeps a job whose undo failed from being tried at every poll.
func (q *Queue) postpone(id string, cause error) {
	var u *undoError
	if !errors.As(cause, &u) {
		return
	}
	err := collections.Tx(q.app, nil, func(tx core.App) error {
		_, err := tx.DB().NewQuery("UPDATE {{jobs}} SET [[lease_until]] = {:until}, [[lease_token]] = '', [[last_error]] = {:error} WHERE [[id]] = {:id} AND [[state]] = 'running'").
			Bind(dbx.Params{"id": id, "until": collections.Stamp(time.Now().Add(undoAgain)), "error": clip(cause.Error(), maxErrorText)}).Execute()
		return err
	})
	if err != nil {
		q.log.Error("a failed undo is not noted", "job", id, "error", err)
	}
}
