package secrets

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/mambahost/mamba/collections"
)

// rotationScope is the row that says which rotation is under way, or was the last.
const rotationScope = "rotation"

// Bounds of a rotation.
const (
	resealPage = 200 // rows read at once
	maxPasses  = 10  // over all sealed fields, until nothing is left of the old keys
)

// ErrUnsettled is a rotation that finds values under old keys again and again: something seals with
// them, or a field holds what does not open.
var ErrUnsettled = errors.New("values under old data keys are left; the rotation goes on where it is when it is started again")

// Sealed is a field that holds what Seal returned. Its room registers it, and thereby lets a rotation
// replace one sealed text in it by another of the same secret.
type Sealed struct {
	Table, Field string
	// Scope of a row's secrets; nil: the row's tenant, System where it has none.
	Scope func(row dbx.NullStringMap) string
	// Each walks the sealed texts in a value: fn is given the field of Ref and the text, and returns what
	// to put there. It returns the whole value with that. Nil: the value is one sealed text or empty.
	Each func(value string, fn func(field, sealed string) (string, error)) (string, error)
}

// ScopeOf is the scope of a row's secrets.
func (s Sealed) ScopeOf(row dbx.NullStringMap) string {
	if s.Scope != nil {
		return s.Scope(row)
	}
	if tenant := row["tenant"].String; tenant != "" {
		return tenant
	}
	return System
}

// OfSystem is the Scope of what belongs to the installation.
func OfSystem(dbx.NullStringMap) string { return System }

// Rotation is what a rotation of the data keys has to touch.
type Rotation struct {
	Sealed []Sealed
	// Derived are the purposes whose key gets a new version.
	Derived []string
	// Anchor signs anew with the newest versions what old ones signed and can still be signed anew.
	Anchor func(ctx context.Context, app core.App) error
	// Done is called in the transaction that ends it: the audit row.
	Done func(tx core.App, took Took) error
	// Locks are what Done needs.
	Locks []collections.Lock
	// Progress hears of each step. Nil: nobody does.
	Progress func(step string, done, all int)
	// At is called between transactions, where a crash may come; tests end it there.
	At func(point string) error
}

// Took is what a rotation did, counted by the run that ended it.
type Took struct {
	Scopes int `json:"scopes"` // data keys
	Values int `json:"values"` // sealed anew
}

// State of the row about rotations.
type state struct {
	Since time.Time `json:"since"`
	Done  time.Time `json:"done"` // zero while it is under way
}

// Rotate gives every scope a new data key, seals every registered field anew, and drops the old keys.
// Whatever reads and writes goes on meanwhile, in every instance. It may be ended at any point, by a
// crash too; the next call goes on with it. Two at once do the same work twice and no harm.
func (k *Keeper) Rotate(ctx context.Context, app core.App, r Rotation) (took Took, err error) {
	if r.Progress == nil {
		r.Progress = func(string, int, int) {}
	}
	if r.At == nil {
		r.At = func(string) error { return nil }
	}
	since, err := k.begin(app)
	if err != nil {
		return took, err
	}
	steps := []func() error{
		func() error { return k.addKeys(ctx, app, r, since, &took) },
		func() error { return collections.Settle(ctx, app) }, // nobody seals with an old key any more
		func() error { return k.resealAll(ctx, app, r, &took) },
		func() error { return k.anchor(ctx, app, r) },
		func() error { return k.dropKeys(ctx, app, r, since) },
		func() error { return k.end(app, r, since, took) },
	}
	for _, step := range steps {
		if err := errors.Join(ctx.Err(), r.At("step")); err != nil {
			return took, err
		}
		if err := step(); err != nil {
			return took, err
		}
	}
	return took, nil
}

// begin returns when the rotation that is under way began, which is now if there is none.
func (k *Keeper) begin(app core.App) (since time.Time, err error) {
	err = collections.Tx(app, []collections.Lock{scopeLock(rotationScope)}, func(tx core.App) error {
		row, st, err := rotationRow(tx)
		if err != nil {
			return err
		}
		if st.Done.IsZero() && !st.Since.IsZero() {
			since = st.Since
			return nil
		}
		since = time.Now().UTC().Truncate(time.Millisecond).Add(time.Millisecond) // as a column holds it, and after all keys that are there
		return putState(tx, row, state{Since: since})
	})
	return since, err
}

func (k *Keeper) end(app core.App, r Rotation, since time.Time, took Took) error {
	r.Progress("done", 1, 1)
	return collections.Tx(app, append([]collections.Lock{scopeLock(rotationScope)}, r.Locks...), func(tx core.App) error {
		row, st, err := rotationRow(tx)
		if err != nil || !st.Since.Equal(since) || !st.Done.IsZero() {
			return err // another run ended it
		}
		if r.Done != nil {
			if err := r.Done(tx, took); err != nil {
				return err
			}
		}
		return putState(tx, row, state{Since: since, Done: time.Now().UTC()})
	})
}

func rotationRow(tx core.App) (*collections.DataKey, state, error) {
	var st state
	row, err := keyRow(tx, rotationScope)
	if errors.Is(err, ErrNoKey) {
		row, err = collections.NewDataKey(tx)
		if err == nil {
			row.SetScope(rotationScope)
		}
		return row, st, err
	}
	if err != nil {
		return nil, st, err
	}
	if err := json.Unmarshal([]byte(row.Wrapped()), &st); err != nil {
		return nil, st, fmt.Errorf("read how far the rotation of keys is: %w", err)
	}
	return row, st, nil
}

func putState(tx core.App, row *collections.DataKey, st state) error {
	raw, err := json.Marshal(st)
	if err != nil {
		return err
	}
	row.SetWrapped(string(raw))
	return permit.Save(tx, row)
}

// scopes are those of all rows but the one about rotations.
func scopes(app core.App) ([]string, error) {
	rows, err := collections.Every[collections.DataKey](app, collections.DataKeies, "scope", 0, isKey)
	if err != nil {
		return nil, fmt.Errorf("list data keys: %w", err)
	}
	out := make([]string, len(rows))
	for i, row := range rows {
		out[i] = row.Scope()
	}
	return out, nil
}

// change runs fn on a scope's row in a transaction of its own, after the crash point.
func (k *Keeper) change(ctx context.Context, app core.App, r Rotation, scope string, fn func(tx core.App, row *collections.DataKey) error) error {
	if err := errors.Join(ctx.Err(), r.At(scope)); err != nil {
		return err
	}
	return collections.Tx(app, []collections.Lock{scopeLock(scope)}, func(tx core.App) error {
		row, err := keyRow(tx, scope)
		if errors.Is(err, ErrNoKey) {
			return nil // its tenant is gone
		}
		if err != nil {
			return err
		}
		return fn(tx, row)
	})
}

// addKeys gives every scope that has no key since then a new one, which seals from now on.
func (k *Keeper) addKeys(ctx context.Context, app core.App, r Rotation, since time.Time, took *Took) error {
	list, err := scopes(app)
	if err != nil {
		return err
	}
	for i, scope := range list {
		r.Progress("new keys", i, len(list))
		purpose, derived := strings.CutPrefix(scope, derivedPrefix)
		if derived && !slices.Contains(r.Derived, purpose) {
			continue
		}
		err := k.change(ctx, app, r, scope, func(tx core.App, row *collections.DataKey) error {
			if derived {
				return k.addVersion(tx, row, since)
			}
			return k.addKey(tx, row, since)
		})
		if err != nil {
			return fmt.Errorf("new data key of %s: %w", scope, err)
		}
		if !derived {
			took.Scopes++
		}
	}
	return nil
}

func (k *Keeper) addKey(tx core.App, row *collections.DataKey, since time.Time) error {
	if !row.RotatedAt().IsZero() && !row.RotatedAt().Before(since) {
		return nil
	}
	handle, err := k.handle(row)
	if err != nil {
		return err
	}
	m := keyset.NewManagerFromHandle(handle)
	id, err := m.Add(aead.AES256GCMKeyTemplate())
	if err == nil {
		err = m.SetPrimary(id)
	}
	if err == nil {
		handle, err = m.Handle()
	}
	if err != nil {
		return err
	}
	row.SetRotatedAt(notBefore(since))
	return k.put(tx, row, handle)
}

// notBefore is now, or since where the clock is not there yet.
func notBefore(since time.Time) time.Time {
	if now := time.Now().UTC(); now.After(since) {
		return now
	}
	return since
}

// resealAll passes over all fields until a pass that began after every older transaction had ended
// found nothing: one of those may have written back what it read before we replaced it.
func (k *Keeper) resealAll(ctx context.Context, app core.App, r Rotation, took *Took) error {
	for range maxPasses {
		found := 0
		for i, field := range r.Sealed {
			r.Progress("seal anew", i, len(r.Sealed))
			n, err := k.resealField(ctx, app, r, field)
			if err != nil {
				return fmt.Errorf("seal %s.%s anew: %w", field.Table, field.Field, err)
			}
			found += n
		}
		if found == 0 {
			return nil
		}
		took.Values += found
		if err := collections.Settle(ctx, app); err != nil {
			return err
		}
	}
	return ErrUnsettled
}

// resealField looks at every row and returns how many values were under an old key.
func (k *Keeper) resealField(ctx context.Context, app core.App, r Rotation, field Sealed) (found int, err error) {
	for after := ""; ; {
		var rows []dbx.NullStringMap
		err := app.DB().Select("*").From(field.Table).Where(dbx.NewExp("[[id]] > {:after}", dbx.Params{"after": after})).
			OrderBy("id").Limit(resealPage).WithContext(ctx).All(&rows)
		if err != nil {
			return found, err
		}
		for _, row := range rows {
			after = row["id"].String
			n, err := k.resealRow(ctx, app, r, field, row)
			if err != nil {
				return found, fmt.Errorf("row %s: %w", after, err)
			}
			found += n
		}
		if len(rows) < resealPage {
			return found, nil
		}
	}
}

func (k *Keeper) resealRow(ctx context.Context, app core.App, r Rotation, field Sealed, row dbx.NullStringMap) (int, error) {
	value := row[field.Field].String
	if !strings.Contains(value, sealedPrefix) { // empty
		return 0, nil
	}
	scope := field.ScopeOf(row)
	id, n := row["id"].String, 0
	old, err := k.underOldKey(app, scope, field, value)
	if err != nil || !old {
		return 0, err
	}
	if err := errors.Join(ctx.Err(), r.At(field.Table)); err != nil {
		return 0, err
	}
	err = collections.Tx(app, []collections.Lock{scopeLock(scope)}, func(tx core.App) error {
		n = 0
		next, err := field.walk(value, func(name, sealed string) (string, error) {
			ref := Ref{Table: field.Table, Row: id, Field: name}
			plain, err := k.Open(tx, scope, ref, sealed)
			if err != nil {
				return "", err
			}
			n++
			return k.Seal(tx, scope, ref, plain)
		})
		if err != nil {
			return err
		}
		// Only if it is still what we read: one statement, so that no lock of the room is needed.
		_, err = tx.NonconcurrentDB().Update(field.Table, dbx.Params{field.Field: next}, dbx.HashExp{"id": id, field.Field: value}).Execute()
		return err
	})
	return n, err
}

func (s Sealed) walk(value string, fn func(field, sealed string) (string, error)) (string, error) {
	if s.Each != nil {
		return s.Each(value, fn)
	}
	return fn(s.Field, value)
}

// underOldKey says whether a value holds a text that is sealed with another key than the scope's newest.
func (k *Keeper) underOldKey(app core.App, scope string, field Sealed, value string) (old bool, err error) {
	_, err = field.walk(value, func(_, sealed string) (string, error) {
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimPrefix(sealed, sealedPrefix))
		if err != nil {
			return "", ErrSealed
		}
		id, ok := keyOf(raw)
		if !ok {
			return "", ErrSealed
		}
		key, err := k.fresh(app, scope) // not from memory: what it says decides what is dropped
		if err != nil {
			return "", err
		}
		old = old || id != key.primary
		return sealed, nil
	})
	return old, err
}

func (k *Keeper) anchor(ctx context.Context, app core.App, r Rotation) error {
	if r.Anchor != nil {
		r.Progress("sign anew", 0, 1)
		if err := r.Anchor(ctx, app); err != nil {
			return err
		}
	}
	for _, purpose := range r.Derived {
		err := k.change(ctx, app, r, derivedPrefix+purpose, func(tx core.App, row *collections.DataKey) error {
			v, err := k.readDerived(row)
			if err != nil || v.Settled {
				return err
			}
			return k.putDerived(tx, row, &versions{List: v.List, Settled: true})
		})
		if err != nil {
			return fmt.Errorf("settle the key of %s: %w", purpose, err)
		}
	}
	return nil
}

// dropKeys leaves each scope its newest key. The lock of the scope keeps a later rotation from adding one
// between the look at which rotation this is and the drop: it would be the only one left.
func (k *Keeper) dropKeys(ctx context.Context, app core.App, r Rotation, since time.Time) error {
	list, err := scopes(app)
	if err != nil {
		return err
	}
	for i, scope := range list {
		r.Progress("drop old keys", i, len(list))
		if strings.HasPrefix(scope, derivedPrefix) {
			continue
		}
		err := k.change(ctx, app, r, scope, func(tx core.App, row *collections.DataKey) error {
			if _, st, err := rotationRow(tx); err != nil || !st.Since.Equal(since) || !st.Done.IsZero() {
				return err // another run ended it
			}
			return k.dropOld(tx, row)
		})
		if err != nil {
			return fmt.Errorf("drop old data keys of %s: %w", scope, err)
		}
	}
	return nil
}

func (k *Keeper) dropOld(tx core.App, row *collections.DataKey) error {
	handle, err := k.handle(row)
	if err != nil {
		return err
	}
	info := handle.KeysetInfo()
	if len(info.GetKeyInfo()) == 1 {
		return nil
	}
	m := keyset.NewManagerFromHandle(handle)
	for _, key := range info.GetKeyInfo() {
		if key.GetKeyId() == info.GetPrimaryKeyId() {
			continue
		}
		if err := m.Delete(key.GetKeyId()); err != nil {
			return err
		}
	}
	if handle, err = m.Handle(); err != nil {
		return err
	}
	return k.put(tx, row, handle)
}

// RotateMaster wraps every data key with the master key of now. It may be ended at any point; the next
// call goes on. It returns how many it wrapped.
func (k *Keeper) RotateMaster(ctx context.Context, app core.App, r Rotation) (n int, err error) {
	if r.Progress == nil {
		r.Progress = func(string, int, int) {}
	}
	if r.At == nil {
		r.At = func(string) error { return nil }
	}
	if several, ok := k.master.(interface{ Reload() error }); ok {
		if err := several.Reload(); err != nil {
			return 0, err
		}
	}
	for pass := 0; pass < 2; pass++ { // a second one for what was made meanwhile with the old key
		list, err := scopes(app)
		if err != nil {
			return n, err
		}
		for i, scope := range list {
			r.Progress("wrap anew", i, len(list))
			err := k.change(ctx, app, r, scope, func(tx core.App, row *collections.DataKey) error {
				if row.MasterID() == k.master.ID() {
					return nil
				}
				n++
				return k.rewrap(tx, row)
			})
			if err != nil {
				return n, fmt.Errorf("wrap the data key of %s anew: %w", scope, err)
			}
		}
		if err := collections.Settle(ctx, app); err != nil {
			return n, err
		}
	}
	if n == 0 || r.Done == nil {
		return n, nil
	}
	return n, collections.Tx(app, r.Locks, func(tx core.App) error { return r.Done(tx, Took{Scopes: n}) })
}

func (k *Keeper) rewrap(tx core.App, row *collections.DataKey) error {
	if strings.HasPrefix(row.Scope(), derivedPrefix) {
		v, err := k.readDerived(row)
		if err != nil {
			return err
		}
		return k.putDerived(tx, row, v)
	}
	handle, err := k.handle(row)
	if err != nil {
		return err
	}
	return k.put(tx, row, handle)
}

// Status is how the keys of an installation are.
type Status struct {
	Master   string         // id of the master key that wraps
	Scopes   int            // data keys of tenants, and the system's
	Wrapped  map[string]int // rows by the id of the master key that wraps them
	Unknown  []string       // ids among them that are not at hand
	Oldest   time.Time      // when the oldest data key in use was made; zero: before that was written down
	Rotating bool           // a rotation of the data keys is under way or was interrupted
	Since    time.Time      // when that one began, or the last one ended
}

// Status reads; it changes nothing.
func (k *Keeper) Status(app core.App) (Status, error) {
	out := Status{Master: k.master.ID(), Wrapped: map[string]int{}}
	rows, err := collections.Every[collections.DataKey](app, collections.DataKeies, "scope", 0)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return out, fmt.Errorf("read data keys: %w", err)
	}
	for _, row := range rows {
		if row.Scope() == rotationScope {
			var st state
			if err := json.Unmarshal([]byte(row.Wrapped()), &st); err != nil {
				return out, fmt.Errorf("read how far the rotation of keys is: %w", err)
			}
			out.Rotating, out.Since = st.Done.IsZero(), st.Done
			if out.Rotating {
				out.Since = st.Since
			}
			continue
		}
		if out.Wrapped[row.MasterID()]++; out.Wrapped[row.MasterID()] == 1 && !k.knows(row.MasterID()) {
			out.Unknown = append(out.Unknown, row.MasterID())
		}
		if strings.HasPrefix(row.Scope(), derivedPrefix) {
			continue
		}
		made := row.RotatedAt()
		if made.IsZero() {
			made = row.Created()
		}
		if out.Scopes++; out.Oldest.IsZero() || made.Before(out.Oldest) {
			out.Oldest = made
		}
	}
	return out, nil
}
