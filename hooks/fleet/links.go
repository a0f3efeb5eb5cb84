package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/hooks/cluster"
	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of what one node is asked at a time by one instance. All together stay below the
// wire.LinkBacklog streams that may wait to be accepted, because opening one more would block without a
// deadline.
const (
	maxRequestsPerNode = 64
	maxConsolesPerNode = 512 // the node lets in 500 of one server
	maxBulkPerNode     = 32
	maxRelaysPerNode   = 256 // for all other instances together; they have bounds of their own, too
	bulkOpenTimeout    = 15 * time.Second
)

// links is which sessions there are. Its methods never block on a network.
type links struct {
	mu    sync.Mutex
	nodes map[string]*nodeLinks
}

// nodeLinks are the sessions of one node and the bounds of their use. It stays for as long as the
// panel runs, so that slots taken before a reconnect are given back to the same place.
type nodeLinks struct {
	control  *session // nil while there is no link
	bulk     []*session
	streams  map[*session]int // open streams of bulk sessions
	asked    int              // bulk connections asked for and not there yet
	arrived  chan struct{}    // closed and replaced when a bulk connection came
	requests chan struct{}    // slots
	consoles chan struct{}
	bulks    chan struct{}
	relays   chan struct{}
	turns    map[string]chan struct{} // by route: what the node itself asks of the panel
}

func newLinks() *links { return &links{nodes: map[string]*nodeLinks{}} }

// of returns the entry of a node. Caller holds mu.
func (l *links) of(node string) *nodeLinks {
	n := l.nodes[node]
	if n == nil {
		n = &nodeLinks{
			streams: map[*session]int{}, arrived: make(chan struct{}),
			requests: make(chan struct{}, maxRequestsPerNode),
			consoles: make(chan struct{}, maxConsolesPerNode),
			bulks:    make(chan struct{}, maxBulkPerNode),
			relays:   make(chan struct{}, maxRelaysPerNode),
			turns:    map[string]chan struct{}{},
		}
		l.nodes[node] = n
	}
	return n
}

// turn is held by the one request of a node that is worked on at a route.
func (l *links) turn(node, route string) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	turns := l.of(node).turns
	if turns[route] == nil {
		turns[route] = make(chan struct{}, 1)
	}
	return turns[route]
}

// linked returns the bounds of a node that has a link here, nil for any other.
func (l *links) linked(node string) *nodeLinks {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[node]; n != nil && n.control != nil {
		return n
	}
	return nil
}

// entry returns the bounds of a node, wherever it has its link.
func (l *links) entry(node string) *nodeLinks {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of(node)
}

// nodesLinked are the nodes that have a link here.
func (l *links) nodesLinked() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]bool{}
	for id, n := range l.nodes {
		if n.control != nil {
			out[id] = true
		}
	}
	return out
}

func (l *links) control(node string) *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[node]; n != nil {
		return n.control
	}
	return nil
}

// setControl makes s the node's link and returns the one that it replaces.
func (l *links) setControl(s *session) (old *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(s.node)
	old, n.control = n.control, s
	return old
}

// wantsBulk reports whether a bulk connection of the node was asked for.
func (l *links) wantsBulk(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[node]
	return n != nil && n.asked > 0
}

// addBulk takes a bulk session that was asked for.
func (l *links) addBulk(s *session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(s.node)
	if n.asked == 0 {
		return false
	}
	n.asked--
	n.bulk = append(n.bulk, s)
	close(n.arrived)
	n.arrived = make(chan struct{})
	return true
}

// drop forgets a session. An older control session never removes a newer one.
func (l *links) drop(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(s.node)
	if n.control == s {
		n.control = nil
	}
	n.bulk = slices.DeleteFunc(n.bulk, func(b *session) bool { return b == s })
	delete(n.streams, s)
}

func (l *links) busy(s *session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of(s.node).streams[s] > 0
}

// pickBulk returns an idle bulk session of a node and counts a stream on it, or tells what to do: ask
// the node for one more, or wait for one that was asked for. With share it takes the least used one
// whatever is on its way; s is nil when there is none.
func (l *links) pickBulk(node string, share bool) (s *session, ask bool, arrived <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.of(node)
	for _, b := range n.bulk {
		if !b.IsClosed() && (s == nil || n.streams[b] < n.streams[s]) {
			s = b
		}
	}
	idle := s != nil && n.streams[s] == 0
	switch {
	case idle || s != nil && share:
	case len(n.bulk)+n.asked < wire.MaxBulkConnections:
		n.asked++
		return nil, true, n.arrived
	case n.asked > 0:
		return nil, false, n.arrived
	case s == nil: // all are closed and about to be dropped
		return nil, false, n.arrived
	}
	n.streams[s]++
	return s, false, n.arrived
}

// unask gives back an asked connection that did not come.
func (l *links) unask(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.of(node); n.asked > 0 {
		n.asked--
	}
}

func (l *links) endStream(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.of(s.node); n.streams[s] > 0 {
		n.streams[s]--
	}
}

// all returns every live session.
func (l *links) all() []*session {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*session
	for _, n := range l.nodes {
		if n.control != nil {
			out = append(out, n.control)
		}
		out = append(out, n.bulk...)
	}
	return out
}

// cut closes every session of a node.
func (l *links) cut(node string) {
	for _, s := range l.all() {
		if s.node == node {
			s.Close()
		}
	}
}

func (l *links) closeAll() {
	for _, s := range l.all() {
		s.Close()
	}
}

// cutRevoked closes sessions and relays whose certificate was revoked or ended, or whose node or
// instance is gone. A certificate that was merely replaced by its successor keeps its session until it
// ends by itself.
func (f *Fleet) cutRevoked(now time.Time) error {
	return errors.Join(f.cutLinks(now, f.links.all()), f.cutRelays(now))
}

func (f *Fleet) cutLinks(now time.Time, sessions []*session) error {
	fingerprints := make([]string, 0, len(sessions))
	for _, s := range sessions {
		fingerprints = append(fingerprints, s.fingerprint)
	}
	rows, err := f.certificates(fingerprints)
	if err != nil {
		return fmt.Errorf("look up certificates of linked nodes: %w", err)
	}
	for _, s := range sessions {
		row := rows[s.fingerprint] // the zero row belongs to no node
		if row.Node != s.node || row.Revoked != "" || !now.Before(row.expires()) {
			f.log.Warn("link cut: its certificate is not good any more", "node", s.node)
			s.Close()
		}
	}
	return nil
}

// tellRevoked lets every instance look at its links of the node once tx has committed, in place of at
// the next sweep.
func (f *Fleet) tellRevoked(tx core.App, node string) error {
	if err := f.cfg.Cluster.Publish(tx, topicRevoked, []byte(node)); err != nil {
		return fmt.Errorf("tell that node %s was revoked: %w", node, err)
	}
	return nil
}

func (f *Fleet) heardRevoked(m cluster.Message) {
	var of []*session
	for _, s := range f.links.all() {
		if s.node == string(m.Data) {
			of = append(of, s)
		}
	}
	if err := f.cutLinks(time.Now(), of); err != nil {
		f.log.Error("cut the links of a revoked node; the next sweep does it", "node", string(m.Data), "error", err)
	}
}

// openControl opens a stream on the node's control session of this instance.
func (f *Fleet) openControl(_ context.Context, node string) (net.Conn, error) {
	s := f.links.control(node)
	if s == nil {
		return nil, ErrNodeOffline
	}
	return s.Open()
}

// dialControl opens a stream on a control session of the node, here or at another instance.
func (f *Fleet) dialControl(ctx context.Context, node string) (net.Conn, error) {
	if c, err := f.openControl(ctx, node); err == nil {
		return c, nil
	}
	return f.dialRelay(ctx, node, wire.LinkControl)
}

// dialBulk opens a stream on a bulk session of the node, here or at another instance.
func (f *Fleet) dialBulk(ctx context.Context, node string) (net.Conn, error) {
	if f.links.linked(node) == nil {
		return f.dialRelay(ctx, node, wire.LinkBulk)
	}
	return f.openBulk(ctx, node)
}

// openBulk opens a stream on a bulk session of the node with this instance. Two transfers on one session
// would wait for each other's buffered megabytes, so it asks the node for connections up to the bound
// before it lets transfers share one.
func (f *Fleet) openBulk(ctx context.Context, node string) (net.Conn, error) {
	late := time.NewTimer(bulkOpenTimeout)
	defer late.Stop()
	for share := false; ; {
		s, ask, arrived := f.links.pickBulk(node, share)
		if s != nil {
			stream, err := s.Open()
			if err != nil {
				f.links.endStream(s)
				return nil, err
			}
			return &bulkConn{Conn: stream, end: sync.OnceFunc(func() { f.links.endStream(s) })}, nil
		}
		if share {
			f.unaskIf(ask, node)
			return nil, fmt.Errorf("open bulk connection: none came: %w", ErrNodeOffline)
		}
		if ask {
			if err := f.ask(ctx, f.ownControl, node, http.MethodPost, wire.BulkPath, nil, nil); err != nil {
				f.links.unask(node)
				f.log.Debug("a node opens no further bulk connection", "node", node, "error", err)
				share = true
				continue
			}
		}
		select {
		case <-arrived:
		case <-late.C:
			f.unaskIf(ask, node)
			share = true
		case <-ctx.Done():
			f.unaskIf(ask, node)
			return nil, fmt.Errorf("open bulk connection: %w", ctx.Err())
		}
	}
}

func (f *Fleet) unaskIf(asked bool, node string) {
	if asked {
		f.links.unask(node)
	}
}

type bulkConn struct {
	net.Conn
	end func()
}

// Close implements net.Conn.
func (c *bulkConn) Close() error {
	c.end()
	return c.Conn.Close()
}
