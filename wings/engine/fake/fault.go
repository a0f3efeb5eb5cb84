package fake

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Fault is what goes wrong at an op label. Its parts happen in the order of the fields; the effect
// itself comes between Before and HookAfter.
type Fault struct {
	Op  string // label, e.g. "engine.create"
	Nth int    // which call with this label, counted from when the fault is injected, from 1; 0: every one

	HookBefore func()        // e.g. kills the caller: a context that is ended in here keeps the effect from happening
	Delay      time.Duration // ends early with the caller's context
	Before     error         // answered; the effect does not happen
	HookAfter  func()        // e.g. kills the caller after the effect
	After      error         // answered although the effect happened: the reply was lost
}

// armed is a fault with its count.
type armed struct {
	Fault
	seen int
}

// Inject arms a fault; the result disarms it.
func (m *Machine) Inject(f Fault) (remove func()) {
	a := &armed{Fault: f}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(m.faults, a)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.faults = slices.DeleteFunc(m.faults, func(b *armed) bool { return b == a })
	}
}

// Calls lists the op labels of all calls so far, in order: what a fault schedule can enumerate.
func (m *Machine) Calls() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

// enter counts a call and plays what its faults do before the effect. The faults that it returns are
// for leave.
func (m *Machine) enter(ctx context.Context, op string) ([]Fault, error) {
	m.mu.Lock()
	if len(m.calls) < maxCalls {
		m.calls = append(m.calls, op)
	}
	var active []Fault
	for _, a := range m.faults {
		if a.Op != op {
			continue
		}
		if a.seen++; a.Nth == 0 || a.Nth == a.seen {
			active = append(active, a.Fault)
		}
	}
	m.mu.Unlock()
	for _, f := range active {
		if f.HookBefore != nil {
			f.HookBefore()
		}
		if f.Delay > 0 {
			timer := time.NewTimer(f.Delay)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	for _, f := range active {
		if f.Before != nil {
			return nil, fmt.Errorf("%s: %w", op, f.Before)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return nil, fmt.Errorf("%s: %w", op, ErrAway)
	}
	return active, nil
}

// leave plays what the faults do after the effect, whose own outcome is err. A caller whose context
// ended meanwhile does not learn it.
func (m *Machine) leave(ctx context.Context, op string, active []Fault, err error) error {
	for _, f := range active {
		if f.HookAfter != nil {
			f.HookAfter()
		}
	}
	for _, f := range active {
		if f.After != nil {
			return fmt.Errorf("%s: %w", op, f.After)
		}
	}
	if cerr := ctx.Err(); cerr != nil {
		return fmt.Errorf("%s: %w", op, cerr)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// effect runs f between enter and leave, under the machine's lock.
func (m *Machine) effect(ctx context.Context, op string, f func() error) error {
	active, err := m.enter(ctx, op)
	if err != nil {
		return err
	}
	m.mu.Lock()
	err = f()
	m.mu.Unlock()
	return m.leave(ctx, op, active, err)
}
