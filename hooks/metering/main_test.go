package metering

import (
	"os"
	"testing"

	"github.com/mambahost/mamba/collections/postgres/postgrestest"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimMedium) != "" {
		victim()
		return
	}
	os.Exit(postgrestest.Main(m))
}
