package engine

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A game may reach the internet and its tenant's other servers. Docker keeps it from other tenants as long as its
// chains are whole, which a firewall that is loaded anew or a second engine ends, and not from the machine: whatever
// listens there on all addresses (ssh, the panel, a database) and what clouds tell their machines at link-local
// addresses would be a game's to ask. wings forbids all three in a table of its own, beside Docker's rules and whatever
// the operator has:
//
//	games → this machine          only answers to what the machine began, and its resolver
//	games → 169.254/16            nothing
//	games → another tenant's net  nothing
//
// Published ports are not touched: Docker turns them round before these rules are asked.

// linkLocal is where clouds answer with credentials of the machine.
var linkLocal = netip.MustParsePrefix("169.254.0.0/16")

// Offsets in the IPv4 header, and of the destination port behind it.
const (
	ipSource, ipTarget = 12, 16
	portTarget         = 2
	resolverPort       = 53
)

// Names of the sets in the table.
const (
	ownSet  = "own"  // addresses of this daemon's networks
	sameSet = "same" // each of them twice: from a network to itself
)

// guardHost sees to it that the rules are in the engine's network namespace, and those of own, the subnets of this
// daemon's networks. It is asked before each start, because a firewall that is loaded anew forgets them, and writes only
// when they are not all there: a write makes the kernel wait for every packet on its way.
func (d *Docker) guardHost(own []netip.Prefix) error {
	var failed error
	err := d.inFirewall(own, func(c *nftables.Conn, t *nftables.Table) {
		hook := func(name string, at *nftables.ChainHook) *nftables.Chain {
			return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: at, Priority: nftables.ChainPriorityFilter})
		}
		rule := func(chain *nftables.Chain, verdict expr.VerdictKind, parts ...[]expr.Any) {
			all := within(ipSource, d.cfg.NetworkPool)
			for _, p := range parts {
				all = append(all, p...)
			}
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(all, &expr.Verdict{Kind: verdict})})
		}
		input, forward := hook("input", nftables.ChainHookInput), hook("forward", nftables.ChainHookForward)
		rule(input, expr.VerdictAccept, begunElsewhere())
		rule(input, expr.VerdictAccept, toPort(unix.IPPROTO_UDP, resolverPort))
		rule(input, expr.VerdictAccept, toPort(unix.IPPROTO_TCP, resolverPort))
		rule(input, expr.VerdictDrop)
		rule(forward, expr.VerdictDrop, within(ipTarget, linkLocal))

		mine := &nftables.Set{Table: t, Name: ownSet, KeyType: nftables.TypeIPAddr}
		same := &nftables.Set{Table: t, Name: sameSet, KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr), Concatenation: true}
		var one, two []nftables.SetElement
		for _, p := range own {
			address := p.Addr().AsSlice()
			one, two = append(one, nftables.SetElement{Key: address}), append(two, nftables.SetElement{Key: append(address, address...)})
		}
		failed = errors.Join(c.AddSet(mine, one), c.AddSet(same, two))
		rule(forward, expr.VerdictDrop,
			subnetAt(1, ipTarget), []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: mine.Name, SetID: mine.ID}},
			subnetAt(1, ipSource), subnetAt(9, ipTarget), []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: same.Name, SetID: same.ID, Invert: true}})
	})
	err = errors.Join(failed, err)
	if err != nil {
		return fmt.Errorf("keep games from the machine (nftables): %w", err)
	}
	return nil
}

// rulesOf is how many rules guardHost puts into each chain.
var rulesOf = map[string]int{"input": 4, "forward": 2}

// guarded says whether all of this daemon's rules are there, and all of its networks in them. What cannot be read is not.
func guarded(c *nftables.Conn, table *nftables.Table, own []netip.Prefix) bool {
	chains, err := c.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return false
	}
	found := 0
	for _, chain := range chains {
		want, ours := rulesOf[chain.Name]
		if chain.Table.Name != table.Name || !ours {
			continue
		}
		rules, err := c.GetRules(table, chain)
		if err != nil || len(rules) != want {
			return false
		}
		found++
	}
	return found == len(rulesOf) && holds(c, table, ownSet, own) && holds(c, table, sameSet, own)
}

// holds says whether all of own are in a set, by the beginnings of its keys.
func holds(c *nftables.Conn, table *nftables.Table, name string, own []netip.Prefix) bool {
	set, err := c.GetSetByName(table, name)
	if err != nil {
		return false
	}
	elements, err := c.GetSetElements(set)
	if err != nil {
		return false
	}
	for _, p := range own {
		if !slices.ContainsFunc(elements, func(e nftables.SetElement) bool { return bytes.HasPrefix(e.Key, p.Addr().AsSlice()) }) {
			return false
		}
	}
	return true
}

// releaseHost takes the rules away; nothing is left to keep from the machine.
func (d *Docker) releaseHost() error {
	if err := d.inFirewall(nil, nil); err != nil {
		return fmt.Errorf("remove the firewall table: %w", err)
	}
	return nil
}

// inFirewall replaces this daemon's table by what fill puts into it, in one step, unless it is whole.
// Without fill there is none afterwards.
func (d *Docker) inFirewall(own []netip.Prefix, fill func(*nftables.Conn, *nftables.Table)) error {
	d.firewall.Lock()
	defer d.firewall.Unlock()
	namespace, err := d.engineNamespace()
	if err != nil {
		return err
	}
	var opts []nftables.ConnOption
	if namespace != nil {
		defer namespace.Close()
		opts = append(opts, nftables.WithNetNSFd(int(namespace.Fd())))
	}
	c, err := nftables.New(opts...)
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: d.tableName()}
	if fill != nil && guarded(c, table, own) {
		return nil
	}
	c.AddTable(table) // so that it can be removed whether it is there or not
	c.DelTable(table)
	if fill != nil {
		fill(c, c.AddTable(table))
	}
	return c.Flush()
}

// tableName is this daemon's own: several may share a machine.
func (d *Docker) tableName() string {
	h := fnv.New64a()
	h.Write([]byte(d.cfg.NodeLabel))
	return fmt.Sprintf("mamba-%016x", h.Sum64())
}

// engineNamespace is the network namespace of the process behind the engine's socket; nil is our own.
func (d *Docker) engineNamespace() (*os.File, error) {
	path, local := strings.CutPrefix(d.cli.DaemonHost(), "unix://")
	if !local {
		return nil, nil
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	var perr error
	if err := raw.Control(func(fd uintptr) { peer, perr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || perr != nil {
		return nil, errors.Join(err, perr)
	}
	if peer.Pid <= 0 { // of another process namespace, e.g. wings in a container with the host's network
		return nil, nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", peer.Pid))
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil // locked up by systemd, as deploy/systemd does: there it is our own
	}
	if err != nil {
		return nil, fmt.Errorf("find the engine's network: %w", err)
	}
	theirs, err := f.Stat()
	own, oerr := os.Stat("/proc/self/ns/net")
	if err = errors.Join(err, oerr); err != nil || os.SameFile(theirs, own) { // nothing to enter
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// within matches packets whose address at that place of the header is in the prefix.
func within(offset uint32, p netip.Prefix) []expr.Any {
	mask := net.CIDRMask(p.Bits(), 32)
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// subnetAt loads the network of the address at that place of the header: its /24.
func subnetAt(register, offset uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: net.CIDRMask(subnetBits, 32), Xor: make([]byte, 4)},
	}
}

// begunElsewhere matches packets of connections that a game did not begin, or that were let through.
func begunElsewhere() []expr.Any {
	states := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: states, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// toPort matches packets to one port of a protocol.
func toPort(protocol byte, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: portTarget, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}
