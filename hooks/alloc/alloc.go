// Package alloc gives servers their place: a node with room, an address, and ports that nobody else
// has.
//
// It owns ip_pools, port_pools and allocations. It refuses to decide who may have a server (tenancy)
// or what a server is (servers); it reads their rows and those of nodes.
//
// Its one invariant: a port belongs to at most one server, and what is reserved on a node is at most
// its capacity times its overcommit ratio. Both are checked inside the transaction that reserves.
package alloc

import (
	"errors"
	"fmt"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/wings/wire"
)

var permit = collections.PermitFor("alloc")

// Lock is held by every transaction that reserves, releases, resizes or changes pools: which node it
// will touch is known only after placement.
const Lock collections.Lock = "alloc"

// ask makes sure that tx has Lock: whoever named it has it, whoever did not gets it, or ErrLockOrder when
// it is too late to wait for it (collections.Sparing).
func ask(tx core.App) error {
	return collections.Tx(tx, []collections.Lock{Lock}, func(core.App) error { return nil })
}

// Both asks for the same port number with TCP and with UDP.
const Both wire.Protocol = "both"

// MaxPorts is how many ports one server may ask for.
const MaxPorts = 32

// States of an allocation.
const (
	StatusActive   = "ACTIVE"   // the server holds node, address, ports and capacity
	StatusReleased = "RELEASED" // the row remembers what it was
)

// Decisions, inside the *access.Error that a customer sees.
var (
	ErrNoFit     = errors.New("no node has room for the server")
	ErrExhausted = errors.New("no ports are left that the server could have")
	ErrHeld      = errors.New("the server has an allocation already")
	ErrRaced     = errors.New("a port was taken in between, which the lock should have made impossible")
)

// Strategy decides which of a node's free ports are taken.
type Strategy string

// Strategies. None is worse in keeping ports apart; they differ in what an outsider can guess and in
// how load is spread over addresses.
const (
	Sequential Strategy = "sequential" // lowest address, lowest port; the default
	Random     Strategy = "random"     // any address, any port
	Rotate     Strategy = "rotate"     // the address with the fewest ports in use, lowest port
)

// PortNeed is one port that a server asks for.
type PortNeed struct {
	Name          string        // the blueprint's, unique within the server, e.g. "game"
	Protocol      wire.Protocol // wire.TCP, wire.UDP or Both
	ContainerPort int           // 0: the same as the host port
	Prefer        int           // taken when it is free; 0: any
	OffsetOf      string        // name of another port; "": free to choose
	Offset        int           // this port is that one's plus Offset; consecutive ports are 1, 2, …
}

// Need is what a server asks for.
type Need struct {
	Tenant, Server                    string
	CPUMillicores, MemoryMiB, DiskMiB int64 // reserved on the node; not negative
	Ports                             []PortNeed
	Node                              string            // id; "": choose one
	Resident                          bool              // Node runs it already: neither its status nor what is left on it is asked, only ports
	Location                          string            // of the node, any case; "": any
	Labels                            map[string]string // that the node must have
	Strategy                          Strategy          // "": Sequential
	Spread                            bool              // the emptiest node first; else the fullest that still fits
}

// Auditor writes an audit row in the caller's transaction.
type Auditor interface {
	Write(tx core.App, a audit.Actor, e audit.Entry) error
}

// Alloc reserves and releases. Its methods can be called concurrently.
type Alloc struct{ auditor Auditor }

// New returns an Alloc. Nothing runs in the background.
func New(auditor Auditor) (*Alloc, error) {
	if auditor == nil {
		return nil, errors.New("alloc: an auditor is needed")
	}
	return &Alloc{auditor: auditor}, nil
}

// group is a set of ports that move together: a base and what hangs on it by offsets.
type group struct {
	members []member
	prefer  int // base port wished for; 0: none
}

// member is one need of a group. Its port is base + offset.
type member struct {
	need      int // index in Need.Ports
	offset    int
	protocols []wire.Protocol
}

// plan checks the ports of a need and sorts them into groups. A fault is the blueprint's, not the
// customer's.
func (n Need) plan() ([]group, error) {
	if n.Server == "" || n.CPUMillicores < 0 || n.MemoryMiB < 0 || n.DiskMiB < 0 {
		return nil, fmt.Errorf("alloc: server %q cannot need %d millicores, %d MiB and %d MiB of disk", n.Server, n.CPUMillicores, n.MemoryMiB, n.DiskMiB)
	}
	if len(n.Ports) > MaxPorts {
		return nil, fmt.Errorf("alloc: %d ports are more than a server may have (%d)", len(n.Ports), MaxPorts)
	}
	switch n.Strategy {
	case "", Sequential, Random, Rotate:
	default:
		return nil, fmt.Errorf("alloc: there is no strategy %q", n.Strategy)
	}
	byName := map[string]int{}
	for i, p := range n.Ports {
		if _, twice := byName[p.Name]; twice || p.Name == "" {
			return nil, fmt.Errorf("alloc: port %d needs a name of its own, not %q", i, p.Name)
		}
		if p.Prefer < 0 || p.Prefer > 65535 || p.ContainerPort < 0 || p.ContainerPort > 65535 || p.Offset < -65535 || p.Offset > 65535 {
			return nil, fmt.Errorf("alloc: port %s has a number that is no port", p.Name)
		}
		byName[p.Name] = i
	}
	var groups []group
	groupOf := map[int]int{} // index of the base's need → index in groups
	for i, p := range n.Ports {
		protocols, err := protocolsOf(p.Protocol)
		if err != nil {
			return nil, fmt.Errorf("port %s: %w", p.Name, err)
		}
		base, offset, err := n.baseOf(i, byName)
		if err != nil {
			return nil, err
		}
		g, ok := groupOf[base]
		if !ok {
			g = len(groups)
			groupOf[base], groups = g, append(groups, group{})
		}
		if groups[g].prefer == 0 && p.Prefer > offset {
			groups[g].prefer = p.Prefer - offset
		}
		groups[g].members = append(groups[g].members, member{need: i, offset: offset, protocols: protocols})
	}
	return groups, nil
}

// baseOf follows OffsetOf to the port that is free to choose.
func (n Need) baseOf(i int, byName map[string]int) (base, offset int, err error) {
	for range len(n.Ports) {
		p := n.Ports[i]
		if p.OffsetOf == "" {
			return i, offset, nil
		}
		next, ok := byName[p.OffsetOf]
		if !ok {
			return 0, 0, fmt.Errorf("alloc: port %s hangs on %q, which is not there", p.Name, p.OffsetOf)
		}
		offset += p.Offset
		i = next
	}
	return 0, 0, fmt.Errorf("alloc: port %s hangs on itself", n.Ports[i].Name)
}

func protocolsOf(p wire.Protocol) ([]wire.Protocol, error) {
	switch p {
	case wire.TCP, wire.UDP:
		return []wire.Protocol{p}, nil
	case Both:
		return []wire.Protocol{wire.TCP, wire.UDP}, nil
	}
	return nil, fmt.Errorf("alloc: there is no protocol %q", p)
}
