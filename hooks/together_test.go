package hooks

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/collections/postgres/postgrestest"
	"github.com/mambahost/mamba/hooks/tenancy"
)

// TestInstancesWithDifferentMasterKeysDoNotBothStart has three panels start together on an empty
// database, each of which would make a key of its own.
func TestInstancesWithDifferentMasterKeysDoNotBothStart(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	var mu sync.Mutex
	var said []error
	var wg sync.WaitGroup
	for range 3 {
		dir := t.TempDir()
		wg.Go(func() {
			err := openOn(t, url, dir)
			mu.Lock()
			defer mu.Unlock()
			said = append(said, err)
		})
	}
	wg.Wait()
	good := 0
	for _, err := range said {
		switch {
		case err == nil:
			good++
		case !strings.Contains(err.Error(), "master key"):
			t.Error("an instance with another key says:", err)
		}
	}
	if good != 1 {
		t.Errorf("%d of 3 instances with keys of their own started: %v", good, said)
	}
}

// openOn boots a panel on a PostgreSQL database and makes its rooms.
func openOn(t *testing.T, url, dir string) error {
	c := &Config{database: &database{url: url}, HTTPAddress: "127.0.0.1:8090", NodeListen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), SamplesDays: defaultSamplesDays}
	app := core.NewBaseApp(core.BaseAppConfig{DataDir: filepath.Join(dir, "pb_data"), DBConnect: c.Connect})
	app.OnBootstrap().Unbind("__pbNotifyWatcherSystemHook__")
	bindDatabase(app, c)
	if err := app.Bootstrap(); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := app.ClearBootstrap(); err != nil {
			t.Error(err)
		}
		c.database.close()
	})
	p, err := Open(app, c)
	if err == nil {
		t.Cleanup(p.Stop)
	}
	return err
}

// street is several whole panels on one PostgreSQL database, with the demo and a node at the first.
type street struct {
	t      *testing.T
	houses []*house
}

func newStreet(t *testing.T, n int) *street {
	t.Helper()
	key := filepath.Join(t.TempDir(), "master.key")
	s := &street{t: t}
	for _, instance := range collectionstest.Several(t, n) {
		s.houses = append(s.houses, serve(t, instance.BaseApp, func(c *Config) {
			c.MasterKeyFile, c.database = key, &database{url: "postgres://", pg: instance.Database}
		}))
	}
	first := s.houses[0]
	_, err := first.demo().Accounts()
	must(t, err)
	first.joinLocal()
	must(t, first.demo().Fill(t.Context()))
	return s
}

// at sends request number i of many; they go round the instances.
func (s *street) at(i int, token, tenant, key, path, body string) (int, string) {
	req := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", token)
	req.Header.Set("X-Tenant", tenant)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	rec := httptest.NewRecorder()
	s.houses[i%len(s.houses)].mux.ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

// rush sends as many requests at once as three instances have writers, and counts the answers.
func (s *street) rush(send func(i int) (status int, answer string)) (by map[int]int, answers []string) {
	s.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	by = map[int]int{}
	for i := range 24 {
		wg.Go(func() {
			status, answer := send(i)
			mu.Lock()
			defer mu.Unlock()
			by[status]++
			answers = append(answers, answer)
		})
	}
	wg.Wait()
	return by, answers
}

func (s *street) person(email string) string {
	s.t.Helper()
	return (&settled{house: s.houses[0]}).person(email)
}

// TestChecksHoldAcrossInstances has 24 writers on three instances do at once what only some of them may:
// what each looked at has to hold until it has written. Without the locks of collections.Tx each part fails.
func TestChecksHoldAcrossInstances(t *testing.T) {
	t.Parallel()
	s := newStreet(t, 3)
	app := s.houses[0].app
	owner := s.houses[0].as("owner@demo.example").super
	tenant, err := app.FindFirstRecordByFilter(collections.Tenants, "slug = 'demo-corp'")
	must(t, err)
	have, err := app.CountRecords(collections.Servers, dbx.HashExp{"tenant": tenant.Id})
	must(t, err)
	tenant.Set("quota_servers", have+5)
	must(t, collections.PermitFor("tenancy").Save(app, tenant))

	by, answers := s.rush(func(i int) (int, string) {
		return s.at(i, owner, "demo-corp", "", "/api/v1/servers",
			fmt.Sprintf(`{"name":"rush-%d","blueprint":"demo","start":false,"limits":{"cpu_millicores":100,"memory_mib":64,"disk_gib":1}}`, i))
	})
	if by[http.StatusAccepted] != 5 {
		t.Errorf("a tenant limited to five more servers got %v: %.300s", by, answers[0])
	}
	s.portsAreOnesOwn()

	ann := s.person("ann@example.org")
	by, answers = s.rush(func(i int) (int, string) {
		return s.at(i, ann, "", "", "/api/v1/tenants", fmt.Sprintf(`{"name":"Ann %d"}`, i))
	})
	if by[http.StatusCreated] != tenancy.DefaultMaxTenants {
		t.Errorf("who may own ten organisations owns %v: %.300s", by, answers[0])
	}

	bob := s.person("bob@example.org")
	by, answers = s.rush(func(i int) (int, string) {
		return s.at(i, bob, "", "one-key-for-all-of-them", "/api/v1/tenants", `{"name":"Bob"}`)
	})
	ids := map[string]bool{}
	for _, a := range answers {
		var made struct{ ID string }
		if json.Unmarshal([]byte(a), &made) == nil && made.ID != "" {
			ids[made.ID] = true
		}
	}
	if len(ids) != 1 || by[http.StatusCreated] == 0 {
		t.Errorf("one idempotency key made %d organisations: %v", len(ids), by)
	}

	by, answers = s.rush(func(i int) (int, string) {
		return s.at(i, "", "", "", "/api/collections/users/auth-with-password", `{"identity":"ann@example.org","password":"wrong-password"}`)
	})
	if by[http.StatusBadRequest] != 5 || by[http.StatusTooManyRequests] != 19 {
		t.Errorf("of 24 attempts to sign in five are to be tried: %v: %.300s", by, answers[0])
	}

	reports, err := s.houses[1].Audit.VerifyAll(app)
	must(t, err)
	for _, r := range reports {
		if !r.OK() {
			t.Errorf("the audit chain of %q forked: %+v", r.Tenant, r.Problems)
		}
	}
}

// portsAreOnesOwn fails when two servers hold one port.
func (s *street) portsAreOnesOwn() {
	s.t.Helper()
	var twice []string
	err := s.houses[0].app.DB().NewQuery(`SELECT [[port]] FROM {{port_pools}} WHERE [[allocated_to_server]] != '' GROUP BY [[node]], [[ip_address]], [[port]], [[protocol]] HAVING COUNT(*) > 1`).Column(&twice)
	must(s.t, err)
	if len(twice) > 0 {
		s.t.Errorf("held twice: %v", twice)
	}
	var held []struct {
		Server string `db:"server"`
		N      int    `db:"n"`
	}
	err = s.houses[0].app.DB().NewQuery(`SELECT [[server]], COUNT(*) AS n FROM {{allocations}} WHERE [[status]] = 'ACTIVE' GROUP BY [[server]] HAVING COUNT(*) > 1`).All(&held)
	must(s.t, err)
	if len(held) > 0 {
		s.t.Errorf("servers with several allocations: %v", held)
	}
}
