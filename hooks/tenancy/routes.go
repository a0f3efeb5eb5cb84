package tenancy

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
)

// Routes registers the tenant routes on the group of /api/v1.
func (t *Tenancy) Routes(g *router.RouterGroup[*core.RequestEvent]) {
	g.GET("/tenants", t.list)
	g.POST("/tenants", t.create)
	g.GET("/tenants/current", t.current)
	g.GET("/tenants/{id}", t.get)
	g.PATCH("/tenants/{id}", t.update)
	g.POST("/tenants/{id}/switch", t.switchTo)
	g.POST("/tenants/{id}/transfer", t.transfer)
	g.POST("/tenants/{id}/delete", t.deleteLater)
	g.DELETE("/tenants/{id}/delete", t.keep)
	g.GET("/tenants/{id}/members", t.members)
	g.POST("/tenants/{id}/members/invite", t.invite)
	g.PATCH("/tenants/{id}/members/{user}", t.updateMember)
	g.DELETE("/tenants/{id}/members/{user}", t.removeMember)
	g.GET("/tenants/{id}/invites", t.invites)
	g.POST("/tenants/{id}/invites/{invite}/resend", t.resendInvite)
	g.DELETE("/tenants/{id}/invites/{invite}", t.revokeInvite)
	g.GET("/tenants/{id}/roles", t.roles)
	g.POST("/tenants/{id}/roles", t.createRole)
	g.PATCH("/tenants/{id}/roles/{role}", t.updateRole)
	g.DELETE("/tenants/{id}/roles/{role}", t.deleteRole)
	g.GET("/tenants/{id}/keys", t.keys)
	g.POST("/tenants/{id}/keys", t.makeKey)
	g.DELETE("/tenants/{id}/keys/{key}", t.revokeKey)
	g.GET("/account/keys", t.myKeys)
	g.POST("/account/keys", t.makeMyKey)
	g.DELETE("/account/keys/{key}", t.revokeMyKey)
	g.POST("/invites/{invite}/preview", t.preview)
	g.POST("/invites/{invite}/accept", t.accept)
	g.POST("/admin/tenants/{id}/suspend", t.suspend)
	g.POST("/admin/tenants/{id}/resume", t.resume)
	g.GET("/audit", t.audit)
	g.POST("/audit/export", t.exportAudit)
	g.GET("/servers/{id}/access", t.access)
	g.PUT("/servers/{id}/access/{user}", t.grant)
	g.DELETE("/servers/{id}/access/{user}", t.ungrant)
}

// View is a tenant as one of its members sees it. Members and Servers are null for somebody who was
// let in for single servers only: how large the organisation is, is not his business.
type View struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	Slug     string  `json:"slug"`
	Status   string  `json:"status"`
	Reason   string  `json:"status_reason"` // why it is not ACTIVE, as an operator wrote it for its members
	DeleteAt *string `json:"delete_at"`     // when it is purged; null unless it is being deleted
	Rev      int64   `json:"rev"`
	Required bool    `json:"require_2fa"` // members need a second factor
	Role     string  `json:"role"`
	RoleName string  `json:"role_name"`
	Members  *int64  `json:"members"`
	Servers  *int64  `json:"servers"`
}

// facts are what every subscriber of the tenant's topic may see of it.
func facts(row *collections.Tenant) map[string]any {
	return map[string]any{"id": row.Id, "name": row.Name(), "slug": row.Slug(), "status": row.Status(), "rev": row.Rev()}
}

// deleteAt is when a tenant is purged, as answers say it; nil unless it is being deleted.
func deleteAt(row *collections.Tenant) *string {
	if row.Status() != StatusDeleting || row.DeleteAt().IsZero() {
		return nil
	}
	at := row.DeleteAt().UTC().Format(time.RFC3339)
	return &at
}

func (t *Tenancy) view(app core.App, row *collections.Tenant, s standing) (View, error) {
	v := View{ID: row.Id, Name: row.Name(), Slug: row.Slug(), Status: row.Status(), Reason: row.StatusReason(), DeleteAt: deleteAt(row), Rev: row.Rev(), Required: row.Require2fa(), Role: s.role, RoleName: s.roleName}
	if !s.isWide {
		return v, nil
	}
	var n struct {
		Members int64 `db:"members"`
		Servers int64 `db:"servers"`
	}
	err := app.ConcurrentDB().NewQuery(`SELECT (SELECT COUNT(*) FROM {{tenant_members}} WHERE [[tenant]] = {:tenant}) AS [[members]],
		(SELECT COUNT(*) FROM {{servers}} WHERE [[tenant]] = {:tenant} AND [[status]] != 'DELETED') AS [[servers]]`).
		Bind(dbx.Params{"tenant": row.Id}).One(&n)
	if err != nil {
		return View{}, fmt.Errorf("count what tenant %s has: %w", row.Id, err)
	}
	v.Members, v.Servers = &n.Members, &n.Servers
	return v, nil
}

func (t *Tenancy) viewFor(app core.App, a access.Actor, row *collections.Tenant) (View, error) {
	s, err := t.standingOf(app, a, row.Id)
	if err != nil {
		return View{}, err
	}
	return t.view(app, row, s)
}

func (t *Tenancy) list(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	rows, err := collections.Every[collections.Tenant](e.App, collections.Tenants, "name, id", 0,
		dbx.NewExp("[[id]] IN (SELECT [[m.tenant]] FROM {{tenant_members}} [[m]] WHERE [[m.user]] = {:user})", dbx.Params{"user": a.ID}),
		dbx.Not(dbx.HashExp{"status": StatusDeleted}))
	if err != nil {
		return fmt.Errorf("list the tenants of %s: %w", a.ID, err)
	}
	items := []View{}
	for _, row := range rows {
		s, err := t.standingOf(e.App, a, row.Id)
		var gone *access.Error
		if errors.As(err, &gone) { // removed since the list was read, or not the API key's
			continue
		}
		if err != nil {
			return err
		}
		v, err := t.view(e.App, row, s)
		if err != nil {
			return err
		}
		items = append(items, v)
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items})
}

func (t *Tenancy) current(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	row, err := t.Current(e.App, a)
	if err != nil {
		return err
	}
	s, err := t.standingOf(e.App, a, row.Id)
	if err != nil {
		return err
	}
	v, err := t.view(e.App, row, s)
	if err != nil {
		return err
	}
	answer := map[string]any{
		"tenant": v, "role": s.role, "role_name": s.roleName, "permissions": s.permissions(), "servers": nil, "quota": nil, "used": nil,
	}
	if visible := s.servers(); visible != nil { // encoding/json/v2 would write a nil list as []
		answer["servers"] = visible
	}
	if s.isWide {
		used, err := t.Used(e.App, row.Id)
		if err != nil {
			return err
		}
		answer["quota"], answer["used"] = t.quotaOf(row), used
	}
	return e.JSON(http.StatusOK, answer)
}

func (t *Tenancy) get(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	row, err := t.Find(e.App, a, e.Request.PathValue("id"))
	if err != nil {
		return err
	}
	v, err := t.viewFor(e.App, a, row)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, v)
}

// switchTo answers with a token of the actor's session that names the tenant.
func (t *Tenancy) switchTo(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	row, err := t.Find(e.App, a, e.Request.PathValue("id"))
	if err != nil {
		return err
	}
	token, until, err := t.cfg.Sessions.Switch(e, a, row.Id)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"token": token, "expires_at": until.UTC().Format(time.RFC3339)})
}

// input of create and update; nil is "not given".
type input struct {
	Name *string `json:"name"`
	Slug *string `json:"slug"`
}

// updateInput is that of update.
type updateInput struct {
	input
	Require *bool `json:"require_2fa"` // members need a second factor
}

// check tidies what was given and says what is wrong with it.
func (in *input) check() error {
	faults := map[string]access.FieldError{}
	if in.Name != nil {
		name, ok := access.CleanText(*in.Name, MaxNameLength)
		switch *in.Name = name; {
		case name == "":
			faults["name"] = access.FieldError{Code: "required", Message: "Please give your organisation a name."}
		case !ok:
			faults["name"] = access.FieldError{Code: "name_invalid", Message: fmt.Sprintf("Please use at most %d ordinary characters.", MaxNameLength)}
		}
	}
	if in.Slug != nil {
		if f := slugFault(*in.Slug); f != nil {
			faults["slug"] = *f
		}
	}
	if len(faults) > 0 {
		return access.Invalid(faults)
	}
	return nil
}

func (t *Tenancy) create(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	if a.Type != access.TypeUser {
		return access.Forbidden("users_only", "An organisation belongs to a customer. Please sign in with a customer's account.")
	}
	if err := access.RequireVerified(a); err != nil {
		return err
	}
	var in input
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	if in.Name == nil {
		in.Name = new(string)
	}
	if in.Slug != nil && *in.Slug == "" {
		in.Slug = nil // an empty box of a form: derive it
	}
	if err := in.check(); err != nil {
		return err
	}
	body, err := access.Body(e)
	if err != nil {
		return err
	}
	id := core.GenerateDefaultRandomId()
	locks := []collections.Lock{collections.Lock("user:" + a.ID), slugLock, Lock(id), audit.Lock(id)}
	return t.cfg.Idempotency.Idempotent(e, a, "", body, locks, func(tx core.App) (int, any, error) {
		row, err := t.found(tx, a, id, in)
		if err != nil {
			return 0, nil, err
		}
		v, err := t.viewFor(tx, a, row)
		return http.StatusCreated, v, err
	})
}

// found makes a tenant with its first owner, in the caller's transaction.
func (t *Tenancy) found(tx core.App, a access.Actor, id string, in input) (*collections.Tenant, error) {
	owned, err := ownedBy(tx, a.ID)
	if err != nil {
		return nil, err
	}
	if owned >= t.cfg.MaxTenants {
		return nil, access.Conflict("tenant_limit", fmt.Sprintf("You own %d organisations, which is as many as one person may. Delete one first, or ask us.", owned))
	}
	var slug string
	if in.Slug == nil {
		slug, err = freeSlug(tx, *in.Name)
	} else {
		slug, err = *in.Slug, refuseTaken(tx, *in.Slug, "")
	}
	if err != nil {
		return nil, err
	}
	row, err := collections.NewTenant(tx)
	if err != nil {
		return nil, err
	}
	row.Id = id
	row.SetName(*in.Name)
	row.SetSlug(slug)
	row.SetStatus(StatusActive)
	row.SetRev(1)
	if err := permit.Save(tx, row); err != nil {
		return nil, fmt.Errorf("make tenant %s: %w", slug, err)
	}
	if err := bind(tx, id, a.ID, "", RoleOwner); err != nil {
		return nil, err
	}
	return row, t.announce(tx, a, row, "tenant.create", "tenant.created", map[string]any{"name": row.Name(), "slug": slug})
}

func ownedBy(tx core.App, user string) (int64, error) {
	var n int64
	err := tx.ConcurrentDB().NewQuery(`SELECT COUNT(DISTINCT [[t.id]]) FROM {{tenant_members}} [[m]]
		JOIN {{tenants}} [[t]] ON [[t.id]] = [[m.tenant]] AND [[t.status]] != {:deleted}
		JOIN {{role_bindings}} [[b]] ON [[b.member]] = [[m.id]] AND [[b.server]] = ''
		JOIN {{roles}} [[r]] ON [[r.id]] = [[b.role]] AND [[r.key]] = {:owner} AND [[r.tenant]] = ''
		WHERE [[m.user]] = {:user}`).Bind(dbx.Params{"user": user, "owner": RoleOwner, "deleted": StatusDeleted}).Row(&n)
	if err != nil {
		return 0, fmt.Errorf("count the tenants of %s: %w", user, err)
	}
	return n, nil
}

func (t *Tenancy) update(e *core.RequestEvent) error {
	var in updateInput
	more := func(access.Actor) ([]collections.Lock, error) { return []collections.Lock{slugLock}, in.check() }
	return t.command(e, "tenant.update", &in, more, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		if err := t.change(tx, a, row, in); err != nil {
			return 0, nil, err
		}
		v, err := t.viewFor(tx, a, row)
		return http.StatusOK, v, err
	})
}

func (t *Tenancy) change(tx core.App, a access.Actor, row *collections.Tenant, in updateInput) error {
	changed := map[string]any{}
	if in.Name != nil && *in.Name != row.Name() {
		changed["name"] = map[string]string{"from": row.Name(), "to": *in.Name}
		row.SetName(*in.Name)
	}
	if in.Slug != nil && *in.Slug != row.Slug() {
		if err := refuseTaken(tx, *in.Slug, row.Id); err != nil {
			return err
		}
		changed["slug"] = map[string]string{"from": row.Slug(), "to": *in.Slug}
		row.SetSlug(*in.Slug)
	}
	if in.Require != nil && *in.Require != row.Require2fa() {
		if err := require(tx, a, row, *in.Require); err != nil {
			return err
		}
		changed["require_2fa"] = map[string]bool{"from": !*in.Require, "to": *in.Require}
	}
	if len(changed) == 0 {
		return nil
	}
	row.SetRev(row.Rev() + 1)
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("update tenant %s: %w", row.Id, err)
	}
	return t.announce(tx, a, row, "tenant.update", "tenant.updated", changed)
}

func refuseTaken(tx core.App, slug, except string) error {
	taken, err := slugTaken(tx, slug, except)
	if err != nil || !taken {
		return err
	}
	e := access.Conflict("slug_taken", "This short name is taken. Please choose another.")
	e.Data = map[string]access.FieldError{"slug": {Code: "taken", Message: "This one is taken. Please choose another."}}
	return e
}

// announce writes the audit row and the event of a change to a tenant and tells its browsers.
func (t *Tenancy) announce(tx core.App, a access.Actor, row *collections.Tenant, action, kind string, details map[string]any) error {
	if err := t.cfg.Auditor.Write(tx, a.Audit(), audit.Entry{Tenant: row.Id, Action: action, ResourceType: collections.Tenants, Resource: row.Id, Metadata: details}); err != nil {
		return fmt.Errorf("audit %s of %s: %w", action, row.Id, err)
	}
	err := t.cfg.Events.Emit(tx, events.Event{
		Kind: kind, Tenant: row.Id, SubjectType: collections.Tenants, Subject: row.Id,
		Actor: a.ID, ActorType: a.Type, ActorName: a.Name, Public: true, Payload: details,
	})
	if err != nil {
		return fmt.Errorf("keep the event %s of %s: %w", kind, row.Id, err)
	}
	t.cfg.Events.Broadcast(tx, row.Id, events.Message{Type: "tenant", ID: row.Id, Rev: row.Rev(), Data: facts(row)})
	return nil
}
