package cluster

import (
	"fmt"
	"log/slog"
	"regexp"
	"sync"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Bounds of the bus.
const (
	maxMessage = 1 << 20 // bytes of one message
	topicQueue = 4096    // messages waiting for the subscribers of one topic; one more and they become a gap
)

// lastOrder is the place of the bus among what runs at the end of a transaction: others may publish.
const lastOrder = 100

var topicPattern = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,63}$`)

// Publish sends data to the subscribers of a topic on every instance, this one included: exactly if tx
// commits, in the order of commits; at once when tx is no transaction. It fails when data is larger
// than 1 MiB or the database does not take it, and then the transaction has to fail, too.
func (c *Cluster) Publish(tx core.App, topic string, data []byte) error {
	if !topicPattern.MatchString(topic) || len(data) > maxMessage {
		return fmt.Errorf("publish %d bytes to %q: at most %d, and a topic is like jobs.wake", len(data), topic, maxMessage)
	}
	return c.bus.out.Add(tx, Message{Topic: topic, From: c.id, Data: data})
}

// Subscribe registers fn for a topic. It is called outside of any transaction, one message at a time
// per topic, in their order. Before Start.
func (c *Cluster) Subscribe(topic string, fn func(Message)) {
	if !topicPattern.MatchString(topic) || fn == nil {
		panic("cluster: " + topic + " is no topic")
	}
	c.bus.subscribe(topic, fn)
}

// bus delivers messages to the subscribers in this process.
type bus struct {
	log *slog.Logger
	out *collections.Batch[Message]

	mu      sync.Mutex
	topics  map[string]*topic // fixed at start; guarded by mu before
	tickets []*ticket         // of local transactions, in the order of their commits; guarded by mu
	began   bool              // guarded by mu
	wg      sync.WaitGroup
}

// ticket is the place of one transaction in the order of commits. SQLite has one writer, so tickets
// that are taken just before a commit are taken in that order; their commits are told out of it.
type ticket struct {
	messages []Message
	state    int // 0 undecided, 1 committed, 2 rolled back
}

type topic struct {
	fns  []func(Message)
	more chan struct{} // capacity 1: the queue is not empty
	stop chan struct{}

	mu    sync.Mutex
	queue []Message // at most topicQueue; guarded by mu
}

func newBus(log *slog.Logger) *bus {
	b := &bus{log: log, topics: map[string]*topic{}}
	b.out = collections.NewBatch(lastOrder, b.local)
	return b
}

func (b *bus) subscribe(name string, fn func(Message)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.began {
		panic("cluster: Subscribe after Start")
	}
	t := b.topics[name]
	if t == nil {
		t = &topic{more: make(chan struct{}, 1), stop: make(chan struct{})}
		b.topics[name] = t
	}
	t.fns = append(t.fns, fn)
}

// local delivers the messages of one transaction inside this process once it has committed.
func (b *bus) local(tx core.App, messages []Message) error {
	if !collections.InTx(tx) { // alone, or in PocketBase's own transaction, which may still panic
		collections.AfterCommit(tx, func() { b.deliver(messages) })
		return nil
	}
	t := &ticket{messages: messages}
	b.mu.Lock()
	b.tickets = append(b.tickets, t)
	b.mu.Unlock()
	settle := func(state int) {
		b.mu.Lock()
		defer b.mu.Unlock()
		t.state = state
		for len(b.tickets) > 0 && b.tickets[0].state != 0 {
			if b.tickets[0].state == 1 {
				b.deliver(b.tickets[0].messages)
			}
			b.tickets = b.tickets[1:]
		}
	}
	tx.TxInfo().OnComplete(func(err error) error {
		if err == nil {
			settle(1)
		} else {
			settle(2)
		}
		return nil
	})
	return nil
}

// deliver queues messages; it never blocks.
func (b *bus) deliver(messages []Message) {
	for _, m := range messages {
		if t := b.topics[m.Topic]; t != nil {
			t.push(m)
		}
	}
}

func (t *topic) push(m Message) {
	t.mu.Lock()
	t.queue = append(t.queue, m)
	t.mu.Unlock()
	select {
	case t.more <- struct{}{}:
	default:
	}
}

func (b *bus) start() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.began = true
	for _, t := range b.topics {
		b.wg.Go(t.run)
	}
}

func (b *bus) stop() {
	b.mu.Lock()
	began := b.began
	b.mu.Unlock()
	if !began {
		return
	}
	for _, t := range b.topics {
		select {
		case <-t.stop:
		default:
			close(t.stop)
		}
	}
	b.wg.Wait()
}

func (t *topic) run() {
	for {
		select {
		case <-t.stop:
			return
		case <-t.more:
		}
		t.mu.Lock()
		batch := t.queue
		t.queue = nil
		t.mu.Unlock()
		for _, m := range batch {
			for _, fn := range t.fns {
				fn(m)
			}
		}
	}
}
