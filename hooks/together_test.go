package hooks

import (
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections/postgres/postgrestest"
)

// TestInstancesWithDifferentMasterKeysDoNotBothStart has three panels start together on an empty
// database, each of which would make a key of its own.
func TestInstancesWithDifferentMasterKeysDoNotBothStart(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	var mu sync.Mutex
	var said []error
	var wg sync.WaitGroup
	for range 3 {
		dir := t.TempDir()
		wg.Go(func() {
			err := openOn(t, url, dir)
			mu.Lock()
			defer mu.Unlock()
			said = append(said, err)
		})
	}
	wg.Wait()
	good := 0
	for _, err := range said {
		switch {
		case err == nil:
			good++
		case !strings.Contains(err.Error(), "master key"):
			t.Error("an instance with another key says:", err)
		}
	}
	if good != 1 {
		t.Errorf("%d of 3 instances with keys of their own started: %v", good, said)
	}
}

// openOn boots a panel on a PostgreSQL database and makes its rooms.
func openOn(t *testing.T, url, dir string) error {
	c := &Config{database: &database{url: url}, HTTPAddress: "127.0.0.1:8090", NodeListen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), SamplesDays: defaultSamplesDays}
	app := core.NewBaseApp(core.BaseAppConfig{DataDir: filepath.Join(dir, "pb_data"), DBConnect: c.Connect})
	app.OnBootstrap().Unbind("__pbNotifyWatcherSystemHook__")
	bindDatabase(app, c)
	if err := app.Bootstrap(); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := app.ClearBootstrap(); err != nil {
			t.Error(err)
		}
		c.database.close()
	})
	p, err := Open(app, c)
	if err == nil {
		t.Cleanup(p.Stop)
	}
	return err
}
