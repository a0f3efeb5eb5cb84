package tenancy

import (
	"fmt"

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
	role, err := systemRole(tx, key)
	if err != nil {
		return err
	}
	_, err = joined(tx, tenant, user, invitedBy, role.Id, "")
	return err
}
