// The `vault` command, built from Vault's module.
//
// Vault's own main package can't be built by its path: its go.mod replaces parts of itself by folders that
// the module proxy doesn't serve beside it. The command behind it can. Built with the tag `minimal`, which
// leaves out the plugins of clouds and databases.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:]))
}
