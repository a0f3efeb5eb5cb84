package alloc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tests"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/wings/wire"
)

// house is a panel with the alloc routes on its real router and a real audit log.
type house struct {
	*tests.TestApp
	alloc *alloc.Alloc
	audit *audit.Log
	mux   http.Handler
}

func newHouse(t testing.TB) *house {
	t.Helper()
	app := collectionstest.New(t)
	h := &house{TestApp: app}
	var err error
	if h.audit, err = audit.New(bytes.Repeat([]byte{9}, 32), nil, nil); err != nil {
		t.Fatal(err)
	}
	if h.alloc, err = alloc.New(h.audit); err != nil {
		t.Fatal(err)
	}
	guard := func(e *core.RecordEvent) error {
		if err := collections.Guard(e.Context, e.Record.Collection().Name); err != nil {
			return err
		}
		return e.Next()
	}
	app.OnRecordCreate().BindFunc(guard)
	app.OnRecordUpdate().BindFunc(guard)
	r, err := apis.NewRouter(app)
	if err != nil {
		t.Fatal(err)
	}
	g := r.Group("/api/v1")
	access.Door(g)
	h.alloc.Routes(g)
	if h.mux, err = r.BuildMux(); err != nil {
		t.Fatal(err)
	}
	return h
}

// node makes an ONLINE node with 4 cores, 8 GiB and 100 GiB.
func (h *house) node(t testing.TB, name string, fields map[string]any) string {
	t.Helper()
	n, err := collections.NewNode(h)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]any{"name": name, "mode": "ACTIVE", "status": "ONLINE", "cpu_millicores": 4000, "memory_mib": 8192, "disk_mib": 102400} {
		n.Set(k, v)
	}
	for k, v := range fields {
		n.Set(k, v)
	}
	if err := collections.PermitFor("fleet").Save(h, n); err != nil {
		t.Fatal(err)
	}
	return n.Id
}

func (h *house) tx(fn func(tx core.App) error) error {
	return collections.Tx(h, []collections.Lock{alloc.Lock}, fn)
}

func (h *house) add(t testing.TB, node, addresses, ports string, protocols ...wire.Protocol) int64 {
	t.Helper()
	var n int64
	if err := h.tx(func(tx core.App) (err error) {
		n, err = h.alloc.AddPorts(tx, node, addresses, ports, protocols)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func (h *house) reserve(n alloc.Need) (ports []wire.Port, ex alloc.Explanation, err error) {
	err = h.tx(func(tx core.App) error {
		row, e, err := h.alloc.Reserve(tx, n)
		ex = e
		if err != nil {
			return err
		}
		ports, err = alloc.PortsOf(row)
		return err
	})
	return ports, ex, err
}

func (h *house) mustReserve(t testing.TB, n alloc.Need) []wire.Port {
	t.Helper()
	ports, _, err := h.reserve(n)
	if err != nil {
		t.Fatal(err)
	}
	return ports
}

func (h *house) release(t testing.TB, server string) {
	t.Helper()
	if err := h.tx(func(tx core.App) error { return h.alloc.Release(tx, server) }); err != nil {
		t.Fatal(err)
	}
}

func (h *house) server(t testing.TB, id, node, status string) {
	t.Helper()
	if _, err := h.NonconcurrentDB().Insert("servers", dbx.Params{"id": id, "tenant": "tenant000000001", "node": node, "status": status}).Execute(); err != nil {
		t.Fatal(err)
	}
}

func (h *house) held(t testing.TB, table string) int64 {
	t.Helper()
	n, err := h.CountRecords(table, dbx.NewExp("is_allocated = TRUE OR allocated_to_server != ''"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func text(ports []wire.Port) string {
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprintf("%s=%s:%d/%s→%d", p.Name, p.HostIP, p.HostPort, p.Protocol, p.ContainerPort))
	}
	return strings.Join(out, " ")
}

func codeOf(t testing.TB, err error) string {
	t.Helper()
	var e *access.Error
	if err == nil {
		return ""
	}
	if !errors.As(err, &e) {
		return "fault"
	}
	return e.Code
}

func game(server string) alloc.Need {
	return alloc.Need{Tenant: "tenant000000001", Server: server, Ports: []alloc.PortNeed{{Name: "game", Protocol: wire.TCP, ContainerPort: 25565}}}
}

func TestPortsAreChosenAsAsked(t *testing.T) {
	t.Parallel()
	tcp, udp, both := wire.TCP, wire.UDP, alloc.Both
	h := newHouse(t)
	for i, c := range []struct {
		name  string
		pools []string // "address ports[ protocol]"
		taken []string // "port/protocol" on the first address
		needs []alloc.PortNeed
		want  string // "": exhausted
	}{
		{"the lowest", []string{"10.0.0.1 2000-2010"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp, ContainerPort: 1}}, "a=10.0.0.1:2000/tcp→1"},
		{"the lowest that is free", []string{"10.0.0.1 2000-2010"}, []string{"2000/tcp"}, []alloc.PortNeed{{Name: "a", Protocol: tcp, ContainerPort: 1}}, "a=10.0.0.1:2001/tcp→1"},
		{"udp where tcp is taken", []string{"10.0.0.1 2000-2010"}, []string{"2000/tcp"}, []alloc.PortNeed{{Name: "a", Protocol: udp, ContainerPort: 1}}, "a=10.0.0.1:2000/udp→1"},
		{"the container's port is the host's", []string{"10.0.0.1 2000"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp}}, "a=10.0.0.1:2000/tcp→2000"},
		{"the one wished for", []string{"10.0.0.1 2000-2010"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp, Prefer: 2005}}, "a=10.0.0.1:2005/tcp→2005"},
		{"another when that is taken", []string{"10.0.0.1 2000-2010"}, []string{"2005/tcp"}, []alloc.PortNeed{{Name: "a", Protocol: tcp, Prefer: 2005}}, "a=10.0.0.1:2000/tcp→2000"},
		{"a wish outside of the pool", []string{"10.0.0.1 2000-2010"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp, Prefer: 25565}}, "a=10.0.0.1:2000/tcp→2000"},
		{"a wish far beyond the first window", []string{"10.0.0.1 2000-4000"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp, Prefer: 3999}}, "a=10.0.0.1:3999/tcp→3999"},
		{"both protocols on one number", []string{"10.0.0.1 2000-2010"}, []string{"2000/tcp", "2001/udp"}, []alloc.PortNeed{{Name: "a", Protocol: both, ContainerPort: 7}}, "a=10.0.0.1:2002/tcp→7 a=10.0.0.1:2002/udp→7"},
		{"two of one kind", []string{"10.0.0.1 2000-2010"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp}, {Name: "b", Protocol: tcp}}, "a=10.0.0.1:2000/tcp→2000 b=10.0.0.1:2001/tcp→2001"},
		{"consecutive ones over a gap", []string{"10.0.0.1 2000,2002-2004"}, nil, []alloc.PortNeed{{Name: "a", Protocol: udp}, {Name: "b", Protocol: udp, OffsetOf: "a", Offset: 1}, {Name: "c", Protocol: udp, OffsetOf: "a", Offset: 2}}, "a=10.0.0.1:2002/udp→2002 b=10.0.0.1:2003/udp→2003 c=10.0.0.1:2004/udp→2004"},
		{"an offset of an offset", []string{"10.0.0.1 2000-2010"}, nil, []alloc.PortNeed{{Name: "c", Protocol: udp, OffsetOf: "b", Offset: 2}, {Name: "b", Protocol: tcp, OffsetOf: "a", Offset: 3}, {Name: "a", Protocol: udp}}, "c=10.0.0.1:2005/udp→2005 b=10.0.0.1:2003/tcp→2003 a=10.0.0.1:2000/udp→2000"},
		{"an offset downwards", []string{"10.0.0.1 2000-2010"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp}, {Name: "b", Protocol: tcp, OffsetOf: "a", Offset: -1}}, "a=10.0.0.1:2001/tcp→2001 b=10.0.0.1:2000/tcp→2000"},
		{"a wish of the one that hangs on", []string{"10.0.0.1 2000-2010"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp}, {Name: "b", Protocol: tcp, OffsetOf: "a", Offset: 1, Prefer: 2005}}, "a=10.0.0.1:2004/tcp→2004 b=10.0.0.1:2005/tcp→2005"},
		{"one that must not take the middle of the only pair", []string{"10.0.0.1 2000-2001,2005"}, nil, []alloc.PortNeed{{Name: "one", Protocol: tcp}, {Name: "a", Protocol: tcp}, {Name: "b", Protocol: tcp, OffsetOf: "a", Offset: 1}}, "one=10.0.0.1:2005/tcp→2005 a=10.0.0.1:2000/tcp→2000 b=10.0.0.1:2001/tcp→2001"},
		{"a wish that would leave nothing for another", []string{"10.0.0.1 2000,2001"}, []string{"2000/udp", "2001/udp"}, []alloc.PortNeed{{Name: "a", Protocol: tcp, Prefer: 2000}, {Name: "b", Protocol: tcp, Prefer: 2000}}, "a=10.0.0.1:2000/tcp→2000 b=10.0.0.1:2001/tcp→2001"},
		{"all of them on one address", []string{"10.0.0.1 2000", "10.0.0.2 2000-2001"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp}, {Name: "b", Protocol: tcp}}, "a=10.0.0.2:2000/tcp→2000 b=10.0.0.2:2001/tcp→2001"},
		{"the lowest address as a number", []string{"10.0.0.10 2000", "10.0.0.9 2000"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp}}, "a=10.0.0.9:2000/tcp→2000"},
		{"an address of version 6", []string{"2001:DB8::0:1 2000"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp}}, "a=2001:db8::1:2000/tcp→2000"},
		{"no ports at all", []string{"10.0.0.1 2000"}, nil, nil, ""},
		{"more than there are", []string{"10.0.0.1 2000-2001"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp}, {Name: "b", Protocol: tcp}, {Name: "c", Protocol: tcp}}, "exhausted"},
		{"a pair where there are only single ones", []string{"10.0.0.1 2000,2002,2004"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp}, {Name: "b", Protocol: tcp, OffsetOf: "a", Offset: 1}}, "exhausted"},
		{"an offset beyond the last port", []string{"10.0.0.1 65535"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp}, {Name: "b", Protocol: tcp, OffsetOf: "a", Offset: 1}}, "exhausted"},
		{"two needs of a group at one port", []string{"10.0.0.1 2000-2009"}, nil, []alloc.PortNeed{{Name: "a", Protocol: tcp}, {Name: "b", Protocol: both, OffsetOf: "a"}}, "exhausted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			node, server := h.node(t, fmt.Sprintf("n%d", i), nil), fmt.Sprintf("server%09d", i)
			for _, p := range c.pools {
				f := strings.Fields(p)
				h.add(t, node, f[0], f[1])
			}
			for _, p := range c.taken {
				port, protocol, _ := strings.Cut(p, "/")
				if _, err := h.NonconcurrentDB().Update("port_pools", dbx.Params{"is_allocated": true, "allocated_to_server": "other"}, dbx.HashExp{"node": node, "port": port, "protocol": protocol}).Execute(); err != nil {
					t.Fatal(err)
				}
			}
			before := h.held(t, "port_pools")
			got, _, err := h.reserve(alloc.Need{Server: server, Node: node, Ports: c.needs})
			if c.want == "exhausted" {
				if !errors.Is(err, alloc.ErrExhausted) || h.held(t, "port_pools") != before {
					t.Errorf("%s %v, %d held", text(got), err, h.held(t, "port_pools"))
				}
				return
			}
			if err != nil || text(got) != c.want || h.held(t, "port_pools") != before+int64(len(got)) {
				t.Errorf("got  %s (%v)\nwant %s", text(got), err, c.want)
			}
		})
	}
}

func TestANeedThatMakesNoSenseIsAFaultOfOurs(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.add(t, h.node(t, "n1", nil), "10.0.0.1", "2000-2100")
	many := make([]alloc.PortNeed, alloc.MaxPorts+1)
	for i := range many {
		many[i] = alloc.PortNeed{Name: fmt.Sprint(i), Protocol: wire.TCP}
	}
	for name, n := range map[string]alloc.Need{
		"no server":          {},
		"negative memory":    {Server: "s", MemoryMiB: -1},
		"no protocol":        {Server: "s", Ports: []alloc.PortNeed{{Name: "a"}}},
		"a protocol sctp":    {Server: "s", Ports: []alloc.PortNeed{{Name: "a", Protocol: "sctp"}}},
		"no name":            {Server: "s", Ports: []alloc.PortNeed{{Protocol: wire.TCP}}},
		"one name twice":     {Server: "s", Ports: []alloc.PortNeed{{Name: "a", Protocol: wire.TCP}, {Name: "a", Protocol: wire.UDP}}},
		"a ring":             {Server: "s", Ports: []alloc.PortNeed{{Name: "a", Protocol: wire.TCP, OffsetOf: "b"}, {Name: "b", Protocol: wire.TCP, OffsetOf: "a"}}},
		"hanging on air":     {Server: "s", Ports: []alloc.PortNeed{{Name: "a", Protocol: wire.TCP, OffsetOf: "b"}}},
		"a port of 70000":    {Server: "s", Ports: []alloc.PortNeed{{Name: "a", Protocol: wire.TCP, Prefer: 70000}}},
		"33 ports":           {Server: "s", Ports: many},
		"a strategy of luck": {Server: "s", Strategy: "luck"},
	} {
		if _, _, err := h.reserve(n); codeOf(t, err) != "fault" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if h.held(t, "port_pools") != 0 {
		t.Error("something is held")
	}
}

func TestStrategiesDecideWhichPort(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	node := h.node(t, "n1", nil)
	h.add(t, node, "10.0.0.0/30", "2000-2499")
	addresses := map[string]int{}
	for i := range 8 {
		n := game(fmt.Sprintf("rotate%09d", i))
		n.Strategy = alloc.Rotate
		addresses[h.mustReserve(t, n)[0].HostIP]++
	}
	if len(addresses) != 4 || addresses["10.0.0.0"] != 2 || addresses["10.0.0.3"] != 2 {
		t.Errorf("rotation: %v", addresses)
	}
	seen := map[string]bool{}
	for i := range 20 {
		n := game(fmt.Sprintf("random%09d", i))
		n.Strategy = alloc.Random
		seen[text(h.mustReserve(t, n))] = true
	}
	low := 0
	for s := range seen {
		if strings.Contains(s, ":200") {
			low++
		}
	}
	if len(seen) != 20 || low > 10 {
		t.Errorf("random: %d different, %d of them low: %v", len(seen), low, seen)
	}
	fresh := h.node(t, "n2", nil)
	h.add(t, fresh, "10.0.1.0/31", "2000-2001")
	for i, want := range []string{"10.0.1.0:2000", "10.0.1.0:2001", "10.0.1.1:2000", "10.0.1.1:2001"} {
		n := game(fmt.Sprintf("sequential%05d", i))
		n.Node = fresh
		if got := text(h.mustReserve(t, n)); !strings.Contains(got, want) {
			t.Errorf("sequential: %s, want %s", got, want)
		}
	}
}

func TestRandomFindsTheLastPort(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.add(t, h.node(t, "n1", nil), "10.0.0.1", "2000-2600", wire.TCP)
	if _, err := h.NonconcurrentDB().Update("port_pools", dbx.Params{"is_allocated": true, "allocated_to_server": "other"}, dbx.NewExp("port != 2300")).Execute(); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		n := game(fmt.Sprintf("server%09d", i))
		n.Strategy = alloc.Random
		if got := h.mustReserve(t, n); got[0].HostPort != 2300 {
			t.Errorf("%s", text(got))
		}
		h.release(t, n.Server)
	}
}

func TestCapacityCountsTheOvercommitRatio(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	node := h.node(t, "n1", map[string]any{"cpu_millicores": 1000, "memory_mib": 1000, "disk_mib": 1000, "overcommit_cpu_percent": 200, "overcommit_memory_percent": 150})
	h.add(t, node, "10.0.0.1", "2000-2100")
	need := func(i int, cpu, memory, disk int64) alloc.Need {
		n := game(fmt.Sprintf("server%09d", i))
		n.CPUMillicores, n.MemoryMiB, n.DiskMiB = cpu, memory, disk
		return n
	}
	for i, c := range []struct {
		name              string
		cpu, memory, disk int64
		want              string
	}{
		{"the half of it", 1000, 750, 500, ""},
		{"a millicore more than is left", 1001, 1, 1, "n1 has 1000 thousandths of a CPU core left, and 1001 are needed"},
		{"a MiB more", 1, 751, 1, "n1 has 750 MiB of memory left, and 751 are needed"},
		{"more disk", 1, 1, 501, "n1 has 500 MiB of disk left, and 501 are needed"},
		{"the rest exactly", 1000, 750, 500, ""},
		{"one more", 1, 0, 0, "n1 has 0 thousandths"},
		{"nothing always fits", 0, 0, 0, ""},
	} {
		_, ex, err := h.reserve(need(i, c.cpu, c.memory, c.disk))
		if c.want == "" {
			if err != nil || ex.Chosen != node {
				t.Errorf("%s: %v %+v", c.name, err, ex)
			}
			continue
		}
		if !errors.Is(err, alloc.ErrNoFit) || codeOf(t, err) != "no_fit" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		n := need(i, c.cpu, c.memory, c.disk)
		n.Node = node
		if _, _, err := h.reserve(n); codeOf(t, err) != "node_full" {
			t.Errorf("%s, on this node: %v", c.name, err)
		}
	}
	h.release(t, "server000000000")
	resize := func(a alloc.Amount) error {
		return h.tx(func(tx core.App) error { return h.alloc.Resize(tx, "server000000004", a) })
	}
	if err := resize(alloc.Amount{CPUMillicores: 2001, MemoryMiB: 1, DiskMiB: 1}); !errors.Is(err, alloc.ErrNoFit) || codeOf(t, err) != "node_full" {
		t.Errorf("grown over the node: %v", err)
	}
	if err := resize(alloc.Amount{CPUMillicores: 2000, MemoryMiB: 1500, DiskMiB: 1000}); err != nil {
		t.Errorf("grown to the whole node: %v", err)
	}
	if _, err := h.NonconcurrentDB().Update("nodes", dbx.Params{"memory_mib": 1}, nil).Execute(); err != nil {
		t.Fatal(err)
	}
	if err := resize(alloc.Amount{CPUMillicores: 2000, MemoryMiB: 1400, DiskMiB: 1000}); err != nil {
		t.Errorf("shrinking on a node that is over its capacity: %v", err)
	}
	if err := resize(alloc.Amount{CPUMillicores: -1}); err == nil {
		t.Error("a negative size")
	}
	if err := h.tx(func(tx core.App) error { return h.alloc.Resize(tx, "nosuchserver000", alloc.Amount{}) }); err == nil {
		t.Error("resized a server without a place")
	}
}

// What a node runs already is there whatever the node's state and however full it is; only ports can
// be missing.
func TestAResidentIsRefusedForPortsAlone(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	elsewhere := h.node(t, "elsewhere", nil)
	h.add(t, elsewhere, "10.0.1.1", "2000-2100")
	for i, s := range []string{"OFFLINE", "DRAINING", "MAINTENANCE", "ONLINE"} {
		node := h.node(t, strings.ToLower(s), map[string]any{"status": s, "memory_mib": 1})
		h.add(t, node, "10.0.0.1", "2000")
		n := game(fmt.Sprintf("server00000000%d", i))
		n.Node, n.MemoryMiB = node, 1024
		if _, _, err := h.reserve(n); codeOf(t, err) != "node_full" {
			t.Errorf("a newcomer on a node that is %s and full: %v", s, err)
		}
		n.Resident = true
		if _, ex, err := h.reserve(n); err != nil || ex.Chosen != node {
			t.Errorf("a resident of a node that is %s and full: %v", s, err)
		}
		n.Server = fmt.Sprintf("server00000001%d", i)
		if _, _, err := h.reserve(n); codeOf(t, err) != "ports_exhausted" {
			t.Errorf("a second resident, for whom there are no ports: %v", err)
		}
	}
	anywhere := game("server000000020")
	anywhere.Resident, anywhere.MemoryMiB = true, 1<<40
	if _, _, err := h.reserve(anywhere); codeOf(t, err) != "no_fit" {
		t.Errorf("a resident of no node is none: %v", err)
	}
}

func TestANodeIsChosenAndTheOthersAreExplained(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	if _, _, err := h.reserve(game("server000000000")); codeOf(t, err) != "no_fit" || !strings.Contains(err.Error(), "no node yet") {
		t.Errorf("without any node: %v", err)
	}
	full := h.node(t, "a-full", map[string]any{"memory_mib": 512, "location": "Frankfurt"})
	big := h.node(t, "b-big", map[string]any{"memory_mib": 64000, "location": "Frankfurt", "labels": map[string]any{"disk": "nvme", "gen": 3}})
	small := h.node(t, "c-small", map[string]any{"memory_mib": 2048, "location": "Helsinki"})
	for i, s := range []string{"OFFLINE", "DRAINING", "MAINTENANCE"} {
		h.node(t, fmt.Sprintf("d-%d", i), map[string]any{"status": s})
	}
	h.node(t, "e-noports", nil)
	for _, n := range []string{full, big, small} {
		h.add(t, n, "10.0.0.1", "2000-2100")
	}
	need := func(edit func(n *alloc.Need)) alloc.Need {
		n := game("server000000001")
		n.MemoryMiB = 1024
		edit(&n)
		return n
	}
	for _, c := range []struct {
		name string
		need alloc.Need
		want string
		code string
	}{
		{"packed", need(func(*alloc.Need) {}), small, ""},
		{"spread", need(func(n *alloc.Need) { n.Spread = true }), big, ""},
		{"in a place, any case", need(func(n *alloc.Need) { n.Location = "frankfurt" }), big, ""},
		{"of a kind", need(func(n *alloc.Need) { n.Labels = map[string]string{"disk": "nvme", "gen": "3"} }), big, ""},
		{"named", need(func(n *alloc.Need) { n.Node = big }), big, ""},
		{"a place where nothing is", need(func(n *alloc.Need) { n.Location = "Mars" }), "", "no_fit"},
		{"a kind that is not there", need(func(n *alloc.Need) { n.Labels = map[string]string{"gpu": "1"} }), "", "no_fit"},
		{"named and full", need(func(n *alloc.Need) { n.Node = full }), "", "node_full"},
		{"named and not there", need(func(n *alloc.Need) { n.Node = "nosuchnode00000" }), "", "node_not_found"},
		{"too large for all", need(func(n *alloc.Need) { n.MemoryMiB = 1 << 40 }), "", "no_fit"},
	} {
		ex, err := h.alloc.Explain(h, c.need)
		if err != nil || ex.Chosen != c.want || len(ex.Nodes) != 7 {
			t.Errorf("%s: explained %+v %v", c.name, ex, err)
		}
		_, got, err := h.reserve(c.need)
		if codeOf(t, err) != c.code || got.Chosen != c.want {
			t.Errorf("%s: %+v %v", c.name, got, err)
		}
		h.release(t, "server000000001")
	}
	ex, err := h.alloc.Explain(h, need(func(n *alloc.Need) { n.Server = "" }))
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, n := range ex.Nodes {
		code := "fits"
		if n.Reason != nil {
			code = n.Reason.Code
		}
		if n.Fits != (code == "fits") {
			t.Errorf("%s: %+v", n.Name, n)
		}
		codes = append(codes, code)
	}
	if got := strings.Join(codes, " "); got != "memory fits fits offline draining maintenance ports" {
		t.Errorf("reasons: %s", got)
	}
	if h.held(t, "port_pools") != 0 {
		t.Error("explaining or releasing left ports held")
	}
}

func TestReleasingMayBeRepeatedAndAServerMayComeBack(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	node := h.node(t, "n1", nil)
	h.add(t, node, "10.0.0.1", "2000-2001", wire.TCP)
	first := h.mustReserve(t, game("server000000001"))
	if _, _, err := h.reserve(game("server000000001")); !errors.Is(err, alloc.ErrHeld) {
		t.Errorf("a second place for one server: %v", err)
	}
	h.mustReserve(t, game("server000000002"))
	_, _, err := h.reserve(game("server000000003"))
	if !errors.Is(err, alloc.ErrExhausted) || codeOf(t, err) != "ports_exhausted" || !strings.Contains(err.Error(), "All ports that this server could have are taken: n1 has not enough free ports") {
		t.Errorf("a third server for two ports: %v", err)
	}
	for range 3 {
		h.release(t, "server000000001")
	}
	h.release(t, "neverwashere000")
	if _, err := alloc.Of(h, "server000000001"); err == nil {
		t.Error("still active after release")
	}
	if again := h.mustReserve(t, game("server000000001")); !slices.Equal(again, first) {
		t.Errorf("%s, then %s", text(first), text(again))
	}
	if n, err := h.CountRecords("allocations"); err != nil || n != 2 {
		t.Errorf("%d rows for two servers, %v", n, err)
	}
	released := 0
	if err := h.tx(func(tx core.App) (err error) {
		released, err = h.alloc.ReleaseByNode(tx, node)
		return err
	}); err != nil || released != 2 || h.held(t, "port_pools") != 0 {
		t.Errorf("%d released, %v", released, err)
	}
	if err := h.tx(func(tx core.App) error { return h.alloc.Release(tx, "") }); err == nil {
		t.Error("released nobody, which would be everybody's free ports")
	}
}

func TestAWholeAddressKeepsOthersOut(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	node := h.node(t, "n1", nil)
	h.add(t, node, "10.0.0.0/31", "2000-2010", wire.TCP)
	h.mustReserve(t, game("server000000001"))
	var address string
	own := func(server string) error {
		return h.tx(func(tx core.App) (err error) {
			address, err = h.alloc.ReserveIP(tx, node, server)
			return err
		})
	}
	for range 2 {
		if err := own("server000000002"); err != nil || address != "10.0.0.1" {
			t.Errorf("%s %v", address, err)
		}
	}
	if err := own("server000000003"); !errors.Is(err, alloc.ErrExhausted) {
		t.Errorf("an address on which others have ports: %s %v", address, err)
	}
	if err := own(""); err == nil {
		t.Error("an address for nobody")
	}
	if got := h.mustReserve(t, game("server000000002")); got[0].HostIP != "10.0.0.1" {
		t.Errorf("its own server: %s", text(got))
	}
	for i := range 10 {
		if got := h.mustReserve(t, game(fmt.Sprintf("others%09d", i))); got[0].HostIP != "10.0.0.0" {
			t.Errorf("another server: %s", text(got))
		}
	}
	if _, _, err := h.reserve(game("others000000099")); !errors.Is(err, alloc.ErrExhausted) {
		t.Errorf("an eleventh on the shared address: %v", err)
	}
	h.release(t, "server000000002")
	if got := h.mustReserve(t, game("others000000099")); got[0].HostIP != "10.0.0.1" || h.held(t, "ip_pools") != 0 {
		t.Errorf("after it was given back: %s", text(got))
	}
}

func TestAFurtherPortComesOnTheSameAddress(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	node := h.node(t, "n1", nil)
	h.add(t, node, "10.0.0.0/31", "2000-2002", wire.TCP)
	h.add(t, node, "10.0.0.1", "2000-2002", wire.UDP)
	h.mustReserve(t, game("server000000001"))
	more := func(p alloc.PortNeed) (ports []wire.Port, err error) {
		err = h.tx(func(tx core.App) error {
			ports, err = h.alloc.ReservePort(tx, "server000000001", p)
			return err
		})
		return ports, err
	}
	got, err := more(alloc.PortNeed{Name: "query", Protocol: wire.TCP})
	if err != nil || text(got) != "query=10.0.0.0:2001/tcp→2001" {
		t.Errorf("%s %v", text(got), err)
	}
	if _, err := more(alloc.PortNeed{Name: "query", Protocol: wire.TCP}); codeOf(t, err) != "port_name_taken" {
		t.Errorf("a name twice: %v", err)
	}
	if _, err := more(alloc.PortNeed{Name: "voice", Protocol: wire.UDP}); !errors.Is(err, alloc.ErrExhausted) {
		t.Errorf("udp is on the other address only: %v", err)
	}
	row, err := alloc.Of(h, "server000000001")
	if err != nil {
		t.Fatal(err)
	}
	if ports, err := alloc.PortsOf(row); err != nil || len(ports) != 2 || h.held(t, "port_pools") != 2 {
		t.Errorf("%s %v, %d held", text(ports), err, h.held(t, "port_pools"))
	}
}

// T9: 200 creates at once for 100 ports on two nodes.
func TestT09_AllocationRace(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for i := range 2 {
		h.add(t, h.node(t, fmt.Sprintf("n%d", i), nil), fmt.Sprintf("10.0.%d.1", i), "2000-2049", wire.TCP)
	}
	var got, exhausted atomic.Int64
	var mu sync.Mutex
	owners := map[string]string{}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			n := game(fmt.Sprintf("server%09d", i))
			n.Strategy = []alloc.Strategy{alloc.Sequential, alloc.Random, alloc.Rotate}[i%3]
			n.Spread = i%2 == 0
			ports, _, err := h.reserve(n)
			if errors.Is(err, alloc.ErrExhausted) {
				exhausted.Add(1)
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			got.Add(1)
			mu.Lock()
			defer mu.Unlock()
			key := fmt.Sprintf("%s:%d", ports[0].HostIP, ports[0].HostPort)
			if other := owners[key]; other != "" {
				t.Errorf("%s belongs to %s and %s", key, other, n.Server)
			}
			owners[key] = n.Server
		})
	}
	wg.Wait()
	if got.Load() != 100 || exhausted.Load() != 100 || h.held(t, "port_pools") != 100 {
		t.Errorf("%d reserved, %d refused, %d ports held", got.Load(), exhausted.Load(), h.held(t, "port_pools"))
	}
	report, err := h.alloc.ScanLeaks(h, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range report.Leaks {
		if l.Kind != alloc.LeakNoServer { // the race made no rows of servers
			t.Errorf("%+v", l)
		}
	}
	t.Logf("T09: 200 concurrent reservations for 100 ports on 2 nodes: %d got one, %d were refused", got.Load(), exhausted.Load())
}

func (h *house) call(method, path, token, body string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	rec := httptest.NewRecorder()
	h.mux.ServeHTTP(rec, req)
	var compact bytes.Buffer
	if json.Compact(&compact, rec.Body.Bytes()) == nil {
		rec.Body = &compact
	}
	return rec
}

func asError(err error, target **access.Error) bool { return errors.As(err, target) }

// Lock is asked for by what needs it, so that a transaction that may need it must not name it.
func TestWhoReservesWithoutTheLockIsToldSo(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	node := h.node(t, "n1", nil)
	h.add(t, node, "10.0.0.1", "25565-25575", wire.TCP, wire.UDP)
	h.mustReserve(t, game("s1"))
	for name, do := range map[string]func(tx core.App) error{
		"reserve": func(tx core.App) error { _, _, err := h.alloc.Reserve(tx, game("s2")); return err },
		"release": func(tx core.App) error { return h.alloc.Release(tx, "s1") },
		"resize":  func(tx core.App) error { return h.alloc.Resize(tx, "s1", alloc.Amount{CPUMillicores: 1}) },
		"a port": func(tx core.App) error {
			_, err := h.alloc.ReservePort(tx, "s1", alloc.PortNeed{Name: "x", Protocol: wire.TCP})
			return err
		},
		"an address": func(tx core.App) error { _, err := h.alloc.ReserveIP(tx, node, "s2"); return err },
		"ports": func(tx core.App) error {
			_, err := h.alloc.AddPorts(tx, node, "10.0.0.2", "25565", []wire.Protocol{wire.TCP})
			return err
		},
		"a node": func(tx core.App) error { return h.alloc.ForgetNode(tx, node) },
	} {
		if err := collections.Tx(h, []collections.Lock{"server:a"}, do); !errors.Is(err, collections.ErrLockOrder) {
			t.Errorf("%s: %v", name, err)
		}
		if err := h.tx(func(tx core.App) error { err := do(tx); return errors.Join(err, errUndone) }); errors.Is(err, collections.ErrLockOrder) || !errors.Is(err, errUndone) {
			t.Errorf("%s with the lock: %v", name, err)
		}
	}
}

var errUndone = errors.New("rolled back")
