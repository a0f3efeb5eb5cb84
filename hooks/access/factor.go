package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/secrets"
)

// Sealer is secrets.Keeper: what must be read back is stored sealed.
type Sealer interface {
	Seal(tx core.App, scope string, ref secrets.Ref, plain []byte) (string, error)
	Open(app core.App, scope string, ref secrets.Ref, sealed string) ([]byte, error)
}

// noSealer is for a door that has nobody who seals.
type noSealer struct{}

var errNoSealer = errors.New("access: nobody seals secrets here")

func (noSealer) Seal(core.App, string, secrets.Ref, []byte) (string, error) { return "", errNoSealer }

func (noSealer) Open(core.App, string, secrets.Ref, string) ([]byte, error) { return nil, errNoSealer }

// Kinds of events about second factors; their subject is the account.
const (
	EventFactorEnabled   = "account.mfa_enabled"          // the first of a person
	EventFactorDisabled  = "account.mfa_disabled"         // the last of a person is gone
	EventTOTPEnabled     = "account.totp_enabled"         // an authenticator, whether or not there are passkeys; details: first
	EventTOTPDisabled    = "account.totp_disabled"        // the same
	EventPasskeyAdded    = "account.passkey_added"        // details: name, first
	EventPasskeyRemoved  = "account.passkey_removed"      // details: name
	EventPasskeyCloned   = "account.passkey_cloned"       // its counter went back: two have it; details: name
	EventBackupCodeUsed  = "account.backup_code_used"     // details: left
	EventBackupCodesMade = "account.backup_codes_renewed" // those before are void
)

const (
	backupCodeCount  = 10
	backupCodeLength = 10 // base32 characters, 50 bits
	backupDomain     = "mamba-host backup code v1\x00"
)

// Tries of a second factor. Those that succeed do not count. One who guesses codes has the password already, so
// few are needed of one account; a network may be many people.
var (
	limitFactor        = limit{"factor", 5, 15 * time.Minute, "Too many wrong codes. Please try again in %s."}
	limitFactorNetwork = limit{"factornet", 20, 15 * time.Minute, "Too many wrong codes came from your network. Please try again in %s."}
)

// factors are the second factors of one person.
type factors struct {
	totp     bool // confirmed
	passkeys int64
	backup   int64 // codes that were not used
}

func (f factors) any() bool { return f.totp || f.passkeys > 0 }

// ways lists how a checkpoint may be answered, what is quickest first.
func (f factors) ways() []string {
	out := []string{}
	if f.passkeys > 0 {
		out = append(out, "passkey")
	}
	if f.totp {
		out = append(out, "code")
	}
	if f.backup > 0 {
		out = append(out, "backup_code")
	}
	return out
}

func factorsOf(app core.App, user string) (factors, error) {
	var row struct {
		TOTP     int64 `db:"totp"`
		Passkeys int64 `db:"passkeys"`
		Backup   int64 `db:"backup"`
	}
	err := app.ConcurrentDB().NewQuery(`SELECT (SELECT COUNT(*) FROM {{totp_factors}} WHERE [[user]] = {:user} AND [[confirmed_at]] != '') AS [[totp]],
		(SELECT COUNT(*) FROM {{passkeys}} WHERE [[user]] = {:user}) AS [[passkeys]],
		(SELECT COUNT(*) FROM {{backup_codes}} WHERE [[user]] = {:user} AND [[used_at]] = '') AS [[backup]]`).Bind(dbx.Params{"user": user}).One(&row)
	if err != nil {
		return factors{}, fmt.Errorf("look for the second factors of %s: %w", user, err)
	}
	return factors{totp: row.TOTP > 0, passkeys: row.Passkeys, backup: row.Backup}, nil
}

// RequireSecondFactor is 403 second_factor_required when a person has no second factor. It is asked at the door of
// an organisation that requires one, for whoever comes by a session of his or by a key that he owns.
func RequireSecondFactor(app core.App, user string) error {
	f, err := factorsOf(app, user)
	if err != nil || f.any() {
		return err
	}
	return Forbidden("second_factor_required", "This organisation lets in only those whose account has a second factor. Please set up two-factor sign-in or a passkey on your account page, then come back.")
}

// attempt counts a try of a second factor by network and, when user is given, by account; success gives them back.
// Nobody guesses a passkey, so those are not counted by account: wrong codes of somebody else shut nobody out who has one.
func (d *Access) attempt(app core.App, user, address string) (success func(), err error) {
	var back []func()
	success = func() {
		for _, fn := range back {
			fn()
		}
	}
	count := func(l limit, who string) error {
		at, err := d.hit(app, l, who)
		if err == nil {
			back = append(back, func() { d.regain(app, l, who, at) })
		}
		return err
	}
	if user != "" {
		if err := count(limitFactor, user); err != nil {
			return nil, err
		}
	}
	if err := count(limitFactorNetwork, network(address)); err != nil {
		success() // the account was not tried
		return nil, err
	}
	return success, nil
}

// presented is what somebody shows of a second factor: exactly one of the three.
type presented struct {
	Code       string         `json:"code"`        // of the authenticator
	BackupCode string         `json:"backup_code"` // one of ten
	Passkey    *passkeyAnswer `json:"passkey"`
}

// check refuses what names none of the three, or two.
func (p presented) check() error {
	n := 0
	for _, given := range []bool{p.Code != "", p.BackupCode != "", p.Passkey != nil} {
		if given {
			n++
		}
	}
	if n != 1 {
		return InvalidField("code", "required", "Please enter the code of your authenticator, or a backup code.")
	}
	return nil
}

// counted is for whom a try counts; see attempt.
func (p presented) counted(user string) string {
	if p.Passkey != nil {
		return ""
	}
	return user
}

// spendFactor takes what was presented, once, in the caller's transaction, which holds accountLocks. It returns the
// name of the way. A passkey's challenge has been taken before.
func (d *Access) spendFactor(tx core.App, a Actor, p presented, now time.Time) (string, error) {
	switch {
	case p.Code != "":
		return "totp", d.spendCode(tx, a.ID, p.Code, now)
	case p.BackupCode != "":
		return "backup", d.spendBackupCode(tx, a, p.BackupCode, now)
	}
	return "passkey", d.spendPasskey(tx, a.ID, p.Passkey, now)
}

func (d *Access) backupHash(user, code string) string {
	mac := hmac.New(sha256.New, d.key)
	mac.Write([]byte(backupDomain + user + "\x00" + code))
	return hex.EncodeToString(mac.Sum(nil))
}

// plainBackupCode takes away how a person writes a code down.
func plainBackupCode(code string) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' {
			return -1
		}
		return r
	}, code))
}

func (d *Access) spendBackupCode(tx core.App, a Actor, code string, now time.Time) error {
	res, err := tx.NonconcurrentDB().Update(collections.BackupCodes, dbx.Params{"used_at": collections.Stamp(now), "updated": types.NowDateTime().String()},
		dbx.HashExp{"user": a.ID, "code_hash": d.backupHash(a.ID, plainBackupCode(code)), "used_at": ""}).Execute()
	if err != nil {
		return fmt.Errorf("spend a backup code of %s: %w", a.ID, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		if err != nil {
			return err
		}
		return InvalidField("backup_code", "wrong", "This is none of your backup codes, or it was used before.")
	}
	f, err := factorsOf(tx, a.ID)
	if err != nil {
		return err
	}
	return d.noted(tx, a, "user.backup_code_use", EventBackupCodeUsed, map[string]any{"left": f.backup})
}

// makeBackupCodes gives a person ten new codes; those that he had are void. The codes are in no row.
func (d *Access) makeBackupCodes(tx core.App, user string) ([]string, error) {
	if _, err := tx.NonconcurrentDB().Delete(collections.BackupCodes, dbx.HashExp{"user": user}).Execute(); err != nil {
		return nil, fmt.Errorf("void the backup codes of %s: %w", user, err)
	}
	codes := make([]string, backupCodeCount)
	for i := range codes {
		plain := strings.ToLower(rand.Text()[:backupCodeLength])
		row, err := collections.NewBackupCode(tx)
		if err != nil {
			return nil, err
		}
		row.SetUser(user)
		row.SetCodeHash(d.backupHash(user, plain))
		if err := permit.Save(tx, row); err != nil {
			return nil, fmt.Errorf("store a backup code of %s: %w", user, err)
		}
		codes[i] = plain[:backupCodeLength/2] + "-" + plain[backupCodeLength/2:]
	}
	return codes, nil
}

// noted writes the audit row and the event of something about an account's second factors.
func (d *Access) noted(tx core.App, a Actor, action, kind string, details map[string]any) error {
	if d.alarm != nil {
		if err := d.alarm(tx, a, kind, details); err != nil {
			return fmt.Errorf("keep the event %s of %s: %w", kind, a.ID, err)
		}
	}
	return d.audit(tx, a, action, details)
}

// audit writes the audit row of something about an account.
func (d *Access) audit(tx core.App, a Actor, action string, details map[string]any) error {
	return d.auditor.Write(tx, a.Audit(), audit.Entry{Action: action, ResourceType: "users", Resource: a.ID, Metadata: details})
}

// factorGained is what follows a new factor: the first brings backup codes (nil otherwise), and all other sessions
// end, because who holds them has not shown it.
func (d *Access) factorGained(tx core.App, a Actor, before factors, now time.Time) (codes []string, err error) {
	if !before.any() {
		if codes, err = d.makeBackupCodes(tx, a.ID); err != nil {
			return nil, err
		}
		if err := d.noted(tx, a, "user.mfa_enable", EventFactorEnabled, map[string]any{}); err != nil {
			return nil, err
		}
	}
	return codes, d.onlyThisSession(tx, a, now)
}

// factorLost is what follows the loss of one: with the last go the backup codes.
func (d *Access) factorLost(tx core.App, a Actor, now time.Time) error {
	left, err := factorsOf(tx, a.ID)
	if err != nil {
		return err
	}
	if !left.any() {
		if _, err := tx.NonconcurrentDB().Delete(collections.BackupCodes, dbx.HashExp{"user": a.ID}).Execute(); err != nil {
			return fmt.Errorf("void the backup codes of %s: %w", a.ID, err)
		}
		if err := d.noted(tx, a, "user.mfa_disable", EventFactorDisabled, map[string]any{}); err != nil {
			return err
		}
	}
	return d.onlyThisSession(tx, a, now)
}

// onlyThisSession ends the other sessions of a person and has what is open of him asked about again.
func (d *Access) onlyThisSession(tx core.App, a Actor, now time.Time) error {
	live, err := liveSessions(tx, a.ID, now)
	if err != nil {
		return err
	}
	for _, s := range live {
		if s.Id == a.Session {
			continue
		}
		if err := end(tx, s.Id, endedFactor, now); err != nil {
			return err
		}
	}
	return d.told(tx, a.ID)
}

// Forget removes what a deleted account leaves here, in the transaction that deletes it.
func Forget(tx core.App, user string) error {
	for _, table := range []string{collections.TotpFactors, collections.BackupCodes, collections.Passkeies, collections.PasskeyChallenges, collections.SignInCheckpoints, collections.Sessions} {
		if _, err := tx.NonconcurrentDB().Delete(table, dbx.HashExp{"user": user}).Execute(); err != nil {
			return fmt.Errorf("forget the %s of %s: %w", table, user, err)
		}
	}
	for table, his := range map[string]dbx.HashExp{
		collections.APIKeies:         {"user": user, "tenant": ""}, // those of an organisation were revoked, and are its history
		collections.IdempotencyKeies: {"actor": TypeUser + ":" + user},
	} {
		if _, err := tx.NonconcurrentDB().Delete(table, his).Execute(); err != nil {
			return fmt.Errorf("forget the %s of %s: %w", table, user, err)
		}
	}
	return nil
}

// accountLocks are for a change of an account by its owner, and the installation's audit chain.
func accountLocks(user string) []collections.Lock {
	return []collections.Lock{userLock(user), audit.Lock("")}
}

// customer returns who asks, 403 for an operator: operators have PocketBase's own second step.
func customer(e *core.RequestEvent) (Actor, error) {
	a, err := From(e)
	if err == nil && a.Type != TypeUser {
		err = Forbidden("users_only", "This is for customers' accounts. An operator's second step is switched on in the dashboard.")
	}
	return a, err
}

// listFactors answers what protects the account of whoever asks.
func (d *Access) listFactors(e *core.RequestEvent) error {
	a, err := customer(e)
	if err != nil {
		return err
	}
	f, err := factorsOf(e.App, a.ID)
	if err != nil {
		return err
	}
	keys, err := passkeysOf(e.App, a.ID)
	if err != nil {
		return err
	}
	items := []PasskeyView{}
	for _, k := range keys {
		items = append(items, viewPasskey(k))
	}
	answer := map[string]any{"totp": f.totp, "backup_codes": f.backup, "passkeys": items, "passkeys_at": nil, "proven_until": nil}
	if d.relying != nil {
		answer["passkeys_at"] = d.relying.Config.RPOrigins[0]
	}
	if until, ok, err := d.provenUntil(e.App, a); err != nil {
		return err
	} else if ok {
		answer["proven_until"] = until.UTC().Format(time.RFC3339)
	}
	return e.JSON(http.StatusOK, answer)
}

// renewBackupCodes answers ten new codes, for a code or another second factor.
func (d *Access) renewBackupCodes(e *core.RequestEvent) error {
	a, p, err := d.presenting(e)
	if err != nil {
		return err
	}
	var codes []string
	err = d.withFactor(e, a, p, func(tx core.App, _ string) error {
		if codes, err = d.makeBackupCodes(tx, a.ID); err != nil {
			return err
		}
		if err := d.noted(tx, a, "user.backup_codes_renew", EventBackupCodesMade, map[string]any{}); err != nil {
			return err
		}
		return d.onlyThisSession(tx, a, time.Now())
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"backup_codes": codes})
}

// presenting reads the body of a route that takes a second factor and nothing else.
func (d *Access) presenting(e *core.RequestEvent) (Actor, presented, error) {
	var p presented
	a, err := customer(e)
	if err != nil {
		return Actor{}, p, err
	}
	if err := Bind(e, &p); err != nil {
		return Actor{}, p, err
	}
	return a, p, p.check()
}

// withFactor counts the try, takes the factor and runs fn in one transaction. A factor shown is a proof of who it is.
func (d *Access) withFactor(e *core.RequestEvent, a Actor, p presented, fn func(tx core.App, way string) error) error {
	f, err := factorsOf(e.App, a.ID)
	if err != nil {
		return err
	}
	if !f.any() {
		return Conflict("no_second_factor", "This account has no second factor.")
	}
	success, err := d.attempt(e.App, p.counted(a.ID), a.Address)
	if err != nil {
		return err
	}
	if err := d.takeChallenge(e.App, p.Passkey, purposeProve, a.Session); err != nil {
		return err
	}
	now := time.Now()
	err = collections.Tx(e.App, accountLocks(a.ID), func(tx core.App) error {
		way, err := d.spendFactor(tx, a, p, now)
		if err != nil {
			return err
		}
		if err := prove(tx, a, now); err != nil {
			return err
		}
		return fn(tx, way)
	})
	if err == nil {
		success()
	}
	return d.afterCloned(e.App, a, err)
}
