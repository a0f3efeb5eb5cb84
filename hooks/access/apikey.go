package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// TypeAPIKey is the type of an actor that comes by an API key. Its ID is the holder's: whoever is asked what he may
// asks for him, and then what the key leaves of it.
const TypeAPIKey = "apikey"

// An API key reads mk_<26 characters drawn><7 of a check sum>, in the alphabet of base32 and small letters. The prefix
// and the sum are for those who look for secrets in what was published, and spare a look into the database.
const (
	keyPrefix = "mk_"
	keyDrawn  = 26 // characters, 130 bits
	keyHint   = len(keyPrefix) + 6
	keyDomain = "mamba-host api key v1\x00" // keeps the key's other uses apart
	keyKey    = "mamba.access.apikey"
)

// Why an API key was revoked, as its row says.
const (
	KeyByUser  = "by_user"
	KeyLeft    = "left"    // its holder is no member any more
	KeyDeleted = "deleted" // its organisation is gone
)

var keyEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Key is what an API key leaves of its holder's rights.
type Key struct {
	ID          string
	Name        string
	Tenant      string    // of an organisation's key; empty: a personal one
	Permissions []string  // that it may use
	Servers     []string  // that it may touch; empty: all
	Expires     time.Time // zero: never
}

// Allows says whether the key may use a permission at all.
func (k *Key) Allows(permission string) bool { return slices.Contains(k.Permissions, permission) }

// Reaches says whether the key may touch a server.
func (k *Key) Reaches(server string) bool {
	return len(k.Servers) == 0 || slices.Contains(k.Servers, server)
}

// keyed is what a request with an API key carries: an actor, or why there is none.
type keyed struct {
	key  *Key
	user *core.Record
	err  error
}

// newKey draws a key.
func newKey() string {
	body := keyPrefix + strings.ToLower(rand.Text()[:keyDrawn])
	return body + keySum(body)
}

func keySum(body string) string {
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], crc32.ChecksumIEEE([]byte(body)))
	return keyEncoding.EncodeToString(sum[:])
}

// looksLikeKey tells a whole key from what only begins like one.
func looksLikeKey(token string) bool {
	at := len(keyPrefix) + keyDrawn
	return len(token) == at+7 && strings.HasPrefix(token, keyPrefix) && token[at:] == keySum(token[:at])
}

func (d *Access) keyHash(token string) string {
	h := hmac.New(sha256.New, d.key)
	h.Write([]byte(keyDomain + token))
	return hex.EncodeToString(h.Sum(nil))
}

// LoadKey is middleware for every route, after PocketBase has read the token: it knows an API key by its beginning.
// PocketBase's own routes never see one: there it is nobody's.
func (d *Access) LoadKey(e *core.RequestEvent) error {
	token := bearerToken(e.Request)
	if !strings.HasPrefix(token, keyPrefix) {
		return e.Next()
	}
	e.Auth = nil
	if _, path, _ := strings.Cut(e.Request.Pattern, " "); strings.HasPrefix(path, "/api/v1/") {
		found := d.readKey(e, token)
		e.Set(keyKey, found) // From says what is wrong with it, after the limits have counted it
	}
	return e.Next()
}

// readKey finds what a key stands for and notes its use.
func (d *Access) readKey(e *core.RequestEvent, token string) keyed {
	refused := Unauthenticated("key_invalid", "This API key is not valid, or not any more. Please make a new one.")
	if !looksLikeKey(token) {
		return keyed{err: refused}
	}
	row, err := collections.One[collections.APIKey](e.App, collections.APIKeies, dbx.HashExp{"token_hash": d.keyHash(token)})
	if errors.Is(err, sql.ErrNoRows) {
		return keyed{err: refused}
	}
	if err != nil {
		return keyed{err: fmt.Errorf("find an API key: %w", err)}
	}
	now := time.Now()
	if !keyLives(row, now) {
		return keyed{err: refused}
	}
	user, err := e.App.FindRecordById("users", row.User())
	if errors.Is(err, sql.ErrNoRows) {
		return keyed{err: refused}
	}
	if err != nil {
		return keyed{err: fmt.Errorf("find the account of API key %s: %w", row.Id, err)}
	}
	if err := comesFrom(row, e.RealIP()); err != nil {
		return keyed{err: err}
	}
	d.uses.note(row.Id, cut(e.RealIP(), 64), now)
	key, err := keyOf(row)
	return keyed{key: key, user: user, err: err}
}

func keyLives(row *collections.APIKey, now time.Time) bool {
	return row.RevokedAt().IsZero() && (row.ExpiresAt().IsZero() || now.Before(row.ExpiresAt()))
}

func keyOf(row *collections.APIKey) (*Key, error) {
	k := &Key{ID: row.Id, Name: row.Name(), Tenant: row.Tenant(), Expires: row.ExpiresAt()}
	if err := errors.Join(row.Permissions(&k.Permissions), row.Servers(&k.Servers)); err != nil {
		return nil, fmt.Errorf("read API key %s: %w", row.Id, err)
	}
	return k, nil
}

// comesFrom is 403 for an address that the key is not for.
func comesFrom(row *collections.APIKey, address string) error {
	var list []string
	if err := row.Addresses(&list); err != nil {
		return fmt.Errorf("read the addresses of API key %s: %w", row.Id, err)
	}
	if len(list) == 0 {
		return nil
	}
	ip, err := netip.ParseAddr(address)
	ip = ip.Unmap().WithZone("")
	for _, text := range list {
		if p, fault := netip.ParsePrefix(text); err == nil && fault == nil && p.Contains(ip) {
			return nil
		}
	}
	return Forbidden("key_address", fmt.Sprintf("This API key cannot be used from your address, %s.", cut(address, 64)))
}

// personal begins the paths of what is a person's, whatever organisation he is in: no permission covers it, so no key is
// given it.
var personal = []string{"/api/v1/account", "/api/v1/notifications"}

// keyActor is who makes a request with an API key.
func keyActor(e *core.RequestEvent, k keyed) (Actor, error) {
	if k.err != nil {
		return Actor{}, k.err
	}
	method, path, _ := strings.Cut(e.Request.Pattern, " ")
	if slices.ContainsFunc(personal, func(p string) bool { return strings.HasPrefix(path, p) }) && (method != "GET" || path != "/api/v1/account") {
		return Actor{}, Forbidden("key_not_here", "An API key cannot look after an account. Please sign in for this.")
	}
	a, err := actorOf(e, k.user)
	if err != nil {
		return Actor{}, err
	}
	return a.by(k.key), nil
}

// by turns an account into one of its keys.
func (a Actor) by(k *Key) Actor {
	a.Type, a.Key, a.Session, a.stamp = TypeAPIKey, k, "", ""
	a.Name = k.Name + " (API key of " + a.Name + ")"
	if k.Tenant != "" && a.TenantHint == "" {
		a.TenantHint = k.Tenant
	}
	return a
}

// who names an actor among all others, the key and not its holder.
func (a Actor) who() string {
	if a.Key != nil {
		return TypeAPIKey + ":" + a.Key.ID
	}
	return a.Type + ":" + a.ID
}

// liveKey finds a key that goes on; 401 when it does not.
func liveKey(app core.App, id string) (*collections.APIKey, error) {
	row, err := collections.FindAPIKey(app, id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("find API key %s: %w", id, err)
	}
	if err != nil || !keyLives(row, time.Now()) {
		return nil, Unauthenticated("key_invalid", "This API key is not valid any more.").Because(ErrTokenInvalid)
	}
	return row, nil
}

// redeemed is the actor of an intent token that an API key has asked for.
func redeemed(e *core.RequestEvent, a Actor, key string) (Actor, error) {
	row, err := liveKey(e.App, key)
	if err != nil {
		return Actor{}, err
	}
	if row.User() != a.ID {
		return Actor{}, Unauthenticated("token_invalid", "This link or connection is not valid.").Because(ErrTokenInvalid)
	}
	if err := comesFrom(row, a.Address); err != nil {
		return Actor{}, err
	}
	k, err := keyOf(row)
	if err != nil {
		return Actor{}, err
	}
	return a.by(k), nil
}
