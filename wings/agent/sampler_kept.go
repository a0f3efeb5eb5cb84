package agent

import (
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// checkpoint is what the sampler writes down after each window (samples.json), so that the next run of
// wings goes on where this one was killed: the counters go on in the kernel, and the difference to
// what was booked is used time. Instants are told in the window clock's UTC.
type checkpoint struct {
	ClosedUnixS int64                `json:"closed_unix_s"` // every window up to here is in the spool
	Used        []span               `json:"used"`          // windows whose samples are there
	Servers     map[string]keptMeter `json:"servers"`
}

// keptMeter is one server's part of it.
type keptMeter struct {
	Epoch int64     `json:"epoch"`
	Cut   time.Time `json:"cut"`
	Run   *keptRun  `json:"run,omitempty"` // that went on; nil: none did
	Disk  *keptDisk `json:"disk,omitempty"`
}

type keptRun struct {
	Run    run          `json:"run"`
	Limits wire.Limits  `json:"limits"`
	Began  time.Time    `json:"began"`
	Proof  time.Time    `json:"proof"`
	Raw    engine.Stats `json:"raw"`
	Points []keptPoint  `json:"points"` // what was used and is in no sample yet
}

type keptPoint struct {
	At  time.Time `json:"at"`
	Sum amounts   `json:"sum"`
}

type keptDisk struct {
	At    time.Time `json:"at"`
	Bytes int64     `json:"bytes"`
}

// load reads the checkpoint. One that cannot be read is none: then nothing is known of what ran while
// wings was away, and nothing of it counts.
func (p *sampler) load() checkpoint {
	var c checkpoint
	if err := readJSON(p.path, &c); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			p.log.Warn("the sampler's checkpoint cannot be read; measuring begins anew", "error", err)
		}
		return checkpoint{}
	}
	return c
}

// save writes the checkpoint. It is the last act of a window: a kill before it makes the next run of
// wings book the window once more, which the panel knows by its key and passes over.
func (p *sampler) save() error {
	utc := func(t time.Time) time.Time { return p.clock.labelOf(t).UTC().Round(0) }
	c := checkpoint{ClosedUnixS: p.closed, Used: slices.Clone(p.clock.used), Servers: map[string]keptMeter{}}
	for _, w := range p.pending {
		c.Used = without(c.Used, w.label)
	}
	p.mu.Lock()
	for id, m := range p.meters {
		k := keptMeter{Epoch: m.epoch, Cut: utc(m.cut)}
		if y := m.live(); y != nil {
			k.Run = &keptRun{Run: y.run, Limits: y.limits, Began: utc(y.began), Proof: utc(y.proof), Raw: y.raw}
			for _, pt := range y.points {
				k.Run.Points = append(k.Run.Points, keptPoint{utc(pt.at), pt.sum})
			}
		}
		if n := len(m.disk); n > 0 {
			k.Disk = &keptDisk{utc(m.disk[n-1].at), m.disk[n-1].bytes}
		}
		c.Servers[id] = k
	}
	p.mu.Unlock()
	return writeJSON(p.path, c)
}

// restore makes the meter again. Whether its run still goes on is for the server's first look to say;
// until then it is proved up to the last time that it was seen.
func (k keptMeter) restore(server string, c *windowClock) *meter {
	here := func(t time.Time) time.Time { return c.at.Add(t.Sub(c.label)) }
	m := &meter{server: server, epoch: k.Epoch, cut: here(k.Cut)}
	if r := k.Run; r != nil && len(r.Points) > 0 {
		y := &tally{run: r.Run, limits: r.Limits, began: here(r.Began), proof: here(r.Proof), raw: r.Raw}
		for _, pt := range r.Points {
			y.points = append(y.points, point{here(pt.At), pt.Sum})
		}
		m.runs = []*tally{y}
	} else {
		m.quiet = m.cut
	}
	if k.Disk != nil {
		m.disk = []diskFact{{here(k.Disk.At), k.Disk.Bytes}}
	}
	return m
}
