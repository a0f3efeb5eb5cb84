package events

import (
	"log/slog"
	"os"
	"testing"
	"testing/synctest"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections/collectionstest"
)

func TestMain(m *testing.M) { os.Exit(collectionstest.Main(m)) }

func newApp(t testing.TB) core.App { return collectionstest.Base(t) }

func bubble(t *testing.T, fn func(t *testing.T, app core.App)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { fn(t, newApp(t)) })
}

var quiet = slog.New(slog.DiscardHandler)
