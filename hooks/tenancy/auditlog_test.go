package tenancy_test

import (
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"

	"github.com/mambahost/mamba/hooks/audit"
)

func TestTheAuditLogIsForOwnersAndAdmins(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	want(t, "a change", h.call("PATCH", h.path(""), h.admin.token, `{"name":"=HYPERLINK(\"http://x\")"}`), 200)
	for _, c := range []struct {
		who    person
		status int
		text   string
	}{
		{h.owner, 200, `"action":"tenant.update"`}, {h.admin, 200, `"actor_name":"admin"`}, {h.ops, 200, `"action":"tenant.create"`},
		{h.support, 403, `"forbidden"`}, {h.member, 403, `"forbidden"`}, {h.idle, 403, `"forbidden"`}, {h.friend, 403, `"forbidden"`},
		{h.stranger, 404, `"tenant_not_found"`}, {person{}, 401, `"unauthenticated"`},
	} {
		want(t, "reading", h.call("GET", "/api/v1/audit", c.who.token, "", "X-Tenant", h.tenant), c.status, c.text)
		rec := h.call("POST", "/api/v1/audit/export", c.who.token, `{"format":"json"}`, "X-Tenant", h.tenant)
		if rec.Code != c.status {
			t.Errorf("exporting: %d, want %d", rec.Code, c.status)
		}
	}
	want(t, "the others' own", h.call("GET", "/api/v1/audit", h.stranger.token, "", "X-Tenant", h.foreign), 200, `"total":1`, "!HYPERLINK")
	for query, status := range map[string]int{
		"action=tenant.": 200, "action=tenant.update&actor=" + h.admin.Id: 200, "from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00%2B02:00": 200, "page=2": 200,
		"page=0": 400, "page=x": 400, "from=yesterday": 400, "to=2026-13-01T00:00:00Z": 400,
	} {
		if rec := h.call("GET", "/api/v1/audit?"+query, h.owner.token, "", "X-Tenant", h.tenant); rec.Code != status {
			t.Errorf("%s: %d %s", query, rec.Code, rec.Body)
		}
	}
}

// What stands in an address beside the filter is nobody's business, and may be a secret that was put there by mistake.
func TestTheExportOfTheAuditLogKeepsOnlyItsFilter(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	want(t, "an export", h.call("POST", "/api/v1/audit/export?actor=mk_abcdefghijklmnopqrstuvwxyz&action=tenant.&token=supersecret&from=2026-01-01T00:00:00Z", h.owner.token, `{"format":"json"}`, "X-Tenant", h.tenant), 200)
	rec := h.call("GET", "/api/v1/audit?action=audit.export", h.owner.token, "", "X-Tenant", h.tenant)
	want(t, "what is written", rec, 200, `"action":"tenant."`, `"from":"2026-01-01T00:00:00Z"`, "!supersecret", "!mk_abc")
}

func TestTheAuditLogIsTakenAlong(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	want(t, "a change", h.call("PATCH", h.path(""), h.admin.token, `{"name":"Acme, \"Inc\""}`), 200)
	export := func(query, format string) string {
		t.Helper()
		rec := h.call("POST", "/api/v1/audit/export"+query, h.owner.token, `{"format":"`+format+`"}`, "X-Tenant", h.tenant, "User-Agent", "=1+1")
		if rec.Code != 200 || !strings.Contains(rec.Header().Get("Content-Disposition"), `filename="audit-acme-`) {
			t.Fatalf("%d %v %s", rec.Code, rec.Header(), rec.Body)
		}
		return rec.Body.String()
	}
	export("", "csv")
	rows, err := csv.NewReader(strings.NewReader(export("", "csv"))).ReadAll()
	if err != nil || len(rows) != 5 || rows[0][0] != "seq" || rows[1][0] != "1" || !strings.Contains(rows[2][11], `Acme, \"Inc\"`) {
		t.Errorf("%v, %v", rows, err)
	}
	if agent := rows[4][9]; agent != "'=1+1" {
		t.Errorf("a spreadsheet would compute %q", agent)
	}
	var list []audit.Line
	if err := json.Unmarshal([]byte(export("?action=audit.export", "json")), &list); err != nil || len(list) != 3 || list[0].Action != "audit.export" {
		t.Errorf("%+v, %v", list, err)
	}
	if none := export("?actor=nobody", "json"); none != "[]\n" {
		t.Errorf("nothing is %q", none)
	}
	for _, body := range []string{`{}`, `{"format":"xml"}`, `{"format":""}`} {
		want(t, body, h.call("POST", "/api/v1/audit/export", h.owner.token, body, "X-Tenant", h.tenant), 400)
	}
}
