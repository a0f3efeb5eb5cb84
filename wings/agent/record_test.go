package agent

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// exited is a run that began at noon and ended after d.
func exited(d time.Duration, code int) box {
	return box{at: placeExited, id: "box", startedAt: noon, exit: engine.Exit{Code: code, At: noon.Add(d)}}
}

func TestWhatAnExitIsTakenFor(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name      string
		box       box
		before    func(r *record, spec *wire.Spec)
		unwatched bool
		want      verdict
		crashes   int64
		wait      time.Duration // until the next start
	}{
		{"a code that is not 0 is a crash", exited(time.Minute, 1), nil, false, verdictCrash, 1, time.Second},
		{"code 0 was somebody's wish", exited(time.Minute, 0), nil, false, verdictClean, 0, 0},
		{"code 0 out of memory is a crash", func() box { b := exited(time.Minute, 0); b.exit.OOMKilled = true; return b }(), nil, false, verdictCrash, 1, time.Second},
		{"a run that we asked to end did so", exited(time.Minute, 137), func(r *record, _ *wire.Spec) {
			r.askStop(exited(time.Minute, 137), true, noon)
		}, false, verdictAsked, 0, 0},
		{"an ask that was for another run does not count", exited(time.Minute, 1), func(r *record, _ *wire.Spec) {
			r.askStop(box{id: "box", startedAt: noon.Add(-time.Hour)}, false, noon)
		}, false, verdictCrash, 1, time.Second},
		{"a server that shall not run may end as it likes", exited(time.Minute, 1), func(_ *record, spec *wire.Spec) {
			spec.Desired = wire.DesiredStopped
		}, false, verdictAsked, 0, 0},
		{"an end that nobody watched is not held against it", exited(time.Minute, 1), nil, true, verdictLost, 0, 0},
		{"a second one before a stable run waits", exited(time.Minute, 1), func(r *record, _ *wire.Spec) {
			r.LostAt = noon
		}, true, verdictLost, 0, time.Second},
		{"the third crash in a row waits longer", exited(time.Minute, 1), func(r *record, _ *wire.Spec) {
			r.Observed.CrashCount = 2
		}, false, verdictCrash, 3, 4 * time.Second},
		{"the crash after the last attempt is the end", exited(time.Minute, 1), func(r *record, _ *wire.Spec) {
			r.Observed.CrashCount = 3
		}, false, verdictGiveUp, 4, 0},
		{"after a stable run the count begins anew", exited(10*time.Minute, 1), func(r *record, _ *wire.Spec) {
			r.Observed.CrashCount = 3
		}, false, verdictCrash, 1, time.Second},
		{"a second less than stable does not", exited(10*time.Minute-time.Second, 1), func(r *record, _ *wire.Spec) {
			r.Observed.CrashCount = 3
		}, false, verdictGiveUp, 4, 0},
		{"a policy without a stable time never begins anew", exited(1000*time.Hour, 1), func(r *record, spec *wire.Spec) {
			spec.Crash.StableS, r.Observed.CrashCount = 0, 3
		}, false, verdictGiveUp, 4, 0},
		{"a policy without attempts gives up at once", exited(time.Minute, 1), func(_ *record, spec *wire.Spec) {
			spec.Crash.MaxAttempts = 0
		}, false, verdictGiveUp, 1, 0},
		{"a signal from outside waits for an engine that may be stopping", exited(time.Minute, 143), nil, false, verdictCrash, 1, outsideBackoff},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			spec := running(1)
			r := &record{}
			r.accept(&spec)
			if c.before != nil {
				c.before(r, &spec)
			}
			now := c.box.exit.At
			got := r.noteExit(&spec, c.box, !c.unwatched, now)
			wait := time.Duration(0)
			if !r.NextStart.IsZero() {
				wait = r.NextStart.Sub(now)
			}
			if got != c.want || r.Observed.CrashCount != c.crashes || wait != c.wait {
				t.Errorf("%s with %d crashes and a wait of %v, want %s, %d, %v", got, r.Observed.CrashCount, wait, c.want, c.crashes, c.wait)
			}
			if (r.Failure != nil) != (c.want == verdictGiveUp) || r.Ended != (c.want == verdictClean) {
				t.Errorf("failure %v, ended %v", r.Failure, r.Ended)
			}
			if !r.Handled.same(boxRun(c.box)) || !r.Asked.Run.zero() || *r.Observed.ExitCode != c.box.exit.Code {
				t.Errorf("the exit is not written down: %+v", r)
			}
		})
	}
}

func TestWhatForgivingTakesBack(t *testing.T) {
	t.Parallel()
	for _, code := range []int{0, 1, 137} {
		spec := running(1)
		spec.Crash.MaxAttempts = 0
		r := &record{}
		r.accept(&spec)
		r.noteExit(&spec, exited(time.Minute, code), true, noon)
		late := *r
		if late.forgive(noon.Add(forgiveWithin + time.Second)) {
			t.Errorf("code %d is forgiven although the engine was well for long", code)
		}
		again := *r
		if got, want := again.restored(), code != 1; got != want {
			t.Errorf("code %d in doubt at a restart of wings: forgiven %v, want %v", code, got, want)
		}
		if !r.forgive(noon.Add(time.Second)) || r.Observed.CrashCount != 0 || r.Failure != nil || r.Ended || !r.NextStart.IsZero() {
			t.Errorf("code %d is not forgiven: %+v", code, r)
		}
		if r.forgive(noon.Add(time.Second)) {
			t.Errorf("code %d is forgiven twice", code)
		}
	}
}

func TestHowAnInstallEnds(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name      string
		exit      engine.Exit
		unwatched bool
		timedOut  bool
		reruns    int
		concluded bool
		phase     installPhase
		problem   string
	}{
		{"code 0 is installed", engine.Exit{}, false, false, 0, true, installDone, ""},
		{"code 0 that nobody watched is, too", engine.Exit{}, true, false, 0, true, installDone, ""},
		{"another code failed", engine.Exit{Code: 7}, false, false, 0, true, installFailed, wire.ProblemInstallFailed},
		{"another code that nobody watched failed", engine.Exit{Code: 7}, true, false, 0, true, installFailed, wire.ProblemInstallFailed},
		{"a signal that nobody watched was the machine", engine.Exit{Code: 137}, true, false, 0, false, installPending, ""},
		{"a signal that was watched failed", engine.Exit{Code: 137}, false, false, 0, true, installFailed, wire.ProblemInstallFailed},
		{"the machine's interruptions are bounded", engine.Exit{Code: 137}, true, false, maxInstallReruns, true, installFailed, wire.ProblemInstallFailed},
		{"out of memory failed", engine.Exit{Code: 137, OOMKilled: true}, true, false, 0, true, installFailed, wire.ProblemInstallFailed},
		{"one that took too long failed, whatever its code", engine.Exit{Code: 0}, false, true, 0, true, installFailed, wire.ProblemInstallTimeout},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := &record{Install: installRunning, InstallTimedOut: c.timedOut, InstallReruns: c.reruns}
			concluded := r.noteInstall(c.exit, !c.unwatched)
			if concluded != c.concluded || r.Install != c.phase || r.Observed.Installed != (c.phase == installDone) {
				t.Errorf("concluded %v, phase %q, installed %v", concluded, r.Install, r.Observed.Installed)
			}
			if (r.Failure == nil) != (c.problem == "") || (r.Failure != nil && r.Failure.Code != c.problem) {
				t.Errorf("problem %+v, want %q", r.Failure, c.problem)
			}
		})
	}
}

func TestWhatAnErrorMeans(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name      string
		err       error
		code      string
		permanent bool
	}{
		{"an image that is not to be had", fmt.Errorf("pull: %w", engine.ErrImageUnavailable), wire.ProblemImageUnavailable, true},
		{"a config file that cannot be edited", fmt.Errorf("edit: %w", errConfig), wire.ProblemConfig, true},
		{"a port that is taken", fmt.Errorf("start: %w", engine.ErrPortTaken), wire.ProblemPortTaken, false},
		{"a full disk", fmt.Errorf("write: %w", syscall.ENOSPC), wire.ProblemDisk, false},
		{"a used-up quota", fmt.Errorf("write: %w", syscall.EDQUOT), wire.ProblemDisk, false},
		{"anything else is the engine", errors.New("/var/run/docker.sock: connection refused"), wire.ProblemEngine, false},
		{"a flood of words is cut", errors.New(strings.Repeat("x", 10_000)), wire.ProblemEngine, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, permanent := problemOf(c.err)
			if p.Code != c.code || permanent != c.permanent {
				t.Errorf("%s, permanent %v; want %s, %v", p.Code, permanent, c.code, c.permanent)
			}
			if p.Message == "" || strings.ContainsAny(p.Message, "/:") || len(p.Detail) > wire.MaxMessageBytes {
				t.Errorf("the customer reads %q, the operator %d bytes", p.Message, len(p.Detail))
			}
		})
	}
}

func TestAnAskIsRaisedToAKillAndNeverLowered(t *testing.T) {
	t.Parallel()
	b := exited(0, 0)
	r := &record{}
	r.askStop(b, false, noon)
	r.askStop(b, true, noon.Add(time.Minute))
	r.askStop(b, false, noon.Add(time.Hour))
	if !r.Asked.Kill || !r.Asked.At.Equal(noon) {
		t.Errorf("asked %+v, want a kill whose grace counts from the first ask", r.Asked)
	}
}

func TestRetriesAreSpreadAndBounded(t *testing.T) {
	t.Parallel()
	for try := range 200 {
		got := retryAfter(try)
		want := min(retryMin<<min(try, 10), retryMax)
		if got < want*4/5 || got > want*6/5 {
			t.Fatalf("try %d waits %v, want %v within a fifth", try, got, want)
		}
	}
}
