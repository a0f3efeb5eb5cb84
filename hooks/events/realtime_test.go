package events

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/subscriptions"

	"github.com/mambahost/mamba/collections"
)

// seat puts a client straight into the hub, as Connect and Admit would.
func seat(t testing.TB, o *Outbox, user *core.Record, seats map[string]Scope) *feed {
	t.Helper()
	client := subscriptions.NewDefaultClient()
	f := &feed{Client: client, id: o.cluster.ID() + client.Id(), hub: o.hub, more: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go f.run()
	f.Set(apis.RealtimeClientAuthKey, user)
	o.app.SubscriptionsBroker().Register(f)
	t.Cleanup(func() { o.app.SubscriptionsBroker().Unregister(f.Id()) })
	if !o.hub.join(f, user, seats, nil, o.hub.generation()) {
		t.Fatal("not admitted")
	}
	return f
}

func newUser(t testing.TB, app core.App, name string) *core.Record {
	t.Helper()
	users, err := app.FindCollectionByNameOrId("users")
	if err != nil {
		t.Fatal(err)
	}
	u := core.NewRecord(users)
	u.SetEmail(name + "@example.com")
	u.SetPassword("correct horse battery")
	u.SetVerified(true)
	u.Set("name", name)
	if err := app.Save(u); err != nil {
		t.Fatal(err)
	}
	return u
}

// drain takes what a client was sent until nothing more comes.
func drain(f *feed) []string {
	var out []string
	for {
		synctest.Wait()
		select {
		case m, ok := <-f.Channel():
			if !ok {
				return append(out, "closed")
			}
			var x struct{ Type, ID string }
			_ = json.Unmarshal(m.Data, &x)
			out = append(out, strings.TrimPrefix(m.Name, topicPrefix)+":"+x.Type+":"+x.ID)
		default:
			return out
		}
	}
}

func TestAMessageReachesWhoMaySeeIt(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		start(t, o)
		alice, bob := newUser(t, app, "alice"), newUser(t, app, "bob")
		owner := seat(t, o, alice, map[string]Scope{"t1": {All: true}, "t2": {All: true}})
		friend := seat(t, o, bob, map[string]Scope{"t1": {Servers: []string{"s1"}}})
		for _, p := range []struct {
			tenant string
			m      Message
		}{
			{"t1", Message{Type: "server", ID: "s1", Server: "s1"}},
			{"t1", Message{Type: "server", ID: "s2", Server: "s2"}},
			{"t1", Message{Type: "job", ID: "j1"}},
			{"t1", Message{Type: "activity", ID: "e1"}},
			{"t1", Message{Type: "tenant", ID: "t1"}},
			{"t2", Message{Type: "server", ID: "s1", Server: "s1"}},
			{"t3", Message{Type: "server", ID: "s1", Server: "s1"}},
		} {
			o.Broadcast(app, p.tenant, p.m)
		}
		if got, want := drain(owner), []string{"t1:server:s1", "t1:server:s2", "t1:job:j1", "t1:activity:e1", "t1:tenant:t1", "t2:server:s1"}; !slices.Equal(got, want) {
			t.Errorf("the owner got %v", got)
		}
		if got, want := drain(friend), []string{"t1:server:s1", "t1:tenant:t1"}; !slices.Equal(got, want) {
			t.Errorf("the friend of one server got %v", got)
		}
	})
}

func TestBroadcastHappensAfterTheCommitOnly(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		start(t, o)
		f := seat(t, o, newUser(t, app, "alice"), map[string]Scope{acme: {All: true}})
		data := map[string]any{"name": "before"}
		err := collections.Tx(app, nil, func(tx core.App) error {
			o.Broadcast(tx, acme, Message{Type: "server", ID: "lost"})
			return context.Canceled
		})
		if err == nil {
			t.Fatal("want the error")
		}
		err = collections.Tx(app, nil, func(tx core.App) error {
			o.Broadcast(tx, acme, Message{Type: "server", ID: "s", Rev: 3, Data: data, Server: "s"})
			data["name"] = "after"
			if err := o.Emit(tx, Event{Kind: "server.created", Tenant: acme, SubjectType: "servers", Subject: "s", Public: true}); err != nil {
				return err
			}
			return o.Emit(tx, Event{Kind: "server.hidden", Tenant: acme})
		})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		m := <-f.Channel()
		if string(m.Data) != `{"type":"server","id":"s","rev":3,"data":{"name":"before"}}` {
			t.Fatalf("%s", m.Data)
		}
		if got := drain(f); len(got) != 1 || !strings.HasPrefix(got[0], acme+":activity:") {
			t.Fatalf("%v", got)
		}
	})
}

func TestASlowBrowserIsToldToRefetch(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		start(t, o)
		slow := seat(t, o, newUser(t, app, "alice"), map[string]Scope{acme: {All: true}})
		quick := seat(t, o, newUser(t, app, "bob"), map[string]Scope{acme: {All: true}})
		const n = feedQueue*3 + 10
		var got []string
		for i := range n {
			o.Broadcast(app, acme, Message{Type: "server", ID: fmt.Sprint(i)})
			got = append(got, drain(quick)...)
		}
		if len(got) != n || got[n-1] != fmt.Sprintf("%s:server:%d", acme, n-1) {
			t.Fatalf("the quick one got %d of %d", len(got), n)
		}
		seen := drain(slow)
		i := slices.Index(seen, acme+":resync:")
		if i < 0 || len(seen) > feedQueue+2 || seen[len(seen)-1] != fmt.Sprintf("%s:server:%d", acme, n-1) {
			t.Fatalf("the slow one got %v", seen)
		}
		for k, s := range seen[i+1:] { // nothing is left out after the resync
			if want := fmt.Sprintf("%s:server:%d", acme, n-len(seen[i+1:])+k); s != want {
				t.Fatalf("got %s, want %s", s, want)
			}
		}
	})
}

// A gap is where messages may have been missed: another instance's revocation, too.
func TestAfterAGapEverybodyIsAskedAgainAndRefetches(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		start(t, o)
		alice, bob, eve := newUser(t, app, "alice"), newUser(t, app, "bob"), newUser(t, app, "eve")
		all := map[string]Scope{"t1": {All: true}}
		may := map[string]Scope{alice.Id: {All: true}, bob.Id: {Servers: []string{"s1"}}}
		scope := func(u *core.Record, tenant string) (Scope, bool) { s, ok := may[u.Id]; return s, ok }
		stays, less, gone := seat(t, o, alice, all), seat(t, o, bob, all), seat(t, o, eve, all)
		for f, u := range map[*feed]*core.Record{stays: alice, less: bob, gone: eve} {
			if !o.hub.join(f, u, all, scope, o.hub.generation()) {
				t.Fatal("not admitted")
			}
		}
		o.gap()
		if got := drain(stays); !slices.Equal(got, []string{"t1:resync:"}) {
			t.Errorf("who may as before got %v", got)
		}
		if got := drain(gone); !slices.Equal(got, []string{"closed"}) {
			t.Errorf("who may nothing any more got %v", got)
		}
		drain(less)
		o.Broadcast(app, "t1", Message{Type: "server", ID: "s1", Server: "s1"})
		o.Broadcast(app, "t1", Message{Type: "server", ID: "s2", Server: "s2"})
		if got := drain(less); !slices.Equal(got, []string{"t1:server:s1"}) {
			t.Errorf("who may less got %v", got)
		}
	})
}

func TestRevokeCutsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		start(t, o)
		alice, bob := newUser(t, app, "alice"), newUser(t, app, "bob")
		a1 := seat(t, o, alice, map[string]Scope{"t1": {All: true}})
		a2 := seat(t, o, alice, map[string]Scope{"t2": {All: true}})
		b := seat(t, o, bob, map[string]Scope{"t1": {All: true}})
		o.Broadcast(app, "t1", Message{Type: "server", ID: "queued"}) // not taken yet
		synctest.Wait()
		o.Revoke(alice.Id, "t1")
		o.Broadcast(app, "t1", Message{Type: "server", ID: "after"})
		o.Broadcast(app, "t2", Message{Type: "server", ID: "other"})
		if got := drain(a1); !slices.Equal(got, []string{"closed"}) {
			t.Errorf("alice's connection to t1 got %v", got)
		}
		if got := drain(a2); !slices.Equal(got, []string{"t2:server:other"}) {
			t.Errorf("alice's connection to t2 got %v", got)
		}
		if got := drain(b); len(got) != 2 {
			t.Errorf("bob got %v", got)
		}
		o.Revoke(alice.Id, "")
		if got := drain(a2); !slices.Equal(got, []string{"closed"}) {
			t.Errorf("after all of alice's were revoked: %v", got)
		}
		if n := app.SubscriptionsBroker().TotalClients(); n != 1 {
			t.Errorf("%d clients", n)
		}
	})
}

func TestAChangedPasswordStopsTheStream(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		start(t, o)
		f := seat(t, o, newUser(t, app, "alice"), map[string]Scope{acme: {All: true}})
		f.Unset(apis.RealtimeClientAuthKey) // what PocketBase does then
		o.Broadcast(app, acme, Message{Type: "server", ID: "s"})
		if got := drain(f); len(got) != 0 {
			t.Fatalf("%v", got)
		}
	})
}

// PocketBase takes the account away from a connection before the end of its tokens is heard of, or afterwards.
func TestAConnectionOfAChangedAccountEnds(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		start(t, o)
		alice, bob := newUser(t, app, "alice"), newUser(t, app, "bob")
		of := func(user *core.Record, scope map[string]Scope) *feed { return seat(t, o, user, scope) }
		forgotten, known := of(alice, map[string]Scope{acme: {All: true}}), of(alice, map[string]Scope{acme: {All: true}})
		seatless, seatlessForgotten := of(alice, nil), of(alice, nil) // an operator who watches collections
		other := of(bob, map[string]Scope{acme: {All: true}})
		forgotten.Unset(apis.RealtimeClientAuthKey)
		seatlessForgotten.Unset(apis.RealtimeClientAuthKey)
		if err := o.AccountChanged(app, alice.Id); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for what, f := range map[string]*feed{"known": known, "forgotten": forgotten, "seatless": seatless, "seatless and forgotten": seatlessForgotten} {
			if got := drain(f); !slices.Equal(got, []string{"closed"}) {
				t.Errorf("%s: %v", what, got)
			}
		}
		if got := drain(other); len(got) != 0 {
			t.Errorf("bob's: %v", got)
		}
	})
}

func TestARevocationThatCrossesAnAdmissionWins(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		alice := newUser(t, app, "alice")
		f := seat(t, o, alice, nil)
		before := o.hub.generation()
		o.Revoke("somebody", "t1")
		if o.hub.join(f, alice, map[string]Scope{"t1": {All: true}}, nil, before) {
			t.Fatal("seated with a scope from before the revocation")
		}
		f.Discard()
		if !o.hub.join(f, alice, map[string]Scope{"t1": {All: true}}, nil, o.hub.generation()) || len(o.hub.seats) != 0 {
			t.Fatal("a browser that is gone was seated")
		}
	})
}

// server is a real panel on a loopback port with the two hooks bound.
type server struct {
	url  string
	app  core.App
	o    *Outbox
	mux  http.Handler
	mu   sync.Mutex
	seat map[string]map[string]Scope // user, tenant
}

func (s *server) scope(u *core.Record, tenant string) (Scope, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sc, ok := s.seat[u.Id][tenant]
	return sc, ok
}

func serve(t *testing.T) *server {
	t.Helper()
	app := newApp(t)
	return serveOn(t, app, New(app, nil, quiet))
}

// serveOn is serve for an instance among others.
func serveOn(t *testing.T, app core.App, o *Outbox) *server {
	t.Helper()
	s := &server{app: app, o: o, seat: map[string]map[string]Scope{}}
	app.OnRealtimeConnectRequest().BindFunc(o.Connect)
	app.OnRealtimeSubscribeRequest().BindFunc(func(e *core.RealtimeSubscribeRequestEvent) error { return o.Admit(e, s.scope) })
	start(t, o)
	r, err := apis.NewRouter(app)
	if err != nil {
		t.Fatal(err)
	}
	r.BindFunc(o.Forward)
	mux, err := r.BuildMux()
	if err != nil {
		t.Fatal(err)
	}
	s.mux = mux
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	s.url = "http://" + l.Addr().String()
	return s
}

// stream is one browser.
type stream struct {
	id    string
	lines chan string // data of every message; closed when the stream ends
}

func (s *server) connect(t *testing.T) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/api/realtime", nil)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	st := &stream{lines: make(chan string, 1000)}
	go func() {
		defer close(st.lines)
		defer res.Body.Close()
		sc := bufio.NewScanner(res.Body)
		for sc.Scan() {
			if d, ok := strings.CutPrefix(sc.Text(), "data:"); ok {
				st.lines <- d
			}
		}
	}()
	var hello struct {
		ClientID string `json:"clientId"`
	}
	if err := json.Unmarshal([]byte(<-st.lines), &hello); err != nil {
		t.Fatal(err)
	}
	st.id = hello.ClientID
	return st
}

func (s *server) subscribe(t *testing.T, st *stream, token string, topics ...string) int {
	t.Helper()
	body, _ := json.Marshal(map[string]any{"clientId": st.id, "subscriptions": topics})
	req, _ := http.NewRequestWithContext(t.Context(), "POST", s.url+"/api/realtime", strings.NewReader(string(body)))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

func (s *server) member(t *testing.T, name string, seats map[string]Scope) (*core.Record, string) {
	t.Helper()
	u := newUser(t, s.app, name)
	s.mu.Lock()
	s.seat[u.Id] = seats
	s.mu.Unlock()
	token, err := u.NewAuthToken()
	if err != nil {
		t.Fatal(err)
	}
	return u, token
}

func TestAdmissionOverHTTP(t *testing.T) {
	t.Parallel()
	s := serve(t)
	_, token := s.member(t, "alice", map[string]Scope{"t1": {All: true}})
	many := make([]string, maxTopics+1)
	for i := range many {
		many[i] = Topic(fmt.Sprint("m", i))
		s.seat[firstKey(s.seat)][fmt.Sprint("m", i)] = Scope{}
	}
	for _, c := range []struct {
		name, token string
		topics      []string
		status      int
	}{
		{"a member may watch his tenant", token, []string{"mamba.tenant.t1"}, 204},
		{"a stranger's tenant does not exist", token, []string{"mamba.tenant.t2"}, 404},
		{"one foreign topic among good ones spoils all", token, []string{"mamba.tenant.t1", "mamba.tenant.t2"}, 404},
		{"a guest has to sign in", "", []string{"mamba.tenant.t1"}, 401},
		{"a guest may watch nothing of PocketBase's either", "", []string{"users/*"}, 401},
		{"a guest may wait for a provider's window", "", []string{"@oauth2"}, 204},
		{"but for nothing beside it", "", []string{"@oauth2", "mamba.tenant.t1"}, 401},
		{"a member may not either", token, []string{"@oauth2", "servers/*"}, 403},
		{"a record topic is refused", token, []string{"servers/*"}, 403},
		{"a user's own record topic is refused", token, []string{"users/x"}, 403},
		{"a topic with options is not the topic", token, []string{`mamba.tenant.t1?options={"query":{}}`}, 404},
		{"an empty tenant", token, []string{"mamba.tenant."}, 404},
		{"too many topics", token, many, 400},
		{"nobody has to sign in to unsubscribe", "", nil, 204},
	} {
		if got := s.subscribe(t, s.connect(t), c.token, c.topics...); got != c.status {
			t.Errorf("%s: %d, want %d", c.name, got, c.status)
		}
	}
	admins, err := s.app.FindCollectionByNameOrId(core.CollectionNameSuperusers)
	if err != nil {
		t.Fatal(err)
	}
	root := core.NewRecord(admins)
	root.SetEmail("root@example.com")
	root.SetPassword("correct horse battery")
	if err := s.app.Save(root); err != nil {
		t.Fatal(err)
	}
	rootToken, err := root.NewAuthToken()
	if err != nil {
		t.Fatal(err)
	}
	if got := s.subscribe(t, s.connect(t), rootToken, "servers/*", "mamba.tenant.t9"); got != 204 {
		t.Errorf("the dashboard: %d", got)
	}
}

func firstKey(m map[string]map[string]Scope) string {
	for k := range m {
		return k
	}
	return ""
}

// TestT08_RealtimeIsolation: 100 tenants x 200 updates (nightly: 1,000) over real connections, each tenant's member also
// connected to nothing else, half of them removed midway.
func TestT08_RealtimeIsolation(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const tenants = 100
	updates := 200
	if os.Getenv("MAMBA_NIGHTLY") != "" {
		updates = 1000
	}
	type member struct {
		user *core.Record
		st   *stream
	}
	members := make([]member, tenants)
	for i := range members {
		tenant := fmt.Sprint("t", i)
		u, token := s.member(t, fmt.Sprint("user", i), map[string]Scope{tenant: {All: true}})
		st := s.connect(t)
		if got := s.subscribe(t, st, token, Topic(tenant)); got != 204 {
			t.Fatalf("subscribe: %d", got)
		}
		members[i] = member{u, st}
	}
	foreign, received, slowest := 0, 0, time.Duration(0)
	send := func(from, to int) {
		for n := from; n < to; n++ {
			for i := range tenants {
				s.o.Broadcast(s.app, fmt.Sprint("t", i), Message{Type: "server", ID: fmt.Sprintf("t%d-%d", i, n)})
			}
			for i, m := range members { // in step, so that no queue overflows
				if n >= updates/2 && i%2 == 1 {
					continue
				}
				line := <-m.st.lines
				received++
				if !strings.Contains(line, fmt.Sprintf(`"t%d-`, i)) {
					foreign++
				}
			}
		}
	}
	send(0, updates/2)
	for i := 1; i < tenants; i += 2 {
		s.mu.Lock()
		s.seat[members[i].user.Id] = nil
		s.mu.Unlock()
		began := time.Now()
		s.o.Revoke(members[i].user.Id, fmt.Sprint("t", i))
		if line, open := <-members[i].st.lines; open {
			t.Errorf("after the revocation came %s", line)
		}
		slowest = max(slowest, time.Since(began))
		token, err := members[i].user.NewAuthToken()
		if err != nil {
			t.Fatal(err)
		}
		if got := s.subscribe(t, s.connect(t), token, Topic(fmt.Sprint("t", i))); got != 404 {
			t.Errorf("coming back: %d", got)
		}
	}
	send(updates/2, updates)
	t.Logf("T08: %d tenants x %d updates: %d received, %d foreign, slowest cut %s", tenants, updates, received, foreign, slowest)
	if foreign != 0 || received != tenants*updates*3/4 || slowest > time.Second {
		t.Errorf("foreign %d, received %d, cut in %s", foreign, received, slowest)
	}
}

func TestABrowserThatLeavesLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := serve(t)
	_, token := s.member(t, "alice", map[string]Scope{acme: {All: true}})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/api/realtime", nil)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(res.Body)
	st := &stream{}
	for sc.Scan() && st.id == "" {
		if d, ok := strings.CutPrefix(sc.Text(), `data:{"clientId":"`); ok {
			st.id = strings.TrimSuffix(d, `"}`)
		}
	}
	if got := s.subscribe(t, st, token, Topic(acme)); got != 204 {
		t.Fatal(got)
	}
	c, err := s.app.SubscriptionsBroker().ClientById(st.id)
	if err != nil {
		t.Fatal(err)
	}
	f := c.(*feed)
	cancel()
	res.Body.Close()
	<-f.done
	s.o.hub.mu.RLock()
	defer s.o.hub.mu.RUnlock()
	if len(s.o.hub.seats) != 0 {
		t.Fatal("its seat is still taken")
	}
}

// BenchmarkStateEvent is what a writer pays for one change that 0 or 500 browsers see, in one
// transaction with an event; and how long until all of them have it.
func BenchmarkStateEvent(b *testing.B) {
	for _, n := range []int{0, 500} {
		b.Run(fmt.Sprintf("browsers=%d", n), func(b *testing.B) {
			app := newApp(b)
			o := New(app, nil, quiet)
			o.Start(b.Context())
			defer o.Stop()
			user := newUser(b, app, "alice")
			var got sync.WaitGroup
			for range n {
				f := seat(b, o, user, map[string]Scope{acme: {All: true}})
				go func() {
					for m := range f.Channel() {
						if strings.Contains(string(m.Data), `"type":"server"`) {
							got.Done()
						}
					}
				}()
			}
			data := map[string]any{"id": "s", "name": strings.Repeat("x", 500)}
			var writer, reach time.Duration
			for i := range b.N {
				got.Add(n)
				began := time.Now()
				err := collections.Tx(app, nil, func(tx core.App) error {
					o.Broadcast(tx, acme, Message{Type: "server", ID: "s", Rev: int64(i), Data: data})
					return o.Emit(tx, Event{Kind: "server.phase_changed", Tenant: acme, Subject: "s"})
				})
				if err != nil {
					b.Fatal(err)
				}
				writer += time.Since(began)
				got.Wait()
				reach += time.Since(began)
			}
			b.ReportMetric(float64(writer.Microseconds())/float64(b.N), "writer-µs")
			b.ReportMetric(float64(reach.Microseconds())/float64(b.N), "all-reached-µs")
		})
	}
}

func TestAnAccountsOwnTopicIsItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T, app core.App) {
		o := New(app, nil, quiet)
		start(t, o)
		alice, bob := newUser(t, app, "alice"), newUser(t, app, "bob")
		hers, his := seat(t, o, alice, map[string]Scope{accountSeat + alice.Id: {All: true}, "t1": {All: true}}), seat(t, o, bob, map[string]Scope{accountSeat + bob.Id: {All: true}, "t1": {All: true}})
		o.Tell(app, alice.Id, Message{Type: "notice", ID: "n1"})
		if got := drain(hers); len(got) != 1 || got[0] != AccountTopic(alice.Id)+":notice:n1" {
			t.Errorf("alice got %v", got)
		}
		if got := drain(his); len(got) != 0 {
			t.Errorf("bob got %v", got)
		}
		for who, topic := range map[*core.Record]string{alice: AccountTopic(bob.Id), bob: Topic(accountSeat + alice.Id)} {
			e := &core.RealtimeSubscribeRequestEvent{RequestEvent: &core.RequestEvent{App: app, Auth: who}, Subscriptions: []string{topic}}
			if seats, err := seatsFor(e, func(*core.Record, string) (Scope, bool) { return Scope{All: true}, true }); err == nil {
				t.Errorf("%s was admitted to %v", who.GetString("name"), seats)
			}
		}
		e := &core.RealtimeSubscribeRequestEvent{RequestEvent: &core.RequestEvent{App: app, Auth: alice}, Subscriptions: []string{AccountTopic(alice.Id)}}
		if seats, err := seatsFor(e, nil); err != nil || len(seats) != 1 {
			t.Errorf("alice was not admitted to her own: %v %v", seats, err)
		}
	})
}
