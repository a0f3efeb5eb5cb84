package agent

import (
	"cmp"
	"slices"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of the window clock.
const (
	clockTolerance = 2 * time.Second // a target nearer than this is followed by nobody
	maxUsedRanges  = 32              // of windows that are spent; one more for each step of the clock
	maxGapWindows  = 720             // 6 hours that wings was away are told of afterwards, not more
)

// window is one stretch of real time and the UTC window that it is booked under. A stretch is shorter
// than its window when the clock was stepped, or the program began, inside it.
type window struct {
	label    int64     // begin of the UTC window, Unix s
	from, to time.Time // on our clock, with monotonic parts
}

// windowClock cuts time into UTC windows. It runs on the monotonic clock and follows a target (the
// panel's clock, else this machine's), in steps. However the target jumps, real time is in exactly one
// window, and no window is used twice: the panel counts the first sample of a window only, so what
// was booked under a spent one would be lost. It is owned by the sampler's loop.
type windowClock struct {
	at    time.Time // our instant at which
	label time.Time // the label was this; the one follows the other
	open  window    // the one that is running; to is zero
	used  []span    // spent windows, ascending, not touching each other
}

// span is a range of UTC time in Unix seconds, [From, To), whole windows.
type span struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// newWindowClock begins at the target, or after it where windows are spent. Real time from since on is
// booked too, at most maxGapWindows of it: wings was away, and the container may have run.
func newWindowClock(now, target time.Time, used []span, closed int64) *windowClock {
	c := &windowClock{at: now, used: used}
	c.label = c.free(target)
	c.open = window{label: floor(c.label), from: now}
	if gap := c.label.Unix() - closed; closed > 0 && c.label.Equal(target) && gap > 0 {
		from := max(closed, floor(c.label)-maxGapWindows*wire.SampleWindowS)
		if c.free(time.Unix(from, 0)).Unix() == from && !c.between(from, c.open.label) {
			c.open = window{label: from, from: c.instant(from)}
		}
	}
	return c
}

// between says that a window in [from, to) is spent.
func (c *windowClock) between(from, to int64) bool {
	return slices.ContainsFunc(c.used, func(s span) bool { return s.From < to && s.To > from })
}

func floor(t time.Time) int64 {
	u := t.Unix()
	return u - ((u%wire.SampleWindowS)+wire.SampleWindowS)%wire.SampleWindowS
}

// labelOf is the UTC time that now is booked under.
func (c *windowClock) labelOf(now time.Time) time.Time { return c.label.Add(now.Sub(c.at)) }

// instant is when, on our clock, the label is or was that second.
func (c *windowClock) instant(label int64) time.Time {
	return c.at.Add(time.Unix(label, 0).Sub(c.label))
}

// nextBoundary is the instant at which the open window ends.
func (c *windowClock) nextBoundary() time.Time { return c.instant(c.open.label + wire.SampleWindowS) }

// free is the first instant of UTC, not before t, whose window is not spent.
func (c *windowClock) free(t time.Time) time.Time {
	for _, s := range c.used {
		if w := floor(t); s.From <= w && w < s.To {
			t = time.Unix(s.To, 0).UTC()
		}
	}
	return t
}

// advance closes the windows that have ended by now.
func (c *windowClock) advance(now time.Time) (closed []window) {
	for end := c.nextBoundary(); !end.After(now); end = c.nextBoundary() {
		closed = append(closed, c.shut(end))
		next := time.Unix(c.open.label+wire.SampleWindowS, 0).UTC()
		if l := c.free(next); !l.Equal(next) {
			c.at, c.label, next = end, l, l
		}
		c.open = window{label: next.Unix(), from: end}
	}
	return closed
}

// follow steps towards the target when it is further away than the tolerance. A step back is taken
// only to windows that are not spent; until then the clock stays ahead.
func (c *windowClock) follow(now, target time.Time) (closed []window) {
	closed = c.advance(now)
	off := target.Sub(c.labelOf(now))
	if off.Abs() <= clockTolerance {
		return closed
	}
	if floor(target) == c.open.label {
		if off > 0 { // it ends sooner, that is all; backwards it would get too long
			c.at, c.label = now, target
		}
		return closed
	}
	last := c.shut(now)
	label := c.free(target)
	if off < 0 && !label.Before(c.labelOf(now)) { // all of it is spent: go on as before
		c.used = without(c.used, c.open.label)
		return closed
	}
	c.at, c.label = now, label
	c.open = window{label: floor(label), from: now}
	return append(closed, last)
}

// shut ends the open window and spends it.
func (c *windowClock) shut(at time.Time) window {
	w := c.open
	w.to = at
	c.spend(w.label)
	return w
}

// without is used but for one window.
func without(used []span, label int64) []span {
	var out []span
	for _, s := range used {
		if end := label + wire.SampleWindowS; s.From <= label && label < s.To {
			if s.From < label {
				out = append(out, span{s.From, label})
			}
			if end < s.To {
				out = append(out, span{end, s.To})
			}
		} else {
			out = append(out, s)
		}
	}
	return out
}

// spend marks a window as used.
func (c *windowClock) spend(label int64) {
	c.used = append(c.used, span{label, label + wire.SampleWindowS})
	slices.SortFunc(c.used, func(a, b span) int { return cmp.Compare(a.From, b.From) })
	joined := c.used[:1]
	for _, s := range c.used[1:] {
		if last := &joined[len(joined)-1]; s.From <= last.To {
			last.To = max(last.To, s.To)
		} else {
			joined = append(joined, s)
		}
	}
	c.used = joined[max(0, len(joined)-maxUsedRanges):]
}
