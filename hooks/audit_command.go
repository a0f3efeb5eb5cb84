package hooks

import (
	"errors"
	"fmt"
	"os"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/spf13/cobra"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
)

// ErrAuditBroken ends "audit verify" when a chain is not as it was written. What is wrong is printed
// already.
var ErrAuditBroken = errors.New("the audit log is not as it was written")

// ErrAuditUnread ends "audit verify" when it could not look.
var ErrAuditUnread = errors.New("the audit log was not verified")

// AuditCommand is "audit" with all that is below it. It may run beside a panel.
func AuditCommand(app core.App, c *Config) *cobra.Command {
	root := &cobra.Command{
		Use: "audit", Short: "Check the audit log", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var tenant string
	var heads []string
	verify := &cobra.Command{
		Use: "verify", Short: "Find every row of the audit log that was edited, removed, added or moved",
		Args: cobra.NoArgs, SilenceUsage: true,
		Long: "Reads every chain of the audit log, its head and the signed heads, and names every row that was edited, removed, added or moved.\n" +
			"It ends with 0 when all is in order, with 1 when something is not, and with 2 when it could not look.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := verifyAudit(cmd, app, c, tenant, heads)
			if err != nil && !errors.Is(err, ErrAuditBroken) {
				err = fmt.Errorf("%w: %w", ErrAuditUnread, err)
			}
			return err
		},
	}
	verify.Flags().StringVar(&tenant, "tenant", "", "id or slug of one organisation; default: all, and the installation itself")
	verify.Flags().StringArrayVar(&heads, "heads", nil, "folder with the signed heads of another panel (its audit-heads); may be given again")
	root.AddCommand(verify)
	return root
}

func verifyAudit(cmd *cobra.Command, app core.App, c *Config, tenant string, heads []string) error {
	log, err := c.openAudit(app)
	if err != nil {
		return err
	}
	for _, dir := range heads {
		if _, err := os.Stat(dir); err != nil {
			return fmt.Errorf("read the signed heads of another panel: %w", err)
		}
		log.With(audit.Dir(dir))
	}
	var reports []audit.Report
	if tenant == "" {
		reports, err = log.VerifyAll(app)
	} else {
		var row *collections.Tenant
		row, err = collections.One[collections.Tenant](app, collections.Tenants, dbx.Or(dbx.HashExp{"id": tenant}, dbx.HashExp{"slug": tenant}))
		if err != nil {
			return fmt.Errorf("there is no organisation %q: %w", tenant, err)
		}
		reports = make([]audit.Report, 1)
		reports[0], err = log.Verify(app, row.Id)
	}
	if err != nil {
		return err
	}
	broken := false
	for _, r := range reports {
		name := "the installation"
		if row, err := collections.FindTenant(app, r.Tenant); r.Tenant != "" && err == nil {
			name = row.Slug() + " (" + r.Tenant + ")"
		} else if r.Tenant != "" {
			name = r.Tenant
		}
		if r.OK() && r.Purged {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: purged, %d signed heads: in order\n", name, r.Heads)
			continue
		}
		if r.OK() {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d rows, %d signed heads: in order\n", name, r.Rows, r.Heads)
			continue
		}
		broken = true
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d rows, %d signed heads: %d faults\n", name, r.Rows, r.Heads, r.Faults)
		for _, p := range r.Problems {
			fmt.Fprintf(cmd.ErrOrStderr(), "  %s at row %d %s: %s\n", p.Fault, p.Seq, p.Row, p.Detail)
		}
	}
	if broken {
		return ErrAuditBroken
	}
	return nil
}

// openAudit opens the audit log as the panel does; a master key that is not there is not made.
func (c *Config) openAudit(app core.App) (*audit.Log, error) {
	keeper, err := c.keeper(app)
	if err != nil {
		return nil, err
	}
	return c.auditWith(app, keeper)
}

func (c *Config) masterKeyFile(app core.App) string {
	if c.MasterKeyFile != "" {
		return c.MasterKeyFile
	}
	return dataFile(app.DataDir(), "master.key")
}

func auditHeads(app core.App) audit.Dir { return audit.Dir(dataFile(app.DataDir(), "audit-heads")) }
