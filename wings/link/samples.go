package link

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// Record makes the samples of finished windows durable on this disk and sends them in their turn;
// their sequences are given here, all of them or none. closedUnixS is the end of the newest window
// that is whole with them. It may be called without samples: then it only says how far time has come.
func (l *Link) Record(samples []wire.Sample, closedUnixS int64) error {
	if _, err := l.samples.AppendAll(samples); err != nil {
		return err
	}
	l.closed.Store(closedUnixS) // after the samples: it promises them
	select {
	case l.news <- struct{}{}:
	default:
	}
	return nil
}

// PanelTime is what the panel's clock says now, by the last answer that told it and the time that
// has passed since on this machine's monotonic clock. ok is false before the first answer.
func (l *Link) PanelTime() (now time.Time, ok bool) {
	at := l.panelClock.Load()
	if at == nil {
		return time.Time{}, false
	}
	return at.panel.Add(time.Since(at.here)), true
}

// clockReading is the panel's clock at an instant of ours; here has a monotonic part.
type clockReading struct{ panel, here time.Time }

// noteClock takes the panel's clock out of an answer to a call that began at asked. Half of the way
// is the answer's; one that took long says too little.
func (l *Link) noteClock(panel, asked time.Time) {
	took := time.Since(asked)
	if panel.IsZero() || took > maxClockTrip {
		return
	}
	l.panelClock.Store(&clockReading{panel: panel, here: asked.Add(took / 2)})
}

// sendSamples posts batches in order and drops from the disk what was acknowledged, only that.
func (l *Link) sendSamples(ctx context.Context) {
	backoff := firstBackoff
	told := int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.samples.Ready():
		case <-l.news:
		}
		for ctx.Err() == nil {
			more, err := l.sendSampleBatch(ctx, &told)
			if err == nil {
				backoff = firstBackoff
				if !more {
					break
				}
				continue
			}
			l.log.Warn("samples wait on this disk", "error", err)
			wait(ctx, jitter(backoff))
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// sendSampleBatch sends what is oldest, or only how far the node has delivered if that is news. more
// says that there were samples.
func (l *Link) sendSampleBatch(ctx context.Context, told *int64) (more bool, err error) {
	id, closed := l.samples.ID(), l.closed.Load() // before Next: what comes meanwhile is not promised
	items, err := l.samples.Next(wire.MaxSamplesPerBatch, wire.MaxSampleBatchBytes)
	if err != nil || len(items) == 0 && closed == *told {
		return false, err
	}
	batch := wire.SampleBatch{SpoolID: id, Samples: items, DeliveredUnixS: closed, NodeClock: time.Now().UTC()}
	if n := len(items); n > 0 {
		if last := items[n-1]; last.Seq != l.samples.Last() {
			batch.DeliveredUnixS = last.WindowUnixS // the windows before it are whole; 0 for a gap
		}
	}
	asked := time.Now()
	var ack wire.SampleAck
	if err := l.call(ctx, "metrics", batch, &ack); err != nil {
		return true, fmt.Errorf("send %d samples: %w", len(items), err)
	}
	l.noteClock(ack.PanelClock, asked)
	*told = batch.DeliveredUnixS
	if err := l.samples.Ack(ack.AckedSeq); err != nil {
		return true, err
	}
	if len(items) > 0 && items[0].Gap != nil && ack.AckedSeq < items[0].Seq {
		return true, fmt.Errorf("the panel stands at sample %d and did not take the gap up to %d", ack.AckedSeq, items[0].Seq)
	}
	return len(items) > 0, nil
}

// encodeBody makes a request's body. Samples are much alike and many: they go compressed.
func encodeBody(in any) (body []byte, encoding string, err error) {
	raw, err := json.Marshal(in)
	if err != nil {
		return nil, "", fmt.Errorf("encode request: %w", err)
	}
	if _, ok := in.(wire.SampleBatch); !ok {
		return raw, "", nil
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err = w.Write(raw); err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, "", fmt.Errorf("compress request: %w", err)
	}
	return out.Bytes(), "gzip", nil
}
