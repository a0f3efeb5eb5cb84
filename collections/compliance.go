package collections

// The collections of hooks/compliance: what organisations take along.

var exportsDef = Definition{
	Name: "exports", Go: "Export", Owner: "compliance", Tenant: true, Watched: true,
	Fields: []Field{
		{Name: "user", Kind: Text, Required: true, Max: 15, Doc: "who asked for it"},
		{Name: "status", Kind: Select, Required: true, Values: []string{"RUNNING", "READY", "FAILED"}},
		{Name: "bytes", Kind: Number, Doc: "of the archive"},
		{Name: "parts", Kind: Number, Doc: "how many rows of export_parts hold it"},
		{Name: "digest", Kind: Text, Max: 64, Doc: "SHA-256 of the archive, hex"},
		{Name: "finished_at", Kind: Date},
		{Name: "expires_at", Kind: Date, Required: true, Doc: "then it is removed"},
	},
	Indexes: []Index{
		{Name: "idx_exports_tenant", Columns: "tenant, created"},
		{Name: "idx_exports_running", Unique: true, Columns: "tenant", Where: "status = 'RUNNING'"},
		{Name: "idx_exports_expires", Columns: "expires_at"},
	},
}

var exportParts = Definition{
	Name: "export_parts", Go: "ExportPart", Owner: "compliance", Tenant: true,
	Fields: []Field{
		{Name: "export", Kind: Text, Required: true, Max: 15},
		{Name: "number", Kind: Number, Doc: "from 0"},
		{Name: "data", Kind: Text, Required: true, Max: 1_500_000, Hidden: true, Doc: "at most 1 MiB of the archive, base64"},
	},
	Indexes: []Index{{Name: "idx_export_parts_number", Unique: true, Columns: "export, number"}},
}
