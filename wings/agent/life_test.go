package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/fake"
	"github.com/mambahost/mamba/wings/wire"
)

func TestAServerIsInstalledStartedStoppedAndDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.m.SetImage(gameRef, fake.Image{PullTime: 20 * time.Second, Game: game})
		spec := installing(running(1), map[string]string{"TAKES": "5s"})
		if o := r.apply(spec); o.Generation != 1 || o.Settled {
			t.Errorf("the reply to a new spec is %+v, want generation 1 and not settled", o)
		}
		o := r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		if !o.Installed || o.ContainerID == "" || o.StartedAt.IsZero() || o.Problem != nil {
			t.Errorf("a running server is observed as %+v", o)
		}
		want := []wire.State{wire.StateAbsent, wire.StatePulling, wire.StateInstalling, wire.StateStarting, wire.StateRunning}
		if got := r.rep.states(spec.ServerID); !slices.Equal(got, want) && !slices.Equal(got, want[1:]) {
			t.Errorf("states %v, want %v", got, want)
		}
		installed := r.rep.of(wire.EventInstalled)
		if len(installed) != 1 || installed[0].Install.ExitCode != 0 || installed[0].Install.Log != "downloading\nunpacked" {
			t.Errorf("install reports %+v", installed)
		}
		stop := stopped(spec)
		r.apply(stop)
		o = r.untilState(spec.ServerID, time.Minute, wire.StateStopped)
		if o.ExitCode == nil || *o.ExitCode != 0 || o.CrashCount != 0 {
			t.Errorf("a stopped server is observed as %+v", o)
		}
		r.apply(deleted(stop))
		o = r.untilState(spec.ServerID, time.Minute, wire.StateAbsent)
		if o.DeleteID != "delete1" {
			t.Errorf("delete id %q, want delete1", o.DeleteID)
		}
		if got := r.containers(); len(got) != 0 {
			t.Errorf("%d containers are left", len(got))
		}
		if got := r.m.Networks(); len(got) != 0 {
			t.Errorf("networks %v are left", got)
		}
		if _, err := os.Stat(filepath.Join(r.dir, "servers", spec.ServerID)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the server's folder is left: %v", err)
		}
		for i, e := range r.rep.of(wire.EventObserved)[1:] {
			if before := r.rep.of(wire.EventObserved)[i]; e.Observed.Revision <= before.Observed.Revision {
				t.Errorf("revision %d follows %d", e.Observed.Revision, before.Observed.Revision)
			}
		}
	})
}

func TestPullProgressIsShown(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.m.SetImage(gameRef, fake.Image{PullTime: 20 * time.Second, Game: game})
		spec := running(1)
		r.apply(spec)
		o := r.until(spec.ServerID, time.Minute, "half pulled", func(o wire.Observed) bool { return o.Progress.Percent >= 50 })
		if o.State != wire.StatePulling || o.Progress.Step != "pull" || o.Progress.Message == "" {
			t.Errorf("half pulled is observed as %+v", o)
		}
	})
}

func TestAPullIsLetGoOfWhenTheServerIsDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.m.SetImage(gameRef, fake.Image{PullTime: 10 * time.Hour, Game: game})
		spec := running(1)
		r.apply(spec)
		pass(time.Minute)
		r.apply(deleted(spec))
		r.untilState(spec.ServerID, time.Minute, wire.StateAbsent)
	})
}

func TestFencing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		spec.PlacementEpoch, spec.Generation = 5, 7
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		older := stopped(spec)
		older.PlacementEpoch, older.Generation = 4, 99
		if _, err := r.agent.Apply(context.Background(), older); !errors.Is(err, ErrSuperseded) {
			t.Errorf("an older epoch is answered with %v, want ErrSuperseded", err)
		}
		behind := stopped(spec)
		behind.Generation = 6
		if o := r.apply(behind); o.Generation != 7 || o.State != wire.StateRunning {
			t.Errorf("an older generation is answered with %+v, want what is", o)
		}
		pass(time.Minute)
		if o := r.get(spec.ServerID); o.State != wire.StateRunning {
			t.Errorf("the server is %s after two old specs, want running", o.State)
		}
		invalid := running(1)
		invalid.Command = nil
		if _, err := r.agent.Apply(context.Background(), invalid); !errors.Is(err, ErrInvalid) {
			t.Errorf("an invalid spec is answered with %v, want ErrInvalid", err)
		}
		newer := spec
		newer.PlacementEpoch, newer.Generation = 6, 1
		before := r.get(spec.ServerID).ContainerID
		r.apply(newer)
		o := r.until(spec.ServerID, time.Minute, "of epoch 6", func(o wire.Observed) bool { return o.PlacementEpoch == 6 && o.Settled })
		if o.ContainerID != before || o.State != wire.StateRunning {
			t.Errorf("a new placement on the same node is observed as %+v, want the running game kept", o)
		}
	})
}

func TestADeletedServerStaysDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		gone := deleted(spec)
		r.apply(gone)
		first := r.untilState(spec.ServerID, time.Minute, wire.StateAbsent)
		for range 2 { // before and after a restart of wings
			if o := r.apply(gone); o.State != wire.StateAbsent || o.DeleteID != first.DeleteID || !o.Settled {
				t.Errorf("a repeated absence is answered with %+v", o)
			}
			back := spec
			back.Generation = 50
			if _, err := r.agent.Apply(context.Background(), back); !errors.Is(err, ErrSuperseded) {
				t.Errorf("a spec of the deleted epoch is answered with %v, want ErrSuperseded", err)
			}
			list, err := r.agent.List()
			if err != nil || len(list.Observed) != 1 || list.Observed[0].State != wire.StateAbsent {
				t.Errorf("the list is %+v, %v; want the absence", list, err)
			}
			r.kill()
			r.start()
		}
		again := spec
		again.PlacementEpoch++
		r.apply(again)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		if n := r.starts(spec.ServerID); n != 1 {
			t.Errorf("the placed-again server has started %d times in its data, want 1: the old data is gone", n)
		}
	})
}

func TestAbsenceFromASyncDeletesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		one, two := running(1), running(2)
		r.apply(one)
		r.apply(two)
		r.untilState(one.ServerID, time.Minute, wire.StateRunning)
		r.untilState(two.ServerID, time.Minute, wire.StateRunning)
		for range 3 {
			reply, err := r.agent.Sync(context.Background(), wire.Sync{Specs: []wire.Spec{two}})
			if err != nil || len(reply.Observed) != 2 {
				t.Fatalf("sync: %+v, %v", reply, err)
			}
		}
		pass(time.Hour)
		if o := r.get(one.ServerID); o.State != wire.StateRunning {
			t.Errorf("a server that the sync leaves out is %s, want running", o.State)
		}
		unknown := r.rep.of(wire.EventUnknown)
		if len(unknown) != 1 || unknown[0].Unknown.ServerID != one.ServerID || !unknown[0].Unknown.Running {
			t.Errorf("reported as unknown: %+v, want server 1 once", unknown)
		}
	})
}

func TestAContainerThatNobodyKnowsIsReportedOnceAndLeftAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(9)
		id, err := r.eng.Create(context.Background(), "test.create", engine.ContainerSpec{Name: gameName(spec.ServerID), ServerID: spec.ServerID,
			TenantID: tenantID, Epoch: 1, Role: engine.RoleGame, ImageID: "sha256:" + gameRef, Command: []string{"/game"}, DataDir: t.TempDir(),
			Limits: spec.Limits, UID: 988, GID: 988})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.eng.Start(context.Background(), "test.start", id); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Minute)
		unknown := r.rep.of(wire.EventUnknown)
		if len(unknown) != 1 || unknown[0].Unknown.ContainerID != id || !unknown[0].Unknown.Running {
			t.Errorf("reported as unknown: %+v, want the container once", unknown)
		}
		if all := r.containers(); len(all) != 1 || !all[0].Running {
			t.Errorf("containers: %+v, want it running", all)
		}
	})
}

func TestRestartKillAndReinstallCountersActOnceHoweverFarBehind(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := installing(running(1), nil)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		spec.Generation, spec.RestartCount = 2, 5
		r.apply(spec)
		o := r.until(spec.ServerID, time.Minute, "restarted", func(o wire.Observed) bool { return o.RestartCount == 5 && o.Settled })
		if n := r.starts(spec.ServerID); n != 2 || o.CrashCount != 0 {
			t.Errorf("after a restart counter of 5 the game has started %d times with %d crashes, want 2 and 0", n, o.CrashCount)
		}
		spec.Generation, spec.KillCount, spec.Env = 3, 2, map[string]string{"STUBBORN": "1"}
		r.apply(spec)
		began := time.Now()
		o = r.until(spec.ServerID, time.Minute, "killed and back", func(o wire.Observed) bool { return o.KillCount == 2 && o.Settled })
		if n := r.starts(spec.ServerID); n != 3 || *o.ExitCode != 137 || time.Since(began) > 5*time.Second {
			t.Errorf("after a kill: %d starts, exit code %d, %v; want 3, 137 and no grace", n, *o.ExitCode, time.Since(began))
		}
		spec.Generation, spec.ReinstallCount = 4, 9
		r.apply(spec)
		began = time.Now()
		r.until(spec.ServerID, time.Minute, "reinstalled", func(o wire.Observed) bool { return o.ReinstallCount == 9 && o.Settled && o.Installed })
		if time.Since(began) < 10*time.Second {
			t.Errorf("a stubborn game was ended after %v, want its grace of 10 s first", time.Since(began))
		}
		raw, _ := os.ReadFile(filepath.Join(r.dir, "servers", spec.ServerID, "data", "installs"))
		if n := strings.Count(string(raw), "\n"); n != 2 {
			t.Errorf("the install script ran %d times, want 2", n)
		}
		if all := r.containers(); len(all) != 1 {
			t.Errorf("%d containers, want the game's only", len(all))
		}
	})
}

func TestEveryChangeIsReportedWithARevisionOfItsOwn(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := stopped(running(1))
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateStopped)
		spec.Generation, spec.RestartCount, spec.KillCount = 3, 4, 5 // changes nothing but what was reached
		r.apply(spec)
		pass(time.Second)
		spec.Generation, spec.Desired, spec.Crash.MaxAttempts = 4, wire.DesiredRunning, 9
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		_ = r.agent.Command(context.Background(), spec.ServerID, "crash")
		r.until(spec.ServerID, time.Minute, "crashed", func(o wire.Observed) bool {
			if o.CrashCount == 1 && o.State == wire.StateRunning && o.StartedAt.Before(o.ExitedAt) {
				t.Errorf("a crash shows up while the state still says running: %+v", o)
			}
			return o.State == wire.StateCrashed
		})
		reached := false
		last := wire.Observed{}
		for _, e := range r.rep.of(wire.EventObserved) {
			if e.Observed.Revision != last.Revision+1 {
				t.Errorf("revision %d follows %d", e.Observed.Revision, last.Revision)
			}
			last = *e.Observed
			reached = reached || (last.Generation == 3 && last.RestartCount == 4 && last.KillCount == 5 && last.Settled)
		}
		if !reached {
			t.Errorf("the counters of a stopped server were never reported as reached")
		}
		if o := r.get(spec.ServerID); o.Revision != last.Revision || o.State != last.State {
			t.Errorf("what is shown (%d, %s) is not what was reported last (%d, %s)", o.Revision, o.State, last.Revision, last.State)
		}
	})
}

func TestAChangedSpecIsTakenAtTheNextStart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		before := r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		spec.Generation, spec.Limits.MemoryMiB = 2, 1024
		r.apply(spec)
		after := r.until(spec.ServerID, time.Minute, "settled", func(o wire.Observed) bool { return o.Generation == 2 && o.Settled })
		if after.ContainerID != before.ContainerID || r.starts(spec.ServerID) != 1 {
			t.Errorf("a changed limit replaced the running container")
		}
		spec.Generation, spec.RestartCount = 3, 1
		r.apply(spec)
		after = r.until(spec.ServerID, time.Minute, "settled", func(o wire.Observed) bool { return o.RestartCount == 1 && o.Settled })
		if after.ContainerID == before.ContainerID {
			t.Errorf("after a restart the container is still the one of the old spec")
		}
		if got := r.process(spec.ServerID).Spec.Limits.MemoryMiB; got != 1024 {
			t.Errorf("memory is %d MiB, want 1024", got)
		}
	})
}

func TestAGameThatIsNeverReadyIsStoppedAndFails(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		spec.Env["NEVER_READY"] = "1"
		r.apply(spec)
		o := r.untilState(spec.ServerID, 2*time.Minute, wire.StateFailed)
		if o.Problem == nil || o.Problem.Code != wire.ProblemNotReady || o.CrashCount != 0 {
			t.Errorf("never ready is observed as %+v, problem %+v", o, o.Problem)
		}
		pass(time.Hour)
		if n := r.starts(spec.ServerID); n != 1 {
			t.Errorf("a failed server was started %d times, want 1", n)
		}
		delete(spec.Env, "NEVER_READY")
		spec.Generation++
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
	})
}

func TestStartsThatCannotSucceed(t *testing.T) {
	t.Run("an image that is not to be had fails at once and says so", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			r.m.SetImage(gameRef, fake.Image{Unavailable: true})
			spec := installing(running(1), nil)
			r.apply(spec)
			o := r.untilState(spec.ServerID, time.Minute, wire.StateFailed)
			if o.Problem == nil || o.Problem.Code != wire.ProblemImageUnavailable || o.Installed {
				t.Errorf("observed %+v, problem %+v", o, o.Problem)
			}
			r.m.SetImage(gameRef, fake.Image{Present: true, Game: game})
			spec.Generation, spec.RestartCount = 2, 1
			r.apply(spec)
			r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		})
	})
	t.Run("a port that is taken is tried again and heals", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			spec := running(1)
			free := r.m.TakePort("127.0.0.1", spec.Ports[0].HostPort, wire.TCP)
			r.apply(spec)
			r.until(spec.ServerID, time.Minute, "told of the port", func(o wire.Observed) bool {
				return o.Problem != nil && o.Problem.Code == wire.ProblemPortTaken && !o.Settled
			})
			free()
			o := r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
			if o.Problem != nil || len(r.containers()) != 1 {
				t.Errorf("healed is observed as %+v with %d containers", o.Problem, len(r.containers()))
			}
		})
	})
	t.Run("a port that stays taken is given up", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			spec := running(1)
			r.m.TakePort("127.0.0.1", spec.Ports[0].HostPort, wire.TCP)
			r.apply(spec)
			o := r.untilState(spec.ServerID, 10*time.Minute, wire.StateFailed)
			if o.Problem == nil || o.Problem.Code != wire.ProblemPortTaken {
				t.Errorf("problem %+v", o.Problem)
			}
		})
	})
	t.Run("a config file that cannot be edited fails with its reason", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			spec := running(1)
			spec.Files = []wire.ConfigFile{{Path: "a.json", Format: "json", Create: true, Edits: []wire.Edit{{Key: "a", Value: "1"}}}}
			r.apply(spec)
			o := r.untilState(spec.ServerID, time.Minute, wire.StateFailed)
			if o.Problem == nil || o.Problem.Code != wire.ProblemConfig || r.starts(spec.ServerID) != 0 {
				t.Errorf("problem %+v after %d starts", o.Problem, r.starts(spec.ServerID))
			}
		})
	})
}

func TestARefusingReporterIsToldTheLatestLater(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		spec.Env["CRASH"] = "5s"
		spec.Crash.MaxAttempts = 1
		r.rep.setRefuse(errors.New("spool is full"))
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateFailed)
		if n := len(r.rep.events); n != 0 {
			t.Fatalf("%d events went through a refusing reporter", n)
		}
		r.rep.setRefuse(nil)
		pass(time.Minute)
		if got := r.rep.states(spec.ServerID); !slices.Equal(got, []wire.State{wire.StateFailed}) {
			t.Errorf("states %v, want the latest only", got)
		}
		if got := r.rep.of(wire.EventCrash); len(got) != 2 || !got[1].Crash.GivenUp {
			t.Errorf("%d crash reports, want both", len(got))
		}
	})
}

// crowded counts who asks the engine at one time.
type crowded struct {
	engine.Engine
	now, most atomic.Int64
}

func (c *crowded) Inspect(ctx context.Context, op, name string) (engine.Container, error) {
	for n := c.now.Add(1); ; {
		if most := c.most.Load(); n <= most || c.most.CompareAndSwap(most, n) {
			break
		}
	}
	defer c.now.Add(-1)
	pass(10 * time.Millisecond)
	return c.Engine.Inspect(ctx, op, name)
}

func TestManyServersDoNotCrowdTheEngine(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const many = 100
		for n := range many {
			spec := running(n + 1)
			r.apply(stopped(spec))
		}
		for n := range many {
			r.untilState(serverID(n+1), time.Minute, wire.StateStopped)
		}
		r.kill()
		crowd := &crowded{}
		r.wrap = func(e engine.Engine) engine.Engine { crowd.Engine = e; return crowd }
		r.start()
		for n := range many {
			r.until(serverID(n+1), time.Minute, "looked at", func(o wire.Observed) bool { return o.Settled })
		}
		if most := crowd.most.Load(); most < 2 || most > maxLooks {
			t.Errorf("%d servers asked the engine at one time, want up to %d", most, maxLooks)
		}
	})
}
