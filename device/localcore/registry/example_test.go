package registry_test

import (
	"errors"
	"fmt"

	"example.com/fleety/device/localcore/registry"
)

func ExampleOpen() {
	r, err := registry.Open("", registry.Options{}) // memory only
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	if _, err := r.CreateThing(registry.Thing{Name: "fleety_2974685"}); err != nil {
		fmt.Println(err)
		return
	}
	err = r.AddThingToThingGroup("fleety_2974685", "fleet")
	if rejection, ok := errors.AsType[*registry.Error](err); ok {
		fmt.Println(rejection.Status, rejection)
	}
	// Output: 404 ResourceNotFoundException: Thing group fleet cannot be found.
}
