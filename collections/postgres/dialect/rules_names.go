package dialect

import "strings"

// words of SQL that are not names; a word in other case that is not here is a name whose case counts.
var words = wordSet(`abort add all alter and any as asc autoincrement begin between by cascade case cast check collate column commit
	conflict constraint create cross current_date current_time current_timestamp default delete desc distinct do drop else end escape
	except exists explain false filter first following for foreign from full glob group groups having if ilike in index inner insert
	instead intersect into is isnull join key last left like limit match natural no not nothing notnull null nulls of offset on or
	order outer over partition preceding primary range recursive references release rename replace restrict returning right rollback
	row rows savepoint select set table temp temporary then to transaction true unbounded union unique update using values view
	virtual when where window with without vacuum pragma
	text integer int bigint smallint boolean bool numeric real double precision decimal json blob varchar char datetime date timestamp
	interval least greatest coalesce nullif least bytea`)

// reserved are words that are names in SQLite and keywords of PostgreSQL. A bare "user" would
// even work there, and be the name of the database's user.
var reserved = wordSet(`analyse analyze array asymmetric authorization binary both concurrently current_catalog current_role
	current_schema current_user fetch freeze grant lateral leading localtime localtimestamp only overlaps placing session_user similar
	some symmetric tablesample trailing user variadic verbose`)

func wordSet(list string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(list) {
		set[w] = true
	}
	return set
}

func isKeyword(w string) bool { return words[strings.ToLower(w)] }

// names writes every name as PostgreSQL must read it: backticks and brackets become double quotes
// (tools/dbutils/index.go:86-120, dbx), a bare name keeps its case (SQLite keeps it, PostgreSQL
// makes it lower case), a long one is shortened (aliases of joins in
// core/record_field_resolver_runner.go reach 100 bytes), rowid is our column _rowid_
// (core/collection_query.go:41, tools/search/sort.go:29), NOCASE our collation
// (core/record_query.go:565, core/field_text.go:209, apis/record_auth_with_password.go:151).
func names(s *statement) {
	for i, t := range s.tokens {
		switch name := t.name(); {
		case t.Kind != Quoted && t.Kind != Word:
		case strings.EqualFold(name, "rowid") || strings.EqualFold(name, "oid") && s.at(i-1).op("."):
			s.tokens[i] = Token{raw, `"_rowid_"`}
		case t.Kind == Quoted:
			s.tokens[i] = Token{raw, quoteName(name)}
		case s.at(s.prev(i)).is("collate"):
			s.tokens[i] = collation(t)
		case s.at(i - 1).op("."):
			s.tokens[i] = Token{raw, quoteName(name)}
		case isKeyword(name):
		case s.at(s.next(i)).op("(") && !s.ownsName(i):
		case reserved[strings.ToLower(name)], name != strings.ToLower(name) && name != strings.ToUpper(name), len(name) > nameLimit:
			s.tokens[i] = Token{raw, quoteName(name)}
		}
	}
}

// ownsName says whether the name at i with a parenthesis behind it is a table and not a function:
// CREATE TABLE name (, INSERT INTO name (.
func (s *statement) ownsName(i int) bool {
	return s.at(s.prev(i)).isAny("table", "into", "exists", "on", "view")
}

func collation(t Token) Token {
	switch strings.ToLower(t.Text) {
	case "nocase":
		return Token{raw, `"nocase"`}
	case "binary":
		return Token{raw, `"C"`}
	}
	return t
}
