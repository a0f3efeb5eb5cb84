package tenancy

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/mail"
	"slices"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/jobs"
)

// Bounds of invites. A mail to somebody who did not ask for it costs the host his good name.
const (
	InviteLife      = 7 * 24 * time.Hour
	maxOpenInvites  = 50  // of a tenant
	maxInvitesADay  = 100 // of a tenant, whatever became of them
	inviteMailTries = 6
)

// mailJob is the kind of the job that sends an invite.
const mailJob = "SendInvite"

// Queue is jobs.Queue.
type Queue interface {
	Handle(kind string, o jobs.Options, h jobs.Handler, undo jobs.Undo)
	Enqueue(tx core.App, j jobs.Job) (string, error)
}

// Invite is one as those see it who may invite. The token is in the mail only.
type Invite struct {
	ID         string         `json:"id"`
	Email      string         `json:"email"`
	Role       string         `json:"role"`
	RoleName   string         `json:"role_name"`
	Server     string         `json:"server"`
	ServerName string         `json:"server_name"`
	InvitedBy  string         `json:"invited_by"`
	Expires    types.DateTime `json:"expires_at"`
	Created    types.DateTime `json:"created"`
}

const invitesQuery = `SELECT [[v.id]], [[v.email]], [[v.role]], [[r.name]] AS [[role_name]], [[v.server]], COALESCE([[s.name]], '') AS [[server_name]],
	COALESCE([[u.name]], '') AS [[invited_by]], [[v.expires_at]], [[v.created]]
FROM {{invites}} [[v]]
JOIN {{roles}} [[r]] ON [[r.id]] = [[v.role]]
LEFT JOIN {{servers}} [[s]] ON [[s.id]] = [[v.server]]
LEFT JOIN {{users}} [[u]] ON [[u.id]] = [[v.invited_by]]
WHERE [[v.tenant]] = {:tenant} AND [[v.accepted_at]] = '' AND [[v.revoked_at]] = '' AND [[v.expires_at]] > {:now} AND ({:id} = '' OR [[v.id]] = {:id})
ORDER BY [[v.created]], [[v.id]]`

// openInvites lists what is neither accepted, taken back nor over, oldest first; id narrows it unless empty.
func openInvites(app core.App, tenant, id string, now time.Time) ([]Invite, error) {
	var rows []struct {
		ID         string         `db:"id"`
		Email      string         `db:"email"`
		Role       string         `db:"role"`
		RoleName   string         `db:"role_name"`
		Server     string         `db:"server"`
		ServerName string         `db:"server_name"`
		InvitedBy  string         `db:"invited_by"`
		Expires    types.DateTime `db:"expires_at"`
		Created    types.DateTime `db:"created"`
	}
	err := app.ConcurrentDB().NewQuery(invitesQuery).Bind(dbx.Params{"tenant": tenant, "id": id, "now": collections.Stamp(now)}).All(&rows)
	if err != nil {
		return nil, fmt.Errorf("list the invites of tenant %s: %w", tenant, err)
	}
	out := []Invite{}
	for _, r := range rows {
		out = append(out, Invite(r))
	}
	return out, nil
}

func (t *Tenancy) invites(e *core.RequestEvent) error {
	_, row, err := t.asked(e, "member.invite")
	if err != nil {
		return err
	}
	list, err := openInvites(e.App, row.Id, "", time.Now())
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"items": list})
}

// inviteInput is what an invite is made of.
type inviteInput struct {
	Email  string `json:"email"`
	Role   string `json:"role"`
	Server string `json:"server"`
}

// check tidies what was given and says what is wrong with it.
func (in *inviteInput) check() error {
	in.Email = strings.TrimSpace(in.Email)
	a, err := mail.ParseAddress(in.Email)
	if err != nil || a.Address != in.Email || len(in.Email) > access.MaxEmailLength {
		return access.InvalidField("email", "email_invalid", "Please enter an e-mail address.")
	}
	if in.Role == "" {
		return access.InvalidField("role", "required", "Please choose a role.")
	}
	return nil
}

func (t *Tenancy) invite(e *core.RequestEvent) error {
	var in inviteInput
	return t.command(e, "member.invite", &in, nil, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		if err := in.check(); err != nil {
			return 0, nil, err
		}
		v, err := t.invited(tx, a, row, in, time.Now())
		if err != nil {
			return 0, nil, err
		}
		list, err := openInvites(tx, row.Id, v.Id, time.Now())
		if err != nil || len(list) != 1 {
			return 0, nil, errors.Join(err, fmt.Errorf("invite %s is not there", v.Id))
		}
		return http.StatusCreated, list[0], nil
	})
}

// invited stores an invite and has it mailed, in the caller's transaction.
func (t *Tenancy) invited(tx core.App, a access.Actor, row *collections.Tenant, in inviteInput, now time.Time) (*collections.Invite, error) {
	role, err := grantable(tx, row.Id, in.Role)
	if err != nil {
		return nil, err
	}
	if err := t.covers(tx, a, row.Id, role.Id); err != nil {
		return nil, err
	}
	if in.Server != "" {
		if err := ownServer(tx, row.Id, in.Server); err != nil {
			return nil, err
		}
	}
	if err := t.mayInvite(tx, row.Id, in, now); err != nil {
		return nil, err
	}
	v, err := collections.NewInvite(tx)
	if err != nil {
		return nil, err
	}
	v.Id = core.GenerateDefaultRandomId() // the token names it
	v.SetTenant(row.Id)
	v.SetEmail(in.Email)
	v.SetRole(role.Id)
	v.SetServer(in.Server)
	v.SetTokenHash(tokenHash(t.inviteToken(v.Id)))
	v.SetInvitedBy(a.ID)
	v.SetExpiresAt(now.Add(InviteLife))
	if err := permit.Save(tx, v); err != nil {
		return nil, fmt.Errorf("store the invite to tenant %s: %w", row.Id, err)
	}
	if err := t.mailInvite(tx, v); err != nil {
		return nil, err
	}
	details := map[string]any{"email": in.Email, "role": role.Name()}
	if in.Server != "" {
		details["server"] = in.Server
	}
	return v, t.tell(tx, a, row.Id, notice{action: "member.invite", kind: "member.invited", about: collections.Invites, subject: v.Id, message: "invite", details: details})
}

func (t *Tenancy) mailInvite(tx core.App, v *collections.Invite) error {
	_, err := t.cfg.Jobs.Enqueue(tx, jobs.Job{Kind: mailJob, Tenant: v.Tenant(), Subject: v.Id, UniqueKey: mailJob + ":" + v.Id, Payload: map[string]string{"invite": v.Id}})
	if errors.Is(err, jobs.ErrDuplicate) {
		return nil // it is on its way
	}
	return err
}

// mayInvite refuses what would be one invite too many, or one to somebody who is in already.
func (t *Tenancy) mayInvite(tx core.App, tenant string, in inviteInput, now time.Time) error {
	var n struct {
		Open  int64 `db:"open"`
		Today int64 `db:"today"`
		Same  int64 `db:"same"`
	}
	err := tx.ConcurrentDB().NewQuery(`SELECT
		COALESCE(SUM(CASE WHEN [[accepted_at]] = '' AND [[revoked_at]] = '' AND [[expires_at]] > {:now} THEN 1 ELSE 0 END), 0) AS [[open]],
		COALESCE(SUM(CASE WHEN [[created]] > {:day} THEN 1 ELSE 0 END), 0) AS [[today]],
		COALESCE(SUM(CASE WHEN [[accepted_at]] = '' AND [[revoked_at]] = '' AND [[expires_at]] > {:now} AND LOWER([[email]]) = LOWER({:email}) AND [[server]] = {:server} THEN 1 ELSE 0 END), 0) AS [[same]]
		FROM {{invites}} WHERE [[tenant]] = {:tenant}`).
		Bind(dbx.Params{"tenant": tenant, "now": collections.Stamp(now), "day": collections.Stamp(now.Add(-24 * time.Hour)), "email": in.Email, "server": in.Server}).One(&n)
	if err != nil {
		return fmt.Errorf("count the invites of tenant %s: %w", tenant, err)
	}
	switch {
	case n.Same > 0:
		return access.Conflict("invite_exists", "This address is invited already. Send the invitation again, or take it back first.")
	case n.Open >= maxOpenInvites:
		return access.Conflict("invite_limit", fmt.Sprintf("%d invitations are open, which is as many as there may be. Take some back first.", n.Open))
	case n.Today >= maxInvitesADay:
		return access.Conflict("invite_limit", fmt.Sprintf("%d people were invited within a day, which is as many as may be. Please go on tomorrow.", n.Today))
	}
	account, err := tx.FindAuthRecordByEmail("users", in.Email)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the invited account: %w", err)
	}
	list, err := people(tx, tenant, account.Id, "")
	if err != nil || len(list) == 0 {
		return err
	}
	already := in.Server == "" && list[0].Role != ""
	for _, g := range list[0].Servers {
		already = already || g.Server == in.Server
	}
	if already {
		return access.Conflict("already_member", "This person is a member already. Change the role instead.")
	}
	return nil
}

// ownServer is 400 unless the server is one of the tenant's.
func ownServer(app core.App, tenant, server string) error {
	n, err := app.CountRecords(collections.Servers, dbx.HashExp{"id": server, "tenant": tenant}, dbx.Not(dbx.HashExp{"status": "DELETED"}))
	if err != nil {
		return fmt.Errorf("look for server %s: %w", server, err)
	}
	if n == 0 {
		return access.InvalidField("server", "unknown", "There is no such server in this organisation.")
	}
	return nil
}

// openInvite finds an invite of a tenant that can still be accepted; 404.
func openInvite(app core.App, tenant, id string, now time.Time) (*collections.Invite, error) {
	v, err := collections.FindInvite(app, id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("find the invite %s: %w", id, err)
	}
	if err != nil || v.Tenant() != tenant || !isOpen(v, now) {
		return nil, noInvite()
	}
	return v, nil
}

func isOpen(v *collections.Invite, now time.Time) bool {
	return v.AcceptedAt().IsZero() && v.RevokedAt().IsZero() && now.Before(v.ExpiresAt())
}

func noInvite() *access.Error {
	return access.NotFound("invite_not_found", "This invitation does not exist, was used, was taken back or is over. Please ask for a new one.")
}

func (t *Tenancy) revokeInvite(e *core.RequestEvent) error {
	return t.command(e, "member.invite", nil, nil, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		v, err := openInvite(tx, row.Id, e.Request.PathValue("invite"), time.Now())
		if err != nil {
			return 0, nil, err
		}
		if err := t.covers(tx, a, row.Id, v.Role()); err != nil {
			return 0, nil, err
		}
		return http.StatusNoContent, nil, t.takeBack(tx, a, v, map[string]any{"email": v.Email()})
	})
}

func (t *Tenancy) takeBack(tx core.App, a access.Actor, v *collections.Invite, details map[string]any) error {
	v.SetRevokedAt(time.Now())
	if err := permit.Save(tx, v); err != nil {
		return fmt.Errorf("take back the invite %s: %w", v.Id, err)
	}
	return t.tell(tx, a, v.Tenant(), notice{action: "invite.revoke", kind: "member.invite_revoked", about: collections.Invites, subject: v.Id, message: "invite", gone: true, details: details})
}

// backed says whether whoever made an invite could still make it: an invite gives nobody what its maker has lost.
func (t *Tenancy) backed(app core.App, v *collections.Invite) (bool, error) {
	s, member, err := t.standing(app, v.InvitedBy(), v.Tenant())
	if err != nil {
		return false, err
	}
	if !member {
		_, err := app.FindRecordById(core.CollectionNameSuperusers, v.InvitedBy()) // operators are no members
		if errors.Is(err, sql.ErrNoRows) {
			return false, nil
		}
		return err == nil, err
	}
	held, err := heldBy(app, v.Role())
	if err != nil {
		return false, err
	}
	return s.wide["member.invite"] && !slices.ContainsFunc(held, func(p string) bool { return !s.wide[p] }), nil
}

// stillBacked is 404 for an invite that is not backed.
func (t *Tenancy) stillBacked(app core.App, v *collections.Invite) error {
	ok, err := t.backed(app, v)
	if err == nil && !ok {
		return noInvite()
	}
	return err
}

// dropInvites takes back the open invites of somebody which he could not make any more.
func (t *Tenancy) dropInvites(tx core.App, a access.Actor, tenant, user string) error {
	rows, err := collections.Every[collections.Invite](tx, collections.Invites, "id", 0,
		dbx.HashExp{"tenant": tenant, "invited_by": user, "accepted_at": "", "revoked_at": ""}, dbx.NewExp("[[expires_at]] > {:now}", dbx.Params{"now": collections.Stamp(time.Now())}))
	if err != nil {
		return fmt.Errorf("list the invites of %s: %w", user, err)
	}
	for _, v := range rows {
		ok, err := t.backed(tx, v)
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		if err := t.takeBack(tx, a, v, map[string]any{"email": v.Email(), "invited_by": user}); err != nil {
			return err
		}
	}
	return nil
}

// resendInvite mails an open invite once more and gives it its whole time again.
func (t *Tenancy) resendInvite(e *core.RequestEvent) error {
	return t.command(e, "member.invite", nil, nil, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		v, err := openInvite(tx, row.Id, e.Request.PathValue("invite"), time.Now())
		if err != nil {
			return 0, nil, err
		}
		if err := t.covers(tx, a, row.Id, v.Role()); err != nil {
			return 0, nil, err
		}
		if since := time.Since(v.Updated()); since < resendAfter {
			return 0, nil, &access.Error{Status: http.StatusTooManyRequests, Code: "too_soon", Message: "This invitation has just been sent. Please wait a few minutes.", Retry: resendAfter - since}
		}
		v.SetExpiresAt(time.Now().Add(InviteLife))
		if err := permit.Save(tx, v); err != nil {
			return 0, nil, fmt.Errorf("lengthen the invite %s: %w", v.Id, err)
		}
		if err := t.mailInvite(tx, v); err != nil {
			return 0, nil, err
		}
		return http.StatusNoContent, nil, t.tell(tx, a, row.Id, notice{action: "invite.resend", kind: "member.invite_resent", about: collections.Invites, subject: v.Id,
			message: "invite", details: map[string]any{"email": v.Email()}})
	})
}

// resendAfter is how long after it was sent an invite may be sent again.
const resendAfter = 10 * time.Minute

// inviteToken is what the mail of an invite holds. It is computed from the invite's id, so that nothing that is
// stored, queued or backed up accepts an invite.
func (t *Tenancy) inviteToken(id string) string {
	mac := hmac.New(sha256.New, t.cfg.InviteKey)
	mac.Write([]byte("mamba-host invite v1\x00" + id))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func tokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// held finds the invite of a path for whoever has its token, open or not; 404 for everybody else.
func held(app core.App, e *core.RequestEvent, token string) (*collections.Invite, error) {
	v, err := collections.FindInvite(app, e.Request.PathValue("invite"))
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("find an invite: %w", err)
	}
	if err != nil || !hmac.Equal([]byte(tokenHash(token)), []byte(v.TokenHash())) {
		return nil, noInvite()
	}
	return v, nil
}

// Preview is an invite as its holder sees it before he has an account.
type Preview struct {
	Email      string         `json:"email"`
	TenantName string         `json:"tenant_name"`
	RoleName   string         `json:"role_name"`
	ServerName string         `json:"server_name"`
	InvitedBy  string         `json:"invited_by"`
	Expires    types.DateTime `json:"expires_at"`
}

type tokenInput struct {
	Token string `json:"token"`
}

// preview says what an invite is for, to anybody who has its token: he may have no account yet.
func (t *Tenancy) preview(e *core.RequestEvent) error {
	var in tokenInput
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	v, err := held(e.App, e, in.Token)
	if err != nil {
		return err
	}
	tenant, err := living(e.App, v.Tenant())
	if err != nil {
		return err
	}
	list, err := openInvites(e.App, v.Tenant(), v.Id, time.Now())
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return noInvite()
	}
	if err := t.stillBacked(e.App, v); err != nil {
		return err
	}
	i := list[0]
	return e.JSON(http.StatusOK, Preview{Email: i.Email, TenantName: tenant.Name(), RoleName: i.RoleName, ServerName: i.ServerName, InvitedBy: i.InvitedBy, Expires: i.Expires})
}

// living finds a tenant that people may join; 404 in the words of an invite.
func living(app core.App, id string) (*collections.Tenant, error) {
	row, err := collections.FindTenant(app, id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("find tenant %s: %w", id, err)
	}
	if err != nil || row.Status() == StatusDeleted || row.Status() == StatusDeleting {
		return nil, noInvite()
	}
	return row, nil
}

// accept makes the actor a member. The invite is for one address: whoever else has the link joins by no
// mistake, and an account whose address it is has confirmed it by having the mail.
func (t *Tenancy) accept(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	if a.Type != access.TypeUser {
		return access.Forbidden("users_only", "An invitation is for a customer. Please sign in with a customer's account.")
	}
	var in tokenInput
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	found, err := held(e.App, e, in.Token)
	if err != nil {
		return err
	}
	if !strings.EqualFold(found.Email(), a.Email) {
		return access.Forbidden("invite_for_another", "This invitation is for another address. Sign in with the account that has it, or ask for an invitation to yours.")
	}
	body, err := access.Body(e)
	if err != nil {
		return err
	}
	tenant := found.Tenant()
	locks := []collections.Lock{Lock(tenant), audit.Lock(tenant), audit.Lock("")}
	return t.cfg.Idempotency.Idempotent(e, a, "", body, locks, func(tx core.App) (int, any, error) {
		v, err := held(tx, e, in.Token)
		if err != nil {
			return 0, nil, err
		}
		row, err := living(tx, tenant)
		if err != nil {
			return 0, nil, err
		}
		if v.AcceptedBy() == a.ID { // the answer was lost; whether he still is a member, the view says
			view, err := t.viewFor(tx, a, row)
			return http.StatusOK, view, err
		}
		if !isOpen(v, time.Now()) {
			return 0, nil, noInvite()
		}
		if row.Status() == StatusSuspended {
			return 0, nil, suspended(row.StatusReason())
		}
		if err := t.stillBacked(tx, v); err != nil {
			return 0, nil, err
		}
		if err := t.cfg.Confirm(tx, a); err != nil {
			return 0, nil, err
		}
		m, err := joined(tx, tenant, a.ID, v.InvitedBy(), v.Role(), v.Server())
		if err != nil {
			return 0, nil, err
		}
		v.SetAcceptedAt(time.Now())
		v.SetAcceptedBy(a.ID)
		if err := permit.Save(tx, v); err != nil {
			return 0, nil, fmt.Errorf("close the invite %s: %w", v.Id, err)
		}
		if err := t.tellMember(tx, a, m, "member.join", "member.joined", map[string]any{"invite": v.Id, "role": v.Role(), "server": v.Server()}, false); err != nil {
			return 0, nil, err
		}
		view, err := t.viewFor(tx, a, row)
		return http.StatusOK, view, err
	})
}

// sendInvite is the job that mails an invite. It ends quietly when the invite is no longer open.
func (t *Tenancy) sendInvite(_ context.Context, r *jobs.Run) error {
	app := t.cfg.App
	v, err := collections.FindInvite(app, r.Job().Subject())
	if errors.Is(err, sql.ErrNoRows) || err == nil && !isOpen(v, time.Now()) {
		return nil
	}
	if err != nil {
		return err
	}
	row, err := living(app, v.Tenant())
	if err != nil {
		return nil
	}
	list, err := openInvites(app, v.Tenant(), v.Id, time.Now())
	if err != nil || len(list) == 0 {
		return err
	}
	link := strings.TrimRight(app.Settings().Meta.AppURL, "/") + "/invite#id=" + v.Id + "&token=" + t.inviteToken(v.Id)
	message, err := inviteMail(app.Settings().Meta, row.Name(), list[0], link)
	if err != nil {
		return jobs.Permanent(err)
	}
	return app.NewMailClient().Send(message)
}
