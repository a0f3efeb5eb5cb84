package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	webpush "github.com/SherClockHolmes/webpush-go"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/secrets"
)

// lives says whether messages may go to a browser: the session that it subscribed in goes on. An operator's
// token is of no session; his browsers go when his tokens are void.
func lives(app core.App, s *collections.PushSubscription) (bool, error) {
	if s.Session() == "" {
		return true, nil
	}
	return access.SessionLives(app, s.Session(), s.User())
}

// liveBrowsers are the browsers of an account that messages may go to, the oldest first.
func liveBrowsers(app core.App, user string) (live, ended []*collections.PushSubscription, err error) {
	rows, err := collections.Every[collections.PushSubscription](app, collections.PushSubscriptions, "created, id", 0, dbx.HashExp{"user": user})
	if err != nil {
		return nil, nil, fmt.Errorf("list the browsers of %s: %w", user, err)
	}
	for _, r := range rows {
		on, err := lives(app, r)
		if err != nil {
			return nil, nil, err
		}
		if on {
			live = append(live, r)
		} else {
			ended = append(ended, r)
		}
	}
	return live, ended, nil
}

// SessionsEnded forgets the browsers that subscribed in sessions of an account that have ended. It is called in
// the transaction that ends them; a browser that subscribes beside it gets nothing all the same, since that is
// asked at delivery.
func (n *Notify) SessionsEnded(tx core.App, user string) error {
	_, ended, err := liveBrowsers(tx, user)
	if err != nil {
		return err
	}
	for _, r := range ended {
		if err := permit.Delete(tx, r); err != nil {
			return fmt.Errorf("forget the browser %s of an ended session: %w", r.Id, err)
		}
	}
	return nil
}

// TokensVoided forgets the browsers of an account that subscribed without a session, in the transaction that
// voids its tokens.
func (n *Notify) TokensVoided(tx core.App, user string) error {
	if _, err := tx.NonconcurrentDB().Delete(collections.PushSubscriptions, dbx.HashExp{"user": user, "session": ""}).Execute(); err != nil {
		return fmt.Errorf("forget the browsers of %s without a session: %w", user, err)
	}
	return nil
}

// browsers lists where push messages go, and the key that a browser needs to subscribe.
func (n *Notify) browsers(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	_, public, err := n.pushKey()
	if err != nil {
		return err
	}
	rows, _, err := liveBrowsers(e.App, a.ID)
	if err != nil {
		return err
	}
	items := []map[string]any{}
	for _, r := range rows {
		items = append(items, pushView(r))
	}
	return e.JSON(http.StatusOK, map[string]any{"key": public, "items": items})
}

// pushView holds the hash of the endpoint, by which a browser knows its own row.
func pushView(r *collections.PushSubscription) map[string]any {
	return map[string]any{"id": r.Id, "device": r.Device(), "endpoint_hash": r.EndpointHash(), "created": stamp(r.Created()), "used_at": stamp(r.UsedAt())}
}

// subscribe keeps a browser's subscription, which ends with the session of the asker. One that was another
// account's, on the same browser, is this account's from now on.
func (n *Notify) subscribe(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	var in webpush.Subscription
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	if wrong := n.checkSubscription(in); wrong != "" {
		return access.InvalidField("endpoint", "subscription_invalid", wrong)
	}
	plain, err := json.Marshal(in)
	if err != nil || len(plain) > 2000 {
		return access.InvalidField("endpoint", "subscription_invalid", "The endpoint is too long.")
	}
	var answer map[string]any
	err = collections.Tx(e.App, []collections.Lock{audit.Lock(""), lock(a.ID), secrets.Lock(secrets.System)}, func(tx core.App) error {
		if err := a.Still(tx); err != nil {
			return err
		}
		row, err := n.rowFor(tx, a.ID, hashOf(in.Endpoint))
		if err != nil {
			return err
		}
		sealed, err := n.cfg.Secrets.Seal(tx, secrets.System, pushRef(row.Id), plain)
		if err != nil {
			return err
		}
		row.SetUser(a.ID)
		row.SetSession(a.Session)
		row.SetSealed(sealed)
		row.SetEndpointHash(hashOf(in.Endpoint))
		row.SetDevice(clean(a.UserAgent, 255))
		if err := permit.Save(tx, row); err != nil {
			return fmt.Errorf("store a subscription of %s: %w", a.ID, err)
		}
		answer = pushView(row)
		return n.cfg.Audit.Write(tx, a.Audit(), audit.Entry{Action: "notification.push_add", ResourceType: collections.PushSubscriptions, Resource: row.Id})
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusCreated, answer)
}

// rowFor finds the row of an endpoint, whoever's it was, or makes one if the account may have one more.
func (n *Notify) rowFor(tx core.App, user, endpoint string) (*collections.PushSubscription, error) {
	rows, err := collections.Every[collections.PushSubscription](tx, collections.PushSubscriptions, "", 1, dbx.HashExp{"endpoint_hash": endpoint})
	if err != nil {
		return nil, fmt.Errorf("look for a subscription: %w", err)
	}
	if len(rows) > 0 {
		if rows[0].User() != user { // what the other account did with it is not this one's
			rows[0].SetUsedAt(time.Time{})
			rows[0].SetTestedAt(time.Time{})
		}
		return rows[0], nil
	}
	if err := n.SessionsEnded(tx, user); err != nil { // they do not count
		return nil, err
	}
	have, err := tx.CountRecords(collections.PushSubscriptions, dbx.HashExp{"user": user})
	if err != nil {
		return nil, fmt.Errorf("count the browsers of %s: %w", user, err)
	}
	if have >= maxSubscriptions {
		return nil, access.Conflict("subscription_limit", fmt.Sprintf("%d browsers get push messages, which is as many as there may be. Remove one first.", have))
	}
	row, err := collections.NewPushSubscription(tx)
	if err != nil {
		return nil, err
	}
	row.Id = core.GenerateDefaultRandomId()
	return row, nil
}

// browserOf finds a subscription of an account; 404.
func browserOf(app core.App, user, id string) (*collections.PushSubscription, error) {
	found, err := findOrNil(app, collections.PushSubscriptions, id)
	if err != nil {
		return nil, err
	}
	gone := access.NotFound("subscription_not_found", "There is no such browser, or it gets no push messages any more.")
	if found == nil || found.GetString("user") != user {
		return nil, gone
	}
	row := collections.Wrap[collections.PushSubscription](found)
	on, err := lives(app, row)
	if err == nil && !on {
		err = gone
	}
	return row, err
}

func (n *Notify) unsubscribe(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	err = collections.Tx(e.App, []collections.Lock{audit.Lock(""), lock(a.ID)}, func(tx core.App) error {
		row, err := browserOf(tx, a.ID, e.Request.PathValue("subscription"))
		if err != nil {
			return err
		}
		if err := permit.Delete(tx, row); err != nil {
			return fmt.Errorf("remove subscription %s: %w", row.Id, err)
		}
		return n.cfg.Audit.Write(tx, a.Audit(), audit.Entry{Action: "notification.push_remove", ResourceType: collections.PushSubscriptions, Resource: row.Id})
	})
	if err != nil {
		return err
	}
	return e.NoContent(http.StatusNoContent)
}

// testPush sends a message and says how it went.
func (n *Notify) testPush(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	var row *collections.PushSubscription
	err = collections.Tx(e.App, []collections.Lock{audit.Lock(""), lock(a.ID)}, func(tx core.App) error {
		var err error
		if row, err = browserOf(tx, a.ID, e.Request.PathValue("subscription")); err != nil {
			return err
		}
		if wait := testEvery - time.Since(row.TestedAt()); wait > 0 {
			return access.TooMany("too_soon", "A test message was sent a moment ago. Please wait some seconds.", wait)
		}
		row.SetTestedAt(time.Now())
		if err := permit.Save(tx, row); err != nil {
			return fmt.Errorf("note a test of subscription %s: %w", row.Id, err)
		}
		return n.cfg.Audit.Write(tx, a.Audit(), audit.Entry{Action: "notification.push_test", ResourceType: collections.PushSubscriptions, Resource: row.Id})
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(e.Request.Context(), testTimeout)
	defer cancel()
	return n.tested(e, n.push(ctx, row, core.GenerateDefaultRandomId(), "Test message", "Messages about your servers arrive here.", info, settingsLink))
}
