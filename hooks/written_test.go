package hooks

import (
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
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
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
	"DELETE /api/collections/_externalAuths/records/{row}":                             byUser("user.provider_remove"),
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
	"POST /api/collections/users/auth-refresh":           "it is refused: a session goes on at /account/sessions/refresh",
	"POST /api/collections/users/request-otp":            "a mail",
	"POST /api/collections/users/request-verification":   "a mail",
	"POST /api/collections/users/request-password-reset": "a mail",
	"POST /api/collections/users/request-email-change":   "a mail",
	"DELETE /api/collections/_authOrigins/records/{row}": "there are none, which is looked at below; they would be written as dashboard.delete",
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
	shape := func(route string) string {
		return placeholder.ReplaceAllString(recordsOf.ReplaceAllString(route, "/api/collections/{x}/"), "{x}")
	}
	shapes := map[string]bool{}
	for route := range known {
		shapes[shape(route)] = true
	}
	theirs := map[string]bool{}
	for route, whose := range pocketBases {
		theirs[shape(route)] = true
		if !strings.HasPrefix(route, "GET ") && whose != operators && whose != switched && !shapes[shape(route)] {
			w.t.Errorf("%s is a route of PocketBase, and nothing is known here of what it leaves in the audit log", route)
		}
	}
	there := routes(w.t)
	for _, route := range there {
		if !strings.HasPrefix(route, "GET ") && !known[route] {
			w.t.Errorf("%s is documented, and nothing is known here of what it leaves in the audit log", route)
		}
	}
	for route := range known {
		if _, path, _ := strings.Cut(route, " "); strings.HasPrefix(path, "/api/") && !theirs[shape(route)] || !strings.HasPrefix(path, "/api/") && !slices.Contains(there, route) {
			w.t.Errorf("%s is in a table, and there is no such route", route)
		}
	}
}

// recordsOf is what names a collection in a path of PocketBase.
var recordsOf = regexp.MustCompile(`/api/collections/[^/]+/`)
