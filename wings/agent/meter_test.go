package agent

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

var testLimits = wire.Limits{CPUMillicores: 2000, MemoryMiB: 1024, DiskMiB: 2048, PIDs: 64}

// bench is one meter with a start of time and the engine's stamps of it.
type meterBench struct {
	t0 time.Time // ours
	w0 time.Time // the engine's, the same instant
	m  *meter
}

func newMeterBench() *meterBench {
	t0 := time.Now()
	return &meterBench{t0: t0, w0: t0.Round(0).UTC(), m: &meter{server: "server000000001", epoch: 1, cut: t0}}
}

func (b *meterBench) at(s float64) time.Time {
	return b.t0.Add(time.Duration(s * float64(time.Second)))
}
func (b *meterBench) stamp(s float64) time.Time {
	return b.w0.Add(time.Duration(s * float64(time.Second)))
}

func (b *meterBench) running(id string, since, now float64) {
	b.m.saw(box{at: placeRunning, id: id, startedAt: b.stamp(since)}, testLimits, b.at(now))
}

func (b *meterBench) exited(id string, since, end, now float64) {
	b.m.saw(box{at: placeExited, id: id, startedAt: b.stamp(since), exit: engine.Exit{At: b.stamp(end)}}, testLimits, b.at(now))
}

// reads takes a reading of a run that uses one core, 100 MiB, and a kB a second each way.
func (b *meterBench) reads(now, since float64) {
	b.m.live().read(b.at(now), engine.Stats{StartedAt: b.stamp(since), CPUNS: int64((now - since) * 1e9), MemoryBytes: 100 << 20,
		NetInBytes: int64((now - since) * 1000), NetOutBytes: int64((now - since) * 2000)})
}

func (b *meterBench) book(t *testing.T, from, to float64) wire.Sample {
	t.Helper()
	s, ok := b.m.book(window{label: int64(from) / 30 * 30, from: b.at(from), to: b.at(to)})
	if !ok {
		t.Fatalf("no sample of %v to %v", from, to)
	}
	s.Seq = 1
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAWholeWindowIsWhatIsReadOfIt(t *testing.T) {
	t.Parallel()
	b := newMeterBench()
	b.running("a", 0, 0.01)
	b.reads(15, 0)
	b.reads(31, 0)
	b.m.measured(b.at(0), 5000)
	s := b.book(t, 0, 30)
	want := wire.Sample{Seq: 1, ServerID: "server000000001", PlacementEpoch: 1, RunningMS: 30_000, MeasuredMS: 30_000, CPUUsedNS: 30e9,
		CPUReservedMillicoreMS: 60_000_000, MemoryUsedMiBMS: 3_000_000, MemoryReservedMiBMS: 30_720_000, DiskByteMS: 150_000_000,
		NetInBytes: 30_000, NetOutBytes: 60_000, MemoryLastBytes: 100 << 20, DiskLastBytes: 5000}
	if s != want {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
}

// A run that ends and one that begins in one window: time is added, counters begin anew.
func TestARestartInsideAWindow(t *testing.T) {
	t.Parallel()
	b := newMeterBench()
	b.running("a", 0, 0.01)
	b.reads(8, 0)
	b.exited("a", 0, 10, 10.05)
	b.running("a", 12, 12.02)
	b.reads(31, 12)
	s := b.book(t, 0, 30)
	if s.RunningMS != 28_000 {
		t.Errorf("it ran 10 s and 18 s, %d ms were booked", s.RunningMS)
	}
	if s.CPUUsedNS != 26e9 || s.MeasuredMS != 26_000 || s.NetOutBytes != 52_000 { // after the last reading of a run nothing is known
		t.Errorf("%+v", s)
	}
}

func TestARunBetweenTwoLooksCounts(t *testing.T) {
	t.Parallel()
	b := newMeterBench()
	b.m.saw(box{}, testLimits, b.at(1))
	b.exited("a", 5, 9, 9.5)
	if s := b.book(t, 0, 30); s.RunningMS != 4000 || s.CPUReservedMillicoreMS != 8_000_000 || s.MeasuredMS != 0 || s.CPUUsedNS != 0 {
		t.Errorf("%+v", s)
	}
	// One that ended before the server was ours does not.
	b = newMeterBench()
	b.exited("a", -500, -400, 1)
	if s := b.book(t, 0, 30); s.RunningMS != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAStoppedServerStillPaysForItsDisk(t *testing.T) {
	t.Parallel()
	b := newMeterBench()
	b.m.saw(box{}, testLimits, b.at(1))
	b.m.measured(b.at(10), 1000)
	b.m.measured(b.at(20), 3000)
	if s := b.book(t, 0, 30); s.DiskByteMS != 10_000*1000+10_000*3000 || s.DiskLastBytes != 3000 || s.RunningMS != 0 {
		t.Errorf("%+v", s)
	}
	if s := b.book(t, 30, 60); s.DiskByteMS != 30_000*3000 {
		t.Errorf("%+v", s)
	}
}

func TestCountersThatFallOrLeapAreNoUse(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]engine.Stats{
		"all begin again":        {CPUNS: 1, NetInBytes: 1, NetOutBytes: 1, MemoryBytes: 1 << 20},
		"the processor leaps":    {CPUNS: 1 << 60, NetInBytes: 1, NetOutBytes: 1, MemoryBytes: 1 << 20},
		"the network leaps":      {CPUNS: 20e9, NetInBytes: 1 << 61, NetOutBytes: 1 << 61, MemoryBytes: 1 << 20},
		"the network turns":      {CPUNS: 20e9, NetInBytes: -1 << 60, NetOutBytes: -1 << 60, MemoryBytes: 1 << 20},
		"memory beyond machines": {CPUNS: 20e9, NetInBytes: 20_000, NetOutBytes: 40_000, MemoryBytes: 1 << 62},
	} {
		b := newMeterBench()
		b.running("a", 0, 0.01)
		b.reads(10, 0)
		next.StartedAt = b.stamp(0)
		b.m.live().read(b.at(20), next)
		b.m.live().read(b.at(31), next)
		s := b.book(t, 0, 30)
		if s.CPUUsedNS < 10e9 || s.CPUUsedNS > 20e9 || s.NetInBytes > 20_000 || s.NetOutBytes > 40_000 || s.NetInBytes < 10_000 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// What lies between two readings far apart is not known: it is reserved time and no use.
func TestAGapIsReservedAndNotUsed(t *testing.T) {
	t.Parallel()
	b := newMeterBench()
	b.running("a", 0, 0.01)
	b.reads(29, 0)
	b.reads(29+95, 0)
	var used, running int64
	for w := 0.0; w < 120; w += 30 {
		s := b.book(t, w, w+30)
		used, running = used+s.CPUUsedNS, running+s.RunningMS
	}
	if used != 29e9 || running != 120_000 {
		t.Errorf("%d ns used, %d ms ran", used, running)
	}
}

// The clock of the machine is set while a game runs: stamps of the engine say nonsense, what was seen
// holds them.
func TestT19_StampsOfAClockThatWasSetAreHeldByWhatWasSeen(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]float64{"an hour ahead": 3600, "an hour back": -3600} {
		b := newMeterBench()
		b.m.saw(box{}, testLimits, b.at(1))
		b.running("a", 5+off, 5.1) // stamped by the clock as it is now, and read by it as it was
		b.m.live().proof = b.at(20)
		b.exited("a", 5+off, 22-off, 25)
		s := b.book(t, 0, 30)
		if s.RunningMS < 14_900 || s.RunningMS > 24_000 {
			t.Errorf("%s: it ran about 17 s, %d ms were booked", name, s.RunningMS)
		}
	}
}

func TestANewEpochGoesOnWithTheRunUnderItsOwnName(t *testing.T) {
	t.Parallel()
	p := &sampler{meters: map[string]*meter{}, begun: true}
	t0 := time.Now()
	spec := &wire.Spec{ServerID: "server000000001", PlacementEpoch: 1, Limits: testLimits}
	b := box{at: placeRunning, id: "a", startedAt: t0.Round(0)}
	p.saw(spec, b, t0)
	use := func(s float64) {
		p.meters[spec.ServerID].live().read(t0.Add(time.Duration(s*1e9)), engine.Stats{StartedAt: b.startedAt, CPUNS: int64(s * 1e9)})
	}
	use(8)
	next := *spec
	next.PlacementEpoch = 2
	p.saw(&next, b, t0.Add(10*time.Second))
	use(31)
	p.clock = newWindowClock(t0, atUTC("2026-03-01 12:00:00"), nil, 0)
	p.pending = p.clock.advance(t0.Add(30 * time.Second))
	p.book(t0.Add(31 * time.Second))
	if len(p.unwritten) != 2 {
		t.Fatalf("%+v", p.unwritten)
	}
	var used, ran int64
	for _, s := range p.unwritten {
		used, ran = used+s.CPUUsedNS, ran+s.RunningMS
		if want := map[int64]int64{1: 10_000, 2: 20_000}[s.PlacementEpoch]; s.RunningMS != want {
			t.Errorf("epoch %d ran %d ms", s.PlacementEpoch, s.RunningMS)
		}
	}
	// 23 s between the readings at 8 and 31; the new epoch's share of them ends at 30.
	if ran != 30_000 || used < 29e9 || used > 31e9 {
		t.Errorf("%d ns used, %d ms ran", used, ran)
	}
}

// Whatever the readings and windows: what is booked adds up to what was read, to the last ns and byte,
// and never more time than passed.
func TestBookedIsWhatWasRead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := newMeterBench()
		b.running("a", 0, 0)
		var now time.Duration
		var stats engine.Stats
		stats.StartedAt = b.stamp(0)
		var total wire.Sample
		booked := time.Duration(0)
		book := func(to time.Duration) {
			s, ok := b.m.book(window{from: b.t0.Add(booked), to: b.t0.Add(to)})
			if !ok || s.CPUUsedNS < 0 || s.NetOutBytes < 0 || s.MemoryUsedMiBMS < 0 || s.RunningMS > (to-booked).Milliseconds()+1 || s.MeasuredMS > s.RunningMS {
				t.Fatalf("%+v", s)
			}
			total.CPUUsedNS += s.CPUUsedNS
			total.NetOutBytes += s.NetOutBytes
			total.RunningMS += s.RunningMS
			total.MemoryUsedMiBMS += s.MemoryUsedMiBMS
			booked = to
		}
		memory := int64(0)
		for range rapid.IntRange(1, 30).Draw(t, "readings") {
			passed := time.Duration(rapid.Int64Range(1, 80_000).Draw(t, "ms")) * time.Millisecond
			now += passed
			stats.CPUNS += rapid.Int64Range(0, int64(passed)).Draw(t, "cpu")
			stats.NetOutBytes += rapid.Int64Range(0, 1<<20).Draw(t, "out")
			mem := rapid.Int64Range(0, 1<<30).Draw(t, "memory")
			if stats.MemoryBytes == 0 {
				memory += mem * passed.Milliseconds()
			} else {
				memory += (mem + stats.MemoryBytes) / 2 * passed.Milliseconds()
			}
			stats.MemoryBytes = max(mem, 1)
			b.m.live().read(b.t0.Add(now), stats)
			if rapid.Bool().Draw(t, "books") {
				for booked+wire.SampleWindow <= now {
					book(booked + wire.SampleWindow)
				}
			}
		}
		for booked+wire.SampleWindow <= now {
			book(booked + wire.SampleWindow)
		}
		book(now)
		if total.CPUUsedNS != stats.CPUNS || total.NetOutBytes != stats.NetOutBytes {
			t.Fatalf("%d of %d ns and %d of %d bytes were booked", total.CPUUsedNS, stats.CPUNS, total.NetOutBytes, stats.NetOutBytes)
		}
		if off := memory>>20 - total.MemoryUsedMiBMS; off < -1000 || off > 1000 {
			t.Fatalf("memory of %d MiB·ms, %d were booked", memory>>20, total.MemoryUsedMiBMS)
		}
		if lost := now.Milliseconds() - total.RunningMS; lost < 0 || lost > int64(now/wire.SampleWindow)+1 {
			t.Fatalf("%d ms of %v were booked", total.RunningMS, now)
		}
	})
}
