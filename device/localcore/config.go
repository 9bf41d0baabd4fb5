package localcore

import (
	"cmp"
	"context"
	"crypto/tls"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"regexp"
	"slices"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/hook/payload"
)

// Names of what [Start] creates from [Config].Templates.
const (
	TemplateName       = "GoFleetProvisioningTemplate"
	ClaimPolicyName    = "GoIoTFleetProvisioningPolicy"
	DevicePolicyName   = "GoIoTDevicePolicy"
	RotationPolicyName = "GoIoTRotationPolicy" // if the templates have one
	ThingGroupName     = "fleet-provisioning-group"
	ThingTypeName      = "fleety"
)

// A Quotas value says which of AWS's rates hold. The structural limits, such as the length of a
// topic, always hold.
type Quotas string

// The two settings of Quotas.
const (
	QuotasOff Quotas = "off" // no rates; the default
	QuotasAWS Quotas = "aws" // the rates that AWS documents
)

// A SecurityPolicy says which versions of TLS the server speaks. The names are AWS's. Older ones
// are rejected: they exist in some Regions only, with other ciphers on port 443 than on 8883.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/transport-security.html
type SecurityPolicy string

// The security policies that AWS offers everywhere.
const (
	SecurityPolicyTLS13Or12 SecurityPolicy = "IoTSecurityPolicy_TLS13_1_2_2022_10" // TLS 1.2 and 1.3; the default
	SecurityPolicyTLS13     SecurityPolicy = "IoTSecurityPolicy_TLS13_1_3_2022_10" // TLS 1.3 only
	SecurityPolicyTLS12     SecurityPolicy = "IoTSecurityPolicy_TLS12_1_2_2022_10" // TLS 1.2 only
)

// tlsVersions are the least and the greatest version of TLS.
var tlsVersions = map[SecurityPolicy]struct{ least, most uint16 }{
	SecurityPolicyTLS13Or12: {tls.VersionTLS12, tls.VersionTLS13},
	SecurityPolicyTLS13:     {tls.VersionTLS13, tls.VersionTLS13},
	SecurityPolicyTLS12:     {tls.VersionTLS12, tls.VersionTLS12},
}

// Special values of Config.Hook, Config.API and Config.Templates.
const (
	NoHook            = "none"
	NoAPI             = "none"
	EmbeddedTemplates = "embedded" // those of this repository
	NoTemplates       = "none"     // start blank
)

// A Config says what to start. The zero value is usable: a free loopback port, memory only, an
// authority of its own, the template, policies, group and type of this repository, and no hook.
type Config struct {
	Listen     string // the address for devices, with or without ALPN; empty means a free loopback port
	ListenALPN string // the address of one more port that requires ALPN, as AWS's port 443 does; empty means none
	API        string // the address of the control API, plain HTTP; empty means a free loopback port, [NoAPI] none
	NoConsole  bool   // leaves out the console, the page at the API's address
	// UnsafeAllowAnyAddress permits addresses beyond loopback. The control API does not
	// authenticate callers: anyone who reaches it owns the registry.
	UnsafeAllowAnyAddress bool

	// Templates is the directory with fleet_template.json, claim_policy.json, device_policy.json and,
	// if devices may rotate, rotation_policy.json. Empty and [EmbeddedTemplates] mean those of this repository. With
	// [NoTemplates] there is only a claim that may provision with any template; templates, policies
	// and things can then be added through [Server.Registry].
	Templates string
	// FastIssuer has a new certificate authority sign with a key on P-256, where AWS's is RSA: for
	// programs that enroll many devices and don't look at it.
	FastIssuer bool
	// CreateMissing creates the thing type and the groups that a provisioning names, where AWS
	// rejects it because they do not exist: for templates from elsewhere.
	CreateMissing bool
	Hook          string // the executable of the pre-provisioning hook; empty and [NoHook] mean none
	// HookFunc stands in for the hook's executable, and wins over Hook. What it answers after
	// HookTimeout is a denial.
	HookFunc    func(ctx context.Context, r payload.Request) (payload.Response, error)
	HookTimeout time.Duration // bounds one call of the hook; zero means 5 seconds, AWS's own

	// CertificateProvider is the executable of a Lambda function that signs the requests of
	// CreateCertificateFromCsr in fleet provisioning. Empty and [NoHook] mean none: then AWS IoT
	// signs, unless the control API creates a provider.
	CertificateProvider string

	// Functions are the Lambda functions that topic rules and certificate providers can invoke
	// beside the hook, by name. ARN, Region, endpoint and log are set for them.
	Functions map[string]lambdahost.Config

	// Assembly is a folder that cdk synth wrote. What a stack in it would deploy takes the place of
	// Templates and of Hook, which must be empty; account and Region are the stack's. The claim
	// certificates that the stack names live in a real account: [Server.Claim] stands in for them.
	Assembly string
	Stack    string // the stack's name; empty means the only one in Assembly

	// State is the directory that keeps registry, authority, persistent sessions and retained
	// messages. Empty means memory only. It is made if need be.
	State string
	// Credentials is the directory that receives the server's root, the claim's files and
	// device.yaml, a configuration for the device. Empty means that they are not written.
	Credentials string

	Account, Region, Partition string            // defaults: 123456789012, us-east-1 and the Region's
	SecurityPolicy             SecurityPolicy    // default: [SecurityPolicyTLS13Or12]
	Quotas                     Quotas            // default: [QuotasOff]
	AmbiguousBehavior          AmbiguousBehavior // decides what AWS leaves open
	// SessionExpiry is how long a persistent session outlives its connection at most. Zero means 1
	// hour, AWS's default; AWS allows up to 7 days.
	SessionExpiry time.Duration

	Log *slog.Logger     // receives rejections at WARN with their reason, and what happens at INFO; nil means discard
	Now func() time.Time // the clock for certificates and ownership tokens; nil means time.Now

	deployment *deployment // what Assembly or Templates holds
}

// withDefaults fills what is empty.
func (c Config) withDefaults() Config {
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:0")
	c.API = cmp.Or(c.API, "127.0.0.1:0")
	c.Templates = cmp.Or(c.Templates, EmbeddedTemplates)
	c.Account = cmp.Or(c.Account, "123456789012")
	c.Region = cmp.Or(c.Region, "us-east-1")
	c.Partition = cmp.Or(c.Partition, awsiot.PartitionOf(c.Region))
	c.SecurityPolicy = cmp.Or(c.SecurityPolicy, SecurityPolicyTLS13Or12)
	c.Quotas = cmp.Or(c.Quotas, QuotasOff)
	c.HookTimeout = cmp.Or(c.HookTimeout, payload.AnswerWithin)
	c.SessionExpiry = cmp.Or(c.SessionExpiry, time.Hour)
	for _, path := range []*string{&c.Hook, &c.CertificateProvider} {
		if *path == NoHook {
			*path = ""
		}
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

var (
	accountPattern = regexp.MustCompile(`^[0-9]{12}$`)
	regionPattern  = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-[0-9]+$`)
	// functionPattern is that of a name in https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html.
	functionPattern = regexp.MustCompile(`^[a-zA-Z0-9-_]{1,64}$`)
)

// validate reports all that is wrong at once.
func (c Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(accountPattern.MatchString(c.Account), "account %q: an AWS account has 12 digits", c.Account)
	check(regionPattern.MatchString(c.Region), "region %q: must have the form of an AWS Region, such as us-east-1", c.Region)
	check(c.Stack == "" || c.Assembly != "", "stack %s: there is no assembly to find it in", c.Stack)
	check(c.Quotas == QuotasOff || c.Quotas == QuotasAWS, "quotas %q: must be %q or %q", c.Quotas, QuotasAWS, QuotasOff)
	_, known := tlsVersions[c.SecurityPolicy]
	check(known, "security policy %q: must be %s, %s or %s; those that AWS offers in some Regions only are not emulated",
		c.SecurityPolicy, SecurityPolicyTLS13Or12, SecurityPolicyTLS13, SecurityPolicyTLS12)
	check(slices.Contains([]byte{0, 5, 7}, c.AmbiguousBehavior.ConnackOnDeny), "connack on deny %d: must be 5, 7 or 0", c.AmbiguousBehavior.ConnackOnDeny)
	for _, name := range slices.Sorted(maps.Keys(c.Functions)) {
		taken := name == hookFunction && (c.Hook != "" || c.HookFunc != nil) || name == providerName && c.CertificateProvider != ""
		check(functionPattern.MatchString(name), "function %q: a name has 1 to 64 letters, digits, - and _", name)
		check(!taken, "function %s: the emulator's own has this name", name)
	}
	for _, l := range []struct{ name, address string }{{"listen", c.Listen}, {"ALPN listen", c.ListenALPN}, {"api", c.API}} {
		host, _, err := net.SplitHostPort(l.address)
		loopback := err == nil && isLoopback(net.JoinHostPort(host, "0")) // the port may be a name
		switch {
		case l.address == "" || l.address == NoAPI:
		case err != nil:
			check(false, "%s address %q: must be HOST:PORT", l.name, l.address)
		default:
			check(loopback || c.UnsafeAllowAnyAddress, "%s address %q: %w", l.name, l.address, ErrBeyondLoopback)
		}
	}
	return errors.Join(errs...)
}

// ErrBeyondLoopback reports that [Config].UnsafeAllowAnyAddress is missing.
var ErrBeyondLoopback = errors.New("is not a loopback address; listening beyond this machine must be allowed explicitly")

// arn returns the full name of a resource of this account.
func (c Config) arn(resource string) string {
	return "arn:" + c.Partition + ":iot:" + c.Region + ":" + c.Account + ":" + resource
}

// AmbiguousBehavior switches what AWS does not document. The zero value is what
// `iot_core_local help fidelity` describes.
type AmbiguousBehavior struct {
	// ConnackOnDeny answers a rejected CONNECT of MQTT 3.1.1 with this return code, 5 or 7, before
	// closing. Zero closes without an answer (U12).
	ConnackOnDeny   byte
	KeepOpenOnDeny  bool          // leaves an MQTT 5 connection open after a negative PUBACK or SUBACK (U13)
	AllowMissingSNI bool          // admits clients that name no server (U19)
	DisconnectDelay time.Duration // the time between a certificate's leaving ACTIVE and the end of its connections (U22)
}

// An Ambiguity is a question that AWS's documentation leaves open.
type Ambiguity struct {
	// ID is its number, such as U4: U of provisioning and connections, B of the broker, A of the
	// control API, P of policies, T of templates, R of shadows, jobs and rules, C of the
	// credentials provider.
	ID       string `json:"id"`
	Question string `json:"question"`         // what AWS leaves open
	Answer   string `json:"answer"`           // what the emulator does
	Switch   string `json:"switch,omitempty"` // names what changes the answer, if anything does
}

//go:embed ambiguities.json
var ambiguitiesJSON []byte

// Ambiguities returns the questions that AWS leaves open and how the emulator answers each.
// Everything else follows AWS's documentation.
func Ambiguities() []Ambiguity {
	var all []Ambiguity
	if err := json.Unmarshal(ambiguitiesJSON, &all); err != nil {
		panic(err) // a defect of the file
	}
	return all
}
