package audit_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tests"
	"github.com/pocketbase/pocketbase/tools/hook"

	"github.com/mambahost/mamba/collections"
)

// bindGuard binds the guard as hooks.go does: on the model hooks of every collection, before all else.
func bindGuard(app core.App) {
	guard := func(e *core.ModelEvent) error {
		if err := collections.Guard(e.Context, e.Model.TableName()); err != nil {
			return err
		}
		return e.Next()
	}
	for _, h := range []*hook.TaggedHook[*core.ModelEvent]{app.OnModelCreate(), app.OnModelUpdate(), app.OnModelDelete()} {
		h.Bind(&hook.Handler[*core.ModelEvent]{Id: "mamba.collections.guard", Priority: -1000, Func: guard})
	}
}

// platformRows makes a row of every platform collection, as its room does.
func platformRows(t *testing.T, app core.App) map[string]*core.Record {
	t.Helper()
	fill := map[string]map[string]any{
		"data_keys":        {"scope": "s", "wrapped": "w"},
		"events":           {"kind": "a.b", "seq": 1},
		"audit_logs":       {"actor_type": "system", "action": "a.b", "at": "2020-01-01 00:00:00.000Z", "mac": "x", "seq": 1},
		"audit_heads":      {"seq": 1},
		"jobs":             {"kind": "a", "state": "ready", "run_at": "2020-01-01 00:00:00.000Z"},
		"job_steps":        {"job": "j", "name": "n"},
		"cron_runs":        {"name": "n", "scheduled_at": "2020-01-01 00:00:00.000Z"},
		"incidents":        {"kind": "a.b", "fingerprint": "f", "severity": "info", "status": "OPEN", "title": "t"},
		"spent_tokens":     {"jti": "j", "expires_at": "2020-01-01 00:00:00.000Z"},
		"idempotency_keys": {"actor": "a", "key": "k", "fingerprint": "f", "expires_at": "2020-01-01 00:00:00.000Z"},
	}
	out := map[string]*core.Record{}
	for name, data := range fill {
		c, err := app.FindCollectionByNameOrId(name)
		if err != nil {
			t.Fatal(err)
		}
		r := core.NewRecord(c)
		r.Load(data)
		d, _ := collections.ByName(name)
		if err := collections.PermitFor(d.Owner).Save(app, r); err != nil {
			t.Fatalf("%s: its owner may not write it: %v", name, err)
		}
		out[name] = r
	}
	return out
}

func TestGuardRefusesEveryOtherWay(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	bindGuard(app)
	rows := platformRows(t, app)
	ctx := context.Background()
	thief := collections.PermitFor("billing")
	for name, r := range rows {
		fresh := func() *core.Record {
			x := core.NewRecord(r.Collection())
			x.Load(r.PublicExport())
			x.Id = ""
			return x
		}
		changed := func() *core.Record {
			x, err := app.FindRecordById(name, r.Id)
			if err != nil {
				t.Fatal(err)
			}
			x.SetRaw("updated", "2021-01-01 00:00:00.000Z")
			return x
		}
		for way, try := range map[string]func() error{
			"create with Save":                    func() error { return app.Save(fresh()) },
			"create with SaveNoValidate":          func() error { return app.SaveNoValidate(fresh()) },
			"create with another room's permit":   func() error { return thief.Save(app, fresh()) },
			"update with Save":                    func() error { return app.Save(changed()) },
			"update with SaveWithContext":         func() error { return app.SaveWithContext(ctx, changed()) },
			"update with SaveNoValidate":          func() error { return app.SaveNoValidateWithContext(ctx, changed()) },
			"update with another room's permit":   func() error { return thief.Save(app, changed()) },
			"update inside a transaction":         func() error { return app.RunInTransaction(func(tx core.App) error { return tx.Save(changed()) }) },
			"delete":                              func() error { return app.Delete(r) },
			"delete with another room's permit":   func() error { return thief.Delete(app, r) },
			"truncate, the dashboard's":           func() error { return app.TruncateCollection(r.Collection()) },
			"delete of a model that is no record": func() error { return app.Delete(&bareModel{table: name, BaseModel: core.BaseModel{Id: r.Id}}) },
		} {
			if err := try(); !errors.Is(err, collections.ErrNoPermit) {
				t.Errorf("%s: %s: %v", name, way, err)
			}
		}
		if _, err := app.FindRecordById(name, r.Id); err != nil {
			t.Errorf("%s: the row is gone: %v", name, err)
		}
		if n, _ := app.CountRecords(name); n != 1 {
			t.Errorf("%s has %d rows", name, n)
		}
	}
}

// bareModel writes a table without being a record, as PocketBase's own system models do.
type bareModel struct {
	core.BaseModel
	table string
}

func (m *bareModel) TableName() string { return m.table }

func (m *bareModel) LastSavedPK() any { return m.Id }

func (m *bareModel) IsNew() bool { return false }

// PocketBase's cascade writes with a bare context, so it has nobody's permit; what it began is undone.
func TestGuardRefusesACascade(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	users, err := app.FindCollectionByNameOrId("users")
	if err != nil {
		t.Fatal(err)
	}
	incidents, err := app.FindCollectionByNameOrId(collections.Incidents)
	if err != nil {
		t.Fatal(err)
	}
	incidents.Fields.Add(&core.RelationField{Name: "user", CollectionId: users.Id, MaxSelect: 1, CascadeDelete: true})
	if err := app.Save(incidents); err != nil {
		t.Fatal(err)
	}
	bindGuard(app)
	u := core.NewRecord(users)
	u.SetEmail("a@example.com")
	u.SetPassword("correct horse battery")
	if err := app.Save(u); err != nil {
		t.Fatal(err)
	}
	i := core.NewRecord(incidents)
	i.Load(map[string]any{"kind": "a.b", "fingerprint": "f", "severity": "info", "status": "OPEN", "title": "t", "user": u.Id})
	if err := collections.PermitFor("incidents").Save(app, i); err != nil {
		t.Fatal(err)
	}
	if err := app.Delete(u); !errors.Is(err, collections.ErrNoPermit) {
		t.Fatalf("the cascade went through: %v", err)
	}
	if _, err := app.FindRecordById("users", u.Id); err != nil {
		t.Fatalf("half of it happened: %v", err)
	}
}

// The dashboard speaks the same API as everybody; a superuser gets a sentence, not a stack.
func TestGuardOverHTTP(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, method, path, body string
	}{
		{"create", "POST", "/api/collections/incidents/records", `{"kind":"a.b","fingerprint":"g","severity":"info","status":"OPEN","title":"t"}`},
		{"update", "PATCH", "/api/collections/audit_logs/records/%s", `{"action":"forged"}`},
		{"delete", "DELETE", "/api/collections/audit_logs/records/%s", ``},
		{"truncate", "DELETE", "/api/collections/audit_logs/truncate", ``},
	} {
		path, token := c.path, ""
		s := tests.ApiScenario{Name: c.name, Method: c.method, Body: strings.NewReader(c.body), Headers: map[string]string{},
			ExpectedStatus: 400, ExpectedContent: []string{`"status":400`}, NotExpectedContent: []string{"mac", "goroutine"}}
		s.TestAppFactory = func(tb testing.TB) *tests.TestApp {
			app := newApp(t)
			bindGuard(app)
			rows := platformRows(t, app)
			root, err := app.FindCollectionByNameOrId(core.CollectionNameSuperusers)
			if err != nil {
				t.Fatal(err)
			}
			r := core.NewRecord(root)
			r.SetEmail("root@example.com")
			r.SetPassword("correct horse battery")
			if err := app.Save(r); err != nil {
				t.Fatal(err)
			}
			if token, err = r.NewAuthToken(); err != nil {
				t.Fatal(err)
			}
			s.Headers["Authorization"] = token
			if strings.Contains(path, "%s") {
				path = fmt.Sprintf(path, rows["audit_logs"].Id)
			}
			s.URL = path
			return app
		}
		s.AfterTestFunc = func(tb testing.TB, app *tests.TestApp, _ *http.Response) {
			if n, _ := app.CountRecords("audit_logs"); n != 1 {
				tb.Errorf("%d rows", n)
			}
			if n, _ := app.CountRecords("incidents"); n != 1 {
				tb.Errorf("%d incidents", n)
			}
		}
		s.DisableTestAppCleanup = true
		s.Test(t)
	}
}
