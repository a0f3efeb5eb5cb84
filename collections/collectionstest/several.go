package collectionstest

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
)

// readers is how many connections an instance of a test reads with.
const readers = 12

// shared is the template of Several, made when the first test asks.
var shared struct {
	sync.Mutex
	dir      string
	database postgrestest.Template
}

// Instance is one panel instance's app and its own way to the database that it shares.
type Instance struct {
	*core.BaseApp
	Database *postgres.Database
}

// Several are n apps on one PostgreSQL database, as panel instances are, whatever Variable says. They
// are cleared when t ends.
func Several(t testing.TB, n int) []*Instance {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	shared.database.Prepare = prepareShared
	url := shared.database.Clone(t)
	out := make([]*Instance, n)
	for i := range out {
		d := Open(t, url)
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(shared.dir)); err != nil {
			t.Fatal(err)
		}
		app := core.NewBaseApp(core.BaseAppConfig{DataDir: dir, DBConnect: d.Connect, DataMaxOpenConns: readers, DataMaxIdleConns: readers})
		unwatch(app)
		if err := app.Bootstrap(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := app.ClearBootstrap(); err != nil {
				t.Error(err)
			}
		})
		postgres.WritePool(app, conns)
		out[i] = &Instance{app, d}
	}
	return out
}

func prepareShared(url string) error {
	dir, err := os.MkdirTemp("", "mamba-shared-")
	if err != nil {
		return err
	}
	shared.dir = dir
	d, err := postgres.Open(context.Background(), postgres.Config{URL: url})
	if err != nil {
		return err
	}
	defer d.Close()
	return migrate(core.BaseAppConfig{DataDir: dir, DBConnect: d.Connect})
}

// removeShared removes what Several made.
func removeShared() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.dir == "" {
		return nil
	}
	return os.RemoveAll(shared.dir)
}
