package enginetest

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

func itoa(n int) string { return strconv.Itoa(n) }

func (s *suite) logs() {
	const n = 300
	id := s.run("lines", itoa(n))
	live := s.follow(id, time.Time{}) // may begin before, within or after the run
	s.wait(id)
	lines := s.rest(live)
	s.must(live.Err())
	s.wantTexts(lines, numbered("line %d", n), "live")
	if late := s.all(id, time.Time{}); !slices.Equal(late, lines) {
		s.t.Errorf("a late reader got %d lines that differ", len(late))
	}
	s.resumes(id, lines)
	if after := s.all(id, lines[n-1].At.Add(time.Hour)); len(after) != 0 {
		s.t.Errorf("an hour after the end came %d lines", len(after))
	}
}

func (s *suite) bothStreams() {
	const n = 100
	id := s.run("both", itoa(n))
	live := s.follow(id, time.Time{})
	s.wait(id)
	lines := s.rest(live)
	s.must(live.Err())
	var out, errs []engine.LogLine
	for _, line := range lines {
		if strings.HasPrefix(line.Text, "out ") {
			out = append(out, line)
		} else {
			errs = append(errs, line)
		}
	}
	s.wantTexts(out, numbered("out %d", n), "stdout")
	s.wantTexts(errs, numbered("err %d", n), "stderr")
	s.resumes(id, lines)
}

func (s *suite) logFollows() {
	id := s.run("echo")
	stream := s.follow(id, time.Time{})
	ready := s.until(stream, "ready")
	in, err := s.Engine.Stdin(s.ctx, "test.stdin", id)
	s.must(err)
	defer in.Close()
	s.say(in, "one")
	s.until(stream, "got one")
	second := s.follow(id, ready.At)
	if line := s.next(second); line.Text != "got one" {
		s.t.Errorf("after %q came %q", "ready", line.Text)
	}
	s.say(in, "two")
	s.until(stream, "got two")
	s.until(second, "got two")
	s.say(in, "stop")
	s.wantTexts(s.rest(stream), []string{"bye"}, "end of the first reader")
	s.wantTexts(s.rest(second), []string{"bye"}, "end of the second reader")
	s.must(stream.Err())
	s.must(second.Err())
}

func (s *suite) logCancelled() {
	id := s.run("echo")
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	stream, err := s.Engine.Logs(ctx, "test.logs", id, time.Time{})
	s.must(err)
	s.until(stream, "ready")
	cancel()
	s.rest(stream)
	s.wantErr(stream.Err(), context.Canceled, "cancelled log")
	_, err = s.Engine.Logs(s.ctx, "test.logs", NewID(), time.Time{})
	s.wantErr(err, engine.ErrNotFound, "log of nothing")
}

func (s *suite) longLine() {
	const size = 2*wire.MaxConsoleLineBytes + 7777
	id := s.run("long", itoa(size))
	s.wait(id)
	lines := s.all(id, time.Time{})
	if len(lines) != 4 || lines[len(lines)-1].Text != "after" {
		s.t.Fatalf("%d lines, want 3 parts and the line after", len(lines))
	}
	total := 0
	for _, line := range lines[:3] {
		if len(line.Text) > wire.MaxConsoleLineBytes || strings.Trim(line.Text, "x") != "" {
			s.t.Errorf("a part of %d bytes that begins %.20q", len(line.Text), line.Text)
		}
		total += len(line.Text)
	}
	if total != size {
		s.t.Errorf("the parts have %d bytes, want %d", total, size)
	}
	s.resumes(id, lines)
}

func (s *suite) stdin() {
	id := s.run("echo")
	stream := s.follow(id, time.Time{})
	s.until(stream, "ready")
	for _, text := range []string{"one", "two", "three"} {
		in, err := s.Engine.Stdin(s.ctx, "test.stdin", id)
		s.must(err)
		s.say(in, text)
		s.must(in.Close())
		if line := s.next(stream); line.Text != "got "+text {
			s.t.Errorf("the game answered %q to %q", line.Text, text)
		}
	}
	first, err := s.Engine.Stdin(s.ctx, "test.stdin", id)
	s.must(err)
	defer first.Close()
	second, err := s.Engine.Stdin(s.ctx, "test.stdin", id)
	s.must(err)
	defer second.Close()
	s.say(first, "a")
	s.until(stream, "got a")
	s.say(second, "b")
	s.until(stream, "got b")
	s.say(first, "stop")
	if exit := s.wait(id); exit.Code != 0 {
		s.t.Errorf("exit = %+v", exit)
	}
}

func (s *suite) stdinNeedsGame() {
	id := s.create(s.spec("exit", "0"))
	_, err := s.Engine.Stdin(s.ctx, "test.stdin", id)
	s.wantErr(err, engine.ErrNotRunning, "input of what never ran")
	s.startIt(id)
	s.wait(id)
	_, err = s.Engine.Stdin(s.ctx, "test.stdin", id)
	s.wantErr(err, engine.ErrNotRunning, "input of what has ended")
	_, err = s.Engine.Stdin(s.ctx, "test.stdin", NewID())
	s.wantErr(err, engine.ErrNotFound, "input of nothing")
}
