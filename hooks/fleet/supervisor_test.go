package fleet

import (
	"bufio"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// next reads the pid that a child prints first.
func nextPid(t *testing.T, lines *bufio.Scanner) int {
	t.Helper()
	if !lines.Scan() {
		t.Fatal("the child printed nothing")
	}
	pid, err := strconv.Atoi(lines.Text())
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func silentLog() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestSupervisorStartsAKilledChildAgainAndEndsIt(t *testing.T) {
	t.Parallel()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	s := &Supervisor{Path: sh, Args: []string{"-c", "echo $$; trap 'exit 0' TERM; while :; do read -r _ </dev/zero; done"}, Out: w, Log: silentLog()}
	s.Start(t.Context())
	s.Start(t.Context())
	lines := bufio.NewScanner(r)
	one := nextPid(t, lines)
	if err := syscall.Kill(one, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	two := nextPid(t, lines)
	if one == two {
		t.Fatal("no new child")
	}
	s.Stop()
	s.Stop()
	if err := syscall.Kill(two, 0); err == nil {
		t.Errorf("child %d is still there", two)
	}
}

// A daemon that is killed now and then is back at once, however often; one that cannot start is not
// driven in circles.
func TestHowLongADaemonThatEndedIsWaitedFor(t *testing.T) {
	t.Parallel()
	wait := time.Duration(0)
	for i := range 20 {
		if wait = respawnAfter(wait, 6*time.Second); wait != respawnMin {
			t.Fatalf("after %d runs of six seconds it waits for %s", i+1, wait)
		}
	}
	total := time.Duration(0)
	for range 10 {
		wait = respawnAfter(wait, 10*time.Millisecond)
		total += wait
	}
	if wait != respawnMax || total < 30*time.Second {
		t.Errorf("ten runs that ended at once took %s, the last wait was %s", total, wait)
	}
	if wait = respawnAfter(wait, respawnStable); wait != respawnMin {
		t.Errorf("a run that was stable is followed by a wait of %s", wait)
	}
}

func TestSupervisorOnceSaysHowItEnded(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	s := &Supervisor{Path: "/bin/sh", Out: &out, Log: silentLog()}
	if err := s.Once(t.Context(), "-c", "echo hi; exit 3"); err == nil || out.String() != "hi\n" {
		t.Fatalf("%v %q", err, out.String())
	}
}

// A panel that is killed must not leave a daemon that its successor would fight with.
func TestChildEndsWithAKilledParent(t *testing.T) {
	if os.Getenv("MAMBA_SUPERVISOR_PARENT") != "" {
		s := &Supervisor{Path: "/bin/sh", Args: []string{"-c", "echo $$; exec sleep 600"}, Out: os.Stdout, Log: silentLog()}
		s.Start(t.Context())
		select {} // until killed
	}
	t.Parallel()
	parent := exec.Command(os.Args[0], "-test.run", "^TestChildEndsWithAKilledParent$")
	parent.Env = append(os.Environ(), "MAMBA_SUPERVISOR_PARENT=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	child := nextPid(t, bufio.NewScanner(out))
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		if syscall.Kill(child, 0) != nil {
			return
		}
		// A zombie of init's counts as ended.
		if raw, err := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat"); err != nil || strings.Contains(string(raw), ") Z ") {
			return
		}
		<-tick.C
	}
	t.Errorf("child %d outlived its parent", child)
}
