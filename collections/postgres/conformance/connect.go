// Package conformance runs PocketBase's own test suites on PostgreSQL.
//
// It owns the list of cases that cannot hold (expected.txt, each with its reason) and the copying of
// PocketBase's fixtures. It refuses to change a test: the suites run as their module has them, only
// core.DefaultDBConnect is replaced by Connect, and in tools/search sql.Open by OpenMemory.
//
// Its one invariant: the run is green only if every suite ran to its end and exactly the listed cases
// failed.
//
// It is for tests only and is imported by no binary.
package conformance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
)

// CountVariable names a folder where each suite leaves one byte for each database that it made, in a
// file named after its test binary. A suite that made none has proved nothing.
const CountVariable = "MAMBA_CONFORMANCE_COUNT"

// place is the PostgreSQL database in the place of one data.db.
type place struct {
	database *postgres.Database
	drop     func() error
}

var places struct {
	sync.Mutex
	byPath    map[string]*place                 // guarded by the mutex
	templates map[string]*postgrestest.Template // of a data.db, by its size and time; guarded by the mutex
}

// Connect is core.DefaultDBConnect for the suites. The first call for a data.db makes a database for
// it: a copy of the file's content if there is such a file, else an empty one. Databases of data
// folders that are gone are dropped on the way. Other files are SQLite.
func Connect(path string) (*dbx.DB, error) {
	if filepath.Base(path) != "data.db" {
		return openSQLite(path)
	}
	p, err := placeOf(path)
	if err != nil {
		return nil, err
	}
	return p.database.Connect(path)
}

// empty is a database with the compatibility schema and nothing else.
var empty = postgrestest.Template{Prepare: func(url string) error {
	d, err := postgres.Open(context.Background(), postgres.Config{URL: url})
	if err == nil {
		d.Close()
	}
	return err
}}

// OpenMemory is sql.Open("sqlite", "file::memory:?cache=shared") for the suites: a database of its own,
// which is swept after the run.
func OpenMemory() (*sql.DB, error) {
	p, err := newPlace(&empty)
	if err != nil {
		return nil, err
	}
	db, err := p.database.Connect("data.db")
	if err != nil {
		return nil, err
	}
	return db.DB(), nil
}

// newPlace makes a database.
func newPlace(t *postgrestest.Template) (*place, error) {
	url, drop, err := postgrestest.Create(t)
	if err != nil {
		return nil, err
	}
	d, err := postgres.Open(context.Background(), postgres.Config{URL: url, Log: failures})
	if err != nil {
		return nil, err
	}
	d.Close() // the native pool; what Connect returns lives on
	return &place{d, drop}, count()
}

func count() error {
	dir := os.Getenv(CountVariable)
	if dir == "" {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(dir, filepath.Base(os.Args[0])), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(".")
	return errors.Join(err, f.Close())
}

func openSQLite(path string) (*dbx.DB, error) {
	return dbx.Open("sqlite", path+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=foreign_keys(ON)&_pragma=temp_store(MEMORY)&_pragma=synchronous(OFF)")
}

func placeOf(path string) (*place, error) {
	places.Lock()
	defer places.Unlock()
	if places.byPath == nil {
		places.byPath, places.templates = map[string]*place{}, map[string]*postgrestest.Template{}
	}
	if p := places.byPath[path]; p != nil {
		return p, nil
	}
	for dir, p := range places.byPath {
		if _, err := os.Stat(filepath.Dir(dir)); errors.Is(err, os.ErrNotExist) {
			if err := p.drop(); err != nil {
				return nil, err
			}
			delete(places.byPath, dir)
		}
	}
	t := templateOf(path)
	if t == nil {
		t = &empty
	}
	p, err := newPlace(t)
	if err != nil {
		return nil, err
	}
	places.byPath[path] = p
	return p, nil
}

// templateOf is the prepared copy of a data.db; nil if there is no such file. The copies that the
// suites make of their fixture are the same file to us when they have the same content.
func templateOf(path string) *postgrestest.Template {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	key := string(raw)
	if t := places.templates[key]; t != nil {
		return t
	}
	source := path
	t := &postgrestest.Template{Prepare: func(url string) error { return load(source, url) }}
	places.templates[key] = t
	return t
}

// object is a row of sqlite_master.
type object struct {
	Type, Name string
	SQL        sql.NullString
}

// load copies a SQLite database, structure and rows, into an empty PostgreSQL database.
func load(file, url string) (err error) {
	ctx := context.Background()
	from, err := openSQLite(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	d, err := postgres.Open(ctx, postgres.Config{URL: url})
	if err != nil {
		return err
	}
	defer d.Close()
	to, err := d.Connect("data.db")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	var objects []object
	if err := from.NewQuery("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite%' ORDER BY rowid").All(&objects); err != nil {
		return err
	}
	return to.Transactional(func(tx *dbx.Tx) error {
		for _, kind := range []string{"table", "index", "view"} {
			if err := makeAll(from, tx, kind, objects); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeAll makes the objects of a kind. What fails is tried again after the others: a view of SQLite
// may be older than the view that it reads.
func makeAll(from *dbx.DB, tx *dbx.Tx, kind string, objects []object) error {
	var left []object
	for _, o := range objects {
		if o.Type == kind && o.SQL.Valid {
			left = append(left, o)
		}
	}
	for len(left) > 0 {
		var again []object
		var last error
		for _, o := range left {
			if _, err := tx.NewQuery(bare(o.SQL.String)).Execute(); err != nil {
				again, last = append(again, o), fmt.Errorf("%s %s: %w", o.Type, o.Name, err)
				continue
			}
			if kind == "table" {
				if err := copyRows(from, tx, o.Name); err != nil {
					return fmt.Errorf("rows of %s: %w", o.Name, err)
				}
			}
		}
		if len(again) == len(left) {
			return last
		}
		left = again
	}
	return nil
}

// bare keeps dbx from reading [[…]] and {{…}} in a statement that is no template.
func bare(s string) string { return strings.NewReplacer("[[", "[ [", "{{", "{ {").Replace(s) }

func copyRows(from *dbx.DB, to *dbx.Tx, table string) error {
	rows, err := from.DB().Query(`SELECT rowid AS "_rowid_", * FROM "` + table + `" ORDER BY rowid`)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			return err
		}
		row := dbx.Params{}
		for i, c := range columns {
			row[c] = *values[i].(*any)
		}
		if _, err := to.Insert(table, row).Execute(); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	_, err = to.NewQuery(`SELECT setval(pg_get_serial_sequence({:table}, '_rowid_'), (SELECT COALESCE(max(_rowid_), 0) + 1 FROM {{` + table + `}}))`).
		Bind(dbx.Params{"table": `"` + table + `"`}).Execute()
	return err
}
