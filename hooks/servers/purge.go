package servers

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Leftover is a server that is to go and has not yet been seen to be gone.
type Leftover struct {
	ID, Node string
	Online   bool // its node can be heard
}

// Clear asks the nodes of a tenant's servers to delete them, as their owner would, and returns those that are not seen
// to be gone yet. It looks at what is, so it can be called again at any time.
func (s *Servers) Clear(ctx context.Context, tenant string) ([]Leftover, error) {
	rows, err := s.undeleted(s.App, tenant)
	if err != nil {
		return nil, err
	}
	out := []Leftover{}
	for _, row := range rows {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if err := s.clearOne(tenant, row.Id); err != nil {
			return nil, fmt.Errorf("delete server %s: %w", row.Id, err)
		}
		online, err := s.nodeOnline(s.App, row.Node())
		if err != nil {
			return nil, err
		}
		out = append(out, Leftover{row.Id, row.Node(), online})
	}
	return out, nil
}

func (s *Servers) undeleted(app core.App, tenant string) ([]*collections.Server, error) {
	rows, err := collections.Every[collections.Server](app, collections.Servers, "id", 0, dbx.HashExp{"tenant": tenant}, dbx.Not(dbx.HashExp{"status": string(Deleted)}))
	if err != nil {
		return nil, fmt.Errorf("list the servers of tenant %s: %w", tenant, err)
	}
	return rows, nil
}

func (s *Servers) clearOne(tenant, id string) error {
	return collections.Sparing(append(locks(tenant), lock(id)), rare, func(held []collections.Lock) error {
		return collections.Tx(s.App, held, func(tx core.App) error {
			row, err := s.find(tx, tenant, id)
			if errors.Is(err, errNotFound) {
				return nil
			}
			if err != nil || !slices.Contains(Possible(Phase(row.Status())), Delete) {
				return err
			}
			_, err = s.Delete(tx, installation, row)
			return err
		})
	})
}

// Purge removes the rows of a tenant's servers, in the caller's transaction, which holds the tenant's lock. It refuses
// while one of them is not seen to be gone.
func (s *Servers) Purge(tx core.App, tenant string) (map[string]int64, error) {
	left, err := s.undeleted(tx, tenant)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("servers: %d of tenant %s are not gone", len(left), tenant)
	}
	return permit.Purge(tx, tenant, collections.Servers)
}
