package audit

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRedaction(t *testing.T) {
	t.Parallel()
	const canary = "c4n4ryc4n4ryc4n4ry"
	for _, c := range []struct {
		name     string
		metadata map[string]any
		keeps    string // text that has to stay
		hides    bool
	}{
		{"a password", map[string]any{"password": canary}, `"password"`, true},
		{"camel case", map[string]any{"clientSecret": canary}, `"clientSecret"`, true},
		{"an acronym before the word", map[string]any{"APIToken": canary}, "", true},
		{"upper snake case, as in environment variables", map[string]any{"RCON_PASSWORD": canary}, "", true},
		{"kebab case", map[string]any{"x-api-key": canary}, "", true},
		{"a key that is only key", map[string]any{"key": canary}, "", true},
		{"nested in lists and objects", map[string]any{"a": []any{map[string]any{"b": map[string]any{"token": canary}}}}, "", true},
		{"a whole object under a telling name", map[string]any{"credentials": map[string]any{"user": canary}}, "", true},
		{"a number under a telling name", map[string]any{"pin": 123456789}, Redacted, true},
		{"a struct", map[string]any{"in": struct {
			Token string `json:"token"`
		}{canary}}, "", true},
		{"a bearer header inside a text", map[string]any{"note": "sent Bearer " + canary + " to it"}, "to it", true},
		{"a password in an address", map[string]any{"url": "https://joe:" + canary + "@example.com/x"}, "example.com/x", true},
		{"a JSON Web Token", map[string]any{"note": "eyJhbGciOiJIUzI1NiJ9." + canary + "." + canary}, "", true},
		{"a Stripe key", map[string]any{"note": "sk_live_" + canary}, "", true},
		{"our own sealed text", map[string]any{"note": "m1:" + canary + canary}, "", true},
		{"an intent token", map[string]any{"note": "eyJ2IjoxLCJwIjoiY29uc29sZSJ9." + canary}, "", true},
		{"an API key of ours", map[string]any{"note": "?actor=mk_" + strings.ReplaceAll(canary, "4", "a") + canary}, "?actor=" + Redacted, false},
		{"a refresh token", map[string]any{"note": "mr1.abcdefghijklmno.3." + canary}, "", true},
		{"a checkpoint", map[string]any{"note": "mc1.abcdefghijklmno." + canary}, "", true},
		{"a private key", map[string]any{"note": "-----BEGIN EC PRIVATE KEY-----\n" + canary + "\n-----END EC PRIVATE KEY-----"}, "", true},
		{"a private key that is cut", map[string]any{"note": "-----BEGIN PRIVATE KEY-----\n" + canary}, "", true},
		{"a Discord webhook", map[string]any{"note": "https://discord.com/api/webhooks/1/" + canary}, "", true},
		{"a secret as a key", map[string]any{"sk_live_" + canary: 1}, "", true},
		{"an ordinary name that holds a word", map[string]any{"keyboard": canary, "monkey": "x", "tokenize": "y", "compass": "z"}, canary, false},
		{"a flag says that something is secret", map[string]any{"secret": true}, "true", false},
		{"an empty value shows that nothing is set", map[string]any{"password": ""}, `""`, false},
	} {
		out, err := redactedJSON(c.metadata)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := string(out)
		if c.hides && (strings.Contains(got, canary) || strings.Contains(got, "123456789") || !strings.Contains(got, Redacted)) {
			t.Errorf("%s: leaked %s", c.name, got)
		}
		if !strings.Contains(got, c.keeps) {
			t.Errorf("%s: %s lost %q", c.name, got, c.keeps)
		}
	}
}

func TestDeepMetadataIsCut(t *testing.T) {
	t.Parallel()
	deep := map[string]any{"x": "leaf"}
	for range 50 {
		deep = map[string]any{"a": deep}
	}
	out, err := redactedJSON(deep)
	if err != nil || strings.Contains(string(out), "leaf") || !strings.Contains(string(out), Redacted) {
		t.Fatalf("%s %v", out, err)
	}
	if _, err := redactedJSON(map[string]any{"f": func() {}}); err == nil {
		t.Fatal("what is no JSON was taken")
	}
}

// Whatever surrounds it, a value under a telling name never stays; and redaction changes nothing twice.
func TestRedactionProperties(t *testing.T) {
	t.Parallel()
	words := []string{"password", "token", "secret", "key", "privateKey", "API_KEY", "client-secret"}
	rapid.Check(t, func(r *rapid.T) {
		canary := "canary" + rapid.StringMatching(`[a-z0-9]{12}`).Draw(r, "canary")
		var v any = map[string]any{rapid.SampledFrom(words).Draw(r, "word"): canary}
		for i := range rapid.IntRange(0, 8).Draw(r, "depth") {
			if rapid.Bool().Draw(r, fmt.Sprint("list", i)) {
				v = []any{rapid.String().Draw(r, "beside"), v}
			} else {
				v = map[string]any{rapid.StringMatching(`[a-z]{1,5}`).Draw(r, "name"): v}
			}
		}
		out, err := redactedJSON(map[string]any{"data": v})
		if err != nil || strings.Contains(string(out), canary) {
			r.Fatalf("%s %v", out, err)
		}
		var again map[string]any
		if err := json.Unmarshal(out, &again); err != nil {
			r.Fatal(err)
		}
		if twice, _ := redactedJSON(again); string(twice) != string(out) {
			r.Fatalf("%s became %s", out, twice)
		}
	})
}
