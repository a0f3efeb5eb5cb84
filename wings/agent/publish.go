package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// saveSoon saves what is being waited with. A refusal of the disk comes up again before the next step.
func (s *server) saveSoon(ctx context.Context) {
	if err := s.save(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("write the record", "error", err)
	}
}

// show publishes what the row says of the server.
func (s *server) show(ctx context.Context, in *input, r *row) error {
	o := s.rec.Observed
	o.ServerID, o.State, o.Settled = s.id, r.state, r.settled
	if absent(in) {
		o.State = wire.StateDeleting
	}
	o.ContainerID, o.StartedAt = in.w.game.id, in.w.game.startedAt
	o.Progress = wire.Progress{Step: progressStep(r.do, o.State)}
	if o.State == wire.StatePulling { // keep what the pull has told
		o.Progress.Percent, o.Progress.Message = s.rec.Observed.Progress.Percent, s.rec.Observed.Progress.Message
	}
	s.publish(o)
	if err := s.save(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.shown = s.rec.Published
	s.mu.Unlock()
	return nil
}

// publish makes o what the world knows, if it differs. The save that follows writes it down; the
// report is sent after that.
func (s *server) publish(o wire.Observed) {
	o.Problem = s.problem
	if o.Problem == nil {
		o.Problem = s.rec.Failure
	}
	if o.Problem == nil && o.State == wire.StateCrashed {
		o.Problem = s.rec.Trouble
	}
	if same(o, s.rec.Published) && s.rec.Published.Revision > 0 {
		return
	}
	if o.State == "" { // the engine was away before anything of it could be looked at
		o.State = wire.StateAbsent
	}
	o.Revision = s.rec.Published.Revision + 1
	o.At = time.Now().UTC().Round(0)
	s.rec.Observed, s.rec.Published = o, o
	s.dirty = true
	s.console.setState(o.State)
}

func same(a, b wire.Observed) bool {
	a.Revision, a.At, b.Revision, b.At = 0, time.Time{}, 0, time.Time{}
	ja, erra := json.Marshal(a)
	jb, errb := json.Marshal(b)
	return erra == nil && errb == nil && bytes.Equal(ja, jb)
}

// save writes the record if it changed, and hands over what is durable now. Nothing is written
// once the program is ending: a kill and a stop leave the same disk behind.
func (s *server) save(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if s.dirty {
		if err := s.a.store.saveRecord(s.id, s.rec); err != nil {
			return err
		}
		s.dirty = false
		if s.rec.Published.Revision > 0 {
			s.mu.Lock()
			s.shown = s.rec.Published
			s.mu.Unlock()
		}
	}
	s.report()
	return nil
}

// report hands over outbox and state, only the latest of it. A refusal is tried again later.
func (s *server) report() {
	if time.Now().Before(s.reportAt) || (len(s.rec.Outbox) == 0 && s.reported >= s.rec.Published.Revision) {
		return
	}
	s.reportAt = time.Time{}
	for len(s.rec.Outbox) > 0 {
		if err := s.a.cfg.Reporter.Report(s.rec.Outbox[0]); err != nil {
			s.refused(err)
			return
		}
		s.rec.Outbox = s.rec.Outbox[1:]
		s.dirty = true // until then it may be handed over twice, which is normal
	}
	if s.reported >= s.rec.Published.Revision {
		return
	}
	o := s.rec.Published
	if err := s.a.cfg.Reporter.Report(wire.Event{At: o.At, Kind: wire.EventObserved, Observed: &o}); err != nil {
		s.refused(err)
		return
	}
	s.reported = o.Revision
}

func (s *server) refused(err error) {
	s.reportAt = time.Now().Add(reportRetry)
	s.log.Warn("report was refused", "error", err)
}

// post keeps an event until the reporter has it. The oldest is dropped beyond the bound; the
// observed state, which is always sent whole, still tells how things stand.
func (s *server) post(e wire.Event) {
	e.At = time.Now().UTC().Round(0)
	if len(s.rec.Outbox) >= maxOutbox {
		s.rec.Outbox = s.rec.Outbox[1:]
	}
	s.rec.Outbox = append(s.rec.Outbox, e)
	s.dirty = true
}

// say puts a line of wings itself on the console.
func (s *server) say(format string, args ...any) {
	s.console.say(wire.StreamSystem, fmt.Sprintf(format, args...))
	if err := s.console.flush(); err != nil {
		s.log.Warn("write console journal", "error", err)
	}
}
