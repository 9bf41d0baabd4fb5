package tunnel

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// maxUnanswered is how many packets in a row may get no answer, of which each waits twice as long as
// the one before.
const maxUnanswered = 2

// backlogged reports whether something that was sent is not acknowledged yet, although the other
// side answers: what the kernel sends again, and its probes of a closed window. TCP_USER_TIMEOUT
// would end a connection in both cases. See tcp(7).
func backlogged(conn net.Conn) (yes bool) {
	if socket, ok := conn.(*net.TCPConn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { // which fails once it is closed
				queued, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
				info, infoErr := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
				yes = errors.Join(err, infoErr) == nil && queued > 0 && max(info.Retransmits, info.Probes) <= maxUnanswered
			})
		}
	}
	return yes
}
