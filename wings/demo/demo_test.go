package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// output collects what the game prints and lets a test wait for a line.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
}

func newOutput() *output { return &output{changed: make(chan struct{}, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) await(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	limit := time.After(10 * time.Second)
	for {
		if m := re.FindStringSubmatch(o.String()); m != nil {
			return m
		}
		select {
		case <-o.changed:
		case <-limit:
			t.Fatalf("no %q in:\n%s", pattern, o.String())
		}
	}
}

// played is one running game.
type played struct {
	t     *testing.T
	dir   string
	out   *output
	in    *io.PipeWriter
	port  string
	ended chan error
	stop  context.CancelFunc
}

func play(t *testing.T, dir string, args ...string) *played {
	t.Helper()
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	g := &played{t: t, dir: dir, out: newOutput(), in: w, ended: make(chan error, 1), stop: cancel}
	go func() {
		g.ended <- Run(ctx, append([]string{"--host", "127.0.0.1", "--port", "0", "--dir", dir}, args...), r, g.out)
	}()
	t.Cleanup(func() { cancel(); _ = w.Close() })
	return g
}

func (g *played) ready() *played {
	g.t.Helper()
	g.port = g.out.await(g.t, `^Ready: listening on port (\d+)$`)[1]
	return g
}

func (g *played) console(line string) { _, _ = io.WriteString(g.in, line+"\n") }

func (g *played) end() error {
	g.t.Helper()
	select {
	case err := <-g.ended:
		return err
	case <-time.After(10 * time.Second):
		g.t.Fatalf("the game does not end:\n%s", g.out)
		return nil
	}
}

type visitor struct {
	t    *testing.T
	conn net.Conn
	scan *bufio.Scanner
}

func (g *played) visit() *visitor {
	g.t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+g.port)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	return &visitor{t: g.t, conn: conn, scan: bufio.NewScanner(conn)}
}

func (v *visitor) say(line string) { _, _ = io.WriteString(v.conn, line+"\n") }

// hears reads on until a line is as told.
func (v *visitor) hears(want string) {
	v.t.Helper()
	_ = v.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var got []string
	for v.scan.Scan() {
		got = append(got, v.scan.Text())
		if v.scan.Text() == want {
			return
		}
	}
	v.t.Fatalf("never heard %q, but %q (%v)", want, got, v.scan.Err())
}

func (v *visitor) sentAway() {
	v.t.Helper()
	_ = v.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for v.scan.Scan() {
	}
	if err := v.scan.Err(); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		v.t.Fatalf("still connected")
	}
}

func TestPlayersMeetAndTheConsoleWorks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, configName), []byte("# comment\nmotd=Hello there\nmax-clients=2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	g := play(t, dir).ready()
	one, two := g.visit(), g.visit()
	one.hears("Hello there")
	two.hears("Hello there")
	one.say("/name anna")
	two.hears("player1 is now anna")
	one.say("hi all")
	one.hears("<anna> hi all")
	two.hears("<anna> hi all")
	full := g.visit()
	full.hears("The server is full. Come back later.")
	full.sentAway()
	two.say("/name anna")
	two.hears("That name cannot be had.")
	two.say("/list")
	g.console("say be kind")
	two.hears("[server] be kind")
	g.console("list")
	g.out.await(t, `^2 of 2 players: `)
	g.console("kick player2")
	two.hears("You were kicked.")
	two.sentAway()
	g.console("kick nobody")
	g.out.await(t, `^There is no player "nobody"$`)
	g.console("dance")
	g.out.await(t, `^Unknown command "dance"`)
	g.console("flood 3")
	g.out.await(t, `^flood 3 of 3$`)
	g.console("save")
	g.out.await(t, `^Saved$`)
	chat, err := os.ReadFile(filepath.Join(dir, chatName))
	if err != nil || !strings.Contains(string(chat), "<anna> hi all\n") {
		t.Errorf("after Saved the chat on the disk is %q, %v", chat, err)
	}
	g.console("stop")
	if err := g.end(); err != nil {
		t.Errorf("stop ends with %v", err)
	}
	one.hears("The server stops. Goodbye.")
	one.sentAway()
}

func TestHowTheGameEnds(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		end  func(g *played)
		code int
	}{
		{"stop ends it with 0", func(g *played) { g.console("stop") }, 0},
		{"a signal ends it with 0", func(g *played) { g.stop() }, 0},
		{"crash ends it with 3", func(g *played) { g.console("crash") }, 3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := play(t, t.TempDir()).ready()
			c.end(g)
			err := g.end()
			if ExitCode(err) != c.code {
				t.Errorf("exit code %d (%v), want %d", ExitCode(err), err, c.code)
			}
			_, serr := os.Stat(filepath.Join(g.dir, worldName))
			if saved := serr == nil; saved != (c.code == 0) {
				t.Errorf("saved is %v after code %d", saved, c.code)
			}
		})
	}
}

func TestNeverReadyListensAndDoesNotSaySo(t *testing.T) {
	t.Parallel()
	g := play(t, t.TempDir(), "--never-ready")
	g.out.await(t, `^Message of the day: `+DefaultMOTD)
	g.console("stop")
	if err := g.end(); err != nil || strings.Contains(g.out.String(), "Ready:") {
		t.Errorf("it said %q and ended with %v", g.out, err)
	}
}

func TestTheChatLogIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, chatName), bytes.Repeat([]byte("x"), maxChatBytes), 0o644); err != nil {
		t.Fatal(err)
	}
	g := play(t, dir).ready()
	g.console("say one")
	g.console("say two")
	g.console("stop")
	if err := g.end(); err != nil {
		t.Fatal(err)
	}
	chat, err := os.ReadFile(filepath.Join(dir, chatName))
	if err != nil || string(chat) != "[server] two\n" {
		t.Errorf("the new chat log is %q, %v", chat, err)
	}
	if info, err := os.Stat(filepath.Join(dir, chatName+".1")); err != nil || info.Size() < maxChatBytes {
		t.Errorf("the old chat log: %v, %v", info, err)
	}
}

func TestALineThatIsTooLongEndsTheConnectionOnly(t *testing.T) {
	t.Parallel()
	g := play(t, t.TempDir()).ready()
	v := g.visit()
	v.hears(DefaultMOTD)
	v.say(strings.Repeat("x", maxLineBytes*4))
	v.sentAway()
	g.out.await(t, `^player1 left$`)
	again := g.visit()
	again.hears(DefaultMOTD)
}

func TestABadFlagIsCode2(t *testing.T) {
	t.Parallel()
	if code := ExitCode(Run(context.Background(), []string{"--nope"}, strings.NewReader(""), io.Discard)); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	if code := ExitCode(Install(context.Background(), []string{"--nope"}, io.Discard)); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	if code := ExitCode(errors.New("anything")); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}

func TestInstall(t *testing.T) { // not parallel: it sets the environment
	for _, code := range []int{0, 7} {
		t.Run(fmt.Sprintf("ends with %d as the environment says", code), func(t *testing.T) {
			t.Setenv("DEMO_INSTALL_EXIT", fmt.Sprint(code))
			dir := t.TempDir()
			var out bytes.Buffer
			if got := ExitCode(Install(context.Background(), []string{"--dir", dir}, &out)); got != code {
				t.Errorf("exit code %d, want %d: %s", got, code, out.String())
			}
			for _, name := range []string{configName, worldName} {
				if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if !strings.Contains(out.String(), "(50 %)") {
				t.Errorf("no progress in %q", out.String())
			}
		})
	}
	t.Run("a config file that is there is kept", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, configName), []byte("motd=mine\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Install(context.Background(), []string{"--dir", dir}, io.Discard); err != nil {
			t.Fatal(err)
		}
		if raw, _ := os.ReadFile(filepath.Join(dir, configName)); string(raw) != "motd=mine\n" {
			t.Errorf("the config is now %q", raw)
		}
	})
}
