// Command client is a workload and a load source written on go-spiffe and SPIRE's API SDK.
// The interop tests run it against our agent and server, and the benchmark against both
// servers. Each subcommand prints one JSON object a line and nothing else on standard output.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

type command struct {
	usage string
	run   func(ctx context.Context, arguments []string) error
}

var commands = map[string]command{
	"x509":    {"the X.509 source: identities and bundles, once", runX509},
	"watch":   {"X.509 contexts as they come", runWatch},
	"jwt":     {"the JWT source: fetch, then validate here and at the agent", runJWT},
	"bundles": {"X.509 and JWT bundles without an identity's key", runBundles},
	"serve":   {"a mutual TLS server that greets one SPIFFE ID", runServe},
	"call":    {"a mutual TLS client that expects one SPIFFE ID", runCall},
	"attest":  {"attest by join token and call as that agent", runAttest},
	"load":    {"BatchNewX509SVID under load", runLoad},
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	chosen, known := commands[os.Args[1]]
	if !known {
		usage()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := chosen.run(ctx, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: client SUBCOMMAND [flags]")
	for name, each := range commands {
		fmt.Fprintf(os.Stderr, "  %-8s %s\n", name, each.usage)
	}
	os.Exit(2)
}

// emit prints one value as one line.
func emit(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}
