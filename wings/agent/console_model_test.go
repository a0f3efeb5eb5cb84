package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

// TestNoViewerLosesOrDoublesALine plays a container's log, viewers that come and go, and kills of
// wings at any moment, against the plain list of what was said.
func TestNoViewerLosesOrDoublesALine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	serial := 0
	rapid.Check(t, func(rt *rapid.T) {
		serial++
		path := filepath.Join(dir, fmt.Sprintf("%d.jsonl", serial))
		defer os.Remove(path)
		c := must(openConsole(path))
		began := time.Now().UTC()
		said := map[int64]string{} // number → text, as any viewer ever saw it
		logged, read := 0, 0       // lines in the engine's log, and read from it
		seen := int64(0)           // by the viewer that comes back
		look := func() {
			v := must(c.watch(seen))
			defer v.Close()
			for _, step := range drainOrdered(rt, v) {
				if step.gap != nil {
					seen = step.gap.To
					continue
				}
				l := step.line
				if l.Seq != seen+1 && seen > 0 {
					rt.Fatalf("line %d follows %d without a gap", l.Seq, seen)
				}
				if before, ok := said[l.Seq]; ok && before != l.Text {
					rt.Fatalf("line %d was %q and is %q", l.Seq, before, l.Text)
				}
				said[l.Seq], seen = l.Text, l.Seq
			}
		}
		for range rapid.IntRange(1, 40).Draw(rt, "moments") {
			switch rapid.SampledFrom([]string{"log", "log", "read", "read", "say", "flush", "kill", "look"}).Draw(rt, "moment") {
			case "log":
				logged += rapid.IntRange(1, 300).Draw(rt, "lines")
			case "read":
				for ; read < logged; read++ {
					c.tokens = linesBurst
					c.read(wire.StreamOut, "box", began.Add(time.Duration(read+1)), fmt.Sprintf("log %d", read))
				}
			case "say":
				c.say(wire.StreamInput, fmt.Sprintf("typed %d", len(said)))
				if err := c.flush(); err != nil {
					rt.Fatal(err)
				}
			case "flush":
				if err := c.flush(); err != nil {
					rt.Fatal(err)
				}
			case "kill":
				c = must(openConsole(path))
				read = 0
				if at := c.readTo(wire.StreamOut); !at.At.IsZero() {
					read = int(at.At.Sub(began))
				}
				for ; read < logged; read++ { // the first thing a new wings does
					c.tokens = linesBurst
					c.read(wire.StreamOut, "box", began.Add(time.Duration(read+1)), fmt.Sprintf("log %d", read))
				}
			case "look":
				look()
			}
		}
		look()
	})
}

type sight struct {
	line wire.ConsoleLine
	gap  *wire.ConsoleGap
}

// drainOrdered is what a viewer sees until it is live, in order.
func drainOrdered(t *rapid.T, v *Viewer) (all []sight) {
	for {
		f, ok, err := v.frame()
		if err != nil || !ok {
			t.Fatalf("not live: %v", err)
		}
		for _, l := range f.Lines {
			all = append(all, sight{line: l})
		}
		if f.Gap != nil {
			all = append(all, sight{gap: f.Gap})
		}
		if f.Live {
			return all
		}
	}
}

// FuzzConsoleJournal: whatever is in the file, it opens, and the numbers rise.
func FuzzConsoleJournal(f *testing.F) {
	f.Add([]byte(`{"seq":2,"out":{"container":"a","at":"2026-01-01T00:00:00Z"},"lines":[{"seq":1,"text":"x"},{"seq":2,"text":"y"}]}` + "\n"))
	f.Add([]byte(`{"seq":9`))
	f.Add([]byte("{\"seq\":3,\"lines\":[{\"seq\":7},{\"seq\":1}]}\n"))
	f.Add([]byte("{\"seq\":3,\"lines\":[{\"seq\":2}]}\n{\"seq\":4,\"lines\":[{\"seq\":1}]}\n"))
	f.Add([]byte("{\"seq\":9223372036854775807}\n"))
	f.Add([]byte("{\"seq\":-5}\n\n{\"seq\":3,\"lines\":[{\"seq\":7},{\"seq\":1}]}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "console.jsonl")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := openConsole(path)
		if err != nil {
			t.Fatal(err)
		}
		c.say(wire.StreamSystem, "after")
		for i := 1; i < len(c.lines); i++ {
			if c.lines[i].Seq <= c.lines[i-1].Seq {
				t.Fatalf("line %d follows %d", c.lines[i].Seq, c.lines[i-1].Seq)
			}
		}
		if last := c.lines[len(c.lines)-1]; last.Seq != c.last || c.last < 1 {
			t.Fatalf("the newest line is %d of %d", last.Seq, c.last)
		}
	})
}

func TestWhichEntriesOfAJournalAreBelieved(t *testing.T) {
	t.Parallel()
	line := func(seqs ...int64) (out []wire.ConsoleLine) {
		for _, s := range seqs {
			out = append(out, wire.ConsoleLine{Seq: s})
		}
		return out
	}
	cases := []struct {
		name  string
		entry journalEntry
		last  int64
		want  bool
	}{
		{"numbers that rise up to its own", journalEntry{Seq: 5, Lines: line(3, 4, 5)}, 2, true},
		{"lines that were dropped leave holes", journalEntry{Seq: 9, Lines: line(3, 7)}, 2, true},
		{"all of its lines were dropped", journalEntry{Seq: 9}, 2, true},
		{"a number that was given before", journalEntry{Seq: 5, Lines: line(2, 3)}, 2, false},
		{"numbers that fall", journalEntry{Seq: 5, Lines: line(4, 3)}, 2, false},
		{"a line beyond its own number", journalEntry{Seq: 5, Lines: line(6)}, 2, false},
		{"a number of its own that falls", journalEntry{Seq: 1}, 2, false},
		{"no number", journalEntry{}, 0, false},
		{"a number that no console reaches", journalEntry{Seq: 1 << 62}, 2, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := c.entry.follows(c.last); got != c.want {
				t.Errorf("believed: %v, want %v", got, c.want)
			}
		})
	}
}
