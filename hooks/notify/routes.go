package notify

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
)

// Bounds of a page of notices, and of what is marked as read at once.
const (
	maxPage    = 1 << 20
	maxPerPage = 100
	perPage    = 30
	maxMarked  = 100
)

// Routes registers what people see and choose about notices.
func (n *Notify) Routes(g *router.RouterGroup[*core.RequestEvent]) {
	g.GET("/notifications", n.list)
	g.POST("/notifications/read", n.markRead)
	g.POST("/notifications/read-all", n.markAllRead)
	g.GET("/notifications/preferences", n.preferences)
	g.PUT("/notifications/preferences", n.prefer)
	g.GET("/notifications/channels", n.ownChannels)
	g.POST("/notifications/channels", n.addOwnChannel)
	g.DELETE("/notifications/channels/{channel}", n.removeOwnChannel)
	g.POST("/notifications/channels/{channel}/test", n.testOwnChannel)
	g.GET("/notifications/push", n.browsers)
	g.POST("/notifications/push", n.subscribe)
	g.DELETE("/notifications/push/{subscription}", n.unsubscribe)
	g.POST("/notifications/push/{subscription}/test", n.testPush)
	g.GET("/notifications/mutes", n.mutes)
	g.PUT("/notifications/mutes/{server}", n.mute)
	g.DELETE("/notifications/mutes/{server}", n.unmute)
	g.GET("/tenants/{id}/channels", n.tenantChannels)
	g.POST("/tenants/{id}/channels", n.addTenantChannel)
	g.PATCH("/tenants/{id}/channels/{channel}", n.chooseKinds)
	g.DELETE("/tenants/{id}/channels/{channel}", n.removeTenantChannel)
	g.POST("/tenants/{id}/channels/{channel}/test", n.testTenantChannel)
}

// view is a notice as its recipient sees it.
func view(row *collections.Notification) map[string]any {
	m := metadataOf(row)
	return map[string]any{"id": row.Id, "kind": row.Template(), "severity": row.Severity(), "subject": row.Subject(), "body": row.Body(), "tenant": row.Tenant(), "org": m.Org,
		"server": m.Server, "link": m.Link, "at": stamp(row.Created()), "read_at": stamp(row.ReadAt())}
}

func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func number(e *core.RequestEvent, name string, unset, most int) (int, error) {
	text := e.Request.URL.Query().Get(name)
	if text == "" {
		return unset, nil
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < 1 || v > most {
		return 0, access.InvalidField(name, "out_of_range", fmt.Sprintf("Use a number from 1 to %d.", most))
	}
	return v, nil
}

// list is what is behind the bell: one's own, the newest first.
func (n *Notify) list(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	page, err := number(e, "page", 1, maxPage)
	if err != nil {
		return err
	}
	size, err := number(e, "per_page", perPage, maxPerPage)
	if err != nil {
		return err
	}
	where := dbx.HashExp{"user": a.ID, "channel": App}
	switch e.Request.URL.Query().Get("unread") {
	case "":
	case "true":
		where["read_at"] = ""
	default:
		return access.InvalidField("unread", "unknown", "Use true, or leave it out.")
	}
	var rows []*collections.Notification
	err = e.App.RecordQuery(collections.Notifications).AndWhere(where).OrderBy("created DESC", "id DESC").Limit(int64(size)).Offset(int64((page - 1) * size)).All(&rows)
	if err != nil {
		return fmt.Errorf("list the notices of %s: %w", a.ID, err)
	}
	total, err := e.App.CountRecords(collections.Notifications, where)
	if err != nil {
		return fmt.Errorf("count the notices of %s: %w", a.ID, err)
	}
	left, err := unread(e.App, a.ID)
	if err != nil {
		return err
	}
	items := []map[string]any{}
	for _, r := range rows {
		items = append(items, view(r))
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items, "page": page, "per_page": size, "total": total, "unread": left})
}

// markRead marks some of one's own. Ids that are not one's own are passed over: they are nothing here.
func (n *Notify) markRead(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	var in struct {
		IDs []string `json:"ids"`
	}
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	if len(in.IDs) == 0 || len(in.IDs) > maxMarked {
		return access.InvalidField("ids", "out_of_range", fmt.Sprintf("Name 1 to %d notices.", maxMarked))
	}
	list := make([]any, len(in.IDs))
	for i, id := range in.IDs {
		list[i] = id
	}
	return n.mark(e, a, dbx.In("id", list...))
}

func (n *Notify) markAllRead(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	return n.mark(e, a, nil)
}

// mark writes no audit row: what somebody has read is nobody else's business.
func (n *Notify) mark(e *core.RequestEvent, a access.Actor, which dbx.Expression) error {
	var left int64
	err := collections.Tx(e.App, []collections.Lock{lock(a.ID)}, func(tx core.App) error {
		now := collections.Stamp(time.Now())
		_, err := tx.NonconcurrentDB().Update(collections.Notifications, dbx.Params{"read_at": now, "updated": now},
			dbx.And(dbx.HashExp{"user": a.ID, "channel": App, "read_at": ""}, which)).Execute()
		if err != nil {
			return fmt.Errorf("mark the notices of %s: %w", a.ID, err)
		}
		if left, err = unread(tx, a.ID); err != nil {
			return err
		}
		n.cfg.Events.Tell(tx, a.ID, noticesRead(left))
		return nil
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"unread": left})
}

// kindView is a row of the settings.
type kindView struct {
	Kind     string          `json:"kind"`
	Group    string          `json:"group"`
	Title    string          `json:"title"`
	Severity string          `json:"severity"`
	Channels map[string]bool `json:"channels"`
	Locked   []string        `json:"locked"` // channels that cannot be switched off
}

func (n *Notify) preferences(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	to := recipient{accountOf(a), a.ID}
	items := []kindView{}
	for _, k := range kinds {
		if !k.offered(to.account) {
			continue
		}
		v, err := n.kindView(e.App, to, k)
		if err != nil {
			return err
		}
		items = append(items, v)
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items, "channels": channels, "email": a.Email, "email_confirmed": a.Verified})
}

func (n *Notify) kindView(app core.App, to recipient, k *kind) (kindView, error) {
	on, err := n.wanted(app, to, k)
	if err != nil {
		return kindView{}, err
	}
	v := kindView{Kind: k.Name, Group: k.Group, Title: k.Title, Severity: k.Severity, Channels: map[string]bool{}, Locked: []string{}}
	for _, c := range channels {
		if v.Channels[c] = on[c]; k.locked(c) {
			v.Locked = append(v.Locked, c)
		}
	}
	return v, nil
}

func accountOf(a access.Actor) string {
	if a.Superuser {
		return forOperator
	}
	return forUser
}

// prefer switches one kind on or off in one channel.
func (n *Notify) prefer(e *core.RequestEvent) error {
	a, err := access.From(e)
	if err != nil {
		return err
	}
	var in struct {
		Kind    string `json:"kind"`
		Channel string `json:"channel"`
		Enabled *bool  `json:"enabled"`
	}
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	to, k := recipient{accountOf(a), a.ID}, kindOf(in.Kind)
	switch {
	case k == nil || !k.offered(to.account):
		return access.InvalidField("kind", "unknown", "There is no such kind of notice.")
	case !slices.Contains(channels, in.Channel):
		return access.InvalidField("channel", "unknown", "Use one of app, email, discord and push.")
	case in.Enabled == nil:
		return access.InvalidField("enabled", "required", "Say true or false.")
	case !*in.Enabled && k.locked(in.Channel):
		return access.Conflict("always_on", "Notices about the safety of your account are always shown and always mailed.")
	}
	var v kindView
	err = collections.Tx(e.App, []collections.Lock{audit.Lock(""), lock(a.ID)}, func(tx core.App) error {
		if err := a.Still(tx); err != nil {
			return err
		}
		if err := setPreference(tx, a.ID, in.Kind, in.Channel, *in.Enabled); err != nil {
			return err
		}
		if v, err = n.kindView(tx, to, k); err != nil {
			return err
		}
		return n.cfg.Audit.Write(tx, a.Audit(), audit.Entry{Action: "notification.preference", ResourceType: to.account, Resource: a.ID,
			Metadata: map[string]any{"kind": in.Kind, "channel": in.Channel, "enabled": *in.Enabled}})
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, v)
}

func setPreference(tx core.App, user, kind, channel string, enabled bool) error {
	rows, err := collections.Every[collections.NotificationPref](tx, collections.NotificationPrefs, "", 1, dbx.HashExp{"user": user, "kind": kind, "channel": channel})
	if err != nil {
		return fmt.Errorf("read what %s wants to know: %w", user, err)
	}
	var row *collections.NotificationPref
	if len(rows) > 0 {
		row = rows[0]
	} else if row, err = collections.NewNotificationPref(tx); err != nil {
		return err
	}
	row.SetUser(user)
	row.SetKind(kind)
	row.SetChannel(channel)
	row.SetEnabled(enabled)
	return permit.Save(tx, row)
}
