package link

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// dialer is the default of Config.Dialer.
var dialer = &net.Dialer{Timeout: dialTimeout}

// call posts to this node's own routes on the panel. A refusal that came because the certificate
// was renewed while the call was under way is tried once more with the new one.
func (l *Link) call(ctx context.Context, what string, in, out any) (err error) {
	if called := l.cfg.Called; called != nil {
		began := time.Now()
		defer func() { called(what, time.Since(began), err) }()
	}
	id := l.id.Load()
	err = l.callAs(ctx, id, what, in, out)
	var refused *wire.Error
	if now := l.id.Load(); errors.As(err, &refused) && refused.Status == http.StatusUnauthorized && now.Certificate != id.Certificate {
		return l.callAs(ctx, now, what, in, out)
	}
	return err
}

// callAs asks one instance of the panel after the other until one takes the call or refuses it. One
// that does not answer, or cannot now (status 500 and above), is no reason to wait: every instance
// does the same work on the same database.
func (l *Link) callAs(ctx context.Context, id *Identity, what string, in, out any) error {
	path := wire.APIPrefix + "/nodes/" + id.NodeID + "/" + what
	if what == "renew" {
		path = wire.APIPrefix + "/renew"
	}
	var errs []error
	addresses := l.board.ranked(id.addresses())
	for i, address := range addresses {
		patience := requestTimeout
		if i < len(addresses)-1 {
			patience = moveOnAfter
		}
		err := l.callOne(ctx, "https://"+address+path, patience, in, out)
		var refused *wire.Error
		if err == nil || errors.As(err, &refused) && refused.Status < http.StatusInternalServerError {
			l.board.took(address)
			return err
		}
		l.board.failed(address)
		errs = append(errs, fmt.Errorf("instance %s: %w", address, err))
	}
	return errors.Join(errs...)
}

func (l *Link) callOne(ctx context.Context, target string, patience time.Duration, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return post(ctx, l.client.Load(), target, in, out)
}

// keepRenewed replaces the certificate when a third of its life is over.
func (l *Link) keepRenewed(ctx context.Context) {
	shake := rand.Float64()
	for {
		due := time.Until(renewAt(l.id.Load().pair.Leaf, shake))
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(max(due, 0), renewCheckEvery)):
		case <-l.due:
			asked = true
		}
		if !asked && time.Until(renewAt(l.id.Load().pair.Leaf, shake)) > 0 {
			continue
		}
		if err := l.renew(ctx); err != nil && ctx.Err() == nil {
			l.log.Error("the certificate could not be renewed; trying again", "expires", l.id.Load().pair.Leaf.NotAfter, "error", err)
			again := renewCheckEvery
			if time.Now().After(l.id.Load().pair.Leaf.NotAfter) { // nothing else works until it is renewed
				again = renewAgainAfter
			}
			wait(ctx, jitter(again))
		}
	}
}

// renew asks for a certificate over a new key with the current one. Both stay valid until the new
// one is first used, which happens only after it is on disk: a crash in between loses nothing.
func (l *Link) renew(ctx context.Context) error {
	key, csr, err := newKey()
	if err != nil {
		return err
	}
	var reply wire.EnrolReply
	if err := l.call(ctx, "renew", wire.RenewRequest{CSR: csr, NodeClock: time.Now().UTC()}, &reply); err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	l.idMu.Lock()
	defer l.idMu.Unlock()
	if reply.Instances = usable(reply.Instances); len(reply.Instances) == 0 {
		reply.Instances = l.id.Load().Instances
	}
	id, err := newIdentity(key, l.id.Load().Joined, reply)
	if err != nil {
		return err
	}
	if id.NodeID != l.NodeID() {
		return fmt.Errorf("renew certificate: the panel answered for node %s", id.NodeID)
	}
	if err := id.save(l.cfg.Dir); err != nil {
		return fmt.Errorf("store node identity: %w", err)
	}
	l.adopt(id)
	l.lookAgain()
	l.log.Info("certificate renewed", "expires", id.pair.Leaf.NotAfter)
	return nil
}

// trust takes the root certificates that the panel names over a connection that it has proved itself on.
// They are on disk before they count; one more is trusted long before anything is signed with it.
func (l *Link) trust(roots string) {
	if roots == "" {
		return
	}
	l.idMu.Lock()
	defer l.idMu.Unlock()
	old := l.id.Load()
	next := *old
	next.Roots = roots
	if err := next.parse(); err != nil {
		l.log.Error("the panel named root certificates that are none", "error", err)
		return
	}
	if slices.Equal(next.trusted, old.trusted) {
		return
	}
	if err := next.save(l.cfg.Dir); err != nil {
		l.log.Error("the panel's new root certificates could not be stored; they are asked for again", "error", err)
		return
	}
	l.adopt(&next)
	l.log.Info("the panel's root certificates are others now", "fingerprints", next.trusted)
}

func parseCertificates(bundle string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	rest := []byte(bundle)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out, nil
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("decode certificate: %w", err)
		}
		out = append(out, c)
	}
}
