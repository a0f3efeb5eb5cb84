package hooks

import (
	"context"
	"fmt"
	"os"

	"github.com/mambahost/mamba/hooks/demo"
)

// startDemo makes the demo once and prints how to look at it. Its servers are made in the
// background: the first image may take a while.
func (p *Panel) startDemo(ctx context.Context) error {
	if !p.config.Demo {
		return nil
	}
	d := &demo.Demo{
		App: p.app, Tenancy: p.Tenancy, Alloc: p.Alloc, Fleet: p.Fleet, Servers: p.Servers,
		File: dataFile(p.app.DataDir(), "demo.json"), Node: p.config.NodeName, Log: p.log,
	}
	c, err := d.Accounts()
	if err != nil {
		return fmt.Errorf("seed the demo: %w", err)
	}
	fmt.Fprint(os.Stdout, welcome(c, p.config.publicURL(p.config.HTTPAddress), p.config.DemoMail))
	p.work.Go(func() {
		if err := d.Fill(ctx); err != nil && ctx.Err() == nil {
			p.log.Error("fill the demo", "error", err)
		}
	})
	return nil
}

// welcome says where the demo is and what to do with it. mail is the page that shows its mails; "" for none.
func welcome(c demo.Credentials, url, mail string) string {
	operator := "your own account"
	if c.Superuser != "" {
		operator = c.Superuser
	}
	if mail == "" {
		mail = "sent as the dashboard says under Settings → Mail"
	}
	return fmt.Sprintf(`
  Mamba Host is running at   %s

  customer   %s  (or %s, who may do less)
  password   %s  of all the demo's accounts, made for this installation
  operator   %s  at %s/_/
  mails      %s

  Sign in as the customer, open the server "Lobby", look at its console and type: say hello
  Then make a server of your own with the button at the top right.
  Ctrl-C stops everything; the data stays.

`, url, c.Owner, c.Member, c.Password, operator, url, mail)
}
