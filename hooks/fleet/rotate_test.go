package fleet

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/wings/wire"
)

// renewed renews a member's certificate with the one that it has.
func (p *panel) renewed(t testing.TB, m member) (member, int) {
	t.Helper()
	key, request := csr(t)
	var reply wire.EnrolReply
	status := p.post(t, p.client(&m.cert), "/v1/renew", wire.RenewRequest{CSR: request}, &reply)
	if status != http.StatusOK {
		return m, status
	}
	return asMember(t, key, reply), status
}

func TestT14_AnEndedCertificateMayOnlyBeRenewed(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	ended := func(ago time.Duration) member {
		g := p.good(m.id)
		g.notBefore, g.notAfter = -200*24*time.Hour, -ago
		cert := g.make(t)
		p.known(t, m.id, cert)
		return member{id: m.id, cert: cert}
	}
	refused := 0
	for _, ago := range []time.Duration{time.Second, time.Hour, 40 * time.Hour} {
		old := ended(ago)
		for _, c := range []struct{ method, path, body string }{
			{"POST", "/v1/nodes/" + m.id + "/heartbeat", `{"version":1}`}, {"POST", "/v1/nodes/" + m.id + "/events", `{"spool_id":"a"}`},
			{"POST", "/v1/nodes/" + m.id + "/metrics", `{}`}, {"GET", "/v1/nodes/" + m.id + "/link?kind=control", ""},
			{"POST", "/v1/nodes/" + m.id + "/renew", `{}`}, {"POST", "/v1/renew/", `{}`}, {"GET", "/", ""},
		} {
			got := p.ask(t, p.client(&old.cert), c.method, c.path, c.body)
			if refused++; got.Status != http.StatusUnauthorized || got.Code != "certificate_expired" {
				t.Errorf("%s ago: %s: %d %s", ago, c.path, got.Status, got.Code)
			}
			sentence(t, c.path, got.Message)
		}
		next, status := p.renewed(t, old)
		if status != http.StatusOK {
			t.Fatalf("%s ago: the renewal: %d", ago, status)
		}
		if status := p.beat(t, &next.cert, m.id); status != http.StatusOK {
			t.Fatalf("%s ago: after the renewal: %d", ago, status)
		}
		if _, status := p.renewed(t, old); status == http.StatusOK {
			t.Errorf("%s ago: it may be renewed although its successor is in use", ago)
		}
	}
	for after, good := range map[time.Duration]bool{time.Minute: true, 89 * 24 * time.Hour: true, 90*24*time.Hour + time.Minute: false} {
		at := m.cert.Leaf.NotAfter.Add(after) // the authority of a test is too young for a certificate that ended long ago
		if err := p.trust.Load().verifyClient([]*x509.Certificate{m.cert.Leaf, p.trust.Load().issuing.cert}, at); (err == nil) != good {
			t.Errorf("%s after its end: %v", after, err)
		}
	}
	old := ended(time.Hour)
	must(t, collections.Tx(p.app, nil, func(tx core.App) error { return p.revokeAll(tx, m.id, "stolen", time.Now()) }))
	if _, status := p.renewed(t, old); status == http.StatusOK {
		t.Error("an ended certificate that was revoked was renewed")
	}
	if _, status := p.renewed(t, ended(renewGrace+time.Minute)); status == http.StatusOK {
		t.Error("one that ended more than 90 days ago was renewed")
	}
	t.Logf("T14: %d requests with ended certificates refused, renewals within 90 days taken", refused)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Four connections of a node ask without a pause while its certificate is replaced again and again. The client keeps
// wings' rule: a refusal that came because the certificate was replaced meanwhile is asked once more with the new one.
func TestT14_10000RequestsOver100Rotations(t *testing.T) {
	t.Parallel()
	const all, rotations, workers = 10_000, 100, 4
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	type identity struct {
		member
		client *http.Client
	}
	with := func(m member) *identity {
		c := p.client(&m.cert)
		c.Transport.(*http.Transport).DisableKeepAlives = false
		c.Transport.(*http.Transport).MaxIdleConnsPerHost = workers
		return &identity{m, c}
	}
	var now atomic.Pointer[identity]
	now.Store(with(m))
	var asked, faults, turns atomic.Int64
	var wg sync.WaitGroup
	due := make(chan struct{}, rotations)
	body := `{"spool_id":"one","events":[]}`
	for range workers {
		wg.Go(func() {
			for n := asked.Add(1); n <= all; n = asked.Add(1) {
				if n%(all/rotations) == 0 {
					due <- struct{}{}
				}
				id := now.Load()
				status := p.postRaw(t, id.client, "/v1/nodes/"+m.id+"/events", body, nil)
				if next := now.Load(); status == http.StatusUnauthorized && next != id {
					status = p.postRaw(t, next.client, "/v1/nodes/"+m.id+"/events", body, nil)
				}
				if status == http.StatusTooManyRequests { // one at a time of a node; not a fault of the certificate
					continue
				}
				if status != http.StatusOK {
					faults.Add(1)
				}
			}
		})
	}
	for range rotations { // the requests set the pace
		<-due
		old := now.Load()
		next, status := p.renewed(t, old.member)
		if status != http.StatusOK {
			t.Fatalf("rotation %d: %d", turns.Load(), status)
		}
		now.Store(with(next))
		turns.Add(1)
		defer old.client.CloseIdleConnections()
	}
	wg.Wait()
	now.Load().client.CloseIdleConnections()
	if faults.Load() > 0 || turns.Load() < rotations {
		t.Errorf("%d faults, %d rotations", faults.Load(), turns.Load())
	}
	t.Logf("T14: %d requests over %d rotations, %d errors", all, turns.Load(), faults.Load())
}

// say is a heartbeat of a node that trusts these roots; it returns the panel's answer.
func (p *panel) say(t testing.TB, m member, roots []string) wire.HeartbeatReply {
	t.Helper()
	var reply wire.HeartbeatReply
	in := wire.Heartbeat{Version: wire.Version, NodeClock: time.Now(), Roots: roots}
	if status := p.post(t, p.client(&m.cert), "/v1/nodes/"+m.id+"/heartbeat", in, &reply); status != http.StatusOK {
		t.Fatalf("heartbeat: %d", status)
	}
	return reply
}

func fingerprints(t testing.TB, roots string) (out []string) {
	t.Helper()
	for rest := []byte(roots); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return out
		}
		out = append(out, wire.Fingerprint(b.Bytes))
	}
}

func (p *panel) states(t testing.TB) (out []string) {
	t.Helper()
	list, err := p.Authorities()
	must(t, err)
	for _, a := range list {
		out = append(out, a.Kind+" "+a.State)
	}
	return out
}

// A node that pinned the old root and has not heard of the new one is never shown the new one alone.
func TestT14_ANewRootWaitsForEveryNode(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	a, b := p.enrolNode(t, "node-a"), p.enrolNode(t, "node-b")
	first := p.trust.Load().roots[0]
	old := []string{wire.Fingerprint(first.Raw)}
	if r := p.say(t, a, old); r.Roots != "" || r.Renew {
		t.Fatalf("news without any: %+v", r)
	}
	p.say(t, b, old)
	must(t, p.RotateRoot(false))
	if err := p.RotateRoot(false); !errors.Is(err, ErrRootAnnounced) {
		t.Errorf("a second one: %v", err)
	}
	if got := p.states(t); !slices.Equal(got, []string{"root active", "root announced", "issuing active"}) || !p.trust.Load().roots[0].Equal(first) {
		t.Fatalf("%v", got)
	}
	list, err := p.Authorities()
	must(t, err)
	if !slices.Equal(list[1].Waiting, []string{"node-a", "node-b"}) {
		t.Errorf("waits for %v", list[1].Waiting)
	}
	nextSecond(t)
	both := fingerprints(t, p.say(t, a, old).Roots)
	if len(both) != 2 || !slices.Contains(both, old[0]) {
		t.Fatalf("the node is told of %d roots", len(both))
	}
	p.say(t, a, both)
	must(t, p.ensureAuthority(time.Now()))
	if !p.trust.Load().roots[0].Equal(first) {
		t.Fatal("it turned before the last node trusted the new root")
	}
	p.say(t, b, both)
	eventually(t, "the new root to sign", func() bool { return !p.trust.Load().roots[0].Equal(first) })
	if got := p.states(t); !slices.Equal(got, []string{"root active", "root retired", "issuing active"}) {
		t.Fatalf("%v", got)
	}
	// certificates of before are good, and their nodes are asked to renew them
	trustsBoth := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: p.trust.Load().pool, ServerName: wire.PanelServerName}
	conn, err := tls.Dial("tcp", p.Addr(), trustsBoth)
	must(t, err)
	conn.Close()
	for _, m := range []*member{&a, &b} {
		if r := p.say(t, *m, both); !r.Renew {
			t.Error("a node with an old certificate is not asked to renew it")
		}
		next, status := p.renewed(t, *m)
		if status != http.StatusOK {
			t.Fatal(status)
		}
		*m = next
		if r := p.say(t, next, both); r.Renew {
			// this heartbeat was the first use of the new one; the one after it knows
			if r := p.say(t, next, both); r.Renew {
				t.Error("a node with a new certificate is asked to renew it")
			}
		}
	}
	must(t, p.ensureAuthority(time.Now()))
	if got := p.states(t); !slices.Equal(got, []string{"root active", "issuing active"}) {
		t.Fatalf("the old root is kept: %v", got)
	}
	if got := fingerprints(t, p.say(t, a, both).Roots); len(got) != 1 || got[0] == old[0] {
		t.Errorf("the nodes are not told that the old root is gone: %v", got)
	}
	for _, action := range []string{"authority.activated", "authority.retired"} {
		if n, err := p.app.CountRecords(collections.AuditLogs, dbx.HashExp{"action": action}); err != nil || n != 1 {
			t.Errorf("%d rows of %s, %v", n, action, err)
		}
	}
}

func TestT14_AForcedRootLeavesOutWhoDidNotHear(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	deaf := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: m.roots, ServerName: wire.PanelServerName}
	must(t, p.RotateRoot(false))
	must(t, p.RotateRoot(true))
	if got := p.states(t); got[0] != "root active" || !slices.Contains(got, "root retired") {
		t.Fatalf("%v", got)
	}
	if conn, err := tls.Dial("tcp", p.Addr(), deaf); err == nil {
		conn.Close()
		t.Error("a node that trusts the old root only is shown something that it takes")
	}
	if p.beat(t, &m.cert, m.id) != http.StatusOK {
		t.Error("a certificate of the old root is not good any more")
	}
	next, status := p.renewed(t, m)
	if status != http.StatusOK || p.beat(t, &next.cert, m.id) != http.StatusOK {
		t.Errorf("its renewal: %d", status)
	}
}

func TestT14_ANewIssuingCertificateBesideTheOld(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	old := p.trust.Load().issuing.cert
	nextSecond(t)
	must(t, p.RotateIssuing(""))
	if p.trust.Load().issuing.cert.Equal(old) {
		t.Fatal("the issuing certificate is the old one")
	}
	if r := p.say(t, m, []string{wire.Fingerprint(p.trust.Load().roots[0].Raw)}); !r.Renew || r.Roots != "" {
		t.Errorf("a certificate of before: %+v", r)
	}
	next, status := p.renewed(t, m)
	if status != http.StatusOK || next.cert.Leaf.CheckSignatureFrom(p.trust.Load().issuing.cert) != nil {
		t.Fatalf("the renewal is not by the new one: %d", status)
	}
	if p.beat(t, &next.cert, m.id) != http.StatusOK {
		t.Error("the renewed certificate is refused")
	}
}

func TestTheRootIsTakenOfflineAndUsedFromAFile(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	key, err := p.RootKey(true)
	must(t, err)
	block, _ := pem.Decode([]byte(key))
	if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		t.Fatal(err)
	}
	if _, err := p.RootKey(false); !errors.Is(err, ErrRootOffline) {
		t.Errorf("it is here still: %v", err)
	}
	if err := p.RotateIssuing(""); !errors.Is(err, ErrRootOffline) {
		t.Errorf("signed without a key: %v", err)
	}
	for name, bad := range map[string]string{"rubbish": "x", "another's": newKeyPEM(t)} {
		if err := p.RotateIssuing(bad); err == nil || strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, p.RotateIssuing(key))
	if list, err := p.Authorities(); err != nil || list[0].KeyHere {
		t.Errorf("the key came back: %v", err)
	}
}

func newKeyPEM(t testing.TB) string {
	t.Helper()
	key, _ := csr(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func TestACertificateThatIsNotRenewedIsAnIncident(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	at := m.cert.Leaf.NotAfter
	open := func() string {
		rows, err := collections.Every[collections.Incident](p.app, collections.Incidents, "last_at DESC", 1, dbx.HashExp{"kind": "node.certificate", "status": "OPEN"})
		must(t, err)
		if len(rows) == 0 {
			return ""
		}
		return rows[0].Severity() + " " + rows[0].Title()
	}
	must(t, p.reportEnding(at.Add(-endingSoon-time.Hour)))
	if got := open(); got != "" {
		t.Errorf("too early: %s", got)
	}
	must(t, p.reportEnding(at.Add(-endingSoon+time.Hour)))
	if got := open(); !strings.HasPrefix(got, "warning The certificate of node node-a ends on ") {
		t.Errorf("soon: %q", got)
	}
	must(t, p.reportEnding(at.Add(time.Hour)))
	next, status := p.renewed(t, m)
	if status != http.StatusOK || p.beat(t, &next.cert, m.id) != http.StatusOK {
		t.Fatal(status)
	}
	if got := open(); got != "" {
		t.Errorf("after the renewal: %s", got)
	}
}

// nextSecond waits for it: certificates count whole ones.
func nextSecond(t *testing.T) {
	t.Helper()
	now := time.Now().Unix()
	eventually(t, "the next second", func() bool { return time.Now().Unix() > now })
}
