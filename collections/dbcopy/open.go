package dbcopy

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/hook"

	"github.com/mambahost/mamba/collections/postgres"
)

// ErrNoSource is a source that does not exist.
var ErrNoSource = errors.New("there is no database")

// Open opens what is named on the command line: "postgres://…", or a data folder of SQLite. A source
// has to exist; a target folder is made. encryptionEnv is PocketBase's flag of that name. The
// returned function closes everything.
func Open(ctx context.Context, name, encryptionEnv string, source bool) (End, func(), error) {
	if strings.HasPrefix(name, "postgres://") || strings.HasPrefix(name, "postgresql://") {
		return openPostgres(ctx, name, encryptionEnv)
	}
	if _, err := os.Stat(filepath.Join(name, "data.db")); source && err != nil {
		return End{}, nil, fmt.Errorf("%w in %s: %w", ErrNoSource, name, err)
	}
	app := core.NewBaseApp(core.BaseAppConfig{DataDir: name, EncryptionEnv: encryptionEnv})
	if err := bootstrap(app); err != nil {
		return End{}, nil, fmt.Errorf("open %s: %w", name, err)
	}
	return End{App: app, Name: name}, func() { closeApp(app) }, nil
}

func openPostgres(ctx context.Context, url, encryptionEnv string) (End, func(), error) {
	db, err := postgres.Open(ctx, postgres.Config{URL: url})
	if err != nil {
		return End{}, nil, err
	}
	scratch, err := os.MkdirTemp("", "mamba-db-copy-") // PocketBase wants a folder for its logs
	if err != nil {
		db.Close()
		return End{}, nil, err
	}
	app := core.NewBaseApp(core.BaseAppConfig{DataDir: scratch, EncryptionEnv: encryptionEnv, DBConnect: db.Connect})
	err = db.BootLock(ctx, func() error { return bootstrap(app) })
	if err != nil {
		db.Close()
		return End{}, nil, fmt.Errorf("open %s: %w", redacted(url), errors.Join(err, os.RemoveAll(scratch)))
	}
	return End{App: app, Name: redacted(url)}, func() {
		closeApp(app)
		db.Close()
		_ = os.RemoveAll(scratch) // in the system's folder for such things
	}, nil
}

// bootstrap opens the databases without PocketBase's file watcher, which a short command has no use for,
// and whether or not it can read the settings: they are copied as they lie there, and a panel encrypts
// them with a key of its own.
func bootstrap(app core.App) error {
	app.OnBootstrap().Unbind("__pbNotifyWatcherSystemHook__")
	app.OnSettingsReload().Bind(&hook.Handler[*core.SettingsReloadEvent]{Id: "mamba.dbcopy.settings", Func: func(e *core.SettingsReloadEvent) error {
		if err := e.Next(); err != nil {
			slog.Default().Debug("the settings are copied unread", "error", err)
		}
		return nil
	}})
	return app.Bootstrap()
}

func closeApp(app core.App) {
	if err := app.ClearBootstrap(); err != nil {
		slog.Default().Error("close a database", "error", err)
	}
}

// redacted is a URL without its password.
func redacted(url string) string {
	scheme, rest, _ := strings.Cut(url, "://")
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		user, _, _ := strings.Cut(rest[:i], ":")
		rest = user + rest[i:]
	}
	where, _, _ := strings.Cut(rest, "?")
	return scheme + "://" + where
}

// lockSource keeps everybody else from writing into the source until release is called.
func lockSource(ctx context.Context, app core.App) (release func(), err error) {
	db, ok := app.NonconcurrentDB().(*dbx.DB)
	if !ok {
		return nil, errors.New("the source is inside a transaction")
	}
	tx, err := db.DB().BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	if err := takeWriteLocks(ctx, app, tx); err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	return func() { _ = tx.Rollback() }, nil // nothing was changed
}

// takeWriteLocks: SQLite's one write lock is taken by any write, also one that meets no row;
// PostgreSQL locks tables.
func takeWriteLocks(ctx context.Context, app core.App, tx *sql.Tx) error {
	if !postgres.IsPostgres(app.DB()) {
		_, err := tx.ExecContext(ctx, "DELETE FROM `_params` WHERE `id` = ''")
		return err
	}
	tables, err := tablesOf(app)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if _, err := tx.ExecContext(ctx, "LOCK TABLE `"+t+"` IN SHARE MODE"); err != nil {
			return err
		}
	}
	return nil
}
