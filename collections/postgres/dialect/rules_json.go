package dialect

import "slices"

// The shapes of tools/dbutils/json.go. PostgreSQL cannot run them as written: iif is a function
// there, so both its branches are evaluated, and json_array and json_object are grammar since 16.
var (
	jsonEachShape = newPattern("json_each(CASE WHEN iif(json_valid($C), json_type($C)='array', FALSE) THEN $C ELSE json_array($C) END)")

	jsonLengthShape = newPattern("json_array_length(CASE WHEN iif(json_valid($C), json_type($C)='array', FALSE) THEN $C" +
		" ELSE (CASE WHEN $C = '' OR $C IS NULL THEN json_array() ELSE json_array($C) END) END)")

	jsonExtractShape = newPattern("(CASE WHEN json_valid($C) THEN JSON_EXTRACT($C, $S) ELSE JSON_EXTRACT(json_object('pb', $C), $S) END)")
)

// jsonTemplates replaces each shape by one function of the compatibility schema:
//   - JSONEach (tools/dbutils/json.go:14; core/view.go:260, record_model.go:1552,
//     record_query_expand.go:113, record_field_resolver_runner.go:574-800),
//   - JSONArrayLength (json.go:29; runner:764,769),
//   - JSONExtract (json.go:44; runner:481-485,838-840, tools/search/simple_field_resolver.go:119).
func jsonTemplates(s *statement) {
	out := make(tokens, 0, len(s.tokens))
	for i := 0; i < len(s.tokens); {
		if repl, end, ok := jsonShape(s.tokens, i); ok {
			out = append(out, repl...)
			i = end
			continue
		}
		out = append(out, s.tokens[i])
		i++
	}
	s.tokens = out
}

func jsonShape(t tokens, i int) (repl tokens, end int, ok bool) {
	if !t[i].op("(") && !t[i].isAny("json_each", "json_array_length") {
		return nil, 0, false
	}
	call := func(function string, column, rest tokens) tokens {
		return slices.Concat(tokens{{Word, function}, {Op, "("}}, column, rest, tokens{{Op, ")"}})
	}
	if c, _, end, ok := jsonEachShape.match(t, i); ok {
		return call("pb_json_each", c, nil), end, true
	}
	if c, _, end, ok := jsonLengthShape.match(t, i); ok {
		return call("pb_json_len", c, nil), end, true
	}
	if c, path, end, ok := jsonExtractShape.match(t, i); ok {
		return call("pb_json_get", c, tokens{{Op, ","}, {raw, path[0].Text}}), end, true
	}
	return nil, 0, false
}
