package link

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"

	"github.com/mambahost/mamba/wings/wire"
)

// maxAddressBytes of one address: a host name of 253, a colon and a port.
const maxAddressBytes = 253 + 1 + 5

// errCovered is a connection to an instance to which another address leads already.
var errCovered = errors.New("another address leads to the same instance of the panel")

// addresses are where the panel may be: the address that the node joined at, then what the panel
// named, each once.
func (id *Identity) addresses() []string {
	out := []string{id.Joined}
	for _, a := range id.Instances {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// usable returns the addresses of a list that can be dialled, each once, wire.MaxInstances at most.
func usable(list []string) []string {
	var out []string
	for _, a := range list {
		host, port, err := net.SplitHostPort(a)
		if err != nil || host == "" || len(a) > maxAddressBytes || slices.Contains(out, a) {
			continue
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			continue
		}
		if out = append(out, a); len(out) == wire.MaxInstances {
			break
		}
	}
	return out
}

// learn takes the panel's list of its live instances. A changed list is on disk before it counts, so
// that a restarted node finds any survivor; an empty one is no news.
func (l *Link) learn(list []string) {
	list = usable(list)
	if len(list) == 0 {
		return
	}
	l.idMu.Lock()
	defer l.idMu.Unlock()
	old := l.id.Load()
	if sameSet(list, old.Instances) {
		return
	}
	next := *old
	next.Instances = list
	if err := next.save(l.cfg.Dir); err != nil {
		l.log.Error("the panel's new addresses could not be stored; they are asked for again", "error", err)
		return
	}
	l.id.Store(&next)
	l.log.Info("the panel has other instances now", "instances", list)
	l.lookAgain()
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// keepLinked holds one control connection to each of the panel's instances at the same time. An
// address that the panel names no more is not dialled again; a connection to it that works stays.
func (l *Link) keepLinked(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for ctx.Err() == nil {
		for _, address := range l.id.Load().addresses() {
			if !l.keep(address, true) {
				continue
			}
			wg.Go(func() {
				l.keepOne(ctx, address)
				l.keep(address, false)
				l.lookAgain() // it may have been named anew meanwhile
			})
		}
		select {
		case <-ctx.Done():
		case <-l.relist:
		}
	}
}

// keep notes that an address is kept linked, or is not any more; false when that was so already.
func (l *Link) keep(address string, yes bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.kept[address]
	if yes {
		l.kept[address] = true
	} else {
		delete(l.kept, address)
	}
	return was != yes
}

// lookAgain makes keepLinked compare what it keeps with what the panel named.
func (l *Link) lookAgain() {
	select {
	case l.relist <- struct{}{}:
	default: // capacity 1: only the latest list matters
	}
}

// keepOne keeps an address linked for as long as it is one of the panel's.
func (l *Link) keepOne(ctx context.Context, address string) {
	backoff := firstBackoff
	for failed := 0; ctx.Err() == nil && slices.Contains(l.id.Load().addresses(), address); {
		if free := l.board.covered(address); free != nil {
			select {
			case <-free:
			case <-ctx.Done():
			}
			continue
		}
		linked, err := l.connect(ctx, l.id.Load(), address, wire.LinkControl)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errCovered):
			continue
		case linked:
			backoff, failed = firstBackoff, 0
			l.log.Warn("a link to the panel ended", "instance", address, "error", err)
		case failed == 0 || !l.board.any(): // an instance that is away for long is no news when others are there
			l.log.Warn("no link to the panel", "instance", address, "error", err)
		default:
			l.log.Debug("no link to the panel", "instance", address, "error", err)
		}
		if !linked {
			failed++
		}
		wait(ctx, jitter(backoff))
		backoff = min(2*backoff, maxBackoff)
	}
}

// board is which instance of the panel each address leads to. Several may lead to one: a name that is
// balanced, or an address seen from inside and from outside. One connection to each is enough.
type board struct {
	mu     sync.Mutex
	live   map[string]*held  // control connections by address
	last   map[string]string // instance that an address led to last; as many as addresses were ever named
	prefer string            // address that last took a call of ours
}

// held is one live control connection.
type held struct {
	instance string
	ended    chan struct{} // closed when it is over
}

// enter notes a new control connection; false when there is one to that instance already. An instance
// without a name is one of its own.
func (b *board) enter(address, instance string) (*held, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.live == nil {
		b.live, b.last = map[string]*held{}, map[string]string{}
	}
	b.last[address] = instance
	for _, h := range b.live {
		if instance != "" && h.instance == instance {
			return nil, false
		}
	}
	h := &held{instance: instance, ended: make(chan struct{})}
	b.live[address] = h
	return h, true
}

func (b *board) leave(address string, h *held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.live[address] == h {
		delete(b.live, address)
	}
	if b.prefer == address {
		b.prefer = ""
	}
	close(h.ended)
}

// covered returns what is closed when the connection of another address to the instance of this one
// ends; nil when there is none.
func (b *board) covered(address string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	instance := b.last[address]
	for other, h := range b.live {
		if instance != "" && other != address && h.instance == instance {
			return h.ended
		}
	}
	return nil
}

// any reports whether there is a live control connection.
func (b *board) any() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.live) > 0
}

// took notes which address took a call, failed which did not.
func (b *board) took(address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prefer = address
}

func (b *board) failed(address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.prefer == address {
		b.prefer = ""
	}
}

// ranked orders addresses for a call: the one that took the last, those that are linked, the others.
func (b *board) ranked(addresses []string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	rank := func(a string) int {
		switch {
		case a == b.prefer:
			return 0
		case b.live[a] != nil:
			return 1
		}
		return 2
	}
	out := slices.Clone(addresses)
	slices.SortStableFunc(out, func(x, y string) int { return rank(x) - rank(y) })
	return out
}

// sameInstance returns the addresses that led to the instance of this one, this one first.
func (b *board) sameInstance(address string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := []string{address}
	for other, instance := range b.last {
		if other != address && instance != "" && instance == b.last[address] {
			out = append(out, other)
		}
	}
	return out
}
