package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

func nothing(ctxT, *Run) error { return nil }

func start(t *testing.T, q *Queue) {
	t.Helper()
	q.Start(t.Context())
	t.Cleanup(q.Stop)
}

func enqueue(t *testing.T, q *Queue, app core.App, in Job) string {
	t.Helper()
	id, err := q.Enqueue(app, in)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func find(t *testing.T, app core.App, id string) *collections.Job {
	t.Helper()
	j, err := collections.FindJob(app, id)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func wantState(t *testing.T, app core.App, id, state string) *collections.Job {
	t.Helper()
	j := find(t, app, id)
	if j.State() != state {
		t.Fatalf("job %s is %s (%s), want %s", j.Kind(), j.State(), j.LastError(), state)
	}
	return j
}

func TestAJobRunsWithItsPayloadAfterTheCommit(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet})
		got := make(chan string, 1)
		q.Handle("a", Options{}, func(_ ctxT, r *Run) error {
			var p struct {
				Name string `json:"name"`
			}
			if err := r.Payload(&p); err != nil {
				return err
			}
			r.SetResult(map[string]int{"n": 7})
			got <- p.Name + fmt.Sprint(r.Attempt) + r.Job().Subject()
			return nil
		}, nil)
		start(t, q)
		synctest.Wait()
		var id string
		err := collections.Tx(app, nil, func(tx core.App) error {
			id = enqueue(t, q, tx, Job{Kind: "a", Subject: "S", Payload: map[string]any{"name": "x"}})
			select {
			case <-got:
				t.Error("it ran before the commit")
			default:
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if s := <-got; s != "x1S" || time.Since(began) > 0 {
			t.Fatalf("got %q after %s", s, time.Since(began))
		}
		synctest.Wait()
		j := wantState(t, app, id, Done)
		var res struct {
			N int `json:"n"`
		}
		if err := j.Result(&res); err != nil || res.N != 7 || j.FinishedAt().IsZero() {
			t.Fatalf("result %v %v", res, err)
		}
		boom := errors.New("boom")
		if err := collections.Tx(app, nil, func(tx core.App) error {
			id = enqueue(t, q, tx, Job{Kind: "a"})
			return boom
		}); !errors.Is(err, boom) {
			t.Fatal(err)
		}
		if _, err := collections.FindJob(app, id); err == nil {
			t.Fatal("a job of a rolled back transaction exists")
		}
		if _, err := q.Enqueue(app, Job{Kind: "unknown"}); err == nil {
			t.Fatal("an unknown kind was taken")
		}
		if _, err := q.Enqueue(app, Job{Kind: "a", Payload: strings.Repeat("x", 70<<10)}); err == nil {
			t.Fatal("a payload over the bound was taken")
		}
	})
}

func TestRetriesBackOffAndEndAsDead(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		var died []string
		var at []time.Time
		undone := 0
		q := New(app, Config{Log: quiet, Died: func(tx core.App, j *collections.Job) error {
			died = append(died, j.Id)
			if !tx.IsTransactional() || j.State() != Dead {
				t.Errorf("Died outside of its transaction or of a %s job", j.State())
			}
			return nil
		}})
		q.Handle("a", Options{MaxAttempts: 4, BackoffMin: 8 * time.Second, BackoffMax: 20 * time.Second},
			func(ctxT, *Run) error { at = append(at, time.Now()); return fmt.Errorf("attempt %d\x00", len(at)) },
			func(tx core.App, r *Run, cause error) error {
				undone++
				if !tx.IsTransactional() || cause == nil {
					t.Error("undo outside of a transaction or without a cause")
				}
				return nil
			})
		start(t, q)
		id := enqueue(t, q, app, Job{Kind: "a", UniqueKey: "u"})
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		j := wantState(t, app, id, Dead)
		if len(at) != 4 || !slices.Equal(died, []string{id}) || undone != 1 {
			t.Fatalf("%d attempts, died %v, undone %d", len(at), died, undone)
		}
		for i, bound := range []time.Duration{8 * time.Second, 16 * time.Second, 20 * time.Second} {
			if d := at[i+1].Sub(at[i]); d < bound/2 || d > bound+time.Second {
				t.Errorf("wait %d was %s, want %s to %s", i, d, bound/2, bound)
			}
		}
		var history []historyEntry
		if err := j.History(&history); err != nil || len(history) != 4 || history[2].Error != "attempt 3" || history[2].Attempt != 3 || j.LastError() != "attempt 4" {
			t.Fatalf("history %+v, last %q, %v", history, j.LastError(), err)
		}
		if v := View(j); v["error"] == nil || strings.Contains(fmt.Sprint(v), "attempt") {
			t.Fatalf("a customer sees %v", v)
		}
		if err := q.Retry(app, id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if len(at) != 8 || undone != 2 {
			t.Fatalf("after a retry: %d attempts, undone %d", len(at), undone)
		}
		if err := q.Discard(app, id); err != nil {
			t.Fatal(err)
		}
		wantState(t, app, id, Cancelled)
	})
}

type safeErr struct{}

func (safeErr) Error() string { return "pq: secret internals" }
func (safeErr) Safe() string  { return "The disk of the node is full." }

func TestControlErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		err     error
		state   string
		attempt int64
		runIn   time.Duration
		undone  int
		view    string
	}{
		{"nil is done", nil, Done, 1, 0, 0, ""},
		{"a plain error retries after the backoff", errors.New("x"), Ready, 1, 0, 0, ""},
		{"Permanent is dead at once", Permanent(errors.New("x")), Dead, 1, 0, 1, "The work could not be finished. Our team has been told."},
		{"Permanent around a safe text shows it", fmt.Errorf("a: %w", Permanent(safeErr{})), Dead, 1, 0, 1, "The disk of the node is full."},
		{"RetryAfter says when", RetryAfter(time.Hour, errors.New("x")), Ready, 1, time.Hour, 0, ""},
		{"Wait waits and does not count", Wait(time.Minute), Waiting, 0, time.Minute, 0, ""},
		{"Supersede ends it", Supersede("generation 7 came"), Superseded, 1, 0, 1, "A newer command took its place."},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, app core.App) {
				undone := 0
				q := New(app, Config{Log: quiet})
				q.Handle("a", Options{}, func(ctxT, *Run) error { return c.err }, func(core.App, *Run, error) error { undone++; return nil })
				id := enqueue(t, q, app, Job{Kind: "a"})
				now := time.Now()
				r, err := first(q.claim(now, 1))
				if err != nil || r == nil {
					t.Fatal(r, err)
				}
				q.begin(t.Context(), r)
				q.work(r)
				j := wantState(t, app, id, c.state)
				if j.Attempt() != c.attempt || undone != c.undone || j.LeaseToken() != "" {
					t.Fatalf("attempt %d, undone %d", j.Attempt(), undone)
				}
				if c.runIn > 0 && !j.RunAt().Equal(now.Add(c.runIn)) {
					t.Fatalf("runs at %s", j.RunAt())
				}
				if got, _ := View(j)["error"].(string); got != c.view {
					t.Fatalf("shown: %q", got)
				}
				if left := len(q.snapshot()); left != 0 {
					t.Fatalf("%d runs are still registered", left)
				}
			})
		})
	}
}

func TestAPanicIsAFailedAttempt(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet})
		q.Handle("a", Options{MaxAttempts: 1}, func(ctxT, *Run) error { panic("oh") }, nil)
		start(t, q)
		id := enqueue(t, q, app, Job{Kind: "a"})
		time.Sleep(time.Second)
		synctest.Wait()
		if j := wantState(t, app, id, Dead); !strings.Contains(j.LastError(), "oh") || !strings.Contains(j.LastError(), "jobs_test.go") {
			t.Fatalf("no stack in %q", j.LastError())
		}
	})
}

func TestWake(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet})
		var ran atomic.Int32
		gate := make(chan struct{})
		q.Handle("a", Options{MaxAttempts: 1}, func(ctxT, *Run) error {
			if ran.Add(1) < 4 {
				<-gate
				return Wait(time.Hour)
			}
			return nil
		}, nil)
		start(t, q)
		id := enqueue(t, q, app, Job{Kind: "a", Subject: "srv"})
		synctest.Wait()
		began := time.Now()
		// a wake while it runs is not lost, though the job waits only afterwards
		if err := q.Wake(app, "srv"); err != nil {
			t.Fatal(err)
		}
		gate <- struct{}{}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if ran.Load() != 2 || time.Since(began) > 2*time.Second {
			t.Fatalf("ran %d times", ran.Load())
		}
		gate <- struct{}{}
		synctest.Wait()
		if err := q.Wake(app, "another"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		wantState(t, app, id, Waiting)
		boom := errors.New("boom")
		if err := collections.Tx(app, nil, func(tx core.App) error { return errors.Join(q.Wake(tx, "srv"), boom) }); !errors.Is(err, boom) {
			t.Fatal(err)
		}
		wantState(t, app, id, Waiting)
		if err := q.Wake(app, "srv"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantState(t, app, id, Running)
		gate <- struct{}{}
		// nobody wakes it: it looks again by itself
		time.Sleep(time.Hour + 2*time.Second)
		synctest.Wait()
		if j := wantState(t, app, id, Done); ran.Load() != 4 || j.Attempt() != 1 {
			t.Fatalf("ran %d times, attempt %d", ran.Load(), j.Attempt())
		}
	})
}

func TestStepsAreReplayed(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet})
		calls := map[string]int{}
		q.Handle("a", Options{BackoffMin: time.Second}, func(_ ctxT, r *Run) error {
			var port int
			err := r.Step("reserve", func(ctxT) (any, error) { calls["reserve"]++; return 25565, nil }, &port)
			if err != nil || port != 25565 {
				return Permanent(fmt.Errorf("port %d: %w", port, err))
			}
			if err := r.Step("nothing", func(ctxT) (any, error) { calls["nothing"]++; return nil, nil }, nil); err != nil {
				return err
			}
			return r.Step("push", func(ctxT) (any, error) {
				if calls["push"]++; calls["push"] < 3 {
					return nil, errors.New("the node is away")
				}
				return "ok", nil
			}, nil)
		}, nil)
		start(t, q)
		id := enqueue(t, q, app, Job{Kind: "a"})
		time.Sleep(time.Minute)
		synctest.Wait()
		wantState(t, app, id, Done)
		if calls["reserve"] != 1 || calls["nothing"] != 1 || calls["push"] != 3 {
			t.Fatalf("%v", calls)
		}
	})
}

func TestUndoForgetsTheSteps(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet})
		var values []int
		q.Handle("a", Options{MaxAttempts: 1}, func(_ ctxT, r *Run) error {
			var v int
			if err := r.StepTx("reserve", nil, func(core.App) (any, error) { return len(values), nil }, &v); err != nil {
				return err
			}
			values = append(values, v)
			return errors.New("x")
		}, func(core.App, *Run, error) error { return nil })
		start(t, q)
		id := enqueue(t, q, app, Job{Kind: "a"})
		synctest.Wait()
		if err := q.Retry(app, id); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !slices.Equal(values, []int{0, 1}) {
			t.Fatalf("the retry saw what had been undone: %v", values)
		}
	})
}

func TestATxOfAStepIsAllOrNothing(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet})
		q.Handle("a", Options{}, nothing, nil)
		enqueue(t, q, app, Job{Kind: "a"})
		r, err := first(q.claim(time.Now(), 1))
		if err != nil {
			t.Fatal(err)
		}
		big := strings.Repeat("x", 70<<10) // the output cannot be stored, so what fn did must not stay
		err = r.StepTx("s", nil, func(tx core.App) (any, error) { return big, q.Wake(tx, "x") }, nil)
		var p *permanentError
		if !errors.As(err, &p) {
			t.Fatal(err)
		}
		if n, _ := app.CountRecords(collections.JobSteps); n != 0 {
			t.Fatal("a step was stored")
		}
	})
}

// A process that dies is a queue that stops answering: nothing is settled, no lease extended.
func TestAnAbandonedJobGoesOnFromItsLastStep(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		calls := map[string]int{}
		handler := func(_ ctxT, r *Run) error {
			for _, s := range []string{"one", "two", "three"} {
				if err := r.Step(s, func(ctxT) (any, error) { calls[s]++; return nil, nil }, nil); err != nil {
					return err
				}
			}
			return nil
		}
		dead := New(app, Config{Log: quiet, LeaseFor: 30 * time.Second})
		dead.Handle("a", Options{}, nothing, nil)
		id := enqueue(t, dead, app, Job{Kind: "a", GroupKey: "g"})
		other := enqueue(t, dead, app, Job{Kind: "a", GroupKey: "g"})
		r, err := first(dead.claim(time.Now(), 1))
		if err != nil || r.ID != min(id, other) {
			t.Fatal(r, err)
		}
		id, other = r.ID, max(id, other)
		for _, s := range []string{"one", "two"} {
			if err := r.Step(s, func(ctxT) (any, error) { calls[s]++; return nil, nil }, nil); err != nil {
				t.Fatal(err)
			}
		}
		q := New(app, Config{Log: quiet})
		q.alone = false
		q.Handle("a", Options{}, handler, nil)
		start(t, q)
		time.Sleep(29 * time.Second)
		synctest.Wait()
		wantState(t, app, id, Running) // its lease is respected
		wantState(t, app, other, Ready)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if j := wantState(t, app, id, Done); j.Attempt() != 2 {
			t.Fatalf("attempt %d", j.Attempt())
		}
		wantState(t, app, other, Done)
		if calls["one"] != 2 || calls["two"] != 2 || calls["three"] != 2 { // once per job
			t.Fatalf("%v", calls)
		}
		if err := dead.settle(r, Permanent(errors.New("late")), false); !errors.Is(err, ErrLeaseLost) {
			t.Fatalf("the dead worker still had a say: %v", err)
		}
	})
}

func TestAProcessThatIsAloneTakesOrphansBackAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		dead := New(app, Config{Log: quiet})
		dead.Handle("a", Options{}, nothing, nil)
		id := enqueue(t, dead, app, Job{Kind: "a"})
		if r, err := first(dead.claim(time.Now(), 1)); r == nil || err != nil {
			t.Fatal(r, err)
		}
		q := New(app, Config{Log: quiet})
		q.Handle("a", Options{}, nothing, nil)
		began := time.Now()
		start(t, q)
		synctest.Wait()
		if wantState(t, app, id, Done); time.Since(began) > 0 {
			t.Fatalf("after %s", time.Since(began))
		}
	})
}

func TestAJobThatKillsItsProcessEndsAsDead(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		undone := 0
		q := New(app, Config{Log: quiet})
		q.Handle("a", Options{MaxAttempts: 3}, nothing, func(core.App, *Run, error) error { undone++; return nil })
		id := enqueue(t, q, app, Job{Kind: "a"})
		for range 3 {
			if r, err := first(q.claim(time.Now(), 1)); r == nil || err != nil {
				t.Fatal(r, err)
			}
			time.Sleep(31 * time.Second)
			q.reap()
		}
		if wantState(t, app, id, Dead); undone != 1 {
			t.Fatalf("undone %d", undone)
		}
	})
}

func TestALongJobKeepsItsLease(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		var running, most atomic.Int32
		handler := func(ctx ctxT, _ *Run) error {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(5 * time.Minute):
				return nil
			}
		}
		var qs []*Queue
		for range 2 { // two processes on one database
			q := New(app, Config{Log: quiet, LeaseFor: 10 * time.Second})
			q.alone = false
			q.Handle("a", Options{}, handler, nil)
			start(t, q)
			qs = append(qs, q)
		}
		id := enqueue(t, qs[0], app, Job{Kind: "a"})
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if j := wantState(t, app, id, Done); j.Attempt() != 1 || most.Load() != 1 {
			t.Fatalf("attempt %d, at once %d", j.Attempt(), most.Load())
		}
	})
}

func TestAWorkerThatLostItsLeaseIsInterrupted(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet, LeaseFor: 10 * time.Second})
		causes := make(chan error, 2)
		q.Handle("a", Options{}, func(ctx ctxT, r *Run) error {
			if r.Attempt > 1 {
				return nil
			}
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return r.Step("late", func(ctxT) (any, error) { t.Error("a step ran without a lease"); return nil, nil }, nil)
		}, nil)
		start(t, q)
		id := enqueue(t, q, app, Job{Kind: "a"})
		synctest.Wait()
		if _, err := app.NonconcurrentDB().NewQuery("UPDATE jobs SET lease_token = 'other'").Execute(); err != nil {
			t.Fatal(err)
		}
		if cause := <-causes; !errors.Is(cause, ErrLeaseLost) {
			t.Fatal(cause)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		wantState(t, app, id, Done)
	})
}

// The database is away for a while: a worker goes on for as long as its lease is surely its own.
func TestAWorkerThatCannotReachTheDatabase(t *testing.T) {
	for _, c := range []struct {
		name string
		away time.Duration
		lost bool
	}{
		{"for less than its lease it goes on", 5 * time.Second, false},
		{"for longer it ends, somebody else may have begun", 13 * time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, app core.App) {
				q := New(app, Config{Log: quiet, LeaseFor: 9 * time.Second})
				causes := make(chan error, 2)
				began, ended := time.Now(), time.Time{}
				q.Handle("a", Options{}, func(ctx ctxT, r *Run) error {
					if r.Attempt == 1 {
						select {
						case <-ctx.Done():
							ended = time.Now()
							causes <- context.Cause(ctx)
						case <-time.After(time.Minute):
							causes <- nil
						}
					}
					return nil
				}, nil)
				start(t, q)
				id := enqueue(t, q, app, Job{Kind: "a"})
				rename := func(from, to string) {
					if _, err := app.NonconcurrentDB().NewQuery("ALTER TABLE " + from + " RENAME TO " + to).Execute(); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(30*time.Second + time.Millisecond)
				rename("jobs", "away")
				time.Sleep(c.away)
				rename("away", "jobs")
				if cause := <-causes; errors.Is(cause, ErrLeaseLost) != c.lost {
					t.Fatalf("ended with %v", cause)
				}
				if d := ended.Sub(began); c.lost && d > 39*time.Second { // the last heartbeat was after 30 s
					t.Fatalf("ended after %s, when the lease had long run out", d)
				}
				synctest.Wait()
				time.Sleep(20 * time.Second)
				synctest.Wait()
				wantState(t, app, id, Done)
			})
		})
	}
}

func TestAnAttemptThatTakesTooLongIsInterrupted(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet})
		q.Handle("a", Options{MaxAttempts: 1, Timeout: time.Minute}, func(ctx ctxT, r *Run) error { <-ctx.Done(); return ctx.Err() }, nil)
		start(t, q)
		id := enqueue(t, q, app, Job{Kind: "a"})
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if j := wantState(t, app, id, Dead); !strings.Contains(j.LastError(), ErrTimeout.Error()) {
			t.Fatalf("%q", j.LastError())
		}
	})
}

func TestCancel(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		undone := 0
		causes := make(chan error, 1)
		q := New(app, Config{Log: quiet})
		q.Handle("a", Options{}, func(ctx ctxT, _ *Run) error { <-ctx.Done(); causes <- context.Cause(ctx); return ctx.Err() },
			func(core.App, *Run, error) error { undone++; return nil })
		start(t, q)
		id := enqueue(t, q, app, Job{Kind: "a", UniqueKey: "u"})
		synctest.Wait()
		began := time.Now()
		if err := q.Cancel(app, id, "the customer changed his mind"); err != nil {
			t.Fatal(err)
		}
		if cause := <-causes; !errors.Is(cause, ErrCancelled) || time.Since(began) > 0 {
			t.Fatal(cause, time.Since(began))
		}
		synctest.Wait()
		j := wantState(t, app, id, Cancelled)
		if undone != 1 || !strings.Contains(j.LastError(), "changed his mind") || View(j)["error"] != "It was cancelled." {
			t.Fatalf("undone %d, %v", undone, View(j))
		}
		if err := q.Cancel(app, id, "again"); !errors.Is(err, ErrState) {
			t.Fatal(err)
		}
	})
}

// The wish reaches a worker in another process with its next heartbeat.
func TestSupersedeReachesAnotherProcess(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		panel2 := New(app, Config{Log: quiet, LeaseFor: 9 * time.Second})
		panel2.Handle("a", Options{}, func(ctx ctxT, _ *Run) error { <-ctx.Done(); return ctx.Err() }, nil)
		start(t, panel2)
		panel1 := New(app, Config{Log: quiet})
		panel1.Handle("a", Options{}, nothing, nil)
		id := enqueue(t, panel2, app, Job{Kind: "a", Subject: "srv"})
		later := enqueue(t, panel1, app, Job{Kind: "a", Subject: "srv", RunAt: time.Now().Add(time.Hour)})
		synctest.Wait()
		if n, err := panel1.SupersedeAll(app, "srv", "restart came"); err != nil || n != 2 {
			t.Fatal(n, err)
		}
		wantState(t, app, later, Superseded)
		time.Sleep(4 * time.Second)
		synctest.Wait()
		wantState(t, app, id, Superseded)
	})
}

func TestStopDrains(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet, Grace: 10 * time.Second})
		q.Handle("short", Options{}, func(ctx ctxT, _ *Run) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(5 * time.Second):
				return nil
			}
		}, nil)
		q.Handle("long", Options{MaxAttempts: 1}, func(ctx ctxT, _ *Run) error {
			<-ctx.Done()
			return ctx.Err()
		}, nil)
		q.Start(t.Context())
		q.Start(t.Context())
		short, long := enqueue(t, q, app, Job{Kind: "short"}), enqueue(t, q, app, Job{Kind: "long"})
		synctest.Wait()
		began := time.Now()
		go q.Stop()
		synctest.Wait()
		late := enqueue(t, q, app, Job{Kind: "short"})
		q.Stop()
		if d := time.Since(began); d != 10*time.Second {
			t.Fatalf("drained in %s", d)
		}
		wantState(t, app, short, Done)
		wantState(t, app, late, Ready)
		if j := wantState(t, app, long, Ready); j.Attempt() != 0 || j.LastError() != "" {
			t.Fatalf("attempt %d, %q", j.Attempt(), j.LastError())
		}
		q.Stop()
		New(app, Config{}).Stop() // never started
	})
}

func TestTheEndOfTheContextDrainsToo(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet})
		q.Handle("a", Options{}, func(ctx ctxT, _ *Run) error { time.Sleep(3 * time.Second); return ctx.Err() }, nil)
		ctx, cancel := context.WithCancel(t.Context())
		q.Start(ctx)
		id := enqueue(t, q, app, Job{Kind: "a"})
		synctest.Wait()
		cancel()
		q.Stop()
		wantState(t, app, id, Done)
	})
}

func TestWorkersAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet, Workers: 3})
		var running, most atomic.Int32
		q.Handle("a", Options{}, func(ctxT, *Run) error {
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(time.Second)
			running.Add(-1)
			return nil
		}, nil)
		for range 9 {
			enqueue(t, q, app, Job{Kind: "a"})
		}
		began := time.Now()
		start(t, q)
		time.Sleep(3100 * time.Millisecond)
		synctest.Wait()
		if h, err := q.Health(app); err != nil || h.States[Done] != 9 || most.Load() != 3 || h.Kinds["a"].Done != 9 || h.Kinds["a"].Busy != 9*time.Second {
			t.Fatalf("%+v %v, at once %d, %s", h, err, most.Load(), time.Since(began))
		}
	})
}

// Of a kind that waits for others, as many run at once as may, and the other workers are there for the rest.
func TestAKindLeavesWorkersToOthers(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet, Workers: 4})
		var slow, most, quick atomic.Int64
		release := make(chan struct{})
		q.Handle("slow", Options{AtOnce: 2}, func(ctxT, *Run) error {
			most.Store(max(most.Load(), slow.Add(1)))
			defer slow.Add(-1)
			<-release
			return nil
		}, nil)
		q.Handle("quick", Options{}, func(ctxT, *Run) error { quick.Add(1); return nil }, nil)
		for range 10 {
			enqueue(t, q, app, Job{Kind: "slow", Priority: 9})
		}
		for range 5 {
			enqueue(t, q, app, Job{Kind: "quick"})
		}
		start(t, q)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if slow.Load() != 2 || quick.Load() != 5 {
			t.Errorf("%d slow ones run beside each other and %d of 5 others are done", slow.Load(), quick.Load())
		}
		close(release)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n, err := app.CountRecords(collections.Jobs, dbx.HashExp{"state": Done}); err != nil || n != 15 || most.Load() != 2 {
			t.Errorf("%d of 15 are done, %d slow ones at once: %v", n, most.Load(), err)
		}
	})
}

func TestHealthSeesWhatWaits(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet})
		q.Handle("a", Options{}, nothing, nil)
		enqueue(t, q, app, Job{Kind: "a"})
		if r, err := first(q.claim(time.Now(), 1)); r == nil || err != nil {
			t.Fatal(r, err)
		}
		enqueue(t, q, app, Job{Kind: "a"})
		enqueue(t, q, app, Job{Kind: "a", RunAt: time.Now().Add(time.Hour)})
		time.Sleep(time.Minute)
		h, err := q.Health(app)
		if err != nil || h.OldestReady != time.Minute || h.Expired != 1 || h.States[Ready] != 2 || h.States[Running] != 1 {
			t.Fatalf("%+v %v", h, err)
		}
	})
}

func TestAFailedUndoIsTriedAgainLater(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		var tries []time.Time
		q := New(app, Config{Log: quiet})
		q.Handle("a", Options{MaxAttempts: 1}, func(ctxT, *Run) error { return errors.New("x") }, func(core.App, *Run, error) error {
			if tries = append(tries, time.Now()); len(tries) < 3 {
				return errors.New("no")
			}
			return nil
		})
		start(t, q)
		id := enqueue(t, q, app, Job{Kind: "a"})
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if j := wantState(t, app, id, Running); !strings.Contains(j.LastError(), "undo") {
			t.Fatalf("%q", j.LastError())
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		wantState(t, app, id, Dead)
		if len(tries) != 3 || tries[1].Sub(tries[0]) < undoAgain {
			t.Fatalf("%v", tries)
		}
	})
}

func TestProgressIsThrottledAndLastIsKept(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		var revs []int64
		var texts []string
		q := New(app, Config{Log: quiet, Changed: func(_ core.App, j *collections.Job) {
			revs = append(revs, j.Rev())
			if p, ok := View(j)["progress"].(struct {
				Step    string `json:"step"`
				Percent int    `json:"percent"`
				Message string `json:"message"`
			}); ok {
				texts = append(texts, fmt.Sprint(p.Step, p.Percent))
			}
		}})
		q.Handle("a", Options{}, func(_ ctxT, r *Run) error {
			for i := range 100 {
				r.Progress("pull", i, "Downloading")
				time.Sleep(10 * time.Millisecond)
			}
			r.Progress("start", 150, "Starting")
			r.Progress("start", 100, "Started")
			return nil
		}, nil)
		start(t, q)
		id := enqueue(t, q, app, Job{Kind: "a"})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		j := wantState(t, app, id, Done)
		if n := len(texts); n < 4 || n > 8 || texts[0] != "pull0" || texts[n-1] != "start100" {
			t.Fatalf("%v", texts)
		}
		if !slices.IsSorted(revs) || len(slices.Compact(slices.Clone(revs))) != len(revs) || revs[len(revs)-1] != j.Rev() {
			t.Fatalf("revs %v", revs)
		}
	})
}

// Without a fake clock: eight claimers race on one database.
func TestEightClaimersRunEveryJobOnce(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	const jobs, groups, claimers = 160, 10, 8
	qs := make([]*Queue, claimers)
	for i := range qs {
		qs[i] = New(app, Config{Log: quiet})
		qs[i].Handle("a", Options{}, nothing, nil)
	}
	for i := range jobs {
		enqueue(t, qs[0], app, Job{Kind: "a", GroupKey: fmt.Sprint("g", i%groups)})
	}
	var mu sync.Mutex
	ran, held, left := map[string]int{}, map[string]bool{}, jobs
	var wg sync.WaitGroup
	for _, q := range qs {
		wg.Go(func() {
			for {
				mu.Lock()
				over := left == 0
				mu.Unlock()
				if over {
					return
				}
				r, err := first(q.claim(time.Now(), 1))
				if err != nil {
					t.Error(err)
					return
				}
				if r == nil {
					continue // every group is busy
				}
				group := r.Job().GroupKey()
				mu.Lock()
				if held[group] {
					t.Errorf("two of %s at once", group)
				}
				held[group] = true
				ran[r.ID]++
				left--
				mu.Unlock()
				if err := r.Step("s", func(ctxT) (any, error) { return nil, nil }, nil); err != nil {
					t.Error(err)
				}
				mu.Lock()
				held[group] = false
				mu.Unlock()
				if err := q.settle(r, nil, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for id, n := range ran {
		if n != 1 {
			t.Errorf("%s ran %d times", id, n)
		}
	}
	if n, _ := app.CountRecords(collections.Jobs, dbx.HashExp{"state": Done}); n != jobs {
		t.Errorf("%d of %d are done", n, jobs)
	}
}

func TestManyEnqueuersOfOneKeyMakeOneJob(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	q := New(app, Config{Log: quiet})
	q.Handle("a", Options{}, nothing, nil)
	var made, dup atomic.Int32
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			id, err := q.Enqueue(app, Job{Kind: "a", UniqueKey: "u"})
			ids[i] = id
			switch {
			case err == nil:
				made.Add(1)
			case errors.Is(err, ErrDuplicate):
				dup.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 || dup.Load() != 7 || len(slices.Compact(ids)) != 1 {
		t.Fatalf("made %d, duplicates %d, %v", made.Load(), dup.Load(), ids)
	}
}

func TestRegistrationMistakesPanic(t *testing.T) {
	t.Parallel()
	for name, fn := range map[string]func(q *Queue){
		"a kind twice":           func(q *Queue) { q.Handle("a", Options{}, nothing, nil); q.Handle("a", Options{}, nothing, nil) },
		"a kind without handler": func(q *Queue) { q.Handle("a", Options{}, nil, nil) },
		"a bad cron spec":        func(q *Queue) { q.Cron("x", "61 * * * *", Skip, nil) },
		"a cron without ticks":   func(q *Queue) { q.Cron("x", "@every 5m", Skip, nil) },
		"a cron in a time zone":  func(q *Queue) { q.Cron("x", "TZ=Europe/Oslo 0 * * * *", Skip, nil) },
		"a bad cron name":        func(q *Queue) { q.Cron("X Y", "@hourly", Skip, nil) },
		"a cron twice":           func(q *Queue) { q.Cron("x", "@hourly", Skip, nil); q.Cron("x", "@hourly", Skip, nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was taken", name)
				}
			}()
			fn(New(nil, Config{}))
		}()
	}
}

// The locks of a job's end are those of its undo, which whole rooms wait for. An attempt that ends well,
// or waits, has nothing to undo and takes none of them.
func TestOnlyAJobThatFailsForGoodTakesTheLocksOfItsEnd(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		taken, waited := map[string]int{}, false
		q := New(app, Config{Log: quiet})
		options := Options{MaxAttempts: 2, BackoffMin: time.Second, UndoLocks: func(j *collections.Job) []collections.Lock {
			taken[j.Subject()]++
			return []collections.Lock{"alloc"}
		}}
		q.Handle("a", options, func(_ ctxT, r *Run) error {
			switch r.Job().Subject() {
			case "waits":
				if waited = !waited; waited {
					return Wait(time.Second)
				}
			case "fails":
				return errors.New("no")
			}
			return nil
		}, func(tx core.App, r *Run, _ error) error {
			return collections.Tx(tx, []collections.Lock{"alloc"}, func(core.App) error { return nil })
		})
		start(t, q)
		ids := map[string]string{}
		for _, subject := range []string{"ends well", "waits", "fails"} {
			ids[subject] = enqueue(t, q, app, Job{Kind: "a", Subject: subject})
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		wantState(t, app, ids["ends well"], Done)
		wantState(t, app, ids["waits"], Done)
		wantState(t, app, ids["fails"], Dead)
		if taken["ends well"]+taken["waits"] != 0 || taken["fails"] != 1 {
			t.Errorf("locks were taken %v", taken)
		}
	})
}
