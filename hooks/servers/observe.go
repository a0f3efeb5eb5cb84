package servers

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/wings/wire"
)

// Specs returns the desired state of every server placed on a node (fleet.Placements).
func (s *Servers) Specs(app core.App, node string) ([]wire.Spec, error) {
	rows, err := collections.Every[collections.Server](app, collections.Servers, "", 0,
		dbx.HashExp{"node": node}, dbx.NewExp("[[status]] != {:deleted}", dbx.Params{"deleted": string(Deleted)}))
	if err != nil {
		return nil, err
	}
	held, err := alloc.On(app, node)
	if err != nil {
		return nil, err
	}
	specs := make([]wire.Spec, 0, len(rows))
	for _, row := range rows {
		spec, ok, err := s.specWith(app, row, held[row.Id])
		if err != nil {
			// One server that cannot be compiled must not keep the others from their node.
			s.Log.Error("server left out of a sync", "server", row.Id, "node", node, "error", err)
			continue
		}
		if ok {
			specs = append(specs, spec)
		}
	}
	return specs, nil
}

// News returns what a node says that is not known yet (fleet.Placements). Whatever Observe may have to
// say something about is among it: what is implausible, or is said of a server that does not live there.
func (s *Servers) News(app core.App, node string, said []wire.Observed) ([]wire.Observed, error) {
	var rows []struct {
		ID       string `db:"id"`
		Placed   int64  `db:"placement_epoch"`
		Epoch    int64  `db:"observed_epoch"`
		Revision int64  `db:"observed_revision"`
	}
	err := app.DB().Select("id", "placement_epoch", "observed_epoch", "observed_revision").From(collections.Servers).
		Where(dbx.HashExp{"node": node}).AndWhere(dbx.NewExp("[[status]] != {:deleted}", dbx.Params{"deleted": string(Deleted)})).All(&rows)
	if err != nil {
		return nil, fmt.Errorf("read what is known of the servers of node %s: %w", node, err)
	}
	known := make(map[string]int, len(rows))
	for i, r := range rows {
		known[r.ID] = i
	}
	var news []wire.Observed
	for _, o := range said {
		if i, ok := known[o.ServerID]; !ok || !heard(o, rows[i].Placed, rows[i].Epoch, rows[i].Revision) {
			news = append(news, o)
		}
	}
	return news, nil
}

// heard reports whether a word of a node changes nothing: it is about an older placement, or is no newer
// than what the node said last.
func heard(o wire.Observed, placed, epoch, revision int64) bool {
	return o.PlacementEpoch < placed || o.PlacementEpoch == epoch && o.Revision <= revision
}

// Observe takes in what a node says of a server (fleet.Placements). Reports that are older than
// what is known, or of another placement, change nothing.
func (s *Servers) Observe(tx core.App, node string, o wire.Observed) error {
	if !plausible(o.PlacementEpoch) || !plausible(o.Generation) || !plausible(o.Revision) {
		return fmt.Errorf("server %s: epoch %d, generation %d, revision %d: no panel gave such numbers: %w",
			clip(o.ServerID, 15), o.PlacementEpoch, o.Generation, o.Revision, fleet.ErrPermanent)
	}
	row, err := s.placed(tx, node, o.ServerID)
	if err != nil || row == nil {
		return err
	}
	if Phase(row.Status()) == Deleted || heard(o, row.PlacementEpoch(), row.ObservedEpoch(), row.ObservedRevision()) {
		return nil
	}
	ahead := o.PlacementEpoch > row.PlacementEpoch() || o.Generation > row.Generation()
	if ahead {
		// This panel was restored from a backup: the node has seen newer commands than we know of.
		// What we want now has to be newer still.
		row.SetPlacementEpoch(o.PlacementEpoch)
		row.SetGeneration(max(o.Generation, row.Generation()) + 1)
	}
	switch wanted := wire.Desired(row.DesiredState()) != wire.DesiredAbsent; {
	case wanted && absence(&o):
		takeAbsence(row, &o)
	case ahead && withdrawn(row):
		if err := s.readmit(tx, row); err != nil {
			return err
		}
	}
	before := Phase(row.Status())
	s.record(row, o)
	if gone(row) { // the one place where ports come back, but for a node that is forced out
		if err := s.Alloc.Release(tx, row.Id); err != nil {
			return fmt.Errorf("release ports of server %s: %w", row.Id, err)
		}
	}
	online, err := s.nodeOnline(tx, node)
	if err != nil {
		return err
	}
	if err := s.settle(tx, row, Derive(before, want(row), seen(row), online)); err != nil {
		return err
	}
	switch {
	case ahead && withdrawn(row):
		return s.overtake(tx, row, "the node has deleted the server")
	case ahead:
		return s.insist(tx, row)
	}
	return s.Jobs.Wake(tx, row.Id)
}

// plausible reports whether a counter leaves room above it: columns are exact to 2^53, and a node must
// not be able to bring a server to where no newer command counts.
func plausible(n int64) bool { return n >= 0 && n < 1<<50 }

// Rebuilt makes the next word of a node count, whatever its revision (fleet.Placements): a node that
// lost its records counts from 1 again.
func (s *Servers) Rebuilt(tx core.App, node string) error {
	_, err := tx.NonconcurrentDB().Update(collections.Servers, dbx.Params{"observed_revision": 0}, dbx.HashExp{"node": node}).Execute()
	if err != nil {
		return fmt.Errorf("forget revisions of node %s: %w", node, err)
	}
	return nil
}

// insist brings a generation to the node that no command asked for.
func (s *Servers) insist(tx core.App, row *collections.Server) error {
	act := Update
	if wire.Desired(row.DesiredState()) == wire.DesiredAbsent {
		act = Delete
	}
	_, err := s.enqueue(tx, row, act)
	return err
}

// placed returns the row of a server if it lives on that node; nil, and an incident, otherwise.
func (s *Servers) placed(tx core.App, node, server string) (*collections.Server, error) {
	row, err := collections.FindServer(tx, server)
	if errors.Is(err, sql.ErrNoRows) || err == nil && row.Node() != node {
		server = clip(server, 64)
		return nil, s.Incidents.Open(tx, incidents.Incident{
			Kind: "server.unknown", Fingerprint: "server.unknown:" + node + ":" + server, Severity: "warning", Node: node,
			Title:  "A node runs a server that this panel does not place there",
			Detail: fmt.Sprintf("Server %s is on the node but not in the database as living there. Nothing was changed. If this panel was restored from a backup, restore a newer one; otherwise remove the container by hand.", server),
		})
	}
	return row, err
}

// record copies an observation into the row.
func (s *Servers) record(row *collections.Server, o wire.Observed) {
	if p := o.Problem; p != nil {
		o.Problem = &wire.Problem{Code: clip(p.Code, 64), Message: clip(p.Message, wire.MaxMessageBytes), Detail: clip(p.Detail, wire.MaxMessageBytes)}
	}
	o.Progress.Step, o.Progress.Message = clip(o.Progress.Step, 64), clip(o.Progress.Message, wire.MaxMessageBytes)
	row.SetObserved(o)
	row.SetObservedEpoch(o.PlacementEpoch)
	row.SetObservedGeneration(o.Generation)
	row.SetObservedRevision(o.Revision)
	if !o.StartedAt.IsZero() {
		row.SetLastStartAt(o.StartedAt)
	}
	if !o.ExitedAt.IsZero() {
		row.SetLastExitAt(o.ExitedAt)
	}
	if o.ExitCode != nil {
		row.SetLastExitCode(int64(*o.ExitCode))
	}
	if withdrawn(row) { // why it failed stays; what its node still says of it changes that no more
		return
	}
	if o.Generation >= row.Generation() { // an older problem is what the newest command is about
		row.SetProblemCode("")
		row.SetProblemMessage("")
		if o.Problem != nil {
			row.SetProblemCode(o.Problem.Code)
			row.SetProblemMessage(clip(o.Problem.Message, 1000))
		}
	}
	if o.Installed && row.InstalledAt().IsZero() {
		row.SetInstalledAt(now())
	}
	switch {
	case o.ReinstallCount < row.ReinstallCount():
		row.SetInstallStatus(installPending)
	case o.State == wire.StateInstallFailed, o.State == wire.StateFailed && !o.Installed:
		row.SetInstallStatus(installFailed)
	case o.Installed:
		row.SetInstallStatus(installDone)
	case o.State == wire.StateInstalling, o.State == wire.StatePulling:
		row.SetInstallStatus(installRunning)
	}
}

// settle writes a row with its new phase: rev, event, realtime, and what a phase entails.
func (s *Servers) settle(tx core.App, row *collections.Server, to Phase) error {
	from := Phase(row.Status())
	if !May(from, to) {
		return fmt.Errorf("server %s: %s → %s is not in the phase table: %w", row.Id, from, to, fleet.ErrPermanent)
	}
	row.SetStatus(string(to))
	if err := s.entail(tx, row, from, to); err != nil {
		return err
	}
	row.SetRev(row.Rev() + 1)
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("save server %s: %w", row.Id, err)
	}
	if from != to {
		if err := s.emit(tx, row, "server.phase_changed", events.Event{}, map[string]any{"from": from, "to": to, "problem": row.ProblemMessage()}); err != nil {
			return err
		}
	}
	return s.broadcast(tx, row)
}

// entail does what a new phase brings with it.
func (s *Servers) entail(tx core.App, row *collections.Server, from, to Phase) error {
	if from == to {
		return nil
	}
	if to == Deleted {
		row.SetDeletedAt(now())
		row.SetEnvironment(environment{}) // its secrets have no further use
	}
	if to == Deleted || to == Running {
		return s.Incidents.Resolve(tx, "server.failed:"+row.Id, "The server is "+words[to]+".")
	}
	return nil
}

// Crashed takes in a crash report (fleet.Placements).
func (s *Servers) Crashed(tx core.App, node string, c wire.CrashReport) error {
	row, err := s.placed(tx, node, c.ServerID)
	if err != nil || row == nil || c.PlacementEpoch != row.PlacementEpoch() {
		return err
	}
	err = s.emit(tx, row, "server.crashed", events.Event{}, map[string]any{
		"exit_code": c.ExitCode, "out_of_memory": c.OOMKilled, "attempt": c.Attempt, "given_up": c.GivenUp, "last_lines": lastLines(c.LastLines),
	})
	if err != nil || !c.GivenUp {
		return err
	}
	return s.Incidents.Open(tx, incidents.Incident{
		Kind: "server.failed", Fingerprint: "server.failed:" + row.Id, Severity: "warning", Tenant: row.Tenant(), Node: node, Server: row.Id,
		Title:  fmt.Sprintf("Server %q crashed %d times in a row and was given up", row.Name(), c.Attempt),
		Detail: fmt.Sprintf("Last exit code %d, out of memory: %t.", c.ExitCode, c.OOMKilled),
	})
}

// lastLines keeps the end of what a game said before it crashed, as much as an event may hold.
func lastLines(lines []string) []string {
	kept, room := []string{}, maxCrashBytes
	for _, l := range slices.Backward(lines) {
		if room -= len(l); room < 0 {
			break
		}
		kept = append(kept, l)
	}
	slices.Reverse(kept)
	return kept
}

// Installed takes in how an install script ended (fleet.Placements).
func (s *Servers) Installed(tx core.App, node string, r wire.InstallReport) error {
	row, err := s.placed(tx, node, r.ServerID)
	if err != nil || row == nil || r.PlacementEpoch != row.PlacementEpoch() || r.ReinstallCount < row.ReinstallCount() {
		return err
	}
	row.SetInstallLog(clip(r.Log, wire.MaxInstallLogBytes))
	row.SetRev(row.Rev() + 1)
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("save install log of server %s: %w", row.Id, err)
	}
	kind := "server.installed"
	if r.ExitCode != 0 || r.TimedOut {
		kind = "server.install_failed"
	}
	return s.emit(tx, row, kind, events.Event{}, map[string]any{"exit_code": r.ExitCode, "timed_out": r.TimedOut})
}

// Unknown takes in a container that no Spec of ours names (fleet.Placements). It is reported, never
// removed: this panel may be the one that is wrong.
func (s *Servers) Unknown(tx core.App, node string, u wire.UnknownContainer) error {
	row, err := collections.FindServer(tx, u.ServerID)
	if err == nil && row.Node() == node && Phase(row.Status()) != Deleted {
		return nil // it lives there; a sync leaves it out once it is withdrawn
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return s.Incidents.Open(tx, incidents.Incident{
		Kind: "container.unknown", Fingerprint: "container.unknown:" + node + ":" + clip(u.ContainerID, 64), Severity: "warning", Node: node,
		Title:  "A container of ours on a node belongs to no server there",
		Detail: fmt.Sprintf("Container %s says it is server %s (running: %t). It was left alone.", clip(u.ContainerID, 12), clip(u.ServerID, 64), u.Running),
	})
}

// NodeStatus takes in that a node fell silent or came back (fleet.Placements).
func (s *Servers) NodeStatus(tx core.App, node string, online bool) error {
	rows, err := collections.Every[collections.Server](tx, collections.Servers, "", 0,
		dbx.HashExp{"node": node}, dbx.NewExp("[[status]] != {:deleted}", dbx.Params{"deleted": string(Deleted)}))
	if err != nil {
		return err
	}
	for _, row := range rows {
		to := Derive(Phase(row.Status()), want(row), seen(row), online)
		if to == Phase(row.Status()) {
			continue
		}
		if err := s.settle(tx, row, to); err != nil {
			return err
		}
		if err := s.Jobs.Wake(tx, row.Id); err != nil {
			return err
		}
	}
	return nil
}

// ForgetNode ends the servers of a node that is being deleted by force: their data went with it. It is
// called in that transaction, before the node's row goes and before alloc forgets the node
// (fleet.Config.Forget), which gives their ports back.
func (s *Servers) ForgetNode(tx core.App, node string) error {
	rows, err := collections.Every[collections.Server](tx, collections.Servers, "", 0,
		dbx.HashExp{"node": node}, dbx.NewExp("[[status]] != {:deleted}", dbx.Params{"deleted": string(Deleted)}))
	if err != nil {
		return err
	}
	for _, row := range rows {
		row.SetDesiredState(string(wire.DesiredAbsent))
		row.SetProblemCode("node_removed")
		row.SetProblemMessage("The machine that this server lived on was taken out of service, and its data with it.")
		for _, p := range []Phase{Deleting, Deleted} {
			if err := s.settle(tx, row, p); err != nil {
				return err
			}
		}
		if err := s.overtake(tx, row, "its node was removed"); err != nil {
			return err
		}
	}
	return nil
}

// PlacedOn counts the servers that live on a node (fleet.Placements).
func (s *Servers) PlacedOn(app core.App, node string) (int, error) {
	var n int
	err := app.DB().Select("count(*)").From(collections.Servers).
		Where(dbx.HashExp{"node": node}).AndWhere(dbx.NewExp("[[status]] != {:deleted}", dbx.Params{"deleted": string(Deleted)})).Row(&n)
	return n, err
}

func (s *Servers) nodeOnline(app core.App, node string) (bool, error) {
	n, err := collections.FindNode(app, node)
	if err != nil {
		return false, fmt.Errorf("node %s: %w", node, err)
	}
	return n.Status() != "OFFLINE", nil
}

// emit writes an event about a server; e carries the actor when there is one.
func (s *Servers) emit(tx core.App, row *collections.Server, kind string, e events.Event, payload map[string]any) error {
	payload["name"] = row.Name()
	e.Kind, e.Tenant, e.SubjectType, e.Subject, e.Public, e.Payload = kind, row.Tenant(), collections.Servers, row.Id, true, payload
	return s.Events.Emit(tx, e)
}

// broadcast tells browsers of the tenant what a server looks like once tx has committed.
func (s *Servers) broadcast(tx core.App, row *collections.Server) error {
	view, err := s.view(tx, row)
	if err != nil {
		return err
	}
	s.Events.Broadcast(tx, row.Tenant(), events.Message{
		Type: "server", ID: row.Id, Rev: row.Rev(), Server: row.Id, Data: view, Deleted: Phase(row.Status()) == Deleted,
	})
	return nil
}
