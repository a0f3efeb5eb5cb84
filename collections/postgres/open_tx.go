package postgres

import (
	"fmt"

	"github.com/pocketbase/dbx"
)

// openTransactions counts what other clients of this database and role have open since the statement
// began that the caller took its time from. Those of other roles (a dump, a monitor) do not write what is ours.
const openTransactions = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = getpgusername()" +
	" AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND xact_start::text <= {:since}"

// Clock is the server's own time as OpenSince compares it.
func Clock(db dbx.Builder) (string, error) {
	var at string
	if err := db.NewQuery("SELECT clock_timestamp()::text").Row(&at); err != nil {
		return "", fmt.Errorf("postgres: read the clock: %w", err)
	}
	return at, nil
}

// OpenSince counts the transactions of this database's panels that began at or before since, a value of
// Clock, and have not ended.
func OpenSince(db dbx.Builder, since string) (int, error) {
	var n int
	if err := db.NewQuery(openTransactions).Bind(dbx.Params{"since": since}).Row(&n); err != nil {
		return 0, fmt.Errorf("postgres: count open transactions: %w", err)
	}
	return n, nil
}
