package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	dockerapi "github.com/moby/moby/client"
)

// What the tests look at behind the product's back: the Docker Engine itself.

// engineHost is the engine of the tests, as DOCKER_HOST names one; empty is the machine's own.
func engineHost() string {
	if host := os.Getenv("MAMBA_TEST_DOCKER_HOST"); host != "" {
		return host
	}
	return os.Getenv("DOCKER_HOST")
}

func onEngine(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = os.Environ()
	if host := engineHost(); host != "" {
		cmd.Env = append(cmd.Env, "DOCKER_HOST="+host)
	}
	return cmd
}

func engineAPI(t testing.TB) *dockerapi.Client {
	t.Helper()
	host := engineHost()
	if host == "" {
		host = dockerapi.DefaultDockerHost
	}
	api, err := dockerapi.New(dockerapi.WithHost(host))
	must(t, err)
	t.Cleanup(func() { api.Close() })
	return api
}

// gameImages remembers which scripts have run: two tests want the same image.
var gameImages = map[string]func() error{
	"luanti.sh":            sync.OnceValue(func() error { return buildImage("luanti.sh") }),
	"minecraft-standin.sh": sync.OnceValue(func() error { return buildImage("minecraft-standin.sh") }),
}

// gameImage makes the engine have an image. The script does nothing when it is there already.
func gameImage(t testing.TB, script string) {
	t.Helper()
	must(t, gameImages[script]())
}

func buildImage(script string) error {
	if out, err := onEngine(exec.Command(filepath.Join("deploy", "images", script))).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", script, err, out)
	}
	return nil
}

func containersOf(t testing.TB, server string) []container.Summary {
	t.Helper()
	res, err := engineAPI(t).ContainerList(t.Context(), dockerapi.ContainerListOptions{
		All: true, Filters: make(dockerapi.Filters).Add("label", "host.mamba.server="+server),
	})
	must(t, err)
	return res.Items
}

// sweep removes what the servers of a test have left on the engine: a panel that ends lets them run.
func (p *panel) sweep() {
	var identity struct {
		NodeID string `json:"node_id"`
	}
	raw, err := os.ReadFile(filepath.Join(p.dir, "wings", "identity.json"))
	if err != nil || json.Unmarshal(raw, &identity) != nil || identity.NodeID == "" {
		return // it never had a local node
	}
	ctx := context.WithoutCancel(p.t.Context())
	api, own := engineAPI(p.t), make(dockerapi.Filters).Add("label", "host.mamba.node="+identity.NodeID)
	list, err := api.ContainerList(ctx, dockerapi.ContainerListOptions{All: true, Filters: own})
	if err != nil {
		p.t.Error(err)
		return
	}
	for _, c := range list.Items {
		if _, err := api.ContainerRemove(ctx, c.ID, dockerapi.ContainerRemoveOptions{Force: true}); err != nil {
			p.t.Error(err)
		}
	}
	nets, err := api.NetworkList(ctx, dockerapi.NetworkListOptions{Filters: own})
	if err != nil {
		p.t.Error(err)
		return
	}
	for _, n := range nets.Items {
		if _, err := api.NetworkRemove(ctx, n.ID, dockerapi.NetworkRemoveOptions{}); err != nil {
			p.t.Error(err)
		}
	}
}

// place is where a server is on its network.
type place struct{ name, address string }

func networkOf(t testing.TB, server string) place {
	t.Helper()
	for _, c := range containersOf(t, server) {
		for name, end := range c.NetworkSettings.Networks {
			return place{name, end.IPAddress.String()}
		}
	}
	t.Fatalf("server %s is on no network", server)
	return place{}
}

func networkExists(t testing.TB, name string) bool {
	t.Helper()
	_, err := engineAPI(t).NetworkInspect(t.Context(), name, dockerapi.NetworkInspectOptions{})
	if err != nil && !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// inside runs a program in a server's container, as the game's own user.
func inside(t testing.TB, server string, argv ...string) {
	t.Helper()
	if out, err := tryInside(t, server, argv...); err != nil {
		t.Fatalf("%q in server %s: %v: %s", argv, server, err, out)
	}
}

func tryInside(t testing.TB, server string, argv ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "docker", append([]string{"exec", "mh-" + server}, argv...)...)
	out, err := onEngine(cmd).CombinedOutput()
	return string(out), err
}

// lockedDown asks the engine what it was told about a running server, as docker inspect does.
func (c *client) lockedDown(s server, memoryMiB, cpuMillicores int64) {
	c.t.Helper()
	found := containersOf(c.t, s.ID)
	if len(found) != 1 {
		c.t.Fatalf("%d containers", len(found))
	}
	res, err := engineAPI(c.t).ContainerInspect(c.t.Context(), found[0].ID, dockerapi.ContainerInspectOptions{})
	must(c.t, err)
	in := res.Container
	hc, cfg := in.HostConfig, in.Config
	check := func(what string, ok bool, got any) {
		c.t.Helper()
		if !ok {
			c.t.Errorf("docker inspect: %s: %+v", what, got)
		}
	}
	check("memory", hc.Memory == memoryMiB<<20, hc.Memory)
	check("no swap", hc.MemorySwap == hc.Memory, hc.MemorySwap)
	check("CPU", hc.NanoCPUs == cpuMillicores*1e6, hc.NanoCPUs)
	check("pids", hc.PidsLimit != nil && *hc.PidsLimit > 0 && *hc.PidsLimit <= 1024, hc.PidsLimit)
	check("the OOM killer is on", hc.OomKillDisable == nil || !*hc.OomKillDisable, hc.OomKillDisable)
	check("user", cfg.User == "988:988", cfg.User)
	check("no capability", slices.Equal(hc.CapDrop, []string{"ALL"}) && len(hc.CapAdd) == 0, hc.CapAdd)
	check("no new privileges", slices.Equal(hc.SecurityOpt, []string{"no-new-privileges"}), hc.SecurityOpt)
	check("read-only root", hc.ReadonlyRootfs, nil)
	check("not privileged", !hc.Privileged && len(hc.Devices) == 0 && len(hc.DeviceRequests) == 0, hc)
	check("namespaces of its own", !hc.PidMode.IsHost() && !hc.IpcMode.IsHost() && !hc.UTSMode.IsHost() && !hc.NetworkMode.IsHost(), hc)
	check("bounded log", hc.LogConfig.Type == "local" && hc.LogConfig.Config["max-size"] == "10m" && hc.LogConfig.Config["max-file"] == "3", hc.LogConfig)
	check("only wings starts it again", hc.RestartPolicy.IsNone(), hc.RestartPolicy)
	c.ownPlaces(s, in, check)
}

// ownPlaces looks at what a container shares with the machine: data, network, ports, labels.
func (c *client) ownPlaces(s server, in container.InspectResponse, check func(string, bool, any)) {
	c.t.Helper()
	check("binds only the data folder", len(in.HostConfig.Binds) == 0 && len(in.HostConfig.VolumesFrom) == 0 && len(in.Mounts) == 1 &&
		in.Mounts[0].Type == mount.TypeBind && in.Mounts[0].Destination == "/home/container" &&
		strings.HasSuffix(in.Mounts[0].Source, "/"+s.ID+"/data"), in.Mounts)
	own := "mh-net-" + c.tenant
	check("the organisation's network, and no other", string(in.HostConfig.NetworkMode) == own &&
		slices.Equal(slices.Collect(maps.Keys(in.NetworkSettings.Networks)), []string{own}), in.NetworkSettings.Networks)
	labels := in.Config.Labels
	check("labels", labels["host.mamba.server"] == s.ID && labels["host.mamba.tenant"] == c.tenant && labels["host.mamba.role"] == "game" &&
		labels["host.mamba.epoch"] == "1" && labels["host.mamba.node"] != "" && labels["host.mamba.spec"] != "", labels)
	var want, asked, live []string
	for _, p := range s.Ports {
		want = append(want, fmt.Sprintf("%s:%d/%s", p.HostIP, p.HostPort, p.Protocol))
	}
	flat := func(m network.PortMap) (out []string) {
		for inside, bindings := range m {
			for _, b := range bindings {
				out = append(out, fmt.Sprintf("%s:%s/%s", b.HostIP, b.HostPort, inside.Proto()))
			}
		}
		slices.Sort(out)
		return out
	}
	slices.Sort(want)
	asked, live = flat(in.HostConfig.PortBindings), flat(in.NetworkSettings.Ports)
	check("exactly the allocated ports", len(want) > 0 && slices.Equal(asked, want) && slices.Equal(live, want) && !in.HostConfig.PublishAllPorts,
		[][]string{want, asked, live})
	for _, p := range s.Ports {
		check("the allocated address", p.HostIP == "127.0.0.1", p)
	}
}
