package jobs

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/cluster"
)

// What the instances that work one queue tell each other.
const (
	topicWake      = "jobs.wake"      // something is due, or will be
	topicReap      = "jobs.reap"      // leases ended before their time
	topicInterrupt = "jobs.interrupt" // a running job should end: interruption

	// taskCron is led by one instance: it watches the clock. That a tick fires once is the unique
	// index's doing.
	taskCron = "cron"
)

// unreachable is for how long jobs go on while the database, too, cannot be reached: an instance that
// is cut off is held for dead by the others about 6 s after its last word (hooks/cluster), and their
// workers begin what it had.
const unreachable = 3 * time.Second

type interruption struct {
	Job   string `json:"job"`
	State string `json:"state"` // Cancelled or Superseded
}

// join says what this queue does for the others, and they for it.
func (q *Queue) join() {
	c := q.cluster
	c.Subscribe(topicWake, func(cluster.Message) { q.nudge() })
	c.Subscribe(topicReap, func(cluster.Message) {
		q.expired.Store(true)
		q.nudge()
	})
	c.Subscribe(topicInterrupt, func(m cluster.Message) {
		var i interruption
		if err := json.Unmarshal(m.Data, &i); err != nil {
			q.log.Error("an interruption cannot be read", "from", m.From, "error", err)
			return
		}
		q.interrupt(i.Job, stopCause(i.State))
	})
	c.OnLead(taskCron, q.runCrons)
	c.OnDead(func(tx core.App, instance string) error { return q.release(tx, instance) })
	c.OnLost(func(since time.Duration) { q.verify(since > unreachable) })
	c.OnGap(func() {
		q.verify(false)
		q.nudge()
	})
}

// interruptAfter ends the handler of a running job, wherever it runs, once tx has committed.
func (q *Queue) interruptAfter(tx core.App, id, state string) error {
	raw, err := json.Marshal(interruption{Job: id, State: state})
	if err != nil {
		return err
	}
	return q.cluster.Publish(tx, topicInterrupt, raw)
}

// release lets the leases of a dead instance end now, in the transaction that removes it.
func (q *Queue) release(tx core.App, instance string) error {
	_, err := tx.DB().NewQuery(`UPDATE {{jobs}} SET [[lease_until]] = {:past}
		WHERE [[state]] = 'running' AND [[lease_token]] >= {:from} AND [[lease_token]] < {:to}`).
		Bind(dbx.Params{"past": collections.Stamp(time.Now().Add(-time.Second)), "from": instance + ".", "to": instance + "/"}).Execute() // '/' follows '.'
	if err != nil {
		return fmt.Errorf("release the jobs of instance %s: %w", instance, err)
	}
	return q.cluster.Publish(tx, topicReap, nil)
}

// verify asks for every running job whether it is still ours, and looks for wishes that it should end.
// Other instances may have held this one for dead. strict takes a database that does not answer for a no.
func (q *Queue) verify(strict bool) {
	for _, r := range q.snapshot() {
		ask, err := q.extend(r, time.Now())
		switch {
		case err == nil && ask != nil:
			r.cancel(stopCause(ask.State))
		case errors.Is(err, ErrLeaseLost), err != nil && strict:
			r.cancel(ErrLeaseLost)
		}
	}
}
