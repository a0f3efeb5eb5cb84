package secrets_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mambahost/mamba/hooks/secrets"
)

func yes() (bool, error) { return true, nil }
func no() (bool, error)  { return false, nil }

func TestLoadMaster(t *testing.T) {
	t.Parallel()
	good := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	for _, c := range []struct {
		name, env, file string
		mode            os.FileMode
		create          func() (bool, error)
		wantErr         error
		wantText        string
	}{
		{name: "the environment wins over a bad file", env: good, file: "garbage", mode: 0o600, create: no},
		{name: "blanks around the value do not matter", env: "  " + good + "\n", create: no},
		{name: "a short value is refused with how to make one", env: "aGVsbG8=", create: yes, wantErr: secrets.ErrMasterKey, wantText: "openssl rand"},
		{name: "a value that is no base64 is refused", env: "%%%", create: yes, wantErr: secrets.ErrMasterKey},
		{name: "a good file is read", file: good + "\n", mode: 0o600, create: no},
		{name: "a file that others can read is refused", file: good, mode: 0o644, create: no, wantErr: secrets.ErrMasterKey, wantText: "chmod 600"},
		{name: "a damaged file is refused and not replaced", file: "AAAA", mode: 0o600, create: yes, wantErr: secrets.ErrMasterKey, wantText: "backup"},
		{name: "an empty file is refused and not replaced", file: "\n", mode: 0o600, create: yes, wantErr: secrets.ErrMasterKey},
		{name: "a huge file is not read", file: strings.Repeat("A", 2000), mode: 0o600, create: yes, wantErr: secrets.ErrMasterKey},
		{name: "a missing file beside existing secrets is refused", create: no, wantErr: secrets.ErrMasterKey, wantText: "restore the file"},
		{name: "a missing file of a new installation is made", create: yes},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "sub", "master.key")
			if c.file != "" {
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(c.file), c.mode)); err != nil {
					t.Fatal(err)
				}
			}
			m, err := secrets.LoadMaster(c.env, path, c.create)
			if !errors.Is(err, c.wantErr) || (err == nil) != (c.wantErr == nil) {
				t.Fatalf("got %v, want %v", err, c.wantErr)
			}
			if err != nil {
				if !strings.Contains(err.Error(), c.wantText) || strings.Contains(err.Error(), good) {
					t.Fatalf("text: %v", err)
				}
				if b, _ := os.ReadFile(path); string(b) != c.file {
					t.Fatalf("the file was changed to %q", b)
				}
				return
			}
			again, err := secrets.LoadMaster(c.env, path, no)
			if err != nil || again.ID() != m.ID() {
				t.Fatalf("a second start: %v", err)
			}
		})
	}
}

func TestANewKeyFileIsPrivateAndAloneInItsFolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() {
			m, err := secrets.LoadMaster("", path, yes)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = m.ID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("starts at once got different keys: %v", ids)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestMayCreateErrorsAreReturned(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	_, err := secrets.LoadMaster("", filepath.Join(t.TempDir(), "k"), func() (bool, error) { return true, boom })
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
}

func TestUnused(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	if ok, err := secrets.Unused(app); err != nil || !ok {
		t.Fatalf("a fresh installation: %t %v", ok, err)
	}
	seal(t, newKeeper(t, app, newMaster(t)), app, secrets.System, here, "x")
	if ok, err := secrets.Unused(app); err != nil || ok {
		t.Fatalf("after the first secret: %t %v", ok, err)
	}
}
