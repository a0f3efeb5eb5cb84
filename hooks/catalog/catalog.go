// Package catalog is what customers can create: the blueprints that the operator offers, each with
// its immutable versions.
//
// It owns the tables blueprints and blueprint_versions. It refuses to know how a blueprint is
// written (package blueprints) and who runs which (hooks/servers).
//
// Its one invariant: a published version never changes. Servers pin theirs, so what a server is
// made of can always be compiled again.
package catalog

import (
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/blueprints"
	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/wings/wire"
)

var permit = collections.PermitFor("catalog")

// Errors that callers decide on.
var (
	ErrUnknown = errors.New("catalog: no such blueprint")
	ErrChanged = errors.New("catalog: this version was published with other contents; raise the version")
)

// maxParsed bounds the cache of parsed versions. Past it the cache starts again: a version is parsed
// in well under a millisecond.
const maxParsed = 512

// Catalog serves blueprints. Its methods are safe for concurrent use.
type Catalog struct {
	log *slog.Logger

	mu     sync.Mutex
	parsed map[string]*blueprints.Blueprint // by version id, guarded by mu; entries are immutable
}

// New returns a Catalog; nothing is published yet.
func New(log *slog.Logger) *Catalog {
	return &Catalog{log: log, parsed: map[string]*blueprints.Blueprint{}}
}

// PublishShipped publishes the games that come with this release, each version once. A shipped game
// that changed without a new version is reported and keeps its published form.
func (c *Catalog) PublishShipped(app core.App) error {
	folders, err := blueprints.ShippedFolders()
	if err != nil {
		return err
	}
	if same, err := published(app, folders); same || err != nil {
		return err
	}
	bundles, err := blueprints.Shipped()
	if err != nil {
		return err
	}
	return collections.Tx(app, []collections.Lock{"catalog"}, func(tx core.App) error {
		for _, b := range bundles {
			_, err := c.Publish(tx, b, "shipped")
			if errors.Is(err, ErrChanged) {
				c.log.Warn("shipped blueprint changed without a new version; servers keep the published one", "blueprint", b.ID, "version", b.Version)
				continue
			}
			if err != nil {
				return fmt.Errorf("publish %s %s: %w", b.ID, b.Version, err)
			}
		}
		return nil
	})
}

// published reports whether each folder is what new servers of its game get already. It reads no
// blueprint: that would take longer than all else at a start. Which of a folder's files are the icon
// and the script only the blueprint says, so every choice is compared.
func published(app core.App, folders []blueprints.Folder) (bool, error) {
	var rows []struct {
		Slug   string `db:"slug"`
		Digest string `db:"digest"`
	}
	err := app.DB().Select("b.slug", "v.digest").From(collections.BlueprintRows+" b").
		InnerJoin(collections.BlueprintVersions+" v", dbx.NewExp("[[v.id]] = [[b.latest]]")).All(&rows)
	if err != nil {
		return false, fmt.Errorf("read the published digests: %w", err)
	}
	latest := map[string]string{}
	for _, r := range rows {
		latest[r.Slug] = r.Digest
	}
	for _, f := range folders {
		if have := latest[f.Name]; have == "" || !slices.Contains(digests(f), have) {
			return false, nil
		}
	}
	return true, nil
}

// digests are those that the folder may be published with.
func digests(f blueprints.Folder) []string {
	icons, scripts := []storedFiles{{}}, []string{""}
	for name, data := range f.Files {
		if kind := blueprints.IconType(name); kind != "" {
			icons = append(icons, storedFiles{Icon: base64.StdEncoding.EncodeToString(data), IconType: kind})
		} else if name != blueprints.FileName {
			scripts = append(scripts, string(data))
		}
	}
	var all []string
	for _, files := range icons {
		for _, files.Script = range scripts {
			all = append(all, digestOf(f.Files[blueprints.FileName], files))
		}
	}
	return all
}

// Publish stores a bundle as a version of its blueprint and makes it the one that new servers get.
// Publishing the same contents again changes nothing. ErrChanged when that version number is taken
// by other contents.
func (c *Catalog) Publish(tx core.App, b *blueprints.Bundle, source string) (*collections.BlueprintVersion, error) {
	row, err := c.row(tx, b, source)
	if err != nil {
		return nil, err
	}
	digest := digest(b)
	version, err := collections.One[collections.BlueprintVersion](tx, collections.BlueprintVersions,
		dbx.HashExp{"blueprint": row.Id, "version": b.Version})
	switch {
	case err == nil && version.Digest() != digest:
		return version, ErrChanged
	case err == nil:
		return version, nil
	case !errors.Is(err, sql.ErrNoRows):
		return nil, err
	}
	if version, err = collections.NewBlueprintVersion(tx); err != nil {
		return nil, err
	}
	version.SetBlueprint(row.Id)
	version.SetVersion(b.Version)
	version.SetSource(string(b.Source))
	version.SetDigest(digest)
	version.SetFiles(bundleFiles(b))
	if err := permit.Save(tx, version); err != nil {
		return nil, fmt.Errorf("save version: %w", err)
	}
	row.SetLatest(version.Id)
	row.SetName(b.Name)
	row.SetSummary(b.Summary)
	row.SetCategories(b.Categories)
	return version, permit.Save(tx, row)
}

func (c *Catalog) row(tx core.App, b *blueprints.Bundle, source string) (*collections.BlueprintRow, error) {
	row, err := collections.One[collections.BlueprintRow](tx, collections.BlueprintRows, dbx.HashExp{"slug": b.ID})
	if err == nil || !errors.Is(err, sql.ErrNoRows) {
		return row, err
	}
	if row, err = collections.NewBlueprintRow(tx); err != nil {
		return nil, err
	}
	row.SetSlug(b.ID)
	row.SetName(b.Name)
	row.SetSummary(b.Summary)
	row.SetCategories(b.Categories)
	row.SetSource(source)
	row.SetEnabled(true)
	return row, permit.Save(tx, row)
}

// storedFiles is what a version keeps besides its blueprint.yaml.
type storedFiles struct {
	Icon     string `json:"icon,omitempty"` // base64
	IconType string `json:"icon_type,omitempty"`
	Script   string `json:"script,omitempty"` // of install.script_file
}

func bundleFiles(b *blueprints.Bundle) storedFiles {
	f := storedFiles{Icon: base64.StdEncoding.EncodeToString(b.Icon), IconType: b.IconType}
	if b.Install != nil && b.Install.ScriptFile != "" {
		f.Script = b.Install.Script
	}
	return f
}

func digest(b *blueprints.Bundle) string { return digestOf(b.Source, bundleFiles(b)) }

func digestOf(source []byte, f storedFiles) string {
	h := sha256.New()
	for _, part := range []string{string(source), f.Icon, f.IconType, f.Script} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Offered is a blueprint that customers may choose, with the version that new servers get.
type Offered struct {
	Row     *collections.BlueprintRow
	Version *collections.BlueprintVersion
	*blueprints.Blueprint
}

// Find returns an offered blueprint by id or slug. ErrUnknown when there is none or it is disabled.
func (c *Catalog) Find(app core.App, idOrSlug string) (Offered, error) {
	row, err := collections.One[collections.BlueprintRow](app, collections.BlueprintRows,
		dbx.Or(dbx.HashExp{"id": idOrSlug}, dbx.HashExp{"slug": idOrSlug}), dbx.HashExp{"enabled": true})
	if errors.Is(err, sql.ErrNoRows) {
		return Offered{}, ErrUnknown
	}
	if err != nil {
		return Offered{}, err
	}
	return c.offered(app, row)
}

// Version returns a named version of an offered blueprint; "" is the latest. ErrUnknown.
func (c *Catalog) Version(app core.App, o Offered, version string) (Offered, error) {
	if version == "" || version == o.Version.Version() {
		return o, nil
	}
	v, err := collections.One[collections.BlueprintVersion](app, collections.BlueprintVersions, dbx.HashExp{"blueprint": o.Row.Id, "version": version})
	if errors.Is(err, sql.ErrNoRows) {
		return Offered{}, ErrUnknown
	}
	if err != nil {
		return Offered{}, err
	}
	b, err := c.parse(v)
	return Offered{Row: o.Row, Version: v, Blueprint: b}, err
}

// iconOf returns the version whose icon is asked for; "" is the latest. Servers show the icon of
// their version also when the game is not offered any more. ErrUnknown.
func (c *Catalog) iconOf(app core.App, idOrSlug, version string) (*collections.BlueprintVersion, error) {
	row, err := collections.One[collections.BlueprintRow](app, collections.BlueprintRows, dbx.Or(dbx.HashExp{"id": idOrSlug}, dbx.HashExp{"slug": idOrSlug}))
	if err == nil {
		where := dbx.HashExp{"blueprint": row.Id, "version": version}
		if version == "" {
			where = dbx.HashExp{"id": row.Latest()}
		}
		var v *collections.BlueprintVersion
		if v, err = collections.One[collections.BlueprintVersion](app, collections.BlueprintVersions, where); err == nil {
			return v, nil
		}
	}
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrUnknown
	}
	return nil, fmt.Errorf("find the icon of blueprint %s: %w", idOrSlug, err)
}

// List returns every offered blueprint, by name. One that cannot be read any more, because it was
// damaged or a newer release is stricter, is logged and left out: the others can be played.
func (c *Catalog) List(app core.App) ([]Offered, error) {
	rows, err := collections.Every[collections.BlueprintRow](app, collections.BlueprintRows, "name ASC", 0, dbx.HashExp{"enabled": true})
	if err != nil {
		return nil, err
	}
	out := make([]Offered, 0, len(rows))
	for _, row := range rows {
		o, err := c.offered(app, row)
		if err != nil {
			c.log.Error("a blueprint is left out of the list: it cannot be read", "blueprint", row.Slug(), "error", err)
			continue
		}
		out = append(out, o)
	}
	return out, nil
}

func (c *Catalog) offered(app core.App, row *collections.BlueprintRow) (Offered, error) {
	v, err := collections.FindBlueprintVersion(app, row.Latest())
	if err != nil {
		return Offered{}, fmt.Errorf("latest version of blueprint %s: %w", row.Slug(), err)
	}
	b, err := c.parse(v)
	return Offered{Row: row, Version: v, Blueprint: b}, err
}

// Blueprint returns the parsed blueprint of a version id. The result is shared and must not be
// changed.
func (c *Catalog) Blueprint(app core.App, versionID string) (*blueprints.Blueprint, error) {
	c.mu.Lock()
	b, ok := c.parsed[versionID]
	c.mu.Unlock()
	if ok {
		return b, nil
	}
	v, err := collections.FindBlueprintVersion(app, versionID)
	if err != nil {
		return nil, fmt.Errorf("blueprint version %s: %w", versionID, err)
	}
	return c.parse(v)
}

// Compile compiles a version for a server; see blueprints.Compile for the errors.
func (c *Catalog) Compile(app core.App, versionID string, in blueprints.Input) (wire.Spec, error) {
	b, err := c.Blueprint(app, versionID)
	if err != nil {
		return wire.Spec{}, err
	}
	return blueprints.Compile(b, in)
}

func (c *Catalog) parse(v *collections.BlueprintVersion) (*blueprints.Blueprint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.parsed[v.Id]; ok {
		return b, nil
	}
	b, err := blueprints.Parse([]byte(v.Source()), blueprints.FileName)
	if err != nil {
		return nil, fmt.Errorf("parse published version %s: %w", v.Id, err)
	}
	var f storedFiles
	if err := v.Files(&f); err != nil {
		return nil, fmt.Errorf("files of published version %s: %w", v.Id, err)
	}
	if b.Install != nil && b.Install.ScriptFile != "" {
		b.Install.Script = f.Script
	}
	if len(c.parsed) >= maxParsed {
		clear(c.parsed)
	}
	c.parsed[v.Id] = b
	return b, nil
}
