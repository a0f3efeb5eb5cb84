package notify

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/jobs"
)

// Bounds of a notice in characters, well inside of the columns.
const (
	maxSubject = 200
	maxBody    = 1500
	maxWord    = 120 // of one text of a payload
	maxDetail  = 600 // of the longer ones
)

// Listen makes the notices of an event. It may be called again with the same one.
func (n *Notify) Listen(ctx context.Context, e events.Stored) error {
	if time.Since(e.At) > maxAge {
		return nil // an outbox that was restored
	}
	for _, k := range kinds {
		if k.Event != e.Kind {
			continue
		}
		var payload map[string]any
		if err := e.Unmarshal(&payload); err != nil {
			return err
		}
		if k.When != nil && !k.When(payload) {
			continue
		}
		if err := n.announce(ctx, k, e, payload); err != nil {
			return err
		}
	}
	return nil
}

// draft is a notice before it has a recipient.
type draft struct {
	k                   *kind
	event               events.Stored
	subject, body, link string
	server, org         string
	former              string // confirmed address of the account until the event; it is told by mail as well
}

func (n *Notify) announce(ctx context.Context, k *kind, e events.Stored, payload map[string]any) error {
	app := n.cfg.App
	f, err := n.gather(app, e, payload)
	if err != nil {
		return err
	}
	d := draft{k: k, event: e, server: f.ServerID, org: f.Tenant}
	d.former, _ = payload[FormerAddress].(string)
	if d.subject, d.body, d.link, err = k.write(f); err != nil {
		return err
	}
	list, err := n.audience(app, k, e, f.ServerID)
	if err != nil {
		return err
	}
	for _, to := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := collections.Tx(app, []collections.Lock{lock(to.id)}, func(tx core.App) error { return n.give(tx, to, d) })
		if err != nil {
			return fmt.Errorf("tell %s %s of event %s (%s): %w", to.account, to.id, e.ID, e.Kind, err)
		}
	}
	return nil
}

func findOrNil(app core.App, collection, id string) (*core.Record, error) {
	if id == "" {
		return nil, nil
	}
	r, err := app.FindRecordById(collection, id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find %s %s: %w", collection, id, err)
	}
	return r, nil
}

// gather looks up what the templates may name.
func (n *Notify) gather(app core.App, e events.Stored, payload map[string]any) (facts, error) {
	f := facts{App: app.Settings().Meta.AppName, TenantID: e.Tenant, Actor: clean(e.ActorName, maxWord), P: map[string]any{}}
	for key, v := range payload {
		switch v := v.(type) {
		case string:
			limit := maxWord
			if key == "detail" || key == "title" {
				limit = maxDetail
			}
			f.P[key] = clean(v, limit)
		case bool, float64:
			f.P[key] = v
		}
	}
	if f.Actor == "" {
		f.Actor = "Somebody"
	}
	tenant, err := findOrNil(app, collections.Tenants, e.Tenant)
	if err != nil {
		return f, err
	}
	if tenant != nil {
		f.Tenant = clean(tenant.GetString("name"), maxWord)
	}
	if e.SubjectType == "" {
		return f, nil
	}
	subject, err := findOrNil(app, e.SubjectType, e.Subject)
	if err != nil || subject == nil {
		return f, err
	}
	name := clean(subject.GetString("name"), maxWord)
	switch e.SubjectType {
	case collections.Servers:
		f.Server, f.ServerID = name, e.Subject
	case forUser:
		if f.Subject = name; name == "" {
			f.Subject = "another member"
		}
	default:
		f.Subject = name
	}
	return f, nil
}

// audience lists who is to be told.
func (n *Notify) audience(app core.App, k *kind, e events.Stored, server string) ([]recipient, error) {
	switch k.To {
	case concerned:
		account := e.SubjectType
		if account != forUser && account != forOperator || e.Subject == e.Actor && !k.OwnToo {
			return nil, nil
		}
		return []recipient{{account, e.Subject}}, nil
	case operators:
		rows, err := app.FindAllRecords(forOperator)
		if err != nil {
			return nil, fmt.Errorf("list the operators: %w", err)
		}
		var out []recipient
		for _, r := range rows {
			out = append(out, recipient{forOperator, r.Id})
		}
		return out, nil
	}
	if e.Tenant == "" {
		return nil, nil
	}
	rows, err := collections.Every[collections.TenantMember](app, collections.TenantMembers, "id", 0, dbx.HashExp{"tenant": e.Tenant})
	if err != nil {
		return nil, fmt.Errorf("list the members of %s: %w", e.Tenant, err)
	}
	out := []recipient{{forTenant, e.Tenant}}
	for _, m := range rows {
		if m.User() == e.Actor && !k.OwnToo {
			continue
		}
		who, err := findOrNil(app, forUser, m.User())
		if err != nil {
			return nil, err
		}
		if who == nil {
			continue
		}
		may, err := n.may(app, who, k, e.Tenant, server)
		if err != nil {
			return nil, err
		}
		if may {
			out = append(out, recipient{forUser, m.User()})
		}
	}
	return out, nil
}

// give makes the notices of one recipient, in the caller's transaction, which holds his lock.
func (n *Notify) give(tx core.App, to recipient, d draft) error {
	if who, err := to.record(tx); err != nil || who == nil { // deleted since it happened
		return err
	}
	if silent, err := muted(tx, to, d.server); err != nil || silent {
		return err
	}
	on, err := n.wanted(tx, to, d.k)
	if err != nil {
		return err
	}
	for _, channel := range channels {
		if !on[channel] {
			continue
		}
		targets, err := n.targets(tx, to, channel, d.k)
		if err != nil {
			return err
		}
		if channel == Email && d.former != "" {
			targets = append(targets, toFormer)
		}
		for _, target := range targets {
			if err := n.make(tx, to, channel, target, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// targets are the places of a channel to which a recipient has messages of a kind sent; "" where there is only one.
func (n *Notify) targets(app core.App, to recipient, channel string, k *kind) ([]string, error) {
	var out []string
	switch channel {
	case App:
		return []string{""}, nil
	case Email:
		who, err := to.record(app)
		if err != nil || who == nil || to.account == forUser && !who.Verified() {
			return nil, err // an address that is not confirmed may be somebody else's
		}
		return []string{""}, nil
	case Discord:
		where := dbx.HashExp{"user": to.id, "tenant": "", "problem": ""}
		if to.account == forTenant {
			where = dbx.HashExp{"user": "", "tenant": to.id, "problem": ""}
		}
		rows, err := collections.Every[collections.NotificationChannel](app, collections.NotificationChannels, "id", 0, where)
		if err != nil {
			return nil, fmt.Errorf("list the webhooks of %s: %w", to.id, err)
		}
		for _, r := range rows {
			on := true
			if to.account == forTenant {
				if on, err = takes(r, k); err != nil {
					return nil, err
				}
			}
			if on {
				out = append(out, r.Id)
			}
		}
	case Push:
		rows, _, err := liveBrowsers(app, to.id)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			out = append(out, r.Id)
		}
	}
	return out, nil
}

// make stores a notice once and sees to its delivery.
func (n *Notify) make(tx core.App, to recipient, channel, target string, d draft) error {
	key := fmt.Sprintf("%s:%s:%s:%s:%s", d.event.ID, d.k.Name, to.id, channel, target)
	known, err := tx.CountRecords(collections.Notifications, dbx.HashExp{"unique_key": key})
	if err != nil || known > 0 {
		return err
	}
	m := metadata{Server: d.server, Link: d.link, Org: d.org}
	if target == toFormer {
		m.Address = d.former
	}
	row, err := n.newRow(to, channel, target, key, d.k, d.subject, d.body, m)
	if err != nil {
		return err
	}
	row.SetEvent(d.event.ID)
	row.SetTenant(d.event.Tenant)
	if channel == App {
		row.SetStatus(sent)
		row.SetSentAt(time.Now())
		if err := permit.Save(tx, row); err != nil {
			return err
		}
		return n.show(tx, row)
	}
	crowded, err := n.crowded(tx, row, d.k)
	if err != nil {
		return err
	}
	if crowded {
		row.SetStatus(held)
		if err := permit.Save(tx, row); err != nil {
			return err
		}
		return n.gatherLater(tx, row)
	}
	if err := permit.Save(tx, row); err != nil {
		return err
	}
	return n.enqueue(tx, row)
}

func (n *Notify) newRow(to recipient, channel, target, key string, k *kind, subject, body string, m metadata) (*collections.Notification, error) {
	row, err := collections.NewNotification(n.cfg.App)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode the metadata of a notice: %w", err)
	}
	row.Id = core.GenerateDefaultRandomId()
	row.SetAccount(to.account)
	row.SetUser(to.id)
	row.SetChannel(channel)
	row.SetTarget(target)
	row.SetTemplate(k.Name)
	row.SetSeverity(k.Severity)
	row.SetSubject(subject)
	row.SetBody(body)
	row.SetMetadata(types.JSONRaw(raw))
	row.SetStatus(pending)
	row.SetCount(1)
	row.SetUniqueKey(key)
	return row, nil
}

// enqueue makes the job that delivers a notice. Of one target, one is under way at a time.
func (n *Notify) enqueue(tx core.App, row *collections.Notification) error {
	place := row.Target()
	if place == "" {
		place = row.User()
	}
	_, err := n.cfg.Jobs.Enqueue(tx, jobs.Job{Kind: deliverJob, Subject: row.Channel(), UniqueKey: "notify:" + row.Id, GroupKey: "notify:" + row.Channel() + ":" + place, Payload: delivery{Row: row.Id}})
	if errors.Is(err, jobs.ErrDuplicate) {
		return nil
	}
	return err
}

// show tells the browsers of a person that there is something behind the bell.
func (n *Notify) show(tx core.App, row *collections.Notification) error {
	unread, err := unread(tx, row.User())
	if err != nil {
		return err
	}
	n.cfg.Events.Tell(tx, row.User(), events.Message{Type: "notice", ID: row.Id, Data: map[string]any{"notice": view(row), "unread": unread}})
	return nil
}

func unread(app core.App, user string) (int64, error) {
	c, err := app.CountRecords(collections.Notifications, dbx.HashExp{"user": user, "channel": App, "read_at": ""})
	if err != nil {
		return 0, fmt.Errorf("count the notices of %s: %w", user, err)
	}
	return c, nil
}

// wanted says which channels of a kind a recipient has switched on.
func (n *Notify) wanted(app core.App, to recipient, k *kind) (map[string]bool, error) {
	on := map[string]bool{}
	if to.account == forTenant { // only its webhooks, and each says for itself
		on[Discord] = k.posted()
		return on, nil
	}
	for _, c := range k.On {
		on[c] = true
	}
	rows, err := collections.Every[collections.NotificationPref](app, collections.NotificationPrefs, "", 0, dbx.HashExp{"user": to.id, "kind": k.Name})
	if err != nil {
		return nil, fmt.Errorf("read what %s wants to know: %w", to.id, err)
	}
	for _, p := range rows {
		on[p.Channel()] = p.Enabled() || k.locked(p.Channel())
	}
	return on, nil
}
