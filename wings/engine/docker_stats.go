package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// maxStatsBytes bounds the engine's answer; on cgroup v1 with 256 cores it is about 20 KiB.
const maxStatsBytes = 1 << 20

// Stats implements Engine. The engine answers zeros for a container that does not run, and says
// nowhere which run its counters are of; so the container is looked up after them.
func (d *Docker) Stats(ctx context.Context, _ string, id string) (Stats, error) {
	what := fmt.Sprintf("read counters of container %.12s", id)
	res, err := d.cli.ContainerStats(ctx, id, client.ContainerStatsOptions{})
	if err != nil {
		return Stats{}, mapped(what, err)
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxStatsBytes))
	_ = res.Body.Close()
	if err != nil {
		return Stats{}, fmt.Errorf("%s: %w", what, err)
	}
	var answer container.StatsResponse
	if err := json.Unmarshal(raw, &answer); err != nil {
		return Stats{}, fmt.Errorf("%s: decode the answer: %w", what, err)
	}
	in, err := d.cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return Stats{}, mapped(what, err)
	}
	c, err := described(in.Container)
	if err != nil {
		return Stats{}, err
	}
	if !c.Running || answer.Read.IsZero() || c.StartedAt.After(answer.Read) {
		return Stats{}, fmt.Errorf("%s: %w", what, ErrNotRunning)
	}
	out := used(&answer)
	out.StartedAt = c.StartedAt
	return out, nil
}

// used takes out of the API's answer what one pays for.
func used(in *container.StatsResponse) Stats {
	out := Stats{CPUNS: whole(in.CPUStats.CPUUsage.TotalUsage), MemoryBytes: memoryUsed(&in.MemoryStats)}
	for _, n := range in.Networks {
		out.NetInBytes = sum(out.NetInBytes, whole(n.RxBytes))
		out.NetOutBytes = sum(out.NetOutBytes, whole(n.TxBytes))
	}
	return out
}

// memoryUsed is the usage without inactive page cache, as `docker stats` shows it: the kernel gives
// that back before anything else. cgroup v1 counts it over the whole tree as total_inactive_file, v2
// as inactive_file.
func memoryUsed(m *container.MemoryStats) int64 {
	cache, v1 := m.Stats["total_inactive_file"]
	if !v1 {
		cache = m.Stats["inactive_file"]
	}
	if cache > m.Usage { // read a moment apart
		return 0
	}
	return whole(m.Usage - cache)
}

// whole turns the kernel's counters into ours; one beyond 2^63 is no count of anything.
func whole(v uint64) int64 {
	if v > math.MaxInt64 {
		return 0
	}
	return int64(v)
}

// sum saturates instead of turning negative.
func sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
