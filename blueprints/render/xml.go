package render

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mambahost/mamba/wings/wire"
)

// xmlNode is an element with the offsets of its parts in the text.
type xmlNode struct {
	name     string
	attrs    []xml.Attr
	openFrom int // "<name …>"
	openTo   int
	bodyTo   int // start of "</name>"; openTo when it closes itself
	closeTo  int
	self     bool // "<name/>"
	children []*xmlNode
}

func checkXMLKey(key string) error {
	_, _, err := parseXMLKey(key)
	return err
}

// parseXMLKey reads "Root.Child[1].@attr" and "Root.property[@name='ServerPort'].@value".
func parseXMLKey(key string) (steps []step, attr string, err error) {
	steps, err = parsePath(key, true)
	if err != nil {
		return nil, "", err
	}
	if last := steps[len(steps)-1]; strings.HasPrefix(last.key, "@") {
		attr, steps = last.key[1:], steps[:len(steps)-1]
		if !isXMLName(attr) {
			return nil, "", fmt.Errorf("@%s is not the name of an attribute", attr)
		}
	}
	for i, s := range steps {
		if s.key == "" && (i == 0 || steps[i-1].key == "") || s.key != "" && !isXMLName(s.key) || s.attr != "" && !isXMLName(s.attr) {
			return nil, "", fmt.Errorf("path %q must be names of elements, each with at most one [n] or [@name='value'], and at its end may have @attribute", key)
		}
	}
	if len(steps) == 0 {
		return nil, "", errors.New("an attribute needs its element before it")
	}
	return steps, attr, nil
}

func isXMLName(s string) bool {
	for i, r := range s {
		letter := r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r > 0x7f
		if !letter && (i == 0 || r != '-' && r != '.' && r != ':' && (r < '0' || r > '9')) {
			return false
		}
	}
	return s != ""
}

func applyXML(text []byte, edit wire.Edit) ([]byte, error) {
	steps, attr, err := parseXMLKey(edit.Key)
	if err != nil {
		return nil, err
	}
	for _, r := range edit.Value {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
			return nil, errors.New("the value holds a character that XML cannot")
		}
	}
	if len(bytes.TrimSpace(text)) == 0 {
		text = []byte(`<?xml version="1.0" encoding="utf-8"?>` + "\n<" + steps[0].key + ">\n</" + steps[0].key + ">\n")
	}
	root, err := parseXML(text)
	if err != nil {
		return nil, err
	}
	if root.name != steps[0].key || len(steps) > 1 && steps[1].key == "" {
		return nil, atLine(lineOf(text, root.openFrom), "the root element is <%s>, not <%s>", root.name, steps[0].key)
	}
	out, err := setXML(text, root, steps, attr, edit.Value)
	if err != nil {
		return nil, err
	}
	if got, ok := readXML(out, steps, attr); !ok || got != xmlSeen(edit.Value, attr) {
		return nil, errNotAsAsked
	}
	return out, nil
}

// xmlSeen is how a reader gives a value back: bare line ends are normalised, so they are written as
// references and come back whole.
func xmlSeen(value, attr string) string {
	if attr == "" {
		return strings.TrimSpace(value)
	}
	return value
}

func parseXML(text []byte) (*xmlNode, error) {
	decoder := xml.NewDecoder(bytes.NewReader(text))
	decoder.CharsetReader = func(charset string, input io.Reader) (io.Reader, error) {
		switch strings.ToLower(charset) {
		case "us-ascii", "ascii":
			return input, nil
		}
		return nil, fmt.Errorf("is written in %s; save it as UTF-8", charset)
	}
	var root *xmlNode
	var open []*xmlNode
	for {
		from := int(decoder.InputOffset())
		token, err := decoder.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, atLine(lineOf(text, int(decoder.InputOffset())), "is not XML: %s", strings.TrimPrefix(err.Error(), "XML syntax error on "))
		}
		to := int(decoder.InputOffset())
		switch t := token.(type) {
		case xml.StartElement:
			n := &xmlNode{name: qualified(t.Name), attrs: t.Attr, openFrom: from, openTo: to}
			n.self = to >= 2 && text[to-2] == '/'
			if len(open) > 0 {
				parent := open[len(open)-1]
				parent.children = append(parent.children, n)
			} else if root != nil {
				return nil, atLine(lineOf(text, n.openFrom), "has more than one root element")
			} else {
				root = n
			}
			if open = append(open, n); len(open) > maxDepth {
				return nil, atLine(lineOf(text, n.openFrom), "is nested deeper than %d levels", maxDepth)
			}
		case xml.EndElement:
			if len(open) == 0 || open[len(open)-1].name != qualified(t.Name) {
				return nil, atLine(lineOf(text, from), "closes <%s>, which is not open", qualified(t.Name))
			}
			n := open[len(open)-1]
			n.bodyTo, n.closeTo = from, to
			open = open[:len(open)-1]
		}
	}
	if root == nil || len(open) > 0 {
		return nil, atLine(lineOf(text, len(text)), "ends before its elements are closed")
	}
	return root, nil
}

func qualified(n xml.Name) string {
	if n.Space != "" {
		return n.Space + ":" + n.Local
	}
	return n.Local
}

// take cuts one element off the path: a name and what chooses among its like.
func take(steps []step) (name string, choice step, rest []step) {
	name, rest = steps[0].key, steps[1:]
	choice = step{index: 0}
	if len(rest) > 0 && rest[0].key == "" {
		choice, rest = rest[0], rest[1:]
	}
	return name, choice, rest
}

// child finds the chosen child. count is how many of that name there are.
func (n *xmlNode) child(name string, choice step) (found *xmlNode, count int) {
	for _, c := range n.children {
		if c.name != name {
			continue
		}
		matches := count == choice.index
		if choice.attr != "" {
			value, ok := c.attr(choice.attr)
			matches = ok && value == choice.value
		}
		if matches && found == nil {
			found = c
		}
		count++
	}
	return found, count
}

func (n *xmlNode) attr(name string) (string, bool) {
	for _, a := range n.attrs {
		if qualified(a.Name) == name {
			return a.Value, true
		}
	}
	return "", false
}

func setXML(text []byte, root *xmlNode, steps []step, attr, value string) ([]byte, error) {
	node := root
	for rest := steps[1:]; len(rest) > 0; {
		name, choice, after := take(rest)
		next, count := node.child(name, choice)
		if next == nil {
			if choice.attr == "" && choice.index > count {
				return nil, atLine(lineOf(text, node.openFrom), "<%s> has %d <%s>; number %d cannot be set", node.name, count, name, choice.index)
			}
			made, err := buildXML(rest, attr, value)
			if err != nil {
				return nil, atLine(lineOf(text, node.openFrom), "%w", err)
			}
			return addXML(text, node, made)
		}
		node, rest = next, after
	}
	if attr != "" {
		return setXMLAttr(text, node, attr, value)
	}
	if len(node.children) > 0 {
		return nil, atLine(lineOf(text, node.openFrom), "<%s> holds other elements; only text can be set", node.name)
	}
	if node.self {
		head := strings.TrimRight(string(text[node.openFrom:node.openTo-2]), " \t\r\n")
		return splice(text, node.openFrom, node.closeTo, head+">"+escapeXML(value)+"</"+node.name+">"), nil
	}
	if old, ok := textXML(text, node); ok && old == value {
		return text, nil
	}
	return splice(text, node.openTo, node.bodyTo, escapeXML(value)), nil
}

// textXML is the text of an element without children, as a reader gets it.
func textXML(text []byte, n *xmlNode) (string, bool) {
	if n.self {
		return "", true
	}
	decoder := xml.NewDecoder(bytes.NewReader(text[n.openTo:n.bodyTo]))
	var out strings.Builder
	for {
		token, err := decoder.RawToken()
		if errors.Is(err, io.EOF) {
			return out.String(), true
		}
		if err != nil {
			return "", false
		}
		if data, ok := token.(xml.CharData); ok {
			out.Write(data)
		}
	}
}

// setXMLAttr replaces the value between the attribute's own quotes, or adds the attribute.
func setXMLAttr(text []byte, n *xmlNode, name, value string) ([]byte, error) {
	if old, ok := n.attr(name); ok && old == value {
		return text, nil
	}
	i := n.openFrom + 1 + len(n.name)
	for {
		for i < n.openTo && isAny(text[i], " \t\r\n") {
			i++
		}
		start := i
		for i < n.openTo && !isAny(text[i], "= \t\r\n/>") {
			i++
		}
		if i == start { // "/>" or ">"
			return splice(text, lastNonSpace(text, start), lastNonSpace(text, start), fmt.Sprintf(` %s="%s"`, name, escapeXML(value))), nil
		}
		found := string(text[start:i]) == name
		for i < n.openTo && isAny(text[i], "= \t\r\n") {
			i++
		}
		if i >= n.openTo || !isAny(text[i], `"'`) {
			return nil, atLine(lineOf(text, n.openFrom), "<%s> has an attribute without quotes", n.name)
		}
		end := i + 1 + bytes.IndexByte(text[i+1:n.openTo], text[i])
		if end <= i {
			return nil, atLine(lineOf(text, n.openFrom), "<%s> has an attribute without quotes", n.name)
		}
		if found {
			return splice(text, i+1, end, escapeXML(value)), nil
		}
		i = end + 1
	}
}

func lastNonSpace(text []byte, i int) int {
	for i > 0 && isAny(text[i-1], " \t\r\n") {
		i--
	}
	return i
}

// buildXML writes the elements of steps that are not there yet, innermost with the value.
func buildXML(steps []step, attr, value string) (string, error) {
	name, choice, rest := take(steps)
	head := "<" + name
	if choice.attr != "" {
		head += fmt.Sprintf(` %s="%s"`, choice.attr, escapeXML(choice.value))
	}
	if len(rest) > 0 {
		if _, next, _ := take(rest); next.attr == "" && next.index > 0 {
			return "", fmt.Errorf("a new list of <%s> begins with number 0", rest[0].key)
		}
		inner, err := buildXML(rest, attr, value)
		return head + ">" + inner + "</" + name + ">", err
	}
	switch {
	case attr == "":
		return head + ">" + escapeXML(value) + "</" + name + ">", nil
	case attr == choice.attr:
		if value != choice.value {
			return "", fmt.Errorf("@%s chooses the element and cannot be set to something else", attr)
		}
		return head + "/>", nil
	}
	return head + fmt.Sprintf(` %s="%s"/>`, attr, escapeXML(value)), nil
}

// addXML puts an element behind the last child, on a line of its own when the children have that.
func addXML(text []byte, parent *xmlNode, made string) ([]byte, error) {
	eol := lineEnd(text)
	own := indentAt(text, parent.openFrom)
	if parent.self {
		head := strings.TrimRight(string(text[parent.openFrom:parent.openTo-2]), " \t\r\n")
		return splice(text, parent.openFrom, parent.closeTo, head+">"+eol+own+"  "+made+eol+own+"</"+parent.name+">"), nil
	}
	if n := len(parent.children); n > 0 {
		last := parent.children[n-1]
		if before := bytes.TrimRight(text[:last.openFrom], " \t"); len(before) > 0 && before[len(before)-1] == '\n' {
			return splice(text, last.closeTo, last.closeTo, eol+indentAt(text, last.openFrom)+made), nil
		}
		return splice(text, last.closeTo, last.closeTo, made), nil
	}
	if body := strings.TrimSpace(string(text[parent.openTo:parent.bodyTo])); body != "" && !strings.HasPrefix(body, "<!--") {
		return nil, atLine(lineOf(text, parent.openFrom), "<%s> holds text; an element cannot be added to it", parent.name)
	}
	kept := strings.TrimRight(string(text[parent.openTo:parent.bodyTo]), " \t\r\n")
	return splice(text, parent.openTo, parent.bodyTo, kept+eol+own+"  "+made+eol+own), nil
}

// indentAt is the white space before offset, when nothing else is on its line before it.
func indentAt(text []byte, offset int) string {
	start := bytes.LastIndexByte(text[:offset], '\n') + 1
	before := string(text[start:offset])
	return before[:len(before)-len(strings.TrimLeft(before, " \t"))]
}

// readXML reads back what steps and attr name.
func readXML(text []byte, steps []step, attr string) (string, bool) {
	node, err := parseXML(text)
	if err != nil || node.name != steps[0].key {
		return "", false
	}
	for rest := steps[1:]; len(rest) > 0; {
		name, choice, after := take(rest)
		if node, _ = node.child(name, choice); node == nil {
			return "", false
		}
		rest = after
	}
	if attr != "" {
		return node.attr(attr)
	}
	value, ok := textXML(text, node)
	return strings.TrimSpace(value), ok
}

var xmlEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;", "\n", "&#10;", "\r", "&#13;", "\t", "&#9;")

func escapeXML(s string) string { return xmlEscaper.Replace(s) }
