package agent

import (
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// run names one run of one container: a container that is started again has a new StartedAt.
type run struct {
	ID        string    `json:"id,omitempty"`
	StartedAt time.Time `json:"started_at,omitzero"`
}

func (r run) zero() bool           { return r.ID == "" }
func (r run) same(o run) bool      { return !r.zero() && r.ID == o.ID && r.StartedAt.Equal(o.StartedAt) }
func boxRun(b box) run             { return run{ID: b.id, StartedAt: b.startedAt} }
func (r *record) asked(b box) bool { return r.Asked.Run.same(boxRun(b)) }

// ask is the journal of "this run shall end". It is written before the first signal is sent, so
// that an exit is known to be asked for whoever is killed in between.
type ask struct {
	Run  run       `json:"run,omitzero"`
	At   time.Time `json:"at,omitzero"`    // when; the grace period counts from here, across wings restarts
	Kill bool      `json:"kill,omitempty"` // without grace
}

// installPhase says how far the install of the present ReinstallCount has got.
type installPhase string

const (
	installPending installPhase = ""        // has not begun; what is there of an install container is stale
	installRunning installPhase = "running" // journaled before its container is made
	installDone    installPhase = "done"
	installFailed  installPhase = "failed"
)

// Bounds of what a record does by itself.
const (
	maxInstallReruns = 3                      // installs that the machine interrupted, not the script
	minBackoff       = 100 * time.Millisecond // floor under a policy of 0 ms
	forgiveWithin    = 30 * time.Second       // an engine that goes away this soon after an exit caused it
	outsideBackoff   = 5 * time.Second        // least wait after a signal from outside: the engine may be stopping
)

// record is the durable half of a server (state.json), owned by its run loop. Its methods are pure:
// they decide, and touch nothing but the record.
type record struct {
	Observed  wire.Observed `json:"observed"`  // as it is now; counters and Installed live here only
	Published wire.Observed `json:"published"` // as last made public, with its Revision

	Install         installPhase  `json:"install,omitempty"`
	InstallTimedOut bool          `json:"install_timed_out,omitempty"` // journaled before the kill
	InstallReruns   int           `json:"install_reruns,omitempty"`
	Ready           run           `json:"ready,omitzero"`   // the run that said it is ready
	Handled         run           `json:"handled,omitzero"` // the last run whose end was taken notice of
	Asked           ask           `json:"asked,omitzero"`
	Failure         *wire.Problem `json:"failure,omitempty"`   // given up, until a newer generation or restart counter
	Trouble         *wire.Problem `json:"trouble,omitempty"`   // why it waits for its next attempt
	Ended           bool          `json:"ended,omitempty"`     // the game ended by itself with code 0
	NextStart       time.Time     `json:"next_start,omitzero"` // not before
	CrashAt         time.Time     `json:"crash_at,omitzero"`   // of the last unasked exit while it is in doubt; zero: none is
	Outside         bool          `json:"outside,omitempty"`   // that exit looks like a signal from outside, or a polite answer to one
	CrashesBefore   int64         `json:"crashes_before,omitempty"`
	LostAt          time.Time     `json:"lost_at,omitzero"` // of the last exit that nobody watched
	Wiping          bool          `json:"wiping,omitempty"` // data removal has begun
	Outbox          []wire.Event  `json:"outbox,omitempty"` // crash and install reports not yet handed over; at most maxOutbox
}

// accept makes spec the record's own. It clears what a newer generation clears.
func (r *record) accept(spec *wire.Spec) {
	o := &r.Observed
	fresh := o.Generation == 0
	newer := spec.PlacementEpoch > o.PlacementEpoch || spec.Generation > o.Generation
	o.ServerID, o.PlacementEpoch, o.Generation = spec.ServerID, spec.PlacementEpoch, spec.Generation
	o.DeleteID = ""
	if fresh { // nothing ever ran here: there is nothing to restart, kill or install again
		o.RestartCount, o.KillCount, o.ReinstallCount = spec.RestartCount, spec.KillCount, spec.ReinstallCount
	}
	// A panel that was restored from a backup counts from lower again.
	o.RestartCount = min(o.RestartCount, spec.RestartCount)
	o.KillCount = min(o.KillCount, spec.KillCount)
	o.ReinstallCount = min(o.ReinstallCount, spec.ReinstallCount)
	if !newer {
		return
	}
	failure := r.Failure
	r.pardon()
	switch {
	case r.Install == installFailed && spec.Desired == wire.DesiredRunning:
		r.Install, r.InstallTimedOut, r.InstallReruns = installPending, false, 0
	case r.Install == installFailed:
		r.Failure = failure
	}
	if r.Wiping && spec.Desired != wire.DesiredAbsent { // placed again while its data was going
		r.Wiping, r.Install, o.Installed = false, installPending, false
	}
}

// pardon forgets every reason not to start.
func (r *record) pardon() {
	r.Failure, r.Trouble, r.Ended = nil, nil, false
	r.NextStart, r.CrashAt, r.LostAt = time.Time{}, time.Time{}, time.Time{}
	r.Observed.CrashCount, r.CrashesBefore = 0, 0
}

// askStop journals that the run in b shall end.
func (r *record) askStop(b box, kill bool, now time.Time) {
	if r.asked(b) {
		r.Asked.Kill = r.Asked.Kill || kill
		return
	}
	r.Asked = ask{Run: boxRun(b), At: now, Kill: kill}
}

// takeCounters journals every power counter of spec as reached; the step that follows acts once.
// An old failure is forgiven when a restart was among them.
func (r *record) takeCounters(spec *wire.Spec) {
	o := &r.Observed
	if spec.RestartCount > o.RestartCount {
		r.pardon()
	}
	o.RestartCount, o.KillCount = spec.RestartCount, spec.KillCount
}

// verdict is what an exit was taken for.
type verdict string

const (
	verdictAsked  verdict = "asked"  // we, or a desired state other than running, ended it
	verdictLost   verdict = "lost"   // nobody watched: wings or the engine was away
	verdictClean  verdict = "clean"  // code 0, unasked: somebody typed stop in the game
	verdictCrash  verdict = "crash"  // will be tried again
	verdictGiveUp verdict = "giveup" // was the last attempt
)

// noteExit takes notice of the end of the run in b, once. witnessed says that wings watched it end
// with the engine well; only then is it held against the game.
func (r *record) noteExit(spec *wire.Spec, b box, witnessed bool, now time.Time) verdict {
	o := &r.Observed
	asked := r.asked(b) || spec.Desired != wire.DesiredRunning
	r.Handled, r.Asked, r.Ready = boxRun(b), ask{}, run{}
	code := b.exit.Code
	r.CrashAt, r.Outside = time.Time{}, !b.exit.OOMKilled && (code == 0 || code == 137 || code == 143)
	o.ExitCode, o.ExitedAt, o.OOMKilled = &code, b.exit.At, b.exit.OOMKilled
	switch {
	case asked:
		return verdictAsked
	case !witnessed:
		// The first comes back at once. One that follows before a stable run waits, so that an
		// engine that breaks at each start is not driven in circles.
		if !r.LostAt.IsZero() && now.Sub(r.LostAt) < max(stableAfter(spec), forgiveWithin) {
			r.NextStart = now.Add(backoff(spec.Crash, 1))
		}
		r.LostAt = now
		return verdictLost
	case code == 0 && !b.exit.OOMKilled:
		r.CrashAt, r.CrashesBefore, r.Ended = now, o.CrashCount, true
		return verdictClean
	}
	if stable := stableAfter(spec); stable > 0 && b.exit.At.Sub(b.startedAt) >= stable {
		o.CrashCount = 0
	}
	r.CrashAt, r.CrashesBefore = now, o.CrashCount
	o.CrashCount++
	r.Trouble = crashProblem(b.exit)
	if o.CrashCount > spec.Crash.MaxAttempts {
		r.Failure = r.Trouble
		return verdictGiveUp
	}
	wait := backoff(spec.Crash, o.CrashCount)
	if r.Outside {
		wait = max(wait, outsideBackoff)
	}
	r.NextStart = now.Add(wait)
	return verdictCrash
}

// forgive takes the last exit back when the engine went away right after it: then the engine's own
// stop ended the game. It reports whether there was one to forgive.
func (r *record) forgive(now time.Time) bool {
	if r.CrashAt.IsZero() || now.Sub(r.CrashAt) > forgiveWithin {
		return false
	}
	r.Observed.CrashCount = r.CrashesBefore
	r.Failure, r.Trouble, r.Ended = nil, nil, false
	r.NextStart, r.CrashAt = time.Time{}, time.Time{}
	return true
}

// restored takes back an exit that was still in doubt when wings ended, if it looks like the work of
// a machine that was shutting down: engine and wings then went away together.
func (r *record) restored() bool {
	return r.Outside && !r.CrashAt.IsZero() && r.forgive(r.CrashAt)
}

// beginReinstall journals that the data is not installed any more. The container of an earlier
// install is gone by then (the table says so), so no old exit code can be taken for the new one.
func (r *record) beginReinstall(spec *wire.Spec) {
	r.pardon()
	r.Install, r.InstallTimedOut, r.InstallReruns = installPending, false, 0
	r.Observed.Installed, r.Observed.ReinstallCount = false, spec.ReinstallCount
}

// noteInstall takes notice of the end of the install container. It returns false when the machine
// interrupted it, not the script: then it runs again, at most maxInstallReruns times.
func (r *record) noteInstall(exit engine.Exit, witnessed bool) (concluded bool) {
	signalled := exit.Code == 137 || exit.Code == 143 || exit.Code == 255
	if !witnessed && signalled && !exit.OOMKilled && !r.InstallTimedOut && r.InstallReruns < maxInstallReruns {
		r.InstallReruns++
		r.Install = installPending
		return false
	}
	if exit.Code == 0 && !r.InstallTimedOut {
		r.Install, r.Observed.Installed, r.Failure = installDone, true, nil
		return true
	}
	r.Install, r.Observed.Installed = installFailed, false
	r.Failure = installProblem(exit, r.InstallTimedOut)
	return true
}

func stableAfter(spec *wire.Spec) time.Duration {
	return time.Duration(spec.Crash.StableS) * time.Second
}

// backoff is how long to wait before the attempt-th restart (from 1): min × 2^(attempt−1), at most max.
func backoff(p wire.CrashPolicy, attempt int64) time.Duration {
	d := max(time.Duration(p.BackoffMinMS)*time.Millisecond, minBackoff)
	limit := max(time.Duration(p.BackoffMaxMS)*time.Millisecond, d)
	for i := int64(1); i < attempt && d < limit; i++ {
		d *= 2
	}
	return min(d, limit)
}
