package servers

import (
	"net/http"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// PlacementInput is the body of POST /servers/placement: what would be created.
type PlacementInput struct {
	Blueprint string `json:"blueprint"`
	Limits    Limits `json:"limits"`
	Location  string `json:"location"`
}

// placement says which nodes a server of this size would fit on, for the wizard. It reserves nothing.
func (s *Servers) placement(e *core.RequestEvent) error {
	a, tenant, err := s.member(e)
	if err != nil {
		return err
	}
	if err := s.Tenancy.Can(e.App, a, "server.create", tenancy.Resource{Tenant: tenant.Id}); err != nil {
		return err
	}
	var in PlacementInput
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	if _, err := validate("placement", in.Limits); err != nil {
		return err
	}
	game, err := s.chosen(e.App, a, CreateInput{Blueprint: in.Blueprint})
	if err != nil {
		return err
	}
	choice, err := s.Alloc.Explain(e.App, alloc.Need{
		Tenant: tenant.Id, Location: in.Location, Ports: portNeeds(game.Blueprint),
		CPUMillicores: in.Limits.CPUMillicores, MemoryMiB: in.Limits.MemoryMiB, DiskMiB: in.Limits.DiskGiB << 10,
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, choice)
}
