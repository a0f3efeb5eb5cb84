package agent

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

func testStore(t *testing.T) store {
	t.Helper()
	st := store{dir: t.TempDir()}
	if err := st.open(); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestWhatIsSavedIsReadBack(t *testing.T) {
	t.Parallel()
	st := testStore(t)
	spec := running(1)
	rec := &record{}
	rec.accept(&spec)
	rec.Asked = ask{Run: run{ID: "x", StartedAt: time.Now().UTC().Round(0)}, At: time.Now().UTC().Round(0), Kill: true}
	if err := errors.Join(st.saveSpec(&spec), st.saveRecord(spec.ServerID, rec)); err != nil {
		t.Fatal(err)
	}
	gotSpec, gotRec, err := st.load(spec.ServerID)
	if err != nil || gotSpec.Generation != 1 || !gotRec.Asked.Run.same(rec.Asked.Run) || !gotRec.Asked.Kill {
		t.Errorf("read back: %+v, %+v, %v", gotSpec, gotRec, err)
	}
	if ids, err := st.ids(); err != nil || len(ids) != 1 {
		t.Errorf("ids %v, %v", ids, err)
	}
	for _, e := range must(os.ReadDir(st.serverDir(spec.ServerID))) {
		if info := must(e.Info()); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
}

func TestADamagedRecordNeverLeadsToAnInstallOverData(t *testing.T) {
	t.Parallel()
	for _, damage := range []string{"{", ""} {
		st := testStore(t)
		spec := installing(running(1), nil)
		if err := st.saveSpec(&spec); err != nil {
			t.Fatal(err)
		}
		if damage != "" {
			write(t, st.recordPath(spec.ServerID), damage)
		}
		if err := os.Mkdir(st.dataDir(spec.ServerID), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, rec, err := st.load(spec.ServerID); err != nil || rec.Observed.Installed {
			t.Errorf("with empty data it counts as installed: %+v, %v", rec, err)
		}
		write(t, filepath.Join(st.dataDir(spec.ServerID), "world"), "precious")
		_, rec, err := st.load(spec.ServerID)
		if err != nil || !rec.Observed.Installed || rec.Install != installDone {
			t.Errorf("with data it does not count as installed: %+v, %v", rec, err)
		}
		if damage != "" && rec.Published.Revision < 1_000_000 {
			t.Errorf("its revision starts over at %d", rec.Published.Revision)
		}
	}
}

func TestTombstonesAreBounded(t *testing.T) {
	t.Parallel()
	st := testStore(t)
	now := time.Now()
	for i := range maxTombstones + 20 {
		tomb := &tombstone{Observed: wire.Observed{ServerID: serverID(i)}, Reported: i != 3, At: now.Add(-time.Duration(i) * time.Minute)}
		raw := must(os.Create(st.tombPath(tomb.Observed.ServerID))) // as bury, without a sync for each of a thousand
		if err := errors.Join(writeTo(raw, tomb), raw.Close()); err != nil {
			t.Fatal(err)
		}
	}
	old := &tombstone{Observed: wire.Observed{ServerID: serverID(5000)}, Reported: true, At: now.Add(-2 * tombstoneAge)}
	unsaid := &tombstone{Observed: wire.Observed{ServerID: serverID(5001)}, At: now.Add(-2 * tombstoneAge)}
	if err := errors.Join(st.bury(old), st.bury(unsaid)); err != nil {
		t.Fatal(err)
	}
	kept, err := st.tombstones(now)
	if err != nil || len(kept) != maxTombstones+1 {
		t.Errorf("%d tombstones are kept, %v; want the newest %d and the one that was never reported", len(kept), err, maxTombstones)
	}
	if _, ok := st.tombstone(serverID(5001)); !ok {
		t.Errorf("the one that was never reported is gone")
	}
	if _, ok := st.tombstone(serverID(5000)); ok {
		t.Errorf("the old one is kept")
	}
}

func writeTo(w io.Writer, t *tombstone) error {
	_, err := w.Write([]byte(`{"observed":{"server_id":"` + t.Observed.ServerID + `"},"reported":` +
		map[bool]string{true: "true", false: "false"}[t.Reported] + `,"at":"` + t.At.Format(time.RFC3339Nano) + `"}`))
	return err
}

func TestAServerWhoseSpecIsDamagedIsLeftAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		one, two := running(1), running(2)
		r.apply(one)
		r.apply(two)
		r.untilState(one.ServerID, time.Minute, wire.StateRunning)
		r.untilState(two.ServerID, time.Minute, wire.StateRunning)
		r.kill()
		write(t, filepath.Join(r.dir, "servers", one.ServerID, "spec.json"), "{")
		r.start()
		r.untilState(two.ServerID, time.Minute, wire.StateRunning)
		if _, err := r.agent.Get(one.ServerID); !errors.Is(err, ErrUnknown) {
			t.Errorf("the damaged server is answered with %v", err)
		}
		if h := r.agent.Health(t.Context()); h.Servers != 1 || len(h.Damaged) != 1 || h.Engine == "" {
			t.Errorf("health %+v", h)
		}
		if n := games(r); n != 2 {
			t.Errorf("%d games, want both left running", n)
		}
		one.Generation++
		r.apply(one) // the panel sends the whole of it again: nothing more is needed
		r.untilState(one.ServerID, time.Minute, wire.StateRunning)
		if r.starts(one.ServerID) != 1 {
			t.Errorf("it was started %d times", r.starts(one.ServerID))
		}
	})
}

func TestADiskThatIsFullIsWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := running(1)
		r.apply(spec)
		r.untilState(spec.ServerID, time.Minute, wire.StateRunning)
		// A folder that cannot take a file stands for the full disk: temp files fail.
		dir := filepath.Join(r.dir, "servers", spec.ServerID)
		away := dir + "-away"
		if err := os.Rename(dir, away); err != nil {
			t.Fatal(err)
		}
		write(t, dir, "in the way")
		spec.Generation, spec.RestartCount = 2, 1
		if _, err := r.agent.Apply(t.Context(), spec); err == nil {
			t.Errorf("a spec that could not be written down was accepted")
		}
		if err := errors.Join(os.Remove(dir), os.Rename(away, dir)); err != nil {
			t.Fatal(err)
		}
		r.apply(spec)
		r.until(spec.ServerID, time.Minute, "restarted", func(o wire.Observed) bool { return o.RestartCount == 1 && o.Settled })
		if r.starts(spec.ServerID) != 2 {
			t.Errorf("%d starts, want 2", r.starts(spec.ServerID))
		}
	})
}

func TestNewRefusesWhatItCannotWorkWith(t *testing.T) {
	t.Parallel()
	good := func(t *testing.T) Config {
		r := newRig(t)
		return Config{Engine: r.m.Engine("x"), Dir: t.TempDir(), Reporter: r.rep, Render: renderLines, Logger: slog.New(slog.DiscardHandler)}
	}
	cases := []struct {
		name string
		harm func(c *Config)
		ok   bool
	}{
		{"everything that is required is enough", func(*Config) {}, true},
		{"no engine", func(c *Config) { c.Engine = nil }, false},
		{"no reporter", func(c *Config) { c.Reporter = nil }, false},
		{"no renderer", func(c *Config) { c.Render = nil }, false},
		{"a relative folder", func(c *Config) { c.Dir = "data" }, false},
		{"a negative user", func(c *Config) { c.UID = -1 }, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := good(t)
			c.harm(&cfg)
			a, err := New(cfg)
			if (err == nil) != c.ok {
				t.Fatalf("error %v", err)
			}
			if err == nil && (a.own != owner{DefaultUID, DefaultGID}) {
				t.Errorf("games run as %v", a.own)
			}
		})
	}
}

func TestStartAndStopTwice(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		if err := r.agent.Start(t.Context()); err != nil {
			t.Errorf("a second start: %v", err)
		}
		r.agent.Stop()
		r.agent.Stop()
		if _, err := r.agent.Apply(t.Context(), running(1)); !errors.Is(err, ErrStopped) {
			t.Errorf("after the stop a spec is answered with %v", err)
		}
	})
}
