package access

import (
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
)

// A sign-in of somebody with a second factor ends at a checkpoint: instead of a session he gets a token that is good
// for showing that factor and nothing else. It names nobody: its row does.
const (
	checkpointLife   = 10 * time.Minute
	checkpointPrefix = "mc1."
	checkpointKey    = "mamba.access.checkpoint"
	passedKey        = "mamba.access.passed"
)

// checkpoint is what a sign-in that has to go on answers.
type checkpoint struct {
	Token   string         `json:"token"`
	Expires types.DateTime `json:"expires_at"`
	Ways    []string       `json:"ways"` // passkey, code, backup_code
}

// hold makes a checkpoint, in the transaction that would have begun a session.
func hold(tx core.App, user *core.Record, method string, f factors, now time.Time) (*checkpoint, error) {
	row, err := collections.NewSignInCheckpoint(tx)
	if err != nil {
		return nil, err
	}
	c := &checkpoint{Token: checkpointPrefix + rand.Text() + rand.Text(), Ways: f.ways()}
	row.SetUser(user.Id)
	row.SetTokenHash(hashOf(c.Token))
	row.SetMethod(cut(method, 16))
	row.SetStamp(stampOf(user))
	row.SetExpiresAt(now.Add(checkpointLife))
	if err := permit.Save(tx, row); err != nil {
		return nil, fmt.Errorf("store a checkpoint of %s: %w", user.Id, err)
	}
	return c, c.Expires.Scan(row.ExpiresAt())
}

// answer sends a checkpoint in the shape of an error, so that no client takes it for a sign-in.
func (c *checkpoint) answer(e *core.RequestEvent) error {
	e.Set(checkpointKey, true)
	return e.JSON(http.StatusUnauthorized, map[string]any{
		"status": http.StatusUnauthorized, "code": "second_factor_needed", "message": "Please show your second factor to go on.", "data": map[string]any{},
		"request_id": RequestID(e), "checkpoint": c,
	})
}

func checkpointEnded() *Error {
	return Unauthenticated("checkpoint_ended", "This sign-in took too long, or was finished already. Please begin again.")
}

// checkpointOf finds the open checkpoint of a token, and its account as it is now.
func checkpointOf(app core.App, token string, now time.Time) (*collections.SignInCheckpoint, *core.Record, error) {
	if !strings.HasPrefix(token, checkpointPrefix) || len(token) > maxIntentBytes {
		return nil, nil, checkpointEnded()
	}
	row, err := collections.One[collections.SignInCheckpoint](app, collections.SignInCheckpoints, dbx.HashExp{"token_hash": hashOf(token)})
	if errors.Is(err, sql.ErrNoRows) || err == nil && (!row.UsedAt().IsZero() || !now.Before(row.ExpiresAt())) {
		return nil, nil, checkpointEnded()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("find a checkpoint: %w", err)
	}
	user, err := app.FindRecordById("users", row.User())
	if errors.Is(err, sql.ErrNoRows) || err == nil && stampOf(user) != row.Stamp() {
		return nil, nil, checkpointEnded() // a new password since, or the account is gone
	}
	if err != nil {
		return nil, nil, fmt.Errorf("find the account of a checkpoint: %w", err)
	}
	return row, user, nil
}

type checkpointInput struct {
	presented
	Checkpoint string `json:"checkpoint"`
}

// pass begins the session that a checkpoint held up, for a second factor of the account that it was made for.
func (d *Access) pass(e *core.RequestEvent) error {
	var in checkpointInput
	if err := Bind(e, &in); err != nil {
		return err
	}
	now := time.Now()
	row, user, err := checkpointOf(e.App, in.Checkpoint, now)
	if err != nil {
		return err
	}
	if err := in.check(); err != nil {
		return err
	}
	a, err := actorOf(e, user)
	if err != nil {
		return err
	}
	success, err := d.attempt(e.App, in.counted(user.Id), e.RealIP())
	if err != nil {
		return err
	}
	if err := d.takeChallenge(e.App, in.Passkey, purposeCheckpoint, row.Id); err != nil {
		return err
	}
	var way string
	err = collections.Tx(e.App, accountLocks(user.Id), func(tx core.App) error {
		res, err := tx.NonconcurrentDB().Update(collections.SignInCheckpoints, dbx.Params{"used_at": collections.Stamp(now), "updated": types.NowDateTime().String()},
			dbx.HashExp{"id": row.Id, "used_at": ""}).Execute()
		if err != nil {
			return fmt.Errorf("pass a checkpoint: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, checkpointEnded())
		}
		way, err = d.spendFactor(tx, a, in.presented, now)
		return err
	})
	if err := d.afterCloned(e.App, a, err); err != nil {
		return err
	}
	success()
	return d.passed(e, user, row.Method()+"+"+way)
}

// passed answers as PocketBase does after a sign-in: its rules, alerts and hooks, and SignedIn among them, which lets
// this one begin a session.
func (d *Access) passed(e *core.RequestEvent, user *core.Record, method string) error {
	e.Set(passedKey, user.Id)
	e.Request.Body = io.NopCloser(strings.NewReader("{}")) // PocketBase's rules read it, and need not know what was shown
	return apis.RecordAuthResponse(e, user, method, nil)
}

// checkpointOptions answers what a browser asks the passkeys of the account by that a checkpoint holds.
func (d *Access) checkpointOptions(e *core.RequestEvent) error {
	var in struct {
		Checkpoint string `json:"checkpoint"`
	}
	if err := Bind(e, &in); err != nil {
		return err
	}
	row, user, err := checkpointOf(e.App, in.Checkpoint, time.Now())
	if err != nil {
		return err
	}
	return d.askPasskey(e, user, purposeCheckpoint, row.Id)
}
