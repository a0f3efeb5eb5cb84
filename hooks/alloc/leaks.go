package alloc

import (
	"fmt"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
)

// maxLeaks is how many of each kind one scan reports and frees; the rest comes with the next scan.
const maxLeaks = 1000

// LeakKind is a way in which the books disagree.
type LeakKind string

// Kinds of leaks. All but the last two are freed by a scan that is not dry.
const (
	LeakNoServer     LeakKind = "allocation_without_server" // an active allocation whose server has no row
	LeakDeleted      LeakKind = "server_deleted"            // an active allocation of a DELETED server
	LeakPortNobody   LeakKind = "port_held_by_nobody"       // marked as taken without a server, or the other way round
	LeakPortStray    LeakKind = "port_without_allocation"   // held for a server whose active allocation, if any, does not name it
	LeakIPStray      LeakKind = "address_without_server"    // an address given whole to nobody or to a server that is gone
	LeakNoAllocation LeakKind = "server_without_allocation" // a living server that holds nothing: needs a person
	LeakPortElse     LeakKind = "port_held_by_another"      // an allocation names a port that it does not hold: needs a person
)

// Leak is one disagreement.
type Leak struct {
	Kind    LeakKind `json:"kind" db:"kind"`
	Server  string   `json:"server" db:"server"`
	Node    string   `json:"node" db:"node"`
	Address string   `json:"address,omitempty" db:"address"`
	Port    int      `json:"port,omitempty" db:"port"`
	Proto   string   `json:"protocol,omitempty" db:"protocol"`
	Row     string   `json:"row" db:"row"` // id of the row at fault
	Freed   bool     `json:"freed" db:"-"`
}

// Report of a scan.
type Report struct {
	DryRun bool   `json:"dry_run"`
	Leaks  []Leak `json:"leaks"`
	Freed  int    `json:"freed"`
}

// finders return {kind, server, node, address, port, protocol, row}. An allocation and its server are
// made in one transaction, so there is no moment at which a healthy one looks like a leak.
var finders = []struct {
	kind LeakKind
	sql  string
}{
	{LeakNoServer, `SELECT [[a.server]] AS [[server]], [[a.node]] AS [[node]], [[a.ip_address]] AS [[address]], 0 AS [[port]], '' AS [[protocol]], [[a.id]] AS [[row]]
		FROM {{allocations}} [[a]] WHERE [[a.status]] = 'ACTIVE' AND NOT EXISTS (SELECT 1 FROM {{servers}} [[s]] WHERE [[s.id]] = [[a.server]])`},
	{LeakDeleted, `SELECT [[a.server]] AS [[server]], [[a.node]] AS [[node]], [[a.ip_address]] AS [[address]], 0 AS [[port]], '' AS [[protocol]], [[a.id]] AS [[row]]
		FROM {{allocations}} [[a]] JOIN {{servers}} [[s]] ON [[s.id]] = [[a.server]] AND [[s.status]] = 'DELETED' WHERE [[a.status]] = 'ACTIVE'`},
	{LeakPortNobody, `SELECT [[p.allocated_to_server]] AS [[server]], [[p.node]] AS [[node]], [[p.ip_address]] AS [[address]], [[p.port]] AS [[port]], [[p.protocol]] AS [[protocol]], [[p.id]] AS [[row]]
		FROM {{port_pools}} [[p]] WHERE ([[p.is_allocated]] = TRUE AND [[p.allocated_to_server]] = '') OR ([[p.is_allocated]] = FALSE AND [[p.allocated_to_server]] != '')`},
	{LeakPortStray, `SELECT [[p.allocated_to_server]] AS [[server]], [[p.node]] AS [[node]], [[p.ip_address]] AS [[address]], [[p.port]] AS [[port]], [[p.protocol]] AS [[protocol]], [[p.id]] AS [[row]]
		FROM {{port_pools}} [[p]] WHERE [[p.is_allocated]] = TRUE AND [[p.allocated_to_server]] != ''
		AND NOT EXISTS (SELECT 1 FROM {{allocations}} [[a]] WHERE [[a.server]] = [[p.allocated_to_server]] AND [[a.status]] = 'ACTIVE' AND [[a.node]] = [[p.node]])`},
	{LeakIPStray, `SELECT [[i.allocated_to_server]] AS [[server]], [[i.node]] AS [[node]], [[i.ip_address]] AS [[address]], 0 AS [[port]], '' AS [[protocol]], [[i.id]] AS [[row]]
		FROM {{ip_pools}} [[i]] WHERE ([[i.is_allocated]] = TRUE OR [[i.allocated_to_server]] != '')
		AND NOT EXISTS (SELECT 1 FROM {{servers}} [[s]] WHERE [[s.id]] = [[i.allocated_to_server]] AND [[s.status]] != 'DELETED' AND [[i.is_allocated]] = TRUE)`},
	{LeakNoAllocation, `SELECT [[s.id]] AS [[server]], [[s.node]] AS [[node]], '' AS [[address]], 0 AS [[port]], '' AS [[protocol]], [[s.id]] AS [[row]]
		FROM {{servers}} [[s]] WHERE [[s.status]] NOT IN ('DELETED', 'DELETING', 'INSTALL_FAILED')
		AND NOT EXISTS (SELECT 1 FROM {{allocations}} [[a]] WHERE [[a.server]] = [[s.id]] AND [[a.status]] = 'ACTIVE')`},
}

// ScanLeaks looks for rows that disagree about who holds what, frees what is nobody's unless it is a
// dry run, and says what it found. It runs from cron and from the operator's screen; running it twice
// at once does no harm. What it frees is audited in the same transaction.
func (a *Alloc) ScanLeaks(app core.App, dryRun bool) (Report, error) {
	return a.scan(app, audit.System, dryRun)
}

func (a *Alloc) scan(app core.App, by audit.Actor, dryRun bool) (Report, error) {
	var report Report
	err := collections.Tx(app, []collections.Lock{Lock, audit.Lock("")}, func(tx core.App) error {
		report = Report{DryRun: dryRun, Leaks: []Leak{}}
		for _, f := range finders {
			var found []Leak
			if err := tx.NonconcurrentDB().NewQuery(f.sql + " LIMIT {:limit}").Bind(dbx.Params{"limit": maxLeaks}).All(&found); err != nil {
				return fmt.Errorf("look for %s: %w", f.kind, err)
			}
			for i := range found {
				found[i].Kind = f.kind
			}
			if err := a.settle(tx, &report, found); err != nil {
				return err
			}
		}
		found, err := disagreements(tx)
		if err != nil {
			return err
		}
		if err := a.settle(tx, &report, found); err != nil {
			return err
		}
		if report.Freed == 0 {
			return nil
		}
		kinds := map[string]any{}
		for _, l := range report.Leaks {
			n, _ := kinds[string(l.Kind)].(int)
			kinds[string(l.Kind)] = n + 1
		}
		return a.auditor.Write(tx, by, audit.Entry{Action: "allocation.scan", ResourceType: collections.Allocations, Metadata: kinds})
	})
	return report, err
}

// settle puts leaks into the report and frees them unless it is a dry run.
func (a *Alloc) settle(tx core.App, report *Report, found []Leak) error {
	for _, l := range found {
		if !report.DryRun {
			freed, err := a.free(tx, l)
			if err != nil {
				return fmt.Errorf("free %s of server %s: %w", l.Kind, l.Server, err)
			}
			if l.Freed = freed; freed {
				report.Freed++
			}
		}
		report.Leaks = append(report.Leaks, l)
	}
	return nil
}

func (a *Alloc) free(tx core.App, l Leak) (bool, error) {
	table := collections.PortPools
	switch l.Kind {
	case LeakNoServer, LeakDeleted:
		return true, a.Release(tx, l.Server)
	case LeakIPStray:
		table = collections.IPPools
	case LeakPortNobody, LeakPortStray:
	default:
		return false, nil
	}
	n, err := exec(tx, "UPDATE {{"+table+"}} SET [[is_allocated]] = FALSE, [[allocated_to_server]] = '', [[updated]] = {:now} WHERE [[id]] = {:id}", dbx.Params{"id": l.Row})
	return n == 1, err
}

// place is one port of one address of one node.
type place struct {
	node, address string
	port          int
	protocol      string
}

// disagreements compares the ports that active allocations name with those that the pools hold for
// their servers. Ports are a JSON list, which the two databases read differently, so it is done here.
func disagreements(tx core.App) ([]Leak, error) {
	var held []struct {
		ID       string `db:"id"`
		Server   string `db:"allocated_to_server"`
		Node     string `db:"node"`
		Address  string `db:"ip_address"`
		Port     int    `db:"port"`
		Protocol string `db:"protocol"`
	}
	err := tx.NonconcurrentDB().Select("id", "allocated_to_server", "node", "ip_address", "port", "protocol").From(collections.PortPools).
		Where(dbx.NewExp("[[allocated_to_server]] != ''")).OrderBy("node", "ip_address", "port", "protocol").All(&held)
	if err != nil {
		return nil, fmt.Errorf("read the ports in use: %w", err)
	}
	owner := make(map[place]string, len(held))
	for _, h := range held {
		owner[place{h.Node, h.Address, h.Port, h.Protocol}] = h.Server
	}
	rows, err := collections.Every[collections.Allocation](tx, collections.Allocations, "server", 0, dbx.HashExp{"status": StatusActive})
	if err != nil {
		return nil, fmt.Errorf("read the allocations: %w", err)
	}
	var out []Leak
	named, nodeOf := map[place]string{}, map[string]string{}
	for _, row := range rows {
		ports, err := PortsOf(row)
		if err != nil {
			return nil, err
		}
		nodeOf[row.Server()] = row.Node()
		for _, p := range ports {
			at := place{row.Node(), p.HostIP, p.HostPort, string(p.Protocol)}
			if named[at] = row.Server(); owner[at] != row.Server() && len(out) < maxLeaks {
				out = append(out, Leak{Kind: LeakPortElse, Server: row.Server(), Node: at.node, Address: at.address, Port: at.port, Proto: at.protocol, Row: row.Id})
			}
		}
	}
	for _, h := range held {
		at := place{h.Node, h.Address, h.Port, h.Protocol}
		if nodeOf[h.Server] == h.Node && named[at] != h.Server && len(out) < 2*maxLeaks {
			out = append(out, Leak{Kind: LeakPortStray, Server: h.Server, Node: at.node, Address: at.address, Port: at.port, Proto: at.protocol, Row: h.ID})
		}
	}
	return out, nil
}
