package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core/validators"

	"github.com/mambahost/mamba/collections/postgres"
)

// A failed statement leaves a transaction usable, as in SQLite; what it did is undone.
func TestATransactionGoesOnAfterAFailedStatement(t *testing.T) {
	t.Parallel()
	for name, db := range both(t) {
		exec(t, db, "CREATE TABLE `t` (`id` TEXT PRIMARY KEY NOT NULL)")
		must(t, db.Transactional(func(tx *dbx.Tx) error {
			exec(t, tx, "INSERT INTO `t` (`id`) VALUES ('a')")
			if _, err := tx.NewQuery("INSERT INTO `t` (`id`) VALUES ('b'), ('a')").Execute(); err == nil {
				t.Errorf("%s: two rows of one id", name)
			}
			if _, err := tx.NewQuery("SELECT * FROM `missing`").Execute(); err == nil {
				t.Errorf("%s: a missing table is no error", name)
			}
			exec(t, tx, "INSERT INTO `t` (`id`) VALUES ('c')")
			return nil
		}))
		if got := result(db, "SELECT `id` FROM `t` ORDER BY `id`"); got != "id\n    \"a\"\n    \"c\"" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// dbx reads rows while it runs other statements on the same transaction.
func TestStatementsRunWhileRowsAreRead(t *testing.T) {
	t.Parallel()
	for name, db := range both(t) {
		exec(t, db, "CREATE TABLE `t` (`id` TEXT PRIMARY KEY NOT NULL)")
		exec(t, db, "CREATE TABLE `u` (`id` TEXT PRIMARY KEY NOT NULL)")
		must(t, db.Transactional(func(tx *dbx.Tx) error {
			exec(t, tx, "INSERT INTO `t` (`id`) VALUES ('a'), ('b'), ('c')")
			rows, err := tx.NewQuery("SELECT `id` FROM `t` ORDER BY `id`").Rows()
			must(t, err)
			defer rows.Close()
			read := 0
			for rows.Next() {
				var id string
				must(t, rows.Scan(&id))
				exec(t, tx, "INSERT INTO `u` (`id`) VALUES ({:p0})", id+id)
				read++
			}
			if read != 3 {
				t.Errorf("%s: %d rows were read", name, read)
			}
			return rows.Err()
		}))
	}
}

// validators.NormalizeUniqueIndexError reads the text of the error: it must name table and columns.
func TestUniqueErrorsNameTheFields(t *testing.T) {
	t.Parallel()
	for name, db := range both(t) {
		exec(t, db, "CREATE TABLE `servers` (`id` TEXT PRIMARY KEY NOT NULL, `tenant` TEXT, `serverName` TEXT)")
		exec(t, db, "CREATE UNIQUE INDEX `one` ON `servers` (`tenant`, `serverName` COLLATE NOCASE) WHERE `tenant` != ''")
		insert := func(id, tenant, title string) error {
			_, err := db.Insert("servers", dbx.Params{"id": id, "tenant": tenant, "serverName": title}).Execute()
			return validators.NormalizeUniqueIndexError(err, "servers", []string{"id", "tenant", "serverName", "name"})
		}
		must(t, insert("a", "t", "Lobby"))
		must(t, insert("b", "", "Lobby"))
		must(t, insert("c", "", "Lobby"))
		for _, c := range []struct{ id, title, want string }{
			{"d", "LOBBY", "serverName: Value must be unique; tenant: Value must be unique."},
			{"a", "other", "id: Value must be unique."},
		} {
			if err := insert(c.id, "t", c.title); err == nil || err.Error() != c.want {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
		}
	}
}

func TestErrorsHaveSQLitesWords(t *testing.T) {
	t.Parallel()
	dbs := both(t)
	for _, db := range dbs {
		exec(t, db, "CREATE TABLE `t` (`id` TEXT PRIMARY KEY NOT NULL, `a` TEXT NOT NULL)")
	}
	for _, c := range []struct{ sql, want string }{
		{"SELECT * FROM `missing`", "no such table: missing"},
		{"SELECT `nothing` FROM `t`", "no such column: nothing"},
		{"INSERT INTO `t` (`id`, `a`) VALUES ('1', NULL)", "NOT NULL constraint failed: t.a"},
		{"CREATE TABLE `t` (`x` TEXT)", "already exists"},
		{"invalid", `SQL logic error: near "invalid": syntax error (1)`},
		{"DELETE FROM", "SQL logic error: incomplete input (1)"},
		{"SELECT", "SQL logic error: incomplete input (1)"},
		{"SELECT * FROM (SELECT  FROM `t`)", `SQL logic error: near "FROM": syntax error (1)`},
		{"CREATE VIEW `v` AS SELECT * FROM (SELECT DISTINCT)", `SQL logic error: near ")": syntax error (1)`},
	} {
		for name, db := range dbs {
			if _, err := db.NewQuery(c.sql).Execute(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %s: %v", name, c.sql, err)
			}
		}
	}
	_, err := dbs["postgres"].NewQuery("VACUUM INTO '/tmp/copy'").Execute()
	if err == nil || !strings.Contains(err.Error(), "pg_dump") {
		t.Errorf("VACUUM INTO: %v", err)
	}
	exec(t, dbs["postgres"], "PRAGMA optimize")
	exec(t, dbs["postgres"], "VACUUM")
}

// What PocketBase binds comes back as SQLite would return it.
func TestValues(t *testing.T) {
	t.Parallel()
	db := connect(t, open(t))
	exec(t, db, "CREATE TABLE `t` (`id` TEXT PRIMARY KEY NOT NULL, `s` TEXT, `n` NUMERIC, `b` BOOLEAN, `i` INTEGER, `j` JSON)")
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.FixedZone("", 3600))
	_, err := db.Insert("t", dbx.Params{"id": "a\x00b", "s": at, "n": 1.5, "b": true, "i": int64(1) << 60, "j": []byte(`{"a":1}`)}).Execute()
	must(t, err)
	_, err = db.Insert("t", dbx.Params{"id": "nothing", "s": nil, "n": nil, "b": nil, "i": nil, "j": []byte(nil)}).Execute()
	must(t, err)
	want := "id,s,n,b,i,j\n    \"a\uFFFDb\" \"2026-01-02 02:04:05.678Z\" 1.5 1 1.152921504606847e+18 {\"a\":1}\n    \"nothing\" NULL NULL NULL NULL <nil>"
	if got := result(db, "SELECT * FROM `t` ORDER BY `id`"); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	r, err := db.Update("t", dbx.Params{"n": 2}, dbx.HashExp{"id": []any{"a\xffb", "nothing", "none", "ab"}}).Execute()
	must(t, err)
	if n, err := r.RowsAffected(); n != 2 || err != nil {
		t.Errorf("%d rows changed, %v", n, err)
	}
}

// A request that is given up is ended on the server, and its connection serves the next one.
func TestAStatementThatIsGivenUpLeavesTheConnection(t *testing.T) {
	t.Parallel()
	db := connect(t, open(t))
	db.DB().SetMaxOpenConns(1)
	pid := func() (n int) {
		must(t, db.NewQuery("SELECT pg_backend_pid()").Row(&n))
		return n
	}
	before := pid()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	var nothing sql.NullString
	if err := db.NewQuery("SELECT pg_sleep(30)").WithContext(ctx).Row(&nothing); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("giving up took %v", took)
	}
	if after := pid(); after != before {
		t.Errorf("backend %d became %d: the connection was thrown away", before, after)
	}
}

// One round trip: the savepoints around a statement go out with it.
func TestAStatementOfATransactionIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	d := open(t)
	db := connect(t, d)
	exec(t, db, "CREATE TABLE `t` (`id` TEXT PRIMARY KEY NOT NULL)")
	perCall := func(n int) time.Duration {
		var took time.Duration
		must(t, db.Transactional(func(tx *dbx.Tx) error {
			began := time.Now()
			for i := range n {
				exec(t, tx, "INSERT INTO `t` (`id`) VALUES ({:p0})", fmt.Sprint(n, "_", i))
			}
			took = time.Since(began) / time.Duration(n)
			return nil
		}))
		return took
	}
	t.Logf("%v for each INSERT in a transaction", perCall(500))
	var backends int
	must(t, d.Pool().QueryRow(t.Context(), "SELECT count(*) FROM mamba.t").Scan(&backends))
	if backends != 500 {
		t.Errorf("%d rows", backends)
	}
}

// Check-then-write of eight writers: with the lock the last owner stays, each time.
func TestLocksOfATransaction(t *testing.T) {
	t.Parallel()
	db := connect(t, open(t))
	exec(t, db, "CREATE TABLE `owners` (`id` TEXT PRIMARY KEY NOT NULL)")
	const writers, rounds = 8, 20
	leave := func(i int, locks []string) error {
		return db.Transactional(func(tx *dbx.Tx) error {
			if err := postgres.Lock(tx, locks); err != nil {
				return err
			}
			var n int
			if err := tx.NewQuery("SELECT COUNT(*) FROM `owners`").Row(&n); err != nil || n <= 1 {
				return err
			}
			_, err := tx.NewQuery("DELETE FROM `owners` WHERE `id` = {:p0}").Bind(dbx.Params{"p0": fmt.Sprint(i)}).Execute()
			return err
		})
	}
	lost := func(locks []string) int {
		var gone int
		for range rounds {
			exec(t, db, "DELETE FROM `owners`")
			for i := range writers {
				exec(t, db, "INSERT INTO `owners` (`id`) VALUES ({:p0})", fmt.Sprint(i))
			}
			var wg sync.WaitGroup
			var failed atomic.Int64
			for i := range writers {
				wg.Go(func() {
					if leave(i, locks) != nil {
						failed.Add(1)
					}
				})
			}
			wg.Wait()
			if n := failed.Load(); n != 0 {
				t.Errorf("%d transactions failed", n)
			}
			var n int
			must(t, db.NewQuery("SELECT COUNT(*) FROM `owners`").Row(&n))
			if n == 0 {
				gone++
			}
		}
		return gone
	}
	without, with := lost(nil), lost([]string{"tenant:a"})
	t.Logf("last owner lost in %d of %d rounds without the lock, in %d with it", without, rounds, with)
	if with != 0 {
		t.Error("the lock does not hold")
	}
}

func TestLockKeysAreApartFromTheSessions(t *testing.T) {
	t.Parallel()
	a, b := postgres.LockKey("tenant:a"), postgres.LockKey("tenant:b")
	if a == b || a>>48 != 0x6d61 || postgres.LockKey("tenant:a") != a {
		t.Errorf("%x %x", a, b)
	}
}
