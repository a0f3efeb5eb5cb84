package fleet

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/cluster"
	"github.com/mambahost/mamba/wings/wire"
)

// knownPeer makes the panel believe that a certificate is an instance's, so that only what the case is
// about is wrong with it.
func (p *panel) knownPeer(t testing.TB, instance string, leaf *x509.Certificate) {
	t.Helper()
	row, err := collections.NewPanelCertificate(p.app)
	if err != nil {
		t.Fatal(err)
	}
	row.SetInstance(instance)
	row.SetFingerprint(wire.Fingerprint(leaf.Raw))
	row.SetNotAfter(leaf.NotAfter)
	if err := permit.Save(p.app, row); err != nil {
		t.Fatal(err)
	}
}

// relayStatus asks an instance for a relay with a certificate; 0 when there was no answer at all.
func (p *panel) relayStatus(t testing.TB, cert *tls.Certificate, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+p.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", relayProtocol)
	res, err := p.client(cert).Do(req)
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

func TestT14_NobodyButARunningInstanceIsRelayedFor(t *testing.T) {
	t.Parallel()
	_, a, b, w := apart(t, newGame(t))
	node := w.NodeID()
	path := peersPrefix + a.instance + "/nodes/" + node + "/stream?kind=control"
	good := func() forge {
		return forge{
			parent: a.trust.Load().issuing, uris: []string{panelURIPrefix + b.instance},
			usage: x509.ExtKeyUsageClientAuth, notBefore: -wire.CertificateBackdate, notAfter: time.Hour,
		}
	}
	// The good ones first: without them the refusals would prove nothing.
	if status := a.relayStatus(t, &b.trust.Load().peer, path); status != http.StatusSwitchingProtocols {
		t.Fatalf("a running instance got %d", status)
	}
	known := good().make(t)
	a.knownPeer(t, b.instance, known.Leaf)
	if status := a.relayStatus(t, &known, path); status != http.StatusSwitchingProtocols {
		t.Fatalf("a forged certificate that is right in everything got %d; the cases below would prove nothing", status)
	}
	member := identityOf(t, w.dir).cert
	if status := a.beat(t, &member, node); status != http.StatusOK {
		t.Fatalf("the node got %d", status)
	}
	cases := []struct {
		name  string
		known string // instance for which the panel has the certificate; empty: for none
		forge func(forge) forge
	}{
		{"an expired certificate", b.instance, func(g forge) forge { g.notAfter = -time.Minute; return g }},
		{"one that is not valid yet", b.instance, func(g forge) forge { g.notBefore = time.Minute; return g }},
		{"one of another authority", b.instance, func(g forge) forge { g.parent = strangerCA(t); return g }},
		{"a self-signed one", b.instance, func(g forge) forge { g.parent = signer{}; return g }},
		{"one for servers", b.instance, func(g forge) forge { g.usage = x509.ExtKeyUsageServerAuth; return g }},
		{"one that our authority signed and nobody stored, or that was revoked", "", func(g forge) forge { return g }},
		{"one that is stored for another instance", a.instance, func(g forge) forge { return g }},
		{"this instance's own", a.instance, func(g forge) forge { g.uris = []string{panelURIPrefix + a.instance}; return g }},
		{"one without a name", b.instance, func(g forge) forge { g.uris = nil; return g }},
		{"one with two names", b.instance, func(g forge) forge { g.uris = append(g.uris, panelURIPrefix+a.instance); return g }},
		{"one that is a node's, too", b.instance, func(g forge) forge { g.uris = append(g.uris, wire.NodeURIPrefix+node); return g }},
		{"one with a DNS name besides", b.instance, func(g forge) forge { g.dns = []string{wire.PanelServerName}; return g }},
		{"one with a malformed id", "%2e%2e", func(g forge) forge { g.uris = []string{panelURIPrefix + "%2e%2e"}; return g }},
	}
	tried, accepted := 0, 0
	refuse := func(name string, status int) {
		t.Helper()
		tried++
		if status == http.StatusSwitchingProtocols || status >= 200 && status < 300 {
			accepted++
			t.Errorf("%s: accepted with %d", name, status)
		}
	}
	for _, c := range cases {
		cert := c.forge(good()).make(t)
		if c.known != "" {
			a.knownPeer(t, c.known, cert.Leaf)
		}
		refuse(c.name, a.relayStatus(t, &cert, path))
		refuse(c.name+", calling", a.relayStatus(t, &cert, peersPrefix+a.instance+"/call/x"))
	}
	refuse("no certificate", a.relayStatus(t, nil, path))
	refuse("a node's certificate", a.relayStatus(t, &member, path))
	refuse("a node's certificate, calling", a.relayStatus(t, &member, peersPrefix+a.instance+"/call/x"))
	refuse("the other's listener certificate", a.relayStatus(t, &b.trust.Load().listener, path))
	// What may ask another instance may do nothing that a node may.
	peer := &b.trust.Load().peer
	refuse("an instance posting a heartbeat", a.beat(t, peer, node))
	refuse("an instance posting events", a.post(t, a.client(peer), "/v1/nodes/"+node+"/events", wire.EventBatch{SpoolID: "x"}, nil))
	refuse("an instance opening a link", a.relayStatus(t, peer, "/v1/nodes/"+node+"/link?kind=control"))
	_, request := csr(t)
	refuse("an instance renewing", a.post(t, a.client(peer), "/v1/renew", wire.RenewRequest{CSR: request}, nil))
	// And it reaches the one that it means, with what it can say.
	for _, c := range []struct {
		name, path string
		status     int
	}{
		{"another instance's id", peersPrefix + b.instance + "/nodes/" + node + "/stream?kind=control", http.StatusMisdirectedRequest},
		{"no instance's id", peersPrefix + "nosuchinstance1/call/x", http.StatusMisdirectedRequest},
		{"a node without a link", peersPrefix + a.instance + "/nodes/node00000000009/stream?kind=control", http.StatusNotFound},
		{"a kind that does not exist", peersPrefix + a.instance + "/nodes/" + node + "/stream?kind=other", http.StatusBadRequest},
		{"a call that nobody answers", peersPrefix + a.instance + "/call/x", http.StatusNotFound},
	} {
		status := a.relayStatus(t, peer, c.path)
		if status != c.status {
			t.Errorf("%s: %d, want %d", c.name, status, c.status)
		}
		refuse(c.name, status)
	}
	t.Logf("T14: %d attempts to be relayed or to be a node with a certificate that is not for it, %d accepted", tried, accepted)
}

// Whoever answers at an instance's address must be that instance: an address may be given anew.
func TestT14_AnInstanceAsksNoOtherThanItMeans(t *testing.T) {
	t.Parallel()
	c, a, b, w := apart(t, newGame(t))
	node := w.NodeID()
	third := a.sibling(t, &circle{}) // no node is told of it
	third.start(t)
	c.with(func() { a.seat().address = third.Addr() })
	b.forgetRoster()
	err := b.Do(t.Context(), node, "GET", "/v1/ping", nil, nil)
	if !errors.Is(err, ErrNodeOffline) || !strings.Contains(err.Error(), "other_instance") {
		t.Errorf("another instance at the address: %v", err)
	}
	stranger := startPanel(t)
	c.with(func() { a.seat().address = stranger.Addr() })
	b.forgetRoster()
	if err := b.Do(t.Context(), node, "GET", "/v1/ping", nil, nil); !errors.Is(err, ErrNodeOffline) {
		t.Errorf("another installation at the address: %v", err)
	}
	c.with(func() { a.seat().address = a.Addr() })
	b.forgetRoster()
	if err := b.Do(t.Context(), node, "GET", "/v1/ping", nil, nil); err != nil {
		t.Errorf("at the right address: %v", err)
	}
}

func TestT14_ALiveRelayEndsWithItsCertificate(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	_, a, b, w := apart(t, g)
	console, err := b.Console(t.Context(), w.NodeID(), serverID(1), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	if err := a.cutRevoked(time.Now()); err != nil || len(a.relays.all()) != 1 {
		t.Fatalf("a good relay was cut, or %v", err)
	}
	if _, err := a.app.NonconcurrentDB().Delete(collections.PanelCertificates, dbx.HashExp{"instance": b.instance}).Execute(); err != nil {
		t.Fatal(err)
	}
	if err := a.cutRevoked(time.Now()); err != nil {
		t.Fatal(err)
	}
	var frame wire.ConsoleFrame
	if err := console.ReadJSON(&frame); err == nil {
		t.Error("the console goes on")
	}
	eventually(t, "no relay is left", func() bool { return len(a.relays.all()) == 0 })
	if err := b.Do(t.Context(), w.NodeID(), "GET", "/v1/ping", nil, nil); !errors.Is(err, ErrNodeOffline) {
		t.Errorf("a new relay: %v", err)
	}
}

func TestARevokedNodeIsCutEverywhereAtOnce(t *testing.T) {
	t.Parallel()
	c, list := instances(t, 3)
	w := list[0].joinWings(t, "node-a", newGame(t))
	node := w.NodeID()
	mustStart(t.Context(), w)
	var sessions []*session
	for _, p := range list {
		eventually(t, "linked", func() bool { return p.linkedHere(node) })
		sessions = append(sessions, p.links.control(node))
	}
	c.with(func() { list[2].seat().deaf = true }) // that one hears nothing: its sweep finds it
	began := time.Now()
	if err := list[0].DeleteNode(operator, node, false); err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions[:2] {
		<-s.CloseChan()
	}
	took := time.Since(began)
	t.Logf("links at two instances were cut %s after the node was deleted at one", took)
	if took > time.Second {
		t.Errorf("it took %s", took)
	}
	if sessions[2].IsClosed() {
		t.Error("the deaf instance heard of it; the test proves less than it says")
	}
	if err := list[2].cutRevoked(time.Now()); err != nil {
		t.Fatal(err)
	}
	<-sessions[2].CloseChan()
	eventually(t, "no row is left", func() bool { return count(t, list[0].app, collections.NodeLinks, dbx.HashExp{"node": node}) == 0 })
}

func TestPlainRequestsBetweenInstances(t *testing.T) {
	t.Parallel()
	c := &circle{}
	a := newPanel(t, func(cfg *Config) { cfg.Cluster = c.join() })
	a.SetPeerHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body)
	}))
	a.start(t)
	c.with(func() { a.seat().address = a.Addr() })
	b := a.sibling(t, c)
	b.start(t)
	client := &http.Client{Transport: b.RoundTripper(a.instance)}
	for _, path := range []string{"/api/realtime", "/a%2Fb/c?x=1&y=%20"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://anything"+path, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "of the user")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if got, want := string(raw), "POST "+path+" body"; got != want || res.StatusCode != http.StatusAccepted || res.Header.Get("X-Seen") != "of the user" {
			t.Errorf("%d %q %q, want %q", res.StatusCode, got, res.Header.Get("X-Seen"), want)
		}
	}
	for _, id := range []string{"nosuchinstance1", b.instance} {
		if _, err := (&http.Client{Transport: b.RoundTripper(id)}).Get("http://x/"); !errors.Is(err, ErrNoInstance) {
			t.Errorf("instance %s: %v", id, err)
		}
	}
	if _, err := (&http.Client{Transport: a.RoundTripper(b.instance)}).Get("http://x/"); err == nil {
		t.Error("an instance without an address was reached")
	}
}

func TestInstancesThatStartTogetherMakeOneAuthority(t *testing.T) {
	t.Parallel()
	c := &circle{}
	first := newPanel(t, func(cfg *Config) { cfg.Cluster = c.join() })
	list := []*panel{first, first.sibling(t, c), first.sibling(t, c)}
	roots := make([]string, len(list))
	var wg sync.WaitGroup
	for i, p := range list {
		wg.Go(func() {
			if err := p.Start(t.Context()); err != nil {
				t.Error(err)
				return
			}
			_, roots[i], _ = p.Authority()
		})
		t.Cleanup(p.Stop)
	}
	wg.Wait()
	if roots[0] == "" || roots[0] != roots[1] || roots[1] != roots[2] {
		t.Errorf("roots %v", roots)
	}
	if got := count(t, first.app, collections.Authorities, dbx.HashExp{"active": true}); got != 2 {
		t.Errorf("%d active authorities", got)
	}
	serials := map[string]bool{}
	for _, p := range list {
		tr := p.trust.Load()
		serials[tr.listener.Leaf.SerialNumber.String()] = true
		if id, _ := panelOf(tr.listener.Leaf); id != p.instance {
			t.Errorf("the listener of %s names %q", p.instance, id)
		}
		if owner, _, err := panelCertificate(p.app, wire.Fingerprint(tr.peer.Leaf.Raw)); err != nil || owner != p.instance {
			t.Errorf("the certificate of %s is stored for %q, %v", p.instance, owner, err)
		}
		// A node that joined anywhere verifies every one of them.
		if err := verifyAt(p, time.Now()); err != nil {
			t.Error(err)
		}
	}
	if len(serials) != 3 {
		t.Errorf("%d listener certificates for three instances", len(serials))
	}
}

func TestAnInstanceCertificateIsReplacedInTimeAndTheOldOneGoesOn(t *testing.T) {
	t.Parallel()
	c := &circle{}
	a := newPanel(t, func(cfg *Config) { cfg.Cluster = c.join() })
	b := a.sibling(t, c)
	now := time.Now()
	if err := errors.Join(a.ensureAuthority(now), b.ensureAuthority(now)); err != nil {
		t.Fatal(err)
	}
	old := b.trust.Load().peer
	if err := b.ensureAuthority(now.Add(peerLife / 2)); err != nil || b.trust.Load().peer.Leaf != old.Leaf {
		t.Errorf("replaced early, or %v", err)
	}
	if err := b.ensureAuthority(now.Add(peerLife * 3 / 4)); err != nil || b.trust.Load().peer.Leaf == old.Leaf {
		t.Errorf("not replaced, or %v", err)
	}
	admitted := func(cert tls.Certificate, at time.Time) error {
		_, err := a.admitPeer(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}, VerifiedChains: [][]*x509.Certificate{{cert.Leaf}}}, at)
		return err
	}
	if err := errors.Join(admitted(old, now), admitted(b.trust.Load().peer, now)); err != nil {
		t.Errorf("one of the two is refused: %v", err)
	}
	if err := admitted(old, now.Add(peerLife)); !errors.Is(err, errNotAPeer) {
		t.Errorf("the old one at its end: %v", err)
	}
}

func TestASilentNodeIsAnnouncedByOneInstance(t *testing.T) {
	t.Parallel()
	_, list := instances(t, 3)
	m := list[0].enrolNode(t, "node-a")
	if status := list[0].beat(t, &m.cert, m.id); status != http.StatusOK {
		t.Fatalf("heartbeat: %d", status)
	}
	later := time.Now().Add(2 * wire.OfflineAfter)
	if err := list[1].sweep(time.Now()); err != nil || list[1].node(t, m.id).Status() != statusOnline {
		t.Errorf("an instance that has just started found somebody silent, or %v", err)
	}
	var wg sync.WaitGroup
	for _, p := range list {
		wg.Go(func() {
			if err := p.sweep(later); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	fingerprint := "node.offline:" + m.id
	if got := list[0].book.count(t, fingerprint); got != 1 {
		t.Errorf("the incident was opened %d times", got)
	}
	if got := count(t, list[0].app, collections.Events, dbx.HashExp{"kind": "node.offline", "subject": m.id}); got != 1 {
		t.Errorf("%d events", got)
	}
	// A heartbeat at any instance brings it back.
	if status := list[2].beat(t, &m.cert, m.id); status != http.StatusOK || list[0].node(t, m.id).Status() != statusOnline {
		t.Errorf("status %d, the node is %s", status, list[0].node(t, m.id).Status())
	}
	if got := list[0].book.count(t, fingerprint); got != 0 {
		t.Error("the incident is open still")
	}
}

func TestABatchThatComesAtTwoInstancesAtOnceCountsOnce(t *testing.T) {
	t.Parallel()
	_, list := instances(t, 2)
	m := list[0].enrolNode(t, "node-a")
	const batches, each = 20, 10
	seq := int64(0)
	for range batches {
		b := wire.EventBatch{SpoolID: "spool"}
		for range each {
			seq++
			b.Events = append(b.Events, wire.Event{Seq: seq, Kind: wire.EventCrash, Crash: &wire.CrashReport{ServerID: serverID(int(seq))}})
		}
		var wg sync.WaitGroup
		for _, p := range list {
			wg.Go(func() {
				if acked, err := p.intake(m.id, b); err != nil || acked != seq {
					t.Errorf("acknowledged %d of %d, %v", acked, seq, err)
				}
			})
		}
		wg.Wait()
	}
	crashes := told(list[0].placed, func(p *placements) []wire.CrashReport { return p.crashes })
	if len(crashes) != batches*each {
		t.Fatalf("%d events had their effect, of %d", len(crashes), batches*each)
	}
	for i, c := range crashes {
		if c.ServerID != serverID(i+1) {
			t.Fatalf("effect %d is of server %s", i, c.ServerID)
		}
	}
}

func TestAJoinTokenIsSpentOnceAcrossInstances(t *testing.T) {
	t.Parallel()
	_, list := instances(t, 3)
	id, joined := list[0].addNode(t, "node-a")
	token, err := wire.ParseJoinToken(joined)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	taken := 0
	for _, p := range list {
		for range 4 {
			_, request := csr(t)
			wg.Go(func() {
				reply, err := p.enrol(wire.EnrolRequest{Token: token.Token, CSR: request}, "203.0.113.9", time.Now().UTC())
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					taken++
					if reply.NodeID != id || len(reply.Instances) != 3 {
						t.Errorf("the identity is %s with the instances %v", reply.NodeID, reply.Instances)
					}
				} else if !errors.Is(err, errJoinToken) {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if taken != 1 {
		t.Errorf("the token was taken %d times", taken)
	}
}

// The locks of a transaction that changes every server of a node are chosen before it begins: a server
// that comes meanwhile makes it begin anew.
func TestAServerThatComesMeanwhileIsLockedToo(t *testing.T) {
	t.Parallel()
	p := newPanel(t)
	id, _ := p.addNode(t, "node-a")
	var wg sync.WaitGroup
	var locked []string
	err := collections.Tx(p.app, []collections.Lock{nodeLock(id)}, func(tx core.App) error { // keeps the other from beginning
		wg.Go(func() {
			if err := p.withServers(id, true, func(_ core.App, servers []string) error { locked = servers; return nil }); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "the other has chosen its locks and waits", func() bool { return inTransaction("withServers", t.Name()) })
		_, err := tx.NonconcurrentDB().Insert(collections.Servers, dbx.Params{"id": serverID(1), "tenant": "tenant000000001", "node": id, "status": "RUNNING"}).Execute()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if !slices.Equal(locked, []string{serverID(1)}) {
		t.Errorf("it had the locks of the servers %v", locked)
	}
	locks, _, err := p.locks(id, serverID(1))
	if err != nil || !slices.Contains(locks, collections.Lock("server:"+serverID(1))) {
		t.Errorf("the locks are %v, %v", locks, err)
	}
	// One that goes on changing is given up on.
	if err := p.withServers(id, false, func(core.App, []string) error { return errMoved }); !errors.Is(err, errMoved) {
		t.Errorf("got %v", err)
	}
}

// inTransaction reports whether a goroutine of that test is in a transaction, or waits for one, below a
// function.
func inTransaction(function, test string) bool {
	buf := make([]byte, 4<<20)
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, function) && strings.Contains(g, "RunInTransaction") && strings.Contains(g, test) {
			return true
		}
	}
	return false
}

// Whoever changes a node saves its whole row: a heartbeat that comes in between, at another instance,
// must not be undone by that.
func TestAHeartbeatIsNotUndoneByAChangeOfItsNode(t *testing.T) {
	t.Parallel()
	_, list := instances(t, 2)
	id, _ := list[0].addNode(t, "node-a")
	at := time.Now().UTC().Add(time.Second).Truncate(time.Millisecond)
	var wg sync.WaitGroup
	var done atomic.Bool
	_, err := list[0].change(operator, id, "node.updated", nil, func(core.App, *collections.Node) error {
		wg.Go(func() {
			if _, err := list[1].heartbeat(id, wire.Heartbeat{Release: "9.9.9"}, at); err != nil {
				t.Error(err)
			}
			done.Store(true)
		})
		eventually(t, "the heartbeat waits, or did not", func() bool {
			return done.Load() || inTransaction("fleet.(*Fleet).heartbeat", t.Name())
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if got := list[0].node(t, id).LastHeartbeat(); !got.Equal(at) {
		t.Errorf("the last heartbeat is of %s, not %s", got, at)
	}
}

func TestTwoMachinesAreNotOneLocalNode(t *testing.T) {
	t.Parallel()
	c, list := instances(t, 2)
	capacity := wire.Capacity{CPUMillicores: 1000, MemoryMiB: 1024, DiskMiB: 10_000}
	id, token, join, err := list[0].EnsureLocalNode(LocalNode{Name: "local", Capacity: capacity})
	if err != nil || !join || token == "" {
		t.Fatalf("the first: %s, %t, %v", id, join, err)
	}
	parsed, err := wire.ParseJoinToken(token)
	if err != nil {
		t.Fatal(err)
	}
	key, request := csr(t)
	reply, err := list[0].enrol(wire.EnrolRequest{Token: parsed.Token, CSR: request}, "", time.Now().UTC())
	if err != nil {
		t.Fatal(err)
	}
	m := asMember(t, key, reply)
	if status := list[1].beat(t, &m.cert, m.id); status != http.StatusOK {
		t.Fatalf("heartbeat: %d", status)
	}
	if _, _, join, err := list[0].EnsureLocalNode(LocalNode{Name: "local", Capacity: capacity, Identity: id}); err != nil || join {
		t.Errorf("the same machine again: %t, %v", join, err)
	}
	if _, _, _, err := list[1].EnsureLocalNode(LocalNode{Name: "local", Capacity: capacity}); !errors.Is(err, ErrLocalNodeTaken) {
		t.Errorf("another machine with that name: %v", err)
	}
	if status := list[0].beat(t, &m.cert, m.id); status != http.StatusOK {
		t.Error("the first lost its identity to the second")
	}
	if other, _, join, err := list[1].EnsureLocalNode(LocalNode{Name: "local-2", Capacity: capacity}); err != nil || !join || other == id {
		t.Errorf("another machine with its own name: %s, %t, %v", other, join, err)
	}
	c.with(func() { list[0].seat().live = false })
	list[1].forgetRoster()
	if _, _, join, err := list[1].EnsureLocalNode(LocalNode{Name: "local", Capacity: capacity}); err != nil || !join {
		t.Errorf("a rebuilt machine that is alone: %t, %v", join, err)
	}
}

// A cluster that cannot say who lives makes nothing worse than it is.
type blind struct{ *seat }

func (b blind) Instances(core.App) ([]cluster.Instance, error) { return nil, errBroken }

func TestWithoutAListOfInstancesTheOwnLinksWork(t *testing.T) {
	t.Parallel()
	p := startPanel(t, func(cfg *Config) { cfg.Cluster = blind{(&circle{}).join()} })
	w := p.joinWings(t, "node-a", newGame(t))
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return p.linkedHere(w.NodeID()) })
	if err := p.Do(t.Context(), w.NodeID(), "GET", "/v1/ping", nil, nil); err != nil {
		t.Error(err)
	}
	eventually(t, "its link is told", func() bool { return p.knows(t, w.NodeID()) })
	if got := p.addresses(); got != nil {
		t.Errorf("nodes are told %v, which is not known", got)
	}
	if !p.leads(w.NodeID()) {
		t.Error("nobody syncs the node")
	}
	if err := p.tidy(time.Now().Add(time.Hour)); !errors.Is(err, errBroken) || !p.knows(t, w.NodeID()) {
		t.Errorf("rows were removed without knowing whose: %v", err)
	}
}
