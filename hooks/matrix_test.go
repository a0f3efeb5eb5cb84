package hooks

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/hooks/tenancy"
)

// permitted are the documented routes that need a permission, with the first that docs/api.md names.
func permitted(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile("../docs/api.md")
	must(t, err)
	out := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(GET|POST|PUT|PATCH|DELETE) (/[a-z{][^` ?]*)`[ TI]*\\| `([a-z_]+\\.[a-z_]+)`").FindAllStringSubmatch(string(raw), -1) {
		out[m[1]+" "+m[2]] = m[3]
	}
	if len(out) < 25 {
		t.Fatalf("only %d documented routes need a permission", len(out))
	}
	return out
}

// whole are bodies that nothing is wrong with, for routes that look at theirs before they ask who may.
var whole = map[string]string{
	"PATCH /tenants/{id}":                    `{"name":"Renamed"}`,
	"POST /tenants/{id}/transfer":            `{"user":"aaaaaaaaaaaaaaa"}`,
	"POST /tenants/{id}/members/invite":      `{"email":"new@example.org","role":"MEMBER"}`,
	"PATCH /tenants/{id}/members/{user}":     `{"role":"MEMBER"}`,
	"PUT /servers/{id}/access/{user}":        `{"role":"MEMBER"}`,
	"POST /tenants/{id}/roles":               `{"name":"Mine"}`,
	"PATCH /tenants/{id}/roles/{role}":       `{"name":"Mine"}`,
	"POST /tenants/{id}/keys":                `{"name":"Mine","permissions":["server.read"]}`,
	"POST /audit/export":                     `{"format":"json"}`,
	"POST /servers":                          `{"name":"one more","blueprint":"demo","limits":{"cpu_millicores":250,"memory_mib":64,"disk_gib":1}}`,
	"POST /servers/placement":                `{"blueprint":"demo","limits":{"cpu_millicores":250,"memory_mib":64,"disk_gib":1}}`,
	"PATCH /servers/{id}":                    `{"name":"Renamed"}`,
	"PATCH /tenants/{id}/channels/{channel}": `{"kinds":{"server.crashed":false}}`,
	"POST /servers/{id}/actions":             `{"action":"start"}`,
}

// T07: every documented route × every role, in one's own organisation and in another's: who has not the permission
// that the page names is refused and changes nothing, and what is another organisation's is not there.
func TestT07_EveryRouteAsksWhatItsPageSays(t *testing.T) {
	t.Parallel()
	s := settle(t)
	tenant := s.ids["/tenants/"]
	holds := map[string][]string{}
	for _, key := range []string{tenancy.RoleAdmin, tenancy.RoleSupport, tenancy.RoleMember} {
		holds[key] = permissionsOf(t, s.app, key)
	}
	// may says whether one of the crew has a permission, or false for whom this is not the test.
	may := func(who, permission, path string) (yes, asked bool) {
		switch who {
		case tenancy.RoleAdmin, tenancy.RoleSupport, tenancy.RoleMember:
			return slices.Contains(holds[who], permission), true
		case anAPIKey, aPersonalKey:
			return slices.Contains(robotMay, permission), true
		case aFriend:
			return strings.HasPrefix(path, "/servers/{id}") && slices.Contains(holds[tenancy.RoleSupport], permission) || permission == "server.read" && path == "/servers" || strings.HasPrefix(path, "/jobs/"), true
		case aStranger, nobody:
			return false, true
		}
		return false, false
	}
	who := s.crew()

	before, tried, refused := s.audited(), 0, 0
	for route, permission := range permitted(t) {
		method, documented, _ := strings.Cut(route, " ")
		body := whole[route]
		if body == "" {
			body = "{}"
		}
		for _, one := range who {
			may, asked := may(one.name, permission, documented)
			if !asked {
				continue
			}
			for _, path := range append([]string{s.path(documented)}, s.missing(documented)...) {
				own := path == s.path(documented)
				if may && own && method != "GET" {
					continue // it would be done
				}
				tried++
				status, out, raw := s.ask(one.token, tenant, method, path, plain, body)
				want := status == 403 || status == 404
				switch {
				case one.name == nobody:
					want = status == 401
				case one.name == aStranger:
					want = status == 404
				case may && own:
					want = status == 200
				case may:
					want = status == 404 || status == 400 || status == 200 && method == "GET"
				}
				if !want || out.Code == "internal" || status >= 400 && (strings.Contains(raw, "Demo Corp") || out.RequestID == "") {
					t.Errorf("%s (%s) by %s at %s: %d %.200s", route, permission, one.name, path, status, raw)
				}
				if status >= 400 {
					refused++
				}
			}
		}
	}
	if n := s.audited() - before; n != 0 {
		t.Errorf("%d changes were made by who may not", n)
	}
	t.Logf("T07: %d requests of %d kinds of people, %d refused, 0 changes", tried, len(who), refused)
}

// missing are the paths of a route with an id that is nowhere, or none.
func (s *settled) missing(documented string) (out []string) {
	before, after, named := strings.Cut(s.named.Replace(documented), "{id}")
	if !named {
		return nil
	}
	for _, id := range []string{"nosuchthing0000", "%00", "..%2f..", strings.Repeat("a", 300)} {
		out = append(out, "/api/v1"+before+id+after)
	}
	return out
}

func permissionsOf(t *testing.T, app core.App, role string) []string {
	t.Helper()
	var keys []string
	err := app.DB().NewQuery(`SELECT [[p.key]] FROM {{role_permissions}} [[rp]] JOIN {{roles}} [[r]] ON [[r.id]] = [[rp.role]] AND [[r.tenant]] = ''
		JOIN {{permissions}} [[p]] ON [[p.id]] = [[rp.permission]] WHERE [[r.key]] = {:role}`).Bind(map[string]any{"role": role}).Column(&keys)
	must(t, err)
	return keys
}
