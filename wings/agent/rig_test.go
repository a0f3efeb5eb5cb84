package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/fake"
	"github.com/mambahost/mamba/wings/wire"
)

const (
	tenantID = "tenant000000001"
	gameRef  = "mamba.test/game"
	setupRef = "mamba.test/setup"
)

// rig is a node in a bubble: a machine, a folder, what was reported, and the wings of the moment.
type rig struct {
	t     *testing.T
	m     *fake.Machine
	dir   string
	rep   *reporter
	log   *slog.Logger
	agent *Agent
	eng   engine.Engine

	samples *recorder                         // nil: nothing is measured
	panel   func() (time.Time, bool)          // the panel's clock; nil: the machine's own
	wrap    func(engine.Engine) engine.Engine // what start puts around the engine; nil: nothing
}

// inBubble runs f with a fresh node in fake time.
func inBubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		f(t, r)
		r.stop()
		r.m.Close()
		synctest.Wait()
	})
}

func newRig(t *testing.T) *rig {
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	r := &rig{t: t, m: fake.New(fake.Config{}), dir: t.TempDir(), rep: &reporter{}, log: log}
	r.m.SetImage(gameRef, fake.Image{Present: true, Game: game})
	r.m.SetImage(setupRef, fake.Image{Present: true, Game: setup})
	return r
}

// start brings up wings on the node's folder, as after a boot or a kill.
func (r *rig) start() {
	r.t.Helper()
	r.eng = r.m.Engine("node1")
	if r.wrap != nil {
		r.eng = r.wrap(r.eng)
	}
	uid, gid := 0, 0 // the defaults
	if os.Geteuid() != 0 {
		uid, gid = os.Getuid(), os.Getgid()
	}
	cfg := Config{Engine: r.eng, Dir: r.dir, Reporter: r.rep, Render: renderLines, Logger: r.log, UID: uid, GID: gid, PanelTime: r.panel}
	if r.samples != nil {
		cfg.Samples = r.samples
	}
	a, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := a.Start(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	r.agent = a
}

func (r *rig) stop() {
	r.agent.Stop()
	_ = r.eng.Close()
}

// kill ends wings as SIGKILL does, as near as one process can: no step goes on, nothing is written.
func (r *rig) kill() { r.stop() }

func (r *rig) apply(spec wire.Spec) wire.Observed {
	r.t.Helper()
	o, err := r.agent.Apply(context.Background(), spec)
	if err != nil {
		r.t.Fatalf("apply (%d, %d): %v", spec.PlacementEpoch, spec.Generation, err)
	}
	return o
}

func (r *rig) get(id string) wire.Observed {
	o, err := r.agent.Get(id)
	if err != nil {
		return wire.Observed{State: "none"}
	}
	return o
}

// until waits, in fake time, for the server to be as told.
func (r *rig) until(id string, within time.Duration, what string, ok func(o wire.Observed) bool) wire.Observed {
	r.t.Helper()
	var o wire.Observed
	if !eventually(within, func() bool { o = r.get(id); return ok(o) }) {
		r.t.Fatalf("after %v the server is not %s: %+v problem %+v", within, what, o, o.Problem)
	}
	return o
}

func (r *rig) untilState(id string, within time.Duration, s wire.State) wire.Observed {
	r.t.Helper()
	return r.until(id, within, string(s)+" and settled", func(o wire.Observed) bool { return o.State == s && o.Settled })
}

// eventually asks again and again until ok, or the time is over.
func eventually(within time.Duration, ok func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); ; <-tick.C {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// pass lets fake time go by.
func pass(d time.Duration) { <-time.After(d) }

func (r *rig) containers() []engine.Container {
	r.t.Helper()
	e := r.m.Engine("node1")
	defer e.Close()
	all, err := e.List(context.Background(), "test.list")
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// starts counts the runs that the game itself has seen begin.
func (r *rig) starts(id string) int {
	raw, err := os.ReadFile(filepath.Join(r.dir, "servers", id, "data", "starts"))
	if err != nil {
		return 0
	}
	return bytes.Count(raw, []byte("\n"))
}

func (r *rig) process(id string) *fake.Process {
	r.t.Helper()
	p, err := r.m.Process(gameName(id))
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// lines is the whole console that a new viewer sees.
func (r *rig) lines(id string, after int64) (texts []string, seqs []int64, gaps []wire.ConsoleGap) {
	r.t.Helper()
	v, err := r.agent.Watch(id, after)
	if err != nil {
		r.t.Fatal(err)
	}
	defer v.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		f, err := v.Next(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		switch {
		case f.Live:
			return texts, seqs, gaps
		case f.Gap != nil:
			gaps = append(gaps, *f.Gap)
		}
		for _, l := range f.Lines {
			texts, seqs = append(texts, l.Text), append(seqs, l.Seq)
		}
	}
}

// game is what runs in these tests: it writes down each start in its data, says that it is ready
// and takes commands. Its behaviour comes from its environment.
func game(p *fake.Process) int {
	f, err := os.OpenFile(filepath.Join(p.Spec.DataDir, "starts"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return 99
	}
	fmt.Fprintln(f, "started")
	_ = f.Close()
	p.Println("loading")
	if d, err := time.ParseDuration(p.Spec.Env["LOAD"]); err == nil && !p.Sleep(d) {
		return 137
	}
	if p.Spec.Env["NEVER_READY"] == "" {
		p.Println("ready to play")
	}
	if p.Spec.Env["CRASH"] != "" {
		if d, _ := time.ParseDuration(p.Spec.Env["CRASH"]); !p.Sleep(d) {
			return 137
		}
		p.Println("goodbye, cruel world")
		return 3
	}
	signals := p.Trap()
	for {
		select {
		case <-p.Done():
			return 137
		case s := <-signals:
			if p.Spec.Env["STUBBORN"] == "" && s == "SIGTERM" {
				p.Println("saving")
				return 0
			}
		case line := <-p.Stdin():
			switch {
			case line == "stop" && p.Spec.Env["STUBBORN"] == "":
				p.Println("saving")
				return 0
			case line == "crash":
				return 3
			case strings.HasPrefix(line, "flood "):
				n := 0
				_, _ = fmt.Sscanf(line, "flood %d", &n)
				for i := range n {
					p.Printf("flood %d", i)
				}
			default:
				p.Println("you said " + line)
			}
		}
	}
}

// setup is an install script.
func setup(p *fake.Process) int {
	f, err := os.OpenFile(filepath.Join(p.Spec.DataDir, "installs"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return 99
	}
	fmt.Fprintln(f, "installed")
	_ = f.Close()
	p.Println("downloading")
	if d, err := time.ParseDuration(p.Spec.Env["TAKES"]); err == nil && !p.Sleep(d) {
		return 137
	}
	p.Println("unpacked")
	code := 0
	_, _ = fmt.Sscanf(p.Spec.Env["EXIT"], "%d", &code)
	return code
}

// renderLines stands for blueprints/render in these tests: key=value lines.
func renderLines(format string, in []byte, edits []wire.Edit) ([]byte, error) {
	if format == "json" {
		return nil, fmt.Errorf("line 1: not JSON")
	}
	out := string(in)
	for _, e := range edits {
		line := e.Key + "=" + e.Value + "\n"
		if !strings.Contains(out, line) {
			out += line
		}
	}
	return []byte(out), nil
}

func serverID(n int) string { return fmt.Sprintf("server%09d", n) }

// running is a Spec of a game that should run.
func running(n int) wire.Spec {
	limits := wire.Limits{CPUMillicores: 1000, MemoryMiB: 512, DiskMiB: 1024, PIDs: 100}
	return wire.Spec{
		ServerID: serverID(n), TenantID: tenantID, Name: "test", PlacementEpoch: 1, Generation: 1, Desired: wire.DesiredRunning,
		Blueprint: wire.Blueprint{ID: "test", Version: "1.0.0"}, Image: wire.Image{Ref: gameRef},
		Command: []string{"/game"}, Env: map[string]string{}, WorkDir: "/data", Limits: limits,
		Ports: []wire.Port{{Name: "game", HostIP: "127.0.0.1", HostPort: 20000 + n, ContainerPort: 7777, Protocol: wire.TCP}},
		Ready: wire.Ready{LogRegex: "^ready to play$", TimeoutS: 60},
		Stop:  wire.Stop{Kind: wire.StopCommand, Value: "stop", TimeoutS: 10},
		Crash: wire.CrashPolicy{MaxAttempts: 3, BackoffMinMS: 1000, BackoffMaxMS: 30_000, StableS: 600},
	}
}

// installing adds an install step.
func installing(spec wire.Spec, env map[string]string) wire.Spec {
	spec.Install = &wire.Install{Image: wire.Image{Ref: setupRef}, Entrypoint: []string{"/bin/sh", "-e"}, Script: "echo", Env: env, TimeoutS: 300, Limits: spec.Limits}
	return spec
}

func stopped(spec wire.Spec) wire.Spec {
	spec.Desired = wire.DesiredStopped
	spec.Generation++
	return spec
}

func deleted(spec wire.Spec) wire.Spec {
	spec.Desired, spec.DeleteID = wire.DesiredAbsent, "delete1"
	spec.Generation++
	return spec
}

// reporter keeps what was reported, as the spool does.
type reporter struct {
	mu     sync.Mutex
	refuse error
	events []wire.Event
}

func (r *reporter) Report(e wire.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return r.refuse
	}
	r.events = append(r.events, e)
	return nil
}

func (r *reporter) setRefuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = err
}

func (r *reporter) of(kind wire.EventKind) []wire.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []wire.Event
	for _, e := range r.events {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

// states of one server in the order they were reported, repeats left out.
func (r *reporter) states(id string) []wire.State {
	var out []wire.State
	for _, e := range r.of(wire.EventObserved) {
		if e.Observed.ServerID == id && (len(out) == 0 || out[len(out)-1] != e.Observed.State) {
			out = append(out, e.Observed.State)
		}
	}
	return out
}
