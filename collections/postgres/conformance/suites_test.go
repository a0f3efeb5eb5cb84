//go:build conformance

package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "embed"

	"github.com/mambahost/mamba/collections/postgres/postgrestest"
)

// suites are the packages of PocketBase whose tests open a database, and those that write SQL.
var suites = []string{"core", "apis", "forms", "mails", "tools/search", "tools/dbutils"}

//go:embed expected.txt
var expectedList string

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }

const module = "github.com/pocketbase/pocketbase"

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

// TestPocketBaseSuites fails when a case fails that expected.txt does not list, and when a listed
// one passes.
func TestPocketBaseSuites(t *testing.T) {
	work := t.TempDir()
	copySource(t, work)
	failed, passed := map[string]bool{}, map[string]bool{}
	for _, suite := range suites {
		runSuite(t, work, suite, failed, passed)
	}
	expected := readExpected(t)
	failures := leaves(failed)
	unexpected, fixed := 0, 0
	for _, name := range failures {
		if _, listed := expected[name]; !listed {
			unexpected++
			t.Errorf("fails and is not listed: %s", name)
		}
	}
	for name := range expected {
		if passed[name] {
			fixed++
			t.Errorf("is listed and passes: %s", name)
		} else if !failed[name] {
			t.Errorf("is listed and did not run: %s", name)
		}
	}
	fmt.Printf("conformance: %d cases passed, %d failed as listed, %d failed unexpectedly, %d listed cases pass\n",
		len(passed), len(failures)-unexpected, unexpected, fixed)
}

// copySource copies PocketBase's module to a folder where its connect function is ours.
func copySource(t *testing.T, work string) {
	t.Helper()
	source := strings.TrimSpace(command(t, "", "go", "list", "-m", "-f", "{{.Dir}}", module))
	own := filepath.Dir(strings.TrimSpace(command(t, "", "go", "env", "GOMOD")))
	pb := filepath.Join(work, "pocketbase")
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
	for _, suite := range suites {
		write(t, filepath.Join(pb, suite, "zz_conformance_test.go"), fmt.Sprintf(hookSource, filepath.Base(suite)))
	}
	write(t, filepath.Join(work, "go.work"), "go 1.27.0\n\nuse (\n\t"+own+"\n\t./pocketbase\n)\n")
	sums := ""
	for _, dir := range []string{own, pb} {
		raw, err := os.ReadFile(filepath.Join(dir, "go.sum"))
		if err != nil {
			t.Fatal(err)
		}
		sums += string(raw)
	}
	write(t, filepath.Join(work, "go.work.sum"), sums)
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

// runSuite runs the tests of one package and notes how each ended, as "core/TestName/case".
func runSuite(t *testing.T, work, suite string, failed, passed map[string]bool) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "go", "test", "-json", "-count=1", "-timeout=30m", module+"/"+suite)
	cmd.Dir = filepath.Join(work, "pocketbase")
	cmd.Env = append(os.Environ(), "GOWORK="+filepath.Join(work, "go.work"), "GOFLAGS=", postgrestest.Variable+"="+postgrestest.Server(t))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, output := bufio.NewReader(out), map[string]*strings.Builder{}
	ran := 0
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		name := suite + "/" + e.Test
		switch {
		case e.Action == "output":
			if output[e.Test] == nil {
				output[e.Test] = &strings.Builder{}
			}
			output[e.Test].WriteString(e.Output)
		case e.Test == "":
		case e.Action == "pass":
			passed[name] = true
			ran++
		case e.Action == "fail":
			failed[name] = true
			ran++
			if o := output[e.Test]; o != nil {
				fmt.Print(o.String())
			}
		}
	}
	_ = cmd.Wait() // a failing test fails the command; what failed is known
	if ran == 0 {
		t.Fatalf("suite %s did not run: %s\n%v", suite, stderr.String(), output[""])
	}
	fmt.Printf("conformance: %-14s %d cases\n", suite, ran)
}

// leaves are the failures that are not only those of a case below them.
func leaves(failed map[string]bool) []string {
	var out []string
	for name := range failed {
		below := false
		for other := range failed {
			below = below || strings.HasPrefix(other, name+"/")
		}
		if !below {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// readExpected reads lines of "name | reason"; # begins a comment.
func readExpected(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(expectedList) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, reason, ok := strings.Cut(line, " | ")
		if !ok || strings.TrimSpace(reason) == "" {
			t.Fatalf("expected.txt: %q has no reason", line)
		}
		out[strings.TrimSpace(name)] = reason
	}
	return out
}
