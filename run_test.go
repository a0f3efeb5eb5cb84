package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A machine without a Docker Engine, in a network of its own, on which somebody types make run and Ctrl-C.
type freshMachine struct {
	t     *testing.T
	dir   string // the checkout, with the binaries built
	netns string
}

func newFreshMachine(t *testing.T) *freshMachine {
	t.Helper()
	dir, err := os.MkdirTemp("", "run") // short: sockets lie below it
	must(t, err)
	m := &freshMachine{t: t, dir: dir, netns: filepath.Base(dir)}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin, err := binary()
	must(t, err)
	for _, d := range []string{"deploy/dev", "bin", ".cache/tools", "path"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{"deploy/dev/run.sh", "deploy/dev/lib.sh"} {
		raw, err := os.ReadFile(f)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, f), raw, 0o755))
	}
	must(t, os.Symlink(bin, filepath.Join(dir, "bin/mambahost")))
	m.must(exec.Command("go", "build", "-o", filepath.Join(dir, ".cache/tools/mailcatch"), "./deploy/dev/mailcatch/cmd"))
	docker, err := exec.LookPath("docker")
	must(t, err)
	none := "#!/bin/sh\n: \"${DOCKER_HOST:=unix:///nowhere}\"; export DOCKER_HOST\nexec " + docker + " \"$@\"\n"
	must(t, os.WriteFile(filepath.Join(dir, "path/docker"), []byte(none), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "path/systemctl"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	m.must(exec.Command("ip", "netns", "add", m.netns))
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", m.netns).Run() })
	m.must(m.command("ip", "link", "set", "lo", "up"))
	return m
}

func (m *freshMachine) must(c *exec.Cmd) string {
	m.t.Helper()
	out, err := c.CombinedOutput()
	if err != nil {
		m.t.Fatalf("%v: %v\n%s", c, err, out)
	}
	return string(out)
}

// command runs in the machine's network, below the checkout.
func (m *freshMachine) command(args ...string) *exec.Cmd {
	c := exec.Command("nsenter", append([]string{"--net=/run/netns/" + m.netns}, args...)...)
	c.Dir = m.dir
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DOCKER_HOST=") && !strings.HasPrefix(v, "MAMBA_") && !strings.HasPrefix(v, "PATH=") {
			c.Env = append(c.Env, v)
		}
	}
	c.Env = append(c.Env, "PATH="+filepath.Join(m.dir, "path")+":"+os.Getenv("PATH"))
	return c
}

// run is one make run: it waits until ready says so, and interrupts it as a terminal does.
func (m *freshMachine) run(ready func() bool, signal syscall.Signal) string {
	m.t.Helper()
	var out bytes.Buffer
	c := m.command("deploy/dev/run.sh", "--built")
	c.Stdout, c.Stderr = &out, &out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	must(m.t, c.Start())
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	eventually(m.t, 2*time.Minute, "it is ready", func() error {
		select {
		case err := <-ended:
			raw, _ := os.ReadFile(filepath.Join(m.dir, "mamba_data/panel.log"))
			m.t.Fatalf("it ended: %v\n%s\n%s", err, out.String(), raw)
		default:
		}
		if !ready() {
			return errStill("is not ready")
		}
		return nil
	})
	must(m.t, syscall.Kill(-c.Process.Pid, signal)) // the whole group, as a terminal
	select {
	case err := <-ended:
		must(m.t, err)
	case <-time.After(time.Minute):
		_ = syscall.Kill(c.Process.Pid, syscall.SIGTERM)
		m.t.Fatalf("it does not end\n%s", out.String())
	}
	return out.String()
}

// engine asks the engine of the run with the docker command.
func (m *freshMachine) engine(args ...string) string {
	c := m.command(append([]string{"docker"}, args...)...)
	c.Env = append(c.Env, "DOCKER_HOST=unix://"+filepath.Join(m.dir, "mamba_data/docker/docker.sock"))
	out, _ := c.Output() // empty while it does not answer
	return strings.TrimSpace(string(out))
}

func TestCtrlCTakesBackWhatMakeRunStarted(t *testing.T) {
	t.Parallel()
	m := newFreshMachine(t)
	before := m.must(m.command("iptables-save")) + m.must(m.command("ip", "-br", "link"))
	game := ""
	running := func() bool {
		game = m.engine("ps", "-q", "--no-trunc", "--filter", "label=host.mamba.role=game")
		return game != ""
	}
	first := m.run(running, syscall.SIGINT)
	for _, part := range []string{"Mamba Host is running at   http://127.0.0.1:8090", "mails      http://127.0.0.1:8025", "stopping the games", "the data is in mamba_data"} {
		if !strings.Contains(first, part) {
			t.Errorf("%q was not said:\n%s", part, first)
		}
	}
	m.nothingLeft(before)
	one := game
	m.run(running, syscall.SIGTERM)
	m.nothingLeft(before)
	if game != one {
		t.Errorf("the second run has container %s in place of %s", game, one)
	}
}

// nothingLeft compares the machine with what it was.
func (m *freshMachine) nothingLeft(before string) {
	m.t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	must(m.t, err)
	if strings.Contains(string(mounts), m.dir) {
		m.t.Errorf("mounts are left:\n%s", mounts)
	}
	if out, err := exec.Command("pgrep", "-af", m.dir).Output(); err == nil {
		m.t.Errorf("processes are left:\n%s", out)
	}
	rule := func(s string) map[string]bool {
		found := map[string]bool{}
		for _, l := range strings.Split(s, "\n") {
			if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") && !strings.HasPrefix(l, "lo ") {
				found[strings.Split(l, " [")[0]] = true // without the counters
			}
		}
		return found
	}
	were := rule(before)
	for now := range rule(m.must(m.command("iptables-save")) + m.must(m.command("ip", "-br", "link"))) {
		switch now { // tables and their own chains appear when they are first looked at
		case "*nat", "*filter", "COMMIT", ":PREROUTING ACCEPT", ":INPUT ACCEPT", ":FORWARD ACCEPT", ":OUTPUT ACCEPT", ":POSTROUTING ACCEPT":
			continue
		}
		if !were[now] {
			m.t.Errorf("left in the network: %s", now)
		}
	}
}

func TestTheCommandLineSaysWhatToDo(t *testing.T) {
	t.Parallel()
	bin, err := binary()
	must(t, err)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { taken.Close() }) // after the parallel cases
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"help lists the commands", []string{"--help"}, 0, "Available Commands"},
		{"help of serve lists our flags, too", []string{"serve", "--help"}, 0, "--local-node"},
		{"an unknown flag is named", []string{"serve", "--nonsense"}, 1, "unknown flag: --nonsense"},
		{"an unknown command is named", []string{"nonsense"}, 1, `unknown command "nonsense"`},
		{"a taken address for browsers", []string{"serve", "--http", taken.Addr().String(), "--node-listen", "127.0.0.1:0"}, 1, "choose another one with --http"},
		{"a taken address for nodes", []string{"serve", "--http", "127.0.0.1:0", "--node-listen", taken.Addr().String()}, 1, "or --node-listen"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c := c
			if c.args[0] == "serve" {
				c.args = append(c.args, "--dir", filepath.Join(t.TempDir(), "pb_data"))
			}
			out, err := exec.Command(bin, c.args...).CombinedOutput()
			code := 0
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				code = exit.ExitCode()
			}
			if code != c.code || !strings.Contains(string(out), c.says) {
				t.Errorf("exit code %d, says\n%s", code, out)
			}
		})
	}
}
