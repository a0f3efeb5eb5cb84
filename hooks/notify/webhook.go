package notify

import (
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// posted says whether an organisation's webhooks can be sent a kind at all: it concerns the members.
func (k *kind) posted() bool { return k.To == members }

// chosen reads what was chosen for a webhook. It names the kinds that somebody has switched; all others, also
// those that a later release brings, are as the kind says.
func chosen(c *collections.NotificationChannel) (map[string]bool, error) {
	out := map[string]bool{}
	if c.GetString("kinds") == "" {
		return out, nil
	}
	if err := c.Kinds(&out); err != nil {
		return nil, fmt.Errorf("read the kinds of webhook %s: %w", c.Id, err)
	}
	if out == nil { // null
		out = map[string]bool{}
	}
	return out, nil
}

// takes says whether an organisation's webhook is to be sent a kind.
func takes(c *collections.NotificationChannel, k *kind) (bool, error) {
	if !k.posted() {
		return false, nil
	}
	said, err := chosen(c)
	if on, known := said[k.Name]; known {
		return on, err
	}
	return slices.Contains(k.On, Discord), err
}

// takesNow asks it of the webhook that a notice is for; a person's own webhooks have his switches.
func takesNow(app core.App, row *collections.Notification, k *kind) (bool, error) {
	found, err := findOrNil(app, collections.NotificationChannels, row.Target())
	if err != nil || found == nil {
		return true, err // the sender says that it was removed
	}
	return takes(collections.Wrap[collections.NotificationChannel](found), k)
}

// kindsView is what an organisation's webhook is sent, by kind.
func kindsView(c *collections.NotificationChannel) (map[string]bool, error) {
	out := map[string]bool{}
	for _, k := range kinds {
		if !k.posted() {
			continue
		}
		on, err := takes(c, k)
		if err != nil {
			return nil, err
		}
		out[k.Name] = on
	}
	return out, nil
}

// postedKind is a row of what can be chosen for a webhook.
type postedKind struct {
	Kind     string `json:"kind"`
	Group    string `json:"group"`
	Title    string `json:"title"`
	Severity string `json:"severity"`
}

func postedKinds() []postedKind {
	out := []postedKind{}
	for _, k := range kinds {
		if k.posted() {
			out = append(out, postedKind{k.Name, k.Group, k.Title, k.Severity})
		}
	}
	return out
}

// hush switches off, in a new webhook of an organisation, what whoever adds it may not hear of himself.
func (n *Notify) hush(tx core.App, o owner, c *collections.NotificationChannel) error {
	if o.tenant == "" {
		return nil
	}
	off := map[string]bool{}
	for _, k := range kinds {
		if !k.posted() || k.Permission == "" {
			continue
		}
		may, err := verdict(n.cfg.Tenancy.Can(tx, o.by, k.Permission, tenancy.Resource{Tenant: o.tenant}))
		if err != nil {
			return err
		}
		if !may {
			off[k.Name] = false
		}
	}
	if len(off) > 0 {
		c.SetKinds(off)
	}
	return nil
}

// chooseKinds switches kinds of an organisation's webhook on and off. Whoever switches one on has to be allowed
// to hear of it himself: else a webhook would tell him.
func (n *Notify) chooseKinds(e *core.RequestEvent) error {
	o, err := n.ofTenant(e)
	if err != nil {
		return err
	}
	var in struct {
		Kinds map[string]bool `json:"kinds"`
	}
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	if len(in.Kinds) == 0 {
		return access.InvalidField("kinds", "required", "Name the kinds to switch, each with true or false.")
	}
	names := slices.Sorted(maps.Keys(in.Kinds))
	for _, name := range names {
		if k := kindOf(name); k == nil || !k.posted() {
			return access.InvalidField("kinds", "unknown", "There is no such kind of notice for a webhook. GET lists those that there are.")
		}
	}
	var answer map[string]any
	err = collections.Tx(e.App, o.locks(), func(tx core.App) error {
		if err := n.still(tx, o); err != nil {
			return err
		}
		c, err := channelOf(tx, o, e.Request.PathValue("channel"))
		if err != nil {
			return err
		}
		said, err := chosen(c)
		if err != nil {
			return err
		}
		for _, name := range names {
			k := kindOf(name)
			was, err := takes(c, k)
			if err != nil {
				return err
			}
			if in.Kinds[name] && !was && k.Permission != "" {
				if err := n.cfg.Tenancy.Can(tx, o.by, k.Permission, tenancy.Resource{Tenant: o.tenant}); err != nil {
					return err
				}
			}
			said[name] = in.Kinds[name]
		}
		c.SetKinds(said)
		if err := permit.Save(tx, c); err != nil {
			return fmt.Errorf("store the kinds of webhook %s: %w", c.Id, err)
		}
		if answer, err = channelView(c); err != nil {
			return err
		}
		return n.cfg.Audit.Write(tx, o.by.Audit(), audit.Entry{Tenant: o.tenant, Action: "notification.channel_kinds", ResourceType: collections.NotificationChannels, Resource: c.Id, Metadata: map[string]any{"name": c.Name(), "kinds": in.Kinds}})
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, answer)
}
