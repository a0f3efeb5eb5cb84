package collections_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
)

// Settle waits for a transaction that began before, has not written yet, and ends later.
func TestSettleWaitsForWhatHadBegun(t *testing.T) {
	t.Parallel()
	app := collectionstest.New(t)
	begun, end, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- collections.Tx(app, nil, func(tx core.App) error {
			var n int
			if err := tx.NonconcurrentDB().NewQuery("SELECT COUNT(*) FROM incidents").Row(&n); err != nil {
				return err
			}
			close(begun)
			<-end
			return nil
		})
	}()
	<-begun
	settled := make(chan error, 1)
	go func() { settled <- collections.Settle(context.Background(), app) }()
	select {
	case err := <-settled:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(150 * time.Millisecond): // nothing tells that nothing happens
	}
	close(end)
	if err := errors.Join(<-ended, <-settled); err != nil {
		t.Fatal(err)
	}
	if collectionstest.OnPostgres() { // one that never ends is told of
		open := make(chan struct{})
		begun = make(chan struct{})
		go func() {
			ended <- collections.Tx(app, nil, func(tx core.App) error {
				var n int
				err := tx.NonconcurrentDB().NewQuery("SELECT COUNT(*) FROM incidents").Row(&n)
				close(begun)
				<-open
				return err
			})
		}()
		<-begun
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := collections.Settle(ctx, app); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an open transaction: %v", err)
		}
		close(open)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
}
