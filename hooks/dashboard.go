package hooks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	validation "github.com/pocketbase/ozzo-validation/v4"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// What an operator changes with PocketBase's dashboard: fields that are his, accounts of operators,
// settings. Each leaves an audit row in its own transaction.

// dashboardSave lets a superuser edit the few fields that are the operator's, with an audit row in
// the same transaction. Everything else of our collections is refused with a sentence.
func (p *Panel) dashboardSave(e *core.RecordRequestEvent) error {
	if _, ours := collections.ByName(e.Collection.Name); !ours {
		return p.witnessed(e, "dashboard.update", map[string]any{"fields": access.ChangedFields(e.Record)})
	}
	a, err := access.From(e.RequestEvent)
	if err != nil {
		return err
	}
	if err := usable(e.Record); err != nil {
		return e.BadRequestError(err.Error(), nil)
	}
	tenant := e.Record.Original().GetString("tenant") // whatever the request says
	if e.Collection.Name == collections.Tenants {
		tenant = e.Record.Id
	}
	// the room's own lock, as far as it has one of that name: rev grows by one for each writer
	locks := []collections.Lock{audit.Lock(tenant), rowLock(e.Collection.Name, e.Record.Id)}
	err = collections.Tx(e.App, locks, func(tx core.App) error {
		changed, err := collections.SaveFromDashboard(tx, e.Record)
		if err != nil || len(changed) == 0 {
			return err
		}
		return p.Audit.Write(tx, a.Audit(), audit.Entry{
			Tenant: tenant, Action: "dashboard.update", ResourceType: e.Collection.Name, Resource: e.Record.Id,
			Metadata: map[string]any{"fields": changed},
		})
	})
	var invalid validation.Errors
	if errors.Is(err, collections.ErrNoPermit) || errors.As(err, &invalid) {
		return e.BadRequestError(err.Error(), invalid)
	}
	if err != nil {
		return err // its text is for the log
	}
	if err := apis.EnrichRecord(e.RequestEvent, e.Record); err != nil {
		return err
	}
	return e.JSON(http.StatusOK, e.Record)
}

// usable refuses what the rooms could not read or would not have let in themselves.
func usable(r *core.Record) error {
	switch r.Collection().Name {
	case collections.Nodes:
		return fleet.CheckLabels([]byte(r.GetString("labels")))
	case collections.Tenants:
		name, ok := access.CleanText(r.GetString("name"), tenancy.MaxNameLength)
		if !ok || name == "" {
			return fmt.Errorf("use a name of 1 to %d ordinary characters", tenancy.MaxNameLength)
		}
		r.Set("name", name)
	}
	return nil
}

// dashboardRefuse answers creates and deletes in our collections with a sentence instead of a bare
// failure; the model hooks would refuse them anyway. In PocketBase's own they are written down.
func (p *Panel) dashboardRefuse(action string) func(*core.RecordRequestEvent) error {
	return func(e *core.RecordRequestEvent) error {
		if _, ours := collections.ByName(e.Collection.Name); ours {
			return e.BadRequestError(collections.ErrNoPermit.Error(), nil)
		}
		return p.witnessed(e, action, nil)
	}
}

// witnessed lets a change of PocketBase's own collections through, with an audit row: who may make
// superusers, or tie a customer's account to another sign-in, must not be able to do it unseen. Users
// have handlers of their own.
func (p *Panel) witnessed(e *core.RecordRequestEvent, action string, metadata map[string]any) error {
	if e.Collection.Name == "users" || e.Auth == nil {
		return e.Next()
	}
	if e.Collection.Name == core.CollectionNameExternalAuths && !e.HasSuperuserAuth() {
		return p.Access.ProviderRemove(e)
	}
	return p.Access.Witness(e.RequestEvent, e.Next, func() (*core.Record, audit.Entry) {
		return e.Auth, audit.Entry{Action: action, ResourceType: e.Collection.Name, Resource: e.Record.Id, Metadata: metadata}
	})
}

// dashboardOptions writes down that a superuser changed how people sign in.
func (p *Panel) dashboardOptions(e *core.CollectionRequestEvent) error {
	return p.Access.Witness(e.RequestEvent, e.Next, func() (*core.Record, audit.Entry) {
		return e.Auth, audit.Entry{Action: "dashboard.options", ResourceType: "collections", Resource: e.Collection.Name}
	})
}

// dashboardSettings writes down which of PocketBase's settings a superuser changed, without values.
func (p *Panel) dashboardSettings(e *core.SettingsUpdateRequestEvent) error {
	changed, err := changedSections(e.OldSettings, e.NewSettings)
	if err != nil {
		return err
	}
	return p.Access.Witness(e.RequestEvent, e.Next, func() (*core.Record, audit.Entry) {
		return e.Auth, audit.Entry{Action: "dashboard.settings", ResourceType: "settings", Metadata: map[string]any{"sections": changed}}
	})
}

// changedSections names the sections in which settings differ, sorted. A secret that alone changed is
// not seen: PocketBase does not show it.
func changedSections(before, after *core.Settings) ([]string, error) {
	old, now := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	for settings, sections := range map[*core.Settings]*map[string]json.RawMessage{before: &old, after: &now} {
		raw, err := json.Marshal(settings)
		if err == nil {
			err = json.Unmarshal(raw, sections)
		}
		if err != nil {
			return nil, fmt.Errorf("compare settings: %w", err)
		}
	}
	changed := []string{}
	for section, value := range now {
		if !bytes.Equal(old[section], value) {
			changed = append(changed, section)
		}
	}
	slices.Sort(changed)
	return changed, nil
}

// rowLock is what the room of a collection holds while it writes a row: "node:<id>", "tenant:<id>".
func rowLock(collection, id string) collections.Lock {
	return collections.Lock(strings.TrimSuffix(collection, "s") + ":" + id)
}
