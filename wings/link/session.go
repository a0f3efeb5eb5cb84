package link

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/mambahost/mamba/wings/wire"
)

// keepLinked holds one control connection at a time, to the panel's addresses in turn.
func (l *Link) keepLinked(ctx context.Context) {
	backoff := firstBackoff
	for turn := 0; ctx.Err() == nil; turn++ {
		id := l.id.Load()
		linked, err := l.connect(ctx, id, id.Instances[turn%len(id.Instances)], wire.LinkControl)
		if ctx.Err() != nil {
			return
		}
		l.log.Warn("no link to the panel", "error", err, "worked", linked)
		if linked {
			backoff = firstBackoff
		}
		wait(ctx, jitter(backoff))
		backoff = min(2*backoff, maxBackoff)
	}
}

// connect dials, upgrades and serves the panel's requests until the connection ends. linked says
// that it got as far as serving.
func (l *Link) connect(ctx context.Context, id *Identity, instance, kind string) (linked bool, err error) {
	session, err := dialSession(ctx, id, instance, kind, l.log)
	if err != nil {
		return false, fmt.Errorf("link to %s: %w", instance, err)
	}
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	defer session.Close()
	if kind == wire.LinkControl {
		if err := l.hello(session); err != nil {
			return false, fmt.Errorf("hello to %s: %w", instance, err)
		}
		l.log.Info("linked to the panel", "instance", instance)
		select {
		case l.up <- struct{}{}:
		default: // one waits already
		}
	}
	srv := &http.Server{
		Handler:           l.serve(ctx),
		ReadHeaderTimeout: wire.LinkHelloTimeout,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { keepAlive(session) })
	err = srv.Serve(session)
	session.Close()
	return true, errors.Join(err, srv.Close())
}

// dialSession makes the TLS connection and turns it into a session of which the panel is the client.
func dialSession(ctx context.Context, id *Identity, instance, kind string, log *slog.Logger) (*yamux.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+wire.LinkHelloTimeout)
	defer cancel()
	d := tls.Dialer{NetDialer: dialer, Config: id.tlsConfig()}
	conn, err := d.DialContext(ctx, "tcp", instance)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	upgraded, err := upgrade(conn, id.NodeID, instance, kind)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	session, err := yamux.Server(upgraded, sessionConfig(log))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return session, nil
}

func upgrade(conn net.Conn, nodeID, instance, kind string) (net.Conn, error) {
	req, err := http.NewRequest(http.MethodGet, "https://"+instance+wire.APIPrefix+"/nodes/"+nodeID+"/link?kind="+kind, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", wire.LinkProtocol)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, req) //nolint:bodyclose // the body is the upgraded connection
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes)) // what came of it is enough
		return nil, decodeError(res.StatusCode, body)
	}
	return &bufferedConn{Conn: conn, r: r}, nil
}

// bufferedConn reads first what came in one packet with the answer to the upgrade.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// sessionConfig must equal the panel's in what is named in wire.
func sessionConfig(log *slog.Logger) *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false // keepAlive below is more patient
	c.AcceptBacklog = wire.LinkBacklog
	c.MaxStreamWindowSize = wire.LinkWindowBytes
	c.StreamCloseTimeout = wire.LinkStreamCloseTimeout
	c.ConnectionWriteTimeout = wire.LinkDeadAfter
	c.LogOutput, c.Logger = nil, slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	return c
}

// keepAlive closes a session whose peer has answered no ping for wire.LinkDeadAfter (that is the
// timeout of one ping), and returns when the session is closed.
func keepAlive(session *yamux.Session) {
	tick := time.NewTicker(wire.LinkPingInterval)
	defer tick.Stop()
	for {
		select {
		case <-session.CloseChan():
			return
		case <-tick.C:
		}
		if _, err := session.Ping(); err != nil {
			session.Close()
			return
		}
	}
}

// hello says who we are on the session's first stream and reads what the panel thinks of it.
func (l *Link) hello(session *yamux.Session) error {
	stream, err := session.OpenStream()
	if err != nil {
		return err
	}
	defer stream.Close()
	if err := stream.SetDeadline(time.Now().Add(wire.LinkHelloTimeout)); err != nil {
		return err
	}
	facts := l.cfg.Facts(context.Background())
	hello := wire.Hello{
		Version: wire.Version, Release: l.cfg.Release, SpoolID: l.spool.ID(), BootID: l.bootID,
		Capacity: facts.Capacity, Engine: facts.Engine, NodeClock: time.Now().UTC(),
	}
	if err := json.NewEncoder(stream).Encode(hello); err != nil {
		return err
	}
	var reply wire.HelloReply
	if err := json.NewDecoder(io.LimitReader(stream, wire.MaxHelloBytes)).Decode(&reply); err != nil {
		return err
	}
	if reply.Error != nil {
		return reply.Error
	}
	if reply.AckedSeq > l.spool.Last() {
		l.log.Error("this disk has forgotten events that the panel has; the spool takes a new identity", "panel", reply.AckedSeq, "last", l.spool.Last())
		return l.spool.Ack(reply.AckedSeq)
	}
	return nil
}

// serve is the handler for every stream of the panel.
func (l *Link) serve(ctx context.Context) http.Handler {
	l.mu.Lock()
	handler := l.handler
	l.mu.Unlock()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !l.handlers.begin() {
			refuse(w, http.StatusServiceUnavailable, "stopping", "This node is stopping.")
			return
		}
		defer l.handlers.end()
		select {
		case l.slots <- struct{}{}:
			defer func() { <-l.slots }()
		default:
			refuse(w, http.StatusServiceUnavailable, "busy", "This node has too many requests at once.")
			return
		}
		// A peer that went away ends a handler that is blocked in a write at once, not when the
		// window's timeout ends.
		stop := context.AfterFunc(r.Context(), func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)) })
		defer stop()
		if r.URL.Path == wire.BulkPath {
			l.openBulk(ctx, w, r)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// openBulk opens one more bulk connection to the instance that asked, up to the bound.
func (l *Link) openBulk(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		refuse(w, http.StatusMethodNotAllowed, "method_not_allowed", "Use POST.")
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped || l.bulk >= wire.MaxBulkConnections {
		refuse(w, http.StatusServiceUnavailable, "busy", "This node has all bulk connections open.")
		return
	}
	l.bulk++
	id := l.id.Load()
	l.wg.Go(func() {
		defer func() {
			l.mu.Lock()
			l.bulk--
			l.mu.Unlock()
		}()
		var err error
		for _, instance := range id.Instances {
			var linked bool
			if linked, err = l.connect(ctx, id, instance, wire.LinkBulk); linked {
				return
			}
		}
		l.log.Warn("no bulk connection to the panel", "error", err)
	})
	w.WriteHeader(http.StatusAccepted)
}

// refuse answers in the link's error shape.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(wire.Error{Status: status, Code: code, Message: message}) // the peer may be gone
}

// handlers counts running requests and lets Stop wait for them.
type handlers struct {
	mu      sync.Mutex
	stopped bool
	wg      sync.WaitGroup
}

func (h *handlers) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.stopped {
		h.wg.Add(1)
	}
	return !h.stopped
}

func (h *handlers) end() { h.wg.Done() }

func (h *handlers) stop() {
	h.mu.Lock()
	h.stopped = true
	h.mu.Unlock()
	h.wg.Wait()
}
