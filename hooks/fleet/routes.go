package fleet

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/wings/wire"
)

const maxNodesListed = 10_000

// Routes registers the operators' routes of nodes on the group of /api/v1.
func (f *Fleet) Routes(g *router.RouterGroup[*core.RequestEvent]) {
	admin := g.Group("/admin/nodes")
	admin.GET("", f.operator(f.listNodes))
	admin.POST("", f.operator(f.createNode))
	admin.GET("/{id}", f.operator(f.getNode))
	admin.PATCH("/{id}", f.operator(f.patchNode))
	admin.DELETE("/{id}", f.operator(f.deleteNode))
	admin.POST("/{id}/join-token", f.operator(f.joinToken))
	admin.POST("/{id}/mode", f.operator(f.mode))
}

type operatorHandler func(e *core.RequestEvent, a access.Actor) error

func (f *Fleet) operator(h operatorHandler) func(*core.RequestEvent) error {
	return func(e *core.RequestEvent) error {
		a, err := access.From(e)
		if err != nil {
			return err
		}
		if err := access.RequireSuperuser(a); err != nil {
			return err
		}
		return h(e, a)
	}
}

// reserved is what servers were given of a node.
type reserved struct {
	Node          string `db:"node" json:"-"`
	CPUMillicores int64  `db:"cpu" json:"cpu_millicores"`
	MemoryMiB     int64  `db:"memory" json:"memory_mib"`
	DiskMiB       int64  `db:"disk" json:"disk_mib"`
	Servers       int64  `db:"servers" json:"-"`
}

func (f *Fleet) reservedBy(app core.App, where dbx.Expression) (map[string]reserved, error) {
	var rows []reserved
	err := app.DB().Select("node", "SUM([[cpu_millicores]]) AS cpu", "SUM([[memory_mib]]) AS memory", "SUM([[disk_mib]]) AS disk", "COUNT(*) AS servers").
		From(collections.Allocations).Where(dbx.HashExp{"status": "ACTIVE"}).AndWhere(where).GroupBy("node").All(&rows)
	if err != nil {
		return nil, fmt.Errorf("sum what is reserved of nodes: %w", err)
	}
	out := map[string]reserved{}
	for _, r := range rows {
		out[r.Node] = r
	}
	return out, nil
}

// view is a node as operators see it.
func (f *Fleet) view(n *collections.Node, use reserved, linked bool) (map[string]any, error) {
	addresses, labels := []string{}, map[string]string{}
	var beat *wire.Heartbeat
	err := errors.Join(n.PublicAddresses(&addresses), n.Labels(&labels))
	if !n.LastHeartbeat().IsZero() {
		beat = &wire.Heartbeat{}
		err = errors.Join(err, n.Heartbeat(beat))
	}
	if err != nil {
		return nil, fmt.Errorf("decode node %s: %w", n.Id, err)
	}
	return map[string]any{
		"id": n.Id, "rev": n.Rev(), "name": n.Name(), "fqdn": n.FQDN(), "public_addresses": addresses, "location": n.Location(),
		"cpu_millicores": n.CPUMillicores(), "memory_mib": n.MemoryMiB(), "disk_mib": n.DiskMiB(),
		"overcommit_cpu_percent": n.OvercommitCPUPercent(), "overcommit_memory_percent": n.OvercommitMemoryPercent(), "overcommit_disk_percent": n.OvercommitDiskPercent(),
		"reserved": use, "servers": use.Servers,
		"mode": n.Mode(), "status": n.Status(), "linked": linked,
		"last_heartbeat": stamp(n.LastHeartbeat()), "heartbeat": beat, "clock_skew_ms": n.ClockSkewMs(),
		"enrolled_at": stamp(n.EnrolledAt()), "join_expires_at": stamp(n.JoinExpiresAt()),
		"certificate": map[string]any{"fingerprint": n.CertFingerprint(), "next_fingerprint": n.CertNextFingerprint(), "expires_at": stamp(n.CertExpiresAt())},
		"labels":      labels, "created": stamp(n.Created()),
	}, nil
}

// stamp is a time for JSON, null when there is none.
func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func (f *Fleet) viewOne(app core.App, n *collections.Node) (map[string]any, error) {
	use, err := f.reservedBy(app, dbx.HashExp{"node": n.Id})
	if err != nil {
		return nil, err
	}
	return f.view(n, use[n.Id], f.Linked(n.Id))
}

func (f *Fleet) listNodes(e *core.RequestEvent, _ access.Actor) error {
	nodes, err := collections.Every[collections.Node](e.App, collections.Nodes, "name", maxNodesListed)
	if err != nil {
		return err
	}
	use, err := f.reservedBy(e.App, dbx.NewExp("1=1"))
	if err != nil {
		return err
	}
	linked, err := f.linkedAnywhere()
	if err != nil {
		return err
	}
	items := make([]map[string]any, 0, len(nodes))
	for _, n := range nodes {
		v, err := f.view(n, use[n.Id], linked[n.Id])
		if err != nil {
			return err
		}
		items = append(items, v)
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items})
}

func (f *Fleet) getNode(e *core.RequestEvent, _ access.Actor) error {
	n, err := collections.FindNode(e.App, e.Request.PathValue("id"))
	if errors.Is(err, sql.ErrNoRows) {
		return errNoNode
	}
	if err != nil {
		return err
	}
	return f.answerNode(e, http.StatusOK, n, nil)
}

// answerNode answers {node} with what else there is.
func (f *Fleet) answerNode(e *core.RequestEvent, status int, n *collections.Node, more map[string]any) error {
	v, err := f.viewOne(e.App, n)
	if err != nil {
		return err
	}
	for k, x := range more {
		v[k] = x
	}
	return e.JSON(status, v)
}

func (f *Fleet) createNode(e *core.RequestEvent, a access.Actor) error {
	var in NodeInput
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	n, token, err := f.CreateNode(a.Audit(), in)
	if err != nil {
		return err
	}
	return f.answerNode(e, http.StatusCreated, n, map[string]any{"join": f.joinView(token, n.JoinExpiresAt())})
}

func (f *Fleet) joinView(token string, expires time.Time) map[string]any {
	return map[string]any{"command": f.JoinCommand(token), "expires_at": stamp(expires)}
}

func (f *Fleet) patchNode(e *core.RequestEvent, a access.Actor) error {
	var in NodeInput
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	n, err := f.UpdateNode(a.Audit(), e.Request.PathValue("id"), in)
	if err != nil {
		return err
	}
	return f.answerNode(e, http.StatusOK, n, nil)
}

func (f *Fleet) deleteNode(e *core.RequestEvent, a access.Actor) error {
	force := false
	if raw := e.Request.URL.Query().Get("force"); raw != "" {
		var err error
		if force, err = strconv.ParseBool(raw); err != nil {
			return access.InvalidField("force", "invalid", "Use true or false.")
		}
	}
	if err := f.DeleteNode(a.Audit(), e.Request.PathValue("id"), force); err != nil {
		return err
	}
	return e.NoContent(http.StatusNoContent)
}

func (f *Fleet) joinToken(e *core.RequestEvent, a access.Actor) error {
	token, expires, err := f.JoinToken(a.Audit(), e.Request.PathValue("id"))
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, f.joinView(token, expires))
}

func (f *Fleet) mode(e *core.RequestEvent, a access.Actor) error {
	var in struct {
		Mode string `json:"mode"`
	}
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	n, err := f.SetMode(a.Audit(), e.Request.PathValue("id"), in.Mode)
	if err != nil {
		return err
	}
	return f.answerNode(e, http.StatusOK, n, nil)
}
