package servers

import (
	"fmt"
	"slices"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/wings/wire"
)

type nodeState struct {
	state              wire.State
	installed, settled bool
}

// nodeStates are what the model's node may report, those without installed data first.
var nodeStates = []nodeState{
	{wire.StatePulling, false, false}, {wire.StateInstalling, false, false}, {wire.StateInstallFailed, false, true}, {wire.StateFailed, false, true},
	{wire.StateStopped, true, true}, {wire.StateStopped, true, false}, {wire.StatePulling, true, false}, {wire.StateStarting, true, false},
	{wire.StateRunning, true, true}, {wire.StateStopping, true, false}, {wire.StateCrashed, true, false}, {wire.StateFailed, true, true},
}

// shown is what a customer is promised to see of a node's word about the newest generation.
func shown(o wire.Observed, wanted string) Phase {
	running := wanted == "running"
	switch fmt.Sprintf("%s %t", o.State, o.Installed) {
	case "pulling false", "installing false":
		return Installing
	case "install_failed false", "failed false":
		return InstallFailed
	case "running true":
		if running {
			return Running
		}
		return Stopping
	case "starting true":
		return Starting
	case "stopping true":
		return Stopping
	case "crashed true":
		return Crashed
	case "failed true":
		return Failed
	}
	if running && !o.Settled { // stopped or pulling, on its way up
		return Starting
	}
	return Stopped
}

// twin is one server as the model knows it, and as its node does.
type twin struct {
	id                               string
	phase                            Phase
	wanted, deleteID                 string
	gen, restarts, kills, reinstalls int64
	ports                            bool
	rev                              int64

	accepted, revision, installs int64 // of the node
	data                         bool  // the node has it installed
	resting                      int64 // generation at which its install failed
	last                         wire.Observed
	sent                         []wire.Observed
}

// model is the panel and one node.
type model struct {
	w      *world
	node   string
	actor  access.Actor
	online bool
	twins  []*twin
	failed func(format string, args ...any)
	ops    *counter
}

type counter struct{ ops, commands, refused, reports, stale, ahead, away, deleted int }

func (m *model) act(t *twin, a Action) {
	m.ops.commands++
	err := m.w.tx(func(tx core.App) error {
		row, err := m.w.find(tx, m.w.tenant, t.id)
		if err != nil {
			return err
		}
		switch a {
		case Update:
			_, err = m.w.Update(tx, m.actor, row, UpdateInput{Variables: map[string]string{"MOTD": fmt.Sprint(m.ops.ops)}})
		case Delete:
			_, err = m.w.Delete(tx, m.actor, row)
		default:
			_, err = m.w.Act(tx, m.actor, row, a)
		}
		return err
	})
	may := slices.Contains(m.possible(t), a)
	if may != (err == nil) {
		m.failed("%s in %s: %v", a, t.phase, err)
	}
	if err != nil {
		m.ops.refused++
		return
	}
	before := t.phase
	switch a {
	case Start, Restart:
		t.wanted, t.phase = "running", Starting
	case Stop, Kill:
		t.wanted, t.phase = "stopped", Stopping
	case Reinstall:
		t.reinstalls++
		t.phase, t.ports = Installing, true
	case Delete:
		t.wanted, t.phase = "absent", Deleting
		t.deleteID = m.w.row(t.id).DeleteID()
	}
	switch a {
	case Restart:
		t.restarts++
	case Kill:
		t.kills++
	}
	if before == Unreachable && a != Delete {
		t.phase = Unreachable
	}
	if a != Update || before != InstallFailed {
		t.gen++
	}
}

func (m *model) possible(t *twin) []Action {
	o := t.last
	failed := o.ServerID != "" && !o.Installed && o.ReinstallCount == t.reinstalls && (o.State == wire.StateInstallFailed || o.State == wire.StateFailed)
	if t.phase == Unreachable && (failed || !t.ports) {
		return []Action{Delete}
	}
	return actions[t.phase]
}

// deliver brings the newest Spec to the node, as a push or a sync does.
func (m *model) deliver(t *twin) {
	specs, err := m.w.Specs(m.w.app, m.node)
	must(m.w.t, err)
	i := slices.IndexFunc(specs, func(s wire.Spec) bool { return s.ServerID == t.id })
	told := t.phase != Deleted && (t.ports || t.wanted == "absent")
	if told != (i >= 0) {
		m.failed("the node is told of it: %t, want %t", i >= 0, told)
	}
	if i < 0 {
		return
	}
	s := specs[i]
	if s.Generation != t.gen || string(s.Desired) != t.wanted || s.RestartCount != t.restarts && t.wanted != "absent" || s.DeleteID != t.deleteID {
		m.failed("the node is told (%d, %s, %d restarts, %q), want (%d, %s, %d, %q)", s.Generation, s.Desired, s.RestartCount, s.DeleteID, t.gen, t.wanted, t.restarts, t.deleteID)
	}
	if s.Generation > t.accepted {
		t.data = t.data && t.installs == t.reinstalls
		t.accepted, t.installs = s.Generation, t.reinstalls
	}
}

// say sends a report of the node and takes the model where it leads.
func (m *model) say(t *twin, o wire.Observed) {
	m.ops.reports++
	before := t.rev
	must(m.w.t, m.w.tx(func(tx core.App) error { return m.w.Observe(tx, m.node, o) }))
	stale := t.phase == Deleted || o.PlacementEpoch < 1 || o.Revision <= t.last.Revision && t.last.ServerID != ""
	if stale {
		m.ops.stale++
		if rev := m.w.row(t.id).Rev(); rev != before {
			m.failed("a stale report raised rev from %d to %d", before, rev)
		}
		return
	}
	t.last = o
	t.sent = append(t.sent, o)
	if o.Generation > t.gen {
		m.ops.ahead++
		t.gen = o.Generation + 1
		t.accepted = o.Generation
	}
	m.derive(t, t.phase == Unreachable)
}

// derive is the model's own word on what is shown; back says that nothing could be seen before.
func (m *model) derive(t *twin, back bool) {
	o := t.last
	switch {
	case t.phase == Deleted:
		return
	case t.wanted == "absent":
		t.phase = Deleting
		if o.State == wire.StateAbsent && o.DeleteID == t.deleteID {
			t.phase, t.ports = Deleted, false
			m.ops.deleted++
		}
		return
	case !m.online:
		t.phase = Unreachable
		return
	case o.ServerID != "" && o.Generation == t.gen:
		t.phase = shown(o, t.wanted)
	case back:
		t.phase = m.returned(t)
	}
	if t.phase == InstallFailed {
		t.ports = false
	}
}

// returned is what a server shows whose node is back and has not seen the newest command.
func (m *model) returned(t *twin) Phase {
	o := t.last
	pending := o.ServerID == "" || o.ReinstallCount < t.reinstalls || !o.Installed && o.State != wire.StateInstallFailed && o.State != wire.StateFailed
	if pending {
		return Installing
	}
	p := shown(o, t.wanted)
	if t.wanted == "running" && p != Running {
		return Starting
	}
	if t.wanted == "stopped" && p == Starting {
		return Stopping
	}
	return p
}

// check compares a row with its twin.
func (m *model) check(t *twin, wrote bool) {
	row := m.w.row(t.id)
	if Phase(row.Status()) != t.phase || row.Generation() != t.gen || row.DesiredState() != t.wanted || row.ReinstallCount() != t.reinstalls || row.KillCount() != t.kills {
		m.failed("server %s is %s (%d, %s, %d, %d), the model says %s (%d, %s, %d, %d); last heard %+v", t.id, row.Status(), row.Generation(), row.DesiredState(),
			row.ReinstallCount(), row.KillCount(), t.phase, t.gen, t.wanted, t.reinstalls, t.kills, t.last)
	}
	if row.Rev() < t.rev || wrote && row.Rev() == t.rev {
		m.failed("rev went from %d to %d", t.rev, row.Rev())
	}
	t.rev = row.Rev()
	if held := m.w.portsHeld(t.id) > 0; held != t.ports {
		m.failed("server %s in %s holds ports: %t, want %t", t.id, t.phase, held, t.ports)
	}
	if t.phase != Deleted && t.accepted > row.Generation() {
		m.failed("the node is at %d, the row at %d", t.accepted, row.Generation())
	}
	js := must2(collections.Every[collections.Job](m.w.app, collections.Jobs, "", 0, dbx.And(dbx.HashExp{"subject": t.id}, dbx.In("state", "ready", "waiting", "running"))))(m.w.t)
	for _, j := range js {
		var c command
		must(m.w.t, j.Payload(&c))
		if c.Generation != t.gen || len(js) > 1 {
			m.failed("%d jobs, one for generation %d of %d", len(js), c.Generation, t.gen)
		}
	}
}

func (m *model) create(r *rapid.T) {
	in := CreateInput{Name: "s", Blueprint: "testgame", Start: rapid.Bool().Draw(r, "start"), Limits: Limits{100, 64, 1}, Node: m.node}
	var out Outcome
	err := m.w.tx(func(tx core.App) (err error) {
		out, err = m.w.Create(tx, m.actor, m.w.tenant, in)
		return err
	})
	if !m.online {
		if err == nil {
			m.failed("a server was made on a silent node")
		}
		return
	}
	if err != nil {
		m.failed("create: %v", err)
	}
	wanted := "stopped"
	if in.Start {
		wanted = "running"
	}
	m.twins = append(m.twins, &twin{id: out.Server.ID, phase: Installing, wanted: wanted, gen: 1, ports: true})
	m.check(m.twins[len(m.twins)-1], true)
}

// next draws what the node has to say of a server.
func (m *model) next(r *rapid.T, t *twin) wire.Observed {
	first := 0
	if t.data { // what is installed stays installed
		first = slices.IndexFunc(nodeStates, func(s nodeState) bool { return s.installed })
	}
	s := nodeStates[rapid.IntRange(first, len(nodeStates)-1).Draw(r, "state")]
	if t.resting == t.accepted { // a failed install rests until it is asked for anew
		s = nodeStates[2]
	}
	if !s.installed && s.settled {
		t.resting = t.accepted
	}
	t.data = s.installed
	t.revision++
	o := wire.Observed{ServerID: t.id, PlacementEpoch: 1, Generation: t.accepted, Revision: t.revision, State: s.state, Installed: s.installed, Settled: s.settled,
		ReinstallCount: t.installs}
	if t.wanted == "absent" && t.accepted == t.gen {
		o.State, o.Installed, o.Settled = wire.StateDeleting, false, false
		if rapid.IntRange(0, 3).Draw(r, "gone") == 0 {
			o.State, o.DeleteID = wire.StateAbsent, t.deleteID
		}
	}
	return o
}

func (m *model) flip() {
	m.ops.away++
	m.online = !m.online
	m.w.status(m.node, m.online)
	for _, t := range m.twins {
		m.derive(t, m.online)
		m.check(t, false)
	}
}

func (m *model) alive() (n int) {
	for _, t := range m.twins {
		if t.phase != Deleted {
			n++
		}
	}
	return n
}

func (m *model) step(r *rapid.T) {
	m.ops.ops++
	kind := rapid.IntRange(0, 19).Draw(r, "op")
	switch {
	case kind == 0 && m.alive() < 4 || m.alive() == 0 && m.online:
		m.create(r)
		return
	case kind == 1 && rapid.Bool().Draw(r, "flip") || m.alive() == 0:
		m.flip()
		return
	}
	t := m.twins[rapid.IntRange(max(0, len(m.twins)-6), len(m.twins)-1).Draw(r, "server")]
	switch {
	case kind < 8:
		a := rapid.SampledFrom([]Action{Start, Stop, Restart, Kill, Reinstall, Update, Start, Stop, Reinstall, Start, Stop, Restart, Update, Delete}).Draw(r, "action")
		if t.phase == Deleted {
			return
		}
		before := m.ops.refused
		m.act(t, a)
		m.check(t, m.ops.refused == before)
		return
	case kind < 12:
		m.deliver(t)
	case kind < 13 && len(t.sent) > 0: // told again, late
		m.say(t, t.sent[rapid.IntRange(0, len(t.sent)-1).Draw(r, "again")])
	case kind == 13: // of an older placement
		m.say(t, wire.Observed{ServerID: t.id, PlacementEpoch: 0, Generation: 99, Revision: 1 << 40, State: wire.StateAbsent, DeleteID: t.deleteID})
	case kind == 14 && rapid.IntRange(0, 5).Draw(r, "future") == 0 && t.wanted != "absent" && t.ports && t.resting == 0:
		m.deliver(t)
		t.accepted = t.gen + 3
		m.say(t, m.next(r, t))
	default:
		if t.accepted == 0 {
			m.deliver(t)
		}
		if t.accepted > 0 {
			m.say(t, m.next(r, t))
		}
	}
	m.check(t, false)
}

// T10, the part of servers: random commands and reports against a model of what a customer is told.
func TestT10_ServersFollowTheModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, q := range []string{"quota_servers", "quota_memory_mib", "quota_cpu_millicores", "quota_disk_mib"} {
		w.set(collections.Tenants, w.tenant, q, 1<<40)
	}
	owner := must2(w.app.FindAuthRecordByEmail("users", "owner@example.org"))(t)
	ops := &counter{}
	const perRun = 70 // 7,000 operations; the nightly lane runs 21,000 with -rapid.checks=300
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		m := &model{w: w, node: w.addNode(fmt.Sprintf("m%d", runs), "20000-20031"), online: true, ops: ops, failed: r.Fatalf,
			actor: access.Actor{Type: access.TypeUser, ID: owner.Id, Name: "owner", Verified: true}}
		defer m.leave() // also when rapid gives the run up half way
		for range perRun {
			m.step(r)
		}
	})
	if n := w.count(collections.Allocations, dbx.HashExp{"status": alloc.StatusActive}); n != 0 {
		t.Errorf("%d allocations are left", n)
	}
	t.Logf("T10 (servers): %d operations in %d runs: %d commands (%d refused), %d reports (%d stale, %d from the future), %d changes of the node, %d deleted; 0 differences",
		ops.ops, runs, ops.commands, ops.refused, ops.reports, ops.stale, ops.ahead, ops.away, ops.deleted)
}

// leave takes away what a run made.
func (m *model) leave() {
	w := m.w
	for _, t := range m.twins { // what is left must not take the next run's quota
		w.set(collections.Servers, t.id, "status", string(Deleted))
		must(w.t, w.tx(func(tx core.App) error { return w.Alloc.Release(tx, t.id) }))
	}
	must(w.t, w.tx(func(tx core.App) error { // placement looks at every node that there is
		if err := w.Alloc.ForgetNode(tx, m.node); err != nil {
			return err
		}
		_, err := tx.NonconcurrentDB().Delete(collections.Nodes, dbx.HashExp{"id": m.node}).Execute()
		return err
	}))
}
