package dialect

import (
	"strings"
	"testing"
)

// kinds writes the tokens as kind:text, spaces left out.
func kinds(sql string) string {
	var out []string
	for _, t := range Lex(sql) {
		if t.Kind != Space {
			out = append(out, [...]string{"space", "word", "quoted", "string", "blob", "number", "param", "op", "raw"}[t.Kind]+":"+t.Text)
		}
	}
	return strings.Join(out, " ")
}

func TestLex(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, sql, want string }{
		{"words and operators", "a<=b||c", "word:a op:<= word:b op:|| word:c"},
		{"the longest operator", "a->>b->c", "word:a op:->> word:b op:-> word:c"},
		{"double equals", "a==b", "word:a op:== word:b"},
		{"a quote in a string is doubled", "'it''s' x", "string:'it''s' word:x"},
		{"a backslash is a character", `'\' x`, `string:'\' word:x`},
		{"three ways to quote a name", "`a` \"b\" [c d]", "quoted:`a` quoted:\"b\" quoted:[c d]"},
		{"a doubled backtick", "`a``b`", "quoted:`a``b`"},
		{"an index is no name", "x[1]", "word:x op:[ number:1 op:]"},
		{"numbers", "1 1.5 .5 1e-3 0x1F 1.e", "number:1 number:1.5 number:.5 number:1e-3 number:0x1F number:1. word:e"},
		{"a number that ends a name stays in it", "t1.c2", "word:t1 op:. word:c2"},
		{"parameters", "? ?12 :a @b $c", "param:? param:?12 param::a param:@b param:$c"},
		{"a blob", "x'00ff' X'' x", "blob:x'00ff' blob:X'' word:x"},
		{"line comment", "a -- 'b' ?\nc", "word:a word:c"},
		{"block comment", "a/* ' ? */b", "word:a word:b"},
		{"words of other scripts", "größe = 'ä'", "word:größe op:= string:'ä'"},
		{"an open string ends with the text", "a 'b", "word:a string:'b"},
		{"an open comment ends with the text", "a /* b", "word:a"},
		{"bytes that begin nothing", "a # \x00", "word:a op:# op:\x00"},
	} {
		if got := kinds(c.sql); got != c.want {
			t.Errorf("%s: %q\n got %s\nwant %s", c.name, c.sql, got, c.want)
		}
		if Print(Lex(c.sql)) != c.sql {
			t.Errorf("%s: %q is printed as %q", c.name, c.sql, Print(Lex(c.sql)))
		}
	}
}

func TestNamesAreUnquoted(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"`a``b`": "a`b", `"a""b"`: `a"b`, "[a b]": "a b", "plain": "plain", "`open": "open", "`": "", "'x'": ""} {
		if got := Lex(text)[0].name(); got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
}

func FuzzLex(f *testing.F) {
	for _, s := range []string{"", "SELECT `a`.[b] FROM \"c\" WHERE x = 'y''z' AND ? <> :p -- end", "/*", "'", "x'", "[", "[a", "1e", "0x", "a\x00b", "$", "\xff\xfe", "ä`"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		tokens := Lex(sql)
		if got := Print(tokens); got != sql {
			t.Fatalf("%q is printed as %q", sql, got)
		}
		for _, x := range tokens {
			if x.Text == "" || x.Kind == raw {
				t.Fatalf("%q has the token %+v", sql, x)
			}
			_ = x.name()
		}
	})
}

// FuzzRewrite looks for texts on which a rule panics, or that make more places than there are values.
func FuzzRewrite(f *testing.F) {
	for _, c := range rewriteCases {
		f.Add(c.sqlite)
	}
	for _, s := range []string{"CREATE TABLE (", "SELECT DISTINCT `t`.* ORDER BY", "CAST(AS", "COALESCE(", "a IS", "LIKE", "CREATE VIEW", "INSERT INTO t VALUES (", "UPDATE t SET", "ALTER TABLE t ADD", "SELECT 1 ORDER BY LIMIT", "min(", "JOIN", "FROM (SELECT", "=TRUE", "DROP TABLE"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		places := 0
		for _, x := range Lex(sql) {
			if x.Kind == Param {
				places++
			}
		}
		for _, p := range Rewrite(sql) {
			if len(p.Args) > places {
				t.Fatalf("%q has %d places and became %q with %d values", sql, places, p.SQL, len(p.Args))
			}
		}
	})
}
