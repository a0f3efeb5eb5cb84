package render

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/tailscale/hujson"
	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

// TestRefuses says what is not done, where, and that nothing comes back then.
func TestRefuses(t *testing.T) {
	t.Parallel()
	set := func(key, value string) wire.Edit { return wire.Edit{Key: key, Value: value} }
	for name, c := range map[string]struct {
		format, in string
		edit       wire.Edit
		line       int
		want       string
	}{
		"an unknown format":                       {"lua", "", set("a", "b"), 0, "not known"},
		"a file above the limit":                  {"properties", strings.Repeat("#", MaxBytes+1), set("a", "b"), 0, "too large"},
		"a file that grows above the limit":       {"text", "k\n" + strings.Repeat("#", MaxBytes-10), set("k", strings.Repeat("v", 100)), 0, "too large"},
		"a value that is not UTF-8":               {"json", "{}", set("a", "\xff"), 0, "not UTF-8"},
		"a key that is not UTF-8":                 {"properties", "", set("\xff", "a"), 0, "not UTF-8"},
		"a file that is not UTF-8":                {"yaml", "a: 1\nb: \xff\n", set("a", "b"), 2, "not UTF-8"},
		"a line break in a format of lines":       {"ini", "", set("a", "b\nadmin=1"), 0, "more than one line"},
		"a line break in text":                    {"text", "a\n", set("a", "b\r"), 0, "more than one line"},
		"an empty key":                            {"properties", "", set("", "x"), 0, "not empty"},
		"a section with brackets":                 {"ini", "", set("[a[].b", "x"), 0, "brackets"},
		"a path with an empty part":               {"json", "{}", set("a..b", "x"), 0, "empty part"},
		"a path that ends with a dot":             {"json", "{}", set("a.", "x"), 0, "ends with a dot"},
		"a path with a bad index":                 {"json", "{}", set("a[-1]", "x"), 0, "not an index"},
		"a path with a huge index":                {"json", "{}", set("a[99999999]", "x"), 0, "not an index"},
		"a path that is too deep":                 {"json", "{}", set(strings.Repeat("a.", 100)+"a", "x"), 0, "more than"},
		"JSON with a fault":                       {"json", "{\n\"a\": 1,\n\"b\" 2}", set("a", "x"), 3, "is not JSON"},
		"JSON that is too deep":                   {"json", "\n" + strings.Repeat("[", 100_000), set("a", "x"), 2, "deeper"},
		"JSON that hides its depth in strings":    {"json", strings.Repeat(`["]",`, 1000), set("a", "x"), 1, "deeper"},
		"JSON: a value where an object is needed": {"json", "{\n\"a\": 1}", set("a.b", "x"), 2, "is a value"},
		"JSON: an object where a value is set":    {"json", "{\"a\": {}}", set("a", "x"), 1, "only a value"},
		"JSON: an item far behind the last":       {"json", "{\"a\": [1]}", set("a[5]", "x"), 1, "has 1 items"},
		"a number that is none":                   {"json", "{}", wire.Edit{Key: "a", Value: "1.", Kind: "number"}, 0, "not a number"},
		"an unknown kind":                         {"json", "{}", wire.Edit{Key: "a", Value: "1", Kind: "date"}, 0, "none of"},
		"YAML with a fault":                       {"yaml", "a: 1\n b: [\n", set("a", "x"), 2, "is not YAML"},
		"YAML of two documents":                   {"yaml", "a: 1\n---\nb: 1\n", set("a", "x"), 0, "more than one document"},
		"YAML that is too deep":                   {"yaml", strings.Repeat("[", 5000) + strings.Repeat("]", 5000), set("a", "x"), 1, "deeper"},
		"YAML: below an alias":                    {"yaml", "a: &x {b: 1}\nc: *x\n", set("c.b", "2"), 2, "alias"},
		"YAML: an anchor in the way":              {"yaml", "a: &x 1\nc: *x\n", set("a", "2"), 1, "anchor"},
		"YAML: a list by key":                     {"yaml", "a:\n- 1\n", set("a.b", "2"), 2, "list; use [n]"},
		"YAML: an item that is not there":         {"yaml", "a:\n- 1\n", set("a[1]", "2"), 2, "has 1 items"},
		"TOML with a fault":                       {"toml", "a = 1\nb = \n", set("a", "x"), 2, "is not TOML"},
		"TOML that is too deep":                   {"toml", "a = " + strings.Repeat("[", 100_000), set("a", "x"), 1, "deeper"},
		"TOML: a table where a value is set":      {"toml", "[a]\nb = 1\n", set("a", "x"), 0, "is a table"},
		"TOML: below a value":                     {"toml", "a = 1\n", set("a.b", "x"), 0, "a table is needed"},
		"TOML: an item that is not there":         {"toml", "a = [1]\n", set("a[3]", "x"), 0, "has 1 items"},
		"XML with a fault":                        {"xml", "<a>\n<b>\n</a>", set("a.b", "x"), 3, "not open"},
		"XML with an entity of its own":           {"xml", "<!DOCTYPE a [<!ENTITY x \"y\">]>\n<a>&x;</a>", set("a", "x"), 2, "is not XML"},
		"XML in another encoding":                 {"xml", `<?xml version="1.0" encoding="utf-16"?><a/>`, set("a", "x"), 1, "UTF-8"},
		"XML with another root":                   {"xml", "<a/>", set("b.c", "x"), 1, "root element"},
		"XML that is too deep":                    {"xml", strings.Repeat("<a>", 5000), set("a.b", "x"), 1, "deeper"},
		"XML: text over elements":                 {"xml", "<a><b/></a>", set("a", "x"), 1, "other elements"},
		"XML: a character that it cannot hold":    {"xml", "<a/>", set("a", "\x01"), 0, "XML cannot"},
		"XML: a name that is none":                {"xml", "<a/>", set("a.<b>", "x"), 0, "names of elements"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := Apply(c.format, []byte(c.in), []wire.Edit{c.edit})
			if err == nil || !strings.Contains(err.Error(), c.want) || out != nil {
				t.Fatalf("got %q, %v; want an error with %q", out, err, c.want)
			}
			var where *Error
			if errors.As(err, &where); c.line > 0 && (where == nil || where.Line != c.line) {
				t.Errorf("the error is %v; want line %d", err, c.line)
			}
		})
	}
}

// TestAliasBombStaysSmall edits beside a bomb: nodes are looked at, never expanded.
func TestAliasBombStaysSmall(t *testing.T) {
	t.Parallel()
	var bomb strings.Builder
	bomb.WriteString("port: 1\na0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&bomb, "a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i, i, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1)
	}
	out := mustApply(t, "yaml", []byte(bomb.String()), []wire.Edit{{Key: "port", Value: "2"}})
	same(t, "beside the bomb", []byte(strings.Replace(bomb.String(), "port: 1", "port: 2", 1)), out)
}

// TestManyTimesTheSameKeyStaysSmall: a customer may write a key as often as fits into the file.
func TestManyTimesTheSameKeyStaysSmall(t *testing.T) {
	t.Parallel()
	for format, line := range map[string]string{"properties": "k=x\n", "ini": "k=x\n", "text": "k=x\n", "json": "\"k\":1,"} {
		n := (MaxBytes - 10) / len(line)
		in, head, tail := strings.Repeat(line, n), "", ""
		if format == "json" {
			head, tail = "{", "}"
		}
		value := "k=y"
		if format != "text" {
			value = "y"
		}
		if format != "json" { // the same length
			out := mustApply(t, format, []byte(head+in+tail), []wire.Edit{{Key: "k", Value: value}})
			same(t, format, bytes.ReplaceAll([]byte(in), []byte("x"), []byte("y")), out)
		}
		_, err := Apply(format, []byte(head+in+tail), []wire.Edit{{Key: "k", Value: value + strings.Repeat("y", 4000)}})
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: grew to gigabytes: %v", format, err)
		}
	}
	if _, err := Apply("yaml", make([]byte, MaxBytes), make([]wire.Edit, 33)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("many edits of a large file: %v", err)
	}
}

// layouts write key–value files with comments, in a way that is known to the byte.
var layouts = map[string]func(keys, values []string) string{
	"properties": func(k, v []string) string { return lay("# c\n", k, v, "%s = %s\n", "! c\n\n", "") },
	"ini":        func(k, v []string) string { return lay("; c\n[s]\n", k, v, "%s=%s\n", "# c\n", "[t]\nk0=z\n") },
	"json": func(k, v []string) string {
		return strings.Replace(lay("{ // c\n", k, v, "  \"%s\": \"%s\",\n", "  /* c */\n", "}\n"), ",\n}", "\n}", 1)
	},
	"yaml": func(k, v []string) string { return lay("# c\n", k, v, "%s: %s # c\n", "\n# c\n", "zz:\n- k0: 1\n") },
	"toml": func(k, v []string) string { return lay("# c\n", k, v, "%s = \"%s\" # c\n", "\n# c\n", "[t]\nk0 = 1\n") },
	"xml": func(k, v []string) string {
		return lay("<s>\n", k, v, "  <%[1]s a='1'>%[2]s</%[1]s> <!-- c -->\n", "\n", "</s>\n")
	},
	"text": func(k, v []string) string { return lay("// c\n", k, v, "%s: %s\n", "// c\n", "") },
}

func lay(head string, keys, values []string, format, between, tail string) string {
	var out strings.Builder
	out.WriteString(head)
	for i := range keys {
		fmt.Fprintf(&out, format, keys[i], values[i])
		out.WriteString(between)
	}
	return out.String() + tail
}

// TestUntouchedBytesStay changes some values of a file and expects the very bytes of the file that
// was written with the new values.
func TestUntouchedBytesStay(t *testing.T) {
	t.Parallel()
	word := rapid.StringMatching(`[a-z]{3,8}x`)
	for format, layout := range layouts {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				n := rapid.IntRange(1, 8).Draw(t, "keys")
				keys, before, after := make([]string, n), make([]string, n), make([]string, n)
				var edits []wire.Edit
				for i := range n {
					keys[i] = fmt.Sprintf("k%d", i)
					before[i] = word.Draw(t, "before")
					after[i] = before[i]
					if rapid.Bool().Draw(t, "edit") {
						after[i] = word.Draw(t, "after")
						e := wire.Edit{Key: keys[i], Value: after[i]}
						switch format {
						case "ini", "xml":
							e.Key = "s." + keys[i]
						case "text":
							e = wire.Edit{Key: keys[i] + ": ", Value: keys[i] + ": " + after[i]}
						}
						edits = append(edits, e)
					}
				}
				in, want := layout(keys, before), layout(keys, after)
				got, err := Apply(format, []byte(in), edits)
				if err != nil || string(got) != want {
					t.Fatalf("%v\nin:\n%s\ngot:\n%s\nwant:\n%s", err, in, got, want)
				}
			})
		})
	}
}

// readers read a file back with other people's code where there is some. key is "k", in ini and
// xml "s.k".
var readers = map[string]func(out []byte) (string, error){
	"json": func(out []byte) (string, error) {
		plain, err := hujson.Standardize(out)
		var m map[string]any
		if err == nil {
			err = json.Unmarshal(plain, &m)
		}
		return fmt.Sprint(m["k"]), err
	},
	"yaml": func(out []byte) (string, error) {
		var m map[string]string
		err := yaml.Unmarshal(out, &m)
		return m["k"], err
	},
	"toml": func(out []byte) (string, error) {
		var m map[string]any
		err := toml.Unmarshal(out, &m)
		return fmt.Sprint(m["k"]), err
	},
	"xml": func(out []byte) (string, error) {
		var s struct {
			K string `xml:"k"`
		}
		err := xml.Unmarshal(out, &s)
		return s.K, err
	},
	"properties": func(out []byte) (string, error) {
		all := parseProperties(out)
		p := all[len(all)-1]
		return unescapeProperty(string(out[p.valueFrom:p.valueTo])), nil
	},
}

// TestAnyTextComesBack sets whatever a customer may type, in a new file and over an old value in
// each kind of quotes, and reads it back. Nothing of it may become structure.
func TestAnyTextComesBack(t *testing.T) {
	t.Parallel()
	old := map[string][]string{
		"json": {"", `{"k": "x", "other": 1}`}, "toml": {"", "k = 'x'\nother = 1\n", "k = \"x\"\n"},
		"yaml": {"", "k: x\nother: 1\n", "k: 'x'\n", "k: \"x\"\n", "k: |\n  x\n  y\nother: 1\n", "{k: x, other: 1}\n", "k:\n"},
		"xml":  {"", "<s><k>x</k></s>", "<s><k/></s>"}, "properties": {"", "k = x\n", "k x\n", "k\n", "k=a\\\n  b\n"},
	}
	for format, read := range readers {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			key := "k"
			if format == "xml" {
				key = "s.k"
			}
			rapid.Check(t, func(t *rapid.T) {
				value := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", " ", "\\", "'", `"`, "yes", "null", "~", "0x1F", "1_000", "12:30", "- a", "a: b", "a #b", "#", "{{var.X}}", "]]>", "&amp;", "<!--", "\u2028", "é\\u0041", "=", "key=value", "1e3", "é"})).Draw(t, "value")
				in := rapid.SampledFrom(old[format]).Draw(t, "in")
				edit := wire.Edit{Key: key, Value: value, Kind: "string"}
				out, err := Apply(format, []byte(in), []wire.Edit{edit})
				if err != nil {
					if format == "xml" && strings.Contains(err.Error(), "XML cannot") {
						return
					}
					t.Fatalf("%q in %q: %v", value, in, err)
				}
				got, err := read(out)
				if err != nil || got != value {
					t.Fatalf("%q came back as %q from %q: %v", value, got, out, err)
				}
				again, err := Apply(format, out, []wire.Edit{edit})
				if err != nil || !bytes.Equal(out, again) {
					t.Fatalf("applied again: %v\n%q\n%q", err, out, again)
				}
			})
		})
	}
}

// TestKeepsKind: without a kind, a value keeps the kind of what is there when it fits.
func TestKeepsKind(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ format, in, key, value, want string }{
		"JSON text of digits stays text":    {"json", `{"a":"5"}`, "a", "6", `{"a":"6"}`},
		"JSON number stays number":          {"json", `{"a":5}`, "a", "6", `{"a":6}`},
		"JSON number becomes text at need":  {"json", `{"a":5}`, "a", "six", `{"a":"six"}`},
		"YAML text of digits stays text":    {"yaml", "a: \"5\"\n", "a", "6", "a: \"6\"\n"},
		"YAML boolean stays boolean":        {"yaml", "a: True\n", "a", "false", "a: false\n"},
		"TOML text of digits stays text":    {"toml", "a = '5'\n", "a", "6", "a = '6'\n"},
		"TOML number stays number":          {"toml", "a = 0x10\n", "a", "16", "a = 0x10\n"},
		"TOML date gives way":               {"toml", "a = 1979-05-27\n", "a", "true", "a = true\n"},
		"leading zeros are text":            {"json", `{}`, "a", "007", `{"a":"007"}`},
		"JSON null becomes what is asked":   {"json", `{"a":null}`, "a", "1", `{"a":1}`},
		"an equal value keeps its spelling": {"json", `{"a":"\u00e9"}`, "a", "é", `{"a":"\u00e9"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := mustApply(t, c.format, []byte(c.in), []wire.Edit{{Key: c.key, Value: c.value}})
			if got := strings.Join(strings.Fields(string(out)), ""); got != strings.Join(strings.Fields(c.want), "") {
				t.Errorf("got %s, want %s", out, c.want)
			}
		})
	}
}

func TestErrorsAreTyped(t *testing.T) {
	t.Parallel()
	if _, err := Apply("lua", nil, nil); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
	if _, err := Apply("ini", make([]byte, MaxBytes+1), nil); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := CheckKey("lua", "a"); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
	_, err := Apply("json", []byte("{"), []wire.Edit{{Key: "a", Value: "b"}})
	if err == nil || !strings.HasPrefix(err.Error(), `json line 1: set "a": is not JSON`) {
		t.Errorf("the message is %v", err)
	}
}

func fuzzFormat(f *testing.F, format, key string) {
	for _, seed := range fuzzSeeds[format] {
		f.Add([]byte(seed), key, "value")
	}
	f.Add([]byte(""), key, "12")
	f.Fuzz(func(t *testing.T, in []byte, key, value string) {
		edits := []wire.Edit{{Key: key, Value: value}}
		out, err := Apply(format, in, edits)
		if err != nil {
			return
		}
		if format == "text" && !strings.HasPrefix(value, key) {
			return // what was replaced may be found by nothing or by the same key again
		}
		again, err := Apply(format, out, edits)
		if err != nil || !bytes.Equal(out, again) {
			t.Fatalf("not idempotent: %v\nin    %q\nonce  %q\ntwice %q", err, in, out, again)
		}
		for _, l := range strings.Split(string(in), "\n") {
			if strings.HasPrefix(l, "#") && format == "properties" && !strings.Contains(string(out), l) {
				t.Fatalf("the comment %q is gone from %q", l, out)
			}
		}
		if utf8.Valid(in) && !utf8.Valid(out) {
			t.Fatalf("%q is not UTF-8 any more", out)
		}
	})
}

var fuzzSeeds = map[string][]string{
	"properties": {"# c\na=b\n", "a b\\\r\n c", "\\u0041=\\"},
	"ini":        {"[s]\na = b ; c\n", "a=\"b\"\r\n[", "k"},
	"text":       {"a\nab\n", "\r\n"},
	"json":       {`{"a":[1,{"b":null}],}`, "// c\n[]", `{"a":{"b":"c"}}`},
	"yaml":       {"a:\n  b: [1, {c: d}]\n", "a: |\n  x\n\nb: 'y'\n", "- a: &x 1\n- *x\n", "? a\n: b\n"},
	"toml":       {"a.b = 1\n[[c]]\nd = {e = [1, 2]}\n", "a = '''\nx'''\n[b]\n"},
	"xml":        {"<a><b c='d'/></a>", "<?xml version=\"1.0\"?><!-- c --><a>x<![CDATA[y]]></a>"},
}

func FuzzProperties(f *testing.F) { fuzzFormat(f, "properties", "a") }
func FuzzINI(f *testing.F)        { fuzzFormat(f, "ini", "s.a") }
func FuzzText(f *testing.F)       { fuzzFormat(f, "text", "a") }
func FuzzJSON(f *testing.F)       { fuzzFormat(f, "json", "a.b") }
func FuzzYAML(f *testing.F)       { fuzzFormat(f, "yaml", "a.b") }
func FuzzTOML(f *testing.F)       { fuzzFormat(f, "toml", "a.b") }
func FuzzXML(f *testing.F)        { fuzzFormat(f, "xml", "a.b") }
