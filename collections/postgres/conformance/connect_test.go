package conformance

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
)

// The fixture of PocketBase's own tests arrives whole: every table with its rows.
func TestTheFixtureIsCopied(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/pocketbase/pocketbase").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(strings.TrimSpace(string(out)), "tests", "data", "data.db")
	from, err := openSQLite("file:" + file + "?immutable=1&x=")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	url := postgrestest.URL(t)
	if err := load(file, url); err != nil {
		t.Fatal(err)
	}
	d, err := postgres.Open(t.Context(), postgres.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	to, err := d.Connect("data.db")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	var tables []string
	if err := from.NewQuery("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'").Column(&tables); err != nil || len(tables) < 15 {
		t.Fatal(tables, err)
	}
	for _, table := range tables {
		var want, got int
		if err := from.NewQuery("SELECT COUNT(*) FROM {{" + table + "}}").Row(&want); err != nil {
			t.Fatal(err)
		}
		if err := to.NewQuery("SELECT COUNT(*) FROM {{" + table + "}}").Row(&got); err != nil || got != want {
			t.Errorf("%s: %d of %d rows, %v", table, got, want, err)
		}
	}
}
