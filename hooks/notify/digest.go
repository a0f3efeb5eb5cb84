package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/jobs"
)

const (
	digestGrace = 5 * time.Second // after the window: clocks of several instances differ
	digestLines = 10              // subjects that a gathered message quotes
	digestRows  = 150             // notices that it remembers, to ask again whether they may be told
)

// burst names what is gathered together.
type burst struct {
	Account  string `json:"account"`
	User     string `json:"user"`
	Tenant   string `json:"tenant"`
	Channel  string `json:"channel"`
	Target   string `json:"target"`
	Template string `json:"template"`
}

func (b burst) where(status ...any) dbx.Expression {
	return dbx.And(dbx.HashExp{"account": b.Account, "user": b.User, "tenant": b.Tenant, "channel": b.Channel, "target": b.Target, "template": b.Template}, dbx.In("status", status...))
}

func burstOf(row *collections.Notification) burst {
	return burst{row.Account(), row.User(), row.Tenant(), row.Channel(), row.Target(), row.Template()}
}

// crowded reports whether there have been as many messages of a kind to a target as may be. The caller
// holds the recipient's lock.
func (n *Notify) crowded(tx core.App, row *collections.Notification, k *kind) (bool, error) {
	if k.Security {
		return false, nil
	}
	c, err := tx.CountRecords(collections.Notifications, burstOf(row).where(held, pending, sent, failed),
		dbx.NewExp("[[created]] > {:since}", dbx.Params{"since": collections.Stamp(time.Now().Add(-n.cfg.Window))}))
	if err != nil {
		return false, fmt.Errorf("count what %s was sent: %w", row.User(), err)
	}
	return c >= int64(n.cfg.Burst), nil
}

// gatherLater makes the job that gathers what is held in the present window. A job that runs at this
// moment belongs to a window before it: the recipient's lock is between them.
func (n *Notify) gatherLater(tx core.App, row *collections.Notification) error {
	b := burstOf(row)
	window := time.Now().UnixNano() / int64(n.cfg.Window)
	end := time.Unix(0, (window+1)*int64(n.cfg.Window))
	_, err := n.cfg.Jobs.Enqueue(tx, jobs.Job{
		Kind: digestJob, Subject: row.Channel(), UniqueKey: fmt.Sprintf("digest:%s:%s:%s:%s:%s:%d", b.User, b.Tenant, b.Channel, b.Target, b.Template, window),
		RunAt: end.Add(min(digestGrace, n.cfg.Window)), Payload: b,
	})
	if errors.Is(err, jobs.ErrDuplicate) {
		return nil
	}
	return err
}

// digest makes one message of all that is held.
func (n *Notify) digest(_ context.Context, r *jobs.Run) error {
	var b burst
	if err := r.Payload(&b); err != nil {
		return err
	}
	k := kindOf(b.Template)
	if k == nil {
		return nil // a release that no longer has it
	}
	return collections.Tx(n.cfg.App, []collections.Lock{lock(b.User)}, func(tx core.App) error {
		rows, err := collections.Every[collections.Notification](tx, collections.Notifications, "created, id", 0, b.where(held))
		if err != nil {
			return fmt.Errorf("list what is held for %s: %w", b.User, err)
		}
		if len(rows) == 0 {
			return nil
		}
		if len(rows) == 1 { // the burst was over
			rows[0].SetStatus(pending)
			if err := permit.Save(tx, rows[0]); err != nil {
				return err
			}
			return n.enqueue(tx, rows[0])
		}
		m := metadata{Link: "/"}
		for _, row := range rows {
			if len(m.Rows) < digestRows {
				m.Rows = append(m.Rows, row.Id)
			}
			m.Org = metadataOf(row).Org
			row.SetStatus(gathered)
			if err := permit.Save(tx, row); err != nil {
				return err
			}
		}
		one, err := n.newRow(recipient{b.Account, b.User}, b.Channel, b.Target, "digest:"+r.ID, k, "", "", m)
		if err != nil {
			return err
		}
		one.SetTenant(b.Tenant)
		one.SetCount(int64(len(rows)))
		if err := permit.Save(tx, one); err != nil {
			return err
		}
		return n.enqueue(tx, one)
	})
}

// rewrite gives a gathered message its words, from those of its notices that its recipient may still see;
// false when there is none.
func (n *Notify) rewrite(app core.App, row *collections.Notification, k *kind, m metadata) (bool, error) {
	rows, err := app.FindRecordsByIds(collections.Notifications, m.Rows)
	if err != nil {
		return false, fmt.Errorf("find the notices of %s: %w", row.Id, err)
	}
	byID := map[string]*collections.Notification{}
	for _, r := range rows {
		byID[r.Id] = collections.Wrap[collections.Notification](r)
	}
	left, lines := 0, []string{}
	for _, id := range m.Rows {
		one := byID[id]
		if one == nil {
			continue
		}
		may, err := n.allowed(app, one, k, metadataOf(one).Server)
		if err != nil {
			return false, err
		}
		silent, err := muted(app, recipient{one.Account(), one.User()}, metadataOf(one).Server)
		if err != nil {
			return false, err
		}
		if !may || silent {
			continue
		}
		if left++; len(lines) < digestLines {
			lines = append(lines, one.Subject())
		}
	}
	if left == 0 {
		return false, nil
	}
	if left == len(m.Rows) {
		left = int(row.Count()) // of those that are not remembered, too
	}
	row.SetCount(int64(left))
	row.SetSubject(clean(fmt.Sprintf("%d × %s", left, lines[0]), maxSubject))
	if m.Org != "" {
		row.SetSubject(clean(fmt.Sprintf("%d notices from %s: %s", left, m.Org, k.Title), maxSubject))
	}
	row.SetBody(clean(strings.Join(lines, " · "), maxBody))
	if left > len(lines) {
		row.SetBody(row.Body() + fmt.Sprintf(" · and %d more", left-len(lines)))
	}
	return true, nil
}
