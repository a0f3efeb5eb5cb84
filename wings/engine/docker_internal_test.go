package engine

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

func TestNewDockerRefusesAnUnusableConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"no node label":             {},
		"a pool of IPv6":            {NodeLabel: "n", NetworkPool: netip.MustParsePrefix("fd00::/64")},
		"a pool less than a subnet": {NodeLabel: "n", NetworkPool: netip.MustParsePrefix("10.0.0.0/29")},
		"a host without a scheme":   {NodeLabel: "n", Host: "localhost"},
	} {
		if d, err := NewDocker(cfg); err == nil {
			t.Errorf("%s was accepted", name)
			_ = d.Close()
		}
	}
	d, err := NewDocker(Config{NodeLabel: "n", NetworkPool: netip.MustParsePrefix("10.9.8.7/24"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if d.cfg.NetworkPool.String() != "10.9.8.0/24" || d.cfg.PullTimeout != DefaultPullTimeout {
		t.Errorf("config = %+v", d.cfg)
	}
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Errorf("close twice: %v", err)
	}
}

func TestBothClientsTalkToTheSameEngine(t *testing.T) {
	t.Setenv("DOCKER_HOST", "")
	for _, host := range []string{"", "unix:///nowhere/d.sock"} {
		d, err := NewDocker(Config{NodeLabel: "n", Host: host})
		if err != nil {
			t.Fatal(err)
		}
		if d.cli.DaemonHost() != d.fresh.DaemonHost() {
			t.Errorf("hosts %s and %s", d.cli.DaemonHost(), d.fresh.DaemonHost())
		}
		_, one := d.cli.Ping(t.Context(), client.PingOptions{})
		_, other := d.fresh.Ping(t.Context(), client.PingOptions{})
		if fmt.Sprint(one) != fmt.Sprint(other) { // neither, or the same refusal of the same socket
			t.Errorf("host %q: %v, and on a new connection %v", host, one, other)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestPortTakenIsToldFromOtherFailuresToStart(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"driver failed programming external connectivity on endpoint mh-x (1f): Bind for 127.0.0.1:25565 failed: port is already allocated":                      true,
		"driver failed programming external connectivity on endpoint mh-x: Error starting userland proxy: listen tcp4 127.0.0.1:1: bind: address already in use": true,
		"failed to bind host port for 0.0.0.0:8080:172.17.0.2:80/tcp: address already in use":                                                                    true,
		"listen tcp4 10.9.9.9:1: bind: cannot assign requested address":                                                                                          false,
		"OCI runtime create failed: exec: \"/game\": no such file or directory":                                                                                  false,
	} {
		if got := isPortTaken(errdefs.ErrInternal.WithMessage(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if isPortTaken(errdefs.ErrNotFound.WithMessage("port is already allocated")) {
		t.Error("the class of the error was not looked at")
	}
}

func TestMappedKeepsTheCauseAndAddsTheSentinel(t *testing.T) {
	t.Parallel()
	cause := fmt.Errorf("no such container: %w", errdefs.ErrNotFound)
	if err := mapped("inspect", cause); !errors.Is(err, ErrNotFound) || !errors.Is(err, cause) {
		t.Errorf("not found: %v", err)
	}
	if err := mapped("inspect", io.ErrUnexpectedEOF); errors.Is(err, ErrNotFound) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("another error: %v", err)
	}
	if mapped("inspect", nil) != nil || prefixed("inspect", nil) != nil {
		t.Error("no error became one")
	}
}

func TestDescribedReadsWhatTheEngineSays(t *testing.T) {
	t.Parallel()
	base := func(state container.State) container.InspectResponse {
		return container.InspectResponse{
			ID: "i", Name: "/mh-x", State: &state,
			Config: &container.Config{Labels: map[string]string{LabelServer: "s", LabelEpoch: "7", LabelRole: "game"}},
		}
	}
	const zero, early, late = "0001-01-01T00:00:00Z", "2026-05-01T10:00:00.000000001Z", "2026-05-01T10:00:00.5Z"
	for name, c := range map[string]struct {
		state container.State
		want  Container
	}{
		"never started": {container.State{StartedAt: zero, FinishedAt: zero}, Container{}},
		"running again: the last exit is not told": {
			container.State{Running: true, StartedAt: late, FinishedAt: early, ExitCode: 0},
			Container{Running: true, StartedAt: engineTime(late)},
		},
		"ended": {
			container.State{StartedAt: early, FinishedAt: late, ExitCode: 137, OOMKilled: true},
			Container{StartedAt: engineTime(early), Exit: Exit{Code: 137, OOMKilled: true, At: engineTime(late)}},
		},
		"ended before it was heard to start": {
			container.State{StartedAt: late, FinishedAt: early, ExitCode: 7},
			Container{StartedAt: engineTime(late), Exit: Exit{Code: 7, At: engineTime(late)}},
		},
		"could not start": {
			container.State{StartedAt: zero, FinishedAt: zero, ExitCode: 128, Error: "port is already allocated"},
			Container{Exit: Exit{Code: 128, Reason: "port is already allocated"}},
		},
	} {
		c.want.ID, c.want.Name, c.want.ServerID, c.want.Epoch, c.want.Role = "i", "mh-x", "s", 7, RoleGame
		got, err := described(base(c.state))
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	broken := base(container.State{})
	broken.Config.Labels[LabelEpoch] = "x"
	if _, err := described(broken); err == nil {
		t.Error("a label that is no number was accepted")
	}
	if _, err := described(container.InspectResponse{ID: "i"}); err == nil {
		t.Error("an answer without state was accepted")
	}
}

func TestPortMapsPublishExactlyWhatIsGiven(t *testing.T) {
	t.Parallel()
	good := wire.Port{Name: "game", HostIP: "10.0.0.1", HostPort: 1, ContainerPort: 65535, Protocol: wire.UDP}
	exposed, bindings, err := portMaps([]wire.Port{good})
	if err != nil || len(exposed) != 1 || len(bindings) != 1 {
		t.Errorf("%v, %v, %v", exposed, bindings, err)
	}
	for name, spoil := range map[string]func(*wire.Port){
		"no address":           func(p *wire.Port) { p.HostIP = "" },
		"a name as address":    func(p *wire.Port) { p.HostIP = "localhost" },
		"host port 0":          func(p *wire.Port) { p.HostPort = 0 },
		"host port 65536":      func(p *wire.Port) { p.HostPort = 65536 },
		"container port -1":    func(p *wire.Port) { p.ContainerPort = -1 },
		"a protocol of others": func(p *wire.Port) { p.Protocol = "sctp" },
	} {
		p := good
		spoil(&p)
		if _, _, err := portMaps([]wire.Port{p}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestFreeSubnetIsInThePoolAndFree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pool := netip.PrefixFrom(netip.MustParseAddr("10.20.0.0"), rapid.IntRange(16, subnetBits).Draw(t, "bits")).Masked()
		var taken []netip.Prefix
		size := 1 << (subnetBits - pool.Bits())
		for range rapid.IntRange(0, size+1).Draw(t, "uses") {
			tenant := rapid.StringMatching(`[a-z0-9]{15}`).Draw(t, "tenant")
			got, ok := freeSubnet(pool, tenant, taken)
			if !ok {
				if len(taken) < size {
					t.Fatalf("nothing free with %d of %d taken", len(taken), size)
				}
				return
			}
			if got.Bits() != subnetBits || !pool.Contains(got.Addr()) || got != got.Masked() {
				t.Fatalf("%s is no subnet of %s", got, pool)
			}
			if slices.ContainsFunc(taken, got.Overlaps) {
				t.Fatalf("%s is taken", got)
			}
			taken = append(taken, got)
		}
		if len(taken) > size {
			t.Fatalf("%d subnets out of %d", len(taken), size)
		}
	})
}

func TestFreeSubnetAvoidsWhatContainsIt(t *testing.T) {
	t.Parallel()
	pool := netip.MustParsePrefix("172.30.0.0/16")
	taken := []netip.Prefix{netip.MustParsePrefix("172.30.0.0/17"), netip.MustParsePrefix("172.30.128.16/30")}
	for i := range 50 {
		got, ok := freeSubnet(pool, fmt.Sprint(i), taken)
		if !ok || taken[0].Overlaps(got) || taken[1].Overlaps(got) {
			t.Fatalf("%s, %v", got, ok)
		}
	}
	if got, ok := freeSubnet(pool, "x", []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}); ok {
		t.Errorf("%s out of a pool that somebody else has whole", got)
	}
}

func TestPullTrackerNeverFallsAndEndsAtAHundred(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var percents []int
		p := newPullTracker(func(percent int, message string) {
			if message == "" {
				t.Fatal("no message")
			}
			percents = append(percents, percent)
		})
		p.see(jsonstream.Message{Status: "Pulling from mamba/x", ID: "latest"})
		layers := rapid.SliceOfN(rapid.Int64Range(1, 1<<40), 1, 8).Draw(t, "sizes")
		here := rapid.IntRange(0, len(layers)-1).Draw(t, "already here")
		ids := make([]string, len(layers))
		for i := range layers {
			ids[i] = fmt.Sprint("layer", i)
			p.see(jsonstream.Message{Status: "Pulling fs layer", ID: ids[i]})
			if i < here {
				p.see(jsonstream.Message{Status: "Already exists", ID: ids[i]})
			}
		}
		for i := here; i < len(layers); i++ {
			for _, status := range []string{"Downloading", "Download complete", "Extracting", "Pull complete"} {
				msg := jsonstream.Message{Status: status, ID: ids[i]}
				if strings.HasSuffix(status, "ing") {
					msg.Progress = &jsonstream.Progress{Current: rapid.Int64Range(0, layers[i]).Draw(t, "current"), Total: layers[i]}
				}
				p.sent = time.Time{} // let each message through
				p.see(msg)
			}
		}
		for i, percent := range percents {
			if percent < -1 || percent > 100 || i > 0 && percent < percents[i-1] {
				t.Fatalf("progress %v", percents)
			}
		}
		if last := percents[len(percents)-1]; last != 100 {
			t.Fatalf("it ends at %d %%: %v", last, percents)
		}
	})
}

func TestPullTrackerReportsSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reports := 0
		p := newPullTracker(func(int, string) { reports++ })
		for i := range 1000 { // one second of messages
			p.see(jsonstream.Message{Status: "Downloading", ID: "l", Progress: &jsonstream.Progress{Current: int64(i), Total: 2000}})
			time.Sleep(time.Millisecond)
		}
		if reports < 4 || reports > 5 {
			t.Errorf("%d reports in a second", reports)
		}
		for range 10 {
			p.see(jsonstream.Message{Status: "Pull complete", ID: "l"})
		}
		if reports > 6 {
			t.Errorf("%d reports: the end was told more than once", reports)
		}
	})
}

func TestPullTrackerForgetsLayersBeyondItsBound(t *testing.T) {
	t.Parallel()
	p := newPullTracker(func(int, string) {})
	for i := range 3 * maxLayers {
		p.see(jsonstream.Message{Status: "Waiting", ID: fmt.Sprint(i)})
	}
	if len(p.layers) != maxLayers {
		t.Errorf("%d layers", len(p.layers))
	}
}

// The cursor of a log: whoever begins anew, far enough before, computes the same stamps.
func TestStampsGrowAndAreFoundAgain(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOfN(rapid.Int64Range(-50, 2000), 2, 200).Draw(t, "steps in ns")
		at := time.Unix(1_800_000_000, 0)
		raw := make([]time.Time, len(steps))
		for i, step := range steps {
			at = at.Add(time.Duration(step))
			raw[i] = at
		}
		stamps := make([]time.Time, len(raw))
		var previous time.Time
		for i := range raw {
			previous = stamp(previous, raw[i])
			stamps[i] = previous
			if i > 0 && !stamps[i].After(stamps[i-1]) {
				t.Fatalf("stamp %d does not grow", i)
			}
		}
		first := rapid.IntRange(0, len(raw)-1).Draw(t, "begin")
		previous = time.Time{}
		agreed := false
		for i := first; i < len(raw); i++ {
			previous = stamp(previous, raw[i])
			agreed = agreed || previous.Equal(stamps[i])
			if agreed && !previous.Equal(stamps[i]) {
				t.Fatalf("stamp %d differs after the two readers agreed", i)
			}
			if raw[i].Equal(stamps[i]) && !agreed {
				t.Fatalf("line %d has its own time for the first reader and not for the second", i)
			}
		}
	})
}

func frame(stream byte, body string) []byte {
	var header [8]byte
	header[0] = stream
	binary.BigEndian.PutUint32(header[4:], uint32(len(body)))
	return append(header[:], body...)
}

func TestReadFrameTellsAnEndFromACut(t *testing.T) {
	t.Parallel()
	whole := slices.Concat(frame(1, "out\n"), frame(2, ""), frame(2, "err\n"))
	r := bytes.NewReader(whole)
	for _, want := range []string{"out\n", "", "err\n"} {
		got, err := readFrame(r)
		if err != nil || string(got) != want {
			t.Errorf("frame %q, %v; want %q", got, err, want)
		}
	}
	if _, err := readFrame(r); !errors.Is(err, io.EOF) {
		t.Errorf("end: %v", err)
	}
	for cut := 1; cut < len(frame(1, "out\n")); cut++ {
		if _, err := readFrame(bytes.NewReader(whole[:cut])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	if _, err := readFrame(bytes.NewReader(frame(3, "the log is corrupt"))); err == nil || !strings.Contains(err.Error(), "corrupt") {
		t.Errorf("the engine's complaint: %v", err)
	}
	huge := frame(1, "")
	huge[4] = 0xff
	if _, err := readFrame(bytes.NewReader(huge)); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a huge frame: %v", err)
	}
}

func TestParseEntryTakesTheTimeOff(t *testing.T) {
	t.Parallel()
	at, text, err := parseEntry([]byte("2026-05-01T10:00:00.000000123Z  two  spaces \r\n"))
	if err != nil || string(text) != " two  spaces " || at.Nanosecond() != 123 {
		t.Errorf("%v %q %v", at, text, err)
	}
	if _, text, err := parseEntry([]byte("2026-05-01T10:00:00Z \n")); err != nil || len(text) != 0 {
		t.Errorf("an empty line: %q, %v", text, err)
	}
	for _, bad := range []string{"", "no-time", "yesterday line"} {
		if _, _, err := parseEntry([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestSplitLineLosesNothing(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, wire.MaxConsoleLineBytes, wire.MaxConsoleLineBytes + 1, 3*wire.MaxConsoleLineBytes + 5} {
		text := strings.Repeat("a", size)
		parts := splitLine([]byte(text))
		if strings.Join(parts, "") != text {
			t.Errorf("%d bytes became %d parts of other content", size, len(parts))
		}
		for i, part := range parts {
			if len(part) > wire.MaxConsoleLineBytes || len(part) == 0 && size > 0 {
				t.Errorf("part %d of %d bytes has %d", i, size, len(part))
			}
		}
		if size == 0 && len(parts) != 1 {
			t.Errorf("an empty line became %d parts", len(parts))
		}
	}
}

func TestSeccompIsRecognisedInTheEnginesOptions(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]bool{
		"name=seccomp,profile=default": true, "name=seccomp": true, "name=apparmor": false, "": false,
	} {
		if isSeccomp(option) != want {
			t.Errorf("%q: %v", option, !want)
		}
	}
}

// Both shapes are real answers of the API, shortened: cgroup v1 counts cache over the tree, v2 has
// another name and no per-core list, and what does not run answers zeros.
func TestUsedReadsBothCgroupVersions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer string
		want   Stats
	}{
		"cgroup v1": {
			`{"read":"2026-03-01T12:00:00Z","cpu_stats":{"cpu_usage":{"total_usage":1500000000,"percpu_usage":[1000000000,500000000]}},
			  "memory_stats":{"usage":104857600,"stats":{"inactive_file":1,"total_inactive_file":41943040}},
			  "networks":{"eth0":{"rx_bytes":10,"tx_bytes":20},"eth1":{"rx_bytes":1,"tx_bytes":2}}}`,
			Stats{CPUNS: 1_500_000_000, MemoryBytes: 62_914_560, NetInBytes: 11, NetOutBytes: 22},
		},
		"cgroup v2": {
			`{"read":"2026-03-01T12:00:00Z","cpu_stats":{"cpu_usage":{"total_usage":7}},
			  "memory_stats":{"usage":100,"stats":{"inactive_file":40,"file":90}}}`,
			Stats{CPUNS: 7, MemoryBytes: 60},
		},
		"cache read a moment after usage": {
			`{"memory_stats":{"usage":100,"stats":{"total_inactive_file":101}}}`, Stats{},
		},
		"what does not run": {`{"read":"0001-01-01T00:00:00Z","memory_stats":{}}`, Stats{}},
		"counters that turned": {
			`{"cpu_stats":{"cpu_usage":{"total_usage":18446744073709551615}},"networks":{"a":{"tx_bytes":9223372036854775807},"b":{"tx_bytes":5}}}`,
			Stats{NetOutBytes: 1<<63 - 1},
		},
	} {
		var in container.StatsResponse
		if err := json.Unmarshal([]byte(c.answer), &in); err != nil {
			t.Fatal(err)
		}
		if got := used(&in); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
