package postgres_test

import (
	"strings"
	"testing"

	"github.com/pocketbase/dbx"
)

// one is a query that was prepared, on a pool of one connection.
func one(t *testing.T, db *dbx.DB, text string) (ask func(value any) string) {
	t.Helper()
	q := db.NewQuery(text).Prepare()
	must(t, q.LastError)
	t.Cleanup(func() { _ = q.Close() })
	return func(value any) string {
		t.Helper()
		again := *q
		rows, err := again.Bind(dbx.Params{"v": value}).Rows()
		if err != nil {
			return "error: " + err.Error()
		}
		defer rows.Close()
		return read(rows.Rows)
	}
}

// kept are the statements that the server keeps for the one connection.
func kept(t *testing.T, db *dbx.DB) (n int) {
	t.Helper()
	must(t, db.NewQuery("SELECT COUNT(*) FROM pg_prepared_statements").Row(&n))
	return n
}

func single(t *testing.T) map[string]*dbx.DB {
	t.Helper()
	dbs := both(t)
	for _, db := range dbs {
		db.DB().SetMaxOpenConns(1)
		exec(t, db, "CREATE TABLE `t` (`id` TEXT PRIMARY KEY NOT NULL, `n` NUMERIC DEFAULT 0 NOT NULL)")
		exec(t, db, "INSERT INTO `t` (`id`, `n`) VALUES ('a', 1), ('b', 2.5), ('5', 5)")
	}
	return dbs
}

// A prepared statement is planned once, and answers as one that is not: with values of any type, after its table got a
// column, and after the server forgot it.
func TestAPreparedStatementIsKeptByTheServer(t *testing.T) {
	t.Parallel()
	for name, db := range single(t) {
		ask := one(t, db, "SELECT * FROM `t` WHERE `id` = {:v} OR `n` = {:v}")
		check := func(when string, value any, want string) {
			t.Helper()
			if got := ask(value); got != want {
				t.Errorf("%s, %s: %v gives %s, want %s", name, when, value, got, want)
			}
		}
		for range 8 { // the server's first five plans are for the values, those after them for all
			check("at first", "a", "id,n\n    \"a\" 1")
			check("at first", "5", "id,n\n    \"5\" 5")
			check("a value of another type", 2.5, "id,n\n    \"b\" 2.5")
			check("no value", nil, "id,n")
		}
		if name == "postgres" {
			if n := kept(t, db); n != 1 {
				t.Errorf("the server keeps %d statements", n)
			}
		}
		exec(t, db, "ALTER TABLE `t` ADD COLUMN `s` TEXT DEFAULT 'x' NOT NULL")
		for range 2 {
			check("a new column", "a", "id,n,s\n    \"a\" 1 \"x\"")
		}
		if name == "postgres" {
			if n := kept(t, db); n != 1 {
				t.Errorf("after a new column the server keeps %d statements", n)
			}
			exec(t, db, "DEALLOCATE ALL")
			for range 2 {
				check("the server forgot it", "a", "id,n,s\n    \"a\" 1 \"x\"")
			}
		}
		exec(t, db, "DROP TABLE `t`")
		if got := ask("a"); got != "error: SQL logic error: no such table: t (1)" {
			t.Errorf("%s, without its table: %s", name, got)
		}
		exec(t, db, "CREATE TABLE `t` (`id` TEXT PRIMARY KEY NOT NULL, `n` NUMERIC DEFAULT 0 NOT NULL)")
		check("a new table", "a", "id,n")
	}
}

// What was prepared and closed is forgotten by the server, too; a statement that is wrong tells why, each time.
func TestAPreparedStatementEnds(t *testing.T) {
	t.Parallel()
	db := single(t)["postgres"]
	q := db.NewQuery("SELECT `n` FROM `t` WHERE `id` = {:v}").Prepare()
	var n float64
	for range 2 {
		must(t, q.Bind(dbx.Params{"v": "b"}).Row(&n))
	}
	if at := kept(t, db); at != 1 || n != 2.5 {
		t.Errorf("the server keeps %d statements, the answer is %v", at, n)
	}
	must(t, q.Close())
	if at := kept(t, db); at != 0 {
		t.Errorf("the server keeps %d statements after the end of the last", at)
	}
	ask := one(t, db, "SELECT * FROM `nowhere` WHERE `id` = {:v}")
	for range 2 {
		if got := ask("a"); got != "error: SQL logic error: no such table: nowhere (1)" {
			t.Errorf("a table that is not there: %s", got)
		}
	}
}

// A pooler gives a connection a session in which another one has prepared, perhaps by the same name.
func TestANameThatTheSessionHasAlreadyDoesNotHarm(t *testing.T) {
	t.Parallel()
	db := single(t)["postgres"]
	for _, name := range []string{"mamba_1", "mamba_2"} {
		exec(t, db, "PREPARE "+name+" AS SELECT 1")
	}
	for range 2 {
		ask := one(t, db, "SELECT `n` FROM `t` WHERE `id` = {:v}")
		for range 2 {
			if got := ask("b"); got != "n\n    2.5" {
				t.Errorf("beside a foreign statement: %s", got)
			}
		}
	}
}

// In a transaction a prepared statement takes part in it, and its fault does not end it.
func TestAPreparedStatementInATransaction(t *testing.T) {
	t.Parallel()
	for name, db := range single(t) {
		insert, err := db.DB().Prepare("INSERT INTO `t` (`id`) VALUES (?)")
		must(t, err)
		t.Cleanup(func() { _ = insert.Close() })
		_, err = insert.Exec("before")
		must(t, err)
		tx, err := db.DB().Begin()
		must(t, err)
		inside := tx.Stmt(insert)
		defer inside.Close()
		_, err = inside.Exec("c")
		must(t, err)
		if _, err := inside.Exec("c"); err == nil {
			t.Errorf("%s: two rows of one id", name)
		}
		_, err = inside.Exec("d")
		must(t, err)
		must(t, tx.Rollback())
		if got := result(db, "SELECT `id` FROM `t` WHERE `id` IN ('c', 'd')"); got != "id" {
			t.Errorf("%s: after the rollback %s", name, got)
		}
		r, err := insert.Exec("e")
		must(t, err)
		if n, err := r.RowsAffected(); n != 1 || err != nil {
			t.Errorf("%s: %d rows, %v", name, n, err)
		}
		if _, err := insert.Exec("e"); err == nil || !strings.Contains(err.Error(), "UNIQUE constraint failed: t.id") {
			t.Errorf("%s: two rows of one id: %v", name, err)
		}
	}
}
