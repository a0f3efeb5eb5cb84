package notify

import (
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Purge removes the notices about a tenant that is gone, whoever has them, and its webhooks.
func (*Notify) Purge(tx core.App, tenant string) (map[string]int64, error) {
	return permit.Purge(tx, tenant, collections.Notifications, collections.NotificationChannels)
}
