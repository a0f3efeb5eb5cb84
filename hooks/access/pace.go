package access

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/hooks/cluster"
)

// The general limit is counted in memory, in spans of a minute, and told to the other instances once a
// second. What one holder of a token can get through beyond it is, for each other instance, what that
// one took since it last told: the requests of about a second, and quietShare of the limit of which it
// says nothing.
const (
	DefaultTokenPace   = 6000 // requests per minute of one token
	DefaultAddressPace = 3000 // requests per minute of one network without a token
	doorPace           = 60   // requests per minute of one network to the doors of accounts
	paceSpan           = time.Minute
	tellEvery          = time.Second
	quietShare         = 20     // below 1/20 of the limit nothing is told
	maxPaces           = 20_000 // who is counted at once; more, and the next span begins early
	maxTold            = 500    // counts in one message
	topicPace          = "access.pace"
)

// tooOften is told to whoever is over a limit that is no attempt at anything.
const tooOften = "That was a lot of requests. Please wait a moment and try again."

// pace counts requests.
type pace struct {
	cluster *cluster.Cluster // nil: there are no others

	mu    sync.Mutex
	span  int64             // number of the minute that is counted; guarded by mu
	now   map[string]*count // in span; guarded by mu
	past  map[string]int    // totals of the span before; guarded by mu
	limit func(key string) int
}

type count struct{ own, told, others int }

// told is one message between instances.
type told struct {
	Span   int64          `json:"s"`
	Counts map[string]int `json:"c"` // more since the last message, by bucket
}

func newPace(c *cluster.Cluster, limit func(key string) int) *pace {
	p := &pace{cluster: c, now: map[string]*count{}, past: map[string]int{}, limit: limit}
	if c != nil && !c.Alone() {
		c.Subscribe(topicPace, p.hear)
	}
	return p
}

// run tells the others until ctx ends.
func (p *pace) run(ctx context.Context, app core.App) {
	if p.cluster == nil || p.cluster.Alone() {
		return
	}
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = p.tell(app) // the next second says it, too
		}
	}
}

// take counts a request of key; wait is 0 when it may go on.
func (p *pace) take(key string, now time.Time) (wait time.Duration) {
	limit := p.limit(key)
	if limit <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(now)
	c := p.now[key]
	if c == nil {
		c = &count{}
		p.now[key] = c
	}
	// the span before counts by how much of it lies within the last minute
	into := now.Sub(time.Unix(0, p.span*int64(paceSpan)))
	left := paceSpan - into
	weighed := int(int64(p.past[key]) * int64(left) / int64(paceSpan))
	if c.own+c.others+weighed >= limit {
		return max(left/10, time.Second)
	}
	c.own++
	return 0
}

// turn begins the next span when its minute has come. The caller holds mu.
func (p *pace) turn(now time.Time) {
	span := now.UnixNano() / int64(paceSpan)
	if span == p.span && len(p.now) < maxPaces {
		return
	}
	past := map[string]int{}
	if span <= p.span+1 {
		for key, c := range p.now {
			past[key] = c.own + c.others
		}
	}
	p.past, p.now, p.span = past, map[string]*count{}, span
}

// tell publishes what was counted since the last time, of those who are worth it.
func (p *pace) tell(app core.App) error {
	p.mu.Lock()
	m := told{Span: p.span, Counts: map[string]int{}}
	for key, c := range p.now {
		if c.own > c.told && c.own >= p.limit(key)/quietShare && len(m.Counts) < maxTold {
			m.Counts[key] = c.own - c.told
			c.told = c.own
		}
	}
	p.mu.Unlock()
	if len(m.Counts) == 0 {
		return nil
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return p.cluster.Publish(app, topicPace, raw)
}

func (p *pace) hear(m cluster.Message) {
	var t told
	if m.From == p.cluster.ID() || json.Unmarshal(m.Data, &t) != nil || len(t.Counts) > maxTold {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(time.Now())
	if t.Span != p.span {
		return
	}
	for key, n := range t.Counts {
		if p.now[key] == nil {
			if len(p.now) >= maxPaces {
				return
			}
			p.now[key] = &count{}
		}
		p.now[key].others += max(n, 0)
	}
}

// general is the limit of every request to the API: per session, API key or operator, or per network without one. A
// token that is renewed or written in another way is the same holder's.
func (d *Access) general(e *core.RequestEvent) error {
	if !strings.HasPrefix(e.Request.URL.Path, "/api/") || e.Request.Context().Value(carried{}) != nil {
		return nil
	}
	key := d.bucket(limit{name: "a"}, network(e.RealIP()))
	if k, ok := e.Get(keyKey).(keyed); ok && k.err == nil {
		key = d.bucket(limit{name: "t"}, k.key.ID)
	} else if b, ok := e.Get(sessionKey).(bearer); ok {
		key = d.bucket(limit{name: "t"}, b.session)
	} else if e.Auth != nil {
		key = d.bucket(limit{name: "t"}, e.Auth.Id)
	}
	if wait := d.pace.take(key, time.Now()); wait > 0 {
		return TooMany("too_many_requests", tooOften, wait)
	}
	return nil
}
