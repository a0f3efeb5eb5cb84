package compliance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/hooks/servers"
	"github.com/mambahost/mamba/hooks/tenancy"
)

const (
	purgeJob = "PurgeTenant"
	// sweepAfter is how long after the burial a purge looks once more: what another instance had under way about the
	// tenant, a notice say, has come to its end by then.
	sweepAfter = 10 * time.Minute
	// patience is how long servers may take to be gone before an operator is told. A node that cannot be heard is told of
	// at once.
	patience = time.Hour
)

// handlePurge registers the job and the clock that finds what is due. The clock is all that there is to remember when a
// purge is to begin: it survives every crash, and somebody who keeps his organisation has nothing to take back.
func (c *Compliance) handlePurge() {
	c.Jobs.Handle(purgeJob, jobs.Options{MaxAttempts: 20, BackoffMin: 10 * time.Second, BackoffMax: time.Hour, Timeout: time.Hour}, c.purge, nil)
	c.Jobs.Cron("compliance.purge", "*/5 * * * *", jobs.CatchUp, func(tx core.App, _ time.Time) error { return c.Due(tx, time.Now()) })
}

// Due enqueues the purge of each tenant whose time to be kept is over.
func (c *Compliance) Due(tx core.App, now time.Time) error {
	doomed, err := c.Tenancy.Doomed(tx, now)
	if err != nil {
		return err
	}
	for _, tenant := range doomed {
		// It is the installation's: a job of the tenant would go with it.
		_, err := c.Jobs.Enqueue(tx, jobs.Job{Kind: purgeJob, Subject: tenant, UniqueKey: purgeJob + ":" + tenant})
		if err != nil && !errors.Is(err, jobs.ErrDuplicate) {
			return err
		}
	}
	return nil
}

// purge removes a tenant. It keeps nothing between runs: each looks at how far it is.
func (c *Compliance) purge(ctx context.Context, r *jobs.Run) error {
	tenant := r.Job().Subject()
	var row *collections.Tenant
	err := r.Tx([]collections.Lock{tenancy.Lock(tenant)}, func(tx core.App) (err error) {
		row, err = c.Tenancy.BeginPurge(tx, tenant, time.Now())
		return err
	})
	if err != nil {
		return err
	}
	switch row.Status() {
	case tenancy.StatusDeleted:
		return c.sweep(ctx, r, row)
	case tenancy.StatusDeleting:
	default:
		r.SetResult(map[string]string{"kept": row.Status()}) // its owner was quicker
		return nil
	}
	left, err := c.Servers.Clear(ctx, tenant)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		r.Progress("servers", 10, fmt.Sprintf("Waiting until %d servers are gone", len(left)))
		if err := c.warn(r, tenant, row.PurgeBegunAt(), left); err != nil {
			return err
		}
		return jobs.Wait(c.Look)
	}
	r.Progress("samples", 40, "Removing what was measured")
	samples, err := c.forget(ctx, r, tenant)
	if err != nil {
		return err
	}
	r.Progress("rows", 60, "Removing everything else")
	err = collections.Sparing(locks(tenant), []collections.Lock{incidents.Lock}, func(held []collections.Lock) error {
		return r.Tx(held, func(tx core.App) error { return c.bury(tx, tenant, samples) })
	})
	if err != nil {
		return err
	}
	return jobs.Wait(sweepAfter)
}

// forget removes the samples of a tenant. They are in a store of their own, so how many there were is counted and kept
// for the proof before the first of them goes.
func (c *Compliance) forget(ctx context.Context, r *jobs.Run, tenant string) (int64, error) {
	var before int64
	err := r.Step("samples", func(ctx context.Context) (any, error) { return c.Samples.Count(ctx, tenant) }, &before)
	if err != nil {
		return 0, err
	}
	gone, err := c.Samples.Forget(ctx, tenant)
	return max(before, gone), err // less went now if an attempt before had begun with it
}

// locks are those of a transaction that removes what there is of a tenant.
func locks(tenant string) []collections.Lock {
	return []collections.Lock{tenancy.Lock(tenant), audit.Lock(tenant), audit.Lock(""), secrets.Lock(tenant)}
}

// bury removes every row of a tenant and writes the proof, all or nothing.
func (c *Compliance) bury(tx core.App, tenant string, samples int64) error {
	row, err := c.Tenancy.BeginPurge(tx, tenant, time.Now())
	if err != nil || row.Status() != tenancy.StatusDeleting {
		return err // another run of this job has done it
	}
	gone, err := c.empty(tx, tenant)
	if err != nil {
		return err
	}
	gone["samples"] = samples
	if err := c.Audit.Bury(tx, tenant, gone); err != nil {
		return err
	}
	if err := c.Incidents.Resolve(tx, fingerprint(tenant), "Its servers are gone, and it was purged."); err != nil {
		return err
	}
	return c.Cut(tx, tenant)
}

// empty has every room remove what it has of a tenant.
func (c *Compliance) empty(tx core.App, tenant string) (map[string]int64, error) {
	gone := map[string]int64{}
	for _, room := range slices.Concat(c.Rooms, []Room{c}) {
		counts, err := room.Purge(tx, tenant)
		if err != nil {
			return nil, err
		}
		maps.Copy(gone, counts)
	}
	return gone, nil
}

// Purge removes the archives of a tenant.
func (*Compliance) Purge(tx core.App, tenant string) (map[string]int64, error) {
	return permit.Purge(tx, tenant, collections.ExportParts, collections.Exports)
}

// sweep removes what came after the burial.
func (c *Compliance) sweep(ctx context.Context, r *jobs.Run, row *collections.Tenant) error {
	tenant := row.Id
	if rest := time.Until(row.StatusSince().Add(sweepAfter)); rest > 0 {
		return jobs.Wait(rest)
	}
	samples, err := c.Samples.Forget(ctx, tenant)
	if err != nil {
		return err
	}
	var gone map[string]int64
	if err := r.Tx(locks(tenant), func(tx core.App) (err error) { gone, err = c.empty(tx, tenant); return err }); err != nil {
		return err
	}
	gone["samples"] = samples
	for name, n := range gone {
		if n > 0 {
			c.Log.Warn("rows of a purged tenant came late and were removed", "tenant", tenant, "collection", name, "rows", n)
		}
	}
	return nil
}

// fingerprint is that of the incident about a tenant whose servers do not go.
func fingerprint(tenant string) string { return "tenant.purge_waits:" + tenant }

// warn tells an operator, once in the life of the job, that servers do not go.
func (c *Compliance) warn(r *jobs.Run, tenant string, begun time.Time, left []servers.Leftover) error {
	silent, nodes := false, map[string]bool{}
	for _, l := range left {
		silent = silent || !l.Online
		nodes[l.Node] = true
	}
	if !silent && time.Since(begun) < patience {
		return nil
	}
	return r.StepTx("warn", []collections.Lock{incidents.Lock}, func(tx core.App) (any, error) {
		in := incidents.Incident{
			Kind: "tenant.purge_waits", Fingerprint: fingerprint(tenant), Severity: "warning", Server: left[0].ID,
			Title: "The purge of organisation " + tenant + " waits for its servers",
			Detail: fmt.Sprintf("%d servers on %d nodes are not seen to be gone, the first is %s on node %s. Bring the node back, or delete it by force if it is lost: its ports are free only then.",
				len(left), len(nodes), left[0].ID, left[0].Node),
		}
		return nil, c.Incidents.Open(tx, in)
	}, nil)
}
