package servers

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/events"
)

// A secret variable goes to the node and nowhere else: every cell of the database, every answer and
// every realtime message is searched for it.
func TestASecretIsInNoCellAnswerOrMessage(t *testing.T) {
	t.Parallel()
	const canary, second = "canary-Zq81xT", "canary-second-Pw4"
	w := newWorld(t)
	w.app.OnRealtimeConnectRequest().BindFunc(w.Events.Connect)
	w.app.OnRealtimeSubscribeRequest().BindFunc(func(e *core.RealtimeSubscribeRequestEvent) error {
		return w.Events.Admit(e, w.scope)
	})
	r := must2(apis.NewRouter(w.app))(t)
	g := r.Group("/api/v1")
	access.Door(g)
	w.Routes(g)
	w.mux = must2(r.BuildMux())(t)
	srv := httptest.NewServer(w.mux)
	t.Cleanup(srv.Close)
	w.Events.Start(context.Background())
	t.Cleanup(w.Events.Stop)
	heard := listen(t, srv.URL, w.owner, w.tenant)

	w.machine("n1", "31000-31100")
	w.work()
	var answers []string
	keep := func(r reply) reply { answers = append(answers, r.raw+fmt.Sprint(r.header)); return r }
	body := `{"name":"one","blueprint":"testgame","start":true,"variables":{"PASSWORD":"` + canary + `","TAKES":"1ms"},` + small + `}`
	id := keep(w.do(w.super, "POST", "servers", body, access.IdempotencyHeader, "k")).at("server.id").(string)
	w.until(id, time.Minute, Running)
	if r := keep(w.do(w.super, "PATCH", "servers/"+id, `{"variables":{"PASSWORD":"`+second+`"}}`)); r.status != 202 {
		t.Fatal(r.raw)
	}
	keep(w.do(w.owner, "PATCH", "servers/"+id, `{"variables":{"PASSWORD":"`+strings.Repeat(canary, 20)+`"}}`)) // too long: refused
	keep(w.act(id, Restart))
	w.until(id, time.Minute, Running)
	for _, path := range []string{"servers", "servers/" + id, "servers/" + id + "/activity", "jobs/" + w.latestJob(id).Id} {
		keep(w.do(w.owner, "GET", path, ""))
	}
	specs := must2(w.Specs(w.app, w.row(id).Node()))(t)
	if len(specs) != 1 || specs[0].Env["PASSWORD"] != second {
		t.Fatalf("the node does not get it: %+v", specs)
	}
	for _, a := range answers {
		if strings.Contains(a, "canary-") {
			t.Errorf("an answer holds it: %s", a)
		}
	}
	cells := w.search(t, "canary-")
	messages := heard(t)
	if strings.Contains(strings.Join(messages, "\n"), "canary-") {
		t.Errorf("a realtime message holds it")
	}
	if len(messages) < 5 || cells < 1000 {
		t.Errorf("only %d messages and %d cells were searched", len(messages), cells)
	}
	sealed := w.row(id).GetString("environment")
	if !strings.Contains(sealed, `"PASSWORD":{"v":"m1:`) {
		t.Errorf("it is not sealed: %s", sealed)
	}
	t.Logf("%d answers, %d realtime messages, %d cells: no secret", len(answers), len(messages), cells)
}

func (w *world) scope(user *core.Record, tenant string) (events.Scope, bool) {
	return w.Tenancy.Scope(w.app, user, tenant)
}

// search looks into every cell of every table.
func (w *world) search(t *testing.T, text string) (cells int) {
	t.Helper()
	var tables []string
	must(t, w.app.DB().NewQuery("SELECT name FROM sqlite_master WHERE type = 'table'").Column(&tables))
	for _, table := range tables {
		var rows []dbx.NullStringMap
		must(t, w.app.DB().NewQuery("SELECT * FROM `"+table+"`").All(&rows))
		for _, row := range rows {
			for column, v := range row {
				cells++
				if strings.Contains(v.String, text) {
					t.Errorf("%s.%s holds it: %.200s", table, column, v.String)
				}
			}
		}
	}
	if w.count(collections.AuditLogs, dbx.NewExp("1=1")) == 0 {
		t.Error("there is no audit log to search")
	}
	return cells
}

// listen subscribes to a tenant's topic; the result ends it and returns what came.
func listen(t *testing.T, url, token, tenant string) func(*testing.T) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req := must2(http.NewRequestWithContext(ctx, "GET", url+"/api/realtime", nil))(t)
	res := must2(http.DefaultClient.Do(req))(t)
	lines, done := make(chan string, 10_000), make(chan struct{})
	go func() { // ends with the stream
		defer close(done)
		defer res.Body.Close()
		scan(res.Body, lines)
	}()
	hello := <-lines
	_, rest, _ := strings.Cut(hello, `"clientId":"`)
	client, _, _ := strings.Cut(rest, `"`)
	sub := must2(http.NewRequest("POST", url+"/api/realtime", strings.NewReader(`{"clientId":"`+client+`","subscriptions":["mamba.tenant.`+tenant+`"]}`)))(t)
	sub.Header.Set("Content-Type", "application/json")
	sub.Header.Set("Authorization", token)
	answer := must2(http.DefaultClient.Do(sub))(t)
	answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		t.Fatalf("subscribe: %d", answer.StatusCode)
	}
	return func(t *testing.T) []string {
		t.Helper()
		eventually(t, 10*time.Second, "messages", func() bool { return len(lines) >= 5 })
		cancel()
		<-done
		close(lines)
		var all []string
		for l := range lines {
			all = append(all, l)
		}
		return all
	}
}

// scan sends the data lines of an event stream until it ends.
func scan(body io.Reader, to chan<- string) {
	s := bufio.NewScanner(body)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if data, ok := strings.CutPrefix(s.Text(), "data:"); ok {
			to <- data
		}
	}
}
