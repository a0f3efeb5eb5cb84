package tenancy_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/tenancy"
)

var update = flag.Bool("update", false, "write docs/permissions.md")

const permissionsDoc = "../../docs/permissions.md"

// docs/permissions.md is made from the migrated database: go test ./hooks/tenancy -run Doc -update
func TestPermissionsDocIsCurrent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tenancy.Config{})
	roles := []string{tenancy.RoleOwner, tenancy.RoleAdmin, tenancy.RoleSupport, tenancy.RoleMember}
	var b strings.Builder
	b.WriteString("# Permissions\n\nGenerated from the migrated database by `go test ./hooks/tenancy -run Doc -update`; a test checks that it is current.\n" +
		"A role binding for one server gives a role's permissions on that server only.\n\n")
	for _, key := range roles {
		r, err := w.FindFirstRecordByFilter("roles", "key={:k} && tenant=''", map[string]any{"k": key})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "- **%s** (%s): %s.\n", r.GetString("name"), key, r.GetString("description"))
	}
	b.WriteString("\n| permission | what it allows | Owner | Admin | Support | Member |\n| --- | --- | --- | --- | --- | --- |\n")
	all, err := collections.Every[collections.Permission](w, collections.Permissions, "resource, key", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		fmt.Fprintf(&b, "| `%s` | %s |", p.Key(), p.Description())
		for _, key := range roles {
			rows, err := w.FindRecordsByFilter("role_permissions", "role.key={:r} && permission={:p}", "", 0, 0, map[string]any{"r": key, "p": p.Id})
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, " %s |", strings.Repeat("✓", len(rows)))
		}
		b.WriteString("\n")
	}
	if *update {
		if err := os.WriteFile(permissionsDoc, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(permissionsDoc)
	if err != nil || string(got) != b.String() {
		t.Errorf("docs/permissions.md is not current (%v); run go test ./hooks/tenancy -run Doc -update", err)
	}
}
