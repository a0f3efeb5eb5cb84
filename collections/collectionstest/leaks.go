package collectionstest

import (
	"runtime"
	"strings"
	"time"
)

// LeftBehind returns the stacks of goroutines of ours that are still there after the patience, "" if
// there are none. Those of the test's own server are not counted; Run ends it later.
func LeftBehind(patience time.Duration) string {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 4<<20)
	var left []string
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		left = left[:0]
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "mambahost/mamba/") && !strings.Contains(g, "TestMain") && !strings.Contains(g, "/postgrestest.") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}
