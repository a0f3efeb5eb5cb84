package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/wire"
)

const (
	syncTimeout    = time.Minute
	maxLockRetries = 10 // times that a server may be placed on a node while its locks are waited for
)

// keepSynced tells the node the whole desired state when the link comes up, when it is kicked, and
// every few minutes, which one of the instances that have a link of the node does for all; it returns
// with ctx.
func (f *Fleet) keepSynced(ctx context.Context, s *session) {
	for due := true; ctx.Err() == nil; {
		next := syncEvery + rand.N(syncEvery/4) // not all nodes at once
		if due {
			if err := f.sync(ctx, s.node); err != nil && ctx.Err() == nil {
				f.log.Warn("sync of a node", "node", s.node, "error", err)
				next = syncRetry
			}
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-s.kick:
			due = true
		case <-timer.C:
			due = next == syncRetry || f.leads(s.node)
		}
		timer.Stop()
	}
}

// sync sends every Spec of the node and takes what the node says of every server that it has.
func (f *Fleet) sync(ctx context.Context, node string) error {
	specs, err := f.placements.Specs(f.app, node)
	if err != nil {
		return fmt.Errorf("list servers of node %s: %w", node, err)
	}
	if len(specs) > wire.MaxSyncSpecs {
		return fmt.Errorf("node %s has %d servers, more than one sync may carry (%d)", node, len(specs), wire.MaxSyncSpecs)
	}
	if specs == nil {
		specs = []wire.Spec{}
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	var reply wire.SyncReply
	if err := f.Do(ctx, node, http.MethodPut, wire.APIPrefix+"/servers", wire.Sync{Specs: specs}, &reply); err != nil {
		return err
	}
	news, err := f.placements.News(f.app, node, reply.Observed)
	if err != nil {
		return fmt.Errorf("compare servers of node %s: %w", node, err)
	}
	return f.observeAll(node, news)
}

// observeAll takes in states, a part of them at a time. When one fails, its part is rolled back and taken
// one by one, so that it alone is left out.
func (f *Fleet) observeAll(node string, news []wire.Observed) error {
	var errs []error
	for part := range slices.Chunk(news, eventsPerTx) {
		if f.observe(node, part...) == nil {
			continue
		}
		for _, o := range part {
			if err := f.observe(node, o); err != nil && !errors.Is(err, ErrPermanent) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// observe hands states of servers to Placements in one transaction.
func (f *Fleet) observe(node string, list ...wire.Observed) error {
	servers := make([]string, 0, len(list))
	for _, o := range list {
		servers = append(servers, o.ServerID)
	}
	locks, rare, err := f.locks(node, servers...)
	if err != nil {
		return err
	}
	return f.tx(locks, rare, func(tx core.App) error {
		for _, o := range list {
			if err := f.placements.Observe(tx, node, o); err != nil {
				return fmt.Errorf("observe server %s on node %s: %w", clip(o.ServerID, 15), node, err)
			}
		}
		return nil
	})
}

// tx is collections.Tx that takes what is rare only when it is needed.
func (f *Fleet) tx(locks, rare []collections.Lock, fn func(tx core.App) error) error {
	return collections.Sparing(locks, rare, func(locks []collections.Lock) error { return collections.Tx(f.app, locks, fn) })
}

// locks are what a transaction needs that takes reports of servers: node:<id> and server:<id> of each.
// rare are those for which nodes would wait for each other and which few reports need: a server that is
// gone gives its ports back, one that is unknown is an incident, one that a restored panel has forgotten
// is placed again (the tenants' locks), and an operator's command is recorded (the audit locks).
func (f *Fleet) locks(node string, servers ...string) (locks, rare []collections.Lock, err error) {
	locks, rare = []collections.Lock{nodeLock(node)}, []collections.Lock{alloc.Lock, incidents.Lock, audit.Lock("")}
	var ids []any
	for _, id := range servers {
		if wire.ValidID(id) {
			ids = append(ids, id)
			locks = append(locks, collections.Lock("server:"+id))
		}
	}
	if len(ids) == 0 {
		return locks, rare, nil
	}
	var tenants []string
	err = f.app.DB().Select("tenant").Distinct(true).From(collections.Servers).Where(dbx.In("id", ids...)).Column(&tenants)
	if err != nil {
		return nil, nil, fmt.Errorf("find owners of servers on node %s: %w", node, err)
	}
	for _, t := range tenants {
		rare = append(rare, audit.Lock(t), tenancy.Lock(t))
	}
	return locks, rare, nil
}

// errMoved is a server that came to the node after the locks were chosen.
var errMoved = errors.New("the servers of the node changed meanwhile")

// withServers runs fn in a transaction that may change every server of a node, with what locks names;
// sparing takes what is rare only when fn asks for it, and then runs fn again. Which servers those are may
// change until the locks are held; then it begins anew. fn is told whose locks it has.
func (f *Fleet) withServers(node string, sparing bool, fn func(tx core.App, servers []string) error) error {
	for range maxLockRetries {
		held, err := serversOn(f.app, node)
		if err != nil {
			return err
		}
		locks, rare, err := f.locks(node, held...)
		if err != nil {
			return err
		}
		if !sparing {
			locks, rare = append(locks, rare...), nil
		}
		err = f.tx(locks, rare, func(tx core.App) error {
			now, err := serversOn(tx, node)
			if err != nil {
				return err
			}
			for _, id := range now {
				if !slices.Contains(held, id) {
					return errMoved
				}
			}
			return fn(tx, held)
		})
		if !errors.Is(err, errMoved) {
			return err
		}
	}
	return errMoved
}

func serversOn(app core.App, node string) (ids []string, err error) {
	err = app.DB().Select("id").From(collections.Servers).Where(dbx.HashExp{"node": node}).
		AndWhere(dbx.NewExp("[[status]] != 'DELETED'")).Column(&ids)
	if err != nil {
		return nil, fmt.Errorf("list servers of node %s: %w", node, err)
	}
	return ids, nil
}
