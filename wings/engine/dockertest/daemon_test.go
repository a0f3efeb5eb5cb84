package dockertest

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// runGame starts a container of the test image and returns its id and the pid on this machine.
func runGame(t *testing.T, host string, labels map[string]string, argv ...string) (id string, pid int) {
	t.Helper()
	cli := Client(t, host)
	created, err := cli.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Config: &container.Config{
			Image: Image(t, host), Entrypoint: append([]string{"/game"}, argv...), OpenStdin: true, Labels: labels,
		},
		HostConfig: &container.HostConfig{NetworkMode: "none"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.ContainerStart(t.Context(), created.ID, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	return created.ID, inspectPid(t, host, created.ID)
}

func inspectPid(t *testing.T, host, id string) int {
	t.Helper()
	res, err := Client(t, host).ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return res.Container.State.Pid
}

func TestPrivateDaemonKeepsItsContainersWhenItIsKilled(t *testing.T) {
	t.Parallel()
	p := Private(t, Options{})
	id, pid := runGame(t, p.Host(), nil, "echo")
	first := p.Pid()
	p.Kill(t)
	if alive(first) || p.Pid() != 0 {
		t.Errorf("the daemon (pid %d, now %d) lives after Kill", first, p.Pid())
	}
	if !alive(pid) {
		t.Error("the game ended with the daemon")
	}
	p.Start(t)
	if got := inspectPid(t, p.Host(), id); got != pid {
		t.Errorf("pid after the restart = %d, want %d", got, pid)
	}
	p.Restart(t)
	if got := inspectPid(t, p.Host(), id); got != pid {
		t.Errorf("pid after an orderly restart = %d, want %d", got, pid)
	}
}

func TestPrivateDaemonWithoutLiveRestoreStopsItsContainers(t *testing.T) {
	t.Parallel()
	p := Private(t, Options{NoLiveRestore: true})
	id, pid := runGame(t, p.Host(), nil, "polite")
	p.Restart(t)
	if got := inspectPid(t, p.Host(), id); got != 0 || alive(pid) {
		t.Errorf("the game runs after the restart (pid %d, was %d)", got, pid)
	}
}

func TestCloseLeavesNothingBehindEvenAfterAKill(t *testing.T) {
	t.Parallel()
	p, err := start(Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, pid := runGame(t, p.Host(), nil, "stubborn")
	p.Kill(t)
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	if alive(pid) {
		t.Errorf("game %d lives", pid)
	}
	if _, err := os.Stat(p.dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", p.dir, err)
	}
	if left := mountsBelow(p.dir); len(left) > 0 {
		t.Errorf("mounts left: %v", left)
	}
	if _, err := os.Stat("/run/netns/" + p.netns); !os.IsNotExist(err) {
		t.Errorf("network namespace %s is still there (%v)", p.netns, err)
	}
}

func TestDiscardEndsWhatADeadTestProcessLeft(t *testing.T) {
	t.Parallel()
	p, err := start(Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, pid := runGame(t, p.Host(), nil, "stubborn")
	daemon := p.Pid()
	if err := p.discard(); err != nil { // no orderly stop before it
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), stopTimeout)
	defer cancel()
	if err := poll(ctx, func() (bool, error) { return !alive(daemon) && !alive(pid), nil }); err != nil {
		t.Errorf("dockerd %d or game %d lives: %v", daemon, pid, err)
	}
	if _, err := os.Stat(p.dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", p.dir, err)
	}
}

func TestSweepTakesOnlyFoldersWhoseOwnerIsGone(t *testing.T) {
	// Not parallel: the environment decides where folders are looked for.
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(tmp, dirPrefix+strconv.Itoa(ended.Process.Pid)+"-1")
	mine := filepath.Join(tmp, dirPrefix+strconv.Itoa(os.Getpid())+"-1")
	other := filepath.Join(tmp, dirPrefix+"no-pid")
	for _, dir := range []string{dead, mine, other} {
		if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mount("tmpfs", filepath.Join(dead, "data"), "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	sweep()
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("the dead owner's folder is still there (%v)", err)
	}
	for _, dir := range []string{mine, other} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("sweep took %s: %v", dir, err)
		}
	}
}

// recorder is a testing.TB that keeps failures instead of failing.
type recorder struct {
	testing.TB
	failures []string
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, format)
}

func TestAssertCleanReportsAndRemovesWhatIsLeft(t *testing.T) {
	t.Parallel()
	host := Daemon(t)
	label := "t" + strconv.FormatInt(time.Now().UnixNano(), 36)
	clean := &recorder{TB: t}
	AssertClean(clean, host, "dockertest.case", label)
	if len(clean.failures) > 0 {
		t.Errorf("a clean engine was reported: %v", clean.failures)
	}
	runGame(t, host, map[string]string{"dockertest.case": label}, "stubborn")
	dirty := &recorder{TB: t}
	AssertClean(dirty, host, "dockertest.case", label)
	if len(dirty.failures) != 1 || !strings.Contains(dirty.failures[0], "left behind") {
		t.Errorf("failures = %q, want one that says what was left behind", dirty.failures)
	}
	again := &recorder{TB: t}
	AssertClean(again, host, "dockertest.case", label)
	if len(again.failures) > 0 {
		t.Errorf("what was reported was not removed: %v", again.failures)
	}
}

func TestImageIsImportedOnceAndRunsAsTheContainerUser(t *testing.T) {
	t.Parallel()
	host := Daemon(t)
	cli := Client(t, host)
	tag := Image(t, host)
	first, err := cli.ImageInspect(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	second, err := cli.ImageInspect(t.Context(), Image(t, host))
	if err != nil {
		t.Fatal(err)
	}
	if first.ID != second.ID {
		t.Errorf("ids %s and %s: it was imported twice", first.ID, second.ID)
	}
	if first.Config.User != "988:988" || first.Config.WorkingDir != "/home/container" {
		t.Errorf("user %q in %q", first.Config.User, first.Config.WorkingDir)
	}
	id, _ := runGame(t, host, nil, "lines", "3")
	t.Cleanup(func() {
		_, err := cli.ContainerRemove(context.WithoutCancel(t.Context()), id, client.ContainerRemoveOptions{Force: true})
		if err != nil {
			t.Error(err)
		}
	})
	logs, err := cli.ContainerLogs(t.Context(), id, client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	raw, err := io.ReadAll(logs)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"line 1\n", "line 2\n", "line 3\n"} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("log %q lacks %q", raw, want)
		}
	}
}
