package access_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"hash"
	"maps"
	"strings"
	"testing"

	"github.com/mambahost/mamba/hooks/access"
)

const signUp = "/api/collections/users/records"

func TestAccountSaysWhoOneIs(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, token := p.user(t, "ann@example.test", false)
	_, rootToken := p.superuser(t)
	for _, c := range []struct {
		name, token string
		status      int
		has         []string
		hasNot      []string
	}{
		{"a user", token, 200, []string{`"id":"` + user.Id + `"`, `"email":"ann@example.test"`, `"name":"ann"`, `"verified":false`}, []string{"token", "password"}},
		{"a superuser has no name of his own", rootToken, 200, []string{`"name":"root@example.test"`, `"verified":true`}, []string{"token"}},
		{"nobody", "", 401, []string{"unauthenticated"}, []string{"verified"}},
		{"a forged token", token[:len(token)-3] + other(token[len(token)-3:len(token)-2]) + token[len(token)-2:], 401, []string{"session_expired"}, []string{"verified"}},
	} {
		rec := p.call("GET", "/api/v1/account", c.token, "")
		body := strings.ReplaceAll(rec.Body.String(), ": ", ":")
		if rec.Code != c.status {
			t.Errorf("%s: %d %s", c.name, rec.Code, body)
		}
		for _, want := range c.has {
			if !strings.Contains(body, want) {
				t.Errorf("%s: %s is not in %s", c.name, want, body)
			}
		}
		for _, no := range c.hasNot {
			if strings.Contains(body, no) {
				t.Errorf("%s: %s is in %s", c.name, no, body)
			}
		}
	}
	if err := p.Delete(user); err != nil {
		t.Fatal(err)
	}
	refused(t, p.call("GET", "/api/v1/account", token, ""), 401, "session_expired")
}

func TestSigningUp(t *testing.T) {
	t.Parallel()
	const pw = `"password":"correct horse battery","passwordConfirm":"correct horse battery"`
	for _, c := range []struct {
		name, body string
		status     int
		has        string
	}{
		{"with address, name and password", `{"email":"a@example.test","name":"  Ann   Lee ",` + pw + `}`, 200, `"name":"Ann Lee"`},
		{"without a name", `{"email":"a@example.test",` + pw + `}`, 200, `"verified":false`},
		{"verified by oneself", `{"email":"a@example.test","verified":true,` + pw + `}`, 400, `"verified"`},
		{"a name over 80 characters", `{"email":"a@example.test","name":"` + strings.Repeat("x", 81) + `",` + pw + `}`, 400, `"name_invalid"`},
		{"a name that turns the writing around", `{"email":"a@example.test","name":"ann\u202egnp",` + pw + `}`, 400, `"name_invalid"`},
		{"a name with an invisible letter", `{"email":"a@example.test","name":"ann\u200b",` + pw + `}`, 400, `"name_invalid"`},
		{"a name with a control character", `{"email":"a@example.test","name":"ann\u0007",` + pw + `}`, 400, `"name_invalid"`},
		{"an address that is none", `{"email":"nobody",` + pw + `}`, 400, `"email"`},
		{"an address over 254 characters", `{"email":"` + strings.Repeat("a", 60) + "@" + strings.Repeat(strings.Repeat("b", 60)+".", 4) + `test",` + pw + `}`, 400, `"email"`},
		{"a short password", `{"email":"a@example.test","password":"short","passwordConfirm":"short"}`, 400, `"password"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPanel(t, nil)
			rec := p.call("POST", signUp, "", c.body)
			if rec.Code != c.status || !strings.Contains(strings.ReplaceAll(rec.Body.String(), ": ", ":"), c.has) {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
			if made := p.count(t, "users") == 1; made != (c.status == 200) {
				t.Errorf("made: %t", made)
			}
			if audited := strings.HasPrefix(p.notes.all(), "user user.create users/"); audited != (c.status == 200) {
				t.Errorf("audit: %q", p.notes.all())
			}
		})
	}
}

func TestSigningUpCannotChooseIdOrVisibility(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	rec := p.call("POST", signUp, "", `{"id":"tenant000000001","email":"a@example.test","emailVisibility":true,"password":"correct horse battery","passwordConfirm":"correct horse battery"}`)
	if rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	u, err := p.FindAuthRecordByEmail("users", "a@example.test")
	if err != nil {
		t.Fatal(err)
	}
	if u.Id == "tenant000000001" || len(u.Id) != 15 || u.EmailVisibility() || u.Verified() {
		t.Errorf("id %s, visible %t, verified %t", u.Id, u.EmailVisibility(), u.Verified())
	}
}

func TestAnAccountIsNotMadeWithoutItsAuditRow(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	p.notes.fail = errNoAudit
	rec := p.call("POST", signUp, "", `{"email":"a@example.test","password":"correct horse battery","passwordConfirm":"correct horse battery"}`)
	if rec.Code == 200 || p.count(t, "users") != 0 || strings.Contains(rec.Body.String(), errNoAudit.Error()) {
		t.Errorf("%d %s, %d users", rec.Code, rec.Body, p.count(t, "users"))
	}
}

func TestChangingAndDeletingAnAccount(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	ann, token := p.user(t, "ann@example.test", false)
	_, bob := p.user(t, "bob@example.test", true)
	_, root := p.superuser(t)
	own := signUp + "/" + ann.Id
	for _, c := range []struct {
		name, method, token, body string
		status                    int
		audit                     string
	}{
		{"her own name", "PATCH", token, `{"name":" Ann  B "}`, 200, "user user.update users/" + ann.Id + " map[fields:[name]]"},
		{"by somebody else", "PATCH", bob, `{"name":"Mallory"}`, 404, ""},
		{"verified by herself", "PATCH", token, `{"verified":true}`, 400, ""},
		{"a bad name", "PATCH", token, `{"name":"a\u202eb"}`, 400, ""},
		{"deleted by herself", "DELETE", token, ``, 403, ""},
		{"verified by an operator", "PATCH", root, `{"verified":true}`, 200, "superuser user.update users/" + ann.Id + " map[fields:[verified]]"},
		{"her password", "PATCH", token, `{"oldPassword":"correct horse battery","password":"battery horse correct","passwordConfirm":"battery horse correct"}`, 200, "user user.update users/" + ann.Id + " map[fields:[password]]"},
		{"deleted by an operator", "DELETE", root, ``, 204, "superuser user.delete users/" + ann.Id},
	} {
		before := p.notes.all()
		rec := p.call(c.method, own, c.token, c.body)
		if rec.Code != c.status {
			t.Errorf("%s: %d %s", c.name, rec.Code, rec.Body)
		}
		if got := strings.TrimSpace(strings.TrimPrefix(p.notes.all(), before)); !strings.HasPrefix(got, c.audit) || (c.audit == "") != (got == "") {
			t.Errorf("%s: audit %q, want %q", c.name, got, c.audit)
		}
	}
	if strings.Contains(p.notes.all(), "battery") {
		t.Error("a password is in the audit log")
	}
}

func TestWhoMayCreate(t *testing.T) {
	t.Parallel()
	if err := access.RequireVerified(access.Actor{}); err == nil {
		t.Error("an unverified user may create")
	}
	if err := access.RequireVerified(access.Actor{Verified: true}); err != nil {
		t.Error(err)
	}
	if err := access.RequireSuperuser(access.Actor{Type: access.TypeUser, Verified: true}); err == nil {
		t.Error("a user is an operator")
	}
	a := access.Actor{Type: "user", ID: "u", Name: "n", Address: "a", UserAgent: "ua", Request: "r"}
	if got := a.Audit(); got.Type != "user" || got.ID != "u" || got.Name != "n" || got.Address != "a" || got.UserAgent != "ua" || got.Request != "r" {
		t.Errorf("%+v", got)
	}
}

// other is a letter that a given one is not.
func other(letter string) string {
	if letter == "x" {
		return "y"
	}
	return "x"
}

// T15: no token is an access token but the one that was given: not one whose claims, header or signature are others, and
// none that the panel gave for something else.
func TestT15_NoMutantOfAnAccessTokenIsAccepted(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	ann, _ := p.user(t, "ann@example.test", true)
	bob, _ := p.user(t, "bob@example.test", true)
	s, other := p.begin(t, "ann@example.test"), p.begin(t, "bob@example.test")
	part := strings.Split(s.access, ".")
	encode := func(v map[string]any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	signed := func(method, head, body, key string) string {
		hash := map[string]func() hash.Hash{"HS256": sha256.New, "HS384": sha512.New384, "HS512": sha512.New}[method]
		if hash == nil {
			hash = sha256.New
		}
		mac := hmac.New(hash, []byte(key))
		mac.Write([]byte(head + "." + body))
		return head + "." + body + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	var mutants []string
	keys := []string{"", "secret", ann.Id, ann.Email(), part[2], bob.TokenKey(), ann.Collection().AuthToken.Secret, bob.TokenKey() + bob.Collection().AuthToken.Secret}
	for _, alg := range []string{"none", "None", "NONE", "", "HS256", "HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA"} {
		for _, extra := range []map[string]any{{}, {"kid": "../../../../dev/null"}, {"kid": "' UNION SELECT ''--"}, {"jwk": map[string]any{"kty": "oct", "k": "c2VjcmV0"}}, {"jku": "http://127.0.0.1/keys"}, {"crit": []string{"x"}}} {
			head := map[string]any{"alg": alg, "typ": "JWT"}
			maps.Copy(head, extra)
			h := encode(head)
			mutants = append(mutants, h+"."+part[1]+".", h+"."+part[1]+"."+part[2], h+"."+part[1])
			for _, key := range keys {
				mutants = append(mutants, signed(alg, h, part[1], key))
			}
		}
	}
	for _, change := range []map[string]any{
		{"id": bob.Id}, {"sid": other.id}, {"sid": ""}, {"sid": nil}, {"exp": 1 << 40}, {"exp": nil}, {"exp": "never"}, {"type": "file"}, {"type": "passwordReset"}, {"refreshable": true},
		{"collectionId": "pbc_3142635823"}, {"collectionId": "_superusers"}, {"tid": "aaaaaaaaaaaaaaa"}, {"nbf": 1 << 40}, {"iat": 1 << 40}, {"aud": "x"},
	} {
		c := claims(t, s.access)
		maps.Copy(c, change)
		body := encode(c)
		mutants = append(mutants, part[0]+"."+body+"."+part[2], part[0]+"."+body+".", encode(map[string]any{"alg": "none"})+"."+body+".")
		for _, key := range keys {
			mutants = append(mutants, signed("HS256", part[0], body, key))
		}
	}
	for _, give := range []func() (string, error){
		ann.NewFileToken, ann.NewVerificationToken, ann.NewPasswordResetToken, func() (string, error) { return ann.NewEmailChangeToken("x@example.test") },
	} {
		text, err := give()
		if err != nil {
			t.Fatal(err)
		}
		mutants = append(mutants, text)
	}
	mutants = append(mutants, s.refresh, part[0]+"."+part[1]+"."+strings.Split(other.access, ".")[2], strings.Split(other.access, ".")[0]+"."+strings.Split(other.access, ".")[1]+"."+part[2],
		s.access+".", "."+s.access, s.access+"."+part[2], strings.ReplaceAll(s.access, ".", ".."), part[1]+"."+part[0]+"."+part[2])
	accepted := 0
	for _, m := range mutants {
		if m == s.access {
			continue // its own header again
		}
		if rec := p.call("GET", "/api/v1/account", m, ""); rec.Code != 401 {
			accepted++
			t.Errorf("%.160s: %d %s", m, rec.Code, rec.Body)
		}
	}
	if !p.alive(t, s.access) {
		t.Error("the token itself is refused")
	}
	if len(mutants) < 300 {
		t.Errorf("only %d mutants", len(mutants))
	}
	t.Logf("T15: %d of %d mutants of an access token accepted", accepted, len(mutants))
}

// No other spelling of a token is one, not even where it means the same bytes.
func TestT15_AnAccessTokenHasOneSpelling(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	_, token := p.user(t, "ann@example.test", false)
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="
	mutants, accepted := 0, 0
	for at := len(token) - 12; at < len(token); at++ {
		for _, letter := range letters {
			mutant := token[:at] + string(letter) + token[at+1:]
			if mutant == token {
				continue
			}
			mutants++
			if rec := p.call("GET", "/api/v1/account", mutant, ""); rec.Code != 401 {
				accepted++
				t.Errorf("%q in place %d: %d %s", letter, at, rec.Code, rec.Body)
			}
		}
	}
	if rec := p.call("GET", "/api/v1/account", token, ""); rec.Code != 200 {
		t.Errorf("the token itself: %d %s", rec.Code, rec.Body)
	}
	t.Logf("T15: %d of %d mutants of an access token accepted", accepted, mutants)
}
