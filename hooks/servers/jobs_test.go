package servers

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/wings/engine/fake"
	"github.com/mambahost/mamba/wings/wire"
)

// broken creates, as the operator, a server whose install fails.
func (w *world) broken(takes string) string {
	w.t.Helper()
	r := w.do(w.super, "POST", "servers", `{"name":"broken","blueprint":"testgame","start":true,"variables":{"EXIT":"4","TAKES":"`+takes+`"},`+small+`}`)
	if r.status != http.StatusAccepted {
		w.t.Fatalf("create: %d %s", r.status, r.raw)
	}
	return r.at("server.id").(string)
}

func (w *world) repair(id string) {
	w.t.Helper()
	if r := w.do(w.super, "PATCH", "servers/"+id, `{"variables":{"EXIT":"0"}}`); r.status != http.StatusAccepted || r.at("job") != nil {
		w.t.Fatalf("repair: %d %s", r.status, r.raw)
	}
}

func TestAFailedInstallHoldsNothingAndIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.machine("n1", "20000-20100")
		w.work()
		id := w.broken("2s")
		if w.portsHeld(id) != 4 {
			t.Fatal("nothing is held while it installs")
		}
		row := w.until(id, time.Minute, InstallFailed)
		if row.ProblemCode() != wire.ProblemInstallFailed || row.InstallStatus() != installFailed || !strings.Contains(row.InstallLog(), "installing") {
			t.Errorf("problem %q, install %s, log %q", row.ProblemCode(), row.InstallStatus(), row.InstallLog())
		}
		w.bare(id, n)
		if s := w.jobOf(id, "InstallServer").State(); s != jobs.Dead {
			t.Errorf("the install's job is %s", s)
		}
		if row := w.row(id); row.ProblemCode() != wire.ProblemInstallFailed || row.InstallStatus() != installFailed || row.DesiredState() != "running" {
			t.Errorf("withdrawn, it says %q, install %s, wanted %s", row.ProblemCode(), row.InstallStatus(), row.DesiredState())
		}
		w.sync(n) // which leaves it out
		synctest.Wait()
		if k := w.count(collections.Incidents, dbx.HashExp{"kind": "container.unknown"}); k != 0 {
			t.Error("a server without ports was taken for a stranger's container")
		}
		w.act(id, Reinstall)
		w.until(id, time.Minute, Installing)
		w.until(id, time.Minute, InstallFailed) // the same again
		w.bare(id, n)
		w.repair(id)
		if r := w.act(id, Reinstall); r.status != 202 || r.at("server.status") != "INSTALLING" || w.portsHeld(id) != 4 {
			t.Fatalf("reinstall: %d %s", r.status, r.raw)
		}
		w.until(id, time.Minute, Running)
		if row := w.row(id); row.InstallStatus() != installDone || w.portsHeld(id) != 4 || row.ProblemCode() != "" || row.PlacementEpoch() != 3 || row.InstalledAt().IsZero() {
			t.Errorf("after all: %s %q, placement %d, installed at %s", row.InstallStatus(), row.ProblemCode(), row.PlacementEpoch(), row.InstalledAt())
		}
	})
}

// The customer asks for a reinstall in the moment in which the install has failed and its job has not
// been concluded: whatever becomes of that job, the ports are the new command's.
func TestAReinstallBeforeTheUndoOfTheInstallKeepsItsPorts(t *testing.T) {
	for name, running := range map[string]bool{"the job waits": false, "the job runs": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				n := w.machine("n1", "20000-20100")
				id := w.broken("1s")
				old := w.latestJob(id).Id
				held := make(chan struct{})
				if running {
					n.holding(held)
					w.work()
					eventually(t, time.Minute, "the job is at the node", func() bool { return w.job(old).State() == jobs.Running })
				}
				w.sync(n) // installs without the job
				w.until(id, time.Minute, InstallFailed)
				if s := w.job(old).State(); s == jobs.Dead || s == jobs.Done {
					t.Fatalf("the job is %s already", s)
				}
				w.repair(id)
				if r := w.act(id, Reinstall); r.status != 202 {
					t.Fatalf("reinstall: %d %s", r.status, r.raw)
				}
				n.holding(nil)
				close(held)
				if !running {
					w.work()
				}
				eventually(t, time.Minute, "the old job is superseded", func() bool { return w.job(old).State() == jobs.Superseded })
				if got := w.portsHeld(id); got != 4 {
					t.Errorf("the undo of the old job left %d ports", got)
				}
				w.until(id, time.Minute, Running)
				eventually(t, time.Minute, "the new job is done", func() bool { return w.latestJob(id).State() == jobs.Done })
				if got := w.portsHeld(id); got != 4 {
					t.Errorf("it runs on %d ports", got)
				}
			})
		})
	}
}

// A patch while it installs takes the place of the install's job. The install still fails.
func TestAPatchDuringAFailingInstallLeavesNoPorts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.machine("n1", "20000-20100")
		w.work()
		id := w.broken("10s")
		eventually(t, time.Minute, "it installs", func() bool { return w.row(id).InstallStatus() == installRunning })
		if r := w.do(w.owner, "PATCH", "servers/"+id, `{"variables":{"MOTD":"later"}}`); r.status != 202 || r.at("job.kind") != "UpdateServer" {
			t.Fatalf("patch: %d %s", r.status, r.raw)
		}
		w.until(id, time.Minute, InstallFailed)
		w.bare(id, n)
		if s := w.jobOf(id, "UpdateServer").State(); s != jobs.Dead {
			t.Errorf("the job that took over is %s", s)
		}
	})
}

func TestANodeThatRefusesTheSpecHoldsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.machine("n1", "20000-20100")
		n.refusing(&wire.Error{Status: http.StatusUnprocessableEntity, Code: "invalid_spec", Message: "no such thing /secret/path"})
		w.work()
		id := w.mustCreate("")
		row := w.until(id, time.Minute, InstallFailed)
		w.bare(id, n)
		if s := w.jobOf(id, "InstallServer").State(); row.InstallStatus() != installFailed || s != jobs.Dead {
			t.Errorf("install %s, job %s", row.InstallStatus(), s)
		}
		if r := w.do(w.owner, "GET", "servers/"+id, ""); strings.Contains(r.raw, "secret/path") || r.at("problem.message") == nil {
			t.Errorf("the customer reads %s", r.raw)
		}
		w.setAway(n, true)
		if r := w.do(w.owner, "GET", "servers/"+id, ""); r.at("status") != "INSTALL_FAILED" || fmt.Sprint(r.at("actions")) != "[update delete]" {
			t.Errorf("behind a silent node it is %v and offers %v", r.at("status"), r.at("actions"))
		}
		w.act(id, Start).want(t, 409, "action_not_possible", "")
		w.act(id, Reinstall).want(t, 503, "node_offline", "")
		n.refusing(nil)
		w.setAway(n, false)
		w.until(id, time.Second, InstallFailed)
		if r := w.act(id, Reinstall); r.status != 202 {
			t.Fatalf("reinstall: %d %s", r.status, r.raw)
		}
		w.until(id, time.Minute, Running)
	})
}

func TestACommandWaitsForItsNodeAndResumes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.machine("n1", "20000-20100")
		w.work()
		id := w.mustCreate("")
		w.until(id, time.Minute, Running)
		eventually(t, time.Minute, "the install is done", func() bool { return w.latestJob(id).State() == jobs.Done })
		w.setAway(n, true)
		if got := w.row(id).Status(); got != "UNREACHABLE" {
			t.Fatalf("it is %s", got)
		}
		r := w.act(id, Stop)
		if r.status != 202 || r.at("server.status") != "UNREACHABLE" || r.at("server.desired_state") != "stopped" {
			t.Fatalf("stop: %d %s", r.status, r.raw)
		}
		job := r.at("job.id").(string)
		eventually(t, time.Minute, "its job waits", func() bool { return w.job(job).State() == jobs.Waiting })
		if v := jobs.View(w.job(job)); !strings.Contains(fmt.Sprint(v["progress"]), "Waiting for the node") {
			t.Errorf("the customer sees %v", v)
		}
		pass(2 * commandDeadline) // longer than any command may take on a node that answers
		if s := w.job(job).State(); s != jobs.Waiting {
			t.Fatalf("the job is %s", s)
		}
		w.setAway(n, false)
		if got := w.row(id).Status(); got != "STOPPING" && got != "STOPPED" {
			t.Errorf("a server that shall stop shows %s", got)
		}
		w.until(id, time.Minute, Stopped)
		eventually(t, time.Minute, "the job is done", func() bool { return w.job(job).State() == jobs.Done })
	})
}

// pass lets the bubble's time go by.
func pass(d time.Duration) { <-time.After(d) }

func TestANodeThatWasAwayForLongIsNotBlamedForIt(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.machine("n1", "20000-20100")
		w.work()
		r := w.do(w.super, "POST", "servers", `{"name":"slow","blueprint":"testgame","start":true,"variables":{"TAKES":"4h"},`+small+`}`)
		id := r.at("server.id").(string)
		eventually(t, time.Minute, "it installs", func() bool { return w.row(id).InstallStatus() == installRunning })
		job := w.latestJob(id).Id
		w.setAway(n, true)
		pass(installDeadline + time.Hour)
		w.setAway(n, false)
		w.until(id, time.Second, Installing)
		pass(time.Minute)
		if s := w.job(job).State(); s != jobs.Waiting {
			t.Fatalf("right after its return the job is %s: %s", s, w.job(job).LastError())
		}
		w.until(id, 2*time.Hour, Running)
		eventually(t, time.Minute, "the job is done", func() bool { return w.job(job).State() == jobs.Done })
	})
}

func TestAnInstallThatSaysNothingIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.machine("n1", "20000-20100")
		w.work()
		r := w.do(w.super, "POST", "servers", `{"name":"slow","blueprint":"testgame","start":true,"variables":{"TAKES":"3h","EXIT":"1"},`+small+`}`)
		id := r.at("server.id").(string)
		pass(installDeadline + time.Minute)
		job := w.jobOf(id, "InstallServer")
		if row := w.row(id); job.State() != jobs.Dead || row.Status() != "INSTALL_FAILED" || !strings.Contains(row.ProblemMessage(), "came to no end") {
			t.Fatalf("job %s, server %s: %s", job.State(), row.Status(), row.ProblemMessage())
		}
		if w.count(collections.Incidents, dbx.HashExp{"kind": "job.dead"}) != 1 {
			t.Error("nobody was told")
		}
		w.bare(id, n) // the install is ended
	})
}

func TestADeleteWaitsForTheNodesWord(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.machine("n1", "20000-20100")
		w.work()
		id := w.mustCreate("")
		w.until(id, time.Minute, Running)
		w.setAway(n, true)
		r := w.do(w.owner, "DELETE", "servers/"+id, "")
		if r.status != 202 || r.at("server.status") != "DELETING" {
			t.Fatalf("delete: %d %s", r.status, r.raw)
		}
		row := w.row(id)
		for name, o := range map[string]wire.Observed{
			"absent without an id":     {State: wire.StateAbsent},
			"absent with another's id": {State: wire.StateAbsent, DeleteID: "otherdelete0000"},
			"deleting with the id":     {State: wire.StateDeleting, DeleteID: row.DeleteID()},
		} {
			o.ServerID, o.PlacementEpoch, o.Generation, o.Revision = id, 1, row.Generation(), w.row(id).ObservedRevision()+1
			must(t, w.report(n.id, wire.Event{Kind: wire.EventObserved, Observed: &o}))
			if got := w.row(id); got.Status() != "DELETING" || w.portsHeld(id) != 4 {
				t.Fatalf("%s: it is %s with %d ports", name, got.Status(), w.portsHeld(id))
			}
		}
		w.set(collections.Servers, id, "observed_revision", 1) // those were not the node's own
		w.do(w.owner, "DELETE", "servers/"+id, "").want(t, 409, "action_not_possible", "")
		w.setAway(n, false)
		w.until(id, time.Minute, Deleted)
		if got := w.portsHeld(id); got != 0 {
			t.Errorf("%d ports are held", got)
		}
	})
}

func TestAServerThatWasNeverOnItsNodeCanBeDeleted(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.machine("n1", "20000-20100")
		id := w.mustCreate("")
		w.setAway(n, true)
		w.do(w.owner, "DELETE", "servers/"+id, "")
		w.work()
		pass(time.Minute)
		w.setAway(n, false)
		w.until(id, time.Minute, Deleted)
		if j := w.latestJob(id); j.Kind() != "DeleteServer" {
			t.Errorf("the last job is %s", j.Kind())
		}
	})
}

func TestACrashingGameIsGivenUpAndForgiven(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.machine("n1", "20000-20100")
		var cured atomic.Bool
		n.m.SetImage("mamba.test/game", fake.Image{Present: true, Game: func(p *fake.Process) int {
			if cured.Load() {
				return game(p)
			}
			for range 60 {
				p.Println(strings.Repeat("x", 4000))
			}
			return 3
		}})
		w.work()
		id := w.mustCreate("")
		w.until(id, 10*time.Minute, Failed)
		fingerprint := dbx.HashExp{"fingerprint": "server.failed:" + id, "status": "OPEN"}
		if w.count(collections.Incidents, fingerprint) != 1 {
			t.Error("nobody was told")
		}
		if k := w.count(collections.Events, dbx.HashExp{"kind": "server.crashed"}); k < 2 {
			t.Errorf("%d crashes are in the activity", k)
		}
		cured.Store(true)
		w.act(id, Start)
		w.until(id, time.Minute, Running)
		if w.count(collections.Incidents, fingerprint) != 0 {
			t.Error("the incident is still open although the server runs")
		}
	})
}

func TestASilentNodesServersAreOutOfReachAndReturn(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		n := w.machine("n1", "20000-20100")
		w.work()
		running, stopped := w.mustCreate(""), w.mustCreate(`{"name":"two","blueprint":"testgame",`+small+`}`)
		w.until(running, time.Minute, Running)
		w.until(stopped, time.Minute, Stopped)
		w.setAway(n, true)
		if a, b := w.row(running).Status(), w.row(stopped).Status(); a != "UNREACHABLE" || b != "UNREACHABLE" {
			t.Errorf("they are %s and %s", a, b)
		}
		if k := must2(w.PlacedOn(w.app, n.id))(t); k != 2 {
			t.Errorf("%d servers live there", k)
		}
		w.do(w.owner, "POST", "servers/"+running+"/actions", `{"action":"restart"}`).want(t, 409, "action_not_possible", "")
		w.act(stopped, Start)
		w.setAway(n, false)
		if got := w.row(stopped).Status(); got != "STARTING" && got != "RUNNING" {
			t.Errorf("a server that was asked to start meanwhile shows %s", got)
		}
		w.until(running, time.Minute, Running)
		w.until(stopped, time.Minute, Running)
	})
}
