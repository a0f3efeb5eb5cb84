// Package migrations is the frozen history of the schema: literals only, forward only, in the order
// of their file names. The present is described in package collections; a test compares the two.
package migrations

import (
	_ "embed"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

//go:embed 1795341075_create_core.json
var createCore []byte

func init() {
	migrations.Register(func(app core.App) error {
		return app.ImportCollectionsByMarshaledJSON(createCore, false)
	}, nil)
}
