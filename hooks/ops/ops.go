// Package ops is what operators see and decide: jobs that were given up, incidents; and what everybody
// may know of how the installation is.
//
// It owns no table: it shows other rooms' rows to superusers and calls their functions. It refuses to
// tell anybody else more than the status. Its one invariant: every change it makes leaves an audit row in the
// same transaction.
package ops

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/jobs"
)

// Ops serves admin/jobs, admin/incidents and status.
type Ops struct {
	jobs      *jobs.Queue
	incidents *incidents.Book
	audit     *audit.Log
	database  string
}

// New returns the room; database is the kind that status names, SQLite or PostgreSQL.
func New(j *jobs.Queue, i *incidents.Book, a *audit.Log, database string) *Ops {
	return &Ops{j, i, a, database}
}

const (
	perPage = 50
	maxPage = 1 << 20
)

// Routes registers the operators' routes and the status on the /api/v1 group.
func (o *Ops) Routes(g *router.RouterGroup[*core.RequestEvent]) {
	g.GET("/status", o.status)
	g.GET("/admin/jobs", superuser(o.listJobs))
	g.GET("/admin/jobs/health", superuser(o.health))
	g.POST("/admin/jobs/{id}/retry", superuser(o.decide("job.retry", o.jobs.Retry)))
	g.POST("/admin/jobs/{id}/discard", superuser(o.decide("job.discard", o.jobs.Discard)))
	g.GET("/admin/incidents", superuser(o.listIncidents))
	g.POST("/admin/incidents/{id}/resolve", superuser(o.resolve))
}

// superuser keeps everybody else out.
func superuser(fn func(*core.RequestEvent, access.Actor) error) func(*core.RequestEvent) error {
	return func(e *core.RequestEvent) error {
		a, err := access.From(e)
		if err != nil {
			return err
		}
		if err := access.RequireSuperuser(a); err != nil {
			return err
		}
		return fn(e, a)
	}
}

func page(e *core.RequestEvent) (int, error) {
	text := e.Request.URL.Query().Get("page")
	if text == "" {
		return 1, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPage {
		return 0, access.InvalidField("page", "out_of_range", fmt.Sprintf("Pages are counted from 1 to %d.", maxPage))
	}
	return n, nil
}

// oneOf reads a filter that has few values; none is "".
func oneOf(e *core.RequestEvent, name string, values ...string) (string, error) {
	v := e.Request.URL.Query().Get(name)
	if v != "" && !slices.Contains(values, v) {
		return "", access.InvalidField(name, "unknown", "Use one of "+strings.Join(values, ", ")+".")
	}
	return v, nil
}

// jobView is a job as an operator sees it: with what went wrong.
func jobView(j *collections.Job) map[string]any {
	v := jobs.View(j)
	v["tenant"], v["attempt"], v["max_attempts"], v["last_error"] = j.Tenant(), j.Attempt(), j.MaxAttempts(), j.LastError()
	return v
}

func (o *Ops) listJobs(e *core.RequestEvent, _ access.Actor) error {
	n, err := page(e)
	if err != nil {
		return err
	}
	state, err := oneOf(e, "state", jobs.Ready, jobs.Running, jobs.Waiting, jobs.Done, jobs.Dead, jobs.Cancelled, jobs.Superseded)
	if err != nil {
		return err
	}
	filter := map[string]string{"state": state}
	for _, column := range []string{"kind", "subject", "tenant"} {
		filter[column] = e.Request.URL.Query().Get(column)
	}
	var where []dbx.Expression
	for column, v := range filter {
		if v != "" {
			where = append(where, dbx.HashExp{column: v})
		}
	}
	total, err := e.App.CountRecords(collections.Jobs, where...)
	if err != nil {
		return fmt.Errorf("count jobs: %w", err)
	}
	var rows []*collections.Job
	q := e.App.RecordQuery(collections.Jobs).OrderBy("created DESC", "id ASC").Limit(perPage).Offset(int64((n - 1) * perPage))
	for _, w := range where {
		q.AndWhere(w)
	}
	if err := q.All(&rows); err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	items := make([]map[string]any, 0, len(rows))
	for _, j := range rows {
		items = append(items, jobView(j))
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items, "page": n, "per_page": perPage, "total": total})
}

func (o *Ops) health(e *core.RequestEvent, _ access.Actor) error {
	h, err := o.jobs.Health(e.App)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"states": h.States, "oldest_ready_ms": h.OldestReady.Milliseconds(), "expired_leases": h.Expired})
}

// decide carries out a superuser's decision about a job that was given up.
func (o *Ops) decide(action string, fn func(core.App, string) error) func(*core.RequestEvent, access.Actor) error {
	return func(e *core.RequestEvent, a access.Actor) error {
		id := e.Request.PathValue("id")
		j, err := collections.FindJob(e.App, id)
		if err != nil {
			return access.NotFound("job_not_found", "There is no such job.").Because(err)
		}
		err = collections.Tx(e.App, []collections.Lock{audit.Lock(j.Tenant())}, func(tx core.App) error {
			if err := fn(tx, id); err != nil {
				return err
			}
			return o.audit.Write(tx, a.Audit(), audit.Entry{Tenant: j.Tenant(), Action: action, ResourceType: collections.Jobs, Resource: id, Metadata: map[string]any{"kind": j.Kind()}})
		})
		switch {
		case errors.Is(err, jobs.ErrState):
			return access.Conflict("job_not_dead", "Only a job that was given up can be tried again or put away.").Because(err)
		case errors.Is(err, jobs.ErrDuplicate):
			return access.Conflict("job_active", "Another job is doing this already.").Because(err)
		case err != nil:
			return err
		}
		if j, err = collections.FindJob(e.App, id); err != nil {
			return err
		}
		return e.JSON(http.StatusOK, jobView(j))
	}
}

func (o *Ops) listIncidents(e *core.RequestEvent, _ access.Actor) error {
	n, err := page(e)
	if err != nil {
		return err
	}
	status, err := oneOf(e, "status", incidents.Opened, incidents.Resolved)
	if err != nil {
		return err
	}
	p := e.Request.URL.Query()
	rows, total, err := o.incidents.List(e.App, incidents.Filter{Status: status, Tenant: p.Get("tenant"), Node: p.Get("node"), Server: p.Get("server")}, n, perPage)
	if err != nil {
		return err
	}
	items := make([]map[string]any, 0, len(rows))
	for _, i := range rows {
		items = append(items, incidents.View(i))
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items, "page": n, "per_page": perPage, "total": total})
}

// ResolveInput is the body of POST admin/incidents/{id}/resolve.
type ResolveInput struct {
	Resolution string `json:"resolution"` // what was done about it
}

func (o *Ops) resolve(e *core.RequestEvent, a access.Actor) error {
	var in ResolveInput
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	if strings.TrimSpace(in.Resolution) == "" {
		return access.InvalidField("resolution", "required", "Say in a sentence what was done about it.")
	}
	var row *collections.Incident
	err := collections.Tx(e.App, []collections.Lock{audit.Lock(""), incidents.Lock}, func(tx core.App) (err error) {
		if row, err = o.incidents.ResolveID(tx, e.Request.PathValue("id"), in.Resolution); err != nil {
			return err
		}
		return o.audit.Write(tx, a.Audit(), audit.Entry{Action: "incident.resolve", ResourceType: collections.Incidents, Resource: row.Id, Metadata: map[string]any{"resolution": in.Resolution}})
	})
	if errors.Is(err, incidents.ErrNotOpen) {
		return access.NotFound("incident_not_open", "There is no such open incident.").Because(err)
	}
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, incidents.View(row))
}
