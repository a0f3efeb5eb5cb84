package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of a server's run loop.
const (
	callTimeout    = 2 * time.Minute  // of one engine call that is not a pull
	drainTimeout   = 5 * time.Second  // for the last lines of a run that ended
	killRecheck    = 2 * time.Second  // after a SIGKILL, when no exit was told
	maxLaunchTries = 8                // of one step while the engine answers; then it is given up
	remakeAfter    = 2                // failed starts of one container; then it is made again
	awayNoted      = 300              // looks at an engine that is away between two warnings, about ten minutes
	quietTries     = 2                // engine errors in a row that are not shown yet
	maxOutbox      = 16               // reports kept while the reporter refuses them
	progressEvery  = time.Second      // between two progress reports
	reportRetry    = 10 * time.Second // after the reporter refused
	maxOdd         = 5                // looks that may disagree with Wait
	oddPause       = 50 * time.Millisecond
	doubtEvery     = 250 * time.Millisecond // between two looks; a dockerd needs longer to restart
)

// server is one game server of the node: one goroutine, loop, owns it. Everything else sends it a
// spec or a nudge and reads what it has published.
type server struct {
	a       *Agent
	id      string
	log     *slog.Logger
	console *console

	intake  chan struct{}   // capacity 1: whoever accepts a spec, or buries the server, holds it
	typing  chan struct{}   // capacity 1: one command at a time reaches the game
	specs   chan *wire.Spec // capacity 1: only the latest matters
	nudges  chan struct{}   // capacity 1: only that something happened matters
	command *bucket

	mu       sync.Mutex
	accepted *wire.Spec    // newest that is on the disk
	shown    wire.Observed // as last published
	current  run           // that takes commands; zero: none
	gone     bool          // buried

	// Owned by loop.
	spec      *wire.Spec
	pending   *wire.Spec // arrived during a pull
	rec       *record
	dirty     bool // rec is not on the disk
	reported  int64
	reportAt  time.Time // not before, after a refusal
	mem       memory
	game      *watch
	installer *watch
	problem   *wire.Problem // of the last step that went wrong
	away      int           // engine errors in a row
}

// memory is what this process has verified since the last exit or spec; lost on a kill, and then
// verified again.
type memory struct {
	imageID      string
	fresh        bool
	stale        bool
	freshInstall bool
	staleInstall bool
	askSent      run // the run that was told to end
	tries        int // of the step that goes wrong
	failing      step
	odd          int // looks in a row that found a watched run going on after its end was told
}

// errEarlyEnd stands for an engine whose word on a run's end is not to be relied on.
var errEarlyEnd = errors.New("the engine told the end of a run that goes on")

func (a *Agent) newServer(id string, spec *wire.Spec, rec *record) (*server, error) {
	c, err := openConsole(filepath.Join(a.store.serverDir(id), "console.jsonl"))
	if err != nil {
		return nil, err
	}
	s := &server{
		a: a, id: id, log: a.log.With("server", id), console: c,
		intake: make(chan struct{}, 1), typing: make(chan struct{}, 1),
		specs: make(chan *wire.Spec, 1), nudges: make(chan struct{}, 1), command: newBucket(commandsPerSec, commandsAtOnce),
		accepted: spec, spec: spec, rec: rec, shown: rec.Published,
	}
	if rec.Observed.Generation != spec.Generation || rec.Observed.PlacementEpoch != spec.PlacementEpoch {
		rec.accept(spec)
		s.dirty = true
	}
	if s.shown.State == "" {
		s.shown.State = wire.StateAbsent
	}
	if rec.restored() {
		s.dirty = true
	}
	s.shown.Settled = false // until the engine was asked
	c.state = s.shown.State
	return s, nil
}

// accept takes a spec in: fenced, on the disk, then handed to the loop. The reply is what is known
// now, with the generation that is accepted.
func (s *server) accept(ctx context.Context, spec *wire.Spec) (wire.Observed, error) {
	select {
	case s.intake <- struct{}{}:
		defer func() { <-s.intake }()
	case <-ctx.Done():
		return wire.Observed{}, ctx.Err()
	}
	s.mu.Lock()
	old, gone := s.accepted, s.gone
	s.mu.Unlock()
	switch {
	case gone:
		return wire.Observed{}, errBuried
	case spec.PlacementEpoch < old.PlacementEpoch:
		return wire.Observed{}, fmt.Errorf("spec of server %s has epoch %d, the node has %d: %w", s.id, spec.PlacementEpoch, old.PlacementEpoch, ErrSuperseded)
	case spec.PlacementEpoch == old.PlacementEpoch && spec.Generation <= old.Generation:
		return s.observed(), nil
	}
	if err := s.a.store.saveSpec(spec); err != nil {
		return wire.Observed{}, fmt.Errorf("accept spec of server %s: %w", s.id, err)
	}
	s.mu.Lock()
	s.accepted = spec
	s.mu.Unlock()
	select {
	case <-s.specs: // an older one that nobody took
	default:
	}
	s.specs <- spec
	return s.observed(), nil
}

// observed is what the world may know: the last published state, with the generation accepted since.
func (s *server) observed() wire.Observed {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.shown
	if s.accepted.Generation != o.Generation || s.accepted.PlacementEpoch != o.PlacementEpoch {
		o.PlacementEpoch, o.Generation, o.Settled = s.accepted.PlacementEpoch, s.accepted.Generation, false
	}
	o.ServerID = s.id
	return o
}

func (s *server) wake() {
	select {
	case s.nudges <- struct{}{}:
	default: // one is waiting
	}
}

// loop walks the table until the program ends or the server is buried. It leaves containers alone.
func (s *server) loop(ctx context.Context) {
	defer s.detach()
	for ctx.Err() == nil {
		s.takeSpec()
		wait, done := s.advance(ctx)
		if done || ctx.Err() != nil {
			return
		}
		if wait == 0 {
			continue
		}
		if !s.reportAt.IsZero() {
			wait = shorter(wait, time.Until(s.reportAt))
		}
		s.rest(ctx, wait)
	}
}

// rest waits for an event, or for so long; a negative wait is for ever.
func (s *server) rest(ctx context.Context, wait time.Duration) {
	var timer <-chan time.Time
	if wait >= 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		timer = t.C
	}
	select {
	case s.pending = <-s.specs:
	case <-s.nudges:
	case <-timer:
	case <-ctx.Done():
	}
}

const forever = time.Duration(-1)

func shorter(a, b time.Duration) time.Duration {
	if a < 0 || max(b, 1) < a {
		return max(b, 1)
	}
	return a
}

func (s *server) takeSpec() {
	spec := s.pending
	s.pending = nil
	select {
	case spec = <-s.specs:
	default:
	}
	if spec == nil {
		return
	}
	s.spec = spec
	s.rec.accept(spec)
	s.dirty = true
	s.mem = memory{askSent: s.mem.askSent}
	s.problem = nil
}

// advance looks, decides and does one step. wait 0: go on at once; forever: until something happens.
func (s *server) advance(ctx context.Context) (wait time.Duration, done bool) {
	if err := s.save(ctx); err != nil {
		return s.complain(ctx, stepIdle, err), false
	}
	in, err := s.look(ctx)
	if err != nil {
		return s.lostEngine(ctx, err), false
	}
	s.away = 0
	if wait := s.attach(ctx, in); wait > 0 {
		return wait, false
	}
	in.w.ready = s.game != nil && isClosed(s.game.ready)
	r := next(in)
	if r.do == stepIdle || r.do == stepWait {
		s.problem = nil
		if err := s.show(ctx, in, r); err != nil {
			return s.complain(ctx, r.do, err), false
		}
		return restTime(in, r), false
	}
	if !journals[r.do] {
		if err := s.show(ctx, in, r); err != nil {
			return s.complain(ctx, r.do, err), false
		}
	}
	s.log.Debug("step", "why", r.why, "do", r.do)
	pause, err := s.do(ctx, in, r)
	switch {
	case ctx.Err() != nil:
		return forever, false
	case errors.Is(err, errBuried):
		return 0, true
	case err != nil:
		wait = s.complain(ctx, r.do, err)
		if r.do == stepSendStop {
			wait = shorter(wait, graceEnd(in).Sub(in.now))
		}
		return wait, false
	}
	if s.mem.failing == r.do {
		s.mem.tries, s.mem.failing, s.problem = 0, "", nil
	}
	return pause, false
}

// restTime is how long a row that waits may be left alone. While the last exit is in doubt the
// engine is looked at often: one that is being stopped answers for a while after it ended its games.
func restTime(in *input, r *row) time.Duration {
	wait := forever
	if r.until != nil {
		if at := r.until(in); !at.IsZero() {
			wait = max(at.Sub(in.now), 1)
		}
	}
	if !in.rec.CrashAt.IsZero() {
		wait = shorter(wait, doubtEvery)
	}
	return wait
}

// look asks the engine for both containers.
func (s *server) look(ctx context.Context) (*input, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	game, err := s.inspect(ctx, gameName(s.id))
	if err != nil {
		return nil, err
	}
	install, err := s.inspect(ctx, installName(s.id))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	s.a.meters.saw(s.spec, game, now)
	w := world{game: game, install: install, imageKnown: s.mem.imageID != "", fresh: s.mem.fresh, stale: s.mem.stale,
		freshInstall: s.mem.freshInstall, staleInstall: s.mem.staleInstall, askSent: s.mem.askSent.same(boxRun(game))}
	return &input{spec: s.spec, rec: s.rec, w: w, now: now}, nil
}

func (s *server) inspect(ctx context.Context, name string) (box, error) {
	c, err := s.a.engine.Inspect(ctx, OpInspect, name)
	if errors.Is(err, engine.ErrNotFound) {
		return box{}, nil
	}
	if err != nil {
		return box{}, fmt.Errorf("inspect %s: %w", name, err)
	}
	b := box{id: c.ID, startedAt: c.StartedAt.Round(0).UTC(), exit: c.Exit}
	b.exit.At = b.exit.At.Round(0).UTC()
	switch {
	case c.Running:
		b.at = placeRunning
	case c.StartedAt.IsZero():
		b.at = placeCreated
	default:
		b.at = placeExited
	}
	return b, nil
}

// attach keeps one watch on each run. A wait > 0 means that the engine dropped one and that it is
// to be asked again later.
func (s *server) attach(ctx context.Context, in *input) (wait time.Duration) {
	if g := in.w.game; g.running() {
		if s.game != nil && s.game.run.same(boxRun(g)) && s.game.over() {
			if s.game.err == nil && s.mem.odd < maxOdd { // it ended after we looked: look again
				s.mem.odd++
				return oddPause
			}
			dropped := s.game.err
			if dropped == nil {
				dropped = errEarlyEnd
			}
			s.release(&s.game) // the run goes on without us: ask again, then watch again
			return s.lostEngine(ctx, dropped)
		}
		if s.game == nil || !s.game.run.same(boxRun(g)) {
			s.release(&s.game)
			s.game = s.startWatch(ctx, g, wire.StreamOut, s.spec)
		}
	}
	if i := in.w.install; i.running() {
		if s.installer != nil && s.installer.run.same(boxRun(i)) && s.installer.over() {
			if s.installer.err == nil && s.mem.odd < maxOdd {
				s.mem.odd++
				return oddPause
			}
			dropped := s.installer.err
			if dropped == nil {
				dropped = errEarlyEnd
			}
			s.release(&s.installer)
			return s.lostEngine(ctx, dropped)
		}
		if s.installer == nil {
			s.installer = s.startWatch(ctx, i, wire.StreamInstall, s.spec)
		}
	}
	s.mem.odd = 0
	s.mu.Lock()
	s.current = run{}
	if in.w.game.running() {
		s.current = boxRun(in.w.game)
	}
	s.mu.Unlock()
	return 0
}

func (s *server) release(w **watch) {
	if *w != nil {
		(*w).stop()
		*w = nil
	}
}

func (s *server) detach() {
	s.release(&s.game)
	s.release(&s.installer)
	if err := s.console.flush(); err != nil {
		s.log.Warn("write console journal", "error", err)
	}
}

// lostEngine takes notice that the engine is away. Nothing is decided and nothing is lost; a crash
// that came right before it was the engine's doing.
func (s *server) lostEngine(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil {
		return forever
	}
	if s.rec.forgive(time.Now()) {
		s.dirty = true
		s.say("The node's container engine went away; the last exit does not count as a crash.")
	}
	s.release(&s.game) // whatever it would still see, it has not watched all of; its output is read anew
	if s.installer != nil && !s.installer.witnessed(box{id: s.installer.run.ID, startedAt: s.installer.run.StartedAt}) {
		s.release(&s.installer)
	}
	s.away++
	if s.away > quietTries {
		s.problem, _ = problemOf(err)
		o := s.rec.Observed
		o.Settled = false // nobody knows
		s.publish(o)
	}
	level := slog.LevelDebug // of a thousand servers that look every two seconds
	if s.away == 1 || s.away%awayNoted == 0 {
		level = slog.LevelWarn
	}
	s.log.Log(ctx, level, "engine is away", "tries", s.away, "error", err)
	s.saveSoon(ctx)
	return retryWithin(s.away-1, engineMax)
}

// complain records a step that went wrong and says when to try again.
func (s *server) complain(ctx context.Context, do step, err error) time.Duration {
	if ctx.Err() != nil {
		return forever
	}
	if s.mem.failing != do {
		s.mem.failing, s.mem.tries = do, 0
	}
	s.mem.tries++
	p, permanent := problemOf(err)
	s.log.Warn("step went wrong", "do", do, "try", s.mem.tries, "error", err)
	s.problem = p
	if launches[do] && (permanent || s.mem.tries >= maxLaunchTries && p.Code != wire.ProblemDisk) {
		s.rec.Failure, s.dirty = p, true
		if s.rec.Install == installRunning { // it never ran: nothing of it can be believed
			s.rec.Install = installPending
		}
		s.mem.tries = 0
		return time.Nanosecond
	}
	if s.mem.tries >= remakeAfter {
		// An engine that was killed in the middle of a start may never start that container again.
		s.mem.stale = s.mem.stale || do == stepStart
		s.mem.staleInstall = s.mem.staleInstall || do == stepStartInstall
	}
	s.publish(s.rec.Observed)
	s.saveSoon(ctx)
	return retryAfter(s.mem.tries - 1)
}

func gameName(id string) string    { return "mh-" + id }
func installName(id string) string { return "mh-" + id + "-install" }
