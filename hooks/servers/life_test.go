package servers

import (
	"net/http"
	"testing"
	"time"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/jobs"
)

func TestTheLifeOfAServer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.machine("n1", "20000-20100")
		w.work()
		id := w.mustCreate("")
		w.until(id, time.Minute, Running)
		for _, step := range []struct {
			act Action
			to  Phase
		}{{Stop, Stopped}, {Start, Running}, {Restart, Running}, {Kill, Stopped}, {Reinstall, Stopped}, {Start, Running}} {
			r := w.act(id, step.act)
			if r.status != http.StatusAccepted {
				t.Fatalf("%s: %d %s", step.act, r.status, r.raw)
			}
			job := r.at("job.id").(string)
			w.until(id, time.Minute, step.to)
			eventually(t, time.Minute, "the job of "+string(step.act)+" is done", func() bool { return w.job(job).State() == jobs.Done })
		}
		if n := w.portsHeld(id); n != 4 { // game twice, voice and the next
			t.Errorf("it holds %d ports", n)
		}
		if r := w.do(w.owner, "DELETE", "servers/"+id, ""); r.status != http.StatusAccepted || r.at("server.status") != "DELETING" {
			t.Fatalf("delete: %d %s", r.status, r.raw)
		}
		w.until(id, time.Minute, Deleted)
		if n := w.portsHeld(id); n != 0 {
			t.Errorf("a deleted server holds %d ports", n)
		}
		row := w.row(id)
		if env, err := environmentOf(row); err != nil || len(env) != 0 || row.DeletedAt().IsZero() {
			t.Errorf("what is left of it: %v %v %s", env, err, row.DeletedAt())
		}
		w.do(w.owner, "GET", "servers/"+id, "").want(t, 404, "server_not_found", "")
		eventually(t, time.Minute, "all eight jobs are done", func() bool { // the last one's phase is written a step before it
			return w.count(collections.Jobs, dbx.HashExp{"state": jobs.Done}) == 8
		})
		if n := w.count(collections.Incidents, dbx.NewExp("1=1")); n != 0 {
			t.Errorf("a life without trouble left %d incidents", n)
		}
	})
}
