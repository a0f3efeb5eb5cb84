package tenancy_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// letter is what an invited person finds in the mail.
type letter struct{ id, token, text, html, subject string }

var inviteLink = regexp.MustCompile(`/invite#id=([a-z0-9]{15})&(?:amp;)?token=([A-Za-z0-9_-]{43})`)

// mails starts the queue and returns a function that waits for the next mail to an address.
func (h *house) mails(t *testing.T) func(to string, count int) letter {
	t.Helper()
	h.queue.Start(t.Context())
	t.Cleanup(h.queue.Stop)
	return func(to string, count int) (l letter) {
		t.Helper()
		collectionstest.Eventually(t, fmt.Sprintf("mail %d to %s", count, to), func() bool {
			n := 0
			for _, m := range h.TestMailer.Messages() {
				if m.To[0].Address != to {
					continue
				}
				if n++; n == count {
					found := inviteLink.FindStringSubmatch(m.Text)
					if found == nil {
						t.Fatalf("no link in %s", m.Text)
					}
					l = letter{found[1], found[2], m.Text, m.HTML, m.Subject}
				}
			}
			return n >= count
		})
		return l
	}
}

func (h *house) invite(t *testing.T, by person, body string) tenancy.Invite {
	t.Helper()
	rec := h.call("POST", h.path("/members/invite"), by.token, body)
	var v tenancy.Invite
	if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil || rec.Code != 201 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return v
}

func (l letter) accept(h *house, p person, headers ...string) func(t *testing.T, name string, status int, texts ...string) {
	rec := h.call("POST", "/api/v1/invites/"+l.id+"/accept", p.token, fmt.Sprintf(`{"token":%q}`, l.token), headers...)
	return func(t *testing.T, name string, status int, texts ...string) {
		t.Helper()
		want(t, name, rec, status, texts...)
	}
}

func TestAnInviteIsMailedAndAccepted(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	next := h.mails(t)
	v := h.invite(t, h.admin, fmt.Sprintf(`{"email":"New@example.test","role":"SUPPORT","server":%q}`, h.server))
	if v.ServerName != "one" || v.RoleName != "Support" || v.InvitedBy != "admin" || v.Email != "New@example.test" {
		t.Errorf("%+v", v)
	}
	mail := next("New@example.test", 1)
	if mail.subject != "admin invites you to Acme" || !strings.Contains(mail.text, `the server "one" of Acme`) || !strings.Contains(mail.html, mail.token) {
		t.Errorf("the mail is %q\n%s", mail.subject, mail.text)
	}
	want(t, "without an account", h.call("POST", "/api/v1/invites/"+v.ID+"/preview", "", fmt.Sprintf(`{"token":%q}`, mail.token)), 200,
		`"tenant_name":"Acme"`, `"role_name":"Support"`, `"server_name":"one"`, `"email":"New@example.test"`)
	want(t, "with another token", h.call("POST", "/api/v1/invites/"+v.ID+"/preview", "", `{"token":"`+strings.Repeat("A", 43)+`"}`), 404, `"invite_not_found"`, "!Acme")
	h.account(t, "users", "else", true)
	mail.accept(h, h.stranger)(t, "another address", 403, `"invite_for_another"`)
	guest := h.person(t, "new", false) // new@example.test, not confirmed: the mail has come to it
	want(t, "nobody", h.call("POST", "/api/v1/invites/"+v.ID+"/accept", "", fmt.Sprintf(`{"token":%q}`, mail.token)), 401)
	h.ledger.take()
	mail.accept(h, guest, "Idempotency-Key", "a")(t, "the guest", 200, `"name":"Acme"`, `"role":"SUPPORT"`, `"members":null`)
	if said := h.ledger.take(); !strings.Contains(said, "user.verify") || !strings.Contains(said, "member.join tenant="+h.tenant) {
		t.Errorf("told as %q", said)
	}
	if u, err := h.FindRecordById("users", guest.Id); err != nil || !u.Verified() {
		t.Error("his address is not confirmed", err)
	}
	mail.accept(h, guest)(t, "again: the answer was lost", 200, `"name":"Acme"`)
	if err := h.tenancy.Can(h, guest.actor(), "console.read", tenancy.Resource{Tenant: h.tenant, Server: h.server}); err != nil {
		t.Error(err)
	}
	want(t, "the list", h.call("GET", h.path("/invites"), h.owner.token, ""), 200, `"items":[]`)
	want(t, "removed", h.call("DELETE", h.path("/members/"+guest.Id), h.owner.token, ""), 204)
	mail.accept(h, guest)(t, "a used invite is no way back", 404)
}

func TestWhatAnInviteRefuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	theirs := h.put(t, h.foreign, "theirs")
	h.invite(t, h.owner, `{"email":"twice@example.test","role":"MEMBER"}`)
	for _, c := range []struct {
		name   string
		by     person
		body   string
		status int
		code   string
	}{
		{"no address", h.owner, `{"email":"nobody","role":"MEMBER"}`, 400, "email_invalid"},
		{"an address with a name", h.owner, `{"email":"Bob <bob@example.test>","role":"MEMBER"}`, 400, "email_invalid"},
		{"no role", h.owner, `{"email":"a@example.test"}`, 400, "required"},
		{"the owner's role", h.owner, `{"email":"a@example.test","role":"OWNER"}`, 400, "owner"},
		{"a server of others", h.owner, fmt.Sprintf(`{"email":"a@example.test","role":"MEMBER","server":%q}`, theirs), 400, "unknown"},
		{"twice", h.owner, `{"email":"TWICE@example.test","role":"ADMIN"}`, 409, "invite_exists"},
		{"a member", h.owner, `{"email":"member@example.test","role":"ADMIN"}`, 409, "already_member"},
		{"a friend of that server", h.owner, fmt.Sprintf(`{"email":"friend@example.test","role":"MEMBER","server":%q}`, h.server), 409, "already_member"},
		{"by support", h.support, `{"email":"a@example.test","role":"MEMBER"}`, 403, "forbidden"},
		{"by a stranger", h.stranger, `{"email":"a@example.test","role":"MEMBER"}`, 404, "tenant_not_found"},
		{"an unknown field", h.owner, `{"email":"a@example.test","role":"MEMBER","tenant":"x"}`, 400, "unknown"},
	} {
		before, _ := h.CountRecords(collections.Invites)
		want(t, c.name, h.call("POST", h.path("/members/invite"), c.by.token, c.body), c.status, c.code)
		if after, _ := h.CountRecords(collections.Invites); after != before {
			t.Errorf("%s: %d invites were made", c.name, after-before)
		}
	}
	unconfirmed := h.person(t, "unconfirmed", false)
	h.bind(t, h.tenant, unconfirmed, tenancy.RoleAdmin, "")
	want(t, "an unconfirmed admin", h.call("POST", h.path("/members/invite"), unconfirmed.token, `{"email":"a@example.test","role":"MEMBER"}`), 403, `"email_unverified"`)
}

func TestAnInviteEnds(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	next := h.mails(t)
	guest := h.person(t, "guest", true)
	v := h.invite(t, h.owner, `{"email":"guest@example.test","role":"MEMBER"}`)
	mail := next("guest@example.test", 1)
	one := h.path("/invites/" + v.ID)
	want(t, "again at once", h.call("POST", one+"/resend", h.owner.token, "{}"), 429, `"too_soon"`)
	h.age(t, v.ID, "updated", -time.Hour)
	want(t, "again", h.call("POST", one+"/resend", h.owner.token, "{}"), 204)
	if again := next("guest@example.test", 2); again.token != mail.token {
		t.Error("the first mail would not open it any more")
	}
	want(t, "taken back by others", h.call("DELETE", "/api/v1/tenants/"+h.foreign+"/invites/"+v.ID, h.stranger.token, ""), 404, `"invite_not_found"`)
	want(t, "taken back", h.call("DELETE", one, h.admin.token, ""), 204)
	mail.accept(h, guest)(t, "after that", 404, `"invite_not_found"`)
	want(t, "taken back twice", h.call("DELETE", one, h.admin.token, ""), 404)

	h.invite(t, h.owner, `{"email":"guest@example.test","role":"MEMBER"}`)
	mail = next("guest@example.test", 3)
	h.age(t, mail.id, "expires_at", -time.Second)
	mail.accept(h, guest)(t, "when its time is over", 404, `"invite_not_found"`)

	h.invite(t, h.owner, `{"email":"guest@example.test","role":"MEMBER"}`)
	mail = next("guest@example.test", 4)
	h.set(t, h.tenant, map[string]any{"status": tenancy.StatusSuspended})
	mail.accept(h, guest)(t, "into what is suspended", 403, `"tenant_suspended"`)
	h.set(t, h.tenant, map[string]any{"status": tenancy.StatusDeleting})
	mail.accept(h, guest)(t, "into what is being deleted", 404, `"invite_not_found"`)
}

// An invite gives nobody what its maker has lost since, and only who may as much touches it.
func TestAnInviteEndsWithTheRightsOfItsMaker(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	next := h.mails(t)
	guest := h.person(t, "guest", true)
	made := 0
	invited := func(by person, role string) letter {
		t.Helper()
		made++
		h.invite(t, by, `{"email":"guest@example.test","role":"`+role+`"}`)
		return next("guest@example.test", made)
	}
	open := func() int {
		t.Helper()
		n, err := h.CountRecords(collections.Invites, dbx.HashExp{"tenant": h.tenant, "revoked_at": "", "accepted_at": ""})
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	roles := h.path("/roles")
	rec := h.call("POST", roles, h.owner.token, `{"name":"HR","permissions":["tenant.read","member.invite","member.update"]}`)
	var role struct{ ID string }
	if err := json.Unmarshal(rec.Body.Bytes(), &role); err != nil || rec.Code != 201 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	want(t, "the role", h.call("PATCH", h.path("/members/"+h.support.Id), h.owner.token, `{"role":"`+role.ID+`"}`), 200)

	mail := invited(h.admin, "ADMIN")
	h.age(t, mail.id, "updated", -time.Hour)
	want(t, "sent again by who may less", h.call("POST", h.path("/invites/"+mail.id+"/resend"), h.support.token, "{}"), 403, "role_beyond_yours")
	want(t, "taken back by who may less", h.call("DELETE", h.path("/invites/"+mail.id), h.support.token, ""), 403, "role_beyond_yours")
	kept := h.invite(t, h.owner, `{"email":"other@example.test","role":"ADMIN"}`)
	h.ledger.take()
	want(t, "the maker is an admin no more", h.call("PATCH", h.path("/members/"+h.admin.Id), h.owner.token, `{"role":"MEMBER"}`), 200)
	mail.accept(h, guest)(t, "after that", 404, `"invite_not_found"`)
	if said := h.ledger.take(); !strings.Contains(said, "invite.revoke") || open() != 1 {
		t.Errorf("%d are open; written: %s", open(), said)
	}

	want(t, "an admin again", h.call("PATCH", h.path("/members/"+h.admin.Id), h.owner.token, `{"role":"ADMIN"}`), 200)
	mail.accept(h, guest)(t, "an invite that was taken back stays so", 404, `"invite_not_found"`)
	mail = invited(h.admin, "ADMIN")
	want(t, "removed", h.call("DELETE", h.path("/members/"+h.admin.Id), h.owner.token, ""), 204)
	mail.accept(h, guest)(t, "after his removal", 404, `"invite_not_found"`)
	if n := open(); n != 1 {
		t.Errorf("%d are open", n)
	}

	mail = invited(h.support, role.ID) // to his own role
	want(t, "the role loses a permission", h.call("PATCH", roles+"/"+role.ID, h.owner.token, `{"permissions":["tenant.read","member.update"]}`), 200)
	want(t, "what it is for", h.call("POST", "/api/v1/invites/"+mail.id+"/preview", "", `{"token":"`+mail.token+`"}`), 404, `"invite_not_found"`)
	mail.accept(h, guest)(t, "by a role that may not invite", 404, `"invite_not_found"`)
	want(t, "the role has it again", h.call("PATCH", roles+"/"+role.ID, h.owner.token, `{"permissions":["tenant.read","member.invite","member.update"]}`), 200)
	mail.accept(h, guest)(t, "by a role that may", 200)
	if list := h.call("GET", h.path("/invites"), h.owner.token, ""); !strings.Contains(list.Body.String(), kept.ID) {
		t.Errorf("the owner's is gone: %s", list.Body)
	}
}

// age moves a time of an invite.
func (h *house) age(t *testing.T, id, column string, by time.Duration) {
	t.Helper()
	at := time.Now().Add(by).UTC().Format("2006-01-02 15:04:05.000Z")
	if _, err := h.NonconcurrentDB().Update(collections.Invites, dbx.Params{column: at}, dbx.HashExp{"id": id}).Execute(); err != nil {
		t.Fatal(err)
	}
}

// T24: the token of an invite is in its mail and nowhere in the database.
func TestT24_TheTokenOfAnInviteIsStoredNowhere(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	next := h.mails(t)
	h.invite(t, h.owner, `{"email":"guest@example.test","role":"MEMBER"}`)
	token := next("guest@example.test", 1).token
	all, err := h.FindAllCollections()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.IsView() {
			continue
		}
		records, err := h.FindAllRecords(c.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if raw, err := json.Marshal(r.FieldsData()); err != nil || strings.Contains(string(raw), token) {
				t.Errorf("%s %s holds it, %v", c.Name, r.Id, err)
			}
		}
	}
}

// T09: an invite that many accept at once makes one member, and fifty invites are fifty.
func TestT09_InvitesCountOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	next := h.mails(t)
	guest := h.person(t, "guest", true)
	h.invite(t, h.owner, `{"email":"guest@example.test","role":"MEMBER"}`)
	mail := next("guest@example.test", 1)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { mail.accept(h, guest)(t, "at once", 200) })
	}
	wg.Wait()
	if n, err := h.CountRecords(collections.TenantMembers, dbx.HashExp{"tenant": h.tenant, "user": guest.Id}); err != nil || n != 1 {
		t.Errorf("%d memberships, %v", n, err)
	}
	var made, refused atomic.Int64
	for i := range 60 {
		wg.Go(func() {
			switch rec := h.call("POST", h.path("/members/invite"), h.owner.token, fmt.Sprintf(`{"email":"p%d@example.test","role":"MEMBER"}`, i)); rec.Code {
			case 201:
				made.Add(1)
			case 409:
				refused.Add(1)
			default:
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	}
	wg.Wait()
	if made.Load() != 50 || refused.Load() != 10 {
		t.Errorf("%d invites were made, %d refused", made.Load(), refused.Load())
	}
}
