package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
)

var quiet = slog.New(slog.DiscardHandler)

// heard keeps what a subscriber got.
type heard struct {
	mu   sync.Mutex
	got  []string
	more chan struct{} // capacity 1
}

func newHeard() *heard { return &heard{more: make(chan struct{}, 1)} }

func (h *heard) take(m Message) {
	h.mu.Lock()
	h.got = append(h.got, string(m.Data))
	h.mu.Unlock()
	nudge(h.more)
}

func (h *heard) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got)
}

func alone(t *testing.T, app core.App) *Cluster {
	t.Helper()
	c, err := New(app, Config{Log: quiet, Address: "panel:8443", Release: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

func TestAloneMessagesGoRoundAfterTheCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := collectionstest.Base(t)
		c := alone(t, app)
		h, gaps := newHeard(), 0
		c.Subscribe("a.b", h.take)
		c.OnGap(func() { gaps++ })
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		publish := func(tx core.App, data string) {
			if err := c.Publish(tx, "a.b", []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		publish(app, "at once")
		boom := errors.New("boom")
		for _, end := range []error{nil, boom} {
			err := collections.Tx(app, nil, func(tx core.App) error {
				publish(tx, fmt.Sprint("with ", end))
				publish(tx, "")
				publish(tx, "")
				synctest.Wait()
				if n := len(h.all()); end == nil && n != 1 {
					t.Errorf("%v before the commit", h.all())
				}
				return end
			})
			if !errors.Is(err, end) {
				t.Fatal(err)
			}
		}
		if err := app.RunInTransaction(func(tx core.App) error { publish(tx, "foreign"); return nil }); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, want := h.all(), []string{"at once", "with <nil>", "", "foreign"}; !slices.Equal(got, want) || gaps != 0 {
			t.Fatalf("got %q, want %q, %d gaps", got, want, gaps)
		}
		c.Stop()
		c.Stop()
	})
}

func TestAloneTheOrderIsThatOfTheCommits(t *testing.T) {
	t.Parallel()
	app := collectionstest.Base(t)
	c := alone(t, app)
	h := newHeard()
	c.Subscribe("a.b", h.take)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	n := 0                                         // guarded by the one writer
	writer := []collections.Lock{"the_one_writer"} // where the database has one by itself it changes nothing
	for range 8 {
		wg.Go(func() {
			for range 20 {
				err := collections.Tx(app, writer, func(tx core.App) error {
					n++
					return c.Publish(tx, "a.b", []byte(fmt.Sprint(n)))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for len(h.all()) < 160 {
		<-h.more
	}
	for i, got := range h.all() {
		if got != fmt.Sprint(i+1) {
			t.Fatalf("message %d says %s", i+1, got)
		}
	}
}

func TestAloneASubscriberThatIsTooSlowHasAGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := collectionstest.Base(t)
		c := alone(t, app)
		h, gaps := newHeard(), 0
		c.Subscribe("a.b", h.take)
		c.OnGap(func() { gaps++ })
		for i := range topicQueue + 3 {
			if err := c.Publish(app, "a.b", []byte(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := h.all(); len(got) != 3 || got[2] != fmt.Sprint(topicQueue+2) || gaps != 1 {
			t.Fatalf("%v, %d gaps", got, gaps)
		}
	})
}

func TestAloneItLeadsEverythingAndWritesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := collectionstest.Base(t)
		c := alone(t, app)
		led, told := 0, 0
		c.OnLead("work", func(ctx context.Context) { led++; <-ctx.Done(); led-- })
		c.OnInstances(func(list []Instance) { told = len(list) })
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		list, err := c.Instances(app)
		if err != nil || len(list) != 1 || list[0].ID != c.ID() || list[0].Address != "panel:8443" || list[0].Release != "1.2.3" || told != 1 {
			t.Fatalf("%+v %v, told %d", list, err, told)
		}
		if led != 1 || !c.Leads("work") || !c.Alone() || c.Fence(app, "work") != nil {
			t.Fatalf("leads %d", led)
		}
		c.Stop()
		if led != 0 {
			t.Fatal("what it led goes on")
		}
		for _, name := range []string{collections.PanelInstances, collections.Leaders} {
			if n, err := app.CountRecords(name); n != 0 || err != nil {
				t.Fatalf("%d rows in %s, %v", n, name, err)
			}
		}
	})
}

func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	app := collectionstest.Base(t)
	c := alone(t, app)
	for name, err := range map[string]error{
		"no topic":             c.Publish(app, "A b", nil),
		"data over the bound":  c.Publish(app, "a", make([]byte, maxMessage+1)),
		"a topic of no letter": c.Publish(app, "", nil),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, fn := range map[string]func(){
		"Subscribe after Start": func() { c.Subscribe("a", func(Message) {}) },
		"OnGap after Start":     func() { c.OnGap(func() {}) },
		"OnLead after Start":    func() { c.OnLead("a", func(context.Context) {}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was taken", name)
				}
			}()
			fn()
		}()
	}
	if _, err := New(nil, Config{}); err == nil {
		t.Error("a cluster without an app")
	}
}
