package notify

import (
	"fmt"
	"net/http"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/wire"
)

// maxMutes is how many servers one person may have muted.
const maxMutes = 1000

// muting is the permission that somebody needs to mute a server: who cannot see it is not told of it anyway.
const muting = "server.read"

// muted says whether somebody wants to hear nothing of a server. An organisation's webhooks are not muted.
func muted(app core.App, to recipient, server string) (bool, error) {
	if server == "" || to.account == forTenant {
		return false, nil
	}
	n, err := app.CountRecords(collections.NotificationMutes, dbx.HashExp{"user": to.id, "server": server})
	if err != nil {
		return false, fmt.Errorf("ask whether %s has muted %s: %w", to.id, server, err)
	}
	return n > 0, nil
}

func noServer() error { return access.NotFound("server_not_found", "There is no such server.") }

// mutes lists the servers that one has muted.
func (n *Notify) mutes(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	rows, err := collections.Every[collections.NotificationMute](e.App, collections.NotificationMutes, "created, id", maxMutes, dbx.HashExp{"user": a.ID})
	if err != nil {
		return fmt.Errorf("list what %s has muted: %w", a.ID, err)
	}
	items := []map[string]any{}
	for _, r := range rows {
		items = append(items, map[string]any{"server": r.Server(), "tenant": r.Tenant(), "created": stamp(r.Created())})
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items})
}

// mute has one hear nothing of a server any more. Again is the same.
func (n *Notify) mute(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	server := e.Request.PathValue("server")
	if !wire.ValidID(server) {
		return noServer()
	}
	err = collections.Tx(e.App, []collections.Lock{audit.Lock(""), lock(a.ID)}, func(tx core.App) error {
		found, err := findOrNil(tx, collections.Servers, server)
		if err != nil {
			return err
		}
		if found == nil {
			return noServer()
		}
		tenant := found.GetString("tenant")
		if may, err := verdict(n.cfg.Tenancy.Can(tx, a, muting, tenancy.Resource{Tenant: tenant, Server: server})); err != nil {
			return err
		} else if !may {
			return noServer()
		}
		if on, err := muted(tx, recipient{accountOf(a), a.ID}, server); err != nil || on {
			return err
		}
		have, err := tx.CountRecords(collections.NotificationMutes, dbx.HashExp{"user": a.ID})
		if err != nil {
			return fmt.Errorf("count what %s has muted: %w", a.ID, err)
		}
		if have >= maxMutes {
			return access.Conflict("mute_limit", fmt.Sprintf("You have muted %d servers, which is as many as there may be. Switch the kinds off instead.", have))
		}
		row, err := collections.NewNotificationMute(tx)
		if err != nil {
			return err
		}
		row.SetUser(a.ID)
		row.SetServer(server)
		row.SetTenant(tenant)
		if err := permit.Save(tx, row); err != nil {
			return fmt.Errorf("mute %s for %s: %w", server, a.ID, err)
		}
		return n.noteMute(tx, a, server, true)
	})
	if err != nil {
		return err
	}
	return e.NoContent(http.StatusNoContent)
}

// unmute takes that back. It works for a server that one may not see any more, too; again is the same.
func (n *Notify) unmute(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	server := e.Request.PathValue("server")
	err = collections.Tx(e.App, []collections.Lock{audit.Lock(""), lock(a.ID)}, func(tx core.App) error {
		rows, err := collections.Every[collections.NotificationMute](tx, collections.NotificationMutes, "", 1, dbx.HashExp{"user": a.ID, "server": server})
		if err != nil {
			return fmt.Errorf("find what %s has muted: %w", a.ID, err)
		}
		if len(rows) == 0 {
			return nil
		}
		if err := permit.Delete(tx, rows[0]); err != nil {
			return fmt.Errorf("unmute %s for %s: %w", server, a.ID, err)
		}
		return n.noteMute(tx, a, server, false)
	})
	if err != nil {
		return err
	}
	return e.NoContent(http.StatusNoContent)
}

func (n *Notify) noteMute(tx core.App, a access.Actor, server string, on bool) error {
	return n.cfg.Audit.Write(tx, a.Audit(), audit.Entry{Action: "notification.mute", ResourceType: collections.Servers, Resource: server, Metadata: map[string]any{"muted": on}})
}
