//go:build bench

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// atOnce is how many clients ask at the same time, each its next request when the last is answered.
const atOnce = 8

// household is one way to run the panel: a database and the panels on it.
type household struct {
	t      *testing.T
	name   string
	panels []*panel
	node   *fakeNode
	caller *caller
	size   sizes
	made   int // servers created so far, over all clients
	events [atOnce]chan arrival
}

// benchDatabases: what customers do, on SQLite, on PostgreSQL with one panel and with two, in turn.
func benchDatabases(t *testing.T, r *report, size sizes) {
	houses := []*household{openHousehold(t, "SQLite", 1, false, size), openHousehold(t, "PostgreSQL, one panel", 1, true, size), openHousehold(t, "PostgreSQL, two panels", 2, true, size)}
	table := r.table(fmt.Sprintf("What customers do, %d at a time, with %d servers in %d tenants: p50 / p99 and answers a second.", atOnce, size.servers, size.tenants),
		"request", houses[0].name, houses[1].name, houses[2].name, "rate, one panel : SQLite [95 %]", "rate, two panels : SQLite [95 %]")
	late := make([][]float64, len(houses))
	n := max(atOnce, size.requests/8)
	for _, o := range []struct {
		name  string
		n     int
		do    func(h *household, worker, i int) error
		after func(h *household)
	}{
		{"create", n, (*household).create, (*household).settle},
		{"update (rename)", n, (*household).rename, nil},
		{"list, a page of 30", 4 * n, (*household).list, nil},
		{"realtime: rename → message at a browser", n, nil, nil},
	} {
		took, rates := make([][]float64, len(houses)), make([][]float64, len(houses))
		for round := range *benchPairs + 1 {
			for i, h := range houses {
				do := o.do
				if do == nil {
					do = func(h *household, worker, _ int) error { return h.watched(worker, &late[i]) }
				}
				each, rate := h.together(o.n, do)
				if o.after != nil {
					o.after(h)
				}
				if round > 0 { // the first warms all of them
					took[i], rates[i] = append(took[i], each...), append(rates[i], rate)
				}
			}
		}
		cells := []string{o.name}
		for i := range houses {
			cells = append(cells, fmt.Sprintf("%s, %.0f/s", percentiles(took[i]), medianOf(rates[i])))
		}
		for i := 1; i < len(houses); i++ {
			cells = append(cells, times(pairs{floor: rates[0], ours: rates[i]}.ratio()))
		}
		r.add(table, cells...)
	}
	cells := []string{"of it, from the answer to the message"}
	for i := range houses {
		cells = append(cells, percentiles(late[i]))
	}
	r.add(table, append(cells, "—", "—")...)
	r.note("Databases: the three are asked in turn in the same run, all of them on this machine. With two panels a client asks the one and the other by turns, and a browser hears from the panel that was not asked. Before the answer counts as 0. PostgreSQL waits for the disk with each commit (fsync and synchronous_commit on, else Debian's defaults); SQLite is as PocketBase opens it, WAL with synchronous=NORMAL, which waits at checkpoints only: a power cut may take its last commits. The node is a real link without an engine behind it.")
}

// openHousehold starts panels on a database of their own, with a node that is linked to each, and fills it.
func openHousehold(t *testing.T, name string, panels int, onPG bool, size sizes) *household {
	t.Helper()
	h := &household{t: t, name: name, size: size}
	var url string
	var env []string
	if onPG {
		url, env = onPostgres(t)
	}
	for range panels {
		p := newPanelOn(t, env)
		p.start()
		h.panels = append(h.panels, p)
	}
	first := h.panels[0]
	root := first.super()
	root.ok("PATCH", "/api/settings", map[string]any{"rateLimits": map[string]any{"excludedIPs": []string{"127.0.0.1"}}}, nil)
	h.panels[panels-1].customer("lena") // mails go where the panel that started last says
	h.node = joinFake(t, root, "bench", t.TempDir())
	root.ok("POST", "/api/v1/admin/nodes/"+h.node.id+"/ports", map[string]any{"addresses": "127.0.0.1", "ports": "20000-24999", "protocols": []string{"tcp"}}, nil)
	for _, p := range h.panels {
		p.stop()
	}
	db := openRows(t, url, first.dir)
	must(t, insertRows(db, "nodes", strings.Fields("id name location mode status rev created updated"), 1, func(int) []any {
		return []any{"benchnode000001", "away", "elsewhere", "ACTIVE", "OFFLINE", 1, crowdAt, crowdAt}
	}))
	crowd{tenants: size.tenants, servers: size.servers, nodes: []string{"benchnode000001"}, desired: wire.DesiredStopped, status: "STOPPED"}.fill(t, db)
	must(t, db.close())
	h.open()
	return h
}

// open starts the panels, links the node and opens the browsers.
func (h *household) open() {
	h.t.Helper()
	for _, p := range h.panels {
		p.start()
	}
	h.node.start(h.t, net.IPv4(127, 0, 0, 1), nil)
	h.t.Cleanup(h.node.stop)
	for _, p := range h.panels { // each has a link of its own
		root := p.super()
		eventually(h.t, time.Minute, "the node is online", func() error {
			var nodes struct {
				Items []struct {
					Status string
					Linked bool
				}
			}
			root.ok("GET", "/api/v1/admin/nodes", nil, &nodes)
			for _, n := range nodes.Items {
				if n.Status == "ONLINE" && n.Linked {
					return nil
				}
			}
			return errStill("away")
		})
	}
	lena := h.panels[0].signIn("users", "lena@example.org", seededPassword)
	h.caller = newCaller(h.t, lena)
	for worker := range atOnce {
		h.events[worker] = make(chan arrival, 16)
		c := *lena
		c.url, c.tenant = h.otherThan(worker), crowdTenant(worker%h.size.tenants)
		c.subscribe("mamba.tenant."+c.tenant, func(data string, at time.Time) {
			if m := markIn(data); m != "" && strings.Contains(data, `"type":"server"`) {
				select {
				case h.events[worker] <- arrival{mark: m, at: at}:
				default: // nobody waits: another measurement renames
				}
			}
		})
	}
}

// asked is the panel of a client's n-th request, otherThan the one of its browser: with one panel, that.
func (h *household) asked(n int) string { return h.panels[n%len(h.panels)].url }

func (h *household) otherThan(worker int) string { return h.panels[(worker+1)%len(h.panels)].url }

// together has atOnce clients do n things and returns the milliseconds of each and how many were done a
// second.
func (h *household) together(n int, do func(h *household, worker, i int) error) (each []float64, rate float64) {
	h.t.Helper()
	var took timesOf
	var wg sync.WaitGroup
	began := time.Now()
	for worker := range atOnce {
		wg.Go(func() {
			for i := worker; i < n; i += atOnce {
				sent := time.Now()
				if err := do(h, worker, i); err != nil {
					h.t.Errorf("%s: not counted: %v", h.name, err)
					return
				}
				took.add(time.Since(sent))
			}
		})
	}
	wg.Wait()
	if h.t.Failed() {
		h.t.FailNow()
	}
	return took.drain(), float64(n) / time.Since(began).Seconds()
}

func (h *household) create(worker, i int) error {
	body := demoServer(fmt.Sprintf("made %d", i))
	body["start"] = false
	_, err := h.caller.send("POST", h.asked(worker+i/atOnce)+"/api/v1/servers", crowdTenant(worker%h.size.tenants), body)
	return err
}

// settle waits until the servers that were made are at their node and the panel knows it.
func (h *household) settle() {
	h.t.Helper()
	eventually(h.t, time.Minute, "the new servers settle", func() error {
		for tenant := range min(atOnce, h.size.tenants) {
			raw, err := h.caller.send("GET", h.asked(0)+"/api/v1/servers?status=INSTALLING&per_page=1", crowdTenant(tenant), nil)
			var left struct{ Total int }
			if err == nil {
				err = json.Unmarshal(raw, &left)
			}
			if err != nil || left.Total > 0 {
				return fmt.Errorf("%d are being installed, %w", left.Total, err)
			}
		}
		return nil
	})
}

// rename gives a server of the worker's own organisation another name.
func (h *household) rename(worker, i int) error {
	return h.renameTo(worker, h.asked(worker+i/atOnce), fmt.Sprintf("renamed %d", i))
}

func (h *household) renameTo(worker int, panel, name string) error {
	server := worker % h.size.tenants // the i-th server is of the i-th tenant
	_, err := h.caller.send("PATCH", panel+"/api/v1/servers/"+crowdServer(server), crowdTenant(server), map[string]string{"name": name})
	return err
}

func (h *household) list(worker, i int) error {
	_, err := h.caller.send("GET", h.asked(worker+i/atOnce)+"/api/v1/servers", crowdTenant(i%h.size.tenants), nil)
	return err
}

// markMu guards the numbers of marks and what watched adds to.
var markMu sync.Mutex

// watched renames a server and returns when the browser of another panel has the message. late takes the
// milliseconds from the answer to the message.
func (h *household) watched(worker int, late *[]float64) error {
	markMu.Lock()
	h.made++
	mark := fmt.Sprintf("%s%08d", markPrefix, h.made)
	markMu.Unlock()
	if err := h.renameTo(worker, h.asked(worker), mark); err != nil {
		return err
	}
	answered := time.Now()
	limit := time.After(roundWait)
	for {
		select {
		case a := <-h.events[worker]:
			if a.mark == mark {
				markMu.Lock()
				*late = append(*late, max(0, milliseconds(a.at.Sub(answered))))
				markMu.Unlock()
				return nil
			}
		case <-limit:
			return fmt.Errorf("no message of %s came", mark)
		}
	}
}
