package hooks

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mambahost/mamba/collections"
)

// connect opens a live connection as a browser does and returns its id, and what the panel writes after that. It ends with
// ctx or with the test.
func connect(ctx context.Context, t *testing.T, base string) (client string, lines *bufio.Scanner) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", base+"/api/realtime", nil)
	must(t, err)
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	t.Cleanup(func() { res.Body.Close() })
	lines = bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	var hello struct {
		ClientID string `json:"clientId"`
	}
	for hello.ClientID == "" && lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data:"); ok {
			must(t, json.Unmarshal([]byte(data), &hello))
		}
	}
	return hello.ClientID, lines
}

// listen opens a live connection for a topic and calls heard with each line. The channel closes when the panel ends it.
func listen(t *testing.T, base, token, topic string, heard func(line string)) <-chan struct{} {
	t.Helper()
	client, lines := connect(t.Context(), t, base)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines.Scan() {
			heard(lines.Text())
		}
	}()
	if status := subscribe(t, base, token, client, topic); status != http.StatusNoContent {
		t.Fatalf("subscribe to %s: %d", topic, status)
	}
	return ended
}

// watch is listen for who wants to know of the end only.
func watch(t *testing.T, base, token, topic string) <-chan struct{} {
	t.Helper()
	return listen(t, base, token, topic, func(string) {})
}

func subscribe(t *testing.T, base, token, client, topic string) int {
	t.Helper()
	body := `{"clientId":"` + client + `","subscriptions":["` + topic + `"]}`
	req, err := http.NewRequestWithContext(t.Context(), "POST", base+"/api/realtime", strings.NewReader(body))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", token)
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	res.Body.Close()
	return res.StatusCode
}

func isOpen(ended <-chan struct{}) bool {
	select {
	case <-ended:
		return false
	case <-time.After(200 * time.Millisecond): // nothing tells that nothing happens
		return true
	}
}

func isOver(t *testing.T, what string, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Errorf("%s: the live connection goes on", what)
	}
}

// What a browser may see is asked when it subscribes: whoever may see less afterwards has to subscribe again.
func TestALiveConnectionEndsWithTheRightToIt(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil)
	_, err := h.demo().Accounts()
	must(t, err)
	s := &settled{house: h}
	row := firstOf(t, h.app, collections.Tenants)
	owner := s.as("owner@demo.example").super
	member := s.as("member@demo.example").super
	user, err := h.app.FindAuthRecordByEmail("users", "member@demo.example")
	must(t, err)
	web := httptest.NewServer(h.mux)
	t.Cleanup(web.Close)
	topic := "mamba.tenant." + row.Id
	ask := func(method, path, body string) string {
		t.Helper()
		status, _, raw := s.ask(owner, row.Id, method, "/api/v1/tenants/"+row.Id+path, plain, body)
		if status >= 300 {
			t.Fatalf("%s %s: %d %s", method, path, status, raw)
		}
		return raw
	}
	role := decode[struct{ ID string }](t, ask("POST", "/roles", `{"name":"Guests","permissions":["server.read"]}`)).ID
	others := watch(t, web.URL, owner, topic)

	open := watch(t, web.URL, member, topic)
	ask("PATCH", "/members/"+user.Id, `{"role":"`+role+`"}`)
	isOver(t, "another role", open)

	open = watch(t, web.URL, member, topic)
	ask("PATCH", "/roles/"+role, `{"permissions":["server.read","server.start"]}`)
	if !isOpen(open) {
		t.Error("a role that shows the same servers as before ended a live connection")
	}
	ask("PATCH", "/roles/"+role, `{"permissions":["server.start"]}`)
	isOver(t, "a role that shows nothing any more", open)

	open = watch(t, web.URL, member, topic)
	ask("DELETE", "/members/"+user.Id, "")
	isOver(t, "removed", open)
	if !isOpen(others) {
		t.Error("the changes of one member ended another's live connection")
	}
	if s, ok := h.Tenancy.Scope(h.app, user, row.Id); ok {
		t.Errorf("who was removed is admitted to %+v", s)
	}
}

// An organisation that begins to require a second factor cuts what is open of whoever has none, and lets him in again
// once he has one.
func TestRequiringASecondFactorCutsWhoHasNone(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil)
	_, err := h.demo().Accounts()
	must(t, err)
	s := &settled{house: h}
	row := firstOf(t, h.app, collections.Tenants)
	owner, member := s.as("owner@demo.example").super, s.as("member@demo.example").super
	web := httptest.NewServer(h.mux)
	t.Cleanup(web.Close)
	topic := "mamba.tenant." + row.Id
	give := func(email string) {
		t.Helper()
		user, err := h.app.FindAuthRecordByEmail("users", email)
		must(t, err)
		now := collections.Stamp(time.Now())
		_, err = h.app.NonconcurrentDB().Insert(collections.TotpFactors, map[string]any{"id": user.Id, "user": user.Id, "secret": "x", "begun_at": now, "confirmed_at": now, "last_step": 0, "created": now, "updated": now}).Execute()
		must(t, err)
	}
	give("owner@demo.example")
	mine, his := watch(t, web.URL, owner, topic), watch(t, web.URL, member, topic)
	began := time.Now()
	if status, _, raw := s.ask(owner, row.Id, "PATCH", "/api/v1/tenants/"+row.Id, plain, `{"require_2fa":true}`); status != 200 {
		t.Fatalf("%d %s", status, raw)
	}
	isOver(t, "required", his)
	t.Logf("cut after %v", time.Since(began).Round(time.Millisecond))
	if !isOpen(mine) {
		t.Error("who has a second factor was cut, too")
	}
	if status, out, _ := s.ask(member, row.Id, "GET", "/api/v1/servers", plain, ""); status != 403 || out.Code != "second_factor_required" {
		t.Errorf("%d %+v", status, out)
	}
	give("member@demo.example")
	if status, _, raw := s.ask(member, row.Id, "GET", "/api/v1/servers", plain, ""); status != 200 {
		t.Errorf("%d %s", status, raw)
	}
	watch(t, web.URL, member, topic)
}
