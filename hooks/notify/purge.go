package notify

import (
	"fmt"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Purge removes the notices about a tenant that is gone, whoever has them, and its webhooks, and that somebody
// muted its servers.
func (*Notify) Purge(tx core.App, tenant string) (map[string]int64, error) {
	return permit.Purge(tx, tenant, collections.Notifications, collections.NotificationChannels, collections.NotificationMutes)
}

// ForgetLate removes what was made for an account while Forget ran beside it, after the account is gone.
func (n *Notify) ForgetLate(user string) error {
	return collections.Tx(n.cfg.App, []collections.Lock{lock(user)}, func(tx core.App) error { return n.Forget(tx, user) })
}

// Forget removes what an account has here, in the transaction that removes it: notices, preferences, webhooks, browsers and mutes.
func (*Notify) Forget(tx core.App, user string) error {
	for _, table := range []string{collections.Notifications, collections.NotificationPrefs, collections.NotificationChannels, collections.PushSubscriptions, collections.NotificationMutes} {
		if _, err := tx.NonconcurrentDB().Delete(table, dbx.HashExp{"user": user}).Execute(); err != nil {
			return fmt.Errorf("forget the %s of %s: %w", table, user, err)
		}
	}
	return nil
}
