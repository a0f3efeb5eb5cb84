package access_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/security"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

const (
	sessions = "/api/v1/account/sessions"
	password = "correct horse battery"
)

// session is what somebody has after signing in without cookies.
type session struct{ id, access, refresh string }

// claims reads what a token names, without checking it.
func claims(t *testing.T, token string) map[string]any {
	t.Helper()
	c, err := security.ParseUnverifiedJWT(token)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *panel) signIn(t *testing.T, email string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	rec := p.call("POST", signIn, "", fmt.Sprintf(`{"identity":%q,"password":%q}`, email, password), headers...)
	if rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return rec
}

func tokenIn(t *testing.T, rec *httptest.ResponseRecorder) (out struct {
	Token   string `json:"token"`
	Refresh string `json:"refresh_token"`
	Expires string `json:"expires_at"`
}) {
	t.Helper()
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || out.Token == "" {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return out
}

func (p *panel) begin(t *testing.T, email string) session {
	t.Helper()
	rec := p.signIn(t, email, access.RefreshHeader, "1")
	token := tokenIn(t, rec).Token
	s := session{id: claims(t, token)["sid"].(string), access: token, refresh: rec.Header().Get(access.RefreshHeader)}
	if s.refresh == "" || len(rec.Result().Cookies()) != 0 {
		t.Fatalf("refresh token %q, cookies %v", s.refresh, rec.Result().Cookies())
	}
	return s
}

func (p *panel) refresh(token string) *httptest.ResponseRecorder {
	raw, err := json.Marshal(map[string]string{"refresh_token": token})
	if err != nil {
		panic(err)
	}
	return p.call("POST", sessions+"/refresh", "", string(raw))
}

func (p *panel) alive(t *testing.T, token string) bool {
	t.Helper()
	rec := p.call("GET", "/api/v1/account", token, "")
	if rec.Code != 200 {
		refused(t, rec, 401, "session_expired")
	}
	return rec.Code == 200
}

// age moves a time of a session.
func (p *panel) age(t *testing.T, id, column string, by time.Duration) {
	t.Helper()
	at := time.Now().Add(by).UTC().Format("2006-01-02 15:04:05.000Z")
	if _, err := p.NonconcurrentDB().Update(collections.Sessions, dbx.Params{column: at}, dbx.HashExp{"id": id}).Execute(); err != nil {
		t.Fatal(err)
	}
}

// past makes the turns that a session remembers older.
func (p *panel) past(t *testing.T, id string, by time.Duration) {
	t.Helper()
	s, err := collections.FindSession(p, id)
	if err != nil {
		t.Fatal(err)
	}
	var turns []int64
	if err := s.TurnedBefore(&turns); err != nil || len(turns) == 0 {
		t.Fatal(turns, err)
	}
	for i := range turns {
		turns[i] -= by.Milliseconds()
	}
	raw, err := json.Marshal(turns)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.NonconcurrentDB().Update(collections.Sessions, dbx.Params{"turned_before": string(raw)}, dbx.HashExp{"id": id}).Execute(); err != nil {
		t.Fatal(err)
	}
}

func TestSigningInBeginsASession(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	rec := p.signIn(t, "ann@example.test", "User-Agent", "Firefox")
	token := tokenIn(t, rec).Token
	c := claims(t, token)
	left := time.Until(time.Unix(int64(c["exp"].(float64)), 0))
	if c["id"] != user.Id || c["refreshable"] != false || c["sid"] == "" || left > access.AccessLife || left < access.AccessLife-time.Minute {
		t.Errorf("%v, for %s", c, left)
	}
	cookies := rec.Result().Cookies()
	if len(cookies) != 1 {
		t.Fatalf("%v", cookies)
	}
	k := cookies[0]
	if k.Name != access.RefreshCookie || !k.HttpOnly || k.SameSite != http.SameSiteStrictMode || k.Path != sessions || k.Secure || strings.Contains(rec.Body.String(), k.Value) {
		t.Errorf("%+v, %s", k, rec.Body)
	}
	if https := p.signIn(t, "ann@example.test", "X-Forwarded-Proto", "https").Result().Cookies()[0]; !https.Secure {
		t.Error("behind TLS the cookie goes out in clear")
	}
	if said := p.notes.all(); !strings.Contains(said, "user user.sign_in users/"+user.Id) || strings.Contains(said, k.Value) {
		t.Errorf("written down: %s", said)
	}
	list := p.call("GET", sessions, token, "").Body.String()
	if !strings.Contains(list, `"user_agent":"Firefox"`) || strings.Count(list, `"id"`) != 2 || strings.Count(list, `"current":true`) != 1 || strings.Contains(list, "hash") {
		t.Errorf("the list: %s", list)
	}
	// With the cookie alone, as a browser does it.
	again := p.call("POST", sessions+"/refresh", "", "{}", "Cookie", k.Name+"="+k.Value)
	if next := again.Result().Cookies(); again.Code != 200 || len(next) != 1 || next[0].Value == k.Value || strings.Contains(again.Body.String(), "refresh_token") || !p.alive(t, tokenIn(t, again).Token) {
		t.Errorf("%d %v %s", again.Code, next, again.Body)
	}
	if rec := p.call("POST", "/api/collections/users/auth-refresh", token, "{}"); rec.Code != 403 {
		t.Errorf("PocketBase's own refresh: %d %s", rec.Code, rec.Body)
	}
	_, root := p.superuser(t)
	if rec := p.call("POST", "/api/collections/users/impersonate/"+user.Id, root, "{}"); rec.Code != 403 || strings.Contains(rec.Body.String(), "token") {
		t.Errorf("an operator becomes a customer: %d %s", rec.Code, rec.Body)
	}
}

func TestARefreshTokenIsGoodOnceAndAMomentLonger(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	// Eight tabs at once, and one whose answer was lost: nobody is signed out.
	var mu sync.Mutex
	next := map[string]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			rec := p.refresh(s.refresh)
			mu.Lock()
			defer mu.Unlock()
			if rec.Code != 200 {
				t.Errorf("%d %s", rec.Code, rec.Body)
				return
			}
			next[tokenIn(t, rec).Refresh] = true
		})
	}
	wg.Wait()
	if len(next) != 1 || next[s.refresh] {
		t.Fatalf("%d successors", len(next))
	}
	var second string
	for token := range next {
		second = token
	}
	if !p.alive(t, s.access) {
		t.Error("a refresh has ended the session")
	}
	third := tokenIn(t, p.refresh(second))
	if p.notes.all(); p.count(t, collections.Sessions) != 1 {
		t.Error("a refresh has made a session")
	}
	// A tab whose request was long on its way still has the first. All tabs of a browser share one cookie, so it gets
	// what is good now.
	if late := tokenIn(t, p.refresh(s.refresh)); late.Refresh != third.Refresh || !p.alive(t, third.Token) {
		t.Errorf("a slow tab gets %q, the newest is %q", late.Refresh, third.Refresh)
	}
	p.alarms(t, "")
	// Half a minute later two have it, though the second was turned in a moment ago.
	p.past(t, s.id, 31*time.Second)
	if p.refresh(second).Code != 200 {
		t.Error("the second was turned in within half a minute")
	}
	refused(t, p.refresh(s.refresh), 401, "session_expired")
	p.alarms(t, "account.refresh_reused")
	if p.alive(t, third.Token) || p.refresh(third.Refresh).Code != 401 {
		t.Error("whoever has the newest token goes on after a theft")
	}
	if said := p.notes.all(); !strings.Contains(said, "session.reuse sessions/"+s.id) {
		t.Errorf("written down: %s", said)
	}

	late := p.begin(t, "ann@example.test")
	after := tokenIn(t, p.refresh(late.refresh))
	p.age(t, late.id, "turned_at", -31*time.Second)
	refused(t, p.refresh(late.refresh), 401, "session_expired")
	if p.alive(t, after.Token) {
		t.Error("a token that was turned in half a minute ago is taken again")
	}
}

func TestASessionEnds(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	p.user(t, "ann@example.test", true)
	p.user(t, "bob@example.test", true)
	phone, tablet, desk, bob := p.begin(t, "ann@example.test"), p.begin(t, "ann@example.test"), p.begin(t, "ann@example.test"), p.begin(t, "bob@example.test")
	refused(t, p.call("DELETE", sessions+"/"+desk.id, bob.access, ""), 404, "session_not_found")
	refused(t, p.call("DELETE", sessions+"/"+strings.Repeat("x", 300), bob.access, ""), 404, "session_not_found")
	if rec := p.call("DELETE", sessions+"/"+phone.id, desk.access, ""); rec.Code != 204 || len(rec.Result().Cookies()) != 0 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	refused(t, p.call("DELETE", sessions+"/"+phone.id, desk.access, ""), 404, "session_not_found")
	if p.alive(t, phone.access) || p.refresh(phone.refresh).Code != 401 || !p.alive(t, tablet.access) {
		t.Error("the phone's session, and no other, has ended")
	}
	if rec := p.call("GET", "/api/collections/users/records/"+claims(t, phone.access)["id"].(string), phone.access, ""); rec.Code != 404 {
		t.Errorf("PocketBase's own routes still know the token: %d", rec.Code)
	}
	if rec := p.call("DELETE", sessions+"/others", desk.access, ""); rec.Code != 200 || !strings.Contains(rec.Body.String(), `"ended":1`) {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if p.alive(t, tablet.access) || !p.alive(t, desk.access) || !p.alive(t, bob.access) {
		t.Error("the others of one's own, and nobody else's, have ended")
	}
	rec := p.call("DELETE", sessions+"/current", desk.access, "")
	if cookies := rec.Result().Cookies(); rec.Code != 204 || len(cookies) != 1 || cookies[0].MaxAge >= 0 || p.alive(t, desk.access) {
		t.Errorf("signing out: %d %v", rec.Code, cookies)
	}
	old := p.begin(t, "bob@example.test")
	p.age(t, old.id, "expires_at", -time.Second)
	if p.alive(t, old.access) || p.refresh(old.refresh).Code != 401 {
		t.Error("a session goes on after its time")
	}
}

func TestANewPasswordEndsAllOtherSessions(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	thief, mine := p.begin(t, "ann@example.test"), p.begin(t, "ann@example.test")
	body := fmt.Sprintf(`{"oldPassword":%q,"password":"another long one","passwordConfirm":"another long one"}`, password)
	if rec := p.call("PATCH", "/api/collections/users/records/"+user.Id, mine.access, body); rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	if p.alive(t, thief.access) || p.refresh(thief.refresh).Code != 401 {
		t.Error("another session goes on")
	}
	next := p.refresh(mine.refresh)
	if next.Code != 200 || !p.alive(t, tokenIn(t, next).Token) {
		t.Errorf("whoever changed it is out, too: %d %s", next.Code, next.Body)
	}
	if p.alive(t, mine.access) {
		t.Error("a token from before goes on")
	}
	// By the link of a mail: there is nobody to keep.
	fresh, err := p.FindRecordById("users", user.Id)
	if err != nil {
		t.Fatal(err)
	}
	fresh.SetPassword("a third one, also long")
	if err := p.Save(fresh); err != nil {
		t.Fatal(err)
	}
	if p.refresh(tokenIn(t, next).Refresh).Code != 401 {
		t.Error("a session outlives a reset")
	}
}

// T15: a refresh token that was changed anywhere is none, and ends nothing.
func TestT15_NoMutantOfARefreshTokenIsAccepted(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	p.user(t, "ann@example.test", true)
	s, other := p.begin(t, "ann@example.test"), p.begin(t, "ann@example.test")
	tried := 0
	try := func(token string) {
		if tried++; token != s.refresh {
			refused(t, p.refresh(token), 401, "session_expired")
		}
	}
	for i := range s.refresh {
		for _, b := range []byte{'A', 'z', '0', '.', '-', ' ', 0} {
			try(s.refresh[:i] + string(b) + s.refresh[i+1:])
		}
		try(s.refresh[:i])
	}
	mac := s.refresh[strings.LastIndex(s.refresh, "."):]
	for _, token := range []string{"", ".", "...", "mr1", "mr1." + other.id + ".1" + mac, "mr1." + s.id + ".2" + mac, "mr1." + s.id + ".0" + mac, "mr1." + s.id + ".-1" + mac, s.refresh + "=", s.refresh + ".", s.access, strings.Repeat("x", 5000)} {
		try(token)
	}
	if !p.alive(t, s.access) || p.refresh(s.refresh).Code != 200 {
		t.Error("somebody without the token has ended the session")
	}
	t.Logf("T15: %d tokens tried, 0 accepted", tried)
}

func TestOnePersonHasAtMostFiftySessions(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	first := p.begin(t, "ann@example.test")
	p.age(t, first.id, "turned_at", -time.Hour)
	err := collections.Tx(p, nil, func(tx core.App) error {
		for i := range 49 {
			s, err := collections.NewSession(tx)
			if err != nil {
				return err
			}
			s.SetUser(user.Id)
			s.SetTurn(1)
			s.SetTokenHash(strings.Repeat("0", 64))
			s.SetTurnedAt(time.Now().Add(-time.Duration(i) * time.Minute))
			s.SetExpiresAt(time.Now().Add(time.Hour))
			if err := collections.PermitFor("access").Save(tx, s); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !p.alive(t, first.access) {
		t.Fatal("the fiftieth has ended one")
	}
	last := p.begin(t, "ann@example.test")
	if live, err := p.CountRecords(collections.Sessions, dbx.HashExp{"revoked_at": ""}); err != nil || live != 50 || p.alive(t, first.access) || !p.alive(t, last.access) {
		t.Errorf("%d sessions, %v", live, err)
	}
}

// A token that a session asked for ends with it.
func TestAnIntentEndsWithItsSession(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	redeem := p.redeemer(t, s.access)
	if err := redeem(); err != nil {
		t.Fatal(err)
	}
	if rec := p.call("DELETE", sessions+"/current", s.access, ""); rec.Code != 204 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	if err := redeem(); err == nil {
		t.Error("it is good after its session")
	}
}

// redeemer mints an intent token with an access token and returns what redeems it.
func (p *panel) redeemer(t *testing.T, token string) func() error {
	t.Helper()
	event := func() *core.RequestEvent {
		e := &core.RequestEvent{App: p}
		e.Request = httptest.NewRequest("GET", "/", nil)
		e.Response = httptest.NewRecorder()
		e.Request.Header.Set("Authorization", token)
		return e
	}
	e := event()
	user, err := p.FindAuthRecordByToken(token, core.TokenTypeAuth)
	if err != nil {
		t.Fatal(err)
	}
	e.Auth = user
	if err := p.access.LoadSession(e); err != nil {
		t.Fatal(err)
	}
	a, err := access.From(e)
	if err != nil || a.Session == "" {
		t.Fatalf("%+v, %v", a, err)
	}
	intent, _, err := p.access.Mint(a, "console", "srv", "ten", time.Minute, false)
	if err != nil {
		t.Fatal(err)
	}
	return func() error {
		_, _, err := p.access.Redeem(event(), intent, "console", "srv")
		return err
	}
}

func TestASignInFromANewPlaceIsTold(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	p.user(t, "ann@example.test", true)
	const firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	for _, c := range []struct {
		what, agent string
		told        bool
	}{
		{"the first sign-in", firefox, false},
		{"the same again", firefox, false},
		{"the browser after an update", strings.ReplaceAll(firefox, "140.0", "141.0.2"), false},
		{"another program", "curl/8.5.0", true},
		{"that program again", "curl/8.6.1", false},
	} {
		p.alarm.Store(nil)
		p.signIn(t, "ann@example.test", "User-Agent", c.agent)
		if kind := p.alarm.Load(); (kind != nil) != c.told || kind != nil && *kind != "account.new_sign_in" {
			t.Errorf("%s: told %t", c.what, kind != nil)
		}
	}
}
