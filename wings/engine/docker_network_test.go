package engine_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/dockertest"
	"github.com/mambahost/mamba/wings/engine/enginetest"
	"github.com/mambahost/mamba/wings/wire"
)

func TestNetworkPoolIsCarvedIntoSubnetsUntilItIsUsedUp(t *testing.T) {
	t.Parallel()
	p := dockertest.Private(t, dockertest.Options{})
	pool := netip.MustParsePrefix("10.77.0.0/23") // two subnets
	b := benchOn(t, p.Host(), func(c *engine.Config) { c.NetworkPool = pool })
	tenants := []string{enginetest.NewID(), enginetest.NewID(), enginetest.NewID()}
	for _, tenant := range tenants[:2] {
		name, err := b.EnsureNetwork(b.ctx, "engine.network", tenant)
		if err != nil {
			t.Fatal(err)
		}
		res, err := b.api.NetworkInspect(b.ctx, name, client.NetworkInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		subnet := res.Network.IPAM.Config[0].Subnet
		if subnet.Bits() != 24 || !pool.Overlaps(subnet) || res.Network.Labels[engine.LabelTenant] != tenant {
			t.Errorf("%s has %s and labels %v", name, subnet, res.Network.Labels)
		}
	}
	if _, err := b.EnsureNetwork(b.ctx, "engine.network", tenants[2]); !errors.Is(err, engine.ErrNoSubnet) {
		t.Errorf("the third: %v", err)
	}
	if _, err := b.EnsureNetwork(b.ctx, "engine.network", tenants[0]); err != nil {
		t.Errorf("the first again: %v", err)
	}
	if err := b.RemoveNetworkIfUnused(b.ctx, "engine.network", tenants[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := b.EnsureNetwork(b.ctx, "engine.network", tenants[2]); err != nil {
		t.Errorf("the third, after one was given back: %v", err)
	}
	for _, tenant := range tenants[1:] {
		if err := b.RemoveNetworkIfUnused(b.ctx, "engine.network", tenant); err != nil {
			t.Error(err)
		}
	}
}

func TestNetworkDoublesEndInOne(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tenant := enginetest.NewID()
	labels := map[string]string{engine.LabelTenant: tenant, engine.LabelNode: b.node}
	var ids []string
	for range 2 { // as two daemons that raced, or one whose reply was lost
		res, err := b.api.NetworkCreate(b.ctx, "mh-net-"+tenant, client.NetworkCreateOptions{Driver: "bridge", Labels: labels})
		if errdefs.IsConflict(err) && len(ids) == 1 {
			break // API 1.44 and newer refuse doubles themselves
		}
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, res.ID)
	}
	name, err := b.EnsureNetwork(b.ctx, "engine.network", tenant)
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.api.NetworkInspect(b.ctx, name, client.NetworkInspectOptions{})
	if err != nil {
		t.Fatalf("the name is not one network's: %v", err)
	}
	if res.Network.ID != ids[0] {
		t.Error("the younger one was kept")
	}
	if err := b.RemoveNetworkIfUnused(b.ctx, "engine.network", tenant); err != nil {
		t.Fatal(err)
	}
}

func TestNetworkOfSomebodyElseIsNotTouched(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tenant := enginetest.NewID()
	res, err := b.api.NetworkCreate(b.ctx, "mh-net-"+tenant, client.NetworkCreateOptions{Driver: "bridge"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := b.api.NetworkRemove(context.WithoutCancel(b.ctx), res.ID, client.NetworkRemoveOptions{}); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	if _, err := b.EnsureNetwork(b.ctx, "engine.network", tenant); err == nil {
		t.Error("a network that is not ours was taken for a tenant's")
	}
	if err := b.RemoveNetworkIfUnused(b.ctx, "engine.network", tenant); err == nil {
		t.Error("no word about a network that is not ours")
	}
	if _, err := b.api.NetworkInspect(b.ctx, res.ID, client.NetworkInspectOptions{}); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

func TestNetworkSeparatesTenantsAndJoinsOnesOwnServers(t *testing.T) {
	t.Parallel()
	binary := probe(t)
	b := newBench(t, func(c *engine.Config) { c.BuiltinBinary = binary })
	b.image = wire.Image{Builtin: engine.BuiltinDemo}
	tenant := enginetest.NewID()
	spec := b.spec(tenant)
	dropImage(t, b, spec.ImageID)
	spec.Command = []string{engine.BuiltinPath, "serve", ":8080"}
	published := freePort(t)
	spec.Ports = []wire.Port{{Name: "game", HostIP: "127.0.0.1", HostPort: published, ContainerPort: 8080, Protocol: wire.TCP}}
	id := b.create(spec)
	b.start(id)
	stream, err := b.Logs(b.ctx, "engine.logs", id, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	readTo(t, stream, "up")
	address := b.inspect(id).NetworkSettings.Networks["mh-net-"+tenant].IPAddress.String()
	ask := func(tenant string, change func(*engine.ContainerSpec)) string {
		asking := b.spec(tenant)
		asking.Command = []string{engine.BuiltinPath, "ask", address + ":8080", spec.Name + ":8080"}
		change(&asking)
		_, lines := b.output(asking)
		return strings.Join(lines, " ")
	}
	none := func(*engine.ContainerSpec) {}
	if got := ask(tenant, none); got != "hello hello" {
		t.Errorf("the tenant's other server, by address and by name: %q", got)
	}
	if got := ask(enginetest.NewID(), none); got != "refused refused" {
		t.Errorf("another tenant's server: %q", got)
	}
	if got := ask(tenant, func(c *engine.ContainerSpec) { c.Network = "" }); got != "refused refused" {
		t.Errorf("a container without network: %q", got)
	}
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(published)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if raw, err := io.ReadAll(conn); err != nil || string(raw) != "hello" {
		t.Errorf("the published port: %q, %v", raw, err)
	}
}
