package servers

import (
	"flag"
	"fmt"
	"os"
)

// nightlyChecks runs of T10 are 70,000 operations; with those of alloc and jobs they are more than the
// 100,000 of the programme.
const nightlyChecks = "1000"

// wholeCounts is called before the tests run: the nightly lane runs the properties of this package ten
// times as often. Seeds are fresh in every lane, and printed when one fails.
func wholeCounts() {
	flag.Parse()
	if checks := flag.Lookup("rapid.checks"); os.Getenv("MAMBA_NIGHTLY") != "" && checks.Value.String() == checks.DefValue {
		if err := flag.Set("rapid.checks", nightlyChecks); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
