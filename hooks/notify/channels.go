package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// How much one owner may have, and how often it may be tried.
const (
	maxChannels      = 10
	maxSubscriptions = 20
	maxChannelName   = 80
	testEvery        = 10 * time.Second
	testTimeout      = 10 * time.Second
)

// managing is the permission that an organisation's webhooks need.
const managing = "tenant.update"

func noticesRead(left int64) events.Message {
	return events.Message{Type: "notices", Data: map[string]any{"unread": left}}
}

// owner is whose webhooks a request is about.
type owner struct {
	by     access.Actor
	user   string // empty: the tenant's
	tenant string // empty: the user's
}

func (o owner) id() string { return o.user + o.tenant }

func (o owner) where() dbx.HashExp { return dbx.HashExp{"user": o.user, "tenant": o.tenant} }

func (o owner) locks(more ...collections.Lock) []collections.Lock {
	return append(more, audit.Lock(o.tenant), lock(o.id()))
}

func own(e *core.RequestEvent) (owner, error) {
	a, err := access.From(e)
	return owner{by: a, user: a.ID}, err
}

// ofTenant is the organisation of the path, if the actor may manage its webhooks.
func (n *Notify) ofTenant(e *core.RequestEvent) (owner, error) {
	a, err := access.From(e)
	if err != nil {
		return owner{}, err
	}
	row, err := n.cfg.Tenancy.Find(e.App, a, e.Request.PathValue("id"))
	if err != nil {
		return owner{}, err
	}
	return owner{by: a, tenant: row.Id}, n.cfg.Tenancy.Can(e.App, a, managing, tenancy.Resource{Tenant: row.Id})
}

func (n *Notify) ownChannels(e *core.RequestEvent) error       { return n.withOwn(e, n.listChannels) }
func (n *Notify) addOwnChannel(e *core.RequestEvent) error     { return n.withOwn(e, n.addChannel) }
func (n *Notify) removeOwnChannel(e *core.RequestEvent) error  { return n.withOwn(e, n.removeChannel) }
func (n *Notify) testOwnChannel(e *core.RequestEvent) error    { return n.withOwn(e, n.testChannel) }
func (n *Notify) tenantChannels(e *core.RequestEvent) error    { return n.withTenant(e, n.listChannels) }
func (n *Notify) addTenantChannel(e *core.RequestEvent) error  { return n.withTenant(e, n.addChannel) }
func (n *Notify) testTenantChannel(e *core.RequestEvent) error { return n.withTenant(e, n.testChannel) }
func (n *Notify) removeTenantChannel(e *core.RequestEvent) error {
	return n.withTenant(e, n.removeChannel)
}

func (n *Notify) withOwn(e *core.RequestEvent, fn func(*core.RequestEvent, owner) error) error {
	o, err := own(e)
	if err != nil {
		return err
	}
	return fn(e, o)
}

func (n *Notify) withTenant(e *core.RequestEvent, fn func(*core.RequestEvent, owner) error) error {
	o, err := n.ofTenant(e)
	if err != nil {
		return err
	}
	return fn(e, o)
}

// still asks inside of a transaction whether the owner is still the actor's to manage.
func (n *Notify) still(tx core.App, o owner) error {
	if o.tenant == "" {
		return o.by.Still(tx)
	}
	return n.cfg.Tenancy.Can(tx, o.by, managing, tenancy.Resource{Tenant: o.tenant})
}

// channelView is a webhook without its URL, which nobody is shown again. An organisation's says what it is sent.
func channelView(c *collections.NotificationChannel) (map[string]any, error) {
	v := map[string]any{"id": c.Id, "kind": c.Kind(), "name": c.Name(), "problem": c.Problem(), "created": stamp(c.Created()), "used_at": stamp(c.UsedAt())}
	if c.Tenant() == "" {
		return v, nil
	}
	sent, err := kindsView(c)
	v["kinds"] = sent
	return v, err
}

func (n *Notify) listChannels(e *core.RequestEvent, o owner) error {
	rows, err := collections.Every[collections.NotificationChannel](e.App, collections.NotificationChannels, "created, id", 0, o.where())
	if err != nil {
		return fmt.Errorf("list the webhooks of %s: %w", o.id(), err)
	}
	items := []map[string]any{}
	for _, c := range rows {
		v, err := channelView(c)
		if err != nil {
			return err
		}
		items = append(items, v)
	}
	out := map[string]any{"items": items}
	if o.tenant != "" {
		out["kinds"] = postedKinds()
	}
	return e.JSON(http.StatusOK, out)
}

func (n *Notify) addChannel(e *core.RequestEvent, o owner) error {
	var in struct {
		Name string `json:"name"`
		URL  string `json:"url"`
	}
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	faults := map[string]access.FieldError{}
	name, ok := access.CleanText(in.Name, maxChannelName)
	if name == "" || !ok {
		faults["name"] = access.FieldError{Code: "name_invalid", Message: fmt.Sprintf("Please give it a name of at most %d ordinary characters.", maxChannelName)}
	}
	u, wrong := n.webhookURL(in.URL)
	if wrong != "" || len(in.URL) > 1000 {
		if wrong == "" {
			wrong = "This URL is too long."
		}
		faults["url"] = access.FieldError{Code: "url_invalid", Message: wrong}
	}
	if len(faults) > 0 {
		return access.Invalid(faults)
	}
	var answer map[string]any
	id, scope := core.GenerateDefaultRandomId(), secrets.System
	if o.tenant != "" {
		scope = o.tenant
	}
	err := collections.Tx(e.App, o.locks(secrets.Lock(scope)), func(tx core.App) error {
		if err := n.still(tx, o); err != nil {
			return err
		}
		rows, err := collections.Every[collections.NotificationChannel](tx, collections.NotificationChannels, "", 0, o.where())
		if err != nil {
			return fmt.Errorf("list the webhooks of %s: %w", o.id(), err)
		}
		for _, c := range rows {
			if c.GetString("url_hash") == hashOf(u.String()) {
				return access.Conflict("channel_exists", "This webhook is here already.")
			}
		}
		if len(rows) >= maxChannels {
			return access.Conflict("channel_limit", fmt.Sprintf("There are %d webhooks, which is as many as there may be. Remove one first.", len(rows)))
		}
		row, err := collections.NewNotificationChannel(tx)
		if err != nil {
			return err
		}
		row.Id = id
		sealed, err := n.cfg.Secrets.Seal(tx, scope, urlRef(id), []byte(u.String()))
		if err != nil {
			return err
		}
		if err := n.hush(tx, o, row); err != nil {
			return err
		}
		row.SetUser(o.user)
		row.SetTenant(o.tenant)
		row.SetKind(Discord)
		row.SetName(name)
		row.Set("url", sealed)
		row.Set("url_hash", hashOf(u.String()))
		if err := permit.Save(tx, row); err != nil {
			return fmt.Errorf("store a webhook of %s: %w", o.id(), err)
		}
		if answer, err = channelView(row); err != nil {
			return err
		}
		return n.noteChannel(tx, o, "notification.channel_add", row)
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusCreated, answer)
}

func (n *Notify) noteChannel(tx core.App, o owner, action string, c *collections.NotificationChannel) error {
	return n.cfg.Audit.Write(tx, o.by.Audit(), audit.Entry{Tenant: o.tenant, Action: action, ResourceType: collections.NotificationChannels, Resource: c.Id, Metadata: map[string]any{"name": c.Name(), "kind": c.Kind()}})
}

// channelOf finds a webhook of an owner; 404.
func channelOf(app core.App, o owner, id string) (*collections.NotificationChannel, error) {
	found, err := findOrNil(app, collections.NotificationChannels, id)
	if err != nil {
		return nil, err
	}
	if found == nil || found.GetString("user") != o.user || found.GetString("tenant") != o.tenant {
		return nil, access.NotFound("channel_not_found", "There is no such webhook.")
	}
	return collections.Wrap[collections.NotificationChannel](found), nil
}

func (n *Notify) removeChannel(e *core.RequestEvent, o owner) error {
	err := collections.Tx(e.App, o.locks(), func(tx core.App) error {
		if err := n.still(tx, o); err != nil {
			return err
		}
		c, err := channelOf(tx, o, e.Request.PathValue("channel"))
		if err != nil {
			return err
		}
		if err := permit.Delete(tx, c); err != nil {
			return fmt.Errorf("remove webhook %s: %w", c.Id, err)
		}
		return n.noteChannel(tx, o, "notification.channel_remove", c)
	})
	if err != nil {
		return err
	}
	return e.NoContent(http.StatusNoContent)
}

// testChannel sends a message and says how it went. A webhook that had a problem is tried again.
func (n *Notify) testChannel(e *core.RequestEvent, o owner) error {
	var c *collections.NotificationChannel
	err := collections.Tx(e.App, o.locks(), func(tx core.App) error {
		if err := n.still(tx, o); err != nil {
			return err
		}
		var err error
		if c, err = channelOf(tx, o, e.Request.PathValue("channel")); err != nil {
			return err
		}
		if wait := testEvery - time.Since(c.TestedAt()); wait > 0 {
			return access.TooMany("too_soon", "A test message was sent a moment ago. Please wait some seconds.", wait)
		}
		c.SetTestedAt(time.Now())
		if err := permit.Save(tx, c); err != nil {
			return fmt.Errorf("note a test of webhook %s: %w", c.Id, err)
		}
		return n.noteChannel(tx, o, "notification.channel_test", c)
	})
	if err != nil {
		return err
	}
	raw, err := n.discordMessage("Test message", "Messages about your servers arrive here.", info, "", n.appURL()+settingsLink)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(e.Request.Context(), testTimeout)
	defer cancel()
	return n.tested(e, n.post(ctx, c, raw))
}

// tested answers how a test went. What went wrong on the way is not told apart: it would say what can be
// reached from here.
func (n *Notify) tested(e *core.RequestEvent, err error) error {
	var no final
	var wait later
	switch {
	case err == nil:
		return e.JSON(http.StatusOK, map[string]any{"sent": true})
	case errors.As(err, &no):
		return access.Conflict("message_refused", "The message was not taken: "+no.problem).Because(err)
	case errors.As(err, &wait):
		return access.TooMany("too_soon", "The other side asks us to wait. Please try again later.", wait.after).Because(err)
	}
	n.cfg.Log.Warn("a test message was not sent", "request", access.RequestID(e), "error", err)
	return access.Conflict("unreachable", "The message could not be sent. Check the URL, or try again in some minutes.").Because(err)
}
