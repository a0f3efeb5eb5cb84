package alloc

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/wings/wire"
)

// Pages of GET admin/allocations.
const (
	defaultPerPage = 50
	maxPerPage     = 200
	maxPage        = 1_000_000
)

// Routes registers the operator's routes on the group of /api/v1.
func (a *Alloc) Routes(g *router.RouterGroup[*core.RequestEvent]) {
	g.GET("/admin/nodes/{id}/ports", operators(a.getPorts))
	g.POST("/admin/nodes/{id}/ports", operators(a.postPorts))
	g.DELETE("/admin/nodes/{id}/ports", operators(a.deletePorts))
	g.GET("/admin/allocations", operators(a.getAllocations))
	g.POST("/admin/allocations/scan", operators(a.postScan))
}

// operators admits superusers only.
func operators(fn func(e *core.RequestEvent, by access.Actor) error) func(*core.RequestEvent) error {
	return func(e *core.RequestEvent) error {
		by, err := access.From(e)
		if err != nil {
			return err
		}
		if err := access.RequireSuperuser(by); err != nil {
			return err
		}
		return fn(e, by)
	}
}

func (a *Alloc) getPorts(e *core.RequestEvent, _ access.Actor) error {
	pools, err := a.Pools(e.App, e.Request.PathValue("id"))
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"items": pools})
}

// portsInput is an entry of the operator's form.
type portsInput struct {
	Addresses string          `json:"addresses"` // an address, or a range as CIDR
	Ports     string          `json:"ports"`     // "25565-25600,27015"
	Protocols []wire.Protocol `json:"protocols"` // none: tcp and udp
}

func (a *Alloc) postPorts(e *core.RequestEvent, by access.Actor) error {
	return a.changePorts(e, by, "node.add_ports", http.StatusCreated, "added", a.AddPorts)
}

func (a *Alloc) deletePorts(e *core.RequestEvent, by access.Actor) error {
	return a.changePorts(e, by, "node.remove_ports", http.StatusOK, "removed", a.RemovePorts)
}

func (a *Alloc) changePorts(e *core.RequestEvent, by access.Actor, action string, status int, done string,
	change func(tx core.App, node, addresses, ports string, protocols []wire.Protocol) (int64, error),
) error {
	var in portsInput
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	node := e.Request.PathValue("id")
	var n int64
	err := collections.Tx(e.App, []collections.Lock{Lock, audit.Lock("")}, func(tx core.App) error {
		var err error
		if n, err = change(tx, node, in.Addresses, in.Ports, in.Protocols); err != nil {
			return err
		}
		return a.auditor.Write(tx, by.Audit(), audit.Entry{Action: action, ResourceType: collections.Nodes, Resource: node,
			Metadata: map[string]any{"addresses": in.Addresses, "ports": in.Ports, "protocols": in.Protocols, done: n}})
	})
	if err != nil {
		return err
	}
	return e.JSON(status, map[string]any{done: n})
}

// PortsOf returns the ports of an allocation.
func PortsOf(row *collections.Allocation) ([]wire.Port, error) {
	ports := []wire.Port{}
	if err := row.Ports(&ports); err != nil {
		return nil, fmt.Errorf("read the ports of allocation %s: %w", row.Id, err)
	}
	return ports, nil
}

func view(row *collections.Allocation) (map[string]any, error) {
	ports, err := PortsOf(row)
	if err != nil {
		return nil, err
	}
	v := map[string]any{
		"id": row.Id, "tenant": row.Tenant(), "server": row.Server(), "node": row.Node(), "ip_address": row.IPAddress(), "ports": ports, "status": row.Status(),
		"cpu_millicores": row.CPUMillicores(), "memory_mib": row.MemoryMiB(), "disk_mib": row.DiskMiB(),
		"allocated_at": row.AllocatedAt().UTC().Format(time.RFC3339Nano), "released_at": nil,
	}
	if !row.ReleasedAt().IsZero() {
		v["released_at"] = row.ReleasedAt().UTC().Format(time.RFC3339Nano)
	}
	return v, nil
}

func (a *Alloc) getAllocations(e *core.RequestEvent, _ access.Actor) error {
	query := e.Request.URL.Query()
	var where []dbx.Expression
	for _, column := range []string{"node", "tenant", "server", "status"} {
		if v := query.Get(column); v != "" {
			where = append(where, dbx.HashExp{column: v})
		}
	}
	if v := query.Get("status"); v != "" && v != StatusActive && v != StatusReleased {
		return access.InvalidField("status", "unknown", "Use ACTIVE or RELEASED.")
	}
	page, err := number(query.Get("page"), "page", 1, maxPage)
	if err != nil {
		return err
	}
	perPage, err := number(query.Get("per_page"), "per_page", defaultPerPage, maxPerPage)
	if err != nil {
		return err
	}
	total, err := e.App.CountRecords(collections.Allocations, where...)
	if err != nil {
		return fmt.Errorf("count the allocations: %w", err)
	}
	var rows []*collections.Allocation
	err = e.App.RecordQuery(collections.Allocations).Where(dbx.And(where...)).OrderBy("created DESC", "id").Limit(perPage).Offset((page - 1) * perPage).All(&rows)
	if err != nil {
		return fmt.Errorf("list the allocations: %w", err)
	}
	items := make([]map[string]any, len(rows))
	for i, row := range rows {
		if items[i], err = view(row); err != nil {
			return err
		}
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items, "page": page, "per_page": perPage, "total": total})
}

func number(text, field string, fallback, most int64) (int64, error) {
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > most {
		return 0, access.InvalidField(field, "range", fmt.Sprintf("Please use a whole number from 1 to %d.", most))
	}
	return n, nil
}

func (a *Alloc) postScan(e *core.RequestEvent, by access.Actor) error {
	var in struct {
		DryRun *bool `json:"dry_run"` // missing: true
	}
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	report, err := a.scan(e.App, by.Audit(), in.DryRun == nil || *in.DryRun)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, report)
}
