package tenancy

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

// admit is asked at the door of a tenant's data for whoever belongs to it, however he comes: 403
// second_factor_required when the tenant requires a second factor and he has none. An operator is not asked.
func (t *Tenancy) admit(app core.App, a access.Actor, required bool) error {
	if !required || a.Superuser {
		return nil
	}
	return access.RequireSecondFactor(app, a.ID)
}

// leaving is whether somebody asks to be let out: whoever is held at the door may still go.
func leaving(e *core.RequestEvent, a access.Actor) bool {
	return e.Request.Method == http.MethodDelete && e.Request.PathValue("user") == a.ID
}

// require switches on or off that members need a second factor. Who switches it on has one himself, or he would
// shut himself out.
func require(tx core.App, a access.Actor, row *collections.Tenant, on bool) error {
	if on && !a.Superuser {
		err := access.RequireSecondFactor(tx, a.ID)
		var none *access.Error
		if errors.As(err, &none) {
			return access.Forbidden(none.Code, "You have no second factor yourself, so you would shut yourself out. Please set one up on your account page first.")
		}
		if err != nil {
			return err
		}
	}
	row.SetRequire2fa(on)
	return nil
}

// WithoutFactor lists the members of a tenant who have no second factor.
func (t *Tenancy) WithoutFactor(app core.App, tenant string) ([]string, error) {
	var users []string
	err := app.ConcurrentDB().Select("user").From(collections.TenantMembers).Where(dbx.HashExp{"tenant": tenant}).Column(&users)
	if err != nil {
		return nil, fmt.Errorf("list the members of tenant %s: %w", tenant, err)
	}
	out := []string{}
	for _, user := range users {
		err := access.RequireSecondFactor(app, user)
		var none *access.Error
		if err != nil && !errors.As(err, &none) {
			return nil, err
		}
		if err != nil {
			out = append(out, user)
		}
	}
	return out, nil
}
