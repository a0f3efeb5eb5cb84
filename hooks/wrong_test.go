package hooks

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/incidents"
)

// Every route that docs/api.md lists is asked by who may not and with what makes no sense. A route that
// is listed there and not known here fails the tests.

var documented = regexp.MustCompile("(?m)^\\| `(GET|POST|PUT|PATCH|DELETE) (/[a-z{][^` ?]*)`")

// routes are "METHOD /path" as documented, those of the node listener left out.
func routes(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile("../docs/api.md")
	must(t, err)
	var out []string
	for _, m := range documented.FindAllStringSubmatch(string(raw), -1) {
		if !strings.HasPrefix(m[2], "/v1/") {
			out = append(out, m[1]+" "+m[2])
		}
	}
	if len(out) < 35 {
		t.Fatalf("only %d routes are documented", len(out))
	}
	return out
}

// settled is a panel with the demo, whose servers have come to rest, and an open incident.
type settled struct {
	*house
	ids   map[string]string // of what a path names, by the path before it
	named *strings.Replacer // what else a path names
}

func settle(t *testing.T, change ...func(*Config)) *settled {
	t.Helper()
	h := serve(t, newApp(t), func(c *Config) {
		for _, fn := range change {
			fn(c)
		}
	})
	_, err := h.demo().Accounts()
	must(t, err)
	h.joinLocal()
	must(t, h.demo().Fill(t.Context()))
	h.asSuperuser2()
	server := firstOf(t, h.app, collections.Servers)
	must(t, h.Incidents.Open(h.app, incidents.Incident{Kind: "node.clock", Severity: "warning", Title: "One to resolve"}))
	one := func(table string) string { return firstOf(t, h.app, table).Id }
	job, err := h.app.FindFirstRecordByData(collections.Jobs, "subject", server.Id)
	must(t, err)
	s := &settled{house: h, ids: map[string]string{
		"/tenants/": server.GetString("tenant"), "/admin/tenants/": server.GetString("tenant"), "/servers/": server.Id, "/jobs/": job.Id, "/blueprints/": "demo",
		"/admin/nodes/": server.GetString("node"), "/admin/jobs/": one(collections.Jobs), "/admin/incidents/": one(collections.Incidents),
	}}
	owner, tenant := s.as("owner@demo.example").super, s.ids["/tenants/"]
	made := func(path, body string) string {
		t.Helper()
		var row struct{ ID string }
		status, _, raw := s.ask(owner, tenant, "POST", "/api/v1/tenants/"+tenant+path, plain, body)
		if must(t, json.Unmarshal([]byte(raw), &row)); status != 201 {
			t.Fatalf("%d %s", status, raw)
		}
		return row.ID
	}
	s.named = strings.NewReplacer("{user}", firstOf(t, h.app, collections.TenantMembers).GetString("user"),
		"{invite}", made("/members/invite", `{"email":"guest@example.org","role":"MEMBER"}`), "{passkey}", "nosuchpasskey00", "{export}", "nosuchexport000", "{role}", made("/roles", `{"name":"Night watch"}`),
		"{key}", made("/keys", `{"name":"robot","permissions":["server.read"]}`), "{subscription}", "nosuchthing0000", "{server}", "nosuchserver000",
		"{channel}", made("/channels", `{"name":"Room","url":"https://discord.com/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz"}`))
	return s
}

// asSuperuser2 makes a second operator: the demo has one.
func (h *house) asSuperuser2() {
	h.t.Helper()
	c, err := h.app.FindCollectionByNameOrId(core.CollectionNameSuperusers)
	must(h.t, err)
	r := core.NewRecord(c)
	r.SetEmail("wrong@example.org")
	r.SetPassword("a-long-password")
	must(h.t, h.app.Save(r))
	h.super, err = r.NewAuthToken()
	must(h.t, err)
}

// path fills in what a documented path names.
func (s *settled) path(documented string) string {
	s.t.Helper()
	before, after, named := strings.Cut(s.named.Replace(documented), "{id}")
	if !named {
		return "/api/v1" + before
	}
	id, ok := s.ids[before]
	if !ok {
		s.t.Fatalf("%s: nothing is known of what it names", documented)
	}
	return "/api/v1" + before + id + after
}

type told struct {
	Status    int    `json:"status"`
	Code      string `json:"code"`
	Message   string `json:"message"`
	RequestID string `json:"request_id"`
}

func (s *settled) ask(token, tenant, method, path, kind, body string) (int, told, string) {
	s.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", kind)
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	if tenant != "" {
		req.Header.Set("X-Tenant", tenant)
	}
	rec := httptest.NewRecorder()
	s.mux.ServeHTTP(rec, req)
	var out told
	_ = json.Unmarshal(rec.Body.Bytes(), &out)
	return rec.Code, out, rec.Body.String()
}

func (s *settled) audited() int64 { return s.count(collections.AuditLogs, dbx.NewExp("1=1")) }

func (s *settled) person(email string) string {
	s.t.Helper()
	users, err := s.app.FindCollectionByNameOrId("users")
	must(s.t, err)
	u := core.NewRecord(users)
	u.SetEmail(email)
	u.SetPassword("a-long-password")
	u.SetVerified(true)
	must(s.t, s.app.Save(u))
	token, err := u.NewAuthToken()
	must(s.t, err)
	return token
}

const plain = "application/json"

// forEverybody are the routes that need no membership.
var forEverybody = map[string]string{
	"GET /account": "", "DELETE /account": "", "GET /tenants": "", "POST /tenants": "", "GET /blueprints": "", "GET /blueprints/{id}": "", "GET /blueprints/{id}/icon": "public", "GET /status": "public",
	"POST /invites/{invite}/preview": "public",
	"GET /account/keys":              "", "POST /account/keys": "", "DELETE /account/keys/{key}": "",
	"GET /notifications": "", "POST /notifications/read": "", "POST /notifications/read-all": "", "GET /notifications/preferences": "", "PUT /notifications/preferences": "",
	"GET /notifications/channels": "", "POST /notifications/channels": "", "DELETE /notifications/channels/{channel}": "", "POST /notifications/channels/{channel}/test": "",
	"GET /notifications/push": "", "POST /notifications/push": "", "DELETE /notifications/push/{subscription}": "", "POST /notifications/push/{subscription}/test": "",
	"GET /notifications/mutes": "", "PUT /notifications/mutes/{server}": "", "DELETE /notifications/mutes/{server}": "",
	"GET /account/sessions": "", "POST /account/sessions/refresh": "", "DELETE /account/sessions/{session}": "", "DELETE /account/sessions/others": "",
	"GET /account/factors": "", "POST /account/proof": "", "POST /account/proof/options": "", "POST /account/totp": "", "POST /account/totp/confirm": "", "DELETE /account/totp": "",
	"POST /account/backup-codes": "", "GET /account/passkeys": "", "POST /account/passkeys": "", "POST /account/passkeys/options": "", "PATCH /account/passkeys/{passkey}": "", "DELETE /account/passkeys/{passkey}": "",
	"POST /account/checkpoint": "public", "POST /account/checkpoint/options": "public", "POST /account/sign-in/passkey": "public", "POST /account/sign-in/passkey/options": "public",
}

func TestEveryRouteKeepsOthersOut(t *testing.T) {
	t.Parallel()
	s := settle(t)
	stranger := s.person("stranger@example.org")
	owner := s.as("owner@demo.example").super
	tenant := s.ids["/tenants/"]
	status, own, raw := s.ask(stranger, "", "POST", "/api/v1/tenants", plain, `{"name":"Strangers"}`)
	if status != 201 {
		t.Fatalf("%d %+v %s", status, own, raw)
	}
	before := s.audited()
	for _, route := range routes(t) {
		method, documented, _ := strings.Cut(route, " ")
		path, operators := s.path(documented), strings.HasPrefix(documented, "/admin/")
		if kind, open := forEverybody[route]; open {
			if status, _, raw := s.ask("", "", method, path, plain, "{}"); kind == "" && status != 401 {
				t.Errorf("%s by nobody: %d %.200s", route, status, raw)
			}
			continue
		}
		for who, token := range map[string]string{"nobody": "", "a broken token": owner + "x", "an intent's bearer": "Bearer nonsense"} {
			if status, out, raw := s.ask(token, tenant, method, path, plain, "{}"); status != 401 || out.Code == "" {
				t.Errorf("%s by %s: %d %.200s", route, who, status, raw)
			}
		}
		for who, named := range map[string]string{"naming the organisation": tenant, "naming it by its short name": "demo-corp", "naming his own": "strangers"} {
			status, out, raw := s.ask(stranger, named, method, path, plain, "{}")
			want := 404
			if operators {
				want = 403
			}
			if strings.HasSuffix(documented, "/console/ws") || strings.HasSuffix(documented, "/download") {
				want = 401 // it has a token of its own
			}
			elsewhere := named == "strangers" && !strings.Contains(documented, "{id}") // his own list, his own form
			if status != want && !elsewhere || strings.Contains(raw, s.ids["/servers/"]) || out.Code == "internal" {
				t.Errorf("%s by a stranger %s: %d %.200s", route, who, status, raw)
			}
		}
		if operators {
			if status, out, raw := s.ask(owner, tenant, method, path, plain, "{}"); status != 403 || out.Code != "superuser_only" {
				t.Errorf("%s by the owner of an organisation: %d %.200s", route, status, raw)
			}
		}
	}
	if n := s.audited() - before; n != 0 {
		t.Errorf("%d changes were made by who may not", n)
	}
}

// nonsense is no body of any route.
func nonsense() map[string]string {
	deep := func(open, end string) string { return strings.Repeat(open, 50_000) + strings.Repeat(end, 50_000) }
	return map[string]string{
		"nothing": "", "null": "null", "a list": "[]", "a text": `"x"`, "a number": "1", "half of one": `{"`, "two": "{}{}", "one and more": "{} x",
		"an unknown field": `{"nope":1}`, "a field twice": `{"nope":1,"nope":1}`, "a field of the table": `{"tenant":"x","rev":1}`, "the prototype": `{"__proto__":{"name":"x"}}`,
		"deep lists": deep("[", "]"), "deep objects": deep(`{"a":`, "}"), "no UTF-8": "{\"name\":\"\xff\"}", "half a surrogate": `{"name":"\ud800"}`,
		"NULs": "\x00\x00", "a mark first": "\ufeff{}", "more than is taken": `{"name":"` + strings.Repeat("a", 1<<20) + `"}`,
	}
}

// wrongKeys are bodies that make no API key.
var wrongKeys = []string{`{}`, `{"name":""}`, `{"name":"x"}`, `{"name":"x","permissions":[]}`, `{"name":"x","permissions":"server.read"}`, `{"name":"x","permissions":["nope"]}`, `{"name":"x","permissions":["key.manage"]}`,
	`{"name":"a\u202eb","permissions":["server.read"]}`, `{"name":"x","permissions":["server.read"],"addresses":["x"]}`, `{"name":"x","permissions":["server.read"],"expires_at":"tomorrow"}`,
	`{"name":"x","permissions":["server.read"],"servers":["../x"]}`, `{"name":"x","permissions":["server.read"],"user":"x"}`}

// wrongWebhooks are webhooks that are not Discord's.
var wrongWebhooks = []string{`{}`, `{"name":"x"}`, `{"name":"","url":"https://discord.com/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz"}`, `{"name":"x","url":"http://127.0.0.1:8090/"}`, `{"name":"x","url":"https://discord.com.evil.example/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz"}`,
	`{"name":"x","url":"file:///etc/passwd"}`, `{"name":"x","url":5}`, `{"name":"x","url":"https://discord.com@127.0.0.1/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz"}`, `{"name":"\u202e","url":"x"}`}

// wrong are bodies that look right, by route; nil: the route takes no body.
var wrong = map[string][]string{
	"POST /tenants":               {`{"name":""}`, `{"name":1}`, `{"NAME":"x"}`, `{"name":"a\u202eb"}`, `{"name":"x","slug":"-"}`, `{"name":"x","slug":"admin"}`, `{"name":"` + strings.Repeat("x", 81) + `"}`},
	"PATCH /tenants/{id}":         {`{"name":""}`, `{"name":[]}`, `{"slug":"a b"}`, `{"slug":"../x"}`, `{"status":"DELETED"}`, `{"quota_servers":9}`, `{"require_2fa":"yes"}`, `{"require_2fa":1}`},
	"POST /tenants/{id}/transfer": {`{}`, `{"user":""}`, `{"user":"me"}`, `{"user":"nosuchuser00000"}`, `{"user":["x"]}`},
	"POST /tenants/{id}/members/invite": {`{}`, `{"email":"x","role":"MEMBER"}`, `{"email":"x@example.org"}`, `{"email":"x@example.org","role":"OWNER"}`, `{"email":"x@example.org","role":"' OR 1=1"}`, `{"email":"x@example.org","role":"MEMBER","server":"nosuchserver000"}`, `{"email":"a@example.org
Bcc: b@example.org","role":"MEMBER"}`, `{"email":"` + strings.Repeat("x", 300) + `@example.org","role":"MEMBER"}`},
	"PATCH /tenants/{id}/members/{user}":           {`{}`, `{"role":null}`, `{"role":"OWNER"}`, `{"role":"nope"}`, `{"role":5}`, `{"user":"x"}`},
	"DELETE /tenants/{id}/members/{user}":          nil,
	"POST /tenants/{id}/delete":                    {`{}`, `{"name":""}`, `{"name":"demo"}`, `{"name":"DEMO CORP"}`, `{"name":["Demo Corp"]}`, `{"name":"Demo Corp"}`, `{"slug":"demo-corp"}`, `{"name":"Demo Corp","grace":0}`},
	"DELETE /tenants/{id}/delete":                  nil,
	"POST /tenants/{id}/export":                    nil,
	"POST /tenants/{id}/exports/{export}/token":    nil,
	"POST /tenants/{id}/invites/{invite}/resend":   nil,
	"DELETE /tenants/{id}/invites/{invite}":        nil,
	"POST /invites/{invite}/preview":               {`{}`, `{"token":""}`, `{"token":"x"}`, `{"token":1}`},
	"POST /invites/{invite}/accept":                {`{}`, `{"token":""}`, `{"token":"x"}`, `{"token":1}`},
	"PUT /servers/{id}/access/{user}":              {`{}`, `{"role":""}`, `{"role":"OWNER"}`, `{"role":"nope"}`, `{"role":{}}`},
	"DELETE /servers/{id}/access/{user}":           nil,
	"POST /tenants/{id}/roles":                     {`{}`, `{"name":""}`, `{"name":"a\u202eb"}`, `{"name":"Owner"}`, `{"name":"x","permissions":["nope"]}`, `{"name":"x","permissions":"server.read"}`, `{"name":"x","system":true}`, `{"name":"` + strings.Repeat("x", 81) + `"}`, `{"name":"x","description":"` + strings.Repeat("x", 256) + `"}`},
	"PATCH /tenants/{id}/roles/{role}":             {`{"name":""}`, `{"name":"member"}`, `{"permissions":["nope"]}`, `{"key":"OWNER"}`, `{"description":"\u202e"}`},
	"DELETE /tenants/{id}/roles/{role}":            nil,
	"POST /account/sessions/refresh":               {`{}`, `{"refresh_token":""}`, `{"refresh_token":"mr1.x.1.y"}`, `{"refresh_token":1}`},
	"POST /account/keys":                           wrongKeys,
	"DELETE /account/keys/{key}":                   nil,
	"POST /tenants/{id}/keys":                      wrongKeys,
	"DELETE /tenants/{id}/keys/{key}":              nil,
	"DELETE /account/sessions/{session}":           nil,
	"DELETE /account/sessions/others":              nil,
	"POST /tenants/{id}/switch":                    nil,
	"POST /audit/export":                           {`{}`, `{"format":""}`, `{"format":"xml"}`, `{"format":["csv"]}`, `{"format":"csv","tenant":"x"}`},
	"POST /servers":                                nil, // below
	"POST /servers/placement":                      {`{}`, `{"blueprint":"nope","limits":{"cpu_millicores":250,"memory_mib":64,"disk_gib":1}}`, `{"blueprint":"demo","limits":{}}`},
	"PATCH /servers/{id}":                          {`{"name":""}`, `{"name":"\u200d"}`, `{"limits":{}}`, `{"limits":{"cpu_millicores":1e9,"memory_mib":64,"disk_gib":1}}`, `{"variables":{"NOPE":"x"}}`, `{"variables":{"MOTD":"a\nb"}}`, `{"variables":[]}`, `{"node":"x"}`, `{"status":"STOPPED"}`},
	"DELETE /servers/{id}":                         nil,
	"POST /servers/{id}/actions":                   {`{}`, `{"action":""}`, `{"action":"update"}`, `{"action":"delete"}`, `{"action":"START"}`, `{"action":["start"]}`},
	"POST /servers/{id}/console/token":             nil,
	"POST /admin/nodes":                            {`{}`, `{"name":"n"}`, `{"name":"Bad Name","public_addresses":["203.0.113.1"],"cpu_millicores":1000,"memory_mib":1024,"disk_mib":1024}`, `{"name":"n","public_addresses":["not an address"],"cpu_millicores":1000,"memory_mib":1024,"disk_mib":1024}`, `{"name":"n","public_addresses":["203.0.113.1"],"cpu_millicores":-1,"memory_mib":1024,"disk_mib":1024}`},
	"PATCH /admin/nodes/{id}":                      {`{"name":""}`, `{"labels":[]}`, `{"labels":{"A":"x"}}`, `{"memory_mib":9e18}`, `{"status":"ONLINE"}`, `{"cert_fingerprint":"x"}`, `{"public_addresses":[]}`},
	"DELETE /admin/nodes/{id}":                     nil,
	"POST /admin/nodes/{id}/join-token":            nil,
	"POST /admin/nodes/{id}/mode":                  {`{}`, `{"mode":"OFFLINE"}`, `{"mode":"active"}`},
	"POST /admin/nodes/{id}/ports":                 {`{}`, `{"addresses":"203.0.113.0/8","ports":"1-65535"}`, `{"addresses":"x","ports":"1"}`, `{"addresses":"203.0.113.1","ports":"0"}`, `{"addresses":"203.0.113.1","ports":"70000"}`, `{"addresses":"203.0.113.1","ports":"9-1"}`, `{"addresses":"203.0.113.1","ports":"1","protocols":["sctp"]}`},
	"DELETE /admin/nodes/{id}/ports":               {`{}`, `{"addresses":"x","ports":"1"}`, `{"addresses":"203.0.113.1","ports":"x"}`},
	"POST /admin/allocations/scan":                 {`{"dry_run":"yes"}`, `{"dry_run":1}`},
	"POST /admin/jobs/{id}/retry":                  nil,
	"POST /admin/jobs/{id}/discard":                nil,
	"POST /admin/incidents/{id}/resolve":           {`{}`, `{"resolution":""}`, `{"resolution":"  "}`, `{"resolution":5}`},
	"POST /notifications/read":                     {`{}`, `{"ids":[]}`, `{"ids":"x"}`, `{"ids":[1]}`, `{"ids":null}`, `{"user":"x"}`},
	"POST /notifications/read-all":                 nil,
	"PUT /notifications/preferences":               {`{}`, `{"kind":"nope","channel":"app","enabled":true}`, `{"kind":"server.failed","channel":"sms","enabled":true}`, `{"kind":"server.failed","channel":"app"}`, `{"kind":"server.failed","channel":"app","enabled":"yes"}`, `{"kind":"account.new_sign_in","channel":"email","enabled":false}`, `{"kind":"node.incident","channel":"app","enabled":true}`},
	"POST /notifications/channels":                 wrongWebhooks,
	"DELETE /notifications/channels/{channel}":     nil,
	"POST /notifications/channels/{channel}/test":  nil,
	"POST /notifications/push":                     {`{}`, `{"endpoint":"","keys":{"p256dh":"","auth":""}}`, `{"endpoint":"http://push.example/x","keys":{"p256dh":"x","auth":"x"}}`, `{"endpoint":"https://push.example/x","keys":{"p256dh":"AAAA","auth":"AAAA"}}`, `{"endpoint":5}`, `{"endpoint":"https://127.0.0.1/x","keys":null}`},
	"DELETE /notifications/push/{subscription}":    nil,
	"POST /notifications/push/{subscription}/test": nil,
	"PUT /notifications/mutes/{server}":            nil,
	"DELETE /notifications/mutes/{server}":         nil,
	"POST /tenants/{id}/channels":                  wrongWebhooks,
	"DELETE /tenants/{id}/channels/{channel}":      nil,
	"PATCH /tenants/{id}/channels/{channel}":       {`{}`, `{"kinds":{}}`, `{"kinds":null}`, `{"kinds":["server.crashed"]}`, `{"kinds":{"nope":true}}`, `{"kinds":{"server.crashed":"yes"}}`, `{"kinds":{"server.crashed":1}}`, `{"kinds":{"account.new_sign_in":true}}`, `{"kinds":{"node.incident":false}}`, `{"kinds":{"server.crashed":false,"nope":false}}`, `{"name":"x"}`},
	"POST /tenants/{id}/channels/{channel}/test":   nil,
	"POST /admin/tenants/{id}/suspend":             {`{}`, `{"reason":""}`, `{"reason":"  "}`, `{"reason":5}`, `{"reason":"a\u202eb"}`, `{"reason":"` + strings.Repeat("x", 501) + `"}`},
	"POST /admin/tenants/{id}/resume":              nil,
	"DELETE /account":                              nil,
	"POST /account/proof":                          {`{}`, `{"password":""}`, `{"password":1}`, `{"password":"x"}`, `{"code":"123456","backup_code":"x"}`, `{"passkey":{}}`, `{"passkey":"x"}`},
	"POST /account/proof/options":                  nil,
	"POST /account/totp":                           nil,
	"POST /account/totp/confirm":                   {`{}`, `{"code":""}`, `{"code":123456}`, `{"code":"000000"}`, `{"secret":"x"}`},
	"DELETE /account/totp":                         {`{}`, `{"code":""}`, `{"code":"000000"}`, `{"backup_code":"x"}`, `{"password":"x"}`},
	"POST /account/backup-codes":                   {`{}`, `{"code":"000000"}`, `{"backup_code":["x"]}`},
	"POST /account/passkeys":                       {`{}`, `{"challenge":"x"}`, `{"challenge":"aaaaaaaaaaaaaaa","credential":{}}`, `{"challenge":"aaaaaaaaaaaaaaa","credential":{},"name":"a\u202eb"}`, `{"user":"x"}`},
	"POST /account/passkeys/options":               nil,
	"PATCH /account/passkeys/{passkey}":            {`{}`, `{"name":""}`, `{"name":"x"}`, `{"name":1}`, `{"user":"x"}`},
	"DELETE /account/passkeys/{passkey}":           nil,
	"POST /account/checkpoint":                     {`{}`, `{"checkpoint":""}`, `{"checkpoint":"mc1.x","code":"123456"}`, `{"checkpoint":1}`, `{"checkpoint":"mc1.x","passkey":{"challenge":"x","credential":{}}}`},
	"POST /account/checkpoint/options":             {`{}`, `{"checkpoint":""}`, `{"checkpoint":"mc1.x"}`, `{"checkpoint":["x"]}`},
	"POST /account/sign-in/passkey":                {`{}`, `{"challenge":"x","credential":{}}`, `{"challenge":"aaaaaaaaaaaaaaa","credential":null}`, `{"challenge":1}`},
	"POST /account/sign-in/passkey/options":        nil,
}

// wrongServers are bodies of POST /servers, each wrong in one place.
func wrongServers(t *testing.T) (out []string) {
	t.Helper()
	for _, change := range []string{
		`"name":""`, `"name":"\u3164"`, `"name":"a\u0000b"`, `"blueprint":""`, `"blueprint":"../demo"`, `"version":"9.9.9"`, `"variant":"nope"`, `"node":"nosuchnode00000"`,
		`"node":"\u0000"`, `"location":"nowhere"`, `"limits":null`, `"limits":{"cpu_millicores":250.5,"memory_mib":64,"disk_gib":1}`,
		`"limits":{"cpu_millicores":250,"memory_mib":-64,"disk_gib":1}`, `"limits":{"cpu_millicores":250,"memory_mib":64,"disk_gib":9223372036854775807}`,
		`"limits":{"cpu_millicores":99999999999999999999,"memory_mib":64,"disk_gib":1}`, `"variables":{"NOPE":"x"}`, `"variables":{"MOTD":1}`,
		`"variables":{"MOTD":"{{config.token}}\n"}`, `"variables":{"MOTD":"` + strings.Repeat("x", 100_000) + `"}`, `"variables":{"EXIT":"1"}`,
		`"start":"yes"`, `"tenant":"x"`, `"id":"aaaaaaaaaaaaaaa"`, `"suspended":false`,
	} {
		body := map[string]json.RawMessage{"name": []byte(`"x"`), "blueprint": []byte(`"demo"`), "limits": []byte(`{"cpu_millicores":250,"memory_mib":64,"disk_gib":1}`)}
		var wrong map[string]json.RawMessage
		must(t, json.Unmarshal([]byte("{"+change+"}"), &wrong))
		for k, v := range wrong {
			body[k] = v
		}
		raw, err := json.Marshal(body)
		must(t, err)
		out = append(out, string(raw))
	}
	return out
}

func TestEveryRouteRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	s := settle(t)
	owner, tenant := s.as("owner@demo.example").super, s.ids["/tenants/"]
	before := s.audited()
	tried := 0
	refused := func(route, what string, status int, out told, raw string) {
		t.Helper()
		tried++
		if status < 400 || status > 499 || out.Status != status || out.Code == "" || len(out.Message) < 15 || out.RequestID == "" || strings.Contains(raw, "SELECT") {
			t.Errorf("%s with %s: %d %.300s", route, what, status, raw)
		}
	}
	for _, route := range routes(t) {
		method, documented, _ := strings.Cut(route, " ")
		token := owner
		if strings.HasPrefix(documented, "/admin/") {
			token = s.super
		}
		if before, after, named := strings.Cut(s.named.Replace(documented), "{id}"); named {
			for _, id := range []string{"nosuchthing0000", "%00", "%ff", "..%2f..%2fx", "'%20OR%201=1", strings.Repeat("a", 5000)} {
				status, out, raw := s.ask(token, tenant, method, "/api/v1"+before+id+after, plain, `{"action":"start","resolution":"x","mode":"ACTIVE","addresses":"203.0.113.1","ports":"1"}`)
				refused(route, "the id "+id[:min(len(id), 20)], status, out, raw)
			}
		}
		if method == "GET" {
			continue
		}
		bodies, known := wrong[route]
		if !known {
			t.Errorf("%s is documented, and no wrong body of it is known here", route)
		}
		if route == "POST /servers" {
			bodies = wrongServers(t)
		}
		if bodies == nil {
			continue
		}
		for _, body := range bodies {
			status, out, raw := s.ask(token, tenant, method, s.path(documented), plain, body)
			refused(route, fmt.Sprintf("%.120s", body), status, out, raw)
		}
		for what, body := range nonsense() {
			status, out, raw := s.ask(token, tenant, method, s.path(documented), plain, body)
			refused(route, what, status, out, raw)
		}
		for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/ld+json"} {
			status, out, raw := s.ask(token, tenant, method, s.path(documented), kind, bodies[0])
			refused(route, "the type "+kind, status, out, raw)
		}
	}
	if n := s.audited() - before; n != 0 {
		t.Errorf("%d changes were made by what makes no sense", n)
	}
	t.Logf("%d requests", tried)
}
