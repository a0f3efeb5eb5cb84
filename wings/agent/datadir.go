package agent

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mambahost/mamba/wings/wire"
)

// maxConfigBytes bounds a config file that is edited; a game's own file beyond it is left alone.
const maxConfigBytes = 1 << 20

// Renderer edits one config file: format and edits as in wire.ConfigFile, in is the file as it is
// (nil when it is being made). It keeps what the edits do not name.
type Renderer func(format string, in []byte, edits []wire.Edit) ([]byte, error)

// owner is who the game runs as, and so who its files belong to.
type owner struct{ uid, gid int }

// prepareData makes the data folder and gives its root, and only that, to the game. What is below
// is made by the game's own user; wings never walks it to change owners, so no link in it can
// lead a chown anywhere.
func prepareData(dir string, own owner) error {
	if err := makeDir(dir); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at the data folder: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("data folder is a %s", info.Mode().Type())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == own.uid && int(st.Gid) == own.gid {
		return nil
	}
	if err := os.Lchown(dir, own.uid, own.gid); err != nil {
		return fmt.Errorf("give the data folder to the game: %w", err)
	}
	return nil
}

// prepareScript writes the install script where the game's user can read and not change it.
func prepareScript(dir, script string) error {
	if err := makeDir(dir); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("open the script folder: %w", err)
	}
	return writeFile(filepath.Join(dir, scriptName), []byte(script), 0o644)
}

// scriptName is the file that Install.Entrypoint is given, mounted read-only at /mnt/install.
const scriptName = "install.sh"

// renderFiles brings every config file of the spec up to date inside the data folder. An error that
// comes of the file, not of the node, is errConfig.
func renderFiles(dir string, files []wire.ConfigFile, render Renderer, own owner) error {
	if len(files) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the data folder: %w", err)
	}
	defer root.Close()
	for _, f := range files {
		if err := renderFile(root, f, render, own); err != nil {
			return fmt.Errorf("edit %s: %w", f.Path, err)
		}
	}
	return nil
}

func renderFile(root *os.Root, f wire.ConfigFile, render Renderer, own owner) error {
	in, mode, err := readConfig(root, f.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return errors.Join(errConfig, err)
	}
	if missing && !f.Create {
		return nil
	}
	out, err := render(f.Format, in, f.Edits)
	if err != nil {
		return errors.Join(errConfig, err)
	}
	if len(out) > maxConfigBytes {
		return fmt.Errorf("%w: %d bytes are more than %d", errConfig, len(out), maxConfigBytes)
	}
	if !missing && bytes.Equal(in, out) {
		return nil
	}
	err = replaceConfig(root, f.Path, out, mode, own)
	if err == nil || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) {
		return err
	}
	return errors.Join(errConfig, err) // a link out, a folder in its place: the customer's to repair
}

// readConfig opens without blocking (a game may have put a pipe there) and refuses everything but a
// plain file of bounded size.
func readConfig(root *os.Root, name string) ([]byte, fs.FileMode, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0o644, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("it is a %s", info.Mode().Type())
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, 0, err
	}
	if len(raw) > maxConfigBytes {
		return nil, 0, fmt.Errorf("it is larger than %d bytes", maxConfigBytes)
	}
	return raw, info.Mode().Perm(), nil
}

// replaceConfig writes beside and renames over: a link or a hard link that stands at name is
// replaced, never written through.
func replaceConfig(root *os.Root, name string, data []byte, mode fs.FileMode, own owner) (err error) {
	if err := makeParents(root, path.Dir(name), own); err != nil {
		return err
	}
	tmp := path.Join(path.Dir(name), ".mh-"+rand.Text())
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = root.Remove(tmp)
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Chown(own.uid, own.gid)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		return err
	}
	d, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// makeParents makes the folders above a config file and gives those it made to the game.
func makeParents(root *os.Root, dir string, own owner) error {
	if dir == "." {
		return nil
	}
	at := ""
	for part := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, part)
		err := root.Mkdir(at, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = root.Lchown(at, own.uid, own.gid)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
