package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

// Bounds of stored metadata. The column takes 32 KiB.
const (
	maxMetadataBytes = 30 << 10
	maxMetadataDepth = 12
)

// Redacted stands where a secret was.
const Redacted = "[redacted]"

// secretWords are the words of a key's name that make its value a secret, whatever it holds.
var secretWords = map[string]bool{
	"password": true, "passwd": true, "pwd": true, "pass": true, "passphrase": true, "secret": true, "secrets": true,
	"token": true, "tokens": true, "key": true, "keys": true, "apikey": true, "authorization": true,
	"cookie": true, "cookies": true, "credential": true, "credentials": true, "private": true, "otp": true, "totp": true,
	"pin": true, "mnemonic": true, "bearer": true, "jwt": true, "dsn": true,
}

// secretValue finds secrets by their shape, wherever they are.
var secretValue = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(strings.Join([]string{
		`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)`,
		`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?`, // JSON Web Token, and our intent tokens
		`\bmk_[a-z2-7]{10,}`,                                           // our API keys
		`\bm[rc]1\.[A-Za-z0-9._-]{8,}`,                                 // our refresh tokens and checkpoints
		`\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{8,}`,                 // Stripe keys
		`\bwhsec_[A-Za-z0-9+/=]{8,}`,                                   // Stripe webhook secret
		`\b(?:ghp|gho|ghs|github_pat|xox[abpr])[_-][A-Za-z0-9_-]{10,}`, // GitHub, Slack
		`\bAKIA[0-9A-Z]{16}\b`,                                         // AWS access key id
		`\bm1:[A-Za-z0-9+/]{24,}`,                                      // our own sealed text
		`(?i)\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`,
		`https://(?:[a-z]+\.)?discord(?:app)?\.com/api/webhooks/\S+`,
		`(?i)\b[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@`, // user:password@ in an address
	}, "|"))
})

// redactedJSON returns the metadata as JSON with sorted keys and without secrets: values under a
// telling name are replaced whole, secrets elsewhere by their shape. More than the bound is replaced
// by its size.
func redactedJSON(metadata map[string]any) ([]byte, error) {
	if len(metadata) == 0 {
		return []byte("{}"), nil
	}
	raw, err := json.Marshal(metadata)
	if err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber() // an integer above 2^53 stays itself
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("decode metadata: %w", err)
	}
	out, err := json.Marshal(redact(tree, maxMetadataDepth))
	if err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	if len(out) > maxMetadataBytes {
		return fmt.Appendf(nil, `{"omitted_bytes":%d}`, len(out)), nil
	}
	return out, nil
}

func redact(v any, depth int) any {
	if depth == 0 {
		return Redacted
	}
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			if namesSecret(k) && !empty(x) {
				x = Redacted
			}
			out[redactText(k)] = redact(x, depth-1)
		}
		return out
	case []any:
		for i := range v {
			v[i] = redact(v[i], depth-1)
		}
		return v
	case string:
		return redactText(v)
	}
	return v
}

func redactText(s string) string {
	return secretValue().ReplaceAllString(strings.ReplaceAll(s, "\x00", ""), Redacted)
}

// empty also names booleans: "secret": true says that something is one.
func empty(v any) bool { return v == nil || v == "" || v == true || v == false }

// namesSecret splits a key into words (snake, kebab, dots, camel) and looks for a telling one.
func namesSecret(key string) bool {
	if secretWords[strings.ToLower(key)] {
		return true
	}
	var word []rune
	found := false
	flush := func() {
		found = found || secretWords[strings.ToLower(string(word))]
		word = word[:0]
	}
	rs := []rune(key)
	for i, r := range rs {
		switch {
		case !unicode.IsLetter(r):
			flush()
			continue
		case unicode.IsUpper(r) && i > 0 && unicode.IsLower(rs[i-1]):
			flush()
		case unicode.IsUpper(r) && i > 0 && i+1 < len(rs) && unicode.IsUpper(rs[i-1]) && unicode.IsLower(rs[i+1]):
			flush() // the T of APIToken
		}
		word = append(word, r)
	}
	flush()
	return found
}
