package servers

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/wings/wire"
)

// stage is a world with a running server, its API on a socket, and its node's handler on another.
func stage(t *testing.T) (w *world, n *node, id, url string) {
	t.Helper()
	w, n, id = running(t)
	api := httptest.NewServer(w.mux)
	t.Cleanup(api.Close)
	return w, n, id, "ws" + strings.TrimPrefix(api.URL, "http") + "/api/v1/servers/"
}

// running is a world with a running server, and its node's handler on a socket.
func running(t *testing.T) (w *world, n *node, id string) {
	t.Helper()
	w = newWorld(t)
	n = w.machine("n1", "30000-30100")
	n.http = httptest.NewServer(n.agent.Handler())
	t.Cleanup(n.http.Close)
	w.work()
	r := w.do(w.super, "POST", "servers", `{"name":"one","blueprint":"testgame","start":true,"variables":{"TAKES":"1ms"},`+small+`}`)
	id = r.at("server.id").(string)
	w.until(id, time.Minute, Running)
	return w, n, id
}

func (w *world) consoleToken(token, id string) string {
	w.t.Helper()
	r := w.do(token, "POST", "servers/"+id+"/console/token", "{}")
	if r.status != 200 || r.at("expires_at") == nil {
		w.t.Fatalf("token: %d %s", r.status, r.raw)
	}
	return r.at("token").(string)
}

// viewer is an open console.
type viewer struct {
	t    *testing.T
	conn *websocket.Conn
}

func dial(t *testing.T, url, token string, others ...string) (*viewer, *http.Response, error) {
	t.Helper()
	d := websocket.Dialer{Subprotocols: append([]string{access.Subprotocol, "bearer." + token}, others...), HandshakeTimeout: 10 * time.Second}
	c, res, err := d.Dial(url, nil)
	if err != nil {
		return nil, res, err
	}
	t.Cleanup(func() { c.Close() })
	return &viewer{t, c}, res, nil
}

func open(t *testing.T, url, token string) *viewer {
	t.Helper()
	v, res, err := dial(t, url, token)
	if err != nil {
		t.Fatalf("open: %v %v", err, res)
	}
	return v
}

// read waits for a frame that ok accepts.
func (v *viewer) read(what string, ok func(f wire.ConsoleFrame) bool) {
	v.t.Helper()
	_ = v.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		_, raw, err := v.conn.ReadMessage()
		if err != nil {
			v.t.Fatalf("waiting for %s: %v", what, err)
		}
		var f wire.ConsoleFrame
		must(v.t, json.Unmarshal(raw, &f))
		if ok(f) {
			return
		}
	}
}

func (v *viewer) line(text string) {
	v.t.Helper()
	v.read(text, func(f wire.ConsoleFrame) bool {
		for _, l := range f.Lines {
			if strings.Contains(l.Text, text) {
				return true
			}
		}
		return false
	})
}

func (v *viewer) refused(code string) {
	v.t.Helper()
	v.read("a refusal", func(f wire.ConsoleFrame) bool {
		if f.Error != nil && f.Error.Code != code {
			v.t.Fatalf("refused with %+v, want %s", f.Error, code)
		}
		return f.Error != nil
	})
}

func (v *viewer) say(command string) {
	v.t.Helper()
	must(v.t, v.conn.WriteJSON(wire.ConsoleInput{Command: command}))
}

func (w *world) commands() int {
	w.t.Helper()
	return w.count(collections.AuditLogs, dbx.HashExp{"action": "console.command"})
}

func TestAConsoleCarriesLinesAndRecordsCommands(t *testing.T) {
	t.Parallel()
	w, _, id, url := stage(t)
	v := open(t, url+id+"/console/ws", w.consoleToken(w.owner, id))
	v.line("ready to play")
	long := "say " + strings.Repeat("\"", wire.MaxCommandBytes-4) // every byte doubled by JSON
	for _, command := range []string{"hello there", long} {
		v.say(command)
		v.line("you said " + command[:8])
	}
	rows := must2(collections.Every[collections.AuditLog](w.app, collections.AuditLogs, "seq", 0, dbx.HashExp{"action": "console.command"}))(t)
	if len(rows) != 2 || rows[0].ActorName() != "owner" || rows[0].Resource() != id || rows[0].Tenant() != w.tenant {
		t.Fatalf("%d rows", len(rows))
	}
	var kept struct {
		Command string `json:"command"`
	}
	must(t, rows[1].Metadata(&kept))
	if kept.Command != long {
		t.Errorf("the audit log keeps %d of %d bytes", len(kept.Command), len(long))
	}
	if r := w.do(w.owner, "GET", "servers/"+id+"/activity", ""); strings.Count(r.raw, "console.command") != 2 || strings.Contains(r.raw, strings.Repeat(`\"`, 300)) {
		t.Errorf("the activity: %.400s", r.raw)
	}
	v.say(strings.Repeat("x", wire.MaxCommandBytes+1))
	v.refused("command_invalid")
	for _, command := range []string{"", "say a\nop me", "ba\rn me", "say \x00"} {
		v.say(command)
		v.refused("command_invalid")
	}
	must(t, v.conn.WriteMessage(websocket.TextMessage, []byte("say hello")))
	v.refused("command_invalid")
	if n := w.commands(); n != 2 {
		t.Errorf("%d commands are recorded, two were sent", n)
	}
	again := open(t, url+id+"/console/ws?after=1", w.consoleToken(w.owner, id))
	again.line("you said hello")
}

func TestWhoMayReadMayNotType(t *testing.T) {
	t.Parallel()
	w, n, id, url := stage(t)
	v := open(t, url+id+"/console/ws", w.consoleToken(w.member, id))
	v.line("ready to play")
	v.say("op member")
	v.refused("forbidden")
	if w.commands() != 0 {
		t.Error("a command that was refused is recorded as given")
	}
	viewer := must2(n.agent.Watch(id, 0))(t)
	defer viewer.Close()
	for {
		f := must2(viewer.Next(t.Context()))(t)
		for _, l := range f.Lines {
			if l.Stream == wire.StreamInput {
				t.Errorf("it reached the game: %s", l.Text)
			}
		}
		if f.Live {
			break
		}
	}
	unverified := open(t, url+id+"/console/ws", w.consoleToken(w.unverified, id))
	unverified.say("op me")
	unverified.refused("forbidden")
	w.set(collections.Tenants, w.tenant, "status", "SUSPENDED")
	owner := open(t, url+id+"/console/ws", w.consoleToken(w.owner, id))
	owner.say("op me")
	owner.refused("forbidden")
}

// What is open ends with the right to it, also for somebody who only reads.
func TestAConsoleEndsWithTheRightToIt(t *testing.T) {
	t.Parallel()
	w, _, id, url := stage(t)
	user := func(name string) *core.Record {
		return must2(w.app.FindAuthRecordByEmail("users", name+"@example.org"))(t)
	}
	cut := func(what string, v *viewer) {
		t.Helper()
		_ = v.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		for {
			_, _, err := v.conn.ReadMessage()
			if err == nil {
				continue
			}
			if !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
	}
	owner, member := open(t, url+id+"/console/ws", w.consoleToken(w.owner, id)), open(t, url+id+"/console/ws", w.consoleToken(w.member, id))
	owner.line("ready to play")
	member.line("ready to play")
	unused := w.consoleToken(w.owner, id)

	w.Servers.Recheck() // nothing has changed
	owner.say("still there")
	owner.line("you said still there")

	u := user("owner")
	u.SetPassword("another-long-password")
	must(t, w.app.Save(u))
	w.Servers.Recheck()
	cut("a new password", owner)
	if _, res, err := dial(t, url+id+"/console/ws", unused); err == nil || res.StatusCode != 401 {
		t.Errorf("a token from before the new password: %v", res)
	}

	member.line("you said still there")
	m := must2(collections.One[collections.TenantMember](w.app, collections.TenantMembers, dbx.HashExp{"user": user("member").Id}))(t)
	_, err := w.app.NonconcurrentDB().Delete(collections.RoleBindings, dbx.HashExp{"member": m.Id}).Execute()
	must(t, err)
	w.Servers.Recheck()
	cut("without a role", member)
	eventually(t, 30*time.Second, "the seats are given back", func() bool {
		w.consoles.mu.Lock()
		defer w.consoles.mu.Unlock()
		return len(w.consoles.open) == 0 && w.consoles.taken == 0
	})

	// A line is refused also when nobody was told of the change.
	again := must2(user("owner").NewAuthToken())(t)
	owner = open(t, url+id+"/console/ws", w.consoleToken(again, id))
	owner.line("ready to play")
	before := w.commands()
	u = user("owner")
	u.RefreshTokenKey()
	must(t, w.app.Save(u))
	owner.say("op me")
	cut("a line after a new password", owner)
	if w.commands() != before {
		t.Error("the line was taken")
	}
}

// unread is a listener whose one connection holds nothing: what is written waits to be read.
type unread struct {
	conn  chan net.Conn
	over  <-chan struct{}
	close func()
}

func (u *unread) Accept() (net.Conn, error) {
	select {
	case c := <-u.conn:
		return c, nil
	case <-u.over:
		return nil, net.ErrClosed
	}
}
func (u *unread) Close() error   { u.close(); return nil }
func (u *unread) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// Who does not read holds up nobody who decides about him: not a right that ends, and not the end of
// the panel.
func TestAViewerWhoDoesNotReadIsCutOffToo(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(t *testing.T, w *world){
		"a right that ends": func(t *testing.T, w *world) {
			u := must2(w.app.FindAuthRecordByEmail("users", "owner@example.org"))(t)
			u.RefreshTokenKey()
			must(t, w.app.Save(u))
			w.Servers.Recheck()
		},
		"the end of the panel": func(_ *testing.T, w *world) { w.Servers.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _, id := running(t)
			over, end := context.WithCancel(t.Context())
			l := &unread{conn: make(chan net.Conn, 1), over: over.Done(), close: end}
			api := httptest.NewUnstartedServer(w.mux)
			must(t, api.Listener.Close())
			api.Listener = l
			api.Start()
			t.Cleanup(api.Close)
			mine, theirs := net.Pipe()
			l.conn <- theirs
			d := websocket.Dialer{Subprotocols: []string{access.Subprotocol, "bearer." + w.consoleToken(w.owner, id)},
				NetDial: func(string, string) (net.Conn, error) { return mine, nil }}
			c, _, err := d.Dial("ws://panel/api/v1/servers/"+id+"/console/ws", nil)
			must(t, err)
			v := &viewer{t, c}
			v.line("ready to play")
			v.say("hello") // the answer to this waits to be read
			eventually(t, 30*time.Second, "the line is taken", func() bool { return w.commands() == 1 })
			since := time.Now()
			cut(t, w)
			eventually(t, 30*time.Second, "the seat is given back", func() bool {
				w.consoles.mu.Lock()
				defer w.consoles.mu.Unlock()
				return w.consoles.taken == 0
			})
			if took := time.Since(since); took > consoleWriteWait/2 {
				t.Errorf("it took %s", took)
			}
			more := w.consoles.take("owner")
			if more {
				w.consoles.leave("owner")
			}
			if more != (name == "a right that ends") {
				t.Errorf("somebody may sit down afterwards: %v", more)
			}
		})
	}
}

func TestTypingTooFastIsRefused(t *testing.T) {
	t.Parallel()
	w, _, id, url := stage(t)
	v := open(t, url+id+"/console/ws", w.consoleToken(w.owner, id))
	v.line("ready to play")
	for range 60 {
		v.say("a")
	}
	v.read("a refusal", func(f wire.ConsoleFrame) bool { return f.Error != nil && f.Error.Code == "too_fast" })
	if n := w.commands(); n < 1 || n > 55 {
		t.Errorf("%d of 60 were sent", n)
	}
}

func TestAConsoleNeedsItsOwnToken(t *testing.T) {
	t.Parallel()
	w, n, id, url := stage(t)
	other := w.mustCreate(`{"name":"two","blueprint":"testgame",` + small + `}`)
	good := w.consoleToken(w.owner, id)
	a := access.Actor{Type: access.TypeUser, ID: must2(w.app.FindAuthRecordByEmail("users", "owner@example.org"))(t).Id}
	stranger := access.Actor{Type: access.TypeUser, ID: must2(w.app.FindAuthRecordByEmail("users", "stranger@example.org"))(t).Id}
	mint := func(a access.Actor, purpose, resource, tenant string) string {
		token, _, err := w.Access.Mint(a, purpose, resource, tenant, time.Minute, false)
		must(t, err)
		return token
	}
	for name, c := range map[string]struct {
		server, token string
		status        int
		code          string
	}{
		"another server's token":               {other, good, 401, "token_invalid"},
		"a token for something else":           {id, mint(a, "files", id, w.tenant), 401, "token_invalid"},
		"a token of another organisation":      {id, mint(a, purposeConsole, id, w.other), 404, "server_not_found"},
		"a token of somebody who is no member": {id, mint(stranger, purposeConsole, id, w.tenant), 404, "server_not_found"},
		"a token that was changed":             {id, "x" + good, 401, "token_invalid"},
		"a session's token":                    {id, w.owner, 401, "token_invalid"},
		"a server that is not there":           {"nosuchserver000", mint(a, purposeConsole, "nosuchserver000", w.tenant), 404, "server_not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			_, res, err := dial(t, url+c.server+"/console/ws", c.token)
			if err == nil {
				t.Fatal("it was opened")
			}
			var body struct{ Code string }
			_ = json.NewDecoder(res.Body).Decode(&body)
			if res.StatusCode != c.status || body.Code != c.code {
				t.Errorf("%d %s", res.StatusCode, body.Code)
			}
		})
	}
	w.do(w.owner, "GET", "servers/"+id+"/console/ws", "").want(t, 401, "unauthenticated", "")
	w.do(w.stranger, "POST", "servers/"+id+"/console/token", "{}", access.TenantHeader, "others").want(t, 404, "server_not_found", "")
	if _, res, err := dial(t, url+id+"/console/ws?after=-1", good); err == nil || res.StatusCode != 400 {
		t.Errorf("after=-1: %v", res)
	}
	n.mu.Lock()
	n.away = true
	n.mu.Unlock()
	if _, res, err := dial(t, url+id+"/console/ws", good); err == nil || res.StatusCode != 503 {
		t.Errorf("behind a silent node: %v", res)
	}
}

func TestWhyAConsoleDoesNotOpen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err    error
		status int
		code   string
	}{
		"the node is away":               {fleet.ErrNodeOffline, 503, "node_offline"},
		"the server is not there yet":    {&wire.Error{Status: 404, Code: "unknown_server"}, 409, "console_not_there"},
		"the node has too many of them":  {&wire.Error{Status: 429, Code: "too_many"}, 503, "too_many_consoles"},
		"anything else is our own fault": {&wire.Error{Status: 500, Code: "internal"}, 0, ""},
	} {
		var told *access.Error
		if err := unopened(c.err); errors.As(err, &told) != (c.status > 0) || told != nil && (told.Status != c.status || told.Code != c.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSeatsAreBoundedInAllAndOfOnePerson(t *testing.T) {
	t.Parallel()
	s := newSeats(3, 2)
	if first, second, third := s.take("a"), s.take("a"), s.take("a"); !first || !second || third || !s.take("b") || s.take("c") {
		t.Fatalf("%+v", s.of)
	}
	now := time.Now()
	for i := range commandsPerSecond + 1 {
		if s.pace("a", now) != (i < commandsPerSecond) {
			t.Errorf("line %d of one second", i)
		}
	}
	if !s.pace("b", now) || !s.pace("a", now.Add(time.Second)) || s.pace("nobody", now) {
		t.Error("the pace is each person's own, and a second long")
	}
	s.leave("a")
	if !s.take("c") || s.take("d") {
		t.Errorf("%+v", s.of)
	}
	for _, p := range []string{"a", "b", "c"} {
		s.leave(p)
	}
	if s.taken != 0 || len(s.of) != 0 {
		t.Errorf("what is left: %d %+v", s.taken, s.of)
	}
}
