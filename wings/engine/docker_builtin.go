package engine

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/moby/moby/client"
)

// The demo image's parts that others must know.
const (
	BuiltinDemo = "demo"   // wire.Image.Builtin
	BuiltinPath = "/wings" // where the daemon's own binary is in it
	builtinRepo = "mamba.local/demo"
	builtinUser = 988 // user and group "container"
)

// builtinDigest remembers the hash of the builtin binary while the file stays as it was.
type builtinDigest struct {
	size int64
	mod  time.Time
	sum  string
}

// builtinName is the tag of a builtin image: the content's hash is in it, so that an upgraded
// daemon makes its own and never runs an older one's.
func (d *Docker) builtinName(builtin string) (string, error) {
	if builtin != BuiltinDemo {
		return "", fmt.Errorf("%w: there is no builtin of that name", ErrImageUnavailable)
	}
	if d.cfg.BuiltinBinary == "" {
		return "", fmt.Errorf("%w: this daemon has no builtin binary", ErrImageUnavailable)
	}
	info, err := os.Stat(d.cfg.BuiltinBinary)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrImageUnavailable, err)
	}
	d.mu.Lock()
	have := d.builtin
	d.mu.Unlock()
	if have.sum == "" || have.size != info.Size() || !have.mod.Equal(info.ModTime()) {
		sum, err := fileSum(d.cfg.BuiltinBinary)
		if err != nil {
			return "", err
		}
		have = builtinDigest{size: info.Size(), mod: info.ModTime(), sum: sum}
		d.mu.Lock()
		d.builtin = have
		d.mu.Unlock()
	}
	return builtinRepo + ":" + have.sum, nil
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)[:6]), nil
}

// makeBuiltin imports the image out of a tar that is written as the engine reads it.
func (d *Docker) makeBuiltin(ctx context.Context, name string, report func(int, string)) (string, error) {
	report(-1, "Making the demo image")
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := packBuiltin(w, d.cfg.BuiltinBinary)
		w.CloseWithError(err)
		packed <- err
	}()
	err := d.importImage(ctx, name, r)
	r.CloseWithError(errClosed) // ends the packer when the engine stopped reading early
	if perr := <-packed; perr != nil && !errors.Is(perr, errClosed) {
		err = perr
	}
	if err != nil {
		return "", fmt.Errorf("make image %s: %w", name, err)
	}
	id, err := d.imageID(ctx, name)
	return id, mapped("look for image "+name+" after making it", err)
}

func (d *Docker) importImage(ctx context.Context, name string, rootfs io.Reader) error {
	res, err := d.cli.ImageImport(ctx, client.ImageImportSource{Source: rootfs, SourceName: "-"}, name,
		client.ImageImportOptions{
			Message: "Mamba Host's own binary",
			Changes: []string{fmt.Sprintf("USER %d:%d", builtinUser, builtinUser), "WORKDIR /home/container"},
		})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res)
	return errors.Join(err, res.Close())
}

// packBuiltin writes the image's root file system: the binary and what a container needs to mount on.
func packBuiltin(out io.Writer, binary string) error {
	f, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	passwd := fmt.Sprintf("root:x:0:0:root:/:/sbin/nologin\ncontainer:x:%d:%d::/home/container:/sbin/nologin\n", builtinUser, builtinUser)
	for _, h := range []struct {
		name string
		mode int64
		uid  int
		body string
	}{
		{name: "dev/", mode: 0o755},
		{name: "etc/", mode: 0o755},
		{name: "etc/passwd", mode: 0o644, body: passwd},
		{name: "etc/group", mode: 0o644, body: fmt.Sprintf("root:x:0:\ncontainer:x:%d:\n", builtinUser)},
		{name: "home/", mode: 0o755},
		{name: "home/container/", mode: 0o755, uid: builtinUser},
		{name: "mnt/", mode: 0o755},
		{name: "mnt/install/", mode: 0o755},
		{name: "proc/", mode: 0o755},
		{name: "sys/", mode: 0o755},
		{name: "tmp/", mode: 0o1777},
	} {
		header := &tar.Header{Name: h.name, Mode: h.mode, Uid: h.uid, Gid: h.uid, Size: int64(len(h.body)), Typeflag: tar.TypeReg}
		if h.name[len(h.name)-1] == '/' {
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.WriteString(w, h.body); err != nil {
			return err
		}
	}
	header := &tar.Header{Name: BuiltinPath[1:], Mode: 0o755, Size: info.Size(), Typeflag: tar.TypeReg}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.Copy(w, f); err != nil {
		return err
	}
	return w.Close()
}
