package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of watching a run.
const (
	retryMin    = 500 * time.Millisecond // first wait after an engine error; doubles
	retryMax    = 30 * time.Second
	engineMax   = 2 * time.Second        // between two looks at an engine that is away: games wait for its return
	probeEvery  = 500 * time.Millisecond // between two tries of a readiness port
	probeWait   = 2 * time.Second        // for one connection
	probeHold   = 250 * time.Millisecond // a connection that is closed within is a proxy without a game
	readyMargin = 2 * time.Second        // the engine's start time may be later than the first line
	burstWait   = time.Millisecond       // for a write while more lines are there to be read
)

// watch follows one run of one container: one goroutine waits for its end, one reads its output,
// one may probe its port. It ends with the run, or with its context, which leaves the run alone.
type watch struct {
	run    run
	stream wire.ConsoleStream
	cancel context.CancelFunc
	wg     sync.WaitGroup

	ended   chan struct{} // closed when Wait returned; exit and err are set
	exit    engine.Exit
	err     error
	drained chan struct{} // closed when the reader has read everything, or gave up
	ready   chan struct{} // closed when the run was seen to be ready
	isReady sync.Once
}

func (w *watch) setReady() { w.isReady.Do(func() { close(w.ready) }) }

func (w *watch) over() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// witnessed says that the end of the run was watched with the engine well.
func (w *watch) witnessed(b box) bool {
	return w != nil && w.run.same(boxRun(b)) && w.over() && w.err == nil
}

func (w *watch) stop() {
	w.cancel()
	w.wg.Wait()
}

// startWatch attaches to the run in b.
func (s *server) startWatch(ctx context.Context, b box, stream wire.ConsoleStream, spec *wire.Spec) *watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{run: boxRun(b), stream: stream, cancel: cancel,
		ended: make(chan struct{}), drained: make(chan struct{}), ready: make(chan struct{})}
	w.wg.Go(func() {
		defer s.wake()
		defer close(w.ended)
		w.exit, w.err = s.a.engine.Wait(ctx, OpWait, b.id)
	})
	var pattern *regexp.Regexp
	if stream == wire.StreamOut && !s.rec.Ready.same(w.run) {
		switch {
		case spec.Ready.LogRegex != "":
			pattern = regexp.MustCompile(spec.Ready.LogRegex) // Validate compiled it
		case spec.Ready.TCPPort != 0:
			w.wg.Go(func() { s.probe(ctx, w, spec) })
		default:
			w.setReady()
		}
	}
	from := s.beganBy(b)
	w.wg.Go(func() {
		defer s.wake()
		defer close(w.drained)
		r := reader{s: s, w: w, pattern: pattern, from: from}
		r.run(ctx)
	})
	return w
}

// beganBy is a time that every line of the run in b is after, and none of the run before it.
func (s *server) beganBy(b box) time.Time {
	from := b.startedAt.Add(-readyMargin)
	if last := s.rec.Observed.ExitedAt; !last.Before(from) && last.Before(b.startedAt) {
		return last.Add(1)
	}
	return from
}

// reader is the one reader of a run's output.
type reader struct {
	s       *server
	w       *watch
	pattern *regexp.Regexp // that makes the run ready; nil: none
	from    time.Time      // lines before this are of an earlier run
}

func (r *reader) run(ctx context.Context) {
	defer r.flush()
	for try := 0; ; try++ {
		done, progress := r.follow(ctx)
		if done || ctx.Err() != nil {
			return
		}
		if progress {
			try = 0
		}
		if sleep(ctx, retryAfter(try)) != nil {
			return
		}
	}
}

// follow reads on from where the console stands. done: the container ended and all was read.
func (r *reader) follow(ctx context.Context) (done, progress bool) {
	at := r.s.console.readTo(r.w.stream)
	known := at.Container == r.w.run.ID && !at.At.IsZero()
	after := time.Time{}
	if known {
		after = at.At.Add(-1) // the last line again, to see that nothing was rotated away behind it
	}
	if r.pattern != nil && !isClosed(r.w.ready) && known && r.from.Before(after) {
		after = r.from // the ready line may have been read before wings was killed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logs, err := r.s.a.engine.Logs(ctx, OpLogs, r.w.run.ID, after)
	if err != nil {
		return errors.Is(err, engine.ErrNotFound), false
	}
	seen := !known
	return r.take(logs, func(l engine.LogLine) (old bool) {
		switch {
		case known && l.At.Before(at.At): // only looked at
			return true
		case known && l.At.Equal(at.At):
			seen = true
			return true
		case !seen:
			seen = true
			r.s.console.hole()
		}
		return false
	})
}

// take puts lines on the console until there are no more. One that comes alone is written, and so
// shown, at once; of more than that, what has come within showAfter is written together.
func (r *reader) take(logs *engine.LogStream, old func(engine.LogLine) bool) (done, progress bool) {
	var show <-chan time.Time // nil while all is written
	var busyUntil time.Time   // no write before, unless much waits
	for {
		select {
		case l, ok := <-logs.C:
			if !ok {
				return logs.Err() == nil, progress
			}
			progress = true
			r.match(l)
			if old(l) {
				continue
			}
			full := r.s.console.read(r.w.stream, r.w.run.ID, l.At, l.Text)
			wait := time.Until(busyUntil)
			if !full && (wait > 0 || len(logs.C) > 0) {
				if show == nil {
					show = time.After(max(wait, burstWait))
				}
				continue
			}
		case <-show:
		}
		r.flush()
		show, busyUntil = nil, time.Now().Add(showAfter)
	}
}

func (r *reader) match(l engine.LogLine) {
	if r.pattern == nil || l.At.Before(r.from) || !r.pattern.MatchString(l.Text) {
		return
	}
	r.w.setReady()
	r.s.wake()
}

func (r *reader) flush() {
	if err := r.s.console.flush(); err != nil {
		r.s.log.Warn("write console journal", "error", err)
	}
}

// probe dials the published side of the readiness port until the game accepts.
func (s *server) probe(ctx context.Context, w *watch, spec *wire.Spec) {
	addr := readyAddress(spec)
	for addr != "" && sleep(ctx, probeEvery) == nil {
		if s.accepts(ctx, addr) {
			w.setReady()
			s.wake()
			return
		}
	}
}

// accepts is true when the connection is taken and kept. The engine's own proxy takes every
// connection, and closes it at once when no game listens behind it.
func (s *server) accepts(ctx context.Context, addr string) bool {
	dctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	conn, err := s.a.cfg.Dial(dctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(probeHold))
	n, err := conn.Read(make([]byte, 1))
	var nerr net.Error
	return n > 0 || (errors.As(err, &nerr) && nerr.Timeout())
}

// readyAddress is where the node reaches the readiness port; empty when it is not published.
func readyAddress(spec *wire.Spec) string {
	for _, p := range spec.Ports {
		if p.ContainerPort != spec.Ready.TCPPort || p.Protocol != wire.TCP {
			continue
		}
		host := p.HostIP
		if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
			host = "127.0.0.1"
			if ip != nil && ip.To4() == nil {
				host = "::1"
			}
		}
		return net.JoinHostPort(host, strconv.Itoa(p.HostPort))
	}
	return ""
}

// validate is wire's Validate, and what only this node can know to be impossible.
func validate(spec *wire.Spec) error {
	if err := spec.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if spec.Desired != wire.DesiredAbsent && spec.Ready.LogRegex == "" && spec.Ready.TCPPort != 0 && readyAddress(spec) == "" {
		return fmt.Errorf("%w: ready.tcp_port %d is not a published TCP port", ErrInvalid, spec.Ready.TCPPort)
	}
	return nil
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// retryAfter is how long to wait after the try-th failure (from 0): doubling, bounded, ±20 %.
func retryAfter(try int) time.Duration { return retryWithin(try, retryMax) }

func retryWithin(try int, limit time.Duration) time.Duration {
	d := retryMin << min(try, 10)
	d = min(d, limit)
	return d*4/5 + time.Duration(rand.Int64N(int64(d)*2/5))
}

// sleep waits, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
