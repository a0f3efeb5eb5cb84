package enginetest

import (
	"context"
	"slices"
	"sync"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

func port(ip string, number int) wire.Port {
	return wire.Port{Name: "game", HostIP: ip, HostPort: number, ContainerPort: 7777, Protocol: wire.TCP}
}

// network makes a network for the case and removes it at its end.
func (s *suite) ensureNetwork(tenant string) string {
	s.t.Helper()
	name, err := s.Engine.EnsureNetwork(s.ctx, "test.network", tenant)
	s.must(err)
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Again(s.t).RemoveNetworkIfUnused(ctx, "test.cleanup", tenant); err != nil {
			s.t.Errorf("clean up: %v", err)
		}
	})
	return name
}

// onPort is a game that publishes p.
func (s *suite) onPort(p wire.Port) string {
	s.t.Helper()
	spec := s.spec("echo")
	spec.Network = s.ensureNetwork(spec.TenantID)
	spec.Ports = []wire.Port{p}
	return s.create(spec)
}

func (s *suite) portOfContainer() {
	p := port("127.0.0.1", s.FreePort(s.t))
	first, second := s.onPort(p), s.onPort(p)
	s.startIt(first)
	s.wantErr(s.Engine.Start(s.ctx, "test.start", second), engine.ErrPortTaken, "start on another's port")
	c, err := s.Engine.Inspect(s.ctx, "test.inspect", second)
	s.must(err)
	if c.Running {
		s.t.Error("it runs without its port")
	}
	s.must(s.Engine.Remove(s.ctx, "test.remove", first))
	s.startIt(second)
}

func (s *suite) portOfOther() {
	p := port("127.0.0.1", s.FreePort(s.t))
	free := s.TakePort(s.t, p)
	id := s.onPort(p)
	s.wantErr(s.Engine.Start(s.ctx, "test.start", id), engine.ErrPortTaken, "start on a taken port")
	free()
	s.startIt(id)
}

func (s *suite) portBothProtocols() {
	tcp := port("127.0.0.1", s.FreePort(s.t))
	udp := tcp
	udp.Protocol = wire.UDP
	s.startIt(s.onPort(tcp))
	s.startIt(s.onPort(udp))
}

func (s *suite) network() {
	spec := s.spec("echo")
	var wg sync.WaitGroup
	for range 3 { // first use of one tenant by several servers at once
		wg.Go(func() {
			if _, err := s.Engine.EnsureNetwork(s.ctx, "test.network", spec.TenantID); err != nil {
				s.t.Errorf("ensure network: %v", err)
			}
		})
	}
	wg.Wait()
	spec.Network = s.ensureNetwork(spec.TenantID)
	if other := s.ensureNetwork(NewID()); other == spec.Network {
		s.t.Errorf("two tenants share %s", other)
	}
	count := func() int {
		n := 0
		for _, name := range s.Networks(s.t) {
			if name == spec.Network {
				n++
			}
		}
		return n
	}
	if n := count(); n != 1 {
		s.t.Errorf("%d networks of name %s", n, spec.Network)
	}
	id := s.create(spec)
	s.must(s.Engine.RemoveNetworkIfUnused(s.ctx, "test.network", spec.TenantID))
	if count() != 1 {
		s.t.Fatal("the network of a container that was not started yet was removed")
	}
	s.startIt(id)
	s.must(s.Engine.RemoveNetworkIfUnused(s.ctx, "test.network", spec.TenantID))
	if count() != 1 {
		s.t.Fatal("the network of a running container was removed")
	}
	s.must(s.Engine.Remove(s.ctx, "test.remove", id))
	for range 2 {
		s.must(s.Engine.RemoveNetworkIfUnused(s.ctx, "test.network", spec.TenantID))
		if count() != 0 {
			s.t.Error("an unused network is still there")
		}
	}
	s.ensureNetwork(spec.TenantID)
	if count() != 1 {
		s.t.Error("the network was not made again")
	}
}

// networkHeals removes the network behind a container's back, as `docker network prune` does while
// a server is stopped.
func (s *suite) networkHeals() {
	spec := s.spec("echo")
	spec.Network = s.ensureNetwork(spec.TenantID)
	spec.Ports = []wire.Port{port("127.0.0.1", s.FreePort(s.t))}
	id := s.create(spec)
	s.DropNetwork(s.t, spec.Network)
	s.startIt(id) // never started before
	s.must(s.Engine.Signal(s.ctx, "test.signal", id, "SIGKILL"))
	s.wait(id)
	s.DropNetwork(s.t, spec.Network)
	s.startIt(id) // the engine remembers the old one
	if !slices.Contains(s.Networks(s.t), spec.Network) {
		s.t.Errorf("%s is not there while its container runs", spec.Network)
	}
}

func (s *suite) image() {
	first, err := s.Engine.EnsureImage(s.ctx, "test.image", s.Image, nil)
	s.must(err)
	second, err := s.Again(s.t).EnsureImage(s.ctx, "test.image", s.Image, func(int, string) {})
	s.must(err)
	if first == "" || first != second {
		s.t.Errorf("ids %q and %q of one image", first, second)
	}
}

func (s *suite) imageMissing() {
	for _, image := range []wire.Image{s.Missing, {}, {Builtin: "no-such"}, {Ref: "../containers/json?x="}} {
		_, err := s.Engine.EnsureImage(s.ctx, "test.image", image, nil)
		s.wantErr(err, engine.ErrImageUnavailable, "image "+image.Ref+image.Builtin)
	}
}
