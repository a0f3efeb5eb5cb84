// Package postgres lets an unmodified PocketBase run on PostgreSQL: it is the database/sql driver
// that takes the SQL which PocketBase writes for SQLite and runs it there.
//
// It owns the connection to the server, the schema with SQLite's functions and comparison rules, the
// translation of statements (package dialect) and of errors, and the locks that several panels need.
// It refuses a server that cannot give the same answers as SQLite (version, encoding, collation), and
// never guesses at SQL: what it does not know fails loudly.
//
// Its one invariant: a statement that PocketBase sends has the rows, the order and the error text
// that SQLite would give, or is in the list of differences in docs/adr/0014-postgresql.md.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections/sqlite"
)

// Defaults of Config.
const (
	DefaultSchema = "mamba"
	// DefaultMaxConns is how many connections each of PocketBase's two pools and the native one may
	// open: three times 16 of a server's usual 100, so two panels fit beside a backup.
	DefaultMaxConns = 16
)

// Limits of talking to the server.
const (
	connectTimeout = 15 * time.Second
	installTimeout = 2 * time.Minute // the compatibility schema needs about 1 s; waiting for another panel's counts, too
	cancelDelay    = 100 * time.Millisecond
	cancelLimit    = 5 * time.Second
)

// Config says which database. It is validated by Open.
type Config struct {
	// URL of the database: postgres://user:password@host:port/name?sslmode=verify-full, or what
	// libpq calls a keyword/value string. Required.
	URL string
	// Schema holds PocketBase's tables; <Schema>_compat beside it the functions. Lower case letters,
	// digits and _, at most 40. Default "mamba".
	Schema string
	// MaxConns of each pool. Default DefaultMaxConns.
	MaxConns int
	// Log gets what an operator should know. Default: nothing is logged.
	Log *slog.Logger
}

var schemaPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)
})

// Database is a PostgreSQL database that is fit for PocketBase. All methods may be called at once.
type Database struct {
	config  Config
	conn    *pgconn.Config // immutable
	pool    *pgxpool.Pool
	dialect *cache
	value   uint32 // OID of the compatibility schema's type value; immutable after Open
}

// Open connects, checks the server, makes the schema and installs what SQLite has and PostgreSQL has
// not, if it is not there yet. The role needs CREATE on the database the first time and must not be
// a superuser's.
//
// What the server lacks comes back as *RefusedError, whose text says what to do.
func Open(ctx context.Context, c Config) (*Database, error) {
	if c.Schema == "" {
		c.Schema = DefaultSchema
	}
	if c.MaxConns == 0 {
		c.MaxConns = DefaultMaxConns
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if !schemaPattern().MatchString(c.Schema) || strings.HasPrefix(c.Schema, "pg_") {
		return nil, fmt.Errorf("postgres: %q is not the name of a schema; use lower case letters, digits and _, at most 40", c.Schema)
	}
	if c.MaxConns < 2 {
		return nil, fmt.Errorf("postgres: %d connections are not enough; allow at least 2", c.MaxConns)
	}
	d := &Database{config: c, dialect: newCache(cacheSize)}
	if err := d.configure(); err != nil {
		return nil, err
	}
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	return d, d.openPool(ctx)
}

// configure reads the URL and says what every connection of ours must have.
func (d *Database) configure() error {
	cfg, err := pgconn.ParseConfig(d.config.URL)
	if err != nil {
		return fmt.Errorf("postgres: the URL of the database: %w", withoutPassword(err))
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	for k, v := range d.session() {
		cfg.RuntimeParams[k] = v
	}
	// A request that is given up is cancelled on the server and its connection stays usable: a
	// browser that goes away must not cost a reconnect.
	cfg.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, CancelRequestDelay: cancelDelay, DeadlineDelay: cancelLimit}
	}
	d.conn = cfg
	return nil
}

// session are the settings that the translation relies on.
func (d *Database) session() map[string]string {
	return map[string]string{
		"search_path":                 d.config.Schema + "," + d.compat(),
		"standard_conforming_strings": "on",
		"timezone":                    "UTC",
		"datestyle":                   "ISO, YMD",
		"extra_float_digits":          "1",
		"client_encoding":             "UTF8",
		"application_name":            "mambahost",
	}
}

// compat is the schema of the functions.
func (d *Database) compat() string { return d.config.Schema + "_compat" }

func (d *Database) openPool(ctx context.Context) error {
	cfg, err := pgxpool.ParseConfig(d.config.URL)
	if err != nil {
		return fmt.Errorf("postgres: the URL of the database: %w", withoutPassword(err))
	}
	for k, v := range d.session() {
		cfg.ConnConfig.RuntimeParams[k] = v
	}
	cfg.MaxConns = int32(d.config.MaxConns)
	if d.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return fmt.Errorf("postgres: open the pool: %w", err)
	}
	return nil
}

// Pool is the native pool: samples, LISTEN/NOTIFY, leadership. Its connections see the same schema.
func (d *Database) Pool() *pgxpool.Pool { return d.pool }

// Close ends the native pool. What Connect returned belongs to PocketBase, which closes it.
func (d *Database) Close() { d.pool.Close() }

// Connect is PocketBase's DBConnect: data.db is the PostgreSQL database; auxiliary.db, PocketBase's
// log, stays a SQLite file on this machine.
func (d *Database) Connect(dbPath string) (*dbx.DB, error) {
	if strings.HasPrefix(filepath.Base(dbPath), "auxiliary") {
		return sqlite.Connect(dbPath)
	}
	db := sql.OpenDB(&connector{database: d})
	return dbx.NewFromDB(db, "sqlite"), nil // the builder goes on writing SQLite's dialect
}

// WritePool lets PocketBase write with several connections, which its one-connection pool for
// SQLite's single writer does not. Call it once after Bootstrap; on SQLite it does nothing.
func WritePool(app core.App, conns int) {
	if db, ok := app.NonconcurrentDB().(*dbx.DB); ok && IsPostgres(db) {
		db.DB().SetMaxOpenConns(conns)
		db.DB().SetMaxIdleConns(conns)
	}
}

// IsPostgres says whether a builder of PocketBase's (the database or a transaction of it) is on
// PostgreSQL.
func IsPostgres(db dbx.Builder) bool {
	switch b := db.(type) {
	case *dbx.DB:
		if b == nil || b.DB() == nil {
			return false
		}
		_, ours := b.DB().Driver().(pgDriver)
		return ours
	case *dbx.Tx:
		// dbx hides the *sql.DB of a transaction; the driver answers this statement itself.
		var yes string
		err := b.NewQuery(whoAreYou).Row(&yes)
		return err == nil && yes == iAmPostgres
	}
	return false
}

// withoutPassword keeps a URL, which pgconn quotes in its errors, out of logs.
func withoutPassword(err error) error {
	var p *pgconn.ParseConfigError
	if errors.As(err, &p) {
		if inner := errors.Unwrap(p); inner != nil {
			return inner
		}
	}
	return errors.New("it cannot be read; it must look like postgres://user:password@host:5432/name")
}
