package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of one server's console.
const (
	ringLines      = 1000
	ringBytes      = 256 << 10
	linesPerSecond = 500  // sustained; what is beyond is dropped with a gap
	linesBurst     = 2000 // at once
	maxViewers     = 500  // of one server
	frameLines     = 256  // in one frame
	frameBytes     = 128 << 10
	journalBytes   = 1 << 20               // then the journal is written anew out of the ring
	unsureSkip     = 1000                  // numbers skipped when the journal's end cannot be read
	maxSeq         = int64(1) << 60        // no console gets there
	flushLines     = 256                   // unwritten lines that are written at once
	crashLines     = 50                    // of the console, kept with a crash
	lineOverhead   = 64                    // bytes counted per line on top of its text
	showAfter      = 20 * time.Millisecond // between two writes of a busy console; a quiet one's line is written at once
	commandsPerSec = 10
	commandsAtOnce = 20
)

// mark is how far the output of one container has been read.
type mark struct {
	Container string    `json:"container,omitempty"`
	At        time.Time `json:"at,omitzero"`
}

// console is one server's output: a ring of numbered lines that any number of viewers read at
// their own pace, and a journal that outlives wings.
//
// Each line read from the engine takes one number, also when the throttle drops it: a hole in the
// numbers is a gap. Viewers are shown what is in the journal and no more, so no number that anybody
// has seen is given again when wings was killed: who comes back with the last one loses and doubles
// none.
type console struct {
	path string
	turn chan struct{} // capacity 1: whoever writes the journal holds it

	mu       sync.Mutex
	lines    []wire.ConsoleLine // in order of Seq, holes are gaps
	bytes    int
	last     int64 // newest number given
	flushed  int64 // newest number in the journal; viewers are told of none above it
	size     int64 // of the journal, bytes
	out      mark
	install  mark
	state    wire.State
	stateRev int
	viewers  map[*Viewer]struct{}
	written  chan struct{} // closed and replaced when flushed rises
	gone     bool          // the server was deleted
	tokens   float64
	tokensAt time.Time
}

// journalEntry is one line of console.jsonl: the lines since the entry before it, and where the
// reading stood after them.
type journalEntry struct {
	Seq     int64              `json:"seq"`
	Out     mark               `json:"out,omitzero"`
	Install mark               `json:"install,omitzero"`
	Lines   []wire.ConsoleLine `json:"lines,omitempty"`
}

// follows says whether the entry can stand behind number last: its numbers rise, up to its own.
func (e *journalEntry) follows(last int64) bool {
	for _, l := range e.Lines {
		if l.Seq <= last {
			return false
		}
		last = l.Seq
	}
	return last <= e.Seq && e.Seq > 0 && e.Seq < maxSeq
}

// openConsole reads the journal back. A damaged end costs a gap, never a doubled number.
func openConsole(path string) (*console, error) {
	c := &console{path: path, turn: make(chan struct{}, 1), viewers: map[*Viewer]struct{}{}, written: make(chan struct{}), tokens: linesBurst, tokensAt: time.Now()}
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read console journal: %w", err)
	}
	for text := range strings.SplitSeq(string(raw), "\n") {
		if text == "" {
			continue
		}
		var e journalEntry
		if json.Unmarshal([]byte(text), &e) != nil || !e.follows(c.last) {
			c.last += unsureSkip
			continue
		}
		c.last, c.out, c.install = e.Seq, e.Out, e.Install
		for _, l := range e.Lines {
			c.push(l)
		}
	}
	c.flushed, c.size = c.last, int64(len(raw))
	return c, nil
}

// push puts a line into the ring and drops the oldest beyond its bounds. mu is held (or c is new).
func (c *console) push(l wire.ConsoleLine) {
	c.lines = append(c.lines, l)
	c.bytes += len(l.Text) + lineOverhead
	drop := 0
	for len(c.lines)-drop > ringLines || c.bytes > ringBytes && len(c.lines)-drop > 1 {
		c.bytes -= len(c.lines[drop].Text) + lineOverhead
		drop++
	}
	if drop > 0 {
		clear(c.lines[:drop]) // let go of the texts; append moves the rest when it next grows
		c.lines = c.lines[drop:]
	}
}

// read takes one line of a container's output. It reports whether enough is unwritten that the
// reader should flush now.
func (c *console) read(stream wire.ConsoleStream, container string, at time.Time, text string) (flushNow bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	m := mark{Container: container, At: at}
	if stream == wire.StreamInstall {
		c.install = m
	} else {
		c.out = m
	}
	if !c.take() {
		return c.last-c.flushed >= flushLines*8
	}
	c.push(wire.ConsoleLine{Seq: c.last, At: at, Stream: stream, Text: cleanLine(text)})
	return c.last-c.flushed >= flushLines
}

// say adds a line that no container wrote: of wings itself, or a command somebody sent. The caller
// flushes. It returns the line's number.
func (c *console) say(stream wire.ConsoleStream, text string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	c.push(wire.ConsoleLine{Seq: c.last, At: time.Now().UTC(), Stream: stream, Text: cleanLine(text)})
	return c.last
}

// ride returns when line seq is written: with the lines that the game says next, or after showAfter
// by itself. A command and its answer reach a viewer in one frame so.
func (c *console) ride(seq int64) error {
	late := time.NewTimer(showAfter)
	defer late.Stop()
	for {
		c.mu.Lock()
		done, next := c.flushed >= seq || c.gone, c.written
		c.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-next:
		case <-late.C:
			return c.flush()
		}
	}
}

// hole marks lines that are lost, how many nobody knows.
func (c *console) hole() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
}

// take says whether one more line fits under the throttle. mu is held.
func (c *console) take() bool {
	now := time.Now()
	c.tokens = min(linesBurst, c.tokens+now.Sub(c.tokensAt).Seconds()*linesPerSecond)
	c.tokensAt = now
	if c.tokens < 1 {
		return false
	}
	c.tokens--
	return true
}

func (c *console) notify() {
	for v := range c.viewers {
		select {
		case v.wake <- struct{}{}:
		default: // it has one to come already
		}
	}
}

func (c *console) readTo(stream wire.ConsoleStream) mark {
	c.mu.Lock()
	defer c.mu.Unlock()
	if stream == wire.StreamInstall {
		return c.install
	}
	return c.out
}

func (c *console) setState(s wire.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == s {
		return
	}
	c.state = s
	c.stateRev++
	c.notify()
}

// tail returns the texts of the newest n lines of a stream that are not older than since.
func (c *console) tail(stream wire.ConsoleStream, n int, since time.Time) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for i := len(c.lines) - 1; i >= 0 && len(out) < n; i-- {
		if l := c.lines[i]; l.Stream == stream && !l.At.Before(since) {
			out = append(out, l.Text)
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// flush appends what is new to the journal and shows it to the viewers. It is not synced to the disk:
// after a power cut the engine's log still has the lines.
func (c *console) flush() error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.mu.Lock()
	if c.flushed == c.last || c.gone {
		c.mu.Unlock()
		return nil
	}
	from := sort.Search(len(c.lines), func(i int) bool { return c.lines[i].Seq > c.flushed })
	anew := c.size > journalBytes // out of the whole ring
	if anew {
		from = 0
	}
	entry := journalEntry{Seq: c.last, Out: c.out, Install: c.install, Lines: append([]wire.ConsoleLine(nil), c.lines[from:]...)}
	c.mu.Unlock()
	n, err := c.write(entry, anew)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.flushed = entry.Seq
	if anew {
		c.size = 0
	}
	c.size += n
	close(c.written)
	c.written = make(chan struct{})
	c.notify()
	c.mu.Unlock()
	return nil
}

func (c *console) write(entry journalEntry, anew bool) (n int64, err error) {
	raw, err := json.Marshal(entry)
	if err != nil {
		return 0, fmt.Errorf("encode console journal: %w", err)
	}
	raw = append(raw, '\n')
	if anew {
		return int64(len(raw)), writeFile(c.path, raw, 0o600)
	}
	f, err := os.OpenFile(c.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return 0, fmt.Errorf("open console journal: %w", err)
	}
	_, err = f.Write(raw)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return 0, fmt.Errorf("append to console journal: %w", err)
	}
	return int64(len(raw)), nil
}

// close ends every viewer; the server is deleted.
func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	close(c.written)
	c.written = make(chan struct{})
	c.notify()
}

func cleanLine(s string) string {
	s = strings.ToValidUTF8(strings.TrimRight(s, "\r\n"), "�")
	if len(s) > wire.MaxConsoleLineBytes {
		s = strings.ToValidUTF8(s[:wire.MaxConsoleLineBytes], "")
	}
	return s
}

// Viewer reads one console at its own pace. The ring is its queue: one that is too slow finds that
// what it had not read is gone, is told so by a gap, and slows nobody. For one goroutine.
type Viewer struct {
	c        *console
	wake     chan struct{} // capacity 1: only that there is something matters
	next     int64         // the number wanted next; 0: whatever is oldest
	live     bool
	lost     bool // its number is one that was never given
	stateRev int
}

// watch adds a viewer that has seen every line up to after; 0 is none.
func (c *console) watch(after int64) (*Viewer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil, ErrUnknown
	}
	if len(c.viewers) >= maxViewers {
		return nil, ErrTooMany
	}
	v := &Viewer{c: c, wake: make(chan struct{}, 1), stateRev: c.stateRev}
	switch {
	case after > c.flushed:
		v.lost = true
	case after > 0:
		v.next = after + 1
	}
	c.viewers[v] = struct{}{}
	return v, nil
}

// Close leaves the console. Calling it again does nothing.
func (v *Viewer) Close() {
	v.c.mu.Lock()
	defer v.c.mu.Unlock()
	delete(v.c.viewers, v)
}

// Next blocks until there is something to show. ErrUnknown: the server was deleted.
func (v *Viewer) Next(ctx context.Context) (wire.ConsoleFrame, error) {
	for {
		if f, ok, err := v.frame(); ok || err != nil {
			return f, err
		}
		select {
		case <-v.wake:
		case <-ctx.Done():
			return wire.ConsoleFrame{}, ctx.Err()
		}
	}
}

func (v *Viewer) frame() (wire.ConsoleFrame, bool, error) {
	c := v.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if v.lost {
		v.lost = false
		return wire.ConsoleFrame{Gap: &wire.ConsoleGap{From: 1}}, true, nil
	}
	i := sort.Search(len(c.lines), func(i int) bool { return c.lines[i].Seq >= v.next })
	end := sort.Search(len(c.lines), func(i int) bool { return c.lines[i].Seq > c.flushed })
	if i < end {
		return v.batch(c.lines[i:end]), true, nil
	}
	switch {
	case v.next > 0 && v.next <= c.flushed:
		gap := &wire.ConsoleGap{From: v.next, To: c.flushed}
		v.next = c.flushed + 1
		return wire.ConsoleFrame{Gap: gap}, true, nil
	case !v.live:
		v.live = true
		v.next = max(v.next, c.flushed+1)
		return wire.ConsoleFrame{Live: true}, true, nil
	case v.stateRev != c.stateRev:
		v.stateRev = c.stateRev
		return wire.ConsoleFrame{State: c.state}, true, nil
	case c.gone:
		return wire.ConsoleFrame{}, false, ErrUnknown
	}
	return wire.ConsoleFrame{}, false, nil
}

// batch takes lines without a hole, or tells of the hole before them. c.mu is held.
func (v *Viewer) batch(lines []wire.ConsoleLine) wire.ConsoleFrame {
	if first := lines[0].Seq; v.next > 0 && first > v.next {
		gap := &wire.ConsoleGap{From: v.next, To: first - 1}
		v.next = first
		return wire.ConsoleFrame{Gap: gap}
	}
	n, size := 0, 0
	for n < len(lines) && n < frameLines && size < frameBytes && (n == 0 || lines[n].Seq == lines[n-1].Seq+1) {
		size += len(lines[n].Text) + lineOverhead
		n++
	}
	v.next = lines[n-1].Seq + 1
	return wire.ConsoleFrame{Lines: append([]wire.ConsoleLine(nil), lines[:n]...)}
}
