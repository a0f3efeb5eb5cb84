package tenancy_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/tenancy"
)

type made struct {
	access.KeyView
	Secret string
}

// keyed makes a key by the API; path is "/api/v1/account/keys" or an organisation's.
func (w *world) keyed(t *testing.T, who person, path, rest string, permissions ...string) made {
	t.Helper()
	raw, err := json.Marshal(permissions)
	if err != nil {
		t.Fatal(err)
	}
	rec := w.call("POST", path, who.token, fmt.Sprintf(`{"name":"robot","permissions":%s%s}`, raw, rest))
	var out made
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || rec.Code != 201 || out.Secret == "" {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return out
}

const mine = "/api/v1/account/keys"

func TestAnAPIKeyMayWhatIsInItAndWhatItsHolderMay(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	personal := h.keyed(t, h.admin, mine, "", "tenant.read", "member.invite", "server.read")
	shared := h.keyed(t, h.admin, h.path("/keys"), "", "tenant.read", "member.invite")
	for name, key := range map[string]made{"personal": personal, "of the organisation": shared} {
		ask := func(what, method, path, body string, status int, texts ...string) {
			t.Helper()
			want(t, name+": "+what, h.call(method, path, key.Secret, body), status, texts...)
		}
		ask("a permission of its", "GET", h.path("/members"), "", 200, `"owner@example.test"`)
		ask("what its holder may and it may not", "GET", "/api/v1/audit?x", "", map[bool]int{true: 400, false: 403}[name == "personal"])
		ask("another's organisation", "GET", "/api/v1/tenants/"+h.foreign+"/members", "", 404, "tenant_not_found", "!Others")
		ask("what its holder may not", "POST", h.path("/transfer"), `{"user":"`+h.member.Id+`"}`, 403)
		ask("renaming", "PATCH", h.path(""), `{"name":"Mine"}`, 403, "This API key does not include: Rename the organisation")
		ask("inviting to more than is in it", "POST", h.path("/members/invite"), `{"email":"x@example.org","role":"ADMIN"}`, 403, "role_beyond_yours")
		ask("a new organisation", "POST", "/api/v1/tenants", `{"name":"Mine"}`, 403, "users_only")
		ask("another session's token", "POST", h.path("/switch"), "", 409, "no_session")
		ask("leaving", "DELETE", h.path("/members/"+h.admin.Id), "", 403)
		ask("its organisations", "GET", "/api/v1/tenants", "", 200, h.tenant, "!"+h.foreign)
	}
	rec := h.call("GET", "/api/v1/tenants/current", shared.Secret, "")
	want(t, "an organisation's key names none", rec, 200, `"permissions":["member.invite","tenant.read"]`, h.tenant)
	want(t, "a personal one does", h.call("GET", "/api/v1/tenants/current", personal.Secret, ""), 400, "tenant_required")
	want(t, "a personal one", h.call("GET", "/api/v1/tenants/current", personal.Secret, "", "X-Tenant", h.tenant), 200, `"permissions":["member.invite","server.read","tenant.read"]`)

	h.bind(t, h.foreign, h.admin, tenancy.RoleAdmin, "")
	want(t, "personal, elsewhere", h.call("GET", "/api/v1/tenants/"+h.foreign+"/members", personal.Secret, ""), 200)
	want(t, "an organisation's, elsewhere", h.call("GET", "/api/v1/tenants/"+h.foreign+"/members", shared.Secret, ""), 404, "!Others")
	want(t, "an organisation's, elsewhere by header", h.call("GET", "/api/v1/tenants/current", shared.Secret, "", "X-Tenant", h.foreign), 404, "!Others")
	want(t, "its list", h.call("GET", "/api/v1/tenants", shared.Secret, ""), 200, "!"+h.foreign)

	// What its holder loses is gone from his keys at the next question.
	want(t, "less", h.call("PATCH", h.path("/members/"+h.admin.Id), h.owner.token, `{"role":"MEMBER"}`), 200)
	for name, key := range map[string]made{"personal": personal, "of the organisation": shared} {
		want(t, name+" of a member", h.call("GET", h.path("/members"), key.Secret, ""), 200, "!owner@example.test")
		want(t, name+" of a member", h.call("GET", h.path("/invites"), key.Secret, ""), 403, "Your role in this organisation does not include")
	}
	h.ledger.take()
	want(t, "removed", h.call("DELETE", h.path("/members/"+h.admin.Id), h.owner.token, ""), 204)
	want(t, "an organisation's key ends with its maker's membership", h.call("GET", h.path("/members"), shared.Secret, ""), 401, "key_invalid")
	want(t, "a personal key goes on where he is", h.call("GET", h.path("/members"), personal.Secret, ""), 404)
	h.bind(t, h.tenant, h.admin, tenancy.RoleAdmin, "")
	want(t, "it does not come back with him", h.call("GET", h.path("/members"), shared.Secret, ""), 401, "key_invalid")
}

func TestWhatAnAPIKeyCanBeGiven(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, c := range []struct {
		name       string
		who        person
		path, body string
		status     int
		texts      []string
	}{
		{"no name", h.owner, mine, `{"permissions":["server.read"]}`, 400, []string{`"name"`}},
		{"no permission", h.owner, mine, `{"name":"x","permissions":[]}`, 400, []string{`"permissions"`}},
		{"an unknown one", h.owner, mine, `{"name":"x","permissions":["server.fly"]}`, 400, []string{"There is no such permission"}},
		{"making keys", h.owner, mine, `{"name":"x","permissions":["key.manage"]}`, 400, []string{"not_for_keys"}},
		{"handing over", h.owner, h.path("/keys"), `{"name":"x","permissions":["tenant.transfer"]}`, 400, []string{"not_for_keys"}},
		{"deleting", h.owner, h.path("/keys"), `{"name":"x","permissions":["tenant.delete"]}`, 400, []string{"not_for_keys"}},
		{"more than its maker has", h.member, mine, `{"name":"x","permissions":["server.read","server.delete"]}`, 403, []string{"key_beyond_yours"}},
		{"more than one has anywhere", h.idle, mine, `{"name":"x","permissions":["server.read"]}`, 403, []string{"key_beyond_yours"}},
		{"a friend's role for one server", h.friend, mine, `{"name":"x","permissions":["server.read","console.write"]}`, 201, nil},
		{"an organisation's by who may not", h.support, h.path("/keys"), `{"name":"x","permissions":["server.read"]}`, 403, []string{"Make and revoke the organisation's API keys"}},
		{"an organisation's by a stranger", h.stranger, h.path("/keys"), `{"name":"x","permissions":["server.read"]}`, 404, []string{"!Acme"}},
		{"an organisation's by an operator", h.ops, h.path("/keys"), `{"name":"x","permissions":["server.read"]}`, 403, []string{"users_only"}},
		{"an operator's own", h.ops, mine, `{"name":"x","permissions":["server.read"]}`, 403, []string{"users_only"}},
		{"a server of others", h.owner, h.path("/keys"), `{"name":"x","permissions":["server.read"],"servers":["000000000000two"]}`, 400, []string{"There is no such server"}},
		{"a time that has been", h.owner, h.path("/keys"), `{"name":"x","permissions":["server.read"],"expires_at":"2020-01-01T00:00:00Z"}`, 400, []string{"expires_at"}},
		{"a time in ten years", h.owner, mine, `{"name":"x","permissions":["server.read"],"expires_at":"2046-01-01T00:00:00Z"}`, 400, []string{"expires_at"}},
		{"no address", h.owner, mine, `{"name":"x","permissions":["server.read"],"addresses":["everywhere"]}`, 400, []string{"addresses"}},
	} {
		rec := h.call("POST", c.path, c.who.token, c.body)
		want(t, c.name, rec, c.status, c.texts...)
		if lines := h.ledger.take(); rec.Code >= 400 && strings.Contains(lines, "key") {
			t.Errorf("%s: something was written", c.name)
		}
	}
	unconfirmed := h.person(t, "late", false)
	want(t, "unconfirmed", h.call("POST", mine, unconfirmed.token, `{"name":"x","permissions":["server.read"]}`), 403, "email_unverified")
}

func TestAnAPIKeyMakesNoKeys(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var all []string
	list := h.call("GET", h.path("/keys"), h.owner.token, "")
	var answer struct{ Permissions []tenancy.KeyPermission }
	if err := json.Unmarshal(list.Body.Bytes(), &answer); err != nil || len(answer.Permissions) < 15 {
		t.Fatalf("%d %s", list.Code, list.Body)
	}
	for _, p := range answer.Permissions {
		if all = append(all, p.Key); !p.Yours {
			t.Errorf("the owner has not got %s", p.Key)
		}
	}
	for _, key := range []made{h.keyed(t, h.owner, mine, "", all...), h.keyed(t, h.owner, h.path("/keys"), "", all...)} {
		for _, route := range []string{"GET " + mine, "POST " + mine, "DELETE " + mine + "/" + key.ID} {
			method, path, _ := strings.Cut(route, " ")
			want(t, route, h.call(method, path, key.Secret, `{"name":"x","permissions":["server.read"]}`), 403, "key_not_here")
		}
		for _, route := range []string{"GET " + h.path("/keys"), "POST " + h.path("/keys"), "DELETE " + h.path("/keys/"+key.ID)} {
			method, path, _ := strings.Cut(route, " ")
			want(t, route, h.call(method, path, key.Secret, `{"name":"x","permissions":["server.read"]}`), 403, "This API key does not include")
		}
	}
}

func TestAnAPIKeyForSingleServers(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	two := h.put(t, h.tenant, "two")
	key := h.keyed(t, h.owner, h.path("/keys"), `,"servers":["`+h.server+`"]`, "server.read", "server.start", "tenant.read", "server.create")
	a := access.Actor{Type: access.TypeAPIKey, ID: h.owner.Id, Verified: true, Key: &access.Key{ID: key.ID, Tenant: h.tenant, Permissions: key.Permissions, Servers: key.Servers}}
	for _, c := range []struct {
		permission, server, code string
	}{
		{"server.read", h.server, ""}, {"server.start", h.server, ""}, {"server.stop", h.server, "forbidden"}, {"server.read", two, "server_not_found"}, {"server.start", two, "server_not_found"},
		{"server.read", "", "forbidden"}, {"server.create", "", "forbidden"}, {"tenant.read", "", "forbidden"},
	} {
		err := h.tenancy.Can(h, a, c.permission, tenancy.Resource{Tenant: h.tenant, Server: c.server})
		if got := codeOf(err); got != c.code {
			t.Errorf("%s on %q: %q, want %q", c.permission, c.server, got, c.code)
		}
	}
	scope, err := h.tenancy.ScopeOf(h, a, h.tenant)
	if err != nil || scope.All || !slices.Equal(scope.Servers, []string{h.server}) {
		t.Errorf("%+v %v", scope, err)
	}
	a.Key.Servers = nil
	if scope, err = h.tenancy.ScopeOf(h, a, h.tenant); err != nil || !scope.All {
		t.Errorf("%+v %v", scope, err)
	}
	a.Key = nil
	if err := h.tenancy.Can(h, a, "server.read", tenancy.Resource{Tenant: h.tenant}); codeOf(err) != "tenant_not_found" {
		t.Errorf("an API key without what it may do: %v", err)
	}
	want(t, "what the organisation is", h.call("GET", "/api/v1/tenants/current", key.Secret, ""), 200, `"servers":["`+h.server+`"]`, `"quota":null`)
}

func codeOf(err error) string {
	if e, ok := err.(*access.Error); ok { //nolint:errorlint // nothing wraps it
		return e.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestAPIKeysAreListedRevokedAndWrittenDown(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.ledger.take()
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	shared := h.keyed(t, h.admin, h.path("/keys"), `,"addresses":["203.0.113.7"],"expires_at":"`+until+`"`, "server.read")
	lines := h.ledger.take()
	for _, text := range []string{"audit user " + h.admin.Id + " key.make tenant=" + h.tenant, "robot", "203.0.113.7/32", "event tenant.key_made tenant=" + h.tenant, "realtime " + h.tenant + " key"} {
		if !strings.Contains(lines, text) {
			t.Errorf("%s is not in\n%s", text, lines)
		}
	}
	own := h.keyed(t, h.admin, mine, "", "server.read")
	if lines = h.ledger.take(); !strings.Contains(lines, "account.key_make tenant= ") || !strings.Contains(lines, "event account.key_made tenant= subject="+h.admin.Id) {
		t.Errorf("%s", lines)
	}
	for _, secret := range []string{shared.Secret, own.Secret} {
		for table, column := range map[string]string{"audit_logs": "metadata", "events": "payload", "api_keys": "token_hash", "idempotency_keys": "answer"} {
			var n int
			if err := h.DB().NewQuery("SELECT COUNT(*) FROM {{" + table + "}} WHERE [[" + column + "]] LIKE {:s}").Bind(map[string]any{"s": "%" + secret[9:] + "%"}).Row(&n); err != nil || n != 0 {
				t.Errorf("%s.%s holds a key: %d %v", table, column, n, err)
			}
		}
	}
	lists := func(who person, path string) *httptest.ResponseRecorder { return h.call("GET", path, who.token, "") }
	want(t, "the organisation's", lists(h.owner, h.path("/keys")), 200, shared.ID, `"user_name":"admin"`, `"hint":"`+shared.Hint+`"`, `"addresses":["203.0.113.7/32"]`, `"last_used":""`, "!"+own.ID, "!"+shared.Secret)
	want(t, "one's own", lists(h.admin, mine), 200, own.ID, "!"+shared.ID, `"expires_at":""`)
	want(t, "another's", lists(h.owner, mine), 200, "!"+own.ID)
	want(t, "by who may not", lists(h.member, h.path("/keys")), 403, "!"+shared.ID)
	want(t, "by a stranger", lists(h.stranger, h.path("/keys")), 404, "!"+shared.ID)

	want(t, "used", h.call("GET", h.path(""), own.Secret, ""), 200)
	want(t, "with its use", lists(h.admin, mine), 200, `"last_address":"192.0.2.1"`)

	want(t, "another's personal key", h.call("DELETE", mine+"/"+own.ID, h.owner.token, ""), 404, "key_not_found")
	want(t, "an organisation's as one's own", h.call("DELETE", mine+"/"+shared.ID, h.admin.token, ""), 404, "key_not_found")
	want(t, "one's own as an organisation's", h.call("DELETE", h.path("/keys/"+own.ID), h.admin.token, ""), 404, "key_not_found")
	want(t, "in another organisation", h.call("DELETE", "/api/v1/tenants/"+h.foreign+"/keys/"+shared.ID, h.stranger.token, ""), 404, "key_not_found")
	want(t, "by who may not", h.call("DELETE", h.path("/keys/"+shared.ID), h.support.token, ""), 403)
	h.ledger.take()
	want(t, "revoked", h.call("DELETE", h.path("/keys/"+shared.ID), h.owner.token, ""), 204)
	if lines = h.ledger.take(); !strings.Contains(lines, "key.revoke tenant="+h.tenant) || !strings.Contains(lines, "event tenant.key_revoked") {
		t.Errorf("%s", lines)
	}
	want(t, "revoked twice", h.call("DELETE", h.path("/keys/"+shared.ID), h.owner.token, ""), 404)
	want(t, "one's own", h.call("DELETE", mine+"/"+own.ID, h.admin.token, ""), 204)
	if lines = h.ledger.take(); !strings.Contains(lines, "account.key_revoke") || !strings.Contains(lines, "event account.key_revoked") {
		t.Errorf("%s", lines)
	}
	want(t, "used after that", h.call("GET", h.path(""), own.Secret, ""), 401, "key_invalid")
	want(t, "the list after that", lists(h.admin, mine), 200, "!"+own.ID)
}

func TestWhatAnAPIKeyDoesIsWrittenDownAsTheKeys(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	key := h.keyed(t, h.owner, h.path("/keys"), "", "tenant.update")
	h.ledger.take()
	want(t, "renamed", h.call("PATCH", h.path(""), key.Secret, `{"name":"Renamed"}`, "Idempotency-Key", "one"), 200)
	if lines := h.ledger.take(); !strings.Contains(lines, "audit apikey "+key.ID+" tenant.update") {
		t.Errorf("%s", lines)
	}
	rows, err := collections.Every[collections.AuditLog](h, collections.AuditLogs, "seq DESC", 1)
	if err != nil || len(rows) != 1 || rows[0].ActorName() != "robot (API key of owner)" {
		t.Errorf("%v %v", rows, err)
	}
	// Its answers under an Idempotency-Key are not its holder's.
	rec := h.call("PATCH", h.path(""), h.owner.token, `{"name":"Renamed"}`, "Idempotency-Key", "one")
	if want(t, "the holder", rec, 200); rec.Header().Get(access.ReplayedHeader) != "" {
		t.Error("a person was given the answer of his key")
	}
}
