package alloc

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Amount is of what a node has to give.
type Amount struct {
	CPUMillicores int64 `json:"cpu_millicores" db:"cpu_millicores"`
	MemoryMiB     int64 `json:"memory_mib" db:"memory_mib"`
	DiskMiB       int64 `json:"disk_mib" db:"disk_mib"`
}

func (a Amount) minus(b Amount) Amount {
	return Amount{a.CPUMillicores - b.CPUMillicores, a.MemoryMiB - b.MemoryMiB, a.DiskMiB - b.DiskMiB}
}

// NodeView is what placement knows of a node.
type NodeView struct {
	ID, Name, Location string
	Labels             map[string]string
	Status             string // ONLINE, OFFLINE, DRAINING or MAINTENANCE
	Total              Amount // capacity × overcommit
	Reserved           Amount // by active allocations
	PortsFit           bool   // the ports can be had on one of its addresses
}

// Free is what can still be given; it is negative when the operator has shrunk the node below what
// was given away.
func (v NodeView) Free() Amount { return v.Total.minus(v.Reserved) }

// Reason is why a node was refused.
type Reason struct {
	Code    string `json:"code"`    // not_there, offline, draining, maintenance, location, labels, cpu, memory, disk, ports
	Message string `json:"message"` // for a customer
}

// Fit chooses a node for a need and says why each other node cannot take it. It is pure. chosen is ""
// when none fits. Nodes that would fit but were not chosen are not in refused.
func Fit(nodes []NodeView, n Need) (chosen string, refused map[string]Reason) {
	ranked, refused := rank(nodes, n)
	for _, v := range ranked {
		if v.PortsFit {
			return v.ID, refused
		}
		refused[v.ID] = noPorts
	}
	return "", refused
}

var noPorts = Reason{"ports", "has not enough free ports"}

// rank returns the nodes that have room, best first; ports are not looked at.
func rank(nodes []NodeView, n Need) (ranked []NodeView, refused map[string]Reason) {
	refused = map[string]Reason{}
	for _, v := range nodes {
		if r, ok := refuse(v, n); ok {
			refused[v.ID] = r
		} else {
			ranked = append(ranked, v)
		}
	}
	slices.SortFunc(ranked, func(a, b NodeView) int {
		by := cmp.Compare(load(a, n), load(b, n))
		if !n.Spread {
			by = -by
		}
		return cmp.Or(by, cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return ranked, refused
}

// load is how full a node would be with the need: the fullest of its resources.
func load(v NodeView, n Need) float64 {
	part := func(reserved, need, total int64) float64 {
		if total <= 0 {
			return 0
		}
		return (float64(reserved) + float64(need)) / float64(total)
	}
	return max(
		part(v.Reserved.CPUMillicores, n.CPUMillicores, v.Total.CPUMillicores),
		part(v.Reserved.MemoryMiB, n.MemoryMiB, v.Total.MemoryMiB),
		part(v.Reserved.DiskMiB, n.DiskMiB, v.Total.DiskMiB),
	)
}

// refuse says why a node cannot take a need, ports aside.
func refuse(v NodeView, n Need) (Reason, bool) {
	switch {
	case n.Node != "" && n.Node != v.ID:
		return Reason{"not_asked", "is not the one that was asked for"}, true
	case n.Resident && n.Node != "":
		return Reason{}, false
	case v.Status == "DRAINING":
		return Reason{"draining", "takes no new servers at the moment"}, true
	case v.Status == "MAINTENANCE":
		return Reason{"maintenance", "is being worked on"}, true
	case v.Status != "ONLINE":
		return Reason{"offline", "is not reachable"}, true
	case n.Location != "" && !strings.EqualFold(n.Location, v.Location):
		return Reason{"location", "is in another place"}, true
	}
	for k, want := range n.Labels {
		if got, ok := v.Labels[k]; !ok || got != want {
			return Reason{"labels", "is of another kind"}, true
		}
	}
	return refuseAmount(v.Free(), Amount{n.CPUMillicores, n.MemoryMiB, n.DiskMiB})
}

// refuseAmount says which of the resources is short.
func refuseAmount(free, need Amount) (Reason, bool) {
	for _, c := range []struct {
		code, what string
		need, free int64
	}{
		{"cpu", "thousandths of a CPU core", need.CPUMillicores, free.CPUMillicores},
		{"memory", "MiB of memory", need.MemoryMiB, free.MemoryMiB},
		{"disk", "MiB of disk", need.DiskMiB, free.DiskMiB},
	} {
		if c.need > 0 && c.need > c.free {
			return Reason{c.code, fmt.Sprintf("has %d %s left, and %d are needed", max(c.free, 0), c.what, c.need)}, true
		}
	}
	return Reason{}, false
}
