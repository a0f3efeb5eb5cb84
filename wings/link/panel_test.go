package link

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/mambahost/mamba/wings/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimDir) != "" {
		os.Exit(victim())
	}
	code := m.Run()
	if left := ours(5 * time.Second); left != "" && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines left behind:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// ours returns the stacks of goroutines of this module that are still there after the patience.
func ours(patience time.Duration) string {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 1<<20)
	var left []string
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		left = left[:0]
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "mambahost/mamba/") && !strings.Contains(g, "TestMain") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}

const (
	testNode  = "node00000000001"
	otherNode = "node00000000002"
)

// authority signs what the stand-in panel and its nodes show.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key := newTestKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func newTestKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(t testing.TB, key any, change func(*x509.Certificate)) []byte {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-wire.CertificateBackdate), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func toPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// fakePanel is a panel with behaviour: it signs, keeps what it is sent, and refuses on request.
type fakePanel struct {
	t      testing.TB
	ca     *authority
	token  wire.JoinToken
	server *httptest.Server

	mu       sync.Mutex
	node     string // whom it signs for
	beats    []wire.Heartbeat
	events   []wire.Event
	acked    int64
	samples  []wire.Sample
	sampled  int64 // acknowledged of them
	told     []int64
	lose     int           // answers of metrics that are lost after they were taken
	clock    time.Duration // how far the panel's clock is ahead
	refuse   *wire.Error   // answer of heartbeat and events; nil: take
	refused  int
	certs    []string // fingerprints that it was shown, in order
	renewals int
	hello    func(wire.Hello) wire.HelloReply
	linked   chan *yamux.Session // each new link
	kinds    []string
	names    []string // instances that heartbeats and hellos name; nil: those of an older panel
	id       string   // of this instance
	ledger   *ledger  // in place of events: what several instances have in common; nil: its own
}

func newFakePanel(t testing.TB, change ...func(*x509.Certificate)) *fakePanel {
	t.Helper()
	return newFakeInstance(t, newAuthority(t), change...)
}

// newFakeInstance is one instance of the panel that has this authority.
func newFakeInstance(t testing.TB, ca *authority, change ...func(*x509.Certificate)) *fakePanel {
	t.Helper()
	p := &fakePanel{t: t, ca: ca, node: testNode, linked: make(chan *yamux.Session, 30)}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	p.token = wire.JoinToken{Token: b64(raw), Fingerprint: wire.Fingerprint(ca.cert.Raw)}
	key := newTestKey(t)
	der := ca.sign(t, &key.PublicKey, func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{wire.PanelServerName}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		for _, fn := range change {
			fn(c)
		}
	})
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	p.server = httptest.NewUnstartedServer(p.routes())
	p.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	p.server.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key}},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: pool, MinVersion: tls.VersionTLS13,
	}
	p.server.StartTLS()
	t.Cleanup(p.server.Close)
	return p
}

func (p *fakePanel) addr() string { return p.server.Listener.Addr().String() }

func (p *fakePanel) issue(csr string) wire.EnrolReply {
	block, _ := pem.Decode([]byte(csr))
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		p.t.Error(err)
	}
	p.mu.Lock()
	node := p.node
	p.mu.Unlock()
	uri, err := url.Parse(wire.NodeURIPrefix + node)
	if err != nil {
		p.t.Error(err)
	}
	der := p.ca.sign(p.t, request.PublicKey, func(c *x509.Certificate) {
		c.URIs, c.ExtKeyUsage = []*url.URL{uri}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	return wire.EnrolReply{NodeID: node, Certificate: toPEM(der), Roots: toPEM(p.ca.cert.Raw), Instances: []string{p.addr()}}
}

func (p *fakePanel) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/enrol", func(w http.ResponseWriter, r *http.Request) {
		var in wire.EnrolRequest
		_ = json.NewDecoder(r.Body).Decode(&in)
		if in.Token != p.token.Token {
			refuse(w, 401, "join_token_invalid", "No.")
			return
		}
		_ = json.NewEncoder(w).Encode(p.issue(in.CSR))
	})
	mux.HandleFunc("POST /v1/renew", func(w http.ResponseWriter, r *http.Request) {
		var in wire.RenewRequest
		_ = json.NewDecoder(r.Body).Decode(&in)
		p.mu.Lock()
		p.renewals++
		p.mu.Unlock()
		_ = json.NewEncoder(w).Encode(p.issue(in.CSR))
	})
	mux.HandleFunc("POST /v1/nodes/{id}/heartbeat", func(w http.ResponseWriter, r *http.Request) {
		var in wire.Heartbeat
		_ = json.NewDecoder(r.Body).Decode(&in)
		if p.turnsAway(w, r) {
			return
		}
		p.mu.Lock()
		p.beats = append(p.beats, in)
		names := p.names
		p.mu.Unlock()
		_ = json.NewEncoder(w).Encode(wire.HeartbeatReply{Status: "ONLINE", Instances: names, PanelClock: time.Now().Add(p.clock)})
	})
	mux.HandleFunc("POST /v1/nodes/{id}/events", p.takeEvents)
	mux.HandleFunc("POST /v1/nodes/{id}/metrics", p.takeSamples)
	mux.HandleFunc("GET /v1/nodes/{id}/link", p.link)
	return mux
}

func (p *fakePanel) turnsAway(w http.ResponseWriter, r *http.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.certs = append(p.certs, wire.Fingerprint(r.TLS.PeerCertificates[0].Raw))
	if p.refuse != nil {
		p.refused++
		refuse(w, p.refuse.Status, p.refuse.Code, p.refuse.Message)
	}
	return p.refuse != nil
}

func (p *fakePanel) takeEvents(w http.ResponseWriter, r *http.Request) {
	var in wire.EventBatch
	_ = json.NewDecoder(r.Body).Decode(&in)
	if p.turnsAway(w, r) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ledger != nil {
		_ = json.NewEncoder(w).Encode(wire.EventAck{AckedSeq: p.ledger.take(in.Events)})
		return
	}
	for _, e := range in.Events {
		if e.Seq == p.acked+1 || e.Kind == wire.EventGap && e.Gap.From <= p.acked+1 && e.Seq > p.acked {
			p.acked = e.Seq
			p.events = append(p.events, e)
		}
	}
	_ = json.NewEncoder(w).Encode(wire.EventAck{AckedSeq: p.acked})
}

// ledger is the database of several instances.
type ledger struct {
	mu     sync.Mutex
	acked  int64
	events []wire.Event
}

func (l *ledger) take(list []wire.Event) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range list {
		if e.Seq == l.acked+1 {
			l.acked = e.Seq
			l.events = append(l.events, e)
		}
	}
	return l.acked
}

func (l *ledger) all() []wire.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

func (l *ledger) len() int { return len(l.all()) }

func (p *fakePanel) takeSamples(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Content-Encoding") != "gzip" {
		p.t.Error("samples came without compression")
	}
	unzipped, err := gzip.NewReader(r.Body)
	if err != nil {
		p.t.Error(err)
		return
	}
	var in wire.SampleBatch
	if err := json.NewDecoder(unzipped).Decode(&in); err != nil || len(in.Samples) > wire.MaxSamplesPerBatch {
		p.t.Errorf("a batch of %d: %v", len(in.Samples), err)
	}
	if p.turnsAway(w, r) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range in.Samples {
		if s.Seq == p.sampled+1 || s.Gap != nil && s.Gap.From <= p.sampled+1 && s.Seq > p.sampled {
			p.sampled = s.Seq
			p.samples = append(p.samples, s)
		}
	}
	p.told = append(p.told, in.DeliveredUnixS)
	if p.lose > 0 {
		p.lose--
		panic(http.ErrAbortHandler)
	}
	_ = json.NewEncoder(w).Encode(wire.SampleAck{AckedSeq: p.sampled, PanelClock: time.Now().Add(p.clock)})
}

func (p *fakePanel) link(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		p.t.Error(err)
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+wire.LinkProtocol+"\r\n\r\n")
	session, err := yamux.Client(&bufferedConn{Conn: conn, r: rw.Reader}, sessionConfig(slog.New(slog.DiscardHandler)))
	if err != nil {
		p.t.Error(err)
		return
	}
	kind := r.URL.Query().Get("kind")
	p.mu.Lock()
	p.kinds = append(p.kinds, kind)
	answer, names, id := p.hello, p.names, p.id
	p.mu.Unlock()
	if kind == wire.LinkControl {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		var hello wire.Hello
		_ = json.NewDecoder(stream).Decode(&hello)
		reply := wire.HelloReply{Version: wire.Version, InstanceID: id, Instances: names}
		if answer != nil {
			reply = answer(hello)
		}
		_ = json.NewEncoder(stream).Encode(reply)
		stream.Close()
	}
	p.linked <- session
	<-session.CloseChan()
}

// over sends requests to the node over a session.
func over(s *yamux.Session) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return s.Open() }}}
}

func (p *fakePanel) with(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
