package access

import (
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Types of actors that come through the door.
const (
	TypeUser      = "user"
	TypeSuperuser = "superuser"
)

// TenantHeader names the tenant of a request, by id or slug. Only a member may name it.
const TenantHeader = "X-Tenant"

const maxUserAgent = 255 // characters kept of it, as audit_logs.user_agent

// Actor is who makes a request.
type Actor struct {
	Type       string // TypeUser, TypeSuperuser or TypeAPIKey
	ID         string // of the record in users or _superusers; of an API key's holder
	Email      string
	Name       string // as shown; the address when none was given
	Verified   bool   // the e-mail address is confirmed
	Superuser  bool
	TenantHint string // X-Tenant as sent: id or slug, not checked yet
	Address    string // of the client, as far as the trusted proxy settings say
	UserAgent  string
	Request    string // request id
	Key        *Key   // that he came by; nil: he came himself
	Session    string // that the token is of; empty for an operator, and for a token that he made

	stamp string // of the account's sign-ins as they were then; a new password or address ends them
}

// From returns who makes the request, 401 when nobody does.
func From(e *core.RequestEvent) (Actor, error) {
	if k, ok := e.Get(keyKey).(keyed); ok {
		return keyActor(e, k)
	}
	if e.Auth == nil {
		if e.Request.Header.Get("Authorization") != "" {
			return Actor{}, Unauthenticated("session_expired", "Your session has ended. Please sign in again.")
		}
		return Actor{}, Unauthenticated("unauthenticated", "Please sign in.")
	}
	return actorOf(e, e.Auth)
}

func actorOf(e *core.RequestEvent, r *core.Record) (Actor, error) {
	a := Actor{
		ID:         r.Id,
		Email:      r.Email(),
		Name:       strings.TrimSpace(r.GetString("name")),
		Verified:   r.Verified(),
		TenantHint: strings.TrimSpace(e.Request.Header.Get(TenantHeader)),
		Address:    e.RealIP(),
		UserAgent:  cut(e.Request.UserAgent(), maxUserAgent),
		Request:    RequestID(e),
		stamp:      stampOf(r),
	}
	if a.Name == "" {
		a.Name = a.Email
	}
	if b, ok := e.Get(sessionKey).(bearer); ok && e.Auth == r {
		a.Session = b.session
		if a.TenantHint == "" {
			a.TenantHint = b.tenant
		}
	}
	switch r.Collection().Name {
	case "users":
		a.Type = TypeUser
	case core.CollectionNameSuperusers:
		a.Type, a.Superuser, a.Verified = TypeSuperuser, true, true
	default:
		return Actor{}, Unauthenticated("unauthenticated", "This kind of account cannot be used here.")
	}
	return a, nil
}

// stampOf names the present sign-ins of an account without giving their key away.
func stampOf(r *core.Record) string {
	sum := sha256.Sum256([]byte(r.Collection().Id + r.Id + r.TokenKey()))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// Still is 401 when the sign-in that an actor came by has ended since: a session that was ended, a new
// password or address, an API key that was revoked, an account that is gone. It is for what outlives its request.
func (a Actor) Still(app core.App) error {
	r, err := a.account(app)
	if a.Key != nil {
		if err == nil {
			_, err = liveKey(app, a.Key.ID)
		}
		return err
	}
	if err == nil && stampOf(r) != a.stamp {
		err = ended()
	}
	if err == nil && a.Session != "" {
		var s *collections.Session
		if s, err = sessionOf(app, a.Session, a.ID); err == nil && s == nil {
			err = ended()
		}
	}
	return err
}

// unchanged is errChanged when an account is gone, or its sign-ins have ended, since it was read. The caller's
// transaction holds userLock.
func unchanged(tx core.App, account *core.Record) error {
	now, err := tx.FindRecordById(account.Collection().Id, account.Id)
	if errors.Is(err, sql.ErrNoRows) || err == nil && stampOf(now) != stampOf(account) {
		return errChanged
	}
	if err != nil {
		return fmt.Errorf("find the account %s: %w", account.Id, err)
	}
	return nil
}

var errChanged = errors.New("the account has changed meanwhile")

// account finds the record of an actor's type and id; 401 when it is gone.
func (a Actor) account(app core.App) (*core.Record, error) {
	collection := "users"
	if a.Type == TypeSuperuser {
		collection = core.CollectionNameSuperusers
	}
	r, err := app.FindRecordById(collection, a.ID)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, Unauthenticated("unauthenticated", "This account is not there any more.").Because(ErrTokenInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("find the account of %s %s: %w", a.Type, a.ID, err)
	}
	return r, nil
}

// RequireVerified is 403 for an actor whose address is not confirmed: it may look, but not create.
func RequireVerified(a Actor) error {
	if a.Verified {
		return nil
	}
	return Forbidden("email_unverified", "Please confirm your e-mail address first. We have sent you a link; you can ask for another one on your account page.")
}

// RequireSuperuser is 403 for everybody but the operators of the installation.
func RequireSuperuser(a Actor) error {
	if a.Superuser {
		return nil
	}
	return Forbidden("superuser_only", "Only an operator of this installation can do this.")
}

// cut shortens s to at most n characters of valid UTF-8.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "")
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n])
}
