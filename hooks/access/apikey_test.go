package access_test

import (
	"fmt"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/hook"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

// keyPanel answers GET /api/v1/who with who asks, and mints a console token for him.
func keyPanel(t *testing.T) *panel {
	t.Helper()
	return newPanel(t, func(p *panel, g *router.RouterGroup[*core.RequestEvent]) {
		g.Bind(&hook.Handler[*core.RequestEvent]{Priority: apis.DefaultLoadAuthTokenMiddlewarePriority + 1, Func: p.access.LoadKey})
		g.GET("/who", func(e *core.RequestEvent) error {
			a, err := access.From(e)
			if err != nil {
				return err
			}
			return e.JSON(200, map[string]any{"type": a.Type, "id": a.ID, "name": a.Name, "audit": a.Audit().ID, "address": a.Address, "tenant": a.TenantHint, "super": a.Superuser})
		})
		g.POST("/mint", func(e *core.RequestEvent) error {
			a, err := access.From(e)
			if err != nil {
				return err
			}
			token, _, err := p.access.Mint(a, "console", "server000000001", "", time.Minute, false)
			if err != nil {
				return err
			}
			return e.JSON(200, map[string]any{"token": token})
		})
		g.POST("/redeem", func(e *core.RequestEvent) error {
			a, _, err := p.access.Redeem(e, e.Request.Header.Get("X-Token"), "console", "server000000001")
			if err != nil {
				return err
			}
			return e.JSON(200, map[string]any{"type": a.Type, "key": a.Key.ID, "still": a.Still(e.App) == nil})
		})
	})
}

// key makes a key of a user; body is what its maker would send.
func (p *panel) key(t *testing.T, user *core.Record, tenant string, change func(in *access.KeyInput)) (access.KeyView, string) {
	t.Helper()
	name := "robot"
	in := access.KeyInput{Name: &name, Permissions: []string{"server.read"}}
	if change != nil {
		change(&in)
	}
	if err := in.Check(time.Now()); err != nil {
		t.Fatal(err)
	}
	var view access.KeyView
	var token string
	err := collections.Tx(p, nil, func(tx core.App) (err error) {
		view, token, err = p.access.MakeKey(tx, access.Actor{Type: access.TypeUser, ID: user.Id, Name: user.GetString("name")}, tenant, in)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return view, token
}

func TestAnAPIKeyIsItsHolderUnderItsOwnName(t *testing.T) {
	t.Parallel()
	p := keyPanel(t)
	u, _ := p.user(t, "alice@example.test", true)
	view, key := p.key(t, u, "acmeaaaaaaaaaaa", nil)
	if !regexp.MustCompile(`^mk_[a-z2-7]{33}$`).MatchString(key) || !strings.HasPrefix(key, view.Hint) || len(view.Hint) != 9 {
		t.Errorf("key %s, hint %s", key, view.Hint)
	}
	for _, header := range []string{key, "Bearer " + key} {
		rec := p.call("GET", "/api/v1/who", header, "")
		for _, text := range []string{`"type":"apikey"`, `"id":"` + u.Id + `"`, `"audit":"` + view.ID + `"`, `robot (API key of alice)`, `"tenant":"acmeaaaaaaaaaaa"`, `"super":false`} {
			if rec.Code != 200 || !strings.Contains(rec.Body.String(), text) {
				t.Errorf("%s is not in %d %s", text, rec.Code, rec.Body)
			}
		}
	}
	if rec := p.call("GET", "/api/v1/who", key, "", access.TenantHeader, "other"); !strings.Contains(rec.Body.String(), `"tenant":"other"`) {
		t.Errorf("the header is not what counts: %s", rec.Body)
	}
	row, err := p.FindRecordById(collections.APIKeies, view.ID)
	if err != nil {
		t.Fatal(err)
	}
	if stored := fmt.Sprint(row.FieldsData()); strings.Contains(stored, key) || strings.Contains(stored, key[9:]) {
		t.Errorf("the key itself is stored: %s", stored)
	}
}

func TestAnAPIKeyDoesNotLookAfterAnAccount(t *testing.T) {
	t.Parallel()
	p := keyPanel(t)
	u, session := p.user(t, "alice@example.test", true)
	_, key := p.key(t, u, "", nil)
	if rec := p.call("GET", "/api/v1/account", key, ""); rec.Code != 200 || !strings.Contains(rec.Body.String(), "alice@example.test") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	for _, route := range []string{"GET /api/v1/account/sessions", "DELETE /api/v1/account/sessions/others", "DELETE /api/v1/account/sessions/current"} { // hooks' T07 asks the rest
		method, path, _ := strings.Cut(route, " ")
		refused(t, p.call(method, path, key, ""), 403, "key_not_here")
	}
	users := "/api/collections/users/"
	for _, route := range []string{"PATCH " + users + "records/" + u.Id, "GET " + users + "records/" + u.Id, "DELETE " + users + "records/" + u.Id, "POST " + users + "auth-refresh", "POST " + users + "request-email-change"} {
		method, path, _ := strings.Cut(route, " ")
		before := p.call("GET", users+"records/"+u.Id, session, "").Body.String()
		if rec := p.call(method, path, key, `{"name":"mallory","newEmail":"m@example.test","password":"another long one"}`); rec.Code < 400 {
			t.Errorf("%s by an API key: %d %s", route, rec.Code, rec.Body)
		}
		if after := p.call("GET", users+"records/"+u.Id, session, "").Body.String(); after != before {
			t.Errorf("%s by an API key changed the account: %s", route, after)
		}
	}
}

func TestAnAPIKeyEnds(t *testing.T) {
	t.Parallel()
	p := keyPanel(t)
	alice, _ := p.user(t, "alice@example.test", true)
	bob, _ := p.user(t, "bob@example.test", true)
	by := access.Actor{Type: access.TypeUser, ID: alice.Id}
	work := func(key string) int { return p.call("GET", "/api/v1/who", key, "").Code }
	end := func(fn func(tx core.App) error) {
		t.Helper()
		if err := collections.Tx(p, nil, fn); err != nil {
			t.Fatal(err)
		}
	}

	mine, key := p.key(t, alice, "", nil)
	for what, in := range map[string][2]string{"another's": {bob.Id, ""}, "one of an organisation": {alice.Id, "acmeaaaaaaaaaaa"}} {
		err := collections.Tx(p, nil, func(tx core.App) error {
			_, err := p.access.RevokeKey(tx, access.Actor{ID: in[0]}, in[1], mine.ID)
			return err
		})
		if err == nil || work(key) != 200 {
			t.Errorf("a personal key was revoked as %s", what)
		}
	}
	token := tokenIn(t, p.call("POST", "/api/v1/mint", key, "{}")).Token
	if rec := p.call("POST", "/api/v1/redeem", "", "{}", "X-Token", token); !strings.Contains(rec.Body.String(), mine.ID) || !strings.Contains(rec.Body.String(), `"still":true`) {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	end(func(tx core.App) error { _, err := p.access.RevokeKey(tx, by, "", mine.ID); return err })
	refused(t, p.call("GET", "/api/v1/who", key, ""), 401, "key_invalid")
	refused(t, p.call("POST", "/api/v1/redeem", "", "{}", "X-Token", token), 401, "key_invalid")

	soon := time.Now().Add(1500 * time.Millisecond).Format(time.RFC3339Nano)
	_, key = p.key(t, alice, "", func(in *access.KeyInput) { in.Expires = &soon })
	if work(key) != 200 {
		t.Error("a key does not work before it expires")
	}
	_, aged := p.key(t, alice, "", nil)
	_, err := p.NonconcurrentDB().Update(collections.APIKeies, dbx.Params{"expires_at": collections.Stamp(time.Now().Add(-time.Millisecond))}, dbx.NewExp("1=1")).Execute()
	if err != nil {
		t.Fatal(err)
	}
	if work(key) != 401 || work(aged) != 401 {
		t.Error("a key works after it has expired")
	}

	_, one := p.key(t, alice, "acmeaaaaaaaaaaa", nil)
	_, two := p.key(t, bob, "acmeaaaaaaaaaaa", nil)
	end(func(tx core.App) error {
		n, err := p.access.RevokeKeys(tx, "acmeaaaaaaaaaaa", alice.Id, access.KeyLeft)
		if n != 1 {
			t.Errorf("%d keys were revoked", n)
		}
		return err
	})
	if work(one) != 401 || work(two) != 200 {
		t.Error("not his keys alone are gone with a member")
	}
	if err := p.Delete(bob); err != nil {
		t.Fatal(err)
	}
	if work(two) != 401 {
		t.Error("a key outlived its holder's account")
	}
	if n, err := access.PurgeKeys(p, time.Now().Add(80*24*time.Hour)); err != nil || n != 0 {
		t.Errorf("%d keys were purged early: %v", n, err)
	}
	if n, err := access.PurgeKeys(p, time.Now().Add(100*24*time.Hour)); err != nil || n != 4 {
		t.Errorf("%d keys were purged: %v", n, err)
	}
	if n := p.count(t, collections.APIKeies); n != 1 {
		t.Errorf("%d keys are left", n)
	}
}

// seen sends a request of a client at an address, through proxies that add headers.
func (p *panel) seen(key, remote string, headers ...string) int {
	req := httptest.NewRequest("GET", "/api/v1/who", nil)
	req.RemoteAddr = remote
	req.Header.Set("Authorization", key)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	p.mux.ServeHTTP(rec, req)
	return rec.Code
}

func TestAnAPIKeyIsForItsAddresses(t *testing.T) {
	t.Parallel()
	p := keyPanel(t)
	u, _ := p.user(t, "alice@example.test", true)
	_, key := p.key(t, u, "", func(in *access.KeyInput) {
		in.Addresses = []string{"203.0.113.0/24", " 198.51.100.7 ", "2001:db8::/32"}
	})
	check := func(what, remote string, want int, headers ...string) {
		t.Helper()
		if got := p.seen(key, remote, headers...); got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	check("inside", "203.0.113.9:4711", 200)
	check("the single address", "198.51.100.7:4711", 200)
	check("beside the single address", "198.51.100.8:4711", 403)
	check("IPv6", "[2001:db8:1::5]:4711", 200)
	check("other IPv6", "[2001:db9::5]:4711", 403)
	check("IPv4 in IPv6", "[::ffff:203.0.113.9]:4711", 200)
	check("outside", "192.0.2.1:4711", 403)
	// Nobody is believed who he says he is, until the operator names the header that his proxy sets.
	check("a header that anybody can send", "192.0.2.1:4711", 403, "X-Forwarded-For", "203.0.113.9", "X-Real-IP", "203.0.113.9", "Forwarded", "for=203.0.113.9", "CF-Connecting-IP", "203.0.113.9")
	check("a header cannot lock out", "203.0.113.9:4711", 200, "X-Forwarded-For", "192.0.2.1")
	p.Settings().TrustedProxy.Headers = []string{"X-Forwarded-For"}
	check("behind the proxy", "192.0.2.1:4711", 200, "X-Forwarded-For", "203.0.113.9")
	check("behind the proxy, what the client wrote first", "192.0.2.1:4711", 403, "X-Forwarded-For", "203.0.113.9, 192.0.2.77")
	check("behind the proxy, from outside", "192.0.2.1:4711", 403, "X-Forwarded-For", "192.0.2.77")
	check("the proxy itself", "192.0.2.1:4711", 403)
	refused(t, p.call("GET", "/api/v1/who", key, ""), 403, "key_address")

	for _, wrong := range []string{"", "x", "203.0.113.0/33", "203.0.113.7:80", "fe80::1%eth0", "example.org", "::ffff:0:0/96", "203.0.113.0-255"} {
		name := "x"
		in := access.KeyInput{Name: &name, Permissions: []string{"server.read"}, Addresses: []string{wrong}}
		if err := in.Check(time.Now()); err == nil {
			t.Errorf("%q was taken for an address", wrong)
		}
	}
}

func TestTheLastUseOfAnAPIKeyIsWrittenLater(t *testing.T) {
	t.Parallel()
	p := keyPanel(t)
	u, _ := p.user(t, "alice@example.test", true)
	view, key := p.key(t, u, "", nil)
	stored := func() *collections.APIKey {
		row, err := collections.FindAPIKey(p, view.ID)
		if err != nil {
			t.Fatal(err)
		}
		return row
	}
	listed := func() access.KeyView {
		list, err := p.access.Keys(p, "", u.Id)
		if err != nil || len(list) != 1 {
			t.Fatalf("%v %v", list, err)
		}
		return list[0]
	}
	if v := listed(); !v.Used.IsZero() || v.UsedFrom != "" || v.Expired {
		t.Errorf("a new key: %+v", v)
	}
	before := time.Now()
	for range 20 {
		p.seen(key, "203.0.113.9:4711")
	}
	if !stored().UsedAt().IsZero() {
		t.Error("a request waited for the use to be written")
	}
	if v := listed(); v.Used.Time().Before(before.Add(-time.Second)) || v.UsedFrom != "203.0.113.9" {
		t.Errorf("the list does not know of the use: %+v", v)
	}
	if err := access.WriteUses(p.access, p); err != nil {
		t.Fatal(err)
	}
	row := stored()
	if row.UsedAt().Before(before.Add(-time.Second)) || row.UsedFrom() != "203.0.113.9" {
		t.Errorf("%v from %s", row.UsedAt(), row.UsedFrom())
	}
	// another instance knows of a later use
	later := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	if _, err := p.NonconcurrentDB().Update(collections.APIKeies, dbx.Params{"used_at": collections.Stamp(later)}, nil).Execute(); err != nil {
		t.Fatal(err)
	}
	p.seen(key, "203.0.113.10:4711")
	if err := access.WriteUses(p.access, p); err != nil {
		t.Fatal(err)
	}
	if row = stored(); !row.UsedAt().Equal(later) || row.UsedFrom() != "203.0.113.9" {
		t.Errorf("an older use was written over a newer one: %v from %s", row.UsedAt(), row.UsedFrom())
	}
	if p.seen("mk_"+strings.Repeat("a", 33), "203.0.113.9:1") != 401 || p.seen(key[:len(key)-1], "203.0.113.9:1") != 401 {
		t.Error("what is no key was taken")
	}
}

func TestT15_NoMutantOfAnAPIKeyIsAccepted(t *testing.T) {
	t.Parallel()
	p := keyPanel(t)
	u, session := p.user(t, "alice@example.test", true)
	view, key := p.key(t, u, "", nil)
	row, err := collections.FindAPIKey(p, view.ID)
	if err != nil {
		t.Fatal(err)
	}
	var tried []string
	for i := range key {
		tried = append(tried, key[:i], key[:i]+key[i+1:], key[:i]+"\t"+key[i:], key[:i]+strings.ToUpper(key[i:i+1])+key[i+1:])
		for _, c := range "a2z7" {
			tried = append(tried, key[:i]+string(c)+key[i+1:])
		}
	}
	tried = append(tried, "", "mk_", key+"a", key+key, " "+key, key+" ", "mk_"+key, strings.ToUpper(key), key[3:], "Basic "+key, "Bearer  "+key, "Bearer Bearer "+key, "Bearer "+key+",", key+".", key+"\x00",
		row.TokenHash(), "mk_"+row.TokenHash(), view.ID, "mk_"+view.ID, view.Hint, view.Hint+"%", "mk_%", "mk_' OR 1=1 --", "mk_"+strings.Repeat("a", 1<<16), session+key, key+"."+session, "null", "undefined", "{}")
	tried = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(tried))), func(s string) bool { return s == key || strings.TrimSpace(s) == key })
	for _, m := range tried {
		rec := p.call("GET", "/api/v1/who", m, "")
		if rec.Code != 401 {
			t.Errorf("%.60q: %d %s", m, rec.Code, rec.Body)
		}
	}
	if rec := p.call("GET", "/api/v1/who", key, ""); rec.Code != 200 {
		t.Errorf("the key itself: %d", rec.Code)
	}
	t.Logf("T15: %d mutants of an API key, 0 accepted", len(tried))
}

func TestHowManyAPIKeysSomebodyMayHave(t *testing.T) {
	t.Parallel()
	p := keyPanel(t)
	u, _ := p.user(t, "alice@example.test", true)
	for range access.MaxKeys {
		p.key(t, u, "", nil)
	}
	name := "one more"
	in := access.KeyInput{Name: &name, Permissions: []string{"server.read"}}
	err := collections.Tx(p, nil, func(tx core.App) error {
		_, _, err := p.access.MakeKey(tx, access.Actor{ID: u.Id}, "", in)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "key_limit") {
		t.Errorf("one key too many: %v", err)
	}
	p.key(t, u, "acmeaaaaaaaaaaa", nil) // an organisation's are counted by themselves
}
