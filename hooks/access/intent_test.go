package access_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

var alice = access.Actor{Type: access.TypeUser, ID: "alicealicealice"}

// resign makes a token of claims with a key, as only we should be able to.
func resign(t *testing.T, key []byte, domain string, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString(body)
	h := hmac.New(sha256.New, key)
	h.Write([]byte(domain + text))
	return text + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func claimsOf(t *testing.T, token string) map[string]any {
	t.Helper()
	text, _, _ := strings.Cut(token, ".")
	body, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// mutants returns what an attacker who holds token would try. None may be accepted.
func mutants(t *testing.T, token string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for i := range len(token) {
		for _, bit := range []byte{1, 2, 32} {
			m := []byte(token)
			m[i] ^= bit
			out["bit "+string(rune('0'+bit%10))+" of byte "+itoa(i)] = string(m)
		}
		out["cut at "+itoa(i)] = token[:i]
		out["line break at "+itoa(i)] = token[:i] + "\n" + token[i:]
	}
	text, tag, _ := strings.Cut(token, ".")
	out["no tag"] = text
	out["empty tag"] = text + "."
	out["empty claims"] = "." + tag
	out["swapped"] = tag + "." + text
	out["padded"] = token + "="
	out["a third part"] = token + "." + tag
	out["with spaces"] = " " + token
	out["a JWT with alg none"] = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + text + "."
	out["a JWT around it"] = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","kid":"../../dev/null"}`)) + "." + token
	out["huge"] = strings.Repeat("A", 1<<20) + "." + tag
	out["nothing"] = ""
	edits := map[string]func(c map[string]any){
		"another user":     func(c map[string]any) { c["user"] = "mallorymallorym" },
		"a superuser":      func(c map[string]any) { c["user_type"] = "superuser" },
		"another resource": func(c map[string]any) { c["resource"] = "server000000002" },
		"another purpose":  func(c map[string]any) { c["purpose"] = "upload" },
		"another tenant":   func(c map[string]any) { c["tenant"] = "tenant000000002" },
		"a later end":      func(c map[string]any) { c["exp"] = json.Number("99999999999999") },
		"many uses":        func(c map[string]any) { c["once"] = false },
		"another id":       func(c map[string]any) { c["jti"] = "x" },
	}
	keys := map[string][]byte{"no key": {}, "zeros": make([]byte, 32), "the token": []byte(token), "another key": bytes.Repeat([]byte{8}, 32)}
	for what, edit := range edits {
		c := claimsOf(t, token)
		edit(c)
		body, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		out[what+", old tag"] = base64.RawURLEncoding.EncodeToString(body) + "." + tag
		for with, key := range keys {
			out[what+", signed with "+with] = resign(t, key, "mamba-host intent v1\x00", c)
		}
		out[what+", signed without the domain"] = resign(t, bytes.Repeat([]byte{7}, 32), "", c)
	}
	// Signed with the right key: what only a fault of ours could mint.
	for what, edit := range map[string]func(c map[string]any){
		"a life of an hour":   func(c map[string]any) { c["exp"] = json.Number(itoa64(time.Now().Add(time.Hour).UnixMilli())) },
		"issued in an hour":   func(c map[string]any) { shift(c, time.Hour) },
		"expired an hour ago": func(c map[string]any) { shift(c, -time.Hour) },
		"version 2":           func(c map[string]any) { c["v"] = 2 },
		"an unknown claim":    func(c map[string]any) { c["admin"] = true },
	} {
		c := claimsOf(t, token)
		edit(c)
		out[what] = resign(t, bytes.Repeat([]byte{7}, 32), "mamba-host intent v1\x00", c)
	}
	return out
}

func shift(c map[string]any, by time.Duration) {
	now := time.Now().Add(by)
	c["iat"], c["exp"] = json.Number(itoa64(now.UnixMilli())), json.Number(itoa64(now.Add(30*time.Second).UnixMilli()))
}

func itoa(i int) string     { return itoa64(int64(i)) }
func itoa64(i int64) string { b, _ := json.Marshal(i); return string(b) }

func TestT15_NoMutantOfAnIntentTokenIsAccepted(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	tried := 0
	for _, once := range []bool{false, true} {
		token, _, err := p.access.Mint(alice, "console", "server000000001", "tenant000000001", 30*time.Second, once)
		if err != nil {
			t.Fatal(err)
		}
		for what, m := range mutants(t, token) {
			tried++
			if c, err := p.access.Check(p, m, "console", "server000000001"); err == nil {
				t.Errorf("accepted %s: %+v", what, c)
			}
		}
		for _, other := range [][2]string{
			{"upload", "server000000001"}, {"console.write", "server000000001"}, {"", "server000000001"}, {"CONSOLE", "server000000001"},
			{"console", "server000000002"}, {"console", ""}, {"console", "SERVER000000001"}, {"console", "server000000001 "}, {"console", "tenant000000001"},
		} {
			tried++
			if _, err := p.access.Check(p, token, other[0], other[1]); !errors.Is(err, access.ErrTokenInvalid) {
				t.Errorf("used for %q of %q: %v", other[0], other[1], err)
			}
		}
		if c, err := p.access.Check(p, token, "console", "server000000001"); err != nil || c.User != alice.ID || c.Tenant != "tenant000000001" {
			t.Errorf("the token itself, after all this: %+v %v", c, err)
		}
		if once {
			tried++
			if _, err := p.access.Check(p, token, "console", "server000000001"); !errors.Is(err, access.ErrTokenSpent) {
				t.Errorf("used twice: %v", err)
			}
		}
	}
	if tried < 300 {
		t.Errorf("only %d mutants", tried)
	}
	t.Logf("T15: %d mutants of intent tokens, 0 accepted", tried)
}

func TestASingleUseTokenIsSpentOnceHoweverManyTryAtOnce(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	token, _, err := p.access.Mint(alice, "download", "backup000000001", "tenant000000001", time.Minute, true)
	if err != nil {
		t.Fatal(err)
	}
	var good, spent atomic.Int64
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			switch _, err := p.access.Check(p, token, "download", "backup000000001"); {
			case err == nil:
				good.Add(1)
			case errors.Is(err, access.ErrTokenSpent):
				spent.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if good.Load() != 1 || spent.Load() != 39 || p.count(t, collections.SpentTokens) != 1 {
		t.Errorf("%d accepted, %d spent, %d rows", good.Load(), spent.Load(), p.count(t, collections.SpentTokens))
	}
}

// A browser mints at one instance of the panel and connects to another: what the instances share is the
// key and the table of spent tokens.
func TestAnIntentTokenIsGoodAtEveryInstanceAndSpentOnceAtAll(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	instances := []*access.Access{p.access}
	for range 2 {
		d, err := access.New(access.Config{IntentKey: bytes.Repeat([]byte{7}, 32), Auditor: p.notes})
		if err != nil {
			t.Fatal(err)
		}
		instances = append(instances, d)
	}
	many, _, err := instances[0].Mint(alice, "console", "server000000001", "tenant000000001", time.Minute, false)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range instances {
		if c, err := d.Check(p, many, "console", "server000000001"); err != nil || c.User != alice.ID {
			t.Errorf("instance %d: %+v, %v", i, c, err)
		}
	}
	for round := range 10 {
		once, _, err := instances[round%3].Mint(alice, "download", "server000000001", "tenant000000001", time.Minute, true)
		if err != nil {
			t.Fatal(err)
		}
		var taken, spent atomic.Int32
		var wg sync.WaitGroup
		for _, d := range instances {
			for range 3 {
				wg.Go(func() {
					_, err := d.Check(p, once, "download", "server000000001")
					switch {
					case err == nil:
						taken.Add(1)
					case errors.Is(err, access.ErrTokenSpent):
						spent.Add(1)
					default:
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		if taken.Load() != 1 || spent.Load() != 8 {
			t.Errorf("taken %d times, refused as spent %d times", taken.Load(), spent.Load())
		}
	}
	other, err := access.New(access.Config{IntentKey: bytes.Repeat([]byte{8}, 32), Auditor: p.notes})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Check(p, many, "console", "server000000001"); !errors.Is(err, access.ErrTokenInvalid) {
		t.Errorf("an instance with another key: %v", err)
	}
}

func TestAnIntentTokenEndsInItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, err := access.New(access.Config{IntentKey: bytes.Repeat([]byte{7}, 32), Auditor: &notes{}})
		if err != nil {
			t.Fatal(err)
		}
		token, exp, err := d.Mint(alice, "console", "server000000001", "", access.MaxIntentTTL, false)
		if err != nil || !exp.Equal(time.Now().Add(access.MaxIntentTTL)) {
			t.Fatalf("%v %v", exp, err)
		}
		<-time.After(access.MaxIntentTTL - time.Millisecond)
		if _, err := d.Check(nil, token, "console", "server000000001"); err != nil {
			t.Errorf("a millisecond before its end: %v", err)
		}
		<-time.After(time.Millisecond)
		if _, err := d.Check(nil, token, "console", "server000000001"); !errors.Is(err, access.ErrTokenExpired) {
			t.Errorf("at its end: %v", err)
		}
	})
}

func TestMintRefusesWhatWouldBeTooMuch(t *testing.T) {
	t.Parallel()
	p := newPanel(t, nil)
	for _, c := range []struct {
		name              string
		who               access.Actor
		purpose, resource string
		ttl               time.Duration
	}{
		{"a life over a minute", alice, "console", "s", access.MaxIntentTTL + time.Millisecond},
		{"no life", alice, "console", "s", 0},
		{"a life that ended", alice, "console", "s", -time.Second},
		{"no purpose", alice, "", "s", time.Second},
		{"a purpose with a star", alice, "console.*", "s", time.Second},
		{"no resource", alice, "console", "", time.Second},
		{"nobody", access.Actor{}, "console", "s", time.Second},
	} {
		if token, _, err := p.access.Mint(c.who, c.purpose, c.resource, "", c.ttl, false); err == nil {
			t.Errorf("%s: minted %s", c.name, token)
		}
	}
}

func TestRedeemReturnsTheAccountAsItIsNow(t *testing.T) {
	t.Parallel()
	p := newPanel(t, func(p *panel, g *router.RouterGroup[*core.RequestEvent]) {
		g.GET("/socket", func(e *core.RequestEvent) error {
			token, err := access.BearerOf(e.Request)
			if err != nil {
				return err
			}
			a, c, err := p.access.Redeem(e, token, "console", "server000000001")
			if err != nil {
				return err
			}
			return e.JSON(200, map[string]any{"id": a.ID, "verified": a.Verified, "super": a.Superuser, "tenant": c.Tenant, "request": a.Request})
		})
	})
	user, _ := p.user(t, "ann@example.test", false)
	root, _ := p.superuser(t)
	mint := func(r *core.Record, kind string) string {
		token, _, err := p.access.Mint(access.Actor{Type: kind, ID: r.Id}, "console", "server000000001", "tenant000000001", time.Minute, false)
		if err != nil {
			t.Fatal(err)
		}
		return "mamba.v1, bearer." + token
	}
	offer := mint(user, access.TypeUser)
	user.SetVerified(true)
	if err := p.Save(user); err != nil {
		t.Fatal(err)
	}
	rec := p.call("GET", "/api/v1/socket", "", "", "Sec-WebSocket-Protocol", offer)
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), user.Id) || !strings.Contains(rec.Body.String(), `"verified":true`) || !strings.Contains(rec.Body.String(), rec.Header().Get(access.RequestIDHeader)) {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if rec := p.call("GET", "/api/v1/socket", "", "", "Sec-WebSocket-Protocol", mint(root, access.TypeSuperuser)); !strings.Contains(rec.Body.String(), `"super":true`) {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	refused(t, p.call("GET", "/api/v1/socket", "", "", "Sec-WebSocket-Protocol", mint(user, access.TypeSuperuser)), 401, "unauthenticated")
	if err := p.Delete(user); err != nil {
		t.Fatal(err)
	}
	refused(t, p.call("GET", "/api/v1/socket", "", "", "Sec-WebSocket-Protocol", offer), 401, "unauthenticated")
	refused(t, p.call("GET", "/api/v1/socket", "", "", "Sec-WebSocket-Protocol", "mamba.v1, bearer.x"), 401, "token_invalid")
}

func TestBearerOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		offers []string
		want   string
	}{
		{"both in one header", []string{"mamba.v1, bearer.abc.def"}, "abc.def"},
		{"in the other order and two headers", []string{"bearer.abc", "mamba.v1"}, "abc"},
		{"no bearer", []string{"mamba.v1"}, ""},
		{"an empty bearer", []string{"mamba.v1, bearer."}, ""},
		{"no version", []string{"bearer.abc"}, ""},
		{"another version", []string{"mamba.v2, bearer.abc"}, ""},
		{"two bearers", []string{"mamba.v1, bearer.abc, bearer.def"}, ""},
		{"too many offers", []string{"mamba.v1, bearer.abc" + strings.Repeat(", x", 10)}, ""},
		{"nothing", nil, ""},
	} {
		r := &http.Request{Header: http.Header{"Sec-Websocket-Protocol": c.offers}}
		got, err := access.BearerOf(r)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q %v", c.name, got, err)
		}
	}
}
