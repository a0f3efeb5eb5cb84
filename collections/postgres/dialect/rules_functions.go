package dialect

import (
	"slices"
	"strings"
)

// leastGreatest turns min and max of several values into LEAST and GREATEST
// (tools/search/token_functions.go:55). With one argument they stay aggregates.
func leastGreatest(s *statement) {
	for i, t := range s.tokens {
		open := s.next(i)
		if !t.isAny("min", "max") || !s.at(open).op("(") {
			continue
		}
		end := s.closing(open)
		if end < 0 || len(s.tokens[open+1:end].list()) < 2 {
			continue
		}
		s.tokens[i].Text = map[bool]string{true: "LEAST", false: "GREATEST"}[t.is("min")]
	}
}

// textCoalesce lets COALESCE(x, 'text') have an x of any type, as SQLite does
// (core/collection_record_table_sync.go:224,249). It is a text then; where two of them are compared
// (tools/search/filter.go:405) it stays what it is, because a number and a text are not equal.
func textCoalesce(s *statement) {
	for i := 0; i < len(s.tokens); i++ {
		open, end, args := s.call(i, "coalesce", "ifnull")
		if len(args) < 2 {
			continue
		}
		if last := args[len(args)-1].trim(); len(last) != 1 || !last[0].isText() {
			continue
		}
		function := "pb_to_text"
		if s.comparedWithCoalesce(i, end) {
			function = "pb_val"
		}
		var inside tokens
		for n, a := range args {
			if n > 0 {
				inside = append(inside, Token{Op, ","}, Token{Space, " "})
			}
			if n == len(args)-1 && function == "pb_to_text" {
				inside = append(inside, a.trim()...)
				continue
			}
			inside = slices.Concat(inside, tokens{{Word, function}, {Op, "("}}, a.trim(), tokens{{Op, ")"}})
		}
		s.tokens = slices.Concat(s.tokens[:open+1], inside, s.tokens[end:])
	}
}

// comparedWithCoalesce says whether the call from i to end is one side of COALESCE(…) = COALESCE(…).
func (s *statement) comparedWithCoalesce(i, end int) bool {
	if op := s.next(end); s.at(op).comparison() && s.at(s.next(op)).is("coalesce") {
		return true
	}
	op := s.prev(i)
	close := s.prev(op)
	if !s.at(op).comparison() || !s.at(close).op(")") {
		return false
	}
	return s.at(s.prev(s.opening(close))).is("coalesce")
}

// call is the call of one of the functions at i: its parentheses and what is between the commas.
func (s *statement) call(i int, functions ...string) (open, end int, args []tokens) {
	open = s.next(i)
	if !s.tokens[i].isAny(functions...) || !s.at(open).op("(") {
		return 0, 0, nil
	}
	if end = s.closing(open); end < 0 {
		return 0, 0, nil
	}
	return open, end, s.tokens[open+1 : end].list()
}

// caseForIif writes iif(c, a, b) as CASE, which evaluates one branch only and takes any types.
func caseForIif(s *statement) {
	for i := 0; i < len(s.tokens); i++ {
		_, end, args := s.call(i, "iif")
		if len(args) != 3 {
			continue
		}
		s.tokens = slices.Concat(s.tokens[:i], tokens{{Op, "("}, {Word, "CASE"}, {Space, " "}, {Word, "WHEN"}, {Space, " "}}, args[0].trim(),
			tokens{{Space, " "}, {Word, "THEN"}, {Space, " "}}, args[1].trim(), tokens{{Space, " "}, {Word, "ELSE"}, {Space, " "}}, args[2].trim(),
			tokens{{Space, " "}, {Word, "END"}, {Op, ")"}}, s.tokens[end+1:])
	}
}

// storage is the type that PostgreSQL keeps a value of a SQLite type in. Dates and JSON are text to
// PocketBase; booleans are 1 and 0; NUMERIC is what a number field declares
// (core/field_number.go:130, field_bool.go:100, field_json.go:117, field_text.go:207, field_date.go).
func storage(sqlite string) string {
	switch t := strings.ToUpper(sqlite); {
	case t == "BOOLEAN" || t == "BOOL":
		return "SMALLINT"
	case strings.Contains(t, "INT"):
		return "BIGINT"
	case t == "NUMERIC" || t == "DECIMAL" || t == "NUMBER" || strings.HasPrefix(t, "REAL") || strings.HasPrefix(t, "DOUBLE") || strings.HasPrefix(t, "FLOA"):
		return "DOUBLE PRECISION"
	case t == "JSON":
		return "json_text" // a domain over text, so that the catalog can say JSON
	case t == "BLOB":
		return "BYTEA"
	case strings.Contains(t, "CHAR") || strings.Contains(t, "CLOB") || t == "TEXT" || t == "DATETIME" || t == "DATE" || t == "STRING":
		return "TEXT"
	}
	return ""
}

// castTypes names PostgreSQL's type in CAST(x AS type) and lets the cast follow SQLite's rules:
// what is no number is 0 (users write casts in view collections, core/view.go:330).
func castTypes(s *statement) {
	for i := 0; i < len(s.tokens); i++ {
		open := s.next(i)
		if !s.tokens[i].is("cast") || !s.at(open).op("(") {
			continue
		}
		end := s.closing(open)
		as := s.find(open+1, "as")
		if end < 0 || as < 0 || as > end {
			continue
		}
		typ := s.tokens[as+1 : end].trim()
		if len(typ) == 0 {
			continue
		}
		function := map[string]string{"BIGINT": "pb_to_int", "SMALLINT": "pb_to_real", "DOUBLE PRECISION": "pb_to_real", "TEXT": "pb_to_text", "json_text": "pb_to_text"}[storage(typ[0].name())]
		if function == "" {
			continue
		}
		inner := append(tokens{}, s.tokens[open+1:as].trim()...)
		rest := append(tokens{{Op, ")"}}, s.tokens[end+1:]...)
		s.tokens = append(append(append(append(tokens{}, s.tokens[:i]...), Token{Word, function}, Token{Op, "("}), inner...), rest...)
	}
}

// functionNames gives functions that PostgreSQL knows under another name that name.
func functionNames(s *statement) {
	for i, t := range s.tokens {
		if t.Kind != Word || !s.at(s.next(i)).op("(") {
			continue
		}
		switch strings.ToLower(t.Text) {
		case "ifnull":
			s.tokens[i].Text = "COALESCE"
		case "char_length", "json_array", "json_object":
			// json_array and json_object are grammar from PostgreSQL 16 on: call ours by quoted name.
			s.tokens[i] = Token{raw, `"` + strings.ToLower(t.Text) + `"`}
		}
	}
}
