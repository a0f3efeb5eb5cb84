package migrations

import (
	_ "embed"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

//go:embed 1795788000_create_sessions.json
var createSessions []byte

func init() {
	migrations.Register(func(app core.App) error {
		return app.ImportCollectionsByMarshaledJSON(createSessions, false)
	}, nil)
}
