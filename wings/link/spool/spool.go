// Package spool keeps a node's events on its disk until the panel has them.
//
// It owns one directory of append-only segments and the spool's identity. It refuses to know what
// an event means and never sends anything: the link reads batches from it and tells it what was
// acknowledged.
//
// Its one invariant: an event whose Append returned without error is given out by Next until it is
// acknowledged, or until the bound dropped it, which Next then says with a gap event in its place.
package spool

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// Defaults and limits.
const (
	DefaultMaxBytes     = 64 << 20
	DefaultSegmentBytes = 1 << 20
	maxRecordBytes      = 1 << 20  // one event, encoded; a longer length in a file is corruption
	rotateAckedBytes    = 64 << 10 // a wholly acknowledged open segment of this size is replaced
	idFile              = "spool_id"
	segmentSuffix       = ".seg"
)

// Errors of a Spool.
var (
	ErrTooLarge = errors.New("event is larger than a spool record may be")
	ErrClosed   = errors.New("spool is closed")
)

// Config of a Spool.
type Config struct {
	Dir          string // made when it is missing, 0700
	MaxBytes     int64  // of all segments; the oldest segment is dropped beyond it. Default DefaultMaxBytes
	SegmentBytes int64  // a segment is closed at this size. Default DefaultSegmentBytes
}

// Spool is safe for concurrent use. Append blocks for one fsync.
type Spool struct {
	cfg   Config
	ready chan struct{} // capacity 1: only "there is something" matters

	mu       sync.Mutex // guards all below; held over writes, because their order is the content
	id       string
	segments []segment // oldest first, never empty while open; the last one is being written
	file     *os.File  // of the last segment
	torn     bool      // a write to it failed half way
	last     int64     // newest sequence that is durable
	acked    int64     // newest sequence that the panel is known to have
	closed   bool
}

// segment is one file: records first, first+1, … in order.
type segment struct {
	first int64 // sequence of its first record, or of the next one while it is empty
	count int64 // records in it
	size  int64 // bytes of good records
}

// Open reads the directory, cuts off a tail that a crash left half written, and goes on where it
// ended. A directory without an identity, or with an identity but no segments, gets a new identity:
// sequence numbers never start again under an old one.
func Open(cfg Config) (*Spool, error) {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.SegmentBytes <= 0 {
		cfg.SegmentBytes = DefaultSegmentBytes
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make spool directory: %w", err)
	}
	s := &Spool{cfg: cfg, ready: make(chan struct{}, 1)}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open spool %s: %w", cfg.Dir, err)
	}
	if s.last > s.acked {
		s.wake()
	}
	return s, nil
}

// ID of the spool. It changes only with Renew.
func (s *Spool) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Last is the newest sequence that is durable here, 0 before the first.
func (s *Spool) Last() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Ready receives when there may be something for Next. It is a hint that may come too often.
func (s *Spool) Ready() <-chan struct{} { return s.ready }

// Append gives the event the next sequence and returns once it is on disk. After an error nothing
// of it is kept.
func (s *Spool) Append(e wire.Event) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrClosed
	}
	e.Seq = s.last + 1
	record, err := encode(e)
	if err != nil {
		return 0, err
	}
	if open := &s.segments[len(s.segments)-1]; open.count > 0 && open.size+int64(len(record)) > s.cfg.SegmentBytes {
		if err := s.rotate(); err != nil {
			return 0, fmt.Errorf("begin spool segment: %w", err)
		}
	}
	if err := s.write(record); err != nil {
		return 0, fmt.Errorf("write event %d to spool: %w", e.Seq, err)
	}
	s.last = e.Seq
	s.bound()
	s.wake()
	return e.Seq, nil
}

// Next returns the oldest events that are not acknowledged, at most limit of them and about
// maxBytes of JSON (one event is always given). Sequences that are gone are announced by an
// EventGap whose Seq is the last one that it stands for. Nothing to send is an empty slice.
func (s *Spool) Next(limit int, maxBytes int64) ([]wire.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	var out []wire.Event
	var size int64
	expect := s.acked + 1
	for _, seg := range s.segments {
		if seg.first+seg.count <= expect {
			continue
		}
		if len(out) >= limit {
			break
		}
		if seg.first > expect {
			out = append(out, gap(expect, seg.first-1))
			expect = seg.first
		}
		done, err := s.read(seg, func(e wire.Event, n int64) bool {
			if e.Seq < expect {
				return true
			}
			if len(out) >= limit || (len(out) > 0 && size+n > maxBytes) {
				return false
			}
			out, size, expect = append(out, e), size+n, e.Seq+1
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("read spool: %w", err)
		}
		if !done {
			break
		}
	}
	return out, nil
}

// Ack says that everything up to seq is durable in the panel, and drops what it can of it. An
// acknowledgement below what was already dropped makes Next announce the difference as a gap (the
// panel was restored from a backup). One beyond Last means that this disk forgot events: the spool
// takes a new identity, so that what it has now is not mistaken for what the panel had.
func (s *Spool) Ack(seq int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ack(seq)
}

// AckOf is Ack for an answer about the spool of that identity: it does nothing when the spool has
// taken another one since, because several connections may bring the same news.
func (s *Spool) AckOf(id string, seq int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != s.id {
		return nil
	}
	return s.ack(seq)
}

// ack is Ack; the caller holds mu.
func (s *Spool) ack(seq int64) error {
	switch {
	case s.closed:
		return ErrClosed
	case seq > s.last:
		return s.renew()
	}
	s.acked = seq
	if open := s.segments[len(s.segments)-1]; seq == s.last && open.size >= rotateAckedBytes {
		if err := s.rotate(); err != nil {
			return fmt.Errorf("begin spool segment: %w", err)
		}
	}
	for len(s.segments) > 1 && s.segments[1].first <= seq+1 {
		if err := s.dropOldest(); err != nil {
			return err
		}
	}
	if s.last > s.acked {
		s.wake()
	}
	return nil
}

// Close ends it. What is not acknowledged stays on disk. It may be called twice.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.file.Close()
}

func (s *Spool) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func gap(from, to int64) wire.Event {
	return wire.Event{Seq: to, At: time.Now().UTC(), Kind: wire.EventGap, Gap: &wire.Gap{From: from, To: to}}
}

// load fills the state from the directory. Caller owns s alone.
func (s *Spool) load() error {
	if err := s.listSegments(); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(s.cfg.Dir, idFile))
	s.id = strings.TrimSpace(string(raw))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.id == "" || len(s.segments) == 0 {
		if err := s.renew(); err != nil {
			return err
		}
	}
	if len(s.segments) == 0 {
		return s.rotate()
	}
	for i := range s.segments {
		if err := s.recover(&s.segments[i]); err != nil {
			return err
		}
	}
	open := s.segments[len(s.segments)-1]
	s.last = open.first + open.count - 1
	s.acked = s.segments[0].first - 1
	s.file, err = os.OpenFile(s.path(open), os.O_WRONLY|os.O_APPEND, 0o600)
	return err
}

func (s *Spool) listSegments() error {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var first int64
		if n, err := fmt.Sscanf(e.Name(), "%020d"+segmentSuffix, &first); err != nil || n != 1 || first < 1 || segmentName(first) != e.Name() {
			continue
		}
		s.segments = append(s.segments, segment{first: first})
	}
	slices.SortFunc(s.segments, func(a, b segment) int { return int(a.first - b.first) })
	return nil
}

// renew gives the spool a new identity and keeps what is in it.
func (s *Spool) renew() error {
	id := rand.Text()
	if err := writeFile(s.cfg.Dir, idFile, []byte(id+"\n")); err != nil {
		return fmt.Errorf("write spool identity: %w", err)
	}
	s.id, s.acked = id, 0
	if len(s.segments) > 0 {
		s.acked = s.segments[0].first - 1
	}
	return nil
}

// bound drops the oldest segments while all together are too large. The open one stays.
func (s *Spool) bound() {
	total := int64(0)
	for _, seg := range s.segments {
		total += seg.size
	}
	for len(s.segments) > 1 && total > s.cfg.MaxBytes {
		total -= s.segments[0].size
		if s.dropOldest() != nil {
			return // the next append tries again; the event itself is safe
		}
	}
}

func (s *Spool) dropOldest() error {
	if err := os.Remove(s.path(s.segments[0])); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop spool segment: %w", err)
	}
	s.segments = slices.Delete(s.segments, 0, 1)
	return nil
}

func segmentName(first int64) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

func (s *Spool) path(seg segment) string { return filepath.Join(s.cfg.Dir, segmentName(seg.first)) }
