package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// MaxIntentTTL is the longest that an intent token lives.
const MaxIntentTTL = 60 * time.Second

// Subprotocol is the WebSocket subprotocol that every socket of ours speaks, and the only one that
// the server names in its answer: the token beside it is not echoed.
const Subprotocol = "mamba.v1"

const (
	intentVersion   = 1
	intentDomain    = "mamba-host intent v1\x00" // keeps the key's other uses, if ever, apart
	maxIntentBytes  = 2048
	maxIntentSkew   = 5 * time.Second // between instances: minted "in the future" by no more than this
	bearerPrefix    = "bearer."
	maxSubprotocols = 8
)

// Why a token is refused; each comes inside an *Error with status 401.
var (
	ErrTokenInvalid = errors.New("the intent token is not one of ours, or for something else")
	ErrTokenExpired = errors.New("the intent token has expired")
	ErrTokenSpent   = errors.New("the intent token was used before")
)

// Claims of an intent token: who may do one thing with one resource for a moment.
type Claims struct {
	Version  int    `json:"v"`
	Purpose  string `json:"purpose"`  // e.g. "console"
	Resource string `json:"resource"` // id of what it is for
	Tenant   string `json:"tenant"`
	User     string `json:"user"`
	UserType string `json:"user_type"`     // TypeUser, TypeSuperuser or TypeAPIKey
	Key      string `json:"key,omitempty"` // API key that asked for it; it ends with that
	Issued   int64  `json:"iat"`           // Unix milliseconds
	Expires  int64  `json:"exp"`           // Unix milliseconds
	ID       string `json:"jti"`
	Once     bool   `json:"once"`            // spent by its first Check
	Stamp    string `json:"stamp,omitempty"` // of the account's sign-ins; it ends with those
	Session  string `json:"sid,omitempty"`   // that asked for it; it ends with that
}

var purposePattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z]+(\.[a-z]+)*$`)
})

// Encoding without slack: Strict refuses the spare bits with which one token could be written in
// several ways.
var intentEncoding = base64.RawURLEncoding.Strict()

// Mint returns a token with which the actor can do one thing (purpose) with one resource until exp.
// once makes it good for one use. A ttl outside (0, MaxIntentTTL] is an error. The token is safe as
// a WebSocket subprotocol; it must not be put into a URL.
func (d *Access) Mint(a Actor, purpose, resource, tenant string, ttl time.Duration, once bool) (token string, exp time.Time, err error) {
	if ttl <= 0 || ttl > MaxIntentTTL {
		return "", time.Time{}, fmt.Errorf("mint an intent token for %s: it may live at most %v, not %v", purpose, MaxIntentTTL, ttl)
	}
	if !purposePattern().MatchString(purpose) || resource == "" || a.ID == "" {
		return "", time.Time{}, fmt.Errorf("mint an intent token: purpose %q, resource %q and actor %q must all be there", purpose, resource, a.ID)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	exp = now.Add(ttl)
	key := ""
	if a.Key != nil {
		key = a.Key.ID
	}
	body, err := json.Marshal(Claims{
		Version: intentVersion, Purpose: purpose, Resource: resource, Tenant: tenant,
		User: a.ID, UserType: a.Type, Key: key, Issued: now.UnixMilli(), Expires: exp.UnixMilli(), ID: rand.Text(), Once: once, Stamp: a.stamp, Session: a.Session,
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("mint an intent token for %s: %w", purpose, err)
	}
	text := intentEncoding.EncodeToString(body)
	return text + "." + intentEncoding.EncodeToString(d.mac(text)), exp, nil
}

// Check returns the claims of a token that is ours, whole, in its time, and for exactly this purpose
// and resource; a single-use token is spent by it. Otherwise 401 wrapping one of the ErrToken…
// It does not say that the user still may: ask tenancy.Can, or use Redeem.
func (d *Access) Check(app core.App, token, purpose, resource string) (Claims, error) {
	c, err := d.read(token)
	if err == nil && (c.Purpose != purpose || c.Resource != resource) {
		err = ErrTokenInvalid
	}
	if err == nil && c.Once {
		err = spend(app, c)
	}
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, ErrTokenExpired):
		return Claims{}, Unauthenticated("token_expired", "This link or connection has expired. Please try again.").Because(err)
	case errors.Is(err, ErrTokenSpent):
		return Claims{}, Unauthenticated("token_spent", "This link or connection was used already. Please try again.").Because(err)
	case errors.Is(err, ErrTokenInvalid):
		return Claims{}, Unauthenticated("token_invalid", "This link or connection is not valid. Please try again.").Because(err)
	}
	return Claims{}, err
}

// Redeem is Check for a request that has no other proof: it returns the actor that the token was
// minted for, as that account is now. 401 also when the sign-in that asked for it has ended.
func (d *Access) Redeem(e *core.RequestEvent, token, purpose, resource string) (Actor, Claims, error) {
	c, err := d.Check(e.App, token, purpose, resource)
	if err != nil {
		return Actor{}, Claims{}, err
	}
	user, err := Actor{Type: c.UserType, ID: c.User}.account(e.App)
	if err != nil {
		return Actor{}, Claims{}, err
	}
	if c.Stamp != "" && c.Stamp != stampOf(user) {
		return Actor{}, Claims{}, Unauthenticated("token_invalid", "Your session has ended. Please sign in again.").Because(ErrTokenInvalid)
	}
	a, err := actorOf(e, user)
	if err != nil {
		return Actor{}, Claims{}, err
	}
	if c.Key != "" || c.UserType == TypeAPIKey {
		a, err = redeemed(e, a, c.Key)
		return a, c, err
	}
	a.Session = c.Session
	if err := a.Still(e.App); err != nil {
		return Actor{}, Claims{}, err
	}
	return a, c, nil
}

func (d *Access) mac(text string) []byte {
	h := hmac.New(sha256.New, d.key)
	h.Write([]byte(intentDomain))
	h.Write([]byte(text))
	return h.Sum(nil)
}

// read opens a token and checks everything that needs no database. The MAC is compared before a
// byte of the claims is looked at.
func (d *Access) read(token string) (Claims, error) {
	if len(token) > maxIntentBytes {
		return Claims{}, ErrTokenInvalid
	}
	text, tag, ok := strings.Cut(token, ".")
	if !ok || strings.ContainsAny(token, "\r\n") { // the decoder would skip line breaks
		return Claims{}, ErrTokenInvalid
	}
	mac, err := intentEncoding.DecodeString(tag)
	if err != nil || !hmac.Equal(mac, d.mac(text)) {
		return Claims{}, ErrTokenInvalid
	}
	var c Claims
	body, err := intentEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(body, &c, json.RejectUnknownMembers(true)) != nil || c.Version != intentVersion {
		return Claims{}, ErrTokenInvalid
	}
	now := time.Now()
	issued, expires := time.UnixMilli(c.Issued), time.UnixMilli(c.Expires)
	if expires.Sub(issued) > MaxIntentTTL || issued.After(now.Add(maxIntentSkew)) {
		return Claims{}, ErrTokenInvalid
	}
	if !now.Before(expires) {
		return Claims{}, ErrTokenExpired
	}
	return c, nil
}

// spend records the use of a single-use token; ErrTokenSpent when there was one before.
func spend(app core.App, c Claims) error {
	return collections.Tx(app, []collections.Lock{collections.Lock("token:" + c.ID)}, func(tx core.App) error {
		_, err := collections.One[collections.SpentToken](tx, collections.SpentTokens, dbx.HashExp{"jti": c.ID})
		if err == nil {
			return ErrTokenSpent
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("look for a spent token: %w", err)
		}
		row, err := collections.NewSpentToken(tx)
		if err != nil {
			return err
		}
		row.SetJti(c.ID)
		row.SetExpiresAt(time.UnixMilli(c.Expires).Add(maxIntentSkew))
		if err := permit.Save(tx, row); err != nil {
			return fmt.Errorf("spend a token: %w", err)
		}
		return nil
	})
}

// BearerOf returns the intent token of a WebSocket handshake that offers "mamba.v1" and one
// "bearer.<token>" as subprotocols; 401 otherwise. Call it before the upgrade.
func BearerOf(r *http.Request) (string, error) {
	refuse := Unauthenticated("unauthenticated", "This connection needs the subprotocols mamba.v1 and bearer.<token>.")
	offered := strings.Split(strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ","), ",")
	if len(offered) > maxSubprotocols {
		return "", refuse
	}
	speaks, token := false, ""
	for _, p := range offered {
		p = strings.TrimSpace(p)
		if p == Subprotocol {
			speaks = true
		}
		if t, ok := strings.CutPrefix(p, bearerPrefix); ok {
			if token != "" {
				return "", refuse
			}
			token = t
		}
	}
	if !speaks || token == "" {
		return "", refuse
	}
	return token, nil
}
