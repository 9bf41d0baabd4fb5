// Command producer has programs publish through the agent of a virtual machine until the
// power fails. Its argument is the number of each program's next message: N,N,N. It prints
// each message that the agent has acknowledged. Without the argument it waits until the
// agent has sent everything.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"example.com/fleety/device/agent"
)

func main() {
	ctx := context.Background()
	client := agent.NewClient(os.Getenv("IOT_DEVICE_AGENT_SOCKET"))
	if len(os.Args) < 2 {
		for {
			if s, err := client.Status(ctx); err == nil && s.Connected && s.Outbox.Messages == 0 {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	var producing sync.WaitGroup
	for p, next := range strings.Split(os.Args[1], ",") {
		producing.Go(func() {
			var n int
			if _, err := fmt.Sscan(next, &n); err != nil {
				panic(err)
			}
			for ; ; n++ {
				topic := fmt.Sprintf("p%d/%05d", p, n)
				for client.Publish(ctx, topic, []byte(topic)) != nil {
					time.Sleep(100 * time.Millisecond)
				}
				fmt.Println("GUEST acknowledged", topic)
			}
		})
	}
	producing.Wait()
}
