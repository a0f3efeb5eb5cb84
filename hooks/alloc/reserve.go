package alloc

import (
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/wings/wire"
)

// firstWindow is how many free ports of an address are read before all of them are.
const firstWindow = 256

// NodeFit is what placement says of one node.
type NodeFit struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	Location string  `json:"location"`
	Fits     bool    `json:"fits"`
	Reason   *Reason `json:"reason"` // nil when it fits
	Free     Amount  `json:"free"`   // not negative
}

// Explanation is why a node was chosen, or none.
type Explanation struct {
	Chosen string    `json:"chosen"` // "" when none fits
	Nodes  []NodeFit `json:"nodes"`  // by name
}

// Reserve gives a server a node, an address, ports and capacity in the caller's transaction, which
// gets Lock if it has not named it. It writes nothing unless it succeeds. Errors: 409 wrapping ErrNoFit (no room on
// any node, or on the one asked for), ErrExhausted (room, but no ports), ErrHeld; the explanation is
// there in each case but the last.
func (a *Alloc) Reserve(tx core.App, n Need) (*collections.Allocation, Explanation, error) {
	if err := ask(tx); err != nil {
		return nil, Explanation{}, err
	}
	groups, err := n.plan()
	if err != nil {
		return nil, Explanation{}, err
	}
	row, err := collections.One[collections.Allocation](tx, collections.Allocations, dbx.HashExp{"server": n.Server})
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, Explanation{}, fmt.Errorf("look for the allocation of server %s: %w", n.Server, err)
	}
	if err == nil && row.Status() == StatusActive {
		return nil, Explanation{}, access.Conflict("already_placed", "This server has its place already.").Because(ErrHeld)
	}
	views, err := nodeViews(tx)
	if err != nil {
		return nil, Explanation{}, err
	}
	ranked, refused := rank(views, n)
	for _, v := range ranked {
		found, err := pick(tx, v.ID, n, groups)
		if err != nil {
			return nil, Explanation{}, err
		}
		if found == nil {
			refused[v.ID] = noPorts
			continue
		}
		if err := claim(tx, v.ID, n.Server, found.ports); err != nil {
			return nil, Explanation{}, err
		}
		row, err := a.keep(tx, row, n, v.ID, *found)
		return row, explain(views, v.ID, refused), err
	}
	ex := explain(views, "", refused)
	return nil, ex, ex.refusal(n)
}

// Explain says which nodes could take a need and which one Reserve would choose now. It holds nothing.
func (a *Alloc) Explain(app core.App, n Need) (Explanation, error) {
	if n.Server == "" {
		n.Server = "?" // nobody's: it holds no address
	}
	groups, err := n.plan()
	if err != nil {
		return Explanation{}, err
	}
	views, err := nodeViews(app)
	if err != nil {
		return Explanation{}, err
	}
	for i, v := range views {
		if _, no := refuse(v, n); no {
			continue
		}
		found, err := pick(app, v.ID, n, groups)
		if err != nil {
			return Explanation{}, err
		}
		views[i].PortsFit = found != nil
	}
	chosen, refused := Fit(views, n)
	for _, v := range views {
		if _, done := refused[v.ID]; !done && !v.PortsFit {
			refused[v.ID] = noPorts
		}
	}
	return explain(views, chosen, refused), nil
}

func explain(views []NodeView, chosen string, refused map[string]Reason) Explanation {
	ex := Explanation{Chosen: chosen, Nodes: []NodeFit{}}
	for _, v := range views {
		f := v.Free()
		fit := NodeFit{ID: v.ID, Name: v.Name, Location: v.Location, Fits: true, Free: Amount{max(f.CPUMillicores, 0), max(f.MemoryMiB, 0), max(f.DiskMiB, 0)}}
		if r, no := refused[v.ID]; no {
			fit.Fits, fit.Reason = false, &r
		}
		ex.Nodes = append(ex.Nodes, fit)
	}
	return ex
}

// refusal is the error of a need that no node can take, with the reason of each that was asked.
func (ex Explanation) refusal(n Need) error {
	var why []string
	ports, others := 0, 0
	for _, f := range ex.Nodes {
		if f.Reason == nil || f.Reason.Code == "not_asked" {
			continue
		}
		why = append(why, f.Name+" "+f.Reason.Message)
		if f.Reason.Code == noPorts.Code {
			ports++
		} else {
			others++
		}
	}
	const most = 10 // nodes named in a sentence
	if len(why) > most {
		why = append(why[:most], fmt.Sprintf("and %d more", len(why)-most))
	}
	list := strings.Join(why, "; ")
	switch {
	case len(why) == 0 && n.Node != "":
		return access.Conflict("node_not_found", "There is no such node.").Because(ErrNoFit)
	case len(why) == 0:
		return access.Conflict("no_fit", "There is no node yet that could run this server. An operator has to add one first.").Because(ErrNoFit)
	case ports > 0 && others == 0:
		return access.Conflict("ports_exhausted", "All ports that this server could have are taken: "+list+". Delete a server that is not needed, or ask us to add ports.").Because(ErrExhausted)
	case n.Node != "":
		return access.Conflict("node_full", "This node cannot take the server: "+list+".").Because(ErrNoFit)
	}
	return access.Conflict("no_fit", "No node can take this server: "+list+".").Because(ErrNoFit)
}

// nodeViews reads every node and what is reserved on it, by name.
func nodeViews(app core.App) ([]NodeView, error) {
	nodes, err := collections.Every[collections.Node](app, collections.Nodes, "name", 0)
	if err != nil {
		return nil, fmt.Errorf("read the nodes: %w", err)
	}
	reserved, err := reservedByNode(app)
	if err != nil {
		return nil, err
	}
	views := make([]NodeView, 0, len(nodes))
	for _, n := range nodes {
		v := NodeView{ID: n.Id, Name: n.Name(), Location: n.Location(), Status: n.Status(), Labels: map[string]string{}, Reserved: reserved[n.Id], Total: totalOf(n)}
		labels := map[string]any{}
		if err := n.Labels(&labels); err != nil {
			return nil, fmt.Errorf("read the labels of node %s: %w", n.Name(), err)
		}
		for k, value := range labels {
			v.Labels[k] = fmt.Sprint(value)
		}
		views = append(views, v)
	}
	return views, nil
}

// totalOf is what may be given away; a ratio of 0 was never set and means 100 %.
func totalOf(n *collections.Node) Amount {
	over := func(have, percent int64) int64 {
		if percent <= 0 {
			percent = 100
		}
		return have * percent / 100
	}
	return Amount{over(n.CPUMillicores(), n.OvercommitCPUPercent()), over(n.MemoryMiB(), n.OvercommitMemoryPercent()), over(n.DiskMiB(), n.OvercommitDiskPercent())}
}

func reservedByNode(app core.App) (map[string]Amount, error) {
	var rows []struct {
		Node string `db:"node"`
		Amount
	}
	err := app.ConcurrentDB().NewQuery(`SELECT [[node]], COALESCE(SUM(CAST([[cpu_millicores]] AS BIGINT)), 0) AS [[cpu_millicores]],
		COALESCE(SUM(CAST([[memory_mib]] AS BIGINT)), 0) AS [[memory_mib]], COALESCE(SUM(CAST([[disk_mib]] AS BIGINT)), 0) AS [[disk_mib]]
		FROM {{allocations}} WHERE [[status]] = 'ACTIVE' GROUP BY [[node]]`).All(&rows)
	if err != nil {
		return nil, fmt.Errorf("count what is reserved: %w", err)
	}
	out := map[string]Amount{}
	for _, r := range rows {
		out[r.Node] = r.Amount
	}
	return out, nil
}

// found is an address and the ports chosen on it.
type found struct {
	address string
	ports   []wire.Port
}

// pick chooses address and ports for a need on one node; nil when it has none that would do.
func pick(app core.App, node string, n Need, groups []group) (*found, error) {
	addresses, err := addressesFor(app, node, n)
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		bases, err := pickOn(app, node, address, n.Strategy, groups)
		if err != nil {
			return nil, err
		}
		if bases != nil {
			return &found{address: address, ports: portsAt(n, groups, address, bases)}, nil
		}
	}
	return nil, nil
}

// addressesFor lists the addresses of a node that a server may use, in the order of the strategy. An
// address given whole to another server is not among them; one given whole to this one is the only.
func addressesFor(app core.App, node string, n Need) ([]string, error) {
	rows, err := collections.Every[collections.IPPool](app, collections.IPPools, "", 0, dbx.HashExp{"node": node})
	if err != nil {
		return nil, fmt.Errorf("read the addresses of node %s: %w", node, err)
	}
	var out []netip.Addr
	for _, r := range rows {
		ip, err := netip.ParseAddr(r.IPAddress())
		if err != nil {
			return nil, fmt.Errorf("address %q of node %s: %w", r.IPAddress(), node, err)
		}
		if r.IsAllocated() && r.AllocatedToServer() == n.Server {
			return []string{ip.String()}, nil
		}
		if !r.IsAllocated() {
			out = append(out, ip)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	switch n.Strategy {
	case Random:
		rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	case Rotate:
		used, err := usedByAddress(app, node)
		if err != nil {
			return nil, err
		}
		slices.SortStableFunc(out, func(a, b netip.Addr) int { return int(used[a.String()] - used[b.String()]) })
	}
	texts := make([]string, len(out))
	for i, ip := range out {
		texts[i] = ip.String()
	}
	return texts, nil
}

func usedByAddress(app core.App, node string) (map[string]int64, error) {
	var rows []struct {
		Address string `db:"ip_address"`
		Used    int64  `db:"used"`
	}
	err := app.ConcurrentDB().NewQuery("SELECT [[ip_address]], COUNT(*) AS [[used]] FROM {{port_pools}} WHERE [[node]] = {:node} AND [[allocated_to_server]] != '' GROUP BY [[ip_address]]").
		Bind(dbx.Params{"node": node}).All(&rows)
	if err != nil {
		return nil, fmt.Errorf("count the ports in use on node %s: %w", node, err)
	}
	out := map[string]int64{}
	for _, r := range rows {
		out[r.Address] = r.Used
	}
	return out, nil
}

// pickOn chooses a base port for each group on one address; nil when there is no way. A server
// without ports gets an empty choice.
func pickOn(app core.App, node, address string, s Strategy, groups []group) ([]int, error) {
	if len(groups) == 0 {
		return []int{}, nil
	}
	on := dbx.HashExp{"node": node, "ip_address": address}
	from := 0
	if s == Random {
		var err error
		if from, err = anyFrom(app, on); err != nil {
			return nil, err
		}
	}
	protocols, wished := asked(groups)
	free := map[hostPort]bool{}
	all, err := freePorts(app, free, protocols, firstWindow, on, dbx.NewExp("[[port]] >= {:from}", dbx.Params{"from": from}))
	if err != nil {
		return nil, err
	}
	if len(wished) > 0 {
		if _, err := freePorts(app, free, protocols, 0, on, dbx.HashExp{"port": wished}); err != nil {
			return nil, err
		}
	}
	bases := choose(free, groups, from)
	if bases != nil || all && from == 0 {
		return bases, nil
	}
	if _, err := freePorts(app, free, protocols, 0, on); err != nil {
		return nil, err
	}
	return choose(free, groups, from), nil
}

// asked returns the protocols that groups need and the ports that they wish for.
func asked(groups []group) (protocols []wire.Protocol, wished []any) {
	for _, g := range groups {
		for _, m := range g.members {
			for _, p := range m.protocols {
				if !slices.Contains(protocols, p) {
					protocols = append(protocols, p)
				}
			}
			if g.prefer > 0 {
				wished = append(wished, g.prefer+m.offset)
			}
		}
	}
	return protocols, wished
}

// anyFrom returns a random number between the lowest and the highest free port of an address.
func anyFrom(app core.App, on dbx.HashExp) (int, error) {
	var span struct {
		Low  int `db:"low"`
		High int `db:"high"`
	}
	err := app.ConcurrentDB().Select("COALESCE(MIN([[port]]), 0) AS low", "COALESCE(MAX([[port]]), 0) AS high").From(collections.PortPools).
		Where(on).AndWhere(dbx.NewExp("[[is_allocated]] = FALSE")).One(&span)
	if err != nil {
		return 0, fmt.Errorf("read the span of free ports: %w", err)
	}
	return span.Low + rand.IntN(span.High-span.Low+1), nil
}

// freePorts adds the free ports that match to free, of each protocol the lowest first and at most
// limit rows (0: all; an address has at most 65,535), and reports whether those were all. One query
// per protocol, because then the index on free ports gives them without a look at the taken ones.
func freePorts(app core.App, free map[hostPort]bool, protocols []wire.Protocol, limit int, where ...dbx.Expression) (all bool, err error) {
	all = true
	for _, protocol := range protocols {
		var ports []int
		q := app.ConcurrentDB().Select("port").From(collections.PortPools).OrderBy("port").
			Where(dbx.NewExp("[[protocol]] = {:protocol} AND [[is_allocated]] = FALSE", dbx.Params{"protocol": string(protocol)}))
		for _, w := range where {
			q.AndWhere(w)
		}
		if limit > 0 {
			q.Limit(int64(limit))
		}
		if err := q.Column(&ports); err != nil {
			return false, fmt.Errorf("read free ports: %w", err)
		}
		all = all && (limit == 0 || len(ports) < limit)
		for _, p := range ports {
			free[hostPort{p, protocol}] = true
		}
	}
	return all, nil
}

// portsAt spells out the chosen ports, in the order of the need.
func portsAt(n Need, groups []group, address string, bases []int) []wire.Port {
	byNeed := make([][]wire.Port, len(n.Ports))
	for i, g := range groups {
		for _, m := range g.members {
			need, host := n.Ports[m.need], bases[i]+m.offset
			inside := need.ContainerPort
			if inside == 0 {
				inside = host
			}
			for _, p := range m.protocols {
				byNeed[m.need] = append(byNeed[m.need], wire.Port{Name: need.Name, HostIP: address, HostPort: host, ContainerPort: inside, Protocol: p})
			}
		}
	}
	return slices.Concat(byNeed...)
}

// claim takes the ports, each by a statement that repeats that it is free; a count other than one
// means that somebody was faster.
func claim(tx core.App, node, server string, ports []wire.Port) error {
	for _, p := range ports {
		n, err := exec(tx, `UPDATE {{port_pools}} SET [[is_allocated]] = TRUE, [[allocated_to_server]] = {:server}, [[updated]] = {:now}
			WHERE [[node]] = {:node} AND [[ip_address]] = {:address} AND [[port]] = {:port} AND [[protocol]] = {:protocol} AND [[is_allocated]] = FALSE`,
			dbx.Params{"server": server, "node": node, "address": p.HostIP, "port": p.HostPort, "protocol": string(p.Protocol)})
		if err != nil {
			return fmt.Errorf("claim port %s/%d of node %s: %w", p.Protocol, p.HostPort, node, err)
		}
		if n != 1 {
			return access.Unavailable("busy", "Many servers are being created right now. Please try again.").Because(fmt.Errorf("claim %s %d/%s: %d rows: %w", p.HostIP, p.HostPort, p.Protocol, n, ErrRaced))
		}
	}
	return nil
}

// exec runs one writing statement with {:now} bound and returns how many rows it changed.
func exec(tx core.App, statement string, params dbx.Params) (int64, error) {
	params["now"] = types.NowDateTime().String()
	res, err := tx.NonconcurrentDB().NewQuery(statement).Bind(params).Execute()
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// keep writes the allocation; row is the released one of an earlier placement, or nil.
func (a *Alloc) keep(tx core.App, row *collections.Allocation, n Need, node string, f found) (*collections.Allocation, error) {
	if row == nil {
		var err error
		if row, err = collections.NewAllocation(tx); err != nil {
			return nil, err
		}
	}
	row.SetTenant(n.Tenant)
	row.SetServer(n.Server)
	row.SetNode(node)
	row.SetIPAddress(f.address)
	row.SetPorts(f.ports)
	row.SetCPUMillicores(n.CPUMillicores)
	row.SetMemoryMiB(n.MemoryMiB)
	row.SetDiskMiB(n.DiskMiB)
	row.SetStatus(StatusActive)
	row.SetAllocatedAt(time.Now())
	row.SetReleasedAt(time.Time{})
	if err := permit.Save(tx, row); err != nil {
		return nil, fmt.Errorf("keep the allocation of server %s: %w", n.Server, err)
	}
	return row, nil
}
