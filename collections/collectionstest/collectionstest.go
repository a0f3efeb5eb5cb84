// Package collectionstest makes the PocketBase that a room's tests run on: migrated, empty, on a
// database of its own, SQLite or PostgreSQL.
//
// It owns the templates that are copied for each test. It refuses to know a room: what a room needs
// on top it builds itself.
//
// Its one invariant: the same test sees the same rows, hooks and errors on both databases.
//
// It is for tests only and is imported by no binary.
package collectionstest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tests"

	_ "github.com/mambahost/mamba/migrations" // the schema
	_ "github.com/pocketbase/pocketbase/migrations"

	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
	"github.com/mambahost/mamba/collections/sqlite"
)

// Variable says which database the tests run on: sqlite (the default) or postgres.
const Variable = "MAMBA_TEST_DB"

// conns is how many connections an app of a test writes with on PostgreSQL, which has no single
// writer. SQLite has one.
const conns = 8

// OnPostgres says whether this run of the tests is on PostgreSQL.
func OnPostgres() bool { return os.Getenv(Variable) == "postgres" }

// template is a data folder with all migrations run, made once per process, and on PostgreSQL the
// database that belongs to it.
var template struct {
	sync.Once
	dir string
	err error
}

var database = postgrestest.Template{Prepare: func(url string) error {
	template.dir, template.err = os.MkdirTemp("", "mamba-template-")
	if template.err != nil {
		return template.err
	}
	d, err := postgres.Open(context.Background(), postgres.Config{URL: url})
	if err != nil {
		return err
	}
	defer d.Close()
	return migrate(core.BaseAppConfig{DataDir: template.dir, DBConnect: d.Connect})
}}

// Main runs the tests of a package and removes what they made:
//
//	func TestMain(m *testing.M) { os.Exit(collectionstest.Main(m)) }
func Main(m *testing.M) int {
	return Run(m.Run)
}

// Share is the part (1/Share) of its cases that a property test with a database runs: all on SQLite,
// a tenth on PostgreSQL, where a statement costs a round trip, and all on both in the nightly lane. Of that,
// `go test -short` (make check) runs a fifth. Flags must have been parsed.
func Share() int {
	share := 1
	if OnPostgres() && os.Getenv("MAMBA_NIGHTLY") == "" {
		share = postgresShare
	}
	if testing.Short() {
		share *= shortShare
	}
	return share
}

const (
	postgresShare = 10
	shortShare    = 5 // rapid takes it by itself
)

// fewerChecks gives rapid its share, if the command line does not say otherwise.
func fewerChecks() error {
	if !flag.Parsed() {
		flag.Parse()
	}
	checks := flag.Lookup("rapid.checks")
	if checks == nil || Share() == 1 || testing.Short() || checks.Value.String() != checks.DefValue {
		return nil
	}
	n, err := strconv.Atoi(checks.DefValue)
	if err != nil {
		return err
	}
	return checks.Value.Set(strconv.Itoa(max(1, n/Share())))
}

// Run is Main for a package that has more to do around its tests.
func Run(tests func() int) int {
	if err := errors.Join(fewerChecks(), makeTemplate()); err != nil {
		fmt.Fprintln(os.Stderr, "collectionstest:", err)
		return 1
	}
	code := tests()
	if err := errors.Join(os.RemoveAll(template.dir), removeShared(), postgrestest.Stop()); err != nil {
		fmt.Fprintln(os.Stderr, "collectionstest:", err)
		return max(code, 1)
	}
	return code
}

// makeTemplate runs the migrations once, outside of any test's fake clock.
func makeTemplate() error {
	template.Do(func() {
		if OnPostgres() {
			template.err = database.Make()
			return
		}
		if template.dir, template.err = os.MkdirTemp("", "mamba-template-"); template.err != nil {
			return
		}
		template.err = migrate(core.BaseAppConfig{DataDir: template.dir, DBConnect: Connect})
	})
	return template.err
}

func migrate(c core.BaseAppConfig) error {
	app := core.NewBaseApp(c)
	unwatch(app)
	if err := app.Bootstrap(); err != nil {
		return err
	}
	return errors.Join(app.RunAllMigrations(), app.ClearBootstrap())
}

// unwatch keeps PocketBase's file watcher from running: it blocks in a system call, and a synctest
// bubble's clock stands still for as long as a goroutine of it does.
func unwatch(app core.App) { app.OnBootstrap().Unbind("__pbNotifyWatcherSystemHook__") }

// Connect opens a SQLite file as PocketBase does, but without waiting for the disk.
func Connect(path string) (*dbx.DB, error) {
	return sqlite.Connect(path, "_pragma=synchronous(OFF)")
}

// New is a PocketBase with mailer and hook counters of its own, as PocketBase's tests have it. It is
// cleaned up when t ends.
func New(t testing.TB) *tests.TestApp {
	t.Helper()
	app, err := tests.NewTestAppWithConfig(config(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(app.Cleanup)
	postgres.WritePool(app, conns)
	return app
}

// Base is a plain PocketBase on a data folder of its own, without the file watcher, so that it may
// run in a synctest bubble. It is cleared when t ends.
func Base(t testing.TB) *core.BaseApp {
	t.Helper()
	c := config(t)
	dir := c.DataDir
	c.DataDir = t.TempDir()
	if err := os.CopyFS(c.DataDir, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	app := core.NewBaseApp(c)
	unwatch(app)
	if err := app.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := app.ClearBootstrap(); err != nil {
			t.Error(err)
		}
	})
	if err := app.RunAllMigrations(); err != nil {
		t.Fatal(err)
	}
	postgres.WritePool(app, conns)
	return app
}

// Elsewhere is a PocketBase on a data folder that another process opens, too; url is where its database
// is, and stays empty on SQLite. It is cleared when t ends.
func Elsewhere(t testing.TB, dir string, url *string) *core.BaseApp {
	t.Helper()
	if err := makeTemplate(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(template.dir)); err != nil {
		t.Fatal(err)
	}
	c := core.BaseAppConfig{DataDir: dir, DBConnect: Connect}
	if OnPostgres() {
		*url = database.Clone(t)
		c.DBConnect = Open(t, *url).Connect
	}
	app := core.NewBaseApp(c)
	unwatch(app)
	if err := app.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := app.ClearBootstrap(); err != nil {
			t.Error(err)
		}
	})
	return app
}

// Reopen is the PocketBase that Elsewhere was, as another start would have it, with env as the variable of
// its settings' key; not bootstrapped yet. It is cleared when t ends.
func Reopen(t testing.TB, dir, url, env string) *core.BaseApp {
	t.Helper()
	c := core.BaseAppConfig{DataDir: dir, EncryptionEnv: env, DBConnect: Connect}
	if url != "" {
		c.DBConnect = Open(t, url).Connect
	}
	app := core.NewBaseApp(c)
	unwatch(app)
	t.Cleanup(func() {
		if err := app.ClearBootstrap(); err != nil {
			t.Error(err)
		}
	})
	return app
}

// config is the template's folder and a connection to a copy of the template's database.
func config(t testing.TB) core.BaseAppConfig {
	t.Helper()
	if err := makeTemplate(); err != nil {
		t.Fatal(err)
	}
	c := core.BaseAppConfig{DataDir: template.dir, EncryptionEnv: "pb_test_env", DBConnect: Connect}
	if OnPostgres() {
		d := Open(t, database.Clone(t))
		c.DBConnect = d.Connect
	}
	return c
}

// Open opens a database for t and closes it when t ends.
func Open(t testing.TB, url string) *postgres.Database {
	t.Helper()
	d, err := postgres.Open(t.Context(), postgres.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}
