package hooks

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
)

// A browser that gets push messages is forgotten with the session that it subscribed in, however that ends, and
// with nobody else's.
func TestABrowserEndsWithItsSession(t *testing.T) {
	t.Parallel()
	h := serve(t, newApp(t), nil)
	h.asSuperuser()
	s := &settled{house: h}
	did := func(token, method, path, body string, want int) string {
		t.Helper()
		status, _, raw := s.ask(token, "", method, path, plain, body)
		if status != want {
			t.Fatalf("%s %s: %d %s", method, path, status, raw)
		}
		return raw
	}
	user := func(name string) string {
		r, err := h.app.FindAuthRecordByEmail("users", name+"@example.org")
		must(t, err)
		return r.Id
	}
	signIn := func(name string) string {
		t.Helper()
		raw := did("", "POST", "/api/collections/users/auth-with-password", `{"identity":"`+name+`@example.org","password":"a-long-password"}`, 200)
		return decode[struct{ Token string }](t, raw).Token
	}
	subscribe := func(token string) {
		t.Helper()
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		must(t, err)
		encode := base64.RawURLEncoding.EncodeToString
		did(token, "POST", "/api/v1/notifications/push", fmt.Sprintf(`{"endpoint":"https://push.example/%s","keys":{"p256dh":%q,"auth":%q}}`,
			core.GenerateDefaultRandomId(), encode(key.PublicKey().Bytes()), encode(make([]byte, 16))), 201)
	}
	kept := func(id string) int64 { return h.count(collections.PushSubscriptions, dbx.HashExp{"user": id}) }
	for _, c := range []struct {
		name string
		left int64 // of two browsers, each in its session
		end  func(id, here, there string)
	}{
		{"signsout", 1, func(_, here, _ string) { did(here, "DELETE", "/api/v1/account/sessions/current", "", 204) }},
		{"revoked", 1, func(_, here, _ string) {
			for _, one := range decode[struct {
				Items []struct {
					ID      string
					Current bool
				}
			}](t, did(here, "GET", "/api/v1/account/sessions", "", 200)).Items {
				if !one.Current {
					did(here, "DELETE", "/api/v1/account/sessions/"+one.ID, "", 204)
				}
			}
		}},
		{"others", 1, func(_, here, _ string) { did(here, "DELETE", "/api/v1/account/sessions/others", "", 200) }},
		{"password", 1, func(id, here, _ string) {
			did(here, "PATCH", "/api/collections/users/records/"+id, `{"oldPassword":"a-long-password","password":"another-long-password","passwordConfirm":"another-long-password"}`, 200)
		}},
		{"deleted", 0, func(id, _, _ string) { did(h.super, "DELETE", "/api/collections/users/records/"+id, "", 204) }},
	} {
		s.person(c.name + "@example.org")
		id, here, there := user(c.name), signIn(c.name), signIn(c.name)
		subscribe(here)
		subscribe(there)
		c.end(id, here, there)
		collectionstest.Eventually(t, c.name+": the browser of the session is forgotten", func() bool { return kept(id) <= c.left })
		if n := kept(id); n != c.left {
			t.Errorf("%s: %d browsers are left, wanted %d", c.name, n, c.left)
		}
		if c.name == "password" && len(decode[struct{ Items []any }](t, did(signInAgain(t, s, c.name), "GET", "/api/v1/notifications/push", "", 200)).Items) != 1 {
			t.Error("the browser of who changed the password himself gets nothing any more")
		}
	}
	root, err := h.app.FindAuthRecordByEmail(core.CollectionNameSuperusers, "root@example.org")
	must(t, err)
	subscribe(h.super)
	root.SetPassword("another-long-password")
	must(t, h.app.Save(root))
	if n := kept(root.Id); n != 0 {
		t.Errorf("an operator's password is new, and %d of his browsers get messages", n)
	}
	s.person("robot@example.org")
	maker := signIn("robot")
	did(maker, "POST", "/api/v1/tenants", `{"name":"Robots"}`, 201)
	secret := decode[struct{ Secret string }](t, did(maker, "POST", "/api/v1/account/keys", `{"name":"robot","permissions":["server.read"]}`, 201)).Secret
	if status, out, raw := s.ask(secret, "", "POST", "/api/v1/notifications/push", plain, `{}`); status != 403 || out.Code != "key_not_here" {
		t.Errorf("an API key subscribes a browser: %d %s", status, raw)
	}
}

func signInAgain(t *testing.T, s *settled, name string) string {
	t.Helper()
	status, _, raw := s.ask("", "", "POST", "/api/collections/users/auth-with-password", plain, `{"identity":"`+name+`@example.org","password":"another-long-password"}`)
	if status != 200 {
		t.Fatalf("%d %s", status, raw)
	}
	return decode[struct{ Token string }](t, raw).Token
}
