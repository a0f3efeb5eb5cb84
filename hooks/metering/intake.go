package metering

import (
	"context"
	"fmt"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/wings/wire"
)

// Take makes a batch of a node durable and returns the highest sequence of that spool up to which
// everything is. Samples that do not count are acknowledged too, because they would count no better
// the next time: those of an older epoch than the server's or of a server that is not placed on that
// node (both are normal after a move), invalid ones, and ones from beyond the retention or the future
// (of these an operator hears). A hole in the sequence ends the batch: the node sends again from there.
func (m *Metering) Take(ctx context.Context, node string, b wire.SampleBatch) (ackedSeq int64, err error) {
	d := Delivery{Node: node, Spool: b.SpoolID, DeliveredUnixS: b.DeliveredUnixS}
	samples := contiguous(b.Samples)
	if len(samples) < len(b.Samples) {
		d.DeliveredUnixS = 0 // the rest is still to come
	}
	placed, err := m.placed(samples)
	if err != nil {
		return 0, err
	}
	r := report{node: node}
	now := time.Now()
	for i := range samples {
		s := &samples[i]
		if d.From == 0 {
			d.From = s.Seq
			if s.Gap != nil {
				d.From = s.Gap.From
			}
		}
		d.To = s.Seq
		if where, counts := m.judge(s, node, placed, now, &r); counts {
			d.Rows = append(d.Rows, Row{Tenant: where.Tenant, Node: node, Sample: *s})
		}
	}
	if ackedSeq, err = m.Store.Take(ctx, d); err != nil {
		return 0, err
	}
	if ackedSeq >= d.To { // what it stands for is settled; a repeat tells of it once more, which is rare
		m.tell(&r)
	}
	return ackedSeq, nil
}

// contiguous cuts the batch at its first hole.
func contiguous(samples []wire.Sample) []wire.Sample {
	for i := range samples {
		first := samples[i].Seq
		if g := samples[i].Gap; g != nil {
			first = g.From
		}
		if samples[i].Seq < 1 || first < 1 || first > samples[i].Seq || i > 0 && first != samples[i-1].Seq+1 {
			return samples[:i]
		}
	}
	return samples
}

// where says where a server is placed.
type where struct {
	ID     string `db:"id"`
	Tenant string `db:"tenant"`
	Node   string `db:"node"`
	Epoch  int64  `db:"placement_epoch"`
}

// placed looks up the servers that samples name. Deleted ones are among them: their last windows come
// after they are gone.
func (m *Metering) placed(samples []wire.Sample) (map[string]where, error) {
	out := map[string]where{}
	var ids []any
	for i := range samples {
		id := samples[i].ServerID
		if _, known := out[id]; !known && wire.ValidID(id) {
			out[id] = where{}
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return out, nil
	}
	var rows []where
	err := m.App.DB().Select("id", "tenant", "node", "placement_epoch").From(collections.Servers).Where(dbx.In("id", ids...)).All(&rows)
	if err != nil {
		return nil, fmt.Errorf("look up the servers of samples: %w", err)
	}
	for _, r := range rows {
		out[r.ID] = r
	}
	return out, nil
}

// judge says whether a sample counts, and for whom.
func (m *Metering) judge(s *wire.Sample, node string, placed map[string]where, now time.Time, r *report) (where, bool) {
	if s.Gap != nil {
		r.lost += s.Gap.To - s.Gap.From + 1
		return where{}, false
	}
	if err := s.Validate(); err != nil {
		r.refuse(fmt.Sprintf("Sample %d is invalid: %v.", s.Seq, err))
		return where{}, false
	}
	begin := time.Unix(s.WindowUnixS, 0).UTC()
	switch w := placed[s.ServerID]; {
	case begin.After(now.Add(maxAhead)):
		r.refuse(fmt.Sprintf("Sample %d is of %s, which is still to come.", s.Seq, begin.Format(time.DateTime)))
	case begin.Before(now.Add(-m.Retention)):
		r.refuse(fmt.Sprintf("Sample %d is of %s, longer ago than samples are kept.", s.Seq, begin.Format(time.DateTime)))
	case w.Node != node || w.Epoch != s.PlacementEpoch:
		m.Log.Debug("a sample does not count", "node", node, "server", s.ServerID, "epoch", s.PlacementEpoch, "placed_on", w.Node, "placed_epoch", w.Epoch)
	default:
		return w, true
	}
	return where{}, false
}

// report is what an operator is to hear of a batch.
type report struct {
	node    string
	lost    int64 // samples that the node's spool dropped
	refused int64
	first   string // why the first of them was
}

func (r *report) refuse(why string) {
	if r.refused++; r.refused == 1 {
		r.first = why
	}
}

// tell opens incidents. The samples are settled by then; what cannot be told is in the log.
func (m *Metering) tell(r *report) {
	var all []incidents.Incident
	if r.lost > 0 {
		all = append(all, incidents.Incident{
			Kind: "node.samples_lost", Severity: incidents.Warning, Node: r.node, Title: "A node lost measurements",
			Detail: fmt.Sprintf("%d samples are gone: the node could not deliver for longer than its disk may hold them, its disk was damaged, or the samples here were restored from a backup. What they held is not billed and is missing in charts.", r.lost),
		})
	}
	if r.refused > 0 {
		all = append(all, incidents.Incident{
			Kind: "node.samples_refused", Severity: incidents.Warning, Node: r.node, Title: "Measurements of a node were refused",
			Detail: fmt.Sprintf("%d samples of one delivery do not count. %s If the node's clock is wrong, set up time synchronisation on it.", r.refused, r.first),
		})
	}
	if len(all) == 0 {
		return
	}
	err := collections.Tx(m.App, []collections.Lock{incidents.Lock}, func(tx core.App) error {
		for _, i := range all {
			if err := m.Incidents.Open(tx, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		m.Log.Error("report samples that do not count", "node", r.node, "lost", r.lost, "refused", r.refused, "error", err)
	}
}
