package alloc

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/wings/wire"
)

// Of returns the active allocation of a server; sql.ErrNoRows when it has none.
func Of(app core.App, server string) (*collections.Allocation, error) {
	return collections.One[collections.Allocation](app, collections.Allocations, dbx.HashExp{"server": server, "status": StatusActive})
}

// On returns the active allocations of a node by server.
func On(app core.App, node string) (map[string]*collections.Allocation, error) {
	rows, err := collections.Every[collections.Allocation](app, collections.Allocations, "", 0, dbx.HashExp{"node": node, "status": StatusActive})
	if err != nil {
		return nil, fmt.Errorf("list the allocations of node %s: %w", node, err)
	}
	out := make(map[string]*collections.Allocation, len(rows))
	for _, row := range rows {
		out[row.Server()] = row
	}
	return out, nil
}

// Release gives back all that a server holds, in the caller's transaction, which gets Lock if it has not named it.
// It may be called again, and for a server that never had anything. Call it only once the server is
// observed absent, or its node is forced out: until then its ports are in use.
func (a *Alloc) Release(tx core.App, server string) error {
	if err := ask(tx); err != nil {
		return err
	}
	if server == "" {
		return errors.New("alloc: release needs a server")
	}
	for _, table := range []string{collections.PortPools, collections.IPPools} {
		if _, err := exec(tx, "UPDATE {{"+table+"}} SET [[is_allocated]] = FALSE, [[allocated_to_server]] = '', [[updated]] = {:now} WHERE [[allocated_to_server]] = {:server}", dbx.Params{"server": server}); err != nil {
			return fmt.Errorf("release the %s of server %s: %w", table, server, err)
		}
	}
	row, err := Of(tx, server)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the allocation of server %s: %w", server, err)
	}
	row.SetStatus(StatusReleased)
	row.SetReleasedAt(time.Now())
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("release the allocation of server %s: %w", server, err)
	}
	return nil
}

// ReleaseByNode gives back what every server holds on a node that is forced out, and returns how many
// servers had their place there.
func (a *Alloc) ReleaseByNode(tx core.App, node string) (int, error) {
	if err := ask(tx); err != nil {
		return 0, err
	}
	rows, err := collections.Every[collections.Allocation](tx, collections.Allocations, "", 0, dbx.HashExp{"node": node, "status": StatusActive})
	if err != nil {
		return 0, fmt.Errorf("list the allocations of node %s: %w", node, err)
	}
	for _, row := range rows {
		if err := a.Release(tx, row.Server()); err != nil {
			return 0, err
		}
	}
	// Addresses that were given whole to a server before it had its place.
	if _, err := exec(tx, "UPDATE {{ip_pools}} SET [[is_allocated]] = FALSE, [[allocated_to_server]] = '', [[updated]] = {:now} WHERE [[node]] = {:node} AND [[is_allocated]] = TRUE", dbx.Params{"node": node}); err != nil {
		return 0, fmt.Errorf("release the addresses of node %s: %w", node, err)
	}
	return len(rows), nil
}

// Resize changes how much of its node a server has reserved. What grows must fit: 409 node_full
// wrapping ErrNoFit. Shrinking always succeeds, also on a node that is over its capacity.
func (a *Alloc) Resize(tx core.App, server string, to Amount) error {
	if err := ask(tx); err != nil {
		return err
	}
	row, err := Of(tx, server)
	if err != nil {
		return fmt.Errorf("find the allocation of server %s: %w", server, err)
	}
	if to.CPUMillicores < 0 || to.MemoryMiB < 0 || to.DiskMiB < 0 {
		return fmt.Errorf("alloc: server %s cannot have %+v", server, to)
	}
	node, err := collections.FindNode(tx, row.Node())
	if err != nil {
		return fmt.Errorf("find node %s: %w", row.Node(), err)
	}
	reserved, err := reservedByNode(tx)
	if err != nil {
		return err
	}
	more := to.minus(Amount{row.CPUMillicores(), row.MemoryMiB(), row.DiskMiB()})
	if r, no := refuseAmount(totalOf(node).minus(reserved[node.Id]), more); no {
		return access.Conflict("node_full", "The server cannot grow where it is: "+node.Name()+" "+r.Message+" more.").Because(ErrNoFit)
	}
	row.SetCPUMillicores(to.CPUMillicores)
	row.SetMemoryMiB(to.MemoryMiB)
	row.SetDiskMiB(to.DiskMiB)
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("resize the allocation of server %s: %w", server, err)
	}
	return nil
}

// ReservePort gives a server that has its place further ports on the same address: one, or two for
// Both. 409 wrapping ErrExhausted when there is none. OffsetOf is not looked at.
func (a *Alloc) ReservePort(tx core.App, server string, p PortNeed) ([]wire.Port, error) {
	if err := ask(tx); err != nil {
		return nil, err
	}
	row, err := Of(tx, server)
	if err != nil {
		return nil, fmt.Errorf("find the allocation of server %s: %w", server, err)
	}
	var held []wire.Port
	if err := row.Ports(&held); err != nil {
		return nil, fmt.Errorf("read the ports of server %s: %w", server, err)
	}
	p.OffsetOf, p.Offset = "", 0
	for _, h := range held {
		if h.Name == p.Name {
			return nil, access.Conflict("port_name_taken", "The server has a port of this name already.").Because(ErrHeld)
		}
	}
	n := Need{Server: server, Ports: []PortNeed{p}}
	groups, err := n.plan()
	if err != nil {
		return nil, err
	}
	bases, err := pickOn(tx, row.Node(), row.IPAddress(), Sequential, groups)
	if err != nil {
		return nil, err
	}
	if bases == nil || len(held) >= MaxPorts {
		return nil, access.Conflict("ports_exhausted", "There is no free port left on the server's address. Ask us to add some.").Because(ErrExhausted)
	}
	more := portsAt(n, groups, row.IPAddress(), bases)
	if err := claim(tx, row.Node(), server, more); err != nil {
		return nil, err
	}
	row.SetPorts(append(held, more...))
	if err := permit.Save(tx, row); err != nil {
		return nil, fmt.Errorf("add a port to server %s: %w", server, err)
	}
	return more, nil
}

// ReserveIP gives a whole address of a node, the lowest on which nobody has a port, to one server; a
// later Reserve for that server on that node uses it, and no other server gets ports on it. A server
// that has one gets the same again. 409 wrapping ErrExhausted when there is none.
func (a *Alloc) ReserveIP(tx core.App, node, server string) (string, error) {
	if err := ask(tx); err != nil {
		return "", err
	}
	if server == "" {
		return "", errors.New("alloc: reserving an address needs a server")
	}
	addresses, err := addressesFor(tx, node, Need{Server: server})
	if err != nil {
		return "", err
	}
	used, err := usedByAddress(tx, node)
	if err != nil {
		return "", err
	}
	held, err := collections.One[collections.IPPool](tx, collections.IPPools, dbx.HashExp{"node": node, "allocated_to_server": server})
	if err == nil {
		return held.IPAddress(), nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("look for the address of server %s: %w", server, err)
	}
	for _, address := range addresses {
		if used[address] > 0 {
			continue
		}
		n, err := exec(tx, `UPDATE {{ip_pools}} SET [[is_allocated]] = TRUE, [[allocated_to_server]] = {:server}, [[updated]] = {:now}
			WHERE [[node]] = {:node} AND [[ip_address]] = {:address} AND [[is_allocated]] = FALSE`, dbx.Params{"server": server, "node": node, "address": address})
		if err != nil {
			return "", fmt.Errorf("claim address %s of node %s: %w", address, node, err)
		}
		if n == 1 {
			return address, nil
		}
	}
	return "", access.Conflict("addresses_exhausted", "There is no address left on this node that a server could have for itself.").Because(ErrExhausted)
}
