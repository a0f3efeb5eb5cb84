package hooks

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/tenancy"
	"github.com/mambahost/mamba/wings/engine/fake"
)

// cutWithin is how long a live connection may go on after the answer to the request that ended its right.
const cutWithin = time.Second

// open is a live connection to one of the panels.
type open struct {
	what  string
	ended <-chan struct{}
}

func (o open) over() bool {
	select {
	case <-o.ended:
		return true
	default:
		return false
	}
}

// cutting is one panel or several, a server of the demo that runs on a node, and an organisation whose people come
// and go. What ends a right is asked of the first panel; connections are held at each.
type cutting struct {
	*settled
	houses         []*house
	webs           []string
	tenant, server string
	row            *collections.Tenant
	boss           string       // the owner's token
	by             access.Actor // the owner
	node           string       // the server's

	connections, ends int
	slowest           time.Duration
}

func newCutting(t *testing.T, houses []*house) *cutting {
	t.Helper()
	first := houses[0]
	_, err := first.demo().Accounts()
	must(t, err)
	first.joinLocal().SetImage("builtin:demo", fake.Image{Present: true, Game: world})
	must(t, first.demo().Fill(t.Context()))
	first.asSuperuser2()
	c := &cutting{settled: &settled{house: first}, houses: houses}
	for _, h := range houses {
		web := httptest.NewServer(h.mux)
		t.Cleanup(web.Close)
		c.webs = append(c.webs, web.URL)
	}
	row := firstOf(t, first.app, collections.Tenants)
	c.tenant = row.Id
	c.row, err = collections.FindTenant(first.app, row.Id)
	must(t, err)
	owner, err := first.app.FindAuthRecordByEmail("users", "owner@demo.example")
	must(t, err)
	c.boss, c.by = c.as("owner@demo.example").super, access.Actor{Type: access.TypeUser, ID: owner.Id, Name: "owner", Verified: true}
	collectionstest.Eventually(t, "a server runs", func() bool {
		running, err := collections.Every[collections.Server](first.app, collections.Servers, "id", 1, dbx.HashExp{"tenant": c.tenant, "status": "RUNNING"})
		must(t, err)
		if len(running) > 0 {
			c.server, c.node = running[0].Id, running[0].Node()
		}
		return len(running) > 0
	})
	return c
}

// world is the demo's game, and its installer.
func world(p *fake.Process) int {
	if strings.HasSuffix(p.Spec.Name, "-install") {
		return 0
	}
	p.Println("Ready: listening")
	select {
	case <-p.Trap():
		return 0
	case <-p.Done():
		return 137
	}
}

// did asks the first panel and fails when it is answered otherwise.
func (c *cutting) did(t *testing.T, token, method, path, body string, want int) string {
	t.Helper()
	status, _, raw := c.ask(token, c.tenant, method, path, plain, body)
	if status != want {
		t.Fatalf("%s %s: %d %s", method, path, status, raw)
	}
	return raw
}

func (c *cutting) of(path string) string { return "/api/v1/tenants/" + c.tenant + path }

// joins makes a member with a session.
func (c *cutting) joins(t *testing.T, name string) (user *core.Record, token string) {
	t.Helper()
	c.person(name + "@example.org")
	user, err := c.app.FindAuthRecordByEmail("users", name+"@example.org")
	must(t, err)
	must(t, collections.Tx(c.app, []collections.Lock{tenancy.Lock(c.tenant), audit.Lock(c.tenant)}, func(tx core.App) error {
		return c.Tenancy.Join(tx, c.by, c.row, user.Id, tenancy.RoleSupport)
	}))
	return user, c.signIn(t, name)
}

// operator makes an operator of the installation.
func (c *cutting) operator(t *testing.T, name string) (*core.Record, string) {
	t.Helper()
	all, err := c.app.FindCollectionByNameOrId(core.CollectionNameSuperusers)
	must(t, err)
	r := core.NewRecord(all)
	r.SetEmail(name + "@operators.example.org")
	r.SetPassword("a-long-password")
	must(t, c.app.Save(r))
	token, err := r.NewAuthToken()
	must(t, err)
	return r, token
}

func (c *cutting) signIn(t *testing.T, name string) string {
	t.Helper()
	raw := c.did(t, "", "POST", "/api/collections/users/auth-with-password", `{"identity":"`+name+`@example.org","password":"a-long-password"}`, 200)
	return decode[struct{ Token string }](t, raw).Token
}

// consoles opens the server's console at each panel.
func (c *cutting) consoles(t *testing.T, token string) (out []open) {
	t.Helper()
	for i, web := range c.webs {
		url := "ws" + strings.TrimPrefix(web, "http") + "/api/v1/servers/" + c.server + "/console/ws"
		intent := decode[struct{ Token string }](t, c.did(t, token, "POST", "/api/v1/servers/"+c.server+"/console/token", "", 200)).Token
		d := websocket.Dialer{Subprotocols: []string{access.Subprotocol, "bearer." + intent}}
		conn, res, err := d.DialContext(t.Context(), url, nil)
		if err != nil {
			var said []byte
			if res != nil {
				said, _ = io.ReadAll(res.Body)
			}
			t.Fatalf("open a console at panel %d: %v %s", i, err, said)
		}
		res.Body.Close()
		t.Cleanup(func() { conn.Close() })
		if _, _, err := conn.ReadMessage(); err != nil { // its viewer was asked about and sits
			t.Fatalf("the console at panel %d: %v", i, err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				if _, _, err := conn.ReadMessage(); err != nil {
					return
				}
			}
		}()
		out = append(out, open{fmt.Sprintf("console at panel %d", i), ended})
	}
	return out
}

// streams opens the organisation's stream of events at each panel.
func (c *cutting) streams(t *testing.T, token string) []open {
	t.Helper()
	return c.topics(t, token, "mamba.tenant."+c.tenant)
}

func (c *cutting) topics(t *testing.T, token, topic string) (out []open) {
	t.Helper()
	for i, web := range c.webs {
		out = append(out, open{fmt.Sprintf("stream of %s at panel %d", topic, i), watch(t, web, token, topic)})
	}
	return out
}

func (c *cutting) all(t *testing.T, token string) []open {
	t.Helper()
	return append(c.consoles(t, token), c.streams(t, token)...)
}

// cut ends a right and waits for the end of what is open by it. A machine that is busy with something else may take
// longer, by what it takes for an answer at the same time.
func (c *cutting) cut(t *testing.T, lines []open, end func()) {
	t.Helper()
	for _, o := range lines {
		if o.over() {
			t.Fatalf("%s: it has ended before", o.what)
		}
	}
	end()
	answered := time.Now()
	var all sync.WaitGroup
	var busy time.Duration
	all.Go(func() {
		c.ask(c.boss, c.tenant, "GET", "/api/v1/servers", plain, "")
		busy = time.Since(answered)
	})
	took := make([]time.Duration, len(lines))
	for i, o := range lines {
		all.Go(func() {
			select {
			case <-o.ended:
			case <-time.After(30 * time.Second):
				t.Errorf("the %s goes on", o.what)
			}
			took[i] = time.Since(answered)
		})
	}
	all.Wait()
	for i, o := range lines {
		if took[i] > cutWithin+busy {
			t.Errorf("the %s was cut after %v", o.what, took[i])
		}
		c.slowest = max(c.slowest, took[i])
	}
	c.connections += len(lines)
	c.ends++
}

// hasFactor gives an account a second factor.
func (c *cutting) hasFactor(t *testing.T, user string) {
	t.Helper()
	now := collections.Stamp(time.Now())
	_, err := c.app.NonconcurrentDB().Insert(collections.TotpFactors, map[string]any{"id": user, "user": user, "secret": "x", "begun_at": now, "confirmed_at": now, "last_step": 0, "created": now, "updated": now}).Execute()
	must(t, err)
}

func (c *cutting) hasPasskey(t *testing.T, user string) {
	t.Helper()
	now := collections.Stamp(time.Now())
	_, err := c.app.NonconcurrentDB().Insert(collections.Passkeies, map[string]any{"id": user, "user": user, "name": "A key", "credential_id": user, "credential": "{}", "used_at": "", "created": now, "updated": now}).Execute()
	must(t, err)
}

// key makes an API key of the organisation, or of a person, that reads consoles.
func (c *cutting) key(t *testing.T, token, path, rest string) (id, secret string) {
	t.Helper()
	made := decode[struct{ ID, Secret string }](t, c.did(t, token, "POST", path, `{"name":"robot","permissions":["server.read","console.read"]`+rest+`}`, 201))
	return made.ID, made.Secret
}

// TestT13_EveryLiveConnectionEndsWithItsRight: whatever ends a right, what is open by it is cut within a second,
// at whichever panel it is held, and nothing else is. It is not parallel: it measures.
func TestT13_EveryLiveConnectionEndsWithItsRight(t *testing.T) {
	quick := func(c *Config) { c.TokenPace, c.AddressPace = -1, -1 }
	t.Run("at the only panel", func(t *testing.T) {
		everyEnd(t, newCutting(t, []*house{serve(t, newApp(t), quick)}))
	})
	t.Run("at one of two panels", func(t *testing.T) {
		key := filepath.Join(t.TempDir(), "master.key")
		var houses []*house
		for _, instance := range collectionstest.Several(t, 2) {
			houses = append(houses, serve(t, instance.BaseApp, func(c *Config) {
				quick(c)
				c.NodeListen = quietPort(t)
				c.MasterKeyFile, c.database = key, &database{url: "postgres://", pg: instance.Database}
			}))
		}
		everyEnd(t, newCutting(t, houses))
	})
}

// quietPort is an address below the ports that connections are given: other panels dial it before this one listens.
func quietPort(t *testing.T) string {
	t.Helper()
	for {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(12_000+rand.IntN(18_000)))
		if l, err := net.Listen("tcp", address); err == nil {
			must(t, l.Close())
			return address
		}
	}
}

func everyEnd(t *testing.T, c *cutting) {
	bystander, other := c.joins(t, "bystander")
	c.hasFactor(t, bystander.Id)
	c.hasFactor(t, c.by.ID)
	others := c.all(t, other)
	undisturbed := func(t *testing.T) {
		t.Helper()
		for _, o := range others {
			if o.over() {
				t.Fatalf("the %s of a bystander has ended, too", o.what)
			}
		}
	}
	role := func(t *testing.T, name, permissions string) string {
		t.Helper()
		return decode[struct{ ID string }](t, c.did(t, c.boss, "POST", c.of("/roles"), `{"name":"`+name+`","permissions":[`+permissions+`]}`, 201)).ID
	}
	changed := func(t *testing.T, collection, id string, change func(*core.Record)) {
		t.Helper()
		r, err := c.app.FindRecordById(collection, id)
		must(t, err)
		change(r)
		must(t, c.app.Save(r))
	}
	guests := role(t, "Guests", `"tenant.read"`)
	for _, end := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"a member is removed", func(t *testing.T) {
			user, token := c.joins(t, "removed")
			c.cut(t, c.all(t, token), func() { c.did(t, c.boss, "DELETE", c.of("/members/"+user.Id), "", 204) })
		}},
		{"a member leaves", func(t *testing.T) {
			user, token := c.joins(t, "leaver")
			c.cut(t, c.all(t, token), func() { c.did(t, token, "DELETE", c.of("/members/"+user.Id), "", 204) })
		}},
		{"a role is taken", func(t *testing.T) {
			user, token := c.joins(t, "demoted")
			c.cut(t, c.all(t, token), func() {
				c.did(t, c.boss, "PATCH", c.of("/members/"+user.Id), `{"role":"`+guests+`"}`, 200)
			})
		}},
		{"a role shows no servers any more", func(t *testing.T) {
			watchers := role(t, "Watchers", `"tenant.read","server.read","console.read"`)
			user, token := c.joins(t, "watcher")
			c.did(t, c.boss, "PATCH", c.of("/members/"+user.Id), `{"role":"`+watchers+`"}`, 200)
			c.cut(t, c.all(t, token), func() { c.did(t, c.boss, "PATCH", c.of("/roles/"+watchers), `{"permissions":["tenant.read"]}`, 200) })
		}},
		{"a role shows no consoles any more", func(t *testing.T) {
			readers := role(t, "Readers", `"tenant.read","server.read","console.read"`)
			user, token := c.joins(t, "reader")
			c.did(t, c.boss, "PATCH", c.of("/members/"+user.Id), `{"role":"`+readers+`"}`, 200)
			streams := c.streams(t, token)
			c.cut(t, c.consoles(t, token), func() {
				c.did(t, c.boss, "PATCH", c.of("/roles/"+readers), `{"permissions":["tenant.read","server.read"]}`, 200)
			})
			for _, o := range streams {
				if !isOpen(o.ended) {
					t.Errorf("the %s has ended, too", o.what)
				}
			}
		}},
		{"access to a server is taken", func(t *testing.T) {
			user, token := c.joins(t, "friend")
			at := "/api/v1/servers/" + c.server + "/access/" + user.Id
			c.did(t, c.boss, "PUT", at, `{"role":"SUPPORT"}`, 200)
			c.did(t, c.boss, "PATCH", c.of("/members/"+user.Id), `{"role":""}`, 200)
			c.cut(t, c.all(t, token), func() { c.did(t, c.boss, "DELETE", at, "", 200) })
		}},
		{"a session signs out", func(t *testing.T) {
			_, token := c.joins(t, "tired")
			c.cut(t, c.all(t, token), func() { c.did(t, token, "DELETE", "/api/v1/account/sessions/current", "", 204) })
		}},
		{"a session is revoked by another", func(t *testing.T) {
			_, token := c.joins(t, "elsewhere")
			here := c.signIn(t, "elsewhere")
			mine := c.consoles(t, here)
			c.cut(t, c.all(t, token), func() { c.did(t, here, "DELETE", "/api/v1/account/sessions/others", "", 200) })
			for _, o := range mine {
				if !isOpen(o.ended) {
					t.Errorf("the %s of the other session has ended, too", o.what)
				}
			}
		}},
		{"a password is changed", func(t *testing.T) {
			user, token := c.joins(t, "careful")
			c.cut(t, c.all(t, token), func() {
				c.did(t, token, "PATCH", "/api/collections/users/records/"+user.Id, `{"oldPassword":"a-long-password","password":"another-long-password","passwordConfirm":"another-long-password"}`, 200)
			})
		}},
		{"an address is changed", func(t *testing.T) {
			user, token := c.joins(t, "moved")
			c.cut(t, c.all(t, token), func() {
				changed(t, "users", user.Id, func(r *core.Record) { r.SetEmail("moved.away@example.org") })
			})
		}},
		{"an account is deleted", func(t *testing.T) { // PocketBase deletes nobody who is a member
			user, token := c.joins(t, "deleted")
			c.did(t, token, "DELETE", c.of("/members/"+user.Id), "", 204)
			c.cut(t, c.topics(t, token, "mamba.user."+user.Id), func() {
				c.did(t, c.super, "DELETE", "/api/collections/users/records/"+user.Id, "", 204)
			})
		}},
		{"an operator has a new password", func(t *testing.T) {
			r, token := c.operator(t, "careful")
			c.cut(t, append(c.all(t, token), c.topics(t, token, "servers/*")...), func() {
				changed(t, core.CollectionNameSuperusers, r.Id, func(r *core.Record) { r.SetPassword("another-long-password") })
			})
		}},
		{"an operator's account is deleted", func(t *testing.T) {
			r, token := c.operator(t, "deleted")
			c.cut(t, append(c.all(t, token), c.topics(t, token, "servers/*")...), func() {
				c.did(t, c.super, "DELETE", "/api/collections/_superusers/records/"+r.Id, "", 204)
			})
		}},
		{"a second factor is required", func(t *testing.T) {
			_, token := c.joins(t, "careless")
			_, secret := c.key(t, token, "/api/v1/account/keys", "")
			c.cut(t, append(c.all(t, token), c.consoles(t, secret)...), func() { c.did(t, c.boss, "PATCH", c.of(""), `{"require_2fa":true}`, 200) })
			c.did(t, c.boss, "PATCH", c.of(""), `{"require_2fa":false}`, 200)
		}},
		{"the last second factor is removed", func(t *testing.T) {
			user, token := c.joins(t, "doubtful")
			_, secret := c.key(t, token, "/api/v1/account/keys", "")
			c.hasPasskey(t, user.Id)
			c.did(t, c.boss, "PATCH", c.of(""), `{"require_2fa":true}`, 200)
			c.cut(t, append(c.all(t, token), c.consoles(t, secret)...), func() { c.did(t, token, "DELETE", "/api/v1/account/passkeys/"+user.Id, "", 204) })
			c.did(t, c.boss, "PATCH", c.of(""), `{"require_2fa":false}`, 200)
		}},
		{"an API key is revoked", func(t *testing.T) {
			id, secret := c.key(t, c.boss, c.of("/keys"), "")
			c.cut(t, c.consoles(t, secret), func() { c.did(t, c.boss, "DELETE", c.of("/keys/"+id), "", 204) })
		}},
		{"a personal API key is revoked", func(t *testing.T) {
			_, token := c.joins(t, "tinkerer")
			id, secret := c.key(t, token, "/api/v1/account/keys", "")
			c.cut(t, c.consoles(t, secret), func() { c.did(t, token, "DELETE", "/api/v1/account/keys/"+id, "", 204) })
		}},
		{"an API key expires", func(t *testing.T) {
			began := time.Now()
			_, lasting := c.key(t, c.boss, c.of("/keys"), "")
			stay := c.consoles(t, lasting)
			until := time.Now().Add(time.Second + 4*time.Since(began)).Truncate(time.Millisecond) // opening takes a part of it
			_, secret := c.key(t, c.boss, c.of("/keys"), `,"expires_at":"`+until.UTC().Format(time.RFC3339Nano)+`"`)
			c.cut(t, c.consoles(t, secret), func() { <-time.After(time.Until(until)) })
			for _, o := range stay {
				if !isOpen(o.ended) {
					t.Errorf("the %s by a key that lasts has ended, too", o.what)
				}
			}
		}},
		{"the holder of an API key loses the right", func(t *testing.T) {
			user, token := c.joins(t, "holder")
			_, secret := c.key(t, token, "/api/v1/account/keys", "")
			c.cut(t, append(c.all(t, token), c.consoles(t, secret)...), func() {
				c.did(t, c.boss, "PATCH", c.of("/members/"+user.Id), `{"role":"`+guests+`"}`, 200)
			})
		}},
		{"the maker of an organisation's API key leaves", func(t *testing.T) {
			user, token := c.joins(t, "maker")
			c.did(t, c.boss, "PATCH", c.of("/members/"+user.Id), `{"role":"ADMIN"}`, 200)
			_, secret := c.key(t, token, c.of("/keys"), "")
			c.cut(t, append(c.all(t, token), c.consoles(t, secret)...), func() { c.did(t, c.boss, "DELETE", c.of("/members/"+user.Id), "", 204) })
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			end.run(t)
			undisturbed(t)
		})
	}
	for _, o := range others {
		if !isOpen(o.ended) {
			t.Errorf("the %s of a bystander has ended, too", o.what)
		}
	}
	// What concerns everybody comes last.
	t.Run("an organisation is suspended", func(t *testing.T) {
		_, secret := c.key(t, c.boss, c.of("/keys"), "")
		c.cut(t, append(others, c.consoles(t, secret)...), func() {
			c.did(t, c.super, "POST", "/api/v1/admin/tenants/"+c.tenant+"/suspend", `{"reason":"The invoice of October is open."}`, 200)
		})
	})
	t.Run("a suspension ends", func(t *testing.T) {
		c.cut(t, c.all(t, other), func() { c.did(t, c.super, "POST", "/api/v1/admin/tenants/"+c.tenant+"/resume", "", 200) })
	})
	t.Run("an organisation is to be deleted", func(t *testing.T) {
		_, secret := c.key(t, c.boss, c.of("/keys"), "")
		c.cut(t, append(c.all(t, other), c.consoles(t, secret)...), func() { c.did(t, c.super, "POST", c.of("/delete"), `{"name":"Demo Corp"}`, 200) })
	})
	t.Run("it is kept", func(t *testing.T) {
		c.cut(t, c.all(t, other), func() { c.did(t, c.super, "DELETE", c.of("/delete"), "", 200) })
	})
	t.Run("a node's certificate is revoked", func(t *testing.T) {
		links := []open{}
		streams := c.streams(t, other)
		for i, h := range c.houses {
			collectionstest.Eventually(t, "the node is linked", func() bool { return h.Fleet.Linked(c.node) })
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for h.Fleet.Linked(c.node) && t.Context().Err() == nil {
					<-time.After(5 * time.Millisecond)
				}
			}()
			links = append(links, open{fmt.Sprintf("link at panel %d", i), ended})
		}
		c.cut(t, append(c.consoles(t, other), links...), func() { c.did(t, c.super, "DELETE", "/api/v1/admin/nodes/"+c.node+"?force=true", "", 204) })
		for _, o := range streams {
			if !isOpen(o.ended) {
				t.Errorf("the %s has ended, too", o.what)
			}
		}
	})
	t.Logf("T13: %d connections, %d ends, slowest %s", c.connections, c.ends, c.slowest.Round(time.Millisecond))
}
