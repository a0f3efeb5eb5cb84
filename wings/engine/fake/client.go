package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// client is one daemon's connection to a machine.
type client struct {
	m    *Machine
	node string
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup // log streams
}

var errClosed = errors.New("fake: client is closed")

// pullSteps is how often a pull reports progress.
const pullSteps = 10

func (c *client) Close() error {
	c.end()
	c.work.Wait()
	return nil
}

func (c *client) Info(ctx context.Context, op string) (engine.Info, error) {
	err := c.m.effect(ctx, op, func() error { return nil })
	if err != nil {
		return engine.Info{}, err
	}
	return engine.Info{Name: "fake", Version: "1", CPUs: c.m.cfg.CPUs, MemMiB: c.m.cfg.MemMiB}, nil
}

func (c *client) EnsureImage(ctx context.Context, op string, want wire.Image, progress func(int, string)) (string, error) {
	active, err := c.m.enter(ctx, op)
	if err != nil {
		return "", err
	}
	id, err := c.m.ensureImage(ctx, imageName(want), progress)
	if err := c.m.leave(ctx, op, active, err); err != nil {
		return "", err
	}
	return id, nil
}

// ensureImage pulls in the caller's goroutine; who comes meanwhile waits for that pull, and takes
// over when its caller gave up.
func (m *Machine) ensureImage(ctx context.Context, name string, progress func(int, string)) (string, error) {
	for {
		m.mu.Lock()
		img := m.images[name]
		if img == nil || img.Unavailable {
			m.mu.Unlock()
			return "", fmt.Errorf("image %q: %w", name, engine.ErrImageUnavailable)
		}
		if img.Present {
			m.mu.Unlock()
			return img.id, nil
		}
		running, broken := img.pull, m.broken
		if running == nil {
			img.pull = make(chan struct{})
		}
		m.mu.Unlock()
		if running != nil {
			select {
			case <-running:
				continue
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		err := pull(ctx, img.PullTime, broken, progress)
		m.mu.Lock()
		img.Present = err == nil
		close(img.pull)
		img.pull = nil
		m.mu.Unlock()
		if err != nil {
			return "", err
		}
	}
}

func pull(ctx context.Context, took time.Duration, broken <-chan struct{}, progress func(int, string)) error {
	for step := range pullSteps {
		if progress != nil {
			progress(step*100/pullSteps, "Downloading")
		}
		timer := time.NewTimer(took / pullSteps)
		select {
		case <-timer.C:
		case <-broken:
			timer.Stop()
			return ErrAway
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
	return nil
}

func (c *client) EnsureNetwork(ctx context.Context, op, tenant string) (string, error) {
	name := "mh-net-" + tenant
	err := c.m.effect(ctx, op, func() error {
		if !c.m.networks[name] && len(c.m.networks) >= c.m.cfg.Subnets {
			return engine.ErrNoSubnet
		}
		c.m.networks[name] = true
		return nil
	})
	if err != nil {
		return "", err
	}
	return name, nil
}

func (c *client) RemoveNetworkIfUnused(ctx context.Context, op, tenant string) error {
	name := "mh-net-" + tenant
	return c.m.effect(ctx, op, func() error {
		for _, b := range c.m.containers {
			if b.spec.Network == name {
				return nil
			}
		}
		delete(c.m.networks, name)
		return nil
	})
}

func (c *client) Create(ctx context.Context, op string, spec engine.ContainerSpec) (string, error) {
	var id string
	err := c.m.effect(ctx, op, func() error {
		for _, b := range c.m.containers {
			if b.spec.Name != spec.Name {
				continue
			}
			if b.spec.Hash() != spec.Hash() || b.node != c.node {
				return fmt.Errorf("%s: %w", spec.Name, engine.ErrConflict)
			}
			id = b.id
			return nil
		}
		if err := checkSpec(spec); err != nil {
			return err
		}
		var game Game
		var load Load
		found := false
		for _, img := range c.m.images {
			if img.id == spec.ImageID && img.Present {
				game, load, found = img.Game, img.Load, true
			}
		}
		if !found {
			return fmt.Errorf("%s: %w", spec.ImageID, engine.ErrImageUnavailable)
		}
		c.m.serial++
		id = fmt.Sprintf("%064x", c.m.serial)
		c.m.containers[id] = &box{machine: c.m, id: id, node: c.node, spec: spec, game: game, load: load, changed: make(chan struct{})}
		return nil
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// checkSpec refuses what engine.Docker refuses.
func checkSpec(spec engine.ContainerSpec) error {
	switch {
	case spec.UID <= 0 || spec.GID <= 0:
		return errors.New("games never run as root")
	case spec.Role == engine.RoleInstall && len(spec.Ports) > 0:
		return errors.New("an install container publishes no ports")
	case len(spec.Command) == 0:
		return errors.New("the command is empty")
	case spec.Limits.MemoryMiB <= 0 || spec.Limits.CPUMillicores <= 0 || spec.Limits.PIDs <= 0:
		return errors.New("memory, cpu and pids must be limited")
	}
	for _, p := range spec.Ports {
		if p.HostIP == "" {
			return fmt.Errorf("port %s has no host address", p.Name)
		}
	}
	return nil
}

func (c *client) Start(ctx context.Context, op, id string) error {
	return c.m.effect(ctx, op, func() error {
		b := c.m.find(id)
		if b == nil {
			return engine.ErrNotFound
		}
		if b.process != nil {
			return nil
		}
		if b.spec.Network != "" {
			c.m.networks[b.spec.Network] = true // made again when it is gone
		}
		for _, p := range b.spec.Ports {
			if c.m.portHeld(hostPort{p.HostIP, p.HostPort, p.Protocol}) {
				b.exit = engine.Exit{Code: 128, Reason: "port is already allocated"}
				return fmt.Errorf("%s:%d/%s: %w", p.HostIP, p.HostPort, p.Protocol, engine.ErrPortTaken)
			}
		}
		b.start()
		return nil
	})
}

// portHeld is called with mu held.
func (m *Machine) portHeld(want hostPort) bool {
	for held := range m.ports {
		if want.clashes(held) {
			return true
		}
	}
	for _, b := range m.containers {
		if b.process == nil {
			continue
		}
		for _, p := range b.spec.Ports {
			if want.clashes(hostPort{p.HostIP, p.HostPort, p.Protocol}) {
				return true
			}
		}
	}
	return false
}

func (c *client) Signal(ctx context.Context, op, id, signal string) error {
	return c.m.effect(ctx, op, func() error {
		b := c.m.find(id)
		if b == nil {
			return engine.ErrNotFound
		}
		if b.process == nil {
			return engine.ErrNotRunning
		}
		b.process.signal(signal)
		return nil
	})
}

func (c *client) Remove(ctx context.Context, op, id string) error {
	return c.m.effect(ctx, op, func() error {
		b := c.m.find(id)
		if b == nil {
			return nil
		}
		b.end(engine.Exit{Code: codeKilled})
		b.removed = true
		b.notify()
		delete(c.m.containers, b.id)
		return nil
	})
}

func (c *client) Inspect(ctx context.Context, op, idOrName string) (engine.Container, error) {
	var found engine.Container
	err := c.m.effect(ctx, op, func() error {
		b := c.m.find(idOrName)
		if b == nil {
			return fmt.Errorf("%s: %w", idOrName, engine.ErrNotFound)
		}
		found = b.describe()
		return nil
	})
	if err != nil {
		return engine.Container{}, err
	}
	return found, nil
}

func (c *client) List(ctx context.Context, op string) ([]engine.Container, error) {
	var found []engine.Container
	err := c.m.effect(ctx, op, func() error {
		for _, b := range c.m.containers {
			if b.node == c.node {
				found = append(found, b.describe())
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b engine.Container) int { return strings.Compare(a.ID, b.ID) })
	return found, nil
}

func (c *client) Stats(ctx context.Context, op, id string) (engine.Stats, error) {
	var found engine.Stats
	err := c.m.effect(ctx, op, func() error {
		b := c.m.find(id)
		if b == nil {
			return engine.ErrNotFound
		}
		if b.process == nil {
			return engine.ErrNotRunning
		}
		found = b.process.stats(time.Now())
		return nil
	})
	if err != nil {
		return engine.Stats{}, err
	}
	return found, nil
}

func (c *client) Wait(ctx context.Context, op, id string) (engine.Exit, error) {
	active, err := c.m.enter(ctx, op)
	if err != nil {
		return engine.Exit{}, err
	}
	exit, err := c.wait(ctx, id)
	if err := c.m.leave(ctx, op, active, err); err != nil {
		return engine.Exit{}, err
	}
	return exit, nil
}

func (c *client) wait(ctx context.Context, id string) (engine.Exit, error) {
	c.m.mu.Lock()
	b := c.m.find(id)
	if b == nil {
		c.m.mu.Unlock()
		return engine.Exit{}, engine.ErrNotFound
	}
	run, exit := b.process, b.exit
	broken := c.m.broken
	c.m.mu.Unlock()
	if run == nil {
		return exit, nil
	}
	select {
	case <-run.done:
	case <-ctx.Done():
		return engine.Exit{}, ctx.Err()
	case <-c.life.Done():
		return engine.Exit{}, errClosed
	case <-broken:
		return engine.Exit{}, ErrAway
	}
	select {
	case <-broken: // the engine took the game along: as with dockerd, that is not told as an exit
		return engine.Exit{}, ErrAway
	default:
		return run.exit, nil
	}
}

func (c *client) Logs(ctx context.Context, op, id string, after time.Time) (*engine.LogStream, error) {
	active, err := c.m.enter(ctx, op)
	if err != nil {
		return nil, err
	}
	c.m.mu.Lock()
	b := c.m.find(id)
	if b == nil {
		err = engine.ErrNotFound
	} else if c.life.Err() != nil {
		err = errClosed
	}
	var run *Process
	if err == nil {
		run = b.process
	}
	broken := c.m.broken
	c.m.mu.Unlock()
	if err := c.m.leave(ctx, op, active, err); err != nil {
		return nil, err
	}
	out := make(chan engine.LogLine)
	var ended error // written before out is closed
	c.work.Go(func() {
		defer close(out)
		ended = c.follow(ctx, b, run, after, broken, out)
	})
	return &engine.LogStream{C: out, Err: func() error { return ended }}, nil
}

// follow hands out b's lines until run, which went on when the stream was opened, is over.
func (c *client) follow(ctx context.Context, b *box, run *Process, after time.Time, broken <-chan struct{}, out chan<- engine.LogLine) error {
	for {
		c.m.mu.Lock()
		first, _ := slices.BinarySearchFunc(b.lines, after, func(l engine.LogLine, t time.Time) int {
			if l.At.After(t) {
				return 1
			}
			return -1
		})
		news := slices.Clone(b.lines[first:])
		over := run == nil || b.process != run
		changed := b.changed
		c.m.mu.Unlock()
		for _, line := range news {
			select {
			case out <- line:
				after = line.At
			case <-ctx.Done():
				return ctx.Err()
			case <-c.life.Done():
				return errClosed
			case <-broken:
				return ErrAway
			}
		}
		if over {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.life.Done():
			return errClosed
		case <-broken:
			return ErrAway
		}
	}
}

func (c *client) Stdin(ctx context.Context, op, id string) (io.WriteCloser, error) {
	var run *Process
	err := c.m.effect(ctx, op, func() error {
		b := c.m.find(id)
		if b == nil {
			return engine.ErrNotFound
		}
		if b.process == nil {
			return engine.ErrNotRunning
		}
		run = b.process
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &input{run: run}, nil
}

// input is an attached stdin. It is used by one goroutine at a time.
type input struct {
	run    *Process
	rest   string // of a line without its end
	closed bool
}

func (i *input) Write(p []byte) (int, error) {
	if i.closed {
		return 0, io.ErrClosedPipe
	}
	i.rest += string(p)
	timer := time.NewTimer(stdinTimeout)
	defer timer.Stop()
	for {
		line, rest, ok := strings.Cut(i.rest, "\n")
		if !ok {
			return len(p), nil
		}
		select {
		case <-i.run.done:
			return 0, io.ErrClosedPipe
		default:
		}
		if !i.run.Spec.Stdin {
			i.rest = rest
			continue // goes nowhere, as into a closed input
		}
		select {
		case i.run.stdin <- line:
			i.rest = rest
		case <-i.run.done:
			return 0, io.ErrClosedPipe
		case <-timer.C:
			return 0, errors.New("fake: the game does not read: " + strconv.Itoa(len(i.rest)) + " bytes are waiting")
		}
	}
}

func (i *input) Close() error {
	i.closed = true
	return nil
}
