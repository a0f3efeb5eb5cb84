package hooks

import (
	"strings"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// A table of ours under another name would be nobody's to guard, and a view shows what is hidden.
func TestTheSchemaStaysAsReleasesMadeIt(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	h := serve(t, app, nil).asSuperuser()
	servers, err := app.FindCollectionByNameOrId(collections.Servers)
	must(t, err)
	const schema, table = "/api/collections", "/api/collections/audit_logs"
	for name, c := range map[string]struct{ method, path, body string }{
		"another name":                    {"PATCH", table, `{"name":"mine"}`},
		"another name, asked by id":       {"PATCH", schema + "/" + servers.Id, `{"name":"mine"}`},
		"the name of another, and its id": {"PATCH", schema + "/users", `{"id":"` + servers.Id + `"}`},
		"a view":                          {"POST", schema, `{"name":"v","type":"view","viewQuery":"select id, wrapped from data_keys","listRule":""}`},
		"a table":                         {"POST", schema, `{"name":"t","type":"base","fields":[{"name":"x","type":"text"}]}`},
		"a field of the users":            {"PATCH", schema + "/users", `{"fields":[{"name":"x","type":"text"}]}`},
		"a rule of the users":             {"PATCH", schema + "/users", `{"listRule":""}`},
		"who may sign in":                 {"PATCH", schema + "/users", `{"authRule":null}`},
		"an index of the users":           {"PATCH", schema + "/users", `{"indexes":[]}`},
		"removing a system table":         {"DELETE", schema + "/_superusers", ``},
		"removing the users":              {"DELETE", schema + "/users", ``},
		"emptying":                        {"DELETE", table + "/truncate", ``},
		"emptying the users":              {"DELETE", schema + "/users/truncate", ``},
		"importing":                       {"PUT", schema + "/import", `{"collections":[{"name":"t","type":"base"}]}`},
	} {
		if status, raw := h.do(c.method, c.path, c.body); status < 400 || status > 499 || !strings.Contains(raw, "MAMBA_BREAK_GLASS") {
			t.Errorf("%s: %d %.300s", name, status, raw)
		}
	}
	for _, d := range collections.All() {
		if _, err := app.FindCollectionByNameOrId(d.Name); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
	}
	if n := h.count(collections.AuditLogs, dbx.HashExp{"action": "dashboard.options"}); n != 0 {
		t.Errorf("%d changes were written down that did not happen", n)
	}
}

// What an operator does with PocketBase's own tools leaves a row, and the row is his.
func TestAnOperatorsActsAreWrittenDown(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	h := serve(t, app, nil).asSuperuser()
	account := `{"email":"two@example.org","password":"a-long-password","passwordConfirm":"a-long-password"}`
	for _, c := range []struct{ method, path, body, action, kind string }{
		{"POST", "/api/collections/_superusers/records", account, "dashboard.create", "_superusers"},
		{"PATCH", "/api/collections/_superusers/records/{new}", `{"password":"another-password","passwordConfirm":"another-password"}`, "dashboard.update", "_superusers"},
		{"DELETE", "/api/collections/_superusers/records/{new}", ``, "dashboard.delete", "_superusers"},
		{"PATCH", "/api/settings", `{"meta":{"appName":"Hosting"}}`, "dashboard.settings", "settings"},
		{"PATCH", "/api/collections/users", `{"otp":{"enabled":true}}`, "dashboard.options", "collections"},
		{"POST", "/api/collections/users/records", account, "user.create", "users"},
		{"POST", "/api/crons/__pbLogsCleanup__", "", "cron.run", "cron"},
		{"DELETE", "/api/logs", "", "logs.truncate", "logs"},
	} {
		where := dbx.HashExp{"action": c.action, "resource_type": c.kind, "actor_type": "superuser"}
		before := h.count(collections.AuditLogs, where)
		if strings.Contains(c.path, "{new}") {
			r, err := app.FindAuthRecordByEmail(core.CollectionNameSuperusers, "two@example.org")
			must(t, err)
			c.path = strings.ReplaceAll(c.path, "{new}", r.Id)
		}
		status, raw := h.do(c.method, c.path, c.body)
		if n := h.count(collections.AuditLogs, where) - before; status > 299 || n != 1 {
			t.Errorf("%s %s: %d %.200s, %d rows", c.method, c.path, status, raw, n)
		}
	}
	if app.Settings().Meta.AppName != "Hosting" {
		t.Error("the settings were not saved")
	}
	row, err := app.FindFirstRecordByFilter(collections.AuditLogs, "action = 'dashboard.settings'")
	must(t, err)
	if meta := row.GetString("metadata"); meta != `{"sections":["meta"]}` {
		t.Errorf("the row says %s", meta)
	}
	status, raw := h.do("POST", "/api/collections/_superusers/auth-with-password", `{"identity":"root@example.org","password":"a-long-password"}`)
	if n := h.count(collections.AuditLogs, dbx.HashExp{"action": "superuser.sign_in", "actor_type": "superuser", "resource_type": "_superusers"}); status != 200 || n != 1 {
		t.Errorf("signing in: %d %.200s, %d rows", status, raw, n)
	}
	// A change that is refused leaves none.
	before := h.count(collections.AuditLogs, dbx.NewExp("1=1"))
	for _, c := range [][3]string{
		{"POST", "/api/collections/_superusers/records", `{"email":"x"}`},
		{"PATCH", "/api/settings", `{"meta":{"appURL":"::"}}`},
		{"POST", "/api/collections/users/impersonate/" + firstOf(t, app, "users").Id, `{}`},
	} {
		if status, raw := h.do(c[0], c[1], c[2]); status < 400 || status > 499 {
			t.Errorf("%s %s: %d %.200s", c[0], c[1], status, raw)
		}
	}
	if n := h.count(collections.AuditLogs, dbx.NewExp("1=1")); n != before {
		t.Errorf("%d rows about what was refused", n-before)
	}
}

// What the dashboard may edit has to be what the rooms can read.
func TestADashboardEditIsChecked(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	h := serve(t, app, nil).asSuperuser()
	if status, raw := h.do("POST", "/api/v1/admin/nodes", `{"name":"n1","public_addresses":["203.0.113.7"],"cpu_millicores":1000,"memory_mib":1024,"disk_mib":1024}`); status != 201 {
		t.Fatalf("%d %s", status, raw)
	}
	node := "/api/collections/nodes/records/" + firstOf(t, app, collections.Nodes).Id
	for body, want := range map[string]int{
		`{"labels":["a","list"]}`:                 400,
		`{"labels":{"Bad Name":"x"}}`:             400,
		`{"labels":{"disk":1}}`:                   400,
		`{"labels":"text"}`:                       400,
		`{"location":"x","join_token_hash":"aa"}`: 400,
		`{"location":"x","heartbeat":{"a":1}}`:    400,
		`{"labels":{"disk":"nvme"}}`:              200,
		`{"location":"Frankfurt"}`:                200,
	} {
		if status, raw := h.do("PATCH", node, body); status != want || strings.Contains(raw, "SELECT") {
			t.Errorf("%s: %d %.300s", body, status, raw)
		}
	}
	if status, raw := h.do("GET", "/api/v1/admin/nodes", ""); status != 200 || !strings.Contains(raw, `"nvme"`) {
		t.Errorf("the nodes: %d %.300s", status, raw)
	}
}

// An account is an address, a name and a password. It is no place to keep files, nor a way to send
// mails to others.
func TestAnAccountIsNotMore(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	h := serve(t, app, nil)
	users, err := app.FindCollectionByNameOrId("users")
	must(t, err)
	for _, f := range users.Fields {
		if f.Type() == core.FieldTypeFile {
			t.Errorf("anybody may store files in %s", f.GetName())
		}
	}
	u := core.NewRecord(users)
	u.SetEmail("ada@example.org")
	u.SetPassword("a-long-password")
	must(t, app.Save(u))
	ada := h.as("ada@example.org")
	refused := 0
	for range 8 {
		if status, _ := ada.do("POST", "/api/collections/users/request-email-change", `{"newEmail":"victim@example.com"}`); status == 429 {
			refused++
		}
	}
	if refused != 5 {
		t.Errorf("%d of 8 mails to a stranger were refused, want 5", refused)
	}
}

// Two second steps after each other would be one too many, and PocketBase's comes after the session has begun.
func TestPocketBasesSecondStepStaysOffForCustomers(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	h := serve(t, app, nil).asSuperuser()
	if status, raw := h.do("PATCH", "/api/collections/users", `{"mfa":{"enabled":true,"duration":1800}}`); status != 400 || !strings.Contains(raw, "Customers have a second factor") {
		t.Errorf("%d %.300s", status, raw)
	}
	users, err := app.FindCollectionByNameOrId("users")
	must(t, err)
	if users.MFA.Enabled || !users.OTP.Enabled {
		t.Errorf("the second step is %v, codes by mail %v", users.MFA.Enabled, users.OTP.Enabled)
	}
}
