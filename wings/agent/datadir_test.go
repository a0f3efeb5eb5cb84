package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mambahost/mamba/wings/wire"
)

// self owns what the tests make, so that they need no root.
var self = owner{os.Getuid(), os.Getgid()}

func TestConfigFiles(t *testing.T) {
	t.Parallel()
	edit := []wire.Edit{{Key: "port", Value: "25565"}}
	cases := []struct {
		name  string
		file  wire.ConfigFile
		setup func(t *testing.T, data, outside string)
		fails bool
		want  string // of the file afterwards; empty: it is not there
	}{
		{"a missing file is made when that is wished", wire.ConfigFile{Path: "a/b/c.properties", Create: true}, nil, false, "port=25565\n"},
		{"a missing file is left missing otherwise", wire.ConfigFile{Path: "c.properties"}, nil, false, ""},
		{"a file that is there keeps what is not named", wire.ConfigFile{Path: "c.properties"}, func(t *testing.T, data, _ string) {
			write(t, filepath.Join(data, "c.properties"), "motd=hi\n")
		}, false, "motd=hi\nport=25565\n"},
		{"a link inside the folder is replaced", wire.ConfigFile{Path: "c.properties"}, func(t *testing.T, data, _ string) {
			write(t, filepath.Join(data, "real"), "motd=hi\n")
			link(t, "real", filepath.Join(data, "c.properties"))
		}, false, "motd=hi\nport=25565\n"},
		{"a link to a file outside is refused", wire.ConfigFile{Path: "c.properties", Create: true}, func(t *testing.T, data, outside string) {
			link(t, filepath.Join(outside, "secret"), filepath.Join(data, "c.properties"))
		}, true, "secret"},
		{"a dangling link to outside is refused", wire.ConfigFile{Path: "c.properties", Create: true}, func(t *testing.T, data, outside string) {
			link(t, filepath.Join(outside, "new"), filepath.Join(data, "c.properties"))
		}, true, ""},
		{"a folder that is a link to outside is refused", wire.ConfigFile{Path: "conf/c.properties", Create: true}, func(t *testing.T, data, outside string) {
			link(t, outside, filepath.Join(data, "conf"))
		}, true, ""},
		{"a link upwards is refused", wire.ConfigFile{Path: "conf/c.properties", Create: true}, func(t *testing.T, data, _ string) {
			link(t, "../..", filepath.Join(data, "conf"))
		}, true, ""},
		{"a pipe is refused without waiting for it", wire.ConfigFile{Path: "c.properties"}, func(t *testing.T, data, _ string) {
			if err := syscall.Mkfifo(filepath.Join(data, "c.properties"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, true, ""},
		{"a folder in its place is refused", wire.ConfigFile{Path: "c.properties"}, func(t *testing.T, data, _ string) {
			if err := os.Mkdir(filepath.Join(data, "c.properties"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, true, ""},
		{"a file beyond the bound is refused", wire.ConfigFile{Path: "c.properties"}, func(t *testing.T, data, _ string) {
			write(t, filepath.Join(data, "c.properties"), strings.Repeat("x", maxConfigBytes+1))
		}, true, strings.Repeat("x", maxConfigBytes+1)},
		{"a file that the format cannot read is refused", wire.ConfigFile{Path: "c.json", Format: "json"}, func(t *testing.T, data, _ string) {
			write(t, filepath.Join(data, "c.json"), "{")
		}, true, "{"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			top := t.TempDir()
			data, outside := filepath.Join(top, "data"), filepath.Join(top, "outside")
			for _, dir := range []string{data, outside} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			write(t, filepath.Join(outside, "secret"), "secret")
			if c.setup != nil {
				c.setup(t, data, outside)
			}
			c.file.Edits = edit
			err := renderFiles(data, []wire.ConfigFile{c.file}, renderLines, self)
			if c.fails != errors.Is(err, errConfig) || c.fails != (err != nil) {
				t.Errorf("error %v, want errConfig: %v", err, c.fails)
			}
			if c.want != "" && c.want != "secret" {
				raw, err := os.ReadFile(filepath.Join(data, c.file.Path))
				if err != nil || string(raw) != c.want {
					t.Errorf("the file is %.60q, %v; want %.60q", raw, err, c.want)
				}
			}
			left, err := os.ReadDir(outside)
			if err != nil || len(left) != 1 {
				t.Errorf("outside there is %v, %v", left, err)
			}
			if raw, _ := os.ReadFile(filepath.Join(outside, "secret")); string(raw) != "secret" {
				t.Errorf("outside was written: %q", raw)
			}
			for _, e := range must(os.ReadDir(data)) {
				if strings.HasPrefix(e.Name(), ".mh-") {
					t.Errorf("%s is left behind", e.Name())
				}
			}
		})
	}
}

func TestAHardLinkIsNotWrittenThrough(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "host"), "host\n")
	if err := os.Link(filepath.Join(dir, "host"), filepath.Join(data, "c.properties")); err != nil {
		t.Fatal(err)
	}
	if err := renderFiles(data, []wire.ConfigFile{{Path: "c.properties", Edits: []wire.Edit{{Key: "a", Value: "b"}}}}, renderLines, self); err != nil {
		t.Fatal(err)
	}
	if raw, _ := os.ReadFile(filepath.Join(dir, "host")); string(raw) != "host\n" {
		t.Errorf("the linked file is now %q", raw)
	}
}

func TestAnUnchangedFileIsNotTouched(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	path := filepath.Join(data, "c.properties")
	write(t, path, "port=25565\n")
	before := must(os.Stat(path))
	if err := renderFiles(data, []wire.ConfigFile{{Path: "c.properties", Edits: []wire.Edit{{Key: "port", Value: "25565"}}}}, renderLines, self); err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, must(os.Stat(path))) {
		t.Errorf("the file was replaced")
	}
}

func TestTheDataFolderMustBeAFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link(t, "/etc", filepath.Join(dir, "data"))
	before := must(os.Stat("/etc")).Sys().(*syscall.Stat_t).Uid
	if err := prepareData(filepath.Join(dir, "data"), owner{12345, 12345}); err == nil {
		t.Errorf("a link was taken for the data folder")
	}
	if after := must(os.Stat("/etc")).Sys().(*syscall.Stat_t).Uid; after != before {
		t.Errorf("the owner of the link's target is now %d", after)
	}
}

func TestTheInstallScriptIsReadableAndReplaced(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "script")
	for _, script := range []string{"echo one", "echo two"} {
		if err := prepareScript(dir, script); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, scriptName)
		if raw := must(os.ReadFile(path)); string(raw) != script {
			t.Errorf("the script is %q", raw)
		}
		if mode := must(os.Stat(path)).Mode().Perm(); mode != 0o644 {
			t.Errorf("its mode is %v", mode)
		}
	}
}

func write(t *testing.T, path, body string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
