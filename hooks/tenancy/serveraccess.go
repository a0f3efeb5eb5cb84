package tenancy

import (
	"net/http"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
)

// place finds the tenant of a request and checks that the server of the path is one of its.
func (t *Tenancy) place(e *core.RequestEvent) (access.Actor, *collections.Tenant, string, error) {
	a, err := access.From(e)
	if err != nil {
		return a, nil, "", err
	}
	row, err := t.Current(e.App, a)
	if err != nil {
		return a, nil, "", err
	}
	server := e.Request.PathValue("id")
	n, err := e.App.CountRecords(collections.Servers, dbx.HashExp{"id": server, "tenant": row.Id}, dbx.Not(dbx.HashExp{"status": "DELETED"}))
	if err == nil && n == 0 {
		err = noServer()
	}
	if err == nil {
		// Who may not see the server is not told that it is there.
		err = t.Can(e.App, a, "server.read", Resource{Tenant: row.Id, Server: server})
	}
	return a, row, server, err
}

// access lists who was let in for one server.
func (t *Tenancy) access(e *core.RequestEvent) error {
	a, row, server, err := t.place(e)
	if err != nil {
		return err
	}
	if err := t.Can(e.App, a, "member.update", Resource{Tenant: row.Id}); err != nil {
		return err
	}
	list, err := people(e.App, row.Id, "", server)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"items": list})
}

// grant gives a member a role for one server.
func (t *Tenancy) grant(e *core.RequestEvent) error {
	var in struct {
		Role *string `json:"role"`
	}
	return t.setAccess(e, func() (string, error) {
		if err := access.Bind(e, &in); err != nil {
			return "", err
		}
		if in.Role == nil || *in.Role == "" {
			return "", access.InvalidField("role", "required", "Please choose a role.")
		}
		return *in.Role, nil
	})
}

// ungrant takes a member's role for one server away.
func (t *Tenancy) ungrant(e *core.RequestEvent) error {
	return t.setAccess(e, func() (string, error) { return "", nil })
}

func (t *Tenancy) setAccess(e *core.RequestEvent, asked func() (role string, err error)) error {
	a, row, server, err := t.place(e)
	if err != nil {
		return err
	}
	role, err := asked()
	if err != nil {
		return err
	}
	body, err := access.Body(e)
	if err != nil {
		return err
	}
	locks := []collections.Lock{Lock(row.Id), audit.Lock(row.Id)}
	return t.cfg.Idempotency.Idempotent(e, a, row.Id, body, locks, func(tx core.App) (int, any, error) {
		if err := t.Can(tx, a, "member.update", Resource{Tenant: row.Id}); err != nil {
			return 0, nil, err
		}
		m, err := memberOf(tx, row.Id, e.Request.PathValue("user"))
		if err != nil {
			return 0, nil, err
		}
		if err := t.setRole(tx, a, m, server, role); err != nil {
			return 0, nil, err
		}
		return t.personAnswer(tx, a, row.Id, m.User())
	})
}
