// Package session is one MQTT 3.1.1 connection to AWS IoT Core: mutual TLS on port 8883, or on port
// 443 with ALPN, directly or through an HTTP proxy. It does not reconnect and does not retry; its
// errors say precisely why an attempt or a session ended, so that its caller can decide.
//
// It knows nothing of provisioning, of files, or of what is in a message.
// Packets are encoded and decoded by paho; its client is not used, since it
// reports neither which packet was left unanswered nor the server's alert.
//
// AWS pages: https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html
// and https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
package session

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	writeTimeout    = 15 * time.Second      // maxRecord bytes
	closeTimeout    = 2 * time.Second       // all of Close
	diagnoseTimeout = time.Second           // how long a failed write waits for the server's reason
	ackDelay        = 10 * time.Millisecond // how long a PUBACK waits for a packet to share a write with
)

// slowest is the slowest link that is reckoned with, in bytes per second.
const slowest = 2 << 10

// maxRecord is what one TLS record holds, in bytes.
const maxRecord = 16 << 10

// A Session is a connection that CONNACK has accepted. Its methods may be called concurrently.
type Session struct {
	o     Options
	conn  *tls.Conn
	meter *meter
	stats Stats // without what is counted from CONNECT on

	writing chan struct{}  // holds a value while packets are written
	running sync.WaitGroup // the reader and the writes; grows only under mu until ended

	present bool // of CONNACK; to be read after Connect

	mu         sync.Mutex
	ended      bool       // no more requests are accepted
	waiting    []*request // sent and not answered, oldest first
	lastID     uint16
	out        []byte // packets that leave with the next write
	asked      bool   // something that must be answered was sent, and nothing has come since
	roundTrips int
	keepAlive  *time.Timer
	pings      []chan struct{} // of the PINGREQs without PINGRESP, oldest first; closed by it
	received   int64           // bytes when PINGREQ was sent, or later

	done chan struct{}
	err  error // why the session ended; to be read after done
}

// A request is a packet that the server must answer.
type request struct {
	stage    Stage
	packet   packets.ControlPacket
	size     int     // of the packet, in bytes
	id       *uint16 // the packet's identifier, 0 for CONNECT
	topics   []string
	answered chan struct{} // closed when the answer has come
	err      error         // why it is not sent, or what the answer says; to be read after answered
}

// Connect opens a session: TCP, TLS, CONNECT, CONNACK. The context governs
// this call alone. The error is an [*Error].
func Connect(ctx context.Context, o Options) (*Session, error) {
	ctx, cancel := o.limit(ctx)
	defer cancel()
	p, err := Prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	return p.Connect(ctx)
}

// open sends CONNECT over the finished handshake and waits for CONNACK.
func (p *Prepared) open(ctx context.Context) (*Session, error) {
	began := time.Now()
	s := &Session{o: p.o, conn: p.conn, meter: p.meter, stats: p.stats, writing: make(chan struct{}, 1), done: make(chan struct{})}
	connect := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	connect.ProtocolName, connect.ProtocolVersion = "MQTT", 4
	connect.CleanSession = !p.o.KeepSession
	connect.ClientIdentifier = p.ClientID
	connect.Keepalive = uint16(s.o.KeepAlive / time.Second)
	s.running.Go(s.read)
	if _, err := s.exchange(ctx, &request{stage: StageConnect, packet: connect, id: new(uint16)}); err != nil {
		s.meter.Close()
		s.running.Wait()
		if e, ok := errors.AsType[*Error](err); ok && e.Stage == StageLost { // before CONNECT was on its way
			e.Stage, e.After = StageConnect, "CONNECT"
		}
		return nil, err
	}
	s.startKeepAlive()
	s.stats.Connect = time.Since(began)
	s.o.Log.DebugContext(ctx, "connected", "endpoint", p.o.address(), "clientId", p.ClientID, "roundTrips", s.Stats().RoundTrips())
	if s.o.OnConnect != nil {
		s.o.OnConnect(s.Stats())
	}
	return s, nil
}

// Subscribe subscribes to the topic filters at QoS 1 in one packet and waits
// for SUBACK. AWS IoT accepts [MaxFilters] at most. The error is an [*Error].
func (s *Session) Subscribe(ctx context.Context, filters ...string) error {
	_, err := s.exchange(ctx, subscribe(filters))
	return err
}

// Unsubscribe ends the subscriptions to the topic filters and waits for
// UNSUBACK. The error is an [*Error].
func (s *Session) Unsubscribe(ctx context.Context, filters ...string) error {
	p := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
	p.Topics = filters
	_, err := s.exchange(ctx, &request{stage: StageUnsubscribe, packet: p, id: &p.MessageID, topics: filters})
	return err
}

// Publish publishes at QoS 1 and waits for PUBACK. When the context ends first, the message may
// have arrived nevertheless. AWS IoT accepts [MaxPayload] bytes at most. The error is an [*Error].
func (s *Session) Publish(ctx context.Context, topic string, payload []byte) error {
	_, err := s.exchange(ctx, publish(topic, payload))
	return err
}

// PublishAll publishes messages at QoS 1, in order and in one write, and waits for their PUBACKs.
// It returns how many of the first ones were acknowledged: all of them unless there is an error,
// which is an [*Error] of the next one. AWS IoT accepts 100 unacknowledged messages at most.
func (s *Session) PublishAll(ctx context.Context, messages ...Message) (acknowledged int, err error) {
	requests := make([]*request, len(messages))
	for i, m := range messages {
		requests[i] = publish(m.Topic, m.Payload)
	}
	return s.exchange(ctx, requests...)
}

// SubscribeAndPublish sends SUBSCRIBE and, without waiting for SUBACK, PUBLISH, and waits for both
// acknowledgements: one round trip less than Subscribe and Publish take.
func (s *Session) SubscribeAndPublish(ctx context.Context, filters []string, topic string, payload []byte) error {
	_, err := s.exchange(ctx, subscribe(filters), publish(topic, payload))
	return err
}

func subscribe(filters []string) *request {
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.Topics, p.Qoss = filters, bytes.Repeat([]byte{1}, len(filters))
	r := &request{stage: StageSubscribe, packet: p, id: &p.MessageID, topics: filters}
	if len(filters) > MaxFilters {
		r.err = fmt.Errorf("%w: %d topic filters in one SUBSCRIBE, %d are allowed", ErrLimit, len(filters), MaxFilters)
	}
	return r
}

func publish(topic string, payload []byte) *request {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos = topic, payload, 1
	r := &request{stage: StagePublish, packet: p, id: &p.MessageID, topics: []string{topic}}
	if len(payload) > MaxPayload {
		r.err = fmt.Errorf("%w: a message of %d bytes, %d are allowed", ErrLimit, len(payload), MaxPayload)
	}
	return r
}

// exchange sends requests in one write and waits until all are answered. It
// returns how many of the first ones were.
func (s *Session) exchange(ctx context.Context, requests ...*request) (answered int, err error) {
	if err := s.Err(); err != nil {
		return 0, err
	}
	for _, r := range requests {
		r.answered = make(chan struct{})
		if r.err != nil {
			return 0, s.fault(r, r.err)
		}
	}
	if err = context.Cause(ctx); err == nil {
		err = s.send(requests)
	}
	if errors.Is(err, ErrNotConnected) {
		<-s.done
		err = cmp.Or(s.err, err)
	}
	if err != nil {
		return 0, s.fault(requests[0], err)
	}
	for i, r := range requests {
		if err := s.await(ctx, r); err != nil {
			return i, s.fault(r, err)
		}
	}
	return len(requests), nil
}

// await waits for the answer to a request. On a slow link it may come behind large messages: when
// AnswerTimeout has passed, only a PINGRESP that comes before it says that it will not come.
func (s *Session) await(ctx context.Context, r *request) error {
	var late <-chan time.Time
	var ponged <-chan struct{}
	if s.o.AnswerTimeout > 0 {
		s.mu.Lock()
		late = time.After(s.o.AnswerTimeout + s.sendTime())
		s.mu.Unlock()
	}
	for {
		select {
		case <-r.answered:
			return r.err
		case <-s.done:
			select {
			case <-r.answered: // the answer was the last thing that came
				return r.err
			default:
			}
			if e, ok := errors.AsType[*Error](s.err); ok {
				return e.Err
			}
			return ErrNotConnected
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late:
			s.mu.Lock()
			ponged = s.ping()
			s.mu.Unlock()
		case <-ponged:
			return timeoutError(fmt.Sprintf("no answer within %v, but one to a later PINGREQ", s.o.AnswerTimeout))
		}
	}
}

// sendTime returns how long what waits for its answer may take to be sent. The caller holds mu.
func (s *Session) sendTime() time.Duration {
	ahead := 0 // bytes
	for _, r := range s.waiting {
		ahead += r.size
	}
	return time.Duration(ahead) * time.Second / slowest
}

// send registers the requests and starts to write them, after what waits to be written.
func (s *Session) send(requests []*request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return ErrNotConnected
	}
	var data bytes.Buffer
	for _, r := range requests {
		if r.stage != StageConnect {
			*r.id = s.nextID()
		}
		before := data.Len()
		if err := r.packet.Write(&data); err != nil {
			return err
		}
		r.size = data.Len() - before
		s.waiting = append(s.waiting, r)
		s.asked = true
	}
	if s.out = append(s.out, data.Bytes()...); len(s.out) > 0 {
		s.running.Go(s.write)
	}
	return nil
}

// nextID returns a packet identifier that no unanswered request has.
func (s *Session) nextID() uint16 {
	for {
		s.lastID++
		used := slices.ContainsFunc(s.waiting, func(r *request) bool { return *r.id == s.lastID })
		if s.lastID != 0 && !used {
			return s.lastID
		}
	}
}

// take removes a request that was answered and returns it, nil if there is
// none. The caller holds mu.
func (s *Session) take(stage Stage, id uint16) *request {
	i := slices.IndexFunc(s.waiting, func(r *request) bool { return r.stage == stage && *r.id == id })
	if i < 0 {
		return nil
	}
	r := s.waiting[i]
	s.waiting = slices.Delete(s.waiting, i, i+1)
	return r
}

// write writes what waits, after what is being written: PUBACKs have to leave in the order of the
// messages [MQTT-4.6.0-2]. It may last as long as the peer reads nothing, up to writeTimeout. An
// error ends the session; the reader may be about to learn why: an alert says more than a broken
// pipe.
func (s *Session) write() {
	s.writing <- struct{}{}
	var err error
	for record := range slices.Chunk(s.takeOut(), maxRecord) {
		s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err = s.conn.Write(record); err != nil {
			break
		}
	}
	<-s.writing
	if err == nil {
		return
	}
	if !isTimeout(err) {
		select {
		case <-s.done:
		case <-time.After(diagnoseTimeout):
		}
	}
	s.finish(s.o.explain(err))
}

// takeOut takes what waits to be written.
func (s *Session) takeOut() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := s.out
	s.out = nil
	return data
}

// startKeepAlive sends a PINGREQ whenever 9/10 of the keep-alive time has passed, and ends the
// session when neither PINGRESP nor anything else comes (MQTT 3.1.1, section 3.1.2.10).
func (s *Session) startKeepAlive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.keepAlive = time.AfterFunc(s.o.pingInterval(), func() {
		s.mu.Lock()
		before := s.received
		s.received = s.meter.in.Load()
		unanswered := len(s.pings) > 0 && s.received == before
		switch {
		case s.ended || unanswered:
		case len(s.pings) == 0:
			s.ping()
		default:
			s.keepAlive.Reset(s.o.pingTimeout())
		}
		s.mu.Unlock()
		if unanswered {
			s.finish(errors.New("no answer to PINGREQ, and nothing else came either"))
		}
	})
}

// ping sends PINGREQ and returns what its PINGRESP closes. On a slow link PINGREQ goes behind what
// waits for its answer, and PINGRESP comes behind other packets. The caller holds mu.
func (s *Session) ping() <-chan struct{} {
	answered := make(chan struct{})
	if !s.ended {
		s.pings = append(s.pings, answered)
		s.out = append(s.out, packets.Pingreq<<4, 0)
		s.running.Go(s.write)
		s.received = s.meter.in.Load()
		s.keepAlive.Reset(s.o.pingTimeout() + s.sendTime())
	}
	return answered
}

// finish ends the session, once; err is nil for Close.
func (s *Session) finish(err error) (first bool) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	s.ended = true
	if s.keepAlive != nil {
		s.keepAlive.Stop()
	}
	s.mu.Unlock()
	if err != nil {
		s.err = s.fault(nil, err)
		s.meter.Close()
	}
	close(s.done)
	return true
}

// fault makes the error of a request, or of a session that ended. The latter
// takes the stage of the oldest unanswered packet, if there is one.
func (s *Session) fault(r *request, err error) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err // why the session ended
	}
	e := &Error{Stage: StageLost, Endpoint: s.o.address(), Address: s.conn.RemoteAddr().String(), Authenticated: true, Err: err}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) > 0 {
		oldest := s.waiting[0]
		e.After = strings.ToUpper(string(oldest.stage))
		if r == nil {
			r = oldest
		}
	}
	if r != nil {
		e.Stage, e.Topics = r.stage, r.topics
	}
	return e
}

// Present reports whether the server has kept the session of an earlier connection:
// its subscriptions are there, and messages for them may have been received before
// Connect returned (MQTT 3.1.1, section 3.2.2.2).
func (s *Session) Present() bool { return s.present }

// Done is closed when the session has ended, for whatever reason.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the session ended: nil while it lasts and after Close, else an [*Error].
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Close sends DISCONNECT and closes the connection. It returns when nothing
// of the session runs any more, after two seconds or the end of the context
// at the latest, except that it waits for OnMessage to return. The error says
// that DISCONNECT could not be sent in time; it can mostly be ignored.
func (s *Session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.meter.Close() })
	var err error
	if s.finish(nil) {
		s.writing <- struct{}{}
		s.meter.hold.Store(true) // DISCONNECT leaves with the alert of the close
		s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err = s.conn.Write(append(s.takeOut(), packets.Disconnect<<4, 0))
		err = cmp.Or(err, s.conn.Close())
		<-s.writing
	}
	s.conn.Close()
	s.running.Wait()
	if !stop() && err != nil {
		return fmt.Errorf("closing the connection to %s: %w", s.o.address(), context.Cause(ctx))
	}
	return nil
}

// Stats returns what has been measured so far.
func (s *Session) Stats() Stats {
	stats := s.stats
	s.mu.Lock()
	stats.MQTT = s.roundTrips
	s.mu.Unlock()
	stats.BytesIn, stats.BytesOut = s.meter.in.Load(), s.meter.out.Load()
	return stats
}

// TLS returns the state of the TLS connection: version, ALPN, the server's chain.
func (s *Session) TLS() tls.ConnectionState { return s.conn.ConnectionState() }

// readBuffer holds the packets that come often. Each connection that waits has one.
const readBuffer = 512

// maxPacket bounds an incoming packet, in bytes. AWS IoT sends 146 KB at most.
const maxPacket = 256 << 10

// read receives packets until the connection ends.
func (s *Session) read() {
	r := bufio.NewReaderSize(s.conn, readBuffer)
	// A peer that speaks something else may never send as much as its first
	// bytes would announce in MQTT.
	first, err := r.Peek(1)
	if err == nil && first[0] != packets.Connack<<4 {
		err = fmt.Errorf("%w: byte %#x instead of CONNACK", ErrProtocol, first[0])
	}
	for err == nil {
		var packet packets.ControlPacket
		if packet, err = readPacket(r); err == nil {
			err = s.receive(packet)
		}
	}
	s.finish(s.o.explain(err))
	if s.o.OnClose != nil {
		s.o.OnClose(s.Stats())
	}
}

// readPacket reads one packet. paho allocates what a packet's head announces,
// so the length is checked first (MQTT 3.1.1, section 2.2).
func readPacket(r *bufio.Reader) (packets.ControlPacket, error) {
	for size := 2; ; size++ {
		head, err := r.Peek(size)
		if err != nil {
			return nil, err
		}
		length, n := binary.Uvarint(head[1:])
		switch {
		case n == 0 && size < 5:
			continue
		case n == 0 || length > maxPacket:
			return nil, fmt.Errorf("%w: packet of more than %d bytes", ErrProtocol, maxPacket)
		}
		packet := make([]byte, size+int(length))
		if _, err := io.ReadFull(r, packet); err != nil {
			return nil, err
		}
		p, err := packets.ReadPacket(bytes.NewReader(packet))
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrProtocol, err) // an EOF of its own, too
		}
		return p, nil
	}
}

// receive handles a packet that came. An error ends the session.
func (s *Session) receive(packet packets.ControlPacket) error {
	if p, ok := packet.(*packets.PublishPacket); ok && p.Qos <= 1 {
		s.receivePublish(p)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countAnswer()
	var r *request // that the packet answers
	switch p := packet.(type) {
	case *packets.ConnackPacket:
		if r = s.take(StageConnect, 0); r == nil {
			break
		}
		if p.ReturnCode != packets.Accepted {
			return &ConnackError{Code: p.ReturnCode}
		}
		s.present = p.SessionPresent
	case *packets.SubackPacket:
		if r = s.take(StageSubscribe, p.MessageID); r == nil {
			break
		}
		if len(p.ReturnCodes) != len(r.topics) {
			return fmt.Errorf("%w: SUBACK with %d codes for %d filters", ErrProtocol, len(p.ReturnCodes), len(r.topics))
		}
		var rejected []string
		for i, code := range p.ReturnCodes {
			if code > 2 {
				rejected = append(rejected, r.topics[i])
			}
		}
		if rejected != nil {
			r.err = &SubackError{Filters: rejected}
		}
	case *packets.UnsubackPacket:
		if r = s.take(StageUnsubscribe, p.MessageID); r == nil {
			return nil
		}
	case *packets.PubackPacket:
		if r = s.take(StagePublish, p.MessageID); r == nil {
			return nil
		}
	case *packets.PingrespPacket:
		if len(s.pings) > 0 {
			close(s.pings[0])
			s.pings = s.pings[1:]
			if len(s.pings) == 0 && !s.ended {
				s.keepAlive.Reset(s.o.pingInterval())
			}
		}
		return nil
	}
	if r == nil {
		return fmt.Errorf("%w: unexpected %T", ErrProtocol, packet)
	}
	close(r.answered)
	return nil
}

// countAnswer counts a round trip when something comes after a request. The caller holds mu.
func (s *Session) countAnswer() {
	if s.asked {
		s.asked = false
		s.roundTrips++
	}
}

// receivePublish hands a message over and acknowledges it, with what is sent next: a device that
// answers a message sends one packet less.
func (s *Session) receivePublish(p *packets.PublishPacket) {
	s.mu.Lock()
	s.countAnswer()
	s.mu.Unlock()
	if s.o.OnMessage != nil {
		s.o.OnMessage(Message{Topic: p.TopicName, Payload: p.Payload})
	}
	if p.Qos == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.out) == 0 {
		time.AfterFunc(ackDelay, func() { _ = s.send(nil) }) // which fails after the session's end
	}
	s.out = append(s.out, packets.Puback<<4, 2, byte(p.MessageID>>8), byte(p.MessageID))
}
