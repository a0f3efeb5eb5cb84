package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/mambahost/mamba"

// rooms under hooks/ in their order: each may import those before it (docs/adr/0001-layout.md).
var rooms = []string{
	"secrets", "cluster", "events", "audit", "jobs", "incidents", "access", "tenancy", "notify", "alloc", "metering",
	"catalog", "fleet", "billing", "servers", "backups", "compliance", "ops", "demo",
}

// rule says what the packages below from may not import, and why.
type rule struct {
	from    string // directory, "wings/wire"
	refuses func(imported string) bool
	reason  string
}

var rules = []rule{
	{"wings/wire", func(i string) bool { return strings.Contains(i, ".") }, "both binaries speak it, so it stands on the standard library alone"},
	{"wings/outbound", func(i string) bool { return strings.Contains(i, ".") }, "both binaries make customers' requests with it, so it stands on the standard library alone"},
	{"wings", func(i string) bool {
		return within(i, module+"/hooks") || within(i, module+"/collections") || within(i, module+"/migrations") || within(i, "github.com/pocketbase/pocketbase")
	}, "a node must not carry the panel: wings knows nothing of PocketBase, collections or hooks"},
	{"migrations", func(i string) bool { return within(i, module) }, "history is frozen: a migration holds literals and never follows the present"},
	{"collections", func(i string) bool {
		return within(i, module) && !within(i, module+"/collections") && i != module+"/migrations"
	}, "the schema knows nothing of behaviour"},
	{"blueprints/render", func(i string) bool {
		return within(i, module) && i != module+"/wings/wire" && !within(i, module+"/blueprints/render")
	}, "config editing is pure, both sides use it"},
	{"blueprints", func(i string) bool {
		return within(i, module) && !within(i, module+"/blueprints") && i != module+"/wings/wire"
	}, "the language of a game knows no panel and no node"},
	{"hooks", func(i string) bool { return i == module+"/hooks" }, "hooks.go wires the rooms; a room that imports it would be a cycle"},
	{"hooks", func(i string) bool { return within(i, module+"/wings") && !bothSides(i) }, "the panel speaks to a node through wings/wire only"},
	{"pb_public", func(i string) bool { return within(i, module) && !within(i, module+"/pb_public") }, "the web app is files; it is served, it does not serve"},
}

func within(i, prefix string) bool { return i == prefix || strings.HasPrefix(i, prefix+"/") }

// bothSides are the packages under wings that the panel has, too: what both say, and how a request is made
// whose address a customer chose (docs/adr/0017-outbound.md).
func bothSides(i string) bool { return i == module+"/wings/wire" || i == module+"/wings/outbound" }

var forbidden = []string{"util", "utils", "common", "helpers", "base", "misc", "shared", "types", "models", "manager"}

// sourceFiles calls fn for every Go file of the module with its imports.
func sourceFiles(t *testing.T, fn func(file string, imports []string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && file != ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range parsed.Imports {
			imports = append(imports, strings.Trim(i.Path.Value, `"`))
		}
		fn(filepath.ToSlash(file), imports)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImportRules(t *testing.T) {
	t.Parallel()
	checked := 0
	sourceFiles(t, func(file string, imports []string) {
		dir := path.Dir(file)
		checked++
		if slices.Contains(forbidden, path.Base(dir)) {
			t.Errorf("%s: %q says nothing about what is in it; name the package after what it owns", file, path.Base(dir))
		}
		for _, i := range imports {
			for _, r := range rules {
				test := strings.HasSuffix(file, "_test.go")
				if test && r.from != "migrations" && r.from != "wings" {
					continue // a test may look at the room from above, and uses test libraries
				}
				if within(dir, r.from) && r.refuses(i) {
					t.Errorf("%s imports %s: %s", file, i, r.reason)
				}
			}
			checkRoomOrder(t, file, dir, i)
		}
	})
	if checked < 50 {
		t.Fatalf("only %d files were looked at", checked)
	}
}

// checkRoomOrder lets a room import only rooms above it.
func checkRoomOrder(t *testing.T, file, dir, imported string) {
	t.Helper()
	own, ok := roomOf(dir)
	if !ok || strings.HasSuffix(file, "_test.go") {
		return
	}
	other, ok := roomOf(strings.TrimPrefix(imported, module+"/"))
	if !ok || other == own {
		return
	}
	from, to := slices.Index(rooms, own), slices.Index(rooms, other)
	if from < 0 {
		t.Errorf("%s: room %q is not in the list; say in docs/adr what it hides and add it", file, own)
	}
	if to > from {
		t.Errorf("%s imports hooks/%s, which is below it; tell it by an event, a job or an interface that hooks.go wires", file, other)
	}
}

func roomOf(dir string) (string, bool) {
	rest, ok := strings.CutPrefix(dir, "hooks/")
	if !ok {
		return "", false
	}
	room, _, _ := strings.Cut(rest, "/")
	return room, true
}

func TestOnlyMainImportsBothSides(t *testing.T) {
	t.Parallel()
	sourceFiles(t, func(file string, imports []string) {
		if file == "main.go" || strings.HasSuffix(file, "_test.go") {
			return
		}
		panel := slices.ContainsFunc(imports, func(i string) bool { return within(i, module+"/hooks") })
		node := slices.ContainsFunc(imports, func(i string) bool { return within(i, module+"/wings") && !bothSides(i) })
		if panel && node {
			t.Errorf("%s imports panel and node; main.go alone may", file)
		}
	})
}

var permitCall = regexp.MustCompile(`PermitFor\("([a-z]+)"\)`)

func TestRoomsAskForTheirOwnPermit(t *testing.T) {
	t.Parallel()
	found := 0
	sourceFiles(t, func(file string, _ []string) {
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "collections/") {
			return
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range permitCall.FindAllStringSubmatch(string(raw), -1) {
			found++
			if room, _ := roomOf(path.Dir(file)); room != m[1] {
				t.Errorf("%s takes the permit of %q; a room writes its own tables only", file, m[1])
			}
		}
	})
	if found == 0 {
		t.Fatal("no permit found: the test looks at nothing")
	}
}
