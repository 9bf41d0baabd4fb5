package broker

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
)

const maxRequest = 64 << 10 // bytes of an HTTP request

// speaksHTTP reports whether the client begins with a GET request. Its first
// byte would be a PUBACK of MQTT, which no client may begin with.
func (c *Conn) speaksHTTP() bool {
	if start, err := c.reader.Peek(1); err != nil || start[0] != 'G' {
		return false
	}
	start, _ := c.reader.Peek(4)
	return bytes.Equal(start, []byte("GET "))
}

// serveHTTP answers one request. The connection ends with the response.
func (b *Broker) serveHTTP(c *Conn) {
	r, err := http.ReadRequest(bufio.NewReader(io.LimitReader(c.reader, maxRequest)))
	if err != nil {
		return
	}
	response := b.config.HTTP(r, c.principal)
	response.ProtoMajor, response.ProtoMinor, response.Close = 1, 1, true
	_ = response.Write(c.net) // the client may be gone
}
