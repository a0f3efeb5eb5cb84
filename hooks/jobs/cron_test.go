package jobs

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// ticks collects what fired.
type ticks struct {
	mu  sync.Mutex
	due []time.Time
}

func (s *ticks) add(_ core.App, due time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = append(s.due, due)
	return nil
}

func (s *ticks) minutes() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []int
	for _, d := range s.due {
		out = append(out, int(d.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))/time.Minute))
	}
	return out
}

func TestCronFiresOncePerTickAcrossProcesses(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		var s ticks
		for range 3 {
			q := New(app, Config{Log: quiet})
			q.Cron("sweep", "*/10 * * * *", Skip, s.add)
			start(t, q)
		}
		time.Sleep(61 * time.Minute)
		synctest.Wait()
		if got := s.minutes(); !slices.Equal(got, []int{10, 20, 30, 40, 50, 60}) {
			t.Fatal(got)
		}
	})
}

func TestCronAfterDowntime(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy Policy
		down   time.Duration
		want   []int
	}{
		{"CatchUp fires every missed hour, oldest first", CatchUp, 3*time.Hour + 30*time.Minute, []int{60, 120, 180, 240, 300}},
		{"Skip leaves them out", Skip, 3*time.Hour + 30*time.Minute, []int{60, 300}},
		{"Skip fires one that is a few seconds late", Skip, 2*time.Hour - 30*time.Minute + 20*time.Second, []int{60, 180, 240, 300}},
		{"CatchUp has a bound", CatchUp, 1200 * time.Hour, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, app core.App) {
				var s ticks
				run := func(d time.Duration) {
					q := New(app, Config{Log: quiet})
					q.Cron("usage", "0 * * * *", c.policy, s.add)
					q.Start(t.Context())
					time.Sleep(d)
					synctest.Wait()
					q.Stop()
				}
				run(90 * time.Minute) // fires at 60
				time.Sleep(c.down)
				run(max(0, 5*time.Hour+time.Minute-90*time.Minute-c.down) + time.Second)
				got := s.minutes()
				if c.want == nil {
					if len(got) < maxCatchUp || len(got) > maxCatchUp+3 || got[1] <= 120 || !slices.IsSorted(got) {
						t.Fatalf("%d ticks, the second at %d", len(got), got[1])
					}
					return
				}
				if !slices.Equal(got, c.want) {
					t.Fatalf("got %v, want %v", got, c.want)
				}
			})
		})
	}
}

func TestAFirstStartCatchesUpOnNothingAndIsRemembered(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		var s ticks
		q := New(app, Config{Log: quiet})
		q.Cron("usage", "@hourly", CatchUp, s.add)
		q.Start(t.Context())
		time.Sleep(time.Minute)
		synctest.Wait()
		q.Stop()
		if len(s.minutes()) != 0 {
			t.Fatal(s.minutes())
		}
		time.Sleep(2 * time.Hour) // down before it ever fired
		q = New(app, Config{Log: quiet})
		q.Cron("usage", "@hourly", CatchUp, s.add)
		start(t, q)
		synctest.Wait()
		if got := s.minutes(); !slices.Equal(got, []int{60, 120}) {
			t.Fatal(got)
		}
	})
}

func TestAFailedTickIsRolledBackAndTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet})
		q.Handle("work", Options{}, nothing, nil)
		var tries []time.Time
		q.Cron("usage", "@hourly", CatchUp, func(tx core.App, due time.Time) error {
			tries = append(tries, time.Now())
			if _, err := q.Enqueue(tx, Job{Kind: "work", Subject: due.Format(time.RFC3339)}); err != nil {
				return err
			}
			if len(tries) < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		start(t, q)
		time.Sleep(62 * time.Minute)
		synctest.Wait()
		js, err := collections.Every[collections.Job](app, collections.Jobs, "", 0)
		if err != nil || len(js) != 1 || js[0].Subject() != "2000-01-01T01:00:00Z" || js[0].State() != Done {
			t.Fatalf("%d jobs, %v", len(js), err)
		}
		if len(tries) != 3 || tries[2].Sub(tries[0]) != 3*time.Second {
			t.Fatalf("%v", tries)
		}
	})
}

// 02:30 neither happens twice nor is left out where clocks change: ticks are UTC.
func TestTicksAreUTC(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		var s ticks
		q := New(app, Config{Log: quiet, PollInterval: time.Hour})
		q.Cron("nightly", "30 2 * * *", Skip, s.add)
		oslo := time.FixedZone("Europe/Oslo", 3600)
		for at, n := time.Date(2000, 3, 20, 0, 0, 0, 0, oslo), 0; n < 15; n++ { // over the spring change
			next := q.crons[0].schedule.Next(at.UTC())
			if next.Location() != time.UTC || next.Hour() != 2 || next.Minute() != 30 || n > 0 && next.Sub(at) != 24*time.Hour {
				t.Fatalf("after %s comes %s", at, next)
			}
			at = next
		}
		start(t, q)
		time.Sleep(4 * 24 * time.Hour)
		synctest.Wait()
		if got := s.minutes(); !slices.Equal(got, []int{150, 1590, 3030, 4470}) {
			t.Fatal(got)
		}
		n, err := q.Prune(app, time.Now(), 1000)
		if err != nil || n != 0 {
			t.Fatal(n, err)
		}
		if left, _ := app.CountRecords(collections.CronRuns); left != 1 {
			t.Fatalf("%d ticks are kept, want the newest", left)
		}
	})
}

func TestPruneKeepsWhatIsNotOver(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		q := New(app, Config{Log: quiet})
		q.Handle("a", Options{MaxAttempts: 1}, func(_ ctxT, r *Run) error {
			if err := r.Step("s", func(ctxT) (any, error) { return nil, nil }, nil); err != nil {
				return err
			}
			if r.Job().Subject() == "bad" {
				return errors.New("x")
			}
			return nil
		}, nil)
		start(t, q)
		for i := range 5 {
			enqueue(t, q, app, Job{Kind: "a", Subject: fmt.Sprint(i)})
		}
		dead := enqueue(t, q, app, Job{Kind: "a", Subject: "bad"})
		later := enqueue(t, q, app, Job{Kind: "a", RunAt: time.Now().Add(time.Hour)})
		time.Sleep(time.Minute)
		synctest.Wait()
		if n, err := q.Prune(app, time.Now().Add(-time.Hour), 100); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		for _, want := range []int{3, 2, 0} {
			if n, err := q.Prune(app, time.Now(), 3); n != want || err != nil {
				t.Fatal(n, err)
			}
		}
		wantState(t, app, dead, Dead)
		wantState(t, app, later, Ready)
		if n, _ := app.CountRecords(collections.JobSteps); n != 1 {
			t.Fatalf("%d steps are left, want the dead job's", n)
		}
	})
}
