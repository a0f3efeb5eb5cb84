package collections

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections/postgres"
)

// ErrStillOpen is a transaction that began before Settle and did not end in time.
var ErrStillOpen = errors.New("a transaction from before is still open")

// Bounds of Settle.
const (
	settleFor   = 2 * time.Minute // longer than any transaction of ours
	settleEvery = 20 * time.Millisecond
)

// Settle returns when every write transaction that had begun when it was called has ended, in all panel
// instances: what comes later sees what was committed before. It must not be called in a transaction.
func Settle(ctx context.Context, app core.App) error {
	db := app.NonconcurrentDB()
	if !postgres.IsPostgres(db) { // one writer: our turn comes after those that wait
		return Tx(app, nil, func(core.App) error { return nil })
	}
	since, err := postgres.Clock(db)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, settleFor, ErrStillOpen)
	defer cancel()
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		n, err := postgres.OpenSince(db, since)
		if err != nil || n == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d open transactions: %w", n, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
