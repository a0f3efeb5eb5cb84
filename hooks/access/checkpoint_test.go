package access_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
)

type heldUp struct {
	Token   string   `json:"token"`
	Expires string   `json:"expires_at"`
	Ways    []string `json:"ways"`
}

// held signs in with the password and is held up.
func (p *panel) held(t *testing.T, email string) heldUp {
	t.Helper()
	rec := p.call("POST", signIn, "", fmt.Sprintf(`{"identity":%q,"password":%q}`, email, password))
	var out struct {
		Code       string
		Message    string
		Token      string
		Record     any
		Checkpoint heldUp
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	if rec.Code != 401 || out.Code != "second_factor_needed" || out.Message == "" || out.Token != "" || out.Record != nil || out.Checkpoint.Token == "" ||
		len(rec.Result().Cookies()) != 0 || rec.Header().Get(access.RefreshHeader) != "" {
		t.Fatalf("%d %v %s", rec.Code, rec.Header(), rec.Body)
	}
	return out.Checkpoint
}

func TestWhoHasASecondFactorIsHeldUpBeforeHisSession(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	a := p.enrol(t, s.access)
	before := p.count(t, collections.Sessions)
	c := p.held(t, "ann@example.test")
	if fmt.Sprint(c.Ways) != "[code backup_code]" || c.Expires == "" || p.count(t, collections.Sessions) != before {
		t.Errorf("%+v", c)
	}
	for _, token := range []string{c.Token, "Bearer " + c.Token} {
		refused(t, p.call("GET", accountPath, token, ""), 401, "session_expired")
	}
	refused(t, p.refresh(c.Token), 401, "session_expired")
	body := func(what string) string { return fmt.Sprintf(`{"checkpoint":%q,%s}`, c.Token, what) }
	for name, wrong := range map[string]string{"nothing": body(`"code":""`), "two": body(`"code":"123456","backup_code":"aaaaa-aaaaa"`)} {
		if rec := p.call("POST", accountPath+"/checkpoint", "", wrong); rec.Code != 400 {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	wrongField(t, p.call("POST", accountPath+"/checkpoint", "", body(`"code":"12345x"`)), "code", "wrong")
	// A wrong one does not end it, the right one does.
	rec := p.call("POST", accountPath+"/checkpoint", "", body(fmt.Sprintf(`"code":%q`, a.code(1))), "User-Agent", "Firefox")
	token := tokenIn(t, rec).Token
	if cookies := rec.Result().Cookies(); len(cookies) != 1 || cookies[0].Name != access.RefreshCookie || cookies[0].Path != sessions || !p.alive(t, token) {
		t.Errorf("%v", cookies)
	}
	if list := p.call("GET", sessions, token, "").Body.String(); !strings.Contains(list, `"method":"password+totp"`) {
		t.Errorf("%s", list)
	}
	p.rewind(t, user.Id)
	refused(t, p.call("POST", accountPath+"/checkpoint", "", body(fmt.Sprintf(`"code":%q`, a.code(0)))), 401, "checkpoint_ended")
	if said := p.notes.all(); !strings.Contains(said, "user.checkpoint users/"+user.Id) || strings.Contains(said+p.stored(t), c.Token) {
		t.Errorf("written down: %s", said)
	}
	// Without a browser, with a backup code.
	c = p.held(t, "ann@example.test")
	rec = p.call("POST", accountPath+"/checkpoint", "", body(fmt.Sprintf(`"backup_code":%q`, a.codes[0])), access.RefreshHeader, "1")
	if refresh := rec.Header().Get(access.RefreshHeader); rec.Code != 200 || refresh == "" || p.refresh(refresh).Code != 200 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

// No way of signing in goes round the second factor.
func TestNoWayOfSigningInGoesRoundTheCheckpoint(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	p.enrol(t, s.access)
	before := p.count(t, collections.Sessions)

	// A code by mail.
	asked := answerOf[struct {
		OTPID string `json:"otpId"`
	}](t, p.call("POST", "/api/collections/users/request-otp", "", `{"email":"ann@example.test"}`), 200)
	collectionstest.Eventually(t, "a mail", func() bool { return p.TestMailer.TotalSend() > 0 })
	mail := p.TestMailer.LastMessage().HTML
	code := mail[strings.Index(mail, "<strong>")+8 : strings.Index(mail, "</strong>")]
	by := fmt.Sprintf(`{"otpId":%q,"password":%q}`, asked.OTPID, code)
	rec := p.call("POST", "/api/collections/users/auth-with-otp", "", by)
	if rec.Code != 401 || !strings.Contains(rec.Body.String(), `"second_factor_needed"`) || strings.Contains(rec.Body.String(), `"record"`) {
		t.Errorf("by mail: %d %s", rec.Code, rec.Body)
	}
	if rec := p.call("POST", "/api/collections/users/auth-with-otp", "", by); rec.Code != 400 {
		t.Errorf("the same code of a mail twice: %d %s", rec.Code, rec.Body)
	}
	// OAuth2 and whatever is to come: every way ends in this hook.
	for _, method := range []string{core.MFAMethodOAuth2, core.MFAMethodPassword, "new"} {
		e := &core.RequestEvent{App: p}
		e.Request, e.Response = newRequest(), newRecorder()
		event := &core.RecordAuthRequestEvent{RequestEvent: e, Record: user, AuthMethod: method, Token: "PocketBase's own"}
		event.Collection = user.Collection()
		if err := p.access.SignedIn(event); err != nil || e.Status() != 401 && !strings.Contains(e.Response.(*recorder).Body.String(), "second_factor_needed") {
			t.Errorf("%s: %v", method, err)
		}
	}
	// Refreshing and impersonating give nothing either.
	if rec := p.call("POST", "/api/collections/users/auth-refresh", s.access, "{}"); rec.Code != 403 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	// A reset of the password leaves the factor where it is.
	fresh, err := p.FindRecordById("users", user.Id)
	if err != nil {
		t.Fatal(err)
	}
	open := p.held(t, "ann@example.test")
	fresh.SetPassword(password)
	fresh.RefreshTokenKey()
	if err := p.Save(fresh); err != nil {
		t.Fatal(err)
	}
	refused(t, p.call("POST", accountPath+"/checkpoint", "", fmt.Sprintf(`{"checkpoint":%q,"code":"123456"}`, open.Token)), 401, "checkpoint_ended")
	p.held(t, "ann@example.test")
	if n := p.count(t, collections.Sessions); n != before {
		t.Errorf("%d sessions began", n-before)
	}
	// PocketBase's own second step would be asked after ours: it is refused before anything begins.
	users := fresh.Collection()
	users.MFA.Enabled = true
	e := &core.RequestEvent{App: p}
	e.Request, e.Response = newRequest(), newRecorder()
	event := &core.RecordAuthRequestEvent{RequestEvent: e, Record: fresh, AuthMethod: "password"}
	event.Collection = users
	if err := p.access.SignedIn(event); err == nil || p.count(t, collections.Sessions) != before {
		t.Error("a session began before PocketBase's second step")
	}
}

// GHSA-5vfx-8w6m-h3v4: a checkpoint is for the account and the sign-in that it was made for, once.
func TestACheckpointIsBoundAndSingleUse(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	ann, _ := p.user(t, "ann@example.test", true)
	p.user(t, "eve@example.test", true)
	s, es := p.begin(t, "ann@example.test"), p.begin(t, "eve@example.test")
	a, eve := p.enrol(t, s.access), p.enrol(t, es.access)
	c := p.held(t, "ann@example.test")
	// Another's code and backup code, also from his own session.
	for _, what := range []string{fmt.Sprintf(`"code":%q`, eve.code(1)), fmt.Sprintf(`"backup_code":%q`, eve.codes[0])} {
		if rec := p.call("POST", accountPath+"/checkpoint", es.access, fmt.Sprintf(`{"checkpoint":%q,%s}`, c.Token, what)); rec.Code != 400 || strings.Contains(rec.Body.String(), "record") {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	}
	for name, body := range map[string]string{"a name of one's choice": `{"checkpoint":%q,"code":"123456","user":"` + ann.Id + `"}`, "an address": `{"checkpoint":%q,"code":"123456","identity":"ann@example.test"}`} {
		if rec := p.call("POST", accountPath+"/checkpoint", "", fmt.Sprintf(body, c.Token)); rec.Code != 400 || !strings.Contains(rec.Body.String(), "unknown") {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
	// Four at once with four right codes: one session.
	p.unlimit(t)
	before := p.count(t, collections.Sessions)
	var begun atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if p.call("POST", accountPath+"/checkpoint", "", fmt.Sprintf(`{"checkpoint":%q,"backup_code":%q}`, c.Token, a.codes[i])).Code == 200 {
				begun.Add(1)
			}
		})
	}
	wg.Wait()
	if n := p.count(t, collections.Sessions) - before; begun.Load() != 1 || n != 1 || p.factorsOf(t, s.access).Backup != 9 {
		t.Errorf("%d answers, %d sessions, %d codes left", begun.Load(), n, p.factorsOf(t, s.access).Backup)
	}
	// It ends by itself.
	late := p.held(t, "ann@example.test")
	if _, err := p.NonconcurrentDB().Update(collections.SignInCheckpoints, dbx.Params{"expires_at": collections.Stamp(time.Now().Add(-time.Second))}, dbx.HashExp{"used_at": ""}).Execute(); err != nil {
		t.Fatal(err)
	}
	refused(t, p.call("POST", accountPath+"/checkpoint", "", fmt.Sprintf(`{"checkpoint":%q,"backup_code":%q}`, late.Token, a.codes[5])), 401, "checkpoint_ended")
	refused(t, p.call("POST", accountPath+"/checkpoint/options", "", fmt.Sprintf(`{"checkpoint":%q}`, late.Token)), 401, "checkpoint_ended")
	if n, err := access.Purge(p); err != nil || n == 0 {
		t.Errorf("%d checkpoints went, %v", n, err)
	}
}

// T15: a checkpoint token that was changed anywhere is none.
func TestT15_NoMutantOfACheckpointTokenIsAccepted(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	a := p.enrol(t, s.access)
	c := p.held(t, "ann@example.test")
	tried := 0
	try := func(token string) {
		if tried++; token == c.Token {
			return
		}
		raw, err := json.Marshal(map[string]string{"checkpoint": token, "backup_code": a.codes[0]})
		if err != nil {
			t.Fatal(err)
		}
		refused(t, p.call("POST", accountPath+"/checkpoint", "", string(raw)), 401, "checkpoint_ended")
	}
	for i := range c.Token {
		for _, b := range []byte{'A', 'z', '2', '.', ' ', 0} {
			try(c.Token[:i] + string(b) + c.Token[i+1:])
		}
		try(c.Token[:i])
	}
	for _, token := range []string{"", ".", "mc1.", c.Token + "=", c.Token + " ", c.Token + c.Token, strings.ToLower(c.Token), strings.ToUpper(c.Token), s.access, s.refresh, strings.Repeat("x", 5000)} {
		try(token)
	}
	if p.factorsOf(t, s.access).Backup != 10 {
		t.Error("a code was spent")
	}
	if rec := p.call("POST", accountPath+"/checkpoint", "", fmt.Sprintf(`{"checkpoint":%q,"backup_code":%q}`, c.Token, a.codes[0])); rec.Code != 200 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	t.Logf("T15: %d checkpoint tokens tried, 0 accepted", tried)
}

// T15: no code but the right ones is taken, and those once.
func TestT15_NoOtherOrOldCodeIsAccepted(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	user, _ := p.user(t, "ann@example.test", true)
	s := p.begin(t, "ann@example.test")
	a := p.enrol(t, s.access)
	right := map[string]bool{a.code(-1): true, a.code(0): true, a.code(1): true, a.code(2): true}
	tried := 0
	try := func(code string) {
		tried++
		raw, err := json.Marshal(map[string]string{"code": code})
		if err != nil {
			t.Fatal(err)
		}
		p.unlimit(t)
		if rec := p.call("POST", accountPath+"/proof", s.access, string(raw)); rec.Code != 400 {
			t.Errorf("%q: %d %s", code, rec.Code, rec.Body)
		}
	}
	p.rewind(t, user.Id)
	for w := -20; w <= 20; w++ { // other windows
		if code := a.code(w); !right[code] && (w < -1 || w > 2) {
			try(code)
		}
	}
	now := a.code(0)
	for i := range now { // neighbours
		for d := byte('0'); d <= '9'; d++ {
			if code := now[:i] + string(d) + now[i+1:]; !right[code] {
				try(code)
			}
		}
	}
	for _, code := range []string{"", " ", now + "0", "0" + now, now[:5], "-" + now[1:], "+" + now[1:], "1e5000", "٠١٢٣٤٥", now + "\x00", strings.Repeat(now, 500)} {
		try(code)
	}
	if rec := p.call("POST", accountPath+"/proof", s.access, fmt.Sprintf(`{"code":%q}`, a.code(0))); rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	for range 20 { // replayed
		try(now)
	}
	t.Logf("T15: %d codes tried, 0 accepted", tried)
}
