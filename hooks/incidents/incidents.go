// Package incidents is what an operator should see: opened when something is wrong, counted while it
// goes on, resolved when it is over.
//
// It owns incidents. It refuses to hold two open incidents of one fingerprint.
//
// Its one invariant: for every fingerprint at most one incident is open, and its count is how often it
// was reported since it opened.
package incidents

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

var permit = collections.PermitFor("incidents")

// Lock is held by every transaction that opens or resolves one.
const Lock collections.Lock = "incidents"

// Severities.
const (
	Info     = "info"     // worth knowing
	Warning  = "warning"  // act soon
	Critical = "critical" // customers are affected
)

// States.
const (
	Opened   = "OPEN"
	Resolved = "RESOLVED"
)

// ErrNotOpen is what resolving an incident gets that is resolved already or does not exist.
var ErrNotOpen = errors.New("there is no such open incident")

// Incident is one report.
type Incident struct {
	Kind        string // e.g. "node.offline"
	Fingerprint string // what makes two reports the same; default kind + node + server
	Severity    string
	Title       string // one line
	Detail      string
	Tenant      string
	Node        string
	Server      string
}

// Book is where incidents are written. It is safe for concurrent use.
type Book struct {
	onOpen func(tx core.App, i *collections.Incident) error
}

// New returns a Book. onOpen, if not nil, is called in the transaction that opens an incident, not when
// it is only counted: emit the event here.
func New(onOpen func(tx core.App, i *collections.Incident) error) *Book { return &Book{onOpen: onOpen} }

// Open opens an incident in the caller's transaction, whose locks include Lock, or counts the open one
// of that fingerprint up: its detail, title and time become the new ones, its severity the higher.
func (b *Book) Open(tx core.App, in Incident) error {
	if in.Fingerprint == "" {
		in.Fingerprint = strings.Join([]string{in.Kind, in.Node, in.Server}, ":")
	}
	return collections.Tx(tx, []collections.Lock{Lock}, func(tx core.App) error {
		if err := b.open(tx, in); err != nil {
			return fmt.Errorf("open incident %s: %w", in.Fingerprint, err)
		}
		return nil
	})
}

func (b *Book) open(tx core.App, in Incident) error {
	now := time.Now().UTC()
	row, err := findOpen(tx, in.Fingerprint)
	if errors.Is(err, ErrNotOpen) && in.Node != "" {
		if in, err = gathered(tx, in); err == nil {
			row, err = findOpen(tx, in.Fingerprint)
		}
	}
	isNew := errors.Is(err, ErrNotOpen)
	switch {
	case isNew:
		if row, err = collections.NewIncident(tx); err != nil {
			return err
		}
		row.SetKind(in.Kind)
		row.SetFingerprint(in.Fingerprint)
		row.SetStatus(Opened)
		row.SetTenant(in.Tenant)
		row.SetNode(in.Node)
		row.SetServer(in.Server)
		row.SetFirstAt(now)
	case err != nil:
		return err
	}
	if rank(in.Severity) >= rank(row.Severity()) {
		row.SetSeverity(in.Severity)
	}
	row.SetTitle(clip(in.Title, 255))
	row.SetDetail(clip(in.Detail, 4000))
	row.SetCount(row.Count() + 1)
	row.SetLastAt(now)
	if err := permit.Save(tx, row); err != nil {
		return err
	}
	if isNew && b.onOpen != nil {
		return b.onOpen(tx, row)
	}
	return nil
}

// maxOpenPerNode is how many incidents of one kind may be open about one node. A node can invent any
// number of things to report.
const maxOpenPerNode = 50

// gathered returns the incident, or what stands for it and all further ones of its kind when there are
// too many about its node.
func gathered(tx core.App, in Incident) (Incident, error) {
	n, err := tx.CountRecords(collections.Incidents, dbx.HashExp{"status": Opened, "kind": in.Kind, "node": in.Node})
	if err != nil || n < maxOpenPerNode {
		return in, err
	}
	in.Fingerprint = in.Kind + ":" + in.Node + ":more"
	in.Detail = "The last of them: " + in.Title + ". " + in.Detail
	in.Title, in.Server = fmt.Sprintf("More than %d reports of %s about one node", maxOpenPerNode, in.Kind), ""
	return in, nil
}

// rank orders severities; one that is not known has the lowest, and does not pass the schema.
func rank(severity string) int {
	switch severity {
	case Critical:
		return 3
	case Warning:
		return 2
	case Info:
		return 1
	}
	return 0
}

func findOpen(app core.App, fingerprint string) (*collections.Incident, error) {
	row, err := collections.One[collections.Incident](app, collections.Incidents, dbx.HashExp{"fingerprint": fingerprint, "status": Opened})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotOpen
	}
	return row, err
}

// Resolve ends the open incident of a fingerprint; none is not an error, because what reports that
// all is well does not know whether it was otherwise. Lock is asked for only where there is one: who
// opens one at this moment does it after this.
func (b *Book) Resolve(tx core.App, fingerprint, resolution string) error {
	if _, err := findOpen(tx, fingerprint); errors.Is(err, ErrNotOpen) {
		return nil
	}
	return collections.Tx(tx, []collections.Lock{Lock}, func(tx core.App) error {
		row, err := findOpen(tx, fingerprint)
		if errors.Is(err, ErrNotOpen) {
			return nil
		}
		if err == nil {
			err = resolve(tx, row, resolution)
		}
		if err != nil {
			return fmt.Errorf("resolve incident %s: %w", fingerprint, err)
		}
		return nil
	})
}

// ResolveID ends an incident that an operator names. ErrNotOpen when it is not open or does not exist.
func (b *Book) ResolveID(tx core.App, id, resolution string) (*collections.Incident, error) {
	var out *collections.Incident
	err := collections.Tx(tx, []collections.Lock{Lock}, func(tx core.App) error {
		row, err := collections.FindIncident(tx, id)
		if errors.Is(err, sql.ErrNoRows) || err == nil && row.Status() != Opened {
			return fmt.Errorf("resolve incident %s: %w", id, ErrNotOpen)
		}
		if err == nil {
			err = resolve(tx, row, resolution)
		}
		if err != nil {
			return fmt.Errorf("resolve incident %s: %w", id, err)
		}
		out = row
		return nil
	})
	return out, err
}

func resolve(tx core.App, row *collections.Incident, resolution string) error {
	row.SetStatus(Resolved)
	row.SetResolution(clip(resolution, 1000))
	row.SetResolvedAt(time.Now().UTC())
	return permit.Save(tx, row)
}

// Filter of List; empty fields do not narrow.
type Filter struct {
	Status, Tenant, Node, Server string
}

// maxPerPage bounds one page of List.
const maxPerPage = 200

// List returns a page (from 1) of incidents, the last seen first, and how many there are.
func (b *Book) List(app core.App, f Filter, page, perPage int) ([]*collections.Incident, int, error) {
	page, perPage = max(page, 1), min(max(perPage, 1), maxPerPage)
	var where []dbx.Expression
	for column, v := range map[string]string{"status": f.Status, "tenant": f.Tenant, "node": f.Node, "server": f.Server} {
		if v != "" {
			where = append(where, dbx.HashExp{column: v})
		}
	}
	q := app.RecordQuery(collections.Incidents).OrderBy("last_at DESC", "id").Limit(int64(perPage)).Offset(int64((page - 1) * perPage))
	for _, w := range where {
		q.AndWhere(w)
	}
	var rows []*collections.Incident
	if err := q.All(&rows); err != nil {
		return nil, 0, fmt.Errorf("list incidents: %w", err)
	}
	total, err := app.CountRecords(collections.Incidents, where...)
	if err != nil {
		return nil, 0, fmt.Errorf("count incidents: %w", err)
	}
	return rows, int(total), nil
}

// View is an incident as operators see it.
func View(i *collections.Incident) map[string]any {
	v := map[string]any{"id": i.Id, "kind": i.Kind(), "fingerprint": i.Fingerprint(), "severity": i.Severity(), "status": i.Status(),
		"title": i.Title(), "detail": i.Detail(), "tenant": i.Tenant(), "node": i.Node(), "server": i.Server(), "count": i.Count(),
		"first_at": at(i.FirstAt()), "last_at": at(i.LastAt()), "resolved_at": at(i.ResolvedAt()), "resolution": i.Resolution()}
	return v
}

func at(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func clip(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "")
	if len(s) <= n {
		return s
	}
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
