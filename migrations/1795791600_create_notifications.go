package migrations

import (
	_ "embed"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

//go:embed 1795791600_create_notifications.json
var createNotifications []byte

// Customers are told of a sign-in from a new place by a notice of ours, which names the session that they
// can end; PocketBase's own mail about it would be a second one.
func init() {
	migrations.Register(func(app core.App) error {
		if err := app.ImportCollectionsByMarshaledJSON(createNotifications, false); err != nil {
			return err
		}
		users, err := app.FindCollectionByNameOrId("users")
		if err != nil {
			return err
		}
		users.AuthAlert.Enabled = false
		return app.Save(users)
	}, nil)
}
