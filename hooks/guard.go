package hooks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

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
	app.OnCollectionCreateRequest().Bind(handler("mamba.guard.schema.create", first, schemaRefuse))
	app.OnCollectionUpdateRequest().Bind(handler("mamba.guard.schema.update", first, schemaUpdate))
	app.OnCollectionDeleteRequest().Bind(handler("mamba.guard.schema.delete", first, schemaRefuse))
}

const schemaClosed = "Collections are made and changed by releases of Mamba Host. Of the accounts' collections you can change how people sign in and what their mails say. " +
	"Start the panel with MAMBA_BREAK_GLASS=1 if you must do more."

const secondStepClosed = "Customers have a second factor of Mamba Host's own: authenticators and passkeys on their account pages. PocketBase's multi-factor option stays off for them."

// schemaRefuse keeps the schema as releases made it. A view would show what is hidden, and a
// collection under another name would be nobody's to guard.
func schemaRefuse(e *core.CollectionRequestEvent) error { return e.BadRequestError(schemaClosed, nil) }

// schemaUpdate lets the options of accounts be changed: sign-in, tokens, mails. What is stored counts,
// not what the request calls itself.
func schemaUpdate(e *core.CollectionRequestEvent) error {
	stored, err := e.App.FindCollectionByNameOrId(e.Request.PathValue("collection"))
	if err != nil {
		return e.NotFoundError("", err)
	}
	same, err := sameSchema(stored, e.Collection)
	if err != nil {
		return err
	}
	if _, ours := collections.ByName(stored.Name); ours || !stored.IsAuth() || !same {
		return schemaRefuse(e)
	}
	if stored.Name == "users" && e.Collection.MFA.Enabled {
		return e.BadRequestError(secondStepClosed, nil)
	}
	return e.Next()
}

// sameSchema compares what a collection holds, is called and shows to whom.
func sameSchema(a, b *core.Collection) (bool, error) {
	shape := func(c *core.Collection) ([]byte, error) {
		return json.Marshal([]any{
			c.Id, c.Name, c.Type, c.System, c.Fields, c.Indexes,
			c.ListRule, c.ViewRule, c.CreateRule, c.UpdateRule, c.DeleteRule, c.AuthRule, c.ManageRule,
		})
	}
	before, err := shape(a)
	if err != nil {
		return false, fmt.Errorf("describe collection %s: %w", a.Name, err)
	}
	after, err := shape(b)
	if err != nil {
		return false, fmt.Errorf("describe collection %s: %w", b.Name, err)
	}
	return bytes.Equal(before, after), nil
}

// closedRoutes are PocketBase's routes that work past every hook, or past the audit log: an
// impersonated customer's acts would be written down as his own. They answer 404 unless the
// break-glass variable is set. The names are those of the routes, so that no spelling of a path gets
// round them.
var closedRoutes = []string{
	"POST /api/sql",
	"POST /api/backups/{key}/restore",
	"PUT /api/collections/import",
	"DELETE /api/collections/{collection}/truncate",
	"POST /api/collections/{collection}/impersonate/{id}",
}

// operatorActs are PocketBase's routes by which an operator changes something that is in no collection.
var operatorActs = map[string]string{
	"POST /api/backups": "backup.create", "POST /api/backups/upload": "backup.upload", "DELETE /api/backups/{key}": "backup.delete",
	"POST /api/crons/{id}": "cron.run", "DELETE /api/logs": "logs.truncate",
}

// witnessOperator writes such an act down before it is done: files and programs are in no transaction.
func (p *Panel) witnessOperator(e *core.RequestEvent) error {
	action := operatorActs[e.Request.Pattern]
	if action == "" || !e.HasSuperuserAuth() {
		return e.Next()
	}
	a, err := access.From(e)
	if err != nil {
		return err
	}
	kind, _, _ := strings.Cut(action, ".")
	if err := p.Audit.Write(e.App, a.Audit(), audit.Entry{Action: action, ResourceType: kind, Resource: e.Request.PathValue("key") + e.Request.PathValue("id")}); err != nil {
		return err
	}
	return e.Next()
}

func closeRoutes(e *core.RequestEvent) error {
	if slices.Contains(closedRoutes, e.Request.Pattern) {
		return e.NotFoundError("This is switched off. Start the panel with MAMBA_BREAK_GLASS=1 if you must.", nil)
	}
	return e.Next()
}
