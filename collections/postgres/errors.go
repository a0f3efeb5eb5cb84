package postgres

import (
	"errors"
	"regexp"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// RefusedError says why a server or database cannot be used, and what to do about it.
type RefusedError struct {
	Reason string // what was found
	Remedy string // what to do, a whole sentence
}

func (e *RefusedError) Error() string { return "postgres: " + e.Reason + ". " + e.Remedy }

// unsupportedError is what SQLite can do and this driver does not.
type unsupportedError struct{ sentence string }

func (e *unsupportedError) Error() string { return "not supported on PostgreSQL: " + e.sentence }

// translatedError has SQLite's words, because PocketBase decides by them
// (core/validators/db.go:57, core/db_retry.go:52), and keeps the server's error for errors.As.
type translatedError struct {
	text string
	err  error
}

func (e *translatedError) Error() string { return e.text }
func (e *translatedError) Unwrap() error { return e.err }

// SQLSTATEs that are translated: postgresql.org/docs/15/errcodes-appendix.html.
const (
	uniqueViolation      = "23505"
	notNullViolation     = "23502"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	lockNotAvailable     = "55P03"
	undefinedTable       = "42P01"
	undefinedColumn      = "42703"
	duplicateTable       = "42P07"
	dependentObjects     = "2BP01"
	syntaxError          = "42601"
)

// keyColumns finds the columns in DETAIL: Key (tenant, lower(name))=(…) already exists.
var keyColumns = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?s)^Key \((.*?)\)=\(`)
})

var collateClause = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)\s+collate\s+\S+`)
})

// translate gives an error of the server SQLite's words. Any other error comes back as it is.
func translate(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case uniqueViolation:
		return &translatedError{"constraint failed: UNIQUE constraint failed: " + violated(pg) + " (2067)", err}
	case notNullViolation:
		return &translatedError{"constraint failed: NOT NULL constraint failed: " + pg.TableName + "." + pg.ColumnName + " (1299)", err}
	case serializationFailure, deadlockDetected, lockNotAvailable:
		return &translatedError{"database is locked (" + pg.Code + ": " + pg.Message + ")", err}
	case undefinedTable:
		return &translatedError{"SQL logic error: no such table: " + quotedWord(pg.Message) + " (1)", err}
	case undefinedColumn:
		return &translatedError{"SQL logic error: no such column: " + quotedWord(pg.Message) + " (1)", err}
	case dependentObjects:
		return &translatedError{"SQL logic error: error in view after drop: " + pg.Detail + " (1)", err}
	case syntaxError:
		return &translatedError{"SQL logic error: " + syntaxWords(pg.Message) + " (1)", err}
	case duplicateTable:
		return &translatedError{"SQL logic error: table " + quotedWord(pg.Message) + " already exists (1)", err}
	}
	return err
}

// violated lists table.column for each column of the index, or names the index.
func violated(pg *pgconn.PgError) string {
	m := keyColumns().FindStringSubmatch(pg.Detail)
	if m == nil {
		return "index '" + pg.ConstraintName + "'"
	}
	var columns []string
	for c := range strings.SplitSeq(m[1], ",") {
		c = strings.Trim(collateClause().ReplaceAllString(strings.TrimSpace(c), ""), `"()`)
		c = strings.TrimSuffix(c, "::text")
		columns = append(columns, pg.TableName+"."+strings.Trim(c, `"()`))
	}
	return strings.Join(columns, ", ")
}

// syntaxWords says where a statement is wrong, in SQLite's words if the server says no more than that.
func syntaxWords(message string) string {
	if message == "syntax error at end of input" {
		return "incomplete input"
	}
	if near, ok := strings.CutPrefix(message, "syntax error at or near "); ok {
		return "near " + near + ": syntax error"
	}
	return message
}

// quotedWord is the name in relation "x" does not exist, or in column x.y does not exist.
func quotedWord(message string) string {
	if _, rest, ok := strings.Cut(message, `"`); ok {
		if word, _, ok := strings.Cut(rest, `"`); ok {
			return word
		}
	}
	message = strings.TrimPrefix(message, "column ")
	word, _, _ := strings.Cut(message, " ")
	return word
}
