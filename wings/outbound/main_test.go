package outbound

import (
	"os"
	"testing"
)

// A proxy that the environment names would make every connection for us, unchecked. It is named here, where
// nothing listens, so that a request that asked it would fail.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		if err := os.Setenv(name, "http://127.0.0.1:9"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
