package config

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/osfile"
)

// firmware has the files that boards keep their serial number in. The kernel gives the one of DMI
// to root alone; the packages give it to the group iot_device.
var firmware = map[string]string{
	"dmi":         "/sys/class/dmi/id/product_serial",
	"device-tree": "/sys/firmware/devicetree/base/serial-number", // also /proc/device-tree/serial-number
}

const programTimeout = 30 * time.Second

// readSerialNumber reads the serial number from where serialNumberFrom says. An identity is not
// lost with that place: if it fails and the state directory has the identity of one device, its
// serial number is used, with a warning.
func (c *Config) readSerialNumber(ctx context.Context) Problems {
	rank := func(key string) int { // higher for a stronger source
		switch o := c.origins[key]; {
		case o.Source == c.Path:
			return 1
		case strings.HasPrefix(o.Source, environmentSource):
			return 2
		}
		return 3
	}
	var set []string
	strongest := 0
	for _, s := range [][2]string{
		{"serialNumber", c.SerialNumber}, {"serialNumberFrom", c.SerialNumberFrom.Firmware},
		{"serialNumberFrom.file", c.SerialNumberFrom.File}, {"serialNumberFrom.program", c.SerialNumberFrom.Program},
	} {
		if s[1] != "" {
			set, strongest = append(set, s[0]), max(strongest, rank(s[0]))
		}
	}
	set = slices.DeleteFunc(set, func(key string) bool { return rank(key) < strongest })
	switch {
	case len(set) == 0 || set[0] == "serialNumber" && len(set) == 1:
		return nil // validate reports a missing one
	case len(set) > 1:
		return Problems{c.problem(set[1], fmt.Sprintf("%s and %s are both set", set[0], set[1]), "keep one")}
	}
	key := set[0]
	from, serial, err := c.serialFrom(ctx, key)
	if err == nil {
		err = checkSerialNumber(serial)
	}
	if err != nil {
		if serial = c.onlySerialNumber(); serial == "" {
			p := c.problem(key, fmt.Sprintf("%s: %s: %s", key, from, cause(err)),
				"correct the place, or name another: serialNumberFrom: {file: PATH}, {program: PATH}, dmi or device-tree")
			program := key == "serialNumberFrom.program" // which may fail although the setting is right
			if p.Machine = isMachine(err) || program && !errors.Is(err, fs.ErrNotExist); p.Machine && !program {
				p.Remedy = remedyForFile(err)
			}
			c.SerialNumber = ""
			return Problems{p}
		}
		c.Warnings = append(c.Warnings, fmt.Sprintf("%s: %s: %s; using serial number %s, whose identity is on this device", key, from, cause(err), serial))
	}
	c.SerialNumber, c.origins["serialNumber"] = serial, c.origins[key]
	return nil
}

// serialFrom reads the place of that key, and returns its name too.
func (c *Config) serialFrom(ctx context.Context, key string) (from, serial string, err error) {
	from = c.SerialNumberFrom.File
	var data []byte
	switch key {
	case "serialNumberFrom":
		var known bool
		if from, known = firmware[c.SerialNumberFrom.Firmware]; !known {
			return fmt.Sprintf("%q", c.SerialNumberFrom.Firmware), "", errors.New("there is no such place")
		}
		fallthrough
	case "serialNumberFrom.file":
		data, err = osfile.Read(from, maxFileSize)
	default:
		from = c.SerialNumberFrom.Program
		ctx, cancel := context.WithTimeoutCause(ctx, programTimeout, fmt.Errorf("did not end within %s", programTimeout))
		defer cancel()
		cmd := exec.CommandContext(ctx, from)
		cmd.Path, cmd.Err = from, nil // a path, never looked for in $PATH
		cmd.WaitDelay = time.Second   // a process of its own may keep the pipe open
		var problems head
		cmd.Stdout, cmd.Stderr = (*head)(&data), &problems
		if err = cmd.Run(); errors.Is(err, exec.ErrWaitDelay) {
			err = nil // the program itself has ended well
		} else if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		} else if _, failed := errors.AsType[*exec.ExitError](err); failed {
			err = fmt.Errorf("%w: %.200s", err, awsiot.Printable(strings.TrimSpace(string(problems))))
		}
	}
	return from, strings.Trim(string(data), "\x00 \t\r\n\ufeff"), err // U+FEFF: a byte order mark
}

// A head keeps the first bytes that a program prints, and drops the others.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), maxFileSize-len(*h))]...)
	return len(p), nil
}

// placeholderSerial fits what boards have whose maker has not set a serial number.
var placeholderSerial = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)^(to be filled.*|default([ _-]?string)?|(system|chassis|board|base board)?[ -]?serial([ -]?number)?|not.(specified|applicable|available|settable|provided)|none|n/?a|null|unknown|invalid|empty|o\.?e\.?m\.?|0?123456789(0|abcdef)?)$`)
})

func checkSerialNumber(serial string) error {
	digits := strings.ToLower(strings.NewReplacer("-", "", ":", "", "_", "", ".", "", " ", "").Replace(serial))
	switch {
	case serial == "":
		return errors.New("has no serial number")
	case placeholderSerial().MatchString(serial), strings.Trim(digits, "0") == "", len(digits) > 3 && strings.Trim(digits, digits[:1]) == "":
		return fmt.Errorf("has %q, which many devices have that were given no serial number", serial)
	case len(serial) > maxSerialLength || !awsiot.ThingNames.Valid(serial):
		return fmt.Errorf("has %.100q, which cannot be part of a thing name: a-z A-Z 0-9 : _ -, %d characters at most", serial, maxSerialLength)
	}
	return nil
}

// onlySerialNumber returns the serial number of the one identity that this device has, "" if there
// is none or there are several.
func (c *Config) onlySerialNumber() (serial string) {
	own := c.Identity()
	folder := own.Folder()
	names, _ := fs.Glob(os.DirFS(folder), "*.json") // whose own name may have the characters of a pattern
	for _, name := range names {
		data, err := osfile.Read(filepath.Join(folder, name), maxPEMSize)
		if err != nil {
			continue
		}
		record, err := identity.ParseRecord(data)
		switch {
		case err != nil:
		case serial != "" && serial != record.SerialNumber:
			return ""
		default:
			serial = record.SerialNumber
		}
	}
	return serial
}
