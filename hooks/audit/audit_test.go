package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tests"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/audit"
)

const acme = "acmeaaaaaaaaaaa"

var alice = audit.Actor{Type: "user", ID: "alice", Name: "Alice", Address: "203.0.113.7", UserAgent: "curl/8", Request: "req1"}

func newApp(t *testing.T) *tests.TestApp {
	t.Helper()
	return collectionstest.New(t)
}

func newLog(t *testing.T, sink audit.HeadSink) *audit.Log {
	t.Helper()
	l, err := audit.New(bytes.Repeat([]byte{9}, 32), sink, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func write(t *testing.T, app core.App, l *audit.Log, tenant string, n int) {
	t.Helper()
	for i := range n {
		err := l.Write(app, alice, audit.Entry{Tenant: tenant, Action: "server.create", ResourceType: "servers",
			Resource: fmt.Sprint("srv", i), Metadata: map[string]any{"name": "S", "n": i}})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func verify(t *testing.T, app core.App, l *audit.Log, tenant string) audit.Report {
	t.Helper()
	rep, err := l.Verify(app, tenant)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func exec(t *testing.T, app core.App, sql string) {
	t.Helper()
	res, err := app.NonconcurrentDB().NewQuery(sql).Execute()
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := res.RowsAffected(); n == 0 && !strings.HasPrefix(sql, "PRAGMA") && !strings.HasPrefix(sql, "CREATE") {
		t.Fatalf("%s changed nothing", sql)
	}
}

func TestAnUntouchedChainVerifies(t *testing.T) {
	t.Parallel()
	app, l := newApp(t), newLog(t, audit.Dir(t.TempDir()))
	write(t, app, l, acme, 7)
	write(t, app, l, "", 3)
	if err := l.WriteHeads(app); err != nil {
		t.Fatal(err)
	}
	write(t, app, l, acme, 2)
	reps, err := l.VerifyAll(app)
	if err != nil || len(reps) != 2 {
		t.Fatal(reps, err)
	}
	if r := reps[0]; r.Tenant != "" || r.Rows != 3 || r.Heads != 1 || !r.OK() {
		t.Errorf("the installation's chain: %+v", r)
	}
	if r := reps[1]; r.Tenant != acme || r.Rows != 9 || r.Heads != 1 || !r.OK() {
		t.Errorf("the tenant's chain: %+v", r)
	}
	rows, err := collections.Every[collections.AuditLog](app, collections.AuditLogs, "seq", 1, dbx.HashExp{"tenant": acme})
	if err != nil {
		t.Fatal(err)
	}
	if r := rows[0]; r.Actor() != "alice" || r.ActorName() != "Alice" || r.Address() != "203.0.113.7" || r.UserAgent() != "curl/8" ||
		r.Request() != "req1" || r.Action() != "server.create" || r.Resource() != "srv0" || r.At().IsZero() {
		t.Errorf("stored %v", r.FieldsData())
	}
}

// Every column of the schema, edited in the database behind our back.
func TestEveryEditedColumnIsFound(t *testing.T) {
	t.Parallel()
	def, _ := collections.ByName(collections.AuditLogs)
	columns := []string{"id", "created", "updated"}
	for _, f := range def.Columns() {
		columns = append(columns, f.Name)
	}
	for _, c := range columns {
		t.Run(c, func(t *testing.T) {
			t.Parallel()
			app, l := newApp(t), newLog(t, nil)
			write(t, app, l, acme, 4)
			value := "'x' || " + c
			switch c {
			case "seq":
				value = "99"
			case "metadata":
				value = `'{"n":1, "name":"S"}'` // the same meaning, other bytes
			case "at", "created", "updated":
				value = "'2020-01-01 00:00:00.000Z'"
			case "actor_type":
				value = "'system'"
			}
			exec(t, app, "UPDATE audit_logs SET "+c+" = "+value+" WHERE seq = 2")
			if rep := verify(t, app, l, acme); rep.OK() {
				t.Fatalf("not found: %+v", rep)
			}
		})
	}
}

func TestTampering(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		signs bool // heads are signed after the first 6 rows
		do    func(t *testing.T, app core.App)
		more  int // rows written by us afterwards
		want  audit.Fault
	}{
		{"a row in the middle is removed", false, func(t *testing.T, app core.App) { exec(t, app, "DELETE FROM audit_logs WHERE seq = 3") }, 0, audit.FaultMissing},
		{"the first row is removed", false, func(t *testing.T, app core.App) { exec(t, app, "DELETE FROM audit_logs WHERE seq = 1") }, 0, audit.FaultMissing},
		{"the head of the chain is cut and the rest renumbered", false, func(t *testing.T, app core.App) {
			exec(t, app, "DELETE FROM audit_logs WHERE seq <= 2")
			for n := 3; n <= 6; n++ {
				exec(t, app, fmt.Sprintf("UPDATE audit_logs SET seq = %d WHERE seq = %d", n-2, n))
			}
		}, 0, audit.FaultEdited},
		{"two rows are swapped", false, func(t *testing.T, app core.App) {
			exec(t, app, "UPDATE audit_logs SET seq = 100 WHERE seq = 2")
			exec(t, app, "UPDATE audit_logs SET seq = 2 WHERE seq = 3")
			exec(t, app, "UPDATE audit_logs SET seq = 3 WHERE seq = 100")
		}, 0, audit.FaultEdited},
		{"a row of another chain is moved in", false, func(t *testing.T, app core.App) {
			exec(t, app, "DELETE FROM audit_logs WHERE tenant = '"+acme+"' AND seq = 2")
			exec(t, app, "UPDATE audit_logs SET tenant = '"+acme+"', seq = 2 WHERE tenant = 'other' AND seq = 1")
		}, 0, audit.FaultEdited},
		{"a row numbered zero is put before the chain", false, func(t *testing.T, app core.App) {
			exec(t, app, "UPDATE audit_logs SET tenant = '"+acme+"', seq = 0 WHERE tenant = 'other' AND seq = 1")
		}, 0, audit.FaultBroken},
		{"the tail is cut", false, func(t *testing.T, app core.App) { exec(t, app, "DELETE FROM audit_logs WHERE seq > 4") }, 0, audit.FaultHead},
		{"the tail is cut and work goes on", false, func(t *testing.T, app core.App) { exec(t, app, "DELETE FROM audit_logs WHERE seq > 4") }, 3, audit.FaultMissing},
		{"the tail is cut and the head forged to fit", false, func(t *testing.T, app core.App) {
			exec(t, app, "DELETE FROM audit_logs WHERE seq > 4")
			exec(t, app, "UPDATE audit_heads SET seq = 4, mac = (SELECT mac FROM audit_logs WHERE tenant = '"+acme+"' AND seq = 4) WHERE tenant = '"+acme+"'")
		}, 0, audit.FaultHead},
		{"the tail is cut, the head forged, and work goes on", false, func(t *testing.T, app core.App) {
			exec(t, app, "DELETE FROM audit_logs WHERE seq > 4")
			exec(t, app, "UPDATE audit_heads SET seq = 4, mac = (SELECT mac FROM audit_logs WHERE tenant = '"+acme+"' AND seq = 4) WHERE tenant = '"+acme+"'")
		}, 3, audit.FaultMissing},
		{"the head is removed", false, func(t *testing.T, app core.App) { exec(t, app, "DELETE FROM audit_heads") }, 0, audit.FaultHead},
		{"the tail and the head are removed and work goes on", false, func(t *testing.T, app core.App) {
			exec(t, app, "DELETE FROM audit_logs WHERE seq > 4")
			exec(t, app, "DELETE FROM audit_heads")
		}, 2, audit.FaultMissing},
		{"another tenant's head is put in its place", false, func(t *testing.T, app core.App) {
			exec(t, app, "UPDATE audit_heads SET mac = (SELECT mac FROM audit_heads WHERE tenant = 'other') WHERE tenant = '"+acme+"'")
		}, 0, audit.FaultHead},
		{"everything is removed after heads were signed", true, func(t *testing.T, app core.App) {
			exec(t, app, "DELETE FROM audit_logs WHERE tenant = '"+acme+"'")
			exec(t, app, "DELETE FROM audit_heads WHERE tenant = '"+acme+"'")
		}, 0, audit.FaultRollback},
		{"everything is removed after heads were signed and work goes on", true, func(t *testing.T, app core.App) {
			exec(t, app, "DELETE FROM audit_logs WHERE tenant = '"+acme+"'")
			exec(t, app, "DELETE FROM audit_heads WHERE tenant = '"+acme+"'")
		}, 8, audit.FaultRollback},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			app, l := newApp(t), newLog(t, audit.Dir(t.TempDir()))
			write(t, app, l, acme, 6)
			write(t, app, l, "other", 1)
			if c.signs {
				if err := l.WriteHeads(app); err != nil {
					t.Fatal(err)
				}
			}
			c.do(t, app)
			write(t, app, l, acme, c.more)
			rep := verify(t, app, l, acme)
			if !slices.ContainsFunc(rep.Problems, func(p audit.Problem) bool { return p.Fault == c.want }) {
				t.Fatalf("want %q in %+v", c.want, rep)
			}
		})
	}
}

// An old copy of the database, put back whole, fits itself; only the signed heads know better.
func TestARestoredOldDatabaseIsFoundBySignedHeads(t *testing.T) {
	t.Parallel()
	app, l := newApp(t), newLog(t, audit.Dir(t.TempDir()))
	write(t, app, l, acme, 4)
	exec(t, app, "CREATE TABLE old_heads AS SELECT * FROM audit_heads")
	write(t, app, l, acme, 4)
	if err := l.WriteHeads(app); err != nil {
		t.Fatal(err)
	}
	exec(t, app, "DELETE FROM audit_logs WHERE seq > 4")
	exec(t, app, "UPDATE audit_heads SET seq = 4, mac = (SELECT mac FROM old_heads)")
	write(t, app, l, acme, 6)
	rep := verify(t, app, l, acme)
	if rep.Faults != 1 || rep.Problems[0].Fault != audit.FaultRollback || rep.Problems[0].Seq != 8 {
		t.Fatalf("%+v", rep)
	}
	if unsigned := verify(t, app, newLog(t, nil), acme); !unsigned.OK() {
		t.Fatalf("the chain by itself: %+v", unsigned)
	}
}

func TestHeadsFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		edit func(lines []string) []string
		ok   bool
	}{
		{"untouched", func(l []string) []string { return l }, true},
		{"a line is edited", func(l []string) []string {
			l[1] = strings.Replace(l[1], `"seq":2`, `"seq":1`, 1)
			return l
		}, false},
		{"a line is removed", func(l []string) []string { return slices.Delete(l, 1, 2) }, false},
		{"lines are swapped", func(l []string) []string { l[1], l[2] = l[2], l[1]; return l }, false},
		{"a line is repeated", func(l []string) []string { return append(l, l[0]) }, false},
		{"the last line is removed", func(l []string) []string { return l[:3] }, false},
		{"all lines are removed", func([]string) []string { return nil }, false},
		{"rubbish is added", func(l []string) []string { return append(l, "{}") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			app, l := newApp(t), newLog(t, audit.Dir(dir))
			for range 4 {
				write(t, app, l, acme, 1)
				if err := l.WriteHeads(app); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, "heads.jsonl")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := c.edit(strings.Split(strings.TrimSpace(string(b)), "\n"))
			if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			rep := verify(t, app, l, acme)
			if rep.OK() != c.ok || !c.ok && rep.Problems[0].Fault != audit.FaultHeadFile {
				t.Fatalf("%+v", rep)
			}
		})
	}
}

// Whoever removes the signed heads removes what would tell of him; that they were there is in the database, too, and a
// panel that goes on signing does not cover it up.
func TestSignedHeadsDoNotDisappear(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		lose func(path string) error
	}{
		{"the file is removed", os.Remove},
		{"the file is emptied", func(path string) error { return os.Truncate(path, 0) }},
		{"its end is cut off", func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, b[:bytes.IndexByte(b, '\n')+1], 0o600)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			app, l := newApp(t), newLog(t, audit.Dir(dir))
			for range 3 {
				write(t, app, l, acme, 1)
				if err := l.WriteHeads(app); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.lose(filepath.Join(dir, "heads.jsonl")); err != nil {
				t.Fatal(err)
			}
			lost := func(when string) {
				t.Helper()
				rep := verify(t, app, l, acme)
				if !slices.ContainsFunc(rep.Problems, func(p audit.Problem) bool { return p.Fault == audit.FaultHeadFile }) {
					t.Errorf("%s: %+v", when, rep)
				}
			}
			lost("at once")
			for range 2 {
				write(t, app, l, acme, 1)
				_ = l.WriteHeads(app) // it may say so
				lost("after more was signed")
			}
			// All of a chain goes with it, and it begins anew.
			exec(t, app, "DELETE FROM audit_logs")
			exec(t, app, "DELETE FROM audit_heads")
			write(t, app, l, acme, 1)
			lost("with the whole chain")
		})
	}
}

// Each of two panels signs in a folder of its own; a verification is told of both.
func TestSignedHeadsOfTwoPanels(t *testing.T) {
	t.Parallel()
	here, there := audit.Dir(t.TempDir()), audit.Dir(t.TempDir())
	app := newApp(t)
	for range 2 {
		for _, dir := range []audit.Dir{here, there} {
			l := newLog(t, dir)
			write(t, app, l, acme, 1)
			if err := l.WriteHeads(app); err != nil {
				t.Fatal(err)
			}
		}
	}
	l := newLog(t, here)
	if rep := verify(t, app, l, acme); rep.Faults != 1 || rep.Problems[0].Fault != audit.FaultHeadFile || rep.Heads != 2 {
		t.Errorf("without the other's: %+v", rep)
	}
	l.With(there)
	if rep := verify(t, app, l, acme); !rep.OK() || rep.Heads != 4 {
		t.Errorf("with the other's: %+v", rep)
	}
}

// A chain is signed within the hour. One that is older and was never signed has lost its signed heads with its rows.
func TestAChainThatWasNeverSignedIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app, l := collectionstest.Base(t), newLog(t, audit.Dir(t.TempDir()))
		write(t, app, l, acme, 1)
		<-time.After(2 * time.Hour)
		write(t, app, l, acme, 1)
		if rep := verify(t, app, l, acme); !rep.OK() {
			t.Errorf("after two hours: %+v", rep)
		}
		<-time.After(2 * time.Hour)
		write(t, app, l, acme, 1)
		if rep := verify(t, app, l, acme); rep.Faults != 1 || rep.Problems[0].Fault != audit.FaultHeadFile {
			t.Errorf("after four hours: %+v", rep)
		}
	})
}

func TestALineCutShortByACrashSpoilsNoOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	app, l := newApp(t), newLog(t, audit.Dir(dir))
	write(t, app, l, acme, 1)
	if err := l.WriteHeads(app); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "heads.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(`{"at":"20`)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	write(t, app, l, acme, 1)
	if err := l.WriteHeads(app); err != nil {
		t.Fatal(err)
	}
	if rep := verify(t, app, l, acme); rep.Heads != 2 || rep.Faults != 1 {
		t.Fatalf("want both heads and one bad line: %+v", rep)
	}
}

func TestHeadsAreWrittenOnceAndNeverForATamperedChain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	app, l := newApp(t), newLog(t, audit.Dir(dir))
	count := func() int {
		b, err := os.ReadFile(filepath.Join(dir, "heads.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("\n"))
	}
	write(t, app, l, acme, 2)
	write(t, app, l, "other", 1)
	for range 3 {
		if err := l.WriteHeads(app); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(); n != 2 {
		t.Fatalf("%d lines for two chains that did not grow", n)
	}
	write(t, app, l, acme, 1)
	write(t, app, l, "other", 1)
	exec(t, app, "DELETE FROM audit_logs WHERE tenant = '"+acme+"' AND seq = 3")
	if err := l.WriteHeads(app); err == nil || !strings.Contains(err.Error(), acme) {
		t.Fatalf("want the tampered chain named: %v", err)
	}
	if n := count(); n != 3 {
		t.Fatalf("%d lines, want the good chain's and no other", n)
	}
}

func TestAnotherKeyVerifiesNothing(t *testing.T) {
	t.Parallel()
	app, l := newApp(t), newLog(t, nil)
	write(t, app, l, acme, 3)
	other, err := audit.New(bytes.Repeat([]byte{8}, 32), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rep := verify(t, app, other, acme); rep.Faults != 4 {
		t.Fatalf("three rows and a head: %+v", rep)
	}
	if _, err := audit.New([]byte("short"), nil, nil); err == nil {
		t.Fatal("a short key was taken")
	}
}

func TestAWriteSharesItsTransaction(t *testing.T) {
	t.Parallel()
	app, l := newApp(t), newLog(t, nil)
	write(t, app, l, acme, 1)
	boom := errors.New("boom")
	err := collections.Tx(app, []collections.Lock{audit.Lock(acme)}, func(tx core.App) error {
		write(t, tx, l, acme, 2)
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if rep := verify(t, app, l, acme); rep.Rows != 1 || !rep.OK() {
		t.Fatalf("%+v", rep)
	}
	if err := l.Write(app, audit.Actor{Type: "ghost"}, audit.Entry{Tenant: acme, Action: "x.y"}); err == nil {
		t.Fatal("an unknown type of actor was stored")
	}
	if err := l.Write(app, alice, audit.Entry{Tenant: acme}); err == nil {
		t.Fatal("an entry without an action was stored")
	}
	if rep := verify(t, app, l, acme); rep.Rows != 1 || !rep.OK() {
		t.Fatalf("refused writes left something: %+v", rep)
	}
}

func TestManyWritersMakeOneChain(t *testing.T) {
	t.Parallel()
	app, l := newApp(t), newLog(t, nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { write(t, app, l, acme, 10) })
	}
	wg.Wait()
	if rep := verify(t, app, l, acme); rep.Rows != 80 || !rep.OK() {
		t.Fatalf("%+v", rep)
	}
}

func TestAwkwardTextIsStoredAndVerifies(t *testing.T) {
	t.Parallel()
	app, l := newApp(t), newLog(t, nil)
	a := alice
	a.Name, a.UserAgent, a.Address = strings.Repeat("ü", 400), "a\x00b\xff", strings.Repeat("1", 100)
	err := l.Write(app, a, audit.Entry{Tenant: acme, Action: "a.b", Resource: strings.Repeat("r", 200),
		Metadata: map[string]any{"html": "<b>&</b>", "big": int64(1)<<60 + 1, "nul": "a\x00b", "sep": "\u2028", "float": 1e21, "bad": "\xff"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Write(app, a, audit.Entry{Tenant: acme, Action: "a.b", Metadata: map[string]any{"x": strings.Repeat("y", 40<<10)}}); err != nil {
		t.Fatal(err)
	}
	if rep := verify(t, app, l, acme); rep.Rows != 2 || !rep.OK() {
		t.Fatalf("%+v", rep)
	}
	rows, err := collections.Every[collections.AuditLog](app, collections.AuditLogs, "seq", 0)
	if err != nil {
		t.Fatal(err)
	}
	if m := rows[0].GetString("metadata"); !strings.Contains(m, "1152921504606846977") {
		t.Errorf("an integer lost its digits: %s", m)
	}
	if m := rows[1].GetString("metadata"); !strings.Contains(m, "omitted_bytes") {
		t.Errorf("too much metadata was stored: %d bytes", len(m))
	}
}
