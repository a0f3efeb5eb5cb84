package fake

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// Game is what a container runs. Its result is the exit code. It must return soon after
// Process.Done is closed; what it prints after that is dropped.
type Game func(p *Process) int

// Exit codes of a process that a signal ended: 128 and the signal's number.
const (
	codeKilled     = 137
	codeTerminated = 143
	codeInterrupt  = 130
)

// Bounds of what a game has not taken yet.
const (
	stdinLines   = 64
	signalsKept  = 8
	stdinTimeout = 5 * time.Second // a write into a full input, as engine.Docker's
)

// Process is a running game's view of its container.
type Process struct {
	Spec engine.ContainerSpec // immutable

	box     *box
	stdin   chan string
	signals chan string
	done    chan struct{} // closed when the run is over
	exit    engine.Exit   // valid once done is closed

	mu sync.Mutex // guards trapped
	// trapped says that the game handles signals itself.
	trapped bool

	// Guarded by the machine's lock.
	load     Load
	loadFrom time.Time    // since when load holds
	used     engine.Stats // up to loadFrom
}

// Println prints one line.
func (p *Process) Println(line string) {
	p.box.machine.mu.Lock()
	defer p.box.machine.mu.Unlock()
	if p.box.process == p {
		p.box.print(line)
	}
}

// Printf prints one line.
func (p *Process) Printf(format string, args ...any) { p.Println(fmt.Sprintf(format, args...)) }

// Stdin gives the lines that come in. It is never closed: select on Done too.
func (p *Process) Stdin() <-chan string { return p.stdin }

// Trap makes the game handle SIGTERM and the like itself and gives the signals; SIGKILL is not
// among them. A game that never calls it is ended by them, as a process without handlers.
func (p *Process) Trap() <-chan string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trapped = true
	return p.signals
}

// Done is closed when the run is over: killed, out of memory, or the engine went down with it.
func (p *Process) Done() <-chan struct{} { return p.done }

// Sleep waits for d, and reports false when the run was over before.
func (p *Process) Sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.done:
		return false
	}
}

// Load is what a process uses.
type Load struct {
	CPUMillicores int64
	MemoryBytes   int64
	NetInPerS     int64 // bytes per second
	NetOutPerS    int64
}

// SetLoad says what the process uses from now on.
func (p *Process) SetLoad(l Load) {
	p.box.machine.mu.Lock()
	defer p.box.machine.mu.Unlock()
	p.used, p.loadFrom, p.load = p.stats(time.Now()), time.Now(), l
}

// stats is called with the machine's lock held.
func (p *Process) stats(now time.Time) engine.Stats {
	s, passed := p.used, now.Sub(p.loadFrom)
	ms := passed.Milliseconds()
	s.CPUNS += passed.Nanoseconds() * p.load.CPUMillicores / 1000
	s.NetInBytes += ms * p.load.NetInPerS / 1000
	s.NetOutBytes += ms * p.load.NetOutPerS / 1000
	s.MemoryBytes = p.load.MemoryBytes
	return s
}

// OOM ends the run as the kernel's out-of-memory killer does.
func (p *Process) OOM() { p.finish(engine.Exit{Code: codeKilled, OOMKilled: true}) }

// Exit ends the run with a code from outside of the game's function.
func (p *Process) Exit(code int) { p.finish(engine.Exit{Code: code}) }

func (p *Process) finish(exit engine.Exit) {
	p.box.machine.mu.Lock()
	defer p.box.machine.mu.Unlock()
	if p.box.process == p {
		p.box.end(exit)
	}
}

// signal is called with the machine's lock held.
func (p *Process) signal(name string) {
	name = "SIG" + strings.TrimPrefix(name, "SIG")
	p.mu.Lock()
	trapped := p.trapped
	p.mu.Unlock()
	switch {
	case name == "SIGKILL":
		p.box.end(engine.Exit{Code: codeKilled})
	case trapped:
		select {
		case p.signals <- name:
		default: // the kernel, too, keeps one of a kind
		}
	case name == "SIGINT":
		p.box.end(engine.Exit{Code: codeInterrupt})
	case name == "SIGTERM":
		p.box.end(engine.Exit{Code: codeTerminated})
	}
}

// box is a container. All fields are guarded by the machine's lock.
type box struct {
	machine *Machine
	id      string
	node    string
	spec    engine.ContainerSpec
	game    Game
	load    Load // of a run at its start

	process *Process // nil while it does not run
	started time.Time
	exit    engine.Exit
	removed bool

	lines   []engine.LogLine
	changed chan struct{} // closed and made anew at every line and change of state
}

func (b *box) notify() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// print keeps a line with a time greater than that of the one before.
func (b *box) print(text string) {
	for {
		part := text
		if len(part) > wire.MaxConsoleLineBytes {
			part = text[:wire.MaxConsoleLineBytes]
		}
		at := time.Now()
		if n := len(b.lines); n > 0 && !at.After(b.lines[n-1].At) {
			at = b.lines[n-1].At.Add(time.Nanosecond)
		}
		if len(b.lines) >= maxLogLines {
			b.lines = append([]engine.LogLine(nil), b.lines[maxLogLines/2:]...)
		}
		b.lines = append(b.lines, engine.LogLine{At: at, Text: part})
		if text = text[len(part):]; text == "" {
			break
		}
	}
	b.notify()
}

// start runs the game.
func (b *box) start() {
	p := &Process{
		Spec: b.spec, box: b, stdin: make(chan string, stdinLines),
		signals: make(chan string, signalsKept), done: make(chan struct{}),
	}
	p.Spec.Env = maps.Clone(b.spec.Env)
	b.process, b.exit = p, engine.Exit{}
	b.started = time.Now()
	if n := len(b.lines); n > 0 && !b.started.After(b.lines[n-1].At) {
		b.started = b.lines[n-1].At.Add(time.Nanosecond)
	}
	p.loadFrom, p.load, p.used.StartedAt = b.started, b.load, b.started
	b.notify()
	game := b.game
	if game == nil {
		game = func(*Process) int { return 0 }
	}
	b.machine.work.Go(func() { p.Exit(game(p)) })
}

// end ends the run, if there is one.
func (b *box) end(exit engine.Exit) {
	if b.process == nil {
		return
	}
	exit.At = time.Now()
	b.exit, b.process.exit = exit, exit
	close(b.process.done)
	b.process = nil
	b.notify()
}

func (b *box) describe() engine.Container {
	c := engine.Container{
		ID: b.id, Name: b.spec.Name, ServerID: b.spec.ServerID, TenantID: b.spec.TenantID, Epoch: b.spec.Epoch,
		Role: b.spec.Role, SpecHash: b.spec.Hash(), Running: b.process != nil, StartedAt: b.started,
	}
	if !c.Running {
		c.Exit = b.exit
	}
	return c
}
