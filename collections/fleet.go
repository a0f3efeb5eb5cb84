package collections

// The collections of hooks/fleet and hooks/alloc: machines, their identity and what they have to give.

var authoritiesDef = Definition{
	Name: "authorities", Go: "Authority", Owner: "fleet",
	Fields: []Field{
		{Name: "kind", Kind: Select, Required: true, Values: []string{"root", "issuing", "listener"}, Doc: "listener: not made any more; each instance of the panel has a certificate of its own in memory"},
		{Name: "certificate", Kind: Text, Required: true, Max: 8000, Doc: "PEM"},
		{Name: "key", Kind: Text, Max: 8000, Hidden: true, Doc: "PKCS#8 sealed by secrets; empty when the root was taken offline"},
		{Name: "fingerprint", Kind: Text, Required: true, Max: 64, Doc: "SHA-256 of the DER, hex"},
		{Name: "not_after", Kind: Date, Required: true},
		{Name: "active", Kind: Bool, Doc: "signs now; an inactive one is still trusted until it ends"},
	},
	Indexes: []Index{
		{Name: "idx_authorities_fingerprint", Unique: true, Columns: "fingerprint"},
		{Name: "idx_authorities_active", Unique: true, Columns: "kind", Where: "active = TRUE"},
	},
}

var nodesDef = Definition{
	Name: "nodes", Go: "Node", Owner: "fleet", Watched: true,
	DashboardFields: []string{"labels", "location"},
	Fields: []Field{
		{Name: "name", Kind: Text, Required: true, Max: 64, Pattern: `^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$`},
		{Name: "fqdn", Kind: Text, Max: 253},
		{Name: "public_addresses", Kind: JSON, Max: 8 << 10, Doc: "list of addresses that players use"},
		{Name: "location", Kind: Text, Max: 80, Doc: "for people, e.g. \"Frankfurt\""},
		{Name: "cpu_millicores", Kind: Number, Doc: "capacity that may be given away before overcommit"},
		{Name: "memory_mib", Kind: Number},
		{Name: "disk_mib", Kind: Number},
		{Name: "overcommit_cpu_percent", Kind: Number, Doc: "100 = as much as there is"},
		{Name: "overcommit_memory_percent", Kind: Number},
		{Name: "overcommit_disk_percent", Kind: Number},
		{Name: "mode", Kind: Select, Required: true, Values: []string{"ACTIVE", "DRAINING", "MAINTENANCE"}, Doc: "what the operator wants"},
		{Name: "status", Kind: Select, Required: true, Values: []string{"ONLINE", "OFFLINE", "DRAINING", "MAINTENANCE"}, Doc: "what is shown: OFFLINE when silent, else from mode"},
		{Name: "last_heartbeat", Kind: Date},
		{Name: "heartbeat", Kind: JSON, Max: 8 << 10, Doc: "last wire.Heartbeat"},
		{Name: "clock_skew_ms", Kind: Number, Doc: "node minus panel"},
		{Name: "enrolled_at", Kind: Date},
		{Name: "cert_fingerprint", Kind: Text, Max: 64, Doc: "the certificate in use"},
		{Name: "cert_next_fingerprint", Kind: Text, Max: 64, Doc: "its announced successor"},
		{Name: "cert_expires_at", Kind: Date},
		{Name: "trusts", Kind: JSON, Max: 4 << 10, Doc: "fingerprints of the root certificates that it said it has"},
		{Name: "join_token_hash", Kind: Text, Max: 64, Hidden: true, Doc: "SHA-256 hex of the one-time token; empty once used"},
		{Name: "join_expires_at", Kind: Date},
		{Name: "spool_id", Kind: Text, Max: 64, Doc: "of the node's event spool"},
		{Name: "acked_seq", Kind: Number, Doc: "newest event of that spool that is durable here"},
		{Name: "labels", Kind: JSON, Max: 8 << 10, Doc: "{key: value}, for placement"},
	},
	Indexes: []Index{
		{Name: "idx_nodes_name", Unique: true, Columns: "name"},
		{Name: "idx_nodes_join", Unique: true, Columns: "join_token_hash", Where: "join_token_hash != ''"},
	},
}

var nodeCertificates = Definition{
	Name: "node_certificates", Go: "NodeCertificate", Owner: "fleet",
	Fields: []Field{
		{Name: "node", Kind: Text, Required: true, Max: 15},
		{Name: "fingerprint", Kind: Text, Required: true, Max: 64},
		{Name: "serial", Kind: Text, Required: true, Max: 64},
		{Name: "not_before", Kind: Date, Required: true},
		{Name: "not_after", Kind: Date, Required: true},
		{Name: "revoked_at", Kind: Date},
		{Name: "reason", Kind: Text, Max: 255},
	},
	Indexes: []Index{
		{Name: "idx_node_certificates_fingerprint", Unique: true, Columns: "fingerprint"},
		{Name: "idx_node_certificates_node", Columns: "node"},
	},
}

var nodeLinks = Definition{
	Name: "node_links", Go: "NodeLink", Owner: "fleet",
	Fields: []Field{
		{Name: "node", Kind: Text, Required: true, Max: 15},
		{Name: "instance", Kind: Text, Required: true, Max: 15, Doc: "of the panel, that holds a control connection of the node; one that is dead does not count"},
	},
	Indexes: []Index{
		{Name: "idx_node_links_node", Unique: true, Columns: "node, instance"},
		{Name: "idx_node_links_instance", Columns: "instance"},
	},
}

var panelCertificates = Definition{
	Name: "panel_certificates", Go: "PanelCertificate", Owner: "fleet",
	Fields: []Field{
		{Name: "instance", Kind: Text, Required: true, Max: 15, Doc: "of the panel, that shows this certificate to other instances"},
		{Name: "fingerprint", Kind: Text, Required: true, Max: 64, Doc: "SHA-256 of the DER, hex; without its row a certificate is refused"},
		{Name: "not_after", Kind: Date, Required: true},
	},
	Indexes: []Index{
		{Name: "idx_panel_certificates_fingerprint", Unique: true, Columns: "fingerprint"},
		{Name: "idx_panel_certificates_instance", Columns: "instance"},
	},
}

var ipPools = Definition{
	Name: "ip_pools", Go: "IPPool", Owner: "alloc",
	Fields: []Field{
		{Name: "node", Kind: Relation, Required: true, Target: "nodes"},
		{Name: "ip_address", Kind: Text, Required: true, Max: 45},
		{Name: "is_allocated", Kind: Bool, Doc: "given whole to one server"},
		{Name: "allocated_to_server", Kind: Text, Max: 15},
	},
	Indexes: []Index{
		{Name: "idx_ip_pools_address", Unique: true, Columns: "node, ip_address"},
		{Name: "idx_ip_pools_server", Columns: "allocated_to_server", Where: "allocated_to_server != ''"},
	},
}

var portPools = Definition{
	Name: "port_pools", Go: "PortPool", Owner: "alloc",
	Fields: []Field{
		{Name: "node", Kind: Relation, Required: true, Target: "nodes"},
		{Name: "ip_address", Kind: Text, Required: true, Max: 45},
		{Name: "port", Kind: Number, Required: true},
		{Name: "protocol", Kind: Select, Required: true, Values: []string{"tcp", "udp"}},
		{Name: "is_allocated", Kind: Bool},
		{Name: "allocated_to_server", Kind: Text, Max: 15},
	},
	Indexes: []Index{
		{Name: "idx_port_pools_port", Unique: true, Columns: "node, ip_address, port, protocol"},
		{Name: "idx_port_pools_free", Columns: "node, protocol, is_allocated, ip_address, port"},
		{Name: "idx_port_pools_server", Columns: "allocated_to_server", Where: "allocated_to_server != ''"},
	},
}

var allocationsDef = Definition{
	Name: "allocations", Go: "Allocation", Owner: "alloc", Tenant: true,
	Fields: []Field{
		{Name: "server", Kind: Text, Required: true, Max: 15},
		{Name: "node", Kind: Text, Required: true, Max: 15},
		{Name: "ip_address", Kind: Text, Required: true, Max: 45},
		{Name: "ports", Kind: JSON, Max: 16 << 10, Doc: "list of wire.Port"},
		{Name: "cpu_millicores", Kind: Number, Doc: "reserved of the node"},
		{Name: "memory_mib", Kind: Number},
		{Name: "disk_mib", Kind: Number},
		{Name: "status", Kind: Select, Required: true, Values: []string{"ACTIVE", "RELEASED"}},
		{Name: "allocated_at", Kind: Date, Required: true},
		{Name: "released_at", Kind: Date},
	},
	Indexes: []Index{
		{Name: "idx_allocations_server", Unique: true, Columns: "server"},
		{Name: "idx_allocations_node", Columns: "node, status"},
	},
}
