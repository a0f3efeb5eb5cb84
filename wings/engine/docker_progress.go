package engine

import (
	"fmt"
	"time"

	"github.com/moby/moby/api/types/jsonstream"
)

// Limits of pull progress.
const (
	reportInterval = 250 * time.Millisecond // between two reports; the first and 100 % do not wait
	maxLayers      = 256                    // Docker itself refuses images of more than 127
)

// pullTracker adds up what the engine says of each layer to one percentage. Half of the work of a
// layer is its download, half its unpacking. Layers whose size is not known yet count as much as
// the average of the known ones, so the figure does not start at 90. It never falls.
type pullTracker struct {
	report func(percent int, message string)
	layers map[string]*layer
	best   int
	sent   time.Time
	done   bool // 100 % was reported
}

type layer struct {
	total, down, unpacked int64 // bytes, compressed; total 0: not known yet
	here                  bool  // nothing to do: it was on the node already
}

func newPullTracker(report func(int, string)) *pullTracker {
	return &pullTracker{report: report, layers: map[string]*layer{}, best: -1}
}

// see takes one message and reports if it is time.
func (p *pullTracker) see(msg jsonstream.Message) {
	p.add(msg)
	percent, message := p.figure()
	now := time.Now()
	if now.Sub(p.sent) < reportInterval && (percent < 100 || p.done) {
		return
	}
	p.sent, p.done = now, percent == 100
	p.report(percent, message)
}

func (p *pullTracker) add(msg jsonstream.Message) {
	l := p.layers[msg.ID]
	if l == nil {
		switch msg.Status {
		case "Pulling fs layer", "Waiting", "Downloading", "Already exists", "Extracting":
		default: // "Pulling from …", digests and the like carry other ids
			return
		}
		if len(p.layers) >= maxLayers {
			return
		}
		l = &layer{}
		p.layers[msg.ID] = l
	}
	if msg.Progress != nil && msg.Progress.Total > 0 {
		l.total = msg.Progress.Total
	}
	switch msg.Status {
	case "Downloading":
		if msg.Progress != nil {
			l.down = msg.Progress.Current
		}
	case "Verifying Checksum", "Download complete":
		l.down = l.total
	case "Extracting":
		l.down = l.total
		if msg.Progress != nil {
			l.unpacked = msg.Progress.Current
		}
	case "Pull complete":
		l.down, l.unpacked, l.here = l.total, l.total, l.total == 0
	case "Already exists":
		l.here = true
	}
}

// figure is the percentage, −1 while no size is known, and its sentence.
func (p *pullTracker) figure() (int, string) {
	var total, down, unpacked, known, unknown int64
	for _, l := range p.layers {
		switch {
		case l.here:
		case l.total == 0:
			unknown++
		default:
			known++
			total += l.total
			down += min(l.down, l.total)
			unpacked += min(l.unpacked, l.total)
		}
	}
	if total > 0 {
		whole := total + total/known*unknown
		p.best = max(p.best, int(50*(down+unpacked)/whole))
	}
	if p.best < 0 {
		return -1, "Asking the registry"
	}
	if down < total || unknown > 0 {
		return p.best, fmt.Sprintf("Downloaded %d of %d MiB", down>>20, (total+total/max(known, 1)*unknown)>>20)
	}
	return p.best, "Unpacking"
}
