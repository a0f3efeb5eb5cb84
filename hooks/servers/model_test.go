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
	id                                      string
	phase                                   Phase
	wanted, deleteID                        string
	epoch, gen, restarts, kills, reinstalls int64
	had                                     bool // it was installed once
	ports                                   bool
	rev                                     int64
	last                                    wire.Observed
	sent                                    []wire.Observed

	at twinNode // what its node has of it
}

// twinNode is the machine's side of a twin.
type twinNode struct {
	epoch, accepted, revision, installs int64
	told                                string // delete id that it works on; empty: it wants the server
	buried                              bool   // it has deleted it
	data                                bool   // it has it installed
	resting                             int64  // generation at which its install failed
}

// withdrawn says that the customer wants a server which has no placement, or is losing it.
func (t *twin) withdrawn() bool { return t.deleteID != "" && t.wanted != "absent" }

// gone says that the node has said that what was deleted or withdrawn is not there any more.
func (t *twin) gone() bool { return absent(t.last) && t.last.DeleteID == t.deleteID }

func absent(o wire.Observed) bool { return o.State == wire.StateAbsent && o.DeleteID != "" }

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

type counter struct{ ops, commands, refused, reports, stale, ahead, away, withdrawn, placed, readmitted, removed, deleted int }

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
		if t.withdrawn() {
			m.ops.placed++
			t.deleteID = ""
			t.epoch++
		}
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
	if t.phase == InstallFailed && !m.online { // an install needs its node
		return []Action{Update, Delete}
	}
	return actions[t.phase]
}

// give ends the job of a server's newest command without success.
func (m *model) give(t *twin) {
	jobs := m.active(t)
	if len(jobs) == 0 {
		return
	}
	must(m.w.t, m.w.tx(func(tx core.App) error { return m.w.Jobs.Cancel(tx, jobs[0].Id, "given up") }))
	if t.had || t.wanted == "absent" || t.withdrawn() {
		return
	}
	m.ops.withdrawn++
	t.deleteID = m.w.row(t.id).DeleteID()
	t.phase = InstallFailed
	t.gen++
	if !t.withdrawn() {
		m.failed("the failed install of %s is not withdrawn", t.id)
	}
}

// active returns the jobs of a server that have not ended.
func (m *model) active(t *twin) []*collections.Job {
	return must2(collections.Every[collections.Job](m.w.app, collections.Jobs, "", 0, dbx.And(dbx.HashExp{"subject": t.id}, dbx.In("state", "ready", "waiting", "running"))))(m.w.t)
}

// deliver brings the newest Spec to the node, as a push or a sync does.
func (m *model) deliver(t *twin) {
	specs, err := m.w.Specs(m.w.app, m.node)
	must(m.w.t, err)
	i := slices.IndexFunc(specs, func(s wire.Spec) bool { return s.ServerID == t.id })
	told := t.phase != Deleted && (!t.withdrawn() || !t.gone())
	if told != (i >= 0) {
		m.failed("the node is told of it: %t, want %t", i >= 0, told)
	}
	if i < 0 {
		return
	}
	s, wanted := specs[i], t.wanted
	if t.withdrawn() {
		wanted = "absent"
	}
	if s.PlacementEpoch != t.epoch || s.Generation != t.gen || string(s.Desired) != wanted || s.RestartCount != t.restarts && wanted != "absent" || s.DeleteID != t.deleteID {
		m.failed("the node is told (%d, %d, %s, %d restarts, %q), want (%d, %d, %s, %d, %q)", s.PlacementEpoch, s.Generation, s.Desired, s.RestartCount, s.DeleteID,
			t.epoch, t.gen, wanted, t.restarts, t.deleteID)
	}
	t.at.accept(s.PlacementEpoch, s.Generation, t.reinstalls, t.deleteID)
}

// accept is what wings does with a Spec: an older one changes nothing, and what was deleted comes back
// with a higher epoch only.
func (n *twinNode) accept(epoch, gen, installs int64, told string) {
	switch {
	case epoch < n.epoch, epoch == n.epoch && (gen <= n.accepted || n.buried && told == ""):
		return
	case epoch > n.epoch && n.buried:
		*n = twinNode{installs: installs}
	}
	n.data = n.data && n.installs == installs
	n.epoch, n.accepted, n.installs, n.told = epoch, gen, installs, told
}

// say sends a report of the node and takes the model where it leads.
func (m *model) say(t *twin, o wire.Observed) {
	m.ops.reports++
	before := t.rev
	must(m.w.t, m.w.tx(func(tx core.App) error { return m.w.Observe(tx, m.node, o) }))
	stale := t.phase == Deleted || o.PlacementEpoch < t.epoch || o.PlacementEpoch == t.last.PlacementEpoch && o.Revision <= t.last.Revision
	if stale {
		m.ops.stale++
		if rev := m.w.row(t.id).Rev(); rev != before {
			m.failed("a stale report raised rev from %d to %d", before, rev)
		}
		return
	}
	t.last = o
	t.sent = append(t.sent, o)
	ahead := o.PlacementEpoch > t.epoch || o.Generation > t.gen
	if ahead {
		m.ops.ahead++
		t.epoch, t.gen = o.PlacementEpoch, max(t.gen, o.Generation)+1
	}
	switch {
	case t.wanted != "absent" && absent(o):
		if t.deleteID != o.DeleteID {
			m.ops.removed++
		}
		t.deleteID, t.had = o.DeleteID, false
	case ahead && t.withdrawn():
		m.ops.readmitted++
		t.deleteID, t.ports = "", true
	}
	t.had = t.had || o.Installed && !t.withdrawn()
	t.ports = t.ports && !t.gone()
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
		if t.gone() {
			t.phase = Deleted
			m.ops.deleted++
		}
	case t.withdrawn():
		t.phase = InstallFailed
	case !m.online:
		t.phase = Unreachable
	case o.PlacementEpoch == t.epoch && o.Generation == t.gen:
		t.phase = shown(o, t.wanted)
	case back:
		t.phase = m.returned(t)
	}
}

// returned is what a server shows whose node is back and has not seen the newest command.
func (m *model) returned(t *twin) Phase {
	o := t.last
	pending := o.PlacementEpoch != t.epoch || o.ReinstallCount < t.reinstalls || !o.Installed && o.State != wire.StateInstallFailed && o.State != wire.StateFailed
	if pending {
		return Installing
	}
	p := shown(o, t.wanted)
	if t.wanted == "running" && p == InstallFailed {
		return Installing
	}
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
	if row.PlacementEpoch() != t.epoch || row.DeleteID() != t.deleteID || row.InstalledAt().IsZero() == t.had {
		m.failed("server %s is of placement %d, %q, installed at %s; the model says %d, %q, %t", t.id, row.PlacementEpoch(), row.DeleteID(), row.InstalledAt(), t.epoch, t.deleteID, t.had)
	}
	if row.Rev() < t.rev || wrote && row.Rev() == t.rev {
		m.failed("rev went from %d to %d", t.rev, row.Rev())
	}
	t.rev = row.Rev()
	if held := m.w.portsHeld(t.id) > 0; held != t.ports {
		m.failed("server %s in %s holds ports: %t, want %t", t.id, t.phase, held, t.ports)
	}
	if t.phase != Deleted && t.at.accepted > row.Generation() {
		m.failed("the node is at %d, the row at %d", t.at.accepted, row.Generation())
	}
	if t.at.accepted > 0 && !t.at.buried && !t.ports { // the law: ports are held for as long as a node may use them
		m.failed("the node has server %s, which holds no ports", t.id)
	}
	js := m.active(t)
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
	m.twins = append(m.twins, &twin{id: out.Server.ID, phase: Installing, wanted: wanted, epoch: 1, gen: 1, ports: true})
	m.check(m.twins[len(m.twins)-1], true)
}

// next draws what the node has to say of a server.
func (m *model) next(r *rapid.T, t *twin) wire.Observed {
	n := &t.at
	n.revision++
	o := wire.Observed{ServerID: t.id, PlacementEpoch: n.epoch, Generation: n.accepted, Revision: n.revision, State: wire.StateAbsent, DeleteID: n.told,
		ReinstallCount: n.installs}
	if n.told != "" {
		if n.buried = n.buried || rapid.IntRange(0, 3).Draw(r, "gone") == 0; !n.buried {
			o.State, o.DeleteID = wire.StateDeleting, ""
		}
		return o
	}
	first := 0
	if n.data { // what is installed stays installed
		first = slices.IndexFunc(nodeStates, func(s nodeState) bool { return s.installed })
	}
	s := nodeStates[rapid.IntRange(first, len(nodeStates)-1).Draw(r, "state")]
	if n.resting == n.accepted { // a failed install rests until it is asked for anew
		s = nodeStates[2]
	}
	if !s.installed && s.settled {
		n.resting = n.accepted
	}
	n.data = s.installed
	o.State, o.Installed, o.Settled = s.state, s.installed, s.settled
	return o
}

// future lets the node have had commands that this panel was restored from before.
func (m *model) future(r *rapid.T, t *twin) {
	if t.wanted == "absent" || t.phase == Deleted {
		return
	}
	m.deliver(t)
	n, told := &t.at, ""
	epoch := max(n.epoch, t.epoch)
	switch kind := rapid.IntRange(0, 3).Draw(r, "kind"); {
	case kind == 0:
		told = "lost" + t.id[:11] // it was deleted, or withdrawn
	case kind == 1 || n.buried:
		epoch++ // it was placed anew
	}
	n.accept(epoch, t.gen+3, t.reinstalls, told)
	n.buried = told != ""
	m.say(t, m.next(r, t))
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
		m.say(t, wire.Observed{ServerID: t.id, PlacementEpoch: t.epoch - 1, Generation: 99, Revision: 1 << 40, State: wire.StateAbsent, DeleteID: t.deleteID})
	case kind == 14 && rapid.IntRange(0, 3).Draw(r, "future") == 0:
		m.future(r, t)
	case kind == 15 || kind == 16 && t.phase == InstallFailed: // a failed install ends its job
		m.give(t)
	default:
		if t.at.accepted == 0 {
			m.deliver(t)
		}
		if t.at.accepted > 0 {
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
	const perRun = 70 // 7,000 operations; nightlyChecks says what the nightly lane runs
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
	t.Logf("T10 (servers): %d operations in %d runs: %d commands (%d refused), %d reports (%d stale, %d from the future), %d changes of the node, %d installs withdrawn, %d placed anew, %d readmitted, %d removed behind the panel's back, %d deleted; 0 differences",
		ops.ops, runs, ops.commands, ops.refused, ops.reports, ops.stale, ops.ahead, ops.away, ops.withdrawn, ops.placed, ops.readmitted, ops.removed, ops.deleted)
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
