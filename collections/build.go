package collections

import (
	"fmt"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"
)

// Build returns the PocketBase collection that a definition describes. resolve maps a collection
// name to its id for relations. Migrations hold frozen literals made from it; tests compare a
// migrated database with it.
func Build(d Definition, resolve func(name string) (id string, err error)) (*core.Collection, error) {
	c := core.NewBaseCollection(d.Name)
	for _, f := range d.columns() {
		field, err := f.build(resolve)
		if err != nil {
			return nil, fmt.Errorf("build %s.%s: %w", d.Name, f.Name, err)
		}
		c.Fields.Add(field)
	}
	c.Fields.Add(
		&core.AutodateField{Name: "created", OnCreate: true},
		&core.AutodateField{Name: "updated", OnCreate: true, OnUpdate: true},
	)
	for _, i := range d.AllIndexes() {
		c.AddIndex(i.Name, i.Unique, i.Columns, i.Where)
	}
	return c, nil
}

func (f Field) build(resolve func(string) (string, error)) (core.Field, error) {
	switch f.Kind {
	case Text:
		return &core.TextField{Name: f.Name, Required: f.Required, Max: f.Max, Pattern: f.Pattern, Hidden: f.Hidden}, nil
	case Number:
		return &core.NumberField{Name: f.Name, Required: f.Required, OnlyInt: true, Hidden: f.Hidden}, nil
	case Bool:
		return &core.BoolField{Name: f.Name, Hidden: f.Hidden}, nil
	case Email:
		return &core.EmailField{Name: f.Name, Required: f.Required, Hidden: f.Hidden}, nil
	case Date:
		return &core.DateField{Name: f.Name, Required: f.Required, Hidden: f.Hidden}, nil
	case JSON:
		return &core.JSONField{Name: f.Name, MaxSize: int64(f.Max), Hidden: f.Hidden}, nil
	case Select:
		return &core.SelectField{Name: f.Name, Required: f.Required, Values: f.Values, MaxSelect: 1, Hidden: f.Hidden}, nil
	case Relation:
		id, err := resolve(f.Target)
		if err != nil {
			return nil, err
		}
		return &core.RelationField{Name: f.Name, Required: f.Required, CollectionId: id, MaxSelect: 1, Hidden: f.Hidden}, nil
	}
	return nil, fmt.Errorf("kind %q is not known", f.Kind)
}

// dateTime converts for the generated setters; a zero time is stored as "no value".
func dateTime(raw any) types.DateTime {
	d, err := types.ParseDateTime(raw)
	if err != nil {
		return types.DateTime{}
	}
	return d
}
