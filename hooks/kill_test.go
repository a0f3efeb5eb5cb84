package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/compliance"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// The victim of a kill is this test binary with these variables: a panel on a data folder, which kills itself with
// SIGKILL when it comes to a place of a purge. Without a place it ends when the purge is done.
const (
	victimDir  = "HOOKS_VICTIM_DIR"
	victimURL  = "HOOKS_VICTIM_URL" // of the database; empty: SQLite
	victimDies = "HOOKS_VICTIM_DIES"
)

// places are those that a victim comes by; it ends at the one that is chosen.
type places struct {
	dies  string
	mu    sync.Mutex
	names []string // guarded by mu
}

func (p *places) here(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names = append(p.names, name)
	if name == p.dies {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // it may take a moment
	}
}

// placedRoom tells when a room has purged.
type placedRoom struct {
	compliance.Room
	at *places
}

func (r placedRoom) Purge(tx core.App, tenant string) (map[string]int64, error) {
	gone, err := r.Room.Purge(tx, tenant)
	r.at.here(fmt.Sprintf("%T", r.Room))
	return gone, err
}

type placedSamples struct {
	compliance.Samples
	at *places
}

func (s placedSamples) Count(ctx context.Context, tenant string) (int64, error) {
	n, err := s.Samples.Count(ctx, tenant)
	s.at.here("samples-counted")
	return n, err
}

func (s placedSamples) Forget(ctx context.Context, tenant string) (int64, error) {
	s.at.here("samples-to-go")
	n, err := s.Samples.Forget(ctx, tenant)
	s.at.here("samples-gone")
	return n, err
}

// bootVictim is a panel on a data folder of an earlier one.
func bootVictim(dir, url string) (*Panel, core.App, error) {
	c := core.BaseAppConfig{DataDir: dir, DBConnect: collectionstest.Connect}
	if url != "" {
		d, err := postgres.Open(context.Background(), postgres.Config{URL: url})
		if err != nil {
			return nil, nil, err
		}
		c.DBConnect = d.Connect
	}
	app := core.NewBaseApp(c)
	app.OnBootstrap().Unbind("__pbNotifyWatcherSystemHook__")
	if err := app.Bootstrap(); err != nil {
		return nil, nil, err
	}
	config := &Config{HTTPAddress: "127.0.0.1:8090", NodeListen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Web: http.NotFoundHandler(),
		MasterKeyFile: filepath.Join(dir, "master.key")}
	bindGuards(app, false)
	p, err := Open(app, config)
	return p, app, err
}

func victim() int {
	p, app, err := bootVictim(os.Getenv(victimDir), os.Getenv(victimURL))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	at := &places{dies: os.Getenv(victimDies)}
	for i, room := range p.Compliance.Rooms {
		p.Compliance.Rooms[i] = placedRoom{room, at}
	}
	p.Compliance.Samples = placedSamples{p.Compliance.Samples, at}
	cut := p.Compliance.Cut
	p.Compliance.Cut = func(tx core.App, tenant string) error {
		err := cut(tx, tenant)
		at.here("cut")
		collections.AfterCommit(tx, func() { at.here("committed") })
		return err
	}
	if err := p.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for range 3000 {
		tenant, err := hurry(app)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if tenant == "" {
			p.Stop()
			at.mu.Lock()
			defer at.mu.Unlock()
			fmt.Println(strings.Join(at.names, "\n"))
			return 0
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // a process of its own, which is killed
	}
	fmt.Fprintln(os.Stderr, "the purge does not end")
	return 1
}

// hurry has a purge that waits to be tried again be tried at once, and names a tenant that is not purged yet.
func hurry(app core.App) (tenant string, err error) {
	err = collections.Tx(app, nil, func(tx core.App) error {
		_, err := tx.NonconcurrentDB().Update(collections.Jobs, dbx.Params{"run_at": collections.Stamp(time.Now()), "attempt": 0}, dbx.HashExp{"kind": "PurgeTenant", "state": jobs.Ready}).Execute()
		return err
	})
	if err != nil {
		return "", err
	}
	rows, err := collections.Every[collections.Tenant](app, collections.Tenants, "id", 1, dbx.HashExp{"status": tenancy.StatusDeleting})
	if err != nil || len(rows) == 0 {
		return "", err
	}
	return rows[0].Id, nil
}

// A panel that is killed at any place of a purge leaves an organisation that is whole or one that is gone, and the next
// one finishes: nothing of it is left, and the proof is written once, with the numbers of all that there was.
func TestAPanelIsKilledWhileItPurges(t *testing.T) {
	t.Parallel()
	names := lastWords(t, nil)
	if len(names) < 12 || names[len(names)-1] != "committed" {
		t.Fatalf("a purge comes by %d places: %v", len(names), names)
	}
	chosen := rand.Perm(len(names))
	if os.Getenv("MAMBA_NIGHTLY") == "" {
		chosen = chosen[:5]
	}
	// Those at which what is outside of the transaction, or after it, hangs.
	for _, name := range []string{"samples-counted", "samples-gone", "cut", "committed"} {
		chosen = append(chosen, slices.Index(names, name))
	}
	slices.Sort(chosen)
	var at []string
	for _, place := range slices.Compact(chosen) {
		at = append(at, names[place])
	}
	lastWords(t, at)
	t.Logf("%d of %d places at which the panel was killed while it purged", len(at), len(names))
}

// lastWords prepares an organisation that is to be purged, has panels die at it, and then one finish. It returns the
// places that the last came by.
func lastWords(t *testing.T, at []string) []string {
	t.Helper()
	dir, url := filepath.Join(t.TempDir(), "pb_data"), "" // the samples are beside it
	app := collectionstest.Elsewhere(t, dir, &url)
	h := serve(t, app, func(c *Config) { c.MasterKeyFile = filepath.Join(dir, "master.key") })
	s := &settled{house: h}
	_, err := h.demo().Accounts()
	must(t, err)
	h.asSuperuser2()
	s.person("boss@example.org")
	boss := s.signIn("boss@example.org")
	made := func(name string) string {
		_, _, raw := s.ask(boss, "", "POST", "/api/v1/tenants", plain, `{"name":"`+name+`"}`)
		return decode[struct{ ID string }](t, raw).ID
	}
	a, b := made("Acme"), made("Bystanders")
	s.plantAll(b, "bystander")
	s.plantAll(a, "doomed")
	h.Stop() // no worker of this process takes the purge
	s.doomed(a)
	other := s.belongsTo(b)
	must(t, app.ClearBootstrap())

	for _, place := range at {
		out, err := runVictim(dir, url, place)
		var died *exec.ExitError
		if !errors.As(err, &died) || died.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%s: %v\n%s", place, err, out)
		}
		if place == "committed" {
			break // there is nothing left to be killed at
		}
		s.whole(dir, url, a)
	}
	out, err := runVictim(dir, url, "")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p, again, err := bootVictim(dir, url)
	must(t, err)
	defer func() { p.Stop(); must(t, again.ClearBootstrap()) }()
	after := &settled{house: &house{Panel: p, t: t, app: again.(*core.BaseApp)}}
	for id, text := range everyRow(t, again) {
		if strings.Contains(text, "canary-doomed") || strings.Contains(text, "tenant="+a+"\n") {
			t.Errorf("%s is left:\n%s", id, text)
		}
	}
	if n := after.count(collections.AuditLogs, dbx.HashExp{"tenant": "", "action": audit.ActionPurged}); n != 1 {
		t.Errorf("the proof is there %d times", n)
	}
	if n := after.samplesOf(a); n != 0 {
		t.Errorf("%d samples are left", n)
	}
	after.inOrder(a)
	if now := after.belongsTo(b); now != other {
		t.Errorf("the other had %d rows and has %d", other, now)
	}
	return strings.Fields(out)
}

func runVictim(dir, url string, dies string) (string, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimDir+"="+dir, victimURL+"="+url, victimDies+"="+dies)
	var said strings.Builder
	cmd.Stdout = &said
	cmd.Stderr = io.Writer(&said)
	err := cmd.Run()
	return said.String(), err
}

// doomed makes the time of an organisation be over, and its purge a job.
func (s *settled) doomed(tenant string) {
	s.t.Helper()
	_, err := s.app.NonconcurrentDB().Update(collections.Tenants, dbx.Params{"status": tenancy.StatusDeleting, "delete_at": collections.Stamp(time.Now().Add(-time.Minute))}, dbx.HashExp{"id": tenant}).Execute()
	must(s.t, err)
	must(s.t, s.Compliance.Due(s.app, time.Now()))
}

// whole fails unless everything of an organisation is there but its samples.
func (s *settled) whole(dir, url, tenant string) {
	s.t.Helper()
	p, app, err := bootVictim(dir, url)
	must(s.t, err)
	defer func() { p.Stop(); must(s.t, app.ClearBootstrap()) }()
	h := &house{Panel: p, t: s.t, app: app.(*core.BaseApp)}
	for _, d := range collections.All() {
		if d.Tenant && d.Name != collections.AuditHeads && h.count(d.Name, dbx.HashExp{"tenant": tenant}) == 0 {
			s.t.Errorf("the rows of %s are gone and the organisation is not", d.Name)
		}
	}
	reps, err := p.Audit.VerifyAll(app)
	must(s.t, err)
	for _, r := range reps {
		if !r.OK() || r.Purged {
			s.t.Errorf("audit chain %q: %+v", r.Tenant, r)
		}
	}
}

// belongsTo counts the rows of a tenant.
func (s *settled) belongsTo(tenant string) (n int64) {
	s.t.Helper()
	for _, d := range collections.All() {
		if d.Tenant && d.Name != collections.AuditHeads {
			n += s.count(d.Name, dbx.HashExp{"tenant": tenant})
		}
	}
	return n
}
