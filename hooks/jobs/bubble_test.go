package jobs

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"pgregory.net/rapid"

	_ "github.com/mambahost/mamba/migrations"
	_ "github.com/pocketbase/pocketbase/migrations"
)

// template is a data folder with all migrations run, made once; copying it is ten times cheaper.
var template string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "jobs-template-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		app := boot(dir)
		if err := app.ClearBootstrap(); err != nil {
			panic(err)
		}
		template = dir
		return m.Run()
	}())
}

// boot starts a real PocketBase without its file watcher: fsnotify blocks in a system call, and a
// bubble's clock stands still for as long as a goroutine of it does.
func boot(dir string) *core.BaseApp {
	app := core.NewBaseApp(core.BaseAppConfig{DataDir: dir, DBConnect: func(path string) (*dbx.DB, error) {
		return dbx.Open("sqlite", path+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_pragma=foreign_keys(ON)&_pragma=temp_store(MEMORY)")
	}})
	app.OnBootstrap().Unbind("__pbNotifyWatcherSystemHook__")
	if err := app.Bootstrap(); err != nil {
		panic(err)
	}
	if err := app.RunAllMigrations(); err != nil {
		panic(err)
	}
	return app
}

func newApp(t testing.TB) core.App {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"data.db", "auxiliary.db"} {
		b, err := os.ReadFile(filepath.Join(template, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	app := boot(dir)
	t.Cleanup(func() {
		if err := app.ClearBootstrap(); err != nil {
			t.Error(err)
		}
	})
	return app
}

// bubble runs a test on a real app under a fake clock.
func bubble(t *testing.T, fn func(t *testing.T, app core.App)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fn(t, newApp(t))
	})
}

var quiet = slog.New(slog.DiscardHandler)

func TestBubble(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		if n, err := app.CountRecords("jobs"); err != nil || n != 0 {
			t.Fatal(n, err)
		}
	})
}

type ctxT = context.Context

// inBubble keeps rapid from asking a *testing.T for its deadline, which panics in a bubble.
type inBubble struct{ rapid.TB }
