package config

import (
	"io/fs"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"example.com/fleety/device/awsiot"
)

// A file that the machine keeps from being read may be right: a unit tries again.
func TestWhatTheMachineKeepsFromBeingReadIsNoMisconfiguration(t *testing.T) {
	t.Parallel()
	for number, want := range map[syscall.Errno]awsiot.Class{
		syscall.EACCES: awsiot.Failed, syscall.EPERM: awsiot.Failed, syscall.EIO: awsiot.Failed, syscall.EMFILE: awsiot.Failed,
		syscall.ENFILE: awsiot.Failed, syscall.ENOMEM: awsiot.Failed, syscall.ESTALE: awsiot.Failed, syscall.ETIMEDOUT: awsiot.Failed,
		syscall.ENOENT: awsiot.Misconfigured, syscall.ENOTDIR: awsiot.Misconfigured, syscall.ELOOP: awsiot.Misconfigured,
		syscall.EISDIR: awsiot.Misconfigured, syscall.ENAMETOOLONG: awsiot.Misconfigured, syscall.ENXIO: awsiot.Misconfigured,
	} {
		err := &fs.PathError{Op: "open", Path: "device.yaml", Err: number}
		if got := (Problems{{Machine: isMachine(err)}}).Class(); got != want {
			t.Errorf("%v: %v, want %v", number, got, want)
		}
	}
}

// What is not in the file that config init writes is not found.
func TestExampleHasEveryKey(t *testing.T) {
	for _, k := range keys {
		name := k.name[strings.LastIndexByte(k.name, '.')+1:]
		if !regexp.MustCompile(`\b` + name + `:`).Match(Example) {
			t.Errorf("the example has no %s", k.name)
		}
	}
}
