package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/fake"
	"github.com/mambahost/mamba/wings/wire"
)

// recorder stands for spool and panel: it keeps what it is handed and counts the first sample of a
// window only.
type recorder struct {
	mu      sync.Mutex
	refuse  error
	first   map[string]wire.Sample
	order   []wire.Sample
	doubles int
	closed  int64
}

func (r *recorder) Record(samples []wire.Sample, closed int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return r.refuse
	}
	for _, s := range samples {
		s.Seq = 1
		if err := s.Validate(); err != nil {
			return fmt.Errorf("%+v: %w", s, err)
		}
		key := fmt.Sprint(s.ServerID, s.PlacementEpoch, s.WindowUnixS)
		if _, known := r.first[key]; known {
			r.doubles++
			continue
		}
		r.first[key] = s
		r.order = append(r.order, s)
	}
	r.closed = closed
	return nil
}

func (r *recorder) setRefuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = err
}

// sum of one server over all windows.
func (r *recorder) sum(server string) (total wire.Sample, windows int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.order {
		if s.ServerID != server {
			continue
		}
		windows++
		total.RunningMS += s.RunningMS
		total.MeasuredMS += s.MeasuredMS
		total.CPUUsedNS += s.CPUUsedNS
		total.CPUReservedMillicoreMS += s.CPUReservedMillicoreMS
		total.MemoryUsedMiBMS += s.MemoryUsedMiBMS
		total.MemoryReservedMiBMS += s.MemoryReservedMiBMS
		total.NetInBytes += s.NetInBytes
		total.NetOutBytes += s.NetOutBytes
		total.DiskByteMS += s.DiskByteMS
	}
	return total, windows
}

// Each game uses half a core, 200 MiB, 1,000 bytes a second in and 4,000 out.
var testLoad = fake.Load{CPUMillicores: 500, MemoryBytes: 200 << 20, NetInPerS: 1000, NetOutPerS: 4000}

// measuring runs f with a node in fake time whose games have testLoad.
func measuring(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.m.SetImage(gameRef, fake.Image{Present: true, Game: game, Load: testLoad})
		r.samples = &recorder{first: map[string]wire.Sample{}}
		r.start()
		f(t, r)
		r.stop()
		r.m.Close()
		synctest.Wait()
	})
}

// near checks a sum against what the load says of so much time, to within a window's half at the ends.
func near(t *testing.T, got wire.Sample, want time.Duration, off time.Duration) {
	t.Helper()
	within := func(what string, have, perS int64) {
		if d := have - int64(want.Seconds()*float64(perS)); d > int64(off.Seconds()*float64(perS)) || -d > int64(off.Seconds()*float64(perS)) {
			t.Errorf("%s is %d, %v would be %d", what, have, want, int64(want.Seconds()*float64(perS)))
		}
	}
	within("running time", got.RunningMS, 1000)
	within("measured time", got.MeasuredMS, 1000)
	within("processor time", got.CPUUsedNS, 500_000_000)
	within("memory", got.MemoryUsedMiBMS, 200*1000)
	within("ingress", got.NetInBytes, 1000)
	within("egress", got.NetOutBytes, 4000)
	within("reserved processor", got.CPUReservedMillicoreMS, 1000*1000)
	within("reserved memory", got.MemoryReservedMiBMS, 512*1000)
}

func TestSamplesOfARunAddUpToIt(t *testing.T) {
	measuring(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		pass(10 * time.Minute)
		total, windows := r.samples.sum(spec.ServerID)
		near(t, total, 10*time.Minute, 31*time.Second)
		if windows != 20 {
			t.Errorf("%d windows", windows)
		}
		if total.DiskByteMS <= 0 {
			t.Error("its data took no disk")
		}
		if r.samples.closed%30 != 0 || time.Since(time.Unix(r.samples.closed, 0)) > 35*time.Second {
			t.Errorf("whole up to %v", time.Unix(r.samples.closed, 0))
		}
	})
}

func TestStopsAndStartsAreMeasuredToTheMillisecond(t *testing.T) {
	measuring(t, func(t *testing.T, r *rig) {
		spec := running(1)
		var ran time.Duration
		for range 5 {
			r.apply(spec)
			r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
			begun := r.get(spec.ServerID).StartedAt
			pass(47 * time.Second)
			spec = stopped(spec)
			r.apply(spec)
			r.untilState(spec.ServerID, time.Minute, wire.StateStopped)
			ran += r.get(spec.ServerID).ExitedAt.Sub(begun)
			pass(11 * time.Second)
			spec.Desired = wire.DesiredRunning
			spec.Generation++
		}
		pass(time.Minute)
		total, _ := r.samples.sum(spec.ServerID)
		if off := ran.Milliseconds() - total.RunningMS; off < 0 || off > 20 { // each window rounds down
			t.Errorf("it ran %v, %d ms are in samples", ran, total.RunningMS)
		}
		if short := int64(ran/2) - total.CPUUsedNS; short < 0 || short > int64(5*15*time.Second/2) { // what a run used after its last reading
			t.Errorf("%v of processor time in samples of %v", time.Duration(total.CPUUsedNS), ran/2)
		}
	})
}

// A kill of wings loses nothing: what the counters say at the next start was used meanwhile.
func TestT02_AKillOfWingsLosesNoSample(t *testing.T) {
	measuring(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		begun := r.get(spec.ServerID).StartedAt
		for i := range 40 {
			pass(time.Duration(7+i%23) * time.Second)
			r.kill()
			pass(time.Duration(i%9) * time.Second)
			r.start()
		}
		pass(time.Minute)
		total, windows := r.samples.sum(spec.ServerID)
		whole := time.Unix(r.samples.closed, 0).Sub(begun)
		near(t, total, whole, 2*time.Second)
		if want := int((whole + wire.SampleWindow - 1) / wire.SampleWindow); windows != want {
			t.Errorf("%d windows in %v", windows, whole)
		}
		t.Logf("T2: 40 kills, %d windows, %d sent twice, 0 lost", windows, r.samples.doubles)
	})
}

func TestWhileWingsIsAwayOnlyWhatTheContainerProvesCounts(t *testing.T) {
	measuring(t, func(t *testing.T, r *rig) {
		through, ends := running(1), running(2)
		r.apply(through)
		r.apply(ends)
		r.untilState(through.ServerID, time.Minute, wire.StateRunning)
		r.untilState(ends.ServerID, time.Minute, wire.StateRunning)
		begun := r.get(through.ServerID).StartedAt
		pass(5 * time.Minute)
		r.kill()
		pass(10 * time.Minute)
		r.process(ends.ServerID).Exit(0)
		over := time.Now()
		pass(10 * time.Minute)
		r.start()
		pass(2 * time.Minute)
		whole := time.Unix(r.samples.closed, 0)
		total, _ := r.samples.sum(through.ServerID)
		if off := whole.Sub(begun).Milliseconds() - total.RunningMS; off < 0 || off > 100 {
			t.Errorf("it ran %v, %d ms are in samples", whole.Sub(begun), total.RunningMS)
		}
		if used := whole.Sub(begun) - 20*time.Minute; total.MeasuredMS > used.Milliseconds()+31_000 || total.CPUUsedNS > int64(used+31*time.Second)/2 {
			t.Errorf("a gap was counted as used: %+v", total)
		}
		// The other ended in the middle of it, and came back with wings.
		total, _ = r.samples.sum(ends.ServerID)
		ran := over.Sub(begun) + whole.Sub(r.get(ends.ServerID).StartedAt)
		if off := ran.Milliseconds() - total.RunningMS; off < -100 || off > 100 {
			t.Errorf("it ran %v, %d ms are in samples", ran, total.RunningMS)
		}
	})
}

// An engine that is away says nothing of what runs: windows wait for it, and are right once it is back.
func TestAnEngineThatIsAwayIsWaitedFor(t *testing.T) {
	measuring(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		begun := r.get(spec.ServerID).StartedAt
		pass(2 * time.Minute)
		r.m.SetAway(true)
		pass(3 * time.Minute)
		if late := time.Since(time.Unix(r.samples.closed, 0)); late < 2*time.Minute {
			t.Errorf("whole %v ago, though nobody knows whether it ran", late)
		}
		r.m.SetAway(false)
		pass(3 * time.Minute)
		total, _ := r.samples.sum(spec.ServerID)
		whole := time.Unix(r.samples.closed, 0).Sub(begun)
		if off := whole.Milliseconds() - total.RunningMS; off < 0 || off > 100 {
			t.Errorf("it ran %v, %d ms are in samples", whole, total.RunningMS)
		}
		r.m.SetAway(true)
		pass(30 * time.Minute)
		if late := time.Since(time.Unix(r.samples.closed, 0)); late > holdBack+2*wire.SampleWindow {
			t.Errorf("whole %v ago: it waits for ever", late)
		}
		r.m.SetAway(false)
	})
}

func TestT19_JumpsOfTheClockLeaveTheSumAsItWas(t *testing.T) {
	sums := map[string]wire.Sample{}
	var mu sync.Mutex
	t.Run("group", func(t *testing.T) {
		for name, jumps := range map[string][]time.Duration{
			"none": {0, 0, 0, 0}, "five minutes, there and back": {5 * time.Minute, -5 * time.Minute, 0, 0},
			"five minutes back": {-5 * time.Minute, 0, 0, 0}, "a day, there and back": {24 * time.Hour, -24 * time.Hour, 0, 0},
			"a day back": {-24 * time.Hour, 0, 24 * time.Hour, 0}, "a leap second": {-time.Second, 0, time.Second, 0},
			"summer time, in UTC": {0, 0, 0, 0}, "all over the place": {time.Hour, -2 * time.Hour, 90 * time.Second, -26 * time.Hour},
		} {
			t.Run(name, func(t *testing.T) {
				measuring(t, func(t *testing.T, r *rig) {
					r.stop()
					var off time.Duration
					var clock sync.Mutex
					r.panel = func() (time.Time, bool) {
						clock.Lock()
						defer clock.Unlock()
						return time.Now().Add(off), true
					}
					r.start()
					spec := running(1)
					r.apply(spec)
					r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
					for _, j := range jumps {
						pass(3*time.Minute + 7*time.Second)
						clock.Lock()
						off += j
						clock.Unlock()
					}
					pass(3 * time.Minute)
					spec = stopped(spec)
					r.apply(spec)
					r.untilState(spec.ServerID, time.Minute, wire.StateStopped)
					pass(2 * time.Minute)
					total, _ := r.samples.sum(spec.ServerID)
					if r.samples.doubles != 0 {
						t.Errorf("%d windows were used twice", r.samples.doubles)
					}
					mu.Lock()
					sums[name] = total
					mu.Unlock()
				})
			})
		}
	})
	want := sums["none"]
	for name, got := range sums {
		if d := want.RunningMS - got.RunningMS; d < -20 || d > 20 || want.CPUReservedMillicoreMS-got.CPUReservedMillicoreMS > 20_000 {
			t.Errorf("%s: %d ms ran, without jumps %d", name, got.RunningMS, want.RunningMS)
		}
		if d := want.CPUUsedNS - got.CPUUsedNS; d < -int64(8*time.Second) || d > int64(8*time.Second) { // half a round after the last reading
			t.Errorf("%s: %v of processor time, without jumps %v", name, time.Duration(got.CPUUsedNS), time.Duration(want.CPUUsedNS))
		}
	}
	t.Logf("T19: %d ways for a clock to jump, running time the same to 20 ms, 0 windows used twice", len(sums))
}

func TestADeletedServerPaysToItsEndAndNoFurther(t *testing.T) {
	measuring(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		begun := r.get(spec.ServerID).StartedAt
		pass(4*time.Minute + 11*time.Second)
		r.apply(deleted(spec))
		r.untilState(spec.ServerID, time.Minute, wire.StateAbsent)
		end := time.Now()
		pass(5 * time.Minute)
		total, _ := r.samples.sum(spec.ServerID)
		if ran := end.Sub(begun); total.RunningMS > ran.Milliseconds() || total.RunningMS < ran.Milliseconds()-11_000 {
			t.Errorf("it ran at most %v, %d ms are in samples", ran, total.RunningMS)
		}
		last := r.samples.order[len(r.samples.order)-1]
		if last.WindowUnixS > end.Unix() {
			t.Errorf("a sample of %v, it was gone at %v", time.Unix(last.WindowUnixS, 0), end)
		}
		if r.samples.closed < end.Unix() {
			t.Error("time does not go on without servers")
		}
	})
}

func TestT17_SamplesThatTheDiskRefusesAreKept(t *testing.T) {
	measuring(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		pass(2 * time.Minute)
		r.samples.setRefuse(errors.New("no space left on device"))
		pass(7 * time.Minute)
		r.samples.setRefuse(nil)
		pass(2 * time.Minute)
		total, windows := r.samples.sum(spec.ServerID)
		near(t, total, 11*time.Minute, 31*time.Second)
		if windows != 22 || r.samples.doubles != 0 {
			t.Errorf("%d windows, %d twice", windows, r.samples.doubles)
		}
	})
}

// The engine's one call of the sampler, with every fault at any time: running time is never wrong, and
// use is never more than there was.
func TestT04_ReadingCountersMayFailOrHang(t *testing.T) {
	for _, when := range []string{"before", "after", "slow", "never answers"} {
		for _, nth := range []int{1, 2, 5, 0} {
			t.Run(fmt.Sprintf("%s call %d", when, nth), func(t *testing.T) {
				measuring(t, func(t *testing.T, r *rig) {
					f := fake.Fault{Op: OpStats, Nth: nth}
					switch when {
					case "before":
						f.Before = errors.New("connection reset by peer")
					case "after":
						f.After = errors.New("connection reset by peer")
					case "slow":
						f.Delay = 3 * time.Second
					default:
						f.Delay = time.Hour
					}
					remove := r.m.Inject(f)
					spec := running(1)
					r.apply(spec)
					r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
					begun := r.get(spec.ServerID).StartedAt
					pass(8 * time.Minute)
					remove()
					pass(2 * time.Minute)
					total, _ := r.samples.sum(spec.ServerID)
					whole := time.Unix(r.samples.closed, 0).Sub(begun)
					if off := whole.Milliseconds() - total.RunningMS; nth != 0 && (off < 0 || off > 40) || off < 0 {
						t.Errorf("it ran %v, %d ms are in samples", whole, total.RunningMS)
					}
					if total.CPUUsedNS > int64(whole+16*time.Second)/2 {
						t.Errorf("%v of processor time in %v of half a core", time.Duration(total.CPUUsedNS), whole)
					}
					if nth != 0 {
						near(t, total, whole, 40*time.Second)
					}
				})
			})
		}
	}
}

// A game that was restarted behind wings' back: the counters of the new run are never taken for more
// of the old one.
func TestCountersOfAnotherRunWait(t *testing.T) {
	measuring(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		pass(time.Minute)
		for range 6 {
			e := r.m.Engine("node1")
			r.process(spec.ServerID).Exit(0)
			if err := e.Start(context.Background(), "test.start", gameName(spec.ServerID)); err != nil {
				t.Fatal(err)
			}
			_ = e.Close()
			pass(50 * time.Second)
		}
		pass(time.Minute)
		total, _ := r.samples.sum(spec.ServerID)
		if most := 8 * time.Minute / 2; total.CPUUsedNS > int64(most) || total.CPUUsedNS < int64(most)/2 {
			t.Errorf("%v of processor time, at most %v were used", time.Duration(total.CPUUsedNS), most)
		}
	})
}

func TestADamagedCheckpointIsABeginning(t *testing.T) {
	measuring(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		pass(3 * time.Minute)
		r.kill()
		if err := writeFile(r.dir+"/samples.json", []byte(`{"closed_unix_s": "soon"`), 0o600); err != nil {
			t.Fatal(err)
		}
		r.start()
		pass(3 * time.Minute)
		total, _ := r.samples.sum(spec.ServerID)
		if total.RunningMS > 360_000 || total.RunningMS < 300_000 {
			t.Errorf("%d ms are in samples of 6 minutes", total.RunningMS)
		}
		if !slices.IsSortedFunc(r.samples.order, func(a, b wire.Sample) int { return int(a.WindowUnixS - b.WindowUnixS) }) {
			t.Error("windows are out of order")
		}
	})
}

// What a window of a thousand servers costs wings itself, the engine's part not counted.
func BenchmarkAWindowOfAThousandServers(b *testing.B) {
	m := fake.New(fake.Config{})
	defer m.Close()
	m.SetImage(gameRef, fake.Image{Present: true, Game: func(p *fake.Process) int { <-p.Done(); return 0 }, Load: testLoad})
	e := m.Engine("node1")
	defer e.Close()
	p := &sampler{engine: e, out: discard{}, path: b.TempDir() + "/samples.json", log: slog.New(slog.DiscardHandler), meters: map[string]*meter{}, begun: true}
	begin := time.Now()
	p.clock = newWindowClock(begin, begin, nil, 0)
	for n := range 1000 {
		spec := running(n)
		cs := engine.ContainerSpec{Name: gameName(spec.ServerID), ServerID: spec.ServerID, TenantID: tenantID, Epoch: 1, Role: engine.RoleGame,
			ImageID: "sha256:" + gameRef, Command: spec.Command, UID: 988, GID: 988, Limits: spec.Limits}
		id, err := e.Create(b.Context(), "bench", cs)
		if err == nil {
			err = e.Start(b.Context(), "bench", id)
		}
		if err != nil {
			b.Fatal(err)
		}
		c, err := e.Inspect(b.Context(), "bench", id)
		if err != nil {
			b.Fatal(err)
		}
		p.saw(&spec, box{at: placeRunning, id: id, startedAt: c.StartedAt.Round(0).UTC()}, begin)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.round(b.Context())
		now := time.Now()
		w := window{label: p.clock.open.label, from: p.clock.open.from, to: now}
		p.clock.open = window{label: w.label + 30, from: now}
		p.pending = append(p.pending, w)
		p.finish(now)
	}
}

type discard struct{}

func (discard) Record([]wire.Sample, int64) error { return nil }
