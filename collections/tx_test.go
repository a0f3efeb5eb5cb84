package collections_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
)

func sql(t testing.TB, app core.App, text string) {
	t.Helper()
	if _, err := app.NonconcurrentDB().NewQuery(text).Execute(); err != nil {
		t.Fatal(err)
	}
}

func count(app core.App, text string) (n int, err error) {
	err = app.NonconcurrentDB().NewQuery(text).Row(&n)
	return n, err
}

// Look, then write, by eight writers: the last owner stays and the quota holds, on either database.
func TestWhatWasLookedAtHoldsUnderEightWriters(t *testing.T) {
	t.Parallel()
	const writers, rounds, quota = 8, 10, 5
	app := newApp(t)
	sql(t, app, "CREATE TABLE `owners` (`id` TEXT PRIMARY KEY NOT NULL)")
	sql(t, app, "CREATE TABLE `taken` (`id` TEXT PRIMARY KEY NOT NULL)")
	locks := []collections.Lock{"tenant:acme", "audit:acme", "tenant:acme"}
	leave := func(i int) error {
		return collections.Tx(app, locks, func(tx core.App) error {
			if n, err := count(tx, "SELECT COUNT(*) FROM `owners`"); err != nil || n <= 1 {
				return err
			}
			_, err := tx.NonconcurrentDB().Delete("owners", dbx.HashExp{"id": fmt.Sprint(i)}).Execute()
			return err
		})
	}
	take := func(i int) error {
		return collections.Tx(app, locks, func(tx core.App) error {
			return collections.Tx(tx, locks[:1], func(tx core.App) error { // joins
				if n, err := count(tx, "SELECT COUNT(*) FROM `taken`"); err != nil || n >= quota {
					return err
				}
				_, err := tx.NonconcurrentDB().Insert("taken", dbx.Params{"id": fmt.Sprint(i)}).Execute()
				return err
			})
		})
	}
	for round := range rounds {
		sql(t, app, "DELETE FROM `owners`")
		sql(t, app, "DELETE FROM `taken`")
		for i := range writers {
			sql(t, app, fmt.Sprintf("INSERT INTO `owners` (`id`) VALUES ('%d')", i))
		}
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				if err := leave(i); err != nil {
					t.Error(err)
				}
				if err := take(i); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		owners, err1 := count(app, "SELECT COUNT(*) FROM `owners`")
		taken, err2 := count(app, "SELECT COUNT(*) FROM `taken`")
		if owners != 1 || taken != quota || err1 != nil || err2 != nil {
			t.Fatalf("round %d: %d owners, %d of %d taken, %v %v", round, owners, taken, quota, err1, err2)
		}
	}
}

func add(tx core.App, id string) error {
	_, err := tx.NonconcurrentDB().Update("pair", dbx.Params{"n": dbx.NewExp("n + 1")}, dbx.HashExp{"id": id}).Execute()
	return err
}

// Two transactions that change rows in opposite order wait for each other on PostgreSQL. One is ended
// and run again, and both are done.
func TestATransactionThatWasEndedForAnotherIsRunAgain(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	sql(t, app, "CREATE TABLE `pair` (`id` TEXT PRIMARY KEY NOT NULL, `n` NUMERIC DEFAULT 0 NOT NULL)")
	sql(t, app, "INSERT INTO `pair` (`id`) VALUES ('a'), ('b')")
	var runs, holding atomic.Int64
	both := make(chan struct{}) // closed when both hold their first row
	var wg sync.WaitGroup
	for _, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
		wg.Go(func() {
			err := collections.Tx(app, nil, func(tx core.App) error {
				first := runs.Add(1) <= 2
				if err := add(tx, order[0]); err != nil {
					return err
				}
				if first && collectionstest.OnPostgres() { // SQLite lets one in at a time
					if holding.Add(1) == 2 {
						close(both)
					}
					<-both
				}
				return add(tx, order[1])
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if collectionstest.OnPostgres() && runs.Load() < 3 {
		t.Error("nothing was run again: the two did not meet")
	}
	if n, err := count(app, "SELECT SUM(n) FROM `pair`"); n != 4 || err != nil {
		t.Errorf("%d changes, %v", n, err)
	}
	t.Logf("%d runs of two transactions", runs.Load())
}

// A lock that is seldom needed is not waited for by those who do not need it, and whoever does begins anew
// with it: on either database, because the order of locks is checked on both.
func TestARareLockIsTakenOnlyByWhoAsksForIt(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	sql(t, app, "CREATE TABLE `written` (`id` TEXT NOT NULL)")
	locks, rare := []collections.Lock{"server:a"}, []collections.Lock{"alloc", "incidents"}
	ask := func(tx core.App, l collections.Lock) error {
		return collections.Tx(tx, []collections.Lock{l}, func(core.App) error { return nil })
	}
	for _, c := range []struct {
		name  string
		need  collections.Lock
		runs  int
		fails bool
	}{
		{"one that needs none of them", "server:a", 1, false},
		{"one that needs one", "incidents", 2, false},
		{"one that needs what is not among them", "audit:x", 2, true},
	} {
		runs := 0
		err := collections.Sparing(locks, rare, func(locks []collections.Lock) error {
			return collections.Tx(app, locks, func(tx core.App) error {
				runs++
				if _, err := tx.NonconcurrentDB().Insert("written", dbx.Params{"id": string(c.need)}).Execute(); err != nil {
					return err
				}
				return ask(tx, c.need)
			})
		})
		if runs != c.runs || errors.Is(err, collections.ErrLockOrder) != c.fails {
			t.Errorf("%s: %d runs, %v", c.name, runs, err)
		}
		if n, err := count(app, "SELECT COUNT(*) FROM `written` WHERE `id` = '"+string(c.need)+"'"); err != nil || (n == 1) == c.fails {
			t.Errorf("%s: written %d times, %v", c.name, n, err)
		}
	}
}
