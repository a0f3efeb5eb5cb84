package collections

import (
	"time"

	"github.com/pocketbase/pocketbase/tools/types"
)

// Stamp is a time as a date column holds it: what a statement of one's own compares with or writes.
func Stamp(t time.Time) string { return t.UTC().Format(types.DefaultDateLayout) }
