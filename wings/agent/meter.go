package agent

import (
	"math/bits"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of what two readings say of the time between them.
const (
	maxBetween  = 90 * time.Second // further apart: what was used in between is not known
	maxNetPerS  = 25 << 30         // 200 Gbit/s; a counter that moves faster was not counting
	maxDiskFact = 64               // disk readings kept of one server; one comes each minute or less
)

// amounts are what was used. Memory is in byte·ms so that nothing is rounded before the end.
type amounts struct {
	CPUNS        int64 `json:"cpu_ns"`
	NetInBytes   int64 `json:"net_in_bytes"`
	NetOutBytes  int64 `json:"net_out_bytes"`
	MemoryByteMS int64 `json:"memory_byte_ms"`
	MeasuredMS   int64 `json:"measured_ms"`
}

func (a amounts) plus(b amounts) amounts {
	return amounts{a.CPUNS + b.CPUNS, a.NetInBytes + b.NetInBytes, a.NetOutBytes + b.NetOutBytes, a.MemoryByteMS + b.MemoryByteMS, a.MeasuredMS + b.MeasuredMS}
}

func (a amounts) minus(b amounts) amounts {
	return amounts{a.CPUNS - b.CPUNS, a.NetInBytes - b.NetInBytes, a.NetOutBytes - b.NetOutBytes, a.MemoryByteMS - b.MemoryByteMS, a.MeasuredMS - b.MeasuredMS}
}

// part is a × num ÷ den, each rounded down, 0 ≤ num ≤ den.
func (a amounts) part(num, den time.Duration) amounts {
	f := func(v int64) int64 {
		hi, lo := bits.Mul64(uint64(v), uint64(num))
		q, _ := bits.Div64(hi, lo, uint64(den))
		return int64(q)
	}
	return amounts{f(a.CPUNS), f(a.NetInBytes), f(a.NetOutBytes), f(a.MemoryByteMS), f(a.MeasuredMS)}
}

// point is how much a run had used by an instant, from the last cut on.
type point struct {
	at  time.Time
	sum amounts
}

// tally is one run of a server's container.
type tally struct {
	run    run
	limits wire.Limits // of its container, which are the spec's when it began
	began  time.Time
	ended  time.Time // zero while it runs
	proof  time.Time // it was seen to run then

	raw    engine.Stats // the last reading
	points []point      // ascending; what is between two of them is interpolated
}

// read takes a reading at an instant. A counter that fell, or grew faster than any machine can, says
// nothing of the time before it.
func (y *tally) read(at time.Time, s engine.Stats) {
	last := y.points[len(y.points)-1]
	passed := at.Sub(last.at)
	if passed <= 0 {
		return
	}
	first := y.raw.StartedAt.IsZero()
	used := amounts{CPUNS: s.CPUNS - y.raw.CPUNS, NetInBytes: s.NetInBytes - y.raw.NetInBytes, NetOutBytes: s.NetOutBytes - y.raw.NetOutBytes}
	memory := (s.MemoryBytes + y.raw.MemoryBytes) / 2
	if first { // counters begin at 0 with a run; memory does not
		memory = s.MemoryBytes
	}
	ms := passed.Milliseconds()
	used.MeasuredMS, used.MemoryByteMS = ms, min(memory, wire.MaxSampleMemoryMiB<<20)*ms
	most := int64(passed/time.Microsecond) * (maxNetPerS / 1_000_000)
	if passed > maxBetween || used.CPUNS < 0 || used.CPUNS > int64(passed)*wire.MaxSampleCores {
		used = amounts{}
	}
	if used.NetInBytes < 0 || used.NetInBytes > most {
		used.NetInBytes = 0
	}
	if used.NetOutBytes < 0 || used.NetOutBytes > most {
		used.NetOutBytes = 0
	}
	y.raw = s
	y.points = append(y.points, point{at, last.sum.plus(used)})
	y.proof = later(y.proof, at)
}

// by is how much of the run's use is known by an instant. It never falls.
func (y *tally) by(at time.Time) amounts {
	for i := len(y.points) - 1; i >= 0; i-- {
		p := y.points[i]
		if p.at.After(at) {
			continue
		}
		if i == len(y.points)-1 {
			return p.sum
		}
		next := y.points[i+1]
		return p.sum.plus(next.sum.minus(p.sum).part(at.Sub(p.at), next.at.Sub(p.at)))
	}
	return amounts{}
}

// take gives out what is known by an instant and was not given out before. What memory leaves below
// one MiB·ms stays for the next time.
func (y *tally) take(at time.Time) amounts {
	given := y.by(at)
	given.MemoryByteMS &^= 1<<20 - 1
	keep := 0
	for i, p := range y.points {
		if !p.at.After(at) {
			keep = i
		}
	}
	y.points = y.points[keep:]
	for i := range y.points {
		y.points[i].sum = y.points[i].sum.minus(given)
	}
	if p := &y.points[0]; len(y.points) > 1 && p.at.Before(at) { // so that by never falls behind what was given
		rest := y.by(at)
		*p = point{at, rest}
	}
	return given
}

// meter is what one server under one placement epoch used. It is guarded by the sampler's lock.
type meter struct {
	server string
	epoch  int64
	cut    time.Time // everything before is in samples; at first, when it was placed here
	gone   time.Time // zero while it is here
	runs   []*tally  // oldest first; at most the last one goes on
	disk   []diskFact
	quiet  time.Time // it was seen not to run then; zero: not since it was placed
}

// diskFact is what a server's data took on the disk at an instant.
type diskFact struct {
	at    time.Time
	bytes int64
}

// live is the run that goes on, or nil.
func (m *meter) live() *tally {
	if n := len(m.runs); n > 0 && m.runs[n-1].ended.IsZero() {
		return m.runs[n-1]
	}
	return nil
}

// saw takes what the engine said of the game's container: its own times are of the machine's clock,
// which may have been set since, so they are held between what was seen before and now.
func (m *meter) saw(b box, limits wire.Limits, now time.Time) {
	ago := func(t time.Time) time.Time { return now.Add(-max(now.Round(0).Sub(t), 0)) }
	live := m.live()
	if live != nil && live.run.same(boxRun(b)) && b.running() {
		live.proof = now
		return
	}
	if live != nil {
		live.ended = live.proof // nobody can say how long it went on after that
		if live.run.same(boxRun(b)) && b.at == placeExited {
			live.ended = later(live.proof, ago(b.exit.At))
		}
		m.quiet = live.ended
	}
	known := len(m.runs) > 0 && m.runs[len(m.runs)-1].run.same(boxRun(b))
	if known || !b.running() && b.at != placeExited {
		m.stand(b, now)
		return
	}
	began := later(ago(b.startedAt), m.quiet)
	y := &tally{run: boxRun(b), limits: limits, began: began, proof: now, points: []point{{at: began}}}
	if b.at == placeExited { // it began and ended between two looks
		if m.quiet.IsZero() {
			m.stand(b, now)
			return // it may have ended long before this server was ours to measure
		}
		y.ended = later(began, ago(b.exit.At))
	}
	m.runs = append(m.runs, y)
	m.stand(b, now)
}

// stand notes that nothing runs.
func (m *meter) stand(b box, now time.Time) {
	if !b.running() {
		m.quiet = now
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// measured takes what the data takes on the disk.
func (m *meter) measured(at time.Time, bytes int64) {
	m.disk = append(m.disk, diskFact{at, bytes})
	m.disk = m.disk[max(0, len(m.disk)-maxDiskFact):]
}

// certain says that the window can be booked: it is known whether the container ran to its end.
func (m *meter) certain(w window) bool {
	live := m.live()
	return live == nil || !live.proof.Before(w.to) || !m.gone.IsZero() && !live.proof.Before(m.gone)
}

// book makes the sample of a window and forgets what it does not need any more. ok is false when the
// server was not here at any time of it. Windows come in order.
func (m *meter) book(w window) (s wire.Sample, ok bool) {
	from, to := later(w.from, m.cut), w.to
	if !m.gone.IsZero() {
		to = earlier(to, m.gone)
	}
	m.cut = w.to
	if !to.After(from) {
		return s, false
	}
	s = wire.Sample{ServerID: m.server, PlacementEpoch: m.epoch, WindowUnixS: w.label}
	var used amounts
	for _, y := range m.runs {
		a, b := later(from, y.began), earlier(to, y.proof)
		if !y.ended.IsZero() {
			b = earlier(to, y.ended)
		}
		used = used.plus(y.take(to))
		if ms := b.Sub(a).Milliseconds(); ms > 0 {
			s.RunningMS += ms
			s.CPUReservedMillicoreMS += ms * y.limits.CPUMillicores
			s.MemoryReservedMiBMS += ms * y.limits.MemoryMiB
		}
	}
	m.fill(&s, used, from, to)
	return s, true
}

// fill puts what was used into a sample, and drops the facts that are spent.
func (m *meter) fill(s *wire.Sample, used amounts, from, to time.Time) {
	s.RunningMS = min(s.RunningMS, wire.SampleWindowMS)
	s.MeasuredMS = min(used.MeasuredMS, s.RunningMS)
	s.CPUUsedNS, s.NetInBytes, s.NetOutBytes = used.CPUNS, used.NetInBytes, used.NetOutBytes
	s.MemoryUsedMiBMS = used.MemoryByteMS >> 20
	if live := m.live(); live != nil {
		s.MemoryLastBytes = min(live.raw.MemoryBytes, wire.MaxSampleMemoryMiB<<20)
	}
	keep := 0
	for i, d := range m.disk {
		begin, end := later(d.at, from), to
		if i+1 < len(m.disk) {
			end = earlier(to, m.disk[i+1].at)
		}
		if ms := end.Sub(begin).Milliseconds(); ms > 0 {
			s.DiskByteMS += ms * min(d.bytes, wire.MaxSampleDiskBytes)
		}
		if !d.at.After(to) {
			keep = i
			s.DiskLastBytes = min(d.bytes, wire.MaxSampleDiskBytes)
		}
	}
	if len(m.disk) > 0 {
		m.disk = m.disk[keep:]
	}
	runs := m.runs[:0]
	for i, y := range m.runs {
		if i == len(m.runs)-1 || y.ended.After(to) {
			runs = append(runs, y)
		}
	}
	m.runs = runs
}
