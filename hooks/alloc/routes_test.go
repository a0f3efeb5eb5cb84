package alloc_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pocketbase/pocketbase/core"
)

func (h *house) account(t *testing.T, collection, name string) string {
	t.Helper()
	c, err := h.FindCollectionByNameOrId(collection)
	if err != nil {
		t.Fatal(err)
	}
	u := core.NewRecord(c)
	u.SetEmail(name + "@example.test")
	u.SetRandomPassword()
	u.SetVerified(true)
	if err := h.Save(u); err != nil {
		t.Fatal(err)
	}
	token, err := u.NewAuthToken()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestOperatorsRoutes(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	root, user := h.account(t, "_superusers", "root"), h.account(t, "users", "ann")
	node := h.node(t, "n1", nil)
	ports := "/api/v1/admin/nodes/" + node + "/ports"
	const entry = `{"addresses":"10.0.0.0/31","ports":"2000-2001,2010","protocols":["tcp"]}`
	reserve := func() { h.mustReserve(t, game("server000000001")) }
	for _, c := range []struct {
		name, method, path, token, body string
		before                          func()
		status                          int
		texts                           []string
		audited                         string
	}{
		{"no pools yet", "GET", ports, root, "", nil, 200, []string{`{"items":[]}`}, ""},
		{"ports are added", "POST", ports, root, entry, nil, 201, []string{`{"added":6}`}, "node.add_ports"},
		{"ports are added again", "POST", ports, root, entry, nil, 201, []string{`{"added":0}`}, "node.add_ports"},
		{"pools", "GET", ports, root, "", reserve, 200, []string{`"address":"10.0.0.0"`, `"ports":"2000-2001,2010"`, `"total":3`, `"used":[{"port":2000,"server":"server000000001"}]`}, ""},
		{"ports in use", "DELETE", ports, root, entry, nil, 409, []string{`"ports_in_use"`}, ""},
		{"free ports are removed", "DELETE", ports, root, `{"addresses":"10.0.0.1","ports":"2000-2999"}`, nil, 200, []string{`{"removed":3}`}, "node.remove_ports"},
		{"all allocations", "GET", "/api/v1/admin/allocations", root, "", nil, 200, []string{`"server":"server000000001"`, `"host_port":2000`, `"status":"ACTIVE"`, `"released_at":null`, `"total":1`, `"page":1`, `"per_page":50`}, ""},
		{"allocations of a node", "GET", "/api/v1/admin/allocations?node=" + node + "&status=ACTIVE&per_page=1", root, "", nil, 200, []string{`"total":1`, `"per_page":1`}, ""},
		{"allocations of another tenant", "GET", "/api/v1/admin/allocations?tenant=x", root, "", nil, 200, []string{`"items":[]`, `"total":0`, "!server000000001"}, ""},
		{"a page beyond the last", "GET", "/api/v1/admin/allocations?page=9", root, "", nil, 200, []string{`"items":[]`, `"total":1`}, ""},
		{"an unknown status", "GET", "/api/v1/admin/allocations?status=active", root, "", nil, 400, []string{`"status":{"code":"unknown"`}, ""},
		{"page 0", "GET", "/api/v1/admin/allocations?page=0", root, "", nil, 400, []string{`"page":{"code":"range"`}, ""},
		{"very long pages", "GET", "/api/v1/admin/allocations?per_page=201", root, "", nil, 400, []string{`"per_page"`}, ""},
		{"text for a page", "GET", "/api/v1/admin/allocations?page=1%20OR%201", root, "", nil, 400, []string{`"page"`}, ""},
		{"a dry scan by default", "POST", "/api/v1/admin/allocations/scan", root, `{}`, nil, 200, []string{`"dry_run":true`, `"allocation_without_server"`, `"freed":0`}, ""},
		{"a scan", "POST", "/api/v1/admin/allocations/scan", root, `{"dry_run":false}`, nil, 200, []string{`"dry_run":false`, `"freed":1`}, "allocation.scan"},
		{"a scan of a text", "POST", "/api/v1/admin/allocations/scan", root, `{"dry_run":"no"}`, nil, 400, []string{`"dry_run":{"code":"type"`}, ""},
		{"a bad range", "POST", ports, root, `{"addresses":"10.0.0.0/31","ports":"x"}`, nil, 400, []string{`"ports":{"code":"invalid"`}, ""},
		{"an unknown field", "POST", ports, root, `{"addresses":"10.0.0.1","ports":"2000","node":"x"}`, nil, 400, []string{`"node":{"code":"unknown"`}, ""},
		{"a node that is not there", "POST", "/api/v1/admin/nodes/nosuchnode00000/ports", root, entry, nil, 404, []string{`"node_not_found"`}, ""},
		{"a malformed node", "GET", "/api/v1/admin/nodes/%27%20OR%201/ports", root, "", nil, 404, []string{`"node_not_found"`}, ""},
		{"a wrong method", "PUT", ports, root, "", nil, 405, []string{`"method_not_allowed"`}, ""},
	} {
		if c.before != nil {
			c.before()
		}
		n, err := h.CountRecords("audit_logs")
		if err != nil {
			t.Fatal(err)
		}
		rec := h.call(c.method, c.path, c.token, c.body)
		body := rec.Body.String()
		if rec.Code != c.status {
			t.Errorf("%s: %d %s", c.name, rec.Code, body)
		}
		for _, want := range c.texts {
			if absent, no := strings.CutPrefix(want, "!"); no == strings.Contains(body, strings.TrimPrefix(absent, "!")) {
				t.Errorf("%s: %s in %s", c.name, want, body)
			}
		}
		rows, err := h.FindRecordsByFilter("audit_logs", "", "seq", 0, int(n))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, r := range rows {
			got += r.GetString("actor_type") + " " + r.GetString("action")
		}
		if want := strings.TrimSpace("superuser " + c.audited); (c.audited == "") != (got == "") || c.audited != "" && got != want {
			t.Errorf("%s: audit %q, want %q", c.name, got, c.audited)
		}
	}
	for _, who := range []struct {
		token, code string
		status      int
	}{{user, "superuser_only", 403}, {"", "unauthenticated", 401}} {
		for _, r := range []string{"GET " + ports, "POST " + ports, "DELETE " + ports, "GET /api/v1/admin/allocations", "POST /api/v1/admin/allocations/scan"} {
			method, path, _ := strings.Cut(r, " ")
			rec := h.call(method, path, who.token, `{"addresses":"10.0.0.9","ports":"2000"}`)
			if rec.Code != who.status || !strings.Contains(rec.Body.String(), fmt.Sprintf(`"code":%q`, who.code)) || strings.Contains(rec.Body.String(), "10.0.0") {
				t.Errorf("%s: %d %s", r, rec.Code, rec.Body)
			}
		}
	}
	if report, err := h.audit.Verify(h, ""); err != nil || !report.OK() {
		t.Errorf("the audit chain: %+v %v", report, err)
	}
}
