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
	url := p.config.publicURL(p.config.HTTPAddress)
	operator := "your own account"
	if c.Superuser != "" {
		operator = c.Superuser
	}
	fmt.Fprintf(os.Stdout, `
  Mamba Host is running at   %s

  customer   %s  ·  member  %s
  operator   %s  at  %s/_/
  password   %s  (of the demo's accounts, made for this installation)

  Sign in as the customer, open the server "Lobby", look at its console and type: say hello
  Then make a server of your own with the button at the top right.
  Ctrl-C stops everything; the data stays.

`, url, c.Owner, c.Member, operator, url, c.Password)
	p.work.Go(func() {
		if err := d.Fill(ctx); err != nil && ctx.Err() == nil {
			p.log.Error("fill the demo", "error", err)
		}
	})
	return nil
}
