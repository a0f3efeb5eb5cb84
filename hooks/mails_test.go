package hooks

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
)

// letters are the mails of a panel: "to: subject".
type letters struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

func (l *letters) keep(e *core.MailerEvent) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, to := range e.Message.To {
		l.all = append(l.all, to.Address+": "+e.Message.Subject)
	}
	return nil
}

func (l *letters) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

func (s *settled) letters() *letters {
	l := &letters{}
	s.app.OnMailerSend().Bind(handler("mamba.test.mail", first, l.keep))
	return l
}

// users asks one of PocketBase's doors of accounts, as nobody.
func (s *settled) users(door, body string) (int, string) {
	s.t.Helper()
	status, _, raw := s.ask("", "", "POST", "/api/collections/users/"+door, plain, body)
	return status, raw
}

// What is done by the link of a mail is written, once, as done by the account; and who had the address before is told.
func TestWhatALinkOfAMailDoesIsWritten(t *testing.T) {
	t.Parallel()
	s := settle(t)
	mails := s.letters()
	s.person("before@example.org")
	u, err := s.app.FindAuthRecordByEmail("users", "before@example.org")
	must(t, err)
	written := func(action string) int64 {
		return s.count(collections.AuditLogs, dbx.HashExp{"tenant": "", "action": action, "actor": u.Id, "actor_type": "user", "resource_type": "users", "resource": u.Id})
	}
	once := func(action, door, body string) {
		t.Helper()
		if status, raw := s.users(door, body); status != http.StatusNoContent {
			t.Fatalf("%s: %d %s", door, status, raw)
		}
		if n := written(action); n != 1 {
			t.Errorf("%s is written %d times", action, n)
		}
		u, err = s.app.FindRecordById("users", u.Id)
		must(t, err)
	}
	token := func(make func() (string, error)) string {
		t.Helper()
		text, err := make()
		must(t, err)
		return `{"token":"` + text + `"`
	}

	u.SetVerified(false)
	must(t, s.app.Save(u))
	link := token(u.NewVerificationToken) + `}`
	once("user.verify", "confirm-verification", link)
	once("user.verify", "confirm-verification", link) // a link that is opened again changes nothing

	reset := token(u.NewPasswordResetToken)
	if status, raw := s.users("confirm-password-reset", reset+`,"password":"x","passwordConfirm":"x"}`); status != 400 || written("user.password_reset") != 0 {
		t.Errorf("too short a password: %d %s", status, raw)
	}
	once("user.password_reset", "confirm-password-reset", reset+`,"password":"another-long-one","passwordConfirm":"another-long-one"}`)

	change := token(func() (string, error) { return u.NewEmailChangeToken("after@example.org") })
	once("user.email_change", "confirm-email-change", change+`,"password":"another-long-one"}`)
	const news = ": Your e-mail address was changed"
	collectionstest.Eventually(t, "both addresses are told", func() bool {
		return strings.Contains(mails.String(), "before@example.org"+news) && strings.Contains(mails.String(), "after@example.org"+news)
	})
	if n := s.count(collections.Notifications, dbx.HashExp{"user": u.Id, "channel": "app", "template": "account.email_changed"}); n != 1 {
		t.Errorf("behind the bell it stands %d times", n)
	}

	// An address that was never confirmed may be anybody's.
	u.SetVerified(false)
	must(t, s.app.Save(u))
	once2 := token(func() (string, error) { return u.NewEmailChangeToken("third@example.org") })
	if status, raw := s.users("confirm-email-change", once2+`,"password":"another-long-one"}`); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, raw)
	}
	collectionstest.Eventually(t, "the new address is told", func() bool { return strings.Contains(mails.String(), "third@example.org"+news) })
	if strings.Count(mails.String(), "after@example.org"+news) != 1 {
		t.Errorf("an address that was not confirmed is told:\n%s", mails)
	}
}

// A change and its audit row are one: where the one cannot be stored, the other is not.
func TestALinkOfAMailDoesNothingUnwritten(t *testing.T) {
	t.Parallel()
	s := settle(t)
	s.person("before@example.org")
	u, err := s.app.FindAuthRecordByEmail("users", "before@example.org")
	must(t, err)
	reset, err := u.NewPasswordResetToken()
	must(t, err)
	s.app.OnRecordCreate(collections.AuditLogs).Bind(handler("mamba.test.full", first, func(*core.RecordEvent) error { return http.ErrHandlerTimeout }))
	if status, raw := s.users("confirm-password-reset", `{"token":"`+reset+`","password":"another-long-one","passwordConfirm":"another-long-one"}`); status < 400 {
		t.Errorf("%d %s", status, raw)
	}
	now, err := s.app.FindRecordById("users", u.Id)
	must(t, err)
	if now.ValidatePassword("another-long-one") || now.TokenKey() != u.TokenKey() {
		t.Error("the password is new, and nothing is written about it")
	}
}

// What happens to an account reaches whose it is.
func TestANewKeyIsToldToItsMaker(t *testing.T) {
	t.Parallel()
	s := settle(t)
	mails := s.letters()
	s.person("maker@example.org")
	token := s.signIn("maker@example.org")
	for _, c := range []struct{ path, body string }{{"/tenants", `{"name":"Makers"}`}, {"/account/keys", `{"name":"robot","permissions":["server.read"]}`}} {
		if status, _, raw := s.ask(token, "", "POST", "/api/v1"+c.path, plain, c.body); status != 201 {
			t.Fatalf("%d %s", status, raw)
		}
	}
	collectionstest.Eventually(t, "he is told of his key", func() bool {
		_, _, raw := s.ask(token, "", "GET", "/api/v1/notifications", plain, "")
		return strings.Contains(raw, "A new API key for your account") && strings.Contains(mails.String(), "maker@example.org: A new API key for your account")
	})
}
