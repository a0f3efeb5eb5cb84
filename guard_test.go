package main

import (
	"net/http"
	"testing"
)

// A superuser holds every key of PocketBase. None of them opens a room's table.
func TestSuperuserCannotWriteBehindTheRooms(t *testing.T) {
	t.Parallel()
	p := newPanel(t)
	p.start()
	c := p.customer("ada")
	root := p.super()
	type named struct{ ID, Name, Location string }
	var tenants struct{ Items []named }
	root.ok("GET", "/api/collections/tenants/records", nil, &tenants)
	var members struct {
		Items []struct{ ID, User string }
	}
	root.ok("GET", "/api/collections/tenant_members/records", nil, &members)
	tenant, member := tenants.Items[0].ID, members.Items[0]

	const records = "/api/collections/"
	for name, r := range map[string]struct {
		method, path string
		body         any
	}{
		"saving a tenant's status":             {"PATCH", records + "tenants/records/" + tenant, map[string]any{"status": "SUSPENDED"}},
		"making an audit row":                  {"POST", records + "audit_logs/records", map[string]any{"action": "x", "actor_type": "user", "at": "2026-01-01 00:00:00.000Z", "mac": "00"}},
		"making a role binding":                {"POST", records + "role_bindings/records", map[string]any{"tenant": tenant, "member": member.ID, "role": "role00000000001"}},
		"deleting a member":                    {"DELETE", records + "tenant_members/records/" + member.ID, nil},
		"deleting the user, with its cascade":  {"DELETE", records + "users/records/" + member.User, nil},
		"truncating the audit log":             {"DELETE", records + "audit_logs/truncate", nil},
		"truncating the users, and what hangs": {"DELETE", records + "users/truncate", nil},
		"deleting the collection of servers":   {"DELETE", records + "servers", nil},
		"opening a rule":                       {"PATCH", records + "servers", map[string]any{"listRule": ""}},
		"importing another schema":             {"PUT", records + "import", map[string]any{"collections": []any{}, "deleteMissing": true}},
		"running SQL":                          {"POST", "/api/sql", map[string]any{"query": "DELETE FROM audit_logs"}},
		"restoring a backup":                   {"POST", "/api/backups/x.zip/restore", nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := root.do(r.method, r.path, r.body)
			if a.status < 400 || a.status > 499 {
				t.Errorf("%s %s: %d %s", r.method, r.path, a.status, a.raw)
			}
		})
	}

	c.ok("GET", "/api/v1/tenants/current", nil, nil) // everything is still there
	root.ok("PATCH", records+"tenants/records/"+tenant, map[string]any{"quota_servers": 3}, nil)
	var current struct{ Quota struct{ Servers int } }
	c.ok("GET", "/api/v1/tenants/current", nil, &current)
	if current.Quota.Servers != 3 {
		t.Errorf("the operator's own field was not saved: %+v", current)
	}
	var log struct {
		Items []struct{ Action string }
	}
	root.ok("GET", records+"audit_logs/records?filter="+"action='dashboard.update'", nil, &log)
	if len(log.Items) != 1 {
		t.Errorf("the edit in the dashboard left %d audit rows", len(log.Items))
	}
}

// Collections stay closed to customers: /api/v1 is the one door.
func TestCustomersReachNoCollection(t *testing.T) {
	t.Parallel()
	p := newPanel(t)
	p.start()
	c := p.customer("eve")
	for _, name := range []string{"tenants", "servers", "nodes", "audit_logs", "jobs", "events", "authorities", "data_keys"} {
		if a := c.do("GET", "/api/collections/"+name+"/records", nil); a.status != http.StatusForbidden {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
}
