package enginetest

import (
	"time"

	"github.com/mambahost/mamba/wings/engine"
)

// stats: counters of one run grow, never beyond what the time allows, and begin anew with the next.
func (s *suite) stats() {
	id := s.run("burn")
	c, err := s.Engine.Inspect(s.ctx, "test.inspect", id)
	s.must(err)
	first := s.usedUntil(id, 50*time.Millisecond)
	if !first.StartedAt.Equal(c.StartedAt) {
		s.t.Errorf("counters of a run that began at %v, the container's began at %v", first.StartedAt, c.StartedAt)
	}
	limit := int64(64 << 20)
	if first.MemoryBytes <= 0 || first.MemoryBytes > limit {
		s.t.Errorf("memory of %d bytes, the limit is %d", first.MemoryBytes, limit)
	}
	if first.NetInBytes != 0 || first.NetOutBytes != 0 {
		s.t.Errorf("%d bytes in and %d out without a network", first.NetInBytes, first.NetOutBytes)
	}
	second := s.usedUntil(id, time.Duration(first.CPUNS)+50*time.Millisecond)
	if !second.StartedAt.Equal(first.StartedAt) {
		s.t.Errorf("one run began at %v and at %v", first.StartedAt, second.StartedAt)
	}

	s.must(s.Engine.Signal(s.ctx, "test.kill", id, "SIGKILL"))
	s.wait(id)
	_, err = s.Engine.Stats(s.ctx, "test.stats", id)
	s.wantErr(err, engine.ErrNotRunning, "counters of a run that is over")
	begun := time.Now()
	s.startIt(id)
	next := s.usedUntil(id, time.Millisecond)
	if !next.StartedAt.After(second.StartedAt) {
		s.t.Errorf("the second run began at %v, the first at %v", next.StartedAt, second.StartedAt)
	}
	if most := time.Since(begun) + time.Second; time.Duration(next.CPUNS) > most {
		s.t.Errorf("the second run used %v within %v: the counter went on", time.Duration(next.CPUNS), most)
	}
}

// usedUntil asks until the game has used that much processor time.
func (s *suite) usedUntil(id string, want time.Duration) engine.Stats {
	s.t.Helper()
	for end := time.Now().Add(patience); ; {
		got, err := s.Engine.Stats(s.ctx, "test.stats", id)
		s.must(err)
		if time.Duration(got.CPUNS) >= want {
			return got
		}
		if time.Now().After(end) {
			s.t.Fatalf("after %v the game has used %v, want %v", patience, time.Duration(got.CPUNS), want)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (s *suite) statsNeedGame() {
	id := s.create(s.spec("exit", "0"))
	_, err := s.Engine.Stats(s.ctx, "test.stats", id)
	s.wantErr(err, engine.ErrNotRunning, "before the first start")
	s.startIt(id)
	s.wait(id)
	_, err = s.Engine.Stats(s.ctx, "test.stats", id)
	s.wantErr(err, engine.ErrNotRunning, "after the end")
	s.must(s.Engine.Remove(s.ctx, "test.remove", id))
	_, err = s.Engine.Stats(s.ctx, "test.stats", id)
	s.wantErr(err, engine.ErrNotFound, "of what is not there")
}
