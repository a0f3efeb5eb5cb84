package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pocketbase/dbx"
)

// Advisory locks of one number (bigint) in this database that are ours: those of transactions
// (LockKey) have lockSpace in their first 16 bits, those of sessions lockSpace+1. Nothing else of the
// product may take a lock in either.
const (
	lockSpace   = 0x6d61 // "ma"
	lockInstall = int64(lockSpace+1)<<48 | 1
	lockBoot    = int64(lockSpace+1)<<48 | 2
)

// LockKey is the number of the advisory lock of a name: 16 bits lockSpace and the first 48 of the
// name's SHA-256. Two names with one number would only wait for each other without need.
func LockKey(name string) int64 {
	sum := sha256.Sum256([]byte(name))
	return int64(lockSpace)<<48 | int64(binary.BigEndian.Uint64(sum[:8])>>16)
}

// Lock takes the named locks, in the order given, for the rest of the transaction that tx is. It
// waits for each; taking one again costs nothing.
func Lock(tx dbx.Builder, names []string) error {
	if len(names) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("SELECT ")
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("pg_advisory_xact_lock(" + strconv.FormatInt(LockKey(name), 10) + ")")
	}
	if _, err := tx.NewQuery(b.String()).Execute(); err != nil {
		return fmt.Errorf("postgres: lock %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// Retryable says whether a transaction failed only because of another one at the same time, so that
// running it again from its beginning may succeed.
func Retryable(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == serializationFailure || pg.Code == deadlockDetected)
}

// BootLock runs fn while this panel alone of all panels on the database boots: Bootstrap and
// migrations belong inside. The lock is on a connection of its own and ends with it, so a panel that
// is killed in the middle holds nobody up. It waits as long as ctx lets it.
func (d *Database) BootLock(ctx context.Context, fn func() error) (err error) {
	pg, err := pgconn.ConnectConfig(ctx, d.conn)
	if err != nil {
		return fmt.Errorf("postgres: connect for the boot lock: %w", err)
	}
	defer func() { err = errors.Join(err, pg.Close(context.WithoutCancel(ctx))) }()
	return withLock(ctx, pg, lockBoot, fn)
}

// withLock runs fn while the session holds an advisory lock.
func withLock(ctx context.Context, pg *pgconn.PgConn, key int64, fn func() error) error {
	k := strconv.FormatInt(key, 10)
	if _, err := pg.Exec(ctx, "SELECT pg_advisory_lock("+k+")").ReadAll(); err != nil {
		return fmt.Errorf("postgres: wait for the lock %s: %w", k, err)
	}
	err := fn()
	_, unlock := pg.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock("+k+")").ReadAll()
	return errors.Join(err, unlock)
}
