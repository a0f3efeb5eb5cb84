package hooks

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/metering"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/wire"
)

// signIn is a session with a password, which is a proof for ten minutes.
func (h *house) signIn(email string) string {
	h.t.Helper()
	user, err := h.app.FindAuthRecordByEmail("users", email)
	must(h.t, err)
	user.SetPassword("a-long-password")
	must(h.t, h.app.Save(user))
	req := httptest.NewRequest("POST", "/api/collections/users/auth-with-password", strings.NewReader(`{"identity":"`+email+`","password":"a-long-password"}`))
	req.Header.Set("Content-Type", plain)
	rec := httptest.NewRecorder()
	h.mux.ServeHTTP(rec, req)
	in := decode[struct{ Token string }](h.t, rec.Body.String())
	if rec.Code != 200 || in.Token == "" {
		h.t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return in.Token
}

// mark is a text of a tenant that is looked for later.
func mark(name, collection, field string) string {
	return "canary-" + name + "-" + collection + "-" + field
}

// plantRow puts a row into a collection of tenants, behind the rooms' backs, with the tenant's mark in every text.
func plantRow(t *testing.T, app core.App, d collections.Definition, tenant, name string) {
	t.Helper()
	now := collections.Stamp(time.Now())
	row := dbx.Params{"id": core.GenerateDefaultRandomId(), "created": now, "updated": now}
	for _, f := range d.Columns() {
		switch f.Kind {
		case collections.Text, collections.Email, collections.Relation:
			row[f.Name] = mark(name, d.Name, f.Name)
		case collections.JSON:
			row[f.Name] = `{"x":"` + mark(name, d.Name, f.Name) + `"}`
		case collections.Date:
			row[f.Name] = now
			if f.Name == "expires_at" { // or the clock removes it meanwhile
				row[f.Name] = collections.Stamp(time.Now().Add(24 * time.Hour))
			}
		case collections.Number:
			row[f.Name] = 0
		case collections.Bool:
			row[f.Name] = false
		case collections.Select:
			row[f.Name] = f.Values[len(f.Values)-1]
		}
	}
	row["tenant"] = tenant
	switch d.Name {
	case collections.Servers:
		row["status"] = "DELETED"
		row["environment"] = `{"OPEN":{"v":"` + mark(name, d.Name, "environment") + `"},"SHUT":{"v":"m1:` + mark(name, d.Name, "sealed") + `","s":true}}`
	case collections.Jobs:
		row["state"] = jobs.Done
	case collections.Events:
		row["delivered"] = true
	}
	err := errors.New("never tried")
	for try := 0; err != nil && try < 100; try++ {
		if d.Name == collections.Events { // the newest of all, so that the next number follows it: the panel numbers its own meanwhile
			var last int64
			must(t, app.DB().NewQuery("SELECT MAX([[seq]]) FROM {{events}}").Row(&last))
			row["seq"] = last + 1
		}
		_, err = app.NonconcurrentDB().Insert(d.Name, row).Execute()
		if d.Name != collections.Events {
			break
		}
	}
	if err != nil {
		t.Fatalf("plant in %s: %v", d.Name, err)
	}
}

// plantAll marks everything that a tenant can have.
func (s *settled) plantAll(tenant, name string) (planted int) {
	s.t.Helper()
	for _, d := range collections.All() {
		if !d.Tenant || d.Name == collections.AuditLogs || d.Name == collections.AuditHeads {
			continue
		}
		plantRow(s.t, s.app, d, tenant, name)
		planted++
	}
	must(s.t, s.Audit.Write(s.app, audit.System, audit.Entry{Tenant: tenant, Action: "tenant.update", Metadata: map[string]any{"x": mark(name, "audit_logs", "metadata")}}))
	_, err := s.Secrets.Seal(s.app, tenant, secrets.Ref{Table: "x", Row: "y", Field: "z"}, []byte(mark(name, "secret", "value")))
	must(s.t, err)
	// What hangs on a row of the tenant and has no tenant itself.
	for table, row := range map[string]dbx.Params{
		collections.JobSteps:        {"name": "x", "output": `{"x":"` + mark(name, "job_steps", "output") + `"}`, "job": s.idOf(collections.Jobs, tenant)},
		collections.RolePermissions: {"role": s.idOf(collections.Roles, tenant), "permission": mark(name, "role_permissions", "permission")},
	} {
		row["id"], row["created"], row["updated"] = core.GenerateDefaultRandomId(), collections.Stamp(time.Now()), collections.Stamp(time.Now())
		_, err := s.app.NonconcurrentDB().Insert(table, row).Execute()
		must(s.t, err)
	}
	_, err = s.app.NonconcurrentDB().Update(collections.Tenants, dbx.Params{"name": mark(name, "tenants", "name"), "plan_tier": mark(name, "t", "plan"), "status_reason": mark(name, "tenants", "reason"), "quota_servers": 7},
		dbx.HashExp{"id": tenant}).Execute()
	must(s.t, err)
	n := int64(len(name))
	_, err = s.Metering.Store.Take(s.t.Context(), metering.Delivery{Node: "canary" + name, Spool: "x", From: 1, To: 2, Rows: []metering.Row{
		{Tenant: tenant, Node: "canary" + name, Sample: wire.Sample{Seq: 1, ServerID: "canary" + name, PlacementEpoch: n, WindowUnixS: time.Now().Unix()/30*30 - 60}},
		{Tenant: tenant, Node: "canary" + name, Sample: wire.Sample{Seq: 2, ServerID: "canary" + name, PlacementEpoch: n, WindowUnixS: time.Now().Unix()/30*30 - 30}},
	}})
	must(s.t, err)
	return planted
}

// idOf is the planted row of a tenant in a collection.
func (s *settled) idOf(table, tenant string) string {
	s.t.Helper()
	var id string
	must(s.t, s.app.DB().Select("id").From(table).Where(dbx.HashExp{"tenant": tenant}).OrderBy("created DESC").Limit(1).Row(&id))
	return id
}

// everyRow is all that the database holds, a text for each row by collection and id.
func everyRow(t *testing.T, app core.App) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, table := range tables(t, app) {
		var rows []dbx.NullStringMap
		must(t, app.DB().Select("*").From(table).All(&rows))
		for _, row := range rows {
			text := ""
			for _, column := range slices.Sorted(maps.Keys(row)) {
				text += column + "=" + row[column].String + "\n"
			}
			out[table+"/"+row["id"].String] = text
		}
	}
	return out
}

func (s *settled) samplesOf(tenant string) (n int) {
	s.t.Helper()
	must(s.t, s.Metering.Store.Read(s.t.Context(), metering.Range{Tenant: tenant, ToUnixS: time.Now().Unix() + 60}, func(metering.Row) error { n++; return nil }))
	return n
}

// stubborn is a room that cannot purge at first.
type stubborn struct{ left atomic.Int64 }

func (s *stubborn) Purge(core.App, string) (map[string]int64, error) {
	if s.left.Add(-1) >= 0 {
		return nil, errors.New("not yet")
	}
	return map[string]int64{}, nil
}

// doom has an organisation deleted by its owner, and its time over.
func (s *settled) doom(token, tenant, name string) {
	s.t.Helper()
	if status, _, raw := s.ask(token, tenant, "POST", "/api/v1/tenants/"+tenant+"/delete", plain, `{"name":"`+name+`"}`); status != 200 {
		s.t.Fatalf("%d %s", status, raw)
	}
	_, err := s.app.NonconcurrentDB().Update(collections.Tenants, dbx.Params{"delete_at": collections.Stamp(time.Now().Add(-time.Minute))}, dbx.HashExp{"id": tenant}).Execute()
	must(s.t, err)
	must(s.t, s.Compliance.Due(s.app, time.Now()))
	must(s.t, s.Compliance.Due(s.app, time.Now())) // another instance's clock
}

// status is that of a tenant.
func (s *settled) status(tenant string) string {
	s.t.Helper()
	row, err := collections.FindTenant(s.app, tenant)
	must(s.t, err)
	return row.Status()
}

// T07: a tenant is purged from every collection that has a tenant, of which nothing else is lost. A collection that is new
// and purged by no room fails this.
func TestT07_APurgedOrganisationLeavesNothing(t *testing.T) {
	t.Parallel()
	c := newCutting(t, []*house{serve(t, newApp(t), nil)})
	s := c.settled
	s.Compliance.Look = 50 * time.Millisecond
	refuses := &stubborn{}
	refuses.left.Store(1) // everything was removed before it by then: all of that comes back
	s.Compliance.Rooms = append(s.Compliance.Rooms, refuses)
	a := c.tenant
	other := s.person("other@example.org")
	_, _, raw := s.ask(other, "", "POST", "/api/v1/tenants", plain, `{"name":"Bystanders"}`)
	b := decode[struct{ ID string }](t, raw).ID
	boss := s.signIn("owner@demo.example")
	planted := s.plantAll(b, "bystander")
	s.plantAll(a, "doomed")
	held := s.count(collections.PortPools, dbx.HashExp{"is_allocated": true})
	alive := s.count(collections.Servers, dbx.And(dbx.HashExp{"tenant": a}, dbx.Not(dbx.HashExp{"status": "DELETED"})))
	if held == 0 || alive == 0 {
		t.Fatalf("%d ports are held by %d servers: nothing is to be seen", held, alive)
	}
	keep := map[string]string{}
	for id, text := range everyRow(t, s.app) {
		if strings.Contains(text, "tenant="+b+"\n") || id == collections.Tenants+"/"+b || strings.Contains(text, "canary-bystander") {
			keep[id] = text
		}
	}
	if len(keep) < planted+4 {
		t.Fatalf("only %d rows of the other were found, %d were planted", len(keep), planted)
	}

	s.doom(boss, a, mark("doomed", "tenants", "name"))
	collectionstest.Eventually(t, "the organisation is purged", func() bool { return s.status(a) == tenancy.StatusDeleted })
	if refuses.left.Load() >= 0 {
		t.Error("no attempt failed")
	}

	found, scanned := 0, everyRow(t, s.app)
	for id, text := range scanned {
		if strings.Contains(text, "canary-doomed") || strings.Contains(text, "Demo Corp") || strings.Contains(text, "demo-corp") {
			found++
			t.Errorf("%s holds something of the purged organisation:\n%.600s", id, text)
		}
		if strings.Contains(text, "tenant="+a+"\n") {
			t.Errorf("%s is still a row of it", id)
		}
	}
	for id, before := range keep {
		if after := scanned[id]; after != before {
			t.Errorf("%s of the other was\n%s\nand is\n%s", id, before, after)
		}
	}
	if n := s.samplesOf(a); n != 0 {
		t.Errorf("%d samples are left", n)
	}
	if n := s.samplesOf(b); n != 2 {
		t.Errorf("%d of 2 samples of the other are left", n)
	}
	if n := s.count(collections.PortPools, dbx.HashExp{"is_allocated": true}); n != 0 {
		t.Errorf("%d ports are held by nobody", n)
	}
	if _, err := s.Secrets.Open(s.app, b, secrets.Ref{Table: "x", Row: "y", Field: "z"}, "m1:AAAA"); errors.Is(err, secrets.ErrNoKey) {
		t.Error("the other's data key is gone")
	}
	if _, err := s.Secrets.Open(s.app, a, secrets.Ref{Table: "x", Row: "y", Field: "z"}, "m1:AAAA"); !errors.Is(err, secrets.ErrNoKey) {
		t.Errorf("its data key is there: %v", err)
	}
	s.inOrder(a)
	if status, _, raw := s.ask(boss, "", "GET", "/api/v1/tenants", plain, ""); status != 200 || strings.Contains(raw, a) {
		t.Errorf("%d %s", status, raw)
	}

	// What another instance had under way comes late. The job is there to find it.
	late, _ := collections.ByName(collections.Notifications)
	plantRow(t, s.app, late, a, "doomed")
	_, err := s.app.NonconcurrentDB().Update(collections.Tenants, dbx.Params{"status_since": collections.Stamp(time.Now().Add(-time.Hour))}, dbx.HashExp{"id": a}).Execute()
	must(t, err)
	collectionstest.Eventually(t, "what came late is gone", func() bool {
		must(t, s.Jobs.Wake(s.app, a))
		return s.count(collections.Notifications, dbx.HashExp{"tenant": a}) == 0
	})
	collectionstest.Eventually(t, "the job is done", func() bool {
		return s.count(collections.Jobs, dbx.HashExp{"kind": "PurgeTenant", "subject": a, "state": jobs.Done}) == 1
	})
	t.Logf("T07: %d collections planted, %d rows looked through after the purge, %d marks found, %d rows of the other as they were", planted, len(scanned), found, len(keep))
}

// inOrder verifies every audit chain, and that a tenant's is proved to be purged.
func (s *settled) inOrder(purged string) {
	s.t.Helper()
	reps, err := s.Audit.VerifyAll(s.app)
	must(s.t, err)
	seen := false
	for _, r := range reps {
		if !r.OK() {
			s.t.Errorf("audit chain %q: %+v", r.Tenant, r)
		}
		seen = seen || r.Tenant == purged && r.Purged
	}
	if !seen {
		s.t.Errorf("nothing proves that %s was purged", purged)
	}
	proof, err := collections.One[collections.AuditLog](s.app, collections.AuditLogs, dbx.HashExp{"tenant": "", "action": audit.ActionPurged, "resource": purged})
	must(s.t, err)
	var said struct {
		Removed []string `json:"removed"`
	}
	must(s.t, json.Unmarshal([]byte(proof.GetString("metadata")), &said))
	for _, want := range []string{"servers", "tenant_members", "data_keys: 1", "samples: 2", "audit_logs", "api_keys"} {
		if !slices.ContainsFunc(said.Removed, func(line string) bool { return strings.HasPrefix(line, want) }) {
			s.t.Errorf("the proof says nothing of %s: %v", want, said.Removed)
		}
	}
}

// A server on a node that is dead keeps the purge waiting: nothing of the organisation is forgotten, its ports are held and
// an operator is told. When the node is forced out it goes on.
func TestAPurgeWaitsForADeadNode(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil)
	h.asSuperuser()
	s := &settled{house: h}
	s.Compliance.Look = 50 * time.Millisecond
	s.person("owner@example.org")
	boss := s.signIn("owner@example.org")
	_, _, raw := s.ask(boss, "", "POST", "/api/v1/tenants", plain, `{"name":"Acme"}`)
	tenant := decode[struct{ ID string }](t, raw).ID
	status, raw := h.do("POST", "/api/v1/admin/nodes", `{"name":"dead","public_addresses":["203.0.113.1"],"cpu_millicores":8000,"memory_mib":8192,"disk_mib":81920}`)
	if status != 201 && status != 200 {
		t.Fatalf("%d %s", status, raw)
	}
	node := firstOf(t, h.app, collections.Nodes).Id
	if status, raw := h.do("POST", "/api/v1/admin/nodes/"+node+"/ports", `{"addresses":"203.0.113.1","ports":"20000-20010"}`); status > 299 {
		t.Fatalf("%d %s", status, raw)
	}
	set := func(value string) {
		_, err := h.app.NonconcurrentDB().Update(collections.Nodes, dbx.Params{"status": value}, dbx.HashExp{"id": node}).Execute()
		must(t, err)
	}
	set("ONLINE")
	status, _, raw = s.ask(boss, tenant, "POST", "/api/v1/servers", plain, `{"name":"one","blueprint":"demo","node":"`+node+`","limits":{"cpu_millicores":250,"memory_mib":64,"disk_gib":1}}`)
	if status != 202 {
		t.Fatalf("%d %s", status, raw)
	}
	set("OFFLINE")
	s.doom(boss, tenant, "Acme")
	collectionstest.Eventually(t, "an operator is told", func() bool {
		return s.count(collections.Incidents, dbx.HashExp{"kind": "tenant.purge_waits", "status": "OPEN"}) == 1
	})
	purges := func() int64 {
		return s.count(collections.Jobs, dbx.HashExp{"kind": "PurgeTenant", "state": []any{jobs.Waiting, jobs.Ready, jobs.Running}})
	}
	if s.status(tenant) != tenancy.StatusDeleting || purges() != 1 || s.count(collections.PortPools, dbx.HashExp{"is_allocated": true}) == 0 ||
		s.count(collections.TenantMembers, dbx.HashExp{"tenant": tenant}) != 1 || s.count(collections.Servers, dbx.HashExp{"tenant": tenant, "status": "DELETING"}) != 1 {
		t.Errorf("something was forgotten: %s, %d jobs", s.status(tenant), purges())
	}
	if err := collections.Tx(h.app, []collections.Lock{tenancy.Lock(tenant)}, func(tx core.App) error { _, err := h.Servers.Purge(tx, tenant); return err }); err == nil {
		t.Error("servers that are not gone were purged")
	}
	if err := collections.Tx(h.app, []collections.Lock{tenancy.Lock(tenant)}, func(tx core.App) error { _, err := h.Alloc.Purge(tx, tenant); return err }); err == nil {
		t.Error("ports that are held were forgotten")
	}
	if status, raw := h.do("DELETE", "/api/v1/admin/nodes/"+node+"?force=true", ""); status > 299 {
		t.Fatalf("%d %s", status, raw)
	}
	collectionstest.Eventually(t, "the organisation is purged", func() bool { return s.status(tenant) == tenancy.StatusDeleted })
	if n := s.count(collections.Incidents, dbx.HashExp{"kind": "tenant.purge_waits", "status": "OPEN"}); n != 0 {
		t.Errorf("%d incidents are open still", n)
	}
}

// The name of a tombstone is nobody's to take: whoever has it first would keep an organisation from being purged.
func TestNobodyHoldsUpAPurgeByAName(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil)
	s := &settled{house: h}
	s.person("owner@example.org")
	boss := s.signIn("owner@example.org")
	_, _, raw := s.ask(boss, "", "POST", "/api/v1/tenants", plain, `{"name":"Acme"}`)
	tenant := decode[struct{ ID string }](t, raw).ID
	if status, _, raw := s.ask(boss, "", "POST", "/api/v1/tenants", plain, `{"name":"Squatters","slug":"gone-`+tenant+`"}`); status != 201 {
		t.Fatalf("%d %s", status, raw)
	}
	s.doom(boss, tenant, "Acme")
	collectionstest.Eventually(t, "the organisation is purged", func() bool {
		if j, err := collections.One[collections.Job](s.app, collections.Jobs, dbx.HashExp{"kind": "PurgeTenant"}); err == nil && j.LastError() != "" {
			t.Fatal(j.LastError())
		}
		return s.status(tenant) == tenancy.StatusDeleted
	})
}

// An operator who makes something in an organisation that is being purged does not have it forgotten.
func TestWhoKeepsHisOrganisationHasItUntouched(t *testing.T) {
	t.Parallel()
	s := settle(t)
	a, boss := s.ids["/tenants/"], s.signIn("owner@demo.example")
	rows := s.count(collections.TenantMembers, dbx.HashExp{"tenant": a})
	if status, _, raw := s.ask(boss, a, "POST", "/api/v1/tenants/"+a+"/delete", plain, `{"name":"Demo Corp"}`); status != 200 {
		t.Fatalf("%d %s", status, raw)
	}
	must(t, s.Compliance.Due(s.app, time.Now()))
	if n := s.count(collections.Jobs, dbx.HashExp{"kind": "PurgeTenant"}); n != 0 {
		t.Fatalf("%d purges before the time", n)
	}
	must(t, s.Compliance.Due(s.app, time.Now().Add(31*24*time.Hour)))
	collectionstest.Eventually(t, "a job that comes too early removes nothing", func() bool {
		j, err := collections.One[collections.Job](s.app, collections.Jobs, dbx.HashExp{"kind": "PurgeTenant", "subject": a})
		must(t, err)
		return strings.Contains(j.LastError(), "may still be kept")
	})
	if status, _, raw := s.ask(boss, a, "DELETE", "/api/v1/tenants/"+a+"/delete", plain, ""); status != 200 || !strings.Contains(raw, `"ACTIVE"`) {
		t.Fatalf("%d %s", status, raw)
	}
	must(t, collections.Tx(s.app, nil, func(tx core.App) error {
		_, err := tx.NonconcurrentDB().Update(collections.Jobs, dbx.Params{"run_at": collections.Stamp(time.Now())}, dbx.HashExp{"kind": "PurgeTenant"}).Execute()
		return err
	}))
	collectionstest.Eventually(t, "the job sees that it was kept", func() bool {
		return s.count(collections.Jobs, dbx.HashExp{"kind": "PurgeTenant", "state": jobs.Done}) == 1
	})
	if n := s.count(collections.TenantMembers, dbx.HashExp{"tenant": a}); n != rows || s.status(a) != tenancy.StatusActive {
		t.Errorf("%d of %d members, %s", n, rows, s.status(a))
	}
	for _, email := range []string{"owner@demo.example", "member@demo.example"} {
		user, err := s.app.FindAuthRecordByEmail("users", email)
		must(t, err)
		collectionstest.Eventually(t, email+" is told of both", func() bool {
			return s.count(collections.Notifications, dbx.HashExp{"user": user.Id, "channel": "app", "template": []any{"tenant.deleting", "tenant.kept"}}) == 2
		})
	}
}

// Several panels look at the same clock: an organisation is purged once, and an archive that one has made is downloaded
// from another.
func TestSeveralPanelsPurgeOnceAndServeEachOthersArchives(t *testing.T) {
	t.Parallel()
	street := newStreet(t, 2)
	both := []*settled{{house: street.houses[0]}, {house: street.houses[1]}}
	for _, s := range both {
		s.Compliance.Look = 50 * time.Millisecond
	}
	tenant := firstOf(t, both[0].app, collections.Tenants).Id
	boss := both[0].signIn("owner@demo.example")
	both[0].archive(boss, tenant)
	x, err := collections.One[collections.Export](both[0].app, collections.Exports, dbx.HashExp{"tenant": tenant, "status": "READY"})
	must(t, err)
	if code, body := both[1].fetch("/api/v1/tenants/"+tenant, x.Id, both[0].intent(boss, tenant, x.Id)); code != 200 || int64(len(body)) != x.Bytes() {
		t.Errorf("at the other panel: %d, %d of %d bytes", code, len(body), x.Bytes())
	}
	intent := both[0].intent(boss, tenant, x.Id)
	codes := map[int]int{}
	for _, s := range both {
		code, _ := s.fetch("/api/v1/tenants/"+tenant, x.Id, intent)
		codes[code]++
	}
	if codes[200] != 1 || codes[401] != 1 {
		t.Errorf("one token at two panels: %v", codes)
	}
	both[0].doom(boss, tenant, "Demo Corp")
	must(t, both[1].Compliance.Due(both[1].app, time.Now()))
	collectionstest.Eventually(t, "the organisation is purged", func() bool { return both[1].status(tenant) == tenancy.StatusDeleted })
	for table, where := range map[string]dbx.HashExp{
		collections.AuditLogs: {"tenant": "", "action": audit.ActionPurged, "resource": tenant}, collections.Jobs: {"kind": "PurgeTenant", "subject": tenant},
	} {
		if n := both[0].count(table, where); n != 1 {
			t.Errorf("%d rows in %s", n, table)
		}
	}
	for i, s := range both {
		reps, err := s.Audit.VerifyAll(s.app)
		must(t, err)
		for _, r := range reps {
			if !r.OK() {
				t.Errorf("panel %d: audit chain %q: %+v", i, r.Tenant, r)
			}
		}
		if status, _, raw := s.ask(boss, "", "GET", "/api/v1/tenants/"+tenant, plain, ""); status != 404 {
			t.Errorf("panel %d: %d %s", i, status, raw)
		}
	}
}
