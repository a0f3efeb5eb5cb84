package render

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"gopkg.in/yaml.v3"

	"github.com/mambahost/mamba/wings/wire"
)

// yamlEdit is one edit under way. kind stays empty while nothing has to change.
type yamlEdit struct {
	*yamlFile
	edit wire.Edit
	kind string
}

func (e *yamlEdit) set(steps []step) ([]byte, error) {
	if e.root == nil || e.root.Kind == yaml.ScalarNode && e.root.Tag == "!!null" && e.root.Value == "" {
		content, err := e.lineFor(steps, 0, true)
		if err != nil {
			return nil, err
		}
		return insertLine(e.text, len(e.text), content), nil
	}
	return e.descend(e.root, nil, steps, nil)
}

// descend walks to the value below n and changes it. key is the key that n belongs to.
func (e *yamlEdit) descend(n, key *yaml.Node, steps, done []step) ([]byte, error) {
	if len(steps) == 0 {
		return e.replace(n, key, done)
	}
	at := append(done[:len(done):len(done)], steps[0])
	switch {
	case n.Kind == yaml.MappingNode && steps[0].index < 0:
		for i := len(n.Content) - 2; i >= 0; i -= 2 { // the last of several is the one that counts
			if k := n.Content[i]; k.Kind == yaml.ScalarNode && k.Value == steps[0].key {
				return e.descend(n.Content[i+1], k, steps[1:], at)
			}
		}
		return e.add(n, steps)
	case n.Kind == yaml.SequenceNode && steps[0].index >= 0:
		if steps[0].index < len(n.Content) {
			return e.descend(n.Content[steps[0].index], nil, steps[1:], at)
		}
		return nil, atLine(n.Line, "%s has %d items; only those can be set", pathString(done), len(n.Content))
	case n.Kind == yaml.AliasNode:
		return nil, atLine(n.Line, "%s is an alias (*%s); nothing can be set below it", pathString(done), n.Value)
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Value == "" && key != nil:
		step := e.indentUnit()
		content, err := e.lineFor(steps, key.Column-1+step, true)
		if err != nil {
			return nil, err
		}
		at := len(e.text)
		if key.Line < len(e.lines) {
			at = e.lines[key.Line]
		}
		return insertLine(e.text, at, content), nil
	case n.Kind == yaml.ScalarNode:
		return nil, atLine(n.Line, "%s is a value; nothing can be set below it", pathString(done))
	}
	return nil, atLine(n.Line, "%s is a %s", pathString(done), map[bool]string{true: "list; use [n]", false: "mapping; use a key"}[n.Kind == yaml.SequenceNode])
}

func (e *yamlEdit) replace(n, key *yaml.Node, done []step) ([]byte, error) {
	if n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode {
		return nil, atLine(n.Line, "%s is a mapping or a list; only a value can be set", pathString(done))
	}
	old := oldYAMLKind(n)
	kind, err := decideKind(e.edit.Kind, old, e.edit.Value)
	if err != nil {
		return nil, err
	}
	same := n.Kind == yaml.ScalarNode && n.Value == e.edit.Value && kindOfTag(n.Tag) == kind
	if same && (kind != kindString || n.Style != 0 || plainSafe(n.Value)) {
		return e.text, nil
	}
	e.kind = kind
	if n.Kind == yaml.ScalarNode && n.Value == "" && n.Tag == "!!null" {
		if key == nil {
			return nil, errNotAsAsked
		}
		end, err := e.end(key)
		if err != nil {
			return nil, err
		}
		for end < len(e.text) && isAny(e.text[end], " \t") {
			end++
		}
		if end >= len(e.text) || e.text[end] != ':' {
			return nil, errNotAsAsked
		}
		return splice(e.text, end+1, end+1, " "+e.literal(kind, 0)), nil
	}
	end, err := e.end(n)
	if err != nil {
		return nil, err
	}
	return splice(e.text, e.offset(n), end, e.literal(kind, n.Style)), nil
}

// yamlWords are what some reader of YAML 1.1 takes for something else than text.
var yamlWords = map[string]bool{"y": true, "n": true, "yes": true, "no": true, "on": true, "off": true, "true": true, "false": true, "null": true, "nan": true, "inf": true}

// oldYAMLKind is the kind of what is there, as the game's own reader sees it.
func oldYAMLKind(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && n.Style == 0 && len(n.Value) > 1 && yamlWords[strings.ToLower(n.Value)] && n.Tag == "!!str" {
		return kindBool
	}
	return kindOfTag(n.Tag)
}

func kindOfTag(tag string) string {
	switch tag {
	case "!!str":
		return kindString
	case "!!int", "!!float":
		return kindNumber
	case "!!bool":
		return kindBool
	}
	return kindOther
}

// literal writes the value, in the quotes that were there if it can be.
func (e *yamlEdit) literal(kind string, style yaml.Style) string {
	value := e.edit.Value
	if kind != kindString {
		return value
	}
	if style&yaml.SingleQuotedStyle != 0 && controlFree(value) {
		return "'" + strings.ReplaceAll(value, "'", "''") + "'"
	}
	if style&yaml.DoubleQuotedStyle == 0 && plainSafe(value) {
		return value
	}
	return yamlQuote(value)
}

var plainForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z_/](?:[A-Za-z0-9_./+@%()-]| [A-Za-z0-9_./+@%()-])*$`)
})

// plainSafe reports whether every reader takes s without quotes as this text.
func plainSafe(s string) bool { return plainForm().MatchString(s) && !yamlWords[strings.ToLower(s)] }

func controlFree(s string) bool {
	for _, r := range s {
		if r < ' ' || r >= 0x7F && r < 0xA0 || r == 0x2028 || r == 0x2029 || r == 0xFEFF || r == 0xFFFE || r == 0xFFFF {
			return false
		}
	}
	return true
}

func yamlQuote(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\t':
			out.WriteString(`\t`)
		case r == '\r':
			out.WriteString(`\r`)
		case !controlFree(string(r)):
			fmt.Fprintf(&out, `\u%04X`, r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}

func yamlKey(s string) string {
	if plainSafe(s) {
		return s
	}
	return yamlQuote(s)
}

// lineFor writes the lines of keys that are not there yet. block: each on a line of its own.
func (e *yamlEdit) lineFor(steps []step, indent int, block bool) (string, error) {
	for _, s := range steps {
		if s.index >= 0 {
			return "", errors.New("a list that is not in the file cannot be made")
		}
	}
	kind, err := decideKind(e.edit.Kind, "", e.edit.Value)
	if err != nil {
		return "", err
	}
	e.kind = kind
	var out strings.Builder
	unit := e.indentUnit()
	for i, s := range steps {
		switch {
		case block && i > 0:
			out.WriteString(lineEnd(e.text) + strings.Repeat(" ", indent+i*unit))
		case block:
			out.WriteString(strings.Repeat(" ", indent))
		case i > 0:
			out.WriteString(" {")
		}
		out.WriteString(yamlKey(s.key) + ":")
	}
	out.WriteString(" " + e.literal(kind, 0))
	if !block {
		out.WriteString(strings.Repeat("}", len(steps)-1))
	}
	return out.String(), nil
}

// add puts a key that is missing behind the last one of mapping n.
func (e *yamlEdit) add(n *yaml.Node, steps []step) ([]byte, error) {
	if n.Style&yaml.FlowStyle != 0 {
		content, err := e.lineFor(steps, 0, false)
		if err != nil {
			return nil, err
		}
		end, err := e.end(n)
		if err != nil {
			return nil, err
		}
		inside := strings.TrimRight(string(e.text[e.offset(n)+1:end-1]), " \t\r\n")
		if inside != "" && !strings.HasSuffix(inside, ",") {
			content = ", " + content
		}
		at := e.offset(n) + 1 + len(inside)
		return splice(e.text, at, at, content), nil
	}
	if len(n.Content) == 0 {
		return nil, errNotAsAsked
	}
	indent := n.Content[0].Column - 1
	content, err := e.lineFor(steps, indent, true)
	if err != nil {
		return nil, err
	}
	return insertLine(e.text, e.blockInsert(n, indent), content), nil
}

// blockInsert is the start of the line behind the last one of a block mapping with that indentation.
// Comments and blank lines at its end stay behind what is added.
func (e *yamlEdit) blockInsert(n *yaml.Node, indent int) int {
	last := n.Content[len(n.Content)-1]
	for len(last.Content) > 0 {
		last = last.Content[len(last.Content)-1]
	}
	stop := e.offset(n.Content[len(n.Content)-2])
	if end, err := e.end(last); err == nil {
		stop = max(stop, end)
	}
	first := n.Content[len(n.Content)-2].Line // of the last key, from 1
	at := len(e.text)
	if first < len(e.lines) {
		at = e.lines[first]
	}
	for i := first; i < len(e.lines); i++ {
		from, to := e.lines[i], len(e.text)
		if i+1 < len(e.lines) {
			to = e.lines[i+1]
		}
		content := strings.TrimRight(string(e.text[from:to]), " \t\r\n")
		trimmed := strings.TrimLeft(content, " ")
		own := len(content) - len(trimmed)
		inside := from < stop
		if !inside && trimmed != "" && (own < indent || indent == 0 && (content == "..." || strings.HasPrefix(content, "---"))) {
			break
		}
		if inside || trimmed != "" && trimmed[0] != '#' {
			at = to
		}
	}
	return at
}

// indentUnit is one level of the file's own indentation, 2 in a new file.
func (e *yamlEdit) indentUnit() int {
	unit := 0
	var walk func(n *yaml.Node, column int)
	walk = func(n *yaml.Node, column int) {
		if unit != 0 || n.Style&yaml.FlowStyle != 0 {
			return
		}
		for i, c := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 && c.Kind == yaml.MappingNode && c.Style&yaml.FlowStyle == 0 && len(c.Content) > 0 {
				if d := c.Content[0].Column - n.Content[i-1].Column; d > 0 && unit == 0 {
					unit = d
				}
			}
			walk(c, column)
		}
	}
	if e.root != nil {
		walk(e.root, 1)
	}
	if unit == 0 {
		return 2
	}
	return unit
}

// setNode returns a copy of the tree with the value at steps set.
func setNode(n *yaml.Node, steps []step, value *yaml.Node) (*yaml.Node, bool) {
	if len(steps) == 0 {
		return value, true
	}
	if n == nil || n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		n = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	made := *n
	made.Content = append([]*yaml.Node{}, n.Content...)
	at := -1
	if s := steps[0]; s.index >= 0 {
		at = s.index
	} else {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == s.key {
				at = i + 1
			}
		}
		if at < 0 {
			made.Content = append(made.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: s.key, Tag: "!!str"}, nil)
			at = len(made.Content) - 1
		}
	}
	if at >= len(made.Content) {
		return nil, false
	}
	child, ok := setNode(made.Content[at], steps[1:], value)
	made.Content[at] = child
	return &made, ok
}

// sameNode compares what two trees say. A number of ours has no tag: any number will do.
func sameNode(want, got *yaml.Node) bool {
	if want == nil || got == nil {
		return want == got
	}
	tag := want.Tag == got.Tag || want.Tag == "" && kindOfTag(got.Tag) == kindNumber
	if want.Kind != got.Kind || want.Value != got.Value || !tag || want.Anchor != got.Anchor || len(want.Content) != len(got.Content) {
		return false
	}
	for i := range want.Content {
		if !sameNode(want.Content[i], got.Content[i]) {
			return false
		}
	}
	return true
}
