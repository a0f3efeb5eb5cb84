package ops

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/jobs"
)

// status asks as a stranger.
func (d *desk) status(t *testing.T) (int, Status, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	d.mux.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/api/v1/status", nil))
	var s Status
	must(t, json.Unmarshal(rec.Body.Bytes(), &s))
	return rec.Code, s, rec.Body.String()
}

func (d *desk) node(t *testing.T, name, mode, status string, joined bool) {
	t.Helper()
	n, err := collections.NewNode(d)
	must(t, err)
	n.SetName(name)
	n.SetMode(mode)
	n.SetStatus(status)
	if joined {
		n.SetEnrolledAt(time.Now())
	}
	must(t, collections.PermitFor("fleet").Save(d, n))
}

func TestStatusSaysHowTheInstallationIs(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	code, s, _ := d.status(t)
	if code != http.StatusOK || s.Status != StateOK || s.Database.Kind != "SQLite" || s.Nodes != (NodesStatus{Status: StateOK}) || time.Since(s.At) > time.Minute {
		t.Fatalf("an installation without nodes: %d %+v", code, s)
	}
	d.node(t, "well", "ACTIVE", "ONLINE", true)
	d.node(t, "draining", "DRAINING", "DRAINING", true)
	d.node(t, "worked-on", "MAINTENANCE", "OFFLINE", true)
	d.node(t, "not-there-yet", "ACTIVE", "OFFLINE", false)
	if code, s, _ = d.status(t); s.Status != StateOK || s.Nodes != (NodesStatus{Status: StateOK, Online: 2}) {
		t.Fatalf("nodes that are as they should be: %d %+v", code, s)
	}
	d.node(t, "secret-name", "ACTIVE", "OFFLINE", true)
	code, s, body := d.status(t)
	if code != http.StatusOK || s.Status != StateDegraded || s.Nodes != (NodesStatus{Status: StateDegraded, Online: 2, Offline: 1}) {
		t.Fatalf("a silent node: %d %+v", code, s)
	}
	if strings.Contains(body, "secret-name") {
		t.Error("the status names a node:", body)
	}
}

func TestStatusSeesWorkThatWaits(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if _, err := d.jobs.Enqueue(d, jobs.Job{Kind: "Doomed", RunAt: time.Now().Add(-2 * time.Minute)}); err != nil { // nobody works here
		t.Fatal(err)
	}
	code, s, _ := d.status(t)
	if code != http.StatusOK || s.Status != StateDegraded || s.Queue.Status != StateDegraded || s.Queue.Ready != 1 || s.Queue.OldestMS < 119_000 {
		t.Fatalf("%d %+v", code, s)
	}
}

func TestStatusIs503WithoutADatabase(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	must(t, d.ConcurrentDB().(*dbx.DB).Close())
	code, s, _ := d.status(t)
	if code != http.StatusServiceUnavailable || s.Status != StateDown || s.Database.Status != StateDown {
		t.Fatalf("%d %+v", code, s)
	}
}
