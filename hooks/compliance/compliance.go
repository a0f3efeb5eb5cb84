// Package compliance is what the law and good manners ask of a host: that an organisation can take all of its data
// along, and that nothing of it is left when it is gone.
//
// It owns exports and export_parts. It refuses to know what is in the rows of other rooms: each purges its own (Room),
// and what an archive holds follows from the definitions of the collections.
//
// Its one invariant: a tenant is purged whole, in one transaction with the proof of it, and not before each of its
// servers was seen to be gone; until that transaction nothing of it is removed but what nodes have.
package compliance

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/hooks/servers"
	"github.com/mambahost/mamba/hooks/tenancy"
)

var permit = collections.PermitFor("compliance")

// Room is one that has rows of tenants. Purge removes those of a tenant, in the caller's transaction, and returns how many
// each collection had. It may be called again, and finds nothing then.
type Room interface {
	Purge(tx core.App, tenant string) (map[string]int64, error)
}

// Servers is servers.Servers.
type Servers interface {
	Clear(ctx context.Context, tenant string) ([]servers.Leftover, error)
}

// Samples is metering.Metering.
type Samples interface {
	Count(ctx context.Context, tenant string) (int64, error)
	Forget(ctx context.Context, tenant string) (int64, error)
}

// Config of New. What has no default is required.
type Config struct {
	App       core.App
	Access    *access.Access
	Tenancy   *tenancy.Tenancy
	Jobs      *jobs.Queue
	Events    *events.Outbox
	Audit     *audit.Log
	Incidents *incidents.Book
	Servers   Servers
	Samples   Samples
	Rooms     []Room           // all that have rows of tenants, this room and the audit log left out
	Sealed    []secrets.Sealed // fields that are in no archive
	// Cut ends, after the commit of tx, what is open of a tenant that is gone.
	Cut func(tx core.App, tenant string) error
	// Look is how long a purge waits before it looks again whether servers are gone. Default 15 s.
	Look time.Duration
	// Stall is how long a download waits for a reader who takes nothing. Default 1 min.
	Stall time.Duration
	Log   *slog.Logger // default slog.Default()
}

// Compliance is the room. Its methods are safe for concurrent use.
type Compliance struct{ Config }

// New checks the configuration and registers the jobs and what runs by the clock.
func New(c Config) (*Compliance, error) {
	if c.App == nil || c.Access == nil || c.Tenancy == nil || c.Jobs == nil || c.Events == nil || c.Audit == nil || c.Incidents == nil || c.Servers == nil || c.Samples == nil || len(c.Rooms) == 0 || c.Cut == nil {
		return nil, errors.New("compliance: every field but Sealed, Look, Stall and Log is required")
	}
	if c.Look <= 0 {
		c.Look = 15 * time.Second
	}
	if c.Stall <= 0 {
		c.Stall = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	m := &Compliance{c}
	m.handlePurge()
	m.handleExport()
	return m, nil
}
