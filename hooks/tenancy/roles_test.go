package tenancy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/mambahost/mamba/hooks/tenancy"
)

func TestRolesOfOnesOwn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	make := func(by person, body string) (tenancy.RoleView, func(status int, texts ...string)) {
		rec := h.call("POST", h.path("/roles"), by.token, body)
		var v tenancy.RoleView
		_ = json.Unmarshal(rec.Body.Bytes(), &v)
		return v, func(status int, texts ...string) { t.Helper(); want(t, body, rec, status, texts...) }
	}
	night, check := make(h.admin, `{"name":"Night watch","description":"Restarts at night","permissions":["server.restart","server.read","console.read","server.read"]}`)
	check(201, `"permissions":["console.read","server.read","server.restart"]`, `"system":false`, `"assignable":true`, `"members":0`)
	_, check = make(h.admin, `{"name":"night WATCH"}`)
	check(409, `"role_name_taken"`)
	_, check = make(h.admin, `{"name":"Admin"}`)
	check(409, `"role_name_taken"`)
	_, check = make(h.admin, `{"name":"Deleter","permissions":["tenant.delete"]}`)
	check(403, `"role_beyond_yours"`)
	_, check = make(h.admin, `{"name":"Flyer","permissions":["server.fly"]}`)
	check(400, `"permissions":{"code":"unknown"`)
	_, check = make(h.admin, `{"name":"  "}`)
	check(400, `"name":{"code":"required"`)
	_, check = make(h.support, `{"name":"Mine"}`)
	check(403, `"forbidden"`)
	_, check = make(h.stranger, `{"name":"Mine"}`)
	check(404)
	role := h.path("/roles/" + night.ID)

	want(t, "it is listed", h.call("GET", h.path("/roles"), h.member.token, ""), 200, `"Night watch"`, `"key":"OWNER"`, `"description":"Start a server"`)
	want(t, "elsewhere it is not", h.call("GET", "/api/v1/tenants/"+h.foreign+"/roles", h.stranger.token, ""), 200, "!Night watch")
	want(t, "it is given", h.call("PATCH", h.path("/members/"+h.member.Id), h.admin.token, fmt.Sprintf(`{"role":%q}`, night.ID)), 200, `"role_name":"Night watch"`)
	may := func(permission string) bool {
		return h.tenancy.Can(h, h.member.actor(), permission, tenancy.Resource{Tenant: h.tenant, Server: h.server}) == nil
	}
	if !may("server.restart") || may("server.start") {
		t.Error("the role is not what he may do")
	}
	want(t, "it is changed", h.call("PATCH", role, h.owner.token, `{"permissions":["server.read","server.start"],"name":"Day watch"}`), 200, `"permissions":["server.read","server.start"]`, `"name":"Day watch"`, `"members":1`)
	if may("server.restart") || !may("server.start") {
		t.Error("a change of the role does not change what he may do")
	}
	want(t, "another's owner changes it", h.call("PATCH", "/api/v1/tenants/"+h.foreign+"/roles/"+night.ID, h.stranger.token, `{"name":"Mine"}`), 404, `"role_not_found"`)
	want(t, "a system role", h.call("PATCH", h.path("/roles/role00000000004"), h.owner.token, `{"name":"Mine"}`), 409, `"role_fixed"`)
	want(t, "it is in use", h.call("DELETE", role, h.owner.token, ""), 409, `"role_in_use"`)
	want(t, "it is taken back", h.call("PATCH", h.path("/members/"+h.member.Id), h.admin.token, `{"role":"MEMBER"}`), 200)
	h.ledger.take()
	want(t, "it is deleted", h.call("DELETE", role, h.owner.token, ""), 204)
	if said := h.ledger.take(); !strings.Contains(said, "role.delete") || !strings.Contains(said, "event role.deleted") {
		t.Errorf("told as %q", said)
	}
	want(t, "it is gone", h.call("DELETE", role, h.owner.token, ""), 404, `"role_not_found"`)
}

// Who may manage roles and members but lacks something cannot come by it.
func TestNobodyClimbsByARole(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	rec := h.call("POST", h.path("/roles"), h.owner.token, `{"name":"Clerk","permissions":["tenant.read","role.manage","member.update","member.invite","member.remove"]}`)
	var clerk tenancy.RoleView
	if err := json.Unmarshal(rec.Body.Bytes(), &clerk); err != nil || rec.Code != 201 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	want(t, "the clerk is made", h.call("PATCH", h.path("/members/"+h.support.Id), h.owner.token, fmt.Sprintf(`{"role":%q}`, clerk.ID)), 200)
	by := h.support
	self := h.path("/members/" + by.Id)
	for name, rec := range map[string]func() (int, string){
		"a role with more": func() (int, string) {
			r := h.call("POST", h.path("/roles"), by.token, `{"name":"More","permissions":["server.delete"]}`)
			return r.Code, r.Body.String()
		},
		"his own role with more": func() (int, string) {
			r := h.call("PATCH", h.path("/roles/"+clerk.ID), by.token, `{"permissions":["tenant.read","role.manage","server.delete"]}`)
			return r.Code, r.Body.String()
		},
		"himself an admin": func() (int, string) {
			r := h.call("PATCH", self, by.token, `{"role":"ADMIN"}`)
			return r.Code, r.Body.String()
		},
		"himself a member": func() (int, string) {
			r := h.call("PATCH", self, by.token, `{"role":"MEMBER"}`)
			return r.Code, r.Body.String()
		},
		"an admin a nobody": func() (int, string) {
			r := h.call("PATCH", h.path("/members/"+h.admin.Id), by.token, `{"role":""}`)
			return r.Code, r.Body.String()
		},
		"an admin gone": func() (int, string) {
			r := h.call("DELETE", h.path("/members/"+h.admin.Id), by.token, "")
			return r.Code, r.Body.String()
		},
		"a friend an admin by mail": func() (int, string) {
			r := h.call("POST", h.path("/members/invite"), by.token, `{"email":"x@example.test","role":"ADMIN"}`)
			return r.Code, r.Body.String()
		},
	} {
		if status, body := rec(); status != 403 || !strings.Contains(body, "role_beyond_yours") {
			t.Errorf("he makes %s: %d %s", name, status, body)
		}
	}
	want(t, "what he has he may give", h.call("PATCH", h.path("/members/"+h.idle.Id), by.token, fmt.Sprintf(`{"role":%q}`, clerk.ID)), 200)
}
