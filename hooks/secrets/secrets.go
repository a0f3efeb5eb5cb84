// Package secrets is envelope encryption: one data key per tenant and one for the installation,
// wrapped by the master key, encrypt single fields.
//
// It owns data_keys. It refuses to work with another master key than the one that wrapped them, and
// to open a ciphertext anywhere but in the row and field that it was sealed for. Rotation (Rotate) gives
// every scope a new data key and seals anew what rooms registered as Sealed, while everything runs.
//
// Its one invariant: a data key that was used is stored, for as long as anything is sealed with it; a
// key made in a transaction that was rolled back is never used again.
package secrets

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/core/cryptofmt"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/mambahost/mamba/collections"
)

// System is the scope of what belongs to the installation and to no tenant.
const System = "system"

// sealedPrefix is the version of the sealed text: "m1:" + base64 of a Tink ciphertext, whose first
// five bytes name the key inside the scope's keyset. Rotation adds a key there and re-encrypts.
const sealedPrefix = "m1:"

// maxPlain bounds one secret; the largest are certificate chains.
const maxPlain = 256 << 10

// Errors of Open.
var (
	ErrNoKey  = errors.New("no data key exists for this scope")
	ErrSealed = errors.New("the sealed text does not open here: another row, field or tenant, or it was altered")
)

var permit = collections.PermitFor("secrets")

// Ref says where a secret rests. It is authenticated with the ciphertext.
type Ref struct{ Table, Row, Field string }

// Lock is what a transaction holds that may seal the first secret of a scope.
func Lock(scope string) collections.Lock { return scopeLock(scope) }

func scopeLock(scope string) collections.Lock {
	return collections.Lock("secrets:" + strings.ReplaceAll(scope, ":", "."))
}

// Keeper seals and opens secrets. It is safe for concurrent use.
type Keeper struct {
	app    core.App
	master Master

	mu      sync.Mutex
	keys    map[string]*dataKey  // by scope; only keys whose row was committed; guarded by mu
	derived map[string]*versions // by purpose; the same; guarded by mu
	changed []func(tx core.App) error
}

// dataKey is the opened keyset of a scope. Immutable.
type dataKey struct {
	wrapped string // the row's text that it was opened from
	use     tink.AEAD
	primary uint32
	ids     map[uint32]bool // of its keys
}

// New returns a Keeper over the app's data_keys. Call Check before anything is opened.
func New(app core.App, master Master) (*Keeper, error) {
	if master == nil {
		return nil, fmt.Errorf("no master key: %w", ErrMasterKey)
	}
	return &Keeper{app: app, master: master, keys: map[string]*dataKey{}, derived: map[string]*versions{}}, nil
}

// Unused reports whether the installation holds no data key yet, so that a new master key loses
// nothing. A database that is not migrated yet is unused.
func Unused(app core.App) (bool, error) {
	if !app.HasTable(collections.DataKeies) {
		return true, nil
	}
	_, err := collections.One[collections.DataKey](app, collections.DataKeies)
	if errors.Is(err, sql.ErrNoRows) {
		return true, nil
	}
	return false, err
}

// Check refuses master keys that did not wrap the data keys which exist: ErrMasterKey, with a text
// that says what to do. It is called once, before the first request is served.
func (k *Keeper) Check(app core.App) error {
	rows, err := collections.Every[collections.DataKey](app, collections.DataKeies, "scope", 0, isKey)
	if err != nil {
		return fmt.Errorf("read data keys: %w", err)
	}
	tried := map[string]bool{}
	for _, row := range rows {
		id := row.MasterID()
		if !k.knows(id) {
			return fmt.Errorf("this installation's secrets were encrypted with master key %s, but %s was given; start with the former (file or MAMBA_MASTER_KEY; beside a newer one in MAMBA_MASTER_KEY_OLD): %w",
				id, k.master.ID(), ErrMasterKey)
		}
		if tried[id] {
			continue
		}
		tried[id] = true
		if _, err := k.openWrapped(row); err != nil {
			return err
		}
	}
	return nil
}

// isKey leaves out the row that says how far a rotation is.
var isKey = dbx.NewExp("[[scope]] != 'rotation'")

// knows says whether a master key of that id is at hand.
func (k *Keeper) knows(id string) bool {
	if several, ok := k.master.(interface{ Knows(id string) bool }); ok {
		return several.Knows(id)
	}
	return k.master.ID() == id
}

// Forget reads anew what is kept in memory, because another instance changed it. Nothing depends on it:
// that a key is old is noticed when it is used.
func (k *Keeper) Forget() error {
	k.mu.Lock()
	clear(k.keys)
	purposes := slices.Collect(maps.Keys(k.derived))
	k.mu.Unlock()
	var errs []error
	for _, purpose := range purposes {
		errs = append(errs, (&Keys{k: k, purpose: purpose}).Refresh(k.app))
	}
	return errors.Join(errs...)
}

// OnChanged registers who is told, in the transaction, that data keys have changed. Before use.
func (k *Keeper) OnChanged(fn func(tx core.App) error) { k.changed = append(k.changed, fn) }

// save stores a row and tells the other instances.
func (k *Keeper) save(tx core.App, row *collections.DataKey) error {
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("store the data key of %s: %w", row.Scope(), err)
	}
	collections.AfterCommit(tx, func() { // old keys leave the memory, too
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.keys, row.Scope())
	})
	for _, fn := range k.changed {
		if err := fn(tx); err != nil {
			return err
		}
	}
	return nil
}

// Seal encrypts plain for the place that ref names. The scope is a tenant's id or System; its data key
// is made in the same transaction when there is none. Each call gives another text.
func (k *Keeper) Seal(tx core.App, scope string, ref Ref, plain []byte) (string, error) {
	bind, err := place(scope, ref)
	if err != nil {
		return "", err
	}
	if len(plain) > maxPlain {
		return "", fmt.Errorf("seal %s.%s: %d bytes, at most %d", ref.Table, ref.Field, len(plain), maxPlain)
	}
	var out string
	seal := func(tx core.App) error {
		key, err := k.fresh(tx, scope) // not from memory: another instance may have rotated it
		if errors.Is(err, ErrNoKey) {
			key, err = k.make(tx, scope)
		}
		if err != nil {
			return err
		}
		sealed, err := key.use.Encrypt(plain, bind)
		if err != nil {
			return fmt.Errorf("seal %s.%s: %w", ref.Table, ref.Field, err)
		}
		out = sealedPrefix + base64.RawStdEncoding.EncodeToString(sealed)
		return nil
	}
	if tx.IsTransactional() {
		err = seal(tx)
	} else {
		err = collections.Tx(tx, []collections.Lock{Lock(scope)}, seal)
	}
	if err != nil {
		return "", err
	}
	return out, nil
}

// Open decrypts what Seal returned for the same scope and place. ErrNoKey when the scope has no key,
// ErrSealed when the text is not for this place or was altered, ErrMasterKey when the data key does
// not unwrap.
func (k *Keeper) Open(app core.App, scope string, ref Ref, sealed string) ([]byte, error) {
	bind, err := place(scope, ref)
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutPrefix(sealed, sealedPrefix)
	if !ok {
		return nil, fmt.Errorf("open %s.%s: %w", ref.Table, ref.Field, ErrSealed)
	}
	raw, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("open %s.%s: %w", ref.Table, ref.Field, ErrSealed)
	}
	key, err := k.key(app, scope)
	if id, ok := keyOf(raw); err == nil && ok && !key.ids[id] {
		key, err = k.fresh(app, scope)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s.%s: %w", ref.Table, ref.Field, err)
	}
	plain, err := key.use.Decrypt(raw, bind)
	if err != nil {
		return nil, fmt.Errorf("open %s.%s: %w", ref.Table, ref.Field, ErrSealed)
	}
	return plain, nil
}

// keyOf reads which key of its keyset a ciphertext names (Tink's output prefix).
func keyOf(raw []byte) (uint32, bool) {
	if len(raw) < cryptofmt.TinkPrefixSize || raw[0] != cryptofmt.TinkStartByte {
		return 0, false
	}
	return binary.BigEndian.Uint32(raw[1:cryptofmt.TinkPrefixSize]), true
}

// key returns the scope's key from memory or its row.
func (k *Keeper) key(app core.App, scope string) (*dataKey, error) {
	k.mu.Lock()
	key, ok := k.keys[scope]
	k.mu.Unlock()
	if ok {
		return key, nil
	}
	return k.fresh(app, scope)
}

// fresh returns the scope's key as its row is now. What was read inside a transaction may have been
// written by it, so it is kept only once that has committed.
func (k *Keeper) fresh(app core.App, scope string) (*dataKey, error) {
	row, err := keyRow(app, scope)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	key, ok := k.keys[scope]
	k.mu.Unlock()
	if ok && key.wrapped == row.Wrapped() {
		return key, nil
	}
	if key, err = k.unwrap(row); err != nil {
		return nil, err
	}
	collections.AfterCommit(app, func() { k.remember(scope, key) })
	return key, nil
}

// keyRow is ErrNoKey when the scope has none.
func keyRow(app core.App, scope string) (*collections.DataKey, error) {
	row, err := collections.One[collections.DataKey](app, collections.DataKeies, dbx.HashExp{"scope": scope})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoKey
	}
	if err != nil {
		return nil, fmt.Errorf("read the data key: %w", err)
	}
	return row, nil
}

func (k *Keeper) remember(scope string, key *dataKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[scope] = key
}

func (k *Keeper) make(tx core.App, scope string) (*dataKey, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a data key: %w", err)
	}
	row, err := collections.NewDataKey(tx)
	if err != nil {
		return nil, err
	}
	row.SetScope(scope)
	row.SetRotatedAt(time.Now())
	if err := k.put(tx, row, handle); err != nil {
		return nil, err
	}
	key, err := opened(row, handle)
	if err != nil {
		return nil, err
	}
	collections.AfterCommit(tx, func() { k.remember(scope, key) })
	return key, nil
}

// put stores a keyset, wrapped by the master key of now.
func (k *Keeper) put(tx core.App, row *collections.DataKey, handle *keyset.Handle) error {
	var buf bytes.Buffer
	w := &wrapper{m: k.master}
	if err := handle.WriteWithAssociatedData(keyset.NewBinaryWriter(&buf), w, keyBind(row.Scope())); err != nil {
		return fmt.Errorf("wrap a data key: %w", errors.Join(w.err, err))
	}
	row.SetWrapped(base64.StdEncoding.EncodeToString(buf.Bytes()))
	row.SetMasterID(k.master.ID())
	return k.save(tx, row)
}

func opened(row *collections.DataKey, handle *keyset.Handle) (*dataKey, error) {
	use, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("use a data key: %w", err)
	}
	info := handle.KeysetInfo()
	key := &dataKey{wrapped: row.Wrapped(), use: use, primary: info.GetPrimaryKeyId(), ids: map[uint32]bool{}}
	for _, one := range info.GetKeyInfo() {
		key.ids[one.GetKeyId()] = true
	}
	return key, nil
}

func (k *Keeper) unwrap(row *collections.DataKey) (*dataKey, error) {
	handle, err := k.handle(row)
	if err != nil {
		return nil, err
	}
	key, err := opened(row, handle)
	if err != nil {
		return nil, k.refusal(row, err)
	}
	return key, nil
}

func (k *Keeper) handle(row *collections.DataKey) (*keyset.Handle, error) {
	raw, err := base64.StdEncoding.DecodeString(row.Wrapped())
	if err != nil {
		return nil, k.refusal(row, err)
	}
	k.knows(row.MasterID()) // looks for a key that came while we run
	w := &wrapper{m: k.master}
	handle, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(raw)), w, keyBind(row.Scope()))
	if err != nil {
		return nil, k.refusal(row, w.err)
	}
	return handle, nil
}

// openWrapped opens a row whatever it holds: a keyset, or the versions of a derived key.
func (k *Keeper) openWrapped(row *collections.DataKey) ([]byte, error) {
	if strings.HasPrefix(row.Scope(), derivedPrefix) {
		return k.openDerived(row)
	}
	_, err := k.unwrap(row)
	return nil, err
}

// refusal says what to do about a row that does not open. The cause is left out unless it is what a
// key command said: Tink's says nothing.
func (k *Keeper) refusal(row *collections.DataKey, cause error) error {
	said := ""
	if _, ok := k.master.(*ring); ok && errors.Is(cause, ErrMasterKey) {
		said = " (" + cause.Error() + ")"
	}
	return fmt.Errorf("the data key of %q does not open with master key %s; restore the master key this database belongs to, or a database backup that belongs to this key%s: %w",
		row.Scope(), k.master.ID(), said, ErrMasterKey)
}

// wrapper is a Master as Tink wants it. It keeps the master's error, which Tink does not wrap.
type wrapper struct {
	m   Master
	err error
}

func (w *wrapper) Encrypt(plain, bind []byte) (out []byte, err error) {
	out, w.err = w.m.Wrap(plain, bind)
	return out, w.err
}

func (w *wrapper) Decrypt(wrapped, bind []byte) (out []byte, err error) {
	out, w.err = w.m.Unwrap(wrapped, bind)
	return out, w.err
}

func keyBind(scope string) []byte { return encode("data_keys", scope) }

// place is the associated data of a field: table, row, field, scope, each with its length before it,
// so that no two places encode alike.
func place(scope string, ref Ref) ([]byte, error) {
	if scope == "" || ref.Table == "" || ref.Row == "" || ref.Field == "" {
		return nil, fmt.Errorf("secrets: scope %q and place %+v have to be whole", scope, ref)
	}
	return encode(ref.Table, ref.Row, ref.Field, scope), nil
}

func encode(parts ...string) []byte {
	var out []byte
	for _, p := range parts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p)))
		out = append(out, p...)
	}
	return out
}
