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

// connect dials, upgrades and serves the panel's requests until the connection ends. linked says
// that it got as far as serving.
func (l *Link) connect(ctx context.Context, id *Identity, instance, kind string) (linked bool, err error) {
	session, err := dialSession(ctx, l.cfg.Dialer, id, instance, kind, l.log)
	if err != nil {
		return false, fmt.Errorf("link to %s: %w", instance, err)
	}
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	defer session.Close()
	if kind == wire.LinkControl {
		reply, err := l.hello(session)
		if err != nil {
			return false, fmt.Errorf("hello to %s: %w", instance, err)
		}
		h, alone := l.board.enter(instance, reply.InstanceID)
		if !alone {
			return false, errCovered
		}
		defer l.board.leave(instance, h)
		l.log.Info("linked to the panel", "instance", instance)
		select {
		case l.up <- struct{}{}:
		default: // one waits already
		}
		l.learn(reply.Instances)
	}
	srv := &http.Server{
		Handler:           l.serve(ctx, instance),
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
func dialSession(ctx context.Context, dialer *net.Dialer, id *Identity, instance, kind string, log *slog.Logger) (*yamux.Session, error) {
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
func (l *Link) hello(session *yamux.Session) (reply wire.HelloReply, err error) {
	stream, err := session.OpenStream()
	if err != nil {
		return reply, err
	}
	defer stream.Close()
	if err := stream.SetDeadline(time.Now().Add(wire.LinkHelloTimeout)); err != nil {
		return reply, err
	}
	facts := l.cfg.Facts(context.Background())
	hello := wire.Hello{
		Version: wire.Version, Release: l.cfg.Release, SpoolID: l.spool.ID(), BootID: l.bootID,
		Capacity: facts.Capacity, Engine: facts.Engine, NodeClock: time.Now().UTC(),
	}
	if err := json.NewEncoder(stream).Encode(hello); err != nil {
		return reply, err
	}
	if err := json.NewDecoder(io.LimitReader(stream, wire.MaxHelloBytes)).Decode(&reply); err != nil {
		return reply, err
	}
	if reply.Error != nil {
		return reply, reply.Error
	}
	if reply.AckedSeq > l.spool.Last() {
		l.log.Error("this disk has forgotten events that the panel has; the spool takes a new identity", "panel", reply.AckedSeq, "last", l.spool.Last())
		return reply, l.spool.AckOf(hello.SpoolID, reply.AckedSeq)
	}
	return reply, nil
}

// serve is the handler for every stream of the panel's instance at that address.
func (l *Link) serve(ctx context.Context, instance string) http.Handler {
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
			l.openBulk(ctx, instance, w, r)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// openBulk opens one more bulk connection to the instance that asked, up to the bound of each instance.
func (l *Link) openBulk(ctx context.Context, instance string, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		refuse(w, http.StatusMethodNotAllowed, "method_not_allowed", "Use POST.")
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped || l.bulk[instance] >= wire.MaxBulkConnections {
		refuse(w, http.StatusServiceUnavailable, "busy", "This node has all bulk connections open.")
		return
	}
	l.bulk[instance]++
	id := l.id.Load()
	l.wg.Go(func() {
		defer func() {
			l.mu.Lock()
			if l.bulk[instance]--; l.bulk[instance] == 0 {
				delete(l.bulk, instance)
			}
			l.mu.Unlock()
		}()
		var err error
		for _, address := range l.board.sameInstance(instance) {
			var linked bool
			if linked, err = l.connect(ctx, id, address, wire.LinkBulk); linked {
				return
			}
		}
		l.log.Warn("no bulk connection to the panel", "instance", instance, "error", err)
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
