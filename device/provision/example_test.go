package provision_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// A device gets its identity from the emulator; against AWS only the endpoint, the
// roots and the claim differ. The next run proves it.
func ExampleRun() {
	ctx := context.Background()
	aws, err := localcore.Start(ctx, localcore.Config{Templates: "../../templates", API: localcore.NoAPI, HookFunc: admit})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer aws.Close()
	dir, err := os.MkdirTemp("", "identity")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	store, err := identity.NewStore(identity.Config{SerialNumber: "2974685", Dir: dir})
	if err != nil {
		fmt.Println(err)
		return
	}
	claim, err := aws.Claim().TLS()
	if err != nil {
		fmt.Println(err)
		return
	}
	host, port := aws.Endpoint()
	for range 2 {
		result, err := provision.Run(ctx, provision.Config{
			Store:      store,
			Session:    session.Options{Endpoint: host, Port: port, RootCAs: aws.RootCAs(), Proxy: "direct"},
			Claims:     []*tls.Certificate{claim},
			Template:   localcore.TemplateName,
			Parameters: map[string]string{"serialNumber": "2974685", "deviceLocation": "USA"},
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(result.Identity.Record.ThingName, result.Provisioned)
	}
	// Output:
	// fleety_2974685 true
	// fleety_2974685 false
}
