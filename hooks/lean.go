package hooks

import (
	"os"
	"runtime/debug"
	"time"
)

// startGC is how much the heap may grow between two collections, in percent of what lives, until the
// panel has started. All that a start makes is less than that; collecting it five times in between
// takes a tenth of the time.
const startGC = 400

// leanFor is how much longer than the start that lasts: the first requests come right after it.
const leanFor = time.Second

// StartLean puts collections off until a moment after the function that it returns is called, which goes
// back to how it was and gives the memory that the start took back to the system. GOGC in the environment is left
// alone.
func StartLean() (started func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	before := debug.SetGCPercent(startGC)
	return func() {
		time.AfterFunc(leanFor, func() {
			debug.SetGCPercent(before)
			debug.FreeOSMemory()
		})
	}
}
