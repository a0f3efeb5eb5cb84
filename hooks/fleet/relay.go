package fleet

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mambahost/mamba/hooks/cluster"
	"github.com/mambahost/mamba/wings/wire"
)

// relayProtocol turns GET peers/{instance}/nodes/{node}/stream?kind=… into the bytes of one stream of a
// session that the answering instance has with the node.
const relayProtocol = "mamba-relay"

// Bounds of asking another instance.
const (
	peerDialTimeout    = 2 * time.Second // to be connected, certificates included
	relayAnswerTimeout = 5 * time.Second // for a control stream, which takes the node no time
	suspectFor         = 5 * time.Second // an instance that could not be reached is asked last
	maxIdleCalls       = 4               // connections kept to each instance for plain requests
)

// Refusals of a relay. Nothing was sent to the node then.
var (
	errNotLinkedHere = &wire.Error{Status: http.StatusNotFound, Code: "not_linked", Message: "The node has no link with this instance."}
	errRelayBusy     = &wire.Error{Status: http.StatusServiceUnavailable, Code: "busy", Message: "Too much is relayed to this node at once."}
)

// panelOf reads the instance that a certificate was made for; ok says that it claims to be the panel's.
func panelOf(leaf *x509.Certificate) (instance string, ok bool) {
	for _, u := range leaf.URIs {
		if id, found := strings.CutPrefix(u.String(), panelURIPrefix); found {
			return id, true
		}
	}
	return "", false
}

// admitPeer says which instance of the panel a verified certificate stands for: the one that it names,
// if it was stored for it, it did not end, its instance was not found dead, and it is not this one.
func (f *Fleet) admitPeer(cs tls.ConnectionState, now time.Time) (caller, error) {
	if len(cs.PeerCertificates) == 0 {
		return caller{}, errNotAPeer
	}
	leaf := cs.PeerCertificates[0]
	instance, ok := panelOf(leaf)
	if !ok || len(leaf.URIs) != 1 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0 || !wire.ValidID(instance) {
		return caller{}, errNotAPeer
	}
	fingerprint := wire.Fingerprint(leaf.Raw)
	owner, ends, err := panelCertificate(f.app, fingerprint)
	if err != nil {
		return caller{}, fmt.Errorf("look up certificate of instance %s: %w", instance, err)
	}
	if owner != instance || instance == f.instance || !now.Before(ends) || !now.Before(leaf.NotAfter) {
		return caller{}, errNotAPeer
	}
	return caller{instance: instance, fingerprint: fingerprint}, nil
}

// requirePeer lets only other instances of the panel in, asked again on every request.
func (f *Fleet) requirePeer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			answerError(w, errNoCertificate)
			return
		}
		c, err := f.admitPeer(*r.TLS, time.Now())
		if err != nil {
			f.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// peerRoutes are for other instances. Each names the instance that is meant, because an address may
// lead to another than it did.
func (f *Fleet) peerRoutes() http.Handler {
	us := peersPrefix + f.instance
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+us+"/nodes/{node}/stream", f.handleRelay)
	if f.peers != nil {
		mux.Handle(us+"/call/", http.StripPrefix(us+"/call", f.peers))
	}
	mux.HandleFunc(us+"/", func(w http.ResponseWriter, _ *http.Request) {
		answerError(w, &wire.Error{Status: http.StatusNotFound, Code: "not_found", Message: "There is nothing at this address."})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { answerError(w, errOtherInstance) })
	return mux
}

// handleRelay joins the connection with a stream of this instance's own link, never with one of yet
// another instance: there is one hop and no loop.
func (f *Fleet) handleRelay(w http.ResponseWriter, r *http.Request) {
	c, node, kind := callerOf(r), r.PathValue("node"), r.URL.Query().Get("kind")
	if kind != wire.LinkControl && kind != wire.LinkBulk || !strings.EqualFold(r.Header.Get("Upgrade"), relayProtocol) {
		answerError(w, &wire.Error{Status: http.StatusBadRequest, Code: "upgrade_required", Message: "A relay needs Upgrade: " + relayProtocol + " and a known kind."})
		return
	}
	n := f.links.linked(node)
	if n == nil {
		answerError(w, errNotLinkedHere)
		return
	}
	select {
	case n.relays <- struct{}{}:
		defer func() { <-n.relays }()
	default:
		answerError(w, errRelayBusy)
		return
	}
	open := f.openControl
	if kind == wire.LinkBulk {
		open = f.openBulk
	}
	stream, err := open(r.Context(), node)
	if err != nil {
		f.log.Debug("open a stream for another instance", "node", node, "instance", c.instance, "error", err)
		answerError(w, errNotLinkedHere)
		return
	}
	defer stream.Close()
	conn, err := takeOver(w, relayProtocol)
	if err != nil {
		f.log.Debug("take over a connection of another instance", "instance", c.instance, "error", err)
		return
	}
	defer conn.Close()
	cut := func() { conn.Close(); stream.Close() }
	stop := context.AfterFunc(r.Context(), cut)
	defer stop()
	defer f.relays.add(c, cut)()
	splice(conn, stream)
}

// splice carries bytes both ways until one side ends. What the node said last reaches the asker even
// when the asker is still sending: that is read and dropped for a moment, because closing a connection
// with unread bytes throws away what is on its way back.
func splice(asker, node net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		to := &noting{Writer: node}
		_, _ = io.Copy(to, asker)
		if to.err == nil { // the asker is gone: the node's handler ends at once
			node.Close()
			return
		}
		_, _ = io.Copy(io.Discard, asker) // until it is gone, or the deadline below
	})
	_, _ = io.Copy(asker, node) // however it ended, it is over
	node.Close()
	_ = asker.SetReadDeadline(time.Now().Add(wire.LinkStreamCloseTimeout))
	if c, ok := asker.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
	wg.Wait()
}

// noting remembers that the writer failed, so that it can be told from a reader that did.
type noting struct {
	io.Writer
	err error
}

// Write implements io.Writer.
func (n *noting) Write(p []byte) (int, error) {
	written, err := n.Writer.Write(p)
	n.err = err
	return written, err
}

// relays is what runs for other instances, to be cut when they may not ask any more.
type relays struct {
	mu  sync.Mutex
	set map[*relay]struct{}
}

type relay struct {
	caller
	cut func()
}

// add notes a relay; the returned function forgets it.
func (l *relays) add(c caller, cut func()) (end func()) {
	r := &relay{caller: c, cut: cut}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.set == nil {
		l.set = map[*relay]struct{}{}
	}
	l.set[r] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.set, r)
	}
}

func (l *relays) all() []*relay {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.set))
}

// cutRelays ends what runs for certificates that are no good any more.
func (f *Fleet) cutRelays(now time.Time) error {
	good := map[string]bool{} // by fingerprint, looked up once each
	for _, r := range f.relays.all() {
		ok, known := good[r.fingerprint]
		if !known {
			owner, ends, err := panelCertificate(f.app, r.fingerprint)
			if err != nil {
				return fmt.Errorf("look up certificate of instance %s: %w", r.instance, err)
			}
			ok = owner == r.instance && now.Before(ends)
			good[r.fingerprint] = ok
		}
		if !ok {
			r.cut()
		}
	}
	return nil
}

// suspects are instances that could not be reached a moment ago.
type suspects struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (s *suspects) rank(instance string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.until[instance]) {
		return 1
	}
	return 0
}

func (s *suspects) note(instance string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(s.until, func(_ string, until time.Time) bool { return now.After(until) })
	if s.until == nil {
		s.until = map[string]time.Time{}
	}
	s.until[instance] = now.Add(suspectFor)
}

// dialRelay opens a stream of the node through the first instance that has one; ErrNodeOffline when
// none has.
func (f *Fleet) dialRelay(ctx context.Context, node, kind string) (net.Conn, error) {
	holders, err := f.holders(node)
	if err != nil {
		return nil, err
	}
	errs := []error{ErrNodeOffline}
	for _, i := range holders {
		conn, err := f.relayThrough(ctx, i, node, kind)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("through instance %s: %v", i.ID, err)) //nolint:errorlint // a refusal of the instance must not look like one of the node
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (f *Fleet) relayThrough(ctx context.Context, i cluster.Instance, node, kind string) (net.Conn, error) {
	conn, err := f.dialPeer(ctx, i)
	if err != nil {
		return nil, err
	}
	patience := relayAnswerTimeout
	if kind == wire.LinkBulk {
		patience += bulkOpenTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	upgraded, err := upgradeRelay(conn, i.ID, node, kind)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return upgraded, nil
}

func upgradeRelay(conn net.Conn, instance, node, kind string) (net.Conn, error) {
	req, err := http.NewRequest(http.MethodGet, "https://"+wire.PanelServerName+peersPrefix+instance+"/nodes/"+url.PathEscape(node)+"/stream?kind="+kind, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", relayProtocol)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, req) //nolint:bodyclose // the body is the upgraded connection
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(res.Body, maxSmallBody)) // what came of it is enough
		return nil, nodeError(res.StatusCode, body)
	}
	return &bufferedConn{Conn: conn, r: r}, nil
}

// dialPeer connects to the node listener of another instance as this one, and makes sure that it is
// that instance which answers.
func (f *Fleet) dialPeer(ctx context.Context, i cluster.Instance) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, peerDialTimeout)
	defer cancel()
	t := f.trust.Load()
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: t.pool, ServerName: wire.PanelServerName,
		Certificates: []tls.Certificate{t.peer}, NextProtos: []string{"http/1.1"},
		VerifyConnection: func(cs tls.ConnectionState) error {
			if id, _ := panelOf(cs.PeerCertificates[0]); id != i.ID {
				return errOtherInstance
			}
			return nil
		},
	}}
	conn, err := d.DialContext(ctx, "tcp", i.Address)
	if err != nil {
		f.suspects.note(i.ID)
		return nil, fmt.Errorf("connect to %s: %w", i.Address, err)
	}
	return conn, nil
}

var _ cluster.Peer = (*Fleet)(nil)

// RoundTripper sends plain HTTP requests to the handler that another instance set with SetPeerHandler
// (cluster.Peer). Scheme and host of the URL are ignored. One that does not live is ErrNoInstance.
func (f *Fleet) RoundTripper(instance string) http.RoundTripper {
	return &peerTransport{fleet: f, instance: instance}
}

type peerTransport struct {
	fleet    *Fleet
	instance string
}

// RoundTrip implements http.RoundTripper.
func (t *peerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	prefix := peersPrefix + t.instance + "/call"
	out.URL.Scheme, out.URL.Host = "https", t.instance
	out.URL.Path = prefix + r.URL.Path
	if r.URL.RawPath != "" {
		out.URL.RawPath = prefix + r.URL.RawPath
	}
	res, err := t.fleet.calls.RoundTrip(out)
	if err != nil {
		return nil, fmt.Errorf("ask instance %s: %w", t.instance, err)
	}
	return res, nil
}

// dialCall connects to the instance whose id is the host of addr.
func (f *Fleet) dialCall(ctx context.Context, _, addr string) (net.Conn, error) {
	id, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	live, err := f.live()
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(live, func(i cluster.Instance) bool { return i.ID == id && id != f.instance })
	if at < 0 {
		return nil, fmt.Errorf("instance %s: %w", id, ErrNoInstance)
	}
	return f.dialPeer(ctx, live[at])
}
