package awsiot

import (
	"crypto/rand"
	"fmt"
)

// NewUUID returns a random UUID, RFC 9562 version 4.
func NewUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return UUID(b)
}

// UUID returns the UUID, RFC 9562 version 4, of these bytes.
func UUID(b [16]byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
