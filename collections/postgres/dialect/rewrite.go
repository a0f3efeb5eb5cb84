package dialect

import (
	"hash/fnv"
	"strconv"
	"strings"
)

// nameLimit is the longest name in bytes that PostgreSQL keeps (NAMEDATALEN-1); it cuts longer ones
// without an error.
const nameLimit = 63

// Command is what the connection has to do with a part.
type Command uint8

// The commands.
const (
	Run     Command = iota // send SQL
	Nothing                // answer that it was done: a PRAGMA
	Vacuum                 // send SQL, which is refused inside a transaction
	Refuse                 // SQL is the sentence of the refusal
	Invalid                // SQLite refuses it, too; SQL is its sentence
)

// Arg is an argument of a part: the value for $1, $2 … in this order.
type Arg struct {
	Index int // of the value among those of the whole text
	// Assigned says that the value goes straight into a column, which then decides its type.
	Assigned bool
}

// Part is one statement for PostgreSQL.
type Part struct {
	Command Command
	SQL     string
	Args    []Arg
	Returns bool // it has rows: SELECT, VALUES, RETURNING
}

// statement is what the rules work on.
type statement struct {
	tokens
	verb   string   // "select", "insert", "update", "create table", "drop view" …, in lower case
	source tokens   // as it came
	extra  []string // statements to run after it
	params int      // values of the whole text used so far
}

// rule changes a statement. The name is for tests and for the reader.
type rule struct {
	name  string
	apply func(*statement)
}

// rules in their order: shapes first, then single tokens, because a shape is recognised by tokens
// that a later rule would change.
var rules = []rule{
	{"number parameters", numberParams},
	{"quoted aliases", quotedAliases},
	{"names of expressions", expressionNames},
	{"json templates", jsonTemplates},
	{"double quoted strings", doubleQuotedStrings},
	{"typed literals", typedLiterals},
	{"null-safe is", nullSafeIs},
	{"equality", doubleEquals},
	{"booleans", booleans},
	{"like", caseInsensitiveLike},
	{"several-argument min and max", leastGreatest},
	{"coalesce with text", textCoalesce},
	{"iif", caseForIif},
	{"casts", castTypes},
	{"functions", functionNames},
	{"alias of derived table", derivedTableAlias},
	{"join without condition", joinWithoutOn},
	{"bare columns of a group", bareGroupColumns},
	{"order", nullOrder},
	{"null order of an index", indexNulls},
	{"column types", columnTypes},
	{"rowid column", addRowID},
	{"source", keepSource},
	{"drop with dependents", dropAside},
	{"names", names},
}

// Rewrite translates a text of one or more SQLite statements. It never fails: what it does not know
// it passes on.
func Rewrite(sql string) []Part {
	var parts []Part
	params := 0
	for _, t := range split(Lex(sql)) {
		s := &statement{tokens: t, source: t, verb: verbOf(t), params: params}
		parts = append(parts, s.rewrite()...)
		params = s.params
	}
	return parts
}

func (s *statement) rewrite() []Part {
	switch {
	case s.verb == "pragma":
		return []Part{{Command: Nothing}}
	case s.verb == "vacuum" && s.has("into"):
		return []Part{{Command: Refuse, SQL: "VACUUM INTO: copying the database file is for SQLite; back a PostgreSQL database up with pg_dump or by its own archive"}}
	case s.verb == "vacuum":
		return []Part{{Command: Vacuum, SQL: "VACUUM"}}
	}
	if after, empty := s.emptySelect(); empty {
		return []Part{{Command: Invalid, SQL: after}}
	}
	for _, r := range rules {
		r.apply(s)
	}
	args, text := s.collectArgs()
	parts := []Part{{SQL: text, Args: args, Returns: s.returns()}}
	for _, e := range s.extra {
		parts = append(parts, Part{SQL: e})
	}
	return parts
}

// returns says whether the statement has rows.
func (s *statement) returns() bool {
	switch s.verb {
	case "select", "with", "values", "explain", "show":
		return true
	}
	return s.has("returning")
}

// split cuts at the semicolons; empty statements are left out.
func split(t tokens) []tokens {
	var out []tokens
	start := 0
	add := func(part tokens) {
		if part = part.trim(); len(part) > 0 {
			out = append(out, part)
		}
	}
	for i := range t {
		if t[i].op(";") {
			add(t[start:i])
			start = i + 1
		}
	}
	add(t[start:])
	return out
}

// verbOf names what a statement does: its first word, for DDL also the kind of object.
func verbOf(t tokens) string {
	v := t.visible()
	if len(v) == 0 {
		return ""
	}
	first := strings.ToLower(v[0].Text)
	switch first {
	case "replace":
		return "insert"
	case "(":
		return "select"
	case "create", "drop", "alter":
		for _, x := range v[1:] {
			if x.isAny("table", "index", "view", "trigger") {
				return first + " " + strings.ToLower(x.Text)
			}
			if !x.isAny("temp", "temporary", "unique") {
				break
			}
		}
	}
	return first
}

// keepsSource says whether PocketBase reads the text of the object back.
func (s *statement) keepsSource() bool { return s.verb == "create view" || s.verb == "create index" }

// query says whether expressions of the statement are evaluated row by row.
func (s *statement) query() bool {
	switch s.verb {
	case "select", "with", "values", "insert", "update", "delete", "create view", "explain":
		return true
	}
	return false
}

// assignedMark is put before the number of a parameter that goes straight into a column.
const assignedMark = '='

// collectArgs prints the statement, with its parameters numbered from 1 in the order of the text.
func (s *statement) collectArgs() ([]Arg, string) {
	var args []Arg
	var b strings.Builder
	number := map[string]int{}
	for _, t := range s.tokens {
		if t.Kind != Param || len(t.Text) < 2 || t.Text[0] != '$' {
			b.WriteString(t.Text)
			continue
		}
		n, seen := number[t.Text]
		if !seen {
			assigned := t.Text[1] == assignedMark
			index, err := strconv.Atoi(strings.TrimLeft(t.Text, "$="))
			if err != nil {
				b.WriteString(t.Text)
				continue
			}
			args = append(args, Arg{Index: index, Assigned: assigned})
			n = len(args)
			number[t.Text] = n
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
	}
	return args, b.String()
}

// quoteName quotes a name for PostgreSQL. One that is too long is cut and gets a hash of the whole,
// so that two long names with one beginning stay two.
func quoteName(name string) string { return `"` + strings.ReplaceAll(shortName(name), `"`, `""`) + `"` }

func shortName(name string) string {
	if len(name) > nameLimit {
		h := fnv.New64a()
		_, _ = h.Write([]byte(name))
		sum := strconv.FormatUint(h.Sum64(), 36)
		cut := nameLimit - 1 - len(sum)
		for cut > 0 && name[cut]&0xC0 == 0x80 {
			cut-- // not inside a rune
		}
		name = name[:cut] + "_" + sum
	}
	return name
}

// quoteString quotes a text for PostgreSQL with standard_conforming_strings.
func quoteString(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// literal is the text inside a String token.
func (t Token) literal() string {
	s := strings.TrimPrefix(t.Text, "'")
	s = strings.TrimSuffix(s, "'")
	return strings.ReplaceAll(s, "''", "'")
}
