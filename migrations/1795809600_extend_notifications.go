package migrations

import (
	_ "embed"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

//go:embed 1795809600_extend_notifications.json
var extendNotifications []byte

// Browsers belong to sessions, webhooks choose kinds, and servers can be muted.
func init() {
	migrations.Register(func(app core.App) error {
		if err := app.ImportCollectionsByMarshaledJSON(extendNotifications, false); err != nil {
			return err
		}
		// Nobody knows which session these are of. Their browsers subscribe again.
		_, err := app.NonconcurrentDB().NewQuery("DELETE FROM {{push_subscriptions}}").Execute()
		return err
	}, nil)
}
