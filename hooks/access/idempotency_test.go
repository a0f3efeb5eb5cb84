package access_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

// counting is a route whose effect is a row: POST /effect {name} in the tenant of ?tenant=.
type counting struct{ runs atomic.Int64 }

func (c *counting) routes(p *panel, g *router.RouterGroup[*core.RequestEvent]) {
	g.POST("/effect", func(e *core.RequestEvent) error {
		a, err := access.From(e)
		if err != nil {
			return err
		}
		var in struct {
			Name string `json:"name"`
		}
		if err := access.Bind(e, &in); err != nil {
			return err
		}
		body, err := access.Body(e)
		if err != nil {
			return err
		}
		tenant := e.Request.URL.Query().Get("tenant")
		return p.access.Idempotent(e, a, tenant, body, []collections.Lock{"tenant:x"}, func(tx core.App) (int, any, error) {
			n := c.runs.Add(1)
			row, err := collections.NewIncident(tx)
			if err != nil {
				return 0, nil, err
			}
			row.SetKind("test.effect")
			row.SetFingerprint(fmt.Sprintf("%s-%d", in.Name, n))
			row.SetSeverity("info")
			row.SetStatus("OPEN")
			row.SetTitle(in.Name)
			if err := collections.PermitFor("incidents").Save(tx, row); err != nil {
				return 0, nil, err
			}
			switch in.Name {
			case "conflict":
				return 0, nil, access.Conflict("node_full", "The node is full.")
			case "too long":
				return 201, strings.Repeat("x", 300<<10), nil
			case "nothing":
				return 204, nil, nil
			}
			return 201, map[string]any{"id": row.Id, "n": n, "big": int64(9007199254740993)}, nil
		})
	})
}

func TestTheSameRequestUnderAKeyHasOneEffectAndOneAnswer(t *testing.T) {
	t.Parallel()
	c := &counting{}
	p := newPanel(t, c.routes)
	_, token := p.user(t, "ann@example.test", true)
	first := p.call("POST", "/api/v1/effect", token, `{"name":"a"}`, access.IdempotencyHeader, "k1")
	again := p.call("POST", "/api/v1/effect", token, `{"name":"a"}`, access.IdempotencyHeader, "k1")
	if first.Code != 201 || again.Code != 201 || first.Body.String() != again.Body.String() || !strings.Contains(first.Body.String(), "9007199254740993") {
		t.Errorf("%d %s, then %d %s", first.Code, first.Body, again.Code, again.Body)
	}
	if first.Header().Get(access.ReplayedHeader) != "" || again.Header().Get(access.ReplayedHeader) != "true" {
		t.Error("the replay is not marked, or the first is")
	}
	if c.runs.Load() != 1 || p.count(t, collections.Incidents) != 1 {
		t.Errorf("%d runs, %d rows", c.runs.Load(), p.count(t, collections.Incidents))
	}
	refused(t, p.call("POST", "/api/v1/effect", token, `{"name":"b"}`, access.IdempotencyHeader, "k1"), 409, "idempotency_mismatch")
	_, other := p.user(t, "bob@example.test", true)
	for what, rec := range map[string]int{
		"another key":            p.call("POST", "/api/v1/effect", token, `{"name":"a"}`, access.IdempotencyHeader, "k2").Code,
		"another user's own key": p.call("POST", "/api/v1/effect", other, `{"name":"a"}`, access.IdempotencyHeader, "k1").Code,
		"another tenant":         p.call("POST", "/api/v1/effect?tenant=t2", token, `{"name":"a"}`, access.IdempotencyHeader, "k1").Code,
		"no key":                 p.call("POST", "/api/v1/effect", token, `{"name":"a"}`).Code,
		"no key again":           p.call("POST", "/api/v1/effect", token, `{"name":"a"}`).Code,
	} {
		if rec != 201 {
			t.Errorf("%s: %d", what, rec)
		}
	}
	if c.runs.Load() != 6 {
		t.Errorf("%d runs", c.runs.Load())
	}
}

func TestConcurrentRequestsUnderAKeyHaveOneEffect(t *testing.T) {
	t.Parallel()
	c := &counting{}
	p := newPanel(t, c.routes)
	_, token := p.user(t, "ann@example.test", true)
	var wg sync.WaitGroup
	bodies := make([]string, 40)
	for i := range bodies {
		wg.Go(func() {
			bodies[i] = p.call("POST", "/api/v1/effect", token, `{"name":"a"}`, access.IdempotencyHeader, "k").Body.String()
		})
	}
	wg.Wait()
	for _, b := range bodies {
		if b != bodies[0] {
			t.Errorf("answers differ: %s and %s", b, bodies[0])
		}
	}
	if c.runs.Load() != 1 || p.count(t, collections.Incidents) != 1 {
		t.Errorf("%d runs, %d rows", c.runs.Load(), p.count(t, collections.Incidents))
	}
}

func TestAFailureIsNotRememberedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	c := &counting{}
	p := newPanel(t, c.routes)
	_, token := p.user(t, "ann@example.test", true)
	for range 2 {
		refused(t, p.call("POST", "/api/v1/effect", token, `{"name":"conflict"}`, access.IdempotencyHeader, "k"), 409, "node_full")
	}
	refused(t, p.call("POST", "/api/v1/effect", token, `{"name":"too long"}`, access.IdempotencyHeader, "k"), 500, "internal")
	if n, m := p.count(t, collections.Incidents), p.count(t, collections.IdempotencyKeies); n != 0 || m != 0 || c.runs.Load() != 3 {
		t.Errorf("%d effects, %d stored answers, %d runs", n, m, c.runs.Load())
	}
	if rec := p.call("POST", "/api/v1/effect", token, `{"name":"nothing"}`); rec.Code != 204 {
		t.Errorf("no content: %d", rec.Code)
	}
}

func TestAKeyHasAShape(t *testing.T) {
	t.Parallel()
	p := newPanel(t, (&counting{}).routes)
	_, token := p.user(t, "ann@example.test", true)
	for _, key := range []string{strings.Repeat("k", 129), "a b", "ключ", "a\tb"} {
		refused(t, p.call("POST", "/api/v1/effect", token, `{"name":"a"}`, access.IdempotencyHeader, key), 400, "idempotency_key_invalid")
	}
}

func TestPurgeTakesWhatIsOverAndNothingElse(t *testing.T) {
	t.Parallel()
	c := &counting{}
	p := newPanel(t, c.routes)
	user, token := p.user(t, "ann@example.test", true)
	for _, k := range []string{"old", "new"} {
		p.call("POST", "/api/v1/effect", token, `{"name":"a"}`, access.IdempotencyHeader, k)
	}
	intent, _, err := p.access.Mint(access.Actor{Type: access.TypeUser, ID: user.Id}, "download", "x", "", time.Minute, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.access.Check(p, intent, "download", "x"); err != nil {
		t.Fatal(err)
	}
	age(t, p, collections.IdempotencyKeies, dbx.HashExp{"key": "old"})
	if rec := p.call("POST", "/api/v1/effect", token, `{"name":"b"}`, access.IdempotencyHeader, "old"); rec.Code != 201 {
		t.Errorf("a key whose day is over is not free again: %d %s", rec.Code, rec.Body)
	}
	age(t, p, collections.IdempotencyKeies, dbx.HashExp{"key": "old"})
	if n, err := access.Purge(p); err != nil || n != 1 {
		t.Errorf("removed %d, %v", n, err)
	}
	if n, m := p.count(t, collections.IdempotencyKeies), p.count(t, collections.SpentTokens); n != 1 || m != 1 {
		t.Errorf("%d answers and %d tokens are left", n, m)
	}
	age(t, p, collections.SpentTokens, nil)
	if n, err := access.Purge(p); err != nil || n != 1 {
		t.Errorf("removed %d, %v", n, err)
	}
}

func TestPurgeIsBoundedPerTransactionAndStillTakesAll(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	err := collections.Tx(p, nil, func(tx core.App) error {
		for i := range 1201 {
			if _, err := tx.NonconcurrentDB().Insert(collections.SpentTokens, dbx.Params{"id": fmt.Sprintf("spent%010d", i), "jti": fmt.Sprint(i), "expires_at": "2020-01-01 00:00:00.000Z"}).Execute(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := access.Purge(p); err != nil || n != 1201 {
		t.Errorf("removed %d, %v", n, err)
	}
}

func age(t *testing.T, p *panel, table string, where dbx.Expression) {
	t.Helper()
	if _, err := p.NonconcurrentDB().Update(table, dbx.Params{"expires_at": "2020-01-01 00:00:00.000Z"}, where).Execute(); err != nil {
		t.Fatal(err)
	}
}

var errNoAudit = errors.New("the audit log is not writable")
