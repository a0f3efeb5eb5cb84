package hooks

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/secrets"
)

// canaries are secrets by name, and where each may be seen: in the one answer that hands it out.
type canaries struct {
	t       *testing.T
	mu      sync.Mutex
	planted map[string]string // text → name; guarded by mu
	looked  int               // bytes; guarded by mu
	places  map[string]int    // guarded by mu
	leaks   int               // guarded by mu
}

// plant keeps a secret that is long enough to be found by its text.
func (c *canaries) plant(name, text string) string {
	c.t.Helper()
	if len(text) < 12 {
		c.t.Fatalf("%s: %q is too short to be looked for", name, text)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.planted[text] = name
	return text
}

// look fails for every canary in a text but those that may be there.
func (c *canaries) look(place, text string, but ...string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked += len(text)
	kind, _, _ := strings.Cut(place, " ")
	c.places[kind]++
next:
	for canary, name := range c.planted {
		if !strings.Contains(text, canary) {
			continue
		}
		for _, b := range but {
			if name == b {
				continue next
			}
		}
		c.leaks++
		c.t.Errorf("%s holds %s", place, name)
	}
}

// sink is a log that is looked through at the end.
type sink struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *sink) line(text string) { _, _ = s.Write([]byte(text + "\n")) }

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// send makes one request and looks through all of the answer.
func (s *settled) send(c *canaries, token, method, path, body string, header map[string]string, but ...string) (int, string) {
	s.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", plain)
	req.Header.Set("X-Tenant", s.ids["/tenants/"])
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	rec := httptest.NewRecorder()
	s.mux.ServeHTTP(rec, req)
	c.look("answer of "+method+" "+path, fmt.Sprint(rec.Code, rec.Header(), rec.Body.String()), but...)
	return rec.Code, rec.Body.String()
}

// columns that hold a secret in a form that only its owner can open, or that PocketBase keeps by itself: they are
// looked at for what is in clear, but not for the sealed texts.
func tables(t *testing.T, app core.App) (out []string) {
	t.Helper()
	for _, d := range collections.All() {
		out = append(out, d.Name)
	}
	return append(out, "users", "_superusers", "_collections", "_authOrigins", "_otps", "_mfas", "_externalAuths")
}

// No secret that anybody gives to the panel or gets from it is in an answer to another request, in what browsers are told,
// in a log, in the audit log, in an export, or in clear in the database.
func TestNoSecretLeavesThePanel(t *testing.T) {
	t.Parallel()
	logged, seen := &sink{}, &sink{}
	s := settle(t, func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.TokenPace, c.AddressPace = -1, -1
	})
	c := &canaries{t: t, planted: map[string]string{}, places: map[string]int{}}
	tenant, owner := s.ids["/tenants/"], s.as("owner@demo.example").super
	web := httptest.NewServer(s.mux)
	t.Cleanup(web.Close)
	listen(t, web.URL, owner, "mamba.tenant."+tenant, seen.line)

	s.plantKeys(c)
	session := s.plantSession(c)
	s.plantInputs(c, owner)

	requests := 0
	for _, route := range routes(t) {
		method, documented, _ := strings.Cut(route, " ")
		token := owner
		if strings.HasPrefix(documented, "/admin/") {
			token = s.super
		}
		if method == "DELETE" || strings.Contains(documented, "transfer") {
			token = session // a stranger's: nothing is to be lost before the end
		}
		bodies := append([]string{whole[route], "{}", `{"nope":"canary-body-51923"}`, `{"password":"canary-body-51923","token":"canary-body-51923"`}, wrong[route]...)
		for _, body := range bodies {
			requests++
			s.send(c, token, method, s.path(documented), body, nil, mayHand(route)...)
			s.send(c, "", method, s.path(documented), body, nil)
		}
	}
	status, export := s.send(c, owner, "POST", "/api/v1/audit/export", `{"format":"csv"}`, nil)
	if status != 200 || len(export) < 200 {
		t.Fatalf("the export: %d %.200s", status, export)
	}
	for name, text := range s.archive(owner, tenant) {
		c.look("archive "+name, text)
	}
	for _, name := range tables(t, s.app) { // through PocketBase's own door, by who may nearly everything
		s.send(c, s.super, "GET", "/api/collections/"+name+"/records?perPage=500", "", nil)
		s.send(c, owner, "GET", "/api/collections/"+name+"/records?perPage=500", "", nil)
	}
	for _, path := range []string{"/api/settings", "/api/collections/users", "/api/collections?perPage=200", "/api/logs?perPage=500"} {
		s.send(c, s.super, "GET", path, "", nil)
	}
	for _, name := range tables(t, s.app) {
		var rows []dbx.NullStringMap
		must(t, s.app.DB().Select("*").From(name).All(&rows))
		for _, row := range rows {
			for column, v := range row {
				c.look("row of "+name+"."+column, v.String)
			}
		}
	}
	var logs []dbx.NullStringMap
	must(t, s.app.AuxDB().Select("*").From("_logs").All(&logs))
	for _, row := range logs {
		c.look("log of PocketBase", row["message"].String+row["data"].String)
	}
	c.look("log of the panel", logged.String())
	c.look("event of the browser", seen.String())
	if logged.String() == "" || seen.String() == "" {
		t.Error("nothing was logged, or a browser was told of nothing: this looks in the wrong place")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Logf("canaries: %d secrets planted, %d requests, %d bytes looked through in %v: %d found", len(c.planted), requests, c.looked, c.places, c.leaks)
}

// mayHand names what the answer of a route is for.
func mayHand(route string) []string {
	switch route {
	case "POST /admin/nodes", "POST /admin/nodes/{id}/join-token":
		return []string{"a join token"}
	case "POST /servers/{id}/console/token":
		return []string{"an intent token"}
	}
	return nil
}

// plantKeys knows the keys that the installation has by now.
func (s *settled) plantKeys(c *canaries) {
	s.t.Helper()
	raw, err := os.ReadFile(s.config.masterKeyFile(s.app))
	must(s.t, err)
	c.plant("the master key", strings.TrimSpace(string(raw)))
	for _, purpose := range []string{purposeAudit, purposeIntent, purposeInvite, purposeSettings} {
		keys, err := s.Secrets.Keys(purpose)
		must(s.t, err)
		key := keys.All()[0]
		c.plant("the key of "+purpose, base64.StdEncoding.EncodeToString(key))
		c.plant("the key of "+purpose, hex.EncodeToString(key))
		c.plant("the key of "+purpose, string(key))
	}
	pem, err := s.Fleet.RootKey(false)
	must(s.t, err)
	c.plant("the root's key", strings.Split(pem, "\n")[1])
	var issuing struct {
		ID  string `db:"id"`
		Key string `db:"key"`
	}
	must(s.t, s.app.DB().Select("id", "key").From(collections.Authorities).Where(dbx.HashExp{"kind": "issuing", "active": true}).One(&issuing))
	der, err := s.Secrets.Open(s.app, secrets.System, secrets.Ref{Table: collections.Authorities, Row: issuing.ID, Field: "key"}, issuing.Key)
	must(s.t, err)
	c.plant("the issuing key", string(der[30:70]))
	c.plant("the issuing key", base64.StdEncoding.EncodeToString(der)[40:100])
}

// plantSession signs somebody in with a password that is a canary, well and badly, and returns his token.
func (s *settled) plantSession(c *canaries) string {
	s.t.Helper()
	password := c.plant("a password", "canary-password-88217")
	s.person("canary@example.org")
	user, err := s.app.FindAuthRecordByEmail("users", "canary@example.org")
	must(s.t, err)
	user.SetPassword(password)
	must(s.t, s.app.Save(user))
	path := "/api/collections/users/auth-with-password"
	s.send(c, "", "POST", path, `{"identity":"canary@example.org","password":"`+c.plant("a wrong password", "canary-mistyped-33018")+`"}`, nil)
	s.send(c, "", "POST", path, `{"identity":"`+password+`","password":1}`, nil)
	s.send(c, "", "POST", path, `{"identity":"canary@example.org","password":"`+password, nil) // cut off
	req := httptest.NewRequest("POST", path, strings.NewReader(`{"identity":"canary@example.org","password":"`+password+`"}`))
	req.Header.Set("Content-Type", plain)
	req.Header.Set("X-Refresh-Token", "1")
	rec := httptest.NewRecorder()
	s.mux.ServeHTTP(rec, req)
	status, raw, refresh := rec.Code, rec.Body.String(), rec.Header().Get("X-Refresh-Token")
	c.look("answer of a sign-in", raw)
	in := decode[struct{ Token string }](s.t, raw)
	if status != 200 || refresh == "" {
		s.t.Fatalf("%d %s", status, raw)
	}
	c.plant("a refresh token", refresh)
	c.plant("an access token", in.Token)
	status, raw = s.send(c, "", "POST", "/api/v1/account/sessions/refresh", `{"refresh_token":"`+refresh+`"}`, nil, "an access token") // of the same second, it is the same
	next := decode[struct {
		Token        string
		RefreshToken string `json:"refresh_token"`
	}](s.t, raw)
	if status != 200 || next.RefreshToken == "" {
		s.t.Fatalf("%d %s", status, raw)
	}
	c.plant("a refresh token", next.RefreshToken)
	return in.Token
}

// plantInputs gives a secret to every form that takes one, and keeps those that are handed out.
func (s *settled) plantInputs(c *canaries, owner string) {
	s.t.Helper()
	ok := func(what string, status int, raw string) {
		s.t.Helper()
		if status < 200 || status > 299 {
			s.t.Fatalf("%s: %d %.400s", what, status, raw)
		}
	}
	node := s.ids["/admin/nodes/"]
	status, raw := s.send(c, s.super, "POST", "/api/v1/admin/nodes/"+node+"/join-token", "{}", nil)
	ok("a join token", status, raw)
	m := regexp.MustCompile(`--token ([^\s"\\]+)`).FindStringSubmatch(raw)
	if m == nil {
		s.t.Fatalf("no token in %s", raw)
	}
	c.plant("a join token", m[1])

	variable := c.plant("a secret variable", "canary-vrbl-77")
	body := `{"name":"longhouse","blueprint":"valheim","limits":{"cpu_millicores":500,"memory_mib":2048,"disk_gib":2},"variables":{"PASSWORD":"` + variable + `"}}`
	status, raw = s.send(c, owner, "POST", "/api/v1/servers", body, nil)
	ok("a server with a secret", status, raw)
	server := decode[struct{ Server struct{ ID string } }](s.t, raw).Server.ID
	c.plant("a refused variable", "canary-toolong-for-a-password")
	for _, bad := range []string{`"canary-toolong-for-a-password"`, `["canary-toolong-for-a-password"]`} {
		s.send(c, owner, "PATCH", "/api/v1/servers/"+server, `{"variables":{"PASSWORD":`+bad+`}}`, nil)
		s.send(c, owner, "POST", "/api/v1/servers", strings.Replace(body, `"`+variable+`"`, bad, 1), nil)
	}
	for _, path := range []string{"", "/activity", "/metrics"} {
		s.send(c, owner, "GET", "/api/v1/servers/"+server+path, "", nil)
	}

	status, raw = s.send(c, s.super, "PATCH", "/api/settings", `{"smtp":{"enabled":true,"host":"127.0.0.1","port":1,"username":"u","password":"`+c.plant("the SMTP password", "canary-smtp-60021")+
		`"},"s3":{"enabled":false,"secret":"`+c.plant("the S3 secret", "canary-s3-secret-441")+`"}}`, nil)
	ok("settings", status, raw)
	status, raw = s.send(c, s.super, "PATCH", "/api/collections/users", `{"oauth2":{"enabled":true,"providers":[{"name":"google","clientId":"x","clientSecret":"`+c.plant("an OAuth2 secret", "canary-oauth-19375")+`"}]}}`, nil)
	ok("a provider", status, raw)

	s.app.OnMailerSend().Bind(handler("mamba.test.mail", first, func(e *core.MailerEvent) error { return nil }))
	status, raw = s.send(c, owner, "POST", "/api/v1/tenants/"+s.ids["/tenants/"]+"/members/invite", `{"email":"canary-guest@example.org","role":"MEMBER"}`, nil)
	ok("an invite", status, raw)
	invite := decode[struct{ ID string }](s.t, raw).ID
	row, err := collections.FindInvite(s.app, invite)
	must(s.t, err)
	mac := hmac.New(sha256.New, s.Secrets.Derive(purposeInvite))
	mac.Write([]byte("mamba-host invite v1\x00" + invite))
	token := base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	if sum := sha256.Sum256([]byte(token)); hex.EncodeToString(sum[:]) != row.TokenHash() {
		s.t.Fatal("the token of an invite is made otherwise")
	}
	c.plant("an invite token", token)

	demo := s.ids["/servers/"]
	status, raw = s.send(c, owner, "POST", "/api/v1/servers/"+demo+"/console/token", "", nil)
	ok("an intent token", status, raw)
	c.plant("an intent token", decode[struct{ Token string }](s.t, raw).Token)
	for range 2 { // a good one and a spent one, in a header and in a path
		s.send(c, "", "GET", "/api/v1/servers/"+demo+"/console/ws", "", map[string]string{"Sec-WebSocket-Protocol": "mamba.v1, bearer." + decode[struct{ Token string }](s.t, raw).Token})
	}
}
