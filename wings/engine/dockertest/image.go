package dockertest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // game.sh
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

//go:embed game.sh
var gameScript []byte

// imageTimeout bounds the import of the test image.
const imageTimeout = 2 * time.Minute

// rootfs is the test image's file system as a tar, made once: busybox-static, its applets as links,
// and the game.
var rootfs = sync.OnceValues(buildRootfs)

// importing keeps two tests of one process from importing the image twice.
var importing sync.Mutex

// Image makes sure that host has the test image and returns its tag. The tag carries the content's
// hash, so that an old image is never taken for a new one. /game in it is game.sh.
func Image(t testing.TB, host string) string {
	t.Helper()
	raw, err := rootfs()
	if err != nil {
		t.Fatalf("build the test image: %v", err)
	}
	sum := sha256.Sum256(raw)
	tag := "mamba.test/busybox:" + hex.EncodeToString(sum[:6])
	importing.Lock()
	defer importing.Unlock()
	if err := Import(host, tag, bytes.NewReader(raw)); err != nil {
		t.Fatalf("import the test image: %v", err)
	}
	return tag
}

// Import makes an image out of a root file system's tar unless host has the tag already. It runs
// as 988:988 in /home/container.
func Import(host, tag string, rootfs io.Reader) error {
	cli, err := client.New(client.WithHost(host))
	if err != nil {
		return err
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), imageTimeout)
	defer cancel()
	if _, err := cli.ImageInspect(ctx, tag); err == nil {
		return nil
	}
	res, err := cli.ImageImport(ctx, client.ImageImportSource{Source: rootfs, SourceName: "-"}, tag,
		client.ImageImportOptions{Changes: []string{"USER 988:988", "WORKDIR /home/container", `CMD ["/game"]`}})
	if err != nil {
		return fmt.Errorf("import %s: %w", tag, err)
	}
	_, err = io.Copy(io.Discard, res)
	if cerr := res.Close(); err == nil {
		err = cerr
	}
	return err
}

func buildRootfs() ([]byte, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("the test image needs Debian's busybox-static: %w", err)
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox' applets: %w", err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, body []byte) {
		h.Size = int64(len(body))
		h.Format = tar.FormatPAX
		if err == nil {
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = w.Write(body)
		}
	}
	for _, dir := range []string{"bin/", "dev/", "etc/", "home/", "mnt/", "proc/", "sys/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	add(tar.Header{Typeflag: tar.TypeDir, Name: "home/container/", Mode: 0o755, Uid: 988, Gid: 988}, nil)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, busybox)
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}, nil)
		}
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644},
		[]byte("root:x:0:0:root:/:/bin/sh\ncontainer:x:988:988::/home/container:/bin/sh\n"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\ncontainer:x:988:\n"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "game", Mode: 0o755}, gameScript)
	if err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
