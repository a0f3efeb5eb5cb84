package postgres

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestRefusals(t *testing.T) {
	t.Parallel()
	good := server{version: "150020", name: "15.20", encoding: "UTF8", collate: "C", ctype: "C.UTF-8", icu: true, database: "panel"}
	if err := refusal(good); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		name           string
		change         func(*server)
		reason, remedy string
	}{
		{"an old server", func(s *server) { s.version, s.name = "120017", "12.17" }, "PostgreSQL 12.17", "Use PostgreSQL 13 or newer"},
		{"no ICU", func(s *server) { s.icu = false }, "without ICU", "a package with ICU"},
		{"another encoding", func(s *server) { s.encoding = "SQL_ASCII" }, "encoded in SQL_ASCII", "CREATE DATABASE panel TEMPLATE template0 ENCODING 'UTF8'"},
		{"a language's order", func(s *server) { s.collate = "en_US.UTF-8" }, `"en_US.UTF-8"`, "LC_COLLATE 'C'"},
		{"a language's letters", func(s *server) { s.ctype = "de_DE.UTF-8" }, `"de_DE.UTF-8"`, "LC_CTYPE 'C'"},
	} {
		s := good
		c.change(&s)
		var refused *RefusedError
		if err := refusal(s); !errors.As(err, &refused) || !strings.Contains(refused.Reason, c.reason) || !strings.Contains(refused.Remedy, c.remedy) || !strings.HasSuffix(refused.Error(), ".") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestTranslate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from pgconn.PgError
		want string
	}{
		{pgconn.PgError{Code: "23505", TableName: "t", Detail: "Key (a, b)=(1, 2) already exists."}, "UNIQUE constraint failed: t.a, t.b (2067)"},
		{pgconn.PgError{Code: "23505", TableName: "t", Detail: `Key ("aB", name COLLATE mamba_compat.nocase)=(x, y) already exists.`}, "UNIQUE constraint failed: t.aB, t.name (2067)"},
		{pgconn.PgError{Code: "23505", TableName: "t", ConstraintName: "i"}, "UNIQUE constraint failed: index 'i'"},
		{pgconn.PgError{Code: "40P01", Message: "deadlock detected"}, "database is locked (40P01: deadlock detected)"},
		{pgconn.PgError{Code: "42P01", Message: `relation "x" does not exist`}, "no such table: x"},
		{pgconn.PgError{Code: "42703", Message: `column t.y does not exist`}, "no such column: t.y"},
		{pgconn.PgError{Code: "22P02", Message: "other"}, "other"},
	} {
		err := translate(fmt.Errorf("outer: %w", &c.from))
		var pg *pgconn.PgError
		if !strings.Contains(err.Error(), c.want) || !errors.As(err, &pg) {
			t.Errorf("%+v became %v", c.from, err)
		}
	}
	if plain := errors.New("plain"); !errors.Is(translate(plain), plain) || translate(nil) != nil {
		t.Error("an error of another kind is changed")
	}
}

func TestRetryable(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{"40001": true, "40P01": true, "55P03": false, "23505": false} {
		if got := Retryable(translate(&pgconn.PgError{Code: code})); got != want {
			t.Errorf("%s: %v", code, got)
		}
	}
	if Retryable(nil) || Retryable(errors.New("x")) {
		t.Error("not of the server")
	}
}

func TestTheCacheKeepsWhatWasUsedLast(t *testing.T) {
	t.Parallel()
	c := newCache(2)
	first := c.rewrite("SELECT a FROM t")
	c.rewrite("SELECT b FROM t")
	if again := c.rewrite("SELECT a FROM t"); &again[0] != &first[0] {
		t.Error("it was translated again")
	}
	c.rewrite("SELECT c FROM t") // pushes b out
	if _, ok := c.byKey["SELECT b FROM t"]; ok || c.used.Len() != 2 || len(c.byKey) != 2 {
		t.Errorf("%d of %d", c.used.Len(), len(c.byKey))
	}
	c.rewrite("SELECT '" + strings.Repeat("x", maxCached) + "'")
	if c.used.Len() != 2 || c.byKey["SELECT a FROM t"] == nil {
		t.Error("a long text is kept")
	}
}

func TestValuesOfTheTextProtocol(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw  string
		want any
	}{
		{"(5,\"\")", int64(5)}, {"(1.5,\"\")", 1.5}, {"(NaN,plain)", "plain"}, {`(NaN,"a ""b"", c\\d)")`, `a "b", c\d)`}, {`(NaN,"")`, ""}, {"(NaN,x)", "x"},
	} {
		if got := jsonValue([]byte(c.raw)); got != c.want {
			t.Errorf("%s is %#v, want %#v", c.raw, got, c.want)
		}
	}
	if got := string(sqliteReal(5)); got != "5.0" {
		t.Error(got)
	}
	if got := string(sqliteReal(1e21)); got != "1000000000000000000000.0" {
		t.Error(got)
	}
	if b, ok := bytesOf(`\x00ff`).([]byte); !ok || len(b) != 2 || b[1] != 255 {
		t.Error(b)
	}
}
