package metering

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/collections/postgres/postgrestest"
	"github.com/mambahost/mamba/wings/wire"
)

// medium is where a store keeps things: it can be opened again, by several at once if the store may.
type medium struct {
	open    func() (Store, error)
	several bool
}

// media are the implementations. Every case of the suite runs on each.
func media(t testing.TB) map[string]func(t testing.TB) medium {
	return map[string]func(t testing.TB) medium{
		"sqlite": func(t testing.TB) medium {
			path := filepath.Join(t.TempDir(), "samples.db")
			return medium{open: func() (Store, error) { return OpenSQLite(path) }}
		},
		"postgres": func(t testing.TB) medium {
			pool := newPool(t, postgrestest.URL(t))
			return medium{several: true, open: func() (Store, error) { return OpenPostgres(context.Background(), pool, "") }}
		},
	}
}

func newPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// suite is one case on one store.
type suite struct {
	medium
	Store
	t   *testing.T
	now int64 // a window boundary, about now
}

func TestStores(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		run  func(s *suite)
	}{
		{"what is stored comes back with every value", (*suite).roundTrip},
		{"a sample counts once, and the first stays", (*suite).duplicates},
		{"what comes after a hole is not stored", (*suite).holes},
		{"a gap is acknowledged without samples", (*suite).gaps},
		{"a new spool begins anew and its old samples stay one", (*suite).newSpool},
		{"how far a node has delivered is kept and never promised across a hole", (*suite).delivered},
		{"ranges are half open, of one server or one tenant", (*suite).ranges},
		{"a reader that gives up ends the read", (*suite).readerStops},
		{"what arrived is told once, after its mark", (*suite).arrived},
		{"what arrives while others store is never passed over", (*suite).arrivedUnderLoad},
		{"pruning removes whole days and nothing else", (*suite).prune},
		{"what is forgotten of a tenant is all of it and nothing else", (*suite).forget},
		{"samples of pruned days can be stored again", (*suite).pruneAndStore},
		{"a thousand deliveries at once are all stored", (*suite).concurrent},
		{"deliveries of one node at once are in order", (*suite).oneNodeAtOnce},
		{"opening again finds everything", (*suite).reopen},
		{"opening at the same time makes one schema", (*suite).openTogether},
		{"nothing is asked of a closed store", (*suite).closed},
		{"a caller that gave up is not waited for", (*suite).cancelled},
		{"windows on both sides of midnight and of today", (*suite).midnight},
	}
	for name, make := range media(t) {
		for _, c := range cases {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				m := make(t)
				s := &suite{medium: m, t: t, now: time.Now().Unix() / 30 * 30}
				s.Store = s.another()
				c.run(s)
			})
		}
	}
}

// another opens the same medium, and closes it with the case.
func (s *suite) another() Store {
	s.t.Helper()
	st, err := s.medium.open()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := st.Close(); err != nil {
			s.t.Errorf("close: %v", err)
		}
	})
	return st
}

func id(kind string, n int) string { return fmt.Sprintf("%s%0*d", kind, 15-len(kind), n) }

// row is a recognisable sample of server n.
func row(n int, epoch, seq, window int64) Row {
	return Row{Tenant: id("tenant", n/10), Node: id("node", 1), Sample: wire.Sample{
		Seq: seq, ServerID: id("server", n), PlacementEpoch: epoch, WindowUnixS: window, RunningMS: 30_000, MeasuredMS: 29_000 + seq%1000,
		CPUUsedNS: seq * 1_000_003, CPUReservedMillicoreMS: 60_000_000, MemoryUsedMiBMS: 1 << 40, MemoryReservedMiBMS: 1<<40 + 1,
		DiskByteMS: 1<<62 + seq, NetInBytes: 7, NetOutBytes: 1 << 50, MemoryLastBytes: 1 << 33, DiskLastBytes: 1 << 47,
	}}
}

// deliver sends rows as node 1, whose sequences are those of the rows.
func deliver(rows ...Row) Delivery {
	d := Delivery{Node: id("node", 1), Spool: "spool-1", Rows: rows}
	if len(rows) > 0 {
		d.From, d.To = rows[0].Sample.Seq, rows[len(rows)-1].Sample.Seq
	}
	return d
}

func (s *suite) take(d Delivery, want int64) {
	s.t.Helper()
	acked, err := s.Take(context.Background(), d)
	if err != nil || acked != want {
		s.t.Fatalf("acknowledged up to %d, %v; want %d", acked, err, want)
	}
}

func read(t testing.TB, st Store, r Range) []Row {
	t.Helper()
	var all []Row
	if err := st.Read(context.Background(), r, func(r Row) error { all = append(all, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func (s *suite) all(server int) []Row {
	s.t.Helper()
	return read(s.t, s.Store, Range{Server: id("server", server), ToUnixS: 1 << 40})
}

func (s *suite) roundTrip() {
	var sent []Row
	for w := range int64(7) {
		sent = append(sent, row(3, 2, w+1, s.now+30*w))
	}
	s.take(deliver(sent...), 7)
	got := s.all(3)
	for i := range sent {
		sent[i].Sample.Seq = 0
	}
	if !slices.Equal(got, sent) {
		s.t.Errorf("got  %+v\nwant %+v", got, sent)
	}
}

func (s *suite) duplicates() {
	first := []Row{row(1, 1, 1, s.now), row(1, 1, 2, s.now+30)}
	s.take(deliver(first...), 2)
	s.take(deliver(first...), 2)
	s.take(deliver(row(1, 1, 2, s.now+30), row(1, 1, 3, s.now+60)), 3) // overlaps
	again := row(1, 1, 4, s.now)
	again.Sample.CPUUsedNS = 5 // another word on a window that was told
	s.take(deliver(again), 4)
	other := row(1, 2, 5, s.now) // another epoch is another sample
	s.take(deliver(other), 5)
	got := s.all(1)
	if len(got) != 4 || got[0].Sample.CPUUsedNS != first[0].Sample.CPUUsedNS || got[1].Sample.PlacementEpoch != 2 {
		s.t.Errorf("%+v", got)
	}
}

func (s *suite) holes() {
	s.take(deliver(row(1, 1, 1, s.now)), 1)
	s.take(deliver(row(1, 1, 5, s.now+30)), 1)
	if got := s.all(1); len(got) != 1 {
		s.t.Errorf("%+v", got)
	}
	s.take(deliver(row(1, 1, 2, s.now+60)), 2)
}

func (s *suite) gaps() {
	d := deliver(row(1, 1, 101, s.now))
	d.From = 1 // 1 to 100 are gone
	s.take(d, 101)
	d = Delivery{Node: id("node", 1), Spool: "spool-1", From: 102, To: 140} // samples of others: none counts
	s.take(d, 140)
	if got := s.all(1); len(got) != 1 {
		s.t.Errorf("%+v", got)
	}
}

func (s *suite) newSpool() {
	s.take(deliver(row(1, 1, 1, s.now), row(1, 1, 2, s.now+30)), 2)
	d := deliver(row(1, 1, 1, s.now+30), row(1, 1, 2, s.now+60))
	d.Spool = "spool-2"
	s.take(d, 2)
	if got := s.all(1); len(got) != 3 {
		s.t.Errorf("%+v", got)
	}
	d = deliver(row(1, 1, 9, s.now+300))
	d.Spool = "spool-3"
	s.take(d, 0)
}

func (s *suite) delivered() {
	d := deliver(row(1, 1, 1, s.now))
	d.DeliveredUnixS = s.now + 30
	s.take(d, 1)
	hole := deliver(row(1, 1, 9, s.now+90))
	hole.DeliveredUnixS = s.now + 120
	s.take(hole, 1)
	old := d
	s.take(Delivery{Node: id("node", 1), Spool: "spool-1", DeliveredUnixS: s.now + 60}, 1) // nothing but how far
	s.take(deliver(row(1, 1, 2, s.now+30)), 2)                                             // says nothing of it: 0
	s.take(old, 2)                                                                         // comes again
	other := Delivery{Node: id("node", 0), Spool: "x", DeliveredUnixS: 90}
	s.take(other, 0)
	got, err := s.Nodes(context.Background())
	if err != nil || len(got) != 2 || got[0].Node != other.Node || got[0].DeliveredUnixS != 90 || got[1].DeliveredUnixS != 0 {
		s.t.Errorf("%+v, %v", got, err)
	}
	for _, p := range got {
		if time.Since(p.HeardAt).Abs() > time.Minute {
			s.t.Errorf("heard of %s at %v", p.Node, p.HeardAt)
		}
	}
}

func (s *suite) ranges() {
	var rows []Row
	for i := range 40 { // servers 0 to 19 of tenants 0 and 1, two windows each
		rows = append(rows, row(i/2, 1, int64(i+1), s.now+int64(i%2)*30))
	}
	s.take(deliver(rows...), 40)
	count := func(what string, r Range, want int) {
		s.t.Helper()
		got := read(s.t, s.Store, r)
		if len(got) != want {
			s.t.Errorf("%s: %d rows, want %d", what, len(got), want)
		}
		for i, g := range got {
			if r.Tenant != "" && g.Tenant != r.Tenant || r.Server != "" && g.Sample.ServerID != r.Server {
				s.t.Errorf("%s: a row of %s, %s", what, g.Tenant, g.Sample.ServerID)
			}
			if i > 0 && strings.Compare(got[i-1].Sample.ServerID, g.Sample.ServerID) > 0 {
				s.t.Errorf("%s: out of order", what)
			}
		}
	}
	count("both windows", Range{Server: id("server", 5), FromUnixS: s.now, ToUnixS: s.now + 60}, 2)
	count("the first", Range{Server: id("server", 5), FromUnixS: s.now, ToUnixS: s.now + 30}, 1)
	count("the second", Range{Server: id("server", 5), FromUnixS: s.now + 1, ToUnixS: s.now + 31}, 1)
	count("none", Range{Server: id("server", 5), FromUnixS: s.now + 60, ToUnixS: s.now + 600}, 0)
	count("a tenant", Range{Tenant: id("tenant", 1), FromUnixS: s.now, ToUnixS: s.now + 60}, 20)
	count("no server of anybody", Range{Server: "nobody", ToUnixS: 1 << 40}, 0)
	count("a server that is a statement", Range{Server: "' OR 1=1 --", ToUnixS: 1 << 40}, 0)
}

func (s *suite) readerStops() {
	s.take(deliver(row(1, 1, 1, s.now), row(1, 1, 2, s.now+30)), 2)
	stop, seen := errors.New("enough"), 0
	err := s.Read(context.Background(), Range{Server: id("server", 1), ToUnixS: 1 << 40}, func(Row) error { seen++; return stop })
	if !errors.Is(err, stop) || seen != 1 {
		s.t.Errorf("%v after %d", err, seen)
	}
	if len(s.all(1)) != 2 {
		s.t.Error("the store is not what it was")
	}
}

// tell asks for what arrived until there is no more.
func tell(t testing.TB, st Store, after Mark, limit int) (map[Hour]int, Mark) {
	t.Helper()
	all := map[Hour]int{}
	for {
		hours, next, err := st.Arrived(context.Background(), after, limit)
		if err != nil {
			t.Fatal(err)
		}
		if next == after {
			if len(hours) != 0 {
				t.Errorf("%d hours without a new mark", len(hours))
			}
			return all, after
		}
		if next < after {
			t.Fatalf("the mark falls from %d to %d", after, next)
		}
		after = next
		for _, h := range hours {
			all[h]++
		}
	}
}

// tellUntil asks until so many hours were told: PostgreSQL tells what was stored once no older
// transaction runs, of whatever database of the server.
func (s *suite) tellUntil(after Mark, limit, hours int) (map[Hour]int, Mark) {
	s.t.Helper()
	all := map[Hour]int{}
	for end := time.Now().Add(30 * time.Second); ; {
		var got map[Hour]int
		got, after = tell(s.t, s.Store, after, limit)
		for h, n := range got {
			all[h] += n
		}
		if len(all) >= hours || time.Now().After(end) {
			return all, after
		}
	}
}

func (s *suite) arrived() {
	hour := s.now / 3600 * 3600
	s.take(deliver(row(1, 1, 1, hour), row(1, 1, 2, hour+30), row(2, 3, 3, hour), row(1, 1, 4, hour+3600)), 4)
	got, mark := s.tellUntil(0, 1000, 3)
	want := map[Hour]int{{id("server", 1), 1, hour}: 1, {id("server", 2), 3, hour}: 1, {id("server", 1), 1, hour + 3600}: 1}
	if !maps.Equal(got, want) {
		s.t.Errorf("%v, want %v", got, want)
	}
	if got, _ := tell(s.t, s.Store, mark, 1000); len(got) != 0 {
		s.t.Errorf("%v again", got)
	}
	s.take(deliver(row(1, 1, 1, hour)), 4)         // nothing new
	s.take(deliver(row(1, 1, 5, hour-3600*30)), 5) // late
	got, _ = s.tellUntil(mark, 1, 1)
	if want := (map[Hour]int{{id("server", 1), 1, hour - 3600*30}: 1}); !maps.Equal(got, want) {
		s.t.Errorf("%v, want %v", got, want)
	}
	if got, _ := s.tellUntil(0, 1, 4); len(got) != 4 {
		s.t.Errorf("one at a time: %v", got)
	}
}

func (s *suite) arrivedUnderLoad() {
	const nodes, deliveries = 8, 30
	hour := s.now / 3600 * 3600
	var wg sync.WaitGroup
	for n := range nodes {
		wg.Go(func() {
			for i := range int64(deliveries) {
				d := deliver(row(n, i+1, i+1, hour))
				d.Node = id("node", n)
				if acked, err := s.Take(context.Background(), d); err != nil || acked != i+1 {
					s.t.Errorf("%d, %v", acked, err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	seen, mark := map[Hour]int{}, Mark(0)
	for over := false; !over; {
		want := 0
		select {
		case <-done:
			over, want = true, nodes*deliveries-len(seen) // and once more
		default:
		}
		var got map[Hour]int
		got, mark = s.tellUntil(mark, 7, want)
		for h, n := range got {
			seen[h] += n
		}
	}
	if len(seen) != nodes*deliveries {
		s.t.Errorf("%d of %d were told", len(seen), nodes*deliveries)
	}
}

func (s *suite) prune() {
	day := dayOf(time.Unix(s.now, 0))
	var rows []Row
	for d := range int64(10) { // the last window of the day before, and the first of the day
		rows = append(rows, row(1, 1, 2*d+1, day-d*dayS-30), row(2, 1, 2*d+2, day-d*dayS))
	}
	s.take(deliver(rows...), 20)
	before := time.Unix(day-7*dayS, 0).Add(5 * time.Hour)
	removed, err := s.Prune(context.Background(), before)
	if err != nil || removed != 5 {
		s.t.Errorf("removed %d, %v", removed, err)
	}
	for server, want := range map[int]int{1: 7, 2: 8} {
		got := s.all(server)
		if len(got) != want || got[0].Sample.WindowUnixS < dayOf(before) {
			s.t.Errorf("server %d has %d left, the first of %v", server, len(got), time.Unix(got[0].Sample.WindowUnixS, 0))
		}
	}
	if removed, err := s.Prune(context.Background(), before); err != nil || removed != 0 {
		s.t.Errorf("removed %d again, %v", removed, err)
	}
	if got, _ := s.tellUntil(0, 1000, 15); len(got) != 15 {
		s.t.Errorf("%d hours are told", len(got))
	}
}

func (s *suite) forget() {
	take := func(spool string, servers ...int) {
		s.t.Helper()
		d := Delivery{Node: id("node", 1), Spool: spool, From: 1, To: int64(len(servers))}
		for i, n := range servers {
			d.Rows = append(d.Rows, row(n, 1, int64(i+1), s.now-int64(i)*30))
		}
		if acked, err := s.Take(s.t.Context(), d); err != nil || acked != d.To {
			s.t.Fatal(acked, err)
		}
	}
	count := func(tenant string) (n int) {
		s.t.Helper()
		if err := s.Read(s.t.Context(), Range{Tenant: tenant, FromUnixS: 0, ToUnixS: s.now + 3600}, func(Row) error { n++; return nil }); err != nil {
			s.t.Fatal(err)
		}
		return n
	}
	a, b := id("tenant", 1), id("tenant", 2)
	take("one", 10, 10, 11, 20)
	if n, err := s.Count(s.t.Context(), a); err != nil || n != 3 {
		s.t.Errorf("%d samples are counted: %v", n, err)
	}
	removed, err := s.Forget(s.t.Context(), a)
	if err != nil || removed != 3 || count(a) != 0 || count(b) != 1 {
		s.t.Fatalf("%v: %d removed, %d left, %d of the other", err, removed, count(a), count(b))
	}
	if removed, err = s.Forget(s.t.Context(), a); err != nil || removed != 0 {
		s.t.Errorf("twice: %d %v", removed, err)
	}
	take("two", 10) // what is remembered of its placement is gone, too
	if count(a) != 1 {
		s.t.Error("what came later is not there")
	}
}

func (s *suite) pruneAndStore() {
	day := dayOf(time.Unix(s.now, 0)) - 20*dayS
	s.take(deliver(row(1, 1, 1, day)), 1)
	_, mark := s.tellUntil(0, 10, 1)
	if n, err := s.Prune(context.Background(), time.Unix(s.now, 0)); err != nil || n != 1 {
		s.t.Fatal(n, err)
	}
	s.take(deliver(row(1, 1, 2, day), row(1, 1, 3, s.now)), 3)
	if got := s.all(1); len(got) != 2 {
		s.t.Errorf("%+v", got)
	}
	if got, _ := s.tellUntil(mark, 10, 2); len(got) != 2 {
		s.t.Errorf("after pruning %v are told: marks began again", got)
	}
}

func (s *suite) concurrent() {
	const nodes, each = 40, 25
	var wg sync.WaitGroup
	for n := range nodes {
		wg.Go(func() {
			for i := range int64(each) {
				d := deliver(row(n, 1, 2*i+1, s.now+60*i), row(n, 1, 2*i+2, s.now+60*i+30))
				d.Node = id("node", n)
				if acked, err := s.Take(context.Background(), d); err != nil || acked != 2*i+2 {
					s.t.Errorf("node %d: %d, %v", n, acked, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for n := range nodes {
		if got := s.all(n); len(got) != 2*each {
			s.t.Errorf("server %d has %d samples", n, len(got))
		}
	}
}

// A node whose request timed out sends again while the first is still being stored.
func (s *suite) oneNodeAtOnce() {
	other := s.Store
	if s.several {
		other = s.another()
	}
	var wg sync.WaitGroup
	for i := range int64(20) {
		d := deliver(row(1, 1, i+1, s.now+30*i))
		for _, st := range []Store{s.Store, other, s.Store} {
			wg.Go(func() {
				if acked, err := st.Take(context.Background(), d); err != nil || acked < i+1 {
					s.t.Errorf("%d, %v", acked, err)
				}
			})
		}
		wg.Wait()
	}
	if got := s.all(1); len(got) != 20 {
		s.t.Errorf("%d samples", len(got))
	}
}

func (s *suite) reopen() {
	s.take(deliver(row(1, 1, 1, s.now)), 1)
	if err := s.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.Store = s.another()
	s.take(deliver(row(1, 1, 1, s.now), row(1, 1, 2, s.now+30)), 2)
	if got := s.all(1); len(got) != 2 {
		s.t.Errorf("%+v", got)
	}
}

func (s *suite) openTogether() {
	if !s.several {
		return // one process has the file
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			st, err := s.medium.open()
			if err != nil {
				s.t.Error(err)
				return
			}
			_ = st.Close()
		})
	}
	wg.Wait()
	s.take(deliver(row(1, 1, 1, s.now)), 1)
}

func (s *suite) closed() {
	ctx := context.Background()
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.Take(ctx, deliver(row(1, 1, 1, s.now))); !errors.Is(err, ErrClosed) {
		s.t.Errorf("take: %v", err)
	}
	if _, err := s.Prune(ctx, time.Now()); !errors.Is(err, ErrClosed) {
		s.t.Errorf("prune: %v", err)
	}
}

func (s *suite) cancelled() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Take(ctx, deliver(row(1, 1, 1, s.now))); !errors.Is(err, context.Canceled) {
		s.t.Errorf("take: %v", err)
	}
	s.take(deliver(row(1, 1, 1, s.now)), 1)
}

func (s *suite) midnight() {
	day := dayOf(time.Unix(s.now, 0))
	var rows []Row
	for i, w := range []int64{day - 30, day, day + dayS, day + 2*dayS, day - 6*dayS, 0} {
		rows = append(rows, row(1, 1, int64(i+1), w))
	}
	s.take(deliver(rows...), 6)
	if got := s.all(1); len(got) != 6 || got[0].Sample.WindowUnixS != 0 {
		s.t.Errorf("%+v", got)
	}
}

// The model is a map by key and a sequence by node and spool. Whatever comes in whatever order, the
// store has what the model has.
func TestStoresAgainstModel(t *testing.T) {
	t.Parallel()
	for name, make := range media(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := make(t)
			st, err := m.open()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { st.Close() }()
			run := 0 // each run has its own servers and nodes
			rapid.Check(t, func(rt *rapid.T) {
				run++
				base := run * 100
				now := time.Now().Unix() / 30 * 30
				kept := map[string]Row{}
				var standing int64
				spool := 0
				check := func(rt *rapid.T) {
					var got []Row
					for n := range 3 {
						got = append(got, read(t, st, Range{Server: id("server", base+n), ToUnixS: 1 << 40})...)
					}
					if len(got) != len(kept) {
						rt.Fatalf("%d rows, want %d", len(got), len(kept))
					}
					for _, r := range got {
						if key := fmt.Sprint(r.Sample.ServerID, r.Sample.PlacementEpoch, r.Sample.WindowUnixS); kept[key] != r {
							rt.Fatalf("%+v, want %+v", r, kept[key])
						}
					}
				}
				defer check(rt)
				rt.Repeat(map[string]func(*rapid.T){
					"check": check,
					"take": func(rt *rapid.T) {
						from := standing + rapid.Int64Range(-3, 2).Draw(rt, "from") + 1
						from = max(from, 1)
						d := Delivery{Node: id("node", base), Spool: fmt.Sprint(spool), From: from}
						n := rapid.Int64Range(1, 6).Draw(rt, "n")
						for i := range n {
							r := row(base+rapid.IntRange(0, 2).Draw(rt, "server"), rapid.Int64Range(1, 2).Draw(rt, "epoch"), from+i, now-30*rapid.Int64Range(0, 5).Draw(rt, "window"))
							r.Sample.NetInBytes = rapid.Int64Range(0, 1000).Draw(rt, "value")
							d.Rows = append(d.Rows, r)
						}
						d.To = from + n - 1
						if from <= standing+1 {
							for _, r := range d.Rows {
								key := fmt.Sprint(r.Sample.ServerID, r.Sample.PlacementEpoch, r.Sample.WindowUnixS)
								if _, there := kept[key]; !there && r.Sample.Seq > standing {
									r.Sample.Seq = 0
									kept[key] = r
								}
							}
							standing = max(standing, d.To)
						}
						acked, err := st.Take(context.Background(), d)
						if err != nil || acked != standing {
							rt.Fatalf("acknowledged %d, %v; want %d", acked, err, standing)
						}
					},
					"renew": func(*rapid.T) { spool++; standing = 0 },
				})
			})
		})
	}
}
