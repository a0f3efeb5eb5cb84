package postgres

import (
	"database/sql/driver"
	"io"
	"reflect"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/mambahost/mamba/collections/postgres/dialect"
)

// rows is a whole result in memory. Lists of PocketBase are paged (1,000 at most) and its cursors
// read all rows anyway.
type rows struct {
	columns []string
	types   []string // SQLite's names
	data    [][]driver.Value
	next    int
}

func (r *rows) Columns() []string { return r.columns }
func (r *rows) Close() error      { return nil }

func (r *rows) Next(dest []driver.Value) error {
	if r.next >= len(r.data) {
		return io.EOF
	}
	copy(dest, r.data[r.next])
	r.next++
	return nil
}

// ColumnTypeDatabaseTypeName is the type as SQLite would name it.
func (r *rows) ColumnTypeDatabaseTypeName(i int) string { return r.types[i] }

// ColumnTypeNullable says of every column that it may be NULL, as SQLite's driver does.
func (r *rows) ColumnTypeNullable(int) (nullable, ok bool) { return true, true }

// ColumnTypeScanType is what a value of the column is.
func (r *rows) ColumnTypeScanType(i int) reflect.Type {
	switch r.types[i] {
	case "INTEGER", "BOOLEAN":
		return reflect.TypeFor[int64]()
	case "NUMERIC":
		return reflect.TypeFor[float64]()
	}
	return reflect.TypeFor[string]()
}

// readRows reads a result; columns that translation added are left out.
func readRows(r *pgconn.ResultReader, valueOID uint32) *rows {
	fields := r.FieldDescriptions()
	out := &rows{}
	var keep []int
	var oids []uint32
	for i, f := range fields {
		if len(fields) > 1 && dialect.HiddenColumn(f.Name) {
			continue
		}
		keep = append(keep, i)
		oids = append(oids, f.DataTypeOID)
		out.columns = append(out.columns, f.Name)
		name := ""
		if f.TableOID != 0 { // SQLite knows the type of a column only, not of an expression
			name = typeName(f.DataTypeOID)
		}
		out.types = append(out.types, name)
	}
	for r.NextRow() {
		values := r.Values()
		row := make([]driver.Value, len(keep))
		for to, from := range keep {
			if oids[to] == valueOID {
				row[to] = jsonValue(values[from])
				continue
			}
			row[to] = value(oids[to], values[from])
		}
		out.data = append(out.data, row)
	}
	return out
}

func typeName(oid uint32) string {
	switch oid {
	case pgtype.Int2OID:
		return "BOOLEAN"
	case pgtype.Int4OID, pgtype.Int8OID, pgtype.BoolOID:
		return "INTEGER"
	case pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID:
		return "NUMERIC"
	case pgtype.ByteaOID:
		return "BLOB"
	}
	return "TEXT"
}

// value is a value of the text protocol as SQLite's driver returns it.
func value(oid uint32, raw []byte) driver.Value {
	if raw == nil {
		return nil
	}
	s := string(raw)
	switch oid {
	case pgtype.TextOID, pgtype.VarcharOID:
		return s
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID:
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
	case pgtype.BoolOID:
		if s == "t" {
			return int64(1)
		}
		return int64(0)
	case pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID:
		return number(s)
	case pgtype.ByteaOID:
		return bytesOf(s)
	}
	return s
}

// jsonValue reads the compatibility schema's type value: (n,s), where n is NaN for a text.
func jsonValue(raw []byte) driver.Value {
	if raw == nil {
		return nil
	}
	n, _, _ := strings.Cut(strings.Trim(string(raw), "()"), ",")
	if n != "NaN" {
		return number(n)
	}
	s := strings.TrimPrefix(string(raw), "(NaN,")
	s = strings.TrimSuffix(s, ")")
	if inner, quoted := strings.CutPrefix(s, `"`); quoted {
		s = strings.NewReplacer(`""`, `"`, `\\`, `\`).Replace(strings.TrimSuffix(inner, `"`))
	}
	return s
}

// number is an integer if it is a whole one without a point, as SUM of integers is.
func number(s string) driver.Value {
	if !strings.ContainsAny(s, ".eEIN") {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return f
	}
	return s
}

// bytesOf reads \x00ff.
func bytesOf(s string) driver.Value {
	out := make([]byte, 0, len(s)/2)
	for i := 2; i+1 < len(s); i += 2 {
		b, err := strconv.ParseUint(s[i:i+2], 16, 8)
		if err != nil {
			return s
		}
		out = append(out, byte(b))
	}
	return out
}
