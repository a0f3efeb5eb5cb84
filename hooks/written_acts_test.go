package hooks

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/descope/virtualwebauthn"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pquerna/otp/totp"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
)

// person is an account with a session.
type person struct{ id, email, password, token string }

// enter signs a person in.
func (w *writing) enter(p *person) {
	w.t.Helper()
	rec, _, _ := w.send("POST /api/collections/users/auth-with-password", "", p.credentials())
	if p.token = decode[struct{ Token string }](w.t, rec.Body.String()).Token; rec.Code != 200 || p.token == "" {
		w.t.Fatalf("%d %s", rec.Code, rec.Body)
	}
}

func (p *person) credentials() string {
	return fmt.Sprintf(`{"identity":%q,"password":%q}`, p.email, p.password)
}

// of makes an account that is signed in.
func (w *writing) of(email string) *person {
	w.t.Helper()
	w.person(email)
	r := w.record(email)
	p := &person{id: r.Id, email: email, password: "a-long-password"}
	w.enter(p)
	return p
}

func (w *writing) record(email string) *core.Record {
	w.t.Helper()
	r, err := w.app.FindAuthRecordByEmail("users", email)
	must(w.t, err)
	return r
}

// set changes rows behind the panel's back.
func (w *writing) set(table string, values dbx.Params, where dbx.Expression) {
	w.t.Helper()
	_, err := w.app.NonconcurrentDB().Update(table, values, where).Execute()
	must(w.t, err)
}

// account is how somebody comes to be a customer, through PocketBase's doors.
func (w *writing) account() *person {
	const door = "/api/collections/users/"
	ann := &person{email: "ann@example.org", password: "ann-first-password"}
	raw := w.do("POST "+door+"records", "", say(`{"name":"Ann","email":"ann@example.org","password":"ann-first-password","passwordConfirm":"ann-first-password"}`))
	ann.id = decode[struct{ ID string }](w.t, raw).ID
	token := func(make func(r *core.Record) (string, error), rest string) func() string {
		return func() string {
			text, err := make(w.record(ann.email))
			must(w.t, err)
			return fmt.Sprintf(`{"token":%q%s}`, text, rest)
		}
	}
	w.do("POST "+door+"confirm-verification", "", token((*core.Record).NewVerificationToken, ""))
	w.do("POST "+door+"auth-with-password", "", say(ann.credentials()))
	w.enter(ann)
	w.do("PATCH "+door+"records/{user}", ann.token, say(`{"name":"Ann the second","oldPassword":"ann-first-password","password":"ann-second-password","passwordConfirm":"ann-second-password"}`), ann.id)
	w.do("POST "+door+"confirm-password-reset", "", token((*core.Record).NewPasswordResetToken, `,"password":"ann-third-password","passwordConfirm":"ann-third-password"`))
	ann.password = "ann-third-password"
	w.do("POST "+door+"confirm-email-change", "", token(func(r *core.Record) (string, error) { return r.NewEmailChangeToken("ann@example.net") }, `,"password":"ann-third-password"`))
	ann.email = "ann@example.net"
	w.enter(ann)
	return ann
}

// passkey is an authenticator with one credential in it.
type passkey struct {
	device virtualwebauthn.Authenticator
	cred   virtualwebauthn.Credential
	rp     virtualwebauthn.RelyingParty
}

func newPasskey(user string) *passkey {
	k := &passkey{device: virtualwebauthn.NewAuthenticatorWithOptions(virtualwebauthn.AuthenticatorOptions{UserHandle: []byte(user)}),
		rp: virtualwebauthn.RelyingParty{Name: "Mamba Host", ID: "panel.example.test", Origin: "https://panel.example.test"}}
	for len(k.cred.ID) == 0 || len(k.cred.Key.AttestationData()) != 77 { // one key in 128 is cut short
		k.cred = virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2)
	}
	return k
}

// challenge asks for one and answers it.
func (w *writing) challenge(path, token, body string, answer func(options string) string) string {
	w.t.Helper()
	rec, _, _ := w.send("POST "+path, token, body)
	if rec.Code != 200 {
		w.t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
	}
	c := decode[struct {
		Challenge string
		Options   json.RawMessage
	}](w.t, rec.Body.String())
	return fmt.Sprintf(`"challenge":%q,"credential":%s`, c.Challenge, answer(string(c.Options)))
}

func (k *passkey) attest(options string) string {
	o, err := virtualwebauthn.ParseAttestationOptions(options)
	if err != nil {
		return err.Error()
	}
	return virtualwebauthn.CreateAttestationResponse(k.rp, k.device, k.cred, *o)
}

func (k *passkey) assert(options string) string {
	o, err := virtualwebauthn.ParseAssertionOptions(options)
	if err != nil {
		return err.Error()
	}
	k.cred.Counter++
	return virtualwebauthn.CreateAssertionResponse(k.rp, k.device, k.cred, *o)
}

// factors are the sessions and the second factors of a person.
func (w *writing) factors(p *person) {
	here := p.token
	w.enter(p)
	w.do("DELETE /account/sessions/{session}", p.token, say(""), "current")
	p.token = here
	other := *p
	w.enter(&other)
	w.do("DELETE /account/sessions/others", p.token, say(""))
	w.do("POST /account/proof", p.token, say(fmt.Sprintf(`{"password":%q}`, p.password)))

	secret := ""
	code := func(more string) func() string {
		return func() string {
			w.set(collections.TotpFactors, dbx.Params{"last_step": 0}, dbx.HashExp{"user": p.id}) // as if minutes had gone by
			now, err := totp.GenerateCode(secret, time.Now())
			must(w.t, err)
			return fmt.Sprintf(`{"code":%q%s}`, now, more)
		}
	}
	rec, _, _ := w.send("POST /account/totp", p.token, "{}")
	if secret = decode[struct{ Secret string }](w.t, rec.Body.String()).Secret; secret == "" {
		w.t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	w.do("POST /account/totp/confirm", p.token, code(""))
	codes := decode[struct {
		Codes []string `json:"backup_codes"`
	}](w.t, w.do("POST /account/backup-codes", p.token, code(""))).Codes
	held := func() string {
		rec, _, _ := w.send("POST /api/collections/users/auth-with-password (checkpoint)", "", p.credentials())
		return decode[struct{ Checkpoint struct{ Token string } }](w.t, rec.Body.String()).Checkpoint.Token
	}
	w.do("POST /api/collections/users/auth-with-password (checkpoint)", "", say(p.credentials()))
	w.do("POST /account/checkpoint", "", func() string { return code(fmt.Sprintf(`,"checkpoint":%q`, held()))() })
	w.do("POST /account/checkpoint (a backup code)", "", func() string { return fmt.Sprintf(`{"backup_code":%q,"checkpoint":%q}`, codes[0], held()) })
	w.do("DELETE /account/totp", p.token, code(""))

	k := newPasskey(p.id)
	made := w.do("POST /account/passkeys", p.token, func() string {
		return "{" + w.challenge("/account/passkeys/options", p.token, "{}", k.attest) + `,"name":"Blue key"}`
	})
	id := decode[struct{ Passkey struct{ ID string } }](w.t, made).Passkey.ID
	w.do("PATCH /account/passkeys/{passkey}", p.token, say(`{"name":"Red key"}`), id)
	w.do("POST /account/proof (a passkey)", p.token, func() string {
		return `{"passkey":{` + w.challenge("/account/proof/options", p.token, "{}", k.assert) + "}}"
	})
	w.do("POST /account/sign-in/passkey", "", func() string { return "{" + w.challenge("/account/sign-in/passkey/options", "", "{}", k.assert) + "}" })
	w.do("DELETE /account/passkeys/{passkey}", p.token, say(""), id)
}

// ways are the other ways in: a code by mail, and a provider.
func (w *writing) ways() {
	const door = "/api/collections/users/"
	bob := w.of("bob@example.org")
	code := func() string {
		r := w.record(bob.email)
		o := core.NewOTP(w.app)
		o.SetCollectionRef(r.Collection().Id)
		o.SetRecordRef(r.Id)
		o.SetPassword("31415926")
		o.SetSentTo(bob.email)
		must(w.t, w.app.Save(o))
		return fmt.Sprintf(`{"otpId":%q,"password":"31415926"}`, o.Id)
	}
	w.do("POST "+door+"auth-with-otp", "", code)
	w.set("users", dbx.Params{"verified": false}, dbx.HashExp{"id": bob.id})
	w.do("POST "+door+"auth-with-otp (an address that was not confirmed)", "", code)
	provider := newIssuer(w.t, "the-client-secret")
	raw, err := json.Marshal(map[string]any{"oauth2": map[string]any{"enabled": true, "providers": []map[string]any{{
		"name": "oidc", "clientId": "mamba", "clientSecret": "the-client-secret",
		"authURL": provider.URL + "/authorize", "tokenURL": provider.URL + "/token", "userInfoURL": provider.URL + "/userinfo",
	}}}})
	must(w.t, err)
	if status, answer := w.settled.do("PATCH", "/api/collections/users", string(raw)); status != 200 {
		w.t.Fatalf("%d %s", status, answer)
	}
	from := say(`{"provider":"oidc","code":"c-from-the-provider","codeVerifier":"v-of-the-browser","redirectURL":"http://127.0.0.1/x"}`)
	w.do("POST "+door+"auth-with-oauth2 (a new account)", "", from)
	answer := w.do("POST "+door+"auth-with-oauth2", "", from)
	token := decode[struct{ Token string }](w.t, answer).Token
	untie := func() string { return firstOf(w.t, w.app, core.CollectionNameExternalAuths).Id }
	w.do("DELETE /api/collections/_externalAuths/records/{row}", token, say(""), untie())
	w.do("POST "+door+"auth-with-oauth2 (an account that was there)", "", from)
	w.set("users", dbx.Params{"verified": false}, dbx.HashExp{"email": "oidc@example.org"})
	w.do("POST "+door+"auth-with-oauth2 (an address that was not confirmed)", "", from)
}

// organisation is an organisation with its people, roles and keys.
func (w *writing) organisation(ann *person, hook string) {
	t, tenant, boss := w.t, w.tenant, w.signIn("owner@demo.example")
	id := func(raw string) string { return decode[struct{ ID string }](t, raw).ID }
	w.do("POST /tenants", ann.token, say(`{"name":"Ann's"}`))
	own := id(w.do("POST /account/keys", ann.token, say(`{"name":"robot","permissions":["server.read"]}`)))
	w.do("DELETE /account/keys/{key}", ann.token, say(""), own)
	w.do("PATCH /tenants/{id}", boss, say(`{"name":"Demo Corporation"}`), tenant)
	role := id(w.do("POST /tenants/{id}/roles", boss, say(`{"name":"Guests","permissions":["server.read"]}`), tenant))
	w.do("PATCH /tenants/{id}/roles/{role}", boss, say(`{"permissions":["server.read","server.start"]}`), tenant, role)
	w.do("DELETE /tenants/{id}/roles/{role}", boss, say(""), tenant, role)

	invite := func(email string) string {
		return id(w.do("POST /tenants/{id}/members/invite", boss, say(fmt.Sprintf(`{"email":%q,"role":"MEMBER"}`, email)), tenant))
	}
	one := invite("guest-2@example.org")
	w.do("POST /tenants/{id}/invites/{invite}/resend", boss, func() string {
		w.set(collections.Invites, dbx.Params{"updated": collections.Stamp(time.Now().Add(-time.Hour))}, dbx.HashExp{"id": one})
		return ""
	}, tenant, one)
	w.do("DELETE /tenants/{id}/invites/{invite}", boss, say(""), tenant, one)
	carl := w.of("carl@example.org")
	for _, p := range []*person{ann, carl} {
		one = invite(p.email)
		w.do("POST /invites/{invite}/accept", p.token, say(fmt.Sprintf(`{"token":%q}`, w.inviteToken(one))), one)
	}
	w.do("PATCH /tenants/{id}/members/{user}", boss, say(`{"role":"SUPPORT"}`), tenant, ann.id)
	w.do("PUT /servers/{id}/access/{user}", boss, say(`{"role":"ADMIN"}`), w.server, ann.id)
	w.do("DELETE /servers/{id}/access/{user}", boss, say(""), w.server, ann.id)
	w.do("DELETE /tenants/{id}/members/{user} (oneself)", carl.token, say(""), tenant, carl.id)

	raw := w.do("POST /tenants/{id}/keys", boss, say(`{"name":"maker","permissions":["server.read","server.create"]}`), tenant)
	secret := decode[struct{ Secret string }](t, raw).Secret
	w.holders[secret] = id(raw)
	w.do("POST /servers (an API key)", secret, say(`{"name":"by-a-key","blueprint":"demo","limits":{"cpu_millicores":250,"memory_mib":64,"disk_gib":1}}`))
	w.do("DELETE /tenants/{id}/keys/{key}", boss, say(""), tenant, id(raw))

	channel := id(w.do("POST /tenants/{id}/channels", boss, say(fmt.Sprintf(`{"name":"Room 2","url":%q}`, hook+"/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz")), tenant))
	w.do("PATCH /tenants/{id}/channels/{channel}", boss, say(`{"kinds":{"server.crashed":false}}`), tenant, channel)
	w.do("POST /tenants/{id}/channels/{channel}/test", boss, say(""), tenant, channel)
	w.do("DELETE /tenants/{id}/channels/{channel}", boss, say(""), tenant, channel)

	w.do("POST /audit/export", boss, say(`{"format":"json"}`))
	export := id(w.do("POST /tenants/{id}/export", boss, say(""), tenant))
	collectionstest.Eventually(t, "the archive is ready", func() bool {
		return w.count(collections.Exports, dbx.HashExp{"id": export, "status": "READY"}) == 1
	})
	const download = "GET /tenants/{id}/exports/{export}/download"
	w.tokens[download] = func() string { return w.intent(boss, tenant, export) }
	w.do(download, boss, say(""), tenant, export)
}

// notices are one's own: what one is told, and where.
func (w *writing) notices(hook string) {
	t := w.t
	dora := w.of("dora@example.org")
	boss := w.signIn("owner@demo.example")
	id := func(raw string) string { return decode[struct{ ID string }](t, raw).ID }
	w.do("PUT /notifications/preferences", dora.token, say(`{"kind":"server.crashed","channel":"email","enabled":false}`))
	channel := id(w.do("POST /notifications/channels", dora.token, say(fmt.Sprintf(`{"name":"Mine","url":%q}`, hook+"/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxy0"))))
	w.do("POST /notifications/channels/{channel}/test", dora.token, say(""), channel)
	w.do("DELETE /notifications/channels/{channel}", dora.token, say(""), channel)
	w.do("PUT /notifications/mutes/{server}", boss, say(""), w.server)
	w.do("DELETE /notifications/mutes/{server}", boss, say(""), w.server)
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	must(t, err)
	encode := base64.RawURLEncoding.EncodeToString
	browser := id(w.do("POST /notifications/push", dora.token, say(fmt.Sprintf(`{"endpoint":%q,"keys":{"p256dh":%q,"auth":%q}}`, hook+"/push/of-dora", encode(key.PublicKey().Bytes()), encode([]byte("sixteen letters."))))))
	w.do("POST /notifications/push/{subscription}/test", dora.token, say(""), browser)
	w.do("DELETE /notifications/push/{subscription}", dora.token, say(""), browser)
}

// servers are the organisation's.
func (w *writing) servers() {
	boss := w.signIn("owner@demo.example")
	raw := w.do("POST /servers", boss, say(`{"name":"one-more","blueprint":"demo","start":true,"limits":{"cpu_millicores":250,"memory_mib":64,"disk_gib":1},"variables":{"MOTD":"hello"}}`))
	id := decode[struct{ Server struct{ ID string } }](w.t, raw).Server.ID
	w.do("PATCH /servers/{id}", boss, say(`{"name":"another-name"}`), id)
	w.do("POST /servers/{id}/actions", boss, say(`{"action":"reinstall"}`), w.server)
	w.do("DELETE /servers/{id}", boss, say(""), id)
}

// operators do what is theirs.
func (w *writing) operators() {
	t := w.t
	root := w.super
	w.do("POST /admin/tenants/{id}/suspend", root, say(`{"reason":"The bill is not paid."}`), w.tenant)
	w.do("POST /admin/tenants/{id}/resume", root, say(""), w.tenant)
	raw := w.do("POST /admin/nodes", root, say(`{"name":"n-1","public_addresses":["203.0.113.7"],"cpu_millicores":1000,"memory_mib":1024,"disk_mib":1024}`))
	node := decode[struct{ ID string }](t, raw).ID
	w.do("PATCH /admin/nodes/{id}", root, say(`{"location":"Frankfurt"}`), node)
	w.do("POST /admin/nodes/{id}/join-token", root, say(""), node)
	w.do("POST /admin/nodes/{id}/mode", root, say(`{"mode":"DRAINING"}`), node)
	w.do("POST /admin/nodes/{id}/ports", root, say(`{"addresses":"203.0.113.7","ports":"25565-25567"}`), node)
	w.do("POST /admin/allocations/scan", root, func() string { // a port that nobody holds and nobody can have
		w.set(collections.PortPools, dbx.Params{"is_allocated": true}, dbx.HashExp{"node": node, "port": 25567})
		return `{"dry_run":false}`
	})
	w.do("DELETE /admin/nodes/{id}/ports", root, say(`{"addresses":"203.0.113.7","ports":"25565-25566"}`), node)
	w.do("DELETE /admin/nodes/{id}", root, say(""), node)
	var done []string
	collectionstest.Eventually(t, "two jobs are done", func() bool {
		must(t, w.app.DB().Select("id").From(collections.Jobs).Where(dbx.HashExp{"tenant": w.tenant, "state": "done"}).Limit(2).Column(&done))
		return len(done) == 2
	})
	w.set(collections.Jobs, dbx.Params{"state": "dead"}, dbx.In("id", done[0], done[1]))
	w.do("POST /admin/jobs/{id}/discard", root, say(""), done[0])
	w.do("POST /admin/jobs/{id}/retry", root, say(""), done[1])
	w.do("POST /admin/incidents/{id}/resolve", root, say(`{"resolution":"The clock is right again."}`), w.ids["/admin/incidents/"])
}

// ends is what cannot be done twice.
func (w *writing) ends(ann *person) {
	boss := w.signIn("owner@demo.example")
	member := w.record("member@demo.example").Id
	w.do("DELETE /tenants/{id}/members/{user}", boss, say(""), w.tenant, member)
	w.do("POST /tenants/{id}/transfer", boss, say(fmt.Sprintf(`{"user":%q}`, ann.id)), w.tenant)
	w.enter(ann)
	w.do("POST /tenants/{id}/delete", ann.token, say(`{"name":"Demo Corporation"}`), w.tenant)
	w.do("DELETE /tenants/{id}/delete", ann.token, say(""), w.tenant)
	eve := w.of("eve@example.org")
	w.do("DELETE /account", eve.token, say(""))
	w.do("DELETE /api/collections/users/records/{user}", w.super, say(""), member)
}
