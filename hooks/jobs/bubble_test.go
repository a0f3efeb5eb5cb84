package jobs

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/collections/collectionstest"
)

func TestMain(m *testing.M) { os.Exit(collectionstest.Main(m)) }

func newApp(t testing.TB) core.App { return collectionstest.Base(t) }

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

// first is the one job of a claim for one, nil when nothing was due.
func first(runs []*Run, err error) (*Run, error) {
	if len(runs) == 0 {
		return nil, err
	}
	return runs[0], err
}

func dbState(s string) dbx.Expression { return dbx.HashExp{"state": s} }
func dbID(id string) dbx.Expression   { return dbx.HashExp{"id": id} }
