package fleet

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/mambahost/mamba/collections/collectionstest"
)

func TestMain(m *testing.M) {
	os.Exit(collectionstest.Run(func() int {
		code := m.Run()
		if left := collectionstest.LeftBehind(10 * time.Second); left != "" && code == 0 {
			fmt.Fprintln(os.Stderr, "goroutines left behind:\n"+left)
			code = 1
		}
		return code
	}))
}
