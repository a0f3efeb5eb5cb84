package dialect

import "strings"

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

// textCoalesce makes COALESCE(x, 'text') a text whatever the type of x is; SQLite returns either
// (tools/search/filter.go:405; core/collection_record_table_sync.go:224,249).
func textCoalesce(s *statement) {
	for i := 0; i < len(s.tokens); i++ {
		open := s.next(i)
		if !s.tokens[i].isAny("coalesce", "ifnull") || !s.at(open).op("(") {
			continue
		}
		end := s.closing(open)
		if end < 0 {
			continue
		}
		args := s.tokens[open+1 : end].list()
		last := args[len(args)-1].trim()
		if len(args) < 2 || len(last) != 1 || !last[0].isText() {
			continue
		}
		var call tokens
		for n, a := range args {
			if n == len(args)-1 {
				call = append(call, a...)
				break
			}
			call = append(append(append(call, Token{Op, "("}), a.trim()...), Token{Op, ")"}, Token{raw, "::text"}, Token{Op, ","})
		}
		s.tokens = append(append(append(tokens{}, s.tokens[:open+1]...), call...), s.tokens[end:]...)
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
	case t == "NUMERIC" || t == "DECIMAL" || t == "NUMBER" || strings.HasPrefix(t, "REAL") || strings.HasPrefix(t, "DOUB") || strings.HasPrefix(t, "FLOA"):
		return "DOUBLE PRECISION"
	case t == "BLOB":
		return "BYTEA"
	case strings.Contains(t, "CHAR") || strings.Contains(t, "CLOB") || t == "TEXT" || t == "JSON" || t == "DATETIME" || t == "DATE" || t == "STRING":
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
		function := map[string]string{"BIGINT": "pb_to_int", "SMALLINT": "pb_to_real", "DOUBLE PRECISION": "pb_to_real", "TEXT": "pb_to_text"}[storage(typ[0].name())]
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
