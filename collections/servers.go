package collections

// The collections of hooks/catalog and hooks/servers.

var blueprintsDef = Definition{
	Name: "blueprints", Go: "BlueprintRow", Owner: "catalog",
	DashboardFields: []string{"enabled"},
	Fields: []Field{
		{Name: "slug", Kind: Text, Required: true, Max: 64},
		{Name: "name", Kind: Text, Required: true, Max: 80},
		{Name: "summary", Kind: Text, Max: 255},
		{Name: "categories", Kind: JSON, Max: 4 << 10},
		{Name: "source", Kind: Select, Required: true, Values: []string{"shipped", "uploaded"}},
		{Name: "latest", Kind: Text, Max: 15, Doc: "id of the version that new servers get"},
		{Name: "enabled", Kind: Bool, Doc: "offered to customers"},
	},
	Indexes: []Index{{Name: "idx_blueprints_slug", Unique: true, Columns: "slug"}},
}

var blueprintVersions = Definition{
	Name: "blueprint_versions", Go: "BlueprintVersion", Owner: "catalog",
	Fields: []Field{
		{Name: "blueprint", Kind: Relation, Required: true, Target: "blueprints"},
		{Name: "version", Kind: Text, Required: true, Max: 32},
		{Name: "source", Kind: Text, Required: true, Max: 256 << 10, Doc: "blueprint.yaml as published, immutable"},
		{Name: "files", Kind: JSON, Max: 1 << 20, Doc: "{path: base64} of the folder's other files"},
		{Name: "digest", Kind: Text, Required: true, Max: 64, Doc: "SHA-256 over source and files, hex"},
	},
	Indexes: []Index{{Name: "idx_blueprint_versions_pair", Unique: true, Columns: "blueprint, version"}},
}

var serversDef = Definition{
	Name: "servers", Go: "Server", Owner: "servers", Tenant: true, Watched: true,
	Fields: []Field{
		{Name: "name", Kind: Text, Required: true, Max: 80},
		{Name: "node", Kind: Text, Required: true, Max: 15, Doc: "id; the node of a deleted server may be gone, too"},
		{Name: "blueprint", Kind: Relation, Required: true, Target: "blueprints"},
		{Name: "blueprint_version", Kind: Relation, Required: true, Target: "blueprint_versions"},
		{Name: "variant", Kind: Text, Max: 64},
		{Name: "cpu_limit_millicores", Kind: Number},
		{Name: "mem_limit_mb", Kind: Number, Doc: "MiB"},
		{Name: "disk_gb", Kind: Number, Doc: "GiB"},
		{Name: "environment", Kind: JSON, Max: 64 << 10, Doc: "variables by key; secret ones sealed by secrets"},
		{Name: "status", Kind: Select, Required: true, Doc: "the phase; see hooks/servers", Values: []string{
			"INSTALLING", "INSTALL_FAILED", "STOPPED", "STARTING", "RUNNING", "STOPPING", "CRASHED", "FAILED",
			"HIBERNATED", "TRANSFERRING", "RESTORING", "DELETING", "DELETED", "UNREACHABLE",
		}},
		{Name: "desired_state", Kind: Select, Required: true, Values: []string{"running", "stopped", "absent"}, Doc: "what the customer wants; written by commands only"},
		{Name: "suspended", Kind: Bool, Doc: "overlay: the effective desired state is stopped while it is set"},
		{Name: "placement_epoch", Kind: Number},
		{Name: "generation", Kind: Number},
		{Name: "restart_count", Kind: Number},
		{Name: "kill_count", Kind: Number},
		{Name: "reinstall_count", Kind: Number},
		{Name: "delete_id", Kind: Text, Max: 15, Doc: "of a delete, or of a placement that was withdrawn because its first install failed"},
		{Name: "install_status", Kind: Select, Required: true, Values: []string{"PENDING", "RUNNING", "DONE", "FAILED"}},
		{Name: "installed_at", Kind: Date, Doc: "when its data was made: from then on a failed install keeps data and ports; zero while there is nothing to lose"},
		{Name: "install_log", Kind: Text, Max: 70_000, Doc: "end of the last install's output"},
		{Name: "observed", Kind: JSON, Max: 16 << 10, Doc: "last wire.Observed that counted"},
		{Name: "observed_epoch", Kind: Number},
		{Name: "observed_generation", Kind: Number},
		{Name: "observed_revision", Kind: Number},
		{Name: "problem_code", Kind: Text, Max: 64},
		{Name: "problem_message", Kind: Text, Max: 1000, Doc: "a sentence for the customer"},
		{Name: "last_start_at", Kind: Date},
		{Name: "last_exit_at", Kind: Date},
		{Name: "last_exit_code", Kind: Number},
		{Name: "created_by", Kind: Text, Max: 15},
		{Name: "deleted_at", Kind: Date},
	},
	Indexes: []Index{
		{Name: "idx_servers_tenant", Columns: "tenant, status, created"},
		{Name: "idx_servers_node", Columns: "node, status"},
		{Name: "idx_servers_version", Columns: "blueprint_version"},
	},
}
