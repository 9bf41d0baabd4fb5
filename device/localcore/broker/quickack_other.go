//go:build !linux

package broker

import "net"

func setQuickACK(net.Conn) {}
