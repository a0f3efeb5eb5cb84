package engine

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/moby/moby/client"
)

// stdinTimeout bounds one write. A game that does not read its input blocks the writer once the
// pipe's 64 KiB and the socket's buffer are full.
const stdinTimeout = 5 * time.Second

// Stdin implements Engine. A write fails after stdinTimeout when the game does not read.
func (d *Docker) Stdin(ctx context.Context, op, id string) (io.WriteCloser, error) {
	what := fmt.Sprintf("open the input of container %.12s", id)
	c, err := d.Inspect(ctx, op, id)
	if err != nil {
		return nil, prefixed(what, err)
	}
	if !c.Running {
		return nil, fmt.Errorf("%s: %w", what, ErrNotRunning)
	}
	res, err := d.cli.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true})
	if err != nil {
		return nil, mapped(what, err)
	}
	return &stdin{conn: res.Conn}, nil
}

// stdin is an attached input. Closing the connection detaches: StdinOnce is off.
type stdin struct{ conn net.Conn }

func (s *stdin) Write(p []byte) (int, error) {
	if err := s.conn.SetWriteDeadline(time.Now().Add(stdinTimeout)); err != nil {
		return 0, fmt.Errorf("write to the game: %w", err)
	}
	n, err := s.conn.Write(p)
	if err != nil {
		return n, fmt.Errorf("write to the game: %w", err)
	}
	return n, nil
}

func (s *stdin) Close() error { return s.conn.Close() }
