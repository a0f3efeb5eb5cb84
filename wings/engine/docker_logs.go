package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/mambahost/mamba/wings/wire"
)

// Limits of reading a log.
const (
	logBuffer   = 256             // lines read ahead; then the engine waits for the reader (its file keeps the rest)
	maxLogFrame = 1 << 20         // one entry of the engine's log; dockerd cuts at 16 KiB
	logOverlap  = time.Second     // re-read before the cursor, see stamp
	logRetry    = time.Second / 4 // before a stream that broke off under a running game is opened again
)

// logReader reads one container's log in as many requests as it takes.
type logReader struct {
	d       *Docker
	id      string
	started time.Time // of the run that is followed
	last    time.Time // of the newest line handed out, or the caller's cursor
	out     chan LogLine
}

// Logs implements Engine.
//
// Known issue: after the node's clock was set back by more than logOverlap, lines of the time until
// it has caught up can be missing from a stream that is opened anew with a cursor (not from one that
// is open). The engine's API has no other cursor than time.
func (d *Docker) Logs(ctx context.Context, op, id string, after time.Time) (*LogStream, error) {
	c, err := d.Inspect(ctx, op, id)
	if err != nil {
		return nil, prefixed("read a log", err)
	}
	r := &logReader{d: d, id: c.ID, started: c.StartedAt, last: after, out: make(chan LogLine, logBuffer)}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.life, cancel)
	var ended error // written before out is closed
	if err := d.spawn(func() {
		defer cancel()
		defer stop()
		defer close(r.out)
		ended = r.run(ctx)
	}); err != nil {
		cancel()
		stop()
		return nil, err
	}
	return &LogStream{C: r.out, Err: func() error { return ended }}, nil
}

// run follows the log until the run that it began with is over.
func (r *logReader) run(ctx context.Context) error {
	for {
		if err := r.read(ctx, true); err != nil {
			return r.failed(ctx, err)
		}
		// The engine ended the answer. It does that when the container ends, but also when dockerd
		// is stopped in good order, and it was seen to do so while it turned the log's files.
		c, err := r.d.Inspect(ctx, "", r.id)
		if errors.Is(err, ErrNotFound) {
			return nil // removed: there is no more
		}
		if err != nil {
			return r.failed(ctx, err)
		}
		if !c.Running || !c.StartedAt.Equal(r.started) {
			// What was written in the last moment may be in the file but not in the answer.
			return r.failed(ctx, r.read(ctx, false))
		}
		timer := time.NewTimer(logRetry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return r.failed(ctx, ctx.Err())
		case <-timer.C:
		}
	}
}

func (r *logReader) failed(ctx context.Context, err error) error {
	if err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("read the log of container %.12s: %w", r.id, errors.Join(ctx.Err(), err))
}

// read is one request: everything after r.last, and with follow also what comes until the engine
// ends the answer.
func (r *logReader) read(ctx context.Context, follow bool) error {
	opts := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: follow}
	if !r.last.IsZero() {
		opts.Since = r.last.Add(-logOverlap).Format(time.RFC3339Nano)
	}
	body, err := r.d.cli.ContainerLogs(ctx, r.id, opts)
	if err != nil {
		return err
	}
	defer body.Close()
	var previous time.Time
	frames := bufio.NewReaderSize(body, 64<<10)
	for {
		frame, err := readFrame(frames)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		at, text, err := parseEntry(frame)
		if err != nil {
			return err
		}
		for _, part := range splitLine(text) {
			previous = stamp(previous, at)
			if !previous.After(r.last) {
				continue
			}
			select {
			case r.out <- LogLine{At: previous, Text: part}:
				r.last = previous
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// stamp makes the time of a line greater than that of the one before it. The engine's own times
// are not a cursor as they are: parts of one long line share a time, and stdout and stderr are
// stamped by two readers before they are written in one order. A stamp depends on what came before
// it only where times are equal or fall back, that is within microseconds; so a reader that begins
// logOverlap earlier computes the same stamps as the first one did, and "after" loses and doubles
// nothing.
func stamp(previous, at time.Time) time.Time {
	if at.After(previous) {
		return at
	}
	return previous.Add(time.Nanosecond)
}

// readFrame reads one frame of the engine's multiplexed stream: one log entry, because dockerd
// writes each with one call. io.EOF only between frames.
func readFrame(r io.Reader) ([]byte, error) {
	var header [8]byte // stream, three zeros, big-endian size
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[4:])
	if size > maxLogFrame {
		return nil, fmt.Errorf("log frame of %d bytes", size)
	}
	frame := make([]byte, size)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	if header[0] > 2 { // the engine's own complaint
		return nil, fmt.Errorf("the engine cannot read it: %q", frame)
	}
	return frame, nil
}

// parseEntry splits "<RFC 3339 time> <text>\n". An entry without the line end is a part of a line
// that was longer than the engine's buffer.
func parseEntry(frame []byte) (time.Time, []byte, error) {
	raw, text, ok := bytes.Cut(frame, []byte{' '})
	if !ok {
		return time.Time{}, nil, fmt.Errorf("log entry %.40q has no time", frame)
	}
	at, err := time.Parse(time.RFC3339Nano, string(raw))
	if err != nil {
		return time.Time{}, nil, fmt.Errorf("log entry: %w", err)
	}
	text = bytes.TrimSuffix(text, []byte{'\n'})
	return at, bytes.TrimSuffix(text, []byte{'\r'}), nil
}

// splitLine cuts text at wire.MaxConsoleLineBytes. An empty line is one part.
func splitLine(text []byte) []string {
	var parts []string
	for len(text) > wire.MaxConsoleLineBytes {
		parts = append(parts, string(text[:wire.MaxConsoleLineBytes]))
		text = text[wire.MaxConsoleLineBytes:]
	}
	return append(parts, string(text))
}
