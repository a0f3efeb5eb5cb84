package hooks

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/link"
)

// foreignMark is in every text of the organisation that nobody of the matrix belongs to.
const foreignMark = "canary-foreign-7731"

// foreigner is an organisation beside the demo's, with one of everything, and its owner.
type foreigner struct {
	token, user string
	ids         map[string]string // by placeholder; {id} is chosen by what is before it
}

// placeholder is what a documented path names.
var placeholder = regexp.MustCompile(`\{[a-z_]+\}`)

// colonize makes the other organisation through the API.
func (s *settled) colonize() *foreigner {
	t := s.t
	t.Helper()
	f := &foreigner{ids: map[string]string{}}
	s.person("foreign@example.org")
	u, err := s.app.FindAuthRecordByEmail("users", "foreign@example.org")
	must(t, err)
	u.Set("name", foreignMark+" owner")
	must(t, s.app.Save(u))
	f.user = u.Id
	req := httptest.NewRequest("POST", "/api/collections/users/auth-with-password", strings.NewReader(`{"identity":"foreign@example.org","password":"a-long-password"}`))
	req.Header.Set("Content-Type", plain)
	rec := httptest.NewRecorder()
	s.mux.ServeHTTP(rec, req)
	f.token = decode[struct{ Token string }](t, rec.Body.String()).Token
	made := func(method, path, body string, want int) string {
		t.Helper()
		status, _, raw := s.ask(f.token, f.ids["/tenants/"], method, "/api/v1"+path, plain, body)
		if status != want {
			t.Fatalf("%s %s: %d %s", method, path, status, raw)
		}
		return raw
	}
	id := func(raw string) string { return decode[struct{ ID string }](t, raw).ID }
	tenant := id(made("POST", "/tenants", `{"name":"`+foreignMark+` org"}`, 201))
	f.ids["/tenants/"], f.ids["/admin/tenants/"] = tenant, tenant
	created := decode[struct {
		Server struct{ ID string }
		Job    struct{ ID string }
	}](t, made("POST", "/servers", `{"name":"`+foreignMark+` server","blueprint":"demo","limits":{"cpu_millicores":250,"memory_mib":64,"disk_gib":1}}`, 202))
	f.ids["/servers/"], f.ids["/jobs/"] = created.Server.ID, created.Job.ID
	collectionstest.Eventually(t, "the other organisation's server has come to rest", func() bool { // this engine has no image for it
		row, err := collections.FindServer(s.app, created.Server.ID)
		return err == nil && row.Status() != "INSTALLING"
	})
	f.ids["{role}"] = id(made("POST", "/tenants/"+tenant+"/roles", `{"name":"`+foreignMark+` role"}`, 201))
	f.ids["{invite}"] = id(made("POST", "/tenants/"+tenant+"/members/invite", `{"email":"`+foreignMark+`@example.org","role":"MEMBER"}`, 201))
	f.ids["{key}"] = id(made("POST", "/tenants/"+tenant+"/keys", `{"name":"`+foreignMark+` key","permissions":["server.read"]}`, 201))
	f.ids["{channel}"] = id(made("POST", "/tenants/"+tenant+"/channels", `{"name":"`+foreignMark+`","url":"https://discord.com/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz`+foreignMark+`"}`, 201))
	f.ids["{user}"] = f.user
	sessions := decode[struct{ Items []struct{ ID string } }](t, made("GET", "/account/sessions", "", 200))
	f.ids["{session}"] = sessions.Items[0].ID
	return f
}

// paths are the paths of a documented route in which something is the other organisation's, something is nowhere, or
// something makes no sense; own is the one in which all is the demo's.
func (s *settled) paths(documented string, f *foreigner) (own string, foreign, wrong []string) {
	var names [][]string // per placeholder: own, foreign
	rest, before := documented, ""
	for {
		at := placeholder.FindStringIndex(rest)
		if at == nil {
			break
		}
		before += rest[:at[0]]
		name := rest[at[0]:at[1]]
		mine, theirs := s.named.Replace(name), f.ids[name]
		if name == "{id}" {
			mine, theirs = s.ids[before], f.ids[before]
		}
		if mine == name {
			mine = "nosuchthing0000"
		}
		names, rest, before = append(names, []string{mine, theirs}), rest[at[1]:], before+name
	}
	fill := func(values []string) string {
		i := 0
		return "/api/v1" + placeholder.ReplaceAllStringFunc(documented, func(string) string { i++; return values[i-1] })
	}
	choose := func(mask int) []string {
		out := make([]string, len(names))
		for i, n := range names {
			out[i] = n[mask>>i&1]
		}
		return out
	}
	for mask := 1; mask < 1<<len(names); mask++ {
		if values := choose(mask); !slices.Contains(values, "") {
			foreign = append(foreign, fill(values))
		}
	}
	for i := range names {
		for _, bad := range []string{"nosuchthing0000", "%00", "..%2f..", "%27%20OR%201%3D1--", strings.Repeat("a", 300)} {
			values := choose(0)
			values[i] = bad
			wrong = append(wrong, fill(values))
		}
	}
	return fill(choose(0)), foreign, wrong
}

// T07: every documented route, collection and topic × who asks × his own, another organisation's, nobody's and nonsense ×
// how he names the organisation. In no answer, header, event of a browser or line of the log is a text of the other organisation, nothing
// of it is changed, and nothing answers as if it were there.
func TestT07_TheIsolationMatrix(t *testing.T) {
	t.Parallel()
	logged := &sink{}
	s := settle(t, func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.TokenPace, c.AddressPace = -1, -1
	})
	s.app.OnMailerSend().Bind(handler("mamba.test.mail", first, func(*core.MailerEvent) error { return nil }))
	f := s.colonize()
	people := append(s.crew(), s.between(f))
	web := httptest.NewServer(s.mux)
	t.Cleanup(web.Close)
	told := &sink{}
	for _, p := range people {
		if p.listens {
			listen(t, web.URL, p.token, "mamba.tenant."+s.ids["/tenants/"], told.line)
		}
	}
	seed := uint64(time.Now().UnixNano())
	dice := rand.New(rand.NewPCG(seed, 0))
	share := collectionstest.Share() // PostgreSQL asks a part of it but in the nightly lane
	before, quiet := s.belongings(f), len(logged.String())
	m := &matrix{settled: s, f: f}
	for _, route := range routes(t) {
		method, documented, _ := strings.Cut(route, " ")
		own, foreign, wrong := s.paths(documented, f)
		body := whole[route]
		if body == "" {
			body = "{}"
		}
		for _, p := range people {
			for _, named := range []string{s.ids["/tenants/"], f.ids["/tenants/"], strings.ToLower(foreignMark) + "-org", ""} {
				if share > 1 && dice.IntN(share) != 0 {
					continue
				}
				if method == "GET" { // what changes something of one's own is TestT07_EveryRouteAsksWhatItsPageSays'
					m.ask(p, named, method, documented, own, body, false)
				}
				for _, path := range foreign {
					m.ask(p, named, method, documented, path, body, true)
				}
				if named == s.ids["/tenants/"] || named == f.ids["/tenants/"] {
					for _, path := range wrong {
						m.ask(p, named, method, documented, path, body, false)
					}
				}
			}
		}
	}
	m.bodies(people[0])
	m.collections(people)
	m.atTheNodeListener(t)
	topics := m.topics(web.URL, people)
	if at := strings.Index(logged.String()[quiet:], foreignMark); at >= 0 {
		t.Errorf("the log tells of it: %.300s", logged.String()[quiet:][max(0, at-200):])
	}
	for table, rows := range s.belongings(f) {
		if rows != before[table] {
			t.Errorf("something was changed in %s of the other organisation:\n%.600s\n%.600s", table, before[table], rows)
		}
	}
	// What happens there is told to nobody here.
	status, _, raw := s.ask(f.token, f.ids["/tenants/"], "PATCH", "/api/v1/servers/"+f.ids["/servers/"], plain, `{"name":"`+foreignMark+` again"}`)
	if status != 200 && status != 202 {
		t.Fatalf("%d %s", status, raw)
	}
	status, _, raw = s.ask(s.as("owner@demo.example").super, s.ids["/tenants/"], "PATCH", "/api/v1/servers/"+s.ids["/servers/"], plain, `{"name":"ours-again"}`)
	if status != 200 && status != 202 {
		t.Fatalf("%d %s", status, raw)
	}
	collectionstest.Eventually(t, "everybody here is told of what is his", func() bool { return strings.Contains(told.String(), "ours-again") })
	if strings.Contains(told.String(), foreignMark) {
		t.Error("a browser was told of the other organisation")
	}
	t.Logf("T07: seed %d: %d requests of %d kinds of people to %d routes, %d refused, %d subscriptions refused, 0 texts of another organisation in answers, headers, events and logs", seed, m.asked, len(people), len(routes(t)), m.refused, topics)
	if m.asked < 10_000/share/2 || share == 1 && m.asked < 10_000 {
		t.Errorf("only %d requests", m.asked)
	}
}

// Names of the crew beside the roles.
const (
	aFriend      = "a friend with one server"
	anAPIKey     = "an API key"
	aPersonalKey = "a personal API key"
	aStranger    = "a stranger"
	nobody       = "nobody"
)

// robotMay is what the keys of the crew may.
var robotMay = []string{"tenant.read", "server.read", "server.start", "console.read", "member.invite"}

// asker is one kind of who asks.
type asker struct {
	name, token string
	listens     bool // to the live events of the demo's organisation
	operator    bool // sees everything
}

// crew are all kinds of people and machines that may know an address of the panel.
func (s *settled) crew() (out []asker) {
	t, tenant := s.t, s.ids["/tenants/"]
	t.Helper()
	row, err := collections.FindTenant(s.app, tenant)
	must(t, err)
	boss := s.as("owner@demo.example").super
	account, err := s.app.FindAuthRecordByEmail("users", "owner@demo.example")
	must(t, err)
	by := access.Actor{Type: access.TypeUser, ID: account.Id, Name: "owner", Verified: true}
	out = append(out, asker{"OWNER", boss, true, false})
	for name, role := range map[string]string{tenancy.RoleAdmin: tenancy.RoleAdmin, tenancy.RoleSupport: tenancy.RoleSupport, tenancy.RoleMember: tenancy.RoleMember, aFriend: tenancy.RoleMember} {
		email := strings.ToLower(strings.ReplaceAll(name, " ", "-")) + "@example.org"
		token := s.person(email)
		u, err := s.app.FindAuthRecordByEmail("users", email)
		must(t, err)
		must(t, collections.Tx(s.app, []collections.Lock{tenancy.Lock(tenant), audit.Lock(tenant)}, func(tx core.App) error {
			return s.Tenancy.Join(tx, by, row, u.Id, role)
		}))
		if name == aFriend {
			for _, change := range []struct{ method, path, body string }{
				{"PUT", "/api/v1/servers/" + s.ids["/servers/"] + "/access/" + u.Id, `{"role":"SUPPORT"}`}, {"PATCH", "/api/v1/tenants/" + tenant + "/members/" + u.Id, `{"role":""}`},
			} {
				if status, _, raw := s.ask(boss, tenant, change.method, change.path, plain, change.body); status != 200 {
					t.Fatalf("%d %s", status, raw)
				}
			}
		}
		out = append(out, asker{name, token, true, false})
	}
	robot, err := json.Marshal(map[string]any{"name": "a robot", "permissions": robotMay})
	must(t, err)
	for name, path := range map[string]string{anAPIKey: "/tenants/" + tenant + "/keys", aPersonalKey: "/account/keys"} {
		status, _, raw := s.ask(boss, tenant, "POST", "/api/v1"+path, plain, string(robot))
		if status != 201 {
			t.Fatalf("%d %s", status, raw)
		}
		out = append(out, asker{name, decode[struct{ Secret string }](t, raw).Secret, false, false})
	}
	stranger := s.person("stranger@example.org")
	if status, _, raw := s.ask(stranger, "", "POST", "/api/v1/tenants", plain, `{"name":"Strangers"}`); status != 201 {
		t.Fatalf("%d %s", status, raw)
	}
	status, _, raw := s.ask(boss, tenant, "POST", "/api/v1/servers/"+s.ids["/servers/"]+"/console/token", plain, "")
	if status != 200 && status != 201 {
		t.Fatalf("%d %s", status, raw)
	}
	intent := decode[struct{ Token string }](t, raw).Token
	return append(out, asker{aStranger, stranger, false, false}, asker{nobody, "", false, false}, asker{"an intent token", intent, false, false},
		asker{"a broken token", boss + "x", false, false}, asker{"a superuser", s.super, false, true})
}

// between is an API key of the demo's organisation whose maker is in the other one as well, and was told something there.
func (s *settled) between(f *foreigner) asker {
	t, demo := s.t, s.ids["/tenants/"]
	t.Helper()
	token := s.person("between@example.org")
	u, err := s.app.FindAuthRecordByEmail("users", "between@example.org")
	must(t, err)
	boss, err := s.app.FindAuthRecordByEmail("users", "owner@demo.example")
	must(t, err)
	for tenant, owner := range map[string]string{demo: boss.Id, f.ids["/tenants/"]: f.user} {
		row, err := collections.FindTenant(s.app, tenant)
		must(t, err)
		must(t, collections.Tx(s.app, []collections.Lock{tenancy.Lock(tenant), audit.Lock(tenant)}, func(tx core.App) error {
			return s.Tenancy.Join(tx, access.Actor{Type: access.TypeUser, ID: owner, Name: "owner", Verified: true}, row, u.Id, tenancy.RoleAdmin)
		}))
	}
	if status, _, raw := s.ask(f.token, f.ids["/tenants/"], "POST", "/api/v1/tenants/"+f.ids["/tenants/"]+"/keys", plain, `{"name":"`+foreignMark+` news","permissions":["server.read"]}`); status != 201 {
		t.Fatalf("%d %s", status, raw)
	}
	collectionstest.Eventually(t, "he is told of it", func() bool {
		_, _, raw := s.ask(token, "", "GET", "/api/v1/notifications", plain, "")
		return strings.Contains(raw, foreignMark)
	})
	robot, err := json.Marshal(map[string]any{"name": "a key of one", "permissions": robotMay})
	must(t, err)
	status, _, raw := s.ask(token, demo, "POST", "/api/v1/tenants/"+demo+"/keys", plain, string(robot))
	if status != 201 {
		t.Fatalf("%d %s", status, raw)
	}
	return asker{"an API key of somebody who is in both", decode[struct{ Secret string }](t, raw).Secret, false, false}
}

// matrix asks and looks at what comes.
type matrix struct {
	*settled
	f              *foreigner
	asked, refused int
}

func (m *matrix) ask(p asker, tenant, method, documented, path, body string, foreign bool) {
	m.t.Helper()
	if p.operator && method != "GET" {
		return // he may
	}
	switch documented { // they end or change one's own and name nothing of others
	case "/account/sessions/others", "/account/sessions/refresh", "/notifications/read-all":
		return
	}
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", plain)
	if p.token != "" {
		req.Header.Set("Authorization", p.token)
		if strings.HasSuffix(documented, "/ws") {
			req.Header.Set("Sec-WebSocket-Protocol", "mamba.v1, bearer."+p.token)
		}
	}
	if tenant != "" {
		req.Header.Set("X-Tenant", tenant)
	}
	rec := httptest.NewRecorder()
	m.mux.ServeHTTP(rec, req)
	m.asked++
	if rec.Code >= 400 {
		m.refused++
	}
	answer := fmt.Sprint(rec.Code, rec.Header(), rec.Body.String())
	at := func() string { return fmt.Sprintf("%s %s by %s in %q", method, path, p.name, tenant) }
	if rec.Code >= 500 {
		m.t.Errorf("%s: %.300s", at(), answer)
	}
	if p.operator {
		return
	}
	if strings.Contains(answer, foreignMark) {
		m.t.Errorf("%s tells of another organisation: %.400s", at(), answer)
	}
	for _, id := range m.f.ids {
		if !strings.Contains(path, id) && tenant != id && strings.Contains(answer, id) {
			m.t.Errorf("%s tells an id of another organisation: %.400s", at(), answer)
		}
	}
	if foreign && rec.Code < 400 {
		m.t.Errorf("%s was answered: %.300s", at(), answer)
	}
	own := m.ids["/tenants/"]
	if foreign && rec.Code == http.StatusForbidden && tenant == own && p.name == "OWNER" && !strings.HasPrefix(documented, "/admin/") { // he has every permission
		m.t.Errorf("%s says that it is there: %.300s", at(), answer)
	}
}

// bodies name what is another organisation's where a path does not, by who may most.
func (m *matrix) bodies(owner asker) {
	m.t.Helper()
	tenant, server, f := m.ids["/tenants/"], m.ids["/servers/"], m.f.ids
	friend, err := m.app.FindAuthRecordByEmail("users", "a-friend-with-one-server@example.org")
	must(m.t, err)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/tenants/" + tenant + "/members/invite", `{"email":"x@example.org","role":"` + f["{role}"] + `"}`},
		{"PATCH", "/tenants/" + tenant + "/members/" + friend.Id, `{"role":"` + f["{role}"] + `"}`},
		{"PUT", "/servers/" + server + "/access/" + friend.Id, `{"role":"` + f["{role}"] + `"}`},
		{"PUT", "/servers/" + server + "/access/" + m.f.user, `{"role":"SUPPORT"}`},
		{"POST", "/tenants/" + tenant + "/transfer", `{"user":"` + m.f.user + `"}`},
		{"POST", "/tenants/" + tenant + "/keys", `{"name":"x","permissions":["server.read"],"servers":["` + f["/servers/"] + `"]}`},
		{"POST", "/tenants/" + tenant + "/keys", `{"name":"x","permissions":["server.read"],"tenant":"` + f["/tenants/"] + `"}`},
		{"PATCH", "/tenants/" + tenant, `{"id":"` + f["/tenants/"] + `","name":"taken"}`},
		{"PATCH", "/servers/" + server, `{"tenant":"` + f["/tenants/"] + `"}`},
		{"POST", "/servers", `{"name":"x","tenant":"` + f["/tenants/"] + `","blueprint":"demo","limits":{"cpu_millicores":250,"memory_mib":64,"disk_gib":1}}`},
		{"POST", "/audit/export", `{"format":"json","tenant":"` + f["/tenants/"] + `"}`},
		{"GET", "/servers?tenant=" + f["/tenants/"] + "&q=" + foreignMark, ""},
		{"GET", "/audit?actor=" + m.f.user, ""}, {"GET", "/audit?resource=" + f["/servers/"], ""},
	} {
		status, _, raw := m.settled.ask(owner.token, tenant, c.method, "/api/v1"+c.path, plain, c.body)
		m.asked++
		if c.method != "GET" && status < 400 || status >= 500 || strings.Contains(raw, foreignMark) {
			m.t.Errorf("%s %s with %s: %d %.300s", c.method, c.path, c.body, status, raw)
		}
	}
}

// collections asks PocketBase's own routes for the rows of every collection, and for the other organisation's by id.
func (m *matrix) collections(people []asker) {
	m.t.Helper()
	for _, name := range tables(m.t, m.app) {
		id := "nosuchthing0000"
		if rows := m.foreignRows(name); len(rows) > 0 {
			id = rows[0]["id"].String
		}
		base := "/api/collections/" + name + "/records"
		for _, p := range people {
			if p.operator {
				continue
			}
			for _, c := range []struct{ method, path, body string }{
				{"GET", base + "?perPage=500&skipTotal=1", ""}, {"GET", base + "?filter=" + url.QueryEscape("tenant='"+m.f.ids["/tenants/"]+"'"), ""},
				{"GET", base + "/" + id + "?expand=tenant,user,server,member,role", ""}, {"GET", "/api/files/" + name + "/" + id + "/icon.png", ""},
				{"POST", base, `{"tenant":"` + m.f.ids["/tenants/"] + `"}`}, {"PATCH", base + "/" + id, `{"name":"taken"}`}, {"DELETE", base + "/" + id, ""},
			} {
				if c.method == "POST" && name == "users" {
					continue // that is how one signs up
				}
				status, _, raw := m.settled.ask(p.token, m.f.ids["/tenants/"], c.method, c.path, plain, c.body)
				m.asked++
				empty := c.method == "GET" && strings.Contains(raw, `"items":[]`)
				if status >= 400 || empty {
					m.refused++
				}
				mine := name == "users" && strings.HasPrefix(c.path, base+"?") && !strings.Contains(raw, m.f.user) // oneself
				if status < 400 && !empty && !mine || status >= 500 || strings.Contains(raw, foreignMark) {
					m.t.Errorf("%s %s by %s: %d %.300s", c.method, c.path, p.name, status, raw)
				}
			}
		}
	}
}

// foreignRowsOf are the other organisation's rows of a collection, and its owner's.
func (s *settled) foreignRowsOf(f *foreigner, name string) (rows []dbx.NullStringMap) {
	s.t.Helper()
	c, err := s.app.FindCollectionByNameOrId(name)
	if err != nil {
		return nil // a table of PocketBase's that is no collection
	}
	var where dbx.Expression
	switch {
	case name == collections.Tenants:
		where = dbx.HashExp{"id": f.ids["/tenants/"]}
	case name == "users":
		where = dbx.HashExp{"id": f.user}
	case c.Fields.GetByName("tenant") != nil:
		where = dbx.HashExp{"tenant": f.ids["/tenants/"]}
	case c.Fields.GetByName("user") != nil:
		where = dbx.HashExp{"user": f.user}
	default:
		return nil
	}
	must(s.t, s.app.DB().Select("*").From(name).Where(where).OrderBy("id").All(&rows))
	return rows
}

func (m *matrix) foreignRows(name string) []dbx.NullStringMap { return m.foreignRowsOf(m.f, name) }

// topics has everybody ask for live events that are not his; it returns how many asked in vain.
func (m *matrix) topics(base string, people []asker) (refused int) {
	m.t.Helper()
	wanted := []string{"mamba.tenant." + m.f.ids["/tenants/"], "mamba.tenant." + strings.ToLower(foreignMark) + "-org", "mamba.tenant.*", "mamba.tenant.", "mamba.tenant.nosuchthing0000", "mamba.user." + m.f.user,
		"servers/*", "servers/" + m.f.ids["/servers/"], "tenants/*", "users/" + m.f.user, "audit_logs/*"}
	for _, p := range people {
		if p.operator {
			continue
		}
		ctx, leave := context.WithCancel(m.t.Context())
		client, _ := connect(ctx, m.t, base)
		for _, topic := range wanted {
			status := subscribe(m.t, base, p.token, client, topic)
			if status == http.StatusNoContent && strings.HasPrefix(topic, "mamba.") || status >= 500 {
				m.t.Errorf("%s asked for %s: %d", p.name, topic, status)
			}
			if status != http.StatusNoContent {
				refused++
			}
		}
		leave()
	}
	return refused
}

// atTheNodeListener asks for every route with a node's certificate, at the door of the nodes: they have routes of their own.
func (m *matrix) atTheNodeListener(t *testing.T) {
	t.Helper()
	_, token, _, err := m.Fleet.EnsureLocalNode(localNode())
	must(t, err)
	dir := t.TempDir()
	_, err = link.Join(t.Context(), "https://"+m.Fleet.Addr(), token, dir, "test")
	must(t, err)
	raw, err := os.ReadFile(filepath.Join(dir, "identity.json"))
	must(t, err)
	id := decode[struct{ Certificate, Key string }](t, string(raw))
	pair, err := tls.X509KeyPair([]byte(id.Certificate), []byte(id.Key))
	must(t, err)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true}}, Timeout: time.Minute} //nolint:gosec // who answers is looked at elsewhere
	defer client.CloseIdleConnections()
	for _, route := range routes(t) {
		method, documented, _ := strings.Cut(route, " ")
		own, foreign, _ := m.paths(documented, m.f)
		for _, path := range append(foreign, own) {
			req, err := http.NewRequestWithContext(context.Background(), method, "https://"+m.Fleet.Addr()+path, strings.NewReader("{}"))
			must(t, err)
			req.Header.Set("Content-Type", plain)
			req.Header.Set("X-Tenant", m.f.ids["/tenants/"])
			res, err := client.Do(req)
			must(t, err)
			m.asked++
			res.Body.Close()
			if res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusMethodNotAllowed && res.StatusCode != http.StatusUnauthorized && res.StatusCode != http.StatusForbidden {
				t.Errorf("%s %s with a node's certificate at the door of the nodes: %d", method, path, res.StatusCode)
			}
		}
	}
}

// belongings are the rows of the other organisation and of its owner by table, without what time and machines change.
func (s *settled) belongings(f *foreigner) map[string]string {
	s.t.Helper()
	out := map[string]string{}
	moves := []string{"updated", "last_used", "last_used_at", "observed", "observed_at", "seen_at", "heartbeat_at"}
	for _, d := range collections.All() {
		rows := s.foreignRowsOf(f, d.Name)
		if len(rows) == 0 {
			continue
		}
		var text []string
		for _, row := range rows {
			fixed := map[string]string{}
			for k, v := range row {
				if !slices.Contains(moves, k) {
					fixed[k] = v.String
				}
			}
			raw, err := json.Marshal(fixed)
			must(s.t, err)
			text = append(text, string(raw))
		}
		out[d.Name] = strings.Join(text, "\n")
	}
	if out[collections.Servers] == "" || out[collections.AuditLogs] == "" || out[collections.Roles] == "" {
		s.t.Fatal("nothing of the other organisation is looked at")
	}
	return out
}

// What a person is told comes from all of his organisations. An API key is for some things in one of them, and neither
// reads it nor says where it goes.
func TestT07_NoKeySeesWhatItsHolderIsTold(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil)
	s := &settled{house: h}
	s.person("holder@example.org")
	token := s.signIn("holder@example.org")
	made := func(name string) string {
		_, _, raw := s.ask(token, "", "POST", "/api/v1/tenants", plain, `{"name":"`+name+`"}`)
		return decode[struct{ ID string }](t, raw).ID
	}
	here, there := made("Here"), made("Canary elsewhere")
	if status, _, raw := s.ask(token, "", "POST", "/api/v1/tenants/"+there+"/keys", plain, `{"name":"told of","permissions":["server.read"]}`); status != 201 {
		t.Fatalf("%d %s", status, raw)
	}
	collectionstest.Eventually(t, "he is told of it", func() bool {
		_, _, raw := s.ask(token, "", "GET", "/api/v1/notifications", plain, "")
		return strings.Contains(raw, "Canary elsewhere")
	})
	asked := 0
	for _, path := range []string{"/tenants/" + here + "/keys", "/account/keys"} {
		status, _, raw := s.ask(token, "", "POST", "/api/v1"+path, plain, `{"name":"robot","permissions":["server.read"]}`)
		if status != 201 {
			t.Fatalf("%d %s", status, raw)
		}
		key := decode[struct{ Secret string }](t, raw).Secret
		for _, route := range routes(t) {
			method, path, _ := strings.Cut(route, " ")
			if !strings.HasPrefix(path, "/notifications") {
				continue
			}
			asked++
			path = "/api/v1" + strings.NewReplacer("{channel}", "x", "{subscription}", "x", "{server}", "x").Replace(path)
			status, out, raw := s.ask(key, "", method, path, plain, `{"name":"x","url":"https://discord.com/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz","ids":["x"],"kind":"server.crashed","channel":"email","enabled":true}`)
			if status != 403 || out.Code != "key_not_here" {
				t.Errorf("%s: %d %s", route, status, raw)
			}
		}
	}
	if asked < 20 {
		t.Errorf("only %d requests", asked)
	}
}
