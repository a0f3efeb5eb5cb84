package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of the node listener.
const (
	maxConns           = 8192             // at one time; further ones are closed at once
	maxConnsPerAddress = 1024             // of them; many nodes may share one address behind NAT
	headerTimeout      = 10 * time.Second // handshake, and request line and headers, each
	bodyTimeout        = 60 * time.Second // whole request; a link has no such bound once upgraded
	idleTimeout        = 2 * time.Minute
	maxHeaderBytes     = 8 << 10
	maxSmallBody       = 32 << 10 // enrol, renew, heartbeat
	turnTimeout        = 30 * time.Second
)

// peersPrefix begins the routes for other instances of the panel.
const peersPrefix = wire.APIPrefix + "/peers/"

// Refusals that do not say more than the caller may know.
var (
	errNoCertificate = &wire.Error{Status: http.StatusUnauthorized, Code: "certificate_required", Message: "This address is for nodes that have joined; a client certificate is needed."}
	errCertificate   = &wire.Error{Status: http.StatusUnauthorized, Code: "certificate_refused", Message: "This certificate is not one of a node of this panel, or not any more. Join the node again."}
	errExpired       = &wire.Error{Status: http.StatusUnauthorized, Code: "certificate_expired", Message: "This certificate has ended. The node can do nothing but renew it, and that for 90 days; then join the node again."}
	errNotAPeer      = &wire.Error{Status: http.StatusUnauthorized, Code: "certificate_refused", Message: "This address is for instances of this panel that run."}
	errOtherInstance = &wire.Error{Status: http.StatusMisdirectedRequest, Code: "other_instance", Message: "This is another instance of the panel."}
	errBusy          = &wire.Error{Status: http.StatusTooManyRequests, Code: "busy", Message: "An earlier request of this node is still being worked on. Try again."}
	errOtherNode     = &wire.Error{Status: http.StatusForbidden, Code: "other_node", Message: "This certificate belongs to another node."}
)

// tlsConfig asks for a client certificate without insisting, because a machine that joins has none;
// every route but that one insists (requireNode, requirePeer). A certificate that is shown must be good,
// or over for less than renewGrace and that of a node: such a node may renew and nothing else. The
// standard verification would refuse it, so VerifyConnection does the same with the time that it was good.
func (f *Fleet) tlsConfig(t *trust) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{t.listener},
		ClientAuth:   tls.RequestClientCert, // verified below; that the key is there is proved in any case
		ClientCAs:    t.pool,
		NextProtos:   []string{"http/1.1"}, // a link takes its connection over, which HTTP/2 cannot
		// A resumed session would outlive a revocation.
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			now := time.Now()
			if err := t.verifyClient(cs.PeerCertificates, now); err != nil {
				return err
			}
			if _, ofPanel := panelOf(cs.PeerCertificates[0]); ofPanel {
				_, err := f.admitPeer(cs, now)
				return err
			}
			_, err := f.admit(cs, now)
			return err
		},
	}
}

// verifyClient checks chain, validity and clientAuth of a certificate against the roots. A leaf that
// ended within renewGrace is checked as of its last moment.
func (t *trust) verifyClient(certs []*x509.Certificate, now time.Time) error {
	leaf, between := certs[0], x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, ofPanel := panelOf(leaf)
	if now.After(leaf.NotAfter) && now.Before(leaf.NotAfter.Add(renewGrace)) && !ofPanel {
		now = leaf.NotAfter
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: t.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// caller is who a verified certificate stands for: a node or an instance of the panel.
type caller struct {
	node        string
	instance    string
	fingerprint string
	next        bool // it is the announced successor, not yet in use
	expired     bool // the certificate is over: nothing but a renewal is answered
}

// admit says which node a certificate stands for that the handshake verified: the one that it names, if
// it was issued to that node, was not revoked, and is that node's present certificate or its announced
// successor.
func (f *Fleet) admit(cs tls.ConnectionState, now time.Time) (caller, error) {
	if len(cs.PeerCertificates) == 0 {
		return caller{}, errCertificate
	}
	leaf := cs.PeerCertificates[0]
	node, err := nodeOf(leaf)
	if err != nil {
		return caller{}, err
	}
	fingerprint := wire.Fingerprint(leaf.Raw)
	row, err := f.certificate(fingerprint)
	if err != nil {
		return caller{}, fmt.Errorf("look up certificate of node %s: %w", node, err)
	}
	good := row.Node == node && row.Revoked == "" && now.Before(leaf.NotAfter.Add(renewGrace))
	if !good || (row.Current != fingerprint && row.Next != fingerprint) {
		return caller{}, errCertificate
	}
	return caller{node: node, fingerprint: fingerprint, next: row.Next == fingerprint, expired: !now.Before(leaf.NotAfter)}, nil
}

// nodeOf reads the one SAN of a node certificate.
func nodeOf(leaf *x509.Certificate) (string, error) {
	if len(leaf.URIs) != 1 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0 {
		return "", errCertificate
	}
	text := leaf.URIs[0].String()
	if len(text) <= len(wire.NodeURIPrefix) || text[:len(wire.NodeURIPrefix)] != wire.NodeURIPrefix || !wire.ValidID(text[len(wire.NodeURIPrefix):]) {
		return "", errCertificate
	}
	return text[len(wire.NodeURIPrefix):], nil
}

// certificateRow joins a certificate with what its node says of it.
type certificateRow struct {
	Fingerprint string `db:"fingerprint"`
	Node        string `db:"node"`
	Revoked     string `db:"revoked_at"`
	Ends        string `db:"not_after"`
	Current     string `db:"cert_fingerprint"`
	Next        string `db:"cert_next_fingerprint"`
}

// expires is zero for what cannot be read, which is then over.
func (r certificateRow) expires() time.Time {
	d, err := types.ParseDateTime(r.Ends)
	if err != nil {
		return time.Time{}
	}
	return d.Time()
}

// certificate returns the zero row for a fingerprint that is not known.
func (f *Fleet) certificate(fingerprint string) (certificateRow, error) {
	rows, err := f.certificates([]string{fingerprint})
	return rows[fingerprint], err
}

// maxLookup bounds the parameters of one query.
const maxLookup = 500

// certificates returns those that are known, by fingerprint.
func (f *Fleet) certificates(fingerprints []string) (map[string]certificateRow, error) {
	out := make(map[string]certificateRow, len(fingerprints))
	for part := range slices.Chunk(fingerprints, maxLookup) {
		var rows []certificateRow
		if err := f.selectCertificates(part, &rows); err != nil {
			return nil, err
		}
		for _, r := range rows {
			out[r.Fingerprint] = r
		}
	}
	return out, nil
}

func (f *Fleet) selectCertificates(fingerprints []string, rows *[]certificateRow) error {
	wanted := make([]any, len(fingerprints))
	for i, p := range fingerprints {
		wanted[i] = p
	}
	return f.app.DB().Select("c.fingerprint", "c.node", "c.revoked_at", "c.not_after", "n.cert_fingerprint", "n.cert_next_fingerprint").
		From(collections.NodeCertificates+" c").
		InnerJoin(collections.Nodes+" n", dbx.NewExp("[[n.id]] = [[c.node]]")).
		Where(dbx.HashExp{"c.fingerprint": wanted}).All(rows)
}

func (f *Fleet) newServer(ctx context.Context) *http.Server {
	return &http.Server{
		Handler:           f.routes(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(f.log.Handler(), slog.LevelDebug), // strangers' handshakes are not news
		BaseContext:       func(net.Listener) context.Context { return ctx },
		TLSConfig: &tls.Config{
			MinVersion:         tls.VersionTLS13,
			NextProtos:         []string{"http/1.1"},
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.trust.Load().client, nil },
		},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // no HTTP/2
	}
}

func (f *Fleet) serve(l net.Listener) {
	tl := tls.NewListener(l, f.server.TLSConfig)
	if err := f.server.Serve(tl); !errors.Is(err, http.ErrServerClosed) {
		f.log.Error("the node listener ended", "error", err)
	}
}

func (f *Fleet) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.APIPrefix+"/renew", f.inTurn(f.handleRenew))
	mux.HandleFunc("POST "+wire.APIPrefix+"/nodes/{id}/heartbeat", f.own(f.inTurn(f.handleHeartbeat)))
	mux.HandleFunc("POST "+wire.APIPrefix+"/nodes/{id}/events", f.own(f.inTurn(f.handleEvents)))
	mux.HandleFunc("POST "+wire.APIPrefix+"/nodes/{id}/metrics", f.own(f.inTurn(f.handleMetrics)))
	mux.HandleFunc("GET "+wire.APIPrefix+"/nodes/{id}/link", f.own(f.handleLink))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answerError(w, &wire.Error{Status: http.StatusNotFound, Code: "not_found", Message: "There is nothing at this address."})
	})
	outer := http.NewServeMux()
	outer.HandleFunc("POST "+wire.APIPrefix+"/enrol", f.handleEnrol)
	outer.Handle(peersPrefix, f.requirePeer(f.peerRoutes()))
	outer.Handle("/", f.requireNode(mux))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !f.work.begin() {
			answerError(w, &wire.Error{Status: http.StatusServiceUnavailable, Code: "stopping", Message: "The panel is stopping."})
			return
		}
		defer f.work.end()
		outer.ServeHTTP(w, r)
	})
}

type callerKey struct{}

func callerOf(r *http.Request) caller { return r.Context().Value(callerKey{}).(caller) }

// requireNode asks again on every request what the handshake asked, because a connection lives
// longer than a certificate may.
func (f *Fleet) requireNode(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			answerError(w, errNoCertificate)
			return
		}
		c, err := f.admit(*r.TLS, time.Now())
		if err == nil && c.expired && r.URL.Path != wire.APIPrefix+"/renew" {
			err = errExpired
		}
		if err == nil && c.next && !c.expired {
			err = f.promote(c.node, c.fingerprint)
		}
		if err != nil {
			f.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// own refuses a node that names another in the path.
func (f *Fleet) own(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != callerOf(r).node {
			answerError(w, errOtherNode)
			return
		}
		next(w, r)
	}
}

// inTurn works on one request of a node at a time at a route that writes, and reads no body before:
// however many it sends at once, others wait for one of them at most.
func (f *Fleet) inTurn(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		turn := f.links.turn(callerOf(r).node, r.Pattern)
		ctx, cancel := context.WithTimeout(r.Context(), turnTimeout)
		defer cancel()
		if acquire(ctx, turn) != nil {
			answerError(w, errBusy)
			return
		}
		defer func() { <-turn }()
		next(w, r)
	}
}

func (f *Fleet) handleEnrol(w http.ResponseWriter, r *http.Request) {
	var in wire.EnrolRequest
	if err := decodeBody(w, r, maxSmallBody, &in); err != nil {
		f.fail(w, r, err)
		return
	}
	out, err := f.enrol(in, remote(r), time.Now().UTC())
	if err != nil {
		f.fail(w, r, err)
		return
	}
	f.log.Info("a node joined", "node", out.NodeID, "address", remote(r))
	answer(w, out)
}

func (f *Fleet) handleRenew(w http.ResponseWriter, r *http.Request) {
	var in wire.RenewRequest
	if err := decodeBody(w, r, maxSmallBody, &in); err != nil {
		f.fail(w, r, err)
		return
	}
	out, err := f.renew(callerOf(r).node, in, remote(r), time.Now().UTC())
	if err != nil {
		f.fail(w, r, err)
		return
	}
	answer(w, out)
}

// decodeBody reads one JSON value. Unknown fields pass: the node may be newer.
func decodeBody(w http.ResponseWriter, r *http.Request, limit int64, into any) error {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return &wire.Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Message: "The request is too large."}
	}
	if err != nil {
		return &wire.Error{Status: http.StatusBadRequest, Code: "incomplete", Message: "The request ended before it was complete."}
	}
	if json.Unmarshal(raw, into) != nil {
		return &wire.Error{Status: http.StatusBadRequest, Code: "invalid", Message: "The request is not the JSON that is expected here."}
	}
	return nil
}

func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// fail answers with our own refusals as they are; any other error is for the log.
func (f *Fleet) fail(w http.ResponseWriter, r *http.Request, err error) {
	var refused *wire.Error
	if !errors.As(err, &refused) {
		f.log.Error("request of a node", "path", r.URL.Path, "error", err)
		refused = &wire.Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Message: "The panel could not do this now; try again."}
	}
	answerError(w, refused)
}

func answerError(w http.ResponseWriter, e *wire.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e) // the node may be gone
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the node may be gone
}

// cappedListener closes connections beyond its bounds instead of making others wait behind them.
type cappedListener struct {
	net.Listener
	max, perAddress int

	mu   sync.Mutex
	all  int
	from map[netip.Addr]int
}

func capConns(l net.Listener, max, perAddress int) *cappedListener {
	return &cappedListener{Listener: l, max: max, perAddress: perAddress, from: map[netip.Addr]int{}}
}

// Accept implements net.Listener.
func (l *cappedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var addr netip.Addr
		if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			addr = a.Addr().Unmap()
		}
		if l.take(addr) {
			return &cappedConn{Conn: c, release: sync.OnceFunc(func() { l.give(addr) })}, nil
		}
		c.Close()
	}
}

func (l *cappedListener) take(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.max || l.from[addr] >= l.perAddress {
		return false
	}
	l.all++
	l.from[addr]++
	return true
}

func (l *cappedListener) give(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.from[addr]--; l.from[addr] == 0 {
		delete(l.from, addr)
	}
}

type cappedConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *cappedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
