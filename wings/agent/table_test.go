package agent

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// model is a server with its engine, in plain fields: what a step does to the world, without one.
type model struct {
	spec   wire.Spec
	rec    record
	w      world
	now    time.Time
	serial int
	starts int
	forgot bool
	taken  []step
}

func newModel(t *rapid.T) *model {
	m := &model{spec: running(1), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	if rapid.Bool().Draw(t, "has an install") {
		m.spec = installing(m.spec, nil)
	}
	m.rec.accept(&m.spec)
	return m
}

func (m *model) input() *input { return &input{spec: &m.spec, rec: &m.rec, w: m.w, now: m.now} }

func (m *model) id() string {
	m.serial++
	return string(rune('a'+m.serial%26)) + time.Duration(m.serial).String()
}

// play does one step, as server.do does it.
func (m *model) play(t *rapid.T, r *row) {
	m.taken = append(m.taken, r.do)
	m.now = m.now.Add(time.Millisecond)
	in := m.input()
	switch r.do {
	case stepIdle, stepWait:
	case stepAskStop:
		m.rec.askStop(m.w.game, false, m.now)
		if wanted(in) && restartDue(in) {
			m.rec.takeCounters(&m.spec)
		}
	case stepAskKill:
		m.rec.askStop(m.w.game, true, m.now)
		m.rec.Observed.KillCount = m.spec.KillCount
	case stepSendStop:
		m.w.askSent = true
	case stepKill:
		m.end(engine.Exit{Code: 137, At: m.now})
	case stepNoteExit:
		m.rec.noteExit(&m.spec, m.w.game, rapid.Bool().Draw(t, "witnessed"), m.now)
		m.verify()
	case stepTakeCounters:
		m.rec.takeCounters(&m.spec)
	case stepRemove:
		m.w.game, m.w.fresh, m.w.stale = box{}, false, false
	case stepRemoveInstall:
		m.w.install, m.w.freshInstall, m.w.staleInstall = box{}, false, false
	case stepReinstall:
		m.rec.beginReinstall(&m.spec)
	case stepSkipInstall:
		m.rec.Install, m.rec.Observed.Installed = installDone, true
	case stepPull:
		m.w.imageKnown = true
	case stepBeginInstall:
		m.rec.Install, m.rec.InstallTimedOut = installRunning, false
	case stepCreateInstall:
		if !m.w.install.there() {
			m.w.install = box{at: placeCreated, id: m.id()}
		} else if rapid.Bool().Draw(t, "another spec") {
			m.w.staleInstall = true
			return
		}
		m.w.freshInstall = true
	case stepStartInstall:
		m.w.install.at, m.w.install.startedAt = placeRunning, m.now
	case stepTimeOut:
		m.rec.InstallTimedOut = true
	case stepKillInstall:
		m.w.install.at, m.w.install.exit = placeExited, engine.Exit{Code: 137, At: m.now}
	case stepNoteInstall:
		m.rec.noteInstall(m.w.install.exit, rapid.Bool().Draw(t, "witnessed"))
	case stepCreate:
		if !m.w.game.there() {
			m.w.game = box{at: placeCreated, id: m.id()}
		} else if rapid.Bool().Draw(t, "another spec") {
			m.w.stale = true
			return
		}
		m.w.fresh, m.w.stale = true, false
	case stepStart:
		m.starts++
		m.w.game.at, m.w.game.startedAt = placeRunning, m.now
		m.w.ready, m.w.askSent = false, false
	case stepNotReady:
		m.rec.Failure = notReadyProblem(1)
		m.rec.askStop(m.w.game, false, m.now)
	case stepNoteReady:
		m.rec.Ready = boxRun(m.w.game)
	case stepNoteStable:
		m.rec.Observed.CrashCount = 0
	case stepNoteCertain:
		m.rec.CrashAt = time.Time{}
	case stepWipe:
		m.rec.Wiping, m.rec.Install, m.rec.Observed.Installed = true, installPending, false
	case stepForget:
		m.forgot = true
	default:
		t.Fatalf("a step %q that the model does not know", r.do)
	}
}

func (m *model) end(exit engine.Exit) {
	if m.w.game.running() {
		m.w.game.at, m.w.game.exit = placeExited, exit
	}
}

// verify forgets what a new spec, an exit or a kill of wings makes unknown.
func (m *model) verify() {
	m.w.imageKnown, m.w.fresh, m.w.stale = false, false, false
	m.w.freshInstall, m.w.staleInstall, m.w.ready = false, false, false
}

// disturb is everything that may come from outside between two steps.
func (m *model) disturb(t *rapid.T) {
	switch rapid.SampledFrom([]string{"spec", "exit", "exit", "ready", "time", "kill wings", "remove", "install ends", "install lost", "record lost", "gives up", "none"}).Draw(t, "disturbance") {
	case "spec":
		m.newSpec(t)
	case "exit":
		m.end(engine.Exit{Code: rapid.SampledFrom([]int{0, 3, 137}).Draw(t, "code"), At: m.now})
	case "ready":
		m.w.ready = m.w.game.running()
	case "time":
		m.now = m.now.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "seconds")) * time.Second)
	case "kill wings":
		m.verify()
		m.w.askSent = false
	case "remove":
		m.w.game = box{}
		m.verify()
	case "install ends":
		if m.w.install.running() {
			m.w.install.at, m.w.install.exit = placeExited, engine.Exit{Code: rapid.SampledFrom([]int{0, 7}).Draw(t, "code"), At: m.now}
		}
	case "install lost":
		m.w.install = box{}
	case "record lost": // and with it what had been installed
		m.rec.Observed.Installed, m.rec.Install = false, installPending
		m.w.install = rapid.SampledFrom([]box{{}, {at: placeRunning, id: "x", startedAt: m.now}, {at: placeCreated, id: "x"}}).Draw(t, "install")
		if m.w.game.running() {
			m.w.install = box{}
		}
	case "gives up": // as server.complain does
		if launches[next(m.input()).do] {
			m.rec.Failure = notReadyProblem(1)
			if m.rec.Install == installRunning {
				m.rec.Install = installPending
			}
		}
	}
}

func (m *model) newSpec(t *rapid.T) {
	if m.spec.Desired == wire.DesiredAbsent && m.rec.Wiping {
		return // a wiped server is not placed again at the same epoch
	}
	m.spec.Generation++
	m.spec.Desired = rapid.SampledFrom([]wire.Desired{wire.DesiredRunning, wire.DesiredRunning, wire.DesiredStopped, wire.DesiredAbsent}).Draw(t, "desired")
	m.spec.DeleteID = ""
	if m.spec.Desired == wire.DesiredAbsent {
		m.spec.DeleteID = "d"
	}
	m.spec.RestartCount += int64(rapid.IntRange(0, 1).Draw(t, "restarts"))
	m.spec.KillCount += int64(rapid.IntRange(0, 1).Draw(t, "kills"))
	if m.spec.Install != nil && rapid.IntRange(0, 9).Draw(t, "recipe") == 0 {
		m.spec.Install = nil
	}
	m.spec.ReinstallCount += int64(rapid.IntRange(0, 1).Draw(t, "reinstalls"))
	m.rec.accept(&m.spec)
	m.verify()
}

// safe checks what may never be, before the step is taken.
func (m *model) safe(t *rapid.T, r *row) {
	in := m.input()
	switch r.do {
	case stepNotReady:
		if readyRun(in) || m.w.ready {
			t.Fatalf("%s (%s) of a game that is ready", r.do, r.why)
		}
	case stepPull:
		if m.rec.Failure != nil {
			t.Fatalf("%s (%s) although it was given up", r.do, r.why)
		}
	case stepAskStop, stepAskKill:
		if !m.w.game.running() {
			t.Fatalf("%s (%s) of a game that does not run", r.do, r.why)
		}
	case stepTakeCounters:
		if m.w.game.running() && m.spec.KillCount > m.rec.Observed.KillCount {
			t.Fatalf("%s (%s) takes a kill as done while the game runs", r.do, r.why)
		}
	case stepReinstall:
		if m.w.game.running() || m.w.install.there() {
			t.Fatalf("%s (%s) with game %q and install %q", r.do, r.why, m.w.game.at, m.w.install.at)
		}
	case stepRemoveInstall:
		if m.w.install.running() && m.rec.Install == installRunning && !m.w.staleInstall {
			t.Fatalf("%s (%s) of a running install", r.do, r.why)
		}
	case stepBeginInstall:
		if !m.w.imageKnown || m.w.install.there() {
			t.Fatalf("%s (%s) with image known %v and install %q", r.do, r.why, m.w.imageKnown, m.w.install.at)
		}
	case stepStart, stepCreate:
		if r.do == stepStart && (!m.w.game.there() || !m.w.fresh || !m.w.imageKnown) {
			t.Fatalf("%s (%s) of a container that is %q, verified %v", r.do, r.why, m.w.game.at, m.w.fresh)
		}
		if r.do == stepCreate && m.w.stale && m.w.game.there() {
			t.Fatalf("%s (%s) over one of another spec", r.do, r.why)
		}
		if m.w.game.at == placeExited && !m.rec.Handled.same(boxRun(m.w.game)) {
			t.Fatalf("%s (%s) over an exit that nobody took notice of", r.do, r.why)
		}
		if !wanted(in) || m.w.game.running() || !m.rec.Observed.Installed || m.w.install.running() {
			t.Fatalf("%s (%s) with desired %s, game %q, install %q", r.do, r.why, m.spec.Desired, m.w.game.at, m.w.install.at)
		}
		if m.rec.Failure != nil || m.rec.Ended || m.now.Before(m.rec.NextStart) {
			t.Fatalf("%s (%s) although it was given up, ended or is not due", r.do, r.why)
		}
	case stepCreateInstall, stepStartInstall:
		if r.do == stepCreateInstall && m.w.staleInstall && m.w.install.there() {
			t.Fatalf("%s (%s) over one of another spec", r.do, r.why)
		}
		if r.do == stepStartInstall && (!m.w.install.there() || !m.w.freshInstall) {
			t.Fatalf("%s (%s) of a container that is %q, verified %v", r.do, r.why, m.w.install.at, m.w.freshInstall)
		}
		if m.w.game.running() || m.w.install.running() || m.rec.Observed.Installed || m.rec.Install != installRunning || absent(in) {
			t.Fatalf("%s (%s) with game %q and install %q, phase %q", r.do, r.why, m.w.game.at, m.w.install.at, m.rec.Install)
		}
	case stepWipe, stepForget:
		if r.do == stepForget && !m.rec.Wiping {
			t.Fatalf("%s (%s) with data left", r.do, r.why)
		}
		if !absent(in) || m.spec.DeleteID == "" || m.w.game.there() || m.w.install.there() {
			t.Fatalf("%s (%s) with desired %s, delete id %q, game %q", r.do, r.why, m.spec.Desired, m.spec.DeleteID, m.w.game.at)
		}
	case stepRemove:
		if m.w.game.running() {
			t.Fatalf("%s (%s) of a running game", r.do, r.why)
		}
	case stepKill, stepSendStop:
		if !m.rec.asked(m.w.game) {
			t.Fatalf("%s (%s) that was never journaled", r.do, r.why)
		}
	case stepIdle:
		if !r.settled {
			t.Fatalf("idle (%s) without being settled", r.why)
		}
	case stepWait:
		if askedRunning(in) && !m.w.askSent {
			t.Fatalf("waiting (%s) for the end of a game that was not told", r.why)
		}
		if at := r.until(in); r.settled || at.IsZero() || !at.After(m.now) {
			t.Fatalf("waiting (%s) until %v at %v", r.why, at, m.now)
		}
	}
}

// settle takes steps, waiting where the table waits, until it rests. It fails when that takes more
// than a bounded number.
func (m *model) settle(t *rapid.T) {
	const bound = 120 // steps; the longest life has under 60, with all its restarts
	m.taken = nil
	for range bound {
		r := next(m.input())
		m.safe(t, r)
		if r.do == stepIdle && (r.until == nil || r.until(m.input()).IsZero()) {
			return
		}
		if r.do == stepIdle || r.do == stepWait {
			at := r.until(m.input())
			if m.w.install.running() {
				m.w.install.at, m.w.install.exit = placeExited, engine.Exit{At: m.now}
				continue
			}
			if m.w.game.running() && !m.rec.asked(m.w.game) && !m.w.ready {
				m.w.ready = true
				continue
			}
			m.now = at
			continue
		}
		m.play(t, r)
		if m.forgot {
			return
		}
	}
	t.Fatalf("not settled after %d steps, the last of them %v", bound, m.taken[max(0, len(m.taken)-12):])
}

// checkMany looks at more lives than rapid does by itself: some rows need three things to coincide.
func checkMany(t *testing.T, f func(t *rapid.T)) {
	t.Helper()
	for range 40 {
		rapid.Check(t, f)
	}
}

func TestTheTableIsSafeAndConverges(t *testing.T) {
	t.Parallel()
	checkMany(t, func(t *rapid.T) {
		m := newModel(t)
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			if rapid.IntRange(0, 2).Draw(t, "what") == 0 {
				m.disturb(t)
			}
			r := next(m.input())
			m.safe(t, r)
			m.play(t, r)
			if m.forgot {
				return
			}
		}
		m.settle(t)
		o := m.rec.Observed
		if m.forgot {
			return
		}
		if m.w.game.at == placeExited && !m.rec.Handled.same(boxRun(m.w.game)) {
			t.Fatalf("rests on an exit that nobody took notice of")
		}
		if m.w.install.there() {
			t.Fatalf("rests with an install container that is %q", m.w.install.at)
		}
		switch m.spec.Desired {
		case wire.DesiredAbsent:
			t.Fatalf("desired absent rests without being forgotten")
		case wire.DesiredStopped:
			if m.w.game.running() {
				t.Fatalf("desired stopped rests with a running game")
			}
		case wire.DesiredRunning:
			resting := m.rec.Failure != nil || m.rec.Ended || m.rec.Install == installFailed
			if m.w.game.running() && !readyRun(m.input()) {
				t.Fatalf("rests with a running game that nobody wrote down as ready")
			}
			if !m.w.game.running() && !resting {
				t.Fatalf("desired running rests without a game or a reason: %+v", m.rec)
			}
		}
		if m.rec.Install != installFailed && m.rec.Failure == nil &&
			(o.RestartCount != m.spec.RestartCount || o.KillCount != m.spec.KillCount || o.ReinstallCount != m.spec.ReinstallCount) {
			t.Fatalf("rests with counters behind: %+v of %+v", o, m.spec)
		}
		before := m.starts
		m.settle(t)
		if m.starts != before {
			t.Fatalf("a settled server started again")
		}
	})
}

func TestARestartCounterStartsOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		m.settle(t)
		before := m.starts
		m.spec.Generation++
		m.spec.RestartCount += int64(rapid.IntRange(1, 9).Draw(t, "behind"))
		m.rec.accept(&m.spec)
		m.verify()
		for range rapid.IntRange(0, 12).Draw(t, "steps before the kill") {
			r := next(m.input())
			if r.do == stepIdle {
				break
			}
			if r.do == stepWait && !m.w.game.running() {
				break
			}
			m.play(t, r)
		}
		m.w.askSent = false
		m.verify()
		m.settle(t)
		if m.starts != before+1 {
			t.Fatalf("a restart counter and a kill of wings made %d starts, want 1 (%v)", m.starts-before, m.taken)
		}
	})
}

func TestEveryRowOfTheTableHasItsSentence(t *testing.T) {
	t.Parallel()
	var seen []string
	for _, r := range table {
		if r.why == "" || r.holds == nil || r.do == "" || r.state == "" || slices.Contains(seen, r.why) {
			t.Errorf("row %q is not complete, or there twice", r.why)
		}
		if r.settled != (r.do == stepIdle) {
			t.Errorf("row %q is settled and does %s", r.why, r.do)
		}
		if r.do == stepWait && r.until == nil {
			t.Errorf("row %q waits for ever", r.why)
		}
		seen = append(seen, r.why)
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name    string
		policy  wire.CrashPolicy
		attempt int64
		want    time.Duration
	}{
		{"the first wait is the least", wire.CrashPolicy{BackoffMinMS: 1000, BackoffMaxMS: 60_000}, 1, time.Second},
		{"it doubles each time", wire.CrashPolicy{BackoffMinMS: 1000, BackoffMaxMS: 60_000}, 4, 8 * time.Second},
		{"it is bounded", wire.CrashPolicy{BackoffMinMS: 1000, BackoffMaxMS: 60_000}, 40, time.Minute},
		{"a policy of nothing still waits", wire.CrashPolicy{}, 1, minBackoff},
		{"a bound below the least is the least", wire.CrashPolicy{BackoffMinMS: 5000, BackoffMaxMS: 1000}, 3, 5 * time.Second},
		{"a huge attempt does not overflow", wire.CrashPolicy{BackoffMinMS: 1, BackoffMaxMS: 1 << 40}, 1 << 40, time.Duration(1<<40) * time.Millisecond},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := backoff(c.policy, c.attempt); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

func TestCountersOfAPanelThatWasRestoredFromABackup(t *testing.T) {
	t.Parallel()
	spec := running(1)
	spec.RestartCount = 9
	var rec record
	rec.accept(&spec)
	if rec.Observed.RestartCount != 9 {
		t.Errorf("a fresh placement is %d restarts behind", 9-rec.Observed.RestartCount)
	}
	spec.Generation, spec.RestartCount = 2, 4
	rec.accept(&spec)
	spec.Generation, spec.RestartCount = 3, 5
	rec.accept(&spec)
	if in := (&input{spec: &spec, rec: &rec}); !restartDue(in) {
		t.Errorf("a restart after the panel counted from lower again is not seen")
	}
}
