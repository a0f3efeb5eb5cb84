package main

import (
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mambahost/mamba/wings/wire"
)

// The main job on real parts: sign up, create, watch the install, type, read, stop, start, delete.
func TestFromSignUpToAGameServer(t *testing.T) {
	t.Parallel()
	p := newPanel(t, "--local-node", "--node-ports", portRange(t, 20))
	p.start()
	c := p.customer("grace")
	s := c.create(demoServer("first"))
	if s.Status != "INSTALLING" {
		t.Fatalf("answered with %s", s.Status)
	}
	s = c.until(s.ID, 2*time.Minute, "RUNNING")

	view := c.console(s.ID)
	view.say("say hello from the console")
	view.read("hello from the console")

	c.act(s.ID, "stop")
	c.until(s.ID, time.Minute, "STOPPED")
	c.act(s.ID, "start")
	c.until(s.ID, time.Minute, "RUNNING")

	var seen struct {
		Items []struct {
			Kind  string
			Actor struct{ Name string }
		}
	}
	c.ok("GET", "/api/v1/servers/"+s.ID+"/activity", nil, &seen)
	kinds := ""
	for _, i := range seen.Items {
		kinds += i.Kind + ":" + i.Actor.Name + " "
	}
	for _, want := range []string{"server.create:grace", "console.command:grace", "server.stop:grace", "server.start:grace", "server.phase_changed", "server.installed"} {
		if !strings.Contains(kinds, want) {
			t.Errorf("activity has no %s: %s", want, kinds)
		}
	}

	c.ok("DELETE", "/api/v1/servers/"+s.ID, nil, nil)
	c.until(s.ID, time.Minute, "DELETED")
	var list struct{ Total int }
	c.ok("GET", "/api/v1/servers", nil, &list)
	if list.Total != 0 {
		t.Errorf("%d servers are still listed", list.Total)
	}
	var free struct {
		Items []struct{ Status string }
	}
	p.super().ok("GET", "/api/v1/admin/allocations?status=ACTIVE", nil, &free)
	if len(free.Items) != 0 {
		t.Errorf("%d allocations are still held", len(free.Items))
	}
}

// An install that fails says why, holds nothing, and can be tried again.
func TestAFailedInstallHoldsNothing(t *testing.T) {
	t.Parallel()
	p := newPanel(t, "--local-node", "--node-ports", portRange(t, 20))
	p.start()
	c, root := p.customer("joan"), p.super()
	root.tenant = c.tenant
	body := demoServer("broken")
	body["variables"] = map[string]string{"INSTALL_EXIT": "1"} // the operator's own variable
	s := root.create(body)
	s = c.until(s.ID, 2*time.Minute, "INSTALL_FAILED")
	if s.Problem == nil || s.Problem.Code != "install_failed" || s.Problem.Message == "" {
		t.Fatalf("the customer is told %+v", s.Problem)
	}
	eventually(t, 10*time.Second, "the ports are given back", func() error {
		if now := c.server(s.ID); len(now.Ports) > 0 {
			return errStill("holds ports")
		}
		return nil
	})
	root.ok("PATCH", "/api/v1/servers/"+s.ID, map[string]any{"variables": map[string]string{"INSTALL_EXIT": "0"}}, nil)
	c.act(s.ID, "reinstall")
	c.until(s.ID, 2*time.Minute, "RUNNING")
}

type errStill string

func (e errStill) Error() string { return string(e) }

// portRange returns n ports that are free now, as a pool of a node. Each test has its own.
func portRange(t testing.TB, n int) string {
	t.Helper()
	ports, err := nextPorts(n)
	must(t, err)
	return ports
}

func TestPortsOfTestNodesAreFree(t *testing.T) {
	t.Parallel()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer udp.Close()
	for _, held := range []int{tcp.Addr().(*net.TCPAddr).Port, udp.LocalAddr().(*net.UDPAddr).Port} {
		if portFree(held) {
			t.Errorf("port %d is held and counts as free", held)
		}
	}
	if a, b := portRange(t, 3), portRange(t, 3); a == b {
		t.Errorf("%s was handed out twice", a)
	}
}

// console is an open console of a server.
type console struct {
	t     testing.TB
	ws    *websocket.Conn
	frame chan wire.ConsoleFrame
}

func (c *client) console(id string) *console {
	c.t.Helper()
	var token struct{ Token string }
	c.ok("POST", "/api/v1/servers/"+id+"/console/token", map[string]any{}, &token)
	d := websocket.Dialer{Subprotocols: []string{"mamba.v1", "bearer." + token.Token}, HandshakeTimeout: 10 * time.Second}
	ws, resp, err := d.Dial("ws"+strings.TrimPrefix(c.url, "http")+"/api/v1/servers/"+id+"/console/ws", nil)
	if err != nil {
		c.t.Fatalf("console: %v", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || ws.Subprotocol() != "mamba.v1" {
		c.t.Fatalf("console: %d %q", resp.StatusCode, ws.Subprotocol())
	}
	view := &console{t: c.t, ws: ws, frame: make(chan wire.ConsoleFrame, 1024)}
	go func() {
		defer close(view.frame)
		for {
			_, raw, err := ws.ReadMessage()
			if err != nil {
				return
			}
			var f wire.ConsoleFrame
			if json.Unmarshal(raw, &f) == nil {
				view.frame <- f
			}
		}
	}()
	c.t.Cleanup(func() { ws.Close() })
	return view
}

func (v *console) say(command string) {
	v.t.Helper()
	must(v.t, v.ws.WriteJSON(wire.ConsoleInput{Command: command}))
}

// read waits for a line of the game that contains text.
func (v *console) read(text string) {
	v.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case f, open := <-v.frame:
			if !open {
				v.t.Fatalf("the console closed before %q came", text)
			}
			for _, l := range f.Lines {
				if l.Stream == wire.StreamOut && strings.Contains(l.Text, text) {
					return
				}
			}
		case <-timeout:
			v.t.Fatalf("no line with %q", text)
		}
	}
}
