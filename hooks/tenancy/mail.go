package tenancy

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/mail"
	"sync"
	texttemplate "text/template"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/mailer"
)

//go:embed mail/invite.html
var inviteHTML string

//go:embed mail/invite.txt
var inviteText string

var (
	invitePage  = sync.OnceValue(func() *template.Template { return template.Must(template.New("invite.html").Parse(inviteHTML)) })
	inviteLines = sync.OnceValue(func() *texttemplate.Template {
		return texttemplate.Must(texttemplate.New("invite.txt").Parse(inviteText))
	})
)

// inviteMail writes the mail of an invite. Names that customers chose are text in it, never markup.
func inviteMail(meta core.MetaConfig, tenant string, v Invite, link string) (*mailer.Message, error) {
	by := v.InvitedBy
	if by == "" {
		by = tenant
	}
	data := map[string]string{"App": meta.AppName, "Tenant": tenant, "By": by, "Role": v.RoleName, "Server": v.ServerName, "Link": link, "Until": v.Expires.Time().Format("2 January 2006")}
	var page, lines bytes.Buffer
	if err := invitePage().Execute(&page, data); err != nil {
		return nil, err
	}
	if err := inviteLines().Execute(&lines, data); err != nil {
		return nil, err
	}
	return &mailer.Message{
		From: mail.Address{Name: meta.SenderName, Address: meta.SenderAddress}, To: []mail.Address{{Address: v.Email}},
		Subject: by + " invites you to " + tenant, HTML: page.String(), Text: lines.String(),
	}, nil
}
