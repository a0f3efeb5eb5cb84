package metering

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// Row is one sample that counts, with whom it belongs to. Sample.Seq is its place in the node's spool
// on the way in, and 0 on the way out.
type Row struct {
	Tenant string
	Node   string
	Sample wire.Sample
}

// Delivery is what one node sent at once.
type Delivery struct {
	Node  string
	Spool string // identity of the node's spool; a new one begins at 0
	// From and To are the sequences that the delivery stands for, including those of samples that do
	// not count; both 0: it only says how far the node has delivered.
	From, To       int64
	DeliveredUnixS int64
	Rows           []Row // those that count, in order of Seq
}

// Range says which samples to read: of one server, or of all servers of a tenant. FromUnixS and
// ToUnixS bound the begin of windows, [from, to).
type Range struct {
	Server    string
	Tenant    string
	FromUnixS int64
	ToUnixS   int64
}

// Hour is an hour of a server of which samples have arrived.
type Hour struct {
	Server    string
	Epoch     int64
	HourUnixS int64
}

// Mark is a place in the order in which samples arrived. 0 is before everything. It belongs to one
// store: a copy that was made by other means than the database's own backup begins at 0 again.
type Mark int64

// Progress is how far a node has delivered.
type Progress struct {
	Node           string
	DeliveredUnixS int64     // every sample of every window that ended at or before it is here
	HeardAt        time.Time // of the last delivery
}

// ErrClosed is what every call gets after Close.
var ErrClosed = errors.New("the store of samples is closed")

// Store keeps samples. Its methods are safe for concurrent use, also from several panels where the
// database allows that. The natural key of a sample is (server, placement epoch, window): the first
// that is stored stays, whatever comes under that key later.
type Store interface {
	// Take stores a delivery in one transaction and returns the highest sequence of that spool up to
	// which everything is durable. A delivery that begins beyond it stores nothing; what of it was
	// taken before is passed over. It returns only once the transaction survives a power cut.
	Take(ctx context.Context, d Delivery) (ackedSeq int64, err error)
	// Read calls fn for each sample of the range, ordered by server, window and epoch, until fn
	// returns an error, which it returns.
	Read(ctx context.Context, r Range, fn func(Row) error) error
	// Arrived returns server hours with samples that were stored after a mark, in no order, each once,
	// and the mark to go on from. limit bounds the samples that are looked at, to within one delivery.
	// Nothing that is stored is ever passed over, also when several panels store at once: what a
	// transaction has stored is told once no older one runs. An hour may be told again. No hours and
	// the same mark: there is nothing new.
	Arrived(ctx context.Context, after Mark, limit int) ([]Hour, Mark, error)
	// Nodes returns how far every node that ever delivered has come, ordered by id.
	Nodes(ctx context.Context) ([]Progress, error)
	// Prune removes the samples of whole UTC days before the one that holds before, and returns how
	// many there were, at least approximately.
	Prune(ctx context.Context, before time.Time) (removed int64, err error)
	// Count returns how many samples there are of a tenant.
	Count(ctx context.Context, tenant string) (int64, error)
	// Forget removes everything of a tenant and returns how many samples there were, at least approximately. What is
	// delivered of it later is stored again.
	Forget(ctx context.Context, tenant string) (removed int64, err error)
	// Close waits for what runs. It may be called twice.
	Close() error
}

const dayS = 24 * 60 * 60

// dayOf is the begin of the UTC day that holds t.
func dayOf(t time.Time) int64 {
	u := t.Unix()
	return u - ((u%dayS)+dayS)%dayS
}

// columns of the table samples beside its key (placement, window_unix_s) and batch, in the order of
// values and scan.
var columns = []string{
	"running_ms", "measured_ms", "cpu_used_ns", "cpu_reserved_millicore_ms", "memory_used_mib_ms", "memory_reserved_mib_ms",
	"disk_byte_ms", "net_in_bytes", "net_out_bytes", "memory_last_bytes", "disk_last_bytes",
}

// values of a sample in the order of columns.
func values(s *wire.Sample) []int64 {
	return []int64{s.RunningMS, s.MeasuredMS, s.CPUUsedNS, s.CPUReservedMillicoreMS, s.MemoryUsedMiBMS, s.MemoryReservedMiBMS,
		s.DiskByteMS, s.NetInBytes, s.NetOutBytes, s.MemoryLastBytes, s.DiskLastBytes}
}

// places of a sample in the order of columns.
func places(s *wire.Sample) []any {
	return []any{&s.RunningMS, &s.MeasuredMS, &s.CPUUsedNS, &s.CPUReservedMillicoreMS, &s.MemoryUsedMiBMS, &s.MemoryReservedMiBMS,
		&s.DiskByteMS, &s.NetInBytes, &s.NetOutBytes, &s.MemoryLastBytes, &s.DiskLastBytes}
}

// placement names a server on a node for as long as that lasts. Stores keep it once and refer to it
// by number, because it would be most of a sample's size.
type placement struct {
	server string
	epoch  int64
}

// maxPlacements bounds what a store remembers of placements; beyond it, it begins anew.
const maxPlacements = 200_000

// owner is the column of placements that a range goes by, and its value.
func (r Range) owner() (column, id string) {
	if r.Tenant != "" {
		return "tenant", r.Tenant
	}
	return "server", r.Server
}

// cursor is what the rows of both databases have.
type cursor interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
}

// each calls fn for the rows of a Read: tenant, node, server, epoch, window, then columns.
func each(rows cursor, fn func(Row) error) error {
	for rows.Next() {
		var row Row
		s := &row.Sample
		err := rows.Scan(append([]any{&row.Tenant, &row.Node, &s.ServerID, &s.PlacementEpoch, &s.WindowUnixS}, places(s)...)...)
		if err != nil {
			return fmt.Errorf("read samples: %w", err)
		}
		if err := fn(row); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read samples: %w", err)
	}
	return nil
}

// stale says that what the delivery promises is not to be noted: there is a hole before it, or the
// spool stands beyond it already.
func stale(d *Delivery, acked int64) bool { return d.To != 0 && d.To != acked }

// fresh leaves out of a delivery what was taken before, and says where the spool stands after it.
func fresh(d *Delivery, standing int64) (rows []Row, acked int64) {
	if d.To == 0 || d.From > standing+1 || d.To <= standing {
		return nil, standing
	}
	rows = d.Rows
	for len(rows) > 0 && rows[0].Sample.Seq <= standing {
		rows = rows[1:]
	}
	return rows, d.To
}
