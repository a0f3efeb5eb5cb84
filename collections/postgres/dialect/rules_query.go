package dialect

import (
	"slices"
	"strconv"
	"strings"
)

// derivedTableAlias names a subquery in FROM or JOIN that has no name, which PostgreSQL before 16
// demands (core/view.go:54,173; core/collection_query.go:286).
func derivedTableAlias(s *statement) {
	after := map[int]bool{}
	for i, t := range s.tokens {
		open := s.next(i)
		if !t.isAny("from", "join") || !s.at(open).op("(") || !s.at(s.next(open)).isAny("select", "with", "values") {
			continue
		}
		end := s.closing(open)
		if end < 0 {
			continue
		}
		x := s.at(s.next(end))
		named := x.Kind == Quoted || x.is("as") || x.Kind == Word && !isKeyword(x.Text)
		if !named {
			after[end] = true
		}
	}
	if len(after) == 0 {
		return
	}
	n := 0
	out := make(tokens, 0, len(s.tokens)+len(after))
	for i, t := range s.tokens {
		if out = append(out, t); after[i] {
			n++
			out = append(out, Token{raw, " AS _pbt" + strconv.Itoa(n)})
		}
	}
	s.tokens = out
}

// joinEnd are the words that end an item of a join.
var joinEnd = []string{"left", "right", "inner", "cross", "full", "natural", "join", "where", "group", "order", "limit", "having", "union", "except", "intersect", "returning", "window", "offset", "set"}

// joinWithoutOn adds ON TRUE to a join that has no condition, as those over json_each have none
// (core/record_field_resolver_runner.go:676,718; tools/search/multi_match_subquery.go:46).
func joinWithoutOn(s *statement) {
	after := map[int]bool{}
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
			after[last] = true
		}
	}
	if len(after) > 0 {
		s.insertAfter(after, Token{raw, " ON TRUE"})
	}
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

func (k sortKey) nulls() tokens {
	where := " NULLS FIRST"
	if k.direction == " DESC" {
		where = " NULLS LAST"
	}
	return tokens{{raw, k.direction + where}}
}

// nullOrder sorts NULL as the smallest value, as SQLite does, where a key can be NULL: expressions
// and columns of joined tables. A column of the only table keeps its index. It also makes
// SELECT DISTINCT t.* … ORDER BY something-else work (core/record_field_resolver.go:211), which
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
		if plain := columnAt(k.expression, 0) == len(k.expression); plain && !joined {
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

// bareGroupColumns lets a SELECT with GROUP BY name columns that are neither grouped nor aggregated:
// SQLite takes any row's, and so does the aggregate pb_any (view collections, core/view_test.go).
func bareGroupColumns(*statement) {}
