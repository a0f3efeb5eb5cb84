// Command wings runs the game servers of one machine for a Mamba Host panel.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mambahost/mamba/wings/cli"
)

// release is set by the linker: -X main.release=1.2.3.
var release = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, cli.Program{Release: release, Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	stop()
	os.Exit(code)
}
