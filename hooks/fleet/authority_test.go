package fleet

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/wings/wire"
)

type nodeRow = collections.Node

// verifyAt checks the listener's chain as a node with that clock does.
func verifyAt(p *panel, now time.Time) error {
	t := p.trust.Load()
	between := x509.NewCertPool()
	between.AddCert(t.issuing.cert)
	_, err := t.listener.Leaf.Verify(x509.VerifyOptions{
		Roots: t.pool, Intermediates: between, CurrentTime: now, DNSName: wire.PanelServerName,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

func TestAuthorityIsMadeOnceAndSealed(t *testing.T) {
	t.Parallel()
	p := newPanel(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, _, err := p.Authority(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, first, err := p.Authority()
	if err != nil {
		t.Fatal(err)
	}
	p.renew(t)
	rootPEM, second, err := p.Authority()
	if err != nil || first != second || len(second) != 64 {
		t.Fatalf("fingerprints %s and %s, %v", first, second, err)
	}
	root, err := parsePEM(rootPEM)
	if err != nil || !root.IsCA || wire.Fingerprint(root.Raw) != second {
		t.Fatalf("the root: %v", err)
	}
	rows, err := collections.Every[collections.Authority](p.app, collections.Authorities, "kind", 0)
	if err != nil || len(rows) != 2 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, r := range rows {
		if !r.Active() || strings.Contains(r.Key(), "PRIVATE") || !strings.HasPrefix(r.Key(), "m1:") {
			t.Errorf("%s: active %t, key begins %.12q", r.Kind(), r.Active(), r.Key())
		}
	}
	if got := count(t, p.app, collections.AuditLogs, dbx.HashExp{"action": "authority.create"}); got != 2 {
		t.Errorf("%d audit rows", got)
	}
}

func TestAuthorityLifetimes(t *testing.T) {
	t.Parallel()
	p := newPanel(t, func(cfg *Config) { cfg.Cluster = (&circle{}).join() })
	if _, _, err := p.Authority(); err != nil {
		t.Fatal(err)
	}
	tr := p.trust.Load()
	for _, c := range []struct {
		name string
		cert *x509.Certificate
		life time.Duration
	}{{"root", tr.roots[0], rootLife}, {"issuing", tr.issuing.cert, issuingLife}, {"listener", tr.listener.Leaf, listenerLife}, {"peer", tr.peer.Leaf, peerLife}} {
		if left := time.Until(c.cert.NotAfter); left > c.life || left < c.life-time.Minute {
			t.Errorf("%s lives for %s", c.name, left)
		}
		if c.name != "listener" && c.name != "peer" && (!c.cert.IsCA || c.cert.KeyUsage&x509.KeyUsageCertSign == 0) {
			t.Errorf("%s cannot sign", c.name)
		}
	}
	if tr.listener.Leaf.IsCA || !slices.Equal(tr.listener.Leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Error("the listener's certificate can do more than serve")
	}
	if tr.peer.Leaf.IsCA || !slices.Equal(tr.peer.Leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(tr.peer.Leaf.DNSNames) != 0 {
		t.Error("what an instance shows to others can do more than ask")
	}
}

func TestOwnCertificatesAreReplacedBeforeTheyEnd(t *testing.T) {
	t.Parallel()
	p := newPanel(t)
	now := time.Now()
	if err := p.ensureAuthority(now); err != nil {
		t.Fatal(err)
	}
	first := p.trust.Load()
	if err := p.ensureAuthority(now.Add(listenerLife / 2)); err != nil || p.trust.Load().listener.Leaf.SerialNumber.Cmp(first.listener.Leaf.SerialNumber) != 0 {
		t.Fatalf("replaced early, or %v", err)
	}
	if err := p.ensureAuthority(now.Add(listenerLife * 3 / 4)); err != nil {
		t.Fatal(err)
	}
	second := p.trust.Load()
	if second.listener.Leaf.SerialNumber.Cmp(first.listener.Leaf.SerialNumber) == 0 || !second.issuing.cert.Equal(first.issuing.cert) {
		t.Error("the listener's certificate was not replaced, or the issuing one was")
	}
	later := now.Add(issuingLife * 3 / 4)
	if err := p.ensureAuthority(later); err != nil {
		t.Fatal(err)
	}
	third := p.trust.Load()
	if third.issuing.cert.Equal(first.issuing.cert) || !third.roots[0].Equal(first.roots[0]) {
		t.Error("the issuing certificate was not replaced, or the root was")
	}
	if err := verifyAt(p, later); err != nil {
		t.Errorf("the new chain: %v", err)
	}
	if got := count(t, p.app, collections.Authorities, dbx.HashExp{"active": true}); got != 2 {
		t.Errorf("%d active authorities", got)
	}
}

func TestListenerCertificateFollowsThePublicAddress(t *testing.T) {
	t.Parallel()
	p := newPanel(t, func(c *Config) { c.PublicAddress = "panel.example.com:9443" })
	if _, _, err := p.Authority(); err != nil {
		t.Fatal(err)
	}
	if err := p.trust.Load().listener.Leaf.VerifyHostname("panel.example.com"); err != nil {
		t.Error(err)
	}
	if got := p.JoinCommand("T"); got != "wings join https://panel.example.com:9443 --token T" {
		t.Errorf("join command %q", got)
	}
	p.config.PublicAddress = "2001:db8::7"
	p.renew(t)
	if _, _, err := p.Authority(); err != nil {
		t.Fatal(err)
	}
	if err := p.trust.Load().listener.Leaf.VerifyHostname("2001:db8::7"); err != nil {
		t.Error(err)
	}
	if err := p.trust.Load().listener.Leaf.VerifyHostname("panel.example.com"); err == nil {
		t.Error("the old address is still named")
	}
}

func TestRootTakenOfflineSignsNothingNew(t *testing.T) {
	t.Parallel()
	p := newPanel(t)
	now := time.Now()
	if err := p.ensureAuthority(now); err != nil {
		t.Fatal(err)
	}
	err := collections.Tx(p.app, nil, func(tx core.App) error {
		row, err := collections.One[collections.Authority](tx, collections.Authorities, dbx.HashExp{"kind": "root"})
		if err != nil {
			return err
		}
		row.SetKey("")
		return permit.Save(tx, row)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.ensureAuthority(now.Add(listenerLife)); err != nil {
		t.Errorf("the listener's certificate needs no root: %v", err)
	}
	if err := p.ensureAuthority(now.Add(issuingLife)); !errors.Is(err, ErrRootOffline) {
		t.Errorf("a new issuing certificate without the root: %v", err)
	}
}

func TestStolenKeyRowOfAnotherAuthorityIsRefused(t *testing.T) {
	t.Parallel()
	p := newPanel(t)
	if _, _, err := p.Authority(); err != nil {
		t.Fatal(err)
	}
	err := collections.Tx(p.app, nil, func(tx core.App) error {
		root, err := collections.One[collections.Authority](tx, collections.Authorities, dbx.HashExp{"kind": "root"})
		if err != nil {
			return err
		}
		issuing, err := collections.One[collections.Authority](tx, collections.Authorities, dbx.HashExp{"kind": "issuing"})
		if err != nil {
			return err
		}
		issuing.SetKey(root.Key())
		return permit.Save(tx, issuing)
	})
	if err != nil {
		t.Fatal(err)
	}
	p.renew(t)
	if _, _, err := p.Authority(); err == nil {
		t.Error("a key that was moved to another row was used")
	}
}
