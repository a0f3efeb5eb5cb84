package engine

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/mambahost/mamba/wings/wire"
)

// ScriptMount is where ContainerSpec.ScriptDir appears in the container.
const ScriptMount = "/mnt/install"

// tmpOptions of /tmp and of every volume that an image declares. exec, unlike Docker's default,
// because Java servers unpack native libraries there (netty, jansi, sqlite-jdbc) and map them as
// code; a game may run what it likes in its data folder anyway. The size is charged to the
// container's memory; 64 MiB held for every server tried.
const tmpOptions = "rw,exec,nosuid,nodev,mode=1777,size=64m"

// A container's log is a ring on the node's disk of at most 30 MiB. wings follows it; what it has
// not read when the ring turns is a gap in the console.
var logConfig = container.LogConfig{
	Type:   "local",
	Config: map[string]string{"max-size": "10m", "max-file": "3", "compress": "true"},
}

// createOptions expresses spec in the API's terms. volumes are the paths that the image declares.
func createOptions(spec ContainerSpec, node string, volumes map[string]struct{}) (client.ContainerCreateOptions, error) {
	if err := checkSpec(spec); err != nil {
		return client.ContainerCreateOptions{}, err
	}
	exposed, bindings, err := portMaps(spec.Ports)
	if err != nil {
		return client.ContainerCreateOptions{}, err
	}
	env := make([]string, 0, len(spec.Env))
	for _, key := range slices.Sorted(maps.Keys(spec.Env)) {
		env = append(env, key+"="+spec.Env[key])
	}
	networkMode := container.NetworkMode(network.NetworkNone)
	if spec.Network != "" {
		networkMode = container.NetworkMode(spec.Network)
	}
	yes := true
	return client.ContainerCreateOptions{
		Name: spec.Name,
		Config: &container.Config{
			Image:        spec.ImageID,
			User:         strconv.Itoa(spec.UID) + ":" + strconv.Itoa(spec.GID),
			Entrypoint:   spec.Command, // the whole argv: an image's own entrypoint is not asked
			Env:          env,
			WorkingDir:   spec.WorkDir,
			OpenStdin:    spec.Stdin,
			ExposedPorts: exposed,
			Labels:       labels(spec, node),
			Healthcheck:  &container.HealthConfig{Test: []string{"NONE"}}, // readiness is wings' to find out
		},
		HostConfig: &container.HostConfig{
			NetworkMode:    networkMode,
			PortBindings:   bindings,
			RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyDisabled}, // wings decides
			LogConfig:      logConfig,
			CapDrop:        []string{"ALL"},
			SecurityOpt:    []string{"no-new-privileges"},
			ReadonlyRootfs: true,
			Tmpfs:          tmpfs(spec, volumes),
			Mounts:         mounts(spec),
			Resources:      resources(spec.Limits),
			Init:           &yes, // some games ignore SIGTERM as pid 1, and none reaps orphans
		},
	}, nil
}

// checkSpec refuses what no container of ours may be.
func checkSpec(spec ContainerSpec) error {
	switch {
	case spec.UID <= 0 || spec.GID <= 0:
		return fmt.Errorf("user %d:%d: games never run as root", spec.UID, spec.GID)
	case spec.Role != RoleGame && spec.Role != RoleInstall:
		return fmt.Errorf("role %q is none of game, install", spec.Role)
	case spec.Role == RoleInstall && len(spec.Ports) > 0:
		return errors.New("an install container publishes no ports")
	case len(spec.Command) == 0:
		return errors.New("the command is empty")
	case spec.Limits.MemoryMiB <= 0 || spec.Limits.CPUMillicores <= 0 || spec.Limits.PIDs <= 0:
		return errors.New("memory, cpu and pids must be limited")
	case !path.IsAbs(spec.WorkDir) || !path.IsAbs(spec.DataDir):
		return fmt.Errorf("data folder %q at %q: both must be absolute", spec.DataDir, spec.WorkDir)
	}
	return nil
}

func labels(spec ContainerSpec, node string) map[string]string {
	return map[string]string{
		LabelServer: spec.ServerID,
		LabelTenant: spec.TenantID,
		LabelEpoch:  strconv.FormatInt(spec.Epoch, 10),
		LabelRole:   string(spec.Role),
		LabelSpec:   spec.Hash(),
		LabelNode:   node,
	}
}

func resources(l wire.Limits) container.Resources {
	no := false
	return container.Resources{
		Memory:         l.MemoryMiB << 20,
		MemorySwap:     (l.MemoryMiB + l.SwapMiB) << 20, // the API counts memory and swap together
		NanoCPUs:       l.CPUMillicores * 1e6,
		PidsLimit:      &l.PIDs,
		BlkioWeight:    uint16(l.IOWeight), // 0 is the engine's default; discarded with a warning where the kernel has none
		OomKillDisable: &no,
	}
}

// mounts binds the data folder, and the script folder if there is one. A bind of type "mount" is
// refused when the source is missing; the older form would make it, owned by root.
func mounts(spec ContainerSpec) []mount.Mount {
	private := &mount.BindOptions{Propagation: mount.PropagationRPrivate}
	list := []mount.Mount{{Type: mount.TypeBind, Source: spec.DataDir, Target: spec.WorkDir, BindOptions: private}}
	if spec.ScriptDir != "" {
		list = append(list, mount.Mount{
			Type: mount.TypeBind, Source: spec.ScriptDir, Target: ScriptMount, ReadOnly: true, BindOptions: private,
		})
	}
	return list
}

// tmpfs lists the writable places besides the data folder. A volume that an image declares would
// become an anonymous one on the engine's disk, outside every quota; it becomes a tmpfs instead.
func tmpfs(spec ContainerSpec, volumes map[string]struct{}) map[string]string {
	taken := []string{path.Clean(spec.WorkDir), ScriptMount}
	places := map[string]string{}
	for _, place := range append(slices.Sorted(maps.Keys(volumes)), "/tmp") {
		if clean := path.Clean(place); !slices.Contains(taken, clean) {
			places[clean] = tmpOptions
		}
	}
	return places
}

// portMaps publishes exactly the given ports on exactly their addresses. An empty HostIP is refused:
// the API would take it for every address of the machine.
func portMaps(ports []wire.Port) (network.PortSet, network.PortMap, error) {
	exposed, bindings := network.PortSet{}, network.PortMap{}
	for _, p := range ports {
		ip, err := netip.ParseAddr(p.HostIP)
		if err != nil {
			return nil, nil, fmt.Errorf("port %s: host address %q: %w", p.Name, p.HostIP, err)
		}
		if !validPort(p.HostPort) || !validPort(p.ContainerPort) {
			return nil, nil, fmt.Errorf("port %s: %d→%d is out of range", p.Name, p.HostPort, p.ContainerPort)
		}
		if p.Protocol != wire.TCP && p.Protocol != wire.UDP {
			return nil, nil, fmt.Errorf("port %s: protocol %q is none of tcp, udp", p.Name, p.Protocol)
		}
		inside, _ := network.PortFrom(uint16(p.ContainerPort), network.IPProtocol(p.Protocol))
		exposed[inside] = struct{}{}
		bindings[inside] = append(bindings[inside], network.PortBinding{HostIP: ip, HostPort: strconv.Itoa(p.HostPort)})
	}
	return exposed, bindings, nil
}

func validPort(n int) bool { return n >= 1 && n <= 65535 }
