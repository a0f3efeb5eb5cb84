package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/wings/outbound"
)

// delivery is the payload of a DeliverNotification.
type delivery struct {
	Row string `json:"row"`
}

// final is why a message cannot be delivered, now or later.
type final struct{ problem string }

func (f final) Error() string { return f.problem }

// later is when the other side wants to be asked again.
type later struct{ after time.Duration }

func (l later) Error() string { return "the other side asks to wait " + l.after.String() }

// Bounds of waiting for the other side.
const (
	leastWait = time.Second
	mostWait  = time.Hour
)

// deliver brings one notice to its channel. A notice that was sent is not sent again; one whose sending
// was cut off before that could be stored is, under the same id (docs/notifications.md).
func (n *Notify) deliver(ctx context.Context, r *jobs.Run) error {
	var in delivery
	if err := r.Payload(&in); err != nil {
		return err
	}
	app := n.cfg.App
	found, err := findOrNil(app, collections.Notifications, in.Row)
	if err != nil || found == nil {
		return err
	}
	row := collections.Wrap[collections.Notification](found)
	if row.Status() != pending {
		return nil
	}
	reason, err := n.refused(app, row)
	if err != nil {
		return err
	}
	if reason != "" {
		return n.end(row, skipped, reason)
	}
	if err := n.at(ctx, "before", row.Channel()); err != nil {
		return err
	}
	switch row.Channel() {
	case Email:
		err = n.sendMail(row)
	case Discord:
		err = n.sendDiscord(ctx, row)
	case Push:
		err = n.sendPush(ctx, row)
	default:
		err = final{"there is no such channel"}
	}
	var no final
	var wait later
	switch {
	case err == nil:
	case errors.As(err, &no):
		return n.end(row, failed, no.problem)
	case errors.Is(err, outbound.ErrURL), errors.Is(err, outbound.ErrDenied):
		return n.end(row, failed, "the address may not be used")
	case errors.As(err, &wait):
		return jobs.Wait(wait.after)
	default:
		return fmt.Errorf("send notice %s by %s: %w", row.Id, row.Channel(), err)
	}
	if err := n.at(ctx, "after", row.Channel()); err != nil {
		return err
	}
	return n.end(row, sent, "")
}

// refused says why a notice is not delivered after all; empty: it is.
func (n *Notify) refused(app core.App, row *collections.Notification) (string, error) {
	k := kindOf(row.Template())
	if k == nil {
		return "this kind of notice is no more", nil
	}
	if time.Since(row.Created()) > maxAge {
		return "it is too old", nil
	}
	m := metadataOf(row)
	if len(m.Rows) > 0 {
		some, err := n.rewrite(app, row, k, m)
		if err != nil {
			return "", err
		}
		if !some {
			return "it is not the recipient's to see any more", nil
		}
	} else if may, err := n.allowed(app, row, k, m.Server); err != nil {
		return "", err
	} else if !may {
		return "it is not the recipient's to see any more", nil
	}
	to := recipient{row.Account(), row.User()}
	if silent, err := muted(app, to, m.Server); err != nil || silent {
		return "the server was muted", err
	}
	on, err := n.wanted(app, to, k)
	if err != nil {
		return "", err
	}
	still := on[row.Channel()]
	if still && to.account == forTenant {
		if still, err = takesNow(app, row, k); err != nil {
			return "", err
		}
	}
	if !still {
		return "it was switched off", nil
	}
	return "", nil
}

// end stores what became of a notice.
func (n *Notify) end(row *collections.Notification, status, problem string) error {
	return collections.Tx(n.cfg.App, []collections.Lock{lock(row.User())}, func(tx core.App) error {
		return n.endIn(tx, row, status, problem)
	})
}

func (n *Notify) endIn(tx core.App, row *collections.Notification, status, problem string) error {
	now, err := findOrNil(tx, collections.Notifications, row.Id)
	if err != nil || now == nil || now.GetString("status") != pending {
		return err
	}
	one := collections.Wrap[collections.Notification](now)
	one.SetStatus(status)
	one.SetProblem(clean(problem, 300))
	one.SetSubject(row.Subject())
	one.SetBody(row.Body())
	one.SetCount(row.Count())
	if status == sent {
		one.SetSentAt(time.Now())
	}
	if err := permit.Save(tx, one); err != nil {
		return fmt.Errorf("store what became of notice %s: %w", row.Id, err)
	}
	return nil
}

// giveUp is the undo of a delivery that is dead: the last attempt failed, and an incident says so.
func (n *Notify) giveUp(tx core.App, r *jobs.Run, _ error) error {
	var in delivery
	if err := r.Payload(&in); err != nil {
		return err
	}
	found, err := findOrNil(tx, collections.Notifications, in.Row)
	if err != nil || found == nil {
		return err
	}
	return n.endIn(tx, collections.Wrap[collections.Notification](found), failed, "every attempt failed")
}

// retryAfter reads when a server wants to be asked again: seconds or a date.
func retryAfter(h http.Header, fallback time.Duration) time.Duration {
	text := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(text, 64); err == nil && s >= 0 && s < 1e9 {
		fallback = time.Duration(s * float64(time.Second))
	} else if at, err := http.ParseTime(text); err == nil {
		fallback = time.Until(at)
	}
	return min(max(fallback, leastWait), mostWait)
}
