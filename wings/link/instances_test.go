package link

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

// several starts n instances of one panel which name each other.
func several(t testing.TB, n int) []*fakePanel {
	t.Helper()
	ca := newAuthority(t)
	var list []*fakePanel
	var names []string
	for i := range n {
		p := newFakeInstance(t, ca)
		p.id = fmt.Sprint("instance-", i)
		list, names = append(list, p), append(names, p.addr())
	}
	for _, p := range list {
		p.with(func() { p.names = names })
	}
	return list
}

func ask(s *yamux.Session, path string) string {
	res, err := over(s).Get("http://node" + path)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return string(body)
}

func stored(t testing.TB, dir string) *Identity {
	t.Helper()
	id, err := loadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestANodeHoldsALinkToEveryInstance(t *testing.T) {
	t.Parallel()
	list := several(t, 3)
	dir := list[0].join(t)
	l := open(t, dir)
	l.Start(t.Context(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }))
	var sessions []*yamux.Session
	for i, p := range list {
		s := <-p.linked
		sessions = append(sessions, s)
		if got := ask(s, "/v1/x"); got != "/v1/x" {
			t.Errorf("instance %d is answered %q", i, got)
		}
	}
	if id := stored(t, dir); len(id.addresses()) != 3 || id.Joined != list[0].addr() {
		t.Errorf("stored: joined at %s, instances %v", id.Joined, id.Instances)
	}
	// Each loses its connection by itself, and gets it back.
	for i := range list {
		sessions[i].Close()
		again := <-list[i].linked
		for j, s := range sessions {
			if j > i && s.IsClosed() {
				t.Errorf("the end of link %d ended link %d", i, j)
			}
		}
		sessions[i] = again
	}
	for i, p := range list {
		if got := ask(sessions[i], "/v1/y"); got != "/v1/y" {
			t.Errorf("instance %d is answered %q", i, got)
		}
		p.with(func() {
			if n := len(p.kinds); n != 2 {
				t.Errorf("instance %d was linked %d times", i, n)
			}
		})
	}
}

func TestBulkConnectionsComeToTheInstanceThatAsked(t *testing.T) {
	t.Parallel()
	list := several(t, 2)
	l := open(t, list[0].join(t))
	l.Start(t.Context(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") }))
	controls := []*yamux.Session{<-list[0].linked, <-list[1].linked}
	for i, p := range list {
		for range wire.MaxBulkConnections { // the bound is each instance's own
			res, err := over(controls[i]).Post("http://node"+wire.BulkPath, "", nil)
			if err != nil || res.StatusCode != http.StatusAccepted {
				t.Fatalf("instance %d: %v, %v", i, res, err)
			}
			res.Body.Close()
			if got := ask(<-p.linked, "/x"); got != "here" {
				t.Errorf("a bulk connection of instance %d answers %q", i, got)
			}
		}
		res, err := over(controls[i]).Post("http://node"+wire.BulkPath, "", nil)
		if err != nil || res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("instance %d, one more than the bound: %v, %v", i, res, err)
		}
		res.Body.Close()
	}
	for i, p := range list {
		p.with(func() {
			if got := strings.Join(p.kinds, " "); got != "control"+strings.Repeat(" bulk", wire.MaxBulkConnections) {
				t.Errorf("instance %d has the connections %s", i, got)
			}
		})
	}
}

// An instance comes and goes; the address that the node joined at is kept whatever the panel says.
func TestTheListIsFollowedAndTheFirstAddressKept(t *testing.T) {
	t.Parallel()
	list := several(t, 3)
	first, second, third := list[0], list[1], list[2]
	for _, p := range list {
		p.with(func() { p.names = []string{second.addr()} }) // the panel does not know the first's address
	}
	dir := first.join(t)
	l := open(t, dir)
	l.Start(t.Context(), http.NotFoundHandler())
	<-first.linked
	held := <-second.linked
	for _, p := range list {
		p.with(func() { p.names = []string{third.addr()} })
	}
	if err := l.heartbeat(t.Context()); err != nil { // a heartbeat brings the news while it is linked
		t.Fatal(err)
	}
	<-third.linked
	id := stored(t, dir)
	if !slices.Equal(id.addresses(), []string{first.addr(), third.addr()}) {
		t.Errorf("stored: %v", id.addresses())
	}
	if held.IsClosed() {
		t.Error("a link that works was cut because its instance was not named")
	}
	before := 0
	second.with(func() { before = len(second.kinds) })
	held.Close()
	eventually(t, "nobody keeps the second linked", func() bool { return !l.keeps(second.addr()) })
	second.with(func() {
		if len(second.kinds) != before {
			t.Error("an instance that is not named any more was linked again")
		}
	})
	// Named anew, it is linked anew.
	for _, p := range list {
		p.with(func() { p.names = []string{second.addr(), third.addr()} })
	}
	if err := l.heartbeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-second.linked
	// No news, and what cannot be used, change nothing.
	for _, names := range [][]string{nil, {}, {"", "x", ":8443", "host:0", "host:99999", strings.Repeat("a", 300) + ":1"}} {
		for _, p := range list {
			p.with(func() { p.names = names })
		}
		if err := l.heartbeat(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := stored(t, dir).Instances; !slices.Equal(got, []string{second.addr(), third.addr()}) {
		t.Errorf("stored after no news: %v", got)
	}
}

// keeps reports whether an address is among those that are kept linked.
func (l *Link) keeps(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept[address]
}

func TestARestartedNodeFindsAnySurvivor(t *testing.T) {
	t.Parallel()
	list := several(t, 3)
	dir := list[0].join(t)
	l := open(t, dir)
	l.Start(t.Context(), http.NotFoundHandler())
	for _, p := range list {
		<-p.linked
	}
	l.Stop()
	list[0].server.CloseClientConnections()
	list[0].server.Close() // where it joined
	list[1].server.CloseClientConnections()
	list[1].server.Close()
	again := open(t, dir)
	again.Start(t.Context(), http.NotFoundHandler())
	<-list[2].linked
	eventually(t, "a heartbeat at the survivor", func() bool { list[2].mu.Lock(); defer list[2].mu.Unlock(); return len(list[2].beats) > 0 })
}

func TestCallsMoveOnAtOnceAndTheSpoolStaysExact(t *testing.T) {
	t.Parallel()
	list := several(t, 3)
	l := open(t, list[0].join(t))
	book := &ledger{}
	for _, p := range list {
		p.with(func() { p.ledger = book })
	}
	l.Start(t.Context(), http.NotFoundHandler())
	for _, p := range list {
		<-p.linked
	}
	const events = 900
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range events {
			if err := l.Report(wire.Event{Kind: wire.EventCrash, Crash: &wire.CrashReport{Attempt: int64(i + 1)}}); err != nil {
				t.Error(err)
			}
		}
	})
	eventually(t, "the first events", func() bool { return book.len() > 0 })
	// The instance that takes them cannot any more; the next is gone altogether.
	list[0].with(func() { list[0].refuse = &wire.Error{Status: 503, Code: "unavailable", Message: "Not now."} })
	list[1].server.CloseClientConnections()
	list[1].server.Close()
	wg.Wait()
	eventually(t, "all events", func() bool { return book.len() >= events })
	for i, e := range book.all() {
		if e.Seq != int64(i+1) || e.Crash.Attempt != e.Seq {
			t.Fatalf("effect %d is of event %d", i, e.Seq)
		}
	}
	began := time.Now()
	if err := l.heartbeat(t.Context()); err != nil {
		t.Errorf("a heartbeat with one instance of three: %v", err)
	}
	if took := time.Since(began); took > moveOnAfter {
		t.Errorf("a heartbeat took %s", took)
	}
	if err := l.renew(t.Context()); err != nil {
		t.Errorf("a renewal with one instance of three: %v", err)
	}
	if got := l.id.Load(); got.Joined != list[0].addr() || len(got.Instances) == 0 {
		t.Errorf("the renewed identity joined at %q, instances %v", got.Joined, got.Instances)
	}
	// A refusal that is about the node is the panel's word, not one instance's.
	list[2].with(func() { list[2].refuse = &wire.Error{Status: 401, Code: "certificate_refused", Message: "No."} })
	list[0].with(func() { list[0].refused = 0 })
	l.board.took(list[2].addr())
	if err := l.heartbeat(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate_refused") {
		t.Errorf("got %v", err)
	}
	list[0].with(func() {
		if list[0].refused != 0 {
			t.Error("another instance was asked after a refusal")
		}
	})
}

// An instance that takes connections and says nothing keeps nobody waiting for long.
func TestASilentInstanceIsPassedOver(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	l := open(t, p.join(t))
	l.learn([]string{silent.Addr().String(), p.addr()})
	id := *l.id.Load()
	id.Joined = silent.Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), requestTimeout)
	defer cancel()
	began := time.Now()
	if err := l.callAs(ctx, &id, "heartbeat", wire.Heartbeat{}, &wire.HeartbeatReply{}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < time.Second || took > moveOnAfter+5*time.Second {
		t.Errorf("it took %s", took)
	}
	began = time.Now()
	if err := l.callAs(ctx, &id, "heartbeat", wire.Heartbeat{}, &wire.HeartbeatReply{}); err != nil || time.Since(began) > time.Second {
		t.Errorf("the one that answered is not asked first: %s, %v", time.Since(began), err)
	}
}

// Two addresses lead to one instance: a balanced name and its own, or inside and outside. One link is
// held, and the other address takes its place when it ends.
func TestTwoAddressesOfOneInstanceAreOneLink(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	_, port, err := net.SplitHostPort(p.addr())
	if err != nil {
		t.Fatal(err)
	}
	byName := net.JoinHostPort("localhost", port)
	p.with(func() { p.id, p.names = "instance-0", []string{byName, p.addr()} })
	l := open(t, p.join(t))
	l.learn(p.names)
	l.Start(t.Context(), http.NotFoundHandler())
	opened := []*yamux.Session{<-p.linked, <-p.linked} // the second of them is given up
	eventually(t, "one is closed by the node", func() bool { return opened[0].IsClosed() != opened[1].IsClosed() })
	live := opened[0]
	if live.IsClosed() {
		live = opened[1]
	}
	if _, err := live.Ping(); err != nil {
		t.Fatal(err)
	}
	l.board.mu.Lock()
	if n := len(l.board.live); n != 1 {
		t.Errorf("%d live links", n)
	}
	l.board.mu.Unlock()
	live.Close()
	next := <-p.linked
	if _, err := next.Ping(); err != nil {
		t.Error(err)
	}
	p.with(func() {
		if n := len(p.kinds); n < 3 || n > 4 { // the other address at once, and perhaps the same again
			t.Errorf("%d connections", n)
		}
	})
}

// What a release stored that knew one address only.
func TestAnOlderIdentityKeepsItsAddress(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	dir := p.join(t)
	raw, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "joined")
	if raw, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, identityFile), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir)
	l.learn([]string{"203.0.113.7:8443"})
	if got := stored(t, dir); got.Joined != p.addr() || !slices.Equal(got.Instances, []string{"203.0.113.7:8443"}) {
		t.Errorf("joined %q, instances %v", got.Joined, got.Instances)
	}
	l.Start(t.Context(), http.NotFoundHandler()) // an older panel names nobody
	<-p.linked
}

// A list that cannot be stored does not count: a restarted node must not know less than it uses.
func TestAListThatCannotBeStoredIsAskedForAgain(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	dir := p.join(t)
	l := open(t, dir)
	gone := l.cfg.Dir
	l.cfg.Dir = filepath.Join(dir, "nowhere")
	l.learn([]string{"203.0.113.7:8443"})
	if got := l.id.Load().Instances; slices.Contains(got, "203.0.113.7:8443") {
		t.Error("a list that is not on disk is used")
	}
	l.cfg.Dir = gone
	l.learn([]string{"203.0.113.7:8443"})
	if got := stored(t, dir).Instances; !slices.Equal(got, []string{"203.0.113.7:8443"}) {
		t.Errorf("stored %v", got)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".identity*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestUsableAddresses(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOf(rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z0-9.-]{1,20}:[0-9]{1,6}`), rapid.StringMatching(`\[[0-9a-f:]{2,20}\]:[0-9]{1,5}`))).Draw(t, "list")
		got := usable(list)
		if len(got) > wire.MaxInstances {
			t.Fatalf("%d addresses", len(got))
		}
		for i, a := range got {
			if !slices.Contains(list, a) || slices.Contains(got[:i], a) {
				t.Fatalf("%q is not of the list, or twice", a)
			}
			if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
				t.Fatalf("%q cannot be dialled", a)
			}
		}
		if again := usable(got); !slices.Equal(again, got) {
			t.Fatalf("%v became %v", got, again)
		}
	})
}
