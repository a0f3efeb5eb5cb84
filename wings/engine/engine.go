// Package engine runs containers for wings through one small interface.
//
// It owns everything that is particular to a container engine: how limits, users, networks and
// ports are expressed, how an image is pulled or made, how a log is read. It refuses to decide when
// anything should happen: that is wings/agent's work.
//
// Its one invariant: every method may be called again after its reply was lost. It asks the engine
// first, and acts by name, so that the same call twice leaves one container, one network, one image.
package engine

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// Labels that every object of ours carries, so that a sweep can adopt or report it.
const (
	LabelServer = "host.mamba.server" // server id
	LabelTenant = "host.mamba.tenant" // tenant id
	LabelEpoch  = "host.mamba.epoch"  // placement epoch
	LabelRole   = "host.mamba.role"   // RoleGame or RoleInstall
	LabelSpec   = "host.mamba.spec"   // ContainerSpec.Hash of what was asked for
	LabelNode   = "host.mamba.node"   // which daemon made it (several may share one engine in tests)
)

// Role of a container.
type Role string

const (
	RoleGame    Role = "game"
	RoleInstall Role = "install"
)

// Errors that callers decide on. Everything else is the engine being unwell: retry with backoff.
var (
	ErrNotFound         = errors.New("engine: no such object")
	ErrImageUnavailable = errors.New("engine: image is not on the node and cannot be had") // permanent until something changes
	ErrPortTaken        = errors.New("engine: a published port is taken by something else")
	ErrConflict         = errors.New("engine: the name is taken by a container of another spec")
	ErrNotRunning       = errors.New("engine: container is not running")
	ErrNoSubnet         = errors.New("engine: the network pool is used up")
)

// Engine is a container engine. The op label of each method names the effect for fault injection
// and tracing ("engine.create"); implementations must not interpret it otherwise. All methods
// honour ctx and are safe for concurrent use.
type Engine interface {
	// Info asks the engine who it is. An error means that it is away.
	Info(ctx context.Context, op string) (Info, error)

	// EnsureImage makes the image available: as it is if a local image of that name exists, else
	// made (Builtin), else pulled, with progress (percent −1 when unknown). Concurrent calls for
	// one image share one pull. ErrImageUnavailable when the registry says no or is out of reach.
	EnsureImage(ctx context.Context, op string, image wire.Image, progress func(percent int, message string)) (imageID string, err error)

	// EnsureNetwork makes the tenant's private network on first use and returns its name.
	// ErrNoSubnet when the pool has no subnet left.
	EnsureNetwork(ctx context.Context, op string, tenant string) (name string, err error)
	// RemoveNetworkIfUnused removes it when no container of ours is on it; otherwise does nothing.
	RemoveNetworkIfUnused(ctx context.Context, op string, tenant string) error

	// Create makes the container of spec without starting it. If one of that name exists with the
	// same spec hash its id is returned; with another hash ErrConflict.
	Create(ctx context.Context, op string, spec ContainerSpec) (id string, err error)
	// Start starts it. Starting a running container is not an error. ErrPortTaken, ErrNotFound.
	Start(ctx context.Context, op string, id string) error
	// Signal sends a signal ("SIGTERM", "SIGKILL"). ErrNotRunning when there is no process.
	Signal(ctx context.Context, op string, id string, signal string) error
	// Remove removes it, killing it first if need be. Removing what is not there is not an error.
	Remove(ctx context.Context, op string, id string) error

	// Inspect looks a container up by id or name. ErrNotFound.
	Inspect(ctx context.Context, op string, idOrName string) (Container, error)
	// List returns every container that carries LabelServer and this daemon's LabelNode.
	List(ctx context.Context, op string) ([]Container, error)

	// Stats reads what a running container has used since it started, once and at once. It says
	// which run that was. ErrNotRunning when there is no process, or when the run ended while it was
	// asked (some engines then tell zeros); ErrNotFound.
	Stats(ctx context.Context, op string, id string) (Stats, error)

	// Wait blocks until the container is not running and says how it ended; at once if it is not. An
	// error when the engine went away or is just going: an engine without live-restore takes its
	// games along, and that is no crash of theirs.
	Wait(ctx context.Context, op string, id string) (Exit, error)
	// Logs follows the container's output from (not including) after, each line with the engine's
	// time stamp. A zero after means from the beginning. The channel is closed when the container
	// ends and everything was read, or ctx ends; then Err says why. Lines are split at
	// wire.MaxConsoleLineBytes.
	Logs(ctx context.Context, op string, id string, after time.Time) (*LogStream, error)
	// Stdin opens the container's input. Writes go to the game; closing it detaches and leaves the
	// game's own input open. ErrNotRunning.
	Stdin(ctx context.Context, op string, id string) (io.WriteCloser, error)

	Close() error
}

// Info of an engine.
type Info struct {
	Name    string // "docker"
	Version string
	CPUs    int
	MemMiB  int64
	// Warnings are settings of an engine that is not ours which cost or endanger something, e.g.
	// live-restore off (a daemon upgrade would stop games).
	Warnings []string
}

// ContainerSpec is all that decides how a container is made.
type ContainerSpec struct {
	Name      string // "mh-<server id>" or "mh-<server id>-install"
	ServerID  string
	TenantID  string
	Epoch     int64
	Role      Role
	ImageID   string // as returned by EnsureImage
	Command   []string
	Env       map[string]string
	WorkDir   string
	DataDir   string // on the node, mounted read-write at WorkDir
	ScriptDir string // on the node, mounted read-only at /mnt/install; empty: none
	Network   string // as returned by EnsureNetwork; empty: no network at all
	Ports     []wire.Port
	Limits    wire.Limits
	UID, GID  int  // never 0
	Stdin     bool // keep stdin open
}

// Container is what the engine says of one.
type Container struct {
	ID        string
	Name      string
	ServerID  string
	TenantID  string
	Epoch     int64
	Role      Role
	SpecHash  string
	Running   bool
	StartedAt time.Time // zero: never started
	Exit      Exit      // of the last run, when not running and started before
}

// Stats is what one run of a container has used. Counters begin at 0 with each run and only grow.
type Stats struct {
	StartedAt   time.Time // of the run, as Container.StartedAt
	CPUNS       int64     // processor time of all cores together, ns
	MemoryBytes int64     // now, without page cache that the kernel can take back at once
	NetInBytes  int64     // over all its interfaces; 0 without a network
	NetOutBytes int64
}

// Exit says how a run ended.
type Exit struct {
	Code      int
	OOMKilled bool
	At        time.Time
	Reason    string // the engine's words, when it could not start
}

// LogLine is one line of output.
type LogLine struct {
	At   time.Time // the engine's, with nanoseconds; grows within one container
	Text string    // no line end
}

// LogStream is a followed log. Err is valid once C is closed.
type LogStream struct {
	C   <-chan LogLine
	Err func() error
}
