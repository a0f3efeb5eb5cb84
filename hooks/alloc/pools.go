package alloc

import (
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/wings/wire"
)

// MaxExpansion is how many rows one entry of addresses × ports × protocols may stand for.
const MaxExpansion = 65_536

// MinHostPort is the lowest port that a pool takes; those below belong to the node's own services.
const MinHostPort = 1024

const insertBatch = 500 // rows per INSERT; 5 values each, under every database's limit of parameters

// portRange is inclusive at both ends.
type portRange struct{ from, to int }

// expansion is what an entry stands for.
type expansion struct {
	addresses []netip.Addr
	ranges    []portRange // ascending, not touching
	protocols []wire.Protocol
}

// expand reads an entry: one address or a CIDR prefix (all of its addresses, the first and last too),
// ports as "25565-25600,27015", and protocols (none: both). 400 naming the field at fault.
func expand(addresses, ports string, protocols []wire.Protocol) (expansion, error) {
	var x expansion
	faults := map[string]access.FieldError{}
	prefix, fault := parseAddresses(strings.TrimSpace(addresses))
	if fault != "" {
		faults["addresses"] = access.FieldError{Code: "invalid", Message: fault}
	}
	if x.ranges, fault = parsePorts(ports); fault != "" {
		faults["ports"] = access.FieldError{Code: "invalid", Message: fault}
	}
	for _, p := range protocols {
		if p != wire.TCP && p != wire.UDP {
			faults["protocols"] = access.FieldError{Code: "invalid", Message: "Please use tcp, udp, or both of them."}
		} else if !slices.Contains(x.protocols, p) {
			x.protocols = append(x.protocols, p)
		}
	}
	if len(protocols) == 0 {
		x.protocols = []wire.Protocol{wire.TCP, wire.UDP}
	}
	if len(faults) > 0 {
		return x, access.Invalid(faults)
	}
	perAddress := int64(0)
	for _, r := range x.ranges {
		perAddress += int64(r.to-r.from+1) * int64(len(x.protocols))
	}
	bits := prefix.Addr().BitLen() - prefix.Bits()
	if bits > 16 || perAddress<<bits > MaxExpansion {
		return x, access.InvalidField("addresses", "too_many", fmt.Sprintf("This stands for more than %d ports. Please enter it in parts.", MaxExpansion))
	}
	for ip := prefix.Masked().Addr(); ip.IsValid() && prefix.Contains(ip); ip = ip.Next() {
		x.addresses = append(x.addresses, ip)
	}
	return x, nil
}

func parseAddresses(s string) (prefix netip.Prefix, fault string) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, "Please enter an address like 203.0.113.7 or a range like 203.0.113.0/29."
		}
		if p != p.Masked() {
			return p, fmt.Sprintf("This range begins in its middle. Did you mean %s?", p.Masked())
		}
		prefix = p
	} else {
		ip, err := netip.ParseAddr(s)
		if err != nil || ip.Zone() != "" {
			return prefix, "Please enter an address like 203.0.113.7 or a range like 203.0.113.0/29."
		}
		ip = ip.Unmap()
		prefix = netip.PrefixFrom(ip, ip.BitLen())
	}
	if ip := prefix.Addr(); ip.IsUnspecified() || ip.IsMulticast() || ip.Is4In6() || ip.IsLinkLocalUnicast() {
		return prefix, "Players could not connect to an address of this kind. Please enter an address of the node."
	}
	return prefix, ""
}

func parsePorts(s string) (ranges []portRange, fault string) {
	const maxRanges = 1000
	if strings.TrimSpace(s) == "" {
		return nil, "Please enter ports like 25565-25600,27015."
	}
	parts := strings.Split(s, ",")
	if len(parts) > maxRanges {
		return nil, fmt.Sprintf("Please enter at most %d ranges at once.", maxRanges)
	}
	for _, part := range parts {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			high = low
		}
		from, err1 := parsePort(low)
		to, err2 := parsePort(high)
		if err1 != nil || err2 != nil || from > to {
			return nil, fmt.Sprintf("%q is not a port or a range. Ports go from %d to 65535.", part, MinHostPort)
		}
		ranges = append(ranges, portRange{from, to})
	}
	slices.SortFunc(ranges, func(a, b portRange) int { return a.from - b.from })
	merged := ranges[:1]
	for _, r := range ranges[1:] {
		if last := &merged[len(merged)-1]; r.from <= last.to+1 {
			last.to = max(last.to, r.to)
		} else {
			merged = append(merged, r)
		}
	}
	return merged, ""
}

func parsePort(s string) (int, error) {
	s = strings.TrimSpace(s)
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s || n < MinHostPort || n > 65535 {
		return 0, fmt.Errorf("alloc: %q is not a port", s)
	}
	return n, nil
}

// AddPorts puts addresses and ports into a node's pools and returns how many ports are new; what is
// there already is left alone. 400 when the entry cannot be read or stands for more than
// MaxExpansion ports, 404 when there is no such node. The caller's locks include Lock.
func (a *Alloc) AddPorts(tx core.App, node, addresses, ports string, protocols []wire.Protocol) (int64, error) {
	if err := ask(tx); err != nil {
		return 0, err
	}
	x, err := expand(addresses, ports, protocols)
	if err != nil {
		return 0, err
	}
	if err := mustExist(tx, node); err != nil {
		return 0, err
	}
	var ips, rows [][]any
	for _, ip := range x.addresses {
		ips = append(ips, []any{node, ip.String()})
		for _, r := range x.ranges {
			for port := r.from; port <= r.to; port++ {
				for _, p := range x.protocols {
					rows = append(rows, []any{node, ip.String(), port, string(p)})
				}
			}
		}
	}
	if _, err := insertNew(tx, collections.IPPools, []string{"node", "ip_address"}, ips); err != nil {
		return 0, err
	}
	return insertNew(tx, collections.PortPools, []string{"node", "ip_address", "port", "protocol"}, rows)
}

func mustExist(app core.App, node string) error {
	_, err := collections.FindNode(app, node)
	if errors.Is(err, sql.ErrNoRows) {
		return access.NotFound("node_not_found", "There is no such node.")
	}
	if err != nil {
		return fmt.Errorf("find node %s: %w", node, err)
	}
	return nil
}

// insertNew inserts rows in batches, leaving out those that are there, and returns how many were new.
func insertNew(tx core.App, table string, columns []string, rows [][]any) (int64, error) {
	total := int64(0)
	for batch := range slices.Chunk(rows, insertBatch) {
		params := dbx.Params{}
		values := make([]string, 0, len(batch))
		for i, row := range batch {
			id := fmt.Sprintf("i%d", i)
			params[id] = core.GenerateDefaultRandomId()
			names := []string{"{:" + id + "}"}
			for j, v := range row {
				name := fmt.Sprintf("v%d_%d", i, j)
				params[name] = v
				names = append(names, "{:"+name+"}")
			}
			values = append(values, "("+strings.Join(names, ", ")+", {:now}, {:now})")
		}
		n, err := exec(tx, "INSERT INTO {{"+table+"}} ([[id]], [["+strings.Join(columns, "]], [[")+"]], [[created]], [[updated]]) VALUES "+
			strings.Join(values, ", ")+" ON CONFLICT ([["+strings.Join(columns, "]], [[")+"]]) DO NOTHING", params)
		if err != nil {
			return total, fmt.Errorf("fill %s: %w", table, err)
		}
		total += n
	}
	return total, nil
}

// RemovePorts takes ports out of a node's pools and returns how many went; an address without ports
// goes with them. 409 ports_in_use, and nothing is removed, when a server holds one of them. The
// caller's locks include Lock.
func (a *Alloc) RemovePorts(tx core.App, node, addresses, ports string, protocols []wire.Protocol) (int64, error) {
	if err := ask(tx); err != nil {
		return 0, err
	}
	x, err := expand(addresses, ports, protocols)
	if err != nil {
		return 0, err
	}
	if err := mustExist(tx, node); err != nil {
		return 0, err
	}
	names := make([]any, len(x.protocols))
	for i, p := range x.protocols {
		names[i] = string(p)
	}
	total, inUse := int64(0), int64(0)
	for _, ip := range x.addresses {
		for _, r := range x.ranges {
			where := dbx.And(dbx.HashExp{"node": node, "ip_address": ip.String(), "protocol": names}, dbx.Between("port", r.from, r.to))
			held := int64(0)
			err := tx.NonconcurrentDB().Select("COUNT(*)").From(collections.PortPools).Where(where).AndWhere(dbx.NewExp("[[is_allocated]] = TRUE")).Row(&held)
			if err != nil {
				return 0, fmt.Errorf("count the ports in use on %s: %w", ip, err)
			}
			inUse += held
			res, err := tx.NonconcurrentDB().Delete(collections.PortPools, dbx.And(where, dbx.NewExp("[[is_allocated]] = FALSE"))).Execute()
			if err != nil {
				return 0, fmt.Errorf("remove ports of %s: %w", ip, err)
			}
			n, err := res.RowsAffected()
			if err != nil {
				return 0, fmt.Errorf("remove ports of %s: %w", ip, err)
			}
			total += n
		}
	}
	if inUse > 0 { // the caller's transaction rolls back what was removed
		return 0, access.Conflict("ports_in_use", fmt.Sprintf("Servers use %d of these ports. Move or delete those servers first, or leave their ports out.", inUse))
	}
	_, err = exec(tx, `DELETE FROM {{ip_pools}} WHERE [[node]] = {:node} AND [[is_allocated]] = FALSE
		AND NOT EXISTS (SELECT 1 FROM {{port_pools}} [[p]] WHERE [[p.node]] = [[ip_pools.node]] AND [[p.ip_address]] = [[ip_pools.ip_address]])`, dbx.Params{"node": node})
	if err != nil {
		return 0, fmt.Errorf("remove addresses without ports from node %s: %w", node, err)
	}
	return total, nil
}

// Pool is one address and protocol of a node.
type Pool struct {
	Address  string        `json:"address"`
	Protocol wire.Protocol `json:"protocol"`
	Ports    string        `json:"ports"` // "25565-25600,27015"
	Total    int           `json:"total"`
	Used     []UsedPort    `json:"used"`
	Whole    string        `json:"whole_to"` // server that has the address to itself; ""
}

// UsedPort is a port that a server holds.
type UsedPort struct {
	Port   int    `json:"port"`
	Server string `json:"server"`
}

// Pools returns what a node has to give, by address and protocol.
func (a *Alloc) Pools(app core.App, node string) ([]Pool, error) {
	if err := mustExist(app, node); err != nil {
		return nil, err
	}
	ips, err := collections.Every[collections.IPPool](app, collections.IPPools, "", 0, dbx.HashExp{"node": node})
	if err != nil {
		return nil, fmt.Errorf("read the addresses of node %s: %w", node, err)
	}
	whole := map[string]string{}
	for _, ip := range ips {
		whole[ip.IPAddress()] = ip.AllocatedToServer()
	}
	var rows []struct {
		Address  string `db:"ip_address"`
		Protocol string `db:"protocol"`
		Port     int    `db:"port"`
		Server   string `db:"allocated_to_server"`
		Held     bool   `db:"is_allocated"`
	}
	err = app.ConcurrentDB().Select("ip_address", "protocol", "port", "allocated_to_server", "is_allocated").From(collections.PortPools).
		Where(dbx.HashExp{"node": node}).OrderBy("ip_address", "protocol", "port").All(&rows)
	if err != nil {
		return nil, fmt.Errorf("read the ports of node %s: %w", node, err)
	}
	out := []Pool{}
	var run []int
	flush := func() {
		if len(run) > 0 {
			p := &out[len(out)-1]
			p.Ports, p.Total = rangesText(run), len(run)
		}
		run = nil
	}
	for _, r := range rows {
		if len(out) == 0 || out[len(out)-1].Address != r.Address || out[len(out)-1].Protocol != wire.Protocol(r.Protocol) {
			flush()
			out = append(out, Pool{Address: r.Address, Protocol: wire.Protocol(r.Protocol), Used: []UsedPort{}, Whole: whole[r.Address]})
		}
		run = append(run, r.Port)
		if r.Held {
			out[len(out)-1].Used = append(out[len(out)-1].Used, UsedPort{r.Port, r.Server})
		}
	}
	flush()
	slices.SortStableFunc(out, func(a, b Pool) int {
		x, _ := netip.ParseAddr(a.Address) // an address that cannot be read sorts first, where it is seen
		y, _ := netip.ParseAddr(b.Address)
		return x.Compare(y)
	})
	return out, nil
}

// rangesText writes ascending ports as an operator enters them.
func rangesText(ports []int) string {
	var parts []string
	for i := 0; i < len(ports); {
		j := i
		for j+1 < len(ports) && ports[j+1] == ports[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, strconv.Itoa(ports[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", ports[i], ports[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}
