// Command serials keeps the list of serial numbers that may come in, which the
// hook asks when the stack was deployed with -c serialRegistry=true. It finds
// credentials and Region as the aws command line does.
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
