package servers

import (
	"net/http"
	"testing"
	"time"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/tenancy"
)

func TestServersFollowTheirTenant(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.machine("n1", "20000-20100")
		w.work()
		running, stopped := w.mustCreate(""), w.mustCreate("")
		w.until(running, time.Minute, Running)
		w.until(stopped, time.Minute, Running)
		if r := w.act(stopped, Stop); r.status != http.StatusAccepted {
			t.Fatalf("%d %s", r.status, r.raw)
		}
		w.until(stopped, time.Minute, Stopped)
		turn := func(status string) {
			t.Helper()
			w.set(collections.Tenants, w.tenant, "status", status)
			must(t, w.TenantTurned(w.app, w.tenant))
			eventually(t, time.Minute, "they follow", func() bool {
				return w.row(running).Suspended() == (status != tenancy.StatusActive) && w.row(stopped).Suspended() == (status != tenancy.StatusActive)
			})
		}
		turn(tenancy.StatusSuspended)
		if row := w.until(running, time.Minute, Stopped); row.DesiredState() != "running" {
			t.Errorf("what its owner wishes was not kept: %s", row.DesiredState())
		}
		if r := w.act(stopped, Start); r.status != http.StatusForbidden || r.at("code") != "tenant_suspended" {
			t.Errorf("%d %s", r.status, r.raw)
		}
		generation := w.row(running).Generation()
		turn(tenancy.StatusSuspended) // again, as after a kill in the middle
		eventually(t, time.Minute, "the job is done", func() bool { return w.jobOf(w.tenant, standingJob).State() == jobs.Done })
		if n := w.row(running).Generation(); n != generation {
			t.Errorf("following twice changed a server: %d, then %d", generation, n)
		}
		turn(tenancy.StatusActive)
		w.until(running, time.Minute, Running)
		if row := w.row(stopped); Phase(row.Status()) != Stopped || row.DesiredState() != "stopped" {
			t.Errorf("what was stopped before is %s", row.Status())
		}
	})
}
