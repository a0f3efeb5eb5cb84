package audit

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// ActionPurged is the action of the row in the installation's chain that says that a tenant and its chain are gone, and
// how that chain ended. Without this row a chain that is missing is a fault.
const ActionPurged = "tenant.purged"

// ErrBuried is what writing about a tenant gets after Bury.
var ErrBuried = errors.New("this organisation was purged, nothing is written about it any more")

// grave is what a row of ActionPurged says.
type grave struct {
	Last int64  `json:"last_seq"` // number of the chain's last row; 0: it had none
	MAC  string `json:"last_mac"` // of that row
}

// Bury removes the chain of a tenant that is purged and writes the proof of it into the installation's chain, in the
// caller's transaction, whose locks include Lock("") and Lock(tenant). gone says how many rows each collection had. What
// was wrong with the chain before is part of the proof.
func (l *Log) Bury(tx core.App, tenant string, gone map[string]int64) error {
	if tenant == "" {
		return errors.New("audit: the installation's chain stays")
	}
	return collections.Tx(tx, []collections.Lock{Lock(""), Lock(tenant)}, func(tx core.App) error {
		rep := Report{Tenant: tenant}
		if err := l.keys.Refresh(tx); err != nil {
			return err
		}
		if err := l.verifyChain(tx, &rep); err != nil {
			return fmt.Errorf("verify the audit chain of tenant %s: %w", tenant, err)
		}
		end := grave{}
		last, err := collections.Every[collections.AuditLog](tx, collections.AuditLogs, "seq DESC", 1, dbx.HashExp{"tenant": tenant})
		if err != nil {
			return err
		}
		if len(last) > 0 {
			end = grave{last[0].Seq(), last[0].MAC()}
		}
		own, err := permit.Purge(tx, tenant, collections.AuditLogs, collections.AuditHeads)
		if err != nil {
			return err
		}
		counts := maps.Clone(own)
		maps.Copy(counts, gone)
		removed := []string{} // as texts: the name of a collection may look like that of a secret
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			removed = append(removed, fmt.Sprintf("%s: %d", name, counts[name]))
		}
		return l.Write(tx, System, Entry{Action: ActionPurged, ResourceType: collections.Tenants, Resource: tenant,
			Metadata: map[string]any{"removed": removed, "last_seq": end.Last, "last_mac": end.MAC, "faults": rep.Faults}})
	})
}

// graveOf finds the proof that a tenant was purged; nil when there is none that we wrote.
func (l *Log) graveOf(app core.App, tenant string) (*grave, error) {
	if tenant == "" {
		return nil, nil
	}
	rows, err := collections.Every[collections.AuditLog](app, collections.AuditLogs, "seq DESC", maxProblems,
		dbx.HashExp{"tenant": "", "resource": tenant, "resource_type": collections.Tenants, "action": ActionPurged})
	if err != nil {
		return nil, fmt.Errorf("look for the proof that tenant %s was purged: %w", tenant, err)
	}
	all := l.keys.All()
	for _, r := range rows {
		if signedBy(all, len(all)-1, r.MAC(), func(key []byte) string { return rowMAC(key, r) }) < 0 {
			continue
		}
		var g grave
		if err := r.Metadata(&g); err != nil {
			continue
		}
		return &g, nil
	}
	return nil, nil
}

// verifyGrave looks for what there must not be any more of a tenant that was purged. That the proof itself is in its
// place is for the verification of the installation's chain.
func (l *Log) verifyGrave(app core.App, rep *Report, g *grave) error {
	rep.Purged = true
	for table, what := range map[string]string{collections.AuditLogs: "rows", collections.AuditHeads: "heads"} {
		n, err := app.CountRecords(table, dbx.HashExp{"tenant": rep.Tenant})
		if err != nil {
			return err
		}
		if n > 0 {
			rep.add(FaultBroken, 0, "", "the organisation was purged, and there are %d %s of it", n, what)
		}
	}
	return l.signedHeads(app, rep, func(h signedHead) error {
		if h.Seq > g.Last || h.Seq == g.Last && h.MAC != g.MAC {
			rep.add(FaultRollback, h.Seq, "", "the head signed at %s is not of the chain that was purged", h.At)
		}
		return nil
	})
}
