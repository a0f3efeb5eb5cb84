package engine_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/dockertest"
	"github.com/mambahost/mamba/wings/engine/enginetest"
	"github.com/mambahost/mamba/wings/wire"
)

// bench is an engine on the shared daemon, with helpers that clean up after themselves.
type bench struct {
	*engine.Docker
	t     *testing.T
	ctx   context.Context
	host  string
	node  string
	image wire.Image
	api   *client.Client
}

func newBench(t *testing.T, change ...func(*engine.Config)) *bench {
	t.Helper()
	return benchOn(t, dockertest.Daemon(t), change...)
}

func benchOn(t *testing.T, host string, change ...func(*engine.Config)) *bench {
	t.Helper()
	node := enginetest.NewID()
	t.Cleanup(func() { dockertest.AssertClean(t, host, engine.LabelNode, node) })
	cfg := engine.Config{Host: host, NodeLabel: node, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return &bench{
		Docker: connect(t, cfg), t: t, ctx: ctx, host: host, node: node,
		image: wire.Image{Ref: dockertest.Image(t, host)}, api: dockertest.Client(t, host),
	}
}

// spec is a game on its tenant's network that runs /game with argv.
func (b *bench) spec(tenant string, argv ...string) engine.ContainerSpec {
	b.t.Helper()
	imageID, err := b.EnsureImage(b.ctx, "test.image", b.image, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	name, err := b.EnsureNetwork(b.ctx, "test.network", tenant)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := b.RemoveNetworkIfUnused(context.WithoutCancel(b.ctx), "test.cleanup", tenant); err != nil {
			b.t.Errorf("clean up: %v", err)
		}
	})
	server := enginetest.NewID()
	return engine.ContainerSpec{
		Name: "mh-" + server, ServerID: server, TenantID: tenant, Epoch: 1, Role: engine.RoleGame,
		ImageID: imageID, Command: append([]string{"/game"}, argv...), WorkDir: "/home/container",
		DataDir: dataDir(b.t), Network: name, UID: player, GID: player, Stdin: true,
		Limits: wire.Limits{CPUMillicores: 1500, MemoryMiB: 96, SwapMiB: 32, DiskMiB: 64, PIDs: 48, IOWeight: 300},
	}
}

func (b *bench) create(spec engine.ContainerSpec) string {
	b.t.Helper()
	id, err := b.Create(b.ctx, "test.create", spec)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := b.Remove(context.WithoutCancel(b.ctx), "test.cleanup", id); err != nil {
			b.t.Errorf("clean up: %v", err)
		}
	})
	return id
}

func (b *bench) start(id string) {
	b.t.Helper()
	if err := b.Start(b.ctx, "test.start", id); err != nil {
		b.t.Fatal(err)
	}
}

// output runs spec to its end and returns its exit and lines.
func (b *bench) output(spec engine.ContainerSpec) (engine.Exit, []string) {
	b.t.Helper()
	id := b.create(spec)
	b.start(id)
	exit, err := b.Wait(b.ctx, "test.wait", id)
	if err != nil {
		b.t.Fatal(err)
	}
	stream, err := b.Logs(b.ctx, "test.logs", id, time.Time{})
	if err != nil {
		b.t.Fatal(err)
	}
	var lines []string
	for line := range stream.C {
		lines = append(lines, line.Text)
	}
	if err := stream.Err(); err != nil {
		b.t.Fatal(err)
	}
	return exit, lines
}

func (b *bench) inspect(id string) container.InspectResponse {
	b.t.Helper()
	res, err := b.api.ContainerInspect(b.ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	return res.Container
}

func TestDockerInspectShowsEveryLimitAndEveryLock(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tenant := enginetest.NewID()
	spec := b.spec(tenant, "echo")
	spec.Env = map[string]string{"B": "2", "A": "1=1"}
	spec.ScriptDir = t.TempDir()
	tcp, udp := freePort(t), freePort(t)
	spec.Ports = []wire.Port{
		{Name: "game", HostIP: "127.0.0.1", HostPort: tcp, ContainerPort: 25565, Protocol: wire.TCP},
		{Name: "query", HostIP: "127.0.0.1", HostPort: udp, ContainerPort: 25565, Protocol: wire.UDP},
	}
	id := b.create(spec)
	b.start(id)
	in := b.inspect(id)
	hc, cfg := in.HostConfig, in.Config

	check := func(what string, ok bool, got any) {
		t.Helper()
		if !ok {
			t.Errorf("%s: %v", what, got)
		}
	}
	check("memory in bytes", hc.Memory == 96<<20, hc.Memory)
	check("memory and swap in bytes", hc.MemorySwap == (96+32)<<20, hc.MemorySwap)
	check("CPU in 1e-9 cores", hc.NanoCPUs == 1_500_000_000, hc.NanoCPUs)
	check("pids", hc.PidsLimit != nil && *hc.PidsLimit == 48, hc.PidsLimit)
	check("the OOM killer is on", hc.OomKillDisable == nil || !*hc.OomKillDisable, hc.OomKillDisable)
	check("user", cfg.User == "988:988", cfg.User)
	check("capabilities dropped", slices.Equal(hc.CapDrop, []string{"ALL"}) && len(hc.CapAdd) == 0, hc)
	check("no new privileges", slices.Equal(hc.SecurityOpt, []string{"no-new-privileges"}), hc.SecurityOpt)
	check("read-only root", hc.ReadonlyRootfs, hc.ReadonlyRootfs)
	check("not privileged", !hc.Privileged, hc.Privileged)
	check("no devices", len(hc.Devices) == 0, hc.Devices)
	check("no volumes of others, no binds in the old form", len(hc.Binds) == 0 && len(hc.VolumesFrom) == 0, hc)
	check("pid, ipc, uts namespaces", !hc.PidMode.IsHost() && !hc.IpcMode.IsHost() && !hc.UTSMode.IsHost(), hc)
	check("init", hc.Init != nil && *hc.Init, hc.Init)
	check("wings alone restarts", hc.RestartPolicy.IsNone(), hc.RestartPolicy)
	check("bounded log", hc.LogConfig.Config["max-size"] == "10m" && hc.LogConfig.Config["max-file"] == "3", hc.LogConfig)
	check("tmpfs", len(hc.Tmpfs) == 1 && strings.Contains(hc.Tmpfs["/tmp"], "size=64m"), hc.Tmpfs)
	check("network", string(hc.NetworkMode) == "mh-net-"+tenant && len(in.NetworkSettings.Networks) == 1, hc.NetworkMode)
	check("env", slices.Contains(cfg.Env, "A=1=1") && slices.Contains(cfg.Env, "B=2"), cfg.Env)
	check("stdin", cfg.OpenStdin && !cfg.StdinOnce && !cfg.Tty, cfg)
	check("no health check", cfg.Healthcheck != nil && slices.Equal(cfg.Healthcheck.Test, []string{"NONE"}), cfg.Healthcheck)
	check("labels", cfg.Labels[engine.LabelNode] == b.node && cfg.Labels[engine.LabelServer] == spec.ServerID &&
		cfg.Labels[engine.LabelTenant] == tenant && cfg.Labels[engine.LabelEpoch] == "1" &&
		cfg.Labels[engine.LabelRole] == "game" && cfg.Labels[engine.LabelSpec] == spec.Hash(), cfg.Labels)

	mounts := map[string]container.MountPoint{}
	for _, m := range in.Mounts {
		mounts[m.Destination] = m
	}
	data, script := mounts["/home/container"], mounts[engine.ScriptMount]
	check("two mounts", len(mounts) == 2, in.Mounts)
	check("data", data.Type == mount.TypeBind && data.Source == spec.DataDir && data.RW, data)
	check("script", script.Source == spec.ScriptDir && !script.RW, script)

	for inside, outside := range map[string]int{"25565/tcp": tcp, "25565/udp": udp} {
		got := hc.PortBindings[network.MustParsePort(inside)]
		check("port "+inside, len(got) == 1 && got[0].HostIP.String() == "127.0.0.1" && got[0].HostPort == strconv.Itoa(outside), got)
	}
	check("nothing else is published", len(hc.PortBindings) == 2 && !hc.PublishAllPorts, hc.PortBindings)
}

func TestDockerInspectShowsAnInstallWithoutNetworkOrPorts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := b.spec(enginetest.NewID(), "exit", "0")
	spec.Role, spec.Network, spec.Stdin = engine.RoleInstall, "", false
	in := b.inspect(b.create(spec))
	if string(in.HostConfig.NetworkMode) != "none" || len(in.HostConfig.PortBindings) != 0 || in.Config.OpenStdin {
		t.Errorf("network %q, ports %v, stdin %v", in.HostConfig.NetworkMode, in.HostConfig.PortBindings, in.Config.OpenStdin)
	}
	if !in.HostConfig.ReadonlyRootfs || !slices.Equal(in.HostConfig.CapDrop, []string{"ALL"}) || in.Config.User != "988:988" {
		t.Errorf("an install is less locked than a game: %+v", in.HostConfig)
	}
}

// What the settings mean is asked from inside: a game that tries.
func TestDockerLocksHoldFromInside(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := b.spec(enginetest.NewID(), "shell", `
try() { if "$@" 2>/dev/null; then echo "yes: $*"; else echo "no: $*"; fi; }
grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t'
try touch /etc/passwd
try touch /new
try touch /home/container/save
try touch /mnt/install/new
try cat /mnt/install/install.sh
printf '#!/bin/sh\nexit 0\n' > /tmp/library && chmod +x /tmp/library
try /tmp/library
try dd if=/dev/zero of=/tmp/big bs=1M count=70
try mount -t tmpfs none /home/container
try unshare -U true
true`)
	spec.ScriptDir = t.TempDir()
	if err := os.WriteFile(filepath.Join(spec.ScriptDir, "install.sh"), []byte("echo installing\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	exit, lines := b.output(spec)
	want := []string{
		"CapBnd:0000000000000000", "CapEff:0000000000000000", "NoNewPrivs:1", "Seccomp:2",
		"no: touch /etc/passwd", "no: touch /new", "yes: touch /home/container/save", "no: touch /mnt/install/new",
		"echo installing", "yes: cat /mnt/install/install.sh", "yes: /tmp/library",
		"no: dd if=/dev/zero of=/tmp/big bs=1M count=70", "no: mount -t tmpfs none /home/container",
		"no: unshare -U true",
	}
	for _, line := range want {
		if !slices.Contains(lines, line) {
			t.Errorf("missing: %s", line)
		}
	}
	if t.Failed() || exit.Code != 0 {
		t.Logf("exit %+v, output:\n%s", exit, strings.Join(lines, "\n"))
	}
	info, err := os.Stat(filepath.Join(spec.DataDir, "save"))
	if err != nil {
		t.Fatalf("what the game saved is not on the node: %v", err)
	}
	if info.Size() != 0 {
		t.Errorf("save has %d bytes", info.Size())
	}
}

func TestDockerRefusesADataFolderThatIsNotThere(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := b.spec(enginetest.NewID(), "exit", "0")
	spec.DataDir = filepath.Join(spec.DataDir, "missing")
	if _, err := b.Create(b.ctx, "test.create", spec); err == nil {
		t.Error("it was accepted")
	}
	if _, err := os.Stat(spec.DataDir); !os.IsNotExist(err) {
		t.Errorf("the engine made it: %v", err)
	}
}

func TestDockerMakesImageVolumesTemporary(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := b.spec(enginetest.NewID(), "exit", "0")
	made, err := b.api.ContainerCreate(b.ctx, client.ContainerCreateOptions{
		Config:     &container.Config{Image: spec.ImageID, Labels: map[string]string{engine.LabelNode: b.node}},
		HostConfig: &container.HostConfig{NetworkMode: "none"},
	})
	if err != nil {
		t.Fatal(err)
	}
	tag := "mamba.test/volumes:" + b.node
	committed, err := b.api.ContainerCommit(b.ctx, made.ID, client.ContainerCommitOptions{
		Reference: tag, Changes: []string{"VOLUME /var/world", "VOLUME /home/container"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := b.api.ImageRemove(context.WithoutCancel(b.ctx), committed.ID, client.ImageRemoveOptions{Force: true}); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	if _, err := b.api.ContainerRemove(b.ctx, made.ID, client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	spec.ImageID = committed.ID
	in := b.inspect(b.create(spec))
	if _, ok := in.HostConfig.Tmpfs["/var/world"]; !ok || len(in.HostConfig.Tmpfs) != 2 {
		t.Errorf("tmpfs = %v, want /tmp and the image's volume", in.HostConfig.Tmpfs)
	}
	if len(in.Mounts) != 1 || in.Mounts[0].Destination != "/home/container" || in.Mounts[0].Type != mount.TypeBind {
		t.Errorf("mounts = %+v, want the data folder alone", in.Mounts)
	}
}

// A game or an installer that multiplies without end fills its own container and nothing else.
func TestAForkBombStaysInItsContainer(t *testing.T) {
	t.Parallel()
	for _, role := range []engine.Role{engine.RoleGame, engine.RoleInstall} {
		t.Run(string(role), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			spec := b.spec(enginetest.NewID(), "shell", `
n=0
while sleep 60 & do n=$((n+1)); echo "made $n"; done`) // ends when the shell cannot fork
			spec.Role, spec.Stdin, spec.Limits.PIDs = role, role == engine.RoleGame, 40
			exit, lines := b.output(spec)
			made := 0
			for _, line := range lines {
				if n, err := strconv.Atoi(strings.TrimPrefix(line, "made ")); err == nil {
					made = max(made, n)
				}
			}
			if made < 20 || made >= 40 || exit.Code == 0 {
				t.Errorf("%d processes were made of 40, it ended with %d", made, exit.Code)
			}
		})
	}
}
