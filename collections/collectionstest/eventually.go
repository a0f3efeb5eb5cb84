package collectionstest

import (
	"testing"
	"time"
)

// Patience is for a machine that does other things; nothing is measured against it.
const Patience = 90 * time.Second

// Eventually waits until ok, looking again every 20 ms; the test fails after Patience. It is for what
// several instances do in real time: in a bubble synctest.Wait is better.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(Patience); !ok(); <-look.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, Patience)
		}
	}
}
