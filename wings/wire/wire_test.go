package wire_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

func load[T any](t testing.TB, name string) T {
	t.Helper()
	var v T
	raw, err := os.ReadFile("testdata/v1/" + name + ".json")
	if err == nil {
		err = json.Unmarshal(raw, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWhatWasWrittenMeansTheSame(t *testing.T) {
	t.Parallel()
	s := load[wire.Spec](t, "spec")
	if s.Limits != (wire.Limits{CPUMillicores: 2000, MemoryMiB: 2048, SwapMiB: 256, DiskMiB: 10240, PIDs: 512, IOWeight: 500}) {
		t.Errorf("limits %+v", s.Limits)
	}
	if want := (wire.Port{Name: "query", HostIP: "2001:db8::7", HostPort: 25600, ContainerPort: 25565, Protocol: wire.UDP}); s.Ports[1] != want {
		t.Errorf("port %+v", s.Ports[1])
	}
	if s.Stop != (wire.Stop{Kind: wire.StopCommand, Value: "stop", TimeoutS: 120}) || s.Crash.BackoffMaxMS != 120_000 {
		t.Errorf("stop %+v, crash %+v", s.Stop, s.Crash)
	}
	o := load[wire.Observed](t, "observed-crashed")
	if o.State != wire.StateCrashed || *o.ExitCode != 137 || !o.OOMKilled || o.Problem.Code != wire.ProblemOutOfMemory {
		t.Errorf("observed %+v", o)
	}
	if at := time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC); !o.At.Equal(at) {
		t.Errorf("at %s", o.At)
	}
	if gone := load[wire.Observed](t, "observed-absent"); gone.ExitCode == nil || *gone.ExitCode != 0 || !gone.StartedAt.IsZero() {
		t.Errorf("an exit code of 0 is not the same as none: %+v", gone)
	}
}

func TestSpecsThatWereSentAreValid(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"spec", "spec-builtin", "spec-absent"} {
		s := load[wire.Spec](t, name)
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInvalidSpecsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(s *wire.Spec)
		says  string
	}{
		"a server id in capitals":                   {func(s *wire.Spec) { s.ServerID = "S1A2B3C4D5E6F7G" }, "server_id"},
		"a server id with a line end":               {func(s *wire.Spec) { s.ServerID += "\n" }, "server_id"},
		"a server id that is a path":                {func(s *wire.Spec) { s.ServerID = "../../etc/passw" }, "server_id"},
		"no tenant":                                 {func(s *wire.Spec) { s.TenantID = "" }, "tenant_id"},
		"an epoch before the first":                 {func(s *wire.Spec) { s.PlacementEpoch = 0 }, "(0, 7)"},
		"a generation before the first":             {func(s *wire.Spec) { s.Generation = -1 }, "(2, -1)"},
		"no desired state":                          {func(s *wire.Spec) { s.Desired = "" }, `desired ""`},
		"a state where a desired state belongs":     {func(s *wire.Spec) { s.Desired = "crashed" }, `desired "crashed"`},
		"a delete without its id":                   {func(s *wire.Spec) { s.Desired = wire.DesiredAbsent }, "delete_id"},
		"a delete id on a server that is to run":    {func(s *wire.Spec) { s.DeleteID = "d1a2b3c4d5e6f7g" }, "delete_id"},
		"no command":                                {func(s *wire.Spec) { s.Command = nil }, "command"},
		"a work folder that is not absolute":        {func(s *wire.Spec) { s.WorkDir = "home" }, "work_dir"},
		"no work folder":                            {func(s *wire.Spec) { s.WorkDir = "" }, "work_dir"},
		"no image":                                  {func(s *wire.Spec) { s.Image = wire.Image{} }, "image needs exactly one"},
		"two images":                                {func(s *wire.Spec) { s.Image.Builtin = "demo" }, "image needs exactly one"},
		"a built-in image that is not there":        {func(s *wire.Spec) { s.Image = wire.Image{Builtin: "quake"} }, `"quake"`},
		"no CPU":                                    {func(s *wire.Spec) { s.Limits.CPUMillicores = 0 }, "limits"},
		"no memory":                                 {func(s *wire.Spec) { s.Limits.MemoryMiB = 0 }, "limits"},
		"no disk":                                   {func(s *wire.Spec) { s.Limits.DiskMiB = 0 }, "limits"},
		"no processes":                              {func(s *wire.Spec) { s.Limits.PIDs = -1 }, "limits"},
		"less than no swap":                         {func(s *wire.Spec) { s.Limits.SwapMiB = -1 }, "limits"},
		"an I/O weight below the kernel's":          {func(s *wire.Spec) { s.Limits.IOWeight = 9 }, "io_weight 9"},
		"an I/O weight above the kernel's":          {func(s *wire.Spec) { s.Limits.IOWeight = 1001 }, "io_weight 1001"},
		"a port name in capitals":                   {func(s *wire.Spec) { s.Ports[0].Name = "Game" }, "ports[0].name"},
		"a port name that is too long":              {func(s *wire.Spec) { s.Ports[0].Name = strings.Repeat("a", 65) }, "ports[0].name"},
		"host port 0":                               {func(s *wire.Spec) { s.Ports[1].HostPort = 0 }, "ports[1]: 0"},
		"container port 65536":                      {func(s *wire.Spec) { s.Ports[1].ContainerPort = 65536 }, "65536"},
		"a protocol that nobody speaks":             {func(s *wire.Spec) { s.Ports[0].Protocol = "sctp" }, `"sctp"`},
		"one host port twice":                       {func(s *wire.Spec) { s.Ports[1] = s.Ports[0] }, "twice"},
		"a file above the data root":                {func(s *wire.Spec) { s.Files[0].Path = "a/../../b" }, "files[0].path"},
		"a file at an absolute path":                {func(s *wire.Spec) { s.Files[0].Path = "/etc/passwd" }, "files[0].path"},
		"a file without a name":                     {func(s *wire.Spec) { s.Files[0].Path = "" }, "files[0].path"},
		"a file that is a folder":                   {func(s *wire.Spec) { s.Files[0].Path = "config/" }, "files[0].path"},
		"a file whose name has a zero byte":         {func(s *wire.Spec) { s.Files[0].Path = "a\x00b" }, "files[0].path"},
		"a file with the other slash":               {func(s *wire.Spec) { s.Files[0].Path = `..\b` }, "files[0].path"},
		"a file with a path of 4097 bytes":          {func(s *wire.Spec) { s.Files[0].Path = strings.Repeat("a", 4097) }, "files[0].path"},
		"a file format that nobody edits":           {func(s *wire.Spec) { s.Files[0].Format = "exe" }, `"exe"`},
		"an install without a program":              {func(s *wire.Spec) { s.Install.Entrypoint = nil }, "install.entrypoint"},
		"an install without an end":                 {func(s *wire.Spec) { s.Install.TimeoutS = 0 }, "install.timeout_s"},
		"an install without an image":               {func(s *wire.Spec) { s.Install.Image = wire.Image{} }, "install.image"},
		"an install without limits":                 {func(s *wire.Spec) { s.Install.Limits = wire.Limits{} }, "install.limits"},
		"readiness that is waited for without end":  {func(s *wire.Spec) { s.Ready.TimeoutS = 0 }, "ready.timeout_s"},
		"a readiness pattern that does not compile": {func(s *wire.Spec) { s.Ready.LogRegex = "(" }, "ready.log_regex"},
		"a stop without an end":                     {func(s *wire.Spec) { s.Stop.TimeoutS = 0 }, "stop.timeout_s"},
		"a way to stop that is none":                {func(s *wire.Spec) { s.Stop.Kind = "ask" }, `stop.kind "ask"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := load[wire.Spec](t, "spec")
			c.spoil(&s)
			if err := s.Validate(); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("said %v, want something about %s", err, c.says)
			}
		})
	}
}

// At the borders of what is allowed.
func TestSpecsAtTheirLimitsAreValid(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(s *wire.Spec){
		"the smallest limits": func(s *wire.Spec) {
			s.Limits = wire.Limits{CPUMillicores: 1, MemoryMiB: 1, DiskMiB: 1, PIDs: 1, IOWeight: 10}
		},
		"the greatest I/O weight":         func(s *wire.Spec) { s.Limits.IOWeight = 1000 },
		"ports 1 and 65535":               func(s *wire.Spec) { s.Ports[0].HostPort, s.Ports[0].ContainerPort = 1, 65535 },
		"no ports":                        func(s *wire.Spec) { s.Ports = nil },
		"one number for both protocols":   func(s *wire.Spec) { s.Ports[1] = s.Ports[0]; s.Ports[1].Protocol = wire.UDP },
		"one number on two addresses":     func(s *wire.Spec) { s.Ports[1] = s.Ports[0]; s.Ports[1].HostIP = "203.0.113.8" },
		"a file deep down":                func(s *wire.Spec) { s.Files[0].Path = "a/b.c/..d/e" },
		"a file with a path of 4096":      func(s *wire.Spec) { s.Files[0].Path = strings.Repeat("a", 4096) },
		"nothing that says ready":         func(s *wire.Spec) { s.Ready = wire.Ready{TimeoutS: 1} },
		"nothing to install":              func(s *wire.Spec) { s.Install = nil },
		"a delete that says nothing else": func(s *wire.Spec) { *s = load[wire.Spec](t, "spec-absent") },
	} {
		s := load[wire.Spec](t, "spec")
		change(&s)
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whoever repairs a Spec sees all of its faults at once.
func TestValidateNamesEveryFault(t *testing.T) {
	t.Parallel()
	s := wire.Spec{Desired: wire.DesiredRunning}
	err := s.Validate()
	var many interface{ Unwrap() []error }
	if !errors.As(err, &many) || len(many.Unwrap()) < 7 {
		t.Fatalf("%v", err)
	}
	for _, field := range []string{"server_id", "tenant_id", "placement_epoch", "command", "work_dir", "image", "limits", "stop.kind", "ready.timeout_s"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("nothing about %s: %v", field, err)
		}
	}
}

func TestValidID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{
		"abcdefghij12345": true, "000000000000000": true, "": false, "abcdefghij1234": false, "abcdefghij123456": false,
		"abcdefghij1234-": false, "ABCDEFGHIJ12345": false, "abcdefghij12345\n": false, "äbcdefghij1234": false,
	} {
		if got := wire.ValidID(id); got != want {
			t.Errorf("%q: %t", id, got)
		}
	}
}
