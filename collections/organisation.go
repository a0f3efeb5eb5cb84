package collections

// What people and organisations give to programs: API keys (hooks/access).

var apiKeys = Definition{
	Name: "api_keys", Go: "APIKey", Owner: "access", Tenant: true,
	Fields: []Field{
		{Name: "user", Kind: Text, Required: true, Max: 15, Doc: "who made it; it never may more than he"},
		{Name: "name", Kind: Text, Required: true, Max: 80},
		{Name: "hint", Kind: Text, Required: true, Max: 16, Doc: "the first characters, to tell keys apart"},
		{Name: "token_hash", Kind: Text, Required: true, Max: 64, Hidden: true, Doc: "HMAC-SHA-256 of the key, hex"},
		{Name: "permissions", Kind: JSON, Max: 8 << 10, Doc: "list of permission keys"},
		{Name: "servers", Kind: JSON, Max: 4 << 10, Doc: "list of server ids; empty: all"},
		{Name: "addresses", Kind: JSON, Max: 4 << 10, Doc: "list of CIDRs it may be used from; empty: from anywhere"},
		{Name: "expires_at", Kind: Date, Doc: "empty: never"},
		{Name: "used_at", Kind: Date, Doc: "last use, written at most every few seconds"},
		{Name: "used_from", Kind: Text, Max: 64, Doc: "address of the last use"},
		{Name: "revoked_at", Kind: Date},
		{Name: "revoked_by", Kind: Text, Max: 15, Doc: "user id"},
		{Name: "revoked_why", Kind: Text, Max: 32, Doc: "by_user, left, deleted"},
	},
	Indexes: []Index{
		{Name: "idx_api_keys_hash", Unique: true, Columns: "token_hash"},
		{Name: "idx_api_keys_user", Columns: "user, tenant"},
	},
}
