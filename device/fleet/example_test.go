package fleet_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// Twenty devices enroll at the local emulator.
func ExampleEnroll() {
	ctx := context.Background()
	core, err := localcore.Start(ctx, localcore.Config{Templates: "../../templates", API: localcore.NoAPI, HookFunc: admit})
	if err != nil {
		log.Fatal(err)
	}
	defer core.Close()
	claim, err := core.Claim().TLS()
	if err != nil {
		log.Fatal(err)
	}
	serials, err := fleet.NewSerials("297468", "", 20)
	if err != nil {
		log.Fatal(err)
	}
	host, port := core.Endpoint()
	report, err := fleet.Enroll(ctx, fleet.Config{
		Serials: serials,
		Load:    fleet.Load{Concurrency: 4},
		Device: func(serial string) provision.Config {
			return provision.Config{
				Session:    session.Options{Endpoint: host, Port: port, RootCAs: core.RootCAs()},
				Claims:     []*tls.Certificate{claim},
				Template:   localcore.TemplateName,
				Parameters: map[string]string{"serialNumber": serial, "deviceLocation": "USA"},
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Headline())
	// Output: 20 devices enrolled
}
