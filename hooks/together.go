package hooks

import (
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/hooks/cluster"
)

// openCluster makes this instance one of those on its database, and binds what has to reach the others.
func (p *Panel) openCluster() (*cluster.Cluster, error) {
	c, err := cluster.New(p.app, cluster.Config{
		Database: p.config.Database, Release: p.config.Version, Log: p.log,
		Address: p.config.nodePublic(p.config.publicURL(p.config.HTTPAddress)), // with --node-listen :0 no other can reach this one
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

var _ core.App
