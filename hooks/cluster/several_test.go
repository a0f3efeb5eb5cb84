package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
)

// several starts n instances; prepare registers what each does, before Start.
func several(t *testing.T, n int, prepare func(i int, c *Cluster)) ([]*Cluster, []*collectionstest.Instance) {
	t.Helper()
	apps := collectionstest.Several(t, n)
	out := make([]*Cluster, n)
	for i, app := range apps {
		c, err := New(app, Config{Database: app.Database, Address: fmt.Sprintf("panel%d:8443", i), Release: "1.2.3", Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		if prepare != nil {
			prepare(i, c)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Stop)
		out[i] = c
	}
	return out, apps
}

// cutSession ends the connection by which an instance takes part, as a network or a server would.
func cutSession(t *testing.T, from *collectionstest.Instance, id string) {
	t.Helper()
	var n int
	err := from.Database.Pool().QueryRow(t.Context(), "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1", "mambahost "+id).Scan(&n)
	if err != nil || n != 1 {
		t.Fatalf("%d sessions of %s ended, %v", n, id, err)
	}
}

// die ends an instance as a kill does: nothing is said, nothing is removed.
func die(c *Cluster) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel == nil {
		return
	}
	c.leaders.retire()
	c.cancel()
	c.cancel = nil
	c.wg.Wait()
	c.bus.stop()
}

// Every instance gets what was committed, all in one order, and nothing that was rolled back.
func TestSeveralInstancesHearTheSameInOneOrder(t *testing.T) {
	t.Parallel()
	const instances, writers, each = 3, 4, 15
	hears := make([]*heard, instances)
	cs, apps := several(t, instances, func(i int, c *Cluster) {
		hears[i] = newHeard()
		c.Subscribe("a.b", hears[i].take)
	})
	boom := errors.New("boom")
	var wg sync.WaitGroup
	for i, c := range cs {
		for w := range writers {
			wg.Go(func() {
				for k := range each {
					var end error
					if k%5 == 4 {
						end = boom
					}
					err := collections.Tx(apps[i], nil, func(tx core.App) error {
						filler := ""
						if k%4 == 1 {
							filler = strings.Repeat("ü€𝄞", 4000) // in parts
						}
						for half := range 2 { // of one transaction: they stay together
							if err := c.Publish(tx, "a.b", fmt.Appendf(nil, "%d/%d/%02d/%d %v%s", i, w, k, half, end, filler)); err != nil {
								return err
							}
						}
						return end
					})
					if !errors.Is(err, end) {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	const want = instances * writers * each / 5 * 4 * 2
	for i, h := range hears {
		collectionstest.Eventually(t, fmt.Sprintf("instance %d hears all", i), func() bool { return len(h.all()) >= want })
	}
	first := hears[0].all()
	for i, h := range hears {
		if got := h.all(); len(got) != want || !slices.Equal(got, first) {
			t.Fatalf("instance %d heard %d of %d, in another order: %t", i, len(got), want, len(got) == want)
		}
	}
	last := map[string]string{}
	for i, m := range first {
		if strings.Contains(m, "boom") {
			t.Fatalf("heard %s, which was rolled back", m)
		}
		if i%2 == 1 && m[:strings.LastIndex(m[:10], "/")] != first[i-1][:strings.LastIndex(m[:10], "/")] {
			t.Fatalf("another transaction came between %.12s and %.12s", first[i-1], m)
		}
		if who := m[:3]; m[:9] <= last[who] {
			t.Fatalf("%.12s came after %s", m, last[who])
		} else {
			last[who] = m[:9]
		}
	}
}

func TestALostConnectionIsAGapAndNoDeath(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	gaps, deaths := map[int]int{}, 0
	h := newHeard()
	cs, apps := several(t, 2, func(i int, c *Cluster) {
		c.OnGap(func() { mu.Lock(); defer mu.Unlock(); gaps[i]++ })
		c.OnDead(func(core.App, string) error { mu.Lock(); defer mu.Unlock(); deaths++; return nil })
		if i == 0 {
			c.Subscribe("a.b", h.take)
		}
	})
	gapsOf := func(i int) int { mu.Lock(); defer mu.Unlock(); return gaps[i] }
	collectionstest.Eventually(t, "Start is a gap", func() bool { return gapsOf(0) == 1 && gapsOf(1) == 1 })
	cutSession(t, apps[1], cs[0].ID())
	collectionstest.Eventually(t, "the gap", func() bool { return gapsOf(0) == 2 })
	if err := cs[1].Publish(apps[1], "a.b", []byte("after")); err != nil {
		t.Fatal(err)
	}
	collectionstest.Eventually(t, "it listens again", func() bool { return slices.Equal(h.all(), []string{"after"}) })
	list, err := cs[1].Instances(apps[1])
	if err != nil || len(list) != 2 || deaths != 0 || gapsOf(1) != 1 {
		t.Fatalf("%d instances, %v, %d deaths, %d gaps of the other", len(list), err, deaths, gapsOf(1))
	}
}

func TestTheListOfInstances(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	lists := map[int][]string{}
	dead := map[string][]int{}
	cs, apps := several(t, 3, func(i int, c *Cluster) {
		c.OnInstances(func(list []Instance) {
			mu.Lock()
			defer mu.Unlock()
			lists[i] = nil
			for _, in := range list {
				lists[i] = append(lists[i], in.ID)
			}
		})
		c.OnDead(func(_ core.App, id string) error {
			mu.Lock()
			defer mu.Unlock()
			dead[id] = append(dead[id], i)
			return nil
		})
	})
	sees := func(i int, want ...*Cluster) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			ids := []string{}
			for _, c := range want {
				ids = append(ids, c.ID())
			}
			return slices.Equal(lists[i], ids)
		}
	}
	for i := range cs {
		collectionstest.Eventually(t, "all see all", sees(i, cs...))
	}
	list, err := cs[2].Instances(apps[2])
	if err != nil || list[1].Address != "panel1:8443" || list[1].Release != "1.2.3" || list[1].Seen.IsZero() || list[1].Started.IsZero() {
		t.Fatalf("%+v %v", list, err)
	}
	began := time.Now()
	die(cs[0])
	collectionstest.Eventually(t, "a killed one is gone", sees(1, cs[1:]...))
	collectionstest.Eventually(t, "a killed one is gone", sees(2, cs[1:]...))
	t.Logf("a killed instance was out of the list after %s", time.Since(began).Round(10*time.Millisecond))
	mu.Lock()
	if got := dead[cs[0].ID()]; len(got) != 1 {
		t.Errorf("it was buried %d times", len(got))
	}
	mu.Unlock()
	cs[1].Stop()
	collectionstest.Eventually(t, "one that stops is gone", sees(2, cs[2]))
	mu.Lock()
	defer mu.Unlock()
	if len(dead) != 1 {
		t.Errorf("one that stopped is held for dead: %v", dead)
	}
}

// A stopped process holds its locks and says nothing: its heartbeats end.
func TestASilentInstanceIsEvicted(t *testing.T) {
	t.Parallel()
	apps := collectionstest.Several(t, 1)
	c, err := New(apps[0], Config{Database: apps[0].Database, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	var dead []string
	c.OnDead(func(_ core.App, id string) error { dead = append(dead, id); return nil })
	ghost := "ghost0123456789"
	conn, err := pgx.ConnectConfig(t.Context(), apps[0].Database.Pool().Config().ConnConfig.Copy())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock($1)", c.lockKey("instance", ghost)); err != nil {
		t.Fatal(err)
	}
	row, err := collections.NewPanelInstance(apps[0])
	if err != nil {
		t.Fatal(err)
	}
	row.Id = ghost
	row.SetStarted(time.Now())
	row.SetSeen(time.Now())
	if err := permit.Save(apps[0], row); err != nil {
		t.Fatal(err)
	}
	c.members.note(ghost, "then", time.Now().Add(-goneAfter-time.Second))
	c.members.look([]string{ghost}, nil) // its lock is held
	c.members.removeDead(t.Context())
	if !slices.Equal(dead, []string{ghost}) {
		t.Fatalf("dead: %v", dead)
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Fatal("its session goes on, and with it what it leads")
	}
}

func TestOneLeadsAndTheNextFollowsAKill(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	leading, most := 0, 0
	cs, apps := several(t, 3, func(_ int, c *Cluster) {
		c.OnLead("work", func(ctx context.Context) {
			mu.Lock()
			leading++
			most = max(most, leading)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			leading--
			mu.Unlock()
		})
	})
	leader := func() int { return slices.IndexFunc(cs, func(c *Cluster) bool { return c.Leads("work") }) }
	for round := range 2 {
		collectionstest.Eventually(t, "somebody leads", func() bool { return leader() >= 0 })
		i := leader()
		for k, c := range cs {
			err := collections.Tx(apps[k], nil, func(tx core.App) error { return c.Fence(tx, "work") })
			if (err == nil) != (k == i) || k != i && !errors.Is(err, ErrNotLeading) {
				t.Fatalf("round %d: instance %d of leader %d: %v", round, k, i, err)
			}
		}
		began := time.Now()
		die(cs[i])
		collectionstest.Eventually(t, "the next leads", func() bool { return leader() >= 0 })
		t.Logf("the next leader was there after %s", time.Since(began).Round(10*time.Millisecond))
	}
	row, err := collections.One[collections.Leader](apps[0], collections.Leaders)
	if err != nil || row.Epoch() != 3 || row.Instance() != cs[leader()].ID() {
		t.Fatalf("epoch %d, %v", row.Epoch(), err)
	}
	mu.Lock()
	defer mu.Unlock()
	if most != 1 {
		t.Fatalf("%d led at once", most)
	}
}

// A leader that was paused knows nothing of the next one: what it writes is refused all the same. And
// while it writes, nobody becomes the next.
func TestAPausedLeaderCanWriteNothing(t *testing.T) {
	t.Parallel()
	apps := collectionstest.Several(t, 2)
	var cs [2]*Cluster
	for i, app := range apps {
		c, err := New(app, Config{Database: app.Database, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		c.OnLead("work", func(context.Context) {})
		cs[i] = c
	}
	takeLead := func(c *Cluster) error {
		epoch, err := c.leaders.raise("work")
		c.leaders.tasks["work"].epoch = epoch
		return err
	}
	if err := takeLead(cs[0]); err != nil {
		t.Fatal(err)
	}
	var order []string
	raised := make(chan error, 1)
	err := collections.Tx(apps[0], nil, func(tx core.App) error {
		if err := cs[0].Fence(tx, "work"); err != nil {
			return err
		}
		go func() { raised <- takeLead(cs[1]) }()
		collectionstest.Eventually(t, "the next waits for the row", func() bool {
			var n int
			err := apps[1].Database.Pool().QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) OR NOT granted AND locktype = 'transactionid'").Scan(&n)
			return err == nil && n > 0
		})
		select {
		case err := <-raised:
			return fmt.Errorf("the next leads while the first one writes: %w", err)
		default:
		}
		order = append(order, "wrote")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-raised; err != nil || len(order) != 1 {
		t.Fatal(err, order)
	}
	err = collections.Tx(apps[0], nil, func(tx core.App) error { return cs[0].Fence(tx, "work") })
	if !errors.Is(err, ErrNotLeading) {
		t.Fatalf("the paused leader wrote: %v", err)
	}
	if err := collections.Tx(apps[1], nil, func(tx core.App) error { return cs[1].Fence(tx, "work") }); err != nil {
		t.Fatal(err)
	}
}

func TestCollectionsAndSettingsAreReloadedEverywhere(t *testing.T) {
	t.Parallel()
	cs, apps := several(t, 2, func(_ int, c *Cluster) { c.BindReload() })
	app := apps[0].BaseApp
	for _, h := range []interface {
		BindFunc(func(*core.ModelEvent) error) string
	}{app.OnModelCreateExecute(), app.OnModelUpdateExecute(), app.OnModelDeleteExecute()} {
		h.BindFunc(cs[0].ModelWritten)
	}
	users, err := app.FindCollectionByNameOrId("users")
	if err != nil {
		t.Fatal(err)
	}
	users.AuthToken.Secret = strings.Repeat("s", 50)
	began := time.Now()
	if err := app.Save(users); err != nil {
		t.Fatal(err)
	}
	collectionstest.Eventually(t, "the other instance trusts the new key", func() bool {
		c, err := apps[1].FindCachedCollectionByNameOrId("users")
		return err == nil && c.AuthToken.Secret == users.AuthToken.Secret
	})
	t.Logf("a changed collection was on the other instance after %s", time.Since(began).Round(time.Millisecond))
	s, err := app.Settings().Clone()
	if err != nil {
		t.Fatal(err)
	}
	s.Meta.AppName = "Renamed " + strconv.Itoa(len(cs))
	if err := app.Save(s); err != nil {
		t.Fatal(err)
	}
	collectionstest.Eventually(t, "the other instance has the new settings", func() bool { return apps[1].Settings().Meta.AppName == s.Meta.AppName })
}
