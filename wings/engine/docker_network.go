package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// networkPrefix and the tenant id make a network's name.
const networkPrefix = "mh-net-"

// subnetTries bounds how often a subnet that the engine finds taken after all is answered with the
// next: another daemon on the same engine may take what we saw free.
const subnetTries = 32

// EnsureNetwork implements Engine.
//
// A tenant's containers reach each other on their bridge. Those of another tenant are on another
// bridge: Docker's isolation chains drop what goes from bridge to bridge, and so does guardHost, which also keeps the
// machine from them, before the first of them is there.
func (d *Docker) EnsureNetwork(ctx context.Context, _ string, tenant string) (string, error) {
	name := networkPrefix + tenant
	d.netMu.Lock()
	defer d.netMu.Unlock()
	if err := d.guard(ctx); err != nil {
		return "", err
	}
	if err := d.ensureNetwork(ctx, name, tenant); err != nil {
		return "", fmt.Errorf("make network %s: %w", name, err)
	}
	return name, nil
}

// ensureNetwork is called with netMu held.
func (d *Docker) ensureNetwork(ctx context.Context, name, tenant string) error {
	all, err := d.networks(ctx)
	if err != nil {
		return err
	}
	if same := named(all, name); len(same) > 0 {
		return d.keepOldest(ctx, same)
	}
	taken := takenSubnets(all)
	for range subnetTries {
		subnet, ok := freeSubnet(d.cfg.NetworkPool, tenant, taken)
		if !ok {
			return fmt.Errorf("%w: %s", ErrNoSubnet, d.cfg.NetworkPool)
		}
		_, err := d.cli.NetworkCreate(ctx, name, client.NetworkCreateOptions{
			Driver: "bridge",
			IPAM:   &network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet}}},
			Options: map[string]string{
				"com.docker.network.bridge.enable_icc": "true", // one tenant's servers may talk
			},
			Labels: map[string]string{LabelTenant: tenant, LabelNode: d.cfg.NodeLabel},
		})
		switch {
		case err == nil, errdefs.IsConflict(err):
			// The API before 1.44 lets two networks have one name: look again who was first.
			all, err := d.networks(ctx)
			if err != nil {
				return err
			}
			if err := d.keepOldest(ctx, named(all, name)); err != nil {
				return err
			}
			return d.guardHost(d.subnets(all))
		case errdefs.IsPermissionDenied(err): // the engine's word for an overlap
			taken = append(taken, subnet)
		default:
			return err
		}
	}
	return fmt.Errorf("%w: the engine refused %d subnets", ErrNoSubnet, subnetTries)
}

// keepOldest checks that same, networks of one name, are ours, and removes all but the oldest, so
// that callers that raced agree on one.
func (d *Docker) keepOldest(ctx context.Context, same []network.Summary) error {
	slices.SortFunc(same, func(a, b network.Summary) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	for i, n := range same {
		if n.Labels[LabelTenant] == "" {
			return errForeign
		}
		if i == 0 {
			continue
		}
		if _, err := d.cli.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove its double %.12s: %w", n.ID, err)
		}
	}
	return nil
}

// RemoveNetworkIfUnused implements Engine. Containers count whether they run or not, and whichever
// daemon made them.
func (d *Docker) RemoveNetworkIfUnused(ctx context.Context, _ string, tenant string) error {
	name := networkPrefix + tenant
	what := "remove network " + name
	d.netMu.Lock()
	defer d.netMu.Unlock()
	res, err := d.cli.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", LabelServer),
	})
	if err != nil {
		return prefixed(what, err)
	}
	if slices.ContainsFunc(res.Items, func(c container.Summary) bool { return c.HostConfig.NetworkMode == name }) {
		return nil
	}
	all, err := d.networks(ctx)
	if err != nil {
		return prefixed(what, err)
	}
	for _, n := range named(all, name) {
		if n.Labels[LabelTenant] == "" {
			return prefixed(what, errForeign)
		}
		_, err := d.cli.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
		// Refused: something that is not ours is plugged in. Then it is in use.
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsPermissionDenied(err) && !errdefs.IsConflict(err) {
			return prefixed(what, err)
		}
	}
	if slices.ContainsFunc(all, func(n network.Summary) bool { return n.Name != name && n.Labels[LabelNode] == d.cfg.NodeLabel }) {
		return nil
	}
	return prefixed(what, d.releaseHost())
}

// healNetwork makes the network of a container again if it is missing, and plugs the container in.
// It reports false when there is nothing to heal. ErrNotFound when the container is gone.
func (d *Docker) healNetwork(ctx context.Context, id string) (bool, error) {
	res, err := d.cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return false, mapped("look it up", err)
	}
	name := string(res.Container.HostConfig.NetworkMode)
	tenant, ours := strings.CutPrefix(name, networkPrefix)
	if !ours || tenant != res.Container.Config.Labels[LabelTenant] {
		return false, nil
	}
	d.netMu.Lock()
	defer d.netMu.Unlock()
	all, err := d.networks(ctx)
	if err != nil {
		return false, err
	}
	if err := d.ensureNetwork(ctx, name, tenant); err != nil {
		return false, fmt.Errorf("make network %s again: %w", name, err)
	}
	d.log.Warn("a network was missing and is made again", "network", name, "existed", len(named(all, name)) > 0)
	// The container remembers the id of the network that is gone, so the name must be plugged anew.
	_, err = d.cli.NetworkDisconnect(ctx, name, client.NetworkDisconnectOptions{Container: id, Force: true})
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsPermissionDenied(err) {
		return false, fmt.Errorf("unplug it from the lost network: %w", err)
	}
	if _, err = d.cli.NetworkConnect(ctx, name, client.NetworkConnectOptions{Container: id}); err != nil && !errdefs.IsPermissionDenied(err) {
		return false, fmt.Errorf("plug it into network %s: %w", name, err)
	}
	return true, nil
}

// networks lists all of the engine's, because any of them can hold a subnet of the pool.
func (d *Docker) networks(ctx context.Context) ([]network.Summary, error) {
	res, err := d.cli.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	return res.Items, nil
}

// guard is guardHost for the networks that there are.
func (d *Docker) guard(ctx context.Context) error {
	all, err := d.networks(ctx)
	if err != nil {
		return err
	}
	return d.guardHost(d.subnets(all))
}

// subnets are those of this daemon's networks among all.
func (d *Docker) subnets(all []network.Summary) (own []netip.Prefix) {
	for _, n := range all {
		if n.Labels[LabelTenant] == "" || n.Labels[LabelNode] != d.cfg.NodeLabel {
			continue
		}
		for _, config := range n.IPAM.Config {
			if config.Subnet.Bits() == subnetBits && config.Subnet.Addr().Is4() {
				own = append(own, config.Subnet.Masked())
			}
		}
	}
	return own
}

func named(all []network.Summary, name string) []network.Summary {
	var same []network.Summary
	for _, n := range all {
		if n.Name == name {
			same = append(same, n)
		}
	}
	return same
}

// takenSubnets are those of the engine's networks and of this machine's interfaces, e.g. the
// operator's VPN or another engine's bridges.
func takenSubnets(all []network.Summary) []netip.Prefix {
	var taken []netip.Prefix
	for _, n := range all {
		for _, config := range n.IPAM.Config {
			taken = append(taken, config.Subnet)
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return taken // the engine still refuses what overlaps its own
	}
	for _, addr := range addrs {
		if prefix, err := netip.ParsePrefix(addr.String()); err == nil {
			taken = append(taken, prefix.Masked())
		}
	}
	return taken
}

// freeSubnet picks a subnet of pool that overlaps none of taken. It begins at a place that the tenant
// id decides: daemons that share an engine then seldom want the same one, and a tenant whose network
// was removed tends to get its old addresses.
func freeSubnet(pool netip.Prefix, tenant string, taken []netip.Prefix) (netip.Prefix, bool) {
	count := uint32(1) << (subnetBits - pool.Bits())
	hash := fnv.New32a()
	hash.Write([]byte(tenant))
	first := hash.Sum32() % count
	base := binary.BigEndian.Uint32(pool.Addr().AsSlice())
	for i := range count {
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], base+((first+i)%count)<<(32-subnetBits))
		candidate := netip.PrefixFrom(netip.AddrFrom4(raw), subnetBits)
		if !slices.ContainsFunc(taken, candidate.Overlaps) {
			return candidate, true
		}
	}
	return netip.Prefix{}, false
}
