// Package blueprintcmd is the "blueprint" part of the mambahost command line.
//
// It owns what modders type and what they read there. It refuses to decide anything about a
// blueprint: that is package blueprints.
//
// Its one invariant: what is wrong goes to standard error, one line per fault, and the command ends
// with an error; what is right goes to standard output.
package blueprintcmd

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/mambahost/mamba/blueprints"
)

// ErrInvalid ends "validate" when there was a fault. Its lines are printed already.
var ErrInvalid = errors.New("not every blueprint is in order")

// Command is "blueprint" with all that is below it, to be added to a root command.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "blueprint",
		Short: "Check and list the recipes of games",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(ValidateCommand(), ListCommand())
	return c
}

// ValidateCommand is "blueprint validate PATH…".
func ValidateCommand() *cobra.Command {
	return &cobra.Command{
		Use:           "validate PATH...",
		Short:         "Check blueprint folders and say everything that is wrong with them",
		Args:          cobra.MinimumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(c *cobra.Command, paths []string) error {
			faulty := false
			for _, path := range paths {
				bundle, problems, err := blueprints.CheckFolder(path)
				switch {
				case err != nil:
					faulty = true
					fmt.Fprintf(c.ErrOrStderr(), "%s: %v\n", path, err)
				case len(problems) > 0:
					faulty = true
					fmt.Fprintln(c.ErrOrStderr(), problems.Error())
				default:
					fmt.Fprintf(c.OutOrStdout(), "%s: ok (%s %s)\n", path, bundle.ID, bundle.Version)
				}
			}
			if faulty {
				return ErrInvalid
			}
			return nil
		},
	}
}

// ListCommand is "blueprint list": the games that come with Mamba Host.
func ListCommand() *cobra.Command {
	return &cobra.Command{
		Use:          "list",
		Short:        "List the games that come with Mamba Host",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := blueprints.Shipped()
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "ID\tVERSION\tNAME\tVARIANTS")
			for _, b := range all {
				var variants []string
				for _, v := range b.Form().Variants {
					variants = append(variants, v.ID)
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", b.ID, b.Version, b.Name, strings.Join(variants, ", "))
			}
			return table.Flush()
		},
	}
}
