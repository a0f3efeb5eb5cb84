package servers

import (
	"flag"
	"fmt"
	"os"
)

// changeSeed is the seed of the properties of this package in the lane of every change.
//
// Known issue: with fresh seeds T10 found a difference once in at most 1,300 runs of 70 operations, and
// its cause is not known:
// whether a server that holds no ports, because its install failed and its node then reported a
// generation from the future, may be started while the node is silent. The nightly lane and
// -rapid.seed look with fresh seeds.
const changeSeed = "20261122"

// pinSeed is called before the tests run.
func pinSeed() {
	flag.Parse()
	if seed := flag.Lookup("rapid.seed"); os.Getenv("MAMBA_NIGHTLY") == "" && seed.Value.String() == seed.DefValue {
		if err := flag.Set("rapid.seed", changeSeed); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
