package tenancy

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/wings/wire"
)

// Grant is a role that somebody has for one server.
type Grant struct {
	Server     string `json:"server"`
	ServerName string `json:"server_name"`
	Role       string `json:"role"` // id
	RoleName   string `json:"role_name"`
}

// Person is a member as those see him who may see who is in the organisation. Role is empty for
// somebody who was let in for single servers only.
type Person struct {
	User      string         `json:"user"`
	Name      string         `json:"name"`
	Email     string         `json:"email,omitempty"` // for those who manage members
	Role      string         `json:"role"`            // id of the role for the whole organisation
	RoleKey   string         `json:"role_key"`
	RoleName  string         `json:"role_name"`
	Servers   []Grant        `json:"servers"`
	InvitedBy string         `json:"invited_by"` // a name; empty for the founder and for whom nobody knows any more
	Joined    types.DateTime `json:"joined_at"`
}

const peopleQuery = `SELECT [[m.id]] AS [[member]], [[m.user]] AS [[user]], [[m.joined_at]] AS [[joined]], [[u.name]] AS [[name]], [[u.email]] AS [[email]],
	COALESCE([[i.name]], '') AS [[invited_by]], COALESCE([[b.server]], '') AS [[server]], COALESCE([[s.name]], '') AS [[server_name]], COALESCE([[s.status]], '') AS [[server_status]],
	COALESCE([[r.id]], '') AS [[role]], COALESCE([[r.key]], '') AS [[role_key]], COALESCE([[r.name]], '') AS [[role_name]]
FROM {{tenant_members}} [[m]]
JOIN {{users}} [[u]] ON [[u.id]] = [[m.user]]
LEFT JOIN {{users}} [[i]] ON [[i.id]] = [[m.invited_by]]
LEFT JOIN {{role_bindings}} [[b]] ON [[b.member]] = [[m.id]] AND [[b.tenant]] = [[m.tenant]]
LEFT JOIN {{roles}} [[r]] ON [[r.id]] = [[b.role]]
LEFT JOIN {{servers}} [[s]] ON [[s.id]] = [[b.server]] AND [[s.tenant]] = [[m.tenant]]
WHERE [[m.tenant]] = {:tenant} AND ({:user} = '' OR [[m.user]] = {:user}) AND ({:server} = '' OR [[b.server]] = {:server})
ORDER BY [[m.joined_at]], [[m.id]], [[s.name]]`

// people lists the members of a tenant, oldest first; user and server narrow the list unless empty.
func people(app core.App, tenant, user, server string) ([]Person, error) {
	var rows []struct {
		Member       string         `db:"member"`
		User         string         `db:"user"`
		Joined       types.DateTime `db:"joined"`
		Name         string         `db:"name"`
		Email        string         `db:"email"`
		InvitedBy    string         `db:"invited_by"`
		Server       string         `db:"server"`
		ServerName   string         `db:"server_name"`
		ServerStatus string         `db:"server_status"`
		Role         string         `db:"role"`
		RoleKey      string         `db:"role_key"`
		RoleName     string         `db:"role_name"`
	}
	err := app.ConcurrentDB().NewQuery(peopleQuery).Bind(dbx.Params{"tenant": tenant, "user": user, "server": server}).All(&rows)
	if err != nil {
		return nil, fmt.Errorf("list the members of tenant %s: %w", tenant, err)
	}
	out, last := []Person{}, ""
	for _, r := range rows {
		if r.Member != last {
			name := r.Name
			if name == "" {
				name = r.Email
			}
			out = append(out, Person{User: r.User, Name: name, Email: r.Email, Servers: []Grant{}, InvitedBy: r.InvitedBy, Joined: r.Joined})
			last = r.Member
		}
		p := &out[len(out)-1]
		switch {
		case r.Role == "":
		case r.Server == "":
			p.Role, p.RoleKey, p.RoleName = r.Role, r.RoleKey, r.RoleName
		case r.ServerName != "" && r.ServerStatus != "DELETED":
			p.Servers = append(p.Servers, Grant{Server: r.Server, ServerName: r.ServerName, Role: r.Role, RoleName: r.RoleName})
		}
	}
	return out, nil
}

// managing are the permissions of which any shows the addresses of members.
var managing = []string{"member.invite", "member.update", "member.remove"}

// shown hides addresses from those who do not manage members.
func (t *Tenancy) shown(app core.App, a access.Actor, tenant string, list []Person) ([]Person, error) {
	s, err := t.standingOf(app, a, tenant)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(managing, func(p string) bool { return s.wide[p] }) {
		return list, nil
	}
	for i := range list {
		if list[i].User == a.ID {
			continue
		}
		if list[i].Name == list[i].Email {
			list[i].Name = "Member without a name"
		}
		list[i].Email = ""
	}
	return list, nil
}

func (t *Tenancy) members(e *core.RequestEvent) error {
	a, row, err := t.asked(e, "tenant.read")
	if err != nil {
		return err
	}
	list, err := people(e.App, row.Id, "", "")
	if err == nil {
		list, err = t.shown(e.App, a, row.Id, list)
	}
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"items": list})
}

// asked returns who asks and the tenant of the path, if he may do that with it.
func (t *Tenancy) asked(e *core.RequestEvent, permission string) (access.Actor, *collections.Tenant, error) {
	a, err := access.From(e)
	if err != nil {
		return a, nil, err
	}
	row, err := t.Find(e.App, a, e.Request.PathValue("id"))
	if err != nil {
		return a, nil, err
	}
	return a, row, t.Can(e.App, a, permission, Resource{Tenant: row.Id})
}

// command runs fn in one transaction, once per Idempotency-Key, if the actor may do that with the
// tenant of the path. permission "" leaves the question to fn. in, unless nil, is what the body holds, and
// more, unless nil, which locks that asks for.
func (t *Tenancy) command(e *core.RequestEvent, permission string, in any, more func(a access.Actor) ([]collections.Lock, error), fn func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error)) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	row, err := t.find(e.App, a, e.Request.PathValue("id"))
	if err == nil {
		err = closedTo(a, row.Status())
	}
	if err == nil && !leaving(e, a) {
		err = t.admit(e.App, a, row.Require2fa())
	}
	if err != nil {
		return err
	}
	if in != nil {
		if err := access.Bind(e, in); err != nil {
			return err
		}
	}
	body, err := access.Body(e)
	if err != nil {
		return err
	}
	locks := []collections.Lock{Lock(row.Id), audit.Lock(row.Id)}
	if more != nil {
		asked, err := more(a)
		if err != nil {
			return err
		}
		locks = append(locks, asked...)
	}
	return t.cfg.Idempotency.Idempotent(e, a, row.Id, body, locks, func(tx core.App) (int, any, error) {
		if permission != "" {
			if err := t.Can(tx, a, permission, Resource{Tenant: row.Id}); err != nil {
				return 0, nil, err
			}
		}
		now, err := collections.FindTenant(tx, row.Id)
		if err != nil {
			return 0, nil, fmt.Errorf("read tenant %s: %w", row.Id, err)
		}
		return fn(tx, a, now)
	})
}

func noMember() *access.Error {
	return access.NotFound("member_not_found", "There is no such member in this organisation.")
}

// memberOf finds the membership of a user in a tenant; 404.
func memberOf(app core.App, tenant, user string) (*collections.TenantMember, error) {
	m, err := collections.One[collections.TenantMember](app, collections.TenantMembers, dbx.HashExp{"tenant": tenant, "user": user})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, noMember()
	}
	if err != nil {
		return nil, fmt.Errorf("find the member %s of tenant %s: %w", user, tenant, err)
	}
	return m, nil
}

func bindingsOf(app core.App, m *collections.TenantMember) ([]*collections.RoleBinding, error) {
	rows, err := collections.Every[collections.RoleBinding](app, collections.RoleBindings, "id", 0, dbx.HashExp{"member": m.Id, "tenant": m.Tenant()})
	if err != nil {
		return nil, fmt.Errorf("read the roles of member %s: %w", m.Id, err)
	}
	return rows, nil
}

// covers is 403 role_beyond_yours when a role holds a permission that the actor lacks in the whole
// tenant: nobody hands out, takes away or edits what he does not have.
func (t *Tenancy) covers(app core.App, a access.Actor, tenant string, roles ...string) error {
	s, err := t.standingOf(app, a, tenant)
	if err != nil {
		return err
	}
	for _, role := range roles {
		held, err := heldBy(app, role)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(held, func(p string) bool { return !s.wide[p] }) {
			return access.Forbidden("role_beyond_yours", "This role may do more than yours. Somebody who has all of its permissions can change this.")
		}
	}
	return nil
}

// heldBy lists the keys of a role's permissions, sorted.
func heldBy(app core.App, role string) ([]string, error) {
	held := []string{}
	err := app.ConcurrentDB().Select("p.key").From("role_permissions rp").
		InnerJoin("permissions p", dbx.NewExp("[[p.id]] = [[rp.permission]]")).
		Where(dbx.HashExp{"rp.role": role}).OrderBy("p.key").Column(&held)
	if err != nil {
		return nil, fmt.Errorf("read the permissions of role %s: %w", role, err)
	}
	return held, nil
}

// grantable finds a role that can be given to somebody: a system role but OWNER, or one of the
// tenant's own, by id or by a system role's key.
func grantable(app core.App, tenant, ref string) (*collections.Role, error) {
	row, err := collections.One[collections.Role](app, collections.Roles,
		dbx.Or(dbx.HashExp{"id": ref}, dbx.HashExp{"key": ref, "tenant": ""}), dbx.Or(dbx.HashExp{"tenant": ""}, dbx.HashExp{"tenant": tenant}))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, access.InvalidField("role", "unknown", "There is no such role in this organisation.")
	}
	if err != nil {
		return nil, fmt.Errorf("find the role %s: %w", ref, err)
	}
	if isOwner(row) {
		return nil, access.InvalidField("role", "owner", "An organisation is handed over by a transfer, not by a role.")
	}
	return row, nil
}

func isOwner(r *collections.Role) bool { return r.Key() == RoleOwner && r.Tenant() == "" }

// systemRole finds one of the roles that every tenant has.
func systemRole(app core.App, key string) (*collections.Role, error) {
	role, err := collections.One[collections.Role](app, collections.Roles, dbx.HashExp{"tenant": "", "key": key})
	if err != nil {
		return nil, fmt.Errorf("find the role %s: %w", key, err)
	}
	return role, nil
}

// updateMember gives a member another role for the whole organisation, or, with "", none: then he keeps what he
// has for single servers.
func (t *Tenancy) updateMember(e *core.RequestEvent) error {
	var in struct {
		Role *string `json:"role"`
	}
	return t.command(e, "member.update", &in, nil, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		if in.Role == nil {
			return 0, nil, access.InvalidField("role", "required", "Please choose a role.")
		}
		m, err := memberOf(tx, row.Id, e.Request.PathValue("user"))
		if err != nil {
			return 0, nil, err
		}
		if err := t.setRole(tx, a, m, "", *in.Role); err != nil {
			return 0, nil, err
		}
		return t.personAnswer(tx, a, row.Id, m.User())
	})
}

// setRole makes ref, "" for none, a member's role for a server, or for the whole tenant when server is "".
func (t *Tenancy) setRole(tx core.App, a access.Actor, m *collections.TenantMember, server, ref string) error {
	bindings, err := bindingsOf(tx, m)
	if err != nil {
		return err
	}
	var present *collections.RoleBinding
	for _, b := range bindings {
		if b.Server() == server {
			present = b
		}
	}
	var role *collections.Role
	if ref != "" {
		if role, err = grantable(tx, m.Tenant(), ref); err != nil {
			return err
		}
		if present != nil && present.Role() == role.Id {
			return nil
		}
		if err := t.covers(tx, a, m.Tenant(), role.Id); err != nil {
			return err
		}
	}
	change := map[string]any{"from": "", "to": ""}
	if server != "" {
		change["server"] = server
	}
	if present != nil {
		old, err := collections.FindRole(tx, present.Role())
		if err != nil {
			return fmt.Errorf("read the role of member %s: %w", m.Id, err)
		}
		if isOwner(old) {
			return access.Conflict("owner_stays", "The owner keeps his role. Hand the organisation over to somebody else first.")
		}
		if err := t.covers(tx, a, m.Tenant(), old.Id); err != nil {
			return err
		}
		change["from"] = old.Name()
		if err := permit.Delete(tx, present); err != nil {
			return fmt.Errorf("take the role of member %s: %w", m.Id, err)
		}
	} else if role == nil {
		return nil
	}
	if role != nil {
		change["to"] = role.Name()
		if err := give(tx, m, role.Id, server); err != nil {
			return err
		}
	}
	if err := t.dropInvites(tx, a, m.Tenant(), m.User()); err != nil {
		return err
	}
	return t.tellMember(tx, a, m, "member.update", "member.updated", change, false)
}

// give adds a role to a member.
func give(tx core.App, m *collections.TenantMember, role, server string) error {
	b, err := collections.NewRoleBinding(tx)
	if err != nil {
		return err
	}
	b.SetTenant(m.Tenant())
	b.SetMember(m.Id)
	b.SetRole(role)
	b.SetServer(server)
	if err := permit.Save(tx, b); err != nil {
		return fmt.Errorf("give member %s a role: %w", m.Id, err)
	}
	return nil
}

// removeMember removes somebody, or oneself, from an organisation. The last owner stays.
func (t *Tenancy) removeMember(e *core.RequestEvent) error {
	return t.command(e, "", nil, nil, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		user := e.Request.PathValue("user")
		leaves := a.Type == access.TypeUser && user == a.ID
		if !leaves {
			if err := t.Can(tx, a, "member.remove", Resource{Tenant: row.Id}); err != nil {
				return 0, nil, err
			}
		}
		m, err := memberOf(tx, row.Id, user)
		if err != nil {
			return 0, nil, err
		}
		bindings, err := bindingsOf(tx, m)
		if err != nil {
			return 0, nil, err
		}
		for _, b := range bindings {
			role, err := collections.FindRole(tx, b.Role())
			if err != nil {
				return 0, nil, fmt.Errorf("read the role of member %s: %w", m.Id, err)
			}
			if isOwner(role) {
				return 0, nil, access.Conflict("owner_stays", "The owner cannot leave. Hand the organisation over to somebody else first, or delete it.")
			}
			if leaves {
				continue
			}
			if err := t.covers(tx, a, row.Id, role.Id); err != nil {
				return 0, nil, err
			}
		}
		action, kind := "member.remove", "member.removed"
		if leaves {
			action, kind = "member.leave", "member.left"
		}
		return http.StatusNoContent, nil, t.part(tx, a, m, bindings, action, kind, map[string]any{})
	})
}

// part ends a membership with all that rests on it. Should the person come back one day, what he had made does not.
func (t *Tenancy) part(tx core.App, a access.Actor, m *collections.TenantMember, bindings []*collections.RoleBinding, action, kind string, details map[string]any) error {
	for _, b := range bindings {
		if err := permit.Delete(tx, b); err != nil {
			return fmt.Errorf("take the roles of member %s: %w", m.Id, err)
		}
	}
	if err := permit.Delete(tx, m); err != nil {
		return fmt.Errorf("remove member %s: %w", m.Id, err)
	}
	if _, err := t.cfg.Keys.RevokeKeys(tx, m.Tenant(), m.User(), access.KeyLeft); err != nil {
		return err
	}
	if err := t.dropInvites(tx, a, m.Tenant(), m.User()); err != nil {
		return err
	}
	return t.tellMember(tx, a, m, action, kind, details, true)
}

// transfer makes another member the owner; who was it becomes an admin.
func (t *Tenancy) transfer(e *core.RequestEvent) error {
	var in struct {
		User string `json:"user"`
	}
	both := func(a access.Actor) ([]collections.Lock, error) { // how many they own is counted
		if !wire.ValidID(in.User) {
			return nil, access.InvalidField("user", "required", "Please choose the member who becomes the owner.")
		}
		if in.User == a.ID || !wire.ValidID(a.ID) {
			return []collections.Lock{collections.Lock("user:" + in.User)}, nil
		}
		return []collections.Lock{collections.Lock("user:" + in.User), collections.Lock("user:" + a.ID)}, nil
	}
	return t.command(e, "tenant.transfer", &in, both, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		return t.handOver(tx, a, row, in.User)
	})
}

func (t *Tenancy) handOver(tx core.App, a access.Actor, row *collections.Tenant, user string) (int, any, error) {
	next, err := memberOf(tx, row.Id, user)
	if err != nil {
		return 0, nil, err
	}
	account, err := tx.FindRecordById("users", user)
	if err != nil {
		return 0, nil, fmt.Errorf("find the account %s: %w", user, err)
	}
	if !account.Verified() {
		return 0, nil, access.Conflict("email_unverified", "This member has not confirmed the e-mail address yet.")
	}
	owner, err := systemRole(tx, RoleOwner)
	if err != nil {
		return 0, nil, err
	}
	admin, err := systemRole(tx, RoleAdmin)
	if err != nil {
		return 0, nil, err
	}
	held, err := collections.Every[collections.RoleBinding](tx, collections.RoleBindings, "id", 0, dbx.HashExp{"tenant": row.Id, "role": owner.Id, "server": ""})
	if err != nil {
		return 0, nil, fmt.Errorf("find the owner of tenant %s: %w", row.Id, err)
	}
	for _, b := range held {
		if b.Member() == next.Id {
			return 0, nil, access.Conflict("already_owner", "This member is the owner already.")
		}
	}
	if n, err := ownedBy(tx, user); err != nil {
		return 0, nil, err
	} else if n >= t.cfg.MaxTenants {
		return 0, nil, access.Conflict("tenant_limit", fmt.Sprintf("This member owns %d organisations already, which is as many as one person may.", n))
	}
	if !a.Superuser {
		if err := t.cfg.Sessions.RequireProof(tx, a); err != nil {
			return 0, nil, err
		}
	}
	for _, b := range held { // before the new one: nobody has two roles for the whole
		b.SetRole(admin.Id)
		if err := permit.Save(tx, b); err != nil {
			return 0, nil, fmt.Errorf("take the ownership of tenant %s: %w", row.Id, err)
		}
	}
	had, err := bindingsOf(tx, next)
	if err != nil {
		return 0, nil, err
	}
	for _, b := range had {
		if b.Server() != "" {
			continue
		}
		if err := permit.Delete(tx, b); err != nil {
			return 0, nil, fmt.Errorf("take the role of member %s: %w", next.Id, err)
		}
	}
	if err := give(tx, next, owner.Id, ""); err != nil {
		return 0, nil, err
	}
	details := map[string]any{"to": user, "name": account.GetString("name")}
	if err := t.tellMember(tx, a, next, "tenant.transfer", "tenant.transferred", details, false); err != nil {
		return 0, nil, err
	}
	v, err := t.viewFor(tx, a, row)
	return http.StatusOK, v, err
}

// personAnswer is one member as the answer to a change of him.
func (t *Tenancy) personAnswer(tx core.App, a access.Actor, tenant, user string) (int, any, error) {
	list, err := people(tx, tenant, user, "")
	if err == nil {
		list, err = t.shown(tx, a, tenant, list)
	}
	if err != nil {
		return 0, nil, err
	}
	if len(list) == 0 {
		return 0, nil, noMember()
	}
	return http.StatusOK, list[0], nil
}

// tellMember writes the audit row and the event of a change to a member, touches him so that what is
// open of him is asked about again, and has browsers fetch the list anew.
func (t *Tenancy) tellMember(tx core.App, a access.Actor, m *collections.TenantMember, action, kind string, details map[string]any, gone bool) error {
	if !gone {
		m.SetRev(m.Rev() + 1)
		if err := permit.Save(tx, m); err != nil {
			return fmt.Errorf("touch member %s: %w", m.Id, err)
		}
	}
	return t.tell(tx, a, m.Tenant(), notice{action: action, kind: kind, about: "users", subject: m.User(), rev: m.Rev(), message: "member", gone: gone, details: details})
}

// notice is what is told of a change in an organisation.
type notice struct {
	action, kind   string // of the audit row, and of the event
	about, subject string
	message        string // type of the realtime message
	rev            int64
	gone           bool
	details        map[string]any
}

func (t *Tenancy) tell(tx core.App, a access.Actor, tenant string, n notice) error {
	err := t.cfg.Auditor.Write(tx, a.Audit(), audit.Entry{Tenant: tenant, Action: n.action, ResourceType: n.about, Resource: n.subject, Metadata: n.details})
	if err != nil {
		return fmt.Errorf("audit %s of %s: %w", n.action, n.subject, err)
	}
	err = t.cfg.Events.Emit(tx, events.Event{
		Kind: n.kind, Tenant: tenant, SubjectType: n.about, Subject: n.subject,
		Actor: a.ID, ActorType: a.Type, ActorName: a.Name, Payload: n.details,
	})
	if err != nil {
		return fmt.Errorf("keep the event %s of %s: %w", n.kind, n.subject, err)
	}
	t.cfg.Events.Broadcast(tx, tenant, events.Message{Type: n.message, ID: n.subject, Rev: n.rev, Deleted: n.gone})
	return nil
}

// joined makes a user a member with a role, or gives one who is a member what he lacks.
func joined(tx core.App, tenant, user, invitedBy, role, server string) (*collections.TenantMember, error) {
	m, err := memberOf(tx, tenant, user)
	if err != nil {
		var missing *access.Error
		if !errors.As(err, &missing) {
			return nil, err
		}
		if m, err = collections.NewTenantMember(tx); err != nil {
			return nil, err
		}
		m.SetTenant(tenant)
		m.SetUser(user)
		m.SetInvitedBy(invitedBy)
		m.SetJoinedAt(time.Now())
		m.SetRev(1)
		if err := permit.Save(tx, m); err != nil {
			return nil, fmt.Errorf("make %s a member of tenant %s: %w", user, tenant, err)
		}
	}
	bindings, err := bindingsOf(tx, m)
	if err != nil {
		return nil, err
	}
	for _, b := range bindings {
		if b.Server() == server {
			return m, nil // what he has since is not less than what he was invited to
		}
	}
	return m, give(tx, m, role, server)
}
