package blueprints

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/blueprints/render"
	"github.com/mambahost/mamba/wings/wire"
)

func mustParse(t testing.TB, source string) *Blueprint {
	t.Helper()
	b, err := Parse([]byte(source), FileName)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// input is what small needs.
func input() Input {
	return Input{
		ServerID: "srv000000000001", TenantID: "ten000000000001", Name: "Mine", PlacementEpoch: 1, Generation: 1, Desired: wire.DesiredRunning,
		Limits: wire.Limits{CPUMillicores: 500, MemoryMiB: 256, DiskMiB: 1024, PIDs: 64},
		Ports: []wire.Port{
			{Name: "query", HostIP: "203.0.113.1", HostPort: 30001, Protocol: wire.UDP},
			{Name: "game", HostIP: "203.0.113.1", HostPort: 30000, Protocol: wire.UDP},
			{Name: "game", HostIP: "203.0.113.1", HostPort: 30000, Protocol: wire.TCP},
		},
	}
}

func TestCompileFillsTheSpec(t *testing.T) {
	t.Parallel()
	in := input()
	in.Variables = map[string]string{"NAME": "12", "SECRET": "s"}
	spec, err := Compile(mustParse(t, small), in)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"./server", "--name", "12", "--port", "7000"}; !slices.Equal(spec.Command, want) {
		t.Errorf("command %q", spec.Command)
	}
	want := []wire.Edit{
		{Key: "name", Value: "12", Kind: "string"}, {Key: "slots", Value: "5", Kind: "number"}, {Key: "text", Value: "12!", Kind: "string"},
		{Key: "level", Value: "5", Kind: "number"}, {Key: "on", Value: "true", Kind: "bool"}, {Key: "port", Value: "7000", Kind: "number"},
	}
	if !slices.Equal(spec.Files[0].Edits, want) {
		t.Errorf("edits %+v", spec.Files[0].Edits)
	}
	if p := spec.Ports; len(p) != 3 || p[0].ContainerPort != 7000 || p[2].Name != "query" || p[2].ContainerPort != 7001 || p[2].HostPort != 30001 {
		t.Errorf("ports %+v", spec.Ports)
	}
	if spec.Install.Image.Ref != "docker.io/library/debian:12-slim" || spec.Install.Env["SLOTS"] != "5" || spec.Install.Limits != in.Limits {
		t.Errorf("install %+v", spec.Install)
	}
}

// TestCompileRefuses says, in the customer's words, why a value is not taken.
func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	const secretive = "  - key: FIXED\n    name: Fixed\n    type: string\n    default: f\n    user_edit: false\n  - key: HIDDEN\n    name: Hidden\n    type: string\n    user_view: false\n    user_edit: false\n  - key: TERMS\n    name: Terms\n    type: bool\n    rules: {accepted: true}\n  - key: WORLD\n    name: World\n    type: string\n    rules: {min_length: 2, max_length: 4, regex: 'a|b.*', message: Begin with a b.}\nfiles:"
	b := mustParse(t, strings.Replace(small, "files:", secretive, 1))
	for name, c := range map[string]struct {
		key, value string
		want       string
	}{
		"text for a number":              {"SLOTS", "many", "Slots must be a whole number."},
		"a number written strangely":     {"SLOTS", "+5", "Slots must be a whole number."},
		"a number out of range":          {"SLOTS", "11", "Slots must be between 1 and 10."},
		"a choice that is none":          {"MODE", "c", "Mode must be one of: a, B."},
		"a line break":                   {"NAME", "a\nb", "Name must be one line without invisible characters."},
		"a NUL":                          {"NAME", "a\x00", "Name must be one line without invisible characters."},
		"a reversed text":                {"NAME", "a\u202eb", "Name must be one line without invisible characters."},
		"broken UTF-8":                   {"NAME", "\xff", "Name must be one line without invisible characters."},
		"a novel":                        {"NAME", strings.Repeat("x", MaxValueBytes+1), "Name is too long."},
		"more characters than allowed":   {"NAME", strings.Repeat("é", 257), "Name must have at most 256 characters."},
		"fewer characters than needed":   {"WORLD", "b", "World must have at least 2 characters."},
		"a form that is not accepted":    {"WORLD", "cc", "World: Begin with a b."},
		"only the beginning matches":     {"WORLD", "aa", "World: Begin with a b."},
		"terms that are not accepted":    {"TERMS", "false", "Terms has to be accepted."},
		"a setting that is fixed":        {"FIXED", "g", "Fixed is set by your host and cannot be changed."},
		"a fixed setting, the same":      {"FIXED", "f", "Fixed is set by your host and cannot be changed."},
		"a setting that is hidden":       {"HIDDEN", "h", "This game has no such setting."},
		"a setting that does not exist":  {"NOPE", "h", "This game has no such setting."},
		"a setting with a strange name":  {"{{var.NAME}}", "h", "This game has no such setting."},
		"the server's name over 2 lines": {"name", "", "The server's name must be one line without invisible characters."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := input()
			in.Variables = map[string]string{"TERMS": "true", c.key: c.value}
			if c.key == "name" {
				in.Variables, in.Name = map[string]string{"TERMS": "true"}, "a\nb"
			}
			_, err := Compile(b, in)
			var faults VariableErrors
			if !errors.As(err, &faults) || len(faults) != 1 || faults[0] != (VariableError{c.key, c.want}) {
				t.Fatalf("got %v, want %s", err, c.want)
			}
		})
	}
	in := input()
	in.Operator = map[string]string{"FIXED": "g", "HIDDEN": "h", "TERMS": "true"}
	if _, err := Compile(b, in); err != nil {
		t.Errorf("the operator may set them: %v", err)
	}
}

func TestCompileRefusesWhatTheCallerGotWrong(t *testing.T) {
	t.Parallel()
	port := func(name string, number int, protocol wire.Protocol) wire.Port {
		return wire.Port{Name: name, HostIP: "::1", HostPort: number, Protocol: protocol}
	}
	for name, c := range map[string]struct {
		change func(*Input)
		want   string
	}{
		"no ports":                    {func(in *Input) { in.Ports = nil }, `port "game" needs 1 tcp, 0 were allocated`},
		"a port of another name":      {func(in *Input) { in.Ports = append(in.Ports, port("x", 1, wire.TCP)) }, `the blueprint has none of that name`},
		"a protocol not asked for":    {func(in *Input) { in.Ports = append(in.Ports, port("query", 1, wire.TCP)) }, `which the blueprint does not ask for`},
		"a port twice":                {func(in *Input) { in.Ports = append(in.Ports, port("query", 1, wire.UDP)) }, `needs 1 udp, 2 were allocated`},
		"a wrong offset":              {func(in *Input) { in.Ports[0].HostPort = 30005 }, `must be 1 above port "game"`},
		"tcp and udp apart":           {func(in *Input) { in.Ports[1].HostPort = 30009 }, `the same number for tcp and udp`},
		"no limits":                   {func(in *Input) { in.Limits = wire.Limits{} }, `limits: cpu, memory, disk and pids must be > 0`},
		"an id that is none":          {func(in *Input) { in.ServerID = "../x" }, `is not an id`},
		"a variant that is none":      {func(in *Input) { in.Variant = "nope" }, ErrVariant.Error()},
		"a desired state that is off": {func(in *Input) { in.Desired = "absent" }, `delete_id`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := input()
			c.change(&in)
			spec, err := Compile(mustParse(t, small), in)
			var faults VariableErrors
			if err == nil || errors.As(err, &faults) || !strings.Contains(err.Error(), c.want) || spec.ServerID != "" {
				t.Fatalf("got %v, want %s", err, c.want)
			}
		})
	}
	loaded := mustParse(t, strings.Replace(small, "  script: echo hi", "  script_file: x.sh", 1))
	if _, err := Compile(loaded, input()); err == nil || !strings.Contains(err.Error(), "x.sh was not loaded") {
		t.Errorf("a script that was never read: %v", err)
	}
}

func TestConsecutivePortsFollowEachOther(t *testing.T) {
	t.Parallel()
	b := mustParse(t, strings.NewReplacer("container_port: 7000", "container_port: 7000\n    count: 2\n    host_port_hint: 9000", "offset: 1", "offset: 2").Replace(small))
	requests := b.PortRequests()
	if r := requests[0]; r.Count != 2 || r.HostHint != 9000 || len(r.Protocols) != 2 {
		t.Errorf("%+v", r)
	}
	if r := requests[1]; r.OffsetFrom != "game" || r.Offset != 2 || r.HostHint != 9002 {
		t.Errorf("%+v", r)
	}
	in := input()
	in.Ports = nil
	for _, protocol := range []wire.Protocol{wire.UDP, wire.TCP} {
		in.Ports = append(in.Ports, wire.Port{Name: "game", HostPort: 30001, Protocol: protocol}, wire.Port{Name: "game", HostPort: 30000, Protocol: protocol})
	}
	in.Ports = append(in.Ports, wire.Port{Name: "query", HostPort: 30002, Protocol: wire.UDP})
	spec, err := Compile(b, in)
	if err != nil {
		t.Fatal(err)
	}
	if p := spec.Ports[1]; p.HostPort != 30001 || p.ContainerPort != 7001 || spec.Ports[4].ContainerPort != 7002 {
		t.Errorf("%+v", spec.Ports)
	}
	in.Ports[0].HostPort = 30003
	if _, err := Compile(b, in); err == nil || !strings.Contains(err.Error(), "consecutive") {
		t.Errorf("a gap in the row: %v", err)
	}
}

// TestCustomerTextIsOnlyCopied is CVE-2026-52855 as a property: whatever a value holds, each place
// that names it holds exactly that text, and nothing else of the Spec changes.
func TestCustomerTextIsOnlyCopied(t *testing.T) {
	t.Parallel()
	b := mustParse(t, small)
	plain := func(name string) wire.Spec {
		in := input()
		in.Variables = map[string]string{"NAME": name, "SECRET": "the-secret"}
		spec, err := Compile(b, in)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		return spec
	}
	base := plain("MARK")
	attack := rapid.OneOf(
		rapid.StringMatching(`[ -~]{0,60}`),
		rapid.SampledFrom([]string{"{{config.token}}", "{{var.SECRET}}", "{{{{var.SECRET}}}}", "{{server.id}}", "}}{{", "$(id)", "`id`", "${HOME}", "\" --admin \"", "'; rm -rf / #", "a b", "../../etc/passwd", "<img onerror=x>", "%s%n", "\\"}))
	rapid.Check(t, func(t *rapid.T) {
		value := attack.Draw(t, "value")
		spec := plain(value)
		want := base
		want.Command = slices.Clone(base.Command)
		want.Command[2] = value
		want.Files = slices.Clone(base.Files)
		want.Files[0].Edits = slices.Clone(base.Files[0].Edits)
		want.Files[0].Edits[0].Value, want.Files[0].Edits[2].Value = value, value+"!"
		got, _ := json.Marshal(spec)
		expected, _ := json.Marshal(want)
		if string(got) != string(expected) {
			t.Fatalf("%q changed more than its places:\n%s\n%s", value, got, expected)
		}
	})
}

// TestShellStartupNeverSeesValues runs the script with a real shell: hostile values arrive as one
// argument each.
func TestShellStartupNeverSeesValues(t *testing.T) {
	t.Parallel()
	b := mustParse(t, strings.Replace(small, `startup: ./server --name "{{var.NAME}}" --port {{port.game}}`,
		`startup: printf '<%s>' "{{var.NAME}}" "{{var.NAME}}{{port.game}}" "{{port.game.host}}"`+"\nstartup_shell: true", 1))
	for _, value := range []string{"plain", `"; echo pwned; "`, "$(echo pwned)", "`echo pwned`", "${HOME}", `\`, "'", "a  b *"} {
		in := input()
		in.Variables = map[string]string{"NAME": value}
		spec, err := Compile(b, in)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(spec.Command[2], value) && value != "plain" && len(value) > 2 {
			t.Errorf("%q is part of the program: %s", value, spec.Command[2])
		}
		run := exec.Command(spec.Command[0], spec.Command[1:]...)
		for k, v := range spec.Env {
			run.Env = append(run.Env, k+"="+v)
		}
		out, err := run.Output()
		if want := "<" + value + "><" + value + "7000><30000>"; err != nil || string(out) != want {
			t.Errorf("%q: got %s, %v; want %s", value, out, err, want)
		}
	}
}

// TestShippedConfigFilesRender applies each golden Spec's edits to a new folder, twice.
func TestShippedConfigFilesRender(t *testing.T) {
	t.Parallel()
	files, _ := filepath.Glob("games/*/testdata/*.txtar")
	if len(files) == 0 {
		t.Fatal("no golden Specs")
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, specJSON, _ := strings.Cut(string(raw), "-- spec.json --\n")
		var spec wire.Spec
		if err := json.Unmarshal([]byte(specJSON), &spec); err != nil {
			t.Fatal(err)
		}
		for _, f := range spec.Files {
			once, err := render.Apply(f.Format, nil, f.Edits)
			if err != nil {
				t.Fatalf("%s: %s: %v", file, f.Path, err)
			}
			twice, err := render.Apply(f.Format, once, f.Edits)
			if err != nil || string(once) != string(twice) || len(once) == 0 {
				t.Errorf("%s: %s: %v\n%s\n%s", file, f.Path, err, once, twice)
			}
		}
	}
}

func TestVariantsReplaceWhatTheySay(t *testing.T) {
	t.Parallel()
	b := mustParse(t, strings.Replace(small, "startup: ./", "  - id: two\n    name: Two\n    image: local/two:1\n    startup: [/two]\n    env: {A: two, B: '{{server.id}}'}\n    skip_install: true\ndefault_variant: one\nenv: {A: all}\nready: {tcp: game}\nstartup: ./", 1))
	in := input()
	in.Variant = "two"
	spec, err := Compile(b, in)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(spec.Command, []string{"/two"}) || spec.Install != nil || spec.Image.Ref != "local/two:1" || spec.Ready.TCPPort != 7000 ||
		!maps.Equal(spec.Env, map[string]string{"A": "two", "B": in.ServerID}) {
		t.Errorf("%+v", spec)
	}
}
