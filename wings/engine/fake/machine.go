// Package fake is an engine with behaviour: images that take their time, containers that run a Go
// function as their game, ports, networks, and faults at every op label.
//
// It owns a machine's containers in memory. It refuses to touch anything outside: no network, no
// files, no clock but package time, so that it runs inside a testing/synctest bubble.
//
// Its one invariant: what engine/enginetest holds for a real engine holds for it; the suite runs
// against both.
package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// Defaults and limits of a machine.
const (
	DefaultSubnets = 1024      // /24s in a /14
	maxLogLines    = 50_000    // per container; then the older half goes, as a real log's ring turns
	maxCalls       = 1_000_000 // recorded for Calls
)

// ErrAway is what every call answers while the engine is away. It is none of package engine's
// sentinels: to a caller the engine is unwell.
var ErrAway = errors.New("fake: the engine is away")

// Config of a machine.
type Config struct {
	CPUs    int   // default 8
	MemMiB  int64 // default 32,768
	Subnets int   // networks in the pool; default DefaultSubnets
}

// Machine is a node's engine with its containers. It outlives the daemons that connect to it, as a
// dockerd does. Make it inside the bubble in which it is used.
type Machine struct {
	cfg  Config
	work sync.WaitGroup // games, pulls and log streams

	mu         sync.Mutex // guards all below; never held while a game, hook or timer runs
	away       bool
	broken     chan struct{} // closed when streams break: engine restarted or away
	images     map[string]*image
	containers map[string]*box   // by id
	networks   map[string]bool   // by name
	ports      map[hostPort]bool // held by what is no container
	faults     []*armed
	counts     map[string]int // calls so far, by op
	calls      []string
	serial     int // makes ids
}

// Image is how an image behaves.
type Image struct {
	Present     bool          // on the machine from the start
	Unavailable bool          // the registry says no
	PullTime    time.Duration // how long a pull takes; progress comes at each tenth
	Game        Game          // what its containers run; nil: ends at once with 0
	Load        Load          // what they use until they say otherwise
}

type image struct {
	Image
	id   string
	pull chan struct{} // closed when the running pull ends; nil: none runs
}

// hostPort is one address that can be listened on.
type hostPort struct {
	ip    string
	port  int
	proto wire.Protocol
}

// clashes reports whether both cannot be listened on at once.
func (p hostPort) clashes(q hostPort) bool {
	everywhere := func(ip string) bool { return ip == "0.0.0.0" || ip == "::" }
	return p.port == q.port && p.proto == q.proto && (p.ip == q.ip || everywhere(p.ip) || everywhere(q.ip))
}

// New machine without images.
func New(cfg Config) *Machine {
	if cfg.CPUs == 0 {
		cfg.CPUs = 8
	}
	if cfg.MemMiB == 0 {
		cfg.MemMiB = 32 << 10
	}
	if cfg.Subnets == 0 {
		cfg.Subnets = DefaultSubnets
	}
	return &Machine{
		cfg: cfg, broken: make(chan struct{}), images: map[string]*image{}, containers: map[string]*box{},
		networks: map[string]bool{}, ports: map[hostPort]bool{}, counts: map[string]int{},
	}
}

// Engine is a connection to the machine for the daemon with that node label. Closing it ends its
// streams and leaves the containers.
func (m *Machine) Engine(node string) engine.Engine {
	life, end := context.WithCancel(context.Background())
	return &client{m: m, node: node, life: life, end: end}
}

// Close kills every container and waits for all games and streams.
func (m *Machine) Close() {
	m.mu.Lock()
	for _, b := range m.containers {
		b.end(engine.Exit{Code: codeKilled})
	}
	m.breakStreams()
	m.mu.Unlock()
	m.work.Wait()
}

// SetImage says how the image of that name behaves: a wire.Image's Ref, or "builtin:" and its
// Builtin.
func (m *Machine) SetImage(name string, behaviour Image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.images[name] = &image{Image: behaviour, id: "sha256:" + name}
}

// imageName is the key of SetImage.
func imageName(i wire.Image) string {
	if i.Builtin != "" {
		return "builtin:" + i.Builtin
	}
	return i.Ref
}

// SetAway makes the engine stop answering, or answer again. Open streams break; games go on.
func (m *Machine) SetAway(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
	if away {
		m.breakStreams()
	}
}

// RestartEngine breaks every stream, as a dockerd that ends does. Without live restore all games
// end with it.
func (m *Machine) RestartEngine(liveRestore bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.breakStreams()
	if liveRestore {
		return
	}
	for _, b := range m.containers {
		b.end(engine.Exit{Code: codeKilled})
	}
}

// breakStreams is called with mu held.
func (m *Machine) breakStreams() {
	close(m.broken)
	m.broken = make(chan struct{})
}

// TakePort makes something that is no container listen on a port; the result frees it.
func (m *Machine) TakePort(ip string, port int, proto wire.Protocol) (free func()) {
	key := hostPort{ip, port, proto}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ports[key] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.ports, key)
	}
}

// Networks that exist, sorted.
func (m *Machine) Networks() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.networks {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Process of a running container by id or name, for a test that plays a part of the game itself.
func (m *Machine) Process(idOrName string) (*Process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.find(idOrName)
	if b == nil {
		return nil, fmt.Errorf("process of %s: %w", idOrName, engine.ErrNotFound)
	}
	if b.process == nil {
		return nil, fmt.Errorf("process of %s: %w", idOrName, engine.ErrNotRunning)
	}
	return b.process, nil
}

// find is called with mu held.
func (m *Machine) find(idOrName string) *box {
	if b := m.containers[idOrName]; b != nil {
		return b
	}
	for _, b := range m.containers {
		if b.spec.Name == idOrName {
			return b
		}
	}
	return nil
}

// DropNetwork removes a network behind everybody's back.
func (m *Machine) DropNetwork(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.networks, name)
}
