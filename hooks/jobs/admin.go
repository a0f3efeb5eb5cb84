package jobs

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
)

// stopAsk rests in the result column of a running job that somebody wants to end: its worker is
// interrupted, and the job ends in that state when the handler has returned, so that nothing of its
// group starts beside it.
type stopAsk struct {
	State  string `json:"stop"`
	Reason string `json:"reason"`
}

func parseAsk(raw string) *stopAsk {
	var a stopAsk
	if json.Unmarshal([]byte(raw), &a) != nil || a.State == "" {
		return nil
	}
	return &a
}

func askedOf(j *collections.Job) *stopAsk { return parseAsk(j.GetString("result")) }

func stopCause(state string) error {
	if state == Superseded {
		return errSuperseded
	}
	return ErrCancelled
}

// Wake makes the waiting jobs of a subject ready; one that is running and is about to wait will not.
func (q *Queue) Wake(tx core.App, subject string) error {
	if subject == "" {
		return nil
	}
	return collections.Tx(tx, nil, func(tx core.App) error {
		now := time.Now()
		// settle sees that run_at is not the one that was claimed; it is later than any claimed one
		_, err := tx.DB().NewQuery("UPDATE {{jobs}} SET [[run_at]] = {:at} WHERE [[subject]] = {:subject} AND [[state]] = 'running'").
			Bind(dbx.Params{"at": collections.Stamp(now.Add(time.Millisecond)), "subject": subject}).Execute()
		if err != nil {
			return fmt.Errorf("wake the jobs of %s: %w", subject, err)
		}
		var ids []string
		err = tx.DB().NewQuery("UPDATE {{jobs}} SET [[state]] = 'ready', [[run_at]] = {:now}, [[rev]] = [[rev]] + 1, [[updated]] = {:now} WHERE [[subject]] = {:subject} AND [[state]] = 'waiting' RETURNING [[id]]").
			Bind(dbx.Params{"now": collections.Stamp(now), "subject": subject}).Column(&ids)
		if err != nil {
			return fmt.Errorf("wake the jobs of %s: %w", subject, err)
		}
		for _, id := range ids {
			j, err := collections.FindJob(tx, id)
			if err != nil {
				return fmt.Errorf("wake job %s: %w", id, err)
			}
			q.changed(tx, j)
		}
		if len(ids) > 0 {
			q.nudgeAfter(tx)
		}
		return nil
	})
}

// Cancel ends a job that is ready or waiting, with its undo, and asks a running one to end. ErrState
// for one that is final.
func (q *Queue) Cancel(tx core.App, id, reason string) error {
	return collections.Tx(tx, nil, func(tx core.App) error { return q.end(tx, id, Cancelled, reason) })
}

// SupersedeAll ends the active jobs of a subject because a newer command takes their place: ready and
// waiting ones at once, with their undo; running ones are asked to. Only the named kinds, or all. It
// returns how many there were.
func (q *Queue) SupersedeAll(tx core.App, subject, reason string, kinds ...string) (int, error) {
	n := 0
	err := collections.Tx(tx, nil, func(tx core.App) error {
		n = 0
		where := []dbx.Expression{dbx.HashExp{"subject": subject, "state": []any{Ready, Running, Waiting}}}
		if len(kinds) > 0 {
			in := make([]any, len(kinds))
			for i, k := range kinds {
				in[i] = k
			}
			where = append(where, dbx.HashExp{"kind": in})
		}
		js, err := collections.Every[collections.Job](tx, collections.Jobs, "created", 0, where...)
		if err != nil {
			return err
		}
		for _, j := range js {
			err := q.end(tx, j.Id, Superseded, reason)
			if errors.Is(err, ErrState) {
				continue // it ended by itself since it was listed
			}
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("supersede the jobs of %s: %w", subject, err)
	}
	return n, nil
}

// grab makes the row of a job the transaction's own if it is in one of the states, and lets rev grow.
func grab(tx core.App, id string, states ...any) (*collections.Job, error) {
	where := dbx.And(dbx.HashExp{"id": id}, dbx.HashExp{"state": states})
	res, err := tx.DB().Update(collections.Jobs, dbx.Params{"rev": dbx.NewExp("[[rev]] + 1")}, where).Execute()
	if err != nil {
		return nil, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return nil, errors.Join(err, ErrState)
	}
	return collections.FindJob(tx, id)
}

func (q *Queue) end(tx core.App, id, state, reason string) error {
	j, err := grab(tx, id, Ready, Waiting, Running)
	if err != nil {
		return fmt.Errorf("end job %s as %s: %w", id, state, err)
	}
	if j.State() != Running {
		return q.apply(tx, j, verdict{state: state, cause: fmt.Errorf("%w: %s", stopCause(state), reason), keep: true})
	}
	ask, err := encode(stopAsk{State: state, Reason: clip(reason, 500)})
	if err != nil {
		return err
	}
	j.SetResult(types.JSONRaw(ask))
	if err := permit.Save(tx, j); err != nil {
		return fmt.Errorf("ask job %s to end: %w", id, err)
	}
	q.changed(tx, j)
	return q.interruptAfter(tx, id, state)
}

// Retry gives a dead job all its attempts again, from now. ErrState when it is not dead, ErrDuplicate
// when an active job has its unique key.
func (q *Queue) Retry(tx core.App, id string) error {
	return collections.Tx(tx, nil, func(tx core.App) error {
		j, err := grab(tx, id, Dead)
		if err != nil {
			return fmt.Errorf("retry job %s: %w", id, err)
		}
		if other, err := activeOf(tx, j.UniqueKey()); err != nil {
			return fmt.Errorf("retry job %s beside %s: %w", id, other, err)
		}
		j.SetAttempt(0)
		j.SetFinishedAt(time.Time{})
		return q.apply(tx, j, verdict{state: Ready, runAt: time.Now().UTC()})
	})
}

// Discard puts a dead job away; its undo ran when it died. ErrState when it is not dead.
func (q *Queue) Discard(tx core.App, id string) error {
	return collections.Tx(tx, nil, func(tx core.App) error {
		j, err := grab(tx, id, Dead)
		if err != nil {
			return fmt.Errorf("discard job %s: %w", id, err)
		}
		j.SetState(Cancelled)
		if err := permit.Save(tx, j); err != nil {
			return fmt.Errorf("discard job %s: %w", id, err)
		}
		q.changed(tx, j)
		return nil
	})
}

// Prune removes at most limit jobs, with their steps, and as many ticks of cron, that ended before
// then; dead jobs stay until somebody decided about them. It returns how many jobs went.
func (q *Queue) Prune(app core.App, before time.Time, limit int) (int, error) {
	n := 0
	err := collections.Tx(app, nil, func(tx core.App) error {
		n = 0
		js, err := collections.Every[collections.Job](tx, collections.Jobs, "finished_at", int64(limit),
			dbx.HashExp{"state": []any{Done, Cancelled, Superseded}}, dbx.NewExp("[[finished_at]] < {:before}", dbx.Params{"before": collections.Stamp(before)}))
		if err != nil {
			return err
		}
		for _, j := range js {
			if err := errors.Join(dropSteps(tx, j.Id), permit.Delete(tx, j)); err != nil {
				return err
			}
			n++
		}
		// the newest tick of a name is where catching up begins, so it stays
		_, err = tx.DB().NewQuery(`DELETE FROM {{cron_runs}} WHERE [[id]] IN (SELECT c.[[id]] FROM {{cron_runs}} c WHERE c.[[scheduled_at]] < {:before}
			AND EXISTS (SELECT 1 FROM {{cron_runs}} n WHERE n.[[name]] = c.[[name]] AND n.[[scheduled_at]] > c.[[scheduled_at]]) LIMIT {:limit})`).
			Bind(dbx.Params{"before": collections.Stamp(before), "limit": limit}).Execute()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("prune jobs: %w", err)
	}
	return n, nil
}

// View is a job as a customer sees it: no payload, no error text of the operator's.
func View(j *collections.Job) map[string]any {
	v := map[string]any{"id": j.Id, "kind": j.Kind(), "state": j.State(), "subject": j.Subject(), "rev": j.Rev(),
		"created": j.Created().UTC().Format(time.RFC3339Nano), "progress": nil, "error": nil, "finished_at": nil}
	var p struct {
		Step    string `json:"step"`
		Percent int    `json:"percent"`
		Message string `json:"message"`
	}
	if j.Progress(&p) == nil && p.Step != "" {
		v["progress"] = p
	}
	if at := j.FinishedAt(); !at.IsZero() {
		v["finished_at"] = at.UTC().Format(time.RFC3339Nano)
	}
	if s := j.State(); s == Dead || s == Cancelled || s == Superseded {
		var res struct {
			Error string `json:"error"`
		}
		if j.Result(&res) == nil {
			v["error"] = res.Error
		}
	}
	return v
}

// KindStats are this process's attempts at a kind since it started.
type KindStats struct {
	Done   uint64        // attempts that ended well, Wait included
	Failed uint64        // attempts that did not
	Busy   time.Duration // spent in handlers
}

func (q *Queue) count(kind string, err error, took time.Duration) {
	var wait *waitError
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.stats[kind]
	if err == nil || errors.As(err, &wait) {
		s.Done++
	} else {
		s.Failed++
	}
	s.Busy += took
	q.stats[kind] = s
}

// Health is what an operator wants to know about the queue.
type Health struct {
	States      map[string]int       // jobs by state
	OldestReady time.Duration        // how long the oldest due job has been waiting for a worker
	Expired     int                  // running jobs whose lease ran out and that were not returned yet
	Kinds       map[string]KindStats // this process
}

// Health counts.
func (q *Queue) Health(app core.App) (Health, error) {
	h := Health{States: map[string]int{}, Kinds: map[string]KindStats{}}
	now := time.Now()
	var rows []struct {
		State string `db:"state"`
		N     int    `db:"n"`
	}
	if err := app.DB().NewQuery("SELECT [[state]], COUNT(*) AS n FROM {{jobs}} GROUP BY [[state]]").All(&rows); err != nil {
		return h, fmt.Errorf("count jobs: %w", err)
	}
	for _, r := range rows {
		h.States[r.State] = r.N
	}
	var oldest string
	err := app.DB().NewQuery("SELECT COALESCE(MIN([[run_at]]), '') FROM {{jobs}} WHERE [[state]] = 'ready' AND [[run_at]] <= {:now}").
		Bind(dbx.Params{"now": collections.Stamp(now)}).Row(&oldest)
	if err != nil {
		return h, fmt.Errorf("find the oldest job: %w", err)
	}
	if at, err := types.ParseDateTime(oldest); err == nil && oldest != "" {
		h.OldestReady = now.Sub(at.Time())
	}
	err = app.DB().NewQuery("SELECT COUNT(*) FROM {{jobs}} WHERE [[state]] = 'running' AND [[lease_until]] < {:now}").
		Bind(dbx.Params{"now": collections.Stamp(now)}).Row(&h.Expired)
	if err != nil {
		return h, fmt.Errorf("count expired jobs: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for k, s := range q.stats {
		h.Kinds[k] = s
	}
	return h, nil
}
