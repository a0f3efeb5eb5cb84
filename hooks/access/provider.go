package access

import (
	"fmt"
	"net/http"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
)

// A code by mail and a provider let somebody in, and PocketBase may change his account at that: it confirms an address,
// sets a password aside that somebody else may have chosen, ties the account to the provider. What it does so is in the
// transaction that begins the session, with rows of its own.

// SignInByCode is the handler of OnRecordAuthWithOTPRequest("users").
func (d *Access) SignInByCode(e *core.RecordAuthWithOTPRequestEvent) error {
	confirmed := e.Record.Verified()
	return d.signingIn(e.RequestEvent, func(tx core.App) error {
		if err := e.Next(); err != nil {
			return err
		}
		return d.confirmed(tx, e.RequestEvent, e.Record, confirmed)
	})
}

// SignInByProvider is the handler of OnRecordAuthWithOAuth2Request("users"). That an account is new is written where it
// is made (UserCreateRequest).
func (d *Access) SignInByProvider(e *core.RecordAuthWithOAuth2RequestEvent) error {
	if e.Record == nil {
		return e.Next()
	}
	confirmed := e.Record.Verified()
	return d.signingIn(e.RequestEvent, func(tx core.App) error {
		before, err := tied(tx, e)
		if err != nil {
			return err
		}
		if before == "" && e.Auth != nil { // who is signed in ties a provider to his account: another way in
			a, err := actorOf(e.RequestEvent, e.Auth)
			if err != nil {
				return err
			}
			if err := d.RequireProof(tx, a); err != nil {
				return d.refuse(e.RequestEvent, err)
			}
		}
		if err := e.Next(); err != nil {
			return err
		}
		after, err := tied(tx, e)
		if err != nil {
			return err
		}
		if after != before {
			if err := d.writeAs(tx, e.RequestEvent, e.Record, "user.provider_add", map[string]any{"provider": e.ProviderName}); err != nil {
				return err
			}
		}
		return d.confirmed(tx, e.RequestEvent, e.Record, confirmed)
	})
}

// ProviderRemove is the handler of OnRecordDeleteRequest("_externalAuths") of a person: what changes how one signs in asks
// for a proof.
func (d *Access) ProviderRemove(e *core.RecordRequestEvent) error {
	a, err := actorOf(e.RequestEvent, e.Auth)
	if err != nil {
		return err
	}
	if err := d.RequireProof(e.App, a); err != nil {
		return d.refuse(e.RequestEvent, err)
	}
	return d.Witness(e.RequestEvent, e.Next, func() (*core.Record, audit.Entry) {
		return e.Auth, audit.Entry{Action: "user.provider_remove", ResourceType: "users", Resource: e.Auth.Id, Metadata: map[string]any{"provider": e.Record.GetString("provider")}}
	})
}

// OperatorSignedIn is the handler of OnRecordAuthRequest("_superusers"). A token that is renewed is no sign-in.
func (d *Access) OperatorSignedIn(e *core.RecordAuthRequestEvent) error {
	if e.AuthMethod == "" {
		return e.Next()
	}
	a, err := actorOf(e.RequestEvent, e.Record)
	if err != nil {
		return err
	}
	err = d.auditor.Write(e.App, a.Audit(), audit.Entry{Action: "superuser.sign_in", ResourceType: core.CollectionNameSuperusers, Resource: e.Record.Id, Metadata: map[string]any{"method": e.AuthMethod}})
	if err != nil {
		return fmt.Errorf("write down a sign-in of the operator %s: %w", e.Record.Id, err)
	}
	return e.Next()
}

// tied is the id of what ties the account of a request to the provider; "" for nothing.
func tied(tx core.App, e *core.RecordAuthWithOAuth2RequestEvent) (string, error) {
	all, err := tx.FindAllExternalAuthsByRecord(e.Record)
	for _, one := range all {
		if one.Provider() == e.ProviderName && one.ProviderId() == e.OAuth2User.Id {
			return one.Id, err
		}
	}
	return "", err
}

// confirmed writes down that an address was confirmed by signing in.
func (d *Access) confirmed(tx core.App, e *core.RequestEvent, r *core.Record, before bool) error {
	if before || !r.Verified() {
		return nil
	}
	return d.writeAs(tx, e, r, "user.verify", nil)
}

// afterCommit runs fn when the transaction of app has committed, at once outside of one. It is for an answer: unlike with
// collections.AfterCommit, its fault is the request's.
func afterCommit(app core.App, fn func() error) error {
	tx := app.TxInfo()
	if tx == nil {
		return fn()
	}
	tx.OnComplete(func(err error) error {
		if err != nil {
			return nil
		}
		return fn()
	})
	return nil
}

// writeAs writes a row about an account, whose act it is.
func (d *Access) writeAs(tx core.App, e *core.RequestEvent, r *core.Record, action string, metadata map[string]any) error {
	a, err := actorOf(e, r)
	if err != nil {
		return err
	}
	return d.auditor.Write(tx, a.Audit(), audit.Entry{Action: action, ResourceType: "users", Resource: r.Id, Metadata: metadata})
}

// signingIn is together for a way in: what was put into the answer for a session is taken out when there is none.
func (d *Access) signingIn(e *core.RequestEvent, fn func(tx core.App) error) error {
	err := d.together(e, fn)
	if err != nil {
		e.Response.Header().Del("Set-Cookie")
		e.Response.Header().Del(RefreshHeader)
	}
	return err
}

// together runs fn, which runs the rest of a chain of PocketBase's hooks, in a transaction that holds the lock of the
// installation's audit chain.
func (d *Access) together(e *core.RequestEvent, fn func(tx core.App) error) error {
	outer, ran := e.App, false
	defer func() { e.App = outer }()
	return collections.Tx(outer, []collections.Lock{audit.Lock("")}, func(tx core.App) error {
		if ran { // a chain of hooks can run only once, so the database's retry is left to the person
			return e.Error(http.StatusServiceUnavailable, "We are busy right now. Please try again.", nil)
		}
		ran, e.App = true, tx
		return fn(tx)
	})
}
