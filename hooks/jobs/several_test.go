package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/cluster"
)

// several starts n instances on one PostgreSQL database; prepare registers kinds and crons.
func several(t *testing.T, n int, prepare func(i int, q *Queue)) ([]*Queue, []*collectionstest.Instance) {
	t.Helper()
	apps := collectionstest.Several(t, n)
	out := make([]*Queue, n)
	for i, app := range apps {
		c, err := cluster.New(app, cluster.Config{Database: app.Database, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		// a poll and leases that are too slow to be what makes a test pass
		out[i] = New(app, Config{Cluster: c, PollInterval: collectionstest.Patience, LeaseFor: 2 * collectionstest.Patience, Log: quiet})
		prepare(i, out[i])
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Stop)
		start(t, out[i])
	}
	return out, apps
}

// 3 instances with 8 workers each: every job once, never two of a group, one of a unique key.
func TestSeveralInstancesRunEachJobOnce(t *testing.T) {
	t.Parallel()
	const instances, jobs, groups = 3, 150, 10
	var mu sync.Mutex
	runs, busy, by := map[string]int{}, map[string]int{}, map[int]int{}
	qs, apps := several(t, instances, func(i int, q *Queue) {
		q.Handle("a", Options{}, func(_ ctxT, r *Run) error {
			group := r.Job().GroupKey()
			mu.Lock()
			runs[r.ID]++
			by[i]++
			busy[group]++
			if group != "" && busy[group] > 1 {
				t.Errorf("two jobs of %s at once", group)
			}
			mu.Unlock()
			err := r.Step("work", func(ctxT) (any, error) { return nil, nil }, nil)
			mu.Lock()
			defer mu.Unlock()
			busy[group]--
			return err
		}, nil)
	})
	var wg sync.WaitGroup
	var ids sync.Map
	began := time.Now()
	for i, q := range qs {
		wg.Go(func() {
			for k := range jobs / instances {
				job := Job{Kind: "a", UniqueKey: fmt.Sprintf("u%d", k)} // every instance wants the same ones
				if k%2 == 0 {
					job = Job{Kind: "a", GroupKey: fmt.Sprintf("g%d", k%groups)}
				}
				id, err := q.Enqueue(apps[i], job)
				if err != nil && !errors.Is(err, ErrDuplicate) {
					t.Error(err)
				}
				ids.Store(id, true)
			}
		})
	}
	wg.Wait()
	done := func() bool {
		n, err := apps[0].CountRecords(collections.Jobs)
		d, err2 := apps[0].CountRecords(collections.Jobs, dbState(Done))
		return err == nil && err2 == nil && n == d
	}
	collectionstest.Eventually(t, "all are done", done)
	mu.Lock()
	defer mu.Unlock()
	ids.Range(func(id, _ any) bool {
		if runs[id.(string)] != 1 {
			t.Errorf("job %v ran %d times", id, runs[id.(string)])
		}
		return true
	})
	t.Logf("%d jobs of 3 instances × 8 workers in %s, by instance %v", len(runs), time.Since(began).Round(time.Millisecond), by)
}

func TestAJobOnAnotherInstanceIsInterruptedAtOnce(t *testing.T) {
	t.Parallel()
	running := make(chan int, 1)
	ended := make(chan error, 1)
	qs, apps := several(t, 2, func(i int, q *Queue) {
		q.Handle("a", Options{}, func(ctx ctxT, _ *Run) error {
			running <- i
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return ctx.Err()
		}, nil)
	})
	id := enqueue(t, qs[0], apps[0], Job{Kind: "a"})
	other := 1 - <-running
	began := time.Now()
	if err := qs[other].Cancel(apps[other], id, "not wanted"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrCancelled) {
		t.Fatalf("it ended by %v", err)
	}
	t.Logf("interrupted on the other instance after %s", time.Since(began).Round(time.Millisecond))
	collectionstest.Eventually(t, "it is cancelled", func() bool { return find(t, apps[0], id).State() == Cancelled })
}

// What a killed process leaves: its row in the list, no lock of it, and a job with a lease.
func TestTheJobsOfADeadInstanceReturnAtOnce(t *testing.T) {
	t.Parallel()
	qs, apps := several(t, 2, func(_ int, q *Queue) { q.Handle("a", Options{BackoffMin: time.Millisecond}, nothing, nil) })
	const dead = "dead01234567890"
	app := apps[0]
	var id string
	err := collections.Tx(app, nil, func(tx core.App) error {
		row, err := collections.NewPanelInstance(tx)
		if err != nil {
			return err
		}
		row.Id = dead
		row.SetStarted(time.Now())
		row.SetSeen(time.Now())
		if err := collections.PermitFor("cluster").Save(tx, row); err != nil {
			return err
		}
		if id, err = qs[0].Enqueue(tx, Job{Kind: "a", RunAt: time.Now().Add(time.Hour)}); err != nil {
			return err
		}
		_, err = tx.DB().Update(collections.Jobs, dbx.Params{"state": Running, "attempt": 1, "lease_token": newToken(dead), "lease_until": collections.Stamp(time.Now().Add(time.Hour))}, dbID(id)).Execute()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	collectionstest.Eventually(t, "it is ready again", func() bool { return find(t, app, id).State() != Running })
	t.Logf("the lease of a dead instance was back after %s", time.Since(began).Round(time.Millisecond))
	if j := find(t, app, id); j.Attempt() > 2 {
		t.Fatalf("attempt %d", j.Attempt())
	}
}

// An instance that the others held for dead finds that its jobs are theirs.
func TestAnInstanceThatWasHeldForDeadStopsItsJobs(t *testing.T) {
	t.Parallel()
	running, ended := make(chan string, 1), make(chan error, 1)
	qs, apps := several(t, 1, func(_ int, q *Queue) {
		q.Handle("a", Options{}, func(ctx ctxT, r *Run) error {
			if r.Attempt > 1 {
				return nil
			}
			running <- r.ID
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return ctx.Err()
		}, nil)
	})
	enqueue(t, qs[0], apps[0], Job{Kind: "a"})
	id := <-running
	if err := collections.Tx(apps[0], nil, func(tx core.App) error { return qs[0].release(tx, qs[0].cluster.ID()) }); err != nil {
		t.Fatal(err)
	}
	collectionstest.Eventually(t, "its lease is gone", func() bool { return find(t, apps[0], id).LeaseToken() == "" })
	qs[0].verify(false) // it finds the attempt, or the next attempt began here and interrupted it
	select {
	case err := <-ended:
		if !errors.Is(err, ErrLeaseLost) {
			t.Fatalf("it ended by %v", err)
		}
	case <-time.After(qs[0].cfg.LeaseFor / 4): // by itself it would ask again after a third
		t.Fatal("it goes on beside the next attempt")
	}
}

func TestATickFiresOnceAcrossInstances(t *testing.T) {
	t.Parallel()
	due := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	fired := map[time.Time]int{}
	qs, _ := several(t, 3, func(_ int, q *Queue) {
		q.Cron("hourly", "0 * * * *", CatchUp, func(tx core.App, at time.Time) error {
			collections.AfterCommit(tx, func() { mu.Lock(); defer mu.Unlock(); fired[at]++ })
			return nil
		})
	})
	leads := func() (n int) {
		for _, q := range qs {
			if q.cluster.Leads(taskCron) {
				n++
			}
		}
		return n
	}
	collectionstest.Eventually(t, "one leads", func() bool { return leads() == 1 })
	refused := 0
	for range 3 { // whoever thinks that it is due
		var wg sync.WaitGroup
		for _, q := range qs {
			wg.Go(func() {
				if err := q.fire(q.crons[0], due); errors.Is(err, cluster.ErrNotLeading) {
					mu.Lock()
					defer mu.Unlock()
					refused++
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		due = due.Add(time.Hour)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(fired) != 3 || leads() != 1 {
		t.Fatalf("%d ticks fired, %d lead, %d were refused", len(fired), leads(), refused)
	}
	for at, n := range fired {
		if n != 1 {
			t.Errorf("the tick of %s fired %d times", at, n)
		}
	}
}
