package postgres

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed compat/*.sql
var compatFiles embed.FS

// Oldest PostgreSQL that is tested: gen_random_uuid and CREATE OR REPLACE AGGREGATE are in 13.
const oldestVersion = 130000

// compatSQL is the whole compatibility schema for a schema of this name, and its fingerprint.
func compatSQL(schema string) (script, version string, err error) {
	entries, err := compatFiles.ReadDir("compat")
	if err != nil {
		return "", "", err
	}
	var b strings.Builder
	for _, e := range entries { // sorted by name
		raw, err := compatFiles.ReadFile("compat/" + e.Name())
		if err != nil {
			return "", "", err
		}
		b.Write(raw)
	}
	script = strings.ReplaceAll(b.String(), "{{c}}", schema)
	sum := sha256.Sum256([]byte(script))
	return script, hex.EncodeToString(sum[:8]), nil
}

// prepare checks the server and installs the schema, one panel at a time.
func (d *Database) prepare(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	pg, err := pgconn.ConnectConfig(ctx, d.conn)
	if err != nil {
		return fmt.Errorf("postgres: connect: %w", withoutPasswordInConnect(err))
	}
	defer func() { err = errors.Join(err, pg.Close(context.WithoutCancel(ctx))) }()
	if err := d.check(ctx, pg); err != nil {
		return err
	}
	return withLock(ctx, pg, lockInstall, func() error { return d.install(ctx, pg) })
}

// withoutPasswordInConnect: pgconn's connect errors name host, user and database, never the password.
func withoutPasswordInConnect(err error) error { return err }

// check refuses what could not give SQLite's answers.
func (d *Database) check(ctx context.Context, pg *pgconn.PgConn) error {
	row, err := one(ctx, pg, `SELECT current_setting('server_version_num'), current_setting('server_version'), current_setting('server_encoding'),
		(SELECT datcollate FROM pg_database WHERE datname = current_database()), (SELECT datctype FROM pg_database WHERE datname = current_database()),
		(SELECT count(*) FROM pg_collation WHERE collprovider = 'i'), current_database()`)
	if err != nil {
		return fmt.Errorf("postgres: ask the server what it is: %w", err)
	}
	return refusal(server{version: row[0], name: row[1], encoding: row[2], collate: row[3], ctype: row[4], icu: row[5] != "0", database: row[6]})
}

// server is what was found.
type server struct {
	version, name, encoding, collate, ctype, database string
	icu                                               bool
}

func refusal(s server) error {
	recreate := fmt.Sprintf(`Make a new one: CREATE DATABASE %s TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'`, s.database)
	var number int
	_, _ = fmt.Sscan(s.version, &number)
	switch {
	case number < oldestVersion:
		return &RefusedError{"the server is PostgreSQL " + s.name, "Use PostgreSQL 13 or newer; 15 is what every change is tested with."}
	case !s.icu:
		return &RefusedError{"the server was built without ICU, which unique names that ignore case need", "Use a package with ICU, as those of Debian and of postgresql.org are."}
	case s.encoding != "UTF8":
		return &RefusedError{"the database " + s.database + " is encoded in " + s.encoding, recreate + "."}
	case !byteOrder(s.collate) || !byteOrder(s.ctype):
		return &RefusedError{fmt.Sprintf("the database %s sorts by the rules of %q (ctype %q), and SQLite by bytes", s.database, s.collate, s.ctype), recreate + "."}
	}
	return nil
}

// byteOrder says whether a locale compares bytes.
func byteOrder(locale string) bool {
	switch strings.ToUpper(locale) {
	case "C", "POSIX", "C.UTF-8", "C.UTF8":
		return true
	}
	return false
}

// install makes the schemas and, if they are of another version, the functions. Running it again
// changes nothing.
func (d *Database) install(ctx context.Context, pg *pgconn.PgConn) error {
	for _, schema := range []string{d.config.Schema, d.compat()} {
		if err := d.ownSchema(ctx, pg, schema); err != nil {
			return err
		}
	}
	script, version, err := compatSQL(d.compat())
	if err != nil {
		return err
	}
	have, err := one(ctx, pg, "SELECT COALESCE(obj_description('"+d.compat()+"'::regnamespace, 'pg_namespace'), '')")
	if err != nil {
		return fmt.Errorf("postgres: read the version of schema %s: %w", d.compat(), err)
	}
	if have[0] == version {
		return nil
	}
	d.config.Log.Info("installing the compatibility schema", "schema", d.compat(), "version", version)
	_, err = pg.Exec(ctx, "BEGIN;\n"+script+"\nCOMMENT ON SCHEMA "+d.compat()+" IS '"+version+"';\nCOMMIT").ReadAll()
	if err != nil {
		_, undo := pg.Exec(ctx, "ROLLBACK").ReadAll()
		return errors.Join(fmt.Errorf("postgres: install schema %s: %w", d.compat(), err), undo)
	}
	return nil
}

func (d *Database) ownSchema(ctx context.Context, pg *pgconn.PgConn, schema string) error {
	row, err := one(ctx, pg, "SELECT COALESCE(to_regnamespace('"+schema+"')::text, '')")
	if err != nil || row[0] != "" {
		return err
	}
	if _, err := pg.Exec(ctx, "CREATE SCHEMA "+schema).ReadAll(); err != nil {
		var e *pgconn.PgError
		if errors.As(err, &e) && e.Code == "42501" {
			return &RefusedError{"the role " + d.conn.User + " may not make schemas in the database " + d.conn.Database,
				fmt.Sprintf("Let it: GRANT CREATE ON DATABASE %s TO %s.", d.conn.Database, d.conn.User)}
		}
		return fmt.Errorf("postgres: make schema %s: %w", schema, err)
	}
	return nil
}

// one runs SQL and returns the texts of its only row.
func one(ctx context.Context, pg *pgconn.PgConn, sql string) ([]string, error) {
	results, err := pg.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return nil, errors.New("the server answered with no row")
	}
	var out []string
	for _, v := range results[0].Rows[0] {
		out = append(out, string(v))
	}
	return out, nil
}
