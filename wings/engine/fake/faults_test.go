package fake_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/fake"
	"github.com/mambahost/mamba/wings/wire"
)

const image = "mamba.test/game"

// bubble runs f in a synctest bubble with a machine that has the test game, and closes it after.
func bubble(t *testing.T, f func(t *testing.T, m *fake.Machine, e engine.Engine)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := fake.New(fake.Config{})
		m.SetImage(image, fake.Image{Present: true, Game: fake.TestGame})
		e := m.Engine("node1")
		defer m.Close()
		defer e.Close()
		f(t, m, e)
	})
}

func specOf(server string, argv ...string) engine.ContainerSpec {
	return engine.ContainerSpec{
		Name: "mh-" + server, ServerID: server, TenantID: "t", Epoch: 1, Role: engine.RoleGame,
		ImageID: "sha256:" + image, Command: append([]string{"/game"}, argv...), WorkDir: "/home/container", DataDir: "/data",
		UID: 988, GID: 988, Stdin: true, Limits: wire.Limits{CPUMillicores: 1000, MemoryMiB: 64, DiskMiB: 64, PIDs: 32},
	}
}

func create(t *testing.T, e engine.Engine, spec engine.ContainerSpec) string {
	t.Helper()
	id, err := e.Create(t.Context(), "engine.create", spec)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func running(t *testing.T, e engine.Engine, server string, argv ...string) string {
	t.Helper()
	id := create(t, e, specOf(server, argv...))
	if err := e.Start(t.Context(), "engine.start", id); err != nil {
		t.Fatal(err)
	}
	return id
}

func isRunning(t *testing.T, e engine.Engine, id string) bool {
	t.Helper()
	c, err := e.Inspect(t.Context(), "look", id)
	if err != nil {
		t.Fatal(err)
	}
	return c.Running
}

var errInjected = errors.New("injected")

func TestFaultBeforeKeepsTheEffectFromHappening(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		m.Inject(fake.Fault{Op: "engine.create", Nth: 2, Before: errInjected})
		create(t, e, specOf("one"))
		if _, err := e.Create(t.Context(), "engine.create", specOf("two")); !errors.Is(err, errInjected) {
			t.Errorf("second create: %v", err)
		}
		create(t, e, specOf("three"))
		list, err := e.List(t.Context(), "engine.list")
		if err != nil || len(list) != 2 {
			t.Errorf("%d containers, %v; want the first and the third", len(list), err)
		}
	})
}

func TestFaultAfterLosesTheReplyOfAnEffectThatHappened(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		remove := m.Inject(fake.Fault{Op: "engine.create", After: errInjected})
		spec := specOf("one")
		for range 2 { // Nth 0: every call
			if id, err := e.Create(t.Context(), "engine.create", spec); !errors.Is(err, errInjected) || id != "" {
				t.Errorf("create: %q, %v", id, err)
			}
		}
		remove()
		create(t, e, spec)
		list, err := e.List(t.Context(), "engine.list")
		if err != nil || len(list) != 1 {
			t.Errorf("%d containers, %v", len(list), err)
		}
	})
}

func TestFaultsAreCountedPerLabelAndRecorded(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		m.Inject(fake.Fault{Op: "b", Nth: 1, Before: errInjected})
		for _, op := range []string{"a", "a", "b", "b"} {
			_, err := e.Info(t.Context(), op)
			if got := errors.Is(err, errInjected); got != (op == "b" && len(m.Calls()) == 3) {
				t.Errorf("call %d (%s): %v", len(m.Calls()), op, err)
			}
		}
		if !slices.Equal(m.Calls(), []string{"a", "a", "b", "b"}) {
			t.Errorf("calls %v", m.Calls())
		}
	})
}

func TestFaultDelayTakesBubbleTimeAndEndsWithTheCaller(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		m.Inject(fake.Fault{Op: "engine.info", Delay: time.Hour})
		begin := time.Now()
		if _, err := e.Info(t.Context(), "engine.info"); err != nil || time.Since(begin) != time.Hour {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin = time.Now()
		if _, err := e.Info(ctx, "engine.info"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
	})
}

// A hook kills the caller as SIGKILL kills wings: before the effect it does not happen, after it did.
func TestFaultHooksKillTheCallerOnEitherSideOfTheEffect(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after is %v", after), func(t *testing.T) {
			bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
				ctx, kill := context.WithCancel(t.Context())
				f := fake.Fault{Op: "engine.create", Nth: 1, HookBefore: kill}
				if after {
					f = fake.Fault{Op: "engine.create", Nth: 1, HookAfter: kill}
				}
				m.Inject(f)
				if id, err := e.Create(ctx, "engine.create", specOf("one")); !errors.Is(err, context.Canceled) || id != "" {
					t.Errorf("create: %q, %v", id, err)
				}
				list, err := m.Engine("node1").List(t.Context(), "engine.list")
				if err != nil || len(list) == 1 != after {
					t.Errorf("%d containers, %v", len(list), err)
				}
			})
		})
	}
}

func TestEveryMethodObeysFaultsUnderItsLabel(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		id := running(t, e, "one", "echo")
		ctx := t.Context()
		methods := map[string]func(op string) error{
			"info":    func(op string) error { _, err := e.Info(ctx, op); return err },
			"image":   func(op string) error { _, err := e.EnsureImage(ctx, op, wire.Image{Ref: image}, nil); return err },
			"network": func(op string) error { _, err := e.EnsureNetwork(ctx, op, "t"); return err },
			"unnet":   func(op string) error { return e.RemoveNetworkIfUnused(ctx, op, "t") },
			"create":  func(op string) error { _, err := e.Create(ctx, op, specOf("two")); return err },
			"start":   func(op string) error { return e.Start(ctx, op, id) },
			"inspect": func(op string) error { _, err := e.Inspect(ctx, op, id); return err },
			"list":    func(op string) error { _, err := e.List(ctx, op); return err },
			"stdin":   func(op string) error { _, err := e.Stdin(ctx, op, id); return err },
			"logs":    func(op string) error { _, err := e.Logs(ctx, op, id, time.Time{}); return err },
			"signal":  func(op string) error { return e.Signal(ctx, op, id, "SIGKILL") },
			"wait":    func(op string) error { _, err := e.Wait(ctx, op, id); return err },
			"remove":  func(op string) error { return e.Remove(ctx, op, id) },
		}
		for _, name := range []string{"info", "image", "network", "unnet", "create", "start", "inspect", "list", "stdin", "logs", "signal", "wait", "remove"} {
			for _, f := range []fake.Fault{{Before: errInjected}, {After: errInjected}} {
				f.Op, f.Nth = "op."+name, 1
				remove := m.Inject(f)
				if err := methods[name](f.Op); !errors.Is(err, errInjected) {
					t.Errorf("%s with %+v: %v", name, f, err)
				}
				remove()
			}
		}
	})
}

func TestAnEngineThatIsAwayAnswersNothingAndKeepsItsGames(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		id := running(t, e, "one", "echo")
		stream, err := e.Logs(t.Context(), "engine.logs", id, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		last := <-stream.C
		waited := make(chan error)
		go func() {
			_, err := e.Wait(t.Context(), "engine.wait", id)
			waited <- err
		}()
		synctest.Wait()
		m.SetAway(true)
		if err := <-waited; !errors.Is(err, fake.ErrAway) {
			t.Errorf("wait: %v", err)
		}
		if _, ok := <-stream.C; ok || !errors.Is(stream.Err(), fake.ErrAway) {
			t.Errorf("log: open %v, %v", ok, stream.Err())
		}
		if _, err := e.Inspect(t.Context(), "engine.inspect", id); !errors.Is(err, fake.ErrAway) || errors.Is(err, engine.ErrNotFound) {
			t.Errorf("inspect: %v", err)
		}
		p, err := m.Process(id)
		if err != nil {
			t.Fatal(err)
		}
		p.Println("said while the engine was away")
		m.SetAway(false)
		stream, err = e.Logs(t.Context(), "engine.logs", id, last.At)
		if err != nil {
			t.Fatal(err)
		}
		if line := <-stream.C; line.Text != "said while the engine was away" {
			t.Errorf("line %q", line.Text)
		}
		if !isRunning(t, e, id) {
			t.Error("the game ended")
		}
	})
}

func TestAnEngineRestartKeepsGamesOnlyWithLiveRestore(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		id := running(t, e, "one", "stubborn")
		m.RestartEngine(true)
		if !isRunning(t, e, id) {
			t.Error("the game ended although live-restore is on")
		}
		waited := make(chan error)
		go func() {
			_, err := e.Wait(t.Context(), "engine.wait", id)
			waited <- err
		}()
		synctest.Wait()
		m.RestartEngine(false)
		if err := <-waited; !errors.Is(err, fake.ErrAway) {
			t.Errorf("a wait over the engine's end: %v", err)
		}
		if isRunning(t, e, id) {
			t.Error("the game runs although live-restore is off")
		}
		exit, err := e.Wait(t.Context(), "engine.wait", id)
		if err != nil || exit.Code != 137 || exit.OOMKilled {
			t.Errorf("exit %+v, %v", exit, err)
		}
	})
}

func TestAnotherConnectionFindsTheSameContainersAndOnlyItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		id := running(t, e, "one", "echo")
		if err := e.Close(); err != nil { // wings ends
			t.Fatal(err)
		}
		for node, want := range map[string]int{"node1": 1, "node2": 0} {
			list, err := m.Engine(node).List(t.Context(), "engine.list")
			if err != nil || len(list) != want {
				t.Errorf("%s has %d, %v", node, len(list), err)
			}
		}
		if !isRunning(t, m.Engine("node1"), id) {
			t.Error("the game ended with wings")
		}
	})
}

func TestAPullTakesItsTimeAndIsShared(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		m.SetImage("slow", fake.Image{PullTime: 10 * time.Second})
		begin := time.Now()
		first, leave := context.WithCancel(t.Context())
		done := make(chan error, 2)
		var percents []int
		go func() {
			_, err := e.EnsureImage(first, "engine.image", wire.Image{Ref: "slow"}, func(p int, _ string) { percents = append(percents, p) })
			done <- err
		}()
		synctest.Wait()
		go func() {
			_, err := e.EnsureImage(t.Context(), "engine.image", wire.Image{Ref: "slow"}, nil)
			done <- err
		}()
		time.Sleep(5500 * time.Millisecond)
		leave()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("who left: %v", err)
		}
		if err := <-done; err != nil || time.Since(begin) < 10*time.Second {
			t.Errorf("who stayed: %v after %v", err, time.Since(begin))
		}
		if !slices.Equal(percents, []int{0, 10, 20, 30, 40, 50}) {
			t.Errorf("progress %v", percents)
		}
		begin = time.Now()
		if _, err := e.EnsureImage(t.Context(), "engine.image", wire.Image{Ref: "slow"}, nil); err != nil || time.Since(begin) != 0 {
			t.Errorf("a present image took %v, %v", time.Since(begin), err)
		}
	})
}

func TestAnUnavailableImageBecomesAvailable(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		m.SetImage("builtin:demo", fake.Image{Unavailable: true})
		demo := wire.Image{Builtin: "demo"}
		if _, err := e.EnsureImage(t.Context(), "engine.image", demo, nil); !errors.Is(err, engine.ErrImageUnavailable) {
			t.Errorf("unavailable: %v", err)
		}
		m.SetImage("builtin:demo", fake.Image{Present: true})
		if _, err := e.EnsureImage(t.Context(), "engine.image", demo, nil); err != nil {
			t.Errorf("available: %v", err)
		}
	})
}

func TestTheNetworkPoolEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := fake.New(fake.Config{Subnets: 1})
		defer m.Close()
		e := m.Engine("n")
		if _, err := e.EnsureNetwork(t.Context(), "engine.network", "one"); err != nil {
			t.Fatal(err)
		}
		if _, err := e.EnsureNetwork(t.Context(), "engine.network", "two"); !errors.Is(err, engine.ErrNoSubnet) {
			t.Errorf("beyond the pool: %v", err)
		}
		if err := e.RemoveNetworkIfUnused(t.Context(), "engine.network", "one"); err != nil {
			t.Fatal(err)
		}
		if _, err := e.EnsureNetwork(t.Context(), "engine.network", "two"); err != nil {
			t.Errorf("after one was given back: %v", err)
		}
	})
}

func TestPortsClashByAddress(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		defer m.TakePort("127.0.0.1", 25565, wire.TCP)()
		for i, c := range []struct {
			ip    string
			port  int
			proto wire.Protocol
			taken bool
		}{
			{"127.0.0.1", 25565, wire.TCP, true},
			{"0.0.0.0", 25565, wire.TCP, true},
			{"127.0.0.2", 25565, wire.TCP, false},
			{"127.0.0.1", 25565, wire.UDP, false},
			{"127.0.0.1", 25566, wire.TCP, false},
		} {
			spec := specOf(fmt.Sprint("s", i), "echo")
			spec.Ports = []wire.Port{{Name: "game", HostIP: c.ip, HostPort: c.port, ContainerPort: 1, Protocol: c.proto}}
			err := e.Start(t.Context(), "engine.start", create(t, e, spec))
			if errors.Is(err, engine.ErrPortTaken) != c.taken {
				t.Errorf("%s:%d/%s: %v", c.ip, c.port, c.proto, err)
			}
		}
	})
}

func TestAGameWithoutHandlersEndsBySignals(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		m.SetImage(image, fake.Image{Present: true, Game: func(p *fake.Process) int {
			if p.Sleep(time.Hour) {
				return 0
			}
			return 1 // comes too late: the run is over
		}})
		for signal, code := range map[string]int{"SIGTERM": 143, "SIGINT": 130, "KILL": 137} {
			id := running(t, e, "s"+signal)
			if err := e.Signal(t.Context(), "engine.signal", id, signal); err != nil {
				t.Fatal(err)
			}
			if exit, err := e.Wait(t.Context(), "engine.wait", id); err != nil || exit.Code != code {
				t.Errorf("%s: %+v, %v", signal, exit, err)
			}
		}
		id := running(t, e, "sleeper")
		if exit, err := e.Wait(t.Context(), "engine.wait", id); err != nil || exit.Code != 0 {
			t.Errorf("left alone: %+v, %v", exit, err)
		}
	})
}

func TestAGameThatDoesNotReadFailsTheWriter(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		in, err := e.Stdin(t.Context(), "engine.stdin", running(t, e, "one", "stubborn"))
		if err != nil {
			t.Fatal(err)
		}
		begin, lines := time.Now(), 0
		for ; err == nil && lines < 1000; lines++ {
			_, err = io.WriteString(in, "hello\n")
		}
		if err == nil || time.Since(begin) != 5*time.Second || lines < 10 {
			t.Errorf("after %d lines and %v: %v", lines, time.Since(begin), err)
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(in, "more\n"); err == nil {
			t.Error("a closed input took a line")
		}
	})
}

func TestALogIsBoundedAndGrowsInTime(t *testing.T) {
	bubble(t, func(t *testing.T, m *fake.Machine, e engine.Engine) {
		id := running(t, e, "one", "lines", "60000")
		if _, err := e.Wait(t.Context(), "engine.wait", id); err != nil {
			t.Fatal(err)
		}
		stream, err := e.Logs(t.Context(), "engine.logs", id, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		var n int
		var last engine.LogLine
		for line := range stream.C {
			if !line.At.After(last.At) {
				t.Fatalf("line %d does not grow in time", n)
			}
			last = line
			n++
		}
		if n > 50_000 || n < 25_000 || last.Text != "line 60000" {
			t.Errorf("%d lines, the last %q", n, last.Text)
		}
	})
}
