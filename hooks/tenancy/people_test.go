package tenancy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// house is an organisation with one person per role, one without any, a friend with one server, and
// somebody else's owner.
type house struct {
	*world
	tenant, foreign, server                                    string
	owner, admin, support, member, idle, friend, stranger, ops person
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{world: newWorld(t, tenancy.Config{})}
	for name, p := range map[string]*person{"owner": &h.owner, "admin": &h.admin, "support": &h.support, "member": &h.member, "idle": &h.idle, "friend": &h.friend, "stranger": &h.stranger} {
		*p = h.person(t, name, true)
	}
	h.ops = h.account(t, "_superusers", "ops", true)
	h.tenant, h.foreign = h.world.tenant(t, h.owner, "Acme"), h.world.tenant(t, h.stranger, "Others")
	h.server = h.put(t, h.tenant, "one")
	h.bind(t, h.tenant, h.admin, tenancy.RoleAdmin, "")
	h.bind(t, h.tenant, h.support, tenancy.RoleSupport, "")
	h.bind(t, h.tenant, h.member, tenancy.RoleMember, "")
	h.bind(t, h.tenant, h.idle, "", "")
	h.bind(t, h.tenant, h.friend, tenancy.RoleSupport, h.server)
	return h
}

// put makes a server's row and returns its id.
func (w *world) put(t testing.TB, tenant, name string) string {
	t.Helper()
	id := strings.Repeat("0", 15-len(name)) + name
	_, err := w.NonconcurrentDB().Insert(collections.Servers, dbx.Params{"id": id, "tenant": tenant, "name": name, "status": "STOPPED", "node": "n", "blueprint": "b", "created": "2026-01-01 00:00:00.000Z", "updated": "2026-01-01 00:00:00.000Z"}).Execute()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (h *house) path(rest string) string { return "/api/v1/tenants/" + h.tenant + rest }

// roleOf is the key of a person's role for the whole organisation, as its owner reads it; "-" when he is not in it.
func (h *house) roleOf(t *testing.T, p person) string {
	t.Helper()
	rec := h.call("GET", h.path("/members"), h.ops.token, "")
	var list struct{ Items []tenancy.Person }
	if err := json.Unmarshal(rec.Body.Bytes(), &list); err != nil || rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	for _, m := range list.Items {
		if m.User == p.Id {
			return m.RoleKey
		}
	}
	return "-"
}

func TestWhoSeesWhoIsInAnOrganisation(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, c := range []struct {
		name   string
		who    person
		status int
		texts  []string
	}{
		{"owner", h.owner, 200, []string{`"admin@example.test"`, `"role_key":"OWNER"`, `"server_name":"one"`, `"role_name":"Support"`, "!stranger"}},
		{"admin", h.admin, 200, []string{`"owner@example.test"`}},
		{"support reads no addresses but his own", h.support, 200, []string{`"name":"owner"`, "!owner@example.test", "support@example.test"}},
		{"member", h.member, 200, []string{"!owner@example.test", `"name":"friend"`}},
		{"somebody without a role", h.idle, 403, []string{`"forbidden"`, "!owner@"}},
		{"a friend with one server", h.friend, 403, []string{`"forbidden"`, "!owner@"}},
		{"an operator", h.ops, 200, []string{`"owner@example.test"`}},
		{"another organisation's owner", h.stranger, 404, []string{`"tenant_not_found"`}},
	} {
		want(t, c.name, h.call("GET", h.path("/members"), c.who.token, ""), c.status, c.texts...)
	}
	want(t, "nobody", h.call("GET", h.path("/members"), "", ""), 401)
}

func TestNobodyGivesOrTakesWhatHeHasNot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		by, whom func(h *house) person
		role     string
		status   int
		code     string
		after    string
	}{
		{"an owner makes a member support", (*house).own, (*house).mem, tenancy.RoleSupport, 200, "", tenancy.RoleSupport},
		{"an admin makes a member an admin", (*house).adm, (*house).mem, tenancy.RoleAdmin, 200, "", tenancy.RoleAdmin},
		{"an admin makes an admin a member", (*house).adm, (*house).adm, tenancy.RoleMember, 200, "", tenancy.RoleMember},
		{"somebody without a role gets one", (*house).own, (*house).idl, tenancy.RoleMember, 200, "", tenancy.RoleMember},
		{"a role is taken away", (*house).own, (*house).sup, "", 200, "", ""},
		{"nobody becomes the owner by a role", (*house).own, (*house).adm, tenancy.RoleOwner, 400, "owner", tenancy.RoleAdmin},
		{"an admin does not unseat the owner", (*house).adm, (*house).own, tenancy.RoleMember, 409, "owner_stays", tenancy.RoleOwner},
		{"the owner does not unseat himself", (*house).own, (*house).own, tenancy.RoleMember, 409, "owner_stays", tenancy.RoleOwner},
		{"support changes nobody", (*house).sup, (*house).mem, tenancy.RoleSupport, 403, "forbidden", tenancy.RoleMember},
		{"a friend changes nobody", (*house).fri, (*house).mem, tenancy.RoleSupport, 403, "forbidden", tenancy.RoleMember},
		{"a stranger changes nobody", (*house).str, (*house).mem, tenancy.RoleSupport, 404, "tenant_not_found", tenancy.RoleMember},
		{"a stranger is no member", (*house).own, (*house).str, tenancy.RoleMember, 404, "member_not_found", "-"},
		{"a role that is not there", (*house).own, (*house).mem, "KING", 400, "unknown", tenancy.RoleMember},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			whom := c.whom(h)
			rec := h.call("PATCH", h.path("/members/"+whom.Id), c.by(h).token, fmt.Sprintf(`{"role":%q}`, c.role))
			want(t, c.name, rec, c.status, c.code)
			if got := h.roleOf(t, whom); got != c.after {
				t.Errorf("he is %q afterwards, want %q", got, c.after)
			}
			said := h.ledger.take()
			if wrote := strings.Contains(said, "audit user "+c.by(h).Id+" member.update"); wrote != (c.status == 200) {
				t.Errorf("written down: %q", said)
			}
		})
	}
}

func (h *house) own() person { return h.owner }
func (h *house) adm() person { return h.admin }
func (h *house) sup() person { return h.support }
func (h *house) mem() person { return h.member }
func (h *house) idl() person { return h.idle }
func (h *house) fri() person { return h.friend }
func (h *house) str() person { return h.stranger }

func TestRemovingAndLeaving(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	remove := func(by, whom person) func(status int, texts ...string) {
		rec := h.call("DELETE", h.path("/members/"+whom.Id), by.token, "")
		return func(status int, texts ...string) {
			t.Helper()
			want(t, by.GetString("name")+" removes "+whom.GetString("name"), rec, status, texts...)
		}
	}
	remove(h.support, h.member)(403, `"forbidden"`)
	remove(h.stranger, h.member)(404, `"tenant_not_found"`)
	remove(h.admin, h.owner)(409, `"owner_stays"`)
	remove(h.owner, h.owner)(409, `"owner_stays"`)
	remove(h.owner, h.stranger)(404, `"member_not_found"`)
	h.ledger.take()
	remove(h.friend, h.friend)(204)
	if said := h.ledger.take(); !strings.Contains(said, "member.leave") || !strings.Contains(said, "event member.left") {
		t.Errorf("leaving is told as %q", said)
	}
	remove(h.admin, h.member)(204)
	remove(h.owner, h.admin)(204)
	remove(h.owner, h.admin)(404, `"member_not_found"`)
	if h.roleOf(t, h.member) != "-" || h.roleOf(t, h.friend) != "-" || h.roleOf(t, h.admin) != "-" {
		t.Error("somebody is still in it")
	}
	want(t, "who was removed", h.call("GET", h.path(""), h.member.token, ""), 404)
	left, err := h.CountRecords(collections.RoleBindings, dbx.HashExp{"tenant": h.tenant})
	if err != nil || left != 2 { // owner and support
		t.Errorf("%d roles are left, %v", left, err)
	}
}

func TestHandingOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	body := func(p person) string { return fmt.Sprintf(`{"user":%q}`, p.Id) }
	want(t, "an admin", h.call("POST", h.path("/transfer"), h.admin.token, body(h.admin)), 403, `"forbidden"`)
	want(t, "to a stranger", h.call("POST", h.path("/transfer"), h.owner.token, body(h.stranger)), 404, `"member_not_found"`)
	want(t, "to oneself", h.call("POST", h.path("/transfer"), h.owner.token, body(h.owner)), 409, `"already_owner"`)
	want(t, "to nobody", h.call("POST", h.path("/transfer"), h.owner.token, `{"user":"me"}`), 400, `"user"`)
	unconfirmed := h.person(t, "unconfirmed", false)
	h.bind(t, h.tenant, unconfirmed, tenancy.RoleAdmin, "")
	want(t, "to somebody without a confirmed address", h.call("POST", h.path("/transfer"), h.owner.token, body(unconfirmed)), 409, `"email_unverified"`)
	want(t, "by who has not shown who he is", h.call("POST", h.path("/transfer"), h.owner.token, body(h.friend)), 403, `"proof_required"`)
	if h.roleOf(t, h.owner) != tenancy.RoleOwner {
		t.Error("a refusal changed the owner")
	}
	h.proof.shown.Store(true)
	want(t, "to the friend", h.call("POST", h.path("/transfer"), h.owner.token, body(h.friend)), 200, `"role":"ADMIN"`)
	if h.roleOf(t, h.friend) != tenancy.RoleOwner || h.roleOf(t, h.owner) != tenancy.RoleAdmin {
		t.Error("the roles have not changed places")
	}
	want(t, "who was the owner", h.call("POST", h.path("/transfer"), h.owner.token, body(h.owner)), 403, `"forbidden"`)
}

// T09: however many requests try at once, an organisation has exactly one owner.
func TestT09_AnOrganisationHasOneOwner(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.proof.shown.Store(true)
	people := []person{h.owner, h.admin, h.support, h.member}
	var wg sync.WaitGroup
	for i := range 48 {
		by, to := people[i%4], people[(i/4)%4]
		wg.Go(func() {
			switch i % 3 {
			case 0:
				h.call("POST", h.path("/transfer"), by.token, fmt.Sprintf(`{"user":%q}`, to.Id))
			case 1:
				h.call("PATCH", h.path("/members/"+to.Id), by.token, `{"role":"ADMIN"}`)
			default:
				h.call("DELETE", h.path("/members/"+by.Id), by.token, "")
			}
		})
	}
	wg.Wait()
	var owners int
	err := h.DB().NewQuery(`SELECT COUNT(*) FROM {{role_bindings}} [[b]] JOIN {{roles}} [[r]] ON [[r.id]] = [[b.role]] AND [[r.key]] = 'OWNER'
		JOIN {{tenant_members}} [[m]] ON [[m.id]] = [[b.member]] WHERE [[b.tenant]] = {:t}`).Bind(dbx.Params{"t": h.tenant}).Row(&owners)
	if err != nil || owners != 1 {
		t.Errorf("%d owners, %v", owners, err)
	}
}

func TestAFriendIsGivenOneServer(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	two, theirs := h.put(t, h.tenant, "two"), h.put(t, h.foreign, "theirs")
	in := func(server string, p person) string { return "/api/v1/servers/" + server + "/access/" + p.Id }
	call := func(method, path string, by person, body string) func(status int, texts ...string) {
		rec := h.call(method, path, by.token, body, "X-Tenant", h.tenant)
		return func(status int, texts ...string) {
			t.Helper()
			want(t, by.GetString("name")+" "+method+" "+path, rec, status, texts...)
		}
	}
	call("PUT", in(two, h.friend), h.admin, `{"role":"MEMBER"}`)(200, `"server_name":"two"`, `"server_name":"one"`, `"role":""`)
	call("PUT", in(two, h.friend), h.admin, `{"role":"SUPPORT"}`)(200, `"role_name":"Support"`)
	call("GET", "/api/v1/servers/"+two+"/access", h.owner, "")(200, `"friend@example.test"`, "!admin@example.test")
	call("PUT", in(theirs, h.friend), h.owner, `{"role":"MEMBER"}`)(404, `"server_not_found"`)
	call("PUT", in(two, h.stranger), h.owner, `{"role":"MEMBER"}`)(404, `"member_not_found"`)
	call("PUT", in(two, h.friend), h.owner, `{"role":"OWNER"}`)(400, `"owner"`)
	call("PUT", in(two, h.friend), h.owner, `{}`)(400, `"required"`)
	call("PUT", in(two, h.idle), h.support, `{"role":"MEMBER"}`)(403, `"forbidden"`)
	call("PUT", in(two, h.friend), h.friend, `{"role":"MEMBER"}`)(403, `"forbidden"`)
	call("GET", "/api/v1/servers/"+two+"/access", h.stranger, "")(404, `"tenant_not_found"`)
	call("DELETE", in(two, h.friend), h.admin, "")(200, `"server_name":"one"`, "!two")
	call("GET", "/api/v1/servers/"+two+"/access", h.friend, "")(404, `"server_not_found"`)
	if err := h.tenancy.Can(h, h.friend.actor(), "console.write", tenancy.Resource{Tenant: h.tenant, Server: h.server}); err != nil {
		t.Error("what he had before:", err)
	}
	if err := h.tenancy.Can(h, h.friend.actor(), "console.read", tenancy.Resource{Tenant: h.tenant, Server: two}); err == nil {
		t.Error("he may still read what was taken from him")
	}
}
