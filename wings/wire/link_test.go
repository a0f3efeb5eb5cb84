package wire_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

func TestJoinTokenSurvivesTheCommandLine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "token")
		der := rapid.SliceOf(rapid.Byte()).Draw(t, "root")
		in := wire.JoinToken{Token: base64.RawURLEncoding.EncodeToString(raw), Fingerprint: wire.Fingerprint(der)}
		out, err := wire.ParseJoinToken("  " + in.String() + "\n")
		if err != nil || out != in {
			t.Fatalf("%+v became %+v, %v", in, out, err)
		}
		text := in.String()
		cut := rapid.IntRange(0, len(text)-1).Draw(t, "cut")
		if _, err := wire.ParseJoinToken(text[:cut]); !errors.Is(err, wire.ErrJoinToken) {
			t.Fatalf("the first %d letters were taken: %v", cut, err)
		}
	})
}

func TestGarbledJoinTokensAreRefused(t *testing.T) {
	t.Parallel()
	token, sum := strings.Repeat("A", 43), wire.Fingerprint(nil)
	if _, err := wire.ParseJoinToken(token + "." + sum); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", ".", token, "." + sum, token + ".", token + "." + sum + "0", token + "." + strings.ToUpper(sum), token + "." + sum + "." + sum,
		token + "A." + sum, token[:42] + "=." + sum, token[:42] + "!." + sum, token[:42] + "B." + sum, token + " ." + sum, token + ".g" + sum[1:],
	} {
		if _, err := wire.ParseJoinToken(bad); !errors.Is(err, wire.ErrJoinToken) {
			t.Errorf("%q was taken: %v", bad, err)
		}
	}
}

func TestErrorSaysItsCode(t *testing.T) {
	t.Parallel()
	e := &wire.Error{Status: 409, Code: "superseded", Message: "An older epoch."}
	if got := e.Error(); got != "409 superseded: An older epoch." {
		t.Errorf("got %q", got)
	}
}
