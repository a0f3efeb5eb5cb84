package migrations

import (
	"fmt"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

func init() {
	migrations.Register(func(app core.App) error {
		servers, err := app.FindCollectionByNameOrId("servers")
		if err != nil {
			return fmt.Errorf("find servers: %w", err)
		}
		servers.Fields.Add(&core.DateField{Name: "installed_at"})
		if err := app.Save(servers); err != nil {
			return fmt.Errorf("add servers.installed_at: %w", err)
		}
		// What is installed has data that no failed reinstall may take.
		_, err = app.NonconcurrentDB().NewQuery("UPDATE {{servers}} SET [[installed_at]] = [[created]] WHERE [[install_status]] = 'DONE' OR [[last_start_at]] != ''").Execute()
		return err
	}, nil)
}
