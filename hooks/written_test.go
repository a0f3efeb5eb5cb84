package hooks

import (
	"crypto/ecdh"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/descope/virtualwebauthn"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pquerna/otp/totp"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
)

// entry is what a request leaves in the audit log.
type entry struct {
	action string
	actor  string // its type
	org    bool   // in the organisation's chain; else in the installation's
}

// byUser and byOperator are about accounts and the installation, inOrg and operatorInOrg about an organisation.
func byUser(action string) entry        { return entry{action, access.TypeUser, false} }
func byOperator(action string) entry    { return entry{action, access.TypeSuperuser, false} }
func inOrg(action string) entry         { return entry{action, access.TypeUser, true} }
func operatorInOrg(action string) entry { return entry{action, access.TypeSuperuser, true} }

// written says what each route that changes something leaves in the audit log. What is in brackets tells two uses of a
// route apart. Those that begin with /api are PocketBase's own, as far as customers may use them.
var written = map[string]entry{
	"DELETE /account":                                              byUser("user.delete"),
	"DELETE /account/sessions/{session}":                           byUser("session.end"),
	"DELETE /account/sessions/others":                              byUser("session.end_others"),
	"POST /account/proof":                                          byUser("session.prove"),
	"POST /account/proof (a passkey)":                              byUser("session.prove"),
	"POST /account/totp/confirm":                                   byUser("user.totp_enable"),
	"DELETE /account/totp":                                         byUser("user.totp_disable"),
	"POST /account/backup-codes":                                   byUser("user.backup_codes_renew"),
	"POST /account/passkeys":                                       byUser("user.passkey_add"),
	"PATCH /account/passkeys/{passkey}":                            byUser("user.passkey_rename"),
	"DELETE /account/passkeys/{passkey}":                           byUser("user.passkey_remove"),
	"POST /account/checkpoint":                                     byUser("user.sign_in"),
	"POST /account/checkpoint (a backup code)":                     byUser("user.backup_code_use"),
	"POST /account/sign-in/passkey":                                byUser("user.sign_in"),
	"POST /account/keys":                                           byUser("account.key_make"),
	"DELETE /account/keys/{key}":                                   byUser("account.key_revoke"),
	"PUT /notifications/preferences":                               byUser("notification.preference"),
	"POST /notifications/channels":                                 byUser("notification.channel_add"),
	"POST /notifications/channels/{channel}/test":                  byUser("notification.channel_test"),
	"DELETE /notifications/channels/{channel}":                     byUser("notification.channel_remove"),
	"PUT /notifications/mutes/{server}":                            byUser("notification.mute"),
	"DELETE /notifications/mutes/{server}":                         byUser("notification.mute"),
	"POST /notifications/push":                                     byUser("notification.push_add"),
	"POST /notifications/push/{subscription}/test":                 byUser("notification.push_test"),
	"DELETE /notifications/push/{subscription}":                    byUser("notification.push_remove"),
	"POST /tenants":                                                inOrg("tenant.create"),
	"PATCH /tenants/{id}":                                          inOrg("tenant.update"),
	"POST /tenants/{id}/transfer":                                  inOrg("tenant.transfer"),
	"POST /tenants/{id}/delete":                                    inOrg("tenant.delete"),
	"DELETE /tenants/{id}/delete":                                  inOrg("tenant.keep"),
	"POST /tenants/{id}/export":                                    inOrg("export.create"),
	"GET /tenants/{id}/exports/{export}/download":                  inOrg("export.download"),
	"POST /tenants/{id}/members/invite":                            inOrg("member.invite"),
	"POST /tenants/{id}/invites/{invite}/resend":                   inOrg("invite.resend"),
	"DELETE /tenants/{id}/invites/{invite}":                        inOrg("invite.revoke"),
	"POST /invites/{invite}/accept":                                inOrg("member.join"),
	"PATCH /tenants/{id}/members/{user}":                           inOrg("member.update"),
	"DELETE /tenants/{id}/members/{user}":                          inOrg("member.remove"),
	"DELETE /tenants/{id}/members/{user} (oneself)":                inOrg("member.leave"),
	"PUT /servers/{id}/access/{user}":                              inOrg("member.update"),
	"DELETE /servers/{id}/access/{user}":                           inOrg("member.update"),
	"POST /tenants/{id}/roles":                                     inOrg("role.create"),
	"PATCH /tenants/{id}/roles/{role}":                             inOrg("role.update"),
	"DELETE /tenants/{id}/roles/{role}":                            inOrg("role.delete"),
	"POST /tenants/{id}/keys":                                      inOrg("key.make"),
	"DELETE /tenants/{id}/keys/{key}":                              inOrg("key.revoke"),
	"POST /tenants/{id}/channels":                                  inOrg("notification.channel_add"),
	"PATCH /tenants/{id}/channels/{channel}":                       inOrg("notification.channel_kinds"),
	"POST /tenants/{id}/channels/{channel}/test":                   inOrg("notification.channel_test"),
	"DELETE /tenants/{id}/channels/{channel}":                      inOrg("notification.channel_remove"),
	"POST /audit/export":                                           inOrg("audit.export"),
	"POST /servers":                                                inOrg("server.create"),
	"POST /servers (an API key)":                                   {"server.create", access.TypeAPIKey, true},
	"PATCH /servers/{id}":                                          inOrg("server.update"),
	"POST /servers/{id}/actions":                                   inOrg("server.reinstall"),
	"DELETE /servers/{id}":                                         inOrg("server.delete"),
	"POST /admin/tenants/{id}/suspend":                             operatorInOrg("tenant.suspend"),
	"POST /admin/tenants/{id}/resume":                              operatorInOrg("tenant.resume"),
	"POST /admin/nodes":                                            byOperator("node.created"),
	"PATCH /admin/nodes/{id}":                                      byOperator("node.updated"),
	"DELETE /admin/nodes/{id}":                                     byOperator("node.deleted"),
	"POST /admin/nodes/{id}/join-token":                            byOperator("node.join_token_created"),
	"POST /admin/nodes/{id}/mode":                                  byOperator("node.mode_changed"),
	"POST /admin/nodes/{id}/ports":                                 byOperator("node.add_ports"),
	"DELETE /admin/nodes/{id}/ports":                               byOperator("node.remove_ports"),
	"POST /admin/allocations/scan":                                 byOperator("allocation.scan"),
	"POST /admin/jobs/{id}/retry":                                  operatorInOrg("job.retry"),
	"POST /admin/jobs/{id}/discard":                                operatorInOrg("job.discard"),
	"POST /admin/incidents/{id}/resolve":                           byOperator("incident.resolve"),
	"POST /api/collections/users/records":                          byUser("user.create"),
	"PATCH /api/collections/users/records/{user}":                  byUser("user.update"),
	"DELETE /api/collections/users/records/{user}":                 byOperator("user.delete"),
	"POST /api/collections/users/confirm-verification":             byUser("user.verify"),
	"POST /api/collections/users/confirm-password-reset":           byUser("user.password_reset"),
	"POST /api/collections/users/confirm-email-change":             byUser("user.email_change"),
	"POST /api/collections/users/auth-with-password":               byUser("user.sign_in"),
	"POST /api/collections/users/auth-with-password (checkpoint)":  byUser("user.checkpoint"),
	"POST /api/collections/users/auth-with-otp":                    byUser("user.sign_in"),
	"POST /api/collections/users/auth-with-oauth2":                 byUser("user.sign_in"),
	"POST /api/collections/users/auth-with-oauth2 (a new account)": byUser("user.create"),
	"POST /api/collections/users/auth-with-otp (an address that was not confirmed)":    byUser("user.verify"),
	"POST /api/collections/users/auth-with-oauth2 (an account that was there)":         byUser("user.provider_add"),
	"POST /api/collections/users/auth-with-oauth2 (an address that was not confirmed)": byUser("user.verify"),
	"DELETE /api/collections/_externalAuths/records/{row}":                             byUser("dashboard.delete"),
}

// unwritten are the routes that leave no row when they have done what they are for, and why.
var unwritten = map[string]string{
	"POST /account/sessions/refresh":                     "a session goes on; one that is used twice is written (session.reuse)",
	"POST /account/proof/options":                        "a challenge, which is spent or forgotten",
	"POST /account/passkeys/options":                     "a challenge",
	"POST /account/checkpoint/options":                   "a challenge",
	"POST /account/sign-in/passkey/options":              "a challenge",
	"POST /account/totp":                                 "a secret that counts for nothing until it is confirmed",
	"POST /tenants/{id}/switch":                          "which organisation a session shows",
	"POST /tenants/{id}/exports/{export}/token":          "a token for a minute; the download is written",
	"POST /invites/{invite}/preview":                     "it changes nothing",
	"POST /notifications/read":                           "what one has read is nobody's to look up",
	"POST /notifications/read-all":                       "the same",
	"POST /servers/placement":                            "it reserves nothing",
	"POST /servers/{id}/console/token":                   "a token for a minute; each line that is sent by it is written",
	"POST /api/collections/users/auth-refresh":           "it is refused (TestAnOperatorsActsAreWrittenDown, hooks/access)",
	"POST /api/collections/users/request-otp":            "a mail",
	"POST /api/collections/users/request-verification":   "a mail",
	"POST /api/collections/users/request-password-reset": "a mail",
	"POST /api/collections/users/request-email-change":   "a mail",
	"DELETE /api/collections/_authOrigins/records/{row}": "there are none, which is looked at below; they would be written as _externalAuths are",
	"POST /api/files/token":                              "a token for files that are protected, of which there are none",
	"POST /api/oauth2-redirect":                          "a provider's answer on its way to the browser",
	"POST /api/batch":                                    "it is switched off",
	"POST /api/collections/users/impersonate/{user}":     "it is refused",
	"POST /api/realtime":                                 "what a browser listens to",
}

// writing is a panel whose audit log refuses what one browser does.
type writing struct {
	*settled
	tenant, server string
	refused        atomic.Pointer[string] // the action that the log takes no row of, while one is asked for
	asked          int
	seed           maphash.Seed
	did            map[string]bool
	holders        map[string]string        // of tokens that do not say it
	tokens         map[string]func() string // of routes that spend theirs, by key
}

// say is a body that is the same each time.
func say(body string) func() string { return func() string { return body } }

// send makes a request from an address and a browser of its own.
func (w *writing) send(key, token, body string, names ...string) (rec *httptest.ResponseRecorder, agent, address string) {
	w.t.Helper()
	w.asked++
	_, err := w.app.NonconcurrentDB().Delete(collections.RateLimits, nil).Execute() // what was refused counts as a try
	must(w.t, err)
	route, _, _ := strings.Cut(key, " (")
	method, path, _ := strings.Cut(route, " ")
	for _, name := range names {
		at := placeholder.FindStringIndex(path)
		path = path[:at[0]] + name + path[at[1]:]
	}
	if placeholder.MatchString(path) {
		w.t.Fatalf("%s: nothing is known of what it names", path)
	}
	if !strings.HasPrefix(path, "/api/") {
		path = "/api/v1" + path
	}
	agent, address = fmt.Sprintf("Browser %c (%d)", 'A'+w.asked%26, w.asked), fmt.Sprintf("198.%d.%d.7", 18+w.asked/250, w.asked%250)
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.RemoteAddr = address + ":4711"
	req.Header.Set("Content-Type", plain)
	req.Header.Set("User-Agent", agent)
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	if one := w.tokens[key]; one != nil {
		req.Header.Del("Authorization")
		req.Header.Set("X-Download-Token", one())
	}
	if written[key].org && !strings.HasPrefix(token, "mk_") {
		req.Header.Set("X-Tenant", w.tenant)
	}
	rec = httptest.NewRecorder()
	w.mux.ServeHTTP(rec, req)
	return rec, agent, address
}

// do has a request refused by the audit log, which changes nothing, and then done, which leaves a row. It returns the answer.
// body is asked for each of the requests: what it holds may be good for one of them only.
func (w *writing) do(key, token string, body func() string, names ...string) string {
	w.t.Helper()
	want, ok := written[key]
	if !ok {
		w.t.Fatalf("%s is not in the table", key)
	}
	w.did[key] = true
	w.refuse(key, token, body, names...)
	sent := body()
	rec, agent, address := w.send(key, token, sent, names...)
	raw := rec.Body.String()
	if done := rec.Code >= 200 && rec.Code < 300; !done && !(rec.Code == http.StatusUnauthorized && want.action == "user.checkpoint") {
		w.t.Errorf("%s: %d %.600s", key, rec.Code, raw)
		return raw
	}
	chain := ""
	if want.org {
		chain = w.tenant
		if key == "POST /tenants" {
			chain = decode[struct{ ID string }](w.t, raw).ID
		}
	}
	rows, err := collections.Every[collections.AuditLog](w.app, collections.AuditLogs, "seq", 0, dbx.HashExp{"user_agent": agent})
	must(w.t, err)
	found := false
	for _, row := range rows {
		if row.Address() != address || row.Request() != rec.Header().Get("X-Request-Id") {
			w.t.Errorf("%s: %s is said to come from %q in request %q, not from %q in %q", key, row.Action(), row.Address(), row.Request(), address, rec.Header().Get("X-Request-Id"))
		}
		for _, secret := range append(secretsIn(sent), secretsIn(raw)...) {
			if strings.Contains(row.GetString("metadata"), secret) {
				w.t.Errorf("%s: %s tells %q: %s", key, row.Action(), secret, row.GetString("metadata"))
			}
		}
		who := row.Resource() // signing in is the act of whom it is about
		if token != "" {
			who = w.holder(token)
		}
		if row.Action() == want.action && row.ActorType() == want.actor && row.Actor() == who && row.Tenant() == chain {
			found = true
		}
	}
	if !found {
		var have []string
		for _, row := range rows {
			have = append(have, fmt.Sprintf("%s by %s %s about %s in %q", row.Action(), row.ActorType(), row.Actor(), row.Resource(), row.Tenant()))
		}
		w.t.Errorf("%s: no row %s by %s in %q, but %q", key, want.action, want.actor, chain, have)
	}
	return raw
}

// spent are the tables in which a sign-in or a download marks as used what it was shown, before it goes on: whoever cannot be
// let in begins again, and shows something else.
var spent = map[string][]string{
	"POST /account/checkpoint":                    {collections.SignInCheckpoints, collections.TotpFactors},
	"POST /account/sign-in/passkey":               {collections.Passkeies},
	"GET /tenants/{id}/exports/{export}/download": {collections.SpentTokens},
}

// refuse asks while the audit log takes nothing from who asks: the answer is an error and nothing else is changed.
// What the panel does by itself meanwhile is told apart by asking again.
func (w *writing) refuse(key, token string, body func() string, names ...string) {
	w.t.Helper()
	var always map[string]bool
	for range 50 {
		sent := body()
		before := w.everything()
		action := written[key].action
		w.refused.Store(&action)
		rec, agent, _ := w.send(key, token, sent, names...)
		w.refused.Store(nil)
		if rec.Code < 400 {
			w.t.Errorf("%s: the audit log takes no row, and the answer is %d %.300s", key, rec.Code, rec.Body)
			return
		}
		if rec.Code < 500 && !strings.Contains(key, " /api/") { // PocketBase blames the asker
			w.t.Errorf("%s: the audit log takes no row, and %d %.300s is said to be the asker's fault", key, rec.Code, rec.Body)
			return
		}
		if n := w.count(collections.AuditLogs, dbx.HashExp{"user_agent": agent, "action": action}); n != 0 {
			w.t.Errorf("%s: %d rows were written none the less", key, n)
		}
		for _, c := range rec.Result().Cookies() {
			if c.Value != "" {
				w.t.Errorf("%s: the audit log takes no row, and a cookie was handed out", key)
			}
		}
		changes := map[string]bool{}
		for _, table := range difference(before, w.everything()) {
			if !slices.Contains(spent[key], table) && (always == nil || always[table]) {
				changes[table] = true
			}
		}
		if len(changes) == 0 {
			return
		}
		always = changes
	}
	w.t.Errorf("%s: the audit log takes no row, and each time something is changed in %v", key, slices.Sorted(maps.Keys(always)))
}

// moving are columns that time and machines change, and tables in which a refusal leaves something on purpose: tries are
// counted, and a challenge is spent by any answer.
var moving = []string{"updated", "last_heartbeat", "heartbeat", "clock_skew_ms"}

var besides = []string{collections.RateLimits, collections.PasskeyChallenges, collections.BlueprintRows, collections.BlueprintVersions, collections.Permissions, collections.PanelInstances, collections.Leaders, collections.CronRuns, "_mfas"}

// everything is a hash of each row by table and id.
func (w *writing) everything() map[string]uint64 {
	w.t.Helper()
	out := map[string]uint64{}
	for _, table := range tables(w.t, w.app) {
		if slices.Contains(besides, table) {
			continue
		}
		rows, err := w.app.DB().NewQuery("SELECT * FROM {{" + table + "}}").Rows()
		must(w.t, err)
		columns, err := rows.Columns()
		must(w.t, err)
		id := slices.Index(columns, "id")
		values, into := make([]sql.RawBytes, len(columns)), make([]any, len(columns))
		for i, column := range columns {
			if into[i] = &values[i]; slices.Contains(moving, column) {
				into[i] = new(any)
			}
		}
		for rows.Next() {
			must(w.t, rows.Scan(into...))
			var h maphash.Hash
			h.SetSeed(w.seed)
			for i, v := range values {
				_, _ = fmt.Fprintf(&h, "%d:%d:", i, len(v))
				_, _ = h.Write(v)
			}
			out[table+"/"+string(values[id])] = h.Sum64()
		}
		must(w.t, errors.Join(rows.Err(), rows.Close()))
	}
	return out
}

// difference names the tables in which something is new, gone or changed.
func difference(before, after map[string]uint64) (out []string) {
	add := func(id string) {
		if table, _, _ := strings.Cut(id, "/"); !slices.Contains(out, table) {
			out = append(out, table)
		}
	}
	for id, now := range after {
		if was, ok := before[id]; !ok || was != now {
			add(id)
		}
	}
	for id := range before {
		if _, ok := after[id]; !ok {
			add(id)
		}
	}
	return out
}

// holder is the id in a token of a person, or that of an API key.
func (w *writing) holder(token string) string {
	w.t.Helper()
	if id := w.holders[token]; id != "" {
		return id
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		w.t.Fatalf("nobody is known to hold %.20s", token)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	must(w.t, err)
	return decode[struct{ ID string }](w.t, string(raw)).ID
}

// secretsIn are the values of a JSON text that are nobody's to read later.
func secretsIn(text string) (out []string) {
	names := []string{"password", "passwordConfirm", "oldPassword", "token", "checkpoint", "backup_code", "backup_codes", "refresh_token", "url", "endpoint", "auth", "p256dh", "secret", "command", "clientDataJSON", "signature", "code", "codeVerifier"}
	var walk func(name string, v any)
	walk = func(name string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(k, x)
			}
		case []any:
			for _, x := range v {
				walk(name, x)
			}
		case string:
			if slices.Contains(names, name) {
				for _, word := range strings.Fields(v) {
					if len(word) >= 6 {
						out = append(out, word)
					}
				}
			}
		}
	}
	var tree any
	if json.Unmarshal([]byte(text), &tree) == nil {
		walk("", tree)
	}
	return out
}

// Every request that changes something leaves a row in the audit log, in the transaction of the change: when the log
// takes no row, nothing is changed.
func TestEveryChangeIsWritten(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(receiver.Close)
	u, err := url.Parse(receiver.URL)
	must(t, err)
	s := settle(t, func(c *Config) {
		c.PublicURL = "https://panel.example.test"
		c.TokenPace, c.AddressPace = -1, -1
		c.WebhookHosts, c.OutboundAllow = u.Host, "127.0.0.0/8"
	})
	s.app.OnMailerSend().Bind(handler("mamba.test.mail", first, func(*core.MailerEvent) error { return nil }))
	w := &writing{settled: s, tenant: s.ids["/tenants/"], server: s.ids["/servers/"], seed: maphash.MakeSeed(), did: map[string]bool{}, holders: map[string]string{}, tokens: map[string]func() string{}}
	s.app.OnRecordCreate(collections.AuditLogs).Bind(handler("mamba.test.refused", first, func(e *core.RecordEvent) error {
		if action := w.refused.Load(); action != nil && e.Record.GetString("action") == *action {
			return errors.New("the audit log takes nothing")
		}
		return e.Next()
	}))
	w.listed()
	ann := w.account()
	w.factors(ann)
	w.ways()
	w.organisation(ann, receiver.URL)
	w.notices(receiver.URL)
	w.servers()
	w.operators()
	w.ends(ann)
	for key := range written {
		if !w.did[key] {
			t.Errorf("%s is in the table and was not asked", key)
		}
	}
	if n := w.count(core.CollectionNameAuthOrigins, dbx.NewExp("1=1")); n != 0 {
		t.Errorf("there are %d rows that their owner may delete", n)
	}
	reports, err := s.Audit.VerifyAll(s.app)
	must(t, err)
	rows := int64(0)
	for _, r := range reports {
		rows += r.Rows
		if !r.OK() {
			t.Errorf("the chain of %q: %+v", r.Tenant, r.Problems)
		}
	}
	t.Logf("%d routes leave a row and change nothing without one, %d leave none; %d chains with %d rows hold", len(written), len(unwritten), len(reports), rows)
}

// listed compares the tables with the routes that there are.
func (w *writing) listed() {
	w.t.Helper()
	known := map[string]bool{}
	for key := range written {
		route, _, _ := strings.Cut(key, " (")
		known[route] = true
		if _, both := unwritten[route]; both {
			w.t.Errorf("%s is in both tables", route)
		}
	}
	for route := range unwritten {
		known[route] = true
	}
	there := routes(w.t)
	for _, route := range there {
		if !strings.HasPrefix(route, "GET ") && !known[route] {
			w.t.Errorf("%s is documented, and nothing is known here of what it leaves in the audit log", route)
		}
	}
	for route := range known {
		if _, path, _ := strings.Cut(route, " "); !strings.HasPrefix(path, "/api/") && !slices.Contains(there, route) {
			w.t.Errorf("%s is in a table, and there is no such route", route)
		}
	}
}

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

// key is an authenticator with a passkey.
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
