package fleet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/cluster"
)

const presenceRetry = time.Second

// presence tells the other instances which nodes have their link here (node_links). One loop compares
// what is with what was written, so that many links that come at once are one transaction. A row may
// be late: who relays by it is told that there is no such link, and asks the next instance.
type presence struct{ wake chan struct{} }

func newPresence() presence { return presence{wake: make(chan struct{}, 1)} }

// changed makes the loop look. It never blocks.
func (p presence) changed() {
	select {
	case p.wake <- struct{}{}:
	default: // capacity 1: it looks at everything
	}
}

// keepPresence writes until ctx ends, then removes all that it wrote.
func (f *Fleet) keepPresence(ctx context.Context) {
	var written map[string]bool // nil: not known
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		var again <-chan time.Time
		if err := f.writePresence(&written); err != nil {
			f.log.Error("tell other instances which nodes are linked here", "error", err)
			again = time.After(presenceRetry)
		}
		select {
		case <-ctx.Done():
			if _, err := f.app.NonconcurrentDB().Delete(collections.NodeLinks, dbx.HashExp{"instance": f.instance}).Execute(); err != nil {
				f.log.Error("take back which nodes are linked here", "error", err)
			}
			return
		case <-again:
		case <-f.presence.wake:
		case <-tick.C: // others may have removed rows because they took this instance for dead
			written = nil
		}
	}
}

// writePresence brings the rows of this instance to what is. After an error it does not know any more
// what is written.
func (f *Fleet) writePresence(written *map[string]bool) (err error) {
	defer func() {
		if err != nil {
			*written = nil
		}
	}()
	if *written == nil {
		var nodes []string
		err := f.app.DB().Select("node").From(collections.NodeLinks).Where(dbx.HashExp{"instance": f.instance}).Column(&nodes)
		if err != nil {
			return fmt.Errorf("list links of this instance: %w", err)
		}
		*written = map[string]bool{}
		for _, n := range nodes {
			(*written)[n] = true
		}
	}
	have, want := *written, f.links.nodesLinked()
	var add []string
	var remove []any
	for n := range want {
		if !have[n] {
			add = append(add, n)
		}
	}
	for n := range have {
		if !want[n] {
			remove = append(remove, n)
		}
	}
	if len(add)+len(remove) == 0 {
		return nil
	}
	slices.Sort(add)
	err = collections.Tx(f.app, nil, func(tx core.App) error {
		if len(remove) > 0 {
			_, err := tx.NonconcurrentDB().Delete(collections.NodeLinks, dbx.And(dbx.HashExp{"instance": f.instance}, dbx.In("node", remove...))).Execute()
			if err != nil {
				return fmt.Errorf("remove links: %w", err)
			}
		}
		for _, n := range add {
			row, err := collections.NewNodeLink(tx)
			if err != nil {
				return err
			}
			row.SetNode(n)
			row.SetInstance(f.instance)
			if err := permit.Save(tx, row); err != nil {
				return fmt.Errorf("note the link of node %s: %w", n, err)
			}
		}
		return nil
	})
	if err == nil {
		*written = want
	}
	return err
}

// holders returns the live instances but this one that have a link of the node, those first that could
// be reached when they were asked last.
func (f *Fleet) holders(node string) ([]cluster.Instance, error) {
	live, err := f.live()
	if err != nil {
		return nil, err
	}
	if len(live) < 2 {
		return nil, nil // nobody to ask, which is nothing to ask the database about
	}
	var ids []string
	err = f.app.DB().Select("instance").From(collections.NodeLinks).Where(dbx.HashExp{"node": node}).OrderBy("instance").Column(&ids)
	if err != nil {
		return nil, fmt.Errorf("find links of node %s: %w", node, err)
	}
	var out []cluster.Instance
	for _, i := range live {
		if i.ID != f.instance && slices.Contains(ids, i.ID) {
			out = append(out, i)
		}
	}
	slices.SortStableFunc(out, func(a, b cluster.Instance) int { return cmp.Compare(f.suspects.rank(a.ID), f.suspects.rank(b.ID)) })
	return out, nil
}

// leads reports whether this instance is the one of those with a link of the node that does what one
// of them has to do. When that cannot be told it is: twice is better than never.
func (f *Fleet) leads(node string) bool {
	holders, err := f.holders(node)
	if err != nil {
		f.log.Warn("find out which instance syncs a node", "node", node, "error", err)
		return true
	}
	return !slices.ContainsFunc(holders, func(i cluster.Instance) bool { return i.ID < f.instance })
}

// linkedAnywhere are the nodes that have a link of a live instance.
func (f *Fleet) linkedAnywhere() (map[string]bool, error) {
	out := f.links.nodesLinked()
	live, err := f.live()
	if err != nil || len(live) < 2 {
		return out, err
	}
	var ids []any
	for _, i := range live {
		ids = append(ids, i.ID)
	}
	var nodes []string
	err = f.app.DB().Select("node").Distinct(true).From(collections.NodeLinks).Where(dbx.In("instance", ids...)).Column(&nodes)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, n := range nodes {
		out[n] = true
	}
	return out, nil
}
