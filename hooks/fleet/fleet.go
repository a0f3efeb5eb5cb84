// Package fleet is the panel's side of its nodes: who they are, whether they are there, and what is
// said to them and by them.
//
// It owns authorities, nodes, node_certificates, node_links and panel_certificates: the certificate
// authority, enrolment, the mutual-TLS listener, the node links, heartbeats, the full sync of desired
// state and the intake of events. Of several panel instances each holds links of its own; a request
// for a node goes over this instance's, or is relayed once through an instance that has one. It
// refuses to know what a server is: what a node reports of one goes to Placements, and what it
// measured to Samples.
//
// Its one invariant: nothing is taken from or said to a node over a connection whose certificate was
// not issued here to exactly that node, or was revoked; nothing is relayed for anybody but a running
// instance of this panel; and an event is acknowledged only in the transaction that holds its effect.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/cluster"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/wings/wire"
)

var permit = collections.PermitFor("fleet")

// DefaultListen is where nodes connect to.
const DefaultListen = ":8443"

// How often fleet looks.
const (
	sweepEvery     = 5 * time.Second
	authorityEvery = time.Hour // certificates of ours that near their end are replaced
	syncEvery      = 3 * time.Minute
	syncRetry      = 5 * time.Second
)

// Errors of requests to nodes.
var (
	// ErrNodeOffline is a node without a link, or whose link broke during the request: then the
	// request may have been carried out, and only the answer is lost.
	ErrNodeOffline = errors.New("the node is not connected")
	// ErrPermanent marks an error of Placements that will not go away by trying again: the event is
	// skipped at once, with an incident.
	ErrPermanent = errors.New("this can never be applied")
	// ErrNoInstance is an instance of the panel that does not run, or is this one.
	ErrNoInstance = errors.New("no such instance of the panel runs")
	// ErrTooManyConsoles is a node with as many open consoles as it may have.
	ErrTooManyConsoles = errors.New("too many consoles are open on the node")
)

// Placements is what the servers room does with what fleet hears. Observe and its like are called
// in a transaction that holds server:<id> and node:<id>; the locks of allocations and incidents and those
// of the server's tenant are there once one of them was asked for (collections.Sparing). What they name may
// be unknown. An error wrapping ErrPermanent skips an event, any other is tried again.
type Placements interface {
	// Specs returns the desired state of every server placed on the node.
	Specs(app core.App, node string) ([]wire.Spec, error)
	// News returns those of what a node says of its servers that Observe would not pass over, in their
	// order. It reads once and writes nothing; it is called in no transaction.
	News(app core.App, node string, said []wire.Observed) ([]wire.Observed, error)
	// Observe takes what a node knows of a server; older than what is known does nothing.
	Observe(tx core.App, node string, o wire.Observed) error
	Crashed(tx core.App, node string, c wire.CrashReport) error
	Installed(tx core.App, node string, r wire.InstallReport) error
	Unknown(tx core.App, node string, u wire.UnknownContainer) error
	// Rebuilt is told that a node's own records are new: it numbers what it reports from the beginning.
	Rebuilt(tx core.App, node string) error
	// NodeStatus is told when a node went silent and when it is back.
	NodeStatus(tx core.App, node string, online bool) error
	// PlacedOn counts the servers that live on the node.
	PlacedOn(app core.App, node string) (int, error)
}

// Consumer-side views of the rooms that fleet uses.
type (
	// Sealer is secrets.Keeper.
	Sealer interface {
		Seal(tx core.App, scope string, ref secrets.Ref, plain []byte) (string, error)
		Open(app core.App, scope string, ref secrets.Ref, sealed string) ([]byte, error)
	}
	// Auditor is audit.Log.
	Auditor interface {
		Write(tx core.App, a audit.Actor, e audit.Entry) error
	}
	// Emitter is events.Outbox.
	Emitter interface {
		Emit(tx core.App, e events.Event) error
	}
	// Incidents is incidents.Book.
	Incidents interface {
		Open(tx core.App, i incidents.Incident) error
		Resolve(tx core.App, fingerprint, resolution string) error
	}
)

// Config of a Fleet.
type Config struct {
	Listen        string // default DefaultListen
	PublicAddress string // host or host:port that nodes dial; default: the listener's own address
	Secrets       Sealer
	Audit         Auditor
	Events        Emitter
	Incidents     Incidents
	Cluster       Cluster // default: this is the only instance
	Samples       Samples
	// Forget is called in the transaction that deletes a node, before its row goes: other rooms
	// remove what they hold of it (address pools, allocations). In order; an error keeps the node.
	Forget []func(tx core.App, node string) error
	Log    *slog.Logger // default: slog.Default()
}

// Fleet is safe for concurrent use.
type Fleet struct {
	app        core.App
	cfg        Config
	log        *slog.Logger
	placements Placements   // set before Start, immutable then
	peers      http.Handler // plain requests of other instances; set before Start, nil: none
	instance   string       // id of this run of the panel
	trust      atomic.Pointer[trust]
	links      *links
	presence   presence
	roster     roster
	suspects   suspects
	relays     relays
	distant    distant
	control    *http.Transport // to nodes by id, over control sessions, relayed when there is none here
	ownControl *http.Transport // the same over sessions of this instance only
	bulk       *http.Transport // to nodes by id, over bulk sessions
	calls      *http.Transport // to other instances by id
	poison     poison
	recheck    chan struct{} // capacity 1: the authority may have something to do
	work       group         // everything that runs on behalf of a connection

	mu       sync.Mutex
	cancel   context.CancelFunc // nil until Start
	stopped  bool
	listener net.Listener // nil until Start
	server   *http.Server
	wg       sync.WaitGroup
	started  time.Time       // silence is counted from here at the earliest
	ctx      context.Context // ends with Stop; nil until Start
}

// New checks the configuration. Nothing runs and nothing is written before Start or Authority.
func New(app core.App, cfg Config) (*Fleet, error) {
	if cfg.Secrets == nil || cfg.Audit == nil || cfg.Events == nil || cfg.Incidents == nil || cfg.Samples == nil {
		return nil, errors.New("fleet: Secrets, Audit, Events, Incidents and Samples are required")
	}
	if cfg.Listen == "" {
		cfg.Listen = DefaultListen
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Cluster == nil {
		cfg.Cluster = newAlone()
	}
	f := &Fleet{app: app, cfg: cfg, log: cfg.Log, instance: cfg.Cluster.ID(), links: newLinks(), presence: newPresence(), recheck: make(chan struct{}, 1)}
	to := func(dial func(context.Context, string) (net.Conn, error)) *http.Transport {
		return &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(addr) // "<node>:80"
			if err != nil {
				return nil, err
			}
			return dial(ctx, node)
		}}
	}
	f.control, f.ownControl, f.bulk = to(f.dialControl), to(f.openControl), to(f.dialBulk)
	f.calls = &http.Transport{DialTLSContext: f.dialCall, DisableCompression: true, MaxIdleConnsPerHost: maxIdleCalls, IdleConnTimeout: idleTimeout}
	cfg.Cluster.OnDead(f.forgetInstance)
	cfg.Cluster.Subscribe(topicRevoked, f.heardRevoked)
	cfg.Cluster.Subscribe(cluster.TopicAuthority, func(cluster.Message) { nudge(f.recheck) })
	return f, nil
}

// SetPlacements wires the servers room. It must be called before Start.
func (f *Fleet) SetPlacements(p Placements) { f.placements = p }

// SetPeerHandler sets what answers the plain requests of other instances (RoundTripper). They reach it
// as they were sent, whoever they say is asking: it has to check that itself. Before Start.
func (f *Fleet) SetPeerHandler(h http.Handler) { f.peers = h }

// Instance is the id of this run of the panel, as other instances know it.
func (f *Fleet) Instance() string { return f.instance }

// Prepare makes the authority, or reads it, which Start then need not: it may run beside what else a
// panel does until it listens.
func (f *Fleet) Prepare() error {
	if f.trust.Load() != nil {
		return nil
	}
	if err := f.ensureAuthority(time.Now()); err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	return nil
}

// Start makes the certificate authority on the first start, listens, and begins to watch. A second
// call does nothing.
func (f *Fleet) Start(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cancel != nil || f.stopped {
		return nil
	}
	if f.placements == nil {
		return errors.New("fleet: SetPlacements was not called")
	}
	if err := f.Prepare(); err != nil {
		return err
	}
	raw, err := new(net.ListenConfig).Listen(ctx, "tcp", f.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for nodes on %s: %w", f.cfg.Listen, err)
	}
	f.listener, f.started = raw, time.Now()
	ctx, f.cancel = context.WithCancel(ctx)
	f.ctx = ctx
	f.server = f.newServer(ctx)
	f.wg.Go(func() { f.serve(capConns(raw, maxConns, maxConnsPerAddress)) })
	f.wg.Go(func() { f.watch(ctx) })
	f.wg.Go(func() { f.keepPresence(ctx) })
	f.log.Info("nodes may connect", "listen", raw.Addr().String())
	return nil
}

// Addr is where nodes connect to, empty before Start.
func (f *Fleet) Addr() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listener == nil {
		return ""
	}
	return f.listener.Addr().String()
}

// running ends with Stop.
func (f *Fleet) running() context.Context {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx == nil {
		return context.Background()
	}
	return f.ctx
}

// Stop cuts every connection and waits for what runs. Games go on. It may be called twice.
func (f *Fleet) Stop() {
	f.mu.Lock()
	if f.stopped {
		f.mu.Unlock()
		return
	}
	f.stopped = true
	cancel, server := f.cancel, f.server
	f.mu.Unlock()
	if cancel != nil {
		cancel()
		if err := server.Close(); err != nil {
			f.log.Debug("close node listener", "error", err)
		}
	}
	f.links.closeAll()
	f.work.stop()
	f.wg.Wait()
	f.calls.CloseIdleConnections()
}

// watch marks silent nodes, cuts links whose certificate is no good any more, and renews our own
// certificates.
func (f *Fleet) watch(ctx context.Context) {
	sweep, authority, tidy := time.NewTicker(sweepEvery), time.NewTicker(authorityEvery), time.NewTicker(tidyEvery)
	defer sweep.Stop()
	defer authority.Stop()
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			if err := errors.Join(f.sweep(time.Now()), f.cutRevoked(time.Now())); err != nil {
				f.log.Error("look after nodes", "error", err)
			}
		case <-tidy.C:
			if err := f.tidy(time.Now()); err != nil {
				f.log.Error("look after the panel's instances", "error", err)
			}
		case <-f.recheck:
			if err := f.ensureAuthority(time.Now()); err != nil {
				f.log.Error("certificate authority", "error", err)
			}
		case <-authority.C:
			if err := errors.Join(f.ensureAuthority(time.Now()), f.reportEnding(time.Now())); err != nil {
				f.log.Error("certificate authority", "error", err)
			}
		}
	}
}

// group counts running work and lets Stop wait for it.
type group struct {
	mu      sync.Mutex
	stopped bool
	wg      sync.WaitGroup
}

// begin reports false when the fleet stops; else end must be called.
func (g *group) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.stopped {
		g.wg.Add(1)
	}
	return !g.stopped
}

func (g *group) end() { g.wg.Done() }

func (g *group) stop() {
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	g.wg.Wait()
}
