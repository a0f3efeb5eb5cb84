package blueprints

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// The reference is written from the types of blueprint.go: their tags say what a value must be,
// their comments what it means. It goes to schema.json, for editors, and into docs/blueprints.md
// between two marks, for people.

const (
	docsFile  = "../docs/blueprints.md"
	docsBegin = "<!-- reference: written by go generate ./blueprints -->\n"
	docsEnd   = "<!-- end of reference -->\n"
)

func TestReferenceIsCurrent(t *testing.T) {
	t.Parallel()
	r := reference{comments: fieldComments(t)}
	schema := indented(t, r.document())
	docs, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(docs), docsBegin)
	_, after, ok2 := strings.Cut(rest, docsEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has lost the marks of its reference", docsFile)
	}
	written := before + docsBegin + r.markdown() + docsEnd + after
	for file, want := range map[string]string{"schema.json": string(schema), docsFile: written} {
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s is not current (%v); run go generate ./blueprints", file, err)
		}
	}
}

// TestShippedGamesPassTheSchema checks the shipped games with a validator that is not ours, and that
// the schema refuses what Parse refuses for its form.
func TestShippedGamesPassTheSchema(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	all, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		if err := schema.Validate(asJSON(t, string(b.Source))); err != nil {
			t.Errorf("%s: %v", b.ID, err)
		}
	}
	for name, source := range map[string]string{
		"a protocol that is none": strings.Replace(small, "protocol: both", "protocol: tpc", 1),
		"an unknown field":        small + "unknown: 1\n",
		"a missing field":         strings.Replace(small, "summary: A game.\n", "", 1),
		"a bad slug":              strings.Replace(small, "id: my-game", "id: My_Game", 1),
		"a number out of range":   strings.Replace(small, "7000", "70000", 1),
		"a number for text":       strings.Replace(small, "version: 1.0.0", "version: 1.0", 1),
		"too long a name":         strings.Replace(small, "name: My game", "name: "+strings.Repeat("x", 81), 1),
		"a list in a command":     strings.Replace(small, `startup: ./server --name "{{var.NAME}}" --port {{port.game}}`, "startup: [[a]]", 1),
	} {
		if schema.Validate(asJSON(t, source)) == nil {
			t.Errorf("the schema lets pass: %s", name)
		}
		if _, err := Parse([]byte(source), FileName); err == nil {
			t.Errorf("Parse lets pass: %s", name)
		}
	}
}

func asJSON(t *testing.T, source string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(source), &v); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// fieldComments reads the comments of types ("Port") and fields ("Port.Name") of blueprint.go.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "blueprint.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	comments := map[string]string{}
	line := func(group *ast.CommentGroup) string { return strings.Join(strings.Fields(group.Text()), " ") }
	ast.Inspect(file, func(n ast.Node) bool {
		declaration, ok := n.(*ast.GenDecl)
		if !ok || declaration.Tok != token.TYPE {
			return true
		}
		for _, spec := range declaration.Specs {
			named := spec.(*ast.TypeSpec)
			comments[named.Name.Name] = line(declaration.Doc)
			structure, ok := named.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, field := range structure.Fields.List {
				if field.Tag == nil {
					continue
				}
				if field.Doc == nil {
					t.Errorf("%s.%s has no comment, so the reference says nothing of it", named.Name.Name, field.Names[0].Name)
					continue
				}
				comments[named.Name.Name+"."+field.Names[0].Name] = line(field.Doc)
			}
		}
		return true
	})
	return comments
}

type reference struct{ comments map[string]string }

type object = map[string]any

func (r reference) document() object {
	root := r.structure(reflect.TypeFor[Blueprint]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Mamba Host blueprint"
	return root
}

func (r reference) structure(t reflect.Type) object {
	properties, required := object{}, []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("yaml")
		if name == "" {
			continue
		}
		rules := parseCheck(f.Tag.Get("check"))
		one := r.schema(f.Type, rules, parseCheck(f.Tag.Get("each")))
		one["description"] = r.comments[t.Name()+"."+f.Name]
		if rules.fallback != "" {
			one["default"] = typedDefault(f.Type, rules.fallback)
		}
		properties[name] = one
		if rules.required {
			required = append(required, name)
		}
	}
	out := object{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

func typedDefault(t reflect.Type, text string) any {
	if t.Kind() == reflect.String {
		return text
	}
	return json.RawMessage(text)
}

var anyScalar = []string{"string", "number", "boolean"}

func (r reference) schema(t reflect.Type, rules, each checks) object {
	switch t {
	case reflect.TypeFor[Command]():
		return object{"oneOf": []any{
			object{"type": "string", "minLength": 1},
			object{"type": "array", "minItems": 1, "items": object{"type": anyScalar}},
		}}
	case reflect.TypeFor[Settings]():
		return object{"type": "object", "minProperties": 1, "maxProperties": *rules.max, "additionalProperties": object{"type": anyScalar}}
	case reflect.TypeFor[Scalar]():
		return object{"type": anyScalar}
	case reflect.TypeFor[map[string]string]():
		return object{"type": "object", "maxProperties": *rules.max, "propertyNames": object{"pattern": patterns[each.pattern].expression},
			"additionalProperties": object{"type": anyScalar}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return r.schema(t.Elem(), rules, each)
	case reflect.Struct:
		return r.structure(t)
	case reflect.Slice:
		out := object{"type": "array", "items": r.schema(t.Elem(), each, checks{})}
		if rules.required {
			out["minItems"] = 1
		}
		if rules.max != nil {
			out["maxItems"] = *rules.max
		}
		return out
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int64:
		out := object{"type": "integer"}
		if rules.min != nil {
			out["minimum"] = *rules.min
		}
		if rules.max != nil {
			out["maximum"] = *rules.max
		}
		return out
	}
	return textSchema(rules)
}

func textSchema(rules checks) object {
	out := object{"type": "string"}
	if rules.required {
		out["minLength"] = 1
	}
	if rules.max != nil {
		out["maxLength"] = *rules.max
	}
	if len(rules.enum) > 0 {
		out["enum"] = rules.enum
	}
	if rules.pattern != "" {
		out["pattern"] = patterns[rules.pattern].expression
	}
	return out
}

// markdown is one table per structure, in the order in which they are first named.
func (r reference) markdown() string {
	var out strings.Builder
	queue, seen := []reflect.Type{reflect.TypeFor[Blueprint]()}, map[reflect.Type]bool{}
	for len(queue) > 0 {
		t := queue[0]
		queue = queue[1:]
		if seen[t] {
			continue
		}
		seen[t] = true
		fmt.Fprintf(&out, "\n### %s\n\n%s\n\n| field | kind | |\n| --- | --- | --- |\n", t.Name(), r.comments[t.Name()])
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Tag.Get("yaml") == "" {
				continue
			}
			rules := parseCheck(f.Tag.Get("check"))
			kind, next := kindName(f.Type, rules)
			if next != nil {
				queue = append(queue, next)
			}
			fmt.Fprintf(&out, "| `%s` | %s | %s |\n", f.Tag.Get("yaml"), kind, r.comments[t.Name()+"."+f.Name])
		}
	}
	out.WriteByte('\n')
	return out.String()
}

// kindName says what a field takes, and which structure that is.
func kindName(t reflect.Type, rules checks) (string, reflect.Type) {
	var next reflect.Type
	name := ""
	switch t {
	case reflect.TypeFor[Command]():
		name = "line or list"
	case reflect.TypeFor[Settings]():
		name = "mapping"
	case reflect.TypeFor[Scalar]():
		name = "text, number or boolean"
	case reflect.TypeFor[map[string]string]():
		name = "mapping"
	}
	for name == "" {
		switch t.Kind() {
		case reflect.Pointer:
			t = t.Elem()
			continue
		case reflect.Slice:
			name = "list of text"
			if t.Elem().Kind() == reflect.Struct {
				next = t.Elem()
				name = fmt.Sprintf("list of [%s](#%s)", next.Name(), strings.ToLower(next.Name()))
			}
		case reflect.Struct:
			next = t
			name = fmt.Sprintf("[%s](#%s)", t.Name(), strings.ToLower(t.Name()))
		case reflect.Bool:
			name = "boolean"
		case reflect.Int64:
			name = "number"
			if rules.min != nil || rules.max != nil {
				name += ", " + rules.span()
			}
		default:
			name = "text"
			if len(rules.enum) > 0 {
				name = "`" + strings.Join(rules.enum, "`, `") + "`"
			}
		}
	}
	if rules.required {
		name = "**required**, " + name
	}
	if rules.fallback != "" {
		name += "; default `" + rules.fallback + "`"
	}
	return name, next
}
