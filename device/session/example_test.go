package session_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"example.com/fleety/device/session"
)

// A device connects with its certificate and publishes.
func ExampleConnect() {
	ctx := context.Background()
	s, err := session.Connect(ctx, session.Options{
		Endpoint: "abc123-ats.iot.eu-central-1.amazonaws.com",
		ClientID: "fleety_2974685",
		Certificate: func(context.Context) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair("certs/fleety_2974685.certificate.pem", "certs/fleety_2974685.private.key")
			return &pair, err
		},
	})
	if e, ok := errors.AsType[*session.Error](err); ok {
		fmt.Println(e.Stage, e.Class(), e)
		return
	}
	defer s.Close(ctx)
	if err := s.Publish(ctx, "fleet/fleety_2974685", []byte("hello")); errors.Is(err, session.ErrClosedSilently) {
		fmt.Println("the policy probably does not allow this topic")
	}
}
