package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/wings/wire"
)

// apart starts two instances and a node that reaches only the first. Nothing listens where it is told
// that the second is.
func apart(t testing.TB, h http.Handler) (c *circle, a, b *panel, w *wings) {
	t.Helper()
	c, list := instances(t, 2)
	a, b = list[0], list[1]
	c.with(func() { b.seat().address = unreachable(t) })
	a.forgetRoster()
	w = a.joinWings(t, "node-a", h)
	mustStart(t.Context(), w)
	eventually(t, "the first has the link and says so", func() bool { return a.linkedHere(w.NodeID()) && a.knows(t, w.NodeID()) })
	return c, a, b, w
}

func TestARequestIsServedWhicheverInstanceHasTheLink(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.HandleFunc("POST /v1/refuse", func(w http.ResponseWriter, _ *http.Request) {
		answerError(w, &wire.Error{Status: http.StatusConflict, Code: "superseded", Message: "An older epoch."})
	})
	const size = 4 << 20
	g.HandleFunc("GET /v1/download", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, zeros{}, size) })
	g.HandleFunc("PUT /v1/upload", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d %v", n, err)
	})
	g.HandleFunc("PUT /v1/full", func(w http.ResponseWriter, r *http.Request) { // answers before it has read all
		_, _ = io.CopyN(io.Discard, r.Body, 1<<10)
		w.Header().Set("Connection", "close")
		answerError(w, &wire.Error{Status: http.StatusInsufficientStorage, Code: "disk_full", Message: "Full."})
	})
	_, a, b, w := apart(t, g)
	node := w.NodeID()
	if b.linkedHere(node) || !b.Linked(node) {
		t.Fatalf("the second has a link of its own: %t, or does not know of the first's: %t", b.linkedHere(node), b.Linked(node))
	}
	if set, err := b.linkedAnywhere(); err != nil || !set[node] {
		t.Errorf("the list of nodes says %v, %v", set, err)
	}
	o, err := b.Push(t.Context(), node, wire.Spec{ServerID: serverID(1), Generation: 7})
	if err != nil || o.Generation != 7 {
		t.Errorf("push through the other: %+v, %v", o, err)
	}
	var refused *wire.Error
	if err := b.Do(t.Context(), node, "POST", "/v1/refuse", nil, nil); !errors.As(err, &refused) || refused.Code != "superseded" {
		t.Errorf("the node's refusal became %v", err)
	}
	before := g.synced()
	b.Kick(node)
	eventually(t, "a kick at the second syncs", func() bool { return g.synced() > before })
	g.say("hello")
	console, err := b.Console(t.Context(), node, serverID(1), 0)
	if err != nil {
		t.Fatal(err)
	}
	var frame wire.ConsoleFrame
	if err := console.ReadJSON(&frame); err != nil || frame.Lines[0].Text != "hello" {
		t.Errorf("console: %+v, %v", frame, err)
	}
	eventually(t, "that stream alone is relayed", func() bool { return len(a.links.entry(node).relays) == 1 }) // those before end a moment after their answers
	console.Close()
	client := &http.Client{Transport: b.BulkTransport(node)}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			res, err := client.Get("http://node/v1/download")
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
				t.Errorf("download: %d bytes, %v", n, err)
			}
		})
	}
	wg.Wait()
	put := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://node"+path, io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(body)
	}
	if status, body := put("/v1/upload"); body != fmt.Sprintf("%d <nil>", size) {
		t.Errorf("upload: %d %s", status, body)
	}
	if status, body := put("/v1/full"); status != http.StatusInsufficientStorage || !strings.Contains(body, "disk_full") {
		t.Errorf("a refusal in the middle of an upload: %d %s", status, body)
	}
	eventually(t, "no slot is left taken", func() bool {
		return len(a.links.entry(node).relays) == 0 && len(b.links.entry(node).bulks) == 0 && len(a.relays.all()) == 0
	})
}

func TestARelayedDownloadThatIsAbortedEndsItsHandlerAtOnce(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	ended := endless(g.HandleFunc)
	_, _, b, w := apart(t, g)
	abortDownload(t, b, w.NodeID(), ended)
}

func TestThereIsOneHopAndNoLoop(t *testing.T) {
	t.Parallel()
	_, list := instances(t, 3)
	a, b, c := list[0], list[1], list[2]
	w := a.joinWings(t, "node-a", syncing())
	node := w.NodeID()
	// Every instance believes that the two others have the link, and none has.
	for _, p := range list {
		p.claim(t, node)
	}
	began := time.Now()
	if err := c.Do(t.Context(), node, "GET", "/v1/ping", nil, nil); !errors.Is(err, ErrNodeOffline) {
		t.Errorf("a node that nobody has: %v", err)
	}
	var refused *wire.Error
	if err := c.Do(t.Context(), node, "GET", "/v1/ping", nil, nil); errors.As(err, &refused) {
		t.Errorf("an instance's refusal looks like the node's: %v", refused)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to find out", took)
	}
	mustStart(t.Context(), w)
	eventually(t, "the node links to all three", func() bool { return a.linkedHere(node) && b.linkedHere(node) && c.linkedHere(node) })
}

func (p *panel) claim(t testing.TB, node string) {
	t.Helper()
	if err := claim(p.app, node, p.instance); err != nil {
		t.Fatal(err)
	}
}

func TestRelaysOfANodeAreBounded(t *testing.T) {
	t.Parallel()
	_, a, b, w := apart(t, newGame(t))
	slots := a.links.entry(w.NodeID()).relays
	for range cap(slots) {
		slots <- struct{}{}
	}
	if err := b.Do(t.Context(), w.NodeID(), "GET", "/v1/ping", nil, nil); !errors.Is(err, ErrNodeOffline) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("one relay too many: %v", err)
	}
	<-slots
	if err := b.Do(t.Context(), w.NodeID(), "GET", "/v1/ping", nil, nil); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// It is not parallel: it measures.
func TestRelayLatency(t *testing.T) {
	_, a, b, w := apart(t, newGame(t))
	measure := func(p *panel) []time.Duration {
		var out []time.Duration
		for range 200 {
			began := time.Now()
			if err := p.Do(t.Context(), w.NodeID(), "GET", "/v1/ping", nil, nil); err != nil {
				t.Fatal(err)
			}
			out = append(out, time.Since(began))
		}
		return out
	}
	own, relayed := measure(a), measure(b)
	t.Logf("200 control requests: over the own link p50 %s p99 %s, relayed p50 %s p99 %s",
		quantile(own, 0.5), quantile(own, 0.99), quantile(relayed, 0.5), quantile(relayed, 0.99))
	if p50 := quantile(relayed, 0.5); p50 > 250*time.Millisecond {
		t.Errorf("a relayed request takes %s", p50)
	}
}

// steady asks for a node at an instance until ctx ends, and returns the longest time between two
// answers and how many requests failed.
func steady(ctx context.Context, p *panel, node string) (longest time.Duration, asked, failed int) {
	last := time.Now()
	for ctx.Err() == nil {
		each, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := p.Do(each, node, "GET", "/v1/ping", nil, nil)
		cancel()
		if ctx.Err() != nil {
			break
		}
		asked++
		if err != nil {
			failed++
			continue
		}
		longest, last = max(longest, time.Since(last)), time.Now()
	}
	return longest, asked, failed
}

// One instance of three is killed while requests come in at the two others: one with a link of its own,
// and one that had asked the killed one until then. It is not parallel: it measures.
func TestRequestsGoOnWhenAnInstanceIsKilled(t *testing.T) {
	c, list := instances(t, 3)
	a, b, far := list[0], list[1], list[2]
	c.with(func() { far.seat().address = unreachable(t) })
	a.forgetRoster()
	g := newGame(t)
	w := a.joinWings(t, "node-a", g)
	node := w.NodeID()
	mustStart(t.Context(), w)
	eventually(t, "two have the link", func() bool { return a.linkedHere(node) && b.linkedHere(node) && a.knows(t, node) && b.knows(t, node) })
	if far.linkedHere(node) {
		t.Fatal("the node reached an address where nothing listens")
	}
	// The far one prefers the one that will be killed.
	far.suspects.note(b.instance)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	type result struct {
		longest       time.Duration
		asked, failed int
	}
	results := make([]result, 2)
	for i, p := range []*panel{b, far} {
		wg.Go(func() {
			r := &results[i]
			r.longest, r.asked, r.failed = steady(ctx, p, node)
		})
	}
	time.AfterFunc(time.Second, func() { a.kill(t); time.AfterFunc(2*time.Second, cancel) })
	wg.Wait()
	for i, name := range []string{"with a link of its own", "that relayed through the killed one"} {
		r := results[i]
		t.Logf("an instance %s: longest time between answers %s, %d of %d requests failed", name, r.longest, r.failed, r.asked)
		if r.longest > time.Second {
			t.Errorf("an instance %s: nothing was answered for %s", name, r.longest)
		}
	}
	if results[0].failed != 0 {
		t.Errorf("%d requests over a link of a living instance failed", results[0].failed)
	}
}

// An instance that comes later is linked, too; a node that restarts when the one that it joined at is
// gone finds the survivor.
func TestANodeFollowsTheInstances(t *testing.T) {
	t.Parallel()
	c, list := instances(t, 2)
	a, b := list[0], list[1]
	c.with(func() { b.seat().live = false }) // not there yet
	a.forgetRoster()
	w := a.joinWings(t, "node-a", newGame(t))
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return a.linkedHere(w.NodeID()) })
	c.with(func() { b.seat().live = true })
	a.forgetRoster()
	a.links.cut(w.NodeID()) // the next hello brings the news
	eventually(t, "linked to both", func() bool { return b.linkedHere(w.NodeID()) })
	began := time.Now()
	a.kill(t)
	eventually(t, "requests at the survivor", func() bool { return b.Do(t.Context(), w.NodeID(), "GET", "/v1/ping", nil, nil) == nil })
	t.Logf("requests go on %s after the kill", time.Since(began))
	// A restarted node finds the survivor, though the instance that it joined at is gone.
	w.Stop()
	eventually(t, "the link ended", func() bool { return !b.linkedHere(w.NodeID()) })
	again := openWings(t, w.dir, newGame(t))
	mustStart(t.Context(), again)
	eventually(t, "linked again", func() bool { return b.linkedHere(w.NodeID()) })
}

// A viewer whose instance is killed goes on at another from the last line that he has.
func TestAConsoleGoesOnAtAnotherInstance(t *testing.T) {
	t.Parallel()
	_, list := instances(t, 3)
	g := newGame(t)
	w := list[0].joinWings(t, "node-a", g)
	mustStart(t.Context(), w)
	for _, p := range list {
		eventually(t, "linked to all", func() bool { return p.linkedHere(w.NodeID()) })
	}
	const lines, ahead = 600, 20
	var kills sync.WaitGroup
	defer kills.Wait()
	room := make(chan struct{}, lines+ahead) // the game says what the viewer is about to have seen, no more
	for range ahead {
		room <- struct{}{}
	}
	kills.Go(func() {
		for i := range lines {
			select {
			case <-room:
			case <-t.Context().Done():
				return
			}
			g.say(fmt.Sprint("line ", i+1))
		}
	})
	var seen []int64
	owed := 0 // places of lines that he has seen
	give := func() {
		for ; owed > 0; owed-- {
			room <- struct{}{}
		}
	}
	at := func() int64 {
		if len(seen) == 0 {
			return 0
		}
		return seen[len(seen)-1]
	}
	reconnects := 0
	for at() < lines {
		p := list[min(reconnects, 2)]
		console, err := p.Console(t.Context(), w.NodeID(), serverID(1), at())
		if err != nil {
			t.Fatal(err)
		}
		dying := false
		for frames := 0; at() < lines; frames++ {
			if frames == 3 && reconnects < 2 {
				dying = true // what he sees from now on makes no room for more
				kills.Go(func() { p.kill(t) })
			}
			var frame wire.ConsoleFrame
			if err := console.ReadJSON(&frame); err != nil {
				break
			}
			for _, l := range frame.Lines {
				seen = append(seen, l.Seq)
				if owed++; !dying {
					give()
				}
			}
		}
		console.Close()
		give()
		if reconnects++; reconnects > 20 {
			t.Fatalf("the viewer is at line %d of %d after %d reconnects", at(), lines, reconnects)
		}
	}
	for i, s := range seen {
		if s != int64(i+1) {
			t.Fatalf("line %d is followed by %d", i, s)
		}
	}
	if reconnects < 3 {
		t.Errorf("the viewer had %d connections; two instances were to be killed under him", reconnects)
	}
	t.Logf("%d lines over %d connections, none lost, none doubled", len(seen), reconnects)
}

func TestPresenceFollowsTheLinks(t *testing.T) {
	t.Parallel()
	c, list := instances(t, 2)
	a, b := list[0], list[1]
	w := a.joinWings(t, "node-a", newGame(t))
	node := w.NodeID()
	mustStart(t.Context(), w)
	eventually(t, "both say that they have it", func() bool { return a.knows(t, node) && b.knows(t, node) })
	if a.leads(node) == b.leads(node) {
		t.Error("not exactly one of the two leads")
	}
	w.Stop()
	eventually(t, "nobody says so", func() bool { return count(t, a.app, collections.NodeLinks, dbx.HashExp{"node": node}) == 0 })
	again := openWings(t, w.dir, newGame(t))
	mustStart(t.Context(), again)
	eventually(t, "both again", func() bool { return a.knows(t, node) && b.knows(t, node) })
	a.kill(t)
	if !a.knows(t, node) {
		t.Fatal("a killed instance takes its rows along; the test proves nothing")
	}
	c.die(t, b.app, a.seat())
	b.forgetRoster()
	if a.knows(t, node) || count(t, b.app, collections.PanelCertificates, dbx.HashExp{"instance": a.instance}) != 0 {
		t.Error("a dead instance keeps its links or its certificate")
	}
	// Others took the living one for dead.
	c.die(t, b.app, b.seat())
	if err := b.forgetInstance(b.app, b.instance); err != nil {
		t.Fatal(err)
	}
	c.with(func() { b.seat().live = true })
	b.forgetRoster()
	before := wire.Fingerprint(b.trust.Load().peer.Leaf.Raw)
	if err := b.tidy(time.Now()); err != nil {
		t.Fatal(err)
	}
	after := wire.Fingerprint(b.trust.Load().peer.Leaf.Raw)
	if owner, _, err := panelCertificate(b.app, after); err != nil || owner != b.instance || after == before {
		t.Errorf("an instance that lives again shows the certificate of %q, %v; the old one: %t", owner, err, after == before)
	}
	var written map[string]bool
	if err := b.writePresence(&written); err != nil || !b.knows(t, node) {
		t.Errorf("its links are not told again: %v", err)
	}
	b.Stop()
	if b.knows(t, node) {
		t.Error("an instance that stops leaves links")
	}
}

func TestTidyRemovesWhatNobodyMissed(t *testing.T) {
	t.Parallel()
	_, list := instances(t, 2)
	a, b := list[0], list[1]
	stranger := a.sibling(t, &circle{}) // dead before anybody knew it
	stranger.claim(t, "node00000000001")
	if _, _, err := stranger.Authority(); err != nil {
		t.Fatal(err)
	}
	left := func() []int { // an instance that lives takes back a link that it does not have by itself
		out := []int{count(t, a.app, collections.NodeLinks, dbx.HashExp{"instance": stranger.instance})}
		for _, p := range []*panel{stranger, a, b} {
			out = append(out, count(t, a.app, collections.PanelCertificates, dbx.HashExp{"instance": p.instance}))
		}
		return out
	}
	if err := a.tidy(time.Now()); err != nil || !slices.Equal(left(), []int{1, 1, 1, 1}) {
		t.Errorf("rows that are young: %v, %v", left(), err)
	}
	if err := a.tidy(time.Now().Add(tidyAfter + time.Minute)); err != nil || !slices.Equal(left(), []int{0, 0, 1, 1}) {
		t.Errorf("rows that are old: %v, %v", left(), err)
	}
	if err := a.tidy(time.Now().Add(peerLife + time.Minute)); err != nil || left()[3] != 0 {
		t.Errorf("certificates that are over: %v, %v", left(), err)
	}
}
