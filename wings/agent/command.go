package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// bucket is a token bucket; safe for concurrent use.
type bucket struct {
	rate, burst float64

	mu     sync.Mutex
	tokens float64
	at     time.Time
}

func newBucket(rate, burst float64) *bucket {
	return &bucket{rate: rate, burst: burst, tokens: burst, at: time.Now()}
}

func (b *bucket) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.tokens = min(b.burst, b.tokens+now.Sub(b.at).Seconds()*b.rate)
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// Command types one line into a server's game and shows it on the console. Line ends and NULs are
// taken out, so that one command stays one. ErrUnknown, ErrTooLong (more than wire.MaxCommandBytes),
// ErrTooFast (more than 10/s of a server), ErrNotRunning.
func (a *Agent) Command(ctx context.Context, id, line string) error {
	s, err := a.lookup(id)
	if err != nil {
		return err
	}
	if len(line) > wire.MaxCommandBytes {
		return ErrTooLong
	}
	line = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == 0 {
			return -1
		}
		return r
	}, line)
	if !s.command.take() {
		return ErrTooFast
	}
	seq, err := s.typeAndSay(ctx, line)
	if errors.Is(err, engine.ErrNotRunning) || errors.Is(err, engine.ErrNotFound) {
		return ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("send command to server %s: %w", id, err)
	}
	if err := s.console.ride(seq); err != nil {
		s.log.Warn("write console journal", "error", err)
	}
	return nil
}

// typeAndSay types a line into the run that takes commands and puts it on the console, which is still
// to be flushed.
func (s *server) typeAndSay(ctx context.Context, line string) (seq int64, err error) {
	select {
	case s.typing <- struct{}{}:
		defer func() { <-s.typing }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	s.mu.Lock()
	at := s.current
	s.mu.Unlock()
	if at.zero() {
		return 0, engine.ErrNotRunning
	}
	seq = s.console.say(wire.StreamInput, line) // first: the game may answer before typeLine returns
	if err := s.typeLine(ctx, at.ID, line); err != nil {
		s.console.say(wire.StreamSystem, "That command did not reach the game.")
		return seq, errors.Join(err, s.console.flush())
	}
	return seq, nil
}

func (s *server) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.current.zero()
}
