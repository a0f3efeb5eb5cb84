package notify

import (
	"context"
	"crypto/ecdh"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	webpush "github.com/SherClockHolmes/webpush-go"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/wings/outbound"
)

const (
	pushTTL     = 24 * 60 * 60 // seconds that a push service keeps a message for a browser that is away
	pushKeyName = "vapid"
)

// lockPushKey is held while the installation's key pair is made.
const lockPushKey collections.Lock = "notify:vapid"

var pushUrgency = map[string]webpush.Urgency{info: webpush.UrgencyLow, warning: webpush.UrgencyNormal, critical: webpush.UrgencyHigh}

// pushKey returns the installation's VAPID key pair (RFC 8292); it is made the first time.
func (n *Notify) pushKey() (private, public string, err error) {
	app := n.cfg.App
	find := func(app core.App) (*collections.PushKey, error) {
		row, err := collections.One[collections.PushKey](app, collections.PushKeies, dbx.HashExp{"name": pushKeyName})
		if errors.Is(err, sql.ErrNoRows) {
			return nil, nil
		}
		return row, err
	}
	row, err := find(app)
	if err == nil && row == nil {
		err = collections.Tx(app, []collections.Lock{lockPushKey, secrets.Lock(secrets.System)}, func(tx core.App) error {
			if row, err = find(tx); err != nil || row != nil {
				return err
			}
			private, public, err := webpush.GenerateVAPIDKeys()
			if err != nil {
				return err
			}
			if row, err = collections.NewPushKey(tx); err != nil {
				return err
			}
			row.Id = core.GenerateDefaultRandomId()
			sealed, err := n.cfg.Secrets.Seal(tx, secrets.System, pushKeyRef(row.Id), []byte(private))
			if err != nil {
				return err
			}
			row.SetName(pushKeyName)
			row.SetPublic(public)
			row.SetPrivate(sealed)
			return permit.Save(tx, row)
		})
	}
	if err != nil {
		return "", "", fmt.Errorf("find the key of push messages: %w", err)
	}
	raw, err := n.cfg.Secrets.Open(app, secrets.System, pushKeyRef(row.Id), row.Private())
	if err != nil {
		return "", "", fmt.Errorf("open the key of push messages: %w", err)
	}
	return string(raw), row.Public(), nil
}

// Sealed are the fields that hold sealed values: a channel's address, a browser's, and the key that
// messages to browsers are signed with.
var Sealed = []secrets.Sealed{
	{Table: collections.NotificationChannels, Field: "url"},
	{Table: collections.PushSubscriptions, Field: "sealed", Scope: secrets.OfSystem},
	{Table: collections.PushKeies, Field: "private", Scope: secrets.OfSystem},
}

func pushKeyRef(id string) secrets.Ref {
	return secrets.Ref{Table: collections.PushKeies, Row: id, Field: "private"}
}

func pushRef(id string) secrets.Ref {
	return secrets.Ref{Table: collections.PushSubscriptions, Row: id, Field: "sealed"}
}

// checkSubscription says what is wrong with what a browser sent; empty: nothing.
func (n *Notify) checkSubscription(s webpush.Subscription) string {
	u, err := url.Parse(s.Endpoint)
	if err != nil || outbound.CheckURL(u) != nil || u.Scheme != "https" && !n.allowedHost(u) {
		return "The endpoint is not the address of a push service."
	}
	point, err := decodeKey(s.Keys.P256dh)
	if err == nil {
		_, err = ecdh.P256().NewPublicKey(point)
	}
	if err != nil {
		return "keys.p256dh is not a public key of a browser."
	}
	if auth, err := decodeKey(s.Keys.Auth); err != nil || len(auth) != 16 {
		return "keys.auth is not the secret of a browser."
	}
	return ""
}

func decodeKey(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	if raw, err := base64.RawURLEncoding.DecodeString(s); err == nil {
		return raw, nil
	}
	return base64.RawStdEncoding.DecodeString(s)
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// sendPush sends a notice to a browser. Topic and tag are the notice's id: one that comes twice takes the
// place of the first.
func (n *Notify) sendPush(ctx context.Context, row *collections.Notification) error {
	found, err := findOrNil(n.cfg.App, collections.PushSubscriptions, row.Target())
	if err != nil {
		return err
	}
	if found == nil || found.GetString("user") != row.User() {
		return final{"the browser does not take push messages any more"}
	}
	browser := collections.Wrap[collections.PushSubscription](found)
	if on, err := lives(n.cfg.App, browser); err != nil || !on {
		return errorsFirst(err, final{"the browser's session has ended"})
	}
	return n.push(ctx, browser, row.Id, row.Subject(), row.Body(), row.Severity(), metadataOf(row).Link)
}

func (n *Notify) push(ctx context.Context, sub *collections.PushSubscription, id, subject, body, severity, link string) error {
	raw, err := n.cfg.Secrets.Open(n.cfg.App, secrets.System, pushRef(sub.Id), sub.Sealed())
	if err != nil {
		return fmt.Errorf("open the subscription %s: %w", sub.Id, err)
	}
	var s webpush.Subscription
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("read the subscription %s: %w", sub.Id, err)
	}
	private, public, err := n.pushKey()
	if err != nil {
		return err
	}
	message, err := json.Marshal(map[string]string{"title": subject, "body": cutRunes(body, 500), "tag": id, "link": link})
	if err != nil {
		return err
	}
	res, err := webpush.SendNotificationWithContext(ctx, message, &s, &webpush.Options{
		HTTPClient: n.cfg.Send, Subscriber: n.cfg.App.Settings().Meta.SenderAddress, Topic: id, TTL: pushTTL, Urgency: pushUrgency[severity],
		VAPIDPublicKey: public, VAPIDPrivateKey: private,
	})
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 4096)) // so that the connection can be used again
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 300:
		return n.usedPush(sub)
	case res.StatusCode == http.StatusNotFound, res.StatusCode == http.StatusGone, res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden:
		return errorsFirst(n.dropPush(sub), final{"the browser does not take push messages any more"})
	case res.StatusCode == http.StatusTooManyRequests:
		return later{retryAfter(res.Header, time.Minute)}
	case res.StatusCode < 500:
		return final{fmt.Sprintf("the push service refused the message (%d)", res.StatusCode)}
	}
	return fmt.Errorf("the push service answered %d", res.StatusCode)
}

func (n *Notify) usedPush(sub *collections.PushSubscription) error {
	return n.withPush(sub, func(tx core.App, now *collections.PushSubscription) error {
		now.SetUsedAt(time.Now())
		return permit.Save(tx, now)
	})
}

// dropPush forgets a browser that its push service no longer knows.
func (n *Notify) dropPush(sub *collections.PushSubscription) error {
	return n.withPush(sub, func(tx core.App, now *collections.PushSubscription) error { return permit.Delete(tx, now) })
}

func (n *Notify) withPush(sub *collections.PushSubscription, fn func(tx core.App, now *collections.PushSubscription) error) error {
	return collections.Tx(n.cfg.App, []collections.Lock{lock(sub.User())}, func(tx core.App) error {
		now, err := findOrNil(tx, collections.PushSubscriptions, sub.Id)
		if err != nil || now == nil || now.GetString("user") != sub.User() {
			return err
		}
		return fn(tx, collections.Wrap[collections.PushSubscription](now))
	})
}
