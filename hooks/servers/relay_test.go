package servers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/wings/wire"
)

// pulpit is a node whose console says what a test tells it to.
type pulpit struct {
	Nodes
	t    *testing.T
	http *httptest.Server

	mu     sync.Mutex
	opened int               // streams so far
	conns  []*websocket.Conn // open now
	after  []string          // what they asked for
	refuse error
	hold   chan struct{} // Console waits for it
	came   chan struct{} // one for each stream that say reaches
}

func newPulpit(t *testing.T) *pulpit {
	p := &pulpit{t: t, came: make(chan struct{})}
	p.http = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.http.Close)
	t.Cleanup(p.cut)
	return p
}

func (p *pulpit) serve(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.opened++
	p.conns = append(p.conns, c)
	p.after = append(p.after, r.URL.Query().Get("after"))
	p.mu.Unlock()
	p.came <- struct{}{}
	_, _, _ = c.ReadMessage() // until the panel goes: it never types here
	p.mu.Lock()
	p.conns = slices.DeleteFunc(p.conns, func(o *websocket.Conn) bool { return o == c })
	p.mu.Unlock()
	c.Close()
}

// Console implements Nodes.
func (p *pulpit) Console(ctx context.Context, _, server string, after int64) (*websocket.Conn, error) {
	p.mu.Lock()
	refuse, hold := p.refuse, p.hold
	p.mu.Unlock()
	if hold != nil {
		<-hold
	}
	if refuse != nil {
		return nil, refuse
	}
	url := fmt.Sprintf("ws%s/?after=%d", strings.TrimPrefix(p.http.URL, "http"), after)
	c, _, err := websocket.DefaultDialer.DialContext(ctx, url, nil)
	if err == nil {
		<-p.came
	}
	return c, err
}

// say sends a frame on every open stream.
func (p *pulpit) say(f wire.ConsoleFrame) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		must(p.t, c.WriteJSON(f))
	}
}

func (p *pulpit) streams() (opened, open int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened, len(p.conns)
}

// cut ends every stream, as a node that goes away does.
func (p *pulpit) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func linesOf(from, to int64) wire.ConsoleFrame {
	var f wire.ConsoleFrame
	for n := from; n <= to; n++ {
		f.Lines = append(f.Lines, wire.ConsoleLine{Seq: n, Stream: wire.StreamOut, Text: fmt.Sprintf("line %d", n)})
	}
	return f
}

func gapOf(from, to int64) wire.ConsoleFrame {
	return wire.ConsoleFrame{Gap: &wire.ConsoleGap{From: from, To: to}}
}

// told is what a seat has for its viewer until the word: "1-3", "gap 4-5", "live", a state, "over".
func told(t testing.TB, s *seat, until string) (all []string) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		raw, over := s.next()
		switch {
		case raw != nil:
			all = append(all, word(t, raw))
		case over:
			all = append(all, "over")
		default:
			select {
			case <-s.wake:
			case <-limit:
				t.Fatalf("after %v nothing comes, want %s", all, until)
			}
			continue
		}
		if all[len(all)-1] == until {
			return all
		}
		if over && raw == nil {
			t.Fatalf("it is over after %v, want %s", all, until)
		}
	}
}

func word(t testing.TB, raw []byte) string {
	t.Helper()
	var f wire.ConsoleFrame
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	switch {
	case len(f.Lines) > 0:
		return fmt.Sprintf("%d-%d", f.Lines[0].Seq, f.Lines[len(f.Lines)-1].Seq)
	case f.Gap != nil:
		return fmt.Sprintf("gap %d-%d", f.Gap.From, f.Gap.To)
	case f.Live:
		return "live"
	}
	return string(f.State)
}

func TestManyViewersShareOneStreamThatEndsWithTheLast(t *testing.T) {
	t.Parallel()
	p := newPulpit(t)
	rs := newRelays(t.Context(), p)
	var seats []*seat
	for range 50 {
		seats = append(seats, must2(rs.join(t.Context(), "n", "s", 0))(t))
	}
	other := must2(rs.join(t.Context(), "n", "other", 0))(t)
	p.say(linesOf(1, 3))
	p.say(wire.ConsoleFrame{Live: true})
	p.say(linesOf(4, 4))
	for i, s := range seats {
		if got := strings.Join(told(t, s, "4-4"), " "); got != "1-3 live 4-4" && got != "1-3 4-4 live" && got != "1-3 4-4" {
			t.Errorf("viewer %d is told %s", i, got)
		}
	}
	if opened, open := p.streams(); opened != 2 || open != 2 {
		t.Errorf("51 viewers of two servers have %d streams of %d", open, opened)
	}
	for _, s := range seats {
		s.leave()
	}
	eventually(t, 10*time.Second, "the stream of the first server ends", func() bool { _, open := p.streams(); return open == 1 })
	again := must2(rs.join(t.Context(), "n", "s", 0))(t)
	if opened, _ := p.streams(); opened != 3 {
		t.Errorf("who comes after the last opens %d streams in all, want a third", opened)
	}
	again.leave()
	other.leave()
	if len(rs.open) != 0 {
		t.Errorf("%d relays are left", len(rs.open))
	}
}

func TestALateViewerIsToldWhatItDoesNotHave(t *testing.T) {
	t.Parallel()
	history := []wire.ConsoleFrame{linesOf(5, 10), gapOf(11, 14), linesOf(15, 20), {State: wire.StateStopped}, {Live: true}}
	for name, c := range map[string]struct {
		after int64
		want  string
	}{
		"with nothing, all of it":                         {0, "5-10 gap 11-14 15-20 live"},
		"with the middle of a frame, the rest":            {7, "8-10 gap 11-14 15-20 live"},
		"with the middle of a gap, its rest":              {12, "gap 13-14 15-20 live"},
		"with everything, nothing":                        {20, "live"},
		"with what is not kept any more, a gap first":     {2, "gap 3-4 5-10 gap 11-14 15-20 live"},
		"with what comes right before, no gap":            {4, "5-10 gap 11-14 15-20 live"},
		"with a number that was never given, all and why": {99, "gap 1-0 5-10 gap 11-14 15-20 live"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &relay{seats: map[*seat]struct{}{}}
			early := r.sit(nil, c.after)
			if raw, _ := early.next(); raw != nil {
				t.Errorf("before anything came it is told %s", raw)
			}
			for _, f := range history {
				r.add(frameOf(f), &f)
			}
			if got := strings.Join(told(t, r.sit(nil, c.after), "live"), " "); got != c.want {
				t.Errorf("told %s, want %s", got, c.want)
			}
			if got := strings.Join(told(t, early, string(wire.StateStopped)), " "); got != c.want+" "+string(wire.StateStopped) {
				t.Errorf("who was there before is told %s, want %s and the new state", got, c.want)
			}
		})
	}
}

func TestASlowViewerOfARelayIsToldOfItsGapAndSlowsNobody(t *testing.T) {
	t.Parallel()
	r := &relay{live: true, seats: map[*seat]struct{}{}}
	slow, fast := r.sit(nil, 0), r.sit(nil, 0)
	add := func(f wire.ConsoleFrame) { r.add(frameOf(f), &f) }
	add(linesOf(1, 1))
	told(t, slow, "1-1")
	for n := int64(2); n <= 5000; n++ { // the fast one reads along, the slow one does not
		add(linesOf(n, n))
		told(t, fast, fmt.Sprintf("%d-%d", n, n))
	}
	add(wire.ConsoleFrame{State: wire.StateStopped})
	got := told(t, slow, string(wire.StateStopped))
	if got[0] != "live" && got[0] != fmt.Sprintf("gap 2-%d", 5000-relayLines) || len(got) != relayLines+3 && len(got) != relayLines+2 {
		t.Errorf("the slow one is told %d times, first %v", len(got), got[:3])
	}
	long := linesOf(5001, 5001)
	long.Lines[0].Text = strings.Repeat("x", 16<<10)
	for range 200 {
		long.Lines[0].Seq++
		add(long)
	}
	if r.bytes > relayBytes || r.lines > relayLines || len(r.frames) > relayBytes/(16<<10) {
		t.Errorf("it keeps %d bytes in %d frames", r.bytes, len(r.frames))
	}
}

func TestARelayThatIsRefusedOrBreaksEndsForAll(t *testing.T) {
	t.Parallel()
	p := newPulpit(t)
	p.refuse, p.hold = fleet.ErrNodeOffline, make(chan struct{})
	rs := newRelays(t.Context(), p)
	errs := make(chan error)
	for range 5 {
		go func() {
			_, err := rs.join(context.Background(), "n", "s", 0)
			errs <- err
		}()
	}
	eventually(t, 10*time.Second, "all wait for the node", func() bool {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		r := rs.open[relayKey{"n", "s"}]
		return r != nil && r.users == 5
	})
	close(p.hold)
	for range 5 {
		if err := <-errs; !errors.Is(err, fleet.ErrNodeOffline) {
			t.Errorf("a viewer is answered %v", err)
		}
	}
	p.mu.Lock()
	p.refuse, p.hold = nil, nil
	p.mu.Unlock()
	s := must2(rs.join(t.Context(), "n", "s", 0))(t)
	p.say(linesOf(1, 2))
	told(t, s, "1-2")
	p.cut()
	told(t, s, "over")
	next := must2(rs.join(t.Context(), "n", "s", 2))(t)
	if opened, _ := p.streams(); opened != 2 {
		t.Errorf("after a break %d streams were opened, want a second", opened)
	}
	s.leave()
	p.say(linesOf(1, 2))
	p.say(wire.ConsoleFrame{Live: true})
	told(t, next, "live")
	next.leave()
}

func TestWhoGivesUpWhileTheNodeIsAskedLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	p := newPulpit(t)
	p.hold = make(chan struct{})
	rs := newRelays(t.Context(), p)
	first := make(chan *seat)
	go func() { // asks on behalf of all
		s, err := rs.join(context.Background(), "n", "s", 0)
		if err != nil {
			t.Error(err)
		}
		first <- s
	}()
	eventually(t, 10*time.Second, "the node is asked", func() bool { rs.mu.Lock(); defer rs.mu.Unlock(); return len(rs.open) == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := rs.join(ctx, "n", "s", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a viewer that went is answered %v", err)
	}
	close(p.hold)
	s := <-first
	if s.r.users != 1 {
		t.Errorf("%d are counted", s.r.users)
	}
	s.leave()
}

func TestViewersOfOneServerAreBounded(t *testing.T) {
	t.Parallel()
	p := newPulpit(t)
	rs := newRelays(t.Context(), p)
	var seats []*seat
	for range relayViewers {
		seats = append(seats, must2(rs.join(t.Context(), "n", "s", 0))(t))
	}
	if _, err := rs.join(t.Context(), "n", "s", 0); !errors.Is(err, errCrowded) {
		t.Errorf("one too many is answered %v", err)
	}
	for _, s := range seats {
		s.leave()
	}
}

func TestWhatIsNoFrameEndsARelay(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]string{"no JSON": "hello", "too much": `{"lines":[{"seq":1,"text":"` + strings.Repeat("x", relayFrame) + `"}]}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPulpit(t)
			s := must2(newRelays(t.Context(), p).join(t.Context(), "n", "s", 0))(t)
			defer s.leave()
			p.mu.Lock()
			_ = p.conns[0].WriteMessage(websocket.TextMessage, []byte(raw)) // the panel may cut it in the middle
			p.mu.Unlock()
			told(t, s, "over")
		})
	}
}

// TestNoViewerOfARelayLosesOrDoublesALine plays a node's console, and viewers that come, read, stay
// away and come back with the last number that they have.
func TestNoViewerOfARelayLosesOrDoublesALine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		r := &relay{seats: map[*seat]struct{}{}}
		add := func(f wire.ConsoleFrame) { r.add(frameOf(f), &f) }
		last := rapid.Int64Range(0, 5).Draw(rt, "first")
		var viewers [3]struct {
			*seat
			have  int64
			fresh bool
		}
		for i := range viewers {
			viewers[i].seat, viewers[i].fresh = r.sit(nil, 0), true
		}
		read := func(i, most int) {
			v := &viewers[i]
			for range most {
				raw, _ := v.next()
				if raw == nil {
					return
				}
				var f wire.ConsoleFrame
				must(t, json.Unmarshal(raw, &f))
				var from, to int64
				switch {
				case len(f.Lines) > 0:
					from, to = f.Lines[0].Seq, f.Lines[len(f.Lines)-1].Seq
				case f.Gap != nil:
					from, to = f.Gap.From, f.Gap.To
				default:
					continue
				}
				if from != v.have+1 && !v.fresh || to < from {
					rt.Fatalf("viewer %d has %d and is told %s", i, v.have, word(t, raw))
				}
				v.have, v.fresh = to, false
			}
		}
		for range rapid.IntRange(1, 60).Draw(rt, "moments") {
			switch rapid.SampledFrom([]string{"lines", "lines", "flood", "hole", "live", "read", "read", "back"}).Draw(rt, "moment") {
			case "lines":
				n := rapid.Int64Range(1, 40).Draw(rt, "lines")
				add(linesOf(last+1, last+n))
				last += n
			case "flood":
				for range 6 {
					add(linesOf(last+1, last+200))
					last += 200
				}
			case "hole":
				if last > 0 {
					n := rapid.Int64Range(1, 40).Draw(rt, "missing")
					add(gapOf(last+1, last+n))
					last += n
				}
			case "live":
				add(wire.ConsoleFrame{Live: true})
			case "read":
				read(rapid.IntRange(0, 2).Draw(rt, "viewer"), rapid.IntRange(1, 20).Draw(rt, "frames"))
			case "back":
				v := &viewers[rapid.IntRange(0, 2).Draw(rt, "viewer")]
				v.seat = r.sit(nil, v.have)
			}
		}
		add(wire.ConsoleFrame{Live: true})
		for i := range viewers {
			// who has seen nothing is not owed the gaps from before it came
			if read(i, 1<<20); viewers[i].have != r.last && !(viewers[i].fresh && r.lines == 0) {
				rt.Fatalf("viewer %d ends with %d of %d", i, viewers[i].have, r.last)
			}
		}
	})
}
