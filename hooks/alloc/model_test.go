package alloc_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/wings/wire"
)

// spot is one port of the model.
type spot struct {
	node, address string
	port          int
	protocol      wire.Protocol
}

// holding is what a server has in the model.
type holding struct {
	node   string
	amount alloc.Amount
	ports  []wire.Port
}

// model says what alloc must do, in maps and by trying everything.
type model struct {
	total map[string]alloc.Amount // node →
	spots map[spot]string         // → server, "" when free
	whole map[[2]string]string    // node, address → server, "" when shared
	has   map[string]holding      // server →
}

func (m *model) free(node string) alloc.Amount {
	f := m.total[node]
	for _, h := range m.has {
		if h.node == node {
			f.CPUMillicores -= h.amount.CPUMillicores
			f.MemoryMiB -= h.amount.MemoryMiB
			f.DiskMiB -= h.amount.DiskMiB
		}
	}
	return f
}

func fitsIn(need, free alloc.Amount) bool {
	ok := func(n, f int64) bool { return n <= 0 || n <= f }
	return ok(need.CPUMillicores, free.CPUMillicores) && ok(need.MemoryMiB, free.MemoryMiB) && ok(need.DiskMiB, free.DiskMiB)
}

// addresses that a server may use on a node.
func (m *model) addresses(node, server string) (out []string) {
	for at, owner := range m.whole {
		if at[0] != node {
			continue
		}
		if owner == server {
			return []string{at[1]}
		}
		if owner == "" {
			out = append(out, at[1])
		}
	}
	return out
}

// possible tries every port for every need that is free to choose.
func (m *model) possible(node, address string, needs []alloc.PortNeed) bool {
	bases := map[string]int{}
	var try func(i int) bool
	try = func(i int) bool {
		for ; i < len(needs) && needs[i].OffsetOf != ""; i++ {
		}
		if i == len(needs) {
			return m.takes(node, address, needs, bases)
		}
		for port := lowest; port <= highest; port++ {
			bases[needs[i].Name] = port
			if try(i + 1) {
				return true
			}
		}
		return false
	}
	return try(0)
}

func (m *model) takes(node, address string, needs []alloc.PortNeed, bases map[string]int) bool {
	used := map[spot]bool{}
	for _, n := range needs {
		port := bases[n.Name]
		if n.OffsetOf != "" {
			port = bases[n.OffsetOf] + n.Offset
		}
		for _, p := range spelled(n.Protocol) {
			s := spot{node, address, port, p}
			if owner, there := m.spots[s]; !there || owner != "" || used[s] {
				return false
			}
			used[s] = true
		}
	}
	return true
}

func spelled(p wire.Protocol) []wire.Protocol {
	if p == alloc.Both {
		return []wire.Protocol{wire.TCP, wire.UDP}
	}
	return []wire.Protocol{p}
}

// Ports of the model's world: few, so that they run out all the time.
const lowest, highest = 2000, 2005

// machine runs one random history against the code, in a transaction that is rolled back.
type machine struct {
	t     *rapid.T
	h     *house
	tx    core.App
	m     *model
	nodes []string
	tally map[string]int
}

var (
	modelServers   = []string{"servera00000000", "serverb00000000", "serverc00000000", "serverd00000000", "servere00000000", "serverf00000000"}
	modelAddresses = []string{"10.0.0.1", "10.0.0.2"}
)

func (s *machine) server() string { return rapid.SampledFrom(modelServers).Draw(s.t, "server") }
func (s *machine) node() string   { return rapid.SampledFrom(s.nodes).Draw(s.t, "node") }

func (s *machine) amount() alloc.Amount {
	n := rapid.Int64Range(0, 6)
	return alloc.Amount{CPUMillicores: n.Draw(s.t, "cpu"), MemoryMiB: n.Draw(s.t, "memory"), DiskMiB: n.Draw(s.t, "disk")}
}

func (s *machine) needs() []alloc.PortNeed {
	protocol := rapid.SampledFrom([]wire.Protocol{wire.TCP, wire.UDP, alloc.Both})
	prefer := rapid.SampledFrom([]int{0, 0, lowest + 1, highest + 1})
	var out []alloc.PortNeed
	for i := range rapid.IntRange(0, 3).Draw(s.t, "ports") {
		p := alloc.PortNeed{Name: fmt.Sprint("p", i), Protocol: protocol.Draw(s.t, "protocol"), Prefer: prefer.Draw(s.t, "prefer")}
		if i > 0 && rapid.Bool().Draw(s.t, "hangs") {
			p.OffsetOf, p.Offset = "p0", rapid.IntRange(-2, 2).Draw(s.t, "offset")
		}
		out = append(out, p)
	}
	return out
}

func (s *machine) reserve() {
	server, amount := s.server(), s.amount()
	n := alloc.Need{
		Tenant: "tenant000000001", Server: server, CPUMillicores: amount.CPUMillicores, MemoryMiB: amount.MemoryMiB, DiskMiB: amount.DiskMiB, Ports: s.needs(),
		Strategy: rapid.SampledFrom([]alloc.Strategy{"", alloc.Sequential, alloc.Random, alloc.Rotate}).Draw(s.t, "strategy"), Spread: rapid.Bool().Draw(s.t, "spread"),
	}
	if rapid.Bool().Draw(s.t, "named") {
		n.Node = s.node()
	}
	room, way := false, false
	for _, node := range s.nodes {
		if n.Node != "" && n.Node != node || !fitsIn(amount, s.m.free(node)) {
			continue
		}
		room = true
		for _, a := range s.m.addresses(node, server) {
			way = way || s.m.possible(node, a, n.Ports)
		}
	}
	row, _, err := s.h.alloc.Reserve(s.tx, n)
	_, held := s.m.has[server]
	switch {
	case held:
		s.expect(errors.Is(err, alloc.ErrHeld), "reserve %+v for one that has a place: %v", n, err)
	case !way:
		s.expect(errors.Is(err, alloc.ErrNoFit) || room && errors.Is(err, alloc.ErrExhausted), "reserve %+v where there is no way: %v", n, err)
	default:
		s.expect(err == nil, "reserve %+v: %v", n, err)
		s.got(n, row)
		s.tally["reserved"]++
	}
}

// got checks what the code chose against the model and books it there.
func (s *machine) got(n alloc.Need, row *collections.Allocation) {
	ports, err := alloc.PortsOf(row)
	s.expect(err == nil, "%v", err)
	node, amount := row.Node(), alloc.Amount{CPUMillicores: n.CPUMillicores, MemoryMiB: n.MemoryMiB, DiskMiB: n.DiskMiB}
	s.expect(fitsIn(amount, s.m.free(node)) && (n.Node == "" || n.Node == node), "node %s has no room or was not asked for", node)
	s.expect(slices.Contains(s.m.addresses(node, n.Server), row.IPAddress()), "address %s of node %s is another's", row.IPAddress(), node)
	bases := map[string]int{}
	i := 0
	for _, need := range n.Ports {
		for _, protocol := range spelled(need.Protocol) {
			p := ports[i]
			i++
			s.expect(p.Name == need.Name && p.Protocol == protocol && p.HostIP == row.IPAddress() && p.ContainerPort == p.HostPort, "%+v for %+v", p, need)
			bases[need.Name] = p.HostPort
		}
	}
	s.expect(i == len(ports) && s.m.takes(node, row.IPAddress(), n.Ports, bases), "%s for %+v", text(ports), n.Ports)
	s.book(n.Server, node, amount, ports)
}

func (s *machine) book(server, node string, amount alloc.Amount, ports []wire.Port) {
	s.m.has[server] = holding{node, amount, ports}
	for _, p := range ports {
		s.m.spots[spot{node, p.HostIP, p.HostPort, p.Protocol}] = server
	}
}

func (s *machine) release() { s.released(s.server()) }

func (s *machine) released(server string) {
	err := s.h.alloc.Release(s.tx, server)
	s.expect(err == nil, "release: %v", err)
	s.unbook(server)
}

func (s *machine) unbook(server string) {
	delete(s.m.has, server)
	for at, owner := range s.m.spots {
		if owner == server {
			s.m.spots[at] = ""
		}
	}
	for at, owner := range s.m.whole {
		if owner == server {
			s.m.whole[at] = ""
		}
	}
}

func (s *machine) releaseNode() {
	node, want := s.node(), 0
	for server, h := range s.m.has {
		if h.node == node {
			s.unbook(server)
			want++
		}
	}
	for at := range s.m.whole {
		if at[0] == node {
			s.m.whole[at] = ""
		}
	}
	n, err := s.h.alloc.ReleaseByNode(s.tx, node)
	s.expect(err == nil && n == want, "release by node: %d, want %d, %v", n, want, err)
}

func (s *machine) resize() {
	server, to := s.server(), s.amount()
	err := s.h.alloc.Resize(s.tx, server, to)
	h, held := s.m.has[server]
	more := alloc.Amount{CPUMillicores: to.CPUMillicores - h.amount.CPUMillicores, MemoryMiB: to.MemoryMiB - h.amount.MemoryMiB, DiskMiB: to.DiskMiB - h.amount.DiskMiB}
	fits := held && fitsIn(more, s.m.free(h.node))
	s.expect((err == nil) == fits, "resize %s from %+v to %+v: %v", server, h, to, err)
	if fits {
		h.amount = to
		s.m.has[server] = h
	}
}

func (s *machine) morePorts() {
	server := s.server()
	need := s.needs()
	if len(need) == 0 {
		return
	}
	p := need[0]
	p.Name = fmt.Sprint("extra", rapid.IntRange(0, 2).Draw(s.t, "extra"))
	h, held := s.m.has[server]
	row, err := alloc.Of(s.tx, server)
	s.expect((err == nil) == held, "allocation of %s: %v", server, err)
	if !held {
		return
	}
	named := slices.ContainsFunc(h.ports, func(have wire.Port) bool { return have.Name == p.Name })
	way := !named && s.m.possible(h.node, row.IPAddress(), []alloc.PortNeed{p})
	ports, err := s.h.alloc.ReservePort(s.tx, server, p)
	s.expect((err == nil) == way, "a port %+v more for %s: %v", p, server, err)
	if way {
		s.expect(s.m.takes(h.node, row.IPAddress(), []alloc.PortNeed{p}, map[string]int{p.Name: ports[0].HostPort}), "%s", text(ports))
		s.book(server, h.node, h.amount, append(slices.Clone(h.ports), ports...))
	}
}

func (s *machine) wholeAddress() {
	node, server := s.node(), s.server()
	address, err := s.h.alloc.ReserveIP(s.tx, node, server)
	var free []string
	for at, owner := range s.m.whole {
		if at[0] != node {
			continue
		}
		if owner == server {
			s.expect(err == nil && address == at[1], "the address that it has: %s %v", address, err)
			return
		}
		busy := false
		for p, holder := range s.m.spots {
			busy = busy || p.node == node && p.address == at[1] && holder != ""
		}
		if owner == "" && !busy {
			free = append(free, at[1])
		}
	}
	slices.Sort(free)
	if len(free) == 0 {
		s.expect(errors.Is(err, alloc.ErrExhausted), "no address is free: %s %v", address, err)
		return
	}
	s.expect(err == nil && address == free[0], "address %s, want %s, %v", address, free[0], err)
	s.m.whole[[2]string{node, address}] = server
}

// entry draws what an operator would type.
func (s *machine) entry() (addresses []string, cidr string, from, to int, protocols []wire.Protocol) {
	switch i := rapid.IntRange(0, 2).Draw(s.t, "address"); i {
	case 2:
		addresses, cidr = []string{"10.0.0.2", "10.0.0.3"}, "10.0.0.2/31"
	default:
		addresses, cidr = modelAddresses[i:i+1], modelAddresses[i]
	}
	from = rapid.IntRange(lowest, highest).Draw(s.t, "from")
	to = min(from+rapid.IntRange(0, 3).Draw(s.t, "more"), highest)
	return addresses, cidr, from, to, rapid.SampledFrom([][]wire.Protocol{{wire.TCP}, {wire.UDP}, {wire.TCP, wire.UDP}}).Draw(s.t, "protocols")
}

func (s *machine) add() {
	node := s.node()
	addresses, cidr, from, to, protocols := s.entry()
	n, err := s.h.alloc.AddPorts(s.tx, node, cidr, fmt.Sprintf("%d-%d", from, to), protocols)
	want := int64(0)
	for _, a := range addresses {
		if _, there := s.m.whole[[2]string{node, a}]; !there {
			s.m.whole[[2]string{node, a}] = ""
		}
		for port := from; port <= to; port++ {
			for _, p := range protocols {
				if _, there := s.m.spots[spot{node, a, port, p}]; !there {
					s.m.spots[spot{node, a, port, p}] = ""
					want++
				}
			}
		}
	}
	s.expect(err == nil && n == want, "added %d, want %d, %v", n, want, err)
}

func (s *machine) remove() {
	node := s.node()
	addresses, cidr, from, to, protocols := s.entry()
	var gone []spot
	for at, owner := range s.m.spots {
		if at.node == node && slices.Contains(addresses, at.address) && at.port >= from && at.port <= to && slices.Contains(protocols, at.protocol) {
			if owner != "" {
				return // refused with a rollback of the whole transaction: TestPortsInUseAreNotRemoved
			}
			gone = append(gone, at)
		}
	}
	n, err := s.h.alloc.RemovePorts(s.tx, node, cidr, fmt.Sprintf("%d-%d", from, to), protocols)
	s.expect(err == nil && n == int64(len(gone)), "removed %d, want %d, %v", n, len(gone), err)
	for _, at := range gone {
		delete(s.m.spots, at)
	}
	for at, owner := range s.m.whole {
		used := false
		for p := range s.m.spots {
			used = used || p.node == at[0] && p.address == at[1]
		}
		if at[0] == node && !used && owner == "" {
			delete(s.m.whole, at)
		}
	}
}

// compare reads the whole database and holds it against the model.
func (s *machine) compare() {
	var rows []struct {
		Node     string `db:"node"`
		Address  string `db:"ip_address"`
		Port     int    `db:"port"`
		Protocol string `db:"protocol"`
		Held     bool   `db:"is_allocated"`
		Server   string `db:"allocated_to_server"`
	}
	s.expect(s.tx.DB().Select("*").From("port_pools").All(&rows) == nil, "read the pools")
	got := map[spot]string{}
	for _, r := range rows {
		s.expect(r.Held == (r.Server != ""), "half a mark: %+v", r)
		got[spot{r.Node, r.Address, r.Port, wire.Protocol(r.Protocol)}] = r.Server
	}
	s.expect(maps.Equal(got, s.m.spots), "ports differ\n got %v\nwant %v", got, s.m.spots)
	ips, err := collections.Every[collections.IPPool](s.tx, collections.IPPools, "", 0)
	s.expect(err == nil, "%v", err)
	whole := map[[2]string]string{}
	for _, ip := range ips {
		s.expect(ip.IsAllocated() == (ip.AllocatedToServer() != ""), "half a mark on %s", ip.IPAddress())
		whole[[2]string{ip.Node(), ip.IPAddress()}] = ip.AllocatedToServer()
	}
	s.expect(maps.Equal(whole, s.m.whole), "addresses differ\n got %v\nwant %v", whole, s.m.whole)
	active, err := collections.Every[collections.Allocation](s.tx, collections.Allocations, "", 0, dbx.HashExp{"status": alloc.StatusActive})
	s.expect(err == nil && len(active) == len(s.m.has), "%d allocations, want %d, %v", len(active), len(s.m.has), err)
	for _, row := range active {
		h := s.m.has[row.Server()]
		ports, err := alloc.PortsOf(row)
		s.expect(err == nil && h.node == row.Node() && h.amount == (alloc.Amount{CPUMillicores: row.CPUMillicores(), MemoryMiB: row.MemoryMiB(), DiskMiB: row.DiskMiB()}) && slices.Equal(ports, h.ports), "allocation of %s: %s, want %+v", row.Server(), text(ports), h)
	}
	for _, node := range s.nodes {
		f := s.m.free(node)
		s.expect(min(f.CPUMillicores, f.MemoryMiB, f.DiskMiB) >= 0, "node %s is given away beyond its capacity: %+v", node, f)
	}
}

// leaks checks that after any history a scan finds nothing but servers without a place.
func (s *machine) leaks() {
	report, err := s.h.alloc.ScanLeaks(s.tx, true)
	s.expect(err == nil, "scan: %v", err)
	homeless := 0
	for _, l := range report.Leaks {
		s.expect(l.Kind == alloc.LeakNoAllocation, "%+v", l)
		homeless++
	}
	s.expect(homeless == len(modelServers)-len(s.m.has), "%d homeless, %d have a place", homeless, len(s.m.has))
}

func (s *machine) expect(ok bool, format string, args ...any) {
	if !ok {
		s.t.Fatalf(format, args...)
	}
}

var errRollback = errors.New("the history is over")

// T10: random histories of every operation, one transaction each, against the model.
func TestT10_AllocEqualsItsModel(t *testing.T) {
	t.Parallel()
	const operations = 320 // of each history; rapid runs 100 of them
	h := newHouse(t)
	small := map[string]any{"cpu_millicores": 10, "memory_mib": 12, "disk_mib": 15}
	over := map[string]any{"cpu_millicores": 10, "memory_mib": 6, "disk_mib": 15, "overcommit_memory_percent": 200}
	nodes := []string{h.node(t, "n1", small), h.node(t, "n2", over)}
	for _, s := range modelServers {
		h.server(t, s, nodes[0], "RUNNING")
	}
	total, tally := 0, map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		err := collections.Tx(h, []collections.Lock{alloc.Lock, audit.Lock("")}, func(tx core.App) error {
			m := &model{total: map[string]alloc.Amount{}, spots: map[spot]string{}, whole: map[[2]string]string{}, has: map[string]holding{}}
			for _, n := range nodes {
				m.total[n] = alloc.Amount{CPUMillicores: 10, MemoryMiB: 12, DiskMiB: 15}
			}
			s := &machine{t: rt, h: h, tx: tx, m: m, nodes: nodes, tally: tally}
			steps := []struct {
				name   string
				weight int
				run    func()
			}{
				{"reserve", 8, s.reserve}, {"release", 5, s.release}, {"add", 4, s.add}, {"remove", 2, s.remove}, {"resize", 2, s.resize},
				{"more ports", 2, s.morePorts}, {"whole address", 1, s.wholeAddress}, {"release node", 1, s.releaseNode},
			}
			var bag []int
			for i, step := range steps {
				for range step.weight {
					bag = append(bag, i)
				}
			}
			for i := range operations {
				step := steps[rapid.SampledFrom(bag).Draw(rt, "step")]
				step.run()
				tally[step.name]++
				total++
				if i%20 == 19 {
					s.compare()
				}
			}
			s.leaks()
			return errRollback
		})
		if !errors.Is(err, errRollback) {
			rt.Fatal(err)
		}
	})
	if total < 30_000/collectionstest.Share() || tally["reserved"] < 1000/collectionstest.Share() {
		t.Errorf("only %d operations, %v", total, tally)
	}
	names := slices.SortedFunc(maps.Keys(tally), cmp.Compare[string])
	line := ""
	for _, n := range names {
		line += fmt.Sprintf(" %s=%d", n, tally[n])
	}
	t.Logf("T10: %d operations, 0 differences from the model:%s", total, line)
}
