package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/secrets"
)

// discordHosts are where Discord's webhooks are (https://discord.com/developers/docs/resources/webhook).
var discordHosts = []string{"discord.com", "discordapp.com", "ptb.discord.com", "canary.discord.com"}

var discordPath = regexp.MustCompile(`^/api(/v\d{1,2})?/webhooks/\d{5,25}/[A-Za-z0-9_-]{20,200}$`)

// colours of a message by severity, as Discord writes them.
var colours = map[string]int{info: 0x2f7d4f, warning: 0xb7791f, critical: 0xc53030}

// allowedHost reports whether the operator has named a host for customers to send to.
func (n *Notify) allowedHost(u *url.URL) bool {
	return slices.Contains(n.cfg.Hosts, strings.ToLower(u.Host)) || slices.Contains(n.cfg.Hosts, strings.ToLower(u.Hostname()))
}

// webhookURL checks what somebody entered; the sentence says what is wrong, empty: nothing.
func (n *Notify) webhookURL(text string) (*url.URL, string) {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Host == "" {
		return nil, "Please copy the whole webhook URL from Discord (channel settings → Integrations → Webhooks)."
	}
	u.Fragment = ""
	if n.allowedHost(u) && (u.Scheme == "https" || u.Scheme == "http") && u.User == nil {
		return u, ""
	}
	if u.Scheme != "https" || u.User != nil || u.Port() != "" || !slices.Contains(discordHosts, strings.ToLower(u.Host)) || !discordPath.MatchString(u.Path) {
		return nil, "This is not the URL of a Discord webhook. It begins with https://discord.com/api/webhooks/."
	}
	thread := u.Query().Get("thread_id")
	if u.RawQuery = ""; thread != "" && strings.Trim(thread, "0123456789") == "" {
		u.RawQuery = "thread_id=" + thread
	}
	return u, ""
}

// markup are the characters with which Discord's markdown begins something.
var markup = strings.NewReplacer(
	`\`, `\\`, "*", `\*`, "_", `\_`, "~", `\~`, "`", "\\`", "|", `\|`, ">", `\>`, "#", `\#`, "[", `\[`, "]", `\]`, "(", `\(`, ")", `\)`, "<", `\<`, "-", `\-`, ":", `\:`, "@", "@\u200b",
)

// plain makes a text mean nothing but itself in Discord: no markup, no mention, no link.
func plain(s string) string { return markup.Replace(s) }

// discordMessage is the body of Execute Webhook.
func (n *Notify) discordMessage(subject, body, severity, org, link string) ([]byte, error) {
	embed := map[string]any{"title": cutRunes(plain(subject), 250), "description": cutRunes(plain(body), 4000), "color": colours[severity]}
	if link != "" {
		embed["url"] = link
	}
	if org != "" {
		embed["footer"] = map[string]any{"text": cutRunes(plain(org), 200)}
	}
	return json.Marshal(map[string]any{
		"username":         cutRunes(strings.ReplaceAll(n.cfg.App.Settings().Meta.AppName, "iscord", "isc."), 80), // Discord refuses its own name
		"embeds":           []any{embed},
		"allowed_mentions": map[string]any{"parse": []string{}},
	})
}

func cutRunes(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n])
	}
	return s
}

// sendDiscord posts a notice to a webhook.
func (n *Notify) sendDiscord(ctx context.Context, row *collections.Notification) error {
	found, err := findOrNil(n.cfg.App, collections.NotificationChannels, row.Target())
	if err != nil {
		return err
	}
	if found == nil {
		return final{"the webhook was removed"}
	}
	channel := collections.Wrap[collections.NotificationChannel](found)
	if channel.Problem() != "" {
		return final{channel.Problem()}
	}
	m := metadataOf(row)
	raw, err := n.discordMessage(row.Subject(), row.Body(), row.Severity(), m.Org, n.appURL()+m.Link)
	if err != nil {
		return err
	}
	return n.post(ctx, channel, raw)
}

// post sends a message to a webhook and keeps what the webhook's owner should know of the answer.
func (n *Notify) post(ctx context.Context, c *collections.NotificationChannel, raw []byte) error {
	address, err := n.cfg.Secrets.Open(n.cfg.App, scopeOf(c), urlRef(c.Id), c.GetString("url"))
	if err != nil {
		return fmt.Errorf("open the URL of webhook %s: %w", c.Id, err)
	}
	u, wrong := n.webhookURL(string(address))
	if wrong != "" { // what the operator allows has changed
		return final{"webhooks to this host are not allowed any more"}
	}
	q := u.Query()
	q.Set("wait", "true") // an answer says that it is there, not that it was taken
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(raw))
	if err != nil {
		return final{"the URL cannot be used"}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "MambaHost (webhook)")
	res, err := n.cfg.Send.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	answer, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 300:
		return n.usedChannel(c, "")
	case res.StatusCode == http.StatusTooManyRequests:
		return later{discordWait(res.Header, answer)}
	case res.StatusCode == http.StatusNotFound, res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden, res.StatusCode == http.StatusGone:
		problem := "The webhook does not exist any more. Make a new one in Discord."
		return errorsFirst(n.usedChannel(c, problem), final{problem})
	case res.StatusCode < 500:
		return final{fmt.Sprintf("the webhook refused the message (%d)", res.StatusCode)}
	}
	return fmt.Errorf("the webhook answered %d", res.StatusCode)
}

func errorsFirst(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// discordWait is the longer of what the header and the body ask for: the body has the fraction.
func discordWait(h http.Header, body []byte) time.Duration {
	var said struct {
		RetryAfter float64 `json:"retry_after"`
	}
	_ = json.Unmarshal(body, &said) // what is no JSON says nothing
	inBody := time.Duration(min(max(said.RetryAfter, 0), 1e9) * float64(time.Second))
	return min(max(retryAfter(h, leastWait), inBody), mostWait)
}

func (n *Notify) usedChannel(c *collections.NotificationChannel, problem string) error {
	owner := c.User() + c.Tenant()
	return collections.Tx(n.cfg.App, []collections.Lock{lock(owner)}, func(tx core.App) error {
		now, err := findOrNil(tx, collections.NotificationChannels, c.Id)
		if err != nil || now == nil {
			return err
		}
		one := collections.Wrap[collections.NotificationChannel](now)
		if problem == "" {
			one.SetUsedAt(time.Now())
		}
		one.SetProblem(problem)
		return permit.Save(tx, one)
	})
}

// scopeOf is the data key under which a webhook's URL is sealed.
func scopeOf(c *collections.NotificationChannel) string {
	if c.Tenant() != "" {
		return c.Tenant()
	}
	return secrets.System
}

func urlRef(id string) secrets.Ref {
	return secrets.Ref{Table: collections.NotificationChannels, Row: id, Field: "url"}
}
