package collections

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"

	"github.com/pocketbase/pocketbase/core"
)

// Lock names what a write transaction must have to itself, e.g. "tenant:<id>", "node:<id>",
// "server:<id>", "audit:<tenant>". SQLite has one writer, so there a lock costs nothing and does
// nothing; a database with several writers turns each into an advisory lock of the transaction.
type Lock string

var lockPattern = regexp.MustCompile(`^[a-z_]+(:[A-Za-z0-9_.-]{1,64})?$`)

// Tx runs fn in one write transaction that holds the locks, and is the only way in which rooms
// write. fn must use the app that it is given for everything; it may run twice, so it must not keep
// state from a first run nor reach outside the database. An error rolls everything back.
//
// Inside another Tx it joins that one; its locks must then be among those already held or be named
// later than them in sort order, so that two transactions can never wait for each other.
func Tx(app core.App, locks []Lock, fn func(tx core.App) error) error {
	if _, err := sortLocks(locks); err != nil {
		return err
	}
	if open := openOf(app); open != nil || app.TxInfo() != nil {
		return fn(app) // joins; PocketBase commits
	}
	return app.RunInTransaction(func(tx core.App) error {
		open := &openTx{}
		opened.Store(tx.TxInfo(), open)
		defer opened.Delete(tx.TxInfo())
		if err := fn(tx); err != nil {
			return err
		}
		return open.finish(tx)
	})
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
	pending []pending // batches with items
}

type pending struct {
	order int
	batch any // *Batch[T]
	items any // []T
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
	flush func(tx core.App, items []T) error
}

// NewBatch returns a Batch whose flush runs at the end of every transaction that added to it, with all
// that was added, in that order. Batches of a lower order come first. An error rolls everything back.
func NewBatch[T any](order int, flush func(tx core.App, items []T) error) *Batch[T] {
	return &Batch[T]{order: order, flush: flush}
}

// Add gathers an item. Outside of a Tx, and in a transaction that is PocketBase's own, it is flushed at
// once.
func (b *Batch[T]) Add(tx core.App, item T) error {
	open := openOf(tx)
	if open == nil {
		return b.flush(tx, []T{item})
	}
	for i, p := range open.pending {
		if p.batch == b {
			open.pending[i].items = append(p.items.([]T), item)
			return nil
		}
	}
	open.pending = append(open.pending, pending{order: b.order, batch: b, items: []T{item},
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
