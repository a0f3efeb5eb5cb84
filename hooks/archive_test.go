package hooks

import (
	"archive/zip"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// archive asks for an archive, waits for it, downloads it and returns its files.
func (s *settled) archive(token, tenant string) map[string]string {
	s.t.Helper()
	path := "/api/v1/tenants/" + tenant
	status, _, raw := s.ask(token, tenant, "POST", path+"/export", plain, "")
	if status != 202 && status != 409 { // one may run already
		s.t.Fatalf("%d %s", status, raw)
	}
	id := ""
	collectionstest.Eventually(s.t, "the archive is ready", func() bool {
		_, _, raw := s.ask(token, tenant, "GET", path+"/exports", plain, "")
		for _, x := range decode[struct{ Items []struct{ ID, Status string } }](s.t, raw).Items {
			if x.Status == "READY" {
				id = x.ID
			}
		}
		return id != ""
	})
	code, body := s.fetch(path, id, s.intent(token, tenant, id))
	if code != 200 {
		s.t.Fatalf("%d %.300s", code, body)
	}
	z, err := zip.NewReader(strings.NewReader(body), int64(len(body)))
	must(s.t, err)
	out := map[string]string{}
	for _, f := range z.File {
		r, err := f.Open()
		must(s.t, err)
		text, err := io.ReadAll(r)
		must(s.t, err)
		out[f.Name] = string(text)
	}
	return out
}

// intent is a token for one download.
func (s *settled) intent(token, tenant, export string) string {
	s.t.Helper()
	status, _, raw := s.ask(token, tenant, "POST", "/api/v1/tenants/"+tenant+"/exports/"+export+"/token", plain, "")
	if status != 200 {
		s.t.Fatalf("%d %s", status, raw)
	}
	return decode[struct{ Token string }](s.t, raw).Token
}

func (s *settled) fetch(path, export, intent string) (int, string) {
	s.t.Helper()
	req := httptest.NewRequest("GET", path+"/exports/"+export+"/download", nil)
	req.Header.Set("X-Download-Token", intent)
	rec := httptest.NewRecorder()
	s.mux.ServeHTTP(rec, req)
	if rec.Code == 200 && rec.Header().Get("Content-Length") != fmt.Sprint(rec.Body.Len()) {
		s.t.Errorf("%d bytes came, %s were promised", rec.Body.Len(), rec.Header().Get("Content-Length"))
	}
	return rec.Code, rec.Body.String()
}

// notArchived are the collections whose rows are in no archive: docs/security.md says why.
var notArchived = []string{collections.AuditHeads, collections.IdempotencyKeies, collections.Jobs, collections.Incidents, collections.Notifications, collections.NotificationMutes, collections.ExportParts}

func TestT07_AnArchiveHoldsAllOfOneOrganisationAndNoSecret(t *testing.T) {
	t.Parallel()
	s := settle(t)
	a, boss := s.ids["/tenants/"], s.as("owner@demo.example").super
	other := s.person("other@example.org")
	_, _, raw := s.ask(other, "", "POST", "/api/v1/tenants", plain, `{"name":"Bystanders"}`)
	b := decode[struct{ ID string }](t, raw).ID
	s.plantAll(b, "bystander")
	s.plantAll(a, "taken")
	for range 40 { // what does not compress: the archive has several parts
		noise := make([]byte, 40<<10)
		_, _ = rand.Read(noise)
		_, err := s.app.NonconcurrentDB().Insert(collections.Notifications, dbx.Params{"id": core.GenerateDefaultRandomId(), "unique_key": core.GenerateDefaultRandomId(), "tenant": b}).Execute()
		must(t, err)
		_, err = s.app.NonconcurrentDB().Insert(collections.AuditLogs, dbx.Params{"id": core.GenerateDefaultRandomId(), "tenant": a, "seq": 1e6 + float64(noise[0]) + 256*float64(noise[1]) + 65536*float64(noise[2]),
			"actor_type": "system", "action": "noise", "mac": "x", "metadata": `"` + base64.StdEncoding.EncodeToString(noise) + `"`, "at": collections.Stamp(time.Now())}).Execute()
		must(t, err)
	}
	files := s.archive(boss, a)
	text := ""
	for name, content := range files {
		text += content
		if strings.HasSuffix(name, ".json") && !json.Valid([]byte(content)) {
			t.Errorf("%s is no JSON: %.200s", name, content)
		}
	}
	checked := 0
	for _, d := range collections.All() {
		if !d.Tenant {
			continue
		}
		left := false
		for _, name := range notArchived {
			left = left || name == d.Name
		}
		if _, there := files[d.Name+".json"]; there == left {
			t.Errorf("%s is in the archive: %t", d.Name, there)
		}
		if d.Name == collections.AuditLogs || d.Name == collections.AuditHeads {
			continue
		}
		for _, f := range d.Columns() {
			canary := mark("taken", d.Name, f.Name)
			if f.Name == "tenant" || f.Kind != collections.Text && f.Kind != collections.Email && f.Kind != collections.Relation && f.Kind != collections.JSON {
				continue
			}
			checked++
			if got := strings.Contains(text, canary+`"`); got == (left || f.Hidden) {
				t.Errorf("%s is in the archive: %t", canary, got)
			}
		}
	}
	for _, never := range []string{"bystander", "Bystanders", "m1:", "token_hash", "password"} {
		if i := strings.Index(text, never); i >= 0 {
			t.Errorf("the archive holds %q: %.300s", never, text[max(0, i-100):])
		}
	}
	for _, want := range []string{mark("taken", "audit_logs", "metadata"), "owner@demo.example", mark("taken", "tenants", "name")} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in the archive", want)
		}
	}
	x, err := collections.One[collections.Export](s.app, collections.Exports, dbx.HashExp{"tenant": a, "status": "READY"})
	must(t, err)
	if x.Parts() < 2 {
		t.Errorf("%d parts of %d bytes", x.Parts(), x.Bytes())
	}
	path := "/api/v1/tenants/" + a
	intent := s.intent(boss, a, x.Id)
	_, body := s.fetch(path, x.Id, intent)
	if sum := sha256.Sum256([]byte(body)); hex.EncodeToString(sum[:]) != x.Digest() {
		t.Errorf("%d bytes came, and are not what was made", len(body))
	}
	if code, body := s.fetch(path, x.Id, intent); code != 401 || !strings.Contains(body, "token_spent") {
		t.Errorf("a token for one download was good for two: %d %.200s", code, body)
	}
	for action, want := range map[string]int64{"export.create": 1, "export.download": 2} {
		if n := s.count(collections.AuditLogs, dbx.HashExp{"tenant": a, "action": action}); n != want {
			t.Errorf("%d of %d rows of %s", n, want, action)
		}
	}
	collectionstest.Eventually(t, "who asked is told", func() bool {
		return s.count(collections.Notifications, dbx.HashExp{"tenant": a, "channel": "app", "template": "tenant.export_ready"}) == 1
	})
	t.Logf("T07: %d fields, %d files, %d parts: no field is missing, none of another organisation and no secret is there", checked, len(files), x.Parts())

	// Whoever may not any more when he comes with his token does not get it.
	first, second, third := s.intent(boss, a, x.Id), s.intent(boss, a, x.Id), s.intent(boss, a, x.Id)
	if code, body := s.fetch("/api/v1/tenants/"+b, x.Id, third); code != 404 {
		t.Errorf("through another organisation: %d %.200s", code, body)
	}
	member, err := s.app.FindAuthRecordByEmail("users", "member@demo.example")
	must(t, err)
	if status, _, raw := s.ask(s.super, a, "POST", path+"/transfer", plain, `{"user":"`+member.Id+`"}`); status != 200 {
		t.Fatalf("%d %s", status, raw)
	}
	if code, body := s.fetch(path, x.Id, first); code != 403 {
		t.Errorf("who has handed the organisation over: %d %.200s", code, body)
	}
	owner, err := s.app.FindAuthRecordByEmail("users", "owner@demo.example")
	must(t, err)
	if status, _, raw := s.ask(s.as("member@demo.example").super, a, "DELETE", path+"/members/"+owner.Id, plain, ""); status != 204 {
		t.Fatalf("%d %s", status, raw)
	}
	if code, body := s.fetch(path, x.Id, second); code != 404 {
		t.Errorf("who was removed: %d %.200s", code, body)
	}

	must(t, s.Compliance.Expire(s.app, time.Now().Add(6*24*time.Hour)))
	if n := s.count(collections.ExportParts, dbx.HashExp{"export": x.Id}); n != x.Parts() {
		t.Errorf("%d parts after six days", n)
	}
	must(t, s.Compliance.Expire(s.app, time.Now().Add(8*24*time.Hour)))
	if n := s.count(collections.ExportParts, dbx.HashExp{"export": x.Id}) + s.count(collections.Exports, dbx.HashExp{"id": x.Id}); n != 0 {
		t.Errorf("%d rows after eight days", n)
	}
}

func TestExportsAreBounded(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil)
	s := &settled{house: h}
	boss := s.person("owner@example.org")
	_, _, raw := s.ask(boss, "", "POST", "/api/v1/tenants", plain, `{"name":"Acme"}`)
	tenant := decode[struct{ ID string }](t, raw).ID
	path := "/api/v1/tenants/" + tenant + "/export"
	put := func(id, status string) {
		_, err := s.app.NonconcurrentDB().Insert(collections.Exports, dbx.Params{"id": id, "tenant": tenant, "user": "x", "status": status, "created": collections.Stamp(time.Now()), "expires_at": collections.Stamp(time.Now().Add(time.Hour))}).Execute()
		must(t, err)
	}
	turn := func(status string) {
		_, err := s.app.NonconcurrentDB().Update(collections.Tenants, dbx.Params{"status": status}, dbx.HashExp{"id": tenant}).Execute()
		must(t, err)
	}
	put("running00000000", "RUNNING")
	if status, out, raw := s.ask(boss, tenant, "POST", path, plain, ""); status != 409 || out.Code != "export_running" {
		t.Errorf("%d %s", status, raw)
	}
	if status, _, raw := s.ask(boss, tenant, "POST", path+"s/running00000000/token", plain, ""); status != 404 {
		t.Errorf("one that is not ready: %d %s", status, raw)
	}
	_, err := s.app.NonconcurrentDB().Update(collections.Exports, dbx.Params{"status": "FAILED"}, dbx.HashExp{"id": "running00000000"}).Execute()
	must(t, err)
	for i, status := range []string{tenancy.StatusSuspended, tenancy.StatusDeleting} { // to leave is possible in every state
		turn(status)
		if got, _, raw := s.ask(boss, tenant, "POST", path, plain, ""); got != 202 {
			t.Errorf("%s: %d %s", status, got, raw)
		}
		collectionstest.Eventually(t, "it is ready", func() bool {
			return s.count(collections.Exports, dbx.HashExp{"tenant": tenant, "status": "READY"}) == int64(i+1)
		})
	}
	turn(tenancy.StatusActive)
	put("fourth000000000", "FAILED")
	put("fifth0000000000", "FAILED")
	req := httptest.NewRequest("POST", path, bytes.NewReader(nil))
	req.Header.Set("Authorization", boss)
	rec := httptest.NewRecorder()
	s.mux.ServeHTTP(rec, req)
	if rec.Code != 429 || !strings.Contains(rec.Body.String(), "export_limit") || rec.Header().Get("Retry-After") == "" {
		t.Errorf("the sixth of a day: %d %s", rec.Code, rec.Body)
	}
}
