// Command demo is the static binary of the integration test's demo image: the two hidden commands
// of wings and nothing else.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/mambahost/mamba/wings/demo"
)

func main() {
	err := fmt.Errorf("usage: demo-server | demo-install")
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case demo.ServerCommand:
			err = demo.Run(context.Background(), os.Args[2:], os.Stdin, os.Stdout)
		case demo.InstallCommand:
			err = demo.Install(context.Background(), os.Args[2:], os.Stdout)
		}
	}
	os.Exit(demo.ExitCode(err))
}
