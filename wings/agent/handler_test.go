package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mambahost/mamba/wings/wire"
)

// served is a node in real time with its handler behind a listener.
func served(t *testing.T) (*rig, *httptest.Server) {
	t.Helper()
	r := newRig(t)
	r.start()
	srv := httptest.NewServer(r.agent.Handler())
	t.Cleanup(func() { r.stop(); srv.Close(); r.m.Close() })
	return r, srv
}

func call(t *testing.T, method, url string, body any) (int, string) {
	t.Helper()
	var raw []byte
	switch b := body.(type) {
	case nil:
	case string:
		raw = []byte(b)
	default:
		raw = must(json.Marshal(b))
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, out.String()
}

func TestTheRoutesOfTheLink(t *testing.T) {
	t.Parallel()
	r, srv := served(t)
	up := running(1)
	up.PlacementEpoch = 2
	r.apply(up)
	r.untilState(up.ServerID, 20*time.Second, wire.StateRunning)
	down := stopped(running(2))
	r.apply(down)
	r.untilState(down.ServerID, 20*time.Second, wire.StateStopped)
	old := running(1)
	invalid := running(3)
	invalid.Command = nil
	unready := running(3)
	unready.Ready = wire.Ready{TCPPort: 9999, TimeoutS: 10}
	path := func(id, rest string) string { return "/v1/servers/" + id + rest }
	cases := []struct {
		name   string
		method string
		path   string
		body   any
		status int
		want   string
		absent string
	}{
		{"a spec is answered with what is observed", "PUT", path(up.ServerID, ""), up, 200, `"state":"running"`, `"problem"`},
		{"a spec of an older epoch is superseded", "PUT", path(up.ServerID, ""), old, 409, `"code":"superseded"`, "epoch 1"},
		{"an invalid spec says what is wrong", "PUT", path(invalid.ServerID, ""), invalid, 422, "command is empty", ""},
		{"a readiness port that is not published is invalid", "PUT", path(unready.ServerID, ""), unready, 422, "9999", ""},
		{"a spec of another server than the path is refused", "PUT", path(down.ServerID, ""), up, 400, `"code":"wrong_server"`, ""},
		{"a body that is not JSON is refused", "PUT", path(up.ServerID, ""), "{", 400, `"code":"bad_request"`, "unexpected end"},
		{"a body that is too large is refused", "PUT", path(up.ServerID, ""), strings.Repeat("x", wire.MaxSpecBytes+1), 413, `"code":"too_large"`, ""},
		{"one server", "GET", path(down.ServerID, ""), nil, 200, `"state":"stopped"`, up.ServerID},
		{"a server that nobody has", "GET", path(serverID(9), ""), nil, 404, `"code":"unknown_server"`, ""},
		{"a name that is no id", "GET", path("..%2f..%2fetc", ""), nil, 404, `"code":"unknown_server"`, "root"},
		{"all servers", "GET", "/v1/servers", nil, 200, down.ServerID, ""},
		{"a sync answers with all", "PUT", "/v1/servers", wire.Sync{Specs: []wire.Spec{up, old}}, 200, `"state":"running"`, ""},
		{"a command", "POST", path(up.ServerID, "/command"), wire.Command{Line: "hi"}, 204, "", "x"},
		{"a command to a stopped server", "POST", path(down.ServerID, "/command"), wire.Command{Line: "hi"}, 409, `"code":"not_running"`, ""},
		{"a command that is too long", "POST", path(up.ServerID, "/command"), wire.Command{Line: strings.Repeat("x", wire.MaxCommandBytes+1)}, 413, `"code":"too_long"`, ""},
		{"a command to nobody", "POST", path(serverID(9), "/command"), wire.Command{Line: "hi"}, 404, `"code":"unknown_server"`, ""},
		{"a console without a WebSocket", "GET", path(up.ServerID, "/console"), nil, 400, `"code":"bad_request"`, ""},
		{"a console from a place that is no number", "GET", path(up.ServerID, "/console?after=x"), nil, 400, `"code":"bad_request"`, ""},
		{"a console of nobody", "GET", path(serverID(9), "/console"), nil, 404, `"code":"unknown_server"`, ""},
		{"health", "GET", "/v1/healthz", nil, 200, `"servers":2,"running":1,"engine":"fake 1"`, "error"},
		{"another method", "DELETE", path(up.ServerID, ""), nil, 405, "", ""},
		{"another route", "GET", "/v1/nothing", nil, 404, "", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			status, body := call(t, c.method, srv.URL+c.path, c.body)
			if status != c.status || !strings.Contains(body, c.want) || (c.absent != "" && strings.Contains(body, c.absent)) {
				t.Errorf("%d %s, want %d with %q and without %q", status, body, c.status, c.want, c.absent)
			}
			if status >= 400 && strings.Contains(body, r.dir) {
				t.Errorf("the answer names a path: %s", body)
			}
		})
	}
	r.m.SetAway(true)
	if status, body := call(t, "GET", srv.URL+"/v1/healthz", nil); status != 503 || !strings.Contains(body, "engine_error") {
		t.Errorf("health with the engine away: %d %s", status, body)
	}
	r.m.SetAway(false)
}

func dial(t *testing.T, srv *httptest.Server, id string, after int64) *websocket.Conn {
	t.Helper()
	url := fmt.Sprintf("ws%s/v1/servers/%s/console?after=%d", strings.TrimPrefix(srv.URL, "http"), id, after)
	conn, res, err := websocket.DefaultDialer.DialContext(t.Context(), url, nil)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	_ = res.Body.Close()
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// frames reads until one is as told, and returns all lines seen on the way.
func frames(t *testing.T, conn *websocket.Conn, what string, ok func(f wire.ConsoleFrame) bool) (lines []wire.ConsoleLine) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		var f wire.ConsoleFrame
		if err := conn.ReadJSON(&f); err != nil {
			t.Fatalf("no frame that is %s: %v", what, err)
		}
		lines = append(lines, f.Lines...)
		if ok(f) {
			return lines
		}
	}
}

func says(text string) func(f wire.ConsoleFrame) bool {
	return func(f wire.ConsoleFrame) bool {
		for _, l := range f.Lines {
			if l.Text == text {
				return true
			}
		}
		return false
	}
}

// lineOf is the place of a line among lines; -1 when it is not there.
func lineOf(lines []wire.ConsoleLine, stream wire.ConsoleStream, text string) int {
	return slices.IndexFunc(lines, func(l wire.ConsoleLine) bool { return l.Stream == stream && l.Text == text })
}

func isLive(f wire.ConsoleFrame) bool { return f.Live }

func TestTheConsoleOverAWebSocket(t *testing.T) {
	t.Parallel()
	r, srv := served(t)
	spec := running(1)
	r.apply(spec)
	r.untilState(spec.ServerID, 20*time.Second, wire.StateRunning)
	one, two := dial(t, srv, spec.ServerID, 0), dial(t, srv, spec.ServerID, 0)
	history := frames(t, one, "live", isLive)
	frames(t, two, "live", isLive)
	if err := one.WriteJSON(wire.ConsoleInput{Command: "hello"}); err != nil {
		t.Fatal(err)
	}
	more := frames(t, one, "the answer", says("you said hello"))
	frames(t, two, "the answer", says("you said hello"))
	streams := map[wire.ConsoleStream]bool{}
	for _, l := range append(history, more...) {
		streams[l.Stream] = true
	}
	typed, answered := lineOf(more, wire.StreamInput, "hello"), lineOf(more, wire.StreamOut, "you said hello")
	if typed < 0 || answered < typed {
		t.Errorf("what was typed is line %d, its answer line %d", typed, answered)
	}
	if !streams[wire.StreamOut] || !streams[wire.StreamSystem] || !streams[wire.StreamInput] {
		t.Errorf("streams %v, want the game's, ours and the input", streams)
	}
	again := dial(t, srv, spec.ServerID, history[len(history)-1].Seq)
	if got := frames(t, again, "live", isLive); got[0].Seq != history[len(history)-1].Seq+1 {
		t.Errorf("coming back, the first line is %d after %d", got[0].Seq, history[len(history)-1].Seq)
	}
	r.apply(stopped(spec))
	frames(t, two, "the change of state", func(f wire.ConsoleFrame) bool { return f.State == wire.StateStopped })
	if err := two.WriteJSON(wire.ConsoleInput{Command: "hello"}); err != nil {
		t.Fatal(err)
	}
	frames(t, two, "the refusal", func(f wire.ConsoleFrame) bool { return f.Error != nil && f.Error.Code == "not_running" })
	if err := two.WriteMessage(websocket.TextMessage, bytes.Repeat([]byte("x"), consoleReadLimit+1)); err != nil {
		t.Fatal(err)
	}
	if err := ends(two); err == nil {
		t.Errorf("a message beyond the bound is put up with")
	}
	gone := stopped(spec)
	r.apply(deleted(gone))
	if err := ends(one); err == nil {
		t.Errorf("a console goes on after the server is deleted")
	}
}

// ends reads until the connection ends, and says how; nil: it does not.
func ends(conn *websocket.Conn) error {
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			if strings.Contains(err.Error(), "i/o timeout") {
				return nil
			}
			return err
		}
	}
}

func TestStoppingWingsEndsConsolesAndLeavesTheGame(t *testing.T) {
	t.Parallel()
	r, srv := served(t)
	spec := running(1)
	r.apply(spec)
	r.untilState(spec.ServerID, 20*time.Second, wire.StateRunning)
	conn := dial(t, srv, spec.ServerID, 0)
	frames(t, conn, "live", isLive)
	r.agent.Stop()
	if err := ends(conn); err == nil {
		t.Errorf("the console goes on after wings has stopped")
	}
	if status, body := call(t, "PUT", srv.URL+"/v1/servers/"+spec.ServerID, spec); status != 503 || !strings.Contains(body, "stopping") {
		t.Errorf("a spec after the stop: %d %s", status, body)
	}
	if p, err := r.m.Process(gameName(spec.ServerID)); err != nil || p == nil {
		t.Errorf("the game: %v", err)
	}
}

func TestAReadinessPortDecides(t *testing.T) {
	t.Parallel()
	r, _ := served(t)
	spec := running(1)
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	defer srv.Close()
	spec.Ports[0].HostPort = must(portOf(srv.Listener.Addr().String()))
	spec.Ready = wire.Ready{TCPPort: 7777, TimeoutS: 20}
	r.apply(spec)
	o := r.until(spec.ServerID, 10*time.Second, "starting", func(o wire.Observed) bool { return o.State == wire.StateStarting && o.ContainerID != "" })
	if o.Settled {
		t.Errorf("starting is settled")
	}
	srv.Start()
	r.untilState(spec.ServerID, 10*time.Second, wire.StateRunning)
}

func TestAConnectionThatIsClosedAtOnceIsTheEnginesProxyOnly(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		serve func(c net.Conn)
		want  bool
	}{
		{"closed at once: a proxy without a game", func(c net.Conn) { _ = c.Close() }, false},
		{"kept open in silence: a game that waits", func(net.Conn) {}, true},
		{"a greeting: a game that talks", func(c net.Conn) { _, _ = c.Write([]byte("hi")) }, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			near, far := net.Pipe()
			defer near.Close()
			defer far.Close()
			s := &server{a: &Agent{cfg: Config{Dial: func(context.Context, string, string) (net.Conn, error) { return near, nil }}}}
			served := make(chan struct{})
			go func() { c.serve(far); close(served) }()
			if got := s.accepts(t.Context(), "127.0.0.1:1"); got != c.want {
				t.Errorf("accepts is %v, want %v", got, c.want)
			}
			<-served
		})
	}
}

func portOf(addr string) (int, error) {
	var port int
	_, err := fmt.Sscanf(addr[strings.LastIndex(addr, ":")+1:], "%d", &port)
	return port, err
}

func TestWhereAReadinessPortIsReached(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, ip, want string
	}{
		{"an address is dialled as it is", "127.0.0.5", "127.0.0.5:20001"},
		{"every address is dialled on the loopback", "0.0.0.0", "127.0.0.1:20001"},
		{"none is dialled on the loopback", "", "127.0.0.1:20001"},
		{"every IPv6 address is dialled on the loopback", "::", "[::1]:20001"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			spec := running(1)
			spec.Ports[0].HostIP, spec.Ready.TCPPort = c.ip, 7777
			if got := readyAddress(&spec); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}
