package fleet

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/cluster"
	"github.com/mambahost/mamba/wings/wire"
)

// circle is who lives of a panel's instances, as tests decide it.
type circle struct {
	mu    sync.Mutex
	seats []*seat
}

// seat is one instance's place in it.
type seat struct {
	id      string
	circle  *circle
	address string // guarded by circle.mu
	live    bool   // guarded by circle.mu
	deaf    bool   // messages do not reach it; guarded by circle.mu
	fns     map[string][]func(cluster.Message)
	dead    []func(core.App, string) error
}

func (c *circle) join() *seat {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &seat{id: core.GenerateDefaultRandomId(), circle: c, live: true, fns: map[string][]func(cluster.Message){}}
	c.seats = append(c.seats, s)
	return s
}

func (c *circle) with(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn()
}

// die takes an instance for dead, as the first of the others to notice does.
func (c *circle) die(t testing.TB, app core.App, s *seat) {
	t.Helper()
	c.with(func() { s.live = false })
	for _, other := range c.seats {
		if !other.live {
			continue
		}
		err := collections.Tx(app, nil, func(tx core.App) error {
			for _, fn := range other.dead {
				if err := fn(tx, s.id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return
	}
}

func (s *seat) ID() string  { return s.id }
func (s *seat) Alone() bool { return false }

func (s *seat) Instances(core.App) (out []cluster.Instance, err error) {
	s.circle.with(func() {
		for _, o := range s.circle.seats {
			if o.live {
				out = append(out, cluster.Instance{ID: o.id, Address: o.address})
			}
		}
	})
	return out, nil
}

func (s *seat) Publish(tx core.App, topic string, data []byte) error {
	collections.AfterCommit(tx, func() {
		var fns []func(cluster.Message)
		s.circle.with(func() {
			for _, o := range s.circle.seats {
				if o.live && !o.deaf {
					fns = append(fns, o.fns[topic]...)
				}
			}
		})
		for _, fn := range fns {
			fn(cluster.Message{Topic: topic, From: s.id, Data: slices.Clone(data)})
		}
	})
	return nil
}

func (s *seat) Subscribe(topic string, fn func(cluster.Message)) {
	s.fns[topic] = append(s.fns[topic], fn)
}

func (s *seat) OnDead(fn func(core.App, string) error) { s.dead = append(s.dead, fn) }

// instances starts n panels over one database.
func instances(t testing.TB, n int) (*circle, []*panel) {
	t.Helper()
	c := &circle{}
	var out []*panel
	first := newPanel(t, func(cfg *Config) { cfg.Cluster = c.join() })
	for i := range n {
		p := first
		if i > 0 {
			p = first.sibling(t, c)
		}
		p.start(t)
		c.with(func() { p.seat().address = p.Addr() })
		p.forgetRoster()
		out = append(out, p)
	}
	for _, p := range out {
		p.forgetRoster()
	}
	return c, out
}

// sibling is another instance over the same database, not started.
func (p *panel) sibling(t testing.TB, c *circle) *panel {
	t.Helper()
	q := &panel{app: p.app, book: p.book, placed: p.placed, keeper: p.keeper, config: p.config}
	q.config.Cluster = c.join()
	q.renew(t)
	return q
}

func (p *panel) seat() *seat { return p.config.Cluster.(*seat) }

// forgetRoster makes the instance ask anew who lives.
func (p *panel) forgetRoster() {
	p.roster.mu.Lock()
	defer p.roster.mu.Unlock()
	p.roster.list, p.roster.until = nil, p.roster.until.AddDate(-1, 0, 0)
}

// kill ends an instance as SIGKILL would: its connections break, and its rows stay. It may be called
// from any goroutine.
func (p *panel) kill(t testing.TB) {
	t.Helper()
	links, err := collections.Every[collections.NodeLink](p.app, collections.NodeLinks, "", 0, dbx.HashExp{"instance": p.instance})
	if err != nil {
		t.Error(err)
	}
	p.Stop()
	err = collections.Tx(p.app, nil, func(tx core.App) error {
		for _, old := range links {
			if err := claim(tx, old.Node(), old.Instance()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// claim writes that an instance has the link of a node.
func claim(tx core.App, node, instance string) error {
	row, err := collections.NewNodeLink(tx)
	if err != nil {
		return err
	}
	row.SetNode(node)
	row.SetInstance(instance)
	return permit.Save(tx, row)
}

// unreachable is an address of this machine where nothing listens.
func unreachable(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// linkedHere reports whether the instance itself has the node's link.
func (p *panel) linkedHere(node string) bool { return p.links.linked(node) != nil }

// knows reports whether other instances can know that this one has the node's link.
func (p *panel) knows(t testing.TB, node string) bool {
	t.Helper()
	return count(t, p.app, collections.NodeLinks, dbx.HashExp{"node": node, "instance": p.instance}) == 1
}

// game is a node's handler with a console whose lines are numbered from 1, as the agent's are.
type game struct {
	*http.ServeMux
	mu    sync.Mutex
	lines []wire.ConsoleLine
	more  chan struct{} // closed and replaced with each line
	syncs int
}

func newGame(t testing.TB) *game {
	g := &game{ServeMux: http.NewServeMux(), more: make(chan struct{})}
	g.HandleFunc("PUT /v1/servers", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		g.mu.Lock()
		g.syncs++
		g.mu.Unlock()
		_ = json.NewEncoder(w).Encode(wire.SyncReply{})
	})
	g.HandleFunc("PUT /v1/servers/{id}", func(w http.ResponseWriter, r *http.Request) {
		var s wire.Spec
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(wire.Observed{ServerID: s.ServerID, Generation: s.Generation})
	})
	g.HandleFunc("GET /v1/ping", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) })
	g.HandleFunc("GET /v1/servers/{id}/console", g.console)
	return g
}

func (g *game) say(text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lines = append(g.lines, wire.ConsoleLine{Seq: int64(len(g.lines) + 1), Text: text})
	close(g.more)
	g.more = make(chan struct{})
}

func (g *game) synced() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.syncs
}

func (g *game) console(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.Atoi(r.URL.Query().Get("after"))
	c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() { // ends when the connection does
		defer cancel()
		for {
			if _, _, err := c.ReadMessage(); err != nil {
				return
			}
		}
	}()
	for {
		g.mu.Lock()
		fresh, more := slices.Clone(g.lines[min(after, len(g.lines)):]), g.more
		g.mu.Unlock()
		if len(fresh) > 0 {
			after += len(fresh)
			if c.WriteJSON(wire.ConsoleFrame{Lines: fresh}) != nil {
				return
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}
