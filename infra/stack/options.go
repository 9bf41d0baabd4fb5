package stack

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/mail"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/hook/payload"
)

// Values of Options.
const (
	ARM64, X86_64 = "arm64", "x86_64" // of HookArchitecture, by Lambda's names

	RefuseExisting = "refuse" // of ExistingThings: the device of a thing that has another active certificate is denied
	AllowExisting  = "allow"  // anyone who has a claim certificate can take its name

	Once       = "once"   // of SerialRegistry: each serial number once
	Listed     = "listed" // those alone that are listed, each once
	NoRegistry = "none"   // any number of times
)

// Options are what the person who deploys decides, as `cdk deploy -c NAME=VALUE`.
// Where a name is not that of the field, or there is a default, it is given.
type Options struct {
	// Names are those of the resources and things that are known by name: name, by default Name,
	// thingPrefix, thingGroup and thingType. Two stacks of one account and Region need two names
	// and two prefixes.
	Names     Names
	Templates string // a folder with documents in place of those of templates/
	// DeviceStatements is a file with a JSON list of policy statements that every device gets
	// besides the device policy.
	DeviceStatements string
	// ClaimCertificates get the claim policy: one, or several while claims are rotated.
	// (certificateArn, required, comma-separated)
	ClaimCertificates []Certificate
	// ClaimClientIDs are the MQTT client ids of claims, with the wildcards * and ?; nil for those of
	// the claim policy, which are claim-* in the shipped one. (comma-separated)
	ClaimClientIDs []string
	// ClaimSourceIPs are the address ranges that claims connect from; empty for any.
	// (claimSourceIp, comma-separated)
	ClaimSourceIPs []string
	SerialPrefix   string // begins the serial numbers that the hook admits; by default payload.SerialPrefix
	SerialRegistry string // how often a serial number is admitted; by default Once
	ExistingThings string // what the hook does about things in use; by default RefuseExisting
	Rotation       bool   // lets a device replace its own certificate; by default true
	// RetireAfter is after how many days, by default 30, a certificate that a device has rotated
	// out is deleted. It is deactivated at once.
	RetireAfter      int
	HookArchitecture string // what the hook runs on; by default ARM64
	// HookConcurrency is how many calls of the hook can run at once, reserved for it; by default 0,
	// as many as the account has left.
	HookConcurrency int
	MinimalRole     bool // leaves the provisioning role with what provisioning needs, on this fleet's names
	XRay            bool // traces the hook
	// ExpectedAdmissions is how many devices are admitted within five minutes when all is well, by
	// default 50. More raise an alarm.
	ExpectedAdmissions int
	AlarmEmail         string // receives the alarms; empty means nobody does
}

// ParseOptions reads the options from a CDK context, where they stand among the CDK's own keys. The
// error names every problem, each with its remedy.
func ParseOptions(context map[string]any) (Options, error) {
	r := optionReader{context: context, known: map[string]bool{}}
	options := Options{
		Names:              r.names("name"),
		Templates:          r.text("templates"),
		DeviceStatements:   r.text("deviceStatements"),
		ClaimCertificates:  r.certificates("certificateArn"),
		ClaimClientIDs:     r.list("claimClientIds", "1 to 128 of the characters a-z A-Z 0-9 : . _ -, and * or ? for any", clientIDPattern.MatchString),
		ClaimSourceIPs:     r.list("claimSourceIp", "an address range, as in 203.0.113.0/24", isAddressRange),
		SerialPrefix:       cmp.Or(r.prefix("serialPrefix", payload.MaxSerialLength), payload.SerialPrefix),
		SerialRegistry:     r.choice("serialRegistry", Once, Listed, NoRegistry),
		ExistingThings:     r.choice("existingThings", RefuseExisting, AllowExisting),
		Rotation:           r.choice("rotation", "true", "false") == "true",
		RetireAfter:        cmp.Or(r.number("retireAfter", 36500), 30),
		HookArchitecture:   r.choice("hookArchitecture", ARM64, X86_64),
		HookConcurrency:    r.number("hookConcurrency", math.MaxInt32),
		MinimalRole:        r.choice("minimalRole", "false", "true") == "true",
		XRay:               r.choice("xray", "false", "true") == "true",
		ExpectedAdmissions: cmp.Or(r.number("expectedAdmissions", math.MaxInt32), 50),
		AlarmEmail:         r.email("alarmEmail"),
	}
	options.Names.ThingPrefix = cmp.Or(r.prefix("thingPrefix", 128-payload.MaxSerialLength), options.Names.ThingPrefix) // thing names have 128
	options.Names.ThingGroup = cmp.Or(r.prefix("thingGroup", 128), options.Names.ThingGroup)
	options.Names.ThingType = cmp.Or(r.prefix("thingType", 128), options.Names.ThingType)
	n, usual := options.Names, defaultNames.ThingPrefix
	if n.Stack != Name && (strings.HasPrefix(n.ThingPrefix, usual) || strings.HasPrefix(usual, n.ThingPrefix)) {
		r.problem("thingPrefix: things of stack %s could have the names of those of %s, whose prefix is %s; give another prefix", n.Stack, Name, usual)
	}
	if fmt.Sprint(context["rotation"]) == "false" && context["retireAfter"] != nil {
		r.problem("retireAfter is of no use with rotation=false; remove one of them")
	}
	if options.Rotation && len(options.ClaimCertificates) > 60 { // Lambda takes 4 KB of variables
		r.problem("certificateArn: there are more than 60 claim certificates; deploy another stack, with another name, for the others")
	}
	r.rejectUnknown()
	return options, errors.Join(r.problems...)
}

// An optionReader takes options from a context and collects what is wrong.
type optionReader struct {
	context  map[string]any
	known    map[string]bool // the options that were read
	problems []error
}

func (r *optionReader) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf(format, args...))
}

// require makes a value that is not ok a problem.
func (r *optionReader) require(ok bool, name, value, want string, args ...any) {
	if !ok {
		r.problem("%s: %.100q is not possible; give %s", name, value, fmt.Sprintf(want, args...))
	}
}

// text is the option as -c gives it: a string. A cdk.json may hold a number, which is read by its
// digits, or a boolean. One without a value, such as of a variable that is not set, is none that was
// left out: it would drop a limit in silence.
func (r *optionReader) text(name string) string {
	r.known[name] = true
	switch value := r.context[name].(type) {
	case nil:
	case string, bool, json.Number:
		text := fmt.Sprint(value)
		if strings.TrimSpace(text) != "" || name == "certificateArn" {
			return text
		}
		r.problem("%s has no value; give one, or leave the option out", name)
	default:
		r.problem("%s: %.100q is neither a string nor a number; write several values as one string, separated by commas", name, fmt.Sprint(value))
	}
	return ""
}

// list is an option of several values, separated by commas, each of which must be ok.
func (r *optionReader) list(name, want string, ok func(value string) bool) (values []string) {
	text := r.text(name)
	if text == "" {
		return nil
	}
	for value := range strings.SplitSeq(text, ",") {
		value = strings.TrimSpace(value)
		r.require(ok(value), name, value, "%s", want)
		values = append(values, value)
	}
	return values
}

// choice is one of the given values; the first is the default.
func (r *optionReader) choice(name string, values ...string) string {
	value, last := cmp.Or(r.text(name), values[0]), len(values)-1
	r.require(slices.Contains(values, value), name, value, "%s or %s", strings.Join(values[:last], ", "), values[last])
	return value
}

// certificates is a list of ARNs, at least one. They must be of one account and Region, because the
// stack is.
func (r *optionReader) certificates(name string) (certificates []Certificate) {
	before := len(r.problems)
	list := r.text(name)
	if strings.TrimSpace(list) == "" {
		if len(r.problems) == before {
			r.problem("%s is missing; %s", name, howToGetOne)
		}
		return nil
	}
	for arn := range strings.SplitSeq(list, ",") {
		arn = strings.TrimSpace(arn)
		m := certificateARN.FindStringSubmatch(arn)
		if m == nil {
			r.problem("%s: %.200q is not the ARN of an AWS IoT certificate, arn:aws:iot:REGION:ACCOUNT:cert/ID "+
				"with 64 lower-case hexadecimal digits as ID; %s", name, arn, howToGetOne)
			continue
		}
		c := Certificate{ARN: m[0], Partition: m[1], Region: m[2], Account: m[3], ID: m[4]}
		certificates = append(certificates, c)
		switch first := certificates[0]; {
		case c.Partition != partitionOf(c.Region):
			r.problem("%s: %s is in partition %s, but Region %s is in %s; copy the ARN as AWS IoT prints it; %s",
				name, arn, c.Partition, c.Region, partitionOf(c.Region), howToGetOne)
		case c.Region != first.Region || c.Account != first.Account:
			r.problem("%s: %s and %s are of different accounts or Regions; "+
				"deploy once for each account and Region, with its own claim certificates", name, first.ARN, c.ARN)
		case slices.Index(certificates, c) < len(certificates)-1:
			r.problem("%s: %s is given twice; give each claim certificate once", name, c.ARN)
		}
	}
	return certificates
}

// namePattern fits the name of a CloudFormation stack and, with its longest ending, that of a
// provisioning template: 36 characters.
var namePattern = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]{0,27}$`)

func (r *optionReader) names(name string) Names {
	stack := cmp.Or(r.text(name), Name)
	r.require(namePattern.MatchString(stack) && stack != "GoIoT", name, stack,
		"1 to 28 of the characters a-z A-Z 0-9 -, a letter first, but not GoIoT, which begins the names of the policies of %s", Name)
	return namesOf(stack)
}

var prefixPattern = regexp.MustCompile(`^[a-zA-Z0-9:_-]*$`)

// prefix is what serial numbers or thing names begin with, or a whole name.
func (r *optionReader) prefix(name string, longest int) string {
	prefix := r.text(name)
	r.require(prefixPattern.MatchString(prefix) && len(prefix) <= longest, name, prefix, "1 to %d of the characters a-z A-Z 0-9 : _ -", longest)
	return prefix
}

var clientIDPattern = regexp.MustCompile(`^[a-zA-Z0-9:._*?-]{1,128}$`)

func isAddressRange(text string) bool {
	_, err := netip.ParsePrefix(text)
	address, _ := netip.ParseAddr(text)
	return err == nil || address.IsValid() && address.Zone() == ""
}

// number is a positive number; 0 if it is not given.
func (r *optionReader) number(name string, most int) int {
	text := r.text(name)
	n, err := strconv.Atoi(text)
	r.require(text == "" || err == nil && n >= 1 && n <= most, name, text, "a number from 1 to %d", most)
	return n
}

func (r *optionReader) email(name string) string {
	text := r.text(name)
	address, err := mail.ParseAddress(text)
	r.require(text == "" || err == nil && address.Address == text, name, text, "an e-mail address, as in ops@example.com")
	return text
}

// rejectUnknown finds keys that are neither options nor the CDK's, which it would ignore in
// silence.
func (r *optionReader) rejectUnknown() {
	ofTheCDK := []string{"acknowledged-issue-numbers", "cli-telemetry", "notices"} // without the usual punctuation
	for _, key := range slices.Sorted(maps.Keys(r.context)) {
		if !r.known[key] && !strings.ContainsAny(key, ":@/") && !slices.Contains(ofTheCDK, key) {
			r.problem("%.100q is not an option; the options are %s", key, strings.Join(slices.Sorted(maps.Keys(r.known)), ", "))
		}
	}
}

// Name is the default stack's.
const Name = "GoFleetProvisioning"

// Names are those that devices, templates/ and people rely on. AWS IoT Core knows these resources
// by them, so they are fixed; every other resource is named by CloudFormation.
type Names struct {
	Stack, Template, ClaimPolicy, DevicePolicy, RotationPolicy, ExtraPolicy, ThingGroup, ThingType string
	// ThingPrefix begins the name of every thing; the serial number follows.
	ThingPrefix string
}

// defaultNames are the ones in templates/ and in the documentation.
var defaultNames = Names{
	Stack:          Name,
	Template:       "GoFleetProvisioningTemplate",
	ClaimPolicy:    "GoIoTFleetProvisioningPolicy",
	DevicePolicy:   "GoIoTDevicePolicy",
	RotationPolicy: "GoIoTRotationPolicy",
	ExtraPolicy:    "GoIoTExtraPolicy",
	ThingGroup:     "fleet-provisioning-group",
	ThingType:      "fleety",
	ThingPrefix:    payload.ThingNamePrefix,
}

// namesOf returns the names of the stack with this name. They begin with it, so that two stacks can
// live in one account and Region and neither's claims reach the other's things: no thing prefix
// begins with another, for a stack's name has no underscore.
func namesOf(stack string) Names {
	if stack == Name {
		return defaultNames
	}
	return Names{
		Stack:          stack,
		Template:       stack + "Template",
		ClaimPolicy:    stack + "ClaimPolicy",
		DevicePolicy:   stack + "DevicePolicy",
		RotationPolicy: stack + "RotationPolicy",
		ExtraPolicy:    stack + "ExtraPolicy",
		ThingGroup:     stack + "Group",
		ThingType:      stack + "Type",
		ThingPrefix:    stack + "_",
	}
}

// howToGetOne ends every error about certificateArn.
const howToGetOne = "scripts/create-keys-and-cert.sh creates a claim certificate and prints its ARN; " +
	"then run: cdk deploy -c certificateArn=ARN"

// A Certificate is a claim certificate, known by its ARN alone:
// arn:PARTITION:iot:REGION:ACCOUNT:cert/ID, where ID is the SHA-256 of the certificate in
// lower-case hexadecimal digits.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-action-resources.html
type Certificate struct {
	ARN, Partition, Region, Account, ID string
}

var certificateARN = regexp.MustCompile(`^arn:(aws[a-z-]*):iot:([a-z]+(?:-[a-z0-9]+)+):([0-9]{12}):cert/([0-9a-f]{64})$`)

// partitionOf is the partition of a Region, by the first letters of its name.
//
// AWS page: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
func partitionOf(region string) string {
	for _, p := range []struct{ regions, partition string }{
		{"cn-", "aws-cn"}, {"us-gov-", "aws-us-gov"}, {"us-iso-", "aws-iso"}, {"us-isob-", "aws-iso-b"},
		{"eu-isoe-", "aws-iso-e"}, {"us-isof-", "aws-iso-f"}, {"eusc-", "aws-eusc"},
	} {
		if strings.HasPrefix(region, p.regions) {
			return p.partition
		}
	}
	return "aws"
}
