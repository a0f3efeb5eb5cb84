// Package agent runs the game servers of one node.
//
// It owns what happens to a server on its node: it takes the desired state in, writes it down, walks
// the container engine towards it, watches the game, answers crashes, keeps its console, and reports
// what it sees. It refuses to know why something is wished, and never stops a game because wings or
// the panel stops: what it finds running at start it re-attaches to.
//
// Its one invariant: whatever is killed whenever, a server has at most one game container, its data
// is removed only for a delete id, and the next look at engine and disk leads to the same place.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// DefaultUID and DefaultGID are who games run as when Config does not say.
const (
	DefaultUID = 988
	DefaultGID = 988
)

// Bounds of the agent as a whole.
const (
	sweepEvery   = time.Minute      // between two looks for containers that nobody knows
	stdinTimeout = 10 * time.Second // for one command to reach the game
	maxUnknown   = 10_000           // containers remembered as reported
	applyTries   = 3                // when a server is buried while its spec arrives
	maxLooks     = 16               // servers that ask the engine how they are at one time; others wait
)

// Reporter takes the agent's events; Seq is its own to give. An event is durable once Report
// returned nil; after an error the agent hands the then latest state over again later. It may be
// called concurrently and must not block for longer than a disk write.
type Reporter interface {
	Report(event wire.Event) error
}

// Config of an Agent.
type Config struct {
	Engine   engine.Engine
	Dir      string // of the agent's own state and the servers' data; absolute
	Reporter Reporter
	Render   Renderer // edits config files; required
	// Samples takes what the servers use, in windows of 30 s. nil: nothing is measured.
	Samples Recorder
	// PanelTime is what the panel's clock says, if that is known; windows are named by it. nil, or
	// while it is not known: this machine's clock.
	PanelTime func() (now time.Time, ok bool)
	Logger    *slog.Logger // default: slog.Default()
	UID, GID  int          // of games and installers; default 988, never 0
	// Dial reaches a readiness port. Default: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Agent is the node's set of servers. Its methods are safe for concurrent use.
type Agent struct {
	cfg    Config
	engine engine.Engine
	store  store
	own    owner
	log    *slog.Logger
	wg     sync.WaitGroup
	births chan struct{} // capacity 1: whoever makes a server, or answers for a buried one, holds it
	meters *sampler      // nil without Config.Samples
	looks  chan struct{} // capacity maxLooks: who asks the engine holds one

	mu       sync.Mutex
	servers  map[string]*server
	ctx      context.Context // of the program, not of any server; nil until Start
	cancel   context.CancelFunc
	stopped  bool
	reported map[string]bool // unknown containers, by id
	damaged  []string        // servers whose files could not be read; left alone
}

// errBuried ends a server's loop, and tells an intake that came too late to look again.
var errBuried = errors.New("agent: server was deleted")

// New checks the configuration and makes the agent's folder. Nothing runs before Start.
func New(cfg Config) (*Agent, error) {
	if cfg.Engine == nil || cfg.Reporter == nil || cfg.Render == nil {
		return nil, errors.New("agent: Engine, Reporter and Render are required")
	}
	if !strings.HasPrefix(cfg.Dir, "/") {
		return nil, fmt.Errorf("agent: Dir %q is not absolute", cfg.Dir)
	}
	if cfg.UID < 0 || cfg.GID < 0 {
		return nil, fmt.Errorf("agent: UID %d and GID %d must be > 0", cfg.UID, cfg.GID)
	}
	if cfg.UID == 0 {
		cfg.UID = DefaultUID
	}
	if cfg.GID == 0 {
		cfg.GID = DefaultGID
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	a := &Agent{cfg: cfg, engine: cfg.Engine, store: store{dir: cfg.Dir}, own: owner{cfg.UID, cfg.GID}, log: cfg.Logger,
		births: make(chan struct{}, 1), looks: make(chan struct{}, maxLooks), servers: map[string]*server{}, reported: map[string]bool{}}
	if err := a.store.open(); err != nil {
		return nil, err
	}
	if cfg.Samples != nil {
		a.meters = newSampler(a)
	}
	return a, nil
}

// Start restores every server that was ever accepted and goes on where the last run was killed:
// running games are attached to, games that should run and do not are started, with or without a
// panel or an engine. It returns once all of them have their goroutine. ctx ends the program, never
// a game. A second call does nothing.
func (a *Agent) Start(ctx context.Context) error {
	a.mu.Lock()
	if a.ctx != nil || a.stopped {
		a.mu.Unlock()
		return nil
	}
	a.ctx, a.cancel = context.WithCancel(ctx)
	ctx = a.ctx
	a.mu.Unlock()
	ids, err := a.store.ids()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := a.restore(id); err != nil {
			a.log.Error("a server cannot be restored and is left alone", "server", id, "error", err)
			a.mu.Lock()
			a.damaged = append(a.damaged, id)
			a.mu.Unlock()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return ErrStopped
	}
	a.wg.Go(func() { a.sweep(ctx) })
	if a.meters != nil {
		a.wg.Go(func() { a.meters.run(ctx) })
		a.wg.Go(func() { a.meters.measureDisks(ctx) })
	}
	return nil
}

// Stop ends wings and leaves games running. It returns when nothing of the agent runs any more.
func (a *Agent) Stop() {
	a.mu.Lock()
	a.stopped = true
	if a.cancel != nil {
		a.cancel()
	}
	a.mu.Unlock()
	a.wg.Wait()
}

func (a *Agent) restore(id string) error {
	spec, rec, err := a.store.load(id)
	if err != nil {
		return err
	}
	if t, ok := a.store.tombstone(id); ok && spec.PlacementEpoch > t.Observed.PlacementEpoch {
		if err := a.store.unbury(id); err != nil { // placed anew, killed before this
			return err
		}
	}
	s, err := a.newServer(id, spec, rec)
	if err != nil {
		return err
	}
	return a.adopt(s)
}

// adopt makes s known and starts its loop.
func (a *Agent) adopt(s *server) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped || a.ctx == nil {
		return ErrStopped
	}
	a.servers[s.id] = s
	ctx := a.ctx
	a.wg.Go(func() { s.loop(ctx) })
	return nil
}

// Apply takes the desired state of one server in. It returns once the spec is durable, with what is
// known of the server now; what it asks for happens afterwards. A spec that is not newer than the
// accepted one changes nothing. ErrInvalid, ErrSuperseded (an older epoch, or one that was deleted),
// ErrStopped; anything else is the disk.
func (a *Agent) Apply(ctx context.Context, spec wire.Spec) (wire.Observed, error) {
	if err := validate(&spec); err != nil {
		return wire.Observed{}, err
	}
	spec, err := clone(spec)
	if err != nil {
		return wire.Observed{}, err
	}
	for range applyTries {
		s, err := a.lookup(spec.ServerID)
		if errors.Is(err, ErrUnknown) {
			var o wire.Observed
			if s, o, err = a.bear(ctx, &spec); s == nil {
				return o, err
			}
		}
		if err != nil {
			return wire.Observed{}, err
		}
		o, err := s.accept(ctx, &spec)
		if !errors.Is(err, errBuried) {
			return o, err
		}
		a.drop(s)
	}
	return wire.Observed{}, fmt.Errorf("apply spec of server %s: %w", spec.ServerID, errBuried)
}

// clone makes a spec the agent's own: its maps and slices stay the caller's otherwise.
func clone(spec wire.Spec) (own wire.Spec, err error) {
	raw, err := json.Marshal(spec)
	if err == nil {
		err = json.Unmarshal(raw, &own)
	}
	if err != nil {
		return own, fmt.Errorf("copy spec of server %s: %w", spec.ServerID, err)
	}
	return own, nil
}

func (a *Agent) lookup(id string) (*server, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped || a.ctx == nil {
		return nil, ErrStopped
	}
	if s, ok := a.servers[id]; ok {
		return s, nil
	}
	return nil, ErrUnknown
}

// bear makes a server out of its first spec. A nil server means that a tombstone, or an error,
// answers for it.
func (a *Agent) bear(ctx context.Context, spec *wire.Spec) (*server, wire.Observed, error) {
	select {
	case a.births <- struct{}{}:
		defer func() { <-a.births }()
	case <-ctx.Done():
		return nil, wire.Observed{}, ctx.Err()
	}
	if s, err := a.lookup(spec.ServerID); !errors.Is(err, ErrUnknown) {
		return s, wire.Observed{}, err // somebody was quicker
	}
	t, buried := a.store.tombstone(spec.ServerID)
	if buried && spec.PlacementEpoch <= t.Observed.PlacementEpoch {
		o, err := a.epitaph(t, spec)
		return nil, o, err
	}
	if err := a.store.saveSpec(spec); err != nil {
		return nil, wire.Observed{}, fmt.Errorf("accept spec of server %s: %w", spec.ServerID, err)
	}
	if buried {
		if err := a.store.unbury(spec.ServerID); err != nil {
			return nil, wire.Observed{}, err
		}
	}
	spec, rec, err := a.store.load(spec.ServerID)
	if err != nil {
		return nil, wire.Observed{}, err
	}
	s, err := a.newServer(spec.ServerID, spec, rec)
	if err != nil {
		return nil, wire.Observed{}, err
	}
	return s, wire.Observed{}, a.adopt(s)
}

// epitaph answers for a deleted server: a repeated absence gets the same answer, under whatever
// delete id it asks; anything else of that epoch came too late. a.births is held.
func (a *Agent) epitaph(t *tombstone, spec *wire.Spec) (wire.Observed, error) {
	o := &t.Observed
	if spec.Desired != wire.DesiredAbsent || (spec.PlacementEpoch < o.PlacementEpoch && spec.DeleteID != o.DeleteID) {
		return wire.Observed{}, fmt.Errorf("server %s was deleted at epoch %d: %w", spec.ServerID, o.PlacementEpoch, ErrSuperseded)
	}
	if spec.PlacementEpoch == o.PlacementEpoch && spec.Generation > o.Generation {
		o.Generation, o.DeleteID, o.At = spec.Generation, spec.DeleteID, time.Now().UTC().Round(0)
		o.Revision++
		t.Reported = false
		if err := a.store.bury(t); err != nil {
			return wire.Observed{}, err
		}
		a.reportTombstone(t)
	}
	return *o, nil
}

// buried is called by a server's loop as its last act; the server's intake is held.
func (a *Agent) buried(s *server, t *tombstone) {
	a.drop(s)
	a.meters.buried(s.id, time.Now())
	a.reportTombstone(t)
}

func (a *Agent) drop(s *server) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.servers[s.id] == s {
		delete(a.servers, s.id)
	}
}

// reportTombstone tells that a server is gone; the sweep tries again what was refused.
func (a *Agent) reportTombstone(t *tombstone) {
	o := t.Observed
	if err := a.cfg.Reporter.Report(wire.Event{At: o.At, Kind: wire.EventObserved, Observed: &o}); err != nil {
		a.log.Warn("report was refused", "server", o.ServerID, "error", err)
		return
	}
	t.Reported = true
	if err := a.store.bury(t); err != nil {
		a.log.Warn("mark a tombstone as reported", "server", o.ServerID, "error", err)
	}
}

// Sync applies every spec and returns all that the node knows. A spec that is refused does not keep
// the others back: the error joins what was refused. Servers that the node has and the sync does not
// name are reported as unknown, once, and left as they are.
func (a *Agent) Sync(ctx context.Context, sync wire.Sync) (wire.SyncReply, error) {
	var errs []error
	named := map[string]bool{}
	for i := range sync.Specs {
		named[sync.Specs[i].ServerID] = true
		if _, err := a.Apply(ctx, sync.Specs[i]); err != nil {
			errs = append(errs, fmt.Errorf("server %s: %w", sync.Specs[i].ServerID, err))
		}
	}
	for _, s := range a.all() {
		if o := s.observed(); !named[s.id] {
			a.reportUnknown(wire.UnknownContainer{ServerID: s.id, ContainerID: o.ContainerID, Running: s.running()})
		}
	}
	reply, err := a.List()
	return reply, errors.Join(append(errs, err)...)
}

// List returns what the node knows of every server, those it has deleted included, ordered by id.
func (a *Agent) List() (wire.SyncReply, error) {
	known := map[string]wire.Observed{}
	tombs, err := a.store.tombstones(time.Now())
	for _, t := range tombs {
		known[t.Observed.ServerID] = t.Observed
	}
	for _, s := range a.all() {
		known[s.id] = s.observed()
	}
	reply := wire.SyncReply{Observed: make([]wire.Observed, 0, len(known))}
	for _, o := range known {
		reply.Observed = append(reply.Observed, o)
	}
	sort.Slice(reply.Observed, func(i, j int) bool { return reply.Observed[i].ServerID < reply.Observed[j].ServerID })
	return reply, err
}

// Get returns what the node knows of one server, also when it has deleted it. ErrUnknown.
func (a *Agent) Get(id string) (wire.Observed, error) {
	s, err := a.lookup(id)
	if err == nil {
		return s.observed(), nil
	}
	if t, ok := a.store.tombstone(id); errors.Is(err, ErrUnknown) && wire.ValidID(id) && ok {
		return t.Observed, nil
	}
	return wire.Observed{}, err
}

// Watch opens a viewer of a server's console that has seen every line up to after (0: none). Close
// it. ErrUnknown, ErrTooMany.
func (a *Agent) Watch(id string, after int64) (*Viewer, error) {
	s, err := a.lookup(id)
	if err != nil {
		return nil, err
	}
	return s.console.watch(after)
}

func (a *Agent) all() []*server {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]*server, 0, len(a.servers))
	for _, s := range a.servers {
		all = append(all, s)
	}
	return all
}

// sweep looks for what no event tells: containers that nobody knows, games that were started or
// removed behind our back, tombstones that were never reported.
func (a *Agent) sweep(ctx context.Context) {
	for {
		if err := a.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("sweep", "error", err)
		}
		if sleep(ctx, sweepEvery) != nil {
			return
		}
	}
}

func (a *Agent) sweepOnce(ctx context.Context) error {
	tombs, err := a.store.tombstones(time.Now())
	for _, t := range tombs {
		if !t.Reported {
			a.reportTombstone(t)
		}
	}
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	containers, lerr := a.engine.List(cctx, OpList)
	if lerr != nil {
		return errors.Join(err, fmt.Errorf("list containers: %w", lerr))
	}
	runs := map[string]bool{}
	for _, c := range containers {
		if c.Role == engine.RoleGame && c.Running {
			runs[c.ServerID] = true
		}
		if s, _ := a.lookup(c.ServerID); s == nil {
			a.reportUnknown(wire.UnknownContainer{ServerID: c.ServerID, ContainerID: c.ID, Running: c.Running})
		}
	}
	for _, s := range a.all() {
		if s.running() != runs[s.id] {
			s.wake()
		}
	}
	return err
}

// reportUnknown tells of a container once per run of wings, and leaves it alone.
func (a *Agent) reportUnknown(u wire.UnknownContainer) {
	key := u.ServerID + "/" + u.ContainerID
	a.mu.Lock()
	known := a.reported[key] || len(a.reported) >= maxUnknown
	a.reported[key] = true
	a.mu.Unlock()
	if known {
		return
	}
	if err := a.cfg.Reporter.Report(wire.Event{At: time.Now().UTC(), Kind: wire.EventUnknown, Unknown: &u}); err != nil {
		a.mu.Lock()
		delete(a.reported, key)
		a.mu.Unlock()
		a.log.Warn("report was refused", "server", u.ServerID, "error", err)
	}
}
