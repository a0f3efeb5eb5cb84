package cli_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"

	"github.com/mambahost/mamba/wings/cli"
	"github.com/mambahost/mamba/wings/wire"
)

func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = cli.Run(t.Context(), cli.Program{Release: "1.2.3", Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &err})
	return code, out.String(), err.String()
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	token := wire.JoinToken{Token: strings.Repeat("A", 43), Fingerprint: wire.Fingerprint(nil)}.String()
	dir := t.TempDir()
	for _, c := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"version", []string{"version"}, 0, "wings 1.2.3 (protocol 1)", ""},
		{"help names the commands", []string{"--help"}, 0, "join", ""},
		{"an unknown command", []string{"fly"}, 1, "", "unknown command"},
		{"join without a token", []string{"join", "https://127.0.0.1:1"}, 1, "", "copy the whole command that the panel shows"},
		{"join without an address", []string{"join", "--token", token}, 1, "", "join needs the panel's address and a token"},
		{"join with half a token", []string{"join", "https://127.0.0.1:1", "--token", token[:50], "--dir", dir}, 1, "", "copy the whole command"},
		{"join by plain HTTP", []string{"join", "http://127.0.0.1:1", "--token", token, "--dir", dir}, 1, "", "is not an address like https://"},
		{"run before joining", []string{"run", "--dir", dir}, 1, "", "has not joined a panel yet"},
		{"run with a word for a level", []string{"run", "--dir", dir, "--log-level", "loud"}, 1, "", "--log-level"},
		{"an installation that is told to fail", []string{"demo-install", "--nonsense"}, 2, "", ""},
	} {
		code, stdout, stderr := run(t, c.args...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%s: code %d\nstdout %s\nstderr %s", c.name, code, stdout, stderr)
		}
		if strings.Contains(stderr, "goroutine") || strings.Contains(stderr, token) {
			t.Errorf("%s: stderr shows too much: %s", c.name, stderr)
		}
	}
}

func TestDemoCommandsAreHidden(t *testing.T) {
	t.Parallel()
	if _, stdout, _ := run(t, "--help"); strings.Contains(stdout, "demo-") {
		t.Errorf("help shows them:\n%s", stdout)
	}
	dir := t.TempDir()
	if code, stdout, stderr := run(t, "demo-install", "--dir", dir); code != 0 || !strings.Contains(stdout, "demo world") {
		t.Errorf("demo-install: %d %s %s", code, stdout, stderr)
	}
}

func TestJoinGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		cancel()
		_, _ = c.Read(make([]byte, 1))
	}()
	token := wire.JoinToken{Token: strings.Repeat("A", 43), Fingerprint: wire.Fingerprint(nil)}.String()
	var out, errs bytes.Buffer
	code := cli.Run(ctx, cli.Program{Args: []string{"join", "https://" + l.Addr().String(), "--token", token, "--dir", t.TempDir()}, Stdout: &out, Stderr: &errs})
	if code != 1 || !strings.Contains(errs.String(), "canceled") {
		t.Errorf("code %d, %s", code, errs.String())
	}
	<-accepted
}
