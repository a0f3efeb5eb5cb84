package servers

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/blueprints"
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

// view builds the View of one server as it is stored, in the caller's transaction if there is one.
func (s *Servers) view(app core.App, row *collections.Server) (View, error) {
	rows, err := sights(app, dbx.HashExp{"s.id": row.Id}, sortable[""], 0, 1)
	if err != nil {
		return View{}, err
	}
	if len(rows) == 0 {
		return View{}, fmt.Errorf("server %s: %w", row.Id, sql.ErrNoRows)
	}
	return s.build(app, &rows[0])
}

func (s *Servers) build(app core.App, row *sight) (View, error) {
	v := View{
		ID: row.ID, Tenant: row.Tenant, Rev: int64(row.Rev), Name: row.Name, Status: row.Status, DesiredState: row.DesiredState,
		Suspended: row.Suspended, InstallStatus: row.InstallStatus, Variant: row.Variant,
		Limits: Limits{int64(row.CPUMillicores), int64(row.MemoryMiB), int64(row.DiskGiB)},
		Node:   NodeView{row.NodeID, row.NodeName, row.NodeLocation, row.NodeStatus},
		Ports:  []wire.Port{}, Variables: map[string]*string{}, Created: row.Created.Time(), Actions: Possible(row.Status),
		LastStartAt: moment(row.LastStartAt.Time()), LastExitAt: moment(row.LastExitAt.Time()),
	}
	if row.ProblemMessage != "" {
		v.Problem = &Problem{row.ProblemCode, row.ProblemMessage}
	}
	if o := row.observed(); o != nil {
		if o.Progress.Step != "" && !o.Settled {
			v.Progress = &o.Progress
		}
		if o.ExitCode != nil {
			code := int64(*o.ExitCode)
			v.LastExitCode = &code
		}
	}
	if v.Status == InstallFailed && row.NodeStatus == "OFFLINE" { // an install needs its node
		v.Actions = slices.DeleteFunc(slices.Clone(v.Actions), func(a Action) bool { return a == Reinstall })
	}
	game, err := s.Catalog.Blueprint(app, row.Version)
	if err != nil {
		return v, err
	}
	if err := buildGame(game, row, &v); err != nil || row.Held == "" {
		return v, err
	}
	return v, buildPorts(game, row, &v)
}

// buildPorts fills in the ports that are reserved, with what the game calls them.
func buildPorts(game *blueprints.Blueprint, row *sight, v *View) error {
	ports, err := portsIn(row.Ports)
	if err == nil {
		ports, err = game.BindPorts(ports)
	}
	if err != nil {
		return fmt.Errorf("ports of server %s: %w", row.ID, err)
	}
	v.Ports = append(v.Ports, ports...) // never null, also for a game without ports
	if len(v.Ports) > 0 {
		v.Address = net.JoinHostPort(v.Ports[0].HostIP, strconv.Itoa(v.Ports[0].HostPort))
	}
	return nil
}

// buildGame fills in the blueprint and those variables that its customers may see.
func buildGame(game *blueprints.Blueprint, row *sight, v *View) error {
	if row.BlueprintID != "" {
		v.Blueprint = BlueprintView{row.BlueprintID, row.Slug, game.Name, game.Version, catalog.IconURL(row.Slug, game.Version)}
	}
	env := environment{}
	if err := decode(row.Environment, &env); err != nil {
		return fmt.Errorf("environment of server %s: %w", row.ID, err)
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

// decode reads a JSON column; one that is empty changes nothing.
func decode(raw types.JSONRaw, into any) error {
	if len(raw) == 0 {
		return nil
	}
	return json.Unmarshal(raw, into)
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
