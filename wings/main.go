// Command wings is the node daemon of Mamba Host.
package main

import (
	"os"

	"github.com/mambahost/mamba/wings/cli"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(cli.Main(os.Args[1:], version)) }
