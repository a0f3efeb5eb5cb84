// Package servers is the life of a game server: what the customer wants, what the node says, and
// the phase that follows from both.
//
// It owns the table servers. It refuses to reach a node inside a transaction, to run anything
// itself, and to let anything but a customer's command change what is wanted.
//
// Its one invariant: the wanted state has exactly one writer, the transaction of a command, which
// raises the generation; jobs, reports and restarts only ever move a server towards the newest
// generation or give up in its favour.
package servers

import (
	"context"
	"log/slog"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/catalog"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/metering"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/wire"
)

var permit = collections.PermitFor("servers")

// Nodes is what this room needs of the fleet.
type Nodes interface {
	// Push sends a Spec and returns what the node makes of it. fleet.ErrNodeOffline when it cannot
	// be reached now; a *wire.Error when it answered and refused.
	Push(ctx context.Context, node string, s wire.Spec) (wire.Observed, error)
	// Console opens the console stream of a server on its node, from the line after `after`.
	Console(ctx context.Context, node, server string, after int64) (*websocket.Conn, error)
	// Do sends a request to the node's handler; in and out are JSON.
	Do(ctx context.Context, node, method, path string, in, out any) error
}

// Charts is metering.Metering.
type Charts interface {
	// Chart draws what a server used over a span up to now.
	Chart(ctx context.Context, server string, span metering.Span, now time.Time) (metering.Chart, error)
}

// Config of Servers. Every field is required but Defaults.
type Config struct {
	App       core.App
	Access    *access.Access
	Tenancy   *tenancy.Tenancy
	Alloc     *alloc.Alloc
	Catalog   *catalog.Catalog
	Jobs      *jobs.Queue
	Events    *events.Outbox
	Audit     *audit.Log
	Incidents *incidents.Book
	Secrets   *secrets.Keeper
	Charts    Charts
	Nodes     Nodes
	Log       *slog.Logger
	Defaults  Defaults
}

// Defaults of a container that customers do not set.
type Defaults struct {
	PIDs    int64 // processes and threads; 0: 1,024
	SwapMiB int64 // beyond memory; 0: none
}

// Servers is the room. Its methods are safe for concurrent use.
type Servers struct {
	Config
	consoles *seats  // console sockets of this panel
	relays   *relays // where they get their frames
	cancel   func()  // of what they wait for
}

// Limits of the room.
const (
	maxConsoles         = 2_000            // console sockets at once
	consolesPerUser     = 30               // of one person
	pushTimeout         = 15 * time.Second // one Spec to one node
	installDeadline     = 2 * time.Hour    // of silence about it, from a reachable node that neither finishes nor fails
	commandDeadline     = 30 * time.Minute // the same for everything else
	maxCrashBytes       = 8 << 10          // of a game's last words in an event, before JSON escapes them
	nodeOfflinePatience = 15 * time.Second // between looks at a silent node; its return wakes the job at once
)

// New returns the room and registers its job kinds. The caller calls Stop.
func New(c Config) *Servers {
	if c.Defaults.PIDs == 0 {
		c.Defaults.PIDs = 1024
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Servers{Config: c, consoles: newSeats(maxConsoles, consolesPerUser), relays: newRelays(ctx, c.Nodes), cancel: cancel}
	s.registerJobs()
	return s
}

// lock is held by every transaction that writes a server.
func lock(server string) collections.Lock { return collections.Lock("server:" + server) }

// locks are held by every transaction that changes a tenant's servers, beside the server's own: what
// is counted and chained in it.
func locks(tenant string) []collections.Lock {
	return []collections.Lock{tenancy.Lock(tenant), audit.Lock(tenant)}
}

// rare are the locks that the whole installation waits for and few changes need: one that reserves or gives
// back, one that opens or ends an incident. They are asked for where they are needed (collections.Sparing).
var rare = []collections.Lock{alloc.Lock, incidents.Lock}

// find returns a server of a tenant that is not deleted; another tenant's is not found.
func (s *Servers) find(app core.App, tenant, id string) (*collections.Server, error) {
	row, err := owned(app, tenant, id)
	if err != nil || Phase(row.Status()) == Deleted {
		return nil, errNotFound
	}
	return row, nil
}

// owned returns a server of a tenant, also one that is deleted; another tenant's is not found.
func owned(app core.App, tenant, id string) (*collections.Server, error) {
	row, err := collections.FindServer(app, id)
	if err != nil || row.Tenant() != tenant {
		return nil, errNotFound
	}
	return row, nil
}

var errNotFound = access.NotFound("server_not_found", "There is no such server.")

// effective is what the node is asked for: what is wished, but stopped while the tenant is
// suspended.
func effective(row *collections.Server) wire.Desired {
	d := wire.Desired(row.DesiredState())
	if d == wire.DesiredRunning && row.Suspended() {
		return wire.DesiredStopped
	}
	return d
}

func want(row *collections.Server) Want {
	return Want{Desired: effective(row), Withdrawn: withdrawn(row), Epoch: row.PlacementEpoch(), Generation: row.Generation(), DeleteID: row.DeleteID(), Install: row.InstallStatus()}
}

// seen returns the last observation that counted; nil when there is none.
func seen(row *collections.Server) *wire.Observed {
	var o wire.Observed
	if err := row.Observed(&o); err != nil || o.ServerID == "" {
		return nil
	}
	return &o
}
