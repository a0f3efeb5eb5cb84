package hooks

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Who PocketBase's own routes are for.
const (
	operators = "operators"  // nobody else, with or without an account
	switched  = "switched"   // off for everybody
	rules     = "rules"      // the rules of the collection say; TestT07_TheIsolationMatrix asks all of them
	doors     = "doors"      // one becomes somebody, or shows who one is
	topics    = "topics"     // live events; TestT07_TheIsolationMatrix subscribes
	public    = "public"     // says nothing about anybody
	signedIn  = "signed in"  // about oneself
	fileToken = "file token" // of an operator
)

// pocketBases are all routes that PocketBase registers.
var pocketBases = map[string]string{
	"GET /api/backups": operators, "POST /api/backups": operators, "POST /api/backups/upload": operators, "GET /api/backups/{key}": fileToken, "DELETE /api/backups/{key}": operators, "POST /api/backups/{key}/restore": switched,
	"POST /api/batch":      switched,
	"GET /api/collections": operators, "POST /api/collections": operators, "GET /api/collections/{collection}": operators, "PATCH /api/collections/{collection}": operators, "DELETE /api/collections/{collection}": operators,
	"DELETE /api/collections/{collection}/truncate": switched, "PUT /api/collections/import": switched, "GET /api/collections/meta/scaffolds": operators, "GET /api/collections/meta/oauth2-providers": operators, "POST /api/collections/meta/dry-run-view": operators,
	"GET /api/crons": operators, "POST /api/crons/{id}": operators,
	"POST /api/files/token": signedIn, "GET /api/files/{collection}/{recordId}/{filename}": rules,
	"GET /api/health": public, "GET /api/logs": operators, "DELETE /api/logs": operators, "GET /api/logs/stats": operators, "GET /api/logs/{id}": operators,
	"GET /api/realtime": topics, "POST /api/realtime": topics,
	"GET /api/oauth2-redirect": doors, "POST /api/oauth2-redirect": doors, "GET /api/collections/{collection}/auth-methods": doors, "POST /api/collections/{collection}/auth-refresh": doors,
	"POST /api/collections/{collection}/auth-with-password": doors, "POST /api/collections/{collection}/auth-with-oauth2": doors, "POST /api/collections/{collection}/request-otp": doors, "POST /api/collections/{collection}/auth-with-otp": doors,
	"POST /api/collections/{collection}/request-password-reset": doors, "POST /api/collections/{collection}/confirm-password-reset": doors, "POST /api/collections/{collection}/request-verification": doors, "POST /api/collections/{collection}/confirm-verification": doors,
	"POST /api/collections/{collection}/request-email-change": doors, "POST /api/collections/{collection}/confirm-email-change": doors, "POST /api/collections/{collection}/impersonate/{id}": switched,
	"GET /api/collections/{collection}/records": rules, "GET /api/collections/{collection}/records/{id}": rules, "POST /api/collections/{collection}/records": rules, "PATCH /api/collections/{collection}/records/{id}": rules, "DELETE /api/collections/{collection}/records/{id}": rules,
	"GET /api/settings": operators, "PATCH /api/settings": operators, "POST /api/settings/test/s3": operators, "POST /api/settings/test/email": operators, "POST /api/settings/apple/generate-client-secret": operators,
	"POST /api/sql":        switched,
	"GET /_/{path...}":     public, // the dashboard's files
	"GET /_/extensions.js": public, "GET /_/extensions/": public,
}

var (
	routeLine = regexp.MustCompile(`(\w+)\.(GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS|SEARCH|Any)\(("[^"]*")`)
	groupLine = regexp.MustCompile(`(\w+) := (?:\w+\.)*(\w+)\.Group\("([^"]*)"\)`)
	comment   = regexp.MustCompile(`(?m)//.*$`)
)

// registered reads PocketBase's source for the routes it registers: its router lists none.
func registered(t *testing.T) []string {
	t.Helper()
	raw, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/pocketbase/pocketbase").Output()
	must(t, err)
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(raw)), "apis", "*.go"))
	must(t, err)
	found := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		raw, err := os.ReadFile(file)
		must(t, err)
		text := comment.ReplaceAllString(string(raw), "")
		prefix := map[string]string{"rg": "/api", "pbRouter": "", "Router": ""}
		for _, m := range groupLine.FindAllStringSubmatch(text, -1) {
			above, known := prefix[m[2]]
			if !known {
				t.Fatalf("%s: %s is a group of nobody knows what", filepath.Base(file), m[0])
			}
			prefix[m[1]] = above + m[3]
		}
		for _, m := range routeLine.FindAllStringSubmatch(text, -1) {
			above, known := prefix[m[1]]
			if !known {
				continue // slog.Any and the like
			}
			found[m[2]+" "+above+strings.Trim(m[3], `"`)] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// T07: every route of PocketBase is known, and those that are for operators, or for nobody, are for nobody else. One that
// a later release of PocketBase brings fails here until somebody has said whom it is for.
func TestT07_EveryRouteOfPocketBaseIsKnown(t *testing.T) {
	t.Parallel()
	s := settle(t)
	customer := s.as("owner@demo.example").super
	there := registered(t)
	for route := range pocketBases {
		if !slices.Contains(there, route) {
			t.Errorf("PocketBase has no route %s any more", route)
		}
	}
	before, asked := s.audited(), 0
	for _, route := range there {
		whose, known := pocketBases[route]
		if !known {
			t.Errorf("%s is a route of PocketBase, and nobody has said whom it is for", route)
		}
		if whose == topics {
			continue // they go on until somebody leaves
		}
		method, path, _ := strings.Cut(route, " ")
		path = strings.NewReplacer("{collection}", "tenants", "{key}", "x.zip", "{id}", s.ids["/tenants/"], "{path...}", "", "{recordId}", "x", "{filename}", "x").Replace(path)
		for _, token := range []string{customer, ""} {
			status, _, raw := s.ask(token, "", method, path, plain, `{}`)
			asked++
			want := true
			switch {
			case whose == operators && token == "":
				want = status == 401
			case whose == operators, whose == fileToken:
				want = status == 403 || whose == fileToken && status == 400
			case whose == switched:
				want = status == 404 || status == 401 || status == 403
			}
			if !want || status >= 500 {
				t.Errorf("%s as %q: %d %.200s", route, token[:min(len(token), 8)], status, raw)
			}
		}
	}
	if n := s.audited() - before; n != 0 {
		t.Errorf("%d changes", n)
	}
	t.Logf("T07: %d requests to %d routes of PocketBase", asked, len(there))
}
