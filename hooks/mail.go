package hooks

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"net/smtp"
	"strconv"
	"strings"
	"time"

	"github.com/domodwyer/mailyak/v3"
	"github.com/k3a/html2text"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/mailer"
)

// PocketBase's SMTP client waits for a mail server without end, and a mail server that says nothing would keep every
// worker, and whoever asks for a mail. So the panel itself speaks to the mail server of PocketBase's settings, over a
// connection whose time ends, in the way in which PocketBase does.

// Bounds of one mail. A job that sends one has a minute.
const (
	mailPatience = 45 * time.Second // from the first lookup to the last answer
	mailFarewell = 5 * time.Second  // of that, once the panel stops
)

// sendMail is the handler of OnMailerSend.
func (p *Panel) sendMail(e *core.MailerEvent) error {
	c, ok := e.Mailer.(*mailer.SMTPClient)
	if !ok {
		return e.Next() // a program of this machine, or a test's
	}
	raw, err := mailText(e.Message)
	if err != nil {
		return fmt.Errorf("put a mail together: %w", err)
	}
	patience := p.config.mailPatience
	if patience <= 0 {
		patience = mailPatience
	}
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := p.mailOut(ctx, c, e.Message, raw); err != nil {
		return fmt.Errorf("send a mail through %s: %w", c.Host, err)
	}
	return nil
}

// mailOut hands a mail to the mail server of c. ctx has a deadline.
func (p *Panel) mailOut(ctx context.Context, c *mailer.SMTPClient, m *mailer.Message, raw []byte) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		return errors.New("a mail needs a deadline")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(c.Host, strconv.Itoa(c.Port)))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	stops := context.AfterFunc(p.ctx, func() { _ = conn.SetDeadline(time.Now().Add(mailFarewell)) })
	defer stops()
	trust := &tls.Config{ServerName: c.Host, RootCAs: p.config.mailRoots, MinVersion: tls.VersionTLS12}
	if c.TLS {
		conn = tls.Client(conn, trust)
	}
	s, err := smtp.NewClient(conn, c.Host)
	if err != nil {
		return err
	}
	if c.LocalName != "" {
		if err := s.Hello(c.LocalName); err != nil {
			return err
		}
	}
	if ok, _ := s.Extension("STARTTLS"); ok && !c.TLS {
		if err := s.StartTLS(trust); err != nil {
			return err
		}
	}
	if c.Username != "" || c.Password != "" {
		if err := s.Auth(mailAuth(c)); err != nil {
			return err
		}
	}
	return deliver(s, m, raw)
}

// deliver gives a mail to a server that has let us in.
func deliver(s *smtp.Client, m *mailer.Message, raw []byte) error {
	if err := s.Mail(m.From.Address); err != nil {
		return err
	}
	for _, list := range [][]netmail.Address{m.To, m.Cc, m.Bcc} {
		for _, to := range list {
			if err := s.Rcpt(to.Address); err != nil {
				return err
			}
		}
	}
	w, err := s.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = s.Quit() // it has taken the mail
	return nil
}

// mailText is a mail as it is sent.
func mailText(m *mailer.Message) ([]byte, error) {
	yak := mailyak.New("", nil)
	if m.From.Name != "" {
		yak.FromName(m.From.Name)
	}
	yak.From(m.From.Address)
	yak.Subject(m.Subject)
	yak.HTML().Set(m.HTML)
	text := m.Text
	if text == "" {
		text = html2text.HTML2TextWithOptions(m.HTML, html2text.WithUnixLineBreaks(), html2text.WithLinksInnerText())
	}
	yak.Plain().Set(text)
	yak.To(mailNames(m.To)...)
	yak.Cc(mailNames(m.Cc)...)
	yak.Bcc(mailNames(m.Bcc)...)
	for name, data := range m.Attachments {
		yak.Attach(name, data)
	}
	for name, data := range m.InlineAttachments {
		yak.AttachInline(name, data)
	}
	named := false
	for name, value := range m.Headers {
		named = named || strings.EqualFold(name, "Message-ID")
		yak.AddHeader(name, value)
	}
	if _, host, ok := strings.Cut(m.From.Address, "@"); ok && !named {
		yak.AddHeader("Message-ID", "<"+strings.ToLower(rand.Text())+"@"+host+">")
	}
	buf, err := yak.MimeBuf()
	if err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func mailNames(list []netmail.Address) []string {
	out := make([]string, 0, len(list))
	for _, a := range list {
		if a.Name == "" {
			out = append(out, a.Address)
		} else {
			out = append(out, a.String())
		}
	}
	return out
}

// mailAuth is how the panel shows a mail server who it is. Neither way says a password in clear, but to this machine.
func mailAuth(c *mailer.SMTPClient) smtp.Auth {
	plain := smtp.PlainAuth("", c.Username, c.Password, c.Host)
	if c.AuthMethod != mailer.SMTPAuthLogin {
		return plain
	}
	return &loginAuth{Auth: plain, username: c.Username, password: c.Password}
}

// loginAuth is AUTH LOGIN, which some large mail hosts want.
type loginAuth struct {
	smtp.Auth          // decides whether a password may be said at all
	username, password string
}

// Start implements smtp.Auth.
func (a *loginAuth) Start(server *smtp.ServerInfo) (string, []byte, error) {
	_, _, err := a.Auth.Start(server)
	return "LOGIN", nil, err
}

// Next implements smtp.Auth.
func (a *loginAuth) Next(from []byte, more bool) ([]byte, error) {
	switch strings.ToLower(strings.TrimSpace(string(from))) {
	case "username:":
		return []byte(a.username), nil
	case "password:":
		return []byte(a.password), nil
	}
	if !more {
		return nil, nil
	}
	return nil, errors.New("the mail server asks for neither user nor password")
}
