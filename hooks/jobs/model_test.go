package jobs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/pocketbase/core"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
)

// modelJob is what a job should be, kept in plain Go.
type modelJob struct {
	id, kind, subject, unique, group string
	priority                         int
	state                            string
	runAt                            time.Time
	lease                            time.Time // of running
	attempt, limit                   int
	asked                            string // state that somebody wants a running job to end in
	woken                            bool
	undone                           int
	steps                            map[string]int
}

func (j *modelJob) active() bool { return j.state == Ready || j.state == Waiting || j.state == Running }

func (j *modelJob) end(state string) {
	j.state, j.asked = state, ""
	if state != Done {
		j.undone++
		j.steps = map[string]int{}
	}
}

// machine runs operations on the real queue and the model side by side.
type machine struct {
	t     *rapid.T
	q     *Queue
	app   core.App
	jobs  map[string]*modelJob
	order []string
	runs  map[string]*Run // the attempt that holds the lease
	stale []*Run          // attempts that lost it
	revs  map[string]int64
	undos map[string]int // what the queue really undid
	made  int            // values that steps returned
	ops   int
}

const (
	modelKinds  = 3
	modelLease  = 10 * time.Second
	modelLimit  = 3
	modelBack   = 4 * time.Second
	opsPerCheck = 400
)

func (m *machine) pick(label string, ok func(*modelJob) bool) *modelJob {
	var ids []string
	for _, id := range m.order {
		if ok(m.jobs[id]) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return m.jobs[rapid.SampledFrom(ids).Draw(m.t, label)]
}

func (m *machine) must(err error) {
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) enqueue() {
	in := Job{
		Kind:     fmt.Sprint("kind", rapid.IntRange(0, modelKinds-1).Draw(m.t, "kind")),
		Subject:  fmt.Sprint("subject", rapid.IntRange(0, 3).Draw(m.t, "subject")),
		Priority: rapid.IntRange(0, 2).Draw(m.t, "priority"),
		RunAt:    time.Now().Add(time.Duration(rapid.IntRange(-2, 5).Draw(m.t, "in")) * time.Second),
	}
	if n := rapid.IntRange(0, 4).Draw(m.t, "unique"); n > 0 {
		in.UniqueKey = fmt.Sprint("unique", n)
	}
	if n := rapid.IntRange(0, 3).Draw(m.t, "group"); n > 0 {
		in.GroupKey = fmt.Sprint("group", n)
	}
	id, err := m.q.Enqueue(m.app, in)
	if other := m.pick("", func(j *modelJob) bool { return in.UniqueKey != "" && j.unique == in.UniqueKey && j.active() }); other != nil {
		if !errors.Is(err, ErrDuplicate) || id != other.id {
			m.t.Fatalf("enqueue with the key of %s: %s %v", other.id, id, err)
		}
		return
	}
	m.must(err)
	m.jobs[id] = &modelJob{id: id, kind: in.Kind, subject: in.Subject, unique: in.UniqueKey, group: in.GroupKey, priority: in.Priority,
		state: Ready, runAt: in.RunAt.UTC(), limit: modelLimit, steps: map[string]int{}}
	m.order = append(m.order, id)
}

// due is the job that a claim has to take.
func (m *machine) due() *modelJob {
	var best *modelJob
	busy := map[string]bool{}
	for _, j := range m.jobs {
		if j.state == Running && j.group != "" {
			busy[j.group] = true
		}
	}
	for _, j := range m.jobs {
		if j.state != Ready && j.state != Waiting || j.runAt.After(time.Now()) || busy[j.group] {
			continue
		}
		if best == nil || j.priority > best.priority || j.priority == best.priority &&
			(j.runAt.Before(best.runAt) || j.runAt.Equal(best.runAt) && j.id < best.id) {
			best = j
		}
	}
	return best
}

func (m *machine) claim() {
	want := m.due()
	r, err := first(m.q.claim(time.Now(), 1))
	m.must(err)
	if (r == nil) != (want == nil) || r != nil && r.ID != want.id {
		m.t.Fatalf("claimed %v, want %v", r, want)
	}
	if r == nil {
		return
	}
	want.state, want.lease = Running, time.Now().Add(modelLease)
	want.attempt++
	want.woken = false
	m.runs[r.ID] = r
}

func (m *machine) running(label string) (*modelJob, *Run) {
	j := m.pick(label, func(j *modelJob) bool { return j.state == Running })
	if j == nil {
		return nil, nil
	}
	return j, m.runs[j.id]
}

func (m *machine) finish() {
	j, r := m.running("finish")
	if j == nil {
		return
	}
	d := time.Duration(rapid.IntRange(0, 8).Draw(m.t, "for")) * time.Second
	fails, now := errors.New("it failed"), time.Now().UTC()
	var err error
	stopping := false
	how := rapid.SampledFrom([]string{"done", "done", "error", "error", "permanent", "retry", "wait", "wait", "supersede", "stopping"}).Draw(m.t, "how")
	switch how {
	case "error":
		err = fails
	case "permanent":
		err = fmt.Errorf("wrapped: %w", Permanent(fails))
	case "retry":
		err = RetryAfter(d, fails)
	case "wait":
		err = Wait(d)
	case "supersede":
		err = Supersede("newer")
	case "stopping":
		err, stopping = fails, true
	}
	m.must(m.q.settle(r, err, stopping))
	delete(m.runs, j.id)
	m.stale = append(m.stale, r)
	switch {
	case how == "done":
		j.end(Done)
	case j.asked != "":
		j.end(j.asked)
	case how == "supersede":
		j.end(Superseded)
	case how == "permanent":
		j.end(Dead)
	case how == "wait" && j.woken:
		j.state, j.runAt = Ready, now
		j.attempt--
	case how == "wait":
		j.state, j.runAt = Waiting, now.Add(d)
		j.attempt--
	case how == "stopping":
		j.state, j.runAt = Ready, now
		j.attempt--
	case j.attempt >= j.limit:
		j.end(Dead)
	case how == "retry":
		j.state, j.runAt = Ready, now.Add(d)
	default:
		j.state = Ready
		j.runAt = m.row(j.id).RunAt()
		if wait := j.runAt.Sub(now); wait < modelBack/2-time.Millisecond || wait > modelBack {
			m.t.Fatalf("backoff of %s", wait)
		}
	}
}

func (m *machine) row(id string) *collections.Job {
	j, err := collections.FindJob(m.app, id)
	m.must(err)
	return j
}

func (m *machine) step() {
	j, r := m.running("step")
	if j == nil {
		return
	}
	name := fmt.Sprint("step", rapid.IntRange(0, 2).Draw(m.t, "name"))
	m.made++
	var out int
	fn := func() (any, error) { return m.made, nil }
	if rapid.Bool().Draw(m.t, "in a transaction") {
		m.must(r.StepTx(name, nil, func(core.App) (any, error) { return fn() }, &out))
	} else {
		m.must(r.Step(name, func(ctx ctxT) (any, error) { return fn() }, &out))
	}
	if _, ran := j.steps[name]; !ran {
		j.steps[name] = m.made
	}
	if out != j.steps[name] {
		m.t.Fatalf("%s of %s returned %d, want %d", name, j.id, out, j.steps[name])
	}
}

func (m *machine) beat() {
	j, r := m.running("beat")
	if j == nil {
		return
	}
	ask, err := m.q.extend(r, time.Now())
	m.must(err)
	if (ask == nil) != (j.asked == "") || ask != nil && ask.State != j.asked {
		m.t.Fatalf("%s: asked %v, want %q", j.id, ask, j.asked)
	}
	j.lease = time.Now().Add(modelLease)
}

func (m *machine) progress() {
	if j, r := m.running("progress"); j != nil {
		r.Progress(fmt.Sprint("p", m.ops), 50, "half")
	}
}

func (m *machine) pass() {
	time.Sleep(time.Duration(rapid.IntRange(1, 6000).Draw(m.t, "ms")) * time.Millisecond)
}

func (m *machine) reap() {
	m.q.reap()
	for _, id := range m.order {
		j := m.jobs[id]
		if j.state != Running || !j.lease.Before(time.Now()) {
			continue
		}
		m.stale = append(m.stale, m.runs[id])
		delete(m.runs, id)
		switch {
		case j.asked != "":
			j.end(j.asked)
		case j.attempt >= j.limit:
			j.end(Dead)
		default:
			j.state, j.runAt = Ready, time.Now().UTC()
		}
	}
}

func (m *machine) wake() {
	subject := fmt.Sprint("subject", rapid.IntRange(0, 3).Draw(m.t, "subject"))
	m.must(m.q.Wake(m.app, subject))
	for _, j := range m.jobs {
		if j.subject != subject {
			continue
		}
		switch j.state {
		case Waiting:
			j.state, j.runAt = Ready, time.Now().UTC()
		case Running:
			j.woken, j.runAt = true, time.Now().UTC().Add(time.Millisecond)
		}
	}
}

func (m *machine) stop(j *modelJob, state string) {
	if j.state == Running {
		j.asked = state
	} else {
		j.end(state)
	}
}

func (m *machine) cancel() {
	j := m.pick("cancel", func(*modelJob) bool { return true })
	if j == nil {
		return
	}
	err := m.q.Cancel(m.app, j.id, "not wanted")
	if !j.active() {
		if !errors.Is(err, ErrState) {
			m.t.Fatalf("cancel of a %s job: %v", j.state, err)
		}
		return
	}
	m.must(err)
	m.stop(j, Cancelled)
}

func (m *machine) supersede() {
	subject := fmt.Sprint("subject", rapid.IntRange(0, 3).Draw(m.t, "subject"))
	n, err := m.q.SupersedeAll(m.app, subject, "newer", "kind0", "kind1")
	m.must(err)
	for _, j := range m.jobs {
		if j.subject == subject && j.active() && j.kind != "kind2" {
			m.stop(j, Superseded)
			n--
		}
	}
	if n != 0 {
		m.t.Fatalf("superseded %d too many", n)
	}
}

func (m *machine) retry() {
	j := m.pick("retry", func(j *modelJob) bool { return !j.active() })
	if j == nil {
		return
	}
	err := m.q.Retry(m.app, j.id)
	other := m.pick("", func(o *modelJob) bool { return j.unique != "" && o.unique == j.unique && o.active() })
	switch {
	case j.state != Dead:
		if !errors.Is(err, ErrState) {
			m.t.Fatalf("retry of a %s job: %v", j.state, err)
		}
	case other != nil:
		if !errors.Is(err, ErrDuplicate) {
			m.t.Fatalf("retry beside an active job of the key: %v", err)
		}
	default:
		m.must(err)
		j.state, j.runAt, j.attempt = Ready, time.Now().UTC(), 0
	}
}

func (m *machine) discard() {
	j := m.pick("discard", func(j *modelJob) bool { return !j.active() })
	if j == nil {
		return
	}
	if err := m.q.Discard(m.app, j.id); (err == nil) != (j.state == Dead) || err != nil && !errors.Is(err, ErrState) {
		m.t.Fatalf("discard of a %s job: %v", j.state, err)
	}
	if j.state == Dead {
		j.state = Cancelled
	}
}

// ghost lets a worker that lost its lease try everything: nothing may come of it.
func (m *machine) ghost() {
	if len(m.stale) == 0 {
		return
	}
	r := rapid.SampledFrom(m.stale).Draw(m.t, "ghost")
	ran := false
	var err error
	what := rapid.SampledFrom([]string{"done", "fail", "beat", "step", "tx", "progress"}).Draw(m.t, "what")
	switch what {
	case "done":
		err = m.q.settle(r, nil, false)
	case "fail":
		err = m.q.settle(r, Permanent(errors.New("x")), false)
	case "beat":
		_, err = m.q.extend(r, time.Now())
	case "step":
		err = r.Step("ghost", func(ctxT) (any, error) { return 1, nil }, nil)
	case "tx":
		err = r.Tx(nil, func(core.App) error { ran = true; return nil })
	case "progress":
		r.mu.Lock()
		r.progress = []byte(`{"step":"ghost"}`)
		r.mu.Unlock()
		err = r.flushProgress()
	}
	if !errors.Is(err, ErrLeaseLost) || ran {
		m.t.Fatalf("a worker without a lease could %s: %v", what, err)
	}
}

// check compares the whole database with the model.
func (m *machine) check() {
	var rows []struct {
		ID       string `db:"id"`
		State    string `db:"state"`
		Attempt  int    `db:"attempt"`
		RunAt    string `db:"run_at"`
		Token    string `db:"lease_token"`
		Finished string `db:"finished_at"`
		Rev      int64  `db:"rev"`
	}
	m.must(m.app.DB().NewQuery("SELECT id, state, attempt, run_at, lease_token, finished_at, rev FROM jobs").All(&rows))
	if len(rows) != len(m.jobs) {
		m.t.Fatalf("%d rows, want %d", len(rows), len(m.jobs))
	}
	unique, group := map[string]int{}, map[string]int{}
	for _, r := range rows {
		j := m.jobs[r.ID]
		if r.State != j.state || r.Attempt != j.attempt || r.RunAt != collections.Stamp(j.runAt) || (r.Token != "") != (j.state == Running) ||
			(r.Finished != "") == j.active() || m.undos[r.ID] != j.undone {
			m.t.Fatalf("job is %+v, undone %d; want %+v", r, m.undos[r.ID], *j)
		}
		if r.Rev < m.revs[r.ID] {
			m.t.Fatalf("rev of %s fell from %d to %d", r.ID, m.revs[r.ID], r.Rev)
		}
		m.revs[r.ID] = r.Rev
		if j.active() && j.unique != "" {
			unique[j.unique]++
		}
		if j.state == Running && j.group != "" {
			group[j.group]++
		}
	}
	for key, n := range unique {
		if n > 1 {
			m.t.Fatalf("%d active jobs of %s", n, key)
		}
	}
	for key, n := range group {
		if n > 1 {
			m.t.Fatalf("%d running jobs of %s", n, key)
		}
	}
}

// TestT10_JobsAgainstAModel is the jobs part of T10: at least 40,000 operations on the real queue and
// database, each followed by a comparison of every row with the model.
func TestT10_JobsAgainstAModel(t *testing.T) {
	total, began := 0, time.Now()
	bubble(t, func(t *testing.T, app core.App) {
		undos := map[string]int{}
		var seen []string
		q := New(app, Config{LeaseFor: modelLease, Log: quiet, Changed: func(_ core.App, j *collections.Job) { seen = append(seen, j.Id) }})
		for i := range modelKinds {
			q.Handle(fmt.Sprint("kind", i), Options{MaxAttempts: modelLimit, BackoffMin: modelBack, BackoffMax: modelBack},
				func(ctxT, *Run) error { return nil },
				func(_ core.App, r *Run, cause error) error {
					if cause == nil {
						t.Error("an undo without a cause")
					}
					undos[r.ID]++
					return nil
				})
		}
		rapid.Check(inBubble{t}, func(rt *rapid.T) {
			clearJobs(t, app)
			clear(undos)
			m := &machine{t: rt, q: q, app: app, jobs: map[string]*modelJob{}, runs: map[string]*Run{}, revs: map[string]int64{}, undos: undos}
			ops := map[string]func(){"enqueue": m.enqueue, "claim": m.claim, "finish": m.finish, "step": m.step, "beat": m.beat, "progress": m.progress,
				"pass": m.pass, "reap": m.reap, "wake": m.wake, "cancel": m.cancel, "supersede": m.supersede, "retry": m.retry, "discard": m.discard, "ghost": m.ghost}
			weighted := strings.Fields("enqueue enqueue enqueue claim claim claim claim claim finish finish finish step step beat progress pass pass reap wake wake cancel supersede retry discard ghost ghost")
			for range opsPerCheck {
				if len(m.jobs) > 14 {
					m.forget()
				}
				seen = seen[:0]
				name := rapid.SampledFrom(weighted).Draw(rt, "op")
				before := m.snapshot()
				ops[name]()
				m.check()
				m.told(name, before, seen)
				m.ops++
				total++
			}
		})
	})
	t.Logf("T10 (jobs): %d operations, 0 differences from the model, %s", total, time.Since(began).Round(time.Millisecond))
	if total < 40_000/collectionstest.Share() {
		t.Errorf("only %d operations", total)
	}
}

func (m *machine) snapshot() map[string]string {
	out := map[string]string{}
	for id, j := range m.jobs {
		out[id] = j.state
	}
	return out
}

// told: whoever watches heard of every job whose state changed.
func (m *machine) told(op string, before map[string]string, seen []string) {
	for id, j := range m.jobs {
		if before[id] != j.state && !slices.Contains(seen, id) {
			m.t.Fatalf("%s took %s from %q to %q and told nobody", op, id, before[id], j.state)
		}
	}
}

// forget removes the final jobs, by Prune, so that the database stays small.
func (m *machine) forget() {
	time.Sleep(time.Second)
	n, err := m.q.Prune(m.app, time.Now(), 100)
	m.must(err)
	for _, id := range slices.Clone(m.order) {
		if s := m.jobs[id].state; s == Done || s == Cancelled || s == Superseded {
			delete(m.jobs, id)
			m.order = slices.DeleteFunc(m.order, func(x string) bool { return x == id })
			n--
		}
	}
	if n != 0 {
		m.t.Fatalf("pruned %d too many", n)
	}
	for _, j := range m.jobs {
		if j.state == Dead {
			m.must(m.q.Discard(m.app, j.id))
			j.state = Cancelled
		}
	}
}

func clearJobs(t *testing.T, app core.App) {
	t.Helper()
	for _, table := range []string{"jobs", "job_steps", "cron_runs"} {
		if _, err := app.NonconcurrentDB().NewQuery("DELETE FROM " + table).Execute(); err != nil {
			t.Fatal(err)
		}
	}
}
