package notify

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/mail"
	"strings"
	"sync"
	texttemplate "text/template"

	"github.com/pocketbase/pocketbase/tools/mailer"

	"github.com/mambahost/mamba/collections"
)

//go:embed mail/notice.html
var noticeHTML string

//go:embed mail/notice.txt
var noticeText string

var (
	noticePage  = sync.OnceValue(func() *template.Template { return template.Must(template.New("notice.html").Parse(noticeHTML)) })
	noticeLines = sync.OnceValue(func() *texttemplate.Template {
		return texttemplate.Must(texttemplate.New("notice.txt").Parse(noticeText))
	})
)

const settingsLink = "/notice-settings"

// sendMail sends a notice to the address of its recipient. Its Message-ID is the notice's, so that a
// second one, after a crash, can be known for the same.
func (n *Notify) sendMail(row *collections.Notification) error {
	who, err := recipient{row.Account(), row.User()}.record(n.cfg.App)
	if err != nil {
		return err
	}
	if who == nil {
		return final{"the account is gone"}
	}
	meta := n.cfg.App.Settings().Meta
	_, host, ok := strings.Cut(meta.SenderAddress, "@")
	if !ok {
		return fmt.Errorf("the sender's address %q is none", meta.SenderAddress)
	}
	base := n.appURL()
	m, to := metadataOf(row), who.Email()
	if row.Target() == toFormer {
		to = m.Address
	}
	data := map[string]string{"App": meta.AppName, "Subject": row.Subject(), "Body": row.Body(), "Link": base + m.Link, "Settings": base + settingsLink}
	var page, lines bytes.Buffer
	if err := noticePage().Execute(&page, data); err != nil {
		return err
	}
	if err := noticeLines().Execute(&lines, data); err != nil {
		return err
	}
	return n.cfg.App.NewMailClient().Send(&mailer.Message{
		From: mail.Address{Name: meta.SenderName, Address: meta.SenderAddress}, To: []mail.Address{{Address: to}},
		Subject: row.Subject(), HTML: page.String(), Text: lines.String(),
		Headers: map[string]string{"Message-ID": "<" + row.Id + ".notice@" + host + ">", "List-Unsubscribe": "<" + base + settingsLink + ">", "Auto-Submitted": "auto-generated"},
	})
}
