package access

import (
	"context"
	"crypto/rand"
	"encoding/json/v2"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/hook"
	"github.com/pocketbase/pocketbase/tools/picker"
	"github.com/pocketbase/pocketbase/tools/router"
)

// MaxBodyBytes is how large the body of a request to /api/v1 may be, unless its route binds another
// apis.BodyLimit.
const MaxBodyBytes = 1 << 20

// RequestIDHeader carries the id of a request in its answer; it is also in every error body, in the
// log and in the audit row. One sent by a client is ignored: it could not be trusted in a log.
const RequestIDHeader = "X-Request-Id"

const (
	doorID       = "mamba.access.door"
	doorPriority = -2000 // outside of everything that PocketBase binds, so that its errors get our shape too
	requestIDKey = "mamba.access.request"
	unknownPath  = "/{mambaUnknown...}"
)

// doorMethods are the methods for which an unknown path is answered in our shape. They are listed,
// not "any", because net/http refuses "/api/v1/{x...}" beside the web app's "GET /{path...}".
// Known issue: an invented method ("FOO") is answered by PocketBase's own 404.
var doorMethods = []string{
	http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, "SEARCH",
}

// Door makes g, whose prefix must be the whole "/api/v1", the one door of customers: request ids,
// one shape for every error (PocketBase's and panics included), no caching, a body limit, and JSON
// answers for unknown paths (404) and methods (405 with Allow).
func Door(g *router.RouterGroup[*core.RequestEvent]) {
	g.Bind(&hook.Handler[*core.RequestEvent]{Id: doorID, Priority: doorPriority, Func: door})
	g.Bind(apis.BodyLimit(MaxBodyBytes)) // replaces PocketBase's 32 MiB: same id
	unknown := unknownRoute(g)
	for _, m := range doorMethods {
		g.Route(m, unknownPath, unknown)
		g.Route(m, "", unknown)
	}
}

func door(e *core.RequestEvent) error {
	id := strings.ToLower(rand.Text())
	e.Set(requestIDKey, id)
	h := e.Response.Header()
	h.Set(RequestIDHeader, id)
	h.Set("Cache-Control", "no-store")
	err := pickable(e)
	if err == nil {
		err = e.Next()
	}
	if err == nil {
		return nil
	}
	answer := toError(err)
	gone := errors.Is(err, context.Canceled) && e.Request.Context().Err() != nil
	if answer.Status >= 500 && !gone {
		e.App.Logger().Error("request failed", "request", id, "method", e.Request.Method, "path", e.Request.URL.Path, "status", answer.Status, "error", err)
	}
	if e.Written() {
		return nil // the answer had begun; the client sees it end early
	}
	return writeError(e, id, answer)
}

// pickable refuses a list of fields that PocketBase could not read when it writes the answer: by then a
// change has happened.
func pickable(e *core.RequestEvent) error {
	list := e.Request.URL.Query().Get("fields")
	if list == "" {
		return nil
	}
	if _, err := picker.Pick(struct{}{}, list); err != nil {
		return Invalid(map[string]FieldError{"fields": {Code: "invalid", Message: "This is no list of fields. Separate their names by commas, or leave it out."}})
	}
	return nil
}

func writeError(e *core.RequestEvent, id string, answer *Error) error {
	data := answer.Data
	if data == nil {
		data = map[string]FieldError{}
	}
	body, err := json.Marshal(struct {
		Status    int                   `json:"status"`
		Message   string                `json:"message"`
		Data      map[string]FieldError `json:"data"`
		Code      string                `json:"code"`
		RequestID string                `json:"request_id"`
	}{answer.Status, answer.Message, data, answer.Code, id}, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("encode the error of request %s: %w", id, err)
	}
	h := e.Response.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store") // a handler may have allowed caching before it failed
	if answer.Retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(answer.Retry.Seconds()))))
	}
	e.Response.WriteHeader(answer.Status)
	if e.Request.Method == http.MethodHead {
		return nil
	}
	_, err = e.Response.Write(body)
	return err
}

// RequestID returns the id that the door gave to a request; "" outside of the door.
func RequestID(e *core.RequestEvent) string {
	id, _ := e.Get(requestIDKey).(string)
	return id
}

// unknownRoute answers a path that no room has registered, or a method that its path does not take.
func unknownRoute(g *router.RouterGroup[*core.RequestEvent]) func(*core.RequestEvent) error {
	// The group's routes are all there before the first request is served, so the table is made at
	// the first unknown path, from a copy: BuildMux may add a route to what it is given.
	table := sync.OnceValues(func() (http.Handler, error) {
		shadow := *g
		return (&router.Router[*core.RequestEvent]{RouterGroup: &shadow}).BuildMux()
	})
	return func(e *core.RequestEvent) error {
		handler, err := table()
		if err != nil {
			return fmt.Errorf("list the routes of %s: %w", g.Prefix, err)
		}
		if allow := allowed(handler.(*http.ServeMux), g.Prefix, e.Request); len(allow) > 0 {
			e.Response.Header().Set("Allow", strings.Join(allow, ", "))
			return &Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Message: fmt.Sprintf("%s is not possible here. This address takes %s.", e.Request.Method, strings.Join(allow, ", "))}
		}
		return NotFound("not_found", "There is nothing at this address.")
	}
}

// allowed returns the methods that a room takes at the path of r.
func allowed(mux *http.ServeMux, prefix string, r *http.Request) []string {
	var out []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe := &http.Request{Method: m, URL: r.URL, Host: r.Host}
		_, pattern := mux.Handler(probe)
		own, isOurs := strings.CutPrefix(pattern, m+" "+prefix)
		if isOurs && own != unknownPath && own != "" && own != "/" {
			out = append(out, m)
		}
	}
	return out
}
