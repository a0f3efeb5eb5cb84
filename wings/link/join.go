package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// defaultPort of the node listener when the join URL names none.
const defaultPort = "8443"

// ErrPin is a peer whose certificate does not lead to the root that the join token names.
var ErrPin = errors.New("this is not the panel that made the join token: its certificate authority has another fingerprint")

// Join makes a key in dir, proves the one-time token to the panel at rawURL and stores the identity
// that it gets. The panel must first prove that it has the root that the token pins. ErrJoined when
// dir has an identity; ErrPin, wire.ErrJoinToken, or a *wire.Error with the panel's own sentence.
func Join(ctx context.Context, rawURL, rawToken, dir, release string) (nodeID string, err error) {
	token, err := wire.ParseJoinToken(rawToken)
	if err != nil {
		return "", err
	}
	host, err := joinHost(rawURL)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make node directory: %w", err)
	}
	switch old, err := loadIdentity(dir); {
	case err == nil:
		return old.NodeID, fmt.Errorf("%w as node %s; remove %s in %s to join anew", ErrJoined, old.NodeID, identityFile, dir)
	case !errors.Is(err, ErrNotJoined):
		return "", err
	}
	key, csr, err := newKey()
	if err != nil {
		return "", err
	}
	client := &http.Client{
		Timeout:       requestTimeout,
		Transport:     &http.Transport{TLSClientConfig: pinnedConfig(token.Fingerprint), DialContext: dialer.DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var reply wire.EnrolReply
	in := wire.EnrolRequest{Token: token.Token, CSR: csr, Release: release, NodeClock: time.Now().UTC()}
	if err := post(ctx, client, "https://"+host+wire.APIPrefix+"/enrol", in, &reply); err != nil {
		return "", fmt.Errorf("join %s: %w", host, err)
	}
	if len(reply.Instances) == 0 {
		reply.Instances = []string{host}
	}
	id, err := newIdentity(key, host, reply)
	if err != nil {
		return "", err
	}
	if err := id.checkRoots(token.Fingerprint); err != nil {
		return "", err
	}
	if err := id.save(dir); err != nil {
		return "", fmt.Errorf("store node identity: %w", err)
	}
	return id.NodeID, nil
}

func joinHost(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || (u.Path != "" && u.Path != "/") {
		return "", fmt.Errorf("%q is not an address like https://panel.example.com:%s", raw, defaultPort)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// pinnedConfig accepts exactly a panel whose chain leads to the root with this fingerprint.
//
// InsecureSkipVerify is needed because the root is not known before the handshake, only its hash:
// the panel sends it along. VerifyConnection then does all that the standard verification does,
// against a pool of this one root: chain, validity, purpose and name.
func pinnedConfig(fingerprint string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         wire.PanelServerName,
		NextProtos:         []string{"http/1.1"},
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			certs := cs.PeerCertificates
			at := slices.IndexFunc(certs, func(c *x509.Certificate) bool { return wire.Fingerprint(c.Raw) == fingerprint })
			if at < 1 { // the pinned one must be above the leaf
				return ErrPin
			}
			roots, between := x509.NewCertPool(), x509.NewCertPool()
			roots.AddCert(certs[at])
			for _, c := range certs[1:] {
				between.AddCert(c)
			}
			_, err := certs[0].Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: between, DNSName: wire.PanelServerName,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			if err != nil {
				return fmt.Errorf("%w: %w", ErrPin, err)
			}
			return nil
		},
	}
}

// checkRoots makes sure that the pinned root is among those that the panel wants trusted.
func (id *Identity) checkRoots(fingerprint string) error {
	certs, err := parseCertificates(id.Roots)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return wire.Fingerprint(c.Raw) == fingerprint }) {
		return ErrPin
	}
	return nil
}

// post sends in as JSON and decodes the answer into out; an answer ≥ 300 becomes a *wire.Error.
func post(ctx context.Context, client *http.Client, target string, in, out any) error {
	body, encoding, err := encodeBody(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if res.StatusCode >= 300 {
		return decodeError(res.StatusCode, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// decodeError turns the body of a refusal into a *wire.Error, whatever the body is.
func decodeError(status int, body []byte) error {
	e := &wire.Error{}
	if json.Unmarshal(body, e) != nil || e.Code == "" {
		e = &wire.Error{Code: "unknown", Message: http.StatusText(status)}
	}
	e.Status = status
	return e
}
