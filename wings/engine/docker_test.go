package engine_test

import (
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/moby/moby/client"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/dockertest"
	"github.com/mambahost/mamba/wings/engine/enginetest"
	"github.com/mambahost/mamba/wings/wire"
)

func TestMain(m *testing.M) { os.Exit(dockertest.Main(m)) }

// player is the user of the test containers.
const player = 988

// connect makes an engine on host that is closed when t ends.
func connect(t *testing.T, cfg engine.Config) *engine.Docker {
	t.Helper()
	d, err := engine.NewDocker(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// dataDir is a folder that the test containers' user may write.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chown(dir, player, player); err != nil {
		t.Fatal(err)
	}
	return dir
}

// freePort of 127.0.0.1, free for TCP and UDP at the time of asking. The kernel hands them out in
// turn, so that two tests seldom get the same.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		u, err := net.ListenPacket("udp4", "127.0.0.1:"+strconv.Itoa(port))
		if cerr := l.Close(); cerr != nil {
			t.Fatal(cerr)
		}
		if err == nil {
			if err := u.Close(); err != nil {
				t.Fatal(err)
			}
			return port
		}
	}
	t.Fatal("no port is free for both protocols")
	return 0
}

func takePort(t *testing.T, p wire.Port) func() {
	t.Helper()
	l, err := net.Listen("tcp4", net.JoinHostPort(p.HostIP, strconv.Itoa(p.HostPort)))
	if err != nil {
		t.Fatal(err)
	}
	free := func() { _ = l.Close() }
	t.Cleanup(free)
	return free
}

func networkNames(t *testing.T, cli *client.Client) []string {
	t.Helper()
	res, err := cli.NetworkList(t.Context(), client.NetworkListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range res.Items {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return names
}

func dropNetwork(t *testing.T, cli *client.Client, name string) {
	t.Helper()
	if _, err := cli.NetworkRemove(t.Context(), name, client.NetworkRemoveOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestDockerDoesWhatAnEngineMust(t *testing.T) {
	t.Parallel()
	host := dockertest.Daemon(t)
	image := dockertest.Image(t, host)
	enginetest.Exercise(t, func(t *testing.T) enginetest.Harness {
		node := enginetest.NewID()
		t.Cleanup(func() { dockertest.AssertClean(t, host, engine.LabelNode, node) })
		cli := dockertest.Client(t, host)
		cfg := engine.Config{Host: host, NodeLabel: node, Logger: slog.New(slog.DiscardHandler)}
		return enginetest.Harness{
			Engine: connect(t, cfg),
			Again:  func(t *testing.T) engine.Engine { return connect(t, cfg) },
			Image:  wire.Image{Ref: image},
			// Port 1 of this machine: nothing listens there.
			Missing: wire.Image{Ref: "127.0.0.1:1/mamba/nowhere:1"},
			DataDir: dataDir(t), UID: player, GID: player,
			FreePort:    freePort,
			TakePort:    takePort,
			Networks:    func(t *testing.T) []string { return networkNames(t, cli) },
			DropNetwork: func(t *testing.T, name string) { dropNetwork(t, cli, name) },
		}
	})
}
