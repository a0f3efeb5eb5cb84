package engine_test

import (
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/engine/dockertest"
	"github.com/mambahost/mamba/wings/engine/enginetest"
)

// An engine without live-restore ends its games when it stops. Who waits for such a game gets an error
// and not its exit code, because Wait asks the engine again before it answers; so the agent does not
// take the engine's end for a crash of the game.
func TestEngineWithoutLiveRestoreTakesItsGamesAlong(t *testing.T) {
	t.Parallel()
	p := dockertest.Private(t, dockertest.Options{NoLiveRestore: true})
	b := benchOn(t, p.Host())
	id := b.create(b.spec(enginetest.NewID(), "polite"))
	b.start(id)
	stream, err := b.Logs(b.ctx, "engine.logs", id, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	readTo(t, stream, "ready")
	waited := make(chan error, 1)
	go func() {
		_, err := b.Wait(b.ctx, "engine.wait", id)
		waited <- err
	}()
	p.Stop(t)
	if err := <-waited; err == nil {
		t.Error("the engine's end was told as the game's")
	}
	if _, err := b.Info(b.ctx, "engine.info"); err == nil {
		t.Error("a stopped engine answers")
	}
	p.Start(t)
	c, err := b.Inspect(b.ctx, "engine.inspect", id)
	if err != nil {
		t.Fatal(err)
	}
	if c.Running || c.Exit.At.Before(c.StartedAt) || c.StartedAt.IsZero() {
		t.Errorf("after the engine's return: %+v", c)
	}
	b.start(id)
	if c, err = b.Inspect(b.ctx, "engine.inspect", id); err != nil || !c.Running {
		t.Errorf("it does not start again: %+v, %v", c, err)
	}
}

// The other side of the same coin: an engine that stays tells the exit.
func TestEngineThatStaysTellsTheExitOverAndOver(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := b.create(b.spec(enginetest.NewID(), "exit", "9"))
	b.start(id)
	for range 20 {
		if exit, err := b.Wait(b.ctx, "engine.wait", id); err != nil || exit.Code != 9 {
			t.Fatalf("exit %+v, %v", exit, err)
		}
	}
}
