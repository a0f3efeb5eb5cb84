// Package dbcopy moves an installation's database from SQLite to PostgreSQL and back.
//
// It owns the order of a copy: schema, rows, proof. It refuses to write into a database that holds
// anything, and to copy from one that is written meanwhile.
//
// Its one invariant: Copy returns without an error exactly if every row of every table of the source
// is in the target with the same values, and nothing else is.
package dbcopy

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
)

// Bounds of one batch.
const (
	batchRows   = 500
	batchValues = 10_000 // placeholders of one statement: SQLite takes 32,766, PostgreSQL 65,535
)

// progressTable is in the target while a copy is under way, and only then.
const progressTable = "_mamba_copy"

// Errors of Copy.
var (
	// ErrNotEmpty is a target that holds an installation already.
	ErrNotEmpty = errors.New("the target is not empty; name a database that no panel has used")
	// ErrNotMigrated is a source whose schema is not the one of this release.
	ErrNotMigrated = errors.New("the source has not the schema of this release; start the panel on it once, stop it, and copy then")
	// ErrOtherCopy is a target that holds the beginning of a copy of something else.
	ErrOtherCopy = errors.New("the target holds part of a copy of another source; drop it and begin anew")
	// ErrDiffers is a target that does not equal its source after the copy.
	ErrDiffers = errors.New("the copy differs from its source")
)

// End is one side of a copy: an app whose database is open, and what to call it in messages.
type End struct {
	App  core.App
	Name string
}

// Summary of a finished copy.
type Summary struct {
	Tables  int
	Rows    int64 // in the target, each compared with its source
	Resumed bool  // an earlier run had begun it
}

// Copy copies every table of from into to, compares them row for row, and says with report how far it
// is. A run that was cut short is gone on with by the next one with the same ends. The source is
// locked against writes meanwhile: a panel that runs on it cannot write until Copy returns.
func Copy(ctx context.Context, from, to End, report func(string)) (Summary, error) {
	c := &copier{from: from, to: to, report: report}
	if err := c.migrated(); err != nil {
		return Summary{}, err
	}
	release, err := lockSource(ctx, from.App)
	if err != nil {
		return Summary{}, fmt.Errorf("lock %s against writes: %w", from.Name, err)
	}
	defer release()
	if err := c.begin(); err != nil {
		return Summary{}, err
	}
	if c.tables, err = tablesOf(from.App); err != nil {
		return Summary{}, err
	}
	for _, t := range c.tables {
		if err := c.copyTable(ctx, t); err != nil {
			return Summary{}, fmt.Errorf("copy %s: %w", t, err)
		}
	}
	sum := Summary{Tables: len(c.tables), Resumed: c.resumed}
	for _, t := range c.tables {
		n, err := c.compare(ctx, t)
		if err != nil {
			return Summary{}, fmt.Errorf("compare %s: %w", t, err)
		}
		sum.Rows += n
		report(fmt.Sprintf("%-24s %8d rows are the same", t, n))
	}
	if _, err := to.App.NonconcurrentDB().NewQuery("DROP TABLE {{" + progressTable + "}}").Execute(); err != nil {
		return Summary{}, fmt.Errorf("remove the marks of the copy: %w", err)
	}
	return sum, nil
}

type copier struct {
	from, to End
	report   func(string)
	tables   []string
	resumed  bool
}

// migrated refuses a source that lacks a migration of this release, or has one that it does not know.
func (c *copier) migrated() error {
	var ran []string
	if err := c.from.App.DB().Select("file").From(core.DefaultMigrationsTable).Column(&ran); err != nil {
		return fmt.Errorf("read the migrations of %s: %w", c.from.Name, err)
	}
	for _, list := range []core.MigrationsList{core.SystemMigrations, core.AppMigrations} {
		for _, m := range list.Items() {
			i := slices.Index(ran, m.File)
			if i < 0 {
				return fmt.Errorf("%s: %w (%s)", c.from.Name, ErrNotMigrated, m.File)
			}
			ran = slices.Delete(ran, i, i+1)
		}
	}
	if len(ran) > 0 {
		return fmt.Errorf("%s: %w (it is newer: %s)", c.from.Name, ErrNotMigrated, ran[0])
	}
	return nil
}

// begin makes the target's schema, or finds the one that an earlier run made.
func (c *copier) begin() error {
	mark, err := fingerprint(c.from.App)
	if err != nil {
		return err
	}
	if c.to.App.HasTable(progressTable) {
		var was string
		err := c.to.App.DB().Select("last").From(progressTable).Where(dbx.HashExp{"tbl": ""}).Row(&was)
		if err != nil {
			return fmt.Errorf("read how far the copy is: %w", err)
		}
		if was != mark {
			return fmt.Errorf("%s: %w", c.to.Name, ErrOtherCopy)
		}
		c.resumed = true
		return nil
	}
	if err := empty(c.to); err != nil {
		return err
	}
	return c.makeSchema(mark)
}

// empty is a database with what PocketBase itself puts into a new one, and nothing more.
func empty(e End) error {
	all, err := e.App.FindAllCollections()
	if err != nil {
		return fmt.Errorf("look into %s: %w", e.Name, err)
	}
	for _, col := range all {
		if !col.System && col.Name != "users" {
			return fmt.Errorf("%s has the collection %s: %w", e.Name, col.Name, ErrNotEmpty)
		}
		if col.IsView() {
			continue
		}
		n, err := e.App.CountRecords(col)
		if err != nil {
			return fmt.Errorf("look into %s: %w", e.Name, err)
		}
		if n > 0 {
			return fmt.Errorf("%s has %d rows in %s: %w", e.Name, n, col.Name, ErrNotEmpty)
		}
	}
	return nil
}

// makeSchema makes tables and indexes as the source's collections describe them, together with the
// mark that the copy has begun: a run that is cut short leaves either nothing or both.
func (c *copier) makeSchema(mark string) error {
	source, err := c.from.App.FindAllCollections()
	if err != nil {
		return fmt.Errorf("read the collections of %s: %w", c.from.Name, err)
	}
	raw, err := json.Marshal(source)
	if err != nil {
		return err
	}
	var list []map[string]any
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	return c.to.App.RunInTransaction(func(tx core.App) error {
		if err := tx.ImportCollections(list, true); err != nil {
			return fmt.Errorf("make the schema of %s: %w", c.to.Name, err)
		}
		_, err := tx.DB().CreateTable(progressTable, map[string]string{"tbl": "TEXT PRIMARY KEY", "last": "TEXT DEFAULT '' NOT NULL", "done": "BOOLEAN DEFAULT FALSE NOT NULL"}).Execute()
		if err != nil {
			return err
		}
		_, err = tx.DB().Insert(progressTable, dbx.Params{"tbl": "", "last": mark, "done": true}).Execute()
		return err
	})
}

// fingerprint tells one source from another: the keys of its superusers' and users' tokens are random.
func fingerprint(app core.App) (string, error) {
	cols, err := app.FindAllCollections(core.CollectionTypeAuth)
	if err != nil {
		return "", err
	}
	parts := make([]string, 0, len(cols))
	for _, col := range cols {
		parts = append(parts, col.Id+":"+secretDigest(col.AuthToken.Secret))
	}
	slices.Sort(parts)
	return strings.Join(parts, " "), nil
}

// tablesOf lists the tables that a copy is about: PocketBase's own and one per collection. Views have
// no rows of their own.
func tablesOf(app core.App) ([]string, error) {
	all, err := app.FindAllCollections()
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	out := []string{core.DefaultMigrationsTable, "_collections", "_params"}
	for _, col := range all {
		if !col.IsView() {
			out = append(out, col.Name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// copyTable moves rows in the order in which they were made, a batch and its mark per transaction.
func (c *copier) copyTable(ctx context.Context, table string) error {
	last, done, err := c.position(table)
	if err != nil || done {
		return err
	}
	var rows int64
	for {
		b, err := readBatch(ctx, c.from.App, table, last)
		if err != nil {
			return err
		}
		full := len(b.rows) == batchRows
		err = c.to.App.RunInTransaction(func(tx core.App) error {
			if last == 0 { // what PocketBase puts into a new database
				if _, err := tx.DB().Delete(table, nil).Execute(); err != nil {
					return err
				}
			}
			if err := b.insert(tx, table); err != nil {
				return err
			}
			return mark(tx, table, b.last, !full)
		})
		if err != nil {
			return err
		}
		rows += int64(len(b.rows))
		if !full {
			c.report(fmt.Sprintf("%-24s %8d rows copied", table, rows))
			return nil
		}
		last = b.last
	}
}

// position is where the copy of a table stands: the source's row number of the last row, 0 at first.
func (c *copier) position(table string) (last int64, done bool, err error) {
	var row struct {
		Last int64 `db:"last"`
		Done bool  `db:"done"`
	}
	err = c.to.App.DB().Select("last", "done").From(progressTable).Where(dbx.HashExp{"tbl": table}).One(&row)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return row.Last, row.Done, err
}

func mark(tx core.App, table string, last int64, done bool) error {
	if _, err := tx.DB().Delete(progressTable, dbx.HashExp{"tbl": table}).Execute(); err != nil {
		return err
	}
	_, err := tx.DB().Insert(progressTable, dbx.Params{"tbl": table, "last": fmt.Sprint(last), "done": done}).Execute()
	return err
}
