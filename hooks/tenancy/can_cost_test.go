package tenancy_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// Whether somebody may do something is one query, and no table in it is read from end to end.
func TestCanIsOneIndexedQuery(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	db, ok := h.ConcurrentDB().(*dbx.DB)
	if !ok {
		t.Fatalf("the database is a %T", h.ConcurrentDB())
	}
	var asked atomic.Int64
	before := db.QueryLogFunc
	db.QueryLogFunc = func(ctx context.Context, took time.Duration, query string, rows *sql.Rows, err error) {
		asked.Add(1)
		if before != nil {
			before(ctx, took, query, rows, err)
		}
	}
	t.Cleanup(func() { db.QueryLogFunc = before })
	n := 0
	for _, who := range []person{h.owner, h.member, h.friend, h.stranger} {
		for _, r := range []tenancy.Resource{{Tenant: h.tenant}, {Tenant: h.tenant, Server: h.server}, {Tenant: h.foreign}} {
			a := who.actor()
			_ = h.tenancy.Can(h, a, "server.start", r) // who may is TestCan's
			a.Type, a.Key = access.TypeAPIKey, &access.Key{Permissions: []string{"server.start"}}
			_ = h.tenancy.Can(h, a, "server.start", r)
			n += 2
		}
	}
	if got := int(asked.Load()); got != n {
		t.Errorf("%d questions cost %d queries", n, got)
	}
	// A full read of a table shows as SCAN in SQLite's plan; PostgreSQL prefers one for tables of a page, so it is told
	// to avoid that where an index can be had.
	var plan []string
	explain, whole := "EXPLAIN QUERY PLAN ", "SCAN "
	err := h.RunInTransaction(func(tx core.App) error {
		if postgres.IsPostgres(tx.NonconcurrentDB()) {
			explain, whole = "EXPLAIN ", "Seq Scan on "
			if _, err := tx.NonconcurrentDB().NewQuery("SET LOCAL enable_seqscan = off").Execute(); err != nil {
				return err
			}
		}
		rows, err := tx.NonconcurrentDB().NewQuery(explain + tenancy.CanQuery).
			Bind(dbx.Params{"permission": "server.start", "user": h.member.Id, "server": h.server, "tenant": h.tenant}).Rows()
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			line := dbx.NullStringMap{}
			if err := rows.ScanMap(line); err != nil {
				return err
			}
			plan = append(plan, line["detail"].String+line["QUERY PLAN"].String)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(plan, "\n"); len(plan) < 4 || strings.Contains(text, whole) {
		t.Errorf("the plan reads a whole table:\n%s", text)
	}
	t.Logf("%d questions, %d queries", n, asked.Load())
}

// All ask with one prepared statement: each gets his own answer, inside of a transaction as well, and what changed
// between two questions is in the second.
func TestTheStatementOfCanIsEverybodys(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	people := []struct {
		who  person
		want string
	}{{h.owner, ""}, {h.member, "forbidden"}, {h.stranger, "tenant_not_found"}}
	var g sync.WaitGroup
	for i := range 24 {
		p := people[i%len(people)]
		g.Go(func() {
			for range 50 {
				err := h.tenancy.Can(h, p.who.actor(), "tenant.update", tenancy.Resource{Tenant: h.tenant})
				if got := code(t, err); got != p.want {
					t.Errorf("%s was told %q, not %q", p.who.Id, got, p.want)
					return
				}
			}
		})
	}
	g.Wait()
	left := errors.New("take it back")
	err := h.RunInTransaction(func(tx core.App) error {
		if _, err := tx.NonconcurrentDB().Update("tenants", dbx.Params{"status": tenancy.StatusDeleting}, dbx.HashExp{"id": h.tenant}).Execute(); err != nil {
			return err
		}
		if got := code(t, h.tenancy.Can(tx, h.owner.actor(), "tenant.update", tenancy.Resource{Tenant: h.tenant})); got != "tenant_deleting" {
			t.Errorf("the transaction was told %q of what it changed", got)
		}
		return left
	})
	if !errors.Is(err, left) {
		t.Fatal(err)
	}
	if err := h.tenancy.Can(h, h.owner.actor(), "tenant.update", tenancy.Resource{Tenant: h.tenant}); err != nil {
		t.Errorf("after it was taken back: %v", err)
	}
}
