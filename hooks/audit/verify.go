package audit

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
)

// Bounds of a verification.
const (
	verifyPage  = 500 // rows read at once
	maxProblems = 100 // reported; more are only counted
)

// Fault is what is wrong at a place of a chain.
type Fault string

// Faults.
const (
	FaultEdited   Fault = "edited"    // a row's fields do not fit its MAC
	FaultMissing  Fault = "missing"   // numbers are left out: rows were removed, or head and chain once differed
	FaultBroken   Fault = "broken"    // a row does not follow the one before it: reordered, replaced, inserted
	FaultHead     Fault = "head"      // the chain does not end where its head says: cut tail or forged head
	FaultRollback Fault = "rollback"  // a signed head names a row that is not there or is another: the chain was cut and continued
	FaultHeadFile Fault = "head_file" // lines of the signed heads were edited, removed or moved, or there are none where there must be
)

// Problem is one fault.
type Problem struct {
	Fault  Fault
	Seq    int64 // row in the chain; 0 where it is about the head or the file
	Row    string
	Detail string
}

// Report of one chain.
type Report struct {
	Tenant   string
	Rows     int64 // read
	Heads    int64 // signed heads compared
	Purged   bool  // the tenant was purged, and the installation's chain proves it
	Faults   int64 // all of them
	Problems []Problem

	began, ended time.Time // when its first and its last row were written
}

// OK reports whether nothing was found.
func (r Report) OK() bool { return r.Faults == 0 }

func (r *Report) add(f Fault, seq int64, row, format string, args ...any) {
	r.Faults++
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, Problem{Fault: f, Seq: seq, Row: row, Detail: fmt.Sprintf(format, args...)})
	}
}

// Verify reads a tenant's whole chain, its head and the signed heads about it. A fault is part of the
// report, not an error; an error means that it could not be read.
//
// What it cannot find: a tail that was cut, head row included, before an hourly signed head named it.
func (l *Log) Verify(app core.App, tenant string) (Report, error) {
	rep := Report{Tenant: tenant}
	if err := l.keys.Refresh(app); err != nil {
		return rep, fmt.Errorf("read the keys of the audit chain: %w", err)
	}
	g, err := l.graveOf(app, tenant)
	if err != nil {
		return rep, err
	}
	if g != nil {
		err := l.verifyGrave(app, &rep, g)
		return rep, err
	}
	if err := l.verifyLiving(app, &rep); err != nil || rep.OK() {
		return rep, err
	}
	if g, err = l.graveOf(app, tenant); err != nil || g == nil {
		return rep, err
	}
	rep = Report{Tenant: tenant} // it was purged while we read
	err = l.verifyGrave(app, &rep, g)
	return rep, err
}

// verifyLiving verifies a chain that is not purged.
func (l *Log) verifyLiving(app core.App, rep *Report) error {
	if err := l.verifyChain(app, rep); err != nil {
		return fmt.Errorf("verify the audit chain of tenant %q: %w", rep.Tenant, err)
	}
	if err := l.verifyBeginning(app, rep); err != nil {
		return err
	}
	return l.signedHeads(app, rep, func(h signedHead) error {
		row, err := l.rowAt(app, rep.Tenant, h.Seq)
		if err != nil {
			return err
		}
		if row == nil || row.MAC() != h.MAC {
			rep.add(FaultRollback, h.Seq, "", "the head signed at %s names a row that is not there", h.At)
		}
		return nil
	})
}

// unsigned is how long a chain may go on without any signed head. One is due in the hour.
const unsigned = 3 * time.Hour

// signedHeads calls fn with each signed head of the report's tenant, and reports lines that are not as they were written,
// files of which there is less than there was, and a chain that should be in one and is not.
func (l *Log) signedHeads(app core.App, rep *Report, fn func(signedHead) error) error {
	if l.sink == nil {
		return nil
	}
	l.heads.Lock()
	defer l.heads.Unlock()
	files, err := headFiles(app)
	if err != nil {
		return err
	}
	for _, sink := range l.sinks() {
		f, err := l.readHeads(sink, files, func(h signedHead) error {
			if h.Tenant != rep.Tenant {
				return nil
			}
			rep.Heads++
			return fn(h)
		})
		if err != nil {
			return err
		}
		if f.bad > 0 {
			rep.add(FaultHeadFile, 0, "", "%d lines of the signed heads are not as they were written", f.bad)
		}
		if f.whole {
			delete(files, f.origin)
		}
	}
	for origin := range files {
		rep.add(FaultHeadFile, 0, "", "the signed heads that begin with %.12s are not here, or their last lines were removed; if another panel keeps them, name its folder with --heads", origin)
	}
	if rep.Heads == 0 && rep.ended.Sub(rep.began) > unsigned {
		rep.add(FaultHeadFile, 0, "", "no head of this chain was ever signed")
	}
	return nil
}

func (l *Log) sinks() []HeadSink { return append([]HeadSink{l.sink}, l.more...) }

// verifyBeginning looks at where a chain begins: an organisation begins with a row, and so does an installation, when it
// makes its certificate authority.
func (l *Log) verifyBeginning(app core.App, rep *Report) error {
	of := app.DB().Select("created").From(collections.Tenants).Where(dbx.HashExp{"id": rep.Tenant})
	if rep.Tenant == "" {
		of = app.DB().Select("created").From(collections.Authorities).OrderBy("created")
	}
	var since types.DateTime
	err := of.Limit(1).Row(&since)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // a test of this room, or an organisation of which only the chain is left
	}
	if err != nil {
		return fmt.Errorf("read when tenant %q began: %w", rep.Tenant, err)
	}
	switch late := rep.began.Sub(since.Time()); {
	case rep.Rows == 0 && rep.OK() && rep.Tenant != "":
		rep.add(FaultMissing, 0, "", "the organisation has no rows, and nothing proves that it was purged")
	case rep.Rows == 0 && rep.OK():
		rep.add(FaultMissing, 0, "", "the installation has no rows")
	case rep.Rows > 0 && late > mostLate:
		rep.add(FaultMissing, 0, "", "the chain begins %s after what it is about: the rows of before are missing", late.Round(time.Second))
	}
	return nil
}

// mostLate is how long after its organisation a chain may begin; they are written in one transaction.
const mostLate = time.Minute

// VerifyAll verifies every chain there is: those with rows, with a head, of an organisation, or named by a signed head.
func (l *Log) VerifyAll(app core.App) ([]Report, error) {
	var tenants []string
	err := app.DB().NewQuery("SELECT [[tenant]] FROM {{audit_logs}} UNION SELECT [[tenant]] FROM {{audit_heads}} UNION SELECT [[id]] FROM {{tenants}} ORDER BY 1").Column(&tenants)
	if err != nil {
		return nil, fmt.Errorf("list audit chains: %w", err)
	}
	known := map[string]bool{}
	for _, t := range tenants {
		known[t] = true
	}
	if !known[""] { // every installation has one
		tenants, known[""] = append(tenants, ""), true
	}
	if err := l.keys.Refresh(app); err != nil {
		return nil, fmt.Errorf("read the keys of the audit chain: %w", err)
	}
	if l.sink != nil {
		for _, sink := range l.sinks() {
			f, err := l.readHeads(sink, nil, nil)
			if err != nil {
				return nil, err
			}
			for t := range f.last {
				if !known[t] {
					tenants, known[t] = append(tenants, t), true
				}
			}
		}
	}
	out := make([]Report, 0, len(tenants))
	for _, t := range tenants {
		rep, err := l.Verify(app, t)
		if err != nil {
			return nil, err
		}
		out = append(out, rep)
	}
	return out, nil
}

// walk is how far a chain has been read.
type walk struct {
	after, want int64
	prev        string
	version     int // of the key that signed the last one, 0 for the newest
	known       int // how many versions there were then
	last        *collections.AuditLog
}

// verifyChain reads the rows and then the head. Rows may be written meanwhile, so it reads on while the head is
// further than they were.
func (l *Log) verifyChain(app core.App, rep *Report) error {
	w := &walk{after: -1 << 53, want: 1, version: len(l.keys.All()) - 1, known: len(l.keys.All())} // a row with a number below 1 is a fault, too
	for {
		if err := l.verifyRows(app, rep, w); err != nil {
			return err
		}
		head, err := collections.One[collections.AuditHead](app, collections.AuditHeads, dbx.HashExp{"tenant": rep.Tenant})
		if errors.Is(err, sql.ErrNoRows) {
			head, err = nil, nil
		}
		if err != nil {
			return err
		}
		if head != nil && (w.last == nil || head.Seq() > w.last.Seq()) {
			row, err := l.rowAt(app, rep.Tenant, head.Seq())
			if err != nil {
				return err
			}
			if row != nil {
				continue
			}
		}
		if err := l.keys.Refresh(app); err != nil { // it may have been signed anew while we read
			return err
		}
		l.verifyHead(rep, head, w.last)
		return nil
	}
}

func (l *Log) verifyRows(app core.App, rep *Report, w *walk) error {
	for {
		rows, err := collections.Every[collections.AuditLog](app, collections.AuditLogs, "seq ASC", verifyPage,
			dbx.HashExp{"tenant": rep.Tenant}, dbx.NewExp("[[seq]] > {:after}", dbx.Params{"after": w.after}))
		if err != nil {
			return err
		}
		for _, r := range rows {
			if rep.Rows++; rep.Rows == 1 {
				rep.began = r.At()
			}
			rep.ended = r.At()
			switch {
			case r.Seq() > w.want:
				rep.add(FaultMissing, w.want, "", "rows %d to %d are missing", w.want, r.Seq()-1)
			case r.Seq() < w.want:
				rep.add(FaultBroken, r.Seq(), r.Id, "no row has this number")
			}
			all := l.keys.All()
			if len(all) > w.known { // rotated while we read
				w.version, w.known = w.version+len(all)-w.known, len(all)
			}
			by := signedBy(all, w.version, r.MAC(), func(key []byte) string { return rowMAC(key, r) })
			if by >= 0 {
				w.version = by
			}
			if by < 0 {
				rep.add(FaultEdited, r.Seq(), r.Id, "the row was changed after it was written")
			} else if at := r.GetString("at"); r.GetString("created") != at || r.GetString("updated") != at {
				rep.add(FaultEdited, r.Seq(), r.Id, "its times were changed after it was written")
			}
			if r.Prev() != w.prev && r.Seq() == w.want {
				rep.add(FaultBroken, r.Seq(), r.Id, "it does not follow the row before it")
			}
			w.after, w.want, w.prev, w.last = r.Seq(), r.Seq()+1, r.MAC(), r
		}
		if len(rows) < verifyPage {
			return nil
		}
	}
}

func (l *Log) verifyHead(rep *Report, head *collections.AuditHead, last *collections.AuditLog) {
	switch {
	case head == nil && last == nil:
	case head == nil:
		rep.add(FaultHead, 0, "", "the chain has %d rows and no head", rep.Rows)
	case last == nil:
		rep.add(FaultHead, 0, head.Id, "the head says %d rows, there are none", head.Seq())
	case head.Seq() != last.Seq():
		rep.add(FaultHead, 0, head.Id, "the head says %d, the last row is %d", head.Seq(), last.Seq())
	case l.headKey(head, last.Seq(), last.MAC()) < 0:
		rep.add(FaultHead, 0, head.Id, "the head was not written by us")
	}
}

// rowAt returns the row of that number, nil when there is none.
func (l *Log) rowAt(app core.App, tenant string, seq int64) (*collections.AuditLog, error) {
	row, err := collections.One[collections.AuditLog](app, collections.AuditLogs, dbx.HashExp{"tenant": tenant, "seq": seq})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return row, err
}
