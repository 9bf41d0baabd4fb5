package localcore

// A Choice is an answer to what AWS does not document.
type Choice struct {
	// ID is the point's number, such as U4.
	ID string `json:"id"`
	// Question is what AWS leaves open.
	Question string `json:"question"`
	// Answer is what the local core does.
	Answer string `json:"answer"`
	// Switch names what changes the answer, if anything does.
	Switch string `json:"switch,omitempty"`
}

// Fidelity returns the points that AWS leaves open and what the local core
// does about each. Everything else follows AWS's documentation.
func Fidelity() []Choice { return append([]Choice(nil), choices...) }

var choices = []Choice{
	{ID: "U1", Question: "error codes of the provisioning API beyond the two that were seen",
		Answer: "the exception names of the HTTPS API without \"Exception\", with their status; AccessDenied (403) for the hook, ResourceNotFound (404) for the template, InvalidCertificateOwnershipToken (400) for any token that does not work"},
	{ID: "U2", Question: "what an ownership token is bound to, and how often it works",
		Answer: "to the claim certificate that got it; once; for one hour; a refused RegisterThing does not use it up"},
	{ID: "U3", Question: "whether iot:Receive is checked for the direct replies",
		Answer: "no", Switch: "Choices.CheckReceiveOnReplies"},
	{ID: "U4", Question: "QoS of the replies",
		Answer: "1 if the client subscribed to the reply topic at QoS 1, else 0"},
	{ID: "U5", Question: "default of OverrideSettings",
		Answer: "a value that differs from the existing one is refused"},
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
		Answer: "as a refusal; one call; the token is checked first", Switch: "Config.HookTimeout"},
	{ID: "U12", Question: "CONNACK of a CONNECT that no policy allows, in MQTT 3.1.1",
		Answer: "none: the connection is closed", Switch: "Choices.ConnackOnDeny"},
	{ID: "U13", Question: "whether MQTT 5 connections are closed after reason code 0x87",
		Answer: "yes, with DISCONNECT 0x87 after the PUBACK or SUBACK", Switch: "Choices.KeepOpenOnDeny"},
	{ID: "U14", Question: "policy variables that do not resolve",
		Answer: "the statement does not match"},
	{ID: "U15", Question: "an empty client id in MQTT 3.1.1",
		Answer: "refused with return code 2"},
	{ID: "U16", Question: "form of the private key, NotBefore, issuing chain",
		Answer: "PKCS #1; the time of issue; an authority of our own under AWS's issuer name"},
	{ID: "U17", Question: "at which step an unknown certificate is refused",
		Answer: "in the handshake, with TLS alert bad_certificate; a TLS 1.3 client sees it at its first read"},
	{ID: "U18", Question: "pruning of old template versions by CloudFormation, default of Enabled",
		Answer: "does not arise here: the shipped template is enabled, and at five versions the oldest goes"},
	{ID: "U19", Question: "whether SNI is required",
		Answer: "yes", Switch: "Choices.AllowMissingSNI"},
	{ID: "U20", Question: "how long retained messages are kept",
		Answer: "with a state directory for ever, without one until the server stops"},
	{ID: "U21", Question: "whether a revoked certificate can become active again",
		Answer: "yes"},
	{ID: "U22", Question: "how soon connections end when their certificate leaves ACTIVE",
		Answer: "at once", Switch: "Choices.DisconnectDelay"},
	{ID: "U23", Question: "answer to a throttled provisioning request",
		Answer: "rejected with Throttling (429), when quotas are on", Switch: "Choices.DropThrottled"},
	{ID: "U24", Question: "accepted RegisterThing when the template has no thing",
		Answer: "thingName is left out"},
	{ID: "U25", Question: "policy resource of a shared subscription; signature algorithms of a CSR",
		Answer: "topicfilter/$share/GROUP/FILTER, as subscribed; whatever Go verifies"},
}
