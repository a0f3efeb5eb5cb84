package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/tenancy"
)

func TestAnEventReachesWhoeverMaySeeIt(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner, member, friend, guest, stranger := h.person("owner"), h.person("member"), h.person("friend"), h.account("users", "guest", false), h.person("stranger")
	tenant := h.tenant(owner, "Acme")
	mine, other := h.server(tenant, "lobby"), h.server(tenant, "arena")
	h.join(tenant, member, tenancy.RoleMember, "")
	h.join(tenant, guest, tenancy.RoleMember, "")
	h.join(tenant, friend, tenancy.RoleSupport, other)
	h.tenant(stranger, "Elsewhere")
	_, hook := h.webhook(owner, "/tenants/"+tenant+"/channels", "ops room")
	_, own := h.webhook(member, "/notifications/channels", "mine")
	h.start()
	h.emit(failure(tenant, mine))
	h.emit(events.Event{Kind: "server.delete", Tenant: tenant, SubjectType: collections.Servers, Subject: mine, Actor: owner.Id, ActorType: "user", ActorName: "owner"})
	h.settled()

	for _, c := range []struct {
		who   person
		shown int
		mails int
	}{{owner, 1, 1}, {member, 2, 1}, {guest, 2, 0}, {friend, 0, 0}, {stranger, 0, 0}} { // the owner's own deletion is not news to him; a mail only about what is serious
		list := h.want(200, "GET", "/notifications", c.who.token, "")
		if n := len(list["items"].([]any)); n != c.shown || list["unread"] != float64(c.shown) {
			t.Errorf("%s sees %d notices: %v", c.who.GetString("name"), n, list)
		}
		if n := len(h.mails.To(c.who.Email())); n != c.mails {
			t.Errorf("%s got %d mails", c.who.GetString("name"), n)
		}
	}
	if got := h.web.at(hook); len(got) != 2 || !strings.Contains(got[0].body, "lobby keeps crashing") || !strings.Contains(got[0].body, "5 times") || got[0].query != "wait=true" {
		t.Errorf("the organisation's webhook got %+v", got)
	}
	if n := len(h.web.at(own)); n != 2 {
		t.Errorf("the member's webhook got %d", n)
	}
	mail := h.mails.To(owner.Email())[0]
	for _, part := range []string{"lobby", "Acme", "https://panel.example/o/" + tenant + "/servers/" + mine, "https://panel.example/notice-settings"} {
		if !strings.Contains(mail.Text, part) || !strings.Contains(mail.HTML, part) {
			t.Errorf("%q is not in %+v", part, mail)
		}
	}
}

// Of every event each recipient gets exactly one notice per channel, however many write at once, and
// although every event is handed over twice.
func TestEachNoticeIsGivenOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner, member := h.person("owner"), h.person("member")
	tenant := h.tenant(owner, "Acme")
	h.join(tenant, member, tenancy.RoleMember, "")
	server := h.server(tenant, "lobby")
	_, hook := h.webhook(owner, "/tenants/"+tenant+"/channels", "room")
	_, browser := h.browser(member)
	h.start()
	writers, each := 8, 6
	var wait sync.WaitGroup
	for range writers {
		wait.Go(func() {
			for range each {
				h.emit(failure(tenant, server))
			}
		})
	}
	wait.Wait()
	outbox, err := stored(h)
	must(t, err)
	for _, e := range outbox { // the outbox again, after a crash before it could note what was delivered
		wait.Go(func() {
			for err := h.Listen(t.Context(), e); err != nil && t.Context().Err() == nil; { // two at once: the second is told again
				err = h.Listen(t.Context(), e)
			}
		})
	}
	wait.Wait()
	h.settled()
	all := writers * each
	for what, n := range map[string]int{
		"owner in app": len(h.rows(dbx.HashExp{"user": owner.Id, "channel": App})), "member in app": len(h.rows(dbx.HashExp{"user": member.Id, "channel": App})),
		"owner's mails": len(h.mails.To(owner.Email())), "member's mails": len(h.mails.To(member.Email())), "webhook": len(h.web.at(hook)), "browser": len(h.web.at(browser)),
		"not sent": all + len(h.rows(dbx.HashExp{"status": []any{pending, failed, skipped, held}})),
	} {
		if n != all {
			t.Errorf("%s: %d of %d", what, n, all)
		}
	}
	ids := map[string]bool{}
	for _, m := range h.mails.To("") {
		ids[m.ID] = true
	}
	if len(ids) != 2*all {
		t.Errorf("%d different mails, wanted %d", len(ids), 2*all)
	}
	t.Logf("%d events by %d writers, each handed over twice: %d notices on each of 6 ways, none twice", all, writers, all)
}

func stored(h *house) ([]events.Stored, error) {
	rows, err := collections.Every[collections.Event](h.app, collections.Events, "seq", 0, dbx.HashExp{"kind": "server.crashed"})
	var out []events.Stored
	for _, r := range rows {
		var env struct {
			Data json.RawMessage `json:"data"`
		}
		if err := r.Payload(&env); err != nil {
			return nil, err
		}
		out = append(out, events.Stored{ID: r.Id, Seq: r.Seq(), At: r.Created(), Kind: r.Kind(), Tenant: r.Tenant(), SubjectType: r.SubjectType(), Subject: r.Subject(), Payload: env.Data})
	}
	return out, err
}

// deaf is an outbox that nobody listens to.
type deaf struct{ *events.Outbox }

func (deaf) On(string, string, events.Listener) {}

// A panel that dies after a message has left and before that is stored sends it once more, under the same
// id; nothing else is sent twice.
func TestAKillBetweenSendAndNote(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	_, hook := h.webhook(owner, "/tenants/"+tenant+"/channels", "room")
	_, browser := h.browser(owner)
	var mu sync.Mutex
	killed := map[string]bool{}
	hang, hanging := make(chan struct{}), make(chan string, 3)
	h.sending = func(stage, channel string) {
		mu.Lock()
		first := stage == "after" && !killed[channel]
		if first {
			killed[channel] = true
		}
		mu.Unlock()
		if first {
			hanging <- channel
			<-hang
		}
	}
	h.start()
	h.emit(failure(tenant, server))
	for range 3 {
		<-hanging // mail, Discord and push have left
	}
	second := jobs.New(h.app, jobs.Config{Log: quiet, PollInterval: 20 * time.Millisecond})
	c := h.cfg
	c.Events, c.Jobs = deaf{h.outbox}, second
	_, err := New(c)
	must(t, err)
	second.Start(t.Context()) // takes over what the dead process held
	t.Cleanup(second.Stop)
	h.eventually("the heir has delivered all", func() bool { return len(h.rows(dbx.HashExp{"status": sent})) == 4 })
	close(hang) // the dead one wakes up: what it writes now counts no more
	h.settled()
	mails, posts, pushes := h.mails.To(owner.Email()), h.web.at(hook), h.web.at(browser)
	if len(mails) != 2 || mails[0].ID != mails[1].ID {
		t.Errorf("mails: %+v", mails)
	}
	if len(pushes) != 2 || pushes[0].header.Get("Topic") == "" || pushes[0].header.Get("Topic") != pushes[1].header.Get("Topic") {
		t.Errorf("pushes: %+v", pushes)
	}
	if len(posts) != 2 || posts[0].body != posts[1].body {
		t.Errorf("posts: %+v", posts)
	}
	if rows := h.rows(nil); len(rows) != 4 {
		t.Errorf("%d notices", len(rows))
	}
	h.emit(failure(tenant, server))
	h.settled()
	if a, b, c := len(h.mails.To(owner.Email())), len(h.web.at(hook)), len(h.web.at(browser)); a != 3 || b != 3 || c != 3 {
		t.Errorf("the next one went out %d, %d and %d times", a-2, b-2, c-2)
	}
}

func TestADeliveryIsTriedAgainWithLongerWaits(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	_, hook := h.webhook(owner, "/tenants/"+tenant+"/channels", "room")
	var answered [5]time.Time
	h.web.says(func(n int, w http.ResponseWriter) {
		answered[min(n, 4)] = time.Now()
		if n < 4 {
			w.WriteHeader(http.StatusBadGateway)
		} else {
			w.WriteHeader(http.StatusNoContent)
		}
	})
	h.start()
	h.emit(failure(tenant, server))
	h.settled()
	got := h.web.at(hook)
	if len(got) != 5 || len(h.rows(dbx.HashExp{"channel": Discord, "status": sent})) != 1 {
		t.Fatalf("%d attempts", len(got))
	}
	for i := 1; i < len(got); i++ {
		if least := h.cfg.Retry<<(i-1)/2 - time.Millisecond; got[i].at.Sub(answered[i-1]) < least { // half of a wait is chance, and columns end at milliseconds
			t.Errorf("attempt %d came after %s, not %s", i+1, got[i].at.Sub(answered[i-1]), least)
		}
	}
	h.web.says(func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) })
	h.emit(failure(tenant, server))
	id := <-h.dead
	h.settled()
	job, err := collections.FindJob(h.app, id)
	must(t, err)
	if rows := h.rows(dbx.HashExp{"channel": Discord, "status": failed}); job.Kind() != deliverJob || len(rows) != 1 || rows[0].Problem() == "" {
		t.Errorf("given up: %s, %d rows", job.Kind(), len(rows))
	}
	if strings.Contains(job.LastError(), "-token") || strings.Contains(job.GetString("history"), "-token") {
		t.Errorf("the error tells the webhook's secret: %s", job.LastError())
	}
}

func TestAnAnswerOfDiscordIsObeyed(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	id, hook := h.webhook(owner, "/tenants/"+tenant+"/channels", "room")
	h.web.says(func(n int, w http.ResponseWriter) {
		if n > 0 {
			w.WriteHeader(http.StatusOK)
			return
		}
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `{"message":"You are being rate limited.","retry_after":1.4,"global":false}`)
	})
	h.start()
	h.emit(failure(tenant, server))
	h.settled()
	got := h.web.at(hook)
	if len(got) != 2 || got[1].at.Sub(got[0].at) < 1390*time.Millisecond {
		t.Fatalf("asked to wait 1.4 s: %d attempts", len(got))
	}
	h.web.says(func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) })
	h.emit(failure(tenant, server))
	h.settled()
	h.emit(failure(tenant, server))
	h.settled()
	list := h.want(200, "GET", "/tenants/"+tenant+"/channels", owner.token, "")["items"].([]any)
	if one := list[0].(map[string]any); one["id"] != id || !strings.Contains(one["problem"].(string), "does not exist") {
		t.Errorf("a webhook that is gone: %v", one)
	}
	if n := len(h.web.at(hook)); n != 3 {
		t.Errorf("a webhook that is gone was asked %d times in all", n)
	}
	select {
	case id := <-h.dead:
		t.Errorf("a customer's dead webhook is an incident: %s", id)
	default:
	}
}

func TestWaitsAreRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"": time.Minute, "5": 5 * time.Second, "0.25": time.Second, "-1": time.Minute, "x": time.Minute, "99999999": time.Hour, "0": time.Second,
		time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat): time.Second} {
		if got := retryAfter(http.Header{"Retry-After": {text}}, time.Minute); got != want {
			t.Errorf("%q: %s, wanted %s", text, got, want)
		}
	}
	if got := discordWait(http.Header{"Retry-After": {"3"}}, []byte(`{"retry_after":2.5}`)); got != 3*time.Second {
		t.Error(got)
	}
	if got := discordWait(http.Header{}, []byte(`not json`)); got != time.Second {
		t.Error(got)
	}
}

func TestABurstBecomesOneMessage(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(c *Config) { c.Burst, c.Window = 3, time.Hour })
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	_, hook := h.webhook(owner, "/tenants/"+tenant+"/channels", "room")
	h.start()
	const all = 40
	for range all {
		h.emit(failure(tenant, server))
	}
	h.hurry(all)
	h.settled()
	for channel, where := range map[string]dbx.HashExp{"mail": {"channel": Email, "user": owner.Id}, "Discord": {"channel": Discord, "user": tenant}} {
		told, messages, gatheredRows := int64(0), 0, 0
		for _, r := range h.rows(where) {
			switch r.Status() {
			case sent:
				told += r.Count()
				messages++
			case gathered:
				gatheredRows++
			default:
				t.Errorf("%s: a notice is %s: %s", channel, r.Status(), r.Problem())
			}
		}
		if told != all || messages != 4 || gatheredRows != all-3 {
			t.Errorf("%s: %d messages tell of %d events of %d", channel, messages, told, all)
		}
		t.Logf("%s: %d events in %d messages", channel, all, messages)
	}
	mails := h.mails.To(owner.Email())
	last := mails[len(mails)-1]
	if !strings.Contains(last.Subject, "notices from Acme") || !strings.Contains(last.Text, "lobby keeps crashing") || len(mails) != len(h.rows(dbx.HashExp{"channel": Email, "status": sent})) {
		t.Errorf("%d mails, the last %+v", len(mails), last)
	}
	if n := len(h.web.at(hook)); n != len(h.rows(dbx.HashExp{"channel": Discord, "status": sent})) {
		t.Errorf("%d posts", n)
	}
	if n := len(h.rows(dbx.HashExp{"channel": App})); n != all {
		t.Errorf("%d of %d are behind the bell", n, all)
	}
	before := len(mails) // what is about safety is never held back
	for range 6 {
		h.emit(events.Event{Kind: "account.refresh_reused", SubjectType: "users", Subject: owner.Id, Payload: map[string]any{"address": "203.0.113.9"}})
	}
	h.settled()
	if n := len(h.mails.To(owner.Email())) - before; n != 6 {
		t.Errorf("%d of 6 mails about safety", n)
	}
}

func TestWhoLostTheRightGetsNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(c *Config) { c.Burst, c.Window = 2, time.Hour })
	owner, member := h.person("owner"), h.person("member")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	h.join(tenant, member, tenancy.RoleMember, "")
	_, hook := h.webhook(member, "/notifications/channels", "mine")
	for range 5 { // two to deliver, three that are held
		h.emit(failure(tenant, server))
	}
	all, err := stored(h)
	must(t, err)
	for _, e := range all {
		must(t, h.Listen(t.Context(), e))
	}
	if n := len(h.rows(dbx.HashExp{"user": member.Id, "status": pending})); n != 4 {
		t.Fatalf("%d are under way", n)
	}
	h.leave(tenant, member)
	h.start()
	h.hurry(5)
	h.settled()
	if n := len(h.mails.To(member.Email())) + len(h.web.at(hook)); n != 0 {
		t.Errorf("%d messages to somebody who is no member any more", n)
	}
	if n := len(h.rows(dbx.HashExp{"user": member.Id, "status": skipped})); n != 6 {
		t.Errorf("%d were skipped", n)
	}
	if n := len(h.mails.To(owner.Email())); n != 3 {
		t.Errorf("the owner got %d mails", n)
	}
}

// hostile are names and texts that mean something to one channel or another.
const hostile = "<img src=x onerror=alert(1)> @everyone <@&1> [x](https://evil.example) **b** `c` \x1b[31mred\x1b[0m \u202eevil {{.App}} \r\nBcc: all@example.org"

func TestNothingInANoticeIsMarkup(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	for table, id := range map[string]string{"servers": server, "tenants": tenant} {
		_, err := h.app.NonconcurrentDB().Update(table, dbx.Params{"name": hostile}, dbx.HashExp{"id": id}).Execute()
		must(t, err)
	}
	_, hook := h.webhook(owner, "/tenants/"+tenant+"/channels", "room")
	_, browser := h.browser(owner)
	h.start()
	h.emit(failure(tenant, server))
	h.settled()
	mail := h.mails.To(owner.Email())[0]
	if strings.Contains(mail.HTML, "<img") || !strings.Contains(mail.HTML, "&lt;img") || strings.ContainsAny(mail.HTML+mail.Text+mail.Subject, "\x1b\u202e") || strings.Contains(mail.Subject, "\n") || strings.Contains(mail.Text, "\nBcc") {
		t.Errorf("mail: %q %q %q", mail.Subject, mail.Text, mail.HTML)
	}
	if len(mail.To) != 1 || strings.Contains(mail.Text, "Mamba Host \\r") {
		t.Errorf("mail goes to %v", mail.To)
	}
	var post struct {
		Content string `json:"content"`
		Embeds  []struct{ Title, Description string }
		Allowed struct{ Parse []string } `json:"allowed_mentions"`
	}
	got := h.web.at(hook)[0]
	must(t, json.Unmarshal([]byte(got.body), &post))
	text := post.Embeds[0].Title + post.Embeds[0].Description
	for _, bad := range []string{"@everyone", "<@&", "](", "**b", "\x1b", "\u202e", "\n", " <img"} {
		if strings.Contains(text, bad) {
			t.Errorf("Discord: %q in %q", bad, text)
		}
	}
	if post.Allowed.Parse == nil || len(post.Allowed.Parse) != 0 || post.Content != "" || !strings.Contains(got.body, `"allowed_mentions":{"parse":[]}`) {
		t.Errorf("Discord may mention: %s", got.body)
	}
	push := h.web.at(browser)[0]
	if strings.Contains(push.body, "evil") || push.header.Get("Content-Encoding") != "aes128gcm" || !strings.HasPrefix(push.header.Get("Authorization"), "vapid t=") || push.header.Get("TTL") == "" || push.header.Get("Urgency") != "high" {
		t.Errorf("push: %v", push.header)
	}
	row := h.rows(dbx.HashExp{"channel": App})[0]
	if strings.ContainsAny(row.Subject()+row.Body(), "\x1b\u202e\n\r") || !strings.Contains(row.Body(), "{{.App}}") {
		t.Errorf("in the app: %q", row.Body())
	}
}

// What a payload holds beside what a template names reaches nobody.
func TestNoSecretIsInANotice(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner, guest := h.person("owner"), h.person("guest")
	tenant := h.tenant(owner, "Acme")
	h.join(tenant, guest, tenancy.RoleMember, "")
	_, hook := h.webhook(owner, "/tenants/"+tenant+"/channels", "room")
	h.start()
	seen := map[string]bool{}
	for _, k := range kinds {
		if seen[k.Event] || k.Event == "incident.opened" { // its title and detail are for operators, and are shown
			continue
		}
		seen[k.Event] = true
		payload := map[string]any{"token": "SECRET", "link": "https://panel.example/invite#token=SECRET", "session": "SECRET", "invite": "SECRET", "password": "SECRET", "to": "RUNNING", "given_up": true, "last_lines": []string{"SECRET"}, "code": "SECRET"}
		e := events.Event{Kind: k.Event, Tenant: tenant, SubjectType: "users", Subject: owner.Id, Actor: guest.Id, ActorName: "guest", Payload: payload}
		if strings.HasPrefix(k.Event, "account.") {
			e.Tenant = ""
		}
		h.emit(e)
	}
	h.settled()
	rows := h.rows(nil)
	if len(rows) < 20 {
		t.Fatalf("only %d notices", len(rows))
	}
	for _, r := range rows {
		if strings.Contains(r.Subject()+r.Body()+r.GetString("metadata"), "SECRET") {
			t.Errorf("%s: %s %s", r.Template(), r.Subject(), r.Body())
		}
		if strings.Contains(r.Body(), "no value") {
			t.Errorf("%s: %s", r.Template(), r.Body())
		}
	}
	for _, m := range h.mails.To("") {
		if strings.Contains(m.Text+m.HTML+m.Subject, "SECRET") {
			t.Errorf("%+v", m)
		}
	}
	for _, p := range h.web.at(hook) {
		if strings.Contains(p.body, "SECRET") {
			t.Error(p.body)
		}
	}
}

func TestOperatorsAreToldOfIncidents(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	root, customer := h.account(core.CollectionNameSuperusers, "root", true), h.person("customer")
	h.start()
	for severity, title := range map[string]string{critical: "Node one is silent", warning: "A clock is wrong"} {
		h.emit(events.Event{Kind: "incident.opened", SubjectType: collections.Incidents, Subject: "aaaaaaaaaaaaaaa", Payload: map[string]any{"severity": severity, "title": title, "detail": "Look."}})
	}
	h.settled()
	list := h.want(200, "GET", "/notifications", root.token, "")
	mails := h.mails.To(root.Email())
	if len(list["items"].([]any)) != 2 || len(mails) != 1 || !strings.Contains(mails[0].Subject, "silent") {
		t.Errorf("%v, %d mails", list, len(mails))
	}
	if n := len(h.want(200, "GET", "/notifications", customer.token, "")["items"].([]any)); n != 0 {
		t.Errorf("a customer was told of %d incidents", n)
	}
}

func TestEveryKindIsWhole(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	seen := map[string]bool{}
	for _, k := range kinds {
		if seen[k.Name] || k.Title == "" || k.Group == "" || len(k.Name) > 40 {
			t.Errorf("%s: twice, or not whole", k.Name)
		}
		seen[k.Name] = true
		subject, body, link, err := k.write(facts{App: "A", Server: "s", Tenant: "t", Actor: "a", P: map[string]any{"to": "RUNNING", "title": "x"}})
		if err != nil || subject == "" || body == "" || !strings.HasPrefix(link, "/") {
			t.Errorf("%s: %q %q %q %v", k.Name, subject, body, link, err)
		}
		if k.Permission != "" {
			resource, action, _ := strings.Cut(k.Permission, ".")
			if n, err := h.app.CountRecords("permissions", dbx.HashExp{"resource": resource, "action": action}); err != nil || n != 1 {
				t.Errorf("%s asks for %q, which is no permission", k.Name, k.Permission)
			}
		}
		forAll := k.Name == "tenant.deleting" || k.Name == "tenant.kept" // also for who was let in for one server
		if k.To == members && (k.Permission == "") != forAll {
			t.Errorf("%s would tell every member", k.Name)
		}
	}
	for _, event := range []string{"account.new_sign_in", "account.refresh_reused", "account.password_changed", "account.email_changed", "account.key_made", "tenant.key_made", access.EventFactorEnabled, access.EventFactorDisabled, access.EventTOTPEnabled,
		access.EventTOTPDisabled, access.EventPasskeyAdded, access.EventPasskeyRemoved, access.EventPasskeyCloned, access.EventBackupCodeUsed, access.EventBackupCodesMade} {
		if k := kindOf(event); k == nil || k.Event != event {
			t.Errorf("nobody is told of %s", event)
		}
	}
}

// A role for one server is no role in the organisation, and his all the same.
func TestAChangeOfAFriendsRoleIsTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner, friend := h.person("owner"), h.person("friend")
	tenant := h.tenant(owner, "Acme")
	h.join(tenant, friend, tenancy.RoleSupport, h.server(tenant, "lobby"))
	h.start()
	h.emit(events.Event{Kind: "member.updated", Tenant: tenant, SubjectType: "users", Subject: friend.Id, Actor: owner.Id, ActorType: "user", ActorName: "owner"})
	h.settled()
	if n := len(h.mails.To(friend.Email())); n != 1 {
		t.Errorf("he got %d mails", n)
	}
}

func TestAnOldOutboxIsNoNews(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	h.emit(failure(tenant, h.server(tenant, "lobby")))
	all, err := stored(h)
	must(t, err)
	all[0].At = time.Now().Add(-maxAge - time.Minute)
	must(t, h.Listen(t.Context(), all[0]))
	if n := len(h.rows(nil)); n != 0 {
		t.Errorf("%d notices of an old event", n)
	}
}

func TestPruneKeepsWhatIsNew(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner, gone := h.person("owner"), h.person("gone")
	tenant := h.tenant(owner, "Acme")
	h.webhook(gone, "/notifications/channels", "mine")
	h.browser(gone)
	h.prefer(gone, "server.state", App, true)
	h.webhook(owner, "/notifications/channels", "mine")
	h.webhook(owner, "/tenants/"+tenant+"/channels", "ours")
	h.emit(failure(tenant, h.server(tenant, "lobby")))
	all, err := stored(h)
	must(t, err)
	must(t, h.Listen(t.Context(), all[0]))
	must(t, h.app.Delete(gone.Record))
	must(t, h.Prune(h.app, time.Now()))
	count := func(table string) int64 {
		n, err := h.app.CountRecords(table)
		must(t, err)
		return n
	}
	if a, b, c, d := count(collections.NotificationChannels), count(collections.PushSubscriptions), count(collections.NotificationPrefs), count(collections.Notifications); a != 2 || b != 0 || c != 0 || d == 0 {
		t.Errorf("left: %d webhooks, %d browsers, %d preferences, %d notices", a, b, c, d)
	}
	must(t, h.Prune(h.app, time.Now().Add(keep+time.Hour)))
	if n := count(collections.Notifications); n != 0 {
		t.Errorf("%d old notices", n)
	}
}

func TestAWebhooksURLIsNowhere(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	_, path := h.webhook(owner, "/tenants/"+tenant+"/channels", "room")
	_, own := h.webhook(owner, "/notifications/channels", "mine")
	_, browser := h.browser(owner)
	for name, raw := range collectionstest.Stored(t, h.app) {
		for _, secret := range []string{path, own, browser} {
			if bytes.Contains(raw, []byte(secret)) {
				t.Errorf("%s holds %s", name, secret)
			}
		}
	}
	for _, where := range []string{"/notifications/channels", "/tenants/" + tenant + "/channels", "/notifications/push"} {
		if _, raw := h.call("GET", where, owner.token, ""); strings.Contains(raw, h.web.URL) || strings.Contains(raw, "-token") {
			t.Error(raw)
		}
	}
}

// Addresses of customers that take a message and never answer keep no worker from what others wait for.
func TestSlowReceiversLeaveWorkersToOthers(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	done := make(chan struct{})
	h.queue.Handle("Other", jobs.Options{}, func(context.Context, *jobs.Run) error { close(done); return nil }, nil)
	owner := h.person("owner")
	tenant := h.tenant(owner, "Acme")
	server := h.server(tenant, "lobby")
	for range maxSubscriptions {
		h.browser(owner)
	}
	hold, came := make(chan struct{}), make(chan struct{}, maxSubscriptions)
	h.web.says(func(_ int, w http.ResponseWriter) { came <- struct{}{}; <-hold; w.WriteHeader(http.StatusCreated) })
	h.start()
	t.Cleanup(func() { close(hold) })
	h.emit(failure(tenant, server))
	for range 3 {
		<-came
	}
	_, err := h.queue.Enqueue(h.app, jobs.Job{Kind: "Other"})
	must(t, err)
	select {
	case <-done:
	case <-time.After(10 * time.Second): // a delivery is given up after 15 s
		t.Error("every worker waits for a receiver")
	}
}
