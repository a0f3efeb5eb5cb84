package tenancy

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
)

// Keys is access.Access: it keeps API keys and knows who comes by one. What a key may be given is decided here.
type Keys interface {
	Keys(app core.App, tenant, user string) ([]access.KeyView, error)
	MakeKey(tx core.App, a access.Actor, tenant string, in access.KeyInput) (access.KeyView, string, error)
	RevokeKey(tx core.App, a access.Actor, tenant, id string) (name string, err error)
	RevokeKeys(tx core.App, tenant, user, why string) (int, error)
}

// notForKeys are permissions that no API key is given: what makes keys, and what gives the organisation away, takes
// all of it along or ends it.
var notForKeys = []string{"key.manage", "tenant.transfer", "tenant.delete", "tenant.export"}

// narrow leaves of a standing what an API key may use of it.
func (s standing) narrow(k *access.Key) standing {
	out := standing{role: s.role, roleName: s.roleName, wide: map[string]bool{}, scoped: map[string][]string{}, isWide: s.isWide && len(k.Servers) == 0}
	for p := range s.wide {
		switch {
		case !k.Allows(p):
		case len(k.Servers) == 0:
			out.wide[p] = true
		default:
			out.scoped[p] = slices.Clone(k.Servers)
		}
	}
	for p, servers := range s.scoped {
		for _, server := range servers {
			if k.Allows(p) && k.Reaches(server) && !slices.Contains(out.scoped[p], server) {
				out.scoped[p] = append(out.scoped[p], server)
			}
		}
	}
	return out
}

// leaves is what an API key says about something that its holder may do: nil, or why not by this key.
func leaves(k *access.Key, permission, title string, r Resource) error {
	if k == nil {
		return nil
	}
	if r.Server != "" && !k.Reaches(r.Server) {
		return noServer()
	}
	if !k.Allows(permission) || r.Server == "" && len(k.Servers) > 0 || slices.Contains(notForKeys, permission) {
		return access.Forbidden("forbidden", fmt.Sprintf("This API key does not include: %s.", title))
	}
	return nil
}

// person is who asks, if he came himself and not by an API key.
func person(e *core.RequestEvent) (access.Actor, error) {
	a, err := access.From(e)
	if err == nil && a.Type != access.TypeUser {
		err = access.Forbidden("users_only", "API keys belong to customers. Please sign in with a customer's account.")
	}
	return a, err
}

// KeyPermission is something that an API key can be allowed.
type KeyPermission struct {
	Key         string `json:"key"`
	Resource    string `json:"resource"`
	Description string `json:"description"`
	Yours       bool   `json:"yours"` // the asker has it, so he may give it to a key
}

// keyable lists what a key can be given by somebody who may do what yours says.
func keyable(app core.App, yours func(permission string) bool) ([]KeyPermission, error) {
	all, err := collections.Every[collections.Permission](app, collections.Permissions, "id", 0)
	if err != nil {
		return nil, fmt.Errorf("list the permissions: %w", err)
	}
	out := []KeyPermission{}
	for _, p := range all {
		if !slices.Contains(notForKeys, p.Key()) {
			out = append(out, KeyPermission{Key: p.Key(), Resource: p.Resource(), Description: p.Description(), Yours: yours(p.Key())})
		}
	}
	return out, nil
}

// anywhere is what somebody may do in any of his organisations, or on any server of one.
func (t *Tenancy) anywhere(app core.App, user string) (map[string]bool, error) {
	var keys []string
	err := app.ConcurrentDB().NewQuery(`SELECT DISTINCT [[p.key]] FROM {{tenant_members}} [[m]]
		JOIN {{tenants}} [[t]] ON [[t.id]] = [[m.tenant]] AND [[t.status]] != {:deleted}
		JOIN {{role_bindings}} [[b]] ON [[b.member]] = [[m.id]] AND [[b.tenant]] = [[m.tenant]]
		JOIN {{role_permissions}} [[rp]] ON [[rp.role]] = [[b.role]]
		JOIN {{permissions}} [[p]] ON [[p.id]] = [[rp.permission]]
		WHERE [[m.user]] = {:user}`).Bind(dbx.Params{"user": user, "deleted": StatusDeleted}).Column(&keys)
	if err != nil {
		return nil, fmt.Errorf("list what %s may do anywhere: %w", user, err)
	}
	out := map[string]bool{}
	for _, k := range keys {
		out[k] = true
	}
	return out, nil
}

// grantKey refuses a key that would be given more than its maker has.
func grantKey(app core.App, in access.KeyInput, yours func(permission string) bool) error {
	list, err := keyable(app, yours)
	if err != nil {
		return err
	}
	for _, want := range in.Permissions {
		i := slices.IndexFunc(list, func(p KeyPermission) bool { return p.Key == want })
		switch {
		case slices.Contains(notForKeys, want):
			return access.InvalidField("permissions", "not_for_keys", "This cannot be given to an API key. Whoever does it has to sign in.")
		case i < 0:
			return access.InvalidField("permissions", "unknown", "There is no such permission.")
		case !list[i].Yours:
			return access.Forbidden("key_beyond_yours", "You can give an API key only what you may do yourself.")
		}
	}
	return nil
}

// madeKey is the one answer that holds a key itself.
type madeKey struct {
	access.KeyView
	Secret string `json:"secret"`
}

func (t *Tenancy) myKeys(e *core.RequestEvent) error {
	a, err := person(e)
	if err != nil {
		return err
	}
	list, err := t.cfg.Keys.Keys(e.App, "", a.ID)
	if err != nil {
		return err
	}
	yours, err := t.anywhere(e.App, a.ID)
	if err != nil {
		return err
	}
	may, err := keyable(e.App, func(p string) bool { return yours[p] })
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"items": list, "permissions": may})
}

// keyInput reads what a new key is to be.
func keyInput(e *core.RequestEvent, in *access.KeyInput) error {
	if err := access.Bind(e, in); err != nil {
		return err
	}
	return in.Check(time.Now())
}

func (t *Tenancy) makeMyKey(e *core.RequestEvent) error {
	a, err := person(e)
	if err != nil {
		return err
	}
	if err := access.RequireVerified(a); err != nil {
		return err
	}
	var in access.KeyInput
	if err := keyInput(e, &in); err != nil {
		return err
	}
	var out madeKey
	err = collections.Tx(e.App, []collections.Lock{collections.Lock("user:" + a.ID), audit.Lock("")}, func(tx core.App) error {
		if err := a.Still(tx); err != nil {
			return err
		}
		yours, err := t.anywhere(tx, a.ID)
		if err != nil {
			return err
		}
		if err := grantKey(tx, in, func(p string) bool { return yours[p] }); err != nil {
			return err
		}
		if out.KeyView, out.Secret, err = t.cfg.Keys.MakeKey(tx, a, "", in); err != nil {
			return err
		}
		return t.tellKey(tx, a, "", "account.key_make", "account.key_made", out.KeyView)
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusCreated, out)
}

func (t *Tenancy) revokeMyKey(e *core.RequestEvent) error {
	a, err := person(e)
	if err != nil {
		return err
	}
	err = collections.Tx(e.App, []collections.Lock{collections.Lock("user:" + a.ID), audit.Lock("")}, func(tx core.App) error {
		id := e.Request.PathValue("key")
		name, err := t.cfg.Keys.RevokeKey(tx, a, "", id)
		if err != nil {
			return err
		}
		return t.tellKey(tx, a, "", "account.key_revoke", "account.key_revoked", access.KeyView{ID: id, Name: name})
	})
	if err != nil {
		return err
	}
	return e.NoContent(http.StatusNoContent)
}

func (t *Tenancy) keys(e *core.RequestEvent) error {
	a, row, err := t.asked(e, "key.manage")
	if err != nil {
		return err
	}
	s, err := t.standingOf(e.App, a, row.Id)
	if err != nil {
		return err
	}
	list, err := t.cfg.Keys.Keys(e.App, row.Id, "")
	if err != nil {
		return err
	}
	may, err := keyable(e.App, func(p string) bool { return s.wide[p] })
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"items": list, "permissions": may})
}

// makeKey is not told again under an Idempotency-Key: its answer holds a secret, which is kept nowhere.
func (t *Tenancy) makeKey(e *core.RequestEvent) error {
	a, row, err := t.asked(e, "key.manage")
	if err != nil {
		return err
	}
	if a.Type != access.TypeUser {
		return access.Forbidden("users_only", "An API key may do what its maker may, so a member of the organisation has to make it.")
	}
	var in access.KeyInput
	if err := keyInput(e, &in); err != nil {
		return err
	}
	var out madeKey
	err = collections.Tx(e.App, []collections.Lock{Lock(row.Id), audit.Lock(row.Id)}, func(tx core.App) error {
		if err := t.Can(tx, a, "key.manage", Resource{Tenant: row.Id}); err != nil {
			return err
		}
		s, err := t.standingOf(tx, a, row.Id)
		if err != nil {
			return err
		}
		if err := grantKey(tx, in, func(p string) bool { return s.wide[p] }); err != nil {
			return err
		}
		if err := t.ownServers(tx, row.Id, in.Servers); err != nil {
			return err
		}
		if out.KeyView, out.Secret, err = t.cfg.Keys.MakeKey(tx, a, row.Id, in); err != nil {
			return err
		}
		return t.tellKey(tx, a, row.Id, "key.make", "tenant.key_made", out.KeyView)
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusCreated, out)
}

// ownServers refuses servers that are not the tenant's.
func (t *Tenancy) ownServers(app core.App, tenant string, servers []string) error {
	for _, id := range servers {
		n, err := app.CountRecords(collections.Servers, dbx.HashExp{"id": id, "tenant": tenant}, dbx.Not(dbx.HashExp{"status": "DELETED"}))
		if err != nil {
			return fmt.Errorf("look for server %s: %w", id, err)
		}
		if n == 0 {
			return access.InvalidField("servers", "unknown", "There is no such server in this organisation.")
		}
	}
	return nil
}

func (t *Tenancy) revokeKey(e *core.RequestEvent) error {
	return t.command(e, "key.manage", nil, nil, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		id := e.Request.PathValue("key")
		name, err := t.cfg.Keys.RevokeKey(tx, a, row.Id, id)
		if err != nil {
			return 0, nil, err
		}
		return http.StatusNoContent, nil, t.tellKey(tx, a, row.Id, "key.revoke", "tenant.key_revoked", access.KeyView{ID: id, Name: name})
	})
}

// tellKey writes the audit row and the event of a key that was made or revoked. tenant is empty for a personal one.
func (t *Tenancy) tellKey(tx core.App, a access.Actor, tenant, action, kind string, v access.KeyView) error {
	details := map[string]any{"name": v.Name}
	if v.Hint != "" {
		details["permissions"], details["servers"], details["addresses"], details["expires_at"] = v.Permissions, v.Servers, v.Addresses, v.Expires
	}
	err := t.cfg.Auditor.Write(tx, a.Audit(), audit.Entry{Tenant: tenant, Action: action, ResourceType: collections.APIKeies, Resource: v.ID, Metadata: details})
	if err != nil {
		return fmt.Errorf("audit %s of %s: %w", action, v.ID, err)
	}
	about, subject := collections.APIKeies, v.ID
	if tenant == "" {
		about, subject = "users", a.ID // what happens to an account is told to whose it is
	}
	err = t.cfg.Events.Emit(tx, events.Event{Kind: kind, Tenant: tenant, SubjectType: about, Subject: subject, Actor: a.ID, ActorType: a.Type, ActorName: a.Name,
		Payload: map[string]any{"key": v.ID, "name": v.Name, "user": a.ID, "address": a.Address}})
	if err != nil {
		return fmt.Errorf("keep the event %s of %s: %w", kind, v.ID, err)
	}
	if tenant != "" {
		t.cfg.Events.Broadcast(tx, tenant, events.Message{Type: "key", ID: v.ID, Deleted: v.Hint == ""})
	}
	return nil
}
