// Package metering keeps what servers used: samples as nodes measured them, and what is made of them.
//
// It owns the store of samples, which is no collection: a file or a schema of its own beside
// PocketBase's database, because there are thousands of rows for each row of anything else. It refuses
// to measure anything itself, to believe a node about servers that are not placed there, and to know
// what a sample costs.
//
// Its one invariant: a sample is acknowledged only when it would survive a power cut, and counts once
// however often it comes: for the server that was placed on that node under that epoch, or not at all.
package metering

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/hooks/incidents"
)

// DefaultRetention is how long samples are kept.
const DefaultRetention = 7 * 24 * time.Hour

// Limits of what is believed of a node's clock, and of retention.
const (
	maxAhead     = 48 * time.Hour     // a window that begins later is refused; as far as certificates are dated back
	minRetention = 2 * 24 * time.Hour // the 24 h chart, and a day of late samples
	pruneTimeout = 30 * time.Minute   // of one night
)

// Incidents is incidents.Book.
type Incidents interface {
	Open(tx core.App, i incidents.Incident) error
}

// Config of Metering. App, Store and Incidents are required.
type Config struct {
	App       core.App
	Store     Store
	Incidents Incidents
	Retention time.Duration // of samples. Default DefaultRetention, at least two days
	Log       *slog.Logger  // default: slog.Default()
}

// Metering is the room. Its methods are safe for concurrent use.
type Metering struct {
	Config
}

// New checks the configuration. Close it.
func New(c Config) (*Metering, error) {
	if c.App == nil || c.Store == nil || c.Incidents == nil {
		return nil, errors.New("metering: App, Store and Incidents are required")
	}
	if c.Retention == 0 {
		c.Retention = DefaultRetention
	}
	if c.Retention < minRetention {
		return nil, fmt.Errorf("metering: samples must be kept for %v at least, not %v", minRetention, c.Retention)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Metering{Config: c}, nil
}

// Prune removes the samples of whole days that are older than the retention at that time.
func (m *Metering) Prune(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, pruneTimeout)
	defer cancel()
	removed, err := m.Store.Prune(ctx, now.Add(-m.Retention))
	if err != nil {
		return fmt.Errorf("prune samples: %w", err)
	}
	if removed > 0 {
		m.Log.Info("old samples were removed", "samples", removed, "older_than", now.Add(-m.Retention).UTC())
	}
	return nil
}

// Count returns how many samples there are of a tenant.
func (m *Metering) Count(ctx context.Context, tenant string) (int64, error) {
	return m.Store.Count(ctx, tenant)
}

// Forget removes the samples of a tenant that is gone and returns how many there were.
func (m *Metering) Forget(ctx context.Context, tenant string) (int64, error) {
	if tenant == "" {
		return 0, errors.New("metering: there is no such tenant to forget")
	}
	return m.Store.Forget(ctx, tenant)
}

// Close closes the store.
func (m *Metering) Close() error { return m.Store.Close() }
