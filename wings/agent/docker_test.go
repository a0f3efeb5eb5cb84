package agent

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/dockertest"
	"github.com/mambahost/mamba/wings/wire"
)

// TestMain ends the shared dockerd and fails when a goroutine of this package is left.
func TestMain(m *testing.M) {
	code := dockertest.Main(m)
	http.DefaultClient.CloseIdleConnections()
	left := ""
	eventually(10*time.Second, func() bool { left = ownGoroutines(); return left == "" })
	if left != "" {
		fmt.Fprintf(os.Stderr, "goroutines are left behind:\n%s\n", left)
		code = max(code, 1)
	}
	os.Exit(code)
}

func ownGoroutines() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(g, "wings/agent.") && !strings.Contains(g, "wings/agent.TestMain") {
			left = append(left, g)
		}
	}
	return strings.Join(left, "\n\n")
}

// real is a node on a real dockerd.
type real struct {
	t     *testing.T
	host  string
	label string
	dir   string
	bin   string
	rep   *reporter
	eng   *engine.Docker
	agent *Agent

	samples *recorder // nil: nothing is measured
	panel   func() (time.Time, bool)
}

// demoBinary builds the game once per test that asks.
func demoBinary(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "wings")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./testdata/demo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the demo game: %v\n%s", err, out)
	}
	return bin
}

func newReal(t *testing.T, host, label string) *real {
	t.Helper()
	r := &real{t: t, host: host, label: label, dir: t.TempDir(), bin: demoBinary(t), rep: &reporter{}}
	r.start()
	t.Cleanup(func() { r.stop(); dockertest.AssertClean(t, host, engine.LabelNode, label) })
	return r
}

func (r *real) start() {
	r.t.Helper()
	log := slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	eng, err := engine.NewDocker(engine.Config{Host: r.host, NodeLabel: r.label, BuiltinBinary: r.bin, Logger: log,
		NetworkPool: netip.MustParsePrefix("10.213.0.0/20")})
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := Config{Engine: eng, Dir: r.dir, Reporter: r.rep, Render: renderLines, Logger: log, PanelTime: r.panel}
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
	r.eng, r.agent = eng, a
}

func (r *real) stop() {
	r.agent.Stop()
	_ = r.eng.Close()
}

func (r *real) until(id string, within time.Duration, what string, ok func(o wire.Observed) bool) wire.Observed {
	r.t.Helper()
	var o wire.Observed
	if !eventually(within, func() bool { o, _ = r.agent.Get(id); return ok(o) }) {
		r.t.Fatalf("after %v the server is not %s: %+v problem %+v", within, what, o, o.Problem)
	}
	return o
}

func (r *real) untilState(id string, s wire.State) wire.Observed {
	r.t.Helper()
	return r.until(id, time.Minute, string(s), func(o wire.Observed) bool { return o.State == s && o.Settled })
}

func (r *real) apply(spec wire.Spec) {
	r.t.Helper()
	if _, err := r.agent.Apply(context.Background(), spec); err != nil {
		r.t.Fatal(err)
	}
}

func (r *real) pid(id string) int {
	r.t.Helper()
	in, err := dockertest.Client(r.t, r.host).ContainerInspect(context.Background(), gameName(id), client.ContainerInspectOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return in.Container.State.Pid
}

// demoSpec is what blueprints/games/demo compiles to, nearly.
func demoSpec(n, port int) wire.Spec {
	spec := running(n)
	spec.TenantID = fmt.Sprintf("agenttenant%04d", n)
	spec.Image = wire.Image{Builtin: "demo"}
	spec.Command = []string{"/wings", "demo-server"}
	spec.WorkDir = "/home/container"
	spec.Limits = wire.Limits{CPUMillicores: 500, MemoryMiB: 64, DiskMiB: 256, PIDs: 64}
	spec.Ports = []wire.Port{{Name: "game", HostIP: "127.0.0.1", HostPort: port, ContainerPort: 7777, Protocol: wire.TCP}}
	spec.Files = []wire.ConfigFile{{Path: "demo.properties", Format: "properties", Edits: []wire.Edit{{Key: "motd", Value: "Hello from the blueprint"}}}}
	spec.Ready = wire.Ready{LogRegex: "^Ready: listening", TimeoutS: 60}
	spec.Install = &wire.Install{Image: wire.Image{Builtin: "demo"}, Entrypoint: []string{"/wings", "demo-install"}, TimeoutS: 60, Limits: spec.Limits}
	return spec
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestTheDemoGameOnARealEngine(t *testing.T) {
	t.Parallel()
	r := newReal(t, dockertest.Daemon(t), "agent-demo")
	spec := demoSpec(701, freePort(t))
	began := time.Now()
	r.apply(spec)
	before := r.untilState(spec.ServerID, wire.StateRunning)
	took := time.Since(began)
	if rep := r.rep.of(wire.EventInstalled); len(rep) != 1 || rep[0].Install.ExitCode != 0 || !strings.Contains(rep[0].Install.Log, "Made the world (100 %)") {
		t.Errorf("install reports %+v", rep)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", spec.Ports[0].HostPort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "Hello from the blueprint\n" {
		t.Errorf("the game greets with %q, %v", line, err)
	}
	if err := r.agent.Command(t.Context(), spec.ServerID, "say hello"); err != nil {
		t.Fatal(err)
	}
	text := r.console(spec.ServerID, "[server] hello")
	for _, want := range []string{"Made the world (100 %)", "Ready: listening on port 7777", "say hello"} {
		if strings.Count("\n"+text+"\n", "\n"+want+"\n") != 1 {
			t.Errorf("the console has %q not once:\n%s", want, text)
		}
	}
	pid := r.pid(spec.ServerID)
	r.stop()
	r.start()
	after := r.untilState(spec.ServerID, wire.StateRunning)
	if after.ContainerID != before.ContainerID || r.pid(spec.ServerID) != pid || after.CrashCount != 0 {
		t.Errorf("after a restart of wings the game is another run: %+v", after)
	}
	if err := r.agent.Command(t.Context(), spec.ServerID, "crash"); err != nil {
		t.Fatal(err)
	}
	crashed := r.until(spec.ServerID, time.Minute, "back after a crash", func(o wire.Observed) bool { return o.CrashCount == 1 && o.State == wire.StateRunning && o.Settled })
	if crashed.ExitCode == nil || *crashed.ExitCode != 3 {
		t.Errorf("a crash is observed as %+v", crashed)
	}
	stop := stopped(spec)
	r.apply(stop)
	if o := r.untilState(spec.ServerID, wire.StateStopped); *o.ExitCode != 0 {
		t.Errorf("stopped with code %d", *o.ExitCode)
	}
	text = r.console(spec.ServerID, "The server has stopped.")
	if strings.Count(text, "[server] hello") != 1 {
		t.Errorf("lines are lost or doubled:\n%s", text)
	}
	r.apply(deleted(stop))
	r.untilState(spec.ServerID, wire.StateAbsent)
	t.Logf("demo game on a real engine: apply to running %v with install and image, same PID %d after a restart of wings", took.Round(time.Millisecond), pid)
}

// The window in which it looks ends three seconds after wings has started: the panel's clock says so.
func TestARealGameIsMeasured(t *testing.T) {
	t.Parallel()
	r := newReal(t, dockertest.Daemon(t), "agent-measured")
	spec := demoSpec(703, freePort(t))
	r.apply(spec)
	r.untilState(spec.ServerID, wire.StateRunning)
	r.stop()
	r.samples = &recorder{first: map[string]wire.Sample{}}
	ahead := time.Unix(floor(time.Now())+wire.SampleWindowS-3, 0).Sub(time.Now().Round(0))
	r.panel = func() (time.Time, bool) { return time.Now().Add(ahead), true }
	r.start()
	var total wire.Sample
	if !eventually(time.Minute, func() bool { total, _ = r.samples.sum(spec.ServerID); return total.RunningMS > 0 }) {
		t.Fatal("no sample came")
	}
	if total.RunningMS < 1000 || total.RunningMS > 4000 || total.MeasuredMS <= 0 || total.CPUUsedNS <= 0 || total.CPUReservedMillicoreMS != total.RunningMS*spec.Limits.CPUMillicores {
		t.Errorf("%+v", total)
	}
	last := r.samples.order[len(r.samples.order)-1]
	if last.MemoryLastBytes < 1<<20 || last.MemoryLastBytes > spec.Limits.MemoryMiB<<20 || last.DiskLastBytes <= 0 || total.DiskByteMS <= 0 {
		t.Errorf("%+v", last)
	}
	t.Logf("a window of a real game: %+v", last)
	r.apply(deleted(spec))
	r.untilState(spec.ServerID, wire.StateAbsent)
}

// console waits for a line and returns all.
func (r *real) console(id, line string) string {
	r.t.Helper()
	v, err := r.agent.Watch(id, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer v.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var all []string
	for {
		f, err := v.Next(ctx)
		if err != nil {
			r.t.Fatalf("never saw %q in %q: %v", line, all, err)
		}
		found := false
		for _, l := range f.Lines {
			all = append(all, l.Text)
			found = found || l.Text == line
		}
		if found {
			return strings.Join(all, "\n")
		}
	}
}

func TestAFailingInstallOnARealEngine(t *testing.T) {
	t.Parallel()
	r := newReal(t, dockertest.Daemon(t), "agent-install")
	spec := demoSpec(702, freePort(t))
	spec.Install.Env = map[string]string{"DEMO_INSTALL_EXIT": "7"}
	r.apply(spec)
	o := r.untilState(spec.ServerID, wire.StateInstallFailed)
	if o.Installed || o.Problem == nil || o.Problem.Code != wire.ProblemInstallFailed {
		t.Errorf("observed %+v", o)
	}
	if rep := r.rep.of(wire.EventInstalled); len(rep) != 1 || rep[0].Install.ExitCode != 7 {
		t.Errorf("reports %+v", rep)
	}
	r.apply(deleted(spec))
	r.untilState(spec.ServerID, wire.StateAbsent)
}

func TestT03_ADockerdThatIsKilledOrStopped(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name    string
		label   string
		options dockertest.Options
		end     func(p *dockertest.Process, t testing.TB)
		same    bool
	}{
		{"killed, with live restore: the same process goes on", "agent-t3-live", dockertest.Options{}, (*dockertest.Process).Kill, true},
		{"stopped, without live restore: exactly one restart and no crash", "agent-t3-stop", dockertest.Options{NoLiveRestore: true}, (*dockertest.Process).Stop, false},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			daemon := dockertest.Private(t, c.options)
			r := newReal(t, daemon.Host(), c.label)
			spec := demoSpec(710+i, 20710+i)
			spec.Stop = wire.Stop{Kind: wire.StopSignal, Value: "SIGTERM", TimeoutS: 10}
			r.apply(spec)
			r.untilState(spec.ServerID, wire.StateRunning)
			const rounds = 2
			pids := map[int]bool{r.pid(spec.ServerID): true}
			for range rounds {
				before, _ := r.agent.Get(spec.ServerID)
				c.end(daemon, t)
				daemon.Start(t)
				o := r.until(spec.ServerID, time.Minute, "running", func(o wire.Observed) bool {
					return o.State == wire.StateRunning && o.Settled && o.Problem == nil && (c.same || !o.StartedAt.Equal(before.StartedAt))
				})
				if o.CrashCount != 0 {
					t.Errorf("%d crashes are counted", o.CrashCount)
				}
				pids[r.pid(spec.ServerID)] = true
			}
			want := 1
			if !c.same {
				want += rounds
			}
			if len(pids) != want {
				t.Errorf("%d processes in %d rounds, want %d", len(pids), rounds, want)
			}
			t.Logf("T03: %s: %d rounds, %d processes, 0 crashes counted", c.name, rounds, len(pids))
			r.apply(deleted(spec))
			r.untilState(spec.ServerID, wire.StateAbsent)
		})
	}
}
