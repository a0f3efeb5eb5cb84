package fleet

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
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

// forge makes a client certificate by hand. parent's key signs it; rows says whether the panel
// knows its fingerprint as the node's present one.
type forge struct {
	parent    signer
	uris      []string
	dns       []string
	usage     x509.ExtKeyUsage
	notBefore time.Duration // from now
	notAfter  time.Duration
	isCA      bool
}

func (p *panel) good(node string) forge {
	return forge{
		parent: p.trust.Load().issuing, uris: []string{wire.NodeURIPrefix + node},
		usage: x509.ExtKeyUsageClientAuth, notBefore: -wire.CertificateBackdate, notAfter: time.Hour,
	}
}

func (g forge) make(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: "forged"}, SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore: time.Now().Add(g.notBefore), NotAfter: time.Now().Add(g.notAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{g.usage},
		DNSNames: g.dns, BasicConstraintsValid: true, IsCA: g.isCA,
	}
	for _, u := range g.uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.URIs = append(tmpl.URIs, parsed)
	}
	parent := g.parent
	if parent.key == nil {
		parent = signer{cert: tmpl, key: key} // self-signed
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent.cert, &key.PublicKey, parent.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	chain := [][]byte{der}
	if g.parent.key != nil {
		chain = append(chain, g.parent.cert.Raw)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
}

// known makes the panel believe that a certificate is the node's present one, so that only what the
// case is about is wrong with it.
func (p *panel) known(t testing.TB, node string, cert tls.Certificate) {
	t.Helper()
	err := collections.Tx(p.app, nil, func(tx core.App) error {
		if err := storeCertificate(tx, node, cert.Leaf); err != nil {
			return err
		}
		n, err := collections.FindNode(tx, node)
		if err != nil {
			return err
		}
		n.SetCertFingerprint(wire.Fingerprint(cert.Leaf.Raw))
		return permit.Save(tx, n)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func strangerCA(t testing.TB) signer {
	t.Helper()
	f := &Fleet{}
	root, err := f.newAuthority("root", time.Now(), signer{})
	if err != nil {
		t.Fatal(err)
	}
	issuing, err := f.newAuthority("issuing", time.Now(), root)
	if err != nil {
		t.Fatal(err)
	}
	return issuing
}

func TestT14_ForgedCertificatesAreRefused(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	a, b := p.enrolNode(t, "node-a"), p.enrolNode(t, "node-b")
	if p.beat(t, &a.cert, a.id) != 200 || p.beat(t, &b.cert, b.id) != 200 {
		t.Fatal("good certificates are refused; the cases below would prove nothing")
	}
	victim := a.id
	cases := []struct {
		name  string
		known bool // the panel has the fingerprint as the node's present one
		forge func(forge) forge
	}{
		{"one that ended 90 days ago", true, func(g forge) forge {
			g.notBefore, g.notAfter = -100*24*time.Hour, -90*24*time.Hour-time.Minute
			return g
		}},
		{"an ended one of another authority", true, func(g forge) forge { g.notAfter, g.parent = -time.Minute, strangerCA(t); return g }},
		{"an ended one for servers", true, func(g forge) forge { g.notAfter, g.usage = -time.Minute, x509.ExtKeyUsageServerAuth; return g }},
		{"an ended one that nobody stored", false, func(g forge) forge { g.notAfter = -time.Minute; return g }},
		{"one that is not valid yet", true, func(g forge) forge { g.notBefore = time.Minute; return g }},
		{"one of another authority", true, func(g forge) forge { g.parent = strangerCA(t); return g }},
		{"one for servers", true, func(g forge) forge { g.usage = x509.ExtKeyUsageServerAuth; return g }},
		{"one for signing code", true, func(g forge) forge { g.usage = x509.ExtKeyUsageCodeSigning; return g }},
		{"a self-signed one", true, func(g forge) forge { g.parent = signer{}; return g }},
		{"a self-signed authority", true, func(g forge) forge { g.parent, g.isCA = signer{}, true; return g }},
		{"one that our authority signed and nobody stored", false, func(g forge) forge { return g }},
		{"one without a name", true, func(g forge) forge { g.uris = nil; return g }},
		{"one with two names", true, func(g forge) forge { g.uris = append(g.uris, wire.NodeURIPrefix+b.id); return g }},
		{"one with another scheme", true, func(g forge) forge { g.uris = []string{"https://node/" + victim}; return g }},
		{"one with a longer path", true, func(g forge) forge { g.uris = []string{wire.NodeURIPrefix + victim + "/x"}; return g }},
		{"one with a malformed id", true, func(g forge) forge { g.uris = []string{wire.NodeURIPrefix + "%2e%2e"}; return g }},
		{"one with a DNS name besides", true, func(g forge) forge { g.dns = []string{"panel.example.com"}; return g }},
		{"one that names another node than its row", true, func(g forge) forge { g.uris = []string{wire.NodeURIPrefix + b.id}; return g }},
		{"one of a node that does not exist", false, func(g forge) forge { g.uris = []string{wire.NodeURIPrefix + "nosuchnode00001"}; return g }},
	}
	accepted, tried := 0, 0
	try := func(name string, cert *tls.Certificate, node string) {
		t.Helper()
		for _, path := range []string{"heartbeat", "events"} {
			tried++
			body := any(wire.Heartbeat{NodeClock: time.Now()})
			if path == "events" {
				body = wire.EventBatch{SpoolID: "forged"}
			}
			if status := p.post(t, p.client(cert), "/v1/nodes/"+node+"/"+path, body, nil); status >= 200 && status < 300 {
				accepted++
				t.Errorf("%s: %s was accepted with %d", name, path, status)
			}
		}
		tried++
		_, request := csr(t)
		if status := p.post(t, p.client(cert), "/v1/renew", wire.RenewRequest{CSR: request}, nil); status >= 200 && status < 300 {
			accepted++
			t.Errorf("%s: renew was accepted with %d", name, status)
		}
	}
	for _, c := range cases {
		cert := c.forge(p.good(victim)).make(t)
		if c.known {
			p.known(t, victim, cert)
		}
		try(c.name, &cert, victim)
		p.known(t, victim, p.good(victim).make(t)) // the next case finds the node as it was
	}
	try("no certificate", nil, victim)
	tried++
	if status := p.beat(t, &b.cert, victim); status != http.StatusForbidden {
		accepted++
		t.Errorf("node B posting for node A: status %d", status)
	}
	if status := p.beat(t, &a.cert, a.id); status != 0 && status < 400 {
		accepted++
		t.Errorf("a certificate that is not the present one any more: status %d", status)
	}
	if status := p.beat(t, &b.cert, b.id); status != 200 {
		t.Errorf("the other node was refused with %d", status)
	}
	t.Logf("T14: %d attempts with %d forged identities, %d accepted", tried+1, len(cases)+2, accepted)
}

func TestT14_RevocationCutsNewAndLiveConnections(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	// One connection that is kept alive, one config that would resume a session if it could.
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: m.roots, ServerName: wire.PanelServerName,
		Certificates: []tls.Certificate{m.cert}, ClientSessionCache: tls.NewLRUClientSessionCache(8),
	}
	kept := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	defer kept.CloseIdleConnections()
	path := "/v1/nodes/" + m.id + "/heartbeat"
	if status := p.post(t, kept, path, wire.Heartbeat{}, nil); status != 200 {
		t.Fatalf("before the revocation: %d", status)
	}
	err := collections.Tx(p.app, nil, func(tx core.App) error { return p.revokeAll(tx, m.id, "stolen", time.Now().UTC()) })
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	if status := p.post(t, kept, path, wire.Heartbeat{}, nil); status != http.StatusUnauthorized {
		accepted++
		t.Errorf("the live connection after the revocation: status %d", status)
	}
	kept.CloseIdleConnections()
	if status := p.post(t, kept, path, wire.Heartbeat{}, nil); status != 0 {
		accepted++
		t.Errorf("a resumed session after the revocation: status %d", status)
	}
	t.Logf("T14: live and resumed connection after revocation, %d accepted", accepted)
}

func TestT14_SessionsAreNeverResumed(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: m.roots, ServerName: wire.PanelServerName,
		Certificates: []tls.Certificate{m.cert}, ClientSessionCache: tls.NewLRUClientSessionCache(8),
	}
	for range 3 {
		c, err := tls.Dial("tcp", p.Addr(), config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil { // a ticket would come before the answer
			t.Fatal(err)
		}
		if c.ConnectionState().DidResume {
			t.Fatal("the listener resumed a session")
		}
		c.Close()
	}
}

func TestT14_OldTLSIsRefused(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12} {
		c, err := tls.Dial("tcp", p.Addr(), &tls.Config{
			MinVersion: tls.VersionTLS10, MaxVersion: version, RootCAs: m.roots, ServerName: wire.PanelServerName, Certificates: []tls.Certificate{m.cert},
		})
		if err == nil {
			c.Close()
			t.Errorf("TLS %x was accepted", version)
		}
	}
}

func TestT14_EnrolmentRefusesWhatIsNotATokenAndAKey(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, joined := p.addNode(t, "node-a")
	token, err := wire.ParseJoinToken(joined)
	if err != nil {
		t.Fatal(err)
	}
	_, good := csr(t)
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tampered, _ := pem.Decode([]byte(good))
	tampered.Bytes = bytes.Clone(tampered.Bytes)
	tampered.Bytes[len(tampered.Bytes)-1] ^= 1
	cases := []struct {
		name, token, csr string
		status           int
	}{
		{"an empty token", "", good, 401},
		{"a random token", base64.RawURLEncoding.EncodeToString(make([]byte, 32)), good, 401},
		{"a token with one letter changed", flip(token.Token), good, 401},
		{"a token with blanks", " " + token.Token, good, 401},
		{"a token with its fingerprint", joined, good, 401},
		{"a shortened token", token.Token[:20], good, 401},
		{"the hash of the token", hashToken(token.Token), good, 401},
		{"a LIKE pattern", "%", good, 401},
		{"a very long token", strings.Repeat("A", 20_000), good, 401},
		{"no request for a certificate", token.Token, "", 400},
		{"garbage for a request", token.Token, "garbage", 400},
		{"PEM around garbage", token.Token, "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", 400},
		{"a certificate in place of a request", token.Token, encodePEM(p.trust.Load().roots[0].Raw), 400},
		{"two requests", token.Token, good + good, 400},
		{"a request with a broken signature", token.Token, string(pem.EncodeToMemory(tampered)), 400},
		{"an RSA key of 512 bits", token.Token, weakRequest, 400},
		{"an RSA key of 2048 bits", token.Token, csrOf(t, rsa2048), 400},
		{"a P-384 key", token.Token, csrOf(t, p384), 400},
		{"an Ed25519 key", token.Token, csrOf(t, ed), 400},
	}
	accepted := 0
	for _, c := range cases {
		status := p.post(t, p.client(nil), "/v1/enrol", wire.EnrolRequest{Token: c.token, CSR: c.csr}, nil)
		if status < 300 {
			accepted++
		}
		if status != c.status {
			t.Errorf("%s: status %d, want %d", c.name, status, c.status)
		}
	}
	for name, body := range map[string]string{
		"no JSON": "{", "an array": "[]", "a huge body": `{"token":"` + strings.Repeat("x", maxSmallBody) + `"}`, "nothing": "",
	} {
		if status := p.postRaw(t, p.client(nil), "/v1/enrol", body, nil); status < 400 || status > 413 {
			t.Errorf("%s: status %d", name, status)
		}
	}
	if n := p.node(t, id); !n.EnrolledAt().IsZero() || n.CertFingerprint() != "" {
		t.Error("a refused enrolment changed the node")
	}
	// The token was not used up by all that.
	if status := p.post(t, p.client(nil), "/v1/enrol", wire.EnrolRequest{Token: token.Token, CSR: good}, nil); status != 200 {
		t.Fatalf("the real token: %d", status)
	}
	t.Logf("T14: %d enrolments with bad tokens or keys, %d accepted", len(cases)+4, accepted)
}

func flip(s string) string {
	if s[5] == 'A' {
		return s[:5] + "B" + s[6:]
	}
	return s[:5] + "A" + s[6:]
}

// weakRequest is over a 512-bit RSA key, made once with openssl: Go refuses to make such keys.
const weakRequest = `-----BEGIN CERTIFICATE REQUEST-----
MIHFMHECAQAwDDEKMAgGA1UEAwwBeDBcMA0GCSqGSIb3DQEBAQUAA0sAMEgCQQDU
Xze/LPjKi70PMTjJhl/WgdEId6O5fafVGhiEY2j9tI6qwNP8wwEQffo4zPerdoDy
NUYCUSW8esXH4R3ZMPD9AgMBAAGgADANBgkqhkiG9w0BAQsFAANBAKMMwIB8IHUF
POBYj2EgWPFXLYOwAJ+ZDd0pD9ZWI9uv/Bax+1EaHGwC4MULpW1fK4pNB36wUOED
FYAcPRr/1Og=
-----END CERTIFICATE REQUEST-----
`

func TestT14_JoinTokenWorksOnceAndForAnHour(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, joined := p.addNode(t, "node-a")
	first, err := wire.ParseJoinToken(joined)
	if err != nil {
		t.Fatal(err)
	}
	second, expires, err := p.JoinToken(operator, id)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(expires); left > time.Hour || left < 59*time.Minute {
		t.Errorf("the token lives for %s", left)
	}
	_, request := csr(t)
	enrol := func(token string) int {
		return p.post(t, p.client(nil), "/v1/enrol", wire.EnrolRequest{Token: token, CSR: request}, nil)
	}
	if status := enrol(first.Token); status != 401 {
		t.Errorf("a token that a newer one replaced: %d", status)
	}
	newest, err := wire.ParseJoinToken(second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.enrol(wire.EnrolRequest{Token: newest.Token, CSR: request}, "", time.Now().Add(joinTokenLife)); !errors.Is(err, errJoinToken) {
		t.Errorf("after an hour: %v", err)
	}
	// Ten at once: one gets it.
	var ok atomic.Int32
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if enrol(newest.Token) == 200 {
				ok.Add(1)
			}
		})
	}
	wg.Wait()
	if ok.Load() != 1 {
		t.Errorf("%d of ten concurrent enrolments got a certificate", ok.Load())
	}
	if status := enrol(newest.Token); status != 401 {
		t.Errorf("a replayed token: %d", status)
	}
	if n := count(t, p.app, collections.NodeCertificates, dbx.HashExp{"node": id}); n != 1 {
		t.Errorf("%d certificates were stored", n)
	}
	if got := count(t, p.app, collections.AuditLogs, dbx.HashExp{"action": "node.enrolled"}); got != 1 {
		t.Errorf("%d audit rows", got)
	}
	t.Logf("T14: of 13 uses of one join token 1 was accepted")
}

func TestRenewedCertificateTakesOverOnFirstUse(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	key, request := csr(t)
	var reply wire.EnrolReply
	if status := p.post(t, p.client(&m.cert), "/v1/renew", wire.RenewRequest{CSR: request}, &reply); status != 200 {
		t.Fatalf("renew: %d", status)
	}
	next := asMember(t, key, reply)
	if life := time.Until(next.cert.Leaf.NotAfter); life > nodeLife || life < nodeLife-time.Minute {
		t.Errorf("the certificate lives for %s", life)
	}
	if back := time.Since(next.cert.Leaf.NotBefore); back < wire.CertificateBackdate || back > wire.CertificateBackdate+time.Minute {
		t.Errorf("it begins %s ago", back)
	}
	if status := p.beat(t, &m.cert, m.id); status != 200 {
		t.Fatalf("the old one before the new one was used: %d", status)
	}
	if status := p.beat(t, &next.cert, m.id); status != 200 {
		t.Fatalf("the new one: %d", status)
	}
	if status := p.beat(t, &m.cert, m.id); status == 200 {
		t.Fatal("the old one still works after the new one was used")
	}
	n := p.node(t, m.id)
	if n.CertFingerprint() != wire.Fingerprint(next.cert.Leaf.Raw) || n.CertNextFingerprint() != "" || !n.CertExpiresAt().Equal(next.cert.Leaf.NotAfter) {
		t.Errorf("the node's row says %s, next %q, until %s", n.CertFingerprint(), n.CertNextFingerprint(), n.CertExpiresAt())
	}
}

func TestNewEnrolmentRevokesTheOldIdentity(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	joined, _, err := p.JoinToken(operator, m.id)
	if err != nil {
		t.Fatal(err)
	}
	if status := p.beat(t, &m.cert, m.id); status != 200 {
		t.Fatalf("a new token alone ended the old identity: %d", status)
	}
	token, err := wire.ParseJoinToken(joined)
	if err != nil {
		t.Fatal(err)
	}
	key, request := csr(t)
	var reply wire.EnrolReply
	if status := p.post(t, p.client(nil), "/v1/enrol", wire.EnrolRequest{Token: token.Token, CSR: request}, &reply); status != 200 {
		t.Fatalf("enrol again: %d", status)
	}
	again := asMember(t, key, reply)
	if again.id != m.id {
		t.Fatalf("it became node %s", again.id)
	}
	if p.beat(t, &m.cert, m.id) == 200 || p.beat(t, &again.cert, m.id) != 200 {
		t.Error("the old identity works or the new one does not")
	}
}

func TestRoutesThatDoNotExistNeedACertificateToo(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	for _, path := range []string{"/", "/v1/", "/v1/enrol/x", "/v1/nodes/" + m.id + "/metrics", "/api/v1/servers", "/v1/nodes/../enrol"} {
		if status := p.post(t, p.client(nil), path, nil, nil); status != 401 {
			t.Errorf("%s without a certificate: %d", path, status)
		}
	}
	if status := p.post(t, p.client(&m.cert), "/v1/nothing", nil, nil); status != 404 {
		t.Errorf("an unknown route with a certificate: %d", status)
	}
	if status := p.post(t, p.client(&m.cert), "/v1/nodes/"+m.id+"/link", nil, nil); status != 404 {
		t.Errorf("POST to the link: %d", status)
	}
}

func TestListenerBoundsItsConnections(t *testing.T) {
	t.Parallel()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := capConns(raw, 3, 2)
	defer l.Close()
	accepted := make(chan net.Conn, 10)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	})
	dial := func() net.Conn {
		c, err := net.Dial("tcp", raw.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one, two := dial(), dial()
	defer one.Close()
	defer two.Close()
	first, second := <-accepted, <-accepted
	third := dial()
	defer third.Close()
	if _, err := third.Read(make([]byte, 1)); err == nil {
		t.Error("a third connection of one address was served")
	}
	first.Close()
	first.Close() // gives its place back once
	fourth := dial()
	defer fourth.Close()
	last := <-accepted
	if l.all != 2 {
		t.Errorf("%d connections are counted", l.all)
	}
	second.Close()
	last.Close()
	if len(l.from) != 0 || l.all != 0 {
		t.Errorf("counted after all closed: %d, %v", l.all, l.from)
	}
	l.Close()
	wg.Wait()
}
