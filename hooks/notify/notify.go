// Package notify tells people what happened: in the app, by mail, in Discord and as a push message of
// their browser.
//
// It owns notifications, notification_prefs, notification_channels, notification_mutes, push_subscriptions
// and push_keys. It
// refuses to decide who may see something: it asks tenancy when a notice is made and again when it is
// delivered. What there is to tell of is one table, kinds; a room that has something new adds a row.
//
// Its one invariant: of one event, a recipient has at most one notice per channel and target. What a
// channel may make of it when the panel dies while it sends is in docs/notifications.md.
//
//	event ─► Listen ─► pending ─ DeliverNotification ─► sent, failed, skipped
//	                 └► held ── DigestNotifications ─► gathered, and one pending for all of them
package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/hooks/tenancy"
)

var permit = collections.PermitFor("notify")

// Channels.
const (
	App     = "app"     // the list behind the bell, live
	Email   = "email"   // to the confirmed address of an account
	Discord = "discord" // webhooks of a person or of an organisation
	Push    = "push"    // browsers that a person has allowed it in
)

// Channels in the order in which they are shown.
var channels = []string{App, Email, Discord, Push}

// States of a notice.
const (
	held     = "held"     // one of a burst; waits to be gathered
	pending  = "pending"  // a job delivers it
	sent     = "sent"     // the other side has taken it; for app: it is in the list
	failed   = "failed"   // it will not be; problem says why
	skipped  = "skipped"  // nobody wanted it any more, or it was not his any more
	gathered = "gathered" // it is part of another one
)

// Collections of whom a notice is for.
const (
	forUser      = "users"
	forOperator  = core.CollectionNameSuperusers
	forTenant    = collections.Tenants // its webhooks
	deliverJob   = "DeliverNotification"
	digestJob    = "DigestNotifications"
	maxAge       = 24 * time.Hour      // an event or a notice that is older is not worth a message any more
	keep         = 90 * 24 * time.Hour // how long notices are kept
	pruneAtOnce  = 20_000
	listenerName = "notify"
)

// Defaults of a burst.
const (
	DefaultBurst  = 5                // messages of one kind to one target
	DefaultWindow = 10 * time.Minute // in this time; what is more is gathered into one message
)

// Outbox is events.Outbox.
type Outbox interface {
	On(kind, name string, fn events.Listener)
	Tell(tx core.App, account string, m events.Message)
}

// Queue is jobs.Queue.
type Queue interface {
	Handle(name string, o jobs.Options, h jobs.Handler, undo jobs.Undo)
	Enqueue(tx core.App, j jobs.Job) (id string, err error)
}

// Tenancy is tenancy.Tenancy.
type Tenancy interface {
	Can(app core.App, a access.Actor, permission string, r tenancy.Resource) error
	Find(app core.App, a access.Actor, ref string) (*collections.Tenant, error)
}

// Auditor is audit.Log.
type Auditor interface {
	Write(tx core.App, a audit.Actor, e audit.Entry) error
}

// Keeper is secrets.Keeper.
type Keeper interface {
	Seal(tx core.App, scope string, ref secrets.Ref, plain []byte) (string, error)
	Open(app core.App, scope string, ref secrets.Ref, sealed string) ([]byte, error)
}

// Sender is outbound.Client: what makes requests to addresses that customers chose.
type Sender interface {
	Do(req *http.Request) (*http.Response, error)
}

// Config of New. What has no default is required.
type Config struct {
	App     core.App
	Events  Outbox
	Jobs    Queue
	Tenancy Tenancy
	Audit   Auditor
	Secrets Keeper
	Send    Sender
	Hosts   []string      // host or host:port that webhooks and push endpoints may have beside Discord's and public https
	Burst   int           // default DefaultBurst
	Window  time.Duration // default DefaultWindow
	Retry   time.Duration // before the second attempt at a delivery; default 10 s
	Log     *slog.Logger  // default slog.Default()
}

// Notify makes and delivers notices. Its methods can be called concurrently.
type Notify struct {
	cfg Config

	// sending is called before and after a message leaves, with the channel; for tests, which end the
	// process there. Nil: nothing.
	sending func(stage, channel string)
}

// New checks the configuration, registers the listener and the jobs.
func New(c Config) (*Notify, error) {
	if c.App == nil || c.Events == nil || c.Jobs == nil || c.Tenancy == nil || c.Audit == nil || c.Secrets == nil || c.Send == nil {
		return nil, errors.New("notify: an app, events, jobs, tenancy, an auditor, secrets and a sender are needed")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Burst <= 0 {
		c.Burst = DefaultBurst
	}
	if c.Window <= 0 {
		c.Window = DefaultWindow
	}
	if c.Retry <= 0 {
		c.Retry = 10 * time.Second
	}
	n := &Notify{cfg: c}
	for _, k := range kinds {
		k.mustParse()
	}
	c.Events.On("*", listenerName, n.Listen)
	c.Jobs.Handle(deliverJob, jobs.Options{MaxAttempts: 8, BackoffMin: c.Retry, BackoffMax: time.Hour, Timeout: time.Minute, AtOnce: 3}, n.deliver, n.giveUp)
	c.Jobs.Handle(digestJob, jobs.Options{MaxAttempts: 8, BackoffMin: c.Retry, BackoffMax: time.Hour, Timeout: time.Minute}, n.digest, nil)
	return n, nil
}

// lock is held by whoever makes notices for a recipient.
func lock(recipient string) collections.Lock { return collections.Lock("notify:" + recipient) }

// recipient is whom a notice is for.
type recipient struct {
	account string // forUser, forOperator, forTenant
	id      string
}

// record finds the account of a person; nil when it is gone.
func (r recipient) record(app core.App) (*core.Record, error) {
	return findOrNil(app, r.account, r.id)
}

// actor is a person as tenancy is asked about him, when nobody makes a request.
func actorOf(r *core.Record) access.Actor {
	return access.Actor{Type: access.TypeUser, ID: r.Id, Email: r.Email(), Name: r.GetString("name"), Verified: r.Verified()}
}

// FormerAddress is the key, in the payload of an event about an account, of an address that was the account's and
// confirmed until then. Who lost his account learns of it there.
const FormerAddress = "former_address"

// toFormer is the target of a mail to that address.
const toFormer = "former"

// metadata of a notice.
type metadata struct {
	Server string   `json:"server,omitempty"`
	Link   string   `json:"link,omitempty"` // path in the web app
	Rows   []string `json:"rows,omitempty"` // of a gathered message: the notices that are in it
	Org    string   `json:"org,omitempty"`  // name of the organisation, as it was then

	Address string `json:"address,omitempty"` // of a mail to toFormer
}

func metadataOf(row *collections.Notification) (m metadata) {
	_ = json.Unmarshal([]byte(row.GetString("metadata")), &m) // ours; an empty one says nothing
	return m
}

// allowed says whether a notice is still its recipient's: the account is there, and what the notice is
// about may be seen by it. It is asked at the moment of delivery.
func (n *Notify) allowed(app core.App, row *collections.Notification, k *kind, server string) (bool, error) {
	to := recipient{row.Account(), row.User()}
	who, err := to.record(app)
	if err != nil || who == nil {
		return false, err
	}
	if to.account == forTenant {
		return who.GetString("status") != tenancy.StatusDeleted, nil
	}
	if to.account == forOperator || k.Permission == "" && k.To != members || row.Tenant() == "" {
		return true, nil
	}
	return n.may(app, who, k, row.Tenant(), server)
}

// may says whether somebody may know of what a kind tells about a tenant. One without a permission is for every member.
func (n *Notify) may(app core.App, who *core.Record, k *kind, tenant, server string) (bool, error) {
	if k.Permission == "" {
		_, err := n.cfg.Tenancy.Find(app, actorOf(who), tenant)
		return verdict(err)
	}
	return verdict(n.cfg.Tenancy.Can(app, actorOf(who), k.Permission, tenancy.Resource{Tenant: tenant, Server: server}))
}

// verdict tells a refusal from a question that could not be asked.
func verdict(err error) (bool, error) {
	var refused *access.Error
	if errors.As(err, &refused) {
		return false, nil
	}
	return err == nil, err
}

// Prune removes notices that are old, and what belonged to accounts, sessions and servers that are gone.
func (n *Notify) Prune(tx core.App, now time.Time) error {
	for _, table := range []string{collections.NotificationPrefs, collections.PushSubscriptions, collections.NotificationChannels, collections.NotificationMutes} {
		_, err := tx.NonconcurrentDB().NewQuery(`DELETE FROM {{` + table + `}} WHERE [[user]] != ''
			AND NOT EXISTS (SELECT 1 FROM {{users}} [[u]] WHERE [[u.id]] = {{` + table + `}}.[[user]])
			AND NOT EXISTS (SELECT 1 FROM {{_superusers}} [[s]] WHERE [[s.id]] = {{` + table + `}}.[[user]])`).Execute()
		if err != nil {
			return fmt.Errorf("prune %s: %w", table, err)
		}
	}
	for _, account := range []string{forUser, forOperator} { // one that was made while its account was deleted
		_, err := tx.NonconcurrentDB().NewQuery(`DELETE FROM {{notifications}} WHERE [[account]] = {:account}
			AND NOT EXISTS (SELECT 1 FROM {{` + account + `}} [[a]] WHERE [[a.id]] = {{notifications}}.[[user]])`).Bind(map[string]any{"account": account}).Execute()
		if err != nil {
			return fmt.Errorf("prune the notices of accounts that are gone: %w", err)
		}
	}
	_, err := tx.NonconcurrentDB().NewQuery(`DELETE FROM {{notification_mutes}} WHERE NOT EXISTS (SELECT 1 FROM {{servers}} [[s]] WHERE [[s.id]] = {{notification_mutes}}.[[server]])`).Execute()
	if err != nil {
		return fmt.Errorf("prune the mutes of servers that are gone: %w", err)
	}
	_, err = tx.NonconcurrentDB().NewQuery(`DELETE FROM {{push_subscriptions}} WHERE [[session]] != '' AND NOT EXISTS (SELECT 1 FROM {{sessions}} [[s]]
		WHERE [[s.id]] = {{push_subscriptions}}.[[session]] AND [[s.user]] = {{push_subscriptions}}.[[user]] AND [[s.revoked_at]] = '' AND [[s.expires_at]] > {:now})`).Bind(map[string]any{"now": collections.Stamp(now)}).Execute()
	if err != nil {
		return fmt.Errorf("prune the browsers of sessions that have ended: %w", err)
	}
	_, err = tx.NonconcurrentDB().NewQuery(`DELETE FROM {{notifications}} WHERE [[id]] IN (SELECT [[id]] FROM {{notifications}} WHERE [[created]] < {:before} LIMIT {:limit})`).
		Bind(map[string]any{"before": collections.Stamp(now.Add(-keep)), "limit": pruneAtOnce}).Execute()
	if err != nil {
		return fmt.Errorf("prune notifications: %w", err)
	}
	return nil
}

// clean makes one line of a text that a customer or a game chose: no control characters (terminals obey
// them), none that turn the direction of reading, at most max characters.
func clean(s string, maxRunes int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.TrimSpace(s)
	if r := []rune(s); len(r) > maxRunes {
		return string(r[:maxRunes-1]) + "…"
	}
	return s
}

// appURL is where browsers reach the panel, without a slash at the end.
func (n *Notify) appURL() string { return strings.TrimRight(n.cfg.App.Settings().Meta.AppURL, "/") }

// at tells a test where a delivery is.
func (n *Notify) at(ctx context.Context, stage, channel string) error {
	if n.sending != nil {
		n.sending(stage, channel)
	}
	return context.Cause(ctx)
}
