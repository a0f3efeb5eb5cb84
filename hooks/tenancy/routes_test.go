package tenancy_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/tenancy"
)

func TestMakingAnOrganisation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{})
	ann := w.person(t, "ann", true)
	root := w.account(t, "_superusers", "root", true)
	unverified := w.person(t, "unverified", false)
	for _, c := range []struct {
		name, token, body string
		status            int
		texts             []string
	}{
		{"a name alone", ann.token, `{"name":"  Łódź   Gaming! "}`, 201, []string{`"name":"Łódź Gaming!"`, `"slug":"lodz-gaming"`, `"role":"OWNER"`, `"role_name":"Owner"`, `"status":"ACTIVE"`, `"members":1`, `"servers":0`, `"rev":1`}},
		{"the same name again", ann.token, `{"name":"Łódź Gaming!"}`, 201, []string{`"slug":"lodz-gaming-2"`}},
		{"with a slug", ann.token, `{"name":"Acme","slug":"acme-1"}`, 201, []string{`"slug":"acme-1"`}},
		{"an empty slug is derived", ann.token, `{"name":"Beta","slug":""}`, 201, []string{`"slug":"beta"`}},
		{"a name that gives a reserved slug", ann.token, `{"name":"Admin"}`, 201, []string{`"slug":"admin-2"`}},
		{"a name without letters", ann.token, `{"name":"🐍🐍"}`, 201, []string{`"slug":"org"`}},
		{"a taken slug", ann.token, `{"name":"Other","slug":"acme-1"}`, 409, []string{`"code":"slug_taken"`, `"slug":{"code":"taken"`}},
		{"a reserved slug", ann.token, `{"name":"Other","slug":"current"}`, 400, []string{`"slug":{"code":"reserved"`}},
		{"a slug with capitals", ann.token, `{"name":"Other","slug":"Acme"}`, 400, []string{`"slug":{"code":"pattern"`}},
		{"a slug that ends with a dash", ann.token, `{"name":"Other","slug":"acme-"}`, 400, []string{`"pattern"`}},
		{"a slug of one letter", ann.token, `{"name":"Other","slug":"a"}`, 400, []string{`"length"`}},
		{"a slug of 41", ann.token, `{"name":"Other","slug":"` + strings.Repeat("a", 41) + `"}`, 400, []string{`"length"`}},
		{"no name", ann.token, `{}`, 400, []string{`"name":{"code":"required"`}},
		{"an empty name", ann.token, `{"name":"   "}`, 400, []string{`"name":{"code":"required"`}},
		{"a name of 81", ann.token, `{"name":"` + strings.Repeat("a", 81) + `"}`, 400, []string{`"name_invalid"`}},
		{"a name that turns around", ann.token, `{"name":"a\u202eb"}`, 400, []string{`"name_invalid"`}},
		{"both wrong", ann.token, `{"name":"","slug":"-"}`, 400, []string{`"name":`, `"slug":`}},
		{"an unknown field", ann.token, `{"name":"Other","status":"ACTIVE"}`, 400, []string{`"status":{"code":"unknown"`}},
		{"a quota of one's own", ann.token, `{"name":"Other","quota_servers":99}`, 400, []string{`"quota_servers"`}},
		{"a number for a name", ann.token, `{"name":5}`, 400, []string{`"name":{"code":"type"`}},
		{"not JSON", ann.token, `name=Other`, 400, []string{`"invalid_json"`}},
		{"an unconfirmed address", unverified.token, `{"name":"Other"}`, 403, []string{`"email_unverified"`}},
		{"a superuser", root.token, `{"name":"Other"}`, 403, []string{`"users_only"`}},
		{"nobody", "", `{"name":"Other"}`, 401, []string{`"unauthenticated"`, "!Other"}},
	} {
		before, err := w.CountRecords(collections.Tenants)
		if err != nil {
			t.Fatal(err)
		}
		rec := w.call("POST", "/api/v1/tenants", c.token, c.body)
		want(t, c.name, rec, c.status, append(c.texts, "!quota_memory")...)
		after, err := w.CountRecords(collections.Tenants)
		if err != nil {
			t.Fatal(err)
		}
		said := w.ledger.take()
		if c.status != 201 && (after != before || said != "") {
			t.Errorf("%s: %d rows were made, and %q", c.name, after-before, said)
		}
		if c.status == 201 && (after != before+1 || !strings.Contains(said, "audit user "+ann.Id+" tenant.create tenant=") || !strings.Contains(said, "event tenant.created") || strings.Contains(said, "tenant= ")) {
			t.Errorf("%s: %d rows, %q", c.name, after-before, said)
		}
	}
}

func TestOnePersonOwnsAtMostSoManyHoweverFastHeIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{MaxTenants: 5})
	ann, bob := w.person(t, "ann", true), w.person(t, "bob", true)
	var made, refused atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			switch rec := w.call("POST", "/api/v1/tenants", ann.token, `{"name":"Acme"}`); rec.Code {
			case 201:
				made.Add(1)
			case 409:
				refused.Add(1)
			default:
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	}
	wg.Wait()
	if n, err := w.CountRecords(collections.Tenants); err != nil || n != 5 || made.Load() != 5 || refused.Load() != 45 {
		t.Errorf("%d rows, %d made, %d refused, %v", n, made.Load(), refused.Load(), err)
	}
	t.Logf("T09: limit of 5, 50 parallel requests: %d made, %d refused", made.Load(), refused.Load())
	want(t, "the sixth", w.call("POST", "/api/v1/tenants", ann.token, `{"name":"Acme"}`), 409, `"tenant_limit"`)
	bobs := w.tenant(t, bob, "Bob")
	w.bind(t, bobs, ann, tenancy.RoleAdmin, "")
	deleted, err := w.FindFirstRecordByFilter("tenants", "slug='acme'")
	if err != nil {
		t.Fatal(err)
	}
	w.set(t, deleted.Id, map[string]any{"status": tenancy.StatusDeleted})
	want(t, "after one was deleted; being somebody's admin does not count", w.call("POST", "/api/v1/tenants", ann.token, `{"name":"Acme"}`), 201, `"slug":"acme-6"`)
}

func TestTheSameCommandTwiceMakesOneOrganisation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{})
	ann := w.person(t, "ann", true)
	first := w.call("POST", "/api/v1/tenants", ann.token, `{"name":"Acme"}`, access.IdempotencyHeader, "k")
	again := w.call("POST", "/api/v1/tenants", ann.token, `{"name":"Acme"}`, access.IdempotencyHeader, "k")
	if first.Code != 201 || first.Body.String() != again.Body.String() {
		t.Errorf("%s, then %s", first.Body, again.Body)
	}
	if n, err := w.CountRecords(collections.Tenants); err != nil || n != 1 {
		t.Errorf("%d organisations, %v", n, err)
	}
}

func TestListingAndReadingShowsOnesOwnOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{})
	ann, bob, friend, eve := w.person(t, "ann", true), w.person(t, "bob", true), w.person(t, "friend", true), w.person(t, "eve", true)
	root := w.account(t, "_superusers", "root", true)
	acme, bobs := w.tenant(t, ann, "Acme"), w.tenant(t, bob, "Bobs Canary")
	w.bind(t, acme, bob, tenancy.RoleSupport, "")
	w.bind(t, acme, friend, tenancy.RoleMember, serverA)
	w.server(t, acme, serverA, "RUNNING", 1024, 1000, 10)
	w.server(t, acme, serverB, "STOPPED", 512, 500, 5)
	w.server(t, acme, "servergone00000", "DELETED", 9999, 9999, 9999)
	gone := w.tenant(t, ann, "Gone")
	w.set(t, gone, map[string]any{"status": tenancy.StatusDeleted})
	w.set(t, acme, map[string]any{"quota_servers": -1, "quota_memory_mib": 2048})
	const quota = `"quota":{"servers":0,"memory_mib":2048,"cpu_millicores":16000,"disk_mib":204800}`
	for _, c := range []struct {
		name, path, token, hint string
		status                  int
		texts                   []string
	}{
		{"ann's list", "/api/v1/tenants", ann.token, "", 200, []string{`"name":"Acme"`, `"members":3`, `"servers":2`, `"role":"OWNER"`, "!Canary", "!Gone"}},
		{"bob's list", "/api/v1/tenants", bob.token, "", 200, []string{`"name":"Acme"`, `"role":"SUPPORT"`, `"name":"Bobs Canary"`}},
		{"a friend's list", "/api/v1/tenants", friend.token, "", 200, []string{`"name":"Acme"`, `"members":null`, `"servers":null`, "!Canary"}},
		{"eve's list", "/api/v1/tenants", eve.token, "", 200, []string{`{"items":[]}`}},
		{"a superuser's own list", "/api/v1/tenants", root.token, "", 200, []string{`{"items":[]}`}},
		{"nobody's list", "/api/v1/tenants", "", "", 401, []string{"!Acme"}},
		{"by id", "/api/v1/tenants/" + acme, ann.token, "", 200, []string{`"slug":"acme"`, `"servers":2`}},
		{"by slug", "/api/v1/tenants/acme", ann.token, "", 200, []string{`"id":"` + acme + `"`}},
		{"a superuser reads any", "/api/v1/tenants/" + acme, root.token, "", 200, []string{`"role":"SUPERUSER"`, `"members":3`}},
		{"another's by id", "/api/v1/tenants/" + bobs, ann.token, "", 404, []string{`"tenant_not_found"`, "!Canary", "!" + bobs}},
		{"another's by slug", "/api/v1/tenants/bobs-canary", ann.token, "", 404, []string{`"tenant_not_found"`, "!Canary"}},
		{"a deleted one", "/api/v1/tenants/" + gone, ann.token, "", 404, []string{"!Gone"}},
		{"one that never was", "/api/v1/tenants/nosuchtenant000", ann.token, "", 404, []string{`"tenant_not_found"`}},
		{"a malformed id", "/api/v1/tenants/%27%20OR%201=1", ann.token, "", 404, []string{`"tenant_not_found"`}},
		{"a very long id", "/api/v1/tenants/" + strings.Repeat("a", 3000), ann.token, "", 404, []string{`"tenant_not_found"`}},
		{"current by id", "/api/v1/tenants/current", ann.token, acme, 200, []string{quota, `"used":{"servers":2,"memory_mib":1536,"cpu_millicores":1500,"disk_mib":15360}`, `"permissions":["audit.read",`, `"servers":null`, `"role":"OWNER"`}},
		{"current by slug", "/api/v1/tenants/current", bob.token, "acme", 200, []string{`"role":"SUPPORT"`, `"console.write"`, "!server.delete"}},
		{"current of a friend", "/api/v1/tenants/current", friend.token, "acme", 200, []string{`"servers":["` + serverA + `"]`, `"quota":null`, `"used":null`, "!" + serverB, "!console.write"}},
		{"current without saying which", "/api/v1/tenants/current", ann.token, "", 400, []string{`"tenant_required"`}},
		{"current of another's", "/api/v1/tenants/current", ann.token, bobs, 404, []string{"!Canary"}},
		{"current of a deleted one", "/api/v1/tenants/current", ann.token, gone, 404, []string{"!Gone"}},
		{"current of nobody", "/api/v1/tenants/current", "", acme, 401, []string{"!Acme"}},
		{"current of a superuser", "/api/v1/tenants/current", root.token, acme, 200, []string{`"tenant.delete"`, `"servers":null`, quota}},
	} {
		rec := w.call("GET", c.path, c.token, "", access.TenantHeader, c.hint)
		want(t, c.name, rec, c.status, c.texts...)
	}
	if said := w.ledger.take(); said != "" {
		t.Errorf("looking left traces: %s", said)
	}
}

// A slug that is another tenant's id must not lead its members to the wrong one.
func TestAnIdComesBeforeASlug(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{})
	ann, eve := w.person(t, "ann", true), w.person(t, "eve", true)
	acme := w.tenant(t, ann, strings.Repeat("z", 20)) // its own slug sorts last, so that an order by slug would fail here
	want(t, "a slug that is an id", w.call("POST", "/api/v1/tenants", eve.token, fmt.Sprintf(`{"name":"Trap","slug":%q}`, acme)), 201, `"Trap"`)
	trap, err := w.FindFirstRecordByFilter("tenants", "slug={:s}", map[string]any{"s": acme})
	if err != nil {
		t.Fatal(err)
	}
	w.bind(t, trap.Id, ann, tenancy.RoleMember, "")
	want(t, "ann means her own", w.call("GET", "/api/v1/tenants/"+acme, ann.token, ""), 200, `"name":"zzz`)
}

func TestChangingAnOrganisation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{})
	ann, bob, member, eve, unverified := w.person(t, "ann", true), w.person(t, "bob", true), w.person(t, "member", true), w.person(t, "eve", true), w.person(t, "unverified", false)
	root := w.account(t, "_superusers", "root", true)
	acme := w.tenant(t, ann, "Acme")
	w.tenant(t, eve, "Taken")
	w.bind(t, acme, bob, tenancy.RoleAdmin, "")
	w.bind(t, acme, member, tenancy.RoleMember, "")
	w.bind(t, acme, unverified, tenancy.RoleAdmin, "")
	rev := int64(1)
	for _, c := range []struct {
		name, token, body string
		status            int
		said              string // "": nothing was written
		texts             []string
	}{
		{"an owner renames", ann.token, `{"name":" Acme  Two "}`, 200, "audit user " + ann.Id + " tenant.update tenant=" + acme + " map[name:map[from:Acme to:Acme Two]]", []string{`"name":"Acme Two"`, `"slug":"acme"`, `"rev":2`}},
		{"an admin changes the slug", bob.token, `{"slug":"acme-two"}`, 200, `realtime ` + acme + ` tenant rev=3 {"id":"` + acme + `","name":"Acme Two","rev":3,"slug":"acme-two","status":"ACTIVE"}`, []string{`"slug":"acme-two"`, `"rev":3`, `"role":"ADMIN"`}},
		{"an operator renames", root.token, `{"name":"Acme"}`, 200, "audit superuser", []string{`"name":"Acme"`, `"rev":4`}},
		{"nothing new", ann.token, `{"name":"Acme","slug":"acme-two"}`, 200, "", []string{`"rev":4`}},
		{"nothing at all", ann.token, `{}`, 200, "", []string{`"rev":4`}},
		{"a taken slug", ann.token, `{"slug":"taken"}`, 409, "", []string{`"slug_taken"`}},
		{"a reserved slug", ann.token, `{"slug":"api"}`, 400, "", []string{`"reserved"`}},
		{"an empty name", ann.token, `{"name":""}`, 400, "", []string{`"required"`}},
		{"one's own quota", ann.token, `{"quota_servers":99}`, 400, "", []string{`"unknown"`}},
		{"one's own status", ann.token, `{"status":"ACTIVE"}`, 400, "", []string{`"unknown"`}},
		{"a member may not", member.token, `{"name":"Mine"}`, 403, "", []string{`"forbidden"`, "Rename the organisation", "!Acme"}},
		{"an unconfirmed admin may not", unverified.token, `{"name":"Mine"}`, 403, "", []string{`"email_unverified"`}},
		{"a stranger finds nothing", eve.token, `{"name":"Mine"}`, 404, "", []string{`"tenant_not_found"`, "!Acme"}},
		{"a stranger finds nothing even with nonsense", eve.token, `{"nonsense":1}`, 404, "", []string{`"tenant_not_found"`}},
		{"nobody", "", `{"name":"Mine"}`, 401, "", []string{"!Acme"}},
	} {
		rec := w.call("PATCH", "/api/v1/tenants/"+acme, c.token, c.body)
		want(t, c.name, rec, c.status, c.texts...)
		said := w.ledger.take()
		if !strings.Contains(said, c.said) || (c.said == "") != (said == "") {
			t.Errorf("%s: %q", c.name, said)
		}
		row, err := collections.FindTenant(w, acme)
		if err != nil {
			t.Fatal(err)
		}
		if c.said != "" {
			rev++
		}
		if row.Rev() != rev || row.Name() == "Mine" {
			t.Errorf("%s: rev %d, want %d; name %s", c.name, row.Rev(), rev, row.Name())
		}
	}
	if report, err := w.ledger.chain.Verify(w, acme); err != nil || !report.OK() {
		t.Errorf("the audit chain: %+v %v", report, err)
	}
	w.set(t, acme, map[string]any{"status": tenancy.StatusSuspended})
	want(t, "a suspended one", w.call("PATCH", "/api/v1/tenants/"+acme, ann.token, `{"name":"X"}`), 403, `"tenant_suspended"`)
	want(t, "a wrong method", w.call("DELETE", "/api/v1/tenants/"+acme, ann.token, ""), 405, `"method_not_allowed"`)
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{Quota: tenancy.Quota{Servers: 3, MemoryMiB: 4096, CPUMillicores: -1}})
	ann := w.person(t, "ann", true)
	acme := w.tenant(t, ann, "Acme")
	q, err := w.tenancy.Quota(w, acme)
	if err != nil || q != (tenancy.Quota{Servers: 3, MemoryMiB: 4096, CPUMillicores: 0, DiskMiB: tenancy.DefaultQuota.DiskMiB}) {
		t.Errorf("%+v %v", q, err)
	}
	w.set(t, acme, map[string]any{"quota_cpu_millicores": 2000, "quota_servers": 2, "quota_disk_mib": -1})
	w.server(t, acme, serverA, "RUNNING", 1024, 1500, 0)
	for _, c := range []struct {
		name string
		more tenancy.Quota
		want string
	}{
		{"what fits exactly", tenancy.Quota{Servers: 1, MemoryMiB: 3072, CPUMillicores: 500}, ""},
		{"nothing", tenancy.Quota{}, ""},
		{"a server too many", tenancy.Quota{Servers: 2}, "quota_exceeded"},
		{"a MiB too many", tenancy.Quota{Servers: 1, MemoryMiB: 3073}, "quota_exceeded"},
		{"a millicore too many", tenancy.Quota{CPUMillicores: 501}, "quota_exceeded"},
		{"disk where none is allowed", tenancy.Quota{DiskMiB: 1}, "quota_exceeded"},
		{"a figure that would overflow", tenancy.Quota{MemoryMiB: 1<<63 - 1}, "quota_exceeded"},
		{"giving back", tenancy.Quota{Servers: -1, MemoryMiB: -1024}, ""},
	} {
		if got := code(t, w.tenancy.Afford(w, acme, c.more)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	w.set(t, acme, map[string]any{"quota_servers": -1})
	if got := code(t, w.tenancy.Afford(w, acme, tenancy.Quota{Servers: -1})); got != "" {
		t.Errorf("giving back over the quota: %q", got)
	}
	if _, err := w.tenancy.Quota(w, "nosuchtenant000"); err == nil {
		t.Error("a tenant that is not there has a quota")
	}
}

func TestAQuotaThatIsNearlyUsedIsToldOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{Quota: tenancy.Quota{Servers: 100, MemoryMiB: 1000, CPUMillicores: 100_000, DiskMiB: 1 << 20}})
	ann := w.person(t, "ann", true)
	acme := w.tenant(t, ann, "Acme")
	w.server(t, acme, serverA, "RUNNING", 800, 100, 1)
	for _, c := range []struct {
		name string
		more int64
		told int
	}{{"up to 89 %", 99, 0}, {"up to 90 %", 100, 1}, {"up to all of it", 200, 1}, {"too much", 201, 0}, {"giving back", -100, 0}} {
		_ = w.tenancy.Afford(w, acme, tenancy.Quota{MemoryMiB: c.more})
		if said := w.ledger.take(); strings.Count(said, "event tenant.quota_near tenant="+acme) != c.told {
			t.Errorf("%s: %q", c.name, said)
		}
	}
	w.server(t, acme, serverB, "RUNNING", 100, 100, 1)
	_ = w.tenancy.Afford(w, acme, tenancy.Quota{MemoryMiB: 50})
	if said := w.ledger.take(); said != "" {
		t.Errorf("it was near before: %q", said)
	}
}

// Counting and writing in one transaction that holds the tenant's lock: no parallel requests get more.
func TestT09_ATenantLimitedToFiveGetsFive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{Quota: tenancy.Quota{Servers: 5}})
	acme := w.tenant(t, w.person(t, "ann", true), "Acme")
	var made atomic.Int64
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := collections.Tx(w, []collections.Lock{w.tenancy.Lock(acme)}, func(tx core.App) error {
				if err := w.tenancy.Afford(tx, acme, tenancy.Quota{Servers: 1}); err != nil {
					return err
				}
				_, err := tx.NonconcurrentDB().Insert("servers", map[string]any{"id": fmt.Sprintf("server%09d", i), "tenant": acme, "status": "STOPPED"}).Execute()
				return err
			})
			if err == nil {
				made.Add(1)
			} else if got := code(t, err); got != "quota_exceeded" {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	if n, err := w.CountRecords("servers"); err != nil || n != 5 || made.Load() != 5 {
		t.Errorf("%d rows, %d made, %v", n, made.Load(), err)
	}
	t.Logf("T09: limit of 5 servers, 50 parallel: %d made", made.Load())
}
