package events

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/pocketbase/pocketbase/core"

	_ "github.com/mambahost/mamba/migrations"
	_ "github.com/pocketbase/pocketbase/migrations"
)

// template is a data folder with all migrations run, made once.
var template string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "events-template-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		if err := boot(dir).ClearBootstrap(); err != nil {
			panic(err)
		}
		template = dir
		return m.Run()
	}())
}

// boot starts a real PocketBase without its file watcher, which would stop a bubble's clock.
func boot(dir string) *core.BaseApp {
	app := core.NewBaseApp(core.BaseAppConfig{DataDir: dir})
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

func bubble(t *testing.T, fn func(t *testing.T, app core.App)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { fn(t, newApp(t)) })
}

var quiet = slog.New(slog.DiscardHandler)
