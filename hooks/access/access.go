// Package access is the door: who makes a request, in which shape it must come, and in which shape
// every answer that is not a success goes out. It also mints and checks the short intent tokens with
// which a WebSocket or a download proves itself, and remembers answers by Idempotency-Key.
//
// It limits how often anything may be tried, across panel instances, and gives whoever signs in a session.
//
// A sign-in of somebody with a second factor ends at a checkpoint, which only that factor passes.
//
// It owns sessions, sign_in_checkpoints, totp_factors, backup_codes, passkeys, passkey_challenges, api_keys, spent_tokens,
// idempotency_keys and rate_limits, and what may be written to users by customers. It refuses to know what an actor may do; that is hooks/tenancy.
//
// Its one invariant: nothing that is not an *Error written by us reaches a customer as text; an
// unknown error is a 500 with a request id, and its chain is in the log only.
package access

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/cluster"
)

var permit = collections.PermitFor("access")

// Config of New.
type Config struct {
	// IntentKey authenticates intent tokens: 32 bytes, secrets.Derive("intent").
	IntentKey []byte
	// Auditor writes the rows about accounts.
	Auditor Auditor
	// Seal keeps the secrets of authenticators. Nil: none can be set up.
	Seal Sealer
	// PublicURL is where browsers reach the panel: the site whose pages may have a browser change something, and what
	// passkeys are bound to. Empty: only the site of the request itself; without a name in it there are no passkeys.
	PublicURL string
	// Secure is whether browsers come by TLS, whatever the request looks like: then no cookie goes out in clear.
	Secure bool
	// Alarm keeps an event about the safety of an account, in the caller's transaction. Nil: nobody listens.
	Alarm func(tx core.App, a Actor, kind string, details map[string]any) error
	// Ended is told in the transaction that ends sessions of a person by his own wish, or because a token came twice:
	// what is open of him is to be asked about again. Nil: nobody wants to know.
	Ended func(tx core.App, user string) error
	// KeyEnded is told in the transaction that ends an API key: what is open by it is to be asked about again.
	// Nil: nobody wants to know.
	KeyEnded func(tx core.App) error
	// Cluster tells the other instances how much was asked for. Nil: there are none.
	Cluster *cluster.Cluster
	// Goes is told in the transaction in which a superuser deletes a customer's account, before that: what the account
	// has elsewhere goes first. Nil: it has nothing.
	Goes func(tx core.App, a Actor, user string) error
	// TokenPace and AddressPace are how many requests a minute one token, and one network without a
	// token, may make. Default DefaultTokenPace and DefaultAddressPace; negative: no limit.
	TokenPace, AddressPace int
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// Access mints, checks and remembers. Its methods can be called concurrently.
type Access struct {
	key      []byte // immutable
	auditor  Auditor
	seal     Sealer
	relying  *webauthn.WebAuthn // nil: passkeys are not possible here
	secure   bool
	origins  *http.CrossOriginProtection
	alarm    func(tx core.App, a Actor, kind string, details map[string]any) error
	ended    func(tx core.App, user string) error
	keyEnded func(tx core.App) error
	goes     func(tx core.App, a Actor, user string) error
	pace     *pace
	uses     uses // of API keys
	log      *slog.Logger
}

// New checks the configuration. Nothing runs before Run.
func New(c Config) (*Access, error) {
	if len(c.IntentKey) < 32 {
		return nil, errors.New("access: the intent key must have 32 bytes")
	}
	if c.Auditor == nil {
		return nil, errors.New("access: an auditor is needed")
	}
	if c.Seal == nil {
		c.Seal = noSealer{}
	}
	relying, err := relyingParty(c.PublicURL)
	if err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.TokenPace == 0 {
		c.TokenPace = DefaultTokenPace
	}
	if c.AddressPace == 0 {
		c.AddressPace = DefaultAddressPace
	}
	p := newPace(c.Cluster, func(key string) int {
		switch {
		case strings.HasPrefix(key, "t."):
			return c.TokenPace
		case strings.HasPrefix(key, "d.") && c.AddressPace > 0:
			return min(doorPace, c.AddressPace)
		}
		return c.AddressPace
	})
	return &Access{
		key: c.IntentKey, auditor: c.Auditor, seal: c.Seal, relying: relying, secure: c.Secure, origins: originsOf(c.PublicURL),
		alarm: c.Alarm, ended: c.Ended, keyEnded: c.KeyEnded, goes: c.Goes, pace: p, log: c.Log,
	}, nil
}

// Run tells the other instances how much was asked for, and writes down when API keys were used, until ctx ends.
func (d *Access) Run(ctx context.Context, app core.App) {
	var wg sync.WaitGroup
	wg.Go(func() { d.pace.run(ctx, app) })
	d.keepUses(ctx, app)
	wg.Wait()
}
