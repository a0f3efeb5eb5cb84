package access_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tests"
	"github.com/pocketbase/pocketbase/tools/hook"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/secrets"
)

// panel is a migrated PocketBase with the door on its real router.
type panel struct {
	*tests.TestApp
	access *access.Access
	notes  *notes
	alarm  atomic.Pointer[string] // the last
	mux    http.Handler
}

// notes is an auditor that keeps what was committed, and can be told to fail.
type notes struct {
	mu   sync.Mutex
	rows []string // guarded by mu
	fail error
}

func (n *notes) Write(tx core.App, a audit.Actor, e audit.Entry) error {
	if n.fail != nil {
		return n.fail
	}
	if tx.TxInfo() == nil {
		return errors.New("an audit row outside of a transaction")
	}
	collections.AfterCommit(tx, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.rows = append(n.rows, fmt.Sprintf("%s %s %s/%s %v", a.Type, e.Action, e.ResourceType, e.Resource, e.Metadata))
	})
	return nil
}

func (n *notes) all() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.rows, "\n")
}

func newPanel(t *testing.T, routes func(p *panel, g *router.RouterGroup[*core.RequestEvent])) *panel {
	t.Helper()
	return newPanelAt(t, origin, routes)
}

// newPanelAt is newPanel with another public URL.
func newPanelAt(t *testing.T, public string, routes func(p *panel, g *router.RouterGroup[*core.RequestEvent])) *panel {
	t.Helper()
	app := collectionstest.New(t)
	p := &panel{TestApp: app, notes: &notes{}}
	var err error
	p.access, err = access.New(access.Config{IntentKey: bytes.Repeat([]byte{7}, 32), Auditor: p.notes, Seal: keeper(t, app), PublicURL: public,
		Alarm: func(tx core.App, _ access.Actor, kind string, _ map[string]any) error {
			collections.AfterCommit(tx, func() { p.alarm.Store(&kind) })
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	app.OnRecordAuthRequest("users").BindFunc(p.access.SignedIn)
	app.OnRecordAuthWithOTPRequest("users").BindFunc(p.access.SignInByCode)
	app.OnRecordAuthWithOAuth2Request("users").BindFunc(p.access.SignInByProvider)
	app.OnRecordUpdateExecute("users").BindFunc(func(e *core.RecordEvent) error {
		before := e.Record.Original().TokenKey()
		if err := e.Next(); err != nil || before == e.Record.TokenKey() {
			return err
		}
		return access.TokensVoided(e.App, e.Record.Id)
	})
	app.OnRecordCreateRequest("users").BindFunc(p.access.UserCreateRequest)
	app.OnRecordUpdateRequest("users").BindFunc(p.access.UserUpdateRequest)
	app.OnRecordDeleteRequest("users").BindFunc(p.access.UserDeleteRequest)
	app.OnRecordCreate().BindFunc(guard)
	app.OnRecordUpdate().BindFunc(guard)
	app.OnRecordDelete().BindFunc(guard)
	r, err := apis.NewRouter(app)
	if err != nil {
		t.Fatal(err)
	}
	r.Bind(&hook.Handler[*core.RequestEvent]{Priority: apis.DefaultLoadAuthTokenMiddlewarePriority + 1, Func: p.access.LoadSession})
	r.GET("/{path...}", func(e *core.RequestEvent) error { return e.String(200, "the web app") })
	g := r.Group("/api/v1")
	access.Door(g)
	p.access.Routes(g)
	if routes != nil {
		routes(p, g)
	}
	if p.mux, err = r.BuildMux(); err != nil {
		t.Fatal(err)
	}
	return p
}

// origin is where browsers reach the panel of a test.
const origin = "https://panel.example.test"

func keeper(t *testing.T, app core.App) *secrets.Keeper {
	t.Helper()
	master, err := secrets.NewMaster(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	k, err := secrets.New(app, master)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// alarms checks the last alarm; "" is none.
func (p *panel) alarms(t *testing.T, want string) {
	t.Helper()
	got := ""
	if k := p.alarm.Load(); k != nil {
		got = *k
	}
	if got != want {
		t.Errorf("the alarm is %q, want %q", got, want)
	}
}

func guard(e *core.RecordEvent) error {
	if err := collections.Guard(e.Context, e.Record.Collection().Name); err != nil {
		return err
	}
	return e.Next()
}

func (p *panel) user(t *testing.T, email string, verified bool) (*core.Record, string) {
	t.Helper()
	c, err := p.FindCollectionByNameOrId("users")
	if err != nil {
		t.Fatal(err)
	}
	u := core.NewRecord(c)
	u.SetEmail(email)
	u.SetPassword("correct horse battery")
	u.SetVerified(verified)
	u.Set("name", strings.Split(email, "@")[0])
	return u, p.token(t, u)
}

func (p *panel) superuser(t *testing.T) (*core.Record, string) {
	t.Helper()
	c, err := p.FindCollectionByNameOrId(core.CollectionNameSuperusers)
	if err != nil {
		t.Fatal(err)
	}
	u := core.NewRecord(c)
	u.SetEmail("root@example.test")
	u.SetPassword("correct horse battery")
	return u, p.token(t, u)
}

func (p *panel) token(t *testing.T, u *core.Record) string {
	t.Helper()
	if err := p.Save(u); err != nil {
		t.Fatal(err)
	}
	token, err := u.NewAuthToken()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// call sends one request; headers are pairs.
func (p *panel) call(method, path, token, body string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	p.mux.ServeHTTP(rec, req)
	return rec
}

// shape is the body of every error.
type shape struct {
	Status    int                          `json:"status"`
	Message   string                       `json:"message"`
	Data      map[string]access.FieldError `json:"data"`
	Code      string                       `json:"code"`
	RequestID string                       `json:"request_id"`
}

// refused checks that an answer is an error in our shape, with that status and code.
func refused(t *testing.T, rec *httptest.ResponseRecorder, status int, code string) shape {
	t.Helper()
	var s shape
	if err := json.Unmarshal(rec.Body.Bytes(), &s); err != nil {
		t.Fatalf("not JSON: %v: %s", err, rec.Body)
	}
	if rec.Code != status || s.Status != status || s.Code != code {
		t.Errorf("got %d %s (%d), want %d %s: %s", rec.Code, s.Code, s.Status, status, code, rec.Body)
	}
	if s.RequestID == "" || s.RequestID != rec.Header().Get(access.RequestIDHeader) {
		t.Errorf("request id %q in the body, %q in the header", s.RequestID, rec.Header().Get(access.RequestIDHeader))
	}
	if s.Data == nil || s.Message == "" {
		t.Errorf("no data or message: %s", rec.Body)
	}
	if got := rec.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q", got)
	}
	return s
}

func (p *panel) count(t *testing.T, collection string) int64 {
	t.Helper()
	n, err := p.CountRecords(collection)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNewRefusesAWeakKeyAndAMissingAuditor(t *testing.T) {
	t.Parallel()
	if _, err := access.New(access.Config{IntentKey: []byte("short"), Auditor: &notes{}}); err == nil {
		t.Error("a short key was taken")
	}
	if _, err := access.New(access.Config{IntentKey: make([]byte, 32)}); err == nil {
		t.Error("no auditor was taken")
	}
}

// recorder and its makers are for hooks that are called by hand.
type recorder = httptest.ResponseRecorder

func newRecorder() *recorder { return httptest.NewRecorder() }

func newRequest() *http.Request {
	return httptest.NewRequest("POST", "/api/collections/users/auth", strings.NewReader("{}"))
}

func httptestServer(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}
