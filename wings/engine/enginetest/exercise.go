// Package enginetest holds what every engine.Engine must do, as one suite.
//
// It owns the cases. It refuses to know which engine it runs: what only one kind can show belongs
// into that kind's own tests. Its one invariant: a case passes on engine/fake if and only if it
// passes on a real engine, so that tests of other rooms may trust the fake.
package enginetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// Harness is an engine with what the suite needs around it. Open makes a new one per case.
type Harness struct {
	Engine      engine.Engine
	Again       func(t *testing.T) engine.Engine // another client with the same node label, as after a restart of wings
	Image       wire.Image                       // has dockertest's /game
	Missing     wire.Image                       // is nowhere
	DataDir     string                           // on the node, writable for UID and GID
	UID, GID    int
	FreePort    func(t *testing.T) int
	TakePort    func(t *testing.T, p wire.Port) (free func()) // by something that is no container
	Networks    func(t *testing.T) []string                   // names of all networks
	DropNetwork func(t *testing.T, name string)               // by somebody else
}

// patience bounds every wait of a case; a busy 2-core machine starts a container in 3 s.
const patience = 60 * time.Second

// suite is one case's harness and helpers.
type suite struct {
	Harness
	t   *testing.T
	ctx context.Context
}

// Exercise runs the suite. Cases are parallel.
func Exercise(t *testing.T, open func(t *testing.T) Harness) {
	cases := []struct {
		name string
		run  func(s *suite)
	}{
		{"create is done once however often it is asked", (*suite).createIsIdempotent},
		{"create refuses a name that another spec has", (*suite).createConflicts},
		{"create refuses what no container of ours may be", (*suite).createRefuses},
		{"start may be repeated and needs a container", (*suite).start},
		{"labels come back from inspect and list, also to another client", (*suite).describe},
		{"exit codes are told to who waits before, meanwhile and after", (*suite).exitCodes},
		{"waiting for what never ran or is not there does not block", (*suite).waitAtOnce},
		{"a cancelled wait returns and leaves the game", (*suite).waitCancelled},
		{"SIGTERM lets a game end itself", (*suite).sigterm},
		{"SIGKILL ends a game that ignores SIGTERM", (*suite).sigkill},
		{"a stopped container starts again and keeps its log", (*suite).restart},
		{"a log is complete, in order and can be resumed at every line", (*suite).logs},
		{"stdout and stderr are one log that can be resumed at every line", (*suite).bothStreams},
		{"a log is followed while the game runs and closes with it", (*suite).logFollows},
		{"a cancelled log closes and says why", (*suite).logCancelled},
		{"a long line is split and can be resumed between its parts", (*suite).longLine},
		{"input reaches the game through one opening after the other", (*suite).stdin},
		{"input needs a running game", (*suite).stdinNeedsGame},
		{"env and user reach the game", (*suite).environment},
		{"remove kills, may be repeated and ends streams", (*suite).remove},
		{"a port that another container has is refused until it is free", (*suite).portOfContainer},
		{"a port that something else has is refused until it is free", (*suite).portOfOther},
		{"one port number serves TCP and UDP", (*suite).portBothProtocols},
		{"a network lives from first use to the last container", (*suite).network},
		{"a network that went missing is there again at start", (*suite).networkHeals},
		{"an image is got once and has one id", (*suite).image},
		{"an image that is nowhere is unavailable", (*suite).imageMissing},
		{"an install container ends with its script's code", (*suite).install},
		{"a game that uses too much memory is killed and says so", (*suite).outOfMemory},
		{"what a running game uses is told, grows and belongs to its run", (*suite).stats},
		{"nothing is told of what a game uses that does not run", (*suite).statsNeedGame},
		{"the engine says who it is", (*suite).info},
		{"a closed client ends its streams and leaves the games", (*suite).closed},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
			t.Cleanup(cancel)
			c.run(&suite{Harness: h, t: t, ctx: ctx})
		})
	}
}

// NewID makes an id as PocketBase does: 15 of [a-z0-9].
func NewID() string { return strings.ToLower(rand.Text()[:15]) }

// spec is a game that runs /game with argv.
func (s *suite) spec(argv ...string) engine.ContainerSpec {
	s.t.Helper()
	imageID, err := s.Engine.EnsureImage(s.ctx, "test.image", s.Image, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	server := NewID()
	return engine.ContainerSpec{
		Name: "mh-" + server, ServerID: server, TenantID: NewID(), Epoch: 3, Role: engine.RoleGame,
		ImageID: imageID, Command: append([]string{"/game"}, argv...), Env: map[string]string{"GREETING": "hello"},
		WorkDir: "/home/container", DataDir: s.DataDir, UID: s.UID, GID: s.GID, Stdin: true,
		Limits: wire.Limits{CPUMillicores: 1000, MemoryMiB: 64, DiskMiB: 64, PIDs: 32},
	}
}

// create makes the container and removes it when the case ends.
func (s *suite) create(spec engine.ContainerSpec) string {
	s.t.Helper()
	id, err := s.Engine.Create(s.ctx, "test.create", spec)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Again(s.t).Remove(ctx, "test.cleanup", id); err != nil {
			s.t.Errorf("clean up: %v", err)
		}
	})
	return id
}

func (s *suite) startIt(id string) {
	s.t.Helper()
	s.must(s.Engine.Start(s.ctx, "test.start", id))
}

// run creates and starts /game with argv.
func (s *suite) run(argv ...string) string {
	s.t.Helper()
	id := s.create(s.spec(argv...))
	s.startIt(id)
	return id
}

func (s *suite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) wantErr(err, want error, what string) {
	s.t.Helper()
	if !errors.Is(err, want) {
		s.t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func (s *suite) wait(id string) engine.Exit {
	s.t.Helper()
	exit, err := s.Engine.Wait(s.ctx, "test.wait", id)
	s.must(err)
	return exit
}

func (s *suite) follow(id string, after time.Time) *engine.LogStream {
	s.t.Helper()
	stream, err := s.Engine.Logs(s.ctx, "test.logs", id, after)
	s.must(err)
	return stream
}

// next reads one line or fails the case.
func (s *suite) next(stream *engine.LogStream) engine.LogLine {
	s.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case line, ok := <-stream.C:
		if !ok {
			s.t.Fatalf("the log closed (%v), a line was expected", stream.Err())
		}
		return line
	case <-timer.C:
		s.t.Fatal("no line came")
	}
	return engine.LogLine{}
}

// until reads lines until one has the text.
func (s *suite) until(stream *engine.LogStream, text string) engine.LogLine {
	s.t.Helper()
	for {
		if line := s.next(stream); line.Text == text {
			return line
		}
	}
}

// rest reads the log to its end.
func (s *suite) rest(stream *engine.LogStream) []engine.LogLine {
	s.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var lines []engine.LogLine
	for {
		select {
		case line, ok := <-stream.C:
			if !ok {
				return lines
			}
			lines = append(lines, line)
		case <-timer.C:
			s.t.Fatalf("the log did not close; it had %d lines", len(lines))
		}
	}
}

// all reads the whole log of a container that has ended.
func (s *suite) all(id string, after time.Time) []engine.LogLine {
	s.t.Helper()
	stream := s.follow(id, after)
	lines := s.rest(stream)
	s.must(stream.Err())
	return lines
}

func (s *suite) wantTexts(lines []engine.LogLine, want []string, what string) {
	s.t.Helper()
	if len(lines) != len(want) {
		s.t.Errorf("%s: %d lines, want %d", what, len(lines), len(want))
		return
	}
	for i := range want {
		if lines[i].Text != want[i] {
			s.t.Errorf("%s: line %d is %q, want %q", what, i, lines[i].Text, want[i])
			return
		}
	}
}

// resumes checks that times grow and that reading after any line gives exactly the ones that follow.
func (s *suite) resumes(id string, lines []engine.LogLine) {
	s.t.Helper()
	for i := 1; i < len(lines); i++ {
		if !lines[i].At.After(lines[i-1].At) {
			s.t.Fatalf("line %d at %v is not after line %d at %v", i, lines[i].At, i-1, lines[i-1].At)
		}
	}
	step := max(1, len(lines)/12)
	for cut := 0; cut < len(lines); cut += step {
		got := s.all(id, lines[cut].At)
		if len(got) != len(lines)-cut-1 {
			s.t.Fatalf("after line %d of %d came %d lines", cut, len(lines), len(got))
		}
		for i, line := range got {
			if line != lines[cut+1+i] {
				s.t.Fatalf("after line %d came %v, the first reader had %v", cut, line, lines[cut+1+i])
			}
		}
	}
}

func (s *suite) say(w io.Writer, line string) {
	s.t.Helper()
	_, err := io.WriteString(w, line+"\n")
	s.must(err)
}

func numbered(format string, n int) []string {
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf(format, i+1))
	}
	return lines
}
