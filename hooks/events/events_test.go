package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

const acme = "acmeaaaaaaaaaaa"

func emit(t *testing.T, o *Outbox, app core.App, kind string, payload any) {
	t.Helper()
	if err := o.Emit(app, Event{Kind: kind, Tenant: acme, SubjectType: "servers", Subject: "srv1", Actor: "u1", ActorType: "user", ActorName: "Alice", Payload: payload}); err != nil {
		t.Fatal(err)
	}
}

func undelivered(t *testing.T, app core.App) int64 {
	t.Helper()
	n, err := app.CountRecords(collections.Events, dbx.HashExp{"delivered": false})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// heard is a listener that remembers.
type heard struct {
	mu   sync.Mutex
	seqs []int64
	got  []Stored
}

func (h *heard) take(_ context.Context, e Stored) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seqs = append(h.seqs, e.Seq)
	h.got = append(h.got, e)
	return nil
}

func (h *heard) all() []int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seqs)
}

func start(t *testing.T, o *Outbox) {
	t.Helper()
	o.Start(t.Context())
	t.Cleanup(o.Stop)
}

func TestEventsAreDeliveredInOrderAfterTheCommit(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		var every, servers, one heard
		o.On("*", "every", every.take)
		o.On("server.*", "servers", servers.take)
		o.On("job.dead", "one", one.take)
		start(t, o)
		synctest.Wait()
		began := time.Now()
		err := collections.Tx(app, nil, func(tx core.App) error {
			emit(t, o, tx, "server.created", map[string]int{"n": 1})
			emit(t, o, tx, "job.dead", nil)
			emit(t, o, tx, "server.deleted", nil)
			emit(t, o, tx, "serverless.x", nil)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		boom := errors.New("boom")
		err = collections.Tx(app, nil, func(tx core.App) error {
			emit(t, o, tx, "server.lost", nil)
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatal(err)
		}
		synctest.Wait()
		if !slices.Equal(every.all(), []int64{1, 2, 3, 4}) || !slices.Equal(servers.all(), []int64{1, 3}) || !slices.Equal(one.all(), []int64{2}) {
			t.Fatalf("%v %v %v", every.all(), servers.all(), one.all())
		}
		if n := undelivered(t, app); n != 0 || time.Since(began) > 0 {
			t.Fatalf("%d are not marked, %s", n, time.Since(began))
		}
		e := every.got[0]
		var p map[string]int
		if err := e.Unmarshal(&p); err != nil || p["n"] != 1 || e.Kind != "server.created" || e.Tenant != acme || e.Subject != "srv1" ||
			e.SubjectType != "servers" || e.Actor != "u1" || e.ActorType != "user" || e.ActorName != "Alice" || e.At.IsZero() || e.ID == "" {
			t.Fatalf("%+v %v", e, err)
		}
	})
}

func TestAnOutboxThatWasDownDeliversLater(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		down := New(app, nil, quiet)
		for i := range 2*batchSize + 7 {
			emit(t, down, app, "a.b", i)
		}
		for round := range 2 { // the second start has nothing to do
			o := New(app, nil, quiet)
			var h heard
			o.On("*", "h", h.take)
			o.Start(t.Context())
			o.Start(t.Context())
			synctest.Wait()
			o.Stop()
			o.Stop()
			want := 2*batchSize + 7
			if round == 1 {
				want = 0
			}
			if got := h.all(); len(got) != want || !slices.IsSorted(got) {
				t.Fatalf("round %d: %d events", round, len(got))
			}
		}
	})
}

// A crash between delivery and the mark: the events come again, none is left out.
func TestDeliveryIsAtLeastOnce(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		for range 5 {
			emit(t, o, app, "a.b", nil)
		}
		l := newLane(o, "*", "h", nil)
		var h heard
		l.fn = func(ctx context.Context, e Stored) error {
			if e.Seq == 4 {
				<-ctx.Done() // here the process dies
				return ctx.Err()
			}
			return h.take(ctx, e)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { _, err := l.batch(ctx); done <- err }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if n := undelivered(t, app); n != 5 {
			t.Fatalf("%d", n)
		}
		o2 := New(app, nil, quiet)
		o2.On("*", "h", h.take)
		start(t, o2)
		synctest.Wait()
		if got := h.all(); !slices.Equal(got, []int64{1, 2, 3, 1, 2, 3, 4, 5}) {
			t.Fatal(got)
		}
	})
}

func TestAFailingListenerHoldsUpNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		var good, bad heard
		var calls []time.Time
		o.On("*", "good", good.take)
		o.On("*", "bad", func(ctx context.Context, e Stored) error {
			if e.Seq == 2 || e.Seq == 3 {
				calls = append(calls, time.Now())
				if e.Seq == 3 {
					panic("oh")
				}
				return errors.New("no")
			}
			return bad.take(ctx, e)
		})
		var given []string
		o.OnGivenUp(func(e Stored, listener string, err error) {
			given = append(given, fmt.Sprint(e.Seq, listener, strings.Contains(err.Error(), "oh")))
		})
		start(t, o)
		for range 4 {
			emit(t, o, app, "a.b", nil)
		}
		synctest.Wait()
		if got := good.all(); len(got) != 4 {
			t.Fatalf("the good listener has %v", got)
		}
		if n := undelivered(t, app); n != 3 {
			t.Fatalf("%d undelivered while one listener is behind", n)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := bad.all(); !slices.Equal(got, []int64{1, 4}) {
			t.Fatalf("the bad listener has %v", got)
		}
		if len(calls) != maxTries+1 || calls[maxTries-1].Sub(calls[0]) != 31*firstRetryWait {
			t.Fatalf("%d calls in %s: the event after one that was given up on gets one", len(calls), calls[len(calls)-1].Sub(calls[0]))
		}
		if !slices.Equal(given, []string{"2badfalse", "3badtrue"}) || undelivered(t, app) != 0 {
			t.Fatalf("given up %v, undelivered %d", given, undelivered(t, app))
		}
	})
}

func TestAListenerThatHangsIsTimedOutAndStopEndsIt(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		calls := 0
		o.On("*", "slow", func(ctx context.Context, _ Stored) error {
			calls++
			<-ctx.Done()
			return ctx.Err()
		})
		start(t, o)
		emit(t, o, app, "a.b", nil)
		time.Sleep(callTimeout + time.Second)
		synctest.Wait()
		if calls != 2 {
			t.Fatalf("%d calls", calls)
		}
		o.Stop()
		if undelivered(t, app) != 1 {
			t.Fatal("an event that nobody took is marked as delivered")
		}
	})
}

func TestManyEmittersMakeOneOrder(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	o := New(app, nil, quiet)
	var h heard
	arrived := make(chan struct{}, 1)
	o.On("*", "h", func(ctx context.Context, e Stored) error {
		defer func() {
			if len(h.all()) == 80 {
				arrived <- struct{}{}
			}
		}()
		return h.take(ctx, e)
	})
	start(t, o)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 10 {
				emit(t, o, app, "a.b", w*100+i)
			}
		})
	}
	wg.Wait()
	<-arrived
	for i, seq := range h.all() {
		if seq != int64(i+1) {
			t.Fatalf("event %d has number %d", i, seq)
		}
	}
	last := map[int]int{}
	for _, e := range h.got { // each emitter's own order is kept, too
		var v int
		if err := e.Unmarshal(&v); err != nil || v%100 != last[v/100] {
			t.Fatalf("emitter %d: %d after %d, %v", v/100, v%100, last[v/100], err)
		}
		last[v/100]++
	}
}

func TestActivityIsThePublicEventsOfATenant(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		for i := range 7 {
			for _, e := range []Event{
				{Kind: "server.started", Tenant: acme, Subject: fmt.Sprint("srv", i%2), Public: true, Payload: i, ActorType: "user", ActorName: "Alice"},
				{Kind: "server.secret", Tenant: acme, Subject: "srv0"},
				{Kind: "server.started", Tenant: "other", Subject: "srv0", Public: true},
			} {
				if err := o.Emit(app, e); err != nil {
					t.Fatal(err)
				}
			}
		}
		got, total, err := o.Activity(app, acme, "", 2, 3)
		if err != nil || total != 7 || len(got) != 3 || string(got[0].Payload) != "3" {
			t.Fatalf("%d of %d, %v", len(got), total, err)
		}
		for i := range 102 {
			if err := o.Emit(app, Event{Kind: "server.started", Tenant: "many", Public: true, Payload: i}); err != nil {
				t.Fatal(err)
			}
		}
		if got, total, err = o.Activity(app, "many", "", 102, 1); err != nil || total != 102 || len(got) != 1 || string(got[0].Payload) != "0" {
			t.Fatalf("page 102: %+v of %d, %v", got, total, err)
		}
		got, total, err = o.Activity(app, acme, "srv0", 0, 1000)
		if err != nil || total != 4 || len(got) != 4 {
			t.Fatalf("%d of %d, %v", len(got), total, err)
		}
		v := got[0].View()
		if v["kind"] != "server.started" || fmt.Sprint(v["actor"]) != "map[name:Alice type:user]" {
			t.Fatalf("%v", v)
		}
		if v := (Stored{}).View(); fmt.Sprint(v["actor"]) != "map[name: type:system]" {
			t.Fatalf("%v", v)
		}
	})
}

func TestPruneKeepsTheUndeliveredAndTheNewest(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		for range 6 {
			emit(t, o, app, "a.b", nil)
		}
		time.Sleep(time.Hour)
		if n, err := o.Prune(app, time.Now(), 100); n != 0 || err != nil {
			t.Fatalf("pruned %d undelivered events, %v", n, err)
		}
		start(t, o)
		synctest.Wait()
		for _, want := range []int{4, 1, 0} {
			if n, err := o.Prune(app, time.Now(), 4); n != want || err != nil {
				t.Fatalf("pruned %d, want %d, %v", n, want, err)
			}
		}
		emit(t, o, app, "a.b", nil)
		rows, err := collections.Every[collections.Event](app, collections.Events, "seq", 0)
		if err != nil || len(rows) != 2 || rows[1].Seq() != 7 {
			t.Fatalf("numbers began anew: %v", err)
		}
	})
}

func TestEmitRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		for name, e := range map[string]Event{
			"no kind":               {Tenant: acme},
			"a payload too large":   {Kind: "a.b", Payload: strings.Repeat("x", 61<<10)},
			"a payload not JSON":    {Kind: "a.b", Payload: func() {}},
			"a kind over the bound": {Kind: strings.Repeat("k", 70)},
		} {
			if err := o.Emit(app, e); err == nil {
				t.Errorf("%s was stored", name)
			}
		}
		o.On("*", "x", nil)
		for name, fn := range map[string]func(){
			"a name twice": func() { o.On("a.b", "x", nil) },
			"after Start": func() {
				o.started = true
				defer func() { o.started = false }()
				o.On("a.b", "y", nil)
			},
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
	})
}
