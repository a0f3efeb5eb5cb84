package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of the tombstones that deleted servers leave behind.
const (
	maxTombstones = 1000
	tombstoneAge  = 30 * 24 * time.Hour
)

// store is the agent's folder: servers/<id>/{spec.json,state.json,console.jsonl,data,script} and
// tombstones/<id>.json. What it has written survives a power cut once the method has returned.
type store struct{ dir string }

// tombstone answers for a server that was deleted, and keeps an older spec from bringing it back.
type tombstone struct {
	Observed wire.Observed `json:"observed"` // StateAbsent with its DeleteID
	Reported bool          `json:"reported"` // the reporter has it
	At       time.Time     `json:"at"`
}

func (st store) serverDir(id string) string  { return filepath.Join(st.dir, "servers", id) }
func (st store) dataDir(id string) string    { return filepath.Join(st.serverDir(id), "data") }
func (st store) scriptDir(id string) string  { return filepath.Join(st.serverDir(id), "script") }
func (st store) tombPath(id string) string   { return filepath.Join(st.dir, "tombstones", id+".json") }
func (st store) specPath(id string) string   { return filepath.Join(st.serverDir(id), "spec.json") }
func (st store) recordPath(id string) string { return filepath.Join(st.serverDir(id), "state.json") }

func (st store) open() error {
	for _, sub := range []string{"servers", "tombstones"} {
		if err := os.MkdirAll(filepath.Join(st.dir, sub), 0o700); err != nil {
			return fmt.Errorf("make the agent's folder: %w", err)
		}
	}
	return nil
}

// ids of every server that has a spec. A folder without one was being made or removed when wings
// was killed; it holds nothing that was ever acknowledged.
func (st store) ids() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(st.dir, "servers"))
	if err != nil {
		return nil, fmt.Errorf("list the agent's servers: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if !wire.ValidID(e.Name()) || !e.IsDir() {
			continue
		}
		if _, err := os.Stat(st.specPath(e.Name())); err == nil {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

func (st store) saveSpec(spec *wire.Spec) error {
	if err := makeDir(st.serverDir(spec.ServerID)); err != nil {
		return err
	}
	return writeJSON(st.specPath(spec.ServerID), spec)
}

func (st store) saveRecord(id string, rec *record) error { return writeJSON(st.recordPath(id), rec) }

// load reads a server back. A record that cannot be read is made up again on the safe side: data
// that is there counts as installed, so that no install script ever runs over a customer's world.
func (st store) load(id string) (*wire.Spec, *record, error) {
	spec := new(wire.Spec)
	if err := readJSON(st.specPath(id), spec); err != nil {
		return nil, nil, err
	}
	if err := spec.Validate(); err != nil || spec.ServerID != id {
		return nil, nil, fmt.Errorf("spec of server %s is not valid: %w", id, errors.Join(err, ErrInvalid))
	}
	rec := new(record)
	err := readJSON(st.recordPath(id), rec)
	if err == nil {
		return spec, rec, nil
	}
	rec = new(record)
	if entries, rerr := os.ReadDir(st.dataDir(id)); rerr == nil && len(entries) > 0 {
		rec.Install, rec.Observed.Installed = installDone, true
	}
	if errors.Is(err, fs.ErrNotExist) {
		return spec, rec, nil
	}
	rec.Published.Revision = time.Now().UnixMilli() // above whatever was reported before
	return spec, rec, nil
}

func (st store) tombstone(id string) (*tombstone, bool) {
	t := new(tombstone)
	if err := readJSON(st.tombPath(id), t); err != nil {
		return nil, false
	}
	return t, true
}

func (st store) bury(t *tombstone) error { return writeJSON(st.tombPath(t.Observed.ServerID), t) }

func (st store) unbury(id string) error {
	if err := os.Remove(st.tombPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove tombstone of server %s: %w", id, err)
	}
	return syncDir(filepath.Join(st.dir, "tombstones"))
}

// tombstones returns every one, newest first, after removing those beyond the bounds.
func (st store) tombstones(now time.Time) ([]*tombstone, error) {
	entries, err := os.ReadDir(filepath.Join(st.dir, "tombstones"))
	if err != nil {
		return nil, fmt.Errorf("list tombstones: %w", err)
	}
	var all []*tombstone
	for _, e := range entries {
		t := new(tombstone)
		if readJSON(filepath.Join(st.dir, "tombstones", e.Name()), t) == nil {
			all = append(all, t)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].At.After(all[j].At) })
	keep := all[:0]
	for i, t := range all {
		if t.Reported && (i >= maxTombstones || now.Sub(t.At) > tombstoneAge) {
			if err := st.unbury(t.Observed.ServerID); err != nil {
				return nil, err
			}
			continue
		}
		keep = append(keep, t)
	}
	return keep, nil
}

// removeServer removes everything of a server. The spec goes first: without it the folder is
// nobody's, and the rest may be removed after a kill.
func (st store) removeServer(id string) error {
	if err := os.Remove(st.specPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove spec of server %s: %w", id, err)
	}
	if err := os.RemoveAll(st.serverDir(id)); err != nil {
		return fmt.Errorf("remove folder of server %s: %w", id, err)
	}
	return syncDir(filepath.Join(st.dir, "servers"))
}

func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return fmt.Errorf("make folder: %w", err)
	}
	return syncDir(filepath.Dir(dir))
}

func readJSON(path string, v any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("decode %s: %w", filepath.Base(path), err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return writeFile(path, raw, 0o600)
}

// writeFile replaces path as one: a reader, or a power cut, sees the old bytes or the new ones.
func writeFile(path string, data []byte, perm os.FileMode) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("write %s: %w", filepath.Base(path), err)
		}
	}()
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(perm)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}
