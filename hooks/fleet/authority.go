package fleet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/wings/wire"
)

// Lifetimes of certificates, counted from their making. Our own are replaced when a third is left,
// nodes ask for theirs when a third is over.
const (
	rootLife     = 10 * 365 * 24 * time.Hour
	issuingLife  = 365 * 24 * time.Hour
	listenerLife = 90 * 24 * time.Hour
	peerLife     = 24 * time.Hour // of what an instance shows to other instances
	nodeLife     = 30 * 24 * time.Hour
	renewGrace   = 90 * 24 * time.Hour // after its end a certificate of a node is good for its renewal
)

const authorityLock = collections.Lock("authorities")

// ErrRootOffline is an issuing certificate that must be replaced while the root's key is elsewhere.
var ErrRootOffline = errors.New("the key of the root certificate is not in the panel; put it back to make a new issuing certificate")

// trust is a snapshot of what is signed with and verified against. Immutable.
type trust struct {
	roots    []*x509.Certificate // every root that is still trusted, the active one first
	pool     *x509.CertPool
	issuing  signer
	listener tls.Certificate // this instance's own, with the chain up to the root for nodes that pin its hash
	peer     tls.Certificate // what this instance shows to others, with the issuing one
	client   *tls.Config     // handed out by GetConfigForClient
}

// signer is a certificate with its key.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Authority returns the root certificate as PEM and its SHA-256 fingerprint, making the authority
// when there is none yet. It is what `mambahost ca` prints.
func (f *Fleet) Authority() (rootPEM, fingerprint string, err error) {
	if f.trust.Load() == nil {
		if err := f.ensureAuthority(time.Now()); err != nil {
			return "", "", err
		}
	}
	root := f.trust.Load().roots[0]
	return encodePEM(root.Raw), wire.Fingerprint(root.Raw), nil
}

// ensureAuthority makes what is missing, replaces what nears its end, and loads all of it. It is
// one transaction, so that several starts at once make one authority. What this instance itself shows
// is its own: its keys are made here, stay in memory and end with it.
func (f *Fleet) ensureAuthority(now time.Time) error {
	var loaded *trust
	locks := []collections.Lock{authorityLock, audit.Lock(""), secrets.Lock(secrets.System)}
	err := collections.Tx(f.app, locks, func(tx core.App) error {
		if err := f.turnRoot(tx, now); err != nil {
			return err
		}
		root, issuing, err := f.authorities(tx, now)
		if err != nil {
			return err
		}
		if loaded, err = f.snapshot(tx, now, root, issuing); err != nil {
			return err
		}
		return f.present(tx, loaded, now)
	})
	if err != nil {
		return err
	}
	f.trust.Store(loaded)
	return nil
}

// authorities returns the root's certificate and what is signed with, made when they are missing or
// near their end. The root's key is opened only to make an issuing one.
func (f *Fleet) authorities(tx core.App, now time.Time) (root *x509.Certificate, issuing signer, err error) {
	root, rootRow, err := authority(tx, "root")
	if errors.Is(err, sql.ErrNoRows) {
		var made signer
		if made, err = f.makeAuthority(tx, "root", now, signer{}); err != nil {
			return nil, signer{}, err
		}
		issuing, err = f.makeAuthority(tx, "issuing", now, made)
		return made.cert, issuing, err
	}
	if err != nil {
		return nil, signer{}, err
	}
	cert, row, err := authority(tx, "issuing")
	switch {
	case errors.Is(err, sql.ErrNoRows) || err == nil && nearsEnd(cert, now):
		var parent signer
		if parent, err = f.signer(tx, root, rootRow); err == nil {
			issuing, err = f.makeAuthority(tx, "issuing", now, parent)
		}
	case err == nil:
		issuing, err = f.signer(tx, cert, row)
	}
	return root, issuing, err
}

func nearsEnd(c *x509.Certificate, now time.Time) bool {
	life := c.NotAfter.Sub(c.NotBefore.Add(wire.CertificateBackdate))
	return c.NotAfter.Sub(now) < life/3
}

func (f *Fleet) publicHost() string {
	host, _, err := net.SplitHostPort(f.cfg.PublicAddress)
	if err != nil {
		return strings.Trim(f.cfg.PublicAddress, "[]")
	}
	return host
}

// authority returns the active authority of a kind. sql.ErrNoRows when there is none.
func authority(app core.App, kind string) (*x509.Certificate, *collections.Authority, error) {
	row, err := collections.One[collections.Authority](app, collections.Authorities, dbx.HashExp{"kind": kind, "active": true})
	if err != nil {
		return nil, nil, err
	}
	cert, err := parsePEM(row.Certificate())
	if err != nil {
		return nil, nil, fmt.Errorf("%s certificate: %w", kind, err)
	}
	return cert, row, nil
}

// signer opens the key of an authority; it is nil when it was taken offline.
func (f *Fleet) signer(app core.App, cert *x509.Certificate, row *collections.Authority) (signer, error) {
	if row.Key() == "" {
		return signer{cert: cert}, nil
	}
	der, err := f.cfg.Secrets.Open(app, secrets.System, keyRef(row.Id), row.Key())
	if err != nil {
		return signer{}, fmt.Errorf("open key of %s certificate: %w", row.Kind(), err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return signer{}, fmt.Errorf("decode key of %s certificate: %w", row.Kind(), err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return signer{}, fmt.Errorf("key of %s certificate belongs to another", row.Kind())
	}
	return signer{cert: cert, key: ec}, nil
}

// SealedKey is where the authority's keys are.
var SealedKey = secrets.Sealed{Table: collections.Authorities, Field: "key", Scope: secrets.OfSystem}

func keyRef(row string) secrets.Ref {
	return secrets.Ref{Table: collections.Authorities, Row: row, Field: "key"}
}

// makeAuthority makes a certificate of a kind and its row, and takes the activity from the old one.
func (f *Fleet) makeAuthority(tx core.App, kind string, now time.Time, parent signer) (signer, error) {
	made, err := f.newAuthority(kind, now, parent)
	if err != nil {
		return signer{}, fmt.Errorf("make %s certificate: %w", kind, err)
	}
	if err := f.deactivate(tx, kind); err != nil {
		return signer{}, err
	}
	return made, f.storeAuthority(tx, kind, made, true)
}

// deactivate takes the activity from the authority of a kind that has it.
func (f *Fleet) deactivate(tx core.App, kind string) error {
	old, err := collections.One[collections.Authority](tx, collections.Authorities, dbx.HashExp{"kind": kind, "active": true})
	if err == nil {
		old.SetActive(false)
		err = permit.Save(tx, old)
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("retire %s certificate: %w", kind, err)
	}
	return nil
}

// storeAuthority makes the row of a certificate, its key sealed.
func (f *Fleet) storeAuthority(tx core.App, kind string, made signer, active bool) error {
	row, err := collections.NewAuthority(tx)
	if err != nil {
		return err
	}
	row.Id = core.GenerateDefaultRandomId() // the sealed key names the row
	der, err := x509.MarshalPKCS8PrivateKey(made.key)
	if err != nil {
		return err
	}
	sealed, err := f.cfg.Secrets.Seal(tx, secrets.System, keyRef(row.Id), der)
	if err != nil {
		return fmt.Errorf("seal key of %s certificate: %w", kind, err)
	}
	row.SetKind(kind)
	row.SetCertificate(encodePEM(made.cert.Raw))
	row.SetKey(sealed)
	row.SetFingerprint(wire.Fingerprint(made.cert.Raw))
	row.SetNotAfter(made.cert.NotAfter)
	row.SetActive(active)
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("store %s certificate: %w", kind, err)
	}
	return f.cfg.Audit.Write(tx, audit.System, audit.Entry{
		Action: "authority.create", ResourceType: collections.Authorities, Resource: row.Id,
		Metadata: map[string]any{"kind": kind, "active": active, "fingerprint": row.Fingerprint(), "not_after": made.cert.NotAfter},
	})
}

// newAuthority makes key and certificate; parent is ignored for the root.
func (f *Fleet) newAuthority(kind string, now time.Time, parent signer) (signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return signer{}, err
	}
	t := &x509.Certificate{NotBefore: now.Add(-wire.CertificateBackdate), BasicConstraintsValid: true}
	switch kind {
	case "root":
		t.Subject = pkix.Name{Organization: []string{"Mamba Host"}, CommonName: "Mamba Host root"}
		t.NotAfter, t.IsCA, t.MaxPathLen, t.KeyUsage = now.Add(rootLife), true, 1, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		parent = signer{cert: t, key: key}
	case "issuing":
		t.Subject = pkix.Name{Organization: []string{"Mamba Host"}, CommonName: "Mamba Host issuing"}
		t.NotAfter, t.IsCA, t.MaxPathLenZero, t.KeyUsage = now.Add(issuingLife), true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	default:
		return signer{}, fmt.Errorf("%q is no kind of authority", kind)
	}
	if parent.key == nil {
		return signer{}, ErrRootOffline
	}
	if kind != "root" && t.NotAfter.After(parent.cert.NotAfter) {
		t.NotAfter = parent.cert.NotAfter
	}
	cert, err := sign(t, &key.PublicKey, parent)
	return signer{cert: cert, key: key}, err
}

// sign gives the template a random serial and parent's signature.
func sign(t *x509.Certificate, key *ecdsa.PublicKey, parent signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, t, parent.cert, key, parent.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// issueNode makes a node's certificate: client authentication and the node's name as only SAN.
func (t *trust) issueNode(now time.Time, node string, key *ecdsa.PublicKey) (*x509.Certificate, error) {
	uri, err := url.Parse(wire.NodeURIPrefix + node)
	if err != nil {
		return nil, err
	}
	return sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "node " + node},
		NotBefore:   now.Add(-wire.CertificateBackdate),
		NotAfter:    now.Add(nodeLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{uri}, BasicConstraintsValid: true,
	}, key, t.issuing)
}

// chain is what a node presents: its leaf and the issuing certificate.
func (t *trust) chain(leaf *x509.Certificate) string {
	return encodePEM(leaf.Raw) + encodePEM(t.issuing.cert.Raw)
}

// rootsPEM is what a node verifies the panel against.
func (t *trust) rootsPEM() string {
	var b strings.Builder
	for _, c := range t.roots {
		b.WriteString(encodePEM(c.Raw))
	}
	return b.String()
}

// snapshot loads the roots that are still trusted.
func (f *Fleet) snapshot(app core.App, now time.Time, root *x509.Certificate, issuing signer) (*trust, error) {
	t := &trust{roots: []*x509.Certificate{root}, pool: x509.NewCertPool(), issuing: issuing}
	rows, err := collections.Every[collections.Authority](app, collections.Authorities, "created", 0, dbx.HashExp{"kind": "root", "active": false})
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		c, err := parsePEM(row.Certificate())
		if err != nil {
			return nil, fmt.Errorf("root certificate %s: %w", row.Id, err)
		}
		if now.Before(c.NotAfter) && !slices.ContainsFunc(t.roots, c.Equal) {
			t.roots = append(t.roots, c)
		}
	}
	for _, c := range t.roots {
		t.pool.AddCert(c)
	}
	return t, nil
}

func encodePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func parsePEM(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}
