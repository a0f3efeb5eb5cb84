package fleet

import (
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/incidents"
)

// book is the incidents room with a question for tests.
type book struct {
	*incidents.Book
	app core.App
}

func newBook(app core.App) *book { return &book{Book: incidents.New(nil), app: app} }

// count is how often an open incident was seen, 0 when none is open.
func (b *book) count(t testing.TB, fingerprint string) int {
	t.Helper()
	rows, err := collections.Every[collections.Incident](b.app, collections.Incidents, "", 1, dbx.HashExp{"fingerprint": fingerprint, "status": "OPEN"})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		return 0
	}
	return int(rows[0].Count())
}
