package localcore_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/hook/payload"
)

// Start an emulator, give a device its claim, and wait for what the device does.
func ExampleStart() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := localcore.Start(ctx, localcore.Config{
		HookFunc: func(context.Context, payload.Request) (payload.Response, error) {
			return payload.Response{AllowProvisioning: true}, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	claim, err := s.Claim().TLS()
	if err != nil {
		log.Fatal(err)
	}
	host, port := s.Endpoint()
	conn, err := tls.Dial("tcp", fmt.Sprintf("%s:%d", host, port), &tls.Config{
		RootCAs: s.RootCAs(), Certificates: []tls.Certificate{*claim},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close() // here the device would speak MQTT

	if _, err := s.Registry().DescribeThing("fleety_2974685"); err != nil {
		fmt.Println("not there yet")
	}
	// Output: not there yet
}

// The second RegisterThing gets no answer, so that the device must time out.
func ExampleFaults_Set() {
	s, err := localcore.Start(context.Background(), localcore.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	s.Faults.Set(func(x localcore.Exchange) localcore.Fault {
		return localcore.Fault{DropReply: x.Operation == awsiot.RegisterThing && x.Number == 2}
	})
}

// A rejection is an event with its reason.
func ExampleServer_AwaitEvent() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := localcore.Start(ctx, localcore.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	host, port := s.Endpoint()
	conn, err := tls.Dial("tcp", fmt.Sprintf("%s:%d", host, port), &tls.Config{RootCAs: s.RootCAs()})
	if err == nil {
		conn.Close() // in TLS 1.3 the client sees it only when it reads
	}
	e, err := s.AwaitEvent(ctx, func(e localcore.Event) bool { return e.Type == localcore.Rejected })
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.Action, "rejected:", e.Reason)
	// Output: tls rejected: tls: client didn't provide a certificate
}
