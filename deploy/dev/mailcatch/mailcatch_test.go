package mailcatch

import (
	"net/http/httptest"
	"net/smtp"
	"strings"
	"testing"
)

func TestCatchesAMailWithBothBodies(t *testing.T) {
	t.Parallel()
	s, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	body := strings.ReplaceAll(`Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary=b

--b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: base64

aGVsbG8=
--b
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

<a href=3D"x#token=3D1">go</a>
--b--
`, "\n", "\r\n")
	if err := smtp.SendMail(s.Addr, nil, "a@example.org", []string{"b@example.org"}, []byte(body)); err != nil {
		t.Fatal(err)
	}
	got := s.To("B@example.org")
	if len(got) != 1 || got[0].Subject != "Grüße" || got[0].Text != "hello" || !strings.Contains(got[0].HTML, `href="x#token=1"`) {
		t.Fatalf("got %+v", got)
	}
	if len(s.To("c@example.org")) != 0 {
		t.Error("somebody else's mail")
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	for _, part := range []string{"<h2>Grüße</h2>", "to b@example.org", `sandbox="allow-popups allow-popups-to-escape-sandbox"`, "&lt;a href=&#34;x#token=1&#34;&gt;"} {
		if !strings.Contains(w.Body.String(), part) {
			t.Errorf("%q is not on the page %s", part, w.Body)
		}
	}
	w = httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/messages?to=c@example.org", nil))
	if w.Body.String() != "[]\n" {
		t.Errorf("no mails are %q", w.Body)
	}
}

// A server that is stopped as soon as it was started stops: it may not have begun to serve.
func TestCloseAtOnce(t *testing.T) {
	t.Parallel()
	for range 200 {
		s, err := Start()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
