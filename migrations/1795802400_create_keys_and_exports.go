package migrations

import (
	_ "embed"
	"fmt"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

//go:embed 1795802400_create_keys_and_exports.json
var createKeysAndExports []byte

func init() {
	migrations.Register(func(app core.App) error {
		if err := app.ImportCollectionsByMarshaledJSON(createKeysAndExports, false); err != nil {
			return err
		}
		tenants, err := app.FindCollectionByNameOrId("tenants")
		if err != nil {
			return fmt.Errorf("find tenants: %w", err)
		}
		tenants.Fields.Add(
			&core.TextField{Name: "status_reason", Max: 500},
			&core.DateField{Name: "status_since"},
			&core.TextField{Name: "status_before", Max: 16},
			&core.DateField{Name: "delete_after"},
			&core.TextField{Name: "delete_by", Max: 15},
		)
		if err := app.Save(tenants); err != nil {
			return fmt.Errorf("add what says why a tenant is not active: %w", err)
		}
		insert := func(table string, row dbx.Params) error {
			row["created"], row["updated"] = "2026-11-27 00:00:00.000Z", "2026-11-27 00:00:00.000Z"
			_, err := app.NonconcurrentDB().Insert(table, row).Execute()
			return err
		}
		for _, p := range []struct{ id, resource, action, description string }{
			{"permkey00000001", "key", "manage", "Make and revoke the organisation's API keys"},
			{"permexport00001", "tenant", "export", "Take all data of the organisation along"},
		} {
			if err := insert("permissions", dbx.Params{"id": p.id, "key": p.resource + "." + p.action, "resource": p.resource, "action": p.action, "description": p.description}); err != nil {
				return err
			}
			for letter, role := range map[string]string{"o": "role00000000001", "a": "role00000000002"} {
				if err := insert("role_permissions", dbx.Params{"id": "rp" + letter + p.id[len(p.id)-12:], "role": role, "permission": p.id}); err != nil {
					return err
				}
			}
		}
		return nil
	}, nil)
}
