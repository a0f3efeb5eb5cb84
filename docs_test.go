package main

import (
	"bytes"
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/mambahost/mamba/hooks"
	"github.com/mambahost/mamba/wings/cli"
)

// What the documentation says is compared with the source here, so that it cannot go stale unseen.

func readPage(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// eachFile calls fn for every file below dir with that suffix, without what others have written.
func eachFile(t *testing.T, dir, suffix string, fn func(file string)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "node_modules" || name == "mamba_data" || strings.HasPrefix(name, ".") && file != ".") {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(name, suffix) {
			fn(filepath.ToSlash(file))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// eachNode calls fn for every node of every Go file below dir that is not a test.
func eachNode(t *testing.T, dir string, fn func(file string, n ast.Node)) {
	t.Helper()
	eachFile(t, dir, ".go", func(file string) {
		if strings.HasSuffix(file, "_test.go") {
			return
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool { fn(file, n); return true })
	})
}

// literal evaluates a literal, or literals added to wire.APIPrefix. ok is false for anything else.
func literal(e ast.Expr) (s string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		left, okLeft := literal(e.X)
		right, okRight := literal(e.Y)
		return left + right, okLeft && okRight
	case *ast.SelectorExpr:
		return "/v1", e.Sel.Name == "APIPrefix"
	}
	return "", false
}

// methodCall returns the receiver's and the method's name of a call x.M(first, …), and its first argument.
func methodCall(n ast.Node) (on, method, first string, ok bool) {
	c, isCall := n.(*ast.CallExpr)
	if !isCall || len(c.Args) == 0 {
		return "", "", "", false
	}
	s, isMethod := c.Fun.(*ast.SelectorExpr)
	if !isMethod {
		return "", "", "", false
	}
	x, isName := s.X.(*ast.Ident)
	if !isName {
		return "", "", "", false
	}
	first, ok = literal(c.Args[0])
	return x.Name, s.Sel.Name, first, ok
}

var httpMethods = []string{"GET", "POST", "PUT", "PATCH", "DELETE"}

// registeredRoutes lists the routes in the source: "GET /servers" on the group of /api/v1, "POST /v1/enrol"
// on a mux of the node listener or of a node.
func registeredRoutes(t *testing.T) []string {
	t.Helper()
	var out []string
	groups := map[string]string{} // file and variable → prefix of its group
	collect := func(file string, n ast.Node) {
		if a, ok := n.(*ast.AssignStmt); ok && len(a.Lhs) == 1 && len(a.Rhs) == 1 {
			name, isName := a.Lhs[0].(*ast.Ident)
			if _, method, prefix, ok := methodCall(a.Rhs[0]); ok && isName && method == "Group" {
				groups[file+name.Name] = prefix
			}
		}
		on, method, first, ok := methodCall(n)
		switch {
		case ok && slices.Contains(httpMethods, method):
			out = append(out, method+" "+groups[file+on]+first)
		case ok && method == "HandleFunc" && strings.Contains(first, " "):
			out = append(out, first)
		}
	}
	eachNode(t, "hooks", collect)
	eachNode(t, "wings/agent", collect)
	return out
}

var spelledRoute = regexp.MustCompile("`((?:GET|POST|PUT|PATCH|DELETE) /[^` ]*)`")

// offMux are documented routes that are matched without a mux.
var offMux = []string{"POST /v1/link/bulk"} // wire.BulkPath, in wings/link

func TestEveryRouteIsInTheAPIPage(t *testing.T) {
	t.Parallel()
	said := map[string]bool{}
	for _, m := range spelledRoute.FindAllStringSubmatch(readPage(t, "docs/api.md"), -1) {
		said[m[1]] = true
	}
	routes := registeredRoutes(t)
	if len(routes) < 40 {
		t.Fatalf("only %d routes were found in the source", len(routes))
	}
	for _, r := range routes {
		if !said[r] {
			t.Errorf("docs/api.md lacks `%s`", r)
		}
	}
	for r := range said {
		if !strings.Contains(r, " /api/") && !slices.Contains(offMux, r) && !slices.Contains(routes, r) {
			t.Errorf("docs/api.md tells of `%s`, which no room registers", r)
		}
	}
}

var errorMakers = []string{"BadRequest", "Unauthenticated", "Forbidden", "NotFound", "Conflict", "Unavailable", "TooMany"}

func TestEveryErrorCodeIsInTheAPIPage(t *testing.T) {
	t.Parallel()
	api, found := readPage(t, "docs/api.md"), 0
	want := func(file, code string) {
		found++
		if !strings.Contains(api, "`"+code+"`") {
			t.Errorf("docs/api.md lacks the code `%s` of %s", code, file)
		}
	}
	eachNode(t, "hooks", func(file string, n ast.Node) {
		if on, method, first, ok := methodCall(n); ok && on == "access" && slices.Contains(errorMakers, method) {
			want(file, first)
		}
		if code, ok := literalField(n, "Error", "Code"); ok {
			want(file, code)
		}
	})
	if found < 50 {
		t.Fatalf("only %d error codes were found in the source", found)
	}
}

// literalField returns the literal value of a field in a composite literal of a type of that name.
func literalField(n ast.Node, typeName, key string) (string, bool) {
	c, ok := n.(*ast.CompositeLit)
	if !ok {
		return "", false
	}
	switch of := c.Type.(type) {
	case *ast.SelectorExpr:
		ok = of.Sel.Name == typeName
	case *ast.Ident:
		ok = of.Name == typeName
	default:
		ok = false
	}
	for _, e := range c.Elts {
		if kv, isPair := e.(*ast.KeyValueExpr); ok && isPair {
			if k, isName := kv.Key.(*ast.Ident); isName && k.Name == key {
				return literal(kv.Value)
			}
		}
	}
	return "", false
}

func TestEveryIncidentAndClockIsInTheOperationsPage(t *testing.T) {
	t.Parallel()
	operations, kinds, clocks := readPage(t, "docs/operations.md"), 0, 0
	eachNode(t, "hooks", func(file string, n ast.Node) {
		if kind, ok := literalField(n, "Incident", "Kind"); ok {
			if kinds++; !strings.Contains(operations, "`"+kind+"`") {
				t.Errorf("docs/operations.md lacks the incident `%s` of %s", kind, file)
			}
		}
		c, ok := n.(*ast.CallExpr)
		if !ok || len(c.Args) < 4 {
			return
		}
		if s, isMethod := c.Fun.(*ast.SelectorExpr); isMethod && s.Sel.Name == "Cron" {
			clocks++
			if name, _ := literal(c.Args[0]); !strings.Contains(operations, "`"+name+"`") {
				t.Errorf("docs/operations.md lacks the scheduled work `%s`", name)
			}
		}
	})
	if kinds < 10 || clocks < 4 {
		t.Fatalf("only %d incidents and %d schedules were found in the source", kinds, clocks)
	}
}

var (
	longFlag = regexp.MustCompile(`(?m)^\s+(?:-\w, )?--([a-z][a-z-]*)`)
	// variable in Go is a whole string literal, or one in parentheses at the end of a flag's help; in
	// scripts it is any word.
	variableInGo = regexp.MustCompile(`["(](MAMBA_[A-Z_]*[A-Z])[")]`)
	variableInSh = regexp.MustCompile(`\b(MAMBA_[A-Z_]*[A-Z])\b`)
)

func TestEveryFlagAndVariableIsDocumented(t *testing.T) {
	t.Parallel()
	configuration := readPage(t, "docs/configuration.md")
	flags := pflag.NewFlagSet("mambahost", pflag.ContinueOnError)
	hooks.Flags(flags, "test")
	flags.VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(configuration, "`--"+f.Name+"`") {
			t.Errorf("docs/configuration.md lacks --%s of mambahost", f.Name)
		}
	})
	for _, command := range []string{"run", "join"} {
		var help bytes.Buffer
		cli.Run(context.Background(), cli.Program{Args: []string{command, "--help"}, Stdout: &help, Stderr: &help})
		found := longFlag.FindAllStringSubmatch(help.String(), -1)
		if len(found) < 2 {
			t.Fatalf("wings %s --help shows no flags:\n%s", command, help.String())
		}
		for _, m := range found {
			if m[1] != "help" && !strings.Contains(configuration, "`--"+m[1]+"`") {
				t.Errorf("docs/configuration.md lacks --%s of wings %s", m[1], command)
			}
		}
	}
	both := configuration + readPage(t, "docs/testing.md")
	found := 0
	check := func(pattern *regexp.Regexp) func(file string) {
		return func(file string) {
			for _, m := range pattern.FindAllStringSubmatch(readPage(t, file), -1) {
				if found++; !strings.Contains(both, "`"+m[1]+"`") {
					t.Errorf("neither docs/configuration.md nor docs/testing.md tells of %s, which %s reads", m[1], file)
				}
			}
		}
	}
	eachFile(t, "hooks", ".go", check(variableInGo))
	eachFile(t, "wings", ".go", check(variableInGo))
	eachFile(t, "deploy", ".go", check(variableInGo))
	eachFile(t, "deploy", ".sh", check(variableInSh))
	check(variableInGo)("harness_test.go")
	if found < 15 {
		t.Fatalf("only %d uses of variables were found", found)
	}
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)\s]*)?\)`)
	namedTest    = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w*)(…?)`")
	declaredTest = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
)

func TestLinksAndTestsThatPagesNameExist(t *testing.T) {
	t.Parallel()
	var tests []string
	eachFile(t, ".", "_test.go", func(file string) {
		for _, m := range declaredTest.FindAllStringSubmatch(readPage(t, file), -1) {
			tests = append(tests, m[1])
		}
	})
	links, names := 0, 0
	eachFile(t, ".", ".md", func(file string) {
		content := readPage(t, file)
		for _, m := range markdownLink.FindAllStringSubmatch(content, -1) {
			if strings.Contains(m[1], ":") {
				continue // another site
			}
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", file, m[1], err)
			}
		}
		for _, m := range namedTest.FindAllStringSubmatch(content, -1) {
			names++
			if !slices.ContainsFunc(tests, func(n string) bool { return n == m[1] || m[2] != "" && strings.HasPrefix(n, m[1]) }) {
				t.Errorf("%s names %s%s, which does not exist", file, m[1], m[2])
			}
		}
	})
	if links < 20 || names < 50 {
		t.Fatalf("only %d links and %d names of tests were looked at", links, names)
	}
}
