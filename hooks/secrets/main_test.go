package secrets_test

import (
	"os"
	"testing"

	"github.com/mambahost/mamba/collections/collectionstest"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimDir) != "" {
		os.Exit(victim())
	}
	os.Exit(collectionstest.Main(m))
}
