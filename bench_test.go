//go:build bench

package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The measurements of docs/performance.md. They are no tests: a slow machine fails nothing, it fills
// the table with other figures. deploy/dev/bench.sh runs them one after the other, nothing beside them.

var (
	benchPairs = flag.Int("pairs", 10, "rounds in which both sides are measured in turn")
	benchSmall = flag.Bool("small", false, "small numbers of everything, to see that it runs")
	benchOut   = flag.String("out", "", "file for the table")
)

// sizes of the load.
type sizes struct{ servers, tenants, viewers, subscribers, messages, requests, flood int }

func sizesOf(small bool) sizes {
	if small {
		return sizes{servers: 200, tenants: 10, viewers: 10, subscribers: 10, messages: 3, requests: 40, flood: 3_000}
	}
	return sizes{servers: 10_000, tenants: 200, viewers: 200, subscribers: 500, messages: 20, requests: 500, flood: 50_000}
}

func TestBench(t *testing.T) {
	r := &report{t: t}
	size := sizesOf(*benchSmall)
	for _, b := range []struct {
		name string
		run  func(*testing.T, *report, sizes)
	}{
		{"create", benchCreate}, {"start", benchColdStart}, {"memory", benchIdleMemory},
		{"console", benchConsole}, {"flood", benchFlood}, {"seeded", benchSeeded}, {"ingest", benchIngest},
		{"can", benchCan}, {"databases", benchDatabases},
	} {
		t.Run(b.name, func(t *testing.T) { b.run(t, r, size) })
	}
}

// report collects the table. It is written anew after every row, so that a run that is cut off leaves
// what it had.
type report struct {
	t      *testing.T
	rows   [][]string
	tables []*table
	notes  []string
}

// table is one beside the main one: what has other columns than a floor and ours.
type table struct {
	title   string // a sentence above it
	columns []string
	rows    [][]string
}

// table begins a further table.
func (r *report) table(title string, columns ...string) *table {
	t := &table{title: title, columns: columns}
	r.tables = append(r.tables, t)
	return t
}

// add writes a row of a further table.
func (r *report) add(t *table, cells ...string) {
	t.rows = append(t.rows, cells)
	r.t.Log(strings.Join(cells, " | "))
	r.write()
}

var columns = []string{"what", "floor", "ours", "ratio [95 %]", "reach", "met"}

// row adds a line: what was measured, both sides, their ratio, what to reach and whether it was.
func (r *report) row(what, floor, ours, ratio, reach string, met bool) {
	verdict := "no"
	if met {
		verdict = "yes"
	}
	r.rows = append(r.rows, []string{what, floor, ours, ratio, reach, verdict})
	r.t.Logf("%s: floor %s, ours %s, ratio %s, reach %s: %s", what, floor, ours, ratio, reach, verdict)
	r.write()
}

// note adds a sentence below the table.
func (r *report) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
	r.write()
}

func (r *report) write() {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", machineLine())
	if *benchSmall {
		b.WriteString("A run with `--small`: it shows that everything runs, and measures nothing.\n\n")
	}
	if len(r.rows) > 0 {
		writeTable(&b, columns, r.rows)
	}
	for _, t := range r.tables {
		fmt.Fprintf(&b, "%s\n\n", t.title)
		writeTable(&b, t.columns, t.rows)
	}
	for _, n := range r.notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	if *benchOut == "" {
		return
	}
	must(r.t, os.WriteFile(*benchOut, []byte(b.String()), 0o644))
}

func writeTable(b *strings.Builder, columns []string, rows [][]string) {
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat(" --- |", len(columns)))
	for _, row := range rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
	}
	b.WriteString("\n")
}

// machineLine says what it ran on: size, kernel, versions and how busy it was; no names.
var machineLine = sync.OnceValue(func() string {
	load, kernel := "?", "?"
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = strings.Fields(string(raw))[0]
	}
	if raw, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = strings.TrimSpace(string(raw))
	}
	return fmt.Sprintf("%s, %d cores, %d MiB of memory, Linux %s, %s, %d pairs, load %s when it began.",
		time.Now().UTC().Format("2 January 2006"), runtime.NumCPU(), memoryOf("/proc/meminfo", "MemTotal:")>>10, kernel, runtime.Version(), *benchPairs, load)
})

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func ms(v float64) string { return fmt.Sprintf("%.1f ms", v) }

func times(i interval) string { return fmt.Sprintf("%.2f × [%.2f–%.2f]", i.median, i.low, i.high) }

func medianOf(values []float64) float64 { return intervalOf(values).median }

// spread is the median and the 99th percentile.
func spread(values []float64) (p50, p99 float64) {
	if len(values) == 0 {
		return 0, 0
	}
	slices.Sort(values)
	return quantile(values, 0.5), quantile(values, 0.99)
}

// tool builds one of the programs that stand for the floor.
func tool(t testing.TB, name string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", out, "./deploy/dev/"+name)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, text)
	}
	return out
}

// program is a started process that answers on /api/health.
type program struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	url  string
	took time.Duration // from exec to the first 200
}

// pollEvery is how often a starting program is asked, so it is the resolution of took.
const pollEvery = time.Millisecond

// launch starts a program that serves at addr and returns once it answers.
func launch(t testing.TB, addr, path string, args ...string) *program {
	t.Helper()
	p := &program{t: t, url: "http://" + addr, done: make(chan struct{}), cmd: exec.Command(path, args...)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	must(t, p.cmd.Start())
	go func() { _ = p.cmd.Wait(); close(p.done) }() // waited for by end
	t.Cleanup(p.end)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	limit := time.After(2 * time.Minute)
	for !healthy(p.url) {
		select {
		case <-p.done:
			t.Fatalf("%s %v ended: %s", path, args, p.cmd.ProcessState)
		case <-limit:
			t.Fatalf("%s does not answer", path)
		case <-tick.C:
		}
	}
	p.took = time.Since(began)
	return p
}

// end stops it as Ctrl-C does and waits. A second call does nothing.
func (p *program) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.t.Errorf("%s did not end within 30 s", p.cmd.Path)
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}
