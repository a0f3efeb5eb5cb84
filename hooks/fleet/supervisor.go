package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// How the node daemon of this machine is kept running.
const (
	respawnMin    = 200 * time.Millisecond // before the first restart; doubles
	respawnMax    = 10 * time.Second
	respawnStable = 5 * time.Second  // a run this long resets the wait: what cannot start ends sooner
	childGrace    = 15 * time.Second // between SIGTERM and SIGKILL
)

// Supervisor keeps one child process running: the node daemon of this machine, which is this same
// binary. Games are not its children, so ending it ends none of them.
type Supervisor struct {
	Path string   // of the binary
	Args []string // of the run, e.g. ["wings", "run", "--dir", D]
	Env  []string // nil: ours
	Out  io.Writer
	Log  *slog.Logger

	mu     sync.Mutex
	cancel context.CancelFunc // nil until Start
	done   chan struct{}      // closed when the last child has ended
}

// Once runs the binary to its end, for what has to be done before it is kept running.
func (s *Supervisor) Once(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.Path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.Env, s.Out, s.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w", args[0], err)
	}
	return nil
}

// Start begins to keep the child running. A second call does nothing.
func (s *Supervisor) Start(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		return
	}
	ctx, s.cancel = context.WithCancel(ctx)
	s.done = make(chan struct{})
	go s.keep(ctx, s.done)
}

// Stop ends the child (SIGTERM, then SIGKILL after a grace) and waits for it. It may be called twice.
func (s *Supervisor) Stop() {
	s.mu.Lock()
	cancel, done := s.cancel, s.done
	s.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	<-done
}

// keep owns the child. It is locked to its thread because the kernel sends the death signal when the
// thread that started the child ends, not the process.
func (s *Supervisor) keep(ctx context.Context, done chan<- struct{}) {
	runtime.LockOSThread()
	defer close(done)
	wait := time.Duration(0)
	for ctx.Err() == nil {
		began := time.Now()
		err := s.run(ctx)
		if ctx.Err() != nil {
			return
		}
		wait = respawnAfter(wait, time.Since(began))
		s.Log.Error("the node daemon of this machine ended; starting it again", "error", err, "in", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// respawnAfter is how long to wait after a run that ended, given the wait before it (0: none).
func respawnAfter(last, ran time.Duration) time.Duration {
	if ran >= respawnStable {
		return respawnMin
	}
	return min(max(2*last, respawnMin), respawnMax)
}

func (s *Supervisor) run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, s.Path, s.Args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.Env, s.Out, s.Out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = childGrace
	// A panel that is killed takes the daemon along: the next one starts its own, which re-attaches.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	err := cmd.Run()
	if err == nil {
		return errors.New("it ended by itself")
	}
	return err
}
