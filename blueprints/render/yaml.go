package render

import (
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/mambahost/mamba/wings/wire"
)

// yamlFile is a YAML file with the nodes of its one document and where its lines begin. The nodes
// are only looked at: what changes is the text.
type yamlFile struct {
	text  []byte
	root  *yaml.Node // nil: nothing but comments
	lines []int      // offsets; as YAML counts lines
}

// applyYAML changes the bytes of one scalar, or adds a line. Aliases are never expanded.
func applyYAML(text []byte, edit wire.Edit) ([]byte, error) {
	steps, err := parsePath(edit.Key, false)
	if err != nil {
		return nil, err
	}
	f, err := readYAML(text)
	if err != nil {
		return nil, err
	}
	e := &yamlEdit{yamlFile: f, edit: edit}
	out, err := e.set(steps)
	if err != nil {
		return nil, err
	}
	// What was asked for, made on the nodes, has to be what the new text says.
	after, err := readYAML(out)
	if err != nil || e.kind == "" && string(out) != string(text) {
		return nil, errNotAsAsked
	}
	if e.kind == "" {
		return out, nil
	}
	want := &yaml.Node{Kind: yaml.ScalarNode, Value: edit.Value, Tag: map[string]string{kindString: "!!str", kindBool: "!!bool"}[e.kind]}
	expected, ok := setNode(f.root, steps, want)
	if !ok || !sameNode(expected, after.root) {
		return nil, errNotAsAsked
	}
	return out, nil
}

var yamlErrorLine = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)
})

func readYAML(text []byte) (*yamlFile, error) {
	f := &yamlFile{text: text, lines: yamlLines(text)}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	var document yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return f, nil
	}
	if err != nil {
		m := yamlErrorLine().FindStringSubmatch(err.Error())
		line, _ := strconv.Atoi(m[1])
		return nil, atLine(line, "is not YAML: %s", m[2])
	}
	if !errors.Is(decoder.Decode(new(yaml.Node)), io.EOF) {
		return nil, errors.New("holds more than one document")
	}
	f.root = document.Content[0]
	if line := tooDeepYAML(f.root, 0); line > 0 {
		return nil, atLine(line, "is nested deeper than %d levels", maxDepth)
	}
	return f, nil
}

func tooDeepYAML(n *yaml.Node, depth int) int {
	if depth > maxDepth {
		return max(n.Line, 1)
	}
	for _, c := range n.Content {
		if line := tooDeepYAML(c, depth+1); line > 0 {
			return line
		}
	}
	return 0
}

// yamlLines are the starts of lines by YAML's rule: \n, \r\n, \r, NEL, LS and PS end one.
func yamlLines(text []byte) []int {
	starts := []int{0}
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\n', text[i] == '\r' && (i+1 == len(text) || text[i+1] != '\n'):
			starts = append(starts, i+1)
		case text[i] == 0xC2 && i+1 < len(text) && text[i+1] == 0x85:
			starts = append(starts, i+2)
		case text[i] == 0xE2 && i+2 < len(text) && text[i+1] == 0x80 && (text[i+2] == 0xA8 || text[i+2] == 0xA9):
			starts = append(starts, i+3)
		}
	}
	return starts
}

// offset is where a node begins. Columns count characters.
func (f *yamlFile) offset(n *yaml.Node) int {
	if n.Line < 1 || n.Line > len(f.lines) {
		return len(f.text)
	}
	i := f.lines[n.Line-1]
	for c := 1; c < n.Column && i < len(f.text); c++ {
		_, size := utf8.DecodeRune(f.text[i:])
		i += size
	}
	return i
}

// end is where a node ends. Nodes with anchors or tags of their own cannot be measured.
func (f *yamlFile) end(n *yaml.Node) (int, error) {
	from := f.offset(n)
	switch {
	case n.Kind == yaml.AliasNode:
		return from + 1 + len(n.Value), nil
	case n.Anchor != "" || n.Style&yaml.TaggedStyle != 0:
		return 0, atLine(n.Line, "an anchor or a tag stands here; write this part in a plainer form")
	case n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode:
		return f.flowEnd(n)
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return f.blockEnd(from), nil
	case n.Style&yaml.DoubleQuotedStyle != 0:
		for i := from + 1; i < len(f.text); i++ {
			if f.text[i] == '\\' {
				i++
			} else if f.text[i] == '"' {
				return i + 1, nil
			}
		}
	case n.Style&yaml.SingleQuotedStyle != 0:
		for i := from + 1; i < len(f.text); i++ {
			if f.text[i] == '\'' {
				if i+1 == len(f.text) || f.text[i+1] != '\'' {
					return i + 1, nil
				}
				i++
			}
		}
	default:
		return f.plainEnd(n, from)
	}
	return 0, errNotAsAsked
}

// plainEnd follows the value through the text; white space in it may be folded lines.
func (f *yamlFile) plainEnd(n *yaml.Node, from int) (int, error) {
	i := from
	for j := 0; j < len(n.Value); j++ {
		if isAny(n.Value[j], " \t\n") {
			for i < len(f.text) && isAny(f.text[i], " \t\r\n") {
				i++
			}
			for j+1 < len(n.Value) && isAny(n.Value[j+1], " \t\n") {
				j++
			}
			continue
		}
		if i >= len(f.text) || f.text[i] != n.Value[j] {
			return 0, errNotAsAsked
		}
		i++
	}
	return i, nil
}

// blockEnd is behind the last line of a literal or folded scalar that begins at from with its "|".
func (f *yamlFile) blockEnd(from int) int {
	end := from
	for end < len(f.text) && f.text[end] != '\n' {
		end++
	}
	indent := -1
	stop := end
	for i := end + 1; i <= len(f.text)-1; {
		next := i
		for next < len(f.text) && f.text[next] != '\n' {
			next++
		}
		content := strings.TrimRight(string(f.text[i:next]), " \t\r")
		own := len(content) - len(strings.TrimLeft(content, " "))
		if content != "" {
			if indent < 0 {
				indent = own
			}
			if own < indent || indent == 0 {
				break
			}
			stop = next
		}
		i = next + 1
	}
	if stop > from && f.text[stop-1] == '\r' {
		stop--
	}
	return stop
}

// flowEnd is behind the closing bracket of {…} or […].
func (f *yamlFile) flowEnd(n *yaml.Node) (int, error) {
	i := f.offset(n) + 1
	if n.Style&yaml.FlowStyle == 0 {
		return 0, errNotAsAsked
	}
	if k := len(n.Content); k > 0 {
		end, err := f.end(n.Content[k-1])
		if err != nil {
			return 0, err
		}
		i = max(i, end)
	}
	for ; i < len(f.text); i++ {
		switch {
		case isAny(f.text[i], "]}"):
			return i + 1, nil
		case f.text[i] == '#':
			for i < len(f.text) && f.text[i] != '\n' {
				i++
			}
		case !isAny(f.text[i], " \t\r\n,:"):
			return 0, errNotAsAsked
		}
	}
	return 0, errNotAsAsked
}
