package hooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"

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
