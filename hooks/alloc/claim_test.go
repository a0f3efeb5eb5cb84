package alloc

import (
	"errors"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/wings/wire"
)

// A port that was taken between the choice and the claim is not taken again. The lock and SQLite's
// one writer make this unreachable from outside, so the claim is made by hand.
func TestAClaimOfATakenPortRollsBack(t *testing.T) {
	t.Parallel()
	app := collectionstest.New(t)
	for i, owner := range []string{"", "server000000001"} {
		_, err := app.NonconcurrentDB().Insert("port_pools", dbx.Params{"id": []string{"port00000000001", "port00000000002"}[i], "node": "n", "ip_address": "10.0.0.1",
			"port": 2000 + i, "protocol": "tcp", "is_allocated": owner != "", "allocated_to_server": owner}).Execute()
		if err != nil {
			t.Fatal(err)
		}
	}
	ports := []wire.Port{{HostIP: "10.0.0.1", HostPort: 2000, Protocol: wire.TCP}, {HostIP: "10.0.0.1", HostPort: 2001, Protocol: wire.TCP}}
	err := collections.Tx(app, []collections.Lock{Lock}, func(tx core.App) error { return claim(tx, "n", "server000000002", ports) })
	if !errors.Is(err, ErrRaced) {
		t.Errorf("%v", err)
	}
	if n, err := app.CountRecords("port_pools", dbx.HashExp{"allocated_to_server": "server000000002"}); err != nil || n != 0 {
		t.Errorf("%d ports were taken, %v", n, err)
	}
}
