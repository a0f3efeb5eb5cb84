package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/wings/link"
	"github.com/mambahost/mamba/wings/wire"
)

func TestNewLinkSyncsAndKickSyncsAgain(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	p.placed.specs = []wire.Spec{{ServerID: serverID(1), Generation: 4}}
	syncs := make(chan wire.Sync, 10)
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/servers", func(w http.ResponseWriter, r *http.Request) {
		var in wire.Sync
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(wire.SyncReply{Observed: []wire.Observed{
			{ServerID: serverID(1), Generation: 4, State: wire.StateRunning}, {ServerID: serverID(2), State: wire.StateStopped},
		}})
		syncs <- in
	})
	w := p.joinWings(t, "node-a", mux)
	mustStart(t.Context(), w)
	if in := <-syncs; len(in.Specs) != 1 || in.Specs[0].ServerID != serverID(1) || in.Specs[0].Generation != 4 {
		t.Fatalf("the node was told %+v", in)
	}
	observed := func() []wire.Observed {
		return told(p.placed, func(p *placements) []wire.Observed { return p.observed })
	}
	eventually(t, "both servers observed", func() bool { return len(observed()) == 2 })
	if o := observed(); o[0].State != wire.StateRunning || o[1].ServerID != serverID(2) {
		t.Errorf("observed %+v", o)
	}
	p.Kick(w.NodeID())
	<-syncs
	eventually(t, "observed again", func() bool { return len(observed()) == 4 })
}

func TestOneFailingServerDoesNotStopTheSyncOfOthers(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	p.placed.fail = func(server string) error {
		if server == serverID(1) {
			return errBroken
		}
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/servers", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(wire.SyncReply{Observed: []wire.Observed{{ServerID: serverID(1)}, {ServerID: serverID(2)}, {ServerID: "not an id"}}})
	})
	w := p.joinWings(t, "node-a", mux)
	mustStart(t.Context(), w)
	eventually(t, "the two others are observed", func() bool {
		return len(told(p.placed, func(p *placements) []wire.Observed { return p.observed })) >= 2
	})
	if err := p.sync(t.Context(), w.NodeID()); !errors.Is(err, errBroken) {
		t.Errorf("the sync says %v", err)
	}
}

// A thousand nodes with fifty servers each are synced every few minutes, and hardly anything is ever new.
func TestASyncWritesOnlyWhatIsNewAndManyAtATime(t *testing.T) {
	t.Parallel()
	const servers = 120
	p := startPanel(t)
	var fresh atomic.Bool
	fresh.Store(true)
	p.placed.heard = func(wire.Observed) bool { return !fresh.Load() }
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/servers", func(w http.ResponseWriter, _ *http.Request) {
		var reply wire.SyncReply
		for i := range servers {
			reply.Observed = append(reply.Observed, wire.Observed{ServerID: serverID(i)})
		}
		_ = json.NewEncoder(w).Encode(reply)
	})
	w := p.joinWings(t, "node-a", mux)
	mustStart(t.Context(), w)
	observed := func() int {
		return len(told(p.placed, func(p *placements) []wire.Observed { return p.observed }))
	}
	eventually(t, "all are observed", func() bool { return observed() == servers })
	p.placed.mu.Lock()
	if n := len(p.placed.txs); n != 3 { // of eventsPerTx at most
		t.Errorf("%d servers were taken in by %d transactions", servers, n)
	}
	p.placed.mu.Unlock()
	fresh.Store(false)
	if err := p.sync(t.Context(), w.NodeID()); err != nil {
		t.Fatal(err)
	}
	if n := observed(); n != servers {
		t.Errorf("a sync without news has %d observed", n-servers)
	}
}

// Reports of all nodes would wait for each other if each held the lock of allocations. It is taken only for
// a report that needs it.
func TestAReportTakesTheLockOfAllocationsOnlyWhenItNeedsIt(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	node := p.joinWings(t, "node-a", syncing()).NodeID()
	needy, runs := serverID(2), map[string]int{}
	p.placed.within = func(tx core.App, server string) error {
		runs[server]++
		if server != needy {
			return nil
		}
		return collections.Tx(tx, []collections.Lock{alloc.Lock}, func(core.App) error { return nil })
	}
	event := func(seq int64, server string) wire.Event {
		return wire.Event{Seq: seq, Kind: wire.EventObserved, Observed: &wire.Observed{ServerID: server}}
	}
	if acked, err := p.intake(node, wire.EventBatch{SpoolID: "s", Events: []wire.Event{event(1, serverID(1)), event(2, needy), event(3, serverID(3))}}); acked != 3 || err != nil {
		t.Fatalf("acknowledged %d, %v", acked, err)
	}
	if err := p.observeAll(node, []wire.Observed{{ServerID: serverID(1)}}); err != nil {
		t.Fatal(err)
	}
	if runs[serverID(1)] != 3 || runs[needy] != 2 || runs[serverID(3)] != 1 {
		t.Errorf("handed over %v times", runs) // the first batch began anew at the one that needs it
	}
	if got := told(p.placed, func(p *placements) []wire.Observed { return p.observed }); len(got) != 4 {
		t.Errorf("%d counted", len(got))
	}
}

func TestRequestsToANode(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	mux := syncing()
	mux.HandleFunc("PUT /v1/servers/{id}", func(w http.ResponseWriter, r *http.Request) {
		var s wire.Spec
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil || s.ServerID != r.PathValue("id") {
			t.Errorf("pushed %+v to %s, %v", s, r.URL, err)
		}
		_ = json.NewEncoder(w).Encode(wire.Observed{ServerID: s.ServerID, Generation: s.Generation, State: wire.StatePulling})
	})
	mux.HandleFunc("POST /v1/refuse", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(wire.Error{Code: "superseded", Message: "An older epoch."})
	})
	mux.HandleFunc("GET /v1/html", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<h1>no</h1>", http.StatusBadGateway) })
	mux.HandleFunc("GET /v1/garbage", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{") })
	w := p.joinWings(t, "node-a", mux)
	ctx := t.Context()
	if _, err := p.Push(ctx, w.NodeID(), wire.Spec{ServerID: serverID(1)}); !errors.Is(err, ErrNodeOffline) {
		t.Errorf("push before the link: %v", err)
	}
	if _, err := p.Console(ctx, w.NodeID(), serverID(1), 0); !errors.Is(err, ErrNodeOffline) {
		t.Errorf("console before the link: %v", err)
	}
	if res, err := p.BulkTransport(w.NodeID()).RoundTrip(bulkGet(ctx, "/v1/x")); !errors.Is(err, ErrNodeOffline) {
		t.Errorf("bulk before the link: %v, %v", res, err)
	}
	p.Kick(w.NodeID()) // must not block
	mustStart(ctx, w)
	eventually(t, "linked", func() bool { return p.Linked(w.NodeID()) })
	o, err := p.Push(ctx, w.NodeID(), wire.Spec{ServerID: serverID(1), Generation: 9})
	if err != nil || o.Generation != 9 || o.State != wire.StatePulling {
		t.Errorf("push gives %+v, %v", o, err)
	}
	var refused *wire.Error
	if err := p.Do(ctx, w.NodeID(), "POST", "/v1/refuse", map[string]int{"a": 1}, nil); !errors.As(err, &refused) || refused.Code != "superseded" || refused.Status != 409 {
		t.Errorf("a refusal gives %v", err)
	}
	if err := p.Do(ctx, w.NodeID(), "GET", "/v1/html", nil, nil); !errors.As(err, &refused) || refused.Code != "unknown" || refused.Status != 502 {
		t.Errorf("a refusal that is not ours gives %v", err)
	}
	var out wire.Observed
	if err := p.Do(ctx, w.NodeID(), "GET", "/v1/garbage", nil, &out); err == nil {
		t.Error("garbage was decoded")
	}
	if err := p.Do(ctx, "nosuchnode00001", "GET", "/v1/servers", nil, nil); !errors.Is(err, ErrNodeOffline) {
		t.Errorf("an unknown node gives %v", err)
	}
}

func TestRequestsPerNodeAreBounded(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	inside, release := make(chan struct{}, maxRequestsPerNode*2), make(chan struct{})
	mux := syncing()
	mux.HandleFunc("GET /v1/slow", func(w http.ResponseWriter, _ *http.Request) { inside <- struct{}{}; <-release })
	w := p.joinWings(t, "node-a", mux)
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return p.Linked(w.NodeID()) })
	if err := p.sync(t.Context(), w.NodeID()); err != nil { // the sync of the new link is over then or soon
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range maxRequestsPerNode {
		wg.Go(func() {
			if err := p.Do(t.Context(), w.NodeID(), "GET", "/v1/slow", nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for range maxRequestsPerNode {
		<-inside
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Do(ctx, w.NodeID(), "GET", "/v1/slow", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one more than the bound: %v", err)
	}
	close(release)
	wg.Wait()
	if len(inside) != 0 {
		t.Errorf("%d requests beyond the bound reached the node", len(inside))
	}
}

func TestConsoleRunsOverTheLink(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	mux := syncing()
	ended := make(chan error, 1)
	mux.HandleFunc("GET /v1/servers/{id}/console", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != serverID(1) {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(wire.Error{Code: "server_unknown", Message: "No such server."})
			return
		}
		u := websocket.Upgrader{}
		c, err := u.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_ = c.WriteJSON(wire.ConsoleFrame{Lines: []wire.ConsoleLine{{Seq: 8, Text: "after " + r.URL.Query().Get("after")}}})
		for {
			var in wire.ConsoleInput
			if err := c.ReadJSON(&in); err != nil {
				ended <- err
				return
			}
			_ = c.WriteJSON(wire.ConsoleFrame{Lines: []wire.ConsoleLine{{Text: "> " + in.Command}}})
		}
	})
	w := p.joinWings(t, "node-a", mux)
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return p.Linked(w.NodeID()) })
	var refused *wire.Error
	if _, err := p.Console(t.Context(), w.NodeID(), serverID(2), 0); !errors.As(err, &refused) || refused.Code != "server_unknown" {
		t.Errorf("a console of an unknown server: %v", err)
	}
	c, err := p.Console(t.Context(), w.NodeID(), serverID(1), 7)
	if err != nil {
		t.Fatal(err)
	}
	var frame wire.ConsoleFrame
	if err := c.ReadJSON(&frame); err != nil || frame.Lines[0].Text != "after 7" {
		t.Fatalf("first frame %+v, %v", frame, err)
	}
	if err := c.WriteJSON(wire.ConsoleInput{Command: "say hi"}); err != nil {
		t.Fatal(err)
	}
	if err := c.ReadJSON(&frame); err != nil || frame.Lines[0].Text != "> say hi" {
		t.Fatalf("answer %+v, %v", frame, err)
	}
	slots := p.links.nodes[w.NodeID()].consoles
	if len(slots) != 1 {
		t.Errorf("%d console slots are taken", len(slots))
	}
	c.Close()
	<-ended // the node sees it at once
	if len(slots) != 0 {
		t.Errorf("%d console slots are taken after closing", len(slots))
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
	if _, err := p.Console(t.Context(), w.NodeID(), serverID(1), 0); !errors.Is(err, ErrTooManyConsoles) {
		t.Errorf("one console too many: %v", err)
	}
}

// What may be asked of a node at once fits into what may wait to be accepted: beyond that, yamux
// blocks without a deadline.
func TestTheLinkHoldsAllThatMayBeAskedAtOnce(t *testing.T) {
	t.Parallel()
	if all := maxRequestsPerNode + maxConsolesPerNode + maxBulkPerNode + maxRelaysPerNode; all >= wire.LinkBacklog {
		t.Errorf("%d streams at once, and only %d may wait", all, wire.LinkBacklog)
	}
}

func bulkGet(ctx context.Context, path string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node"+path, nil)
	if err != nil {
		panic(err) // a constant path
	}
	return r
}

func TestBulkTransfersHaveConnectionsOfTheirOwn(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	const size = 8 << 20
	mux := syncing()
	mux.HandleFunc("GET /v1/download", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, zeros{}, size) })
	mux.HandleFunc("PUT /v1/upload", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d %v", n, err)
	})
	w := p.joinWings(t, "node-a", mux)
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return p.Linked(w.NodeID()) })
	client := &http.Client{Transport: p.BulkTransport(w.NodeID())}
	var wg sync.WaitGroup
	for range 8 {
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
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://node/v1/upload", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if string(body) != fmt.Sprintf("%d <nil>", size) {
		t.Errorf("upload: %s", body)
	}
	p.links.mu.Lock()
	n := p.links.nodes[w.NodeID()]
	open, asked := len(n.bulk), n.asked
	p.links.mu.Unlock()
	if open < 1 || open > wire.MaxBulkConnections || asked != 0 || len(n.bulks) != 0 {
		t.Errorf("%d bulk connections, %d asked, %d slots taken", open, asked, len(n.bulks))
	}
	t.Logf("8 downloads of %d MiB over %d bulk connections", size>>20, open)
}

func TestAbortedDownloadEndsItsHandlerAtOnce(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	mux := syncing()
	ended := endless(mux.HandleFunc)
	w := p.joinWings(t, "node-a", mux)
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return p.Linked(w.NodeID()) })
	abortDownload(t, p, w.NodeID(), ended)
}

// endless serves a download without an end and tells how its handler ended.
func endless(handle func(string, func(http.ResponseWriter, *http.Request))) <-chan error {
	ended := make(chan error, 1)
	handle("GET /v1/endless", func(w http.ResponseWriter, _ *http.Request) {
		_, err := io.Copy(w, zeros{})
		ended <- err
	})
	return ended
}

// abortDownload begins an endless download from a node, goes away, and waits for the node to notice.
func abortDownload(t *testing.T, p *panel, node string, ended <-chan error) {
	t.Helper()
	res, err := p.BulkTransport(node).RoundTrip(bulkGet(t.Context(), "/v1/endless"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, res.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	res.Body.Close()
	if err := <-ended; err == nil {
		t.Error("the handler ended without an error")
	}
	took := time.Since(began)
	if took >= wire.LinkStreamCloseTimeout {
		t.Errorf("the handler ended after %s, when the stream was cut", took)
	}
	t.Logf("the node's handler ended %s after the viewer went", took)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestUnaskedBulkConnectionIsRefused(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	for _, c := range []struct {
		name, query, upgrade string
		status               int
	}{
		{"a bulk connection that nobody asked for", "?kind=bulk", wire.LinkProtocol, 409},
		{"a kind that does not exist", "?kind=other", wire.LinkProtocol, 400},
		{"no kind", "", wire.LinkProtocol, 400},
		{"another protocol", "?kind=control", "websocket", 400},
	} {
		req, err := http.NewRequest(http.MethodGet, "https://"+p.Addr()+"/v1/nodes/"+m.id+"/link"+c.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Upgrade", c.upgrade)
		res, err := p.client(&m.cert).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", c.name, res.StatusCode, c.status)
		}
	}
}

func TestLinkComesBackWhenThePanelRestarts(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	p.config.Listen = p.Addr() // the second run listens where the nodes knew the first
	var served atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/servers", func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		_ = json.NewEncoder(w).Encode(wire.SyncReply{})
	})
	w := p.joinWings(t, "node-a", mux)
	mustStart(t.Context(), w)
	eventually(t, "linked and synced", func() bool { return p.Linked(w.NodeID()) && served.Load() > 0 })
	root, fingerprint, err := p.Authority()
	if err != nil {
		t.Fatal(err)
	}
	p.Stop()
	if p.Linked(w.NodeID()) {
		t.Error("a stopped panel says that it has a link")
	}
	if err := w.Report(wire.Event{Kind: wire.EventCrash, Crash: &wire.CrashReport{ServerID: serverID(1)}}); err != nil {
		t.Fatal(err)
	}
	before := served.Load()
	p.renew(t)
	p.start(t)
	began := time.Now()
	eventually(t, "linked and synced again", func() bool { return p.Linked(w.NodeID()) && served.Load() > before })
	t.Logf("linked again %s after the panel was back", time.Since(began))
	eventually(t, "the event of the time between", func() bool {
		return len(told(p.placed, func(p *placements) []wire.CrashReport { return p.crashes })) == 1
	})
	again, same, err := p.Authority()
	if err != nil || again != root || same != fingerprint {
		t.Errorf("the restart made another authority: %v", err)
	}
}

func TestNewerLinkReplacesTheOlder(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	first := p.joinWings(t, "node-a", syncing())
	mustStart(t.Context(), first)
	eventually(t, "linked", func() bool { return p.Linked(first.NodeID()) })
	old := p.links.control(first.NodeID())
	// The same identity a second time: a cloned machine, or a connection that the panel believes in
	// still while the node has given it up.
	clone := t.TempDir()
	copyFile(t, first.dir, clone, "identity.json")
	second := openWings(t, clone, syncing())
	mustStart(t.Context(), second)
	eventually(t, "the newer session is the link", func() bool {
		s := p.links.control(first.NodeID())
		return s != nil && s != old
	})
	<-old.CloseChan()
	eventually(t, "requests go over a live link", func() bool {
		return p.Do(t.Context(), first.NodeID(), "PUT", "/v1/servers", wire.Sync{}, nil) == nil
	})
}

func TestRevokedIdentityLosesItsLiveLink(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	w := p.joinWings(t, "node-a", syncing())
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return p.Linked(w.NodeID()) })
	s := p.links.control(w.NodeID())
	if err := p.cutRevoked(time.Now()); err != nil || s.IsClosed() {
		t.Fatalf("a good link was cut, or %v", err)
	}
	err := collections.Tx(p.app, []collections.Lock{audit.Lock("")}, func(tx core.App) error {
		return p.revokeAll(tx, w.NodeID(), "stolen", time.Now().UTC())
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cutRevoked(time.Now()); err != nil {
		t.Fatal(err)
	}
	<-s.CloseChan()
	eventually(t, "no link is left", func() bool { return !p.Linked(w.NodeID()) })
}

func TestRenewedCertificateKeepsTheLinkOfTheOldOne(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	w := p.joinWings(t, "node-a", syncing())
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return p.Linked(w.NodeID()) })
	s := p.links.control(w.NodeID())
	m := identityOf(t, w.dir)
	key, request := csr(t)
	var reply wire.EnrolReply
	if status := p.post(t, p.client(&m.cert), "/v1/renew", wire.RenewRequest{CSR: request}, &reply); status != 200 {
		t.Fatalf("renew: %d", status)
	}
	next := asMember(t, key, reply)
	if status := p.beat(t, &next.cert, next.id); status != 200 {
		t.Fatalf("first use: %d", status)
	}
	if err := p.cutRevoked(time.Now()); err != nil || s.IsClosed() {
		t.Errorf("the link was cut by a renewal, %v", err)
	}
	if err := p.cutRevoked(time.Now().Add(nodeLife)); err != nil {
		t.Fatal(err)
	}
	<-s.CloseChan() // but it does not outlive its certificate
}

func TestNodeOfAnotherVersionIsToldWhichSideToUpgrade(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version int
		code    string
	}{{wire.Version + 1, "panel_too_old"}, {wire.Version - 2, "node_too_old"}, {wire.Version, ""}} {
		err := versionError(c.version)
		if (err == nil) != (c.code == "") || err != nil && (err.Code != c.code || !strings.Contains(err.Message, "upgrade")) {
			t.Errorf("version %d: %v", c.version, err)
		}
	}
}

func TestDeletedNodeIsCutOffAtOnce(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	w := p.joinWings(t, "node-a", syncing())
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return p.Linked(w.NodeID()) })
	m := identityOf(t, w.dir)
	if err := p.DeleteNode(operator, w.NodeID(), false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the link is gone", func() bool { return !p.Linked(w.NodeID()) })
	if status := p.beat(t, &m.cert, w.NodeID()); status == 200 {
		t.Error("a deleted node may still report")
	}
}

func TestWingsJoinsOnlyThePinnedPanel(t *testing.T) {
	t.Parallel()
	p, other := startPanel(t), startPanel(t)
	_, joined := p.addNode(t, "node-a")
	dir := t.TempDir()
	if _, err := link.Join(t.Context(), "https://"+other.Addr(), joined, dir, "test"); !errors.Is(err, link.ErrPin) {
		t.Errorf("joining another panel: %v", err)
	}
	if _, err := link.Join(t.Context(), "https://"+p.Addr(), joined, dir, "test"); err != nil {
		t.Fatal(err)
	}
	var refused *wire.Error
	if _, err := link.Join(t.Context(), "https://"+p.Addr(), joined, t.TempDir(), "test"); !errors.As(err, &refused) || refused.Code != "join_token_invalid" {
		t.Errorf("joining twice with one token: %v", err)
	}
}
