// Package secrets is envelope encryption: one data key per tenant and one for the installation,
// wrapped by the master key, encrypt single fields.
//
// It owns data_keys. It refuses to work with another master key than the one that wrapped them, and
// to open a ciphertext anywhere but in the row and field that it was sealed for.
//
// Its one invariant: a data key that was used is stored; a key made in a transaction that was rolled
// back is never used again.
package secrets

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/tink-crypto/tink-go/v2/aead"
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
func Lock(scope string) collections.Lock { return collections.Lock("secrets:" + scope) }

// Keeper seals and opens secrets. It is safe for concurrent use.
type Keeper struct {
	master Master

	mu   sync.Mutex
	keys map[string]tink.AEAD // by scope; only keys whose row is committed; guarded by mu
}

// New returns a Keeper over the app's data_keys. Call Check before anything is opened.
func New(_ core.App, master Master) (*Keeper, error) {
	if master == nil {
		return nil, fmt.Errorf("no master key: %w", ErrMasterKey)
	}
	return &Keeper{master: master, keys: map[string]tink.AEAD{}}, nil
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

// Check refuses a master key that did not wrap the data keys which exist: ErrMasterKey, with a text
// that says what to do. It is called once, before the first request is served.
func (k *Keeper) Check(app core.App) error {
	other, err := collections.One[collections.DataKey](app, collections.DataKeies,
		dbx.NewExp("[[master_id]] != {:id}", dbx.Params{"id": k.master.ID()}))
	switch {
	case err == nil:
		return fmt.Errorf("this installation's secrets were encrypted with master key %s, but %s was given; start with the former (file or MAMBA_MASTER_KEY): %w",
			other.MasterID(), k.master.ID(), ErrMasterKey)
	case !errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("read data keys: %w", err)
	}
	row, err := collections.One[collections.DataKey](app, collections.DataKeies)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read data keys: %w", err)
	}
	_, err = k.unwrap(row)
	return err
}

// Derive returns the 32-byte subkey of the master key for a purpose ("audit", "intent").
func (k *Keeper) Derive(purpose string) []byte { return k.master.Derive(purpose) }

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
		key, err := k.key(tx, scope)
		if errors.Is(err, ErrNoKey) {
			key, err = k.make(tx, scope)
		}
		if err != nil {
			return err
		}
		sealed, err := key.Encrypt(plain, bind)
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
	if err != nil {
		return nil, fmt.Errorf("open %s.%s: %w", ref.Table, ref.Field, err)
	}
	plain, err := key.Decrypt(raw, bind)
	if err != nil {
		return nil, fmt.Errorf("open %s.%s: %w", ref.Table, ref.Field, ErrSealed)
	}
	return plain, nil
}

// key returns the scope's key from the cache or its row. What was read inside a transaction may have
// been written by it, so it is kept only once that has committed.
func (k *Keeper) key(app core.App, scope string) (tink.AEAD, error) {
	k.mu.Lock()
	key, ok := k.keys[scope]
	k.mu.Unlock()
	if ok {
		return key, nil
	}
	row, err := collections.One[collections.DataKey](app, collections.DataKeies, dbx.HashExp{"scope": scope})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoKey
	}
	if err != nil {
		return nil, fmt.Errorf("read the data key: %w", err)
	}
	if key, err = k.unwrap(row); err != nil {
		return nil, err
	}
	collections.AfterCommit(app, func() { k.remember(scope, key) })
	return key, nil
}

func (k *Keeper) remember(scope string, key tink.AEAD) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[scope] = key
}

func (k *Keeper) make(tx core.App, scope string) (tink.AEAD, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a data key: %w", err)
	}
	var buf bytes.Buffer
	w := &wrapper{m: k.master}
	if err := handle.WriteWithAssociatedData(keyset.NewBinaryWriter(&buf), w, keyBind(scope)); err != nil {
		return nil, fmt.Errorf("wrap a data key: %w", errors.Join(w.err, err))
	}
	row, err := collections.NewDataKey(tx)
	if err != nil {
		return nil, err
	}
	row.SetScope(scope)
	row.SetWrapped(base64.StdEncoding.EncodeToString(buf.Bytes()))
	row.SetMasterID(k.master.ID())
	if err := permit.Save(tx, row); err != nil {
		return nil, fmt.Errorf("store a data key: %w", err)
	}
	key, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("use a data key: %w", err)
	}
	collections.AfterCommit(tx, func() { k.remember(scope, key) })
	return key, nil
}

func (k *Keeper) unwrap(row *collections.DataKey) (tink.AEAD, error) {
	refuse := fmt.Errorf("the data key of %q does not open with master key %s; restore the master key this database belongs to, or a database backup that belongs to this key: %w",
		row.Scope(), k.master.ID(), ErrMasterKey)
	raw, err := base64.StdEncoding.DecodeString(row.Wrapped())
	if err != nil {
		return nil, refuse
	}
	handle, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(raw)), &wrapper{m: k.master}, keyBind(row.Scope()))
	if err != nil {
		return nil, refuse
	}
	key, err := aead.New(handle)
	if err != nil {
		return nil, refuse
	}
	return key, nil
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
