package outbound

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// street is a small internet: one network plays the public part of it, loopback stays what is denied, and
// the same port is open on both.
type street struct {
	t       *testing.T
	port    int
	public  *httptest.Server
	names   *nameServer
	inside  atomic.Int64 // connections that listeners on denied addresses saw
	visited atomic.Int64 // requests that the public server saw
	headers sync.Map     // of the last request to a path of the public server

	mu     sync.Mutex
	dialed []netip.AddrPort // guarded by mu
}

const publicHost = "127.77.0.1"

var publicNet = netip.MustParsePrefix("127.77.0.0/24")

func newStreet(t *testing.T) *street {
	t.Helper()
	s := &street{t: t}
	s.names = newNameServer(t)
	for range 20 { // until one port is free everywhere
		if s.open() {
			return s
		}
	}
	t.Fatal("no port is free on all addresses")
	return nil
}

func (s *street) open() bool {
	l, err := net.Listen("tcp", publicHost+":0")
	must(s.t, err)
	s.port = l.Addr().(*net.TCPAddr).Port
	var inner []net.Listener
	closeAll := func() {
		for _, one := range inner {
			_ = one.Close()
		}
	}
	hosts := []string{"127.0.0.1", "127.0.0.2", "127.255.255.254", "::1"}
	addresses, err := net.InterfaceAddrs()
	must(s.t, err)
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			hosts = append(hosts, p.Addr().String())
		}
	}
	for _, host := range hosts {
		in, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(s.port)))
		if err != nil && host == "::1" {
			continue // a machine without IPv6
		}
		if err != nil {
			closeAll()
			_ = l.Close()
			return false
		}
		inner = append(inner, in)
	}
	var wait sync.WaitGroup
	for _, in := range inner {
		wait.Go(func() {
			for {
				c, err := in.Accept()
				if err != nil {
					return
				}
				s.inside.Add(1)
				_ = c.Close()
			}
		})
	}
	s.public = &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: time.Minute}}
	s.public.Start()
	s.t.Cleanup(func() {
		s.public.Close()
		closeAll()
		wait.Wait()
	})
	return true
}

// serve answers /to?u=URL with a redirect there, /big?n= with that many bytes, /slow with nothing for long.
func (s *street) serve(w http.ResponseWriter, r *http.Request) {
	s.visited.Add(1)
	s.headers.Store(r.URL.Path, r.Header.Clone())
	switch r.URL.Path {
	case "/to":
		status, err := strconv.Atoi(r.URL.Query().Get("s"))
		if err != nil {
			status = http.StatusFound
		}
		w.Header().Set("Location", r.URL.Query().Get("u"))
		w.WriteHeader(status)
	case "/loop":
		http.Redirect(w, r, "/loop", http.StatusTemporaryRedirect)
	case "/big":
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		if r.URL.Query().Get("unsaid") != "" {
			w.(http.Flusher).Flush() // no Content-Length
		}
		_, _ = io.CopyN(w, zeros{}, int64(n))
	case "/slow":
		<-r.Context().Done()
	case "/cookie":
		http.SetCookie(w, &http.Cookie{Name: "who", Value: "me", Path: "/"})
	default:
		_, _ = io.WriteString(w, "hello")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// client of the street; every address that passes the check is kept.
func (s *street) client(c Config) *Client {
	if c.Allow == nil {
		c.Allow = []netip.Prefix{publicNet}
	}
	c.Resolver = s.names.resolver()
	c.dialed = func(a netip.AddrPort) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dialed = append(s.dialed, a)
	}
	o := New(c)
	s.t.Cleanup(o.Close)
	return o
}

func (s *street) url(path string) string {
	return fmt.Sprintf("http://%s:%d%s", publicHost, s.port, path)
}

// to is the URL of a redirect.
func (s *street) to(target string) string { return s.url("/to?u=" + url.QueryEscape(target)) }

func get(ctx context.Context, c *Client, target string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrURL, err)
	}
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return string(raw), err
}

// nameServer is a DNS server whose answers are scripted: the nth question about a name gets the nth list of
// addresses, later ones the last.
type nameServer struct {
	t    *testing.T
	conn *net.UDPConn

	mu      sync.Mutex
	scripts map[string][][]string // guarded by mu
	aliases map[string]string     // guarded by mu
	asked   map[string]int        // A questions by name; guarded by mu
}

func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	n := &nameServer{t: t, conn: conn, scripts: map[string][][]string{}, aliases: map[string]string{}, asked: map[string]int{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if out, err := n.answer(buf[:size]); err == nil {
				_, _ = conn.WriteToUDP(out, from)
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return n
}

// says scripts a name; each answer is a list of addresses with blanks between.
func (n *nameServer) says(name string, answers ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range answers {
		n.scripts[name] = append(n.scripts[name], strings.Fields(a))
	}
}

func (n *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

func (n *nameServer) answer(raw []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(raw); err != nil || len(m.Questions) != 1 {
		return nil, errors.New("no question")
	}
	q := m.Questions[0]
	out := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true}, Questions: m.Questions}
	n.mu.Lock()
	defer n.mu.Unlock()
	name, owner := strings.ToLower(strings.TrimSuffix(q.Name.String(), ".")), q.Name
	if alias := n.aliases[name]; alias != "" {
		target := dnsmessage.MustNewName(alias + ".")
		out.Answers = append(out.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: owner, Class: q.Class}, Body: &dnsmessage.CNAMEResource{CNAME: target}})
		name, owner = alias, target
	}
	script := n.scripts[name]
	if len(script) == 0 {
		out.RCode = dnsmessage.RCodeNameError
		return out.Pack()
	}
	turn := n.asked[name]
	if q.Type == dnsmessage.TypeA {
		n.asked[name]++
	}
	for _, a := range script[min(turn, len(script)-1)] {
		ip, h := netip.MustParseAddr(a), dnsmessage.ResourceHeader{Name: owner, Class: q.Class} // TTL 0
		if ip.Is4() && q.Type == dnsmessage.TypeA {
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: ip.As4()}})
		}
		if ip.Is6() && q.Type == dnsmessage.TypeAAAA {
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	return out.Pack()
}

// inner are addresses that nothing of ours may reach; the first two have listeners.
var inner = []string{
	"127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255",
	"169.254.0.1", "169.254.169.254", "169.254.170.2", "168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1",
	"192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
}

var inner6 = []string{
	"::1", "0:0:0:0:0:0:0:1", "::", "fc00::1", "fd00::1", "fd00:ec2::254", "fdff:ffff::1", "fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1",
	"2001:db8::1", "3fff::1", "100::1", "5f00::1", "64:ff9b:1::1", "2001::1", "2001:10::1", "2001:20::1", "4000::1",
}

// holding spells an IPv4 address in the ways in which an IPv6 address can hold it.
func holding(v4 string) []string {
	b := netip.MustParseAddr(v4).As4()
	hi, lo := binary.BigEndian.Uint16(b[:2]), binary.BigEndian.Uint16(b[2:])
	return []string{
		"::ffff:" + v4, fmt.Sprintf("::ffff:%x:%x", hi, lo), fmt.Sprintf("0:0:0:0:0:FFFF:%04X:%04X", hi, lo), "::" + v4, "64:ff9b::" + v4, fmt.Sprintf("64:ff9b::%x:%x", hi, lo),
		fmt.Sprintf("2002:%x:%x::1", hi, lo), fmt.Sprintf("2001:0:%x:%x::1", hi, lo), fmt.Sprintf("2001:0:808:808:0:0:%x:%x", ^hi, ^lo), fmt.Sprintf("2600:1234::5efe:%x:%x", hi, lo), fmt.Sprintf("2600:1234::200:5efe:%x:%x", hi, lo),
	}
}

// spelled writes an IPv4 address in the ways that one library or another takes for it.
func spelled(v4 string) []string {
	b := netip.MustParseAddr(v4).As4()
	n := binary.BigEndian.Uint32(b[:])
	return []string{
		strconv.FormatUint(uint64(n), 10), fmt.Sprintf("0x%x", n), fmt.Sprintf("0X%08X", n), fmt.Sprintf("0%o", n), strconv.FormatUint(uint64(n)+1<<32, 10),
		fmt.Sprintf("0x%x.0x%x.0x%x.0x%x", b[0], b[1], b[2], b[3]), fmt.Sprintf("0%o.0%o.0%o.0%o", b[0], b[1], b[2], b[3]), fmt.Sprintf("%03d.%03d.%03d.%03d", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("%d.%d", b[0], n&0xffffff), fmt.Sprintf("%d.%d.%d", b[0], b[1], n&0xffff), fmt.Sprintf("0x%x.%d", b[0], n&0xffffff), v4 + ".", fmt.Sprintf("%d.%d.%d.0x%x", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("%d.%d.%d.%d", int(b[0])+256, b[1], b[2], b[3]), strings.ReplaceAll(v4, ".", "%2e"), strings.ReplaceAll(v4, ".", "。"),
		strings.NewReplacer("0", "⓪", "1", "①", "2", "②", "4", "④", "5", "⑤", "6", "⑥", "9", "⑨").Replace(v4), "+" + v4, v4 + "%00.example.org", "[" + v4 + "]",
	}
}

// hostile lists URLs of which none may lead to a connection.
func (s *street) hostile() []string {
	port := strconv.Itoa(s.port)
	var hosts, out []string
	hosts = append(hosts, inner...)
	for _, h := range inner6 {
		hosts = append(hosts, "["+h+"]")
	}
	for _, v4 := range []string{"127.0.0.1", "169.254.169.254", "10.0.0.1"} {
		for _, h := range holding(v4) {
			hosts = append(hosts, "["+h+"]")
		}
		hosts = append(hosts, spelled(v4)...)
	}
	hosts = append(hosts, "[::1%25lo]", "[fe80::1%25eth0]", "localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "ip6-localhost", "", ".", "..", "a..b")
	for i, v := range append(slices.Clone(inner), inner6...) {
		name := fmt.Sprintf("n%d.test", i)
		s.names.says(name, v)
		hosts = append(hosts, name)
	}
	s.names.says("mapped.test", "::ffff:127.0.0.1")
	s.names.says("several.test", "10.0.0.1 127.0.0.1 ::1")
	s.names.aliases["alias.test"] = "n0.test"
	hosts = append(hosts, "mapped.test", "several.test", "alias.test")
	for _, h := range hosts {
		out = append(out, "http://"+h+":"+port+"/")
	}
	for _, h := range hosts { // led there by somebody who may be reached
		out = append(out, s.to("http://"+h+":"+port+"/"))
	}
	in, public := "127.0.0.1:"+port, publicHost+":"+port
	out = append(out,
		// other schemes
		"unix:///var/run/docker.sock", "unix:/var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/info", "file:///etc/passwd", "file://"+in+"/", "ftp://"+in+"/", "gopher://"+in+"/_x",
		"dict://"+in+"/x", "ldap://"+in+"/", "ws://"+in+"/", "data:text/plain,x", "javascript:alert(1)", "//"+in+"/", "/etc/passwd", "", "http:"+in, "http:/"+in+"/", "http:///"+in+"/", "HTTP+TCP://"+in+"/", "about:blank",
		// who is before the @
		"http://"+public+"@"+in+"/", "http://"+in+"@"+public+"/", "http://u:p@"+in+"/", "http://a:b@"+public+"/", "http://"+public+"\\@"+in+"/", "http://@"+in+"/", "http://"+in+"\\@"+public+"/", "http://%40"+in+"/", "http://"+public+"%2f@"+in+"/", "http://:@"+public+"/",
		// ports
		"http://"+publicHost+":22/", "http://"+publicHost+":25/", "http://"+publicHost+":0/", "http://"+publicHost+":65536/", "http://"+publicHost+":-1/", "http://"+publicHost+":0x50/", "http://"+publicHost+":+80/", "http://"+publicHost+": 80/", "http://"+publicHost+":80:"+port+"/",
		"http://"+publicHost+":6667/", "http://"+publicHost+":99999999999999999999/", "http://127.0.0.1:80:"+port+"/", "http://[::1]"+port+"/",
		// other ways to lead on
		s.to(s.to("http://"+in+"/")), s.to("//"+in+"/"), s.to("file:///etc/passwd"), s.to("unix:///var/run/docker.sock"), s.to("gopher://"+in+"/"), s.to("http://u:p@"+public+"/"), s.to("http://"+publicHost+":25/"), s.url("/loop"), s.to(s.to(s.to(s.to(s.to(s.to("http://"+in+"/")))))),
		s.url("/to?s=301&u=http://"+in+"/"), s.url("/to?s=303&u=http://"+in+"/"), s.url("/to?s=307&u=http://"+in+"/"), s.url("/to?s=308&u=http://"+in+"/"), s.to("http://"+in+"\\@"+public+"/"), s.to("https://"+in+"/"),
	)
	return out
}

// T22: whatever a URL looks like and wherever it leads, nothing on a denied address is dialed.
func TestT22_NothingInsideIsReached(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	urls := s.hostile()
	c := s.client(Config{Timeout: 10 * time.Second})
	for _, u := range urls {
		_, err := get(t.Context(), c, u)
		if !errors.Is(err, ErrURL) && !errors.Is(err, ErrDenied) && !errors.Is(err, ErrRedirect) {
			var dns *net.DNSError
			if err == nil || !errors.As(err, &dns) && !strings.Contains(err.Error(), "parse Location") { // a name that nobody has is not dialed either
				t.Errorf("%q: %v", u, err)
			}
		}
	}
	s.mu.Lock()
	dialed := slices.Clone(s.dialed)
	s.mu.Unlock()
	wrong := 0
	for _, a := range dialed {
		if !publicNet.Contains(a.Addr()) {
			wrong++
			t.Errorf("%s was dialed", a)
		}
	}
	if n := s.inside.Load(); n != 0 {
		t.Errorf("listeners inside saw %d connections", n)
	}
	if s.visited.Load() == 0 {
		t.Error("no redirect was asked for: the test looks at nothing")
	}
	if len(urls) < 200 {
		t.Errorf("only %d URLs", len(urls))
	}
	t.Logf("T22: %d URLs, %d connections to the public part, %d to denied addresses, %d seen inside", len(urls), len(dialed), wrong, s.inside.Load())
}

// T22: a name that is public when it is looked at and private afterwards.
func TestT22_ANameThatChangesItsMind(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	rounds := 25
	for i := range rounds {
		name := fmt.Sprintf("rebind%d.test", i)
		s.names.says(name, publicHost, "127.0.0.1")
		target := fmt.Sprintf("http://%s:%d/", name, s.port)
		c := s.client(Config{})
		body, err := get(t.Context(), c, target)
		if err != nil || body != "hello" {
			t.Fatalf("the first answer was public: %q %v", body, err)
		}
		s.names.mu.Lock()
		asked := s.names.asked[name]
		s.names.mu.Unlock()
		if asked != 1 {
			t.Fatalf("one request asked %d times; the address that is checked may not be the one that is dialed", asked)
		}
		c.Close() // the next request has to connect again
		if _, err := get(t.Context(), c, target); !errors.Is(err, ErrDenied) {
			t.Fatalf("the second answer was private: %v", err)
		}
		led := fmt.Sprintf("led%d.test", i) // and by a redirect to itself
		s.names.says(led, publicHost, "127.0.0.1")
		back := fmt.Sprintf("http://%s:%d/to?u=%s", led, s.port, url.QueryEscape(fmt.Sprintf("http://%s:%d/", led, s.port)))
		fresh := s.client(Config{})
		fresh.http.Transport.(*http.Transport).DisableKeepAlives = true
		if _, err := get(t.Context(), fresh, back); !errors.Is(err, ErrDenied) {
			t.Fatalf("a redirect to a name that is private by then: %v", err)
		}
	}
	if n := s.inside.Load(); n != 0 {
		t.Errorf("listeners inside saw %d connections", n)
	}
	t.Logf("T22: %d names that change their answer, 0 connections inside", 2*rounds)
}

func TestWhatIsPublicIsReached(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	s.names.says("good.test", publicHost)
	s.names.says("both.test", "10.0.0.1 "+publicHost) // the private one is passed over
	c := s.client(Config{})
	for _, u := range []string{s.url("/"), fmt.Sprintf("http://good.test:%d/", s.port), fmt.Sprintf("http://both.test:%d/x?y=z", s.port), s.to(s.url("/")), s.to("/relative"), s.to(s.to(s.to(s.url("/"))))} {
		if body, err := get(t.Context(), c, u); err != nil || body != "hello" {
			t.Errorf("%s: %q %v", u, body, err)
		}
	}
	inside := s.client(Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}})
	_, err := get(t.Context(), inside, fmt.Sprintf("http://127.0.0.2:%d/", s.port))
	if err == nil || errors.Is(err, ErrDenied) || s.inside.Load() != 1 {
		t.Errorf("an address that the operator allows: %v, %d connections", err, s.inside.Load())
	}
	if _, err := get(t.Context(), inside, fmt.Sprintf("http://127.0.0.1:%d/", s.port)); !errors.Is(err, ErrDenied) {
		t.Errorf("its neighbour: %v", err)
	}
}

func TestLimitsOfARequest(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	c := s.client(Config{MaxBody: 1000, Redirects: 2, Timeout: 300 * time.Millisecond})
	if body, err := get(t.Context(), c, s.url("/big?n=1000&unsaid=1")); err != nil || len(body) != 1000 {
		t.Errorf("as large as it may be: %d %v", len(body), err)
	}
	if body, err := get(t.Context(), c, s.url("/big?n=100000&unsaid=1")); !errors.Is(err, ErrTooLarge) || len(body) > 1000 {
		t.Errorf("too large: %d bytes, %v", len(body), err)
	}
	if _, err := get(t.Context(), c, s.url("/big?n=1001")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large, and says so: %v", err)
	}
	if _, err := get(t.Context(), c, s.to(s.to(s.to(s.url("/"))))); !errors.Is(err, ErrRedirect) {
		t.Errorf("three redirects where two may be: %v", err)
	}
	var slow net.Error
	if _, err := get(t.Context(), c, s.url("/slow")); !errors.As(err, &slow) || !slow.Timeout() {
		t.Errorf("a server that says nothing: %v", err)
	}
	none := s.client(Config{Redirects: -1})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.to("http://127.0.0.1/"), nil)
	must(t, err)
	res, err := none.Do(req)
	must(t, err)
	if must(t, res.Body.Close()); res.StatusCode != http.StatusFound {
		t.Errorf("a client that follows nothing: %d", res.StatusCode)
	}
}

func TestARequestCarriesNothingElse(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	c := s.client(Config{})
	for _, u := range []string{s.url("/cookie"), s.url("/plain"), s.to(s.url("/end"))} {
		_, err := get(t.Context(), c, u)
		must(t, err)
	}
	for _, path := range []string{"/plain", "/end"} {
		h, _ := s.headers.Load(path)
		if got := h.(http.Header); got.Get("Cookie") != "" || got.Get("Referer") != "" || got.Get("Via") != "" {
			t.Errorf("%s: %v", path, got)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url("/"), nil)
	must(t, err)
	req.Host = "internal.example"
	if _, err := c.Do(req); !errors.Is(err, ErrURL) {
		t.Errorf("another Host: %v", err)
	}
}

func TestNoErrorTellsTheURL(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	c := s.client(Config{Timeout: 300 * time.Millisecond, MaxBody: 10, Redirects: 1})
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, u := range []string{
		"http://127.0.0.1:8080/SECRET?x=SECRET", s.url("/slow?SECRET"), s.url("/big?n=99&SECRET=1"), "http://nowhere.test/SECRET", "ftp://x/SECRET", s.to("http://10.0.0.1/SECRET"), s.to(s.to("/SECRET")),
		"http://" + publicHost + ":25/SECRET", "http://" + publicHost + ":1025/SECRET/SECRET", "https://" + strings.TrimPrefix(s.url("/SECRET"), "http://"),
	} {
		if _, err := get(t.Context(), c, u); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestPublic(t *testing.T) {
	t.Parallel()
	for _, a := range append(slices.Clone(inner), inner6...) {
		if Public(netip.MustParseAddr(a)) {
			t.Errorf("%s is not public", a)
		}
	}
	for _, a := range inner {
		for _, h := range holding(a) {
			if Public(netip.MustParseAddr(h)) {
				t.Errorf("%s, which holds %s, is not public", h, a)
			}
		}
	}
	for _, a := range []string{"1.1.1.1", "8.8.8.8", "162.159.128.233", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1", "192.167.255.255", "223.255.255.255", "2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2600:1234::5efe:808:808"} {
		if !Public(netip.MustParseAddr(a)) {
			t.Errorf("%s is public", a)
		}
	}
	if Public(netip.Addr{}) || Public(netip.MustParseAddr("2606:4700::1111%eth0")) {
		t.Error("no address and one with a zone are not public")
	}
}

func TestThisMachinesOwnAddressesAreDenied(t *testing.T) {
	t.Parallel()
	addresses, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range addresses {
		p := netip.MustParsePrefix(a.String())
		if !ownAddress(p.Addr().Unmap().WithZone("")) {
			t.Errorf("%s is this machine's", p)
		}
	}
	if ownAddress(netip.MustParseAddr("8.8.8.8")) {
		t.Error("8.8.8.8 is not")
	}
}

func TestParseAllow(t *testing.T) {
	t.Parallel()
	got, err := ParseAllow(" 10.1.2.3/24, fd00:1::/64 ,192.0.2.7,, ::ffff:10.0.0.1")
	if err != nil || fmt.Sprint(got) != "[10.1.2.0/24 fd00:1::/64 192.0.2.7/32 10.0.0.1/32]" {
		t.Errorf("%v %v", got, err)
	}
	if got, err := ParseAllow(""); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{"10.0.0.0/33", "here", "10.0.0.1-10.0.0.9", "fe80::1%lo"} {
		if _, err := ParseAllow(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
