package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/wings/wire"
)

const (
	bulkIdleAfter  = 60 * time.Second       // a bulk connection without a stream is closed
	duplicateGrace = 250 * time.Millisecond // for a node to close a connection that it finds to be a second one to us
)

// session is one live connection of a node.
type session struct {
	*yamux.Session
	node        string
	kind        string
	fingerprint string // of the certificate that it was opened with
	boot        string // of the node's run that opened it; set by greet
	kick        chan struct{}
}

// handleLink takes the connection over and holds it until it ends.
func (f *Fleet) handleLink(w http.ResponseWriter, r *http.Request) {
	c, kind := callerOf(r), r.URL.Query().Get("kind")
	if kind != wire.LinkControl && kind != wire.LinkBulk || !strings.EqualFold(r.Header.Get("Upgrade"), wire.LinkProtocol) {
		answerError(w, &wire.Error{Status: http.StatusBadRequest, Code: "upgrade_required", Message: "A link needs Upgrade: " + wire.LinkProtocol + " and a known kind."})
		return
	}
	if kind == wire.LinkBulk && !f.links.wantsBulk(c.node) {
		answerError(w, &wire.Error{Status: http.StatusConflict, Code: "bulk_not_wanted", Message: "The panel did not ask for a bulk connection."})
		return
	}
	conn, err := takeOver(w, wire.LinkProtocol)
	if err != nil {
		f.log.Warn("take over a node's connection", "node", c.node, "error", err)
		return
	}
	mux, err := yamux.Client(conn, sessionConfig(f.log))
	if err != nil {
		f.log.Error("begin session", "node", c.node, "error", err)
		conn.Close()
		return
	}
	s := &session{Session: mux, node: c.node, kind: kind, fingerprint: c.fingerprint, kick: make(chan struct{}, 1)}
	defer s.Close()
	stop := context.AfterFunc(r.Context(), func() { s.Close() })
	defer stop()
	if kind == wire.LinkBulk {
		f.holdBulk(s)
		return
	}
	f.holdControl(r.Context(), s)
}

// takeOver answers 101 and returns the bare connection without the server's deadlines.
func takeOver(w http.ResponseWriter, protocol string) (net.Conn, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("%w, %w", err, conn.Close())
	}
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol); err != nil {
		conn.Close()
		return nil, err
	}
	return &bufferedConn{Conn: conn, r: rw.Reader}, nil
}

// bufferedConn reads first what the server had read ahead.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite ends our side only, where the connection can do that.
func (c *bufferedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// sessionConfig must equal the node's in what is named in wire.
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

// holdControl greets the node, makes the session the one that requests go over, syncs, and returns
// when the session ends. An older session of the node is closed: the newest is right, unless the node
// itself finds that another of its addresses leads here already and closes this one.
func (f *Fleet) holdControl(ctx context.Context, s *session) {
	if err := f.greet(s); err != nil {
		f.log.Warn("hello of a node", "node", s.node, "error", err)
		return
	}
	if f.duplicate(s) {
		return
	}
	if old := f.links.setControl(s); old != nil {
		old.Close()
	}
	f.presence.changed()
	defer f.presence.changed()
	defer f.links.drop(s)
	f.log.Info("node linked", "node", s.node)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { keepAlive(s.Session) })
	wg.Go(func() { refuseStreams(s.Session) })
	wg.Go(func() { f.keepSynced(ctx, s) })
	<-s.CloseChan()
	f.log.Info("node link ended", "node", s.node)
}

// duplicate waits for a moment whether the node closes a session that the same run of it opened beside
// another.
func (f *Fleet) duplicate(s *session) bool {
	if old := f.links.control(s.node); old == nil || old.boot != s.boot {
		return false
	}
	grace := time.NewTimer(duplicateGrace)
	defer grace.Stop()
	select {
	case <-s.CloseChan():
		return true
	case <-grace.C:
		return false
	}
}

// holdBulk hands the session to whoever waits for one and closes it when it was idle for a while.
func (f *Fleet) holdBulk(s *session) {
	if !f.links.addBulk(s) {
		return
	}
	defer f.links.drop(s)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { keepAlive(s.Session) })
	wg.Go(func() { refuseStreams(s.Session) })
	tick := time.NewTicker(bulkIdleAfter / 2)
	defer tick.Stop()
	for idle := 0; idle < 2; {
		select {
		case <-s.CloseChan():
			return
		case <-tick.C:
		}
		idle++
		if f.links.busy(s) {
			idle = 0
		}
	}
	f.links.drop(s) // before closing: nobody may take it now
	s.Close()
}

// keepAlive closes a session whose peer answered no ping for wire.LinkDeadAfter.
func keepAlive(s *yamux.Session) {
	tick := time.NewTicker(wire.LinkPingInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.CloseChan():
			return
		case <-tick.C:
		}
		if _, err := s.Ping(); err != nil {
			s.Close()
			return
		}
	}
}

// refuseStreams closes what a node opens beyond its hello: nobody would read it, and each could fill a
// window of the panel's memory. It ends with the session.
func refuseStreams(s *yamux.Session) {
	for {
		stream, err := s.AcceptStream()
		if err != nil {
			return
		}
		stream.Close()
	}
}

// greet reads the node's hello from the first stream and answers it. A node that is too far from our
// version is told which side to upgrade, and gets an incident.
func (f *Fleet) greet(s *session) error {
	cut := time.AfterFunc(wire.LinkHelloTimeout, func() { s.Close() })
	defer cut.Stop()
	stream, err := s.AcceptStream()
	if err != nil {
		return err
	}
	defer stream.Close()
	var hello wire.Hello
	if err := json.NewDecoder(io.LimitReader(stream, wire.MaxHelloBytes)).Decode(&hello); err != nil {
		return fmt.Errorf("decode hello: %w", err)
	}
	n, err := collections.FindNode(f.app, s.node)
	if err != nil {
		return err
	}
	s.boot = hello.BootID
	reply := wire.HelloReply{Version: wire.Version, InstanceID: f.instance, Instances: f.addresses(), PanelClock: time.Now().UTC()}
	if reply.AckedSeq, err = f.beginSpool(n, hello.SpoolID); err != nil {
		return err
	}
	reply.Error = versionError(hello.Version)
	if err := f.noteVersion(n, hello, reply.Error); err != nil {
		return err
	}
	if err := json.NewEncoder(stream).Encode(reply); err != nil {
		return err
	}
	if reply.Error != nil {
		// The node closes when it has read why; the timer above does it when it does not.
		<-s.CloseChan()
		return reply.Error
	}
	return nil
}

// beginSpool returns how far a node's spool is durable, and notes one that is new before anything of
// the rebuilt node is taken in.
func (f *Fleet) beginSpool(n *collections.Node, spool string) (acked int64, err error) {
	if spool = clip(spool, 64); spool == "" || n.SpoolID() == spool {
		return n.AckedSeq(), nil
	}
	err = collections.Tx(f.app, []collections.Lock{nodeLock(n.Id)}, func(tx core.App) error {
		now, err := collections.FindNode(tx, n.Id)
		if err != nil {
			return err
		}
		err = f.begin(tx, now, spool)
		acked = now.AckedSeq()
		return err
	})
	return acked, err
}

// versionError refuses what is not our version or the one before.
func versionError(node int) *wire.Error {
	switch {
	case node > wire.Version:
		return &wire.Error{Status: http.StatusUpgradeRequired, Code: "panel_too_old", Message: fmt.Sprintf("This node speaks protocol %d and the panel only %d: upgrade the panel.", node, wire.Version)}
	case node < wire.Version-1 || node < 1:
		return &wire.Error{Status: http.StatusUpgradeRequired, Code: "node_too_old", Message: fmt.Sprintf("This node speaks protocol %d and the panel %d: upgrade wings on the node.", node, wire.Version)}
	}
	return nil
}

func (f *Fleet) noteVersion(n *collections.Node, hello wire.Hello, refused *wire.Error) error {
	fingerprint := "node.version:" + n.Id
	if refused == nil { // nearly always, and then it writes nothing: a thousand nodes may greet at once
		return f.cfg.Incidents.Resolve(f.app, fingerprint, "The node speaks a version that works.")
	}
	return collections.Tx(f.app, []collections.Lock{incidents.Lock, nodeLock(n.Id)}, func(tx core.App) error {
		return f.cfg.Incidents.Open(tx, incidents.Incident{
			Kind: "node.version", Fingerprint: fingerprint, Severity: "critical", Node: n.Id,
			Title: "Node " + n.Name() + " cannot be used: its version does not fit", Detail: refused.Message + " It runs release " + clip(hello.Release, 64) + ".",
		})
	})
}

// clip cuts what a node says to n bytes, so that it fits where it is stored.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
