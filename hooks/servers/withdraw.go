package servers

import (
	"errors"
	"fmt"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/wings/wire"
)

// A placement that came to nothing is withdrawn: what the customer wants stays as it is, and the node
// is told that the server is absent, under a delete id of its own. So a failed install ends like a
// delete, at the node's word, and nothing but that word (and a node that is forced out) ever gives
// ports back. A reinstall places the server anew, at a higher epoch, which no report about the
// withdrawn placement reaches and which a panel restored from before it cannot delete.

// problemRemoved says that the node has deleted a server of which this panel does not know that it
// was to go: the panel was restored from a backup.
const problemRemoved = "removed_on_node"

// withdrawn reports whether a server that nobody deleted has no placement, or is losing it.
func withdrawn(row *collections.Server) bool {
	return row.DeleteID() != "" && wire.Desired(row.DesiredState()) != wire.DesiredAbsent
}

// absence reports whether the node says that it has nothing of a server any more. A node that has not
// looked yet says absent without a delete id.
func absence(o *wire.Observed) bool {
	return o != nil && o.State == wire.StateAbsent && o.DeleteID != ""
}

// gone reports whether the node has said that what was deleted or withdrawn is not there any more.
func gone(row *collections.Server) bool {
	o := seen(row)
	return absence(o) && o.DeleteID == row.DeleteID()
}

// withdraw takes back the placement of a server that could not be installed, with the job that brings
// it to the node. The problem that the node told stays; without one, cause is put into words.
func (s *Servers) withdraw(tx core.App, row *collections.Server, cause error) error {
	if row.ProblemMessage() == "" {
		row.SetProblemCode(wire.ProblemEngine)
		row.SetProblemMessage("This server could not be set up on its node. Try again, or make it on another node.")
		if errors.Is(cause, errSilent) {
			row.SetProblemMessage("The installation came to no end and was given up. Try again, or make it on another node.")
		}
	}
	row.SetInstallStatus(installFailed)
	row.SetDeleteID(core.GenerateDefaultRandomId())
	row.SetGeneration(row.Generation() + 1)
	if err := s.settle(tx, row, InstallFailed); err != nil {
		return err
	}
	_, err := s.await(tx, row, withdrawal) // the one before it is ending in this transaction
	return err
}

// takeAbsence takes in that a server is gone which this panel wants: it was deleted, or withdrawn, in a
// time that this panel was restored from before. Its data is not made up for by an empty install.
func takeAbsence(row *collections.Server, o *wire.Observed) {
	if !withdrawn(row) {
		row.SetProblemCode(problemRemoved)
		row.SetProblemMessage("This server is not on its node any more, and its data is not either. Reinstall it to begin anew, or delete it.")
	}
	row.SetInstallStatus(installFailed)
	row.SetInstalledAt(time.Time{})
	row.SetDeleteID(o.DeleteID)
}

// readmit takes back a withdrawal that the node knows to be overtaken: a panel restored from a backup
// withdraws nothing that was installed since. Without free ports the server is left as it is, and the
// leak scan names it.
func (s *Servers) readmit(tx core.App, row *collections.Server) error {
	row.SetDeleteID("")
	row.SetInstallStatus(installPending) // until record reads what the node says
	_, err := s.hold(tx, row, true)
	if errors.Is(err, alloc.ErrExhausted) {
		s.Log.Error("a server that its node runs holds no ports: none are free", "server", row.Id, "node", row.Node())
		return nil
	}
	if err != nil {
		return fmt.Errorf("reserve ports for server %s anew: %w", row.Id, err)
	}
	return nil
}
