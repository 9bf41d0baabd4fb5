//go:build !failpoints

package identity

func newDisk() disk { return osDisk{} }
