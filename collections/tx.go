package collections

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections/postgres"
)

// Lock names what a write transaction must have to itself, e.g. "tenant:<id>", "node:<id>",
// "server:<id>", "audit:<tenant>". SQLite has one writer, so there a lock costs nothing and does
// nothing; on PostgreSQL each is an advisory lock of the transaction (postgres.LockKey), which other
// transactions that name it wait for, in every panel instance.
type Lock string

var lockPattern = regexp.MustCompile(`^[a-z_]+(:[A-Za-z0-9_.-]{1,64})?$`)

// ErrLockOrder is what a Tx inside another gets for a lock that has to be taken before one which is
// already held.
var ErrLockOrder = errors.New("a lock has to be named by the outermost transaction")

// Bounds of running a transaction again: a deadlock is resolved by PostgreSQL after 1 s.
const (
	maxRuns   = 5
	firstWait = 10 * time.Millisecond // doubled, half of it random
)

// Tx runs fn in one write transaction that holds the locks, and is the only way in which rooms
// write. fn must use the app that it is given for everything; it may run again when PostgreSQL ended
// it because of a deadlock, so it must not keep state from a first run nor reach outside the
// database. An error rolls everything back.
//
// Inside another Tx it joins that one; its locks must then be among those already held or be named
// later than them in sort order, so that two transactions can never wait for each other. ErrLockOrder
// otherwise, on SQLite, too. Inside a transaction of PocketBase's own it joins that one without this
// check.
func Tx(app core.App, locks []Lock, fn func(tx core.App) error) error {
	sorted, err := sortLocks(locks)
	if err != nil {
		return err
	}
	if app.TxInfo() != nil {
		if err := join(app, sorted); err != nil {
			return err
		}
		return fn(app)
	}
	for run := 1; ; run++ {
		err := app.RunInTransaction(func(tx core.App) error { return begin(tx, postgres.IsPostgres(app.NonconcurrentDB()), sorted, fn) })
		if err == nil || run == maxRuns || !postgres.Retryable(err) {
			return err
		}
		wait := firstWait << run
		<-time.After(wait/2 + rand.N(wait/2))
	}
}

// Sparing calls run with locks, and a second time with those in rare as well when it turned out to need
// one of them: then it is ErrLockOrder, and everything was rolled back. It is for locks that many wait
// for and few transactions need. Whoever needs one asks for it by a Tx inside the transaction, and
// nothing may rely on such a lock without asking.
func Sparing(locks, rare []Lock, run func(locks []Lock) error) error {
	err := run(locks)
	if errors.Is(err, ErrLockOrder) {
		err = run(slices.Concat(locks, rare))
	}
	return err
}

// begin is the outermost Tx: locks, work, what was gathered for the end.
func begin(tx core.App, advisory bool, locks []Lock, fn func(tx core.App) error) error {
	open := &openTx{advisory: advisory, held: map[Lock]bool{}}
	opened.Store(tx.TxInfo(), open)
	defer opened.Delete(tx.TxInfo())
	if err := open.take(tx, locks); err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return err
	}
	return open.finish(tx)
}

// join adds locks to a transaction that runs.
func join(tx core.App, locks []Lock) error {
	if open := openOf(tx); open != nil {
		return open.take(tx, locks)
	}
	if !postgres.IsPostgres(tx.NonconcurrentDB()) {
		return nil
	}
	return advise(tx, locks)
}

// sortLocks returns the locks in the order in which they are taken, each once.
func sortLocks(locks []Lock) ([]Lock, error) {
	sorted := slices.Clone(locks)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	for _, l := range sorted {
		if !lockPattern.MatchString(string(l)) {
			return nil, fmt.Errorf("collections: %q is not the name of a lock", l)
		}
	}
	return sorted, nil
}

// opened is what Tx keeps of each transaction that runs, by its *core.TxAppInfo: PocketBase has no place
// of ours in a transaction.
var opened sync.Map

// openTx is used by the one goroutine that runs the transaction.
type openTx struct {
	advisory bool // on PostgreSQL
	held     map[Lock]bool
	last     Lock // the latest in order of those that are held
	pending  []pending
}

type pending struct {
	order int
	lock  Lock // empty: none
	batch any  // *Batch[T]
	items any  // []T
	flush func(tx core.App, items any) error
}

func openOf(app core.App) *openTx {
	info := app.TxInfo()
	if info == nil {
		return nil
	}
	v, ok := opened.Load(info)
	if !ok {
		return nil // PocketBase's own transaction, not one of Tx
	}
	return v.(*openTx)
}

// take gets those of the sorted locks that are not held yet.
func (o *openTx) take(tx core.App, locks []Lock) error {
	var missing []Lock
	for _, l := range locks {
		if o.held[l] {
			continue
		}
		if _, late := lateLocks.Load(l); late {
			return fmt.Errorf("%w: %s is taken at the end of a transaction", ErrLockOrder, l)
		}
		if l < o.last {
			return fmt.Errorf("%w: %s comes before %s", ErrLockOrder, l, o.last)
		}
		o.held[l], o.last = true, l
		missing = append(missing, l)
	}
	if !o.advisory {
		return nil
	}
	return advise(tx, missing)
}

// advise takes advisory locks for the transaction; it waits for each.
func advise(tx core.App, locks []Lock) error {
	if len(locks) == 0 {
		return nil
	}
	names := make([]string, len(locks))
	for i, l := range locks {
		names[i] = string(l)
	}
	return postgres.Lock(tx.NonconcurrentDB(), names)
}

// finish flushes batches, the lowest order first, until none has items: a flush may add to others.
func (o *openTx) finish(tx core.App) error {
	for len(o.pending) > 0 {
		i := 0
		for j, p := range o.pending {
			if p.order < o.pending[i].order {
				i = j
			}
		}
		p := o.pending[i]
		o.pending = slices.Delete(o.pending, i, i+1)
		if p.lock != "" && o.advisory {
			if err := advise(tx, []Lock{p.lock}); err != nil {
				return err
			}
		}
		if err := p.flush(tx, p.items); err != nil {
			return err
		}
	}
	return nil
}

// InTx reports whether tx is inside a transaction that Tx opened.
func InTx(tx core.App) bool { return openOf(tx) != nil }

// Batch gathers what the parts of one transaction have to do together at its end, just before the
// commit: a number that has to grow in the order of commits, one statement instead of many. Make it
// once, not per transaction.
type Batch[T any] struct {
	order int
	lock  Lock
	flush func(tx core.App, items []T) error
}

// lateLocks are those of batches.
var lateLocks sync.Map

// NewBatch returns a Batch whose flush runs at the end of every transaction that added to it, with all
// that was added, in that order. Batches of a lower order come first. An error rolls everything back.
//
// lock, unless it is empty, is taken before flush and so is held for a moment only, however long the
// transaction is. It comes after all locks of Tx, which therefore refuses it.
func NewBatch[T any](order int, lock Lock, flush func(tx core.App, items []T) error) *Batch[T] {
	if lock != "" {
		lateLocks.Store(lock, true)
	}
	return &Batch[T]{order: order, lock: lock, flush: flush}
}

// Add gathers an item. Outside of a Tx, and in a transaction that is PocketBase's own, it is flushed at
// once.
func (b *Batch[T]) Add(tx core.App, item T) error {
	open := openOf(tx)
	if open == nil {
		if b.lock != "" && postgres.IsPostgres(tx.NonconcurrentDB()) {
			if err := advise(tx, []Lock{b.lock}); err != nil {
				return err
			}
		}
		return b.flush(tx, []T{item})
	}
	for i, p := range open.pending {
		if p.batch == b {
			open.pending[i].items = append(p.items.([]T), item)
			return nil
		}
	}
	open.pending = append(open.pending, pending{order: b.order, lock: b.lock, batch: b, items: []T{item},
		flush: func(tx core.App, items any) error { return b.flush(tx, items.([]T)) }})
	return nil
}

// AfterCommit runs fn once the transaction that tx belongs to has committed, or at once outside of
// one. It is for hints only (wake a worker, tell a browser): what must happen is a job or an event.
func AfterCommit(tx core.App, fn func()) {
	info := tx.TxInfo()
	if info == nil {
		fn()
		return
	}
	info.OnComplete(func(err error) error {
		if err == nil {
			fn()
		}
		return nil
	})
}

type permitKey struct{}

// Permit is a room's right to write its own collections. It is made once per room, as a package
// variable; imports_test.go checks that a room asks for no other name than its own.
type Permit struct{ room string }

// PermitFor returns the permit of a room.
func PermitFor(room string) Permit { return Permit{room: room} }

// Save writes a record of the room: validation, hooks, and the permit in the context.
func (p Permit) Save(tx core.App, m core.Model) error {
	return tx.SaveWithContext(context.WithValue(context.Background(), permitKey{}, p.room), m)
}

// Delete removes a record of the room.
func (p Permit) Delete(tx core.App, m core.Model) error {
	return tx.DeleteWithContext(context.WithValue(context.Background(), permitKey{}, p.room), m)
}

// Purge removes every row of a tenant from collections of the room that have a `tenant`, past the hooks of
// single rows, and returns how many each had. A name that is not such a collection is a fault of ours.
func (p Permit) Purge(tx core.App, tenant string, names ...string) (map[string]int64, error) {
	if tenant == "" {
		return nil, errors.New("collections: the rows of the installation itself are not purged")
	}
	gone := map[string]int64{}
	for _, name := range names {
		if d, ours := ByName(name); !ours || d.Owner != p.room || !d.Tenant {
			return nil, fmt.Errorf("collections: %s has no rows of tenants that %s may purge", name, p.room)
		}
		res, err := tx.NonconcurrentDB().Delete(name, dbx.HashExp{"tenant": tenant}).Execute()
		if err != nil {
			return nil, fmt.Errorf("purge %s: %w", name, err)
		}
		if gone[name], err = res.RowsAffected(); err != nil {
			return nil, fmt.Errorf("purge %s: %w", name, err)
		}
	}
	return gone, nil
}

// ErrNoPermit is what a write without the owner's permit gets: the dashboard's, a truncate's, a
// cascade's, another room's.
var ErrNoPermit = errors.New("this collection is written by Mamba Host itself; use the product's own screens or API")

// Guard refuses a write to a collection of ours that does not carry its owner's permit. It is bound
// to the model hooks of every collection in hooks/hooks.go. Collections that are not ours pass.
func Guard(ctx context.Context, collection string) error {
	d, ours := ByName(collection)
	if !ours {
		return nil
	}
	if room, _ := ctx.Value(permitKey{}).(string); room == d.Owner {
		return nil
	}
	return fmt.Errorf("write to %s: %w", collection, ErrNoPermit)
}
