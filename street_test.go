package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
)

// tryAgain is how long somebody waits who was not answered, before he asks another instance.
const tryAgain = 50 * time.Millisecond

// street is several panels on one PostgreSQL database, one node that is the child of none of them, and
// one organisation. Requests go to any instance, as behind a load balancer without sticky sessions.
type street struct {
	*rig
	panels []*panel
	db     *pgx.Conn // of the test's goroutine alone

	mu    sync.Mutex
	rng   *mrand.Rand   // guarded by mu
	up    []bool        // has answered since it was started; guarded by mu
	aimed *panel        // gets all requests until it is killed; guarded by mu
	tries int           // that were not answered; guarded by mu
	longs time.Duration // the longest that somebody waited for an answer; guarded by mu
}

// newStreet starts n panels at once on an empty database, and a node with so many ports.
func newStreet(t *testing.T, rng *mrand.Rand, n, ports int) *street {
	t.Helper()
	database := postgrestest.URL(t)
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	s := &street{rng: rng, up: make([]bool, n)}
	for i := range n {
		p := preparePanel(t)
		p.env = append(p.env, "MAMBA_DB="+database, "MAMBA_MASTER_KEY="+base64.StdEncoding.EncodeToString(key[:]))
		s.panels = append(s.panels, p)
		p.mail = s.panels[0].mail
		s.up[i] = true
	}
	began := time.Now()
	for _, p := range s.panels {
		must(t, p.launch())
	}
	for _, p := range s.panels {
		eventually(t, patience, "a panel that was started beside others answers", p.answers)
	}
	t.Logf("%d panels that started together on an empty database answered after %s", n, time.Since(began).Round(10*time.Millisecond))
	first := s.panels[0]
	first.makeSuper()
	s.rig = &rig{t: t, panel: first, user: first.customer("street"), root: first.super(), engine: engineAt(t, first.host)}
	s.root.ok("PATCH", "/api/collections/tenants/records/"+s.user.tenant, map[string]any{
		"quota_servers": 500, "quota_memory_mib": 1 << 20, "quota_cpu_millicores": 1_000_000, "quota_disk_mib": 1 << 20,
	}, nil)
	t.Cleanup(s.sweep)
	s.joinNode(ports)
	s.connect(database)
	return s
}

// connect looks into the database behind the panels' backs.
func (s *street) connect(database string) {
	s.t.Helper()
	cfg, err := pgx.ParseConfig(database)
	must(s.t, err)
	cfg.RuntimeParams["search_path"] = postgres.DefaultSchema
	s.db, err = pgx.ConnectConfig(s.t.Context(), cfg)
	must(s.t, err)
	s.t.Cleanup(func() { s.db.Close(context.Background()) })
}

// joinNode adds a node by the API and runs its daemon as an operator does.
func (s *street) joinNode(ports int) {
	s.t.Helper()
	var node struct {
		ID   string
		Join struct{ Command string }
	}
	s.root.ok("POST", "/api/v1/admin/nodes", map[string]any{"name": "street", "public_addresses": []string{"127.0.0.1"},
		"cpu_millicores": 100_000, "memory_mib": 1 << 17, "disk_mib": 1 << 20}, &node)
	s.root.ok("POST", "/api/v1/admin/nodes/"+node.ID+"/ports", map[string]any{"addresses": "127.0.0.1", "ports": portRange(s.t, ports)}, nil)
	bin, err := binary()
	must(s.t, err)
	dir := filepath.Join(s.panel.dir, "node")
	must(s.t, os.Mkdir(dir, 0o700))
	join := append(strings.Fields(node.Join.Command), "--dir", dir) // wings join URL --token T
	if out, err := exec.Command(bin, join...).CombinedOutput(); err != nil {
		s.t.Fatalf("join: %v\n%s", err, out)
	}
	log, err := os.Create(filepath.Join(dir, "wings.log"))
	must(s.t, err)
	cmd := onEngine(exec.Command(bin, "wings", "run", "--dir", dir))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(s.t, cmd.Start())
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
		if s.t.Failed() {
			raw, _ := os.ReadFile(log.Name())
			s.t.Logf("wings.log:\n%s", raw[max(0, len(raw)-8000):])
		}
	})
	s.online()
}

// chance draws a number below n.
func (s *street) chance(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.IntN(n)
}

// within draws a time below d.
func (s *street) within(d time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(s.rng.Int64N(int64(d)))
}

// living are the instances that answer, in their order.
func (s *street) living() (panels []*panel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, up := range s.up {
		if up {
			panels = append(panels, s.panels[i])
		}
	}
	return panels
}

// any is an instance that answers, as far as is known.
func (s *street) any() *panel {
	living := s.living()
	chosen := living[s.chance(len(living))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aimed != nil {
		return s.aimed
	}
	return chosen
}

// aim makes everybody ask the instance that is about to be killed.
func (s *street) aim(p *panel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aimed = p
}

// as is the customer at an instance.
func (s *street) as(p *panel) *client {
	c := *s.user
	c.url = p.url
	return &c
}

// ask sends a request under its key to one instance after the other until one decides. The error is that
// none did.
func (s *street) ask(method, path string, body any, key string) (a answer, err error) {
	for began := time.Now(); time.Since(began) < patience; {
		a, err = s.as(s.any()).try(method, path, body, "Idempotency-Key", key)
		if err == nil && a.status < http.StatusInternalServerError {
			s.mu.Lock()
			s.longs = max(s.longs, time.Since(began))
			s.mu.Unlock()
			return a, nil
		}
		if err == nil {
			err = fmt.Errorf("%d %s", a.status, a.raw)
		}
		s.mu.Lock()
		s.tries++
		s.mu.Unlock()
		pause(s.t.Context(), tryAgain)
	}
	return a, fmt.Errorf("%s %s: no instance answered within %s: %w", method, path, patience, err)
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// killPanel ends an instance at once. Whoever asks it meanwhile gets no answer.
func (s *street) killPanel(i int) {
	s.panels[i].kill()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up[i], s.aimed = false, nil
}

// revivePanel starts it again and returns when it answers.
func (s *street) revivePanel(i int) error {
	p := s.panels[i]
	if err := p.launch(); err != nil {
		return err
	}
	for began := time.Now(); ; {
		err := p.answers()
		if err == nil {
			break
		}
		select {
		case <-p.done:
			return errors.New("a panel that was started again ended")
		default:
		}
		if time.Since(began) > patience {
			return fmt.Errorf("a panel that was started again does not answer: %w", err)
		}
		pause(s.t.Context(), tryAgain)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up[i] = true
	return nil
}

// column returns the first column of the rows.
func (s *street) column(sql string, args ...any) []string {
	s.t.Helper()
	rows, err := s.db.Query(s.t.Context(), sql, args...)
	must(s.t, err)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(s.t, err)
	return found
}

// none fails when rows are found that must not be.
func (s *street) none(what, sql string, args ...any) {
	s.t.Helper()
	if found := s.column(sql, args...); len(found) > 0 {
		s.t.Errorf("%s: %d, among them %v", what, len(found), found[:min(len(found), 5)])
	}
}
