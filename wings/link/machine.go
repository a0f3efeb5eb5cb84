package link

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mambahost/mamba/wings/wire"
)

// Machine reads what the kernel says of this machine: cores, memory and load from /proc, disk from
// the file system that holds dir. What cannot be read stays zero. It knows nothing of an engine.
func Machine(dir string) Facts {
	return func(context.Context) wire.Heartbeat {
		var h wire.Heartbeat
		h.Capacity.CPUMillicores = int64(runtime.NumCPU()) * 1000
		if raw, err := os.ReadFile("/proc/meminfo"); err == nil {
			h.Capacity.MemoryMiB, h.MemUsedMiB = memory(raw)
		}
		if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
			h.Load1 = load(raw)
		}
		var fs unix.Statfs_t
		if unix.Statfs(dir, &fs) == nil {
			size := fs.Bsize
			h.Capacity.DiskMiB = int64(fs.Blocks) * size >> 20
			h.DiskUsedMiB = (int64(fs.Blocks) - int64(fs.Bfree)) * size >> 20
		}
		return h
	}
}

// memory returns what there is and what is in use (total − available), from /proc/meminfo.
func memory(meminfo []byte) (totalMiB, usedMiB int64) {
	values := map[string]int64{}
	lines := bufio.NewScanner(bytes.NewReader(meminfo))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		if kib, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
			values[fields[0]] = kib
		}
	}
	total := values["MemTotal:"]
	return total >> 10, max(total-values["MemAvailable:"], 0) >> 10
}

// load returns the 1-minute average of /proc/loadavg.
func load(loadavg []byte) float64 {
	first, _, _ := strings.Cut(string(loadavg), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return v
}
