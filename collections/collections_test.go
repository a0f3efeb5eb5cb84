package collections_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
)

func newApp(t *testing.T) core.App {
	t.Helper()
	return collectionstest.New(t)
}

func TestMigratedSchemaIsTheDescribedOne(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	resolve := func(name string) (string, error) {
		c, err := app.FindCachedCollectionByNameOrId(name)
		if err != nil {
			return "", err
		}
		return c.Id, nil
	}
	for _, d := range collections.All() {
		got, err := app.FindCollectionByNameOrId(d.Name)
		if err != nil {
			t.Errorf("%s: %v", d.Name, err)
			continue
		}
		want, err := collections.Build(d, resolve)
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range []*string{got.ListRule, got.ViewRule, got.CreateRule, got.UpdateRule, got.DeleteRule} {
			if rule != nil {
				t.Errorf("%s has an open rule %q; tenant data has one door, /api/v1", d.Name, *rule)
			}
		}
		if g, w := describe(got), describe(want); !slices.Equal(g, w) {
			t.Errorf("%s differs\n got %v\nwant %v", d.Name, g, w)
		}
	}
	all, err := app.FindAllCollections(core.CollectionTypeBase)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if _, ok := collections.ByName(c.Name); !ok && !c.System {
			t.Errorf("%s is in the database and not in collections.All()", c.Name)
		}
	}
}

func describe(c *core.Collection) []string {
	var out []string
	for _, f := range c.Fields {
		extra := ""
		switch f := f.(type) {
		case *core.TextField:
			extra = fmt.Sprint(f.Required, f.Max, f.Pattern)
		case *core.NumberField:
			extra = fmt.Sprint(f.Required, f.OnlyInt)
		case *core.SelectField:
			extra = fmt.Sprint(f.Required, f.Values, f.MaxSelect)
		case *core.RelationField:
			extra = fmt.Sprint(f.Required, f.CollectionId, f.CascadeDelete)
		case *core.JSONField:
			extra = fmt.Sprint(f.MaxSize)
		}
		out = append(out, fmt.Sprintf("%s %s hidden=%t %s", f.GetName(), f.Type(), f.GetHidden(), extra))
	}
	out = append(out, c.Indexes...)
	slices.Sort(out)
	return out
}

func TestTenantScopedCollectionsHaveAnIndexOnTenant(t *testing.T) {
	t.Parallel()
	for _, d := range collections.All() {
		if !d.Tenant {
			continue
		}
		if !slices.ContainsFunc(d.AllIndexes(), func(i collections.Index) bool {
			return i.Columns == "tenant" || len(i.Columns) > 7 && i.Columns[:7] == "tenant,"
		}) {
			t.Errorf("%s has no index that begins with tenant", d.Name)
		}
	}
}

func TestProxyRoundTrip(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	role, err := collections.One[collections.Role](app, collections.Roles)
	if err != nil {
		t.Fatal(err)
	}
	tenant, err := collections.NewTenant(app)
	if err != nil {
		t.Fatal(err)
	}
	tenant.SetName("Acme")
	tenant.SetSlug("acme")
	tenant.SetStatus("ACTIVE")
	tenant.SetQuotaMemoryMiB(4096)
	if err := collections.PermitFor("tenancy").Save(app, tenant); err != nil {
		t.Fatal(err)
	}
	found, err := collections.FindTenant(app, tenant.Id)
	if err != nil || found.Name() != "Acme" || found.QuotaMemoryMiB() != 4096 || found.Created().IsZero() {
		t.Fatalf("got %v %v", found, err)
	}
	if !role.System() || role.Key() == "" {
		t.Fatalf("seeded role %v", role)
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	if err := collections.Guard(t.Context(), "servers"); !errors.Is(err, collections.ErrNoPermit) {
		t.Errorf("a write without a permit: %v", err)
	}
	if err := collections.Guard(t.Context(), "users"); err != nil {
		t.Errorf("a collection that is not ours: %v", err)
	}
}

func TestTxRefusesANameThatIsNoLock(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	ran := false
	err := collections.Tx(app, []collections.Lock{"Server 1; DROP"}, func(core.App) error { ran = true; return nil })
	if err == nil || ran {
		t.Fatalf("err %v, ran %t", err, ran)
	}
}

func TestAfterCommit(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	var got []string
	boom := errors.New("boom")
	err := collections.Tx(app, []collections.Lock{"tenant:a"}, func(tx core.App) error {
		collections.AfterCommit(tx, func() { got = append(got, "rolled back") })
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if err := collections.Tx(app, nil, func(tx core.App) error {
		collections.AfterCommit(tx, func() { got = append(got, "committed") })
		if len(got) != 0 {
			t.Error("ran before the commit")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, []string{"committed"}) {
		t.Fatalf("got %v", got)
	}
}
