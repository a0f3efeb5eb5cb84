package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// jobIs returns nil when a job of a server is in a state.
func (r *rig) jobIs(server, job, state string) error {
	var list struct {
		Items []struct{ ID, Kind, State string }
	}
	if err := r.get(r.root, "/api/v1/admin/jobs?subject="+server, &list); err != nil {
		return err
	}
	for _, j := range list.Items {
		if j.ID == job && j.State == state {
			return nil
		}
	}
	return fmt.Errorf("the jobs are %+v", list.Items)
}

// A start that is tried again after a newer stop is yesterday's: it is superseded and starts nothing.
func TestAStartThatIsTriedAgainAfterAStopIsSuperseded(t *testing.T) {
	t.Parallel()
	r := newRig(t, "", 10)
	p := r.panel
	body := demoServer("late")
	body["start"] = false
	s := r.user.create(body)
	r.user.until(s.ID, patience, "STOPPED")

	resume := r.pauseWings() // the start does not get through
	var started struct{ Job struct{ ID string } }
	r.user.ok("POST", "/api/v1/servers/"+s.ID+"/actions", map[string]any{"action": "start"}, &started)
	p.kill() // in the middle of its job, which the next panel tries again
	resume(syscall.SIGKILL)
	withNode := p.args
	p.args = withNode[1:] // without the local node
	p.start()
	eventually(t, patience, "the start waits for the node", func() error { return r.jobIs(s.ID, started.Job.ID, "waiting") })
	r.user.act(s.ID, "stop")
	eventually(t, patience, "the start is superseded", func() error { return r.jobIs(s.ID, started.Job.ID, "superseded") })
	p.stop()
	p.args = withNode
	p.start()
	wishes := map[string]wish{s.ID: stopped}
	eventually(t, patience, "the server rests", func() error { return r.settled(wishes) })
	if n := r.starts(s.ID); n != 0 {
		t.Errorf("the game was started %d times", n)
	}
}

// A panel that was restored from an older backup deletes nothing that it does not know, reports it,
// and is obeyed again by the servers that it does know.
func TestAPanelRestoredFromABackupDeletesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, "", 20)
	p := r.panel
	known, gone := r.user.create(demoServer("known")), r.user.create(demoServer("gone"))
	r.user.until(known.ID, patience, "RUNNING")
	r.user.until(gone.ID, patience, "RUNNING")

	after := map[string]string{"stop": "STOPPED", "start": "RUNNING", "restart": "RUNNING"}

	p.stop()
	data, backup := filepath.Join(p.dir, "pb_data"), filepath.Join(p.dir, "backup")
	must(t, os.CopyFS(backup, os.DirFS(data)))
	p.start()
	r.online()
	for _, action := range []string{"stop", "start", "restart", "stop"} { // generations that the backup has not
		r.user.act(known.ID, action)
		r.user.until(known.ID, patience, after[action])
	}
	unknown := []server{r.user.create(demoServer("unknown 1")), r.user.create(demoServer("unknown 2"))}
	for _, s := range unknown {
		r.user.until(s.ID, patience, "RUNNING")
	}
	r.user.ok("DELETE", "/api/v1/servers/"+gone.ID, nil, nil)
	r.user.until(gone.ID, patience, "DELETED")
	was := map[string]game{}
	for _, s := range unknown {
		was[s.ID] = r.game(s.ID)
	}

	p.stop()
	must(t, os.RemoveAll(data))
	must(t, os.Rename(backup, data))
	p.start()
	r.online()
	eventually(t, patience, "the unknown servers are reported", func() error {
		if n := r.incidents("server.unknown"); n != len(unknown) {
			return fmt.Errorf("%d incidents", n)
		}
		return nil
	})
	eventually(t, patience, "the known one runs, as the backup wishes; the node had stopped it since", func() error {
		all, err := r.games()
		if err == nil && (len(all[known.ID]) != 1 || !all[known.ID][0].running) {
			err = fmt.Errorf("it has %+v", all[known.ID])
		}
		return err
	})
	r.user.until(known.ID, patience, "RUNNING")
	for id, g := range was {
		if now := r.game(id); now != g {
			t.Errorf("the game of %s was %+v and is %+v", id, g, now)
		}
	}
	for _, action := range []string{"stop", "start"} {
		r.user.act(known.ID, action)
		r.user.until(known.ID, patience, after[action])
	}
	for _, s := range unknown {
		if now := r.game(s.ID); now != was[s.ID] {
			t.Errorf("the game of the unknown %s was %+v and is %+v", s.ID, was[s.ID], now)
		}
	}
	// What was deleted since is not brought back by itself: it says so, holds nothing, and can be
	// deleted again.
	r.problem(gone.ID, "INSTALL_FAILED", "removed_on_node")
	if s := r.user.server(gone.ID); len(s.Ports) > 0 {
		t.Errorf("a server that is not on its node any more holds %d ports", len(s.Ports))
	}
	r.user.ok("DELETE", "/api/v1/servers/"+gone.ID, nil, nil)
	r.user.until(gone.ID, patience, "DELETED")
	t.Logf("restored from a backup that is 6 commands and 2 servers older: 0 containers ended, %d of %d unknown reported, the known one obeys", len(unknown), len(unknown))
}
