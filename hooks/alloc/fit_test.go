package alloc_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/hooks/alloc"
)

func drawNodes(t *rapid.T) []alloc.NodeView {
	n := rapid.Int64Range(0, 20)
	amount := func(what string) alloc.Amount {
		return alloc.Amount{CPUMillicores: n.Draw(t, what), MemoryMiB: n.Draw(t, what), DiskMiB: n.Draw(t, what)}
	}
	out := make([]alloc.NodeView, rapid.IntRange(0, 6).Draw(t, "nodes"))
	for i := range out {
		out[i] = alloc.NodeView{
			ID: fmt.Sprint("node", i), Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"),
			Location: rapid.SampledFrom([]string{"Frankfurt", "Helsinki", ""}).Draw(t, "location"),
			Labels:   map[string]string{"disk": rapid.SampledFrom([]string{"nvme", "hdd"}).Draw(t, "disk")},
			Status:   rapid.SampledFrom([]string{"ONLINE", "ONLINE", "ONLINE", "OFFLINE", "DRAINING", "MAINTENANCE", ""}).Draw(t, "status"),
			Total:    amount("total"), Reserved: amount("reserved"), PortsFit: rapid.IntRange(0, 4).Draw(t, "ports") > 0,
		}
	}
	return out
}

func drawNeed(t *rapid.T) alloc.Need {
	n := rapid.Int64Range(0, 10)
	need := alloc.Need{
		CPUMillicores: n.Draw(t, "cpu"), MemoryMiB: n.Draw(t, "memory"), DiskMiB: n.Draw(t, "disk"), Spread: rapid.Bool().Draw(t, "spread"),
		Node:     rapid.SampledFrom([]string{"", "", "", "node0", "node9"}).Draw(t, "node"),
		Location: rapid.SampledFrom([]string{"", "", "frankfurt", "Mars"}).Draw(t, "location"),
	}
	if rapid.Bool().Draw(t, "labels") {
		need.Labels = map[string]string{"disk": "nvme"}
	}
	return need
}

// able is what a node must be to take a need, written down once more.
func able(v alloc.NodeView, n alloc.Need) bool {
	room := func(total, reserved, need int64) bool { return need == 0 || total-reserved >= need }
	place := n.Location == "" || n.Location == "frankfurt" && v.Location == "Frankfurt"
	return v.Status == "ONLINE" && v.PortsFit && place && (n.Node == "" || n.Node == v.ID) && (n.Labels == nil || v.Labels["disk"] == "nvme") &&
		room(v.Total.CPUMillicores, v.Reserved.CPUMillicores, n.CPUMillicores) &&
		room(v.Total.MemoryMiB, v.Reserved.MemoryMiB, n.MemoryMiB) && room(v.Total.DiskMiB, v.Reserved.DiskMiB, n.DiskMiB)
}

func TestFitIsSafeAndLive(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		nodes, need := drawNodes(rt), drawNeed(rt)
		chosen, refused := alloc.Fit(nodes, need)
		anyAble := false
		for _, v := range nodes {
			if anyAble = anyAble || able(v, need); v.ID == chosen && !able(v, need) {
				rt.Fatalf("chose %+v for %+v", v, need)
			}
			r, no := refused[v.ID]
			if able(v, need) && no {
				rt.Fatalf("refused %+v for %+v: %v", v, need, r)
			}
			if no && (r.Code == "" || r.Message == "") {
				rt.Fatalf("refused %s without a reason", v.ID)
			}
		}
		if (chosen != "") != anyAble {
			rt.Fatalf("chose %q of %+v for %+v", chosen, nodes, need)
		}
		if chosen == "" && len(refused) != len(nodes) {
			rt.Fatalf("%d nodes, %d refused, none chosen", len(nodes), len(refused))
		}
	})
}

// The same question gets the same answer in whatever order the nodes come, and one more free node
// never makes a need impossible.
func TestFitDoesNotDependOnOrderAndGrowsWithNodes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		nodes, need := drawNodes(rt), drawNeed(rt)
		chosen, _ := alloc.Fit(nodes, need)
		shuffled := rapid.Permutation(nodes).Draw(rt, "order")
		if again, _ := alloc.Fit(shuffled, need); again != chosen {
			rt.Fatalf("%q, in another order %q", chosen, again)
		}
		more := append(drawNodes(rt), nodes...)
		for i := range len(more) - len(nodes) {
			more[i].ID = fmt.Sprint("more", i)
		}
		if with, _ := alloc.Fit(more, need); chosen != "" && with == "" {
			rt.Fatal("a node more made it impossible")
		}
	})
}

func TestSpreadTakesTheEmptiestAndPackingTheFullest(t *testing.T) {
	t.Parallel()
	at := func(id string, reserved int64) alloc.NodeView {
		return alloc.NodeView{ID: id, Name: id, Status: "ONLINE", PortsFit: true, Total: alloc.Amount{CPUMillicores: 100, MemoryMiB: 100, DiskMiB: 100}, Reserved: alloc.Amount{MemoryMiB: reserved}}
	}
	nodes := []alloc.NodeView{at("half", 50), at("empty", 0), at("full", 90)}
	for _, c := range []struct {
		spread bool
		memory int64
		want   string
	}{{true, 10, "empty"}, {false, 10, "full"}, {false, 11, "half"}, {false, 51, "empty"}, {true, 101, ""}} {
		if got, _ := alloc.Fit(nodes, alloc.Need{MemoryMiB: c.memory, Spread: c.spread}); got != c.want {
			t.Errorf("%d MiB, spread %t: %q, want %q", c.memory, c.spread, got, c.want)
		}
	}
}
