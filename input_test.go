package main

import (
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"
)

// told fails unless an answer is the status and code, with a sentence for the customer.
func told(t *testing.T, what string, a answer, status int, code string) {
	t.Helper()
	var out struct{ Code, Message string }
	a.into(t, &out)
	if a.status != status || out.Code != code || len(out.Message) < 20 {
		t.Errorf("%s: %d %s, want %d %s and a sentence", what, a.status, a.raw, status, code)
	}
}

// problem fails unless a server has ended in a phase, with a problem and a sentence for the customer.
func (r *rig) problem(id, phase, code string) {
	r.t.Helper()
	s := r.user.until(id, 2*patience, phase)
	if s.Problem == nil || s.Problem.Code != code || len(s.Problem.Message) < 20 {
		r.t.Errorf("the customer of a server that is %s is told %+v, want %s", phase, s.Problem, code)
	}
}

// bare waits until a server holds no port.
func (r *rig) bare(id string) {
	r.t.Helper()
	eventually(r.t, 10*time.Second, "the ports are given back", func() error {
		if now := r.user.server(id); len(now.Ports) > 0 {
			return errStill("holds ports")
		}
		return r.held(0)
	})
}

// What cannot be had is refused before anything is reserved, with what to do about it.
func TestACreateThatCannotBeIsRefusedWithASentence(t *testing.T) {
	t.Parallel()
	r := newRig(t, "", 1)
	big := demoServer("big")
	big["limits"] = map[string]int{"cpu_millicores": 250, "memory_mib": 512 << 10, "disk_gib": 1}
	told(t, "more memory than any node has", r.user.do("POST", "/api/v1/servers", big), http.StatusConflict, "no_fit")

	// The same request twice, also at the same moment, is one server.
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := map[string]int{}
	for range 8 {
		wg.Go(func() {
			a, err := r.user.try("POST", "/api/v1/servers", demoServer("twin"), "Idempotency-Key", "twin")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			var out struct{ Server server }
			a.into(t, &out)
			made[fmt.Sprint(a.status, " ", out.Server.ID)]++
		})
	}
	wg.Wait()
	if len(made) != 1 {
		t.Errorf("one key made %v", made)
	}
	other := r.user.do("POST", "/api/v1/servers", demoServer("another"), "Idempotency-Key", "twin")
	told(t, "another body under the key", other, http.StatusConflict, "idempotency_mismatch")

	told(t, "the last port is taken", r.user.do("POST", "/api/v1/servers", demoServer("late")), http.StatusConflict, "ports_exhausted")
	var list struct{ Items []server }
	r.user.ok("GET", "/api/v1/servers", nil, &list)
	if len(list.Items) != 1 {
		t.Fatalf("%d servers were made", len(list.Items))
	}
	id := list.Items[0].ID
	r.user.until(id, patience, "RUNNING")

	// A node that is gone: nothing new on it, and what is there can still be asked to stop.
	r.panel.stop()
	r.panel.args = r.panel.args[1:] // without the local node
	r.panel.start()
	r.user.until(id, 2*patience, "UNREACHABLE")
	told(t, "the only node is offline", r.user.do("POST", "/api/v1/servers", demoServer("nowhere")), http.StatusConflict, "no_fit")
	r.user.act(id, "stop")
	if s := r.user.server(id); s.Status != "UNREACHABLE" {
		t.Errorf("a stop of a server that nobody can reach shows as %s", s.Status)
	}
}

// A game whose image is not to be had, or that never gets ready, ends with a problem, not in a loop.
func TestAServerThatCannotWorkSaysWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t, "", 10)
	r.root.tenant = r.user.tenant
	never := demoServer("never ready")
	never["variables"] = map[string]string{"NEVER_READY": "1"} // the operator's own variable
	silent := r.root.create(never)
	pulled := r.user.create(map[string]any{
		"name": "no image", "blueprint": "minecraft-vanilla", "start": true, "variables": map[string]string{"EULA": "true"},
		"limits": map[string]int{"cpu_millicores": 1000, "memory_mib": 2048, "disk_gib": 5},
	})
	r.problem(pulled.ID, "INSTALL_FAILED", "image_unavailable")
	eventually(t, 10*time.Second, "the ports are given back", func() error { return r.held(1) })
	r.problem(silent.ID, "FAILED", "not_ready")
	if all, err := r.games(); err != nil || len(all[silent.ID]) != 1 || all[silent.ID][0].running {
		t.Errorf("the game that was never ready has the containers %+v (%v)", all[silent.ID], err)
	}
}

// Whatever command took over from the one that began an install, a failed one holds nothing; and a
// change of a server that is not installed waits for the next reinstall without being given up.
func TestAChangeAroundAFailedInstallHoldsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, "", 10)
	r.root.tenant = r.user.tenant
	body := demoServer("changed")
	body["variables"] = map[string]string{"INSTALL_EXIT": "1"}
	resume := r.pauseWings()
	s := r.root.create(body)
	r.user.ok("PATCH", "/api/v1/servers/"+s.ID, map[string]any{"variables": map[string]string{"MOTD": "changed while it installs"}}, nil)
	resume(syscall.SIGCONT)
	r.problem(s.ID, "INSTALL_FAILED", "install_failed")
	r.bare(s.ID)
	dead := r.incidents("job.dead")
	var out struct{ Job *struct{ ID string } }
	r.root.ok("PATCH", "/api/v1/servers/"+s.ID, map[string]any{"variables": map[string]string{"INSTALL_EXIT": "0"}}, &out)
	if out.Job != nil {
		t.Errorf("a change of what is not on the node made the job %s", out.Job.ID)
	}
	r.problem(s.ID, "INSTALL_FAILED", "install_failed")
	r.user.act(s.ID, "reinstall")
	r.user.until(s.ID, patience, "RUNNING")
	if n := r.incidents("job.dead"); n > dead {
		t.Errorf("%d jobs more were given up", n-dead)
	}
}
