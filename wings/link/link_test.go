package link

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/wings/wire"
)

func b64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

func (p *fakePanel) join(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := Join(t.Context(), "https://"+p.addr(), p.token.String(), dir, "test"); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t testing.TB, dir string) *Link {
	t.Helper()
	l, err := New(Config{Dir: dir, Release: "1.2.3", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	return l
}

func TestJoinStoresAnIdentityThatOnlyThisMachineHas(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	if _, err := Joined(t.TempDir()); !errors.Is(err, ErrNotJoined) {
		t.Errorf("before joining: %v", err)
	}
	if _, err := New(Config{Dir: t.TempDir()}); !errors.Is(err, ErrNotJoined) {
		t.Errorf("a link before joining: %v", err)
	}
	dir := p.join(t)
	if id, err := Joined(dir); err != nil || id != testNode {
		t.Errorf("joined as %s, %v", id, err)
	}
	info, err := os.Stat(filepath.Join(dir, identityFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the identity has mode %v, %v", info.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".identity*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	before, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), "https://"+p.addr(), p.token.String(), dir, "test"); !errors.Is(err, ErrJoined) {
		t.Errorf("joining twice: %v", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil || string(after) != string(before) {
		t.Error("the second join changed the identity")
	}
}

func TestJoinRefusesWhatIsNotThePinnedPanel(t *testing.T) {
	t.Parallel()
	good := newFakePanel(t)
	flipped := good.token
	flipped.Fingerprint = strings.Repeat("0", 64)
	for _, c := range []struct {
		name  string
		panel *fakePanel
		token func(*fakePanel) string
		want  error
	}{
		{"another authority", good, func(*fakePanel) string { return flipped.String() }, ErrPin},
		{"a certificate without the panel's name", newFakePanel(t, func(c *x509.Certificate) { c.DNSNames = []string{"panel.example.com"} }), nil, ErrPin},
		{"a certificate for clients", newFakePanel(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), nil, ErrPin},
		{"an expired certificate", newFakePanel(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), nil, ErrPin},
		{"one that is not valid yet", newFakePanel(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), nil, ErrPin},
		{"a pin of the panel's own certificate", good, func(p *fakePanel) string {
			return wire.JoinToken{Token: p.token.Token, Fingerprint: wire.Fingerprint(p.server.TLS.Certificates[0].Certificate[0])}.String()
		}, ErrPin},
		{"a token that was cut", good, func(p *fakePanel) string { return p.token.String()[:60] }, wire.ErrJoinToken},
		{"a token without its pin", good, func(p *fakePanel) string { return p.token.Token }, wire.ErrJoinToken},
		{"a pin in capitals", good, func(p *fakePanel) string { return p.token.Token + "." + strings.ToUpper(p.token.Fingerprint) + "A" }, wire.ErrJoinToken},
	} {
		token := c.panel.token.String()
		if c.token != nil {
			token = c.token(c.panel)
		}
		dir := t.TempDir()
		if _, err := Join(t.Context(), "https://"+c.panel.addr(), token, dir, "test"); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := Joined(dir); !errors.Is(err, ErrNotJoined) {
			t.Errorf("%s: an identity was stored", c.name)
		}
	}
}

func TestJoinSaysWhatThePanelSays(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	spent := wire.JoinToken{Token: b64(make([]byte, 32)), Fingerprint: p.token.Fingerprint}
	var refused *wire.Error
	if _, err := Join(t.Context(), "https://"+p.addr(), spent.String(), t.TempDir(), "test"); !errors.As(err, &refused) || refused.Code != "join_token_invalid" || refused.Status != 401 {
		t.Errorf("got %v", err)
	}
	p.node = "not an id"
	if _, err := Join(t.Context(), "https://"+p.addr(), p.token.String(), t.TempDir(), "test"); err == nil {
		t.Error("an identity without a node was taken")
	}
	for _, bad := range []string{"", "http://" + p.addr(), p.addr(), "https://", "https://u:p@" + p.addr(), "https://" + p.addr() + "/path"} {
		if _, err := Join(t.Context(), bad, p.token.String(), t.TempDir(), "test"); err == nil {
			t.Errorf("joined at %q", bad)
		}
	}
	if host, err := joinHost("https://panel.example.com"); err != nil || host != "panel.example.com:8443" {
		t.Errorf("the default port: %s, %v", host, err)
	}
}

func TestAnswersThatDoNotFitTheKeyAreRefused(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	key, csr, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	good := p.issue(csr)
	if _, err := newIdentity(key, "", good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*wire.EnrolReply){
		"another node":         func(r *wire.EnrolReply) { r.NodeID = otherNode },
		"no addresses":         func(r *wire.EnrolReply) { r.Instances = nil },
		"no roots":             func(r *wire.EnrolReply) { r.Roots = "" },
		"another key's":        func(r *wire.EnrolReply) { _, other, _ := newKey(); r.Certificate = p.issue(other).Certificate },
		"no certificate":       func(r *wire.EnrolReply) { r.Certificate = "" },
		"the root as identity": func(r *wire.EnrolReply) { r.Certificate = r.Roots },
	} {
		bad := good
		change(&bad)
		if _, err := newIdentity(key, "", bad); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestHeartbeatsCarryTheFacts(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	l := open(t, p.join(t))
	l.Start(t.Context(), http.NotFoundHandler())
	l.Start(t.Context(), http.NotFoundHandler()) // twice is once
	eventually(t, "a heartbeat", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.beats) > 0 })
	p.with(func() {
		b := p.beats[0]
		if b.Release != "1.2.3" || b.Version != wire.Version || b.SpoolID != l.spool.ID() || time.Since(b.NodeClock) > time.Minute {
			t.Errorf("heartbeat %+v", b)
		}
		if b.Capacity.CPUMillicores < 1000 || b.Capacity.MemoryMiB < 64 || b.Capacity.DiskMiB < 1 {
			t.Errorf("capacity %+v", b.Capacity)
		}
	})
}

func TestEventsWaitForThePanelAndKeepTheirOrder(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	p.refuse = &wire.Error{Status: 503, Code: "unavailable", Message: "Not now."}
	l := open(t, p.join(t))
	for i := range 1200 { // more than two batches
		if err := l.Report(wire.Event{Kind: wire.EventCrash, Crash: &wire.CrashReport{Attempt: int64(i + 1)}}); err != nil {
			t.Fatal(err)
		}
	}
	l.Start(t.Context(), http.NotFoundHandler())
	eventually(t, "the panel refused", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.refused >= 2 })
	p.with(func() { p.refuse = nil })
	eventually(t, "all events are there", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.events) == 1200 })
	p.with(func() {
		for i, e := range p.events {
			if e.Seq != int64(i+1) || e.Crash.Attempt != e.Seq || e.At.IsZero() {
				t.Fatalf("event %d is %+v", i, e)
			}
		}
	})
	eventually(t, "the disk is empty", func() bool { left, err := l.spool.Next(1, 1); return err == nil && len(left) == 0 })
}

// Events that wait for their next try do not wait longer once the panel is there again.
func TestEventsDoNotWaitOnceThePanelIsBack(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	l := open(t, p.join(t))
	if err := l.Report(wire.Event{Kind: wire.EventCrash, Crash: &wire.CrashReport{}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	waited := make(chan struct{})
	wg.Go(func() {
		defer close(waited)
		wait(ctx, time.Hour, l.up) // as sendEvents does after many failures
	})
	wg.Go(func() { l.keepLinked(ctx) })
	<-waited
	if ctx.Err() != nil {
		t.Fatal("the link was no reason to try again")
	}
	wg.Go(func() { l.sendEvents(ctx) })
	eventually(t, "the event is there", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.events) == 1 })
}

func TestRenewalChangesTheIdentityOfAllFurtherCalls(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	dir := p.join(t)
	l := open(t, dir)
	if err := l.heartbeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := l.id.Load()
	if err := l.renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.heartbeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	stored, err := loadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if stored.Key == old.Key || stored.Certificate != l.id.Load().Certificate {
		t.Error("the renewed identity is not what is on disk, or has the old key")
	}
	p.with(func() {
		if len(p.certs) != 2 || p.certs[0] == p.certs[1] || p.certs[1] != wire.Fingerprint(stored.pair.Leaf.Raw) {
			t.Errorf("the panel was shown %v", p.certs)
		}
	})
	p.with(func() { p.node = otherNode })
	if err := l.renew(t.Context()); err == nil || l.NodeID() != testNode {
		t.Errorf("an identity of another node was taken: %v", err)
	}
}

func TestDueCertificateIsRenewedByItself(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	dir := p.join(t)
	id, err := loadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	// The same key under a certificate that was made long ago.
	key, csr, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	reply := p.issue(csr)
	uri := id.pair.Leaf.URIs
	reply.Certificate = toPEM(p.ca.sign(t, &key.PublicKey, func(c *x509.Certificate) {
		c.URIs, c.ExtKeyUsage = uri, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		c.NotBefore = time.Now().Add(-wire.CertificateBackdate - 11*24*time.Hour)
		c.NotAfter = time.Now().Add(19 * 24 * time.Hour)
	}))
	old, err := newIdentity(key, p.addr(), reply)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.save(dir); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir)
	l.Start(t.Context(), http.NotFoundHandler())
	eventually(t, "a renewal", func() bool { return l.id.Load().Certificate != old.Certificate })
	p.with(func() {
		if p.renewals != 1 {
			t.Errorf("%d renewals", p.renewals)
		}
	})
}

func TestRenewalIsDueAfterAThirdOfTheLife(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		life := time.Duration(rapid.Int64Range(int64(time.Hour), int64(365*24*time.Hour)).Draw(t, "life"))
		shake := rapid.Float64Range(0, 0.999).Draw(t, "shake")
		issued := time.Unix(1_800_000_000, 0)
		at := renewAt(&x509.Certificate{NotBefore: issued.Add(-wire.CertificateBackdate), NotAfter: issued.Add(life)}, shake)
		if after := at.Sub(issued); after > life/3 || after < life*29/100 {
			t.Fatalf("a certificate of %s is renewed after %s", life, after)
		}
	})
}

func TestJitterStaysWithinItsBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "d"))
		if j := jitter(d); j < d/2 || j > d {
			t.Fatalf("jitter of %s is %s", d, j)
		}
	})
}

func TestPanelReachesTheHandlerThroughTheLink(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	hellos := make(chan wire.Hello, 10)
	p.hello = func(h wire.Hello) wire.HelloReply { hellos <- h; return wire.HelloReply{Version: wire.Version} }
	l := open(t, p.join(t))
	l.Start(t.Context(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Method, r.URL.Path)
	}))
	first := <-p.linked
	if h := <-hellos; h.Version != wire.Version || h.Release != "1.2.3" || h.SpoolID == "" || h.BootID == "" {
		t.Errorf("hello %+v", h)
	}
	get := func(s *yamux.Session) string {
		res, err := over(s).Get("http://node/v1/x")
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return string(body)
	}
	if got := get(first); got != "GET /v1/x" {
		t.Errorf("answer %q", got)
	}
	first.Close()
	second := <-p.linked // it comes back by itself
	if got := get(second); got != "GET /v1/x" {
		t.Errorf("answer over the second link %q", got)
	}
	if _, err := over(second).Post("http://node"+wire.BulkPath, "", nil); err != nil {
		t.Fatal(err)
	}
	bulk := <-p.linked
	if got := get(bulk); got != "GET /v1/x" {
		t.Errorf("answer over a bulk connection %q", got)
	}
	p.with(func() {
		if strings.Join(p.kinds, " ") != "control control bulk" {
			t.Errorf("links of kinds %v", p.kinds)
		}
	})
}

func TestBulkConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	l := open(t, p.join(t))
	l.Start(t.Context(), http.NotFoundHandler())
	s := <-p.linked
	ask := func(method string) int {
		req, err := http.NewRequest(method, "http://node"+wire.BulkPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := over(s).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if got := ask("GET"); got != 405 {
		t.Errorf("GET: %d", got)
	}
	var open []*yamux.Session
	for range wire.MaxBulkConnections {
		if got := ask("POST"); got != 202 {
			t.Fatalf("asked for a bulk connection: %d", got)
		}
		open = append(open, <-p.linked)
	}
	if got := ask("POST"); got != 503 {
		t.Errorf("one more than the bound: %d", got)
	}
	open[0].Close()
	eventually(t, "room for another", func() bool { return ask("POST") == 202 })
}

func TestRequestsBeyondTheBoundAreRefused(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	l := open(t, p.join(t))
	l.slots = make(chan struct{}, 1)
	inside, release := make(chan struct{}), make(chan struct{})
	l.Start(t.Context(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inside <- struct{}{}; <-release }))
	s := <-p.linked
	done := make(chan int)
	go func() {
		res, err := over(s).Get("http://node/slow")
		if err != nil {
			done <- 0
			return
		}
		res.Body.Close()
		done <- res.StatusCode
	}()
	<-inside
	res, err := over(s).Get("http://node/fast")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var refused wire.Error
	if err := json.NewDecoder(res.Body).Decode(&refused); err != nil || res.StatusCode != 503 || refused.Code != "busy" {
		t.Errorf("%d %+v, %v", res.StatusCode, refused, err)
	}
	close(release)
	if got := <-done; got != 200 {
		t.Errorf("the slow one: %d", got)
	}
}

func TestStopEndsRunningHandlers(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	l := open(t, p.join(t))
	inside, ended := make(chan struct{}), make(chan struct{})
	l.Start(t.Context(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(inside)
		<-r.Context().Done()
		close(ended)
	}))
	s := <-p.linked
	go func() {
		if res, err := over(s).Get("http://node/x"); err == nil {
			res.Body.Close()
		}
	}()
	<-inside
	l.Stop()
	select {
	case <-ended:
	default:
		t.Error("Stop returned before its handler")
	}
	l.Stop()
	if err := l.Report(wire.Event{Kind: wire.EventObserved}); err == nil {
		t.Error("an event was taken after Stop")
	}
	l.Start(context.Background(), http.NotFoundHandler()) // does nothing
}

func TestForgottenEventsGiveTheSpoolANewIdentity(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	p.hello = func(wire.Hello) wire.HelloReply { return wire.HelloReply{Version: wire.Version, AckedSeq: 99} }
	l := open(t, p.join(t))
	id := l.spool.ID()
	l.Start(t.Context(), http.NotFoundHandler())
	<-p.linked
	eventually(t, "a new identity", func() bool { return l.spool.ID() != id })
}

func TestVersionRefusalIsAnError(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	p.hello = func(wire.Hello) wire.HelloReply {
		return wire.HelloReply{Error: &wire.Error{Status: 426, Code: "node_too_old", Message: "Upgrade wings."}}
	}
	l := open(t, p.join(t))
	linked, err := l.connect(t.Context(), l.id.Load(), p.addr(), wire.LinkControl)
	var refused *wire.Error
	if linked || !errors.As(err, &refused) || refused.Code != "node_too_old" {
		t.Errorf("linked %t, %v", linked, err)
	}
}

func TestMachineReadsWhatTheKernelSays(t *testing.T) {
	t.Parallel()
	total, used := memory([]byte("MemTotal:       16384000 kB\nMemFree: 1 kB\nMemAvailable:    8192000 kB\nHugePages_Total: 0\nbroken\n"))
	if total != 16000 || used != 8000 {
		t.Errorf("memory %d, %d", total, used)
	}
	if total, used := memory(nil); total != 0 || used != 0 {
		t.Errorf("memory of nothing %d, %d", total, used)
	}
	if got := load([]byte("0.75 0.50 0.25 1/234 5678\n")); got != 0.75 {
		t.Errorf("load %v", got)
	}
	if got := load([]byte("x")); got != 0 {
		t.Errorf("load of garbage %v", got)
	}
}

func TestCallsAreToldOfAndGoThroughTheDialerThatWasSet(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	from := net.IPv4(127, 0, 0, 9)
	var dialled atomic.Int64
	type call struct {
		what string
		took time.Duration
		err  error
	}
	var heard []call // by the one goroutine that calls
	l, err := New(Config{
		Dir: p.join(t), Log: slog.New(slog.DiscardHandler),
		Dialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Control: func(string, string, syscall.RawConn) error { dialled.Add(1); return nil }},
		Called: func(what string, took time.Duration, err error) { heard = append(heard, call{what, took, err}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	if err := l.heartbeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(heard) != 1 || heard[0].what != "heartbeat" || heard[0].took <= 0 || heard[0].err != nil || dialled.Load() != 1 {
		t.Errorf("heard of %v after %d connections", heard, dialled.Load())
	}
	p.server.Close()
	err = l.heartbeat(t.Context())
	if last := heard[len(heard)-1]; err == nil || !errors.Is(last.err, err) {
		t.Errorf("a call that failed with %v was told of as %v", err, last.err)
	}
}

// A panel that names other roots is believed, on disk first; what it names wrongly is not.
func TestTheNodeLearnsOfNewRoots(t *testing.T) {
	t.Parallel()
	p := newFakePanel(t)
	dir := p.join(t)
	l := open(t, dir)
	before := l.id.Load()
	both := before.Roots + toPEM(newAuthority(t).cert.Raw)
	for _, bad := range []string{"", "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		l.trust(bad)
		if l.id.Load() != before {
			t.Fatalf("%q was believed", bad)
		}
	}
	l.trust(both)
	stored, err := loadIdentity(dir)
	if err != nil || len(stored.trusted) != 2 || len(l.id.Load().trusted) != 2 {
		t.Fatalf("on disk %d, in use %d: %v", len(stored.trusted), len(l.id.Load().trusted), err)
	}
	if stored.Certificate != before.Certificate || stored.Key != before.Key || stored.Joined != before.Joined {
		t.Error("more than the roots changed")
	}
	l.trust(before.Roots)
	if stored, err = loadIdentity(dir); err != nil || len(stored.trusted) != 1 {
		t.Errorf("the second root is kept: %v", err)
	}
}
