package servers

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/blueprints"
	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/catalog"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/wire"
)

// CreateInput is the body of POST /servers.
type CreateInput struct {
	Name      string            `json:"name"`
	Blueprint string            `json:"blueprint"` // id or slug
	Version   string            `json:"version"`   // empty: the latest
	Variant   string            `json:"variant"`   // empty: the default one
	Node      string            `json:"node"`      // empty: placement chooses
	Location  string            `json:"location"`  // empty: anywhere
	Limits    Limits            `json:"limits"`
	Variables map[string]string `json:"variables"`
	Start     bool              `json:"start"` // start it once it is installed
}

// UpdateInput is the body of PATCH /servers/{id}. Nil: unchanged.
type UpdateInput struct {
	Name      *string           `json:"name"`
	Limits    *Limits           `json:"limits"`
	Variables map[string]string `json:"variables"` // replaces the named ones
}

// Outcome is what a command answers with.
type Outcome struct {
	Server View `json:"server"`
	Job    any  `json:"job"` // nil: nothing has to be done
}

// Limits of what one server may ask for, before quota and capacity are looked at.
const (
	maxNameRunes   = 60
	minCPU, maxCPU = 100, 64_000   // millicores
	minMem, maxMem = 32, 512 << 10 // MiB
	minDisk        = 1             // GiB
	maxDisk        = 8 << 10       // GiB
)

// validate returns the name as it is kept, its white space tidied.
func validate(name string, l Limits) (string, error) {
	faults := map[string]access.FieldError{}
	name, ok := access.CleanText(name, maxNameRunes)
	if !ok || name == "" {
		faults["name"] = access.FieldError{Code: "name_invalid", Message: fmt.Sprintf("Give the server a name of 1 to %d characters that can be seen.", maxNameRunes)}
	}
	check := func(field string, v, low, high int64, unit string) {
		if v < low || v > high {
			faults["limits."+field] = access.FieldError{Code: "out_of_range", Message: fmt.Sprintf("Choose between %d and %d %s.", low, high, unit)}
		}
	}
	check("cpu_millicores", l.CPUMillicores, minCPU, maxCPU, "millicores (1,000 are one core)")
	check("memory_mib", l.MemoryMiB, minMem, maxMem, "MiB")
	check("disk_gib", l.DiskGiB, minDisk, maxDisk, "GiB")
	if len(faults) > 0 {
		return "", access.Invalid(faults)
	}
	return name, nil
}

// Create makes a server: quota, blueprint, ports, row, audit, event and job in one transaction. The
// caller has asked Can and holds the tenant's lock.
func (s *Servers) Create(tx core.App, a access.Actor, tenant string, in CreateInput) (Outcome, error) {
	name, err := validate(in.Name, in.Limits)
	if err != nil {
		return Outcome{}, err
	}
	in.Name = name
	game, err := s.chosen(tx, a, in)
	if err != nil {
		return Outcome{}, err
	}
	if err := s.Tenancy.Afford(tx, tenant, quota(1, in.Limits, Limits{})); err != nil {
		return Outcome{}, err
	}
	row, err := s.newRow(tx, a, tenant, in, game)
	if err != nil {
		return Outcome{}, err
	}
	held, _, err := s.Alloc.Reserve(tx, need(row, game.Blueprint, in.Node, in.Location))
	if err != nil {
		return Outcome{}, err
	}
	row.SetNode(held.Node())
	if err := s.compiles(tx, row, held); err != nil {
		return Outcome{}, err
	}
	online, err := s.nodeOnline(tx, held.Node())
	if err != nil {
		return Outcome{}, err
	}
	if !online {
		return Outcome{}, access.Unavailable("node_offline", "That node cannot be reached at the moment. Pick another one or let us choose.")
	}
	return s.commit(tx, a, row, "create", Installing, map[string]any{"blueprint": game.ID, "version": game.Blueprint.Version, "node": held.Node(), "limits": in.Limits})
}

func (s *Servers) chosen(tx core.App, a access.Actor, in CreateInput) (catalog.Offered, error) {
	unknown := func(field, message string) error {
		return access.Invalid(map[string]access.FieldError{field: {Code: "unknown", Message: message}})
	}
	game, err := s.Catalog.Find(tx, in.Blueprint)
	if errors.Is(err, catalog.ErrUnknown) {
		return game, unknown("blueprint", "There is no such game here. Pick one from the list.")
	}
	if err != nil {
		return game, err
	}
	if game, err = s.Catalog.Version(tx, game, in.Version); errors.Is(err, catalog.ErrUnknown) {
		return game, unknown("version", "This game has no such version. Leave it out to get the newest.")
	}
	if err != nil {
		return game, err
	}
	if v, ok := game.Variant(in.Variant); !ok || v.Hidden && !a.Superuser {
		return game, unknown("variant", "This game has no such variant. Leave it out to get the usual one.")
	}
	return game, nil
}

func (s *Servers) newRow(tx core.App, a access.Actor, tenant string, in CreateInput, game catalog.Offered) (*collections.Server, error) {
	row, err := collections.NewServer(tx)
	if err != nil {
		return nil, err
	}
	row.Id = core.GenerateDefaultRandomId()
	row.SetTenant(tenant)
	row.SetName(in.Name)
	row.SetBlueprint(game.Row.Id)
	row.SetBlueprintVersion(game.Version.Id)
	row.SetVariant(in.Variant)
	s.setLimits(row, in.Limits)
	row.SetDesiredState(string(wire.DesiredStopped))
	if in.Start {
		row.SetDesiredState(string(wire.DesiredRunning))
	}
	row.SetPlacementEpoch(1)
	row.SetInstallStatus(installPending)
	row.SetStatus(string(Installing))
	row.SetCreatedBy(a.ID)
	env := environment{}
	for key, value := range in.Variables {
		if err := s.put(tx, row, env, game.Blueprint, key, value, a.Superuser); err != nil {
			return nil, err
		}
	}
	row.SetEnvironment(env)
	return row, nil
}

func (s *Servers) setLimits(row *collections.Server, l Limits) {
	row.SetCPULimitMillicores(l.CPUMillicores)
	row.SetMemLimitMB(l.MemoryMiB)
	row.SetDiskGB(l.DiskGiB)
}

func limitsOf(row *collections.Server) Limits {
	return Limits{row.CPULimitMillicores(), row.MemLimitMB(), row.DiskGB()}
}

// quota is what a change from one size to another takes of the tenant's.
func quota(servers int64, to, from Limits) tenancy.Quota {
	return tenancy.Quota{
		Servers: servers, CPUMillicores: to.CPUMillicores - from.CPUMillicores, MemoryMiB: to.MemoryMiB - from.MemoryMiB,
		DiskMiB: (to.DiskGiB - from.DiskGiB) << 10,
	}
}

func need(row *collections.Server, b *blueprints.Blueprint, node, location string) alloc.Need {
	return alloc.Need{
		Tenant: row.Tenant(), Server: row.Id, Node: node, Location: location, Ports: portNeeds(b),
		CPUMillicores: row.CPULimitMillicores(), MemoryMiB: row.MemLimitMB(), DiskMiB: row.DiskGB() << 10,
	}
}

// compiles refuses a server whose blueprint does not compile with what the customer gave; the
// faults are mapped to the fields of the form.
func (s *Servers) compiles(tx core.App, row *collections.Server, held *collections.Allocation) error {
	ports, err := portsOf(held)
	if err != nil {
		return err
	}
	row.SetGeneration(max(row.Generation(), 1))
	in, err := s.input(tx, row, ports)
	if err != nil {
		return err
	}
	_, err = s.Catalog.Compile(tx, row.BlueprintVersion(), in)
	return fieldsOf(err)
}

// fieldsOf maps faults of variables to the fields of the form; any other error stays what it is.
func fieldsOf(err error) error {
	var faults blueprints.VariableErrors
	if !errors.As(err, &faults) {
		return err
	}
	fields := map[string]access.FieldError{}
	for _, f := range faults {
		field := "variables." + f.Key
		if f.Key == "name" {
			field = "name"
		}
		fields[field] = access.FieldError{Code: "invalid", Message: f.Message}
	}
	return access.Invalid(fields)
}

// Act carries out start, stop, restart, kill and reinstall on a server that is locked.
func (s *Servers) Act(tx core.App, a access.Actor, row *collections.Server, act Action) (Outcome, error) {
	if err := possible(row, act); err != nil {
		return Outcome{}, err
	}
	if act == Start && row.Suspended() {
		return Outcome{}, access.Forbidden("tenant_suspended", "This organisation is suspended, so its servers cannot be started. Settle the open invoice to go on.")
	}
	switch act {
	case Start:
		row.SetDesiredState(string(wire.DesiredRunning))
	case Stop:
		row.SetDesiredState(string(wire.DesiredStopped))
	case Restart:
		row.SetDesiredState(string(wire.DesiredRunning))
		row.SetRestartCount(row.RestartCount() + 1)
	case Kill:
		row.SetDesiredState(string(wire.DesiredStopped))
		row.SetKillCount(row.KillCount() + 1)
	case Reinstall:
		if err := s.reinstall(tx, row); err != nil {
			return Outcome{}, err
		}
	default:
		return Outcome{}, access.BadRequest("unknown_action", fmt.Sprintf("%q is none of start, stop, restart, kill, reinstall.", act))
	}
	return s.commit(tx, a, row, act, After(Phase(row.Status()), act), map[string]any{})
}

// reinstall asks for another install: in place, or as a new placement when the last one was withdrawn.
// It refuses what does not compile: a job could only be given up about it.
func (s *Servers) reinstall(tx core.App, row *collections.Server) error {
	row.SetReinstallCount(row.ReinstallCount() + 1)
	row.SetInstallStatus(installPending)
	online, err := s.nodeOnline(tx, row.Node())
	if err != nil {
		return err
	}
	if !online {
		return access.Unavailable("node_offline", "The server's node cannot be reached at the moment. Try again once it is back.")
	}
	if withdrawn(row) {
		row.SetDeleteID("")
		row.SetPlacementEpoch(row.PlacementEpoch() + 1)
	}
	held, err := s.hold(tx, row, false)
	if err != nil {
		return err
	}
	return s.compiles(tx, row, held)
}

// hold returns what a server holds, and reserves it on its node when that is nothing. A resident runs
// there already, so it gets ports in any state of the node.
func (s *Servers) hold(tx core.App, row *collections.Server, resident bool) (*collections.Allocation, error) {
	held, err := alloc.Of(tx, row.Id)
	if !errors.Is(err, sql.ErrNoRows) {
		return held, err
	}
	b, err := s.Catalog.Blueprint(tx, row.BlueprintVersion())
	if err != nil {
		return nil, err
	}
	n := need(row, b, row.Node(), "")
	n.Resident = resident
	held, _, err = s.Alloc.Reserve(tx, n)
	return held, err
}

func possible(row *collections.Server, act Action) error {
	if slices.Contains(Possible(Phase(row.Status())), act) {
		return nil
	}
	return access.Conflict("action_not_possible", fmt.Sprintf("A server that is %s cannot be asked to %s.", words[Phase(row.Status())], act))
}

// words are the phases as they read in a sentence.
var words = map[Phase]string{
	Installing: "being installed", InstallFailed: "not installed", Stopped: "stopped", Starting: "starting", Running: "running",
	Stopping: "stopping", Crashed: "recovering from a crash", Failed: "out of order", Unreachable: "out of reach",
	Deleting: "being deleted", Deleted: "deleted",
}

// Update changes name, limits and variables of a server that is locked. Limits and variables take
// effect at the next start.
func (s *Servers) Update(tx core.App, a access.Actor, row *collections.Server, in UpdateInput) (Outcome, error) {
	if err := possible(row, Update); err != nil {
		return Outcome{}, err
	}
	name, limits := row.Name(), limitsOf(row)
	if in.Name != nil {
		name = *in.Name
	}
	if in.Limits != nil {
		limits = *in.Limits
	}
	name, err := validate(name, limits)
	if err != nil {
		return Outcome{}, err
	}
	row.SetName(name)
	if limits != limitsOf(row) {
		if err := s.resize(tx, row, limits); err != nil {
			return Outcome{}, err
		}
	}
	if err := s.setVariables(tx, a, row, in.Variables); err != nil {
		return Outcome{}, err
	}
	details := map[string]any{"limits": limits, "variables": slices.Sorted(maps.Keys(in.Variables))}
	if in.Limits == nil && in.Variables == nil || Phase(row.Status()) == InstallFailed {
		return s.note(tx, a, row, details)
	}
	return s.commit(tx, a, row, Update, Phase(row.Status()), details)
}

// note stores a change that needs nothing of the node: a name, or what a reinstall will take. The
// generation stays, so a job that still has to conclude is not superseded.
func (s *Servers) note(tx core.App, a access.Actor, row *collections.Server, details map[string]any) (Outcome, error) {
	if err := s.witness(tx, a, row, Update, details); err != nil {
		return Outcome{}, err
	}
	if err := s.settle(tx, row, Phase(row.Status())); err != nil {
		return Outcome{}, err
	}
	view, err := s.view(tx, row)
	return Outcome{Server: view}, err
}

func (s *Servers) resize(tx core.App, row *collections.Server, l Limits) error {
	if err := s.Tenancy.Afford(tx, row.Tenant(), quota(0, l, limitsOf(row))); err != nil {
		return err
	}
	s.setLimits(row, l)
	if _, held, err := s.ports(tx, row.Id); err != nil || !held {
		return err
	}
	return s.Alloc.Resize(tx, row.Id, alloc.Amount{CPUMillicores: l.CPUMillicores, MemoryMiB: l.MemoryMiB, DiskMiB: l.DiskGiB << 10})
}

func (s *Servers) setVariables(tx core.App, a access.Actor, row *collections.Server, values map[string]string) error {
	b, err := s.Catalog.Blueprint(tx, row.BlueprintVersion())
	if err != nil {
		return err
	}
	env, err := environmentOf(row)
	if err != nil {
		return err
	}
	for key, value := range values {
		if err := s.put(tx, row, env, b, key, value, a.Superuser); err != nil {
			return err
		}
	}
	row.SetEnvironment(env)
	customer, operator, err := s.values(tx, row)
	if err != nil {
		return err
	}
	return fieldsOf(b.CheckValues(customer, operator)) // also when no ports are held to compile with
}

// Delete asks the node to remove a server that is locked. Its ports are free once the node says that
// it is gone.
func (s *Servers) Delete(tx core.App, a access.Actor, row *collections.Server) (Outcome, error) {
	if err := possible(row, Delete); err != nil {
		return Outcome{}, err
	}
	row.SetDesiredState(string(wire.DesiredAbsent))
	row.SetDeleteID(core.GenerateDefaultRandomId())
	return s.commit(tx, a, row, Delete, Deleting, map[string]any{})
}

// kinds of the job that waits for each action.
var kinds = map[Action]string{
	"create": "InstallServer", Reinstall: "ReinstallServer", Start: "StartServer", Stop: "StopServer", Restart: "RestartServer",
	Kill: "KillServer", Update: "UpdateServer", Delete: "DeleteServer", withdrawal: "WithdrawServer",
}

// withdrawal is no command of a customer: it ends a placement that came to nothing.
const withdrawal Action = "withdraw"

// commit ends every command: generation, row, audit, event, job and realtime.
func (s *Servers) commit(tx core.App, a access.Actor, row *collections.Server, act Action, to Phase, metadata map[string]any) (Outcome, error) {
	if row.IsNew() {
		row.SetGeneration(1)
	} else {
		row.SetGeneration(row.Generation() + 1)
	}
	row.SetProblemCode("")
	row.SetProblemMessage("")
	if err := s.settle(tx, row, to); err != nil {
		return Outcome{}, err
	}
	if err := s.witness(tx, a, row, act, metadata); err != nil {
		return Outcome{}, err
	}
	id, err := s.enqueue(tx, row, act)
	if err != nil {
		return Outcome{}, err
	}
	view, err := s.view(tx, row)
	if err != nil {
		return Outcome{}, err
	}
	job, err := collections.FindJob(tx, id)
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{Server: view, Job: jobs.View(job)}, nil
}

// enqueue makes the job that brings the row's generation to its node, in place of older ones.
func (s *Servers) enqueue(tx core.App, row *collections.Server, act Action) (id string, err error) {
	if err := s.overtake(tx, row, "a newer command came"); err != nil {
		return "", err
	}
	return s.await(tx, row, act)
}

// overtake ends the jobs of older generations.
func (s *Servers) overtake(tx core.App, row *collections.Server, reason string) error {
	if _, err := s.Jobs.SupersedeAll(tx, row.Id, reason, slices.Collect(maps.Values(kinds))...); err != nil {
		return fmt.Errorf("supersede older commands of server %s: %w", row.Id, err)
	}
	return nil
}

// await makes the job that waits for the row's generation.
func (s *Servers) await(tx core.App, row *collections.Server, act Action) (id string, err error) {
	id, err = s.Jobs.Enqueue(tx, jobs.Job{
		Kind: kinds[act], Tenant: row.Tenant(), Subject: row.Id, GroupKey: "server:" + row.Id,
		UniqueKey: fmt.Sprintf("server:%s:%d:%d", row.Id, row.PlacementEpoch(), row.Generation()),
		Payload:   command{Server: row.Id, Epoch: row.PlacementEpoch(), Generation: row.Generation(), Action: act},
	})
	if err != nil {
		return "", fmt.Errorf("enqueue %s of server %s: %w", kinds[act], row.Id, err)
	}
	return id, nil
}

// witness writes the audit row and the event of a command.
func (s *Servers) witness(tx core.App, a access.Actor, row *collections.Server, act Action, metadata map[string]any) error {
	action := "server." + string(act)
	metadata["name"] = row.Name()
	if err := s.Audit.Write(tx, a.Audit(), audit.Entry{
		Tenant: row.Tenant(), Action: action, ResourceType: collections.Servers, Resource: row.Id, Metadata: metadata,
	}); err != nil {
		return fmt.Errorf("audit %s of server %s: %w", action, row.Id, err)
	}
	return s.emit(tx, row, action, events.Event{Actor: a.ID, ActorType: a.Type, ActorName: a.Name}, map[string]any{})
}
