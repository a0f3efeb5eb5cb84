package postgres_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pocketbase/dbx"
	_ "modernc.org/sqlite" // the reference

	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open is a database of ours on an empty PostgreSQL database.
func open(t testing.TB) *postgres.Database {
	t.Helper()
	d, err := postgres.Open(t.Context(), postgres.Config{URL: postgrestest.URL(t)})
	must(t, err)
	t.Cleanup(d.Close)
	return d
}

// connect is what PocketBase gets.
func connect(t testing.TB, d *postgres.Database) *dbx.DB {
	t.Helper()
	db, err := d.Connect("/somewhere/data.db")
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	return db
}

// both are an empty SQLite and an empty PostgreSQL database that take the same SQL.
func both(t testing.TB) map[string]*dbx.DB {
	t.Helper()
	lite, err := dbx.Open("sqlite", filepath.Join(t.TempDir(), "data.db"))
	must(t, err)
	t.Cleanup(func() { must(t, lite.Close()) })
	return map[string]*dbx.DB{"sqlite": lite, "postgres": connect(t, open(t))}
}

// exec runs a statement with values for ?.
func exec(t testing.TB, db dbx.Builder, sql string, values ...any) {
	t.Helper()
	q := db.NewQuery(sql)
	if len(values) > 0 {
		params := dbx.Params{}
		for i, v := range values {
			params["p"+string(rune('0'+i))] = v
		}
		q.Bind(params)
	}
	if _, err := q.Execute(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
