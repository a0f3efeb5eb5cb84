package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// testConsole has its throttle out of the way.
func testConsole(t *testing.T) *console {
	t.Helper()
	c, err := openConsole(filepath.Join(t.TempDir(), "console.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fill reads lines and shows them; hear only reads them.
func fill(c *console, from, to int, at time.Time) {
	hear(c, from, to, at)
	if err := c.flush(); err != nil {
		panic(err)
	}
}

func hear(c *console, from, to int, at time.Time) {
	for i := from; i < to; i++ {
		c.mu.Lock()
		c.tokens = linesBurst
		c.mu.Unlock()
		c.read(wire.StreamOut, "box", at.Add(time.Duration(i)), fmt.Sprintf("line %d", i))
	}
}

// seen is what one viewer got until it was live.
type seen struct {
	lines []wire.ConsoleLine
	gaps  []wire.ConsoleGap
	order []string // "line n", "gap a-b", "live"
}

func drain(t *testing.T, v *Viewer) (s seen) {
	t.Helper()
	for {
		f, err := v.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range f.Lines {
			s.lines = append(s.lines, l)
			s.order = append(s.order, fmt.Sprintf("line %d", l.Seq))
		}
		if f.Gap != nil {
			s.gaps = append(s.gaps, *f.Gap)
			s.order = append(s.order, fmt.Sprintf("gap %d-%d", f.Gap.From, f.Gap.To))
		}
		if f.Live {
			return s
		}
	}
}

func TestHistoryReachesALateJoiner(t *testing.T) {
	t.Parallel()
	c := testConsole(t)
	fill(c, 1, 11, time.Now())
	cases := []struct {
		name  string
		after int64
		lines int
		gap   string
	}{
		{"with nothing seen, all of it comes", 0, 10, "[]"},
		{"with four seen, six come", 4, 6, "[]"},
		{"with all seen, none comes", 10, 0, "[]"},
		{"with a number that was never given, all comes after a gap", 99, 10, "[{1 0}]"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			v, err := c.watch(tc.after)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			s := drain(t, v)
			if len(s.lines) != tc.lines || fmt.Sprint(s.gaps) != tc.gap && !(tc.gap == "[]" && len(s.gaps) == 0) {
				t.Errorf("%d lines and gaps %v, want %d and %s", len(s.lines), s.gaps, tc.lines, tc.gap)
			}
		})
	}
}

func TestNobodySeesALineThatAKillWouldTakeBack(t *testing.T) {
	t.Parallel()
	c := testConsole(t)
	fill(c, 1, 4, time.Now())
	c.read(wire.StreamOut, "box", time.Now(), "not written yet")
	v, err := c.watch(0)
	if err != nil {
		t.Fatal(err)
	}
	if s := drain(t, v); len(s.lines) != 3 {
		t.Errorf("the viewer sees %v", s.order)
	}
	again, err := openConsole(c.path) // as after a kill
	if err != nil {
		t.Fatal(err)
	}
	again.say(wire.StreamInput, "typed before the log was read again")
	again.read(wire.StreamOut, "box", time.Now(), "not written yet")
	if err := again.flush(); err != nil {
		t.Fatal(err)
	}
	if v, err = again.watch(3); err != nil {
		t.Fatal(err)
	}
	if s := drain(t, v); len(s.lines) != 2 || len(s.gaps) != 0 || s.lines[0].Seq != 4 {
		t.Errorf("who had 3 lines gets %v and gaps %v", s.order, s.gaps)
	}
}

func TestASlowViewerIsToldOfItsGapAndSlowsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := testConsole(t)
		slow, err := c.watch(0)
		if err != nil {
			t.Fatal(err)
		}
		fast, err := c.watch(0)
		if err != nil {
			t.Fatal(err)
		}
		fill(c, 1, 2, time.Now())
		if f, err := slow.Next(context.Background()); err != nil || len(f.Lines) != 1 {
			t.Fatalf("the first line: %+v, %v", f, err)
		}
		drain(t, fast)
		got := 0
		for i := range 10 { // the fast one reads along, the slow one does not
			fill(c, 2+i*500, 2+(i+1)*500, time.Now())
			for got < (i+1)*500 {
				f, err := fast.Next(context.Background())
				if err != nil || f.Gap != nil {
					t.Fatalf("the fast viewer got %+v, %v", f, err)
				}
				got += len(f.Lines)
			}
		}
		s := drain(t, slow)
		if len(s.gaps) != 1 || s.gaps[0].From != 2 || s.gaps[0].To != 5001-ringLines || len(s.lines) != ringLines {
			t.Errorf("the slow viewer got %d lines and gaps %v, want the last %d after one gap from 2", len(s.lines), s.gaps, ringLines)
		}
	})
}

func TestACommandRidesWithItsAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := testConsole(t)
		v, err := c.watch(0)
		if err != nil {
			t.Fatal(err)
		}
		drain(t, v)
		frame := func() wire.ConsoleFrame {
			f, err := v.Next(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		answered := make(chan error, 1)
		seq := c.say(wire.StreamInput, "list")
		go func() { answered <- c.ride(seq) }()
		synctest.Wait()
		fill(c, 1, 2, time.Now())
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
		if f := frame(); len(f.Lines) != 2 || f.Lines[0].Stream != wire.StreamInput || f.Lines[1].Stream != wire.StreamOut {
			t.Errorf("the command and its answer came as %+v", f)
		}
		began := time.Now()
		if err := c.ride(c.say(wire.StreamInput, "save")); err != nil {
			t.Fatal(err)
		}
		if f := frame(); len(f.Lines) != 1 || time.Since(began) != showAfter {
			t.Errorf("without an answer %+v came after %s, want it after %s", f, time.Since(began), showAfter)
		}
		seq = c.say(wire.StreamInput, "stop")
		go func() { answered <- c.ride(seq) }()
		synctest.Wait()
		began = time.Now()
		c.close()
		if err := <-answered; err != nil || time.Since(began) != 0 {
			t.Errorf("after the delete a command ends with %v, %s later", err, time.Since(began))
		}
	})
}

func TestALineThatComesAloneIsShownAtOnceAndABurstTogether(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		pass(time.Second)
		v, err := r.agent.Watch(spec.ServerID, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		drain(t, v)
		until := func(text string) (frames int) {
			for {
				f, err := v.Next(context.Background())
				if err != nil || f.Gap != nil {
					t.Errorf("%+v, %v", f, err)
					return frames
				}
				if frames++; len(f.Lines) > 0 && f.Lines[len(f.Lines)-1].Text == text {
					return frames
				}
			}
		}
		for range 3 {
			began := time.Now()
			r.process(spec.ServerID).Println("alone")
			if until("alone"); time.Since(began) >= showAfter/4 {
				t.Errorf("a line of a quiet game was shown after %s", time.Since(began))
			}
			pass(2 * showAfter)
		}
		const burst = 200
		read := make(chan int)
		go func() { read <- until(fmt.Sprintf("burst %d", burst-1)) }()
		for i := range burst {
			r.process(spec.ServerID).Printf("burst %d", i)
			pass(showAfter / 40)
		}
		if n := <-read; n > burst/40+3 {
			t.Errorf("%d lines within %s came in %d frames", burst, burst*showAfter/40, n)
		}
	})
}

func TestTheRingIsBoundedInBytesToo(t *testing.T) {
	t.Parallel()
	c := testConsole(t)
	long := strings.Repeat("x", wire.MaxConsoleLineBytes*2)
	for range 200 {
		c.say(wire.StreamSystem, long)
	}
	total := 0
	for _, l := range c.lines {
		if len(l.Text) != wire.MaxConsoleLineBytes {
			t.Fatalf("a line has %d bytes", len(l.Text))
		}
		total += len(l.Text)
	}
	if total > ringBytes || c.bytes > ringBytes {
		t.Errorf("the ring holds %d bytes and counts %d, want at most %d", total, c.bytes, ringBytes)
	}
}

func TestAFloodIsThrottledAndEveryDroppedLineIsInAGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := testConsole(t)
		const total = 50_000
		began := time.Now()
		v, err := c.watch(0)
		if err != nil {
			t.Fatal(err)
		}
		sum := int64(0)
		read := func(s seen) {
			for _, g := range s.gaps {
				sum += g.To - g.From + 1
			}
			sum += int64(len(s.lines))
		}
		for i := range total {
			c.read(wire.StreamOut, "box", began.Add(time.Duration(i)), "spam")
			if i%1000 == 999 {
				pass(100 * time.Millisecond) // 10,000 lines a second
			}
		}
		shown := 0
		for _, l := range c.lines {
			shown += len(l.Stream) / 3
		}
		if err := c.flush(); err != nil {
			t.Fatal(err)
		}
		read(drain(t, v))
		if sum > total || c.last != total || shown > linesBurst+5*linesPerSecond {
			t.Errorf("%d lines are accounted for of %d", sum, total)
		}
		late, err := c.watch(1)
		if err != nil {
			t.Fatal(err)
		}
		sum = 1
		read(drain(t, late))
		if sum != total {
			t.Errorf("lines and gaps account for %d of %d lines", sum, total)
		}
	})
}

func TestTheConsoleGoesOnWhereItStoodAfterAKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.jsonl")
	c, err := openConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now().UTC()
	fill(c, 1, 50, began)
	c.say(wire.StreamInput, "hello")
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	hear(c, 50, 60, began) // and wings is killed before these are written
	again, err := openConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	at := again.readTo(wire.StreamOut)
	if at.Container != "box" || !at.At.Equal(began.Add(49)) || again.last != 50 || len(again.lines) != 50 {
		t.Fatalf("it stands at %+v with %d lines, last %d", at, len(again.lines), again.last)
	}
	fill(again, 50, 60, began)
	if got, want := again.lines[55].Text, c.lines[55].Text; got != want || again.lines[55].Seq != c.lines[55].Seq {
		t.Errorf("line 56 is %q after the kill and was %q", got, want)
	}
}

func TestADamagedJournalCostsAGapAndNoDoubledNumber(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.jsonl")
	c, err := openConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	c.say(wire.StreamSystem, "one")
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	c.say(wire.StreamSystem, "two")
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw[:len(raw)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := openConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	again.say(wire.StreamSystem, "three")
	if err := again.flush(); err != nil {
		t.Fatal(err)
	}
	v, err := again.watch(1)
	if err != nil {
		t.Fatal(err)
	}
	s := drain(t, v)
	if len(s.lines) != 1 || s.lines[0].Seq <= 2 || len(s.gaps) != 1 {
		t.Errorf("after a torn end the viewer sees %v", s.order)
	}
}

func TestTheJournalIsBounded(t *testing.T) {
	t.Parallel()
	c := testConsole(t)
	for range 600 {
		c.say(wire.StreamSystem, strings.Repeat("y", 8<<10))
		if err := c.flush(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(c.path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > journalBytes+2*ringBytes {
		t.Errorf("the journal has %d bytes after 600 lines of 8 KiB, want at most about %d", info.Size(), journalBytes)
	}
	again, err := openConsole(c.path)
	if err != nil || again.last != 600 {
		t.Errorf("read back, the last number is %d, %v; want 600", again.last, err)
	}
}

func TestViewersAreBoundedAndEndWithTheServer(t *testing.T) {
	t.Parallel()
	c := testConsole(t)
	var all []*Viewer
	for range maxViewers {
		v, err := c.watch(0)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	if _, err := c.watch(0); !errors.Is(err, ErrTooMany) {
		t.Errorf("one viewer too many is answered with %v", err)
	}
	all[0].Close()
	all[0].Close()
	if v, err := c.watch(0); err != nil {
		t.Errorf("after one left: %v", err)
	} else {
		v.Close()
	}
	drain(t, all[1])
	c.setState(wire.StateDeleting)
	if f, err := all[1].Next(context.Background()); err != nil || f.State != wire.StateDeleting {
		t.Errorf("a change of state is shown as %+v, %v", f, err)
	}
	c.close()
	if _, err := all[1].Next(context.Background()); !errors.Is(err, ErrUnknown) {
		t.Errorf("after the delete a viewer gets %v", err)
	}
	if _, err := c.watch(0); !errors.Is(err, ErrUnknown) {
		t.Errorf("after the delete a new viewer gets %v", err)
	}
}

func TestAViewerFollowsAcrossRestartsOfGameAndWings(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		var after int64
		var all []int64
		look := func() {
			_, seqs, gaps := r.lines(spec.ServerID, after)
			if len(gaps) != 0 {
				t.Errorf("gaps %v", gaps)
			}
			all = append(all, seqs...)
			after = all[len(all)-1]
		}
		look()
		for n := int64(1); n <= 3; n++ {
			if err := r.agent.Command(context.Background(), spec.ServerID, fmt.Sprintf("number %d", n)); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
			look()
			spec.Generation, spec.RestartCount = spec.Generation+1, n
			r.apply(spec)
			r.until(spec.ServerID, time.Minute, "restarted", func(o wire.Observed) bool { return o.RestartCount == n && o.Settled })
			r.process(spec.ServerID).Println("while wings looks")
			r.kill()
			r.process(spec.ServerID).Println("while wings is away")
			r.start()
			pass(2 * time.Second)
			look()
		}
		for i, seq := range all {
			if seq != int64(i+1) {
				t.Fatalf("line %d has the number %d: %v", i+1, seq, all)
			}
		}
		text, _, _ := r.lines(spec.ServerID, 0)
		joined := strings.Join(text, "\n")
		for want, n := range map[string]int{"while wings is away": 3, "while wings looks": 3, "ready to play": 4, "you said number 2": 1, "number 3": 2} {
			if got := strings.Count(joined, want); got != n {
				t.Errorf("%q is there %d times, want %d:\n%s", want, got, n, joined)
			}
		}
	})
}

func TestLogsThatWereRotatedAwayMeanwhileLeaveAGap(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		pass(time.Second)
		r.kill()
		p := r.process(spec.ServerID)
		for i := range 50_010 { // the fake keeps 50,000 lines and then drops the older half
			p.Printf("%d", i)
		}
		r.start()
		pass(time.Minute)
		_, _, gaps := r.lines(spec.ServerID, 1)
		if len(gaps) == 0 {
			t.Errorf("no gap, although lines are lost")
		}
	})
}

func TestCommands(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		ctx := context.Background()
		if err := r.agent.Command(ctx, spec.ServerID, "hi"); !errors.Is(err, ErrUnknown) {
			t.Errorf("to nobody: %v, want ErrUnknown", err)
		}
		r.apply(stopped(spec))
		r.untilState(spec.ServerID, time.Minute, wire.StateStopped)
		if err := r.agent.Command(ctx, spec.ServerID, "hi"); !errors.Is(err, ErrNotRunning) {
			t.Errorf("to a stopped server: %v, want ErrNotRunning", err)
		}
		spec.Generation = 3
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		if err := r.agent.Command(ctx, spec.ServerID, strings.Repeat("x", wire.MaxCommandBytes+1)); !errors.Is(err, ErrTooLong) {
			t.Errorf("one that is too long: %v, want ErrTooLong", err)
		}
		if err := r.agent.Command(ctx, spec.ServerID, "one\nstop\r\n\x00"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		text, _, _ := r.lines(spec.ServerID, 0)
		if joined := strings.Join(text, "|"); !strings.Contains(joined, "onestop|you said onestop") {
			t.Errorf("a command with line ends in it did %q, want one command", joined)
		}
		refused, began := 0, time.Now()
		for range 100 {
			if errors.Is(r.agent.Command(ctx, spec.ServerID, "x"), ErrTooFast) {
				refused++
			}
		}
		allowed := commandsAtOnce + 1 + int(time.Since(began).Seconds()*commandsPerSec)
		if refused < 100-allowed {
			t.Errorf("%d of 100 commands within %s were refused, want at least %d", refused, time.Since(began), 100-allowed)
		}
		pass(10 * time.Second)
		if err := r.agent.Command(ctx, spec.ServerID, "later"); err != nil {
			t.Errorf("after a while: %v", err)
		}
	})
}
