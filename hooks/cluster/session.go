package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Times of the session, by which others judge this instance and it judges them.
const (
	tickEvery      = 500 * time.Millisecond // look at the others, try to lead
	connectTimeout = 10 * time.Second
	queryTimeout   = 5 * time.Second // one statement of the session
	firstBackoff   = 100 * time.Millisecond
	maxBackoff     = 5 * time.Second
)

// lockSpace is the first 16 bits of the advisory locks of this room; collections/postgres has those
// before it.
const lockSpace = 0x6d63

// lockKey is the number of an advisory lock: one of a kind in a schema.
func (c *Cluster) lockKey(kind, name string) int64 {
	sum := sha256.Sum256([]byte(c.schema + "\x00" + kind + "\x00" + name))
	return lockSpace<<48 | int64(binary.BigEndian.Uint64(sum[:])>>16)
}

// session is the one connection by which this instance takes part: it listens, and its locks say that
// the instance lives and what it leads. Owned by the goroutine of run.
type session struct {
	c      *Cluster
	conn   *pgx.Conn
	joiner joiner
}

// run keeps a session until ctx ends. up is called, once per session, when it listens.
func (c *Cluster) run(ctx context.Context, first chan<- error) {
	wait := firstBackoff
	for ctx.Err() == nil {
		began := time.Now()
		err := c.attend(ctx, first)
		first = nil
		if ctx.Err() != nil {
			return
		}
		c.lost()
		if time.Since(began) > maxBackoff {
			wait = firstBackoff
		}
		c.log.Warn("the connection to the other instances was lost", "error", err, "again_in", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + time.Duration(rand.Int64N(int64(wait/2)+1))):
		}
		wait = min(wait*2, maxBackoff)
	}
}

// attend is one session, from connecting to its end.
func (c *Cluster) attend(ctx context.Context, first chan<- error) error {
	s, err := c.connect(ctx)
	if err == nil {
		defer s.close()
		err = c.members.enter(ctx)
	}
	if first != nil {
		first <- err
	} else if err == nil {
		c.gap() // whatever was published while nobody listened is missed
	}
	if err != nil {
		return err
	}
	c.lostAt = time.Time{}
	return s.listen(ctx)
}

func (c *Cluster) connect(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	cfg := c.cfg.Database.Pool().Config().ConnConfig.Copy()
	// a peer that vanished without a word is noticed by both sides within about 5 s
	for k, v := range map[string]string{"tcp_keepalives_idle": "2", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "3",
		"tcp_user_timeout": "5000", "application_name": "mambahost " + c.id} {
		cfg.RuntimeParams[k] = v
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to listen: %w", err)
	}
	s := &session{c: c, conn: conn, joiner: joiner{partial: map[string]*partial{}}}
	// the lock first, then the row: a row without its lock is a dead instance
	if _, err = conn.Exec(ctx, "SELECT pg_advisory_lock($1)", c.lockKey("instance", c.id)); err == nil {
		_, err = conn.Exec(ctx, "LISTEN "+pgx.Identifier{c.channel}.Sanitize())
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return s, nil
}

func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	_ = s.conn.Close(ctx) // the server drops its locks either way
}

// listen takes notifications, and looks around at every tick.
func (s *session) listen(ctx context.Context) error {
	next := time.Now()
	for {
		if now := time.Now(); !now.Before(next) {
			if err := s.tick(ctx); err != nil {
				return err
			}
			next = now.Add(tickEvery)
		}
		wait, cancel := context.WithDeadline(ctx, next)
		n, err := s.conn.WaitForNotification(wait)
		cancel()
		switch {
		case err == nil:
			s.receive(n)
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded) && !pgconn.Timeout(err):
			return err
		}
	}
}

func (s *session) receive(n *pgconn.Notification) {
	if n.Channel != s.c.channel {
		return
	}
	messages, err := s.joiner.take(n.Payload, time.Now())
	if err != nil {
		s.c.log.Error("a message of another instance is lost", "error", err)
		s.c.gap()
		return
	}
	s.c.bus.deliver(messages)
}

// tick asks, in the session that holds the locks, which instances are dead and what can be led.
func (s *session) tick(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	others, err := s.others(ctx)
	if err != nil {
		return err
	}
	dead, err := s.free(ctx, "instance", others)
	if err != nil {
		return err
	}
	for _, id := range dead { // only looked; the locks are given back
		if _, err := s.conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", s.c.lockKey("instance", id)); err != nil {
			return err
		}
	}
	s.c.members.look(others, dead)
	won, err := s.free(ctx, "leader", s.c.leaders.wanted())
	if err != nil {
		return err
	}
	s.c.leaders.won(won)
	return nil
}

// others are the ids in the list of instances, without this one's; each with when it was seen.
func (s *session) others(ctx context.Context) ([]string, error) {
	rows, err := s.conn.Query(ctx, "SELECT id || ' ' || seen FROM panel_instances WHERE id <> $1 ORDER BY id", s.c.id)
	if err != nil {
		return nil, err
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for i, line := range out {
		id, seen, _ := strings.Cut(line, " ")
		s.c.members.note(id, seen, now)
		out[i] = id
	}
	return out, nil
}

// free takes those locks of a kind that nobody holds and returns their names.
func (s *session) free(ctx context.Context, kind string, names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	keys, byKey := make([]int64, len(names)), map[int64]string{}
	for i, n := range names {
		keys[i] = s.c.lockKey(kind, n)
		byKey[keys[i]] = n
	}
	rows, err := s.conn.Query(ctx, "SELECT k FROM unnest($1::bigint[]) AS k WHERE pg_try_advisory_lock(k)", keys)
	if err != nil {
		return nil, err
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, err
	}
	out := make([]string, len(got))
	for i, k := range got {
		out[i] = byKey[k]
	}
	return out, nil
}
