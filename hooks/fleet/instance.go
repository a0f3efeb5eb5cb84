package fleet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/cluster"
	"github.com/mambahost/mamba/wings/wire"
)

// panelURIPrefix is how a certificate names the instance of the panel that it was made for.
const panelURIPrefix = "mamba://panel/"

const (
	liveFor   = 500 * time.Millisecond // the list of live instances is asked for again after it
	tidyEvery = time.Minute
	tidyAfter = 5 * time.Minute // rows of instances that are not live are removed at this age
)

// topicRevoked carries the id of a node whose certificate ended before its time.
const topicRevoked = "fleet.revoked"

// Cluster is what fleet asks of the instances that share the database; cluster.Cluster is one.
type Cluster interface {
	// ID is this instance's, in the shape of a PocketBase id; a restart is another instance.
	ID() string
	// Alone reports whether there can be no other instance.
	Alone() bool
	// Instances returns those that live.
	Instances(app core.App) ([]cluster.Instance, error)
	Publish(tx core.App, topic string, data []byte) error
	Subscribe(topic string, fn func(cluster.Message))
	// OnDead registers what is done in the transaction that removes a dead instance.
	OnDead(fn func(tx core.App, instance string) error)
}

// alone is the cluster of a panel that has no other instance.
type alone string

func newAlone() alone       { return alone(core.GenerateDefaultRandomId()) }
func (a alone) ID() string  { return string(a) }
func (a alone) Alone() bool { return true }
func (a alone) Instances(core.App) ([]cluster.Instance, error) {
	return []cluster.Instance{{ID: string(a)}}, nil
}
func (a alone) Publish(core.App, string, []byte) error          { return nil }
func (a alone) Subscribe(string, func(cluster.Message))         {}
func (a alone) OnDead(func(tx core.App, instance string) error) {}

// roster remembers for a moment who lives, because every heartbeat and every relayed request asks.
type roster struct {
	mu    sync.Mutex
	list  []cluster.Instance
	until time.Time
}

// live returns the live instances.
func (f *Fleet) live() ([]cluster.Instance, error) {
	f.roster.mu.Lock()
	list, fresh := f.roster.list, time.Now().Before(f.roster.until)
	f.roster.mu.Unlock()
	if fresh {
		return list, nil
	}
	list, err := f.cfg.Cluster.Instances(f.app)
	if err != nil {
		return nil, fmt.Errorf("list the panel's instances: %w", err)
	}
	f.roster.mu.Lock()
	defer f.roster.mu.Unlock()
	f.roster.list, f.roster.until = list, time.Now().Add(liveFor)
	return list, nil
}

// addresses are the node listeners of every live instance, this one first; nil when they are not
// known now, which a node takes as no news.
func (f *Fleet) addresses() []string {
	list, err := f.live()
	if err != nil {
		f.log.Error("nodes are not told of the panel's instances", "error", err)
		return nil
	}
	out := []string{f.PublicAddress()}
	for _, i := range list {
		if i.ID != f.instance && i.Address != "" && !slices.Contains(out, i.Address) && len(out) < wire.MaxInstances {
			out = append(out, i.Address)
		}
	}
	slices.Sort(out[1:])
	return out
}

// present gives the snapshot what this instance shows to nodes and to other instances: what it has,
// for as long as it is good, else something new. The row of a certificate is what makes others
// accept it, so one whose row is gone is replaced, too. Where there can be no others, nothing is stored.
func (f *Fleet) present(tx core.App, t *trust, now time.Time) error {
	old := f.trust.Load()
	if old != nil && sound(old.listener.Leaf, t.issuing.cert, now) {
		t.listener = old.listener
	} else {
		made, err := t.issuePanel(now, f.instance, f.publicHost(), true)
		if err != nil {
			return fmt.Errorf("make the listener's certificate: %w", err)
		}
		t.listener = made
	}
	t.listener.Certificate = [][]byte{t.listener.Leaf.Raw, t.issuing.cert.Raw, t.roots[0].Raw}
	t.client = f.tlsConfig(t)
	if f.cfg.Cluster.Alone() {
		return nil
	}
	if old != nil && sound(old.peer.Leaf, t.issuing.cert, now) {
		t.peer = old.peer
		owner, _, err := panelCertificate(tx, wire.Fingerprint(t.peer.Leaf.Raw))
		if err != nil || owner == f.instance {
			return err
		}
	}
	made, err := t.issuePanel(now, f.instance, "", false)
	if err != nil {
		return fmt.Errorf("make the certificate of this instance: %w", err)
	}
	t.peer = made
	return f.storePeer(tx, made.Leaf)
}

// sound reports whether a certificate of ours was signed by the present issuer and has time left.
func sound(c, issuing *x509.Certificate, now time.Time) bool {
	return !nearsEnd(c, now) && c.CheckSignatureFrom(issuing) == nil
}

// issuePanel makes a certificate of an instance: for its listener, with the name that nodes verify, or
// to show to the listeners of other instances, which then is all that it is good for.
func (t *trust) issuePanel(now time.Time, instance, host string, listener bool) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	uri, err := url.Parse(panelURIPrefix + instance)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := &x509.Certificate{
		NotBefore: now.Add(-wire.CertificateBackdate), NotAfter: now.Add(peerLife),
		Subject: pkix.Name{CommonName: "panel " + instance}, URIs: []*url.URL{uri}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if listener {
		c.Subject.CommonName, c.NotAfter = wire.PanelServerName, now.Add(listenerLife)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.DNSNames = []string{wire.PanelServerName, "localhost"}
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
		if ip := net.ParseIP(host); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else if host != "" {
			c.DNSNames = append(c.DNSNames, host)
		}
	}
	if c.NotAfter.After(t.issuing.cert.NotAfter) {
		c.NotAfter = t.issuing.cert.NotAfter
	}
	leaf, err := sign(c, &key.PublicKey, t.issuing)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, t.issuing.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// storePeer makes other instances accept a certificate of this one.
func (f *Fleet) storePeer(tx core.App, leaf *x509.Certificate) error {
	row, err := collections.NewPanelCertificate(tx)
	if err != nil {
		return err
	}
	row.SetInstance(f.instance)
	row.SetFingerprint(wire.Fingerprint(leaf.Raw))
	row.SetNotAfter(leaf.NotAfter)
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("store the certificate of this instance: %w", err)
	}
	return f.cfg.Audit.Write(tx, audit.System, audit.Entry{
		Action: "authority.instance_certificate", ResourceType: collections.PanelCertificates, Resource: row.Id,
		Metadata: map[string]any{"instance": f.instance, "fingerprint": row.Fingerprint(), "not_after": leaf.NotAfter},
	})
}

// panelCertificate returns which instance a certificate was stored for, and until when; empty for one
// that is not known.
func panelCertificate(app core.App, fingerprint string) (instance string, notAfter time.Time, err error) {
	var rows []struct {
		Instance string         `db:"instance"`
		NotAfter types.DateTime `db:"not_after"`
	}
	err = app.DB().Select("instance", "not_after").From(collections.PanelCertificates).
		Where(dbx.HashExp{"fingerprint": fingerprint}).Limit(1).All(&rows)
	if err != nil || len(rows) == 0 {
		return "", time.Time{}, err
	}
	return rows[0].Instance, rows[0].NotAfter.Time(), nil
}

// forgetInstance removes what a dead instance left: its links, and its right to ask others.
func (f *Fleet) forgetInstance(tx core.App, instance string) error {
	for _, table := range []string{collections.NodeLinks, collections.PanelCertificates} {
		if _, err := tx.NonconcurrentDB().Delete(table, dbx.HashExp{"instance": instance}).Execute(); err != nil {
			return fmt.Errorf("remove %s of instance %s: %w", table, instance, err)
		}
	}
	return nil
}

// tidy removes what instances left that ended without anybody's notice, certificates that are over,
// and makes sure that this instance is known: others may have taken it for dead.
func (f *Fleet) tidy(now time.Time) error {
	list, err := f.live()
	if err != nil {
		return err
	}
	keep := []any{f.instance}
	for _, i := range list {
		keep = append(keep, i.ID)
	}
	old, err := types.ParseDateTime(now.Add(-tidyAfter))
	if err != nil {
		return err
	}
	at, err := types.ParseDateTime(now)
	if err != nil {
		return err
	}
	err = collections.Tx(f.app, []collections.Lock{authorityLock}, func(tx core.App) error {
		gone := dbx.And(dbx.NotIn("instance", keep...), dbx.NewExp("[[created]] < {:old}", dbx.Params{"old": old.String()}))
		over := dbx.NewExp("[[not_after]] < {:now}", dbx.Params{"now": at.String()})
		_, linksErr := tx.NonconcurrentDB().Delete(collections.NodeLinks, gone).Execute()
		if linksErr != nil {
			return fmt.Errorf("remove links of dead instances: %w", linksErr)
		}
		if _, err := tx.NonconcurrentDB().Delete(collections.PanelCertificates, dbx.Or(gone, over)).Execute(); err != nil {
			return fmt.Errorf("remove certificates of dead instances: %w", err)
		}
		return nil
	})
	if err != nil || f.cfg.Cluster.Alone() {
		return err
	}
	owner, _, err := panelCertificate(f.app, wire.Fingerprint(f.trust.Load().peer.Leaf.Raw))
	if err == nil && owner == "" {
		err = f.ensureAuthority(now)
	}
	return err
}
