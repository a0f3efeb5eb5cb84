package metering

import (
	"context"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// Span is how far back a chart goes, and in which steps.
type Span struct {
	Length time.Duration
	Step   time.Duration // a multiple of wire.SampleWindow that Length is a multiple of
}

// Spans are the charts that are drawn from samples, by the name that the API gives them.
var Spans = map[string]Span{
	"1h":  {time.Hour, wire.SampleWindow},
	"24h": {24 * time.Hour, 5 * time.Minute},
}

// Chart is what a server used over a span, as one column for each line that is drawn: the i-th value of
// each is of the step that begins FromUnixS + i × StepS. Null: nothing is known of that step. Rates and
// averages are rounded down; they are for people and never for bills.
type Chart struct {
	FromUnixS int64 `json:"from_unix_s"`
	StepS     int64 `json:"step_s"`
	// While the server ran, averages over that time; 0 when it did not run at all.
	CPUMillicores []*int64 `json:"cpu_millicores"`
	MemoryBytes   []*int64 `json:"memory_bytes"`
	// Over the whole step.
	NetInBytesPerS  []*int64 `json:"net_in_bytes_per_s"`
	NetOutBytesPerS []*int64 `json:"net_out_bytes_per_s"`
	// The newest value of the step.
	DiskBytes []*int64 `json:"disk_bytes"`
	RunningMS []*int64 `json:"running_ms"`
}

// bucket is the sum of one step.
type bucket struct {
	windows map[int64]bool
	sum     wire.Sample
	disk    int64
}

// Chart draws a server's chart up to now. The windows that nodes have not delivered yet are null.
func (m *Metering) Chart(ctx context.Context, server string, span Span, now time.Time) (Chart, error) {
	step := int64(span.Step / time.Second)
	to := now.Unix()/step*step + step
	c := Chart{FromUnixS: to - int64(span.Length/time.Second), StepS: step}
	buckets := make([]bucket, int64(span.Length/span.Step))
	err := m.Store.Read(ctx, Range{Server: server, FromUnixS: c.FromUnixS, ToUnixS: to}, func(r Row) error {
		b := &buckets[(r.Sample.WindowUnixS-c.FromUnixS)/step]
		if b.windows == nil {
			b.windows = map[int64]bool{}
		}
		b.windows[r.Sample.WindowUnixS] = true // two epochs may share one
		b.sum.RunningMS += r.Sample.RunningMS
		b.sum.MeasuredMS += r.Sample.MeasuredMS
		b.sum.CPUUsedNS += r.Sample.CPUUsedNS
		b.sum.MemoryUsedMiBMS += r.Sample.MemoryUsedMiBMS
		b.sum.NetInBytes += r.Sample.NetInBytes
		b.sum.NetOutBytes += r.Sample.NetOutBytes
		b.disk = r.Sample.DiskLastBytes
		return nil
	})
	if err != nil {
		return Chart{}, err
	}
	for i := range buckets {
		c.add(&buckets[i])
	}
	return c, nil
}

// add appends one step.
func (c *Chart) add(b *bucket) {
	var cpu, memory, in, out, disk, running *int64
	if n := int64(len(b.windows)); n > 0 {
		s := &b.sum
		switch {
		case s.MeasuredMS > 0:
			cpu = ptr(s.CPUUsedNS / s.MeasuredMS / 1000)                 // ns per ms are millionths of a core
			memory = ptr((s.MemoryUsedMiBMS << 10 / s.MeasuredMS) << 10) // to the KiB
		case s.RunningMS == 0:
			cpu, memory = ptr(0), ptr(0)
		}
		if s.MeasuredMS > 0 || s.RunningMS == 0 {
			in, out = ptr(s.NetInBytes/(n*wire.SampleWindowS)), ptr(s.NetOutBytes/(n*wire.SampleWindowS))
		}
		disk, running = ptr(b.disk), ptr(s.RunningMS)
	}
	c.CPUMillicores, c.MemoryBytes = append(c.CPUMillicores, cpu), append(c.MemoryBytes, memory)
	c.NetInBytesPerS, c.NetOutBytesPerS = append(c.NetInBytesPerS, in), append(c.NetOutBytesPerS, out)
	c.DiskBytes, c.RunningMS = append(c.DiskBytes, disk), append(c.RunningMS, running)
}

func ptr(v int64) *int64 { return &v }
