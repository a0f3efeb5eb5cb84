package tenancy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
)

// LeaveAll takes somebody whose account ends out of every organisation, in the caller's transaction. 409 owns_tenants
// while he owns one. What he had made in them, keys and invitations that he accepted, goes with him.
func (t *Tenancy) LeaveAll(tx core.App, a access.Actor, user string) error {
	rows, err := membershipsOf(tx, user)
	if err != nil {
		return err
	}
	locks := []collections.Lock{collections.Lock("user:" + user)} // whoever makes him an owner holds it
	for _, m := range rows {
		locks = append(locks, audit.Lock(m.Tenant()), Lock(m.Tenant()))
	}
	return collections.Tx(tx, locks, func(tx core.App) error {
		now, err := membershipsOf(tx, user)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(rows, now, func(a, b *collections.TenantMember) bool { return a.Id == b.Id }) {
			return access.Unavailable("busy", "This account has just joined or left an organisation. Please try again.")
		}
		var owned []string
		err = tx.ConcurrentDB().NewQuery(`SELECT DISTINCT [[t.name]] FROM {{tenant_members}} [[m]]
			JOIN {{tenants}} [[t]] ON [[t.id]] = [[m.tenant]] AND [[t.status]] != {:deleted}
			JOIN {{role_bindings}} [[b]] ON [[b.member]] = [[m.id]] AND [[b.server]] = ''
			JOIN {{roles}} [[r]] ON [[r.id]] = [[b.role]] AND [[r.key]] = {:owner} AND [[r.tenant]] = ''
			WHERE [[m.user]] = {:user} ORDER BY [[t.name]]`).Bind(dbx.Params{"user": user, "owner": RoleOwner, "deleted": StatusDeleted}).Column(&owned)
		if err != nil {
			return fmt.Errorf("list what %s owns: %w", user, err)
		}
		if len(owned) > 0 {
			return access.Conflict("owns_tenants", fmt.Sprintf("This account owns %s. Hand each organisation over or delete it first; one that is being deleted counts until it is gone.", strings.Join(owned, ", ")))
		}
		for _, m := range rows {
			if err := t.leave(tx, a, m); err != nil {
				return err
			}
		}
		_, err = tx.NonconcurrentDB().Delete(collections.Invites, dbx.HashExp{"accepted_by": user}).Execute()
		if err != nil {
			return fmt.Errorf("forget the invitations of %s: %w", user, err)
		}
		return nil
	})
}

func membershipsOf(app core.App, user string) ([]*collections.TenantMember, error) {
	rows, err := collections.Every[collections.TenantMember](app, collections.TenantMembers, "tenant, id", 0, dbx.HashExp{"user": user})
	if err != nil {
		return nil, fmt.Errorf("list the memberships of %s: %w", user, err)
	}
	return rows, nil
}

func (t *Tenancy) leave(tx core.App, a access.Actor, m *collections.TenantMember) error {
	bindings, err := bindingsOf(tx, m)
	if err != nil {
		return err
	}
	return t.part(tx, a, m, bindings, "member.leave", "member.left", map[string]any{"account": "deleted"})
}
