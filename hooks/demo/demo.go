// Package demo makes "Demo Corp": what a person sees who types make run for the first time.
//
// It owns no table and writes through the other rooms' own commands, so the demo is audited, counted
// and undone like everything else. It refuses to run in an installation that has organisations.
//
// Its one invariant: it is made once. What was made is recognised by its names; what somebody removed
// stays removed.
package demo

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/hooks/servers"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/wire"
)

// Who is in the demo.
const (
	superEmail  = "admin@demo.example"
	ownerEmail  = "owner@demo.example"
	memberEmail = "member@demo.example"
	demoSlug    = "demo-corp"
	secondNode  = "us-west-1"
)

// nodeWait is how long the demo waits for the local node before it makes servers without it running.
const nodeWait = 60 * time.Second

// Demo seeds the demo.
type Demo struct {
	App     core.App
	Tenancy *tenancy.Tenancy
	Alloc   *alloc.Alloc
	Fleet   *fleet.Fleet
	Servers *servers.Servers
	File    string // where the credentials are kept, mode 0600
	Node    string // name of the local node
	Log     *slog.Logger
}

// Credentials of the demo's people. They are made once per installation and never the same in two.
type Credentials struct {
	Superuser string `json:"superuser"` // empty: an operator was there before the demo
	Owner     string `json:"owner"`
	Member    string `json:"member"`
	Password  string `json:"password"` // of all of them
}

// Accounts makes the demo's people and organisation once and returns how to sign in. It is quick;
// Fill makes the servers.
func (d *Demo) Accounts() (Credentials, error) {
	c, err := d.load()
	if !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	if err := d.empty(); err != nil {
		return c, err
	}
	c = Credentials{Owner: ownerEmail, Member: memberEmail, Password: rand.Text()}
	if c.Superuser, err = d.superuser(c.Password); err != nil {
		return c, err
	}
	owner, err := d.user(ownerEmail, "Olivia Owner", c.Password)
	if err != nil {
		return c, err
	}
	member, err := d.user(memberEmail, "Max Member", c.Password)
	if err != nil {
		return c, err
	}
	if err := d.organisation(owner, member); err != nil {
		return c, fmt.Errorf("make the organisation: %w", err)
	}
	return c, d.keep(c)
}

// ErrOccupied is an installation that somebody works with.
var ErrOccupied = errors.New("this installation has organisations already; the demo is only for an empty one")

// empty is ErrOccupied when there is an organisation that is not the demo's own. That one is there when
// a start was cut short before the credentials were kept.
func (d *Demo) empty() error {
	tenants, err := collections.Every[collections.Tenant](d.App, collections.Tenants, "", 2)
	if err != nil {
		return err
	}
	for _, t := range tenants {
		owner, err := d.App.FindAuthRecordByEmail("users", ownerEmail)
		if err != nil || t.Slug() != demoSlug {
			return ErrOccupied
		}
		n, err := d.App.CountRecords(collections.TenantMembers, dbx.HashExp{"tenant": t.Id, "user": owner.Id})
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrOccupied
		}
	}
	return nil
}

func (d *Demo) load() (Credentials, error) {
	var c Credentials
	raw, err := os.ReadFile(d.File)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(raw, &c)
}

// keep writes the credentials last: without them the next start makes the demo again from where it
// was.
func (d *Demo) keep(c Credentials) error {
	raw, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(d.File), filepath.Base(d.File)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // gone after the rename
	_, err = temp.Write(raw)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), d.File); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(d.File))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// superuser makes the operator's account and returns its address; "" when there is another operator
// already, who needs none of ours.
func (d *Demo) superuser(password string) (string, error) {
	r, err := d.App.FindAuthRecordByEmail(core.CollectionNameSuperusers, superEmail)
	if err == nil {
		r.SetPassword(password) // a start that was cut short
		return superEmail, d.App.Save(r)
	}
	n, err := d.App.CountRecords(core.CollectionNameSuperusers, dbx.Not(dbx.HashExp{"email": core.DefaultInstallerEmail}))
	if err != nil || n > 0 {
		return "", err
	}
	c, err := d.App.FindCachedCollectionByNameOrId(core.CollectionNameSuperusers)
	if err != nil {
		return "", err
	}
	r = core.NewRecord(c)
	r.SetEmail(superEmail)
	r.SetPassword(password)
	return superEmail, d.App.Save(r)
}

func (d *Demo) user(email, name, password string) (*core.Record, error) {
	r, err := d.App.FindAuthRecordByEmail("users", email)
	if err == nil {
		r.SetPassword(password) // a start that was cut short before the credentials were kept
		return r, d.App.Save(r)
	}
	c, err := d.App.FindCachedCollectionByNameOrId("users")
	if err != nil {
		return nil, err
	}
	r = core.NewRecord(c)
	r.SetEmail(email)
	r.SetPassword(password)
	r.SetVerified(true)
	r.Set("name", name)
	return r, d.App.Save(r)
}

func (d *Demo) organisation(owner, member *core.Record) error {
	if n, err := d.App.CountRecords(collections.Tenants); err != nil || n > 0 {
		return err // its own, says empty
	}
	a := actor(owner)
	return collections.Tx(d.App, []collections.Lock{audit.Lock("")}, func(tx core.App) error {
		t, err := d.Tenancy.Create(tx, a, "Demo Corp", demoSlug)
		if err != nil {
			return err
		}
		return d.Tenancy.Join(tx, a, t, member.Id, tenancy.RoleMember)
	})
}

// actor is a person of the demo acting on its own machine.
func actor(r *core.Record) access.Actor {
	return access.Actor{Type: access.TypeUser, ID: r.Id, Email: r.Email(), Name: r.GetString("name"), Verified: true, Address: "127.0.0.1", UserAgent: "demo"}
}

// Fill adds the second node and the servers once. It waits for the local node and may take a minute;
// ctx ends it.
func (d *Demo) Fill(ctx context.Context) error {
	tenant, err := collections.One[collections.Tenant](d.App, collections.Tenants, dbx.HashExp{"slug": demoSlug})
	if errors.Is(err, sql.ErrNoRows) {
		return nil // somebody removed the demo: it stays removed
	}
	if err != nil {
		return err
	}
	n, err := d.App.CountRecords(collections.Servers, dbx.HashExp{"tenant": tenant.Id})
	if err != nil || n > 0 {
		return err
	}
	if err := d.west(); err != nil {
		return fmt.Errorf("add node %s: %w", secondNode, err)
	}
	node, err := d.online(ctx)
	if err != nil {
		return err
	}
	owner, err := d.App.FindAuthRecordByEmail("users", ownerEmail)
	if err != nil {
		return err
	}
	return d.servers(actor(owner), tenant.Id, node)
}

// west is a node that never joined: what an operator sees of a machine that is down.
func (d *Demo) west() error {
	if _, err := collections.One[collections.Node](d.App, collections.Nodes, dbx.HashExp{"name": secondNode}); err == nil {
		return nil
	}
	name, place, address := secondNode, "Portland, US", []string{"127.0.0.2"}
	cpu, memory, disk := int64(8_000), int64(32<<10), int64(400<<10)
	n, _, err := d.Fleet.CreateNode(audit.System, fleet.NodeInput{
		Name: &name, Location: &place, PublicAddresses: &address, CPUMillicores: &cpu, MemoryMiB: &memory, DiskMiB: &disk,
	})
	if err != nil {
		return err
	}
	return collections.Tx(d.App, []collections.Lock{alloc.Lock, audit.Lock("")}, func(tx core.App) error {
		_, err := d.Alloc.AddPorts(tx, n.Id, "127.0.0.2", "25565-25580", []wire.Protocol{wire.TCP, wire.UDP})
		return err
	})
}

// online waits until the local node has said its first word.
func (d *Demo) online(ctx context.Context) (node string, err error) {
	ctx, cancel := context.WithTimeout(ctx, nodeWait)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := collections.One[collections.Node](d.App, collections.Nodes, dbx.HashExp{"name": d.Node})
		if err == nil && n.Status() == "ONLINE" && d.Fleet.Linked(n.Id) {
			return n.Id, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("node %s did not come online within %s", d.Node, nodeWait)
		case <-tick.C:
		}
	}
}

// lineup is the servers of the demo. The last two come from registries; where none is reachable they
// show why they are not installed.
func lineup() []servers.CreateInput {
	return []servers.CreateInput{
		{
			Name: "Lobby", Blueprint: "demo", Start: true, Variables: map[string]string{"MOTD": "Welcome to Demo Corp"},
			Limits: servers.Limits{CPUMillicores: 250, MemoryMiB: 128, DiskGiB: 1},
		},
		{
			Name: "Survival", Blueprint: "minecraft-paper", Start: true, Variables: map[string]string{"EULA": "true"},
			Limits: servers.Limits{CPUMillicores: 2000, MemoryMiB: 2048, DiskGiB: 5},
		},
		{
			Name: "Longhouse", Blueprint: "valheim", Start: true, Variables: map[string]string{"PASSWORD": rand.Text()[:12]},
			Limits: servers.Limits{CPUMillicores: 2000, MemoryMiB: 4096, DiskGiB: 10},
		},
	}
}

func (d *Demo) servers(a access.Actor, tenant, node string) error {
	for _, in := range lineup() {
		in.Node = node
		locks := []collections.Lock{tenancy.Lock(tenant), audit.Lock(tenant), alloc.Lock, incidents.Lock}
		err := collections.Tx(d.App, locks, func(tx core.App) error {
			_, err := d.Servers.Create(tx, a, tenant, in)
			return err
		})
		if err != nil {
			// One that does not fit this machine must not keep the others away.
			d.Log.Warn("a server of the demo was left out", "server", in.Name, "error", err)
		}
	}
	return nil
}
