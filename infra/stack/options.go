package stack

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/hook/payload"
)

// An Architecture is an instruction set that Lambda offers, by Lambda's name.
type Architecture string

// Architectures that the hook can run on.
const (
	ARM64  Architecture = "arm64"
	X86_64 Architecture = "x86_64"
)

// Options are what the person who deploys decides, as `cdk deploy -c NAME=VALUE`.
type Options struct {
	// ClaimCertificates get the claim policy: one, or several while claims are
	// rotated. (certificateArn, required, comma-separated)
	ClaimCertificates []Certificate
	// SerialPrefix begins the serial numbers that the hook admits.
	// (serialPrefix, by default payload.SerialPrefix)
	SerialPrefix string
	// HookArchitecture is what the hook runs on. (hookArchitecture, by default ARM64)
	HookArchitecture Architecture
	// MinimalRole leaves the provisioning role with the one managed policy that
	// provisioning needs. (minimalRole, by default false)
	MinimalRole bool
}

// ParseOptions reads the options from a CDK context, where they stand among
// the CDK's own keys. The error names every problem, each with its remedy.
func ParseOptions(context map[string]any) (Options, error) {
	r := optionReader{context: context}
	options := Options{
		ClaimCertificates: r.certificates("certificateArn"),
		SerialPrefix:      r.serialPrefix("serialPrefix"),
		HookArchitecture:  r.architecture("hookArchitecture"),
		MinimalRole:       r.boolean("minimalRole"),
	}
	r.refuseMisspelt("certificateArn", "serialPrefix", "hookArchitecture", "minimalRole")
	return options, errors.Join(r.problems...)
}

// An optionReader takes options from a context and collects what is wrong.
type optionReader struct {
	context  map[string]any
	problems []error
}

func (r *optionReader) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf(format, args...))
}

// text is the option as -c gives it: a string. A cdk.json may hold other types.
func (r *optionReader) text(name string) string {
	value, ok := r.context[name]
	if !ok || value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

func (r *optionReader) certificates(name string) []Certificate {
	certificates, err := parseCertificates(r.text(name))
	if err != nil {
		r.problems = append(r.problems, err)
	}
	return certificates
}

var prefixPattern = regexp.MustCompile(`^[a-zA-Z0-9:_-]+$`)

func (r *optionReader) serialPrefix(name string) string {
	prefix := r.text(name)
	switch {
	case prefix == "":
		return payload.SerialPrefix
	case !prefixPattern.MatchString(prefix), len(prefix) > payload.MaxSerialLength:
		r.problem("%s: no serial number can begin with %.100q; give 1 to %d of the characters a-z A-Z 0-9 : _ -",
			name, prefix, payload.MaxSerialLength)
	}
	return prefix
}

func (r *optionReader) architecture(name string) Architecture {
	switch a := Architecture(r.text(name)); a {
	case "":
		return ARM64
	case ARM64, X86_64:
		return a
	default:
		r.problem("%s: %.100q is unknown; give %s or %s", name, a, ARM64, X86_64)
		return a
	}
}

func (r *optionReader) boolean(name string) bool {
	text := r.text(name)
	if text == "" {
		return false
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		r.problem("%s: %.100q is neither true nor false", name, text)
	}
	return value
}

// refuseMisspelt finds options in the wrong case, which would be overlooked in
// silence otherwise. Other unknown keys may be the CDK's or the user's own.
func (r *optionReader) refuseMisspelt(names ...string) {
	for _, key := range slices.Sorted(maps.Keys(r.context)) {
		for _, name := range names {
			if key != name && strings.EqualFold(key, name) {
				r.problem("%s is spelt %s", key, name)
			}
		}
	}
}
