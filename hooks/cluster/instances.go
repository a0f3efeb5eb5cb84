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

var permit = collections.PermitFor("cluster")

// Times of the list of instances.
const (
	heartbeatEvery = 5 * time.Second
	goneAfter      = 20 * time.Second // without a heartbeat, by the clock of who looks
	deadLooks      = 2                // looks in a row at which nobody held its lock: a lost connection has time to come back
	mercy          = 10 * time.Second // after this instance's own connection was lost: the others' were, too
)

// Instance is a live panel instance.
type Instance struct {
	ID      string // of its run: a restart is another instance
	Address string // host:port of its node listener
	Release string
	Started time.Time
	Seen    time.Time // last heartbeat, by that instance's clock
}

// members is what this instance knows of the others.
type members struct {
	c    *Cluster
	wake chan struct{} // capacity 1: there are dead ones, or the list changed

	mu      sync.Mutex
	others  map[string]*other // by id; guarded by mu
	listed  []string          // ids that OnInstances was told; owned by the worker
	mercyTo time.Time         // nobody is held for dead before; guarded by mu
}

type other struct {
	seen  string    // as its row has it
	since time.Time // when that changed, by our clock
	free  int       // looks in a row at which its lock was free
}

func newMembers(c *Cluster) *members {
	return &members{c: c, wake: make(chan struct{}, 1), others: map[string]*other{}}
}

// enter puts this instance into the list, if it is not in it.
func (m *members) enter(context.Context) error {
	err := collections.Tx(m.c.app, nil, func(tx core.App) error {
		_, err := collections.FindPanelInstance(tx, m.c.id)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		row, err := collections.NewPanelInstance(tx)
		if err != nil {
			return err
		}
		row.Id = m.c.id
		row.SetAddress(m.c.cfg.Address)
		row.SetRelease(m.c.cfg.Release)
		row.SetStarted(m.c.started)
		row.SetSeen(time.Now())
		return permit.Save(tx, row)
	})
	if err != nil {
		return fmt.Errorf("enter the list of instances: %w", err)
	}
	return nil
}

// leave takes this instance out of the list.
func (m *members) leave() {
	err := collections.Tx(m.c.app, nil, func(tx core.App) error {
		row, err := collections.FindPanelInstance(tx, m.c.id)
		if err != nil {
			return err
		}
		return permit.Delete(tx, row)
	})
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		m.c.log.Warn("this instance is still in the list; the others will see that it is gone", "error", err)
	}
}

// beat says that this instance lives; it enters again if somebody held it for dead.
func (m *members) beat() {
	var n int64
	err := collections.Tx(m.c.app, nil, func(tx core.App) error {
		res, err := tx.DB().Update(collections.PanelInstances, dbx.Params{"seen": collections.Stamp(time.Now())}, dbx.HashExp{"id": m.c.id}).Execute()
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	if err == nil && n == 0 {
		m.c.log.Warn("the other instances held this one for dead")
		err = m.enter(context.Background())
	}
	if err != nil {
		m.c.log.Error("a heartbeat of this instance is not stored", "error", err)
	}
}

// note remembers when the heartbeat of another was last seen to change.
func (m *members) note(id, seen string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.others[id]
	if o == nil {
		m.others[id] = &other{seen: seen, since: now}
	} else if o.seen != seen {
		o.seen, o.since = seen, now
	}
}

// look takes what the session saw: who is in the list, and whose lock nobody holds.
func (m *members) look(listed, free []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	merciful := time.Now().Before(m.mercyTo)
	for id, o := range m.others {
		switch {
		case !slices.Contains(listed, id):
			delete(m.others, id)
		case !slices.Contains(free, id):
			o.free = 0
		case !merciful:
			o.free++
		}
	}
	nudge(m.wake)
}

// lost: with the connection went what was known of the others.
func (m *members) lost() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.others)
	m.mercyTo = time.Now().Add(mercy)
}

// dead are those whose process ended, and those that were silent for too long: the latter still hold
// their locks.
func (m *members) dead(now time.Time) (ended, silent []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, o := range m.others {
		if o.free >= deadLooks {
			ended = append(ended, id)
		} else if now.Sub(o.since) > goneAfter {
			silent = append(silent, id)
		}
	}
	return ended, silent
}

// removeDead takes dead instances out of the list, with all that was theirs.
func (m *members) removeDead(ctx context.Context) {
	ended, silent := m.dead(time.Now())
	for _, id := range silent {
		if err := m.c.evict(ctx, id); err != nil {
			m.c.log.Error("the session of a silent instance is not ended", "instance", id, "error", err)
		}
	}
	for _, id := range slices.Concat(ended, silent) {
		if err := m.remove(id); err != nil {
			m.c.log.Error("a dead instance is not removed", "instance", id, "error", err)
		}
	}
}

func (m *members) remove(id string) error {
	removed := false
	err := collections.Tx(m.c.app, []collections.Lock{collections.Lock("instance:" + id)}, func(tx core.App) error {
		removed = false
		row, err := collections.FindPanelInstance(tx, id)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // another was first
		}
		if err != nil {
			return err
		}
		for _, fn := range m.c.onDead {
			if err := fn(tx, id); err != nil {
				return err
			}
		}
		removed = true
		return permit.Delete(tx, row)
	})
	if err == nil && removed {
		m.c.log.Warn("a panel instance is dead", "instance", id)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		delete(m.others, id)
	}
	return err
}

// evict ends the session of an instance that holds its locks and does nothing: a stopped process, a
// machine that hangs. What it leads becomes free, and its fences refuse what it still wants to write.
func (c *Cluster) evict(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	key := uint64(c.lockKey("instance", id))
	_, err := c.cfg.Database.Pool().Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND classid = $1::bigint::oid AND objid = $2::bigint::oid AND objsubid = 1`, int64(key>>32), int64(key&0xffffffff))
	return err
}

// Instances returns the live instances, the oldest first. Without PostgreSQL it is this one.
func (c *Cluster) Instances(app core.App) ([]Instance, error) {
	if !c.clustered() {
		return []Instance{{ID: c.id, Address: c.cfg.Address, Release: c.cfg.Release, Started: c.started, Seen: time.Now()}}, nil
	}
	rows, err := collections.Every[collections.PanelInstance](app, collections.PanelInstances, "started, id", 0)
	if err != nil {
		return nil, fmt.Errorf("read the list of instances: %w", err)
	}
	ended, silent := c.members.dead(time.Now())
	out := make([]Instance, 0, len(rows))
	for _, r := range rows {
		if !slices.Contains(ended, r.Id) && !slices.Contains(silent, r.Id) {
			out = append(out, Instance{ID: r.Id, Address: r.Address(), Release: r.Release(), Started: r.Started(), Seen: r.Seen()})
		}
	}
	return out, nil
}

// tell calls OnInstances when the list is another than the last time.
func (m *members) tell() {
	list, err := m.c.Instances(m.c.app)
	if err != nil {
		m.c.log.Error("the list of instances is not read", "error", err)
		return
	}
	ids := make([]string, len(list))
	for i, in := range list {
		ids[i] = in.ID
	}
	if slices.Equal(ids, m.listed) {
		return
	}
	m.listed = ids
	for _, fn := range m.c.onInstances {
		fn(list)
	}
}
