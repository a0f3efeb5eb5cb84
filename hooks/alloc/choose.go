package alloc

import (
	"cmp"
	"slices"

	"github.com/mambahost/mamba/wings/wire"
)

// maxChooseSteps bounds the search for ports. A fleet's real needs take as many steps as they have
// groups; the bound is for needs made to be hard. Beyond it the address counts as exhausted.
const maxChooseSteps = 200_000

// hostPort is a port of one address.
type hostPort struct {
	port     int
	protocol wire.Protocol
}

// choose finds a base port for each group so that every port is free and none is used twice. Ports
// are tried upwards from `from`, then from the lowest. It is pure; nil when there is no way.
func choose(free map[hostPort]bool, groups []group, from int) []int {
	c := chooser{free: free, groups: groups, bases: make([]int, len(groups)), taken: map[hostPort]bool{}, steps: maxChooseSteps}
	seen := map[int]bool{}
	for p := range free {
		if !seen[p.port] {
			seen[p.port] = true
			c.ports = append(c.ports, p.port)
		}
	}
	slices.Sort(c.ports)
	if i, _ := slices.BinarySearch(c.ports, from); i > 0 {
		c.ports = append(slices.Clone(c.ports[i:]), c.ports[:i]...)
	}
	// The largest groups first: they have the fewest ways.
	c.order = make([]int, len(groups))
	for i := range c.order {
		c.order[i] = i
	}
	slices.SortStableFunc(c.order, func(a, b int) int { return cmp.Compare(c.weight(b), c.weight(a)) })
	if !c.place(0, 0) {
		return nil
	}
	return c.bases
}

type chooser struct {
	free   map[hostPort]bool
	taken  map[hostPort]bool
	groups []group
	order  []int // of groups, hardest first
	ports  []int // to try as a base, in this order
	bases  []int // by group, what is chosen
	steps  int   // left
}

// place chooses for order[i:]. Groups of one shape are interchangeable, so such a group starts after
// its twin (first): else a full pool would be searched in every order.
func (c *chooser) place(i, first int) bool {
	if i == len(c.order) {
		return true
	}
	g := c.groups[c.order[i]]
	if g.prefer > 0 && c.try(i, g.prefer, 0) {
		return true
	}
	for at := first; at < len(c.ports); at++ {
		if c.steps <= 0 {
			return false
		}
		if c.try(i, c.ports[at], at+1) {
			return true
		}
	}
	return false
}

// try puts order[i] at base and places the rest.
func (c *chooser) try(i, base, after int) bool {
	c.steps--
	g := c.groups[c.order[i]]
	if !c.fits(g, base) {
		return false
	}
	c.mark(g, base, true)
	c.bases[c.order[i]] = base
	next := 0
	if i+1 < len(c.order) && g.prefer == 0 && alike(g, c.groups[c.order[i+1]]) {
		next = after
	}
	if c.place(i+1, next) {
		return true
	}
	c.mark(g, base, false)
	return false
}

func (c *chooser) fits(g group, base int) bool {
	for i, m := range g.members {
		for _, p := range m.protocols {
			h := hostPort{base + m.offset, p}
			if !c.free[h] || c.taken[h] {
				return false
			}
			for _, other := range g.members[:i] { // two needs of one group at one port
				if other.offset == m.offset && slices.Contains(other.protocols, p) {
					return false
				}
			}
		}
	}
	return true
}

func (c *chooser) mark(g group, base int, taken bool) {
	for _, m := range g.members {
		for _, p := range m.protocols {
			c.taken[hostPort{base + m.offset, p}] = taken
		}
	}
}

func (c *chooser) weight(i int) int {
	n := 0
	for _, m := range c.groups[i].members {
		n += len(m.protocols)
	}
	return n
}

// alike reports whether two groups can be exchanged for each other.
func alike(a, b group) bool {
	return b.prefer == 0 && slices.EqualFunc(a.members, b.members, func(x, y member) bool {
		return x.offset == y.offset && slices.Equal(x.protocols, y.protocols)
	})
}
