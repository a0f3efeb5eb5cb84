package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

const identityFile = "identity.json"

// Errors about a node's identity.
var (
	ErrNotJoined = errors.New("this node has not joined a panel yet; run the join command that the panel shows when you add a node")
	ErrJoined    = errors.New("this node has joined a panel already")
)

// Identity is who a node is. All of it is one file of mode 0600, so that key and certificate can
// only change together.
type Identity struct {
	NodeID      string   `json:"node_id"`
	Joined      string   `json:"joined"`      // node listener that it joined at, host:port; never forgotten
	Instances   []string `json:"instances"`   // node listeners of the panel, host:port, as it last named them
	Roots       string   `json:"roots"`       // PEM; what the panel's certificate must lead to
	Certificate string   `json:"certificate"` // PEM chain, leaf first
	Key         string   `json:"key"`         // PEM, PKCS#8

	pair    tls.Certificate
	roots   *x509.CertPool
	trusted []string // fingerprints of roots, sorted
}

// Joined returns the node id that a directory's identity has, ErrNotJoined when there is none.
func Joined(dir string) (nodeID string, err error) {
	id, err := loadIdentity(dir)
	if err != nil {
		return "", err
	}
	return id.NodeID, nil
}

// loadIdentity reads and checks a node's identity; ErrNotJoined when there is none.
func loadIdentity(dir string) (*Identity, error) {
	raw, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotJoined
	}
	if err != nil {
		return nil, fmt.Errorf("read node identity: %w", err)
	}
	var id Identity
	if err := json.Unmarshal(raw, &id); err != nil {
		return nil, fmt.Errorf("decode node identity: %w", err)
	}
	if err := id.parse(); err != nil {
		return nil, fmt.Errorf("node identity: %w", err)
	}
	return &id, nil
}

// newIdentity puts the panel's answer beside the key that it certifies, checked as a peer would.
// joined is the address that is kept whatever the panel names.
func newIdentity(key *ecdsa.PrivateKey, joined string, reply wire.EnrolReply) (*Identity, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode node key: %w", err)
	}
	id := &Identity{
		NodeID: reply.NodeID, Joined: joined, Instances: reply.Instances, Roots: reply.Roots, Certificate: reply.Certificate,
		Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}
	if err := id.parse(); err != nil {
		return nil, fmt.Errorf("the panel's answer: %w", err)
	}
	return id, nil
}

// parse fills what is not stored and checks that the parts belong together.
func (id *Identity) parse() error {
	if !wire.ValidID(id.NodeID) || len(id.Instances) == 0 {
		return fmt.Errorf("node id %q with %d panel addresses is not usable", id.NodeID, len(id.Instances))
	}
	if id.Joined == "" { // stored by a release that knew one address only
		id.Joined = id.Instances[0]
	}
	var err error
	if id.pair, err = tls.X509KeyPair([]byte(id.Certificate), []byte(id.Key)); err != nil {
		return fmt.Errorf("certificate and key: %w", err)
	}
	leaf := id.pair.Leaf
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != wire.NodeURIPrefix+id.NodeID {
		return fmt.Errorf("certificate does not name node %s", id.NodeID)
	}
	id.roots = x509.NewCertPool()
	if !id.roots.AppendCertsFromPEM([]byte(id.Roots)) {
		return errors.New("no root certificate")
	}
	certs, err := parseCertificates(id.Roots)
	if err != nil {
		return err
	}
	id.trusted = nil
	for _, c := range certs {
		id.trusted = append(id.trusted, wire.Fingerprint(c.Raw))
	}
	slices.Sort(id.trusted)
	return nil
}

// save replaces the file whole: temp, fsync, rename, fsync of the directory.
func (id *Identity) save(dir string) error {
	raw, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+identityFile+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, identityFile)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// tidyIdentity removes what a kill left of a save: it holds a key.
func tidyIdentity(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "."+identityFile+"-*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range left {
		errs = append(errs, os.Remove(f))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the rest of an identity that was not stored: %w", err)
	}
	return nil
}

// tlsConfig is for every connection to the panel after joining.
func (id *Identity) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      id.roots,
		ServerName:   wire.PanelServerName,
		Certificates: []tls.Certificate{id.pair},
		NextProtos:   []string{"http/1.1"}, // the link is an HTTP/1.1 upgrade
	}
}

// renewAt is a third into the certificate's life, counted from its making (its not-before lies
// wire.CertificateBackdate earlier), moved by up to a tenth of that third by shake in [0, 1).
func renewAt(leaf *x509.Certificate, shake float64) time.Time {
	issued := leaf.NotBefore.Add(wire.CertificateBackdate)
	third := leaf.NotAfter.Sub(issued) / 3
	return issued.Add(third - time.Duration(shake*float64(third)/10))
}

// issued is when the certificate was made.
func (id *Identity) issued() time.Time { return id.pair.Leaf.NotBefore.Add(wire.CertificateBackdate) }

// newKey makes a P-256 key and a request for a certificate over it. The panel ignores the subject.
func newKey() (*ecdsa.PrivateKey, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("make node key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "node"}}, key)
	if err != nil {
		return nil, "", fmt.Errorf("make certificate request: %w", err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}
