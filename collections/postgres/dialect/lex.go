// Package dialect turns the SQL that PocketBase writes for SQLite into SQL that PostgreSQL runs.
//
// It owns the lexer and the rewrite rules, each small and named after what it does. It refuses to
// parse a whole grammar: a rule looks for the shapes that PocketBase and its query builder emit and
// leaves everything else alone, so that what it does not know ends as an error of the server and
// never as other rows. It knows no connection.
//
// Its one invariant: printing the tokens of a text gives the same text again.
package dialect

import "strings"

// Kind says what a token is.
type Kind uint8

// The kinds of tokens.
const (
	Space  Kind = iota // white space and comments
	Word               // a name or keyword without quotes
	Quoted             // a name in "double quotes", `backticks` or [brackets]
	String             // a literal in 'single quotes'
	Blob               // a literal x'00ff'
	Number             // a literal number
	Param              // ?, ?1, :name, @name or $name
	Op                 // an operator or punctuation, one of operators or a single byte
	raw                // PostgreSQL that a rule has written; never made by Lex
)

// Token is a piece of SQL. Text is as written, quotes included.
type Token struct {
	Kind Kind
	Text string
}

// operators of more than one byte, the longer of two with one beginning first.
var operators = []string{"->>", "->", "==", "!=", "<>", "<=", ">=", "<<", ">>", "||"}

// Lex splits SQL into tokens. It never fails: a quote that is not closed ends with the text, a byte
// that begins nothing is an operator.
func Lex(sql string) []Token {
	out := make([]Token, 0, len(sql)/4+1)
	for len(sql) > 0 {
		kind, n := scan(sql)
		out = append(out, Token{kind, sql[:n]})
		sql = sql[n:]
	}
	return out
}

// Print is the inverse of Lex.
func Print(tokens []Token) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteString(t.Text)
	}
	return b.String()
}

// scan returns the kind and the length (at least 1) of the token that begins s.
func scan(s string) (Kind, int) {
	c := s[0]
	switch {
	case isSpace(c):
		return Space, span(s, isSpace)
	case strings.HasPrefix(s, "--"):
		return Space, until(s, "\n")
	case strings.HasPrefix(s, "/*"):
		return Space, 2 + until(s[2:], "*/")
	case c == '\'':
		return String, quoted(s, '\'')
	case c == '"' || c == '`':
		return Quoted, quoted(s, c)
	case c == '[' && bracketed(s) > 0:
		return Quoted, bracketed(s)
	case (c == 'x' || c == 'X') && len(s) > 1 && s[1] == '\'':
		return Blob, 1 + quoted(s[1:], '\'')
	case isDigit(c) || c == '.' && len(s) > 1 && isDigit(s[1]):
		return Number, number(s)
	case c == '?':
		return Param, 1 + span(s[1:], isDigit)
	case (c == ':' || c == '@' || c == '$') && len(s) > 1 && isNameStart(s[1]):
		return Param, 1 + span(s[1:], isName)
	case isNameStart(c):
		return Word, span(s, isName)
	}
	for _, op := range operators {
		if strings.HasPrefix(s, op) {
			return Op, len(op)
		}
	}
	return Op, 1
}

func isSpace(c byte) bool     { return c == ' ' || c >= '\t' && c <= '\r' }
func isDigit(c byte) bool     { return c >= '0' && c <= '9' }
func isNameStart(c byte) bool { return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0x80 }
func isName(c byte) bool      { return isNameStart(c) || isDigit(c) || c == '$' }

// span counts the leading bytes of s that in accepts.
func span(s string, in func(byte) bool) int {
	n := 0
	for n < len(s) && in(s[n]) {
		n++
	}
	return n
}

// until is the length of s up to and with the end mark, or of all of s.
func until(s, end string) int {
	if i := strings.Index(s, end); i >= 0 {
		return i + len(end)
	}
	return len(s)
}

// quoted is the length of the text in q at the beginning of s; a doubled q is one q inside.
func quoted(s string, q byte) int {
	for i := 1; i < len(s); i++ {
		if s[i] != q {
			continue
		}
		if i+1 < len(s) && s[i+1] == q {
			i++
			continue
		}
		return i + 1
	}
	return len(s)
}

// bracketed is the length of a [name], 0 if s does not begin with one.
func bracketed(s string) int {
	end := strings.IndexByte(s, ']')
	if end < 2 || !isNameStart(s[1]) || strings.IndexFunc(s[1:end], func(r rune) bool { return r < 0x80 && r != ' ' && !isName(byte(r)) }) >= 0 {
		return 0
	}
	return end + 1
}

// number is the length of the number at the beginning of s: 12, 1.5, .5, 1e-3, 0x1F.
func number(s string) int {
	if len(s) > 2 && s[0] == '0' && s[1]|0x20 == 'x' {
		return 2 + span(s[2:], func(c byte) bool { return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' })
	}
	n := span(s, isDigit)
	if n < len(s) && s[n] == '.' {
		n++
		n += span(s[n:], isDigit)
	}
	if n < len(s) && s[n]|0x20 == 'e' {
		e := n + 1
		if e < len(s) && (s[e] == '+' || s[e] == '-') {
			e++
		}
		if d := span(s[e:], isDigit); d > 0 {
			n = e + d
		}
	}
	return n
}

// is says whether the token is this keyword, in any case.
func (t Token) is(word string) bool {
	return t.Kind == Word && len(t.Text) == len(word) && strings.EqualFold(t.Text, word)
}

func (t Token) isAny(words ...string) bool {
	for _, w := range words {
		if t.is(w) {
			return true
		}
	}
	return false
}

func (t Token) op(o string) bool { return t.Kind == Op && t.Text == o }

// name is the bare name of a Word or Quoted token; "" for any other.
func (t Token) name() string {
	switch {
	case t.Kind == Word:
		return t.Text
	case t.Kind != Quoted:
		return ""
	case t.Text[0] == '[':
		return t.Text[1 : len(t.Text)-1]
	}
	q := t.Text[:1]
	inner := strings.TrimPrefix(t.Text, q)
	if len(inner) > 0 && strings.HasSuffix(inner, q) {
		inner = inner[:len(inner)-1]
	}
	return strings.ReplaceAll(inner, q+q, q)
}
