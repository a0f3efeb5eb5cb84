package fleet

import (
	"net"
	"testing"

	"github.com/hashicorp/yamux"

	"github.com/mambahost/mamba/wings/wire"
)

// pair returns a session over a pipe.
func pair(t *testing.T, kind string) *session {
	t.Helper()
	a, b := net.Pipe()
	client, err := yamux.Client(a, sessionConfig(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	server, err := yamux.Server(b, sessionConfig(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return &session{Session: client, node: "n", kind: kind}
}

func TestBulkSessionsAreAskedForBeforeOneIsShared(t *testing.T) {
	t.Parallel()
	l := newLinks()
	if s, ask, _ := l.pickBulk("n", false); s != nil || !ask {
		t.Fatal("the first transfer does not ask")
	}
	if l.addBulk(pair(t, wire.LinkBulk)) != true || l.addBulk(pair(t, wire.LinkBulk)) != false {
		t.Fatal("of two that came for one that was asked, not exactly one was taken")
	}
	first, ask, _ := l.pickBulk("n", false)
	if first == nil || ask {
		t.Fatal("an idle session is not used")
	}
	for range wire.MaxBulkConnections - 1 {
		if s, ask, _ := l.pickBulk("n", false); s != nil || !ask {
			t.Fatal("a busy session was shared while another could be asked for")
		}
	}
	if s, ask, _ := l.pickBulk("n", false); s != nil || ask {
		t.Fatal("a busy session was shared while others were on their way")
	}
	if s, ask, _ := l.pickBulk("n", true); s != first || ask {
		t.Fatal("who would share does not get what there is")
	}
	for range wire.MaxBulkConnections - 1 {
		if !l.addBulk(pair(t, wire.LinkBulk)) {
			t.Fatal("one that was asked for was not taken")
		}
	}
	used := map[*session]bool{first: true}
	for range wire.MaxBulkConnections - 1 {
		s, ask, _ := l.pickBulk("n", false)
		if s == nil || ask || used[s] {
			t.Fatal("an idle session is left unused")
		}
		used[s] = true
	}
	if s, ask, _ := l.pickBulk("n", false); s == nil || s == first || ask {
		t.Error("with all in use the least used one is not shared")
	}
	first.Close()
	l.drop(first)
	if s, ask, _ := l.pickBulk("n", false); s != nil || !ask {
		t.Error("a closed session is not replaced")
	}
	l.unask("n")
	l.unask("n") // never below nothing
	if l.wantsBulk("n") {
		t.Error("asked for none and wants one")
	}
}

func TestOlderSessionNeverRemovesANewerOne(t *testing.T) {
	t.Parallel()
	l := newLinks()
	first, second := pair(t, wire.LinkControl), pair(t, wire.LinkControl)
	if old := l.setControl(first); old != nil {
		t.Error("the first replaces something")
	}
	if old := l.setControl(second); old != first {
		t.Error("the second does not replace the first")
	}
	l.drop(first)
	if l.control("n") != second {
		t.Error("the end of the older link ended the newer one")
	}
	l.drop(second)
	if l.linked("n") != nil || len(l.nodesLinked()) != 0 || len(l.all()) != 0 {
		t.Errorf("after both ended there are %d sessions", len(l.all()))
	}
}
