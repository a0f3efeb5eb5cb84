package migrations

import (
	_ "embed"
	"fmt"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

//go:embed 1795802400_create_api_keys.json
var createAPIKeys []byte

func init() {
	migrations.Register(func(app core.App) error {
		if err := app.ImportCollectionsByMarshaledJSON(createAPIKeys, false); err != nil {
			return err
		}
		tenants, err := app.FindCollectionByNameOrId("tenants")
		if err != nil {
			return fmt.Errorf("find tenants: %w", err)
		}
		tenants.Fields.Add(
			&core.TextField{Name: "status_reason", Max: 500},
			&core.DateField{Name: "status_since"},
		)
		if err := app.Save(tenants); err != nil {
			return fmt.Errorf("add what says why a tenant is not active: %w", err)
		}
		insert := func(table string, row dbx.Params) error {
			row["created"], row["updated"] = "2026-11-27 00:00:00.000Z", "2026-11-27 00:00:00.000Z"
			_, err := app.NonconcurrentDB().Insert(table, row).Execute()
			return err
		}
		const id = "permkey00000001"
		err = insert("permissions", dbx.Params{"id": id, "key": "key.manage", "resource": "key", "action": "manage", "description": "Make and revoke the organisation's API keys"})
		if err != nil {
			return err
		}
		for letter, role := range map[string]string{"o": "role00000000001", "a": "role00000000002"} {
			if err := insert("role_permissions", dbx.Params{"id": "rp" + letter + id[len(id)-12:], "role": role, "permission": id}); err != nil {
				return err
			}
		}
		return nil
	}, nil)
}
