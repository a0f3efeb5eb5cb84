package dialect

import (
	"slices"
	"strconv"
	"strings"
)

// derivedTableAlias names a subquery in FROM or JOIN that has no name, which PostgreSQL before 16
// demands (core/view.go:54,173; core/collection_query.go:286).
func derivedTableAlias(s *statement) {
	after := map[int]tokens{}
	for i, t := range s.tokens {
		open := s.next(i)
		inside := s.next(open)
		for s.at(inside).op("(") { // FROM ((SELECT …) UNION …)
			inside = s.next(inside)
		}
		if !t.isAny("from", "join") || !s.at(open).op("(") || !s.at(inside).isAny("select", "with", "values") {
			continue
		}
		end := s.closing(open)
		if end < 0 {
			continue
		}
		x := s.at(s.next(end))
		named := x.Kind == Quoted || x.is("as") || x.Kind == Word && !isKeyword(x.Text)
		if !named {
			after[end] = tokens{{raw, " AS _pbt" + strconv.Itoa(len(after)+1)}}
		}
	}
	s.insert(nil, after)
}

// emptySelect finds a SELECT without anything to select, which PostgreSQL runs: rows without columns,
// of which a result has none. PocketBase writes one when it finds no column in a user's SQL
// (core/collection_query.go:277), and shall get SQLite's error.
func (s *statement) emptySelect() (sentence string, ok bool) {
	if !s.query() {
		return "", false
	}
	for i, t := range s.tokens {
		if !t.is("select") || s.at(i-1).op(".") {
			continue
		}
		first := s.next(i)
		if s.at(first).isAny("distinct", "all") {
			first = s.next(first)
		}
		switch x := s.at(first); {
		case first < 0:
			return "incomplete input", true
		case x.op(")") || x.isAny("from", "where", "group", "having", "order", "limit", "union", "except", "intersect"):
			return `near "` + x.Text + `": syntax error`, true
		}
	}
	return "", false
}

// joinEnd are the words that end an item of a join.
var joinEnd = []string{"left", "right", "inner", "cross", "full", "natural", "join", "where", "group", "order", "limit", "having", "union", "except", "intersect", "returning", "window", "offset", "set"}

// joinWithoutOn adds ON TRUE to a join that has no condition, as those over json_each have none
// (core/record_field_resolver_runner.go:676,718; tools/search/multi_match_subquery.go:46).
func joinWithoutOn(s *statement) {
	after := map[int]tokens{}
	for i, t := range s.tokens {
		if !t.is("join") || s.at(s.prev(i)).isAny("cross", "natural") || s.at(s.prev(s.prev(i))).is("natural") {
			continue
		}
		last, depth, conditioned := i, 0, false
	item:
		for j := s.next(i); j >= 0; j = s.next(j) {
			switch x := s.tokens[j]; {
			case x.op("("):
				depth++
			case x.op(")"):
				if depth--; depth < 0 {
					break item
				}
			case depth == 0 && x.isAny("on", "using"):
				conditioned = true
				break item
			case depth == 0 && (x.op(",") || x.isAny(joinEnd...)):
				break item
			}
			last = j
		}
		if !conditioned && last > i {
			after[last] = tokens{{raw, " ON TRUE"}}
		}
	}
	s.insert(nil, after)
}

// clauses are the places of a SELECT's parts; -1 for what it does not have.
type clauses struct{ selects, distinct, from, where, group, order, limit int }

// top finds the parts of the statement's outermost SELECT. ok is false for a compound one.
func (s *statement) top() (c clauses, ok bool) {
	if s.verb != "select" || !s.at(s.next(-1)).is("select") || s.has("union", "except", "intersect") {
		return c, false
	}
	c = clauses{selects: s.next(-1), distinct: -1, from: s.find(0, "from"), where: s.find(0, "where"), group: s.find(0, "group"), limit: s.find(0, "limit", "offset")}
	if d := s.next(c.selects); s.at(d).is("distinct") {
		c.distinct = d
	}
	c.order = s.find(0, "order")
	if c.limit < 0 {
		c.limit = len(s.tokens)
	}
	return c, c.order >= 0 && c.order < c.limit && c.from >= 0
}

// sortKey is one item of ORDER BY.
type sortKey struct {
	expression tokens
	direction  string // "", " ASC" or " DESC"
}

func sortKeys(t tokens) []sortKey {
	var keys []sortKey
	for _, item := range t.list() {
		item = item.trim()
		k := sortKey{expression: item}
		if n := len(item); n > 0 && item[n-1].isAny("asc", "desc") {
			k.direction = " " + strings.ToUpper(item[n-1].Text)
			k.expression = item[:n-1].trim()
		}
		keys = append(keys, k)
	}
	return keys
}

// neverNull: the key is the column id or _rowid_, or the number of a column.
func (k sortKey) neverNull() bool {
	e := k.expression
	if n := columnAt(e, 0); n == 0 || n != len(e) {
		return len(e) == 1 && (e[0].Kind == Number)
	}
	name := strings.ToLower(e[len(e)-1].name())
	return name == "id" || name == "_rowid_" || name == "rowid"
}

func (k sortKey) nulls() tokens {
	where := " NULLS FIRST"
	if k.direction == " DESC" {
		where = " NULLS LAST"
	}
	return tokens{{raw, k.direction + where}}
}

// nullOrder sorts NULL as the smallest value, as SQLite does; indexNulls makes indexes that serve
// that. The columns id and _rowid_ of the only table are never NULL and are left alone, because the
// indexes of their constraints are in PostgreSQL's own order. It also makes SELECT DISTINCT t.* … ORDER BY something-else work (core/record_field_resolver.go:211), which
// PostgreSQL refuses: the rows are made distinct by id first and sorted then.
func nullOrder(s *statement) {
	c, ok := s.top()
	if !ok || s.tokens[c.order:c.limit].has("nulls") {
		return
	}
	by := s.next(c.order)
	keys := sortKeys(s.tokens[by+1 : c.limit])
	if main := s.distinctTable(c); main != nil && slices.ContainsFunc(keys, func(k sortKey) bool { return !k.of(main) }) {
		s.distinctByID(c, main, keys)
		return
	}
	joined := s.tokens[c.from:c.order].has("join")
	out := append(tokens{}, s.tokens[:by+1]...)
	out = append(out, Token{Space, " "})
	for i, k := range keys {
		if i > 0 {
			out = append(out, Token{Op, ","}, Token{Space, " "})
		}
		out = append(out, k.expression...)
		if !joined && k.neverNull() {
			out = append(out, Token{raw, k.direction})
		} else {
			out = append(out, k.nulls()...)
		}
	}
	if c.limit < len(s.tokens) {
		out = append(append(out, Token{Space, " "}), s.tokens[c.limit:]...)
	}
	s.tokens = out
}

// distinctTable is the name in SELECT DISTINCT name.*; nil for any other SELECT.
func (s *statement) distinctTable(c clauses) tokens {
	name := s.next(c.distinct)
	if c.distinct < 0 || columnAt(s.tokens, name) != 1 || !s.at(name+1).op(".") || !s.at(name+2).op("*") {
		return nil
	}
	return s.tokens[name : name+1]
}

// of says whether the key is a column of the table.
func (k sortKey) of(table tokens) bool {
	e := k.expression
	return len(e) == 3 && columnAt(e, 0) == 3 && e[0].name() == table[0].name()
}

// sortColumn begins the name of a sort key that the driver leaves out of the result.
const sortColumn = "_pbo"

// HiddenColumn says whether a column of a result is one that rewriting added.
func HiddenColumn(name string) bool { return name == "_rowid_" || strings.HasPrefix(name, sortColumn) }

// distinctByID writes SELECT * FROM (SELECT DISTINCT ON (t.id) t.*, key AS _pbo0 … ORDER BY t.id,
// _pbo0) ORDER BY _pbo0: of the rows with one id the one with the first keys is kept.
func (s *statement) distinctByID(c clauses, main tokens, keys []sortKey) {
	var columns, order tokens
	for i, k := range keys {
		alias := sortColumn + strconv.Itoa(i)
		columns = slices.Concat(columns, tokens{{Op, ","}, {Space, " "}, {Op, "("}}, k.expression, tokens{{Op, ")"}, {raw, " AS " + alias}})
		if i > 0 {
			order = append(order, Token{Op, ","})
		}
		order = append(append(order, Token{raw, " " + alias}), k.nulls()...)
	}
	id := slices.Concat(main, tokens{{raw, `."id"`}})
	s.tokens = slices.Concat(
		tokens{{raw, "SELECT * FROM "}, {Op, "("}, {raw, "SELECT DISTINCT ON "}, {Op, "("}}, id, tokens{{Op, ")"}, {Space, " "}},
		s.tokens[c.distinct+1:c.from].trim(), columns, tokens{{Space, " "}}, s.tokens[c.from:c.order].trim(),
		tokens{{raw, " ORDER BY "}}, id, tokens{{Op, ","}}, order,
		tokens{{Op, ")"}, {raw, " AS _pbq ORDER BY"}}, order, tokens{{Space, " "}}, s.tokens[c.limit:])
}

// aggregates are the functions of many rows, SQLite's and those of the compatibility schema.
var aggregates = wordSet("count sum total avg min max group_concat string_agg json_group_array json_group_object pb_any")

// bareGroupColumns lets a SELECT that groups list columns that are neither grouped nor aggregated:
// SQLite takes any row's, and so does the aggregate pb_any. Users write that in view collections
// (core/view_test.go:335,381,554).
func bareGroupColumns(s *statement) {
	for i := 0; i < len(s.tokens); i++ {
		if !s.tokens[i].is("select") || !s.query() {
			continue
		}
		first := i + 1
		if d := s.next(i); s.at(d).is("distinct") {
			first = d + 1
		}
		from := s.find(first, "from", "union", "except", "intersect")
		if from < 0 || !s.tokens[from].is("from") {
			continue
		}
		items := s.tokens[first:from].list()
		group := s.find(from, "group", "union", "except", "intersect")
		grouped := []tokens{}
		switch {
		case group >= 0 && s.tokens[group].is("group") && s.at(s.next(group)).is("by"):
			grouped = s.groupKeys(s.next(group) + 1)
		case !slices.ContainsFunc(items, tokens.aggregates):
			continue
		}
		var list tokens
		for n, item := range items {
			if n > 0 {
				list = append(list, Token{Op, ","})
			}
			list = append(list, item.anyOf(grouped)...)
		}
		s.tokens = slices.Concat(s.tokens[:first], list, s.tokens[from:])
	}
}

// groupKeys are the expressions after GROUP BY, which begin at from.
func (s *statement) groupKeys(from int) []tokens {
	end := s.find(from, "having", "order", "limit", "union", "except", "intersect", "window")
	if end < 0 {
		end = s.sectionEnd(from)
	}
	var keys []tokens
	for _, k := range s.tokens[from:end].list() {
		keys = append(keys, k.visible())
	}
	return keys
}

// same says whether two expressions are one: equal but for case and quotes; of two columns the table
// counts only if both name it.
func (t tokens) same(other tokens) bool {
	a, b := t.visible(), other.visible()
	if columnAt(a, 0) == len(a) && columnAt(b, 0) == len(b) && len(a) != len(b) {
		a, b = a[len(a)-1:], b[len(b)-1:]
	}
	return slices.EqualFunc(a, b, func(x, y Token) bool {
		if n := x.name(); n != "" {
			return strings.EqualFold(n, y.name())
		}
		return x == y
	})
}

// anyOf is an item of a select list, in pb_any if it is a bare expression.
func (t tokens) anyOf(grouped []tokens) tokens {
	expression, alias := t.trim().alias()
	isKey := func(k tokens) bool {
		return k.same(expression) || alias != "" && len(k) == 1 && strings.EqualFold(k[0].name(), alias)
	}
	if len(expression) == 0 || slices.ContainsFunc(grouped, isKey) || !expression.bare() {
		return t
	}
	if alias == "" {
		alias = expression[len(expression)-1].name()
	}
	return slices.Concat(tokens{{Space, " "}, {Word, "pb_any"}, {Op, "("}}, expression, tokens{{Op, ")"}, {raw, " AS " + quoteName(alias)}, {Space, " "}})
}

// aggregates says whether the expression has a function of many rows, outside of a window and of a
// subquery.
func (t tokens) aggregates() bool {
	found := false
	for i, x := range t {
		if x.isAny("over", "select") {
			return false
		}
		found = found || aggregates[strings.ToLower(x.Text)] && t.at(t.next(i)).op("(")
	}
	return found
}

// bare says whether the expression has a column and no aggregate.
func (t tokens) bare() bool {
	column := false
	for i, x := range t {
		switch call := t.at(t.next(i)).op("("); {
		case call && aggregates[strings.ToLower(x.Text)], x.op("*") && t.at(i-1).op("."), x.is("over"), x.is("select"):
			return false
		case !call && (x.Kind == Quoted || x.Kind == Word && !isKeyword(x.Text)):
			column = true
		}
	}
	return column
}

// alias splits an item of a select list into the expression and its name; "" if it has none.
func (t tokens) alias() (expression tokens, name string) {
	n := len(t)
	if n == 0 {
		return t, ""
	}
	last := t[n-1]
	p := t.prev(n - 1)
	switch before := t.at(p); {
	case last.name() == "" || isKeyword(last.Text) && !before.is("as"):
		return t, ""
	case before.is("as"):
		return t[:p].trim(), last.name()
	case p >= 0 && p < n-2 && (before.op(")") || before.Kind == Quoted || before.Kind == String || before.Kind == Number || before.Kind == raw || before.Kind == Word && (before.is("end") || !isKeyword(before.Text))):
		return t[:p+1], last.name()
	}
	return t, ""
}

// expressionNames names each expression of a SELECT after its own text, as SQLite does; PostgreSQL
// would say ?column? (the SQL console, apis/sql.go; view collections). Only where the names are seen:
// outermost, and in a subquery of FROM.
func expressionNames(s *statement) {
	if s.verb != "select" && s.verb != "create view" {
		return
	}
	for i := 0; i < len(s.tokens); i++ {
		if !s.tokens[i].is("select") || !s.named(i) {
			continue
		}
		first := i + 1
		if d := s.next(i); s.at(d).is("distinct") {
			first = d + 1
		}
		end := s.find(first, "from", "where", "union", "except", "intersect", "group", "order", "limit")
		if end < 0 {
			end = s.sectionEnd(first)
		}
		var list tokens
		for n, item := range s.tokens[first:end].list() {
			if n > 0 {
				list = append(list, Token{Op, ","})
			}
			list = append(list, item.withName()...)
		}
		s.tokens = slices.Concat(s.tokens[:first], list, s.tokens[end:])
	}
}

// sectionEnd is the parenthesis that closes around i, or the end.
func (t tokens) sectionEnd(i int) int {
	for depth := 0; i < len(t); i++ {
		if t[i].op("(") {
			depth++
		} else if t[i].op(")") {
			if depth--; depth < 0 {
				return i
			}
		}
	}
	return len(t)
}

// named says whether the names of the SELECT at i are seen.
func (s *statement) named(i int) bool {
	before := s.prev(i)
	if before < 0 || s.tokens[before].isAny("as", "all", "union") {
		return true
	}
	return s.tokens[before].op("(") && s.at(s.prev(before)).isAny("from", "join")
}

func (t tokens) withName() tokens {
	item := t.trim()
	expression, alias := item.alias()
	if alias != "" || len(expression) == 0 || columnAt(expression, 0) == len(expression) || expression[len(expression)-1].op("*") {
		return t
	}
	for _, x := range expression {
		if x.Kind == Param {
			return t
		}
	}
	return slices.Concat(tokens{{Space, " "}}, item, tokens{{Space, " "}, {Word, "AS"}, {Space, " "}, {Quoted, `"` + strings.ReplaceAll(Print(item), `"`, `""`) + `"`}, {Space, " "}})
}
