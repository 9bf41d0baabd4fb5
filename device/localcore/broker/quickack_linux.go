package broker

import (
	"net"
	"syscall"
)

// setQuickACK acknowledges the first segments at once: clients that write in pieces and wait, as
// Nagle's algorithm has them, else lose 40 ms with each.
func setQuickACK(c net.Conn) {
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { // it is only slower without
				_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
			})
		}
	}
}
