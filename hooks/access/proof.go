package access

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
)

// ProofLife is how long a session counts as one whose owner has just shown who he is: by signing in, or by a proof.
// What changes how one signs in asks for it, so that an unlocked screen or a stolen session is not enough.
const ProofLife = 10 * time.Minute

// RequireProof is 403 proof_required unless the actor's session had a proof within ProofLife.
func (d *Access) RequireProof(app core.App, a Actor) error {
	if _, ok, err := d.provenUntil(app, a); err != nil || ok {
		return err
	}
	return Forbidden("proof_required", "Please show once more that it is you, then try again.")
}

// provenUntil is when the last proof of the actor's session ends; ok is false when it has ended.
func (d *Access) provenUntil(app core.App, a Actor) (until time.Time, ok bool, err error) {
	if a.Session == "" {
		return time.Time{}, false, nil
	}
	s, err := sessionOf(app, a.Session, a.ID)
	if err != nil || s == nil {
		return time.Time{}, false, err
	}
	until = s.ProvenAt().Add(ProofLife)
	return until, time.Now().Before(until), nil
}

// prove writes down that the actor has shown who he is, in the caller's transaction.
func prove(tx core.App, a Actor, now time.Time) error {
	if a.Session == "" {
		return nil
	}
	_, err := write(tx, a.Session, dbx.Params{"proven_at": collections.Stamp(now)}, dbx.HashExp{})
	return err
}

type proofInput struct {
	presented
	Password string `json:"password"`
}

// proof takes the password of an account without a second factor, or a second factor.
func (d *Access) proof(e *core.RequestEvent) error {
	a, err := customer(e)
	if err != nil {
		return err
	}
	var in proofInput
	if err := Bind(e, &in); err != nil {
		return err
	}
	if a.Session == "" {
		return Conflict("no_session", "This token belongs to no session. Please sign in.")
	}
	f, err := factorsOf(e.App, a.ID)
	if err != nil {
		return err
	}
	now := time.Now()
	written := func(tx core.App, way string) error {
		return d.auditor.Write(tx, a.Audit(), audit.Entry{Action: "session.prove", ResourceType: collections.Sessions, Resource: a.Session, Metadata: map[string]any{"with": way}})
	}
	if f.any() {
		if err := in.check(); err != nil || in.Password != "" {
			return errors.Join(err, InvalidField("code", "required", "Your account has a second factor. Please use that."))
		}
		err = d.withFactor(e, a, in.presented, written)
	} else {
		err = d.proofByPassword(e, a, in, now, written)
	}
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]string{"proven_until": now.Add(ProofLife).UTC().Format(time.RFC3339)})
}

func (d *Access) proofByPassword(e *core.RequestEvent, a Actor, in proofInput, now time.Time, written func(core.App, string) error) error {
	if in.Password == "" || in.presented != (presented{}) {
		return InvalidField("password", "required", "Please enter your password.")
	}
	success, err := d.attempt(e.App, a.ID, a.Address)
	if err != nil {
		return err
	}
	if !e.Auth.ValidatePassword(in.Password) {
		return InvalidField("password", "wrong", "This is not your password. If you have none, sign out and in again: that counts, too.")
	}
	err = collections.Tx(e.App, accountLocks(a.ID), func(tx core.App) error {
		if err := prove(tx, a, now); err != nil {
			return err
		}
		return written(tx, "password")
	})
	if err != nil {
		return fmt.Errorf("prove the session %s: %w", a.Session, err)
	}
	success()
	return nil
}
