package engine_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/moby/moby/client"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/dockertest"
	"github.com/mambahost/mamba/wings/engine/enginetest"
	"github.com/mambahost/mamba/wings/wire"
)

// inside runs a command in the engine's network.
func inside(t *testing.T, p *dockertest.Process, argv ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), "nsenter", append([]string{"-t", strconv.Itoa(p.Pid()), "-n"}, argv...)...)
}

func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

// serving runs the probe as a service until the end of the test.
func serving(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" {
		t.Fatalf("%v: %q %v", cmd.Args, line, err)
	}
}

// A game reaches the world, and neither its machine nor what a cloud tells only that.
func TestAGameReachesTheWorldAndNotItsMachine(t *testing.T) {
	t.Parallel()
	p := dockertest.Private(t, dockertest.Options{})
	binary := probe(t)
	b := benchOn(t, p.Host(), func(c *engine.Config) { c.BuiltinBinary = binary })
	b.image = wire.Image{Builtin: engine.BuiltinDemo}

	// The world is another namespace behind the machine, which also answers at a cloud's address.
	world := "mhw" + enginetest.NewID()[:8]
	run(t, exec.Command("ip", "netns", "add", world))
	t.Cleanup(func() { run(t, exec.Command("ip", "netns", "delete", world)) })
	for _, line := range []string{
		"link add mhw0 type veth peer name mhw1 netns " + world, "addr add 192.0.2.1/24 dev mhw0", "link set mhw0 up",
		"-n " + world + " addr add 192.0.2.2/24 dev mhw1", "-n " + world + " addr add 169.254.169.254/32 dev mhw1",
		"-n " + world + " link set mhw1 up", "route add 169.254.169.254 via 192.0.2.2",
	} {
		run(t, inside(t, p, append([]string{"ip"}, strings.Fields(line)...)...))
	}
	serving(t, exec.CommandContext(t.Context(), "nsenter", "--net=/run/netns/"+world, binary, "serve", ":7000"))
	serving(t, inside(t, p, binary, "serve", ":7000"))
	serving(t, inside(t, p, binary, "serve", ":53"))

	tenant := enginetest.NewID()
	first := b.spec(tenant)
	dropImage(t, b, first.ImageID)
	ask := func() string {
		asking := b.spec(tenant)
		made, err := b.api.NetworkInspect(b.ctx, "mh-net-"+tenant, client.NetworkInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		machine := made.Network.IPAM.Config[0].Subnet.Addr().Next().String()
		asking.Command = []string{engine.BuiltinPath, "ask", "192.0.2.2:7000", machine + ":7000", "192.0.2.1:7000", "169.254.169.254:7000", machine + ":53"}
		_, lines := b.output(asking)
		return strings.Join(lines, " ")
	}
	const want = "hello refused refused refused hello" // world, machine, machine, cloud, resolver
	if got := ask(); got != want {
		t.Errorf("asked: %s, want %s", got, want)
	}
	// Somebody loads the machine's firewall anew. The next start brings the rules back.
	for _, table := range ourTables(t, p) {
		firewall(t, p, func(c *nftables.Conn) { c.DelTable(table) })
	}
	if got := ask(); got != want {
		t.Errorf("asked after the rules were lost: %s", got)
	}
	// The machine itself still gets its answers.
	if got := run(t, inside(t, p, binary, "ask", "192.0.2.2:7000")); got != "hello\n" {
		t.Errorf("the machine asks the world: %s", got)
	}
	left, err := b.List(b.ctx, "engine.list")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range left {
		if err := b.Remove(b.ctx, "engine.remove", c.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.RemoveNetworkIfUnused(b.ctx, "engine.network", tenant); err != nil {
		t.Fatal(err)
	}
	if left := ourTables(t, p); len(left) > 0 {
		t.Errorf("the rules outlive the last network: %v", left)
	}
}

// Docker keeps tenants apart by chains that others can empty: somebody who loads the machine's firewall anew, a second
// engine that starts. Tenants stay apart without them, and one's own servers go on to reach each other.
func TestTenantsStayApartWithoutDockersRules(t *testing.T) {
	t.Parallel()
	p := dockertest.Private(t, dockertest.Options{})
	binary := probe(t)
	b := benchOn(t, p.Host(), func(c *engine.Config) { c.BuiltinBinary = binary })
	b.image = wire.Image{Builtin: engine.BuiltinDemo}
	tenant, other := enginetest.NewID(), enginetest.NewID()
	spec := b.spec(tenant)
	dropImage(t, b, spec.ImageID)
	spec.Command = []string{engine.BuiltinPath, "serve", ":8080"}
	id := b.create(spec)
	b.start(id)
	stream, err := b.Logs(b.ctx, "engine.logs", id, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	readTo(t, stream, "up")
	address := b.inspect(id).NetworkSettings.Networks["mh-net-"+tenant].IPAddress.String() + ":8080"
	ask := func(tenant string) string {
		asking := b.spec(tenant)
		asking.Command = []string{engine.BuiltinPath, "ask", address}
		_, lines := b.output(asking)
		return strings.Join(lines, " ")
	}
	check := func(when string) {
		t.Helper()
		if got := ask(tenant); got != "hello" {
			t.Errorf("%s: the tenant's other server: %q", when, got)
		}
		if got := ask(other); got != "refused" {
			t.Errorf("%s: another tenant's server: %q", when, got)
		}
	}
	check("at first")
	empty := func() {
		for _, line := range []string{"-P FORWARD ACCEPT", "-F FORWARD", "-t raw -F"} {
			run(t, inside(t, p, append([]string{"iptables"}, strings.Fields(line)...)...))
		}
	}
	empty()
	check("without Docker's rules")
	for _, table := range ourTables(t, p) { // whoever empties a firewall may empty all of it
		firewall(t, p, func(c *nftables.Conn) { c.DelTable(table) })
	}
	check("after the next start")
	later := enginetest.NewID() // a network that was not there when the rules were written
	third := b.spec(later)
	third.Command = []string{engine.BuiltinPath, "ask", address}
	empty()
	if _, lines := b.output(third); strings.Join(lines, " ") != "refused" {
		t.Errorf("a tenant that came later: %q", lines)
	}
}

// firewall changes the rules of the engine's network.
func firewall(t *testing.T, p *dockertest.Process, change func(*nftables.Conn)) *nftables.Conn {
	t.Helper()
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { namespace.Close() })
	c, err := nftables.New(nftables.WithNetNSFd(int(namespace.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	change(c)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	return c
}

func ourTables(t *testing.T, p *dockertest.Process) (ours []*nftables.Table) {
	t.Helper()
	all, err := firewall(t, p, func(*nftables.Conn) {}).ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range all {
		if strings.HasPrefix(table.Name, "mamba-") {
			ours = append(ours, table)
		}
	}
	return ours
}
