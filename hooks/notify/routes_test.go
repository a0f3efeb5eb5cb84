package notify

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/tenancy"
)

func TestReadingIsOnesOwn(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner, member := h.person("owner"), h.person("member")
	tenant := h.tenant(owner, "Acme")
	h.join(tenant, member, tenancy.RoleMember, "")
	server := h.server(tenant, "lobby")
	for range 3 {
		h.emit(failure(tenant, server))
	}
	all, err := stored(h)
	must(t, err)
	for _, e := range all {
		must(t, h.Listen(t.Context(), e))
	}
	list := h.want(200, "GET", "/notifications?per_page=2", owner.token, "")
	items := list["items"].([]any)
	first := items[0].(map[string]any)
	if len(items) != 2 || list["total"] != 3.0 || list["unread"] != 3.0 || first["read_at"] != nil || first["kind"] != "server.failed" || first["org"] != "Acme" || first["link"] != "/o/"+tenant+"/servers/"+server {
		t.Fatalf("%v", list)
	}
	id := first["id"].(string)
	if left := h.want(200, "POST", "/notifications/read", member.token, fmt.Sprintf(`{"ids":[%q]}`, id)); left["unread"] != 3.0 {
		t.Errorf("somebody else's was marked: %v", left)
	}
	for range 2 { // again is the same
		if left := h.want(200, "POST", "/notifications/read", owner.token, fmt.Sprintf(`{"ids":[%q]}`, id)); left["unread"] != 2.0 {
			t.Errorf("%v", left)
		}
	}
	if n := len(h.want(200, "GET", "/notifications?unread=true", owner.token, "")["items"].([]any)); n != 2 {
		t.Errorf("%d are unread", n)
	}
	if left := h.want(200, "POST", "/notifications/read-all", owner.token, ""); left["unread"] != 0.0 {
		t.Errorf("%v", left)
	}
	if left := h.want(200, "GET", "/notifications", member.token, ""); left["unread"] != 3.0 {
		t.Errorf("somebody else's were marked: %v", left)
	}
	for _, path := range []string{"/notifications", "/notifications/preferences", "/notifications/channels", "/notifications/push"} {
		h.want(401, "GET", path, "", "")
	}
	for _, q := range []string{"page=0", "page=x", "per_page=101", "unread=maybe"} {
		h.want(400, "GET", "/notifications?"+q, owner.token, "")
	}
}

func TestPreferencesAreObeyed(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	h.prefer(owner, "server.failed", Email, false)
	h.prefer(owner, "server.failed", App, false)
	h.prefer(owner, "server.state", App, true)
	h.start()
	h.emit(failure(tenant, server))
	h.emit(events.Event{Kind: "server.phase_changed", Tenant: tenant, SubjectType: collections.Servers, Subject: server, Payload: map[string]any{"from": "STARTING", "to": "RUNNING"}})
	h.settled()
	rows := h.rows(dbx.HashExp{"user": owner.Id})
	if len(rows) != 1 || rows[0].Template() != "server.state" || rows[0].Subject() != "lobby is running" || len(h.mails.To(owner.Email())) != 0 {
		t.Errorf("%d notices, %d mails", len(rows), len(h.mails.To(owner.Email())))
	}
	for _, channel := range []string{App, Email} {
		if out := h.want(409, "PUT", "/notifications/preferences", owner.token, fmt.Sprintf(`{"kind":"account.new_sign_in","channel":%q,"enabled":false}`, channel)); out["code"] != "always_on" {
			t.Errorf("%s of a notice about safety was switched off: %v", channel, out)
		}
	}
	h.prefer(owner, "account.new_sign_in", Push, false)
	h.want(400, "PUT", "/notifications/preferences", owner.token, `{"kind":"node.incident","channel":"email","enabled":true}`) // operators'
	for _, one := range h.want(200, "GET", "/notifications/preferences", owner.token, "")["items"].([]any) {
		k := one.(map[string]any)
		on := k["channels"].(map[string]any)
		switch k["kind"] {
		case "server.failed":
			if on[App] != false || on[Email] != false || on[Push] != true {
				t.Errorf("%v", k)
			}
		case "account.new_sign_in":
			if on[Email] != true || on[Push] != false || fmt.Sprint(k["locked"]) != "[app email]" {
				t.Errorf("%v", k)
			}
		}
		if k["group"] == "operation" {
			t.Errorf("a customer is offered %v", k)
		}
	}
}

// What is switched off between the event and the delivery is not delivered.
func TestAPreferenceCountsAtDelivery(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	h.emit(failure(tenant, h.server(tenant, "lobby")))
	all, err := stored(h)
	must(t, err)
	must(t, h.Listen(t.Context(), all[0]))
	h.prefer(owner, "server.failed", Email, false)
	h.start()
	h.settled()
	if n := len(h.mails.To(owner.Email())); n != 0 || len(h.rows(dbx.HashExp{"channel": Email, "status": skipped})) != 1 {
		t.Errorf("%d mails", n)
	}
}

func TestWebhooksAreTheirOwners(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner, member, stranger := h.person("owner"), h.person("member"), h.person("stranger")
	tenant := h.tenant(owner, "Acme")
	h.join(tenant, member, tenancy.RoleMember, "")
	own, org := "/notifications/channels", "/tenants/"+tenant+"/channels"
	mine, _ := h.webhook(owner, own, "mine")
	ours, path := h.webhook(owner, org, "ours")
	for _, c := range []struct {
		who    person
		path   string
		status int
	}{
		{member, own + "/" + mine, 404}, {stranger, own + "/" + mine, 404}, {owner, own + "/" + ours, 404}, {owner, org + "/" + mine, 404},
		{member, org + "/" + ours, 403}, {stranger, org + "/" + ours, 404},
	} {
		h.want(c.status, "DELETE", c.path, c.who.token, "")
		h.want(c.status, "POST", c.path+"/test", c.who.token, "")
	}
	h.want(403, "GET", org, member.token, "")
	h.want(404, "GET", org, stranger.token, "")
	h.want(403, "POST", org, member.token, `{"name":"x","url":"https://discord.com/api/webhooks/12345678/aaaaaaaaaaaaaaaaaaaaaaaa"}`)
	if n := len(h.web.at(path)); n != 0 {
		t.Fatalf("%d messages by who may not", n)
	}
	h.want(200, "POST", org+"/"+ours+"/test", owner.token, "")
	if out := h.want(429, "POST", org+"/"+ours+"/test", owner.token, ""); out["code"] != "too_soon" || len(h.web.at(path)) != 1 {
		t.Errorf("a test at once again: %v, %d messages", out, len(h.web.at(path)))
	}
	body := fmt.Sprintf(`{"name":"again","url":%q}`, h.web.URL+path)
	if out := h.want(409, "POST", org, owner.token, body); out["code"] != "channel_exists" {
		t.Errorf("%v", out)
	}
	for i := 1; i < maxChannels; i++ {
		h.webhook(owner, org, "more")
	}
	if out := h.want(409, "POST", org, owner.token, `{"name":"x","url":"https://discord.com/api/webhooks/12345678/aaaaaaaaaaaaaaaaaaaaaaaa"}`); out["code"] != "channel_limit" {
		t.Errorf("%v", out)
	}
	h.want(204, "DELETE", org+"/"+ours, owner.token, "")
	h.want(404, "DELETE", org+"/"+ours, owner.token, "")
	for action, n := range map[string]int64{"notification.channel_add": maxChannels, "notification.channel_remove": 1, "notification.channel_test": 1} {
		if got, err := h.app.CountRecords(collections.AuditLogs, dbx.HashExp{"tenant": tenant, "action": action}); err != nil || got != n {
			t.Errorf("%d audit rows of %s, wanted %d", got, action, n)
		}
	}
}

func TestAWebhookIsDiscords(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner := h.person("owner")
	const path = "/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz_-0123456789"
	for _, good := range []string{"https://discord.com" + path, "https://ptb.discord.com/api/v10/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz", " https://discordapp.com" + path + "?thread_id=42&x=y#z "} {
		if u, wrong := h.webhookURL(good); wrong != "" || u.Fragment != "" || strings.Contains(u.RawQuery, "x=y") {
			t.Errorf("%q: %v %s", good, u, wrong)
		}
	}
	for _, bad := range []string{
		"", "x", "http://discord.com" + path, "https://discord.com.evil.example" + path, "https://evil.example/discord.com" + path, "https://discord.com@evil.example" + path, "https://user:pass@discord.com" + path, "https://discord.com:8443" + path,
		"https://127.0.0.1" + path, "https://[::1]" + path, "https://discord.com/api/webhooks/../../x", "https://discord.com/api/users/@me", "https://discord.com" + path + "/slack", "ftp://discord.com" + path, "https://cdn.discord.com" + path, "//discord.com" + path, "https://discord.com/api/webhooks/1/a",
		"http://127.0.0.1:1/x", "http://localhost/x", "unix:///var/run/docker.sock", strings.Replace(h.web.URL, "http://", "http://u:p@", 1) + "/x",
	} {
		if u, wrong := h.webhookURL(bad); wrong == "" {
			t.Errorf("%q was taken as %s", bad, u)
		}
		if status, raw := h.call("POST", "/notifications/channels", owner.token, fmt.Sprintf(`{"name":"x","url":%q}`, bad)); status != 400 || bad != "" && len(bad) > 5 && strings.Contains(raw, bad) {
			t.Errorf("%q: %d %s", bad, status, raw)
		}
	}
}

func TestABrowserIsOneAccounts(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner, other := h.person("owner"), h.person("other")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	id, path := h.browser(owner)
	list := h.want(200, "GET", "/notifications/push", owner.token, "")
	again := h.want(200, "GET", "/notifications/push", other.token, "")
	if len(list["items"].([]any)) != 1 || list["key"] == "" || list["key"] != again["key"] || len(again["items"].([]any)) != 0 {
		t.Fatalf("%v %v", list, again)
	}
	h.want(404, "DELETE", "/notifications/push/"+id, other.token, "")
	h.want(404, "POST", "/notifications/push/"+id+"/test", other.token, "")
	h.want(200, "POST", "/notifications/push/"+id+"/test", owner.token, "")
	h.want(429, "POST", "/notifications/push/"+id+"/test", owner.token, "")
	for _, bad := range []string{`"endpoint":"http://127.0.0.1:1/x"`, `"endpoint":"file:///etc/passwd"`, `"endpoint":""`, `"endpoint":"https://u:p@push.example/x"`, `"endpoint":"https://push.example:25/x"`} {
		h.want(400, "POST", "/notifications/push", owner.token, `{`+bad+`,"keys":{"p256dh":"BAAA","auth":"AAAAAAAAAAAAAAAAAAAAAA"}}`)
	}
	h.start()
	h.web.says(func(_ int, w http.ResponseWriter) { w.WriteHeader(410) })
	h.emit(failure(tenant, server))
	h.settled()
	if n := len(h.want(200, "GET", "/notifications/push", owner.token, "")["items"].([]any)); n != 0 || len(h.web.at(path)) != 2 {
		t.Errorf("a browser that is gone: %d left, asked %d times", n, len(h.web.at(path)))
	}
}
