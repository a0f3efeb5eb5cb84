package sqlite_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections/sqlite"
)

// open is a pool of one connection.
func open(t *testing.T, path string) *dbx.DB {
	t.Helper()
	db, err := sqlite.Connect(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.DB().SetMaxOpenConns(1)
	return db
}

// A transaction has the file to itself from its beginning: nobody comes between what it reads and what it
// writes, and nobody can refuse it the write.
func TestATransactionIsAWritersFromItsBeginning(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data.db")
	db, other := open(t, path), open(t, path)
	if _, err := db.NewQuery("CREATE TABLE t (n INTEGER)").Execute(); err != nil {
		t.Fatal(err)
	}
	if _, err := other.NewQuery("PRAGMA busy_timeout = 0").Execute(); err != nil {
		t.Fatal(err)
	}
	write := func() error {
		_, err := other.NewQuery("INSERT INTO t (n) VALUES (1)").Execute()
		return err
	}
	err := db.Transactional(func(*dbx.Tx) error {
		if err := write(); err == nil || !strings.Contains(err.Error(), "SQLITE_BUSY") {
			return errors.Join(errors.New("another wrote inside of the transaction"), err)
		}
		var n int
		return other.NewQuery("SELECT COUNT(*) FROM t").Row(&n) // reading goes on
	})
	if err != nil {
		t.Error(err)
	}
	if err := write(); err != nil {
		t.Errorf("after the transaction: %v", err)
	}
}
