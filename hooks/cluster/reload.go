package cluster

import (
	"github.com/pocketbase/pocketbase/core"
)

// Topics by which instances tell each other that what they keep in memory is old. A room with a cache
// of its own publishes and subscribes to one like them, and reloads in OnGap.
const (
	TopicCollections = "reload.collections"
	TopicSettings    = "reload.settings"
	TopicAuthority   = "reload.authority" // the certificates that nodes are trusted by
)

// BindReload keeps PocketBase's cached collections and settings those of the database. Before Start.
func (c *Cluster) BindReload() {
	c.Subscribe(TopicCollections, func(m Message) {
		if m.From != c.id { // here PocketBase has done it
			c.reload("collections", c.app.ReloadCachedCollections)
		}
	})
	c.Subscribe(TopicSettings, func(m Message) {
		if m.From != c.id {
			c.reload("settings", c.app.ReloadSettings)
		}
	})
	if c.clustered() {
		c.OnGap(func() {
			c.reload("collections", c.app.ReloadCachedCollections)
			c.reload("settings", c.app.ReloadSettings)
		})
	}
}

// reload runs one at a time: of two at once, the one that read first could store last.
func (c *Cluster) reload(what string, fn func() error) {
	c.reloading.Lock()
	defer c.reloading.Unlock()
	if err := fn(); err != nil {
		c.log.Error("what another instance changed is not reloaded", "what", what, "error", err)
	}
}

// ModelWritten tells the others about changed collections and settings, in the transaction that
// changes them. It is the whole body of OnModelCreateExecute, OnModelUpdateExecute and
// OnModelDeleteExecute.
func (c *Cluster) ModelWritten(e *core.ModelEvent) error {
	if err := e.Next(); err != nil || !c.clustered() {
		return err
	}
	switch e.Model.(type) {
	case *core.Collection:
		return c.Publish(e.App, TopicCollections, nil)
	case *core.Settings:
		return c.Publish(e.App, TopicSettings, nil)
	}
	return nil
}
