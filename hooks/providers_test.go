package hooks

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

	"github.com/mambahost/mamba/collections"
)

// issuer is an OpenID provider that lets in whoever comes with the right client secret.
type issuer struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string // client secrets; guarded by mu
	who  string   // lets in; guarded by mu
}

func (i *issuer) letIn(who string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.who = who
}

func newIssuer(t *testing.T, secret string) *issuer {
	t.Helper()
	i := &issuer{who: "oidc"}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		_, given, ok := r.BasicAuth()
		if !ok {
			given = r.FormValue("client_secret")
		}
		i.mu.Lock()
		i.seen = append(i.seen, given)
		i.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		if given != secret {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
			return
		}
		_, _ = w.Write([]byte(`{"access_token":"x","token_type":"Bearer","expires_in":3600}`))
	})
	mux.HandleFunc("GET /userinfo", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		i.mu.Lock()
		defer i.mu.Unlock()
		_, _ = w.Write([]byte(`{"sub":"` + i.who + `","email":"` + i.who + `@example.org","email_verified":true,"name":"Olga"}`))
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// storedOptions are the options of the accounts' collection as the database holds them.
func storedOptions(t *testing.T, app core.App) string {
	t.Helper()
	var text string
	must(t, app.DB().Select("options").From("_collections").Where(dbx.HashExp{"name": "users"}).Row(&text))
	return text
}

func (h *house) signInAtProvider() (int, string) {
	h.t.Helper()
	return h.tieProvider("")
}

// tieProvider signs in at the provider as who has a token.
func (h *house) tieProvider(token string) (int, string) {
	h.t.Helper()
	req := httptest.NewRequest("POST", "/api/collections/users/auth-with-oauth2", strings.NewReader(`{"provider":"oidc","code":"c","codeVerifier":"v","redirectURL":"http://127.0.0.1/x"}`))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", token)
	rec := httptest.NewRecorder()
	h.mux.ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

// A provider is another way into an account, so a session alone does not tie one to it.
func TestAProviderIsTiedWithAProof(t *testing.T) {
	t.Parallel()
	provider := newIssuer(t, "secret")
	s := settle(t)
	if status, raw := s.do("PATCH", "/api/collections/users", `{"oauth2":{"enabled":true,"providers":[{"name":"oidc","clientId":"mamba","clientSecret":"secret","authURL":"`+provider.URL+
		`/authorize","tokenURL":"`+provider.URL+`/token","userInfoURL":"`+provider.URL+`/userinfo"}]}}`); status != 200 {
		t.Fatalf("%d %s", status, raw)
	}
	s.person("owner-of-it@example.org")
	token := s.signIn("owner-of-it@example.org")
	user, err := s.app.FindAuthRecordByEmail("users", "owner-of-it@example.org")
	must(t, err)
	ties := func() int64 { return s.count("_externalAuths", dbx.HashExp{"recordRef": user.Id}) }
	age := func(by time.Duration) {
		_, err := s.app.NonconcurrentDB().Update(collections.Sessions, dbx.Params{"proven_at": collections.Stamp(time.Now().Add(-by))}, dbx.HashExp{"user": user.Id}).Execute()
		must(t, err)
	}
	age(time.Hour)
	if status, raw := s.tieProvider(token); status != 403 || !strings.Contains(raw, "proof_required") || ties() != 0 {
		t.Errorf("an old session ties a provider: %d %s", status, raw)
	}
	if status, raw := s.tieProvider(s.as("owner-of-it@example.org").super); status != 403 || ties() != 0 {
		t.Errorf("a token without a session: %d %s", status, raw)
	}
	age(0)
	if status, raw := s.tieProvider(token); status != 200 || ties() != 1 {
		t.Errorf("after a proof: %d %s", status, raw)
	}
	age(time.Hour)
	if status, raw := s.tieProvider(token); status != 200 || ties() != 1 {
		t.Errorf("signing in with it, signed in: %d %s", status, raw)
	}
	tie, err := s.app.FindFirstExternalAuthByExpr(dbx.HashExp{"recordRef": user.Id})
	must(t, err)
	remove := "/api/collections/_externalAuths/records/" + tie.Id
	age(time.Hour)
	if status, out, raw := s.ask(token, "", "DELETE", remove, plain, ""); status != 403 || out.Code != "proof_required" || ties() != 1 {
		t.Errorf("an old session unties it: %d %s", status, raw)
	}
	age(0)
	if status, _, raw := s.ask(token, "", "DELETE", remove, plain, ""); status != 204 || ties() != 0 {
		t.Errorf("after a proof: %d %s", status, raw)
	}
	if n := s.count(collections.AuditLogs, dbx.HashExp{"action": "user.provider_remove", "actor": user.Id, "resource": user.Id}); n != 1 {
		t.Errorf("that it was untied is written %d times", n)
	}
}

// The client secret of a provider is shown to the provider and to nobody else, whatever it was stored by, and a rotation
// of keys changes how it is stored and nothing that anybody notices.
func TestClientSecretsOfProvidersAreSealed(t *testing.T) {
	t.Parallel()
	const secret = "canary-client-secret-5150"
	provider := newIssuer(t, secret)
	h := serve(t, newApp(t), nil).asSuperuser()
	body := map[string]any{"oauth2": map[string]any{"enabled": true, "providers": []map[string]any{{
		"name": "oidc", "clientId": "mamba", "clientSecret": secret,
		"authURL": provider.URL + "/authorize", "tokenURL": provider.URL + "/token", "userInfoURL": provider.URL + "/userinfo",
	}}}}
	raw, err := json.Marshal(body)
	must(t, err)
	quiet := func(what, text string) {
		t.Helper()
		if strings.Contains(text, secret) {
			t.Errorf("%s holds the secret: %.300s", what, text)
		}
	}
	status, answer := h.do("PATCH", "/api/collections/users", string(raw))
	if status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	quiet("the answer", answer)
	first := storedOptions(t, h.app)
	quiet("the database", first)
	if !strings.Contains(first, sealedProvider) {
		t.Fatalf("nothing is sealed: %s", first)
	}
	works := func(when string) {
		t.Helper()
		if status, answer := h.signInAtProvider(); status != 200 || !strings.Contains(answer, "oidc@example.org") {
			t.Fatalf("signing in %s: %d %s", when, status, answer)
		}
		_, answer := h.do("GET", "/api/collections/users", "")
		quiet("the collection "+when, answer)
		quiet("the database "+when, storedOptions(t, h.app))
	}
	works("at first")
	for _, kind := range []string{"account.password_changed", "account.email_changed"} { // he has signed up, and nothing else
		if n, err := h.app.CountRecords(collections.Events, dbx.HashExp{"kind": kind}); err != nil || n != 0 {
			t.Errorf("%s stands %d times among the events, %v", kind, n, err)
		}
	}
	// Who signs up with a provider makes an account like any other.
	for n, want := range []int{200, 200, 429, 429} {
		provider.letIn(fmt.Sprint("oidc", n))
		if status, answer := h.signInAtProvider(); status != want {
			t.Errorf("account %d of a network: %d %s", n+2, status, answer)
		}
	}
	provider.letIn("oidc")
	works("after too many accounts")
	// Stored again as the dashboard does, with what it was shown.
	status, shown := h.do("GET", "/api/collections/users", "")
	collection := decode[map[string]any](t, shown)
	again, err := json.Marshal(map[string]any{"oauth2": collection["oauth2"]})
	must(t, err)
	if status, answer := h.do("PATCH", "/api/collections/users", string(again)); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	if status != 200 || storedOptions(t, h.app) != first {
		t.Error("what was sealed was sealed again")
	}
	works("after a save")
	if _, err := h.rotator().rotate(t.Context(), false, nil); err != nil {
		t.Fatal(err)
	}
	if storedOptions(t, h.app) == first {
		t.Error("a rotation left the secret as it was")
	}
	works("after a rotation")
	// One of before.
	_, err = h.app.NonconcurrentDB().Update("_collections", dbx.Params{"options": strings.Replace(storedOptions(t, h.app), sealedText(t, storedOptions(t, h.app)), secret, 1)}, dbx.HashExp{"name": "users"}).Execute()
	must(t, err)
	must(t, h.app.ReloadCachedCollections())
	if !strings.Contains(storedOptions(t, h.app), secret) {
		t.Fatal("it is not in clear before")
	}
	must(t, encryptProviders(h.app, h.Secrets))
	works("after a start")
	// One that does not open is not shown to anybody, and the answer does not tell what it is.
	_, err = h.app.NonconcurrentDB().Update("_collections", dbx.Params{"options": strings.Replace(storedOptions(t, h.app), sealedText(t, storedOptions(t, h.app)), sealedProvider+"bm9uc2Vuc2U", 1)}, dbx.HashExp{"name": "users"}).Execute()
	must(t, err)
	must(t, h.app.ReloadCachedCollections())
	if status, answer := h.signInAtProvider(); status < 400 || strings.Contains(answer, "bm9uc2Vuc2U") {
		t.Errorf("a secret that does not open: %d %s", status, answer)
	}
	provider.mu.Lock()
	defer provider.mu.Unlock()
	for _, seen := range provider.seen {
		if seen != secret {
			t.Errorf("the provider was shown %q", seen)
		}
	}
}

// sealedText is the sealed secret in options.
func sealedText(t *testing.T, options string) string {
	t.Helper()
	_, after, ok := strings.Cut(options, sealedProvider)
	if !ok {
		t.Fatal("nothing is sealed")
	}
	text, _, _ := strings.Cut(after, `"`)
	return sealedProvider + text
}
