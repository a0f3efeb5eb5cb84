package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/gorilla/websocket"

	"github.com/mambahost/mamba/wings/wire"
)

const (
	maxNodeAnswer      = 32 << 20 // a sync of wire.MaxSyncSpecs servers
	consoleWindowBytes = 32 << 10 // gorilla's buffers of one console
	maxConsoleFrame    = 2 << 20  // a node sends 128 KiB of text at most, in the worst case six times that as JSON
)

// bounds returns what bounds this instance's requests to a node, ErrNodeOffline when no instance has a
// link of it.
func (f *Fleet) bounds(node string) (*nodeLinks, error) {
	if n := f.links.linked(node); n != nil {
		return n, nil
	}
	holders, err := f.holders(node)
	if err != nil {
		return nil, err
	}
	if len(holders) == 0 {
		return nil, ErrNodeOffline
	}
	return f.links.entry(node), nil
}

// Do sends one request to a node's handler over its control session, of this instance or another, and
// decodes the answer into out (nil: dropped). It waits for a slot of the node within ctx. A refusal of
// the node is a *wire.Error; no link, or one that broke, is ErrNodeOffline.
func (f *Fleet) Do(ctx context.Context, node, method, path string, body, out any) error {
	return f.ask(ctx, f.control, node, method, path, body, out)
}

func (f *Fleet) ask(ctx context.Context, over http.RoundTripper, node, method, path string, body, out any) error {
	n, err := f.bounds(node)
	if err != nil {
		return fmt.Errorf("ask node %s: %w", node, err)
	}
	if err := acquire(ctx, n.requests); err != nil {
		return fmt.Errorf("ask node %s: %w", node, err)
	}
	defer func() { <-n.requests }()
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode request to node %s: %w", node, err)
		}
		reader = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+node+path, reader)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := over.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s %s of node %s: %w", method, path, node, broken(ctx, err))
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxNodeAnswer+1))
	if err != nil {
		return fmt.Errorf("read answer of node %s: %w", node, broken(ctx, err))
	}
	if len(raw) > maxNodeAnswer {
		return fmt.Errorf("answer of node %s to %s is larger than %d bytes", node, path, maxNodeAnswer)
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s of node %s: %w", method, path, node, nodeError(res.StatusCode, raw))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("decode answer of node %s to %s: %w", node, path, err)
	}
	return nil
}

// broken marks a failure of the link as ErrNodeOffline, unless the caller gave up.
func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, ErrNodeOffline) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNodeOffline, err)
}

func nodeError(status int, body []byte) error {
	e := &wire.Error{}
	if json.Unmarshal(body, e) != nil || e.Code == "" {
		e = &wire.Error{Code: "unknown", Message: http.StatusText(status)}
	}
	e.Status = status
	return e
}

func acquire(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Push sends one server's desired state and returns what the node then knows of it. It may be sent
// twice, and an older one than the node has does nothing.
func (f *Fleet) Push(ctx context.Context, node string, s wire.Spec) (wire.Observed, error) {
	var o wire.Observed
	return o, f.Do(ctx, node, http.MethodPut, wire.APIPrefix+"/servers/"+s.ServerID, s, &o)
}

// Kick asks for a full sync of the node soon, which this instance does. Without a link anywhere it does
// nothing: a new link syncs. It never blocks.
func (f *Fleet) Kick(node string) {
	s := f.links.control(node)
	if s == nil {
		f.kickDistant(node)
		return
	}
	select {
	case s.kick <- struct{}{}:
	default: // capacity 1: one sync that is still to come is enough
	}
}

// distant is the nodes that are synced through another instance, each once at a time.
type distant struct {
	mu    sync.Mutex
	again map[string]bool // by node that is being synced: once more when it is done
}

func (f *Fleet) kickDistant(node string) {
	d := &f.distant
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, running := d.again[node]; running {
		d.again[node] = true
		return
	}
	if !f.work.begin() {
		return
	}
	if d.again == nil {
		d.again = map[string]bool{}
	}
	d.again[node] = false
	go func() { // waited for by work.stop
		defer f.work.end()
		for more := true; more; {
			if err := f.syncDistant(node); err != nil && f.running().Err() == nil {
				f.log.Warn("sync of a node through another instance", "node", node, "error", err)
			}
			d.mu.Lock()
			if more = d.again[node] && f.running().Err() == nil; more {
				d.again[node] = false
			} else {
				delete(d.again, node)
			}
			d.mu.Unlock()
		}
	}()
}

func (f *Fleet) syncDistant(node string) error {
	if !f.Linked(node) {
		return nil
	}
	err := f.sync(f.running(), node)
	if errors.Is(err, ErrNodeOffline) {
		return nil // it went away: a new link syncs
	}
	return err
}

// Linked reports whether requests can reach the node now, from this instance or through another.
func (f *Fleet) Linked(node string) bool {
	_, err := f.bounds(node)
	return err == nil
}

// Console opens a server's console on its node: wire.ConsoleFrame come, wire.ConsoleInput go. Lines
// after the sequence are sent first, so a viewer may go on at another instance. The caller closes it.
// ErrTooManyConsoles: this instance has as many open on the node as it may.
func (f *Fleet) Console(ctx context.Context, node, server string, after int64) (*websocket.Conn, error) {
	n, err := f.bounds(node)
	if err != nil {
		return nil, fmt.Errorf("open console on node %s: %w", node, err)
	}
	select {
	case n.consoles <- struct{}{}:
	default: // one ends when a person closes it, which is nothing to wait for
		return nil, fmt.Errorf("open console on node %s: %w", node, ErrTooManyConsoles)
	}
	release := sync.OnceFunc(func() { <-n.consoles })
	d := websocket.Dialer{
		NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := f.dialControl(ctx, node)
			if err != nil {
				return nil, err
			}
			return &releasingConn{Conn: c, release: release}, nil
		},
		HandshakeTimeout: wire.LinkHelloTimeout,
		ReadBufferSize:   consoleWindowBytes, WriteBufferSize: wire.MaxCommandBytes,
	}
	target := "ws://" + node + wire.APIPrefix + "/servers/" + server + "/console?after=" + strconv.FormatInt(after, 10)
	conn, res, err := d.DialContext(ctx, target, nil) //nolint:bodyclose // on failure gorilla hands out a buffered body that needs no closing
	if err == nil {
		conn.SetReadLimit(maxConsoleFrame)
		return conn, nil
	}
	release()
	if res == nil {
		return nil, fmt.Errorf("open console on node %s: %w", node, broken(ctx, err))
	}
	raw, _ := io.ReadAll(res.Body) // gorilla keeps at most 1 KiB of it
	return nil, fmt.Errorf("open console on node %s: %w", node, nodeError(res.StatusCode, raw))
}

// releasingConn gives a slot back when it is closed.
type releasingConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *releasingConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// BulkTransport sends requests to the node's handler over connections of their own, so that large
// bodies never delay control requests. Bodies stream; closing an answer's body early ends the
// node's handler. Requests beyond the bound wait for a slot within their context.
func (f *Fleet) BulkTransport(node string) http.RoundTripper {
	return &bulkTransport{fleet: f, node: node}
}

type bulkTransport struct {
	fleet *Fleet
	node  string
}

// RoundTrip implements http.RoundTripper; the host of the URL is ignored.
func (t *bulkTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	n, err := t.fleet.bounds(t.node)
	if err == nil {
		err = acquire(r.Context(), n.bulks)
	}
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, fmt.Errorf("bulk request to node %s: %w", t.node, err)
	}
	release := sync.OnceFunc(func() { <-n.bulks })
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", t.node
	res, err := t.fleet.bulk.RoundTrip(r)
	if err != nil {
		release()
		return nil, fmt.Errorf("bulk request to node %s: %w", t.node, broken(r.Context(), err))
	}
	res.Body = &releasingBody{ReadCloser: res.Body, release: release}
	return res, nil
}

type releasingBody struct {
	io.ReadCloser
	release func()
}

// Close implements io.Closer.
func (b *releasingBody) Close() error {
	b.release()
	return b.ReadCloser.Close()
}
