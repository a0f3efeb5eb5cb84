// Command mambahost is the panel of Mamba Host, and with serve --local-node the whole of it on one
// machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mambahost/mamba/blueprints/blueprintcmd"
	"github.com/mambahost/mamba/collections/dbcopy"
	"github.com/mambahost/mamba/hooks"
	_ "github.com/mambahost/mamba/migrations"
	pbpublic "github.com/mambahost/mamba/pb_public"
	"github.com/mambahost/mamba/wings/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	// The same binary is the node daemon of its own machine, and the game inside its demo image.
	if filepath.Base(os.Args[0]) == "wings" {
		os.Exit(wings(os.Args[1:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "wings" {
		os.Exit(wings(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "db" { // it opens databases of its own, not the panel's
		os.Exit(database(os.Args[2:]))
	}
	started := hooks.StartLean()
	var config *hooks.Config // flags are parsed before anything connects
	app := pocketbase.NewWithConfig(pocketbase.Config{HideStartBanner: true, DefaultEncryptionEnv: hooks.SettingsKeyEnv, DBConnect: func(path string) (*dbx.DB, error) { return config.Connect(path) }})
	app.RootCmd.Use, app.RootCmd.Short, app.RootCmd.Version = "mambahost", "Game-server hosting from one binary", version
	app.RootCmd.SilenceErrors = true // they are printed below; PocketBase throws away all that commands write to their error stream instead
	app.RootCmd.SetErr(os.Stderr)
	config = hooks.Flags(app.RootCmd.PersistentFlags(), version)
	// --help is cobra's, once all commands are there.
	if err := app.RootCmd.ParseFlags(os.Args[1:]); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "mambahost:", err)
		os.Exit(2)
	}
	config.Web, config.Started = pbpublic.Serve(), started
	hooks.Register(app, config)
	app.RootCmd.AddCommand(blueprintcmd.Command(), dbcopy.Command(), hooks.AuditCommand(app, config), hooks.KeysCommand(app, config), hooks.AuthorityCommand(app, config),
		&cobra.Command{Use: "wings", Short: "Be the node daemon, as the small wings binary is: join, run"}) // db and wings for help; they are taken above
	if err := app.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "mambahost:", err)
		if errors.Is(err, syscall.EADDRINUSE) {
			fmt.Fprintln(os.Stderr, "Another program uses that address. Stop it, or choose another one with --http (browsers) or --node-listen (nodes).")
		}
		if errors.Is(err, hooks.ErrAuditUnread) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// wings runs the node daemon's command line. Signals end it; they never end a game.
func wings(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return cli.Run(ctx, cli.Program{Release: version, Args: args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}

// database runs "db" and what is below it. A signal ends a copy, which the next one goes on with.
func database(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := dbcopy.Command()
	c.SetArgs(args)
	if err := c.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mambahost:", err)
		return 1
	}
	return 0
}
