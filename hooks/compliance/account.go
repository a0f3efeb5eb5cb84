package compliance

import (
	"fmt"
	"net/http"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
)

// deleteAccount ends one's own account. What it has in access and notify goes with its row, and what is open
// of it is cut (hooks/together.go).
func (c *Compliance) deleteAccount(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	if a.Type != access.TypeUser {
		return access.Forbidden("users_only", "This is for customers' accounts. An operator's is removed in the dashboard.")
	}
	if err := c.Access.RequireProof(e.App, a); err != nil {
		return err
	}
	if a.Name == a.Email {
		a.Name = "" // what is written about this stays
	}
	err = collections.Tx(e.App, []collections.Lock{audit.Lock("")}, func(tx core.App) error {
		if err := a.Still(tx); err != nil {
			return err
		}
		account, err := tx.FindRecordById("users", a.ID)
		if err != nil {
			return fmt.Errorf("find the account %s: %w", a.ID, err)
		}
		if err := c.Tenancy.LeaveAll(tx, a, a.ID); err != nil {
			return err
		}
		if err := tx.Delete(account); err != nil {
			return fmt.Errorf("delete the account %s: %w", a.ID, err)
		}
		return c.Audit.Write(tx, a.Audit(), audit.Entry{Action: "user.delete", ResourceType: "users", Resource: a.ID, Metadata: map[string]any{"by": "the person"}})
	})
	if err != nil {
		return err
	}
	return e.NoContent(http.StatusNoContent)
}
