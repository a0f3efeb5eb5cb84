package blueprints

import (
	"fmt"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/google/shlex"
	"gopkg.in/yaml.v3"
)

// Command is what to run: in YAML a list of arguments, or one line.
type Command struct {
	Args []string // as listed; nil when it is a line
	Line string   // as written
}

// Empty reports whether nothing was given.
func (c Command) Empty() bool { return len(c.Args) == 0 && c.Line == "" }

// Words is the argv: the list, or the line split like a shell splits it (quotes and backslashes).
func (c Command) Words() ([]string, error) {
	if c.Line == "" {
		return c.Args, nil
	}
	words, err := shlex.Split(c.Line)
	if err != nil {
		return nil, fmt.Errorf("cannot be split into arguments: %w", err)
	}
	return words, nil
}

// Scalar is a value that YAML may write as text, number or boolean, kept as it was written.
type Scalar string

// Setting sets one value of a config file. Kind is what the author wrote: "string", "number", "bool".
type Setting struct {
	Key      string
	Template string
	Kind     string
}

// Settings are in the order of the file.
type Settings []Setting

// Parse reads a blueprint.yaml strictly and checks it as a whole (Validate). name is what messages
// call the file. The error is Problems, with every fault found; the Blueprint is nil then. Files
// that it names (icon, script) are looked at by Load.
func Parse(source []byte, name string) (*Blueprint, error) {
	b, problems := decode(source, name)
	if len(problems) > 0 {
		return nil, problems.err()
	}
	if err := b.validate(name); err != nil {
		return nil, err
	}
	return b, nil
}

func decode(source []byte, name string) (*Blueprint, Problems) {
	fault := func(line int, format string, args ...any) Problems {
		p := Problem{File: name, Line: line, Message: fmt.Sprintf(format, args...)}
		if line > 0 {
			p.Column = 1
		}
		return Problems{p}
	}
	if len(source) > MaxBytes {
		return nil, fault(0, "is %d bytes; a blueprint has at most %d, move scripts to files of their own (install.script_file)", len(source), MaxBytes)
	}
	if !utf8.Valid(source) {
		return nil, fault(0, "is not UTF-8 text; save it as UTF-8")
	}
	var document yaml.Node
	decoder := yaml.NewDecoder(strings.NewReader(string(source)))
	if err := decoder.Decode(&document); err != nil {
		line, message := yamlError(err)
		return nil, fault(line, "%s", message)
	}
	if decoder.Decode(new(yaml.Node)) == nil {
		return nil, fault(0, "holds more than one document; keep the first and remove what follows \"---\"")
	}
	d := &decoding{file: name, at: positions{"": {1, 1}}}
	b := &Blueprint{}
	if d.bounded(&document, 0) {
		d.value(document.Content[0], "", reflect.ValueOf(b).Elem(), "", "")
	}
	b.positions = d.at
	return b, d.problems
}

var yamlLine = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
})

// yamlError takes the line out of the parser's own words, which are all it gives.
func yamlError(err error) (int, string) {
	if m := yamlLine().FindStringSubmatch(err.Error()); m != nil {
		line, _ := strconv.Atoi(m[1])
		return line, "is not YAML: " + m[2]
	}
	return 0, "is empty; start with \"schema: 1\""
}

// decoding walks a YAML tree along Go types and collects every fault.
type decoding struct {
	file     string
	at       positions
	problems Problems
	nodes    int
}

func (d *decoding) fault(n *yaml.Node, path, format string, args ...any) {
	d.problems = append(d.problems, Problem{d.file, n.Line, n.Column, path, fmt.Sprintf(format, args...)})
}

// bounded refuses what could make a small file large or deep. It reports whether to go on.
func (d *decoding) bounded(n *yaml.Node, depth int) bool {
	d.nodes++
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fault(n, "", "anchors and aliases (& and *) are not allowed; write the value out")
		return false
	case depth > MaxDepth:
		d.fault(n, "", "is nested deeper than %d levels", MaxDepth)
		return false
	case d.nodes > MaxNodes:
		d.fault(n, "", "holds more than %d values", MaxNodes)
		return false
	}
	for _, child := range n.Content {
		if !d.bounded(child, depth+1) {
			return false
		}
	}
	return true
}

// value decodes n into v. check and each are the tags of the field that v is.
func (d *decoding) value(n *yaml.Node, path string, v reflect.Value, check, each string) {
	d.at[path] = position{n.Line, n.Column}
	rules := parseCheck(check)
	switch target := v.Addr().Interface().(type) {
	case *Command:
		*target = d.command(n, path)
		return
	case *Settings:
		*target = d.settings(n, path, rules)
		return
	case *Scalar:
		if text, ok := d.scalar(n, path); ok {
			*target = Scalar(text)
			d.text(n, path, text, rules)
		}
		return
	case *map[string]string:
		*target = d.stringMap(n, path, rules, parseCheck(each))
		return
	}
	switch v.Kind() {
	case reflect.String:
		if text, ok := d.string(n, path); ok {
			v.SetString(text)
			d.text(n, path, text, rules)
		}
	case reflect.Int64:
		d.integer(n, path, v, rules)
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			d.fault(n, path, "must be true or false, not %s", describe(n))
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, path, v.Elem(), check, each)
	case reflect.Slice:
		d.list(n, path, v, rules, each)
	case reflect.Struct:
		d.object(n, path, v)
	default:
		panic("blueprints: no decoding for " + v.Type().String())
	}
}

func (d *decoding) object(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fault(n, path, "must be a mapping (key: value), not %s", describe(n))
		return
	}
	fields := fieldsOf(v.Type())
	seen := d.keys(n, path)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		field, known := fields[key.Value]
		switch {
		case !known:
			d.fault(key, join(path, key.Value), "is not a field; known here: %s", strings.Join(sortedKeys(fields), ", "))
		case seen[key.Value] == key && n.Content[i+1].Tag == "!!null":
			d.fault(key, join(path, key.Value), "has no value; give it one or remove the line")
		case seen[key.Value] == key:
			d.value(n.Content[i+1], join(path, key.Value), v.FieldByIndex(field.Index), field.Tag.Get("check"), field.Tag.Get("each"))
		}
	}
	d.complete(n, path, v, fields, seen)
}

// complete reports required fields that are missing and sets the defaults of the others.
func (d *decoding) complete(n *yaml.Node, path string, v reflect.Value, fields map[string]reflect.StructField, seen map[string]*yaml.Node) {
	for _, name := range sortedKeys(fields) {
		if seen[name] != nil {
			continue
		}
		field := fields[name]
		rules := parseCheck(field.Tag.Get("check"))
		target := v.FieldByIndex(field.Index)
		if rules.required {
			d.fault(n, join(path, name), "is missing and required")
		}
		if target.Kind() == reflect.Struct {
			d.complete(n, join(path, name), target, fieldsOf(target.Type()), nil)
		}
		setDefault(target, rules.fallback)
	}
}

func setDefault(v reflect.Value, text string) {
	if text == "" {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(text == "true")
	case reflect.Int64:
		number, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			panic("blueprints: default " + text)
		}
		v.SetInt(number)
	default:
		panic("blueprints: default for " + v.Type().String())
	}
}

// keys returns the first node of each key, and reports the others.
func (d *decoding) keys(n *yaml.Node, path string) map[string]*yaml.Node {
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch first := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			d.fault(key, path, "a key must be text, not %s", describe(key))
		case first != nil:
			d.fault(key, join(path, key.Value), "is given twice; the first is in line %d", first.Line)
		default:
			seen[key.Value] = key
		}
	}
	return seen
}

func (d *decoding) list(n *yaml.Node, path string, v reflect.Value, rules checks, each string) {
	if n.Kind != yaml.SequenceNode {
		d.fault(n, path, "must be a list (lines that start with \"- \"), not %s", describe(n))
		return
	}
	if rules.required && len(n.Content) == 0 {
		d.fault(n, path, "needs at least one item")
	}
	if rules.max != nil && int64(len(n.Content)) > *rules.max {
		d.fault(n, path, "has %d items; at most %d are allowed", len(n.Content), *rules.max)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(item, fmt.Sprintf("%s[%d]", path, i), v.Index(i), each, "")
	}
}

func (d *decoding) integer(n *yaml.Node, path string, v reflect.Value, rules checks) {
	number, err := strconv.ParseInt(n.Value, 10, 64)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil {
		d.fault(n, path, "must be a whole number, not %s", describe(n))
		return
	}
	if rules.min != nil && number < *rules.min || rules.max != nil && number > *rules.max {
		d.fault(n, path, "%d is not %s", number, rules.span())
		return
	}
	v.SetInt(number)
}

// string reads text. A number is not text: 1.20 would silently become 1.2.
func (d *decoding) string(n *yaml.Node, path string) (string, bool) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		return n.Value, true
	}
	if n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		d.fault(n, path, "must be text; put quotes round it: %q", n.Value)
	} else {
		d.fault(n, path, "must be text, not %s", describe(n))
	}
	return "", false
}

// scalar reads text, number or boolean as it is written.
func (d *decoding) scalar(n *yaml.Node, path string) (string, bool) {
	if n.Kind == yaml.ScalarNode {
		switch n.Tag {
		case "!!str", "!!int", "!!float":
			return n.Value, true
		case "!!bool":
			return strings.ToLower(n.Value), true
		}
	}
	d.fault(n, path, "must be text, a number, true or false, not %s", describe(n))
	return "", false
}

func (d *decoding) text(n *yaml.Node, path, text string, rules checks) {
	if message := rules.text(text); message != "" {
		d.fault(n, path, "%s", message)
	}
}

func (d *decoding) command(n *yaml.Node, path string) Command {
	switch {
	case n.Kind == yaml.SequenceNode:
		var words []string
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			d.at[at] = position{item.Line, item.Column}
			if text, ok := d.scalar(item, at); ok {
				words = append(words, text)
			}
		}
		if len(words) == 0 || words[0] == "" {
			d.fault(n, path, "is empty; name the program to run")
		}
		return Command{Args: words}
	case n.Kind == yaml.ScalarNode && n.Tag == "!!str":
		if strings.TrimSpace(n.Value) == "" {
			d.fault(n, path, "is empty; name the program to run")
		}
		return Command{Line: n.Value}
	}
	d.fault(n, path, "must be a list of arguments or one line of text, not %s", describe(n))
	return Command{}
}

func (d *decoding) settings(n *yaml.Node, path string, rules checks) Settings {
	if n.Kind != yaml.MappingNode {
		d.fault(n, path, "must be a mapping (path in the file: value), not %s", describe(n))
		return nil
	}
	if len(n.Content) == 0 || int64(len(n.Content)/2) > *rules.max {
		d.fault(n, path, "has %d settings; between 1 and %d are allowed", len(n.Content)/2, *rules.max)
		return nil
	}
	var all Settings
	seen := d.keys(n, path)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, item := n.Content[i], n.Content[i+1]
		at := join(path, key.Value)
		d.at[at] = position{item.Line, item.Column}
		if text, ok := d.scalar(item, at); ok && seen[key.Value] == key {
			all = append(all, Setting{Key: key.Value, Template: text, Kind: kindOf(item)})
		}
	}
	return all
}

func kindOf(n *yaml.Node) string {
	switch n.Tag {
	case "!!int", "!!float":
		return "number"
	case "!!bool":
		return "bool"
	}
	return "string"
}

func (d *decoding) stringMap(n *yaml.Node, path string, rules, each checks) map[string]string {
	if n.Kind != yaml.MappingNode {
		d.fault(n, path, "must be a mapping (NAME: value), not %s", describe(n))
		return nil
	}
	if rules.max != nil && int64(len(n.Content)/2) > *rules.max {
		d.fault(n, path, "has %d entries; at most %d are allowed", len(n.Content)/2, *rules.max)
		return nil
	}
	all := map[string]string{}
	seen := d.keys(n, path)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, item := n.Content[i], n.Content[i+1]
		at := join(path, key.Value)
		d.at[at] = position{item.Line, item.Column}
		if seen[key.Value] != key {
			continue
		}
		d.text(key, at, key.Value, each)
		if text, ok := d.scalar(item, at); ok {
			all[key.Value] = text
		}
	}
	return all
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return n.Value
	}
	return strconv.Quote(n.Value)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fieldsOf are the fields of a struct type by their name in YAML.
func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	fields := map[string]reflect.StructField{}
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "" {
			fields[name] = t.Field(i)
		}
	}
	return fields
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
