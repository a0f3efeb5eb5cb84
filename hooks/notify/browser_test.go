package notify

import (
	"net/http"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/events"
)

// session has a browser belong to a session of its account, as a sign-in would have begun it.
func (h *house) session(p person, browser string) (id string) {
	h.t.Helper()
	id = core.GenerateDefaultRandomId()
	now := time.Now()
	_, err := h.app.NonconcurrentDB().Insert(collections.Sessions, dbx.Params{"id": id, "user": p.Id, "turn": 1, "turned_at": collections.Stamp(now), "token_hash": "x",
		"expires_at": collections.Stamp(now.Add(time.Hour)), "created": collections.Stamp(now), "updated": collections.Stamp(now)}).Execute()
	must(h.t, err)
	_, err = h.app.NonconcurrentDB().Update(collections.PushSubscriptions, dbx.Params{"session": id}, dbx.HashExp{"id": browser}).Execute()
	must(h.t, err)
	return id
}

func (h *house) setSession(id, column string, at time.Time) {
	h.t.Helper()
	_, err := h.app.NonconcurrentDB().Update(collections.Sessions, dbx.Params{column: collections.Stamp(at)}, dbx.HashExp{"id": id}).Execute()
	must(h.t, err)
}

func TestNothingGoesToABrowserWhoseSessionHasEnded(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner, other := h.person("owner"), h.person("other")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	here, hereAt := h.browser(owner)
	revoked, revokedAt := h.browser(owner)
	expired, expiredAt := h.browser(owner)
	foreign, foreignAt := h.browser(owner)
	h.session(owner, here)
	ends := h.session(owner, revoked)
	h.setSession(h.session(owner, expired), "expires_at", time.Now().Add(-time.Minute))
	h.session(other, foreign) // no account's browser belongs to another's session
	h.emit(failure(tenant, server))
	all, err := stored(h)
	must(t, err)
	must(t, h.Listen(t.Context(), all[0]))
	if n := len(h.rows(dbx.HashExp{"channel": Push})); n != 2 {
		t.Fatalf("%d browsers are told, wanted the two whose sessions go on", n)
	}
	h.setSession(ends, "revoked_at", time.Now()) // between the event and its delivery
	if items := h.want(200, "GET", "/notifications/push", owner.token, "")["items"].([]any); len(items) != 1 || items[0].(map[string]any)["id"] != here {
		t.Errorf("browsers that are shown: %v", items)
	}
	h.want(404, "DELETE", "/notifications/push/"+revoked, owner.token, "")
	h.want(404, "POST", "/notifications/push/"+revoked+"/test", owner.token, "")
	h.start()
	h.settled()
	for name, path := range map[string]string{"revoked": revokedAt, "expired": expiredAt, "of another account": foreignAt} {
		if n := len(h.web.at(path)); n != 0 {
			t.Errorf("%d messages to a browser whose session is %s", n, name)
		}
	}
	if n := len(h.web.at(hereAt)); n != 1 {
		t.Errorf("%d messages to the browser whose session goes on", n)
	}
	must(t, collections.Tx(h.app, nil, func(tx core.App) error { return h.SessionsEnded(tx, owner.Id) }))
	if n, err := h.app.CountRecords(collections.PushSubscriptions, dbx.HashExp{"user": owner.Id}); err != nil || n != 1 {
		t.Errorf("%d browsers are kept: %v", n, err)
	}
	h.setSession(sessionOfBrowser(h, here), "expires_at", time.Now().Add(-time.Minute))
	must(t, h.Prune(h.app, time.Now()))
	if n, err := h.app.CountRecords(collections.PushSubscriptions); err != nil || n != 0 {
		t.Errorf("%d browsers of sessions that are over are kept: %v", n, err)
	}
}

func sessionOfBrowser(h *house, browser string) string {
	h.t.Helper()
	row, err := collections.FindPushSubscription(h.app, browser)
	must(h.t, err)
	return row.Session()
}

// Browsers of sessions that are over leave their places to others, and a test is not held up by a message.
func TestPlacesAndTestsOfBrowsers(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	first, _ := h.browser(owner)
	for range maxSubscriptions - 1 {
		h.browser(owner)
	}
	if status, raw := h.call("POST", "/notifications/push", owner.token, anotherBrowser(h)); status != 409 {
		t.Fatalf("one more than may be: %d %s", status, raw)
	}
	h.setSession(h.session(owner, first), "revoked_at", time.Now())
	last, path := h.browser(owner)
	h.start()
	h.emit(failure(tenant, server))
	h.settled()
	h.want(200, "POST", "/notifications/push/"+last+"/test", owner.token, "") // a message has just gone there
	if out := h.want(429, "POST", "/notifications/push/"+last+"/test", owner.token, ""); out["code"] != "too_soon" || len(h.web.at(path)) != 2 {
		t.Errorf("a test at once again: %v, %d messages", out, len(h.web.at(path)))
	}
	h.web.says(func(_ int, w http.ResponseWriter) { w.WriteHeader(500) })
	row, err := collections.FindPushSubscription(h.app, last)
	must(t, err)
	row.SetTestedAt(time.Now().Add(-time.Minute))
	must(t, permit.Save(h.app, row))
	h.want(409, "POST", "/notifications/push/"+last+"/test", owner.token, "")
	h.want(429, "POST", "/notifications/push/"+last+"/test", owner.token, "") // one that failed counts, too
	if n, err := h.app.CountRecords(collections.AuditLogs, dbx.HashExp{"action": "notification.push_test"}); err != nil || n != 2 {
		t.Errorf("%d audit rows of tests: %v", n, err)
	}
}

// The organisation's webhooks differ in what they are sent; what nobody has switched is as the kind says.
func TestAWebhookGetsWhatWasChosenForIt(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner, member, stranger, editor := h.person("owner"), h.person("member"), h.person("stranger"), h.person("editor")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	h.join(tenant, member, "MEMBER", "")
	role := h.want(201, "POST", "/tenants/"+tenant+"/roles", owner.token, `{"name":"Editor","permissions":["tenant.read","tenant.update"]}`)["id"].(string)
	h.join(tenant, editor, role, "")
	base := "/tenants/" + tenant + "/channels"
	quiet, quietAt := h.webhook(owner, base, "quiet")
	loud, loudAt := h.webhook(owner, base, "loud")
	mine, _ := h.webhook(owner, "/notifications/channels", "mine")
	out := h.want(200, "PATCH", base+"/"+quiet, owner.token, `{"kinds":{"server.failed":false}}`)
	if on := out["kinds"].(map[string]any); on["server.failed"] != false || on["server.crashed"] != true || on["server.state"] != false || on["account.new_sign_in"] != nil {
		t.Errorf("%v", on)
	}
	h.want(200, "PATCH", base+"/"+loud, owner.token, `{"kinds":{"server.state":true,"server.crashed":true}}`)
	running := events.Event{Kind: "server.phase_changed", Tenant: tenant, SubjectType: collections.Servers, Subject: server, Payload: map[string]any{"from": "STARTING", "to": "RUNNING"}}
	h.emit(failure(tenant, server))
	h.emit(crash(tenant, server))
	h.emit(running)
	h.start()
	h.settled()
	if a, b := len(h.web.at(quietAt)), len(h.web.at(loudAt)); a != 1 || b != 3 {
		t.Errorf("%d messages at the quiet one and %d at the loud one, wanted 1 and 3", a, b)
	}
	for _, c := range []struct {
		who    person
		path   string
		body   string
		status int
		code   string
	}{
		{owner, base + "/" + quiet, `{"kinds":{"nope":true}}`, 400, "invalid_input"}, {owner, base + "/" + quiet, `{"kinds":{"account.new_sign_in":true}}`, 400, "invalid_input"},
		{owner, base + "/" + quiet, `{"kinds":{"node.incident":true}}`, 400, "invalid_input"}, {owner, base + "/" + quiet, `{"kinds":{"member.role_changed":true}}`, 400, "invalid_input"},
		{owner, base + "/" + quiet, `{"kinds":{}}`, 400, "invalid_input"}, {owner, base + "/" + quiet, `{"kinds":{"server.crashed":false,"nope":true}}`, 400, "invalid_input"},
		{owner, base + "/" + mine, `{"kinds":{"server.crashed":false}}`, 404, "channel_not_found"},
		{member, base + "/" + quiet, `{"kinds":{"server.crashed":false}}`, 403, ""}, {stranger, base + "/" + quiet, `{"kinds":{"server.crashed":false}}`, 404, ""},
		{editor, base + "/" + quiet, `{"kinds":{"tenant.key_made":true}}`, 403, ""}, // he may not read of it himself
	} {
		if out := h.want(c.status, "PATCH", c.path, c.who.token, c.body); c.code != "" && out["code"] != c.code {
			t.Errorf("%s: %v", c.body, out)
		}
	}
	list := h.want(200, "GET", base, owner.token, "")
	if on := list["items"].([]any)[0].(map[string]any)["kinds"].(map[string]any); on["server.crashed"] != true || on["tenant.key_made"] != false {
		t.Errorf("a refused change was made: %v", on)
	}
	if n := len(list["kinds"].([]any)); n != len(postedKinds()) || n < 8 {
		t.Errorf("%d kinds are offered", n)
	}
	if h.want(200, "GET", "/notifications/channels", owner.token, "")["kinds"] != nil {
		t.Error("a person's own webhooks have his switches")
	}
	h.want(200, "PATCH", base+"/"+quiet, editor.token, `{"kinds":{"server.crashed":false}}`) // to switch off needs no more
	if n, err := h.app.CountRecords(collections.AuditLogs, dbx.HashExp{"tenant": tenant, "action": "notification.channel_kinds"}); err != nil || n != 3 {
		t.Errorf("%d audit rows: %v", n, err)
	}
}

// A webhook that somebody adds tells him nothing that he may not hear of; who may switches that on.
func TestANewWebhookTellsItsMakerNothingNew(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner, editor := h.person("owner"), h.person("editor")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	role := h.want(201, "POST", "/tenants/"+tenant+"/roles", owner.token, `{"name":"Editor","permissions":["tenant.read","tenant.update"]}`)["id"].(string)
	h.join(tenant, editor, role, "")
	base := "/tenants/" + tenant + "/channels"
	id, at := h.webhook(editor, base, "his")
	h.start()
	h.emit(failure(tenant, server))
	h.settled()
	if got := h.web.at(at); len(got) != 0 {
		t.Errorf("he is told of a server: %+v", got)
	}
	on := h.want(200, "GET", base, editor.token, "")["items"].([]any)[0].(map[string]any)["kinds"].(map[string]any)
	for name, said := range on {
		if k := kindOf(name); said == true && k.Permission != "" && k.Permission != "tenant.read" && k.Permission != "tenant.update" {
			t.Errorf("%s is on, which asks for %s", name, k.Permission)
		}
	}
	if on["tenant.deleting"] != true {
		t.Error("what every member hears is off")
	}
	h.want(200, "PATCH", base+"/"+id, editor.token, `{"kinds":{"tenant.deleting":false}}`)
	h.want(200, "PATCH", base+"/"+id, editor.token, `{"kinds":{"tenant.deleting":true}}`)
	h.want(200, "PATCH", base+"/"+id, owner.token, `{"kinds":{"server.failed":true}}`)
	h.emit(failure(tenant, server))
	h.settled()
	if n := len(h.web.at(at)); n != 1 {
		t.Errorf("%d messages once the owner has switched it on", n)
	}
}

// What is switched off for a webhook between the event and the delivery is not delivered.
func TestAWebhooksChoiceCountsAtDelivery(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	id, path := h.webhook(owner, "/tenants/"+tenant+"/channels", "room")
	h.emit(failure(tenant, h.server(tenant, "lobby")))
	all, err := stored(h)
	must(t, err)
	must(t, h.Listen(t.Context(), all[0]))
	h.want(200, "PATCH", "/tenants/"+tenant+"/channels/"+id, owner.token, `{"kinds":{"server.failed":false}}`)
	h.start()
	h.settled()
	if n := len(h.web.at(path)); n != 0 || len(h.rows(dbx.HashExp{"channel": Discord, "status": skipped})) != 1 {
		t.Errorf("%d messages", n)
	}
}

// Who has muted a server hears nothing of it, on no channel; of others, and others, as before.
func TestAMutedServerIsSilent(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(c *Config) { c.Burst, c.Window = 1, time.Hour })
	owner, member, stranger := h.person("owner"), h.person("member"), h.person("stranger")
	tenant := h.tenant(owner, "Acme")
	h.join(tenant, member, "MEMBER", "")
	lobby, arena := h.server(tenant, "lobby"), h.server(tenant, "arena")
	_, hook := h.webhook(owner, "/tenants/"+tenant+"/channels", "room")
	for range 2 { // again is the same
		h.want(204, "PUT", "/notifications/mutes/"+lobby, owner.token, "")
	}
	if list := h.want(200, "GET", "/notifications/mutes", owner.token, "")["items"].([]any); len(list) != 1 || list[0].(map[string]any)["server"] != lobby {
		t.Errorf("%v", list)
	}
	h.want(404, "PUT", "/notifications/mutes/"+lobby, stranger.token, "")
	h.want(404, "PUT", "/notifications/mutes/nosuchserver000", owner.token, "")
	h.want(404, "PUT", "/notifications/mutes/x'", owner.token, "")
	if n := len(h.want(200, "GET", "/notifications/mutes", member.token, "")["items"].([]any)); n != 0 {
		t.Errorf("a member sees %d mutes of another", n)
	}
	for _, server := range []string{lobby, arena, arena, arena} { // the last two are held, for a burst
		h.emit(failure(tenant, server))
	}
	all, err := stored(h)
	must(t, err)
	for _, e := range all {
		must(t, h.Listen(t.Context(), e))
	}
	if a, b := len(h.rows(dbx.HashExp{"user": owner.Id, "channel": App})), len(h.rows(dbx.HashExp{"user": member.Id, "channel": App})); a != 3 || b != 4 {
		t.Errorf("%d notices for who muted one server of two, %d for who did not; wanted 3 and 4", a, b)
	}
	h.want(204, "PUT", "/notifications/mutes/"+arena, owner.token, "") // before anything of it has left
	h.start()
	h.hurry(7)
	h.settled()
	if n := len(h.mails.To(owner.Email())); n != 0 || len(h.rows(dbx.HashExp{"user": owner.Id, "channel": Email, "status": skipped})) != 2 {
		t.Errorf("%d mails about muted servers", n)
	}
	if a, b := len(h.mails.To(member.Email())), len(h.web.at(hook)); a != 2 || b != 2 { // one, and one of the burst
		t.Errorf("%d mails to who muted nothing, %d messages to the organisation's webhook", a, b)
	}
	for range 2 {
		h.want(204, "DELETE", "/notifications/mutes/"+lobby, owner.token, "")
	}
	h.want(204, "DELETE", "/notifications/mutes/"+arena, stranger.token, "") // none of his
	h.emit(failure(tenant, lobby))                                           // by mail it waits for the end of the burst
	h.eventually("what was muted is told again", func() bool { return len(h.rows(dbx.HashExp{"user": owner.Id, "channel": App})) == 4 })
	if n, err := h.app.CountRecords(collections.AuditLogs, dbx.HashExp{"action": "notification.mute"}); err != nil || n != 3 {
		t.Errorf("%d audit rows of mutes: %v", n, err)
	}
	_, err = h.app.NonconcurrentDB().Delete(collections.Servers, dbx.HashExp{"id": arena}).Execute()
	must(t, err)
	must(t, h.Prune(h.app, time.Now()))
	if n, err := h.app.CountRecords(collections.NotificationMutes); err != nil || n != 0 {
		t.Errorf("%d mutes of servers that are gone: %v", n, err)
	}
}
