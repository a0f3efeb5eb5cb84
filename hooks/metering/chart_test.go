package metering

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

func drawn(t *testing.T, r *rig, name string, now time.Time) Chart {
	t.Helper()
	c, err := r.Chart(context.Background(), id("server", 1), Spans[name], now)
	if err != nil {
		t.Fatal(err)
	}
	for what, column := range map[string][]*int64{"cpu": c.CPUMillicores, "memory": c.MemoryBytes, "in": c.NetInBytesPerS, "out": c.NetOutBytesPerS, "disk": c.DiskBytes, "running": c.RunningMS} {
		if want := int(Spans[name].Length / Spans[name].Step); len(column) != want {
			t.Fatalf("%s: %d values of %s, want %d", name, len(column), what, want)
		}
	}
	return c
}

// text is one step of a chart, null where nothing is known.
func (c Chart) text(i int) string {
	raw, err := json.Marshal([]*int64{c.CPUMillicores[i], c.MemoryBytes[i], c.NetInBytesPerS[i], c.NetOutBytesPerS[i], c.DiskBytes[i], c.RunningMS[i]})
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

func TestAChartTellsUseStopsAndWhatIsNotKnownApart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	node, server := id("node", 1), id("server", 1)
	r.place(server, id("tenant", 1), node, 2, "RUNNING")
	now := time.Unix(r.now+95, 0)
	from := (now.Unix()/30*30 + 30) - 3600
	put := func(i int64, s wire.Sample) wire.Sample {
		r.seq++
		s.Seq, s.ServerID, s.PlacementEpoch, s.WindowUnixS = r.seq, server, 2, from+30*i
		return s
	}
	r.send(node, 4,
		put(0, wire.Sample{RunningMS: 30_000, MeasuredMS: 30_000, CPUUsedNS: 15e9, MemoryUsedMiBMS: 45_000, NetInBytes: 3000, NetOutBytes: 6000, DiskLastBytes: 77}),
		put(1, wire.Sample{RunningMS: 10_000, MeasuredMS: 5000, CPUUsedNS: 5e9, MemoryUsedMiBMS: 5000, NetOutBytes: 31, DiskLastBytes: 78}), // half of ten seconds is known
		put(2, wire.Sample{DiskLastBytes: 79}),                                               // stopped
		put(3, wire.Sample{RunningMS: 30_000, CPUReservedMillicoreMS: 1, DiskLastBytes: 80})) // ran, and nobody looked
	c := drawn(t, r, "1h", now)
	if c.FromUnixS != from || c.StepS != 30 {
		t.Fatalf("from %d by %d, want %d", c.FromUnixS, c.StepS, from)
	}
	for i, want := range []string{
		"[500,1572864,100,200,77,30000]", "[1000,1048576,0,1,78,10000]", "[0,0,0,0,79,0]", "[null,null,null,null,80,30000]", "[null,null,null,null,null,null]",
	} {
		if got := c.text(i); got != want {
			t.Errorf("step %d is %s, want %s", i, got, want)
		}
	}
}

func TestTheDayIsDrawnInStepsOfFiveMinutes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	node, server := id("node", 1), id("server", 1)
	r.place(server, id("tenant", 1), node, 1, "RUNNING")
	now := time.Now()
	from := (now.Unix()/300*300 + 300) - 86_400
	var batch []wire.Sample
	for i := range int64(10) { // one step of ten windows
		s := r.sample(server, 1, from+300+30*i)
		s.CPUUsedNS, s.NetOutBytes, s.DiskLastBytes = i*1e9, 300, i
		batch = append(batch, s)
	}
	r.send(node, 10, batch...)
	c := drawn(t, r, "24h", now)
	if got := c.text(1); got != "[150,0,0,10,9,300000]" {
		t.Errorf("the step is %s", got)
	}
	if got := c.text(2); got != "[null,null,null,null,null,null]" {
		t.Errorf("the one after it is %s", got)
	}
}

// A move inside a window leaves a sample of each epoch; both are of one step, and its rate counts it once.
func TestTwoEpochsOfOneWindowAreOneStep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	server := id("server", 1)
	r.place(server, id("tenant", 1), id("node", 1), 1, "RUNNING")
	s := r.sample(server, 1, r.now)
	s.RunningMS, s.MeasuredMS, s.CPUUsedNS, s.NetOutBytes = 10_000, 10_000, 10e9, 300
	r.send(id("node", 1), 1, s)
	if _, err := r.app.DB().NewQuery("UPDATE servers SET placement_epoch = 2").Execute(); err != nil {
		t.Fatal(err)
	}
	s.Seq, s.PlacementEpoch, s.RunningMS, s.MeasuredMS, s.CPUUsedNS = 2, 2, 20_000, 20_000, 5e9
	r.send(id("node", 1), 2, s)
	c := drawn(t, r, "1h", time.Unix(r.now+40, 0))
	if got := c.text(len(c.RunningMS) - 2); got != "[500,0,0,20,0,30000]" {
		t.Errorf("the step is %s", got)
	}
}
