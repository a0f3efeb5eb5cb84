// Package events says what happened: a transactional outbox, its delivery to listeners on one panel
// instance, the tenants' activity lists, and the tenants' realtime topics on all instances.
//
// It owns events. It refuses to call a listener inside somebody's transaction, to let a slow listener
// or browser hold up a writer, and to send a browser what it may not see.
//
// Its one invariant: an event exists exactly if the change that emitted it was committed, and every
// listener gets every event at least once, in the order of seq, or its giving up is logged and
// reported.
package events

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/cluster"
)

var permit = collections.PermitFor("events")

// numbering is held, at the end of every transaction that emits, for as long as its commit takes: seq
// is the largest one plus one, and has to grow in the order of commits.
const numbering collections.Lock = "events"

// emitOrder is the place of events among what runs at the end of a transaction: before the bus.
const emitOrder = 10

// task is what one instance of all leads: calling the listeners.
const task = "events"

// Topics on the bus between instances.
const (
	topicWake = "events.wake" // the outbox has grown
	topicLive = "events.live" // what concerns browsers, in order: messages and revocations
)

// maxPayload bounds an event's payload in bytes; the column takes 64 KiB.
const maxPayload = 60 << 10

// Event is what a room says happened.
type Event struct {
	Kind        string // noun.verb, e.g. "server.phase_changed"
	Tenant      string // empty: the installation's
	SubjectType string // collection of the subject
	Subject     string // id of the subject
	Actor       string // who caused it; empty: the system
	ActorType   string // user, superuser, apikey, node, system
	ActorName   string // as it is now, for reading later
	Public      bool   // shown to the tenant, in its activity list and live; the payload then is, too
	Payload     any    // JSON; what a listener needs, never a secret
}

// Stored is an event as listeners and activity lists get it.
type Stored struct {
	ID          string
	Seq         int64 // order of the outbox; grows, with gaps
	At          time.Time
	Kind        string
	Tenant      string
	SubjectType string
	Subject     string
	Actor       string
	ActorType   string
	ActorName   string
	Public      bool
	Payload     json.RawMessage
}

// Unmarshal decodes the payload.
func (s Stored) Unmarshal(v any) error {
	if err := json.Unmarshal(s.Payload, v); err != nil {
		return fmt.Errorf("decode the payload of event %s (%s): %w", s.ID, s.Kind, err)
	}
	return nil
}

// View is the event as a customer sees it: {id, kind, at, actor: {type, name}, payload}.
func (s Stored) View() map[string]any {
	actor := map[string]any{"type": s.ActorType, "name": s.ActorName}
	if s.ActorType == "" {
		actor["type"] = "system"
	}
	return map[string]any{"id": s.ID, "kind": s.Kind, "at": s.At.UTC().Format(time.RFC3339Nano), "actor": actor,
		"subject_type": s.SubjectType, "subject": s.Subject, "payload": s.Payload}
}

// envelope is what the payload column holds: the schema has no column for the actor's name.
type envelope struct {
	ActorName string          `json:"actor_name,omitempty"`
	Data      json.RawMessage `json:"data"`
}

// Listener handles an event. It is called outside of any transaction, may be called again with the
// same event (after a crash, or after it returned an error), and has to end when ctx does.
type Listener func(ctx context.Context, e Stored) error

// Outbox is the events of one installation. It is safe for concurrent use.
type Outbox struct {
	app     core.App
	cluster *cluster.Cluster
	own     bool // the cluster is nobody else's: started and stopped here
	log     *slog.Logger
	failed  func(e Stored, listener string, err error) // nil, or told when a listener is given up on
	hub     *hub
	pending *collections.Batch[*collections.Event]
	peers   peers

	mu      sync.Mutex
	lanes   []*lane            // fixed at Start; guarded by mu before
	started bool               // guarded by mu
	stopped bool               // guarded by mu
	cancel  context.CancelFunc // of what leads now, nil when nothing does; guarded by mu
	wg      sync.WaitGroup
	ready   chan struct{} // closed by Start

	progress chan struct{} // capacity 1: a lane got further, only the latest matters
}

// New returns an Outbox; nothing runs before Start. c may be nil: then this process is alone.
func New(app core.App, c *cluster.Cluster, log *slog.Logger) *Outbox {
	if log == nil {
		log = slog.Default()
	}
	o := &Outbox{app: app, cluster: c, log: log, hub: newHub(), ready: make(chan struct{}), progress: make(chan struct{}, 1)}
	if c == nil {
		o.own = true
		o.cluster, _ = cluster.New(app, cluster.Config{Log: log}) // fails without an app only
	}
	o.pending = collections.NewBatch(emitOrder, numbering, o.store)
	o.cluster.OnLead(task, o.lead)
	o.cluster.Subscribe(topicWake, func(cluster.Message) { o.wakeAll() })
	o.cluster.Subscribe(topicLive, o.live)
	o.cluster.OnGap(o.gap)
	return o
}

// OnGivenUp sets who is told, outside of any transaction, that a listener was given up on for one
// event; incidents are opened there. Before Start.
func (o *Outbox) OnGivenUp(fn func(e Stored, listener string, err error)) { o.failed = fn }

// On registers a listener under a name of its own. kind is exact ("server.created"), a noun
// ("server.*"), or "*". Before Start; a second use of a name panics, it would be two listeners that
// nobody can tell apart.
func (o *Outbox) On(kind, name string, fn Listener) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.started {
		panic("events: On after Start")
	}
	for _, l := range o.lanes {
		if l.name == name {
			panic("events: a second listener is named " + name)
		}
	}
	o.lanes = append(o.lanes, newLane(o, kind, name, fn))
}

// Emit stores the event in the caller's transaction, at its end, and delivers it after the commit. A
// public event is also sent to the tenant's realtime topic as "activity". It fails for an event that
// cannot be stored; when the database does not take it, the transaction fails.
func (o *Outbox) Emit(tx core.App, e Event) error {
	row, err := o.row(tx, e)
	if err == nil {
		err = collections.Tx(tx, nil, func(tx core.App) error { return o.pending.Add(tx, row) })
	}
	if err != nil {
		return fmt.Errorf("emit %s: %w", e.Kind, err)
	}
	return nil
}

func (o *Outbox) row(app core.App, e Event) (*collections.Event, error) {
	data, err := json.Marshal(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("encode the payload: %w", err)
	}
	if len(data) > maxPayload {
		return nil, fmt.Errorf("the payload has %d bytes, at most %d", len(data), maxPayload)
	}
	raw, err := json.Marshal(envelope{ActorName: e.ActorName, Data: data})
	if err != nil {
		return nil, fmt.Errorf("encode the payload: %w", err)
	}
	row, err := collections.NewEvent(app)
	if err != nil {
		return nil, err
	}
	row.SetTenant(e.Tenant)
	row.SetKind(e.Kind)
	row.SetSubjectType(e.SubjectType)
	row.SetSubject(e.Subject)
	row.SetActor(e.Actor)
	row.SetActorType(e.ActorType)
	row.SetPublic(e.Public)
	row.SetPayload(types.JSONRaw(raw))
	return row, nil
}

// store numbers and writes the events of one transaction.
func (o *Outbox) store(tx core.App, rows []*collections.Event) error {
	var last int64
	if err := tx.DB().NewQuery("SELECT COALESCE(MAX([[seq]]), 0) FROM {{events}}").Row(&last); err != nil {
		return fmt.Errorf("read the number of the last event: %w", err)
	}
	for i, row := range rows {
		row.SetSeq(last + int64(i) + 1)
		if err := permit.Save(tx, row); err != nil {
			return fmt.Errorf("emit %s: %w", row.Kind(), err)
		}
		if !row.Public() || row.Tenant() == "" {
			continue
		}
		stored, err := fromRow(row)
		if err != nil {
			return err
		}
		m := Message{Type: "activity", ID: row.Id, Data: stored.View()}
		if row.SubjectType() == collections.Servers {
			m.Server = row.Subject()
		}
		o.Broadcast(tx, row.Tenant(), m)
	}
	return o.cluster.Publish(tx, topicWake, nil)
}

func (o *Outbox) wakeAll() {
	for _, l := range o.lanes {
		nudge(l.wake)
	}
	nudge(o.progress)
}

// nudge puts a token into a channel of capacity 1 if there is none.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Bounds of Activity.
const (
	maxActivityPage    = 1 << 20
	maxActivityPerPage = 100
)

// Activity returns a page (from 1) of a tenant's public events, newest first, and how many there are;
// subject narrows it to one id when it is not empty.
func (o *Outbox) Activity(app core.App, tenant, subject string, page, perPage int) ([]Stored, int, error) {
	page, perPage = min(max(page, 1), maxActivityPage), min(max(perPage, 1), maxActivityPerPage)
	where := dbx.HashExp{"tenant": tenant, "public": true}
	if subject != "" {
		where["subject"] = subject
	}
	var rows []*collections.Event
	q := app.RecordQuery(collections.Events).AndWhere(where).OrderBy("seq DESC").Limit(int64(perPage)).Offset(int64((page - 1) * perPage))
	if err := q.All(&rows); err != nil {
		return nil, 0, fmt.Errorf("read activity: %w", err)
	}
	total, err := app.CountRecords(collections.Events, where)
	if err != nil {
		return nil, 0, fmt.Errorf("count activity: %w", err)
	}
	out := make([]Stored, 0, len(rows))
	for _, r := range rows {
		s, err := fromRow(r)
		if err != nil {
			return nil, 0, err
		}
		out = append(out, s)
	}
	return out, int(total), nil
}

// Prune removes at most limit delivered events that are older than before, oldest first, and returns
// how many; the newest event always stays, because the next number follows it.
func (o *Outbox) Prune(app core.App, before time.Time, limit int) (int, error) {
	n := 0
	err := collections.Tx(app, nil, func(tx core.App) error {
		n = 0
		rows, err := collections.Every[collections.Event](tx, collections.Events, "seq", int64(limit),
			dbx.HashExp{"delivered": true},
			dbx.NewExp("[[created]] < {:before} AND [[seq]] < (SELECT MAX([[seq]]) FROM {{events}})", dbx.Params{"before": collections.Stamp(before)}))
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := permit.Delete(tx, r); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("prune events: %w", err)
	}
	return n, nil
}

func fromRow(r *collections.Event) (Stored, error) {
	var env envelope
	if err := r.Payload(&env); err != nil {
		return Stored{}, fmt.Errorf("decode event %s: %w", r.Id, err)
	}
	return Stored{ID: r.Id, Seq: r.Seq(), At: r.Created(), Kind: r.Kind(), Tenant: r.Tenant(), SubjectType: r.SubjectType(),
		Subject: r.Subject(), Actor: r.Actor(), ActorType: r.ActorType(), ActorName: env.ActorName, Public: r.Public(), Payload: env.Data}, nil
}

func matches(pattern, kind string) bool {
	if pattern == "*" || pattern == kind {
		return true
	}
	noun, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasPrefix(kind, noun)
}
