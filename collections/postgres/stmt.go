package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mambahost/mamba/collections/postgres/dialect"
)

// stmt is a text that the caller prepared. The server keeps it from its first use on this connection, and with it, from
// the sixth use on, a plan that holds for all values: to plan a join of five tables costs several times what it costs to run it
// (postgresql.org/docs/15/sql-prepare.html#SQL-PREPARE-NOTES). A plan whose tables change is made anew by the server.
type stmt struct {
	c     *conn
	query string
	name  string   // by which the server knows it; "" while it does not
	oids  []uint32 // of the values that the server was told of
	plain bool     // the server cannot keep it
}

var (
	_ driver.StmtQueryContext = (*stmt)(nil)
	_ driver.StmtExecContext  = (*stmt)(nil)
)

// What the server answers when a statement that it kept is of no use, with nothing run: its columns are others since a
// table was changed, or a pooler between us and the server gave us another session (errcodes-appendix.html).
const (
	featureNotSupported  = "0A000" // "cached plan must not change result type"
	invalidStatementName = "26000"
)

func (s *stmt) NumInput() int { return -1 }

func (s *stmt) Close() error {
	if s.name == "" || s.c.pg.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cancelLimit)
	defer cancel()
	return translate(s.c.pg.Deallocate(ctx, s.name))
}

func (s *stmt) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }
func (s *stmt) Query([]driver.Value) (driver.Rows, error)  { return nil, driver.ErrSkip }

func (s *stmt) ExecContext(ctx context.Context, a []driver.NamedValue) (driver.Result, error) {
	answer, err := s.run(ctx, a)
	if err != nil {
		return nil, err
	}
	return result(answer.affected), nil
}

func (s *stmt) QueryContext(ctx context.Context, a []driver.NamedValue) (driver.Rows, error) {
	answer, err := s.run(ctx, a)
	if err != nil {
		return nil, err
	}
	return answer.rows, nil
}

// run asks with the statement that the server keeps. In a transaction, for several statements in one text and for values
// of other types than those of the first time, it goes out with its values like any other.
func (s *stmt) run(ctx context.Context, args []driver.NamedValue) (*answer, error) {
	parts := s.c.dialect.rewrite(s.query)
	if s.plain || s.c.inTx || len(parts) != 1 || parts[0].Command != dialect.Run {
		return s.c.run(ctx, s.query, args)
	}
	values, oids, err := bind(parts[0], args)
	if err != nil {
		return nil, err
	}
	if s.name == "" {
		if err := s.keep(ctx, parts[0].SQL, oids); err != nil {
			return s.c.run(ctx, s.query, args) // an error that is the statement's own is told again
		}
	}
	if !slices.Equal(s.oids, oids) {
		return s.c.run(ctx, s.query, args)
	}
	b := &pgconn.Batch{}
	b.ExecPrepared(s.name, values, nil, nil)
	out, err := s.c.send(ctx, b)
	switch code(err) {
	case featureNotSupported:
		if err := s.Close(); err != nil {
			return nil, err
		}
		s.name = "" // the next use makes it anew
		return s.c.run(ctx, s.query, args)
	case invalidStatementName:
		s.name, s.plain = "", true
		return s.c.run(ctx, s.query, args)
	}
	if err != nil {
		return nil, s.c.failed(ctx, s.query, parts, err)
	}
	return out, nil
}

// keep tells the server the statement.
func (s *stmt) keep(ctx context.Context, sql string, oids []uint32) error {
	s.c.kept++
	name := "mamba_" + strconv.FormatUint(s.c.kept, 10)
	if _, err := s.c.pg.Prepare(ctx, name, sql, oids); err != nil {
		return err
	}
	s.name, s.oids = name, oids
	return nil
}

// code is the SQLSTATE of an answer of the server, or empty.
func code(err error) string {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return ""
	}
	return pg.Code
}
