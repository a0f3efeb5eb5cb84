//go:build bench

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/mambahost/mamba/collections/collectionstest"
)

// canReach is what a question may cost, in microseconds, on the database of an installation of one machine.
const canReach = 50

// benchCan: whether somebody may do something, beside the least that can be asked of the same pool. The benchmarks of
// the room run in processes of their own, in turn.
func benchCan(t *testing.T, r *report, size sizes) {
	bin := filepath.Join(t.TempDir(), "tenancy.test")
	if text, err := exec.Command("go", "test", "-c", "-o", bin, "./hooks/tenancy").CombinedOutput(); err != nil {
		t.Fatalf("build the benchmarks: %v\n%s", err, text)
	}
	questions := max(size.servers, 100)
	for _, db := range []struct{ name, variable string }{{"SQLite", ""}, {"PostgreSQL", "postgres"}} {
		side := func(name string) func() float64 {
			return func() float64 { return microseconds(t, bin, name, questions, db.variable) }
		}
		p := alternate(*benchPairs, side("BenchmarkCanFloor"), side("BenchmarkCan"))
		floor, ours := fmt.Sprintf("%.0f µs", medianOf(p.floor)), medianOf(p.ours)
		if db.variable != "" {
			r.note("Can on %s: floor %s, ours %.0f µs, %s; nothing is promised.", db.name, floor, ours, times(p.ratio()))
			continue
		}
		r.row("Can: may he do this? "+db.name, floor, fmt.Sprintf("%.0f µs", ours), times(p.ratio()), fmt.Sprintf("≤ %d µs", canReach), ours <= canReach)
	}
	r.note("Can: one client, %d questions a round, in a process of its own. The floor reads one column of one row by its id with a prepared statement of the same pool. Nothing is cached: each question reads the database, on PostgreSQL through a socket of the same machine.", questions)
}

var perQuestion = regexp.MustCompile(`([0-9.]+) ns/op`)

// microseconds is what one turn of a benchmark takes.
func microseconds(t *testing.T, bin, name string, turns int, database string) float64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin, "-test.run", "^$", "-test.bench", "^"+name+"$", "-test.benchtime", strconv.Itoa(turns)+"x")
	cmd.Dir = "hooks/tenancy"
	cmd.Env = append(os.Environ(), collectionstest.Variable+"="+database)
	text, err := cmd.CombinedOutput()
	found := perQuestion.FindSubmatch(text)
	if err != nil || found == nil {
		t.Fatalf("%s: %v\n%s", name, err, text)
	}
	ns, err := strconv.ParseFloat(string(found[1]), 64)
	must(t, err)
	return ns / 1000
}
