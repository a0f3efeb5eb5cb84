package main

import (
	"math"
	"slices"
	"testing"
)

// pairs are measurements of two sides, one of each per round.
type pairs struct{ floor, ours []float64 }

// alternate measures the two in turn, n times: floor, ours, floor, ours.
func alternate(n int, floor, ours func() float64) pairs {
	var p pairs
	for range n {
		p.floor = append(p.floor, floor())
		p.ours = append(p.ours, ours())
	}
	return p
}

// interval is a median and the order statistics around it that hold the true one in at least 95 % of
// all runs. With fewer than six values there are none, and it spans all of them.
type interval struct{ median, low, high float64 }

// ratio is ours divided by floor, pair by pair.
func (p pairs) ratio() interval {
	return p.each(func(floor, ours float64) float64 { return ours / floor })
}

// each is the interval of what fn makes of each pair.
func (p pairs) each(fn func(floor, ours float64) float64) interval {
	out := make([]float64, len(p.floor))
	for i := range out {
		out[i] = fn(p.floor[i], p.ours[i])
	}
	return intervalOf(out)
}

func intervalOf(values []float64) interval {
	sorted := slices.Sorted(slices.Values(values))
	skip := outside(len(sorted))
	return interval{quantile(sorted, 0.5), sorted[skip], sorted[len(sorted)-1-skip]}
}

// outside is how many of n ordered values may be left out at each end so that the rest still holds the
// median with a probability of 95 %: the largest k with 2·P(Binomial(n, ½) < k) ≤ 5 %.
func outside(n int) int {
	term := math.Pow(0.5, float64(n)) // P(Binomial(n, ½) = 0)
	sum, k := 0.0, 0
	for ; k < n/2; k++ {
		sum += term
		if 2*sum > 0.05 {
			break
		}
		term *= float64(n-k) / float64(k+1)
	}
	return max(k-1, 0)
}

// quantile of values in ascending order, between two neighbours in proportion.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	below := int(at)
	if below+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[below] + (at-float64(below))*(sorted[below+1]-sorted[below])
}

func TestIntervalOfTheMedian(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		values []float64
		want   interval
	}{
		"one value is its own interval":              {[]float64{3}, interval{3, 3, 3}},
		"of five values, all of them":                {[]float64{5, 1, 4, 2, 3}, interval{3, 1, 5}},
		"of six values, all of them: 96.9 %":         {[]float64{6, 1, 5, 2, 4, 3}, interval{3.5, 1, 6}},
		"of ten values, the second to ninth: 97.9 %": {[]float64{10, 1, 9, 2, 8, 3, 7, 4, 6, 5}, interval{5.5, 2, 9}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := intervalOf(c.values); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	if got := outside(100); got != 39 { // the 40th to 61st of 100, as in tables of the sign test
		t.Errorf("of 100 values %d are left out at each end, want 39", got)
	}
}

func TestPairsAreTakenInTurnAndDividedOneByOne(t *testing.T) {
	t.Parallel()
	order, load := "", 0.0
	side := func(name string, cost float64) func() float64 {
		return func() float64 { order += name; return cost * (1 + load) }
	}
	p := alternate(3, side("a", 2), func() float64 { defer func() { load++ }(); return side("b", 3)() })
	if order != "ababab" {
		t.Errorf("measured in the order %s", order)
	}
	if got := p.ratio(); got != (interval{1.5, 1.5, 1.5}) { // a machine that gets slower changes no pair
		t.Errorf("the ratio is %v", got)
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	sorted := []float64{10, 20, 30, 40, 50}
	for q, want := range map[float64]float64{0: 10, 0.5: 30, 0.625: 35, 1: 50} {
		if got := quantile(sorted, q); got != want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
}
