package localcore

import (
	"fmt"
	"slices"
	"time"

	"example.com/fleety/device/localcore/template"
)

// AmbiguousBehavior switches what AWS does not document. The zero value is what
// `iot_core_local help fidelity` describes.
type AmbiguousBehavior struct {
	// CheckReceiveOnReplies requires iot:Receive for the direct replies of the
	// provisioning API (U3).
	CheckReceiveOnReplies bool
	// ConnackOnDeny answers a rejected CONNECT of MQTT 3.1.1 with this return
	// code, 5 or 7, before closing. Zero closes without an answer (U12).
	ConnackOnDeny byte
	// KeepOpenOnDeny leaves an MQTT 5 connection open after a negative PUBACK
	// or SUBACK (U13).
	KeepOpenOnDeny bool
	// AllowMissingSNI admits clients that name no server (U19).
	AllowMissingSNI bool
	// DisconnectDelay is the time between a certificate's leaving ACTIVE and
	// the end of its connections (U22).
	DisconnectDelay time.Duration
	// DropThrottled leaves a throttled provisioning request without a reply,
	// where else it is rejected (U23).
	DropThrottled bool
}

// An Ambiguity is a question that AWS's documentation leaves open.
type Ambiguity struct {
	// ID is its number, such as U4: U of provisioning and connections, B of the
	// broker, A of the control API, P of policies, T of templates, R of shadows,
	// jobs and rules, C of the credentials provider.
	ID string `json:"id"`
	// Question is what AWS leaves open.
	Question string `json:"question"`
	// Answer is what the emulator does.
	Answer string `json:"answer"`
	// Switch names what changes the answer, if anything does.
	Switch string `json:"switch,omitempty"`
}

// Ambiguities returns the questions that AWS leaves open and how the emulator
// answers each. Everything else follows AWS's documentation.
func Ambiguities() []Ambiguity {
	all := slices.Clone(ambiguities)
	for i, c := range template.Ambiguities() {
		all = append(all, Ambiguity{ID: fmt.Sprint("T", i+1), Question: c.Question, Answer: c.Answer})
	}
	return all
}

var ambiguities = []Ambiguity{
	{ID: "U1", Question: "error codes of the provisioning API beyond the two that were seen",
		Answer: "the exception names of the HTTPS API without \"Exception\", with their status; AccessDenied (403) for the hook, ResourceNotFound (404) for the template, InvalidCertificateOwnershipToken (400) for any token that does not work"},
	{ID: "U2", Question: "what an ownership token is bound to, and how often it works",
		Answer: "to the claim certificate that got it; once; for one hour; a rejected RegisterThing does not use it up"},
	{ID: "U3", Question: "whether iot:Receive is checked for the direct replies",
		Answer: "no", Switch: "AmbiguousBehavior.CheckReceiveOnReplies"},
	{ID: "U4", Question: "QoS of the replies",
		Answer: "1 if the client subscribed to the reply topic at QoS 1, else 0"},
	{ID: "U5", Question: "default of OverrideSettings",
		Answer: "a value that differs from the existing one is rejected"},
	{ID: "U6", Question: "parameters that the template does not declare, from device or hook",
		Answer: "accepted; they resolve, and the log names them"},
	{ID: "U7", Question: "whether AWS::IoT::Certificate::Id must be declared",
		Answer: "both are accepted"},
	{ID: "U8", Question: "case of the certificate's Status in a template",
		Answer: "ignored"},
	{ID: "U9", Question: "older certificates on a thing that is registered again",
		Answer: "they stay attached"},
	{ID: "U10", Question: "what remains of a RegisterThing that fails half-way",
		Answer: "nothing: all or nothing. AWS may differ"},
	{ID: "U11", Question: "the hook's time-out: code, retries, and whether the token is checked first",
		Answer: "as a denial; one call; the token is checked first", Switch: "Config.HookTimeout"},
	{ID: "U12", Question: "CONNACK of a CONNECT that no policy allows, in MQTT 3.1.1",
		Answer: "none: the connection is closed", Switch: "AmbiguousBehavior.ConnackOnDeny"},
	{ID: "U13", Question: "whether MQTT 5 connections are closed after reason code 0x87",
		Answer: "yes, with DISCONNECT 0x87 after the PUBACK or SUBACK", Switch: "AmbiguousBehavior.KeepOpenOnDeny"},
	{ID: "U14", Question: "policy variables that do not resolve",
		Answer: "the statement does not match"},
	{ID: "U15", Question: "an empty client id in MQTT 3.1.1",
		Answer: "rejected with return code 2"},
	{ID: "U16", Question: "form of the private key, NotBefore, issuing chain",
		Answer: "PKCS #1; the time of issue; an authority of our own under AWS's issuer name"},
	{ID: "U17", Question: "at which step an unknown certificate is rejected",
		Answer: "in the handshake, with TLS alert bad_certificate; a TLS 1.3 client sees it at its first read"},
	{ID: "U18", Question: "pruning of old template versions by CloudFormation, default of Enabled",
		Answer: "does not arise here: the shipped template is enabled, and at five versions the oldest goes"},
	{ID: "U19", Question: "whether SNI is required",
		Answer: "yes", Switch: "AmbiguousBehavior.AllowMissingSNI"},
	{ID: "U20", Question: "how long retained messages are kept",
		Answer: "with a state directory for ever, without one until the server stops"},
	{ID: "U21", Question: "whether a revoked certificate can become active again",
		Answer: "yes"},
	{ID: "U22", Question: "how soon connections end when their certificate leaves ACTIVE",
		Answer: "at once", Switch: "AmbiguousBehavior.DisconnectDelay"},
	{ID: "U23", Question: "answer to a throttled provisioning request",
		Answer: "rejected with Throttling (400, as in AWS's service model), when quotas are on", Switch: "AmbiguousBehavior.DropThrottled"},
	{ID: "U24", Question: "accepted RegisterThing when the template has no thing",
		Answer: "thingName is left out"},
	{ID: "U25", Question: "policy resource of a shared subscription; signature algorithms of a CSR",
		Answer: "topicfilter/$share/GROUP/FILTER, as subscribed; whatever Go verifies"},
	{ID: "U26", Question: "permissions of a claim made by CreateProvisioningClaim",
		Answer: "to connect under any client id, and to use the provisioning topics of its template"},
	{ID: "U27", Question: "rejection of CreateCertificateFromCsr when the certificate provider fails",
		Answer: "InternalFailure (500); the log has the reason"},
	{ID: "U28", Question: "a certificatePem of a certificate provider that has a chain",
		Answer: "accepted, the device's certificate first; the chain is returned to the device, the first certificate registered in mode DEFAULT"},
	{ID: "U29", Question: "just-in-time registration of a certificate that an intermediate CA signed",
		Answer: "works if the client presents the chain up to the registered CA"},
	{ID: "U30", Question: "a just-in-time provisioning that fails",
		Answer: "the certificate stays PENDING_ACTIVATION, and the next connection tries again"},
	{ID: "U31", Question: "times in the event of a just-in-time registration",
		Answer: "milliseconds; certificateRegistrationTimestamp as text"},

	{ID: "B1", Question: "how often a message of QoS 1 that is not acknowledged is sent again",
		Answer: "every 30 seconds within the documented window, under another packet id, and when a session resumes"},
	{ID: "B2", Question: "DISCONNECT of an MQTT 5 client whose packet is over 146 KB: AWS's table has no code for it",
		Answer: "0x95, as MQTT 5 says"},
	{ID: "B3", Question: "whether a rejected PUBLISH of MQTT 5 gets its code in PUBACK or in DISCONNECT",
		Answer: "QoS 1 in both, QoS 0 in DISCONNECT", Switch: "AmbiguousBehavior.KeepOpenOnDeny"},
	{ID: "B4", Question: "which of two values of a quota holds, that of large Regions or of others",
		Answer: "that of the others"},
	{ID: "B5", Question: "when a session ends after its expiry, where AWS may take 30 minutes more",
		Answer: "at once"},
	{ID: "B6", Question: "from when the expiry of a session counts whose broker was killed",
		Answer: "from the restart, if the client was connected; else from its going"},
	{ID: "B7", Question: "topic aliases in messages to the client",
		Answer: "none"},
	{ID: "B8", Question: "UNSUBSCRIBE of a filter that was not subscribed",
		Answer: "success"},
	{ID: "B9", Question: "which client of a shared subscription gets a message",
		Answer: "a random one that is connected; one that is away only if all are"},
	{ID: "B10", Question: "how much is kept for clients that are away or slow",
		Answer: "messages of 64 MiB for one client, 512 MiB for all; retained messages of 256 MiB; sessions without limit"},

	{ID: "A1", Question: "an operation that the control API does not have",
		Answer: "UnknownOperationException (404), and one line in the log"},
	{ID: "A2", Question: "ListThingGroups without recursive",
		Answer: "the whole tree"},
	{ID: "A3", Question: "order of lists",
		Answer: "by name; certificates, which have an order, newest first unless ascendingOrder is set"},
	{ID: "A4", Question: "OverrideSettings FAIL on a thing that has the same value",
		Answer: "rejected: FAIL rejects whenever the thing exists"},
	{ID: "A5", Question: "status of ResourceConflictsException",
		Answer: "409"},
	{ID: "A6", Question: "TestAuthorization with several resources in one AuthInfo",
		Answer: "one result for each resource"},
	{ID: "A7", Question: "times that AWS takes or requires, such as 5 minutes before a deprecated thing type is deleted",
		Answer: "none: a change holds at once"},
	{ID: "A8", Question: "how long the signature of a WebSocket request is valid that names no X-Amz-Expires",
		Answer: "5 minutes; the IAM policies of its credentials are not emulated, they may do everything"},
	{ID: "A9", Question: "the text of a successful SendDirectMessage, and what becomes of an unconfirmed message after the time-out",
		Answer: "OK; it is sent again like every message of QoS 1, as long as the connection lasts"},
	{ID: "A10", Question: "CreateCertificateFromCsr over HTTPS when there is a certificate provider",
		Answer: "signed by AWS IoT: the developer guide names the MQTT API alone"},

	{ID: "P1", Question: "letter case in policies",
		Answer: "ignored in actions, condition keys and variables; kept in operators, resources and values"},
	{ID: "P2", Question: "NotAction and NotResource",
		Answer: "accepted, as in IAM"},
	{ID: "P3", Question: "Version that is missing",
		Answer: "rejected"},
	{ID: "P4", Question: "form of Sid",
		Answer: "letters and digits, and unique, as in IAM"},
	{ID: "P5", Question: "a key that is given twice in an object",
		Answer: "rejected"},
	{ID: "P6", Question: "actions, Regions, accounts and condition keys that do not exist",
		Answer: "accepted, and match nothing"},

	{ID: "R1", Question: "whether a shadow update {\"state\":{}} is accepted",
		Answer: "yes; it makes a new version"},
	{ID: "R2", Question: "shadows of things that are not registered",
		Answer: "they work like any other"},
	{ID: "R3", Question: "keys that an update removes, in update/accepted",
		Answer: "null, as in the request, with a time in the metadata"},
	{ID: "R4", Question: "previous in update/documents of the first update",
		Answer: "null"},
	{ID: "R5", Question: "the name in \"No shadow exists with name\"",
		Answer: "quoted; for the classic shadow the thing's name"},
	{ID: "R31", Question: "text of the shadow error 429",
		Answer: "Too many requests"},
	{ID: "R6", Question: "whether notify is published when an execution goes from QUEUED to IN_PROGRESS",
		Answer: "no, as in AWS's worked example"},
	{ID: "R7", Question: "update of a job execution that has ended",
		Answer: "InvalidStateTransition with the executionState"},
	{ID: "R8", Question: "start-next when an execution is already IN_PROGRESS",
		Answer: "it is returned; its details and its step timer are unchanged"},
	{ID: "R9", Question: "statusDetails in executionState",
		Answer: "when there are any"},
	{ID: "R12", Question: "QoS of the responses to job requests",
		Answer: "as U4"},
	{ID: "R13", Question: "job requests of a thing that is not registered",
		Answer: "empty lists; ResourceNotFound for describing and updating"},
	{ID: "R14", Question: "unknown members in job requests of devices",
		Answer: "ignored"},
	{ID: "R15", Question: "length of clientToken in job requests",
		Answer: "not limited"},
	{ID: "R16", Question: "empty payload on a request topic of jobs",
		Answer: "as {}"},
	{ID: "R17", Question: "whether iot:Receive is checked for the responses to job requests",
		Answer: "as U3", Switch: "AmbiguousBehavior.CheckReceiveOnReplies"},
	{ID: "R18", Question: "describing $next when nothing is pending",
		Answer: "accepted, without execution"},
	{ID: "R19", Question: "whether 20 and 20.0 differ in a shadow's delta",
		Answer: "no: numbers are compared by value"},
	{ID: "R20", Question: "how deeply a shadow may nest: the quota says 8 levels, the error text 6",
		Answer: "8 keys on a path below desired or reported"},
	{ID: "R21", Question: "a section of a shadow whose last key is removed",
		Answer: "it is removed too"},
	{ID: "R22", Question: "execution number of a retry",
		Answer: "the next one"},
	{ID: "R23", Question: "when TerminalStateReached answers a description",
		Answer: "when the execution has ended"},
	{ID: "R24", Question: "the whole that thresholdPercentage of an abort criterion is a part of",
		Answer: "the things that were notified"},
	{ID: "R25", Question: "whether a job for a thing group reaches the things of its child groups",
		Answer: "no"},
	{ID: "R26", Question: "differences of the SQL version 2015-10-08, the default of rules",
		Answer: "evaluated as 2016-03-23"},
	{ID: "R27", Question: "LIKE and IN in the SQL of rules",
		Answer: "as in ANSI SQL; IN also takes an array"},
	{ID: "R28", Question: "name of a selected expression without AS",
		Answer: "rejected when the rule is created, unless it is a path of attributes"},
	{ID: "R29", Question: "a rule that causes itself by republishing",
		Answer: "the eleventh republish action in a row fails"},
	{ID: "R30", Question: "confirmation of HTTP destinations",
		Answer: "none; HTTP actions reach the loopback interface only"},

	{ID: "C1", Question: "error codes of the credentials provider, of which users have recorded status and message",
		Answer: "AccessDeniedException with 403, ResourceNotFoundException with 404; the role itself is not looked for, so no 400"},
	{ID: "C2", Question: "which thing's variables and group policies count for iot:AssumeRoleWithCertificate",
		Answer: "those of the exclusive thing, else of the one that the header x-amzn-iot-thingname names"},

	{ID: "S1", Question: "exception of a parameter of secure tunneling that is not valid",
		Answer: "ValidationException (400)"},
	{ID: "S2", Question: "opening a tunnel to a thing that is not registered",
		Answer: "accepted, for OpenTunnel has no exception for it; the notification is published"},
	{ID: "S3", Question: "QoS of the notification of a tunnel, and whether it is retained",
		Answer: "1, not retained: who is away and has no persistent session misses it"},
	{ID: "S4", Question: "status of a handshake whose access token does not work",
		Answer: "403; 400 if the request is malformed"},
	{ID: "S5", Question: "which of several subprotocols is used",
		Answer: "the newest"},
	{ID: "S6", Question: "messages to a side of a tunnel that is not connected",
		Answer: "they are lost; when that side connects, the other one gets a StreamReset for each stream"},
	{ID: "S7", Question: "connections whose access token is rotated",
		Answer: "they stay until they are replaced"},
	{ID: "S8", Question: "rotating the access token of a closed tunnel",
		Answer: "ResourceNotFoundException"},
	{ID: "S9", Question: "how a connection is ended that sends a message which is not valid",
		Answer: "with WebSocket status 1002, 1003 for text, 1009 for more than 131,076 bytes"},
}
