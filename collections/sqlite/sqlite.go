// Package sqlite opens the files of the embedded database.
package sqlite

import (
	"strings"

	"github.com/pocketbase/dbx"
	_ "modernc.org/sqlite" // the driver
)

// pragmas are PocketBase's own (core.DefaultDBConnect); the wait comes first, so that setting the others
// may wait, too.
var pragmas = []string{
	"_pragma=busy_timeout(10000)", "_pragma=journal_mode(WAL)", "_pragma=journal_size_limit(200000000)", "_pragma=synchronous(NORMAL)",
	"_pragma=foreign_keys(ON)", "_pragma=temp_store(MEMORY)", "_pragma=cache_size(-32000)", "_defensive=1",
	// A reader that meets a half-written index of the log takes the writer's lock for a moment to read it
	// again. A transaction that began as a reader and wants to write in that moment is not made to wait but
	// refused, SQLITE_BUSY; one that has the lock from its beginning waits there.
	"_txlock=immediate",
}

// Connect is PocketBase's DBConnect for a file. more are further parameters of the driver, which come
// after those that every file has, e.g. "_pragma=synchronous(OFF)".
func Connect(path string, more ...string) (*dbx.DB, error) {
	return dbx.Open("sqlite", path+"?"+strings.Join(append(pragmas[:len(pragmas):len(pragmas)], more...), "&"))
}
