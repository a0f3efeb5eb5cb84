package fleet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/wings/link"
	"github.com/mambahost/mamba/wings/wire"
)

// panel is a running fleet over a real PocketBase, with the rooms below it real, too.
type panel struct {
	*Fleet
	app    core.App
	book   *book
	placed *placements
	taken  *samples
	keeper *secrets.Keeper
	config Config
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newApp(t testing.TB) core.App {
	t.Helper()
	return collectionstest.New(t)
}

// newPanel makes a fleet that is not started.
func newPanel(t testing.TB, change ...func(*Config)) *panel {
	t.Helper()
	return newPanelOn(t, newApp(t), change...)
}

// newPanelOn is newPanel over a database that others may use, too.
func newPanelOn(t testing.TB, app core.App, change ...func(*Config)) *panel {
	t.Helper()
	master, err := secrets.NewMaster(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := secrets.New(app, master)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.New(keeper.Derive("audit"), nil, quiet())
	if err != nil {
		t.Fatal(err)
	}
	p := &panel{app: app, book: newBook(app), placed: &placements{}, taken: &samples{}, keeper: keeper}
	p.config = Config{
		Listen: "127.0.0.1:0", Secrets: keeper, Audit: log, Events: events.New(app, nil, quiet()), Incidents: p.book, Log: quiet(), Samples: p.taken,
	}
	for _, c := range change {
		c(&p.config)
	}
	p.renew(t)
	return p
}

// renew replaces the fleet by one that was just made, as a restarted panel has.
func (p *panel) renew(t testing.TB) {
	t.Helper()
	f, err := New(p.app, p.config)
	if err != nil {
		t.Fatal(err)
	}
	f.SetPlacements(p.placed)
	p.Fleet = f
}

func (p *panel) start(t testing.TB) {
	t.Helper()
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
}

func startPanel(t testing.TB, change ...func(*Config)) *panel {
	t.Helper()
	p := newPanel(t, change...)
	p.start(t)
	return p
}

func ptr[T any](v T) *T { return &v }

func input(name string) NodeInput {
	return NodeInput{
		Name: &name, PublicAddresses: &[]string{"127.0.0.1"},
		CPUMillicores: ptr[int64](4000), MemoryMiB: ptr[int64](8192), DiskMiB: ptr[int64](100_000),
	}
}

var operator = audit.Actor{Type: "superuser", ID: "super0000000001", Name: "op@example.com"}

// addNode makes a node and its join token.
func (p *panel) addNode(t testing.TB, name string) (id, token string) {
	t.Helper()
	n, token, err := p.CreateNode(operator, input(name))
	if err != nil {
		t.Fatal(err)
	}
	return n.Id, token
}

func (p *panel) node(t testing.TB, id string) *collections.Node {
	t.Helper()
	n, err := collections.FindNode(p.app, id)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// member is a node's identity as tests hold it.
type member struct {
	id    string
	cert  tls.Certificate
	roots *x509.CertPool
}

func csr(t testing.TB) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key, csrOf(t, key)
}

func csrOf(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func asMember(t testing.TB, key *ecdsa.PrivateKey, reply wire.EnrolReply) member {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(reply.Certificate), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(reply.Roots))
	return member{id: reply.NodeID, cert: pair, roots: roots}
}

// enrolNode adds a node and joins it over the wire.
func (p *panel) enrolNode(t testing.TB, name string) member {
	t.Helper()
	_, token := p.addNode(t, name)
	key, request := csr(t)
	parsed, err := wire.ParseJoinToken(token)
	if err != nil {
		t.Fatal(err)
	}
	var reply wire.EnrolReply
	if status := p.post(t, p.client(nil), "/v1/enrol", wire.EnrolRequest{Token: parsed.Token, CSR: request}, &reply); status != 200 {
		t.Fatalf("enrol: status %d", status)
	}
	return asMember(t, key, reply)
}

// client speaks to the listener with a certificate or without one.
func (p *panel) client(cert *tls.Certificate) *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: p.trust.Load().pool, ServerName: wire.PanelServerName}
	if cert != nil {
		// Sent whatever the server asks for, as an attacker would.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

// post returns the status, 0 when there was no answer at all.
func (p *panel) post(t testing.TB, c *http.Client, path string, in, out any) int {
	t.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return p.postRaw(t, c, path, string(raw), out)
}

func (p *panel) postRaw(t testing.TB, c *http.Client, path, body string, out any) int {
	t.Helper()
	res, err := c.Post("https://"+p.Addr()+path, "application/json", strings.NewReader(body))
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return 0
	}
	if res.StatusCode < 300 && out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			t.Fatal(err)
		}
	}
	return res.StatusCode
}

// beat sends a heartbeat with a certificate for a node and returns the status.
func (p *panel) beat(t testing.TB, cert *tls.Certificate, node string) int {
	t.Helper()
	return p.post(t, p.client(cert), "/v1/nodes/"+node+"/heartbeat", wire.Heartbeat{Version: wire.Version, NodeClock: time.Now()}, nil)
}

// wings is a node daemon's link with a handler of the test's.
type wings struct {
	*link.Link
	dir     string
	handler *switchHandler
}

// switchHandler lets a test change the answers of a running node.
type switchHandler struct {
	mu sync.Mutex
	h  http.Handler
}

func (s *switchHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	h := s.h
	s.mu.Unlock()
	h.ServeHTTP(w, r)
}

// syncing answers syncs with nothing observed.
func syncing() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/servers", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = json.NewEncoder(w).Encode(wire.SyncReply{})
	})
	return mux
}

// joinWings joins a new node through the real command's code; it is not started.
func (p *panel) joinWings(t testing.TB, name string, h http.Handler) *wings {
	t.Helper()
	return openWings(t, p.joinDir(t, name), h)
}

// joinDir is the folder of a node that has joined.
func (p *panel) joinDir(t testing.TB, name string) string {
	t.Helper()
	_, token := p.addNode(t, name)
	dir := t.TempDir()
	if _, err := link.Join(t.Context(), "https://"+p.Addr(), token, dir, "test"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// joinedAt makes a node believe that it joined at another address, which leads to the same panel.
func joinedAt(t testing.TB, dir, address string) {
	t.Helper()
	file := filepath.Join(dir, "identity.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var id map[string]any
	if err := json.Unmarshal(raw, &id); err != nil {
		t.Fatal(err)
	}
	id["joined"], id["instances"] = address, []string{address}
	if raw, err = json.Marshal(id); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func openWings(t testing.TB, dir string, h http.Handler) *wings {
	t.Helper()
	s := &switchHandler{h: h}
	l, err := link.New(link.Config{Dir: dir, Release: "test", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	return &wings{Link: l, dir: dir, handler: s}
}

// eventually waits for ok, looking every few milliseconds, and fails the test after 30 s.
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

func count(t testing.TB, app core.App, table string, where dbx.HashExp) int {
	t.Helper()
	n, err := app.CountRecords(table, where)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// placements is the servers room with a memory: it keeps what it was told and fails on request.
type placements struct {
	mu       sync.Mutex
	specs    []wire.Spec
	servers  int
	observed []wire.Observed
	crashes  []wire.CrashReport
	installs []wire.InstallReport
	unknown  []wire.UnknownContainer
	statuses []bool
	rebuilt  []string
	txs      map[*core.TxAppInfo]int                // observations by the transaction that they were in
	fail     func(server string) error              // nil: never
	within   func(tx core.App, server string) error // what an observation does in its transaction; nil: nothing
	heard    func(o wire.Observed) bool             // what is no news; nil: all is
}

func (p *placements) failing(server string) error {
	if p.fail == nil {
		return nil
	}
	return p.fail(server)
}

// keep stores what was told once the transaction has committed, as rows would.
func (p *placements) keep(tx core.App, fn func()) {
	collections.AfterCommit(tx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		fn()
	})
}

func (p *placements) Specs(core.App, string) ([]wire.Spec, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.specs), nil
}

func (p *placements) News(_ core.App, _ string, said []wire.Observed) ([]wire.Observed, error) {
	if p.heard == nil {
		return said, nil
	}
	return slices.DeleteFunc(slices.Clone(said), p.heard), nil
}

func (p *placements) Observe(tx core.App, _ string, o wire.Observed) error {
	p.mu.Lock()
	if p.txs == nil {
		p.txs = map[*core.TxAppInfo]int{}
	}
	p.txs[tx.TxInfo()]++
	p.mu.Unlock()
	if p.within != nil {
		if err := p.within(tx, o.ServerID); err != nil {
			return err
		}
	}
	p.keep(tx, func() { p.observed = append(p.observed, o) })
	return p.failing(o.ServerID)
}

func (p *placements) Crashed(tx core.App, _ string, c wire.CrashReport) error {
	p.keep(tx, func() { p.crashes = append(p.crashes, c) })
	return p.failing(c.ServerID)
}

func (p *placements) Installed(tx core.App, _ string, r wire.InstallReport) error {
	p.keep(tx, func() { p.installs = append(p.installs, r) })
	return p.failing(r.ServerID)
}

func (p *placements) Unknown(tx core.App, _ string, u wire.UnknownContainer) error {
	p.keep(tx, func() { p.unknown = append(p.unknown, u) })
	return p.failing(u.ServerID)
}

func (p *placements) Rebuilt(tx core.App, node string) error {
	p.keep(tx, func() { p.rebuilt = append(p.rebuilt, node) })
	return nil
}

func (p *placements) NodeStatus(tx core.App, _ string, online bool) error {
	p.keep(tx, func() { p.statuses = append(p.statuses, online) })
	return nil
}

func (p *placements) PlacedOn(core.App, string) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.servers, nil
}

// told returns a copy of what the test wants to look at.
func told[T any](p *placements, pick func(*placements) []T) []T {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(pick(p))
}

var errBroken = errors.New("the effect failed")

func serverID(n int) string { return fmt.Sprintf("server%09d", n) }

func mustStart(ctx context.Context, w *wings) { w.Start(ctx, w.handler) }

func copyFile(t testing.TB, from, to, name string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, name), raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// identityOf reads what wings stored when it joined.
func identityOf(t testing.TB, dir string) member {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	var id link.Identity
	if err := json.Unmarshal(raw, &id); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(id.Certificate), []byte(id.Key))
	if err != nil {
		t.Fatal(err)
	}
	return member{id: id.NodeID, cert: pair}
}
