package hooks

import (
	"github.com/mambahost/mamba/hooks/cluster"
)

// openCluster makes this instance one of those on its database, and binds what has to reach the others.
func (p *Panel) openCluster() (*cluster.Cluster, error) {
	pg, err := p.config.database.open()
	if err != nil {
		return nil, err
	}
	c, err := cluster.New(p.app, cluster.Config{Database: pg, Release: p.config.Version, Log: p.log})
	if err != nil {
		return nil, err
	}
	return c, nil
}
