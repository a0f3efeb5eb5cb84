package collections

// The collections of hooks/access about second factors.

var totpFactors = Definition{
	Name: "totp_factors", Go: "TotpFactor", Owner: "access",
	Fields: []Field{
		{Name: "user", Kind: Text, Required: true, Max: 15},
		{Name: "secret", Kind: Text, Required: true, Max: 512, Hidden: true, Doc: "sealed; base32 as the authenticator has it"},
		{Name: "begun_at", Kind: Date, Required: true, Doc: "when the secret was shown"},
		{Name: "confirmed_at", Kind: Date, Doc: "empty: no code has proved it yet, and it counts for nothing"},
		{Name: "last_step", Kind: Number, Doc: "number of the 30 s window whose code was taken last; no code of it or before is taken again"},
	},
	Indexes: []Index{{Name: "idx_totp_factors_user", Unique: true, Columns: "user"}},
}

var backupCodes = Definition{
	Name: "backup_codes", Go: "BackupCode", Owner: "access",
	Fields: []Field{
		{Name: "user", Kind: Text, Required: true, Max: 15},
		{Name: "code_hash", Kind: Text, Required: true, Max: 64, Hidden: true, Doc: "HMAC of user and code, hex"},
		{Name: "used_at", Kind: Date},
	},
	Indexes: []Index{{Name: "idx_backup_codes_code", Unique: true, Columns: "user, code_hash"}},
}

var passkeysDef = Definition{
	Name: "passkeys", Go: "Passkey", Owner: "access",
	Fields: []Field{
		{Name: "user", Kind: Text, Required: true, Max: 15},
		{Name: "name", Kind: Text, Required: true, Max: 80},
		{Name: "credential_id", Kind: Text, Required: true, Max: 1400, Hidden: true, Doc: "base64url, as the authenticator names it"},
		{Name: "credential", Kind: JSON, Max: 16 << 10, Hidden: true, Doc: "public key, counter and flags, as the WebAuthn library keeps them"},
		{Name: "used_at", Kind: Date},
	},
	Indexes: []Index{
		{Name: "idx_passkeys_credential", Unique: true, Columns: "credential_id"},
		{Name: "idx_passkeys_user", Columns: "user"},
	},
}

var passkeyChallenges = Definition{
	Name: "passkey_challenges", Go: "PasskeyChallenge", Owner: "access",
	Fields: []Field{
		{Name: "purpose", Kind: Text, Required: true, Max: 16, Doc: "register, prove, checkpoint or sign_in"},
		{Name: "holder", Kind: Text, Max: 64, Doc: "what it was given to: a session's or a checkpoint's id; empty for sign_in"},
		{Name: "user", Kind: Text, Max: 15, Doc: "whose passkey is asked for; empty for sign_in"},
		{Name: "data", Kind: JSON, Max: 32 << 10, Hidden: true, Doc: "what the WebAuthn library has to know at the answer"},
		{Name: "expires_at", Kind: Date, Required: true},
	},
	Indexes: []Index{{Name: "idx_passkey_challenges_expires", Columns: "expires_at"}},
}

var signInCheckpoints = Definition{
	Name: "sign_in_checkpoints", Go: "SignInCheckpoint", Owner: "access",
	Fields: []Field{
		{Name: "user", Kind: Text, Required: true, Max: 15},
		{Name: "token_hash", Kind: Text, Required: true, Max: 64, Hidden: true, Doc: "SHA-256 of its token, hex"},
		{Name: "method", Kind: Text, Required: true, Max: 16, Doc: "what was shown before it: password, otp, oauth2"},
		{Name: "stamp", Kind: Text, Required: true, Max: 64, Hidden: true, Doc: "of the account's sign-ins then; a new password ends it"},
		{Name: "used_at", Kind: Date},
		{Name: "expires_at", Kind: Date, Required: true},
	},
	Indexes: []Index{
		{Name: "idx_sign_in_checkpoints_token", Unique: true, Columns: "token_hash"},
		{Name: "idx_sign_in_checkpoints_expires", Columns: "expires_at"},
	},
}
