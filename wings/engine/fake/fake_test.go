package fake_test

import (
	"testing"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/enginetest"
	"github.com/mambahost/mamba/wings/engine/fake"
	"github.com/mambahost/mamba/wings/wire"
)

func TestFakeDoesWhatAnEngineMust(t *testing.T) {
	t.Parallel()
	enginetest.Exercise(t, func(t *testing.T) enginetest.Harness {
		m := fake.New(fake.Config{})
		m.SetImage("mamba.test/busybox", fake.Image{Present: true, Game: fake.TestGame})
		t.Cleanup(m.Close)
		again := func(t *testing.T) engine.Engine {
			e := m.Engine("node1")
			t.Cleanup(func() { _ = e.Close() })
			return e
		}
		port := 20000
		return enginetest.Harness{
			Engine: again(t), Again: again,
			Image: wire.Image{Ref: "mamba.test/busybox"}, Missing: wire.Image{Ref: "mamba.test/nowhere"},
			DataDir: "/data", UID: 988, GID: 988,
			FreePort:    func(*testing.T) int { port++; return port },
			TakePort:    func(_ *testing.T, p wire.Port) func() { return m.TakePort(p.HostIP, p.HostPort, p.Protocol) },
			Networks:    func(*testing.T) []string { return m.Networks() },
			DropNetwork: func(_ *testing.T, name string) { m.DropNetwork(name) },
		}
	})
}
