package tenancy_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// doomed is an organisation with an owner, an admin, a member, a key and an open invite.
func doomed(t *testing.T, c tenancy.Config) (w *world, ann, bob person, acme string) {
	t.Helper()
	w = newWorld(t, c)
	ann, bob = w.person(t, "ann", true), w.person(t, "bob", true)
	acme = w.tenant(t, ann, "Acme")
	w.bind(t, acme, bob, tenancy.RoleAdmin, "")
	return w, ann, bob, acme
}

func TestDeletingAnOrganisation(t *testing.T) {
	t.Parallel()
	var turned atomic.Int64
	w, ann, bob, acme := doomed(t, tenancy.Config{Turned: func(core.App, string) error { turned.Add(1); return nil }})
	path := "/api/v1/tenants/" + acme + "/delete"
	stranger, root := w.person(t, "eve", true), w.account(t, core.CollectionNameSuperusers, "root", true)
	key := w.call("POST", "/api/v1/tenants/"+acme+"/keys", ann.token, `{"name":"robot","permissions":["tenant.read","server.read"]}`)
	want(t, "a key", key, 201)
	_, secret, _ := strings.Cut(key.Body.String(), `"secret":"`)
	secret, _, _ = strings.Cut(secret, `"`)
	want(t, "an invite", w.call("POST", "/api/v1/tenants/"+acme+"/members/invite", ann.token, `{"email":"new@example.test","role":"MEMBER"}`), 201)
	w.ledger.take()

	want(t, "a stranger", w.call("POST", path, stranger.token, `{"name":"Acme"}`), 404, "tenant_not_found")
	want(t, "an admin", w.call("POST", path, bob.token, `{"name":"Acme"}`), 403, `"forbidden"`, "Delete the organisation")
	want(t, "an API key", w.call("POST", path, secret, `{"name":"Acme"}`), 403, `"forbidden"`)
	want(t, "no name", w.call("POST", path, ann.token, `{}`), 400, `"mismatch"`)
	want(t, "another name", w.call("POST", path, ann.token, `{"name":"acmee"}`), 400, `"mismatch"`)
	want(t, "no proof", w.call("POST", path, ann.token, `{"name":"Acme"}`), 403, `"proof_required"`)
	want(t, "what is not being deleted is not kept", w.call("DELETE", path, ann.token, ""), 409, `"not_deleting"`)
	if got := w.ledger.take(); got != "" || turned.Load() != 0 {
		t.Errorf("a refusal left %q", got)
	}

	w.proof.shown.Store(true)
	before := time.Now().Add(tenancy.DefaultGrace).Add(-time.Minute)
	want(t, "the owner", w.call("POST", path, ann.token, `{"name":" Acme "}`), 200, `"status":"DELETING"`, `"delete_at":"2`)
	row, err := collections.FindTenant(w, acme)
	if err != nil || row.DeleteAt().Before(before) || row.DeleteAt().After(before.Add(2*time.Minute)) || row.StatusBefore() != tenancy.StatusActive {
		t.Fatalf("%v: at %s, from %q", err, row.DeleteAt(), row.StatusBefore())
	}
	got := w.ledger.take()
	for _, line := range []string{"audit user " + ann.Id + " tenant.delete tenant=" + acme, "event tenant.deleting tenant=" + acme + " subject=" + acme + " public=true", "realtime " + acme + " tenant"} {
		if !strings.Contains(got, line) {
			t.Errorf("%q is not in\n%s", line, got)
		}
	}
	if turned.Load() != 1 {
		t.Errorf("its servers were told %d times", turned.Load())
	}
	want(t, "twice", w.call("POST", path, ann.token, `{"name":"Acme"}`), 409, `"already_deleting"`)
	want(t, "its people may look", w.call("GET", "/api/v1/tenants/"+acme, bob.token, ""), 200, `"delete_at":"2`)
	want(t, "and change nothing", w.call("PATCH", "/api/v1/tenants/"+acme, ann.token, `{"name":"X"}`), 403, `"tenant_deleting"`)
	want(t, "its invite is over", w.call("GET", "/api/v1/tenants/"+acme+"/invites", root.token, ""), 200, `"items":[]`)
	want(t, "its keys are refused", w.call("GET", "/api/v1/tenants/"+acme, secret, ""), 403, `"tenant_deleting"`)
	if err := w.tenancy.Can(w, access.Actor{Type: access.TypeAPIKey, ID: ann.Id, Verified: true, Key: &access.Key{ID: "k", Tenant: acme, Permissions: []string{"server.read"}}}, "server.read", tenancy.Resource{Tenant: acme}); err == nil {
		t.Error("a key of it may read its servers")
	}
	want(t, "an operator does not suspend it", w.call("POST", "/api/v1/admin/tenants/"+acme+"/suspend", root.token, `{"reason":"The invoice is open."}`), 409, `"not_active"`)

	want(t, "an admin does not keep it", w.call("DELETE", path, bob.token, ""), 403, `"forbidden"`)
	want(t, "the owner does", w.call("DELETE", path, ann.token, ""), 200, `"status":"ACTIVE"`, `"delete_at":null`)
	if got := w.ledger.take(); !strings.Contains(got, "tenant.keep") || !strings.Contains(got, "event tenant.kept") || turned.Load() != 2 {
		t.Errorf("keeping left %d %s", turned.Load(), got)
	}
	want(t, "its keys are good again", w.call("GET", "/api/v1/tenants/"+acme, secret, ""), 200)

	want(t, "an operator suspends it", w.call("POST", "/api/v1/admin/tenants/"+acme+"/suspend", root.token, `{"reason":"The invoice is open."}`), 200)
	want(t, "a suspended one goes, too", w.call("POST", path, ann.token, `{"name":"acme"}`), 200, `"status":"DELETING"`, "The invoice is open.")
	want(t, "and is kept as it was", w.call("DELETE", path, ann.token, ""), 200, `"status":"SUSPENDED"`, "The invoice is open.")
	w.proof.shown.Store(false)
	want(t, "an operator deletes it without a proof", w.call("POST", path, root.token, `{"name":"Acme"}`), 200, `"status":"DELETING"`)
}

func TestAPurgeWaitsForItsTimeAndLeavesATombstone(t *testing.T) {
	t.Parallel()
	w, ann, _, acme := doomed(t, tenancy.Config{Grace: time.Hour})
	w.proof.shown.Store(true)
	begin := func(now time.Time) (row *collections.Tenant, err error) {
		err = collections.Tx(w, []collections.Lock{tenancy.Lock(acme)}, func(tx core.App) error {
			row, err = w.tenancy.BeginPurge(tx, acme, now)
			return err
		})
		return row, err
	}
	purge := func() (gone map[string]int64, err error) {
		err = collections.Tx(w, []collections.Lock{tenancy.Lock(acme)}, func(tx core.App) error {
			gone, err = w.tenancy.Purge(tx, acme)
			return err
		})
		return gone, err
	}
	if _, err := purge(); err == nil {
		t.Fatal("an organisation that nobody deletes was purged")
	}
	want(t, "a role", w.call("POST", "/api/v1/tenants/"+acme+"/roles", ann.token, `{"name":"Night watch","permissions":["server.read"]}`), 201)
	want(t, "delete", w.call("POST", "/api/v1/tenants/"+acme+"/delete", ann.token, `{"name":"Acme"}`), 200)
	if ids, err := w.tenancy.Doomed(w, time.Now()); err != nil || len(ids) != 0 {
		t.Errorf("before its time: %v %v", ids, err)
	}
	if _, err := begin(time.Now()); err == nil {
		t.Error("a purge began before its time")
	}
	late := time.Now().Add(2 * time.Hour)
	if ids, err := w.tenancy.Doomed(w, late); err != nil || len(ids) != 1 || ids[0] != acme {
		t.Errorf("at its time: %v %v", ids, err)
	}
	if _, err := purge(); err == nil {
		t.Error("it was purged before that was begun")
	}
	if row, err := begin(late); err != nil || row.PurgeBegunAt().IsZero() {
		t.Fatal(err)
	}
	want(t, "too late to keep it", w.call("DELETE", "/api/v1/tenants/"+acme+"/delete", ann.token, ""), 409, `"purge_begun"`)
	gone, err := purge()
	if err != nil || gone[collections.TenantMembers] != 2 || gone[collections.RoleBindings] != 2 || gone[collections.Roles] != 1 || gone[collections.RolePermissions] != 1 {
		t.Fatalf("%v %v", gone, err)
	}
	again, err := purge()
	for name, n := range again {
		if n != 0 {
			t.Errorf("a second time removed %d %s", n, name)
		}
	}
	row, err2 := collections.FindTenant(w, acme)
	if err != nil || err2 != nil || row.Name() != "" || row.Slug() != "gone-"+acme || row.Status() != tenancy.StatusDeleted {
		t.Fatalf("%v %v %+v", err, err2, row)
	}
	want(t, "it is nobody's", w.call("GET", "/api/v1/tenants/"+acme, ann.token, ""), 404)
	want(t, "its short name is free", w.call("POST", "/api/v1/tenants", ann.token, `{"name":"Acme","slug":"acme"}`), 201)
}

// Keeping and purging at the same moment: one of the two is done, whichever, and the other is told.
func TestKeepingRacesThePurge(t *testing.T) {
	t.Parallel()
	w, ann, _, acme := doomed(t, tenancy.Config{Grace: time.Hour})
	w.proof.shown.Store(true)
	kept, begun := 0, 0
	for range 40 {
		if rec := w.call("POST", "/api/v1/tenants/"+acme+"/delete", ann.token, `{"name":"Acme"}`); rec.Code != 200 {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		var wg sync.WaitGroup
		var status int
		var final bool
		wg.Go(func() { status = w.call("DELETE", "/api/v1/tenants/"+acme+"/delete", ann.token, "").Code })
		wg.Go(func() {
			err := collections.Tx(w, []collections.Lock{tenancy.Lock(acme)}, func(tx core.App) error {
				row, err := w.tenancy.BeginPurge(tx, acme, time.Now().Add(2*time.Hour))
				final = err == nil && row.Status() == tenancy.StatusDeleting
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if (status == 200) == final || status != 200 && status != 409 {
			t.Fatalf("kept: %d, final: %t", status, final)
		}
		if !final {
			kept++
			continue
		}
		begun++
		w.set(t, acme, map[string]any{"purge_begun_at": "", "status": tenancy.StatusActive})
	}
	t.Logf("kept %d times, purged %d times", kept, begun)
}

// What is told of a purge is in no chain: the chain is gone with the tenant.
func TestNothingIsWrittenAboutWhoIsBuried(t *testing.T) {
	t.Parallel()
	w, _, _, acme := doomed(t, tenancy.Config{})
	err := collections.Tx(w, []collections.Lock{audit.Lock(""), audit.Lock(acme)}, func(tx core.App) error { return w.ledger.chain.Bury(tx, acme, nil) })
	if err != nil {
		t.Fatal(err)
	}
	err = collections.Tx(w, []collections.Lock{audit.Lock(acme)}, func(tx core.App) error {
		return w.ledger.chain.Write(tx, audit.System, audit.Entry{Tenant: acme, Action: "tenant.update"})
	})
	if n, _ := w.CountRecords(collections.AuditLogs, dbx.HashExp{"tenant": acme}); !errors.Is(err, audit.ErrBuried) || n != 0 {
		t.Errorf("%v, and %d rows", err, n)
	}
}
