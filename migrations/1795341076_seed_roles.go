package migrations

import (
	"strings"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

// The permissions of the first release and who has them: o OWNER, a ADMIN, s SUPPORT, m MEMBER.
var seedPermissions = []struct{ id, resource, action, roles, description string }{
	{"perm00000000001", "tenant", "read", "oasm", "See the organisation and who is in it"},
	{"perm00000000002", "tenant", "update", "oa", "Rename the organisation and change its settings"},
	{"perm00000000003", "tenant", "delete", "o", "Delete the organisation"},
	{"perm00000000004", "tenant", "transfer", "o", "Hand the organisation to another member"},
	{"perm00000000005", "member", "invite", "oa", "Invite people"},
	{"perm00000000006", "member", "update", "oa", "Change what a member may do"},
	{"perm00000000007", "member", "remove", "oa", "Remove members"},
	{"perm00000000008", "role", "manage", "oa", "Make and change the organisation's own roles"},
	{"perm00000000009", "audit", "read", "oa", "Read and export the audit log"},
	{"perm00000000010", "server", "read", "oasm", "See servers and their state"},
	{"perm00000000011", "server", "create", "oa", "Create servers"},
	{"perm00000000012", "server", "update", "oa", "Change a server's name, limits and variables"},
	{"perm00000000013", "server", "delete", "oa", "Delete servers with all their data"},
	{"perm00000000014", "server", "start", "oasm", "Start a server"},
	{"perm00000000015", "server", "stop", "oas", "Stop a server"},
	{"perm00000000016", "server", "restart", "oasm", "Restart a server"},
	{"perm00000000017", "server", "kill", "oas", "End a server at once"},
	{"perm00000000018", "server", "reinstall", "oa", "Run a server's installation again"},
	{"perm00000000019", "server", "activity", "oasm", "See what happened to a server and who did it"},
	{"perm00000000020", "console", "read", "oasm", "Read the console"},
	{"perm00000000021", "console", "write", "oas", "Type commands into the console"},
}

var seedRoles = []struct{ letter, id, key, name, description string }{
	{"o", "role00000000001", "OWNER", "Owner", "Everything, including deleting and handing over the organisation"},
	{"a", "role00000000002", "ADMIN", "Admin", "Everything but deleting and handing over the organisation"},
	{"s", "role00000000003", "SUPPORT", "Support", "Runs servers and types into their consoles, changes nothing about them"},
	{"m", "role00000000004", "MEMBER", "Member", "Sees servers, reads consoles, starts and restarts"},
}

const seededAt = "2026-11-22 00:00:00.000Z"

func init() {
	migrations.Register(func(app core.App) error {
		insert := func(table string, row dbx.Params) error {
			row["created"], row["updated"] = seededAt, seededAt
			_, err := app.NonconcurrentDB().Insert(table, row).Execute()
			return err
		}
		for _, r := range seedRoles {
			if err := insert("roles", dbx.Params{"id": r.id, "tenant": "", "key": r.key, "name": r.name, "description": r.description, "system": true}); err != nil {
				return err
			}
		}
		for _, p := range seedPermissions {
			if err := insert("permissions", dbx.Params{"id": p.id, "key": p.resource + "." + p.action, "resource": p.resource, "action": p.action, "description": p.description}); err != nil {
				return err
			}
			for _, r := range seedRoles {
				if !strings.Contains(p.roles, r.letter) {
					continue
				}
				id := "rp" + r.letter + p.id[len(p.id)-12:]
				if err := insert("role_permissions", dbx.Params{"id": id, "role": r.id, "permission": p.id}); err != nil {
					return err
				}
			}
		}
		return nil
	}, nil)
}
