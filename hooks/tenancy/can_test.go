package tenancy_test

import (
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/pocketbase/dbx"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// code is what a decision comes to: "" for yes, else the code of its *access.Error.
func code(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var e *access.Error
	if !errors.As(err, &e) {
		t.Fatalf("not an answer: %v", err)
	}
	return e.Code
}

const (
	serverA = "serveraaaaaaaaa"
	serverB = "serverbbbbbbbbb"
)

func TestCan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{})
	owner := w.person(t, "owner", true)
	id := w.tenant(t, owner, "Acme")
	admin, support, member := w.person(t, "admin", true), w.person(t, "support", true), w.person(t, "member", true)
	w.bind(t, id, admin, tenancy.RoleAdmin, "")
	w.bind(t, id, support, tenancy.RoleSupport, "")
	w.bind(t, id, member, tenancy.RoleMember, "")
	friend, noRole, unverified := w.person(t, "friend", true), w.person(t, "norole", true), w.person(t, "unverified", false)
	w.bind(t, id, friend, tenancy.RoleSupport, serverA)
	w.bind(t, id, noRole, "", "")
	w.bind(t, id, unverified, tenancy.RoleOwner, "")
	stranger := w.person(t, "stranger", true)
	elsewhere := w.tenant(t, stranger, "Elsewhere")
	root := w.account(t, "_superusers", "root", true)
	for _, c := range []struct {
		name       string
		who        person
		permission string
		tenant     string
		server     string
		want       string
	}{
		{"an owner may delete the organisation", owner, "tenant.delete", id, "", ""},
		{"an admin may not", admin, "tenant.delete", id, "", "forbidden"},
		{"an admin may create servers", admin, "server.create", id, "", ""},
		{"support types into consoles", support, "console.write", id, serverA, ""},
		{"support does not delete", support, "server.delete", id, serverA, "forbidden"},
		{"a member starts", member, "server.start", id, serverB, ""},
		{"a member does not stop", member, "server.stop", id, serverB, "forbidden"},
		{"a friend uses his server", friend, "console.write", id, serverA, ""},
		{"a friend may not change even that one", friend, "server.update", id, serverA, "forbidden"},
		{"another server is not there for a friend", friend, "server.read", id, serverB, "server_not_found"},
		{"a friend has nothing in the organisation as a whole", friend, "server.read", id, "", "forbidden"},
		{"a friend does not create", friend, "server.create", id, "", "forbidden"},
		{"a member without a role sees no server", noRole, "server.read", id, serverA, "server_not_found"},
		{"a member without a role does nothing", noRole, "tenant.read", id, "", "forbidden"},
		{"an unconfirmed owner looks", unverified, "server.read", id, serverA, ""},
		{"an unconfirmed owner does not act", unverified, "server.start", id, serverA, "email_unverified"},
		{"a stranger finds no organisation", stranger, "tenant.read", id, "", "tenant_not_found"},
		{"a stranger finds no server", stranger, "server.read", id, serverA, "server_not_found"},
		{"a stranger is at home elsewhere", stranger, "server.create", elsewhere, "", ""},
		{"an owner is a stranger elsewhere", owner, "server.create", elsewhere, "", "tenant_not_found"},
		{"no organisation", owner, "server.read", "nosuchtenant000", "", "tenant_not_found"},
		{"an empty organisation", owner, "server.read", "", "", "tenant_not_found"},
		{"text for an organisation", owner, "server.read", "' OR 1=1 --", "", "tenant_not_found"},
		{"a superuser may do it all", root, "tenant.delete", id, "", ""},
	} {
		if got := code(t, w.tenancy.Can(w, c.who.actor(), c.permission, tenancy.Resource{Tenant: c.tenant, Server: c.server})); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	var e *access.Error
	if err := w.tenancy.Can(w, owner.actor(), "server.fly", tenancy.Resource{Tenant: id}); err == nil || errors.As(err, &e) {
		t.Errorf("a permission that is not seeded: %v", err)
	}
	if err := w.tenancy.Can(w, member.actor(), "server.stop", tenancy.Resource{Tenant: id}); !errors.As(err, &e) || e.Status != http.StatusForbidden || e.Message != "Your role in this organisation does not include: Stop a server. An owner or admin of it can change that." {
		t.Errorf("the sentence: %v", err)
	}
	node := access.Actor{Type: "node", ID: owner.Id, Verified: true}
	if got := code(t, w.tenancy.Can(w, node, "server.read", tenancy.Resource{Tenant: id})); got != "tenant_not_found" {
		t.Errorf("an actor of another type with a user's id: %q", got)
	}
	if got := code(t, w.tenancy.Can(w, access.Actor{Type: access.TypeUser, Verified: true}, "server.read", tenancy.Resource{Tenant: id})); got != "tenant_not_found" {
		t.Errorf("nobody: %q", got)
	}
}

func TestCanFollowsTheStateOfTheTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{})
	owner := w.person(t, "owner", true)
	id := w.tenant(t, owner, "Acme")
	for _, c := range []struct{ status, reads, writes string }{
		{tenancy.StatusActive, "", ""},
		{tenancy.StatusSuspended, "", "tenant_suspended"},
		{tenancy.StatusDeleting, "", "tenant_deleting"},
		{tenancy.StatusDeleted, "tenant_not_found", "tenant_not_found"},
	} {
		w.set(t, id, map[string]any{"status": c.status})
		for permission, want := range map[string]string{"server.read": c.reads, "server.activity": c.reads, "console.read": c.reads, "server.start": c.writes, "console.write": c.writes, "tenant.update": c.writes} {
			if got := code(t, w.tenancy.Can(w, owner.actor(), permission, tenancy.Resource{Tenant: id})); got != want {
				t.Errorf("%s of a tenant that is %s: %q, want %q", permission, c.status, got, want)
			}
		}
	}
}

// A right ends with the row that gave it, at once: nothing is remembered between questions.
func TestCanForgetsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{})
	owner, helper := w.person(t, "owner", true), w.person(t, "helper", true)
	id := w.tenant(t, owner, "Acme")
	w.bind(t, id, helper, tenancy.RoleAdmin, "")
	ask := func() string {
		return code(t, w.tenancy.Can(w, helper.actor(), "server.create", tenancy.Resource{Tenant: id}))
	}
	if got := ask(); got != "" {
		t.Fatalf("an admin: %q", got)
	}
	binding, err := w.FindFirstRecordByFilter("role_bindings", "member.user={:u}", map[string]any{"u": helper.Id})
	if err != nil {
		t.Fatal(err)
	}
	if err := permit.Delete(w, binding); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "forbidden" {
		t.Errorf("without the role: %q", got)
	}
	m, err := w.FindFirstRecordByFilter("tenant_members", "user={:u}", map[string]any{"u": helper.Id})
	if err != nil {
		t.Fatal(err)
	}
	if err := permit.Delete(w, m); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "tenant_not_found" {
		t.Errorf("removed: %q", got)
	}
}

// Can against a model: for random bindings of one user in two tenants, the answer is what the seed
// table says. Safety first: nothing is allowed that no covering binding's role holds.
func TestCanEqualsItsModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{})
	owner := w.person(t, "owner", true)
	tenants := []string{w.tenant(t, owner, "One"), w.tenant(t, owner, "Two")}
	roles := []string{tenancy.RoleOwner, tenancy.RoleAdmin, tenancy.RoleSupport, tenancy.RoleMember}
	holds := map[string][]string{}
	all := []string{}
	for _, role := range roles {
		rows, err := w.FindRecordsByFilter("role_permissions", "role.key={:k}", "", 0, 0, map[string]any{"k": role})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			p, err := w.FindRecordById("permissions", r.GetString("permission"))
			if err != nil {
				t.Fatal(err)
			}
			holds[role] = append(holds[role], p.GetString("key"))
			if !slices.Contains(all, p.GetString("key")) {
				all = append(all, p.GetString("key"))
			}
		}
	}
	if len(all) != 23 || len(holds[tenancy.RoleOwner]) != 23 {
		t.Fatalf("%d permissions, the owner has %d", len(all), len(holds[tenancy.RoleOwner]))
	}
	asked := 0
	user := w.person(t, "user", true)
	rapid.Check(t, func(rt *rapid.T) {
		for _, table := range []string{collections.RoleBindings, collections.TenantMembers} {
			if _, err := w.NonconcurrentDB().NewQuery("DELETE FROM {{" + table + "}}").Execute(); err != nil {
				rt.Fatal(err)
			}
		}
		type binding struct{ tenant, role, server string }
		var bound []binding
		member := map[string]bool{}
		for range rapid.IntRange(0, 4).Draw(rt, "bindings") {
			b := binding{rapid.SampledFrom(tenants).Draw(rt, "tenant"), rapid.SampledFrom(append(roles, "")).Draw(rt, "role"), rapid.SampledFrom([]string{"", serverA, serverB}).Draw(rt, "server")}
			if slices.Contains(bound, b) {
				continue
			}
			w.bind(t, b.tenant, user, b.role, b.server)
			bound, member[b.tenant] = append(bound, b), true
		}
		for _, tenant := range tenants {
			for _, server := range []string{"", serverA, serverB} {
				covered := slices.DeleteFunc(slices.Clone(bound), func(b binding) bool {
					return b.tenant != tenant || b.role == "" || b.server != "" && b.server != server
				})
				for _, p := range rapid.SliceOfN(rapid.SampledFrom(all), 4, 4).Draw(rt, "permissions") {
					want := "forbidden"
					switch {
					case !member[tenant] && server == "":
						want = "tenant_not_found"
					case server != "" && len(covered) == 0:
						want = "server_not_found"
					case slices.ContainsFunc(covered, func(b binding) bool { return slices.Contains(holds[b.role], p) }):
						want = ""
					}
					asked++
					if got := code(t, w.tenancy.Can(w, user.actor(), p, tenancy.Resource{Tenant: tenant, Server: server})); got != want {
						rt.Fatalf("%s on %q of %s with %v: %q, want %q", p, server, tenant, bound, got, want)
					}
					// By an API key he may what it leaves of that, and never what no key is for.
					key := &access.Key{Tenant: rapid.SampledFrom([]string{"", tenants[0]}).Draw(rt, "tenant of the key"), Permissions: rapid.SliceOfN(rapid.SampledFrom(all), 0, 30).Draw(rt, "permissions of the key"),
						Servers: rapid.SampledFrom([][]string{nil, {serverA}}).Draw(rt, "servers of the key")}
					by := user.actor()
					by.Type, by.Key = access.TypeAPIKey, key
					may := want == "" && key.Allows(p) && (key.Tenant == "" || key.Tenant == tenant) && (key.Servers == nil || server == serverA) &&
						!slices.Contains([]string{"key.manage", "tenant.transfer", "tenant.delete", "tenant.export"}, p)
					if err := w.tenancy.Can(w, by, p, tenancy.Resource{Tenant: tenant, Server: server}); (err == nil) != may {
						rt.Fatalf("%s on %q of %s with %v by the key %+v: %v, want %t", p, server, tenant, bound, key, err, may)
					}
				}
			}
		}
	})
	t.Logf("%d questions, 0 differences from the model", asked)
}

func TestScopeAndPermissions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{})
	owner := w.person(t, "owner", true)
	id := w.tenant(t, owner, "Acme")
	friend, stranger, root, noRole := w.person(t, "friend", true), w.person(t, "stranger", true), w.account(t, "_superusers", "root", true), w.person(t, "norole", true)
	w.bind(t, id, friend, tenancy.RoleMember, serverB)
	w.bind(t, id, friend, tenancy.RoleSupport, serverA)
	w.bind(t, id, noRole, "", "")
	for _, c := range []struct {
		name    string
		who     person
		ok, all bool
		servers []string
		has     string
		hasNot  string
	}{
		{"an owner sees all", owner, true, true, nil, "tenant.delete", "server.fly"},
		{"a superuser sees all", root, true, true, nil, "tenant.delete", "server.fly"},
		{"a friend sees his servers", friend, true, false, []string{serverA, serverB}, "console.write", "server.delete"},
		{"a member without a role sees nothing", noRole, true, false, nil, "", "tenant.read"},
		{"a stranger is not let in", stranger, false, false, nil, "", ""},
	} {
		s, ok := w.tenancy.Scope(w, c.who.Record, id)
		if ok != c.ok || s.All != c.all || !slices.Equal(s.Servers, c.servers) {
			t.Errorf("%s: %+v %t", c.name, s, ok)
		}
		keys, err := w.tenancy.Permissions(w, c.who.actor(), id)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.has != "" && !slices.Contains(keys, c.has) || c.hasNot != "" && slices.Contains(keys, c.hasNot) || !slices.IsSorted(keys) {
			t.Errorf("%s: %v", c.name, keys)
		}
	}
	if _, ok := w.tenancy.Scope(w, nil, id); ok {
		t.Error("nobody was let in")
	}
	w.set(t, id, map[string]any{"status": tenancy.StatusDeleted})
	if _, ok := w.tenancy.Scope(w, owner.Record, id); ok {
		t.Error("let into a deleted tenant")
	}
}

// One question asked again and again, as the requests of somebody at work do.
func BenchmarkCan(b *testing.B) {
	w := newWorld(b, tenancy.Config{})
	owner := w.person(b, "owner", true)
	id := w.tenant(b, owner, "Acme")
	a := owner.actor()
	for b.Loop() {
		if err := w.tenancy.Can(w, a, "server.create", tenancy.Resource{Tenant: id}); err != nil {
			b.Fatal(err)
		}
	}
}

// The floor of BenchmarkCan: the least that can be asked of the same pool, one column of one row by its id, prepared once.
func BenchmarkCanFloor(b *testing.B) {
	w := newWorld(b, tenancy.Config{})
	id := w.tenant(b, w.person(b, "owner", true), "Acme")
	q := w.ConcurrentDB().NewQuery("SELECT [[status]] FROM {{tenants}} WHERE [[id]] = {:id}").Prepare()
	b.Cleanup(func() { _ = q.Close() })
	for b.Loop() {
		var status string
		if err := q.Bind(dbx.Params{"id": id}).Row(&status); err != nil || status != tenancy.StatusActive {
			b.Fatal(status, err)
		}
	}
}
