package metering

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite" // PocketBase's own driver
)

// Bounds of the SQLite store.
const (
	sqliteReaders   = 4
	groupDeliveries = 32  // that one transaction holds at most
	rowsPerInsert   = 50  // of one INSERT; more were no faster
	queueDeliveries = 256 // that wait for the writer; further ones wait in their callers
	pruneAtOnce     = 20_000
)

// sqliteSchema is what makes the tables. The file's user_version is how many of the statements it has
// had. A later version adds statements and never changes these.
var sqliteSchema = []string{
	`CREATE TABLE IF NOT EXISTS placements (
		id INTEGER PRIMARY KEY, server TEXT NOT NULL, epoch INTEGER NOT NULL, tenant TEXT NOT NULL, node TEXT NOT NULL, UNIQUE (server, epoch))`,
	`CREATE INDEX IF NOT EXISTS placements_tenant ON placements (tenant)`,
	`CREATE TABLE IF NOT EXISTS samples (
		placement INTEGER NOT NULL, window_unix_s INTEGER NOT NULL, batch INTEGER NOT NULL, ` + strings.Join(columns, " INTEGER NOT NULL, ") + ` INTEGER NOT NULL,
		PRIMARY KEY (placement, window_unix_s)) WITHOUT ROWID`,
	`CREATE INDEX IF NOT EXISTS samples_batch ON samples (batch)`,
	// When each batch was stored, so that a bill can be drawn up again from what was known at a time.
	`CREATE TABLE IF NOT EXISTS batches (batch INTEGER PRIMARY KEY, node TEXT NOT NULL, stored_unix_s INTEGER NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS streams (
		node TEXT PRIMARY KEY, spool TEXT NOT NULL, acked_seq INTEGER NOT NULL, delivered_unix_s INTEGER NOT NULL, heard_unix_s INTEGER NOT NULL)`,
}

// SQLite is a Store in a file of its own. One goroutine writes: deliveries that wait at the same time
// share a transaction, and so its fsync.
type SQLite struct {
	write *sql.DB   // of conn
	conn  *sql.Conn // the writer's; transactions are its own, because database/sql's would hide it from prepared statements
	read  *sql.DB
	queue chan *request
	work  sync.WaitGroup

	mu     sync.RWMutex // guards closed; held while something is put into the queue
	closed bool

	// Owned by the writer.
	insert map[int]*sql.Stmt // by number of rows
	ids    map[placement]int64
}

// request is something for the writer to do in a transaction.
type request struct {
	ctx  context.Context
	do   func(c *sql.Conn) error
	done chan error // capacity 1
	// alone keeps others out of its transaction.
	alone bool
}

var _ Store = (*SQLite)(nil)

// OpenSQLite opens the file, which is made when it is missing. It is in WAL mode with full
// synchronisation: beside it are path-wal and path-shm while it is open.
func OpenSQLite(path string) (*SQLite, error) {
	s := &SQLite{queue: make(chan *request, queueDeliveries), insert: map[int]*sql.Stmt{}, ids: map[placement]int64{}}
	var err error
	if s.write, err = openFile(path, "_pragma=synchronous(FULL)"); err != nil {
		return nil, err
	}
	s.write.SetMaxOpenConns(1)
	if s.conn, err = s.write.Conn(context.Background()); err == nil {
		err = migrate(s.conn)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store of samples %s: %w", filepath.Base(path), err), s.write.Close())
	}
	if s.read, err = openFile(path, "_pragma=query_only(1)"); err != nil {
		return nil, errors.Join(err, s.write.Close())
	}
	s.read.SetMaxOpenConns(sqliteReaders)
	s.read.SetMaxIdleConns(sqliteReaders)
	s.work.Go(s.serve)
	return s, nil
}

// openFile opens a pool on the file; its first connection is made by who first asks for it.
func openFile(path string, more ...string) (*sql.DB, error) {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}
	u.RawQuery = strings.Join(append([]string{"_pragma=busy_timeout(10000)", "_pragma=journal_mode(WAL)", "_pragma=journal_size_limit(67108864)", "_pragma=cache_size(-16000)"}, more...), "&")
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("open the store of samples %s: %w", filepath.Base(path), err)
	}
	return db, nil
}

// migrate gives the file the statements of sqliteSchema that it has not had.
func migrate(c *sql.Conn) error {
	ctx := context.Background()
	var had int
	if err := c.QueryRowContext(ctx, "PRAGMA user_version").Scan(&had); err != nil || had >= len(sqliteSchema) {
		return err
	}
	all := append([]string{"BEGIN IMMEDIATE"}, sqliteSchema[had:]...)
	_, err := c.ExecContext(ctx, strings.Join(append(all, fmt.Sprintf("PRAGMA user_version = %d", len(sqliteSchema)), "COMMIT"), ";\n"))
	return err
}

// serve is the writer.
func (s *SQLite) serve() {
	var next *request
	for {
		first := next
		next = nil
		if first == nil {
			var ok bool
			if first, ok = <-s.queue; !ok {
				return
			}
		}
		group := []*request{first}
		for !first.alone && next == nil && len(group) < groupDeliveries {
			select {
			case r, ok := <-s.queue:
				if !ok {
					s.commit(group)
					return
				}
				if r.alone {
					next = r
				} else {
					group = append(group, r)
				}
				continue
			default:
			}
			break
		}
		s.commit(group)
	}
}

// commit runs a group in one transaction. When that fails each is tried alone, so that none fails for
// another's fault.
func (s *SQLite) commit(group []*request) {
	waiting := group[:0]
	for _, r := range group {
		if err := r.ctx.Err(); err != nil {
			r.done <- err
		} else {
			waiting = append(waiting, r)
		}
	}
	if len(waiting) == 0 {
		return
	}
	err := s.transact(waiting)
	if err != nil && len(waiting) > 1 {
		for _, r := range waiting {
			r.done <- s.transact([]*request{r})
		}
		return
	}
	for _, r := range waiting {
		r.done <- err
	}
}

func (s *SQLite) transact(group []*request) (err error) {
	ctx := context.Background() // what waits for it may give up; it goes on
	if _, err := s.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for _, r := range group {
		if err = r.do(s.conn); err != nil {
			break
		}
	}
	if err == nil {
		if _, err = s.conn.ExecContext(ctx, "COMMIT"); err == nil {
			return nil
		}
	}
	s.ids = map[placement]int64{}                      // those that were made are gone
	_, rollback := s.conn.ExecContext(ctx, "ROLLBACK") // fails when the failure has ended the transaction itself
	_ = rollback
	return err
}

// ask gives the writer something to do and waits for it.
func (s *SQLite) ask(ctx context.Context, alone bool, do func(c *sql.Conn) error) error {
	r := &request{ctx: ctx, do: do, done: make(chan error, 1), alone: alone}
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return ErrClosed
	}
	select {
	case s.queue <- r:
		s.mu.RUnlock()
	case <-ctx.Done():
		s.mu.RUnlock()
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done(): // it may still be done, which is nothing bad
		return ctx.Err()
	}
}

// Take implements Store.
func (s *SQLite) Take(ctx context.Context, d Delivery) (int64, error) {
	var acked int64
	err := s.ask(ctx, false, func(c *sql.Conn) (err error) {
		acked, err = s.take(c, &d)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("store samples of node %s: %w", d.Node, err)
	}
	return acked, nil
}

func (s *SQLite) take(c *sql.Conn, d *Delivery) (int64, error) {
	ctx := context.Background()
	var spool string
	var standing int64
	err := c.QueryRowContext(ctx, "SELECT spool, acked_seq FROM streams WHERE node = ?", d.Node).Scan(&spool, &standing)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, err
	}
	if spool != d.Spool {
		standing = 0
	}
	rows, acked := fresh(d, standing)
	now := time.Now().Unix()
	if len(rows) > 0 {
		res, err := c.ExecContext(ctx, "INSERT INTO batches (node, stored_unix_s) VALUES (?, ?)", d.Node, now)
		if err != nil {
			return 0, err
		}
		batch, err := res.LastInsertId()
		if err != nil {
			return 0, err
		}
		if err := s.store(c, rows, batch); err != nil {
			return 0, err
		}
	}
	if stale(d, acked) {
		return acked, nil
	}
	_, err = c.ExecContext(ctx, `INSERT INTO streams (node, spool, acked_seq, delivered_unix_s, heard_unix_s) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (node) DO UPDATE SET spool = excluded.spool, acked_seq = excluded.acked_seq, delivered_unix_s = excluded.delivered_unix_s, heard_unix_s = excluded.heard_unix_s`,
		d.Node, d.Spool, acked, d.DeliveredUnixS, now)
	return acked, err
}

func (s *SQLite) store(c *sql.Conn, rows []Row, batch int64) error {
	args := make([]any, 0, rowsPerInsert*(len(columns)+3))
	for len(rows) > 0 {
		part := rows[:min(len(rows), rowsPerInsert)]
		rows, args = rows[len(part):], args[:0]
		for i := range part {
			id, err := s.place(c, &part[i])
			if err != nil {
				return err
			}
			args = append(args, id, part[i].Sample.WindowUnixS, batch)
			for _, v := range values(&part[i].Sample) {
				args = append(args, v)
			}
		}
		stmt, err := s.statement(c, len(part)) //nolint:sqlclosecheck // kept for the next batch, closed by Close
		if err != nil {
			return err
		}
		if _, err := stmt.Exec(args...); err != nil {
			return err
		}
	}
	return nil
}

// statement inserts so many rows.
func (s *SQLite) statement(c *sql.Conn, rows int) (*sql.Stmt, error) {
	if stmt := s.insert[rows]; stmt != nil {
		return stmt, nil
	}
	one := "(?" + strings.Repeat(", ?", len(columns)+2) + ")"
	stmt, err := c.PrepareContext(context.Background(), "INSERT INTO samples (placement, window_unix_s, batch, "+strings.Join(columns, ", ")+") VALUES "+
		one+strings.Repeat(", "+one, rows-1)+" ON CONFLICT DO NOTHING")
	if err != nil {
		return nil, err
	}
	s.insert[rows] = stmt
	return stmt, nil
}

// place is the number of a row's placement.
func (s *SQLite) place(c *sql.Conn, r *Row) (int64, error) {
	key := placement{r.Sample.ServerID, r.Sample.PlacementEpoch}
	if id, ok := s.ids[key]; ok {
		return id, nil
	}
	var id int64
	err := c.QueryRowContext(context.Background(), `INSERT INTO placements (server, epoch, tenant, node) VALUES (?, ?, ?, ?)
		ON CONFLICT (server, epoch) DO UPDATE SET node = node RETURNING id`, key.server, key.epoch, r.Tenant, r.Node).Scan(&id)
	if err != nil {
		return 0, err
	}
	if len(s.ids) >= maxPlacements {
		s.ids = map[placement]int64{}
	}
	s.ids[key] = id
	return id, nil
}

// Read implements Store.
func (s *SQLite) Read(ctx context.Context, r Range, fn func(Row) error) error {
	column, who := r.owner()
	//nolint:rowserrcheck // each does
	rows, err := s.read.QueryContext(ctx, `SELECT p.tenant, p.node, p.server, p.epoch, s.window_unix_s, s.`+strings.Join(columns, ", s.")+`
		FROM placements p JOIN samples s ON s.placement = p.id
		WHERE p.`+column+` = ? AND s.window_unix_s >= ? AND s.window_unix_s < ? ORDER BY p.server, s.window_unix_s, p.epoch`, who, r.FromUnixS, r.ToUnixS)
	if err != nil {
		return fmt.Errorf("read samples: %w", err)
	}
	defer rows.Close()
	return each(rows, fn)
}

// Arrived implements Store.
func (s *SQLite) Arrived(ctx context.Context, after Mark, limit int) ([]Hour, Mark, error) {
	// One transaction: both reads see the same samples.
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, after, fmt.Errorf("look for samples that arrived: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // it only read
	var upTo sql.NullInt64
	// Whole batches, as many as hold about limit rows.
	err = tx.QueryRowContext(ctx, `SELECT MAX(batch) FROM (SELECT batch FROM samples WHERE batch > ? ORDER BY batch LIMIT ?)`, int64(after), limit).Scan(&upTo)
	if err != nil || !upTo.Valid {
		return nil, after, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT DISTINCT p.server, p.epoch, s.window_unix_s - s.window_unix_s % 3600
		FROM samples s JOIN placements p ON p.id = s.placement WHERE s.batch > ? AND s.batch <= ?`, int64(after), upTo.Int64)
	if err != nil {
		return nil, after, fmt.Errorf("look for samples that arrived: %w", err)
	}
	defer rows.Close()
	var hours []Hour
	for rows.Next() {
		var h Hour
		if err := rows.Scan(&h.Server, &h.Epoch, &h.HourUnixS); err != nil {
			return nil, after, err
		}
		hours = append(hours, h)
	}
	return hours, Mark(upTo.Int64), rows.Err()
}

// Nodes implements Store.
func (s *SQLite) Nodes(ctx context.Context) ([]Progress, error) {
	rows, err := s.read.QueryContext(ctx, "SELECT node, delivered_unix_s, heard_unix_s FROM streams ORDER BY node")
	if err != nil {
		return nil, fmt.Errorf("read how far nodes have delivered: %w", err)
	}
	defer rows.Close()
	var all []Progress
	for rows.Next() {
		var p Progress
		var heard int64
		if err := rows.Scan(&p.Node, &p.DeliveredUnixS, &heard); err != nil {
			return nil, err
		}
		p.HeardAt = time.Unix(heard, 0).UTC()
		all = append(all, p)
	}
	return all, rows.Err()
}

// Prune implements Store. It removes a part at a time, so that deliveries do not wait for all of it.
func (s *SQLite) Prune(ctx context.Context, before time.Time) (int64, error) {
	day, removed := dayOf(before), int64(0)
	for {
		var n int64
		err := s.ask(ctx, true, func(c *sql.Conn) (err error) {
			n, err = pruneSome(c, day)
			return err
		})
		removed += n
		if err != nil || n == 0 {
			return removed, err
		}
	}
}

// pruneSome removes old samples of placements that have some. A placement's samples are together and
// in order of time, so each look is one step into the table.
func pruneSome(c *sql.Conn, day int64) (removed int64, err error) {
	res, err := c.ExecContext(context.Background(), `DELETE FROM samples WHERE (placement, window_unix_s) IN (
		SELECT s.placement, s.window_unix_s FROM placements p JOIN samples s ON s.placement = p.id AND s.window_unix_s < ? LIMIT ?)`, day, pruneAtOnce)
	if err != nil {
		return 0, err
	}
	if removed, err = res.RowsAffected(); err != nil || removed > 0 {
		return removed, err
	}
	_, err = c.ExecContext(context.Background(), "DELETE FROM batches WHERE batch < (SELECT COALESCE(MIN(batch), (SELECT MAX(batch) FROM batches)) FROM samples)")
	return 0, err
}

// Count implements Store.
func (s *SQLite) Count(ctx context.Context, tenant string) (n int64, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT COUNT(*) FROM placements p JOIN samples s ON s.placement = p.id WHERE p.tenant = ?", tenant).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the samples of a tenant: %w", err)
	}
	return n, nil
}

// Forget implements Store. It removes a part at a time, so that deliveries do not wait for all of it.
func (s *SQLite) Forget(ctx context.Context, tenant string) (removed int64, err error) {
	for {
		var n int64
		err := s.ask(ctx, true, func(c *sql.Conn) (err error) {
			n, err = s.forgetSome(c, tenant)
			return err
		})
		removed += n
		if err != nil {
			return removed, fmt.Errorf("forget the samples of a tenant: %w", err)
		}
		if n == 0 {
			return removed, nil
		}
	}
}

// forgetSome removes samples of a tenant, or its placements when there are none.
func (s *SQLite) forgetSome(c *sql.Conn, tenant string) (removed int64, err error) {
	res, err := c.ExecContext(context.Background(), `DELETE FROM samples WHERE (placement, window_unix_s) IN (
		SELECT s.placement, s.window_unix_s FROM placements p JOIN samples s ON s.placement = p.id WHERE p.tenant = ? LIMIT ?)`, tenant, pruneAtOnce)
	if err != nil {
		return 0, err
	}
	if removed, err = res.RowsAffected(); err != nil || removed > 0 {
		return removed, err
	}
	s.ids = map[placement]int64{} // some of them are gone
	_, err = c.ExecContext(context.Background(), "DELETE FROM placements WHERE tenant = ?", tenant)
	return 0, err
}

// Close implements Store.
func (s *SQLite) Close() error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	if !already {
		close(s.queue)
	}
	s.mu.Unlock()
	s.work.Wait()
	if already {
		return nil
	}
	var errs []error
	for _, stmt := range s.insert {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, s.conn.Close(), s.read.Close(), s.write.Close())...)
}
