// Package spool keeps what a node owes the panel on its disk until the panel has it: events in one
// directory, samples in another.
//
// It owns directories of append-only segments and the identity of each. It refuses to know what an
// item means and never sends anything: the link reads batches from it and tells it what was
// acknowledged.
//
// Its one invariant: an item whose Append returned without error is given out by Next until it is
// acknowledged, or until the bound dropped it, which Next then says with a gap in its place.
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

	"github.com/mambahost/mamba/wings/wire"
)

// Defaults and limits.
const (
	DefaultMaxBytes     = 64 << 20
	DefaultSegmentBytes = 1 << 20
	maxRecordBytes      = 1 << 20  // one record, encoded; a longer length in a file is corruption
	rotateAckedBytes    = 64 << 10 // a wholly acknowledged open segment of this size is replaced
	idFile              = "spool_id"
	segmentSuffix       = ".seg"
)

// Errors of a Spool.
var (
	ErrTooLarge = errors.New("item is larger than a spool record may be")
	ErrClosed   = errors.New("spool is closed")
)

// Config of a Spool.
type Config struct {
	Dir          string // made when it is missing, 0700
	MaxBytes     int64  // of all segments; the oldest segment is dropped beyond it. Default DefaultMaxBytes
	SegmentBytes int64  // a segment is closed at this size. Default DefaultSegmentBytes
}

// Stream is a spool of items of one kind. It is safe for concurrent use. Append blocks for one fsync.
type Stream[T any] struct {
	cfg   Config
	kind  kind[T]
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

// Spool keeps events.
type Spool = Stream[wire.Event]

// segment is one file: items first, first+1, … in order.
type segment struct {
	first int64 // sequence of its first item, or of the next one while it is empty
	count int64 // items in it
	size  int64 // bytes of good records
}

// Open opens a spool of events. Open reads the directory, cuts off a tail that a crash left half written, and goes on where it
// ended. A directory without an identity, or with an identity but no segments, gets a new identity:
// sequence numbers never start again under an old one.
func Open(cfg Config) (*Spool, error) { return openStream(cfg, events) }

// OpenSamples opens a spool of samples, in the same way. Its default bound is DefaultSampleBytes.
func OpenSamples(cfg Config) (*Stream[wire.Sample], error) {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultSampleBytes
	}
	return openStream(cfg, samples)
}

func openStream[T any](cfg Config, k kind[T]) (*Stream[T], error) {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.SegmentBytes <= 0 {
		cfg.SegmentBytes = DefaultSegmentBytes
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make spool directory: %w", err)
	}
	s := &Stream[T]{cfg: cfg, kind: k, ready: make(chan struct{}, 1)}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open spool %s: %w", cfg.Dir, err)
	}
	if s.last > s.acked {
		s.wake()
	}
	return s, nil
}

// ID of the spool. It changes only with Renew.
func (s *Stream[T]) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Last is the newest sequence that is durable here, 0 before the first.
func (s *Stream[T]) Last() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Ready receives when there may be something for Next. It is a hint that may come too often.
func (s *Stream[T]) Ready() <-chan struct{} { return s.ready }

// Append gives the item the next sequence and returns once it is on disk. After an error nothing of
// it is kept.
func (s *Stream[T]) Append(item T) (int64, error) { return s.AppendAll([]T{item}) }

// AppendAll does so for many at once, with one fsync, and returns the sequence of the last: all of
// them are kept, or none. It writes their sequences into items.
func (s *Stream[T]) AppendAll(items []T) (last int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrClosed
	}
	for i := range items {
		*s.kind.seq(&items[i]) = s.last + 1 + int64(i)
	}
	var records []byte
	for part := range slices.Chunk(items, s.kind.perRecord) {
		payload, err := s.kind.encode(part)
		if err != nil {
			return 0, err
		}
		if len(payload) > maxRecordBytes {
			return 0, fmt.Errorf("record of %d bytes: %w", len(payload), ErrTooLarge)
		}
		records = frame(records, payload)
	}
	if len(records) == 0 {
		return s.last, nil
	}
	if open := &s.segments[len(s.segments)-1]; open.count > 0 && open.size+int64(len(records)) > s.cfg.SegmentBytes {
		if err := s.rotate(); err != nil {
			return 0, fmt.Errorf("begin spool segment: %w", err)
		}
	}
	if err := s.write(records, int64(len(items))); err != nil {
		return 0, fmt.Errorf("write %d items after %d to spool: %w", len(items), s.last, err)
	}
	s.last += int64(len(items))
	s.bound()
	s.wake()
	return s.last, nil
}

// Next returns the oldest items that are not acknowledged, at most limit of them and about maxBytes
// as they are written (one record is always given). Sequences that are gone are announced by a gap
// whose sequence is the last one that it stands for. Nothing to send is an empty slice.
func (s *Stream[T]) Next(limit int, maxBytes int64) ([]T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	var out []T
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
			out = append(out, s.kind.gap(expect, seg.first-1))
			expect = seg.first
		}
		done, err := s.read(seg, expect, func(items []T, n int64) bool {
			if len(out) >= limit || (len(out) > 0 && size+n > maxBytes) {
				return false
			}
			items = items[:min(len(items), limit-len(out))]
			out, size, expect = append(out, items...), size+n, expect+int64(len(items))
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
func (s *Stream[T]) Ack(seq int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ack(seq)
}

// AckOf is Ack for an answer about the spool of that identity: it does nothing when the spool has
// taken another one since, because several connections may bring the same news.
func (s *Stream[T]) AckOf(id string, seq int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != s.id {
		return nil
	}
	return s.ack(seq)
}

// ack is Ack; the caller holds mu.
func (s *Stream[T]) ack(seq int64) error {
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
func (s *Stream[T]) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.file.Close()
}

func (s *Stream[T]) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// load fills the state from the directory. Caller owns s alone.
func (s *Stream[T]) load() error {
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

func (s *Stream[T]) listSegments() error {
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
func (s *Stream[T]) renew() error {
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
func (s *Stream[T]) bound() {
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

func (s *Stream[T]) dropOldest() error {
	if err := os.Remove(s.path(s.segments[0])); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop spool segment: %w", err)
	}
	s.segments = slices.Delete(s.segments, 0, 1)
	return nil
}

func segmentName(first int64) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

func (s *Stream[T]) path(seg segment) string { return filepath.Join(s.cfg.Dir, segmentName(seg.first)) }
