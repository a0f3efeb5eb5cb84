// Package tenancy knows who belongs to which organisation (tenant) and may do what in it.
//
// It owns tenants, tenant_members, roles, permissions, role_permissions, role_bindings and invites.
// It refuses to know what a server or a job is beyond its id and its tenant: a room asks Can before
// it acts, and filters its rows by tenant itself.
//
// Its one invariant: whatever is not the actor's answers as if it did not exist (404), and what is
// his but not allowed to him says so (403); both are decided by Can and nowhere else.
package tenancy

import (
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/jobs"
)

var permit = collections.PermitFor("tenancy")

// Stored states of a tenant.
const (
	StatusActive    = "ACTIVE"    // works
	StatusSuspended = "SUSPENDED" // may look, may not change
	StatusDeleting  = "DELETING"  // waits for its end; may look and take along, may not change
	StatusDeleted   = "DELETED"   // is not there for anybody; its row is all that is left
)

// Keys of the system roles, strongest first.
const (
	RoleOwner   = "OWNER"
	RoleAdmin   = "ADMIN"
	RoleSupport = "SUPPORT"
	RoleMember  = "MEMBER"
)

// DefaultMaxTenants is how many organisations one person may own unless configured otherwise.
const DefaultMaxTenants = 10

// DefaultGrace is how long an organisation that is to be deleted can still be kept.
const DefaultGrace = 30 * 24 * time.Hour

// DefaultQuota is what a tenant may use when neither its row nor the operator says otherwise.
var DefaultQuota = Quota{Servers: 10, MemoryMiB: 32 << 10, CPUMillicores: 16_000, DiskMiB: 200 << 10}

// Auditor writes an audit row in the caller's transaction.
type Auditor interface {
	Write(tx core.App, a audit.Actor, e audit.Entry) error
}

// Announcer keeps events in the caller's transaction and tells browsers after its commit.
type Announcer interface {
	Emit(tx core.App, e events.Event) error
	Broadcast(tx core.App, tenant string, m events.Message)
}

// Idempotency runs a command in one transaction, once per Idempotency-Key (access.Access).
type Idempotency interface {
	Idempotent(e *core.RequestEvent, a access.Actor, tenant string, body []byte, locks []collections.Lock, fn func(tx core.App) (int, any, error)) error
}

// Sessions is access.Access: Switch makes a tenant the one that the tokens of the actor's session name, and
// RequireProof refuses a session whose owner has not shown lately who he is.
type Sessions interface {
	RequireProof(app core.App, a access.Actor) error
	Switch(e *core.RequestEvent, a access.Actor, tenant string) (token string, until time.Time, err error)
}

// Config of New.
type Config struct {
	Auditor     Auditor
	Events      Announcer
	Idempotency Idempotency
	Sessions    Sessions
	Keys        Keys
	Jobs        Queue
	// App is for what runs outside of a request.
	App core.App
	// InviteKey signs invites: 32 bytes.
	InviteKey []byte
	// Confirm marks the address of an account as confirmed, in the caller's transaction, whose locks
	// include audit.Lock("").
	Confirm func(tx core.App, a access.Actor) error
	// Turned is told in the transaction that gives a tenant another status: its servers follow, and what is open of it
	// is cut. Nil: there is nothing of it.
	Turned func(tx core.App, tenant string) error
	// Quota of a tenant whose row says 0; a zero field means that of DefaultQuota.
	Quota Quota
	// Grace is how long an organisation that is to be deleted can still be kept; 0 means DefaultGrace.
	Grace time.Duration
	// MaxTenants that one person may own; 0 means DefaultMaxTenants.
	MaxTenants int64
}

// Tenancy answers who may do what. Its methods can be called concurrently.
type Tenancy struct {
	cfg       Config
	questions sync.Map // *dbx.DB → *dbx.Query: what Can asks, prepared
}

// New checks the configuration and registers the job that mails invites.
func New(c Config) (*Tenancy, error) {
	if c.Auditor == nil || c.Events == nil || c.Idempotency == nil || c.Sessions == nil || c.Keys == nil || c.Jobs == nil || c.App == nil || c.Confirm == nil {
		return nil, errors.New("tenancy: an auditor, an announcer, idempotency, sessions, API keys, a queue, an app and who confirms addresses are needed")
	}
	if len(c.InviteKey) < 32 {
		return nil, errors.New("tenancy: the key of invites is too short")
	}
	if c.MaxTenants < 0 {
		return nil, fmt.Errorf("tenancy: %d organisations per person make no sense", c.MaxTenants)
	}
	if c.MaxTenants == 0 {
		c.MaxTenants = DefaultMaxTenants
	}
	if c.Grace < 0 {
		return nil, fmt.Errorf("tenancy: an organisation cannot be deleted %v before it is asked for", -c.Grace)
	}
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	c.Quota = c.Quota.or(DefaultQuota)
	t := &Tenancy{cfg: c}
	c.Jobs.Handle(mailJob, jobs.Options{MaxAttempts: inviteMailTries, BackoffMin: 10 * time.Second, BackoffMax: time.Hour, Timeout: time.Minute, AtOnce: 1}, t.sendInvite, nil)
	return t, nil
}

// Lock is what a transaction holds that counts or changes what a tenant has.
func Lock(tenant string) collections.Lock { return collections.Lock("tenant:" + tenant) }

// Lock is the function of that name, for rooms that hold a Tenancy behind an interface.
func (t *Tenancy) Lock(tenant string) collections.Lock { return Lock(tenant) }

func noTenant() *access.Error {
	return access.NotFound("tenant_not_found", "There is no such organisation, or you are not a member of it.")
}

// Current returns the tenant that a request names in X-Tenant by id or slug: 400 tenant_required when
// it names none, 404 when there is none or the actor is not a member of it. A superuser finds every
// tenant that is not deleted.
func (t *Tenancy) Current(app core.App, a access.Actor) (*collections.Tenant, error) {
	if a.TenantHint == "" {
		return nil, access.BadRequest("tenant_required", "Please say which organisation this is about, in the header X-Tenant.")
	}
	return t.Find(app, a, a.TenantHint)
}

// Find returns the tenant of that id or slug if the actor may know of it, else 404; 403
// second_factor_required when it holds him at the door. When one tenant's slug is another's id, the id wins.
func (t *Tenancy) Find(app core.App, a access.Actor, ref string) (*collections.Tenant, error) {
	row, err := t.find(app, a, ref)
	if err == nil {
		err = closedTo(a, row.Status())
	}
	if err != nil {
		return nil, err
	}
	return row, t.admit(app, a, row.Require2fa())
}

func (t *Tenancy) find(app core.App, a access.Actor, ref string) (*collections.Tenant, error) {
	if ref == "" || len(ref) > MaxSlugLength {
		return nil, noTenant()
	}
	q := app.RecordQuery(collections.Tenants).
		AndWhere(dbx.Or(dbx.HashExp{"tenants.id": ref}, dbx.HashExp{"tenants.slug": ref})).
		AndWhere(dbx.Not(dbx.HashExp{"tenants.status": StatusDeleted})).
		OrderBy("CASE WHEN [[tenants.id]] = {:ref} THEN 0 ELSE 1 END").
		AndBind(dbx.Params{"ref": ref}).Limit(1)
	if !a.Superuser {
		q.AndWhere(dbx.NewExp("EXISTS (SELECT 1 FROM {{tenant_members}} [[m]] WHERE [[m.tenant]] = [[tenants.id]] AND [[m.user]] = {:user})", dbx.Params{"user": a.ID}))
	}
	if a.Key != nil && a.Key.Tenant != "" {
		q.AndWhere(dbx.HashExp{"tenants.id": a.Key.Tenant})
	}
	found := &collections.Tenant{}
	if err := q.One(found); errors.Is(err, sql.ErrNoRows) {
		return nil, noTenant()
	} else if err != nil {
		return nil, fmt.Errorf("find tenant %s: %w", ref, err)
	}
	return found, nil
}
