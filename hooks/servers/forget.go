package servers

import (
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/events"
)

// ForgetNode ends the servers of a node that is forced out, in the transaction that deletes it: the
// operator has said that nothing there will be seen again.
func (s *Servers) ForgetNode(tx core.App, node string) error {
	rows, err := collections.Every[collections.Server](tx, collections.Servers, "", 0,
		dbx.HashExp{"node": node}, dbx.NewExp("[[status]] != {:deleted}", dbx.Params{"deleted": string(Deleted)}))
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := s.settle(tx, row, Deleting); err != nil {
			return err
		}
		if err := s.settle(tx, row, Deleted); err != nil {
			return err
		}
		if err := s.emit(tx, row, "server.lost_with_node", events.Event{}, map[string]any{"node": node}); err != nil {
			return err
		}
		if _, err := s.Jobs.SupersedeAll(tx, row.Id, "the node was removed"); err != nil {
			return err
		}
	}
	return nil
}
