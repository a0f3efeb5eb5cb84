package events

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"
	"github.com/pocketbase/pocketbase/tools/subscriptions"

	"github.com/mambahost/mamba/hooks/cluster"
)

// topicPrefix begins a tenant's realtime topic, accountPrefix that of one account. No collection can have
// such a name, so PocketBase's own record messages cannot match it.
const (
	topicPrefix   = "mamba.tenant."
	accountPrefix = "mamba.user."
)

// signInTopic is PocketBase's: by it a provider's window hands its code to the page that opened it, which
// nobody is signed in at.
const signInTopic = "@oauth2"

// Topic is the realtime topic of a tenant.
func Topic(tenant string) string { return topicPrefix + tenant }

// AccountTopic is the realtime topic of one account, which nobody else is admitted to.
func AccountTopic(account string) string { return accountPrefix + account }

// accountSeat begins the seat of an account where the seats of tenants go by their ids.
const accountSeat = "@"

func topicOf(seat string) string {
	if account, ok := strings.CutPrefix(seat, accountSeat); ok {
		return AccountTopic(account)
	}
	return Topic(seat)
}

// Bounds of realtime.
const (
	maxTopics    = 20 // of one browser
	feedQueue    = 64 // messages waiting for one browser; one more and they become a resync
	admitRetries = 5  // times that a revocation may cross an admission
)

// Message is one line on a tenant's topic.
type Message struct {
	Type    string // server, job, tenant, activity, notice, notices, resync
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

// Broadcast sends m to the tenant's topic on every instance after the commit of tx. It never fails: a
// message is a hint, and a browser that misses one is told to refetch.
//
// It is encoded now, once, so that m.Data may be changed afterwards.
func (o *Outbox) Broadcast(tx core.App, tenant string, m Message) {
	data, err := json.Marshal(m)
	if err == nil {
		err = o.say(tx, live{Tenant: tenant, Kind: m.Type, Server: m.Server, Data: data})
	}
	if err != nil {
		o.log.Error("a realtime message is not sent", "type", m.Type, "id", m.ID, "error", err)
	}
}

// Tell sends m to the topic of one account, on every instance, after the commit of tx; see Broadcast.
func (o *Outbox) Tell(tx core.App, account string, m Message) {
	m.Server = ""
	o.Broadcast(tx, accountSeat+account, m)
}

// live is what instances tell each other about browsers, in one topic, so that what was published
// before a revocation is not delivered after it.
type live struct {
	Tenant string          `json:"t,omitempty"`
	Kind   string          `json:"k,omitempty"`
	Server string          `json:"s,omitempty"`
	Data   json.RawMessage `json:"d,omitempty"` // the message; nil for a revocation
	User   string          `json:"u,omitempty"` // whose access to Tenant, or to all when it is empty, is revoked
	Cut    bool            `json:"c,omitempty"` // end the connections of User, whatever they watch, or all that watch Tenant
}

func (o *Outbox) say(tx core.App, l live) error {
	raw, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return o.cluster.Publish(tx, topicLive, raw)
}

// live takes what an instance said.
func (o *Outbox) live(m cluster.Message) {
	var l live
	if err := json.Unmarshal(m.Data, &l); err != nil {
		o.log.Error("a realtime message of another instance cannot be read", "from", m.From, "error", err)
		return
	}
	switch {
	case l.Cut && l.User == "":
		o.cutTenant(l.Tenant)
	case l.Cut:
		o.cut(l.User)
	case l.User == "":
		o.hub.fanOut(posted{tenant: l.Tenant, kind: l.Kind, server: l.Server, data: l.Data})
	case m.From != o.cluster.ID(): // here it was done at once
		o.revoke(l.User, l.Tenant)
	}
}

// gap: messages and revocations may have been missed. Who is connected is asked again what he may see,
// and refetches.
func (o *Outbox) gap() {
	o.wakeAll()
	for _, f := range o.hub.feeds() {
		if !o.readmit(f) {
			o.app.SubscriptionsBroker().Unregister(f.Id())
		}
	}
	o.hub.resyncAll()
}

// readmit asks again for the seats of a feed; false when it cannot keep them, and has to reconnect.
func (o *Outbox) readmit(f *feed) bool {
	auth, _ := f.Get(apis.RealtimeClientAuthKey).(*core.Record)
	scope, generation, before := o.hub.admission(f)
	if auth == nil || scope == nil {
		return false
	}
	fresh, err := o.app.FindRecordById(auth.Collection().Id, auth.Id)
	if err != nil || fresh.TokenKey() != auth.TokenKey() {
		return false
	}
	seats := map[string]Scope{}
	for _, tenant := range before {
		s, ok := Scope{All: true}, true
		if !fresh.IsSuperuser() && tenant != accountSeat+fresh.Id {
			s, ok = scope(fresh, tenant)
		}
		if !ok {
			return false
		}
		seats[tenant] = s
	}
	return o.hub.join(f, fresh, seats, scope, generation)
}

// Connect gives a new realtime connection its bounded queue. It is bound to OnRealtimeConnectRequest.
func (o *Outbox) Connect(e *core.RealtimeConnectRequestEvent) error {
	f := &feed{Client: e.Client, id: o.cluster.ID() + e.Client.Id(), hub: o.hub, more: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	e.Client = f
	go f.run() // ended and waited for by Discard
	defer f.Discard()
	return e.Next()
}

// Scoper says what of a tenant a user may see; false: nothing, there is no such tenant for him. It may
// be asked again later, outside of any request.
type Scoper func(user *core.Record, tenant string) (Scope, bool)

// Admit decides about a subscription request, and is the whole body of OnRealtimeSubscribeRequest: a
// customer may subscribe to topics of tenants that scope admits him to and to that of his own account, and
// to nothing else; a superuser may also watch collections. It calls e.Next.
func (o *Outbox) Admit(e *core.RealtimeSubscribeRequestEvent, scope Scoper) error {
	f, ok := e.Client.(*feed)
	if !ok {
		return router.NewInternalServerError("", nil) // Connect is not bound
	}
	if len(e.Subscriptions) == 0 {
		o.hub.leave(f)
		return e.Next()
	}
	if slices.Equal(e.Subscriptions, []string{signInTopic}) {
		o.hub.leave(f) // no tenant's: only what is sent to this very connection arrives
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
		if o.hub.join(f, e.Auth, seats, scope, generation) {
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
func seatsFor(e *core.RealtimeSubscribeRequestEvent, scope Scoper) (map[string]Scope, error) {
	seats := map[string]Scope{}
	for _, topic := range e.Subscriptions {
		if account, ok := strings.CutPrefix(topic, accountPrefix); ok {
			if account != e.Auth.Id {
				return nil, router.NewNotFoundError("There is no such account.", nil)
			}
			seats[accountSeat+account] = Scope{All: true}
			continue
		}
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
		if strings.HasPrefix(tenant, accountSeat) {
			return nil, router.NewNotFoundError("There is no such organisation.", nil)
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
// It returns when nothing can be sent to them any more by this instance, and the others are told.
// Their browsers reconnect and are asked again, so it is also how a changed scope takes effect; call
// it after the commit that changes it.
func (o *Outbox) Revoke(user, tenant string) {
	o.revoke(user, tenant)
	if err := o.say(o.app, live{User: user, Tenant: tenant}); err != nil {
		o.log.Error("a revocation is not told to the other instances", "user", user, "tenant", tenant, "error", err)
	}
}

func (o *Outbox) revoke(user, tenant string) {
	for _, f := range o.hub.revoke(user, tenant) {
		o.app.SubscriptionsBroker().Unregister(f.Id()) // calls f.Discard
	}
}

// AccountChanged ends the connections of an account, on every instance, once tx has committed: it was
// deleted, or its tokens are void.
func (o *Outbox) AccountChanged(tx core.App, account string) error {
	return o.say(tx, live{User: account, Cut: true})
}

// TenantChanged ends the connections of everybody to a tenant, on every instance, once tx has committed: what may be
// done there is not what it was.
func (o *Outbox) TenantChanged(tx core.App, tenant string) error {
	return o.say(tx, live{Tenant: tenant, Cut: true})
}

func (o *Outbox) cutTenant(tenant string) {
	for _, f := range o.hub.clear(tenant) {
		o.app.SubscriptionsBroker().Unregister(f.Id()) // calls f.Discard
	}
}

// cut ends the connections of an account, with a seat or without. PocketBase takes the account away from a connection
// when its tokens are void, which may come before this: the feed still knows whose it was.
func (o *Outbox) cut(account string) {
	o.revoke(account, "")
	for id, client := range o.app.SubscriptionsBroker().Clients() {
		auth, _ := client.Get(apis.RealtimeClientAuthKey).(*core.Record)
		f, ours := client.(*feed)
		if auth != nil && auth.Id == account || ours && f.admittedFor(account) {
			o.app.SubscriptionsBroker().Unregister(id)
		}
	}
}

// feed is a realtime client with a bounded queue and one goroutine that alone sends to the browser.
type feed struct {
	subscriptions.Client
	id   string // begins with the instance that holds the connection
	hub  *hub
	more chan struct{} // capacity 1: the queue is not empty
	stop chan struct{} // closed by Discard
	done chan struct{} // closed when run has ended

	once   sync.Once
	closed bool // takes no seat any more; guarded by hub.mu

	mu    sync.Mutex
	user  string                  // id of who it was admitted for; guarded by mu
	scope Scoper                  // who was asked; guarded by mu
	queue []subscriptions.Message // at most feedQueue; guarded by mu
}

// Id tells every instance where the connection is.
func (f *feed) Id() string { return f.id } //nolint:staticcheck // subscriptions.Client calls it so

func (f *feed) admittedFor(account string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.user == account
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

// posted is an encoded message, with what the filter needs.
type posted struct {
	tenant, kind, server string
	data                 []byte
}

// hub knows which feed sits at which tenant and copies messages to them on the bus's goroutine, so that
// a writer pays for one append however many browsers listen.
type hub struct {
	mu    sync.RWMutex
	seats map[string]map[*feed]Scope // by tenant; guarded by mu
	gen   uint64                     // revocations so far; guarded by mu
}

func newHub() *hub { return &hub{seats: map[string]map[*feed]Scope{}} }

func (h *hub) fanOut(p posted) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	topic := topicOf(p.tenant)
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
			f.push(topicOf(tenant), resync)
		}
	}
}

// feeds are all that sit somewhere.
func (h *hub) feeds() []*feed {
	h.mu.RLock()
	defer h.mu.RUnlock()
	seen := map[*feed]bool{}
	for _, seats := range h.seats {
		for f := range seats {
			seen[f] = true
		}
	}
	return slices.Collect(maps.Keys(seen))
}

// admission is by whom a feed was admitted, and to which tenants.
func (h *hub) admission(f *feed) (scope Scoper, generation uint64, tenants []string) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for tenant, seats := range h.seats {
		if _, ok := seats[f]; ok {
			tenants = append(tenants, tenant)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.scope, h.gen, tenants
}

func (h *hub) generation() uint64 {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.gen
}

// join seats a feed, in place of the seats it had. It does not when anybody's access was revoked since
// generation: the scopes may be from before that.
func (h *hub) join(f *feed, auth *core.Record, seats map[string]Scope, scope Scoper, generation uint64) bool {
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
	f.user, f.scope = auth.Id, scope
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

// clear unseats everybody at a tenant.
func (h *hub) clear(tenant string) []*feed {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gen++
	out := slices.Collect(maps.Keys(h.seats[tenant]))
	for _, f := range out {
		f.mu.Lock()
		f.queue = nil
		f.mu.Unlock()
		h.unseat(f)
	}
	return out
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
