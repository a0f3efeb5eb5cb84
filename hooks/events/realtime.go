package events

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"
	"github.com/pocketbase/pocketbase/tools/subscriptions"

	"github.com/mambahost/mamba/collections"
)

// topicPrefix begins a tenant's realtime topic. No collection can have such a name, so PocketBase's
// own record messages cannot match it.
const topicPrefix = "mamba.tenant."

// Topic is the realtime topic of a tenant.
func Topic(tenant string) string { return topicPrefix + tenant }

// Bounds of realtime.
const (
	maxTopics    = 20   // of one browser
	feedQueue    = 64   // messages waiting for one browser; one more and they become a resync
	hubQueue     = 4096 // messages waiting to be fanned out; one more and every browser is told to resync
	admitRetries = 5    // times that a revocation may cross an admission
)

// Message is one line on a tenant's topic.
type Message struct {
	Type    string // server, job, tenant, activity, resync
	ID      string
	Rev     int64  // of the record; a browser applies it if it is newer than its own
	Server  string // the server this is about; empty: the tenant
	Data    any
	Deleted bool
}

// MarshalJSON leaves out what a type does not have; Server is for the filter only.
func (m Message) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Type    string `json:"type"`
		ID      string `json:"id,omitempty"`
		Rev     int64  `json:"rev,omitempty"`
		Data    any    `json:"data,omitempty"`
		Deleted bool   `json:"deleted,omitempty"`
	}{m.Type, m.ID, m.Rev, m.Data, m.Deleted})
}

// Scope is what of a tenant a member may see.
type Scope struct {
	All     bool     // every server and the tenant's own matters
	Servers []string // otherwise these servers only
}

// sees: who has been given single servers gets messages about these, about the tenant's name and
// status, and nothing else.
func (s Scope) sees(p posted) bool {
	if s.All || p.kind == "tenant" || p.kind == "resync" {
		return true
	}
	return p.server != "" && slices.Contains(s.Servers, p.server)
}

var resync = []byte(`{"type":"resync"}`)

// Broadcast sends m to the tenant's topic after the commit of tx. It never blocks and never fails: a
// message is a hint, and a browser that misses one is told to refetch.
//
// It is encoded now, once, so that m.Data may be changed afterwards.
func (o *Outbox) Broadcast(tx core.App, tenant string, m Message) {
	data, err := json.Marshal(m)
	if err != nil {
		o.log.Error("a realtime message cannot be encoded", "type", m.Type, "id", m.ID, "error", err)
		return
	}
	p := posted{tenant: tenant, kind: m.Type, server: m.Server, data: data}
	collections.AfterCommit(tx, func() { o.hub.post(p) })
}

// Connect gives a new realtime connection its bounded queue. It is bound to OnRealtimeConnectRequest.
func (o *Outbox) Connect(e *core.RealtimeConnectRequestEvent) error {
	f := &feed{Client: e.Client, hub: o.hub, more: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	e.Client = f
	go f.run() // ended and waited for by Discard
	defer f.Discard()
	return e.Next()
}

// Admit decides about a subscription request, and is the whole body of OnRealtimeSubscribeRequest: a
// customer may subscribe to topics of tenants that scope admits him to, and to nothing else; a
// superuser may also watch collections. It calls e.Next.
func (o *Outbox) Admit(e *core.RealtimeSubscribeRequestEvent, scope func(user *core.Record, tenant string) (Scope, bool)) error {
	f, ok := e.Client.(*feed)
	if !ok {
		return router.NewInternalServerError("", nil) // Connect is not bound
	}
	if len(e.Subscriptions) == 0 {
		o.hub.leave(f)
		return e.Next()
	}
	if e.Auth == nil {
		return router.NewUnauthorizedError("Sign in to receive live updates.", nil)
	}
	for range admitRetries {
		generation := o.hub.generation()
		seats, err := seatsFor(e, scope)
		if err != nil {
			o.hub.leave(f)
			return err
		}
		if o.hub.join(f, e.Auth, seats, generation) {
			if err := e.Next(); err != nil {
				o.hub.leave(f)
				return err
			}
			return nil
		}
	}
	return router.NewTooManyRequestsError("Your access is being changed. Try again.", nil)
}

// seatsFor asks for every topic once.
func seatsFor(e *core.RealtimeSubscribeRequestEvent, scope func(*core.Record, string) (Scope, bool)) (map[string]Scope, error) {
	seats := map[string]Scope{}
	for _, topic := range e.Subscriptions {
		tenant, ours := strings.CutPrefix(topic, topicPrefix)
		if !ours {
			if e.Auth.IsSuperuser() {
				continue
			}
			return nil, router.NewForbiddenError("Subscribe to the topic of an organisation.", nil)
		}
		if len(seats) == maxTopics {
			return nil, router.NewBadRequestError("Too many topics.", nil)
		}
		if e.Auth.IsSuperuser() {
			seats[tenant] = Scope{All: true}
			continue
		}
		s, ok := scope(e.Auth, tenant)
		if !ok {
			return nil, router.NewNotFoundError("There is no such organisation.", nil)
		}
		seats[tenant] = s
	}
	return seats, nil
}

// Revoke cuts the live connections of a user to a tenant, or all of that user's when tenant is empty.
// It returns when nothing can be sent to them any more. Their browsers reconnect and are asked again,
// so it is also how a changed scope takes effect; call it after the commit that changes it.
func (o *Outbox) Revoke(user, tenant string) {
	for _, f := range o.hub.revoke(user, tenant) {
		o.app.SubscriptionsBroker().Unregister(f.Id()) // calls f.Discard
	}
}

// feed is a realtime client with a bounded queue and one goroutine that alone sends to the browser.
type feed struct {
	subscriptions.Client
	hub  *hub
	more chan struct{} // capacity 1: the queue is not empty
	stop chan struct{} // closed by Discard
	done chan struct{} // closed when run has ended

	once   sync.Once
	closed bool // takes no seat any more; guarded by hub.mu

	mu    sync.Mutex
	user  string                  // id of who it was admitted for; guarded by mu
	queue []subscriptions.Message // at most feedQueue; guarded by mu
}

// push queues a message. A full queue is replaced by one resync: what waits in it is then moot.
func (f *feed) push(topic string, data []byte) {
	f.mu.Lock()
	if len(f.queue) >= feedQueue {
		f.queue = append(f.queue[:0], subscriptions.Message{Name: topic, Data: resync})
	}
	f.queue = append(f.queue, subscriptions.Message{Name: topic, Data: data})
	f.mu.Unlock()
	nudge(f.more)
}

func (f *feed) run() {
	defer close(f.done)
	for {
		select {
		case <-f.stop:
			return
		case <-f.more:
		}
		for {
			m, ok := f.pop()
			if !ok {
				break
			}
			select {
			case <-f.stop:
				return
			case f.Channel() <- m:
			}
		}
	}
}

// pop takes the oldest message. PocketBase clears a client's auth when the account's token key
// changes (password, e-mail); what waits for it is dropped then.
func (f *feed) pop() (subscriptions.Message, bool) {
	auth, _ := f.Get(apis.RealtimeClientAuthKey).(*core.Record)
	f.mu.Lock()
	defer f.mu.Unlock()
	if auth == nil || auth.Id != f.user {
		f.queue = nil
	}
	if len(f.queue) == 0 {
		return subscriptions.Message{}, false
	}
	m := f.queue[0]
	f.queue = f.queue[1:]
	return m, true
}

// Discard leaves the hub and ends the goroutine before PocketBase closes the channel, so that nothing
// is ever sent on a closed one.
func (f *feed) Discard() {
	f.once.Do(func() {
		f.hub.close(f)
		close(f.stop)
		<-f.done
		f.Client.Discard()
	})
}

// posted is an encoded message on its way, with what the filter needs.
type posted struct {
	tenant, kind, server string
	data                 []byte
}

// hub knows which feed sits at which tenant and copies messages to them on a goroutine of its own, so
// that a writer pays for one append however many browsers listen.
type hub struct {
	log  *slog.Logger
	more chan struct{} // capacity 1: the queue is not empty

	qmu   sync.Mutex
	queue []posted // at most hubQueue; guarded by qmu
	lost  bool     // the queue was full; guarded by qmu

	mu    sync.RWMutex
	seats map[string]map[*feed]Scope // by tenant; guarded by mu
	gen   uint64                     // revocations so far; guarded by mu
}

func newHub(log *slog.Logger) *hub {
	return &hub{log: log, more: make(chan struct{}, 1), seats: map[string]map[*feed]Scope{}}
}

func (h *hub) post(p posted) {
	h.qmu.Lock()
	if len(h.queue) >= hubQueue {
		h.queue, h.lost = h.queue[:0], true
	}
	h.queue = append(h.queue, p)
	h.qmu.Unlock()
	nudge(h.more)
}

func (h *hub) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.more:
		}
		h.qmu.Lock()
		batch, lost := h.queue, h.lost
		h.queue, h.lost = nil, false
		h.qmu.Unlock()
		if lost {
			h.log.Warn("realtime messages were dropped, browsers refetch")
			h.resyncAll()
		}
		for _, p := range batch {
			h.fanOut(p)
		}
	}
}

func (h *hub) fanOut(p posted) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	topic := Topic(p.tenant)
	for f, scope := range h.seats[p.tenant] {
		if scope.sees(p) {
			f.push(topic, p.data)
		}
	}
}

func (h *hub) resyncAll() {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for tenant, seats := range h.seats {
		for f := range seats {
			f.push(Topic(tenant), resync)
		}
	}
}

func (h *hub) generation() uint64 {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.gen
}

// join seats a feed, in place of the seats it had. It does not when anybody's access was revoked since
// generation: the scopes may be from before that.
func (h *hub) join(f *feed, auth *core.Record, seats map[string]Scope, generation uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gen != generation {
		return false
	}
	if f.closed {
		return true // the browser is gone; its request is answered, and that is all
	}
	h.unseat(f)
	f.mu.Lock()
	f.user = auth.Id
	f.mu.Unlock()
	for tenant, scope := range seats {
		if h.seats[tenant] == nil {
			h.seats[tenant] = map[*feed]Scope{}
		}
		h.seats[tenant][f] = scope
	}
	return true
}

func (h *hub) leave(f *feed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unseat(f)
}

func (h *hub) close(f *feed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.closed = true
	h.unseat(f)
}

// unseat: the caller holds mu.
func (h *hub) unseat(f *feed) {
	for tenant, seats := range h.seats {
		delete(seats, f)
		if len(seats) == 0 {
			delete(h.seats, tenant)
		}
	}
}

func (h *hub) revoke(user, tenant string) []*feed {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gen++
	var out []*feed
	for t, seats := range h.seats {
		if tenant != "" && t != tenant {
			continue
		}
		for f := range seats {
			f.mu.Lock()
			match := f.user == user
			if match {
				f.queue = nil
			}
			f.mu.Unlock()
			if match && !slices.Contains(out, f) {
				out = append(out, f)
			}
		}
	}
	for _, f := range out {
		h.unseat(f)
	}
	return out
}
