// Command serials manages the registry of serial numbers that the hook uses: it
// lists the allowed ones, for a stack that was deployed with -c
// serialRegistry=listed, and releases used ones. It finds credentials and Region
// as the aws command line does.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	command := newCommand(openTable)
	if err := command.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "serials: error:", err)
		os.Exit(1)
	}
}
