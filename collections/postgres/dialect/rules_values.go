package dialect

import (
	"slices"
	"strconv"
	"strings"
)

// assigned says for each token whether it is in a place where a value goes straight into a column:
// in the rows of INSERT … VALUES and on the right side of UPDATE … SET, outside of a nested
// parenthesis and of CASE. There the column decides the type; everywhere else SQLite's comparison
// rules need to see whether a value is text or a number.
func (s *statement) assigned() []bool {
	out := make([]bool, len(s.tokens))
	from, most := -1, 0
	switch s.verb {
	case "insert":
		from, most = s.find(0, "values"), 1
		if from < 0 && s.find(0, "select", "with") < 0 {
			return out
		}
	case "update":
		from = s.find(0, "set")
	}
	if from < 0 {
		return out
	}
	depth, cases := 0, 0
	for i := from + 1; i < len(s.tokens); i++ {
		switch t := s.tokens[i]; {
		case t.op("("):
			depth++
		case t.op(")"):
			depth--
		case t.is("case"):
			cases++
		case t.is("end"):
			cases--
		case depth == 0 && t.isAny("where", "returning", "from", "on"):
			return out
		}
		out[i] = depth <= most && cases == 0
	}
	return out
}

// numberParams gives each ? its number in the whole text, and remembers which of them go straight
// into a column. PocketBase binds every value (dbx, "sqlite" builder: ?).
func numberParams(s *statement) {
	assigned := s.assigned()
	s.tokens = slices.Clone(s.tokens)
	for i, t := range s.tokens {
		if t.Kind != Param || t.Text[0] != '?' {
			continue
		}
		index := s.params
		if n, err := strconv.Atoi(t.Text[1:]); err == nil && n > 0 {
			index = n - 1
		} else {
			s.params++
		}
		mark := "$"
		if assigned[i] {
			mark += string(assignedMark)
		}
		s.tokens[i].Text = mark + strconv.Itoa(index)
	}
}

// quotedAliases turns 'x' into a name where a name must stand, as SQLite does: after AS, after FROM
// and JOIN, and right behind an expression. Users write that in the SQL of view collections
// (core/view.go:486 knows of it).
func quotedAliases(s *statement) {
	if !s.query() {
		return
	}
	for i, t := range s.tokens {
		if t.Kind != String {
			continue
		}
		before := s.at(s.prev(i))
		after := s.at(s.next(i))
		operand := before.op(")") || before.Kind == Quoted || before.Kind == String || before.Kind == Number ||
			before.Kind == Word && !isKeyword(before.Text) && !before.isAny("interval", "timestamp", "date", "time")
		ends := after.Kind == Space || after.op(",") || after.op(")") || after.isAny("from", "where", "left", "inner", "join", "on", "group", "order")
		if before.isAny("as", "from", "join") || operand && ends {
			s.tokens[i] = Token{Quoted, `"` + strings.ReplaceAll(t.literal(), `"`, `""`) + `"`}
		}
	}
}

// doubleQuotedStrings turns "x" into a literal where no name can stand: after DEFAULT
// (migrations/1640988000_init.go:40-52) and in the rows of INSERT … VALUES (tests/dynamic_stubs.go).
func doubleQuotedStrings(s *statement) {
	from := len(s.tokens)
	if s.verb == "insert" {
		if v := s.find(0, "values"); v >= 0 {
			from = v
		}
	}
	for i, t := range s.tokens {
		if t.Kind != Quoted || t.Text[0] != '"' {
			continue
		}
		if i > from || s.at(s.prev(i)).is("default") {
			s.tokens[i] = Token{String, quoteString(t.name())}
		}
	}
}

// typedLiterals says of each text literal in an expression that it is text, because PostgreSQL
// would read ” beside a number as a broken number, where SQLite compares text with a number
// (tools/search/filter.go:342-410).
func typedLiterals(s *statement) {
	if !s.query() && s.verb != "create index" {
		return
	}
	assigned := s.assigned()
	for i, t := range s.tokens {
		if t.Kind == Blob {
			s.tokens[i] = Token{raw, `'\x` + strings.Trim(t.Text[1:], "'") + "'::bytea"}
		}
		if t.Kind != String || assigned[i] || s.at(s.prev(i)).isAny("interval", "timestamp", "date", "time") {
			continue
		}
		s.tokens[i] = Token{raw, strings.ReplaceAll(t.Text, "\x00", "") + "::text"}
	}
}

// isText says whether a token is a literal that typedLiterals has written.
func (t Token) isText() bool {
	return t.Kind == raw && strings.HasPrefix(t.Text, "'") && strings.HasSuffix(t.Text, "'::text")
}
