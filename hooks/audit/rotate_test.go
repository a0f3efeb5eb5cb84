package audit_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/secrets"
)

// installation is a database with its master key, and as many panels on it as one likes.
type installation struct {
	t      *testing.T
	app    core.App
	master secrets.Master
	sink   audit.Dir
}

func newInstallation(t *testing.T) *installation {
	t.Helper()
	m, err := secrets.NewMaster(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return &installation{t: t, app: newApp(t), master: m, sink: audit.Dir(t.TempDir())}
}

func (i *installation) panel() (*secrets.Keeper, *audit.Log, *secrets.Keys) {
	i.t.Helper()
	k, err := secrets.New(i.app, i.master)
	if err != nil {
		i.t.Fatal(err)
	}
	keys, err := k.Keys("audit")
	if err != nil {
		i.t.Fatal(err)
	}
	return k, audit.Rotating(keys, i.sink, slog.New(slog.NewTextHandler(io.Discard, nil))), keys
}

func (i *installation) rotate(k *secrets.Keeper, l *audit.Log) {
	i.t.Helper()
	if _, err := k.Rotate(i.t.Context(), i.app, secrets.Rotation{Derived: []string{"audit"}, Anchor: l.Anchor}); err != nil {
		i.t.Fatal(err)
	}
}

func (i *installation) good(when string, l *audit.Log) {
	i.t.Helper()
	reps, err := l.VerifyAll(i.app)
	if err != nil {
		i.t.Fatal(err)
	}
	for _, r := range reps {
		if !r.OK() {
			i.t.Errorf("%s: %+v", when, r)
		}
	}
}

// A panel that has not heard of a rotation goes on with the chain, and every panel verifies all of it.
func TestAChainGoesOnAfterItsKeyWasRotated(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	k, l, _ := i.panel()
	_, other, _ := i.panel()
	const quiet = "quietaaaaaaaaaa"
	write(t, i.app, l, acme, 5)
	write(t, i.app, l, quiet, 3)
	if err := l.WriteHeads(i.app); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		i.rotate(k, l)
		write(t, i.app, other, acme, 2) // has not heard of it
		write(t, i.app, l, acme, 2)
		write(t, i.app, other, fmt.Sprintf("fresh%010d", len(acme)), 1)
		if err := other.WriteHeads(i.app); err != nil {
			t.Fatal(err)
		}
		i.good("after a rotation", l)
		i.good("after a rotation, another panel", other)
	}
	_, fresh, _ := i.panel()
	i.good("after a restart", fresh)
	if rep := verify(t, i.app, fresh, acme); rep.Rows != 17 || rep.Heads == 0 {
		t.Errorf("%+v", rep)
	}
}

func TestARotationBesideWritersForksNoChain(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	k, l, _ := i.panel()
	var wg sync.WaitGroup
	for n := range 3 {
		_, panel, _ := i.panel()
		wg.Go(func() {
			for range 30 {
				write(t, i.app, panel, acme, 1)
				write(t, i.app, panel, fmt.Sprintf("tenant%09d", n), 1)
			}
		})
	}
	for range 4 {
		i.rotate(k, l)
	}
	wg.Wait()
	i.good("beside writers", l)
}

// Whoever learned a key that was replaced can neither change a row, nor cut and continue a chain, nor sign a head.
func TestAReplacedKeyForgesNothing(t *testing.T) {
	t.Parallel()
	for name, forge := range map[string]func(i *installation, old []byte){
		"a row of before, signed again": func(i *installation, old []byte) {
			row, err := collections.One[collections.AuditLog](i.app, collections.AuditLogs, dbx.HashExp{"tenant": acme, "seq": 3})
			if err != nil {
				i.t.Fatal(err)
			}
			row.SetActorName("Mallory")
			exec(i.t, i.app, fmt.Sprintf("UPDATE audit_logs SET actor_name = 'Mallory', mac = '%s' WHERE id = '%s'", oldRowMAC(old, row), row.Id))
		},
		"the newest row, signed with the old key": func(i *installation, old []byte) {
			row, err := collections.One[collections.AuditLog](i.app, collections.AuditLogs, dbx.HashExp{"tenant": acme, "seq": 6})
			if err != nil {
				i.t.Fatal(err)
			}
			row.SetActorName("Mallory")
			mac := oldRowMAC(old, row)
			exec(i.t, i.app, fmt.Sprintf("UPDATE audit_logs SET actor_name = 'Mallory', mac = '%s' WHERE id = '%s'", mac, row.Id))
			exec(i.t, i.app, fmt.Sprintf("UPDATE audit_heads SET mac = '%s' WHERE tenant = '%s'", oldMAC(old, "head", acme, "6", mac), acme))
		},
		"a quiet chain cut, its head signed with the old key": func(i *installation, old []byte) {
			row, err := collections.One[collections.AuditLog](i.app, collections.AuditLogs, dbx.HashExp{"tenant": "quietaaaaaaaaaa", "seq": 2})
			if err != nil {
				i.t.Fatal(err)
			}
			exec(i.t, i.app, "DELETE FROM audit_logs WHERE tenant = 'quietaaaaaaaaaa' AND seq = 3")
			exec(i.t, i.app, fmt.Sprintf("UPDATE audit_heads SET seq = 2, mac = '%s' WHERE tenant = 'quietaaaaaaaaaa'", oldMAC(old, "head", "quietaaaaaaaaaa", "2", row.MAC())))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInstallation(t)
			k, l, keys := i.panel()
			write(t, i.app, l, acme, 5)
			write(t, i.app, l, "quietaaaaaaaaaa", 3)
			old := slices.Clone(keys.All()[0])
			i.rotate(k, l)
			write(t, i.app, l, acme, 1)
			i.good("before the forgery", l)
			forge(i, old)
			reps, err := l.VerifyAll(i.app)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(reps, func(r audit.Report) bool { return !r.OK() }) {
				t.Error("it was not found")
			}
		})
	}
}

func oldRowMAC(key []byte, r *collections.AuditLog) string {
	return oldMAC(key, "row", r.Id, r.Tenant(), fmt.Sprint(r.Seq()), r.Actor(), r.ActorType(), r.ActorName(), r.Action(), r.ResourceType(), r.Resource(),
		r.GetString("metadata"), r.Address(), r.UserAgent(), r.Request(), r.GetDateTime("at").String(), r.Prev())
}

func oldMAC(key []byte, parts ...string) string {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil))
}
