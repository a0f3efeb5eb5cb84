package access_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/descope/virtualwebauthn"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

// key is a passkey in the hands of somebody: an authenticator that verifies its holder, and one credential in it.
type key struct {
	t      *testing.T
	device virtualwebauthn.Authenticator
	cred   virtualwebauthn.Credential
	rp     virtualwebauthn.RelyingParty
	id     string // as the panel calls it
}

func newKey(t *testing.T, user string) *key {
	return &key{t: t, device: virtualwebauthn.NewAuthenticatorWithOptions(virtualwebauthn.AuthenticatorOptions{UserHandle: []byte(user)}),
		cred: newCredential(wholeKey), rp: virtualwebauthn.RelyingParty{Name: "Mamba Host", ID: "panel.example.test", Origin: origin}}
}

// wholeKey is how many bytes the public key of a credential has in COSE form, with both coordinates of 32 bytes.
const wholeKey = 77

// newCredential makes a key whose public form has so many bytes. The virtual authenticator leaves out zeros at the beginning
// of a coordinate, which one key in 128 has; a real one does not (RFC 9053, section 7.1.1), and the panel refuses it.
func newCredential(size int) virtualwebauthn.Credential {
	for {
		if c := virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2); len(c.Key.AttestationData()) == size {
			return c
		}
	}
}

// asked is a challenge as the panel gives it.
type asked struct {
	Challenge string          `json:"challenge"`
	Options   json.RawMessage `json:"options"`
}

func (p *panel) ask(t *testing.T, path, token, body string) asked {
	t.Helper()
	return answerOf[asked](t, p.call("POST", accountPath+path, token, body), 200)
}

func (k *key) attest(c asked) string {
	k.t.Helper()
	options, err := virtualwebauthn.ParseAttestationOptions(string(c.Options))
	if err != nil {
		k.t.Fatal(err)
	}
	return virtualwebauthn.CreateAttestationResponse(k.rp, k.device, k.cred, *options)
}

// assert answers a challenge and counts.
func (k *key) assert(c asked) string {
	k.t.Helper()
	options, err := virtualwebauthn.ParseAssertionOptions(string(c.Options))
	if err != nil {
		k.t.Fatal(err)
	}
	k.cred.Counter++
	return virtualwebauthn.CreateAssertionResponse(k.rp, k.device, k.cred, *options)
}

func registration(c asked, credential, name string) string {
	return fmt.Sprintf(`{"challenge":%q,"name":%q,"credential":%s}`, c.Challenge, name, credential)
}

func assertion(c asked, credential string) string {
	return fmt.Sprintf(`{"challenge":%q,"credential":%s}`, c.Challenge, credential)
}

// addKey registers a passkey with a session.
func (p *panel) addKey(t *testing.T, token, user, name string) (*key, []string) {
	t.Helper()
	k := newKey(t, user)
	c := p.ask(t, "/passkeys/options", token, "{}")
	out := answerOf[struct {
		Passkey access.PasskeyView `json:"passkey"`
		Codes   []string           `json:"backup_codes"`
	}](t, p.call("POST", accountPath+"/passkeys", token, registration(c, k.attest(c), name)), 201)
	if out.Passkey.Name != name {
		t.Errorf("%+v", out)
	}
	k.id = out.Passkey.ID
	return k, out.Codes
}

func TestAPasskeyIsASecondFactor(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	other, s := p.begin(t, "ann@example.test"), p.begin(t, "ann@example.test")
	k, codes := p.addKey(t, s.access, user.Id, "Blue key")
	p.alarms(t, access.EventFactorEnabled)
	if len(codes) != 10 || p.alive(t, other.access) || !p.alive(t, s.access) {
		t.Errorf("%d codes; the other sessions, and no more, end", len(codes))
	}
	// At the checkpoint.
	h := p.held(t, "ann@example.test")
	if fmt.Sprint(h.Ways) != "[passkey backup_code]" {
		t.Errorf("%v", h.Ways)
	}
	c := p.ask(t, "/checkpoint/options", "", fmt.Sprintf(`{"checkpoint":%q}`, h.Token))
	rec := p.call("POST", accountPath+"/checkpoint", "", fmt.Sprintf(`{"checkpoint":%q,"passkey":%s}`, h.Token, assertion(c, k.assert(c))))
	next := tokenIn(t, rec).Token
	if list := p.call("GET", sessions, next, "").Body.String(); !strings.Contains(list, `"method":"password+passkey"`) {
		t.Errorf("%s", list)
	}
	// As a proof.
	p.age(t, s.id, "proven_at", -access.ProofLife)
	c = p.ask(t, "/proof/options", s.access, "{}")
	if rec := p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"passkey":%s}`, assertion(c, k.assert(c)))); rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	// A second one brings no codes; names are one's own.
	second, none := p.addKey(t, s.access, user.Id, "Red key")
	if len(none) != 0 {
		t.Errorf("%v", none)
	}
	if rec := p.call("PATCH", accountPath+"/passkeys/"+second.id, s.access, `{"name":" My  phone "}`); rec.Code != 200 || !strings.Contains(rec.Body.String(), `"My phone"`) {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	list := p.call("GET", accountPath+"/passkeys", s.access, "").Body.String()
	if strings.Count(list, `"id"`) != 2 || !strings.Contains(list, "Blue key") || !strings.Contains(list, "My phone") || strings.Contains(list, "publicKey") {
		t.Errorf("%s", list)
	}
	p.user(t, "eve@example.test", true)
	eve := p.begin(t, "eve@example.test")
	refused(t, p.call("PATCH", accountPath+"/passkeys/"+k.id, eve.access, `{"name":"mine"}`), 404, "passkey_not_found")
	refused(t, p.call("DELETE", accountPath+"/passkeys/"+k.id, eve.access, ""), 404, "passkey_not_found")
	// The last one takes the second factor along.
	for i, one := range []*key{k, second} {
		if rec := p.call("DELETE", accountPath+"/passkeys/"+one.id, s.access, ""); rec.Code != 204 {
			t.Fatalf("%d: %d %s", i, rec.Code, rec.Body)
		}
		if i == 0 {
			p.alarms(t, access.EventPasskeyRemoved)
			p.held(t, "ann@example.test")
		}
	}
	p.alarms(t, access.EventFactorDisabled)
	p.signIn(t, "ann@example.test")
	if said := p.notes.all(); strings.Count(said, "user.passkey_remove") != 2 || strings.Count(said, "user.passkey_add") != 2 {
		t.Errorf("written down: %s", said)
	}
}

func TestAPasskeySignsInWithoutAPassword(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	k, _ := p.addKey(t, s.access, user.Id, "Key")
	enter := func(c asked, answer string) *httptest.ResponseRecorder {
		return p.call("POST", accountPath+"/sign-in/passkey", "", assertion(c, answer))
	}
	c := p.ask(t, "/sign-in/passkey/options", "", "{}")
	if strings.Contains(string(c.Options), base64.RawURLEncoding.EncodeToString(k.cred.ID)) || !strings.Contains(string(c.Options), `"userVerification":"required"`) {
		t.Errorf("%s", c.Options)
	}
	rec := enter(c, k.assert(c))
	token := tokenIn(t, rec).Token
	if claims(t, token)["id"] != user.Id || len(rec.Result().Cookies()) != 1 || !p.alive(t, token) {
		t.Errorf("%s", rec.Body)
	}
	if list := p.call("GET", sessions, token, "").Body.String(); !strings.Contains(list, `"method":"passkey"`) {
		t.Errorf("%s", list)
	}
	// Without looking at who holds it, it is something that lies about.
	c = p.ask(t, "/sign-in/passkey/options", "", "{}")
	k.device.Options.UserNotVerified = true
	wrongField(t, enter(c, k.assert(c)), "passkey", "wrong")
	k.device.Options.UserNotVerified = false
	// Another's handle does not make it another's.
	eve, _ := p.user(t, "eve@example.test", true)
	c = p.ask(t, "/sign-in/passkey/options", "", "{}")
	k.device.Options.UserHandle = []byte(eve.Id)
	wrongField(t, enter(c, k.assert(c)), "passkey", "wrong")
	k.device.Options.UserHandle = []byte(user.Id)
	// One that nobody registered.
	c = p.ask(t, "/sign-in/passkey/options", "", "{}")
	stranger := newKey(t, user.Id)
	wrongField(t, enter(c, stranger.assert(c)), "passkey", "wrong")
	// Eight at once with one answer: one session.
	before := p.count(t, collections.Sessions)
	c = p.ask(t, "/sign-in/passkey/options", "", "{}")
	answer := k.assert(c)
	var begun atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if enter(c, answer).Code == 200 {
				begun.Add(1)
			}
		})
	}
	wg.Wait()
	if n := p.count(t, collections.Sessions) - before; begun.Load() != 1 || n != 1 {
		t.Errorf("%d answers, %d sessions", begun.Load(), n)
	}
}

func TestAPasskeyWhoseCounterGoesBackIsRefusedWithAnAlarm(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	k, _ := p.addKey(t, s.access, user.Id, "Key")
	k.cred.Counter = 40
	prove := func() *httptest.ResponseRecorder {
		c := p.ask(t, "/proof/options", s.access, "{}")
		return p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"passkey":%s}`, assertion(c, k.assert(c))))
	}
	if rec := prove(); rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	k.cred.Counter = 12 // a copy that was made earlier
	wrongField(t, prove(), "passkey", "wrong")
	p.alarms(t, access.EventPasskeyCloned)
	if said := p.notes.all(); !strings.Contains(said, "user.passkey_cloned users/"+user.Id) {
		t.Errorf("written down: %s", said)
	}
	c := p.ask(t, "/sign-in/passkey/options", "", "{}")
	wrongField(t, p.call("POST", accountPath+"/sign-in/passkey", "", assertion(c, k.assert(c))), "passkey", "wrong")
	k.cred.Counter = 41
	if rec := prove(); rec.Code != 200 {
		t.Errorf("the right one is refused, too: %d %s", rec.Code, rec.Body)
	}
}

func TestAPasskeyWhoseKeyIsCutShortIsRefused(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	k := newKey(t, user.Id)
	k.cred = newCredential(wholeKey - 1)
	c := p.ask(t, "/passkeys/options", s.access, "{}")
	wrongField(t, p.call("POST", accountPath+"/passkeys", s.access, registration(c, k.attest(c), "Short")), "passkey", "wrong")
}

// T15: a passkey's answer for another origin, panel, challenge, purpose or person, changed or sent again, is refused.
func TestT15_NoOtherAnswerOfAPasskeyIsAccepted(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	eveUser, _ := p.user(t, "eve@example.test", true)
	s, es := p.begin(t, "ann@example.test"), p.begin(t, "eve@example.test")
	k, _ := p.addKey(t, s.access, user.Id, "Key")
	evil, _ := p.addKey(t, es.access, eveUser.Id, "Key")
	tried, accepted := 0, 0
	refuse := func(name string, rec *httptest.ResponseRecorder) {
		t.Helper()
		tried++
		if rec.Code < 400 || rec.Code > 499 || strings.Contains(rec.Body.String(), "token") {
			accepted++
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
		p.unlimit(t)
	}
	enter := func(body string) *httptest.ResponseRecorder {
		return p.call("POST", accountPath+"/sign-in/passkey", "", body)
	}
	fresh := func() asked { return p.ask(t, "/sign-in/passkey/options", "", "{}") }
	before := p.count(t, collections.Sessions)
	with := func(name string, change func(k *key)) {
		other := *k
		change(&other)
		c := fresh()
		refuse(name, enter(assertion(c, other.assert(c))))
	}
	for _, from := range []string{"https://panel.example.test.evil.test", "https://evil.test", "http://panel.example.test", "https://panel.example.test:8443", "https://sub.panel.example.test", "", "null", "android:apk-key-hash:x"} {
		with("origin "+from, func(k *key) { k.rp.Origin = from })
	}
	for _, id := range []string{"example.test", "evil.test", "localhost", ""} {
		with("relying party "+id, func(k *key) { k.rp.ID = id })
	}
	with("nobody touched it", func(k *key) { k.device.Options.UserNotPresent = true })
	with("nobody was verified", func(k *key) { k.device.Options.UserNotVerified = true })
	with("another's handle", func(k *key) { k.device.Options.UserHandle = []byte(eveUser.Id) })
	with("no handle", func(k *key) { k.device.Options.UserHandle = nil })
	with("another key", func(k *key) { k.cred.Key = evil.cred.Key })
	with("another name of the key", func(k *key) { k.cred.ID = evil.cred.ID })

	// Another challenge, one for something else, one that is old, one that was answered.
	c, d := fresh(), fresh()
	refuse("another challenge", enter(assertion(d, k.assert(c))))
	refuse("that one again, rightly", enter(assertion(d, k.assert(d)))) // a wrong answer spends it, too
	proof := p.ask(t, "/proof/options", s.access, "{}")
	refuse("a challenge of a proof", enter(assertion(proof, k.assert(proof))))
	h := p.held(t, "ann@example.test")
	held := p.ask(t, "/checkpoint/options", "", fmt.Sprintf(`{"checkpoint":%q}`, h.Token))
	refuse("a challenge of a checkpoint", enter(assertion(held, k.assert(held))))
	again := p.held(t, "ann@example.test")
	refuse("a challenge of another checkpoint", p.call("POST", accountPath+"/checkpoint", "", fmt.Sprintf(`{"checkpoint":%q,"passkey":%s}`, again.Token, assertion(held, k.assert(held)))))
	refuse("another's passkey at a checkpoint", p.call("POST", accountPath+"/checkpoint", "", fmt.Sprintf(`{"checkpoint":%q,"passkey":%s}`, h.Token, assertion(held, evil.assert(held)))))
	c = fresh()
	refuse("a challenge of signing in, for a proof", p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"passkey":%s}`, assertion(c, k.assert(c)))))
	proof = p.ask(t, "/proof/options", s.access, "{}")
	refuse("a challenge of another session", p.call("POST", accountPath+"/proof", es.access, fmt.Sprintf(`{"passkey":%s}`, assertion(proof, k.assert(proof)))))
	c = fresh()
	if _, err := p.NonconcurrentDB().Update(collections.PasskeyChallenges, dbx.Params{"expires_at": collections.Stamp(time.Now().Add(-time.Second))}, dbx.HashExp{"id": c.Challenge}).Execute(); err != nil {
		t.Fatal(err)
	}
	refuse("an old challenge", enter(assertion(c, k.assert(c))))
	for _, id := range []string{"", "nosuchchallenge", strings.Repeat("x", 300)} {
		refuse("no challenge", enter(fmt.Sprintf(`{"challenge":%q,"credential":%s}`, id, k.assert(c))))
	}

	// One byte of the signature, of what is signed, of the key's name.
	c = fresh()
	var whole struct {
		Type, ID, RawID string
		Response        map[string]string
	}
	if err := json.Unmarshal([]byte(k.assert(c)), &whole); err != nil {
		t.Fatal(err)
	}
	for field, text := range whole.Response {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(raw); i += max(1, len(raw)/16) {
			c := fresh()
			changed := bytes.Clone(raw)
			changed[i] ^= 1
			response := map[string]string{}
			for f, v := range whole.Response {
				response[f] = v
			}
			response[field] = base64.RawURLEncoding.EncodeToString(changed)
			body, err := json.Marshal(map[string]any{"type": "public-key", "id": whole.ID, "rawId": whole.RawID, "response": response})
			if err != nil {
				t.Fatal(err)
			}
			refuse(fmt.Sprintf("byte %d of %s", i, field), enter(assertion(c, string(body))))
		}
	}
	for _, credential := range []string{`null`, `""`, `{}`, `[]`, `{"id":"x"}`, `{"id":"","rawId":"","type":"public-key","response":{}}`} {
		refuse("not an answer: "+credential, enter(assertion(fresh(), credential)))
	}

	// Sent again after it was taken.
	c = fresh()
	answer := assertion(c, k.assert(c))
	if n := p.count(t, collections.Sessions) - before; n != 0 {
		t.Errorf("%d sessions began", n)
	}
	if rec := enter(answer); rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	refuse("sent again", enter(answer))
	t.Logf("T15: %d answers of passkeys tried, %d accepted", tried, accepted)
}

// What is registered is bound, too, and so is who registers.
func TestARegistrationIsBoundToItsSessionOriginAndChallenge(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	p.user(t, "eve@example.test", true)
	s, eve := p.begin(t, "ann@example.test"), p.begin(t, "eve@example.test")
	fresh := func() asked { return p.ask(t, "/passkeys/options", s.access, "{}") }
	add := func(token, body string) *httptest.ResponseRecorder {
		return p.call("POST", accountPath+"/passkeys", token, body)
	}
	for name, change := range map[string]func(k *key){
		"another origin": func(k *key) { k.rp.Origin = "https://evil.test" }, "another panel": func(k *key) { k.rp.ID = "evil.test" },
		"nobody verified": func(k *key) { k.device.Options.UserNotVerified = true },
	} {
		k, c := newKey(t, user.Id), fresh()
		change(k)
		if rec := add(s.access, registration(c, k.attest(c), "x")); rec.Code != 400 {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	k, c, d := newKey(t, user.Id), fresh(), fresh()
	wrongField(t, add(eve.access, registration(c, k.attest(c), "x")), "passkey", "wrong") // another's session
	wrongField(t, add(s.access, registration(d, k.attest(c), "x")), "passkey", "wrong")   // another challenge
	wrongField(t, add(s.access, registration(c, k.attest(c), "a\u202eb")), "name", "name_invalid")
	if rec := add(s.access, registration(c, k.attest(c), "")); rec.Code != 201 || !strings.Contains(rec.Body.String(), `"name":"Passkey"`) {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	wrongField(t, add(s.access, registration(c, k.attest(c), "x")), "passkey", "wrong") // again
	e := p.ask(t, "/passkeys/options", eve.access, "{}")
	refused(t, add(eve.access, registration(e, k.attest(e), "x")), 409, "passkey_known") // another's authenticator
	if n := p.count(t, collections.Passkeies); n != 1 {
		t.Errorf("%d passkeys", n)
	}
}

func TestPasskeysNeedANameToBeBoundTo(t *testing.T) {
	t.Parallel()
	for public, want := range map[string]string{
		"https://panel.example.test": "panel.example.test https://panel.example.test", "https://panel.example.test:8443/": "panel.example.test https://panel.example.test:8443",
		"http://localhost:8090": "localhost http://localhost:8090", "http://127.0.0.1:8090": "localhost http://localhost:8090", "http://[::1]:8090": "localhost http://localhost:8090",
		"http://203.0.113.5:8090": "", "https://203.0.113.5": "", "http://panel.example.test": "", "": "", "::": "",
	} {
		if got, err := access.RelyingParty(public); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", public, got, err, want)
		}
	}
	p := newPanelAt(t, "http://203.0.113.5:8090", nil)
	p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	refused(t, p.call("POST", accountPath+"/passkeys/options", s.access, "{}"), 409, "passkeys_unavailable")
	refused(t, p.call("POST", accountPath+"/sign-in/passkey/options", "", "{}"), 409, "passkeys_unavailable")
	refused(t, p.call("POST", accountPath+"/sign-in/passkey", "", `{"challenge":"aaaaaaaaaaaaaaa","credential":{}}`), 409, "passkeys_unavailable")
	if f := p.call("GET", accountPath+"/factors", s.access, "").Body.String(); !strings.Contains(f, `"passkeys_at":null`) {
		t.Errorf("%s", f)
	}
}

func TestOnePersonHasAtMostTwentyPasskeys(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	err := collections.Tx(p, nil, func(tx core.App) error {
		for i := range 20 {
			row, err := collections.NewPasskey(tx)
			if err != nil {
				return err
			}
			row.SetUser(user.Id)
			row.SetName("x")
			row.SetCredentialID(fmt.Sprintf("id%d", i))
			row.SetCredential(map[string]any{"id": "aWQ=", "publicKey": "aWQ="})
			if err := collections.PermitFor("access").Save(tx, row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	k := newKey(t, user.Id)
	c := p.ask(t, "/passkeys/options", s.access, "{}")
	refused(t, p.call("POST", accountPath+"/passkeys", s.access, registration(c, k.attest(c), "x")), 409, "passkey_limit")
}
