package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"

	"github.com/mambahost/mamba/wings/wire"
)

// applyJSON edits JSON, also with comments and trailing commas, through hujson's tree, which packs
// to the very bytes it was read from.
func applyJSON(text []byte, edit wire.Edit) ([]byte, error) {
	steps, err := parsePath(edit.Key, false)
	if err != nil {
		return nil, err
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		text = []byte("{}\n")
		if steps[0].index >= 0 {
			text = []byte("[]\n")
		}
	}
	if line := tooDeepJSON(text); line > 0 {
		return nil, atLine(line, "is nested deeper than %d levels", maxDepth)
	}
	root, err := hujson.Parse(text)
	if err != nil {
		return nil, jsonFault(text, err)
	}
	e := jsonEdit{grown: new(int), text: text, edit: edit, eol: lineEnd(text), unit: jsonIndent(text)}
	changed, err := e.set(&root, steps, nil)
	if err != nil || !changed {
		return text, err
	}
	out := root.Pack()
	if _, err := hujson.Parse(out); err != nil {
		return nil, errNotAsAsked
	}
	return out, nil
}

func jsonFault(text []byte, err error) error {
	var line, column int
	if _, scan := fmt.Sscanf(err.Error(), "hujson: line %d, column %d:", &line, &column); scan == nil {
		_, why, _ := strings.Cut(strings.TrimPrefix(err.Error(), "hujson: "), ": ")
		return atLine(line, "is not JSON: %s", why)
	}
	return fmt.Errorf("is not JSON: %w", err)
}

// tooDeepJSON returns the line at which the nesting passes maxDepth, or 0. It runs before the
// parser, which has no bound of its own.
func tooDeepJSON(text []byte) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; i < len(text) && text[i] != '"' && text[i] != '\n'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '/':
			if end := commentEnd(text[i:]); end > 0 {
				i += end - 1
			}
		case '{', '[':
			if depth++; depth > maxDepth {
				return lineOf(text, i)
			}
		case '}', ']':
			depth--
		}
	}
	return 0
}

func commentEnd(text []byte) int {
	stop := map[string]string{"//": "\n", "/*": "*/"}[string(text[:min(2, len(text))])]
	if stop == "" {
		return 0
	}
	if end := bytes.Index(text[2:], []byte(stop)); end >= 0 {
		return 2 + end + len(stop)
	}
	return len(text)
}

type jsonEdit struct {
	grown *int // bytes of values made so far: a key may be there many times
	text  []byte
	edit  wire.Edit
	eol   string
	unit  string // one level of indentation; "": the file is on one line
}

// set walks to the value and replaces it, making what is missing. done are the steps so far.
func (e jsonEdit) set(v *hujson.Value, steps, done []step) (bool, error) {
	if len(steps) == 0 {
		return e.replace(v, done)
	}
	at := append(done[:len(done):len(done)], steps[0])
	switch node := v.Value.(type) {
	case *hujson.Object:
		if steps[0].index >= 0 {
			return false, atLine(lineOf(e.text, v.StartOffset), "%s is an object, not a list", pathString(done))
		}
		changed, found := false, false
		for i := range node.Members {
			if name, ok := node.Members[i].Name.Value.(hujson.Literal); ok && name.String() == steps[0].key {
				one, err := e.set(&node.Members[i].Value, steps[1:], at)
				if err != nil {
					return false, err
				}
				found, changed = true, changed || one
			}
		}
		if found {
			return changed, nil
		}
		return true, e.addMember(node, steps, done)
	case *hujson.Array:
		switch n := steps[0].index; {
		case n < 0:
			return false, atLine(lineOf(e.text, v.StartOffset), "%s is a list, not an object", pathString(done))
		case n < len(node.Elements):
			return e.set(&node.Elements[n], steps[1:], at)
		case n > len(node.Elements):
			return false, atLine(lineOf(e.text, v.StartOffset), "%s has %d items; item %d cannot be set", pathString(done), len(node.Elements), n)
		}
		return true, e.addElement(node, steps, done)
	case hujson.Literal:
		if node.Kind() == 'n' { // null: nothing is lost
			made, err := e.build(steps, done)
			v.Value = made
			return true, err
		}
	}
	return false, atLine(lineOf(e.text, v.StartOffset), "%s is a value; nothing can be set below it", pathString(done))
}

func (e jsonEdit) replace(v *hujson.Value, done []step) (bool, error) {
	literal, ok := v.Value.(hujson.Literal)
	if !ok {
		return false, atLine(lineOf(e.text, v.StartOffset), "%s is an object or a list; only a value can be set", pathString(done))
	}
	old := map[hujson.Kind]string{'"': kindString, '0': kindNumber, 't': kindBool, 'f': kindBool}[literal.Kind()]
	made, err := e.literal(old)
	if err != nil {
		return false, err
	}
	same := string(made) == string(literal)
	if made.Kind() == '"' && literal.Kind() == '"' {
		same = made.String() == literal.String() // written with other escapes
	}
	if same {
		return false, nil
	}
	if *e.grown += len(made); *e.grown > MaxBytes {
		return false, errGrows
	}
	v.Value = made
	return true, nil
}

func (e jsonEdit) literal(old string) (hujson.Literal, error) {
	kind, err := decideKind(e.edit.Kind, old, e.edit.Value)
	if err != nil {
		return nil, err
	}
	if kind == kindString {
		return jsonString(e.edit.Value), nil
	}
	return hujson.Literal(e.edit.Value), nil
}

// jsonString quotes without the HTML escapes that encoding/json adds for browsers.
func jsonString(s string) hujson.Literal {
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		return hujson.Literal(strconv.Quote(s)) // not reached: text always encodes
	}
	return hujson.Literal(strings.TrimSuffix(out.String(), "\n"))
}

// build makes the value for steps that are not in the file yet. depth counts for indentation.
func (e jsonEdit) build(steps, done []step) (hujson.ValueTrimmed, error) {
	if len(steps) == 0 {
		return e.literal("")
	}
	at := append(done[:len(done):len(done)], steps[0])
	if steps[0].index < 0 {
		node := &hujson.Object{}
		return node, e.addMember(node, steps, done)
	}
	if steps[0].index > 0 {
		return nil, fmt.Errorf("%s is not in the file; a new list begins with item 0", pathString(at))
	}
	node := &hujson.Array{}
	return node, e.addElement(node, steps, done)
}

func (e jsonEdit) addMember(node *hujson.Object, steps, done []step) error {
	made, err := e.build(steps[1:], append(done[:len(done):len(done)], steps[0]))
	if err != nil {
		return err
	}
	member := hujson.ObjectMember{Name: hujson.Value{Value: jsonString(steps[0].key)}, Value: hujson.Value{Value: made}}
	n := len(node.Members)
	if n == 0 {
		if e.unit != "" {
			member.Value.BeforeExtra = hujson.Extra(" ")
		}
		member.Name.BeforeExtra, node.AfterExtra = e.firstItem(node.AfterExtra, len(done))
		node.Members = append(node.Members, member)
		return nil
	}
	last := node.Members[n-1]
	if len(last.Value.BeforeExtra) > 0 {
		member.Value.BeforeExtra = hujson.Extra(" ")
	}
	if last.Value.AfterExtra != nil {
		member.Value.AfterExtra = hujson.Extra{} // keep the trailing comma
	}
	member.Name.BeforeExtra, node.AfterExtra = e.nextItem(last.Name.BeforeExtra, node.AfterExtra)
	node.Members = append(node.Members, member)
	return nil
}

func (e jsonEdit) addElement(node *hujson.Array, steps, done []step) error {
	made, err := e.build(steps[1:], append(done[:len(done):len(done)], steps[0]))
	if err != nil {
		return err
	}
	element := hujson.Value{Value: made}
	n := len(node.Elements)
	if n == 0 {
		element.BeforeExtra, node.AfterExtra = e.firstItem(node.AfterExtra, len(done))
		node.Elements = append(node.Elements, element)
		return nil
	}
	last := node.Elements[n-1]
	if last.AfterExtra != nil {
		element.AfterExtra = hujson.Extra{}
	}
	element.BeforeExtra, node.AfterExtra = e.nextItem(last.BeforeExtra, node.AfterExtra)
	if n == 1 && len(element.BeforeExtra) == 0 {
		element.BeforeExtra = hujson.Extra(" ")
	}
	node.Elements = append(node.Elements, element)
	return nil
}

// nextItem lays a new item out as the one before it. Comments between that one and the closing
// brace stay where they are, before the new one.
func (e jsonEdit) nextItem(before, after hujson.Extra) (newBefore, newAfter hujson.Extra) {
	comments := strings.TrimRight(string(after), " \t\r\n")
	tail := string(after)[len(comments):]
	space := layoutOf(string(before), e.eol)
	if comments != "" && !strings.Contains(space, "\n") {
		space = e.eol + space // behind a line comment nothing else would be read
	}
	return hujson.Extra(comments + space), hujson.Extra(tail)
}

// firstItem lays out the only item of what was empty.
func (e jsonEdit) firstItem(after hujson.Extra, depth int) (newBefore, newAfter hujson.Extra) {
	comments := strings.TrimRight(string(after), " \t\r\n")
	if e.unit == "" && comments == "" {
		return nil, nil
	}
	return hujson.Extra(comments + e.eol + strings.Repeat(e.unit, depth+1)), hujson.Extra(e.eol + strings.Repeat(e.unit, depth))
}

// layoutOf is the white space that puts an item where the one with extra before it is: on a line of
// its own with its indentation, or on the same line.
func layoutOf(extra, eol string) string {
	if i := strings.LastIndexByte(extra, '\n'); i >= 0 {
		rest := extra[i+1:]
		return eol + rest[:len(rest)-len(strings.TrimLeft(rest, " \t"))]
	}
	if extra == "" {
		return ""
	}
	return " "
}

// jsonIndent is one level of indentation: that of the first indented key or value.
func jsonIndent(text []byte) string {
	trimmed := strings.TrimSpace(string(text))
	for i, l := range splitLines(text) {
		content := l.of(text)
		body := strings.TrimLeft(content, " \t")
		if i > 0 && body != "" && len(body) < len(content) && isAny(body[0], "\"{[0123456789-tfn") {
			return content[:len(content)-len(body)]
		}
	}
	if trimmed == "{}" || trimmed == "[]" || strings.Contains(trimmed, "\n") {
		return "  "
	}
	return ""
}
