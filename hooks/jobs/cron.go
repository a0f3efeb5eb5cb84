package jobs

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/robfig/cron/v3"

	"github.com/mambahost/mamba/collections"
)

// Policy says what becomes of ticks that nobody was there for.
type Policy int

// Policies.
const (
	CatchUp Policy = iota // every missed tick fires, oldest first
	Skip                  // missed ticks are left out
)

// Bounds of cron.
const (
	maxCatchUp   = 1000             // ticks caught up on; older ones are left out and logged
	skipAfter    = time.Minute      // a tick that is late by more counts as missed
	maxCronSleep = 30 * time.Second // the clock may be set while we sleep
	cronRetryMin = time.Second      // after a tick failed, doubled
	cronRetryMax = time.Minute
)

var cronName = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,63}$`)

type cronEntry struct {
	name     string
	schedule cron.Schedule
	policy   Policy
	fn       func(tx core.App, due time.Time) error

	next    time.Time // due tick; zero until its past was read
	retryAt time.Time // zero, or when a failed tick is tried again
	backoff time.Duration
}

// Cron calls fn once for each tick of spec (minute hour day month weekday, or @hourly and the like;
// UTC), however many processes run: in the transaction that records the tick. fn enqueues a job or
// writes a little; when it returns an error its tick is rolled back and tried again. Before Start; a
// bad name or spec panics.
func (q *Queue) Cron(name, spec string, policy Policy, fn func(tx core.App, due time.Time) error) {
	parser := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)
	schedule, err := parser.Parse("CRON_TZ=UTC " + spec)
	if _, ticks := schedule.(*cron.SpecSchedule); err != nil || !ticks || !cronName.MatchString(name) {
		panic(fmt.Sprintf("jobs: cron %q %q: %v", name, spec, err)) // @every has no ticks that two processes agree on
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.crons {
		if e.name == name || q.started {
			panic("jobs: cron " + name + " is registered twice or too late")
		}
	}
	q.crons = append(q.crons, &cronEntry{name: name, schedule: schedule, policy: policy, fn: fn})
}

// runCrons watches the clock while this instance leads it, which is until ctx ends.
func (q *Queue) runCrons(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-q.stop:
		return
	case <-q.ready:
	}
	if !q.enter() {
		return
	}
	defer q.loops.Done()
	for _, e := range q.crons {
		e.next, e.retryAt, e.backoff = time.Time{}, time.Time{}, 0 // others may have fired since
	}
	for {
		now := time.Now().UTC()
		until := now.Add(maxCronSleep)
		for _, e := range q.crons {
			if at := q.tick(ctx, e, now); at.Before(until) {
				until = at
			}
		}
		timer := time.NewTimer(max(time.Until(until), time.Millisecond))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-q.stop:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// tick fires what is due of an entry and returns when to look again.
func (q *Queue) tick(ctx context.Context, e *cronEntry, now time.Time) time.Time {
	if now.Before(e.retryAt) {
		return e.retryAt
	}
	err := q.fireDue(ctx, e, now)
	if ctx.Err() != nil {
		return now // the lead is lost, and with it the right to write
	}
	if err == nil {
		e.retryAt, e.backoff = time.Time{}, 0
		return e.next
	}
	e.backoff = min(max(e.backoff*2, cronRetryMin), cronRetryMax)
	e.retryAt = now.Add(e.backoff)
	q.log.Error("a scheduled task failed and is tried again", "cron", e.name, "due", e.next, "in", e.backoff, "error", err)
	return e.retryAt
}

func (q *Queue) fireDue(ctx context.Context, e *cronEntry, now time.Time) error {
	if e.next.IsZero() {
		if err := q.readPast(e, now); err != nil {
			return err
		}
	}
	e.skipMissed(now, q)
	for !e.next.After(now) {
		select {
		case <-ctx.Done():
			return nil
		case <-q.stop:
			return nil
		default:
		}
		if err := q.fire(e, e.next); err != nil {
			return err
		}
		e.next = e.schedule.Next(e.next)
	}
	return nil
}

// readPast finds where to go on: after the last recorded tick. The first start records itself, so that
// what is missed from then on is known.
func (q *Queue) readPast(e *cronEntry, now time.Time) error {
	last, err := collections.Every[collections.CronRun](q.app, collections.CronRuns, "scheduled_at DESC", 1, dbx.HashExp{"name": e.name})
	if err != nil {
		return fmt.Errorf("read the last run of %s: %w", e.name, err)
	}
	from := now
	if len(last) > 0 {
		from = last[0].ScheduledAt().UTC()
	} else if err := q.begins(e.name, now); err != nil {
		if ran, _ := q.ticked(e.name, now); !ran {
			return fmt.Errorf("record the first run of %s: %w", e.name, err)
		}
	}
	e.next = e.schedule.Next(from)
	return nil
}

func (q *Queue) begins(name string, now time.Time) error {
	return collections.Tx(q.app, nil, func(tx core.App) error {
		if err := q.cluster.Fence(tx, taskCron); err != nil {
			return err
		}
		return recordTick(tx, name, now)
	})
}

// skipMissed moves next past what the policy leaves out.
func (e *cronEntry) skipMissed(now time.Time, q *Queue) {
	if e.policy == Skip {
		if e.next.Before(now.Add(-skipAfter)) {
			e.next = e.schedule.Next(now.Add(-skipAfter))
		}
		return
	}
	due := []time.Time{}
	for t, n := e.next, 0; !t.After(now); t, n = e.schedule.Next(t), n+1 {
		due = append(due, t)
		if len(due) > maxCatchUp {
			due = due[1:]
		}
	}
	if len(due) > 0 && due[0].After(e.next) {
		q.log.Error("too many missed ticks, the oldest are left out", "cron", e.name, "from", e.next, "to", due[0])
		e.next = due[0]
	}
}

// fire records the tick and calls fn in one transaction. Of two processes one gets past the unique
// index; for the other the tick has fired.
func (q *Queue) fire(e *cronEntry, due time.Time) error {
	if ran, err := q.ticked(e.name, due); ran || err != nil {
		return err
	}
	err := collections.Tx(q.app, nil, func(tx core.App) error {
		if err := q.cluster.Fence(tx, taskCron); err != nil {
			return err
		}
		if err := recordTick(tx, e.name, due); err != nil {
			return err
		}
		return e.fn(tx, due)
	})
	if err == nil {
		return nil
	}
	if ran, _ := q.ticked(e.name, due); ran {
		return nil
	}
	return fmt.Errorf("run %s of %s: %w", e.name, due.Format(time.RFC3339), err)
}

func (q *Queue) ticked(name string, due time.Time) (bool, error) {
	_, err := collections.One[collections.CronRun](q.app, collections.CronRuns, dbx.HashExp{"name": name, "scheduled_at": collections.Stamp(due)})
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the runs of %s: %w", name, err)
	}
	return true, nil
}

func recordTick(tx core.App, name string, due time.Time) error {
	row, err := collections.NewCronRun(tx)
	if err != nil {
		return err
	}
	row.SetName(name)
	row.SetScheduledAt(due.UTC())
	return permit.Save(tx, row)
}
