package hooks

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// atOnce sends requests at the same moment and counts their answers.
func (s *settled) atOnce(requests ...func() (status int, code string)) map[string]int {
	s.t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	by := map[string]int{}
	begin := make(chan struct{})
	for _, ask := range requests {
		wg.Go(func() {
			<-begin
			status, code := ask()
			mu.Lock()
			defer mu.Unlock()
			if by[fmt.Sprint(status, " ", code)]++; status >= 500 && status != 503 {
				s.t.Errorf("%d %s", status, code)
			}
		})
	}
	close(begin)
	wg.Wait()
	return by
}

func (s *settled) asks(token, method, path, body string) func() (int, string) {
	return func() (int, string) {
		status, out, _ := s.ask(token, "", method, "/api/v1"+path, plain, body)
		return status, out.Code
	}
}

func times[T any](n int, v T) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// The owner of an organisation asks for everything at once, many times: what comes of it is one of the things that he
// asked for, whole.
func TestTheEndOfAnOrganisationIsOneThingAtATime(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil)
	h.asSuperuser()
	s := &settled{house: h}
	s.Compliance.Look = 50 * time.Millisecond
	s.person("owner@example.org")
	boss := s.signIn("owner@example.org")
	found := func(name string) (string, string) {
		t.Helper()
		_, _, raw := s.ask(boss, "", "POST", "/api/v1/tenants", plain, `{"name":"`+name+`"}`)
		id := decode[struct{ ID string }](t, raw).ID
		return id, "/tenants/" + id
	}
	guest := func(path, email string) (token, accept, body string) {
		t.Helper()
		s.person(email)
		status, _, raw := s.ask(boss, "", "POST", "/api/v1"+path+"/members/invite", plain, `{"email":"`+email+`","role":"MEMBER"}`)
		if status != 201 {
			t.Fatalf("%d %s", status, raw)
		}
		invite := decode[struct{ ID string }](t, raw).ID
		return s.signIn(email), "/invites/" + invite + "/accept", `{"token":"` + s.inviteToken(invite) + `"}`
	}

	t.Run("archives", func(t *testing.T) {
		id, path := found("Archivists")
		by := s.atOnce(times(50, s.asks(boss, "POST", path+"/export", ""))...)
		if n := s.count(collections.Exports, dbx.HashExp{"tenant": id}); by["202 "] < 1 || by["202 "] > 5 || n != int64(by["202 "]) || by["202 "]+by["409 export_running"]+by["429 export_limit"] != 50 {
			t.Errorf("%v, %d archives", by, n)
		}
		var x *collections.Export
		collectionstest.Eventually(t, "one is ready", func() (ok bool) {
			rows, err := collections.Every[collections.Export](s.app, collections.Exports, "id", 1, dbx.HashExp{"tenant": id, "status": "READY"})
			must(t, err)
			if ok = len(rows) > 0; ok {
				x = rows[0]
			}
			return ok
		})
		intent := s.intent(boss, id, x.Id)
		by = s.atOnce(times(30, func() (int, string) { code, _ := s.fetch("/api/v1"+path, x.Id, intent); return code, "" })...)
		if by["200 "] != 1 || by["401 "] != 29 {
			t.Errorf("one token: %v", by)
		}
	})

	t.Run("delete and keep", func(t *testing.T) {
		id, path := found("Waverers")
		for range 3 {
			token, accept, body := guest(path, core.GenerateDefaultRandomId()+"@example.org")
			asks := append(times(12, s.asks(boss, "POST", path+"/delete", `{"name":"Waverers"}`)), times(12, s.asks(boss, "DELETE", path+"/delete", ""))...)
			asks = append(asks, s.asks(token, "POST", accept, body), s.asks(boss, "POST", path+"/members/invite", `{"email":"`+core.GenerateDefaultRandomId()+`@example.org","role":"MEMBER"}`))
			by := s.atOnce(asks...)
			row, err := collections.FindTenant(s.app, id)
			must(t, err)
			open := s.count(collections.Invites, dbx.HashExp{"tenant": id, "accepted_at": "", "revoked_at": ""})
			switch row.Status() {
			case tenancy.StatusActive:
				if !row.DeleteAt().IsZero() || row.StatusBefore() != "" {
					t.Errorf("kept, and to go at %s: %v", row.DeleteAt(), by)
				}
			case tenancy.StatusDeleting:
				if row.DeleteAt().IsZero() || open != 0 {
					t.Errorf("to go at %s with %d open invitations: %v", row.DeleteAt(), open, by)
				}
				if status, _, raw := s.ask(boss, "", "DELETE", "/api/v1"+path+"/delete", plain, ""); status != 200 {
					t.Fatalf("%d %s", status, raw)
				}
			default:
				t.Fatal(row.Status())
			}
		}
	})

	t.Run("purge and keep", func(t *testing.T) {
		for i := range 4 {
			name := fmt.Sprintf("Latecomers %d", i)
			id, path := found(name)
			if i%2 == 0 {
				s.ask(boss, "", "POST", "/api/v1"+path+"/export", plain, "")
			}
			if status, _, raw := s.ask(boss, "", "POST", "/api/v1"+path+"/delete", plain, `{"name":"`+name+`"}`); status != 200 {
				t.Fatalf("%d %s", status, raw)
			}
			_, err := s.app.NonconcurrentDB().Update(collections.Tenants, dbx.Params{"delete_at": collections.Stamp(time.Now().Add(-time.Minute))}, dbx.HashExp{"id": id}).Execute()
			must(t, err)
			members := s.count(collections.TenantMembers, dbx.HashExp{"tenant": id})
			asks := append(times(8, s.asks(boss, "DELETE", path+"/delete", "")), times(8, s.asks(boss, "POST", path+"/export", ""))...)
			asks = append(asks, func() (int, string) { must(t, s.Compliance.Due(s.app, time.Now())); return 200, "due" })
			by := s.atOnce(asks...)
			if by["200 "] > 1 {
				t.Errorf("it was kept %d times: %v", by["200 "], by)
			}
			if by["200 "] == 1 {
				collectionstest.Eventually(t, "no purge is under way", func() bool {
					return s.count(collections.Jobs, dbx.And(dbx.HashExp{"kind": "PurgeTenant", "subject": id}, dbx.In("state", "ready", "running"))) == 0
				})
				if n := s.count(collections.TenantMembers, dbx.HashExp{"tenant": id}); n != members || s.status(id) != tenancy.StatusActive {
					t.Errorf("kept, with %d of %d members, %s", n, members, s.status(id))
				}
				if status, _, raw := s.ask(boss, "", "POST", "/api/v1"+path+"/delete", plain, `{"name":"`+name+`"}`); status != 200 { // the owner may have ten
					t.Fatalf("%d %s", status, raw)
				}
				_, err := s.app.NonconcurrentDB().Update(collections.Tenants, dbx.Params{"delete_at": collections.Stamp(time.Now().Add(-time.Minute))}, dbx.HashExp{"id": id}).Execute()
				must(t, err)
				must(t, s.Compliance.Due(s.app, time.Now()))
			}
			collectionstest.Eventually(t, "it is purged", func() bool { return s.status(id) == tenancy.StatusDeleted })
			for key, text := range everyRow(t, s.app) {
				if strings.Contains(text, "tenant="+id+"\n") && !strings.HasPrefix(key, collections.Notifications+"/") { // one that was being made then goes later
					t.Errorf("%s is left:\n%s", key, text)
				}
			}
			_, err = s.app.NonconcurrentDB().Update(collections.Tenants, dbx.Params{"status_since": collections.Stamp(time.Now().Add(-time.Hour))}, dbx.HashExp{"id": id}).Execute()
			must(t, err)
			collectionstest.Eventually(t, "what came late is gone", func() bool {
				must(t, s.Jobs.Wake(s.app, id))
				return s.count(collections.Notifications, dbx.HashExp{"tenant": id})+s.count(collections.Jobs, dbx.And(dbx.HashExp{"kind": "PurgeTenant", "subject": id}, dbx.Not(dbx.HashExp{"state": "done"}))) == 0
			})
			if status, raw := h.do("PATCH", "/api/collections/tenants/records/"+id, `{"name":"Risen"}`); status != 400 {
				t.Errorf("an operator gives it a name again: %d %s", status, raw)
			}
		}
	})

	t.Run("hand over and go", func(t *testing.T) {
		for i := range 3 {
			id, path := found(fmt.Sprintf("Heirs %d", i))
			email := fmt.Sprintf("heir%d@example.org", i)
			token, accept, body := guest(path, email)
			if status, code := s.asks(token, "POST", accept, body)(); status != 200 {
				t.Fatal(status, code)
			}
			heir, err := s.app.FindAuthRecordByEmail("users", email)
			must(t, err)
			by := s.atOnce(s.asks(boss, "POST", path+"/transfer", `{"user":"`+heir.Id+`"}`), s.asks(token, "DELETE", "/account", ""), s.asks(token, "DELETE", path+"/members/"+heir.Id, ""))
			var owners int64
			must(t, s.app.DB().NewQuery(`SELECT COUNT(*) FROM {{role_bindings}} [[b]] JOIN {{tenant_members}} [[m]] ON [[m.id]] = [[b.member]] JOIN {{users}} [[u]] ON [[u.id]] = [[m.user]]
				JOIN {{roles}} [[r]] ON [[r.id]] = [[b.role]] AND [[r.key]] = 'OWNER' WHERE [[b.tenant]] = {:tenant}`).Bind(dbx.Params{"tenant": id}).Row(&owners))
			if owners != 1 {
				t.Errorf("%d owners: %v", owners, by)
			}
		}
	})
	reps, err := s.Audit.VerifyAll(s.app)
	must(t, err)
	for _, r := range reps {
		if !r.OK() {
			t.Errorf("audit chain %q: %+v", r.Tenant, r)
		}
	}
}
