package alloc_test

import (
	"testing"

	"github.com/pocketbase/pocketbase/core"
)

func BenchmarkAddPortsOfTheLargestEntry(b *testing.B) {
	h := newHouse(b)
	for b.Loop() {
		b.StopTimer()
		if _, err := h.NonconcurrentDB().NewQuery("DELETE FROM port_pools").Execute(); err != nil {
			b.Fatal(err)
		}
		node, err := h.FindFirstRecordByFilter("nodes", "")
		var id string
		if err != nil {
			id = h.node(b, "n1", nil)
		} else {
			id = node.Id
		}
		b.StartTimer()
		h.add(b, id, "10.0.0.1", "1024-33791")
	}
}

// A reservation on a node of 10,000 ports of which 9,000 are taken, rolled back each time.
func BenchmarkReserve(b *testing.B) {
	h := newHouse(b)
	h.add(b, h.node(b, "n1", nil), "10.0.0.1", "2000-6999")
	if _, err := h.NonconcurrentDB().NewQuery("UPDATE port_pools SET is_allocated = TRUE, allocated_to_server = 'other' WHERE port < 6500").Execute(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := h.reserve(game("server000000001")); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := h.tx(func(tx core.App) error { return h.alloc.Release(tx, "server000000001") }); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
