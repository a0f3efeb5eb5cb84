package secrets_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/collections/postgres"
	"github.com/mambahost/mamba/hooks/secrets"
)

// The fields of these tests: one text of a tenant's rows, one of the system's with two in it.
var testFields = []secrets.Sealed{
	{Table: "incidents", Field: "detail"},
	{Table: "authorities", Field: "key", Scope: secrets.OfSystem, Each: func(value string, fn func(field, sealed string) (string, error)) (string, error) {
		parts := strings.Split(value, "|")
		for i, p := range parts {
			next, err := fn(fmt.Sprintf("key.%d", i), p)
			if err != nil {
				return "", err
			}
			parts[i] = next
		}
		return strings.Join(parts, "|"), nil
	}},
}

const (
	testTenants = 4
	testRows    = 8 // of each tenant, and of the system
)

func tenantName(i int) string { return fmt.Sprintf("tenant%09d", i) }

func rowName(scope string, i int) string { return fmt.Sprintf("%.9s%06d", scope+"xxxxxxxxx", i) }

// plant stores a secret in every row of testFields.
func plant(t testing.TB, app core.App, k *secrets.Keeper) {
	t.Helper()
	put := func(table string, params dbx.Params) {
		params["created"], params["updated"] = "2026-01-01 00:00:00.000Z", "2026-01-01 00:00:00.000Z"
		if _, err := app.NonconcurrentDB().Insert(table, params).Execute(); err != nil {
			t.Fatal(err)
		}
	}
	text := func(scope string, ref secrets.Ref, plain string) string {
		s, err := k.Seal(app, scope, ref, []byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for n := range testRows {
		for i := range testTenants {
			id := rowName(fmt.Sprint("inc", i), n)
			put("incidents", dbx.Params{"id": id, "tenant": tenantName(i), "fingerprint": id, "status": "RESOLVED",
				"detail": text(tenantName(i), secrets.Ref{Table: "incidents", Row: id, Field: "detail"}, "secret of "+id)})
		}
		id := rowName("auth", n)
		a := text(secrets.System, secrets.Ref{Table: "authorities", Row: id, Field: "key.0"}, "first of "+id)
		b := text(secrets.System, secrets.Ref{Table: "authorities", Row: id, Field: "key.1"}, "second of "+id)
		put("authorities", dbx.Params{"id": id, "fingerprint": id, "key": a + "|" + b})
	}
}

// unreadable opens every planted secret and names those that do not open to what they were.
func unreadable(app core.App, k *secrets.Keeper) (bad []string, read int) {
	look := func(scope string, ref secrets.Ref, sealed, want string) {
		read++
		if plain, err := k.Open(app, scope, ref, sealed); err != nil || string(plain) != want {
			bad = append(bad, fmt.Sprintf("%+v: %q, %v", ref, plain, err))
		}
	}
	var rows []dbx.NullStringMap
	if err := app.DB().NewQuery("SELECT id, tenant, detail FROM incidents ORDER BY id").All(&rows); err != nil {
		return []string{err.Error()}, 0
	}
	for _, r := range rows {
		id := r["id"].String
		look(r["tenant"].String, secrets.Ref{Table: "incidents", Row: id, Field: "detail"}, r["detail"].String, "secret of "+id)
	}
	rows = nil
	if err := app.DB().NewQuery("SELECT id, key FROM authorities ORDER BY id").All(&rows); err != nil {
		return []string{err.Error()}, 0
	}
	for _, r := range rows {
		id := r["id"].String
		a, b, _ := strings.Cut(r["key"].String, "|")
		look(secrets.System, secrets.Ref{Table: "authorities", Row: id, Field: "key.0"}, a, "first of "+id)
		look(secrets.System, secrets.Ref{Table: "authorities", Row: id, Field: "key.1"}, b, "second of "+id)
	}
	return bad, read
}

// oldTexts are the sealed texts as they are now.
func oldTexts(t *testing.T, app core.App) map[string]string {
	t.Helper()
	var rows []dbx.NullStringMap
	if err := app.DB().NewQuery("SELECT id, detail FROM incidents").All(&rows); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range rows {
		out[r["id"].String] = r["detail"].String
	}
	return out
}

func rotation() secrets.Rotation {
	return secrets.Rotation{Sealed: testFields, Derived: []string{"audit"}}
}

var errCrash = errors.New("crash")

// crashAt ends a rotation at its nth point.
func crashAt(n int) func(string) error {
	return func(string) error {
		if n--; n < 0 {
			return errCrash
		}
		return nil
	}
}

func TestARotationSealsEverythingAnewAndDropsOldKeys(t *testing.T) {
	t.Parallel()
	app, m := newApp(t), newMaster(t)
	k := newKeeper(t, app, m)
	plant(t, app, k)
	before := oldTexts(t, app)
	audit, err := k.Keys("audit")
	if err != nil {
		t.Fatal(err)
	}
	first := audit.All()[0]
	took, err := k.Rotate(t.Context(), app, rotation())
	if err != nil {
		t.Fatal(err)
	}
	if took.Scopes != testTenants+1 || took.Values != testRows*(testTenants+2) {
		t.Errorf("%+v", took)
	}
	for name, keeper := range map[string]*secrets.Keeper{"the one that rotated": k, "a fresh one": newKeeper(t, app, m)} {
		if bad, n := unreadable(app, keeper); len(bad) > 0 || n == 0 {
			t.Fatalf("%s: %d of %d unreadable: %v", name, len(bad), n, bad)
		}
		for id, text := range before {
			for i := range testTenants {
				if _, err := keeper.Open(app, tenantName(i), secrets.Ref{Table: "incidents", Row: id, Field: "detail"}, text); !errors.Is(err, secrets.ErrSealed) {
					t.Fatalf("%s: a text of before opens still: %v", name, err)
				}
			}
		}
	}
	all := audit.All()
	if len(all) != 2 || string(all[1]) != string(first) || !audit.Settled() {
		t.Errorf("the audit key has %d versions, settled %t", len(all), audit.Settled())
	}
	st, err := k.Status(app)
	if err != nil || st.Rotating || st.Since.IsZero() || st.Scopes != testTenants+1 || len(st.Unknown) != 0 {
		t.Errorf("%+v %v", st, err)
	}
}

// Killed between any two transactions, a rotation loses nothing and is ended by the next call.
func TestKeysRotate_50RandomPoints(t *testing.T) {
	t.Parallel()
	app, m := newApp(t), newMaster(t)
	k := newKeeper(t, app, m)
	if _, err := k.Keys("audit"); err != nil {
		t.Fatal(err)
	}
	plant(t, app, k)
	points := 0
	r := rotation()
	r.At = func(string) error { points++; return nil }
	if _, err := k.Rotate(t.Context(), app, r); err != nil {
		t.Fatal(err)
	}
	const kills = 50
	broken, read, ended := 0, 0, 0
	for killed := 0; killed < kills; {
		r.At = crashAt(rand.IntN(points))
		switch _, err := newKeeper(t, app, m).Rotate(t.Context(), app, r); { // a process of its own
		case err == nil:
			ended++ // it had less left to do than it was given
		case errors.Is(err, errCrash):
			killed++
		default:
			t.Fatal(err)
		}
		bad, n := unreadable(app, newKeeper(t, app, m))
		broken, read = broken+len(bad), read+n
		if len(bad) > 0 {
			t.Fatalf("after a kill: %v", bad)
		}
	}
	before := oldTexts(t, app)
	r.At = nil
	if _, err := newKeeper(t, app, m).Rotate(t.Context(), app, r); err != nil {
		t.Fatal(err)
	}
	bad, n := unreadable(app, newKeeper(t, app, m))
	if broken, read = broken+len(bad), read+n; broken > 0 {
		t.Fatal(bad)
	}
	st, err := k.Status(app)
	if err != nil || st.Rotating {
		t.Errorf("%+v %v", st, err)
	}
	if len(before) == 0 {
		t.Error("nothing was planted")
	}
	t.Logf("keys rotate: killed at %d random points of %d and resumed, %d rotations ended: %d secrets read, %d unreadable", kills, points, ended+1, read, broken)
}

// Two panels seal and open while a third process rotates, again and again.
func TestARotationWhileOthersSealAndOpen(t *testing.T) {
	t.Parallel()
	app, m := newApp(t), newMaster(t)
	k := newKeeper(t, app, m)
	plant(t, app, k)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var work, faults atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		panel := newKeeper(t, app, m)
		wg.Go(func() {
			for ctx.Err() == nil {
				i, n := rand.IntN(testTenants), rand.IntN(testRows)
				id := rowName(fmt.Sprint("inc", i), n)
				ref := secrets.Ref{Table: "incidents", Row: id, Field: "detail"}
				err := collections.Tx(app, []collections.Lock{collections.Lock("incident:" + id), secrets.Lock(tenantName(i))}, func(tx core.App) error {
					var row struct {
						Detail string `db:"detail"`
					}
					if err := tx.NonconcurrentDB().Select("detail").From("incidents").Where(dbx.HashExp{"id": id}).One(&row); err != nil {
						return err
					}
					plain, err := panel.Open(tx, tenantName(i), ref, row.Detail)
					if err != nil {
						return err
					}
					next := row.Detail // as a room that saves a whole row for another reason
					if rand.IntN(2) == 0 {
						if next, err = panel.Seal(tx, tenantName(i), ref, plain); err != nil {
							return err
						}
					}
					_, err = tx.NonconcurrentDB().Update("incidents", dbx.Params{"detail": next}, dbx.HashExp{"id": id}).Execute()
					return err
				})
				work.Add(1)
				if err != nil {
					faults.Add(1)
					t.Error(err)
					return
				}
			}
		})
	}
	const rotations = 5
	rotator := newKeeper(t, app, m)
	for range rotations {
		if _, err := rotator.Rotate(ctx, app, rotation()); err != nil {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
	if bad, _ := unreadable(app, newKeeper(t, app, m)); len(bad) > 0 {
		t.Fatal(bad)
	}
	t.Logf("keys rotate: %d rotations beside %d reads and writes of 4 panels: %d errors, 0 unreadable", rotations, work.Load(), faults.Load())
}

// What a transaction from before writes back under the old key is found before that key goes.
func TestATextThatComesBackIsSealedAnew(t *testing.T) {
	t.Parallel()
	app, m := newApp(t), newMaster(t)
	k := newKeeper(t, app, m)
	plant(t, app, k)
	before := oldTexts(t, app)
	r := rotation()
	seen := 0
	r.At = func(point string) error {
		if point != "authorities" { // the second field: all of the first is done
			return nil
		}
		if seen++; seen > 1 {
			return nil
		}
		for id, text := range before {
			if _, err := app.NonconcurrentDB().Update("incidents", dbx.Params{"detail": text}, dbx.HashExp{"id": id}).Execute(); err != nil {
				return err
			}
		}
		return nil
	}
	if _, err := k.Rotate(t.Context(), app, r); err != nil {
		t.Fatal(err)
	}
	if bad, _ := unreadable(app, k); len(bad) > 0 || seen == 0 {
		t.Fatalf("%d: %v", seen, bad)
	}
}

func TestARotationRefusesWhatDoesNotOpen(t *testing.T) {
	t.Parallel()
	app, m := newApp(t), newMaster(t)
	k := newKeeper(t, app, m)
	plant(t, app, k)
	id := rowName("inc0", 0)
	text := oldTexts(t, app)[rowName("inc1", 0)] // another tenant's
	if _, err := app.NonconcurrentDB().Update("incidents", dbx.Params{"detail": text}, dbx.HashExp{"id": id}).Execute(); err != nil {
		t.Fatal(err)
	}
	_, err := k.Rotate(t.Context(), app, rotation())
	if !errors.Is(err, secrets.ErrSealed) || !strings.Contains(err.Error(), id) || strings.Contains(err.Error(), text) {
		t.Fatalf("a text of another place: %v", err)
	}
	if st, err := k.Status(app); err != nil || !st.Rotating {
		t.Fatalf("%+v %v", st, err)
	}
	for _, other := range oldTexts(t, app) {
		if other == "" {
			t.Fatal("a value was lost")
		}
	}
}

func newFile(t *testing.T) secrets.Source {
	t.Helper()
	return secrets.Source{File: filepath.Join(t.TempDir(), "master.key")}
}

func open(t *testing.T, s secrets.Source) secrets.Master {
	t.Helper()
	m, err := s.Open(yes)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTheMasterKeyIsReplacedOnline(t *testing.T) {
	t.Parallel()
	app, from := newApp(t), newFile(t)
	m := open(t, from)
	k, other := newKeeper(t, app, m), newKeeper(t, app, open(t, from)) // two panels
	plant(t, app, k)
	if bad, _ := unreadable(app, other); len(bad) > 0 {
		t.Fatal(bad)
	}
	derived := string(k.Derive("intent"))
	old, err := os.ReadFile(from.File)
	if err != nil {
		t.Fatal(err)
	}
	points := 0
	for crash := 0; ; crash++ { // at every point, one after the other
		if err := secrets.RotateFile(from.File); err != nil {
			t.Fatal(err)
		}
		_, err := k.RotateMaster(t.Context(), app, secrets.Rotation{At: crashAt(crash)})
		if err == nil {
			break
		}
		points++
		if !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		for name, keeper := range map[string]*secrets.Keeper{"the other panel": other, "one that starts": newKeeper(t, app, open(t, from))} {
			if err := keeper.Check(app); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if bad, _ := unreadable(app, keeper); len(bad) > 0 {
				t.Fatalf("%s: %v", name, bad)
			}
		}
	}
	if err := secrets.SettleFile(from.File); err != nil {
		t.Fatal(err)
	}
	st, err := k.Status(app)
	if err != nil || len(st.Wrapped) != 1 || st.Wrapped[st.Master] == 0 {
		t.Fatalf("%+v %v", st, err)
	}
	now, err := os.ReadFile(from.File)
	if err != nil || string(now) == string(old) || strings.Count(string(now), "\n") != 1 {
		t.Fatalf("the file holds %d keys: %v", strings.Count(string(now), "\n"), err)
	}
	kept, err := filepath.Glob(from.File + ".old-*")
	if err != nil || len(kept) != 1 {
		t.Fatalf("old keys beside it: %v %v", kept, err)
	}
	if b, err := os.ReadFile(kept[0]); err != nil || string(b) != string(old) {
		t.Errorf("the old key is not kept: %v", err)
	}
	fresh := newKeeper(t, app, open(t, from))
	if err := fresh.Check(app); err != nil {
		t.Fatal(err)
	}
	if bad, _ := unreadable(app, fresh); len(bad) > 0 {
		t.Fatal(bad)
	}
	if string(fresh.Derive("intent")) != derived {
		t.Error("tokens from before are worth nothing any more")
	}
	lost, err := secrets.LoadMaster(strings.TrimSpace(string(old)), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	err = newKeeper(t, app, lost).Check(app)
	if !errors.Is(err, secrets.ErrMasterKey) || !strings.Contains(err.Error(), st.Master) {
		t.Errorf("a start with the old key: %v", err)
	}
	t.Logf("master key: killed at %d points, 0 unreadable", points)
}

func TestANewScopeOfAPanelWithTheOldKeyIsWrappedWithTheNew(t *testing.T) {
	t.Parallel()
	app, from := newApp(t), newFile(t)
	stale := newKeeper(t, app, open(t, from))
	if err := secrets.RotateFile(from.File); err != nil {
		t.Fatal(err)
	}
	if _, err := newKeeper(t, app, open(t, from)).RotateMaster(t.Context(), app, secrets.Rotation{}); err != nil {
		t.Fatal(err)
	}
	if err := secrets.SettleFile(from.File); err != nil {
		t.Fatal(err)
	}
	seal(t, stale, app, tenantName(1), here, "x")
	if err := newKeeper(t, app, open(t, from)).Check(app); err != nil {
		t.Fatal(err)
	}
}

func TestMasterKeysFromTheEnvironment(t *testing.T) {
	t.Parallel()
	one, two := base64.StdEncoding.EncodeToString(make([]byte, 32)), base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	app := newApp(t)
	k := newKeeper(t, app, open(t, secrets.Source{Key: one}))
	plant(t, app, k)
	both := newKeeper(t, app, open(t, secrets.Source{Key: two, Old: " " + one + " ,"}))
	if err := both.Check(app); err != nil {
		t.Fatal(err)
	}
	if n, err := both.RotateMaster(t.Context(), app, secrets.Rotation{}); err != nil || n != testTenants+1 {
		t.Fatalf("%d %v", n, err)
	}
	only := newKeeper(t, app, open(t, secrets.Source{Key: two}))
	if err := only.Check(app); err != nil {
		t.Fatal(err)
	}
	if bad, _ := unreadable(app, only); len(bad) > 0 {
		t.Fatal(bad)
	}
	for name, s := range map[string]secrets.Source{
		"an old key that is none":   {Key: one, Old: "x"},
		"a key and a command":       {Key: one, Command: "cat"},
		"a key that is none":        {Key: "%"},
		"five keys in one file":     {File: file(t, strings.Repeat(one+"\n", 5))},
		"a second line that is bad": {File: file(t, one+"\nx\n")},
	} {
		if _, err := s.Open(no); !errors.Is(err, secrets.ErrMasterKey) || strings.Contains(err.Error(), one) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A service that is a shell script: it keeps nothing, and hides a key behind a word.
func TestAKeyCommand(t *testing.T) {
	t.Parallel()
	app, dir := newApp(t), t.TempDir()
	script := filepath.Join(dir, "kms")
	const good = `#!/bin/sh
test -n "$MAMBA_KMS_CONTEXT" || exit 3
case $MAMBA_KMS_OP in
wrap) printf 'v1:'; cat;;
unwrap) sed 's/^v1://';;
esac
`
	if err := os.WriteFile(script, []byte(good), 0o700); err != nil {
		t.Fatal(err)
	}
	local := base64.StdEncoding.EncodeToString(make([]byte, 32))
	plain := newKeeper(t, app, open(t, secrets.Source{Key: local}))
	plant(t, app, plain)
	derived := string(plain.Derive("intent"))
	from := secrets.Source{Command: "sh " + script, Name: "test", Old: local}
	if _, err := newKeeper(t, app, open(t, from)).RotateMaster(t.Context(), app, secrets.Rotation{}); err != nil {
		t.Fatal(err)
	}
	from.Old = ""
	k := newKeeper(t, app, open(t, from))
	if err := k.Check(app); err != nil {
		t.Fatal(err)
	}
	if bad, _ := unreadable(app, k); len(bad) > 0 {
		t.Fatal(bad)
	}
	if string(k.Derive("intent")) != derived || len(k.Derive("fresh")) != 32 {
		t.Error("derived keys are not kept")
	}
	again := newKeeper(t, app, open(t, from))
	if string(again.Derive("fresh")) != string(k.Derive("fresh")) {
		t.Error("a key that is not derived differs on the next start")
	}
	for name, body := range map[string]string{
		"it fails and says why": "#!/bin/sh\necho 'no such key: alias/mamba' >&2\nexit 1\n",
		"it answers rubbish":    "#!/bin/sh\necho hello\n",
		"it answers nothing":    "#!/bin/sh\n",
		"another key":           "#!/bin/sh\nprintf 'QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE='\n",
	} {
		if err := os.WriteFile(script, []byte(body), 0o700); err != nil {
			t.Fatal(err)
		}
		err := newKeeper(t, app, open(t, from)).Check(app)
		if !errors.Is(err, secrets.ErrMasterKey) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(body, "alias") && !strings.Contains(err.Error(), "no such key: alias/mamba") {
			t.Errorf("%s: what the command says is lost: %v", name, err)
		}
	}
}

// The victim of a kill is this test binary with these variables.
const (
	victimDir = "SECRETS_VICTIM_DIR" // data folder
	victimDB  = "SECRETS_VICTIM_DB"  // URL; empty: SQLite
	victimKey = "SECRETS_VICTIM_KEY" // master key file
)

// victim rotates for ever; it says when it begins.
func victim() int {
	app := core.NewBaseApp(core.BaseAppConfig{DataDir: os.Getenv(victimDir), DBConnect: collectionstest.Connect})
	if url := os.Getenv(victimDB); url != "" {
		d, err := postgres.Open(context.Background(), postgres.Config{URL: url})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		app = core.NewBaseApp(core.BaseAppConfig{DataDir: os.Getenv(victimDir), DBConnect: d.Connect})
	}
	if err := app.Bootstrap(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		m, err := secrets.Source{File: os.Getenv(victimKey)}.Open(no)
		if err == nil {
			var k *secrets.Keeper
			if k, err = secrets.New(app, m); err == nil {
				fmt.Println("begin")
				if err = secrets.RotateFile(os.Getenv(victimKey)); err == nil {
					_, err = k.RotateMaster(context.Background(), app, secrets.Rotation{})
				}
				if err == nil {
					err = secrets.SettleFile(os.Getenv(victimKey))
				}
				if err == nil {
					_, err = k.Rotate(context.Background(), app, secrets.Rotation{Sealed: testFields})
				}
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
}

// The process itself is killed, at any instant, in the rotation of the master key or of the data keys.
func TestKeysRotate_ProcessKilled(t *testing.T) {
	t.Parallel()
	kills := 6
	if os.Getenv("MAMBA_NIGHTLY") != "" {
		kills = 50
	}
	from := newFile(t)
	dir, url := t.TempDir(), ""
	app := collectionstest.Elsewhere(t, dir, &url)
	plant(t, app, newKeeper(t, app, open(t, from)))
	read, ended := 0, 0
	for range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), victimDir+"="+dir, victimDB+"="+url, victimKey+"="+from.File)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() {
			t.Error("the victim did not begin")
		}
		go func() { _, _ = io.Copy(io.Discard, out) }()
		<-time.After(rand.N(400 * time.Millisecond)) // where the kill falls is the point of the test
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err == nil {
			ended++
		}
		k := newKeeper(t, app, open(t, from))
		if err := k.Check(app); err != nil {
			t.Fatal(err)
		}
		bad, n := unreadable(app, k)
		if read += n; len(bad) > 0 {
			t.Fatal(bad)
		}
	}
	if ended > 0 {
		t.Errorf("%d victims ended by themselves", ended)
	}
	k := newKeeper(t, app, open(t, from))
	if _, err := k.RotateMaster(t.Context(), app, secrets.Rotation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Rotate(t.Context(), app, rotation()); err != nil {
		t.Fatal(err)
	}
	if bad, _ := unreadable(app, k); len(bad) > 0 {
		t.Fatal(bad)
	}
	t.Logf("keys rotate: %d processes killed: %d secrets read, 0 unreadable", kills, read)
}
