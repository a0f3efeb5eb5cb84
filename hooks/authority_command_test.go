package hooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mambahost/mamba/hooks/fleet"
)

func caCommand(s *settled, args ...string) (string, error) {
	var out bytes.Buffer
	c := AuthorityCommand(s.app, s.config)
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.ExecuteContext(context.Background())
	return out.String(), err
}

// The same with the panel that runs, by its socket, and without one.
func TestAuthorityCommand(t *testing.T) {
	t.Parallel()
	for name, running := range map[string]bool{"beside a panel": true, "without one": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settle(t)
			if !running {
				s.Stop()
			}
			_, pin, err := s.Fleet.Authority()
			must(t, err)
			out, err := caCommand(s, "show")
			if err != nil || strings.Count(out, "\n") != 2 || !strings.Contains(out, pin) || !strings.Contains(out, "issuing  active") {
				t.Fatalf("%v\n%s", err, out)
			}
			before := out
			if out, err = caCommand(s, "rotate"); err != nil || out == before || !strings.Contains(out, pin) {
				t.Errorf("a new issuing certificate: %v\n%s", err, out)
			}
			if out, err = caCommand(s, "rotate", "--root"); err != nil || !strings.Contains(out, "announced") && !running {
				t.Errorf("a new root: %v\n%s", err, out)
			}
			if !running && !strings.Contains(out, "waits for us-east-1") {
				t.Errorf("the node that it waits for is not named:\n%s", out)
			}
			if out, err = caCommand(s, "rotate", "--root", "--now"); err != nil || !strings.Contains(out, "retired") && !running {
				t.Errorf("at once: %v\n%s", err, out)
			}
			exportAndDev(t, s)
		})
	}
}

func exportAndDev(t *testing.T, s *settled) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "root.key")
	out, err := caCommand(s, "export-root", "--key", file, "--remove")
	block, _ := pem.Decode([]byte(out))
	if err != nil || block == nil || block.Type != "CERTIFICATE" || strings.Contains(out, "PRIVATE") {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(file)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file has mode %v", info.Mode())
	}
	for args, says := range map[string]string{
		"export-root --remove":                         "--key",
		"export-root --key " + file:                    "exists",
		"export-root --key " + filepath.Join(dir, "x"): fleet.ErrRootOffline.Error(),
		"rotate":                     fleet.ErrRootOffline.Error(),
		"rotate --root-key /nowhere": "no such file",
	} {
		if out, err := caCommand(s, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), says) {
			if args == "export-root --key "+file && err != nil { // the key is gone, or the file is there: either is said
				continue
			}
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
	if out, err := caCommand(s, "rotate", "--root-key", file); err != nil || !strings.Contains(out, "key not in the panel") {
		t.Errorf("with the key from its file: %v\n%s", err, out)
	}
	web := filepath.Join(dir, "dev")
	for range 2 { // again, in place of what is there
		if out, err := caCommand(s, "dev", "--dir", web, "--host", "localhost,127.0.0.1"); err != nil || !strings.Contains(out, "localhost, 127.0.0.1") {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(web, "panel.crt"), filepath.Join(web, "panel.key"))
	must(t, err)
	root, err := os.ReadFile(filepath.Join(web, "root.crt"))
	must(t, err)
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		between.AddCert(c)
	}
	for _, host := range []string{"localhost", "127.0.0.1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := (authorityRequest{Op: "nonsense"}).work(s.Fleet); err == nil || errors.Is(err, fleet.ErrRootOffline) {
		t.Errorf("nonsense: %v", err)
	}
}
