package conformance

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// stream writes what go test -json would: "action test output" for each line of the suite core.
func stream(t *testing.T, lines ...string) string {
	t.Helper()
	var b strings.Builder
	for _, line := range lines {
		f := append(strings.SplitN(line, " ", 3), "", "")
		raw, err := json.Marshal(event{Action: f[0], Package: module + "/core", Test: strings.Trim(f[1], "-"), Output: strings.ReplaceAll(f[2], `\n`, "\n")})
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(raw, '\n'))
	}
	return b.String()
}

const (
	endPass = `output - PASS\nok  ` + "\t" + `core` + "\t" + `1s\n`
	endFail = `output - FAIL\nFAIL` + "\t" + `core` + "\t" + `1s\n`
)

// A run that is green proves that the suites ran to their ends and that only the listed cases failed.
func TestWhatARunIsRedFor(t *testing.T) {
	t.Parallel()
	const list = "# a comment\ncore/TestA/x | VACUUM | no copies here\n! core/TestNet/y | it needs the internet\n"
	listedFails := []string{"run TestA", "run TestA/x", "output TestA/x no VACUUM here", "fail TestA/x", "fail TestA"}
	for _, c := range []struct {
		name  string
		lines []string
		want  []string
	}{
		{"only the listed case fails", slices.Concat(listedFails, []string{"run TestB", "pass TestB", endFail}), nil},
		{"a case fails that is not listed", slices.Concat(listedFails, []string{"run TestB", "fail TestB", endFail}), []string{"core/TestB: it fails and is not listed"}},
		{"a case beside the listed one", slices.Concat([]string{"run TestA/z", "fail TestA/z"}, listedFails, []string{endFail}), []string{"core/TestA/z: it fails and is not listed"}},
		{"the listed case passes", []string{"run TestA/x", "pass TestA/x", endPass}, []string{"core/TestA/x: it is listed and passes"}},
		{"the listed case fails for another cause", []string{"run TestA/x", "output TestA/x another", "fail TestA/x", endFail}, []string{`core/TestA/x: it is listed and fails in another way: its output has no "VACUUM"`}},
		{"the listed case is gone", []string{"run TestB", "pass TestB", endPass}, []string{"core/TestA/x: it is listed and did not run by itself"}},
		{"a case below the listed one fails", []string{"run TestA/x/1", "fail TestA/x/1", "fail TestA/x", endFail},
			[]string{"core/TestA/x/1: it fails and is not listed", "core/TestA/x: it is listed and did not run by itself"}},
		{"a case that must not run runs", slices.Concat(listedFails, []string{"run TestNet/y", "fail TestNet/y", endFail}), []string{"core/TestNet/y: it is listed as not run and ran"}},
		{"nothing ran", nil, []string{"core/TestA/x: it is listed and did not run by itself", "core: nothing ran"}},
		{"a panic in a test", slices.Concat(listedFails, []string{"run TestB", "output TestB panic: x", "fail TestB", `output - FAIL` + "\t" + `core` + "\t" + `1s\n`}),
			[]string{"core/TestB: it fails and is not listed", "core: it broke off"}},
		{"the time is up, or os.Exit", slices.Concat(listedFails, []string{"run TestB", `output - FAIL` + "\t" + `core` + "\t" + `1s\n`}),
			[]string{"core/TestB: it began and did not end", "core: it broke off"}},
		{"a panic after the tests", slices.Concat(listedFails, []string{endFail, `output - panic: late\nFAIL` + "\t" + `core` + "\t" + `1s\n`}), []string{"core: it broke off"}},
		{"the stream ends", listedFails, []string{"core: it broke off"}},
	} {
		expected, err := readExpected(list)
		if err != nil {
			t.Fatal(err)
		}
		r, err := readReport(strings.NewReader(stream(t, c.lines...)), []string{"core"})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.problems(expected); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
}

// What failed can be read in one file, with the news first; so can why a suite did not build.
func TestTheOutputOfFailuresIsKept(t *testing.T) {
	t.Parallel()
	expected, err := readExpected("core/TestA | a | known")
	if err != nil {
		t.Fatal(err)
	}
	r, err := readReport(strings.NewReader(stream(t, `output TestA said by a\n`, "fail TestA", `output TestB said by b\n`, "fail TestB", `output TestC said by c\n`, "pass TestC", endFail)), []string{"core"})
	if err != nil {
		t.Fatal(err)
	}
	want := "core: 3 cases, 1 passed, 2 failed by themselves\n######## NOT LISTED: core/TestB\nsaid by b\n######## listed: core/TestA: known\nsaid by a\n"
	if got := r["core"].failures("core", expected); got != want {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	build := `{"ImportPath":"core [core.test]","Action":"build-output","Output":"a_test.go:6: undefined: x\n"}
not JSON at all
{"Action":"output","Package":"` + module + `/core","Output":"FAIL\tcore [build failed]\n"}
{"Action":"fail","Package":"` + module + `/core","FailedBuild":"core [core.test]"}
`
	if r, err = readReport(strings.NewReader(build), []string{"core"}); err != nil {
		t.Fatal(err)
	}
	if got := r["core"].failures("core", nil); !strings.Contains(got, "core broke off") || !strings.Contains(got, "undefined: x") {
		t.Errorf("%q", got)
	}
}

// A few surprises are looked at alone, and what is found then counts, for all cases of the test.
func TestSuspectsAreRunAlone(t *testing.T) {
	t.Parallel()
	read := func(lines ...string) report {
		r, err := readReport(strings.NewReader(stream(t, lines...)), []string{"core"})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	expected := map[string]listed{"core/TestA/x": {reason: "r", words: "w"}}
	first := read("output TestA/x w", "fail TestA/x", "fail TestA/y", "fail TestA", "pass TestB", endFail)
	if got := first.suspects(expected); len(got) != 1 || !slices.Equal(got["core"], []string{"TestA"}) {
		t.Fatalf("%v", got)
	}
	first["core"].replace("TestA", read("output TestA/x w", "fail TestA/x", "pass TestA/y", "fail TestA", endFail)["core"])
	if got := first.problems(expected); len(got) != 0 {
		t.Errorf("%q", got)
	}
	first["core"].replace("TestA", read("output TestA/x w", "fail TestA/x", "run TestA/y", "fail TestA")["core"])
	if got := first.problems(expected); !slices.Equal(got, []string{"core/TestA/y: it began and did not end"}) {
		t.Errorf("%q", got)
	}
	if got := read("fail TestC").suspects(expected); len(got) != 0 {
		t.Errorf("a suite that broke off has suspects: %v", got)
	}
	var many []string
	for _, c := range "ABCDEF" {
		many = append(many, "fail Test"+string(c))
	}
	if got := read(append(many, endFail)...).suspects(expected); len(got) != 0 {
		t.Errorf("six failures are taken for a busy machine: %v", got)
	}
}

func TestTheListIsReadStrictly(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"core/TestA", "core/TestA | words", "core/TestA |  | why", "! core/TestA", "core/TestA | a | b | c", "core/TestA | a | b\ncore/TestA | a | c"} {
		if got, err := readExpected(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}
