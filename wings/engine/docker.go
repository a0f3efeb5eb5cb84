package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/client"
)

// DefaultNetworkPool is carved into one /24 per tenant: 1,024 tenants on a node.
var DefaultNetworkPool = netip.MustParsePrefix("172.28.0.0/14")

// DefaultPullTimeout bounds one pull: a 20 GB image takes 27 min at 100 Mbit/s.
const DefaultPullTimeout = 30 * time.Minute

// subnetBits is the prefix length of one tenant's network: a bridge address and 253 containers, which
// is more than one tenant has on one machine. What does not fit cannot start.
const subnetBits = 24

// Config of a Docker engine.
type Config struct {
	// Host is the API's address, e.g. "unix:///run/docker.sock". Default: DOCKER_HOST and the other
	// variables of the docker command line, else its default socket.
	Host string
	// NodeLabel is the value of LabelNode on all that this daemon makes, and what List looks for.
	// Required.
	NodeLabel string
	// NetworkPool is where tenants' subnets come from: IPv4, /24 or wider. Default:
	// DefaultNetworkPool.
	NetworkPool netip.Prefix
	// BuiltinBinary is the path of the static binary that becomes /wings in the "demo" image.
	// Default: none, and the image is unavailable.
	BuiltinBinary string
	// PullTimeout bounds one pull. Default: DefaultPullTimeout.
	PullTimeout time.Duration
	// Logger takes the engine's warnings. Default: slog.Default.
	Logger *slog.Logger
}

// Docker is an Engine on the Docker Engine API (1.40 and newer). It keeps no state of the engine:
// a dockerd that was away is used again as soon as it answers.
type Docker struct {
	cfg Config
	cli *client.Client
	// fresh opens a connection for each request. A dockerd that ends stops listening first and goes
	// on answering on connections that are open: only a new one tells that it stays.
	fresh *client.Client
	log   *slog.Logger

	life     context.Context // ends at Close; pulls run under it, because they outlive their callers
	end      context.CancelFunc
	work     sync.WaitGroup // pulls and log readers
	firewall sync.Mutex     // serialises the replacing of our table
	netMu    sync.Mutex     // serialises the making and removing of networks; held over calls, see network
	mu       sync.Mutex     // guards all below; never held over a call
	closed   bool
	flights  map[string]*flight // by image name: pulls that callers share
	warned   map[string]bool    // at most maxWarned
	builtin  builtinDigest
}

var _ Engine = (*Docker)(nil)

// NewDocker checks cfg and makes the client. It does not talk to the engine: Info says whether it
// is there.
func NewDocker(cfg Config) (*Docker, error) {
	if cfg.NodeLabel == "" {
		return nil, errors.New("engine: Config.NodeLabel is empty")
	}
	if !cfg.NetworkPool.IsValid() {
		cfg.NetworkPool = DefaultNetworkPool
	}
	if !cfg.NetworkPool.Addr().Is4() || cfg.NetworkPool.Bits() > subnetBits {
		return nil, fmt.Errorf("engine: network pool %s is not IPv4 of at least a /%d", cfg.NetworkPool, subnetBits)
	}
	cfg.NetworkPool = cfg.NetworkPool.Masked()
	if cfg.PullTimeout <= 0 {
		cfg.PullTimeout = DefaultPullTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	opts := []client.Opt{client.FromEnv, client.WithUserAgent("mamba-wings")}
	if cfg.Host != "" {
		opts = append(opts, client.WithHost(cfg.Host))
	}
	cli, err := client.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("engine: make a Docker client: %w", err)
	}
	fresh, err := client.New(append(opts, client.WithHTTPHeaders(map[string]string{"Connection": "close"}))...)
	if err != nil {
		return nil, fmt.Errorf("engine: make a Docker client without keep-alive: %w", err)
	}
	life, end := context.WithCancel(context.Background())
	return &Docker{
		cfg: cfg, cli: cli, fresh: fresh, log: cfg.Logger, life: life, end: end, flights: map[string]*flight{},
		warned: map[string]bool{},
	}, nil
}

// Info implements Engine.
func (d *Docker) Info(ctx context.Context, _ string) (Info, error) {
	res, err := d.cli.Info(ctx, client.InfoOptions{})
	if err != nil {
		return Info{}, fmt.Errorf("ask the engine who it is: %w", err)
	}
	info := Info{
		Name: "docker", Version: res.Info.ServerVersion, CPUs: res.Info.NCPU, MemMiB: res.Info.MemTotal >> 20,
	}
	if !res.Info.LiveRestoreEnabled {
		info.Warnings = append(info.Warnings,
			"live-restore is off: restarting or upgrading dockerd stops every game")
	}
	if !slices.ContainsFunc(res.Info.SecurityOptions, isSeccomp) {
		info.Warnings = append(info.Warnings,
			"no seccomp profile: games can make system calls that Docker normally refuses")
	}
	// What the kernel cannot limit, in dockerd's own words. userland-proxy is not among them and
	// not in the API at all: a foreign engine that has it on (two processes per published port)
	// cannot be told from one that has not.
	info.Warnings = append(info.Warnings, res.Info.Warnings...)
	return info, nil
}

func isSeccomp(option string) bool {
	return option == "name=seccomp" || len(option) > 13 && option[:13] == "name=seccomp,"
}

// Close ends the pulls and log streams of this client and waits for them. Containers are not
// touched. It may be called twice.
func (d *Docker) Close() error {
	d.mu.Lock()
	already := d.closed
	d.closed = true
	d.mu.Unlock()
	d.end()
	d.work.Wait()
	if already {
		return nil
	}
	return errors.Join(d.cli.Close(), d.fresh.Close())
}

// maxWarned bounds what warnOnce remembers; the kernel's missing features are fewer than ten.
const maxWarned = 64

// warnOnce logs what the engine says of a container's settings. It says it of each container anew.
func (d *Docker) warnOnce(warning string) {
	d.mu.Lock()
	again := d.warned[warning] || len(d.warned) >= maxWarned
	if !again {
		d.warned[warning] = true
	}
	d.mu.Unlock()
	if !again {
		d.log.Warn("the engine cannot keep a setting of its containers", "warning", warning)
	}
}

// spawn runs f under the engine's own life, unless that is over.
func (d *Docker) spawn(f func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	d.work.Go(f)
	return nil
}

var errClosed = errors.New("engine: client is closed")
