//go:build conformance

package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	_ "embed"

	"github.com/mambahost/mamba/collections/postgres/postgrestest"
)

// suites are the packages of PocketBase whose tests open a database.
var suites = []string{"core", "apis", "forms", "mails", "cmd", "plugins/jsvm", "plugins/migratecmd", searchSuite}

// searchSuite opens databases by itself, not by core.DefaultDBConnect.
const searchSuite = "tools/search"

// aloneTries is how often a suspect is run alone before it is believed.
const aloneTries = 2

//go:embed expected.txt
var expectedList string

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }

// connectSource replaces core/db_connect.go.
const connectSource = `package core

import (
	"github.com/pocketbase/dbx"
	_ "modernc.org/sqlite"
)

// ConformanceConnect is set by the test binary of each suite.
var ConformanceConnect DBConnectFunc

func DefaultDBConnect(dbPath string) (*dbx.DB, error) { return ConformanceConnect(dbPath) }
`

// hookSource is added to each suite.
const hookSource = `package %s_test

import (
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections/postgres/conformance"
)

func init() { core.ConformanceConnect = conformance.Connect }
`

// In tools/search the tests of both packages open databases, and the inner one cannot import us.
const (
	searchSource = `package search

import "database/sql"

// ConformanceOpen is set by the test binary.
var ConformanceOpen func() (*sql.DB, error)
`
	searchHookSource = `package search_test

import (
	"github.com/pocketbase/pocketbase/tools/search"

	"github.com/mambahost/mamba/collections/postgres/conformance"
)

func init() { search.ConformanceOpen = conformance.OpenMemory }
`
	searchOpen = `sql.Open("sqlite", "file::memory:?cache=shared")`
)

// TestPocketBaseSuites fails for each of report.problems.
func TestPocketBaseSuites(t *testing.T) {
	expected, err := readExpected(expectedList)
	if err != nil {
		t.Fatal(err)
	}
	root, counts, began := filepath.Dir(strings.TrimSpace(command(t, "", "go", "env", "GOMOD"))), t.TempDir(), time.Now()
	work := filepath.Join(root, ".cache", "conformance") // the same each time: the build cache knows packages by their folder
	copySource(t, root, work)
	doing := run{work, counts, expected}
	r := doing.suites(t, suites)
	again := 0
	for range aloneTries {
		again += doing.alone(t, r)
	}
	results := filepath.Join(root, "test-results", "conformance")
	if err := os.MkdirAll(results, 0o755); err != nil {
		t.Fatal(err)
	}
	cases, failed := 0, 0
	for _, name := range suites {
		s := r[name]
		made, _ := os.ReadFile(filepath.Join(counts, filepath.Base(name)+".test")) // none if there is no file
		if len(made) == 0 {
			t.Errorf("%s: it opened no database on PostgreSQL", name)
		}
		write(t, filepath.Join(results, strings.ReplaceAll(name, "/", "-")+".txt"), s.failures(name, expected))
		fmt.Printf("conformance: %-18s %4d cases, %2d failed by themselves, %4d databases\n", name, s.cases(), len(s.leaves()), len(made))
		cases, failed = cases+s.cases(), failed+len(s.leaves())
	}
	problems := r.problems(expected)
	for _, p := range problems {
		t.Error(p)
	}
	fmt.Printf("conformance: %d cases, %d failed by themselves, %d listed, %d run again alone, %d problems, %v; outputs are in test-results/conformance\n",
		cases, failed, len(expected), again, len(problems), time.Since(began).Round(time.Second))
}

// copySource copies PocketBase's module to a new folder where its connections are ours. Two runs in one
// working copy would be in each other's way.
func copySource(t *testing.T, root, work string) {
	t.Helper()
	source := strings.TrimSpace(command(t, "", "go", "list", "-m", "-f", "{{.Dir}}", module))
	pb := filepath.Join(work, "pocketbase")
	if err := os.RemoveAll(work); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(pb, os.DirFS(source)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(pb, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = os.Chmod(path, map[bool]os.FileMode{true: 0o755, false: 0o644}[d.IsDir()]) // the module cache is read-only
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(pb, "core", "db_connect.go"), connectSource)
	for _, name := range suites {
		if name != searchSuite {
			write(t, filepath.Join(pb, name, "zz_conformance_test.go"), fmt.Sprintf(hookSource, filepath.Base(name)))
		}
	}
	redirectSearch(t, filepath.Join(pb, searchSuite))
	write(t, filepath.Join(work, "go.work"), "go 1.27.0\n\nuse (\n\t"+root+"\n\t./pocketbase\n)\n")
	sums := ""
	for _, dir := range []string{root, pb} {
		raw, err := os.ReadFile(filepath.Join(dir, "go.sum"))
		if err != nil {
			t.Fatal(err)
		}
		sums += string(raw)
	}
	write(t, filepath.Join(work, "go.work.sum"), sums)
}

// redirectSearch replaces searchOpen in the tests of a folder.
func redirectSearch(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		open := "ConformanceOpen()"
		if bytes.Contains(raw, []byte("package search_test\n")) {
			open = "search.ConformanceOpen()"
		}
		text := strings.ReplaceAll(string(raw), searchOpen, open)
		if text != string(raw) && !strings.Contains(text, "sql.") {
			text = strings.Replace(text, "\t\"database/sql\"\n", "", 1)
		}
		write(t, file, text)
	}
	write(t, filepath.Join(dir, "zz_conformance.go"), searchSource)
	write(t, filepath.Join(dir, "zz_conformance_test.go"), searchHookSource)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// run is what all runs of suites have in common.
type run struct {
	work, counts string
	expected     map[string]listed
}

// suites runs packages, as many at once as there are processors.
func (r run) suites(t *testing.T, names []string, flags ...string) report {
	t.Helper()
	args := append([]string{"test", "-json", "-count=1", "-timeout=45m", "-skip=" + notRun(r.expected)}, flags...)
	for _, name := range names {
		args = append(args, module+"/"+name)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "go", args...)
	cmd.Dir = filepath.Join(r.work, "pocketbase")
	cmd.Env = append(os.Environ(), "GOWORK="+filepath.Join(r.work, "go.work"), "GOFLAGS=", CountVariable+"="+r.counts, postgrestest.Variable+"="+postgrestest.Server(t))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got, err := readReport(out, names)
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it fails when a case does; the report knows how each suite ended
	return got
}

// alone runs each suspect of the report again by itself.
func (r run) alone(t *testing.T, first report) (tests int) {
	t.Helper()
	for name, tops := range first.suspects(r.expected) {
		for _, top := range tops {
			fmt.Printf("conformance: %s/%s failed beside others and is run again alone\n", name, top)
			first[name].replace(top, r.suites(t, []string{name}, "-run=^"+top+"$")[name])
			tests++
		}
	}
	return tests
}

// notRun is go test's -skip for the cases that are listed as not run.
func notRun(expected map[string]listed) string {
	patterns := []string{"^$"}
	for name, l := range expected {
		if !l.notRun {
			continue
		}
		for _, suite := range suites {
			if test, ok := strings.CutPrefix(name, suite+"/"); ok {
				var levels []string
				for _, level := range strings.Split(test, "/") {
					levels = append(levels, "^"+regexp.QuoteMeta(level)+"$")
				}
				patterns = append(patterns, strings.Join(levels, "/"))
			}
		}
	}
	return strings.Join(patterns, "|")
}
