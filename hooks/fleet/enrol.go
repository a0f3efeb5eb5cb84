package fleet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/wings/wire"
)

// joinTokenLife is how long a join command can be used.
const joinTokenLife = time.Hour

// Answers to joins and renewals that are refused.
var (
	errJoinToken = &wire.Error{Status: http.StatusUnauthorized, Code: "join_token_invalid", Message: "This join token is not valid any more: it was used, it is older than an hour, or a newer one was made. Make a new one on the node's page in the panel."}
	errCSR       = &wire.Error{Status: http.StatusBadRequest, Code: "csr_invalid", Message: "The certificate request is not usable: it must be PEM, signed by its own ECDSA P-256 key."}
)

// newJoinToken gives the node a fresh token that pins the root; an older one ends. The caller saves
// the node.
func newJoinToken(n *collections.Node, root string, now time.Time) (token string, err error) {
	var raw [32]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", err
	}
	token = base64.RawURLEncoding.EncodeToString(raw[:])
	n.SetJoinTokenHash(hashToken(token))
	n.SetJoinExpiresAt(now.Add(joinTokenLife))
	return wire.JoinToken{Token: token, Fingerprint: root}.String(), nil
}

func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// JoinCommand is what the operator pastes on the new machine.
func (f *Fleet) JoinCommand(joinToken string) string {
	return fmt.Sprintf("wings join https://%s --token %s", f.PublicAddress(), joinToken)
}

// PublicAddress is the host:port that nodes dial.
func (f *Fleet) PublicAddress() string {
	_, port, err := net.SplitHostPort(f.cfg.Listen)
	if addr := f.Addr(); addr != "" {
		_, port, err = net.SplitHostPort(addr)
	}
	if err != nil {
		port = "8443"
	}
	if f.cfg.PublicAddress == "" {
		if host, _, err := net.SplitHostPort(f.Addr()); err == nil && host != "" && !net.ParseIP(host).IsUnspecified() {
			return net.JoinHostPort(host, port)
		}
		return net.JoinHostPort("127.0.0.1", port)
	}
	if _, _, err := net.SplitHostPort(f.cfg.PublicAddress); err == nil {
		return f.cfg.PublicAddress
	}
	return net.JoinHostPort(f.publicHost(), port)
}

// enrol turns a one-time token into a certificate. The token is spent in the transaction that stores
// the certificate: of two that come at once, one gets it.
func (f *Fleet) enrol(in wire.EnrolRequest, address string, now time.Time) (wire.EnrolReply, error) {
	if raw, err := base64.RawURLEncoding.Strict().DecodeString(in.Token); err != nil || len(raw) != 32 {
		return wire.EnrolReply{}, errJoinToken
	}
	key, err := parseCSR(in.CSR)
	if err != nil {
		return wire.EnrolReply{}, err
	}
	found, err := f.nodeByToken(f.app, in.Token, now)
	if err != nil {
		return wire.EnrolReply{}, err
	}
	id := found.Id
	var reply wire.EnrolReply
	err = collections.Tx(f.app, []collections.Lock{audit.Lock(""), nodeLock(id)}, func(tx core.App) error {
		n, err := f.nodeByToken(tx, in.Token, now) // again: another may have been faster
		if err != nil {
			return err
		}
		if err := f.revokeAll(tx, n.Id, "replaced by a new enrolment", now); err != nil {
			return err
		}
		leaf, err := f.certify(tx, n.Id, key, now)
		if err != nil {
			return err
		}
		n.SetJoinTokenHash("")
		n.SetJoinExpiresAt(time.Time{})
		n.SetEnrolledAt(now)
		n.SetCertFingerprint(wire.Fingerprint(leaf.Raw))
		n.SetCertNextFingerprint("")
		n.SetCertExpiresAt(leaf.NotAfter)
		n.SetRev(n.Rev() + 1)
		if err := permit.Save(tx, n); err != nil {
			return fmt.Errorf("store enrolment of node %s: %w", n.Id, err)
		}
		if err := f.tellRevoked(tx, n.Id); err != nil {
			return err
		}
		reply = f.identity(n.Id, leaf)
		return f.record(tx, audit.Actor{Type: "node", ID: n.Id, Name: n.Name(), Address: address}, "node.enrolled", n,
			map[string]any{"fingerprint": n.CertFingerprint(), "release": in.Release})
	})
	if err == nil {
		f.links.cut(id) // a link of the identity that was replaced
	}
	return reply, err
}

func (f *Fleet) nodeByToken(app core.App, token string, now time.Time) (*collections.Node, error) {
	n, err := collections.One[collections.Node](app, collections.Nodes, dbx.HashExp{"join_token_hash": hashToken(token)})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errJoinToken
	}
	if err != nil {
		return nil, err
	}
	if !now.Before(n.JoinExpiresAt()) {
		return nil, errJoinToken
	}
	return n, nil
}

// renew gives a node that proved its present certificate its next one. It becomes the present one
// when it is first used; until then both are good. A second renewal replaces the announced one.
func (f *Fleet) renew(node string, in wire.RenewRequest, address string, now time.Time) (wire.EnrolReply, error) {
	key, err := parseCSR(in.CSR)
	if err != nil {
		return wire.EnrolReply{}, err
	}
	var reply wire.EnrolReply
	err = collections.Tx(f.app, []collections.Lock{audit.Lock(""), nodeLock(node)}, func(tx core.App) error {
		n, err := collections.FindNode(tx, node)
		if err != nil {
			return err
		}
		leaf, err := f.certify(tx, n.Id, key, now)
		if err != nil {
			return err
		}
		n.SetCertNextFingerprint(wire.Fingerprint(leaf.Raw))
		if err := permit.Save(tx, n); err != nil {
			return fmt.Errorf("announce certificate of node %s: %w", n.Id, err)
		}
		reply = f.identity(n.Id, leaf)
		return f.cfg.Audit.Write(tx, audit.Actor{Type: "node", ID: n.Id, Name: n.Name(), Address: address}, audit.Entry{
			Action: "node.certificate_renewed", ResourceType: collections.Nodes, Resource: n.Id,
			Metadata: map[string]any{"fingerprint": n.CertNextFingerprint(), "not_after": leaf.NotAfter},
		})
	})
	return reply, err
}

// promote makes the announced certificate the present one, on its first use.
func (f *Fleet) promote(node, fingerprint string) error {
	return collections.Tx(f.app, []collections.Lock{incidents.Lock, nodeLock(node)}, func(tx core.App) error {
		n, err := collections.FindNode(tx, node)
		if err != nil || n.CertNextFingerprint() != fingerprint {
			return err // somebody else did it
		}
		c, err := collections.One[collections.NodeCertificate](tx, collections.NodeCertificates, dbx.HashExp{"fingerprint": fingerprint})
		if err != nil {
			return err
		}
		n.SetCertFingerprint(fingerprint)
		n.SetCertNextFingerprint("")
		n.SetCertExpiresAt(c.NotAfter())
		n.SetRev(n.Rev() + 1)
		if err := permit.Save(tx, n); err != nil {
			return err
		}
		return f.cfg.Incidents.Resolve(tx, endingFingerprint(n.Id), "The node has a new certificate.")
	})
}

// certify signs the key for the node and stores the certificate's row.
func (f *Fleet) certify(tx core.App, node string, key *ecdsa.PublicKey, now time.Time) (*x509.Certificate, error) {
	leaf, err := f.trust.Load().issueNode(now, node, key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of node %s: %w", node, err)
	}
	return leaf, storeCertificate(tx, node, leaf)
}

func storeCertificate(tx core.App, node string, leaf *x509.Certificate) error {
	row, err := collections.NewNodeCertificate(tx)
	if err != nil {
		return err
	}
	row.SetNode(node)
	row.SetFingerprint(wire.Fingerprint(leaf.Raw))
	row.SetSerial(leaf.SerialNumber.Text(16))
	row.SetNotBefore(leaf.NotBefore)
	row.SetNotAfter(leaf.NotAfter)
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("store certificate of node %s: %w", node, err)
	}
	return nil
}

// revokeAll ends every certificate of a node that is still good.
func (f *Fleet) revokeAll(tx core.App, node, reason string, now time.Time) error {
	rows, err := collections.Every[collections.NodeCertificate](tx, collections.NodeCertificates, "created", 0, dbx.HashExp{"node": node, "revoked_at": ""})
	if err != nil {
		return err
	}
	for _, row := range rows {
		row.SetRevokedAt(now)
		row.SetReason(reason)
		if err := permit.Save(tx, row); err != nil {
			return fmt.Errorf("revoke certificate of node %s: %w", node, err)
		}
	}
	return nil
}

func (f *Fleet) identity(node string, leaf *x509.Certificate) wire.EnrolReply {
	t := f.trust.Load()
	addresses := f.addresses()
	if len(addresses) == 0 { // not known now
		addresses = []string{f.PublicAddress()}
	}
	return wire.EnrolReply{NodeID: node, Certificate: t.chain(leaf), Roots: t.rootsPEM(), Instances: addresses}
}

// record writes the audit row and the event of one change of a node.
func (f *Fleet) record(tx core.App, a audit.Actor, kind string, n *collections.Node, details map[string]any) error {
	err := f.cfg.Audit.Write(tx, a, audit.Entry{Action: kind, ResourceType: collections.Nodes, Resource: n.Id, Metadata: details})
	if err != nil {
		return err
	}
	return f.cfg.Events.Emit(tx, events.Event{
		Kind: kind, SubjectType: collections.Nodes, Subject: n.Id, Actor: a.ID, ActorType: a.Type, ActorName: a.Name,
		Payload: map[string]any{"name": n.Name()},
	})
}

// parseCSR returns the P-256 key of a request that its own key signed. The rest of it is ignored.
func parseCSR(text string) (*ecdsa.PublicKey, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return nil, errCSR
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return nil, errCSR
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errCSR
	}
	return key, nil
}

func nodeLock(id string) collections.Lock { return collections.Lock("node:" + id) }
