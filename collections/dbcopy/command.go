package dbcopy

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// Command is "db" with all that is below it.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "db",
		Short: "Move the installation to another database",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(copyCommand())
	return c
}

func copyCommand() *cobra.Command {
	var from, to, encryptionEnv string
	c := &cobra.Command{
		Use:   "copy --from SOURCE --to TARGET",
		Short: "Copy every row into an empty database and compare all of them",
		Long: `SOURCE and TARGET are a data folder (SQLite) or postgres://user@host/database.
Stop the panel first: what it writes during the copy is not copied, and it cannot write while the
source is locked. A copy that was cut short goes on when the same command is given again.
Logs, uploaded files and the keys beside the data folder are not in the database: docs/scale.md
tells what to do with them.`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			if from == "" || to == "" {
				return errors.New("db copy: --from and --to are needed")
			}
			source, closeSource, err := Open(c.Context(), from, encryptionEnv, true)
			if err != nil {
				return fmt.Errorf("db copy: %w", err)
			}
			defer closeSource()
			target, closeTarget, err := Open(c.Context(), to, encryptionEnv, false)
			if err != nil {
				return fmt.Errorf("db copy: %w", err)
			}
			defer closeTarget()
			sum, err := Copy(c.Context(), source, target, func(line string) { fmt.Fprintln(c.OutOrStdout(), line) })
			if err != nil {
				return fmt.Errorf("db copy: %w", err)
			}
			fmt.Fprintf(c.OutOrStdout(), "%d rows of %d tables are in %s, each compared with %s\n", sum.Rows, sum.Tables, target.Name, source.Name)
			return nil
		},
	}
	c.Flags().StringVar(&from, "from", "", "data folder or postgres:// URL to copy from")
	c.Flags().StringVar(&to, "to", "", "data folder or postgres:// URL to copy into; must be empty")
	c.Flags().StringVar(&encryptionEnv, "encryptionEnv", "", "variable that holds the key of PocketBase's settings, if the panel is started with one")
	return c
}
