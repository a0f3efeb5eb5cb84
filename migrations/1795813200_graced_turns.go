package migrations

import (
	_ "embed"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

//go:embed 1795813200_graced_turns.json
var gracedTurns []byte

// Sessions remember when the refresh tokens before the last were given.
func init() {
	migrations.Register(func(app core.App) error {
		return app.ImportCollectionsByMarshaledJSON(gracedTurns, false)
	}, nil)
}
