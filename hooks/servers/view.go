package servers

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/catalog"
	"github.com/mambahost/mamba/wings/wire"
)

// View is a server as customers see it. Secret variables come without a value.
type View struct {
	ID            string             `json:"id"`
	Tenant        string             `json:"tenant"`
	Rev           int64              `json:"rev"`
	Name          string             `json:"name"`
	Status        Phase              `json:"status"`
	DesiredState  string             `json:"desired_state"`
	Suspended     bool               `json:"suspended"`
	InstallStatus string             `json:"install_status"`
	Problem       *Problem           `json:"problem"`
	Progress      *wire.Progress     `json:"progress"`
	Node          NodeView           `json:"node"`
	Blueprint     BlueprintView      `json:"blueprint"`
	Variant       string             `json:"variant"`
	Limits        Limits             `json:"limits"`
	Address       string             `json:"address"` // ip:port of the first port; empty when nothing is reserved
	Ports         []wire.Port        `json:"ports"`
	Variables     map[string]*string `json:"variables"` // nil: a secret
	LastStartAt   *time.Time         `json:"last_start_at"`
	LastExitAt    *time.Time         `json:"last_exit_at"`
	LastExitCode  *int64             `json:"last_exit_code"`
	Created       time.Time          `json:"created"`
	Actions       []Action           `json:"actions"` // that make sense now; permissions are asked separately
	InstallLog    *string            `json:"install_log,omitzero"`
	Job           any                `json:"job,omitempty"`
}

// Problem says why a server is not what it should be.
type Problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// NodeView is what a customer may know of a node.
type NodeView struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Location string `json:"location"`
	Status   string `json:"status"`
}

// BlueprintView names the game of a server.
type BlueprintView struct {
	ID      string `json:"id"`
	Slug    string `json:"slug"`
	Name    string `json:"name"`
	Version string `json:"version"`
	IconURL string `json:"icon_url"`
}

// Limits as customers give and see them.
type Limits struct {
	CPUMillicores int64 `json:"cpu_millicores"`
	MemoryMiB     int64 `json:"memory_mib"`
	DiskGiB       int64 `json:"disk_gib"`
}

// view builds the View of one server.
func (s *Servers) view(app core.App, row *collections.Server) (View, error) {
	views, err := s.views(app, []*collections.Server{row})
	if err != nil {
		return View{}, err
	}
	return views[0], nil
}

// views builds many with a fixed number of queries.
func (s *Servers) views(app core.App, rows []*collections.Server) ([]View, error) {
	around, err := s.surroundings(app, rows)
	if err != nil {
		return nil, err
	}
	out := make([]View, len(rows))
	for i, row := range rows {
		if out[i], err = s.build(app, row, around); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// surroundings are the rows that views refer to, by id.
type surroundings struct {
	nodes       map[string]*collections.Node
	blueprints  map[string]*collections.BlueprintRow
	allocations map[string]*collections.Allocation // by server
}

func (s *Servers) surroundings(app core.App, rows []*collections.Server) (surroundings, error) {
	a := surroundings{map[string]*collections.Node{}, map[string]*collections.BlueprintRow{}, map[string]*collections.Allocation{}}
	var nodeIDs, blueprintIDs, serverIDs []any
	for _, r := range rows {
		nodeIDs, blueprintIDs, serverIDs = append(nodeIDs, r.Node()), append(blueprintIDs, r.Blueprint()), append(serverIDs, r.Id)
	}
	nodes, err := collections.Every[collections.Node](app, collections.Nodes, "", 0, dbx.In("id", nodeIDs...))
	if err != nil {
		return a, err
	}
	for _, n := range nodes {
		a.nodes[n.Id] = n
	}
	games, err := collections.Every[collections.BlueprintRow](app, collections.BlueprintRows, "", 0, dbx.In("id", blueprintIDs...))
	if err != nil {
		return a, err
	}
	for _, b := range games {
		a.blueprints[b.Id] = b
	}
	held, err := collections.Every[collections.Allocation](app, collections.Allocations, "", 0, dbx.In("server", serverIDs...), dbx.HashExp{"status": "ACTIVE"})
	if err != nil {
		return a, err
	}
	for _, h := range held {
		a.allocations[h.Server()] = h
	}
	return a, nil
}

func (s *Servers) build(app core.App, row *collections.Server, a surroundings) (View, error) {
	v := View{
		ID: row.Id, Tenant: row.Tenant(), Rev: row.Rev(), Name: row.Name(), Status: Phase(row.Status()), DesiredState: row.DesiredState(),
		Suspended: row.Suspended(), InstallStatus: row.InstallStatus(), Variant: row.Variant(),
		Limits: Limits{row.CPULimitMillicores(), row.MemLimitMB(), row.DiskGB()},
		Ports:  []wire.Port{}, Variables: map[string]*string{}, Created: row.Created(), Actions: Possible(Phase(row.Status())),
		LastStartAt: moment(row.LastStartAt()), LastExitAt: moment(row.LastExitAt()),
	}
	if row.ProblemMessage() != "" {
		v.Problem = &Problem{row.ProblemCode(), row.ProblemMessage()}
	}
	if o := seen(row); o != nil {
		if o.Progress.Step != "" && !o.Settled {
			v.Progress = &o.Progress
		}
		if o.ExitCode != nil {
			code := int64(*o.ExitCode)
			v.LastExitCode = &code
		}
	}
	if n := a.nodes[row.Node()]; n != nil {
		v.Node = NodeView{n.Id, n.Name(), n.Location(), n.Status()}
		if v.Status == InstallFailed && n.Status() == "OFFLINE" { // an install needs its node
			v.Actions = slices.DeleteFunc(slices.Clone(v.Actions), func(a Action) bool { return a == Reinstall })
		}
	}
	if err := s.buildGame(app, row, a, &v); err != nil {
		return v, err
	}
	if held := a.allocations[row.Id]; held != nil {
		var err error
		if v.Ports, err = portsOf(held); err != nil {
			return v, err
		}
		game, err := s.Catalog.Blueprint(app, row.BlueprintVersion())
		if err != nil {
			return v, err
		}
		bound, err := game.BindPorts(v.Ports)
		if err != nil {
			return v, fmt.Errorf("ports of server %s: %w", row.Id, err)
		}
		v.Ports = append([]wire.Port{}, bound...) // never null, also for a game without ports
		if len(v.Ports) > 0 {
			v.Address = net.JoinHostPort(v.Ports[0].HostIP, strconv.Itoa(v.Ports[0].HostPort))
		}
	}
	return v, nil
}

// buildGame fills in the blueprint and those variables that its customers may see.
func (s *Servers) buildGame(app core.App, row *collections.Server, a surroundings, v *View) error {
	game, err := s.Catalog.Blueprint(app, row.BlueprintVersion())
	if err != nil {
		return err
	}
	if b := a.blueprints[row.Blueprint()]; b != nil {
		v.Blueprint = BlueprintView{b.Id, b.Slug(), game.Name, game.Version, catalog.IconURL(b.Slug(), game.Version)}
	}
	env, err := environmentOf(row)
	if err != nil {
		return err
	}
	for _, declared := range game.Variables {
		if !declared.UserView {
			continue
		}
		stored, given := env[declared.Key]
		value := string(declared.Default)
		if given {
			value = stored.Value
		}
		v.Variables[declared.Key] = &value
		if declared.Type == "secret" {
			v.Variables[declared.Key] = nil
		}
	}
	return nil
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func now() time.Time { return time.Now().UTC() }

// clip cuts s to at most n bytes without cutting a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
