package collectionstest

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pocketbase/pocketbase/core"
)

// Stored is all that the app keeps, by name: each file of its data folder and, on PostgreSQL, each
// table as text. It is for tests that look for what must not be stored.
func Stored(t testing.TB, app core.App) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(app.DataDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		out[d.Name()], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !OnPostgres() {
		return out
	}
	var tables []string
	if err := app.DB().NewQuery("SELECT name FROM sqlite_master WHERE type = 'table'").Column(&tables); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		var rows []string
		if err := app.DB().NewQuery("SELECT x::text AS `row` FROM {{" + table + "}} x").Column(&rows); err != nil {
			t.Fatal(err)
		}
		out[table] = []byte(strings.Join(rows, "\n"))
	}
	return out
}
