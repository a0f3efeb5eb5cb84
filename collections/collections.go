// Package collections is the schema: one file per collection says which fields it has, which room
// owns it, and how it is indexed. Typed record proxies are generated from these definitions.
//
// It owns names, types and the one way to write: Tx opens every write transaction, and Save and
// Delete carry the permit of the room that owns the collection. It refuses to hold behaviour; that
// is hooks/.
//
// Its one invariant: a migrated database equals All(), and a row of a room's collection is written
// with that room's permit or not at all (Guard, bound in hooks/hooks.go).
package collections

//go:generate go run ./gen

import (
	"fmt"
	"slices"
)

// Kind of a field. Each maps to one PocketBase field type.
type Kind string

// Kinds of fields.
const (
	Text     Kind = "text"
	Number   Kind = "number" // integers only; PocketBase stores float64, exact to 2^53
	Bool     Kind = "bool"
	Email    Kind = "email"
	Date     Kind = "date"
	JSON     Kind = "json"
	Select   Kind = "select"   // one of Values
	Relation Kind = "relation" // one id of Target; never cascades
)

// Field of a collection.
type Field struct {
	Name     string
	Kind     Kind
	Required bool     // not the zero value
	Max      int      // Text: characters, JSON: bytes; 0 = PocketBase's default (5,000; 1 MiB)
	Pattern  string   // Text: regular expression
	Values   []string // Select
	Target   string   // Relation: collection name
	Hidden   bool     // never serialised, not even for superusers
	Doc      string   // unit, owner, meaning
}

// Definition of a collection. The API rules of every collection are nil (superusers only): customers
// come through /api/v1 (docs/adr/0002-collections.md).
type Definition struct {
	Name    string
	Go      string // name of the generated proxy, e.g. "Server"
	Owner   string // room under hooks/ that alone may write it
	Tenant  bool   // has an indexed `tenant`
	Watched bool   // has `rev`, which grows by one with every change that a browser may see
	// DashboardFields may be changed by a superuser in the dashboard, audited in the same
	// transaction. Nil: the dashboard can only look.
	DashboardFields []string
	Fields          []Field
	Indexes         []Index
}

// Index on columns. Where makes it partial.
type Index struct {
	Name    string
	Unique  bool
	Columns string
	Where   string
}

// All returns every definition in the order in which their collections can be made.
func All() []Definition {
	return []Definition{
		dataKeys, eventsDef, auditLogs, auditHeads, auditFiles, jobsDef, jobSteps, cronRuns, incidentsDef, spentTokens, idempotencyKeys,
		panelInstances, leadersDef, rateLimits, sessionsDef,
		totpFactors, backupCodes, passkeysDef, passkeyChallenges, signInCheckpoints,
		tenantsDef, permissionsDef, rolesDef, rolePermissions, tenantMembers, roleBindings, invitesDef,
		authoritiesDef, nodesDef, nodeCertificates, nodeLinks, panelCertificates, ipPools, portPools, allocationsDef,
		blueprintsDef, blueprintVersions, serversDef,
		apiKeys,
		notificationsDef, notificationPrefs, notificationChannels, pushSubscriptions, pushKeys, notificationMutes,
		exportsDef, exportParts,
	}
}

// ByName returns the definition of a collection of ours; ok is false for PocketBase's own.
func ByName(name string) (Definition, bool) {
	i := slices.IndexFunc(defs, func(d Definition) bool { return d.Name == name })
	if i < 0 {
		return Definition{}, false
	}
	return defs[i], true
}

var defs = All()

// columns returns the whole field list: the declared ones plus what Tenant and Watched add.
func (d Definition) columns() []Field {
	out := make([]Field, 0, len(d.Fields)+2)
	if d.Tenant {
		out = append(out, Field{Name: "tenant", Kind: Text, Max: 15, Doc: "owner; empty only for rows of the installation itself"})
	}
	out = append(out, d.Fields...)
	if d.Watched {
		out = append(out, Field{Name: "rev", Kind: Number, Doc: "grows by one with every visible change"})
	}
	return out
}

// Columns is the whole field list of a definition without id, created and updated.
func (d Definition) Columns() []Field { return d.columns() }

// AllIndexes returns the declared indexes plus the one on tenant.
func (d Definition) AllIndexes() []Index {
	out := slices.Clone(d.Indexes)
	if d.Tenant && !slices.ContainsFunc(out, func(i Index) bool { return i.Columns == "tenant" || len(i.Columns) > 6 && i.Columns[:7] == "tenant," }) {
		out = append(out, Index{Name: fmt.Sprintf("idx_%s_tenant", d.Name), Columns: "tenant"})
	}
	return out
}
