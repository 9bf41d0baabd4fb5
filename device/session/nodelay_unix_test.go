//go:build unix

package session_test

import (
	"net"
	"syscall"
	"testing"

	"example.com/fleety/device/session"
)

// Nagle's algorithm would hold CONNECT back until the end of the handshake is
// acknowledged: a round trip.
func TestNagleIsOff(t *testing.T) {
	s := serve(t, nil, broker(nil))
	o := s.options()
	o.DialContext = nil
	c, err := session.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var value int
	err = raw.Control(func(fd uintptr) {
		value, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_NODELAY)
	})
	if err != nil || value == 0 {
		t.Errorf("TCP_NODELAY is %d (%v)", value, err)
	}
}
