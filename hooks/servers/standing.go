package servers

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/wire"
)

// standingJob has the servers of a tenant follow its status. It looks at what is, so it can be run at any time and again.
const standingJob = "FollowTenant"

// installation is the actor of what the installation does by itself.
var installation = access.Actor{Type: "system", Name: "Mamba Host"}

// TenantTurned enqueues, in the transaction that gives a tenant another status, that its servers follow.
func (s *Servers) TenantTurned(tx core.App, tenant string) error {
	_, err := s.Jobs.Enqueue(tx, jobs.Job{Kind: standingJob, Tenant: tenant, Subject: tenant, GroupKey: standingJob + ":" + tenant})
	if err != nil {
		return fmt.Errorf("have the servers of tenant %s follow: %w", tenant, err)
	}
	return nil
}

// follow gives each server of a tenant the overlay that the tenant's status asks for, each in a transaction of its own.
func (s *Servers) follow(ctx context.Context, r *jobs.Run) error {
	tenant := r.Job().Tenant()
	rows, err := collections.Every[collections.Server](s.App, collections.Servers, "id", 0, dbx.HashExp{"tenant": tenant}, dbx.Not(dbx.HashExp{"status": string(Deleted)}))
	if err != nil {
		return fmt.Errorf("list the servers of tenant %s: %w", tenant, err)
	}
	for _, row := range rows {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := collections.Sparing(append(locks(tenant), lock(row.Id)), rare, func(held []collections.Lock) error {
			return collections.Tx(s.App, held, func(tx core.App) error { return s.followOne(tx, tenant, row.Id) })
		})
		if err != nil {
			return fmt.Errorf("have server %s follow its tenant: %w", row.Id, err)
		}
	}
	return nil
}

// followOne suspends a server, or ends that. What its owner wishes stays as it was.
func (s *Servers) followOne(tx core.App, tenant, id string) error {
	owner, err := collections.FindTenant(tx, tenant)
	if err != nil {
		return fmt.Errorf("read tenant %s: %w", tenant, err)
	}
	row, err := s.find(tx, tenant, id)
	if errors.Is(err, errNotFound) {
		return nil // it was deleted meanwhile
	}
	if err != nil {
		return err
	}
	suspended := owner.Status() != tenancy.StatusActive
	if row.Suspended() == suspended {
		return nil
	}
	row.SetSuspended(suspended)
	phase, act := Phase(row.Status()), Start
	if suspended {
		act = Stop
	}
	details := map[string]any{"tenant_status": owner.Status()}
	if wire.Desired(row.DesiredState()) != wire.DesiredRunning || !slices.Contains(Possible(phase), act) {
		return s.quietly(tx, row, details)
	}
	_, err = s.commit(tx, installation, row, act, After(phase, act), details)
	return err
}

// quietly stores the overlay of a server that is not started or stopped by a command of its own. When it would run later
// by itself its generation grows, so that the node takes what is wanted now whenever it comes to it.
func (s *Servers) quietly(tx core.App, row *collections.Server, details map[string]any) error {
	phase := Phase(row.Status())
	if wire.Desired(row.DesiredState()) != wire.DesiredRunning || phase == InstallFailed || !slices.Contains(Possible(phase), Update) {
		return s.settle(tx, row, phase)
	}
	_, err := s.commit(tx, installation, row, Update, phase, details)
	return err
}

// CutTenant closes every console into a tenant's servers: who comes back is asked again what he may.
func (s *Servers) CutTenant(tenant string) {
	s.consoles.mu.Lock()
	defer s.consoles.mu.Unlock()
	for p := range s.consoles.open {
		if p.tenant != tenant {
			continue
		}
		p.end()
	}
}
