package events

import (
	"fmt"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Purge removes the events of a tenant that is gone, in the caller's transaction. The newest event of all stays as a
// number without content, because the next one follows it.
func (*Outbox) Purge(tx core.App, tenant string) (map[string]int64, error) {
	res, err := tx.NonconcurrentDB().NewQuery(`UPDATE {{events}} SET [[tenant]] = '', [[kind]] = 'purged', [[subject_type]] = '', [[subject]] = '', [[actor]] = '', [[actor_type]] = '',
		[[payload]] = 'null', [[public]] = FALSE, [[delivered]] = TRUE
		WHERE [[tenant]] = {:tenant} AND [[seq]] = (SELECT MAX([[seq]]) FROM {{events}})`).Bind(dbx.Params{"tenant": tenant}).Execute()
	if err != nil {
		return nil, fmt.Errorf("empty the newest event: %w", err)
	}
	emptied, err := res.RowsAffected()
	if err != nil {
		return nil, err
	}
	gone, err := permit.Purge(tx, tenant, collections.Events)
	if err != nil {
		return nil, err
	}
	gone[collections.Events] += emptied
	return gone, nil
}
