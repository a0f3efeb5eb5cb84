package agent

import (
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// place says where a container is in its life.
type place string

const (
	placeNone    place = ""        // no such container
	placeCreated place = "created" // made, never started
	placeRunning place = "running"
	placeExited  place = "exited" // ran and ended
)

// box is what the engine says of one of the two containers a server can have.
type box struct {
	at        place
	id        string
	startedAt time.Time
	exit      engine.Exit
}

func (b box) there() bool   { return b.at != placeNone }
func (b box) running() bool { return b.at == placeRunning }

// world is what is true outside the record: the engine's word, and what this process has verified
// since the last exit.
type world struct {
	game, install box
	imageKnown    bool // the image of spec is on the node
	fresh         bool // the game's container is what spec asks for
	stale         bool // it is not: the engine said so
	freshInstall  bool // the install container is what spec asks for
	staleInstall  bool
	askSent       bool // this process has sent the stop that the record asks for
	ready         bool // the run has been seen to be ready
}

// input is all that the next step depends on.
type input struct {
	spec *wire.Spec
	rec  *record
	w    world
	now  time.Time
}

// step is one thing to do. Each has at most one effect outside the record, so that it can be told
// after a kill whether it happened.
type step string

const (
	stepIdle          step = "idle"           // settled; a newer spec or an event changes that
	stepWait          step = "wait"           // for an event, or until the row's time
	stepAskStop       step = "ask_stop"       // journal that this run shall end
	stepAskKill       step = "ask_kill"       // the same, without grace
	stepSendStop      step = "send_stop"      // the stop command or signal
	stepKill          step = "kill"           // SIGKILL
	stepNoteExit      step = "note_exit"      // journal how the run ended
	stepTakeCounters  step = "take_counters"  // journal restart and kill counters as reached
	stepRemove        step = "remove"         // the game's container
	stepRemoveInstall step = "remove_install" // the install container
	stepReinstall     step = "reinstall"      // journal that the data is not installed any more
	stepSkipInstall   step = "skip_install"   // journal that there is nothing to install
	stepPull          step = "pull"           // make the game's image available
	stepBeginInstall  step = "begin_install"  // journal that an install runs; only then make its container
	stepCreateInstall step = "create_install"
	stepStartInstall  step = "start_install"
	stepTimeOut       step = "time_out"     // journal that the install took too long
	stepKillInstall   step = "kill_install" // SIGKILL
	stepNoteInstall   step = "note_install" // journal how the install ended
	stepCreate        step = "create"
	stepStart         step = "start" // render the config files, then start
	stepNotReady      step = "not_ready"
	stepNoteReady     step = "note_ready"
	stepNoteStable    step = "note_stable"  // journal that the crash count starts over
	stepNoteCertain   step = "note_certain" // journal that the last exit was not the engine's doing
	stepWipe          step = "wipe"         // remove data and network; only with a delete id
	stepForget        step = "forget"       // leave a tombstone
)

// row is one line of the table: when holds, do, and what to show meanwhile.
type row struct {
	why     string
	holds   func(in *input) bool
	do      step
	state   wire.State
	settled bool
	until   func(in *input) time.Time // with stepWait and stepIdle: look again then; nil or zero: on an event only
}

// The life of a server on its node. next walks the rows from the top and takes the first that
// holds, so what stands above wins: an exit is noticed before anything is decided, a run that was
// asked to end ends, deletion goes before everything that makes.
//
//	                        reinstall counter
//	        ┌──────────────────────────────────────────────────────┐
//	        ▼                                                      │
//	absent ─► pulling ─► installing ─► stopped ─► starting ─► running
//	             │            │         ▲   ▲        │   │       │
//	 image gone  ▼   code≠0   ▼    exit │   │ code 0 │   │ exit  │ unasked exit
//	          failed   install_failed   │   └────────┘   ▼ ≠0    ▼
//	             ▲                   stopping ◄──────  crashed ─► starting   (backoff, counted)
//	             │                                       │
//	             └─────────── attempts used up, ◄────────┘
//	                          never ready
//	any ─► deleting ─► absent         only with desired = absent and its delete id
//
// failed and install_failed rest until a newer generation or a counter rises. A game that ends
// unasked with code 0 was told to by somebody inside it (a player's /stop): it rests as stopped,
// settled and without a problem, and the guard leaves it alone. A container that differs from the
// spec is made again at the next start, never while it runs.
var table = []row{
	// A run that has ended is taken notice of first.
	{"a run ended and nobody has noticed", func(in *input) bool {
		return in.w.game.at == placeExited && !in.rec.Handled.same(boxRun(in.w.game))
	}, stepNoteExit, wire.StateStopping, false, nil},
	{"the engine has outlived the last exit, so it was the game's own", func(in *input) bool {
		return !in.rec.CrashAt.IsZero() && in.now.Sub(in.rec.CrashAt) >= forgiveWithin
	}, stepNoteCertain, wire.StateStopped, false, nil},

	// A run that shall end, ends.
	{"a kill was asked for and the game runs", func(in *input) bool {
		return in.w.game.running() && in.spec.KillCount > in.rec.Observed.KillCount
	}, stepAskKill, wire.StateStopping, false, nil},
	{"the run was asked to end and its grace is over", func(in *input) bool {
		return askedRunning(in) && (in.rec.Asked.Kill || !in.now.Before(graceEnd(in)))
	}, stepKill, wire.StateStopping, false, nil},
	{"the run shall end and this process has not said so", func(in *input) bool {
		return askedRunning(in) && !in.w.askSent
	}, stepSendStop, wire.StateStopping, false, nil},
	{"the run was told to end and has its grace", askedRunning, stepWait, wire.StateStopping, false, graceEnd},

	// Absence, only with the delete id that Validate demands.
	{"absent, and the game runs", func(in *input) bool { return absent(in) && in.w.game.running() },
		stepAskStop, wire.StateDeleting, false, nil},
	{"absent, and the install runs", func(in *input) bool { return absent(in) && in.w.install.running() },
		stepKillInstall, wire.StateDeleting, false, nil},
	{"absent, and an install container is left", func(in *input) bool { return absent(in) && in.w.install.there() },
		stepRemoveInstall, wire.StateDeleting, false, nil},
	{"absent, and a container is left", func(in *input) bool { return absent(in) && in.w.game.there() },
		stepRemove, wire.StateDeleting, false, nil},
	{"absent, and data is left", func(in *input) bool { return absent(in) && !in.rec.Wiping },
		stepWipe, wire.StateDeleting, false, nil},
	{"absent", absent, stepForget, wire.StateDeleting, false, nil},

	// Installation. The container of a concluded install goes before anything new is journaled.
	{"the game runs on data that is not installed", func(in *input) bool { return !in.rec.Observed.Installed && in.w.game.running() },
		stepAskStop, wire.StateStopping, false, nil},
	{"the install has ended and its container is left", func(in *input) bool {
		return in.w.install.there() && (in.rec.Install == installDone || in.rec.Install == installFailed)
	}, stepRemoveInstall, wire.StateInstalling, false, nil},
	{"a reinstall was asked for and the game runs", func(in *input) bool { return reinstallDue(in) && in.w.game.running() },
		stepAskStop, wire.StateStopping, false, nil},
	{"a reinstall was asked for and an install runs", func(in *input) bool { return reinstallDue(in) && in.w.install.running() },
		stepKillInstall, wire.StateInstalling, false, nil},
	{"a reinstall was asked for and an install container is left", func(in *input) bool { return reinstallDue(in) && in.w.install.there() },
		stepRemoveInstall, wire.StateInstalling, false, nil},
	{"a reinstall was asked for", reinstallDue, stepReinstall, wire.StateInstalling, false, nil},
	{"the install runs and its time is over", func(in *input) bool {
		return in.w.install.running() && in.rec.Install == installRunning && !in.rec.InstallTimedOut && !in.now.Before(installEnd(in))
	}, stepTimeOut, wire.StateInstalling, false, nil},
	{"the install runs too long", func(in *input) bool {
		return in.w.install.running() && in.rec.Install == installRunning && in.rec.InstallTimedOut
	}, stepKillInstall, wire.StateInstalling, false, nil},
	{"the install runs", func(in *input) bool { return in.w.install.running() && in.rec.Install == installRunning },
		stepWait, wire.StateInstalling, false, installEnd},
	{"the install ended", func(in *input) bool { return in.w.install.at == placeExited && in.rec.Install == installRunning },
		stepNoteInstall, wire.StateInstalling, false, nil},
	{"an install container is there that nobody journaled", func(in *input) bool {
		return in.w.install.there() && in.rec.Install == installPending
	}, stepRemoveInstall, wire.StateInstalling, false, nil},
	{"the install failed", func(in *input) bool { return in.rec.Install == installFailed },
		stepIdle, wire.StateInstallFailed, true, nil},
	{"it cannot be installed", func(in *input) bool { return !in.rec.Observed.Installed && in.rec.Failure != nil },
		stepIdle, wire.StateFailed, true, nil},
	{"there is nothing to install", func(in *input) bool {
		return !in.rec.Observed.Installed && in.spec.Install == nil && !in.w.install.there()
	},
		stepSkipInstall, wire.StateInstalling, false, nil},
	{"not installed, and the image is not known", func(in *input) bool { return !in.rec.Observed.Installed && !in.w.imageKnown },
		stepPull, wire.StatePulling, false, nil},
	{"not installed", func(in *input) bool { return !in.rec.Observed.Installed && in.rec.Install == installPending },
		stepBeginInstall, wire.StateInstalling, false, nil},
	{"the install container is of another spec", func(in *input) bool { return !in.rec.Observed.Installed && in.w.staleInstall && in.w.install.there() },
		stepRemoveInstall, wire.StateInstalling, false, nil},
	{"the install container is not made or not verified", func(in *input) bool {
		return !in.rec.Observed.Installed && (!in.w.install.there() || !in.w.freshInstall)
	}, stepCreateInstall, wire.StateInstalling, false, nil},
	{"the install container is made", func(in *input) bool { return !in.rec.Observed.Installed },
		stepStartInstall, wire.StateInstalling, false, nil},

	// Power.
	{"a restart was asked for and the game runs", func(in *input) bool { return restartDue(in) && in.w.game.running() && wanted(in) },
		stepAskStop, wire.StateStopping, false, nil},
	{"a counter is behind and nothing runs that it concerns", func(in *input) bool {
		return restartDue(in) || in.spec.KillCount > in.rec.Observed.KillCount
	}, stepTakeCounters, wire.StateStopped, false, nil},
	{"stopped is wished and the game runs", func(in *input) bool { return !wanted(in) && in.w.game.running() },
		stepAskStop, wire.StateStopping, false, nil},
	{"stopped is wished", func(in *input) bool { return !wanted(in) }, stepIdle, wire.StateStopped, true, nil},

	// From here on running is wished.
	{"the game is ready and that is not written down", func(in *input) bool {
		return in.w.game.running() && in.w.ready && !in.rec.Ready.same(boxRun(in.w.game))
	}, stepNoteReady, wire.StateRunning, false, nil},
	{"the game has run for long enough", func(in *input) bool {
		return in.w.game.running() && readyRun(in) && in.rec.Observed.CrashCount > 0 && !stableAt(in).IsZero() && !in.now.Before(stableAt(in))
	}, stepNoteStable, wire.StateRunning, false, nil},
	{"the game is ready", func(in *input) bool { return in.w.game.running() && readyRun(in) },
		stepIdle, wire.StateRunning, true, stableAt},
	{"the game is not ready and its time is over", func(in *input) bool {
		return in.w.game.running() && !in.now.Before(readyEnd(in))
	}, stepNotReady, wire.StateStarting, false, nil},
	{"the game runs and is not ready", func(in *input) bool { return in.w.game.running() },
		stepWait, wire.StateStarting, false, readyEnd},
	{"it was given up", func(in *input) bool { return in.rec.Failure != nil }, stepIdle, wire.StateFailed, true, nil},
	{"the game ended by itself, cleanly", func(in *input) bool { return in.rec.Ended }, stepIdle, wire.StateStopped, true, nil},
	{"the next attempt is not due", func(in *input) bool { return in.now.Before(in.rec.NextStart) },
		stepWait, wire.StateCrashed, false, func(in *input) time.Time { return in.rec.NextStart }},
	{"the image is not known", func(in *input) bool { return !in.w.imageKnown }, stepPull, wire.StatePulling, false, nil},
	{"the container is of another spec", func(in *input) bool { return in.w.stale && in.w.game.there() },
		stepRemove, wire.StateStarting, false, nil},
	{"the container is not made or not verified", func(in *input) bool { return !in.w.game.there() || !in.w.fresh },
		stepCreate, wire.StateStarting, false, nil},
	{"the container is made", func(*input) bool { return true }, stepStart, wire.StateStarting, false, nil},
}

// next decides. It is pure: the same input, the same row. The last row always holds.
func next(in *input) *row {
	for i := range table {
		if table[i].holds(in) {
			return &table[i]
		}
	}
	panic("agent: the table has no last row")
}

func absent(in *input) bool       { return in.spec.Desired == wire.DesiredAbsent }
func wanted(in *input) bool       { return in.spec.Desired == wire.DesiredRunning }
func askedRunning(in *input) bool { return in.w.game.running() && in.rec.asked(in.w.game) }
func readyRun(in *input) bool     { return in.rec.Ready.same(boxRun(in.w.game)) }
func restartDue(in *input) bool   { return in.spec.RestartCount > in.rec.Observed.RestartCount }
func reinstallDue(in *input) bool { return in.spec.ReinstallCount > in.rec.Observed.ReinstallCount }

// maxDeleteGrace bounds the grace of a spec that says nothing else (desired absent is valid without).
const maxDeleteGrace = 30 * time.Second

func graceEnd(in *input) time.Time {
	grace := time.Duration(in.spec.Stop.TimeoutS) * time.Second
	if grace <= 0 {
		grace = maxDeleteGrace
	}
	return in.rec.Asked.At.Add(grace)
}

func installEnd(in *input) time.Time {
	if in.spec.Install == nil { // the recipe lost its install step while it ran
		return in.now
	}
	return in.w.install.startedAt.Add(time.Duration(in.spec.Install.TimeoutS) * time.Second)
}

func readyEnd(in *input) time.Time {
	return in.w.game.startedAt.Add(time.Duration(in.spec.Ready.TimeoutS) * time.Second)
}

// stableAt is when the run has been long enough to start the crash count over; zero: never.
func stableAt(in *input) time.Time {
	if in.spec.Crash.StableS <= 0 || in.rec.Observed.CrashCount == 0 {
		return time.Time{}
	}
	return in.w.game.startedAt.Add(stableAfter(in.spec))
}
