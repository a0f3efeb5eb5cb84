package hooks

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

// shapes are what a page of another site can have the browser of somebody who is signed in send.
var shapes = map[string]map[string]string{
	"told by the browser":    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example", "Content-Type": "application/json"},
	"another origin":         {"Origin": "https://evil.example", "Content-Type": "application/json"},
	"an opaque origin":       {"Origin": "null", "Content-Type": "application/json"},
	"a form":                 {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Mode": "navigate"},
	"nothing but the cookie": {"Content-Type": "text/plain"},
	"a sibling's page":       {"Sec-Fetch-Site": "same-site", "Origin": "https://games.panel.example", "Content-Type": "application/json"},
}

// T23: every route that changes something × what another site can make a browser send, with the one cookie that there is.
func TestT23_NoOtherSiteChangesAnything(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), func(c *Config) { c.PublicURL = "https://panel.example" })
	u, err := h.demo().Accounts()
	must(t, err)
	_ = u
	account, err := h.app.FindAuthRecordByEmail("users", "owner@demo.example")
	must(t, err)
	account.SetPassword("a-long-password")
	must(t, h.app.Save(account))
	credentials := `{"identity":"owner@demo.example","password":"a-long-password"}`
	send := func(method, path, body, cookie string, headers map[string]string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, "https://panel.example"+path, strings.NewReader(body))
		for name, value := range headers {
			req.Header.Set(name, value)
		}
		if cookie != "" {
			req.AddCookie(&http.Cookie{Name: access.RefreshCookie, Value: cookie})
		}
		rec := httptest.NewRecorder()
		h.mux.ServeHTTP(rec, req)
		return rec
	}
	own := map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "https://panel.example", "Content-Type": "application/json"}
	cookieOf := func(rec *httptest.ResponseRecorder) string {
		t.Helper()
		for _, c := range rec.Result().Cookies() {
			if c.Name == access.RefreshCookie {
				return c.Value
			}
		}
		t.Fatalf("no cookie: %d %s", rec.Code, rec.Body)
		return ""
	}
	cookie := cookieOf(send("POST", "/api/collections/users/auth-with-password", credentials, "", own))

	unsafe := []string{
		"POST /api/collections/users/auth-with-password", "POST /api/collections/users/auth-with-otp", "POST /api/collections/users/request-otp", "POST /api/collections/users/records",
		"POST /api/collections/users/request-password-reset", "POST /api/collections/users/confirm-password-reset", "POST /api/collections/users/request-verification", "POST /api/collections/users/request-email-change",
		"POST /api/collections/_superusers/auth-with-password", "PATCH /api/collections/users/records/" + account.Id, "DELETE /api/collections/users/records/" + account.Id, "POST /api/realtime", "PATCH /api/settings",
	}
	for _, route := range routes(t) {
		method, path, _ := strings.Cut(route, " ")
		if method != "GET" {
			unsafe = append(unsafe, method+" /api/v1"+regexp.MustCompile(`\{[a-z]+\}`).ReplaceAllString(path, "aaaaaaaaaaaaaaa"))
		}
	}
	written := func() int64 {
		return h.count(collections.AuditLogs, dbx.NewExp("1=1")) + h.count(collections.Sessions, dbx.NewExp("1=1")) + h.count("users", dbx.NewExp("1=1"))
	}
	before, tried, accepted := written(), 0, 0
	for _, route := range unsafe {
		method, path, _ := strings.Cut(route, " ")
		for what, headers := range shapes {
			body := credentials
			if headers["Content-Type"] == "application/x-www-form-urlencoded" {
				body = "identity=owner%40demo.example&password=a-long-password&email=x%40example.org"
			} else if strings.HasSuffix(path, "/refresh") {
				body = "{}"
			}
			tried++
			rec := send(method, path, body, cookie, headers)
			var out struct{ Code string }
			_ = json.Unmarshal(rec.Body.Bytes(), &out)
			if rec.Code != http.StatusForbidden || out.Code != "cross_origin" || rec.Header().Get("Set-Cookie") != "" {
				accepted++
				t.Errorf("%s, %s: %d %.200s", route, what, rec.Code, rec.Body)
			}
		}
	}
	if n := written() - before; n != 0 {
		t.Errorf("%d rows were written by pages of other sites", n)
	}
	// The own page goes on, and so does a program.
	if rec := send("POST", "/api/v1/account/sessions/refresh", "{}", cookie, own); rec.Code != 200 {
		t.Errorf("the own page: %d %s", rec.Code, rec.Body)
	} else {
		cookie = cookieOf(rec)
	}
	if rec := send("POST", "/api/v1/account/sessions/refresh", "{}", cookie, map[string]string{"Origin": "https://panel.example", "Content-Type": "application/json"}); rec.Code != 200 {
		t.Errorf("the own page in an older browser: %d %s", rec.Code, rec.Body)
	}
	if rec := send("POST", "/api/collections/users/auth-with-password", credentials, "", map[string]string{"Content-Type": "application/json", access.RefreshHeader: "1"}); rec.Code != 200 {
		t.Errorf("a program: %d %s", rec.Code, rec.Body)
	}
	t.Logf("T23: %d requests of other sites to %d routes, %d accepted", tried, len(unsafe), accepted)
}
