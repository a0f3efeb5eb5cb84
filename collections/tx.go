package collections

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections/postgres"
)

// Lock names what a write transaction must have to itself, e.g. "tenant:<id>", "node:<id>",
// "server:<id>", "audit:<tenant>". SQLite has one writer, so there a lock costs nothing and does
// nothing; on PostgreSQL each is an advisory lock of the transaction (postgres.LockKey), held by one
// of all panels.
type Lock string

var lockPattern = regexp.MustCompile(`^[a-z_]+(:[A-Za-z0-9_.-]{1,64})?$`)

// Tx runs fn in one write transaction that holds the locks, and is the only way in which rooms
// write. fn must use the app that it is given for everything; it may run twice, so it must not keep
// state from a first run nor reach outside the database. An error rolls everything back.
//
// Inside another Tx it joins that one; its locks must then be among those already held or be named
// later than them in sort order, so that two transactions can never wait for each other.
func Tx(app core.App, locks []Lock, fn func(tx core.App) error) error {
	sorted, err := sortLocks(locks)
	if err != nil {
		return err
	}
	if app.TxInfo() != nil {
		return locked(app, sorted, fn)
	}
	for try := 1; ; try++ {
		err := app.RunInTransaction(func(tx core.App) error { return locked(tx, sorted, fn) })
		if err == nil || try == maxTries || !postgres.Retryable(err) {
			return err
		}
	}
}

// maxTries is how often a transaction is run that PostgreSQL ended in favour of another one. The
// locks make that rare: what is left are rows that two transactions change in a different order.
const maxTries = 4

// locked takes the locks in the transaction and runs fn.
func locked(tx core.App, sorted []string, fn func(tx core.App) error) error {
	if len(sorted) > 0 && postgres.IsPostgres(tx.NonconcurrentDB()) {
		if err := postgres.Lock(tx.NonconcurrentDB(), sorted); err != nil {
			return err
		}
	}
	return fn(tx)
}

// sortLocks returns the locks in the order in which they are taken, each once.
func sortLocks(locks []Lock) ([]string, error) {
	var sorted []string
	for _, l := range locks {
		if !lockPattern.MatchString(string(l)) {
			return nil, fmt.Errorf("collections: %q is not the name of a lock", l)
		}
		sorted = append(sorted, string(l))
	}
	slices.Sort(sorted)
	return slices.Compact(sorted), nil
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
