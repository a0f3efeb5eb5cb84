package collections

// The collections of the platform rooms: secrets, cluster, events, audit, jobs, incidents, access.

var dataKeys = Definition{
	Name: "data_keys", Go: "DataKey", Owner: "secrets",
	Fields: []Field{
		{Name: "scope", Kind: Text, Required: true, Max: 20, Doc: "tenant id, \"system\", \"derive:<purpose>\", or \"rotation\" for how far one is"},
		{Name: "wrapped", Kind: Text, Required: true, Max: 8000, Hidden: true, Doc: "Tink keyset encrypted by the master key, base64"},
		{Name: "master_id", Kind: Text, Max: 64, Doc: "fingerprint of the master key that wraps it"},
		{Name: "rotated_at", Kind: Date, Doc: "when its newest key was made"},
	},
	Indexes: []Index{{Name: "idx_data_keys_scope", Unique: true, Columns: "scope"}},
}

var eventsDef = Definition{
	Name: "events", Go: "Event", Owner: "events", Tenant: true,
	Fields: []Field{
		{Name: "kind", Kind: Text, Required: true, Max: 64, Doc: "e.g. server.phase_changed"},
		{Name: "subject_type", Kind: Text, Max: 32, Doc: "collection of the subject"},
		{Name: "subject", Kind: Text, Max: 64, Doc: "id of the subject"},
		{Name: "actor", Kind: Text, Max: 64, Doc: "who caused it; empty: the system"},
		{Name: "actor_type", Kind: Text, Max: 16},
		{Name: "payload", Kind: JSON, Max: 64 << 10, Doc: "what a listener needs; never a secret"},
		{Name: "public", Kind: Bool, Doc: "shown to the tenant: realtime topic and activity list"},
		{Name: "delivered", Kind: Bool, Doc: "every listener has had it"},
		{Name: "seq", Kind: Number, Doc: "order of the outbox; grows"},
	},
	Indexes: []Index{
		{Name: "idx_events_seq", Unique: true, Columns: "seq"},
		{Name: "idx_events_undelivered", Columns: "delivered, seq", Where: "delivered = FALSE"},
		{Name: "idx_events_subject", Columns: "tenant, subject, seq"},
	},
}

var auditLogs = Definition{
	Name: "audit_logs", Go: "AuditLog", Owner: "audit", Tenant: true,
	Fields: []Field{
		{Name: "seq", Kind: Number, Doc: "position in the tenant's chain, from 1"},
		{Name: "actor", Kind: Text, Max: 64, Doc: "id; empty for the system"},
		{Name: "actor_type", Kind: Select, Required: true, Values: []string{"user", "superuser", "apikey", "node", "system", "stripe"}},
		{Name: "actor_name", Kind: Text, Max: 255, Doc: "as it was then, for reading"},
		{Name: "action", Kind: Text, Required: true, Max: 64, Doc: "e.g. server.create"},
		{Name: "resource_type", Kind: Text, Max: 32},
		{Name: "resource", Kind: Text, Max: 64},
		{Name: "metadata", Kind: JSON, Max: 32 << 10, Doc: "secrets redacted"},
		{Name: "address", Kind: Text, Max: 64},
		{Name: "user_agent", Kind: Text, Max: 255},
		{Name: "request", Kind: Text, Max: 64, Doc: "request id"},
		{Name: "at", Kind: Date, Required: true},
		{Name: "prev", Kind: Text, Max: 64, Doc: "mac of the row before it, hex; empty for the first"},
		{Name: "mac", Kind: Text, Required: true, Max: 64, Doc: "HMAC-SHA-256 over this row and prev, hex"},
	},
	Indexes: []Index{
		{Name: "idx_audit_logs_chain", Unique: true, Columns: "tenant, seq"},
		{Name: "idx_audit_logs_resource", Columns: "tenant, resource, at"},
		{Name: "idx_audit_logs_at", Columns: "tenant, at"},
	},
}

var auditHeads = Definition{
	Name: "audit_heads", Go: "AuditHead", Owner: "audit", Tenant: true,
	Fields: []Field{
		{Name: "seq", Kind: Number, Doc: "length of the chain"},
		{Name: "mac", Kind: Text, Max: 64, Doc: "of the last row"},
	},
	Indexes: []Index{{Name: "idx_audit_heads_tenant", Unique: true, Columns: "tenant"}},
}

var auditFiles = Definition{
	Name: "audit_files", Go: "AuditFile", Owner: "audit",
	Fields: []Field{
		{Name: "origin", Kind: Text, Required: true, Max: 64, Doc: "signature of the first line of a file of signed heads"},
		{Name: "tip", Kind: Text, Required: true, Max: 64, Doc: "signature of the last line that was written there"},
	},
	Indexes: []Index{{Name: "idx_audit_files_origin", Unique: true, Columns: "origin"}},
}

var jobsDef = Definition{
	Name: "jobs", Go: "Job", Owner: "jobs", Tenant: true, Watched: true,
	Fields: []Field{
		{Name: "kind", Kind: Text, Required: true, Max: 64},
		{Name: "subject", Kind: Text, Max: 64, Doc: "id of what it works on"},
		{Name: "payload", Kind: JSON, Max: 64 << 10},
		{Name: "state", Kind: Select, Required: true, Values: []string{"ready", "running", "waiting", "done", "dead", "cancelled", "superseded"}},
		{Name: "priority", Kind: Number, Doc: "higher first"},
		{Name: "run_at", Kind: Date, Required: true, Doc: "not before"},
		{Name: "attempt", Kind: Number, Doc: "claims so far"},
		{Name: "max_attempts", Kind: Number},
		{Name: "lease_until", Kind: Date},
		{Name: "lease_token", Kind: Text, Max: 32, Hidden: true, Doc: "fence of the claim that runs it"},
		{Name: "unique_key", Kind: Text, Max: 128, Doc: "at most one active job of a key"},
		{Name: "group_key", Kind: Text, Max: 128, Doc: "at most one running job of a key"},
		{Name: "progress", Kind: JSON, Max: 4 << 10, Doc: "{step, percent, message}"},
		{Name: "result", Kind: JSON, Max: 64 << 10},
		{Name: "last_error", Kind: Text, Max: 4000, Doc: "for the operator"},
		{Name: "history", Kind: JSON, Max: 64 << 10, Doc: "errors of earlier attempts"},
		{Name: "finished_at", Kind: Date},
	},
	Indexes: []Index{
		{Name: "idx_jobs_due", Columns: "state, run_at, priority"},
		{Name: "idx_jobs_subject", Columns: "subject, created"},
		{Name: "idx_jobs_unique", Unique: true, Columns: "unique_key", Where: "unique_key != '' AND state IN ('ready','running','waiting')"},
		{Name: "idx_jobs_group", Unique: true, Columns: "group_key", Where: "group_key != '' AND state = 'running'"},
	},
}

var jobSteps = Definition{
	Name: "job_steps", Go: "JobStep", Owner: "jobs",
	Fields: []Field{
		{Name: "job", Kind: Text, Required: true, Max: 15},
		{Name: "name", Kind: Text, Required: true, Max: 64},
		{Name: "output", Kind: JSON, Max: 64 << 10, Doc: "returned again when the job is replayed"},
	},
	Indexes: []Index{{Name: "idx_job_steps_name", Unique: true, Columns: "job, name"}},
}

var cronRuns = Definition{
	Name: "cron_runs", Go: "CronRun", Owner: "jobs",
	Fields: []Field{
		{Name: "name", Kind: Text, Required: true, Max: 64},
		{Name: "scheduled_at", Kind: Date, Required: true},
		{Name: "job", Kind: Text, Max: 15},
	},
	Indexes: []Index{{Name: "idx_cron_runs_tick", Unique: true, Columns: "name, scheduled_at"}},
}

var incidentsDef = Definition{
	Name: "incidents", Go: "Incident", Owner: "incidents", Tenant: true,
	Fields: []Field{
		{Name: "kind", Kind: Text, Required: true, Max: 64, Doc: "e.g. node.offline"},
		{Name: "fingerprint", Kind: Text, Required: true, Max: 128, Doc: "what makes two of them the same"},
		{Name: "severity", Kind: Select, Required: true, Values: []string{"info", "warning", "critical"}},
		{Name: "status", Kind: Select, Required: true, Values: []string{"OPEN", "RESOLVED"}},
		{Name: "title", Kind: Text, Required: true, Max: 255},
		{Name: "detail", Kind: Text, Max: 4000},
		{Name: "node", Kind: Text, Max: 15},
		{Name: "server", Kind: Text, Max: 15},
		{Name: "count", Kind: Number, Doc: "how often it was seen while open"},
		{Name: "first_at", Kind: Date},
		{Name: "last_at", Kind: Date},
		{Name: "resolved_at", Kind: Date},
		{Name: "resolution", Kind: Text, Max: 1000},
	},
	Indexes: []Index{
		{Name: "idx_incidents_open", Unique: true, Columns: "fingerprint", Where: "status = 'OPEN'"},
		{Name: "idx_incidents_last", Columns: "status, last_at"},
	},
}

var spentTokens = Definition{
	Name: "spent_tokens", Go: "SpentToken", Owner: "access",
	Fields: []Field{
		{Name: "jti", Kind: Text, Required: true, Max: 64},
		{Name: "expires_at", Kind: Date, Required: true, Doc: "after this the row can go"},
	},
	Indexes: []Index{
		{Name: "idx_spent_tokens_jti", Unique: true, Columns: "jti"},
		{Name: "idx_spent_tokens_expires", Columns: "expires_at"},
	},
}

var idempotencyKeys = Definition{
	Name: "idempotency_keys", Go: "IdempotencyKey", Owner: "access", Tenant: true,
	Fields: []Field{
		{Name: "actor", Kind: Text, Required: true, Max: 64},
		{Name: "key", Kind: Text, Required: true, Max: 128},
		{Name: "fingerprint", Kind: Text, Required: true, Max: 64, Doc: "SHA-256 of method, path and body"},
		{Name: "status", Kind: Number, Doc: "HTTP status of the answer"},
		{Name: "answer", Kind: JSON, Max: 256 << 10},
		{Name: "expires_at", Kind: Date, Required: true},
	},
	Indexes: []Index{
		{Name: "idx_idempotency_keys_key", Unique: true, Columns: "tenant, actor, key"},
		{Name: "idx_idempotency_keys_expires", Columns: "expires_at"},
	},
}

var panelInstances = Definition{
	Name: "panel_instances", Go: "PanelInstance", Owner: "cluster",
	Fields: []Field{
		{Name: "address", Kind: Text, Max: 255, Doc: "host:port of its node listener"},
		{Name: "release", Kind: Text, Max: 64, Doc: "of its binary"},
		{Name: "started", Kind: Date, Required: true, Doc: "when it joined, by its own clock"},
		{Name: "seen", Kind: Date, Required: true, Doc: "last heartbeat, by its own clock"},
	},
}

var leadersDef = Definition{
	Name: "leaders", Go: "Leader", Owner: "cluster",
	Fields: []Field{
		{Name: "task", Kind: Text, Required: true, Max: 64},
		{Name: "epoch", Kind: Number, Doc: "grows with each change of leader"},
		{Name: "instance", Kind: Text, Max: 15, Doc: "who leads, or led last"},
	},
	Indexes: []Index{{Name: "idx_leaders_task", Unique: true, Columns: "task"}},
}

var rateLimits = Definition{
	Name: "rate_limits", Go: "RateLimit", Owner: "access",
	Fields: []Field{
		{Name: "bucket", Kind: Text, Required: true, Max: 64, Doc: "limit and keyed hash of whom it counts"},
		{Name: "hits", Kind: JSON, Max: 4 << 10, Doc: "when, Unix milliseconds, oldest first; at most as many as the limit allows"},
		{Name: "expires_at", Kind: Date, Required: true, Doc: "after this the row can go"},
	},
	Indexes: []Index{
		{Name: "idx_rate_limits_bucket", Unique: true, Columns: "bucket"},
		{Name: "idx_rate_limits_expires", Columns: "expires_at"},
	},
}

var sessionsDef = Definition{
	Name: "sessions", Go: "Session", Owner: "access",
	Fields: []Field{
		{Name: "user", Kind: Text, Required: true, Max: 15},
		{Name: "turn", Kind: Number, Doc: "number of the refresh token that is good now, from 1"},
		{Name: "turned_at", Kind: Date, Required: true, Doc: "when that one was given"},
		{Name: "turned_before", Kind: JSON, Max: 2 << 10, Doc: "when the ones before that were given, Unix milliseconds, newest first; only of the last half minute"},
		{Name: "token_hash", Kind: Text, Required: true, Max: 64, Hidden: true, Doc: "SHA-256 of that one, hex"},
		{Name: "current", Kind: Text, Max: 15, Doc: "id of the tenant that its access tokens name; empty: none"},
		{Name: "method", Kind: Text, Max: 32, Doc: "how it was signed in: password, otp, oauth2, with +totp, +backup or +passkey; or passkey"},
		{Name: "address", Kind: Text, Max: 64, Doc: "of the last refresh"},
		{Name: "user_agent", Kind: Text, Max: 255, Doc: "of the last refresh"},
		{Name: "expires_at", Kind: Date, Required: true, Doc: "unless it is refreshed before; then the row can go"},
		{Name: "revoked_at", Kind: Date},
		{Name: "revoked_why", Kind: Text, Max: 32, Doc: "signed_out, by_user, password, reuse, crowded, factor"},
		{Name: "proven_at", Kind: Date, Doc: "when who he is was last shown with it: the sign-in, or a proof since"},
	},
	Indexes: []Index{
		{Name: "idx_sessions_user", Columns: "user, expires_at"},
		{Name: "idx_sessions_expires", Columns: "expires_at"},
	},
}
