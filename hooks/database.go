package hooks

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/collections/sqlite"
)

// Bounds of the PostgreSQL mode. With the one that listens an instance has 29 connections at most, and
// three instances stay below PostgreSQL's default of 100.
const (
	postgresReaders = 12
	postgresWriters = 8
	postgresNative  = 8                // for samples and what is not PocketBase's
	connectTimeout  = 30 * time.Second // of the first look at the server
)

// database is which database the collections are on: SQLite in the data folder, or PostgreSQL. A nil
// one is SQLite.
type database struct {
	url string // empty: SQLite

	mu sync.Mutex
	pg *postgres.Database // nil until the first connect, and on SQLite; guarded by mu
}

// kind is how status pages and logs name it.
func (d *database) kind() string {
	if d == nil || d.url == "" {
		return "SQLite"
	}
	return "PostgreSQL"
}

// open returns the PostgreSQL database, after it was checked and prepared once; nil on SQLite.
func (d *database) open() (*postgres.Database, error) {
	if d == nil || d.url == "" {
		return nil, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pg != nil {
		return d.pg, nil
	}
	if !strings.HasPrefix(d.url, "postgres://") && !strings.HasPrefix(d.url, "postgresql://") {
		return nil, fmt.Errorf("--db %q: it is a URL like postgres://user:password@host:5432/mamba; leave it out for SQLite", d.url)
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	pg, err := postgres.Open(ctx, postgres.Config{URL: d.url, MaxConns: postgresNative})
	if err != nil {
		return nil, fmt.Errorf("--db: %w", err)
	}
	d.pg = pg
	return pg, nil
}

// close ends what open began; the app's own connections are closed by PocketBase before.
func (d *database) close() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pg != nil {
		d.pg.Close()
		d.pg = nil
	}
}

// Connect is PocketBase's DBConnect: it opens data.db or auxiliary.db on the configured database. It
// is called at bootstrap, when the flags are parsed.
func (c *Config) Connect(path string) (*dbx.DB, error) {
	pg, err := c.database.open()
	if err != nil {
		return nil, err
	}
	if pg == nil {
		return sqlite.Connect(path)
	}
	return pg.Connect(path)
}

// bindDatabase makes instances that start together on one PostgreSQL database migrate it one after
// the other, and sets the sizes of the pools. SQLite is left as PocketBase has it.
func bindDatabase(app core.App, c *Config) {
	app.OnBootstrap().Bind(handler("mamba.database.bootstrap", first, func(e *core.BootstrapEvent) error {
		pg, err := c.database.open()
		if err != nil {
			return err
		}
		if pg == nil {
			return e.Next()
		}
		return pg.BootLock(context.Background(), func() error {
			if err := e.Next(); err != nil {
				return err
			}
			if err := e.App.RunAllMigrations(); err != nil {
				return fmt.Errorf("migrate: %w", err)
			}
			sizePools(e.App)
			return nil
		})
	}))
	app.OnTerminate().Bind(handler("mamba.database.terminate", last, func(e *core.TerminateEvent) error {
		err := e.Next()
		c.database.close()
		return err
	}))
}

func sizePools(app core.App) {
	postgres.WritePool(app, postgresWriters)
	if readers, ok := app.ConcurrentDB().(*dbx.DB); ok {
		readers.DB().SetMaxOpenConns(postgresReaders)
		readers.DB().SetMaxIdleConns(postgresReaders)
	}
}
