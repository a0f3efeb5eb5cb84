package hooks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/mail"
	netsmtp "net/smtp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/mailer"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/jobs"
)

// silent is a mail server that takes every connection, says what it has to say and then nothing more.
type silent struct {
	net.Listener
	came, open atomic.Int64
}

func newSilent(t *testing.T, greeting string) *silent {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &silent{Listener: l}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background()) // or a test that fails would not end
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.came.Add(1)
			s.open.Add(1)
			wg.Go(func() {
				defer s.open.Add(-1)
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				_, _ = io.WriteString(conn, greeting)
				_, _ = io.Copy(io.Discard, conn) // until the other side has had enough
			})
		}
	})
	t.Cleanup(func() { l.Close(); cancel(); wg.Wait() })
	return s
}

// mailsTo has an app send its mails to a server.
func mailsTo(t *testing.T, app core.App, l net.Listener, change func(*core.SMTPConfig)) {
	t.Helper()
	host, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	s, err := app.Settings().Clone()
	must(t, err)
	s.SMTP.Enabled, s.SMTP.Host = true, host
	s.SMTP.Port, err = strconv.Atoi(port)
	must(t, err)
	if change != nil {
		change(&s.SMTP)
	}
	must(t, app.Save(s))
}

// A mail server that takes connections and says nothing keeps neither a request nor the workers of the queue.
func TestAMailServerThatSaysNothingHoldsNobody(t *testing.T) {
	t.Parallel()
	for name, greeting := range map[string]string{"nothing at all": "", "a greeting and no more": "220 silent ESMTP\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newSilent(t, greeting)
			h := serve(t, newApp(t), func(c *Config) { c.mailPatience = 300 * time.Millisecond })
			s := &settled{house: h}
			mailsTo(t, h.app, server, nil)
			boss := s.person("owner@example.org")
			_, _, raw := s.ask(boss, "", "POST", "/api/v1/tenants", plain, `{"name":"Acme"}`)
			tenant := decode[struct{ ID string }](t, raw).ID
			const invites = 16 // twice as many as there are workers
			for i := range invites {
				if status, _, raw := s.ask(boss, "", "POST", "/api/v1/tenants/"+tenant+"/members/invite", plain, fmt.Sprintf(`{"email":"guest%d@example.org","role":"MEMBER"}`, i)); status != 201 {
					t.Fatalf("%d %s", status, raw)
				}
			}
			collectionstest.Eventually(t, "every mail was given up for now", func() bool {
				return s.count(collections.Jobs, dbx.And(dbx.HashExp{"kind": "SendInvite"}, dbx.NewExp("[[last_error]] LIKE '%timeout%'"))) == invites
			})
			if status, _, raw := s.ask(boss, "", "POST", "/api/v1/tenants/"+tenant+"/export", plain, ""); status != 202 {
				t.Fatalf("%d %s", status, raw)
			}
			collectionstest.Eventually(t, "other work is done meanwhile", func() bool {
				return s.count(collections.Jobs, dbx.HashExp{"kind": "ExportTenant", "state": jobs.Done}) == 1
			})
			answered := make(chan int, 1)
			go func() {
				req := httptest.NewRequest("POST", "/api/collections/users/request-email-change", strings.NewReader(`{"newEmail":"new@example.org"}`))
				req.Header.Set("Content-Type", plain)
				req.Header.Set("Authorization", boss)
				rec := httptest.NewRecorder()
				h.mux.ServeHTTP(rec, req)
				answered <- rec.Code
			}()
			select {
			case code := <-answered:
				if code != 400 {
					t.Errorf("a mail that was not sent: %d", code)
				}
			case <-time.After(30 * time.Second):
				t.Error("a request waits for the mail server without end")
			}
			h.Stop()
			collectionstest.Eventually(t, "no connection is left", func() bool { return server.open.Load() == 0 })
			if n := server.came.Load(); n < invites+1 {
				t.Errorf("only %d of %d mails were tried", n, invites+1)
			}
		})
	}
}

// inbox is a mail server with a certificate that asks for a password.
type inbox struct {
	mu     sync.Mutex
	login  bool   // AUTH LOGIN instead of PLAIN
	secure bool   // guarded by mu: the last mail came over TLS and from somebody who was let in
	got    string // guarded by mu
	to     []string
}

type inboxSession struct {
	in   *inbox
	conn *smtp.Conn
	who  string
	to   []string
}

func (s *inboxSession) AuthMechanisms() []string {
	if s.in.login {
		return []string{"LOGIN"}
	}
	return []string{sasl.Plain}
}

func (s *inboxSession) Auth(string) (sasl.Server, error) {
	enter := func(user, password string) error {
		if user != "panel" || password != "secret" {
			return errors.New("not you")
		}
		s.who = user
		return nil
	}
	if s.in.login {
		return &loginServer{enter: enter}, nil
	}
	return sasl.NewPlainServer(func(_, user, password string) error { return enter(user, password) }), nil
}

func (s *inboxSession) Mail(string, *smtp.MailOptions) error { return nil }
func (s *inboxSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}
func (s *inboxSession) Reset()        {}
func (s *inboxSession) Logout() error { return nil }

func (s *inboxSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	_, overTLS := s.conn.TLSConnectionState()
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	s.in.got, s.in.to, s.in.secure = string(raw), s.to, overTLS && s.who == "panel"
	return nil
}

// loginServer is the other side of AUTH LOGIN.
type loginServer struct {
	enter func(user, password string) error
	user  string
	step  int
}

func (l *loginServer) Next(answer []byte) ([]byte, bool, error) {
	l.step++
	switch l.step {
	case 1:
		return []byte("Username:"), false, nil
	case 2:
		l.user = string(answer)
		return []byte("Password:"), false, nil
	}
	return nil, true, l.enter(l.user, string(answer))
}

// Mails go out as PocketBase would send them: over TLS from the beginning or from STARTTLS on, with a password in either
// way of saying it, in HTML and as text. A certificate that nobody vouches for, and a password in clear, are refused.
func TestMailsGoOutOverTLSWithAPassword(t *testing.T) {
	t.Parallel()
	web := httptest.NewUnstartedServer(nil) // for its certificate
	web.StartTLS()
	cert := web.TLS.Certificates[0]
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	web.Close()
	for _, c := range []struct {
		name          string
		implicit, tls bool
		login         bool
		roots         *x509.CertPool
		password      string
		refused       string
	}{
		{"TLS, PLAIN", true, true, false, roots, "secret", ""},
		{"STARTTLS, PLAIN", false, true, false, roots, "secret", ""},
		{"STARTTLS, LOGIN", false, true, true, roots, "secret", ""},
		{"TLS, LOGIN", true, true, true, roots, "secret", ""},
		{"a stranger's certificate", false, true, false, x509.NewCertPool(), "secret", "certificate"},
		{"a stranger's certificate from the beginning", true, true, false, x509.NewCertPool(), "secret", "certificate"},
		{"a wrong password", true, true, true, roots, "wrong", "5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			box := &inbox{login: c.login}
			server := smtp.NewServer(smtp.BackendFunc(func(conn *smtp.Conn) (smtp.Session, error) { return &inboxSession{in: box, conn: conn}, nil }))
			server.Domain, server.TLSConfig = "localhost", &tls.Config{Certificates: []tls.Certificate{cert}}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			at := l
			if c.implicit {
				at = tls.NewListener(l, server.TLSConfig)
			}
			served := make(chan struct{})
			go func() { defer close(served); _ = server.Serve(at) }()
			t.Cleanup(func() { _ = server.Close(); _ = l.Close(); <-served })
			h := serve(t, newApp(t), func(config *Config) { config.mailRoots = c.roots })
			mailsTo(t, h.app, l, func(s *core.SMTPConfig) {
				s.TLS, s.Username, s.Password, s.LocalName = c.implicit, "panel", c.password, "panel.example"
				if c.login {
					s.AuthMethod = mailer.SMTPAuthLogin
				}
			})
			err = h.app.NewMailClient().Send(&mailer.Message{
				From: mail.Address{Name: "Łukasz", Address: "panel@example.org"}, To: []mail.Address{{Name: "Ann", Address: "ann@example.org"}}, Bcc: []mail.Address{{Address: "hidden@example.org"}},
				Subject: "Grüße", HTML: `<p>Hello <b>Ann</b></p><p><a href="https://panel.example/x?token=1">Confirm</a></p>` + "\n.\nend",
				Attachments: map[string]io.Reader{"a.txt": strings.NewReader("attached")},
			})
			box.mu.Lock()
			defer box.mu.Unlock()
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) || strings.Contains(err.Error(), c.password) || box.got != "" {
					t.Errorf("%v, and it has %q", err, box.got)
				}
				return
			}
			must(t, err)
			if !box.secure || len(box.to) != 2 {
				t.Errorf("secure %t, to %v", box.secure, box.to)
			}
			m, err := mail.ReadMessage(strings.NewReader(box.got))
			must(t, err)
			if m.Header.Get("Message-ID") == "" || m.Header.Get("Date") == "" || m.Header.Get("Bcc") != "" || !strings.HasPrefix(m.Header.Get("Content-Type"), "multipart/mixed") {
				t.Errorf("%v", m.Header)
			}
			for _, want := range []string{"text/plain", "text/html", "Hello Ann", "https://panel.example/x", "a.txt", "\r\n.\r\n"} {
				if !strings.Contains(box.got, want) {
					t.Errorf("%q is not in\n%s", want, box.got)
				}
			}
		})
	}
}

// A password is not said over a connection that everybody can read, but to this machine.
func TestNoMailPasswordInClear(t *testing.T) {
	t.Parallel()
	for _, method := range []string{mailer.SMTPAuthPlain, mailer.SMTPAuthLogin} {
		auth := mailAuth(&mailer.SMTPClient{Host: "mail.example", Username: "panel", Password: "secret", AuthMethod: method})
		if _, said, err := auth.Start(serverInfo("mail.example", false)); err == nil {
			t.Errorf("%s in clear says %q", method, said)
		}
		if _, _, err := auth.Start(serverInfo("mail.example", true)); err != nil {
			t.Errorf("%s over TLS: %v", method, err)
		}
		if _, _, err := auth.Start(serverInfo("other.example", true)); err == nil {
			t.Errorf("%s to another server", method)
		}
	}
}

func serverInfo(name string, overTLS bool) *netsmtp.ServerInfo {
	return &netsmtp.ServerInfo{Name: name, TLS: overTLS, Auth: []string{"PLAIN", "LOGIN"}}
}
