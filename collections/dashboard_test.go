package collections_test

import (
	"testing"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
)

// Two operators open the same row and save one after the other: browsers take the newer one only if its
// number is.
func TestADashboardEditCountsFromTheRowAsItIs(t *testing.T) {
	t.Parallel()
	app := collectionstest.New(t)
	n, err := collections.NewNode(app)
	if err != nil {
		t.Fatal(err)
	}
	n.SetName("a-node")
	n.SetMode("ACTIVE")
	n.SetStatus("OFFLINE")
	n.SetRev(1)
	if err := collections.PermitFor("fleet").Save(app, n); err != nil {
		t.Fatal(err)
	}
	first, err := app.FindRecordById(collections.Nodes, n.Id)
	if err != nil {
		t.Fatal(err)
	}
	second, err := app.FindRecordById(collections.Nodes, n.Id)
	if err != nil {
		t.Fatal(err)
	}
	first.Set("location", "Frankfurt")
	second.Set("location", "Helsinki")
	if _, err := collections.SaveFromDashboard(app, first); err != nil {
		t.Fatal(err)
	}
	if _, err := collections.SaveFromDashboard(app, second); err != nil {
		t.Fatal(err)
	}
	now, err := collections.FindNode(app, n.Id)
	if err != nil {
		t.Fatal(err)
	}
	if now.Rev() != 3 || now.Location() != "Helsinki" {
		t.Errorf("rev %d, location %s", now.Rev(), now.Location())
	}
}
