package fleet

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mambahost/mamba/collections/collectionstest"
)

func TestMain(m *testing.M) {
	os.Exit(collectionstest.Run(func() int {
		code := m.Run()
		if left := leftBehind(10 * time.Second); left != "" && code == 0 {
			fmt.Fprintln(os.Stderr, "goroutines left behind:\n"+left)
			code = 1
		}
		return code
	}))
}

// leftBehind returns the stacks of goroutines of ours that are still there after the patience.
func leftBehind(patience time.Duration) string {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 4<<20)
	var left []string
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		left = left[:0]
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "mambahost/mamba/") && !strings.Contains(g, "TestMain") && !strings.Contains(g, "postgrestest.") { // its server ends after the tests
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}
