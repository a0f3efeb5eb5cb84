package access

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"image/png"
	"net/http"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/pquerna/otp/totp"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/secrets"
)

// The codes of authenticators are RFC 6238 as every authenticator takes it: SHA-1, 6 digits, 30 s.
const (
	totpPeriod     = 30 // seconds
	totpSkew       = 1  // windows before and after that are taken, for clocks that differ
	totpSecretSize = 20 // bytes, RFC 4226 §4 R6
	totpQRSize     = 240
	totpPending    = 30 * time.Minute // a secret that was not confirmed by then is void
)

// SealedTOTP is where the secrets of authenticators are.
var SealedTOTP = secrets.Sealed{Table: collections.TotpFactors, Field: "secret", Scope: secrets.OfSystem}

func totpRef(row string) secrets.Ref {
	return secrets.Ref{Table: collections.TotpFactors, Row: row, Field: "secret"}
}

// beginTOTP makes a secret and shows it. It counts for nothing until a code has proved it.
func (d *Access) beginTOTP(e *core.RequestEvent) error {
	a, err := customer(e)
	if err != nil {
		return err
	}
	if err := d.RequireProof(e.App, a); err != nil {
		return err
	}
	key, err := totp.Generate(totp.GenerateOpts{Issuer: d.issuer(e.App), AccountName: a.Email, Period: totpPeriod, SecretSize: totpSecretSize})
	if err != nil {
		return fmt.Errorf("make a secret for %s: %w", a.ID, err)
	}
	locks := append(accountLocks(a.ID), secrets.Lock(secrets.System))
	err = collections.Tx(e.App, locks, func(tx core.App) error {
		if err := a.Still(tx); err != nil {
			return err
		}
		row, err := totpOf(tx, a.ID)
		if errors.Is(err, sql.ErrNoRows) {
			if row, err = collections.NewTotpFactor(tx); err == nil {
				row.Id = core.GenerateDefaultRandomId() // the secret is sealed for it
			}
		}
		if err != nil {
			return err
		}
		if !row.ConfirmedAt().IsZero() {
			return Conflict("totp_enabled", "Your account has an authenticator already. Switch that off first if you want another.")
		}
		sealed, err := d.seal.Seal(tx, secrets.System, totpRef(row.Id), []byte(key.Secret()))
		if err != nil {
			return err
		}
		row.SetUser(a.ID)
		row.SetSecret(sealed)
		row.SetBegunAt(time.Now())
		row.SetLastStep(0)
		return permit.Save(tx, row)
	})
	if err != nil {
		return err
	}
	picture, err := key.Image(totpQRSize, totpQRSize)
	if err != nil {
		return fmt.Errorf("draw the code of %s: %w", a.ID, err)
	}
	var qr bytes.Buffer
	if err := png.Encode(&qr, picture); err != nil {
		return fmt.Errorf("draw the code of %s: %w", a.ID, err)
	}
	return e.JSON(http.StatusOK, map[string]string{
		"secret": key.Secret(), "uri": key.URL(), "qr": "data:image/png;base64," + base64.StdEncoding.EncodeToString(qr.Bytes()),
	})
}

// issuer is how authenticators call this installation.
func (d *Access) issuer(app core.App) string {
	name := strings.ReplaceAll(app.Settings().Meta.AppName, ":", " ") // a colon ends it, in the URI
	if strings.TrimSpace(name) == "" {
		return "Mamba Host"
	}
	return name
}

type codeInput struct {
	Code string `json:"code"`
}

// confirmTOTP switches the authenticator on, for its first code.
func (d *Access) confirmTOTP(e *core.RequestEvent) error {
	a, err := customer(e)
	if err != nil {
		return err
	}
	var in codeInput
	if err := Bind(e, &in); err != nil {
		return err
	}
	if in.Code == "" {
		return InvalidField("code", "required", "Please enter the code that your authenticator shows.")
	}
	success, err := d.attempt(e.App, a.ID, a.Address)
	if err != nil {
		return err
	}
	var codes []string
	now := time.Now()
	err = collections.Tx(e.App, accountLocks(a.ID), func(tx core.App) error {
		before, err := factorsOf(tx, a.ID)
		if err != nil {
			return err
		}
		row, err := totpOf(tx, a.ID)
		if errors.Is(err, sql.ErrNoRows) || err == nil && (!row.ConfirmedAt().IsZero() || now.Sub(row.BegunAt()) > totpPending) {
			return Conflict("totp_not_begun", "Nothing waits for a code. Please begin again.")
		}
		if err != nil {
			return err
		}
		if err := d.takeCode(tx, row, in.Code, now); err != nil {
			return err
		}
		if err := setFactor(tx, row.Id, dbx.Params{"confirmed_at": collections.Stamp(now)}); err != nil {
			return err
		}
		if err := d.noted(tx, a, "user.totp_enable", EventTOTPEnabled, map[string]any{"first": !before.any()}); err != nil {
			return err
		}
		if err := prove(tx, a, now); err != nil {
			return err
		}
		codes, err = d.factorGained(tx, a, before, now)
		return err
	})
	if err != nil {
		return err
	}
	success()
	return e.JSON(http.StatusOK, map[string]any{"backup_codes": codes})
}

// disableTOTP takes the authenticator away, for a code of it, a backup code or a passkey.
func (d *Access) disableTOTP(e *core.RequestEvent) error {
	a, p, err := d.presenting(e)
	if err != nil {
		return err
	}
	err = d.withFactor(e, a, p, func(tx core.App, way string) error {
		res, err := tx.NonconcurrentDB().Delete(collections.TotpFactors, dbx.NewExp("[[user]] = {:user} AND [[confirmed_at]] != ''", dbx.Params{"user": a.ID})).Execute()
		if err != nil {
			return fmt.Errorf("take away the authenticator of %s: %w", a.ID, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, Conflict("no_second_factor", "This account has no authenticator."))
		}
		if err := d.noted(tx, a, "user.totp_disable", EventTOTPDisabled, map[string]any{"with": way}); err != nil {
			return err
		}
		return d.factorLost(tx, a, time.Now())
	})
	if err != nil {
		return err
	}
	return e.NoContent(http.StatusNoContent)
}

func totpOf(app core.App, user string) (*collections.TotpFactor, error) {
	return collections.One[collections.TotpFactor](app, collections.TotpFactors, dbx.HashExp{"user": user})
}

// spendCode takes a code of a person's authenticator, once.
func (d *Access) spendCode(tx core.App, user, code string, now time.Time) error {
	row, err := totpOf(tx, user)
	if errors.Is(err, sql.ErrNoRows) || err == nil && row.ConfirmedAt().IsZero() {
		return wrongCode()
	}
	if err != nil {
		return fmt.Errorf("find the authenticator of %s: %w", user, err)
	}
	return d.takeCode(tx, row, code, now)
}

// takeCode finds the window that a code is of and takes it if it is later than the last that was taken. One
// statement decides and writes, so that of two at once, on any instance, one is refused.
func (d *Access) takeCode(tx core.App, row *collections.TotpFactor, code string, now time.Time) error {
	secret, err := d.seal.Open(tx, secrets.System, totpRef(row.Id), row.Secret())
	if err != nil {
		return fmt.Errorf("open the secret of %s: %w", row.User(), err)
	}
	code = strings.ReplaceAll(code, " ", "")
	if len(code) != int(otp.DigitsSix) {
		return wrongCode()
	}
	step := int64(-1)
	current := now.Unix() / totpPeriod
	for at := current - totpSkew; at <= current+totpSkew; at++ {
		ok, err := hotp.ValidateCustom(code, uint64(at), string(secret), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if err != nil {
			return fmt.Errorf("check a code of %s: %w", row.User(), err)
		}
		if ok {
			step = at
		}
	}
	if step < 0 {
		return wrongCode()
	}
	res, err := tx.NonconcurrentDB().Update(collections.TotpFactors, dbx.Params{"last_step": step, "updated": types.NowDateTime().String()},
		dbx.NewExp("[[id]] = {:id} AND [[last_step]] < {:step}", dbx.Params{"id": row.Id, "step": step})).Execute()
	if err != nil {
		return fmt.Errorf("take a code of %s: %w", row.User(), err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, InvalidField("code", "used", "This code was used already. Please wait for the next one."))
	}
	return nil
}

func wrongCode() *Error {
	return InvalidField("code", "wrong", "This code is not right. Please enter the one that your authenticator shows now.")
}

func setFactor(tx core.App, id string, set dbx.Params) error {
	set["updated"] = types.NowDateTime().String()
	if _, err := tx.NonconcurrentDB().Update(collections.TotpFactors, set, dbx.HashExp{"id": id}).Execute(); err != nil {
		return fmt.Errorf("write the authenticator %s: %w", id, err)
	}
	return nil
}
