//go:build bench

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mambahost/mamba/wings/wire"
)

// A mark is a text that finds a message again at each receiver.
const (
	markPrefix = "mark-"
	markLength = len(markPrefix) + 8
)

// markIn finds the mark in a text; empty when there is none.
func markIn(text string) string {
	i := strings.Index(text, markPrefix)
	if i < 0 || i+markLength > len(text) {
		return ""
	}
	return text[i : i+markLength]
}

// arrival is one message at one receiver.
type arrival struct {
	mark    string
	stamped time.Time // by the source; zero where it does not stamp
	at      time.Time
}

// fan is a source and its receivers.
type fan struct {
	t       testing.TB
	send    func(mark string) error // called one at a time
	got     chan arrival            // from all receivers
	size    int                     // receivers
	counter int                     // marks so far
}

// roundWait is how long messages of a round may take.
const roundWait = 20 * time.Second

// latencies of a round in milliseconds, since sending and since the source's stamp.
type latencies struct {
	sent, stamped []float64
	lost          int
}

// round sends n messages at a fixed pace, whatever happens to those before, and waits for all.
func (f *fan) round(n int, pace time.Duration) latencies {
	f.t.Helper()
	due, want := map[string]time.Time{}, n*f.size
	var marks []string
	for range n {
		f.counter++
		marks = append(marks, fmt.Sprintf("%s%08d", markPrefix, f.counter))
	}
	began := time.Now()
	for i, m := range marks {
		due[m] = began.Add(time.Duration(i) * pace) // latency counts from when it was due, not from when we got to it
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for _, m := range marks {
			waitUntil(due[m])
			if err := f.send(m); err != nil {
				f.t.Errorf("send %s: %v", m, err)
				return
			}
		}
	})
	var out latencies
	limit := time.After(time.Duration(n)*pace + roundWait)
	for got := 0; got < want; {
		select {
		case a := <-f.got:
			since, ours := due[a.mark]
			if !ours {
				continue // of a round that was given up
			}
			got++
			out.sent = append(out.sent, milliseconds(a.at.Sub(since)))
			if !a.stamped.IsZero() {
				out.stamped = append(out.stamped, milliseconds(a.at.Sub(a.stamped)))
			}
		case <-limit:
			out.lost = want - got
			return out
		}
	}
	return out
}

func waitUntil(at time.Time) {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	<-timer.C
}

// compared is what rounds of two fans gave, in milliseconds.
type compared struct {
	medians, tails pairs // per round
	floor, ours    []float64
	lost           int
}

// compareFans measures two fans in turn. pick says which of the latencies count.
func compareFans(n int, pace time.Duration, floor, ours *fan, pick func(latencies) []float64) (out compared) {
	floor.round(1, pace) // warm both
	ours.round(1, pace)
	side := func(f *fan, all *[]float64, p50, p99 *[]float64) {
		l := f.round(n, pace)
		out.lost += l.lost
		values := pick(l)
		a, b := spread(values)
		*all, *p50, *p99 = append(*all, values...), append(*p50, a), append(*p99, b)
	}
	for range *benchPairs {
		side(floor, &out.floor, &out.medians.floor, &out.tails.floor)
		side(ours, &out.ours, &out.medians.ours, &out.tails.ours)
	}
	return out
}

func percentiles(values []float64) string {
	if len(values) == 0 {
		return "none"
	}
	p50, p99 := spread(values)
	return fmt.Sprintf("%.1f / %.1f ms", p50, p99)
}

// dialViewer opens one console of a server. each is called for every frame, on one goroutine.
func (c *client) dialViewer(id string, each func(wire.ConsoleFrame, time.Time)) (*websocket.Conn, error) {
	var token struct{ Token string }
	a, err := c.try("POST", "/api/v1/servers/"+id+"/console/token", map[string]any{})
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(a.raw, &token); err != nil || a.status != http.StatusOK {
		return nil, fmt.Errorf("console token: %d %s", a.status, a.raw)
	}
	d := websocket.Dialer{Subprotocols: []string{"mamba.v1", "bearer." + token.Token}, HandshakeTimeout: 10 * time.Second}
	return dialFrames(c.t, d, "ws"+strings.TrimPrefix(c.url, "http")+"/api/v1/servers/"+id+"/console/ws", each)
}

func dialFrames(t testing.TB, d websocket.Dialer, url string, each func(wire.ConsoleFrame, time.Time)) (*websocket.Conn, error) {
	ws, resp, err := d.Dial(url, nil)
	if resp != nil {
		resp.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() { // ended by Close
		defer close(done)
		for {
			_, raw, err := ws.ReadMessage()
			at := time.Now()
			var frame wire.ConsoleFrame
			if err != nil || json.Unmarshal(raw, &frame) != nil {
				return
			}
			each(frame, at)
		}
	}()
	t.Cleanup(func() { ws.Close(); <-done })
	return ws, nil
}

// marked hands every marked line of a game to got.
func marked(got chan<- arrival) func(wire.ConsoleFrame, time.Time) {
	return func(f wire.ConsoleFrame, at time.Time) {
		for _, l := range f.Lines {
			if m := markIn(l.Text); m != "" && l.Stream == wire.StreamOut {
				got <- arrival{m, l.At, at}
			}
		}
	}
}

// consolePace is how often a line is typed; the panel takes ten a second of one viewer.
const consolePace = 200 * time.Millisecond

// benchConsole: a line of a game at all viewers of its console, beside a bare fan-out.
func benchConsole(t *testing.T, r *report, size sizes) {
	people, s := runningDemo(t, "vera", (size.viewers+viewersEach-1)/viewersEach)
	defer people[0].remove(s.ID)
	ours := &fan{t: t, got: make(chan arrival, 4*size.viewers*size.messages)}
	var typist *websocket.Conn
	var refused error
	for i := range size.viewers {
		c := people[(i+1)%len(people)] // all of them may type
		ws, err := c.dialViewer(s.ID, marked(ours.got))
		if err != nil {
			refused = err
			break
		}
		typist = ws
		ours.size++
	}
	ours.send = func(mark string) error { return typist.WriteJSON(wire.ConsoleInput{Command: "say " + mark}) }
	floor := bareFan(t, ours.size, cap(ours.got))

	printed := compareFans(size.messages, consolePace, floor, ours, func(l latencies) []float64 { return l.stamped })
	_, p99 := spread(printed.ours)
	whole := ours.size == size.viewers && printed.lost == 0
	what := fmt.Sprintf("Console line, as stamped by the engine → each of %d viewers, p50 / p99", ours.size)
	r.row(what+": ratio of p50", percentiles(printed.floor), percentiles(printed.ours), times(printed.medians.ratio()), "≤ 1.5 ×", whole && printed.medians.ratio().median <= 1.5)
	r.row(what+": ratio of p99", percentiles(printed.floor), percentiles(printed.ours), times(printed.tails.ratio()), "≤ 1.5 ×; p99 ≤ 100 ms", whole && printed.tails.ratio().median <= 1.5 && p99 <= 100)

	typed := compareFans(size.messages, consolePace, floor, ours, func(l latencies) []float64 { return l.sent })
	_, p99 = spread(typed.ours)
	r.row(fmt.Sprintf("Typed command (checked, audited, through the game) → each of %d viewers, p50 / p99", ours.size),
		percentiles(typed.floor), percentiles(typed.ours), times(typed.medians.ratio()), "p99 ≤ 100 ms", ours.size == size.viewers && typed.lost == 0 && p99 <= 100)
	if refused != nil {
		r.note("Console: only %d of %d viewers were let in; the next one was refused with %q. The rows count as not met.", ours.size, size.viewers, refused)
	}
	r.note("Console: %d lines did not arrive. The floor is another process that hands the same frame to as many WebSockets, without TLS, node, engine and permission.", printed.lost+typed.lost)
}

// viewersEach is how many consoles one person opens; the panel lets 30 in.
const viewersEach = 25

// runningDemo is a panel with its node and one running server, its owner, and support staff of the
// same organisation, people in all. The caller removes the server.
func runningDemo(t *testing.T, name string, people int) ([]*client, server) {
	t.Helper()
	house := newPanel(t, "--local-node", "--node-ports", portRange(t, 5))
	house.start()
	all := []*client{house.customer(name)}
	for i := range people - 1 {
		all = append(all, house.colleague(all[0], fmt.Sprintf("%s%d", name, i)))
	}
	s := all[0].create(demoServer("talkative"))
	return all, all[0].until(s.ID, 2*time.Minute, "RUNNING")
}

// inviteLink is in the mail of an invitation.
var inviteLink = regexp.MustCompile(`/invite#id=([a-z0-9]+)&(?:amp;)?token=([A-Za-z0-9_-]+)`)

// colleague is one more person in a customer's organisation, with the role SUPPORT. An operator makes the account:
// one network makes three in an hour.
func (p *panel) colleague(owner *client, name string) *client {
	p.t.Helper()
	email, password := name+"@example.org", "a-long-password"
	p.super().ok("POST", "/api/collections/users/records", map[string]any{"email": email, "password": password, "passwordConfirm": password, "name": name, "verified": true}, nil)
	owner.ok("POST", "/api/v1/tenants/"+owner.tenant+"/members/invite", map[string]string{"email": email, "role": "SUPPORT"}, nil)
	var link []string
	eventually(p.t, 30*time.Second, "the invitation of "+name, func() error {
		for _, m := range p.mail.To(email) {
			if link = inviteLink.FindStringSubmatch(m.HTML); link != nil {
				return nil
			}
		}
		return errors.New("no mail yet")
	})
	c := p.signIn("users", email, password)
	c.ok("POST", "/api/v1/invites/"+link[1]+"/accept", map[string]string{"token": link[2]}, nil)
	c.tenant = owner.tenant
	return c
}

// bareFan is the floor: as many viewers of a bare fan-out in a process of its own.
func bareFan(t *testing.T, viewers, queue int) *fan {
	t.Helper()
	addr := freeAddr(t)
	p := launch(t, addr, tool(t, "barews"), addr)
	f := &fan{t: t, got: make(chan arrival, queue), size: viewers}
	for range viewers {
		_, err := dialFrames(t, websocket.Dialer{HandshakeTimeout: 10 * time.Second}, "ws://"+addr+"/ws", marked(f.got))
		must(t, err)
	}
	source := &client{t: t, url: p.url}
	f.send = func(mark string) error {
		a, err := source.try("POST", "/line", wire.ConsoleInput{Command: "[server] " + mark})
		if err == nil && a.status != http.StatusNoContent {
			err = fmt.Errorf("%d %s", a.status, a.raw)
		}
		return err
	}
	return f
}

// tally follows the numbers of one viewer's lines.
type tally struct {
	mu        sync.Mutex
	next      int64 // wanted next; 0 before the first
	lines     int64 // of the flood
	announced int64 // numbers in gaps
	silent    int64 // numbers that were left out without a word
	first     time.Time
	last      time.Time
	ended     bool // the line after the flood was seen
}

func (c *tally) frame(f wire.ConsoleFrame, _ time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	skip := func(from int64) {
		if c.next > 0 && from > c.next {
			c.silent += from - c.next
		}
	}
	if f.Gap != nil {
		skip(f.Gap.From)
		c.announced += max(f.Gap.To-f.Gap.From+1, 0)
		c.next = f.Gap.To + 1
	}
	for _, l := range f.Lines {
		skip(l.Seq)
		c.next = l.Seq + 1
		if strings.HasPrefix(l.Text, "flood ") && l.Stream == wire.StreamOut {
			if c.lines++; c.first.IsZero() {
				c.first = l.At
			}
			c.last = l.At
		}
		c.ended = c.ended || markIn(l.Text) != "" && l.Stream == wire.StreamOut
	}
}

// floodViewers watch a flood; floodRate is what it should at least print, in lines a second.
const (
	floodViewers = 10
	floodRate    = 10_000
)

// benchFlood: a game that prints as fast as it can. Each line arrives, or a gap says that it does not.
func benchFlood(t *testing.T, r *report, size sizes) {
	people, s := runningDemo(t, "noah", 1)
	c := people[0]
	defer c.remove(s.ID)
	viewers := make([]*tally, floodViewers)
	var typist *websocket.Conn
	for i := range viewers {
		viewers[i] = &tally{}
		ws, err := c.dialViewer(s.ID, viewers[i].frame)
		must(t, err)
		typist = ws
	}
	began := time.Now()
	must(t, typist.WriteJSON(wire.ConsoleInput{Command: fmt.Sprintf("flood %d", size.flood)}))
	again := time.Time{}
	eventually(t, 2*time.Minute, "every viewer sees the end", func() error {
		if time.Since(again) > 500*time.Millisecond { // the mark itself may fall into a gap
			again = time.Now()
			must(t, typist.WriteJSON(wire.ConsoleInput{Command: "say " + markPrefix + "00000000"}))
		}
		for i, v := range viewers {
			v.mu.Lock()
			ended := v.ended
			v.mu.Unlock()
			if !ended {
				return fmt.Errorf("viewer %d does not", i)
			}
		}
		return nil
	})
	r.floodRow(viewers, size.flood, time.Since(began))
}

func (r *report) floodRow(viewers []*tally, printed int, whole time.Duration) {
	var silent, unaccounted int64
	var lines, announced, rates []float64
	for _, v := range viewers {
		v.mu.Lock()
		silent += v.silent
		unaccounted += max(int64(printed)-v.lines-v.announced, 0)
		lines, announced = append(lines, float64(v.lines)), append(announced, float64(v.announced))
		rates = append(rates, float64(printed)/v.last.Sub(v.first).Seconds())
		v.mu.Unlock()
	}
	slices.Sort(rates)
	r.row(fmt.Sprintf("A flood of %d lines at %d viewers", printed, len(viewers)), "—",
		fmt.Sprintf("%.0f lines/s; per viewer %.0f lines and %.0f announced as gaps; %d missing without a word", rates[0], medianOf(lines), medianOf(announced), silent+unaccounted),
		"—", "10,000 lines/s, every gap announced", silent+unaccounted == 0 && rates[0] >= floodRate)
	r.note("Flood: the rate is that of the engine's stamps of the first and last line seen. Wings keeps 500 lines a second of a server after a burst of 2,000; all viewers had the end after %.1f s.", whole.Seconds())
}
