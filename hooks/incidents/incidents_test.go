package incidents_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tests"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/incidents"
)

var offline = incidents.Incident{Kind: "node.offline", Severity: incidents.Warning, Title: "A node is offline", Node: "nodeaaaaaaaaaaa"}

func newApp(t *testing.T) *tests.TestApp {
	t.Helper()
	return collectionstest.New(t)
}

func open(t *testing.T, b *incidents.Book, app core.App, in incidents.Incident) {
	t.Helper()
	if err := b.Open(app, in); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, b *incidents.Book, app core.App, f incidents.Filter) []*collections.Incident {
	t.Helper()
	rows, total, err := b.List(app, f, 1, 50)
	if err != nil || total != len(rows) {
		t.Fatalf("%d rows of %d, %v", len(rows), total, err)
	}
	return rows
}

func TestReportsOfOneFingerprintAreCounted(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	opened := 0
	b := incidents.New(func(_ core.App, i *collections.Incident) error {
		if i.Count() != 1 || i.Status() != incidents.Opened {
			t.Errorf("opened as %v", incidents.View(i))
		}
		opened++
		return nil
	})
	open(t, b, app, offline)
	worse := offline
	worse.Severity, worse.Detail = incidents.Critical, "for an hour"
	open(t, b, app, worse)
	open(t, b, app, offline) // milder again
	rows := list(t, b, app, incidents.Filter{Status: incidents.Opened})
	if len(rows) != 1 || rows[0].Count() != 3 || rows[0].Severity() != incidents.Critical || rows[0].Detail() != "" || opened != 1 {
		t.Fatalf("%d rows, first %v, opened %d", len(rows), incidents.View(rows[0]), opened)
	}
	if rows[0].Fingerprint() != "node.offline:nodeaaaaaaaaaaa:" || rows[0].FirstAt().IsZero() || rows[0].LastAt().Before(rows[0].FirstAt()) {
		t.Fatalf("%v", incidents.View(rows[0]))
	}
}

func TestAResolvedIncidentOpensAnew(t *testing.T) {
	t.Parallel()
	app, b := newApp(t), incidents.New(nil)
	if err := b.Resolve(app, "node.offline:nodeaaaaaaaaaaa:", "nothing was wrong"); err != nil {
		t.Fatalf("resolving what never was: %v", err)
	}
	open(t, b, app, offline)
	if err := b.Resolve(app, "node.offline:nodeaaaaaaaaaaa:", "it came back"); err != nil {
		t.Fatal(err)
	}
	rows := list(t, b, app, incidents.Filter{})
	if len(rows) != 1 || rows[0].Status() != incidents.Resolved || rows[0].Resolution() != "it came back" || rows[0].ResolvedAt().IsZero() {
		t.Fatalf("%v", incidents.View(rows[0]))
	}
	if _, err := b.ResolveID(app, rows[0].Id, "again"); !errors.Is(err, incidents.ErrNotOpen) {
		t.Fatalf("resolving twice: %v", err)
	}
	if _, err := b.ResolveID(app, "nosuchincident1", ""); !errors.Is(err, incidents.ErrNotOpen) {
		t.Fatalf("resolving what does not exist: %v", err)
	}
	open(t, b, app, offline)
	rows = list(t, b, app, incidents.Filter{Status: incidents.Opened})
	if len(rows) != 1 || rows[0].Count() != 1 {
		t.Fatalf("opened anew as %v", rows)
	}
	done, err := b.ResolveID(app, rows[0].Id, "by hand")
	if err != nil || done.Status() != incidents.Resolved || incidents.View(done)["resolved_at"] == nil {
		t.Fatal(done, err)
	}
}

func TestOpenSharesItsTransaction(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	boom := errors.New("boom")
	b := incidents.New(func(core.App, *collections.Incident) error { return boom })
	if err := b.Open(app, offline); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if n := len(list(t, b, app, incidents.Filter{})); n != 0 {
		t.Fatalf("%d incidents of a rolled back transaction", n)
	}
	for name, bad := range map[string]incidents.Incident{
		"an unknown severity": {Kind: "a.b", Severity: "terrible", Title: "x"},
		"no severity":         {Kind: "a.b", Title: "x"},
		"no title":            {Kind: "a.b", Severity: incidents.Info},
	} {
		if err := incidents.New(nil).Open(app, bad); err == nil {
			t.Errorf("%s was stored", name)
		}
	}
}

func TestListFiltersAndPages(t *testing.T) {
	t.Parallel()
	app, b := newApp(t), incidents.New(nil)
	for i := range 5 {
		open(t, b, app, incidents.Incident{Kind: "job.dead", Fingerprint: fmt.Sprint("j", i), Severity: incidents.Info,
			Title: strings.Repeat("ü", 300), Detail: "a\x00b", Tenant: fmt.Sprint("tenant", i%2), Server: fmt.Sprint("server", i)})
	}
	for _, c := range []struct {
		name string
		f    incidents.Filter
		want int
	}{
		{"all", incidents.Filter{}, 5},
		{"of a tenant", incidents.Filter{Tenant: "tenant1"}, 2},
		{"of a server", incidents.Filter{Server: "server3"}, 1},
		{"of a server of another tenant", incidents.Filter{Server: "server3", Tenant: "tenant0"}, 0},
		{"resolved", incidents.Filter{Status: incidents.Resolved}, 0},
	} {
		if got := len(list(t, b, app, c.f)); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	seen := map[string]bool{}
	for page := 1; page <= 3; page++ {
		rows, total, err := b.List(app, incidents.Filter{}, page, 2)
		if err != nil || total != 5 {
			t.Fatal(total, err)
		}
		for _, r := range rows {
			seen[r.Id] = true
		}
	}
	if len(seen) != 5 {
		t.Errorf("pages show %d of 5", len(seen))
	}
}

func TestManyReportersMakeOneIncident(t *testing.T) {
	t.Parallel()
	app, b := newApp(t), incidents.New(nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				if err := b.Open(app, offline); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if rows := list(t, b, app, incidents.Filter{}); len(rows) != 1 || rows[0].Count() != 80 {
		t.Fatalf("%d rows, count %d", len(rows), rows[0].Count())
	}
}

// Open and Resolve in any order against a model: per fingerprint one open count, or none.
func TestBookAgainstAModel(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	round := 0
	rapid.Check(t, func(r *rapid.T) {
		round++
		b, model, resolved := incidents.New(nil), map[string]int64{}, 0
		tenant := fmt.Sprint("round", round)
		for i := range rapid.IntRange(1, 12).Draw(r, "operations") {
			key := fmt.Sprint(tenant, rapid.IntRange(0, 2).Draw(r, "key"))
			if rapid.Bool().Draw(r, fmt.Sprint("open", i)) {
				if err := b.Open(app, incidents.Incident{Kind: "a.b", Fingerprint: key, Severity: incidents.Info, Title: "x", Tenant: tenant}); err != nil {
					r.Fatal(err)
				}
				model[key]++
			} else {
				if err := b.Resolve(app, key, "ok"); err != nil {
					r.Fatal(err)
				}
				if model[key] > 0 {
					resolved++
				}
				delete(model, key)
			}
		}
		rows, _, err := b.List(app, incidents.Filter{Tenant: tenant}, 1, 100)
		if err != nil || len(rows) != len(model)+resolved {
			r.Fatalf("%d rows, want %d open and %d resolved, %v", len(rows), len(model), resolved, err)
		}
		for _, i := range rows {
			if i.Status() == incidents.Opened && i.Count() != model[i.Fingerprint()] {
				r.Fatalf("%s counts %d, want %d", i.Fingerprint(), i.Count(), model[i.Fingerprint()])
			}
		}
	})
}

func TestTheDefaultFingerprintTellsPlacesApart(t *testing.T) {
	t.Parallel()
	app, b := newApp(t), incidents.New(nil)
	for _, in := range []incidents.Incident{
		{Kind: "a.b", Node: "n1"},
		{Kind: "a.b", Server: "n1"}, // the same text in another place
		{Kind: "a.b", Node: "n2"},
		{Kind: "a.c", Node: "n1"},
		{Kind: "a.b"},
	} {
		in.Severity, in.Title = incidents.Info, "x"
		open(t, b, app, in)
	}
	rows := list(t, b, app, incidents.Filter{})
	if len(rows) != 5 {
		t.Fatalf("%d of 5 are kept apart", len(rows))
	}
	for _, r := range rows {
		v := incidents.View(r)
		if v["count"] != int64(1) || v["resolved_at"] != nil || v["first_at"] == nil || v["status"] != incidents.Opened {
			t.Errorf("%v", v)
		}
	}
}

func TestResolveSharesItsTransaction(t *testing.T) {
	t.Parallel()
	app, b := newApp(t), incidents.New(nil)
	open(t, b, app, offline)
	boom := errors.New("boom")
	err := collections.Tx(app, []collections.Lock{incidents.Lock}, func(tx core.App) error {
		return errors.Join(b.Resolve(tx, "node.offline:nodeaaaaaaaaaaa:", "x"), boom)
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if n := len(list(t, b, app, incidents.Filter{Status: incidents.Opened})); n != 1 {
		t.Fatalf("%d are open after a rollback", n)
	}
}

// Every server that runs again says so to the book. Only where something is open may that wait for others.
func TestResolvingNothingAsksForNoLock(t *testing.T) {
	t.Parallel()
	app, b := newApp(t), incidents.New(nil)
	resolve := func() error {
		return collections.Tx(app, []collections.Lock{"server:a"}, func(tx core.App) error { return b.Resolve(tx, "node.offline:nodeaaaaaaaaaaa:", "it came back") })
	}
	if err := resolve(); err != nil {
		t.Errorf("nothing is open: %v", err)
	}
	open(t, b, app, offline)
	if err := resolve(); !errors.Is(err, collections.ErrLockOrder) {
		t.Errorf("one is open and was resolved without the lock: %v", err)
	}
	if rows := list(t, b, app, incidents.Filter{Status: incidents.Opened}); len(rows) != 1 {
		t.Errorf("%d are open", len(rows))
	}
}
