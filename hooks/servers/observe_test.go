package servers

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/wings/wire"
)

// say hands an observation of a server to the room.
func (w *world) say(node string, o wire.Observed) {
	w.t.Helper()
	must(w.t, w.tx(func(tx core.App) error { return w.Observe(tx, node, o) }))
}

func TestWhatIsOldChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node := w.addNode("n1", "20000-20100")
	id := w.mustCreate("")
	w.set(collections.Servers, id, "placement_epoch", 3)
	w.set(collections.Servers, id, "generation", 5)
	now := wire.Observed{ServerID: id, PlacementEpoch: 3, Generation: 5, Revision: 10, State: wire.StateRunning, Installed: true, Settled: true}
	w.say(node, now)
	row := w.row(id)
	if row.Status() != "RUNNING" || row.ObservedRevision() != 10 || row.InstallStatus() != installDone {
		t.Fatalf("it is %s at revision %d", row.Status(), row.ObservedRevision())
	}
	for name, change := range map[string]func(o *wire.Observed){
		"the same again":                      func(*wire.Observed) {},
		"an older revision":                   func(o *wire.Observed) { o.Revision = 9 },
		"an older placement, newer otherwise": func(o *wire.Observed) { o.PlacementEpoch, o.Generation, o.Revision = 2, 99, 99 },
	} {
		o := now
		o.State = wire.StateFailed
		change(&o)
		if news := must2(w.News(w.app, node, []wire.Observed{o}))(t); len(news) != 0 {
			t.Errorf("%s is news", name)
		}
		w.say(node, o)
		if got := w.row(id); got.Rev() != row.Rev() || got.Status() != "RUNNING" || got.Generation() != 5 {
			t.Errorf("%s: %s at rev %d", name, got.Status(), got.Rev())
		}
	}
	older := now
	older.Generation, older.Revision, older.State, older.Problem = 4, 11, wire.StateFailed, &wire.Problem{Code: "crashed", Message: "It fell."}
	w.say(node, older)
	if got := w.row(id); got.Status() != "RUNNING" || got.ObservedRevision() != 11 || got.ProblemMessage() != "" {
		t.Errorf("an older generation shows: %s, %q", got.Status(), got.ProblemMessage())
	}
}

// A full sync reads once what is known. Nothing that Observe would act on, or complain of, may be left out.
func TestNewsIsWhatObserveHasToLookAt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node, elsewhere := w.addNode("n1", "20000-20100"), w.addNode("n2", "20000-20100")
	id, other, gone := w.mustCreate(""), w.mustCreate(""), w.mustCreate("")
	for server, node := range map[string]string{id: node, other: elsewhere, gone: node} {
		w.set(collections.Servers, server, "node", node)
		w.set(collections.Servers, server, "placement_epoch", 3)
	}
	w.set(collections.Servers, gone, "status", "DELETED")
	known := wire.Observed{ServerID: id, PlacementEpoch: 3, Generation: 1, Revision: 10, State: wire.StateRunning, Installed: true, Settled: true}
	w.say(node, known)
	for name, c := range map[string]struct {
		change func(o *wire.Observed)
		news   bool
	}{
		"what it said last":                    {func(*wire.Observed) {}, false},
		"a newer revision":                     {func(o *wire.Observed) { o.Revision = 11 }, true},
		"a newer placement, whatever revision": {func(o *wire.Observed) { o.PlacementEpoch, o.Revision = 4, 1 }, true},
		"an older placement":                   {func(o *wire.Observed) { o.PlacementEpoch, o.Revision = 2, 99 }, false},
		"a number that no panel gave":          {func(o *wire.Observed) { o.Revision = 1 << 50 }, true},
		"a server of another node":             {func(o *wire.Observed) { o.ServerID = other }, true},
		"a server that is not there":           {func(o *wire.Observed) { o.ServerID = "nosuchserver000" }, true},
		"a server that is deleted":             {func(o *wire.Observed) { o.ServerID, o.Revision = gone, 99 }, true},
	} {
		o := known
		c.change(&o)
		if news := must2(w.News(w.app, node, []wire.Observed{known, o, known}))(t); (len(news) == 1) != c.news {
			t.Errorf("%s: %d news", name, len(news))
		}
	}
}

// What a server does from day to day must not wait for what others reserve and report.
func TestOnlyWhatGivesPortsBackOrIsWrongNeedsTheLocksOfAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node := w.addNode("n1", "20000-20100")
	id := w.mustCreate("")
	within := func(fn func(tx core.App) error) error {
		return collections.Tx(w.app, []collections.Lock{lock(id), collections.Lock("node:" + node)}, fn)
	}
	said := wire.Observed{ServerID: id, PlacementEpoch: 1, Generation: 1, Installed: true, Settled: true}
	observe := func(change func(o *wire.Observed)) error {
		said.Revision++
		change(&said)
		return within(func(tx core.App) error { return w.Observe(tx, node, said) })
	}
	for _, state := range []wire.State{wire.StateInstalling, wire.StateStarting, wire.StateRunning, wire.StateCrashed, wire.StateRunning, wire.StateStopped} {
		if err := observe(func(o *wire.Observed) { o.State = state }); err != nil {
			t.Errorf("%s: %v", state, err)
		}
	}
	if r := w.do(w.owner, "DELETE", "servers/"+id, ""); r.status != 202 {
		t.Fatalf("delete: %s", r.raw)
	}
	row := w.row(id)
	err := observe(func(o *wire.Observed) {
		*o = wire.Observed{ServerID: id, PlacementEpoch: 1, Generation: row.Generation(), DeleteID: row.DeleteID(), State: wire.StateAbsent, Settled: true, Revision: 99}
	})
	if !errors.Is(err, collections.ErrLockOrder) || w.portsHeld(id) == 0 {
		t.Errorf("ports went back without the lock: %v", err)
	}
	err = within(func(tx core.App) error {
		return w.Observe(tx, node, wire.Observed{ServerID: "nosuchserver000", PlacementEpoch: 1, Revision: 1})
	})
	if !errors.Is(err, collections.ErrLockOrder) {
		t.Errorf("an incident was opened without the lock: %v", err)
	}
}

func TestAnObservationFromTheFutureIsAnsweredByANewerGeneration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node := w.addNode("n1", "20000-20100")
	id := w.mustCreate("")
	old := w.latestJob(id).Id
	w.say(node, wire.Observed{ServerID: id, PlacementEpoch: 1, Generation: 7, Revision: 40, State: wire.StateRunning, Installed: true, Settled: true})
	row, job := w.row(id), w.latestJob(id)
	if row.Generation() != 8 || row.PlacementEpoch() != 1 || row.DesiredState() != "running" {
		t.Errorf("it is at (%d, %d), wanted %s", row.PlacementEpoch(), row.Generation(), row.DesiredState())
	}
	if w.job(old).State() != jobs.Superseded || job.State() != jobs.Ready || job.Kind() != "UpdateServer" {
		t.Errorf("old job %s, new job %s %s", w.job(old).State(), job.Kind(), job.State())
	}
	specs := must2(w.Specs(w.app, node))(t)
	if len(specs) != 1 || specs[0].Generation != 8 {
		t.Errorf("the node is told %+v", specs)
	}
	w.say(node, wire.Observed{ServerID: id, PlacementEpoch: 4, Generation: 2, Revision: 41, State: wire.StateStopped, Installed: true})
	if row := w.row(id); row.PlacementEpoch() != 4 || row.Generation() != 9 || row.ObservedEpoch() != 4 {
		t.Errorf("an epoch from the future leads to (%d, %d)", row.PlacementEpoch(), row.Generation())
	}
}

// Numbers beyond what columns hold exactly would bring a server to where no newer command counts.
func TestNumbersThatNoPanelGaveAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node := w.addNode("n1", "20000-20100")
	id := w.mustCreate("")
	before := w.row(id)
	good := wire.Observed{ServerID: id, PlacementEpoch: 1, Generation: 1, Revision: 1, State: wire.StateRunning, Installed: true, Settled: true}
	for _, n := range []int64{1 << 50, 1 << 53, math.MaxInt64, -1, math.MinInt64} {
		for field, set := range map[string]func(*wire.Observed){
			"epoch": func(o *wire.Observed) { o.PlacementEpoch = n }, "generation": func(o *wire.Observed) { o.Generation = n }, "revision": func(o *wire.Observed) { o.Revision = n },
		} {
			o := good
			set(&o)
			if err := w.report(node, wire.Event{Kind: wire.EventObserved, Observed: &o}); !errors.Is(err, fleet.ErrPermanent) {
				t.Errorf("%s %d: %v", field, n, err)
			}
		}
	}
	if after := w.row(id); after.Rev() != before.Rev() || after.Generation() != 1 || after.ObservedRevision() != 0 {
		t.Errorf("it is at (%d, %d), revision %d", after.PlacementEpoch(), after.Generation(), after.ObservedRevision())
	}
}

// A node that lost its records numbers what it says from the beginning, and what it says counts.
func TestARebuiltNodeIsBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node, other := w.addNode("n1", "20000-20100"), w.addNode("n2", "20000-20100")
	id := w.mustCreate("")
	w.say(node, wire.Observed{ServerID: id, PlacementEpoch: 1, Generation: 1, Revision: 40, State: wire.StateRunning, Installed: true, Settled: true})
	anew := wire.Observed{ServerID: id, PlacementEpoch: 1, Generation: 1, Revision: 1, State: wire.StateInstalling}
	w.say(node, anew)
	if s := w.row(id).Status(); s != string(Running) {
		t.Fatalf("an old word made it %s", s)
	}
	must(t, w.tx(func(tx core.App) error { return w.Rebuilt(tx, other) }))
	w.say(node, anew)
	if s := w.row(id).Status(); s != string(Running) {
		t.Fatalf("another node was rebuilt, and it is %s", s)
	}
	must(t, w.tx(func(tx core.App) error { return w.Rebuilt(tx, node) }))
	w.say(node, anew)
	if row := w.row(id); row.Status() != string(Installing) || row.ObservedRevision() != 1 {
		t.Errorf("it is %s at revision %d", row.Status(), row.ObservedRevision())
	}
}

func TestAServerThatIsNotPlacedThereIsReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node, elsewhere := w.addNode("n1", "20000-20100"), w.addNode("n2", "")
	id := w.mustCreate("")
	before := w.row(id)
	for name, id := range map[string]string{"one that does not exist": "nosuchserver000", "one of another node": id, "one without sense": strings.Repeat("x", 5000)} {
		w.say(elsewhere, wire.Observed{ServerID: id, PlacementEpoch: 9, Generation: 9, Revision: 9, State: wire.StateRunning})
		must(t, w.report(elsewhere, wire.Event{Kind: wire.EventCrash, Crash: &wire.CrashReport{ServerID: id, PlacementEpoch: 1}}))
		must(t, w.report(elsewhere, wire.Event{Kind: wire.EventInstalled, Install: &wire.InstallReport{ServerID: id, PlacementEpoch: 1, Log: "mine"}}))
		if after := w.row(before.Id); after.Rev() != before.Rev() || after.InstallLog() != "" {
			t.Errorf("%s changed a row", name)
		}
	}
	if n := w.count(collections.Incidents, dbx.HashExp{"kind": "server.unknown", "node": elsewhere}); n != 3 {
		t.Errorf("%d incidents for three servers, each told of three times", n)
	}
	unknown := func(u wire.UnknownContainer) {
		must(t, w.report(node, wire.Event{Kind: wire.EventUnknown, Unknown: &u}))
	}
	unknown(wire.UnknownContainer{ServerID: id, ContainerID: "c1"})
	if n := w.count(collections.Incidents, dbx.HashExp{"kind": "container.unknown"}); n != 0 {
		t.Error("a server that lives there was taken for a stranger's")
	}
	unknown(wire.UnknownContainer{ServerID: "nosuchserver000", ContainerID: strings.Repeat("c", 3000), Running: true})
	w.set(collections.Servers, id, "status", "DELETED")
	unknown(wire.UnknownContainer{ServerID: id, ContainerID: "c1", Running: true})
	if n := w.count(collections.Incidents, dbx.HashExp{"kind": "container.unknown"}); n != 2 {
		t.Errorf("%d incidents about containers", n)
	}
}

func TestReportsOfAnySizeAreTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node := w.addNode("n1", "20000-20100")
	id := w.mustCreate("")
	huge := strings.Repeat("\x01ä", 100_000)
	code := 137
	w.say(node, wire.Observed{ServerID: id, PlacementEpoch: 1, Generation: 1, Revision: 1, State: wire.StatePulling, ExitCode: &code,
		Progress: wire.Progress{Step: "pull", Message: huge}, Problem: &wire.Problem{Code: huge, Message: huge, Detail: huge}})
	if got := w.row(id); got.ObservedRevision() != 1 || len(got.ProblemMessage()) > 1000 || got.LastExitCode() != 137 {
		t.Errorf("revision %d, problem of %d bytes, code %d", got.ObservedRevision(), len(got.ProblemMessage()), got.LastExitCode())
	}
	lines := make([]string, 50)
	for i := range lines {
		lines[i] = strings.Repeat("\x1b", 400)
	}
	lines[49] = "the end"
	must(t, w.report(node, wire.Event{Kind: wire.EventCrash, Crash: &wire.CrashReport{ServerID: id, PlacementEpoch: 1, LastLines: lines}}))
	must(t, w.report(node, wire.Event{Kind: wire.EventCrash, Crash: &wire.CrashReport{ServerID: id, PlacementEpoch: 1, LastLines: []string{huge}}}))
	must(t, w.report(node, wire.Event{Kind: wire.EventCrash, Crash: &wire.CrashReport{ServerID: id, PlacementEpoch: 7}})) // another placement's
	r := w.do(w.owner, "GET", "servers/"+id+"/activity", "")
	if strings.Count(r.raw, "server.crashed") != 2 || !strings.Contains(r.raw, "the end") {
		t.Errorf("the activity: %.300s", r.raw)
	}
	must(t, w.report(node, wire.Event{Kind: wire.EventInstalled, Install: &wire.InstallReport{ServerID: id, PlacementEpoch: 1, Log: huge}}))
	if n := len(w.row(id).InstallLog()); n == 0 || n > wire.MaxInstallLogBytes {
		t.Errorf("%d bytes of the log are kept", n)
	}
	w.set(collections.Servers, id, "reinstall_count", 2)
	must(t, w.report(node, wire.Event{Kind: wire.EventInstalled, Install: &wire.InstallReport{ServerID: id, PlacementEpoch: 1, ReinstallCount: 1, Log: "older"}}))
	if w.row(id).InstallLog() == "older" {
		t.Error("the log of an older install replaced the newest")
	}
}

func TestEachPhaseChangeIsAnEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node := w.addNode("n1", "20000-20100")
	id := w.mustCreate("")
	for i, s := range []wire.State{wire.StatePulling, wire.StateInstalling, wire.StateStarting, wire.StateRunning, wire.StateRunning} {
		w.say(node, wire.Observed{ServerID: id, PlacementEpoch: 1, Generation: 1, Revision: int64(i + 1), State: s, Installed: i > 1})
	}
	if n := w.count(collections.Events, dbx.HashExp{"kind": "server.phase_changed"}); n != 2 {
		t.Errorf("%d phase changes", n)
	}
	if rev := w.row(id).Rev(); rev != 6 {
		t.Errorf("rev is %d after six writes", rev)
	}
	err := w.tx(func(tx core.App) error {
		row := w.row(id)
		row.SetStatus(string(Deleting))
		return w.settle(tx, row, Running)
	})
	if !errors.Is(err, fleet.ErrPermanent) || w.row(id).Status() != "RUNNING" {
		t.Errorf("a way back from a delete: %v", err)
	}
}

// A panel that was restored from before a reinstall wants to withdraw what runs by now: the node's
// placement is newer, so it is readmitted, with ports, and nothing of it is removed.
func TestARestoredPanelWithdrawsNothingThatWasInstalledSince(t *testing.T) {
	for name, released := range map[string]bool{"from before the ports went": false, "from after": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				n := w.machine("n1", "20000-20003") // ports for one
				w.work()
				id := w.broken("1s")
				w.until(id, time.Minute, InstallFailed)
				w.bare(id, n)
				backup := w.row(id)
				w.repair(id)
				w.act(id, Reinstall)
				w.until(id, time.Minute, Running)
				was := must2(n.agent.Get(id))(t)
				if released {
					must(t, w.tx(func(tx core.App) error { return w.Alloc.Release(tx, id) }))
				}
				for _, column := range []string{"status", "generation", "placement_epoch", "delete_id", "install_status", "installed_at", "observed", "observed_epoch",
					"observed_generation", "observed_revision", "reinstall_count"} {
					w.set(collections.Servers, id, column, backup.Get(column))
				}
				w.sync(n)
				row := w.until(id, time.Minute, Running)
				if row.DeleteID() != "" || row.PlacementEpoch() != 2 || row.InstalledAt().IsZero() || w.portsHeld(id) != 4 {
					t.Errorf("it is of placement %d, delete id %q, installed at %s, with %d ports", row.PlacementEpoch(), row.DeleteID(), row.InstalledAt(), w.portsHeld(id))
				}
				if now := must2(n.agent.Get(id))(t); now.ContainerID != was.ContainerID || !now.StartedAt.Equal(was.StartedAt) {
					t.Errorf("the game was %s since %s and is %s since %s", was.ContainerID, was.StartedAt, now.ContainerID, now.StartedAt)
				}
			})
		})
	}
}

// Without free ports what runs is left as it is, and the leak scan names it.
func TestAReadmittedServerWithoutPortsIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node := w.addNode("n1", "20000-20003")
	id := w.mustCreate("")
	must(t, w.tx(func(tx core.App) error { return w.Jobs.Cancel(tx, w.latestJob(id).Id, "given up") }))
	row := w.row(id)
	w.say(node, wire.Observed{ServerID: id, PlacementEpoch: 1, Generation: row.Generation(), Revision: 3, State: wire.StateAbsent, DeleteID: row.DeleteID(), Settled: true})
	if w.portsHeld(id) != 0 || w.row(id).Status() != "INSTALL_FAILED" {
		t.Fatalf("withdrawn, it is %s with %d ports", w.row(id).Status(), w.portsHeld(id))
	}
	other := w.mustCreate(`{"name":"other","blueprint":"testgame",` + small + `}`)
	w.say(node, wire.Observed{ServerID: id, PlacementEpoch: 2, Generation: 7, Revision: 1, State: wire.StateRunning, Installed: true, Settled: true})
	if row := w.row(id); row.Generation() != 8 || row.PlacementEpoch() != 2 || row.DeleteID() != "" || w.portsHeld(id) != 0 || w.portsHeld(other) != 4 {
		t.Errorf("it is of (%d, %d), delete id %q; %d and %d ports", row.PlacementEpoch(), row.Generation(), row.DeleteID(), w.portsHeld(id), w.portsHeld(other))
	}
	report := must2(w.Alloc.ScanLeaks(w.app, true))(t)
	if w.set(collections.Servers, id, "status", "RUNNING"); len(report.Leaks) != 0 {
		t.Errorf("while the panel waits for the node the scan says %+v", report.Leaks)
	}
	if report = must2(w.Alloc.ScanLeaks(w.app, true))(t); len(report.Leaks) != 1 || report.Leaks[0].Server != id {
		t.Errorf("the scan says %+v", report.Leaks)
	}
}

// A panel that was restored from before a delete is told that the server is gone: it shows that, holds
// nothing for it, and does not put an empty world in the place of the one that was.
func TestAServerThatItsNodeHasDeletedIsNotMadeAnewByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node := w.addNode("n1", "20000-20003")
	id := w.mustCreate("")
	w.say(node, wire.Observed{ServerID: id, PlacementEpoch: 1, Generation: 1, Revision: 5, State: wire.StateRunning, Installed: true, Settled: true})
	old := w.latestJob(id).Id
	w.say(node, wire.Observed{ServerID: id, PlacementEpoch: 1, Generation: 4, Revision: 9, State: wire.StateAbsent, DeleteID: "lost", Settled: true})
	row := w.row(id)
	if row.Status() != "INSTALL_FAILED" || row.ProblemCode() != problemRemoved || w.portsHeld(id) != 0 || !row.InstalledAt().IsZero() {
		t.Errorf("it is %s (%s), installed at %s, with %d ports", row.Status(), row.ProblemCode(), row.InstalledAt(), w.portsHeld(id))
	}
	if specs := must2(w.Specs(w.app, node))(t); len(specs) != 0 || w.job(old).State() != jobs.Superseded {
		t.Errorf("the node is told %+v, the old job is %s", specs, w.job(old).State())
	}
	r := w.act(id, Reinstall)
	if specs := must2(w.Specs(w.app, node))(t); r.status != 202 || len(specs) != 1 || specs[0].PlacementEpoch != 2 || w.portsHeld(id) != 4 {
		t.Errorf("reinstall: %d %s; the node is told %+v", r.status, r.raw, specs)
	}
}

// What had been installed once has data: a reinstall that fails takes neither that nor its ports.
func TestAFailedReinstallKeepsDataAndPorts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.machine("n1", "20000-20100")
		w.work()
		id := w.mustCreate("")
		w.until(id, time.Minute, Running)
		held := must2(alloc.Of(w.app, id))(t).GetString("ports")
		if r := w.do(w.super, "PATCH", "servers/"+id, `{"variables":{"EXIT":"4"}}`); r.status != 202 {
			t.Fatalf("break it: %d %s", r.status, r.raw)
		}
		w.act(id, Reinstall)
		w.until(id, time.Minute, InstallFailed)
		eventually(t, time.Minute, "the reinstall is given up", func() bool { return w.jobOf(id, "ReinstallServer").State() == jobs.Dead })
		row := w.row(id)
		if row.DeleteID() != "" || row.ProblemCode() != wire.ProblemInstallFailed || must2(alloc.Of(w.app, id))(t).GetString("ports") != held {
			t.Errorf("delete id %q, problem %q, %d ports", row.DeleteID(), row.ProblemCode(), w.portsHeld(id))
		}
		if o := must2(n.agent.Get(id))(t); o.State != wire.StateInstallFailed {
			t.Errorf("its node says %s", o.State)
		}
		w.repair(id)
		w.act(id, Reinstall)
		row = w.until(id, time.Minute, Running)
		if now := must2(alloc.Of(w.app, id))(t).GetString("ports"); row.PlacementEpoch() != 1 || now != held {
			t.Errorf("it runs as placement %d on %s, had %s", row.PlacementEpoch(), now, held)
		}
	})
}
