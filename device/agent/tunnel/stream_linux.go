package tunnel

import (
	"net"

	"golang.org/x/sys/unix"
)

// backlogged reports whether something that was sent is not acknowledged yet, although the other
// side answers: not three times in a row did the kernel send it again, or probe a closed window,
// without an answer. TCP_USER_TIMEOUT would end a connection in both cases. See tcp(7).
func backlogged(conn net.Conn) (yes bool) {
	if socket, ok := conn.(*net.TCPConn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { // which fails once it is closed
				queued, _ := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) // 0 with an error
				info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
				yes = err == nil && queued > 0 && max(info.Retransmits, info.Probes) < 3
			})
		}
	}
	return yes
}
