package access_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/hooks/access"
)

const secretCause = "dial tcp 10.0.0.7:5432: password authentication failed"

func oddRoutes(p *panel, g *router.RouterGroup[*core.RequestEvent]) {
	g.GET("/things/{id}", func(e *core.RequestEvent) error {
		return e.JSON(200, map[string]string{"id": e.Request.PathValue("id")})
	})
	g.DELETE("/things/{id}", func(e *core.RequestEvent) error { return e.NoContent(204) })
	g.GET("/unknown-error", func(*core.RequestEvent) error { return errors.New(secretCause) })
	g.GET("/wrapped", func(*core.RequestEvent) error {
		return fmt.Errorf("create server: %w", access.Conflict("node_full", "The node is full.").Because(errors.New(secretCause)))
	})
	g.GET("/panic", func(*core.RequestEvent) error { panic(secretCause) })
	g.GET("/pocketbase", func(e *core.RequestEvent) error {
		return e.BadRequestError("Bad things.", map[string]string{"name": "x"})
	})
	g.GET("/pocketbase-500", func(e *core.RequestEvent) error { return e.InternalServerError("it was "+secretCause, nil) })
	g.GET("/slow-down", func(*core.RequestEvent) error {
		return access.TooMany("too_many_tries", "Please wait.", 1500*time.Millisecond)
	})
	g.GET("/cached", func(e *core.RequestEvent) error {
		e.Response.Header().Set("Cache-Control", "max-age=60")
		return access.NotFound("not_found", "Gone.")
	})
	g.GET("/half", func(e *core.RequestEvent) error {
		if err := e.JSON(200, map[string]int{"n": 1}); err != nil {
			return err
		}
		return errors.New(secretCause)
	})
	g.POST("/bind", func(e *core.RequestEvent) error {
		var in struct {
			Name   string `json:"name"`
			Limits struct {
				Memory int64 `json:"memory_mib"`
			} `json:"limits"`
			Tags  []string `json:"tags"`
			Start bool     `json:"start"`
		}
		if err := access.Bind(e, &in); err != nil {
			return err
		}
		raw, err := access.Body(e)
		if err != nil {
			return err
		}
		return e.JSON(200, map[string]any{"name": in.Name, "memory": in.Limits.Memory, "bytes": len(raw)})
	})
}

func TestDoorAnswersEveryErrorInOneShape(t *testing.T) {
	t.Parallel()
	p := newPanel(t, oddRoutes)
	for _, c := range []struct {
		name, method, path string
		status             int
		code               string
	}{
		{"an unknown error is ours to explain", "GET", "/api/v1/unknown-error", 500, "internal"},
		{"an error of ours survives wrapping", "GET", "/api/v1/wrapped", 409, "node_full"},
		{"a panic is a 500 with an id", "GET", "/api/v1/panic", 500, "internal"},
		{"an error of PocketBase keeps its status", "GET", "/api/v1/pocketbase", 400, "bad_request"},
		{"PocketBase's own text of a 500 is not shown", "GET", "/api/v1/pocketbase-500", 500, "internal"},
		{"too many carries a wait", "GET", "/api/v1/slow-down", 429, "too_many_tries"},
		{"an error is never cached", "GET", "/api/v1/cached", 404, "not_found"},
		{"an unknown path", "GET", "/api/v1/nothing/here", 404, "not_found"},
		{"an unknown path with another method", "PUT", "/api/v1/nothing", 404, "not_found"},
		{"the bare prefix", "GET", "/api/v1", 404, "not_found"},
		{"the bare prefix with a slash", "POST", "/api/v1/", 404, "not_found"},
		{"a wrong method", "POST", "/api/v1/things/7", 405, "method_not_allowed"},
		{"a missing token", "GET", "/api/v1/account", 401, "unauthenticated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rec := p.call(c.method, c.path, "", "", access.RequestIDHeader, "forged")
			s := refused(t, rec, c.status, c.code)
			if strings.Contains(rec.Body.String(), "10.0.0.7") || strings.Contains(rec.Body.String(), "goroutine") {
				t.Errorf("the cause was shown: %s", rec.Body)
			}
			if s.RequestID == "forged" {
				t.Error("took the client's request id")
			}
		})
	}
	if got := p.call("POST", "/api/v1/things/7", "", "").Header().Get("Allow"); got != "GET, DELETE" {
		t.Errorf("Allow %q", got)
	}
	if got := p.call("GET", "/api/v1/slow-down", "", "").Header().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After %q", got)
	}
	if s := refused(t, p.call("GET", "/api/v1/pocketbase", "", ""), 400, "bad_request"); s.Data["name"].Code == "" {
		t.Errorf("PocketBase's field errors are lost: %v", s)
	}
}

func TestDoorLeavesGoodAnswersAlone(t *testing.T) {
	t.Parallel()
	p := newPanel(t, oddRoutes)
	rec := p.call("GET", "/api/v1/things/7", "", "")
	if rec.Code != 200 || strings.TrimSpace(rec.Body.String()) != `{"id":"7"}` || rec.Header().Get("Cache-Control") != "no-store" || len(rec.Header().Get(access.RequestIDHeader)) != 26 {
		t.Errorf("%d %s %v", rec.Code, rec.Body, rec.Header())
	}
	if a, b := rec.Header().Get(access.RequestIDHeader), p.call("GET", "/api/v1/things/7", "", "").Header().Get(access.RequestIDHeader); a == b {
		t.Errorf("two requests have the id %s", a)
	}
	if rec := p.call("GET", "/api/v1/half", "", ""); rec.Code != 200 || strings.Contains(rec.Body.String(), "internal") {
		t.Errorf("an answer that had begun got an error appended: %s", rec.Body)
	}
	if rec := p.call("HEAD", "/api/v1/nothing", "", ""); rec.Code != 404 || rec.Body.Len() != 0 {
		t.Errorf("HEAD: %d %q", rec.Code, rec.Body)
	}
	if rec := p.call("GET", "/servers", "", ""); rec.Body.String() != "the web app" {
		t.Errorf("a page of the web app: %d %s", rec.Code, rec.Body)
	}
	if rec := p.call("GET", "/api/collections/users/records/x", "", ""); strings.Contains(rec.Body.String(), "request_id") {
		t.Errorf("PocketBase's own routes changed their shape: %s", rec.Body)
	}
}

func TestBindIsStrict(t *testing.T) {
	t.Parallel()
	p := newPanel(t, oddRoutes)
	for _, c := range []struct {
		name, body  string
		status      int
		code, field string
	}{
		{"an unknown field", `{"name":"a","admin":true}`, 400, "invalid_input", "admin"},
		{"an unknown field inside", `{"limits":{"memory":1}}`, 400, "invalid_input", "limits.memory"},
		{"text for a number", `{"limits":{"memory_mib":"1"}}`, 400, "invalid_input", "limits.memory_mib"},
		{"a fraction for a whole number", `{"limits":{"memory_mib":1.5}}`, 400, "invalid_input", "limits.memory_mib"},
		{"a number that does not fit", `{"limits":{"memory_mib":99999999999999999999}}`, 400, "invalid_input", "limits.memory_mib"},
		{"an object for text", `{"name":{"$ne":1}}`, 400, "invalid_input", "name"},
		{"a number within a list of text", `{"tags":["a",1]}`, 400, "invalid_input", "tags.1"},
		{"text for true", `{"start":"true"}`, 400, "invalid_input", "start"},
		{"other casing", `{"Name":"a"}`, 400, "invalid_input", "Name"},
		{"the same field twice", `{"name":"a","name":"b"}`, 400, "invalid_json", ""},
		{"half an object", `{"name":`, 400, "invalid_json", ""},
		{"two objects", `{} {}`, 400, "invalid_json", ""},
		{"a list", `[]`, 400, "invalid_json", ""},
		{"null", `null`, 400, "invalid_json", ""},
		{"nothing", ``, 400, "invalid_json", ""},
		{"bytes that are no text", "{\"name\":\"\xff\"}", 400, "invalid_json", ""},
		{"a body over the limit", `{"name":"` + strings.Repeat("a", access.MaxBodyBytes) + `"}`, 413, "body_too_large", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := refused(t, p.call("POST", "/api/v1/bind", "", c.body), c.status, c.code)
			if _, ok := s.Data[c.field]; c.field != "" && !ok {
				t.Errorf("field %s is not blamed: %v", c.field, s.Data)
			}
		})
	}
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
		refused(t, p.call("POST", "/api/v1/bind", "", `{"name":"a"}`, "Content-Type", kind), 415, "unsupported_media_type")
	}
	rec := p.call("POST", "/api/v1/bind", "", ` {"name":"a","limits":{"memory_mib":512}} `, "Content-Type", "application/json; charset=utf-8")
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), `"memory":512`) || !strings.Contains(rec.Body.String(), `"bytes":42`) {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

func TestBodyWithoutALengthIsStillBounded(t *testing.T) {
	t.Parallel()
	p := newPanel(t, oddRoutes)
	srv := httptestServer(t, p.mux)
	body := strings.NewReader(`{"name":"` + strings.Repeat("a", 3*access.MaxBodyBytes) + `"}`)
	req, err := http.NewRequest("POST", srv+"/api/v1/bind", struct{ *strings.Reader }{body})
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = -1
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d", res.StatusCode)
	}
}

func TestErrorSaysWhyInTheLogOnly(t *testing.T) {
	t.Parallel()
	cause := errors.New(secretCause)
	e := access.NotFound("not_found", "There is no such server.")
	with := e.Because(cause)
	if !errors.Is(with, cause) || !strings.Contains(with.Error(), secretCause) {
		t.Errorf("the log would not have it: %v", with)
	}
	if errors.Is(e, cause) {
		t.Error("Because changed the error that it was called on")
	}
	var api *router.ApiError
	if !errors.As(error(with), &api) || api.Status != 404 || api.Message != "There is no such server." {
		t.Errorf("PocketBase sees %+v", api)
	}
}

// What PocketBase refuses before a handler is reached comes in our shape, too: the door is outside of
// its middlewares.
func TestDoorIsOutsideOfPocketBasesOwnRefusals(t *testing.T) {
	t.Parallel()
	p := newPanel(t, oddRoutes)
	s := p.Settings()
	s.RateLimits.Enabled = true
	s.RateLimits.Rules = []core.RateLimitRule{{Label: "/api/v1/things/", MaxRequests: 1, Duration: 60}}
	s.SuperuserIPs = []string{"198.51.100.1"}
	if err := p.Save(s); err != nil {
		t.Fatal(err)
	}
	if rec := p.call("GET", "/api/v1/things/7", "", ""); rec.Code != 200 {
		t.Errorf("the first: %d %s", rec.Code, rec.Body)
	}
	rec := p.call("GET", "/api/v1/things/7", "", "")
	refused(t, rec, 429, "too_many_requests")
	if rec.Header().Get("Retry-After") != "10" {
		t.Errorf("Retry-After %q", rec.Header().Get("Retry-After"))
	}
	_, root := p.superuser(t)
	refused(t, p.call("GET", "/api/v1/account", root, ""), 403, "forbidden")
}

func TestCleanText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"  My \t  server ": "My server", "": "", "Łódź 🎮": "Łódź 🎮", "👩\u200d🚀": "👩\u200d🚀", "می\u200cخواهم": "می\u200cخواهم", "❤\ufe0f": "❤\ufe0f",
	} {
		if got, ok := access.CleanText(in, 10); !ok || got != want {
			t.Errorf("%q: %q %t", in, got, ok)
		}
	}
	for _, in := range []string{
		"12345678901", "a\xffb", "a\x00b", "a\x1bb", "a\u0085\u0080", "a\u00adb", "a\u200bb", "a\u202eb", "a\u2066b", "a\u2060b", "\ufeffa",
		"a\u061cb", "a\U000e0041b", "\u3164", "a\uffa0b", "a\u115fb", "a\u034fb", "\u200d", "\u200c\u200d \ufe0f", "a\ue000b",
	} {
		if got, ok := access.CleanText(in, 10); ok {
			t.Errorf("%+q is let through as %+q", in, got)
		}
	}
}
