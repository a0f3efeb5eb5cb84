package access

import (
	"fmt"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Purge removes what a tenant that is gone has left here: its keys, the answers that are kept for repeated requests,
// and that it is the current one of sessions.
func (*Access) Purge(tx core.App, tenant string) (map[string]int64, error) {
	gone, err := permit.Purge(tx, tenant, collections.APIKeies, collections.IdempotencyKeies)
	if err != nil {
		return nil, err
	}
	if _, err := tx.NonconcurrentDB().Update(collections.Sessions, dbx.Params{"current": ""}, dbx.HashExp{"current": tenant}).Execute(); err != nil {
		return nil, fmt.Errorf("forget the current tenant of sessions: %w", err)
	}
	return gone, nil
}
