package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/fake"
	"github.com/mambahost/mamba/wings/wire"
)

// story is a life that uses every engine call: install, run, type, restart, stop, start, delete.
type story struct {
	what string
	spec func(s *wire.Spec)
	done func(o wire.Observed) bool
	also func(r *rig, id string)
}

func lifeStory() []story {
	return []story{
		{"installed and running", func(s *wire.Spec) {}, func(o wire.Observed) bool { return o.State == wire.StateRunning && o.Settled },
			func(r *rig, id string) { _ = r.agent.Command(context.Background(), id, "hello") }},
		{"restarted", func(s *wire.Spec) { s.RestartCount = 1 },
			func(o wire.Observed) bool { return o.RestartCount == 1 && o.State == wire.StateRunning && o.Settled }, nil},
		{"stopped", func(s *wire.Spec) {
			s.Desired, s.Stop = wire.DesiredStopped, wire.Stop{Kind: wire.StopSignal, Value: "SIGTERM", TimeoutS: 10}
		},
			func(o wire.Observed) bool { return o.State == wire.StateStopped && o.Settled }, nil},
		{"started with another limit", func(s *wire.Spec) { s.Desired, s.Limits.MemoryMiB = wire.DesiredRunning, 1024 },
			func(o wire.Observed) bool { return o.State == wire.StateRunning && o.Settled }, nil},
		{"deleted", func(s *wire.Spec) { s.Desired, s.DeleteID = wire.DesiredAbsent, "delete1" },
			func(o wire.Observed) bool { return o.State == wire.StateAbsent && o.Settled }, nil},
	}
}

// tell plays the story and returns how often the game started and the script ran. revive is called
// at every look and may replace wings.
func tell(t *testing.T, r *rig, revive func()) (starts, installs int) {
	t.Helper()
	spec := installing(running(1), map[string]string{"TAKES": "2s"})
	spec.Generation = 0
	spec.Install.Network = true
	for _, chapter := range lifeStory() {
		chapter.spec(&spec)
		spec.Generation++
		ok := eventually(5*time.Minute, func() bool {
			revive()
			if n := games(r); n > 1 {
				t.Fatalf("%s: %d game containers", chapter.what, n)
			}
			if _, err := r.agent.Apply(context.Background(), spec); err != nil && !errors.Is(err, ErrStopped) {
				t.Fatalf("%s: %v", chapter.what, err)
			}
			o := r.get(spec.ServerID)
			if chapter.what == "stopped" { // the next to last look at the data
				starts, installs = r.starts(spec.ServerID), count(r, spec.ServerID, "installs")
			}
			return o.Generation == spec.Generation && chapter.done(o)
		})
		if !ok {
			t.Fatalf("the server is not %s: %+v", chapter.what, r.get(spec.ServerID))
		}
		if chapter.also != nil {
			chapter.also(r, spec.ServerID)
		}
	}
	if left := r.containers(); len(left) != 0 {
		t.Errorf("%d containers are left", len(left))
	}
	if nets := r.m.Networks(); len(nets) != 0 {
		t.Errorf("networks %v are left", nets)
	}
	return starts, installs
}

func games(r *rig) (n int) {
	for _, c := range r.containers() {
		if c.Role == engine.RoleGame {
			n++
		}
	}
	return n
}

func count(r *rig, id, file string) int {
	raw, _ := os.ReadFile(filepath.Join(r.dir, "servers", id, "data", file))
	return strings.Count(string(raw), "\n")
}

func TestT04_EachEngineCallMayFailOrLoseItsReply(t *testing.T) {
	const nth = 3 // which call of each label goes wrong: the first three
	var converged, asked atomic.Int64
	t.Run("group", func(t *testing.T) {
		for _, op := range Ops() {
			for _, when := range []string{"before", "after", "slow"} {
				for n := 1; n <= nth; n++ {
					asked.Add(1)
					t.Run(fmt.Sprintf("%s %s call %d", op, when, n), func(t *testing.T) {
						inBubble(t, func(t *testing.T, r *rig) {
							lost := errors.New("connection reset by peer")
							f := fake.Fault{Op: op, Nth: n}
							switch when {
							case "before":
								f.Before = lost
							case "after":
								f.After = lost
							case "slow":
								f.Delay = 20 * time.Second
							}
							r.m.Inject(f)
							starts, installs := tell(t, r, func() {})
							if starts != 2 || installs != 1 {
								t.Errorf("the game started %d times and was installed %d times, want 2 and 1", starts, installs)
							}
							converged.Add(1)
						})
					})
				}
			}
		}
	})
	t.Logf("T04 (engine): %d of %d faults at %d labels converge, each effect once", converged.Load(), asked.Load(), len(Ops()))
	if converged.Load() != asked.Load() {
		t.Errorf("%d faults did not converge", asked.Load()-converged.Load())
	}
}

func TestT02_WingsMayBeKilledAtEachEngineCall(t *testing.T) {
	const nth = 4
	var converged, asked, hit atomic.Int64
	t.Run("group", func(t *testing.T) {
		for _, op := range Ops() {
			for _, when := range []string{"before", "after"} {
				for n := 1; n <= nth; n++ {
					asked.Add(1)
					t.Run(fmt.Sprintf("%s %s call %d", op, when, n), func(t *testing.T) {
						inBubble(t, func(t *testing.T, r *rig) {
							var killed atomic.Bool
							hook := func() { r.agent.cancel(); killed.Store(true) }
							f := fake.Fault{Op: op, Nth: n, HookBefore: hook}
							if when == "after" {
								f.HookBefore, f.HookAfter = nil, hook
							}
							r.m.Inject(f)
							starts, installs := tell(t, r, func() {
								if killed.Swap(false) {
									hit.Add(1)
									r.stop()
									r.start()
								}
							})
							if starts != 2 || installs != 1 {
								t.Errorf("the game started %d times and was installed %d times, want 2 and 1", starts, installs)
							}
							converged.Add(1)
						})
					})
				}
			}
		}
	})
	t.Logf("T02: wings killed at %d of %d points (label, before/after, nth); %d converge, never two containers, no start or install doubled",
		hit.Load(), asked.Load(), converged.Load())
	if converged.Load() != asked.Load() || hit.Load() < asked.Load()/2 {
		t.Errorf("%d of %d converged, %d kills hit", converged.Load(), asked.Load(), hit.Load())
	}
}

func TestT02_FiftyRunningGamesSurviveKillsOfWings(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const n, kills = 50, 20
		for i := range n {
			r.apply(running(i))
		}
		before := map[string]wire.Observed{}
		for i := range n {
			before[serverID(i)] = r.untilState(serverID(i), time.Minute, wire.StateRunning)
		}
		seen := int64(0)
		for k := range kills {
			r.process(serverID(0)).Printf("watched %d", k)
			pass(time.Duration(k*37) * time.Millisecond) // somewhere between two journal writes
			r.kill()
			r.process(serverID(0)).Printf("unwatched %d", k)
			r.start()
			pass(5 * time.Second)
		}
		same := 0
		for i := range n {
			o := r.untilState(serverID(i), time.Minute, wire.StateRunning)
			b := before[serverID(i)]
			if o.ContainerID == b.ContainerID && o.StartedAt.Equal(b.StartedAt) && r.starts(serverID(i)) == 1 && o.CrashCount == 0 {
				same++
			}
		}
		if same != n {
			t.Errorf("%d of %d games are the same run as before", same, n)
		}
		text, seqs, gaps := r.lines(serverID(0), seen)
		lines := strings.Join(text, "\n") + "\n"
		for k := range kills {
			for _, want := range []string{fmt.Sprintf("\nwatched %d\n", k), fmt.Sprintf("\nunwatched %d\n", k)} {
				if strings.Count(lines, want) != 1 {
					t.Errorf("the line %q is there %d times, want once", want, strings.Count(lines, want))
				}
			}
		}
		for i := 1; i < len(seqs); i++ {
			if seqs[i] != seqs[i-1]+1 {
				t.Errorf("line %d is followed by %d", seqs[i-1], seqs[i])
			}
		}
		t.Logf("T02: %d kills of wings, %d/%d games same container and run, 0 restarts, %d console lines without loss or double, %d gaps", kills, same, n, len(seqs), len(gaps))
	})
}

func TestARestartIsNeitherLostNorDoubledWhenWingsIsKilled(t *testing.T) {
	for _, op := range []string{OpInspect, OpStdin, OpWait, OpImage, OpNetwork, OpCreate, OpStart} {
		for n := 1; n <= 3; n++ {
			t.Run(fmt.Sprintf("at call %d of %s", n, op), func(t *testing.T) {
				inBubble(t, func(t *testing.T, r *rig) {
					spec := running(1)
					r.apply(spec)
					r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
					var killed atomic.Bool
					r.m.Inject(fake.Fault{Op: op, Nth: n, HookAfter: func() { r.agent.cancel(); killed.Store(true) }})
					spec.Generation, spec.RestartCount = 2, 1
					r.apply(spec)
					eventually(time.Minute, func() bool {
						if killed.Swap(false) {
							r.stop()
							r.start()
						}
						return false
					})
					o := r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
					if r.starts(spec.ServerID) != 2 || o.RestartCount != 1 {
						t.Errorf("%d starts with the counter at %d, want 2 and 1", r.starts(spec.ServerID), o.RestartCount)
					}
				})
			})
		}
	}
}

// An engine that was killed in the middle of a start may refuse that container for ever ("task already
// exists"): after two refusals another one is made.
func TestAContainerThatWillNotStartIsMadeAgain(t *testing.T) {
	for name, install := range map[string]bool{"the game": false, "the install": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				for n := 1; n <= remakeAfter; n++ {
					r.m.Inject(fake.Fault{Op: OpStart, Nth: n, Before: errors.New("task already exists")})
				}
				spec := running(1)
				if install {
					spec = installing(spec, nil)
				}
				r.apply(spec)
				r.untilState(spec.ServerID, 5*time.Minute, wire.StateRunning)
				removes, starts := 0, 0
				for _, op := range r.m.Calls() {
					switch op {
					case OpRemove:
						removes++
					case OpStart:
						starts++
					}
				}
				want := [2]int{1, remakeAfter + 1}
				if install { // the one that succeeded goes when it is done, and the game starts
					want = [2]int{2, remakeAfter + 2}
				}
				if got := [2]int{removes, starts}; got != want {
					t.Errorf("removed and started %v times, want %v", got, want)
				}
			})
		})
	}
}

// The panel shows what it is told: a server of which nothing could be looked at yet is absent, not
// nothing.
func TestAServerMadeWhileTheEngineIsAwayIsReportedAbsent(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		back := r.m.Inject(fake.Fault{Op: OpInspect, Before: errors.New("connection refused")})
		spec := running(1)
		r.apply(spec)
		o := r.until(spec.ServerID, 5*time.Minute, "in trouble", func(o wire.Observed) bool { return o.Problem != nil })
		if o.State != wire.StateAbsent || o.Settled {
			t.Errorf("it is reported %q, settled %t", o.State, o.Settled)
		}
		back()
		r.untilState(spec.ServerID, 5*time.Minute, wire.StateRunning)
	})
}
