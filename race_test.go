package main

import (
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"
)

// crowd sends n creates at once, each under a key of its own, and counts the answers by code; the
// code of a success is "". ids are of the servers that were made.
func (r *rig) crowd(c *client, n int) (codes map[string]int, ids []string) {
	r.t.Helper()
	codes = map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-begin
			body := demoServer(fmt.Sprintf("crowd %d", i))
			body["start"], body["limits"] = false, map[string]int{"cpu_millicores": 100, "memory_mib": 32, "disk_gib": 1}
			a, err := c.try("POST", "/api/v1/servers", body, "Idempotency-Key", fmt.Sprintf("crowd-%d", i))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				r.t.Errorf("create %d: %v", i, err)
				return
			}
			var out struct {
				Code, Message string
				Server        server
			}
			a.into(r.t, &out)
			codes[out.Code]++
			switch {
			case a.status == http.StatusAccepted:
				ids = append(ids, out.Server.ID)
			case a.status != http.StatusConflict || out.Code == "" || len(out.Message) < 20:
				r.t.Errorf("create %d was answered %d %s", i, a.status, a.raw)
			}
		})
	}
	close(begin)
	wg.Wait()
	return codes, ids
}

// More want a port, or a place in a quota, than there are: exactly as many get one. The daemon is
// paused meanwhile, so that what is measured is the panel's own race; afterwards it hears only of
// the deletes.
func TestT09_MoreCreatesThanPorts(t *testing.T) {
	const ports, wanting, quota, pushing = 100, 200, 5, 50
	r := newRig(t, "", ports+quota)
	small := r.panel.customer("small")
	r.root.ok("PATCH", "/api/collections/tenants/records/"+small.tenant, map[string]any{
		"quota_servers": quota, "quota_memory_mib": 1 << 20, "quota_cpu_millicores": 1_000_000, "quota_disk_mib": 1 << 20,
	}, nil)
	var nodes struct{ Items []struct{ ID string } }
	r.root.ok("GET", "/api/v1/admin/nodes", nil, &nodes)
	r.root.ok("PATCH", "/api/v1/admin/nodes/"+nodes.Items[0].ID, map[string]any{
		"overcommit_cpu_percent": 1000, "overcommit_memory_percent": 1000, "overcommit_disk_percent": 1000,
	}, nil)
	resume := r.pauseWings()
	began := time.Now()
	codes, few := r.crowd(small, pushing)
	if len(few) != quota || codes["quota_exceeded"] != pushing-quota {
		t.Errorf("%d at once for a quota of %d: %d made, %v", pushing, quota, len(few), codes)
	}
	t.Logf("T09: %d creates at once for a quota of %d: %d made, %d refused", pushing, quota, len(few), codes["quota_exceeded"])
	codes, many := r.crowd(r.user, wanting)
	if len(many) != ports || codes["ports_exhausted"] != wanting-ports {
		t.Errorf("%d at once for %d ports: %d made, %v", wanting, ports, len(many), codes)
	}
	t.Logf("T09: %d creates at once for %d ports: %d made, %d refused, in %s", wanting, ports, len(many), codes["ports_exhausted"], time.Since(began).Round(time.Millisecond))

	owners := map[int]string{}
	for c, ids := range map[*client][]string{small: few, r.user: many} {
		for _, id := range ids {
			s := c.server(id)
			if len(s.Ports) != 1 || owners[s.Ports[0].HostPort] != "" {
				t.Errorf("server %s has the ports %+v, which %s has", id, s.Ports, owners[s.Ports[0].HostPort])
				continue
			}
			owners[s.Ports[0].HostPort] = id
			c.ok("DELETE", "/api/v1/servers/"+id, nil, nil)
		}
	}
	resume(syscall.SIGCONT)
	eventually(t, 2*patience, "all are deleted and nothing is held", func() error { return r.held(0) })
	for c, ids := range map[*client][]string{small: few, r.user: many} {
		for _, id := range ids {
			c.until(id, patience, "DELETED")
		}
	}
}
