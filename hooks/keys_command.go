package hooks

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/spf13/cobra"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/secrets"
)

// ErrNoNewMaster is a rotation of the master key for which there is no new key.
var ErrNoNewMaster = errors.New("there is no new master key")

// KeysCommand is "keys" with all that is below it. It may run beside a panel: then the panel does the work.
func KeysCommand(app core.App, c *Config) *cobra.Command {
	root := &cobra.Command{
		Use: "keys", Short: "Look at the encryption keys, and replace them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(&cobra.Command{
		Use: "status", Short: "Say which master key wraps the data keys, and how old they are", Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return keysStatus(cmd, app, c) },
	})
	var master bool
	rotate := &cobra.Command{
		Use: "rotate", Short: "Give every organisation a new data key and encrypt all secrets anew; nothing stops meanwhile",
		Long: "Gives the installation and every organisation a new data key, encrypts every stored secret anew and drops the old keys.\n" +
			"With --master the master key is replaced instead: data keys stay and are wrapped with the new one.\n" +
			"Both may be interrupted and go on when they are started again.",
		Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if master {
				return rotateMaster(cmd, app, c)
			}
			return rotateKeys(cmd, app, c, false)
		},
	}
	rotate.Flags().BoolVar(&master, "master", false, "replace the master key")
	root.AddCommand(rotate)
	return root
}

func keysStatus(cmd *cobra.Command, app core.App, c *Config) error {
	keeper, err := c.keeper(app)
	if err != nil {
		return err
	}
	st, err := keeper.Status(app)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "master key: %s\n", st.Master)
	ids := make([]string, 0, len(st.Wrapped))
	for id := range st.Wrapped {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		note := ""
		if id != st.Master {
			note = "; run `mambahost keys rotate --master` to wrap them with the new one"
		}
		fmt.Fprintf(out, "  wraps %s: %d keys%s\n", id, st.Wrapped[id], note)
	}
	fmt.Fprintf(out, "data keys: %d", st.Scopes)
	if !st.Oldest.IsZero() {
		fmt.Fprintf(out, ", the oldest of %s", st.Oldest.UTC().Format(time.DateOnly))
	}
	fmt.Fprintln(out)
	switch {
	case st.Rotating:
		fmt.Fprintf(out, "a rotation began at %s and is not at its end; `mambahost keys rotate` goes on with it\n", st.Since.UTC().Format(time.RFC3339))
	case !st.Since.IsZero():
		fmt.Fprintf(out, "last rotation: %s\n", st.Since.UTC().Format(time.RFC3339))
	default:
		fmt.Fprintln(out, "last rotation: never")
	}
	return nil
}

// rotateKeys has the panel that runs do it, or does it here.
func rotateKeys(cmd *cobra.Command, app core.App, c *Config, master bool) error {
	last := ""
	say := func(step string) {
		if step != "" && step != last {
			fmt.Fprintln(cmd.OutOrStdout(), step)
			last = step
		}
	}
	ran, err := askPanel(cmd.Context(), app, "/keys/rotate", rotateRequest{Master: master}, func(l progressLine) {
		say(l.Step)
		if l.Error != "" && !l.Done {
			fmt.Fprintln(cmd.ErrOrStderr(), "trying again:", l.Error)
		}
	})
	if err != nil {
		return err
	}
	if !ran {
		keeper, err := c.keeper(app)
		if err != nil {
			return err
		}
		log, err := c.auditWith(app, keeper)
		if err != nil {
			return err
		}
		r := &rotator{app: app, keeper: keeper, audit: log}
		if _, err := r.rotate(cmd.Context(), master, func(step string, _, _ int) { say(step) }); err != nil {
			return err
		}
	}
	fmt.Fprintln(cmd.OutOrStdout(), "The keys are rotated.")
	return nil
}

// rotateMaster makes a new key where the key is in a file of this machine alone; anywhere else the
// operator puts it in place first.
func rotateMaster(cmd *cobra.Command, app core.App, c *Config) error {
	source := c.masterSource(app)
	keeper, err := c.keeper(app)
	if err != nil {
		return err
	}
	if source.InFile() {
		if err := c.onlyPanel(app); err != nil {
			return err
		}
		if err := secrets.RotateFile(source.File); err != nil {
			return err
		}
	} else if st, err := keeper.Status(app); err != nil {
		return err
	} else if len(st.Wrapped) == 1 && st.Wrapped[st.Master] > 0 {
		return fmt.Errorf("every data key is wrapped with %s already. Make a key (openssl rand -base64 32), start every panel with it in MAMBA_MASTER_KEY and the present one in MAMBA_MASTER_KEY_OLD, and run this again: %w",
			st.Master, ErrNoNewMaster)
	}
	if err := rotateKeys(cmd, app, c, true); err != nil {
		return err
	}
	if keeper, err = c.keeper(app); err != nil {
		return err
	}
	st, err := keeper.Status(app)
	if err != nil {
		return err
	}
	if len(st.Wrapped) > 1 {
		return errors.New("some keys are wrapped with an old master key; run this again")
	}
	if !source.InFile() {
		fmt.Fprintln(cmd.OutOrStdout(), "MAMBA_MASTER_KEY_OLD is not needed any more, but by backups of the database from before.")
		return nil
	}
	if err := secrets.SettleFile(source.File); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "The new key is in %s: back it up. The old one is beside it and opens backups of the database from before.\n", source.File)
	return nil
}

// onlyPanel refuses to make a new key file while other instances have copies of the old one.
func (c *Config) onlyPanel(app core.App) error {
	if c.database.kind() == "SQLite" {
		return nil
	}
	rows, err := collections.Every[collections.PanelInstance](app, collections.PanelInstances, "id", 0,
		dbx.NewExp("[[seen]] > {:since}", dbx.Params{"since": collections.Stamp(time.Now().Add(-time.Minute))}))
	if err != nil {
		return fmt.Errorf("look for other panels: %w", err)
	}
	if len(rows) < 2 {
		return nil
	}
	var where []string
	for _, row := range rows {
		where = append(where, row.Address())
	}
	return fmt.Errorf("%d panels run (%s), each with a key file of its own. Give every panel the new key in MAMBA_MASTER_KEY and the present one in MAMBA_MASTER_KEY_OLD (docs/operations.md), and run this again: %w",
		len(rows), strings.Join(where, ", "), ErrNoNewMaster)
}

// auditWith is the audit log as the panel has it.
func (c *Config) auditWith(app core.App, keeper *secrets.Keeper) (*audit.Log, error) {
	keys, err := keeper.Keys(purposeAudit)
	if err != nil {
		return nil, err
	}
	return audit.Rotating(keys, auditHeads(app), c.Log), nil
}
