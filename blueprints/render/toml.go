package render

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/mambahost/mamba/wings/wire"
)

// tomlFile is where everything of a TOML file stands. Paths are written with pathString.
type tomlFile struct {
	text   []byte
	leaves map[string]tomlLeaf // values that can be replaced
	tables map[string]int      // explicit tables and the root: where a new line goes
	indent map[string]string   // and the indentation of the table's last line
	inline map[string]int      // inline tables: offset of "{"
	others map[string]string   // what a path is that can not be replaced: "a table", "an array"
}

type tomlLeaf struct {
	kind     string
	from, to int
}

// applyTOML changes the bytes of one value. Every way to add a key is tried until one gives a file
// that says exactly what was asked for.
func applyTOML(text []byte, edit wire.Edit) ([]byte, error) {
	steps, err := parsePath(edit.Key, false)
	if err != nil {
		return nil, err
	}
	if line := tooDeepTOML(text); line > 0 {
		return nil, atLine(line, "is nested deeper than %d levels", maxDepth)
	}
	before := map[string]any{}
	if err := toml.Unmarshal(text, &before); err != nil {
		return nil, tomlFault(err)
	}
	f, err := readTOML(text)
	if err != nil {
		return nil, err
	}
	leaf, found := f.leaves[pathString(steps)]
	kind, err := decideKind(edit.Kind, leaf.kind, edit.Value)
	if err != nil {
		return nil, err
	}
	literal := tomlLiteral(kind, edit.Value, string(text[leaf.from:leaf.to]))
	want := map[string]any{}
	if err := toml.Unmarshal([]byte("value = "+literal), &want); err != nil {
		return nil, fmt.Errorf("%q cannot be written in TOML", edit.Value)
	}
	expected, fault := setTree(before, steps, want["value"])
	if fault != nil {
		return nil, fault
	}
	if what := f.others[pathString(steps)]; what != "" {
		return nil, fmt.Errorf("%s is %s; only a value can be set", edit.Key, what)
	}
	candidates := f.additions(steps, literal)
	if found {
		if sameTOML(text[leaf.from:leaf.to], want["value"]) {
			return text, nil
		}
		candidates = [][]byte{splice(text, leaf.from, leaf.to, literal)}
	}
	for _, out := range candidates {
		got := map[string]any{}
		if toml.Unmarshal(out, &got) == nil && reflect.DeepEqual(any(got), expected) {
			return out, nil
		}
	}
	return nil, errNotAsAsked
}

func sameTOML(old []byte, want any) bool {
	got := map[string]any{}
	err := toml.Unmarshal([]byte("value = "+string(old)), &got)
	return err == nil && reflect.DeepEqual(got["value"], want)
}

func tomlFault(err error) error {
	var fault *toml.DecodeError
	if errors.As(err, &fault) {
		line, _ := fault.Position()
		return atLine(line, "is not TOML: %s", strings.TrimPrefix(fault.Error(), "toml: "))
	}
	return fmt.Errorf("is not TOML: %w", err)
}

// readTOML walks the file's expressions and notes where its values stand.
func readTOML(text []byte) (f *tomlFile, err error) {
	f = &tomlFile{text: text, leaves: map[string]tomlLeaf{}, tables: map[string]int{}, indent: map[string]string{}, inline: map[string]int{}, others: map[string]string{}}
	arrays := map[string]int{} // array tables seen so far
	var table []step
	p := unstable.Parser{}
	p.Reset(text)
	f.tables[""] = 0
	for p.NextExpression() {
		switch node := p.Expression(); node.Kind {
		case unstable.KeyValue:
			end := f.keyValue(&p, node, table)
			f.tables[pathString(table)] = lineAfter(text, end)
			f.indent[pathString(table)] = indentAt(text, int(node.Raw.Offset))
		case unstable.Table, unstable.ArrayTable:
			var at int
			table, at = tablePath(node, arrays)
			if node.Kind == unstable.ArrayTable {
				path := pathString(table)
				f.others[path] = "an array of tables"
				table = append(table[:len(table):len(table)], step{index: arrays[path]})
				arrays[path]++
			}
			f.others[pathString(table)] = "a table"
			f.tables[pathString(table)] = lineAfter(text, at)
		}
	}
	if p.Error() != nil {
		return nil, fmt.Errorf("is not TOML: %w", p.Error())
	}
	return f, nil
}

// tablePath is a header's path, with the item that each array table on it stands at.
func tablePath(node *unstable.Node, arrays map[string]int) (path []step, end int) {
	for it := node.Key(); it.Next(); {
		if n := arrays[pathString(path)]; n > 0 && len(path) > 0 {
			path = append(path, step{index: n - 1})
		}
		path = append(path, step{key: string(it.Node().Data), index: -1})
		end = int(it.Node().Raw.Offset + it.Node().Raw.Length)
	}
	return path, end
}

func (f *tomlFile) keyValue(p *unstable.Parser, node *unstable.Node, table []step) (end int) {
	path := table[:len(table):len(table)]
	for it := node.Key(); it.Next(); {
		if len(path) > len(table) {
			f.others[pathString(path)] = "a table"
		}
		path = append(path, step{key: string(it.Node().Data), index: -1})
	}
	return f.value(p, node.Value(), path)
}

func (f *tomlFile) value(p *unstable.Parser, node *unstable.Node, path []step) (end int) {
	from := int(node.Raw.Offset)
	name := pathString(path)
	switch node.Kind {
	case unstable.InlineTable:
		f.others[name], f.inline[name] = "a table", from
		for it := node.Children(); it.Next(); {
			if it.Node().Kind == unstable.KeyValue {
				f.keyValue(p, it.Node(), path)
			}
		}
		return skipTOML(f.text, from)
	case unstable.Array:
		f.others[name] = "an array"
		n := 0
		for it := node.Children(); it.Next(); {
			if it.Node().Kind != unstable.Comment {
				end = f.value(p, it.Node(), append(path[:len(path):len(path)], step{index: n}))
				n++
			}
		}
		return end
	}
	kind := map[unstable.Kind]string{unstable.String: kindString, unstable.Integer: kindNumber, unstable.Float: kindNumber, unstable.Bool: kindBool}[node.Kind]
	if kind == "" {
		kind = kindOther
	}
	end = from + int(node.Raw.Length)
	f.leaves[name] = tomlLeaf{kind, from, end}
	return end
}

// lineAfter is the start of the line behind what ends at offset. The rest of that line may close
// arrays and tables, also on lines that follow.
func lineAfter(text []byte, offset int) int {
	for i := offset; i < len(text); {
		switch c := text[i]; {
		case c == '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case c == '\n':
			// "]" or "," first on a following line still belongs to it; a header does not.
			j := i + 1
			for j < len(text) && isAny(text[j], " \t\r\n") {
				j++
			}
			if j >= len(text) || !isAny(text[j], "],}") {
				return i + 1
			}
			i = j + 1
		default:
			i++
		}
	}
	return len(text)
}

// additions are the files with the missing key in each place where it could stand, best first.
func (f *tomlFile) additions(steps []step, literal string) [][]byte {
	var all [][]byte
	last := len(steps) - 1
	for k := last; k >= 0; k-- {
		rest, ok := tomlKey(steps[k:])
		if !ok {
			continue
		}
		name := pathString(steps[:k])
		if at, explicit := f.tables[name]; explicit {
			if k == 0 && last > 0 { // a table of its own is better than dotted keys at the top
				if header, ok := tomlKey(steps[:last]); ok {
					key, _ := tomlKey(steps[last:])
					all = append(all, insertLine(f.text, len(f.text), f.gap()+"["+header+"]"+lineEnd(f.text)+key+" = "+literal))
				}
			}
			all = append(all, insertLine(f.text, at, f.indent[name]+rest+" = "+literal))
		}
		if from, ok := f.inline[name]; ok {
			close := skipTOML(f.text, from) - 1
			inside := strings.TrimRight(string(f.text[from+1:close]), " \t")
			with := " " + rest + " = " + literal + " "
			if strings.TrimSpace(inside) != "" {
				with = ", " + rest + " = " + literal + string(f.text[from+1+len(inside):close])
			}
			all = append(all, splice(f.text, from+1+len(inside), close, with))
		}
	}
	return all
}

func (f *tomlFile) gap() string {
	if len(strings.TrimSpace(string(f.text))) == 0 {
		return ""
	}
	return lineEnd(f.text)
}

// tomlKey writes keys with dots. False when there is an index among them.
func tomlKey(steps []step) (string, bool) {
	parts := make([]string, len(steps))
	for i, s := range steps {
		if s.index >= 0 {
			return "", false
		}
		parts[i] = s.key
		if s.key == "" || strings.Trim(s.key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			parts[i] = tomlQuote(s.key)
		}
	}
	return strings.Join(parts, "."), true
}

func tomlLiteral(kind, value, old string) string {
	if kind != kindString {
		return value
	}
	if strings.HasPrefix(old, "'") && !strings.HasPrefix(old, "'''") && !strings.ContainsAny(value, "'\n\r") && tomlQuote(value) == `"`+strings.ReplaceAll(strings.ReplaceAll(value, `\`, `\\`), `"`, `\"`)+`"` {
		return "'" + value + "'"
	}
	return tomlQuote(value)
}

// tomlQuote writes a basic string. JSON's escapes are TOML's, too, but for DEL.
func tomlQuote(s string) string {
	return strings.ReplaceAll(string(jsonString(s)), "\x7f", `\u007F`)
}

// skipTOML returns the offset behind the value at i: a bracket with all that it holds, or a string.
func skipTOML(text []byte, i int) int {
	depth := 0
	for i < len(text) {
		switch c := text[i]; c {
		case '"', '\'':
			i = skipTOMLString(text, i)
			if depth == 0 {
				return i
			}
			continue
		case '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
			continue
		case '[', '{':
			depth++
		case ']', '}':
			if depth--; depth <= 0 {
				return i + 1
			}
		}
		i++
	}
	return len(text)
}

func skipTOMLString(text []byte, i int) int {
	quote := string(text[i])
	if strings.HasPrefix(string(text[i:min(i+3, len(text))]), strings.Repeat(quote, 3)) {
		quote = strings.Repeat(quote, 3)
	}
	for i += len(quote); i < len(text); i++ {
		if text[i] == '\\' && quote[0] == '"' {
			i++
			continue
		}
		if strings.HasPrefix(string(text[i:min(i+len(quote), len(text))]), quote) {
			i += len(quote)
			for n := 0; len(quote) == 3 && n < 2 && i < len(text) && text[i] == quote[0]; n++ {
				i++ // up to two quotes may stand before the closing three
			}
			return i
		}
		if len(quote) == 1 && text[i] == '\n' {
			return i
		}
	}
	return len(text)
}

// tooDeepTOML returns the line at which the nesting passes maxDepth, or 0.
func tooDeepTOML(text []byte) int {
	depth := 0
	for i := 0; i < len(text); {
		switch text[i] {
		case '"', '\'':
			i = skipTOMLString(text, i)
			continue
		case '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
			continue
		case '[', '{':
			if depth++; depth > maxDepth {
				return lineOf(text, i)
			}
		case ']', '}':
			depth = max(depth-1, 0)
		}
		i++
	}
	return 0
}

// setTree returns tree with the value at steps set, as the edited file has to say. Missing tables
// are made; a missing item of a list is an error.
func setTree(tree any, steps []step, value any) (any, error) {
	if len(steps) == 0 {
		return value, nil
	}
	switch node := tree.(type) {
	case nil:
		if steps[0].index >= 0 {
			return nil, errors.New("a list that is not in the file cannot be made")
		}
		made, err := setTree(nil, steps[1:], value)
		return map[string]any{steps[0].key: made}, err
	case map[string]any:
		if steps[0].index >= 0 {
			return nil, errors.New("a table has no items; use a key")
		}
		made, err := setTree(node[steps[0].key], steps[1:], value)
		if err != nil {
			return nil, err
		}
		node[steps[0].key] = made
		return node, nil
	case []any:
		n := steps[0].index
		if n < 0 || n >= len(node) {
			return nil, fmt.Errorf("the list has %d items; only those can be set", len(node))
		}
		made, err := setTree(node[n], steps[1:], value)
		node[n] = made
		return node, err
	}
	return nil, errors.New("a value stands where a table is needed")
}
