package cluster

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// ErrNotLeading is what a transaction gets that writes in the name of a leadership that was lost.
var ErrNotLeading = errors.New("this instance does not lead the task any more")

// leaders is what this instance leads, or stands for. A task goes
//
//	wanted ── the session got its lock ──► locked ── epoch raised ──► leading
//	   ▲                                      │                          │
//	   └──────────── the session was lost ────┴──────────────────────────┘
//
// and whoever leads without knowing that its session was lost is refused by Fence, because the next
// leader has raised the epoch.
type leaders struct {
	c  *Cluster
	wg sync.WaitGroup // of the running functions

	mu      sync.Mutex
	tasks   map[string]*task // fixed at Start; their fields are guarded by mu
	retired bool             // leads nothing any more; guarded by mu
}

type task struct {
	name   string
	fns    []func(ctx context.Context)
	locked bool
	epoch  int64              // 0: does not lead
	cancel context.CancelFunc // ends the functions of this leadership
	idle   chan struct{}      // closed when the functions of the last leadership have ended; nil before the first
}

// OnLead registers what this instance does while it leads the task: fn is called when it begins to,
// and has to return soon after ctx ends, which it does when the leadership is lost. The next call
// waits for that. An instance stands for the tasks that are registered. Before Start.
func (c *Cluster) OnLead(name string, fn func(ctx context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun || !topicPattern.MatchString(name) || fn == nil {
		panic("cluster: task " + name + " is registered too late, or is none")
	}
	c.leaders.mu.Lock()
	defer c.leaders.mu.Unlock()
	t := c.leaders.tasks[name]
	if t == nil {
		t = &task{name: name}
		c.leaders.tasks[name] = t
	}
	t.fns = append(t.fns, fn)
}

// Leads reports whether this instance leads the task, which somebody has to have named in OnLead. What
// it writes as the leader has to pass Fence in its transaction, because another may lead since.
func (c *Cluster) Leads(name string) bool {
	if !c.clustered() {
		return true
	}
	return c.leaders.epochOf(name) > 0
}

// Fence fails with ErrNotLeading unless this instance leads the task, and keeps every other from
// becoming its leader until tx has ended. On SQLite there is no other, and it does nothing.
func (c *Cluster) Fence(tx core.App, name string) error {
	if !c.clustered() {
		return nil
	}
	epoch := c.leaders.epochOf(name)
	if epoch == 0 {
		return fmt.Errorf("%s: %w", name, ErrNotLeading)
	}
	// an update, not a look: its row lock is what the next leader waits for
	res, err := tx.DB().Update(collections.Leaders, dbx.Params{"updated": collections.Stamp(time.Now())},
		dbx.HashExp{"task": name, "epoch": epoch, "instance": c.id}).Execute()
	if err != nil {
		return fmt.Errorf("ask whether this instance leads %s: %w", name, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, fmt.Errorf("%s: %w", name, ErrNotLeading))
	}
	return nil
}

func (l *leaders) epochOf(name string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.tasks[name]; t != nil {
		return t.epoch
	}
	return 0
}

// wanted are the tasks whose lock the session should try to get.
func (l *leaders) wanted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for name, t := range l.tasks {
		if !t.locked {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// won: the session got these locks.
func (l *leaders) won(names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		l.tasks[name].locked = true
	}
}

// lost: the session is gone, and all its locks are free for others.
func (l *leaders) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.tasks {
		t.locked, t.epoch = false, 0
		if t.cancel != nil {
			t.cancel()
			t.cancel = nil
		}
	}
}

// retire ends what is led here, for good, and waits for it.
func (l *leaders) retire() {
	l.mu.Lock()
	l.retired = true
	l.mu.Unlock()
	l.lost()
	l.wg.Wait()
}

// begin raises the epochs of what the session holds and nobody leads yet.
func (l *leaders) begin(ctx context.Context) {
	l.mu.Lock()
	var names []string
	for name, t := range l.tasks {
		if t.locked && t.epoch == 0 && !l.retired {
			names = append(names, name)
		}
	}
	l.mu.Unlock()
	slices.Sort(names)
	for _, name := range names {
		epoch, err := l.raise(name)
		if err != nil {
			l.c.log.Error("the lead of a task is not taken", "task", name, "error", err)
			continue
		}
		l.lead(ctx, name, epoch)
	}
}

// raise makes this instance the leader on record. It waits for transactions of the one before.
func (l *leaders) raise(name string) (epoch int64, err error) {
	err = collections.Tx(l.c.app, []collections.Lock{collections.Lock("leader:" + name)}, func(tx core.App) error {
		row, err := collections.One[collections.Leader](tx, collections.Leaders, dbx.HashExp{"task": name})
		if errors.Is(err, sql.ErrNoRows) {
			if row, err = collections.NewLeader(tx); err == nil {
				row.SetTask(name)
			}
		}
		if err != nil {
			return err
		}
		epoch = row.Epoch() + 1
		row.SetEpoch(epoch)
		row.SetInstance(l.c.id)
		return permit.Save(tx, row)
	})
	return epoch, err
}

// lead starts the functions of a task, after those of the last time have ended.
func (l *leaders) lead(ctx context.Context, name string, epoch int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tasks[name]
	if l.retired || l.c.clustered() && !t.locked {
		return // lost meanwhile
	}
	ctx, t.cancel = context.WithCancel(ctx)
	t.epoch = epoch
	before, idle := t.idle, make(chan struct{})
	t.idle = idle
	l.c.log.Info("this instance leads", "task", name, "epoch", epoch)
	l.wg.Go(func() {
		defer close(idle)
		if before != nil {
			<-before
		}
		var fns sync.WaitGroup
		for _, fn := range t.fns {
			fns.Go(func() { fn(ctx) })
		}
		fns.Wait()
	})
}

// all leads every task: there is no other instance.
func (l *leaders) all(ctx context.Context) {
	for _, name := range l.wanted() {
		l.lead(ctx, name, 1)
	}
}
