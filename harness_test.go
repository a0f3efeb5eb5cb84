package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
	"github.com/mambahost/mamba/deploy/dev/mailcatch"
	"github.com/mambahost/mamba/wings/engine/dockertest"
)

// The whole-system tests run the built binary as an operator does, and talk to it as a browser does.

var binary = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("MAMBA_TEST_BIN"); dir != "" {
		return filepath.Join(dir, "mambahost"), nil
	}
	dir, err := os.MkdirTemp("", "mamba-bin")
	if err != nil {
		return "", err
	}
	built = dir
	out := filepath.Join(dir, "mambahost")
	cmd := exec.Command("go", "build", "-o", out, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, text)
	}
	return out, nil
})

// built is the folder that binary has made; TestMain removes it.
var built string

func TestMain(m *testing.M) {
	code := postgrestest.Main(m)
	if built != "" {
		if err := os.RemoveAll(built); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// panel is one installation: data folder, processes, addresses. It survives stop, kill and start.
type panel struct {
	t    testing.TB
	dir  string
	url  string
	node string // address of the node listener
	args []string
	env  []string
	host string // of the Docker Engine; empty: as the docker command
	mail *mailcatch.Server

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	log  *os.File
}

const superEmail, superPassword = "root@example.org", "root-password-1"

// newPanel prepares an installation with a superuser and a mail catcher; start runs it.
func newPanel(t testing.TB, args ...string) *panel {
	t.Helper()
	if collectionstest.OnPostgres() {
		return newPanelOn(t, []string{"MAMBA_DB=" + postgrestest.URL(t)}, args...)
	}
	return newPanelOn(t, nil, args...)
}

// newPanelOn is newPanel with further environment, as MAMBA_DB.
func newPanelOn(t testing.TB, env []string, args ...string) *panel {
	t.Helper()
	p := preparePanel(t, args...)
	p.env = append(p.env, env...)
	p.makeSuper()
	return p
}

// preparePanel is newPanel without a superuser, so without a database.
func preparePanel(t testing.TB, args ...string) *panel {
	t.Helper()
	mail, err := mailcatch.Start()
	must(t, err)
	t.Cleanup(func() { mail.Close() })
	p := &panel{t: t, dir: t.TempDir(), mail: mail, args: args, host: os.Getenv(dockertest.HostVariable),
		env: []string{"MAMBA_TOKEN_PACE=-1", "MAMBA_ADDRESS_PACE=-1"}} // tests are quicker than people
	p.url, p.node = "http://"+freeAddr(t), freeAddr(t)
	t.Cleanup(p.sweep)
	t.Cleanup(func() {
		if t.Failed() {
			p.dumpLog()
		}
	})
	t.Cleanup(p.stop)
	return p
}

// makeSuper makes the account that super signs in with.
func (p *panel) makeSuper() {
	p.t.Helper()
	bin, err := binary()
	must(p.t, err)
	cmd := exec.Command(bin, "superuser", "upsert", superEmail, superPassword, "--dir", filepath.Join(p.dir, "pb_data"))
	cmd.Env = append(os.Environ(), p.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("superuser: %v\n%s", err, out)
	}
}

// freeAddr is an address that a panel can have again after a kill: no connection takes its port by chance.
func freeAddr(t testing.TB) string {
	t.Helper()
	port, err := nextPorts(1)
	must(t, err)
	port, _, _ = strings.Cut(port, "-")
	return net.JoinHostPort("127.0.0.1", port)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start runs the panel and returns when it answers.
func (p *panel) start() {
	p.t.Helper()
	must(p.t, p.launch())
	eventually(p.t, 60*time.Second, "the panel answers", func() error {
		select {
		case <-p.done:
			p.dumpLog()
			p.t.Fatal("the panel ended")
		default:
		}
		return p.answers()
	})
	if slices.Contains(p.args, "--local-node") {
		p.linked()
	}
}

// launch runs the panel and does not wait for it.
func (p *panel) launch() error {
	bin, err := binary()
	if err != nil {
		return err
	}
	if p.log, err = os.OpenFile(filepath.Join(p.dir, "panel.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	args := append([]string{"serve", "--dir", filepath.Join(p.dir, "pb_data"), "--http", strings.TrimPrefix(p.url, "http://"),
		"--node-listen", p.node, "--smtp", p.mail.Addr}, p.args...)
	p.cmd = exec.Command(bin, args...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.Env = append(os.Environ(), p.env...)
	if p.host != "" {
		p.cmd.Env = append(p.cmd.Env, "DOCKER_HOST="+p.host)
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	p.done = done
	go func(cmd *exec.Cmd) { _ = cmd.Wait(); close(done) }(p.cmd)
	return nil
}

// answers returns nil when the panel serves.
func (p *panel) answers() error {
	resp, err := http.Get(p.url + "/api/health")
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// linked waits until the node of this machine takes servers: the panel answers before it does.
func (p *panel) linked() {
	p.t.Helper()
	root := p.super()
	eventually(p.t, 60*time.Second, "the local node is online", func() error {
		var nodes struct {
			Items []struct{ Name, Status string }
		}
		root.ok("GET", "/api/v1/admin/nodes", nil, &nodes)
		for _, n := range nodes.Items {
			if n.Status == "ONLINE" {
				return nil
			}
		}
		return fmt.Errorf("the nodes are %v", nodes.Items)
	})
}

// dumpLog shows what the panel wrote, and the errors behind its answers, which are in PocketBase's own log.
func (p *panel) dumpLog() {
	raw, err := os.ReadFile(filepath.Join(p.dir, "panel.log"))
	if err == nil {
		p.t.Logf("panel.log:\n%s", raw[max(0, len(raw)-8000):])
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(p.dir, "pb_data", "auxiliary.db")+"?mode=ro&_pragma=busy_timeout(5000)")
	must(p.t, err)
	defer db.Close()
	var errs sql.NullString
	err = db.QueryRow("SELECT group_concat(line, char(10)) FROM (SELECT created || ' ' || message || ' ' || data AS line FROM _logs WHERE level >= 8 ORDER BY created DESC LIMIT 20)").Scan(&errs)
	p.t.Logf("errors (%v):\n%s", err, errs.String)
}

// stop ends the panel as Ctrl-C does.
func (p *panel) stop() { p.signal(syscall.SIGTERM) }

// kill ends it at once.
func (p *panel) kill() { p.signal(syscall.SIGKILL) }

func (p *panel) signal(sig syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.t.Errorf("the panel did not end within 30 s of %s", sig)
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	p.log.Close()
	p.cmd = nil
}

// eventually asks every 20 ms until fn has no error; the last one is reported.
func eventually(t testing.TB, within time.Duration, what string, fn func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, within, err)
		case <-tick.C:
		}
	}
}

// client talks to a panel as one person in one organisation.
type client struct {
	t      testing.TB
	url    string
	in     *userSession // nil: nobody
	tenant string
}

// userSession is a session, whose tokens live shorter than some tests.
type userSession struct {
	mu             sync.Mutex
	token, refresh string    // no refresh token: an operator's
	at             time.Time // of the token
}

// bearer returns a token that is good for a while.
func (s *userSession) bearer(url string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refresh == "" || time.Since(s.at) < 10*time.Minute {
		return s.token, nil
	}
	var next struct {
		Token   string
		Refresh string `json:"refresh_token"`
	}
	a, err := (&client{url: url}).try("POST", "/api/v1/account/sessions/refresh", map[string]string{"refresh_token": s.refresh})
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("refresh a session: %d %s", a.status, a.raw)
	}
	if err == nil {
		err = json.Unmarshal(a.raw, &next)
	}
	if err != nil {
		return "", err
	}
	s.token, s.refresh, s.at = next.Token, next.Refresh, time.Now()
	return s.token, nil
}

// answer is what came back.
type answer struct {
	status int
	raw    []byte
	header http.Header
}

func (a answer) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.raw, v); err != nil {
		t.Fatalf("decode %s: %v", a.raw, err)
	}
}

// do sends a request; body is JSON, extra are header pairs.
func (c *client) do(method, path string, body any, extra ...string) answer {
	c.t.Helper()
	a, err := c.try(method, path, body, extra...)
	must(c.t, err)
	return a
}

func (c *client) try(method, path string, body any, extra ...string) (answer, error) {
	var r io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, c.url+path, r)
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.in != nil {
		token, err := c.in.bearer(c.url)
		if err != nil {
			return answer{}, err
		}
		req.Header.Set("Authorization", token)
	}
	if c.tenant != "" {
		req.Header.Set("X-Tenant", c.tenant)
	}
	for i := 0; i+1 < len(extra); i += 2 {
		req.Header.Set(extra[i], extra[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, raw, resp.Header}, err
}

// ok sends a request that has to succeed and decodes the answer into out.
func (c *client) ok(method, path string, body, out any) {
	c.t.Helper()
	a := c.do(method, path, body)
	if a.status < 200 || a.status > 299 {
		c.t.Fatalf("%s %s: %d %s", method, path, a.status, a.raw)
	}
	if out != nil {
		a.into(c.t, out)
	}
}

func (p *panel) super() *client {
	p.t.Helper()
	return p.signIn("_superusers", superEmail, superPassword)
}

func (p *panel) signIn(collection, email, password string) *client {
	p.t.Helper()
	c := &client{t: p.t, url: p.url}
	var auth struct{ Token string }
	a := c.do("POST", "/api/collections/"+collection+"/auth-with-password", map[string]string{"identity": email, "password": password}, "X-Refresh-Token", "1")
	if a.status != http.StatusOK {
		p.t.Fatalf("sign in as %s: %d %s", email, a.status, a.raw)
	}
	a.into(p.t, &auth)
	c.in = &userSession{token: auth.Token, refresh: a.header.Get("X-Refresh-Token"), at: time.Now()}
	return c
}

// customer signs up, confirms the address by the mail that was sent, and makes an organisation.
func (p *panel) customer(name string) *client {
	p.t.Helper()
	email, password := name+"@example.org", "a-long-password"
	guest := &client{t: p.t, url: p.url}
	guest.ok("POST", "/api/collections/users/records", map[string]string{"email": email, "password": password, "passwordConfirm": password, "name": name}, nil)
	guest.ok("POST", "/api/collections/users/request-verification", map[string]string{"email": email}, nil)
	var token string
	eventually(p.t, 10*time.Second, "the verification mail", func() error {
		for _, m := range p.mail.To(email) {
			if _, after, ok := strings.Cut(m.HTML, "#token="); ok {
				token, _, _ = strings.Cut(after, `"`)
				return nil
			}
		}
		return errors.New("no mail yet")
	})
	guest.ok("POST", "/api/collections/users/confirm-verification", map[string]string{"token": token}, nil)
	c := p.signIn("users", email, password)
	var tenant struct{ ID string }
	c.ok("POST", "/api/v1/tenants", map[string]string{"name": name + " org"}, &tenant)
	c.tenant = tenant.ID
	return c
}

// server is what the tests look at of a server.
type server struct {
	ID, Name, Status, Address string
	Problem                   *struct{ Code, Message string }
	Ports                     []struct {
		Name     string
		HostIP   string `json:"host_ip"`
		HostPort int    `json:"host_port"`
		Protocol string
	}
	Rev int64
}

func (c *client) server(id string) server {
	c.t.Helper()
	var s server
	c.ok("GET", "/api/v1/servers/"+id, nil, &s)
	return s
}

// create asks for a server and returns it as it was answered.
func (c *client) create(body map[string]any) server {
	c.t.Helper()
	var out struct{ Server server }
	c.ok("POST", "/api/v1/servers", body, &out)
	return out.Server
}

// createFor has the operator make a server in the organisation of c: variants that are not offered to
// customers are his to pick.
func (p *panel) createFor(c *client, body map[string]any) server {
	p.t.Helper()
	root := p.super()
	root.tenant = c.tenant
	return root.create(body)
}

func (c *client) act(id, action string) {
	c.t.Helper()
	c.ok("POST", "/api/v1/servers/"+id+"/actions", map[string]string{"action": action}, nil)
}

// until waits for a server to be in one of the phases.
func (c *client) until(id string, within time.Duration, phases ...string) server {
	c.t.Helper()
	var s server
	eventually(c.t, within, fmt.Sprintf("server %s is %v", id, phases), func() error {
		a, err := c.try("GET", "/api/v1/servers/"+id, nil)
		if err != nil {
			return err
		}
		if a.status == http.StatusNotFound {
			s = server{ID: id, Status: "DELETED"}
		} else if err := json.Unmarshal(a.raw, &s); err != nil {
			return fmt.Errorf("%d %s: %w", a.status, a.raw, err)
		}
		for _, p := range phases {
			if s.Status == p {
				return nil
			}
		}
		return fmt.Errorf("it is %s (%v)", s.Status, s.Problem)
	})
	return s
}

// demoServer is the body of a small server that needs no registry.
func demoServer(name string) map[string]any {
	return map[string]any{
		"name": name, "blueprint": "demo", "start": true,
		"limits": map[string]int{"cpu_millicores": 250, "memory_mib": 64, "disk_gib": 1},
	}
}

// Ports of the nodes and panels: below the ephemeral ones, so that no connection takes one by chance.
const firstPort, lastPort = 20_000, 32_000

// nextPorts hands out ranges of ports that nothing holds now, one after the other, so that tests in
// parallel never share one. Each test process begins somewhere else.
var nextPorts = func() func(n int) (string, error) {
	var mu sync.Mutex
	next := firstPort + os.Getpid()*97%(lastPort-firstPort)
	return func(n int) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		found := 0
		for range 2 * (lastPort - firstPort) {
			if next++; next >= lastPort {
				next, found = firstPort, 0
			}
			if found++; !portFree(next) {
				found = 0
			}
			if found == n {
				return fmt.Sprintf("%d-%d", next-n+1, next), nil
			}
		}
		return "", fmt.Errorf("no %d ports in a row are free between %d and %d", n, firstPort, lastPort)
	}
}()

func portFree(port int) bool {
	return bindable("tcp", "127.0.0.1", port) == nil && bindable("udp", "127.0.0.1", port) == nil
}

// bindable says why a port cannot be listened on.
func bindable(protocol, ip string, port int) error {
	addr := net.JoinHostPort(ip, strconv.Itoa(port))
	if protocol == "udp" {
		conn, err := net.ListenPacket("udp", addr)
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err == nil {
		err = l.Close()
	}
	return err
}
