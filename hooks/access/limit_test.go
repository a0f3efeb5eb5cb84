package access_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pocketbase/pocketbase/apis"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/cluster"
)

// limited is a panel whose routes are limited, seen from one address.
func limited(t *testing.T, c access.Config) *panel {
	t.Helper()
	p := &panel{TestApp: collectionstest.New(t), notes: &notes{}}
	c.IntentKey, c.Auditor = bytes.Repeat([]byte{7}, 32), p.notes
	var err error
	if p.access, err = access.New(c); err != nil {
		t.Fatal(err)
	}
	p.serveLimited(t)
	return p
}

func (p *panel) serveLimited(t *testing.T) {
	t.Helper()
	r, err := apis.NewRouter(p)
	if err != nil {
		t.Fatal(err)
	}
	r.BindFunc(p.access.LoadSession)
	r.BindFunc(p.access.Limit)
	g := r.Group("/api/v1")
	access.Door(g)
	p.access.Routes(g)
	if p.mux, err = r.BuildMux(); err != nil {
		t.Fatal(err)
	}
	if s := p.Settings().RateLimits; s.Enabled || len(s.Rules) != 0 {
		t.Fatal("PocketBase's own limits are on, which each instance counts for itself")
	}
}

// from sends a request from an address.
func (p *panel) from(address, method, path, token, body string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", token)
	req.RemoteAddr = address
	w := httptest.NewRecorder()
	p.mux.ServeHTTP(w, req)
	return w
}

// wantRefused checks the one shape of 429.
func wantRefused(t *testing.T, what string, w *httptest.ResponseRecorder, most time.Duration) {
	t.Helper()
	var body struct {
		Status    int    `json:"status"`
		Message   string `json:"message"`
		Code      string `json:"code"`
		RequestID string `json:"request_id"`
	}
	wait, err := strconv.Atoi(w.Header().Get("Retry-After"))
	if err != nil || json.Unmarshal(w.Body.Bytes(), &body) != nil || w.Code != 429 || body.Status != 429 || body.Code != "too_many_requests" ||
		body.Message == "" || body.RequestID == "" || wait < 1 || time.Duration(wait)*time.Second > most {
		t.Fatalf("%s: %d, Retry-After %q, %s", what, w.Code, w.Header().Get("Retry-After"), w.Body)
	}
}

const signIn = "/api/collections/users/auth-with-password"

func TestTheStrictLimitsOfEachDoor(t *testing.T) {
	t.Parallel()
	const right = `{"identity":"alice@example.test","password":"correct horse battery"}`
	const wrong = `{"identity":"alice@example.test","password":"wrong"}`
	t.Run("five wrong passwords of a network in a quarter of an hour", func(t *testing.T) {
		t.Parallel()
		p := limited(t, access.Config{})
		p.user(t, "alice@example.test", true)
		for i := range 8 { // what succeeds does not count
			if w := p.from("192.0.2.1:1", "POST", signIn, "", right); w.Code != 200 {
				t.Fatalf("sign-in %d: %d %s", i+1, w.Code, w.Body)
			}
		}
		for i := range 5 {
			path := []string{signIn, "/api/collections/_pb_users_auth_/auth-with-password", "/api/collections/%75sers/auth-with-password"}[i%3]
			if w := p.from("192.0.2.1:1", "POST", path, "", wrong); w.Code != 400 {
				t.Fatalf("attempt %d: %d %s", i+1, w.Code, w.Body)
			}
		}
		wantRefused(t, "the sixth", p.from("192.0.2.1:2", "POST", signIn, "", wrong), 15*time.Minute)
		wantRefused(t, "the right password, too", p.from("[::ffff:192.0.2.1]:2", "POST", signIn, "", right), 15*time.Minute)
		wantRefused(t, "an operator's door, too", p.from("192.0.2.1:3", "POST", "/api/collections/_superusers/auth-with-password", "", right), 15*time.Minute)
		if w := p.from("192.0.2.2:1", "POST", signIn, "", right); w.Code != 200 {
			t.Fatalf("another network: %d %s", w.Code, w.Body)
		}
		raw, err := collections.One[collections.RateLimit](p, collections.RateLimits)
		if err != nil || strings.Contains(fmt.Sprint(raw.PublicExport()), "192.0.2") {
			t.Fatalf("the table says who it was: %v %v", raw, err)
		}
	})
	t.Run("an IPv6 customer has a /64", func(t *testing.T) {
		t.Parallel()
		p := limited(t, access.Config{})
		for i := range 5 {
			p.from(fmt.Sprintf("[2001:db8:1:2::%d]:1", i+1), "POST", signIn, "", wrong)
		}
		wantRefused(t, "the same /64", p.from("[2001:db8:1:2:ffff::9]:1", "POST", signIn, "", wrong), 15*time.Minute)
		if w := p.from("[2001:db8:1:3::1]:1", "POST", signIn, "", wrong); w.Code != 400 {
			t.Fatalf("the next /64: %d", w.Code)
		}
	})
	t.Run("three registrations of a network in an hour", func(t *testing.T) {
		t.Parallel()
		p := limited(t, access.Config{})
		_, root := p.superuser(t)
		body := func(i int) string {
			return fmt.Sprintf(`{"email":"u%d@example.test","password":"correct horse","passwordConfirm":"correct horse"}`, i)
		}
		for i := range 3 {
			if w := p.from("192.0.2.1:1", "POST", "/api/collections/users/records", "", body(i)); w.Code != 200 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		wantRefused(t, "the fourth", p.from("192.0.2.1:1", "POST", "/api/collections/users/records", "", body(4)), time.Hour)
		if w := p.from("192.0.2.1:1", "POST", "/api/collections/users/records", root, body(5)); w.Code != 200 {
			t.Fatalf("an operator's: %d %s", w.Code, w.Body)
		}
	})
	t.Run("what was mistyped is no account, and is counted all the same", func(t *testing.T) {
		t.Parallel()
		p := limited(t, access.Config{})
		const users = "/api/collections/users/records"
		for i := range 5 {
			if w := p.from("192.0.2.1:1", "POST", users, "", `{"email":"u@example.test","password":"correct horse","passwordConfirm":"correct house"}`); w.Code != 400 {
				t.Fatalf("%d: %d %s", i, w.Code, w.Body)
			}
		}
		if w := p.from("192.0.2.1:1", "POST", users, "", `{"email":"u@example.test","password":"correct horse","passwordConfirm":"correct horse"}`); w.Code != 200 {
			t.Errorf("after five mistakes: %d %s", w.Code, w.Body)
		}
		for range 14 {
			p.from("192.0.2.1:1", "POST", users, "", `{"email":"u@example.test","password":"correct horse","passwordConfirm":"correct horse"}`)
		}
		wantRefused(t, "the twenty-first attempt", p.from("192.0.2.1:1", "POST", users, "", `{"email":"v@example.test","password":"correct horse","passwordConfirm":"correct horse"}`), time.Hour)
	})
	t.Run("five guesses at the password of a session", func(t *testing.T) {
		t.Parallel()
		p := limited(t, access.Config{})
		p.OnRecordUpdateRequest("users").BindFunc(p.access.UserUpdateRequest)
		u, token := p.user(t, "alice@example.test", true)
		change := func(old, next string) *httptest.ResponseRecorder {
			return p.from("192.0.2.1:1", "PATCH", "/api/collections/users/records/"+u.Id, token, fmt.Sprintf(`{"oldPassword":%q,"password":%q,"passwordConfirm":%q}`, old, next, next))
		}
		for range 7 { // a mistake about the new one is no guess
			if w := change("correct horse battery", "x"); w.Code != 400 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		for i := range 5 {
			if w := change(fmt.Sprint("guess number ", i), "another long one"); w.Code != 400 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		wantRefused(t, "the sixth", change("correct horse battery", "another long one"), 15*time.Minute)
		if w := p.from("192.0.2.1:1", "PATCH", "/api/collections/users/records/"+u.Id, token, `{"name":"Alice B"}`); w.Code != 200 {
			t.Errorf("another field: %d %s", w.Code, w.Body)
		}
	})
	t.Run("three new addresses of an account in an hour", func(t *testing.T) {
		t.Parallel()
		p := limited(t, access.Config{})
		_, token := p.user(t, "alice@example.test", true)
		ask := func(i int) *httptest.ResponseRecorder {
			return p.from(fmt.Sprintf("192.0.2.%d:1", i), "POST", "/api/collections/users/request-email-change", token, fmt.Sprintf(`{"newEmail":"n%d@example.test"}`, i))
		}
		for i := range 3 {
			if w := ask(i); w.Code != 204 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		wantRefused(t, "the fourth", ask(4), time.Hour)
	})
	t.Run("a network at the doors in a minute, whatever comes of it", func(t *testing.T) {
		t.Parallel()
		p := limited(t, access.Config{})
		last := httptest.NewRecorder()
		for range 200 { // a minute may turn meanwhile
			if last = p.from("192.0.2.1:1", "POST", "/api/collections/users/request-verification", "", `{}`); last.Code == 429 {
				break
			}
		}
		wantRefused(t, "too many", last, time.Minute)
		if w := p.from("192.0.2.1:1", "GET", "/api/v1/account", "", ""); w.Code != 401 {
			t.Errorf("other routes: %d", w.Code)
		}
	})
	t.Run("three mails to an address in an hour, from anywhere", func(t *testing.T) {
		t.Parallel()
		p := limited(t, access.Config{})
		for _, door := range []string{"request-password-reset", "request-verification"} {
			for i := range 3 {
				mail := []string{"alice@example.test", "Alice@Example.test", " alice@example.test "}[i]
				p.from(fmt.Sprintf("192.0.2.%d:1", i+1), "POST", "/api/collections/users/"+door, "", fmt.Sprintf(`{"email":%q}`, mail))
			}
			wantRefused(t, door, p.from("192.0.2.9:1", "POST", "/api/collections/users/"+door, "", `{"email":"alice@example.test"}`), time.Hour)
			if w := p.from("192.0.2.9:1", "POST", "/api/collections/users/"+door, "", `{"email":"bob@example.test"}`); w.Code != 204 {
				t.Fatalf("%s for another: %d %s", door, w.Code, w.Body)
			}
		}
	})
	t.Run("five tries of a code, from anywhere", func(t *testing.T) {
		t.Parallel()
		p := limited(t, access.Config{})
		for i := range 5 {
			p.from(fmt.Sprintf("192.0.2.%d:1", i+1), "POST", "/api/collections/users/auth-with-otp", "", `{"otpId":"abc","password":"1"}`)
		}
		wantRefused(t, "the sixth", p.from("192.0.2.99:1", "POST", "/api/collections/users/auth-with-otp", "", `{"otpId":"abc","password":"1"}`), 15*time.Minute)
	})
	t.Run("excluded addresses pass", func(t *testing.T) {
		t.Parallel()
		p := limited(t, access.Config{AddressPace: 2})
		s := p.Settings()
		s.RateLimits.ExcludedIPs = []string{"192.0.2.1", "198.51.100.0/24"}
		if err := p.Save(s); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{"192.0.2.1:1", "198.51.100.7:1"} {
			for range 8 {
				if w := p.from(from, "POST", signIn, "", wrong); w.Code != 400 {
					t.Fatalf("%d %s", w.Code, w.Body)
				}
			}
		}
	})
}

// The span slides: there are never more than five in any quarter of an hour.
func TestALimitSlides(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		app := collectionstest.Base(t)
		a, err := access.New(access.Config{IntentKey: bytes.Repeat([]byte{7}, 32), Auditor: &notes{}})
		if err != nil {
			t.Fatal(err)
		}
		var admitted []time.Time
		for range 60 {
			if err := access.HitSignIn(a, app, "192.0.2.1"); err == nil {
				admitted = append(admitted, time.Now())
			}
			time.Sleep(time.Minute)
		}
		if len(admitted) != 20 {
			t.Fatalf("%d of 60 in an hour", len(admitted))
		}
		for i := range admitted[5:] {
			if d := admitted[i+5].Sub(admitted[i]); d < 15*time.Minute {
				t.Fatalf("six within %s", d)
			}
		}
		time.Sleep(24 * time.Hour)
		if n, err := access.Purge(app); n != 1 || err != nil {
			t.Fatalf("%d rows purged, %v", n, err)
		}
	})
}

// 3 instances × 8 who guess at once: five get a try.
func TestAStrictLimitHoldsAcrossInstances(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	admitted := 0
	var wg sync.WaitGroup
	for _, app := range collectionstest.Several(t, 3) {
		a, err := access.New(access.Config{IntentKey: bytes.Repeat([]byte{7}, 32), Auditor: &notes{}})
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			wg.Go(func() {
				if access.HitSignIn(a, app, "192.0.2.1") == nil {
					mu.Lock()
					defer mu.Unlock()
					admitted++
				}
			})
		}
	}
	wg.Wait()
	if admitted != 5 {
		t.Fatalf("%d of 24 were admitted", admitted)
	}
}

func TestTheGeneralLimit(t *testing.T) {
	t.Parallel()
	p := limited(t, access.Config{TokenPace: 20, AddressPace: 10})
	_, token := p.user(t, "alice@example.test", true)
	ask := func(token string, n int) (ok int, last *httptest.ResponseRecorder) {
		for range n {
			if last = p.from("192.0.2.1:1", "GET", "/api/v1/account", token, ""); last.Code != 429 {
				ok++
			}
		}
		return ok, last
	}
	// a minute may turn while it asks: the span before then counts in part, so never more than a few
	if ok, last := ask(token, 60); ok < 20 || ok > 41 {
		t.Errorf("%d of a token's passed", ok)
	} else {
		wantRefused(t, "a token", last, time.Minute)
	}
	if ok, last := ask("", 40); ok < 10 || ok > 21 {
		t.Errorf("%d of a network's passed", ok)
	} else {
		wantRefused(t, "a network", last, time.Minute)
	}
}

// However a token is written, and when it is renewed, it is the same person's.
func TestTheGeneralLimitIsOneForAllTokensOfASession(t *testing.T) {
	t.Parallel()
	p := limited(t, access.Config{TokenPace: 20, AddressPace: -1})
	p.OnRecordAuthRequest("users").BindFunc(p.access.SignedIn)
	p.user(t, "alice@example.test", true)
	w := p.from("192.0.2.1:1", "POST", signIn, "", `{"identity":"alice@example.test","password":"correct horse battery"}`)
	token := tokenIn(t, w).Token
	cookie := w.Result().Cookies()[0]
	renewed := p.from("192.0.2.1:1", "POST", sessions+"/refresh", "", `{"refresh_token":"`+cookie.Value+`"}`)
	ok := 0
	for i := range 100 {
		header := []string{"", "Bearer ", "bearer ", "BeArEr ", "BEARER "}[i%5] + []string{token, tokenIn(t, renewed).Token}[i%2]
		if w := p.from("192.0.2.1:1", "GET", "/api/v1/account", header, ""); w.Code != 429 {
			ok++
		}
	}
	if ok < 20 || ok > 41 { // a minute may turn
		t.Errorf("%d of a session's passed", ok)
	}
}

// What one instance let through counts on the others a second later.
func TestTheGeneralLimitIsToldToOtherInstances(t *testing.T) {
	t.Parallel()
	var as []*access.Access
	var apps []*collectionstest.Instance
	for _, app := range collectionstest.Several(t, 2) {
		c, err := cluster.New(app, cluster.Config{Database: app.Database})
		if err != nil {
			t.Fatal(err)
		}
		a, err := access.New(access.Config{IntentKey: bytes.Repeat([]byte{7}, 32), Auditor: &notes{}, Cluster: c, AddressPace: 100})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Stop)
		as, apps = append(as, a), append(apps, app)
	}
	now := time.Now()
	if into := now.Sub(now.Truncate(time.Minute)); into > 50*time.Second {
		now = now.Add(time.Minute - into) // not across the turn of a minute
		<-time.After(time.Until(now))
	}
	for range 100 {
		if wait := access.Take(as[0], "a.key"); wait != 0 {
			t.Fatalf("refused for %s below the limit", wait)
		}
	}
	if err := access.Tell(as[0], apps[0]); err != nil {
		t.Fatal(err)
	}
	passed := 0
	deadline := time.Now().Add(30 * time.Second)
	for access.Take(as[1], "a.key") == 0 {
		if passed++; time.Now().After(deadline) {
			t.Fatal("the other instance was not told")
		}
		<-time.After(50 * time.Millisecond)
	}
	t.Logf("the other instance let %d more through", passed)
}
