package alloc

import (
	"fmt"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Purge removes the history of what a tenant that is gone had. It refuses while anything is still held: ports are
// given back by a server that is absent, never because somebody is forgotten.
func (*Alloc) Purge(tx core.App, tenant string) (map[string]int64, error) {
	held, err := tx.CountRecords(collections.Allocations, dbx.HashExp{"tenant": tenant, "status": StatusActive})
	if err != nil {
		return nil, fmt.Errorf("count the allocations of tenant %s: %w", tenant, err)
	}
	if held > 0 {
		return nil, fmt.Errorf("alloc: %d servers of tenant %s hold ports", held, tenant)
	}
	return permit.Purge(tx, tenant, collections.Allocations)
}
