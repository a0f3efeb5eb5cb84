// Package mailcatch is an SMTP server for tests and demos: it takes every mail and hands it out over HTTP.
//
// It owns nothing that outlives the process and delivers nothing. Its one invariant: a mail is to be
// read before the SMTP client has its 250, so a test never waits for it.
package mailcatch

import (
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/mail"
	"slices"
	"strings"
	"sync"

	"github.com/emersion/go-smtp"
)

// Message is one caught mail.
type Message struct {
	ID      string   `json:"id"` // Message-ID
	From    string   `json:"from"`
	To      []string `json:"to"`
	Subject string   `json:"subject"`
	HTML    string   `json:"html"`
	Text    string   `json:"text"`
}

const (
	maxMessages = 1_000   // kept; the oldest go first
	maxBytes    = 1 << 20 // of one mail
)

//go:embed page.html
var pageText string

// page shows the mails, the newest first. Each is in a frame that may run nothing; its links open beside it.
var page = template.Must(template.New("page").Parse(pageText))

// Server catches mails on a loopback port of its own.
type Server struct {
	Addr string // host:port to send to

	smtp *smtp.Server
	at   net.Listener
	mu   sync.Mutex
	got  []Message // guarded by mu, oldest first
	wg   sync.WaitGroup
}

// Start listens on a free loopback port.
func Start() (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for mail: %w", err)
	}
	s := &Server{Addr: l.Addr().String(), at: l}
	s.smtp = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{s: s}, nil }))
	s.smtp.Domain, s.smtp.MaxMessageBytes = "localhost", maxBytes
	s.wg.Go(func() { _ = s.smtp.Serve(l) }) // ends with Close
	return s, nil
}

// Close stops the server. The SMTP server knows its listener only once it serves, so the listener is closed, too.
func (s *Server) Close() error {
	err := s.smtp.Close()
	if e := s.at.Close(); err == nil && !errors.Is(e, net.ErrClosed) {
		err = e
	}
	s.wg.Wait()
	return err
}

// To returns the mails to an address, oldest first; all of them for "".
func (s *Server) To(address string) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Message{}
	for _, m := range s.got {
		for _, to := range m.To {
			if address == "" || strings.EqualFold(to, address) {
				out = append(out, m)
				break
			}
		}
	}
	return out
}

// ServeHTTP answers GET /messages?to=ADDRESS with a JSON list and GET / with a page for people.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/messages":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.To(r.URL.Query().Get("to")))
	case "/":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		newest := s.To("")
		slices.Reverse(newest)
		_ = page.Execute(w, newest)
	default:
		http.NotFound(w, r)
	}
}

// session is one SMTP conversation.
type session struct {
	s    *Server
	from string
	to   []string
}

func (c *session) Mail(from string, _ *smtp.MailOptions) error { c.from = from; return nil }
func (c *session) Rcpt(to string, _ *smtp.RcptOptions) error   { c.to = append(c.to, to); return nil }
func (c *session) Reset()                                      { c.from, c.to = "", nil }
func (c *session) Logout() error                               { return nil }

func (c *session) Data(r io.Reader) error {
	parsed, err := mail.ReadMessage(r)
	if err != nil {
		return fmt.Errorf("read mail: %w", err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(parsed.Header.Get("Subject"))
	if err != nil {
		return fmt.Errorf("decode subject: %w", err)
	}
	m := Message{ID: parsed.Header.Get("Message-ID"), From: c.from, To: c.to, Subject: subject}
	if err := m.read(parsed.Header.Get("Content-Type"), parsed.Header.Get("Content-Transfer-Encoding"), parsed.Body); err != nil {
		return fmt.Errorf("decode mail: %w", err)
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.got = append(c.s.got, m)
	if len(c.s.got) > maxMessages {
		c.s.got = c.s.got[1:]
	}
	return nil
}

// read walks the parts of a mail and keeps the last text and HTML.
func (m *Message) read(contentType, encoding string, body io.Reader) error {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return err
	}
	if strings.HasPrefix(kind, "multipart/") {
		parts := multipart.NewReader(body, params["boundary"])
		for {
			p, err := parts.NextRawPart()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := m.read(p.Header.Get("Content-Type"), p.Header.Get("Content-Transfer-Encoding"), p); err != nil {
				return err
			}
		}
	}
	switch strings.ToLower(encoding) {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxBytes))
	if err != nil {
		return err
	}
	if kind == "text/html" {
		m.HTML = string(raw)
	} else {
		m.Text = string(raw)
	}
	return nil
}
