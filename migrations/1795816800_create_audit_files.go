package migrations

import (
	_ "embed"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

//go:embed 1795816800_create_audit_files.json
var createAuditFiles []byte

// The database remembers how far the files of signed heads go.
func init() {
	migrations.Register(func(app core.App) error {
		return app.ImportCollectionsByMarshaledJSON(createAuditFiles, false)
	}, nil)
}
