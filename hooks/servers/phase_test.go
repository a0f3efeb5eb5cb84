package servers

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

var allPhases = []Phase{Installing, InstallFailed, Stopped, Starting, Running, Stopping, Crashed, Failed, Unreachable, Deleting, Deleted}

var allStates = []wire.State{
	wire.StateAbsent, wire.StatePulling, wire.StateInstalling, wire.StateInstallFailed, wire.StateStopped, wire.StateStarting,
	wire.StateRunning, wire.StateStopping, wire.StateCrashed, wire.StateFailed, wire.StateDeleting,
}

func TestEveryPhaseIsInBothTablesAndHasWords(t *testing.T) {
	t.Parallel()
	for _, p := range allPhases {
		if _, ok := transitions[p]; !ok {
			t.Errorf("%s has no transitions", p)
		}
		if _, ok := actions[p]; !ok {
			t.Errorf("%s has no actions", p)
		}
		if words[p] == "" {
			t.Errorf("%s has no words", p)
		}
	}
	if len(transitions) != len(allPhases) {
		t.Errorf("the table has %d phases, the test %d", len(transitions), len(allPhases))
	}
	if May(Deleted, Running) || May(Deleting, Running) {
		t.Error("there is a way back from a delete")
	}
}

func TestDerive(t *testing.T) {
	t.Parallel()
	run := Want{Desired: wire.DesiredRunning, Epoch: 2, Generation: 5}
	stop := Want{Desired: wire.DesiredStopped, Epoch: 2, Generation: 5}
	withdrawn := Want{Desired: wire.DesiredRunning, Epoch: 2, Generation: 5, DeleteID: "d", Withdrawn: true}
	gone := Want{Desired: wire.DesiredAbsent, Epoch: 2, Generation: 5, DeleteID: "d"}
	obs := func(s wire.State, change ...func(*wire.Observed)) *wire.Observed {
		o := &wire.Observed{PlacementEpoch: 2, Generation: 5, State: s, Installed: true}
		for _, c := range change {
			c(o)
		}
		return o
	}
	raw := func(o *wire.Observed) { o.Installed = false }
	old := func(o *wire.Observed) { o.Generation = 4 }
	settled := func(o *wire.Observed) { o.Settled = true }
	for name, c := range map[string]struct {
		prev   Phase
		want   Want
		seen   *wire.Observed
		silent bool
		out    Phase
	}{
		"a new server that the node has not heard of is installing":             {"", run, nil, false, Installing},
		"a running game is running":                                             {Starting, run, obs(wire.StateRunning), false, Running},
		"a game that still runs after a stop is stopping":                       {Stopping, stop, obs(wire.StateRunning), false, Stopping},
		"what the node said before the newest command does not show":            {Starting, run, obs(wire.StateStopped, old, settled), false, Starting},
		"an older placement says nothing":                                       {Starting, run, obs(wire.StateRunning, func(o *wire.Observed) { o.PlacementEpoch = 1 }), false, Starting},
		"a game that ended by itself with code 0 is stopped":                    {Running, run, obs(wire.StateStopped, settled), false, Stopped},
		"an installed server on its way up is starting":                         {Stopped, run, obs(wire.StateStopped), false, Starting},
		"fetching the image of a server that was never installed installs":      {Installing, run, obs(wire.StatePulling, raw), false, Installing},
		"fetching the image of an installed server is part of its start":        {Starting, run, obs(wire.StatePulling), false, Starting},
		"a failed script is a failed install":                                   {Installing, run, obs(wire.StateInstallFailed, raw), false, InstallFailed},
		"a node that gave up before the install is a failed install":            {Installing, run, obs(wire.StateFailed, raw), false, InstallFailed},
		"a node that gave up on an installed game has failed":                   {Crashed, run, obs(wire.StateFailed), false, Failed},
		"a silent node is unreachable whatever was known":                       {Running, run, obs(wire.StateRunning), true, Unreachable},
		"a node that came back says what it is":                                 {Unreachable, run, obs(wire.StateRunning), false, Running},
		"a withdrawn server is not installed":                                   {Installing, withdrawn, obs(wire.StateInstalling, raw), false, InstallFailed},
		"a withdrawn server is not out of reach: there is nothing to reach":     {InstallFailed, withdrawn, nil, true, InstallFailed},
		"a withdrawn server is not deleted when its node says that it is gone":  {InstallFailed, withdrawn, obs(wire.StateAbsent, func(o *wire.Observed) { o.DeleteID = "d" }), false, InstallFailed},
		"a failed reinstall behind a node that is back is tried again by start": {Unreachable, run, obs(wire.StateInstallFailed, raw, old), false, Installing},
		"a node that cannot say anything of a new server installs it":           {Installing, run, obs("", raw), false, Installing},
		"a delete that nobody wants any more is no delete":                      {Running, run, obs(wire.StateDeleting), false, Stopping},
		"a delete stays a delete while the node is silent":                      {Deleting, gone, obs(wire.StateRunning), true, Deleting},
		"absent without our delete id deletes nothing":                          {Deleting, gone, obs(wire.StateAbsent), false, Deleting},
		"absent with our delete id is the end":                                  {Deleting, gone, obs(wire.StateAbsent, func(o *wire.Observed) { o.DeleteID = "d" }), false, Deleted},
		"another delete's id is not ours":                                       {Deleting, gone, obs(wire.StateAbsent, func(o *wire.Observed) { o.DeleteID = "x" }), false, Deleting},
		"deleted is for ever":                                                   {Deleted, run, obs(wire.StateRunning), false, Deleted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := Derive(c.prev, c.want, c.seen, !c.silent); got != c.out {
				t.Errorf("got %s, want %s", got, c.out)
			}
		})
	}
}

// Whatever comes in, what comes out is in the table: no report can stick a server or bring one back.
func TestDeriveStaysInTheTable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		prev := rapid.SampledFrom(allPhases).Draw(r, "prev")
		w := Want{
			Desired: rapid.SampledFrom([]wire.Desired{wire.DesiredRunning, wire.DesiredStopped, wire.DesiredAbsent}).Draw(r, "desired"),
			Epoch:   rapid.Int64Range(1, 3).Draw(r, "epoch"), Generation: rapid.Int64Range(1, 4).Draw(r, "generation"), DeleteID: "d",
			Withdrawn: rapid.Bool().Draw(r, "withdrawn"),
		}
		if prev == Deleting {
			w.Desired = wire.DesiredAbsent // a delete is never taken back
		}
		if w.Desired == wire.DesiredAbsent && prev != Deleted {
			prev = Deleting // the command itself says so
		}
		var o *wire.Observed
		if rapid.Bool().Draw(r, "seen") {
			o = &wire.Observed{
				PlacementEpoch: rapid.Int64Range(1, 3).Draw(r, "oe"), Generation: rapid.Int64Range(1, 5).Draw(r, "og"),
				State: rapid.SampledFrom(append([]wire.State{""}, allStates...)).Draw(r, "state"), Installed: rapid.Bool().Draw(r, "installed"),
				Settled: rapid.Bool().Draw(r, "settled"), DeleteID: rapid.SampledFrom([]string{"", "d", "x"}).Draw(r, "did"),
			}
		}
		got := Derive(prev, w, o, rapid.Bool().Draw(r, "online"))
		if !slices.Contains(allPhases, got) {
			r.Fatalf("%q is no phase", got)
		}
		if got == Deleted && prev != Deleted && (o == nil || o.State != wire.StateAbsent || o.DeleteID != w.DeleteID) {
			r.Fatalf("deleted without the node's word: %+v", o)
		}
		if !May(prev, got) {
			r.Fatalf("%s → %s is not in the table: its report would never be taken", prev, got)
		}
		if w.Desired != wire.DesiredAbsent && prev != Deleted && (got == Deleted || got == Deleting) {
			r.Fatalf("a server that nobody deleted is %s", got)
		}
	})
}
