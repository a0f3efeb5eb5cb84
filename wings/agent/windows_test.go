package agent

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

func atUTC(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err)
	}
	return t
}

func unixOf(text string) int64 { return atUTC(text).Unix() }

func TestWindowsAreAlignedToUTC(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := newWindowClock(now, atUTC("2026-03-01 12:00:12"), nil, 0)
	got := c.advance(now.Add(80 * time.Second)) // 12:01:32
	if len(got) != 3 || got[0].label != unixOf("2026-03-01 12:00:00") || got[2].label != unixOf("2026-03-01 12:01:00") {
		t.Fatalf("%+v", got)
	}
	if first := got[0].to.Sub(got[0].from); first != 18*time.Second {
		t.Errorf("the first window began with the program and is %v long", first)
	}
	for _, w := range got[1:] {
		if w.to.Sub(w.from) != wire.SampleWindow {
			t.Errorf("a window of %v", w.to.Sub(w.from))
		}
	}
	if more := c.follow(now.Add(81*time.Second), atUTC("2026-03-01 12:01:34")); len(more) != 0 {
		t.Errorf("a second of difference was followed: %+v", more)
	}
}

func TestWindowsOfARestartGoOnWhereTheLastOnesEnded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	spent := []span{{unixOf("2026-03-01 11:00:00"), unixOf("2026-03-01 12:00:00")}}
	c := newWindowClock(now, atUTC("2026-03-01 12:02:10"), spent, unixOf("2026-03-01 12:00:00"))
	got := c.advance(now)
	if len(got) != 4 || got[0].label != unixOf("2026-03-01 12:00:00") || !got[0].from.Equal(now.Add(-130*time.Second)) {
		t.Fatalf("%+v", got)
	}
	// Set back before what is spent: it waits at the end of it, and books nothing twice.
	c = newWindowClock(now, atUTC("2026-03-01 11:30:00"), spent, unixOf("2026-03-01 12:00:00"))
	if l := c.labelOf(now); !l.Equal(atUTC("2026-03-01 12:00:00")) {
		t.Errorf("it begins at %v", l)
	}
	// Longer ago than what is told afterwards.
	c = newWindowClock(now, atUTC("2026-03-03 12:00:00"), spent, unixOf("2026-03-01 12:00:00"))
	if got := c.advance(now); len(got) != maxGapWindows {
		t.Errorf("%d windows are told afterwards", len(got))
	}
}

func TestT19_StepsOfTheClockAreFollowedWithoutUsingAWindowTwice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		jump  time.Duration
		label string // of the clock, a minute after the jump
	}{
		{"five minutes ahead", 5 * time.Minute, "2026-03-01 12:07:00"},
		{"a day ahead", 24 * time.Hour, "2026-03-02 12:02:00"},
		{"five minutes back: all is spent, it stays ahead", -5 * time.Minute, "2026-03-01 12:02:00"},
		{"a day back: nothing is spent there", -24 * time.Hour, "2026-02-28 12:02:00"},
		{"ten seconds ahead, within the window", 10 * time.Second, "2026-03-01 12:02:10"},
		{"ten seconds back, within the window", -10 * time.Second, "2026-03-01 12:02:00"},
		{"a leap second", -time.Second, "2026-03-01 12:02:00"},
	} {
		now := time.Now()
		k := newWindowClock(now, atUTC("2026-03-01 11:00:00"), nil, 0)
		booked := k.advance(now.Add(61*time.Minute + 15*time.Second))
		at1 := now.Add(61*time.Minute + 15*time.Second)
		booked = append(booked, k.follow(at1, atUTC("2026-03-01 12:01:15").Add(c.jump))...)
		at2 := at1.Add(45 * time.Second)
		booked = append(booked, k.follow(at2, atUTC("2026-03-01 12:02:00").Add(c.jump))...)
		if l := k.labelOf(at2); !l.Equal(atUTC(c.label)) {
			t.Errorf("%s: the clock says %v", c.name, l)
		}
		checkBooked(t, c.name, booked, now, k.open.from)
	}
}

// checkBooked: the windows are all of the time from begin to end, one after the other, each label once.
func checkBooked(t interface {
	Helper()
	Errorf(string, ...any)
}, name string, booked []window, begin, end time.Time) {
	t.Helper()
	seen := map[int64]bool{}
	for _, w := range booked {
		if !w.from.Equal(begin) || w.to.Before(w.from) || w.to.Sub(w.from) > wire.SampleWindow {
			t.Errorf("%s: a window from %v to %v after one that ended at %v", name, w.from, w.to, begin)
		}
		if seen[w.label] || w.label%wire.SampleWindowS != 0 {
			t.Errorf("%s: window %d twice, or not aligned", name, w.label)
		}
		seen[w.label], begin = true, w.to
	}
	if !begin.Equal(end) {
		t.Errorf("%s: the windows end at %v, time has come to %v", name, begin, end)
	}
}

// However the target jumps and wings restarts: real time is booked once, no window twice, and after
// a while without jumps in unspent time the clock is right again.
func TestT19_AnyClockBooksAllTimeOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		begin := time.Now()
		target := atUTC("2026-03-01 12:00:00").Add(time.Duration(rapid.IntRange(0, 29_999).Draw(t, "ms")) * time.Millisecond)
		now := begin
		c := newWindowClock(now, target, nil, 0)
		var booked []window
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			passed := time.Duration(rapid.IntRange(1, 200_000).Draw(t, "passed")) * time.Millisecond
			now, target = now.Add(passed), target.Add(passed)
			if rapid.Bool().Draw(t, "jumps") {
				target = target.Add(time.Duration(rapid.SampledFrom([]int{1, 7, 45, 300, 3600, 86_400, -1, -7, -45, -300, -3600, -86_400}).Draw(t, "s")) * time.Second)
			}
			booked = append(booked, c.follow(now, target)...)
			if len(c.used) > maxUsedRanges {
				t.Fatalf("%d ranges", len(c.used))
			}
		}
		checkBooked(t, "any clock", booked, begin, c.open.from)
		if ahead := c.labelOf(now).Sub(target); ahead < -clockTolerance {
			t.Fatalf("it is %v behind", -ahead)
		}
	})
}
