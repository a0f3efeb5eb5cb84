package access

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
)

// Limits of what a customer may enter about himself.
const (
	MaxNameLength  = 80  // characters, as shown beside everything that he does
	MaxEmailLength = 254 // RFC 5321, §4.5.3.1.3 less the angle brackets
)

// Auditor writes one row of the audit log in the caller's transaction.
type Auditor interface {
	Write(tx core.App, a audit.Actor, e audit.Entry) error
}

// Audit is the actor as the audit log knows him.
func (a Actor) Audit() audit.Actor {
	id := a.ID
	if a.Key != nil {
		id = a.Key.ID
	}
	return audit.Actor{Type: a.Type, ID: id, Name: a.Name, Address: a.Address, UserAgent: a.UserAgent, Request: a.Request}
}

// Routes registers the account routes on the group of /api/v1.
func (d *Access) Routes(g *router.RouterGroup[*core.RequestEvent]) {
	g.GET("/account", account)
	g.GET("/account/sessions", d.sessions)
	g.POST("/account/sessions/refresh", d.refresh)
	g.DELETE("/account/sessions/others", d.endOthers)
	g.DELETE("/account/sessions/{session}", d.endSession)
	g.GET("/account/factors", d.listFactors)
	g.POST("/account/proof", d.proof)
	g.POST("/account/proof/options", d.proveOptions)
	g.POST("/account/totp", d.beginTOTP)
	g.POST("/account/totp/confirm", d.confirmTOTP)
	g.DELETE("/account/totp", d.disableTOTP)
	g.POST("/account/backup-codes", d.renewBackupCodes)
	g.GET("/account/passkeys", d.listPasskeys)
	g.POST("/account/passkeys", d.register)
	g.POST("/account/passkeys/options", d.registerOptions)
	g.PATCH("/account/passkeys/{passkey}", d.renamePasskey)
	g.DELETE("/account/passkeys/{passkey}", d.removePasskey)
	g.POST("/account/checkpoint", d.pass)
	g.POST("/account/checkpoint/options", d.checkpointOptions)
	g.POST("/account/sign-in/passkey", d.signInByPasskey)
	g.POST("/account/sign-in/passkey/options", d.signInOptions)
}

func account(e *core.RequestEvent) error {
	a, err := From(e)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"id": a.ID, "email": a.Email, "name": a.Name, "verified": a.Verified})
}

// UserCreateRequest is the handler of OnRecordCreateRequest("users"): a person may choose address,
// name and password and nothing else, and the sign-up is audited in the transaction that makes it.
func (d *Access) UserCreateRequest(e *core.RecordRequestEvent) error {
	if err := restrain(e); err != nil {
		return err
	}
	return d.audited(e, "user.create", func() map[string]any { return nil })
}

// UserUpdateRequest is the handler of OnRecordUpdateRequest("users"); see UserCreateRequest.
func (d *Access) UserUpdateRequest(e *core.RecordRequestEvent) error {
	if err := restrain(e); err != nil {
		return err
	}
	changed := ChangedFields(e.Record)
	mine, _ := e.Get(sessionKey).(bearer)
	right := func() {}
	if slices.Contains(changed, "password") && !e.HasSuperuserAuth() { // it asks for the password of before
		var err error
		if right, err = d.attempt(e.App, e.Record.Id, e.RealIP()); err != nil {
			return d.refuse(e.RequestEvent, err)
		}
	}
	err := d.witnessed(e, "user.update", func() map[string]any { return map[string]any{"fields": changed} }, func() error {
		if err := e.Next(); err != nil || mine.session == "" {
			return err
		}
		return goOn(e.App, mine.session)
	})
	var refused *router.ApiError
	if err == nil || !errors.As(err, &refused) || refused.Data["oldPassword"] == nil { // anything but a wrong one
		right()
	}
	return err
}

// UserDeleteRequest is the handler of OnRecordDeleteRequest("users"), which superusers alone get to.
func (d *Access) UserDeleteRequest(e *core.RecordRequestEvent) error {
	return d.witnessed(e, "user.delete", func() map[string]any { return nil }, func() error {
		if d.goes == nil || e.Auth == nil {
			return e.Next()
		}
		a, err := actorOf(e.RequestEvent, e.Auth)
		if err == nil {
			err = d.goes(e.App, a, e.Record.Id)
		}
		var refused *Error
		if errors.As(err, &refused) {
			return e.Error(refused.Status, refused.Message, nil)
		}
		if err != nil {
			return err
		}
		return e.Next()
	})
}

// PasswordResetConfirm is the handler of OnRecordConfirmPasswordResetRequest: whoever has the link of the mail is the account.
func (d *Access) PasswordResetConfirm(e *core.RecordConfirmPasswordResetRequestEvent) error {
	return d.byMail(e.RequestEvent, e.Record, "user.password_reset", e.Next)
}

// EmailChangeConfirm is the handler of OnRecordConfirmEmailChangeRequest; see PasswordResetConfirm.
func (d *Access) EmailChangeConfirm(e *core.RecordConfirmEmailChangeRequestEvent) error {
	return d.byMail(e.RequestEvent, e.Record, "user.email_change", e.Next)
}

// VerificationConfirm is the handler of OnRecordConfirmVerificationRequest; see PasswordResetConfirm. A link that is
// opened again changes nothing.
func (d *Access) VerificationConfirm(e *core.RecordConfirmVerificationRequestEvent) error {
	if e.Record.Verified() {
		return e.Next()
	}
	return d.byMail(e.RequestEvent, e.Record, "user.verify", e.Next)
}

func (d *Access) byMail(e *core.RequestEvent, r *core.Record, action string, next func() error) error {
	return d.Witness(e, next, func() (*core.Record, audit.Entry) {
		return r, audit.Entry{Action: action, ResourceType: r.Collection().Name, Resource: r.Id}
	})
}

// restrain refuses what a customer must not set about an account and tidies what he may. Superusers
// are held to the form only.
func restrain(e *core.RecordRequestEvent) error {
	r := e.Record
	name, ok := CleanText(r.GetString("name"), MaxNameLength)
	r.Set("name", name)
	r.SetEmail(strings.TrimSpace(r.Email()))
	fields := map[string]error{}
	if !ok {
		fields["name"] = fieldFault{"name_invalid", "Please use at most 80 ordinary characters."}
	}
	if len(r.Email()) > MaxEmailLength {
		fields["email"] = fieldFault{"email_too_long", "This e-mail address is too long."}
	}
	if !e.HasSuperuserAuth() {
		if r.Verified() && (r.IsNew() || !r.Original().Verified()) {
			fields["verified"] = fieldFault{"not_settable", "An address is confirmed by the link in the mail only."}
		}
		r.SetEmailVisibility(false)
		if r.IsNew() {
			r.Id = "" // ids are ours: one chosen by a stranger could be made to look like another thing's
		}
	}
	if len(fields) > 0 {
		return e.BadRequestError("Some of what you entered cannot be used.", fields)
	}
	return nil
}

// fieldFault is an error of one field in the shape that PocketBase shows to its clients.
type fieldFault struct{ code, message string }

func (f fieldFault) Error() string { return f.message }
func (f fieldFault) Code() string  { return f.code }

// ChangedFields names what an update of a record changes, sorted, without the values.
func ChangedFields(r *core.Record) []string {
	var out []string
	for _, f := range r.Collection().Fields {
		name := f.GetName()
		if p, ok := r.GetRaw(name).(*core.PasswordFieldValue); ok {
			if p.Plain != "" {
				out = append(out, name)
			}
			continue
		}
		if name != "updated" && r.GetString(name) != r.Original().GetString(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// goOn keeps the session with which somebody changed his own account, in the transaction that ended all of them.
func goOn(tx core.App, session string) error {
	s, err := collections.FindSession(tx, session)
	if err != nil || s.RevokedWhy() != endedPassword {
		return err
	}
	_, err = tx.NonconcurrentDB().Update(collections.Sessions, dbx.Params{"revoked_at": "", "revoked_why": ""}, dbx.HashExp{"id": session}).Execute()
	if err != nil {
		return fmt.Errorf("keep the session %s: %w", session, err)
	}
	return nil
}

// audited is Witness for a request about an account.
func (d *Access) audited(e *core.RecordRequestEvent, action string, metadata func() map[string]any) error {
	return d.witnessed(e, action, metadata, e.Next)
}

func (d *Access) witnessed(e *core.RecordRequestEvent, action string, metadata func() map[string]any, next func() error) error {
	return d.Witness(e.RequestEvent, next, func() (*core.Record, audit.Entry) {
		by := e.Auth
		if by == nil {
			by = e.Record // signing up is one's own act
		}
		return by, audit.Entry{Action: action, ResourceType: "users", Resource: e.Record.Id, Metadata: metadata()}
	})
}

// Witness runs next, the rest of a chain of PocketBase's hooks, and writes an audit row of the
// installation about it in the same transaction. said is asked afterwards who did it and what it was.
// PocketBase sends its answer after the commit.
func (d *Access) Witness(e *core.RequestEvent, next func() error, said func() (by *core.Record, what audit.Entry)) error {
	return d.together(e, func(tx core.App) error {
		if err := next(); err != nil {
			return err
		}
		by, what := said()
		a, err := actorOf(e, by)
		if err != nil {
			return err
		}
		return d.auditor.Write(tx, a.Audit(), what)
	})
}

// Confirm marks the address of an account as confirmed, in the caller's transaction, which holds
// audit.Lock(""). It is for whoever was shown that the account's mails arrive.
func (d *Access) Confirm(tx core.App, a Actor) error {
	if a.Verified {
		return nil
	}
	r, err := a.account(tx)
	if err != nil || r.Verified() {
		return err
	}
	r.SetVerified(true)
	if err := tx.Save(r); err != nil {
		return fmt.Errorf("confirm the address of %s: %w", a.ID, err)
	}
	return d.auditor.Write(tx, a.Audit(), audit.Entry{Action: "user.verify", ResourceType: "users", Resource: a.ID})
}
