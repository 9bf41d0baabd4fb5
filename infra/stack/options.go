package stack

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/mail"
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

// Existing says what happens to a thing that has another active certificate.
type Existing string

// What can happen to it.
const (
	RefuseExisting Existing = "refuse" // its device is refused
	AllowExisting  Existing = "allow"  // whoever has a claim certificate can take its name
)

// Options are what the person who deploys decides, as `cdk deploy -c NAME=VALUE`.
type Options struct {
	// Names are those of the resources that are known by name.
	// (name, by default Name; two stacks of one account and Region need two)
	Names Names
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
	// ExistingThings is what the hook does about things in use.
	// (existingThings, by default RefuseExisting)
	ExistingThings Existing
	// SerialRegistry adds a table of the serial numbers that may come in, each
	// once. (serialRegistry, by default false)
	SerialRegistry bool
	// HookConcurrency is how many calls of the hook can run at once, reserved for
	// it. (hookConcurrency, by default 0: as many as the account has left)
	HookConcurrency int
	// XRay traces the hook. (xray, by default false)
	XRay bool
	// AlarmEmail receives the alarms. (alarmEmail, by default empty: nobody does)
	AlarmEmail string
}

// ParseOptions reads the options from a CDK context, where they stand among
// the CDK's own keys. The error names every problem, each with its remedy.
func ParseOptions(context map[string]any) (Options, error) {
	r := optionReader{context: context}
	options := Options{
		Names:             r.names("name"),
		ClaimCertificates: r.certificates("certificateArn"),
		SerialPrefix:      r.serialPrefix("serialPrefix"),
		HookArchitecture:  r.architecture("hookArchitecture"),
		MinimalRole:       r.boolean("minimalRole"),
		ExistingThings:    r.existing("existingThings"),
		SerialRegistry:    r.boolean("serialRegistry"),
		HookConcurrency:   r.concurrency("hookConcurrency"),
		XRay:              r.boolean("xray"),
		AlarmEmail:        r.email("alarmEmail"),
	}
	r.refuseMisspelt("name", "certificateArn", "serialPrefix", "hookArchitecture", "minimalRole",
		"existingThings", "serialRegistry", "hookConcurrency", "xray", "alarmEmail")
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

// namePattern fits the name of a CloudFormation stack and, with its longest
// ending, that of a provisioning template: 36 characters.
var namePattern = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]{0,27}$`)

func (r *optionReader) names(name string) Names {
	stack := cmp.Or(r.text(name), Name)
	if !namePattern.MatchString(stack) {
		r.problem("%s: no stack can have the name %.100q; give 1 to 28 of the characters a-z A-Z 0-9 -, a letter first", name, stack)
	}
	return namesOf(stack)
}

func (r *optionReader) existing(name string) Existing {
	switch e := Existing(r.text(name)); e {
	case "":
		return RefuseExisting
	case RefuseExisting, AllowExisting:
		return e
	default:
		r.problem("%s: %.100q is unknown; give %s or %s", name, e, RefuseExisting, AllowExisting)
		return e
	}
}

func (r *optionReader) concurrency(name string) int {
	text := r.text(name)
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		r.problem("%s: %.100q is not a number of 1 or more", name, text)
	}
	return n
}

func (r *optionReader) email(name string) string {
	text := r.text(name)
	if address, err := mail.ParseAddress(text); text != "" && (err != nil || address.Address != text) {
		r.problem("%s: %.100q is not an e-mail address, as in ops@example.com", name, text)
	}
	return text
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
