package incidents

import (
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Purge removes the incidents of a tenant that is gone, in the caller's transaction.
func (*Book) Purge(tx core.App, tenant string) (map[string]int64, error) {
	return permit.Purge(tx, tenant, collections.Incidents)
}
