package hooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http/httptest"
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
)

// A person who deletes his account leaves nothing but what was written about his acts.
func TestAnAccountIsDeletedByItsPerson(t *testing.T) {
	t.Parallel()
	s := settle(t)
	s.person("leaver@example.org")
	token := s.signIn("leaver@example.org")
	user, err := s.app.FindAuthRecordByEmail("users", "leaver@example.org")
	must(t, err)
	boss := s.as("owner@demo.example").super
	tenant, server := s.ids["/tenants/"], s.ids["/servers/"]
	did := func(token, method, path, body string, want int) string {
		t.Helper()
		status, _, raw := s.ask(token, tenant, method, "/api/v1"+path, plain, body)
		if status != want {
			t.Fatalf("%s %s: %d %s", method, path, status, raw)
		}
		return raw
	}
	own := decode[struct{ ID string }](t, did(token, "POST", "/tenants", `{"name":"His own"}`, 201)).ID
	// A member of another's, with a role for one server more, a key there and one of his own.
	invite := decode[struct{ ID string }](t, did(boss, "POST", "/tenants/"+tenant+"/members/invite", `{"email":"leaver@example.org","role":"ADMIN"}`, 201)).ID
	did(token, "POST", "/invites/"+invite+"/accept", `{"token":"`+s.inviteToken(invite)+`"}`, 200)
	did(boss, "PUT", "/servers/"+server+"/access/"+user.Id, `{"role":"SUPPORT"}`, 200)
	did(token, "POST", "/tenants/"+tenant+"/keys", `{"name":"there","permissions":["server.read"]}`, 201)
	secret := decode[struct{ Secret string }](t, did(token, "POST", "/account/keys", `{"name":"his","permissions":["server.read"]}`, 201)).Secret
	did(token, "PUT", "/notifications/preferences", `{"kind":"server.crashed","channel":"email","enabled":true}`, 200)
	must(t, s.Events.Emit(s.app, events.Event{Kind: "account.password_changed", SubjectType: "users", Subject: user.Id, Payload: map[string]any{}}))
	collectionstest.Eventually(t, "he has a notice", func() bool { return s.count(collections.Notifications, dbx.HashExp{"user": user.Id}) > 0 })

	bare := s.as("leaver@example.org").super
	if status, out, raw := s.ask(bare, "", "DELETE", "/api/v1/account", plain, ""); status != 403 || out.Code != "proof_required" {
		t.Errorf("without a proof: %d %s", status, raw)
	}
	if status, out, raw := s.ask(token, "", "DELETE", "/api/v1/account", plain, ""); status != 409 || out.Code != "owns_tenants" || !strings.Contains(raw, "His own") {
		t.Errorf("as an owner: %d %s", status, raw)
	}
	if status, raw := s.do("DELETE", "/api/collections/users/records/"+user.Id, ""); status != 409 || !strings.Contains(raw, "His own") {
		t.Errorf("as an owner, by an operator: %d %s", status, raw)
	}
	if status, out, raw := s.ask(secret, "", "DELETE", "/api/v1/account", plain, ""); status != 403 || out.Code != "key_not_here" {
		t.Errorf("by a key: %d %s", status, raw)
	}
	if n := s.count(collections.TenantMembers, dbx.HashExp{"user": user.Id}); n != 2 {
		t.Fatalf("a refusal left %d of 2 memberships", n)
	}
	did(token, "POST", "/tenants/"+own+"/delete", `{"name":"His own"}`, 200)
	if status, _, raw := s.ask(token, "", "DELETE", "/api/v1/account", plain, ""); status != 409 {
		t.Errorf("while his organisation can be kept: %d %s", status, raw)
	}
	_, err = s.app.NonconcurrentDB().Update(collections.Tenants, dbx.Params{"delete_at": collections.Stamp(time.Now().Add(-time.Hour))}, dbx.HashExp{"id": own}).Execute()
	must(t, err)
	must(t, s.Compliance.Due(s.app, time.Now()))
	collectionstest.Eventually(t, "his organisation is gone", func() bool { return s.status(own) == "DELETED" })

	if status, _, raw := s.ask(token, "", "DELETE", "/api/v1/account", plain, ""); status != 204 {
		t.Fatalf("%d %s", status, raw)
	}
	if status, _, _ := s.ask(token, "", "GET", "/api/v1/account", plain, ""); status != 401 {
		t.Errorf("his session goes on: %d", status)
	}
	if status, _, _ := s.ask(secret, tenant, "GET", "/api/v1/servers", plain, ""); status != 401 {
		t.Errorf("his key goes on: %d", status)
	}
	for id, text := range everyRow(t, s.app) {
		table, _, _ := strings.Cut(id, "/")
		history := table == collections.AuditLogs || table == collections.Events || table == collections.Jobs
		if strings.Contains(text, "leaver@example.org") && !history && table != collections.Notifications { // what others were told is theirs
			t.Errorf("%s holds his address:\n%s", id, text)
		}
		if strings.Contains(text, user.Id) && !history && table != collections.APIKeies {
			t.Errorf("%s holds his id:\n%s", id, text)
		}
	}
	row, err := collections.One[collections.AuditLog](s.app, collections.AuditLogs, dbx.HashExp{"tenant": "", "action": "user.delete", "resource": user.Id})
	if err != nil || row.Actor() != user.Id || strings.Contains(row.ActorName(), "@") {
		t.Errorf("%v: written by %q %q", err, row.Actor(), row.ActorName())
	}
	if n := s.count(collections.APIKeies, dbx.HashExp{"user": user.Id, "tenant": tenant, "revoked_why": access.KeyLeft}); n != 1 {
		t.Errorf("%d of his keys there are revoked", n)
	}
	if n := s.count(collections.AuditLogs, dbx.HashExp{"tenant": tenant, "action": "member.leave", "resource": user.Id}); n != 1 {
		t.Errorf("that he left is written %d times", n)
	}
}

// inviteToken is what the mail of an invite holds.
func (s *settled) inviteToken(id string) string {
	mac := hmac.New(sha256.New, s.Secrets.Derive(purposeInvite))
	mac.Write([]byte("mamba-host invite v1\x00" + id))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// An operator deletes the account of somebody who is a member somewhere.
func TestAnOperatorDeletesTheAccountOfAMember(t *testing.T) {
	t.Parallel()
	s := settle(t)
	user, err := s.app.FindAuthRecordByEmail("users", "member@demo.example")
	must(t, err)
	if status, raw := s.do("DELETE", "/api/collections/users/records/"+user.Id, ""); status != 204 {
		t.Fatalf("%d %s", status, raw)
	}
	if n := s.count(collections.TenantMembers, dbx.HashExp{"user": user.Id}); n != 0 {
		t.Errorf("%d memberships are left", n)
	}
	for _, action := range []string{"member.leave", "user.delete"} {
		if n := s.count(collections.AuditLogs, dbx.HashExp{"action": action, "resource": user.Id, "actor_type": "superuser"}); n != 1 {
			t.Errorf("%s is written %d times", action, n)
		}
	}
	other, err := s.app.FindAuthRecordByEmail("users", "owner@demo.example")
	must(t, err)
	if status, _, raw := s.ask(s.as("owner@demo.example").super, "", "DELETE", "/api/collections/users/records/"+other.Id, plain, ""); status != 403 && status != 404 {
		t.Errorf("a customer at PocketBase's door: %d %s", status, raw)
	}
}

// Whoever deletes his account while he does other things at the same moment either keeps it, with all that he did, or
// leaves nothing: no membership, session, key or setting of somebody who is not there.
func TestAnAccountIsDeletedBesideEverythingElse(t *testing.T) {
	t.Parallel()
	s := settle(t)
	const rounds = 12
	boss, tenant := s.as("owner@demo.example").super, s.ids["/tenants/"]
	did := func(token, method, path, body string, want int) string {
		t.Helper()
		status, _, raw := s.ask(token, "", method, "/api/v1"+path, plain, body)
		if status != want {
			t.Fatalf("%s %s: %d %s", method, path, status, raw)
		}
		return raw
	}
	ids, gone, kept, answers := map[string]bool{}, 0, 0, map[string]map[string]int{}
	for i := range rounds {
		email := fmt.Sprintf("racer%d@example.org", i)
		s.person(email)
		token := s.signIn(email)
		user, err := s.app.FindAuthRecordByEmail("users", email)
		must(t, err)
		ids[user.Id] = true
		invite := decode[struct{ ID string }](t, did(boss, "POST", "/tenants/"+tenant+"/members/invite", `{"email":"`+email+`","role":"ADMIN"}`, 201)).ID
		accept := `{"token":"` + s.inviteToken(invite) + `"}`
		if i%2 == 0 { // a member who gets a role for a server, or another role, meanwhile
			did(token, "POST", "/invites/"+invite+"/accept", accept, 200)
		}
		things := [][4]string{
			{token, "DELETE", "/account", ""},
			{token, "POST", "/invites/" + invite + "/accept", accept},
			{token, "POST", "/account/keys", `{"name":"his","permissions":["server.read"]}`},
			{token, "POST", "/tenants/" + tenant + "/keys", `{"name":"there","permissions":["server.read"]}`},
			{token, "PUT", "/notifications/preferences", `{"kind":"server.crashed","channel":"email","enabled":true}`},
			{token, "PUT", "/notifications/mutes/" + s.ids["/servers/"], ""},
			{token, "POST", "/notifications/channels", `{"name":"His","url":"https://discord.com/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxy` + fmt.Sprint(i%10) + `"}`},
			{token, "POST", "/account/totp", ""},
			{token, "POST", "/account/passkeys/options", ""},
			{boss, "PUT", "/servers/" + s.ids["/servers/"] + "/access/" + user.Id, `{"role":"SUPPORT"}`},
			{boss, "PATCH", "/tenants/" + tenant + "/members/" + user.Id, `{"role":"MEMBER"}`},
		}
		if i%4 == 3 {
			things = append(things, [4]string{token, "POST", "/tenants", `{"name":"His own"}`})
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		note := func(what string, status int, code string) {
			mu.Lock()
			defer mu.Unlock()
			if answers[what] == nil {
				answers[what] = map[string]int{}
			}
			answers[what][fmt.Sprint(status, " ", code)]++
		}
		begin := make(chan struct{})
		for _, one := range things {
			wg.Go(func() {
				<-begin
				status, out, raw := s.ask(one[0], map[bool]string{true: tenant}[one[0] == boss], one[1], "/api/v1"+one[2], plain, one[3])
				if status >= 500 && status != 503 {
					t.Errorf("%s %s: %d %s", one[1], one[2], status, raw)
				}
				note(one[1]+" "+strings.NewReplacer(tenant, "{id}", user.Id, "{user}", invite, "{invite}").Replace(one[2]), status, out.Code)
			})
		}
		wg.Go(func() { // signs in elsewhere
			<-begin
			req := httptest.NewRequest("POST", "/api/collections/users/auth-with-password", strings.NewReader(`{"identity":"`+email+`","password":"a-long-password"}`))
			req.Header.Set("Content-Type", plain)
			req.RemoteAddr = fmt.Sprintf("192.0.2.%d:1000", i+1)
			rec := httptest.NewRecorder()
			s.mux.ServeHTTP(rec, req)
			if rec.Code >= 500 {
				t.Errorf("signing in: %d %s", rec.Code, rec.Body)
			}
			note("sign in", rec.Code, "")
		})
		close(begin)
		wg.Wait()
		if _, err := s.app.FindRecordById("users", user.Id); err == nil {
			kept++
			if status, _, raw := s.ask(s.as(email).super, "", "GET", "/api/v1/tenants", plain, ""); status != 200 {
				t.Errorf("who kept his account: %d %s", status, raw)
			}
			delete(ids, user.Id)
			continue
		}
		gone++
	}
	for id, text := range everyRow(t, s.app) {
		table, _, _ := strings.Cut(id, "/")
		switch table {
		case collections.AuditLogs, collections.Events, collections.Jobs: // history
			continue
		case collections.Notifications: // what others were told is theirs
			text = text[strings.Index(text, "\nuser="):]
		case collections.APIKeies:
			if !strings.Contains(text, "\ntenant=\n") && !strings.Contains(text, "\nrevoked_at=\n") {
				continue // an organisation's, revoked
			}
		}
		for user := range ids {
			if strings.Contains(text, user) {
				t.Errorf("%s is of somebody who is gone:\n%s", id, text)
			}
		}
	}
	if gone == 0 {
		t.Error("nobody got to delete his account")
	}
	for what, by := range answers {
		t.Logf("%s: %v", what, by)
	}
	t.Logf("%d accounts deleted beside other requests, %d kept", gone, kept)
}

// A sign-in that was shown the right password a moment before the account got another one, or went, begins no session.
func TestASignInOfBeforeBeginsNoSession(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil)
	s := &settled{house: h}
	change := map[string]func(*core.Record) error{
		"password@example.org": func(r *core.Record) error { r.SetPassword("another-long-password"); return h.app.Save(r) },
		"address@example.org":  func(r *core.Record) error { r.SetEmail("elsewhere@example.org"); return h.app.Save(r) },
		"gone@example.org":     func(r *core.Record) error { return h.app.Delete(r) },
		"nothing@example.org":  func(*core.Record) error { return nil },
	}
	h.app.OnRecordAuthRequest("users").Bind(handler("mamba.test.between", first-1, func(e *core.RecordAuthRequestEvent) error {
		now, err := h.app.FindRecordById("users", e.Record.Id)
		must(t, err)
		must(t, change[now.Email()](now))
		return e.Next()
	}))
	for email := range change {
		s.person(email)
		user, err := h.app.FindAuthRecordByEmail("users", email)
		must(t, err)
		req := httptest.NewRequest("POST", "/api/collections/users/auth-with-password", strings.NewReader(`{"identity":"`+email+`","password":"a-long-password"}`))
		req.Header.Set("Content-Type", plain)
		rec := httptest.NewRecorder()
		h.mux.ServeHTTP(rec, req)
		want, sessions := 400, int64(0)
		if email == "nothing@example.org" {
			want, sessions = 200, 1
		}
		if n := s.count(collections.Sessions, dbx.HashExp{"user": user.Id, "revoked_at": ""}); rec.Code != want || n != sessions {
			t.Errorf("%s: %d, %d sessions: %s", email, rec.Code, n, rec.Body)
		}
	}
}
