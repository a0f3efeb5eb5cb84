package main

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Forcing a node out gives its servers up, and nothing else keeps it.
func TestANodeForcedOutTakesItsServersAlong(t *testing.T) {
	t.Parallel()
	p := newPanel(t, "--local-node", "--node-ports", portRange(t, 5))
	p.start()
	c, root := p.customer("nora"), p.super()
	s := c.create(demoServer("stranded"))
	t.Cleanup(func() { removeContainers(t, s.ID) }) // nobody answers for it any more
	c.until(s.ID, 2*time.Minute, "RUNNING")
	var nodes struct{ Items []struct{ ID string } }
	root.ok("GET", "/api/v1/admin/nodes", nil, &nodes)
	node := "/api/v1/admin/nodes/" + nodes.Items[0].ID
	if a := root.do("DELETE", node, nil); a.status != http.StatusConflict {
		t.Fatalf("without force: %d %s", a.status, a.raw)
	}
	if a := root.do("DELETE", node+"?force=true", nil); a.status >= 300 {
		t.Fatalf("with force: %d %s", a.status, a.raw)
	}
	c.until(s.ID, 10*time.Second, "DELETED")
	var held struct{ Items []struct{ Server string } }
	root.ok("GET", "/api/v1/admin/allocations?status=ACTIVE", nil, &held)
	if len(held.Items) != 0 {
		t.Errorf("%d allocations are still held", len(held.Items))
	}
	root.ok("GET", "/api/v1/admin/nodes", nil, &nodes)
	if len(nodes.Items) != 0 {
		t.Errorf("the node is still listed")
	}
}

// removeContainers takes away what a test left on purpose.
func removeContainers(t *testing.T, server string) {
	t.Helper()
	docker := func(args ...string) *exec.Cmd { return onEngine(exec.Command("docker", args...)) }
	ids, err := docker("ps", "-aq", "--filter", "label=host.mamba.server="+server).Output()
	if err != nil {
		t.Errorf("list containers of %s: %v", server, err)
	}
	for id := range strings.FieldsSeq(string(ids)) {
		if out, err := docker("rm", "-f", id).CombinedOutput(); err != nil {
			t.Errorf("remove container %s: %v %s", id, err, out)
		}
	}
}
