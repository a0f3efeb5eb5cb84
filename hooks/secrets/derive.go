package secrets

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// derivedPrefix begins the scopes of keys that are no keysets: "derive:audit".
const derivedPrefix = "derive:"

// maxVersions of one derived key: a row's text is bounded, and a chain may need all of them.
const maxVersions = 40

// ErrTooManyVersions is a derived key that was rotated as often as it can be.
var ErrTooManyVersions = errors.New("this key was rotated 40 times, which is as often as its versions can be kept")

// version is one key and when it was made.
type version struct {
	Made time.Time `json:"made"`
	Key  []byte    `json:"key"`
}

// versions of a derived key, the newest first. Immutable.
type versions struct {
	List    []version `json:"list"`
	Settled bool      `json:"settled"` // only the newest one signs what can still be signed anew
	wrapped string
}

// Derive returns the 32-byte key for a purpose ("audit", "intent"): at first use derived from the
// master key of then, and from then on kept in data_keys, wrapped, so that it stays the same when the
// master key is replaced. Nil when it cannot be had; whoever needs it refuses that.
func (k *Keeper) Derive(purpose string) []byte {
	keys, err := k.Keys(purpose)
	if err != nil {
		k.app.Logger().Error("a derived key cannot be had", "purpose", purpose, "error", err)
		return nil
	}
	return keys.All()[0]
}

// Keys are the versions of one derived key. It is safe for concurrent use.
type Keys struct {
	k       *Keeper
	purpose string
}

// Keys returns the versions of the key for a purpose; the first is made when there is none. ErrMasterKey
// when they do not open.
func (k *Keeper) Keys(purpose string) (*Keys, error) {
	keys := &Keys{k: k, purpose: purpose}
	if err := keys.Refresh(k.app); !errors.Is(err, ErrNoKey) {
		return keys, err
	}
	scope := derivedPrefix + purpose
	err := collections.Tx(k.app, []collections.Lock{scopeLock(scope)}, func(tx core.App) error {
		if err := keys.Refresh(tx); !errors.Is(err, ErrNoKey) {
			return err
		}
		key := k.master.Derive(purpose)
		if key == nil {
			key = randomKey()
		}
		row, err := collections.NewDataKey(tx)
		if err != nil {
			return err
		}
		row.SetScope(scope)
		return k.putDerived(tx, row, &versions{List: []version{{Made: time.Now().UTC(), Key: key}}, Settled: true})
	})
	return keys, err
}

// All returns the versions, the newest first.
func (s *Keys) All() [][]byte {
	v := s.now()
	out := make([][]byte, len(v.List))
	for i, one := range v.List {
		out[i] = one.Key
	}
	return out
}

// Settled says that everything which can be signed anew was, with the newest version.
func (s *Keys) Settled() bool { return s.now().Settled }

func (s *Keys) now() *versions {
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	return s.k.derived[s.purpose] // Keys has put it there, and nobody takes it away
}

// Refresh reads the versions again, in app's transaction if it is one.
func (s *Keys) Refresh(app core.App) error {
	row, err := keyRow(app, derivedPrefix+s.purpose)
	if err != nil {
		return err
	}
	s.k.mu.Lock()
	v := s.k.derived[s.purpose]
	s.k.mu.Unlock()
	if v != nil && v.wrapped == row.Wrapped() {
		return nil
	}
	if v, err = s.k.readDerived(row); err != nil {
		return err
	}
	s.k.rememberDerived(s.purpose, v) // at once: no transaction that writes this row refreshes it
	return nil
}

func (k *Keeper) rememberDerived(purpose string, v *versions) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.derived[purpose] = v
}

func (k *Keeper) readDerived(row *collections.DataKey) (*versions, error) {
	plain, err := k.openDerived(row)
	if err != nil {
		return nil, err
	}
	v := &versions{wrapped: row.Wrapped()}
	if err := json.Unmarshal(plain, v); err != nil || len(v.List) == 0 {
		return nil, k.refusal(row, err)
	}
	return v, nil
}

func (k *Keeper) openDerived(row *collections.DataKey) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(row.Wrapped())
	if err != nil {
		return nil, k.refusal(row, err)
	}
	k.knows(row.MasterID())
	plain, err := k.master.Unwrap(raw, keyBind(row.Scope()))
	if err != nil {
		return nil, k.refusal(row, err)
	}
	return plain, nil
}

func (k *Keeper) putDerived(tx core.App, row *collections.DataKey, v *versions) error {
	plain, err := json.Marshal(v)
	if err != nil {
		return err
	}
	wrapped, err := k.master.Wrap(plain, keyBind(row.Scope()))
	if err != nil {
		return fmt.Errorf("wrap the key of %s: %w", row.Scope(), err)
	}
	row.SetWrapped(base64.StdEncoding.EncodeToString(wrapped))
	row.SetMasterID(k.master.ID())
	row.SetRotatedAt(v.List[0].Made)
	if err := k.save(tx, row); err != nil {
		return err
	}
	kept := &versions{List: v.List, Settled: v.Settled, wrapped: row.Wrapped()}
	collections.AfterCommit(tx, func() { k.rememberDerived(row.Scope()[len(derivedPrefix):], kept) })
	return nil
}

// addVersion puts a new key in front, unless one was made since.
func (k *Keeper) addVersion(tx core.App, row *collections.DataKey, since time.Time) error {
	v, err := k.readDerived(row)
	if err != nil || !v.List[0].Made.Before(since) {
		return err
	}
	if len(v.List) >= maxVersions {
		return fmt.Errorf("%s: %w", row.Scope(), ErrTooManyVersions)
	}
	list := append([]version{{Made: notBefore(since), Key: randomKey()}}, v.List...)
	return k.putDerived(tx, row, &versions{List: list})
}

func randomKey() []byte {
	key := make([]byte, masterKeyBytes)
	_, _ = rand.Read(key) // never fails
	return key
}
