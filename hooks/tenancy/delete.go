package tenancy

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

// The end of an organisation. Its owner asks for it, and has Config.Grace to think better of it; then hooks/compliance
// purges it. BeginPurge and keep are asked in transactions that hold the tenant's lock, so one of the two is first:
//
//	ACTIVE, SUSPENDED ── deleteLater ──► DELETING ── BeginPurge, Purge ──► DELETED
//	        ▲                               │
//	        └───────────── keep ────────────┘

// buried is what the slug of a purged tenant begins with; its own is free.
const buried = "gone-"

// deleteLater has an organisation deleted after the grace. Whoever asks types its name and has shown lately who he is.
func (t *Tenancy) deleteLater(e *core.RequestEvent) error {
	var in struct {
		Name string `json:"name"`
	}
	return t.command(e, "tenant.delete", &in, nil, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		if row.Status() == StatusDeleting {
			return 0, nil, access.Conflict("already_deleting", "This organisation is being deleted already.")
		}
		if typed := strings.TrimSpace(in.Name); typed != row.Name() && typed != row.Slug() {
			return 0, nil, access.InvalidField("name", "mismatch", "Please type the name of the organisation exactly as it is.")
		}
		if !a.Superuser {
			if err := t.cfg.Sessions.RequireProof(tx, a); err != nil {
				return 0, nil, err
			}
		}
		if err := t.endInvites(tx, row.Id); err != nil {
			return 0, nil, err
		}
		row.SetStatusBefore(row.Status())
		row.SetDeleteAt(time.Now().Add(t.cfg.Grace))
		details := map[string]any{"from": row.Status(), "delete_at": row.DeleteAt().UTC().Format(time.RFC3339), "day": row.DeleteAt().UTC().Format("2 January 2006")}
		if err := t.turn(tx, a, row, StatusDeleting, "tenant.delete", "tenant.deleting", details); err != nil {
			return 0, nil, err
		}
		v, err := t.viewFor(tx, a, row)
		return http.StatusOK, v, err
	})
}

// endInvites takes back what is open: nobody joins what goes.
func (t *Tenancy) endInvites(tx core.App, tenant string) error {
	open, err := collections.Every[collections.Invite](tx, collections.Invites, "id", 0, dbx.HashExp{"tenant": tenant, "accepted_at": "", "revoked_at": ""})
	if err != nil {
		return fmt.Errorf("list the invites of tenant %s: %w", tenant, err)
	}
	for _, v := range open {
		v.SetRevokedAt(time.Now())
		if err := permit.Save(tx, v); err != nil {
			return fmt.Errorf("take back the invite %s: %w", v.Id, err)
		}
	}
	return nil
}

// keep ends a deletion that has not begun to remove anything. What ran before is started again.
func (t *Tenancy) keep(e *core.RequestEvent) error {
	return t.command(e, "tenant.delete", nil, nil, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		if row.Status() != StatusDeleting {
			return 0, nil, access.Conflict("not_deleting", "This organisation is not being deleted.")
		}
		if !row.PurgeBegunAt().IsZero() {
			return 0, nil, access.Conflict("purge_begun", "The time to keep this organisation is over. Its data are being removed.")
		}
		back := row.StatusBefore()
		if back != StatusSuspended {
			back = StatusActive
		}
		row.SetStatusBefore("")
		row.SetDeleteAt(time.Time{})
		if err := t.turn(tx, a, row, back, "tenant.keep", "tenant.kept", map[string]any{"to": back}); err != nil {
			return 0, nil, err
		}
		v, err := t.viewFor(tx, a, row)
		return http.StatusOK, v, err
	})
}

// Doomed lists the tenants whose time to be kept is over.
func (t *Tenancy) Doomed(app core.App, now time.Time) ([]string, error) {
	ids := []string{}
	err := app.ConcurrentDB().Select("id").From(collections.Tenants).
		Where(dbx.HashExp{"status": StatusDeleting}).AndWhere(dbx.NewExp("[[delete_at]] != '' AND [[delete_at]] <= {:now}", dbx.Params{"now": collections.Stamp(now)})).
		OrderBy("delete_at", "id").Column(&ids)
	if err != nil {
		return nil, fmt.Errorf("list the tenants that are to be purged: %w", err)
	}
	return ids, nil
}

// BeginPurge makes the deletion of a tenant final, in the caller's transaction, which holds Lock. It returns its status
// as it is then, and is called again by a purge that goes on: only StatusDeleting means that it may.
func (t *Tenancy) BeginPurge(tx core.App, tenant string, now time.Time) (*collections.Tenant, error) {
	row, err := collections.FindTenant(tx, tenant)
	if err != nil {
		return nil, fmt.Errorf("read tenant %s: %w", tenant, err)
	}
	if row.Status() != StatusDeleting || !row.PurgeBegunAt().IsZero() {
		return row, nil
	}
	if row.DeleteAt().IsZero() || now.Before(row.DeleteAt()) {
		return nil, fmt.Errorf("tenancy: tenant %s may still be kept", tenant)
	}
	row.SetPurgeBegunAt(now)
	row.SetRev(row.Rev() + 1)
	if err := permit.Save(tx, row); err != nil {
		return nil, fmt.Errorf("begin to purge tenant %s: %w", tenant, err)
	}
	return row, nil
}

// Purge removes who belonged to a tenant and makes its row a tombstone, in the caller's transaction, which holds Lock.
func (t *Tenancy) Purge(tx core.App, tenant string) (map[string]int64, error) {
	row, err := collections.FindTenant(tx, tenant)
	if err != nil {
		return nil, fmt.Errorf("read tenant %s: %w", tenant, err)
	}
	if row.Status() != StatusDeleted && row.PurgeBegunAt().IsZero() {
		return nil, fmt.Errorf("tenancy: tenant %s is not to be purged", tenant)
	}
	res, err := tx.NonconcurrentDB().NewQuery("DELETE FROM {{role_permissions}} WHERE [[role]] IN (SELECT [[id]] FROM {{roles}} WHERE [[tenant]] = {:tenant})").
		Bind(dbx.Params{"tenant": tenant}).Execute()
	if err != nil {
		return nil, fmt.Errorf("purge the permissions of the roles of tenant %s: %w", tenant, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return nil, err
	}
	gone, err := permit.Purge(tx, tenant, collections.RoleBindings, collections.Invites, collections.TenantMembers, collections.Roles)
	if err != nil {
		return nil, err
	}
	gone[collections.RolePermissions] = n
	if row.Status() == StatusDeleted {
		return gone, nil
	}
	slug := buried + row.Id
	taken, err := slugTaken(tx, slug, row.Id)
	if err != nil {
		return nil, err
	}
	if taken { // by somebody who wants to hold this up; he cannot take what he does not know
		slug += "-" + strings.ToLower(rand.Text()[:7])
	}
	row.SetName("")
	row.SetSlug(slug)
	row.SetPlanTier("")
	row.SetStatus(StatusDeleted)
	row.SetStatusReason("")
	row.SetStatusBefore("")
	row.SetStatusSince(time.Now())
	row.SetRequire2fa(false)
	row.SetQuotaServers(0)
	row.SetQuotaMemoryMiB(0)
	row.SetQuotaCPUMillicores(0)
	row.SetQuotaDiskMiB(0)
	row.SetRev(row.Rev() + 1)
	if err := permit.Save(tx, row); err != nil {
		return nil, fmt.Errorf("bury tenant %s: %w", tenant, err)
	}
	return gone, nil
}
