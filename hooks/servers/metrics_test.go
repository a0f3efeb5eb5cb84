package servers

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/metering"
	"github.com/mambahost/mamba/wings/wire"
)

// measured gives the world a real store of samples, and the server in it three windows.
func (w *world) measured(id string) *metering.Metering {
	w.t.Helper()
	store, err := metering.OpenSQLite(filepath.Join(w.t.TempDir(), "samples.db"))
	must(w.t, err)
	m, err := metering.New(metering.Config{App: w.app, Store: store, Incidents: incidents.New(nil), Log: quiet})
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, m.Close()) })
	w.Charts = m
	row := w.row(id)
	now := time.Now().Unix() / 30 * 30
	var batch []wire.Sample
	for i := range int64(3) {
		batch = append(batch, wire.Sample{Seq: i + 1, ServerID: id, PlacementEpoch: row.PlacementEpoch(), WindowUnixS: now - 30*(4-i),
			RunningMS: 30_000, MeasuredMS: 30_000, CPUUsedNS: 7_500_000_000, MemoryUsedMiBMS: 512 * 30_000, NetOutBytes: 9000, DiskLastBytes: 1234567})
	}
	acked, err := m.Take(context.Background(), row.Node(), wire.SampleBatch{SpoolID: "s", Samples: batch})
	if err != nil || acked != 3 {
		w.t.Fatal(acked, err)
	}
	return m
}

func TestMetricsAreForThoseWhoMaySeeTheServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-20100")
	id := w.mustCreate("")
	w.measured(id)
	for name, c := range map[string]struct {
		token, query, tenant string
		status               int
		code, field          string
	}{
		"the owner":                   {w.owner, "?range=1h", "acme", 200, "", ""},
		"without a range":             {w.owner, "", "acme", 200, "", ""},
		"the whole day":               {w.owner, "?range=24h", "acme", 200, "", ""},
		"a member":                    {w.member, "?range=1h", "acme", 200, "", ""},
		"a stranger":                  {w.stranger, "?range=1h", "acme", 404, "tenant_not_found", ""},
		"a stranger, through his own": {w.stranger, "?range=1h", "others", 404, "server_not_found", ""},
		"a range that there is not":   {w.owner, "?range=1y", "acme", 400, "invalid_input", "range"},
		"a range that is a statement": {w.owner, "?range=%27--", "acme", 400, "invalid_input", "range"},
		"a stranger with a bad range": {w.stranger, "?range=1y", "others", 404, "server_not_found", ""},
		"nobody":                      {"", "?range=1h", "acme", 401, "unauthenticated", ""},
	} {
		r := w.do(c.token, "GET", "servers/"+id+"/metrics"+c.query, "", access.TenantHeader, c.tenant)
		if c.status != 200 {
			r.want(t, c.status, c.code, c.field)
			if strings.Contains(r.raw, "1234567") {
				t.Errorf("%s: it told something: %s", name, r.raw)
			}
			continue
		}
		if r.status != 200 || !strings.Contains(r.raw, "1234567") {
			t.Errorf("%s: %d %.300s", name, r.status, r.raw)
		}
	}
	w.bindFriend("server000000009")
	w.do(w.friend, "GET", "servers/"+id+"/metrics", "", access.TenantHeader, "acme").want(t, 404, "server_not_found", "")
	w.bindFriend(id)
	if r := w.do(w.friend, "GET", "servers/"+id+"/metrics", "", access.TenantHeader, "acme"); r.status != 200 {
		t.Errorf("a friend who was let in: %d %s", r.status, r.raw)
	}
}

func TestMetricsAreColumnsWithWhatIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-20100")
	id := w.mustCreate("")
	w.measured(id)
	r := w.do(w.owner, "GET", "servers/"+id+"/metrics?range=1h", "")
	cpu, _ := r.json["cpu_millicores"].([]any)
	if len(cpu) != 120 || r.at("range") != "1h" || r.at("step_s") != float64(30) {
		t.Fatalf("%d values: %.300s", len(cpu), r.raw)
	}
	known := 0
	for _, v := range cpu {
		if v == float64(250) {
			known++
		} else if v != nil {
			t.Errorf("a step of %v millicores", v)
		}
	}
	if known != 3 {
		t.Errorf("%d steps are known", known)
	}
	row := w.row(id)
	limits, _ := r.json["limits"].(map[string]any)
	if limits["cpu_millicores"] != float64(row.CPULimitMillicores()) || limits["memory_bytes"] != float64(row.MemLimitMB()<<20) || limits["disk_bytes"] != float64(row.DiskGB()<<30) {
		t.Errorf("limits %v", limits)
	}
}

type brokenCharts struct{}

func (brokenCharts) Chart(context.Context, string, metering.Span, time.Time) (metering.Chart, error) {
	return metering.Chart{}, errors.New("disk I/O error in /srv/samples.db")
}

func TestAStoreThatFailsIsNoCustomersBusiness(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode("n1", "20000-20100")
	id := w.mustCreate("")
	w.Charts = brokenCharts{}
	r := w.do(w.owner, "GET", "servers/"+id+"/metrics", "")
	r.want(t, 500, "internal", "")
	if strings.Contains(r.raw, "samples.db") {
		t.Errorf("it told: %s", r.raw)
	}
}
