package hooks

import (
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/hooks/cluster"
)

// everywhere are PocketBase's own scheduled tasks that every instance runs: they work on its own files.
// All others work on the database that instances share, and are the leader's.
var everywhere = map[string]bool{"__pbLogsCleanup__": true}

// taskCron is the task of hooks/jobs whose leader runs PocketBase's scheduled tasks, too.
const taskCron = "cron"

// openCluster makes this instance one of those on its database.
func (p *Panel) openCluster() (*cluster.Cluster, error) {
	return cluster.New(p.app, cluster.Config{
		Database: p.config.Database, Release: p.config.Version, Log: p.log,
		Address: p.config.nodePublic(p.config.publicURL(p.config.HTTPAddress)), // with --node-listen :0 no other can reach this one
	})
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
		before := e.Record.Original().TokenKey()
		if err := e.Next(); err != nil || before == e.Record.TokenKey() {
			return err
		}
		return p.Events.AccountChanged(e.App, e.Record.Id)
	}))
	app.OnRecordDeleteExecute(accounts...).Bind(handler("mamba.events.account.delete", early, func(e *core.RecordEvent) error {
		if err := e.Next(); err != nil {
			return err
		}
		return p.Events.AccountChanged(e.App, e.Record.Id)
	}))
	app.OnSettingsReload().Bind(handler("mamba.cron.guard", early, func(e *core.SettingsReloadEvent) error {
		err := e.Next() // may register the backup task anew
		p.leadCrons()
		return err
	}))
	p.leadCrons()
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
