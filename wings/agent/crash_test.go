package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

func TestTheCrashGuardBacksOffAndGivesUp(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		spec.Env["CRASH"] = "10s"
		began := time.Now()
		r.apply(spec)
		o := r.untilState(spec.ServerID, 10*time.Minute, wire.StateFailed)
		// Four runs of 10 s, and waits of 1, 2 and 4 s between them.
		if took := time.Since(began).Round(time.Second); took < 47*time.Second || took > 50*time.Second {
			t.Errorf("gave up after %v, want 47 s", took)
		}
		if n := r.starts(spec.ServerID); n != 4 || o.CrashCount != 4 || o.Problem.Code != wire.ProblemCrashed || *o.ExitCode != 3 {
			t.Errorf("%d starts, observed %+v; want 4 starts, 4 crashes with code 3", n, o)
		}
		crashes := r.rep.of(wire.EventCrash)
		if len(crashes) != 4 {
			t.Fatalf("%d crash reports, want 4", len(crashes))
		}
		for i, e := range crashes {
			c := e.Crash
			if c.Attempt != int64(i+1) || c.GivenUp != (i == 3) || c.ExitCode != 3 || c.ContainerID == "" {
				t.Errorf("crash %d is reported as %+v", i, c)
			}
			if got := fmt.Sprint(c.LastLines); got != "[loading ready to play goodbye, cruel world]" {
				t.Errorf("crash %d ended with the lines %s", i, got)
			}
		}
		r.kill()
		r.start()
		pass(time.Hour)
		if n := r.starts(spec.ServerID); n != 4 {
			t.Errorf("a failed server was started by a restart of wings: %d starts", n)
		}
		spec.Generation, spec.RestartCount = 2, 1
		delete(spec.Env, "CRASH")
		r.apply(spec)
		if o := r.untilState(spec.ServerID, time.Minute, wire.StateRunning); o.CrashCount != 0 || o.Problem != nil {
			t.Errorf("after a restart by hand: %+v", o)
		}
	})
}

func TestTheCrashCountIsKeptAcrossWingsAndResetByAStableRun(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		for want := int64(1); want <= 2; want++ {
			if err := r.agent.Command(context.Background(), spec.ServerID, "crash"); err != nil {
				t.Fatal(err)
			}
			r.until(spec.ServerID, time.Minute, "crashed", func(o wire.Observed) bool { return o.CrashCount == want && o.State == wire.StateCrashed })
			r.kill()
			r.start()
			if o := r.untilState(spec.ServerID, time.Minute, wire.StateRunning); o.CrashCount != want {
				t.Errorf("the crash count is %d after a kill of wings, want %d", o.CrashCount, want)
			}
		}
		pass(599*time.Second - time.Minute)
		if o := r.get(spec.ServerID); o.CrashCount != 2 {
			t.Errorf("the crash count is %d before the run is stable, want 2", o.CrashCount)
		}
		pass(2 * time.Minute)
		if o := r.get(spec.ServerID); o.CrashCount != 0 || o.State != wire.StateRunning {
			t.Errorf("after a stable run: %+v, want no crashes", o)
		}
	})
}

func TestAGameThatRunsOutOfMemorySaysSo(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		spec.Crash.MaxAttempts = 0
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		r.process(spec.ServerID).OOM()
		o := r.untilState(spec.ServerID, time.Minute, wire.StateFailed)
		if !o.OOMKilled || o.Problem.Code != wire.ProblemOutOfMemory || r.starts(spec.ServerID) != 1 {
			t.Errorf("out of memory with no attempts is observed as %+v after %d starts", o, r.starts(spec.ServerID))
		}
		if c := r.rep.of(wire.EventCrash); len(c) != 1 || !c[0].Crash.OOMKilled || !c[0].Crash.GivenUp {
			t.Errorf("crash reports %+v", c)
		}
	})
}

func TestAGameThatIsStoppedFromInsideRests(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		if err := r.agent.Command(context.Background(), spec.ServerID, "stop"); err != nil {
			t.Fatal(err)
		}
		o := r.untilState(spec.ServerID, time.Minute, wire.StateStopped)
		if o.Problem != nil || o.CrashCount != 0 || len(r.rep.of(wire.EventCrash)) != 0 {
			t.Errorf("a clean end is observed as %+v", o)
		}
		pass(time.Hour)
		if n := r.starts(spec.ServerID); n != 1 {
			t.Errorf("it was started %d times, want 1", n)
		}
		spec.Generation, spec.RestartCount = 2, 1
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
	})
}

func TestAnEngineThatIsAwayLosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		one, two := running(1), running(2)
		r.apply(one)
		before := r.untilState(one.ServerID, time.Minute, wire.StateRunning)
		r.m.SetAway(true)
		r.apply(two)
		r.until(two.ServerID, time.Minute, "told of the engine", func(o wire.Observed) bool {
			return o.Problem != nil && o.Problem.Code == wire.ProblemEngine
		})
		pass(10 * time.Minute)
		r.m.SetAway(false)
		r.untilState(two.ServerID, 2*time.Minute, wire.StateRunning)
		after := r.untilState(one.ServerID, 2*time.Minute, wire.StateRunning)
		if after.ContainerID != before.ContainerID || r.starts(one.ServerID) != 1 || after.CrashCount != 0 || after.Problem != nil {
			t.Errorf("after the engine was away: %+v with %d starts, want the same run", after, r.starts(one.ServerID))
		}
		text, _, gaps := r.lines(one.ServerID, 0)
		if len(gaps) != 0 || len(text) == 0 {
			t.Errorf("console %q with gaps %v", text, gaps)
		}
	})
}

func TestT03_AnEngineRestartIsNoCrash(t *testing.T) {
	cases := []struct {
		name   string
		live   bool
		starts int
	}{
		{"with live restore the game goes on", true, 1},
		{"without it the game is started exactly once", false, 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				spec := running(1)
				r.apply(spec)
				r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
				for round := 1; round <= 20; round++ {
					r.m.RestartEngine(c.live)
					pass(30 * time.Second)
					o := r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
					if want := 1 + round*(c.starts-1); r.starts(spec.ServerID) != want || o.CrashCount != 0 {
						t.Fatalf("round %d: %d starts and %d crashes, want %d and 0", round, r.starts(spec.ServerID), o.CrashCount, want)
					}
				}
				t.Logf("T03 (fake engine, live restore %v): 20 restarts, %d starts, 0 crashes", c.live, r.starts(spec.ServerID))
			})
		})
	}
}

// However long an engine was away, a server that has to run does not wait longer for being looked at.
func TestAnEngineThatWasAwayForLongIsNoticedSoon(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		for _, long := range []time.Duration{time.Minute, time.Hour} {
			r.m.SetAway(true)
			pass(long)
			r.m.RestartEngine(false) // its games ended with it
			r.m.SetAway(false)
			r.until(spec.ServerID, engineMax+time.Second, "it runs again", func(o wire.Observed) bool { return o.State == wire.StateRunning && o.Settled })
		}
	})
}

func TestAnExitRightBeforeTheEngineGoesAwayIsForgiven(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		spec.Crash.MaxAttempts = 0
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		r.process(spec.ServerID).Exit(143) // a dockerd that is being stopped: SIGTERM first
		r.untilState(spec.ServerID, time.Minute, wire.StateFailed)
		pass(10 * time.Second) // the others take their time to end
		r.m.SetAway(true)
		pass(time.Second)
		r.m.SetAway(false)
		o := r.untilState(spec.ServerID, 2*time.Minute, wire.StateRunning)
		if o.CrashCount != 0 || r.starts(spec.ServerID) != 2 {
			t.Errorf("observed %+v after %d starts, want no crash and 2", o, r.starts(spec.ServerID))
		}
	})
}

func TestAPoliteExitWhileTheMachineShutsDownIsNotTheEndOfIt(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		r.process(spec.ServerID).Exit(0) // the engine stops its games, wings still looks
		r.untilState(spec.ServerID, time.Minute, wire.StateStopped)
		r.kill()
		r.m.RestartEngine(false)
		pass(time.Minute)
		r.start()
		o := r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		if o.CrashCount != 0 || r.starts(spec.ServerID) != 2 {
			t.Errorf("observed %+v after %d starts", o, r.starts(spec.ServerID))
		}
		r.process(spec.ServerID).Exit(0) // and this time a player typed it
		r.untilState(spec.ServerID, time.Minute, wire.StateStopped)
		pass(time.Minute)
		r.kill()
		r.start()
		pass(time.Minute)
		if o := r.get(spec.ServerID); o.State != wire.StateStopped || r.starts(spec.ServerID) != 2 {
			t.Errorf("a game that was stopped from inside is %s after %d starts", o.State, r.starts(spec.ServerID))
		}
	})
}

func TestInstallsThatFail(t *testing.T) {
	t.Run("the exit code is honoured and a reinstall tries again", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			spec := installing(running(1), map[string]string{"EXIT": "7", "SECRET": "hunter2"})
			r.apply(spec)
			o := r.untilState(spec.ServerID, time.Minute, wire.StateInstallFailed)
			if o.Installed || o.Problem.Code != wire.ProblemInstallFailed || r.starts(spec.ServerID) != 0 {
				t.Errorf("observed %+v, problem %+v", o, o.Problem)
			}
			rep := r.rep.of(wire.EventInstalled)
			if len(rep) != 1 || rep[0].Install.ExitCode != 7 || rep[0].Install.Log != "downloading\nunpacked" {
				t.Errorf("reports %+v", rep)
			}
			text, _, _ := r.lines(spec.ServerID, 0)
			if strings.Contains(strings.Join(text, "\n"), "hunter2") {
				t.Errorf("the console shows the environment: %q", text)
			}
			pass(time.Hour)
			if got := r.get(spec.ServerID); got.State != wire.StateInstallFailed {
				t.Errorf("after an hour it is %s", got.State)
			}
			spec.Install.Env = nil
			spec.Generation, spec.ReinstallCount = 2, 1
			r.apply(spec)
			r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		})
	})
	t.Run("one that takes too long is ended", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			spec := installing(running(1), map[string]string{"TAKES": "1h"})
			r.apply(spec)
			o := r.untilState(spec.ServerID, 10*time.Minute, wire.StateInstallFailed)
			if o.Problem.Code != wire.ProblemInstallTimeout || !r.rep.of(wire.EventInstalled)[0].Install.TimedOut {
				t.Errorf("problem %+v", o.Problem)
			}
		})
	})
	t.Run("wings is killed meanwhile and reads the exit code afterwards", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			spec := installing(running(1), map[string]string{"TAKES": "20s", "EXIT": "9"})
			r.apply(spec)
			r.until(spec.ServerID, time.Minute, "installing", func(o wire.Observed) bool { return o.State == wire.StateInstalling })
			pass(5 * time.Second)
			r.kill()
			pass(time.Minute)
			r.start()
			r.untilState(spec.ServerID, time.Minute, wire.StateInstallFailed)
			if rep := r.rep.of(wire.EventInstalled); len(rep) != 1 || rep[0].Install.ExitCode != 9 || rep[0].Install.Log != "downloading\nunpacked" {
				t.Errorf("reports %+v", rep)
			}
		})
	})
	t.Run("wings is killed meanwhile and re-attaches", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			spec := installing(running(1), map[string]string{"TAKES": "60s"})
			r.apply(spec)
			pass(5 * time.Second)
			before := r.containers()[0].ID
			r.kill()
			r.start()
			pass(5 * time.Second)
			if now := r.containers(); len(now) != 1 || now[0].ID != before || !now[0].Running {
				t.Errorf("containers %+v, want the same install", now)
			}
			r.untilState(spec.ServerID, 2*time.Minute, wire.StateRunning)
			if rep := r.rep.of(wire.EventInstalled); len(rep) != 1 || rep[0].Install.Log != "downloading\nunpacked" {
				t.Errorf("reports %+v", rep)
			}
		})
	})
	t.Run("one that the engine interrupted runs again and is never marked installed", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			spec := installing(running(1), map[string]string{"TAKES": "60s"})
			r.apply(spec)
			pass(5 * time.Second)
			r.m.RestartEngine(false)
			pass(10 * time.Second)
			if o := r.get(spec.ServerID); o.Installed || o.State != wire.StateInstalling {
				t.Errorf("an interrupted install is observed as %+v", o)
			}
			r.untilState(spec.ServerID, 5*time.Minute, wire.StateRunning)
		})
	})
}

func TestDeletingWhileInstallingOrStubborn(t *testing.T) {
	t.Run("the install is ended", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			spec := installing(running(1), map[string]string{"TAKES": "1h"})
			r.apply(spec)
			pass(5 * time.Second)
			r.apply(deleted(spec))
			r.untilState(spec.ServerID, time.Minute, wire.StateAbsent)
		})
	})
	t.Run("a game that does not listen is killed after its grace", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			spec := running(1)
			spec.Env["STUBBORN"] = "1"
			r.apply(spec)
			r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
			r.apply(deleted(spec))
			pass(9 * time.Second)
			if o := r.get(spec.ServerID); o.State != wire.StateDeleting {
				t.Errorf("within its grace it is %s, want deleting", o.State)
			}
			r.untilState(spec.ServerID, time.Minute, wire.StateAbsent)
			if n := len(r.containers()); n != 0 {
				t.Errorf("%d containers are left", n)
			}
		})
	})
}

func TestAContainerRemovedFromOutsideIsMadeAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		o := r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		if err := r.eng.Remove(context.Background(), "test.remove", o.ContainerID); err != nil {
			t.Fatal(err)
		}
		after := r.until(spec.ServerID, time.Minute, "running anew", func(n wire.Observed) bool {
			return n.State == wire.StateRunning && n.ContainerID != o.ContainerID
		})
		if after.CrashCount != 0 || r.starts(spec.ServerID) != 2 {
			t.Errorf("observed %+v after %d starts", after, r.starts(spec.ServerID))
		}
		if _, _, gaps := r.lines(spec.ServerID, 1); len(gaps) != 1 {
			t.Errorf("gaps %v, want one: what it printed last nobody knows", gaps)
		}
	})
}

func TestT20_AfterAMachineRebootEveryWishedServerComesBackWithoutAPanel(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const n = 20
		for i := range n {
			spec := running(i)
			if i%4 == 0 {
				spec.Desired = wire.DesiredStopped
			}
			r.apply(spec)
		}
		for i := range n {
			want := wire.StateRunning
			if i%4 == 0 {
				want = wire.StateStopped
			}
			r.untilState(serverID(i), time.Minute, want)
		}
		r.kill()
		r.m.RestartEngine(false)
		for i, c := range r.containers() {
			if i%2 == 0 { // half of them did not even survive as containers
				_ = r.eng.Remove(context.Background(), "test.remove", c.ID)
			}
		}
		r.m.SetAway(true) // the engine comes up after wings
		r.rep.setRefuse(errors.New("no panel"))
		r.start()
		pass(time.Minute)
		r.m.SetAway(false)
		back := 0
		for i := range n {
			want, starts := wire.StateRunning, 2
			if i%4 == 0 {
				want, starts = wire.StateStopped, 0
			}
			o := r.untilState(serverID(i), 5*time.Minute, want)
			if got := r.starts(serverID(i)); got != starts || o.CrashCount != 0 {
				t.Errorf("server %d has started %d times with %d crashes, want %d and 0", i, got, o.CrashCount, starts)
			}
			if want == wire.StateRunning {
				back++
			}
		}
		t.Logf("T20: %d of %d servers that should run came back, %d that should not did not", back, n*3/4, n/4)
	})
}
