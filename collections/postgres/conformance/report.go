package conformance

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// module is where the suites are.
const module = "github.com/pocketbase/pocketbase"

// listed is a line of expected.txt: why a case cannot hold.
type listed struct {
	reason string
	words  string // what the output of the failing case must have, so that no other failure hides behind it
	notRun bool   // it depends on the machine, so it is left out
}

// event is a line of go test -json (cmd/test2json).
type event struct {
	Action, Package, Test, Output string
	ImportPath, FailedBuild       string // of a package that does not build
}

// suite is how the tests of one package went.
type suite struct {
	passed, failed map[string]bool
	open           map[string]bool             // began and did not end
	output         map[string]*strings.Builder // of each test; of the package itself by ""
}

// cases is how many tests and subtests ended.
func (s *suite) cases() int { return len(s.passed) + len(s.failed) }

// report is how the suites went, by their names: "core", "tools/search".
type report map[string]*suite

// readReport reads the output of go test -json for the suites.
func readReport(r io.Reader, names []string) (report, error) {
	out, builds := report{}, map[string]*strings.Builder{}
	for _, name := range names {
		out[name] = &suite{map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]*strings.Builder{}}
	}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		if e.Action == "build-output" {
			add(builds, e.ImportPath, e.Output)
		}
		if s := out[strings.TrimPrefix(e.Package, module+"/")]; s != nil {
			s.note(e, builds)
		}
	}
}

func add(to map[string]*strings.Builder, key, text string) {
	if to[key] == nil {
		to[key] = &strings.Builder{}
	}
	to[key].WriteString(text)
}

func (s *suite) note(e event, builds map[string]*strings.Builder) {
	switch {
	case e.Action == "output":
		add(s.output, e.Test, e.Output)
	case e.Test == "":
		if b := builds[e.FailedBuild]; b != nil {
			add(s.output, "", b.String())
		}
	case e.Action == "run":
		s.open[e.Test] = true
	case e.Action == "pass":
		s.passed[e.Test] = true
		delete(s.open, e.Test)
	case e.Action == "fail":
		s.failed[e.Test] = true
		delete(s.open, e.Test)
	case e.Action == "skip":
		delete(s.open, e.Test)
	}
}

// properEnd is what a test binary that ran all its tests prints last. One that panics, is killed or
// exits by itself does not.
var properEnd = regexp.MustCompile(`(^|\n)(PASS|FAIL)\n(ok  |FAIL)\t[^\n]*\n$`)

func (s *suite) text(test string) string {
	if b := s.output[test]; b != nil {
		return b.String()
	}
	return ""
}

// leaves are the failures that are not only those of a case below them.
func (s *suite) leaves() []string {
	var out []string
	for name := range s.failed {
		below := false
		for other := range s.failed {
			below = below || strings.HasPrefix(other, name+"/")
		}
		if !below {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// aloneLimit is how many tests may fail by surprise and still be run again alone.
const aloneLimit = 5

// suspects are the tests of each suite with a failure that is not listed, if they are few. Some of
// PocketBase's tests give work in the background 100 or 250 ms (apis/realtime_test.go:1191,
// apis/record_crud_test.go:1322), which is not enough on a busy machine.
func (r report) suspects(expected map[string]listed) map[string][]string {
	out, n := map[string][]string{}, 0
	for name, s := range r {
		if !properEnd.MatchString(s.text("")) {
			continue // it is not about time
		}
		for _, test := range s.leaves() {
			top, _, _ := strings.Cut(test, "/")
			if _, is := expected[name+"/"+test]; !is && !slices.Contains(out[name], top) {
				out[name] = append(out[name], top)
				n++
			}
		}
	}
	if n > aloneLimit {
		return nil
	}
	return out
}

// replace takes the results of a test, and of all below it, from another run.
func (s *suite) replace(top string, by *suite) {
	within := func(test string) bool { return test == top || strings.HasPrefix(test, top+"/") }
	for _, m := range [][2]map[string]bool{{s.passed, by.passed}, {s.failed, by.failed}, {s.open, by.open}} {
		maps.DeleteFunc(m[0], func(test string, _ bool) bool { return within(test) })
		for test := range m[1] {
			if within(test) {
				m[0][test] = true
			}
		}
	}
	maps.DeleteFunc(s.output, func(test string, _ *strings.Builder) bool { return within(test) })
	for test, text := range by.output {
		if within(test) {
			s.output[test] = text
		}
	}
}

// problems are the reasons not to be green, a sentence each.
func (r report) problems(expected map[string]listed) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(r)) {
		s := r[name]
		switch {
		case s.cases() == 0:
			say("%s: nothing ran", name)
		case !properEnd.MatchString(s.text("")):
			say("%s: it broke off", name)
		}
		for test := range s.open {
			say("%s/%s: it began and did not end", name, test)
		}
		for _, test := range s.leaves() {
			l, is := expected[name+"/"+test]
			switch seen[name+"/"+test] = true; {
			case !is:
				say("%s/%s: it fails and is not listed", name, test)
			case !l.notRun && !strings.Contains(s.text(test), l.words):
				say("%s/%s: it is listed and fails in another way: its output has no %q", name, test, l.words)
			case l.notRun:
				say("%s/%s: it is listed as not run and ran", name, test)
			}
		}
		for test := range s.passed {
			if _, is := expected[name+"/"+test]; is {
				seen[name+"/"+test] = true
				say("%s/%s: it is listed and passes", name, test)
			}
		}
	}
	for name, l := range expected {
		if !seen[name] && !l.notRun {
			say("%s: it is listed and did not run by itself", name)
		}
	}
	slices.Sort(out)
	return out
}

// failures is for people: the output of each case that failed, those that are not listed first, and of
// the package when it broke off.
func (s *suite) failures(name string, expected map[string]listed) string {
	var news, known strings.Builder
	if !properEnd.MatchString(s.text("")) {
		fmt.Fprintf(&news, "######## %s broke off\n%s", name, s.text(""))
	}
	for _, test := range slices.Sorted(maps.Keys(s.open)) {
		fmt.Fprintf(&news, "######## %s/%s did not end\n%s", name, test, s.text(test))
	}
	for _, test := range s.leaves() {
		if l, is := expected[name+"/"+test]; is {
			fmt.Fprintf(&known, "######## listed: %s/%s: %s\n%s", name, test, l.reason, s.text(test))
			continue
		}
		fmt.Fprintf(&news, "######## NOT LISTED: %s/%s\n%s", name, test, s.text(test))
	}
	return fmt.Sprintf("%s: %d cases, %d passed, %d failed by themselves\n%s%s", name, s.cases(), len(s.passed), len(s.leaves()), news.String(), known.String())
}

// readExpected reads lines of "name | words of its output | reason"; # begins a comment, ! a case that
// is not run ("! name | reason").
func readExpected(list string) (map[string]listed, error) {
	out := map[string]listed{}
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		rest, notRun := strings.CutPrefix(line, "! ")
		fields := strings.Split(rest, " | ")
		want := map[bool]int{true: 2, false: 3}[notRun]
		if len(fields) != want || slices.Contains(fields, "") {
			return nil, fmt.Errorf("expected.txt: %q has no name, words or reason", line)
		}
		l := listed{reason: fields[want-1], notRun: notRun}
		if !notRun {
			l.words = fields[1]
		}
		if _, twice := out[fields[0]]; twice {
			return nil, fmt.Errorf("expected.txt: %s is there twice", fields[0])
		}
		out[fields[0]] = l
	}
	return out, nil
}
