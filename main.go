// Command mambahost is the panel of Mamba Host, and with serve --local-node the whole of it on one
// machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/blueprints/blueprintcmd"
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
	settle := startLean()
	app := pocketbase.NewWithConfig(pocketbase.Config{HideStartBanner: true, DBConnect: connect})
	app.RootCmd.Use, app.RootCmd.Short, app.RootCmd.Version = "mambahost", "Game-server hosting from one binary", version
	config := hooks.Flags(app.RootCmd.PersistentFlags(), version)
	if err := app.RootCmd.ParseFlags(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	config.Web, config.Started = pbpublic.Serve(), settle
	hooks.Register(app, config)
	app.RootCmd.AddCommand(blueprintcmd.Command())
	if err := app.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "mambahost:", err)
		os.Exit(1)
	}
}

// startGC is how much the heap may grow between two collections, in percent of what lives, until the
// panel has started. All that a start makes is less than that; collecting it five times in between
// takes a tenth of the time.
const startGC = 400

// startLean puts collections off until the function that it returns is called, which goes back to how
// it was and gives the memory that the start took back to the system. GOGC in the environment is left
// alone.
func startLean() (settle func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	before := debug.SetGCPercent(startGC)
	return func() {
		debug.SetGCPercent(before)
		debug.FreeOSMemory()
	}
}

// connect opens a database as PocketBase does, and, where there is one, its first connection at once:
// each reads the whole schema, and a start needs several, which so come beside each other.
func connect(path string) (*dbx.DB, error) {
	db, err := core.DefaultDBConnect(path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err == nil {
		go func() { _ = db.DB().Ping() }() // whoever uses the database is told what is wrong with it
	}
	return db, nil
}

// wings runs the node daemon's command line. Signals end it; they never end a game.
func wings(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return cli.Run(ctx, cli.Program{Release: version, Args: args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}
