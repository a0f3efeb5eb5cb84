package dbcopy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
)

// rowNumber is the column by which rows are read in the order of their making. Both databases have
// it under this name: SQLite built in, PostgreSQL as an identity column that collections/postgres adds.
const rowNumber = "_rowid_"

// The list of migrations has no id. When one ran is not compared: PocketBase runs the one of its log
// database again, and notes it here, wherever it opens a new log database.
const (
	migrationKey = "file"
	appliedAt    = "applied"
)

// batch is some rows of one table.
type batch struct {
	columns []string
	rows    [][]any
	last    int64 // row number of the last one
}

// readBatch reads the rows after a row number. Values are what the driver gives: string, int64,
// float64, bool, []byte, time.Time or nil.
func readBatch(ctx context.Context, app core.App, table string, after int64) (batch, error) {
	rows, err := app.ConcurrentDB().NewQuery("SELECT [[t." + rowNumber + "]] AS [[copy_row]], t.* FROM {{" + table + "}} t WHERE [[t." + rowNumber + "]] > {:after} ORDER BY [[t." + rowNumber + "]] LIMIT {:n}").
		Bind(dbx.Params{"after": after, "n": batchRows}).WithContext(ctx).Rows()
	if err != nil {
		return batch{}, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return batch{}, err
	}
	b := batch{columns: columns[1:], last: after}
	for rows.Next() {
		values, err := scan(rows, len(columns))
		if err != nil {
			return batch{}, err
		}
		n, ok := values[0].(int64)
		if !ok {
			return batch{}, fmt.Errorf("row number %v is no integer", values[0])
		}
		b.last, b.rows = n, append(b.rows, values[1:])
	}
	return b, rows.Err()
}

type scanner interface{ Scan(dest ...any) error }

func scan(rows scanner, n int) ([]any, error) {
	values, into := make([]any, n), make([]any, n)
	for i := range values {
		into[i] = &values[i]
	}
	return values, rows.Scan(into...)
}

// insert writes the rows with as few statements as the databases allow.
func (b batch) insert(tx core.App, table string) error {
	at := max(batchValues/max(len(b.columns), 1), 1)
	quoted := make([]string, len(b.columns))
	for i, c := range b.columns {
		quoted[i] = "[[" + c + "]]"
	}
	for rows := b.rows; len(rows) > 0; {
		part := rows[:min(at, len(rows))]
		rows = rows[len(part):]
		params, groups := dbx.Params{}, make([]string, 0, len(part))
		for _, row := range part {
			names := make([]string, len(row))
			for i, v := range row {
				name := "v" + strconv.Itoa(len(params))
				params[name], names[i] = v, "{:"+name+"}"
			}
			groups = append(groups, "("+strings.Join(names, ", ")+")")
		}
		_, err := tx.DB().NewQuery("INSERT INTO {{" + table + "}} (" + strings.Join(quoted, ", ") + ") VALUES " + strings.Join(groups, ", ")).Bind(params).Execute()
		if err != nil {
			return err
		}
	}
	return nil
}

// compare walks both tables in the order of their keys and returns how many rows are the same, or
// ErrDiffers with the first place where they are not.
func (c *copier) compare(ctx context.Context, table string) (int64, error) {
	key, jsonColumns := "id", c.jsonColumns(table)
	if table == core.DefaultMigrationsTable {
		key = migrationKey
	}
	var n int64
	for after := ""; ; {
		a, err := readByKey(ctx, c.from.App, table, key, after)
		if err != nil {
			return n, err
		}
		b, err := readByKey(ctx, c.to.App, table, key, after)
		if err != nil {
			return n, err
		}
		if err := sameRows(a, b, key, jsonColumns); err != nil {
			return n, err
		}
		n += int64(len(a))
		if len(a) < batchRows {
			return n, nil
		}
		after = a[len(a)-1][key]
	}
}

// jsonColumns are those whose numbers SQLite may write in another way: a column of type JSON has
// numeric affinity there, so 1.50 is kept as 1.5.
func (c *copier) jsonColumns(table string) map[string]bool {
	out := map[string]bool{}
	if col, err := c.from.App.FindCachedCollectionByNameOrId(table); err == nil {
		for _, f := range col.Fields {
			out[f.GetName()] = f.Type() == core.FieldTypeJSON
		}
	}
	return out
}

// readByKey returns rows by column name, each value in one notation for both databases.
func readByKey(ctx context.Context, app core.App, table, key, after string) ([]map[string]string, error) {
	rows, err := app.ConcurrentDB().NewQuery("SELECT * FROM {{" + table + "}} WHERE [[" + key + "]] > {:after} ORDER BY [[" + key + "]] LIMIT {:n}").
		Bind(dbx.Params{"after": after, "n": batchRows}).WithContext(ctx).Rows()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var out []map[string]string
	for rows.Next() {
		values, err := scan(rows, len(columns))
		if err != nil {
			return nil, err
		}
		row := make(map[string]string, len(columns))
		for i, c := range columns {
			row[c] = notation(values[i])
		}
		out = append(out, row)
	}
	return out, rows.Err()
}

// notation writes a value so that what both databases mean by it is equal: SQLite keeps a JSON 5 as
// an integer where PostgreSQL keeps its text, and has no type for a boolean.
func notation(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case bool:
		if v {
			return "1"
		}
		return "0"
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []byte:
		return string(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	case string:
		return v
	}
	return fmt.Sprint(v)
}

func sameRows(a, b []map[string]string, key string, jsonColumns map[string]bool) error {
	for i, row := range a {
		if i >= len(b) || b[i][key] != row[key] {
			return fmt.Errorf("%w: the row %q is not in the target", ErrDiffers, row[key])
		}
		for column, v := range row {
			if column == appliedAt && key == migrationKey {
				continue
			}
			got, ok := b[i][column]
			if !ok || got != v && !(jsonColumns[column] && sameNumber(got, v)) {
				return fmt.Errorf("%w: row %q, column %s", ErrDiffers, row[key], column)
			}
		}
		if len(b[i]) != len(row) {
			return fmt.Errorf("%w: row %q has other columns", ErrDiffers, row[key])
		}
	}
	if len(b) > len(a) {
		return fmt.Errorf("%w: the row %q is not in the source", ErrDiffers, b[len(a)][key])
	}
	return nil
}

func sameNumber(a, b string) bool {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return errX == nil && errY == nil && x == y
}

func secretDigest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}
