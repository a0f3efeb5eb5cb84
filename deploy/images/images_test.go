// Package images tests the scripts beside it: that the images are made, made once, and that the
// games in them run under the engine's locks. It has no code of its own.
package images

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/dockertest"
	"github.com/mambahost/mamba/wings/engine/enginetest"
	"github.com/mambahost/mamba/wings/wire"
)

func TestMain(m *testing.M) { os.Exit(dockertest.Main(m)) }

const player = 988

// made runs a script twice and returns the tag; the second run must do nothing.
func made(t *testing.T, host, script, tag string) string {
	t.Helper()
	cache, err := filepath.Abs("../../.cache")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"made " + tag, tag + " is there already"} {
		cmd := exec.Command("./" + script)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+host)
		if os.Getenv("MAMBA_CACHE") == "" {
			cmd.Env = append(cmd.Env, "MAMBA_CACHE="+cache)
		}
		begin := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		said := strings.TrimSpace(string(out))
		t.Logf("%s took %v: %s", script, time.Since(begin).Round(time.Millisecond), said)
		if os.Getenv(dockertest.HostVariable) == "" && !strings.Contains(said, want) {
			t.Errorf("%s said %q, want %q", script, said, want)
		}
	}
	return tag
}

// game is a started server of an image with its log.
type game struct {
	*engine.Docker
	id     string
	stream *engine.LogStream
	data   string
}

func start(t *testing.T, tag string, port wire.Port, command []string, files map[string]string) *game {
	t.Helper()
	host := dockertest.Daemon(t)
	node := enginetest.NewID()
	t.Cleanup(func() { dockertest.AssertClean(t, host, engine.LabelNode, node) })
	d, err := engine.NewDocker(engine.Config{Host: host, NodeLabel: node})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	data := t.TempDir()
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(data, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(data, name), player, player); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(data, player, player); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	imageID, err := d.EnsureImage(ctx, "engine.image", wire.Image{Ref: tag}, nil)
	if err != nil {
		t.Fatal(err)
	}
	server, tenant := enginetest.NewID(), enginetest.NewID()
	network, err := d.EnsureNetwork(ctx, "engine.network", tenant)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.RemoveNetworkIfUnused(context.WithoutCancel(ctx), "engine.network", tenant); err != nil {
			t.Error(err)
		}
	})
	id, err := d.Create(ctx, "engine.create", engine.ContainerSpec{
		Name: "mh-" + server, ServerID: server, TenantID: tenant, Epoch: 1, Role: engine.RoleGame, ImageID: imageID,
		Command: command, WorkDir: "/home/container", DataDir: data, Network: network, Ports: []wire.Port{port},
		Limits: wire.Limits{CPUMillicores: 2000, MemoryMiB: 768, DiskMiB: 512, PIDs: 128}, UID: player, GID: player, Stdin: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Remove(context.WithoutCancel(ctx), "engine.remove", id); err != nil {
			t.Error(err)
		}
	})
	if err := d.Start(ctx, "engine.start", id); err != nil {
		t.Fatal(err)
	}
	stream, err := d.Logs(ctx, "engine.logs", id, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return &game{Docker: d, id: id, stream: stream, data: data}
}

// until reads the console until a line matches.
func (g *game) until(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	var seen []string
	for {
		select {
		case line, ok := <-g.stream.C:
			if !ok {
				t.Fatalf("the console closed before %q:\n%s", pattern, strings.Join(seen, "\n"))
			}
			if seen = append(seen, line.Text); re.MatchString(line.Text) {
				return
			}
		case <-timer.C:
			t.Fatalf("%q did not come:\n%s", pattern, strings.Join(seen, "\n"))
		}
	}
}

func (g *game) wantExit(t *testing.T, code int) {
	t.Helper()
	exit, err := g.Wait(t.Context(), "engine.wait", g.id)
	if err != nil || exit.Code != code {
		t.Errorf("exit %+v, %v; want code %d", exit, err, code)
	}
}

func freePort(t *testing.T, network string) int {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).Port
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestMinecraftStandinIsLikeVanillaFromOutside(t *testing.T) {
	t.Parallel()
	tag := made(t, dockertest.Daemon(t), "minecraft-standin.sh", "mamba.local/minecraft-standin:1.20.4")
	t.Run("it honours its properties and its console", func(t *testing.T) { standinConsole(t, tag) })
	t.Run("it writes its properties and ends by signal", func(t *testing.T) { standinSignal(t, tag) })
}

func standinConsole(t *testing.T, tag string) {
	t.Parallel()
	port := freePort(t, "tcp")
	g := start(t, tag,
		wire.Port{Name: "game", HostIP: "127.0.0.1", HostPort: port, ContainerPort: 25599, Protocol: wire.TCP},
		[]string{"/app/start"},
		map[string]string{"server.properties": "#mine\nserver-port=25599\nmotd=Hello there\nmax-players=7\n"})
	g.until(t, `Done \([0-9.]+s\)! For help, type "help"`)
	status := ping(t, port)
	if !strings.Contains(status, `"Hello there"`) || !strings.Contains(status, `"max":7`) {
		t.Errorf("status %s", status)
	}
	in, err := g.Stdin(t.Context(), "engine.stdin", g.id)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for _, c := range [][2]string{
		{"list", `There are 0 of a max of 7 players online`},
		{"say good night", `\[Server\] good night`},
		{"dance", `Unknown or incomplete command`},
		{"stop", `Stopping the server`},
	} {
		if _, err := io.WriteString(in, c[0]+"\n"); err != nil {
			t.Fatal(err)
		}
		g.until(t, c[1])
	}
	g.wantExit(t, 0)
	raw, err := os.ReadFile(filepath.Join(g.data, "server.properties"))
	if err != nil || !bytes.HasPrefix(raw, []byte("#mine\n")) {
		t.Errorf("server.properties after the run: %q, %v", raw, err)
	}
}

func standinSignal(t *testing.T, tag string) {
	t.Parallel()
	g := start(t, tag,
		wire.Port{Name: "game", HostIP: "127.0.0.1", HostPort: freePort(t, "tcp"), ContainerPort: 25565, Protocol: wire.TCP},
		[]string{"/app/start"}, nil)
	g.until(t, `Done \(`)
	raw, err := os.ReadFile(filepath.Join(g.data, "server.properties"))
	if err != nil || !bytes.Contains(raw, []byte("\nserver-port=25565\n")) {
		t.Errorf("server.properties: %q, %v", raw, err)
	}
	if err := g.Signal(t.Context(), "engine.signal", g.id, "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	g.wantExit(t, 143)
}

// patience is how long a game may take to answer on a busy machine, try how long one question waits.
const patience, try = time.Minute, 5 * time.Second

// ping asks for the status as the game's server list does (protocol 765), again until there is one.
func ping(t *testing.T, port int) string {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		answer, err := pingOnce(port)
		if err == nil {
			return answer
		}
		if time.Now().After(end) {
			t.Fatalf("status %q: %v", answer, err)
		}
	}
}

func pingOnce(port int) (string, error) {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), try)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(try)); err != nil {
		return "", err
	}
	hello := slices.Concat([]byte{0x00, 0xfd, 0x05, 9}, []byte("127.0.0.1"), []byte{byte(port >> 8), byte(port), 1})
	if _, err := conn.Write(slices.Concat([]byte{byte(len(hello))}, hello, []byte{1, 0})); err != nil {
		return "", err
	}
	answer := make([]byte, 0, 4096)
	for !bytes.HasSuffix(answer, []byte("}}")) {
		part := make([]byte, 1024)
		n, err := conn.Read(part)
		if answer = append(answer, part[:n]...); err != nil {
			return string(answer), err
		}
	}
	return string(answer), nil
}

func TestLuantiServesItsGame(t *testing.T) {
	t.Parallel()
	tag := made(t, dockertest.Daemon(t), "luanti.sh", "mamba.local/luanti:debian")
	port := freePort(t, "udp")
	g := start(t, tag,
		wire.Port{Name: "game", HostIP: "127.0.0.1", HostPort: port, ContainerPort: 30000, Protocol: wire.UDP},
		[]string{"/usr/lib/minetest/minetestserver", "--gameid", "minetest", "--world", "/home/container/world", "--logfile", ""}, nil)
	g.until(t, `Server for gameid="minetest" listening on`)
	conn, err := net.Dial("udp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A client's first packet: protocol id, no peer yet, channel 0, reliable. The answer gives a peer id. As
	// a client does, it sends it again when nothing comes.
	answer, n := make([]byte, 64), 0
	for end := time.Now().Add(patience); n == 0 && time.Now().Before(end); {
		if err := conn.SetDeadline(time.Now().Add(try)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte{0x4f, 0x45, 0x74, 0x03, 0, 0, 0, 1}); err != nil {
			t.Fatal(err)
		}
		n, _ = conn.Read(answer)
	}
	if n != 14 || !bytes.HasPrefix(answer, []byte{0x4f, 0x45, 0x74, 0x03}) {
		t.Errorf("answer %x", answer[:n])
	}
	if err := g.Signal(t.Context(), "engine.signal", g.id, "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	g.wantExit(t, 0)
	// Written when it stops in good order.
	if _, err := os.Stat(filepath.Join(g.data, "world", "env_meta.txt")); err != nil {
		t.Errorf("the world was not saved: %v", err)
	}
}
