package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/wings/wire"
)

// sentence fails when a person could not read a message, or would read what is inside of us.
func sentence(t *testing.T, what, message string) {
	t.Helper()
	if len(message) < 12 || !strings.HasSuffix(message, ".") || strings.ContainsAny(message, "{}\n") {
		t.Errorf("%s: somebody reads %q", what, message)
	}
	for _, inner := range []string{"sql:", "json:", "goroutine", "/v1/", "panic"} {
		if strings.Contains(message, inner) {
			t.Errorf("%s: somebody reads %q in %q", what, inner, message)
		}
	}
}

// ask sends raw bytes to the node listener and returns the refusal.
func (p *panel) ask(t *testing.T, c *http.Client, method, path, body string) *wire.Error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+p.Addr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	refused := &wire.Error{}
	if err := json.Unmarshal(raw, refused); err != nil && res.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, raw)
	}
	refused.Status = res.StatusCode
	return refused
}

// rows counts a whole table.
func rows(t *testing.T, app core.App, table string) int {
	t.Helper()
	n, err := app.CountRecords(table)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// Whatever a node sends that is not what a route is for is answered with a code and a sentence, and
// changes nothing of what the panel knows.
func TestWhatANodeSendsWronglyIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m, other := p.enrolNode(t, "node-a"), p.enrolNode(t, "node-b")
	if status := p.beat(t, &m.cert, m.id); status != http.StatusOK {
		t.Fatalf("a good heartbeat: %d", status)
	}
	before, audits := p.node(t, m.id), rows(t, p.app, collections.AuditLogs)
	own, large := "/v1/nodes/"+m.id+"/", strings.Repeat("x", maxSmallBody+1)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		code                     string
	}{
		{"a heartbeat that is no JSON", "POST", own + "heartbeat", "I live", 400, "invalid"},
		{"a heartbeat of nothing", "POST", own + "heartbeat", "", 400, "invalid"},
		{"a heartbeat with words for numbers", "POST", own + "heartbeat", `{"version":"one"}`, 400, "invalid"},
		{"a heartbeat cut off in the middle", "POST", own + "heartbeat", `{"version":1,`, 400, "invalid"},
		{"a heartbeat that is too large", "POST", own + "heartbeat", `{"release":"` + large + `"}`, 413, "too_large"},
		{"a heartbeat of another node", "POST", "/v1/nodes/" + other.id + "/heartbeat", `{"version":1}`, 403, ""},
		{"a heartbeat of nobody's", "POST", "/v1/nodes/nosuchnode00001/heartbeat", `{"version":1}`, 403, ""},
		{"events that are no JSON", "POST", own + "events", "crash!", 400, "invalid"},
		{"events without a spool", "POST", own + "events", `{"events":[{"seq":1,"kind":"crash"}]}`, 400, "batch_invalid"},
		{"events of another node", "POST", "/v1/nodes/" + other.id + "/events", `{"spool_id":"A"}`, 403, ""},
		{"a renewal that is no JSON", "POST", "/v1/renew", "please", 400, "invalid"},
		{"a renewal without a key", "POST", "/v1/renew", `{"csr":""}`, 400, ""},
		{"a renewal with a text for a key", "POST", "/v1/renew", `{"csr":"-----BEGIN LETTER-----"}`, 400, ""},
		{"a renewal that is too large", "POST", "/v1/renew", `{"csr":"` + large + `"}`, 413, "too_large"},
		{"a link without an upgrade", "GET", own + "link?kind=control", "", 400, "upgrade_required"},
		{"the link of another node", "GET", "/v1/nodes/" + other.id + "/link?kind=control", "", 403, ""},
		{"a route that is not", "GET", "/v1/servers", "", 404, "not_found"},
		{"the wrong method", "DELETE", own + "heartbeat", "", 404, "not_found"},
	} {
		got := p.ask(t, p.client(&m.cert), c.method, c.path, c.body)
		if got.Status != c.status || got.Code == "" || c.code != "" && got.Code != c.code {
			t.Errorf("%s: %d %s, want %d %s", c.name, got.Status, got.Code, c.status, c.code)
		}
		sentence(t, c.name, got.Message)
	}
	after := p.node(t, m.id)
	if after.Rev() != before.Rev() || after.SpoolID() != "" || after.AckedSeq() != 0 || after.GetString("heartbeat") != before.GetString("heartbeat") ||
		after.CertFingerprint() != before.CertFingerprint() || after.CertNextFingerprint() != "" {
		t.Errorf("the node is %+v, was %+v", after.PublicExport(), before.PublicExport())
	}
	if n := p.node(t, other.id); !n.LastHeartbeat().IsZero() {
		t.Error("one node's heartbeat counted for another")
	}
	if n := rows(t, p.app, collections.AuditLogs); n != audits {
		t.Errorf("%d audit rows for nothing", n-audits)
	}
	if len(told(p.placed, func(p *placements) []wire.CrashReport { return p.crashes })) != 0 {
		t.Error("an event of a batch that was refused had its effect")
	}
	if status := p.beat(t, &m.cert, m.id); status != http.StatusOK {
		t.Errorf("after all that the node is refused: %d", status)
	}
}

// The operators' routes: every wrong request has a code and a sentence, names the field to blame, and
// writes neither row nor audit.
func TestWhatAnOperatorSendsWronglyIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	id, _ := a.addNode(t, "node-a")
	a.addNode(t, "node-b")
	a.placed.servers = 3
	before, audits, events := a.node(t, id), rows(t, a.app, collections.AuditLogs), rows(t, a.app, collections.Events)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		field                    string // the one to blame; "": none
	}{
		{"a node that is no JSON", "POST", "", "a node, please", 400, ""},
		{"a node that is a list", "POST", "", `[{"name":"x"}]`, 400, ""},
		{"a node with a field twice over", "POST", "", goodNode + goodNode, 400, ""},
		{"an edit that is no JSON", "PATCH", "/" + id, "{", 400, ""},
		{"an edit of what is not the operator's", "PATCH", "/" + id, `{"status":"ONLINE"}`, 400, "status"},
		{"an edit of the fingerprint", "PATCH", "/" + id, `{"cert_fingerprint":"00"}`, 400, "cert_fingerprint"},
		{"an edit to another's name", "PATCH", "/" + id, `{"name":"node-b"}`, 400, "name"},
		{"an edit to no address", "PATCH", "/" + id, `{"public_addresses":[]}`, 400, "public_addresses"},
		{"an edit to too many addresses", "PATCH", "/" + id, `{"public_addresses":["` + strings.Join(strings.Fields(strings.Repeat("a ", maxAddresses+1)), `","`) + `"]}`, 400, "public_addresses"},
		{"an edit to a disk of nothing", "PATCH", "/" + id, `{"disk_mib":0}`, 400, "disk_mib"},
		{"an edit to overcommit of memory beyond sense", "PATCH", "/" + id, `{"overcommit_memory_percent":100000}`, 400, "overcommit_memory_percent"},
		{"a mode in small letters", "POST", "/" + id + "/mode", `{"mode":"draining"}`, 400, "mode"},
		{"a mode of nothing", "POST", "/" + id + "/mode", `{}`, 400, "mode"},
		{"a mode that is no JSON", "POST", "/" + id + "/mode", `DRAINING`, 400, ""},
		{"a delete with servers", "DELETE", "/" + id, "", 409, ""},
		{"a delete whose force is none", "DELETE", "/" + id + "?force=very", "", 400, "force"},
		{"a node that is not", "GET", "/nosuchnode00001", "", 404, ""},
		{"an edit of a node that is not", "PATCH", "/nosuchnode00001", `{"location":"x"}`, 404, ""},
		{"the mode of a node that is not", "POST", "/nosuchnode00001/mode", `{"mode":"DRAINING"}`, 404, ""},
		{"a token for a node that is not", "POST", "/nosuchnode00001/join-token", "{}", 404, ""},
		{"a delete of a node that is not", "DELETE", "/nosuchnode00001?force=true", "", 404, ""},
		{"a node with an id of another kind", "PATCH", "/x'%20OR%201=1", `{"location":"x"}`, 404, ""},
	} {
		status, body := a.call(t, c.method, c.path, a.operator, c.body)
		var out struct {
			Code, Message string
			Data          map[string]struct{ Code, Message string }
		}
		if err := json.Unmarshal([]byte(body), &out); err != nil {
			t.Fatalf("%s: %d %s", c.name, status, body)
		}
		if status != c.status || out.Code == "" {
			t.Errorf("%s: %d %s, want %d and a code", c.name, status, body, c.status)
		}
		sentence(t, c.name, out.Message)
		if c.field != "" && (len(out.Data) != 1 || out.Data[c.field].Code == "") {
			t.Errorf("%s: to blame are %v, want %s", c.name, out.Data, c.field)
		}
	}
	if after := a.node(t, id); after.Rev() != before.Rev() || after.Name() != "node-a" || after.Mode() != modeActive || !after.JoinExpiresAt().Equal(before.JoinExpiresAt()) {
		t.Errorf("the node is %+v", after.PublicExport())
	}
	if n := rows(t, a.app, collections.Nodes); n != 2 {
		t.Errorf("there are %d nodes", n)
	}
	if x, y := rows(t, a.app, collections.AuditLogs)-audits, rows(t, a.app, collections.Events)-events; x != 0 || y != 0 {
		t.Errorf("%d audit rows and %d events about nothing", x, y)
	}
}

// What a node answers is not trusted to be small, whole, or in time.
func TestAnswersOfANodeAreBounded(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	hang := make(chan struct{})
	mux := syncing()
	mux.HandleFunc("GET /v1/large", func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range maxNodeAnswer>>20 + 1 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("GET /v1/short", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"a":`)
	})
	mux.HandleFunc("GET /v1/hangs", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("GET /v1/bare", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	mux.HandleFunc("GET /v1/empty", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	w := p.joinWings(t, "node-a", mux)
	defer close(hang)
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return p.Linked(w.NodeID()) })
	do := func(ctx context.Context, path string, out any) error {
		return p.Do(ctx, w.NodeID(), "GET", path, nil, out)
	}

	var v map[string]any
	if err := do(t.Context(), "/v1/large", &v); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("an answer without end: %v", err)
	}
	if err := do(t.Context(), "/v1/short", &v); err == nil {
		t.Error("half an answer was taken for a whole one")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := do(ctx, "/v1/hangs", &v); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNodeOffline) {
		t.Errorf("a caller that gave up: %v", err)
	}
	var refused *wire.Error
	if err := do(t.Context(), "/v1/bare", &v); !errors.As(err, &refused) || refused.Status != http.StatusTeapot || refused.Code != "unknown" {
		t.Errorf("a refusal without a body: %v", err)
	}
	if err := do(t.Context(), "/v1/empty", nil); err != nil {
		t.Errorf("an answer of nothing where nothing is expected: %v", err)
	}
	if !p.Linked(w.NodeID()) {
		t.Error("one bad answer cost the link")
	}
	if err := p.Do(t.Context(), w.NodeID(), "GET", "/v1/servers", make(chan int), nil); err == nil {
		t.Error("what cannot be encoded was sent")
	}
	if err := p.Do(t.Context(), w.NodeID(), "G E T", "/v1/servers", nil, nil); err == nil {
		t.Error("a method that is none was sent")
	}
}

// Consoles of a node are bounded; one that is refused, or closed, gives its place back.
func TestConsolesPerNodeAreBounded(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	mux := syncing()
	upgrader := websocket.Upgrader{}
	mux.HandleFunc("GET /v1/servers/{id}/console", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != serverID(1) {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(wire.Error{Code: "unknown_server", Message: "No."})
			return
		}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		_, _, _ = conn.ReadMessage() // until it is closed
	})
	w := p.joinWings(t, "node-a", mux)
	mustStart(t.Context(), w)
	eventually(t, "linked", func() bool { return p.Linked(w.NodeID()) })
	slots := p.links.linked(w.NodeID())
	var refused *wire.Error
	for range cap(slots.consoles) + 5 {
		if _, err := p.Console(t.Context(), w.NodeID(), serverID(2), 0); !errors.As(err, &refused) || refused.Code != "unknown_server" {
			t.Fatalf("a console of a server that is not there: %v", err)
		}
	}
	one, err := p.Console(t.Context(), w.NodeID(), serverID(1), 7)
	if err != nil {
		t.Fatal(err)
	}
	for len(slots.consoles) < cap(slots.consoles) {
		slots.consoles <- struct{}{} // others have theirs open
	}
	if _, err := p.Console(t.Context(), w.NodeID(), serverID(1), 0); !errors.Is(err, ErrTooManyConsoles) {
		t.Errorf("one console too many: %v", err)
	}
	one.Close()
	one.Close() // gives one place back, not two
	again, err := p.Console(t.Context(), w.NodeID(), serverID(1), 0)
	if err != nil {
		t.Fatalf("after one was closed: %v", err)
	}
	defer again.Close()
	if _, err := p.Console(t.Context(), w.NodeID(), serverID(1), 0); !errors.Is(err, ErrTooManyConsoles) {
		t.Errorf("a console that was closed twice made room for two: %v", err)
	}
}

// A panel that cannot read its database answers that it cannot now, and the node keeps what it has to
// say.
func TestATroubledPanelAsksTheNodeToTryAgain(t *testing.T) {
	t.Parallel()
	p := startPanel(t)
	m := p.enrolNode(t, "node-a")
	p.placed.fail = func(string) error { return fmt.Errorf("the disk is full: %w", errBroken) }
	batch, err := json.Marshal(wire.EventBatch{SpoolID: "A", Events: []wire.Event{crash(1, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	got := p.ask(t, p.client(&m.cert), "POST", "/v1/nodes/"+m.id+"/events", string(batch))
	if got.Status != http.StatusServiceUnavailable || got.Code != "unavailable" || strings.Contains(got.Message, "disk") {
		t.Errorf("it is answered %d %s %q", got.Status, got.Code, got.Message)
	}
	sentence(t, "a node", got.Message)
	if n := p.node(t, m.id); n.AckedSeq() != 0 || count(t, p.app, collections.Incidents, dbx.HashExp{"kind": "node.event_skipped"}) != 0 {
		t.Errorf("event %d is acknowledged although nothing came of it", n.AckedSeq())
	}
	p.placed.fail = nil
	var ack wire.EventAck
	if status := p.postRaw(t, p.client(&m.cert), "/v1/nodes/"+m.id+"/events", string(batch), &ack); status != http.StatusOK || ack.AckedSeq != 1 {
		t.Errorf("the next try: %d, acknowledged %d", status, ack.AckedSeq)
	}
	if n := len(told(p.placed, func(p *placements) []wire.CrashReport { return p.crashes })); n != 1 {
		t.Errorf("the event had its effect %d times", n)
	}
}
