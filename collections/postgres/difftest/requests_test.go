package difftest

import "fmt"

// request is one call of the HTTP API. As is who calls: "", "super", "ann" or "bob".
type request struct {
	name, method, path, body, as string
}

// Ids are given, so that both databases answer with the same ones.
const (
	acme, beta, gamma = "tenantacme00000", "tenantbeta00000", "tenantgamma0000"
	ann, bob          = "userann00000000", "userbob00000000"
)

func serverID(i int) string { return fmt.Sprintf("server%09d", i) }

func get(path string) request { return request{path, "GET", path, "", "super"} }

const created = `{"name":"created","type":"autodate","onCreate":true},{"name":"updated","type":"autodate","onCreate":true,"onUpdate":true}`

// structure makes collections of every kind of field, with rules over relations, and a view.
func structure() []request {
	post := func(name, body string) request {
		return request{"make " + name, "POST", "/api/collections", body, "super"}
	}
	const member = `@request.auth.id != '' && tenant.tenant_members_via_tenant.user ?= @request.auth.id`
	const writer = `@request.auth.id != '' && @collection.tenant_members.tenant ?= tenant && @collection.tenant_members.user ?= @request.auth.id && @collection.tenant_members.role ?!= 'viewer'`
	return []request{
		post("tenants", `{"id":"coltenants00000","name":"tenants","type":"base","fields":[{"name":"name","type":"text","required":true,"max":100},{"name":"owner","type":"relation","collectionId":"_pb_users_auth_","maxSelect":1},`+created+`],
			"indexes":["CREATE UNIQUE INDEX `+"`idx_tenants_name` ON `tenants` (`name` COLLATE NOCASE)"+`"]}`),
		post("members", `{"id":"colmembers00000","name":"tenant_members","type":"base","listRule":"user = @request.auth.id","viewRule":"user = @request.auth.id","fields":[
			{"name":"tenant","type":"relation","collectionId":"coltenants00000","maxSelect":1,"cascadeDelete":true,"required":true},
			{"name":"user","type":"relation","collectionId":"_pb_users_auth_","maxSelect":1,"required":true},{"name":"role","type":"select","values":["owner","admin","viewer"],"maxSelect":1},`+created+`],
			"indexes":["CREATE UNIQUE INDEX `+"`idx_members` ON `tenant_members` (`tenant`, `user`)"+`"]}`),
		post("servers", `{"id":"colservers00000","name":"servers","type":"base","listRule":"`+member+`","viewRule":"`+member+`","createRule":"`+writer+`","updateRule":"`+writer+`","deleteRule":"`+writer+`","fields":[
			{"name":"tenant","type":"relation","collectionId":"coltenants00000","maxSelect":1,"cascadeDelete":true,"required":true},{"name":"name","type":"text","required":true,"max":100},
			{"name":"mem","type":"number"},{"name":"on","type":"bool"},{"name":"cfg","type":"json"},{"name":"tags","type":"select","values":["a","b","c"],"maxSelect":3},
			{"name":"games","type":"relation","collectionId":"coltenants00000","maxSelect":5},{"name":"since","type":"date"},{"name":"mail","type":"email"},{"name":"site","type":"url"},
			{"name":"loc","type":"geoPoint"},{"name":"html","type":"editor"},`+created+`],
			"indexes":["CREATE UNIQUE INDEX `+"`idx_servers` ON `servers` (`tenant`, `name`)"+`","CREATE INDEX `+"`idx_mem` ON `servers` (`mem`) WHERE `mem` > 0"+`","CREATE INDEX idx_lower ON servers (lower(name), since DESC)"]}`),
		post("bad name", `{"name":"bad name","type":"base","fields":[]}`),
		post("a name twice", `{"name":"servers","type":"base","fields":[]}`),
		post("a bad index", `{"name":"other","type":"base","fields":[{"name":"x","type":"text"}],"indexes":["CREATE INDEX i ON other (nothing)"]}`),
		post("a view", `{"id":"colstats0000000","name":"stats","type":"view","listRule":"","viewQuery":"SELECT t.id, t.name, count(s.id) as cnt, sum(s.mem) as total, max(s.since) as last FROM tenants t LEFT JOIN servers s ON s.tenant = t.id GROUP BY t.id"}`),
		post("a view of bare columns", `{"id":"colbare00000000","name":"bare","type":"view","viewQuery":"SELECT s.id, s.name as 'label', s.mem, (s.mem * 2) as doubled, cast(s.mem as int) as whole, t.name FROM servers s INNER JOIN tenants t on t.id = s.tenant GROUP BY s.id"}`),
		post("a view with a made id", `{"id":"colmade00000000","name":"made","type":"view","viewQuery":"SELECT (ROW_NUMBER() OVER(ORDER BY name)) as id, name, strftime('%Y', created) = '' as young FROM tenants"}`),
		post("a view that is none", `{"name":"none","type":"view","viewQuery":"SELECT absent FROM nowhere"}`),
		post("a view without id", `{"name":"noid","type":"view","viewQuery":"SELECT name FROM tenants"}`),
		post("a view of two statements", `{"name":"two","type":"view","viewQuery":"SELECT id FROM tenants; DELETE FROM tenants"}`),
		get("/api/collections?fields=id,name,type,indexes,listRule"), get("/api/collections/stats"), get("/api/collections/bare"), get("/api/collections/made"),
		{"batch allowed", "PATCH", "/api/settings", `{"batch":{"enabled":true,"maxRequests":50,"timeout":30},"rateLimits":{"enabled":false}}`, "super"},
	}
}

// content fills them; some of the writes must be refused alike.
func content() []request {
	out := []request{}
	add := func(collection, body, as string) {
		out = append(out, request{fmt.Sprintf("%d in %s as %s", len(out), collection, as), "POST", "/api/collections/" + collection + "/records", body, as})
	}
	for _, u := range [][2]string{{ann, "ann"}, {bob, "bob"}} {
		add("users", fmt.Sprintf(`{"id":%q,"email":"%s@Example.com","password":"12345678","passwordConfirm":"12345678","name":%q,"verified":true}`, u[0], u[1], u[1]), "super")
	}
	add("users", `{"email":"ann@Example.com","password":"12345678","passwordConfirm":"12345678"}`, "super")
	add("users", `{"email":"ANN@example.COM","password":"12345678","passwordConfirm":"12345678"}`, "")
	add("tenants", fmt.Sprintf(`{"id":%q,"name":"Acme","owner":%q}`, acme, ann), "super")
	add("tenants", fmt.Sprintf(`{"id":%q,"name":"Beta","owner":%q}`, beta, bob), "super")
	add("tenants", `{"name":"ACME"}`, "super")
	add("tenants", `{"name":"Acme "}`, "super")
	add("tenants", fmt.Sprintf(`{"id":%q,"name":"twice"}`, acme), "super")
	add("tenants", `{"name":"orphan","owner":"nobody000000000"}`, "super")
	add("tenant_members", fmt.Sprintf(`{"id":"member00000ann0","tenant":%q,"user":%q,"role":"owner"}`, acme, ann), "super")
	add("tenant_members", fmt.Sprintf(`{"id":"member00000bob0","tenant":%q,"user":%q,"role":"viewer"}`, beta, bob), "super")
	add("tenant_members", fmt.Sprintf(`{"tenant":%q,"user":%q,"role":"viewer"}`, beta, bob), "super")
	configs := []string{`{"a":{"b":%d},"s":"x%[1]d","l":[1,2,%[1]d],"d":%[1]d.50}`, `[%d,"q"]`, `null`, `"plain"`, `%d`, `true`, `"%d"`, `{"a":{"b":"%d"},"t":true,"f":false,"z":null}`}
	for i := range 16 {
		cfg := configs[i%len(configs)]
		if i%len(configs) != 2 && i%len(configs) != 3 && i%len(configs) != 5 {
			cfg = fmt.Sprintf(cfg, i)
		}
		tags := []string{`[]`, `["a"]`, `["a","b"]`, `["a","b","c"]`}[i%4]
		games := []string{`[]`, fmt.Sprintf("[%q]", acme), fmt.Sprintf("[%q,%q]", acme, beta)}[i%3]
		mem := fmt.Sprint(float64(i) * []float64{1, 100.5, 100.5}[i%3])
		mail := []string{"", fmt.Sprintf("s%d@x.io", i)}[i%2]
		body := fmt.Sprintf(`{"id":%q,"tenant":%q,"name":"srv%02d","mem":%s,"on":%t,"cfg":%s,"tags":%s,"games":%s,"since":"2026-01-%02d 10:00:00","mail":%q,"loc":{"lon":%d,"lat":50},"html":"<p>Ünï %d 100%% _x\\y 'q'</p>"}`,
			serverID(i), []string{acme, beta}[i%2], i, mem, i%2 == 0, cfg, tags, games, i+1, mail, 10+i, i)
		add("servers", body, map[bool]string{true: "super", false: "ann"}[i > 0])
	}
	add("servers", fmt.Sprintf(`{"tenant":%q,"name":"nope"}`, beta), "bob")
	add("servers", fmt.Sprintf(`{"tenant":%q,"name":"nope"}`, acme), "")
	add("servers", `{"tenant":"zzz","name":"","mail":"bad","tags":["zz"]}`, "super")
	add("servers", fmt.Sprintf(`{"tenant":%q,"name":"srv00"}`, acme), "super")
	return out
}

var filters = []string{
	"mem > 200", "mem = 0", "mem != 0", "mem = ''", "mem = null", "mem != null", "mem >= '300'", "mem < 'abc'", "mem > ''", "mem ~ '5'", "mem !~ '5'", "mem = '100.5'", "mem > name", "mem = cfg", "mem < cfg.a.b",
	"on = true", "on = false", "on != true", "on = 1", "on = '1'", "on ~ '1'", "on = null",
	"name ~ 'SRV0'", "name ~ 'srv%1'", "name !~ 'srv0'", "name ?= 'srv01'", "name > 'srv05'", "name = mem", "name = 5", "name != 5", "name < 5", "name = null", "name:lower = 'srv03'", "name = 'SRV03'",
	"mail = ''", "mail != ''", "mail ~ '@X.io'", "mail = null", "site = ''", "id != ''", "id = '" + "server000000003" + "'",
	"cfg.a.b > 2", "cfg.a.b = 8", "cfg.a.b = '8'", "cfg.a.b >= '2'", "cfg.a.b < '5'", "cfg.a.b != 8", "cfg.s = 'x8'", "cfg.s ~ 'X'", "cfg.l.2 = 8", "cfg.l[2] = 8", "cfg.d = 8.5", "cfg = null", "cfg != null", "cfg = 'plain'", "cfg = true", "cfg = 4", "cfg = '4'", "cfg = 6", "cfg = '6'", "cfg.a = null", "cfg.a != null",
	"cfg ~ 'q'", "cfg.0 = 1", "cfg.1 = 'q'", "cfg.t = true", "cfg.f = false", "cfg.z = null", "cfg > 3", "cfg < 'q'", "cfg.a.b = mem", "cfg.missing = ''", "cfg.a.b ?> 5",
	"tags = 'a'", "tags ?= 'b'", "tags ?!= 'b'", "tags != 'a'", "tags ~ 'b'", "tags:length = 2", "tags:length > 0", "tags:each = 'a'", "tags:each ?= 'c'", "tags:each != 'c'", "tags = ''",
	"games.name ?= 'Beta'", "games.name = 'Acme'", "games.name != 'Acme'", "games:length > 1", "games = ''", "games.owner.name ?~ 'b'", "games ?= '" + acme + "'",
	"tenant.name = 'Acme'", "tenant.name:lower = 'acme'", "tenant.owner.name = 'ann'", "tenant.owner.email ~ 'example'", "tenant = ''", "tenant != null", "tenant.tenant_members_via_tenant.role ?= 'viewer'", "tenant.tenant_members_via_tenant.user.name ?= 'bob'", "tenant.tenant_members_via_tenant.role = 'owner'",
	"since > '2026-01-05'", "since >= '2026-01-05 10:00:00.000Z' && since < '2026-01-08'", "since > @now", "created <= @now", "since ~ '01-1'", "since = ''",
	"html ~ '100%'", `html ~ '_x\\y'`, `html ~ "'q'"`, "html ~ 'Ünï 3'", "html ~ 'ünï 3'",
	"geoDistance(loc.lon, loc.lat, 12, 50) < 100", "loc.lon > 20", "loc.lat = 50", "loc.lon = '12'",
	"strftime('%Y-%m', since) = '2026-01'", "strftime('%d', since) > '05'", "strftime('%Y-%m-%d', since, '+1 month', 'start of month') = '2026-02-01'", "strftime('%w', since) = '0'", "strftime('%H:%M', since, '-2 hours') = '08:00'",
	"(mem > 100 || on = true) && name != 'srv02'", "@collection.tenant_members.tenant ?= tenant && @collection.tenant_members.role ?= 'owner'", "@request.auth.id = ''", "@request.query.filter:isset = true", "@request.body.x:isset = true",
	"1 = 1", "'a' = 'A'", "true = true", "1 = '1'", "'a' < 1", "null = ''", "bad.field = 1", "mem >", "", "mem = 1e2", "mem = -0", "name ~ ''", "name ~ '%'", "name ~ '_'",
}

var sorts = []string{"name", "-name", "mem,name", "-mem,name", "on,-name", "tenant.name,-name", "-tenant.owner.name,name", "cfg.a.b,name", "-cfg.a.b,name", "cfg,name", "-cfg,name", "games.name,name", "-games.name,-name", "since", "-since", "@rowid", "-@rowid",
	"tags:length,name", "tags,name", "mail,name", "-created,@rowid", "loc.lon", "tenant.tenant_members_via_tenant.role,name", "id", "-id", "bad", "html,-id"}

// changes are writes after the lists, and the lists again.
func changes() []request {
	one := func(i int) string { return "/api/collections/servers/records/" + serverID(i) }
	list := get("/api/collections/servers/records?perPage=50&sort=name")
	return []request{
		{"modifiers", "PATCH", one(2), `{"mem+":5,"tags+":"c","games-":"` + acme + `","cfg":{"z":[1,{"y":null}]}}`, "ann"},
		{"not allowed", "PATCH", one(1), `{"mem":5}`, "bob"},
		{"not unique", "PATCH", one(2), `{"name":"srv00"}`, "super"},
		{"too long", "PATCH", one(2), `{"name":"` + fmt.Sprintf("%0101d", 1) + `"}`, "super"},
		{"a batch", "POST", "/api/batch", `{"requests":[{"method":"POST","url":"/api/collections/tenants/records","body":{"id":"` + gamma + `","name":"Gamma"}},{"method":"PUT","url":"/api/collections/tenants/records","body":{"id":"` + beta + `","name":"Beta2"}},{"method":"DELETE","url":"` + one(11) + `"}]}`, "super"},
		{"a batch that is undone", "POST", "/api/batch", `{"requests":[{"method":"POST","url":"/api/collections/tenants/records","body":{"name":"Delta"}},{"method":"POST","url":"/api/collections/tenants/records","body":{"name":"gamma"}}]}`, "super"},
		get("/api/collections/tenants/records?sort=name"), list,
		get("/api/collections/servers/records/" + serverID(3) + "?expand=tenant.owner,games,tenant.tenant_members_via_tenant.user"),
		get("/api/collections/stats/records?sort=name"), get("/api/collections/stats/records?filter=" + escape("cnt > 1 && total > 100 && name ~ 'a'")), get("/api/collections/stats/records?filter=" + escape("cnt >= '2'")),
		get("/api/collections/bare/records?sort=-label&filter=" + escape("doubled > 100")), get("/api/collections/made/records?sort=id"),
		{"rename, drop, one of many", "PATCH", "/api/collections/servers", `{"fields":[{"id":"text1579384326","name":"title","type":"text","required":true,"max":100},{"name":"extra","type":"number"},{"name":"cfg","type":"json"}],"indexes":["CREATE UNIQUE INDEX ` + "`idx_servers` ON `servers` (`title`)" + `"],"listRule":null,"viewRule":null,"createRule":null,"updateRule":null,"deleteRule":null}`, "super"},
		get("/api/collections/stats/records?sort=name"),
		{"the view first", "DELETE", "/api/collections/stats", "", "super"}, {"the other view", "DELETE", "/api/collections/bare", "", "super"},
		{"again", "PATCH", "/api/collections/servers", `{"indexes":[],"listRule":null,"viewRule":null,"createRule":null,"updateRule":null,"deleteRule":null}`, "super"},
		list,
		{"delete with what belongs to it", "DELETE", "/api/collections/tenants/records/" + acme, "", "super"},
		list, get("/api/collections/tenant_members/records"),
		{"truncate", "DELETE", "/api/collections/servers/truncate", "", "super"}, list,
		{"delete the collection", "DELETE", "/api/collections/servers", "", "super"}, get("/api/collections/servers"),
		{"sql", "POST", "/api/sql", `{"query":"select count(*) as n, max(name) from tenants"}`, "super"},
		{"new password", "PATCH", "/api/collections/users/records/" + ann, `{"oldPassword":"12345678","password":"87654321","passwordConfirm":"87654321"}`, "ann"},
		{"the old session", "POST", "/api/collections/users/auth-refresh", "", "ann"},
		{"sign in by another case", "POST", "/api/collections/users/auth-with-password", `{"identity":"ann@example.com","password":"87654321"}`, ""},
		{"sign in", "POST", "/api/collections/users/auth-with-password", `{"identity":"ann@Example.com","password":"87654321"}`, ""},
	}
}
