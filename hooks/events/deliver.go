package events

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Bounds of delivery.
const (
	pollEvery      = time.Second            // in case a wake-up was lost: another process, a crash
	batchSize      = 100                    // events a lane reads at once
	callTimeout    = 30 * time.Second       // one call of a listener
	maxTries       = 6                      // calls for one event: with the waits between them about 15 s
	firstRetryWait = 500 * time.Millisecond // doubled after every try
)

// lane is one listener with its own place in the outbox, so that none waits for another. An event is
// marked delivered when all lanes are past it; after a crash every lane sees those again that were
// not marked.
type lane struct {
	o       *Outbox
	pattern string
	name    string
	fn      Listener
	wake    chan struct{} // capacity 1: only the latest matters
	passed  atomic.Int64  // seq of the last event this lane is done with

	weak bool // the last event was given up on: the next one gets a single try. Owned by run
}

func newLane(o *Outbox, pattern, name string, fn Listener) *lane {
	return &lane{o: o, pattern: pattern, name: name, fn: fn, wake: make(chan struct{}, 1)}
}

// Start begins delivery, on this instance once it leads. A second call does nothing.
func (o *Outbox) Start(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.started {
		return
	}
	o.started = true
	close(o.ready)
	if o.own {
		_ = o.cluster.Start(ctx) // alone it cannot fail
		context.AfterFunc(ctx, o.end)
	}
}

// Stop ends delivery: running listeners see their context end and are waited for. What was not
// delivered is by the next leader, or after the next Start. A second call does nothing.
func (o *Outbox) Stop() {
	o.end()
	o.wg.Wait()
	if o.own {
		o.cluster.Stop()
	}
}

func (o *Outbox) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = true
	if o.cancel != nil {
		o.cancel()
	}
}

// lead delivers while this instance leads, which is until ctx ends, or until Stop.
func (o *Outbox) lead(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-o.ready:
	}
	o.mu.Lock()
	if o.stopped {
		o.mu.Unlock()
		return
	}
	ctx, o.cancel = context.WithCancel(ctx)
	o.wg.Add(1)
	o.mu.Unlock()
	defer o.wg.Done()
	var lanes sync.WaitGroup
	for _, l := range o.lanes {
		l.passed.Store(0) // others may have delivered since
		l.weak = false
		lanes.Go(func() { l.run(ctx) })
	}
	lanes.Go(func() { o.mark(ctx) })
	lanes.Wait()
}

func (l *lane) run(ctx context.Context) {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		more, err := l.batch(ctx)
		if err != nil && ctx.Err() == nil {
			l.o.log.Error("events are not delivered", "listener", l.name, "error", err)
		}
		if more && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-poll.C:
		}
	}
}

// batch hands the next events to the listener; more says that there may be others at once.
func (l *lane) batch(ctx context.Context) (more bool, err error) {
	rows, err := collections.Every[collections.Event](l.o.app, collections.Events, "seq", batchSize,
		dbx.HashExp{"delivered": false}, dbx.NewExp("[[seq]] > {:seq}", dbx.Params{"seq": l.passed.Load()}))
	if err != nil {
		return false, fmt.Errorf("read the outbox: %w", err)
	}
	for _, r := range rows {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if matches(l.pattern, r.Kind()) {
			if err := l.deliver(ctx, r); err != nil {
				return false, err
			}
		}
		l.passed.Store(r.Seq())
	}
	if len(rows) > 0 {
		nudge(l.o.progress)
	}
	return len(rows) == batchSize, nil
}

// deliver calls the listener until it takes the event or is given up on: its lane goes on then, the
// event stays in the activity list, and the log and OnGivenUp say so. The only error is that ctx ended.
func (l *lane) deliver(ctx context.Context, r *collections.Event) error {
	e, err := fromRow(r)
	wait, tries := firstRetryWait, maxTries
	if l.weak {
		tries = 1
	}
	for try := 1; err == nil; try++ {
		callErr := l.call(ctx, e)
		if callErr == nil {
			l.weak = false
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if try == tries {
			err = callErr
			break
		}
		l.o.log.Warn("a listener did not take an event", "listener", l.name, "event", e.ID, "kind", e.Kind, "try", try, "error", callErr)
		nudge(l.o.progress) // what came before it in the batch need not wait for it to be marked
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		wait *= 2
	}
	l.weak = true
	l.o.log.Error("a listener was given up on for an event", "listener", l.name, "event", r.Id, "kind", r.Kind(), "error", err)
	if l.o.failed != nil {
		l.o.failed(e, l.name, err)
	}
	return nil
}

// call turns a panic of the listener into an error that carries its stack: one bad event must not
// stop the panel at every start.
func (l *lane) call(ctx context.Context, e Stored) (err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("listener %s panicked: %v\n%s", l.name, p, debug.Stack())
		}
	}()
	return l.fn(ctx, e)
}

// mark records how far all lanes are. It writes once per batch, not once per event.
func (o *Outbox) mark(ctx context.Context) {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	var marked int64
	for {
		if upTo, ok := o.passedByAll(); ok && upTo > marked {
			err := collections.Tx(o.app, nil, func(tx core.App) error {
				if err := o.cluster.Fence(tx, task); err != nil {
					return err
				}
				_, err := tx.DB().NewQuery("UPDATE {{events}} SET [[delivered]] = TRUE WHERE [[delivered]] = FALSE AND [[seq]] <= {:seq}").
					Bind(dbx.Params{"seq": upTo}).Execute()
				return err
			})
			if err != nil {
				o.log.Error("events are not marked as delivered", "error", err)
			} else {
				marked = upTo
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-o.progress:
		case <-poll.C:
		}
	}
}

// passedByAll is the seq that every lane is past; without listeners it is the last one there is.
func (o *Outbox) passedByAll() (int64, bool) {
	if len(o.lanes) == 0 {
		var last int64
		err := o.app.DB().NewQuery("SELECT COALESCE(MAX([[seq]]), 0) FROM {{events}}").Row(&last)
		return last, err == nil
	}
	least := o.lanes[0].passed.Load()
	for _, l := range o.lanes[1:] {
		least = min(least, l.passed.Load())
	}
	return least, true
}
