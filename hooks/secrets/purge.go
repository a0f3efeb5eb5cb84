package secrets

import (
	"errors"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Purge removes the data key of a tenant that is gone, in the caller's transaction, whose locks include Lock(tenant):
// what was sealed with it opens nowhere any more, not in a copy of the database that is made later either.
func (k *Keeper) Purge(tx core.App, tenant string) (map[string]int64, error) {
	gone := map[string]int64{collections.DataKeies: 0}
	row, err := keyRow(tx, tenant)
	if errors.Is(err, ErrNoKey) {
		return gone, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := tx.NonconcurrentDB().Delete(collections.DataKeies, dbx.HashExp{"id": row.Id}).Execute(); err != nil {
		return nil, err
	}
	collections.AfterCommit(tx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.keys, tenant)
	})
	for _, fn := range k.changed {
		if err := fn(tx); err != nil {
			return nil, err
		}
	}
	gone[collections.DataKeies] = 1
	return gone, nil
}
