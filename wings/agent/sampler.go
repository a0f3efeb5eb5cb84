package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// OpStats labels the reading of a container's counters.
const OpStats = "engine.stats"

// Bounds of the sampler.
const (
	maxReadings    = 128              // under way at once: Docker 20.10 answers with its next tick, once a second
	readTimeout    = 12 * time.Second // of a whole round; what has not answered then is read in the next one
	secondRoundTo  = 256              // servers up to which each window has a round in its middle, too
	firstClockWait = 10 * time.Second // for the panel's clock, after the start
	holdBack       = 5 * time.Minute  // a window waits this long for the engine to say whether a game ran
	maxUnwritten   = 50_000           // samples kept in memory while the disk refuses them; then the oldest go
)

// Recorder takes the samples of finished windows. They are durable once Record returned nil; after
// an error nothing of them is kept, and they are handed over again. closedUnixS is the end of the
// newest window that is whole with them. It must not block for longer than a disk write.
type Recorder interface {
	Record(samples []wire.Sample, closedUnixS int64) error
}

// sampler measures what the servers of the node use, in windows of 30 s. One goroutine reads the
// engine and books windows, one measures data folders; the servers' loops tell it of runs.
type sampler struct {
	engine    engine.Engine
	out       Recorder
	panelTime func() (time.Time, bool) // nil: this machine's clock
	path      string                   // of the checkpoint
	dataDir   func(server string) string
	here      func(server string) bool // it is on this node
	log       *slog.Logger

	mu     sync.Mutex
	meters map[string]*meter // of servers that are here; nil values never
	gone   []*meter          // that still owe samples
	begun  bool              // the clock is known
	since  time.Time         // the last run of wings had booked up to here; zero: there was none
	start  time.Time         // this one began
	early  map[string][]look // that came before it; at most maxEarly of each server

	// Owned by the loop.
	clock     *windowClock
	pending   []window // that some meter has not booked, oldest first
	unwritten []wire.Sample
	closed    int64 // end of the newest window that is whole and written
	whole     int64 // of the newest that is whole
}

func newSampler(a *Agent) *sampler {
	return &sampler{
		engine: a.engine, out: a.cfg.Samples, panelTime: a.cfg.PanelTime, path: filepath.Join(a.cfg.Dir, "samples.json"),
		dataDir: a.store.dataDir, log: a.log, meters: map[string]*meter{}, early: map[string][]look{},
		here: func(server string) bool { s, _ := a.lookup(server); return s != nil },
	}
}

// look is what a server's loop saw.
type look struct {
	spec *wire.Spec
	box  box
	at   time.Time
}

// maxEarly bounds the looks of one server that wait for the clock; one comes with each step of it.
const maxEarly = 64

// saw is told by a server's loop at each look what its game's container is. spec is what the node was
// told of the server.
func (p *sampler) saw(spec *wire.Spec, b box, now time.Time) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := look{spec, b, now}
	if !p.begun {
		waiting := append(p.early[spec.ServerID], l)
		p.early[spec.ServerID] = waiting[max(0, len(waiting)-maxEarly):]
		return
	}
	p.note(l)
}

// note is called with mu held. A server that the last run of wings does not tell of, with a container
// that began after its last word and before this run, was placed in between.
func (p *sampler) note(l look) {
	began := l.at.Add(-max(l.at.Round(0).Sub(l.box.startedAt), 0))
	if p.meters[l.spec.ServerID] == nil && !p.since.IsZero() && !l.box.startedAt.IsZero() && !began.Before(p.since) && began.Before(p.start) {
		p.meters[l.spec.ServerID] = &meter{server: l.spec.ServerID, epoch: l.spec.PlacementEpoch, cut: p.since, quiet: p.since}
	}
	p.place(l.spec.ServerID, l.spec.PlacementEpoch, l.at).saw(l.box, l.spec.Limits, l.at)
}

// place returns the meter of a server under an epoch. A newer epoch begins a new one, which goes on
// with the run that is there: both halves of its use are counted, each under its own. mu is held.
func (p *sampler) place(server string, epoch int64, now time.Time) *meter {
	m := p.meters[server]
	if m != nil && m.epoch == epoch {
		return m
	}
	fresh := &meter{server: server, epoch: epoch, cut: now}
	if m != nil {
		m.gone = now
		p.gone = append(p.gone, m)
		if live := m.live(); live != nil {
			rest := *live
			rest.began, rest.points = now, []point{{at: now}}
			live.ended = later(live.proof, now)
			fresh.runs = append(fresh.runs, &rest)
		}
		fresh.quiet, fresh.disk = m.quiet, append(fresh.disk, m.disk...)
	}
	p.meters[server] = fresh
	return fresh
}

// buried is told that a server is no more on this node.
func (p *sampler) buried(server string, now time.Time) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.early, server)
	if m := p.meters[server]; m != nil {
		m.gone = now
		p.gone = append(p.gone, m)
		delete(p.meters, server)
	}
}

// target is what the time is: the panel's word, as bills are its business, else this machine's.
func (p *sampler) target(now time.Time) time.Time {
	if p.panelTime != nil {
		if at, ok := p.panelTime(); ok {
			return at.UTC().Round(0)
		}
	}
	return now.UTC().Round(0)
}

// begin finds out what the time is and where the last run of wings ended. Readings begin after it.
func (p *sampler) begin(ctx context.Context) {
	kept := p.load()
	if p.panelTime != nil {
		for waited := time.Duration(0); waited < firstClockWait; waited += firstClockWait / 40 {
			if _, ok := p.panelTime(); ok || sleep(ctx, firstClockWait/40) != nil {
				break
			}
		}
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock = newWindowClock(now, p.target(now), kept.Used, kept.ClosedUnixS)
	p.closed, p.start = kept.ClosedUnixS, now
	if p.closed > 0 {
		p.since = p.clock.open.from // at most maxGapWindows ago
	} else { // what comes to be before the first window is whole is not to be lost either
		p.closed = p.clock.open.label
	}
	p.whole = p.closed
	for server, k := range kept.Servers {
		if p.here(server) {
			p.meters[server] = k.restore(server, p.clock)
		}
	}
	for _, looks := range p.early {
		for _, l := range looks {
			p.note(l)
		}
	}
	p.early, p.begun = nil, true
}

// run reads and books until ctx ends. What is not booked then is in the checkpoint's readings: the
// next run of wings goes on from there.
func (p *sampler) run(ctx context.Context) {
	p.begin(ctx)
	if err := p.save(); err != nil {
		p.log.Warn("write the sampler's checkpoint", "error", err)
	}
	for middle := false; ctx.Err() == nil; {
		now := time.Now()
		at := p.clock.nextBoundary()
		if half := at.Add(-wire.SampleWindow / 2); middle && half.After(now) {
			at = half
		}
		if sleep(ctx, at.Sub(now)) != nil {
			return
		}
		now = time.Now()
		p.pending = append(p.pending, p.clock.follow(now, p.target(now))...)
		n := p.round(ctx)
		if ctx.Err() != nil {
			return
		}
		p.finish(time.Now())
		middle = n <= secondRoundTo
	}
}

// round reads the counters of every run that goes on, and returns how many there are.
func (p *sampler) round(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	type job struct{ server, container string }
	var todo []job
	p.mu.Lock()
	for id, m := range p.meters {
		if live := m.live(); live != nil {
			todo = append(todo, job{id, live.run.ID})
		}
	}
	p.mu.Unlock()
	jobs := make(chan job)
	var wg sync.WaitGroup
	for range min(maxReadings, len(todo)) {
		wg.Go(func() {
			for j := range jobs {
				p.read(ctx, j.server, j.container)
			}
		})
	}
	for _, j := range todo {
		jobs <- j
	}
	close(jobs)
	wg.Wait()
	return len(todo)
}

func (p *sampler) read(ctx context.Context, server, container string) {
	s, err := p.engine.Stats(ctx, OpStats, container)
	at := time.Now()
	if err != nil {
		if !errors.Is(err, engine.ErrNotRunning) && !errors.Is(err, engine.ErrNotFound) {
			p.log.Debug("counters could not be read", "server", server, "error", err)
		}
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.meters[server]
	if m == nil {
		return
	}
	// Another run's counters wait until the server's loop has told of that run.
	if live := m.live(); live != nil && live.run.same(run{container, s.StartedAt.Round(0).UTC()}) {
		live.read(at, s)
	}
}

// finish books what can be booked, hands it over, and writes the checkpoint.
func (p *sampler) finish(now time.Time) {
	if len(p.pending) == 0 && len(p.unwritten) == 0 {
		return
	}
	p.mu.Lock()
	p.book(now)
	p.mu.Unlock()
	if over := len(p.unwritten) - maxUnwritten; over > 0 {
		p.log.Error("samples are lost: the disk has refused them for too long", "samples", over)
		p.unwritten = p.unwritten[over:]
	}
	if err := p.out.Record(p.unwritten, p.whole); err != nil {
		p.log.Warn("samples could not be written and are kept in memory", "samples", len(p.unwritten), "error", err)
		return
	}
	p.unwritten, p.closed = nil, p.whole
	if err := p.save(); err != nil {
		p.log.Warn("write the sampler's checkpoint", "error", err)
	}
}

// book lets every meter book the windows that it is certain of, in their order; after holdBack also
// those that it is not. mu is held.
func (p *sampler) book(now time.Time) {
	late := func(w window) bool { return now.Sub(w.to) > holdBack }
	each := func(m *meter) {
		for _, w := range p.pending {
			if !w.to.After(m.cut) {
				continue
			}
			if !m.certain(w) && !late(w) {
				return
			}
			if s, ok := m.book(w); ok {
				p.unwritten = append(p.unwritten, s)
			}
		}
	}
	oldest := now
	for _, m := range p.meters {
		each(m)
		oldest = earlier(oldest, m.cut)
	}
	waiting := p.gone[:0]
	for _, m := range p.gone {
		if each(m); m.cut.Before(m.gone) {
			waiting = append(waiting, m)
			oldest = earlier(oldest, m.cut)
		}
	}
	p.gone = waiting
	for len(p.pending) > 0 && !p.pending[0].to.After(oldest) {
		p.whole = p.pending[0].label + wire.SampleWindowS
		p.pending = p.pending[1:]
	}
}
