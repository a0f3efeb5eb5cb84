package blueprints

import (
	"fmt"
	"slices"

	"github.com/mambahost/mamba/wings/wire"
)

// PortRequest is one host port that a server needs, for the room that hands ports out.
type PortRequest struct {
	Name       string          // of the blueprint's port
	Protocols  []wire.Protocol // the same number for each
	HostHint   int             // to try first; 0: none
	OffsetFrom string          // the number is Offset above the first one of that port; empty: free to choose
	Offset     int
	Count      int // consecutive numbers, ≥ 1
}

// PortRequests lists what has to be reserved, in the order of the blueprint. A port that others hang
// on (OffsetFrom) may come after them.
func (b *Blueprint) PortRequests() []PortRequest {
	all := make([]PortRequest, len(b.Ports))
	for i, p := range b.Ports {
		all[i] = PortRequest{
			Name: p.Name, Protocols: p.protocols(), HostHint: int(p.HostPortHint),
			OffsetFrom: p.OffsetFrom, Offset: int(p.Offset), Count: int(max(p.Count, 1)),
		}
		if base, ok := b.Port(p.OffsetFrom); ok && base.HostPortHint > 0 {
			all[i].HostHint = int(base.HostPortHint + p.Offset)
		}
	}
	return all
}

func (p Port) protocols() []wire.Protocol {
	if p.Protocol == "both" {
		return []wire.Protocol{wire.TCP, wire.UDP}
	}
	return []wire.Protocol{wire.Protocol(p.Protocol)}
}

// containerPort is the first number inside, or 0 when it is the same as outside.
func (b *Blueprint) containerPort(p Port) int64 {
	if base, ok := b.Port(p.OffsetFrom); ok {
		if base.ContainerPort == 0 {
			return 0
		}
		return base.ContainerPort + p.Offset
	}
	return p.ContainerPort
}

// BindPorts joins what the blueprint asks for with what was allocated, and fills in the container's
// side. The allocation has to be exactly what PortRequests asked for.
func (b *Blueprint) BindPorts(allocated []wire.Port) ([]wire.Port, error) {
	type key struct {
		name     string
		protocol wire.Protocol
	}
	given := map[key][]wire.Port{}
	for _, p := range allocated {
		if _, ok := b.Port(p.Name); !ok {
			return nil, fmt.Errorf("port %q was allocated, but the blueprint has none of that name", p.Name)
		}
		given[key{p.Name, p.Protocol}] = append(given[key{p.Name, p.Protocol}], p)
	}
	first := map[string]int{} // host number of each port
	var bound []wire.Port
	for _, p := range b.Ports {
		for _, protocol := range p.protocols() {
			got := given[key{p.Name, protocol}]
			delete(given, key{p.Name, protocol})
			slices.SortFunc(got, func(a, b wire.Port) int { return a.HostPort - b.HostPort })
			if len(got) != int(max(p.Count, 1)) {
				return nil, fmt.Errorf("port %q needs %d %s, %d were allocated", p.Name, max(p.Count, 1), protocol, len(got))
			}
			if known, ok := first[p.Name]; ok && known != got[0].HostPort {
				return nil, fmt.Errorf("port %q needs the same number for tcp and udp, got %d and %d", p.Name, known, got[0].HostPort)
			}
			first[p.Name] = got[0].HostPort
			inside := b.containerPort(p)
			for i, one := range got {
				if one.HostPort != got[0].HostPort+i {
					return nil, fmt.Errorf("port %q needs consecutive numbers, got %d after %d", p.Name, one.HostPort, got[0].HostPort)
				}
				one.ContainerPort = one.HostPort
				if inside > 0 {
					one.ContainerPort = int(inside) + i
				}
				bound = append(bound, one)
			}
		}
	}
	for k := range given {
		return nil, fmt.Errorf("port %q was allocated for %s, which the blueprint does not ask for", k.name, k.protocol)
	}
	for _, p := range b.Ports {
		if base, ok := first[p.OffsetFrom]; ok && first[p.Name] != base+int(p.Offset) {
			return nil, fmt.Errorf("port %q must be %d above port %q, got %d and %d", p.Name, p.Offset, p.OffsetFrom, first[p.Name], base)
		}
	}
	return bound, nil
}
