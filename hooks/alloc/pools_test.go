package alloc_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/wings/wire"
)

func TestEntriesOfAddressesAndPorts(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for i, c := range []struct {
		name, addresses, ports string
		protocols              []wire.Protocol
		added                  int64  // new rows
		pools                  string // "address/protocol ports" of the node afterwards
		field                  string // blamed
	}{
		{"one address, one port, both protocols", "203.0.113.7", "25565", nil, 2, "203.0.113.7/tcp 25565, 203.0.113.7/udp 25565", ""},
		{"ranges and single ports in any order", "203.0.113.7", " 27015 , 25565-25567,25566-25569 ", []wire.Protocol{"tcp"}, 6, "203.0.113.7/tcp 25565-25569,27015", ""},
		{"a range of addresses, the first and last too", "203.0.113.8/30", "2000", []wire.Protocol{"udp"}, 4, "203.0.113.8/udp 2000, 203.0.113.9/udp 2000, 203.0.113.10/udp 2000, 203.0.113.11/udp 2000", ""},
		{"version 6, written short", "2001:0DB8:0::7", "2000", []wire.Protocol{"udp", "udp"}, 1, "2001:db8::7/udp 2000", ""},
		{"a range of version 6", "2001:db8::/127", "2000", []wire.Protocol{"tcp"}, 2, "2001:db8::/tcp 2000, 2001:db8::1/tcp 2000", ""},
		{"version 4 within version 6", "::ffff:203.0.113.7", "2000", []wire.Protocol{"tcp"}, 1, "203.0.113.7/tcp 2000", ""},
		{"this machine", "127.0.0.1", "2000", []wire.Protocol{"tcp"}, 1, "127.0.0.1/tcp 2000", ""},
		{"as many as one entry may be", "203.0.113.7", "1024-33791", nil, 65536, "203.0.113.7/tcp 1024-33791, 203.0.113.7/udp 1024-33791", ""},
		{"two more than that", "203.0.113.7", "1024-33792", nil, 0, "", "addresses"},
		{"too many addresses", "10.0.0.0/8", "2000", nil, 0, "", "addresses"},
		{"a network of version 6", "2001:db8::/64", "2000", nil, 0, "", "addresses"},
		{"the whole of version 6", "2001::/3", "2000", nil, 0, "", "addresses"},
		{"a range that begins in its middle", "203.0.113.9/30", "2000", nil, 0, "", "addresses"},
		{"no address", "", "2000", nil, 0, "", "addresses"},
		{"a name", "example.test", "2000", nil, 0, "", "addresses"},
		{"every address", "0.0.0.0", "2000", nil, 0, "", "addresses"},
		{"every address of version 6", "::", "2000", nil, 0, "", "addresses"},
		{"many receivers", "224.0.0.1", "2000", nil, 0, "", "addresses"},
		{"an address with a zone", "fe80::1%eth0", "2000", nil, 0, "", "addresses"},
		{"an address with an octal part", "203.0.113.010", "2000", nil, 0, "", "addresses"},
		{"no ports", "203.0.113.7", "", nil, 0, "", "ports"},
		{"a comma too many", "203.0.113.7", "2000,", nil, 0, "", "ports"},
		{"a port of the system", "203.0.113.7", "1023", nil, 0, "", "ports"},
		{"a port beyond the last", "203.0.113.7", "65536", nil, 0, "", "ports"},
		{"a range backwards", "203.0.113.7", "2001-2000", nil, 0, "", "ports"},
		{"a range of three", "203.0.113.7", "2000-2001-2002", nil, 0, "", "ports"},
		{"a negative port", "203.0.113.7", "-2000", nil, 0, "", "ports"},
		{"a port with a sign", "203.0.113.7", "+2000", nil, 0, "", "ports"},
		{"a hexadecimal port", "203.0.113.7", "0x800", nil, 0, "", "ports"},
		{"very many ranges", "203.0.113.7", strings.Repeat("2000,", 2000) + "2000", nil, 0, "", "ports"},
		{"another protocol", "203.0.113.7", "2000", []wire.Protocol{"sctp"}, 0, "", "protocols"},
	} {
		node := h.node(t, fmt.Sprintf("n%d", i), nil)
		var added int64
		err := h.tx(func(tx core.App) (err error) {
			added, err = h.alloc.AddPorts(tx, node, c.addresses, c.ports, c.protocols)
			return err
		})
		if c.field != "" {
			var e *access.Error
			if !asError(err, &e) || e.Code != "invalid_input" || e.Data[c.field].Message == "" || len(e.Data) != 1 {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || added != c.added {
			t.Errorf("%s: %d added, want %d, %v", c.name, added, c.added, err)
		}
		pools, err := h.alloc.Pools(h, node)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range pools {
			got = append(got, fmt.Sprintf("%s/%s %s", p.Address, p.Protocol, p.Ports))
		}
		if s := strings.Join(got, ", "); s != c.pools {
			t.Errorf("%s: %s, want %s", c.name, s, c.pools)
		}
		if added > 1000 {
			continue // once is slow enough
		}
		if again := h.add(t, node, c.addresses, c.ports, c.protocols...); again != 0 {
			t.Errorf("%s: %d more when entered again", c.name, again)
		}
	}
}

func TestPortsInUseAreNotRemoved(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	node, other := h.node(t, "n1", nil), h.node(t, "n2", nil)
	h.add(t, node, "10.0.0.0/31", "2000-2009")
	h.add(t, other, "10.0.0.0", "2000-2009")
	n := game("server000000001")
	n.Node = node
	h.mustReserve(t, n)
	remove := func(addresses, ports string, protocols ...wire.Protocol) (removed int64, err error) {
		err = h.tx(func(tx core.App) error {
			removed, err = h.alloc.RemovePorts(tx, node, addresses, ports, protocols)
			return err
		})
		return removed, err
	}
	if _, err := remove("10.0.0.0/31", "2000-2009"); codeOf(t, err) != "ports_in_use" || !strings.Contains(err.Error(), "Servers use 1 of these ports") {
		t.Errorf("a port in use: %v", err)
	}
	if n, err := h.CountRecords("port_pools", dbx.HashExp{"node": node}); err != nil || n != 40 {
		t.Errorf("%d ports are left, %v", n, err)
	}
	if n, err := remove("10.0.0.1", "2000-2009"); err != nil || n != 20 {
		t.Errorf("%d removed, %v", n, err)
	}
	if n, err := remove("10.0.0.0", "2001-2009", wire.TCP); err != nil || n != 9 {
		t.Errorf("%d removed, %v", n, err)
	}
	if n, err := remove("10.0.0.0", "2001-2009", wire.TCP); err != nil || n != 0 {
		t.Errorf("%d removed again, %v", n, err)
	}
	addresses, err := h.CountRecords("ip_pools")
	if err != nil || addresses != 2 {
		t.Errorf("%d addresses, %v: the one without ports goes, the other node's stays", addresses, err)
	}
	pools, err := h.alloc.Pools(h, node)
	if err != nil || len(pools) != 2 || pools[0].Ports != "2000" || len(pools[0].Used) != 1 || pools[0].Used[0].Server != "server000000001" || pools[1].Total != 10 {
		t.Errorf("%+v %v", pools, err)
	}
	for _, fn := range []func(tx core.App, node, addresses, ports string, protocols []wire.Protocol) (int64, error){h.alloc.AddPorts, h.alloc.RemovePorts} {
		if err := h.tx(func(tx core.App) error { _, err := fn(tx, "nosuchnode00000", "10.0.0.1", "2000", nil); return err }); codeOf(t, err) != "node_not_found" {
			t.Errorf("a node that is not there: %v", err)
		}
	}
	if _, err := h.alloc.Pools(h, "nosuchnode00000"); codeOf(t, err) != "node_not_found" {
		t.Errorf("a node that is not there: %v", err)
	}
}

// broken makes one leak of each kind beside a healthy server.
func broken(t *testing.T, h *house) {
	t.Helper()
	node := h.node(t, "n1", nil)
	h.add(t, node, "10.0.0.0/30", "2000-2019", wire.TCP)
	for _, s := range []string{"healthy00000000", "norow0000000000", "deleted00000000", "lostport0000000"} {
		if s != "norow0000000000" {
			status := "RUNNING"
			if s == "deleted00000000" {
				status = "DELETED"
			}
			h.server(t, s, node, status)
		}
		h.mustReserve(t, game(s))
	}
	h.server(t, "homeless0000000", node, "STOPPED")
	h.server(t, "failed000000000", node, "INSTALL_FAILED")
	for _, q := range []string{
		"UPDATE port_pools SET is_allocated = TRUE WHERE ip_address = '10.0.0.0' AND port = 2010",
		"UPDATE port_pools SET allocated_to_server = 'half00000000000' WHERE ip_address = '10.0.0.0' AND port = 2011",
		"UPDATE port_pools SET is_allocated = TRUE, allocated_to_server = 'gone00000000000' WHERE ip_address = '10.0.0.0' AND port = 2012",
		"UPDATE port_pools SET is_allocated = TRUE, allocated_to_server = 'healthy00000000' WHERE ip_address = '10.0.0.0' AND port = 2013",
		"UPDATE port_pools SET allocated_to_server = 'healthy00000000' WHERE ip_address = '10.0.0.0' AND port = 2003 AND allocated_to_server = 'lostport0000000'",
		"UPDATE ip_pools SET is_allocated = TRUE, allocated_to_server = 'gone00000000000' WHERE ip_address = '10.0.0.2'",
		"UPDATE ip_pools SET is_allocated = TRUE, allocated_to_server = 'healthy00000000' WHERE ip_address = '10.0.0.3'",
	} {
		res, err := h.NonconcurrentDB().NewQuery(q).Execute()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			t.Fatalf("%s: %d rows %v", q, n, err)
		}
	}
}

func TestScanningFindsEveryKindOfLeakAndFreesWhatIsNobodys(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	broken(t, h)
	want := "allocation_without_server norow0000000000, server_deleted deleted00000000, port_held_by_nobody , port_held_by_nobody half00000000000, " +
		"port_without_allocation gone00000000000, address_without_server gone00000000000, server_without_allocation homeless0000000, " +
		"port_held_by_another lostport0000000, port_without_allocation healthy00000000, port_without_allocation healthy00000000"
	held := h.held(t, "port_pools")
	for range 2 {
		report, err := h.alloc.ScanLeaks(h, true)
		if err != nil || !report.DryRun || report.Freed != 0 || said(report) != want {
			t.Errorf("dry: %+v %v\n got %s\nwant %s", report, err, said(report), want)
		}
	}
	if h.held(t, "port_pools") != held {
		t.Error("a dry run freed something")
	}
	if n, err := h.CountRecords("audit_logs"); err != nil || n != 0 {
		t.Errorf("a dry run is in the audit log: %d %v", n, err)
	}
	report, err := h.alloc.ScanLeaks(h, false)
	if err != nil || report.Freed != 8 || said(report) != want {
		t.Errorf("%+v %v", report, err)
	}
	left, err := h.alloc.ScanLeaks(h, false)
	if err != nil || said(left) != "server_without_allocation homeless0000000, port_held_by_another lostport0000000" || left.Freed != 0 {
		t.Errorf("after it: %s %v", said(left), err)
	}
	if h.held(t, "port_pools") != 1 || h.held(t, "ip_pools") != 1 {
		t.Errorf("%d ports and %d addresses are held, which are the healthy server's", h.held(t, "port_pools"), h.held(t, "ip_pools"))
	}
	if row, err := alloc.Of(h, "healthy00000000"); err != nil || row.IPAddress() != "10.0.0.0" {
		t.Errorf("the healthy server: %v", err)
	}
	rows, err := h.FindAllRecords("audit_logs")
	if err != nil || len(rows) != 1 || rows[0].GetString("action") != "allocation.scan" || rows[0].GetString("actor_type") != "system" || !strings.Contains(rows[0].GetString("metadata"), `"port_without_allocation":3`) {
		t.Errorf("audit: %v %v", rows, err)
	}
}

func said(r alloc.Report) string {
	var out []string
	for _, l := range r.Leaks {
		out = append(out, string(l.Kind)+" "+l.Server)
	}
	return strings.Join(out, ", ")
}

// An address that was given to a server before it had its place is no allocation yet, and must still
// come back when the node is forced out.
func TestForcingANodeOutGivesBackItsAddressesAndNoOthers(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	node, other := h.node(t, "n1", nil), h.node(t, "n2", nil)
	for i, n := range []string{node, other} {
		h.add(t, n, fmt.Sprintf("10.0.%d.0/31", i), "2000-2001", wire.TCP)
		if err := h.tx(func(tx core.App) error {
			_, err := h.alloc.ReserveIP(tx, n, fmt.Sprintf("whole%010d", i))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		placed := game(fmt.Sprintf("server%09d", i))
		placed.Node = n
		h.mustReserve(t, placed)
	}
	var released int
	if err := h.tx(func(tx core.App) (err error) {
		released, err = h.alloc.ReleaseByNode(tx, node)
		return err
	}); err != nil || released != 1 {
		t.Errorf("%d servers had their place there, %v", released, err)
	}
	if h.held(t, "ip_pools") != 1 || h.held(t, "port_pools") != 1 {
		t.Errorf("%d addresses and %d ports are held; the other node's should be", h.held(t, "ip_pools"), h.held(t, "port_pools"))
	}
	if _, err := alloc.Of(h, "server000000001"); err != nil {
		t.Errorf("the other node's server lost its place: %v", err)
	}
	rec := h.call("GET", "/api/v1/admin/allocations?status=RELEASED", h.account(t, "_superusers", "root"), "")
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), `"server":"server000000000"`) || strings.Contains(rec.Body.String(), `"released_at":null`) || !strings.Contains(rec.Body.String(), `"total":1`) {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

// A transaction that fails later gives back what it reserved: nothing is kept outside of it.
func TestARolledBackReservationHoldsNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.add(t, h.node(t, "n1", nil), "10.0.0.1", "2000", wire.TCP)
	err := h.tx(func(tx core.App) error {
		if _, _, err := h.alloc.Reserve(tx, game("server000000001")); err != nil {
			return err
		}
		return errRollback
	})
	if !errors.Is(err, errRollback) || h.held(t, "port_pools") != 0 {
		t.Errorf("%v, %d held", err, h.held(t, "port_pools"))
	}
	if got := text(h.mustReserve(t, game("server000000002"))); got != "game=10.0.0.1:2000/tcp→25565" {
		t.Errorf("the next server: %s", got)
	}
}
