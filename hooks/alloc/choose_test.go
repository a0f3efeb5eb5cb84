package alloc

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

func single(p ...wire.Protocol) group {
	return group{members: []member{{protocols: p}}}
}

// A need that cannot be met must not be searched for in every order: 32 alike groups for 31 ports
// have 31! of them.
func TestChooseGivesUpInBoundedTime(t *testing.T) {
	t.Parallel()
	free := map[hostPort]bool{}
	for i := range 31 {
		free[hostPort{2000 + i, wire.TCP}] = true
		free[hostPort{2000 + i, wire.UDP}] = true
	}
	var alike, mixed []group
	for i := range 32 {
		alike = append(alike, single(wire.TCP))
		if i%2 == 0 {
			mixed = append(mixed, single(wire.TCP, wire.UDP))
		} else {
			mixed = append(mixed, group{members: []member{{protocols: []wire.Protocol{wire.TCP}}, {offset: 40, protocols: []wire.Protocol{wire.UDP}}}})
		}
	}
	for name, groups := range map[string][]group{"alike": alike, "mixed": mixed} {
		if got := choose(free, groups, 0); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := choose(free, alike[:31], 0); len(got) != 31 {
		t.Errorf("as many as there are: %v", got)
	}
}

func TestChooseBeginsWhereItIsToldAndGoesRound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		ports := rapid.SliceOfNDistinct(rapid.IntRange(2000, 2050), 1, 20, rapid.ID).Draw(rt, "ports")
		from := rapid.IntRange(1990, 2060).Draw(rt, "from")
		free := map[hostPort]bool{}
		want, lowest := 0, ports[0]
		for _, p := range ports {
			free[hostPort{p, wire.UDP}] = true
			if lowest = min(lowest, p); p >= from && (want == 0 || p < want) {
				want = p
			}
		}
		if want == 0 {
			want = lowest
		}
		if got := choose(free, []group{single(wire.UDP)}, from); len(got) != 1 || got[0] != want {
			rt.Fatalf("from %d: %v, want %d", from, got, want)
		}
	})
}
