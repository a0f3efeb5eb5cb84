package servers

import (
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
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// Routes registers servers/* and jobs/{id} on the /api/v1 group.
func (s *Servers) Routes(g *router.RouterGroup[*core.RequestEvent]) {
	g.GET("/servers", s.list)
	g.POST("/servers", s.create)
	g.POST("/servers/placement", s.placement)
	g.GET("/servers/{id}", s.get)
	g.PATCH("/servers/{id}", s.update)
	g.DELETE("/servers/{id}", s.remove)
	g.POST("/servers/{id}/actions", s.act)
	g.GET("/servers/{id}/activity", s.activity)
	g.GET("/servers/{id}/metrics", s.metrics)
	g.POST("/servers/{id}/console/token", s.consoleToken)
	g.GET("/servers/{id}/console/ws", s.console)
	g.GET("/jobs/{id}", s.job)
}

// Pages of lists.
const (
	defaultPerPage = 30
	maxPerPage     = 200
	maxSearch      = 100
)

// member returns who asks and the tenant that the request is about.
func (s *Servers) member(e *core.RequestEvent) (access.Actor, *collections.Tenant, error) {
	a, err := access.From(e)
	if err != nil {
		return a, nil, err
	}
	t, err := s.Tenancy.Current(e.App, a)
	return a, t, err
}

// allowed finds the server of the request and asks for a permission on it.
func (s *Servers) allowed(e *core.RequestEvent, permission string) (access.Actor, *collections.Server, error) {
	return s.permitted(e, permission, s.find)
}

// permitted is allowed with another way to find the server.
func (s *Servers) permitted(e *core.RequestEvent, permission string, find func(app core.App, tenant, id string) (*collections.Server, error)) (access.Actor, *collections.Server, error) {
	a, tenant, err := s.member(e)
	if err != nil {
		return a, nil, err
	}
	row, err := find(e.App, tenant.Id, e.Request.PathValue("id"))
	if err != nil {
		return a, nil, err
	}
	return a, row, s.Tenancy.Can(e.App, a, permission, tenancy.Resource{Tenant: tenant.Id, Server: row.Id})
}

func (s *Servers) list(e *core.RequestEvent) error {
	a, tenant, err := s.member(e)
	if err != nil {
		return err
	}
	scope, err := s.Tenancy.ScopeOf(e.App, a, tenant.Id)
	if err != nil {
		return err
	}
	q, err := listQuery(e, tenant.Id, scope.All, scope.Servers)
	if err != nil {
		return err
	}
	rows, err := sights(e.App, q.where, q.order, (q.page-1)*q.perPage, q.perPage)
	if err != nil {
		return err
	}
	total, err := q.total(e.App, len(rows))
	if err != nil {
		return err
	}
	items := make([]View, len(rows))
	for i := range rows {
		if items[i], err = s.build(e.App, &rows[i]); err != nil {
			return err
		}
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items, "page": q.page, "per_page": q.perPage, "total": total})
}

// query is a checked list request. Its columns are those of [[s]].
type query struct {
	where         dbx.Expression
	order         string
	page, perPage int
}

// likeEscape makes a search mean what it says: dbx.Like escapes the same, but no database of ours
// knows its escape character unasked.
var likeEscape = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

var sortable = map[string]string{
	"name": "[[s.name]] ASC, [[s.id]] ASC", "-name": "[[s.name]] DESC, [[s.id]] ASC", "created": "[[s.created]] ASC, [[s.id]] ASC",
	"-created": "[[s.created]] DESC, [[s.id]] ASC", "": "[[s.created]] DESC, [[s.id]] ASC", "status": "[[s.status]] ASC, [[s.name]] ASC, [[s.id]] ASC",
	"-status": "[[s.status]] DESC, [[s.name]] ASC, [[s.id]] ASC",
}

func listQuery(e *core.RequestEvent, tenant string, all bool, servers []string) (query, error) {
	p := e.Request.URL.Query()
	var q query
	where := []dbx.Expression{dbx.HashExp{"s.tenant": tenant}, dbx.NewExp("[[s.status]] != {:deleted}", dbx.Params{"deleted": string(Deleted)})}
	faults := map[string]access.FieldError{}
	if !all {
		ids := make([]any, len(servers))
		for i, id := range servers {
			ids[i] = id
		}
		where = append(where, dbx.In("s.id", ids...))
	}
	if status := p.Get("status"); status != "" {
		if _, ok := transitions[Phase(status)]; !ok {
			faults["status"] = access.FieldError{Code: "unknown", Message: "There is no such status."}
		}
		where = append(where, dbx.HashExp{"s.status": status})
	}
	if b := p.Get("blueprint"); b != "" {
		where = append(where, dbx.NewExp("[[s.blueprint]] IN (SELECT [[id]] FROM {{blueprints}} WHERE [[slug]] = {:b} OR [[id]] = {:b})", dbx.Params{"b": b}))
	}
	if search := strings.TrimSpace(p.Get("search")); search != "" {
		like := "%" + likeEscape.Replace(clip(search, maxSearch)) + "%"
		where = append(where, dbx.NewExp(`LOWER([[s.name]]) LIKE LOWER({:search}) ESCAPE '\'`, dbx.Params{"search": like}))
	}
	var ok bool
	if q.order, ok = sortable[p.Get("sort")]; !ok {
		faults["sort"] = access.FieldError{Code: "unknown", Message: "Sort by name, created or status, with a minus for the other direction."}
	}
	if q.page, ok = number(p.Get("page"), 1, 1<<20); !ok {
		faults["page"] = access.FieldError{Code: "out_of_range", Message: "Pages are counted from 1."}
	}
	if q.perPage, ok = number(p.Get("per_page"), defaultPerPage, maxPerPage); !ok {
		faults["per_page"] = access.FieldError{Code: "out_of_range", Message: fmt.Sprintf("Ask for 1 to %d servers at once.", maxPerPage)}
	}
	if len(faults) > 0 {
		return q, access.Invalid(faults)
	}
	q.where = dbx.And(where...)
	return q, nil
}

func number(text string, unset, most int) (int, bool) {
	if text == "" {
		return unset, true
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 1 && n <= most
}

// total counts what matches; a page that is not full tells it.
func (q query) total(app core.App, onPage int) (n int, err error) {
	if before := (q.page - 1) * q.perPage; onPage < q.perPage && (onPage > 0 || before == 0) {
		return before + onPage, nil
	}
	return n, app.DB().Select("count(*)").From(collections.Servers + " s").Where(q.where).Row(&n)
}

func (s *Servers) get(e *core.RequestEvent) error {
	_, row, err := s.allowed(e, "server.read")
	if err != nil {
		return err
	}
	v, err := s.view(e.App, row)
	if err != nil {
		return err
	}
	log := row.InstallLog()
	v.InstallLog = &log
	active, err := collections.Every[collections.Job](e.App, collections.Jobs, "created DESC", 1,
		dbx.HashExp{"subject": row.Id}, dbx.In("state", "ready", "running", "waiting"))
	if err != nil {
		return err
	}
	if len(active) > 0 {
		v.Job = jobs.View(active[0])
	}
	return e.JSON(http.StatusOK, v)
}

func (s *Servers) create(e *core.RequestEvent) error {
	a, tenant, err := s.member(e)
	if err != nil {
		return err
	}
	if err := s.Tenancy.Can(e.App, a, "server.create", tenancy.Resource{Tenant: tenant.Id}); err != nil {
		return err
	}
	if err := access.RequireVerified(a); err != nil {
		return err
	}
	var in CreateInput
	return s.command(e, a, tenant.Id, "", &in, func(tx core.App) (Outcome, error) { return s.Create(tx, a, tenant.Id, in) })
}

func (s *Servers) update(e *core.RequestEvent) error {
	var in UpdateInput
	return s.onServer(e, "server.update", &in, func(tx core.App, a access.Actor, row *collections.Server) (Outcome, error) {
		return s.Update(tx, a, row, in)
	})
}

func (s *Servers) remove(e *core.RequestEvent) error {
	return s.onServer(e, "server.delete", nil, s.Delete)
}

// ActInput is the body of POST /servers/{id}/actions.
type ActInput struct {
	Action Action `json:"action"`
}

var actionsOfRoute = []Action{Start, Stop, Restart, Kill, Reinstall}

func (s *Servers) act(e *core.RequestEvent) error {
	if _, _, err := s.allowed(e, "server.read"); err != nil {
		return err
	}
	var in ActInput
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	if !slices.Contains(actionsOfRoute, in.Action) {
		return access.Invalid(map[string]access.FieldError{"action": {Code: "unknown", Message: "Ask for start, stop, restart, kill or reinstall."}})
	}
	return s.onServer(e, "server."+string(in.Action), nil, func(tx core.App, a access.Actor, row *collections.Server) (Outcome, error) {
		return s.Act(tx, a, row, in.Action)
	})
}

// onServer runs a command on the server of the request: permission, lock, a fresh row, answer 202. A
// server that is gone is looked for under the idempotency key first: whoever repeats a delete because
// its answer was lost gets that answer, not 404.
func (s *Servers) onServer(e *core.RequestEvent, permission string, in any, fn func(core.App, access.Actor, *collections.Server) (Outcome, error)) error {
	a, row, err := s.permitted(e, permission, owned)
	if err != nil {
		return err
	}
	if err := access.RequireVerified(a); err != nil {
		return err
	}
	return s.command(e, a, row.Tenant(), row.Id, in, func(tx core.App) (Outcome, error) {
		fresh, err := s.find(tx, row.Tenant(), row.Id)
		if err != nil {
			return Outcome{}, err
		}
		return fn(tx, a, fresh)
	})
}

// command reads the body into in, unless that is nil, and runs fn in one transaction under the
// idempotency key.
func (s *Servers) command(e *core.RequestEvent, a access.Actor, tenant, server string, in any, fn func(core.App) (Outcome, error)) error {
	raw, err := access.Body(e)
	if err != nil {
		return err
	}
	if in != nil {
		if err := access.Bind(e, in); err != nil {
			return err
		}
	}
	held, perhaps := append(locks(tenant), lock(server)), rare
	if server == "" { // a new one is to be placed
		held, perhaps = slices.Concat(locks(tenant), rare), nil
	}
	return collections.Sparing(held, perhaps, func(locks []collections.Lock) error {
		return s.Access.Idempotent(e, a, tenant, raw, locks, func(tx core.App) (int, any, error) {
			out, err := fn(tx)
			return http.StatusAccepted, out, err
		})
	})
}

func (s *Servers) activity(e *core.RequestEvent) error {
	_, row, err := s.allowed(e, "server.activity")
	if err != nil {
		return err
	}
	page, ok := number(e.Request.URL.Query().Get("page"), 1, 1<<20)
	if !ok {
		return access.Invalid(map[string]access.FieldError{"page": {Code: "out_of_range", Message: "Pages are counted from 1."}})
	}
	stored, total, err := s.Events.Activity(e.App, row.Tenant(), row.Id, page, defaultPerPage)
	if err != nil {
		return err
	}
	items := make([]map[string]any, 0, len(stored))
	for _, ev := range stored {
		items = append(items, ev.View())
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items, "page": page, "per_page": defaultPerPage, "total": total})
}

// job shows a job of the tenant to those who may see what it works on.
func (s *Servers) job(e *core.RequestEvent) error {
	a, tenant, err := s.member(e)
	if err != nil {
		return err
	}
	missing := access.NotFound("job_not_found", "There is no such job here.")
	j, err := collections.FindJob(e.App, e.Request.PathValue("id"))
	if err != nil || j.Tenant() != tenant.Id {
		return missing
	}
	if err := s.Tenancy.Can(e.App, a, "server.read", tenancy.Resource{Tenant: tenant.Id, Server: j.Subject()}); err != nil {
		return missing
	}
	return e.JSON(http.StatusOK, jobs.View(j))
}
