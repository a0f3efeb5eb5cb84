package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of the handler.
const (
	maxSyncBytes     = 64 << 20         // PUT /v1/servers
	maxCommandBody   = 16 << 10         // POST …/command; a command of 4 KiB, every byte escaped, fits
	consoleReadLimit = maxCommandBody   // one WebSocket message of a viewer
	consoleWriteWait = 10 * time.Second // for one frame; a viewer that takes longer is let go
	consolePing      = 30 * time.Second
	consolePong      = 75 * time.Second // silence after which a viewer is let go
	consoleErrors    = 8                // refusals waiting to be shown; then its reader waits
	healthTimeout    = 5 * time.Second
)

// Handler serves the routes of the link below wire.APIPrefix. Whoever mounts it has authenticated
// the panel; nothing here asks who it is.
//
//	PUT  /v1/servers                wire.Sync → wire.SyncReply
//	GET  /v1/servers                → wire.SyncReply
//	PUT  /v1/servers/{id}           wire.Spec → wire.Observed; 409 superseded, 422 invalid_spec
//	GET  /v1/servers/{id}           → wire.Observed; 404 unknown_server
//	POST /v1/servers/{id}/command   wire.Command → 204; 409 not_running, 429 too_fast, 413 too_long
//	GET  /v1/servers/{id}/console   ?after=Seq; WebSocket of wire.ConsoleFrame and wire.ConsoleInput
//	GET  /v1/healthz                → Health
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+wire.APIPrefix+"/servers", a.putServers)
	mux.HandleFunc("GET "+wire.APIPrefix+"/servers", a.getServers)
	mux.HandleFunc("PUT "+wire.APIPrefix+"/servers/{id}", a.putServer)
	mux.HandleFunc("GET "+wire.APIPrefix+"/servers/{id}", a.getServer)
	mux.HandleFunc("POST "+wire.APIPrefix+"/servers/{id}/command", a.postCommand)
	mux.HandleFunc("GET "+wire.APIPrefix+"/servers/{id}/console", a.getConsole)
	mux.HandleFunc("GET "+wire.APIPrefix+"/healthz", a.getHealth)
	return mux
}

// Health is the answer of GET /v1/healthz.
type Health struct {
	Servers     int      `json:"servers"`
	Running     int      `json:"running"`
	Damaged     []string `json:"damaged,omitempty"` // servers whose files cannot be read
	Engine      string   `json:"engine,omitempty"`  // name and version; empty while it is away
	EngineError string   `json:"engine_error,omitempty"`
}

// Health looks at the agent and asks the engine who it is.
func (a *Agent) Health(ctx context.Context) Health {
	var h Health
	for _, s := range a.all() {
		h.Servers++
		if s.running() {
			h.Running++
		}
	}
	a.mu.Lock()
	h.Damaged = append(h.Damaged, a.damaged...)
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	info, err := a.engine.Info(ctx, OpInfo)
	if err != nil {
		h.EngineError = err.Error()
		return h
	}
	h.Engine = info.Name + " " + info.Version
	return h
}

func (a *Agent) getHealth(w http.ResponseWriter, r *http.Request) {
	h := a.Health(r.Context())
	status := http.StatusOK
	if h.Engine == "" {
		status = http.StatusServiceUnavailable
	}
	reply(w, status, h)
}

func (a *Agent) putServers(w http.ResponseWriter, r *http.Request) {
	var sync wire.Sync
	if !decode(w, r, maxSyncBytes, &sync) {
		return
	}
	if len(sync.Specs) > wire.MaxSyncSpecs {
		fail(w, http.StatusRequestEntityTooLarge, "too_many", "A sync names too many servers.")
		return
	}
	known, err := a.Sync(r.Context(), sync)
	if errors.Is(err, ErrStopped) {
		failWith(w, err)
		return
	}
	if err != nil { // each is seen in the reply by what it is not
		a.log.Warn("sync", "error", err)
	}
	reply(w, http.StatusOK, known)
}

func (a *Agent) getServers(w http.ResponseWriter, r *http.Request) {
	known, err := a.List()
	if err != nil {
		failWith(w, err)
		return
	}
	reply(w, http.StatusOK, known)
}

func (a *Agent) putServer(w http.ResponseWriter, r *http.Request) {
	var spec wire.Spec
	if !decode(w, r, wire.MaxSpecBytes, &spec) {
		return
	}
	if spec.ServerID != r.PathValue("id") {
		fail(w, http.StatusBadRequest, "wrong_server", "The spec is of another server than the path.")
		return
	}
	o, err := a.Apply(r.Context(), spec)
	if err != nil {
		failWith(w, err)
		return
	}
	reply(w, http.StatusOK, o)
}

func (a *Agent) getServer(w http.ResponseWriter, r *http.Request) {
	o, err := a.Get(r.PathValue("id"))
	if err != nil {
		failWith(w, err)
		return
	}
	reply(w, http.StatusOK, o)
}

func (a *Agent) postCommand(w http.ResponseWriter, r *http.Request) {
	var c wire.Command
	if !decode(w, r, maxCommandBody, &c) {
		return
	}
	if err := a.Command(r.Context(), r.PathValue("id"), c.Line); err != nil {
		failWith(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// refusals are the errors that have an answer of their own, with the sentence that says what to do.
var refusals = []struct {
	err     error
	status  int
	code    string
	message string
}{
	{ErrInvalid, http.StatusUnprocessableEntity, "invalid_spec", ""},
	{ErrSuperseded, http.StatusConflict, wire.ProblemSuperseded, "The node has seen a newer placement of this server."},
	{ErrUnknown, http.StatusNotFound, "unknown_server", "The node does not have this server."},
	{ErrNotRunning, http.StatusConflict, "not_running", "The server is not running. Start it, then send the command."},
	{ErrTooFast, http.StatusTooManyRequests, "too_fast", "Too many commands at once. Wait a second and send it again."},
	{ErrTooLong, http.StatusRequestEntityTooLarge, "too_long", "The command is longer than 4,096 bytes."},
	{ErrTooMany, http.StatusTooManyRequests, "too_many_viewers", "Too many people watch this console. Close one and try again."},
	{ErrStopped, http.StatusServiceUnavailable, "stopping", "The node is restarting. Try again in a moment."},
}

func errorOf(err error) wire.Error {
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			e := wire.Error{Status: r.status, Code: r.code, Message: r.message}
			if e.Message == "" { // the panel's fault, for its log
				e.Message = err.Error()
			}
			return e
		}
	}
	return wire.Error{Status: http.StatusInternalServerError, Code: "internal", Message: "The node could not do this. Its log says why."}
}

func failWith(w http.ResponseWriter, err error) {
	e := errorOf(err)
	fail(w, e.Status, e.Code, e.Message)
}

func fail(w http.ResponseWriter, status int, code, message string) {
	if len(message) > wire.MaxMessageBytes {
		message = message[:wire.MaxMessageBytes]
	}
	reply(w, status, wire.Error{Status: status, Code: code, Message: message})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the peer is gone; nobody is left to tell
}

// decode reads one JSON value of bounded size, and answers for what it refuses.
func decode(w http.ResponseWriter, r *http.Request, limit int64, v any) bool {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, "too_large", "The body is larger than this route takes.")
		return false
	}
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", "The body is not the JSON this route takes.")
		return false
	}
	return true
}

var upgrader = websocket.Upgrader{HandshakeTimeout: consoleWriteWait, ReadBufferSize: 4 << 10, WriteBufferSize: 16 << 10,
	Error: func(w http.ResponseWriter, r *http.Request, status int, reason error) {
		fail(w, status, "bad_request", "The console is a WebSocket: "+reason.Error())
	}}
