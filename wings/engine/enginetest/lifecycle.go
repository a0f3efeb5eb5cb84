package enginetest

import (
	"context"
	"sync"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

func (s *suite) createIsIdempotent() {
	spec := s.spec("exit", "0")
	first := s.create(spec)
	again, err := s.Engine.Create(s.ctx, "test.create", spec)
	s.must(err)
	other, err := s.Again(s.t).Create(s.ctx, "test.create", spec)
	s.must(err)
	if first == "" || again != first || other != first {
		s.t.Errorf("ids %q, %q, %q of one spec", first, again, other)
	}
	var wg sync.WaitGroup
	ids := make([]string, 4)
	raced := s.spec("exit", "0")
	for i := range ids {
		wg.Go(func() {
			id, err := s.Engine.Create(s.ctx, "test.create", raced)
			if err != nil {
				s.t.Errorf("create in a race: %v", err)
			}
			ids[i] = id
		})
	}
	wg.Wait()
	s.create(raced)
	for _, id := range ids {
		if id != ids[0] {
			s.t.Errorf("a race made %v", ids)
		}
	}
}

func (s *suite) createConflicts() {
	spec := s.spec("exit", "0")
	s.create(spec)
	spec.Limits.MemoryMiB++
	_, err := s.Engine.Create(s.ctx, "test.create", spec)
	s.wantErr(err, engine.ErrConflict, "another spec under the same name")
}

func (s *suite) createRefuses() {
	for name, spoil := range map[string]func(*engine.ContainerSpec){
		"root":              func(c *engine.ContainerSpec) { c.UID = 0 },
		"root's group":      func(c *engine.ContainerSpec) { c.GID = 0 },
		"no command":        func(c *engine.ContainerSpec) { c.Command = nil },
		"no memory limit":   func(c *engine.ContainerSpec) { c.Limits.MemoryMiB = 0 },
		"no pid limit":      func(c *engine.ContainerSpec) { c.Limits.PIDs = 0 },
		"a port everywhere": func(c *engine.ContainerSpec) { c.Ports = []wire.Port{port("", 1024)} },
		"an install with ports": func(c *engine.ContainerSpec) {
			c.Role, c.Ports = engine.RoleInstall, []wire.Port{port("127.0.0.1", 1024)}
		},
	} {
		spec := s.spec("exit", "0")
		spoil(&spec)
		if id, err := s.Engine.Create(s.ctx, "test.create", spec); err == nil {
			s.t.Errorf("%s was accepted", name)
			s.must(s.Engine.Remove(s.ctx, "test.remove", id))
		}
	}
	spec := s.spec("exit", "0")
	spec.ImageID = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	_, err := s.Engine.Create(s.ctx, "test.create", spec)
	s.wantErr(err, engine.ErrImageUnavailable, "an image that went away")
}

func (s *suite) start() {
	id := s.run("echo")
	s.startIt(id)
	first, err := s.Engine.Inspect(s.ctx, "test.inspect", id)
	s.must(err)
	s.startIt(id)
	second, err := s.Engine.Inspect(s.ctx, "test.inspect", id)
	s.must(err)
	if !first.Running || !second.Running || !first.StartedAt.Equal(second.StartedAt) || first.StartedAt.IsZero() {
		s.t.Errorf("started again: %+v, then %+v", first, second)
	}
	s.wantErr(s.Engine.Start(s.ctx, "test.start", NewID()), engine.ErrNotFound, "start of nothing")
}

func (s *suite) describe() {
	spec := s.spec("exit", "0")
	id := s.create(spec)
	install := s.spec("exit", "0")
	install.Role, install.Epoch, install.Name = engine.RoleInstall, 9, install.Name+"-install"
	installID := s.create(install)
	for _, e := range []engine.Engine{s.Engine, s.Again(s.t)} {
		byName, err := e.Inspect(s.ctx, "test.inspect", spec.Name)
		s.must(err)
		want := engine.Container{
			ID: id, Name: spec.Name, ServerID: spec.ServerID, TenantID: spec.TenantID, Epoch: 3,
			Role: engine.RoleGame, SpecHash: spec.Hash(),
		}
		if byName != want {
			s.t.Errorf("inspect = %+v, want %+v", byName, want)
		}
		list, err := e.List(s.ctx, "test.list")
		s.must(err)
		found := map[string]engine.Container{}
		for _, c := range list {
			found[c.ID] = c
		}
		if len(list) != 2 || found[id] != want || found[installID].Role != engine.RoleInstall || found[installID].Epoch != 9 {
			s.t.Errorf("list = %+v", list)
		}
	}
	_, err := s.Engine.Inspect(s.ctx, "test.inspect", NewID())
	s.wantErr(err, engine.ErrNotFound, "inspect of nothing")
}

func (s *suite) exitCodes() {
	id := s.create(s.spec("exit", "7"))
	running := s.run("echo")
	type outcome struct {
		exit engine.Exit
		err  error
	}
	waited := make(chan outcome, 2)
	for range cap(waited) {
		go func() {
			exit, err := s.Engine.Wait(s.ctx, "test.wait", running)
			waited <- outcome{exit, err}
		}()
	}
	before := time.Now().Add(-time.Minute)
	s.startIt(id)
	for range 2 { // while it runs or just ended, and surely afterwards
		if exit := s.wait(id); exit.Code != 7 || exit.OOMKilled || exit.At.Before(before) {
			s.t.Errorf("exit = %+v, want code 7", exit)
		}
	}
	c, err := s.Engine.Inspect(s.ctx, "test.inspect", id)
	s.must(err)
	if c.Running || c.Exit.Code != 7 || c.Exit.At.Before(c.StartedAt) {
		s.t.Errorf("inspect after the end = %+v", c)
	}
	in, err := s.Engine.Stdin(s.ctx, "test.stdin", running)
	s.must(err)
	s.say(in, "stop")
	s.must(in.Close())
	for range cap(waited) {
		if o := <-waited; o.err != nil || o.exit.Code != 0 {
			s.t.Errorf("who waited meanwhile got %+v, %v", o.exit, o.err)
		}
	}
}

func (s *suite) waitAtOnce() {
	id := s.create(s.spec("exit", "7"))
	if exit := s.wait(id); exit != (engine.Exit{}) {
		s.t.Errorf("exit of what never ran = %+v", exit)
	}
	_, err := s.Engine.Wait(s.ctx, "test.wait", NewID())
	s.wantErr(err, engine.ErrNotFound, "wait for nothing")
}

func (s *suite) waitCancelled() {
	id := s.run("echo")
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := s.Engine.Wait(ctx, "test.wait", id)
		ended <- err
	}()
	cancel()
	s.wantErr(<-ended, context.Canceled, "cancelled wait")
	c, err := s.Engine.Inspect(s.ctx, "test.inspect", id)
	s.must(err)
	if !c.Running {
		s.t.Error("the game ended with the wait")
	}
}

func (s *suite) sigterm() {
	id := s.run("polite")
	stream := s.follow(id, time.Time{})
	s.until(stream, "ready")
	s.must(s.Engine.Signal(s.ctx, "test.signal", id, "SIGTERM"))
	s.until(stream, "bye")
	if exit := s.wait(id); exit.Code != 0 {
		s.t.Errorf("exit = %+v, want the game's own 0", exit)
	}
	s.wantErr(s.Engine.Signal(s.ctx, "test.signal", id, "SIGTERM"), engine.ErrNotRunning, "signal after the end")
	s.wantErr(s.Engine.Signal(s.ctx, "test.signal", NewID(), "SIGTERM"), engine.ErrNotFound, "signal to nothing")
}

func (s *suite) sigkill() {
	id := s.run("stubborn")
	s.until(s.follow(id, time.Time{}), "ready")
	s.must(s.Engine.Signal(s.ctx, "test.signal", id, "SIGTERM"))
	c, err := s.Engine.Inspect(s.ctx, "test.inspect", id)
	s.must(err)
	if !c.Running {
		s.t.Error("SIGTERM ended a game that ignores it")
	}
	s.must(s.Engine.Signal(s.ctx, "test.signal", id, "SIGKILL"))
	if exit := s.wait(id); exit.Code != 137 || exit.OOMKilled {
		s.t.Errorf("exit = %+v, want 137", exit)
	}
}

func (s *suite) restart() {
	id := s.run("lines", "2")
	s.wait(id)
	first, err := s.Engine.Inspect(s.ctx, "test.inspect", id)
	s.must(err)
	lines := s.all(id, time.Time{})
	s.startIt(id)
	s.wait(id)
	second, err := s.Engine.Inspect(s.ctx, "test.inspect", id)
	s.must(err)
	if !second.StartedAt.After(first.StartedAt) {
		s.t.Errorf("started at %v, then at %v", first.StartedAt, second.StartedAt)
	}
	s.wantTexts(lines, numbered("line %d", 2), "first run")
	s.wantTexts(s.all(id, lines[len(lines)-1].At), numbered("line %d", 2), "second run")
	s.resumes(id, s.all(id, time.Time{}))
}

func (s *suite) environment() {
	id := s.run("echo")
	stream := s.follow(id, time.Time{})
	in, err := s.Engine.Stdin(s.ctx, "test.stdin", id)
	s.must(err)
	defer in.Close()
	s.say(in, "env")
	s.until(stream, "GREETING=hello")
	s.say(in, "id")
	if line := s.next(stream); line.Text != itoa(s.UID)+":"+itoa(s.GID) {
		s.t.Errorf("the game runs as %s, want %d:%d", line.Text, s.UID, s.GID)
	}
}

func (s *suite) remove() {
	id := s.run("stubborn")
	stream := s.follow(id, time.Time{})
	s.until(stream, "ready")
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		_, _ = s.Engine.Wait(s.ctx, "test.wait", id) // either answer is right: it ended, or it is gone
	}()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := s.Engine.Remove(s.ctx, "test.remove", id); err != nil {
				s.t.Errorf("remove: %v", err)
			}
		})
	}
	wg.Wait()
	s.must(s.Engine.Remove(s.ctx, "test.remove", id))
	s.must(s.Engine.Remove(s.ctx, "test.remove", NewID()))
	_, err := s.Engine.Inspect(s.ctx, "test.inspect", id)
	s.wantErr(err, engine.ErrNotFound, "inspect after remove")
	s.rest(stream)
	<-waited
	_, err = s.Engine.Logs(s.ctx, "test.logs", id, time.Time{})
	s.wantErr(err, engine.ErrNotFound, "logs after remove")
}

func (s *suite) install() {
	spec := s.spec("exit", "3")
	spec.Role, spec.Name = engine.RoleInstall, spec.Name+"-install"
	id := s.create(spec)
	s.startIt(id)
	if exit := s.wait(id); exit.Code != 3 {
		s.t.Errorf("exit = %+v, want 3", exit)
	}
}

func (s *suite) outOfMemory() {
	spec := s.spec("hog")
	spec.Limits.MemoryMiB = 16
	id := s.create(spec)
	s.startIt(id)
	if exit := s.wait(id); exit.Code != 137 || !exit.OOMKilled {
		s.t.Errorf("exit = %+v, want 137 by lack of memory", exit)
	}
	c, err := s.Engine.Inspect(s.ctx, "test.inspect", id)
	s.must(err)
	if !c.Exit.OOMKilled {
		s.t.Errorf("inspect = %+v, want OOMKilled", c)
	}
}

func (s *suite) info() {
	info, err := s.Engine.Info(s.ctx, "test.info")
	s.must(err)
	if info.Name == "" || info.Version == "" || info.CPUs < 1 || info.MemMiB < 1 {
		s.t.Errorf("info = %+v", info)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	if _, err := s.Engine.Info(ctx, "test.info"); err == nil {
		s.t.Error("a cancelled call was answered")
	}
}

func (s *suite) closed() {
	e := s.Again(s.t)
	id := s.run("echo")
	stream, err := e.Logs(s.ctx, "test.logs", id, time.Time{})
	s.must(err)
	s.until(stream, "ready")
	waited := make(chan error, 1)
	go func() {
		_, err := e.Wait(s.ctx, "test.wait", id)
		waited <- err
	}()
	s.must(e.Close())
	s.must(e.Close())
	s.rest(stream)
	if stream.Err() == nil || <-waited == nil {
		s.t.Error("a closed client's log or wait ended as if the game had")
	}
	c, err := s.Engine.Inspect(s.ctx, "test.inspect", id)
	s.must(err)
	if !c.Running {
		s.t.Error("the game ended with the client")
	}
}
