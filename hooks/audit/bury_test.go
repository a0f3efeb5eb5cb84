package audit_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
)

const globex = "globexaaaaaaaaa"

// tenantRow puts the row of an organisation into the database, by name only.
func tenantRow(t *testing.T, app core.App, id string) {
	t.Helper()
	_, err := app.NonconcurrentDB().Insert(collections.Tenants, dbx.Params{"id": id, "name": "X", "slug": id, "status": "DELETED", "created": collections.Stamp(time.Now()), "updated": collections.Stamp(time.Now())}).Execute()
	if err != nil {
		t.Fatal(err)
	}
}

func bury(t *testing.T, app core.App, l *audit.Log, tenant string) {
	t.Helper()
	err := collections.Tx(app, []collections.Lock{audit.Lock(""), audit.Lock(tenant)}, func(tx core.App) error {
		return l.Bury(tx, tenant, map[string]int64{"servers": 2, "api_keys": 3})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// all verifies every chain and returns the faults by tenant.
func all(t *testing.T, app core.App, l *audit.Log) map[string]audit.Report {
	t.Helper()
	reps, err := l.VerifyAll(app)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]audit.Report{}
	for _, r := range reps {
		out[r.Tenant] = r
	}
	return out
}

func TestAPurgedChainIsGoneAndProved(t *testing.T) {
	t.Parallel()
	app, l := newApp(t), newLog(t, audit.Dir(t.TempDir()))
	for _, id := range []string{acme, globex} {
		tenantRow(t, app, id)
		write(t, app, l, id, 4)
	}
	write(t, app, l, "", 2)
	if err := l.WriteHeads(app); err != nil {
		t.Fatal(err)
	}
	write(t, app, l, acme, 1) // after the signed head
	bury(t, app, l, acme)
	reps := all(t, app, l)
	if r := reps[acme]; !r.OK() || !r.Purged || r.Rows != 0 || r.Heads != 1 {
		t.Errorf("the purged chain: %+v", r)
	}
	for _, id := range []string{"", globex} {
		if r := reps[id]; !r.OK() || r.Purged {
			t.Errorf("chain %q: %+v", id, r)
		}
	}
	proof, err := collections.One[collections.AuditLog](app, collections.AuditLogs, dbx.HashExp{"tenant": "", "action": audit.ActionPurged})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`"servers: 2"`, `"api_keys: 3"`, `"audit_logs: 5"`, `"audit_heads: 1"`, `"last_seq":5`, `"faults":0`, `"last_mac":"`} {
		if !strings.Contains(proof.GetString("metadata"), text) {
			t.Errorf("%s is not in the proof %s", text, proof.GetString("metadata"))
		}
	}
	if err := l.WriteHeads(app); err != nil {
		t.Errorf("heads after a purge: %v", err)
	}
	if err := l.Write(app, alice, audit.Entry{Tenant: acme, Action: "server.create"}); !errors.Is(err, audit.ErrBuried) {
		t.Errorf("a chain began anew: %v", err)
	}
	if err := l.Bury(app, "", nil); err == nil {
		t.Error("the installation's chain was buried")
	}
}

// Whoever can write the database, and has no key, removes a chain.
// A chain that was removed whole and goes on with a new first row begins too late.
func TestAChainThatBeginsAnewIsFound(t *testing.T) {
	t.Parallel()
	app, l := newApp(t), newLog(t, nil)
	tenantRow(t, app, acme)
	write(t, app, l, acme, 3)
	exec(t, app, "DELETE FROM audit_logs")
	exec(t, app, "DELETE FROM audit_heads")
	write(t, app, l, acme, 1)
	if rep := verify(t, app, l, acme); !rep.OK() {
		t.Errorf("in the same minute nobody can tell: %+v", rep)
	}
	exec(t, app, "UPDATE tenants SET created = '"+collections.Stamp(time.Now().Add(-time.Hour))+"'")
	if rep := verify(t, app, l, acme); rep.Faults != 1 || rep.Problems[0].Fault != audit.FaultMissing {
		t.Errorf("%+v", rep)
	}
}

func TestAChainThatIsGoneWithoutProofIsFound(t *testing.T) {
	t.Parallel()
	const drop = "DELETE FROM audit_logs WHERE tenant = 'acmeaaaaaaaaaaa'"
	const behead = "DELETE FROM audit_heads WHERE tenant = 'acmeaaaaaaaaaaa'"
	for name, c := range map[string]struct {
		heads bool // were signed before
		sql   []string
		buryB bool // another organisation was purged honestly
		in    string
	}{
		"rows and head, of an organisation without a signed head": {sql: []string{drop, behead}, in: acme},
		"rows and head, with a signed head":                       {heads: true, sql: []string{drop, behead}, in: acme},
		"rows only":                                               {sql: []string{drop}, in: acme},
		"and the organisation is a tombstone":                     {sql: []string{drop, behead, "UPDATE tenants SET status = 'DELETED', name = '' WHERE id = 'acmeaaaaaaaaaaa'"}, in: acme},
		"the proof of another is made its own":                    {buryB: true, sql: []string{drop, behead, "UPDATE audit_logs SET resource = 'acmeaaaaaaaaaaa' WHERE action = 'tenant.purged'"}, in: acme},
		"and the proof of the other is found edited":              {buryB: true, sql: []string{drop, behead, "UPDATE audit_logs SET resource = 'acmeaaaaaaaaaaa' WHERE action = 'tenant.purged'"}, in: ""},
		"a proof is written by hand": {sql: []string{drop, behead, `INSERT INTO audit_logs (id, tenant, seq, actor_type, action, resource_type, resource, metadata, at, prev, mac, created, updated)
			VALUES ('forgedaaaaaaaaa', '', 99, 'system', 'tenant.purged', 'tenants', 'acmeaaaaaaaaaaa', '{"last_seq":4,"last_mac":""}', '2026-01-01 00:00:00.000Z', '', 'abcd', '2026-01-01 00:00:00.000Z', '2026-01-01 00:00:00.000Z')`}, in: acme},
		"a row is put into a chain that was purged": {buryB: true, sql: []string{`INSERT INTO audit_logs (id, tenant, seq, actor_type, action, metadata, at, mac, created, updated)
			VALUES ('forgedaaaaaaaaa', 'globexaaaaaaaaa', 1, 'system', 'tenant.create', '{}', '2026-01-01 00:00:00.000Z', 'abcd', '2026-01-01 00:00:00.000Z', '2026-01-01 00:00:00.000Z')`}, in: globex},
		"the proof is removed": {buryB: true, sql: []string{"DELETE FROM audit_logs WHERE action = 'tenant.purged'"}, in: globex},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app, l := newApp(t), newLog(t, audit.Dir(t.TempDir()))
			for _, id := range []string{acme, globex} {
				tenantRow(t, app, id)
				write(t, app, l, id, 4)
			}
			write(t, app, l, "", 2)
			if c.heads {
				if err := l.WriteHeads(app); err != nil {
					t.Fatal(err)
				}
			}
			if c.buryB {
				bury(t, app, l, globex)
			}
			for id, r := range all(t, app, l) {
				if !r.OK() {
					t.Fatalf("before: %s: %+v", id, r)
				}
			}
			for _, sql := range c.sql {
				exec(t, app, sql)
			}
			if r := all(t, app, l)[c.in]; r.OK() {
				t.Errorf("nothing was found in %q: %+v", c.in, r)
			}
		})
	}
}

// A head that was signed after the row that the proof names is of a chain that was cut before it was purged.
func TestAChainThatWasCutBeforeItsPurgeIsFound(t *testing.T) {
	t.Parallel()
	app, l := newApp(t), newLog(t, audit.Dir(t.TempDir()))
	tenantRow(t, app, acme)
	write(t, app, l, acme, 6)
	if err := l.WriteHeads(app); err != nil {
		t.Fatal(err)
	}
	exec(t, app, "DELETE FROM audit_logs WHERE tenant = 'acmeaaaaaaaaaaa' AND seq > 3")
	bury(t, app, l, acme)
	if r := verify(t, app, l, acme); r.OK() || r.Problems[0].Fault != audit.FaultRollback {
		t.Errorf("the cut was not found: %+v", r)
	}
	proof, err := collections.One[collections.AuditLog](app, collections.AuditLogs, dbx.HashExp{"tenant": "", "action": audit.ActionPurged})
	if err != nil || !strings.Contains(proof.GetString("metadata"), `"faults":1`) {
		t.Errorf("the proof does not say that something was wrong: %v %s", err, proof.GetString("metadata"))
	}
}
