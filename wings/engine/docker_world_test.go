package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/engine/dockertest"
	"github.com/mambahost/mamba/wings/engine/enginetest"
)

func TestInfoWarnsAboutAnEngineThatEndangersGames(t *testing.T) {
	t.Parallel()
	for _, off := range []bool{true, false} {
		p := dockertest.Private(t, dockertest.Options{NoLiveRestore: off})
		info, err := connect(t, engine.Config{Host: p.Host(), NodeLabel: "n"}).Info(t.Context(), "engine.info")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(info.Warnings, "\n"), "live-restore is off"); got != off {
			t.Errorf("live-restore off is %v, warnings %q", off, info.Warnings)
		}
		if info.Name != "docker" || info.Version == "" {
			t.Errorf("info = %+v", info)
		}
	}
}

// readTo reads stream until a line has the text and returns all that came, that line included.
func readTo(t *testing.T, stream *engine.LogStream, text string) []engine.LogLine {
	t.Helper()
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	var lines []engine.LogLine
	for {
		select {
		case line, ok := <-stream.C:
			if !ok {
				t.Fatalf("the log closed before %q: %v", text, stream.Err())
			}
			lines = append(lines, line)
			if line.Text == text {
				return lines
			}
		case <-timer.C:
			t.Fatalf("%q did not come", text)
		}
	}
}

// The same client goes on after its dockerd was killed or stopped; the game does not notice, and its
// log has no hole and no double although the stream broke.
func TestEngineComesBackWithTheSameGame(t *testing.T) {
	t.Parallel()
	p := dockertest.Private(t, dockertest.Options{})
	b := benchOn(t, p.Host())
	id := b.create(b.spec(enginetest.NewID(), "echo"))
	b.start(id)
	pid := b.inspect(id).State.Pid
	var lines []engine.LogLine
	var after time.Time
	for round, end := range []func(testing.TB){p.Kill, p.Stop, p.Kill} {
		stream, err := b.Logs(b.ctx, "engine.logs", id, after)
		if err != nil {
			t.Fatal(err)
		}
		witness, err := b.Logs(b.ctx, "engine.logs", id, after)
		if err != nil {
			t.Fatal(err)
		}
		waited := make(chan error, 1)
		go func() {
			_, err := b.Wait(b.ctx, "engine.wait", id)
			waited <- err
		}()
		if round == 0 {
			lines = append(lines, readTo(t, stream, "ready")...)
		}
		for i := range 3 {
			text := fmt.Sprintf("%d-%d", round, i)
			in, err := b.Stdin(b.ctx, "engine.stdin", id)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(in, text+"\n"); err != nil {
				t.Fatal(err)
			}
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			if i < 2 {
				lines = append(lines, readTo(t, stream, "got "+text)...)
			} else { // the game has answered, but our reader has not seen it when the engine goes
				readTo(t, witness, "got "+text)
			}
		}
		end(t)
		if err := <-waited; err == nil {
			t.Error("a wait ended without error while the game runs on")
		}
		for line := range stream.C {
			lines = append(lines, line)
		}
		for range witness.C {
		}
		if stream.Err() == nil {
			t.Error("the log ended as if the game had")
		}
		if _, err := b.Inspect(b.ctx, "engine.inspect", id); err == nil || errors.Is(err, engine.ErrNotFound) {
			t.Errorf("inspect while the engine is away: %v", err)
		}
		p.Start(t)
		after = lines[len(lines)-1].At
	}
	if got := b.inspect(id).State.Pid; got != pid {
		t.Errorf("pid %d became %d", pid, got)
	}
	in, err := b.Stdin(b.ctx, "engine.stdin", id)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := io.WriteString(in, "stop\n"); err != nil {
		t.Fatal(err)
	}
	stream, err := b.Logs(b.ctx, "engine.logs", id, after)
	if err != nil {
		t.Fatal(err)
	}
	lines = append(lines, readTo(t, stream, "bye")...)
	var texts []string
	for _, line := range lines {
		texts = append(texts, line.Text)
	}
	want := "ready got 0-0 got 0-1 got 0-2 got 1-0 got 1-1 got 1-2 got 2-0 got 2-1 got 2-2 bye"
	if got := strings.Join(texts, " "); got != want {
		t.Errorf("log over three ends of dockerd:\n%s, want\n%s", got, want)
	}
}

// A reader that is slower than the game holds nothing up and misses nothing, also when the engine
// turns the log's files meanwhile.
func TestLogIsCompleteForASlowReaderAcrossRotation(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const first, last = 1_000_000, 1_300_000 // 300,001 lines, more than one file of 10 MiB
	id := b.create(b.spec(enginetest.NewID(), "shell", "seq "+strconv.Itoa(first)+" "+strconv.Itoa(last)))
	b.start(id)
	stream, err := b.Logs(b.ctx, "engine.logs", id, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Wait(b.ctx, "engine.wait", id); err != nil { // nobody reads until it has ended
		t.Fatal(err)
	}
	want := first
	for line := range stream.C {
		if line.Text != strconv.Itoa(want) {
			t.Fatalf("line %q where %d was due", line.Text, want)
		}
		want++
	}
	if err := stream.Err(); err != nil || want != last+1 {
		t.Errorf("it ended before %d: %v", want, err)
	}
}

// cutter is a door to the engine that can lose replies: the engine has acted, the caller does not
// learn it.
type cutter struct {
	mu   sync.Mutex // guards lose
	lose string     // method and a part of the path of the one request whose reply is lost
	lost int
}

func newCutter(t *testing.T, host string) (c *cutter, door string) {
	t.Helper()
	socket := strings.TrimPrefix(host, "unix://")
	c = &cutter{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	proxy.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	proxy.ModifyResponse = func(res *http.Response) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		method, part, _ := strings.Cut(c.lose, " ")
		if c.lose == "" || res.Request.Method != method || !strings.Contains(res.Request.URL.Path, part) {
			return nil
		}
		c.lose = ""
		c.lost++
		return errors.New("lost")
	}
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	dir, err := os.MkdirTemp("", "cut")
	if err != nil {
		t.Fatal(err)
	}
	door = filepath.Join(dir, "d.sock")
	l, err := net.Listen("unix", door)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: proxy}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return c, "unix://" + door
}

// arm loses the reply to the next such request.
func (c *cutter) arm(request string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose = request
}

func TestT04_EngineEffectsHappenOnceWhenTheirRepliesAreLost(t *testing.T) {
	t.Parallel()
	host := dockertest.Daemon(t)
	c, door := newCutter(t, host)
	b := benchOn(t, host)
	lossy := connect(t, engine.Config{Host: door, NodeLabel: b.node})
	tenant := enginetest.NewID()
	networkName := "mh-net-" + tenant
	spec := b.spec(enginetest.NewID(), "polite")
	spec.TenantID, spec.Network = tenant, networkName
	var id string
	networks := func() (n int) {
		for _, name := range networkNames(t, b.api) {
			if name == networkName {
				n++
			}
		}
		return n
	}
	containers := func() int {
		list, err := b.List(b.ctx, "engine.list")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	running := func() bool { return b.inspect(id).State.Running }
	steps := []struct {
		name, request string
		call          func() error
		once          func() bool
	}{
		{"image", "GET /images/", func() error {
			_, err := lossy.EnsureImage(b.ctx, "engine.image", b.image, nil)
			return err
		}, func() bool { return true }},
		{"network", "POST /networks/create", func() error {
			_, err := lossy.EnsureNetwork(b.ctx, "engine.network", tenant)
			return err
		}, func() bool { return networks() == 1 }},
		{"create", "POST /containers/create", func() (err error) {
			id, err = lossy.Create(b.ctx, "engine.create", spec)
			return err
		}, func() bool { return containers() == 1 }},
		{"start", "POST /start", func() error { return lossy.Start(b.ctx, "engine.start", id) }, func() bool { return running() }},
		{"signal", "POST /kill", func() error {
			err := lossy.Signal(b.ctx, "engine.signal", id, "SIGKILL")
			if errors.Is(err, engine.ErrNotRunning) {
				return nil // it had worked
			}
			return err
		}, func() bool { return !running() }},
		{"wait", "POST /wait", func() error {
			_, err := lossy.Wait(b.ctx, "engine.wait", id)
			return err
		}, func() bool { return true }},
		{"remove", "DELETE /containers/", func() error { return lossy.Remove(b.ctx, "engine.remove", id) },
			func() bool { return containers() == 0 }},
		{"remove network", "DELETE /networks/", func() error {
			return lossy.RemoveNetworkIfUnused(b.ctx, "engine.network", tenant)
		}, func() bool { return networks() == 0 }},
		{"list", "GET /containers/json", func() error {
			_, err := lossy.List(b.ctx, "engine.list")
			return err
		}, func() bool { return true }},
	}
	done := 0
	for _, step := range steps {
		c.arm(step.request)
		err := step.call()
		if err == nil && !strings.HasPrefix(step.request, "GET ") { // net/http asks again for those by itself
			t.Errorf("%s: its lost reply was not noticed", step.name)
		}
		if step.name == "signal" {
			if _, err := b.Wait(b.ctx, "engine.wait", id); err != nil {
				t.Fatal(err)
			}
		}
		if err := step.call(); err != nil {
			t.Fatalf("%s: again: %v", step.name, err)
		}
		if !step.once() {
			t.Errorf("%s: the effect is not there exactly once", step.name)
			continue
		}
		done++
	}
	t.Logf("T04 engine: %d of %d effects happened exactly once, %d replies lost", done, len(steps), c.lost)
}
