package hooks

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
)

// What a parser of SQL, of PocketBase's filters or of numbers may stumble over.
var hostile = []string{
	"'", "\"", "`", "';--", "' OR '1'='1", "\" OR \"\"=\"", "1 OR 1=1", "') OR ('1'='1", "'; DROP TABLE servers;--", "' UNION SELECT token_hash FROM sessions--",
	"x' AND (SELECT COUNT(*) FROM users) > 0 --", "{:id}", "{{servers}}", "[[id]]", "{:p0}", "@request.auth.id", "@collection.users.email ?~ '@'", "id != ''", "tenant != '' || 1=1",
	"1=1", "(((((", "~", "!~", "%", "_", "%%", "\\", "\\'", "\x00", "a\x00b", "\xff", "\u202e", "-1", "0", "9223372036854775807", "9223372036854775808", "1e309", "NaN", "0x10", "1.5",
	"null", "true", "[]", "{}", "../../etc/passwd", "%27", "%00", "$1", "$$", "?", ":id", "--", "/*", "*/", ";", "sleep(5)", "pg_sleep(5)", "randomblob(1000000000)",
	"created", "-created", "+id,-id", "id,(SELECT 1)", "tenant.name", "password", "tokenKey", "@random", "@rowid", "expand(tenant)", "*", "id:excerpt(1,true)",
}

// queryNames are the parameters that any of our routes reads, found in the source, and PocketBase's own.
func queryNames(t *testing.T) []string {
	t.Helper()
	out := []string{"page", "perPage", "per_page", "sort", "filter", "fields", "expand", "skipTotal", "search", "q", "limit", "cursor"}
	found := regexp.MustCompile(`(?:Get|Has|\w+)\("([a-z_]{1,24})"`)
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		raw, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(raw), "URL.Query()") {
			return err
		}
		for _, m := range found.FindAllStringSubmatch(string(raw), -1) {
			out = append(out, m[1])
		}
		return nil
	})
	must(t, err)
	slices.Sort(out)
	return slices.Compact(out)
}

// T24: hostile texts in every parameter, filter, order and search of every route that reads: no answer is a
// fault of the server, and none holds a row of another organisation.
func TestT24_HostileQueries(t *testing.T) {
	t.Parallel()
	s := settle(t, func(c *Config) { c.TokenPace, c.AddressPace = -1, -1 })
	const canary = "foreign-canary-5512"
	stranger := s.person(canary + "@example.org")
	if status, _, raw := s.ask(stranger, "", "POST", "/api/v1/tenants", plain, `{"name":"`+canary+`"}`); status != 201 {
		t.Fatalf("%d %s", status, raw)
	}
	owner, tenant, names := s.as("owner@demo.example").super, s.ids["/tenants/"], queryNames(t)
	type target struct{ token, path string }
	var targets []target
	for _, route := range routes(t) {
		if method, documented, _ := strings.Cut(route, " "); method == "GET" && !strings.HasSuffix(documented, "/ws") {
			targets = append(targets, target{owner, s.path(documented)}, target{"", s.path(documented)})
			if strings.HasPrefix(documented, "/admin/") {
				targets = append(targets, target{s.super, s.path(documented)})
			}
		}
	}
	for _, d := range collections.All() {
		targets = append(targets, target{owner, "/api/collections/" + d.Name + "/records"}, target{"", "/api/collections/" + d.Name + "/records"})
	}
	for _, name := range []string{"users", "_superusers", "_authOrigins", "_otps", "_mfas", "_externalAuths"} {
		targets = append(targets, target{owner, "/api/collections/" + name + "/records"}, target{"", "/api/collections/" + name + "/records"})
	}
	// found by this test: the list of fields was read after the change
	if status, _, raw := s.ask(owner, tenant, "POST", "/api/v1/tenants?fields=%40random%28", plain, `{"name":"Half made"}`); status != 400 || s.count(collections.Tenants, dbx.HashExp{"name": "Half made"}) != 0 {
		t.Errorf("a list of fields that is none: %d %s", status, raw)
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, seed))
	text := func() string {
		switch random.IntN(4) {
		case 0:
			return hostile[random.IntN(len(hostile))] + hostile[random.IntN(len(hostile))]
		case 1:
			return strings.Repeat(hostile[random.IntN(len(hostile))], 1+random.IntN(50))
		}
		return hostile[random.IntN(len(hostile))]
	}
	asked, faults, foreign := 0, 0, 0
	ask := func(to target, query url.Values) {
		status, _, raw := s.ask(to.token, tenant, "GET", to.path+"?"+query.Encode(), plain, "")
		asked++
		if status >= 500 {
			faults++
			t.Errorf("seed %d: %s?%s: %d %.200s", seed, to.path, query.Encode(), status, raw)
		}
		if to.token != s.super && strings.Contains(raw, canary) && !strings.Contains(query.Encode(), canary) {
			foreign++
			t.Errorf("seed %d: %s?%s shows another organisation: %.200s", seed, to.path, query.Encode(), raw)
		}
	}
	until, atLeast := time.Now().Add(3*time.Second), 1500
	if os.Getenv("MAMBA_NIGHTLY") != "" {
		until = time.Now().Add(10 * time.Minute)
	}
	for asked < atLeast || time.Now().Before(until) {
		query := url.Values{}
		for range 1 + random.IntN(3) {
			query.Add(names[random.IntN(len(names))], text())
		}
		ask(targets[random.IntN(len(targets))], query)
		if t.Failed() {
			break
		}
	}
	t.Logf("T24: seed %d: %d requests to %d routes with %d parameters: %d times 5xx, %d foreign rows", seed, asked, len(targets), len(names), faults, foreign)
}

// spelled are the calls whose text is SQL or a filter, with the place of that text.
var spelled = map[string]int{
	"NewExp": 0, "NewQuery": 0, "OrderBy": 0, "AndOrderBy": 0, "GroupBy": 0, "FindRecordsByFilter": 1, "FindFirstRecordByFilter": 1, "CountRecordsByFilter": 1,
}

// pieces are the calls that put SQL together of what is no constant, each looked at: names of tables and columns
// from our own lists, and placeholders. Nothing that a request says is in any of them.
var pieces = map[string]string{
	"jobs/claim.go":         "placeholders of the registered kinds",
	"access/idempotency.go": "tables from a list in the code",
	"alloc/leaks.go":        "statements from a list in the code",
	"notify/notify.go":      "tables from a list in the code",
	"servers/sight.go":      "columns and orders from a list in the code",
}

func TestT24_SQLIsNotPutTogetherOfTexts(t *testing.T) {
	t.Parallel()
	used, looked := map[string]bool{}, 0
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			place, sql := spelled[nameOf(call.Fun)]
			if !sql || len(call.Args) <= place {
				return true
			}
			looked++
			if constant(call.Args[place]) {
				return true
			}
			if _, known := pieces[filepath.ToSlash(file)]; known {
				used[filepath.ToSlash(file)] = true
				return true
			}
			t.Errorf("%s: %s is given a text that is put together; use a constant with {:parameters}", set.Position(call.Pos()), nameOf(call.Fun))
			return true
		})
		return nil
	})
	must(t, err)
	for file := range pieces {
		if !used[file] {
			t.Errorf("%s puts nothing together any more; take it off the list", file)
		}
	}
	if looked < 40 {
		t.Errorf("only %d calls were found", looked)
	}
	t.Logf("T24: %d calls with SQL, %d files put some together", looked, len(used))
}

// constant says whether a text is spelled out: a literal, a name that is one (a constant, or a variable that is set from
// one nearby), or some of these joined.
func constant(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit, *ast.Ident:
		return true
	case *ast.SelectorExpr: // collections.Servers
		_, ok := e.X.(*ast.Ident)
		return ok && ast.IsExported(e.Sel.Name)
	case *ast.BinaryExpr:
		return bothConstant(e)
	}
	return false
}

// bothConstant: what is joined has to be literals and exported names of packages.
func bothConstant(e *ast.BinaryExpr) bool {
	part := func(e ast.Expr) bool {
		switch e := e.(type) {
		case *ast.BasicLit:
			return true
		case *ast.BinaryExpr:
			return bothConstant(e)
		case *ast.SelectorExpr:
			return constant(e)
		}
		return false
	}
	return part(e.X) && part(e.Y)
}
