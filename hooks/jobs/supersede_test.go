package jobs

import (
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
)

// A job that ends by itself between being listed and being ended is no fault of the newer command.
func TestAJobThatJustEndedNeedsNoSuperseding(t *testing.T) {
	t.Parallel()
	app := collectionstest.New(t)
	q := New(app, Config{Log: quiet})
	q.Handle("a", Options{}, nothing, nil)
	id := enqueue(t, q, app, Job{Kind: "a", Subject: "srv"})
	held, release, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- collections.Tx(app, nil, func(tx core.App) error {
			if _, err := tx.DB().Update(collections.Jobs, dbx.Params{"state": Done}, dbx.HashExp{"id": id}).Execute(); err != nil {
				return err
			}
			close(held)
			<-release
			return nil
		})
	}()
	<-held
	superseded := make(chan error, 1)
	n := -1
	go func() {
		var err error
		n, err = q.SupersedeAll(app, "srv", "restart came")
		superseded <- err
	}()
	if collectionstest.OnPostgres() { // it has listed the job and waits for its row; SQLite lets nobody begin
		waits(t, app)
	}
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := <-superseded; err != nil || n != 0 {
		t.Errorf("%d superseded, %v", n, err)
	}
	wantState(t, app, id, Done)
}

// waits returns once a transaction of the app's database waits for another.
func waits(t *testing.T, app core.App) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var n int
		err := app.ConcurrentDB().NewQuery("SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Row(&n)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			return
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("nobody waits")
		}
	}
}
