package servers

import (
	"slices"

	"github.com/mambahost/mamba/wings/wire"
)

// Phase is what a customer is told about a server. It is derived, never set by hand: Derive takes
// what is wanted and what the node has last said, and every change has to be in transitions.
//
//	            create                          start
//	(none) ──► INSTALLING ──► STOPPED ◄────────────────────► STARTING ──► RUNNING
//	               │  ▲          ▲  ▲                          │  │  ▲       │ │
//	     script ≠ 0│  │reinstall │  └──── STOPPING ◄───────────┘  │  │ready  │ │exit
//	               ▼  │          │           ▲   stop             │  │       │ │unasked
//	          INSTALL_FAILED     │           └────────────────────┼──┼───────┘ ▼
//	                             └── FAILED ◄─────────────────────┴──┴───── CRASHED
//
// A server whose first install failed is withdrawn: its node is told that it is absent, under a delete
// id of its own, and its ports are free once the node says so. A reinstall places it anew. One that
// had been installed before keeps its data and its ports.
//
//	node silent: any of them ⇄ UNREACHABLE        delete: any of them ──► DELETING ──► DELETED
//
// SUSPENDED is an overlay on top (column suspended), HIBERNATED, TRANSFERRING and RESTORING belong
// to capabilities that enter them by themselves.
type Phase string

// The phases, each with the one thing that is true in it.
const (
	Installing    Phase = "INSTALLING"     // the node fetches the image or runs the install script
	InstallFailed Phase = "INSTALL_FAILED" // nothing runs; the problem says why
	Stopped       Phase = "STOPPED"        // installed, no process
	Starting      Phase = "STARTING"       // asked to run; the game has not said that it is ready
	Running       Phase = "RUNNING"        // ready for players
	Stopping      Phase = "STOPPING"       // asked to end; the process may still be there
	Crashed       Phase = "CRASHED"        // ended unasked; the node starts it again by itself
	Failed        Phase = "FAILED"         // the node gave up; a person has to decide
	Unreachable   Phase = "UNREACHABLE"    // the node is silent; the game may well be running
	Deleting      Phase = "DELETING"       // no way back; data and ports are being removed
	Deleted       Phase = "DELETED"        // gone; the row stays for the bill and the audit log
)

// transitions is the whole table. A phase may always be derived again as itself.
var transitions = map[Phase][]Phase{
	Installing:    {InstallFailed, Stopped, Starting, Running, Stopping, Crashed, Failed, Unreachable, Deleting},
	InstallFailed: {Installing, Stopped, Starting, Running, Stopping, Crashed, Failed, Unreachable, Deleting}, // the node's newest word counts
	Stopped:       {Installing, InstallFailed, Starting, Running, Stopping, Crashed, Failed, Unreachable, Deleting},
	Starting:      {Installing, InstallFailed, Stopped, Running, Stopping, Crashed, Failed, Unreachable, Deleting},
	Running:       {Installing, InstallFailed, Stopped, Starting, Stopping, Crashed, Failed, Unreachable, Deleting},
	Stopping:      {Installing, InstallFailed, Stopped, Starting, Running, Crashed, Failed, Unreachable, Deleting},
	Crashed:       {Installing, InstallFailed, Stopped, Starting, Running, Stopping, Failed, Unreachable, Deleting},
	Failed:        {Installing, InstallFailed, Stopped, Starting, Running, Stopping, Crashed, Unreachable, Deleting},
	Unreachable:   {Installing, InstallFailed, Stopped, Starting, Running, Stopping, Crashed, Failed, Deleting},
	Deleting:      {Deleted},
	Deleted:       {},
}

// May reports whether a server may go from one phase to the other.
func May(from, to Phase) bool { return from == to || slices.Contains(transitions[from], to) }

// Action is what a customer can ask of a server.
type Action string

// The actions. Each needs the permission server.<action>.
const (
	Start     Action = "start"
	Stop      Action = "stop"
	Restart   Action = "restart"
	Kill      Action = "kill"
	Reinstall Action = "reinstall"
	Update    Action = "update"
	Delete    Action = "delete"
)

// actions says what makes sense in each phase. The screen shows these and no others, and a request
// for another is answered 409.
var actions = map[Phase][]Action{
	Installing:    {Update, Delete},
	InstallFailed: {Reinstall, Update, Delete},
	Stopped:       {Start, Reinstall, Update, Delete},
	Starting:      {Stop, Restart, Kill, Update, Delete},
	Running:       {Stop, Restart, Kill, Reinstall, Update, Delete},
	Stopping:      {Start, Kill, Update, Delete},
	Crashed:       {Start, Stop, Reinstall, Update, Delete},
	Failed:        {Start, Reinstall, Update, Delete},
	Unreachable:   {Start, Stop, Delete},
	Deleting:      {},
	Deleted:       {},
}

// Possible returns the actions that make sense in a phase.
func Possible(p Phase) []Action { return actions[p] }

// Want is what the panel asks of a node for one server, as far as the phase depends on it.
type Want struct {
	Desired    wire.Desired // effective: stopped while suspended
	Withdrawn  bool         // its placement was taken back; the node is told that it is absent
	Epoch      int64
	Generation int64
	DeleteID   string
	Install    string // servers.install_status: how far the newest install has got
}

// Values of servers.install_status.
const (
	installPending = "PENDING" // asked for; the node has not begun
	installRunning = "RUNNING"
	installDone    = "DONE"
	installFailed  = "FAILED"
)

// Derive returns the phase of a server: from what is wanted, the last observation that counted (nil:
// none of this epoch yet) and whether the node can be heard. prev is kept where nothing newer is
// known. It is pure.
func Derive(prev Phase, want Want, seen *wire.Observed, nodeOnline bool) Phase {
	switch {
	case prev == Deleted:
		return Deleted
	case want.Desired == wire.DesiredAbsent:
		if absence(seen) && seen.DeleteID == want.DeleteID {
			return Deleted
		}
		return Deleting
	case want.Withdrawn:
		return InstallFailed // whether or not the node can be heard: nothing of it will be there
	case !nodeOnline:
		return Unreachable
	case seen == nil || seen.PlacementEpoch != want.Epoch:
		return waiting(prev)
	case seen.Generation < want.Generation:
		return asked(prev, want, seen)
	}
	return observed(want, seen)
}

// waiting is the phase while the node has said nothing of this placement.
func waiting(prev Phase) Phase {
	if prev != Unreachable && prev != "" {
		return prev
	}
	return Installing
}

// asked is the phase between a command and the node's first word about it: the command shows at
// once, what the node says of older generations does not. A server that was out of reach meanwhile
// shows what the command leads to from there.
func asked(prev Phase, want Want, seen *wire.Observed) Phase {
	if prev != Unreachable {
		return prev
	}
	before := observed(want, seen)
	switch {
	case before == Installing, want.Install == installPending, want.Install == installRunning:
		return Installing
	case before == InstallFailed && want.Desired == wire.DesiredRunning: // the node installs it again first
		return Installing
	case want.Desired == wire.DesiredRunning && before != Running:
		return Starting
	case want.Desired == wire.DesiredStopped && before == Starting:
		return Stopping
	}
	return before
}

// observed translates the node's state.
func observed(want Want, o *wire.Observed) Phase {
	switch o.State {
	case wire.StateInstallFailed:
		return InstallFailed
	case wire.StateInstalling:
		return Installing
	case wire.StateFailed:
		if !o.Installed {
			return InstallFailed
		}
		return Failed
	case wire.StateAbsent, wire.StatePulling, wire.StateStopped:
		return notStarted(want, o)
	case wire.StateStarting:
		return Starting
	case wire.StateRunning:
		if want.Desired == wire.DesiredStopped {
			return Stopping
		}
		return Running
	case wire.StateStopping, wire.StateDeleting: // of an older delete: it ends in absent
		return Stopping
	case wire.StateCrashed:
		return Crashed
	}
	return notStarted(want, o) // a node that does not know yet
}

func notStarted(want Want, o *wire.Observed) Phase {
	switch {
	case !o.Installed:
		return Installing
	case want.Desired == wire.DesiredRunning && !o.Settled:
		return Starting
	}
	return Stopped
}

// After returns the phase that a server has right after a command, before the node knows.
func After(prev Phase, a Action) Phase {
	switch a {
	case Start, Restart:
		if prev == Unreachable {
			return prev
		}
		return Starting
	case Stop, Kill:
		if prev == Unreachable {
			return prev
		}
		return Stopping
	case Reinstall:
		return Installing
	case Delete:
		return Deleting
	}
	return prev
}
