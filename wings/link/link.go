// Package link is a node's tie to the panel: its identity, the connections that it keeps to each of the
// panel's instances, and the events and samples that it owes.
//
// It owns the node's key and certificate, the outbound mutual-TLS connections and both spools.
// It refuses to know what travels over them: requests of the panel go to a Handler, events and
// samples come from a caller. It never listens on a port.
//
// Its one invariant: the private key is made on this machine and never leaves it, and nothing is
// said to a peer that cannot prove to be the panel that this node joined.
package link

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mambahost/mamba/wings/link/spool"
	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of the link as a whole.
const (
	maxRequests     = 256                    // of the panel at one time, all connections together; more get 503
	firstBackoff    = 250 * time.Millisecond // after a connection that worked, and the first after a failure
	maxBackoff      = 8 * time.Second        // between attempts; each wait is drawn between half and the whole of it
	requestTimeout  = 30 * time.Second       // of one call to the panel
	moveOnAfter     = 10 * time.Second       // of one attempt of it while there are other instances to ask
	dialTimeout     = 10 * time.Second
	maxAnswerBytes  = 1 << 20
	sendBatchBytes  = wire.MaxEventBatchBytes / 2 // JSON of a batch stays below the panel's limit
	renewAgainAfter = time.Minute                 // a certificate that is younger is not renewed because the panel asks
	renewCheckEvery = time.Hour                   // the clock may jump; a long timer would not notice
	maxClockTrip    = 5 * time.Second             // an answer that took longer says too little of the panel's clock
)

// Facts says how the machine and its engine are. It is called for each heartbeat.
type Facts func(ctx context.Context) wire.Heartbeat

// Config of a Link.
type Config struct {
	Dir     string       // holds identity.json (written by Join), spool/ and samples/
	Facts   Facts        // default: Machine(Dir)
	Release string       // of the binary
	Log     *slog.Logger // default: slog.Default()
	Spool   spool.Config // of events; Dir is set by New
	Samples spool.Config // the same of samples
	Dialer  *net.Dialer  // to the panel, e.g. with an address of this machine; default: one that gives up after dialTimeout
	// Called hears how each call to the panel went: "heartbeat", "events", "metrics" or "renew". It must
	// not block. Default: nobody does.
	Called func(what string, took time.Duration, err error)
}

// Link is safe for concurrent use.
type Link struct {
	cfg   Config
	log   *slog.Logger
	spool *spool.Spool
	// Of samples: their spool, the end of the newest whole window (Unix s), and that either has changed
	// (capacity 1).
	samples *spool.Stream[wire.Sample]
	closed  atomic.Int64
	news    chan struct{}
	// nil before the panel's first answer
	panelClock atomic.Pointer[clockReading]

	bootID string
	id     atomic.Pointer[Identity]
	client atomic.Pointer[http.Client] // of the identity in id
	slots  chan struct{}               // one per running request of the panel, all its instances together
	relist chan struct{}               // capacity 1: the panel's instances changed
	due    chan struct{}               // capacity 1: the panel asks for a renewal
	up     chan struct{}               // capacity 1: the panel is there again, events need not wait longer
	board  board
	wg     sync.WaitGroup // every goroutine of ours

	idMu sync.Mutex // held while the identity is changed, on disk and in id

	mu      sync.Mutex
	cancel  context.CancelFunc // nil until Start
	handler http.Handler       // of the panel's requests; set by Start
	stopped bool
	kept    map[string]bool // addresses that are kept linked
	bulk    map[string]int  // bulk connections that are open or being opened, by the instance's address

	handlers handlers
}

// New loads the identity and opens the spools, so that Report and Record work at once. ErrNotJoined when the
// directory holds no identity. Nothing runs before Start.
func New(cfg Config) (*Link, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Facts == nil {
		cfg.Facts = Machine(cfg.Dir)
	}
	if cfg.Dialer == nil {
		cfg.Dialer = dialer
	}
	id, err := loadIdentity(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := tidyIdentity(cfg.Dir); err != nil {
		return nil, err
	}
	cfg.Spool.Dir = filepath.Join(cfg.Dir, "spool")
	sp, err := spool.Open(cfg.Spool)
	if err != nil {
		return nil, err
	}
	cfg.Samples.Dir = filepath.Join(cfg.Dir, "samples")
	samples, err := spool.OpenSamples(cfg.Samples)
	if err != nil {
		return nil, errors.Join(err, sp.Close())
	}
	l := &Link{cfg: cfg, log: cfg.Log, spool: sp, samples: samples, news: make(chan struct{}, 1), bootID: rand.Text(), slots: make(chan struct{}, maxRequests),
		relist: make(chan struct{}, 1), due: make(chan struct{}, 1), up: make(chan struct{}, 1), kept: map[string]bool{}, bulk: map[string]int{}}
	l.adopt(id)
	return l, nil
}

// NodeID is who this node is to the panel.
func (l *Link) NodeID() string { return l.id.Load().NodeID }

// Start begins to connect, to report and to send, until ctx ends or Stop is called; the panel's
// requests go to handler. A second call does nothing. It never fails because the panel is away.
func (l *Link) Start(ctx context.Context, handler http.Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cancel != nil || l.stopped {
		return
	}
	l.handler = handler
	ctx, l.cancel = context.WithCancel(ctx)
	l.wg.Go(func() { l.keepLinked(ctx) })
	l.wg.Go(func() { l.beat(ctx) })
	l.wg.Go(func() { l.sendEvents(ctx) })
	l.wg.Go(func() { l.sendSamples(ctx) })
	l.wg.Go(func() { l.keepRenewed(ctx) })
}

// Stop closes every connection, waits for what runs, and closes the spools. It may be called twice
// and without Start.
func (l *Link) Stop() {
	l.mu.Lock()
	l.stopped = true
	if l.cancel != nil {
		l.cancel()
	}
	l.mu.Unlock()
	l.wg.Wait()
	l.handlers.stop()
	l.client.Load().CloseIdleConnections()
	if err := l.spool.Close(); err != nil {
		l.log.Error("close event spool", "error", err)
	}
	if err := l.samples.Close(); err != nil {
		l.log.Error("close sample spool", "error", err)
	}
}

// Report makes an event durable on this disk and sends it in its turn. Seq is given here.
func (l *Link) Report(e wire.Event) error {
	if e.At.IsZero() {
		e.At = time.Now().UTC()
	}
	_, err := l.spool.Append(e)
	return err
}

// adopt makes id the identity of all further connections.
func (l *Link) adopt(id *Identity) {
	l.id.Store(id)
	old := l.client.Swap(&http.Client{
		Timeout:       requestTimeout,
		Transport:     &http.Transport{TLSClientConfig: id.tlsConfig(), DialContext: l.cfg.Dialer.DialContext, MaxConnsPerHost: 4, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	if old != nil {
		old.CloseIdleConnections()
	}
}

// beat reports the machine at each interval, and at once after the start.
func (l *Link) beat(ctx context.Context) {
	tick := time.NewTicker(wire.HeartbeatInterval)
	defer tick.Stop()
	for {
		if err := l.heartbeat(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn("the panel did not take the heartbeat", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *Link) heartbeat(ctx context.Context) error {
	h := l.cfg.Facts(ctx)
	h.Version, h.Release, h.SpoolID, h.NodeClock = wire.Version, l.cfg.Release, l.spool.ID(), time.Now().UTC()
	h.Roots = l.id.Load().trusted
	var reply wire.HeartbeatReply
	asked := time.Now()
	if err := l.call(ctx, "heartbeat", h, &reply); err != nil {
		return err
	}
	l.noteClock(reply.PanelClock, asked)
	l.learn(reply.Instances)
	l.trust(reply.Roots)
	if reply.Renew && time.Since(l.id.Load().issued()) > renewAgainAfter {
		select {
		case l.due <- struct{}{}:
		default:
		}
	}
	return nil
}

// sendEvents posts batches in order and drops from the disk what was acknowledged, only that.
func (l *Link) sendEvents(ctx context.Context) {
	backoff := firstBackoff
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.spool.Ready():
		}
		for ctx.Err() == nil {
			more, err := l.sendBatch(ctx)
			if err == nil {
				backoff = firstBackoff
				if !more {
					break
				}
				continue
			}
			l.log.Warn("events wait on this disk", "error", err)
			wait(ctx, jitter(backoff), l.up)
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// sendBatch sends what is oldest. more says that there was something.
func (l *Link) sendBatch(ctx context.Context) (more bool, err error) {
	id := l.spool.ID()
	events, err := l.spool.Next(wire.MaxEventsPerBatch, sendBatchBytes)
	if err != nil || len(events) == 0 {
		return false, err
	}
	var ack wire.EventAck
	if err := l.call(ctx, "events", wire.EventBatch{SpoolID: id, Events: events}, &ack); err != nil {
		return true, fmt.Errorf("send events %d to %d: %w", events[0].Seq, events[len(events)-1].Seq, err)
	}
	if err := l.spool.AckOf(id, ack.AckedSeq); err != nil {
		return true, err
	}
	if ack.AckedSeq < events[0].Seq && events[0].Kind == wire.EventGap {
		return true, fmt.Errorf("the panel stands at event %d and did not take the gap up to %d", ack.AckedSeq, events[0].Seq)
	}
	return true, nil
}

// jitter draws between half and the whole of d, so that nodes do not come back all at once.
func jitter(d time.Duration) time.Duration {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(d/2)+1))
	if err != nil {
		return d // no randomness: wait the whole
	}
	return d/2 + time.Duration(n.Int64())
}

// wait returns after d, with ctx, or when one of the channels says that it is worth while.
func wait(ctx context.Context, d time.Duration, early ...chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	var now chan struct{}
	if len(early) > 0 {
		now = early[0]
	}
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-now:
	}
}
