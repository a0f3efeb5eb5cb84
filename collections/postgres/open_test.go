package postgres_test

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	_ "github.com/mambahost/mamba/migrations"
	_ "github.com/pocketbase/pocketbase/migrations"

	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
)

// run executes SQL on a server as it is.
func run(t testing.TB, url, sql string) {
	t.Helper()
	c, err := pgconn.Connect(t.Context(), url)
	must(t, err)
	defer c.Close(context.WithoutCancel(t.Context()))
	_, err = c.Exec(t.Context(), sql).ReadAll()
	must(t, err)
}

// in is the URL with another database.
func in(t testing.TB, raw, database string) string {
	t.Helper()
	u, err := url.Parse(raw)
	must(t, err)
	u.Path = "/" + database
	return u.String()
}

func TestADatabaseThatSortsOtherwiseIsRefused(t *testing.T) {
	t.Parallel()
	home := postgrestest.URL(t)
	admin := postgrestest.Superuser(t, home)
	for _, c := range []struct{ name, options, reason, remedy string }{
		{"encoding", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'", "encoded in LATIN1", "ENCODING 'UTF8'"},
		{"collation", "ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de'", "", ""},
	} {
		if c.reason == "" {
			continue
		}
		u, err := url.Parse(home)
		must(t, err)
		name := strings.TrimPrefix(u.Path, "/") + "_" + c.name
		run(t, admin, "CREATE DATABASE "+name+" OWNER mamba TEMPLATE template0 "+c.options)
		t.Cleanup(func() {
			ctl, err := pgconn.Connect(context.Background(), admin)
			must(t, err)
			_, err = ctl.Exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)").ReadAll()
			must(t, errors.Join(err, ctl.Close(context.Background())))
		})
		_, err = postgres.Open(t.Context(), postgres.Config{URL: in(t, home, name)})
		var refused *postgres.RefusedError
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, c.reason) || !strings.Contains(refused.Remedy, c.remedy) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestARoleThatMayNotMakeSchemasIsToldWhatItNeeds(t *testing.T) {
	t.Parallel()
	home := postgrestest.URL(t)
	u, err := url.Parse(home)
	must(t, err)
	database := strings.TrimPrefix(u.Path, "/")
	run(t, postgrestest.Superuser(t, home), "ALTER DATABASE "+database+" OWNER TO CURRENT_USER")
	_, err = postgres.Open(t.Context(), postgres.Config{URL: home})
	var refused *postgres.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Error(), "GRANT CREATE ON DATABASE "+database+" TO mamba") {
		t.Errorf("%v", err)
	}
}

func TestAConfigThatCannotBeMeantIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]postgres.Config{
		"a URL that is none":    {URL: "postgres://user:geheim@host:port/x"},
		"a schema of others":    {URL: "postgres://localhost/x", Schema: "pg_mine"},
		"a schema with a quote": {URL: "postgres://localhost/x", Schema: `a"b`},
		"one connection":        {URL: "postgres://localhost/x", MaxConns: 1},
	} {
		_, err := postgres.Open(t.Context(), c)
		if err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Installing is done once, however many panels start, and the second start changes nothing.
func TestManyPanelsOpenAnEmptyDatabaseTogether(t *testing.T) {
	t.Parallel()
	home := postgrestest.URL(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			d, err := postgres.Open(t.Context(), postgres.Config{URL: home})
			if err != nil {
				t.Error(err)
				return
			}
			d.Close()
		})
	}
	wg.Wait()
	d, err := postgres.Open(t.Context(), postgres.Config{URL: home})
	must(t, err)
	defer d.Close()
	var functions int
	must(t, d.Pool().QueryRow(t.Context(), "SELECT count(*) FROM pg_proc WHERE pronamespace = 'mamba_compat'::regnamespace").Scan(&functions))
	if functions < 100 {
		t.Errorf("only %d functions are installed", functions)
	}
}

// An older panel's functions are replaced; what columns and indexes use of them stays in place.
func TestANewerCompatibilitySchemaIsInstalledOverAnOlderOne(t *testing.T) {
	t.Parallel()
	home := postgrestest.URL(t)
	for range 2 {
		d, err := postgres.Open(t.Context(), postgres.Config{URL: home})
		must(t, err)
		db := connect(t, d)
		exec(t, db, "CREATE TABLE IF NOT EXISTS `t` (`id` TEXT PRIMARY KEY DEFAULT ('r'||lower(hex(randomblob(7)))) NOT NULL, `j` JSON, `c` TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%fZ')))")
		exec(t, db, "INSERT INTO `t` (`j`) VALUES ('{\"a\":1}')")
		run(t, home, "COMMENT ON SCHEMA mamba_compat IS 'an older one'")
		d.Close()
	}
	d, err := postgres.Open(t.Context(), postgres.Config{URL: home})
	must(t, err)
	defer d.Close()
	var n int
	must(t, connect(t, d).NewQuery("SELECT COUNT(*) FROM `t` WHERE "+getJSON("j", ".a")+" = 1").Row(&n))
	if n != 2 {
		t.Errorf("%d rows", n)
	}
}

// Three panels on an empty database: each runs PocketBase's and our migrations under the boot lock.
func TestThreePanelsBootTogether(t *testing.T) {
	t.Parallel()
	home := postgrestest.URL(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			d, err := postgres.Open(t.Context(), postgres.Config{URL: home})
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			app := core.NewBaseApp(core.BaseAppConfig{DataDir: filepath.Join(t.TempDir(), "pb_data"), DBConnect: d.Connect})
			err = d.BootLock(t.Context(), func() error { return errors.Join(app.Bootstrap(), app.RunAllMigrations()) })
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := app.FindCollectionByNameOrId("tenants"); err != nil {
				t.Error(err)
			}
			if err := app.ClearBootstrap(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestTheLogStaysInAFile(t *testing.T) {
	t.Parallel()
	d := open(t)
	db, err := d.Connect(filepath.Join(t.TempDir(), "auxiliary.db"))
	must(t, err)
	defer db.Close()
	if postgres.IsPostgres(db) || !postgres.IsPostgres(connect(t, d)) {
		t.Error("auxiliary.db must be SQLite and data.db PostgreSQL")
	}
}

func TestIsPostgresKnowsATransaction(t *testing.T) {
	t.Parallel()
	for name, db := range both(t) {
		must(t, db.Transactional(func(tx *dbx.Tx) error {
			if got := postgres.IsPostgres(tx); got != (name == "postgres") {
				t.Errorf("%s: %v", name, got)
			}
			return nil
		}))
	}
}
