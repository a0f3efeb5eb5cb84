package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/secrets"
)

// Every place that seals or opens names a field that a rotation knows.
func TestEverySealedFieldIsRegistered(t *testing.T) {
	t.Parallel()
	known := map[string]bool{"data_keys.wrapped": true} // what instances claim a database with; nothing is stored
	for _, s := range sealed {
		known[s.Table+"."+s.Field] = true
	}
	tables := map[string]string{} // constant → name
	generated, err := os.ReadFile("../collections/proxies_gen.go")
	must(t, err)
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:const )?(\w+)\s*= "([a-z_]+)"`).FindAllStringSubmatch(string(generated), -1) {
		tables[m[1]] = m[2]
	}
	seen := 0
	err = filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "secrets/") {
			return err
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok || nameOf(lit.Type) != "Ref" {
				return true
			}
			seen++
			table, field := "", ""
			for _, e := range lit.Elts {
				kv, ok := e.(*ast.KeyValueExpr)
				if !ok {
					t.Errorf("%s: name the fields of secrets.Ref", file)
					return true
				}
				switch nameOf(kv.Key) {
				case "Table":
					table = nameOf(kv.Value)
				case "Field":
					ast.Inspect(kv.Value, func(n ast.Node) bool {
						if b, ok := n.(*ast.BasicLit); ok && field == "" {
							field, _, _ = strings.Cut(strings.Trim(b.Value, `"`), ".")
						}
						return true
					})
				}
			}
			if !known[tables[table]+"."+field] {
				t.Errorf("%s seals %s.%s, which no rotation knows: add it to sealed in hooks/keys.go", file, table, field)
			}
			return true
		})
		return nil
	})
	must(t, err)
	if seen < 3 {
		t.Errorf("only %d places were found", seen)
	}
}

// sealedElsewhere names columns that hold sealed texts and are not registered.
func sealedElsewhere(t *testing.T, app core.App) (bad []string) {
	t.Helper()
	known := map[string]bool{}
	for _, s := range sealed {
		known[s.Table+"."+s.Field] = true
	}
	for _, d := range collections.All() {
		for _, f := range d.Columns() {
			if f.Kind != collections.Text && f.Kind != collections.JSON || known[d.Name+"."+f.Name] {
				continue
			}
			n, err := app.CountRecords(d.Name, dbx.NewExp("[["+f.Name+"]] LIKE 'm1:%' OR [["+f.Name+"]] LIKE '%\"m1:%'"))
			must(t, err)
			if n > 0 {
				bad = append(bad, d.Name+"."+f.Name)
			}
		}
	}
	return bad
}

// keysCommand runs "keys" and returns what it prints.
func keysCommand(s *settled, args ...string) (out string, err error) {
	var b bytes.Buffer
	c := KeysCommand(s.app, s.config)
	c.SetArgs(args)
	c.SetOut(&b)
	c.SetErr(&b)
	err = c.ExecuteContext(context.Background())
	return b.String(), err
}

// secretsOf opens every secret variable of every server and every key of the authority.
func (h *house) secretsOf(k *secrets.Keeper) (opened int, bad []string) {
	h.t.Helper()
	for _, f := range sealed {
		var rows []dbx.NullStringMap
		must(h.t, h.app.DB().Select("*").From(f.Table).All(&rows))
		for _, row := range rows {
			scope := f.ScopeOf(row)
			look := func(field, text string) (string, error) {
				opened++
				if _, err := k.Open(h.app, scope, secrets.Ref{Table: f.Table, Row: row["id"].String, Field: field}, text); err != nil {
					bad = append(bad, err.Error())
				}
				return text, nil
			}
			value := row[f.Field].String
			if !strings.Contains(value, "m1:") {
				continue
			}
			if f.Each != nil {
				_, err := f.Each(value, look)
				must(h.t, err)
			} else {
				_, _ = look(f.Field, value)
			}
		}
	}
	return opened, bad
}

func (h *house) freshKeeper() *secrets.Keeper {
	h.t.Helper()
	k, err := h.config.keeper(h.app)
	must(h.t, err)
	return k
}

// The whole panel serves while its keys are rotated by the command, again and again.
func TestKeysRotate_WhileThePanelServes(t *testing.T) {
	t.Parallel()
	s := settle(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var requests, faults atomic.Int64
	var wg sync.WaitGroup
	tenant := s.ids["/tenants/"]
	for range 3 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				status, body := 0, ""
				switch n % 4 {
				case 0:
					status, body = s.do("GET", "/api/v1/servers", "")
				case 1:
					status, body = s.do("PATCH", "/api/v1/tenants/"+tenant, fmt.Sprintf(`{"name":"Demo Corp %d"}`, rand.IntN(1000)))
				case 2:
					status, body = s.do("GET", "/api/v1/audit", "")
				case 3:
					status, body = s.do("POST", "/api/v1/admin/nodes", fmt.Sprintf(`{"name":"n%d","public_addresses":["203.0.113.9"]}`, rand.Int64()))
				}
				requests.Add(1)
				if status >= 500 || status == 0 {
					faults.Add(1)
					t.Errorf("%d %s", status, body)
				}
			}
		})
	}
	const rotations = 3
	for range rotations {
		if out, err := keysCommand(s, "rotate"); err != nil || !strings.Contains(out, "The keys are rotated.") {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if out, err := keysCommand(s, "rotate", "--master"); err != nil || !strings.Contains(out, "back it up") {
		t.Fatalf("%v\n%s", err, out)
	}
	stop()
	wg.Wait()
	opened, bad := s.secretsOf(s.freshKeeper())
	if len(bad) > 0 || opened < 2 {
		t.Fatalf("%d opened, unreadable: %v", opened, bad)
	}
	if bad := sealedElsewhere(t, s.app); len(bad) > 0 {
		t.Errorf("sealed texts in fields that no rotation knows: %v", bad)
	}
	if n := s.count(collections.AuditLogs, dbx.HashExp{"action": "keys.rotated", "tenant": ""}); n != rotations {
		t.Errorf("%d rows in the audit log about %d rotations", n, rotations)
	}
	var out, errs bytes.Buffer
	c := AuditCommand(s.app, s.config)
	c.SetArgs([]string{"verify"})
	c.SetOut(&out)
	c.SetErr(&errs)
	if err := c.Execute(); err != nil {
		t.Errorf("audit verify: %v %s", err, errs.String())
	}
	out2, err := keysCommand(s, "status")
	if err != nil || !strings.Contains(out2, "last rotation: 2") || strings.Contains(out2, "not at its end") {
		t.Errorf("%v\n%s", err, out2)
	}
	t.Logf("keys rotate: %d rotations and a new master key beside %d requests: %d errors; %d secrets read, 0 unreadable", rotations, requests.Load(), faults.Load(), opened)
}

// Killed at random points while the panel's rows are what it works on.
func TestKeysRotate_KilledAndResumedOnAPanel(t *testing.T) {
	t.Parallel()
	s := settle(t)
	kills := 12
	if os.Getenv("MAMBA_NIGHTLY") != "" {
		kills = 50
	}
	crash := errors.New("crash")
	points := 0
	r := s.rotator()
	r.at = func(string) error { points++; return nil }
	_, err := r.rotate(t.Context(), false, nil)
	must(t, err)
	read := 0
	for killed := 0; killed < kills; {
		keeper := s.freshKeeper()
		log, err := s.config.auditWith(s.app, keeper)
		must(t, err)
		left := rand.IntN(points)
		r := &rotator{app: s.app, keeper: keeper, audit: log, at: func(string) error {
			if left--; left < 0 {
				return crash
			}
			return nil
		}}
		if _, err = r.rotate(t.Context(), false, nil); errors.Is(err, crash) {
			killed++
		} else {
			must(t, err)
		}
		opened, bad := s.secretsOf(s.freshKeeper())
		if read += opened; len(bad) > 0 {
			t.Fatal(bad)
		}
	}
	if _, err := keysCommand(s, "rotate"); err != nil {
		t.Fatal(err)
	}
	reps, err := s.Audit.VerifyAll(s.app)
	must(t, err)
	for _, rep := range reps {
		if !rep.OK() {
			t.Errorf("%+v", rep)
		}
	}
	t.Logf("keys rotate: %d kills on a whole panel, %d secrets read, 0 unreadable", kills, read)
}

// Without a panel the command does the work itself.
func TestKeysCommandWithoutAPanel(t *testing.T) {
	t.Parallel()
	s := settle(t)
	s.Stop()
	if out, err := keysCommand(s, "rotate"); err != nil || !strings.Contains(out, "seal anew") {
		t.Fatalf("%v\n%s", err, out)
	}
	if opened, bad := s.secretsOf(s.freshKeeper()); len(bad) > 0 || opened == 0 {
		t.Fatal(opened, bad)
	}
	lost := *s.config
	lost.MasterKeyFile = filepath.Join(t.TempDir(), "master.key")
	c := KeysCommand(s.app, &lost)
	c.SetArgs([]string{"status"})
	if err := c.Execute(); !errors.Is(err, secrets.ErrMasterKey) || !strings.Contains(err.Error(), "restore the file") {
		t.Errorf("a lost key: %v", err)
	}
}

// Tokens of before a rotation are good after it, and what was in clear before is not any more.
func TestSettingsAreEncrypted(t *testing.T) {
	if collectionstest.OnPostgres() {
		t.Log("the settings are the same row on both")
	}
	dir, url := t.TempDir(), ""
	first := collectionstest.Elsewhere(t, dir, &url) // with settings in clear
	const canary = "smtp-canary-77123"
	first.Settings().SMTP.Password = canary
	must(t, first.Save(first.Settings()))
	if text, err := storedSettings(first); err != nil || !strings.Contains(text, canary) {
		t.Fatalf("not in clear before: %v", err)
	}
	env := SettingsKeyEnv + "_TEST"
	again := func(c *Config) (*core.BaseApp, error) {
		t.Setenv(env, "")
		b := collectionstest.Reopen(t, dir, url, env)
		bindSettings(b, c)
		return b, b.Bootstrap()
	}
	key := filepath.Join(t.TempDir(), "master.key")
	config := &Config{MasterKeyFile: key, database: &database{}}
	master, err := config.masterSource(first).Open(func() (bool, error) { return true, nil })
	must(t, err)
	app, err := again(config)
	must(t, err)
	keeper, err := secrets.New(app, master)
	must(t, err)
	must(t, encryptSettings(app, keeper))
	text, err := storedSettings(app)
	must(t, err)
	if strings.Contains(text, canary) || strings.Contains(text, "smtp") {
		t.Fatal("in clear still")
	}
	must(t, app.ReloadSettings())
	if app.Settings().SMTP.Password != canary {
		t.Fatal("the settings are not what they were")
	}
	log, err := config.auditWith(app, keeper)
	must(t, err)
	if _, err := (&rotator{app: app, keeper: keeper, audit: log}).rotate(t.Context(), false, nil); err != nil {
		t.Fatal(err)
	}
	if after, err := storedSettings(app); err != nil || after == text {
		t.Errorf("a rotation left them as they were: %v", err)
	}
	must(t, app.ReloadSettings())
	app, err = again(config) // a restart, with nothing in the environment
	must(t, err)
	if app.Settings().SMTP.Password != canary {
		t.Fatal("after a restart the settings are not what they were")
	}
	app.Settings().SMTP.Password = canary + "-2" // as the dashboard does
	must(t, app.Save(app.Settings()))
	if text, err := storedSettings(app); err != nil || strings.Contains(text, canary) {
		t.Fatal("the dashboard stores in clear")
	}
	_, err = again(&Config{MasterKeyFile: filepath.Join(t.TempDir(), "none"), database: &database{}})
	if !errors.Is(err, secrets.ErrMasterKey) || !strings.Contains(err.Error(), "settings") || !strings.Contains(err.Error(), "restore") {
		t.Errorf("without its key: %v", err)
	}
}

func TestTheControlSocketIsPrivate(t *testing.T) {
	t.Parallel()
	s := settle(t)
	info, err := os.Stat(controlFolder(s.app))
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("%v", info.Mode())
	}
	for path, body := range map[string]string{"/keys/rotate": "[]", "/keys": "{}"} {
		ran, err := askPanel(t.Context(), s.app, path, body, func(progressLine) {})
		if !ran || err == nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if status, body := s.do(http.MethodPost, "/keys/rotate", "{}"); status == 200 && strings.Contains(body, "step") {
		t.Error("the same is open to the network")
	}
}
