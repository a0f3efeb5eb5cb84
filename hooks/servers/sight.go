package servers

import (
	"fmt"
	"strings"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/wings/wire"
)

// sight is what a View is made of: the columns that it shows, of the server and of what it refers to,
// read by one query. Records would bring every column of every row, each in a map. Numbers are stored
// as float64 is (collections.Number), text that is not there is empty.
type sight struct {
	ID             string         `db:"id"`
	Tenant         string         `db:"tenant"`
	Rev            float64        `db:"rev"`
	Name           string         `db:"name"`
	Status         Phase          `db:"status"`
	DesiredState   string         `db:"desired_state"`
	Suspended      bool           `db:"suspended"`
	InstallStatus  string         `db:"install_status"`
	ProblemCode    string         `db:"problem_code"`
	ProblemMessage string         `db:"problem_message"`
	Observed       types.JSONRaw  `db:"observed"`
	Variant        string         `db:"variant"`
	CPUMillicores  float64        `db:"cpu_limit_millicores"`
	MemoryMiB      float64        `db:"mem_limit_mb"`
	DiskGiB        float64        `db:"disk_gb"`
	Environment    types.JSONRaw  `db:"environment"`
	Version        string         `db:"blueprint_version"`
	LastStartAt    types.DateTime `db:"last_start_at"`
	LastExitAt     types.DateTime `db:"last_exit_at"`
	Created        types.DateTime `db:"created"`

	NodeID       string `db:"node_id"`
	NodeName     string `db:"node_name"`
	NodeLocation string `db:"node_location"`
	NodeStatus   string `db:"node_status"`

	BlueprintID string `db:"blueprint_id"`
	Slug        string `db:"slug"`

	Held  string        `db:"held"` // id of the active allocation; empty: none
	Ports types.JSONRaw `db:"ports"`
}

// ofServers are the columns of sight that are in servers.
var ofServers = []string{
	"id", "tenant", "rev", "name", "status", "desired_state", "suspended", "install_status", "problem_code", "problem_message", "observed",
	"variant", "cpu_limit_millicores", "mem_limit_mb", "disk_gb", "environment", "blueprint_version", "last_start_at", "last_exit_at", "created",
}

// around reads what a page of servers, [[s]], refers to.
var around = `SELECT [[s.` + strings.Join(ofServers, "]], [[s.") + `]],
	COALESCE([[n.id]], '') AS [[node_id]], COALESCE([[n.name]], '') AS [[node_name]],
	COALESCE([[n.location]], '') AS [[node_location]], COALESCE([[n.status]], '') AS [[node_status]],
	COALESCE([[b.id]], '') AS [[blueprint_id]], COALESCE([[b.slug]], '') AS [[slug]],
	COALESCE([[a.id]], '') AS [[held]], [[a.ports]]
FROM (%s) [[s]]
LEFT JOIN {{nodes}} [[n]] ON [[n.id]] = [[s.node]]
LEFT JOIN {{blueprints}} [[b]] ON [[b.id]] = [[s.blueprint]]
LEFT JOIN {{allocations}} [[a]] ON [[a.server]] = [[s.id]] AND [[a.status]] = 'ACTIVE'
ORDER BY %s`

// sights reads one page of the servers, [[s]], that match, in an order of sortable.
func sights(app core.App, where dbx.Expression, order string, offset, limit int) ([]sight, error) {
	columns := []string{"s.node", "s.blueprint"}
	for _, c := range ofServers {
		columns = append(columns, "s."+c)
	}
	page := app.DB().Select(columns...).From(collections.Servers + " s").Where(where).
		OrderBy(strings.Split(order, ", ")...).Offset(int64(offset)).Limit(int64(limit)).Build()
	var rows []sight
	err := app.DB().NewQuery(fmt.Sprintf(around, page.SQL(), order)).Bind(page.Params()).All(&rows)
	if err != nil {
		return nil, fmt.Errorf("read servers: %w", err)
	}
	return rows, nil
}

// observed is what the node said last; nil when it said nothing that counted.
func (r *sight) observed() *wire.Observed {
	var o wire.Observed
	if decode(r.Observed, &o) != nil || o.ServerID == "" {
		return nil
	}
	return &o
}
