package alloc

import (
	"fmt"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// ForgetNode releases what servers hold on a node that is being deleted, and removes its pools, in the
// caller's transaction, whose locks include Lock.
func (a *Alloc) ForgetNode(tx core.App, node string) error {
	if err := ask(tx); err != nil {
		return err
	}
	if _, err := a.ReleaseByNode(tx, node); err != nil {
		return err
	}
	for _, table := range []string{collections.PortPools, collections.IPPools} {
		if _, err := tx.NonconcurrentDB().Delete(table, dbx.HashExp{"node": node}).Execute(); err != nil {
			return fmt.Errorf("remove the %s of node %s: %w", table, node, err)
		}
	}
	return nil
}
