package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/mambahost/mamba/collections/postgres/dialect"
)

// The statement by which IsPostgres knows a transaction of ours. On SQLite it is an empty answer.
const (
	whoAreYou   = "SELECT 'mamba: who are you' WHERE FALSE"
	iAmPostgres = "postgresql"
)

// savepoint is the name of the implicit savepoint around each statement of a transaction.
const savepoint = "mamba_sp"

type pgDriver struct{}

func (pgDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("postgres: use Open and Connect")
}

type connector struct{ database *Database }

func (c *connector) Driver() driver.Driver { return pgDriver{} }

func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	pg, err := pgconn.ConnectConfig(ctx, c.database.conn)
	if err != nil {
		return nil, translate(err)
	}
	return &conn{pg: pg, dialect: c.database.dialect, log: c.database.config.Log, value: c.database.value}, nil
}

// conn is one connection. database/sql never uses it from two goroutines at once.
type conn struct {
	pg      *pgconn.PgConn
	dialect *cache
	log     *slog.Logger
	value   uint32 // OID of the type value
	inTx    bool
	kept    uint64 // how many statements the server was told to keep; their names
}

var (
	_ driver.QueryerContext     = (*conn)(nil)
	_ driver.ExecerContext      = (*conn)(nil)
	_ driver.ConnBeginTx        = (*conn)(nil)
	_ driver.ConnPrepareContext = (*conn)(nil)
	_ driver.SessionResetter    = (*conn)(nil)
	_ driver.Validator          = (*conn)(nil)
	_ driver.Pinger             = (*conn)(nil)
	_ driver.NamedValueChecker  = (*conn)(nil)
)

func (c *conn) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), cancelLimit)
	defer cancel()
	return c.pg.Close(ctx)
}

func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// PrepareContext says nothing to the server yet: which types the values have shows with the first of them.
func (c *conn) PrepareContext(_ context.Context, query string) (driver.Stmt, error) {
	return &stmt{c: c, query: query}, nil
}

func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *conn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	begin := "BEGIN"
	if o.ReadOnly {
		begin = "BEGIN READ ONLY"
	}
	if err := c.simple(ctx, begin); err != nil {
		return nil, err
	}
	c.inTx = true
	return &tx{c}, nil
}

func (c *conn) Ping(ctx context.Context) error { return c.simple(ctx, "") }

// IsValid tells database/sql whether to keep the connection.
func (c *conn) IsValid() bool { return !c.pg.IsClosed() }

func (c *conn) ResetSession(context.Context) error {
	if c.pg.IsClosed() || c.inTx || c.pg.TxStatus() != 'I' {
		return driver.ErrBadConn
	}
	return nil
}

// simple runs SQL without values or rows.
func (c *conn) simple(ctx context.Context, sql string) error {
	return translate(c.pg.Exec(ctx, sql).Close())
}

type tx struct{ c *conn }

// Commit fails if the server rolled back instead.
func (t *tx) Commit() error {
	t.c.inTx = false
	results, err := t.c.pg.Exec(context.Background(), "COMMIT").ReadAll()
	if err == nil && len(results) > 0 && results[0].CommandTag.String() == "ROLLBACK" {
		return errors.New("postgres: the transaction had failed and was rolled back")
	}
	return translate(err)
}

func (t *tx) Rollback() error {
	t.c.inTx = false
	if t.c.pg.IsClosed() {
		return driver.ErrBadConn
	}
	return t.c.simple(context.Background(), "ROLLBACK")
}

// CheckNamedValue turns a value into what SQLite would store: booleans are 1 and 0, bytes are text,
// and no text has a NUL, which PostgreSQL cannot hold.
func (c *conn) CheckNamedValue(nv *driver.NamedValue) error {
	v, err := driver.DefaultParameterConverter.ConvertValue(nv.Value)
	if err != nil {
		return err
	}
	switch x := v.(type) {
	case bool:
		v = int64(0)
		if x {
			v = int64(1)
		}
	case []byte:
		if v = nil; x != nil {
			v = string(x)
		}
	case time.Time:
		v = x.UTC().Format("2006-01-02 15:04:05.000Z") // core's DefaultDateLayout
	}
	if s, ok := v.(string); ok && (strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s)) {
		// PostgreSQL's text holds neither. A name with such a byte must not become another name, nor an error.
		v = strings.ReplaceAll(strings.ToValidUTF8(s, replacement), "\x00", replacement)
	}
	nv.Value = v
	return nil
}

// replacement stands for a byte that PostgreSQL's text cannot hold.
const replacement = "\uFFFD"

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	answer, err := c.run(ctx, query, args)
	if err != nil {
		return nil, err
	}
	return result(answer.affected), nil
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if query == whoAreYou {
		return &rows{columns: []string{"name"}, types: []string{"TEXT"}, data: [][]driver.Value{{iAmPostgres}}}, nil
	}
	answer, err := c.run(ctx, query, args)
	if err != nil {
		return nil, err
	}
	return answer.rows, nil
}

// result is the number of rows that a statement changed.
type result int64

func (r result) LastInsertId() (int64, error) { return 0, nil } // ids of records are texts
func (r result) RowsAffected() (int64, error) { return int64(r), nil }

// answer is what the last part of a text gave.
type answer struct {
	rows     *rows
	affected int64
}

// run translates the text and sends all its parts, with the savepoint around them when a transaction
// is open, in one round trip. A statement that fails costs a second one.
//
// The savepoint is there because SQLite keeps a transaction usable after a failed statement, and
// PocketBase goes on in it (core/collection_record_table_sync.go:351, core/db_retry.go:24).
func (c *conn) run(ctx context.Context, query string, args []driver.NamedValue) (*answer, error) {
	parts := c.dialect.rewrite(query)
	b := &pgconn.Batch{}
	sent := 0
	for _, p := range parts {
		switch p.Command {
		case dialect.Refuse:
			return nil, &unsupportedError{p.SQL}
		case dialect.Invalid:
			return nil, errors.New("SQL logic error: " + p.SQL + " (1)")
		case dialect.Nothing:
			continue
		case dialect.Vacuum:
			if c.inTx {
				return nil, errors.New("cannot VACUUM from within a transaction")
			}
		}
		if sent == 0 && c.inTx {
			b.ExecParams("SAVEPOINT "+savepoint, nil, nil, nil, nil)
		}
		values, oids, err := bind(p, args)
		if err != nil {
			return nil, err
		}
		b.ExecParams(p.SQL, values, oids, nil, nil)
		sent++
	}
	if sent == 0 {
		return &answer{rows: &rows{}}, nil
	}
	if c.inTx {
		b.ExecParams("RELEASE SAVEPOINT "+savepoint, nil, nil, nil, nil)
	}
	out, err := c.send(ctx, b)
	if err == nil {
		return out, nil
	}
	return nil, c.failed(ctx, query, parts, err)
}

// failed is what the caller hears of a statement that failed. The transaction goes on without it.
func (c *conn) failed(ctx context.Context, query string, parts []dialect.Part, err error) error {
	c.log.Debug("statement failed", "query", query, "sent", texts(parts), "error", err)
	if c.inTx && !c.pg.IsClosed() && c.pg.TxStatus() == 'E' {
		undo := c.pg.Exec(context.Background(), "ROLLBACK TO SAVEPOINT "+savepoint+"; RELEASE SAVEPOINT "+savepoint).Close()
		err = errors.Join(err, undo)
	}
	if given := ctx.Err(); given != nil {
		err = fmt.Errorf("%w: %w", given, err) // the server only says that it was asked to stop
	}
	if c.inTx && Retryable(err) {
		// PocketBase would try the statement again (core/db_retry.go:52) while the transaction holds
		// what the other one waits for. Only the whole transaction can be run again (collections.Tx).
		return err
	}
	return translate(err)
}

// texts are what was sent, for the log.
func texts(parts []dialect.Part) []string {
	var out []string
	for _, p := range parts {
		out = append(out, p.SQL)
	}
	return out
}

// send reads all results; the rows of the last one that has any are the answer. They are kept whole,
// because SQLite lets a connection run other statements while rows are read, and dbx does.
func (c *conn) send(ctx context.Context, b *pgconn.Batch) (*answer, error) {
	out := &answer{rows: &rows{}}
	results := c.pg.ExecBatch(ctx, b)
	for results.NextResult() {
		r := results.ResultReader()
		if len(r.FieldDescriptions()) > 0 {
			out.rows = readRows(r, c.value)
		}
		tag, err := r.Close()
		if err != nil {
			return nil, errors.Join(err, ignoreSame(results.Close(), err))
		}
		if n := tag.RowsAffected(); n > 0 && !tag.Select() {
			out.affected = n
		}
	}
	return out, results.Close()
}

// ignoreSame drops the second report of one error.
func ignoreSame(err, reported error) error {
	if err == nil || errors.Is(err, reported) || err.Error() == reported.Error() {
		return nil
	}
	return err
}

// bind makes the values of a part. A text in an expression goes as varchar and a floating number as
// numeric, by which the operators of the compatibility schema know a constant from a column; what is
// assigned to a column goes without a type and takes the column's.
func bind(p dialect.Part, args []driver.NamedValue) ([][]byte, []uint32, error) {
	values := make([][]byte, len(p.Args))
	oids := make([]uint32, len(p.Args))
	for i, a := range p.Args {
		if a.Index >= len(args) {
			return nil, nil, errors.New("postgres: the statement has more places than values")
		}
		switch v := args[a.Index].Value.(type) {
		case nil:
			if !a.Assigned {
				oids[i] = pgtype.VarcharOID
			}
		case int64:
			values[i], oids[i] = strconv.AppendInt(nil, v, 10), pgtype.Int8OID
		case float64:
			values[i] = sqliteReal(v)
			if oids[i] = pgtype.NumericOID; a.Assigned {
				oids[i] = 0
			}
		case string:
			values[i] = []byte(v)
			if !a.Assigned {
				oids[i] = pgtype.VarcharOID
			}
		default:
			return nil, nil, errors.New("postgres: a value of a kind that database/sql does not have")
		}
	}
	return values, oids, nil
}

// sqliteReal writes a number as SQLite's text of it: 5 is 5.0.
func sqliteReal(v float64) []byte {
	b := strconv.AppendFloat(nil, v, 'f', -1, 64)
	if !strings.ContainsAny(string(b), ".NI") {
		b = append(b, '.', '0')
	}
	return b
}
