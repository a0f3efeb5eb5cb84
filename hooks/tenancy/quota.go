package tenancy

import (
	"fmt"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/events"
)

// Quota is what a tenant may have, or has, over all its servers.
type Quota struct {
	Servers       int64 `json:"servers" db:"servers"`
	MemoryMiB     int64 `json:"memory_mib" db:"memory_mib"`
	CPUMillicores int64 `json:"cpu_millicores" db:"cpu_millicores"`
	DiskMiB       int64 `json:"disk_mib" db:"disk_mib"`
}

// or fills what is 0 from d; what is negative becomes 0, none allowed.
func (q Quota) or(d Quota) Quota {
	pick := func(own, fallback int64) int64 {
		switch {
		case own < 0:
			return 0
		case own == 0:
			return max(fallback, 0)
		}
		return own
	}
	return Quota{pick(q.Servers, d.Servers), pick(q.MemoryMiB, d.MemoryMiB), pick(q.CPUMillicores, d.CPUMillicores), pick(q.DiskMiB, d.DiskMiB)}
}

func (t *Tenancy) quotaOf(row *collections.Tenant) Quota {
	return Quota{row.QuotaServers(), row.QuotaMemoryMiB(), row.QuotaCPUMillicores(), row.QuotaDiskMiB()}.or(t.cfg.Quota)
}

// Quota returns what a tenant may have: its row's own figures, else the operator's.
func (t *Tenancy) Quota(app core.App, tenant string) (Quota, error) {
	row, err := collections.FindTenant(app, tenant)
	if err != nil {
		return Quota{}, fmt.Errorf("read the quota of tenant %s: %w", tenant, err)
	}
	return t.quotaOf(row), nil
}

// Used returns what the servers of a tenant have been given. A server counts until it is DELETED.
func (t *Tenancy) Used(app core.App, tenant string) (Quota, error) {
	var q Quota
	err := app.ConcurrentDB().NewQuery(`SELECT COUNT(*) AS [[servers]], COALESCE(SUM(CAST([[mem_limit_mb]] AS BIGINT)), 0) AS [[memory_mib]],
		COALESCE(SUM(CAST([[cpu_limit_millicores]] AS BIGINT)), 0) AS [[cpu_millicores]], COALESCE(SUM(CAST([[disk_gb]] AS BIGINT)), 0) * 1024 AS [[disk_mib]]
		FROM {{servers}} WHERE [[tenant]] = {:tenant} AND [[status]] != 'DELETED'`).Bind(dbx.Params{"tenant": tenant}).One(&q)
	if err != nil {
		return Quota{}, fmt.Errorf("count what tenant %s uses: %w", tenant, err)
	}
	return q, nil
}

// Afford is 409 quota_exceeded when the tenant cannot have more on top of what it has. It counts
// inside the caller's transaction, which holds Lock(tenant); negative figures of more are what is
// given back by the same change and always fit.
func (t *Tenancy) Afford(tx core.App, tenant string, more Quota) error {
	limit, err := t.Quota(tx, tenant)
	if err != nil {
		return err
	}
	used, err := t.Used(tx, tenant)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		what              string
		more, used, limit int64
	}{
		{"servers", more.Servers, used.Servers, limit.Servers},
		{"MiB of memory", more.MemoryMiB, used.MemoryMiB, limit.MemoryMiB},
		{"thousandths of a CPU core", more.CPUMillicores, used.CPUMillicores, limit.CPUMillicores},
		{"MiB of disk", more.DiskMiB, used.DiskMiB, limit.DiskMiB},
	} {
		if c.more > 0 && c.more > c.limit-c.used {
			return access.Conflict("quota_exceeded", fmt.Sprintf("Your organisation may use %d %s and has %d in use; %d more is too much. Delete or shrink a server, or ask us for a larger quota.", c.limit, c.what, c.used, c.more))
		}
		if c.more > 0 && !near(c.used, c.limit) && near(c.used+c.more, c.limit) {
			err := t.cfg.Events.Emit(tx, events.Event{Kind: "tenant.quota_near", Tenant: tenant, SubjectType: collections.Tenants, Subject: tenant,
				Payload: map[string]any{"resource": c.what, "used": c.used + c.more, "limit": c.limit, "percent": (c.used + c.more) * 100 / c.limit}})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// nearPercent is how much of a quota is nearly all of it.
const nearPercent = 90

func near(used, limit int64) bool { return limit > 0 && used*100 >= limit*nearPercent }
