package servers

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/wings/wire"
)

// witnesses counts what a command leaves behind it.
func (w *world) witnesses() [4]int {
	w.t.Helper()
	all := dbx.NewExp("1=1")
	return [4]int{w.count(collections.Servers, all), w.count(collections.AuditLogs, all), w.count(collections.Events, all), w.count(collections.Jobs, all)}
}

func TestCreateAnswersWithTheServerAndItsJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node := w.addNode("n1", "20000-20100")
	before := w.witnesses()
	r := w.create(`{"name":"  My\t first  one ","blueprint":"testgame","variant":"other","version":"1.0.0","node":"` + node + `","start":false,
		"variables":{"MOTD":"hello","SLOTS":"20","PASSWORD":"opensesame"},` + small + `}`)
	if r.status != http.StatusAccepted {
		t.Fatalf("%d %s", r.status, r.raw)
	}
	id := r.at("server.id").(string)
	for path, want := range map[string]any{
		"server.name": "My first one", "server.status": "INSTALLING", "server.desired_state": "stopped", "server.install_status": "PENDING",
		"server.variant": "other", "server.blueprint.version": "1.0.0", "server.blueprint.slug": "testgame", "server.node.name": "n1",
		"server.node.location": "Berlin", "server.variables.MOTD": "hello", "server.variables.SLOTS": "20", "server.variables.PASSWORD": nil,
		"server.variables.MODE": "easy", "server.address": "127.0.0.1:20000", "server.problem": nil, "server.rev": 1.0,
		"job.kind": "InstallServer", "job.state": "ready", "job.subject": id,
	} {
		if got := r.at(path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	variables := r.at("server.variables").(map[string]any)
	if _, shown := variables["EXIT"]; shown || len(variables) != 4 {
		t.Errorf("the variables are %v", variables)
	}
	if got := fmt.Sprint(r.at("server.actions")); got != "[update delete]" {
		t.Errorf("actions are %s", got)
	}
	var ports []string
	for _, p := range r.at("server.ports").([]any) {
		at := reply{json: p.(map[string]any)}
		ports = append(ports, fmt.Sprintf("%v %v→%v/%v", at.at("name"), at.at("host_port"), at.at("container_port"), at.at("protocol")))
	}
	if got := strings.Join(ports, ", "); got != "game 20000→7777/tcp, game 20000→7777/udp, voice 20001→9000/udp, voice 20002→9001/udp" {
		t.Errorf("ports are %s", got)
	}
	after := w.witnesses()
	for i, want := range [4]int{1, 1, 1, 1} {
		if after[i]-before[i] != want {
			t.Errorf("servers, audit rows, events and jobs grew from %v to %v", before, after)
		}
	}
	if again := w.do(w.owner, "GET", "jobs/"+r.at("job.id").(string), ""); again.status != 200 || again.at("id") != r.at("job.id") {
		t.Errorf("the job: %d %s", again.status, again.raw)
	}
	w.do(w.stranger, "GET", "jobs/"+r.at("job.id").(string), "", access.TenantHeader, "others").want(t, 404, "job_not_found", "")
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-20100")
	full := w.addNode("full", "")
	tight := w.addNode("tight", "21000-21010")
	w.set(collections.Nodes, tight, "memory_mib", 32)
	off := w.addNode("off", "22000-22010")
	w.set(collections.Nodes, off, "status", "OFFLINE")
	body := func(pairs ...string) string {
		fields := map[string]string{"name": `"one"`, "blueprint": `"testgame"`, "start": "true",
			"limits": `{"cpu_millicores":100,"memory_mib":64,"disk_gib":1}`}
		for i := 0; i < len(pairs); i += 2 {
			fields[pairs[i]] = pairs[i+1]
		}
		var parts []string
		for _, k := range slices.Sorted(func(yield func(string) bool) {
			for k := range fields {
				if !yield(k) {
					return
				}
			}
		}) {
			parts = append(parts, fmt.Sprintf("%q:%s", k, fields[k]))
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	limits := func(cpu, mem, disk int) string {
		return fmt.Sprintf(`{"cpu_millicores":%d,"memory_mib":%d,"disk_gib":%d}`, cpu, mem, disk)
	}
	for name, c := range map[string]struct {
		token, body string
		status      int
		code, field string
		absent      string
	}{
		"nobody":                           {"-", body(), 401, "unauthenticated", "", ""},
		"somebody who is no member":        {w.stranger, body(), 404, "tenant_not_found", "", "Acme"},
		"a member whose role is too small": {w.member, body(), 403, "forbidden", "", ""},
		"an address that is not confirmed": {w.unverified, body(), 403, "email_unverified", "", ""},
		"no name":                          {"", body("name", `""`), 400, "invalid_input", "name", ""},
		"a name of spaces":                 {"", body("name", `"  \t "`), 400, "invalid_input", "name", ""},
		"a name that is too long":          {"", body("name", `"`+strings.Repeat("ä", 61)+`"`), 400, "invalid_input", "name", ""},
		"a name that turns the writing":    {"", body("name", `"a\u202eb"`), 400, "invalid_input", "name", ""},
		"a name with nothing to see":       {"", body("name", `"a\u200bb"`), 400, "invalid_input", "name", ""},
		"too little CPU":                   {"", body("limits", limits(99, 64, 1)), 400, "invalid_input", "limits.cpu_millicores", ""},
		"too much CPU":                     {"", body("limits", limits(64_001, 64, 1)), 400, "invalid_input", "limits.cpu_millicores", ""},
		"too little memory":                {"", body("limits", limits(100, 31, 1)), 400, "invalid_input", "limits.memory_mib", ""},
		"no disk":                          {"", body("limits", limits(100, 64, 0)), 400, "invalid_input", "limits.disk_gib", ""},
		"a negative disk":                  {"", body("limits", limits(100, 64, -1)), 400, "invalid_input", "limits.disk_gib", ""},
		"a field of another type":          {"", body("name", `7`), 400, "invalid_input", "name", ""},
		"a field that is not known":        {"", body("owner", `"x"`), 400, "invalid_input", "owner", ""},
		"no JSON":                          {"", `name=one`, 400, "invalid_json", "", ""},
		"an unknown game":                  {"", body("blueprint", `"tetris"`), 400, "invalid_input", "blueprint", "sql:"},
		"an unknown version":               {"", body("version", `"9.9.9"`), 400, "invalid_input", "version", ""},
		"an unknown variant":               {"", body("variant", `"beta"`), 400, "invalid_input", "variant", ""},
		"a variant that is not offered":    {"", body("variant", `"inner"`), 400, "invalid_input", "variant", ""},
		"an unknown variable":              {"", body("variables", `{"COLOUR":"red"}`), 400, "invalid_input", "variables.COLOUR", ""},
		"the operator's own variable":      {"", body("variables", `{"EXIT":"1"}`), 400, "invalid_input", "variables.EXIT", "Exit code"},
		"a variable out of its range":      {"", body("variables", `{"SLOTS":"101"}`), 400, "invalid_input", "variables.SLOTS", ""},
		"a variable that is no number":     {"", body("variables", `{"SLOTS":"1e3"}`), 400, "invalid_input", "variables.SLOTS", ""},
		"a variable that is no choice":     {"", body("variables", `{"MODE":"fun"}`), 400, "invalid_input", "variables.MODE", ""},
		"a secret that is too short":       {"", body("variables", `{"PASSWORD":"xy"}`), 400, "invalid_input", "variables.PASSWORD", `"xy"`},
		"more memory than the quota":       {"", body("limits", limits(100, 33<<10, 1)), 409, "quota_exceeded", "", ""},
		"more than any node has":           {"", body("node", `"`+tight+`"`), 409, "node_full", "", ""},
		"a node without ports":             {"", body("node", `"`+full+`"`), 409, "ports_exhausted", "", ""},
		"a node that is silent":            {"", body("node", `"`+off+`"`), 409, "node_full", "", ""},
		"a node that does not exist":       {"", body("node", `"nodenodenodenod"`), 409, "node_not_found", "", ""},
		"a place where there is no node":   {"", body("location", `"Atlantis"`), 409, "no_fit", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.witnesses()
			token := c.token
			switch token {
			case "":
				token = w.owner
			case "-":
				token = ""
			}
			r := w.do(token, "POST", "servers", c.body)
			r.want(t, c.status, c.code, c.field)
			if c.absent != "" && strings.Contains(r.raw, c.absent) {
				t.Errorf("the answer says %q: %s", c.absent, r.raw)
			}
			if after := w.witnesses(); after != before {
				t.Errorf("a refusal left something: %v → %v", before, after)
			}
		})
	}
	if n := w.count(collections.PortPools, dbx.HashExp{"is_allocated": true}); n != 0 {
		t.Errorf("refusals hold %d ports", n)
	}
}

func TestQuotaAndPortsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-20009") // three games of 2 + 2 numbers... the pool ends before the quota
	made := 0
	var last reply
	for range 12 {
		if last = w.create(""); last.status != http.StatusAccepted {
			break
		}
		made++
	}
	if made < 2 || made > 9 {
		t.Errorf("%d servers found ports", made)
	}
	last.want(t, 409, "ports_exhausted", "")
	w.addNode("n2", "21000-21900")
	for ; made < 10; made++ {
		if r := w.create(""); r.status != http.StatusAccepted {
			t.Fatalf("server %d: %d %s", made, r.status, r.raw)
		}
	}
	w.create("").want(t, 409, "quota_exceeded", "")
}

func TestASuspendedOrganisationChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-20100")
	id := w.mustCreate("")
	w.set(collections.Tenants, w.tenant, "status", "SUSPENDED")
	w.create("").want(t, 403, "tenant_suspended", "")
	w.act(id, Start).want(t, 403, "tenant_suspended", "")
	w.do(w.owner, "PATCH", "servers/"+id, `{"name":"x"}`).want(t, 403, "tenant_suspended", "")
	w.do(w.owner, "DELETE", "servers/"+id, "").want(t, 403, "tenant_suspended", "")
	if r := w.do(w.owner, "GET", "servers/"+id, ""); r.status != 200 {
		t.Errorf("it cannot even be looked at: %d", r.status)
	}
	w.set(collections.Tenants, w.tenant, "status", "ACTIVE")
	w.set(collections.Servers, id, "suspended", true)
	w.set(collections.Servers, id, "status", "STOPPED")
	w.act(id, Start).want(t, 403, "tenant_suspended", "")
	w.set(collections.Servers, id, "desired_state", "running")
	if effective(w.row(id)) != wire.DesiredStopped {
		t.Error("a suspended server is still asked to run")
	}
}

func TestOneIdempotencyKeyMakesOneServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-20100")
	body := `{"name":"one","blueprint":"testgame","start":true,` + small + `}`
	first := w.create(body, access.IdempotencyHeader, "k1")
	again := w.create(body, access.IdempotencyHeader, "k1")
	if first.status != 202 || again.status != 202 || first.raw != again.raw || again.header.Get(access.ReplayedHeader) != "true" {
		t.Fatalf("%d %s\n%d %s", first.status, first.raw, again.status, again.raw)
	}
	w.create(strings.Replace(body, "one", "two", 1), access.IdempotencyHeader, "k1").want(t, 409, "idempotency_mismatch", "")
	id := first.at("server.id").(string)
	w.set(collections.Servers, id, "status", "STOPPED")
	one := w.do(w.owner, "POST", "servers/"+id+"/actions", `{"action":"start"}`, access.IdempotencyHeader, "k2")
	two := w.do(w.owner, "POST", "servers/"+id+"/actions", `{"action":"start"}`, access.IdempotencyHeader, "k2")
	if one.status != 202 || one.raw != two.raw {
		t.Fatalf("%d %s\n%d %s", one.status, one.raw, two.status, two.raw)
	}
	if n, g := w.count(collections.Servers, dbx.NewExp("1=1")), w.row(id).Generation(); n != 1 || g != 2 {
		t.Errorf("%d servers at generation %d", n, g)
	}
	bad := w.create(`{"name":"","blueprint":"testgame",`+small+`}`, access.IdempotencyHeader, "k3")
	bad.want(t, 400, "invalid_input", "name")
	if r := w.create(body, access.IdempotencyHeader, "k3"); r.status != 202 {
		t.Errorf("a refusal was remembered: %d %s", r.status, r.raw)
	}
}

// allowed is what a customer is promised, phase by phase; it is written down once more on purpose.
var allowed = map[Phase]string{
	Installing: "update delete", InstallFailed: "reinstall update delete", Stopped: "start reinstall update delete",
	Starting: "stop restart kill update delete", Running: "stop restart kill reinstall update delete", Stopping: "start kill update delete",
	Crashed: "start stop reinstall update delete", Failed: "start reinstall update delete", Unreachable: "start stop delete",
	Deleting: "", Deleted: "",
}

func TestEachActionInEachPhase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-21000")
	w.set(collections.Tenants, w.tenant, "quota_servers", 500)
	cases := 0
	for _, p := range allPhases {
		for _, a := range []Action{Start, Stop, Restart, Kill, Reinstall, Update, Delete} {
			cases++
			id := w.mustCreate("")
			w.set(collections.Servers, id, "status", string(p))
			w.set(collections.Servers, id, "install_status", installDone)
			var r reply
			switch a {
			case Update:
				r = w.do(w.owner, "PATCH", "servers/"+id, `{"limits":{"cpu_millicores":200,"memory_mib":64,"disk_gib":1}}`)
			case Delete:
				r = w.do(w.owner, "DELETE", "servers/"+id, "")
			default:
				r = w.act(id, a)
			}
			row := w.row(id)
			active := w.count(collections.Jobs, dbx.And(dbx.HashExp{"subject": id}, dbx.In("state", "ready", "waiting", "running")))
			switch {
			case p == Deleted:
				r.want(t, 404, "server_not_found", "")
			case !slices.Contains(strings.Fields(allowed[p]), string(a)):
				r.want(t, 409, "action_not_possible", "")
				if row.Generation() != 1 || Phase(row.Status()) != p {
					t.Errorf("%s in %s was refused and yet changed it", a, p)
				}
			case r.status != 202:
				t.Errorf("%s in %s: %d %s", a, p, r.status, r.raw)
			case p == InstallFailed && a == Update:
				if row.Generation() != 1 || active != 1 || r.at("job") != nil {
					t.Errorf("a change that a reinstall will take: generation %d, %d jobs, %s", row.Generation(), active, r.raw)
				}
			default:
				if row.Generation() != 2 || active != 1 || r.at("job.state") != jobs.Ready {
					t.Errorf("%s in %s: generation %d, %d active jobs, %s", a, p, row.Generation(), active, r.raw)
				}
				if !May(p, Phase(row.Status())) {
					t.Errorf("%s took it from %s to %s", a, p, row.Status())
				}
			}
		}
	}
	t.Logf("%d pairs of phase and action", cases)
}

func TestAnActionIsForThoseWhoMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-20100")
	id := w.mustCreate("")
	w.set(collections.Servers, id, "status", "RUNNING")
	for name, c := range map[string]struct {
		token, method, path, body string
		tenant                    string
		status                    int
		code                      string
	}{
		"a stranger reads":                        {w.stranger, "GET", "", "", "acme", 404, "tenant_not_found"},
		"a stranger reads through his own":        {w.stranger, "GET", "", "", "others", 404, "server_not_found"},
		"a stranger stops through his own":        {w.stranger, "POST", "/actions", `{"action":"stop"}`, "others", 404, "server_not_found"},
		"a stranger deletes through his own":      {w.stranger, "DELETE", "", "", "others", 404, "server_not_found"},
		"a stranger looks at its activity":        {w.stranger, "GET", "/activity", "", "others", 404, "server_not_found"},
		"a stranger asks for its console":         {w.stranger, "POST", "/console/token", "{}", "others", 404, "server_not_found"},
		"a member stops":                          {w.member, "POST", "/actions", `{"action":"stop"}`, "acme", 403, "forbidden"},
		"a member kills":                          {w.member, "POST", "/actions", `{"action":"kill"}`, "acme", 403, "forbidden"},
		"a member deletes":                        {w.member, "DELETE", "", "", "acme", 403, "forbidden"},
		"a member changes it":                     {w.member, "PATCH", "", `{"name":"x"}`, "acme", 403, "forbidden"},
		"an admin without a confirmed address":    {w.unverified, "POST", "/actions", `{"action":"stop"}`, "acme", 403, "email_unverified"},
		"an action that does not exist":           {w.owner, "POST", "/actions", `{"action":"explode"}`, "acme", 400, "invalid_input"},
		"update is no action of this route":       {w.owner, "POST", "/actions", `{"action":"update"}`, "acme", 400, "invalid_input"},
		"a stranger's action that does not exist": {w.stranger, "POST", "/actions", `{"action":"explode"}`, "others", 404, "server_not_found"},
		"nobody": {"", "GET", "", "", "acme", 401, "unauthenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.witnesses()
			r := w.do(c.token, c.method, "servers/"+id+c.path, c.body, access.TenantHeader, c.tenant)
			r.want(t, c.status, c.code, "")
			if strings.Contains(r.raw, `"one"`) || w.witnesses() != before {
				t.Errorf("it told or did something: %s", r.raw)
			}
		})
	}
	if r := w.do(w.member, "POST", "servers/"+id+"/actions", `{"action":"restart"}`); r.status != 202 {
		t.Errorf("a member may restart: %d %s", r.status, r.raw)
	}
}

func TestAPatchIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-20100")
	id := w.mustCreate(`{"name":"one","blueprint":"testgame","variables":{"PASSWORD":"opensesame"},` + small + `}`)
	patch := func(body string) reply { return w.do(w.owner, "PATCH", "servers/"+id, body) }
	for _, phase := range []Phase{Stopped, InstallFailed} {
		w.set(collections.Servers, id, "status", string(phase))
		if phase == InstallFailed { // and so without ports to compile with
			must(t, w.tx(func(tx core.App) error { return w.Alloc.Release(tx, id) }))
		}
		for name, c := range map[string]struct{ body, field string }{
			"a name of nothing":         {`{"name":" "}`, "name"},
			"limits that are no limits": {`{"limits":{"cpu_millicores":1,"memory_mib":64,"disk_gib":1}}`, "limits.cpu_millicores"},
			"an unknown variable":       {`{"variables":{"COLOUR":"red"}}`, "variables.COLOUR"},
			"a variable out of range":   {`{"variables":{"SLOTS":"0"}}`, "variables.SLOTS"},
			"a hidden variable":         {`{"variables":{"EXIT":"1"}}`, "variables.EXIT"},
			"a short secret":            {`{"variables":{"PASSWORD":"x"}}`, "variables.PASSWORD"},
			"an unknown field":          {`{"node":"x"}`, "node"},
		} {
			t.Run(string(phase)+" "+name, func(t *testing.T) {
				before := w.row(id)
				patch(c.body).want(t, 400, "invalid_input", c.field)
				if after := w.row(id); after.Rev() != before.Rev() || after.GetString("environment") != before.GetString("environment") {
					t.Error("a refused change changed something")
				}
			})
		}
	}
	w.set(collections.Servers, id, "status", "STOPPED")
	must(t, w.tx(func(tx core.App) error { _, err := w.hold(tx, w.row(id), false); return err }))
	patch(`{"limits":{"cpu_millicores":100,"memory_mib":40000,"disk_gib":1}}`).want(t, 409, "quota_exceeded", "")
	w.set(collections.Nodes, w.row(id).Node(), "memory_mib", 100)
	patch(`{"limits":{"cpu_millicores":100,"memory_mib":101,"disk_gib":1}}`).want(t, 409, "node_full", "")

	g := w.row(id).Generation()
	if r := patch(`{"name":" other  name "}`); r.status != 202 || r.at("job") != nil || r.at("server.name") != "other name" || w.row(id).Generation() != g {
		t.Errorf("a rename: %d %s", r.status, r.raw)
	}
	r := patch(`{"variables":{"MOTD":"new"},"limits":{"cpu_millicores":300,"memory_mib":80,"disk_gib":1}}`)
	if r.status != 202 || r.at("job.kind") != "UpdateServer" || r.at("server.variables.MOTD") != "new" || r.at("server.limits.memory_mib") != 80.0 {
		t.Errorf("a change: %d %s", r.status, r.raw)
	}
	specs, err := w.Specs(w.app, w.row(id).Node())
	if err != nil || len(specs) != 1 || specs[0].Env["MOTD"] != "new" || specs[0].Env["PASSWORD"] != "opensesame" || specs[0].Limits.MemoryMiB != 80 {
		t.Errorf("the node is told %+v %v", specs, err)
	}
	held := must2(collections.One[collections.Allocation](w.app, collections.Allocations, dbx.HashExp{"server": id, "status": "ACTIVE"}))(t)
	if held.MemoryMiB() != 80 {
		t.Errorf("%d MiB are reserved", held.MemoryMiB())
	}
}

func TestListsFilterSearchSortAndPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-20100")
	ids := map[string]string{}
	for _, name := range []string{"alpha", "beta", "gamma_1", "gammaX1", "delta"} {
		ids[name] = w.mustCreate(`{"name":"` + name + `","blueprint":"testgame",` + small + `}`)
	}
	w.set(collections.Servers, ids["beta"], "status", "RUNNING")
	w.set(collections.Servers, ids["delta"], "status", "DELETED")
	w.bindFriend(ids["alpha"])
	names := func(r reply) string {
		var out []string
		items, _ := r.json["items"].([]any)
		for _, i := range items {
			out = append(out, i.(map[string]any)["name"].(string))
		}
		return strings.Join(out, " ")
	}
	for name, c := range map[string]struct {
		token, query, want string
		total              float64
	}{
		"by name":                     {w.owner, "sort=name", "alpha beta gammaX1 gamma_1", 4},
		"by name, backwards":          {w.owner, "sort=-name", "gamma_1 gammaX1 beta alpha", 4},
		"by status":                   {w.owner, "sort=status&search=a&per_page=2", "alpha gammaX1", 4},
		"by status, backwards":        {w.owner, "sort=-status&per_page=1", "beta", 4},
		"a page":                      {w.owner, "sort=name&page=2&per_page=3", "gamma_1", 4},
		"a page behind the last":      {w.owner, "sort=name&page=9", "", 4},
		"a status":                    {w.owner, "status=RUNNING", "beta", 1},
		"what was deleted":            {w.owner, "status=DELETED", "", 0},
		"a game by its name":          {w.owner, "blueprint=testgame&sort=name", "alpha beta gammaX1 gamma_1", 4},
		"a game that nobody has":      {w.owner, "blueprint=tetris", "", 0},
		"a search":                    {w.owner, "search=ALPH", "alpha", 1},
		"a search for what SQL reads": {w.owner, "search=gamma_1", "gamma_1", 1},
		"a search that would be SQL":  {w.owner, "search=%27+OR+1%3D1--", "", 0},
		"a friend of one server":      {w.friend, "sort=name", "alpha", 1},
		"a friend searching another":  {w.friend, "search=beta", "", 0},
		"a member sees all":           {w.member, "sort=name", "alpha beta gammaX1 gamma_1", 4},
		"an operator, for a customer": {w.super, "sort=name", "alpha beta gammaX1 gamma_1", 4},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.do(c.token, "GET", "servers?"+c.query, "")
			if r.status != 200 || names(r) != c.want || r.json["total"] != c.total {
				t.Errorf("%d: %q of %v, want %q of %v", r.status, names(r), r.json["total"], c.want, c.total)
			}
		})
	}
	for name, c := range map[string]struct{ query, field string }{
		"a status that is none":    {"status=HAPPY", "status"},
		"an order that is none":    {"sort=password", "sort"},
		"page zero":                {"page=0", "page"},
		"a page that is no number": {"page=x", "page"},
		"too many at once":         {"per_page=201", "per_page"},
		"less than nothing":        {"per_page=-1", "per_page"},
	} {
		t.Run(name, func(t *testing.T) {
			w.do(w.owner, "GET", "servers?"+c.query, "").want(t, 400, "invalid_input", c.field)
		})
	}
	w.do(w.stranger, "GET", "servers", "").want(t, 404, "tenant_not_found", "")
	w.do(w.friend, "GET", "servers/"+ids["beta"], "").want(t, 404, "server_not_found", "")
	if r := w.do(w.friend, "GET", "servers/"+ids["alpha"], ""); r.status != 200 || r.at("job.kind") != "InstallServer" || r.at("install_log") != "" {
		t.Errorf("a friend's own: %d %s", r.status, r.raw)
	}
}

func TestPlacementExplainsAndReservesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	node := w.addNode("n1", "20000-20100")
	off := w.addNode("n2", "21000-21100")
	w.set(collections.Nodes, off, "status", "OFFLINE")
	r := w.do(w.owner, "POST", "servers/placement", `{"blueprint":"testgame",`+small+`}`)
	if r.status != 200 || r.at("chosen") != node || len(r.json["nodes"].([]any)) != 2 {
		t.Errorf("%d %s", r.status, r.raw)
	}
	w.do(w.member, "POST", "servers/placement", `{"blueprint":"testgame",`+small+`}`).want(t, 403, "forbidden", "")
	w.do(w.owner, "POST", "servers/placement", `{"blueprint":"tetris",`+small+`}`).want(t, 400, "invalid_input", "blueprint")
	if n := w.count(collections.PortPools, dbx.HashExp{"is_allocated": true}); n != 0 {
		t.Errorf("asking holds %d ports", n)
	}
}

func TestActivityIsTheTenantsOwnAndNamesWhoDidIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-20100")
	id, other := w.mustCreate(""), w.mustCreate("")
	w.set(collections.Servers, id, "status", "RUNNING")
	w.do(w.member, "POST", "servers/"+id+"/actions", `{"action":"restart"}`)
	r := w.do(w.owner, "GET", "servers/"+id+"/activity", "")
	var got []string
	for _, i := range r.json["items"].([]any) {
		item := reply{json: i.(map[string]any)}
		got = append(got, fmt.Sprintf("%v by %v %v", item.at("kind"), item.at("actor.type"), item.at("actor.name")))
	}
	want := "server.restart by user member|server.phase_changed by system |server.create by user owner"
	if strings.Join(got, "|") != want || r.json["total"] != 3.0 || strings.Contains(r.raw, other) {
		t.Errorf("the activity is %q of %v", got, r.json["total"])
	}
	w.do(w.owner, "GET", "servers/"+id+"/activity?page=0", "").want(t, 400, "invalid_input", "page")
}
