package fleet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/cluster"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/wings/wire"
)

// How an authority is replaced.
//
//	root:     announced ── every node trusts it ──► active ── its successor is ──► retired ── no node's
//	          (trusted here, told to nodes)         (signs)                        (trusted)   certificate needs it ──► gone
//	issuing:  active ── a third of its life is left, or an operator asks ──► retired (its certificates stay good)

// Bounds.
const (
	maxRoots    = 8                   // that a node names
	endingSoon  = 10 * 24 * time.Hour // before its end a certificate that was not renewed is an incident; it was due 10 days before
	endingCheck = 500                 // nodes looked at
)

// ErrRootAnnounced is a new root while an earlier one waits for nodes.
var ErrRootAnnounced = errors.New("a new root certificate is announced already and waits for nodes")

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// trustsOf is what nodes.trusts holds: fingerprints, sorted; others than well-formed ones are left out.
func trustsOf(roots []string) (string, error) {
	out := []string{}
	for _, r := range roots {
		if len(r) == 64 && strings.Trim(r, "0123456789abcdef") == "" {
			out = append(out, r)
		}
	}
	slices.Sort(out)
	raw, err := json.Marshal(slices.Compact(out))
	return string(raw), err
}

// news is what a node that trusts these roots, and whose certificate is from then, has to be told.
func (t *trust) news(roots []string, issued time.Time) (pemText string, renew bool) {
	have := slices.Clone(roots)
	slices.Sort(have)
	var want []string
	for _, c := range t.roots {
		want = append(want, wire.Fingerprint(c.Raw))
	}
	slices.Sort(want)
	if len(roots) > 0 && !slices.Equal(have, want) {
		pemText = t.rootsPEM()
	}
	made := t.issuing.cert.NotBefore.Add(wire.CertificateBackdate) // both in whole seconds
	return pemText, len(roots) > 0 && issued.Before(made)
}

// rootRows are the roots by what they are now.
type rootRows struct {
	active    *collections.Authority
	announced *collections.Authority // nil: none
	retired   []*collections.Authority
}

func readRoots(app core.App) (rootRows, error) {
	var out rootRows
	rows, err := collections.Every[collections.Authority](app, collections.Authorities, "created", 0, dbx.HashExp{"kind": "root"})
	if err != nil {
		return out, fmt.Errorf("read root certificates: %w", err)
	}
	for _, r := range rows {
		if r.Active() {
			out.active = r
		}
	}
	for _, r := range rows {
		switch {
		case r.Active():
		case out.active != nil && !r.Created().Before(out.active.Created()):
			out.announced = r
		default:
			out.retired = append(out.retired, r)
		}
	}
	return out, nil
}

// waitingFor names the nodes that have a certificate and did not say yet that they trust a root.
func waitingFor(app core.App, fingerprint string) ([]string, error) {
	var rows []struct {
		Name   string         `db:"name"`
		Trusts sql.NullString `db:"trusts"` // null until its first heartbeat
	}
	err := app.DB().Select("name", "trusts").From(collections.Nodes).Where(dbx.NewExp("[[cert_fingerprint]] != ''")).OrderBy("name").All(&rows)
	if err != nil {
		return nil, fmt.Errorf("ask which nodes trust a root certificate: %w", err)
	}
	var out []string
	for _, r := range rows {
		if !strings.Contains(r.Trusts.String, fingerprint) {
			out = append(out, r.Name)
		}
	}
	return out, nil
}

// turnRoot makes an announced root the active one once every node trusts it, and lets a retired one go
// that no certificate in use leads to.
func (f *Fleet) turnRoot(tx core.App, now time.Time) error {
	roots, err := readRoots(tx)
	if err != nil || roots.active == nil {
		return err
	}
	if roots.announced != nil {
		waiting, err := waitingFor(tx, roots.announced.Fingerprint())
		if err != nil || len(waiting) > 0 {
			return err
		}
		return f.activate(tx, roots.announced, now)
	}
	for _, r := range roots.retired {
		var needed int
		err := tx.DB().Select("COUNT(*)").From(collections.NodeCertificates+" c").
			InnerJoin(collections.Nodes+" n", dbx.NewExp("[[n.cert_fingerprint]] = [[c.fingerprint]]")).
			Where(dbx.NewExp("[[c.revoked_at]] = '' AND [[c.created]] <= {:then}", dbx.Params{"then": r.GetDateTime("updated").String()})).Row(&needed)
		if err != nil {
			return fmt.Errorf("ask who needs root certificate %s: %w", r.Id, err)
		}
		if needed > 0 {
			continue
		}
		if err := permit.Delete(tx, r); err != nil {
			return fmt.Errorf("remove root certificate %s: %w", r.Id, err)
		}
		if err := f.noteAuthority(tx, "authority.retired", r); err != nil {
			return err
		}
	}
	return nil
}

// activate has the announced root sign from now on, by way of a new issuing certificate.
func (f *Fleet) activate(tx core.App, row *collections.Authority, now time.Time) error {
	cert, err := parsePEM(row.Certificate())
	if err != nil {
		return fmt.Errorf("root certificate %s: %w", row.Id, err)
	}
	root, err := f.signer(tx, cert, row)
	if err != nil {
		return err
	}
	if err := f.deactivate(tx, "root"); err != nil {
		return err
	}
	row.SetActive(true)
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("activate root certificate %s: %w", row.Id, err)
	}
	if _, err := f.makeAuthority(tx, "issuing", now, root); err != nil {
		return err
	}
	return f.noteAuthority(tx, "authority.activated", row)
}

func (f *Fleet) noteAuthority(tx core.App, action string, row *collections.Authority) error {
	err := f.cfg.Audit.Write(tx, audit.System, audit.Entry{Action: action, ResourceType: collections.Authorities, Resource: row.Id,
		Metadata: map[string]any{"kind": row.Kind(), "fingerprint": row.Fingerprint()}})
	if err != nil {
		return err
	}
	return f.cfg.Cluster.Publish(tx, cluster.TopicAuthority, nil)
}

// remake is a transaction over the authority, after which everybody reads it again.
func (f *Fleet) remake(fn func(tx core.App) error) error {
	locks := []collections.Lock{authorityLock, audit.Lock(""), secrets.Lock(secrets.System)}
	err := collections.Tx(f.app, locks, func(tx core.App) error {
		if err := fn(tx); err != nil {
			return err
		}
		return f.cfg.Cluster.Publish(tx, cluster.TopicAuthority, nil)
	})
	if err != nil {
		return err
	}
	return f.ensureAuthority(time.Now())
}

// RotateIssuing makes a new issuing certificate. Certificates of the old one stay good; nodes are asked
// to renew theirs. rootKey is the PEM of the root's key where that is not in the panel; else empty.
func (f *Fleet) RotateIssuing(rootKey string) error {
	if _, _, err := f.Authority(); err != nil {
		return err
	}
	return f.remake(func(tx core.App) error {
		cert, row, err := authority(tx, "root")
		if err != nil {
			return err
		}
		parent, err := f.signer(tx, cert, row)
		if err != nil {
			return err
		}
		if rootKey != "" {
			if parent.key, err = parseKey(rootKey, cert); err != nil {
				return err
			}
		}
		_, err = f.makeAuthority(tx, "issuing", time.Now(), parent)
		return err
	})
}

func parseKey(text string, cert *x509.Certificate) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("the root's key is not a PEM private key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the root's key is not a PEM private key")
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the key belongs to another root certificate")
	}
	return ec, nil
}

// RotateRoot announces a new root certificate. Nodes learn of it over the links that they have; when all
// of them trust it, it signs. With force that is at once: nodes that did not hear of it have to join again.
// ErrRootAnnounced when one waits already and force is not set.
func (f *Fleet) RotateRoot(force bool) error {
	if _, _, err := f.Authority(); err != nil {
		return err
	}
	return f.remake(func(tx core.App) error {
		roots, err := readRoots(tx)
		if err != nil {
			return err
		}
		if roots.announced != nil && !force {
			return ErrRootAnnounced
		}
		if roots.announced == nil {
			made, err := f.newAuthority("root", time.Now(), signer{})
			if err != nil {
				return err
			}
			if err := f.storeAuthority(tx, "root", made, false); err != nil {
				return err
			}
			if roots, err = readRoots(tx); err != nil {
				return err
			}
		}
		if !force {
			return nil
		}
		return f.activate(tx, roots.announced, time.Now())
	})
}

// AuthorityState is one certificate of the authority, as an operator sees it.
type AuthorityState struct {
	Kind        string // root, issuing
	State       string // active, announced, retired
	Fingerprint string
	NotAfter    time.Time
	KeyHere     bool
	Waiting     []string // nodes that do not trust an announced root yet
}

// Authorities lists the certificates that count: roots, and the issuing one.
func (f *Fleet) Authorities() ([]AuthorityState, error) {
	roots, err := readRoots(f.app)
	if err != nil || roots.active == nil {
		return nil, err
	}
	state := func(r *collections.Authority, s string) AuthorityState {
		return AuthorityState{Kind: r.Kind(), State: s, Fingerprint: r.Fingerprint(), NotAfter: r.NotAfter(), KeyHere: r.Key() != ""}
	}
	out := []AuthorityState{state(roots.active, "active")}
	if roots.announced != nil {
		s := state(roots.announced, "announced")
		if s.Waiting, err = waitingFor(f.app, s.Fingerprint); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	for _, r := range roots.retired {
		out = append(out, state(r, "retired"))
	}
	issuing, err := collections.One[collections.Authority](f.app, collections.Authorities, dbx.HashExp{"kind": "issuing", "active": true})
	if err != nil {
		return nil, fmt.Errorf("read the issuing certificate: %w", err)
	}
	return append(out, state(issuing, "active")), nil
}

// RootKey returns the active root's key as PEM, ErrRootOffline when it is not here. With remove it is
// taken out of the panel, which then signs nodes with the issuing certificate until that one ends.
func (f *Fleet) RootKey(remove bool) (text string, err error) {
	err = f.remake(func(tx core.App) error {
		cert, row, err := authority(tx, "root")
		if err != nil {
			return err
		}
		s, err := f.signer(tx, cert, row)
		if err != nil {
			return err
		}
		if s.key == nil {
			return ErrRootOffline
		}
		der, err := x509.MarshalPKCS8PrivateKey(s.key)
		if err != nil {
			return err
		}
		text = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		if !remove {
			return f.noteAuthority(tx, "authority.exported", row)
		}
		row.SetKey("")
		if err := permit.Save(tx, row); err != nil {
			return fmt.Errorf("take the root's key out of the panel: %w", err)
		}
		return f.noteAuthority(tx, "authority.taken_offline", row)
	})
	return text, err
}

func endingFingerprint(node string) string { return "node.certificate:" + node }

// reportEnding opens an incident for each node whose certificate ends soon, or has ended, because it was
// not renewed when it was due.
func (f *Fleet) reportEnding(now time.Time) error {
	rows, err := collections.Every[collections.Node](f.app, collections.Nodes, "cert_expires_at", endingCheck,
		dbx.NewExp("[[cert_fingerprint]] != '' AND [[cert_expires_at]] < {:soon}", dbx.Params{"soon": collections.Stamp(now.Add(endingSoon))}))
	if err != nil {
		return fmt.Errorf("look for certificates that end: %w", err)
	}
	for _, n := range rows {
		ends := n.CertExpiresAt()
		i := incidents.Incident{Kind: "node.certificate", Fingerprint: endingFingerprint(n.Id), Severity: "warning", Node: n.Id,
			Title:  "The certificate of node " + n.Name() + " ends on " + ends.UTC().Format(time.DateOnly),
			Detail: "It should have been renewed days ago. See whether wings runs on the node, and what its log says of the renewal."}
		if !now.Before(ends) {
			i.Severity, i.Title = "critical", "The certificate of node "+n.Name()+" has ended"
			i.Detail = fmt.Sprintf("Its servers run on, but the panel does not hear of them. wings renews the certificate by itself when it can reach the panel before %s; after that the node has to join again.",
				ends.Add(renewGrace).UTC().Format(time.DateOnly))
		}
		err := collections.Tx(f.app, []collections.Lock{incidents.Lock}, func(tx core.App) error { return f.cfg.Incidents.Open(tx, i) })
		if err != nil {
			return fmt.Errorf("report the certificate of node %s: %w", n.Id, err)
		}
	}
	return nil
}

// IssueWeb makes a certificate for browsers of this machine and its key, as PEM, good for 90 days: for
// development, where no public authority signs one. It is stored nowhere.
func (f *Fleet) IssueWeb(hosts []string) (chain, key string, err error) {
	if _, _, err := f.Authority(); err != nil {
		return "", "", err
	}
	t := f.trust.Load()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: hosts[0]}, NotBefore: time.Now().Add(-wire.CertificateBackdate), NotAfter: time.Now().Add(listenerLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
	leaf, err := sign(c, &private.PublicKey, t.issuing)
	if err != nil {
		return "", "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	return t.chain(leaf), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}
