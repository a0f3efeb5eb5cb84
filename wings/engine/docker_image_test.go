package engine_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/dockertest"
	"github.com/mambahost/mamba/wings/engine/enginetest"
	"github.com/mambahost/mamba/wings/wire"
)

// dropImage removes the image when t ends.
func dropImage(t *testing.T, b *bench, name string) {
	t.Helper()
	t.Cleanup(func() {
		_, err := b.api.ImageRemove(context.WithoutCancel(b.ctx), name, client.ImageRemoveOptions{Force: true})
		if err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

// ensure is EnsureImage under the bench's context.
func ensure(b *bench, image wire.Image, progress func(int, string)) (string, error) {
	return b.EnsureImage(b.ctx, "engine.image", image, progress)
}

func TestPullIsSharedAndShowsProgress(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	registry := dockertest.NewRegistry(t)
	image := wire.Image{Ref: registry.Image()}
	const callers = 3
	type report struct{ caller, percent int }
	reports := make(chan report, 1000)
	ids := make([]string, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			id, err := ensure(b, image, func(percent int, message string) {
				if message == "" {
					t.Error("a progress without a message")
				}
				reports <- report{i, percent}
			})
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
			ids[i] = id
		})
	}
	var percents []int
	heard := map[int]bool{}
	for len(heard) < callers { // everyone who waits hears of it
		r := <-reports
		heard[r.caller] = true
		percents = append(percents, r.percent)
	}
	registry.Open()
	wg.Wait()
	dropImage(t, b, image.Ref)
	close(reports)
	for r := range reports {
		percents = append(percents, r.percent)
	}
	if registry.Pulls() != 1 {
		t.Errorf("%d pulls for %d callers", registry.Pulls(), callers)
	}
	if ids[0] == "" || ids[1] != ids[0] || ids[2] != ids[0] {
		t.Errorf("ids %v", ids)
	}
	for _, p := range percents {
		if p < -1 || p > 100 {
			t.Errorf("progress of %d %%", p)
		}
	}
	if again, err := ensure(b, image, nil); err != nil || again != ids[0] || registry.Pulls() != 1 {
		t.Errorf("asked again: %s, %v, %d pulls", again, err, registry.Pulls())
	}
	t.Logf("%d progress reports: %v", len(percents), percents)
}

func TestPullOutlivesACallerButNotTheLast(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	registry := dockertest.NewRegistry(t)
	image := wire.Image{Ref: registry.Image()}
	first, leaveFirst := context.WithCancel(b.ctx)
	second, leaveSecond := context.WithCancel(b.ctx)
	defer leaveFirst()
	defer leaveSecond()
	ended := make(chan error, 2)
	for _, ctx := range []context.Context{first, second} {
		ready := make(chan struct{}, 1000)
		go func() {
			_, err := b.EnsureImage(ctx, "engine.image", image, func(int, string) { ready <- struct{}{} })
			ended <- err
		}()
		<-ready // it is in; who joins later hears of the newest progress at once
	}
	leaveFirst()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	if registry.Pulls() != 1 {
		t.Errorf("%d pulls for two callers", registry.Pulls())
	}
	select {
	case err := <-ended:
		t.Fatalf("the other was thrown out: %v", err)
	default:
	}
	leaveSecond()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the last got %v", err)
	}
	registry.Open()
	if _, err := ensure(b, image, nil); err != nil {
		t.Fatalf("a pull after an abandoned one: %v", err)
	}
	dropImage(t, b, image.Ref)
}

func TestPullThatCannotSucceedIsUnavailable(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *engine.Config) { c.PullTimeout = 2 * time.Second })
	registry := dockertest.NewRegistry(t)
	for name, ref := range map[string]string{
		"the registry does not have it":        registry.Missing(),
		"the registry is out of reach":         "127.0.0.1:1/mamba/image:1",
		"the registry is too slow":             registry.Image(), // never opened
		"the name is none":                     "UPPER/case",
		"the name leads elsewhere in the API":  "x/../../containers/json?all=1",
		"the name is an id that is not there ": "sha256:" + strings.Repeat("0", 64),
	} {
		if id, err := ensure(b, wire.Image{Ref: ref}, nil); !errors.Is(err, engine.ErrImageUnavailable) {
			t.Errorf("%s: id %q, error %v", name, id, err)
		}
	}
}

func TestPullFromAnEngineThatIsAwayIsNotTheImagesFault(t *testing.T) {
	t.Parallel()
	d := connect(t, engine.Config{Host: "unix://" + filepath.Join(t.TempDir(), "none.sock"), NodeLabel: "n"})
	_, err := d.EnsureImage(t.Context(), "engine.image", wire.Image{Ref: "mamba.test/x:1"}, nil)
	if err == nil || errors.Is(err, engine.ErrImageUnavailable) {
		t.Errorf("error = %v, want one that is retried", err)
	}
	if _, err := d.Info(t.Context(), "engine.info"); err == nil {
		t.Error("an engine that is away answered")
	}
}

func TestCloseEndsAPullAndRefusesANewOne(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	registry := dockertest.NewRegistry(t)
	image := wire.Image{Ref: registry.Image()}
	other := connect(t, engine.Config{Host: b.host, NodeLabel: b.node})
	ready, ended := make(chan struct{}, 1000), make(chan error, 1)
	go func() {
		_, err := other.EnsureImage(b.ctx, "engine.image", image, func(int, string) { ready <- struct{}{} })
		ended <- err
	}()
	<-ready
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || errors.Is(err, engine.ErrImageUnavailable) {
		t.Errorf("the pull ended with %v", err)
	}
	if _, err := other.EnsureImage(b.ctx, "engine.image", image, nil); err == nil {
		t.Error("a closed client began a pull")
	}
}

// probe builds testdata/probe, a static program that stands for wings. Each call gives another
// file of other content, so that two tests never share an image.
func probe(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "probe")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", binary, "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	f, err := os.OpenFile(binary, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(enginetest.NewID()); err != nil { // behind what the loader reads
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return binary
}

func TestBuiltinImageIsMadeOnceOutOfTheBinary(t *testing.T) {
	t.Parallel()
	binary := probe(t)
	b := newBench(t, func(c *engine.Config) { c.BuiltinBinary = binary })
	demo := wire.Image{Builtin: engine.BuiltinDemo}
	ids := make([]string, 3)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			id, err := ensure(b, demo, nil)
			if err != nil {
				t.Errorf("make: %v", err)
			}
			ids[i] = id
		})
	}
	wg.Wait()
	if ids[0] == "" || ids[1] != ids[0] || ids[2] != ids[0] {
		t.Fatalf("ids %v", ids)
	}
	dropImage(t, b, ids[0])
	in, err := b.api.ImageInspect(b.ctx, ids[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(in.RepoTags) != 1 || !strings.HasPrefix(in.RepoTags[0], "mamba.local/demo:") || in.Config.User != "988:988" {
		t.Errorf("tags %v, user %s", in.RepoTags, in.Config.User)
	}
	again := connect(t, engine.Config{Host: b.host, NodeLabel: b.node, BuiltinBinary: binary})
	if id, err := again.EnsureImage(b.ctx, "engine.image", demo, nil); err != nil || id != ids[0] {
		t.Errorf("another client made %s, %v", id, err)
	}
	spec := b.spec(enginetest.NewID())
	spec.ImageID, spec.Command = ids[0], []string{engine.BuiltinPath, "show", "demo-game", "7777"}
	exit, lines := b.output(spec)
	if exit.Code != 0 || !slices.Equal(lines, []string{"[demo-game 7777] 988 988 /home/container"}) {
		t.Errorf("exit %+v, output %q", exit, lines)
	}
	// An upgraded binary is another image.
	if err := os.WriteFile(binary, []byte("another"), 0o700); err != nil {
		t.Fatal(err)
	}
	id, err := ensure(b, demo, nil)
	if err != nil || id == ids[0] {
		t.Errorf("after an upgrade: %s, %v", id, err)
	}
	dropImage(t, b, id)
}

func TestBuiltinImageWithoutABinaryIsUnavailable(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]engine.Config{
		"none configured": {},
		"file is missing": {BuiltinBinary: filepath.Join(t.TempDir(), "missing")},
	} {
		cfg.Host, cfg.NodeLabel = "unix:///nowhere.sock", "n"
		_, err := connect(t, cfg).EnsureImage(t.Context(), "engine.image", wire.Image{Builtin: engine.BuiltinDemo}, nil)
		if !errors.Is(err, engine.ErrImageUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
