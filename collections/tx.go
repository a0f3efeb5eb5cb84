package collections

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"

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
	return app.RunInTransaction(fn)
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
