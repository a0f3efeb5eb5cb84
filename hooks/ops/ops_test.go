package ops

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tests"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/jobs"
)

// desk is a panel with the operators' routes; its one kind of job dies at once.
type desk struct {
	*tests.TestApp
	jobs        *jobs.Queue
	book        *incidents.Book
	mux         http.Handler
	super, user string
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	app := collectionstest.New(t)
	guard := func(e *core.ModelEvent) error {
		if err := collections.Guard(e.Context, e.Model.TableName()); err != nil {
			return err
		}
		return e.Next()
	}
	app.OnModelCreate().BindFunc(guard)
	app.OnModelUpdate().BindFunc(guard)
	quiet := slog.New(slog.DiscardHandler)
	d := &desk{TestApp: app, jobs: jobs.New(app, jobs.Config{Log: quiet}), book: incidents.New(nil)}
	d.jobs.Handle("Doomed", jobs.Options{}, func(context.Context, *jobs.Run) error { return jobs.Permanent(errors.New("the disk is gone")) }, nil)
	log, err := audit.New(bytes.Repeat([]byte{9}, 32), nil, quiet)
	must(t, err)
	r, err := apis.NewRouter(app)
	must(t, err)
	g := r.Group("/api/v1")
	access.Door(g)
	New(d.jobs, d.book, log, "SQLite").Routes(g)
	d.mux, err = r.BuildMux()
	must(t, err)
	d.super, d.user = d.token(t, core.CollectionNameSuperusers), d.token(t, "users")
	return d
}

func (d *desk) token(t *testing.T, collection string) string {
	t.Helper()
	c, err := d.FindCollectionByNameOrId(collection)
	must(t, err)
	r := core.NewRecord(c)
	r.SetEmail("a@example.org")
	r.SetPassword("a-long-password")
	r.SetVerified(true)
	must(t, d.Save(r))
	token, err := r.NewAuthToken()
	must(t, err)
	return token
}

type reply struct {
	Code  string           `json:"code"`
	Total int              `json:"total"`
	Items []map[string]any `json:"items"`
	State string           `json:"state"`
}

func (d *desk) do(t *testing.T, token, method, path, body string) (int, reply, string) {
	t.Helper()
	req := httptest.NewRequest(method, "/api/v1/admin/"+path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	rec := httptest.NewRecorder()
	d.mux.ServeHTTP(rec, req)
	var r reply
	_ = json.Unmarshal(rec.Body.Bytes(), &r)
	return rec.Code, r, rec.Body.String()
}

func (d *desk) count(t *testing.T, table string, where dbx.Expression) int64 {
	t.Helper()
	n, err := d.CountRecords(table, where)
	must(t, err)
	return n
}

// dead makes jobs that were given up.
func (d *desk) dead(t *testing.T, keys ...string) (ids []string) {
	t.Helper()
	for _, key := range keys {
		id, err := d.jobs.Enqueue(d, jobs.Job{Kind: "Doomed", UniqueKey: key, Tenant: "tenant000000001", Subject: "server000000001"})
		must(t, err)
		ids = append(ids, id)
	}
	d.jobs.Start(t.Context())
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for d.count(t, collections.Jobs, dbx.HashExp{"state": jobs.Dead}) < int64(len(ids)) {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("the jobs do not die")
		}
	}
	d.jobs.Stop()
	return ids
}

func TestOnlyOperatorsComeIn(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, route := range []string{"GET jobs", "GET jobs/health", "POST jobs/x/retry", "POST jobs/x/discard", "GET incidents", "POST incidents/x/resolve"} {
		method, path, _ := strings.Cut(route, " ")
		for token, want := range map[string]int{"": 401, d.user: 403} {
			if status, r, raw := d.do(t, token, method, path, `{"resolution":"x"}`); status != want || r.Items != nil {
				t.Errorf("%s: %d %s", route, status, raw)
			}
		}
	}
	if n := d.count(t, collections.AuditLogs, dbx.NewExp("1=1")); n != 0 {
		t.Errorf("refusals left %d audit rows", n)
	}
}

func TestAnOperatorDecidesAboutJobsThatWereGivenUp(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	ids := d.dead(t, "one", "two", "three")
	status, r, raw := d.do(t, d.super, "GET", "jobs?state=dead&kind=Doomed&subject=server000000001&tenant=tenant000000001", "")
	if status != 200 || r.Total != 3 || len(r.Items) != 3 || r.Items[0]["last_error"] != "the disk is gone" {
		t.Fatalf("the list: %d %s", status, raw)
	}
	if _, r, raw := d.do(t, d.super, "GET", "jobs?state=done", ""); r.Total != 0 || !strings.Contains(raw, `"items":[]`) {
		t.Errorf("others: %s", raw)
	}
	if status, r, raw := d.do(t, d.super, "GET", "jobs", ""); status != 200 || r.Total != 3 || len(r.Items) != 3 {
		t.Errorf("all of them: %d %s", status, raw)
	}
	for _, list := range []string{"jobs?", "incidents?"} {
		for _, query := range []string{"page=0", "page=-1", "page=x", "page=1048577", "page=9223372036854775807", "state=unknown&status=unknown"} {
			if status, r, _ := d.do(t, d.super, "GET", list+query, ""); status != 400 || r.Code != "invalid_input" {
				t.Errorf("%s%s: %d %s", list, query, status, r.Code)
			}
		}
		if status, r, raw := d.do(t, d.super, "GET", list+"page=1048576", ""); status != 200 || len(r.Items) != 0 {
			t.Errorf("far behind the end of %s %d %s", list, status, raw)
		}
	}
	if _, _, raw := d.do(t, d.super, "GET", "jobs/health", ""); !strings.Contains(raw, `"dead":3`) {
		t.Errorf("health: %s", raw)
	}
	if _, err := d.jobs.Enqueue(d, jobs.Job{Kind: "Doomed", UniqueKey: "three"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		status     int
		code       string
		state      string
	}{
		{"a retry", ids[0] + "/retry", 200, "", jobs.Ready},
		{"a second one", ids[0] + "/retry", 409, "job_not_dead", ""},
		{"putting away what is to run", ids[0] + "/discard", 409, "job_not_dead", ""},
		{"putting away", ids[1] + "/discard", 200, "", jobs.Cancelled},
		{"trying what was put away", ids[1] + "/retry", 409, "job_not_dead", ""},
		{"trying what another job does already", ids[2] + "/retry", 409, "job_active", ""},
		{"a job that is not there", "nosuchjob000000/retry", 404, "job_not_found", ""},
	} {
		before := d.count(t, collections.AuditLogs, dbx.NewExp("1=1"))
		status, r, raw := d.do(t, d.super, "POST", "jobs/"+c.path, "")
		if status != c.status || r.Code != c.code || r.State != c.state {
			t.Errorf("%s: %d %s", c.name, status, raw)
		}
		if wrote := d.count(t, collections.AuditLogs, dbx.NewExp("1=1")) - before; (wrote == 1) != (c.status == 200) || wrote > 1 {
			t.Errorf("%s left %d audit rows", c.name, wrote)
		}
	}
	if n := d.count(t, collections.AuditLogs, dbx.HashExp{"tenant": "tenant000000001", "actor_type": "superuser", "action": "job.retry", "resource": ids[0]}); n != 1 {
		t.Errorf("%d rows tell of the retry", n)
	}
}

func TestAnOperatorResolvesIncidents(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, f := range []string{"a", "b"} {
		must(t, d.book.Open(d, incidents.Incident{Kind: "node.offline", Fingerprint: f, Severity: "warning", Title: "It is " + f, Node: "node00000000001"}))
	}
	_, r, raw := d.do(t, d.super, "GET", "incidents?status=OPEN&node=node00000000001", "")
	if r.Total != 2 {
		t.Fatalf("the list: %s", raw)
	}
	id := r.Items[0]["id"].(string)
	for _, c := range []struct {
		name, path, body string
		status           int
		code             string
	}{
		{"without a word", id, `{"resolution":" "}`, 400, "invalid_input"},
		{"with what nobody reads", id, `{"resolution":"x","by":"me"}`, 400, "invalid_input"},
		{"without a body", id, ``, 400, "invalid_json"},
		{"one that is not there", "nosuchincident0", `{"resolution":"x"}`, 404, "incident_not_open"},
		{"with a sentence", id, `{"resolution":"Replaced the fan."}`, 200, ""},
		{"twice", id, `{"resolution":"Again."}`, 404, "incident_not_open"},
	} {
		before := d.count(t, collections.AuditLogs, dbx.NewExp("1=1"))
		status, r, raw := d.do(t, d.super, "POST", "incidents/"+c.path+"/resolve", c.body)
		if status != c.status || r.Code != c.code {
			t.Errorf("%s: %d %s", c.name, status, raw)
		}
		if wrote := d.count(t, collections.AuditLogs, dbx.NewExp("1=1")) - before; (wrote == 1) != (c.status == 200) {
			t.Errorf("%s left %d audit rows", c.name, wrote)
		}
	}
	if _, r, _ := d.do(t, d.super, "GET", "incidents?status=OPEN", ""); r.Total != 1 {
		t.Errorf("%d are open", r.Total)
	}
}
