package fleet

import (
	"slices"
	"sync"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/incidents"
)

// book is incidents in memory, committed with their transaction.
type book struct {
	mu   sync.Mutex
	open map[string]int // fingerprint → count
	log  []string       // "open <kind>", "resolve <fingerprint's kind>"
}

func (b *book) Open(tx core.App, i incidents.Incident) error {
	collections.AfterCommit(tx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.open == nil {
			b.open = map[string]int{}
		}
		b.open[i.Fingerprint]++
		b.log = append(b.log, "open "+i.Kind)
	})
	return nil
}

func (b *book) Resolve(tx core.App, fingerprint, _ string) error {
	collections.AfterCommit(tx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.open[fingerprint] > 0 {
			delete(b.open, fingerprint)
			b.log = append(b.log, "resolve "+fingerprint)
		}
	})
	return nil
}

func (b *book) count(fingerprint string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open[fingerprint]
}

func (b *book) kinds() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.log)
}
