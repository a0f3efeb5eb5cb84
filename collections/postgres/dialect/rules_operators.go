package dialect

import "slices"

// nullSafeIs turns SQLite's a IS b between values into IS NOT DISTINCT FROM
// (tools/search/filter.go:342-410). IS NULL is left alone.
func nullSafeIs(s *statement) {
	out := make(tokens, 0, len(s.tokens))
	for i := 0; i < len(s.tokens); i++ {
		if !s.tokens[i].is("is") || !s.query() {
			out = append(out, s.tokens[i])
			continue
		}
		operator, last, right := "IS NOT DISTINCT FROM", i, s.next(i)
		if s.at(right).is("not") {
			operator, last, right = "IS DISTINCT FROM", right, s.next(right)
		}
		switch x := s.at(right); {
		case right < 0, x.isAny("null", "distinct", "unknown"):
			out = append(out, s.tokens[i])
		default:
			out = append(out, Token{raw, operator})
			if s.tokens[last+1].Kind != Space {
				out = append(out, Token{Space, " "})
			}
			i = last
		}
	}
	s.tokens = out
}

// doubleEquals turns == into = (core/collection_record_table_sync.go:231,256).
func doubleEquals(s *statement) {
	for i := range s.tokens {
		if s.tokens[i].op("==") {
			s.tokens[i].Text = "="
		}
	}
}

func (t Token) comparison() bool {
	if t.Kind == Op {
		return slices.Contains([]string{"=", "==", "!=", "<>", "<", ">", "<=", ">="}, t.Text)
	}
	return t.is("is") || t.Kind == raw && (t.Text == "IS DISTINCT FROM" || t.Text == "IS NOT DISTINCT FROM")
}

// booleans turns TRUE and FALSE into 1 and 0 where they are values: beside a comparison
// (TRUE = 1 of :isset, core/record_field_resolver_runner.go), after DEFAULT
// (core/field_bool.go:100), in a list of values. In a condition they stay (WHERE TRUE, ON TRUE).
func booleans(s *statement) {
	for i, t := range s.tokens {
		if !t.isAny("true", "false") || s.at(i-1).op(".") || s.at(i+1).op(".") {
			continue
		}
		before, after := s.at(s.prev(i)), s.at(s.next(i))
		value := before.comparison() || after.comparison() || before.isAny("default", "then", "else", "select") || before.op(",") ||
			after.op(",") || s.verb == "insert"
		if value {
			s.tokens[i] = Token{Number, map[bool]string{true: "1", false: "0"}[t.is("true")]}
		}
	}
}

// caseInsensitiveLike turns LIKE into ILIKE, and says that there is no escape character where none
// is named: SQLite has none by default, PostgreSQL the backslash (tools/search/filter.go:196-205).
func caseInsensitiveLike(s *statement) {
	if !s.query() && s.verb != "create index" {
		return
	}
	escapeAt := map[int]bool{}
	for i := range s.tokens {
		if !s.tokens[i].is("like") {
			continue
		}
		s.tokens[i].Text = "ILIKE"
		end := s.operandEnd(s.next(i))
		if end > 0 && !s.at(s.next(end-1)).is("escape") {
			escapeAt[end-1] = true
		}
	}
	if len(escapeAt) == 0 {
		return
	}
	s.insertAfter(escapeAt, Token{raw, " ESCAPE ''"})
}

// insertAfter puts a token behind each of the marked ones.
func (s *statement) insertAfter(marked map[int]bool, x Token) {
	out := make(tokens, 0, len(s.tokens)+len(marked))
	for i, t := range s.tokens {
		if out = append(out, t); marked[i] {
			out = append(out, x)
		}
	}
	s.tokens = out
}

// operandEnd is the index after the operand that begins at i: literals, columns, calls and
// parentheses joined by ||. 0 if there is none.
func (t tokens) operandEnd(i int) int {
	end := t.termEnd(i)
	for end > 0 {
		next := t.next(end - 1)
		if !t.at(next).op("||") {
			break
		}
		more := t.termEnd(t.next(next))
		if more == 0 {
			break
		}
		end = more
	}
	return end
}

// termEnd is the index after the column, literal, call or parenthesis that begins at i; 0 if none.
func (t tokens) termEnd(i int) int {
	switch {
	case i < 0:
		return 0
	case t[i].op("("):
		return t.closing(i) + 1
	case t[i].Kind == Op || t[i].Kind == Space:
		return 0
	}
	end := i + max(1, columnAt(t, i))
	if t.at(end).op("(") {
		return t.closing(end) + 1
	}
	return end
}
