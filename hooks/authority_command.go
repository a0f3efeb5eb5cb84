package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pocketbase/pocketbase/core"
	"github.com/spf13/cobra"

	"github.com/mambahost/mamba/hooks/events"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/hooks/incidents"
)

// systemRoots is where Debian and Ubuntu take further root certificates from.
const systemRoots = "/usr/local/share/ca-certificates/mambahost-dev.crt"

// authorityRequest is what a command asks of the certificate authority.
type authorityRequest struct {
	Op      string   `json:"op"` // show, issuing, root, export, key, web
	Force   bool     `json:"force,omitempty"`
	Remove  bool     `json:"remove,omitempty"`
	RootKey string   `json:"root_key,omitempty"`
	Hosts   []string `json:"hosts,omitempty"`
}

// authorityReply is the answer.
type authorityReply struct {
	List        []fleet.AuthorityState `json:"list,omitempty"`
	Root        string                 `json:"root,omitempty"`
	Fingerprint string                 `json:"fingerprint,omitempty"`
	Chain       string                 `json:"chain,omitempty"`
	Key         string                 `json:"key,omitempty"`
}

// work does it, in the panel or in the command.
func (in authorityRequest) work(f *fleet.Fleet) (out authorityReply, err error) {
	switch in.Op {
	case "show":
	case "issuing":
		err = f.RotateIssuing(in.RootKey)
	case "root":
		err = f.RotateRoot(in.Force)
	case "key":
		out.Key, err = f.RootKey(in.Remove)
	case "web":
		if len(in.Hosts) == 0 {
			return out, errors.New("name at least one host")
		}
		out.Chain, out.Key, err = f.IssueWeb(in.Hosts)
	default:
		err = fmt.Errorf("%q is nothing that can be asked of the certificate authority", in.Op)
	}
	if err != nil {
		return out, err
	}
	if out.Root, out.Fingerprint, err = f.Authority(); err != nil {
		return out, err
	}
	out.List, err = f.Authorities()
	return out, err
}

// AuthorityCommand is "ca" with all that is below it. It may run beside a panel: then the panel does
// the work.
func AuthorityCommand(app core.App, c *Config) *cobra.Command {
	root := &cobra.Command{
		Use: "ca", Short: "Look at the certificate authority of the nodes, and replace its certificates", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(&cobra.Command{
		Use: "show", Short: "List the certificates of the authority", Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.tellAuthority(cmd, app, authorityRequest{Op: "show"})
		},
	}, caRotate(app, c), caExport(app, c), caDev(app, c))
	return root
}

func caRotate(app core.App, c *Config) *cobra.Command {
	var root, now bool
	var key string
	cmd := &cobra.Command{
		Use: "rotate", Short: "Make a new issuing certificate, or with --root a new root; nodes take it over by themselves", Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := authorityRequest{Op: "issuing"}
			if root {
				in = authorityRequest{Op: "root", Force: now}
			}
			if key != "" {
				raw, err := os.ReadFile(key)
				if err != nil {
					return fmt.Errorf("read the root's key: %w", err)
				}
				in.RootKey = string(raw)
			}
			return c.tellAuthority(cmd, app, in)
		},
	}
	cmd.Flags().BoolVar(&root, "root", false, "a new root certificate: it signs once every node trusts it")
	cmd.Flags().BoolVar(&now, "now", false, "with --root: it signs at once; nodes that did not hear of it have to join again")
	cmd.Flags().StringVar(&key, "root-key", "", "file of the root's key, where that was taken out of the panel")
	return cmd
}

func caExport(app core.App, c *Config) *cobra.Command {
	var key string
	var remove bool
	cmd := &cobra.Command{
		Use: "export-root", Short: "Print the root certificate; with --key store its key in a file", Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if remove && key == "" {
				return errors.New("--remove takes the key out of the panel; say with --key where to")
			}
			out, err := c.askAuthority(cmd.Context(), app, authorityRequest{Op: "show"})
			if err != nil {
				return err
			}
			fmt.Fprint(cmd.OutOrStdout(), out.Root)
			if key == "" {
				return nil
			}
			if out, err = c.askAuthority(cmd.Context(), app, authorityRequest{Op: "key"}); err != nil {
				return err
			}
			if err := writeNew(key, out.Key); err != nil {
				return err
			}
			if !remove {
				return nil
			}
			_, err = c.askAuthority(cmd.Context(), app, authorityRequest{Op: "key", Remove: true}) // it is on disk by now
			return err
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "new file for the root's key")
	cmd.Flags().BoolVar(&remove, "remove", false, "take the key out of the panel")
	return cmd
}

func caDev(app core.App, c *Config) *cobra.Command {
	var dir string
	var hosts []string
	var trust bool
	cmd := &cobra.Command{
		Use: "dev", Short: "Make a certificate for browsers of this machine, for development", Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := c.askAuthority(cmd.Context(), app, authorityRequest{Op: "web", Hosts: hosts})
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("make %s: %w", dir, err)
			}
			for name, text := range map[string]string{"root.crt": out.Root, "panel.crt": out.Chain, "panel.key": out.Key} {
				if err := writeWhole(filepath.Join(dir, name), text); err != nil {
					return err
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "panel.crt, panel.key and root.crt are in %s, for %s.\nRoot: %s\n", dir, strings.Join(hosts, ", "), out.Fingerprint)
			if !trust {
				return nil
			}
			if err := os.WriteFile(systemRoots, []byte(out.Root), 0o644); err != nil {
				return fmt.Errorf("have this machine trust the root (as root, on Debian or Ubuntu): %w", err)
			}
			said, err := exec.CommandContext(cmd.Context(), "update-ca-certificates").CombinedOutput()
			if err != nil {
				return fmt.Errorf("update-ca-certificates: %w: %s", err, said)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "This machine trusts the root now; browsers with a store of their own need it imported.")
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "dev-ca", "folder for the files")
	cmd.Flags().StringSliceVar(&hosts, "host", []string{"localhost", "127.0.0.1", "::1"}, "names and addresses")
	cmd.Flags().BoolVar(&trust, "trust", false, "have this machine trust the root (needs root)")
	return cmd
}

// writeNew stores a secret in a file that must not exist.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("store the key: %w", err)
	}
	_, err = io.WriteString(f, text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("store the key: %w", err)
	}
	return nil
}

// writeWhole replaces a file of a development set.
func writeWhole(path, text string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return writeNew(path, text)
}

// tellAuthority asks and prints how the authority is afterwards.
func (c *Config) tellAuthority(cmd *cobra.Command, app core.App, in authorityRequest) error {
	out, err := c.askAuthority(cmd.Context(), app, in)
	if err != nil {
		return err
	}
	for _, a := range out.List {
		note := ""
		if !a.KeyHere {
			note = ", key not in the panel"
		}
		if len(a.Waiting) > 0 {
			note += ", waits for " + strings.Join(a.Waiting, ", ")
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%-8s %-10s until %s  %s%s\n", a.Kind, a.State, a.NotAfter.UTC().Format(time.DateOnly), a.Fingerprint, note)
	}
	return nil
}

// askAuthority has the panel that runs do it, or does it here.
func (c *Config) askAuthority(ctx context.Context, app core.App, in authorityRequest) (out authorityReply, err error) {
	ran, err := askPanel(ctx, app, "/ca", in, func(l progressLine) {
		if len(l.Result) > 0 {
			err = json.Unmarshal(l.Result, &out)
		}
	})
	if ran || err != nil {
		return out, err
	}
	keeper, err := c.keeper(app)
	if err != nil {
		return out, err
	}
	log, err := c.auditWith(app, keeper)
	if err != nil {
		return out, err
	}
	f, err := fleet.New(app, fleet.Config{Listen: c.NodeListen, Secrets: keeper, Audit: log, Events: events.New(app, nil, c.Log),
		Incidents: incidents.New(nil), Samples: noSamples{}, Log: c.Log})
	if err != nil {
		return out, err
	}
	return in.work(f)
}

// noSamples stands where no node is heard.
type noSamples struct{ fleet.Samples }
