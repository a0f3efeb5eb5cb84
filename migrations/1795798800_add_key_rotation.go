package migrations

import (
	"fmt"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

// What rotations of keys and of the certificate authority have to remember.
func init() {
	migrations.Register(func(app core.App) error {
		for collection, field := range map[string]core.Field{
			"data_keys": &core.DateField{Name: "rotated_at"},
			"nodes":     &core.JSONField{Name: "trusts", MaxSize: 4096},
		} {
			c, err := app.FindCollectionByNameOrId(collection)
			if err != nil {
				return fmt.Errorf("find %s: %w", collection, err)
			}
			c.Fields.Add(field)
			if err := app.Save(c); err != nil {
				return fmt.Errorf("add %s.%s: %w", collection, field.GetName(), err)
			}
		}
		return nil
	}, nil)
}
