package collections

import (
	"fmt"
	"slices"

	"github.com/pocketbase/pocketbase/core"
)

// SaveFromDashboard saves a record that a superuser changed in the dashboard, if nothing but the
// definition's DashboardFields changed; ErrNoPermit otherwise. It returns the names of what changed.
func SaveFromDashboard(tx core.App, record *core.Record) (changed []string, err error) {
	d, ours := ByName(record.Collection().Name)
	if !ours || record.IsNew() {
		return nil, fmt.Errorf("save a row of %s: %w", record.Collection().Name, ErrNoPermit)
	}
	before := record.Original()
	for _, f := range d.Columns() {
		if before.GetString(f.Name) == record.GetString(f.Name) {
			continue
		}
		if !slices.Contains(d.DashboardFields, f.Name) {
			return nil, fmt.Errorf("change %s.%s: %w", d.Name, f.Name, ErrNoPermit)
		}
		changed = append(changed, f.Name)
	}
	if len(changed) == 0 {
		return nil, nil
	}
	if d.Watched {
		now, err := tx.FindRecordById(record.Collection().Id, record.Id) // others may have written since it was read
		if err != nil {
			return nil, fmt.Errorf("save a row of %s: %w", record.Collection().Name, err)
		}
		record.Set("rev", now.GetInt("rev")+1)
	}
	return changed, PermitFor(d.Owner).Save(tx, record)
}
