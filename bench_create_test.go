//go:build bench

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	docker "github.com/moby/moby/client"
)

const serverLabel = "host.mamba.server"

// benchCreate: the click that creates a server → its container has started, beside the engine's own
// create and start of the same container. The image is there and nothing is installed.
func benchCreate(t *testing.T, r *report, _ sizes) {
	house := newPanel(t, "--local-node", "--node-ports", portRange(t, 40))
	house.start()
	c := house.customer("carla")
	engine := newEngine(t)
	root := house.super() // the variant is an operator's to pick; signing in is no part of the click
	root.tenant = c.tenant
	first := root.create(noInstallServer("keeper")) // keeps the tenant's network, and shows what a container is made of
	engine.started(first.ID)
	c.until(first.ID, 2*time.Minute, "RUNNING")
	n := 0
	p := alternate(*benchPairs, engine.createAndStart, func() float64 {
		n++
		clicked := time.Now()
		s := root.create(noInstallServer(fmt.Sprintf("bench %d", n)))
		took := engine.started(s.ID).Sub(clicked)
		c.until(s.ID, 2*time.Minute, "RUNNING")
		c.remove(s.ID)
		return milliseconds(took)
	})
	c.remove(first.ID)
	beyond := p.each(func(floor, ours float64) float64 { return ours - 1.15*floor })
	r.row("Create click → container started", ms(medianOf(p.floor)), ms(medianOf(p.ours)), times(p.ratio()), "≤ 1.15 × + 50 ms", beyond.median <= 50)
	r.note("Create: %.1f ms [%.1f–%.1f] more than 1.15 × the engine's own create and start. Both end at the container's State.StartedAt.", beyond.median, beyond.low, beyond.high)
}

// noInstallServer is a game whose image is on the machine and that has nothing to install.
func noInstallServer(name string) map[string]any {
	return map[string]any{
		"name": name, "blueprint": "luanti", "variant": "debian", "start": true,
		"limits": map[string]int{"cpu_millicores": 500, "memory_mib": 256, "disk_gib": 1},
	}
}

// remove deletes a server and returns when nothing of it is left.
func (c *client) remove(id string) {
	c.t.Helper()
	c.ok("DELETE", "/api/v1/servers/"+id, nil, nil)
	c.until(id, time.Minute, "DELETED")
}

// bareEngine asks the Docker Engine itself, through the client that wings uses.
type bareEngine struct {
	t      *testing.T
	cli    *docker.Client
	events docker.EventsResult
	like   container.InspectResponse // the container that createAndStart makes again
	made   int
}

func newEngine(t *testing.T) *bareEngine {
	opts := []docker.Opt{docker.FromEnv}
	if host := engineHost(); host != "" {
		opts = append(opts, docker.WithHost(host))
	}
	cli, err := docker.New(opts...)
	must(t, err)
	t.Cleanup(func() { cli.Close() })
	filters := make(docker.Filters).Add("type", "container").Add("event", "start").Add("label", serverLabel)
	return &bareEngine{t: t, cli: cli, events: cli.Events(t.Context(), docker.EventsListOptions{Filters: filters})}
}

// started waits for the container of a server and returns when the engine says that it started.
func (e *bareEngine) started(server string) time.Time {
	e.t.Helper()
	limit := time.After(2 * time.Minute)
	for {
		select {
		case m := <-e.events.Messages:
			if m.Actor.Attributes[serverLabel] != server {
				continue
			}
			e.like = e.inspect(m.Actor.ID)
			return startedAt(e.t, e.like)
		case err := <-e.events.Err:
			e.t.Fatalf("the engine's events: %v", err)
		case <-limit:
			e.t.Fatalf("no container of server %s was started", server)
		}
	}
}

func (e *bareEngine) inspect(id string) container.InspectResponse {
	e.t.Helper()
	res, err := e.cli.ContainerInspect(e.t.Context(), id, docker.ContainerInspectOptions{})
	must(e.t, err)
	return res.Container
}

func startedAt(t *testing.T, c container.InspectResponse) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, c.State.StartedAt)
	must(t, err)
	return at
}

// createAndStart makes a container like the last one of ours, with a name, a port and a data folder of
// its own, and returns the milliseconds until it has started.
func (e *bareEngine) createAndStart() float64 {
	e.t.Helper()
	ctx := e.t.Context()
	e.made++
	config, host := *e.like.Config, *e.like.HostConfig
	config.Hostname, config.Labels = "", map[string]string{"host.mamba.bench": "floor"}
	host.PortBindings = e.otherPorts()
	host.Mounts[0].Source = e.dataDir(config.User)
	began := time.Now()
	made, err := e.cli.ContainerCreate(ctx, docker.ContainerCreateOptions{Name: fmt.Sprintf("bench-floor-%d", e.made), Config: &config, HostConfig: &host})
	must(e.t, err)
	_, err = e.cli.ContainerStart(ctx, made.ID, docker.ContainerStartOptions{})
	must(e.t, err)
	took := startedAt(e.t, e.inspect(made.ID)).Sub(began)
	_, err = e.cli.ContainerRemove(ctx, made.ID, docker.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	must(e.t, err)
	return milliseconds(took)
}

// otherPorts are the bindings of the template on host ports that nothing else has.
func (e *bareEngine) otherPorts() network.PortMap {
	out := network.PortMap{}
	for inside, bindings := range e.like.HostConfig.PortBindings {
		for _, b := range bindings {
			first, _, _ := strings.Cut(portRange(e.t, 1), "-")
			b.HostPort = first
			out[inside] = append(out[inside], b)
		}
	}
	return out
}

// dataDir is an empty folder that belongs to user, "uid:gid".
func (e *bareEngine) dataDir(user string) string {
	e.t.Helper()
	owner, group, _ := strings.Cut(user, ":")
	uid, err := strconv.Atoi(owner)
	must(e.t, err)
	gid, err := strconv.Atoi(group)
	must(e.t, err)
	dir := e.t.TempDir()
	must(e.t, os.Chown(dir, uid, gid))
	return dir
}
