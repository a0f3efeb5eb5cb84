package tenancy

import (
	"fmt"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
)

// Create makes a tenant with a as its owner, in the caller's transaction, which holds
// audit.Lock(""). It is what POST tenants does, for rooms that make one themselves.
func (t *Tenancy) Create(tx core.App, a access.Actor, name, slug string) (*collections.Tenant, error) {
	in := input{Name: &name, Slug: &slug}
	if err := in.check(); err != nil {
		return nil, err
	}
	return t.found(tx, a, core.GenerateDefaultRandomId(), in)
}

// Join makes a user a member of a tenant with one of the system roles but OWNER, in the caller's
// transaction, whose locks include Lock and the audit lock of the tenant.
func (t *Tenancy) Join(tx core.App, a access.Actor, tenant *collections.Tenant, user, role string) error {
	if role == RoleOwner {
		return fmt.Errorf("tenancy: %s comes by transfer only", RoleOwner)
	}
	if err := bind(tx, tenant.Id, user, a.ID, role); err != nil {
		return err
	}
	return t.cfg.Auditor.Write(tx, a.Audit(), audit.Entry{
		Tenant: tenant.Id, Action: "member.add", ResourceType: "users", Resource: user, Metadata: map[string]any{"role": role},
	})
}

// bind makes a user a member of a tenant with a system role over all of it.
func bind(tx core.App, tenant, user, invitedBy, key string) error {
	role, err := collections.One[collections.Role](tx, collections.Roles, dbx.HashExp{"tenant": "", "key": key})
	if err != nil {
		return fmt.Errorf("find the role %s: %w", key, err)
	}
	member, err := collections.NewTenantMember(tx)
	if err != nil {
		return err
	}
	member.SetTenant(tenant)
	member.SetUser(user)
	member.SetInvitedBy(invitedBy)
	member.SetJoinedAt(time.Now())
	member.SetRev(1)
	if err := permit.Save(tx, member); err != nil {
		return fmt.Errorf("make %s a member of tenant %s: %w", user, tenant, err)
	}
	binding, err := collections.NewRoleBinding(tx)
	if err != nil {
		return err
	}
	binding.SetTenant(tenant)
	binding.SetMember(member.Id)
	binding.SetRole(role.Id)
	if err := permit.Save(tx, binding); err != nil {
		return fmt.Errorf("make %s %s of tenant %s: %w", user, key, tenant, err)
	}
	return nil
}
