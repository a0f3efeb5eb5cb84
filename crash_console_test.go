package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mambahost/mamba/wings/wire"
)

// history returns the lines that the node still has of a console.
func (c *client) history(id string) (lines []wire.ConsoleLine) {
	c.t.Helper()
	ws := c.dialConsole(id, 0)
	defer ws.Close()
	must(c.t, ws.SetReadDeadline(time.Now().Add(30*time.Second)))
	for {
		var f wire.ConsoleFrame
		must(c.t, ws.ReadJSON(&f))
		lines = append(lines, f.Lines...)
		if f.Live {
			return lines
		}
	}
}

// dialConsole opens the console behind a line, and tries again while the node is away.
func (c *client) dialConsole(id string, after int64) (ws *websocket.Conn) {
	c.t.Helper()
	eventually(c.t, patience, "the console opens", func() error {
		a, err := c.try("POST", "/api/v1/servers/"+id+"/console/token", map[string]any{})
		if err != nil || a.status != 200 {
			return fmt.Errorf("token: %d %s %w", a.status, a.raw, err)
		}
		var token struct{ Token string }
		a.into(c.t, &token)
		d := websocket.Dialer{Subprotocols: []string{"mamba.v1", "bearer." + token.Token}, HandshakeTimeout: 10 * time.Second}
		ws, _, err = d.Dial(fmt.Sprintf("ws%s/api/v1/servers/%s/console/ws?after=%d", strings.TrimPrefix(c.url, "http"), id, after), nil)
		return err
	})
	return ws
}

// reel is what a viewer has of a console who comes back after every break with the last line he has.
type reel struct {
	c      *client
	server string
	last   int64
	lines  map[int64]string
	gaps   []wire.ConsoleGap
	breaks int
}

// until reads until a line of the game is text, reconnecting when the console breaks. ask is sent on
// every connection and every second until then: what is typed while wings is away is lost, as the
// error frame says.
func (v *reel) until(text, ask string) {
	v.c.t.Helper()
	eventually(v.c.t, patience, "the line "+text, func() error {
		ws := v.c.dialConsole(v.server, v.last)
		defer ws.Close()
		_ = ws.WriteJSON(wire.ConsoleInput{Command: ask})
		for {
			_ = ws.SetReadDeadline(time.Now().Add(2 * time.Second))
			var f wire.ConsoleFrame
			if err := ws.ReadJSON(&f); err != nil {
				v.breaks++
				return err
			}
			if v.take(f, text) {
				return nil
			}
		}
	})
}

// follow reads on one connection until it breaks.
func (v *reel) follow() {
	v.c.t.Helper()
	ws := v.c.dialConsole(v.server, v.last)
	defer ws.Close()
	_ = ws.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		var f wire.ConsoleFrame
		if err := ws.ReadJSON(&f); err != nil {
			v.breaks++
			return
		}
		v.take(f, "")
	}
}

// take stores a frame. A number that comes twice, or goes back, is a doubled line.
func (v *reel) take(f wire.ConsoleFrame, text string) (found bool) {
	v.c.t.Helper()
	if f.Gap != nil {
		v.gaps = append(v.gaps, *f.Gap)
	}
	for _, l := range f.Lines {
		if l.Seq <= v.last {
			v.c.t.Fatalf("line %d (%q) came after line %d", l.Seq, l.Text, v.last)
		}
		v.last = l.Seq
		v.lines[l.Seq] = l.Text
		found = found || l.Stream == wire.StreamOut && strings.Contains(l.Text, text)
	}
	return found
}

// missing counts the numbers that are neither a line nor in a gap that was told.
func (v *reel) missing(from int64) (n int) {
	for seq := from; seq <= v.last; seq++ {
		if _, ok := v.lines[seq]; ok {
			continue
		}
		told := false
		for _, g := range v.gaps {
			told = told || g.From <= seq && (seq <= g.To || g.To == 0)
		}
		if !told {
			n++
		}
	}
	return n
}

// A console goes on where it was when wings was killed: no line twice, none lost without a mark.
func TestT02_ConsoleGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	r := newRig(t, "", 10)
	rng := chance(t)
	s := r.user.create(demoServer("talker"))
	r.user.until(s.ID, patience, "RUNNING")
	was := r.game(s.ID)
	v := &reel{c: r.user, server: s.ID, lines: map[int64]string{}}
	v.until("say begins", "say say begins")
	first := v.last
	kills, flood := 4, 400
	if nightly() {
		kills = 20
	}
	for i := range kills {
		v.until("flood 1 of", fmt.Sprintf("flood %d", flood+i)) // it is talking now
		ended := make(chan struct{})
		timer := time.AfterFunc(time.Duration(rng.Int64N(int64(300*time.Millisecond))), func() {
			defer close(ended)
			r.killWings()
		})
		defer timer.Stop()
		v.follow()
		v.until(fmt.Sprintf("kill %d is over", i), fmt.Sprintf("say kill %d is over", i))
		<-ended
		v.until(fmt.Sprintf("and %d again", i), fmt.Sprintf("say and %d again", i))
	}
	if now := r.game(s.ID); now != was {
		t.Errorf("the game was %+v and is %+v", was, now)
	}
	lost := v.missing(first)
	if lost > 0 {
		t.Errorf("%d lines are lost without a mark", lost)
	}
	whole := 0
	for i := range kills {
		if err := v.whole(flood + i); err == nil {
			whole++
		} else if len(v.gaps) == 0 {
			t.Errorf("flood %d: %v, and no gap was told", flood+i, err)
		}
	}
	t.Logf("T02: %d kills of wings under a console of %d lines: 0 doubled, %d lost without a mark, %d gaps told, %d breaks, %d of %d floods complete",
		kills, len(v.lines), lost, len(v.gaps), v.breaks, whole, kills)
}

// whole checks that every line of a flood of n was seen, each as often as the first.
func (v *reel) whole(n int) error {
	count := map[string]int{}
	for _, text := range v.lines {
		if strings.HasSuffix(text, fmt.Sprintf(" of %d", n)) {
			count[text]++
		}
	}
	if count[fmt.Sprintf("flood 1 of %d", n)] == 0 {
		return errors.New("it was not seen")
	}
	for i := range n {
		text := fmt.Sprintf("flood %d of %d", i+1, n)
		if count[text] != count[fmt.Sprintf("flood 1 of %d", n)] {
			return fmt.Errorf("%q was seen %d times", text, count[text])
		}
	}
	return nil
}
