package servers

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of one relay.
const (
	relayLines   = 1000             // kept for who comes later: as many as the node keeps
	relayBytes   = 512 << 10        // of frames
	relayFrame   = 2 << 20          // one frame of a node: 128 KiB of text, every byte escaped
	relayViewers = 500              // of one server
	relayOpening = 15 * time.Second // for the node to answer
)

var errCrowded = access.Unavailable("too_many_consoles", "Too many people have this console open. Try again in a minute.")

// relays are the consoles that somebody on this panel watches. Each is one stream from its node,
// however many watch it: it opens with the first viewer and ends with the last.
type relays struct {
	ctx   context.Context // ends with the room
	nodes Nodes

	mu   sync.Mutex
	open map[relayKey]*relay // guarded by mu
}

type relayKey struct{ node, server string }

func newRelays(ctx context.Context, n Nodes) *relays {
	return &relays{ctx: ctx, nodes: n, open: map[relayKey]*relay{}}
}

// relay is one server's console as this panel has it: the newest frames, which any number of viewers
// read at their own pace. A frame is encoded once, by the node.
type relay struct {
	key      relayKey
	answered chan struct{}   // closed when the node has answered: conn or refused is set then
	conn     *websocket.Conn // of the node; nobody writes to it
	refused  error
	done     chan struct{} // closed when nothing comes any more
	users    int           // who sits, or waits for the answer; guarded by relays.mu

	mu       sync.Mutex
	frames   []relayed // lines and gaps, in order
	first    int64     // how many were dropped: the place of frames[0]
	lines    int
	bytes    int
	last     int64 // newest number that came
	live     bool  // the node's history is over
	state    []byte
	stateRev int
	over     bool
	seats    map[*seat]struct{}
}

// relayed is a frame with the numbers of its lines, or of its gap.
type relayed struct {
	from, to int64
	lines    int // 0: a gap
	raw      []byte
}

// join opens the console of a server for a viewer that has every line up to after; 0 is none. Errors
// are those of Nodes.Console. The caller calls leave.
func (rs *relays) join(ctx context.Context, node, server string, after int64) (*seat, error) {
	key := relayKey{node, server}
	rs.mu.Lock()
	r, mine := rs.open[key], false
	if r == nil {
		mine = true
		r = &relay{key: key, answered: make(chan struct{}), done: make(chan struct{}), seats: map[*seat]struct{}{}}
		rs.open[key] = r
	}
	if r.users >= relayViewers {
		rs.mu.Unlock()
		return nil, errCrowded
	}
	r.users++
	rs.mu.Unlock()
	if mine {
		rs.ask(r)
	}
	select {
	case <-r.answered:
	case <-ctx.Done():
		rs.leave(r)
		return nil, ctx.Err()
	}
	if r.refused != nil {
		rs.leave(r)
		return nil, r.refused
	}
	return r.sit(rs, after), nil
}

// ask opens the stream of a new relay. Others wait for it, whether or not its first viewer goes.
func (rs *relays) ask(r *relay) {
	ctx, cancel := context.WithTimeout(rs.ctx, relayOpening)
	defer cancel()
	conn, err := rs.nodes.Console(ctx, r.key.node, r.key.server, 0)
	if err != nil {
		r.refused = err
		rs.forget(r)
		close(r.done)
		close(r.answered)
		return
	}
	conn.SetReadLimit(relayFrame)
	r.conn = conn
	go func() { // ended and waited for by leave
		defer close(r.done)
		r.pump()
		rs.forget(r) // who comes now asks the node again
		conn.Close()
	}()
	close(r.answered)
}

func (rs *relays) forget(r *relay) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.open[r.key] == r {
		delete(rs.open, r.key)
	}
}

// leave ends the relay when nobody is left.
func (rs *relays) leave(r *relay) {
	rs.mu.Lock()
	r.users--
	last := r.users == 0
	if last && rs.open[r.key] == r {
		delete(rs.open, r.key)
	}
	rs.mu.Unlock()
	if last {
		<-r.answered
		if r.conn != nil {
			r.conn.Close()
		}
		<-r.done
	}
}

// pump takes the node's frames until the stream ends.
func (r *relay) pump() {
	for {
		_, raw, err := r.conn.ReadMessage()
		var f wire.ConsoleFrame
		if err == nil {
			err = json.Unmarshal(raw, &f)
		}
		r.mu.Lock()
		if err != nil {
			r.over = true
		} else {
			r.add(raw, &f)
		}
		for s := range r.seats {
			select {
			case s.wake <- struct{}{}:
			default: // it has one to come already
			}
		}
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// add keeps a frame and drops the oldest beyond the bounds. mu is held.
func (r *relay) add(raw []byte, f *wire.ConsoleFrame) {
	switch {
	case len(f.Lines) > 0:
		r.keep(relayed{f.Lines[0].Seq, f.Lines[len(f.Lines)-1].Seq, len(f.Lines), raw})
	case f.Gap != nil:
		r.keep(relayed{f.Gap.From, f.Gap.To, 0, raw})
	case f.State != "":
		r.state = raw
		r.stateRev++
	case f.Live:
		r.live = true
	}
}

func (r *relay) keep(f relayed) {
	r.frames = append(r.frames, f)
	r.last = max(r.last, f.to)
	r.lines += f.lines
	r.bytes += len(f.raw)
	drop := 0
	for len(r.frames)-drop > 1 && (r.lines > relayLines || r.bytes > relayBytes) {
		r.lines -= r.frames[drop].lines
		r.bytes -= len(r.frames[drop].raw)
		drop++
	}
	clear(r.frames[:drop]) // let go of what they hold; append moves the rest when it next grows
	r.frames = r.frames[drop:]
	r.first += int64(drop)
}

func (r *relay) sit(rs *relays, after int64) *seat {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &seat{r: r, rs: rs, wake: make(chan struct{}, 1), seen: after, unsure: after > 0, stateRev: r.stateRev}
	r.seats[s] = struct{}{}
	return s
}

// seat is one viewer's place in a relay. What the relay keeps is its queue: a viewer that is too slow
// finds that what it had not read is gone, is told so by a gap, and slows nobody. For one goroutine.
type seat struct {
	r    *relay
	rs   *relays
	wake chan struct{} // capacity 1: only that there is something matters

	place    int64 // of the next frame
	seen     int64 // newest number that the viewer has, also as a gap; 0: none
	unsure   bool  // seen is what the viewer says, not compared yet
	live     bool
	stateRev int
}

// leave gives the seat back. It is called once.
func (s *seat) leave() {
	s.r.mu.Lock()
	delete(s.r.seats, s)
	s.r.mu.Unlock()
	s.rs.leave(s.r)
}

var liveFrame = []byte(`{"live":true}`) // a literal, because encoding it would be a part of every start

func frameOf(f wire.ConsoleFrame) []byte {
	raw, err := json.Marshal(f)
	if err != nil {
		panic(err) // strings, numbers and times
	}
	return raw
}

// next returns the frame that the viewer is to see, nil while there is none; over says that none
// will come.
func (s *seat) next() (frame []byte, over bool) {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.unsure && r.live {
		s.unsure = false
		if s.seen > r.last { // a number that was never given
			s.seen = 0
			return frameOf(wire.ConsoleFrame{Gap: &wire.ConsoleGap{From: 1}}), false
		}
	}
	for s.place = max(s.place, r.first); !s.unsure && s.place < r.first+int64(len(r.frames)); {
		if frame = s.show(&r.frames[s.place-r.first]); frame != nil {
			return frame, false
		}
	}
	switch {
	case r.live && !s.live:
		s.live = true
		return liveFrame, false
	case s.live && s.stateRev != r.stateRev:
		s.stateRev = r.stateRev
		return r.state, false
	}
	return nil, r.over
}

// show returns what of a frame the viewer does not have, or the gap before it; it moves on behind what
// it has dealt with. The relay's mu is held.
func (s *seat) show(f *relayed) []byte {
	missing := f.from > s.seen+1
	fresh := s.seen == 0 // it is owed nothing that came before
	if f.lines > 0 && missing && !fresh {
		gap := wire.ConsoleGap{From: s.seen + 1, To: f.from - 1}
		s.seen = gap.To
		return frameOf(wire.ConsoleFrame{Gap: &gap})
	}
	s.place++
	if f.to <= s.seen {
		return nil
	}
	from := s.seen + 1
	s.seen = f.to
	switch {
	case f.lines > 0 && (fresh || f.from >= from):
		return f.raw
	case f.lines > 0:
		return behind(f.raw, from)
	case fresh:
		return nil
	}
	return frameOf(wire.ConsoleFrame{Gap: &wire.ConsoleGap{From: from, To: f.to}})
}

// behind is a frame of lines without those before number from.
func behind(raw []byte, from int64) []byte {
	var f wire.ConsoleFrame
	if json.Unmarshal(raw, &f) != nil {
		return raw // it was decoded before: never
	}
	for len(f.Lines) > 1 && f.Lines[0].Seq < from {
		f.Lines = f.Lines[1:]
	}
	return frameOf(f)
}
