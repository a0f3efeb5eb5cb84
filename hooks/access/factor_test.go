package access_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pquerna/otp/totp"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

const accountPath = "/api/v1/account"

// authenticator is what somebody has on the telephone.
type authenticator struct {
	t      *testing.T
	secret string
	codes  []string // backup codes
}

// code of now plus so many windows.
func (a authenticator) code(windows int) string {
	a.t.Helper()
	code, err := totp.GenerateCode(a.secret, time.Now().Add(time.Duration(windows)*30*time.Second))
	if err != nil {
		a.t.Fatal(err)
	}
	return code
}

func answerOf[T any](t *testing.T, rec *httptest.ResponseRecorder, status int) (out T) {
	t.Helper()
	if rec.Code != status {
		t.Fatalf("%d %s, want %d", rec.Code, rec.Body, status)
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

type begun struct {
	Secret string `json:"secret"`
	URI    string `json:"uri"`
	QR     string `json:"qr"`
}

type codesMade struct {
	Codes []string `json:"backup_codes"`
}

// enrol switches an authenticator on with a session.
func (p *panel) enrol(t *testing.T, token string) authenticator {
	t.Helper()
	b := answerOf[begun](t, p.call("POST", accountPath+"/totp", token, "{}"), 200)
	a := authenticator{t: t, secret: b.Secret}
	a.codes = answerOf[codesMade](t, p.call("POST", accountPath+"/totp/confirm", token, fmt.Sprintf(`{"code":%q}`, a.code(0))), 200).Codes
	return a
}

// rewind forgets which code was taken last, as if minutes had gone by.
func (p *panel) rewind(t *testing.T, user string) {
	t.Helper()
	if _, err := p.NonconcurrentDB().Update(collections.TotpFactors, dbx.Params{"last_step": 0}, dbx.HashExp{"user": user}).Execute(); err != nil {
		t.Fatal(err)
	}
	p.unlimit(t)
}

// unlimit forgets all attempts.
func (p *panel) unlimit(t *testing.T) {
	t.Helper()
	if _, err := p.NonconcurrentDB().Delete(collections.RateLimits, nil).Execute(); err != nil {
		t.Fatal(err)
	}
}

func (p *panel) factorsOf(t *testing.T, token string) (out struct {
	TOTP     bool                 `json:"totp"`
	Backup   int                  `json:"backup_codes"`
	Passkeys []access.PasskeyView `json:"passkeys"`
	Proven   *string              `json:"proven_until"`
}) {
	t.Helper()
	rec := p.call("GET", accountPath+"/factors", token, "")
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return out
}

// wrongField checks a refusal that blames one field.
func wrongField(t *testing.T, rec *httptest.ResponseRecorder, field, code string) {
	t.Helper()
	if s := refused(t, rec, 400, "invalid_input"); s.Data[field].Code != code || s.Data[field].Message == "" {
		t.Errorf("%s: %+v, want %s", field, s.Data, code)
	}
}

func TestAnAuthenticatorIsSwitchedOnByItsFirstCode(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	other, mine := p.begin(t, "ann@example.test"), p.begin(t, "ann@example.test")

	refused(t, p.call("POST", accountPath+"/totp/confirm", mine.access, `{"code":"000000"}`), 409, "totp_not_begun")
	b := answerOf[begun](t, p.call("POST", accountPath+"/totp", mine.access, "{}"), 200)
	if !strings.HasPrefix(b.URI, "otpauth://totp/") || !strings.Contains(b.URI, "secret="+b.Secret) || !strings.Contains(b.URI, "ann@example.test") || !strings.HasPrefix(b.QR, "data:image/png;base64,") {
		t.Errorf("%.300s", fmt.Sprint(b))
	}
	// Shown, not proved: it counts for nothing.
	if f := p.factorsOf(t, mine.access); f.TOTP || f.Backup != 0 {
		t.Errorf("%+v", f)
	}
	p.signIn(t, "ann@example.test", access.RefreshHeader, "1")
	a := authenticator{t: t, secret: b.Secret}
	wrongField(t, p.call("POST", accountPath+"/totp/confirm", mine.access, `{"code":"12345"}`), "code", "wrong")
	wrongField(t, p.call("POST", accountPath+"/totp/confirm", mine.access, fmt.Sprintf(`{"code":%q}`, a.code(5))), "code", "wrong")
	made := answerOf[codesMade](t, p.call("POST", accountPath+"/totp/confirm", mine.access, fmt.Sprintf(`{"code":%q}`, a.code(0))), 200)
	if len(made.Codes) != 10 || !regexp.MustCompile(`^[a-z2-7]{5}-[a-z2-7]{5}$`).MatchString(made.Codes[9]) {
		t.Errorf("%v", made.Codes)
	}
	p.alarms(t, access.EventFactorEnabled)
	if p.alive(t, other.access) || !p.alive(t, mine.access) {
		t.Error("the other sessions, and no more, end when an authenticator is switched on")
	}
	if f := p.factorsOf(t, mine.access); !f.TOTP || f.Backup != 10 || f.Proven == nil {
		t.Errorf("%+v", f)
	}
	refused(t, p.call("POST", accountPath+"/totp", mine.access, "{}"), 409, "totp_enabled")
	refused(t, p.call("POST", accountPath+"/totp/confirm", mine.access, fmt.Sprintf(`{"code":%q}`, a.code(1))), 409, "totp_not_begun")

	// Neither the secret nor a code is anywhere in the clear.
	stored := p.stored(t)
	for _, secret := range append([]string{b.Secret, strings.ReplaceAll(made.Codes[0], "-", "")}, made.Codes...) {
		if strings.Contains(stored, secret) || strings.Contains(p.notes.all(), secret) {
			t.Errorf("%s rests in the clear", secret)
		}
	}
	if said := p.notes.all(); !strings.Contains(said, "user.totp_enable users/"+user.Id) || !strings.Contains(said, "user.mfa_enable users/"+user.Id) {
		t.Errorf("written down: %s", said)
	}
}

// stored is everything in the tables of second factors.
func (p *panel) stored(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, table := range []string{collections.TotpFactors, collections.BackupCodes, collections.Passkeies, collections.SignInCheckpoints, collections.PasskeyChallenges, collections.Sessions} {
		rows := []dbx.NullStringMap{}
		if err := p.ConcurrentDB().Select("*").From(table).All(&rows); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(&out, rows)
	}
	return out.String()
}

func TestASecondFactorIsChangedWithARecentProofOnly(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, bare := p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	refused(t, p.call("POST", accountPath+"/totp", bare, "{}"), 403, "proof_required") // no session: nothing to have proved it with
	refused(t, p.call("POST", accountPath+"/proof", bare, `{"password":"x"}`), 409, "no_session")
	p.age(t, s.id, "proven_at", -access.ProofLife)
	for _, path := range []string{"/totp", "/passkeys/options"} {
		refused(t, p.call("POST", accountPath+path, s.access, "{}"), 403, "proof_required")
	}
	refused(t, p.call("DELETE", accountPath+"/passkeys/nosuchpasskey00", s.access, ""), 403, "proof_required")
	if p.count(t, collections.TotpFactors) != 0 || p.count(t, collections.PasskeyChallenges) != 0 {
		t.Error("something was begun")
	}
	for body, field := range map[string]string{`{}`: "password", `{"password":"wrong"}`: "password", `{"password":"` + password + `","code":"123456"}`: "password"} {
		if rec := p.call("POST", accountPath+"/proof", s.access, body); rec.Code != 400 || !strings.Contains(rec.Body.String(), `"`+field+`"`) {
			t.Errorf("%s: %d %s", body, rec.Code, rec.Body)
		}
	}
	if rec := p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"password":%q}`, password)); rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	a := p.enrol(t, s.access)
	p.age(t, s.id, "proven_at", -access.ProofLife)
	// From now on the password is not enough.
	wrongField(t, p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"password":%q}`, password)), "code", "required")
	wrongField(t, p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"password":%q,"code":%q}`, password, a.code(1))), "code", "required")
	refused(t, p.call("POST", accountPath+"/passkeys/options", s.access, "{}"), 403, "proof_required")
	p.rewind(t, user.Id)
	if rec := p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"code":%q}`, a.code(0))); rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	if rec := p.call("POST", accountPath+"/passkeys/options", s.access, "{}"); rec.Code != 200 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if said := p.notes.all(); strings.Count(said, "session.prove") != 2 || strings.Contains(said, password) {
		t.Errorf("written down: %s", said)
	}
	_, root := p.superuser(t)
	refused(t, p.call("GET", accountPath+"/factors", root, ""), 403, "users_only")
}

// CVE-2025-69197: a code that was taken once is taken nowhere again, however many ask at once.
func TestACodeIsTakenOnce(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	a := p.enrol(t, s.access)
	wrongField(t, p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"code":%q}`, a.code(0))), "code", "used")
	// One after it is a new one; the one before it is not, nor is that of enrolling.
	if rec := p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"code":%q}`, a.code(1))); rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	wrongField(t, p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"code":%q}`, a.code(0))), "code", "used")
	wrongField(t, p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"code":%q}`, a.code(9))), "code", "wrong")

	// Sixteen at once, at the checkpoint and at a proof: each has its own checkpoint, all have one code.
	p.rewind(t, user.Id)
	var tokens []string
	for range 4 {
		tokens = append(tokens, p.held(t, "ann@example.test").Token)
	}
	code := a.code(0)
	var taken, used atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		for _, c := range []struct{ path, token, body string }{
			{"/checkpoint", "", fmt.Sprintf(`{"checkpoint":%q,"code":%q}`, tokens[i], code)},
			{"/proof", s.access, fmt.Sprintf(`{"code":%q}`, code)},
		} {
			wg.Go(func() {
				switch rec := p.call("POST", accountPath+c.path, c.token, c.body); rec.Code {
				case 200:
					taken.Add(1)
				case 400, 429:
					used.Add(1)
				default:
					t.Errorf("%d %s", rec.Code, rec.Body)
				}
			})
		}
	}
	wg.Wait()
	if taken.Load() != 1 || used.Load() != 7 {
		t.Errorf("one code was taken %d times, refused %d times", taken.Load(), used.Load())
	}
}

func TestABackupCodeIsGoodOnce(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	p.user(t, "ann@example.test", true)
	p.user(t, "bob@example.test", true)
	s, bob := p.begin(t, "ann@example.test"), p.begin(t, "bob@example.test")
	a := p.enrol(t, s.access)
	p.enrol(t, bob.access)
	body := func(code string) string { return fmt.Sprintf(`{"backup_code":%q}`, code) }
	wrongField(t, p.call("POST", accountPath+"/proof", bob.access, body(a.codes[0])), "backup_code", "wrong") // another's
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if p.call("POST", accountPath+"/proof", s.access, body(a.codes[0])).Code == 200 {
				taken.Add(1)
			}
		})
	}
	wg.Wait()
	if taken.Load() != 1 || p.factorsOf(t, s.access).Backup != 9 {
		t.Errorf("taken %d times", taken.Load())
	}
	p.alarms(t, access.EventBackupCodeUsed)
	// As a person types it.
	if rec := p.call("POST", accountPath+"/proof", s.access, body(" "+strings.ToUpper(strings.ReplaceAll(a.codes[1], "-", " ")))); rec.Code != 200 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	// New ones void the old ones, and need a factor.
	p.unlimit(t)
	wrongField(t, p.call("POST", accountPath+"/backup-codes", s.access, `{}`), "code", "required")
	next := answerOf[codesMade](t, p.call("POST", accountPath+"/backup-codes", s.access, fmt.Sprintf(`{"code":%q}`, a.code(1))), 200).Codes
	if len(next) != 10 {
		t.Fatalf("%v", next)
	}
	wrongField(t, p.call("POST", accountPath+"/proof", s.access, body(a.codes[2])), "backup_code", "wrong")
	// Switching off with one of them: nothing is left.
	if rec := p.call("DELETE", accountPath+"/totp", s.access, body(next[3])); rec.Code != 204 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	p.alarms(t, access.EventFactorDisabled)
	if f := p.factorsOf(t, s.access); f.TOTP || f.Backup != 0 {
		t.Errorf("%+v", f)
	}
	refused(t, p.call("DELETE", accountPath+"/totp", s.access, body(next[4])), 409, "no_second_factor")
	p.signIn(t, "ann@example.test")
}

// "2FA throttling": five wrong codes of an account, twenty of a network, in a quarter of an hour.
func TestTriesOfASecondFactorAreFew(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	names := []string{"ann", "bob", "cid", "dan", "eve"}
	var who []session
	var a authenticator
	for i, name := range names {
		p.user(t, name+"@example.test", true)
		who = append(who, p.begin(t, name+"@example.test"))
		if one := p.enrol(t, who[i].access); i == 0 {
			a = one
		}
	}
	for i, name := range names {
		want := 5
		if i == 4 {
			want = 0 // the network's twenty are spent
		}
		for try := range 6 {
			rec := p.call("POST", accountPath+"/proof", who[i].access, fmt.Sprintf(`{"code":"00000%d"}`, try))
			if try < want {
				if rec.Code != 400 { // one in a hundred thousand is right
					t.Fatalf("%s, try %d: %d %s", name, try, rec.Code, rec.Body)
				}
				continue
			}
			wantRefused(t, name, rec, 15*time.Minute)
		}
	}
	first := who[0]
	wantRefused(t, "with the right code", p.call("POST", accountPath+"/proof", first.access, fmt.Sprintf(`{"code":%q}`, a.code(1))), 15*time.Minute)
	wantRefused(t, "with a backup code", p.call("POST", accountPath+"/proof", first.access, fmt.Sprintf(`{"backup_code":%q}`, a.codes[0])), 15*time.Minute)
	// From elsewhere the account's own limit holds.
	req := httptest.NewRequest("POST", accountPath+"/proof", strings.NewReader(fmt.Sprintf(`{"code":%q}`, a.code(1))))
	req.Header.Set("Authorization", first.access)
	req.Header.Set("Content-Type", "application/json")
	req.RemoteAddr = "203.0.113.9:1"
	rec := httptest.NewRecorder()
	p.mux.ServeHTTP(rec, req)
	wantRefused(t, "from another network", rec, 15*time.Minute)
}

func TestADeletedAccountLeavesNoFactor(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	p.enrol(t, s.access)
	err := collections.Tx(p, nil, func(tx core.App) error { return access.Forget(tx, user.Id) })
	if err != nil {
		t.Fatal(err)
	}
	if left := p.stored(t); strings.Contains(left, user.Id) {
		t.Error(left)
	}
}
