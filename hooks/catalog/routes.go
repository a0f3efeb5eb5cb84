package catalog

import (
	"encoding/base64"
	"errors"
	"net/http"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/hooks/access"
)

// Routes registers blueprints and blueprints/{id} on the /api/v1 group.
func (c *Catalog) Routes(g *router.RouterGroup[*core.RequestEvent]) {
	g.GET("/blueprints", c.list)
	g.GET("/blueprints/{id}", c.get)
	g.GET("/blueprints/{id}/icon", c.icon)
}

// View is a blueprint as customers see it.
type View struct {
	ID         string   `json:"id"`
	Slug       string   `json:"slug"`
	Name       string   `json:"name"`
	Summary    string   `json:"summary"`
	Categories []string `json:"categories"`
	Version    string   `json:"version"`
	IconURL    string   `json:"icon_url"`
	Resources  any      `json:"resources"`
	Form       any      `json:"form,omitempty"`
}

// IconURL is where the icon of a blueprint is served. The version makes it cacheable for ever.
func IconURL(slug, version string) string { return "/api/v1/blueprints/" + slug + "/icon?v=" + version }

func view(o Offered) View {
	return View{
		ID: o.Row.Id, Slug: o.Row.Slug(), Name: o.Name, Summary: o.Summary, Categories: append([]string{}, o.Categories...),
		Version: o.Version.Version(), IconURL: IconURL(o.Row.Slug(), o.Version.Version()), Resources: o.Form().Resources,
	}
}

func (c *Catalog) list(e *core.RequestEvent) error {
	if _, err := access.From(e); err != nil {
		return err
	}
	all, err := c.List(e.App)
	if err != nil {
		return err
	}
	items := make([]View, 0, len(all))
	for _, o := range all {
		items = append(items, view(o))
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items})
}

func (c *Catalog) get(e *core.RequestEvent) error {
	if _, err := access.From(e); err != nil {
		return err
	}
	o, err := c.find(e)
	if err != nil {
		return err
	}
	v := view(o)
	v.Form = o.Form()
	return e.JSON(http.StatusOK, v)
}

// icon is public: a picture of a game is no secret, and an <img> sends no token.
func (c *Catalog) icon(e *core.RequestEvent) error {
	version, err := c.iconOf(e.App, e.Request.PathValue("id"), e.Request.URL.Query().Get("v"))
	if errors.Is(err, ErrUnknown) {
		return errNotFound.Because(err)
	}
	if err != nil {
		return err
	}
	var f storedFiles
	if err := version.Files(&f); err != nil {
		return err
	}
	data, err := base64.StdEncoding.DecodeString(f.Icon)
	if err != nil || len(data) == 0 {
		return access.NotFound("no_icon", "This game has no picture.")
	}
	h := e.Response.Header()
	h.Set("Cache-Control", "public, max-age=300")
	if e.Request.URL.Query().Has("v") { // a version never changes
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	h.Set("X-Content-Type-Options", "nosniff")
	return e.Blob(http.StatusOK, f.IconType, data)
}

func (c *Catalog) find(e *core.RequestEvent) (Offered, error) {
	o, err := c.Find(e.App, e.Request.PathValue("id"))
	if errors.Is(err, ErrUnknown) {
		return o, errNotFound.Because(err)
	}
	return o, err
}

var errNotFound = access.NotFound("blueprint_not_found", "There is no such game here. Pick one from the list.")
