package dbcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections/postgres/postgrestest"
	_ "github.com/mambahost/mamba/migrations"
	_ "github.com/pocketbase/pocketbase/migrations"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// target opens an empty database of a kind.
func target(t *testing.T, kind string) (string, End) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pb_data")
	if kind == "postgres" {
		name = postgrestest.URL(t)
	}
	return name, open(t, name, false)
}

func open(t *testing.T, name string, source bool) End {
	t.Helper()
	e, closeEnd, err := Open(t.Context(), name, "", source)
	must(t, err)
	t.Cleanup(closeEnd)
	return e
}

// template is the folder of a filled installation, made once; source copies it.
var template string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "dbcopy-template-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		template = dir
		return m.Run()
	}())
}

var once sync.Once

// source is a SQLite database with every kind of field, more rows than a batch takes, and a view.
func source(t *testing.T) End {
	t.Helper()
	once.Do(func() { fill(t, filepath.Join(template, "pb_data")) })
	dir := filepath.Join(t.TempDir(), "pb_data")
	must(t, os.CopyFS(dir, os.DirFS(filepath.Join(template, "pb_data"))))
	return open(t, dir, true)
}

func fill(t *testing.T, dir string) {
	t.Helper()
	e, closeEnd, err := Open(t.Context(), dir, "", false)
	must(t, err)
	defer closeEnd()
	must(t, e.App.RunAllMigrations())
	users, err := e.App.FindCollectionByNameOrId("users")
	must(t, err)
	u := core.NewRecord(users)
	u.SetEmail("ann@example.org")
	u.SetPassword("a-long-password")
	must(t, e.App.Save(u))
	things := core.NewBaseCollection("things")
	things.Fields.Add(&core.TextField{Name: "text"}, &core.NumberField{Name: "number"}, &core.BoolField{Name: "bool"}, &core.JSONField{Name: "json"},
		&core.DateField{Name: "date"}, &core.SelectField{Name: "choice", Values: []string{"a", "b"}, MaxSelect: 2}, &core.GeoPointField{Name: "place"},
		&core.RelationField{Name: "owner", CollectionId: users.Id, MaxSelect: 3}, &core.AutodateField{Name: "created", OnCreate: true})
	things.AddIndex("idx_things_text", false, "text COLLATE NOCASE", "")
	must(t, e.App.Save(things))
	view := core.NewViewCollection("seen")
	view.ViewQuery = "SELECT id, text FROM things WHERE number > 5"
	must(t, e.App.Save(view))
	documents := []string{`5`, `1.50`, `"5"`, `true`, `null`, `{"b":[1,2.5,"x"],"a":{}}`, `[]`, `"a 'quoted' \"text\""`, `1e21`, `-0.25`}
	must(t, e.App.RunInTransaction(func(tx core.App) error {
		for i := range 2*batchRows + 7 {
			r := core.NewRecord(things)
			r.Set("text", []string{"", "plain", "ünï ✓ 𝄞", "line\nline", "007", "NULL", "it's `quoted` {:x} [[y]] ?"}[i%7])
			r.Set("number", []float64{0, 5, -1.5, 1e15, 0.1, 9007199254740991}[i%6])
			r.Set("bool", i%2 == 0)
			r.Set("json", types.JSONRaw(documents[i%len(documents)]))
			r.Set("choice", []string{"a", "b"}[:i%3])
			r.Set("owner", []string{u.Id}[:i%2])
			r.Set("date", []string{"", "2026-11-27 10:11:12.345Z"}[i%2])
			r.Set("place", types.GeoPoint{Lon: 13.25, Lat: float64(i % 90)})
			if err := tx.Save(r); err != nil {
				return err
			}
		}
		return nil
	}))
}

func quiet(string) {}

func TestAnInstallationMovesToPostgreSQLAndBack(t *testing.T) {
	t.Parallel()
	first := source(t)
	_, middle := target(t, "postgres")
	_, end := target(t, "sqlite")
	there, err := Copy(t.Context(), first, middle, quiet)
	must(t, err)
	back, err := Copy(t.Context(), middle, end, quiet)
	must(t, err)
	if there.Rows != back.Rows || there.Rows < 2*batchRows+7 || there.Tables < 30 || there.Resumed {
		t.Fatalf("there %+v, back %+v", there, back)
	}
	c := &copier{from: first, to: end}
	for _, table := range []string{"things", "users", "_collections", "_params", core.DefaultMigrationsTable, "permissions"} {
		if n, err := c.compare(t.Context(), table); err != nil || n == 0 {
			t.Errorf("%s: %d rows, %v", table, n, err)
		}
	}
	for _, e := range []End{middle, end} { // the app works on what was copied: rules, views, passwords, order
		must(t, e.App.ReloadCachedCollections())
		u, err := e.App.FindAuthRecordByEmail("users", "ann@example.org")
		must(t, err)
		if !u.ValidatePassword("a-long-password") {
			t.Error(e.Name, "the password does not fit")
		}
		n, err := e.App.CountRecords("seen")
		must(t, err)
		want, err := e.App.CountRecords("things", dbx.NewExp("[[number]] > 5"))
		must(t, err)
		if n != want || n == 0 {
			t.Errorf("%s: the view has %d rows, want %d", e.Name, n, want)
		}
		if e.App.HasTable(progressTable) {
			t.Error(e.Name, "keeps the marks of the copy")
		}
		must(t, e.App.RunAllMigrations()) // none is left to run
	}
}

func TestACopyThatIsCutShortGoesOn(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"sqlite", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			from := source(t)
			name, to := target(t, kind)
			for cut := 1; ; cut += 9 { // at the report number cut, and then a little later each time
				ctx, cancel := context.WithCancel(t.Context())
				reports := 0
				sum, err := Copy(ctx, from, to, func(string) {
					if reports++; reports == cut {
						cancel()
					}
				})
				cancel()
				if err == nil {
					if !sum.Resumed || sum.Rows < 2*batchRows+7 {
						t.Fatalf("the last run: %+v", sum)
					}
					return
				}
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("cut %d: %v", cut, err)
				}
				to = open(t, name, false) // as after a restart
			}
		})
	}
}

func TestADifferenceIsFound(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]string{
		"a changed value": "UPDATE {{things}} SET [[text]] = 'other' WHERE [[id]] = (SELECT MAX([[id]]) FROM {{things}})",
		"a missing row":   "DELETE FROM {{things}} WHERE [[id]] = (SELECT MIN([[id]]) FROM {{things}})",
		"one row more":    "INSERT INTO {{things}} ([[id]]) VALUES ('zzzzzzzzzzzzzzz')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from := source(t)
			_, to := target(t, "sqlite")
			_, err := Copy(t.Context(), from, to, func(line string) {
				if strings.HasPrefix(line, "users") && strings.HasSuffix(line, "copied") { // things are there by then
					if _, err := to.App.NonconcurrentDB().NewQuery(spoil).Execute(); err != nil {
						t.Error(err)
					}
				}
			})
			if !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), "things") {
				t.Fatalf("Copy said %v", err)
			}
		})
	}
}

func TestTheSourceCannotBeWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	from := source(t)
	other, err := core.DefaultDBConnect(filepath.Join(from.Name, "data.db"))
	must(t, err)
	defer other.Close()
	other.DB().SetMaxOpenConns(1)
	_, err = other.NewQuery("PRAGMA busy_timeout = 0").Execute()
	must(t, err)
	write := func() error {
		_, err := other.NewQuery("UPDATE {{users}} SET [[name]] = 'x'").Execute()
		return err
	}
	_, to := target(t, "sqlite")
	tried := false
	_, err = Copy(t.Context(), from, to, func(string) {
		if !tried {
			tried = true
			if err := write(); err == nil {
				t.Error("somebody wrote into the source during the copy")
			}
		}
	})
	must(t, err)
	must(t, write()) // and can again
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	from := source(t)
	t.Run("a target with a panel's data", func(t *testing.T) {
		t.Parallel()
		_, to := target(t, "sqlite")
		must(t, to.App.RunAllMigrations())
		_, err := Copy(t.Context(), source(t), to, quiet)
		if !errors.Is(err, ErrNotEmpty) {
			t.Fatal(err)
		}
	})
	t.Run("a target with a superuser", func(t *testing.T) {
		t.Parallel()
		_, to := target(t, "sqlite")
		supers, err := to.App.FindCollectionByNameOrId(core.CollectionNameSuperusers)
		must(t, err)
		r := core.NewRecord(supers)
		r.SetEmail("root@example.org")
		r.SetPassword("a-long-password")
		must(t, to.App.Save(r))
		if _, err := Copy(t.Context(), source(t), to, quiet); !errors.Is(err, ErrNotEmpty) {
			t.Fatal(err)
		}
	})
	t.Run("a target that holds part of another copy", func(t *testing.T) {
		t.Parallel()
		_, to := target(t, "sqlite")
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Copy(ctx, source(t), to, func(string) { cancel() })
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		other := filepath.Join(t.TempDir(), "pb_data")
		fill(t, other)
		if _, err := Copy(t.Context(), open(t, other, true), to, quiet); !errors.Is(err, ErrOtherCopy) {
			t.Fatal(err)
		}
	})
	t.Run("a source of another release", func(t *testing.T) {
		t.Parallel()
		old := open(t, filepath.Join(t.TempDir(), "pb_data"), false)
		_, to := target(t, "sqlite")
		if _, err := Copy(t.Context(), old, to, quiet); !errors.Is(err, ErrNotMigrated) {
			t.Fatal(err)
		}
		_, err := from.App.NonconcurrentDB().Insert(core.DefaultMigrationsTable, dbx.Params{"file": "9999999999_of_tomorrow.go", "applied": 1}).Execute()
		must(t, err)
		if _, err := Copy(t.Context(), from, to, quiet); !errors.Is(err, ErrNotMigrated) || !strings.Contains(err.Error(), "tomorrow") {
			t.Fatal(err)
		}
	})
}

func TestCommand(t *testing.T) {
	t.Parallel()
	from := source(t)
	to := filepath.Join(t.TempDir(), "copy")
	run := func(args ...string) (string, error) {
		c := Command()
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetErr(&out)
		c.SetArgs(append([]string{"copy"}, args...))
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	nowhere := filepath.Join(t.TempDir(), "nothing")
	for name, args := range map[string][]string{
		"needed": {"--from", from.Name}, "no database": {"--from", nowhere, "--to", to},
	} {
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := os.Stat(nowhere); err == nil {
		t.Error("a source that does not exist was made")
	}
	out, err := run("--from", from.Name, "--to", to)
	must(t, err)
	if !strings.Contains(out, fmt.Sprintf("%-24s %8d rows copied", "things", 2*batchRows+7)) || !strings.Contains(out, "each compared with") {
		t.Error(out)
	}
	if _, err := run("--from", from.Name, "--to", to); !errors.Is(err, ErrNotEmpty) {
		t.Error("a second copy into the same folder:", err)
	}
}

func TestAPasswordIsNotShown(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://ann:s3cret@db.example:5432/mamba?sslmode=disable": "postgres://ann@db.example:5432/mamba",
		"postgres://db.example/mamba":                                 "postgres://db.example/mamba",
		"postgresql://ann@db.example/mamba?password=s3cret":           "postgresql://ann@db.example/mamba",
	} {
		if got := redacted(url); got != want {
			t.Errorf("%s is shown as %s", url, got)
		}
	}
}

// A panel encrypts its settings with a key that this command does not have.
func TestAnInstallationWithEncryptedSettingsIsOpened(t *testing.T) {
	dir, env := t.TempDir(), "MAMBA_SETTINGS_KEY_DBCOPY"
	t.Setenv(env, "0123456789abcdef0123456789abcdef")
	app := core.NewBaseApp(core.BaseAppConfig{DataDir: dir, EncryptionEnv: env})
	if err := bootstrap(app); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(app.RunAllMigrations(), app.Save(app.Settings()), app.ClearBootstrap()); err != nil {
		t.Fatal(err)
	}
	end, closeEnd, err := Open(t.Context(), dir, "", true)
	if err != nil {
		t.Fatal(err)
	}
	defer closeEnd()
	var value string
	if err := end.App.DB().NewQuery("SELECT value FROM _params WHERE id = 'settings'").Row(&value); err != nil || strings.Contains(value, "smtp") {
		t.Errorf("the settings are not as they were: %v", err)
	}
}
