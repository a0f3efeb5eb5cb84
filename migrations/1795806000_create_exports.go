package migrations

import (
	_ "embed"
	"errors"
	"fmt"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

//go:embed 1795806000_create_exports.json
var createExports []byte

func init() {
	migrations.Register(func(app core.App) error {
		if err := app.ImportCollectionsByMarshaledJSON(createExports, false); err != nil {
			return err
		}
		tenants, err := app.FindCollectionByNameOrId("tenants")
		if err != nil {
			return fmt.Errorf("find tenants: %w", err)
		}
		name, ok := tenants.Fields.GetByName("name").(*core.TextField)
		if !ok {
			return errors.New("tenants have no name")
		}
		name.Required = false // one that is gone has none
		tenants.Fields.Add(
			&core.TextField{Name: "status_before", Max: 16},
			&core.DateField{Name: "delete_at"},
			&core.DateField{Name: "purge_begun_at"},
		)
		if err := app.Save(tenants); err != nil {
			return fmt.Errorf("add when a tenant is deleted: %w", err)
		}
		insert := func(table string, row dbx.Params) error {
			row["created"], row["updated"] = "2026-11-27 00:00:00.000Z", "2026-11-27 00:00:00.000Z"
			_, err := app.NonconcurrentDB().Insert(table, row).Execute()
			return err
		}
		const id = "permexport00001"
		err = insert("permissions", dbx.Params{"id": id, "key": "tenant.export", "resource": "tenant", "action": "export", "description": "Take along all data of the organisation"})
		if err != nil {
			return err
		}
		return insert("role_permissions", dbx.Params{"id": "rpo" + id[len(id)-12:], "role": "role00000000001", "permission": id})
	}, nil)
}
