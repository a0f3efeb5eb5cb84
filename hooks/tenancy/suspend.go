package tenancy

import (
	"fmt"
	"net/http"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

// maxReason is how many characters the reason of a suspension may have.
const maxReason = 500

// suspend stops everything of an organisation and lets its members look only, by an operator. Its data stay.
func (t *Tenancy) suspend(e *core.RequestEvent) error {
	var in struct {
		Reason string `json:"reason"`
	}
	tidy := func(access.Actor) ([]collections.Lock, error) {
		text, ok := access.CleanText(in.Reason, maxReason)
		if in.Reason = text; !ok || text == "" {
			return nil, access.InvalidField("reason", "required", fmt.Sprintf("Please say why in a sentence of at most %d characters. Its members read it.", maxReason))
		}
		return nil, nil
	}
	return t.operate(e, &in, tidy, func(tx core.App, a access.Actor, row *collections.Tenant) error {
		if row.Status() != StatusActive {
			return access.Conflict("not_active", "Only an active organisation can be suspended.")
		}
		row.SetStatusReason(in.Reason)
		return t.turn(tx, a, row, StatusSuspended, "tenant.suspend", "tenant.suspended", map[string]any{"reason": in.Reason})
	})
}

// resume ends a suspension: what ran before is started again.
func (t *Tenancy) resume(e *core.RequestEvent) error {
	return t.operate(e, nil, nil, func(tx core.App, a access.Actor, row *collections.Tenant) error {
		if row.Status() != StatusSuspended {
			return access.Conflict("not_suspended", "This organisation is not suspended.")
		}
		row.SetStatusReason("")
		return t.turn(tx, a, row, StatusActive, "tenant.resume", "tenant.resumed", map[string]any{})
	})
}

// operate is command for operators; it answers with the tenant.
func (t *Tenancy) operate(e *core.RequestEvent, in any, more func(access.Actor) ([]collections.Lock, error), fn func(tx core.App, a access.Actor, row *collections.Tenant) error) error {
	a, err := access.From(e)
	if err == nil {
		err = access.RequireSuperuser(a)
	}
	if err != nil {
		return err
	}
	return t.command(e, "", in, more, func(tx core.App, a access.Actor, row *collections.Tenant) (int, any, error) {
		if err := fn(tx, a, row); err != nil {
			return 0, nil, err
		}
		v, err := t.viewFor(tx, a, row)
		return http.StatusOK, v, err
	})
}

// turn gives a tenant another status, has its servers follow, and cuts what is open of it: whoever comes back is asked
// again what he may.
func (t *Tenancy) turn(tx core.App, a access.Actor, row *collections.Tenant, to, action, kind string, details map[string]any) error {
	row.SetStatus(to)
	row.SetStatusSince(time.Now())
	row.SetRev(row.Rev() + 1)
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("make tenant %s %s: %w", row.Id, to, err)
	}
	if err := t.announce(tx, a, row, action, kind, details); err != nil {
		return err
	}
	if t.cfg.Turned == nil {
		return nil
	}
	return t.cfg.Turned(tx, row.Id)
}
