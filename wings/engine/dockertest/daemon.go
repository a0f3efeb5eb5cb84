// Package dockertest gives tests a real dockerd, images that need no registry, and a look at what
// was left behind.
//
// It owns the processes, folders, mounts and network namespaces of the daemons it starts. It refuses
// to touch an engine that it did not start, except for what a test asked for by name.
//
// Its one invariant: when the test process ends, by whatever way a cleanup can still run, nothing of
// these daemons is left; what a killed process left is swept by the next one.
//
// It needs root, cgroups, dockerd, nsenter and ip. It is for tests only and is imported by no binary.
package dockertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

// Limits of waiting for a daemon. A busy 2-core machine needed up to 3 s to be ready.
const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
	pollInterval = 20 * time.Millisecond
	startTries   = 3 // a daemon that was killed may fail its first start over stale files
)

// dirPrefix begins the name of every daemon's folder: mamba-dockerd-<pid of the owner>-<random>.
const dirPrefix = "mamba-dockerd-"

// Options of a private daemon.
type Options struct {
	// NoLiveRestore lets the daemon stop its containers when it stops. Default: they live on.
	NoLiveRestore bool
	// HostNetwork runs it in the test's own network namespace, so that published ports can be
	// reached from the test. Default: in a namespace of its own, because two daemons in one
	// namespace rewrite each other's iptables chains.
	HostNetwork bool
}

// Process is a dockerd that belongs to one test (or one test process).
type Process struct {
	opts  Options
	dir   string // data root, exec root, socket, pid file and log
	netns string // name under /run/netns; empty with HostNetwork

	mu  sync.Mutex // guards run
	run *run       // nil while it is down
}

// run is one life of the daemon.
type run struct {
	pid  int
	done chan struct{} // closed when the process was reaped
	err  error         // of the process; valid once done is closed
}

// Private starts a daemon for t alone and stops it, with all it holds, when t ends.
func Private(t testing.TB, opts Options) *Process {
	t.Helper()
	p, err := start(opts)
	if err != nil {
		t.Fatalf("start a private dockerd: %v", err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Errorf("stop the private dockerd: %v", err)
		}
	})
	return p
}

// Host is the daemon's address, as engine.Config.Host and DOCKER_HOST want it.
func (p *Process) Host() string { return "unix://" + filepath.Join(p.dir, "d.sock") }

// Pid of the running daemon; 0 while it is down.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil {
		return 0
	}
	return p.run.pid
}

// Kill ends the daemon with SIGKILL, as a crash would. Containers live on under their shims.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	if err := p.end(syscall.SIGKILL); err != nil {
		t.Fatalf("kill dockerd: %v", err)
	}
}

// Stop ends the daemon with SIGTERM, as an upgrade of it would.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatalf("stop dockerd: %v", err)
	}
}

// Start starts it again after Kill or Stop and waits until it answers.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	if err := p.launch(); err != nil {
		t.Fatalf("start dockerd again: %v", err)
	}
}

// Restart is Stop and Start.
func (p *Process) Restart(t testing.TB) {
	t.Helper()
	p.Stop(t)
	p.Start(t)
}

// start makes the folder and the namespace and launches the daemon.
func start(opts Options) (*Process, error) {
	sweep()
	dir, err := os.MkdirTemp("", dirPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, err
	}
	p := &Process{opts: opts, dir: dir}
	if !opts.HostNetwork {
		p.netns = filepath.Base(dir)
		if err := command("ip", "netns", "add", p.netns); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		if err := command("ip", "-n", p.netns, "link", "set", "lo", "up"); err != nil {
			return nil, errors.Join(err, p.discard())
		}
	}
	if err := p.launch(); err != nil {
		return nil, errors.Join(err, p.discard())
	}
	return p, nil
}

// argv is the command line. nsenter is used rather than `ip netns exec`, which mounts a fresh /sys
// over the cgroup hierarchies and so hides them from dockerd.
func (p *Process) argv() []string {
	var argv []string
	if p.netns != "" {
		argv = append(argv, "nsenter", "--net=/run/netns/"+p.netns)
	}
	return append(argv, "dockerd",
		"--host", p.Host(),
		"--data-root", filepath.Join(p.dir, "data"),
		"--exec-root", filepath.Join(p.dir, "exec"),
		"--pidfile", filepath.Join(p.dir, "d.pid"),
		"--bridge", "none", // docker0 is fought over by daemons that share a namespace
		"--storage-driver", "overlay2",
		"--log-level", "warn",
		"--live-restore="+strconv.FormatBool(!p.opts.NoLiveRestore),
	)
}

// launch starts the process and waits for its API. A daemon that died at once is tried again.
func (p *Process) launch() error {
	var last error
	for range startTries {
		p.removeStalePids()
		r, err := p.spawn()
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.run = r
		p.mu.Unlock()
		if last = p.waitReady(r); last == nil {
			return nil
		}
		if err := p.end(syscall.SIGKILL); err != nil {
			return errors.Join(last, err)
		}
	}
	return last
}

// spawn starts the process on a thread that lives as long as it does, because Pdeathsig is sent
// when the thread that forked ends, not the process.
func (p *Process) spawn() (*run, error) {
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	argv := p.argv()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	r := &run{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := cmd.Start()
		if err == nil {
			r.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		r.err = cmd.Wait()
		close(r.done)
	}()
	return r, <-started
}

func (p *Process) waitReady(r *run) error {
	cli, err := client.New(client.WithHost(p.Host()))
	if err != nil {
		return err
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	err = poll(ctx, func() (bool, error) {
		select {
		case <-r.done:
			return false, fmt.Errorf("dockerd ended: %w", errors.Join(r.err, errDaemonDown))
		default:
		}
		_, err := cli.Ping(ctx, client.PingOptions{})
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for dockerd: %w; the end of its log:\n%s", err, p.logTail())
	}
	return nil
}

var errDaemonDown = errors.New("dockertest: the daemon is down")

// end sends sig and waits for the process. After SIGKILL its containerd goes too: it is the
// daemon's child, and a stale one keeps the next start waiting for 15 s.
func (p *Process) end(sig syscall.Signal) error {
	p.mu.Lock()
	r := p.run
	p.run = nil
	p.mu.Unlock()
	if r == nil {
		return nil
	}
	if err := syscall.Kill(r.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		return fmt.Errorf("dockerd (pid %d) ignored %v for %v; the end of its log:\n%s", r.pid, sig, stopTimeout, p.logTail())
	}
	if sig == syscall.SIGKILL {
		return killMatching(func(argv []string) bool {
			return filepath.Base(argv[0]) == "containerd" && mentions(argv, p.dir)
		})
	}
	return nil
}

// removeStalePids removes the pid files that a killed daemon leaves: dockerd refuses to start over
// its own, and waits 15 s for a containerd that only the file says is there.
func (p *Process) removeStalePids() {
	for _, name := range []string{"d.pid", "exec/containerd/containerd.pid"} {
		_ = os.Remove(filepath.Join(p.dir, name))
	}
}

// close removes every container, stops the daemon and discards what it had.
func (p *Process) close() error {
	var errs []error
	if p.Pid() == 0 && len(shimsOf(p.dir)) > 0 {
		errs = append(errs, p.launch()) // only a daemon unmounts cleanly what a killed one left
	}
	if p.Pid() != 0 {
		errs = append(errs, removeContainers(p.Host()))
		errs = append(errs, p.end(syscall.SIGTERM))
	}
	return errors.Join(append(errs, p.discard())...)
}

// discard ends whatever still runs out of the folder and removes it, its mounts and its namespace.
func (p *Process) discard() error {
	err := discardDir(p.dir)
	if p.netns != "" {
		err = errors.Join(err, command("ip", "netns", "delete", p.netns))
	}
	return err
}

func (p *Process) logTail() string {
	raw, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return err.Error()
	}
	const most = 4 << 10
	return string(raw[max(0, len(raw)-most):])
}

func removeContainers(host string) error {
	cli, err := client.New(client.WithHost(host))
	if err != nil {
		return err
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	list, err := cli.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs []error
	for _, c := range list.Items {
		_, err := cli.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// poll asks f every pollInterval until it says true, fails, or ctx ends.
func poll(ctx context.Context, f func() (bool, error)) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if ok, err := f(); err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
