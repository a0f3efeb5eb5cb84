// Package hooks wires the panel: it makes the rooms, tells each what it may use of the others, and is
// the only place where PocketBase's hooks are bound.
//
// It owns no behaviour and no table. Its one invariant: every hook has a constant id, so what runs in
// which order can be read here, and nothing is bound anywhere else.
package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/cron"
	"github.com/pocketbase/pocketbase/tools/hook"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/catalog"
	"github.com/mambahost/mamba/hooks/cluster"
	"github.com/mambahost/mamba/hooks/compliance"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/metering"
	"github.com/mambahost/mamba/hooks/notify"
	"github.com/mambahost/mamba/hooks/ops"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/hooks/servers"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/outbound"
	"github.com/mambahost/mamba/wings/wire"
)

// Priorities of our hooks: first runs before everything of PocketBase's, last after it.
const (
	first = -9999
	early = -100
	last  = 9999

	topicRecheck = "servers.recheck" // on the bus: ask again who may go on with what is open; with the id of a tenant, nobody of it may

	afterToken  = apis.DefaultLoadAuthTokenMiddlewarePriority + 1
	afterLimits = apis.DefaultRateLimitMiddlewarePriority + 1 // the caller is known by then
)

// How long finished jobs and delivered events are kept, and how many go in one night.
const (
	keepHistory = 90 * 24 * time.Hour
	pruneAtOnce = 50_000
)

// handler gives a hook function its constant id and its place.
func handler[T hook.Resolver](id string, priority int, fn func(T) error) *hook.Handler[T] {
	return &hook.Handler[T]{Id: id, Priority: priority, Func: fn}
}

// Register binds the panel to a PocketBase app. Rooms are made when it serves; commands that only
// open the database get the guards and nothing else.
func Register(app core.App, c *Config) {
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	bindGuards(app, c.BreakGlass)
	bindDatabase(app, c)
	bindSettings(app, c)
	app.OnServe().Bind(handler("mamba.serve", early, func(e *core.ServeEvent) error {
		c.HTTPAddress = e.Server.Addr
		p, err := Open(app, c)
		if err != nil {
			return err
		}
		p.work.Go(func() { _ = p.prepared() }) // Start is told of its error
		p.bindRoutes(e)
		if err := e.Next(); err != nil { // listens
			return err
		}
		p.Events.SetPeers(p.Fleet, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			e.Server.Handler.ServeHTTP(w, r.WithContext(access.Carried(r.Context())))
		}))
		return p.Start()
	}))
}

// Panel is the rooms of one running panel.
type Panel struct {
	Secrets   *secrets.Keeper
	Cluster   *cluster.Cluster
	Events    *events.Outbox
	Audit     *audit.Log
	Jobs      *jobs.Queue
	Incidents *incidents.Book
	Access    *access.Access
	Tenancy   *tenancy.Tenancy
	Notify    *notify.Notify
	Alloc     *alloc.Alloc
	Metering  *metering.Metering
	Catalog   *catalog.Catalog
	Fleet     *fleet.Fleet
	Servers   *servers.Servers

	Compliance *compliance.Compliance
	Ops        *ops.Ops

	outbound *outbound.Client

	app    core.App
	config *Config
	log    *slog.Logger
	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	work   sync.WaitGroup // what Start left running

	// prepared does once what needs no listener and nothing that Start does before it: it runs beside
	// the making of routes.
	prepared func() error

	cronMu   sync.Mutex
	ledCrons map[string]*cron.Job // PocketBase's scheduled tasks as leadCrons left them; guarded by cronMu

	mu    sync.Mutex        // held by Start and Stop as a whole: a signal may come while it starts
	begun bool              // guarded by mu
	local *fleet.Supervisor // nil without a local node; guarded by mu
}

// Open makes the rooms of an app whose database is open and migrated. Nothing runs before Start.
func Open(app core.App, c *Config) (*Panel, error) {
	p := &Panel{app: app, config: c, log: c.Log, ledCrons: map[string]*cron.Job{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	samples := p.openSamples() // beside the keys
	if err := p.openKeys(); err != nil {
		return nil, errors.Join(err, closeSamples(samples))
	}
	var err error
	if p.Metering, err = p.openMetering(samples); err != nil {
		return nil, err
	}
	if p.Access, err = access.New(access.Config{IntentKey: p.Secrets.Derive(purposeIntent), Auditor: p.Audit, Cluster: p.Cluster, Seal: p.Secrets, PublicURL: c.publicURL(c.HTTPAddress),
		Ended: func(tx core.App, user string) error {
			return errors.Join(p.recheckAll(tx), p.Events.AccountChanged(tx, user), p.Notify.SessionsEnded(tx, user)) // Notify is made below
		},
		KeyEnded: p.recheckAll,
		Goes:     func(tx core.App, a access.Actor, user string) error { return p.Tenancy.LeaveAll(tx, a, user) }, // made below
		Alarm: func(tx core.App, a access.Actor, kind string, details map[string]any) error {
			return p.Events.Emit(tx, events.Event{Kind: kind, SubjectType: "users", Subject: a.ID, Actor: a.ID, ActorType: a.Type, ActorName: a.Name, Payload: details})
		},
		Secure: strings.HasPrefix(c.publicURL(c.HTTPAddress), "https://"), TokenPace: c.TokenPace, AddressPace: c.AddressPace, Log: p.log}); err != nil {
		return nil, err
	}
	if p.Tenancy, err = tenancy.New(tenancy.Config{Auditor: p.Audit, Events: p.Events, Idempotency: p.Access, Sessions: p.Access, Keys: p.Access, Jobs: p.Jobs, App: app,
		InviteKey: p.Secrets.Derive(purposeInvite), Confirm: p.Access.Confirm, Turned: p.tenantTurned,
		Grace: time.Duration(c.GraceDays) * 24 * time.Hour}); err != nil {
		return nil, err
	}
	if err := p.openNotify(); err != nil {
		return nil, err
	}
	if p.Alloc, err = alloc.New(p.Audit); err != nil {
		return nil, err
	}
	p.Catalog = catalog.New(p.log)
	p.Fleet, err = fleet.New(app, fleet.Config{
		Listen: c.NodeListen, PublicAddress: c.nodePublic(c.publicURL(c.HTTPAddress)), Secrets: p.Secrets, Audit: p.Audit,
		Events: p.Events, Incidents: p.Incidents, Cluster: p.Cluster, Samples: p.Metering, Log: p.log, Forget: []func(core.App, string) error{
			func(tx core.App, node string) error { return p.Servers.ForgetNode(tx, node) }, // made below
			p.Alloc.ForgetNode,
		},
	})
	if err != nil {
		return nil, err
	}
	p.Servers = servers.New(servers.Config{
		App:    app,
		Access: p.Access, Tenancy: p.Tenancy, Alloc: p.Alloc, Catalog: p.Catalog, Jobs: p.Jobs, Events: p.Events, Audit: p.Audit,
		Incidents: p.Incidents, Secrets: p.Secrets, Charts: p.Metering, Nodes: p.Fleet, Log: p.log,
	})
	p.Fleet.SetPlacements(p.Servers)
	p.Fleet.SetPeerHandler(http.HandlerFunc(p.Events.ServePeer))
	if err := p.openCompliance(); err != nil {
		return nil, err
	}
	p.Ops = ops.New(p.Jobs, p.Incidents, p.Audit, p.config.database.kind())
	p.prepared = sync.OnceValue(func() error {
		if err := p.Catalog.PublishShipped(p.app); err != nil {
			return fmt.Errorf("publish the shipped games: %w", err)
		}
		return p.Fleet.Prepare()
	})
	p.bindHooks()
	p.schedule()
	return p, nil
}

// openKeys makes the rooms that stand on the master key.
func (p *Panel) openKeys() error {
	master, err := p.config.masterSource(p.app).Open(func() (bool, error) { return secrets.Unused(p.app) })
	if err != nil {
		return err
	}
	if p.Secrets, err = secrets.New(p.app, master); err != nil {
		return err
	}
	if err := p.Secrets.Check(p.app); err != nil {
		return err
	}
	if err := p.claimMaster(); err != nil {
		return err
	}
	if p.Cluster, err = p.openCluster(); err != nil {
		return err
	}
	p.Events = events.New(p.app, p.Cluster, p.log)
	p.Events.OnGivenUp(p.listenerGivenUp)
	if p.Audit, err = p.config.auditWith(p.app, p.Secrets); err != nil {
		return err
	}
	p.Incidents = incidents.New(p.incidentOpened)
	p.Jobs = jobs.New(p.app, jobs.Config{
		Cluster: p.Cluster, Died: p.jobDied, DiedLocks: []collections.Lock{incidents.Lock}, Changed: p.jobChanged, Log: p.log,
	})
	p.handleRotate()
	bindProviders(p.app, p.Secrets)
	return nil
}

// openNotify makes the room that tells people, with the one client that requests to their addresses go through.
func (p *Panel) openNotify() error {
	allow, err := outbound.ParseAllow(p.config.OutboundAllow)
	if err != nil {
		return fmt.Errorf("--outbound-allow: %w", err)
	}
	p.outbound = outbound.New(outbound.Config{Allow: allow, Redirects: -1, MaxBody: 64 << 10}) // no webhook redirects
	p.Notify, err = notify.New(notify.Config{App: p.app, Events: p.Events, Jobs: p.Jobs, Tenancy: p.Tenancy, Audit: p.Audit, Secrets: p.Secrets,
		Send: p.outbound, Hosts: strings.FieldsFunc(strings.ToLower(p.config.WebhookHosts), func(r rune) bool { return r == ',' || r == ' ' }), Log: p.log})
	return err
}

// openCompliance makes the room that takes organisations out. A room that has rows of tenants is in the list; a test
// fails when a collection is purged by none.
func (p *Panel) openCompliance() (err error) {
	p.Compliance, err = compliance.New(compliance.Config{App: p.app, Access: p.Access, Tenancy: p.Tenancy, Jobs: p.Jobs, Events: p.Events, Audit: p.Audit, Incidents: p.Incidents,
		Servers: p.Servers, Samples: p.Metering, Sealed: sealed, Cut: p.tenantGone, Log: p.log,
		Rooms: []compliance.Room{p.Servers, p.Alloc, p.Tenancy, p.Access, p.Notify, p.Incidents, p.Jobs, p.Events, p.Secrets}})
	return err
}

// openSamples begins to open the store of samples. What it returns waits for it.
func (p *Panel) openSamples() func() (metering.Store, error) {
	type opened struct {
		store metering.Store
		err   error
	}
	done := make(chan opened, 1)
	go func() { // ends with the open
		store, err := p.sampleStore()
		done <- opened{store, err}
	}()
	return func() (metering.Store, error) { o := <-done; return o.store, o.err }
}

// closeSamples gives up a store that is being opened.
func closeSamples(samples func() (metering.Store, error)) error {
	store, err := samples()
	if err != nil {
		return nil // there is a greater fault to tell of
	}
	return store.Close()
}

func (p *Panel) sampleStore() (metering.Store, error) {
	pg, err := p.config.database.open()
	if err != nil {
		return nil, err
	}
	if pg != nil {
		return metering.OpenPostgres(p.ctx, pg.Pool(), "")
	}
	file := p.config.SamplesFile
	if file == "" {
		file = dataFile(p.app.DataDir(), "samples.db")
	}
	return metering.OpenSQLite(file)
}

// openMetering makes the room over the store of samples.
func (p *Panel) openMetering(samples func() (metering.Store, error)) (*metering.Metering, error) {
	store, err := samples()
	if err != nil {
		return nil, err
	}
	keep := time.Duration(p.config.SamplesDays) * 24 * time.Hour
	m, err := metering.New(metering.Config{App: p.app, Store: store, Incidents: p.Incidents, Retention: keep, Log: p.log})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return m, nil
}

// listenerGivenUp opens an incident about an event that a listener refused to the last.
func (p *Panel) listenerGivenUp(e events.Stored, listener string, cause error) {
	err := collections.Tx(p.app, []collections.Lock{incidents.Lock}, func(tx core.App) error {
		return p.Incidents.Open(tx, incidents.Incident{
			Kind: "events.given_up", Fingerprint: "events.given_up:" + listener, Severity: "warning", Tenant: e.Tenant,
			Title: "Listener " + listener + " was given up on an event", Detail: fmt.Sprintf("Event %s (%s): %v", e.ID, e.Kind, cause),
		})
	})
	if err != nil {
		p.log.Error("report a listener that was given up", "listener", listener, "error", err)
	}
}

// incidentOpened tells listeners, in the transaction that opens an incident.
func (p *Panel) incidentOpened(tx core.App, i *collections.Incident) error {
	return p.Events.Emit(tx, events.Event{Kind: "incident.opened", Tenant: i.Tenant(), SubjectType: collections.Incidents, Subject: i.Id, Payload: incidents.View(i)})
}

// jobDied opens an incident in the transaction that gives a job up.
func (p *Panel) jobDied(tx core.App, j *collections.Job) error {
	server := j.Subject()
	if !wire.ValidID(server) { // not every job is about a server
		server = ""
	}
	return p.Incidents.Open(tx, incidents.Incident{
		Kind: "job.dead", Fingerprint: "job.dead:" + j.Kind() + ":" + j.Subject(), Severity: "warning", Tenant: j.Tenant(), Server: server,
		Title: j.Kind() + " was given up", Detail: j.LastError(),
	})
}

// jobChanged shows a job's progress to the browsers of its tenant.
func (p *Panel) jobChanged(tx core.App, j *collections.Job) {
	if j.Tenant() == "" {
		return
	}
	p.Events.Broadcast(tx, j.Tenant(), events.Message{Type: "job", ID: j.Id, Rev: j.Rev(), Server: j.Subject(), Data: jobs.View(j)})
}

// bindHooks binds what the rooms do at PocketBase's own doors.
func (p *Panel) bindHooks() {
	app := p.app
	p.bindTogether()
	p.Cluster.Subscribe(topicRecheck, func(m cluster.Message) {
		if len(m.Data) > 0 {
			p.Servers.CutTenant(string(m.Data))
		}
		p.Servers.Recheck()
	})
	p.Cluster.OnGap(p.Servers.Recheck)
	app.OnRealtimeConnectRequest().Bind(handler("mamba.events.connect", early, p.Events.Connect))
	app.OnRealtimeSubscribeRequest().Bind(handler("mamba.events.subscribe", early, func(e *core.RealtimeSubscribeRequestEvent) error {
		return p.Events.Admit(e, func(user *core.Record, tenant string) (events.Scope, bool) {
			return p.Tenancy.Scope(app, user, tenant)
		})
	}))
	app.OnRecordAuthWithOAuth2Request("users").Bind(handler("mamba.access.user.provider", early, p.Access.ProviderSignIn))
	app.OnRecordCreateRequest("users").Bind(handler("mamba.access.user.create", early, p.Access.UserCreateRequest))
	app.OnRecordUpdateRequest("users").Bind(handler("mamba.access.user.update", early, p.Access.UserUpdateRequest))
	app.OnRecordDeleteRequest("users").Bind(handler("mamba.access.user.delete", early, p.Access.UserDeleteRequest))
	app.OnRecordConfirmPasswordResetRequest().Bind(handler("mamba.access.user.password_reset", early, p.Access.PasswordResetConfirm))
	app.OnRecordConfirmEmailChangeRequest().Bind(handler("mamba.access.user.email_change", early, p.Access.EmailChangeConfirm))
	app.OnRecordConfirmVerificationRequest().Bind(handler("mamba.access.user.verify", early, p.Access.VerificationConfirm))
	app.OnRecordCreateRequest().Bind(handler("mamba.dashboard.create", early, p.dashboardRefuse("dashboard.create")))
	app.OnRecordUpdateRequest().Bind(handler("mamba.dashboard.update", early, p.dashboardSave))
	app.OnRecordDeleteRequest().Bind(handler("mamba.dashboard.delete", early, p.dashboardRefuse("dashboard.delete")))
	app.OnCollectionUpdateRequest().Bind(handler("mamba.dashboard.options", early, p.dashboardOptions))
	app.OnSettingsUpdateRequest().Bind(handler("mamba.dashboard.settings", early, p.dashboardSettings))
	rights := []string{"users", core.CollectionNameSuperusers, collections.TenantMembers, collections.RoleBindings, collections.RolePermissions}
	app.OnRecordAuthWithOTPRequest("users").Bind(handler("mamba.access.sign_in.code", early, p.Access.SignInByCode))
	app.OnRecordAuthWithOAuth2Request("users").Bind(handler("mamba.access.sign_in.provider", early, p.Access.SignInByProvider))
	app.OnRecordAuthRequest("users").Bind(handler("mamba.access.signed_in", first, p.Access.SignedIn))
	app.OnRecordAuthRequest(core.CollectionNameSuperusers).Bind(handler("mamba.access.operator_signed_in", first, p.Access.OperatorSignedIn))
	app.OnRecordAfterUpdateSuccess(rights...).Bind(handler("mamba.servers.recheck.update", early, p.recheck))
	app.OnRecordAfterDeleteSuccess(rights...).Bind(handler("mamba.servers.recheck.delete", early, p.recheck))
	app.OnRecordAfterUpdateSuccess(collections.TenantMembers).Bind(handler("mamba.events.member.update", early, p.memberChanged))
	app.OnRecordAfterDeleteSuccess(collections.TenantMembers).Bind(handler("mamba.events.member.delete", early, p.memberChanged))
	app.OnRecordAfterCreateSuccess(collections.RolePermissions).Bind(handler("mamba.events.role.create", early, p.roleChanged))
	app.OnRecordAfterDeleteSuccess(collections.RolePermissions).Bind(handler("mamba.events.role.delete", early, p.roleChanged))
	app.OnRecordUpdateExecute(collections.Tenants).Bind(handler("mamba.events.tenant.update", early, p.tenantChanged))
	app.OnMailerSend().Bind(handler("mamba.mail.send", last, p.sendMail))
	app.OnTerminate().Bind(handler("mamba.terminate", first, func(e *core.TerminateEvent) error {
		p.Stop()
		return e.Next()
	}))
}

// recheck cuts what is open and outlives its request when an account or a right has changed.
func (p *Panel) recheck(e *core.RecordEvent) error {
	if err := p.recheckAll(p.app); err != nil { // after the commit: nothing can be taken back
		p.log.Error("other instances do not ask again who may go on", "error", err)
		p.Servers.Recheck()
	}
	return e.Next()
}

// tenantTurned has everything of a tenant follow its new status.
func (p *Panel) tenantTurned(tx core.App, tenant string) error {
	return errors.Join(p.Servers.TenantTurned(tx, tenant), p.tenantGone(tx, tenant))
}

// tenantGone cuts everything that is open of a tenant, on every instance, once tx has committed.
func (p *Panel) tenantGone(tx core.App, tenant string) error {
	return errors.Join(p.Events.TenantChanged(tx, tenant), p.Cluster.Publish(tx, topicRecheck, []byte(tenant)))
}

// recheckAll does it on every instance, once tx has committed.
func (p *Panel) recheckAll(tx core.App) error { return p.Cluster.Publish(tx, topicRecheck, nil) }

// memberChanged has the live connections of a member admitted anew: what he may see may be less now, or nothing.
// Every change of what he may do touches his row.
func (p *Panel) memberChanged(e *core.RecordEvent) error {
	p.Events.Revoke(e.Record.GetString("user"), e.Record.GetString("tenant"))
	return e.Next()
}

// tenantChanged cuts what is open of members without a second factor once their organisation requires one.
func (p *Panel) tenantChanged(e *core.RecordEvent) error {
	const field = "require_2fa"
	before := e.Record.Original().GetBool(field)
	if err := e.Next(); err != nil || before || !e.Record.GetBool(field) {
		return err
	}
	tenant := e.Record.Id
	if err := p.recheckAll(e.App); err != nil {
		return err
	}
	collections.AfterCommit(e.App, func() {
		held, err := p.Tenancy.WithoutFactor(p.app, tenant)
		if err != nil {
			p.log.Error("members without a second factor keep their live connections", "tenant", tenant, "error", err)
			return
		}
		for _, user := range held {
			p.Events.Revoke(user, tenant)
		}
	})
	return nil
}

// roleChanged does what memberChanged does for everybody who has a role, when it begins or ceases to show servers.
func (p *Panel) roleChanged(e *core.RecordEvent) error {
	seen, err := p.Tenancy.Seeing(p.app, e.Record.GetString("permission"), e.Record.GetString("role"))
	if err != nil {
		return err
	}
	for _, one := range seen {
		p.Events.Revoke(one.User, one.Tenant)
	}
	return e.Next()
}

// schedule registers what runs by the clock.
func (p *Panel) schedule() {
	p.Jobs.Cron("audit.heads", "0 * * * *", jobs.CatchUp, func(tx core.App, _ time.Time) error { return p.Audit.WriteHeads(tx) })
	p.Jobs.Cron("alloc.leaks", "*/15 * * * *", jobs.Skip, func(tx core.App, _ time.Time) error {
		_, err := p.Alloc.ScanLeaks(tx, false)
		return err
	})
	p.Jobs.Cron("history.prune", "45 3 * * *", jobs.Skip, func(tx core.App, due time.Time) error {
		if _, err := p.Events.Prune(tx, due.Add(-keepHistory), pruneAtOnce); err != nil {
			return err
		}
		_, err := p.Jobs.Prune(tx, due.Add(-keepHistory), pruneAtOnce)
		return err
	})
	p.Jobs.Handle("PruneSamples", jobs.Options{MaxAttempts: 3, Timeout: time.Hour}, func(ctx context.Context, _ *jobs.Run) error {
		return p.Metering.Prune(ctx, time.Now())
	}, nil)
	p.Jobs.Cron("samples.prune", "15 3 * * *", jobs.Skip, func(tx core.App, _ time.Time) error {
		_, err := p.Jobs.Enqueue(tx, jobs.Job{Kind: "PruneSamples", UniqueKey: "PruneSamples"})
		if errors.Is(err, jobs.ErrDuplicate) {
			return nil
		}
		return err
	})
	p.Jobs.Cron("notify.prune", "0 4 * * *", jobs.Skip, func(tx core.App, due time.Time) error { return p.Notify.Prune(tx, due) })
	p.Jobs.Cron("access.purge", "30 3 * * *", jobs.Skip, func(tx core.App, _ time.Time) error {
		_, err := access.Purge(tx)
		return err
	})
}

// bindRoutes puts the API behind its door and the web app in front of everything else.
func (p *Panel) bindRoutes(e *core.ServeEvent) {
	if !p.config.BreakGlass {
		e.Router.Bind(handler("mamba.guard.routes", first, closeRoutes))
	}
	g := e.Router.Group("/api/v1")
	access.Door(g)
	for _, room := range []interface {
		Routes(*router.RouterGroup[*core.RequestEvent])
	}{p.Access, p.Tenancy, p.Notify, p.Catalog, p.Alloc, p.Fleet, p.Servers, p.Compliance, p.Ops} {
		room.Routes(g)
	}
	e.Router.Bind(handler("mamba.access.origin", afterToken, p.Access.OwnOrigin))
	e.Router.Bind(handler("mamba.access.session", afterToken, p.Access.LoadSession))
	e.Router.Bind(handler("mamba.access.key", afterToken, p.Access.LoadKey))
	e.Router.Bind(handler("mamba.access.limit", afterLimits, p.Access.Limit))
	e.Router.Bind(handler("mamba.operators.witness", afterLimits, p.witnessOperator))
	e.Router.Bind(handler("mamba.events.forward", early, p.Events.Forward))
	e.Router.Bind(handler("mamba.providers.open", early, p.openProviders))
	e.Router.GET("/{path...}", apis.WrapStdHandler(p.config.Web))
	e.InstallerFunc = nil // the first superuser is made on the command line, or by the demo
}

// Start publishes the shipped games and lets everything run until Stop. It is called once the panel
// listens.
func (p *Panel) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx := p.ctx
	if ctx.Err() != nil {
		return nil // stopped before it began
	}
	p.begun = true
	if err := encryptSettings(p.app, p.Secrets); err != nil {
		return err
	}
	if err := encryptProviders(p.app, p.Secrets); err != nil {
		return err
	}
	if err := p.applySettings(); err != nil {
		return err
	}
	if err := p.prepared(); err != nil {
		return err
	}
	if err := p.Cluster.Start(ctx); err != nil {
		return err
	}
	p.work.Go(func() { p.Access.Run(ctx, p.app) })
	p.Events.Start(ctx)
	if err := p.Fleet.Start(ctx); err != nil {
		return err
	}
	p.Jobs.Start(ctx)
	if err := p.startControl(ctx); err != nil {
		p.log.Error("commands of this machine cannot ask this panel; stop it before you rotate keys", "error", err)
	}
	if err := p.startLocal(ctx); err != nil {
		return err
	}
	if err := p.startDemo(ctx); err != nil {
		return err
	}
	if p.config.Started != nil {
		p.work.Go(p.config.Started)
	}
	return nil
}

// applySettings writes what the command line says into PocketBase's settings, where mails and links
// take it from.
func (p *Panel) applySettings() error {
	s, err := p.app.Settings().Clone()
	if err != nil {
		return err
	}
	before, err := json.Marshal(s)
	if err != nil {
		return err
	}
	s.Meta.AppURL = p.config.publicURL(p.config.HTTPAddress)
	if p.config.SMTP != "" {
		host, port, err := net.SplitHostPort(p.config.SMTP)
		if err != nil {
			return fmt.Errorf("--smtp %q: %w", p.config.SMTP, err)
		}
		s.SMTP.Enabled, s.SMTP.Host = true, host
		if s.SMTP.Port, err = strconv.Atoi(port); err != nil {
			return fmt.Errorf("--smtp %q: %w", p.config.SMTP, err)
		}
	}
	after, err := json.Marshal(s)
	if err != nil || bytes.Equal(before, after) {
		return err
	}
	return collections.Tx(p.app, nil, func(tx core.App) error { return tx.Save(s) })
}

// Stop ends what Start began, in the opposite order. Games go on. It may be called twice, and while
// Start runs, which then comes to its end.
func (p *Panel) Stop() {
	p.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() {
		if err := p.Metering.Close(); err != nil {
			p.log.Error("close the store of samples", "error", err)
		}
	}()
	if !p.begun {
		p.work.Wait()
		return
	}
	if p.local != nil {
		p.local.Stop()
	}
	p.work.Wait()
	p.Servers.Stop()
	p.Jobs.Stop()
	p.Fleet.Stop()
	p.Events.Stop()
	p.outbound.Close()
	p.Cluster.Stop()
}
