package hooks

import (
	"errors"
	"fmt"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/cluster"
	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/notify"
	"github.com/mambahost/mamba/hooks/secrets"
)

// everywhere are PocketBase's own scheduled tasks that every instance runs: they work on its own files.
// All others work on the database that instances share, and are the leader's.
var everywhere = map[string]bool{"__pbLogsCleanup__": true}

// taskCron is the task of hooks/jobs whose leader runs PocketBase's scheduled tasks, too.
const taskCron = "cron"

// openCluster makes this instance one of those on its database.
func (p *Panel) openCluster() (*cluster.Cluster, error) {
	pg, err := p.config.database.open()
	if err != nil {
		return nil, err
	}
	address := p.config.nodePublic(p.config.publicURL(p.config.HTTPAddress))
	return cluster.New(p.app, cluster.Config{Database: pg, Address: address, Release: p.config.Version, Log: p.log})
}

// claimMaster makes the installation's first data key at once where several instances may start on an
// empty database, so that the master key of one of them is the installation's, and an instance that
// has another says so instead of starting.
func (p *Panel) claimMaster() error {
	if p.config.database.kind() == "SQLite" {
		return nil
	}
	ref := secrets.Ref{Table: collections.DataKeies, Row: "claim", Field: "wrapped"}
	if _, err := p.Secrets.Seal(p.app, secrets.System, ref, []byte("ours")); err != nil {
		return fmt.Errorf("all panel instances need the same master key (MAMBA_MASTER_KEY, or the file): %w", err)
	}
	return p.Secrets.Check(p.app)
}

// bindTogether binds what one instance has to tell the others.
func (p *Panel) bindTogether() {
	app := p.app
	p.Cluster.BindReload()
	app.OnModelCreateExecute().Bind(handler("mamba.cluster.create", early, p.Cluster.ModelWritten))
	app.OnModelUpdateExecute().Bind(handler("mamba.cluster.update", early, p.Cluster.ModelWritten))
	app.OnModelDeleteExecute().Bind(handler("mamba.cluster.delete", early, p.Cluster.ModelWritten))
	accounts := []string{"users", core.CollectionNameSuperusers}
	app.OnRecordUpdateExecute(accounts...).Bind(handler("mamba.events.account.update", early, func(e *core.RecordEvent) error {
		// As it is stored: a record that the same request has made does not know that.
		before, err := e.App.FindRecordById(e.Record.Collection(), e.Record.Id)
		if err != nil {
			return fmt.Errorf("read the account %s before a change: %w", e.Record.Id, err)
		}
		if err := e.Next(); err != nil || before.TokenKey() == e.Record.TokenKey() {
			return err
		}
		if err := p.accountChanged(e, before); err != nil {
			return err
		}
		if err := errors.Join(access.TokensVoided(e.App, e.Record.Id), p.Notify.TokensVoided(e.App, e.Record.Id)); err != nil {
			return err
		}
		collections.AfterCommit(e.App, func() { p.forgetBrowsers(e.Record.Id) }) // the session that asked for it goes on
		return p.Events.AccountChanged(e.App, e.Record.Id)
	}))
	app.OnRecordDeleteExecute(accounts...).Bind(handler("mamba.events.account.delete", early, func(e *core.RecordEvent) error {
		if err := e.Next(); err != nil {
			return err
		}
		if err := errors.Join(access.Forget(e.App, e.Record.Id), p.Notify.Forget(e.App, e.Record.Id)); err != nil {
			return err
		}
		collections.AfterCommit(e.App, func() { p.forgetLate(e.Record.Id) })
		return p.Events.AccountChanged(e.App, e.Record.Id)
	}))
	app.OnSettingsReload().Bind(handler("mamba.cron.guard", early, func(e *core.SettingsReloadEvent) error {
		err := e.Next() // may register the backup task anew
		p.leadCrons()
		return err
	}))
	p.leadCrons()
}

// forgetBrowsers removes what subscribed to messages in sessions that have ended. Nothing is sent there meanwhile.
func (p *Panel) forgetBrowsers(user string) {
	err := collections.Tx(p.app, nil, func(tx core.App) error { return p.Notify.SessionsEnded(tx, user) })
	if err != nil {
		p.log.Error("browsers of ended sessions are forgotten in the night only", "user", user, "error", err)
	}
}

// forgetLate removes the notices of an account that somebody was making while it was deleted.
func (p *Panel) forgetLate(user string) {
	if err := p.Notify.ForgetLate(user); err != nil {
		p.log.Error("late notices of an account that is gone are forgotten in the night only", "user", user, "error", err)
	}
}

// accountChanged keeps an event of a new password or address, in the transaction that stores it.
func (p *Panel) accountChanged(e *core.RecordEvent, before *core.Record) error {
	known := map[string]any{}
	if before.Verified() || before.IsSuperuser() {
		known[notify.FormerAddress] = before.Email()
	}
	for kind, c := range map[string]struct {
		changed bool
		payload map[string]any
	}{
		"account.password_changed": {e.Record.GetString("password:hash") != before.GetString("password:hash"), map[string]any{}},
		"account.email_changed":    {e.Record.Email() != before.Email(), known},
	} {
		if !c.changed {
			continue
		}
		if err := p.Events.Emit(e.App, events.Event{Kind: kind, SubjectType: e.Record.Collection().Name, Subject: e.Record.Id, Payload: c.payload}); err != nil {
			return err
		}
	}
	return nil
}

// leadCrons leaves PocketBase's scheduled tasks to the instance that leads.
func (p *Panel) leadCrons() {
	if p.Cluster.Alone() {
		return
	}
	p.cronMu.Lock()
	defer p.cronMu.Unlock()
	for _, job := range p.app.Cron().Jobs() {
		if everywhere[job.Id()] || p.ledCrons[job.Id()] == job {
			continue
		}
		// Add replaces the task of that id
		err := p.app.Cron().Add(job.Id(), job.Expression(), func() {
			if p.Cluster.Leads(taskCron) {
				job.Run()
			}
		})
		if err != nil {
			p.log.Error("a scheduled task runs on every instance", "task", job.Id(), "error", err)
			continue
		}
		for _, replaced := range p.app.Cron().Jobs() {
			if replaced.Id() == job.Id() {
				p.ledCrons[job.Id()] = replaced
			}
		}
	}
}
