package cluster

import (
	"os"
	"testing"

	"github.com/mambahost/mamba/collections/collectionstest"
)

func TestMain(m *testing.M) { os.Exit(collectionstest.Main(m)) }
