// Package jobs is the durable queue and the clock of the installation: work that outlives a request,
// a crash and a restart.
//
// It owns jobs, job_steps and cron_runs. It refuses to run a job twice at once, to run two jobs of a
// group at once, and to let a worker that lost its lease write anything.
//
// Its one invariant: a job is enqueued in the transaction of the change that caused it, runs at least
// once, and ends in exactly one final state; if that is not done, what it reserved is undone in the
// same transaction.
//
//	    Enqueue                 Wake, run_at
//	       │        ┌───────────────────────────┐
//	       ▼        ▼                           │
//	    ready ── claim ──► running ── Wait ──► waiting
//	      ▲ ▲                │ │ │                │
//	      │ └─ error, lost ──┘ │ └── nil ──► done │
//	Retry │                    │                  │
//	      └──── dead ◄─ last attempt, Permanent   │
//	             │                                │
//	             └─ Discard ──► cancelled, superseded ◄─ Cancel, SupersedeAll, Supersede
package jobs

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/cluster"
)

var permit = collections.PermitFor("jobs")

// States of a job.
const (
	Ready      = "ready"      // runs when run_at has come and a worker is free
	Running    = "running"    // a worker holds its lease
	Waiting    = "waiting"    // for Wake or run_at, whichever is first
	Done       = "done"       // final: it did what it was for
	Dead       = "dead"       // final until an operator retries or discards it
	Cancelled  = "cancelled"  // final: somebody did not want it any more
	Superseded = "superseded" // final: a newer command took its place
)

// Errors.
var (
	ErrDuplicate = errors.New("an active job has this unique key")
	ErrLeaseLost = errors.New("the lease of this job was lost: another worker may have it")
	ErrStopping  = errors.New("the queue is being stopped")
	ErrTimeout   = errors.New("the attempt took too long")
	ErrCancelled = errors.New("the job was cancelled")
	ErrState     = errors.New("the job is not in a state that allows this")
)

// maxJSON bounds payloads, step outputs and results in bytes; the columns take 64 KiB.
const maxJSON = 60 << 10

// Job is what is to be done.
type Job struct {
	Kind      string // registered with Handle
	Tenant    string // empty: the installation's
	Subject   string // id of what it works on; Wake goes by it
	UniqueKey string // at most one ready, running or waiting job of a key
	GroupKey  string // at most one running job of a key: how work per node or per tenant is limited
	Payload   any    // JSON
	RunAt     time.Time
	Priority  int // higher first
}

// Config of a Queue.
type Config struct {
	Workers      int           // jobs running at once in this process; default 8
	PollInterval time.Duration // in case a wake-up was lost; default 1 s
	LeaseFor     time.Duration // a worker that is silent for so long has lost its job; default 30 s
	Grace        time.Duration // how long Stop lets running jobs finish, and then end; default 10 s
	// Cluster is the instances that work this queue together. Nil: this process is alone, and jobs that
	// were running when it starts are orphans of a crash, which return at once instead of after their
	// lease.
	Cluster *cluster.Cluster
	// Died is called in the transaction in which a job becomes dead: open the incident here.
	Died func(tx core.App, j *collections.Job) error
	// Changed is called in the transaction of every visible change, after rev grew: broadcast here.
	Changed func(tx core.App, j *collections.Job)
	// DiedLocks are what Died needs.
	DiedLocks []collections.Lock
	Log       *slog.Logger
}

// Options of a kind.
type Options struct {
	MaxAttempts int           // default 5
	BackoffMin  time.Duration // before the second attempt, doubled for each further one; default 1 s
	BackoffMax  time.Duration // default 5 min
	Timeout     time.Duration // of one attempt; default 10 min
	// AtOnce is how many jobs of the kind run at once in this process; 0: as many as there are workers. It is for what
	// waits for somebody else's machines: however slow those are, workers are left for the rest.
	AtOnce int
	// UndoLocks are what the undo of a job needs, nil for none. Cancel, SupersedeAll and Discard run
	// in their caller's transaction, which has to hold them.
	UndoLocks func(j *collections.Job) []collections.Lock
}

// Handler does the work. It may be called again for the same job: what must not happen twice is a Step
// or asks the world first. It ends soon after ctx does; context.Cause tells why.
type Handler func(ctx context.Context, r *Run) error

// Undo takes back what the job reserved. It runs in the transaction in which the job becomes dead,
// cancelled or superseded, whether or not the handler ever ran.
type Undo func(tx core.App, r *Run, cause error) error

type kind struct {
	name string
	Options
	handler Handler
	undo    Undo
}

// Queue is the jobs of one installation as one process works them. It is safe for concurrent use.
type Queue struct {
	app     core.App
	cfg     Config
	cluster *cluster.Cluster
	own     bool // the cluster is nobody else's: started and stopped here
	alone   bool // no other process can hold a lease
	log     *slog.Logger

	kinds map[string]*kind // fixed at Start
	crons []*cronEntry     // fixed at Start, then owned by the cron loop

	wake    chan struct{} // capacity 1: something may be due
	expired atomic.Bool   // leases ended before their time

	mu      sync.Mutex
	started bool            // guarded by mu
	running map[string]*Run // by job id, in this process; guarded by mu
	stats   map[string]KindStats
	ready   chan struct{} // closed by Start

	stop     chan struct{} // closed when draining begins
	stopOnce sync.Once
	done     chan struct{} // closed when everything has ended
	loops    sync.WaitGroup
	workers  sync.WaitGroup
}

// New returns a Queue; nothing runs before Start.
func New(app core.App, cfg Config) *Queue {
	cfg.Workers = orDefault(cfg.Workers, 8)
	cfg.PollInterval = orDefault(cfg.PollInterval, time.Second)
	cfg.LeaseFor = orDefault(cfg.LeaseFor, 30*time.Second)
	cfg.Grace = orDefault(cfg.Grace, 10*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	q := &Queue{app: app, cfg: cfg, cluster: cfg.Cluster, log: cfg.Log, kinds: map[string]*kind{}, wake: make(chan struct{}, 1), ready: make(chan struct{}),
		running: map[string]*Run{}, stats: map[string]KindStats{}, stop: make(chan struct{}), done: make(chan struct{})}
	if q.cluster == nil {
		q.own = true
		q.cluster, _ = cluster.New(app, cluster.Config{Log: cfg.Log}) // fails without an app only
	}
	q.alone = q.cluster.Alone()
	q.join()
	return q
}

func orDefault[T int | time.Duration](v, fallback T) T {
	if v <= 0 {
		return fallback
	}
	return v
}

// Handle registers a kind; undo may be nil. Before Start; a second registration of a kind panics.
func (q *Queue) Handle(name string, o Options, h Handler, undo Undo) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.started || q.kinds[name] != nil || h == nil {
		panic("jobs: kind " + name + " is registered twice, too late, or without a handler")
	}
	o.MaxAttempts = orDefault(o.MaxAttempts, 5)
	o.BackoffMin = orDefault(o.BackoffMin, time.Second)
	o.BackoffMax = max(orDefault(o.BackoffMax, 5*time.Minute), o.BackoffMin)
	o.Timeout = orDefault(o.Timeout, 10*time.Minute)
	q.kinds[name] = &kind{name: name, Options: o, handler: h, undo: undo}
}

// Enqueue stores the job in the caller's transaction and wakes a worker after the commit. When an
// active job has the same unique key it returns that one's id and ErrDuplicate, and stores nothing.
func (q *Queue) Enqueue(tx core.App, in Job) (id string, err error) {
	k := q.kinds[in.Kind]
	if k == nil {
		return "", fmt.Errorf("enqueue %s: no such kind of job", in.Kind)
	}
	err = collections.Tx(tx, nil, func(tx core.App) error {
		id, err = q.insert(tx, k, in)
		return err
	})
	if err != nil && !errors.Is(err, ErrDuplicate) {
		return "", fmt.Errorf("enqueue %s: %w", in.Kind, err)
	}
	return id, err
}

func (q *Queue) insert(tx core.App, k *kind, in Job) (string, error) {
	if id, err := activeOf(tx, in.UniqueKey); id != "" || err != nil {
		return id, err
	}
	payload, err := encode(in.Payload)
	if err != nil {
		return "", fmt.Errorf("payload: %w", err)
	}
	j, err := collections.NewJob(tx)
	if err != nil {
		return "", err
	}
	if in.RunAt.IsZero() {
		in.RunAt = time.Now()
	}
	j.SetKind(in.Kind)
	j.SetTenant(in.Tenant)
	j.SetSubject(in.Subject)
	j.SetUniqueKey(in.UniqueKey)
	j.SetGroupKey(in.GroupKey)
	j.SetPayload(types.JSONRaw(payload))
	j.SetPriority(int64(in.Priority))
	j.SetState(Ready)
	j.SetRunAt(in.RunAt.UTC())
	j.SetMaxAttempts(int64(k.MaxAttempts))
	j.SetRev(1)
	if err := permit.Save(tx, j); err != nil {
		// with several writers somebody else's job may have been committed between look and insert
		if id, dup := activeOf(tx, in.UniqueKey); id != "" {
			return id, dup
		}
		return "", err
	}
	q.changed(tx, j)
	q.nudgeAfter(tx)
	return j.Id, nil
}

// activeOf returns the id of the active job of that key and ErrDuplicate, or nothing.
func activeOf(tx core.App, key string) (string, error) {
	if key == "" {
		return "", nil
	}
	j, err := collections.One[collections.Job](tx, collections.Jobs,
		dbx.NewExp("[[unique_key]] = {:key} AND [[unique_key]] != '' AND [[state]] IN ('ready','running','waiting')", dbx.Params{"key": key}))
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return j.Id, ErrDuplicate
}

func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(b) > maxJSON {
		return nil, fmt.Errorf("%d bytes of JSON, at most %d", len(b), maxJSON)
	}
	return b, nil
}

func (q *Queue) changed(tx core.App, j *collections.Job) {
	if q.cfg.Changed != nil {
		q.cfg.Changed(tx, j)
	}
}

// nudgeAfter wakes the workers of every instance once tx has committed.
func (q *Queue) nudgeAfter(tx core.App) {
	if err := q.cluster.Publish(tx, topicWake, nil); err != nil {
		q.log.Error("workers are not woken", "error", err) // the poll finds it
	}
}

func (q *Queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Start begins to work. When ctx ends, the queue drains as in Stop. A second call does nothing.
func (q *Queue) Start(ctx context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.started {
		return
	}
	q.started = true
	close(q.ready)
	if q.own {
		_ = q.cluster.Start(ctx) // alone it cannot fail
	}
	base := context.WithoutCancel(ctx) // jobs end by the queue's own decision, not at once with ctx
	q.loops.Go(func() { q.feed(base) })
	go func() { // owned by the queue: Stop waits for done
		select {
		case <-ctx.Done():
			q.beginStop()
		case <-q.stop:
		}
		q.drain()
		close(q.done)
	}()
}

// Stop drains: no job is claimed any more; running ones get Config.Grace to finish, then their context
// ends with ErrStopping and they return to ready without having used up an attempt. A handler that
// ignores its context for another Grace is left behind; its lease runs out. A second call waits, too.
func (q *Queue) Stop() {
	q.mu.Lock()
	started := q.started
	q.mu.Unlock()
	q.beginStop()
	if started {
		<-q.done
	}
	if q.own {
		q.cluster.Stop()
	}
}

func (q *Queue) beginStop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopOnce.Do(func() { close(q.stop) })
}

// enter counts the caller among what Stop waits for; false when it stops already.
func (q *Queue) enter() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-q.stop:
		return false
	default:
	}
	q.loops.Add(1)
	return true
}

func (q *Queue) drain() {
	q.loops.Wait()
	ended := make(chan struct{})
	go func() { // ends with the last worker
		q.workers.Wait()
		close(ended)
	}()
	for _, cause := range []error{ErrStopping, nil} {
		timer := time.NewTimer(q.cfg.Grace)
		select {
		case <-ended:
			timer.Stop()
			return
		case <-timer.C:
		}
		if cause != nil {
			q.interruptAll(cause)
		}
	}
	q.log.Error("jobs did not end in time and are left behind", "jobs", len(q.snapshot()))
}

func (q *Queue) snapshot() []*Run {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make([]*Run, 0, len(q.running))
	for _, r := range q.running {
		out = append(out, r)
	}
	return out
}

func (q *Queue) interruptAll(cause error) {
	for _, r := range q.snapshot() {
		r.cancel(cause)
	}
}

func (q *Queue) interrupt(id string, cause error) {
	q.mu.Lock()
	r := q.running[id]
	q.mu.Unlock()
	if r != nil {
		r.cancel(cause)
	}
}

// feed claims what is due while a worker is free, and returns expired leases.
func (q *Queue) feed(base context.Context) {
	slots := make(chan struct{}, q.cfg.Workers)
	poll := time.NewTicker(q.cfg.PollInterval)
	defer poll.Stop()
	if q.alone {
		q.orphanAll()
	}
	q.reap()
	for {
		q.fill(base, slots)
		select {
		case <-q.stop:
			return
		case <-q.wake:
			if q.expired.Swap(false) {
				q.reap()
			}
		case <-poll.C:
			q.reap()
		}
	}
}

// fill starts workers until none is free or nothing is due.
func (q *Queue) fill(base context.Context, slots chan struct{}) {
	for {
		select {
		case <-q.stop:
			return
		default:
		}
		free := cap(slots) - len(slots) // only this goroutine takes any
		if free == 0 {
			return // a worker that ends wakes us
		}
		runs, err := q.claim(time.Now(), free)
		if err != nil {
			q.log.Error("jobs are not claimed", "error", err)
		}
		for _, r := range runs {
			slots <- struct{}{}
			q.begin(base, r)
			q.workers.Go(func() {
				q.work(r)
				<-slots
				q.nudge()
			})
		}
		if len(runs) < free {
			return
		}
	}
}

// tokenRandom is how many characters of 5 random bits a fence has after the instance's id: the column
// takes 32.
const tokenRandom = 16

// newToken is a fence: the instance that holds it, and 80 random bits.
func newToken(instance string) string { return instance + "." + rand.Text()[:tokenRandom] }
