package mailcatch

import (
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
}
