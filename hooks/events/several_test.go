package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/cluster"
)

// roads carry requests to other instances over HTTP, as the node listener does over mTLS.
type roads struct {
	mu sync.Mutex
	to map[string]string // URL by instance; a missing one is dead
}

func (r *roads) RoundTripper(instance string) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		r.mu.Lock()
		to := r.to[instance]
		r.mu.Unlock()
		if to == "" {
			return nil, errors.New("there is no such instance")
		}
		req = req.Clone(req.Context())
		req.URL.Host = strings.TrimPrefix(to, "http://")
		return http.DefaultTransport.RoundTrip(req)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// panels serves n instances on one PostgreSQL database.
func panels(t *testing.T, n int, prepare func(i int, o *Outbox)) ([]*server, *roads) {
	t.Helper()
	way := &roads{to: map[string]string{}}
	var out []*server
	for i, app := range collectionstest.Several(t, n) {
		c, err := cluster.New(app, cluster.Config{Database: app.Database, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		o := New(app, c, quiet)
		if prepare != nil {
			prepare(i, o)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Stop)
		s := serveOn(t, app, o)
		o.SetPeers(way, s.mux)
		peer := httptest.NewServer(http.HandlerFunc(o.ServePeer))
		t.Cleanup(peer.Close)
		way.to[c.ID()] = peer.URL
		out = append(out, s)
	}
	return out, way
}

// next is the next message that is no answer to a gap.
func (st *stream) next(t *testing.T) (string, bool) {
	t.Helper()
	timeout := time.After(collectionstest.Patience)
	for {
		select {
		case line, ok := <-st.lines:
			if ok && strings.Contains(line, "resync") {
				continue
			}
			return line, ok
		case <-timeout:
			t.Fatal("nothing came")
		}
	}
}

func TestABrowserOnAnyInstanceHearsAllAndIsCutEverywhere(t *testing.T) {
	t.Parallel()
	s, _ := panels(t, 2, nil)
	alice, bob := newUser(t, s[0].app, "alice"), newUser(t, s[0].app, "bob")
	var streams []*stream
	for _, user := range []*core.Record{alice, bob} {
		token, err := user.NewAuthToken()
		if err != nil {
			t.Fatal(err)
		}
		for _, srv := range s {
			srv.mu.Lock()
			srv.seat[user.Id] = map[string]Scope{acme: {All: true}}
			srv.mu.Unlock()
		}
		for i := range s {
			st := s[i].connect(t)
			// the subscription reaches the other instance: load balancers are not sticky
			if code := s[1-i].subscribe(t, st, token, Topic(acme)); code != http.StatusNoContent {
				t.Fatalf("subscribe at the other instance: %d", code)
			}
			streams = append(streams, st)
		}
	}
	boom := errors.New("boom")
	for i, srv := range s {
		for _, end := range []error{boom, nil} {
			err := collections.Tx(srv.app, nil, func(tx core.App) error {
				srv.o.Broadcast(tx, acme, Message{Type: "server", ID: fmt.Sprint(i, end), Deleted: true})
				return end
			})
			if !errors.Is(err, end) {
				t.Fatal(err)
			}
		}
	}
	for k, st := range streams {
		for i := range s {
			if line, _ := st.next(t); line != fmt.Sprintf(`{"type":"server","id":"%d \u003cnil\u003e","deleted":true}`, i) {
				t.Fatalf("browser %d got %s", k, line)
			}
		}
	}
	began := time.Now()
	s[0].o.Revoke(alice.Id, acme)
	for _, st := range streams[:2] {
		if line, ok := st.next(t); ok {
			t.Fatalf("after the revocation came %s", line)
		}
	}
	t.Logf("cut on both instances after %s", time.Since(began).Round(time.Millisecond))
	if err := s[1].o.AccountChanged(s[1].app, bob.Id); err != nil {
		t.Fatal(err)
	}
	for _, st := range streams[2:] {
		if line, ok := st.next(t); ok {
			t.Fatalf("after the account changed came %s", line)
		}
	}
}

func TestARequestForADeadInstancesConnectionIs404(t *testing.T) {
	t.Parallel()
	s, way := panels(t, 2, nil)
	alice := newUser(t, s[0].app, "alice")
	token, err := alice.NewAuthToken()
	if err != nil {
		t.Fatal(err)
	}
	st := s[0].connect(t)
	way.mu.Lock()
	delete(way.to, s[0].o.cluster.ID())
	way.mu.Unlock()
	if code := s[1].subscribe(t, st, token, Topic(acme)); code != http.StatusNotFound {
		t.Fatalf("%d", code)
	}
	for name, r := range map[string]*http.Request{
		"another path":     httptest.NewRequest("GET", "/api/health", nil),
		"a new connection": httptest.NewRequest("GET", realtimePath, nil),
	} {
		w := httptest.NewRecorder()
		s[0].o.ServePeer(w, r)
		if w.Code != http.StatusNotFound {
			t.Errorf("%s from another instance is answered with %d", name, w.Code)
		}
	}
}

func TestConnectionOfARequest(t *testing.T) {
	t.Parallel()
	const id = "abcdefghij12345rest"
	for name, c := range map[string]struct {
		method, target, kind, body, want string
	}{
		"JSON":                  {"POST", realtimePath, "application/json", `{"clientId":"` + id + `","subscriptions":[]}`, id},
		"a form":                {"POST", realtimePath, "application/x-www-form-urlencoded", "clientId=" + id, id},
		"an answer of Apple's":  {"POST", redirectPath, "application/x-www-form-urlencoded", "state=" + id, id},
		"an answer of others'":  {"GET", redirectPath + "?state=" + id, "", "", id},
		"no JSON":               {"POST", realtimePath, "application/json", "{", ""},
		"an id that is no text": {"POST", realtimePath, "application/json", `{"clientId":7}`, ""},
	} {
		r := httptest.NewRequest(c.method, c.target, nil)
		r.Header.Set("Content-Type", c.kind)
		if got := connectionOf(r, []byte(c.body)); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	for given, want := range map[string]string{id: "abcdefghij12345", "short": "", "ABCDEFGHIJ12345rest": "", "": ""} {
		if got := ownerOf(given); got != want {
			t.Errorf("owner of %q is %q", given, got)
		}
	}
}

// Each event once across instances, in order, and by the next leader when the first one ends.
func TestEventsAreDeliveredByOneInstanceAndThenTheNext(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []int64
	by := map[int]int{}
	s, _ := panels(t, 3, func(i int, o *Outbox) {
		o.On("*", "h", func(_ context.Context, e Stored) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, e.Seq)
			by[i]++
			return nil
		})
	})
	heard := func() int { mu.Lock(); defer mu.Unlock(); return len(got) }
	emitAll := func(n int) {
		var wg sync.WaitGroup
		for _, srv := range s {
			wg.Go(func() {
				for range n {
					err := collections.Tx(srv.app, nil, func(tx core.App) error {
						return srv.o.Emit(tx, Event{Kind: "a.b", Tenant: acme, Payload: "x"})
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	emitAll(10)
	collectionstest.Eventually(t, "all are heard", func() bool { return heard() >= 30 })
	collectionstest.Eventually(t, "all are marked", func() bool { return undelivered(t, s[0].app) == 0 })
	lead := slices.IndexFunc(s, func(s *server) bool { return s.o.cluster.Leads(task) })
	s[lead].o.Stop()
	s[lead].o.cluster.Stop()
	emitAll(5)
	collectionstest.Eventually(t, "the next one goes on", func() bool { return heard() >= 45 })
	mu.Lock()
	defer mu.Unlock()
	for i, seq := range got {
		if seq != int64(i+1) {
			t.Fatalf("delivery %d is of event %d", i+1, seq)
		}
	}
	if len(got) != 45 || len(by) != 2 {
		t.Fatalf("%d deliveries, by instance %v", len(got), by)
	}
}

func TestWhatInstancesSayIsReadOrLeftOut(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	o := New(app, nil, quiet)
	o.live(cluster.Message{Data: []byte("{")}) // logged, nothing else
	raw, err := json.Marshal(live{Tenant: acme, Kind: "server", Server: "s", Data: json.RawMessage(`{"a":1}`)})
	if err != nil || string(raw) != `{"t":"`+acme+`","k":"server","s":"s","d":{"a":1}}` {
		t.Fatalf("%s %v", raw, err)
	}
}
