package tenancy

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

// maxRoles is how many roles of its own a tenant may have.
const maxRoles = 20

// maxDescription is how many characters the description of a role may have.
const maxDescription = 255

// RoleView is a role as those see it who may see the organisation.
type RoleView struct {
	ID          string   `json:"id"`
	Key         string   `json:"key"`
	Name        string   `json:"name"`
	Description string   `json:"description"`
	System      bool     `json:"system"` // the same in every organisation
	Permissions []string `json:"permissions"`
	Members     int64    `json:"members"`    // who have it, also for single servers
	Assignable  bool     `json:"assignable"` // the asker may give it to others
}

// PermissionView is something that a role can allow.
type PermissionView struct {
	Key         string `json:"key"`
	Resource    string `json:"resource"`
	Description string `json:"description"`
	Yours       bool   `json:"yours"` // the asker has it, so he may put it into roles
}

func (t *Tenancy) roles(e *core.RequestEvent) error {
	a, row, err := t.asked(e, "tenant.read")
	if err != nil {
		return err
	}
	s, err := t.standingOf(e.App, a, row.Id)
	if err != nil {
		return err
	}
	list, err := rolesOf(e.App, row.Id, "", s)
	if err != nil {
		return err
	}
	all, err := collections.Every[collections.Permission](e.App, collections.Permissions, "id", 0)
	if err != nil {
		return fmt.Errorf("list the permissions: %w", err)
	}
	permissions := []PermissionView{}
	for _, p := range all {
		permissions = append(permissions, PermissionView{Key: p.Key(), Resource: p.Resource(), Description: p.Description(), Yours: s.wide[p.Key()]})
	}
	return e.JSON(http.StatusOK, map[string]any{"items": list, "permissions": permissions})
}

const rolesQuery = `SELECT [[r.id]], [[r.key]], [[r.name]], [[r.description]], [[r.system]], COALESCE([[p.key]], '') AS [[permission]],
	(SELECT COUNT(DISTINCT [[b.member]]) FROM {{role_bindings}} [[b]] WHERE [[b.role]] = [[r.id]] AND [[b.tenant]] = {:tenant}) AS [[members]]
FROM {{roles}} [[r]]
LEFT JOIN {{role_permissions}} [[rp]] ON [[rp.role]] = [[r.id]]
LEFT JOIN {{permissions}} [[p]] ON [[p.id]] = [[rp.permission]]
WHERE ([[r.tenant]] = '' OR [[r.tenant]] = {:tenant}) AND ({:role} = '' OR [[r.id]] = {:role})
ORDER BY [[r.tenant]], [[r.id]], [[p.key]]`

// rolesOf lists the roles of a tenant, the system's first; role narrows it unless empty.
func rolesOf(app core.App, tenant, role string, s standing) ([]RoleView, error) {
	var rows []struct {
		ID          string `db:"id"`
		Key         string `db:"key"`
		Name        string `db:"name"`
		Description string `db:"description"`
		System      bool   `db:"system"`
		Permission  string `db:"permission"`
		Members     int64  `db:"members"`
	}
	if err := app.ConcurrentDB().NewQuery(rolesQuery).Bind(dbx.Params{"tenant": tenant, "role": role}).All(&rows); err != nil {
		return nil, fmt.Errorf("list the roles of tenant %s: %w", tenant, err)
	}
	out := []RoleView{}
	for _, r := range rows {
		if len(out) == 0 || out[len(out)-1].ID != r.ID {
			out = append(out, RoleView{ID: r.ID, Key: r.Key, Name: r.Name, Description: r.Description, System: r.System, Permissions: []string{},
				Members: r.Members, Assignable: !r.System || r.Key != RoleOwner})
		}
		v := &out[len(out)-1]
		if r.Permission != "" {
			v.Permissions = append(v.Permissions, r.Permission)
			v.Assignable = v.Assignable && s.wide[r.Permission]
		}
	}
	return out, nil
}

// roleInput is what a role is made of; nil is "not given".
type roleInput struct {
	Name        *string   `json:"name"`
	Description *string   `json:"description"`
	Permissions *[]string `json:"permissions"`
}

// check tidies what was given and says what is wrong with it.
func (in *roleInput) check() error {
	faults := map[string]access.FieldError{}
	if in.Name != nil {
		name, ok := access.CleanText(*in.Name, MaxNameLength)
		switch *in.Name = name; {
		case name == "":
			faults["name"] = access.FieldError{Code: "required", Message: "Please give the role a name."}
		case !ok:
			faults["name"] = access.FieldError{Code: "name_invalid", Message: fmt.Sprintf("Please use at most %d ordinary characters.", MaxNameLength)}
		}
	}
	if in.Description != nil {
		text, ok := access.CleanText(*in.Description, maxDescription)
		if *in.Description = text; !ok {
			faults["description"] = access.FieldError{Code: "description_invalid", Message: fmt.Sprintf("Please use at most %d ordinary characters.", maxDescription)}
		}
	}
	if len(faults) > 0 {
		return access.Invalid(faults)
	}
	return nil
}

func (t *Tenancy) createRole(e *core.RequestEvent) error {
	var in roleInput
	return t.command(e, "role.manage", &in, nil, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		if in.Name == nil {
			in.Name = new(string)
		}
		if err := in.check(); err != nil {
			return 0, nil, err
		}
		n, err := tx.CountRecords(collections.Roles, dbx.HashExp{"tenant": row.Id})
		if err != nil {
			return 0, nil, fmt.Errorf("count the roles of tenant %s: %w", row.Id, err)
		}
		if n >= maxRoles {
			return 0, nil, access.Conflict("role_limit", fmt.Sprintf("An organisation may have %d roles of its own. Delete one first.", maxRoles))
		}
		role, err := collections.NewRole(tx)
		if err != nil {
			return 0, nil, err
		}
		role.Id = core.GenerateDefaultRandomId()
		role.SetTenant(row.Id)
		role.SetKey(role.Id) // a key of one's own cannot be taken for a system role's
		return t.storeRole(tx, a, role, in, http.StatusCreated, "role.create", "role.created")
	})
}

func (t *Tenancy) updateRole(e *core.RequestEvent) error {
	var in roleInput
	return t.command(e, "role.manage", &in, nil, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		if err := in.check(); err != nil {
			return 0, nil, err
		}
		role, err := ownRole(tx, row.Id, e.Request.PathValue("role"))
		if err != nil {
			return 0, nil, err
		}
		if err := t.covers(tx, a, row.Id, role.Id); err != nil {
			return 0, nil, err
		}
		return t.storeRole(tx, a, role, in, http.StatusOK, "role.update", "role.updated")
	})
}

// ownRole finds a role that the tenant made itself; 404, and 409 for a system role.
func ownRole(app core.App, tenant, id string) (*collections.Role, error) {
	role, err := collections.FindRole(app, id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("find the role %s: %w", id, err)
	}
	if err == nil && role.Tenant() == "" {
		return nil, access.Conflict("role_fixed", "This role is the same in every organisation and cannot be changed. Make one of your own instead.")
	}
	if err != nil || role.Tenant() != tenant {
		return nil, access.NotFound("role_not_found", "There is no such role in this organisation.")
	}
	return role, nil
}

// storeRole saves a role of a tenant with what was given. Nobody gives a role what he has not got.
func (t *Tenancy) storeRole(tx core.App, a access.Actor, role *collections.Role, in roleInput, status int, action, kind string) (int, any, error) {
	tenant := role.Tenant()
	s, err := t.standingOf(tx, a, tenant)
	if err != nil {
		return 0, nil, err
	}
	changed := map[string]any{}
	if in.Name != nil && *in.Name != role.Name() {
		n, err := tx.CountRecords(collections.Roles, dbx.NewExp("([[tenant]] = '' OR [[tenant]] = {:tenant}) AND LOWER([[name]]) = LOWER({:name}) AND [[id]] != {:id}",
			dbx.Params{"tenant": tenant, "name": *in.Name, "id": role.Id}))
		if err != nil {
			return 0, nil, fmt.Errorf("look for roles of that name: %w", err)
		}
		if n > 0 {
			e := access.Conflict("role_name_taken", "There is a role of that name. Please choose another.")
			e.Data = map[string]access.FieldError{"name": {Code: "taken", Message: "There is a role of that name."}}
			return 0, nil, e
		}
		changed["name"] = map[string]string{"from": role.Name(), "to": *in.Name}
		role.SetName(*in.Name)
	}
	if in.Description != nil && *in.Description != role.Description() {
		changed["description"] = *in.Description
		role.SetDescription(*in.Description)
	}
	had, err := heldBy(tx, role.Id)
	if err != nil {
		return 0, nil, err
	}
	want := had
	if in.Permissions != nil {
		want = slices.Compact(slices.Sorted(slices.Values(*in.Permissions)))
	}
	if !slices.Equal(had, want) {
		changed["permissions"] = map[string]any{"from": had, "to": want}
	}
	if len(changed) > 0 {
		if err := permit.Save(tx, role); err != nil {
			return 0, nil, fmt.Errorf("store the role %s: %w", role.Id, err)
		}
		if err := setPermissions(tx, role.Id, had, want, s); err != nil {
			return 0, nil, err
		}
		n := notice{action: action, kind: kind, about: collections.Roles, subject: role.Id, message: "role", details: changed}
		if err := t.tell(tx, a, tenant, n); err != nil {
			return 0, nil, err
		}
	}
	list, err := rolesOf(tx, tenant, role.Id, s)
	if err != nil || len(list) != 1 {
		return 0, nil, errors.Join(err, fmt.Errorf("role %s is not there", role.Id))
	}
	return status, list[0], nil
}

// setPermissions makes want a role's permissions instead of had; both are sorted.
func setPermissions(tx core.App, role string, had, want []string, s standing) error {
	for _, key := range want {
		if slices.Contains(had, key) {
			continue
		}
		p, err := collections.One[collections.Permission](tx, collections.Permissions, dbx.HashExp{"key": key})
		if errors.Is(err, sql.ErrNoRows) {
			return access.InvalidField("permissions", "unknown", "There is no such permission.")
		}
		if err != nil {
			return fmt.Errorf("find the permission %s: %w", key, err)
		}
		if !s.wide[key] {
			return access.Forbidden("role_beyond_yours", "You can put into a role only what you may do yourself.")
		}
		row, err := collections.NewRolePermission(tx)
		if err != nil {
			return err
		}
		row.SetRole(role)
		row.SetPermission(p.Id)
		if err := permit.Save(tx, row); err != nil {
			return fmt.Errorf("give role %s the permission %s: %w", role, key, err)
		}
	}
	rows, err := collections.Every[collections.RolePermission](tx, collections.RolePermissions, "id", 0, dbx.HashExp{"role": role})
	if err != nil {
		return fmt.Errorf("read the permissions of role %s: %w", role, err)
	}
	for _, row := range rows {
		p, err := collections.FindPermission(tx, row.Permission())
		if err != nil {
			return fmt.Errorf("find a permission of role %s: %w", role, err)
		}
		if slices.Contains(want, p.Key()) {
			continue
		}
		if err := permit.Delete(tx, row); err != nil {
			return fmt.Errorf("take the permission %s from role %s: %w", p.Key(), role, err)
		}
	}
	return nil
}

func (t *Tenancy) deleteRole(e *core.RequestEvent) error {
	return t.command(e, "role.manage", nil, nil, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		role, err := ownRole(tx, row.Id, e.Request.PathValue("role"))
		if err != nil {
			return 0, nil, err
		}
		if err := t.covers(tx, a, row.Id, role.Id); err != nil {
			return 0, nil, err
		}
		bound, err := tx.CountRecords(collections.RoleBindings, dbx.HashExp{"role": role.Id})
		if err != nil {
			return 0, nil, fmt.Errorf("count who has the role %s: %w", role.Id, err)
		}
		if bound > 0 {
			return 0, nil, access.Conflict("role_in_use", "Somebody has this role. Give them another one first.")
		}
		invited, err := collections.Every[collections.Invite](tx, collections.Invites, "id", 0, dbx.HashExp{"role": role.Id})
		if err != nil {
			return 0, nil, fmt.Errorf("look for invites to the role %s: %w", role.Id, err)
		}
		for _, v := range invited {
			if err := permit.Delete(tx, v); err != nil {
				return 0, nil, fmt.Errorf("remove the invite %s: %w", v.Id, err)
			}
		}
		if err := setPermissions(tx, role.Id, nil, nil, standing{}); err != nil {
			return 0, nil, err
		}
		if err := permit.Delete(tx, role); err != nil {
			return 0, nil, fmt.Errorf("delete the role %s: %w", role.Id, err)
		}
		return http.StatusNoContent, nil, t.tell(tx, a, row.Id, notice{action: "role.delete", kind: "role.deleted", about: collections.Roles, subject: role.Id,
			message: "role", gone: true, details: map[string]any{"name": role.Name()}})
	})
}
