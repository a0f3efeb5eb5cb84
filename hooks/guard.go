package hooks

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
)

// bindGuards refuses every way round the rooms: writes to their tables, changes of their schema, and
// the dashboard's tools that work on the database itself.
func bindGuards(app core.App, breakGlass bool) {
	write := func(e *core.ModelEvent) error {
		if err := collections.Guard(e.Context, e.Model.TableName()); err != nil {
			return err
		}
		return e.Next()
	}
	app.OnModelCreate().Bind(handler("mamba.guard.create", first, write))
	app.OnModelUpdate().Bind(handler("mamba.guard.update", first, write))
	app.OnModelDelete().Bind(handler("mamba.guard.delete", first, write))
	if breakGlass {
		return
	}
	var serving atomic.Bool // before that, migrations change the schema: nobody else can
	app.OnServe().Bind(handler("mamba.guard.serving", first, func(e *core.ServeEvent) error {
		serving.Store(true)
		return e.Next()
	}))
	schema := func(e *core.CollectionEvent) error {
		if _, ours := collections.ByName(e.Collection.Name); ours && serving.Load() {
			return fmt.Errorf("change the schema of %s: %w", e.Collection.Name, collections.ErrNoPermit)
		}
		return e.Next()
	}
	app.OnCollectionUpdate().Bind(handler("mamba.guard.schema.update", first, schema))
	app.OnCollectionDelete().Bind(handler("mamba.guard.schema.delete", first, schema))
}

// closedRoutes are PocketBase's routes that work past every hook. They answer 404 unless the
// break-glass variable is set.
var closedRoutes = []struct{ method, prefix, suffix string }{
	{"", "/api/sql", ""},
	{"", "/api/backups/", "/restore"},
	{http.MethodPut, "/api/collections/import", ""},
}

func closeRoutes(e *core.RequestEvent) error {
	path := strings.TrimSuffix(e.Request.URL.Path, "/")
	for _, r := range closedRoutes {
		if strings.HasPrefix(path, r.prefix) && strings.HasSuffix(path, r.suffix) && (r.method == "" || r.method == e.Request.Method) {
			return e.NotFoundError("This is switched off. Start the panel with MAMBA_BREAK_GLASS=1 if you must.", nil)
		}
	}
	return e.Next()
}

// dashboardSave lets a superuser edit the few fields that are the operator's, with an audit row in
// the same transaction. Everything else of our collections is refused with a sentence.
func (p *Panel) dashboardSave(e *core.RecordRequestEvent) error {
	if _, ours := collections.ByName(e.Collection.Name); !ours {
		return e.Next()
	}
	a, err := access.From(e.RequestEvent)
	if err != nil {
		return err
	}
	tenant := e.Record.Original().GetString("tenant") // whatever the request says
	if e.Collection.Name == collections.Tenants {
		tenant = e.Record.Id
	}
	err = collections.Tx(e.App, []collections.Lock{audit.Lock(tenant)}, func(tx core.App) error {
		changed, err := collections.SaveFromDashboard(tx, e.Record)
		if err != nil || len(changed) == 0 {
			return err
		}
		return p.Audit.Write(tx, a.Audit(), audit.Entry{
			Tenant: tenant, Action: "dashboard.update", ResourceType: e.Collection.Name, Resource: e.Record.Id,
			Metadata: map[string]any{"fields": changed},
		})
	})
	if err != nil {
		return e.BadRequestError(err.Error(), nil)
	}
	if err := apis.EnrichRecord(e.RequestEvent, e.Record); err != nil {
		return err
	}
	return e.JSON(http.StatusOK, e.Record)
}

// dashboardRefuse answers creates and deletes in our collections with a sentence instead of a bare
// failure; the model hooks would refuse them anyway.
func dashboardRefuse(e *core.RecordRequestEvent) error {
	if _, ours := collections.ByName(e.Collection.Name); ours {
		return e.BadRequestError(collections.ErrNoPermit.Error(), nil)
	}
	return e.Next()
}
