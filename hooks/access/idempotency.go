package access

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
)

// IdempotencyHeader names a request, so that sending it again has no second effect. ReplayedHeader
// is on an answer that was given before.
const (
	IdempotencyHeader = "Idempotency-Key"
	ReplayedHeader    = "Idempotency-Replayed"
)

const (
	idempotencyFor  = 24 * time.Hour // how long an answer is remembered
	maxKeyLength    = 128
	purgeBatch      = 500 // rows per transaction of Purge
	maxPurgeBatches = 200 // per table and run; the rest goes with the next run
)

// Idempotent runs fn in one transaction that holds the locks, and answers the request with what it
// returns. With an Idempotency-Key the answer is stored in that same transaction: the same request
// of the same actor in the same tenant gets the same answer for 24 hours without running fn, another
// request under the key gets 409 idempotency_mismatch. An error of fn rolls all back and is not
// remembered, so it can be tried again.
//
// The answer is kept in clear: a route that answers with a secret must not use it. fn may run twice
// and must use only tx. It does not run (401) when the sign-in that the actor came by has ended meanwhile.
func (d *Access) Idempotent(e *core.RequestEvent, a Actor, tenant string, body []byte, locks []collections.Lock, fn func(tx core.App) (status int, answer any, err error)) error {
	key := e.Request.Header.Get(IdempotencyHeader)
	if err := checkKey(key); err != nil {
		return err
	}
	slot := keySlot{tenant: tenant, actor: a.who(), key: key}
	slot.fingerprint = fingerprint(e.Request.Method, e.Request.URL.Path, tenant, string(body))
	locks = slices.Clone(locks)
	if key != "" {
		locks = append(locks, slot.lock())
	}
	var status int
	var answer []byte
	replayed := false
	err := collections.Tx(e.App, locks, func(tx core.App) error {
		if key != "" {
			row, err := slot.find(tx)
			if err != nil {
				return err
			}
			if row != nil {
				status, answer, replayed = int(row.Status()), []byte(row.GetString("answer")), true
				return nil
			}
		}
		replayed = false
		if err := a.Still(tx); err != nil { // it may have ended since the request came in
			return err
		}
		s, v, err := fn(tx)
		if err != nil {
			return err
		}
		if status = s; v == nil {
			v = map[string]any{}
		}
		if answer, err = json.Marshal(v, json.Deterministic(true)); err != nil {
			return fmt.Errorf("encode the answer of %s %s: %w", e.Request.Method, e.Request.URL.Path, err)
		}
		if key == "" {
			return nil
		}
		return slot.store(tx, status, answer)
	})
	if err != nil {
		return err
	}
	if replayed {
		e.Response.Header().Set(ReplayedHeader, "true")
	}
	return e.Blob(status, "application/json", answer)
}

func checkKey(key string) error {
	for _, r := range key {
		if r <= ' ' || r > '~' {
			return BadRequest("idempotency_key_invalid", "The Idempotency-Key may hold letters, digits and signs only.")
		}
	}
	if len(key) > maxKeyLength {
		return BadRequest("idempotency_key_invalid", fmt.Sprintf("The Idempotency-Key may have at most %d characters.", maxKeyLength))
	}
	return nil
}

// keySlot is one key of one actor in one tenant, and the request that it is used for.
type keySlot struct{ tenant, actor, key, fingerprint string }

func (s keySlot) lock() collections.Lock {
	return collections.Lock("idempotency:" + fingerprint(s.tenant, s.actor, s.key))
}

// find returns the stored answer of the same request, nil when there is none yet, 409 when the key
// was used for another request. An expired row is removed.
func (s keySlot) find(tx core.App) (*collections.IdempotencyKey, error) {
	row, err := collections.One[collections.IdempotencyKey](tx, collections.IdempotencyKeies, dbx.HashExp{"tenant": s.tenant, "actor": s.actor, "key": s.key})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a stored answer: %w", err)
	}
	if !row.ExpiresAt().After(time.Now()) {
		if err := permit.Delete(tx, row.ProxyRecord()); err != nil {
			return nil, fmt.Errorf("remove an expired answer: %w", err)
		}
		return nil, nil
	}
	if row.Fingerprint() != s.fingerprint {
		return nil, Conflict("idempotency_mismatch", "This Idempotency-Key was used for another request. Please use a new one.")
	}
	return row, nil
}

func (s keySlot) store(tx core.App, status int, answer []byte) error {
	row, err := collections.NewIdempotencyKey(tx)
	if err != nil {
		return err
	}
	row.SetTenant(s.tenant)
	row.SetActor(s.actor)
	row.SetKey(s.key)
	row.SetFingerprint(s.fingerprint)
	row.SetStatus(int64(status))
	row.Set("answer", types.JSONRaw(answer))
	row.SetExpiresAt(time.Now().Add(idempotencyFor))
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("store the answer: %w", err)
	}
	return nil
}

// fingerprint is the SHA-256 of the parts, each with its length, in hex.
func fingerprint(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Purge removes spent tokens, stored answers and counted attempts whose time is over, in short transactions, and
// returns how many rows went. It is for a cron entry; running it twice at once does no harm.
func Purge(app core.App) (int64, error) {
	total, err := purgeKeys(app, time.Now())
	if err != nil {
		return total, err
	}
	for _, table := range []string{collections.SpentTokens, collections.IdempotencyKeies, collections.RateLimits, collections.Sessions,
		collections.SignInCheckpoints, collections.PasskeyChallenges} {
		for range maxPurgeBatches {
			var n int64
			err := collections.Tx(app, nil, func(tx core.App) error {
				res, err := tx.NonconcurrentDB().NewQuery("DELETE FROM {{" + table + "}} WHERE [[id]] IN (SELECT [[id]] FROM {{" + table + "}} WHERE [[expires_at]] < {:now} LIMIT {:batch})").
					Bind(dbx.Params{"now": types.NowDateTime().String(), "batch": purgeBatch}).Execute()
				if err != nil {
					return err
				}
				n, err = res.RowsAffected()
				return err
			})
			if err != nil {
				return total, fmt.Errorf("purge %s: %w", table, err)
			}
			if total += n; n < purgeBatch {
				break
			}
		}
	}
	return total, nil
}
