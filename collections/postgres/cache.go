package postgres

import (
	"container/list"
	"sync"

	"github.com/mambahost/mamba/collections/postgres/dialect"
)

// cacheSize is how many translated texts are kept. PocketBase's own statements are a few hundred;
// those with the random aliases of a filter push each other out.
const cacheSize = 2048

// maxCached is the longest text in bytes that is kept.
const maxCached = 16 << 10

// cache keeps the translation of the texts that were used last.
type cache struct {
	size int

	mu    sync.Mutex // guards all below
	byKey map[string]*list.Element
	used  *list.List // of *cached, the last used in front
}

type cached struct {
	query string
	parts []dialect.Part
}

func newCache(size int) *cache {
	return &cache{size: size, byKey: map[string]*list.Element{}, used: list.New()}
}

func (c *cache) rewrite(query string) []dialect.Part {
	c.mu.Lock()
	if e, ok := c.byKey[query]; ok {
		c.used.MoveToFront(e)
		parts := e.Value.(*cached).parts
		c.mu.Unlock()
		return parts
	}
	c.mu.Unlock()
	parts := dialect.Rewrite(query)
	if len(query) > maxCached {
		return parts
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byKey[query]; !ok {
		c.byKey[query] = c.used.PushFront(&cached{query, parts})
		if c.used.Len() > c.size {
			last := c.used.Back()
			c.used.Remove(last)
			delete(c.byKey, last.Value.(*cached).query)
		}
	}
	return parts
}
