package tenancy

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/events"
)

// Resource is what a permission is asked for: a server of a tenant, or the tenant itself. The caller
// takes Tenant from the row, never from the request.
type Resource struct{ Tenant, Server string }

// reading are the actions of permissions that change nothing. Everything else needs a confirmed
// address and a tenant that is not suspended.
var reading = []string{"read", "activity"}

func changes(permission string) bool {
	_, action, _ := strings.Cut(permission, ".")
	return !slices.Contains(reading, action)
}

// lasting are permissions that hold in a tenant that is suspended or being deleted as well: to leave, and not to
// leave after all.
var lasting = []string{"tenant.delete", "tenant.export"}

// One indexed query: the status of the tenant, whether the user is a member, how many of his
// bindings cover the resource, and how many of those roles hold the permission.
const canQuery = `SELECT [[t.status]] AS [[status]], [[t.status_reason]] AS [[reason]], [[t.require_2fa]] AS [[required]], COUNT([[m.id]]) AS [[member]], COUNT([[b.id]]) AS [[bound]],
	COUNT([[rp.id]]) AS [[granted]], COUNT([[p.id]]) AS [[known]], COALESCE(MAX([[p.description]]), '') AS [[title]]
FROM {{tenants}} [[t]]
LEFT JOIN {{permissions}} [[p]] ON [[p.key]] = {:permission}
LEFT JOIN {{tenant_members}} [[m]] ON [[m.tenant]] = [[t.id]] AND [[m.user]] = {:user}
LEFT JOIN {{role_bindings}} [[b]] ON [[b.member]] = [[m.id]] AND [[b.tenant]] = [[t.id]] AND ([[b.server]] = '' OR [[b.server]] = {:server})
LEFT JOIN {{role_permissions}} [[rp]] ON [[rp.role]] = [[b.role]] AND [[rp.permission]] = [[p.id]]
WHERE [[t.id]] = {:tenant} GROUP BY [[t.id]], [[t.status]], [[t.status_reason]], [[t.require_2fa]]`

// Can says whether the actor may do what the permission names with the resource:
//
//	nil  he may
//	404  the tenant is not his, or the server is outside of what his bindings cover
//	403  he may see it, but his role, his unconfirmed address, a second factor that he lacks or the
//	     tenant's state forbids this; Message says which, Code is forbidden, email_unverified,
//	     second_factor_required, tenant_suspended or tenant_deleting
//
// A superuser may do everything. A permission that is not seeded is a fault of ours (500).
func (t *Tenancy) Can(app core.App, a access.Actor, permission string, r Resource) error {
	if a.Superuser {
		return nil
	}
	var row struct {
		Status, Reason, Title         string
		Needs                         bool
		Member, Bound, Granted, Known int64
	}
	err := t.question(app.ConcurrentDB()).
		Bind(dbx.Params{"permission": permission, "user": a.ID, "server": r.Server, "tenant": r.Tenant}).
		Row(&row.Status, &row.Reason, &row.Needs, &row.Member, &row.Bound, &row.Granted, &row.Known, &row.Title)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("ask whether %s may %s: %w", a.ID, permission, err)
	}
	comes := a.Type == access.TypeUser && a.Key == nil || a.Type == access.TypeAPIKey && a.Key != nil && (a.Key.Tenant == "" || a.Key.Tenant == r.Tenant)
	if !comes || a.ID == "" || err != nil || row.Member == 0 || row.Status == StatusDeleted {
		if r.Server != "" {
			return noServer()
		}
		return noTenant()
	}
	if row.Known == 0 {
		return fmt.Errorf("tenancy: there is no permission %q", permission)
	}
	if row.Bound == 0 && r.Server != "" {
		return noServer()
	}
	if err := t.admit(app, a, row.Needs); err != nil {
		return err
	}
	if a.Key != nil && r.Server != "" && !a.Key.Reaches(r.Server) {
		return noServer()
	}
	if err := closedTo(a, row.Status); err != nil {
		return err
	}
	if row.Granted == 0 {
		return access.Forbidden("forbidden", fmt.Sprintf("Your role in this organisation does not include: %s. An owner or admin of it can change that.", row.Title))
	}
	if err := leaves(a.Key, permission, row.Title, r); err != nil {
		return err
	}
	if !changes(permission) {
		return nil
	}
	if err := access.RequireVerified(a); err != nil {
		return err
	}
	switch {
	case row.Status == StatusActive, slices.Contains(lasting, permission):
		return nil
	case row.Status == StatusSuspended:
		return suspended(row.Reason)
	}
	return deleting()
}

func suspended(reason string) *access.Error {
	return access.Forbidden("tenant_suspended", strings.TrimSpace("This organisation is suspended. Nothing can be changed until that is resolved. "+reason))
}

func deleting() *access.Error {
	return access.Forbidden("tenant_deleting", "This organisation is being deleted. Nothing can be changed any more.")
}

// question returns canQuery, ready to be bound. Most of what it costs is to parse and plan it, so a database is asked
// with a statement that it has prepared once; what it answers is never kept. A transaction plans anew: its connection
// is one that nobody prepared for.
func (t *Tenancy) question(db dbx.Builder) *dbx.Query {
	pool, ok := db.(*dbx.DB)
	if !ok {
		return db.NewQuery(canQuery)
	}
	kept, ok := t.questions.Load(pool)
	if !ok {
		q := pool.NewQuery(canQuery).Prepare()
		if q.LastError != nil {
			return pool.NewQuery(canQuery) // its own error tells why
		}
		var lost bool
		if kept, lost = t.questions.LoadOrStore(pool, q); lost {
			_ = q.Close() // another was quicker; nothing was asked with this one
		}
	}
	q := *kept.(*dbx.Query) // the statement is for everybody, what is bound to it is not
	return &q
}

// closedTo refuses the API keys of a tenant that is being deleted: its people may look, its programs are over.
func closedTo(a access.Actor, status string) error {
	if a.Key != nil && a.Key.Tenant != "" && status == StatusDeleting {
		return deleting()
	}
	return nil
}

func noServer() *access.Error {
	return access.NotFound("server_not_found", "There is no such server.")
}

// standing is what a user's bindings in one tenant add up to.
type standing struct {
	role, roleName string              // the strongest that covers the most
	wide           map[string]bool     // permissions in the whole tenant
	scoped         map[string][]string // permission → servers that a binding names
	isWide         bool                // some binding covers the whole tenant
	everything     bool                // a superuser
}

const standingQuery = `SELECT COALESCE([[b.server]], '') AS [[server]], COALESCE([[b.id]], '') AS [[binding]],
	COALESCE([[r.key]], '') AS [[role]], COALESCE([[r.name]], '') AS [[role_name]], COALESCE([[p.key]], '') AS [[permission]]
FROM {{tenants}} [[t]]
JOIN {{tenant_members}} [[m]] ON [[m.tenant]] = [[t.id]] AND [[m.user]] = {:user}
LEFT JOIN {{role_bindings}} [[b]] ON [[b.member]] = [[m.id]] AND [[b.tenant]] = [[t.id]]
LEFT JOIN {{roles}} [[r]] ON [[r.id]] = [[b.role]]
LEFT JOIN {{role_permissions}} [[rp]] ON [[rp.role]] = [[b.role]]
LEFT JOIN {{permissions}} [[p]] ON [[p.id]] = [[rp.permission]]
WHERE [[t.id]] = {:tenant} AND [[t.status]] != {:deleted}`

// standing returns false when the user is not a member of the tenant.
func (t *Tenancy) standing(app core.App, user, tenant string) (standing, bool, error) {
	var rows []struct {
		Server     string `db:"server"`
		Binding    string `db:"binding"`
		Role       string `db:"role"`
		RoleName   string `db:"role_name"`
		Permission string `db:"permission"`
	}
	err := app.ConcurrentDB().NewQuery(standingQuery).Bind(dbx.Params{"user": user, "tenant": tenant, "deleted": StatusDeleted}).All(&rows)
	if err != nil {
		return standing{}, false, fmt.Errorf("read the bindings of %s in tenant %s: %w", user, tenant, err)
	}
	s := standing{wide: map[string]bool{}, scoped: map[string][]string{}}
	best := -1
	for _, r := range rows {
		if r.Binding == "" {
			continue // a member without any role: he may know that the tenant exists
		}
		rank := rankOf(r.Role)
		if r.Server == "" {
			s.isWide, s.wide[r.Permission] = true, true
			rank += 100 // a role for the whole tenant comes before one for a server
		} else if !slices.Contains(s.scoped[r.Permission], r.Server) {
			s.scoped[r.Permission] = append(s.scoped[r.Permission], r.Server)
		}
		if rank > best {
			best, s.role, s.roleName = rank, r.Role, r.RoleName
		}
	}
	return s, len(rows) > 0, nil
}

// rankOf orders roles for showing one of several; it decides nothing else.
func rankOf(role string) int {
	return 1 + slices.Index([]string{RoleMember, RoleSupport, RoleAdmin, RoleOwner}, role) // 0: the tenant's own
}

// permissions lists what the user may do: in the whole tenant, or, when no binding covers that, on
// some server of it. Sorted.
func (s standing) permissions() []string {
	out := []string{}
	if s.isWide {
		for p := range s.wide {
			out = append(out, p)
		}
	} else {
		for p := range s.scoped {
			out = append(out, p)
		}
	}
	out = slices.DeleteFunc(out, func(p string) bool { return p == "" })
	slices.Sort(out)
	return out
}

// servers lists the servers that the user may see; nil means all of the tenant's.
func (s standing) servers() []string {
	if s.everything || s.wide["server.read"] {
		return nil
	}
	out := slices.Clone(s.scoped["server.read"])
	if out == nil {
		out = []string{}
	}
	slices.Sort(out)
	return out
}

// Permissions lists the keys of what the actor may do in a tenant, sorted; 404 when it is not his. A
// superuser has them all. A binding for one server only counts when there is none for the tenant.
func (t *Tenancy) Permissions(app core.App, a access.Actor, tenant string) ([]string, error) {
	s, err := t.standingOf(app, a, tenant)
	if err != nil {
		return nil, err
	}
	return s.permissions(), nil
}

// Membership is one person's in one tenant.
type Membership struct {
	User   string `db:"user"`
	Tenant string `db:"tenant"`
}

// Seeing lists who has a role, when the permission (an id) is the one that Scope goes by; otherwise nobody.
func (t *Tenancy) Seeing(app core.App, permission, role string) ([]Membership, error) {
	var out []Membership
	err := app.ConcurrentDB().NewQuery(`SELECT DISTINCT [[m.user]], [[m.tenant]] FROM {{role_bindings}} [[b]]
		JOIN {{tenant_members}} [[m]] ON [[m.id]] = [[b.member]]
		JOIN {{permissions}} [[p]] ON [[p.id]] = {:permission} AND [[p.key]] = 'server.read'
		WHERE [[b.role]] = {:role}`).Bind(dbx.Params{"permission": permission, "role": role}).All(&out)
	if err != nil {
		return nil, fmt.Errorf("list who has the role %s: %w", role, err)
	}
	return out, nil
}

func (t *Tenancy) standingOf(app core.App, a access.Actor, tenant string) (standing, error) {
	if a.Superuser {
		var keys []string
		if err := app.ConcurrentDB().Select("key").From("permissions").Column(&keys); err != nil {
			return standing{}, fmt.Errorf("list the permissions: %w", err)
		}
		s := standing{role: "SUPERUSER", roleName: "Operator", wide: map[string]bool{}, isWide: true, everything: true}
		for _, k := range keys {
			s.wide[k] = true
		}
		return s, nil
	}
	if a.Key != nil && a.Key.Tenant != "" && a.Key.Tenant != tenant {
		return standing{}, noTenant()
	}
	s, member, err := t.standing(app, a.ID, tenant)
	if err == nil && !member {
		err = noTenant()
	}
	if a.Key != nil {
		s = s.narrow(a.Key)
	}
	return s, err
}

// ScopeOf is Scope for who makes a request.
func (t *Tenancy) ScopeOf(app core.App, a access.Actor, tenant string) (events.Scope, error) {
	s, err := t.standingOf(app, a, tenant)
	if err != nil {
		return events.Scope{}, err
	}
	visible := s.servers()
	return events.Scope{All: visible == nil, Servers: visible}, nil
}

// Scope says which servers of a tenant a user may see; ok is false when he is not a member of it, or
// is held at its door for want of a second factor. It decides what the realtime topic sends to him, and what a list of servers may hold.
func (t *Tenancy) Scope(app core.App, user *core.Record, tenant string) (events.Scope, bool) {
	if user == nil {
		return events.Scope{}, false
	}
	if user.IsSuperuser() {
		return events.Scope{All: true}, true
	}
	if user.Collection().Name != "users" {
		return events.Scope{}, false
	}
	s, member, err := t.standing(app, user.Id, tenant)
	if err != nil || !member { // a failed read admits nobody
		return events.Scope{}, false
	}
	row, err := collections.FindTenant(app, tenant)
	if err != nil || t.admit(app, access.Actor{ID: user.Id}, row.Require2fa()) != nil {
		return events.Scope{}, false
	}
	visible := s.servers()
	return events.Scope{All: visible == nil, Servers: visible}, true
}
