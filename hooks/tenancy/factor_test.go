package tenancy_test

import (
	"testing"
	"time"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// factor gives somebody an authenticator.
func (w *world) factor(t testing.TB, p person) {
	t.Helper()
	now := collections.Stamp(time.Now())
	_, err := w.NonconcurrentDB().Insert(collections.TotpFactors, dbx.Params{"id": p.Id, "user": p.Id, "secret": "x", "begun_at": now, "confirmed_at": now, "last_step": 0, "created": now, "updated": now}).Execute()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) withoutFactor(t testing.TB, p person) {
	t.Helper()
	if _, err := w.NonconcurrentDB().Delete(collections.TotpFactors, dbx.HashExp{"user": p.Id}).Execute(); err != nil {
		t.Fatal(err)
	}
}

// "2FA-required API bypass": an organisation that requires a second factor holds at its door whoever has none, at
// every route, and whoever switches it on has one.
func TestWhoHasNoSecondFactorIsHeldAtTheDoor(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	on := `{"require_2fa":true}`
	want(t, "an owner without one", h.call("PATCH", h.path(""), h.owner.token, on), 403, `"second_factor_required"`, "yourself")
	want(t, "a member may not", h.call("PATCH", h.path(""), h.member.token, on), 403, `"forbidden"`)
	want(t, "not a truth", h.call("PATCH", h.path(""), h.owner.token, `{"require_2fa":"yes"}`), 400, `"type"`)
	want(t, "not when it is made", h.call("POST", "/api/v1/tenants", h.owner.token, `{"name":"x","require_2fa":true}`), 400, `"unknown"`)
	h.factor(t, h.owner)
	h.ledger.take()
	want(t, "an owner with one", h.call("PATCH", h.path(""), h.owner.token, on), 200, `"require_2fa":true`, `"rev":2`)
	if said := h.ledger.take(); said == "" || h.call("PATCH", h.path(""), h.owner.token, on).Code != 200 || h.ledger.take() != "" {
		t.Errorf("once, and written down once: %s", said)
	}
	h.factor(t, h.support)

	type route struct{ method, path, body string }
	routes := []route{
		{"GET", "/api/v1/tenants/current", ""}, {"GET", h.path(""), ""}, {"POST", h.path("/switch"), "{}"}, {"GET", h.path("/members"), ""}, {"GET", h.path("/roles"), ""},
		{"GET", "/api/v1/audit", ""}, {"PATCH", h.path(""), `{"require_2fa":false}`}, {"POST", h.path("/members/invite"), `{"email":"x@example.test","role":"MEMBER"}`},
		{"GET", "/api/v1/servers/" + h.server + "/access", ""}, {"DELETE", h.path("/members/" + h.member.Id), ""}, {"POST", h.path("/transfer"), `{"user":"` + h.member.Id + `"}`},
	}
	for name, who := range map[string]person{"admin": h.admin, "friend": h.friend, "idle": h.idle} {
		for _, r := range routes {
			want(t, name+" "+r.method+" "+r.path, h.call(r.method, r.path, who.token, r.body, "X-Tenant", h.tenant), 403, `"second_factor_required"`, "set up two-factor", "!Acme")
		}
		if err := h.tenancy.Can(h, who.actor(), "server.read", tenancy.Resource{Tenant: h.tenant, Server: h.server}); err == nil {
			t.Errorf("%s may read a server", name)
		}
		if s, ok := h.tenancy.Scope(h, who.Record, h.tenant); ok {
			t.Errorf("%s is admitted to %+v", name, s)
		}
	}
	if said := h.ledger.take(); said != "" {
		t.Errorf("changed by who was held: %s", said)
	}
	for name, who := range map[string]person{"owner": h.owner, "support": h.support, "operator": h.ops} {
		want(t, name, h.call("GET", "/api/v1/tenants/current", who.token, "", "X-Tenant", h.tenant), 200, "Acme")
		if _, ok := h.tenancy.Scope(h, who.Record, h.tenant); !ok {
			t.Errorf("%s is not admitted", name)
		}
	}
	// Still nobody else's business, still in one's own list, and one may go.
	want(t, "a stranger", h.call("GET", h.path(""), h.stranger.token, ""), 404, `"tenant_not_found"`)
	want(t, "the list", h.call("GET", "/api/v1/tenants", h.member.token, ""), 200, "Acme", `"require_2fa":true`)
	want(t, "leaving", h.call("DELETE", h.path("/members/"+h.member.Id), h.member.token, ""), 204)
	if held, err := h.tenancy.WithoutFactor(h, h.tenant); err != nil || len(held) != 3 {
		t.Errorf("%v, %v", held, err)
	}
	// Gained and lost again: asked each time.
	h.factor(t, h.admin)
	want(t, "with one", h.call("GET", h.path("/members"), h.admin.token, ""), 200)
	h.withoutFactor(t, h.admin)
	want(t, "without it again", h.call("GET", h.path("/members"), h.admin.token, ""), 403, `"second_factor_required"`)
	want(t, "switched off", h.call("PATCH", h.path(""), h.owner.token, `{"require_2fa":false}`), 200, `"require_2fa":false`)
	want(t, "everybody again", h.call("GET", h.path("/members"), h.admin.token, ""), 200)
}
