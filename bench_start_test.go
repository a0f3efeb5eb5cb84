//go:build bench

package main

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// coldClient opens a connection per request: the program it asks may be another one each time.
var coldClient = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func healthy(url string) bool {
	resp, err := coldClient.Get(url + "/api/health")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// launchPanel starts the panel on a folder whose database is in pb_data.
func launchPanel(t testing.TB, dir string) *program {
	t.Helper()
	return launchPanelAt(t, dir, freeAddr(t))
}

// launchPanelAt has nodes come to an address.
func launchPanelAt(t testing.TB, dir, nodes string) *program {
	t.Helper()
	bin, err := binary()
	must(t, err)
	addr := freeAddr(t)
	return launch(t, addr, bin, "serve", "--dir", filepath.Join(dir, "pb_data"), "--http", addr, "--node-listen", nodes)
}

func launchBare(t testing.TB, bin, dir string) *program {
	t.Helper()
	addr := freeAddr(t)
	return launch(t, addr, bin, "serve", "--dir", filepath.Join(dir, "pb_data"), "--http", addr)
}

// migrated returns two data folders that each side has started on once.
func migrated(t testing.TB, bare string) (ours, floor string) {
	t.Helper()
	ours, floor = t.TempDir(), t.TempDir()
	launchPanel(t, ours).end()
	launchBare(t, bare, floor).end()
	return ours, floor
}

// benchColdStart: exec → first 200 on /api/health.
func benchColdStart(t *testing.T, r *report, _ sizes) {
	bare := tool(t, "barepb")
	ours, floor := migrated(t, bare)
	p := alternate(*benchPairs, func() float64 { return timed(launchBare(t, bare, floor)) }, func() float64 { return timed(launchPanel(t, ours)) })
	r.coldStart("Cold start, migrated and empty", p)
	p = alternate(*benchPairs, func() float64 { return timed(launchBare(t, bare, t.TempDir())) }, func() float64 { return timed(launchPanel(t, t.TempDir())) })
	took := medianOf(p.ours)
	r.row("First start, all migrations", ms(medianOf(p.floor)), ms(took), times(p.ratio()), "≤ 500 ms", took <= 500)
	r.note("First start: the panel makes %d collections, with their indexes, that the floor has not got.", len(collections.All()))
}

func timed(p *program) float64 {
	p.end()
	return milliseconds(p.took)
}

func (r *report) coldStart(what string, p pairs) {
	ratio, took := p.ratio(), medianOf(p.ours)
	r.row(what, ms(medianOf(p.floor)), ms(took), times(ratio), "≤ 2 ×; ≤ 500 ms", ratio.median <= 2 && took <= 500)
}

// benchIdleMemory: VmRSS once it does not change any more.
func benchIdleMemory(t *testing.T, r *report, _ sizes) {
	bare := tool(t, "barepb")
	ours, floor := migrated(t, bare)
	p := alternate(*benchPairs, func() float64 { return idle(launchBare(t, bare, floor)) }, func() float64 { return idle(launchPanel(t, ours)) })
	used := medianOf(p.ours)
	r.row("Idle memory of the panel without a node (VmRSS)", mib(medianOf(p.floor)), mib(used), times(p.ratio()), "≤ 40 MB", used <= 40)
	r.wingsMemory(t)
	r.note("Memory is in MiB. It is read when it has stayed within 2 %% for three seconds after the start; no collection is forced from outside. Wings is one process, read %d times. Its %d servers came over the link from the panel; none of them has a container.", *benchPairs, manyServers)
}

// manyServers is how many wings has in the second row of its memory.
const manyServers = 1000

// wingsMemory reads the node daemon's memory with no server and with many that are stopped.
func (r *report) wingsMemory(t *testing.T) {
	house := newPanel(t, "--local-node", "--node-ports", portRange(t, 5))
	house.start()
	read := func(what, reach string, most float64) {
		eventually(t, time.Minute, "the node is linked", func() error { return linked(house.super()) })
		daemon := childOf(t, house.cmd.Process.Pid)
		var used []float64
		for range *benchPairs {
			used = append(used, settledMiB(t, daemon))
		}
		r.row("Idle memory of wings "+what+" (VmRSS)", "—", mib(medianOf(used)), "—", reach, medianOf(used) <= most)
	}
	read("without servers", "≤ 25 MB", 25)
	c := house.customer("mia")
	first := house.createFor(c, stoppedServer("one of many"))
	c.until(first.ID, time.Minute, "STOPPED")
	house.stop()
	house.copies(first.ID, manyServers-1)
	house.start()
	eventually(t, 5*time.Minute, "wings has them all", func() error {
		var known struct{ Total int }
		if c.ok("GET", "/api/v1/servers?per_page=1&status=STOPPED", nil, &known); known.Total < manyServers {
			return fmt.Errorf("%d are known to be stopped", known.Total)
		}
		return nil
	})
	read(fmt.Sprintf("with %d stopped servers", manyServers), "≤ 45 MB", 45)
}

func stoppedServer(name string) map[string]any {
	body := noInstallServer(name)
	body["start"] = false
	return body
}

// copiesSQL makes servers like one that there is, of which the node has not heard yet. The panel tells
// it, and calls them stopped once the node has answered.
var copiesSQL = []string{
	`INSERT INTO servers (id, tenant, name, node, blueprint, blueprint_version, variant, cpu_limit_millicores, mem_limit_mb, disk_gb, environment,
			status, desired_state, placement_epoch, generation, install_status, rev, created, updated)
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {:n})
		SELECT printf('many%011d', i), tenant, printf('Copy %d', i), node, blueprint, blueprint_version, variant, cpu_limit_millicores, mem_limit_mb, disk_gb,
			environment, 'UNREACHABLE', 'stopped', placement_epoch, generation, 'DONE', 1, created, updated
		FROM n, servers WHERE id = {:id}`,
	`INSERT INTO allocations (id, tenant, server, node, ip_address, ports, cpu_millicores, memory_mib, disk_mib, status, allocated_at, created, updated)
		SELECT replace(s.id, 'many', 'held'), a.tenant, s.id, a.node, a.ip_address, a.ports, a.cpu_millicores, a.memory_mib, a.disk_mib, a.status,
			a.allocated_at, a.created, a.updated
		FROM servers s, allocations a WHERE a.server = {:id} AND s.id LIKE 'many%'`,
}

// copies makes n more servers like one that there is, while the panel stands still.
func (p *panel) copies(id string, n int) {
	p.t.Helper()
	db, err := core.DefaultDBConnect(filepath.Join(p.dir, "pb_data", "data.db"))
	must(p.t, err)
	for _, q := range copiesSQL {
		params := dbx.Params{"id": id}
		if strings.Contains(q, "{:n}") {
			params["n"] = n
		}
		_, err := db.NewQuery(q).Bind(params).Execute()
		must(p.t, err)
	}
	must(p.t, db.Close())
}

func mib(v float64) string { return fmt.Sprintf("%.1f MB", v) }

func idle(p *program) float64 {
	defer p.end()
	return settledMiB(p.t, p.cmd.Process.Pid)
}

func linked(root *client) error {
	var nodes struct{ Items []struct{ Linked bool } }
	root.ok("GET", "/api/v1/admin/nodes", nil, &nodes)
	if len(nodes.Items) != 1 || !nodes.Items[0].Linked {
		return errStill("away")
	}
	return nil
}

// Settled: settleSamples readings of eventually, 20 ms apart, are within settleWithin of each other.
const (
	settleSamples = 150
	settleWithin  = 0.02
)

// settledMiB waits until a process' memory does not change any more and returns it.
func settledMiB(t testing.TB, pid int) float64 {
	t.Helper()
	var seen []float64
	eventually(t, 2*time.Minute, "the memory settles", func() error {
		now := float64(memoryOf(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")) / 1024
		if now == 0 {
			return errors.New("the process is gone")
		}
		if len(seen) > 0 && math.Abs(now-seen[0]) > settleWithin*seen[0] {
			seen = nil
		}
		if seen = append(seen, now); len(seen) < settleSamples {
			return fmt.Errorf("%.1f MiB for %d readings", now, len(seen))
		}
		return nil
	})
	return seen[len(seen)-1]
}

// memoryOf reads a line in KiB of a file of /proc; 0 when it is not there.
func memoryOf(file, name string) int64 {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib
		}
	}
	return 0
}

// childOf is the one child of a process: the node daemon of a panel.
func childOf(t testing.TB, parent int) int {
	t.Helper()
	out, err := exec.Command("ps", "-o", "pid=", "--ppid", strconv.Itoa(parent)).Output()
	must(t, err)
	pids := strings.Fields(string(out))
	if len(pids) != 1 {
		t.Fatalf("the panel has %d children, not one", len(pids))
	}
	pid, err := strconv.Atoi(pids[0])
	must(t, err)
	return pid
}
