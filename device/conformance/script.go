package conformance

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/awsiot"
)

type script struct {
	run        *run
	vars       map[string]string
	principals map[string]*tls.Certificate
	clients    map[string]*client
	last       answer
	recorded   []string

	tickets     tls.ClientSessionCache
	ca          *x509.Certificate // the last one that was made
	caKey       crypto.Signer
	undos       []undo
	connections []*client
	running     sync.WaitGroup // their readers

	mu         sync.Mutex
	transcript []string // under mu
	secrets    []string // of answers; under mu
}

// A mismatch is what differs from AWS's documentation. Other errors are those of the check itself.
type mismatch struct{ want, got string }

func (m *mismatch) Error() string { return "want " + m.want + ", got " + m.got }

func (s *script) log(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.transcript = append(s.transcript, fmt.Sprintf(format, args...))
}

var variable = regexp.MustCompile(`\{([a-zA-Z][a-zA-Z0-9]*)(!?)\}`)

// fill replaces variables. What is no variable stays: JSON has braces too.
func (s *script) fill(text string) string {
	return variable.ReplaceAllStringFunc(text, func(m string) string {
		name, inString := strings.CutSuffix(m[1:len(m)-1], "!")
		value, ok := s.vars[name]
		switch {
		case ok:
		case slices.Contains([]string{"csr", "csr384", "csr521", "selfSigned", "expired", "newCA", "underCA"}, name):
			value = s.newKey(name)
		default:
			return m
		}
		if inString {
			quoted := show(value)
			value = quoted[1 : len(quoted)-1]
		}
		return value
	})
}

// newKey makes a key, and a certificate signing request or a certificate in PEM form.
func (s *script) newKey(kind string) string {
	curve := cmp.Or(map[string]elliptic.Curve{"csr384": elliptic.P384(), "csr521": elliptic.P521()}[kind], elliptic.P256())
	key, _ := ecdsa.GenerateKey(curve, rand.Reader) // of these curves it does not fail
	block := pem.Block{Type: "CERTIFICATE"}
	subject := pkix.Name{CommonName: s.vars["p"]}
	if strings.HasPrefix(kind, "csr") {
		block.Type = "CERTIFICATE REQUEST"
		block.Bytes, _ = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	} else {
		serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
		c := &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour)}
		issuer, signer := c, crypto.Signer(key)
		switch kind {
		case "expired":
			c.NotAfter = time.Now().Add(-time.Hour)
		case "newCA":
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
			s.ca, s.caKey = c, key
		case "underCA":
			c.Subject.CommonName, issuer, signer = cmp.Or(s.vars["code"], c.Subject.CommonName), s.ca, s.caKey
		}
		block.Bytes, _ = x509.CreateCertificate(rand.Reader, c, issuer, key.Public(), signer)
	}
	s.principals["last"] = &tls.Certificate{PrivateKey: key, Certificate: [][]byte{block.Bytes}}
	return string(pem.EncodeToMemory(&block))
}

// step runs one step. next is the one that follows.
func (s *script) step(ctx context.Context, text, next string) error {
	text = s.fill(text)
	word, rest, _ := strings.Cut(text, " ")
	rest = strings.TrimSpace(rest)
	s.log("%s", text)
	switch word {
	case "principal", "thing":
		name, statements, _ := strings.Cut(rest, " ")
		return s.principal(ctx, name, word == "thing", statements)
	case "tunnels":
		operation, body, _ := strings.Cut(rest, " ")
		return s.call(ctx, word, "POST /#target="+operation+" "+body, strings.HasPrefix(next, "= "))
	case "forget":
		kind, name, _ := strings.Cut(rest, "/")
		s.undos = append(s.undos, s.run.undoOf(kind, name))
		return nil
	case "api", "data", "jobsdata":
		return s.call(ctx, word, rest, strings.HasPrefix(next, "= ") || strings.HasPrefix(next, "record"))
	case "=":
		return s.answered(rest)
	case "let":
		name, value, _ := strings.Cut(rest, " ")
		s.vars[name] = strings.TrimSpace(value)
		return nil
	case "use":
		return s.use(rest)
	case "x509":
		return s.x509(rest)
	case "settle":
		return sleep(ctx, s.run.settle)
	case "record":
		return s.record(ctx, rest)
	}
	if !unicode.IsUpper(rune(word[0])) {
		return fmt.Errorf("there is no step %q", word)
	}
	verb, rest, _ := strings.Cut(rest, " ")
	return s.mqtt(ctx, word, verb, strings.TrimSpace(rest))
}

func sleep(ctx context.Context, d time.Duration) error {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-wait.Done()
	return context.Cause(ctx)
}

// principal makes a certificate with a policy, and a thing for it. What it makes has names in
// variables: of thing T {T}, of its certificate {Tid} and {Tarn}, of its policy {Tpolicy}.
func (s *script) principal(ctx context.Context, name string, thing bool, statements string) error {
	if err := s.call(ctx, "api", `POST /certificates?setAsActive=true {"certificateSigningRequest":`+show(s.newKey("csr"))+`}`, false); err != nil {
		return err
	}
	if err := s.use(name); err != nil {
		return err
	}
	id, arn := strings.Join(valuesOf(s.last.body, "certificateId"), ""), strings.Join(valuesOf(s.last.body, "certificateArn"), "")
	s.vars[name+"id"], s.vars[name+"arn"], s.vars[name] = id, arn, s.vars["p"]+"-"+name
	policy, requests := s.vars["allowAll"], []string{}
	if statements != "" || policy == "" {
		policy = s.vars[name]
		document := `{"Version":"2012-10-17","Statement":[` + statements + `]}`
		requests = append(requests, "POST /policies/"+policy+` {"policyDocument":`+show(document)+`}`)
	}
	s.vars[name+"policy"] = policy
	requests = append(requests, "PUT /target-policies/"+policy+` {"target":"`+arn+`"}`)
	if thing {
		requests = append(requests, "POST /things/"+s.vars[name]+" {}", "PUT /things/"+s.vars[name]+"/principals#principal="+arn)
	}
	for _, request := range requests {
		if err := s.call(ctx, "api", request, false); err != nil {
			return err
		}
	}
	return nil
}

func (s *script) certificate() (*x509.Certificate, error) {
	certificates, err := awsiot.Certificates([]byte(strings.Join(valuesOf(s.last.body, "certificatePem"), "")))
	if err != nil {
		return nil, &mismatch{"a certificate in PEM form", s.last.body}
	}
	return certificates[0], nil
}

// use takes the certificate in the last answer for a client, with the key in the answer or else the
// last one that was made.
func (s *script) use(name string) error {
	c, err := s.certificate()
	if err != nil {
		return err
	}
	cert := &tls.Certificate{Certificate: [][]byte{c.Raw}}
	given := strings.Join(append(valuesOf(s.last.body, "privateKey"), valuesOf(s.last.body, "PrivateKey")...), "")
	if key, err := awsiot.PrivateKey([]byte(given)); err == nil {
		cert.PrivateKey = key
	} else if last := s.principals["last"]; last != nil {
		cert.PrivateKey = last.PrivateKey
	}
	s.principals[name] = cert
	return nil
}

// x509 compares what a certificate that came has in it.
func (s *script) x509(want string) error {
	c, err := s.certificate()
	if err != nil {
		return err
	}
	var extensions []string
	for _, e := range c.Extensions {
		extensions = append(extensions, fmt.Sprint(e.Id, " ", e.Critical))
	}
	s.vars["fingerprint"] = awsiot.CertificateID(c)
	_, chains := c.Verify(x509.VerifyOptions{Roots: s.run.config.Roots})
	got := show(map[string]any{
		"id": s.vars["fingerprint"], "issuer": c.Issuer.String(), "subject": c.Subject.String(), "signature": c.SignatureAlgorithm.String(),
		"notAfter": c.NotAfter, "serialBytes": len(c.SerialNumber.Bytes()), "extensions": extensions, "ca": c.IsCA, "keyUsage": c.KeyUsage,
		"chainsToServer": s.run.config.Roots != nil && chains == nil,
	})
	s.log("< %s", got)
	return s.compare(want, got)
}

// compare compares JSON with a pattern, which captures variables.
func (s *script) compare(want, got string) error {
	if err := (matcher{vars: s.vars}).text(want, got); err != nil {
		return &mismatch{want, err.Error()}
	}
	return nil
}

// call sends a request of the REST API. It must succeed unless its answer is looked at by the next
// step.
func (s *script) call(ctx context.Context, api, request string, looked bool) (err error) {
	method, rest, _ := strings.Cut(request, " ")
	path, body, _ := strings.Cut(rest, " ")
	s.log("> %s %s %s", method, path, body)
	// What an interrupted request made nobody would delete.
	if s.last, err = s.run.request(context.WithoutCancel(ctx), s.run.planes[api], method, path, strings.TrimSpace(body)); err != nil {
		return err
	}
	s.keepSecret(s.last.body)
	s.log("< %s", s.last)
	s.undos = append(s.undos, s.run.undosOf(method, path, s.last)...)
	if strings.Contains(path, "retain=true") {
		s.forgetRetained(strings.TrimPrefix(strings.SplitN(path, "?", 2)[0], "/topics/"))
	}
	if !looked && s.last.status >= 300 {
		return &mismatch{"success of " + method + " " + path, s.last.String()}
	}
	return nil
}

// forgetRetained removes a retained message in the end.
func (s *script) forgetRetained(topic string) {
	s.undos = append(s.undos, undo{"retained message " + topic, func(ctx context.Context) error {
		_, err := s.run.request(ctx, s.run.planes["data"], "POST", "/topics/"+strings.ReplaceAll(topic, "/", "%2F")+"?qos=1&retain=true", "")
		return err
	}})
}

func (s *script) answered(want string) error {
	status, rest, _ := strings.Cut(want, " ")
	rest = strings.TrimSpace(rest)
	isException := rest != "" && rest[0] != '{'
	switch {
	case status != strconv.Itoa(s.last.status), isException && rest != s.last.exception:
		return &mismatch{want, s.last.String()}
	case isException:
		return nil
	}
	return s.compare(rest, s.last.body)
}

// record keeps what an endpoint does where AWS's documentation says nothing.
func (s *script) record(ctx context.Context, rest string) error {
	name, topic, _ := strings.Cut(rest, " ")
	if name == "" {
		last := s.last
		if last.status >= 300 {
			last.body = "" // the text is nobody's promise
		}
		s.recorded = append(s.recorded, last.String())
		return nil
	}
	c := s.clients[name]
	if c == nil {
		return fmt.Errorf("%s never connected", name)
	}
	for {
		packet, err := c.take(ctx, s.run.quiet, func(m map[string]any) bool { return topic == "" || m["topic"] == topic })
		if errors.Is(err, errQuiet) {
			s.recorded = append(s.recorded, "nothing more from "+name)
			return nil
		}
		if err != nil {
			s.recorded = append(s.recorded, "the connection of "+name+" ends")
			return ctx.Err()
		}
		s.seen(packet)
		s.recorded = append(s.recorded, show(readable(packet)))
	}
}

// options cuts KEY=VALUE words off the beginning of text.
func options(text string, names ...string) (map[string]string, string) {
	found := map[string]string{}
	for {
		word, rest, _ := strings.Cut(text, " ")
		name, value, ok := strings.Cut(word, "=")
		if !ok || len(names) > 0 && !slices.Contains(names, name) {
			return found, text
		}
		found[name], text = value, strings.TrimSpace(rest)
	}
}

func (s *script) mqtt(ctx context.Context, name, verb, rest string) error {
	if verb == "connect" || verb == "try-connect" {
		return s.connect(ctx, name, rest, verb == "connect")
	}
	c := s.clients[name]
	if c == nil {
		return fmt.Errorf("%s never connected", name)
	}
	switch verb {
	case "subscribe", "try-subscribe", "unsubscribe":
		return s.subscribe(ctx, c, verb, rest)
	case "publish", "try-publish":
		return s.publish(ctx, c, verb, rest)
	case "disconnect":
		code, _ := strconv.ParseUint(rest, 0, 8) // none is 0
		return c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ReasonCode: byte(code)})
	case "drop":
		return c.conn.Close()
	case "write":
		b, err := hex.DecodeString(strings.ReplaceAll(rest, " ", ""))
		if err != nil {
			return err
		}
		return c.write(b)
	case "hold", "flush":
		return c.hold(verb == "hold")
	case "gets":
		kind, want, _ := strings.Cut(rest, " ")
		return s.gets(ctx, c, kind, strings.TrimSpace(want))
	case "message", "finds":
		topic, want, _ := strings.Cut(rest, " ")
		return s.message(ctx, c, topic, strings.TrimSpace(want), verb == "finds")
	case "nothing":
		packet, err := c.take(ctx, s.run.quiet, onTopic(rest))
		if err == nil {
			return &mismatch{"no message", show(packet)}
		}
		return ctx.Err()
	case "open":
		if err := c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}); err != nil {
			return err
		}
		return s.gets(ctx, c, "pingresp", "")
	case "ack":
		n, err := strconv.ParseUint(rest, 10, 16)
		if err != nil {
			return err
		}
		return c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: c.messageIDs()[n-1]})
	case "resumed":
		if got := fmt.Sprint(c.conn.(*tls.Conn).ConnectionState().DidResume); got != rest {
			return &mismatch{"resumption of the TLS session: " + rest, got}
		}
		return nil
	case "count":
		return s.count(ctx, c, rest)
	case "closed":
		_, err := c.take(ctx, patience, func(map[string]any) bool { return false })
		if errors.Is(err, errQuiet) {
			return &mismatch{"the end of the connection", "an open connection" + c.pending()}
		}
		return ctx.Err()
	}
	return fmt.Errorf("there is no step %q of a client", verb)
}

// message takes the next message on a topic, or the first that is wanted.
func (s *script) message(ctx context.Context, c *client, topic, want string, skip bool) error {
	var last error
	for {
		packet, err := c.take(ctx, patience, onTopic(topic))
		if err != nil {
			return cmp.Or(last, error(&mismatch{"a message on " + topic, err.Error() + c.pending()}))
		}
		payload := s.seen(packet)
		err = (matcher{s.vars, true}).text(want, payload)
		if err == nil {
			s.last = answer{body: payload}
			return nil
		}
		if last = (&mismatch{want, err.Error()}); !skip {
			return last
		}
	}
}

// count compares how many messages a client and others got together.
func (s *script) count(ctx context.Context, c *client, rest string) error {
	words := strings.Fields(rest)
	want, err := strconv.Atoi(words[len(words)-1])
	if err != nil {
		return err
	}
	got := 0
	for deadline := time.Now().Add(patience); got < want && time.Now().Before(deadline); {
		if err := sleep(ctx, s.run.quiet); err != nil {
			return err
		}
		got = len(c.messageIDs())
		for _, other := range words[:len(words)-1] {
			got += len(s.clients[other].messageIDs())
		}
	}
	if got != want {
		return &mismatch{fmt.Sprint(want, " messages"), fmt.Sprint(got)}
	}
	return nil
}

// seen keeps the secrets of a message, and how to delete what a provisioning made. It returns the
// payload.
func (s *script) seen(packet map[string]any) string {
	topic, _ := packet["topic"].(string)
	payload, _ := packet["payload"].(string)
	s.keepSecret(payload)
	switch {
	case strings.HasPrefix(topic, "$aws/certificates/create") && strings.HasSuffix(topic, "/accepted"):
		for _, id := range valuesOf(payload, "certificateId") {
			s.undos = append(s.undos, s.run.undoOf("certificates", id))
		}
	case strings.HasPrefix(topic, "$aws/provisioning-templates/"):
		for _, thing := range valuesOf(payload, "thingName") {
			s.undos = append(s.undos, s.run.undoOf("things", thing))
		}
	}
	return payload
}

func (s *script) gets(ctx context.Context, c *client, kind, want string) error {
	packet, err := c.take(ctx, patience, ofType(kind))
	if err != nil {
		return &mismatch{kind + " " + want, err.Error() + c.pending()}
	}
	if strings.HasPrefix(want, "{") {
		return s.compare(want, show(packet))
	}
	codes := []any{}
	for _, word := range strings.Fields(want) {
		n, err := strconv.ParseUint(word, 0, 8)
		if err != nil {
			return err
		}
		codes = append(codes, number(byte(n)))
	}
	got := packet["codes"]
	if got == nil {
		got = []any{packet["code"]}
	}
	if len(codes) > 0 && show(got) != show(codes) {
		return &mismatch{kind + " " + want, show(packet)}
	}
	return nil
}

// connect dials and sends a CONNECT, which must be accepted if must is set. A new certificate or
// policy takes time on AWS.
func (s *script) connect(ctx context.Context, name, rest string, must bool) error {
	o, _ := options(rest)
	config, err := s.tlsConfig(name, o)
	if err != nil {
		return err
	}
	pk, err := connectPacket(s.vars["p"]+"-"+name, o)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(s.run.settle); ; {
		err = s.connectOnce(ctx, name, config, pk, o)
		if err == nil && must {
			err = s.gets(ctx, s.clients[name], "connack", "0")
		}
		if err == nil || !must || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		if err := sleep(ctx, time.Second+100*time.Millisecond); err != nil { // one CONNECT per second
			return err
		}
	}
}

func (s *script) tlsConfig(name string, o map[string]string) (*tls.Config, error) {
	config := &tls.Config{RootCAs: s.run.config.Roots, ServerName: s.run.host, MinVersion: tls.VersionTLS12}
	if other := o["cert"]; other != "none" {
		cert := s.principals[cmp.Or(other, name)]
		if cert == nil && other != "" {
			return nil, fmt.Errorf("there is no principal %s", other)
		}
		config.Certificates = []tls.Certificate{*cmp.Or(cert, s.run.shared)}
	}
	if o["alpn"] != "" {
		config.NextProtos = []string{o["alpn"]}
	}
	if o["tls"] == "1.2" {
		config.MaxVersion = tls.VersionTLS12
	}
	if o["tickets"] != "" {
		config.ClientSessionCache = s.tickets
	}
	if o["sni"] == "none" { // and then there is no name to verify
		config.ServerName, config.InsecureSkipVerify = "", true
	}
	return config, nil
}

func (s *script) connectOnce(ctx context.Context, name string, config *tls.Config, pk packets.Packet, o map[string]string) error {
	address := s.run.address
	if o["port"] != "" {
		address = net.JoinHostPort(s.run.host, o["port"])
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	conn := tls.Client(raw, config) // a tls.Dialer would name the server by itself
	c := &client{conn: conn, version: 4, mute: o["mute"] != "", changed: make(chan struct{})}
	c.log = func(format string, args ...any) { s.log(name+" "+format, args...) }
	if pk.ProtocolVersion == 5 {
		c.version = 5
	}
	s.clients[name] = c
	if c.end = conn.HandshakeContext(ctx); c.end != nil { // which is part of what is looked at
		c.log("< %v", c.end)
		raw.Close()
		return nil
	}
	s.connections = append(s.connections, c)
	s.running.Go(c.read)
	if o["early"] == "" {
		return c.send(pk)
	}
	// What must wait for CONNACK goes out with CONNECT.
	return errors.Join(c.hold(true), c.send(pk), s.subscribe(ctx, c, "try-subscribe", o["early"]), c.hold(false))
}

func (s *script) subscribe(ctx context.Context, c *client, verb, rest string) error {
	c.id++
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: c.id}
	var codes []string
	for _, filter := range strings.Fields(rest) {
		sub := packets.Subscription{Filter: filter, Qos: 1}
		if i := strings.LastIndex(filter, "@"); i > 0 {
			n, err := strconv.ParseUint(filter[i+1:], 10, 8)
			if err != nil {
				return err
			}
			sub.Filter, sub.Qos = filter[:i], byte(n)
		}
		pk.Filters = append(pk.Filters, sub)
		codes = append(codes, fmt.Sprint(sub.Qos))
	}
	if verb == "unsubscribe" {
		pk.FixedHeader.Type = packets.Unsubscribe
		return c.send(pk)
	}
	if err := c.send(pk); err != nil || verb == "try-subscribe" {
		return err
	}
	return s.gets(ctx, c, "suback", strings.Join(codes, " "))
}

func (s *script) publish(ctx context.Context, c *client, verb, rest string) error {
	o, rest := options(rest, "qos", "retain", "expiry")
	topic, payload, _ := strings.Cut(rest, " ")
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Retain: o["retain"] != ""}, TopicName: topic, Payload: []byte(payload)}
	if raw, ok := strings.CutPrefix(payload, "hex:"); ok {
		var err error
		if pk.Payload, err = hex.DecodeString(raw); err != nil {
			return err
		}
	}
	if qos, err := strconv.ParseUint(o["qos"], 10, 2); err == nil {
		pk.FixedHeader.Qos = byte(qos)
	}
	expiry, _ := strconv.ParseUint(o["expiry"], 10, 32) // none is 0
	pk.Properties.MessageExpiryInterval = uint32(expiry)
	if pk.FixedHeader.Retain {
		s.forgetRetained(topic)
	}
	if pk.FixedHeader.Qos > 0 {
		c.id++
		pk.PacketID = c.id
	}
	if err := c.send(pk); err != nil || verb == "try-publish" || pk.FixedHeader.Qos == 0 {
		return err
	}
	packet, err := c.take(ctx, patience, ofType("puback"))
	if err != nil {
		return &mismatch{"puback", err.Error() + c.pending()}
	}
	if code, _ := packet["code"].(json.Number).Int64(); code >= 0x80 {
		return &mismatch{"a puback that accepts", show(packet)}
	}
	return nil
}
