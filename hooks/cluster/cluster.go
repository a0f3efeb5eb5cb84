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
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/security"

	"github.com/mambahost/mamba/collections/postgres"
)

// Config of a Cluster.
type Config struct {
	Database *postgres.Database // nil: SQLite, this is the only instance
	Address  string             // host:port of this instance's node listener, as nodes and other instances reach it
	Release  string             // of this binary, for the list of instances
	Log      *slog.Logger
}

// Peer carries a request to another instance: nodes and instances know each other by certificates, so
// hooks/fleet implements it. The request arrives there at the handler that hooks.go gives it.
type Peer interface {
	// RoundTripper of an instance. Its RoundTrip fails when the instance is dead or unknown.
	RoundTripper(instance string) http.RoundTripper
}

// Cluster is this instance's place among the others. It is safe for concurrent use.
type Cluster struct {
	app     core.App
	cfg     Config
	log     *slog.Logger
	id      string
	started time.Time
	schema  string // of the database; locks and the channel are of one schema
	channel string // of NOTIFY

	bus     *bus
	members *members
	leaders *leaders

	// fixed at Start
	onGap       []func()
	onLost      []func(since time.Duration)
	onInstances []func([]Instance)
	onDead      []func(tx core.App, instance string) error

	mu     sync.Mutex
	begun  bool               // guarded by mu
	cancel context.CancelFunc // nil until Start; guarded by mu
	wg     sync.WaitGroup

	number atomic.Uint64 // of batches sent
	gaps   chan struct{} // capacity 1: messages may have been missed
	lostAt time.Time     // zero while the session stands; owned by run

	reloading sync.Mutex // held while a cache of PocketBase is read anew
}

// New returns this instance of the installation; nothing runs before Start.
func New(app core.App, c Config) (*Cluster, error) {
	if app == nil {
		return nil, errors.New("cluster: no app")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	cl := &Cluster{app: app, cfg: c, log: c.Log, id: security.RandomStringWithAlphabet(15, core.DefaultIdAlphabet), started: time.Now(),
		gaps: make(chan struct{}, 1)}
	if cl.clustered() {
		path := c.Database.Pool().Config().ConnConfig.RuntimeParams["search_path"]
		cl.schema, _, _ = strings.Cut(path, ",")
		cl.channel = "mamba_bus_" + cl.schema
	}
	cl.bus = newBus(cl)
	cl.members = newMembers(cl)
	cl.leaders = &leaders{c: cl, tasks: map[string]*task{}}
	return cl, nil
}

// ID is the id of this run of this instance, in the shape of a PocketBase id.
func (c *Cluster) ID() string { return c.id }

func (c *Cluster) clustered() bool { return c.cfg.Database != nil }

// OnGap registers what is called, outside of any transaction, when messages may have been missed: at
// Start, when the connection that listens is back, when a subscriber was too slow. Reload caches, tell
// browsers to refetch, wake queues. On SQLite only the last can happen. Before Start.
func (c *Cluster) OnGap(fn func()) { register(c, &c.onGap, fn) }

// OnLost registers what is called again and again while the connection to the others is lost, with
// how long it has been: they may hold this instance for dead, and give its leases away. Before Start.
func (c *Cluster) OnLost(fn func(since time.Duration)) { register(c, &c.onLost, fn) }

// OnInstances registers who is told when the list of live instances changed, and at Start. Before
// Start.
func (c *Cluster) OnInstances(fn func([]Instance)) { register(c, &c.onInstances, fn) }

// OnDead registers what is done in the transaction that removes a dead instance, on one of those that
// live: return its leases. It may run twice, and must not reach outside of tx. Before Start.
func (c *Cluster) OnDead(fn func(tx core.App, instance string) error) { register(c, &c.onDead, fn) }

func register[T any](c *Cluster, list *[]T, fn T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun {
		panic("cluster: registered after Start")
	}
	*list = append(*list, fn)
}

// Start joins the others and begins delivery; it returns when this instance listens, or with why it
// cannot. A second call does nothing.
func (c *Cluster) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun {
		return nil
	}
	c.begun = true
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx)) // Stop ends it: rooms that stop before still publish
	c.bus.start()
	c.wg.Go(func() { c.tellGaps(ctx) })
	if !c.clustered() {
		c.leaders.all(ctx)
		list, _ := c.Instances(c.app) // knows without asking
		for _, fn := range c.onInstances {
			fn(list)
		}
		return nil
	}
	first := make(chan error, 1)
	c.wg.Go(func() { c.run(ctx, first) })
	if err := <-first; err != nil {
		c.cancel()
		c.cancel = nil
		c.wg.Wait()
		c.bus.stop()
		return fmt.Errorf("join the other panel instances: %w", err)
	}
	c.wg.Go(func() { c.work(ctx) })
	c.gap() // what changed since the caches were filled
	return nil
}

// work does what needs the database, so that the session never waits for it.
func (c *Cluster) work(ctx context.Context) {
	beat := time.NewTicker(heartbeatEvery)
	defer beat.Stop()
	for {
		c.members.removeDead(ctx)
		c.leaders.begin(ctx)
		c.members.tell()
		select {
		case <-ctx.Done():
			return
		case <-c.members.wake:
		case <-beat.C:
			c.members.beat()
		}
	}
}

// lost ends what hangs on the session.
func (c *Cluster) lost() {
	c.leaders.lost()
	c.members.lost()
	if c.lostAt.IsZero() {
		c.lostAt = time.Now()
		return // it may be back in a moment
	}
	for _, fn := range c.onLost {
		fn(time.Since(c.lostAt))
	}
}

// gap has OnGap called, once for all that came at once.
func (c *Cluster) gap() { nudge(c.gaps) }

func (c *Cluster) tellGaps(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.gaps:
		}
		for _, fn := range c.onGap {
			fn()
		}
	}
}

// Stop leaves: the others see it at once. What is led here ends first; subscribers are waited for. A
// second call does nothing.
func (c *Cluster) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel == nil {
		return
	}
	c.leaders.retire()
	c.cancel()
	c.cancel = nil
	c.wg.Wait()
	if c.clustered() {
		c.members.leave()
	}
	c.bus.stop()
}

// nudge puts a token into a channel of capacity 1 if there is none.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Alone reports whether this is the only instance that there can be.
func (c *Cluster) Alone() bool { return !c.clustered() }
