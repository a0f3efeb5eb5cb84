package fleet

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/wings/wire"
)

// A node that somebody has taken over holds a good certificate. What it can do to the panel, and so to
// the customers of other nodes, is bounded.

// Whoever floods the panel with batches waits for himself; others wait for a part of one of them.
func TestANodeThatFloodsThePanelHoldsUpOnlyItself(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	var mu sync.Mutex
	inside, most := 0, 0
	inEffect, goOn := make(chan struct{}), make(chan struct{})
	p.placed.fail = func(string) error {
		mu.Lock()
		inside++
		most = max(most, inside)
		first := inside == 1 && most == 1
		mu.Unlock()
		if first {
			select {
			case inEffect <- struct{}{}:
				<-goOn
			default:
			}
		}
		mu.Lock()
		inside--
		mu.Unlock()
		return nil
	}
	var list []wire.Event
	for s := range int64(4 * eventsPerTx) {
		list = append(list, crash(s+1, 1))
	}
	c := p.client(&m.cert)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if status := p.post(t, c, "/v1/nodes/"+m.id+"/events", wire.EventBatch{SpoolID: "A", Events: list}, nil); status != 200 {
				t.Errorf("status %d", status)
			}
		})
	}
	<-inEffect
	turn := p.links.turn(m.id, "POST "+wire.APIPrefix+"/nodes/{id}/events")
	if len(turn) != 1 {
		t.Error("a batch is worked on out of turn")
	}
	close(goOn)
	wg.Wait()
	if got := len(crashes(p)); got != len(list) {
		t.Errorf("%d effects of %d events", got, len(list))
	}
}

// A batch is taken in parts, so that a customer's write gets in between.
func TestABatchLetsOthersInBetween(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	list := []wire.Event{}
	for s := range int64(10 * eventsPerTx) {
		list = append(list, crash(s+1, 1))
	}
	var once sync.Once
	other := make(chan int, 1)
	writers := p.app.NonconcurrentDB().(*dbx.DB).DB()
	p.placed.fail = func(string) error {
		once.Do(func() {
			before := writers.Stats().WaitCount
			go func() { // waits for the writer like any other request
				err := collections.Tx(p.app, nil, func(core.App) error { other <- len(crashes(p)); return nil })
				if err != nil {
					t.Error(err)
				}
			}()
			collectionstest.Eventually(t, "it waits, or need not", func() bool { return writers.Stats().WaitCount > before || len(other) > 0 })
		})
		return nil
	}
	mustIntake(t, p, id, "A", int64(len(list)), list...)
	if seen := <-other; seen >= len(list) {
		t.Errorf("the other write waited for all %d events", seen)
	}
}

// rawLink is a control link made by hand: it says hello with a spool and answers nothing.
func (p *panel) rawLink(t *testing.T, m member, spool string) *yamux.Session {
	t.Helper()
	conn, err := tls.Dial("tcp", p.Addr(), &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: m.roots, ServerName: wire.PanelServerName, Certificates: []tls.Certificate{m.cert}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET /v1/nodes/%s/link?kind=control HTTP/1.1\r\nHost: panel\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", m.id, wire.LinkProtocol)
	res, err := http.ReadResponse(bufio.NewReaderSize(onlyHead{conn}, 16), nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v %v", res, err)
	}
	s, err := yamux.Server(conn, sessionConfig(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	stream, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	var reply wire.HelloReply
	if err := errors.Join(json.NewEncoder(stream).Encode(wire.Hello{Version: wire.Version, SpoolID: spool}), json.NewDecoder(stream).Decode(&reply)); err != nil {
		t.Fatal(err)
	}
	return s
}

// onlyHead reads byte by byte, so that nothing of what follows an answer is read ahead.
type onlyHead struct{ io.Reader }

func (r onlyHead) Read(p []byte) (int, error) { return r.Reader.Read(p[:1]) }

// A frame of the console is bounded, whoever sends it.
func TestAConsoleFrameWithoutAnEndIsCutOff(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	mux := syncing()
	mux.HandleFunc("GET /v1/servers/{id}/console", func(w http.ResponseWriter, r *http.Request) {
		u := websocket.Upgrader{}
		c, err := u.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		// The largest that a node may send: control characters, six bytes each as JSON.
		_ = c.WriteJSON(wire.ConsoleFrame{Lines: []wire.ConsoleLine{{Text: strings.Repeat("\x01", 144<<10)}}})
		out, err := c.NextWriter(websocket.TextMessage)
		if err != nil {
			return
		}
		for err == nil { // until the panel has had enough
			_, err = out.Write(make([]byte, 64<<10))
		}
	})
	w := p.joinWings(t, "node-a", mux)
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return p.Linked(w.NodeID()) })
	c, err := p.Console(t.Context(), w.NodeID(), serverID(1), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, frame, err := c.ReadMessage(); err != nil || len(frame) < 800<<10 {
		t.Fatalf("the largest frame: %d bytes, %v", len(frame), err)
	}
	if _, frame, err := c.ReadMessage(); err == nil || len(frame) > maxConsoleFrame {
		t.Errorf("%d bytes of a frame that never ends, %v", len(frame), err)
	}
}

// What a node opens on its link beyond the hello is closed, not kept.
func TestStreamsThatANodeOpensAreClosed(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	s := p.rawLink(t, m, "A")
	for range 3 {
		stream, err := s.Open()
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = stream.Write([]byte("GET / HTTP/1.1\r\nHost: panel\r\n\r\n"))
		if n, err := io.Copy(io.Discard, stream); n != 0 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
}

// A node that was set up anew numbers everything from the beginning; what it says counts at once.
func TestARebuiltNodeIsNotedBeforeItsFirstWord(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	rebuilt := func() int { return len(told(p.placed, func(p *placements) []string { return p.rebuilt })) }
	p.rawLink(t, m, "first")
	eventually(t, "the spool is noted at the hello", func() bool { return p.node(t, m.id).SpoolID() == "first" })
	before := rebuilt()
	mustIntake(t, p, m.id, "first", 1, crash(1, 1))
	p.rawLink(t, m, "first")
	if rebuilt() != before || p.node(t, m.id).AckedSeq() != 1 {
		t.Error("a node that merely came back counts as rebuilt")
	}
	mustIntake(t, p, m.id, "second", 1, crash(1, 2))
	if rebuilt() != before+1 || p.node(t, m.id).SpoolID() != "second" {
		t.Errorf("a rebuilt node was noted %d times", rebuilt()-before)
	}
}

// Whatever a node invents, an operator reads a page of it and not a book.
func TestInventedReportsAreGathered(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	id, _ := p.addNode(t, "node-a")
	for i := range 70 {
		err := p.book.Open(p.app, incidents.Incident{Kind: "container.unknown", Fingerprint: "container.unknown:" + id + ":" + serverID(i), Severity: "warning", Node: id, Title: "One of many"})
		if err != nil {
			t.Fatal(err)
		}
	}
	rows, total, err := p.book.List(p.app, incidents.Filter{Status: incidents.Opened, Node: id}, 1, 200)
	if err != nil || total != 51 {
		t.Fatalf("%d are open, %v", total, err)
	}
	if n := p.book.count(t, "container.unknown:"+id+":more"); n != 20 {
		t.Errorf("%d of the other 20 were counted", n)
	}
	raw, err := json.Marshal(incidents.View(rows[0]))
	if err != nil || !strings.Contains(string(raw), "More than 50") {
		t.Errorf("the newest says %s", raw)
	}
}
