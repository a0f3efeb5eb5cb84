package wire_test

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

// The words of the protocol are in the database of every panel and on the disk of every node. They
// are never changed, only added to.
func TestTheWordsOfTheProtocolStay(t *testing.T) {
	t.Parallel()
	for what, words := range map[string][2][]string{
		"states": {texts(wire.StateAbsent, wire.StatePulling, wire.StateInstalling, wire.StateInstallFailed, wire.StateStopped, wire.StateStarting,
			wire.StateRunning, wire.StateStopping, wire.StateCrashed, wire.StateFailed, wire.StateDeleting),
			{"absent", "pulling", "installing", "install_failed", "stopped", "starting", "running", "stopping", "crashed", "failed", "deleting"}},
		"desired states": {texts(wire.DesiredRunning, wire.DesiredStopped, wire.DesiredAbsent), {"running", "stopped", "absent"}},
		"protocols":      {texts(wire.TCP, wire.UDP), {"tcp", "udp"}},
		"ways to stop":   {texts(wire.StopCommand, wire.StopSignal), {"command", "signal"}},
		"events": {texts(wire.EventObserved, wire.EventCrash, wire.EventInstalled, wire.EventUnknown, wire.EventGap),
			{"observed", "crash", "installed", "unknown", "gap"}},
		"streams": {texts(wire.StreamOut, wire.StreamInstall, wire.StreamSystem, wire.StreamInput), {"out", "install", "system", "input"}},
		"problems": {texts(wire.ProblemImageUnavailable, wire.ProblemInstallFailed, wire.ProblemInstallTimeout, wire.ProblemNotReady,
			wire.ProblemCrashed, wire.ProblemOutOfMemory, wire.ProblemPortTaken, wire.ProblemEngine, wire.ProblemConfig,
			wire.ProblemSuperseded, wire.ProblemDisk),
			{"image_unavailable", "install_failed", "install_timeout", "not_ready", "crashed", "out_of_memory", "port_taken",
				"engine_error", "config_invalid", "superseded", "disk_full"}},
		"link": {texts(wire.APIPrefix, wire.BulkPath, wire.LinkProtocol, wire.LinkControl, wire.LinkBulk, wire.NodeURIPrefix, wire.PanelServerName),
			{"/v1", "/v1/link/bulk", "mamba-link", "control", "bulk", "mamba://node/", "panel.mamba.internal"}},
	} {
		if !slices.Equal(words[0], words[1]) {
			t.Errorf("%s are %q, were %q", what, words[0], words[1])
		}
	}
}

func texts[T ~string](words ...T) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = string(w)
	}
	return out
}

// Several numbers only make sense together.
func TestBoundsFitEachOther(t *testing.T) {
	t.Parallel()
	if wire.OfflineAfter < 3*wire.HeartbeatInterval {
		t.Error("one lost heartbeat, or two, would make a node count as offline")
	}
	if wire.LinkDeadAfter < 2*wire.LinkPingInterval {
		t.Error("one late answer to a ping would close a link")
	}
	if wire.MaxCommandBytes > wire.MaxConsoleLineBytes {
		t.Error("a command would not fit into the console that shows it")
	}
	if wire.MaxInstallLogBytes > wire.MaxEventBatchBytes/2 {
		t.Error("an install report would not fit into a batch")
	}
}

// piece draws what paths of attackers and of games are made of.
var piece = rapid.SampledFrom([]string{"a", "..", ".", "/", "//", "\\", "\x00", "world", "b.yml", "...", " ", "ä", "~", "C:"})

func TestPathsOfConfigFilesStayBelowTheDataRoot(t *testing.T) {
	t.Parallel()
	valid := load[wire.Spec](t, "spec")
	rapid.Check(t, func(t *rapid.T) {
		name := strings.Join(rapid.SliceOfN(piece, 0, 8).Draw(t, "pieces"), "")
		s := valid
		s.Files = []wire.ConfigFile{{Path: name, Format: "text"}}
		taken := s.Validate() == nil
		plain := filepath.IsLocal(name) && path.Clean(name) == name && name != "." && !strings.ContainsAny(name, "\\\x00")
		if taken != plain {
			t.Fatalf("%q: taken %t, but plain is %t", name, taken, plain)
		}
	})
}

// No two servers' worth of ports in one Spec: whatever is drawn, a double is found, and only that.
func TestDoublePortsAreFound(t *testing.T) {
	t.Parallel()
	valid := load[wire.Spec](t, "spec")
	rapid.Check(t, func(t *rapid.T) {
		s, seen, double := valid, map[string]bool{}, false
		s.Ports = nil
		for range rapid.IntRange(0, 6).Draw(t, "ports") {
			p := wire.Port{
				Name: "game", ContainerPort: 25565,
				HostIP:   rapid.SampledFrom([]string{"203.0.113.7", "203.0.113.8"}).Draw(t, "ip"),
				HostPort: rapid.IntRange(25565, 25567).Draw(t, "port"),
				Protocol: rapid.SampledFrom([]wire.Protocol{wire.TCP, wire.UDP}).Draw(t, "protocol"),
			}
			key := fmt.Sprint(p.HostIP, " ", p.HostPort, " ", p.Protocol)
			double = double || seen[key]
			seen[key] = true
			s.Ports = append(s.Ports, p)
		}
		if err := s.Validate(); (err != nil) != double {
			t.Fatalf("double is %t, Validate says %v: %+v", double, err, s.Ports)
		}
	})
}
