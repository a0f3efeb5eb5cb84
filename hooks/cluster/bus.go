package cluster

import (
	"fmt"
	"regexp"
	"sync"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// Bounds of the bus.
const (
	maxMessage = 1 << 20 // bytes of one message
	topicQueue = 4096    // messages waiting for the subscribers of one topic; one more and they become a gap
)

// lastOrder is the place of the bus among what runs at the end of a transaction: the others publish.
const lastOrder = 100

var topicPattern = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,63}$`)

// Message is what a subscriber gets.
type Message struct {
	Topic string
	From  string // id of the instance that published it
	Data  []byte // must not be changed
}

// Publish sends data to the subscribers of a topic on every instance, this one included: exactly if tx
// commits, in the order of commits; at once when tx is no transaction. Messages without data that are
// published again in the same transaction are one. It fails when data is larger than 1 MiB; when the
// database does not take it, the transaction fails.
func (c *Cluster) Publish(tx core.App, topic string, data []byte) error {
	if !topicPattern.MatchString(topic) || len(data) > maxMessage {
		return fmt.Errorf("publish %d bytes to %q: at most %d, and a topic is like jobs.wake", len(data), topic, maxMessage)
	}
	return c.bus.out.Add(tx, Message{Topic: topic, From: c.id, Data: data})
}

// Subscribe registers fn for a topic. It is called outside of any transaction, one message at a time
// per topic, in their order. Before Start.
func (c *Cluster) Subscribe(topic string, fn func(Message)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun || !topicPattern.MatchString(topic) || fn == nil {
		panic("cluster: " + topic + " is subscribed too late, or is no topic")
	}
	c.bus.subscribe(topic, fn)
}

// bus delivers messages to the subscribers in this process, and sends them to all.
type bus struct {
	c   *Cluster
	out *collections.Batch[Message]

	topics map[string]*topic // fixed at start
	wg     sync.WaitGroup

	mu      sync.Mutex
	tickets []*ticket // of local transactions, in the order of their commits; guarded by mu
}

// ticket is the place of one transaction in the order of commits. SQLite has one writer, so tickets
// that are taken just before a commit are taken in that order; that they committed is told out of it.
type ticket struct {
	messages  []Message
	settled   bool
	committed bool
}

type topic struct {
	fns  []func(Message)
	gap  func()
	more chan struct{} // capacity 1: the queue is not empty
	stop chan struct{}

	mu    sync.Mutex
	queue []Message // at most topicQueue; guarded by mu
}

func newBus(c *Cluster) *bus {
	b := &bus{c: c, topics: map[string]*topic{}}
	b.out = collections.NewBatch(lastOrder, "", b.flush)
	return b
}

func (b *bus) subscribe(name string, fn func(Message)) {
	t := b.topics[name]
	if t == nil {
		t = &topic{gap: b.c.gap, more: make(chan struct{}, 1), stop: make(chan struct{})}
		b.topics[name] = t
	}
	t.fns = append(t.fns, fn)
}

// flush sends the messages of one transaction, just before its commit.
func (b *bus) flush(tx core.App, messages []Message) error {
	messages = distinct(messages)
	switch {
	case b.c.clustered():
		return b.notify(tx, messages)
	case !collections.InTx(tx): // alone, or in PocketBase's own transaction, which may still panic
		collections.AfterCommit(tx, func() { b.deliver(messages) })
	default:
		b.queueTicket(tx, messages)
	}
	return nil
}

// distinct leaves out repetitions of messages that say nothing but that something happened.
func distinct(messages []Message) []Message {
	seen := map[string]bool{}
	out := messages[:0:0]
	for _, m := range messages {
		if len(m.Data) == 0 {
			if seen[m.Topic] {
				continue
			}
			seen[m.Topic] = true
		}
		out = append(out, m)
	}
	return out
}

// notify hands them to PostgreSQL in one statement; a rollback takes them back. This instance gets
// them from there, too, in the same order as all others.
func (b *bus) notify(tx core.App, messages []Message) error {
	text, err := encodeBatch(messages)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	payloads := split(b.c.id, b.c.number.Add(1), text)
	query, params := "SELECT ", dbx.Params{"channel": b.c.channel}
	for i, p := range payloads {
		if i > 0 {
			query += ", "
		}
		key := fmt.Sprintf("p%d", i)
		query += "pg_notify({:channel}, {:" + key + "})"
		params[key] = p
	}
	if _, err := tx.NonconcurrentDB().NewQuery(query).Bind(params).Execute(); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// queueTicket delivers the messages inside this process once their transaction has committed.
func (b *bus) queueTicket(tx core.App, messages []Message) {
	t := &ticket{messages: messages}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tickets = append(b.tickets, t)
	tx.TxInfo().OnComplete(func(err error) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		t.settled, t.committed = true, err == nil
		for len(b.tickets) > 0 && b.tickets[0].settled {
			if b.tickets[0].committed {
				b.deliver(b.tickets[0].messages)
			}
			b.tickets = b.tickets[1:]
		}
		return nil
	})
}

// deliver queues messages; it never blocks.
func (b *bus) deliver(messages []Message) {
	for _, m := range messages {
		if t := b.topics[m.Topic]; t != nil {
			t.push(m)
		}
	}
}

// push queues a message. A full queue is dropped and is a gap: who is so slow has to begin anew.
func (t *topic) push(m Message) {
	t.mu.Lock()
	full := len(t.queue) >= topicQueue
	if full {
		t.queue = nil
	}
	t.queue = append(t.queue, m)
	t.mu.Unlock()
	if full {
		t.gap()
	}
	nudge(t.more)
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

func (b *bus) start() {
	for _, t := range b.topics {
		b.wg.Go(t.run)
	}
}

func (b *bus) stop() {
	for _, t := range b.topics {
		close(t.stop)
	}
	b.wg.Wait()
}
