package collections

// The collections of hooks/tenancy: who belongs where and may do what.

var tenantsDef = Definition{
	Name: "tenants", Go: "Tenant", Owner: "tenancy", Watched: true,
	DashboardFields: []string{"name", "quota_servers", "quota_memory_mib", "quota_cpu_millicores", "quota_disk_mib"},
	Fields: []Field{
		{Name: "name", Kind: Text, Max: 80, Doc: "empty of a DELETED one only"},
		{Name: "slug", Kind: Text, Required: true, Max: 40, Pattern: `^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$`},
		{Name: "plan_tier", Kind: Text, Max: 32},
		{Name: "status", Kind: Select, Required: true, Values: []string{"ACTIVE", "SUSPENDED", "DELETING", "DELETED"}},
		{Name: "status_reason", Kind: Text, Max: 500, Doc: "why it is not ACTIVE, for its members"},
		{Name: "status_since", Kind: Date},
		{Name: "status_before", Kind: Text, Max: 16, Doc: "of one that is DELETING: what it is again when its owner keeps it"},
		{Name: "delete_at", Kind: Date, Doc: "of one that is DELETING: when it is purged"},
		{Name: "purge_begun_at", Kind: Date, Doc: "from then on it cannot be kept any more"},
		{Name: "require_2fa", Kind: Bool},
		{Name: "quota_servers", Kind: Number, Doc: "0: the operator's default; -1: none allowed"},
		{Name: "quota_memory_mib", Kind: Number, Doc: "sum over servers; 0: the operator's default"},
		{Name: "quota_cpu_millicores", Kind: Number, Doc: "sum over servers; 0: the operator's default"},
		{Name: "quota_disk_mib", Kind: Number, Doc: "sum over servers; 0: the operator's default"},
	},
	Indexes: []Index{{Name: "idx_tenants_slug", Unique: true, Columns: "slug"}},
}

var permissionsDef = Definition{
	Name: "permissions", Go: "Permission", Owner: "tenancy",
	Fields: []Field{
		{Name: "key", Kind: Text, Required: true, Max: 64, Doc: "resource.action"},
		{Name: "resource", Kind: Text, Required: true, Max: 32},
		{Name: "action", Kind: Text, Required: true, Max: 32},
		{Name: "description", Kind: Text, Max: 255},
	},
	Indexes: []Index{{Name: "idx_permissions_key", Unique: true, Columns: "key"}},
}

var rolesDef = Definition{
	Name: "roles", Go: "Role", Owner: "tenancy", Tenant: true,
	Fields: []Field{
		{Name: "key", Kind: Text, Required: true, Max: 40, Doc: "OWNER, ADMIN, SUPPORT, MEMBER, or the tenant's own"},
		{Name: "name", Kind: Text, Required: true, Max: 80},
		{Name: "description", Kind: Text, Max: 255},
		{Name: "system", Kind: Bool, Doc: "seeded, the same for every tenant, not editable; tenant is empty"},
	},
	Indexes: []Index{{Name: "idx_roles_key", Unique: true, Columns: "tenant, key"}},
}

var rolePermissions = Definition{
	Name: "role_permissions", Go: "RolePermission", Owner: "tenancy",
	Fields: []Field{
		{Name: "role", Kind: Relation, Required: true, Target: "roles"},
		{Name: "permission", Kind: Relation, Required: true, Target: "permissions"},
	},
	Indexes: []Index{{Name: "idx_role_permissions_pair", Unique: true, Columns: "role, permission"}},
}

var tenantMembers = Definition{
	Name: "tenant_members", Go: "TenantMember", Owner: "tenancy", Tenant: true, Watched: true,
	Fields: []Field{
		{Name: "user", Kind: Relation, Required: true, Target: "users"},
		{Name: "invited_by", Kind: Text, Max: 15, Doc: "user id; empty for the founder"},
		{Name: "joined_at", Kind: Date, Required: true},
	},
	Indexes: []Index{
		{Name: "idx_tenant_members_pair", Unique: true, Columns: "tenant, user"},
		{Name: "idx_tenant_members_user", Columns: "user"},
	},
}

var roleBindings = Definition{
	Name: "role_bindings", Go: "RoleBinding", Owner: "tenancy", Tenant: true,
	Fields: []Field{
		{Name: "member", Kind: Relation, Required: true, Target: "tenant_members"},
		{Name: "role", Kind: Relation, Required: true, Target: "roles"},
		{Name: "server", Kind: Text, Max: 15, Doc: "for this server only; empty: the whole tenant"},
	},
	Indexes: []Index{
		{Name: "idx_role_bindings_triple", Unique: true, Columns: "member, role, server"},
		{Name: "idx_role_bindings_role", Columns: "role"},
	},
}

var invitesDef = Definition{
	Name: "invites", Go: "Invite", Owner: "tenancy", Tenant: true,
	Fields: []Field{
		{Name: "email", Kind: Email, Required: true},
		{Name: "role", Kind: Relation, Required: true, Target: "roles"},
		{Name: "server", Kind: Text, Max: 15, Doc: "for this server only; empty: the whole tenant"},
		{Name: "token_hash", Kind: Text, Required: true, Max: 64, Hidden: true, Doc: "SHA-256 of the token in the mail, hex"},
		{Name: "invited_by", Kind: Text, Max: 15},
		{Name: "expires_at", Kind: Date, Required: true},
		{Name: "accepted_at", Kind: Date},
		{Name: "accepted_by", Kind: Text, Max: 15},
		{Name: "revoked_at", Kind: Date},
	},
	Indexes: []Index{
		{Name: "idx_invites_token", Unique: true, Columns: "token_hash"},
		{Name: "idx_invites_email", Columns: "email"},
	},
}
