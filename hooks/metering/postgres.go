package metering

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DefaultSchema of the PostgreSQL store, beside PocketBase's own.
const DefaultSchema = "mamba_samples"

// Bounds of the PostgreSQL store.
const (
	installTimeout = time.Minute
	partitionAhead = 2               // days whose partitions are made before they are needed
	pruneWait      = 5 * time.Second // for those who read a day that is to go
)

var schemaName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)
})

// Postgres is a Store in a PostgreSQL database (13 or newer), native and not through PocketBase. The
// samples of each UTC day are a partition, so that pruning drops a table instead of deleting rows.
// Several panels may store at once.
type Postgres struct {
	pool   *pgxpool.Pool
	schema string
	insert string // statement
	read   string // statement without its condition

	mu   sync.Mutex // guards all below
	ids  map[placement]int64
	days map[int64]bool // whose partitions are there
	shut bool
	work sync.WaitGroup
}

var _ Store = (*Postgres)(nil)

// OpenPostgres installs the schema, if it is not there, and returns the store. The pool stays the
// caller's. The role needs CREATE on the database the first time. Schema empty: DefaultSchema.
func OpenPostgres(ctx context.Context, pool *pgxpool.Pool, schema string) (*Postgres, error) {
	if schema == "" {
		schema = DefaultSchema
	}
	if !schemaName().MatchString(schema) {
		return nil, fmt.Errorf("metering: %q is not the name of a schema", schema)
	}
	p := &Postgres{pool: pool, schema: schema, ids: map[placement]int64{}, days: map[int64]bool{}}
	p.insert, p.read = p.statements()
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	if err := pgx.BeginFunc(ctx, pool, p.install); err != nil {
		return nil, fmt.Errorf("prepare the store of samples in schema %s: %w", schema, err)
	}
	return p, nil
}

// statements are the two that are long.
func (p *Postgres) statements() (insert, read string) {
	var arrays, names []string
	for i := range len(columns) + 2 { // placement, window, then the columns; $1 is the transaction's number
		arrays = append(arrays, "$"+strconv.Itoa(i+1)+"::bigint[]")
		names = append(names, "c"+strconv.Itoa(i))
	}
	list := strings.Join(columns, ", ")
	insert = "INSERT INTO " + p.schema + ".samples (placement, window_unix_s, " + list + ", batch) SELECT " + strings.Join(names, ", ") +
		", pg_current_xact_id()::text::bigint FROM unnest(" + strings.Join(arrays, ", ") + ") AS u(" + strings.Join(names, ", ") + ") ON CONFLICT DO NOTHING"
	read = "SELECT p.tenant, p.node, p.server, p.epoch, s.window_unix_s, s." + strings.Join(columns, ", s.") +
		" FROM " + p.schema + ".placements p JOIN " + p.schema + ".samples s ON s.placement = p.id WHERE "
	return insert, read
}

// install makes what is missing. Panels that start together wait for each other.
func (p *Postgres) install(tx pgx.Tx) error {
	ctx := context.Background()
	statements := []string{
		"SELECT pg_advisory_xact_lock(hashtextextended('" + p.schema + ":install', 0))",
		"CREATE SCHEMA IF NOT EXISTS " + p.schema,
		"CREATE TABLE IF NOT EXISTS " + p.schema + `.placements (
			id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, server text NOT NULL, epoch bigint NOT NULL, tenant text NOT NULL, node text NOT NULL, UNIQUE (server, epoch))`,
		"CREATE INDEX IF NOT EXISTS placements_tenant ON " + p.schema + ".placements (tenant)",
		"CREATE TABLE IF NOT EXISTS " + p.schema + ".samples (placement bigint NOT NULL, window_unix_s bigint NOT NULL, batch bigint NOT NULL, " +
			strings.Join(columns, " bigint NOT NULL, ") + " bigint NOT NULL, PRIMARY KEY (placement, window_unix_s)) PARTITION BY RANGE (window_unix_s)",
		"CREATE INDEX IF NOT EXISTS samples_batch ON " + p.schema + ".samples (batch)",
		// When each batch was stored, so that a bill can be drawn up again from what was known at a
		// time. A batch is numbered by its transaction.
		"CREATE TABLE IF NOT EXISTS " + p.schema + ".batches (batch bigint PRIMARY KEY, node text NOT NULL, stored_unix_s bigint NOT NULL)",
		"CREATE TABLE IF NOT EXISTS " + p.schema + `.streams (
			node text PRIMARY KEY, spool text NOT NULL, acked_seq bigint NOT NULL, delivered_unix_s bigint NOT NULL, heard_unix_s bigint NOT NULL)`,
	}
	for _, s := range statements {
		if _, err := tx.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// begin counts a call in, unless the store is closed.
func (p *Postgres) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return ErrClosed
	}
	p.work.Add(1)
	return nil
}

// Take implements Store.
func (p *Postgres) Take(ctx context.Context, d Delivery) (int64, error) {
	if err := p.begin(); err != nil {
		return 0, err
	}
	defer p.work.Done()
	if err := p.ensureDays(ctx, d.Rows); err != nil {
		return 0, fmt.Errorf("store samples of node %s: %w", d.Node, err)
	}
	var acked int64
	var made map[placement]int64
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) (err error) {
		acked, made, err = p.take(ctx, tx, &d)
		return err
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23514" { // no partition: it was dropped since it was looked for
		p.forget()
	}
	if err != nil {
		return 0, fmt.Errorf("store samples of node %s: %w", d.Node, err)
	}
	p.remember(made)
	return acked, nil
}

func (p *Postgres) take(ctx context.Context, tx pgx.Tx, d *Delivery) (acked int64, made map[placement]int64, err error) {
	// Durable when it is acknowledged, whatever the server's default is.
	if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on"); err != nil {
		return 0, nil, err
	}
	var spool string
	var standing int64
	// The row is made first, so that two deliveries of a node that come at once wait for each other.
	err = tx.QueryRow(ctx, `INSERT INTO `+p.schema+`.streams AS s (node, spool, acked_seq, delivered_unix_s, heard_unix_s) VALUES ($1, $2, 0, 0, 0)
		ON CONFLICT (node) DO UPDATE SET node = s.node RETURNING spool, acked_seq`, d.Node, d.Spool).Scan(&spool, &standing)
	if err != nil {
		return 0, nil, err
	}
	if spool != d.Spool {
		standing = 0
	}
	rows, acked := fresh(d, standing)
	now := time.Now().Unix()
	if len(rows) > 0 {
		if made, err = p.store(ctx, tx, rows); err != nil {
			return 0, nil, err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO "+p.schema+".batches (batch, node, stored_unix_s) VALUES (pg_current_xact_id()::text::bigint, $1, $2)", d.Node, now); err != nil {
			return 0, nil, err
		}
	}
	if stale(d, acked) {
		return acked, made, nil
	}
	_, err = tx.Exec(ctx, "UPDATE "+p.schema+".streams SET spool = $2, acked_seq = $3, delivered_unix_s = $4, heard_unix_s = $5 WHERE node = $1",
		d.Node, d.Spool, acked, d.DeliveredUnixS, now)
	return acked, made, err
}

func (p *Postgres) store(ctx context.Context, tx pgx.Tx, rows []Row) (made map[placement]int64, err error) {
	ids, made, err := p.place(ctx, tx, rows)
	if err != nil {
		return nil, err
	}
	arrays := make([][]int64, len(columns)+2)
	for i := range arrays {
		arrays[i] = make([]int64, len(rows))
	}
	for i := range rows {
		s := &rows[i].Sample
		arrays[0][i], arrays[1][i] = ids[i], s.WindowUnixS
		for c, v := range values(s) {
			arrays[c+2][i] = v
		}
	}
	args := make([]any, len(arrays))
	for i := range arrays {
		args[i] = arrays[i]
	}
	_, err = tx.Exec(ctx, p.insert, args...)
	return made, err
}

// place returns the number of each row's placement, and those that were not remembered: they may be
// once the transaction is committed.
func (p *Postgres) place(ctx context.Context, tx pgx.Tx, rows []Row) (ids []int64, made map[placement]int64, err error) {
	ids = make([]int64, len(rows))
	missing := map[placement]*Row{}
	p.mu.Lock()
	for i := range rows {
		key := placement{rows[i].Sample.ServerID, rows[i].Sample.PlacementEpoch}
		if ids[i] = p.ids[key]; ids[i] == 0 {
			missing[key] = &rows[i]
		}
	}
	p.mu.Unlock()
	if len(missing) == 0 {
		return ids, nil, nil
	}
	var servers, tenants, nodes []string
	var epochs []int64
	for key, r := range missing {
		servers, tenants, nodes, epochs = append(servers, key.server), append(tenants, r.Tenant), append(nodes, r.Node), append(epochs, key.epoch)
	}
	// In one order, so that two transactions never wait for each other.
	if _, err := tx.Exec(ctx, `INSERT INTO `+p.schema+`.placements (server, epoch, tenant, node)
		SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) AS u(server, epoch, tenant, node) ORDER BY server, epoch ON CONFLICT DO NOTHING`,
		servers, epochs, tenants, nodes); err != nil {
		return nil, nil, err
	}
	found, err := tx.Query(ctx, `SELECT p.id, p.server, p.epoch FROM `+p.schema+`.placements p
		JOIN unnest($1::text[], $2::bigint[]) AS u(server, epoch) ON u.server = p.server AND u.epoch = p.epoch`, servers, epochs)
	if err != nil {
		return nil, nil, err
	}
	made = map[placement]int64{}
	var id int64
	var key placement
	if _, err := pgx.ForEachRow(found, []any{&id, &key.server, &key.epoch}, func() error { made[key] = id; return nil }); err != nil {
		return nil, nil, err
	}
	for i := range rows {
		if ids[i] == 0 {
			ids[i] = made[placement{rows[i].Sample.ServerID, rows[i].Sample.PlacementEpoch}]
		}
	}
	return ids, made, nil
}

func (p *Postgres) remember(made map[placement]int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ids)+len(made) > maxPlacements {
		p.ids = map[placement]int64{}
	}
	for key, id := range made {
		p.ids[key] = id
	}
}

func (p *Postgres) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.days = map[int64]bool{}
}

// ensureDays makes the partitions that the rows need, and those of the next days, so that midnight
// makes nobody wait.
func (p *Postgres) ensureDays(ctx context.Context, rows []Row) error {
	need := map[int64]bool{}
	p.mu.Lock()
	for i := range rows {
		day := dayOf(time.Unix(rows[i].Sample.WindowUnixS, 0))
		if !p.days[day] {
			need[day] = true
		}
	}
	p.mu.Unlock()
	if len(need) == 0 {
		return nil
	}
	today := dayOf(time.Now())
	for ahead := range int64(partitionAhead) {
		need[today+ahead*dayS] = true
	}
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", p.schema+":partition"); err != nil {
			return err
		}
		for day := range need {
			if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s.%s PARTITION OF %s.samples FOR VALUES FROM (%d) TO (%d)",
				p.schema, partition(day), p.schema, day, day+dayS)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for day := range need {
		p.days[day] = true
	}
	return nil
}

// partition is the name of a day's table.
func partition(day int64) string { return "samples_" + time.Unix(day, 0).UTC().Format("20060102") }

// Read implements Store.
func (p *Postgres) Read(ctx context.Context, r Range, fn func(Row) error) error {
	if err := p.begin(); err != nil {
		return err
	}
	defer p.work.Done()
	column, who := r.owner()
	rows, err := p.pool.Query(ctx, p.read+"p."+column+` = $1 AND s.window_unix_s >= $2 AND s.window_unix_s < $3 ORDER BY p.server COLLATE "C", s.window_unix_s, p.epoch`, who, r.FromUnixS, r.ToUnixS)
	if err != nil {
		return fmt.Errorf("read samples: %w", err)
	}
	defer rows.Close()
	return each(rows, fn)
}

// Arrived implements Store. A mark is a transaction's number; every transaction below the oldest that
// still runs is over, so nothing below it can appear any more.
func (p *Postgres) Arrived(ctx context.Context, after Mark, limit int) (hours []Hour, next Mark, err error) {
	if err := p.begin(); err != nil {
		return nil, after, err
	}
	defer p.work.Done()
	next = after
	err = pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var upTo *int64
		err := tx.QueryRow(ctx, `SELECT MAX(batch) FROM (SELECT batch FROM `+p.schema+`.samples
			WHERE batch > $1 AND batch < pg_snapshot_xmin(pg_current_snapshot())::text::bigint ORDER BY batch LIMIT $2) q`, int64(after), limit).Scan(&upTo)
		if err != nil || upTo == nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT DISTINCT p.server, p.epoch, s.window_unix_s - s.window_unix_s % 3600
			FROM `+p.schema+`.samples s JOIN `+p.schema+`.placements p ON p.id = s.placement WHERE s.batch > $1 AND s.batch <= $2`, int64(after), *upTo)
		if err != nil {
			return err
		}
		var h Hour
		_, err = pgx.ForEachRow(rows, []any{&h.Server, &h.Epoch, &h.HourUnixS}, func() error { hours = append(hours, h); return nil })
		next = Mark(*upTo)
		return err
	})
	if err != nil {
		return nil, after, fmt.Errorf("look for samples that arrived: %w", err)
	}
	return hours, next, nil
}

// Nodes implements Store.
func (p *Postgres) Nodes(ctx context.Context) ([]Progress, error) {
	if err := p.begin(); err != nil {
		return nil, err
	}
	defer p.work.Done()
	rows, err := p.pool.Query(ctx, "SELECT node, delivered_unix_s, heard_unix_s FROM "+p.schema+`.streams ORDER BY node COLLATE "C"`)
	if err != nil {
		return nil, fmt.Errorf("read how far nodes have delivered: %w", err)
	}
	var all []Progress
	var one Progress
	var heard int64
	_, err = pgx.ForEachRow(rows, []any{&one.Node, &one.DeliveredUnixS, &heard}, func() error {
		one.HeardAt = time.Unix(heard, 0).UTC()
		all = append(all, one)
		return nil
	})
	return all, err
}

// Prune implements Store: it drops the partitions of the days that are over. Who reads one of them is
// waited for, but not for long: the next night tries again.
func (p *Postgres) Prune(ctx context.Context, before time.Time) (removed int64, err error) {
	if err := p.begin(); err != nil {
		return 0, err
	}
	defer p.work.Done()
	limit := partition(dayOf(before))
	rows, err := p.pool.Query(ctx, `SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = $1::regclass AND c.relname < $2 AND c.relname ~ '^samples_[0-9]{8}$' ORDER BY c.relname`, p.schema+".samples", limit)
	if err != nil {
		return 0, fmt.Errorf("find old samples: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, fmt.Errorf("find old samples: %w", err)
	}
	p.forget()
	for _, name := range names {
		n, err := p.drop(ctx, name)
		if err != nil {
			return removed, fmt.Errorf("drop samples of %s: %w", name, err)
		}
		removed += n
	}
	if len(names) > 0 {
		_, err = p.pool.Exec(ctx, "DELETE FROM "+p.schema+".batches WHERE batch < (SELECT MIN(batch) FROM "+p.schema+".samples)")
	}
	return removed, err
}

// Count implements Store.
func (p *Postgres) Count(ctx context.Context, tenant string) (n int64, err error) {
	if err := p.begin(); err != nil {
		return 0, err
	}
	defer p.work.Done()
	err = p.pool.QueryRow(ctx, "SELECT COUNT(*) FROM "+p.schema+".placements p JOIN "+p.schema+".samples s ON s.placement = p.id WHERE p.tenant = $1", tenant).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the samples of a tenant: %w", err)
	}
	return n, nil
}

// Forget implements Store. The numbers of placements are never used again, so one that another panel remembers can
// bring back samples without an owner, which nothing reads and which go with their day.
func (p *Postgres) Forget(ctx context.Context, tenant string) (removed int64, err error) {
	if err := p.begin(); err != nil {
		return 0, err
	}
	defer p.work.Done()
	err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "DELETE FROM "+p.schema+".samples s USING "+p.schema+".placements p WHERE p.id = s.placement AND p.tenant = $1", tenant)
		if err != nil {
			return err
		}
		removed = tag.RowsAffected()
		_, err = tx.Exec(ctx, "DELETE FROM "+p.schema+".placements WHERE tenant = $1", tenant)
		return err
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ids = map[placement]int64{}
	if err != nil {
		return 0, fmt.Errorf("forget the samples of a tenant: %w", err)
	}
	return removed, nil
}

func (p *Postgres) drop(ctx context.Context, name string) (n int64, err error) {
	err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", pruneWait.Milliseconds())); err != nil {
			return err
		}
		table := p.schema + "." + name
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM "+table).Scan(&n); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DROP TABLE "+table)
		return err
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" { // another panel was quicker
		return 0, nil
	}
	return n, err
}

// Close implements Store. The pool is its owner's to close.
func (p *Postgres) Close() error {
	p.mu.Lock()
	p.shut = true
	p.mu.Unlock()
	p.work.Wait()
	return nil
}
